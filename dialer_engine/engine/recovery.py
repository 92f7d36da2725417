"""What a dead process left behind, or a lost reply: attempts under our name that nobody drives.

Claimed and not sent: Redis has made them due again, unchanged. Sent: they are on the board again, and their
driver asks Asterisk. Ringing ones are adopted, answered ones go on at the block last recorded, and what Asterisk
does not know any more is settled as UNKNOWN with everything recorded so far.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import orjson

from dialer_engine import log
from dialer_engine.core.call import Call, Event, Phase
from dialer_engine.core.compliance import Number
from dialer_engine.core.flow import Flow, Position
from dialer_engine.core.flow.blocks import HangUpBlock
from dialer_engine.core.model import ActivePeriod, Campaign, IvrId, Trunk
from dialer_engine.core.queued import Stay
from dialer_engine.engine.attempt import Attempt
from dialer_engine.engine.board import Board
from dialer_engine.engine.passes import LEASE_SECONDS
from dialer_engine.errors import Invalid
from dialer_engine.store import Store
from dialer_engine.store.records import AttemptRecord

DEAD_AFTER_SECONDS = 30.0
"""A daemon whose heartbeat is older is dead; its attempts are taken over when their leases have run out, too. Not by
one whose own heart has not beaten for so long: what silenced him (an outage of Redis, a pause of all hosts, a step of
its clock) may have silenced the other, who needs the time to tell that he lives."""
GAP_SECONDS = 10.0
"""Between two heartbeats, which come every second: a longer one is a silence."""

_log = log.get("recovery")

_NO_FLOW = Flow("gone", "end", {"end": HangUpBlock()})
"""For a call whose campaign or IVR cannot be used any more: it is hung up, with what it has said so far."""


@dataclass(slots=True)
class Recovery:
    store: Store
    board: Board
    owner: str
    clock: Callable[[], datetime]
    start: Callable[[Attempt], None]
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _beat_at: float = field(default=-math.inf, init=False)
    _beats_since: float = field(default=math.inf, init=False)  # without a silence

    async def run(self, *, wanted: str | None = None) -> None:
        """Find them and carry them on: only when all of ours are accounted for may anything new be dialed. Raises
        Unavailable and Rejected. `wanted`: the channel for whose sake it is asked; nothing to do once it is found.

        Not before the campaigns have been read: a call adopted without its flow is hung up.
        """
        await self.board.looked.wait()
        async with self._turn:  # at a start the strays ask for it as well, each of them
            if wanted in self.board.channels:
                return
            # Cleared before they are read: a claim whose reply is lost meanwhile makes a further stray.
            self.board.strays = False
            try:
                await self._find()
            except BaseException:
                self.board.strays = True
                raise

    def take_beat(self, at: float) -> None:
        """A heartbeat of ours has got through, at this instant of Redis' clock."""
        if not 0 <= at - self._beat_at < GAP_SECONDS:
            self._beats_since = at
        self._beat_at = at

    def _may_judge(self, now: float) -> bool:
        """Has our own heart beaten for long enough, until now?"""
        return now - self._beat_at < GAP_SECONDS and now - self._beats_since >= DEAD_AFTER_SECONDS

    async def _find(self) -> None:
        now = await self.store.time()
        found = await self.store.calls.recover(
            self.owner,
            known=[*self.board.attempts, *self.board.claiming],
            lease_seconds=LEASE_SECONDS,
            dead_after_seconds=DEAD_AFTER_SECONDS if self._may_judge(now) else math.inf,
            now=now,
        )
        for record in found.attempts:
            if record.id not in self.board.attempts:
                self._adopt(record)
        if found.attempts or found.released:
            _log.warning("recovered", adopted=len(found.attempts), released=found.released)
            for line in self.board.lines.values():
                line.supply.look_again()

    def _adopt(self, record: AttemptRecord) -> None:
        try:
            attempt = self._revive(record)
        except (ValueError, OverflowError, Invalid) as exc:
            # Written by another version, or by another hand. It must not keep the others, or us, from starting: of
            # this call no more is known than that it was sent, and Asterisk is asked for the rest.
            _log.error("record unreadable", attempt=record.id, reason=str(exc))
            sent_at = self.clock().timestamp()
            attempt = self._revive(
                replace(record, phase=Phase.SENT, sent_at=sent_at, progress={}, attributes="{}")
            )
        self.board.register(attempt)
        self.start(attempt)

    def _revive(self, record: AttemptRecord) -> Attempt:
        campaign, flow = self.board.usable.get(record.campaign, (_bare_campaign(record), _NO_FLOW))
        position = _position(record)
        lane = self.board.lanes.get(record.trunk)
        attempt = Attempt(
            id=record.id,
            campaign=campaign,
            run=record.run,
            due=record.due,
            trunk=lane.trunk if lane else Trunk(record.trunk, "PJSIP/${num}"),
            number=Number(record.number, record.number, record.identity),
            attributes=_attributes(record),
            flow=flow,
            adopted=True,
            heard=True,
            call=_call(record),
            position=position,
            stay=Stay.from_fields(record.progress),
        )
        attempt.call.dial_timeout_seconds = campaign.dial_timeout_seconds
        attempt.announced = attempt.call.was_connected
        if record.forbidden is not None:
            attempt.feed(Event.FORBIDDEN, self.clock(), value=record.forbidden)
        elif not attempt.call.ended:  # an ended one was held for its agent's word
            attempt.feed(Event.DEAF, self.clock())
        return attempt


def _call(record: AttemptRecord) -> Call:
    """The facts as last written; a call that had shown nothing yet was sent, and no more is known."""
    call = Call.from_fields({**record.progress, "phase": "CLAIMED"}) if record.forbidden else None
    if call is not None:
        return call
    shown = record.phase not in (Phase.CLAIMED, Phase.SENT)  # the store's own two words come without facts
    call = Call.from_fields({**record.progress, "phase": record.phase}) if shown else Call()
    if record.sent_at is not None and call.phase is Phase.CLAIMED:
        call.feed(Event.MARK_SENT, datetime.fromtimestamp(record.sent_at, UTC))
    return call


def _attributes(record: AttemptRecord) -> Mapping[str, object]:
    found = orjson.loads(record.attributes)
    if not isinstance(found, dict):
        raise ValueError("its attributes are no object")  # noqa: TRY004 - as whatever else cannot be read
    return found


def _position(record: AttemptRecord) -> Position | None:
    text = record.progress.get("position")
    return Position.from_json(text) if text else None


def _bare_campaign(record: AttemptRecord) -> Campaign:
    period = ActivePeriod(0, 0, frozenset(range(1, 8)), "UTC")
    return Campaign(record.campaign, "", "", period, (), IvrId(""))
