"""Health and metrics as a load balancer and Prometheus see them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from dialer_engine import api
from dialer_engine.errors import Unavailable
from tests.ports.api_client import Client, served, without_redis

TOKEN = "let me in"


def probes(*, alive: str | None = None, ready: str | None = None, token: str | None = None) -> api.Probes:
    return api.Probes(
        alive=lambda: alive,
        ready=lambda: ready,
        metrics=lambda: (b"dialer 1\n", "text/plain; version=1"),
        metrics_token=token,
    )


@asynccontextmanager
async def asking(asked: api.Probes) -> AsyncIterator[Client]:
    """None of these needs a Redis, and none may wait for one."""
    async with without_redis() as store, served(store, probes=asked) as client:
        yield client


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_all_is_well(path: str) -> None:
    async with asking(probes()) as client:
        assert await client.get(path) == {"status": "ok"}


async def test_alive_and_ready_are_two_things() -> None:
    async with asking(probes(ready="Redis: it is full")) as client:
        assert (await client.ask("GET", "/healthz")).status == 200
        not_ready = await client.ask("GET", "/readyz")
        assert (not_ready.status, not_ready.json["reason"]) == (503, "Redis: it is full")


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
    async with asking(probes(token=token)) as client:
        answer = await client.ask("GET", "/metrics", headers=headers)
        assert answer.status == status
        if status == 200:
            assert answer.text == "dialer 1\n"


@pytest.mark.parametrize("bind", [lambda port: f"127.0.0.1:{port}", lambda port: f"localhost:{port}"])
def test_a_taken_port_is_told_at_once(bind: Callable[[int], str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Unavailable, match="cannot listen"):
        api.listen(bind(taken.getsockname()[1]))
