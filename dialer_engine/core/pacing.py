"""How many calls may start now, and which limit bound it? (spec section 4)

Level, not edge: every pass hands in the whole truth and gets one plan for each campaign. Nothing is remembered
here, not even whose turn it is: that goes out in each plan and comes back in the facts of the next pass.

Three limits after another: the campaign's own, the agents it may dial for, its trunk's room. What several want of
the last two is dealt out by `sharing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

from dialer_engine.core.model import Agent, CampaignId, Endpoint, EndpointType, Limit, QueueName, TrunkName
from dialer_engine.core.sharing import Claim, deal, deal_agents

STALE_SECONDS = 3.0
"""A view of the queues older than that starts no call."""

Asker = tuple[CampaignId, QueueName | None]


@dataclass(frozen=True, slots=True)
class CampaignFacts:
    """A RUNNING campaign as it stands at this pass.

    One that runs no more, but has unserved calls, is told of by `due=0`: it holds the agents they need. So it is told
    of once more for a queue that it dialed for before it was given another.
    """

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
    queue: QueueName | None = None
    boost_factor: Decimal = Decimal(1)  # more than 0
    max_waiting_calls: int = 2
    unserved: int = (
        0  # claimed, ringing, in the IVR or waiting, in every daemon; being offered to an agent: not
    )
    agent_credit: int = 0  # Plan.agent_credit of the pass before

    @property
    def asker(self) -> Asker:
        """By whom agents are asked for."""
        return self.id, self.queue


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """A queue as it stands at this pass."""

    name: QueueName
    agents: frozenset[Agent]  # available
    waiting: int  # callers from any source, not being offered to an agent
    logged_in: int
    next_free_at: datetime | None = None  # when the first wrap-up ends
    # Told, and of no consequence for the plan.
    in_call: int = 0
    paused: int = 0
    wrapping_up: int = 0


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


class AtQueue(NamedTuple):
    """What was known of the campaign's queue, and how many of the available agents were its own."""

    queue: QueueFacts | None  # None: Asterisk has none of that name
    age_seconds: float | None  # of the view of the queues; None: there is none
    share: int | None = None  # its unserved calls included; None: none were dealt out
    credit: int = 0

    @property
    def known(self) -> QueueFacts | None:
        """The queue, while the view of it is good enough to dial by."""
        is_fresh = self.age_seconds is not None and self.age_seconds <= STALE_SECONDS
        return self.queue if is_fresh else None


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
    at_queue: AtQueue | None = None  # None: it dials for no queue

    @property
    def agent_credit(self) -> int:
        """As `credit`, of the agents' turns."""
        return self.at_queue.credit if self.at_queue else 0

    @property
    def inputs(self) -> dict[str, object]:
        """What the decision was made from, by the names of the API."""
        facts, trunk = self.facts, self.trunk
        queue = _queue_inputs(facts, self.at_queue) if self.at_queue else {}
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
            **queue,
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
    Limit.WAITING_AGENTS: "{agents}",
    Limit.QUEUE_FULL: "{queue_full}",
    Limit.STALE_QUEUE_DATA: "{stale}",
    Limit.ABANDON_BUDGET: "the abandonment budget is spent",
    Limit.MAX_CHANNELS: "{live} of {max_channels} channels are in use",
    Limit.TRUNK_FULL: "trunk {trunk} carries {trunk_live} of {capacity} calls{share}",
    Limit.TRUNK_DOWN: "trunk {trunk} {down}",
    Limit.RATE: "{rate}{share}",
    Limit.PBX_DOWN: "Asterisk cannot be reached or takes no originates",
    Limit.REDIS_DOWN: "Redis cannot be reached or takes no writes",
    Limit.DRAINING: "this daemon is shutting down",
    Limit.STOPPED: "all dialing has been stopped",
}


def _calls(n: int) -> str:
    return "1 call" if n == 1 else f"{n} calls"


def _words(plan: Plan) -> dict[str, object]:
    facts, trunk, at_queue = plan.facts, plan.trunk, plan.at_queue or AtQueue(None, None)
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
        "agents": _agents(facts, at_queue),
        "queue_full": _queue_full(facts, at_queue),
        "stale": _stale(facts, at_queue),
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


def _queue_inputs(facts: CampaignFacts, at: AtQueue) -> dict[str, object]:
    queue = at.queue
    return {
        "queue": facts.queue,
        "available": None if queue is None else len(queue.agents),
        "loggedIn": None if queue is None else queue.logged_in,
        "inCall": None if queue is None else queue.in_call,
        "paused": None if queue is None else queue.paused,
        "wrappingUp": None if queue is None else queue.wrapping_up,
        "unserved": facts.unserved,
        "boostFactor": float(facts.boost_factor),
        "agentShare": at.share,
        "waiting": None if queue is None else queue.waiting,
        "maxWaitingCalls": facts.max_waiting_calls,
        "queueAge": None if at.age_seconds is None else round(at.age_seconds, 3),
    }


def _agents(facts: CampaignFacts, at: AtQueue) -> str:
    queue, boost = at.queue, facts.boost_factor
    if queue is None or not queue.logged_in:
        return f"nobody is logged in to queue {facts.queue}"
    share = available = len(queue.agents)
    if not available:
        return _nobody_free(queue)
    free = f"{'1 agent is' if available == 1 else f'{available} agents are'} available in queue {facts.queue}"
    if at.share is not None and warranted_calls(available, boost) > facts.unserved:
        share = at.share
    if not share:
        return f"{free}, and it is the turn of other campaigns, or their calls are on the way"
    if share < available:
        free += f", {share} of them for this campaign by its share"
    under_way = {0: "none is", 1: "1 is"}.get(facts.unserved, f"{facts.unserved} are")
    warranted = _calls(warranted_calls(share, boost))
    return f"{free}; boostFactor {boost.normalize():f} allows {warranted} for them, and {under_way} under way"


def _nobody_free(queue: QueueFacts) -> str:
    who = "the only agent" if queue.logged_in == 1 else f"all {queue.logged_in} agents"
    verb = "is" if queue.logged_in == 1 else "are"
    return f"{who} logged in to queue {queue.name} {verb} busy, paused or wrapping up"


def _queue_full(facts: CampaignFacts, at: AtQueue) -> str:
    waiting = at.queue.waiting if at.queue else 0
    callers = "1 caller waits" if waiting == 1 else f"{waiting} callers wait"
    return f"{callers} in queue {facts.queue}, and nothing is dialed while {_most_waiting(facts)} or more do"


def _stale(facts: CampaignFacts, at: AtQueue) -> str:
    age = at.age_seconds
    if age is None:
        return "there is no exact view of the queues, as long as AMI is not connected and in step"
    if age > STALE_SECONDS:
        return f"AMI has not answered for {age:.1f} s, and no view of the queues is trusted after {STALE_SECONDS:g} s"
    return f"Asterisk has no queue {facts.queue}"


def boost_factor(endpoint: Endpoint) -> Decimal:
    """What multiplies the available agents; predictive pacing has learnt nothing yet, and so begins with 1:1."""
    return Decimal(endpoint.boost_factor if endpoint.pacing == "boost" else 1)


def warranted_calls(agents: int, boost: Decimal) -> int:
    """So many calls may be under way for so many available agents; no fraction is carried."""
    numerator, denominator = boost.as_integer_ratio()  # exact, whatever the context of decimal rounds to
    return agents * numerator // denominator


def agents_for(calls: int, boost: Decimal) -> int:
    """The fewest agents who warrant so many calls."""
    numerator, denominator = boost.as_integer_ratio()
    return -(-calls * denominator // numerator)


def plan(
    campaigns: Sequence[CampaignFacts],
    trunks: Mapping[TrunkName, TrunkFacts],
    *,
    now: datetime,
    stopped: bool,
    draining: bool,
    pbx_up: bool,
    store_up: bool,
    queues: Mapping[QueueName, QueueFacts] = MappingProxyType({}),
    queue_age_seconds: float | None = None,
) -> list[Plan]:
    """One plan for each campaign, in their order. Together they never exceed a trunk's room or an agent.

    `queue_age_seconds`: how old the view of the queues is; None: there is none.
    """
    at_queues = {
        each.asker: _at_queue(each, queues, queue_age_seconds)
        for each in campaigns
        if each.endpoint is EndpointType.QUEUE
    }
    halt = _halt(stopped, draining, pbx_up, store_up)
    if halt is not None:
        return [_halted(each, halt, trunks.get(each.trunk), at_queues.get(each.asker)) for each in campaigns]
    rooms = {name: _trunk_room(trunks.get(name)) for name in {each.trunk for each in campaigns}}
    wants = [_want(each, at_queues.get(each.asker)) for each in campaigns]
    if at_queues:
        at_queues |= _share_agents(campaigns, wants, rooms, at_queues)
        wants = [
            _within_share(facts, want, rooms[facts.trunk], at_queues.get(facts.asker))
            for facts, want in zip(campaigns, wants, strict=True)
        ]
    given, credits = _share_trunks(campaigns, wants, rooms)
    bounds = [
        _within_room(want, rooms[facts.trunk], given.get(facts.id, 0))
        for facts, want in zip(campaigns, wants, strict=True)
    ]
    return [
        Plan(
            facts.id,
            *bound,
            facts,
            trunks.get(facts.trunk),
            None if bound is want else bound.calls,
            credits.get(facts.id, facts.credit),
            at_queues.get(facts.asker),
        )
        for facts, want, bound in zip(campaigns, wants, bounds, strict=True)
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


def _halted(facts: CampaignFacts, halt: Limit, trunk: TrunkFacts | None, at: AtQueue | None) -> Plan:
    return Plan(facts.id, 0, halt, None, facts, trunk, None, facts.credit, at)


def _at_queue(
    facts: CampaignFacts, queues: Mapping[QueueName, QueueFacts], age_seconds: float | None
) -> AtQueue:
    queue = None if facts.queue is None else queues.get(facts.queue)
    return AtQueue(queue, age_seconds, None, facts.agent_credit)


def _want(facts: CampaignFacts, at: AtQueue | None) -> _Bound:
    """What the campaign could start if its trunk and the agents of its queue were its own."""
    if not facts.open:
        return _Bound(0, Limit.OUT_OF_PERIOD, facts.until)
    if facts.due <= 0:
        return _Bound(0, Limit.DIALING if facts.live else Limit.IDLE, facts.next_due_at)
    calls, limit, next_at = facts.due, Limit.DIALING, facts.next_due_at
    if at is not None:
        warranted = _warranted(facts, at.known)
        if warranted.calls < calls:
            calls, limit, next_at = warranted
    if (room := max(0, facts.max_channels - facts.live)) < calls:
        calls, limit, next_at = room, Limit.MAX_CHANNELS, None
    if facts.ready is not None and facts.ready < calls:
        calls, limit, next_at = facts.ready, Limit.RATE, facts.ready_at
    return _Bound(calls, limit, next_at)


def _warranted(facts: CampaignFacts, queue: QueueFacts | None) -> _Bound:
    """What the queue allows."""
    if queue is None:
        return _Bound(0, Limit.STALE_QUEUE_DATA, None)
    if queue.waiting >= _most_waiting(facts):
        # Named before the agents: whoever gets free takes one of the callers who wait, and nobody is dialed for him.
        return _Bound(0, Limit.QUEUE_FULL, None)
    calls = max(0, warranted_calls(len(queue.agents), facts.boost_factor) - facts.unserved)
    return _Bound(calls, Limit.WAITING_AGENTS, queue.next_free_at)


def _most_waiting(facts: CampaignFacts) -> int:
    return max(1, facts.max_waiting_calls)


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


def _share_agents(
    campaigns: Sequence[CampaignFacts],
    wants: Sequence[_Bound],
    rooms: Mapping[TrunkName, _Bound],
    at_queues: Mapping[Asker, AtQueue],
) -> dict[Asker, AtQueue]:
    """For how many of the available agents each may dial.

    Each holds the agents whom its unserved calls need, whether it may start anything or not. The trunks are dealt
    out afterwards. A campaign whose trunk has no room at all therefore wants no agents; where several want the last
    channels of a trunk, agents are kept until the next pass for some who get none. That is a matter of one pass:
    what is not started holds nobody.
    """
    pools: dict[QueueName, frozenset[Agent]] = {}
    claims: dict[QueueName, list[Claim[Asker]]] = {}
    for facts, want in zip(campaigns, wants, strict=True):
        at = at_queues.get(facts.asker)
        queue = at.known if at else None
        if queue is None:
            continue
        claim = _claim(facts, min(want.calls, rooms[facts.trunk].calls))
        if claim.most:
            pools[queue.name] = queue.agents
            claims.setdefault(queue.name, []).append(claim)
    given, credits = deal_agents(pools, claims)
    return {
        key: AtQueue(at.queue, at.age_seconds, given.get(key, 0), credits.get(key, at.credit))
        for key, at in at_queues.items()
        if at.known
    }


def _claim(facts: CampaignFacts, calls: int) -> Claim[Asker]:
    """The agents it wants for so many new calls."""
    boost = facts.boost_factor
    most, held, first = (agents_for(n, boost) for n in (facts.unserved + calls, facts.unserved, 1))
    return Claim(facts.asker, facts.priority, most, held, first, facts.agent_credit)


def _within_share(facts: CampaignFacts, want: _Bound, room: _Bound, at: AtQueue | None) -> _Bound:
    if at is None or at.queue is None or at.share is None:
        return want
    warranted = max(0, warranted_calls(at.share, facts.boost_factor) - facts.unserved)
    if warranted < min(want.calls, room.calls):
        return _Bound(warranted, Limit.WAITING_AGENTS, at.queue.next_free_at)
    return want


def _share_trunks(
    campaigns: Sequence[CampaignFacts], wants: Sequence[_Bound], rooms: Mapping[TrunkName, _Bound]
) -> tuple[dict[CampaignId, int], dict[CampaignId, int]]:
    """How many calls each may start on its trunk, and the credits that have changed."""
    claims: dict[TrunkName, list[Claim[CampaignId]]] = {}
    given: dict[CampaignId, int] = {}
    credits: dict[CampaignId, int] = {}
    for facts, want in zip(campaigns, wants, strict=True):
        if want.calls and rooms[facts.trunk].calls:
            claim = Claim(facts.id, facts.priority, want.calls, 0, 1, facts.credit)
            claims.setdefault(facts.trunk, []).append(claim)
    for name, claimants in claims.items():
        dealt, changed = deal(rooms[name].calls, claimants)
        given |= dealt
        credits |= changed
    return given, credits


def _within_room(want: _Bound, room: _Bound, given: int) -> _Bound:
    if not want.calls or (given >= want.calls and room.limit is not Limit.TRUNK_DOWN):
        return want
    return room if given == room.calls else _Bound(given, room.limit, room.next_at)
