"""Queues and agents in memory: app_queue as far as it matters, told over AMI as values, by the loop's clock.

`Centre` is Asterisk's own and outlives the daemons; a `Manager` is one daemon's AMI (the engine's `Agents`), which may
be cut off or fall silent. A caller is offered to the agent who has been free for longest, at once; an agent answers, or
does not within RING_SECONDS, and talks for a while.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from dialer_engine.ari import Dial, Leg
from dialer_engine.core.agents import Floor
from dialer_engine.core.model import Agent, QueueName
from dialer_engine.core.told import (
    CallerAbandoned,
    CallerJoined,
    CallerLeft,
    Completed,
    Connected,
    DeviceState,
    Disposed,
    MemberGone,
    MemberSeen,
    Offered,
    Refused,
    Rules,
    Told,
)
from tests.engine.fate import Fate

if TYPE_CHECKING:
    from tests.engine.pbx import Channel, Pbx

RING_SECONDS = 15.0
RETURNS = "dialer-queue"
"""The context that gives callers back; another one just hangs up."""
SILENCE_SECONDS = 3.0
"""A manager that is not answered for so long gives the connection up."""
CLOCK_AHEAD = timedelta(seconds=75)
"""Our clock of Asterisk's."""
WAY_SECONDS = 0.003
"""From our order to the queue."""


@dataclass(eq=False)
class Person:
    """An agent and his telephone."""

    name: str
    queues: tuple[str, ...]
    answers_after: float | None = 0.05
    talks: float | None = 5.0  # None: until the caller hangs up
    paused: bool = False
    state: DeviceState = DeviceState.NOT_INUSE
    in_call: str = ""  # the queue
    last_call_at: datetime | None = None
    free_since: float = 0.0
    was_free: bool = False

    @property
    def interface(self) -> str:
        return f"PJSIP/{self.name}"


@dataclass(eq=False)
class Caller:
    channel: Channel
    queue: str
    since: float
    timeout: int
    returns: bool
    rung: Person | None = None
    talks_to: Person | None = None
    along: list[Person] = field(default_factory=list)  # whose telephones ring besides
    again_at: float = 0.0  # nobody is looked for before
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class Centre:
    def __init__(self, pbx: Pbx, clock: Callable[[], datetime]) -> None:
        self._pbx = pbx
        self._clock = clock
        self.rules: dict[QueueName, Rules] = defaultdict(Rules)
        self.people: list[Person] = []
        self.callers: dict[str, Caller] = {}  # by channel, those who talk included
        self.turned_away: dict[str, str] = {}  # queue -> QUEUESTATUS with which it takes nobody
        self.managers: list[Manager] = []
        self.joined: list[tuple[float, str, str]] = []  # when, channel, queue
        self.connected: list[tuple[float, str, str]] = []  # when, channel, agent's name
        self.freed: list[float] = []  # when somebody became available
        self.knows_milliseconds = True  # QUEUEWAIT is set (since 22.9)
        self.says_who = True  # setinterfacevar
        self.rings_all = False  # strategy=ringall; who was offered the call first answers first
        self.retry_seconds = 0.0  # so long after it has found nobody for a caller a queue does not look again
        self.refusal_seconds = 0.0  # from the end of the ring, which the telephone tells, to AgentRingNoAnswer

    # --- agents ---

    def log_in(self, *names: str, queue: str | Sequence[str] = "green", **options: object) -> list[Person]:
        queues = (queue,) if isinstance(queue, str) else tuple(queue)
        new = [Person(name, queues, **options) for name in names]  # type: ignore[arg-type]
        for person in new:
            person.free_since = self._now()
            self.people.append(person)
            self._tell_of(person)
        self._look()
        return new

    def log_off(self, person: Person) -> None:
        self.people.remove(person)
        for queue in person.queues:
            self._tell(MemberGone(QueueName(queue), person.interface))

    def pause(self, person: Person, paused: bool = True) -> None:
        person.paused = paused
        self._tell_of(person)
        self._look()

    def call_directly(self, person: Person, seconds: float) -> None:
        """He is on another call."""
        self._set_state(person, DeviceState.INUSE)
        asyncio.get_running_loop().call_later(seconds, self._hang_up_directly, person)

    def _hang_up_directly(self, person: Person) -> None:
        self._set_state(person, DeviceState.NOT_INUSE)
        self._look()

    def free(self, *queues: str) -> set[str]:
        """Who is available in any of these queues at this instant, as the rule counts them."""
        return {
            one.name for one in self.people if not set(queues).isdisjoint(one.queues) and self._is_free(one)
        }

    def _is_free(self, person: Person) -> bool:
        if person.paused or person.state is not DeviceState.NOT_INUSE:
            return False
        wrap_up = max(self.rules[QueueName(queue)].wrap_up_seconds for queue in person.queues)
        last = person.last_call_at
        return last is None or self._clock() >= last + timedelta(seconds=wrap_up)

    # --- callers ---

    def enter(self, channel: Channel, context: str, queue: str) -> None:
        """Queue() begins for a channel."""
        queue = next(
            (one for person in self.people for one in person.queues if one.lower() == queue.lower()), queue
        )
        returns = context == RETURNS
        channel.variables |= {"QUEUESTATUS": "", "QUEUEWAIT": "", "ANSWEREDTIME_MS": ""}
        if queue in self.turned_away:
            self._give_back(channel, queue, self.turned_away[queue], returns)
            return
        timeout = int(channel.variables.get("DIALER_QUEUE_TIMEOUT") or 3600)
        caller = self.callers[channel.id] = Caller(channel, queue, self._now(), timeout, returns)
        self.joined.append((self._now(), channel.id, queue))
        self._tell(CallerJoined(QueueName(queue), channel.id, self._clock()))
        self._later(caller, timeout, lambda: self._time_out(caller))
        self._look()

    def leave(self, channel: Channel) -> None:
        """The caller's channel has ended."""
        caller = self.callers.pop(channel.id, None)
        if caller is None:
            return
        self._stop(caller)
        if caller.talks_to is not None:
            self._complete(caller, "caller")
        else:
            self._abandon(caller)

    def waiting(self, queue: str) -> int:
        return sum(one.queue == queue and not (one.rung or one.talks_to) for one in self.callers.values())

    def _time_out(self, caller: Caller) -> None:
        if caller.talks_to is None:
            self.callers.pop(caller.channel.id)
            self._stop(caller)
            self._abandon(caller)
            self._give_back(caller.channel, caller.queue, "TIMEOUT", caller.returns)

    def _abandon(self, caller: Caller) -> None:
        waited = float(int(self._now()) - int(caller.since))
        if caller.rung is not None:
            self._set_state(caller.rung, DeviceState.NOT_INUSE)
        self._cancel_others(caller)
        queue, id_ = QueueName(caller.queue), caller.channel.id
        self._tell(CallerAbandoned(queue, id_, waited, self._clock()))
        self._tell(CallerLeft(queue, id_, self._clock()))
        self._look()

    def _give_back(self, channel: Channel, queue: str, status: str, returns: bool) -> None:
        channel.variables["QUEUESTATUS"] = status
        if returns:
            self._pbx.come_back(channel, ["queue-exit", queue, status])
        else:
            self._pbx.end(channel)

    # --- offers ---

    def _look(self) -> None:
        """Offer whoever waits to whoever is free."""
        for caller in sorted(self.callers.values(), key=lambda one: one.since):
            if caller.rung or caller.talks_to or self._now() < caller.again_at:
                continue
            free = [one for one in self.people if caller.queue in one.queues and self._is_free(one)]
            if free:
                self._offer(caller, min(free, key=lambda one: one.free_since))
            else:
                self._retry_later(caller)

    def _retry_later(self, caller: Caller) -> None:
        if self.retry_seconds:
            caller.again_at = self._now() + self.retry_seconds
            self._later(caller, self.retry_seconds + 0.001, self._look)

    def _offer(self, caller: Caller, person: Person) -> None:
        caller.rung = person
        self._ring(caller, person)
        if self.rings_all:
            caller.along = [one for one in self.people if caller.queue in one.queues and self._is_free(one)]
            for other in caller.along:
                self._ring(caller, other)
        if person.answers_after is None:
            self._later(caller, RING_SECONDS, lambda: self._refuse(caller, person))
        else:
            self._later(caller, person.answers_after, lambda: self._connect(caller, person))

    def _ring(self, caller: Caller, person: Person) -> None:
        self._dial(caller, person, "")
        queue, id_ = QueueName(caller.queue), caller.channel.id
        self._tell(Offered(queue, id_, person.interface, None, self._clock()))
        self._set_state(person, DeviceState.RINGING)

    def _cancel_others(self, caller: Caller) -> None:
        others, caller.along = caller.along, []
        for other in others:
            self._dial(caller, other, "CANCEL")
            self._set_state(other, DeviceState.NOT_INUSE)

    def _refuse(self, caller: Caller, person: Person) -> None:
        if self.refusal_seconds:
            self._set_state(person, DeviceState.NOT_INUSE)
            self._later(caller, self.refusal_seconds, lambda: self._end_offer(caller, person))
        else:
            self._end_offer(caller, person)

    def _end_offer(self, caller: Caller, person: Person) -> None:
        caller.rung = None
        person.free_since = self._now()
        self._retry_later(caller)
        self._dial(caller, person, "NOANSWER")
        self._tell(Refused(QueueName(caller.queue), caller.channel.id, person.interface, self._clock()))
        self._set_state(person, DeviceState.NOT_INUSE)
        self._cancel_others(caller)
        self._look()

    def _connect(self, caller: Caller, person: Person) -> None:
        caller.rung, caller.talks_to = None, person
        channel, queue = caller.channel, QueueName(caller.queue)
        self.connected.append((self._now(), channel.id, person.name))
        if self.says_who:
            channel.variables |= {"MEMBERNAME": person.name, "MEMBERINTERFACE": person.interface}
        if self.knows_milliseconds:
            channel.variables["QUEUEWAIT"] = str(int(self._now() - caller.since))
        self._dial(caller, person, "ANSWER")
        self._cancel_others(caller)
        self._pbx.bridge(channel)
        self._set_state(person, DeviceState.INUSE)
        self._tell(CallerLeft(queue, channel.id, self._clock()))
        person.in_call = caller.queue
        now = self._clock()
        self._tell(Connected(queue, channel.id, person.interface, person.name, now, now))
        self._tell_of(person)
        if person.talks is not None:
            self._later(caller, person.talks, lambda: self._agent_hangs_up(caller))

    def pass_on(self, caller_id: str, person: Person, queue: str) -> None:
        """His agent transfers him to a queue in which this one is free, and answers at once."""
        caller = self.callers[caller_id]
        self._stop(caller)
        self._complete(caller, "transfer")
        caller.queue, caller.talks_to, caller.since = queue, None, self._now()
        self._tell(CallerJoined(QueueName(queue), caller_id, self._clock()))
        self._connect(caller, person)

    def _agent_hangs_up(self, caller: Caller) -> None:
        self.callers.pop(caller.channel.id)
        self._stop(caller)
        self._complete(caller, "agent")
        if caller.returns:
            self._give_back(caller.channel, caller.queue, "CONTINUE", returns=True)
        else:
            self._pbx.end(caller.channel)

    def _complete(self, caller: Caller, reason: str) -> None:
        person = caller.talks_to
        assert person is not None
        now = self._clock()
        self._tell(Completed(QueueName(caller.queue), caller.channel.id, person.interface, reason, now))
        if self.knows_milliseconds:
            began_at = next(at for at, id_, _ in reversed(self.connected) if id_ == caller.channel.id)
            caller.channel.variables["ANSWEREDTIME_MS"] = str(round((self._now() - began_at) * 1000))
        person.in_call, person.last_call_at, person.free_since = "", now, self._now()
        self._set_state(person, DeviceState.NOT_INUSE)
        wrap_up = max(self.rules[QueueName(queue)].wrap_up_seconds for queue in person.queues)
        asyncio.get_running_loop().call_later(wrap_up + 0.001, self._wrapped_up, person)

    def _wrapped_up(self, person: Person) -> None:
        self._note(person)
        self._look()

    def _note(self, person: Person) -> None:
        is_free = self._is_free(person)
        if is_free and not person.was_free:
            self.freed.append(self._now())
        person.was_free = is_free

    # --- what is told ---

    def _dial(self, caller: Caller, person: Person, status: str) -> None:
        leg = Leg(f"{caller.channel.id}-{person.name}", f"{person.interface}-00000001")
        self._pbx.tell(caller.channel, Dial(peer=leg, caller=self._pbx.leg(caller.channel), dialstatus=status))

    def _set_state(self, person: Person, state: DeviceState) -> None:
        person.state = state
        self._tell_of(person)

    def _tell_of(self, person: Person) -> None:
        self._note(person)
        for queue in person.queues:
            self._tell(_row(person, queue))

    def _tell(self, told: Told) -> None:
        for manager in self.managers:
            manager.tell(told)

    def user_event(self, attempt: str, ext_status: str) -> None:
        """UserEvent(DISPOSITION)."""
        for manager in self.managers:
            manager.tell(Disposed(attempt, ext_status))

    def snapshot(self) -> tuple[list[MemberSeen], list[CallerJoined], set[QueueName]]:
        members = [_row(person, queue) for person in self.people for queue in person.queues]
        callers = [
            CallerJoined(QueueName(one.queue), id_, self._clock())
            for id_, one in self.callers.items()
            if one.talks_to is None
        ]
        return members, callers, {*self.rules, *(QueueName(row.queue) for row in members)}

    def _stop(self, caller: Caller) -> None:
        for timer in caller.timers:
            timer.cancel()

    def _later(self, caller: Caller, seconds: float, act: Callable[[], None]) -> None:
        caller.timers.append(asyncio.get_running_loop().call_later(seconds, act))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _row(person: Person, queue: str) -> MemberSeen:
    return MemberSeen(
        queue=QueueName(queue),
        interface=person.interface,
        agent=Agent(person.interface),
        name=person.name,
        state=person.state,
        paused=person.paused,
        in_call=person.in_call == queue,
        last_call_at=person.last_call_at,
    )


class Manager:
    """One daemon's view of it, as `ami.Ami` has it: exact at once after a connection, void after a loss."""

    def __init__(
        self,
        centre: Centre,
        fate: Fate,
        hear: Callable[[Told | Disposed], None],
        changed: Callable[[], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._centre = centre
        self._fate = fate
        self._hear = hear
        self._changed = changed
        self._clock = clock
        self.floor = Floor(centre.rules)
        self.clock_offset = CLOCK_AHEAD
        self.state: Literal["exact", "silent", "lost"] = "lost"
        self.late_seconds = 0.0  # behind ARI
        self._silent_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        centre.managers.append(self)

    def age_seconds(self) -> float | None:
        now = asyncio.get_running_loop().time()
        if self.state == "lost":
            return None
        return now - self._silent_since if self.state == "silent" else now % 1.0

    # --- what happens to it ---

    def connect(self) -> None:
        self.state = "exact"
        self.floor.take_rules(self._centre.rules)
        self.floor.replace(*self._centre.snapshot())
        self._stir()

    def lose(self) -> None:
        self.state = "lost"
        self.floor.lost()
        self._stir()

    def fall_silent(self) -> None:
        """What is told from now on is not heard; after a while we notice."""
        self.state, self._silent_since = "silent", asyncio.get_running_loop().time()
        asyncio.get_running_loop().call_later(SILENCE_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.state == "silent":
            self.lose()

    def tell(self, told: Told | Disposed) -> None:
        if self.late_seconds:
            asyncio.get_running_loop().call_later(self.late_seconds, self._hear_told, told)
        else:
            self._hear_told(told)

    def _hear_told(self, told: Told | Disposed) -> None:
        if self.state == "exact" and not self._fate.dead:
            self._fate.inside(self._take, told)

    def _take(self, told: Told | Disposed) -> None:
        changed = False if isinstance(told, Disposed) else self.floor.feed(told)
        if not isinstance(told, MemberSeen | MemberGone):
            self._hear(told)
        if changed:
            self._stir()

    def _stir(self) -> None:
        if self._fate.dead:
            return
        self._fate.inside(self._changed)
        if self._timer is not None:
            self._timer.cancel()
        now = self._clock()
        at = self.floor.next_change_at(now)
        if at is not None:
            delay = max((at - now).total_seconds(), 0.001)
            self._timer = asyncio.get_running_loop().call_later(delay, self._stir)
