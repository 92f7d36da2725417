"""A flow on a channel under virtual time: order, patience, crashes, hang-ups and a cancel at every await."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

import pytest

from dialer_engine import ivr
from dialer_engine.core.flow import (
    Event,
    Flow,
    FlowResult,
    HungUp,
    Key,
    Played,
    Position,
    parse_flow,
)
from dialer_engine.core.model import AttemptId
from dialer_engine.errors import NotFound, Rejected, Unavailable

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

ATTEMPT = AttemptId("a000000001")
SOUND_SECONDS = 2.0


def flow(**blocks: dict[str, Any]) -> Flow:
    return parse_flow({"name": "test", "start": next(iter(blocks)), "blocks": blocks})


BYE = {"type": "hangup"}
HELLO = flow(hello={"type": "play", "media": ["sound:hello"], "next": "bye"}, bye=BYE)
TELECAST = flow(
    hello={"type": "play", "media": ["sound:hello"], "next": "heard"},
    heard={"type": "result", "extStatus": "HEARD", "next": "bye"},
    bye=BYE,
)
SURVEY = flow(
    hello={"type": "play", "media": ["sound:hello"], "next": "ask"},
    ask={"type": "menu", "media": ["sound:press"], "keys": {"1": "yes", "9": "never"}, "noInput": "bye", "retries": 1},
    yes={"type": "result", "extStatus": "YES", "values": {"answer": "{who}"}, "next": "thanks"},
    thanks={"type": "play", "media": ["sound:thanks"], "next": "bye"},
    never={"type": "optOut", "next": "bye"},
    bye=BYE,
)  # fmt: skip
PIN = flow(
    pin={"type": "read", "variable": "pin", "media": ["sound:pin"], "next": "bye", "noInput": "bye"}, bye=BYE
)

TO_AGENT = flow(
    ask={"type": "menu", "media": ["sound:press"], "keys": {"1": "agent"}, "noInput": "bye"},
    agent={"type": "queue", "queue": "green", "timeout": 20, "next": "thanks"},
    thanks={"type": "play", "media": ["sound:thanks"], "next": "bye"},
    bye=BYE,
)


class Call:
    """The callee's channel and everything else that `run` is given, in memory, with a common log.

    A sound takes two seconds. What is put under a verb in `faults` is raised by it, one after the other.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.inbox: asyncio.Queue[Event] = asyncio.Queue()
        self.positions: list[Position] = []
        self.faults: dict[str, list[Exception]] = {}
        self.playing: dict[str, asyncio.TimerHandle] = {}
        self.silent = False  # nobody tells the end of a play
        self.up = True

    def note(self, text: str) -> None:
        self.log.append(f"{asyncio.get_running_loop().time():g} {text}")

    async def _act(self, verb: str, text: str = "") -> None:
        await asyncio.sleep(0)
        if faults := self.faults.get(verb):
            self.note(f"{verb}!")
            raise faults.pop(0)
        self.note(f"{verb} {text}".strip())

    async def play(self, playback_id: str, media: Sequence[str]) -> None:
        if not self.up:
            raise NotFound
        await self._act("play", f"{playback_id.removeprefix(ATTEMPT)} {' '.join(media)}")
        loop = asyncio.get_running_loop()
        self.playing[playback_id] = loop.call_later(SOUND_SECONDS, self._played, playback_id)

    def _played(self, playback_id: str) -> None:
        if not self.silent:
            self.playing.pop(playback_id).cancel()
            self.inbox.put_nowait(Played(playback_id))

    async def stop_playback(self, playback_id: str) -> None:
        await self._act("stop", playback_id.removeprefix(ATTEMPT))
        if playback_id not in self.playing:
            raise NotFound
        self.silent = False
        self._played(playback_id)

    async def is_playing(self, playback_id: str) -> bool:
        await self._act("ask", playback_id.removeprefix(ATTEMPT))
        return playback_id in self.playing

    async def prepare(self, queue: str | None, timeout_seconds: int) -> None:
        if not self.up:
            raise NotFound
        await self._act("prepare", f"{queue} {timeout_seconds}")

    async def enqueue(self) -> None:
        if not self.up:
            raise NotFound
        await self._act("enqueue")

    async def hangup(self) -> None:
        await self._act("hangup")

    async def record(self, position: Position) -> None:
        await self._act("record", f"{position.block} {position.keys}".strip())
        self.positions.append(Position.from_json(position.to_json()))

    async def opt_out(self) -> None:
        await self._act("optout")

    def later(self, seconds: float, event: Event | Callable[[], None]) -> None:
        act = event if callable(event) else lambda: self.inbox.put_nowait(event)
        asyncio.get_running_loop().call_later(seconds, act)

    def hang_up(self) -> None:
        """What Asterisk does: the play fails, and the news of the hang-up come at the same time."""
        self.up = False
        for playback_id in self.playing:
            self.playing[playback_id].cancel()
            self.inbox.put_nowait(Played(playback_id, ok=False))
        self.inbox.put_nowait(HungUp())

    async def run(self, flow: Flow, position: Position | None = None) -> FlowResult:
        result = await self.go(flow, position)
        assert result is not None
        return result

    def go(
        self, flow: Flow, position: Position | None = None, returned: str | None = None
    ) -> Awaitable[FlowResult | None]:
        """To the end, or into a queue."""
        return ivr.run(
            flow,
            position,
            attempt_id=ATTEMPT,
            attributes={"who": "Eva"},
            channel=self,
            inbox=self.inbox,
            record=self.record,
            opt_out=self.opt_out,
            now=lambda: datetime(2026, 8, 3, 12, 0),  # noqa: DTZ001
            returned=returned,
        )


async def test_each_block_is_recorded_before_it_is_heard() -> None:
    call = Call()
    call.later(5, Key("1"))
    result = await call.run(SURVEY)
    assert call.log == [
        "0 record hello",
        "0 play -1-1 sound:hello",
        "2 record ask",
        "2 play -1-3 sound:press",
        "5 record thanks",
        "5 play -1-6 sound:thanks",
        "7 record bye",
        "7 hangup",
    ]
    assert result == FlowResult(
        ext_status="YES",
        values={"answer": "Eva"},
        path=("hello", "ask", "yes", "thanks", "bye"),
        completed=True,
    )


async def test_a_key_stops_the_play_at_once() -> None:
    call = Call()
    call.later(1, Key("9"))
    result = await call.run(SURVEY)
    assert call.log[2:] == ["1 stop -1-1", "1 record never", "1 optout", "1 record bye", "1 hangup"]
    assert result.opted_out


async def test_each_key_of_a_read_is_recorded_and_nothing_twice() -> None:
    call = Call()
    for n, key in enumerate("12#"):
        call.later(n + 1, Key(key))
    result = await call.run(PIN)
    assert call.log == [
        "0 record pin",
        "0 play -1-1 sound:pin",
        "1 stop -1-1",
        "1 record pin 1",
        "2 record pin 12",
        "3 record bye",
        "3 hangup",
    ]
    assert result.variables == {"pin": "12"}


async def test_keys_that_came_before_the_flow_began_are_not_lost() -> None:
    call = Call()
    call.inbox.put_nowait(Key("1"))
    assert (await call.run(SURVEY)).ext_status == "YES"


async def test_silence_is_waited_for_and_asked_again() -> None:
    call = Call()
    result = await call.run(SURVEY)
    plays = [line for line in call.log if "play" in line]
    assert plays == ["0 play -1-1 sound:hello", "2 play -1-3 sound:press", "9 play -1-6 sound:press"]
    assert call.log[-1] == "16 hangup"
    assert result.completed


# --- plays that go wrong ---


async def test_a_medium_that_fails_is_skipped() -> None:
    call = Call()
    call.later(0.1, Played(f"{ATTEMPT}-1-1", ok=False))
    result = await call.run(TELECAST)
    assert call.log[-1] == "0.6 hangup"
    assert result.ext_status == "HEARD"
    assert result.notes == ("hello: sound:hello could not be played",)


async def test_a_play_that_ended_by_a_hang_up_was_not_heard() -> None:
    call = Call()
    call.later(1, call.hang_up)
    result = await call.run(TELECAST)
    assert result == FlowResult(path=("hello",))
    assert call.log == ["0 record hello", "0 play -1-1 sound:hello"]


async def test_a_hang_up_told_after_the_failed_play_counts_as_well() -> None:
    call = Call()
    call.later(1, Played(f"{ATTEMPT}-1-1", ok=False))
    call.later(1.4, HungUp())
    assert await call.run(TELECAST) == FlowResult(path=("hello",))


async def test_a_play_of_which_nobody_tells_the_end_is_asked_for() -> None:
    call = Call()
    call.silent = True
    call.later(3, call.playing.clear)
    result = await call.run(HELLO)
    assert call.log[2:] == ["5 ask -1-1", "5.5 record bye", "5.5 hangup"]
    assert result.notes == ("hello: sound:hello could not be played",)


async def test_a_play_that_never_ends_is_ended() -> None:
    call = Call()
    call.silent = True
    call.faults["ask"] = [Unavailable("asterisk", "away"), Rejected("no")]
    result = await call.run(HELLO)
    assert call.log[-3:] == ["300 stop -1-1", "300 record bye", "300 hangup"]
    assert result.notes == ("hello: sound:hello did not end in 300 s",)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_play_is_tried_again_while_asterisk_is_away(times: int) -> None:
    call = Call()
    call.faults["play"] = [Unavailable("asterisk", "away")] * times
    assert (await call.run(HELLO)).notes == ()
    assert len([line for line in call.log if "play!" in line]) == times


async def test_a_play_that_cannot_be_begun_is_left_out() -> None:
    call = Call()
    call.faults["play"] = [Unavailable("asterisk", "away")] * 99
    assert (await call.run(HELLO)).notes == ("hello: sound:hello could not be played",)
    assert float(call.log[-1].split()[0]) < ivr.PLAY_RETRY_SECONDS + 1
    call = Call()
    call.faults["play"] = [Rejected("channel not in application", code=409)]
    assert (await call.run(HELLO)).completed


async def test_the_end_of_another_lifes_play_changes_nothing() -> None:
    call = Call()
    for stale in ("1-1", "a000000002-1-1", f"{ATTEMPT}-0-1", ""):
        call.later(1, Played(stale))
        call.later(1, Played(stale, ok=False))
    await call.run(HELLO)
    assert call.log[-1] == "2 hangup"


async def test_what_cannot_be_stopped_does_not_hold_the_flow() -> None:
    call = Call()
    call.faults["stop"] = [Rejected("Could not stop playback", code=500)]
    call.later(1, Key("1"))
    assert (await call.run(SURVEY)).ext_status == "YES"


# --- hanging up ---


async def test_a_channel_that_is_gone_ends_the_flow_by_its_hang_up() -> None:
    call = Call()
    call.up = False
    call.later(1, HungUp())
    assert await call.run(HELLO) == FlowResult(path=("hello",))


async def test_a_channel_that_is_gone_without_a_word_was_hung_up() -> None:
    # As a failure of the flow it was re-dialed by a plain RS_ERROR rule: somebody who had been talking.
    call = Call()
    call.up = False
    result = await call.run(HELLO)
    assert result == FlowResult(path=("hello",))


async def test_a_hang_up_is_tried_again_but_not_for_ever() -> None:
    call = Call()
    call.faults["hangup"] = [Unavailable("asterisk", "away")] * 3
    assert (await call.run(HELLO)).completed
    assert call.log[-1] == "2.7 hangup"
    call = Call()
    call.faults["hangup"] = [Unavailable("asterisk", "away")] * 999
    assert (await call.run(HELLO)).completed


# --- queues ---


async def to_the_queue(call: Call) -> FlowResult | None:
    call.later(1, Key("1"))
    return await call.go(TO_AGENT)


async def test_that_he_is_in_the_queue_is_recorded_before_he_is_sent_there() -> None:
    call = Call()
    assert await to_the_queue(call) is None
    assert call.log[2:] == ["1 stop -1-1", "1 prepare green 20", "1 record agent", "1 enqueue"]
    assert call.positions[-1].stage == "queue"


async def test_the_flow_goes_on_when_the_queue_gives_him_back() -> None:
    call = Call()
    await to_the_queue(call)
    result = await call.go(TO_AGENT, call.positions[-1], returned="CONTINUE")
    assert call.log[6:] == ["1 record thanks", "1 play -1-4 sound:thanks", "3 record bye", "3 hangup"]
    assert result is not None
    assert result.completed
    assert result.variables == {"queueStatus": "CONTINUE"}


async def test_who_is_found_in_our_hands_after_a_crash_is_sent_again_and_recorded_again() -> None:
    call = Call()
    await to_the_queue(call)
    assert await call.go(TO_AGENT, call.positions[-1]) is None
    assert call.log[6:] == ["1 prepare green 20", "1 record agent", "1 enqueue"]


@pytest.mark.parametrize("verb", ["prepare", "record", "enqueue"])
async def test_a_port_that_is_away_delays_the_way_to_the_queue_only(verb: str) -> None:
    call = Call()
    call.later(0.5, lambda: call.faults.update({verb: [Unavailable("port", "away")] * 3}))
    assert await to_the_queue(call) is None
    assert call.log[-1] == "1.7 enqueue"


async def test_he_is_sent_though_redis_does_not_come_back() -> None:
    call = Call()
    call.later(0.5, lambda: call.faults.update(record=[Unavailable("redis", "away")] * 99))
    assert await to_the_queue(call) is None
    assert 3 < float(call.log[-1].split()[0]) < 5


@pytest.mark.parametrize(
    ("verb", "fault"),
    [("prepare", Rejected("no")), ("prepare", Unavailable("asterisk", "away")), ("enqueue", Rejected("no"))],
)
async def test_a_queue_that_cannot_be_reached_fails_the_flow(verb: str, fault: Exception) -> None:
    call = Call()
    call.faults[verb] = [fault] * (1 if isinstance(fault, Rejected) else 99)
    result = await to_the_queue(call)
    assert result is not None
    assert result.failed
    assert call.log[-1].endswith("hangup")


async def test_an_order_of_which_nobody_knows_what_became_may_have_been_carried_out() -> None:
    """To hang up then could take him from an agent."""
    call = Call()
    call.faults["enqueue"] = [Unavailable("asterisk", "no answer")] * 99
    assert await to_the_queue(call) is None
    assert 30 < float(call.log[-1].split()[0]) < 33
    assert not [line for line in call.log if line.endswith("hangup")]


@pytest.mark.parametrize("verb", ["prepare", "record", "enqueue"])
async def test_who_hangs_up_on_the_way_to_the_queue_has_hung_up(verb: str) -> None:
    call = Call()
    call.later(0.5, lambda: call.faults.update({verb: [Unavailable("port", "away")] * 99}))
    call.later(2, HungUp())
    result = await to_the_queue(call)
    assert result == FlowResult(path=("ask", "agent"))
    assert not [line for line in call.log if line.endswith(("enqueue", "hangup"))]


async def test_a_channel_that_is_gone_before_the_queue_was_hung_up() -> None:
    call = Call()
    call.later(0.5, lambda: setattr(call, "up", False))
    assert await to_the_queue(call) == FlowResult(path=("ask", "agent"))


# --- Redis away ---


async def test_the_flow_waits_for_redis_for_three_seconds_and_then_for_the_callee() -> None:
    call = Call()
    call.faults["record"] = [Unavailable("redis", "away")] * 100
    await call.run(HELLO)
    (play,) = [line for line in call.log if line.endswith("play -1-1 sound:hello")]
    assert 2 < float(play.split()[0]) <= 3
    assert call.positions == []


async def test_a_key_silences_the_play_even_while_redis_is_away() -> None:
    call = Call()
    call.later(0.5, lambda: call.faults.update(record=[Unavailable("redis", "away")] * 3))
    call.later(1, Key("1"))
    await call.run(SURVEY)
    assert call.log[2:8] == [
        "1 stop -1-1",
        "1 record!",
        "1.1 record!",
        "1.3 record!",
        "1.7 record thanks",
        "1.7 play -1-3 sound:thanks",
    ]


async def test_a_key_is_safe_even_while_asterisk_is_slow() -> None:
    """A daemon that has come back to a thousand calls asks Asterisk a lot, and may be killed meanwhile."""
    call = Call()
    call.later(0.5, lambda: call.faults.update(stop=[Unavailable("asterisk", "away")] * 3))
    call.later(1, Key("1"))
    await call.run(SURVEY)
    assert call.log[2:6] == ["1 stop!", "1 record thanks", "1.1 stop!", "1.3 stop!"]
    assert call.log[7] == "1.7 play -1-3 sound:thanks"


async def test_who_hangs_up_while_redis_is_away_is_not_played_to() -> None:
    call = Call()
    call.faults["record"] = [Unavailable("redis", "away")] * 100
    call.inbox.put_nowait(Key("9"))
    call.later(2, HungUp())
    result = await call.run(SURVEY)
    assert not [line for line in call.log if "play" in line]
    assert float(call.log[-1].split()[0]) <= 2
    assert result.opted_out  # the owner of the call settles this with the result


async def test_an_opt_out_waits_for_redis_too() -> None:
    call = Call()
    call.faults["optout"] = [Unavailable("redis", "away")] * 5
    call.later(1, Key("9"))
    assert (await call.run(SURVEY)).notes == ()
    assert len([line for line in call.log if line.endswith("optout")]) == 1
    call = Call()
    call.faults["optout"] = [Rejected("no")]
    call.later(1, Key("9"))
    assert (await call.run(SURVEY)).notes == ("never: the do-not-call list refused the number",)


async def test_another_error_of_record_is_not_swallowed() -> None:
    call = Call()
    call.faults["record"] = [NotFound("no such attempt")]
    with pytest.raises(NotFound):
        await call.run(HELLO)


# --- crashes and cancels ---


async def test_another_process_goes_on_where_the_first_one_was() -> None:
    call = Call()
    call.later(3, Key("7"))
    first = asyncio.ensure_future(call.run(SURVEY))
    await asyncio.sleep(3.5)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    call.log.clear()
    call.later(1, Key("1"))
    result = await call.run(SURVEY, call.positions[-1])
    assert call.log[:3] == ["3.5 stop -1-5", "3.5 record ask", "3.5 play -2-1 sound:press"]
    assert call.positions[-1].tries == 0
    assert result.path == ("hello", "ask", "yes", "thanks", "bye")


async def test_digits_pressed_before_a_crash_are_not_asked_for_again() -> None:
    call = Call()
    call.later(1, Key("1"))
    first = asyncio.ensure_future(call.run(PIN))
    await asyncio.sleep(1.5)
    first.cancel()
    call.log.clear()
    call.later(1, Key("2"))
    result = await call.run(PIN, call.positions[-1])
    assert result.variables == {"pin": "12"}
    assert not [line for line in call.log if "play" in line]


async def test_after_a_crash_an_old_end_of_play_is_not_taken_for_the_new_one() -> None:
    call = Call()
    first = asyncio.ensure_future(call.run(HELLO))
    await asyncio.sleep(1)
    first.cancel()
    call.faults["stop"] = [Unavailable("asterisk", "away")] * 99
    result = await call.run(HELLO, call.positions[-1])
    assert "1 record hello" in call.log
    assert call.log[-3:] == ["1.7 play -2-1 sound:hello", "3.7 record bye", "3.7 hangup"]
    assert result.completed


async def test_a_cancel_at_every_await_is_not_swallowed_and_loses_nothing() -> None:
    for steps in range(200):
        call = Call()
        call.later(1, Key("1"))
        task = asyncio.ensure_future(call.run(SURVEY))
        for _ in range(steps):
            if not task.done():
                await asyncio.sleep(0.05)
        if task.done():
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        position = call.positions[-1] if call.positions else None
        call.inbox.put_nowait(Key("1"))
        result = await call.run(SURVEY, position)
        assert result.ext_status == "YES"
        assert result.path == ("hello", "ask", "yes", "thanks", "bye")
    else:
        pytest.fail("the flow never ended")


async def test_a_cancel_between_any_two_turns_of_the_loop_is_not_swallowed() -> None:
    for turns in range(40):
        call = Call()
        call.inbox.put_nowait(Key("9"))
        task = asyncio.ensure_future(call.run(SURVEY))
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        pytest.fail("the flow never ended")
