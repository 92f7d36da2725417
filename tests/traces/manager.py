"""AMI with nothing in between, and everything that was said on it written down: a scenario's second socket.

A message is its lines, as they come. It shares no decoder with the engine's client nor with the simulator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

PATIENCE_SECONDS = 20.0
LOOK_SECONDS = 0.02
MASK = "agent,user,system"

Message = list[str]


@dataclass(frozen=True)
class ManagerPlace:
    """Where an AMI is. `talk` makes an agent's telephone hang up so many seconds after its answer; None: never."""

    port: int
    username: str
    secret: str
    talk: Callable[[int, float | None], None]


class Manager:
    """One session. `said` are the events that answer no action, `replies` are by ActionID."""

    def __init__(self, place: ManagerPlace) -> None:
        self.place = place
        self.said: list[Message] = []
        self.actions: list[tuple[str, dict[str, str], list[Message]]] = []
        self.members: set[tuple[str, str]] = set()
        self._replies: dict[str, list[Message]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, self._writer = await asyncio.open_connection("127.0.0.1", self.place.port)
            await reader.readline()  # the banner
        self._reading = asyncio.create_task(self._read(reader))

    async def log_in(self, events: str = MASK) -> None:
        await self.do("Login", Username=self.place.username, Secret=self.place.secret, Events=events)
        action, _, replies = self.actions[-1]
        self.actions[-1] = action, {"Events": events}, replies  # who it was is not the scenario's

    async def close(self) -> None:
        """Nobody stays logged in; that is not written down any more."""
        said, actions = self.said, self.actions
        self.said, self.actions = [], [*actions]
        for queue, interface in [*self.members]:
            with suppress(OSError, TimeoutError):
                await self.do("QueueRemove", Queue=queue, Interface=interface)
        if self._reading is not None and self._writer is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._writer.close()
        self.said, self.actions = said, actions

    async def do(self, action: str, **headers: str) -> list[Message]:
        """The response, and after it the rows of a list; written down."""
        identifier = f"a{len(self.actions)}"
        replies = self._replies[identifier] = []
        self.actions.append((action, headers, replies))
        await self._write({"Action": action, "ActionID": identifier, **headers})
        await self._until(lambda: is_complete(replies), f"no reply to {action} {headers}")
        if replies[0][0] == "Response: Success" and action in ("QueueAdd", "QueueRemove"):
            change = self.members.add if action == "QueueAdd" else self.members.discard
            change((headers["Queue"], headers["Interface"]))
        return replies

    async def event(self, name: str, count: int = 1, **headers: str) -> None:
        """Until the `count`-th event of this name with these headers has come."""
        wanted = {f"Event: {name}", *(f"{header}: {value}" for header, value in headers.items())}
        await self._until(
            lambda: sum(wanted <= set(message) for message in self.said) >= count,
            f"no {name} {headers}, but {[message[0] for message in self.said[-8:]]}",
        )

    async def _write(self, headers: Mapping[str, str]) -> None:
        if self._writer is None:
            raise RuntimeError("open it first")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._writer.write(f"{lines}\r\n".encode())
        await self._writer.drain()

    async def _until(self, condition: Callable[[], Any], otherwise: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(otherwise)
            await asyncio.sleep(LOOK_SECONDS)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            data = await reader.readuntil(b"\r\n\r\n")
            message = data.decode().removesuffix("\r\n\r\n").split("\r\n")
            identifier = next((line[10:] for line in message if line.startswith("ActionID: ")), "")
            # the event of a UserEvent bears the id of its action
            if identifier in self._replies and not message[0].startswith("Event: UserEvent"):
                self._replies[identifier].append(message)
            else:
                self.said.append(message)


def is_complete(replies: list[Message]) -> bool:
    if not replies:
        return False
    return "EventList: start" not in replies[0] or "EventList: Complete" in replies[-1]
