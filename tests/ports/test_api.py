"""Health and metrics as a load balancer and Prometheus see them."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

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


async def closed_after(url: str, first: bytes, drip: bytes = b"") -> tuple[float, bytes]:
    """How long a connection lives of which `drip` comes again and again, and what was answered."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    began, answer = time.monotonic(), b""
    writer.write(first)
    dripping = asyncio.create_task(drip_into(writer, drip))
    try:
        async with asyncio.timeout(15):
            while part := await reader.read(65536):
                answer += part
    except ConnectionResetError:
        pass
    finally:
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        writer.close()
    return time.monotonic() - began, answer


async def drip_into(writer: asyncio.StreamWriter, drip: bytes) -> None:
    while drip:
        await asyncio.sleep(0.5)
        writer.write(drip)
        await writer.drain()


async def test_who_does_not_ask_is_not_waited_for() -> None:
    form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 500\r\n\r\n"
    async with asking(probes()) as client:
        found = await asyncio.gather(
            closed_after(client.url, b""),
            closed_after(client.url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n"),
            closed_after(client.url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"G"),
            closed_after(client.url, b"POST /token HTTP/1.1\r\nHost: x\r\n" + form, b"x"),
        )
    assert [answer.partition(b"\r\n")[0] for _, answer in found] == [
        b"",
        b"",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 400 Bad Request",
    ]
    assert b"did not come within 5 seconds" in found[-1][1]
    assert all(4 < seconds < 12 for seconds, _ in found), found


async def test_who_does_not_read_his_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else anybody could hold all connections that there may be, with a file each, for as long as he likes."""
    monkeypatch.setattr("dialer_engine.api.server.UNREAD_SECONDS", 1)
    async with asking(probes()) as client:
        host, _, port = client.url.removeprefix("http://").partition(":")
        before = open_files()
        with socket.socket() as idle:
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            idle.setblocking(False)
            await asyncio.get_running_loop().sock_connect(idle, (host, int(port)))
            idle.send(b"GET /docs-assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
            await until(lambda: open_files() > before + 1)  # ours; then the server's, too
            await until(lambda: open_files() == before + 1)


async def until(so: Callable[[], bool]) -> None:
    for _ in range(100):
        if so():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("not within ten seconds")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


CROWD = """
import select, socket, sys, time
crowd = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(160)]
until, refused = time.monotonic() + 10, set()
while len(refused) < 10 and time.monotonic() < until:
    refused.update(select.select([one for one in crowd if one not in refused], [], [], 1)[0])
print(len(refused))
"""


async def test_a_crowd_of_connections_leaves_files_for_others() -> None:
    """From a process of its own: here they would need as many files again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with asking(probes()) as client:
        with capture_logs() as logged:
            resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
            try:
                command = (sys.executable, "-c", CROWD, client.url.rpartition(":")[2])
                crowd = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
                said, _ = await crowd.communicate()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert int(said) == 10
        assert [(line["event"], line["most"]) for line in logged] == [("too many connections", 150)]
        assert (await client.ask("GET", "/healthz")).status == 200
