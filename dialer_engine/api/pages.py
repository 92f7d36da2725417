"""Lists as JSON, made piece by piece: the loop belongs to the calls, and is let go of every two milliseconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import orjson
from fastapi import Response

from dialer_engine.api.problems import JSON
from dialer_engine.api.requests import Page
from dialer_engine.store.records import ResultPage

TURN_SECONDS = 0.002
READ_AT_ONCE = 200

_Item = TypeVar("_Item")


async def answer(
    page: Page,
    total: int,
    items: Iterable[_Item],
    show: Callable[[_Item], object] = lambda item: item,
    *,
    about: Mapping[str, object] | None = None,
) -> Response:
    """`{"items", "page", "pageSize", "total"}`; `show` makes of an item what is told of it, `about` is told as well."""
    around = {"page": page.number, "pageSize": page.size, "total": total, **(about or {})}
    return Response(
        b'{"items":[%b],%b' % (await _joined(items, show), orjson.dumps(around)[1:]), media_type=JSON
    )


async def cursored(
    read: Callable[[str | None, int], Awaitable[ResultPage]], cursor: str | None, count: int
) -> Response:
    """`{"items", "next"}`, read and written a little at a time: thousands of dicts would wake the garbage collector.

    `read` gives some items behind a cursor. When it gives fewer than asked for it has looked far enough for one page.
    """
    parts: list[bytes] = []
    following = cursor
    while len(parts) < count:
        asked = min(count - len(parts), READ_AT_ONCE)
        found = await read(following, asked)
        parts += map(orjson.dumps, found.items)
        following = found.next
        if following is None or len(found.items) < asked:
            break
    return Response(
        b'{"items":[%b],%b' % (b",".join(parts), orjson.dumps({"next": following})[1:]), media_type=JSON
    )


async def bare(items: Iterable[_Item], show: Callable[[_Item], object]) -> Response:
    """An array and nothing around it."""
    return Response(b"[%b]" % await _joined(items, show), media_type=JSON)


def example(item: Any) -> dict[str, Any]:
    """A page with one item."""
    return {"items": [item], "page": 1, "pageSize": 100, "total": 1}


async def _joined(items: Iterable[_Item], show: Callable[[_Item], object]) -> bytes:
    parts = []
    begun = time.perf_counter()
    for item in items:
        parts.append(orjson.dumps(show(item)))
        if time.perf_counter() - begun > TURN_SECONDS:
            await asyncio.sleep(0)
            begun = time.perf_counter()
    return b",".join(parts)
