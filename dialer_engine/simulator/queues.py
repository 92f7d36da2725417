"""Asterisk's app_queue as far as it matters: queues, their members and who waits there. What takes time is in
`queueing`.

All of its own clock is in whole seconds (`time(NULL)`), and so it is here: hold times, time-outs, the end of a
wrap-up. A member is known by what the queue dials (its interface), whether his telephone is free by its state
interface; the same telephone may be a member of several queues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from dialer_engine.simulator.channels import Channel
from dialer_engine.simulator.exchange import Exchange
from dialer_engine.simulator.sessions import Headers, snapshot
from dialer_engine.simulator.threads import Script
from dialer_engine.simulator.world import Seen

HINTS = "ext-local"
"""The context of hints: hint:1001@ext-local is the telephone PJSIP/1001."""
AUTO_PAUSE = "Auto-Pause"


class DeviceState(IntEnum):
    UNKNOWN = 0
    NOT_INUSE = 1
    INUSE = 2
    BUSY = 3
    INVALID = 4
    UNAVAILABLE = 5
    RINGING = 6
    RINGINUSE = 7


class Strategy(StrEnum):
    """Who is offered the next caller: whose last call is the longest ago, or one after the other."""

    LEAST_RECENT = "leastrecent"
    ROUND_ROBIN = "rrmemory"


@dataclass(frozen=True, slots=True)
class QueueRules:
    """A queue in queues.conf. Seconds are whole."""

    strategy: Strategy = Strategy.LEAST_RECENT
    timeout: int = 15  # how long one telephone rings
    retry: int = 1
    wrap_up: int = 0
    ring_in_use: bool = False
    autofill: bool = True  # False: only who is first is offered to anybody
    autopause: bool = False
    rings_out: bool = (
        False  # timeoutpriority=conf: a telephone rings its whole time, whatever Queue() was given
    )
    template: str = ""  # of which it has all but its wrap-up

    def lines(self) -> Iterator[str]:
        """As they stand in the file."""
        wrap_up = f"wrapuptime={self.wrap_up}"
        yield from (f"strategy={self.strategy}", f"retry={self.retry}", f"timeout={self.timeout}")
        if self.rings_out:
            yield "timeoutpriority=conf"
        yield f"ringinuse={'yes' if self.ring_in_use else 'no'}"
        if not self.autofill:
            yield "autofill=no"
        if self.autopause:
            yield "autopause=yes"
        if not self.template:
            yield wrap_up
        yield from ("setinterfacevar=yes", "setqueueentryvar=yes")
        if self.template:
            yield wrap_up


@dataclass(slots=True, eq=False)
class Member:
    """Somebody's telephone in one queue."""

    queue: Queue
    interface: str
    name: str
    state_interface: str
    penalty: int
    ring_in_use: bool
    login_at: int
    status: DeviceState = DeviceState.UNKNOWN
    paused: bool = False
    reason: str = ""
    last_pause: int = 0
    calls_taken: int = 0
    last_call: int = 0
    last_queue: Queue | None = None
    in_call: bool = False

    def headers(self) -> Headers:
        """As every event about a member carries them; a row of QueueStatus begins otherwise and has no Ringinuse."""
        return [
            ("StateInterface", self.state_interface),
            ("Membership", "dynamic"),
            ("Penalty", self.penalty),
            ("CallsTaken", self.calls_taken),
            ("LastCall", self.last_call),
            ("LastPause", self.last_pause),
            ("LoginTime", self.login_at),
            ("InCall", int(self.in_call)),
            ("Status", int(self.status)),
            ("Paused", int(self.paused)),
            ("PausedReason", self.reason),
        ]


@dataclass(slots=True, eq=False)
class Caller:
    """Somebody in a queue."""

    queue: Queue
    channel: Channel
    since: int
    expires_at: int | None
    position: int
    original_position: int
    pending: bool = False  # a telephone rings for him
    handled: bool = False  # he has got an agent


@dataclass(slots=True)
class Counts:
    """Of a queue since the PBX was started; times are averages."""

    completed: int = 0
    completed_at_once: int = 0
    abandoned: int = 0
    abandoned_at_once: int = 0
    hold_time: int = 0
    talk_time: int = 0


@dataclass(slots=True, eq=False)
class Queue:
    name: str
    rules: QueueRules
    members: dict[str, Member] = field(default_factory=dict)  # by interface
    callers: list[Caller] = field(default_factory=list)  # the first one first
    counts: Counts = field(default_factory=Counts)
    next_member: int = 0  # of ROUND_ROBIN


class QueueError(Exception):
    """What Asterisk answers to an order that it does not carry out."""


class Queues:
    """All queues. With `shared_last_call` an agent of several queues wraps up in all of them."""

    def __init__(
        self, exchange: Exchange, rules: Mapping[str, QueueRules], *, shared_last_call: bool = True
    ) -> None:
        self.by_name = {name: Queue(name, each) for name, each in rules.items()}
        self.shared_last_call = shared_last_call
        self._exchange = exchange
        self._ringing: set[str] = set()  # interfaces that some caller tries to reach
        self._by_device: dict[str, list[Member]] = {}
        self.on_talked: Callable[[Member, Seen | None], None] = lambda member, seen: None
        exchange.on_device = self._device_changed

    @property
    def _now(self) -> int:
        return int(self._exchange.now)

    def members(self) -> Iterator[Member]:
        for queue in self.by_name.values():
            yield from queue.members.values()

    # Members

    def add(
        self,
        queue_name: str,
        interface: str,
        name: str = "",
        state_interface: str = "",
        *,
        penalty: int = 0,
        paused: bool = False,
        reason: str = "",
    ) -> None:
        """Log in. Raises QueueError."""
        queue = self.by_name.get(queue_name)
        if queue is None:
            raise QueueError("Unable to add interface to queue: No such queue")
        if interface in queue.members:
            raise QueueError("Unable to add interface: Already there")
        member = Member(
            queue,
            interface,
            name or interface,
            state_interface or interface,
            penalty,
            queue.rules.ring_in_use,
            login_at=self._now,
        )
        device = device_of(member.state_interface)
        member.status = self._device_state(device)
        queue.members[interface] = member
        self._by_device.setdefault(device, []).append(member)
        if paused:
            self._set_paused(member, reason, paused=True)
        self._tell_member("QueueMemberAdded", member)

    def remove(self, queue_name: str, interface: str) -> None:
        """Log off. Raises QueueError. A telephone that rings goes on."""
        queue = self.by_name.get(queue_name)
        if queue is None:
            raise QueueError("Unable to remove interface from queue: No such queue")
        member = queue.members.pop(interface, None)
        if member is None:
            raise QueueError("Unable to remove interface: Not there")
        self._tell_member("QueueMemberRemoved", member)
        self._by_device[device_of(member.state_interface)].remove(member)

    def pause(self, queue_name: str, interface: str, reason: str, *, paused: bool) -> None:
        """In all queues, when none is named. Raises QueueError."""
        found = [
            member
            for member in self.members()
            if member.interface == interface and queue_name in ("", member.queue.name)
        ]
        if not found:
            raise QueueError("Interface not found")
        for member in found:
            self._set_paused(member, reason, paused=paused)
            self._tell_member("QueueMemberPause", member)

    def _set_paused(self, member: Member, reason: str, *, paused: bool) -> None:
        member.paused, member.reason = paused, reason if paused else ""
        if paused:
            member.last_pause = self._now

    def _tell_member(self, event: str, member: Member) -> None:
        told: Headers = [
            ("Queue", member.queue.name),
            ("MemberName", member.name),
            ("Interface", member.interface),
            *member.headers(),
            ("Ringinuse", int(member.ring_in_use)),
            ("Wrapuptime", 0),
        ]
        self._exchange.sessions.tell("agent", event, told, self._exchange.now)

    # Devices

    def _device_changed(self, device: str) -> None:
        if self._by_device.get(device):
            self._exchange.threads.start(self._notice(device))

    def _notice(self, device: str) -> Script:
        """Asterisk's thread of device states is told, looks, and tells the queues what is new."""
        yield 0.0
        state = self._device_state(device)
        for member in self._by_device.get(device, ()):
            if member.status is not state:
                member.status = state
                self._ringing.discard(member.interface)
                self._tell_member("QueueMemberStatus", member)

    def _device_state(self, device: str) -> DeviceState:
        technology, _, resource = device.partition("/")
        if technology == "Local":
            return DeviceState.INUSE if self._exchange.states_of(device) else DeviceState.NOT_INUSE
        trunk = self._exchange.trunks.get(resource)
        if technology != "PJSIP" or trunk is None:
            return DeviceState.INVALID
        states = self._exchange.states_of(device)
        if not states and not trunk.has_contact:
            return DeviceState.UNAVAILABLE
        talks, rings = "Up" in states or "Ring" in states, "Ringing" in states
        if trunk.is_busy_at_one and (talks or rings):
            return DeviceState.BUSY
        if talks:
            return DeviceState.RINGINUSE if rings else DeviceState.INUSE
        return DeviceState.RINGING if rings else DeviceState.NOT_INUSE

    # Who may be offered to whom

    def is_available(self, member: Member) -> bool:
        """By app_queue's own rule. It does not see who is being rung but has not changed his state yet."""
        wrap_up = member.queue.rules.wrap_up
        if wrap_up and (member.in_call or (member.last_call and self._now - wrap_up < member.last_call)):
            return False
        return not member.paused and self._is_free(member.status, ring_in_use=member.ring_in_use)

    @staticmethod
    def _is_free(status: DeviceState, *, ring_in_use: bool) -> bool:
        if status in (DeviceState.INVALID, DeviceState.UNAVAILABLE):
            return False
        return ring_in_use or status in (DeviceState.NOT_INUSE, DeviceState.UNKNOWN)

    def is_turn_of(self, caller: Caller) -> bool:
        """Is there an agent for each of those before him who are not offered to one, and one more?"""
        queue = caller.queue
        available = sum(map(self.is_available, queue.members.values()))
        before = sum(not other.pending for other in queue.callers[: queue.callers.index(caller)])
        return before < available and (queue.rules.autofill or caller.position == 1)

    def in_turn(self, queue: Queue) -> list[Member]:
        """Its members, who is to be tried first first. Asterisk mixes those whom the strategy does not tell apart."""
        members = [*queue.members.values()]
        if queue.rules.strategy is Strategy.ROUND_ROBIN:
            first = queue.next_member % max(len(members), 1)
            return members[first:] + members[:first]
        return sorted(members, key=lambda member: member.last_call)

    def tried(self, member: Member) -> None:
        """ROUND_ROBIN begins with the next one then."""
        queue = member.queue
        if member.interface in queue.members:
            queue.next_member = [*queue.members].index(member.interface) + 1

    def may_ring(self, member: Member) -> bool:
        """Looked at once more just before it rings; from then on nobody else may."""
        wrap_up = (member.last_queue or member.queue).rules.wrap_up
        if member.paused or not self._is_free(member.status, ring_in_use=member.ring_in_use):
            return False
        if wrap_up and ((member.in_call and member.last_queue) or self._now - member.last_call < wrap_up):
            return False
        if member.ring_in_use:
            return True
        state = self._device_state(device_of(member.state_interface))
        if member.interface in self._ringing or not self._is_free(state, ring_in_use=False):
            return False
        self._ringing.add(member.interface)
        return True

    def rung_out(self, member: Member) -> None:
        """The offer is over, and the telephone had never changed its state."""
        if member.status is DeviceState.NOT_INUSE:
            self._ringing.discard(member.interface)

    # Callers

    def join(self, queue: Queue, channel: Channel, timeout: int | None) -> Caller:
        """At the end."""
        now, place = self._now, len(queue.callers) + 1
        caller = Caller(queue, channel, now, None if timeout is None else now + timeout, place, place)
        queue.callers.append(caller)
        self._tell_caller("QueueCallerJoin", caller, ("Position", place), ("Count", place))
        return caller

    def is_over(self, caller: Caller) -> bool:
        """Has he waited the whole time?"""
        return caller.expires_at is not None and self._now >= caller.expires_at

    def leave(self, caller: Caller) -> None:
        """For whatever reason. Once is enough."""
        queue = caller.queue
        if caller not in queue.callers:
            return
        queue.callers.remove(caller)
        for place, other in enumerate(queue.callers, 1):
            other.position = place
        left = len(queue.callers)
        self._tell_caller("QueueCallerLeave", caller, ("Position", caller.position), ("Count", left))
        self._exchange.set_variable(caller.channel, "QUEUEPOSITION", str(caller.position))

    def abandon(self, caller: Caller) -> None:
        """He gets no agent: has hung up, or his time is over."""
        queue, waited = caller.queue, self._now - caller.since
        queue.counts.abandoned += 1
        queue.counts.abandoned_at_once += waited == 0
        self._exchange.set_variable(caller.channel, "ABANDONED", "TRUE")
        self.set_wait(caller)
        places = ("Position", caller.position), ("OriginalPosition", caller.original_position)
        self._tell_caller("QueueCallerAbandon", caller, *places, ("HoldTime", waited))

    def set_wait(self, caller: Caller) -> None:
        """Asterisk's milliseconds are whole seconds, too."""
        waited = self._now - caller.since
        self._exchange.set_variable(caller.channel, "QUEUEWAIT", str(waited))
        self._exchange.set_variable(caller.channel, "QUEUEWAIT_MS", str(waited * 1000))

    # Calls of an agent

    def called(self, caller: Caller, member: Member, leg: Channel) -> None:
        """His telephone rings, or will."""
        self._tell_agent("AgentCalled", caller, member, leg)

    def refused(self, caller: Caller, member: Member, leg: Channel, seconds: int) -> None:
        """It rang in vain for so long."""
        self._tell_agent("AgentRingNoAnswer", caller, member, leg, ("RingTime", seconds * 1000))
        if caller.queue.rules.autopause and member.interface in caller.queue.members:
            self.pause(caller.queue.name, member.interface, AUTO_PAUSE, paused=True)

    def connected(self, caller: Caller, member: Member, leg: Channel, ring_seconds: int) -> None:
        """`ring_seconds`: how long it had rung."""
        queue, waited = caller.queue, self._now - caller.since
        caller.handled = True
        queue.counts.hold_time = (3 * queue.counts.hold_time + waited) >> 2
        self.set_wait(caller)
        self.leave(caller)
        for each in self._same(member):
            each.in_call = True
        times = ("HoldTime", waited), ("RingTime", ring_seconds)
        self._tell_agent("AgentConnect", caller, member, leg, *times)

    def completed(self, caller: Caller, member: Member, leg: Channel, since: int, reason: str) -> None:
        """They have talked. `since` when, in whole seconds; `reason`: who has ended it, caller or agent."""
        queue, now = caller.queue, self._now
        times = ("HoldTime", since - caller.since), ("TalkTime", now - since)
        self._tell_agent("AgentComplete", caller, member, leg, *times, ("Reason", reason))
        queue.counts.completed += 1
        queue.counts.completed_at_once += since == caller.since
        talked = now - since
        queue.counts.talk_time = (
            talked if queue.counts.completed_at_once == 1 else (3 * queue.counts.talk_time + talked) >> 2
        )
        for each in self._same(member):
            each.in_call, each.last_call, each.last_queue = False, now, queue
            each.calls_taken += 1
        self.on_talked(member, None if leg.line is None else leg.line.seen)

    def _same(self, member: Member) -> list[Member]:
        if not self.shared_last_call:
            return [member]
        return [each for each in self.members() if each.interface == member.interface]

    def _tell_caller(self, event: str, caller: Caller, *more: tuple[str, object]) -> None:
        told: Headers = [*snapshot(caller.channel), ("Queue", caller.queue.name), *more]
        self._exchange.sessions.tell("agent", event, told, self._exchange.now)

    def _tell_agent(
        self, event: str, caller: Caller, member: Member, leg: Channel, *more: tuple[str, object]
    ) -> None:
        told: Headers = [
            *snapshot(caller.channel),
            *snapshot(leg, "Dest"),
            ("Queue", caller.queue.name),
            ("Interface", member.interface),
            ("MemberName", member.name),
            *more,
        ]
        self._exchange.sessions.tell("agent", event, told, self._exchange.now)

    # Who does what

    def doing(self, queue_name: str) -> dict[str, str]:
        """Of each member, by his name."""
        return {member.name: self._doing(member) for member in self.by_name[queue_name].members.values()}

    def _doing(self, member: Member) -> str:
        if member.in_call:
            return "talking"
        states = self._exchange.states_of(device_of(member.state_interface))
        if states:
            return "on the telephone" if "Up" in states or "Ring" in states else "ringing"
        if not self._is_free(member.status, ring_in_use=False):
            return "away"
        if member.paused:
            return "paused"
        return "free" if self.is_available(member) else "wrapping up"

    # The PBX

    def reset(self, queue: Queue) -> None:
        """Its counts begin anew."""
        queue.counts = Counts()
        for member in queue.members.values():
            member.calls_taken = member.last_call = 0
            member.in_call = False

    def crash(self) -> None:
        """Callers are gone and counts forgotten; who is logged in stays so (persistentmembers)."""
        self._ringing.clear()
        for queue in self.by_name.values():
            queue.callers.clear()
            self.reset(queue)
        for member in self.members():
            member.last_queue = None
            member.status = self._device_state(device_of(member.state_interface))


def device_of(state_interface: str) -> str:
    """The device by which a state interface goes."""
    if state_interface.startswith("hint:"):
        exten, _, context = state_interface.removeprefix("hint:").partition("@")
        return f"PJSIP/{exten}" if context == HINTS else "none"
    if state_interface.startswith("Local/"):
        return "/".join(state_interface.split("/")[:2])
    return state_interface
