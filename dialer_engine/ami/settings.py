"""What AMI's queue events do not say: each queue's settings, from our configuration or from Asterisk's (GetConfig)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from dialer_engine import log
from dialer_engine.ami import decode
from dialer_engine.ami.wire import Wire
from dialer_engine.config import QueueSettings
from dialer_engine.core.model import QueueName
from dialer_engine.core.told import Rules
from dialer_engine.errors import Rejected

FILE = "queues.conf"
UNREAD = Rules(wrap_up_seconds=30.0, ring_in_use=True, shared_last_call=True)
"""Of a queue whose settings nobody tells: better an agent who waits for a call than a callee who waits for an agent."""
REMEDY = "give the manager user write=config, or set wrap_up_seconds and ring_in_use in [queues.NAME]"

_log = log.get("ami")


class QueueRules:
    """Of the configuration's [queues], whatever their case; what they leave open is read, and again when it is old."""

    def __init__(self, overrides: Mapping[str, QueueSettings], good_for_seconds: float) -> None:
        self.take(overrides)
        self._good_for_seconds = good_for_seconds
        self._found: dict[QueueName, Rules] = {}
        self._read_at: dict[QueueName, float] = {}
        self._shared_last_call = UNREAD.shared_last_call
        self._may_read = True
        self._said: set[str] = set()

    def take(self, overrides: Mapping[str, QueueSettings]) -> None:
        """The configuration's, as it is from now on."""
        self._overrides = {name.lower(): each for name, each in overrides.items()}

    def forget(self) -> None:
        """Asterisk has read its configuration again, or is another one: read all with the next snapshot."""
        self._read_at.clear()
        self._may_read = True

    def of(self, queues: Collection[QueueName]) -> dict[QueueName, Rules]:
        return {queue: self._of(queue) for queue in queues}

    async def read(self, wire: Wire, queues: Collection[QueueName], seconds: float) -> None:
        """Those that are due, of the queues that there are. Raises Unavailable."""
        now = asyncio.get_running_loop().time()
        self._found = {queue: rules for queue, rules in self._found.items() if queue in queues}
        self._read_at = {queue: at for queue, at in self._read_at.items() if queue in queues}
        due = [queue for queue in queues if self._is_due(queue, now)]
        if not due or not self._may_read:
            return
        try:
            general = await wire.ask("GetConfig", {"Filename": FILE, "Category": "general"}, seconds=seconds)
            self._shared_last_call = decode.shared_last_call(general)
            for queue in due:
                await self._read_one(wire, queue, seconds)
                self._read_at[queue] = now
            _log.debug("queue settings read", queues=len(due))
        except Rejected as exc:
            self._may_read = False
            self._say("queue settings not readable", reason=str(exc))

    async def _read_one(self, wire: Wire, queue: QueueName, seconds: float) -> None:
        try:
            answer = await wire.ask("GetConfig", {"Filename": FILE, "Category": queue}, seconds=seconds)
        except Rejected:
            found = None
        else:
            found = decode.rules(answer, self._shared_last_call)
        if found is None:  # of a database, say
            self._found.pop(queue, None)
            if self._of(queue) == UNREAD:
                self._say(f"queue not in {FILE}", queue=queue)
            return
        known = self._found.get(queue)
        if known and known != found:
            _log.info("queue settings changed", queue=queue, wrap_up_seconds=found.wrap_up_seconds)
        self._found[queue] = found

    def _is_due(self, queue: QueueName, now: float) -> bool:
        override = self._overrides.get(queue.lower())
        if override and override.wrap_up_seconds is not None and override.ring_in_use is not None:
            return False
        return queue not in self._read_at or now - self._read_at[queue] >= self._good_for_seconds

    def _of(self, queue: QueueName) -> Rules:
        read = self._found.get(queue, UNREAD)
        override = self._overrides.get(queue.lower())
        wrap_up = override.wrap_up_seconds if override else None
        ring_in_use = override.ring_in_use if override else None
        return Rules(
            wrap_up_seconds=read.wrap_up_seconds if wrap_up is None else min(wrap_up, decode.LONGEST_SECONDS),
            ring_in_use=read.ring_in_use if ring_in_use is None else ring_in_use,
            shared_last_call=self._shared_last_call,
        )

    def _say(self, what: str, **why: str) -> None:
        """Once: it is nobody's news every minute."""
        if f"{what} {why}" not in self._said and len(self._said) < 100:
            self._said.add(f"{what} {why}")
            _log.warning(what, **why, remedy=REMEDY, assumed_wrap_up_seconds=UNREAD.wrap_up_seconds)
