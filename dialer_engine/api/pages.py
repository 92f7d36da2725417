"""Lists as JSON, made piece by piece: the loop belongs to the calls, and is let go of every two milliseconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import orjson
from fastapi import Response

from dialer_engine.api.problems import JSON
from dialer_engine.api.requests import Page

TURN_SECONDS = 0.002

_Item = TypeVar("_Item")


async def answer(
    page: Page, total: int, items: Iterable[_Item], show: Callable[[_Item], object] = lambda item: item
) -> Response:
    """`{"items", "page", "pageSize", "total"}`; `show` makes of an item what is told of it."""
    around = {"page": page.number, "pageSize": page.size, "total": total}
    return Response(
        b'{"items":[%b],%b' % (await _joined(items, show), orjson.dumps(around)[1:]), media_type=JSON
    )


async def cursored(items: Iterable[object], following: str | None) -> Response:
    """`{"items", "next"}`."""
    next_ = orjson.dumps({"next": following})[1:]
    return Response(b'{"items":[%b],%b' % (await _joined(items, lambda item: item), next_), media_type=JSON)


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
