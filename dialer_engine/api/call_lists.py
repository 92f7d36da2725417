"""Call lists: the numbers to dial, with what is known of each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response

from dialer_engine.api import pages, shapes
from dialer_engine.api.document import answers, takes, takes_lines
from dialer_engine.api.problems import JSON
from dialer_engine.api.requests import (
    AtStore,
    IfMatch,
    Numbers,
    OnceOnly,
    Paging,
    answered,
    etag,
    now,
    router,
    seen,
)
from dialer_engine.api.rights import Manager, Reader
from dialer_engine.api.uploads import JsonList, LineReader, form_of, need_json
from dialer_engine.core.compliance import NumberPolicy, is_of, normalise
from dialer_engine.core.model import ListId
from dialer_engine.errors import Invalid, NotFound, Problem
from dialer_engine.store.contract import Document, Name, Row, contact_row, parse, parse_row
from dialer_engine.store.imports import NumberedRow
from dialer_engine.store.records import ListInfo, Written

routes = router("call lists")

Id = Annotated[ListId, Path(ge=1, lt=10**15, description="The list's number.", examples=[1])]

NO_NAME = "call-list"
_CSV = "number,name\n123456789,Eva\n"
_NDJSON = '{"number": "123456789", "attributes": {"name": "Eva"}}\n'
NEW: dict[str, Any] = {
    "name": "call-list-name",
    "numbers": [{"number": "123456789", "attributes": []}],
}  # the seed's
CREATED = {"id": 1, "message": "Call list successfully created", "numbersCount": 1}
_LIST = {"id": 1, "name": "call-list-name", "numbersCount": 1, "struckOut": 0, "generation": 1}
_GIVEN_UP = "The upload was given up, because Redis did not hear of it for a minute."
_ETAG = "For If-Match of a change: another one after every change of the list."


class NewCallList(Document):
    """A call list. A number that comes twice is kept once."""

    name: Name
    numbers: list[Row]
    """Whom to call, in this order."""


class EditedCallList(Document):
    """What the list is to be from now on."""

    name: Name
    numbers: list[Row] | None = None
    """Absent: as they are."""


class MoreNumbers(Document):
    """Numbers for the end of the list."""

    numbers: list[Row]
    """Whom to call; those it has already are dropped."""


class _Named(Document):
    name: Name


class _Nameless(Document):
    pass


SHAPES = (NewCallList, EditedCallList, MoreNumbers)


@routes.post(
    "/dialer/call-lists",
    summary="Create a call list",
    response_model=shapes.SavedList,
    responses=answers(CREATED, conflict=_GIVEN_UP),
    openapi_extra=takes_lines(NewCallList, NEW, _CSV, _NDJSON),
)
async def create_call_list(
    *,
    request: Request,
    by: Manager,
    store: AtStore,
    numbers: Numbers,
    once: OnceOnly,
    name: Annotated[Name, Query(description="Of a list as CSV or NDJSON; one as JSON names itself.")] = NO_NAME,
) -> Response:
    """Campaigns see it when its last number is in; an upload that breaks off leaves nothing.

    JSON: all of it, or nothing when anything in it is wrong. CSV (a column `number`, the others are attributes;
    comma, semicolon or tab) and NDJSON (a contact on each line) may be of any length; lines that cannot be used are
    left out and told.
    """
    form = form_of(request)

    async def make(call_list: ListId) -> Response:
        upload = _Upload(numbers, _Named) if form == JSON else _Lines(form, numbers, name)
        written = await store.lists.create(upload.name, upload.rows(once.chunks()), reserved=call_list)
        await store.audit.write(by=by.name, action="create", subject=f"list {call_list}", now=now())
        return _saved(written, "Call list successfully created", upload=upload)

    return await once(store.lists.reserve, make, streams=True)


@routes.get(
    "/dialer/call-lists",
    summary="All call lists",
    response_model=shapes.PageOf[shapes.CallList],
    responses=answers(pages.example(_LIST)),
)
async def list_call_lists(_: Reader, store: AtStore, page: Paging) -> Response:
    """By their numbers."""
    total, infos = await store.lists.page(page.offset, page.size)
    return await pages.answer(page, total, infos, _shown)


@routes.get(
    "/dialer/call-lists/{call_list}",
    summary="One call list",
    response_model=shapes.CallList,
    responses=answers(_LIST, ETag=_ETAG),
)
async def show_call_list(call_list: Id, _: Reader, store: AtStore) -> Response:
    """Without its numbers."""
    info = await store.lists.info(call_list)
    return answered(_shown(info), tag=etag(info.mark))


@routes.put(
    "/dialer/call-lists/{call_list}",
    summary="Rename a call list, or replace its numbers",
    response_model=shapes.SavedList,
    responses=answers(
        {"id": 1, "message": "Call list successfully edited", "numbersCount": 1},
        conflict="Another replacement of its numbers was faster.",
        ETag=_ETAG,
    ),
    openapi_extra=takes(EditedCallList, NEW),
)
async def edit_call_list(
    *,
    request: Request,
    call_list: Id,
    by: Manager,
    store: AtStore,
    numbers: Numbers,
    if_match: IfMatch = None,
) -> Response:
    """Campaigns that run go on with the old numbers until `reload` or their next run."""
    need_json(request)
    info = await store.lists.info(call_list)
    expected = seen(if_match, info.mark, f"call list {call_list}") or ""
    upload = _Upload(numbers, _Named, may_lack_numbers=True)
    try:
        written = await store.lists.replace(
            call_list, upload.rows(request.stream()), name=upload.name, expected=expected
        )
    except _NoNumbers:
        mark = await store.lists.rename(call_list, upload.name(), expected=expected)
        written = Written(call_list, info.generation, info.rows - info.struck, 0, mark)
    await store.audit.write(by=by.name, action="edit", subject=f"list {call_list}", now=now())
    return _saved(written, "Call list successfully edited", etag(written.mark))


@routes.delete(
    "/dialer/call-lists/{call_list}",
    summary="Delete a call list",
    response_model=shapes.Saved,
    responses=answers(
        {"id": 1, "message": "Call list successfully deleted"},
        conflict="Campaigns use it; `detail` names them.",
    ),
)
async def delete_call_list(call_list: Id, by: Manager, store: AtStore, if_match: IfMatch = None) -> Response:
    """Only when no campaign names it, and no run is still at its numbers."""
    if if_match is not None:
        seen(if_match, (await store.lists.info(call_list)).mark, f"call list {call_list}")
    await store.lists.delete(call_list)
    await store.audit.write(by=by.name, action="delete", subject=f"list {call_list}", now=now())
    return answered(shapes.Saved(id=call_list, message="Call list successfully deleted"))


# --- its numbers ---


@routes.get(
    "/dialer/call-lists/{call_list}/numbers",
    summary="The numbers of a call list",
    response_model=shapes.PageOf[shapes.ListedNumber],
    responses=answers(pages.example({"number": "123456789", "attributes": []})),
)
async def list_call_list_numbers(call_list: Id, _: Reader, store: AtStore, page: Paging) -> Response:
    """In the order in which they are dialed; those struck out are left out."""
    total, rows = await store.lists.numbers_page(call_list, page.offset, page.size)
    return await pages.answer(page, total, rows, _listed)


@routes.post(
    "/dialer/call-lists/{call_list}/numbers",
    summary="Add numbers to a call list",
    response_model=shapes.SavedList,
    responses=answers(
        {"id": 1, "message": "Numbers successfully added", "numbersCount": 1}, conflict=_GIVEN_UP
    ),
    openapi_extra=takes_lines(MoreNumbers, {"numbers": NEW["numbers"]}, _CSV, _NDJSON),
)
async def add_call_list_numbers(
    *, request: Request, call_list: Id, by: Manager, store: AtStore, numbers: Numbers, once: OnceOnly
) -> Response:
    """To its end, all of them or none. Campaigns that run dial them too. JSON, CSV or NDJSON, as for a new list."""
    form = form_of(request)
    await store.lists.info(call_list)

    async def reserve() -> int:
        return call_list

    async def make(_: int) -> Response:
        upload = _Upload(numbers, _Nameless) if form == JSON else _Lines(form, numbers, "")
        written = await store.lists.append_all(call_list, upload.rows(once.chunks()))
        await store.audit.write(by=by.name, action="append", subject=f"list {call_list}", now=now())
        return _saved(written, "Numbers successfully added", upload=upload)

    return await once(reserve, make, streams=True)


@routes.delete(
    "/dialer/call-lists/{call_list}/numbers/{number:path}",
    summary="Take a number out of a call list",
    response_model=shapes.Saved,
    responses=answers({"id": 1, "message": "Number successfully removed"}),
)
async def remove_call_list_number(
    call_list: Id,
    number: Annotated[str, Path(max_length=64, description="As it was given, or as the dialer compares it.")],
    by: Manager,
    store: AtStore,
    numbers: Numbers,
) -> Response:
    """From campaigns that run too. Whoever must never be called belongs on the do-not-call list."""
    try:
        identity = normalise(number, numbers).identity
    except Invalid as exc:
        raise Invalid([Problem("path.number", one.reason) for one in exc.problems]) from exc
    struck = await store.lists.strike_out(call_list, identity, lambda other: is_of(other, identity, numbers))
    if not struck:
        raise NotFound(f"call list {call_list} has no such number")
    await store.audit.write(by=by.name, action="strike out", subject=f"list {call_list}", now=now())
    return answered(shapes.Saved(id=call_list, message="Number successfully removed"))


class _NoNumbers(Exception):
    """The document names none: they stay as they are."""


class _Upload:
    """A document on its way in: its contacts first, what stands around them at the end."""

    def __init__(self, policy: NumberPolicy, around: type[Document], *, may_lack_numbers: bool = False) -> None:
        self._read = JsonList(policy, around.model_fields)
        self._around = around
        self._may_lack_numbers = may_lack_numbers

    async def rows(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[list[NumberedRow]]:
        """In batches. Raises Invalid with every mistake behind the last one, and _NoNumbers."""
        async for batch in self._read.rows(chunks):
            yield batch
        problems = list(self._read.problems)
        try:
            parse(self._around, self._read.members)
        except Invalid as exc:
            problems += exc.problems
        if not (self._read.has_numbers or self._may_lack_numbers):
            problems.append(Problem("numbers", "Field required"))
        if problems:
            raise Invalid(problems)
        if not self._read.has_numbers:
            raise _NoNumbers

    def name(self) -> str:
        """Behind the last row."""
        return str(self._read.members["name"])


class _Lines:
    """The same for lines of CSV or NDJSON."""

    def __init__(self, form: str, policy: NumberPolicy, name: str) -> None:
        self.read = LineReader(form, lambda contact: contact_row(contact, policy))
        self._name = name

    async def rows(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[list[NumberedRow]]:
        """In batches."""
        async for batch in self.read.entries(chunks):
            yield batch

    def name(self) -> str:
        """As the request has it."""
        return self._name


def _saved(
    written: Written, message: str, tag: str | None = None, *, upload: _Upload | _Lines | None = None
) -> Response:
    saved: dict[str, object] = {"id": written.id, "message": message, "numbersCount": written.written}
    if written.repeats:
        saved["repeats"] = written.repeats
    if isinstance(upload, _Lines):
        saved |= upload.read.told()
    return answered(saved, tag=tag)


def _shown(info: ListInfo) -> dict[str, object]:
    return {
        "id": info.id,
        "name": info.name,
        "numbersCount": info.rows - info.struck,
        "struckOut": info.struck,
        "generation": info.generation,
    }


def _listed(row: str) -> dict[str, object]:
    """A row as the client gave it; one that another program has spoilt, with the reason."""
    try:
        contact = parse_row(row)
    except Invalid as exc:
        return {"number": row[:64], "attributes": [], "problem": str(exc)}
    if contact is None:
        return {"number": "", "attributes": [], "problem": "it was struck out"}
    return contact.public()
