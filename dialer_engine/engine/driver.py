"""Carries one attempt from its slot to its end: sends it once, follows it, talks with the callee, asks when in doubt.

The attempt holds the facts, and they change while the task waits; the task only looks at them. What is with a queue or
an agent is watched and never touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from dialer_engine import ivr, log
from dialer_engine.ari import ChannelSnapshot, Dialplan, HangupReason, NotSent
from dialer_engine.core import compliance
from dialer_engine.core import flow as flows
from dialer_engine.core.call import Event, Phase, next_deadline
from dialer_engine.core.compliance import NumberPolicy
from dialer_engine.core.schedule import may_start, opening
from dialer_engine.engine.attempt import Attempt, Pbx, Verdict
from dialer_engine.engine.channel import CalleesChannel
from dialer_engine.engine.desk import Desk
from dialer_engine.errors import Invalid, NotFound, Rejected, Unavailable
from dialer_engine.store import Store
from dialer_engine.store.events import Kind
from dialer_engine.store.records import DoNotCall, ProgressKind, SentKind

STALE_SECONDS = 15.0
"""An older permission to send counts no more. Leases last longer, and Redis answers sooner or not at all."""
ASK_AGAIN_SECONDS = 1.0
"""Between two questions to a PBX that does not answer, or that has been told to hang up."""
NOTE_SECONDS = 0.2
"""So long Redis is waited for with how a call rings: it may be answered meanwhile, and is to be greeted then."""
LOOKS_AT_ONCE = 16
"""Half of our connections: whoever comes back to a thousand calls has keys to hear and people to play to meanwhile."""
LEAVING_SECONDS = 1.0
"""Who was sent to a queue so lately may not have left us yet."""
SEEK_SECONDS = 2.0
"""Between two questions about one whom AMI does not see; a dialplan may play him something before its queue."""
LONGEST_WAIT_SECONDS = 3600
"""Of one who was found in a queue, and of whom nobody knows how long he may wait there."""
QUEUE_APP, OUR_APP = "Queue", "Stasis"
"""Applications of the dialplan, as Asterisk names them."""

_log = log.get("attempt")


class _NotOurs(Exception):
    """Another daemon drives this call now."""


@dataclass(slots=True)
class Driver:
    """Carries attempts through. It holds the ports, the attempt holds the facts."""

    store: Store
    pbx: Pbx
    desk: Desk
    owner: str
    app: str  # our Stasis application, to which queues give calls back
    queue_context: str  # where the dialplan of queues begins
    policy: NumberPolicy
    clock: Callable[[], datetime]
    halted: Callable[[Attempt], bool]  # may nothing of its campaign start any more?
    sent: Callable[[], None]  # Asterisk takes originates
    unsent: Callable[[NotSent], None]  # or does not
    _looks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOOKS_AT_ONCE), init=False)

    async def drive(self, attempt: Attempt) -> None:
        """From the slot, or from where a dead process left it, to the end of the call."""
        try:
            if attempt.adopted and attempt.call.phase in (Phase.SENT, Phase.RINGING):
                await self._look_and_follow(attempt)
            else:
                await (self.look(attempt) if attempt.adopted else self._send(attempt))
                await self._follow(attempt)
        except _NotOurs:
            attempt.verdict = Verdict.LEAVE
            _log.warning("taken over by another daemon", attempt=attempt.id)

    async def _look_and_follow(self, attempt: Attempt) -> None:
        """Whoever rings may answer before he has been asked after, when a thousand are: he is greeted all the same."""
        looking = asyncio.create_task(self.look(attempt))
        try:
            await self._follow(attempt)
        finally:
            looking.cancel()
            await asyncio.wait([looking])

    # --- before the call ---

    async def _send(self, attempt: Attempt) -> None:
        """Mark it sent, then originate, once; whatever fails before that releases or settles it."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, attempt.slot_at - loop.time()))
        endpoint = self._endpoint(attempt)
        asked = self.clock()
        if endpoint is None or attempt.call.ended or not await self._may_send(attempt):
            return attempt.give_up()
        await asyncio.sleep(max(0.0, attempt.departure(loop.time()) - loop.time()))
        # Had we been frozen since then, somebody else may have taken the call over and settled it.
        stale = (self.clock() - asked).total_seconds() > STALE_SECONDS
        if stale or not self._may_start(attempt):
            return attempt.give_up()
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
        """The last look before the telephone rings: the period, then (in one script) the rest, and its row.

        The record says SENT after it. The call stays CLAIMED until the originate goes out, and what is CLAIMED at
        its end is released: we know that nothing was sent.
        """
        if not self._may_start(attempt) or not self.pbx.connected:
            return False
        now = self.clock().timestamp()
        reply, stands = await asyncio.gather(
            self.store.calls.mark_sent(attempt.id, owner=self.owner, now=now),
            self.store.reading.stands(attempt.due.contact),
        )
        match reply.kind:
            case SentKind.OK:
                return stands  # else struck out while it was held ready: released, it is closed where rows are read
            case SentKind.FORBIDDEN:
                attempt.feed(Event.FORBIDDEN, self.clock(), value=reply.reason)
            case SentKind.STOPPED:
                pass
            case SentKind.GONE:
                attempt.verdict = Verdict.LEAVE  # another daemon has taken it over
        return False

    def _may_start(self, attempt: Attempt) -> bool:
        """An agent, too, may have gone since it was claimed."""
        now = self.clock()
        is_open = may_start(opening(attempt.campaign.active_period, now), now)
        return not self.halted(attempt) and is_open and self.desk.warrants(attempt)

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
            elif call.is_away and attempt.given_back is not None:
                await self._take_back(attempt)
            elif not await self._changed(attempt):
                await self._overdue(attempt)

    async def _note(self, attempt: Attempt) -> None:
        """What a ringing call has shown so far. Not worth a wait: Asterisk can be asked after a crash."""
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(NOTE_SECONDS):
                await self._record(attempt, attempt.to_fields())

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
        if attempt.looking:  # somebody asks just now: what he learns counts
            with suppress(TimeoutError):
                async with asyncio.timeout(ASK_AGAIN_SECONDS):
                    await attempt.changed.wait()
            return
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
        if attempt.looking or attempt.over:
            return
        attempt.looking = True
        try:
            await self._look(attempt)
        finally:
            attempt.looking = False

    async def _look(self, attempt: Attempt) -> None:
        asked = _Asked()
        while not attempt.call.ended:
            try:
                async with self._looks:
                    snapshot = await self.pbx.channel(attempt.id)
                    if snapshot is not None and self.pbx.connected:
                        await self.pbx.subscribe(f"channel:{attempt.id}")
                    if attempt.call.is_away and _is_ours(snapshot):
                        asked = await self._ask(attempt)
                if not (_is_ours(snapshot) and self._has_just_left(attempt)):
                    break
            except (NotFound, Rejected, Unavailable):  # not found: it ended between the two questions
                pass
            await asyncio.sleep(ASK_AGAIN_SECONDS)
        else:
            return
        now = self.clock()
        if snapshot is None:
            ours = attempt.call.timed_out or attempt.call.cancelled_by_us
            attempt.feed(Event.GONE if ours else Event.UNKNOWN, now)
        elif snapshot.state == "Up":
            attempt.feed(Event.ANSWERED, now)
            self._find_up(attempt, snapshot.dialplan, asked)
        elif snapshot.state == "Ringing":
            attempt.feed(Event.RINGING, now)

    def _find_up(self, attempt: Attempt, place: Dialplan, asked: _Asked) -> None:
        if attempt.conversing:
            return
        if place.app_name == OUR_APP:
            self._find_in_our_hands(attempt, asked)
        elif place.app_name == QUEUE_APP:
            # Who is there though no record says so was sent while Redis was away, or by the dialplan.
            attempt.leave_for(place.exten, LONGEST_WAIT_SECONDS, self.clock())

    async def _ask(self, attempt: Attempt) -> _Asked:
        """What Queue() has left on the channel. Raises what a verb of the port does."""
        names = ("QUEUESTATUS", "QUEUEWAIT", "ANSWEREDTIME_MS")
        status, waited, talked = [await self.pbx.get_variable(attempt.id, name) or "" for name in names]
        return _Asked(status, _number(waited), _number(talked))

    def _find_in_our_hands(self, attempt: Attempt, asked: _Asked) -> None:
        """The queue has given it back, or it never left: then it is sent again."""
        now, talked = self.clock(), asked.talked_milliseconds
        status = attempt.given_back or asked.status
        if attempt.call.is_away and (status or attempt.given_back is not None):
            if status == "CONTINUE" and attempt.call.phase is Phase.QUEUED:
                attempt.feed(Event.CONNECTED, _connected_at(attempt, asked, now))
            attempt.come_back(status, now, talked_seconds=None if talked is None else talked / 1000)
        attempt.feed(Event.ENTERED, now)

    # --- with a queue, or an agent ---

    async def _take_back(self, attempt: Attempt) -> None:
        """It is in our hands again, and of what it did in the queue something may have been missed."""
        if attempt.looking:  # somebody asked before it was
            await asyncio.sleep(ASK_AGAIN_SECONDS)
            return
        await self.look(attempt)
        attempt.given_back = None

    async def seek(self, attempt: Attempt) -> None:
        """AMI sees the queues and does not see it among those who wait: it has an agent, of whom nobody told."""
        mono = asyncio.get_running_loop().time()
        if attempt.looking or attempt.conversing or mono < attempt.sought_at + SEEK_SECONDS:
            return
        attempt.looking, attempt.sought_at = True, mono
        try:
            snapshot = await self.pbx.channel(attempt.id)
            asked = await self._ask(attempt)
        except (NotFound, Rejected, Unavailable):
            return
        finally:
            attempt.looking = False
        if snapshot is None or snapshot.dialplan.app_name != QUEUE_APP:
            await self.look(attempt)
        elif attempt.call.phase is Phase.QUEUED and self.desk.has_lost(attempt):
            attempt.feed(Event.CONNECTED, _connected_at(attempt, asked, self.clock()))

    def _has_just_left(self, attempt: Attempt) -> bool:
        stay = attempt.stay if attempt.given_back is None else None
        return stay is not None and (self.clock() - stay.sent_at).total_seconds() < LEAVING_SECONDS

    async def announce(self, attempt: Attempt) -> None:
        """It has an agent: who that is, in Redis and for his screen, as soon as Redis takes it."""
        stay = attempt.stay
        if stay is not None and stay.agent is None:
            await self._learn_agent(attempt)
        shown = stay.shown(attempt.call.times, end_is_known=False, abandon_after_seconds=0.0) if stay else {}
        facts = {
            "campaign": attempt.campaign.id,
            "run": attempt.run,
            "attempt": attempt.id,
            "number": attempt.number.submitted,
            "agent": stay and stay.agent,
            "queue": stay and stay.queue,
            "attributes": attempt.attributes,
            "secondsToAgent": shown.get("secondsToAgent"),
        }
        while attempt.verdict is Verdict.SETTLE:
            now = self.clock().timestamp()
            fields = {**attempt.to_fields(), "phase": Phase.CONNECTED.value}
            try:
                if not attempt.call.ended:
                    await self.store.calls.progress(attempt.id, fields, owner=self.owner, now=now)
                await self.store.events.tell(Kind.CONNECTED, facts, now=now)
            except Unavailable:
                await asyncio.sleep(ASK_AGAIN_SECONDS)
            else:
                return

    async def _learn_agent(self, attempt: Attempt) -> None:
        """Of Asterisk, by setinterfacevar; else by the telephone that was rung, if AMI knows it."""
        stay = attempt.stay
        if stay is None:
            return
        name = interface = None
        with suppress(NotFound, Rejected, Unavailable):
            interface = await self.pbx.get_variable(attempt.id, "MEMBERINTERFACE")
            name = await self.pbx.get_variable(attempt.id, "MEMBERNAME")
        stay.interface = interface or stay.interface
        stay.agent = stay.agent or name or self.desk.name_of(stay.queue, stay.interface)

    # --- with the callee ---

    async def _converse(self, attempt: Attempt) -> None:
        """Run the flow; when it is over the call is, too, unless the callee was first."""
        deadline = next_deadline(
            attempt.call, attempt.campaign.dial_timeout_seconds, attempt.campaign.max_call_duration_seconds
        )
        seconds = None if deadline is None else max(0.0, (deadline - self.clock()).total_seconds())
        returned, attempt.returned = attempt.returned, None
        attempt.conversing = True
        try:
            async with asyncio.timeout(seconds):
                attempt.flow_result = await self._run_flow(attempt, returned)
        except TimeoutError:
            if attempt.call.is_away:
                return
            attempt.feed(Event.CANCELLED, self.clock())
            said = attempt.position or flows.Position(attempt.flow.start)
            attempt.flow_result = flows.FlowResult.of(said)
            _log.info("call too long", attempt=attempt.id)
            await self._hang_up(attempt, "normal")
        finally:
            attempt.conversing = False
        if attempt.flow_result is None:
            return  # it is in a queue
        while not await self._ended_soon(attempt):
            # The flow's own hang-up was ordered; when its end is not heard of, it is ordered again.
            await self._hang_up(attempt, "normal")
            await self.look(attempt)

    async def _run_flow(self, attempt: Attempt, returned: str | None) -> flows.FlowResult | None:
        async def record(position: flows.Position) -> None:
            attempt.position = position
            await self._record(attempt, {**attempt.to_fields(), "position": position.to_json()})

        zone = ZoneInfo(attempt.campaign.active_period.timezone)
        return await ivr.run(
            attempt.flow,
            attempt.position,
            attempt_id=attempt.id,
            attributes={name: str(value) for name, value in attempt.attributes.items()},
            channel=CalleesChannel(self.pbx, attempt, self.app, self.queue_context, self.clock),
            inbox=attempt.inbox,
            record=record,
            opt_out=lambda: opt_out(self.store, attempt, self.clock()),
            now=lambda: self.clock().astimezone(zone),
            returned=returned,
        )


async def opt_out(store: Store, attempt: Attempt, now: datetime) -> None:
    """The callee wants no more calls, of any campaign. Written twice it says the same."""
    entry = DoNotCall(attempt.number.identity, reason="opt-out in a call", by=attempt.id, at=now.timestamp())
    await store.do_not_call.add(entry)


class _Asked(NamedTuple):
    """Variables that app_queue sets on a caller; the times since Asterisk 22.9."""

    status: str = ""  # why it gave him back; empty: it has not
    waited_seconds: int | None = None  # for an agent; None: for none yet, or nobody knows
    talked_milliseconds: int | None = None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _connected_at(attempt: Attempt, asked: _Asked, now: datetime) -> datetime:
    """When the agent took it, as near as can be told."""
    stay = attempt.stay
    if stay is not None and stay.answered_at is not None:
        return stay.answered_at
    if stay is None or asked.waited_seconds is None:
        return now
    return min(now, (stay.joined_at or stay.sent_at) + timedelta(seconds=asked.waited_seconds))


def _is_ours(snapshot: ChannelSnapshot | None) -> bool:
    """Up, and in our application."""
    return snapshot is not None and snapshot.state == "Up" and snapshot.dialplan.app_name == OUR_APP
