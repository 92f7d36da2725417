"""The outgoing client against real servers that answer well, late, too much, or elsewhere."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from dialer_engine.errors import Rejected, Unavailable
from dialer_engine.http import HttpClient
from tests.ports.web_server import serving

LIMIT_BYTES = 1000
DEADLINE_SECONDS = 0.3


async def echo(request: web.Request) -> web.Response:
    body = await request.read()
    return web.json_response(
        {"method": request.method, "headers": dict(request.headers), "body": body.decode()},
        headers={"X-Odd": "1"},
    )


async def late(request: web.Request) -> web.Response:
    await asyncio.sleep(5)
    return web.Response()


async def dripping(request: web.Request) -> web.StreamResponse:
    """Never silent for long, never done."""
    reply = web.StreamResponse()
    await reply.prepare(request)
    while True:
        await reply.write(b".")
        await asyncio.sleep(0.05)


async def long(request: web.Request) -> web.Response:
    return web.Response(body=b"x" * int(request.query["bytes"]))


async def packed(request: web.Request) -> web.Response:
    """Whatever was asked for."""
    return web.Response(body=gzip.compress(b"x" * 10_000_000), headers={"Content-Encoding": "gzip"})


async def elsewhere(request: web.Request) -> web.Response:
    raise web.HTTPFound("http://localhost:1/secret")


async def cookie(request: web.Request) -> web.Response:
    reply = web.Response(text=request.headers.get("Cookie", "none"))
    reply.set_cookie("who", "me")
    return reply


@pytest.fixture
async def place() -> AsyncIterator[str]:
    app = web.Application()
    for handler in (echo, late, dripping, long, packed, elsewhere, cookie):
        app.router.add_route("*", f"/{handler.__name__}", handler)
    async with serving(app) as address:
        yield address


@pytest.fixture
async def client(place: str) -> AsyncIterator[HttpClient]:
    limits = {"deadline_seconds": DEADLINE_SECONDS}
    async with HttpClient([place], limit_bytes=LIMIT_BYTES, **limits) as opened:
        yield opened


async def test_a_request_and_its_answer(client: HttpClient, place: str) -> None:
    reply = await client.send("POST", f"{place}/echo?a=1", headers={"X-Mine": "yes"}, body=b"hello")
    assert (reply.status, reply.headers["x-odd"]) == (200, "1")
    assert b'"method": "POST"' in reply.body
    assert b'"X-Mine": "yes"' in reply.body
    assert b'"body": "hello"' in reply.body


@pytest.mark.parametrize("path", ["late", "dripping"])
async def test_the_deadline_holds_for_all_of_it(client: HttpClient, place: str, path: str) -> None:
    began_at = time.monotonic()
    with pytest.raises(Unavailable, match=r"within 0\.3 s"):
        await client.send("GET", f"{place}/{path}")
    assert time.monotonic() - began_at < 10 * DEADLINE_SECONDS


async def test_an_answer_may_be_so_long_and_not_longer(client: HttpClient, place: str) -> None:
    assert len((await client.send("GET", f"{place}/long?bytes={LIMIT_BYTES}")).body) == LIMIT_BYTES
    with pytest.raises(Rejected, match="more than 1000 bytes"):
        await client.send("GET", f"{place}/long?bytes={LIMIT_BYTES + 1}")
    with pytest.raises(Rejected, match="compressed"):
        await client.send("GET", f"{place}/packed")


async def test_a_redirect_is_an_answer_and_not_followed(client: HttpClient, place: str) -> None:
    reply = await client.send("GET", f"{place}/elsewhere")
    assert (reply.status, reply.headers["location"]) == (302, "http://localhost:1/secret")


async def test_nothing_is_carried_from_one_request_to_the_next(client: HttpClient, place: str) -> None:
    for _ in range(2):
        assert (await client.send("GET", f"{place}/cookie")).body == b"none"


async def test_proxies_of_the_environment_are_not_heeded(
    client: HttpClient, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert (await client.send("GET", f"{place}/echo")).status == 200


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:{port}/echo",  # the same machine by another name
        "http://127.0.0.1:1/echo",
        "http://127.0.0.1/echo",
        "https://127.0.0.1:{port}/echo",
        "http://127.0.0.1:{port}@example.com/echo",
        "http://user:password@127.0.0.1:{port}/echo",
        "http://127.0.0.1.:{port}/echo",
        "http://example.com#@127.0.0.1:{port}/",
        "http://example.com\\@127.0.0.1:{port}/",
        "file:///etc/passwd",
        "unix:///run/x.sock",
        "//127.0.0.1:{port}/echo",
        "/echo",
        "",
        "http://",
        "http://[::1",
        "http://127.0.0.1:99999/echo",
    ],
)
async def test_nowhere_else(client: HttpClient, place: str, url: str) -> None:
    port = place.rpartition(":")[2]
    with pytest.raises(Rejected):
        await client.send("GET", url.replace("{port}", port))


async def test_case_and_default_port_do_not_matter(place: str) -> None:
    port = place.rpartition(":")[2]
    async with HttpClient([f"HTTP://LocalHost:{port}", "https://127.0.0.1"]) as client:
        assert (await client.send("GET", f"http://LOCALHOST:{port}/echo")).status == 200
        for url in ("https://127.0.0.1/x", "https://127.0.0.1:443/x"):
            with pytest.raises(Unavailable):  # it was allowed, and nobody speaks TLS there
                await client.send("GET", url)
        with pytest.raises(Rejected):
            await client.send("GET", "http://127.0.0.1/x")


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"http://127.0.0.1:{taken.getsockname()[1]}"
    async with HttpClient([place]) as client:
        with pytest.raises(Unavailable, match="Cannot connect"):
            await client.send("GET", place)


async def test_what_is_no_http() -> None:
    async def gibberish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-hello\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(gibberish, "127.0.0.1", 0) as server:
        place = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with HttpClient([place]) as client:
            with pytest.raises(Unavailable):
                await client.send("GET", place)
