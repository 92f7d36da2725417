"""Carries out a flow on a channel: the interpreter (core/flow) says what, this room does it.

Order is everything here. A new position is recorded, and what plays is stopped, before anything else is done, so
no block is heard before what the callee said until then is safe. Events come from one inbox and are fed one at a
time. Every wait has a deadline: the interpreter sets a timer with each play and each wait for a key, and what is
retried while a port is away ends when the call does.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from dialer_engine.core import flow as flows
from dialer_engine.core.flow import Flow, FlowResult, Position, Step
from dialer_engine.core.model import AttemptId
from dialer_engine.errors import NotFound, Rejected, Unavailable

BACKOFF_SECONDS = (0.1, 0.2, 0.4, 0.8)  # between attempts while a port is away; the last one repeats
RECORD_RETRY_SECONDS = 3.0  # then the callee is not kept waiting: only a crash now would lose what he said
PLAY_RETRY_SECONDS = 3.0  # then the medium is left out
STOP_RETRY_SECONDS = 1.0  # then it plays to its end behind the callee's choice
ENQUEUE_RETRY_SECONDS = (
    30.0  # then the flow fails, for he hears nothing meanwhile; or he has gone, for all we know
)
HANGUP_RETRY_SECONDS = 30.0  # then the engine's own deadlines have to end the channel
GONE_SECONDS = 5.0  # the channel is gone: its HungUp must come in this time
CHECK_SECONDS = 5.0  # how often Asterisk is asked whether a play is still on
GRACE_SECONDS = 0.5  # a play that failed: had the callee hung up?


class IvrChannel(Protocol):
    """The callee's channel. The methods raise Unavailable, Rejected or NotFound."""

    async def play(self, playback_id: str, media: Sequence[str]) -> None: ...

    async def stop_playback(self, playback_id: str) -> None: ...

    async def is_playing(self, playback_id: str) -> bool:
        """Whether Asterisk still knows the playback, queued or under way: GET /playbacks/{id} is not 404.

        Asterisk 22 tells nothing of the end of a recording that is not there, and what ended while the event
        socket was down is not told later.
        """
        ...

    async def prepare(self, queue: str | None, timeout_seconds: int) -> None:
        """What the dialplan has to know of who is sent to this queue (None: the campaign's); from now on what is
        recorded says that he is there. May be called again."""
        ...

    async def enqueue(self) -> None:
        """Send him there. Also good when he has gone there already."""
        ...

    async def hangup(self) -> None: ...


async def run(
    flow: Flow,
    position: Position | None,
    *,
    attempt_id: AttemptId,
    attributes: Mapping[str, str],
    channel: IvrChannel,
    inbox: asyncio.Queue[flows.Event],
    record: Callable[[Position], Awaitable[None]],
    opt_out: Callable[[], Awaitable[None]],
    now: Callable[[], datetime],
    returned: str | None = None,
) -> FlowResult | None:
    """Run the flow until it has hung up, the callee has, or it fails; None: he has been sent to a queue.

    `position` is None for a call that has just been answered, else the one last recorded (after a crash). `returned`
    is the QUEUESTATUS of one whom the queue has given back, and `position` that with which he was sent there.
    `Played` in the inbox carries the playback's id as Asterisk sent it. `now` gives the campaign's local time.
    While `opt_out` raises Unavailable it is tried again as long as the call lives, `record` for RECORD_RETRY_SECONDS;
    what could not be recorded then is recorded with the next step, or is in the result. Any other
    exception of theirs ends this coroutine.
    """
    return await _Run(
        flow=flow,
        attempt_id=attempt_id,
        attributes=attributes,
        channel=channel,
        inbox=inbox,
        record=record,
        opt_out=opt_out,
        now=now,
    ).run(position, returned)


@dataclass(kw_only=True, slots=True)
class _Run:
    flow: Flow
    attempt_id: AttemptId
    attributes: Mapping[str, str]
    channel: IvrChannel
    inbox: asyncio.Queue[flows.Event]
    record: Callable[[Position], Awaitable[None]]
    opt_out: Callable[[], Awaitable[None]]
    now: Callable[[], datetime]
    pending: deque[flows.Event] = field(default_factory=deque)  # taken from the inbox or made here, not fed yet
    recorded: Position | None = None  # the memory of what was recorded last
    timer: tuple[str, float] | None = None  # id, and when it fires by the loop's clock

    async def run(self, position: Position | None, returned: str | None) -> FlowResult | None:
        if position is None:
            step = flows.begin(self.flow, self.attributes, now=self.now())
        elif returned is None:
            step = flows.resume(self.flow, position, self.attributes, now=self.now())
        else:
            step = flows.come_back(self.flow, position, returned, self.attributes, now=self.now())
        while True:
            if await self._carry_out(step):
                return None
            if step.position.end:
                return FlowResult.of(step.position)
            event = await self._next_event(step.position)
            step = flows.feed(self.flow, step.position, event, self.attributes, now=self.now())

    # --- what is to be done ---

    async def _carry_out(self, step: Step) -> bool:
        """Silence and a record of where he is, then the rest. True: he has gone to a queue."""
        if step.actions and isinstance(away := step.actions[-1], flows.Enqueue):
            await self._stop_plays(step)
            return await self._send_away(away, step.position)
        if not await self._silence_and_keep(step):
            return False
        for action in step.actions:
            match action:
                case flows.Play():
                    await self._play(action)
                case flows.Timer():
                    self.timer = (action.id, asyncio.get_running_loop().time() + action.seconds)
                case flows.OptOut():
                    await self._take_off(action)
                case flows.HangUp():
                    await self._hang_up()
        return False

    async def _silence_and_keep(self, step: Step) -> bool:
        """Both at once: a pressed key is felt even while Redis is away, and safe even while Asterisk is slow. What is
        played next comes after both."""
        if not any(isinstance(action, flows.StopPlay) for action in step.actions):
            return await self._keep(step.position)
        keeping = asyncio.create_task(self._keep(step.position), name=f"keep {self.attempt_id}")
        try:
            await self._stop_plays(step)
            return await keeping
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep(self, position: Position) -> bool:
        """Record it, if it says anything new; False when the callee hung up meanwhile: the rest is in the result."""
        if position.end == "hungup" or position.memory == self.recorded:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(RECORD_RETRY_SECONDS):  # a Redis that hangs does not say that it is away
                if await self._until_done(lambda: self.record(position)):
                    self.recorded = position.memory
                    return True
        return not any(isinstance(event, flows.HungUp) for event in self.pending)

    def _playback_id(self, action_id: str) -> str:
        return f"{self.attempt_id}-{action_id}"

    async def _play(self, action: flows.Play) -> None:
        playback_id = self._playback_id(action.id)
        try:
            begun = await self._until_done(
                lambda: self.channel.play(playback_id, action.media), seconds=PLAY_RETRY_SECONDS
            )
        except Rejected:
            begun = False
        except NotFound:
            return await self._wait_for_hang_up()
        if not begun:
            self.pending.append(flows.Played(playback_id, ok=False))

    async def _stop_plays(self, step: Step) -> None:
        for action in step.actions:
            if isinstance(action, flows.StopPlay):
                await self._stop_play(action)

    async def _stop_play(self, action: flows.StopPlay) -> None:
        """What cannot be stopped (numbers and digits, in Asterisk) plays on; what is next waits for it."""
        playback_id = self._playback_id(action.id)
        with suppress(Rejected, NotFound):
            await self._until_done(lambda: self.channel.stop_playback(playback_id), seconds=STOP_RETRY_SECONDS)

    async def _take_off(self, action: flows.OptOut) -> None:
        try:
            if await self._until_done(self.opt_out):
                self.pending.append(flows.Done(action.id))
        except Rejected:
            self.pending.append(flows.Done(action.id, ok=False))

    async def _send_away(self, action: flows.Enqueue, position: Position) -> bool:
        """Recorded, before he goes, is that he has gone: who is found in our hands all the same after a crash is sent
        again, and who is in the queue is left there."""

        def prepare() -> Awaitable[None]:
            return self.channel.prepare(action.queue, action.timeout_seconds)

        try:
            if not await self._until_done(prepare, seconds=ENQUEUE_RETRY_SECONDS):
                self.pending.append(flows.Failed("Asterisk takes no orders"))
                return False
            self.recorded = None
            if not await self._keep(position):
                return False
            await self._until_done(self.channel.enqueue, seconds=ENQUEUE_RETRY_SECONDS)
        except Rejected as exc:
            self.pending.append(flows.Failed(f"the queue cannot be reached: {exc}"))
            return False
        except NotFound:
            await self._wait_for_hang_up()
            return False
        return not any(isinstance(event, flows.HungUp) for event in self.pending)

    async def _hang_up(self) -> None:
        with suppress(Rejected, NotFound):
            await self._until_done(self.channel.hangup, seconds=HANGUP_RETRY_SECONDS)

    async def _wait_for_hang_up(self) -> None:
        """The channel is gone, and who says so may be late or dumb: it was a hang-up all the same, and no failure of
        the flow, after which a plain rule would ring the callee again."""
        if not await self._hung_up_within(GONE_SECONDS):
            self.pending.append(flows.HungUp())

    # --- patience ---

    async def _until_done(self, act: Callable[[], Awaitable[None]], *, seconds: float | None = None) -> bool:
        """Try again while the port is unavailable, the call lives and the time lasts. True when it was done."""
        clock = asyncio.get_running_loop().time
        give_up_at = None if seconds is None else clock() + seconds
        for n in itertools.count():
            try:
                await act()
            except Unavailable:
                pause = BACKOFF_SECONDS[min(n, len(BACKOFF_SECONDS) - 1)]
                if give_up_at is not None and clock() + pause > give_up_at:
                    return False
            else:
                return True
            if await self._hung_up_within(pause):
                return False
        raise AssertionError("a count has no end")

    async def _hung_up_within(self, seconds: float) -> bool:
        """Wait, and keep what comes in the meantime for later; a hang-up ends the wait."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not any(isinstance(event, flows.HungUp) for event in self.pending):
            try:
                async with asyncio.timeout_at(deadline):
                    self.pending.append(await self.inbox.get())
            except TimeoutError:
                return False
        return True

    # --- what comes ---

    async def _next_event(self, position: Position) -> flows.Event:
        event = self.pending.popleft() if self.pending else await self._wait(position)
        if not isinstance(event, flows.Played):
            return event
        if not event.ok and event.id == self._playback_id(position.play) and await self._is_explained(event):
            return await self._next_event(position)
        # The interpreter knows its plays by their short ids; a playback of another life is none of them.
        prefix = self._playback_id("")
        return replace(event, id=event.id.removeprefix(prefix) if event.id.startswith(prefix) else "")

    async def _is_explained(self, failed: flows.Played) -> bool:
        """A hang-up ends the play as failed, too, and Asterisk may tell that first: what comes after a message
        must not happen for one who did not listen to its end."""
        if await self._hung_up_within(GRACE_SECONDS):
            return True
        return any(isinstance(event, flows.Played) and event.id == failed.id for event in self.pending)

    async def _wait(self, position: Position) -> flows.Event:
        """The next event from the inbox, or the timer, or the news that a play is over of which nobody told."""
        clock = asyncio.get_running_loop().time
        timer = self.timer if self.timer is not None and self.timer[0] == position.timer else None
        fires_at = None if timer is None else timer[1]
        while True:
            check_at = clock() + CHECK_SECONDS if position.play else None
            wake_at = min((at for at in (fires_at, check_at) if at is not None), default=None)
            try:
                async with asyncio.timeout_at(wake_at):
                    return await self.inbox.get()
            except TimeoutError:
                if timer is not None and wake_at == fires_at:
                    return flows.TimerFired(timer[0])
            playback_id = self._playback_id(position.play)
            if not await self._is_playing(playback_id):
                return flows.Played(playback_id, ok=False)

    async def _is_playing(self, playback_id: str) -> bool:
        try:
            return await self.channel.is_playing(playback_id)
        except NotFound:
            return False
        except (Unavailable, Rejected):
            return True  # nobody knows; the timer decides
