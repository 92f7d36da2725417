"""How many calls may start now, and which limit bound it? (spec section 4)

Level, not edge: every pass hands in the whole truth and gets one plan for each campaign. Nothing is remembered
here, not even whose turn it is: that goes out in each plan and comes back in the facts of the next pass.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, TypeVar

from dialer_engine.core.model import CampaignId, EndpointType, Limit, TrunkName

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class CampaignFacts:
    """A RUNNING campaign as it stands at this pass."""

    id: CampaignId
    trunk: TrunkName
    priority: int  # 1..100, more is more
    due: int  # contacts that may be dialed now
    live: int  # claimed and not settled, in every daemon
    max_channels: int
    open: bool  # schedule.Opening.open
    until: datetime | None = None  # schedule.Opening.until
    ready: int | None = None  # what its token bucket allows now; None: as many as you like
    ready_at: datetime | None = None  # when the bucket allows the next one
    next_due_at: datetime | None = None  # the first re-dial that is not due yet
    credit: int = 0  # Plan.credit of the pass before
    endpoint: EndpointType = EndpointType.PHONE


@dataclass(frozen=True, slots=True)
class TrunkFacts:
    """A trunk as it stands at this pass."""

    name: TrunkName
    live: int  # of all campaigns and daemons
    capacity: int
    tokens: int | None = None  # what its token bucket allows now; None: as many as you like
    tokens_at: datetime | None = None  # when the bucket allows the next one
    unheard_room: int | None = None  # trunk.Brake.room; None: as many as you like
    closed: bool = False
    probe_allowed: bool = False
    probe_at: datetime | None = None
    last_code: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What one campaign may do until the next pass, and why no more."""

    campaign: CampaignId
    originate: int
    limit: Limit
    next_at: datetime | None  # when the limit may be gone; None: when an event says so
    facts: CampaignFacts
    trunk: TrunkFacts | None
    share: int | None = None  # of the trunk's room, when that bound it
    credit: int = 0  # how far it is behind its share of the trunk's turns; the next pass wants it back

    @property
    def inputs(self) -> dict[str, object]:
        """What the decision was made from, by the names of the API."""
        facts, trunk = self.facts, self.trunk
        return {
            "due": facts.due,
            "live": facts.live,
            "maxChannels": facts.max_channels,
            "priority": facts.priority,
            "ready": facts.ready,
            "trunk": facts.trunk,
            "trunkLive": None if trunk is None else trunk.live,
            "trunkCapacity": None if trunk is None else trunk.capacity,
            "trunkTokens": None if trunk is None else trunk.tokens,
            "trunkUnheardRoom": None if trunk is None else trunk.unheard_room,
            "trunkClosed": None if trunk is None else trunk.closed,
            "share": self.share,
        }

    @property
    def text(self) -> str:
        """The decision as one sentence for a person."""
        done = f"{_calls(self.originate)} may start" if self.originate else "No call may start"
        return f"{done}: {_REASONS[self.limit].format(**_words(self))}."

    def shown(self, at: datetime) -> dict[str, object]:
        """The plan as spec section 7 shapes it, made at `at`."""
        return {
            "at": at.isoformat(timespec="milliseconds"),
            "originate": self.originate,
            "limit": self.limit,
            "inputs": self.inputs,
            "nextAt": None if self.next_at is None else self.next_at.isoformat(timespec="milliseconds"),
            "text": self.text,
        }


_REASONS: dict[Limit, str] = {
    Limit.DIALING: "{waiting}; {live} of {max_channels} channels are in use",
    Limit.IDLE: "no contact is due{next_due}",
    Limit.OUT_OF_PERIOD: "the active period is closed{until}",
    Limit.WAITING_AGENTS: "no agent is available",
    Limit.QUEUE_FULL: "too many callers wait in the queue",
    Limit.STALE_QUEUE_DATA: "what is known of the queue is too old",
    Limit.ABANDON_BUDGET: "the abandonment budget is spent",
    Limit.MAX_CHANNELS: "{live} of {max_channels} channels are in use",
    Limit.TRUNK_FULL: "trunk {trunk} carries {trunk_live} of {capacity} calls{share}",
    Limit.TRUNK_DOWN: "trunk {trunk} {down}",
    Limit.RATE: "{rate}{share}",
    Limit.PBX_DOWN: "Asterisk cannot be reached",
    Limit.REDIS_DOWN: "Redis cannot be reached or takes no writes",
    Limit.DRAINING: "this daemon is shutting down",
    Limit.STOPPED: "all dialing has been stopped",
}


def _calls(n: int) -> str:
    return "1 call" if n == 1 else f"{n} calls"


def _words(plan: Plan) -> dict[str, object]:
    facts, trunk = plan.facts, plan.trunk
    due = f"{facts.due} {'contact is' if facts.due == 1 else 'contacts are'} due"
    return {
        "waiting": due if facts.due else "no further contact is due",
        "live": facts.live,
        "max_channels": facts.max_channels,
        "next_due": f" before {facts.next_due_at.isoformat()}" if facts.next_due_at else "",
        "until": f" until {facts.until.isoformat()}" if facts.until else ", it has no day of the week",
        "trunk": facts.trunk,
        "trunk_live": trunk.live if trunk else 0,
        "capacity": trunk.capacity if trunk else 0,
        "share": f", this campaign's share being {plan.share}" if plan.share is not None else "",
        "down": _down(trunk),
        "rate": _rate(facts, trunk),
    }


def _rate(facts: CampaignFacts, trunk: TrunkFacts | None) -> str:
    if trunk is not None and trunk.unheard_room is not None and trunk.unheard_room <= 0:
        return f"trunk {facts.trunk} is being tried, and nothing has been heard yet of the calls on their way"
    return f"calls of this campaign or of trunk {facts.trunk} may not start faster"


def _down(trunk: TrunkFacts | None) -> str:
    if trunk is None:
        return "is not configured"
    probe = f", the next probe goes out at {trunk.probe_at.isoformat()}" if trunk.probe_at else ""
    return f"refused the last calls ({trunk.last_code or 'no code'}){probe}"


def share(room: int, claims: Sequence[tuple[Key, int, int]]) -> dict[Key, int]:
    """Deal `room` out to `claims` of (key, priority, wanted): by priority, by largest remainder.

    Nobody gets more than wanted, and nobody who wants any less than one while there is room; what one does
    not want goes to the others. Equal remainders go to the earlier claim.
    """
    given = {key: 0 for key, _, _ in claims}
    active = [claim for claim in claims if claim[2] > 0]
    left = min(room, sum(wanted for _, _, wanted in active))
    least = 1 if left >= len(active) else 0
    while fixed := _fixed(left, active, least):
        given.update(fixed)
        left -= sum(fixed.values())
        active = [claim for claim in active if claim[0] not in fixed]
    given.update(_largest_remainder(left, active))
    return given


def _fixed(left: int, claims: Sequence[tuple[Key, int, int]], least: int) -> dict[Key, int]:
    """The claims whose quota is outside [least, wanted], at that bound; of the two sides the heavier one.

    Fixing that side moves the others' quotas towards it, so that none is fixed wrongly. All in integers:
    a quota is left * priority / weight.
    """
    weight = sum(priority for _, priority, _ in claims)
    over, under = {}, {}
    excess = shortage = 0
    for key, priority, wanted in claims:
        if (above := left * priority - wanted * weight) >= 0:
            over[key] = wanted
            excess += above
        elif (below := least * weight - left * priority) > 0:
            under[key] = least
            shortage += below
    return over if excess >= shortage and over else under


def _largest_remainder(left: int, claims: Sequence[tuple[Key, int, int]]) -> dict[Key, int]:
    weight = sum(priority for _, priority, _ in claims)
    quotas = {key: divmod(left * priority, weight) for key, priority, _ in claims}
    given = {key: whole for key, (whole, _) in quotas.items()}
    rest = left - sum(given.values())
    for key in sorted(quotas, key=lambda key: quotas[key][1], reverse=True)[:rest]:
        given[key] += 1
    return given


def plan(
    campaigns: Sequence[CampaignFacts],
    trunks: Mapping[TrunkName, TrunkFacts],
    *,
    now: datetime,
    stopped: bool,
    draining: bool,
    pbx_up: bool,
    store_up: bool,
) -> list[Plan]:
    """One plan for each RUNNING campaign, in their order. Together they never exceed a trunk's room."""
    halt = _halt(stopped, draining, pbx_up, store_up)
    if halt is not None:
        return [Plan(each.id, 0, halt, None, each, trunks.get(each.trunk)) for each in campaigns]
    wants = [_want(each) for each in campaigns]
    claims: dict[TrunkName, list[tuple[CampaignFacts, int]]] = {}
    for facts, want in zip(campaigns, wants, strict=True):
        if want.calls:
            claims.setdefault(facts.trunk, []).append((facts, want.calls))
    rooms = {name: _trunk_room(trunks.get(name)) for name in claims}
    given: dict[CampaignId, int] = {}
    credits: dict[CampaignId, int] = {}
    for name, claimants in claims.items():
        credits.update((facts.id, facts.credit) for facts, _ in claimants)
        given.update(_deal(rooms[name].calls, claimants, credits))
    return [
        _plan(
            facts,
            want,
            rooms.get(facts.trunk),
            given.get(facts.id, 0),
            trunks.get(facts.trunk),
            credit=credits.get(facts.id, 0),
        )
        for facts, want in zip(campaigns, wants, strict=True)
    ]


class _Bound(NamedTuple):
    """So many calls, bound by this limit, which may be gone at `next_at`."""

    calls: int
    limit: Limit
    next_at: datetime | None


def _halt(stopped: bool, draining: bool, pbx_up: bool, store_up: bool) -> Limit | None:
    if stopped:
        return Limit.STOPPED
    if draining:
        return Limit.DRAINING
    if not store_up:
        return Limit.REDIS_DOWN
    return None if pbx_up else Limit.PBX_DOWN


def _want(facts: CampaignFacts) -> _Bound:
    """What the campaign could start if its trunk were its own."""
    if not facts.open:
        return _Bound(0, Limit.OUT_OF_PERIOD, facts.until)
    if facts.endpoint is EndpointType.QUEUE:
        return _Bound(0, Limit.STALE_QUEUE_DATA, None)
    if facts.due <= 0:
        return _Bound(0, Limit.DIALING if facts.live else Limit.IDLE, facts.next_due_at)
    bound = _Bound(facts.due, Limit.DIALING, facts.next_due_at)
    room = max(0, facts.max_channels - facts.live)
    if room < bound.calls:
        bound = _Bound(room, Limit.MAX_CHANNELS, None)
    if facts.ready is not None and facts.ready < bound.calls:
        bound = _Bound(facts.ready, Limit.RATE, facts.ready_at)
    return bound


def _trunk_room(trunk: TrunkFacts | None) -> _Bound:
    if trunk is None:
        return _Bound(0, Limit.TRUNK_DOWN, None)
    calls, limit, next_at = max(0, trunk.capacity - trunk.live), Limit.TRUNK_FULL, None
    if trunk.tokens is not None and trunk.tokens < calls:
        calls, limit, next_at = trunk.tokens, Limit.RATE, trunk.tokens_at
    if trunk.closed:
        return _Bound(min(calls, int(trunk.probe_allowed)), Limit.TRUNK_DOWN, trunk.probe_at)
    if trunk.unheard_room is not None and trunk.unheard_room < calls:
        return _Bound(trunk.unheard_room, Limit.RATE, None)
    return _Bound(calls, limit, next_at)


def _deal(
    room: int, claimants: Sequence[tuple[CampaignFacts, int]], credits: dict[CampaignId, int]
) -> dict[CampaignId, int]:
    """Share the trunk's room. Too little for one call each goes by turns, else the first would always win."""
    if sum(calls for _, calls in claimants) <= room:
        return {facts.id: calls for facts, calls in claimants}
    if room < len(claimants):
        return _by_turns(room, [facts for facts, _ in claimants], credits)
    return share(room, [(facts.id, facts.priority, calls) for facts, calls in claimants])


def _by_turns(
    room: int, claimants: Sequence[CampaignFacts], credits: dict[CampaignId, int]
) -> dict[CampaignId, int]:
    """`room` turns, one for each at most, so that over many passes they are as the priorities.

    At every turn each earns its priority, and whoever is richest has it and pays what all have earned.
    """
    given: dict[CampaignId, int] = {}
    for _ in range(room):
        for facts in claimants:
            credits[facts.id] += facts.priority
        waiting = [facts for facts in claimants if facts.id not in given]
        richest = max(waiting, key=lambda facts: (credits[facts.id], facts.priority))
        credits[richest.id] -= sum(facts.priority for facts in claimants)
        given[richest.id] = 1
    return given


def _plan(
    facts: CampaignFacts,
    want: _Bound,
    room: _Bound | None,
    given: int,
    trunk: TrunkFacts | None,
    *,
    credit: int,
) -> Plan:
    if room is None or not want.calls or (given >= want.calls and room.limit is not Limit.TRUNK_DOWN):
        return Plan(facts.id, want.calls, want.limit, want.next_at, facts, trunk, credit=credit)
    return Plan(facts.id, given, room.limit, room.next_at, facts, trunk, given, credit)
