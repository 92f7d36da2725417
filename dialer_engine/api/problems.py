"""What went wrong, as problem documents (RFC 9457): the one table from errors to HTTP status codes.

Every problem of a request is told at once, each at its place: a field of the body by its path
(`rescheduleRules.0.retryAfter`), else `query.NAME`, `path.NAME`, `header.NAME`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dialer_engine.errors import Conflict, DialerError, Invalid, NotFound, Problem, Rejected, Stale, Unavailable
from dialer_engine.store.contract import told

JSON = "application/json"
MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 1

STATUS: dict[type[DialerError], int] = {
    Unavailable: 503,
    NotFound: 404,
    Stale: 412,
    Conflict: 409,
    Invalid: 422,
    Rejected: 409,  # another program has stored something of another type under a key of ours
    DialerError: 500,
}
"""The first that fits."""


class FieldProblem(BaseModel):
    """One mistake and where it stands."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    path: str
    """Of a field of the body, or `query.NAME`, `path.NAME`, `header.NAME`; empty: the whole."""
    detail: str
    """Why it is one."""


class ProblemDocument(BaseModel):
    """What went wrong (RFC 9457)."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    type: str = "about:blank"
    title: str
    """The status in words."""
    status: int
    """The HTTP status code."""
    detail: str
    """What went wrong, for a person."""
    errors: list[FieldProblem] = []
    """Every mistake, when the request is at fault."""
    allowed: list[str] = []
    """The commands that the state allows, when a command was refused."""


def install(app: FastAPI) -> None:
    """From now on every error of the application is answered by a problem document."""
    app.add_exception_handler(DialerError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_request)
    app.add_exception_handler(HTTPException, _of_protocol)
    app.add_exception_handler(ClientDisconnect, _of_silence)
    app.add_exception_handler(Exception, _of_nobody)


def response(
    status: int,
    detail: str,
    *,
    errors: Sequence[Problem] = (),
    allowed: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        document["errors"] = [{"path": one.place, "detail": one.reason} for one in errors]
    if allowed:
        document["allowed"] = list(allowed)
    return Response(orjson.dumps(document), status, headers, MEDIA_TYPE)


async def _of_ours(_: Request, exc: Exception) -> Response:
    status = next(code for kind, code in STATUS.items() if isinstance(exc, kind))
    match exc:
        case Unavailable():
            return response(status, str(exc), headers={"Retry-After": str(RETRY_SECONDS)})
        case Invalid():
            return response(status, "the request cannot be used", errors=exc.problems)
        case Conflict():
            return response(status, str(exc), allowed=exc.allowed)
        case _:
            return response(status, str(exc))


async def _of_request(request: Request, exc: Exception) -> Response:
    """What FastAPI found wrong with path, query, headers and body. A body in bytes is one that it could not read."""
    assert isinstance(exc, RequestValidationError)
    if isinstance(exc.body, bytes):
        if media_type(request) != JSON:
            return response(415, f"the body must be {JSON}")
        return response(400, "the body is no JSON", errors=[Problem("", _why_no_json(exc.body))])
    return response(
        422,
        "the request cannot be used",
        errors=told([(_place(one["loc"]), one["msg"]) for one in exc.errors()]),
    )


def _why_no_json(body: bytes) -> str:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        return str(exc)
    return "it is not read as JSON"


def media_type(request: Request) -> str:
    """Of the body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _place(location: Sequence[int | str]) -> Sequence[int | str]:
    return location[1:] if location[0] == "body" else location


async def _of_protocol(request: Request, exc: Exception) -> Response:
    """No such path, no such method, no right, a body too long."""
    assert isinstance(exc, HTTPException)
    headers = dict(exc.headers or {})
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return response(exc.status_code, exc.detail, headers=headers)


def _methods(request: Request) -> set[str]:
    """Starlette names only those of the first route that fits, even if another is the very path."""
    path, methods, literal = request.url.path, set[str](), set[str]()
    for route in iter_route_contexts(request.app.routes):
        if isinstance(route.original_route, APIRoute) and route.path_regex.match(path):
            methods |= route.methods or set()
            literal |= route.methods or set() if route.path == path else set()
    return literal or methods


async def _of_silence(_: Request, exc: Exception) -> Response:
    """The client went away before its request was whole; nobody reads this."""
    return response(400, "the request ended too early")


async def _of_nobody(_: Request, exc: Exception) -> Response:
    """A fault of ours. Starlette raises it again behind the answer, and so the log has it."""
    return response(500, f"{type(exc).__name__}: see the log of the daemon")
