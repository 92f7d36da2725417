"""Server-sent events: what happens, while it happens, for pages and programs that would otherwise ask and ask.

Each reader reads the stream in Redis for himself, from where he is: a slow one holds up nobody, and whoever comes back
with the id of his last event misses nothing that is still kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

import orjson
from fastapi import Header, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse

from dialer_engine.api.document import texts
from dialer_engine.api.requests import AtStore, iso, router
from dialer_engine.api.rights import Reader, permit
from dialer_engine.errors import Unavailable
from dialer_engine.store import Store
from dialer_engine.store.accounts import READ
from dialer_engine.store.events import Happening, Kind

MEDIA_TYPE = "text/event-stream"
MOST_READERS = 100
AT_ONCE = 100
LOOK_SECONDS = 0.2
"""How late an event may be told; an idle reader costs a question of Redis so often."""
BEAT_SECONDS = 15.0
"""So often a stream says that it lives, and its reader is asked whether he may still read, however much happens."""
AGAIN = b"retry: 2000\n\n"
MISSED = b"event: missed\ndata: {}\n\n"
BEAT = b": all is well\n\n"
TIMES = ("at", "redialAt")

routes = router("operation")

_EXAMPLE = (
    "retry: 2000\n\n"
    "id: 1763974820000-0\nevent: result\n"
    'data: {"kind":"result","at":"2026-11-24T09:00:20.000+00:00","campaign":1,"run":1,'
    '"attempt":"a0123456789abcdef0123","number":"123456789","status":"RS_BUSY","redialAt":null}\n\n'
    "id: 1763974825000-0\nevent: connected\n"
    'data: {"kind":"connected","at":"2026-11-24T09:00:25.000+00:00","campaign":1,"run":1,'
    '"attempt":"a0123456789abcdef0124","number":"987654321","agent":"Eva","queue":"green",'
    '"attributes":{"name":"Jan"},"secondsToAgent":0.612}\n\n'
)


@routes.get(
    "/dialer/events",
    summary="What happens, as it happens",
    response_class=StreamingResponse,
    responses=texts({MEDIA_TYPE: _EXAMPLE}),
)
async def follow_events(
    *,
    request: Request,
    _: Reader,
    store: AtStore,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            pattern=r"^[0-9]{1,16}-[0-9]{1,16}$",
            description="Go on behind this event; absent: with what happens from now on.",
        ),
    ] = None,
    limit: Annotated[
        int | None, Query(ge=1, le=10**9, description="The stream ends after so many events; absent: never.")
    ] = None,
) -> Response:
    """Server-sent events, one JSON object each. `event` is its kind: `state` (of a campaign), `connected` (a call has
    reached an agent: `campaign`, `run`, `attempt`, `number`, `agent`, `queue`, `attributes` and `secondsToAgent`, for
    screen pops), `result` (a call has been settled), `limit` (what binds a campaign's pace has changed), `trunk`
    (closed or open again), `stop` (everything, or its end), `edit` (of a campaign, list, IVR or do-not-call list).

    The last 20,000 or so are kept, over restarts too. `missed` says that there were more behind `Last-Event-ID` than
    are kept: read anew how things stand. The stream ends when its token does.
    """
    state = request.app.state
    following: set[Request] = state.__dict__.setdefault("following", set())
    if len(following) >= MOST_READERS:
        raise Unavailable("api", f"{MOST_READERS} clients follow the events already")
    begin = last_event_id or await store.events.last()
    missed = last_event_id is not None and await store.events.have_passed(last_event_id)

    async def told() -> AsyncIterator[bytes]:
        following.add(request)
        try:
            yield AGAIN + (MISSED if missed else b"")
            async for chunk in _told(request, store, begin, limit):
                yield chunk
        finally:
            following.discard(request)

    return StreamingResponse(
        told(), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, media_type=MEDIA_TYPE
    )


async def _told(request: Request, store: Store, last: str, limit: int | None) -> AsyncIterator[bytes]:
    """Until `limit` events have been told, the reader may not read any more, or the server closes."""
    closing: asyncio.Event = request.app.state.closing
    count, asked_at = 0, time.monotonic()
    while limit is None or count < limit:
        asked = AT_ONCE if limit is None else min(AT_ONCE, limit - count)
        found: list[Happening] = []
        with suppress(Unavailable):  # he keeps his place, and hears more when Redis is back
            found = await store.events.after(last, asked)
        if found:
            last, count = found[-1].id, count + len(found)
            yield b"".join(map(_shown, found))
        if time.monotonic() - asked_at > BEAT_SECONDS:
            if not await _may_still_read(request):
                return
            asked_at = time.monotonic()
            yield BEAT
        if len(found) < asked and await _closes(closing):
            return


async def _closes(closing: asyncio.Event) -> bool:
    """Wait a moment; does the server end?"""
    with suppress(TimeoutError):
        async with asyncio.timeout(LOOK_SECONDS):
            await closing.wait()
    return closing.is_set()


async def _may_still_read(request: Request) -> bool:
    with suppress(KeyError):  # nobody could say the last time
        del request.state.principal  # as whom he came
    try:
        with suppress(Unavailable):  # then nobody can say, and he is asked the next time
            await permit(request, READ)
    except HTTPException:
        return False
    return True


def _shown(one: Happening) -> bytes:
    if one.kind not in Kind.__members__.values():
        return b""
    facts = {"kind": one.kind, "at": one.at, **one.facts}
    facts |= {name: iso(facts[name]) for name in TIMES if name in facts}
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (one.id.encode(), one.kind.encode(), orjson.dumps(facts))
