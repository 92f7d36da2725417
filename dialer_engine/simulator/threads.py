"""Threads without threads: scripts that wait, carried on in the order in which their waits end.

A script is a generator: `told = yield seconds` waits so long and is told None, or is woken earlier and told what
woke it. `yield FOREVER` waits to be woken. Asterisk gives every channel a thread; here every channel has a script,
and so has every callee. Nothing here knows a clock.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Generator
from typing import Any, TypeAlias

FOREVER = math.inf

Script: TypeAlias = Generator[float, Any, None]
"""Yields seconds to wait."""


class Thread:
    """A script under way."""

    __slots__ = ("over", "script", "wait")

    def __init__(self, script: Script) -> None:
        self.script = script
        self.wait = 0  # the serial of the wait it is in
        self.over = False

    def stop(self) -> None:
        """End it where it waits. Not from within itself."""
        self.over = True
        self.script.close()


class Threads:
    """All of them, and what is due when. `now` is whatever the caller says it is."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._serial = 0
        self._waiting: list[tuple[float, int, Thread]] = []
        self._ready: deque[tuple[Thread, object]] = deque()

    @property
    def next_at(self) -> float | None:
        """When the next wait ends; None when nobody waits for a certain time."""
        if self._ready:
            return self.now
        waiting = self._waiting
        while waiting and (waiting[0][2].wait != waiting[0][1] or waiting[0][2].over):
            heapq.heappop(waiting)  # was woken or stopped meanwhile
        return waiting[0][0] if waiting else None

    def start(self, script: Script) -> Thread:
        """It begins when `run` is called."""
        thread = Thread(script)
        self._ready.append((thread, None))
        return thread

    def wake(self, thread: Thread, told: object) -> None:
        """Its wait ends with this; an exception is raised there. Happens in `run`, in the order of the calls."""
        self._ready.append((thread, told))

    def run(self, now: float) -> None:
        """Carry on whatever is due by now. It all happens now, however late that is."""
        self.now = max(now, self.now)
        while True:
            while self._ready:
                self._carry_on(*self._ready.popleft())
            due = self.next_at
            if due is None or due > self.now:
                return
            self._carry_on(heapq.heappop(self._waiting)[2], None)

    def _carry_on(self, thread: Thread, told: object) -> None:
        if thread.over:
            return
        try:
            seconds = thread.script.throw(told) if isinstance(told, Exception) else thread.script.send(told)
        except StopIteration:
            thread.over = True
            return
        self._serial += 1
        thread.wait = self._serial
        if seconds != FOREVER:
            heapq.heappush(self._waiting, (self.now + seconds, self._serial, thread))
