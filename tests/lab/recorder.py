"""The judge of the pace: did every call begin when the rule of spec section 4 allowed one more?

It knows nothing of the daemon. Agents and queues come from an AMI session of its own, told apart by a parser of its
own and by the rules written here anew; the calls come from the world's log. After a run it goes through every INVITE
of the campaigns and asks what stood then:

    unserved before it + 1 <= floor(available x boostFactor)

**Tolerance.** Between the daemon's last look and the world's note of the INVITE lie the POST, the new channel and
SIP: some 10 ms on an idle machine. An agent who pauses within that time cannot be known to the daemon, so an INVITE
is right when the rule held at some instant of the last `TOLERANCE_SECONDS`; how many needed it, and how much of it,
is told. It only looks back: what comes after the INVITE excuses nothing. All stamps are of one machine's clock:
Asterisk's own for AMI (timestampevents), the world's dialplan for calls.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations
from types import TracebackType
from typing import Generic, Self, TypeVar

from .bare_ami import Event, Headers
from .lab import WRAP_UP_SECONDS, Lab
from .world import WorldCall, now

TOLERANCE_SECONDS = 0.06

FREE = "1"  # AST_DEVICE_NOT_INUSE
_ROWS = ("QueueMemberAdded", "QueueMemberStatus", "QueueMemberPause", "QueueMemberRinginuse")
_KEPT = frozenset(
    (
        *_ROWS,
        *("QueueMemberRemoved", "QueueCallerJoin", "QueueCallerLeave", "QueueCallerAbandon"),
        *("AgentCalled", "AgentRingNoAnswer", "AgentConnect", "AgentComplete", "DialBegin", "Hangup"),
    )
)

Value = TypeVar("Value")


class Steps(Generic[Value]):
    """A value that changes at instants, told in their order."""

    def __init__(self, first: Value) -> None:
        self._instants = [-math.inf]
        self._values = [first]

    def set(self, at: float, value: Value) -> None:
        if value == self._values[-1]:
            return
        if at <= self._instants[-1]:
            self._values[-1] = value
        else:
            self._instants.append(at)
            self._values.append(value)

    def at(self, instant: float) -> Value:
        return self._values[bisect.bisect_right(self._instants, instant) - 1]

    def remains(self, value: Value, since: float) -> bool:
        """Is it this from then on for ever?"""
        return self._instants[-1] <= since and self._values[-1] == value

    def changes(self, begin: float, end: float) -> Sequence[float]:
        """The instants after `begin` and until `end` at which it changes."""
        first, last = (bisect.bisect_right(self._instants, each) for each in (begin, end))
        return self._instants[first:last]


@dataclass(frozen=True, slots=True)
class Member:
    """A row of a queue."""

    telephone: str  # StateInterface
    free: bool
    paused: bool
    in_call: bool
    last_call: int
    wrap_up: int

    @classmethod
    def of(cls, row: Headers, wrap_up: int) -> Member:
        """`wrap_up` is the queue's; a member's own goes before it."""
        return cls(
            telephone=row["StateInterface"],
            free=row["Status"] == FREE,
            paused=row["Paused"] == "1",
            in_call=row["InCall"] == "1",
            last_call=int(row["LastCall"]),
            wrap_up=int(row.get("Wrapuptime") or 0) or wrap_up,
        )

    def is_available(self, at: float, last_call: int, last_wrap_up: int) -> bool:
        """By app_queue's own words: a wrap-up does not begin before the call is over, and that of the queue whose call
        was the last holds him for the others, too."""
        talks = self.in_call and self.wrap_up > 0
        wrap_up = max(self.wrap_up, last_wrap_up)
        return self.free and not self.paused and not talks and at >= last_call + wrap_up


@dataclass
class Queue:
    """A queue while the events are gone through, and what it was at each instant."""

    wrap_up: int
    members: dict[str, Member] = field(default_factory=dict)  # by interface
    callers: set[str] = field(default_factory=set)
    available: Steps[frozenset[str]] = field(default_factory=lambda: Steps(frozenset()))
    waiting: Steps[int] = field(default_factory=lambda: Steps(0))


class History:
    """What AMI told of a run, in the order of the wire."""

    def __init__(self, rows: Iterable[Headers], events: Iterable[Event], began_at: float) -> None:
        self.queues = {name: Queue(seconds) for name, seconds in WRAP_UP_SECONDS.items()}
        self.attempts: dict[
            str, list[str]
        ] = {}  # by the last twelve digits: the channels of its calls in order
        self.unserved: dict[
            str, Steps[bool]
        ] = {}  # by channel: neither with an agent nor offered to one, nor over
        self.connected: dict[str, Event] = {}  # by the caller's channel
        self.completed: dict[str, Event] = {}
        self._at = began_at
        self._reserved: dict[
            str, str
        ] = {}  # by the agent's leg: the telephone that rings, until its state says so
        self._offered: dict[str, str] = {}  # by the agent's leg: the caller
        self._ended: set[str] = set()
        self._last_wrap_up: dict[str, int] = {}  # by telephone: of the queue whose call was his last
        self._wrap_up_ends: list[int] = []
        for row in rows:
            self._take_row(row)
        self._look()
        for event in events:
            self._pass_wrap_ups(event.at)
            self._at = max(self._at, event.at)
            self._take(event)
        self._pass_wrap_ups(math.inf)

    def _pass_wrap_ups(self, until: float) -> None:
        while self._wrap_up_ends and self._wrap_up_ends[0] <= until:
            self._at = max(self._at, self._wrap_up_ends.pop(0))
            self._look()

    def _take_row(self, row: Headers) -> None:
        queue = self.queues.get(row.get("Queue", ""))
        if queue is None:
            return
        if row["Event"] == "QueueEntry":
            queue.callers.add(row["Uniqueid"])
        elif row["Event"] == "QueueMember":
            self._take_member(queue, row["Location"], row)

    def _take_member(self, queue: Queue, interface: str, row: Headers) -> None:
        member = queue.members[interface] = Member.of(row, queue.wrap_up)
        if not member.free:
            for leg in [leg for leg, telephone in self._reserved.items() if telephone == member.telephone]:
                del self._reserved[leg]
        for wrap_up in {member.wrap_up, self._last_wrap_up.get(member.telephone, 0)}:
            bisect.insort(self._wrap_up_ends, member.last_call + wrap_up)

    def _take(self, event: Event) -> None:
        queue = self.queues.get(event["Queue"])
        if queue is None:
            self._take_of_a_channel(event)
        elif event.name in _ROWS:
            self._take_member(queue, event["Interface"], event.headers)
            self._look()
        elif event.name == "QueueMemberRemoved":
            queue.members.pop(event["Interface"], None)
            self._look()
        else:
            self._take_of_a_caller(queue, event, event["Uniqueid"])
            self._look()
            self._look_at_call(event["Uniqueid"])

    def _take_of_a_caller(self, queue: Queue, event: Event, caller: str) -> None:
        match event.name:
            case "QueueCallerJoin":
                queue.callers.add(caller)
            case "QueueCallerLeave" | "QueueCallerAbandon":
                queue.callers.discard(caller)
            case "AgentCalled":
                if event["Interface"] in queue.members:  # who has just been removed still rings
                    self._reserved[event["DestUniqueid"]] = queue.members[event["Interface"]].telephone
                self._offered[event["DestUniqueid"]] = caller
            case "AgentRingNoAnswer":
                self._reserved.pop(event["DestUniqueid"], None)
                self._offered.pop(event["DestUniqueid"], None)
            case "AgentConnect":
                self.connected[caller] = event
            case "AgentComplete":
                self.completed[caller] = event
                if event["Interface"] in queue.members:
                    member = queue.members[event["Interface"]]
                    self._last_wrap_up[member.telephone] = member.wrap_up

    def _take_of_a_channel(self, event: Event) -> None:
        if event.name == "DialBegin" and not event["Uniqueid"]:  # nobody dials: it is originated
            channel = event["DestUniqueid"]
            self.attempts.setdefault(event["DialString"].partition("@")[0][-12:], []).append(channel)
            self.unserved[channel] = Steps(True)
        elif event.name == "Hangup":
            channel = event["Uniqueid"]
            self._ended.add(channel)
            self._look_at_call(channel)
            if channel in self._offered:  # an agent's leg
                caller = self._offered.pop(channel)
                self._reserved.pop(channel, None)
                self._look()
                self._look_at_call(caller)

    def _look_at_call(self, channel: str) -> None:
        if channel in self.unserved:
            offered = channel in self._offered.values()
            self.unserved[channel].set(
                self._at, not (offered or channel in self.connected or channel in self._ended)
            )

    def _look(self) -> None:
        """Write down what every queue is now."""
        rung, offered = set(self._reserved.values()), set(self._offered.values())
        last_calls: dict[str, int] = {}  # shared_lastcall = yes
        for queue in self.queues.values():
            for member in queue.members.values():
                last_calls[member.telephone] = max(last_calls.get(member.telephone, 0), member.last_call)
        for queue in self.queues.values():
            available = {
                member.telephone
                for member in queue.members.values()
                if member.is_available(
                    self._at, last_calls[member.telephone], self._last_wrap_up.get(member.telephone, 0)
                )
            }
            queue.available.set(self._at, frozenset(available - rung))
            queue.waiting.set(self._at, len(queue.callers - offered))


@dataclass(frozen=True)
class Watched:
    """A campaign, as the judge is told of it."""

    queue: str
    boost: str
    numbers: Iterable[str]
    max_waiting: int = 2


@dataclass(frozen=True, slots=True)
class Judged:
    """One INVITE. `margin` is how many more calls, or agents, there would have been room for: below 0 it was wrong."""

    call: WorldCall
    queue: str
    available: int
    unserved: int  # before it
    margin: int
    lookback_seconds: float  # how far back the rule last held

    @property
    def text(self) -> str:
        return (
            f"{self.call.number} into {self.queue} at {self.call.invited_at:.3f}: {self.available} available, "
            f"{self.unserved} unserved before it, margin {self.margin}"
        )


@dataclass(frozen=True)
class Verdict:
    judged: Sequence[Judged]

    @property
    def wrong(self) -> list[str]:
        return [each.text for each in self.judged if each.margin < 0]

    @property
    def text(self) -> str:
        if not self.judged:
            return "no INVITE was judged"
        late = [each.lookback_seconds for each in self.judged if 0 < each.lookback_seconds < math.inf]
        worst = min(self.judged, key=lambda each: each.margin)
        return (
            f"{len(self.judged)} INVITEs judged, {len(self.wrong)} wrong; worst margin {worst.margin} ({worst.text}); "
            f"{len(late)} needed the tolerance, at most {max(late, default=0) * 1e3:.0f} of "
            f"{TOLERANCE_SECONDS * 1e3:.0f} ms of it"
        )


class Recorder:
    """Listens from its entering to its end; judges whenever it is asked."""

    def __init__(self, lab: Lab) -> None:
        self._events: list[Event] = []
        self._ami = lab.ami(classes="agent,user,system,call", on_event=self._keep)
        self._rows: list[Headers] = []
        self._began_at = 0.0

    def __enter__(self) -> Self:
        self._ami.__enter__()
        self._began_at = now()
        self._rows = self._ami.do("QueueStatus")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ami.__exit__(kind, value, trace)

    def _keep(self, event: Event) -> None:
        if event.name in _KEPT:
            self._events.append(event)

    def events(self, name: str) -> list[Event]:
        """Of this name, so far."""
        return [event for event in list(self._events) if event.name == name]

    def history(self) -> History:
        return History(self._rows, list(self._events), self._began_at)

    def judge(
        self, calls: Sequence[WorldCall], campaigns: Sequence[Watched], *, sharing: Sequence[Sequence[int]] = ()
    ) -> Verdict:
        """By all that has been heard so far (see `judge`)."""
        return judge(self.history(), calls, campaigns, sharing=sharing)


def judge(
    history: History,
    calls: Sequence[WorldCall],
    campaigns: Sequence[Watched],
    *,
    sharing: Sequence[Sequence[int]] = (),
) -> Verdict:
    """`calls` are the world's; `sharing` names groups of campaigns, by their place, whose agents are shared."""
    return Verdict(list(_Bench(history, campaigns, sharing).judge(calls)))


class _Bench:
    """Where the campaigns of a run are judged."""

    def __init__(
        self, history: History, campaigns: Sequence[Watched], sharing: Sequence[Sequence[int]]
    ) -> None:
        self._history = history
        self._campaigns = campaigns
        self._of_number = {
            number[-12:]: place for place, each in enumerate(campaigns) for number in each.numbers
        }
        self._groups = [
            group
            for places in sharing
            for size in range(2, len(places) + 1)
            for group in combinations(places, size)
        ]
        self._before: list[list[tuple[WorldCall, Steps[bool]]]] = [[] for _ in campaigns]

    def judge(self, calls: Sequence[WorldCall]) -> Iterator[Judged]:
        """In the order of the INVITEs."""
        seen: dict[str, int] = {}
        for call in calls:
            place = self._of_number.get(call.number)
            if place is None:
                continue
            channels = self._history.attempts.get(call.number, [])
            nth = seen[call.number] = seen.get(call.number, -1) + 1
            if nth >= len(channels):
                raise AssertionError(f"AMI knows of no channel for {call}")
            yield self._judge(call, place)
            self._before[place].append((call, self._history.unserved[channels[nth]]))

    def _judge(self, call: WorldCall, place: int) -> Judged:
        begin, end = call.invited_at - TOLERANCE_SECONDS, call.invited_at
        queue = self._history.queues[self._campaigns[place].queue]
        instants = {begin, end}
        for each in self._history.queues.values():
            instants.update(each.available.changes(begin, end), each.waiting.changes(begin, end))
        for calls in self._before:
            calls[:] = [(one, steps) for one, steps in calls if not steps.remains(False, begin)]
            for one, steps in calls:
                instants.update(steps.changes(begin, end))
                if one.ended_at is not None and begin < one.ended_at <= end:
                    instants.add(one.ended_at)
        margins = [(at, self._margin(place, at)) for at in sorted(instants)]
        best, margin = max(margins, key=lambda pair: (pair[1], pair[0]))
        held_until = [  # each margin holds until the next instant
            ends_at
            for (_, each), ends_at in zip(margins, [*sorted(instants)[1:], end], strict=True)
            if each >= 0
        ]
        return Judged(
            call=call,
            queue=self._campaigns[place].queue,
            available=len(queue.available.at(best)),
            unserved=self._unserved(place, best),
            margin=margin,
            lookback_seconds=end - max(held_until, default=-math.inf),
        )

    def _unserved(self, place: int, at: float) -> int:
        """Of the calls before: those whose INVITE is still to come at `at` were decided before. One has ended when AMI
        or the world says so: each may be late with it on a busy machine, and the daemon hears of it by a third way.
        """
        return sum(
            at < call.invited_at or (steps.at(at) and not (call.ended_at is not None and call.ended_at <= at))
            for call, steps in self._before[place]
        )

    def _margin(self, place: int, at: float) -> int:
        campaign = self._campaigns[place]
        queue = self._history.queues[campaign.queue]
        unserved = self._unserved(place, at)
        room = math.floor(len(queue.available.at(at)) * Fraction(campaign.boost)) - (unserved + 1)
        margins = [room, max(1, campaign.max_waiting) - 1 - queue.waiting.at(at)]
        for group in self._groups:
            if place in group:
                margins.append(self._shared(group, place, at))
        return min(margins)

    def _shared(self, group: Sequence[int], begun: int, at: float) -> int:
        """Agents of the whole group that nobody's calls hold; calls of others hold none whom they could not have."""
        agents: set[str] = set()
        held = 0
        for place in group:
            campaign = self._campaigns[place]
            available = self._history.queues[campaign.queue].available.at(at)
            needs = math.ceil((self._unserved(place, at) + (place == begun)) / Fraction(campaign.boost))
            agents |= available
            held += needs if place == begun else min(needs, len(available))
        return len(agents) - held
