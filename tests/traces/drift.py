"""A PBX that has drifted from the real one: a wire to it, on which messages are changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, TCPConnector, WSMsgType, web

from .wire import Event, Place

Events = Callable[[Event], Iterable[Event]]
Replies = Callable[[str, int, Any], tuple[int, Any]]
"""(method and path, status, body) -> (status, body)"""


def as_they_are(event: Event) -> Iterable[Event]:
    return (event,)


def as_it_is(request: str, status: int, body: Any) -> tuple[int, Any]:
    return status, body


@asynccontextmanager
async def drifted(
    place: Place, events: Events = as_they_are, replies: Replies = as_it_is
) -> AsyncIterator[Place]:
    """The same PBX, whose every event becomes what `events` makes of it, and every reply what `replies` does."""

    async def serve(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await _pass_events(session, request, events)
        return await _pass_reply(session, request, replies)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
    async with ClientSession(place.url, connector=TCPConnector(force_close=True, limit=0)) as session:
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            yield Place(f"http://{host}:{port}", place.username, place.password)
        finally:
            await runner.cleanup()


async def _pass_reply(session: ClientSession, request: web.Request, replies: Replies) -> web.Response:
    headers = {
        name: value
        for name, value in request.headers.items()
        if name.lower() in ("authorization", "content-type")
    }
    async with session.request(
        request.method, request.rel_url, data=await request.read() or None, headers=headers
    ) as reply:
        text = await reply.text()
    try:
        status, body = replies(f"{request.method} {request.path}", reply.status, json.loads(text))
    except ValueError:
        return web.Response(status=reply.status, text=text)
    return web.json_response(body, status=status)


async def _pass_events(session: ClientSession, request: web.Request, events: Events) -> web.WebSocketResponse:
    """Until either side closes; Asterisk's code is handed on."""
    near = web.WebSocketResponse()
    await near.prepare(request)
    headers = {"Authorization": request.headers["Authorization"]}
    async with session.ws_connect(request.rel_url, headers=headers, max_msg_size=0) as far:

        async def hand_on() -> None:
            async for message in far:
                if message.type is WSMsgType.TEXT:
                    for event in events(json.loads(message.data)):
                        await near.send_json(event)
            await near.close(code=far.close_code or 1000)

        handing = asyncio.create_task(hand_on())
        async for _ in near:
            pass
        handing.cancel()
        await asyncio.gather(handing, return_exceptions=True)
    return near
