"""The queues as this daemon sees them: what a pass plans with, and whether a call that is about to leave still may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from dialer_engine.core.agents import Floor, QueueState
from dialer_engine.core.model import AttemptId, Campaign, EndpointType, QueueName, TrunkName
from dialer_engine.core.pacing import CampaignFacts, QueueFacts, TrunkFacts, boost_factor, plan
from dialer_engine.engine.attempt import Attempt
from dialer_engine.engine.board import Board
from dialer_engine.engine.scales import Heading

JOIN_SECONDS = 1.0
"""From our order to the event that he has joined a queue, at most."""

_NO_TRUNK = TrunkName("")
_ONE_CALL = TrunkFacts(_NO_TRUNK, live=0, capacity=1)


class Agents(Protocol):
    """What the engine wants of AMI; `ami.Ami` is it."""

    @property
    def floor(self) -> Floor: ...
    @property
    def clock_offset(self) -> timedelta:
        """Our clock less Asterisk's."""
        ...

    def age_seconds(self) -> float | None:
        """How old the view is; None: there is none."""
        ...


class NoAgents:
    """No AMI is configured: campaigns for queues wait."""

    floor = Floor()
    clock_offset = timedelta(0)

    def age_seconds(self) -> float | None:
        return None


@dataclass(slots=True)
class Desk:
    agents: Agents
    board: Board
    clock: Callable[[], datetime]
    _seen: dict[QueueName, QueueState | None] = field(default_factory=dict)  # by the last pass
    _saw_any: bool = False

    @property
    def is_exact(self) -> bool:
        return self.agents.age_seconds() is not None

    # --- for a pass ---

    def queues(self, campaigns: Iterable[CampaignFacts], now: datetime) -> dict[QueueName, QueueFacts]:
        """Those that these campaigns dial for, as far as Asterisk has them."""
        floor = self.agents.floor
        names = {each.queue for each in campaigns if each.queue is not None}
        self._seen = {name: floor.state(name, now) for name in names}
        self._saw_any = self.is_exact
        return {name: _facts(name, state) for name, state in self._seen.items() if state is not None}

    def unserved(self) -> Counter[Heading]:
        """Calls in every daemon that need an agent, but for those of ours that one is rung for: he has left the
        available ones. Who that is stands on the floor and nowhere else, for an offer may end without a word."""
        board = self.board
        counts = Counter({each: board.scales.needing(each) for each in board.scales.headings})
        rung = (board.attempts.get(AttemptId(caller)) for caller in self.agents.floor.offered)
        counts.subtract(Heading.of(each.campaign) for each in rung if each is not None and each.needs_agent)
        return counts

    def holders(self, unserved: Mapping[Heading, int]) -> list[CampaignFacts]:
        """Campaigns that do not run, or not for this queue any more, and whose calls still hold agents."""
        running = {Heading.of(line.campaign) for line in self.board.lines.values()}
        return [
            _asking(campaign, count, due=0)
            for each, count in unserved.items()
            if count > 0 and each not in running and (campaign := self.board.definition(each))
        ]

    def has_gained(self) -> bool:
        """May a call start now that could not at the last pass, as far as the queues go?"""
        if self.is_exact != self._saw_any:
            return True
        floor, now = self.agents.floor, self.clock()
        return any(_has_gained(before, floor.state(name, now)) for name, before in self._seen.items())

    # --- for a call ---

    def warrants(self, attempt: Attempt) -> bool:
        """The rule of the pace once more, at the instant of originating: an agent may have gone since the claim.

        What was claimed and has not left comes after it, of whichever campaign.
        """
        board, scales, mine = self.board, self.board.scales, Heading.of(attempt.campaign)
        if attempt.campaign.endpoint.type is not EndpointType.QUEUE:
            return True
        sent = {each: count - scales.unsent(each) for each, count in self.unserved().items()}
        asking = [_asking(board.definition(mine) or attempt.campaign, sent.get(mine, 0), due=1)]
        asking += [
            _asking(campaign, count, due=0)
            for each, count in sent.items()
            if each != mine and count > 0 and (campaign := board.definition(each))
        ]
        now, floor = self.clock(), self.agents.floor
        states = {each.queue: floor.state(each.queue, now) for each in asking if each.queue is not None}
        first, *_ = plan(
            asking,
            {_NO_TRUNK: _ONE_CALL},
            now=now,
            stopped=False,
            draining=False,
            pbx_up=True,
            store_up=True,
            queues={name: _facts(name, state) for name, state in states.items() if state is not None},
            queue_age_seconds=self.agents.age_seconds(),
        )
        return first.originate > 0

    def has_lost(self, attempt: Attempt) -> bool:
        """AMI has answered long enough after he was sent to a queue, and does not see him in one."""
        stay, age = attempt.stay, self.agents.age_seconds()
        if stay is None or age is None or self.agents.floor.is_waiting(attempt.id):
            return False
        return (self.clock() - stay.sent_at).total_seconds() > age + JOIN_SECONDS

    def name_of(self, queue: str, interface: str | None) -> str | None:
        """The member's name; of one that is known by his telephone only (Local/1001@from-queue), as well."""
        if interface is None:
            return None
        floor = self.agents.floor
        spelt = floor.spelt(QueueName(queue))
        found = (
            member.name
            for member in floor.members
            if member.queue == spelt and member.interface.removesuffix("/n") == interface.removesuffix("/n")
        )
        return next(found, interface)

    def wrap_up_ends_at(self, attempt: Attempt, ended_at: datetime) -> datetime:
        """Of the agent who had this call until then."""
        stay = attempt.stay
        if stay is None:
            return ended_at
        return self.agents.floor.wrap_up_ends_at(QueueName(stay.queue), stay.interface or "", ended_at)


def _asking(campaign: Campaign, unserved: int, *, due: int) -> CampaignFacts:
    """A campaign of which nothing counts but the agents."""
    endpoint = campaign.endpoint
    return CampaignFacts(
        id=campaign.id,
        trunk=_NO_TRUNK,
        priority=campaign.priority,
        due=due,
        live=0,
        max_channels=1,
        open=True,
        endpoint=endpoint.type,
        queue=None if endpoint.queue is None else QueueName(endpoint.queue),
        boost_factor=boost_factor(endpoint),
        max_waiting_calls=endpoint.max_waiting_calls,
        unserved=max(0, unserved),
    )


def _facts(name: QueueName, state: QueueState) -> QueueFacts:
    return QueueFacts(
        name,
        state.available,
        state.waiting,
        state.logged_in,
        state.next_free_at,
        in_call=state.in_call,
        paused=state.paused,
        wrapping_up=state.wrapping_up,
    )


def _has_gained(before: QueueState | None, now: QueueState | None) -> bool:
    if now is None or now is before:
        return False
    if before is None:
        return True
    return now.waiting < before.waiting or not now.available <= before.available
