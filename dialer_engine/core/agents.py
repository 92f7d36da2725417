"""Who of a queue's agents is free at this instant, who waits there, and when will that change? (spec section 4)

A table of absolute values kept by events; time is an argument. An agent is a telephone (Asterisk's StateInterface),
whatever the number of queues he is a member of; a caller is a channel's Uniqueid, never a count. What is told twice
changes nothing, and what is told late is put right by what follows it (facts of app_queue). In doubt an agent is not
available: he is never counted before Asterisk itself would offer him a caller.

Somebody who is a member under two state interfaces (PJSIP/1001, and Local/1001@from-queue/n by hint:1001@ext-local) is
two agents here as he is two in Asterisk, which would ring him for two callers as well: nothing tells that they are one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from dialer_engine.core.model import Agent, QueueName
from dialer_engine.core.told import (
    CallerAbandoned,
    CallerJoined,
    CallerLeft,
    Completed,
    Connected,
    DeviceState,
    MemberGone,
    MemberSeen,
    Offered,
    Refused,
    Rules,
    Told,
)

OFFER_SECONDS = 300.0
"""The longest an agent is held by an offer nobody tells the end of; no telephone is rung for so long."""
LEAVING_SECONDS = 5.0
"""The same once the caller has left the queue: for this agent (who is then told as connected), or without him."""
SEEN_SECONDS = 1.0
"""The same once it is over for a telephone that was not seen to ring: its states are told later than its offers, and
before app_queue has seen one change it may offer him nobody. A telephone that is busy at once never changes."""
STALE_SECONDS = 1.5
"""An end of a call is in LastCall (whole seconds) when that is later than the end less this."""
COMPLETED_SECONDS = 0.05
"""AgentComplete is sent just before Asterisk notes LastCall."""

_DEFAULT = Rules()
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue at one instant. Every agent who is logged in is in one of the four states, or rings, or is unknown."""

    available: frozenset[Agent]
    waiting: int  # callers from any source, those being offered to an agent not counted
    logged_in: int  # as Asterisk counts it: members whose telephone is there
    paused: int
    in_call: int  # of any kind; a telephone that rings for a caller of ours may say that it is busy, and is not
    wrapping_up: int
    next_free_at: datetime | None  # when the first wrap-up ends; None: an event will say


_TALKING = frozenset({DeviceState.INUSE, DeviceState.BUSY, DeviceState.RINGINUSE, DeviceState.ONHOLD})
_AWAY = frozenset({DeviceState.INVALID, DeviceState.UNAVAILABLE})


@dataclass(slots=True)
class _Member:
    """What was told last, and what has been heard since that it does not say."""

    told: MemberSeen
    in_call: bool
    completed_at: datetime | None = None
    last_queue: QueueName | None = None  # of his last call: where that is shared, its wrap-up counts too
    free_at: datetime | None = None  # when his wrap-up for this queue ends, or has ended

    def take(self, told: MemberSeen) -> bool:
        """An older event may come after a newer row: LastCall never goes back, and who is in a call is known better
        by AgentConnect and AgentComplete, which are sent at the instant itself."""
        known = self.told.last_call_at
        if known and (told.last_call_at is None or told.last_call_at < known):
            told = replace(told, last_call_at=known)
        return self.correct(told)

    def correct(self, told: MemberSeen) -> bool:
        """By a row that is newer than every event so far; was anything else before?"""
        before = (self.told, self.in_call, self.completed_at)
        self.told = told
        self.in_call = self.in_call and told.in_call
        self._end_is_told()
        return before != (self.told, self.in_call, self.completed_at)

    def complete(self, queue: QueueName, at: datetime) -> None:
        self.in_call, self.last_queue = False, queue
        self.completed_at = at + timedelta(seconds=COMPLETED_SECONDS)
        self._end_is_told()

    def _end_is_told(self) -> None:
        """LastCall is whole seconds."""
        told = self.told.last_call_at
        if self.completed_at and told and told > self.completed_at - timedelta(seconds=STALE_SECONDS):
            self.completed_at = None

    @property
    def last_call_at(self) -> datetime | None:
        return self.completed_at or self.told.last_call_at

    @property
    def is_idle(self) -> bool:
        return self.told.state is DeviceState.NOT_INUSE and not self.in_call


@dataclass(slots=True)
class _Offer:
    queue: QueueName
    interface: str
    until: datetime  # when he is let go if nothing is told
    has_rung: bool  # his telephone was seen busy since: idle again, it is over
    is_over: bool = False  # and his telephone was not seen busy yet


@dataclass(slots=True)
class _Telephone:
    """An agent: all his memberships, and the callers he is rung for."""

    agent: Agent
    members: dict[tuple[QueueName, str], _Member] = field(default_factory=dict)
    offers: dict[str, _Offer] = field(default_factory=dict)
    is_idle: bool = True
    talks: bool = False

    def look(self) -> None:
        """Idle is what every queue has seen to be so: an event of one comes before that of the next."""
        members = self.members.values()
        self.is_idle = all(member.is_idle for member in members)
        self.talks = not self.is_idle and any(
            member.in_call or (member.told.state in _TALKING and not self.offers) for member in members
        )

    def is_free(self, now: datetime) -> bool:
        return self.is_idle and not any(now < offer.until for offer in self.offers.values())


@dataclass(slots=True)
class _Queue:
    members: dict[str, _Member] = field(default_factory=dict)
    callers: dict[str, CallerJoined] = field(default_factory=dict)
    state: QueueState | None = None  # good from `since` until something is told or `until` has come
    since: datetime = _NEVER
    until: datetime = _NEVER


class Floor:
    """All queues as they have been told. Feed it in the order of the wire."""

    def __init__(self, rules: Mapping[QueueName, Rules] | None = None, *, unknown: Rules = _DEFAULT) -> None:
        self._rules: dict[QueueName, Rules] = dict(rules or {})
        self._unknown = unknown  # of queues that have none
        self._queues: dict[QueueName, _Queue] = {}
        self._telephones: dict[Agent, _Telephone] = {}
        self._waiting: dict[str, QueueName] = {}
        self._rung: dict[str, set[Agent]] = {}  # callers being offered, and to whom
        self._due: dict[Agent, set[datetime]] = {}  # when something changes with him without being told

    # what is told

    def feed(self, told: Told) -> bool:
        """Take it in; was anything changed by it?"""
        match told:
            case MemberSeen():
                changed = self._see(told)
            case MemberGone():
                changed = self._remove(told.queue, told.interface)
            case CallerJoined():
                changed = self._join(told)
            case CallerLeft():
                changed = self._leave(told)
            case CallerAbandoned():
                changed = self._take_out(told.queue, told.caller) | self._let_all_go(told.caller)
            case Offered():
                changed = self._offer(told)
            case Refused():
                changed = self._end_offer(told.caller, told.interface, told.at)
            case Connected():
                changed = self._connect(told)
            case Completed():
                changed = self._complete(told)
        return changed

    def replace(
        self, members: Iterable[MemberSeen], callers: Iterable[CallerJoined], queues: Iterable[QueueName]
    ) -> int:
        """Take over a whole snapshot; returns how many rows differed from what was known (drift)."""
        members, joined = tuple(members), {told.caller: told for told in callers}  # perhaps our own
        there = {(told.queue, told.interface) for told in members}
        known = {*queues, *(told.queue for told in members), *(told.queue for told in joined.values())}
        absent = [row for row in self._members() if row not in there]
        gone = [caller for caller in self._waiting if caller not in joined]
        drift = sum([self._remove(queue, interface) for queue, interface in absent])
        others = set[Agent]()
        drift += sum([self._correct(told, others) for told in members])
        for agent in others & self._telephones.keys():
            self._stir(self._telephones[agent])
        for caller in gone:
            drift += self._take_out(self._waiting[caller], caller)
            self._let_all_go(caller)
        drift += sum([self._join(told) for told in joined.values()])
        self._queues = {queue: self._place(queue) for queue in known}
        return drift

    def _correct(self, told: MemberSeen, others: set[Agent]) -> bool:
        """Was he another than this row says? LastCall and InCall change without an event. Who is to be looked at again
        is added to `others`."""
        member = self._member(told.queue, told.interface)
        if member is None or member.told.agent != told.agent:
            self._enter(told)
            others.add(told.agent)
            return True
        before = member.told
        if before == told and member.in_call == told.in_call and member.completed_at is None:
            return False  # of thousands of rows hardly any is new
        if member.correct(told):
            others.add(told.agent)
        return (before.state, before.paused) != (told.state, told.paused)

    def agrees(self, other: Floor) -> bool:
        """Do both know the same members and callers? LastCall and InCall may differ."""
        return self._waiting == other._waiting and self._view() == other._view()

    def _view(self) -> dict[tuple[QueueName, str], tuple[Agent, DeviceState, bool]]:
        return {
            (queue, interface): (member.told.agent, member.told.state, member.told.paused)
            for queue, place in self._queues.items()
            for interface, member in place.members.items()
        }

    def lost(self) -> None:
        """Nobody tells any more: there is no agent whom we know to be free, and no offer whose end we would hear."""
        self._telephones, self._rung, self._due = {}, {}, {}
        for place in self._queues.values():
            place.members, place.state = {}, None

    def take_rules(self, rules: Mapping[QueueName, Rules]) -> bool:
        """From now on these hold; were they others before?"""
        changed = self._rules != rules
        self._rules = dict(rules)
        for telephone in self._telephones.values() if changed else ():
            self._stir(telephone)
        return changed

    # what follows

    def state(self, queue: QueueName, now: datetime) -> QueueState | None:
        """None: there is no such queue."""
        place = self._queues.get(self.spelt(queue))
        if place is None:
            return None
        if place.state is None or not place.since <= now < place.until:
            place.state, place.since = self._look(place, now), now
        return place.state

    def expire(self, now: datetime) -> bool:
        """Let those go who have been held for too long; were there any?"""
        ended = [
            (caller, agent)
            for agent, telephone in self._telephones.items()
            for caller, offer in telephone.offers.items()
            if offer.until <= now
        ]
        return any([self._let_go(caller, agent) for caller, agent in ended])

    def next_change_at(self, now: datetime) -> datetime | None:
        """When something changes without being told: a wrap-up ends, or an offer that is too old."""
        for agent, instants in list(self._due.items()):
            instants -= {at for at in instants if at <= now}
            if not instants:
                del self._due[agent]
        return min((at for instants in self._due.values() for at in instants), default=None)

    @property
    def offered(self) -> Set[str]:
        """Callers for whom an agent's telephone rings now."""
        return self._rung.keys()

    def is_waiting(self, caller: str) -> bool:
        """Is he in a queue, offered or not?"""
        return caller in self._waiting

    def wrap_up_ends_at(self, queue: QueueName, interface: str, ended_at: datetime) -> datetime:
        """When the wrap-up of this member after a call that ended then is over."""
        queue = self.spelt(queue)
        member = self._member(queue, interface)
        own = member.told.wrap_up_seconds if member else 0.0
        return ended_at + timedelta(seconds=own or self._rules_of(queue).wrap_up_seconds)

    def spelt(self, queue: QueueName) -> QueueName:
        """As Asterisk spells it, which finds its queues whatever the case."""
        if queue in self._queues:
            return queue
        return next((known for known in self._queues if known.lower() == queue.lower()), queue)

    @property
    def queues(self) -> Set[QueueName]:
        return self._queues.keys()

    @property
    def members(self) -> Iterator[MemberSeen]:
        for place in self._queues.values():
            for member in place.members.values():
                told = member.told
                yield told if told.in_call == member.in_call else replace(told, in_call=member.in_call)

    @property
    def callers(self) -> Iterator[CallerJoined]:
        for place in self._queues.values():
            yield from place.callers.values()

    @property
    def rows(self) -> int:
        """How much is remembered: queues, members, callers and offers."""
        places = self._queues.values()
        return len(places) + sum(len(place.members) for place in places) + len(self._waiting) + len(self._rung)

    # members

    def _see(self, told: MemberSeen) -> bool:
        member = self._member(told.queue, told.interface)
        if member is None or member.told.agent != told.agent:
            self._enter(told)
            changed = True
        else:
            changed = member.take(told)
        telephone = self._telephones[told.agent]
        changed |= self._settle_offers(telephone, told)
        if changed:
            self._stir(telephone)
        return changed

    def _enter(self, told: MemberSeen) -> None:
        """A member who was not there, or had another telephone."""
        self._remove(told.queue, told.interface)
        member = _Member(told, told.in_call)
        self._place(told.queue).members[told.interface] = member
        self._telephone(told.agent).members[told.queue, told.interface] = member

    def _settle_offers(self, telephone: _Telephone, told: MemberSeen) -> bool:
        """Busy and then idle again as this queue sees it: what it rang him for is over. Idle alone says nothing, for
        that may be from before."""
        idle = told.state is DeviceState.NOT_INUSE
        ended = []
        for caller, offer in telephone.offers.items():
            if (offer.queue, offer.interface) == (told.queue, told.interface):
                if (idle and offer.has_rung) or (offer.is_over and not idle):
                    ended.append(caller)
                offer.has_rung |= not idle
        return any([self._let_go(caller, told.agent) for caller in ended])

    def _remove(self, queue: QueueName, interface: str) -> bool:
        place = self._queues.get(queue)
        member = place.members.pop(interface, None) if place else None
        if place is None or member is None:
            return False
        place.state = None
        agent = member.told.agent
        telephone = self._telephones[agent]
        del telephone.members[queue, interface]
        self._stir(telephone)
        self._forget_empty(agent)
        return True

    def _connect(self, told: Connected) -> bool:
        changed = self._take_out(told.queue, told.caller) | self._end_offer(
            told.caller, told.interface, told.at
        )
        changed |= self._let_all_go(told.caller)
        member = self._member(told.queue, told.interface)
        if member and not member.in_call:
            member.in_call = changed = True
            self._stir(self._telephones[member.told.agent])
        return changed

    def _complete(self, told: Completed) -> bool:
        """Asterisk notes LastCall now and says so with the member's next event only, if there is one: a member who
        shows no device state has none."""
        shared = self._rules_of(told.queue).shared_last_call
        members = [
            place.members[told.interface]
            for queue, place in self._queues.items()
            if told.interface in place.members and (shared or queue == told.queue)
        ]
        for member in members:
            member.complete(told.queue, told.at)
            self._stir(self._telephones[member.told.agent])
        return bool(members)

    # callers

    def _join(self, told: CallerJoined) -> bool:
        before = self._waiting.get(told.caller)
        if before == told.queue:
            return False
        if before is not None:  # he cannot be in two
            self._take_out(before, told.caller)
        place = self._place(told.queue)
        place.callers[told.caller] = told
        place.state = None
        self._waiting[told.caller] = told.queue
        return True

    def _take_out(self, queue: QueueName, caller: str) -> bool:
        if self._waiting.get(caller) != queue:
            return False
        del self._waiting[caller]
        place = self._queues[queue]
        del place.callers[caller]
        place.state = None
        return True

    def _leave(self, told: CallerLeft) -> bool:
        """Also for the agent who rings for him: AgentConnect follows, and till then he is held."""
        changed = self._take_out(told.queue, told.caller)
        if told.at is None:
            return changed | self._let_all_go(told.caller)
        until = told.at + timedelta(seconds=LEAVING_SECONDS)
        for agent in self._rung.get(told.caller, ()):
            offer = self._telephones[agent].offers[told.caller]
            offer.until = min(offer.until, until)
            self._stir(self._telephones[agent])
        return changed

    # offers

    def _offer(self, told: Offered) -> bool:
        agent = told.agent or self._agent_of(told.queue, told.interface)
        telephone = self._telephone(agent)
        before = telephone.offers.get(told.caller)
        if before and not before.is_over:
            return False
        member = self._member(told.queue, told.interface)
        has_rung = member is not None and member.told.state is not DeviceState.NOT_INUSE
        until = told.at + timedelta(seconds=OFFER_SECONDS) if told.at else _NEVER
        telephone.offers[told.caller] = _Offer(told.queue, told.interface, until, has_rung)
        self._rung.setdefault(told.caller, set()).add(agent)
        self._stir(telephone, told.caller)
        return True

    def _end_offer(self, caller: str, interface: str, at: datetime | None) -> bool:
        """The caller is not rung for there any more; the agent is free when his telephone has been seen to ring."""
        changed = False
        for agent in tuple(self._rung.get(caller, ())):
            telephone = self._telephones[agent]
            offer = telephone.offers[caller]
            if offer.interface != interface:
                continue
            changed = True
            if offer.has_rung or at is None:
                self._let_go(caller, agent)
            else:
                offer.is_over, offer.until = True, min(offer.until, at + timedelta(seconds=SEEN_SECONDS))
                self._unring(caller, agent)
                self._stir(telephone, caller)
        return changed

    def _let_go(self, caller: str, agent: Agent) -> bool:
        telephone = self._telephones.get(agent)
        if telephone is None or telephone.offers.pop(caller, None) is None:
            return False
        self._unring(caller, agent)
        self._stir(telephone, caller)
        self._forget_empty(agent)
        return True

    def _unring(self, caller: str, agent: Agent) -> None:
        agents = self._rung.get(caller, set())
        agents.discard(agent)
        if not agents:
            self._rung.pop(caller, None)

    def _let_all_go(self, caller: str) -> bool:
        return any([self._let_go(caller, agent) for agent in tuple(self._rung.get(caller, ()))])

    def _forget_empty(self, agent: Agent) -> None:
        telephone = self._telephones[agent]
        if not telephone.members and not telephone.offers:
            del self._telephones[agent]
            self._due.pop(agent, None)

    # looking

    def _members(self) -> Iterator[tuple[QueueName, str]]:
        return ((queue, interface) for queue, place in self._queues.items() for interface in place.members)

    def _place(self, queue: QueueName) -> _Queue:
        return self._queues.setdefault(queue, _Queue())

    def _telephone(self, agent: Agent) -> _Telephone:
        return self._telephones.setdefault(agent, _Telephone(agent))

    def _member(self, queue: QueueName, interface: str) -> _Member | None:
        place = self._queues.get(queue)
        return place.members.get(interface) if place else None

    def _agent_of(self, queue: QueueName, interface: str) -> Agent:
        member = self._member(queue, interface)
        return member.told.agent if member else Agent(interface)

    def _rules_of(self, queue: QueueName) -> Rules:
        return self._rules.get(queue, self._unknown)

    def _stir(self, telephone: _Telephone, caller: str | None = None) -> None:
        """Look at him again, and at the queues that see him, and where the caller waits."""
        telephone.look()
        longest = max((self._rules_of(queue).wrap_up_seconds for queue, _ in telephone.members), default=0.0)
        due = {offer.until for offer in telephone.offers.values()} - {_NEVER}
        for (queue, _), member in telephone.members.items():
            self._queues[queue].state = None
            member.free_at = self._free_at(queue, member, longest)
            if member.free_at is not None:
                due.add(member.free_at)
        if due:
            self._due[telephone.agent] = due
        else:
            self._due.pop(telephone.agent, None)
        if caller in self._waiting:
            self._queues[self._waiting[caller]].state = None

    def _look(self, place: _Queue, now: datetime) -> QueueState:
        available, logged_in, paused, in_call = set[Agent](), set[Agent](), set[Agent](), set[Agent]()
        wrapping_up: dict[Agent, datetime] = {}
        until = _NEVER
        for member in place.members.values():
            agent = member.told.agent
            telephone = self._telephones[agent]
            for offer in telephone.offers.values():
                until = min(until, offer.until) if now < offer.until else until
            if member.told.state in _AWAY:
                continue
            logged_in.add(agent)
            if telephone.talks:
                in_call.add(agent)
            elif member.told.paused:
                paused.add(agent)
            elif telephone.is_free(now):
                free_at = member.free_at
                if free_at is None or free_at <= now:
                    available.add(agent)
                else:
                    wrapping_up[agent] = min(free_at, wrapping_up.get(agent, free_at))
        wrapping_up = {agent: at for agent, at in wrapping_up.items() if agent not in available}
        next_free_at = min(wrapping_up.values(), default=None)
        place.until = min(until, next_free_at or _NEVER)
        return QueueState(
            available=frozenset(available),
            waiting=sum(not self._is_offered_at(caller, now) for caller in place.callers),
            logged_in=len(logged_in),
            paused=len(paused - available - wrapping_up.keys()),
            in_call=len(in_call),
            wrapping_up=len(wrapping_up),
            next_free_at=next_free_at,
        )

    def _is_offered_at(self, caller: str, now: datetime) -> bool:
        return any(now < self._telephones[agent].offers[caller].until for agent in self._rung.get(caller, ()))

    def _free_at(self, queue: QueueName, member: _Member, longest: float) -> datetime | None:
        """When Asterisk would offer him a caller of this queue, as far as wrap-up goes.

        It wants both over, the queue's own wrap-up and that of the queue of his last call, if LastCall is shared. Whose
        that was is not told for the time before us: then the longest of his queues.
        """
        if member.last_call_at is None:
            return None
        rules = self._rules_of(queue)
        seconds = rules.wrap_up_seconds
        if member.told.wrap_up_seconds:
            seconds = member.told.wrap_up_seconds
        elif member.last_queue is not None:
            seconds = max(seconds, self._rules_of(member.last_queue).wrap_up_seconds)
        elif rules.shared_last_call:
            seconds = longest
        return member.last_call_at + timedelta(seconds=seconds)
