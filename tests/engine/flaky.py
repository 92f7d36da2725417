"""A Redis inside the process: fakeredis with the real Lua, without sockets, failing when it is told to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from types import TracebackType
from typing import Any

from fakeredis import FakeServer
from fakeredis.aioredis import FakeRedis
from redis.exceptions import ConnectionError, OutOfMemoryError, TimeoutError

from dialer_engine.store.link import Script
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

    def pipeline(self, transaction: bool) -> _Pipeline:
        return _Pipeline(self)

    async def aclose(self) -> None:
        await self.client.aclose()


class _Pipeline:
    def __init__(self, redis: FlakyRedis) -> None:
        self._redis = redis
        self._commands: list[tuple[Any, ...]] = []

    async def __aenter__(self) -> _Pipeline:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def execute_command(self, *command: Any) -> None:
        self._commands.append(command)

    async def execute(self, raise_on_error: bool) -> list[Any]:
        redis = self._redis
        verbs = [_verb(command) for command in self._commands if command[0] != "SCRIPT LOAD"]
        await redis.fate.meet(verbs, "before")
        await asyncio.sleep(redis.seconds / 2)
        if redis.hung:
            await asyncio.sleep(SOCKET_SECONDS)
            raise TimeoutError("Timeout reading from socket")
        if redis.away or redis.fate.fails(verbs, "before"):
            raise ConnectionError("Error 111 connecting to redis. Connection refused.")
        replies = await self._carry_out()
        await redis.fate.meet(verbs, "after")
        await asyncio.sleep(redis.seconds / 2)
        if redis.away or redis.fate.fails(verbs, "after"):
            raise ConnectionError("Connection closed by server.")
        return replies

    async def _carry_out(self) -> list[Any]:
        redis = self._redis
        if redis.full:
            return [await self._refused(command) for command in self._commands]
        async with redis.client.pipeline(transaction=False) as pipeline:
            for command in self._commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        for n, command in enumerate(self._commands):
            if command[0] == "EVALSHA":
                redis.ledger.note(NAMES[command[1]], command[4:], replies[n])
            elif command[0] == "TIME":
                now = redis.clock() - redis.clock_error
                replies[n] = [int(now), int(now % 1 * 1e6)]
        return replies

    async def _refused(self, command: tuple[Any, ...]) -> Any:
        if command[0] in ("ZADD", "HSET") or (command[0] == "EVALSHA" and NAMES[command[1]] not in READERS):
            return OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
        if command[0] == "TIME":
            return [int(self._redis.clock()), 0]
        try:
            return await self._redis.client.execute_command(*command)
        except Exception as error:  # noqa: BLE001 - a pipeline hands every error on as a reply
            return error


def _verb(command: tuple[Any, ...]) -> str:
    return NAMES[command[1]] if command[0] == "EVALSHA" else str(command[0])
