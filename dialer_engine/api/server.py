"""The application and the server that runs it in the daemon's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable, Generator
from typing import ClassVar

import uvicorn
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from uvicorn.protocols.http.h11_impl import H11Protocol

from dialer_engine import log
from dialer_engine.api import (
    call_lists,
    calls,
    campaigns,
    do_not_call,
    document,
    events,
    health,
    ivrs,
    one_number,
    operation,
    problems,
    token,
)
from dialer_engine.api.issuer import Issuer
from dialer_engine.config import ApiSettings, OidcSettings
from dialer_engine.core.compliance import NumberPolicy
from dialer_engine.errors import Unavailable
from dialer_engine.store import Store

Application = FastAPI

_CLOSING_SECONDS = 2
_UNSERVED_SECONDS = 5
"""How long a connection may be open without a whole request, the first one or the next."""
UNREAD_SECONDS = 60
"""How long an answer may wait for a client that takes nothing of it, or is not there any more."""
_MOST_CONNECTIONS = 10_000
_TOLD_SECONDS = 10.0

_log = log.get("api")


def application(
    version: str,
    probes: health.Probes,
    *,
    store: Store,
    numbers: Callable[[], NumberPolicy],
    tokens: ApiSettings | None = None,
    oidc: OidcSettings | None = None,
) -> FastAPI:
    """Everything that is served over HTTP. `numbers` is asked each time, for a reload may change the policy.

    tokens: how long those of POST /token are good. oidc: an outside issuer to trust. None: the defaults.
    """
    app = FastAPI(
        title="dialer_engine",
        version=version,
        openapi_url=None,  # document.install serves it
        redirect_slashes=False,
        generate_unique_id_function=document.operation_id,
        responses={422: {}},  # FastAPI would describe its own; document.install describes ours
    )
    app.state.store = store
    app.state.numbers = numbers
    app.state.issuer = Issuer(oidc) if oidc and oidc.issuer else None
    problems.install(app)
    for room in (campaigns, calls, call_lists, ivrs, do_not_call, one_number, events, operation):
        app.include_router(room.routes)
    app.include_router(token.routes(tokens or ApiSettings()))
    app.include_router(health.router(probes))
    document.install(app, *call_lists.SHAPES, *do_not_call.SHAPES)
    for _ in iter_route_contexts(app.routes):  # FastAPI would make them at the first request
        pass
    return app


def listen(bind: str) -> socket.socket:
    """A listening socket on HOST:PORT. Raises Unavailable: a taken port is told before anything starts."""
    host, _, port = bind.rpartition(":")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=128)
    except OSError as exc:
        raise Unavailable("api", f"cannot listen on {bind}: {exc.strerror or exc}") from exc
    # Inherited by what it accepts. An answer is two writes, the second of which would wait 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux. It sees what is taken; we would see room for a lot more.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)
    return listener


async def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve until cancelled; then open requests get two seconds."""
    server = _Server(
        uvicorn.Config(
            app,
            http=_Connection,
            timeout_keep_alive=_UNSERVED_SECONDS,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_CLOSING_SECONDS,
        )
    )
    app.state.closing = asyncio.Event()  # what would never end ends then
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="uvicorn")
    try:
        await asyncio.shield(serving)
    finally:
        app.state.closing.set()
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """uvicorn would take SIGTERM for itself and stop answering /readyz while calls still drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _Connection(H11Protocol):
    """uvicorn waits for ever for a request that does not come, and takes connections while there are files.

    A connection on which nobody is served is closed in time. No more are open than half of the files the process
    may have open: the others are for Redis and the PBX.
    """

    _told_at: ClassVar[float] = float("-inf")
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        most = _most_connections()
        if len(self.connections) <= most:
            self._watch()
            return
        transport.close()
        if self.loop.time() - _Connection._told_at > _TOLD_SECONDS:
            _Connection._told_at = self.loop.time()
            _log.warning("too many connections", most=most, address=self.client and self.client[0])

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(_UNSERVED_SECONDS, self.transport.close)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _most_connections() -> int:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(files // 2, _MOST_CONNECTIONS)
