"""One Redis, as redis-py speaks to it: a connection for all that is asked, and others to listen.

What is asked goes out as one packet, put together by hiredis, on a connection that stays ours: redis-py's pipelines
fetch one from their pool, check it and give it back each time, and pack in Python, which costs more than a small
script. A connection whose replies were not all read is never used again, for the next to ask would take them for his.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import hiredis
from redis.asyncio import BlockingConnectionPool, Connection, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError, ResponseError

from dialer_engine.errors import ConfigError, Problem

CONNECTIONS = 4
SENTINEL_PORT = 26379

Argument = str | int | float
Command = tuple[Argument, ...]

_pack = cast(Callable[[tuple[Argument | bytes, ...]], bytes], hiredis.pack_command)
"""hiredis annotates it for tuples of one."""


class Server:
    """For one who asks at a time, and any number who listen.

    `listening` has no socket_timeout: with one, redis-py sends by asyncio.wait_for, which until Python 3.12 swallows a
    cancel that comes when the sending is done, and a listener would listen for ever.
    """

    def __init__(self, client: Redis, listening: Redis, timeout_seconds: float) -> None:
        self.client = client
        self._listening = listening
        self._timeout_seconds = timeout_seconds
        self._connection: Connection | None = None

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The reply to each, or the ResponseError that it is.

        Raises RedisError or OSError when the connection is lost, or silent for too long: any of them may have been
        carried out.
        """
        connection = await self._connected()
        try:
            async with self.in_time():
                await connection.send_packed_command(b"".join(map(_packed, commands)), check_health=False)
                replies = [await self._reply(connection, str(command[0])) for command in commands]
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                raise TimeoutError("it does not answer in time") from error
            raise
        if any(isinstance(reply, ReadOnlyError) for reply in replies):
            await connection.disconnect()  # its name may stand for another server now, which is the master
        return replies

    async def _connected(self) -> Connection:
        """Ours, made anew where it has ended; a closed one is noticed before anything is sent on it."""
        pool: Any = self.client.connection_pool  # typed in part
        if self._connection is None:
            self._connection = cast(Connection, await pool.get_connection())
        else:
            # A new one shakes hands, and a server that hangs in the midst of that must not keep its answer for us.
            self._connection.socket_timeout = self._timeout_seconds
            await pool.ensure_connection(self._connection)
        # All that is asked has one deadline: redis-py would set a timer, and start a task, for each packet.
        self._connection.socket_timeout = None
        return self._connection

    async def _reply(self, connection: Connection, command: str) -> Any:
        try:
            return await self.client.parse_response(connection, command)
        except ResponseError as error:
            return error

    def listener(self) -> PubSub:
        """Its orders have no deadline but the caller's: see `in_time`."""
        return self._listening.pubsub()

    def in_time(self) -> asyncio.Timeout:
        return asyncio.timeout(self._timeout_seconds)

    async def aclose(self) -> None:
        await self.client.aclose()
        await self._listening.aclose()


def _packed(command: Command) -> bytes:
    """On the wire. What is no text (half of a surrogate pair) is written as question marks."""
    name, *arguments = command
    parts = (*str(name).split(), *arguments)  # SCRIPT LOAD
    try:
        return _pack(parts)
    except UnicodeEncodeError:
        return _pack(tuple(str(part).encode(errors="replace") for part in parts))


def connect(url: str, timeout_seconds: float) -> Server:
    """For redis://, rediss://, unix:// or redis+sentinel://host:port,host:port/master/db.

    Raises ConfigError. Writes are never retried by the client: a lost reply does not mean "not done".
    """
    try:
        asking, listening = (_client(url, timeout_seconds, each) for each in (timeout_seconds, None))
    except ValueError as error:
        raise ConfigError([Problem("redis.url", str(error))]) from error
    return Server(asking, listening, timeout_seconds)


def _client(url: str, timeout_seconds: float, socket_timeout: float | None) -> Redis:
    options: dict[str, Any] = {
        "decode_responses": True,
        "encoding_errors": "replace",  # rows come from any program; a broken one is refused, not fatal
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": timeout_seconds,
    }
    if url.startswith("redis+sentinel://"):
        return _sentinel(url, options)
    return Redis.from_pool(
        BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, timeout=timeout_seconds, **options)
    )


def _sentinel(url: str, options: dict[str, Any]) -> Redis:
    parts = urlsplit(url)
    master, _, db = parts.path.strip("/").partition("/")
    if not master:
        raise ValueError("redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB names no master")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    sentinels = []
    for host in hosts.split(","):
        name, _, port = host.partition(":")
        sentinels.append((name, int(port or SENTINEL_PORT)))
    if credentials:
        options |= {"username": unquote(user) or None, "password": unquote(password)}
    sentinel: Any = Sentinel  # redis-py annotates its parameters only in part
    client: Redis = sentinel(sentinels, **options).master_for(master, db=int(db or 0))
    return client
