"""The application served on loopback, and a client that speaks with it as any other does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import redis.asyncio

from dialer_engine import api
from dialer_engine.core.compliance import NumberPolicy
from dialer_engine.store import Store
from dialer_engine.store.link import Link
from dialer_engine.store.server import connect

NO_PROBES = api.Probes(alive=lambda: None, ready=lambda: None, metrics=lambda: (b"dialer 1\n", "text/plain"))


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def etag(self) -> str:
        return self.headers["etag"]

    @property
    def paths(self) -> list[str]:
        """The fields at fault, as a problem document names them."""
        assert self.headers["content-type"] == "application/problem+json", self.text
        return [one["path"] for one in self.json.get("errors", [])]


class Client:
    """With the right to manage, unless told otherwise."""

    def __init__(self, url: str, session: aiohttp.ClientSession, token: str = "") -> None:
        self.url = url
        self._session = session
        self._token = token

    def as_holder_of(self, token: str) -> Client:
        return Client(self.url, self._session, token)

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> Answer:
        """body: bytes as they are, anything else as JSON. token "": none."""
        sent = {} if body is None else {"Content-Type": "application/json"}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        return await self._send(method, path, data, {**sent, **(headers or {})}, token)

    async def stream(
        self,
        method: str,
        path: str,
        chunks: AsyncIterator[bytes],
        form: str = "application/json",
        *,
        if_match: str | None = None,
    ) -> Answer:
        """A body, sent as it is made."""
        headers = {"Content-Type": form} | ({"If-Match": if_match} if if_match else {})
        return await self._send(method, path, chunks, headers, None)

    @asynccontextmanager
    async def reading(
        self, path: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is read while it comes."""
        rights = {"Authorization": f"Bearer {self._token}"}
        async with self._session.get(path, headers={**rights, **(headers or {})}) as reply:
            assert reply.status == 200, await reply.text()
            yield reply

    async def get(self, path: str) -> Any:
        """What is there."""
        answer = await self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.json

    async def done(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """What came of it, which must have gone well. Headers are written with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.ask(method, path, body, headers=named)
        assert answer.status == 200, answer
        return answer.json

    async def _send(
        self, method: str, path: str, data: Any, headers: Mapping[str, str], token: str | None
    ) -> Answer:
        bearer = self._token if token is None else token
        rights = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        async with self._session.request(method, path, data=data, headers={**rights, **headers}) as reply:
            names = {name.lower(): value for name, value in reply.headers.items()}
            return Answer(reply.status, names, await reply.text())


@dataclass(frozen=True, slots=True)
class House:
    """The application and the store it stands on."""

    store: Store
    client: Client
    url: str  # of the Redis

    async def empty(self) -> Client:
        """Nothing is there but the right to manage."""
        await self.command("FLUSHALL")
        return self.client.as_holder_of(await new_token(self.store))

    async def command(self, *words: str) -> Any:
        """As any other program would send it to the Redis."""
        client = redis.asyncio.Redis.from_url(self.url, decode_responses=True, protocol=2)
        async with client as other:
            command: Callable[..., Awaitable[Any]] = other.execute_command
            return await command(*words)


@asynccontextmanager
async def served(
    store: Store, *, policy: NumberPolicy | None = None, probes: api.Probes = NO_PROBES, token: str = ""
) -> AsyncIterator[Client]:
    """The whole application on a port of its own."""
    numbers = policy or NumberPolicy()
    app = api.application("1", probes, store=store, numbers=lambda: numbers)
    listener = api.listen("127.0.0.1:0")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    serving = asyncio.create_task(api.serve(app, listener))
    async with aiohttp.ClientSession(url) as session:
        yield Client(url, session, token)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def new_token(store: Store, right: str = "dialer:manage", name: str = "eva") -> str:
    return await store.accounts.create_token(name, [right], by="test", now=time.time())


@asynccontextmanager
async def without_redis() -> AsyncIterator[Store]:
    """A store whose Redis is not there (any more)."""
    store = Store(Link(connect("redis://127.0.0.1:1/0", 1), "dialer"), "UTC")
    yield store
    await store.close()
