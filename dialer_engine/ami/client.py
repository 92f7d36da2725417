"""The AMI client: queues and agents as Asterisk has them now, or the knowledge that we do not know.

    connect -> log in -> ping -> snapshot -> settings -> fence -> the view is exact
                          every second     every 20 s and after a reload, a doubt, a reconnect, a drift

Events are applied as they come, from the login on. Rows of a snapshot are written by another thread of Asterisk than
events, so they are gathered aside, together with the events that come among them. An event of our own (the fence)
proves that events come; it may overtake those that Asterisk has not handed to AMI yet (some milliseconds on a busy
22.10), so what the rows and what the events say is given a second to become the same. What differs then was drift,
which is counted and mended.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import NoReturn

from panoramisk.message import Message

from dialer_engine import log
from dialer_engine.ami import decode
from dialer_engine.ami.decode import PbxClock
from dialer_engine.ami.settings import UNREAD, QueueRules
from dialer_engine.ami.terms import Patience
from dialer_engine.ami.wire import PORT, Malformed, Wire
from dialer_engine.config import AmiSettings, QueueSettings
from dialer_engine.core.agents import Floor
from dialer_engine.core.model import QueueName
from dialer_engine.core.told import Disposed, MemberGone, MemberSeen, Told
from dialer_engine.errors import Rejected, Unavailable
from dialer_engine.metrics import Metrics

MASK = "agent,user,system"
FENCE = "DialerFence"
MOST_ROWS = 20_000
"""Members, callers and queues; who tells of more is not believed."""
BELIEVED = 1000
"""Looked at after so many events or rows."""
AGREEING = 20
"""How often the snapshot and the events are compared within two graces."""
SHORTEST_SECONDS = 0.001
"""Of a timer: the two clocks are not the same to the microsecond."""
RELOADS = frozenset({"All", "app_queue", "app_queue.so"})

DEFAULT_PATIENCE = Patience()

_LIFE = frozenset({"FullyBooted", "Reload", "Shutdown"})
_ROWS = frozenset({"QueueParams", "QueueMember", "QueueEntry", "QueueStatusComplete"})
_WANTED = frozenset(name.encode() for name in decode.EVENTS | _LIFE | _ROWS)

_log = log.get("ami")


class Ami:
    """`run()` keeps the connection and the `floor`, whose only writer it is.

    `hear` is called for everything told about a caller and for dispositions, after the floor has taken it in; `changed`
    when anything is not as it was: somebody is free, a wrap-up has ended, the view is exact or void. Both are called in
    the loop and must neither block nor raise: what they raise ends `run()`. Nothing else here raises.
    """

    def __init__(
        self,
        settings: AmiSettings,
        *,
        hear: Callable[[Told | Disposed], None],
        changed: Callable[[], None],
        clock: Callable[[], datetime],
        rules: Mapping[str, QueueSettings] | None = None,
        metrics: Metrics | None = None,
        patience: Patience = DEFAULT_PATIENCE,
    ) -> None:
        self._settings = settings
        self._tell = hear
        self._changed = changed
        self._clock = clock
        self._metrics = metrics
        self._patience = patience
        self._rules = QueueRules(rules or {}, patience.settings_seconds)
        self.floor = Floor(unknown=UNREAD)
        self.counts: Counter[str] = Counter()
        self._pbx_clock = PbxClock()
        self._answered_at = 0.0
        self._is_exact = False
        self._why_not: str | None = None
        self._again = asyncio.Event()
        self._doubts = 0
        self._has_drifted = False  # at the last look
        self._fed = 0
        self._said: set[str] = set()
        self._snapshot: _Snapshot | None = None
        self._fences: bool | None = None  # does our own event come back? None: not tried yet
        self._fence: tuple[str, asyncio.Future[None]] | None = None
        self._arming: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None

    # what the engine asks

    def age_seconds(self) -> float | None:
        """Since the sending of the last ping that was answered; None: there is no exact view."""
        return asyncio.get_running_loop().time() - self._answered_at if self._is_exact else None

    @property
    def clock_offset(self) -> timedelta:
        """Our clock less Asterisk's."""
        return self._pbx_clock.offset

    def take(self, rules: Mapping[str, QueueSettings]) -> None:
        """The configuration's [queues] as they are from now on."""
        self._rules.take(rules)
        self._apply_rules()

    # one connection after the other

    async def run(self) -> NoReturn:
        """For ever."""
        loop = asyncio.get_running_loop()
        tries = 0
        if self._metrics:
            self._metrics.port("ami", up=False)
        while True:
            began_at = loop.time()
            try:
                await self._connection()
            except (Unavailable, Rejected) as exc:
                self._lose(str(exc))
            finally:
                self._is_exact = False
                if self._timer:
                    self._timer.cancel()
            if loop.time() - began_at > self._patience.settled_seconds:
                tries = 0
            delay = self._patience.first_delay_seconds * 2**tries
            await asyncio.sleep(min(self._patience.longest_delay_seconds, delay))
            tries = min(tries + 1, 16)

    async def _connection(self) -> NoReturn:
        wire = await self._connect()
        self._fences = None  # rights may be others by now
        self._rules.forget()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(wire.listen())
                await self._log_in(wire)
                await self._ping(wire)
                tasks.create_task(self._ping_for_ever(wire))
                await self._keep_exact(wire)
        except BaseExceptionGroup as group:
            task = asyncio.current_task()
            if task and task.cancelling():  # at the same time: a group that fails keeps that to itself
                raise asyncio.CancelledError from None
            raise group.exceptions[0] from None  # one fault ended the others
        finally:
            wire.close()
        raise AssertionError("a connection has no end of its own")

    async def _connect(self) -> Wire:
        to = self._settings
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._patience.connect_seconds):
                _, wire = await loop.create_connection(self._wire, to.host, to.port)
        except (OSError, UnicodeError) as exc:  # UnicodeError: a host that is no name
            raise Unavailable(
                PORT, f"no connection to AMI at {to.host}:{to.port}: {exc or 'too late'}"
            ) from exc
        return wire

    def _wire(self) -> Wire:
        return Wire(_WANTED, hear=self._hear, nonsense=self._hear_nonsense, count=self.counts)

    async def _log_in(self, wire: Wire) -> None:
        """With the secret's hash if Asterisk lets us. FullyBooted follows only where we may read `system`."""
        secret = self._settings.secret.get_secret_value() if self._settings.secret else ""
        credentials = {"Username": self._settings.username, "Events": MASK}
        seconds = self._patience.action_seconds
        try:
            challenge = await wire.ask("Challenge", {"AuthType": "MD5"}, seconds=seconds)
        except Rejected:
            credentials["Secret"] = secret
        else:
            hashed = hashlib.md5(f"{challenge.challenge}{secret}".encode(), usedforsecurity=False)
            credentials |= {"AuthType": "MD5", "Key": hashed.hexdigest()}
        await wire.ask("Login", credentials, seconds=seconds)
        self._count("connection")

    async def _ping_for_ever(self, wire: Wire) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._answered_at + self._patience.ping_seconds - loop.time())
            await self._ping(wire)

    async def _ping(self, wire: Wire) -> None:
        sent, sent_at = asyncio.get_running_loop().time(), self._clock()
        answer = await wire.ask("Ping", seconds=self._patience.silence_seconds)
        self._pbx_clock.measure(answer, sent_at, self._clock())
        self._answered_at = sent

    def _lose(self, reason: str) -> None:
        self.floor.lost()
        self._set_exact(False)
        if reason != self._why_not:
            _log.warning("queues not seen", reason=reason)
        self._why_not = reason

    def _set_exact(self, exact: bool) -> None:
        if exact is self._is_exact:
            return
        self._is_exact = exact
        if exact:
            self._why_not = None
            _log.info("queues seen", queues=len(self.floor.queues), rows=self.floor.rows)
        if self._metrics:
            self._metrics.port("ami", up=exact)
        self._stir()

    def _count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number
        if self._metrics:
            self._metrics.ami(what, number)

    # what is told

    def _hear(self, message: Message) -> None:
        if message.event in _LIFE:
            self._hear_of_asterisk(message)
            return
        if message.userevent == FENCE:
            if self._fence and message.fence == self._fence[0] and not self._fence[1].done():
                self._fence[1].set_result(None)
            return
        try:
            told = decode.told(dict(message.items()), self._clock(), self._pbx_clock)
        except Malformed as exc:
            self._hear_nonsense(message.event, str(exc))
            return
        if isinstance(told, Disposed):
            self._tell(told)
        elif told is not None:
            self._apply(told)

    def _hear_of_asterisk(self, message: Message) -> None:
        """It goes down (and the wire ends), has come up, or has read its configuration again."""
        if message.event == "Shutdown":
            self._set_exact(False)
        elif message.event == "FullyBooted" or str(message.module) in RELOADS:
            self._rules.forget()
            self._again.set()

    def _apply(self, told: Told) -> None:
        if self._snapshot:
            self._snapshot.floor.feed(told)
        if told.queue not in self.floor.queues:
            self._again.set()  # for its settings
        changed = self.floor.feed(told)
        self._fed += 1
        if self._fed % BELIEVED == 0:
            _believe(self.floor)
        if not isinstance(told, MemberSeen | MemberGone):
            self._tell(told)
        if changed:
            self._stir()

    def _hear_nonsense(self, event: str, reason: str) -> None:
        """A UserEvent comes from whatever dialplan raises it, and says nothing of members and callers."""
        self._count("malformed")
        if event == "UserEvent":
            _log.warning("user event passed over", reason=reason)
        else:
            self._doubt(reason)

    def _doubt(self, reason: str) -> None:
        """Something was said that cannot be read: nothing is known until all has been asked again."""
        self._doubts += 1
        self._again.set()
        if self._is_exact:
            _log.warning("queues in doubt", reason=reason)
        self._set_exact(False)

    # the view

    async def _keep_exact(self, wire: Wire) -> NoReturn:
        while True:
            self._again.clear()
            self._has_drifted = await self._resync(wire)
            if self._has_drifted:
                self._again.set()  # what its queues tell comes late or not at all: until nothing differs we ask
            try:
                async with asyncio.timeout(self._patience.resync_seconds):
                    await self._again.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(self._patience.ping_seconds)  # no more often, whatever is told

    async def _resync(self, wire: Wire) -> bool:
        """Was the view that was exact another than what Asterisk has?"""
        snapshot = self._snapshot = _Snapshot(self._clock, self._pbx_clock)
        doubts, was_exact = self._doubts, self._is_exact
        try:
            await wire.ask("QueueStatus", seconds=self._patience.snapshot_seconds, row=snapshot.take)
            await self._rules.read(wire, snapshot.queues, self._patience.action_seconds)
            await self._pass_fence(wire)
            if was_exact:
                await self._let_events_come(snapshot.floor)
        finally:
            self._snapshot = None
        found = snapshot.floor
        drift = self.floor.replace(found.members, found.callers, snapshot.queues | found.queues)
        self._apply_rules()
        self._count("resync")
        if snapshot.malformed:
            self._count("malformed", snapshot.malformed)
        has_drifted = drift > 0 and was_exact
        if has_drifted:
            self._count("drift", drift)
            if not self._has_drifted:
                _log.warning("queues had drifted", rows=drift)
        if doubts == self._doubts:
            self._set_exact(True)
        self._stir()
        return has_drifted

    async def _pass_fence(self, wire: Wire) -> None:
        """Wait for an event of our own: those that were before it in AMI's queue have come, too."""
        if self._fences is not False:
            try:
                await self._fence_comes(wire)
            except Rejected as exc:
                self._go_without_fence(str(exc))
            except TimeoutError as exc:
                if self._fences:
                    raise Unavailable(PORT, "no events come any more") from exc
                self._go_without_fence("our own event does not come back")
            else:
                self._fences = True
                return
        await asyncio.sleep(self._patience.grace_seconds)

    async def _let_events_come(self, found: Floor) -> None:
        """A row may tell what an event on its way will tell."""
        for _ in range(AGREEING):
            if self.floor.agrees(found):
                return
            await asyncio.sleep(2 * self._patience.grace_seconds / AGREEING)

    async def _fence_comes(self, wire: Wire) -> None:
        """Raises Rejected, or TimeoutError when the event does not come back."""
        seconds = self._patience.action_seconds
        nonce, came = secrets.token_hex(8), asyncio.get_running_loop().create_future()
        self._fence = nonce, came
        try:
            await wire.ask("UserEvent", {"UserEvent": FENCE, "Fence": nonce}, seconds=seconds)
            async with asyncio.timeout(seconds):
                await came
        finally:
            self._fence = None

    def _go_without_fence(self, reason: str) -> None:
        self._fences = False
        if reason not in self._said:
            self._said.add(reason)
            _log.warning(
                "queues less exact", reason=reason, remedy="give the manager user read=user and write=user"
            )

    def _apply_rules(self) -> None:
        if self.floor.take_rules(self._rules.of(self.floor.queues)):
            self._stir()

    # what changes without being told

    def _stir(self) -> None:
        self._changed()
        if self._arming is None:
            self._arming = asyncio.get_running_loop().call_soon(self._arm)

    def _arm(self) -> None:
        """Wake when the next wrap-up ends."""
        self._arming = None
        if self._timer:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        at = self.floor.next_change_at(now)
        if at is not None:
            delay = max((at - now).total_seconds(), SHORTEST_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self.floor.expire(self._clock())
        self._stir()


class _Snapshot:
    """What one QueueStatus says, and the events since."""

    def __init__(self, clock: Callable[[], datetime], pbx_clock: PbxClock) -> None:
        self._clock = clock
        self._pbx_clock = pbx_clock
        self.floor = Floor()
        self.queues: set[QueueName] = set()
        self.malformed = 0
        self._rows = 0

    def take(self, row: Message) -> None:
        """A member that cannot be read is not available; without a caller or a queue the rest is worth nothing."""
        self._rows += 1
        if self._rows % BELIEVED == 0:
            _believe(self.floor)
        fields = dict(row.items())
        try:
            if row.event == "QueueParams":
                self.queues.add(decode.queue_of(fields))
            elif row.event == "QueueEntry":
                self.floor.feed(decode.entry(fields, self._clock()))
            elif row.event == "QueueMember":
                self._take_member(fields)
        except Malformed as exc:
            raise Unavailable(PORT, f"its list of queues cannot be read: {exc}") from exc

    def _take_member(self, row: decode.Fields) -> None:
        try:
            self.floor.feed(decode.member(row, self._clock(), self._pbx_clock))
        except Malformed:
            self.malformed += 1


def _believe(floor: Floor) -> None:
    if floor.rows > MOST_ROWS:
        raise Unavailable(PORT, f"it tells of more than {MOST_ROWS} members and callers")
