"""What is told of callers of ours who are in a queue, by AMI and by ARI; and who is found there without being told of.

AMI comes over a socket of its own and may be away. ARI tells of the telephones that a queue rings, which is enough to
know that an agent took the call; and who waits as far as we know, and not as AMI does, is asked after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime

from dialer_engine import log
from dialer_engine.ari import Dial
from dialer_engine.core.call import Event, Phase
from dialer_engine.core.model import AttemptId
from dialer_engine.core.told import Disposed, MemberGone, MemberSeen, Offered, Told
from dialer_engine.engine.attempt import Attempt
from dialer_engine.engine.board import Board
from dialer_engine.engine.desk import Desk
from dialer_engine.engine.driver import ASK_AGAIN_SECONDS, Driver
from dialer_engine.errors import Invalid, Rejected, Unavailable
from dialer_engine.store import Store

DISPOSE_SECONDS = 60.0
"""So long Redis is waited for with what an agent says of a call by his telephone or a dialplan."""
MOST_DISPOSITIONS = 1000
"""Of so many calls at once; whoever sends more is not an agent."""

_log = log.get("queues")


@dataclass(slots=True)
class Attendant:
    store: Store
    board: Board
    desk: Desk
    driver: Driver
    clock: Callable[[], datetime]
    errand: Callable[[Coroutine[None, None, None]], None]
    _words: dict[str, str] = field(default_factory=dict)  # by attempt: what its agent said last, being written

    def hear(self, told: Told | Disposed) -> None:
        """In the order of AMI's wire; most of it is about callers who are not ours."""
        if isinstance(told, Disposed):
            self._take_disposition(told)
        elif not isinstance(told, MemberSeen | MemberGone):
            attempt = self.board.attempts.get(AttemptId(told.caller))
            if attempt is not None:
                attempt.heard_at = asyncio.get_running_loop().time()
                attempt.hear_queue(told, pbx_offset=self.desk.agents.clock_offset)
                if isinstance(told, Offered):
                    self.board.wake.set()  # one less is unserved

    def hear_change(self) -> None:
        """Often; only what lets another call start is a reason to look."""
        if self.desk.has_gained():
            self.board.wake.set()

    def hear_agents_leg(self, attempt: Attempt, event: Dial) -> None:
        """A queue rings an agent for it, by ARI. AMI tells more of that, as long as it tells anything."""
        attempt.hear_agents_leg(event, self.clock())
        if not self.desk.is_exact:
            _take_answer(attempt)

    def tend(self) -> None:
        """Level, not edge: see above."""
        for attempt in self.board.attempts.values():
            if attempt.call.phase is not Phase.QUEUED or attempt.over:
                continue
            if not self.desk.is_exact:
                _take_answer(attempt)
            elif self.desk.has_lost(attempt):
                self.errand(self.driver.seek(attempt))

    def _take_disposition(self, told: Disposed) -> None:
        """Of one attempt one errand at a time: his last word must not be overtaken by one that Redis did not take."""
        if told.attempt not in self._words:
            if len(self._words) >= MOST_DISPOSITIONS:
                _log.warning("disposition dropped", attempt=told.attempt)
                return
            self.errand(self._dispose(told.attempt))
        self._words[told.attempt] = told.ext_status

    async def _dispose(self, attempt: str) -> None:
        written = None
        try:
            while self._words[attempt] != written:
                written = await self._write_word(attempt)
        finally:
            del self._words[attempt]

    async def _write_word(self, attempt: str) -> str:
        """The one that is the latest before each try; returns that of the last."""
        word = self._words[attempt]
        try:
            async with asyncio.timeout(DISPOSE_SECONDS):
                while not await self._is_taken(attempt, word):
                    await asyncio.sleep(ASK_AGAIN_SECONDS)
                    word = self._words[attempt]
        except (Invalid, Rejected, TimeoutError) as exc:
            _log.warning("disposition refused", attempt=attempt, reason=str(exc) or "Redis is away")
        return word

    async def _is_taken(self, attempt: str, word: str) -> bool:
        now = self.clock().timestamp()
        try:
            kind = await self.store.calls.dispose(AttemptId(attempt), word, by="ami", now=now)
        except Unavailable:
            return False
        _log.info("disposition taken", attempt=attempt, ext_status=word, kind=kind)
        return True


def _take_answer(attempt: Attempt) -> None:
    """AMI says nothing: the agent whose telephone has answered has it."""
    if attempt.call.phase is Phase.QUEUED and attempt.stay is not None and attempt.stay.answered_at is not None:
        attempt.feed(Event.CONNECTED, attempt.stay.answered_at)
