"""A small PBX behind the real ARI wire: HTTP, WebSocket, and the faults that a real Asterisk shows rarely.

It behaves as `test_ari.py` shows that the real one does. A callee does what its number says
(`tests.lab.number`: 2 answers and hangs up, 3 stays, 4 presses keys, 5 rejects, 6 rings for ever); endpoints:
PJSIP/NUMBER@carrier, PJSIP/NUMBER@nocontact (no channel comes of it), Local/NUMBER@from-internal-status.

Below it the other end: an owner who remembers what the client tells him.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from aiohttp import WSMsgType, web

from dialer_engine.ari import Ari, AriConfig, AriEvent, AriState, Connected, Patience, StasisStart
from dialer_engine.errors import Replaced

E = TypeVar("E", bound=AriEvent)
PATIENT = Patience()

CAUSES = {486: 17, 404: 1, 503: 34, 403: 21, 480: 19}
LOSSY = {17: "BUSY", 34: "CONGESTION", 3: "CHANUNAVAIL", 20: "CHANUNAVAIL"}
PLAY_SECONDS = {"sound:beep": 0.2}


class Pbx(Protocol):
    """What a test needs of a PBX, fake or real."""

    @property
    def url(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def password(self) -> str: ...
    async def restart(self) -> None:
        """As after a crash."""


@dataclass
class Channel:
    id: str
    name: str
    app: str = ""
    state: str = "Down"
    in_app: bool = False
    place: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    def json(self) -> dict[str, Any]:
        dialplan = {"context": "", "exten": "", "app_name": "Stasis" if self.in_app else "", **self.place}
        return {"id": self.id, "name": self.name, "state": self.state, "protocol_id": "", "dialplan": dialplan}


@dataclass
class Application:
    name: str
    socket: web.WebSocketResponse | None = None
    transport: Any = None
    allowed: set[str] | None = None
    channels: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)


class FakeAri:
    """The server; its attributes are the faults. Start and stop it as `async with`."""

    username, password = "dialer", "secret"

    def __init__(self) -> None:
        self.version = "22.10.1~fake"
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.silent: set[str] = set()  # requests whose path ends so are never answered
        self.cut: set[str] = set()  # requests whose path ends so are carried out and the connection is cut
        self.reply_delay = 0.0  # between an originate's first events and its answer
        self.booting = False  # everything is 503
        self.refuse_sockets = False  # a socket is closed as soon as it is open
        self.answer_pings = True
        self.channels: dict[str, Channel] = {}
        self.apps: dict[str, Application] = {}
        self.startup_time = ""
        self.sockets_opened = 0
        self._plays: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._conflicted: set[object] = set()  # connections whose thread remembers a conflict
        self._transports: set[Any] = set()
        self._serial = 0
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> FakeAri:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._serial += 1
        self.startup_time = _stamp()
        app = web.Application(middlewares=[self._gate])
        app.add_routes(
            [
                web.get("/ari/events", self._events),
                web.get("/ari/asterisk/info", self._info),
                web.get("/ari/channels", self._list),
                web.post("/ari/channels/create", self._create),
                web.post("/ari/channels/{id}", self._originate),
                web.get("/ari/channels/{id}", self._channel),
                web.delete("/ari/channels/{id}", self._hangup),
                web.post("/ari/channels/{id}/dial", self._dial),
                web.post("/ari/channels/{id}/play/{play}", self._play),
                web.get("/ari/playbacks/{play}", self._playback),
                web.delete("/ari/playbacks/{play}", self._stop_play),
                web.post("/ari/channels/{id}/continue", self._continue),
                web.post("/ari/channels/{id}/variables", self._set_variables),
                web.post("/ari/channels/{id}/variable", self._set_variable),
                web.get("/ari/channels/{id}/variable", self._get_variable),
                web.get("/ari/applications/{app}", self._application),
                web.put("/ari/applications/{app}/eventFilter", self._put_filter),
                web.post("/ari/applications/{app}/subscription", self._subscribe),
            ]
        )
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.05)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """As a crash does it: every connection is cut and no event is sent."""
        self.abort_connections()
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self.channels.clear()
        self.apps.clear()
        self._conflicted.clear()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def abort_connections(self) -> None:
        for transport in self._transports:
            transport.abort()
        self._transports.clear()

    async def close_sockets(self, code: int = 1000) -> None:
        """In good order, as with `websocket_write_timeout` (1011)."""
        for app in [*self.apps.values()]:
            if app.socket is not None:
                await app.socket.close(code=code)

    async def send_raw(self, frame: str | bytes, app: str) -> None:
        """Any frame to an application's socket."""
        socket = self.apps[app].socket
        assert socket is not None
        await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))

    def send_text(self, frame: bytes, app: str) -> None:
        """A text frame that is no UTF-8, which aiohttp itself would not send."""
        transport = self.apps[app].transport
        assert transport is not None
        transport.write(b"\x81\x7e" + len(frame).to_bytes(2, "big") + frame)

    async def send(self, app: Application, event: dict[str, Any]) -> None:
        if app.socket is None or (app.allowed is not None and event["type"] not in app.allowed):
            return
        try:
            await app.socket.send_str(json.dumps({"application": app.name, "timestamp": _stamp(), **event}))
        except ConnectionError:
            app.socket = None

    def posts(self, ending: str = "") -> list[tuple[str, str, dict[str, Any]]]:
        return [request for request in self.requests if request[0] == "POST" and request[1].endswith(ending)]

    # The wire

    @web.middleware
    async def _gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        token = b64encode(f"{self.username}:{self.password}".encode()).decode()
        self._transports.add(request.transport)
        body = await request.json() if request.can_read_body else {}
        self.requests.append((request.method, request.path, {**request.query, **body}))
        if request.headers.get("Authorization") != f"Basic {token}":
            return _error(401, "Authentication required")
        if self.booting:
            return _error(503, "Asterisk not booted")
        if any(request.path.endswith(ending) for ending in self.silent):
            await asyncio.sleep(3600)
        response: web.StreamResponse = await handler(request)
        if any(request.path.endswith(ending) for ending in self.cut) and request.transport is not None:
            request.transport.abort()
        return response

    def _arguments(self) -> dict[str, Any]:
        return self.requests[-1][2]

    async def _events(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(autoping=False, compress=False)
        await socket.prepare(request)
        self.sockets_opened += 1
        app = self.apps.setdefault(request.query["app"], Application(request.query["app"]))
        if app.socket is not None:
            await self.send(app, {"type": "ApplicationReplaced"})
            old, app.socket = app.socket, None
            await old.close()
        if self.refuse_sockets:
            await socket.close()
            return socket
        app.socket, app.transport = socket, request.transport
        async for message in socket:
            if message.type is WSMsgType.PING and self.answer_pings:
                await socket.pong(message.data)
        if app.socket is socket:
            app.socket = None
            if not app.channels and not app.sources:
                self.apps.pop(app.name, None)
        return socket

    async def _info(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"status": {"startup_time": self.startup_time}, "system": {"version": self.version}}
        )

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response([channel.json() for channel in self.channels.values()])

    async def _originate(self, request: web.Request) -> web.Response:
        arguments = self._arguments()
        made = self._make(request, request.match_info["id"], arguments)
        if isinstance(made, web.Response):
            return made
        self._start(made, self._call(made, arguments["endpoint"], int(arguments["timeout"])))
        await asyncio.sleep(self.reply_delay)
        return web.json_response(made.json())

    async def _create(self, request: web.Request) -> web.Response:
        arguments = self._arguments()
        made = self._make(request, arguments["channelId"], arguments)
        if isinstance(made, web.Response):
            return made
        made.in_app = True
        made.place["endpoint"] = arguments["endpoint"]
        await self._tell(made, {"type": "StasisStart", "args": []})
        return web.json_response(made.json())

    def _make(self, request: web.Request, channel_id: str, arguments: dict[str, Any]) -> Channel | web.Response:
        endpoint = arguments.get("endpoint", "")
        if not endpoint or not (arguments.get("app") or arguments.get("extension")):
            return _error(400, "Application or extension must be specified")
        if any(live.lower().startswith(channel_id.lower()) for live in self.channels):
            self._conflicted.add(request.transport)
        elif endpoint.endswith("@carrier") or endpoint.endswith("@from-internal-status"):
            app = arguments.get("app", "")
            channel = Channel(channel_id, f"{endpoint}-1", app)
            channel.variables.update(arguments.get("variables", {}))
            channel.place = {key: arguments[key] for key in ("context",) if key in arguments}
            channel.place["exten"] = arguments.get("extension", "")
            self.channels[channel_id] = channel
            if app:
                self.apps.setdefault(app, Application(app)).channels.add(channel_id)
            if endpoint.startswith("Local/"):
                other = Channel(arguments["otherChannelId"], f"{endpoint}-1;2", state="Ring")
                self.channels[other.id] = other
            return channel
        if request.transport in self._conflicted:
            return _error(409, "Channel with given unique ID already exists")
        return web.json_response({"error": "Allocation failed"}, status=500)

    async def _channel(self, request: web.Request) -> web.Response:
        channel = self.channels.get(request.match_info["id"])
        return web.json_response(channel.json()) if channel else _error(404, "Channel not found")

    async def _hangup(self, request: web.Request) -> web.Response:
        channel = self.channels.get(request.match_info["id"])
        if channel is None:
            return _error(404, "Channel not found")
        if channel.task is not None:
            channel.task.cancel()
        self._start(
            None, self._end(channel, {"busy": 17, "no_answer": 19}.get(self._arguments()["reason"], 16))
        )
        return web.Response(status=204)

    async def _dial(self, request: web.Request) -> web.Response:
        channel = self._in_app(request)
        if isinstance(channel, web.Response):
            return channel
        endpoint = channel.place["endpoint"]
        self._start(channel, self._call(channel, endpoint, int(self._arguments()["timeout"])))
        return web.Response(status=204)

    async def _play(self, request: web.Request) -> web.Response:
        channel = self._in_app(request)
        if isinstance(channel, web.Response):
            return channel
        seconds = sum(PLAY_SECONDS.get(media, 1.0) for media in self._arguments()["media"])
        play = request.match_info["play"]
        self._plays[play] = self._start(None, self._playing(channel, play, seconds))
        return web.json_response({"id": play}, status=201)

    async def _playing(self, channel: Channel, play: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            self._plays.pop(play, None)
            playback = {"id": play, "target_uri": f"channel:{channel.id}", "state": "done"}
            self._start(None, self._tell(channel, {"type": "PlaybackFinished", "playback": playback}))

    async def _playback(self, request: web.Request) -> web.Response:
        known = request.match_info["play"] in self._plays
        return web.json_response({"state": "playing"}) if known else _error(404, "Playback not found")

    async def _stop_play(self, request: web.Request) -> web.Response:
        task = self._plays.get(request.match_info["play"])
        if task is None:
            return _error(404, "Playback not found")
        task.cancel()
        return web.Response(status=204)

    async def _continue(self, request: web.Request) -> web.Response:
        channel = self._in_app(request)
        if isinstance(channel, web.Response):
            return channel
        if channel.task is not None:
            channel.task.cancel()
        self._start(None, self._end(channel, 21))
        return web.Response(status=204)

    async def _set_variables(self, request: web.Request) -> web.Response:
        channel = self._in_app(request)
        if isinstance(channel, web.Response):
            return channel
        channel.variables.update(self._arguments()["variables"])
        return web.Response(status=204)

    async def _set_variable(self, request: web.Request) -> web.Response:
        channel = self._in_app(request)
        if isinstance(channel, web.Response):
            return channel
        channel.variables[self._arguments()["variable"]] = self._arguments()["value"]
        return web.Response(status=204)

    async def _get_variable(self, request: web.Request) -> web.Response:
        channel = self.channels.get(request.match_info["id"])
        name = self._arguments()["variable"]
        if channel is None or name not in channel.variables:
            return _error(404, "Provided variable was not found")
        return web.json_response({"value": channel.variables[name]})

    def _in_app(self, request: web.Request) -> Channel | web.Response:
        channel = self.channels.get(request.match_info["id"])
        if channel is None:
            return _error(404, "Channel not found")
        return channel if channel.in_app else _error(409, "Channel not in Stasis application")

    async def _application(self, request: web.Request) -> web.Response:
        app = self.apps.get(request.match_info["app"])
        if app is None:
            return _error(404, "Application not found")
        return web.json_response({"name": app.name, "channel_ids": sorted(app.channels)})

    async def _put_filter(self, request: web.Request) -> web.Response:
        app = self.apps.get(request.match_info["app"])
        if app is None:
            return _error(404, "Application not found")
        app.allowed = {entry["type"] for entry in self._arguments()["allowed"]}
        return web.json_response({})

    async def _subscribe(self, request: web.Request) -> web.Response:
        app = self.apps.get(request.match_info["app"])
        if app is None:
            return _error(404, "Application not found")
        kind, _, name = self._arguments()["eventSource"].partition(":")
        if kind == "channel" and name in self.channels:
            app.channels.add(name)
        elif (kind, name) == ("endpoint", "PJSIP/carrier"):
            app.sources.add(name)
        else:
            return _error(422, "Event source does not exist")
        return web.json_response({})

    # The calls

    def _start(self, channel: Channel | None, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if channel is not None:
            channel.task = task
        return task

    async def _tell(self, channel: Channel, event: dict[str, Any]) -> None:
        """To the applications that follow the channel, or the endpoint it belongs to."""
        at = _stamp()
        for app in [*self.apps.values()]:
            subscriptions = (channel.id in app.channels) + bool(
                app.sources and channel.name.startswith("PJSIP/")
            )
            for _ in range(subscriptions):  # each sends the event, and they are the same to the byte
                await self.send(app, {"channel": channel.json(), "timestamp": at, **event})

    async def _dialed(self, channel: Channel, status: str) -> None:
        await self._tell(channel, {"type": "Dial", "peer": channel.json(), "dialstatus": status})

    async def _changed(self, channel: Channel, state: str) -> None:
        channel.state = state
        await self._tell(channel, {"type": "ChannelStateChange"})

    async def _call(self, channel: Channel, endpoint: str, timeout_seconds: int) -> None:
        number = endpoint.partition("/")[2].partition("@")[0]
        kind, ring, detail = number[0], int(number[1:3]) / 10, int(number[3:6])
        await self._dialed(channel, "")
        if endpoint.startswith("Local/"):
            await self._far_half(channel, ring, detail)
            return
        if ring or kind == "6":
            await self._changed(channel, "Ringing")
            await self._dialed(channel, "RINGING")
        if kind == "6":
            await asyncio.sleep(timeout_seconds)
            await self._end(channel, 19, 480)
            return
        await asyncio.sleep(ring)
        if kind == "5":
            await self._dialed(channel, LOSSY.get(CAUSES[detail], "NOANSWER"))
            await self._end(channel, CAUSES[detail], detail)
            return
        await self._changed(channel, "Up")
        await self._dialed(channel, "ANSWER")
        answered_in = channel.app or (
            channel.place.get("context") == "dialer-answered" and channel.place["exten"]
        )
        if answered_in and not channel.in_app:
            await self._enter(channel, answered_in, [] if channel.app else ["answered"])
        if kind == "2":
            await asyncio.sleep(detail / 10)
            await self._end(channel, 16)
        elif kind == "4":
            await asyncio.sleep(int(number[3]) / 2)
            for digit in number[5 : 5 + int(number[4])]:
                await self._tell(channel, {"type": "ChannelDtmfReceived", "digit": digit, "duration_ms": 100})

    async def _enter(self, channel: Channel, name: str, args: list[str]) -> None:
        app = self.apps.get(name)
        if app is None or app.socket is None:  # a registered application that nobody listens to hangs up
            await self._end(channel, 16)
            return
        channel.in_app = True
        app.channels.add(channel.id)
        await self._tell(channel, {"type": "StasisStart", "args": args})

    async def _far_half(self, channel: Channel, ring: float, code: int) -> None:
        """Through the dialplan, which tells its own word about the call and passes the cause on."""
        far = next(other for other in self.channels.values() if other.name == f"{channel.name};2")
        leg = Channel(f"far.{channel.id}", "PJSIP/carrier-2")
        await asyncio.sleep(ring)
        for status in ("", LOSSY.get(CAUSES[code], "NOANSWER")):
            await self._tell(
                far, {"type": "Dial", "peer": leg.json(), "caller": far.json(), "dialstatus": status}
            )
        told = {"eventname": "CALLSTATUS", "Uniqueid": channel.id, "V": f"{status}-{CAUSES[code]}"}
        await self._tell(far, {"type": "ChannelUserevent", "eventname": "CALLSTATUS", "userevent": told})
        await self._end(channel, 0)
        await self._end(far, CAUSES[code])

    async def _end(self, channel: Channel, cause: int, sip_code: int | None = None) -> None:
        if self.channels.pop(channel.id, None) is None:
            return
        code = {} if sip_code is None else {"tech_cause": sip_code}
        await self._tell(channel, {"type": "ChannelHangupRequest", "cause": cause, **code})
        if channel.in_app:
            channel.in_app = False
            await self._tell(channel, {"type": "StasisEnd"})
        await self._tell(channel, {"type": "ChannelDestroyed", "cause": cause, "cause_txt": "", **code})
        for app in self.apps.values():
            app.channels.discard(channel.id)


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)


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
