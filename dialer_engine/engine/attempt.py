"""One attempt: a call driven from its slot to its end, and never settled here.

What became of the call is read from the facts (`Attempt.call`, `said`, `verdict`) by its owner when the
task is done, however it is done: so a cancellation at any await, or before the first step, settles exactly once.
Events are fed into the facts the moment they arrive, not when the task gets to run; the task only looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from zoneinfo import ZoneInfo

from dialer_engine import ivr, log
from dialer_engine.ari import (
    AriEvent,
    AriState,
    ChannelDestroyed,
    ChannelDtmfReceived,
    ChannelSnapshot,
    ChannelStateChange,
    ChannelUserevent,
    Dial,
    HangupReason,
    NotSent,
    PlaybackFinished,
    StasisEnd,
    StasisStart,
)
from dialer_engine.core import compliance
from dialer_engine.core import flow as flows
from dialer_engine.core.call import Call, Event, Phase, next_deadline
from dialer_engine.core.compliance import Number, NumberPolicy
from dialer_engine.core.model import AttemptId, Campaign, Due, Trunk
from dialer_engine.core.schedule import may_start, opening
from dialer_engine.errors import Invalid, NotFound, Rejected, Unavailable
from dialer_engine.store import Store
from dialer_engine.store.records import DoNotCall, ProgressKind, SentKind

STALE_SECONDS = 15.0
"""An older permission to send counts no more. Leases last longer, and Redis answers sooner or not at all."""
ASK_AGAIN_SECONDS = 1.0
"""Between two questions to a PBX that does not answer, or that has been told to hang up."""

OTHER_SOCKET_SECONDS = 0.25
"""Two sockets have no order between them: so long what is late on one is waited for."""

_log = log.get("attempt")


class Pbx(Protocol):
    """What the engine wants of Asterisk; `ari.Ari` is it, and the tests have one in memory."""

    @property
    def connected(self) -> bool: ...
    @property
    def state(self) -> AriState: ...
    async def originate(
        self,
        channel_id: str,
        *,
        endpoint: str,
        caller_id: str,
        timeout_seconds: float,
        other_channel_id: str | None = None,
    ) -> None: ...
    async def channel(self, channel_id: str) -> ChannelSnapshot | None: ...
    async def application_channels(self) -> list[str]: ...
    async def subscribe(self, source: str) -> None: ...
    async def hangup(self, channel_id: str, reason: HangupReason = "normal") -> bool: ...
    async def play(self, channel_id: str, media: Sequence[str], playback_id: str) -> None: ...
    async def stop_playback(self, playback_id: str) -> bool: ...
    async def is_playing(self, playback_id: str) -> bool: ...


class Verdict(StrEnum):
    """What its owner has to do with an attempt whose task is done."""

    SETTLE = "SETTLE"
    RELEASE = "RELEASE"  # nothing was sent: due again exactly where it was
    LEAVE = "LEAVE"  # the daemon ends and the call goes on: the next start adopts it


@dataclass(slots=True, eq=False)
class Attempt:
    """One claimed contact and the facts of its call. The campaign is the one of the claim; edits come too late."""

    id: AttemptId
    campaign: Campaign
    run: int
    due: Due
    trunk: Trunk
    number: Number
    attributes: Mapping[str, object]
    flow: flows.Flow
    slot_at: float = 0.0  # by the loop's clock: not before this, so that rates are kept
    departure: Callable[[float], float] = float  # when it may really leave, once nothing forbids it
    adopted: bool = False
    call: Call = field(default_factory=Call)
    position: flows.Position | None = None
    flow_result: flows.FlowResult | None = None
    verdict: Verdict = Verdict.SETTLE
    legs: dict[str, bool] = field(default_factory=dict)  # dialed by the far half of a Local/ channel; over?
    posting: bool = False  # the originate is out and unanswered
    looking: bool = False  # somebody asks Asterisk about it
    heard_at: float = 0.0  # the last event, by the loop's clock
    heard: bool = False  # the trunk has shown that it works, or not
    inbox: asyncio.Queue[flows.Event] = field(default_factory=asyncio.Queue)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def far_id(self) -> str:
        """The id of the far half of a Local/ channel: as wide as ours, so that none is a prefix of another."""
        return f"f{self.id[1:]}"

    @property
    def said(self) -> flows.FlowResult | None:
        """What the flow came to; of a call that ended before its flow went on again, what was recorded."""
        if self.flow_result is None and self.position is not None:
            return flows.FlowResult.of(self.position)
        return self.flow_result

    def feed(self, event: Event, at: datetime, **facts: int | str | bool | None) -> bool:
        """Take what has happened into the facts and let the task look at them."""
        taken = self.call.feed(event, at, **facts)  # type: ignore[arg-type]
        if taken and self.call.ended:
            self._tell_flow_of_end()
        self.changed.set()
        return taken

    def _tell_flow_of_end(self) -> None:
        """Keys come over another socket than the end of a Local/ channel: the last one gets a moment to arrive."""
        if self.trunk.is_local and self.call.entered:
            asyncio.get_running_loop().call_later(OTHER_SOCKET_SECONDS, self.inbox.put_nowait, flows.HungUp())
        else:
            self.inbox.put_nowait(flows.HungUp())

    def hear(self, event: AriEvent, at: datetime) -> None:
        """What Asterisk says about our channel, or about what is behind a Local/ one, as an event of the call."""
        if self.call.ended:
            return  # what two sockets hear is told twice
        match event:
            case Dial():
                self._hear_dial(event, at)
            case ChannelStateChange():
                self._hear_state(event, at)
            case StasisStart() if event.channel.state == "Up":
                self.feed(Event.ENTERED, at)
            case ChannelDestroyed():
                self._hear_end(event, at)
            case ChannelUserevent(eventname="CALLSTATUS"):
                self.feed(Event.STATUS, at, value=str(event.fields.get("V", "")).strip()[:40] or None)
            case ChannelDtmfReceived():
                self.inbox.put_nowait(flows.Key(event.digit))
            case PlaybackFinished():
                self.inbox.put_nowait(flows.Played(event.playback.id, ok=event.playback.state != "failed"))
            case StasisEnd():
                self.inbox.put_nowait(flows.HungUp())  # no flow of ours sends a call on yet: it is over
            case _:
                pass  # of no consequence for a call

    def _hear_state(self, event: ChannelStateChange, at: datetime) -> None:
        far = event.channel_id != self.id
        if event.channel.state == "Ringing":
            self.feed(Event.RINGING, at, far=far)
        elif event.channel.state == "Up" and not far:
            self.feed(Event.ANSWERED, at)

    def _hear_end(self, event: ChannelDestroyed, at: datetime) -> None:
        def end() -> None:
            self.feed(Event.GONE, at, cause=event.cause, sip_code=event.tech_cause, far=far)

        far = event.channel_id != self.id
        if event.channel_id in self.legs:
            self.legs[event.channel_id] = True
        elif event.channel_id == self.far_id and self.call.far_cause is not None:
            return  # a dialplan ends as it likes; the leg behind it knows the cause
        waits = self.call.far_cause is None or not all(self.legs.values())
        if self.trunk.is_local and not far and not self.call.was_answered and waits:
            # The leg behind it knows the cause, and its end may come a little later.
            asyncio.get_running_loop().call_later(OTHER_SOCKET_SECONDS, end)
        else:
            end()

    def _hear_dial(self, event: Dial, at: datetime) -> None:
        far = event.channel_id != self.id
        match event.dialstatus:
            case "":
                self.feed(Event.DIALING, at, far=far)
            case "RINGING":
                self.feed(Event.RINGING, at, far=far)
            case "PROGRESS":
                self.feed(Event.PROGRESS, at, far=far)
            case "ANSWER":
                if not far:
                    self.feed(Event.ANSWERED, at)
            case "PROCEEDING":
                pass
            case status:
                self.feed(Event.DIAL_ENDED, at, dial_status=status, far=far)


class _NotOurs(Exception):
    """Another daemon drives this call now."""


@dataclass(slots=True)
class Driver:
    """Carries attempts through. It holds the ports, the attempt holds the facts."""

    store: Store
    pbx: Pbx
    owner: str
    policy: NumberPolicy
    clock: Callable[[], datetime]
    halted: Callable[[Attempt], bool]  # may nothing of its campaign start any more?
    sent: Callable[[], None]  # Asterisk takes originates
    unsent: Callable[[NotSent], None]  # or does not

    async def drive(self, attempt: Attempt) -> None:
        """From the slot, or from where a dead process left it, to the end of the call."""
        if attempt.adopted:
            await self.look(attempt)
        else:
            await self._send(attempt)
        try:
            await self._follow(attempt)
        except _NotOurs:
            attempt.verdict = Verdict.LEAVE
            _log.warning("taken over by another daemon", attempt=attempt.id)

    # --- before the call ---

    async def _send(self, attempt: Attempt) -> None:
        """Mark it sent, then originate, once; whatever fails before that releases or settles it."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, attempt.slot_at - loop.time()))
        endpoint = self._endpoint(attempt)
        asked = self.clock()
        if endpoint is None or attempt.call.ended or not await self._may_send(attempt):
            return
        await asyncio.sleep(max(0.0, attempt.departure(loop.time()) - loop.time()))
        # Had we been frozen since then, somebody else may have taken the call over and settled it.
        stale = (self.clock() - asked).total_seconds() > STALE_SECONDS
        if stale or not self._may_start(attempt):
            return
        attempt.call.dial_timeout_seconds = attempt.campaign.dial_timeout_seconds
        attempt.feed(Event.MARK_SENT, self.clock())
        attempt.posting = True
        try:
            await self.pbx.originate(
                attempt.id,
                endpoint=endpoint,
                caller_id=attempt.campaign.caller_id,
                timeout_seconds=attempt.campaign.dial_timeout_seconds,
                other_channel_id=attempt.far_id if attempt.trunk.is_local else None,
            )
        except Rejected as exc:
            attempt.feed(Event.REFUSED, self.clock())
            _log.info("originate refused", attempt=attempt.id, trunk=attempt.trunk.name, reason=str(exc))
        except NotSent as exc:
            attempt.verdict = Verdict.RELEASE
            self.unsent(exc)
        except Unavailable as exc:
            # Perhaps it rings now. It is never sent again: events, or the deadline's question, tell its fate.
            _log.warning("originate in doubt", attempt=attempt.id, reason=str(exc))
        else:
            self.sent()
        finally:
            attempt.posting = False

    def _endpoint(self, attempt: Attempt) -> str | None:
        number = attempt.number
        try:
            compliance.normalise(
                number.submitted, self.policy
            )  # its row may have been rewritten since it was read
            return compliance.dial(attempt.trunk, number.dialed, identity=number.identity, policy=self.policy)
        except Invalid as exc:
            attempt.feed(Event.FORBIDDEN, self.clock(), value=exc.problems[0].reason)
            return None

    async def _may_send(self, attempt: Attempt) -> bool:
        """The last look before the telephone rings: the period, then (in one script) the rest.

        The record says SENT after it. The call stays CLAIMED until the originate goes out, and what is CLAIMED at
        its end is released: we know that nothing was sent.
        """
        if not self._may_start(attempt) or not self.pbx.connected:
            return False
        now = self.clock().timestamp()
        reply = await self.store.calls.mark_sent(attempt.id, owner=self.owner, now=now)
        match reply.kind:
            case SentKind.OK:
                return True
            case SentKind.FORBIDDEN:
                attempt.feed(Event.FORBIDDEN, self.clock(), value=reply.reason)
            case SentKind.STOPPED:
                pass
            case SentKind.GONE:
                attempt.verdict = Verdict.LEAVE  # another daemon has taken it over
        return False

    def _may_start(self, attempt: Attempt) -> bool:
        now = self.clock()
        return not self.halted(attempt) and may_start(opening(attempt.campaign.active_period, now), now)

    # --- while it lives ---

    async def _follow(self, attempt: Attempt) -> None:
        call = attempt.call
        noted: Phase | None = None
        while not call.ended and call.phase is not Phase.CLAIMED and attempt.verdict is Verdict.SETTLE:
            attempt.changed.clear()
            if call.phase is Phase.ANSWERED and call.entered and attempt.flow_result is None:
                await self._converse(attempt)
            elif call.phase is Phase.RINGING and noted is not Phase.RINGING:
                noted = Phase.RINGING
                await self._note(attempt)
            elif not await self._changed(attempt):
                await self._overdue(attempt)

    async def _note(self, attempt: Attempt) -> None:
        """What a ringing call has shown so far. Not worth a wait: Asterisk can be asked after a crash."""
        with suppress(Unavailable):
            await self._record(attempt, attempt.call.to_fields())

    async def _record(self, attempt: Attempt, fields: Mapping[str, str]) -> None:
        """Raises _NotOurs when another daemon has taken the call over: we were frozen, or cut off from Redis.

        A record that Redis has lost is no reason to leave the callee alone: the call goes on, its result is logged.
        """
        now = self.clock().timestamp()
        kind = await self.store.calls.progress(attempt.id, fields, owner=self.owner, now=now)
        if kind is ProgressKind.OTHER:
            raise _NotOurs
        if kind is ProgressKind.GONE:
            _log.error("attempt lost by redis", attempt=attempt.id)

    async def _changed(self, attempt: Attempt) -> bool:
        """Wait for news; False when the deadline came first."""
        campaign = attempt.campaign
        deadline = next_deadline(
            attempt.call, campaign.dial_timeout_seconds, campaign.max_call_duration_seconds
        )
        seconds = None if deadline is None else max(0.0, (deadline - self.clock()).total_seconds())
        try:
            async with asyncio.timeout(seconds):
                await attempt.changed.wait()
        except TimeoutError:
            return False
        return True

    async def _overdue(self, attempt: Attempt) -> None:
        """Nothing was heard for too long: ask, and end what should have ended."""
        phase = attempt.call.phase
        await self.look(attempt)
        if attempt.call.phase is not phase:
            return  # the deadline was that of a ring, and it has been answered: nobody had told
        now = self.clock()
        match phase:
            case Phase.SENT | Phase.RINGING:
                attempt.feed(Event.TIMED_OUT, now)
                await self._hang_up(attempt, "no_answer")
            case Phase.ANSWERED:
                attempt.feed(Event.CANCELLED, now)
                await self._hang_up(attempt, "normal")
            case Phase.QUEUED | Phase.HANDED_OVER | Phase.CONNECTED:
                attempt.feed(Event.ALIVE, now)
            case Phase.CLAIMED | Phase.ENDED:
                pass

    async def _hang_up(self, attempt: Attempt, reason: HangupReason) -> None:
        """Order the end and give its event a moment; the caller looks again."""
        with suppress(Unavailable, Rejected, NotFound):
            await self.pbx.hangup(attempt.id, reason)
        await self._ended_soon(attempt)

    async def _ended_soon(self, attempt: Attempt) -> bool:
        """Has it ended, or does it within a moment?"""
        with suppress(TimeoutError):
            async with asyncio.timeout(ASK_AGAIN_SECONDS):
                while not attempt.call.ended:
                    attempt.changed.clear()
                    await attempt.changed.wait()
        return attempt.call.ended

    async def look(self, attempt: Attempt) -> None:
        """Ask Asterisk what has become of the channel, as often as it takes; for calls whose events were missed.

        The attempt is registered before, so an event that overtakes the answer is not lost. Subscribing again
        does no harm and brings the events of a channel whose application Asterisk had forgotten.
        """
        if attempt.looking:
            return
        attempt.looking = True
        try:
            await self._look(attempt)
        finally:
            attempt.looking = False

    async def _look(self, attempt: Attempt) -> None:
        while not attempt.call.ended:
            try:
                snapshot = await self.pbx.channel(attempt.id)
                if snapshot is not None and self.pbx.connected:
                    await self.pbx.subscribe(f"channel:{attempt.id}")
                break
            except (NotFound, Rejected, Unavailable):  # not found: it ended between the two questions
                await asyncio.sleep(ASK_AGAIN_SECONDS)
        else:
            return
        now = self.clock()
        if snapshot is None:
            ours = attempt.call.timed_out or attempt.call.cancelled_by_us
            attempt.feed(Event.GONE if ours else Event.UNKNOWN, now)
        elif snapshot.state == "Up":
            attempt.feed(Event.ANSWERED, now)
            if snapshot.dialplan.app_name == "Stasis":
                attempt.feed(Event.ENTERED, now)
        elif snapshot.state == "Ringing":
            attempt.feed(Event.RINGING, now)

    # --- with the callee ---

    async def _converse(self, attempt: Attempt) -> None:
        """Run the flow; when it is over the call is, too, unless the callee was first."""
        deadline = next_deadline(
            attempt.call, attempt.campaign.dial_timeout_seconds, attempt.campaign.max_call_duration_seconds
        )
        seconds = None if deadline is None else max(0.0, (deadline - self.clock()).total_seconds())
        try:
            async with asyncio.timeout(seconds):
                attempt.flow_result = await self._run_flow(attempt)
        except TimeoutError:
            attempt.feed(Event.CANCELLED, self.clock())
            said = attempt.position or flows.Position(attempt.flow.start)
            attempt.flow_result = flows.FlowResult.of(said)
            _log.info("call too long", attempt=attempt.id)
            await self._hang_up(attempt, "normal")
        while not await self._ended_soon(attempt):
            # The flow's own hang-up was ordered; when its end is not heard of, it is ordered again.
            await self._hang_up(attempt, "normal")
            await self.look(attempt)

    async def _run_flow(self, attempt: Attempt) -> flows.FlowResult:
        async def record(position: flows.Position) -> None:
            attempt.position = position
            await self._record(attempt, {**attempt.call.to_fields(), "position": position.to_json()})

        zone = ZoneInfo(attempt.campaign.active_period.timezone)
        return await ivr.run(
            attempt.flow,
            attempt.position,
            attempt_id=attempt.id,
            attributes={name: str(value) for name, value in attempt.attributes.items()},
            channel=_Channel(self.pbx, attempt.id),
            inbox=attempt.inbox,
            record=record,
            opt_out=lambda: opt_out(self.store, attempt, self.clock()),
            now=lambda: self.clock().astimezone(zone),
        )


async def opt_out(store: Store, attempt: Attempt, now: datetime) -> None:
    """The callee wants no more calls, of any campaign. Written twice it says the same."""
    entry = DoNotCall(attempt.number.identity, reason="opt-out in a call", by=attempt.id, at=now.timestamp())
    await store.do_not_call.add(entry)


@dataclass(frozen=True, slots=True)
class _Channel:
    """The callee's channel as ivr wants it."""

    pbx: Pbx
    id: AttemptId

    async def play(self, playback_id: str, media: Sequence[str]) -> None:
        await self.pbx.play(self.id, media, playback_id)

    async def stop_playback(self, playback_id: str) -> None:
        await self.pbx.stop_playback(playback_id)

    async def is_playing(self, playback_id: str) -> bool:
        return await self.pbx.is_playing(playback_id)

    async def hangup(self) -> None:
        await self.pbx.hangup(self.id)
