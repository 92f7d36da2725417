"""What a pass reads: the campaigns that run and the trunks that carry them, as this daemon knows them.

Nothing here is the truth. Redis holds it, every claim is checked against it, and every snapshot and every reply
of a claim brings these views back to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from dialer_engine.core.flow import Flow
from dialer_engine.core.model import AttemptId, Campaign, QueueName, Trunk, WhenDone
from dialer_engine.core.pacing import CampaignFacts, Plan, TrunkFacts, boost_factor
from dialer_engine.core.schedule import Opening, may_start, opening
from dialer_engine.core.trunk import Brake, Bucket
from dialer_engine.engine.supply import Supply
from dialer_engine.store.records import CampaignView

AHEAD_SECONDS = 0.2
"""A pass claims the calls whose slots come so soon; each waits for its slot, and is asked there whether it still may
go. It is much more than the floor between passes: what a pass, Redis or a busy machine takes longer must not eat up
slots, for a rate never catches up."""


class Pace:
    """A rate, kept twice: slots are given out ahead of time, and calls leave spaced, too.

    A slot alone would not do: what waits for Redis goes on when the answers come, and they come in bunches.
    """

    __slots__ = ("_departures", "_slots")

    def __init__(self, rate: float | None) -> None:
        self._slots, self._departures = Bucket(rate), Bucket(rate)

    @property
    def rate(self) -> float | None:
        return self._slots.rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        self._slots.rate = self._departures.rate = rate

    def next_at(self, mono: float) -> float:
        """The next free slot."""
        return self._slots.next_at(mono)

    def tokens_ahead(self, mono: float) -> int | None:
        """Calls whose slots come within AHEAD_SECONDS; None: as many as you like."""
        if self.rate is None:
            return None
        left = mono + AHEAD_SECONDS - self.next_at(mono)
        return 0 if left < 0 else 1 + math.floor(left * self.rate)

    @staticmethod
    def slot(mono: float, *paces: Pace) -> float:
        """The next instant that all of them allow. Each uses up its own: what a campaign's rate puts off must not take
        the trunk's slots until then from the others. They are kept apart when they leave."""
        return max(pace._slots.take(mono) for pace in paces)

    @staticmethod
    def departure(mono: float, *paces: Pace) -> float:
        """When a call may leave that is ready to. Who left late has later slots, too: a delay happens once."""
        at = max(pace._departures.next_at(mono) for pace in paces)
        for pace in paces:
            pace._departures.take(at)
            if pace.rate is not None:
                pace._slots.postpone(at + 1 / pace.rate)
        return at


@dataclass(slots=True, eq=False)
class Lane:
    """A trunk: its brake, its rate, and who is on it."""

    trunk: Trunk
    pace: Pace
    brake: Brake = field(default_factory=Brake)
    own: int = 0  # attempts of this daemon, claimed and not settled
    others: int = 0  # of the other daemons, as the last reply told
    unheard: set[AttemptId] = field(default_factory=set)  # on their way, neither rang nor ended

    def facts(self, now: datetime, mono: float) -> TrunkFacts:
        brake, tokens = self.brake, self.pace.tokens_ahead(mono)
        return TrunkFacts(
            name=self.trunk.name,
            live=self.own + self.others,
            capacity=self.trunk.capacity,
            tokens=tokens,
            tokens_at=at_wall(self.pace.next_at(mono), now, mono) if tokens == 0 else None,
            unheard_room=brake.room(len(self.unheard), mono),
            closed=brake.closed,
            probe_allowed=brake.closed and brake.may_dial(mono),
            probe_at=at_wall(brake.probe_due_at, now, mono),
            last_code=brake.last_code,
        )


@dataclass(slots=True, eq=False)
class Line:
    """A RUNNING campaign: its definition, its flow, its contacts and its last plan."""

    view: CampaignView
    campaign: Campaign
    flow: Flow
    lane: Lane
    supply: Supply
    pace: Pace
    own: int = 0
    others: int = 0
    plan: Plan | None = None
    credit: int = 0  # of the last plan
    agent_credit: int = 0  # of it, too
    _opening: Opening | None = None
    _boost: Decimal = Decimal(1)

    def __post_init__(self) -> None:
        self._boost = boost_factor(self.campaign.endpoint)

    def opening(self, now: datetime) -> Opening:
        """May it dial, remembered until the answer may change."""
        known = self._opening
        if known is None or (known.until is not None and now >= known.until):
            known = self._opening = opening(self.campaign.active_period, now)
        return known

    @property
    def is_complete(self) -> bool:
        """Read to the end, nothing waiting, nothing live; Redis has the last word."""
        done = self.supply.drained and not self.own and not self.others
        return done and self.campaign.when_done is WhenDone.COMPLETE

    def redefine(self, campaign: Campaign, lane: Lane) -> None:
        """An edit takes effect at once: pace, period, rules, trunk."""
        self.campaign, self.lane, self._opening = campaign, lane, None
        self.pace.rate = campaign.calls_per_second
        self._boost = boost_factor(campaign.endpoint)

    def facts(self, now: datetime, mono: float, unserved: int) -> CampaignFacts:
        """`unserved`: its calls, in every daemon, that still need an agent."""
        open_ = self.opening(now)
        tokens = self.pace.tokens_ahead(mono)
        next_due = self.supply.next_due_at
        campaign, endpoint = self.campaign, self.campaign.endpoint
        return CampaignFacts(
            id=campaign.id,
            trunk=self.lane.trunk.name,
            priority=campaign.priority,
            due=self.supply.ready,
            live=self.own + self.others,
            max_channels=campaign.max_channels,
            open=may_start(open_, now),
            until=open_.until,
            ready=tokens,
            ready_at=at_wall(self.pace.next_at(mono), now, mono) if tokens == 0 else None,
            next_due_at=None if next_due is None else datetime.fromtimestamp(next_due, UTC),
            credit=self.credit,
            endpoint=endpoint.type,
            queue=None if endpoint.queue is None else QueueName(endpoint.queue),
            boost_factor=self._boost,
            max_waiting_calls=endpoint.max_waiting_calls,
            unserved=unserved,
            agent_credit=self.agent_credit,
        )

    def slot(self, mono: float) -> float:
        """The next instant that both rates allow."""
        return Pace.slot(mono, self.pace, self.lane.pace)

    def departure(self, mono: float) -> float:
        """When a call may leave whose slot has come and that nothing forbids."""
        return Pace.departure(mono, self.pace, self.lane.pace)


def at_wall(at: float | None, now: datetime, mono: float) -> datetime | None:
    """An instant of the loop's clock as one of the wall's."""
    return None if at is None or not math.isfinite(at) else now + timedelta(seconds=at - mono)
