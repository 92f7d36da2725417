"""The defects of panoramisk 1.4, each with the test that it does not reach us (docs/decisions/0006)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panoramisk.message import Message
from structlog.testing import capture_logs

from dialer_engine.ami.wire import LINE_BYTES, MESSAGE_BYTES, MESSAGE_LINES, Wire
from dialer_engine.errors import Rejected, Unavailable
from tests.ports.ami_server import (
    BANNER,
    GREEN,
    HASTY,
    AmiServer,
    Listener,
    event,
    listening,
    member,
    member_event,
    serving,
    success,
)

WANTED = frozenset({b"QueueMemberStatus", b"UserEvent", b"Shutdown", b"QueueParams", b"QueueStatusComplete"})


class Transport(asyncio.Transport):
    """Takes what is written to it, and remembers whether it may read."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self._is_reading = True
        self.reads_on = asyncio.Event()
        self.is_aborted = False

    def write(self, data: object) -> None:
        self.written += data  # type: ignore[operator]

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        self.reads_on.set()

    def is_reading(self) -> bool:
        return self._is_reading

    def abort(self) -> None:
        self.is_aborted = True


class Line:
    """A wire without a network."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.nonsense: list[tuple[str, str]] = []
        self.counts: Counter[str] = Counter()
        self.transport = Transport()
        self.wire = Wire(
            WANTED, hear=self.heard.append, nonsense=lambda *why: self.nonsense.append(why), count=self.counts
        )
        self.wire.connection_made(self.transport)

    async def receive(
        self, pieces: Sequence[bytes], *, then: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """And handle it, to the end of the wire."""
        listens = asyncio.create_task(self.wire.listen())
        for piece in pieces:
            self.wire.data_received(piece)
            await asyncio.sleep(0)
        if then:
            await then()
        self.wire.connection_lost(None)
        with pytest.raises(Unavailable):
            await listens

    @property
    def names(self) -> list[str]:
        return [message.membername for message in self.heard]


async def test_slow_events_unwanted_ones_are_dropped_before_parsing() -> None:
    line = Line()
    await line.receive([BANNER, event("VarSet", Channel="PJSIP/1") * 500 + event("QueueMemberStatus", A=1)])
    assert (line.counts["dropped"], line.counts["parsed"], len(line.heard)) == (500, 1, 1)


TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\x85\u2028\u2029"), max_size=9
)


@given(
    names=st.lists(st.sampled_from(["Jiří", "", "Žluťoučký kůň", "日本語", "🎧"]) | TEXT, max_size=5),
    cuts=st.lists(st.integers(1, 400), max_size=60),
)
def test_decoding_each_chunk_any_split_gives_the_same_messages(names: list[str], cuts: list[int]) -> None:
    data = BANNER + b"".join(
        event("QueueMemberStatus", MemberName=name, Last=".") + event("Newchannel", X=name) for name in names
    )
    pieces, rest = [], data
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]

    async def heard() -> list[str]:
        line = Line()
        await line.receive([*pieces, rest])
        assert line.counts["dropped"] == len(names)
        return line.names

    assert [name.strip() for name in asyncio.run(heard())] == [name.strip() for name in names]


async def test_decoding_even_byte_for_byte() -> None:
    line = Line()
    data = BANNER + event("QueueMemberStatus", MemberName="Jiří") * 2
    await line.receive([bytes([byte]) for byte in data])
    assert line.names == ["Jiří", "Jiří"]


async def test_replays_nothing_is_sent_again_after_a_reconnect() -> None:
    async with serving(AmiServer()) as server:
        server.unanswered.add("UserEvent")
        async with listening(Listener(server.port), exact=False) as listener:
            await listener.until(lambda: "UserEvent" in server.names())
            first = server.asked[-1]
            server.unanswered.clear()
            server.cut()
            await listener.exact()
            assert server.connections == 2
            assert sum(headers["ActionID"] == first["ActionID"] for headers in server.asked) == 1
            assert [
                headers["ActionID"] for headers in server.asked if headers.get("Fence") == first["Fence"]
            ] == [first["ActionID"]]


@pytest.mark.parametrize("rights", [{"system"}, set(), {"md5"}, {"md5", "system"}])
async def test_fully_booted_login_completes_with_and_without_it(rights: set[str]) -> None:
    server = AmiServer(rights={*rights, "user", "hears user", "config"})
    async with serving(server), listening(Listener(server.port)):
        (login,) = (headers for headers in server.asked if headers["Action"] == "Login")
        assert ("Secret" in login) is ("md5" not in rights)


async def test_ping_unanswered_a_silent_server_is_left_within_the_deadline() -> None:
    async with serving(AmiServer()) as server, listening(Listener(server.port)) as listener:
        began = time.monotonic()
        server.unanswered.add("Ping")
        await listener.until(lambda: not listener.is_exact)
        assert 0.2 < time.monotonic() - began < 2 * (HASTY.silence_seconds + HASTY.ping_seconds)
        server.unanswered.clear()
        await listener.exact()


async def test_no_time_out_an_unanswered_action_fails_and_leaves_no_entry() -> None:
    line = Line()
    with pytest.raises(Unavailable, match=r"no answer to Ping for 0\.01 s"):
        await line.wire.ask("Ping", seconds=0.01)
    assert line.wire.responses == {}
    assert line.transport.written.startswith(b"Action: Ping\r\nActionID: ")


async def test_no_time_out_a_cancelled_action_leaves_no_entry() -> None:
    line = Line()
    ask = asyncio.create_task(line.wire.ask("Ping", seconds=5))
    await asyncio.sleep(0)
    ask.cancel()
    await asyncio.wait([ask])
    assert line.wire.responses == {}
    await line.receive([BANNER])


async def test_no_time_out_actions_end_with_the_connection() -> None:
    line = Line()
    ask = asyncio.create_task(line.wire.ask("Ping", seconds=5))
    await asyncio.sleep(0)
    await line.receive([BANNER, event("Shutdown", Restart="False")])
    with pytest.raises(Unavailable, match="Asterisk shuts down"):
        await ask
    with pytest.raises(Unavailable, match="Asterisk shuts down"):
        await line.wire.ask("Ping", seconds=5)
    assert line.transport.is_aborted


def garbles(server: AmiServer) -> None:
    server.banner = b"220 mail.example.com ESMTP\r\n"


def ends_nowhere(server: AmiServer) -> None:
    server.banner = BANNER + b"Event: QueueMemberStatus\r\n" + b"A: b\r\n" * (MESSAGE_BYTES // 5)


def refuses_the_login(server: AmiServer) -> None:
    server.secret = "another"


def says_nothing_at_all(server: AmiServer) -> None:
    server.banner = b""


def refuses_the_list(server: AmiServer) -> None:
    server.answers["QueueStatus"] = lambda headers: member_event()


def never_ends_the_list(server: AmiServer) -> None:
    server.answers["QueueStatus"] = lambda headers: success(headers["ActionID"], EventList="start")


def forgets_the_list(server: AmiServer) -> None:
    server.answers["QueueStatus"] = lambda headers: success(headers["ActionID"], Message="Queue status")


def gives_up_the_list(server: AmiServer) -> None:
    server.answers["QueueStatus"] = lambda headers: (
        success(headers["ActionID"], EventList="start")
        + event("QueueStatusComplete", ActionID=headers["ActionID"], EventList="cancelled")
    )


def lists_a_nameless_queue(server: AmiServer) -> None:
    server.answers["QueueStatus"] = lambda headers: (
        success(headers["ActionID"], EventList="start") + event("QueueParams", ActionID=headers["ActionID"])
    )


@pytest.mark.parametrize(
    "fault",
    [
        garbles,
        ends_nowhere,
        refuses_the_login,
        says_nothing_at_all,
        refuses_the_list,
        never_ends_the_list,
        forgets_the_list,
        gives_up_the_list,
        lists_a_nameless_queue,
    ],
)
async def test_reconnects_after_every_kind_of_failure(fault: Callable[[AmiServer], None]) -> None:
    hasty = replace(HASTY, connect_seconds=0.2, action_seconds=0.2, silence_seconds=0.2, snapshot_seconds=0.2)
    async with serving(AmiServer()) as server:
        fault(server)
        async with listening(Listener(server.port, patience=hasty), exact=False) as listener:
            await listener.until(lambda: server.connections > 2)
            assert not listener.is_exact
            server.banner, server.secret = BANNER, "secret"
            server.answers.clear()
            await listener.exact()


async def test_reconnects_when_nobody_listens_there() -> None:
    server = AmiServer()
    async with serving(server):
        pass
    async with listening(Listener(server.port), exact=False) as listener, serving(server):
        await listener.exact()


async def test_reconnects_to_a_host_that_is_no_name() -> None:
    with capture_logs() as logs:
        async with listening(Listener(1, host="a..b"), exact=False) as listener:
            await listener.until(lambda: bool(logs))
    assert logs[0]["reason"].startswith("asterisk is unavailable: no connection to AMI at a..b:1: ")


async def test_polling_a_list_is_complete_with_its_last_row() -> None:
    rows: list[str] = []
    line = Line()
    ask = asyncio.create_task(line.wire.ask("QueueStatus", seconds=5, row=lambda row: rows.append(row.queue)))
    await asyncio.sleep(0)
    (action,) = {*line.wire.responses}

    async def answered() -> None:
        assert (await ask).eventlist == "Complete"

    listing = [event("QueueParams", ActionID=action, Queue=name) for name in "abc"]
    end = event("QueueStatusComplete", ActionID=action, EventList="Complete")
    await line.receive(
        [BANNER, success(action, EventList="start"), *listing, event("VarSet"), end], then=answered
    )
    assert rows == ["a", "b", "c"]
    assert line.wire.responses == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"Queue": ""},
        {"Interface": ""},
        {"Status": ""},
        {"Status": "-1"},
        {"Status": "idle"},
        {"Status": "\u0661"},
        {"Paused": ""},
        {"LastCall": "9" * 30},
        {"Interface": "x" * 1000},
        {"Queue": "gr\x07een"},
    ],
)
async def test_unknown_header_what_is_missing_or_absurd_is_not_taken_for_empty(wrong: dict[str, str]) -> None:
    server = AmiServer(members={(GREEN, "PJSIP/1001"): member()})
    async with serving(server), listening(Listener(server.port)) as listener:
        assert listener.free() == {"PJSIP/1001"}
        server.say(event("QueueMemberStatus", **{**member(Status=2), **wrong}))
        await listener.until(lambda: not listener.is_exact)
        assert listener.ami.counts["malformed"] == 1
        await listener.exact()  # all has been asked again
        assert listener.free() == {"PJSIP/1001"}


# --- limits


async def test_a_flood_neither_grows_memory_nor_is_it_read_ahead() -> None:
    line = Line()
    line.wire.data_received(BANNER + member_event() * (MESSAGE_BYTES // len(member_event()) + 1))
    assert not line.transport.is_reading()

    async def read() -> None:
        async with asyncio.timeout(5):
            await line.transport.reads_on.wait()

    await line.receive([], then=read)
    assert line.counts["parsed"] > 100


@pytest.mark.parametrize(
    ("message", "name", "reason"),
    [
        (b"Event: QueueMemberStatus\r\n" + b"A: b\r\n" * MESSAGE_LINES + b"\r\n", "QueueMemberStatus", "lines"),
        (b"Event: QueueMemberStatus\r\nA: " + b"b" * LINE_BYTES + b"\r\n\r\n", "QueueMemberStatus", "bytes"),
        (b"Event: UserEvent\r\nEvent: QueueMemberStatus\r\n\r\n", "UserEvent", "several"),
        (b"Response: Success\r\nActionID: 1\r\nActionID: 2\r\n\r\n", "", "several"),
        (b"Nothing: at all\r\n\r\n", "", "neither"),
        (b"\x00\xff\xfe\r\n\r\n", "", "neither"),
        (b"\r\n\r\n", "", "neither"),
    ],
)
async def test_what_cannot_be_read_is_told_and_what_follows_is_heard(
    message: bytes, name: str, reason: str
) -> None:
    line = Line()
    await line.receive([BANNER, message, event("QueueMemberStatus", MemberName="next")])
    ((event_name, why),) = line.nonsense
    assert event_name == name and reason in why
    assert line.names == ["next"]


async def test_invalid_utf8_spoils_no_message() -> None:
    line = Line()
    await line.receive([BANNER, b"Event: QueueMemberStatus\r\nMemberName: J\xff\xc5\r\n\r\n"])
    assert line.names == ["J\ufffd\ufffd"]


@pytest.mark.parametrize("value", ["a\r\nAction: Command", "a\n", "\x00"])
async def test_no_value_becomes_a_header_of_its_own(value: str) -> None:
    line = Line()
    with pytest.raises(Rejected, match="Secret holds characters"):
        await line.wire.ask("Login", {"Secret": value}, seconds=1)
    assert line.transport.written == b""


async def test_a_refusal_is_told_with_its_reason() -> None:
    line = Line()
    ask = asyncio.create_task(line.wire.ask("GetConfig", seconds=5))
    await asyncio.sleep(0)
    (action,) = {*line.wire.responses}

    async def answered() -> None:
        with pytest.raises(Rejected, match="Asterisk refuses GetConfig: Permission denied"):
            await ask

    refusal = f"Response: Error\r\nActionID: {action}\r\nMessage: Permission denied\r\n\r\n".encode()
    await line.receive([BANNER, refusal], then=answered)


@settings(max_examples=200)
@given(junk=st.lists(st.binary(max_size=60) | st.sampled_from([b"\r\n\r\n", b"Event: ", b": ", b"Response: "])))
def test_whatever_comes_is_read_or_told(junk: list[bytes]) -> None:
    async def heard() -> None:
        line = Line()
        await line.receive([BANNER, *junk, b"\r\n\r\n", member_event("PJSIP/last")])
        assert line.names[-1] == "PJSIP/last"
        assert len(line.heard) + len(line.nonsense) <= line.counts["parsed"]

    asyncio.run(heard())
