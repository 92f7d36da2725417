"""What every route has in common: how a body is read, a page asked for, an edit guarded, a repeat recognised.

Routers are made by `router(tag)`, so that their routes ask for the right first (api.rights), refuse unknown query
parameters, and read JSON as strictly as the rest of the house.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel, BeforeValidator

from dialer_engine.api.problems import JSON
from dialer_engine.api.rights import Guarded, Manager
from dialer_engine.core.compliance import NumberPolicy
from dialer_engine.errors import Conflict, Invalid, NotFound, Problem, Stale
from dialer_engine.store import Store
from dialer_engine.store.answers import Asked
from dialer_engine.store.contract import Document, parse, told

LONGEST_BODY = 256 * 1024
"""Bytes; decoding more would hold the loop. Who takes longer ones reads them by `Once.chunks`."""
CSV, NDJSON = "text/csv", "application/x-ndjson"
STALL_SECONDS = 60.0
"""Who sends nothing of his body for so long is gone, or as good as gone: a half-open connection tells nobody."""
LONGEST_PAGE = 5000
LARGEST_PAGE = 10**9

_Id = TypeVar("_Id", bound=int | str | None)
_Shape = TypeVar("_Shape", bound=Document)


class _JsonRequest(Request):
    """Its body does not stall, and its JSON is not too long and read by orjson: no NaN, no half of a surrogate pair."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        coming = super().stream()
        while (chunk := await _in_time(coming)) is not None:
            yield chunk

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            read = bytearray()
            async for chunk in self.stream():
                read += chunk
                if len(read) > LONGEST_BODY:
                    raise HTTPException(413, f"the body has more than {LONGEST_BODY} bytes")
            self._body = bytes(read)
        return self._body

    async def json(self) -> Any:
        body = await self.body()
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            return body  # which fits no shape: the right is asked for first, then `problems` says what is wrong


async def _in_time(coming: AsyncIterator[bytes]) -> bytes | None:
    """The next part of a body; None behind the last. Raises HTTPException 408."""
    try:
        async with asyncio.timeout(STALL_SECONDS):
            return await anext(coming, None)
    except TimeoutError as exc:
        reason = f"nothing more of the body came within {STALL_SECONDS:g} seconds"
        raise HTTPException(408, reason, {"Connection": "close"}) from exc


class _Strict(APIRoute):
    """Refuses query parameters it does not know: a misspelt filter must not select everything."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        known = frozenset(_query_names(self.dependant))

        async def strict(request: Request) -> Response:
            unknown = sorted(set(request.query_params) - known)
            if unknown:
                raise Invalid(told([(("query", name), "there is no such parameter") for name in unknown]))
            return await answer(_JsonRequest(request.scope, request.receive))

        return strict


class _Route(Guarded, _Strict):
    """First the right, then the query, then the body."""


def router(tag: str) -> APIRouter:
    """A router for the routes of one kind of thing."""
    return APIRouter(tags=[tag], route_class=_Route)


def _query_names(dependant: Dependant) -> Iterator[str]:
    yield from (parameter.alias for parameter in dependant.query_params)
    for one in dependant.dependencies:
        yield from _query_names(one)


async def json_body(request: Request, shape: type[_Shape]) -> _Shape:
    """The body of a route that takes others than JSON, too. Raises Invalid, and RequestValidationError for no JSON."""
    document = await request.json()
    if isinstance(document, bytes):
        raise RequestValidationError([], body=document)
    return parse(shape, document)


# --- what the routes stand on ---


async def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


async def _numbers(request: Request) -> NumberPolicy:
    policy: NumberPolicy = request.app.state.numbers()
    return policy


AtStore = Annotated[Store, Depends(_store)]
Numbers = Annotated[NumberPolicy, Depends(_numbers)]
"""The policy of the configuration as it stands now: a reload may change it."""


def _moment(text: object) -> datetime:
    """pydantic would take numbers, and instants without an offset."""
    if not isinstance(text, str):
        raise ValueError("must be a text")  # noqa: TRY004  # pydantic's way
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ValueError("must be an instant such as 2030-12-31T17:00:00+01:00") from exc
    if at.tzinfo is None:
        raise ValueError("must have an offset, such as +01:00 or Z")
    return at


Moment = Annotated[datetime, BeforeValidator(_moment)]
"""An instant from outside: ISO 8601 with an offset."""


def _without_a_lost_plus(text: str) -> str:
    if text.startswith(" "):
        raise ValueError("begins with a blank: in a query a + is written %2B")
    return text


AskedNumber = Annotated[str, AfterValidator(_without_a_lost_plus)]
"""A number in a query. There a bare + is a blank: without it another number would be asked for, and not be there."""


def now() -> float:
    """Epoch seconds, as the store wants them."""
    return time.time()


def iso(epoch: object) -> str | None:
    """Epoch seconds, perhaps as text, as ISO 8601 with the offset; None for None and what is no instant."""
    try:
        seconds = float(epoch)  # type: ignore[arg-type]
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (TypeError, ValueError, OverflowError, OSError):
        return None


# --- pages ---


@dataclass(frozen=True, slots=True)
class Page:
    """The page that is asked for, counted from 1."""

    number: int
    size: int

    @property
    def offset(self) -> int:
        return (self.number - 1) * self.size


PageSize = Annotated[
    int, Query(alias="pageSize", ge=1, le=LONGEST_PAGE, description="Items of a page, 100 unless told.")
]


async def _page(
    page: Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Which page, counted from 1.")] = 1,
    page_size: PageSize = 100,
) -> Page:
    return Page(page, page_size)


Paging = Annotated[Page, Depends(_page)]


# --- two clients, one thing ---

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=200,
        description="The ETag that was read: the change is refused (412) if somebody else was faster.",
    ),
]


def etag(text: str) -> str:
    """Of a definition as it is stored. It stays the same whatever the state of the thing."""
    return f'"{hashlib.sha256(text.encode(errors="replace")).hexdigest()[:32]}"'


def seen(if_match: str | None, text: str, what: str) -> str | None:
    """The text that a compare-and-set shall expect; None: whatever is there. Raises Stale.

    The text is the one that is stored now; whether it is the one the client has seen his ETag tells.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    if etag(text) not in [one.strip() for one in if_match.split(",")]:
        raise Stale(f"{what} has been edited meanwhile: read it again before you change it")
    return text


# --- answers ---


def answered(document: BaseModel | Mapping[str, object], *, tag: str | None = None) -> Response:
    """A small document as JSON; fields that were not set are left out."""
    if isinstance(document, BaseModel):
        content = document.model_dump_json(by_alias=True, exclude_unset=True).encode()
    else:
        content = orjson.dumps(document)
    return Response(content, headers={"ETag": tag} if tag else None, media_type=JSON)


class Once:
    """A POST that may come twice: with an Idempotency-Key the second one gets the answer of the first."""

    def __init__(self, request: Request, store: Store, key: str | None, by: str) -> None:
        self._request = request
        self._answers = store.answers
        self._key = key and hashlib.sha256(f"{by}\n{key}".encode()).hexdigest()
        line = f"{request.method} {request.url.path}?{request.url.query}\n"
        self._digest = hashlib.sha256(line.encode(errors="replace"))
        self._read = False

    @property
    def may_come_again(self) -> bool:
        """It has a key: who got no answer will ask again."""
        return self._key is not None

    async def __call__(
        self,
        reserve: Callable[[], Awaitable[_Id]],
        make: Callable[[_Id], Awaitable[Response]],
        *,
        streams: bool = False,
    ) -> Response:
        """`make` with a new id, or what that has answered before.

        streams: the body is not in memory; `make` reads it by `chunks`. Raises Invalid when the key has been used
        for another request. Who was refused may ask again, and otherwise.
        """
        if self._key is None:
            return await make(await reserve())
        fingerprint = None if streams else await self._fingerprint()
        asked = await self._answers.begin(self._key, fingerprint, reserve)
        if asked.answer is None and asked.fingerprint in (None, fingerprint):
            return await self._make(self._key, asked, make)
        if asked.fingerprint != (fingerprint or await self._fingerprint()):
            raise Invalid([Problem("header.Idempotency-Key", "has been used for another request")])
        return _again(asked.answer or "")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes in."""
        self._read = True
        async for chunk in self._request.stream():
            self._digest.update(chunk)
            yield chunk

    async def _fingerprint(self) -> str:
        if not self._read:
            async for _ in self.chunks():
                pass
        return self._digest.hexdigest()

    async def _make(self, key: str, asked: Asked, make: Callable[[Any], Awaitable[Response]]) -> Response:
        try:
            response = await make(asked.id)
        except (Invalid, NotFound, Conflict):
            await self._answers.forget(key)
            raise
        kept = orjson.dumps([bytes(response.body).decode(), response.headers.get("etag")]).decode()
        await self._answers.keep(key, replace(asked, fingerprint=await self._fingerprint(), answer=kept))
        return response


def _again(kept: str) -> Response:
    body, tag = orjson.loads(kept)
    return Response(body, headers={"ETag": tag} if tag else None, media_type=JSON)


async def _once(
    request: Request,
    by: Manager,
    store: AtStore,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=200,
            description="Any text of your own. The same request with the same key is carried out once and gets "
            "the same answer, for a day.",
        ),
    ] = None,
) -> Once:
    return Once(request, store, key, by.name)


OnceOnly = Annotated[Once, Depends(_once)]
