"""ARI with nothing in between, and everything that was said on it written down.

It shares no decoder with the engine's client: frames are JSON objects, as they come.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from .manager import Manager, ManagerPlace, Message

Event = dict[str, Any]

NOTHING: Mapping[str, str] = MappingProxyType({})

PATIENCE_SECONDS = 20.0
"""For an event or a reply that must come, on a busy machine too."""
LOOK_SECONDS = 0.05
"""Between two looks at what no event tells."""


@dataclass(frozen=True)
class Place:
    """Where an ARI is: a real one's or the simulator's. `url` is without /ari; `manager` is its AMI."""

    url: str
    username: str
    password: str
    manager: ManagerPlace | None = None


@dataclass
class Exchange:
    """One request and its reply; `reply` is None when it had no body."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    status: int = 0
    reply: Any = None


@dataclass
class Frame:
    text: str
    event: Event


@dataclass
class Socket:
    """One life of an event socket. `ended` is how: by us, by Asterisk with this code, or not before the scenario's
    own end."""

    name: str
    app: str
    frames: list[Frame] = field(default_factory=list)
    ended: str = "open"


@dataclass
class Recording:
    """Everything of one scenario, raw. `labels` say what the ids are that we gave: id -> word."""

    labels: dict[str, str]
    exchanges: list[Exchange]
    sockets: list[Socket]
    queues: list[str] | None = None
    """Of which the AMI session was to hear; None: there was none."""
    managed: list[Message] = field(default_factory=list)
    actions: list[tuple[str, dict[str, str], list[Message]]] = field(default_factory=list)


class Wire:
    """Requests and event sockets of one scenario, as an async context.

    Every request has a connection of its own, because Asterisk's thread of a connection remembers a conflict
    (`one_connection` is for those who want to see that); `turns` limits how many open one at the same time: Asterisk
    lets ten wait, and forgets the next one for a second. `serial` makes the scenario's numbers differ from others'.
    """

    def __init__(self, place: Place, turns: asyncio.Semaphore, serial: int = 0) -> None:
        self.place = place
        self.serial = serial
        self.where: dict[str, object] = {}
        self.exchanges: list[Exchange] = []
        self.sockets: list[Socket] = []
        self.labels: dict[str, str] = {}
        self.app = self.name("app", "app")
        self._queues: list[str] | None = None
        self._manager: Manager | None = None
        self._turns = turns
        self._changed = asyncio.Event()
        self._requests: aiohttp.ClientSession | None = None
        self._listening: aiohttp.ClientSession | None = None
        self._open: dict[str, tuple[Socket, aiohttp.ClientWebSocketResponse, asyncio.Task[None]]] = {}

    async def __aenter__(self) -> Self:
        self._requests = self._session(aiohttp.TCPConnector(force_close=True, limit=0))
        self._listening = self._session(aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._manager is not None:
            await self._manager.close()
        for name in list(self._open):
            _, connection, reader = self._open.pop(name)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await connection.close()
        for session in (self._requests, self._listening):
            if session is not None:
                await session.close()

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        secret = b64encode(f"{self.place.username}:{self.place.password}".encode()).decode()
        return aiohttp.ClientSession(
            self.place.url, connector=connector, headers={"Authorization": f"Basic {secret}"}
        )

    def recording(self) -> Recording:
        recording = Recording(self.labels, self.exchanges, self.sockets, self._queues)
        if self._manager is not None:
            recording.managed, recording.actions = self._manager.said, self._manager.actions
        return recording

    @property
    def manager(self) -> Manager:
        """The AMI session of a scenario that has one."""
        if self._manager is None:
            raise RuntimeError("the scenario is not managed")
        return self._manager

    async def manage(self, queues: list[str]) -> None:
        """Log in to AMI."""
        if self.place.manager is None:
            raise RuntimeError("the place has no AMI")
        self._queues, self._manager = queues, Manager(self.place.manager)
        await self._manager.open()
        await self._manager.log_in()

    def name(self, label: str, kind: str = "c") -> str:
        """A fresh id of fixed width (none may be a prefix of another); in the trace it is called <label>."""
        if label in self.labels.values():
            raise ValueError(f"two things are called {label}")
        identifier = f"{kind}{secrets.token_hex(12)}"
        self.labels[identifier] = label
        return identifier

    # Requests

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] = NOTHING,
        headers: Mapping[str, str] = NOTHING,
    ) -> None:
        """A request that belongs to the scenario; a text as its body is sent as it is."""
        exchange = Exchange(method, path, dict(query), body)
        self.exchanges.append(exchange)
        exchange.status, exchange.reply = await self.look(method, path, body, query=query, headers=headers)

    async def look(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] = NOTHING,
        headers: Mapping[str, str] = NOTHING,
    ) -> tuple[int, Any]:
        """A request that does not belong to it: to wait for what no event tells, to clean up."""
        if self._requests is None:
            raise RuntimeError("use it as a context manager")
        content: dict[str, Any] = {"data": body} if isinstance(body, str) else {"json": body}
        try:
            async with (
                asyncio.timeout(PATIENCE_SECONDS),
                self._turns,
                self._requests.request(
                    method, f"/ari{path}", params=query, headers=headers, **content
                ) as reply,
            ):
                text = await reply.text()
        except TimeoutError as exc:
            raise TimeoutError(f"no reply to {method} {path} {query} {body}") from exc
        try:
            return reply.status, json.loads(text) if text else None
        except ValueError:
            return reply.status, text

    @asynccontextmanager
    async def one_connection(self) -> AsyncIterator[None]:
        """Requests share one connection while this lasts."""
        before, self._requests = self._requests, self._session(aiohttp.TCPConnector(limit=1))
        try:
            yield
        finally:
            await self._requests.close()
            self._requests = before

    # Events

    async def listen(
        self,
        name: str = "app",
        *,
        app: str = "",
        allowed: Sequence[str] | None = None,
        everything: bool = False,
    ) -> Socket:
        """Open the event socket `name` of an application (ours unless said otherwise) and put its filter, if any.

        `everything` hears of all channels, bridges, endpoints and devices. Only where the scenario is alone: an
        application that follows devices blocks ARI for ever when it ends while one of them changes (#2170).
        """
        if self._listening is None:
            raise RuntimeError("use it as a context manager")
        heard = Socket(name, app or self.app)
        query = {"app": heard.app, "subscribeAll": "true" if everything else "false"}
        async with asyncio.timeout(PATIENCE_SECONDS), self._turns:
            connection = await self._listening.ws_connect("/ari/events", params=query, max_msg_size=0)
        self.sockets.append(heard)
        self._open[name] = heard, connection, asyncio.create_task(self._read(heard, connection))
        if allowed is not None:
            types = {"allowed": [{"type": kind} for kind in allowed]}
            await self.ask("PUT", f"/applications/{heard.app}/eventFilter", types)
        return heard

    async def drop(self, name: str = "app") -> None:
        """Leave as a killed process does: the kernel closes the connection, no closing handshake."""
        heard, connection, reader = self._open.pop(name)
        heard.ended = "by us" if heard.ended == "open" else heard.ended
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        raw: socket.socket | None = connection.get_extra_info("socket")
        if raw is not None:
            with suppress(OSError):  # it may be gone already
                raw.shutdown(socket.SHUT_RDWR)
        await self._until_inactive(heard.app)

    async def _until_inactive(self, app: str) -> None:
        """Asterisk takes a moment to notice; until then the application still counts as connected.

        No request tells the two apart, but a new socket under the name would: hence a fixed moment, a loopback's
        FIN being read at once.
        """
        await asyncio.sleep(0.3)
        await self.look("GET", f"/applications/{app}")

    async def _read(self, heard: Socket, connection: aiohttp.ClientWebSocketResponse) -> None:
        async for message in connection:
            if message.type is aiohttp.WSMsgType.TEXT:
                heard.frames.append(Frame(message.data, json.loads(message.data)))
                self._changed.set()
        heard.ended = f"by Asterisk, code {connection.close_code}"
        self._changed.set()

    async def until(self, condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
        """The condition's value once it is true, looked at after each event."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            self._changed.clear()
            left = deadline - time.monotonic()
            if left <= 0:
                heard = [frame.event["type"] for each in self.sockets for frame in each.frames[-8:]]
                raise TimeoutError(f"waited in vain; last events: {heard}")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)
        return value

    def events(self, identifier: str, kind: str) -> list[Event]:
        """Those of this type that are about this channel (as its peer, too), playback or application."""
        return [
            frame.event
            for heard in self.sockets
            for frame in heard.frames
            if frame.event["type"] == kind and identifier in _subjects(frame.event)
        ]

    async def event(self, identifier: str, kind: str, count: int = 1, **fields: object) -> Event:
        """The `count`-th event of this type about this channel, playback or application, with these fields."""

        def found() -> list[Event]:
            told = self.events(identifier, kind)
            return [event for event in told if fields.items() <= event.items()][count - 1 : count]

        try:
            event: Event = (await self.until(found))[0]
        except TimeoutError as exc:
            raise TimeoutError(f"{kind} {fields} of {self.labels.get(identifier, identifier)}: {exc}") from exc
        return event

    # Calls

    async def call(self, label: str, endpoint: str, **more: object) -> str:
        """Originate as the daemon does it, to the place of this scenario; a bare number goes to PJSIP/carrier."""
        channel = self.name(label)
        full = endpoint if "/" in endpoint or not endpoint else f"PJSIP/{endpoint}@carrier"
        body = {"endpoint": full, "callerId": '"Dialer" <420100200300>', "timeout": 15, **self.where, **more}
        await self.ask("POST", f"/channels/{channel}", body)
        return channel

    async def answered(self, label: str, endpoint: str, **more: object) -> str:
        """A call that is in our application."""
        channel = await self.call(label, endpoint, **more)
        await self.event(channel, "StasisStart")
        return channel

    async def hang_up(self, channel: str, reason: str = "", code: str = "") -> None:
        query = {name: value for name, value in (("reason", reason), ("reason_code", code)) if value}
        await self.ask("DELETE", f"/channels/{channel}", query=query)

    async def end(self, *channels: str) -> None:
        """Until the events have told their end."""
        for channel in channels:
            await self.event(channel, "ChannelDestroyed")

    async def ring(self, label: str, endpoint: str, **more: object) -> str:
        """A call that rings: both threads that tell of it have done so."""
        channel = await self.call(label, endpoint, **more)
        await self.event(channel, "Dial", dialstatus="RINGING")
        await self.until(
            lambda: any(
                event["channel"]["state"] == "Ringing" for event in self.events(channel, "ChannelStateChange")
            )
        )
        return channel

    async def play(self, channel: str, label: str, *media: str, **more: object) -> str:
        """Returns the playback's id."""
        playback = self.name(label, "p")
        await self.ask("POST", f"/channels/{channel}/play/{playback}", {"media": list(media), **more})
        return playback

    async def stop(self, playback: str) -> None:
        await self.ask("DELETE", f"/playbacks/{playback}")

    async def subscribe(self, source: str, app: str = "") -> None:
        await self.ask("POST", f"/applications/{app or self.app}/subscription", {"eventSource": source})

    async def state(self, channel: str, *states: str) -> None:
        """Until the channel is in one of these states ("gone" when there is none), told by no event."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            status, reply = await self.look("GET", f"/channels/{quote(channel, safe='')}")
            now = "gone" if status == 404 else reply["state"]
            if now in states:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.labels[channel]} is {now}, not {states}")
            await asyncio.sleep(LOOK_SECONDS)


def _subjects(event: Event) -> set[str]:
    parts = (event[key]["id"] for key in ("channel", "peer", "playback") if key in event)
    return {event.get("application", ""), *parts} if "channel" not in event else set(parts)
