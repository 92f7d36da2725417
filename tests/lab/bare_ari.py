"""ARI with nothing in between: what Asterisk itself says, to judge the engine's client by."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import aiohttp

from .lab import Lab

Event = dict[str, Any]


class BareAri:
    """Commands over HTTP, and the events of one application as they come, each with its instant as `_at`."""

    def __init__(self, lab: Lab, app: str = "dialer", subscribe_all: bool = False) -> None:
        self._lab = lab
        self.app = app
        self._subscribe_all = subscribe_all
        self.events: list[Event] = []
        self._changed = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        secret = b64encode(f"{self._lab.ari_user}:{self._lab.ari_password}".encode()).decode()
        self._session = aiohttp.ClientSession(self._lab.ari_url, headers={"Authorization": f"Basic {secret}"})
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()
        if self._session is not None:
            await self._session.close()

    async def connect(self) -> None:
        """The event socket; commands work without it."""
        if self._session is None:
            raise RuntimeError("use it as a context manager")
        query = {"app": self.app, "subscribeAll": "true" if self._subscribe_all else "false"}
        self._socket = await self._session.ws_connect("/ari/events", params=query)
        self._reader = asyncio.create_task(self._read(self._socket))

    async def disconnect(self) -> None:
        """Leave as a killed process does: the kernel closes the connection, no closing handshake."""
        if self._socket is not None:
            connection: socket.socket | None = self._socket.get_extra_info("socket")
            if connection is not None:
                with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as ours:
                    ours.shutdown(socket.SHUT_RDWR)  # it may be gone already; uvloop's own cannot be shut
            self._socket = None
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None

    async def _read(self, events: aiohttp.ClientWebSocketResponse) -> None:
        async for message in events:
            event: Event = message.json()
            event["_at"] = time.time()
            self.events.append(event)
            self._changed.set()

    async def request(self, method: str, path: str, body: object = None, **query: str | int) -> tuple[int, Any]:
        """The status and the decoded reply."""
        if self._session is None:
            raise RuntimeError("use it as a context manager")
        async with self._session.request(method, f"/ari/{path}", params=query, json=body) as reply:
            return reply.status, await reply.json(content_type=None) if reply.status != 204 else None

    async def originate(self, identifier: str, endpoint: str, **query: str | int) -> int:
        """POST /channels/{id} into the application, or into a dialplan place when a context is given."""
        where = {} if "context" in query or "app" in query else {"app": self.app}
        status, _ = await self.request("POST", f"channels/{identifier}", endpoint=endpoint, **where, **query)
        return status

    def of(self, identifier: str, *types: str) -> list[Event]:
        """The events of one channel, of these types only if any are given."""
        return [e for e in self.events if identifier in channels_of(e) and (not types or e["type"] in types)]

    async def until(self, condition: Callable[[], Any], within: float = 10.0) -> Any:
        """The condition's value once it is true, looked at after each event."""
        deadline = time.monotonic() + within
        while not (value := condition()):
            self._changed.clear()
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"waited in vain; last events: {[brief(e) for e in self.events[-12:]]}")
            try:
                await asyncio.wait_for(self._changed.wait(), min(left, 0.5))
            except TimeoutError:
                continue
        return value

    async def wait(self, identifier: str, kind: str, within: float = 10.0) -> Event:
        """The first event of this type for the channel."""
        found: list[Event] = await self.until(lambda: self.of(identifier, kind), within)
        return found[0]


def channels_of(event: Event) -> Iterable[str]:
    """The ids an event is about: its channel, and in a Dial event caller and peer."""
    return [event[key]["id"] for key in ("channel", "peer", "caller") if isinstance(event.get(key), dict)]


def brief(event: Event) -> str:
    """An event in a few words, to compare sequences by eye."""
    kind = event["type"]
    if kind == "Dial":
        return f"Dial {event['dialstatus'] or '-'}"
    if kind == "ChannelStateChange":
        return f"State {event['channel']['state']}"
    if kind == "ChannelDestroyed":
        return f"Destroyed {event['cause']}/{event.get('tech_cause')}"
    if kind == "ChannelVarset":
        return f"Varset {event['variable']}={event['value']}"
    return str(kind)
