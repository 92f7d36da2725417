"""A Redis inside the process: fakeredis with the real Lua, without sockets, failing when it is told to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from fakeredis import FakeServer
from fakeredis.aioredis import FakeRedis
from redis.exceptions import ConnectionError, OutOfMemoryError

from dialer_engine.store.link import Script
from dialer_engine.store.server import Command
from tests.engine.fate import Fate

SOCKET_SECONDS = 5.0
NAMES = {
    Script.read(path.name[:-4]).sha: path.name[:-4]
    for path in files("dialer_engine.store").iterdir()
    if path.name.endswith(".lua") and path.name != "common.lua"
}
READERS = frozenset({"snapshot", "peek"})


class Ledger:
    """What the scripts that let a contact go have answered, of all daemons on one Redis."""

    def __init__(self) -> None:
        self.settled: Counter[str] = Counter()
        self.released: Counter[str] = Counter()
        self.first_claimed = ""

    def note(self, name: str, arguments: tuple[Any, ...], reply: Any) -> None:
        if name == "claim" and not self.first_claimed and "CLAIMED" in reply[0]:
            self.first_claimed = arguments[9 + 5 * (reply[0][::2].index("CLAIMED"))]
        elif name == "settle" and reply == "DONE":
            self.settled[arguments[0]] += 1
        elif name == "release" and reply == 1:
            self.released[arguments[0]] += 1


class FlakyRedis:
    """One daemon's client of it. Its clock is the test's."""

    def __init__(self, server: FakeServer, fate: Fate, ledger: Ledger, clock: Callable[[], float]) -> None:
        self.client: Any = FakeRedis(server=server, decode_responses=True)
        self.fate = fate
        self.ledger = ledger
        self.clock = clock
        self.seconds = 0.001  # one way and back
        self.away = False  # connections are refused
        self.hung = False  # they are taken, and nothing is ever answered
        self.full = False  # writes are refused: OOM
        self.clock_error = 0.0

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """As `dialer_engine.store.server.Server` does."""
        verbs = [_verb(command) for command in commands if command[0] != "SCRIPT LOAD"]
        await self.fate.meet(verbs, "before")
        await asyncio.sleep(self.seconds / 2)
        if self.hung:
            await asyncio.sleep(SOCKET_SECONDS)
            raise TimeoutError("it does not answer in time")
        if self.away or self.fate.fails(verbs, "before"):
            raise ConnectionError("Error 111 connecting to redis. Connection refused.")
        replies = await self._carry_out(commands)
        await self.fate.meet(verbs, "after")
        await asyncio.sleep(self.seconds / 2)
        if self.away or self.fate.fails(verbs, "after"):
            raise ConnectionError("Connection closed by server.")
        return replies

    async def aclose(self) -> None:
        await self.client.aclose()

    async def _carry_out(self, commands: Sequence[Command]) -> list[Any]:
        if self.full:
            return [await self._refused(command) for command in commands]
        async with self.client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        for n, command in enumerate(commands):
            if command[0] == "EVALSHA":
                self.ledger.note(_verb(command), command[4:], replies[n])
            elif command[0] == "TIME":
                now = self.clock() - self.clock_error
                replies[n] = [int(now), int(now % 1 * 1e6)]
        return replies

    async def _refused(self, command: Command) -> Any:
        if command[0] in ("ZADD", "HSET") or (command[0] == "EVALSHA" and _verb(command) not in READERS):
            return OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
        if command[0] == "TIME":
            return [int(self.clock()), 0]
        try:
            return await self.client.execute_command(*command)
        except Exception as error:  # noqa: BLE001 - a pipeline hands every error on as a reply
            return error


def _verb(command: Command) -> str:
    return NAMES[str(command[1])] if command[0] == "EVALSHA" else str(command[0])
