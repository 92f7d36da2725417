"""Health and metrics as a load balancer and Prometheus see them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from dialer_engine import api
from dialer_engine.errors import Unavailable

TOKEN = "let me in"


def probes(*, alive: str | None = None, ready: str | None = None, token: str | None = None) -> api.Probes:
    return api.Probes(
        alive=lambda: alive,
        ready=lambda: ready,
        metrics=lambda: (b"dialer 1\n", "text/plain; version=1"),
        metrics_token=token,
    )


@asynccontextmanager
async def served(asked: api.Probes) -> AsyncIterator[aiohttp.ClientSession]:
    listener = api.listen("127.0.0.1:0")
    port = listener.getsockname()[1]
    serving = asyncio.create_task(api.serve(api.application("1", asked), listener))
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_all_is_well(path: str) -> None:
    async with served(probes()) as session, session.get(path) as reply:
        assert (reply.status, await reply.json()) == (200, {"status": "ok"})


async def test_alive_and_ready_are_two_things() -> None:
    async with served(probes(ready="Redis: it is full")) as session:
        async with session.get("/healthz") as reply:
            assert reply.status == 200
        async with session.get("/readyz") as reply:
            assert reply.status == 503
            assert (await reply.json())["reason"] == "Redis: it is full"


@pytest.mark.parametrize(
    ("headers", "token", "status"),
    [
        ({}, None, 200),
        ({"X-Forwarded-For": "192.0.2.1"}, None, 403),
        ({"X-Forwarded-For": "192.0.2.1", "Authorization": f"Bearer {TOKEN}"}, TOKEN, 200),
        ({"X-Forwarded-For": "192.0.2.1", "Authorization": "Bearer guess"}, TOKEN, 403),
        ({"X-Forwarded-For": "192.0.2.1", "Authorization": "Bearer "}, None, 403),
    ],
)
async def test_metrics_are_for_loopback_or_the_token(
    headers: dict[str, str], token: str | None, status: int
) -> None:
    async with served(probes(token=token)) as session, session.get("/metrics", headers=headers) as reply:
        assert reply.status == status
        if status == 200:
            assert await reply.text() == "dialer 1\n"


async def test_the_description_names_what_is_served() -> None:
    async with served(probes()) as session, session.get("/openapi.json") as reply:
        assert {"/healthz", "/readyz", "/metrics"} <= (await reply.json())["paths"].keys()


@pytest.mark.parametrize("bind", [lambda port: f"127.0.0.1:{port}", lambda port: f"localhost:{port}"])
def test_a_taken_port_is_told_at_once(bind: Callable[[int], str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Unavailable, match="cannot listen"):
        api.listen(bind(taken.getsockname()[1]))
