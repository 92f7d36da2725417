"""What befalls one daemon and its requests: nothing, a lost reply, or the end of the process.

Whatever a process does to the outside goes through its `Fate`. So "killed at every point at which it can matter"
is: before and after each request has been carried out. A dead process sends nothing and is told nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

When = Literal["before", "after"]
T = TypeVar("T")

HOUSEKEEPING = frozenset(
    {"snapshot", "ZADD", "ZCARD", "TIME", "HGETALL", "extend", "recover", "peek", "LINDEX", "LRANGE"}
)
"""What goes on all the time, whether there is a call or not."""

current: contextvars.ContextVar[Fate | None] = contextvars.ContextVar("fate", default=None)


@dataclass(slots=True, eq=False)
class Fate:
    dies_at: int | None = None  # which of the steps below kills it, from 1
    dies_on: str | None = None  # or the first one of this name
    steps: list[str] = field(default_factory=list)  # "before claim", "after claim", ...
    dead: bool = False
    died: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    faults: deque[tuple[str, When]] = field(default_factory=deque)  # Redis verbs that will fail once each

    async def meet(self, verb: str | Sequence[str], when: When) -> None:
        """Does not return when the process is dead, or dies here."""
        names = [verb] if isinstance(verb, str) else [name for name in verb if name not in HOUSEKEEPING]
        if not self.dead and names:
            self.steps.append(f"{when} {'+'.join(sorted(set(names)))}")
            if len(self.steps) == self.dies_at or self.steps[-1] == self.dies_on:
                self.dead = True
                self.died.set()
        if self.dead:
            await asyncio.get_running_loop().create_future()

    def fails(self, verbs: Sequence[str], when: When) -> bool:
        """Takes the next fault off the list when it is meant for one of these verbs, at this time."""
        if self.faults and self.faults[0][0] in verbs and self.faults[0][1] == when:
            self.faults.popleft()
            return True
        return False

    def inside(self, act: Callable[..., T], *args: Any) -> T:
        """Call it as this process: the tasks it creates are its own."""
        context = contextvars.copy_context()
        context.run(current.set, self)
        return context.run(act, *args)

    async def kill(self) -> None:
        """kill -9: its tasks are gone, and what they would do in a `finally` reaches nobody."""
        self.dead = True
        while tasks := [task for task in self.tasks if not task.done()]:
            for task in tasks:  # again and again: a `finally` that waits must not hold up a death
                task.cancel()
            await asyncio.sleep(0)
        self.tasks.clear()
