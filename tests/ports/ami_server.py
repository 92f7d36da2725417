"""A manager interface that does what a test tells it: says anything, in any pieces, or nothing at all."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import SecretStr

from dialer_engine.ami import Ami, Patience
from dialer_engine.config import AmiSettings, QueueSettings
from dialer_engine.core.agents import QueueState
from dialer_engine.core.model import QueueName
from dialer_engine.core.told import Disposed, Told

BANNER = b"Asterisk Call Manager/11.0.0\r\n"
HASTY = Patience(
    connect_seconds=0.5,
    action_seconds=0.5,
    ping_seconds=0.05,
    silence_seconds=0.3,
    resync_seconds=0.2,
    snapshot_seconds=1.0,
    settings_seconds=60.0,
    grace_seconds=0.05,
    first_delay_seconds=0.02,
    longest_delay_seconds=0.1,
    settled_seconds=1.0,
)
GREEN = QueueName("green")

Headers = dict[str, str]


def lines(headers: Headers) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() + b"\r\n"


def event(event_name: str, **headers: object) -> bytes:
    return lines({"Event": event_name, **{name: str(value) for name, value in headers.items()}})


def member_event(interface: str = "PJSIP/1001", event_name: str = "QueueMemberStatus", **more: object) -> bytes:
    return event(event_name, **{**member(interface), **more})


def caller_event(event_name: str, caller: str, **more: object) -> bytes:
    return event(event_name, **{"Uniqueid": caller, "Queue": GREEN, **more})


def member(interface: str = "PJSIP/1001", queue: str = GREEN, **more: object) -> Headers:
    """As Asterisk 22 gives it in events; rows say Name and Location."""
    told: dict[str, object] = {
        "Queue": queue,
        "MemberName": interface,
        "Interface": interface,
        "StateInterface": interface,
        "LastCall": 0,
        "InCall": 0,
        "Status": 1,
        "Paused": 0,
        "PausedReason": "",
        "Ringinuse": 0,
        "Wrapuptime": 0,
        **more,
    }
    return {name: str(value) for name, value in told.items()}


@dataclass
class AmiServer:
    """What it answers by itself is what Asterisk answers to a user with all rights; each can be taken away."""

    secret: str = "secret"
    banner: bytes = BANNER
    rights: set[str] = field(default_factory=lambda: {"md5", "system", "user", "hears user", "config"})
    settings: dict[str, dict[str, str]] = field(default_factory=lambda: {GREEN: {"wrapuptime": "0"}})
    members: dict[tuple[str, str], Headers] = field(default_factory=dict)
    callers: dict[str, str] = field(default_factory=dict)  # and their queues
    unanswered: set[str] = field(default_factory=set)
    answers: dict[str, Callable[[Headers], bytes]] = field(default_factory=dict)
    pieces: Callable[[bytes], list[bytes]] = lambda data: [data]
    asked: list[Headers] = field(default_factory=list)
    clock_ahead_seconds: float = 0.0
    port: int = 0
    connections: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)
    _challenges: itertools.count[int] = field(default_factory=lambda: itertools.count(100))
    _server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._serving:
            await asyncio.wait(self._serving)
        await self._server.wait_closed()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def say(self, data: bytes) -> None:
        """To everybody."""
        for writer in self._writers:
            for piece in self.pieces(data):
                writer.write(piece)

    def names(self) -> list[str]:
        return [headers["Action"] for headers in self.asked]

    def stamp(self) -> str:
        return f"{time.time() + self.clock_ahead_seconds:.6f}"

    # what Asterisk does

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.banner)
        try:
            while data := await reader.readuntil(b"\r\n\r\n"):
                headers = dict(line.split(": ", 1) for line in data.decode().split("\r\n") if line)
                self.asked.append(headers)
                for piece in self.pieces(self._answer(headers)):
                    writer.write(piece)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, headers: Headers) -> bytes:
        action, action_id = headers["Action"], headers["ActionID"]
        if action in self.unanswered:
            return b""
        if action in self.answers:
            return self.answers[action](headers)
        made = {
            "Challenge": self._challenge,
            "Login": self._log_in,
            "Ping": lambda _: success(action_id, Ping="Pong", Timestamp=self.stamp()),
            "QueueStatus": self._list,
            "GetConfig": self._config,
            "UserEvent": self._user_event,
        }[action]
        return made(headers)

    def _challenge(self, headers: Headers) -> bytes:
        if "md5" not in self.rights:
            return error(headers["ActionID"], "Must specify AuthType")
        self._hash = str(next(self._challenges))
        return success(headers["ActionID"], Challenge=self._hash)

    def _log_in(self, headers: Headers) -> bytes:
        if "Key" in headers:
            given, wanted = headers["Key"], hashlib.md5(f"{self._hash}{self.secret}".encode()).hexdigest()
        else:
            given, wanted = headers["Secret"], self.secret
        if given != wanted:
            return error(headers["ActionID"], "Authentication failed")
        booted = event("FullyBooted", Status="Fully Booted") if "system" in self.rights else b""
        return success(headers["ActionID"], Message="Authentication accepted") + booted

    def _list(self, headers: Headers) -> bytes:
        last = {"ActionID": headers["ActionID"]}
        queues = [*self.settings, *(queue for queue, _ in self.members), *self.callers.values()]
        rows = [event("QueueParams", Queue=queue, **last) for queue in dict.fromkeys(queues)]
        for each in self.members.values():
            row = {**each, "Name": each["MemberName"], "Location": each["Interface"]}
            for name in ("MemberName", "Interface", "Ringinuse"):
                row.pop(name, None)
            rows.append(event("QueueMember", **row, **last))
        rows += [
            event("QueueEntry", Queue=queue, Uniqueid=caller, Wait=1, **last)
            for caller, queue in self.callers.items()
        ]
        start = success(headers["ActionID"], EventList="start", Message="Queue status will follow")
        end = event("QueueStatusComplete", **last, EventList="Complete", ListItems=len(rows))
        return start + b"".join(rows) + end

    def _config(self, headers: Headers) -> bytes:
        if "config" not in self.rights:
            return error(headers["ActionID"], "Permission denied")
        settings = self.settings.get(headers["Category"])
        if not settings:
            return success(headers["ActionID"])[:-2] + b"No categories found\r\n\r\n"
        found = {f"Line-000000-{n:06d}": f"{k}={v}" for n, (k, v) in enumerate(settings.items())}
        return success(headers["ActionID"], **{"Category-000000": headers["Category"], **found})

    def _user_event(self, headers: Headers) -> bytes:
        if "user" not in self.rights:
            return error(headers["ActionID"], "Permission denied")
        more = {name: value for name, value in headers.items() if name not in ("Action", "UserEvent")}
        raised = lines({"Event": "UserEvent", "UserEvent": headers["UserEvent"], **more})
        told = success(headers["ActionID"], Message="Event Sent")
        return told + raised if "hears user" in self.rights else told


def success(action_id: str, **more: object) -> bytes:
    return lines({"Response": "Success", "ActionID": action_id, **{k: str(v) for k, v in more.items()}})


def error(action_id: str, message: str) -> bytes:
    return lines({"Response": "Error", "ActionID": action_id, "Message": message})


class Listener:
    """An engine's ear: what was told, and what was seen at each change."""

    def __init__(
        self,
        port: int,
        *,
        host: str = "127.0.0.1",
        username: str = "dialer",
        secret: str = "secret",
        patience: Patience = HASTY,
        rules: dict[str, QueueSettings] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.told: list[Told | Disposed] = []
        self.changes = 0
        self.clock = clock
        self._changed = asyncio.Event()
        self.ami = Ami(
            AmiSettings(host=host, port=port, username=username, secret=SecretStr(secret)),
            hear=self.told.append,
            changed=self._change,
            clock=clock,
            rules=rules,
            patience=patience,
        )

    def _change(self) -> None:
        self.changes += 1
        self._changed.set()

    @property
    def is_exact(self) -> bool:
        return self.ami.age_seconds() is not None

    def state(self, queue: str = GREEN) -> QueueState | None:
        return self.ami.floor.state(QueueName(queue), self.clock())

    def free(self, queue: str = GREEN) -> set[str]:
        state = self.state(queue)
        return set(state.available) if state else set()

    async def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        """Looked at when something has changed, and now and then for what changes without it."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                try:
                    async with asyncio.timeout(0.02):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    async def exact(self, seconds: float = 5.0) -> None:
        await self.until(lambda: self.is_exact, seconds)


@asynccontextmanager
async def serving(server: AmiServer) -> AsyncIterator[AmiServer]:
    await server.open()
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def listening(listener: Listener, *, exact: bool = True) -> AsyncIterator[Listener]:
    """Its client runs; what ends it ends the test."""
    run = asyncio.create_task(listener.ami.run())
    try:
        if exact:
            await listener.exact()
        yield listener
        assert not run.done(), run.exception()
    finally:
        run.cancel()
        await asyncio.wait([run])
