"""What the engine may rely on: one suite of behaviour, on the simulator and on a real Asterisk.

It keeps the client right and the simulator honest.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from dialer_engine.ari import (
    ChannelDestroyed,
    ChannelDtmfReceived,
    ChannelStateChange,
    ChannelUserevent,
    Connected,
    Dial,
    Lost,
    NotSent,
    Patience,
    PlaybackFinished,
    StasisEnd,
    StasisStart,
    ToApp,
    ToDialplan,
)
from dialer_engine.errors import NotFound, Rejected, Replaced
from dialer_engine.simulator import Simulator
from tests.lab import number
from tests.lab.fixtures import lab
from tests.lab.lab import Lab
from tests.ports.ari_client import RestartablePbx, client, new_id

__all__ = ["lab"]  # pytest finds the fixture by its name here


@dataclass
class LabPbx:
    lab: Lab
    username: str
    password: str
    url: str

    async def restart(self) -> None:
        await asyncio.to_thread(self._restart)

    def _restart(self) -> None:
        self.lab.pbx.kill()
        self.lab.pbx.start()


@dataclass
class SimulatedPbx:
    simulator: Simulator
    username: str
    password: str
    url: str

    async def restart(self) -> None:
        self.simulator.restart()


@pytest.fixture(params=["simulated", pytest.param("lab", marks=pytest.mark.lab)])
async def pbx(request: pytest.FixtureRequest) -> AsyncIterator[RestartablePbx]:
    if request.param == "simulated":
        async with Simulator() as simulator:
            yield SimulatedPbx(simulator, simulator.username, simulator.password, simulator.url)
        return
    real: Lab = request.getfixturevalue("lab")
    yield LabPbx(real, real.ari_user, real.ari_password, real.ari_url)
    await asyncio.to_thread(real.hang_up_everything)


async def test_an_answered_call_is_told_to_its_end(pbx: RestartablePbx) -> None:
    async with client(pbx) as c:
        channel_id = await c.call(number.answers(ring=0.2, talk=0.6))
        end = await c.owner.event(ChannelDestroyed, channel_id)
        assert (end.cause, end.tech_cause) == (16, None)
        assert end.at is not None and end.at.tzinfo is not None
        mine = [event for event in c.owner.events if event.channel_id == channel_id]
        # Dial and ChannelStateChange come in an order of chance among each other, each in its own.
        assert [event.dialstatus for event in mine if isinstance(event, Dial)] == ["", "RINGING", "ANSWER"]
        states = [event.channel.state for event in mine if isinstance(event, ChannelStateChange)]
        assert states == ["Ringing", "Up"]
        rest = [event for event in mine if isinstance(event, StasisStart | StasisEnd | ChannelDestroyed)]
        assert [type(event) for event in rest] == [StasisStart, StasisEnd, ChannelDestroyed]
        assert mine[-1] is end


@pytest.mark.parametrize(
    ("code", "cause", "status"), [(486, 17, "BUSY"), (404, 1, "NOANSWER"), (503, 34, "CONGESTION")]
)
async def test_a_rejection_keeps_its_sip_code(pbx: RestartablePbx, code: int, cause: int, status: str) -> None:
    async with client(pbx) as c:
        channel_id = await c.call(number.rejects(code))
        end = await c.owner.event(ChannelDestroyed, channel_id)
        assert (end.cause, end.tech_cause) == (cause, code)
        assert c.owner.all(Dial, channel_id)[-1].dialstatus == status


async def test_a_ring_time_out_has_no_final_dial(pbx: RestartablePbx) -> None:
    async with client(pbx) as c:
        channel_id = await c.call(number.rings_out(), timeout_seconds=0.4)  # whole seconds: 1
        end = await c.owner.event(ChannelDestroyed, channel_id)
        assert (end.cause, end.tech_cause) == (19, 480)
        assert [event.dialstatus for event in c.owner.all(Dial, channel_id)] == ["", "RINGING"]


async def test_an_endpoint_without_a_contact_is_refused_before_any_invite(pbx: RestartablePbx) -> None:
    async with client(pbx) as c:
        channel_id = new_id()
        with pytest.raises(Rejected) as refused:
            await c.ari.originate(channel_id, endpoint="PJSIP/1@nocontact", caller_id="100", timeout_seconds=5)
        assert refused.value.code == 500
        assert await c.ari.channel(channel_id) is None
        assert not c.owner.events


async def test_a_nonsensical_originate_is_refused(pbx: RestartablePbx) -> None:
    async with client(pbx) as c:
        with pytest.raises(Rejected) as refused:
            await c.ari.originate(new_id(), endpoint="", caller_id="100", timeout_seconds=5)
        assert refused.value.code == 400


async def test_an_id_that_is_taken_counts_as_made(pbx: RestartablePbx) -> None:
    """The only way to a true 409 with ids of our own is that the call was made after all."""
    async with client(pbx) as c:
        channel_id = await c.answered(number.stays(ring=0))
        await c.ari.originate(channel_id, endpoint="PJSIP/1@carrier", caller_id="100", timeout_seconds=5)
        assert len(c.owner.all(StasisStart, channel_id)) == 1


async def test_a_stale_409_is_a_refusal(pbx: RestartablePbx) -> None:
    one_connection_for_calls = Patience(originating_connections=1)
    async with client(pbx, patience=one_connection_for_calls) as c:
        channel_id = await c.answered(number.stays(ring=0))
        await c.ari.originate(channel_id, endpoint="PJSIP/1@carrier", caller_id="100", timeout_seconds=5)
        with pytest.raises(Rejected) as refused:
            await c.ari.originate(new_id(), endpoint="PJSIP/1@nocontact", caller_id="1", timeout_seconds=5)
        assert refused.value.code == 500
        assert c.ari.counts.stale_conflicts == 1


async def test_ids_must_be_of_one_width(pbx: RestartablePbx) -> None:
    """The reason for the rule: a shorter id is taken for a longer one's double, in whatever case."""
    async with client(pbx) as c:
        channel_id = await c.answered(number.stays(ring=0))
        with pytest.raises(Rejected):
            await c.ari.originate(
                channel_id[:-1].upper(), endpoint="PJSIP/1@carrier", caller_id="1", timeout_seconds=5
            )


async def test_variables_go_both_ways(pbx: RestartablePbx) -> None:
    async with client(pbx) as c:
        channel_id = await c.answered(number.stays(ring=0), variables={"ATTR_name": 'A "b" ž', "EMPTY": ""})
        await c.ari.set_variables(channel_id, {"ONE": "1", "TWO": "a,b&c=ü"})
        assert await c.ari.get_variable(channel_id, "ATTR_name") == 'A "b" ž'
        assert await c.ari.get_variable(channel_id, "EMPTY") == ""
        assert await c.ari.get_variable(channel_id, "ONE") == "1"
        assert await c.ari.get_variable(channel_id, "TWO") == "a,b&c=ü"
        assert not await c.ari.get_variable(channel_id, "NEVER_SET")
        assert await c.ari.get_variable(new_id(), "ONE") is None


async def test_a_playback_tells_its_end(pbx: RestartablePbx) -> None:
    async with client(pbx) as c:
        channel_id = await c.answered(number.stays(ring=0))
        await c.ari.play(channel_id, ["sound:beep", "sound:beep"], "play-1")
        finished = await c.owner.event(PlaybackFinished, channel_id)
        assert (finished.playback.id, finished.playback.state) == ("play-1", "done")
        assert await c.ari.stop_playback("play-never-begun") is False
        assert await c.ari.is_playing("play-never-begun") is False


async def test_a_playback_is_stopped_with_all_its_media(pbx: RestartablePbx) -> None:
    async with client(pbx) as c:
        channel_id = await c.answered(number.stays(ring=0))
        await c.ari.play(channel_id, ["sound:hello-world"] * 30, "play-2")
        assert await c.ari.is_playing("play-2") is True
        assert await c.ari.stop_playback("play-2") is True
        finished = await c.owner.event(PlaybackFinished, channel_id, seconds=5)
        assert finished.playback.id == "play-2"


async def test_keys_are_heard(pbx: RestartablePbx) -> None:
    async with client(pbx) as c:
        channel_id = await c.answered(number.presses("59", after=0.5, ring=0))
        await c.owner.until(lambda: len(c.owner.all(ChannelDtmfReceived, channel_id)) == 2)
        assert [event.digit for event in c.owner.all(ChannelDtmfReceived, channel_id)] == ["5", "9"]


async def test_a_call_is_hung_up_once(pbx: RestartablePbx) -> None:
    async with client(pbx) as c:
        channel_id = await c.call(number.rings_out())
        assert await c.ari.hangup(channel_id) is True
        assert (await c.owner.event(ChannelDestroyed, channel_id)).cause == 16
        assert await c.ari.hangup(channel_id) is False


async def test_a_snapshot_says_where_a_channel_is(pbx: RestartablePbx) -> None:
    async with client(pbx) as c:
        channel_id = await c.answered(number.stays(ring=0))
        channel = await c.ari.channel(channel_id)
        assert channel is not None
        assert (channel.id, channel.state, channel.dialplan.app_name) == (channel_id, "Up", "Stasis")
        assert await c.ari.application_channels() == [channel_id]
        assert channel_id in [other.id for other in await c.ari.channels()]


async def test_a_call_goes_on_in_the_dialplan(pbx: RestartablePbx) -> None:
    """And its end is still told: the originate's own subscription outlives the application."""
    async with client(pbx) as c:
        channel_id = await c.answered(number.stays(ring=0))
        await c.ari.continue_in_dialplan(channel_id, context="from-trunk", extension="1234")
        await c.owner.event(StasisEnd, channel_id)
        assert (await c.owner.event(ChannelDestroyed, channel_id)).cause == 21


async def test_orders_to_a_channel_that_is_gone_are_not_found(pbx: RestartablePbx) -> None:
    async with client(pbx) as c:
        with pytest.raises(NotFound):
            await c.ari.play(new_id(), ["sound:beep"], "play-3")
        with pytest.raises(NotFound):
            await c.ari.continue_in_dialplan(new_id(), context="from-trunk", extension="1234")
        with pytest.raises(NotFound):
            await c.ari.set_variables(new_id(), {"ONE": "1"})
        with pytest.raises(NotFound):
            await c.ari.dial(new_id(), timeout_seconds=5)


async def test_orders_to_a_channel_outside_our_application_are_refused(pbx: RestartablePbx) -> None:
    async with client(pbx) as c:
        channel_id = await c.call(number.rings_out())
        with pytest.raises(Rejected) as refused:
            await c.ari.play(channel_id, ["sound:beep"], "play-4")
        assert refused.value.code == 409


@pytest.mark.parametrize("to", [ToApp(), ToDialplan("dialer-answered", "dialer")])
async def test_a_far_half_is_followed(pbx: RestartablePbx, to: ToApp | ToDialplan) -> None:
    """Local/: the near half hides what the carrier said, the far one has it, and the dialplan's own word."""
    async with client(pbx) as c:
        near, far = new_id(), new_id()
        await c.ari.originate(
            near,
            endpoint=f"Local/{number.rejects(503, ring=0.3)}@from-internal-status",
            caller_id="100",
            timeout_seconds=10,
            other_channel_id=far,
            to=to,
        )
        assert (await c.owner.event(ChannelDestroyed, far)).cause == 34
        await c.owner.event(ChannelDestroyed, near)
        told = await c.owner.event(ChannelUserevent, far)
        assert told.eventname == "CALLSTATUS"
        assert (told.fields["Uniqueid"], told.fields["V"]) == (near, "CONGESTION-34")
        dials = [e for e in c.owner.events if isinstance(e, Dial) and e.caller_channel_id == far]
        assert dials[-1].dialstatus == "CONGESTION"


SOURCES = [(), ("endpoint:PJSIP/carrier",)]


@pytest.mark.parametrize("sources", SOURCES)
async def test_a_dialplan_originate_is_heard_to_its_end(pbx: RestartablePbx, sources: tuple[str, ...]) -> None:
    async with client(pbx, sources=sources) as c:
        channel_id = await c.call(number.rejects(486, ring=0.2), to=ToDialplan("dialer-answered", c.app))
        end = await c.owner.event(ChannelDestroyed, channel_id)
        assert (end.cause, end.tech_cause) == (17, 486)


@pytest.mark.parametrize("sources", SOURCES)
async def test_an_answered_dialplan_originate_comes_to_us(
    pbx: RestartablePbx, sources: tuple[str, ...]
) -> None:
    """Every key once, though it is heard twice; and the end, though the application had let go of the
    channel."""
    async with client(pbx, sources=sources) as c:
        who = number.presses("59", after=0.5, ring=0)
        channel_id = await c.answered(who, to=ToDialplan("dialer-answered", c.app))
        assert c.owner.all(StasisStart, channel_id)[0].args == ("answered",)
        await c.owner.until(lambda: len(c.owner.all(ChannelDtmfReceived, channel_id)) >= 2)
        await c.ari.continue_in_dialplan(channel_id, context="from-trunk", extension="1234")
        assert (await c.owner.event(ChannelDestroyed, channel_id)).cause == 21
        assert [event.digit for event in c.owner.all(ChannelDtmfReceived, channel_id)] == ["5", "9"]


async def test_an_unknown_source_is_named(pbx: RestartablePbx) -> None:
    async with client(pbx, sources=("endpoint:PJSIP/carrier", "endpoint:PJSIP/nobody")) as c:
        state = c.owner.states[-1]
        assert isinstance(state, Connected)
        assert state.missing_sources == ("endpoint:PJSIP/nobody",)


async def test_create_then_dial(pbx: RestartablePbx) -> None:
    """StasisStart comes at the creation, while the channel is down; the answer is a state."""
    async with client(pbx) as c:
        channel_id = new_id()
        endpoint = f"PJSIP/{number.stays(ring=0.2)}@carrier"
        await c.ari.create(channel_id, endpoint=endpoint, variables={"ONE": "1"})
        assert (await c.owner.event(StasisStart, channel_id)).channel.state == "Down"
        await c.ari.dial(channel_id, timeout_seconds=20)
        await c.owner.until(
            lambda: any(e.channel.state == "Up" for e in c.owner.all(ChannelStateChange, channel_id))
        )
        assert await c.ari.get_variable(channel_id, "ONE") == "1"


async def test_a_twin_pushes_us_out(pbx: RestartablePbx) -> None:
    async with client(pbx) as old, client(pbx, app=old.app) as new:
        with pytest.raises(Replaced):
            await asyncio.wait_for(old.run, 5)
        assert isinstance(old.owner.states[-1], Lost)
        with pytest.raises(NotSent):
            await old.call(number.stays())
        # The new one is not disturbed, neither by the old one's end nor by a message meant for it.
        channel_id = await new.answered(number.answers(ring=0, talk=0.6))
        await new.owner.event(ChannelDestroyed, channel_id)
        assert not new.run.done()


@pytest.mark.parametrize("watch_all", [False, True])
async def test_what_we_say_to_ourselves_is_heard_and_not_handed_on(
    pbx: RestartablePbx, watch_all: bool
) -> None:
    async with client(pbx, watch_all=watch_all, patience=Patience(hearing_seconds=1.0)) as c:
        await asyncio.sleep(1.2)
        assert len(c.owner.states) == 1  # who does not hear himself by now is lost
        assert not c.owner.events
        assert c.ari.counts.events == 0


async def test_calls_outlive_a_lost_socket(pbx: RestartablePbx) -> None:
    app = f"app-{uuid.uuid4().hex[:8]}"
    async with client(pbx, app=app) as before:
        channel_id = await before.answered(number.stays(ring=0))
    async with client(pbx, app=app) as after:
        state = after.owner.states[-1]
        assert isinstance(state, Connected) and not state.restarted
        assert await after.ari.application_channels() == [channel_id]
        assert await after.ari.hangup(channel_id)
        await after.owner.event(ChannelDestroyed, channel_id)


async def test_a_restarted_asterisk_is_told(pbx: RestartablePbx) -> None:
    async with client(pbx) as c:
        channel_id = await c.answered(number.stays(ring=0))
        first = c.owner.states[-1]
        await pbx.restart()
        await c.owner.until(lambda: len(c.owner.states) > 2 and isinstance(c.owner.states[-1], Connected), 20)
        again = c.owner.states[-1]
        assert isinstance(first, Connected) and isinstance(again, Connected)
        assert again.restarted and again.startup_time != first.startup_time
        assert await c.ari.channel(channel_id) is None
        assert not c.owner.all(ChannelDestroyed, channel_id)
        await c.answered(number.answers(ring=0, talk=0.6))


async def test_asterisk_says_who_it_is(pbx: RestartablePbx) -> None:
    async with client(pbx) as c:
        info = await c.ari.info()
        assert info.version and info.startup_time
