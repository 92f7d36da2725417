"""Who gets how much of what several campaigns want: of a trunk's room, of the queues' agents? (spec section 4)

By priority, by largest remainder, nobody below what he needs to begin with while there is enough; what one does not
want goes to the others. Too little for a beginning each goes by turns, else the first would always win: whose turn
it is next goes out as credits and comes back with the claims of the next pass. All in integers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from dialer_engine.core.model import Agent, QueueName

Key = TypeVar("Key", bound=Hashable)


class Claim(NamedTuple, Generic[Key]):
    """What one of them wants."""

    key: Key
    priority: int  # 1..100, more is more
    most: int  # of use to it, what it holds included
    held: int = 0  # in use already: nobody else's as long as there is enough for all that is held
    first: int = 1  # less than that is of no use to one that holds nothing
    credit: int = 0  # as the last dealing left it


Dealt = tuple[dict[Key, int], dict[Key, int]]
"""What each gets (who is missing gets nothing), and the credits of those between whom turns were taken."""


def deal(room: int, claims: Sequence[Claim[Key]]) -> Dealt[Key]:
    """Deal `room` out. Where it does not even do for what is held, nobody gets more than he holds."""
    if room <= 0:
        return {}, {}
    if sum(claim.most for claim in claims) <= room:
        return {claim.key: claim.most for claim in claims}, {}
    left = room - sum(claim.held for claim in claims)
    if left <= 0:
        return share(room, [Claim(claim.key, claim.priority, claim.held) for claim in claims]), {}
    if sum(claim.first for claim in claims if not claim.held) <= left:
        return share(room, claims), {}
    given, credits = _by_turns(left, [claim for claim in claims if not claim.held])
    return {claim.key: claim.held or given.get(claim.key, 0) for claim in claims}, credits


def _by_turns(room: int, claims: Sequence[Claim[Key]]) -> Dealt[Key]:
    """A beginning for some of them, so that over many dealings the turns are as the priorities.

    At every turn each earns its priority, and whoever is richest has it and pays what all have earned. Does what is
    left not do for him, it is kept: he who needs two would never see them, were every single one given to the next.
    """
    given: dict[Key, int] = {}
    waiting, turns = list(claims), 0
    while waiting:
        richest = max(waiting, key=lambda claim: (claim.credit + (turns + 1) * claim.priority, claim.priority))
        if richest.first > room:
            break
        turns += 1
        room -= richest.first
        given[richest.key] = richest.first
        waiting.remove(richest)
    paid = sum(claim.priority for claim in claims)
    credits = {
        claim.key: claim.credit + turns * claim.priority - (paid if claim.key in given else 0)
        for claim in claims
    }
    return given, credits


# By priority


def share(room: int, claims: Sequence[Claim[Key]]) -> dict[Key, int]:
    """Deal `room` out by priority, by largest remainder; equal remainders go to the earlier claim.

    Nobody gets more than is of use to him, nor, if there is enough for all of them, less than he holds or could
    begin with.
    """
    given = {claim.key: 0 for claim in claims}
    active = [
        (key, priority, held or min(first, most), most)
        for key, priority, most, held, first, _ in claims
        if most > 0
    ]
    left = min(room, sum(most for _, _, _, most in active))
    if sum(least for _, _, least, _ in active) > left:
        active = [(key, priority, 0, most) for key, priority, _, most in active]
    while fixed := _fixed(left, active):
        given.update(fixed)
        left -= sum(fixed.values())
        active = [bounded for bounded in active if bounded[0] not in fixed]
    given.update(_largest_remainder(left, active))
    return given


_Bounded = tuple[Key, int, int, int]
"""Key, priority, least, most."""


def _fixed(left: int, active: Sequence[_Bounded[Key]]) -> dict[Key, int]:
    """Those whose quota is outside [least, most], at that bound; of the two sides the heavier one.

    Fixing that side moves the others' quotas towards it, so that none is fixed wrongly. All in integers:
    a quota is left * priority / weight.
    """
    weight = sum(priority for _, priority, _, _ in active)
    over, under = {}, {}
    excess = shortage = 0
    for key, priority, least, most in active:
        if (above := left * priority - most * weight) >= 0:
            over[key] = most
            excess += above
        elif (below := least * weight - left * priority) > 0:
            under[key] = least
            shortage += below
    return over if excess >= shortage and over else under


def _largest_remainder(left: int, active: Sequence[_Bounded[Key]]) -> dict[Key, int]:
    weight = sum(priority for _, priority, _, _ in active)
    quotas = {key: divmod(left * priority, weight) for key, priority, _, _ in active}
    given = {key: whole for key, (whole, _) in quotas.items()}
    rest = left - sum(given.values())
    for key in sorted(quotas, key=lambda key: quotas[key][1], reverse=True)[:rest]:
        given[key] += 1
    return given


# Agents, each in one or several queues


class _Group(NamedTuple):
    """So many agents who are in exactly these queues."""

    queues: tuple[QueueName, ...]
    size: int


_Block = tuple[list[QueueName], list[_Group]]
"""Queues that share agents, and those agents."""


def deal_agents(
    pools: Mapping[QueueName, Collection[Agent]], claims: Mapping[QueueName, Sequence[Claim[Key]]]
) -> Dealt[Key]:
    """Deal the available agents of each queue out to those who claim agents of that queue, nobody to two.

    Queues that share agents are dealt as one. If that gives some queues more than their agents are, these have all of
    them and deal them among themselves, and the others go on without those agents, until everybody can have his
    share. So an agent is left over only when nobody has a use for him (or when he is kept for whose turn it is),
    and how much one has from elsewhere counts: who has a queue of his own gets less of what he shares.
    """
    given: dict[Key, int] = {}
    credits: dict[Key, int] = {}
    blocks = _apart(claims, _groups({queue: pools[queue] for queue in claims}))
    while blocks:
        block, groups = blocks.pop()
        dealt, earned = deal(
            sum(group.size for group in groups), [each for one in block for each in claims[one]]
        )
        short = _short({one: sum(dealt.get(each.key, 0) for each in claims[one]) for one in block}, groups)
        if not short:
            given.update(dealt)
            credits.update(earned)
            continue
        theirs = [_Group(common, group.size) for group in groups if (common := _among(group, short))]
        others = [group for group in groups if short.isdisjoint(group.queues)]
        blocks += _apart([one for one in block if one in short], theirs)
        blocks += _apart([one for one in block if one not in short], others)
    return given, credits


def _groups(pools: Mapping[QueueName, Collection[Agent]]) -> list[_Group]:
    queues: dict[Agent, list[QueueName]] = {}
    for queue, agents in pools.items():
        for agent in agents:
            queues.setdefault(agent, []).append(queue)
    return [_Group(*group) for group in Counter(map(tuple, queues.values())).items()]


def _among(group: _Group, queues: Collection[QueueName]) -> tuple[QueueName, ...]:
    return tuple(queue for queue in group.queues if queue in queues)


def _apart(queues: Iterable[QueueName], groups: Sequence[_Group]) -> list[_Block]:
    """The queues in blocks that have no agent in common."""
    number = {queue: n for n, queue in enumerate(queues)}
    for group in groups:
        joined = {number[queue] for queue in group.queues}
        if len(joined) > 1:
            lowest = min(joined)
            number.update((queue, lowest) for queue, n in number.items() if n in joined)
    blocks: dict[int, _Block] = {}
    for queue, n in number.items():
        blocks.setdefault(n, ([], []))[0].append(queue)
    for group in groups:
        blocks[number[group.queues[0]]][1].append(group)
    return list(blocks.values())


def _short(wanted: Mapping[QueueName, int], groups: Sequence[_Group]) -> set[QueueName]:
    """The queues that together want more agents than they have; none: all can have what they want."""
    if len(wanted) == 1:
        return set()  # its agents are all there is to deal
    matching = _Matching(groups, dict(wanted), {queue: [] for queue in wanted})
    short: set[QueueName] = set()
    for queue in wanted:
        if queue not in short:
            short |= matching.fill(queue)
    return short


@dataclass(slots=True)
class _Matching:
    """Who takes how many agents of which group. What stands is moved, never taken back (augmenting paths)."""

    groups: Sequence[_Group]
    lack: dict[QueueName, int]
    at: dict[QueueName, list[int]]  # the groups of each queue
    spare: list[int] = field(default_factory=list)
    taken: list[dict[QueueName, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Those in the fewest queues go first, and to where the fewest are left: that leaves little to move."""
        self.groups = sorted(self.groups, key=lambda group: len(group.queues))
        left = {queue: -lack for queue, lack in self.lack.items()}
        for queues, size in self.groups:
            for queue in queues:
                left[queue] += size
        for n, (queues, size) in enumerate(self.groups):
            taken = dict.fromkeys(queues, 0)
            spare = size
            for queue in sorted(queues, key=left.__getitem__):
                count = min(spare, self.lack[queue])
                taken[queue] = count
                spare -= count
                self.lack[queue] -= count
                left[queue] += count - size
                self.at[queue].append(n)
            self.spare.append(spare)
            self.taken.append(taken)

    def fill(self, queue: QueueName) -> set[QueueName]:
        """Give it what it lacks. If that cannot be: the queues that have all agents it could ever get."""
        while self.lack[queue]:
            givers: dict[QueueName, tuple[int, QueueName]] = {}
            last = self._find(queue, givers)
            if last is None:
                return {queue, *givers}
            self._move(queue, last, givers)
        return set()

    def _find(self, queue: QueueName, givers: dict[QueueName, tuple[int, QueueName]]) -> QueueName | None:
        """Who has agents to spare for himself, if he gives of his; `givers`: who gives of which group to whom."""
        rich = {
            name for group, spare in zip(self.groups, self.spare, strict=True) if spare for name in group.queues
        }
        reached, seen = [queue], set()
        for taker in reached:
            for n in self.at[taker]:
                if n in seen:
                    continue
                seen.add(n)
                for giver, count in self.taken[n].items():
                    if count and giver != queue and giver not in givers:
                        givers[giver] = n, taker
                        if giver in rich:
                            return giver
                        reached.append(giver)
        return None

    def _move(
        self, queue: QueueName, last: QueueName, givers: Mapping[QueueName, tuple[int, QueueName]]
    ) -> None:
        hops = []
        giver = last
        while giver != queue:
            hops.append((giver, *givers[giver]))
            giver = givers[giver][1]
        n = next(n for n in self.at[last] if self.spare[n])
        count = min(self.spare[n], self.lack[queue], *(self.taken[group][giver] for giver, group, _ in hops))
        self.lack[queue] -= count
        self.spare[n] -= count
        self.taken[n][last] += count
        for giver, group, to in hops:
            self.taken[group][giver] -= count
            self.taken[group][to] += count
