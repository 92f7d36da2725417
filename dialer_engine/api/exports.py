"""Results of any number as CSV or NDJSON, read and written a little at a time."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import orjson
from fastapi import Request
from fastapi.responses import StreamingResponse

from dialer_engine.api.problems import JSON
from dialer_engine.api.requests import CSV, NDJSON
from dialer_engine.store.records import ResultPage
from dialer_engine.store.tables import LINE_END, RESULT_COLUMNS, cells

READ_AT_ONCE = 100
"""Results: a millisecond or two of the loop for each turn."""

RESULT = {
    "number": "123456789",
    "status": "TERMINATED",
    "extStatus": "CONFIRMED",
    "attempt": "a0123456789abcdef0123",
    "run": 1,
    "callList": 1,
    "attributes": {"name": "Eva"},
    "values": {"answer": "1"},
    "path": ["hello", "ask", "yes", "bye"],
    "cause": 16,
    "sipCode": None,
    "agent": None,
    "queue": None,
    "recording": None,
    "originatedAt": "2026-11-24T09:00:01.000+00:00",
    "ringingAt": "2026-11-24T09:00:02.100+00:00",
    "answeredAt": "2026-11-24T09:00:06.900+00:00",
    "leftIvrAt": None,
    "connectedAt": None,
    "endedAt": "2026-11-24T09:00:20.000+00:00",
    "redialAt": None,
}
"""One of them, for the documentation."""
EXPORTED = {
    CSV: f"{','.join(RESULT_COLUMNS)}{LINE_END}",
    NDJSON: f"{orjson.dumps(RESULT).decode()}\n",
}

FORMS = {"json": JSON, "csv": CSV, "ndjson": NDJSON}


def form_wanted(request: Request, form: str | None) -> str:
    """A media type: that of this name, else the one the Accept header asks for, else JSON."""
    if form is not None:
        return FORMS[form]
    accepted = request.headers.get("accept", "")
    return next((one for one in (CSV, NDJSON) if one in accepted), JSON)


def exported(
    form: str, read: Callable[[str | None, int], Awaitable[ResultPage]], cursor: str | None, name: str
) -> StreamingResponse:
    """Everything behind the cursor. Whoever reads slowly holds up nobody: no more is read than he takes."""
    write = _csv if form == CSV else _ndjson
    head = _table([RESULT_COLUMNS]) if form == CSV else b""

    async def pieces() -> AsyncIterator[bytes]:
        yield head
        following = cursor
        while True:
            page = await read(following, READ_AT_ONCE)
            if page.items:
                yield write(page.items)
            if page.next is None:
                return
            following = page.next
            await asyncio.sleep(0)

    kind = "csv" if form == CSV else "ndjson"
    headers = {"Content-Disposition": f'attachment; filename="{name}.{kind}"'}
    return StreamingResponse(pieces(), headers=headers, media_type=form)


def _ndjson(items: Sequence[Mapping[str, object]]) -> bytes:
    return b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in items)


def _csv(items: Sequence[Mapping[str, object]]) -> bytes:
    return _table([cells(item) for item in items])


def _table(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator=LINE_END).writerows(rows)
    return text.getvalue().encode(errors="replace")
