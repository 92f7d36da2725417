"""How many calls of each campaign still need an agent? Counted as their facts change, never by looking through them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from dialer_engine.core.call import Phase
from dialer_engine.core.model import AttemptId, Campaign, CampaignId, EndpointType, QueueName
from dialer_engine.engine.attempt import Attempt


class Heading(NamedTuple):
    """A campaign, and the queue that calls of it are for: given another one, it has calls on their way to both."""

    campaign: CampaignId
    queue: QueueName | None

    @classmethod
    def of(cls, campaign: Campaign) -> Self:
        queue = campaign.endpoint.queue
        return cls(campaign.id, None if queue is None else QueueName(queue))


class Weight(NamedTuple):
    """What one attempt adds to its heading, or all of them together."""

    calls: int = 0  # claimed and not settled; of campaigns for queues alone
    unconnected: int = 0  # of them, those that have not reached an agent
    needing: int = 0  # of them, those that still need one, or for whom one is just rung
    unsent: int = 0  # of them, those that have not left yet

    def plus(self, other: Weight) -> Weight:
        return Weight(*(one + another for one, another in zip(self, other, strict=True)))

    def less(self, other: Weight) -> Weight:
        return Weight(*(one - another for one, another in zip(self, other, strict=True)))


NOTHING = Weight()


@dataclass(slots=True)
class Scales:
    """Of this daemon's calls, and what Redis tells of the others'."""

    alone: bool = False  # no other daemon serves this Redis
    _each: dict[AttemptId, Weight] = field(default_factory=dict)
    _own: defaultdict[CampaignId, dict[Heading, Weight]] = field(default_factory=lambda: defaultdict(dict))
    _claimed_for: dict[Heading, Campaign] = field(default_factory=dict)
    _elsewhere: dict[CampaignId, tuple[Heading, int]] = field(default_factory=dict)

    def weigh(self, attempt: Attempt) -> bool:
        """Its facts may have changed; does it need no agent any more?"""
        if attempt.campaign.endpoint.type is not EndpointType.QUEUE:
            return False
        needs_agent = attempt.needs_agent
        is_unsent = needs_agent and attempt.call.phase is Phase.CLAIMED
        return self._put(attempt, Weight(1, not attempt.call.was_connected, needs_agent, is_unsent))

    def take_off(self, attempt: Attempt) -> None:
        self._put(attempt, NOTHING)
        self._each.pop(attempt.id, None)

    def _put(self, attempt: Attempt, weight: Weight) -> bool:
        before = self._each.get(attempt.id, NOTHING)
        if weight == before:
            return False
        self._each[attempt.id] = weight
        heading = Heading.of(attempt.campaign)
        headings = self._own[heading.campaign]
        headings[heading] = headings.get(heading, NOTHING).plus(weight).less(before)
        self._claimed_for[heading] = attempt.campaign
        if not headings[heading].calls:
            del headings[heading], self._claimed_for[heading]
        if not headings:
            del self._own[heading.campaign]
        return before.needing > weight.needing

    def weigh_all(self, attempts: Iterable[Attempt]) -> None:
        """Anew, from the records themselves."""
        self._each, self._own, self._claimed_for = {}, defaultdict(dict), {}
        for attempt in attempts:
            self.weigh(attempt)

    def needing(self, heading: Heading) -> int:
        """In every daemon. Whom an agent is just rung for is among them: only the floor knows who that is."""
        others, count = self._elsewhere.get(heading.campaign, (None, 0))
        return self._own_for(heading).needing + (count if others == heading else 0)

    def unsent(self, heading: Heading) -> int:
        """Of them, those that have not left, as far as we know."""
        return self._own_for(heading).unsent

    def claimed_for(self, heading: Heading) -> Campaign | None:
        """The campaign as it was when a call of ours was claimed for that queue."""
        return self._claimed_for.get(heading)

    @property
    def headings(self) -> Iterator[Heading]:
        """Those that have calls which need an agent."""
        own = {heading for headings in self._own.values() for heading in headings}
        others = {heading for heading, _ in self._elsewhere.values()}
        return (heading for heading in own | others if self.needing(heading))

    def hear_of_all(self, heading: Heading, live: int, served: int, *, claiming: int) -> None:
        """So many attempts of the campaign live in all daemons, so many of them have reached an agent; we just claim so
        many. The others' are counted for the queue that it dials for now.

        Redis counted ours at another instant than we do, which must not look like somebody else's calls to one who is
        alone. But more than ours can have been are somebody's.
        """
        own = NOTHING
        for weight in self._own.get(heading.campaign, {}).values():
            own = own.plus(weight)
        self.alone = self.alone and live <= own.calls + claiming
        others = 0 if self.alone else max(0, live - served - own.unconnected)
        if others:
            self._elsewhere[heading.campaign] = heading, others
        else:
            self.forget_others(heading.campaign)

    def forget_others(self, campaign: CampaignId) -> None:
        """It dials for no queue."""
        self._elsewhere.pop(campaign, None)

    def _own_for(self, heading: Heading) -> Weight:
        return self._own.get(heading.campaign, {}).get(heading, NOTHING)
