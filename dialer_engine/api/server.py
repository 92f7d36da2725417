"""The application and the server that runs it in the daemon's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator

import uvicorn
from fastapi import FastAPI

from dialer_engine.api import health
from dialer_engine.errors import Unavailable

_CLOSING_SECONDS = 2


def application(version: str, probes: health.Probes) -> FastAPI:
    """Everything that is served over HTTP."""
    app = FastAPI(title="dialer_engine", version=version, redoc_url=None)
    app.include_router(health.router(probes))
    return app


def listen(bind: str) -> socket.socket:
    """A listening socket on HOST:PORT. Raises Unavailable: a taken port is told before anything starts."""
    host, _, port = bind.rpartition(":")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as exc:
        raise Unavailable("api", f"cannot listen on {bind}: {exc.strerror or exc}") from exc


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
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="uvicorn")
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """uvicorn would take SIGTERM for itself and stop answering /readyz while calls still drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield
