"""How many calls of each campaign still need an agent? Counted as their facts change, never by looking through them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from dialer_engine.core.call import Phase
from dialer_engine.core.model import AttemptId, CampaignId, EndpointType
from dialer_engine.engine.attempt import Attempt


class Weight(NamedTuple):
    """What one attempt adds to its campaign, or all of them together."""

    calls: int = 0  # claimed and not settled; of campaigns for queues alone
    unconnected: int = 0  # of them, those that have not reached an agent
    unserved: int = 0  # of them, those that still need one
    unsent: int = 0  # of them, those that have not left yet


NOTHING = Weight()


@dataclass(slots=True)
class Scales:
    """Of this daemon's calls, and what Redis tells of the others'."""

    alone: bool = False  # no other daemon serves this Redis
    _each: dict[AttemptId, Weight] = field(default_factory=dict)
    _own: defaultdict[CampaignId, Weight] = field(default_factory=lambda: defaultdict(Weight))
    _elsewhere: dict[CampaignId, int] = field(default_factory=dict)

    def weigh(self, attempt: Attempt) -> bool:
        """Its facts may have changed; does it need no agent any more?"""
        if attempt.campaign.endpoint.type is not EndpointType.QUEUE:
            return False
        is_unserved = attempt.is_unserved
        is_unsent = is_unserved and attempt.call.phase is Phase.CLAIMED
        return self._put(attempt, Weight(1, not attempt.call.was_connected, is_unserved, is_unsent))

    def take_off(self, attempt: Attempt) -> None:
        self._put(attempt, NOTHING)
        self._each.pop(attempt.id, None)

    def _put(self, attempt: Attempt, weight: Weight) -> bool:
        before = self._each.get(attempt.id, NOTHING)
        if weight == before:
            return False
        self._each[attempt.id] = weight
        of_all, campaign = self._own[attempt.campaign.id], attempt.campaign.id
        self._own[campaign] = Weight(
            *(all_ + new - old for all_, new, old in zip(of_all, weight, before, strict=True))
        )
        if not self._own[campaign].calls:
            del self._own[campaign]
        return before.unserved > weight.unserved

    def weigh_all(self, attempts: Iterable[Attempt]) -> None:
        """Anew, from the records themselves."""
        self._each, self._own = {}, defaultdict(Weight)
        for attempt in attempts:
            self.weigh(attempt)

    def own(self, campaign: CampaignId) -> Weight:
        return self._own.get(campaign, NOTHING)

    def unserved(self, campaign: CampaignId) -> int:
        """In every daemon."""
        return self.own(campaign).unserved + self._elsewhere.get(campaign, 0)

    def sent(self, campaign: CampaignId) -> int:
        """Of them, those that have left, as far as we know."""
        return self.unserved(campaign) - self.own(campaign).unsent

    @property
    def campaigns(self) -> Iterator[CampaignId]:
        """Those that have any."""
        return (campaign for campaign in self._own.keys() | self._elsewhere.keys() if self.unserved(campaign))

    def hear_of_all(self, campaign: CampaignId, live: int, served: int, *, claiming: int) -> None:
        """So many of its attempts live in all daemons, so many of them have reached an agent; we just claim so many.

        Redis counted ours at another instant than we do, which must not look like somebody else's calls to one who is
        alone. But more than ours can have been are somebody's.
        """
        own = self.own(campaign)
        self.alone = self.alone and live <= own.calls + claiming
        others = 0 if self.alone else max(0, live - served - own.unconnected)
        if others:
            self._elsewhere[campaign] = others
        else:
            self._elsewhere.pop(campaign, None)
