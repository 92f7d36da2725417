"""Faults of the wire that a real Asterisk shows rarely: lost replies, dying sockets, frames nobody expected."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import time
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import closing, suppress
from typing import Any

import pytest
from aiohttp import WSMsgType

from dialer_engine.ari import (
    Ari,
    AriConfig,
    ChannelDestroyed,
    ChannelDtmfReceived,
    ChannelVarset,
    Connected,
    Dial,
    Lost,
    NotSent,
    Patience,
    StasisStart,
    ToDialplan,
)
from dialer_engine.ari.feed import HEARING
from dialer_engine.ari.rest import NEWCOMERS
from dialer_engine.errors import Rejected, Unavailable
from dialer_engine.simulator import Refused, Simulator
from tests.lab import number
from tests.ports.ari_client import Client, Owner, client, new_id

HASTY = Patience(connect_seconds=0.3, request_seconds=0.3, originate_seconds=0.3, heartbeat_seconds=0.4)
ATTENTIVE = Patience(heartbeat_seconds=0.8, hearing_seconds=0.4)


class Trap(Simulator):
    """A simulator that remembers what it was asked, and says what no Asterisk would."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Mapping[str, Any]]] = []
        self.refused: dict[str, int] = {}
        """Requests whose path, behind the method, ends so are answered by this status."""
        super().__init__(on_request=self._remember)

    def _remember(self, method: str, path: str, asked: Mapping[str, Any]) -> None:
        self.requests.append((method, path, asked))
        for ending, status in self.refused.items():
            if f"{method} {path}".endswith(ending):
                raise Refused(status, "refused by a trap")

    def posts(self, ending: str = "") -> list[tuple[str, str, Mapping[str, Any]]]:
        return [request for request in self.requests if request[0] == "POST" and request[1].endswith(ending)]

    def say(self, frame: str | bytes, app: str) -> None:
        """Any text frame, or any binary one."""
        if isinstance(frame, str):
            self.send(app, frame.encode())
        else:
            self.send(app, frame, WSMsgType.BINARY)

    def allowed(self, app: str) -> list[str]:
        """The types of event that an application has asked for."""
        return [entry["type"] for entry in self.pbx.application(time.time(), app)["events_allowed"]]


@pytest.fixture
async def pbx() -> AsyncIterator[Trap]:
    async with Trap() as trap:
        yield trap


def destroyed(channel_id: str, **more: object) -> str:
    event = {"type": "ChannelDestroyed", "channel": {"id": channel_id}, "cause": 16, "cause_txt": "", **more}
    return json.dumps(event)


# The fate of an originate


async def test_events_may_come_before_the_reply(pbx: Trap) -> None:
    async with client(pbx) as c:
        pbx.faults.reply_seconds = 0.6
        channel_id = new_id()
        arguments = {"endpoint": f"PJSIP/{number.rejects(486)}@carrier", "caller_id": "1"}
        sent = asyncio.create_task(c.ari.originate(channel_id, timeout_seconds=5, **arguments))  # type: ignore[arg-type]
        await c.owner.event(ChannelDestroyed, channel_id)
        assert not sent.done()
        await sent


async def test_a_reply_that_never_comes_is_an_unknown_fate(pbx: Trap) -> None:
    async with client(pbx, patience=HASTY) as c:
        channel_id = new_id()
        pbx.faults.silent.append(channel_id)
        with pytest.raises(Unavailable) as lost:
            await c.ari.originate(channel_id, endpoint="PJSIP/1@carrier", caller_id="1", timeout_seconds=5)
        assert not isinstance(lost.value, NotSent)
        assert c.ari.counts.unknown_fates == 1
        assert len(pbx.posts(channel_id)) == 1


async def test_a_connection_cut_instead_of_the_reply_is_an_unknown_fate(pbx: Trap) -> None:
    """The call was made and rings: sending it again would ring somebody twice."""
    async with client(pbx) as c:
        channel_id = new_id()
        pbx.faults.cut.append(channel_id)
        endpoint = f"PJSIP/{number.rings_out()}@carrier"
        with pytest.raises(Unavailable) as lost:
            await c.ari.originate(channel_id, endpoint=endpoint, caller_id="1", timeout_seconds=5)
        assert not isinstance(lost.value, NotSent)
        assert len(pbx.posts(channel_id)) == 1
        pbx.faults.cut.clear()
        channel = await c.ari.channel(channel_id)
        assert channel is not None and channel.state == "Ringing"


async def test_nobody_sends_a_post_twice() -> None:
    """A server closes a kept connection upon the next request: aiohttp repeats a GET, nobody repeats a POST."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError):
            for answered in (True, False):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
                await reader.readexactly(length)
                seen.append(head.split(b" HTTP")[0])
                if answered:
                    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"value":"1"}')

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    owner = Owner()
    config = AriConfig(f"http://127.0.0.1:{port}", "u", "p", "app")
    async with server, Ari(config, owner.on_event, owner.on_state, patience=HASTY) as ari:
        await ari.play("first", ["sound:beep"], "p")
        with pytest.raises(Unavailable) as lost:
            await ari.play("second", ["sound:beep"], "p")
        assert not isinstance(lost.value, NotSent)
        assert seen == [b"POST /ari/channels/first/play/p", b"POST /ari/channels/second/play/p"]
        for name in ("third", "fourth"):
            assert await ari.get_variable("channel", name) == "1"
        assert seen[2:].count(b"GET /ari/channels/channel/variable?variable=fourth") == 2


async def test_connections_that_are_closed_unanswered_leave_room_for_others() -> None:
    """Asterisk closes what is above its sessionlimit without a word, and aiohttp opens another one by itself."""
    full = True

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            if not full:
                await asyncio.sleep(0.2)
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"value":"1"}')

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    owner = Owner()
    config = AriConfig(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "u", "p", "app")
    async with server, Ari(config, owner.on_event, owner.on_state, patience=HASTY) as ari:
        for _ in range(NEWCOMERS):
            with pytest.raises(Unavailable):
                await ari.get_variable("channel", "name")
        full = False
        asked = [ari.get_variable("channel", "name") for _ in range(NEWCOMERS)]
        assert await asyncio.gather(*asked) == ["1"] * NEWCOMERS


async def test_no_connection_is_certainly_not_sent(pbx: Trap) -> None:
    async with client(pbx, patience=HASTY) as c:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            closed = AriConfig(f"http://127.0.0.1:{taken.getsockname()[1]}", "u", "p", "app")
            async with Ari(closed, c.owner.on_event, c.owner.on_state) as ari:
                with pytest.raises(NotSent, match="no connection"):
                    await ari.play("channel", ["sound:beep"], "play")


async def test_waiting_for_a_free_connection_is_certainly_not_sent(pbx: Trap) -> None:
    """Asterisk hangs and every connection is taken: what is still waiting has not left us."""
    patience = Patience(originating_connections=1, connect_seconds=0.2, originate_seconds=0.6)
    async with client(pbx, patience=patience) as c:
        first, second = new_id(), new_id()
        pbx.faults.silent.append(first)
        hanging = asyncio.create_task(
            c.ari.originate(first, endpoint="PJSIP/1@carrier", caller_id="1", timeout_seconds=5)
        )
        await asyncio.sleep(0.1)
        with pytest.raises(NotSent, match="no connection"):
            await c.ari.originate(second, endpoint="PJSIP/1@carrier", caller_id="1", timeout_seconds=5)
        assert pbx.posts(first)
        assert not pbx.posts(second)
        with pytest.raises(Unavailable) as unknown:
            await hanging
        assert not isinstance(unknown.value, NotSent)


async def test_a_call_begins_although_all_else_waits_for_a_connection(pbx: Trap) -> None:
    """As after a crash with a thousand live calls: all of them have something to ask."""
    patience = Patience(connections=2, request_seconds=1.0)
    async with client(pbx, patience=patience, sources=("endpoint:PJSIP/carrier",)) as c:
        pbx.faults.silent.append("/info")
        talk = [asyncio.create_task(c.ari.info()) for _ in range(20)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(0.5):
            await c.call(number.stays())
        assert len(await asyncio.gather(*talk, return_exceptions=True)) == 20


@pytest.mark.parametrize("fault", ["booting", "password"])
async def test_an_asterisk_that_is_not_ready_has_not_made_the_call(pbx: Trap, fault: str) -> None:
    async with client(pbx) as c:
        if fault == "booting":
            pbx.faults.booting = True
        else:
            pbx.password = "changed"
        with pytest.raises(NotSent, match="503" if fault == "booting" else "401"):
            await c.call(number.stays())


async def test_a_409_that_cannot_be_looked_into_is_an_unknown_fate(pbx: Trap) -> None:
    """Whoever takes it for a call that was not sent calls again somebody who may be rung just now."""
    async with client(pbx) as c:
        channel_id = await c.answered(number.stays(ring=0))
        pbx.refused[f"GET /ari/channels/{channel_id}"] = 503
        with pytest.raises(Unavailable) as unknown:
            await c.ari.originate(channel_id, endpoint="PJSIP/1@carrier", caller_id="1", timeout_seconds=5)
        assert not isinstance(unknown.value, NotSent)


async def test_a_body_longer_than_asterisk_reads_is_not_sent(pbx: Trap) -> None:
    async with client(pbx) as c:
        with pytest.raises(Rejected) as refused:
            await c.call(number.stays(), variables={"ATTR_text": "x" * 41_000})
        assert refused.value.code == 413
        assert not any("/channels/" in path for _, path, _ in pbx.posts())


async def test_an_originate_while_the_socket_is_down_is_not_sent(pbx: Trap) -> None:
    async with client(pbx) as c:
        pbx.faults.refuse_sockets = True
        pbx.close_sockets()
        await c.owner.state(Lost)
        before = len(pbx.posts())
        with pytest.raises(NotSent, match="event socket"):
            await c.call(number.stays())
        with pytest.raises(NotSent):
            await c.ari.create(new_id(), endpoint="PJSIP/1@carrier")
        assert len(pbx.posts()) == before
        assert await c.ari.info()  # other verbs work: calls that ring must be cancelled now


async def test_a_closed_client_answers_as_an_absent_asterisk(pbx: Trap) -> None:
    async with client(pbx) as c:
        ari = c.ari
    with pytest.raises(NotSent):
        await ari.info()
    with pytest.raises(NotSent):
        await ari.originate(new_id(), endpoint="PJSIP/1@carrier", caller_id="1", timeout_seconds=5)


async def test_a_cancelled_originate_stays_cancelled(pbx: Trap) -> None:
    async with client(pbx) as c:
        channel_id = new_id()
        pbx.faults.reply_seconds = 1
        arguments = {"endpoint": f"PJSIP/{number.stays()}@carrier", "caller_id": "1"}
        sent = asyncio.create_task(c.ari.originate(channel_id, timeout_seconds=5, **arguments))  # type: ignore[arg-type]
        await c.owner.event(Dial, channel_id)
        sent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sent


async def test_a_lost_subscription_does_not_hide_that_the_call_was_made(pbx: Trap) -> None:
    pbx.faults.silent.append("/subscription")
    async with client(pbx, patience=HASTY) as c:
        near, far = new_id(), new_id()
        endpoint = f"Local/{number.rejects(486)}@from-internal-status"
        await c.ari.originate(near, endpoint=endpoint, caller_id="1", timeout_seconds=5, other_channel_id=far)
        await c.owner.event(ChannelDestroyed, near)


async def test_every_verb_has_a_deadline(pbx: Trap) -> None:
    async with client(pbx, patience=HASTY) as c:
        pbx.faults.silent.append("")
        verbs = [
            c.ari.channel("x"),
            c.ari.hangup("x"),
            c.ari.play("x", ["sound:beep"], "p"),
            c.ari.stop_playback("p"),
            c.ari.continue_in_dialplan("x", context="c", extension="e"),
            c.ari.set_variables("x", {"ONE": "1"}),
            c.ari.get_variable("x", "ONE"),
            c.ari.subscribe("channel:x"),
            c.ari.info(),
            c.ari.application_channels(),
            c.ari.channels(),
            c.ari.dial("x", timeout_seconds=5),
            c.ari.create("x", endpoint="PJSIP/1@carrier"),
        ]
        async with asyncio.timeout(3):
            ends = await asyncio.gather(*verbs, return_exceptions=True)
        assert {type(end) for end in ends} == {Unavailable}


async def test_an_answer_that_is_no_json_is_no_answer(pbx: Trap) -> None:
    async with client(pbx) as c:
        pbx.faults.garbled.append("/info")
        with pytest.raises(Unavailable, match="cannot be read"):
            await c.ari.info()


async def test_before_22_10_variables_are_set_one_by_one(pbx: Trap) -> None:
    pbx.pbx.version = "20.14.0"
    async with client(pbx) as c:
        channel_id = await c.answered(number.stays(ring=0))
        await c.ari.set_variables(channel_id, {"ONE": "1", "TWO": "2"})
        assert len(pbx.posts("/variable")) == 2
        assert await c.ari.get_variable(channel_id, "TWO") == "2"


# The event socket


@pytest.mark.parametrize("way", ["closed", "aborted", "write timeout"])
async def test_a_lost_socket_comes_back_with_its_filter(pbx: Trap, way: str) -> None:
    async with client(pbx, sources=("endpoint:PJSIP/carrier",)) as c:
        pbx.pbx.filter(time.time(), c.app, {})
        if way == "aborted":
            pbx.cut_connections()
        else:
            pbx.close_sockets(1011 if way == "write timeout" else 1000)
        await c.owner.until(lambda: len(c.owner.states) == 3)
        lost, again = c.owner.states[1:]
        assert isinstance(lost, Lost) and isinstance(again, Connected)
        assert not again.restarted
        assert "ChannelDestroyed" in pbx.allowed(c.app)
        assert len(pbx.posts("/subscription")) == 2
        await c.answered(number.stays(ring=0))


async def test_a_dial_string_that_makes_a_source_of_each_number_leaves_none_behind(pbx: Trap) -> None:
    """A hundred thousand of them would be asked for at every connection, one after the other, before the first call."""
    async with client(pbx) as c:
        for who in ("602000001", "602000002", "602000003"):
            with suppress(Rejected):
                await c.ari.originate(
                    new_id(), endpoint=f"IAX2/carrier/{who}", caller_id="1", timeout_seconds=5
                )
        asked = len(pbx.posts("/subscription"))
        pbx.close_sockets(1000)
        await c.owner.until(lambda: len(c.owner.states) == 3)
        assert c.owner.states[-1] == c.owner.states[0]
        assert len(pbx.posts("/subscription")) == asked


async def test_an_endpoint_may_be_followed_for_its_first_call_while_the_others_are_followed_anew(
    pbx: Trap,
) -> None:
    # They were gone through just then, and the client ended, and the daemon with it.
    async with client(pbx, sources=("endpoint:PJSIP/carrier", "endpoint:PJSIP/nobody")) as c:
        pbx.faults.reply_seconds = 1.0
        first = asyncio.create_task(
            c.ari.originate(new_id(), endpoint="PJSIP/1@nocontact", caller_id="1", timeout_seconds=5)
        )
        await asyncio.sleep(0.05)
        pbx.faults.reply_seconds = 0.6
        pbx.close_sockets(1000)
        with pytest.raises((NotSent, Rejected)):
            await first
        await c.owner.until(lambda: len(c.owner.states) == 3)
        assert isinstance(c.owner.states[-1], Connected)
        assert not c.run.done()


async def test_the_first_reconnection_is_quick_and_the_next_are_not(pbx: Trap) -> None:
    """A socket that is closed as soon as it opens must not make us turn in a circle: 0.1, 0.2, 0.4, 0.8 s."""
    async with client(pbx) as c:
        began = asyncio.get_running_loop().time()
        pbx.close_sockets()
        await c.owner.until(lambda: len(c.owner.states) == 3)
        assert asyncio.get_running_loop().time() - began < 0.35
        pbx.faults.refuse_sockets = True
        opened = pbx.sockets_opened
        pbx.close_sockets()
        await asyncio.sleep(1.2)
        assert 2 <= pbx.sockets_opened - opened <= 3


async def test_an_asterisk_that_comes_late_is_waited_for(pbx: Trap) -> None:
    await pbx.stop()
    owner = Owner()
    config = AriConfig(pbx.url, pbx.username, pbx.password, "app")
    async with Ari(config, owner.on_event, owner.on_state) as ari:
        run = asyncio.create_task(ari.run())
        await owner.state(Lost)
        await pbx.start()
        await owner.state(Connected)
        reasons = [state.reason for state in owner.states if isinstance(state, Lost)]
        assert len(reasons) == len(set(reasons))  # the same reason is not told again and again
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run


async def test_a_wrong_password_is_told_as_such(pbx: Trap) -> None:
    owner = Owner()
    async with Ari(AriConfig(pbx.url, "dialer", "wrong", "app"), owner.on_event, owner.on_state) as ari:
        run = asyncio.create_task(ari.run())
        await owner.state(Lost)
        state = owner.states[0]
        assert isinstance(state, Lost) and "ari.conf" in state.reason
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run


async def test_a_half_open_socket_is_noticed(pbx: Trap) -> None:
    async with client(pbx, patience=HASTY) as c:
        pbx.faults.answer_pings = False
        await c.owner.until(lambda: any(isinstance(state, Lost) for state in c.owner.states), seconds=3)


def lost_and_found(c: Client) -> bool:
    """Connected, deaf, and connected again."""
    told = [state.reason if isinstance(state, Lost) else "" for state in c.owner.states]
    return told == ["", "Asterisk sends our application's events nowhere", ""]


async def test_a_deaf_socket_is_noticed_and_connected_anew(pbx: Trap) -> None:
    pbx.faults.deaf_sockets = 1
    async with client(pbx, patience=ATTENTIVE) as c:
        await c.owner.state(Lost, seconds=0.4 + 1.0)
        await c.owner.until(lambda: lost_and_found(c), seconds=1)
        assert pbx.sockets_opened == 2
        await c.answered(number.stays(ring=0))


async def test_a_socket_that_turns_deaf_is_noticed_at_a_heartbeat(pbx: Trap) -> None:
    async with client(pbx, patience=ATTENTIVE) as c:
        await c.answered(number.stays(ring=0))
        pbx.faults.events_lost = 1.0
        await c.owner.state(Lost, seconds=0.8 + 2 * 0.4 + 1.0)
        assert len(pbx.posts(HEARING)) == 2
        pbx.faults.events_lost = 0.0
        await c.owner.until(lambda: lost_and_found(c), seconds=1)


async def test_an_application_that_is_gone_is_connected_anew(pbx: Trap) -> None:
    pbx.refused[HEARING] = 404
    async with client(pbx, patience=ATTENTIVE) as c:
        await c.owner.state(Lost, seconds=1.0)
        pbx.refused.clear()
        await c.owner.until(lambda: lost_and_found(c), seconds=1)


@pytest.mark.parametrize("fault", [403, 500, "silence"])
async def test_who_may_not_ask_does_not_know(pbx: Trap, fault: int | str) -> None:
    """It is asked again at the next heartbeat."""
    pbx.faults.deaf_sockets = 1
    if isinstance(fault, int):
        pbx.refused[HEARING] = fault
    else:
        pbx.faults.silent.append(HEARING)
    patience = Patience(request_seconds=0.1, heartbeat_seconds=0.6, hearing_seconds=0.4)
    async with client(pbx, patience=patience) as c:
        await asyncio.sleep(1.0)
        assert len(c.owner.states) == 1 and len(pbx.posts(HEARING)) >= 2
        pbx.refused.clear()
        pbx.faults.silent.clear()
        await c.owner.until(lambda: lost_and_found(c), seconds=2)


async def test_a_socket_on_which_anything_comes_is_not_deaf(pbx: Trap) -> None:
    """The echo may be far behind."""
    pbx.faults.events_lost, pbx.faults.event_types = 1.0, ["ChannelUserevent"]
    async with client(pbx, patience=ATTENTIVE) as c:
        for serial in range(18):
            await asyncio.sleep(0.1)
            pbx.say(destroyed("x", serial=serial), c.app)
        assert len(c.owner.states) == 1 and len(pbx.posts(HEARING)) >= 2


async def test_a_held_loop_is_not_taken_for_a_deaf_socket(pbx: Trap) -> None:
    async with client(pbx, patience=Patience(hearing_seconds=0.4)) as c:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            await asyncio.sleep(0.01)
            until = loop.time() + 0.45
            while loop.time() < until:
                pass
        await asyncio.sleep(0.5)
        assert len(c.owner.states) == 1


async def test_a_pbx_that_hangs_after_the_handshake_is_given_up(pbx: Trap) -> None:
    pbx.faults.silent.append("/eventFilter")
    owner = Owner()
    config = AriConfig(pbx.url, pbx.username, pbx.password, "app")
    async with Ari(config, owner.on_event, owner.on_state, patience=HASTY) as ari:
        run = asyncio.create_task(ari.run())
        state = await owner.state(Lost, seconds=3)
        assert isinstance(state, Lost) and "eventFilter" in state.reason
        pbx.faults.silent.clear()
        await owner.state(Connected, seconds=3)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run


async def test_frames_nobody_expects_are_counted(pbx: Trap) -> None:
    async with client(pbx) as c:
        for frame in (
            '{"type": "ChannelDestr',
            "[]",
            "null",
            '{"type": 7}',
            '{"no": "type"}',
            b"\x00binary",
            "",
        ):
            pbx.say(frame, c.app)
        pbx.say('{"type": "ChannelDestroyed", "channel": null}', c.app)
        pbx.say('{"type": "TheWeather", "channel": {"id": "x"}}', c.app)
        for kind in range(100):
            pbx.say(json.dumps({"type": f"T{kind}"}), c.app)
        pbx.say(destroyed("known", type="ChannelDestroyed", invented=[1, {"two": 3}]), c.app)
        await c.owner.event(ChannelDestroyed, "known")
        counts = c.ari.counts
        assert (counts.malformed, counts.events) == (8, 1)
        assert counts.unknown["TheWeather"] == 1
        assert sum(counts.unknown.values()) == 101 and len(counts.unknown) == 65
        assert len(c.owner.events) == 1


async def test_a_name_that_is_no_utf8_does_not_cost_the_event(pbx: Trap) -> None:
    """Callers' names come from outside, and nobody here reads them."""
    async with client(pbx) as c:
        filling = b"\xff\xfe" * 100
        frame = b'{"type":"ChannelDestroyed","cause":16,"channel":{"id":"x","caller":{"name":"%b"}}}' % filling
        pbx.send(c.app, frame)
        await c.owner.event(ChannelDestroyed, "x")


async def test_a_doubled_event_is_handed_on_once(pbx: Trap) -> None:
    """A channel heard through two subscriptions presses every key twice; two true presses differ in their
    time."""
    key = {"type": "ChannelDtmfReceived", "channel": {"id": "x"}, "digit": "5", "duration_ms": 100}
    async with client(pbx) as c:
        for at in ("2026-11-24T15:00:00.000+0000", "2026-11-24T15:00:00.200+0000"):
            for _ in range(2):
                pbx.say(json.dumps({**key, "timestamp": at}), c.app)
        pbx.say(destroyed("x"), c.app)
        await c.owner.event(ChannelDestroyed, "x")
        assert len(c.owner.all(ChannelDtmfReceived, "x")) == 2
        assert c.ari.counts.doubles == 2


async def test_a_dialplan_call_that_cannot_be_followed_is_an_unknown_fate(pbx: Trap) -> None:
    async with client(pbx, patience=HASTY) as c:
        pbx.faults.silent.append("/subscription")
        with pytest.raises(Unavailable) as lost:
            await c.call(number.stays(), to=ToDialplan("from-trunk", "1234"))
        assert not isinstance(lost.value, NotSent)


async def test_a_giant_frame_is_read(pbx: Trap) -> None:
    async with client(pbx) as c:
        pbx.say(destroyed("x", filling="x" * 9_000_000), c.app)
        await c.owner.event(ChannelDestroyed, "x")


async def test_a_flood_does_not_hold_the_loop(pbx: Trap) -> None:
    """Whoever waits for a turn of the loop gets it while many thousand events pour in."""
    async with client(pbx) as c:
        loop = asyncio.get_running_loop()
        flood = asyncio.create_task(_flood(pbx, c.app, 20_000))
        longest = 0.0
        while len(c.owner.events) < 20_000:
            before = loop.time()
            await asyncio.sleep(0)
            longest = max(longest, loop.time() - before)
        await flood
        assert longest < 0.25


async def _flood(pbx: Trap, app: str, count: int) -> None:
    for serial in range(count):
        pbx.say(destroyed("x", filling="x" * 500, serial=serial), app)
        await asyncio.sleep(0)


async def test_a_slow_reader_loses_nothing(pbx: Trap) -> None:
    """A pass that holds the loop for a moment: the events wait in the socket, in order."""
    async with client(pbx) as c:
        flood = asyncio.create_task(_flood(pbx, c.app, 500))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.3
        while loop.time() < until:
            pass
        await flood
        await c.owner.until(lambda: len(c.owner.events) == 500)
        assert c.ari.connected


async def test_varset_comes_when_asked_for(pbx: Trap) -> None:
    async with client(pbx, extra_events=("ChannelVarset",)) as c:
        channel_id = await c.answered(number.stays(ring=0))
        await c.ari.set_variables(channel_id, {"QUEUESTATUS": "TIMEOUT"})

        def told() -> list[tuple[str, str]]:
            return [(event.variable, event.value) for event in c.owner.all(ChannelVarset, channel_id)]

        await c.owner.until(lambda: ("QUEUESTATUS", "TIMEOUT") in told())


async def test_the_agents_leg_is_not_taken_for_the_call(pbx: Trap) -> None:
    """While a caller waits in Queue() Dial events name him as caller; their peer is the agent's leg."""
    async with client(pbx) as c:
        dial = {"type": "Dial", "peer": {"id": "agent"}, "caller": {"id": "x"}, "dialstatus": "ANSWER"}
        pbx.say(json.dumps(dial), c.app)
        told = await c.owner.event(Dial, "agent")
        assert told.caller_channel_id == "x"
        assert not c.owner.all(Dial, "x")


async def test_what_an_owner_raises_ends_the_client(pbx: Trap) -> None:
    """A fault of ours must be loud; a daemon that hears nothing and goes on would be worse."""
    owner = Owner()

    def broken(_: object) -> None:
        raise ValueError("a fault of the owner")

    config = AriConfig(pbx.url, pbx.username, pbx.password, "app")
    async with Ari(config, broken, owner.on_state) as ari:
        run = asyncio.create_task(ari.run())
        await owner.state(Connected)
        pbx.say(destroyed("x"), "app")
        with pytest.raises(ValueError, match="a fault of the owner"):
            await asyncio.wait_for(run, 5)
        assert not ari.connected


async def test_a_cancelled_client_leaves_nothing_behind(pbx: Trap) -> None:
    async with client(pbx) as c:
        await c.answered(number.stays(ring=0))
        gone = weakref.ref(c.ari)
        tasks = len(asyncio.all_tasks())
    del c
    gc.collect()
    assert gone() is None
    assert len(asyncio.all_tasks()) < tasks


def test_the_password_is_never_shown() -> None:
    assert "hush" not in repr(AriConfig("http://pbx", "u", "hush", "app"))


def test_events_are_light() -> None:
    """No cycles, hence nothing for the collector to visit."""
    event = StasisStart(channel=Dial(peer=None).peer)  # type: ignore[arg-type]
    assert not gc.is_tracked(event)
