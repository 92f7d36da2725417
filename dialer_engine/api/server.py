"""The application and the server that runs it in the daemon's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator

import uvicorn
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from dialer_engine.api import (
    call_lists,
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
    for room in (campaigns, call_lists, ivrs, do_not_call, one_number, events, operation):
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
    return listener


async def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve until cancelled; then open requests get two seconds."""
    server = _Server(
        uvicorn.Config(
            app,
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
