"""The other end of a PBX's wire: an owner who remembers what the client tells him, and a client for each test."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from dialer_engine.ari import Ari, AriConfig, AriEvent, AriState, Connected, Patience, StasisStart
from dialer_engine.errors import Replaced

E = TypeVar("E", bound=AriEvent)
PATIENT = Patience()


class Pbx(Protocol):
    """What a test needs of a PBX, simulated or real."""

    @property
    def url(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def password(self) -> str: ...


class RestartablePbx(Pbx, Protocol):
    """And what some need besides."""

    async def restart(self) -> None:
        """As after a crash."""


class Owner:
    """Remembers what it is told; every wait has a deadline."""

    def __init__(self) -> None:
        self.events: list[AriEvent] = []
        self.states: list[AriState] = []
        self._changed = asyncio.Event()

    def on_event(self, event: AriEvent) -> None:
        self.events.append(event)
        self._changed.set()

    def on_state(self, state: AriState) -> None:
        self.states.append(state)
        self._changed.set()

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def state(self, kind: type[AriState], seconds: float = 10.0) -> AriState:
        await self.until(lambda: bool(self.states) and isinstance(self.states[-1], kind), seconds)
        return self.states[-1]

    async def event(self, kind: type[E], channel_id: str, seconds: float = 10.0) -> E:
        await self.until(lambda: bool(self.all(kind, channel_id)), seconds)
        return self.all(kind, channel_id)[0]

    def all(self, kind: type[E], channel_id: str) -> list[E]:
        return [event for event in self.events if isinstance(event, kind) and event.channel_id == channel_id]


@dataclass
class Client:
    ari: Ari
    owner: Owner
    run: asyncio.Task[None]
    app: str

    async def call(self, who: str, **more: object) -> str:
        channel_id = new_id()
        arguments: dict[str, object] = {"caller_id": "100", "timeout_seconds": 20, **more}
        await self.ari.originate(channel_id, endpoint=f"PJSIP/{who}@carrier", **arguments)  # type: ignore[arg-type]
        return channel_id

    async def answered(self, who: str, **more: object) -> str:
        channel_id = await self.call(who, **more)
        await self.owner.event(StasisStart, channel_id)
        return channel_id


def new_id() -> str:
    return f"t{uuid.uuid4().hex}"


@asynccontextmanager
async def client(
    pbx: Pbx,
    *,
    app: str | None = None,
    patience: Patience = PATIENT,
    sources: tuple[str, ...] = (),
    extra_events: tuple[str, ...] = (),
    watch_all: bool = False,
) -> AsyncIterator[Client]:
    """A connected client; the application's name is its own, so that no test hears another's calls."""
    app = app or f"app-{uuid.uuid4().hex[:8]}"
    owner = Owner()
    config = AriConfig(pbx.url, pbx.username, pbx.password, app)
    async with Ari(
        config,
        owner.on_event,
        owner.on_state,
        sources=sources,
        extra_events=extra_events,
        watch_all=watch_all,
        patience=patience,
    ) as ari:
        run = asyncio.create_task(ari.run())
        try:
            await owner.state(Connected)
            yield Client(ari, owner, run, app)
        finally:
            run.cancel()
            with suppress(asyncio.CancelledError, Replaced):
                await run
