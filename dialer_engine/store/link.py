"""The connection: what is asked of Redis in one turn of the loop goes out in one pipeline, and errors come
back in our words.

While one pipeline is under way the next is gathered, so a busy loop pays one round trip for many verbs.
Nothing is ever sent twice: when a reply is lost the fate is unknown, and the caller may repeat the verb.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from dialer_engine.errors import DialerError, Rejected, Unavailable
from dialer_engine.store.server import Argument, Command, Server

PIPELINE_LENGTH = 512  # commands; more would hold up the others for longer than a pass
LISTEN_SECONDS = 10.0

SENTENCES = {
    "OOM": "it is full (maxmemory): raise maxmemory or free memory; nothing was changed",
    "READONLY": "it is a read-only replica: point [redis] url at the master, or use Sentinel",
    "LOADING": "it is loading its data after a start",
    "MISCONF": "it cannot write to its disk and refuses changes: look at its log and at the free space",
    "NOREPLICAS": "it has fewer replicas than min-replicas-to-write",
    "MASTERDOWN": "this replica has lost its master",
    "CLUSTERDOWN": "the cluster is down",
    "TRYAGAIN": "the cluster is moving slots",
    "BUSY": "somebody's script has been running for too long",
    "NOAUTH": "it wants a password: set it in [redis] url",
    "WRONGPASS": "it does not take the user or password in [redis] url",
}
WORDS: dict[type[BaseException], str] = {
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    BusyLoadingError: "LOADING",
    ClusterDownError: "CLUSTERDOWN",
    AuthenticationError: "WRONGPASS",
}


@dataclass(frozen=True, slots=True)
class Script:
    text: str
    sha: str

    @classmethod
    def read(cls, name: str) -> Script:
        here = files("dialer_engine.store")
        text = here.joinpath("common.lua").read_text() + here.joinpath(f"{name}.lua").read_text()
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(slots=True, eq=False)
class _Request:
    command: Command
    script: Script | None
    reply: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Link:
    """`base` begins every key of the dispatch slot; a call list has a slot of its own, `list_base`."""

    def __init__(self, server: Server, prefix: str) -> None:
        self.prefix = prefix
        self.base = f"{{{prefix}}}"
        self._server = server
        self._scripts: dict[str, Script] = {}
        self._loaded: set[Script] = set()
        self._waiting: list[_Request] = []
        self._sender: asyncio.Task[None] | None = None

    def list_base(self, call_list: int) -> str:
        return f"{{{self.prefix}:list:{call_list}}}"

    def key(self, name: str) -> str:
        return f"{self.base}:{name}"

    def campaign_key(self, campaign: int, name: str) -> str:
        return f"{self.base}:campaign:{campaign}:{name}"

    async def run(self, name: str, *args: Argument, base: str | None = None) -> Any:
        """One script, atomically, on the keys that begin with `base` (default: the dispatch slot)."""
        script = self._scripts.get(name) or self._scripts.setdefault(name, Script.read(name))
        return await self._submit(("EVALSHA", script.sha, 1, base or self.base, *args), script)

    async def do(self, *command: Argument) -> Any:
        return await self._submit(command, None)

    async def many(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Replies in the order of the commands; the first error among them is raised."""
        return await asyncio.gather(*(self._submit(tuple(command), None) for command in commands))

    async def hear(self, channel: str) -> AsyncIterator[str]:
        """Messages of `channel`, on a connection of its own, for as long as it lasts; "" when it has begun.

        Raises Unavailable when it is lost; what was published meanwhile is lost too.
        """
        try:
            async with self._server.listener() as pubsub:
                async with self._server.in_time():
                    await pubsub.subscribe(channel)
                silent = False
                while True:
                    message = await pubsub.get_message(timeout=LISTEN_SECONDS)
                    if message is None:  # silence: is the other end still there?
                        if silent:
                            raise Unavailable("redis", "it does not answer a ping")
                        async with self._server.in_time():
                            await pubsub.ping()
                    elif message["type"] in ("subscribe", "message"):
                        yield message["data"] if message["type"] == "message" else ""
                    silent = message is None
        except (RedisError, OSError) as error:
            raise translated(error) from error

    async def close(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        for request in self._waiting:
            _fail(request, Unavailable("redis", "the store is closed"))
        self._waiting.clear()
        await self._server.aclose()

    def _submit(self, command: Command, script: Script | None) -> asyncio.Future[Any]:
        request = _Request(command, script)
        self._waiting.append(request)
        if self._sender is None:
            # The task begins in the next turn of the loop: all of this turn is gathered by then.
            self._sender = asyncio.create_task(self._send_waiting(), name="redis pipeline")
        return request.reply

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:PIPELINE_LENGTH]
                del self._waiting[:PIPELINE_LENGTH]
                await self._send(batch)
        finally:
            self._sender = None

    async def _send(self, batch: list[_Request]) -> None:
        try:
            unknown = self._answer(batch, await self._pipeline(batch))
            if unknown:  # not carried out, so they may be sent again
                self._loaded.clear()
                for request in self._answer(unknown, await self._pipeline(unknown)):
                    _fail(request, Unavailable("redis", "it forgets scripts while they are loaded"))
        except (RedisError, OSError) as error:
            self._loaded.clear()  # a Redis that was restarted knows no scripts
            for request in batch:
                _fail(request, translated(error), error)
        finally:
            for request in batch:
                _fail(request, Unavailable("redis", "the store was closed while the reply was awaited"))

    async def _pipeline(self, batch: Sequence[_Request]) -> list[Any]:
        """The replies to the requests; scripts Redis has not heard from us yet are loaded in front of them."""
        new = {request.script for request in batch if request.script} - self._loaded
        commands: list[Command] = [("SCRIPT LOAD", script.text) for script in new]
        replies = await self._server.ask(commands + [request.command for request in batch])
        self._loaded |= new
        return replies[len(new) :]

    def _answer(self, batch: list[_Request], replies: list[Any]) -> list[_Request]:
        """Hand out the replies; returns the requests whose script Redis does not know."""
        missing = []
        for request, reply in zip(batch, replies, strict=True):
            if isinstance(reply, NoScriptError):
                missing.append(request)
            elif isinstance(reply, Exception):
                _fail(request, translated(reply), reply)
            elif not request.reply.done():
                request.reply.set_result(reply)
        return missing


def _fail(request: _Request, error: DialerError, cause: BaseException | None = None) -> None:
    if not request.reply.done():
        error.__cause__ = cause
        request.reply.set_exception(error)


def translated(error: BaseException) -> DialerError:
    """The library's error as ours, with the sentence an operator reads."""
    text = str(error)
    word = WORDS.get(type(error), text.partition(" ")[0])  # redis-py strips the word where it has a class
    if word in SENTENCES:
        return Unavailable("redis", SENTENCES[word])
    if isinstance(error, ResponseError) or isinstance(error.__cause__, ResponseError):  # within a handshake
        return Rejected(f"Redis refuses: {text}")
    if " connecting to " in text:  # nothing was asked
        return Unavailable("redis", text.rstrip("."))
    return Unavailable("redis", f"{text or type(error).__name__}; what was asked may have been done")
