"""The model behind Asterisk's own wire: HTTP and WebSocket on loopback, with the faults of a real one.

Beside Asterisk's paths there are some of its own, under /simulator (see `control`).
"""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import parse_qsl, unquote

import msgspec
import orjson
from aiohttp import WSMsgType, web

from dialer_engine.errors import Unavailable
from dialer_engine.simulator.agents import Agent
from dialer_engine.simulator.ami import Door
from dialer_engine.simulator.callees import Population
from dialer_engine.simulator.channels import App
from dialer_engine.simulator.control import control
from dialer_engine.simulator.faults import Faults, happens, names
from dialer_engine.simulator.pbx import QUEUES, Pbx
from dialer_engine.simulator.queues import QueueRules
from dialer_engine.simulator.requests import Refused, Taken, Unmade
from dialer_engine.simulator.rest import carry_out
from dialer_engine.simulator.world import World

HOST = "127.0.0.1"
LONGEST_BACKLOG = 64 * 2**20
"""Bytes of events that a reader may leave unread; then Asterisk closes the socket (websocket_write_timeout)."""
GOODBYE_SECONDS = 1.0
BODY_LIMIT = 40_960


class Simulator:
    """`async with` it: from then on `url` answers as an Asterisk, and its AMI at `ami_port`. A port of 0 takes any that
    is free. User and password are those of both.

    What is random is so by `seed`; `speed` divides what callees and sounds take. To `world_log` is appended what the
    callees write down (see `world`), to `fault_log` which events were lost, doubled or delayed, one a line:
    `epoch seconds|what|type|channel|seconds late`. `on_request` is told of every request: method, path, what it
    asks. Raises Unavailable when the port is taken.
    """

    def __init__(
        self,
        *,
        username: str = "dialer",
        password: str = "simulated",
        port: int = 0,
        ami_port: int = 0,
        speed: float = 1.0,
        seed: int = 0,
        population: Population | None = None,
        every_number: bool = False,
        dialplan: bool = True,
        trunks: Sequence[str] = (),
        queues: Mapping[str, QueueRules] = QUEUES,
        agents: Sequence[Agent] = (),
        world_log: Path | None = None,
        fault_log: Path | None = None,
        on_request: Callable[[str, str, Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.username, self.password, self.port, self.ami_port = username, password, port, ami_port
        self.faults = Faults()
        self.sockets_opened = 0
        self._world_log, self._fault_log = Log(world_log), Log(fault_log)
        self.pbx = Pbx(
            now=time.time(),
            seed=seed,
            speed=speed,
            population=population,
            every_number=every_number,
            dialplan=dialplan,
            trunks=trunks,
            queues=queues,
            agents=agents,
            world=World(write=self._world_log.write if world_log is not None else None),
        )
        self._on_request = on_request
        self._dice = random.Random(seed)
        self._sockets: dict[str, EventSocket] = {}
        self.ami = Door(
            self.pbx, self.faults, self._dice, username=username, secret=password, turned=self._turn
        )
        self._conflicted: set[object] = set()  # connections whose thread remembers a conflict
        self._timer: asyncio.TimerHandle | None = None
        self._is_flushing = False
        self._server: web.Server | None = None
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, as an Asterisk that has just been started."""
        self._world_log.open()
        self._fault_log.open()
        self.pbx.restart(time.time())
        self._server = web.Server(self._answer, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(self._server, handle_signals=False, shutdown_timeout=0.05)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, HOST, self.port, reuse_address=True).start()
            self.ami_port = await self.ami.open(HOST, self.ami_port)
        except OSError as exc:
            await self._runner.cleanup()
            ports = f"{self.port} and {self.ami_port}"
            raise Unavailable("simulator", f"cannot listen on {HOST}, {ports}: {exc.strerror}") from exc
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """As a crash does it: every connection is cut and nobody is told."""
        self._crash()
        await self.ami.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._world_log.close()
        self._fault_log.close()

    def restart(self) -> None:
        """As a crash and a start."""
        self._crash()

    def _crash(self) -> None:
        self._flush()
        self.cut_connections()
        self.pbx.restart(time.time())
        self._sockets.clear()
        self._conflicted.clear()
        self._turn()

    # Deeds

    def call_in(self, dialled: str, caller: str, stay_seconds: float) -> None:
        """Somebody calls from outside and hangs up so long after he is answered."""
        self.pbx.call_in(time.time(), dialled, caller, stay_seconds)
        self._turn()

    def cut_connections(self) -> None:
        """All of them, in the middle of whatever they do."""
        for connection in self._server.connections if self._server is not None else []:
            if connection.transport is not None:
                connection.transport.abort()
        self.ami.cut()

    def close_sockets(self, code: int = 1000) -> None:
        """Every event socket, in good order."""
        for socket in [*self._sockets.values()]:
            socket.close(code)

    def send(self, app: str, frame: bytes, opcode: int = WSMsgType.TEXT) -> None:
        """Any frame to an application's event socket."""
        self._sockets[app].write(framed(frame, opcode))

    # One turn

    def _turn(self) -> None:
        """The model has moved: what it said goes out when the loop has turned, and it is moved again when something
        is due. A write costs more than anything else here, so one is made for all that happens in a turn."""
        if not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self._flush)
        self._wind()

    def _flush(self) -> None:
        self._is_flushing = False
        for socket in self._sockets.values():
            socket.flush()
        self.ami.flush()
        self._world_log.flush()
        self._fault_log.flush()

    def _wind(self) -> None:
        due = self.pbx.next_at
        if due is None or self._server is None:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, due - time.time())
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.pbx.advance(time.time())
        self._turn()

    # Requests

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        asked: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True)) if query else {}
        try:
            self._authenticate(request, asked)
            if request.can_read_body:
                asked |= _decoded(await request.read())
            if self._on_request is not None:
                self._on_request(request.method, path, asked)
            return await self._routed(request, path, asked)
        except Refused as refused:
            return _reply(refused.status, refused.body)

    async def _routed(
        self, request: web.BaseRequest, path: str, asked: Mapping[str, Any]
    ) -> web.StreamResponse:
        parts = [unquote(part) if "%" in part else part for part in path.strip("/").split("/")]
        match parts:
            case "ari", *rest:
                return await self._ari(request, path, rest, asked)
            case "simulator", *rest:
                return self.control(request.method, rest, asked)
        raise Refused(404, "Resource not found")

    def _authenticate(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> None:
        secret = f"{self.username}:{self.password}"
        given = request.headers.get("Authorization", "")
        if given != f"Basic {base64.b64encode(secret.encode()).decode()}" and asked.get("api_key") != secret:
            raise Refused(401, "Authentication required")

    async def _ari(
        self, request: web.BaseRequest, path: str, parts: Sequence[str], asked: Mapping[str, Any]
    ) -> web.StreamResponse:
        faults, dice = self.faults, self._dice
        if faults.booting:
            raise Refused(503, "Asterisk not booted", key="error")
        if parts == ["events"]:
            return await self._events(request, asked)
        if names(path, faults.silent):
            await asyncio.Event().wait()
        if happens(faults.requests_lost, dice):
            return _cut(request)
        if happens(faults.requests_refused, dice):
            raise Refused(500, "Internal Server Error", key="error")
        status, body = self._carry_out(request, parts, asked)
        if faults.reply_seconds:
            await asyncio.sleep(faults.reply_seconds)
        if names(path, faults.cut) or happens(faults.replies_lost, dice):
            return _cut(request)
        if names(path, faults.garbled):
            return web.Response(body=b'{"no', content_type="application/json")
        return _reply(status, body)

    def _carry_out(
        self, request: web.BaseRequest, parts: Sequence[str], asked: Mapping[str, Any]
    ) -> tuple[int, object]:
        """Asterisk's errno of an old conflict sticks to the connection's thread and colours every later failure."""
        try:
            return carry_out(self.pbx, time.time(), request.method, parts, asked)
        except Taken:
            self._conflicted.add(request.transport)
            raise
        except Unmade as unmade:
            if request.transport in self._conflicted:
                raise Taken from unmade
            raise
        finally:
            self._turn()

    # Events

    async def _events(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.StreamResponse:
        name = str(asked.get("app") or "")
        if not name:
            raise Refused(400, "HTTP request is missing param: [app]", key="error")
        response = web.WebSocketResponse(autoping=False, compress=False)
        await response.prepare(request)
        self.sockets_opened += 1
        transport = request.transport
        if self.faults.refuse_sockets or transport is None:
            await response.close()
            return response
        socket = EventSocket(transport, self.faults, self._dice, self._fault_log)
        if self.faults.deaf_sockets:
            self.faults.deaf_sockets -= 1
            socket.is_deaf = True
        everything = str(asked.get("subscribeAll", "")).lower() in ("true", "yes", "1")
        app = self.pbx.connect(time.time(), name, socket.hear, everything=everything)
        if name in self._sockets:
            self._sockets[name].flush()  # it has been told that it is replaced; Asterisk leaves it open
        self._sockets[name] = socket
        self._turn()
        try:
            async for message in response:
                if message.type is WSMsgType.PING and self.faults.answer_pings and not self.faults.half_open:
                    socket.write(framed(message.data, WSMsgType.PONG))
        finally:
            self._lose(name, socket, app)
        return response

    def _lose(self, name: str, socket: EventSocket, app: App) -> None:
        if self._sockets.get(name) is socket:
            del self._sockets[name]
        self.pbx.disconnect(time.time(), app, socket.hear)
        self._turn()

    # What a real one has not

    def control(self, method: str, parts: Sequence[str], asked: Mapping[str, Any]) -> web.StreamResponse:
        answer = control(self, method, parts, asked)
        self._turn()
        if isinstance(answer, bytes):
            return web.Response(body=answer, content_type="application/x-ndjson")
        return _reply(204 if answer is None else 200, answer)

    def set_faults(self, changes: Mapping[str, Any]) -> None:
        """Those named. Raises Refused with the place of a mistake."""
        wanted = {**msgspec.to_builtins(self.faults), **changes}
        try:
            checked = msgspec.convert(wanted, Faults)
        except msgspec.ValidationError as exc:
            raise Refused(400, str(exc)) from exc
        for name in Faults.__struct_fields__:  # the sockets hold this very object
            setattr(self.faults, name, getattr(checked, name))
        self._turn()


class Log:
    """A file that is appended to, once for all that happens in a turn; None: there is none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines: list[str] = []
        self._file: IO[str] | None = None

    def open(self) -> None:
        if self._path is not None:
            self._file = self._path.open("a", encoding="utf-8")

    def write(self, line: str) -> None:
        if self._path is not None:
            self._lines.append(line)

    def flush(self) -> None:
        if self._lines and self._file is not None:
            self._file.write("".join(self._lines))
            self._file.flush()
            self._lines.clear()

    def close(self) -> None:
        if self._file is not None:
            self.flush()
            self._file.close()
            self._file = None


class EventSocket:
    """One event socket: what the model says in one turn goes out in one piece, faults applied.

    Frames are put together here and not by aiohttp, whose way of sending is a coroutine for each.
    """

    def __init__(self, transport: asyncio.Transport, faults: Faults, dice: random.Random, log: Log) -> None:
        self._transport = transport
        self._faults = faults
        self._dice = dice
        self._log = log
        self._pieces: list[bytes] = []
        self.is_deaf = False

    def hear(self, kind: str, frame: bytes) -> None:
        """An event; the ear of an application."""
        if self.is_deaf:
            return
        if not self._faults.spoils(kind):
            self._pieces.append(framed(frame))
            return
        faults, dice = self._faults, self._dice
        if happens(faults.events_lost, dice):
            self._note("lost", kind, frame, 0.0)
            return
        doubled = happens(faults.events_doubled, dice)
        if doubled:
            self._note("doubled", kind, frame, 0.0)
        for _ in range(1 + doubled):
            if happens(faults.events_delayed, dice):
                seconds = dice.uniform(0.0, faults.delay_seconds)
                self._note("delayed", kind, frame, seconds)
                asyncio.get_running_loop().call_later(seconds, self.write, framed(frame))
            else:
                self._pieces.append(framed(frame))

    def _note(self, what: str, kind: str, frame: bytes, seconds: float) -> None:
        self._log.write(f"{time.time():.3f}|{what}|{kind}|{_about(frame)}|{seconds:.3f}\n")

    def flush(self) -> None:
        if self._pieces and not self._faults.half_open:
            data = b"".join(self._pieces)
            self._pieces.clear()
            self.write(data)

    def write(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > LONGEST_BACKLOG:
            self._transport.abort()

    def close(self, code: int) -> None:
        """In good order; who does not say goodbye in turn is cut off."""
        self.write(framed(code.to_bytes(2, "big"), WSMsgType.CLOSE))
        asyncio.get_running_loop().call_later(GOODBYE_SECONDS, self._transport.abort)


def framed(payload: bytes, opcode: int = WSMsgType.TEXT) -> bytes:
    """A whole WebSocket frame, as a server sends it (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")
    return head + payload


def _about(frame: bytes) -> str:
    """The channel an event is about."""
    event = orjson.loads(frame)
    if "playback" in event:
        return str(event["playback"]["target_uri"]).removeprefix("channel:")
    return str((event.get("channel") or event.get("peer") or {}).get("id", ""))


def _decoded(body: bytes) -> dict[str, Any]:
    if len(body) > BODY_LIMIT:
        raise Refused(413, "Request Entity Too Large")
    try:
        asked = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as exc:
        raise Refused(400, "Error parsing request body") from exc
    if not isinstance(asked, dict):
        raise Refused(400, "Error parsing request body")
    return asked


def _reply(status: int, body: object) -> web.Response:
    if body is None:
        return web.Response(status=status)
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")


def _cut(request: web.BaseRequest) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
