"""A pass: plan from memory, claim what the plan allows, hand the claimed attempts over to be driven."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import orjson

from dialer_engine import log
from dialer_engine.core.call import Event
from dialer_engine.core.model import AttemptId
from dialer_engine.core.pacing import Plan, plan
from dialer_engine.engine.attempt import Attempt
from dialer_engine.engine.board import Board
from dialer_engine.engine.desk import Desk
from dialer_engine.engine.lanes import Line
from dialer_engine.engine.scales import Heading
from dialer_engine.engine.supply import Offer
from dialer_engine.errors import Rejected, Unavailable
from dialer_engine.metrics import Metrics
from dialer_engine.store import Store
from dialer_engine.store.records import ClaimKind, ClaimOutcome, ClaimReply, ClaimRequest

LEASE_SECONDS = 120.0
"""An attempt whose daemon is silent for so long may be taken over by another."""
BATCH = 50
"""Contacts claimed in one script: more would hold up Redis' other clients."""
BUSY_SECONDS = 10.0
"""The store puts a contact whose number is on the telephone back for so long."""

_log = log.get("pass")


@dataclass(slots=True)
class Planner:
    store: Store
    board: Board
    desk: Desk
    owner: str
    clock: Callable[[], datetime]
    new_id: Callable[[], AttemptId]
    start: Callable[[Attempt], None]
    metrics: Metrics

    async def run_pass(self) -> None:
        """Read, plan, claim, start. Only the claims are waited for, all campaigns' together."""
        mono, now = asyncio.get_running_loop().time(), self.clock()
        lines, unserved = list(self.board.lines.values()), self.desk.unserved()
        facts = [line.facts(now, mono, unserved[Heading.of(line.campaign)]) for line in lines]
        facts += self.desk.holders(unserved)
        plans = plan(
            facts,
            {name: lane.facts(now, mono) for name, lane in self.board.lanes.items()},
            now=now,
            stopped=self.board.stopped,
            draining=self.board.draining,
            pbx_up=self.board.pbx_up and mono >= self.board.pbx_refuses_until,
            store_up=self.board.store_trouble is None,
            queues=self.desk.queues(facts, now),
            queue_age_seconds=self.desk.agents.age_seconds(),
        )
        planned_lines = list(zip(lines, plans, strict=False))  # who does not run starts nothing
        for line, planned in planned_lines:
            self._tell(line, planned)
        claims = [
            self._claim(line, self._offers(line, planned.originate, mono))
            for line, planned in planned_lines
            if planned.originate
        ]
        if claims:
            await asyncio.gather(*claims)

    def _tell(self, line: Line, planned: Plan) -> None:
        before, line.plan, line.credit = line.plan, planned, planned.credit
        line.agent_credit = planned.agent_credit
        self.metrics.planned(planned.campaign, planned.originate, planned.limit)
        if before is None or before.limit is not planned.limit:
            _log.info("planned", campaign=planned.campaign, limit=planned.limit, text=planned.text)

    def _offers(self, line: Line, count: int, mono: float) -> list[Offer]:
        brake = line.lane.brake
        if not brake.closed:
            return line.supply.take(min(count, BATCH))
        probe = line.supply.take_probe(lambda number: brake.want_probe(number, mono))
        if probe is None:
            # All that are held were refused before: one of them has to do.
            probe = line.supply.take_probe(lambda number: brake.want_probe(number, mono, last_resort=True))
        return [] if probe is None else [probe]

    async def _claim(self, line: Line, offers: list[Offer]) -> None:
        if not offers:
            return
        ids = [self.new_id() for _ in offers]
        until = line.opening(self.clock()).until
        campaign, trunk = line.campaign, line.lane.trunk
        self.board.begin_claim(ids)
        try:
            reply = await self.store.calls.claim(
                [_request(attempt_id, offer) for attempt_id, offer in zip(ids, offers, strict=True)],
                campaign=campaign.id,
                run=line.view.run,
                owner=self.owner,
                trunk=trunk.name,
                max_channels=campaign.max_channels,
                trunk_capacity=trunk.capacity,
                period_until_epoch=None if until is None else until.timestamp(),
                lease_seconds=LEASE_SECONDS,
                now=self.clock().timestamp(),
            )
        except Unavailable as exc:
            # Perhaps they are claimed: `recover` will find them under our name, and they still are in Redis if not.
            self.board.trouble(str(exc))
            line.supply.look_again()
            return
        except Rejected as exc:
            # A key of this campaign is not what it should be: the others dial on, and it tries again in a second.
            _log.error("claim refused", campaign=campaign.id, reason=str(exc))
            line.supply.suspend()
            return
        finally:
            self.board.end_claim(ids)
        self._take(line, list(zip(ids, offers, reply.outcomes, strict=True)), reply)

    def _take(
        self, line: Line, answers: list[tuple[AttemptId, Offer, ClaimOutcome]], reply: ClaimReply
    ) -> None:
        """No await stands between the claim's answer and the registration of what was claimed."""
        back = []
        for attempt_id, offer, answer in answers:
            match answer.kind:
                case ClaimKind.CLAIMED:
                    self._begin(line, attempt_id, offer)
                case ClaimKind.FORBIDDEN:
                    attempt = self._begin(line, attempt_id, offer)
                    attempt.feed(Event.FORBIDDEN, self.clock(), value=answer.reason)
                case ClaimKind.NUMBER_BUSY:
                    line.supply.hear_of(self.clock().timestamp() + BUSY_SECONDS)
                case ClaimKind.GONE:
                    line.supply.look_again()
                case ClaimKind.FULL:
                    back.append(offer)
                case ClaimKind.STOPPED:
                    back.append(offer)
                    self.board.look.set()
        line.supply.put_back(back)
        line.supply.hear_of(reply.next_due_at)
        line.others = max(0, reply.campaign_live - line.own)
        line.lane.others = max(0, reply.trunk_live - line.lane.own)
        self.board.hear_of_all(line.campaign.id, line.campaign, reply.campaign_live, reply.campaign_served)

    def _begin(self, line: Line, attempt_id: AttemptId, offer: Offer) -> Attempt:
        attempt = Attempt(
            id=attempt_id,
            campaign=line.campaign,
            run=line.view.run,
            due=offer.due,
            trunk=line.lane.trunk,
            number=offer.number,
            attributes=offer.attributes,
            flow=line.flow,
            slot_at=line.slot(asyncio.get_running_loop().time()),
            departure=line.departure,
        )
        line.lane.unheard.add(attempt_id)
        if line.lane.brake.closed:
            line.lane.brake.probed(asyncio.get_running_loop().time())
        self.board.register(attempt)
        self.start(attempt)
        return attempt


def _request(attempt_id: AttemptId, offer: Offer) -> ClaimRequest:
    return ClaimRequest(
        attempt_id=attempt_id,
        due=offer.due,
        number=offer.number.submitted,
        identity=offer.number.identity,
        attributes=orjson.dumps(offer.attributes).decode(),
    )
