"""The end of an attempt: what it came to, what follows for its contact, and both written down exactly once.

The writing is retried until Redis takes it; the attempt stays on the board meanwhile, so that no more results
can wait than there were live calls.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from dialer_engine import log
from dialer_engine.core import reschedule
from dialer_engine.core.call import Phase, outcome
from dialer_engine.core.model import Due, Outcome, RescheduleRule
from dialer_engine.core.trunk import code_text, counts_against_trunk, got_through
from dialer_engine.engine.attempt import Attempt, Pbx, Verdict
from dialer_engine.engine.board import Board
from dialer_engine.engine.desk import Desk
from dialer_engine.engine.driver import opt_out
from dialer_engine.errors import NotFound, Rejected, Unavailable
from dialer_engine.metrics import Metrics
from dialer_engine.store import Store
from dialer_engine.store.records import Closed, Next, RedialAt, SettleKind

RETURN_SECONDS = 10.0
"""A contact refused before an INVITE comes back after so long: others show meanwhile whether it is the trunk."""
BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0)
HANGUP_TRIES = 5
LONGEST_HOLD_SECONDS = 60.0
"""So long, at most, a result waits for the agent's word, while he wraps up."""

T = TypeVar("T")

_log = log.get("settling")


@dataclass(slots=True)
class Settler:
    store: Store
    pbx: Pbx
    board: Board
    desk: Desk
    owner: str
    clock: Callable[[], datetime]
    metrics: Metrics

    async def end(self, attempt: Attempt) -> None:
        """What the attempt's task has left to do, however it ended; whatever happens, its slot is free after it."""
        try:
            await self._end(attempt)
        finally:
            self.board.forget(attempt)

    async def _end(self, attempt: Attempt) -> None:
        match attempt.verdict:
            case Verdict.SETTLE:
                await self._settle(attempt)
            case Verdict.RELEASE:
                await self._until_written(
                    attempt, lambda: self.store.calls.release(attempt.id, owner=self.owner)
                )
                self._returned(attempt)
            case Verdict.LEAVE:
                pass

    async def _settle(self, attempt: Attempt) -> None:
        await self._silence(attempt)
        self._judge_trunk(attempt, outcome(attempt.call, attempt.said))
        if attempt.said is not None and attempt.said.opted_out:
            # Who hung up before his wish was written has said it all the same.
            await self._until_written(attempt, lambda: opt_out(self.store, attempt, self.clock()))
        if attempt.call.was_connected and not await self._hold(attempt):
            return  # the next start settles it
        disposition = await self._disposition(attempt) if attempt.call.was_connected else None
        while True:
            result = _with_word(attempt, outcome(attempt.call, attempt.said), disposition)
            following = self._after(attempt, result)
            kind, asked = await self._write(attempt, result, following, disposition)
            if kind is not SettleKind.CHANGED:
                break
            disposition = await self._disposition(attempt)
        self._tell(attempt, result, following, first=kind is SettleKind.DONE, asked=asked)

    async def _write(
        self, attempt: Attempt, result: Outcome, following: Next, disposition: str | None
    ) -> tuple[SettleKind, int]:
        """What Redis says, and how often it was asked."""
        asked = 0

        async def write() -> SettleKind:
            nonlocal asked
            asked += 1
            return await self.store.calls.settle(
                attempt.id,
                owner=self.owner,
                result=item(attempt, result),
                next=following,
                now=self._epoch(),
                disposition=disposition,
            )

        return await self._until_written(attempt, write), asked

    def _tell(self, attempt: Attempt, result: Outcome, following: Next, *, first: bool, asked: int) -> None:
        """`first`: nobody had written it before, nor we ourselves when we were not answered."""
        line = self.board.lines.get(attempt.campaign.id)
        if line is not None and isinstance(following, RedialAt):
            line.supply.hear_of(following.at)
        if not first and asked > 1:
            _log.warning("result written before, it seems", attempt=attempt.id, result=item(attempt, result))
        elif not first:
            _log.error("result not written", attempt=attempt.id, result=item(attempt, result))
        if first or asked > 1:
            self.metrics.settled(attempt.campaign.id, result.status)
        _log.info(
            "settled",
            campaign=attempt.campaign.id,
            attempt=attempt.id,
            number=attempt.number.submitted,
            status=result.status,
            ext_status=result.ext_status,
            cause=result.cause,
            sip_code=result.sip_code,
            first=first,
        )

    def _after(self, attempt: Attempt, result: Outcome) -> Next:
        """An edit of the rules counts at once, in whatever state the campaign is."""
        campaign, _ = self.board.usable.get(attempt.campaign.id, (attempt.campaign, None))
        return after(attempt, result, campaign.reschedule_rules, campaign.max_total_attempts, self.clock())

    async def _hold(self, attempt: Attempt) -> bool:
        """Until its agent has wrapped up: till then his word chooses the rule. False: the daemon ends before that.

        What it came to is recorded, so that a crash loses nothing.
        """
        stay, ended_at = attempt.stay, attempt.call.times.ended_at
        if stay is None or ended_at is None:
            return True
        talked_until = stay.talked_until or ended_at
        until = min(
            self.desk.wrap_up_ends_at(attempt, talked_until),
            talked_until + timedelta(seconds=LONGEST_HOLD_SECONDS),
        )
        seconds = (until - self.clock()).total_seconds()
        if seconds <= 0:
            return True
        fields = attempt.to_fields()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._until_written(
                    attempt,
                    lambda: self.store.calls.progress(attempt.id, fields, owner=self.owner, now=self._epoch()),
                )
                await self.board.leaving.wait()
                return False
        return True

    async def _disposition(self, attempt: Attempt) -> str | None:
        """What the agent has said of it."""
        record = await self._until_written(attempt, lambda: self.store.calls.read(attempt.id))
        return None if record is None else record.disposition

    async def _silence(self, attempt: Attempt) -> None:
        """No call may outlive its attempt: when the task failed, or was cancelled, the channel is still there. Who is
        with a queue or an agent is left there."""
        if attempt.call.ended or attempt.call.is_away or attempt.call.phase is Phase.CLAIMED:
            return
        for _ in range(HANGUP_TRIES):
            try:
                await self.pbx.hangup(attempt.id)
            except Unavailable:
                await asyncio.sleep(BACKOFF_SECONDS[-1])
            except (Rejected, NotFound):
                return
            else:
                return

    def _judge_trunk(self, attempt: Attempt, result: Outcome) -> None:
        mono, refused = asyncio.get_running_loop().time(), attempt.call.refused
        if counts_against_trunk(result, refused):
            self.board.trunk_refuses(attempt, code_text(result, refused), mono)
        elif got_through(result, attempt.call.reached):
            self.board.trunk_works(attempt, mono)

    def _returned(self, attempt: Attempt) -> None:
        line = self.board.lines.get(attempt.campaign.id)
        if line is not None:
            line.supply.look_again()

    async def _until_written(self, attempt: Attempt, write: Callable[[], Awaitable[T]]) -> T:
        """Every verb is idempotent, so a lost reply costs nothing but another try."""
        for n in itertools.count():
            try:
                return await write()
            except Unavailable as exc:
                self.board.trouble(str(exc))
            except Rejected as exc:
                # A right is missing, a key of this campaign is of another type. Somebody will mend it; results wait,
                # nothing new begins in the campaign, and the others dial on.
                if n == 0:
                    _log.error("writing refused", attempt=attempt.id, reason=str(exc))
                if (line := self.board.lines.get(attempt.campaign.id)) is not None:
                    line.supply.suspend()
            await asyncio.sleep(BACKOFF_SECONDS[min(n, len(BACKOFF_SECONDS) - 1)])
        raise AssertionError("a count has no end")

    def _epoch(self) -> float:
        return self.clock().timestamp()


def after(
    attempt: Attempt,
    result: Outcome,
    rules: tuple[RescheduleRule, ...],
    max_total_attempts: int | None,
    now: datetime,
) -> Next:
    """What follows for the contact."""
    contact, counts = attempt.due.contact, attempt.due.counts
    returned = reschedule.returned(counts) if attempt.call.refused else None
    if returned is not None:
        return RedialAt(Due(contact, returned), (now + timedelta(seconds=RETURN_SECONDS)).timestamp())
    decision = reschedule.decide(
        rules,
        result,
        counts,
        now=now,
        max_total_attempts=max_total_attempts,
        was_answered=attempt.call.was_answered,
    )
    match decision:
        case reschedule.Redial():
            return RedialAt(Due(contact, decision.counts), decision.at.timestamp())
        case reschedule.Close():
            return Closed()


def _with_word(attempt: Attempt, result: Outcome, disposition: str | None) -> Outcome:
    """The agent's word goes before the flow's. Whom no agent had, none can speak of: it was meant for another call, or
    says who let his telephone ring."""
    if disposition is None:
        return result
    if not attempt.call.was_connected:
        _log.warning("disposition of no agent dropped", attempt=attempt.id, ext_status=disposition)
        return result
    return replace(result, ext_status=disposition)


def item(attempt: Attempt, result: Outcome) -> dict[str, object]:
    """The result as spec section 7 shapes it; the store fills in what the attempt's record knows."""
    call, said, stay = attempt.call, attempt.said, attempt.stay
    times, abandon_after = call.times, attempt.campaign.endpoint.abandon_after_seconds
    return {
        "number": attempt.number.submitted,
        "status": result.status,
        "extStatus": result.ext_status,
        "values": dict(said.values) if said else {},
        "variables": dict(said.variables) if said else {},
        "path": list(said.path) if said else [],
        "notes": list(said.notes) if said else [],
        "cause": result.cause,
        "sipCode": result.sip_code,
        "agent": stay.agent if stay and call.was_connected else None,
        "recording": None,
        "originatedAt": _iso(times.originated_at),
        "ringingAt": _iso(times.ringing_at),
        "answeredAt": _iso(times.answered_at),
        "leftIvrAt": _iso(times.left_ivr_at),
        "connectedAt": _iso(times.connected_at),
        "endedAt": _iso(times.ended_at),
        "queue": stay and stay.shown(times, end_is_known=not call.unknown, abandon_after_seconds=abandon_after),
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")
