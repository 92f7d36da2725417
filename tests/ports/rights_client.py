"""The application as it is served, and a client that logs in, is refused, and forges tokens."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import jwt
from fastapi import FastAPI
from multidict import CIMultiDict

from dialer_engine import api
from dialer_engine.store import Store
from tests.ports.api_client import Answer

PASSWORD = "correct horse"


class Client:
    def __init__(self, session: aiohttp.ClientSession, store: Store) -> None:
        self.store = store
        self._session = session

    async def ask(
        self, method: str, path: str, bearer: str | None = None, *, only_status: bool = False, **more: Any
    ) -> Answer:
        """only_status: an answer without an end is not read to it."""
        headers = CIMultiDict[str](more.pop("headers", {}))
        if bearer is not None:
            headers["Authorization"] = f"Bearer {bearer}"
        async with self._session.request(method, path, headers=headers, **more) as reply:
            text = "" if only_status else await reply.text()
            return Answer(reply.status, {name.lower(): value for name, value in reply.headers.items()}, text)

    async def look(self, bearer: str | None) -> Answer:
        return await self.ask("GET", "/look", bearer)

    async def change(self, bearer: str | None) -> Answer:
        return await self.ask("PUT", "/change", bearer, json={"a": 1})

    async def grant(self, **form: str) -> Answer:
        return await self.ask("POST", "/token", data=form)

    async def log_in(self, name: str, password: str = PASSWORD, address: str = "192.0.2.1") -> Answer:
        """As through a proxy of this host."""
        form = {"grant_type": "password", "username": name, "password": password}
        return await self.ask("POST", "/token", data=form, headers={"X-Forwarded-For": address})

    async def refresh(self, refresh_token: str, **more: str) -> Answer:
        return await self.grant(grant_type="refresh_token", refresh_token=refresh_token, **more)

    async def add(self, name: str, *rights: str) -> None:
        await self.store.accounts.add_user(name, PASSWORD, rights, by="test", now=time.time())

    async def access_token(self, name: str, *rights: str) -> str:
        await self.add(name, *rights)
        found: str = (await self.log_in(name)).json["access_token"]
        return found

    async def forged(self, access_token: str, *, key: str | None = None, **claims: Any) -> str:
        """That token with other claims, signed by the true key or another."""
        header = jwt.get_unverified_header(access_token)
        true = await self.store.sessions.signing_key(now=time.time())
        said = jwt.decode(access_token, options={"verify_signature": False})
        said = {name: value for name, value in {**said, **claims}.items() if value is not None}
        return jwt.encode(said, key or true.secret, algorithm="HS256", headers={"kid": header["kid"]})


@asynccontextmanager
async def serving(app: FastAPI, store: Store) -> AsyncIterator[Client]:
    """The application as the daemon serves it, and a client of it."""
    listener = api.listen("127.0.0.1:0")
    port = listener.getsockname()[1]
    server = asyncio.create_task(api.serve(app, listener))
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield Client(session, store)
    server.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await server
