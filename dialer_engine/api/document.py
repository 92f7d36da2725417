"""The OpenAPI document: what the routes say of themselves, and what every route of its kind can answer.

A route gives its success an example (`answers`) and names the conflicts it knows. Which other errors it can
answer follows from what it takes, so that none can be forgotten; all of them are problem documents.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Literal

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from dialer_engine.api import problems
from dialer_engine.api.problems import JSON
from dialer_engine.api.requests import CSV, NDJSON, router

ASSETS = "docs-assets"

ABOUT = """Calls lists of telephone numbers through Asterisk: announcements, interactive calls, call centres.

1. `POST /dialer/call-lists`: the numbers to call.
2. `GET /ivr` or `POST /ivr`: what a callee hears.
3. `POST /dialer/campaigns`: which numbers, when, how fast, and what then.
4. `PUT /dialer/campaigns/{campaign}/control`: start it.

Then `GET /dialer/campaigns/{campaign}/plan` says in one sentence why it dials or does not.

An access token is needed: `POST /token` gives one for a user's name and password, `dialer-engine token create`
prints one for a program. It is sent as `Authorization: Bearer TOKEN`. Names are camelCase, instants ISO 8601 with
an offset, durations seconds. Errors are problem documents (RFC 9457) that name every mistake at once."""

TAGS = [
    {"name": "campaigns", "description": "What to dial, when and how fast; start, pause, look at the results."},
    {"name": "call lists", "description": "Numbers to dial, with what is known of each."},
    {"name": "ivr", "description": "What happens to a call that is answered."},
    {"name": "do-not-call", "description": "Numbers that nobody may dial."},
    {"name": "rights", "description": "Access tokens."},
    {"name": "operation", "description": "Stop everything, health, metrics, who did what."},
]

_DETAILS = {
    400: ("The body is no JSON.", "the body is no JSON"),
    401: ("There is no valid access token.", "needs the right dialer:manage"),
    403: ("The access token lacks the right.", "needs the right dialer:manage"),
    404: ("There is no such thing.", "there is no campaign 7"),
    408: ("The body has stalled.", "nothing more of the body came within 60 seconds"),
    409: ("The state does not allow this.", "campaign 1 is NEW: pause is not possible"),
    412: ("Somebody else has changed it since its ETag was read.", "campaign 1 has been edited meanwhile"),
    413: ("The body is too long.", "Content Too Large"),
    415: ("The body is of a type that is not taken here.", "the body must be application/json"),
    422: ("The request cannot be used; every mistake is named.", "the request cannot be used"),
    503: ("Redis is away: try again.", "redis is unavailable: it is loading its data after a start"),
}
_PROBLEM = {"$ref": "#/components/schemas/ProblemDocument"}


def answers(example: object, *, conflict: str | None = None, **headers: str) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a route: an example of its success, the headers it carries then, what a 409 means."""
    success: dict[str, Any] = {"content": {JSON: {"example": example}}}
    if headers:
        success["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()
        }
    return {200: success} if conflict is None else {200: success, 409: {"description": conflict}}


def texts(examples: Mapping[str, str]) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a route whose success is text: an example for each media type."""
    content = {form: {"schema": {"type": "string"}, "example": one} for form, one in examples.items()}
    return {200: {"content": content}}


def also(json: dict[int | str, dict[str, Any]], examples: Mapping[str, str]) -> dict[int | str, dict[str, Any]]:
    """The answers of a route that gives text when it is asked to."""
    content = json[200]["content"] | texts(examples)[200]["content"]
    return {**json, 200: {**json[200], "content": content}}


def takes(shape: type[BaseModel], example: object) -> dict[str, Any]:
    """For `openapi_extra=` of a route that reads its body itself."""
    return {"requestBody": {"required": True, "content": {JSON: content(shape, example)}}}


def takes_lines(shape: type[BaseModel], example: object, csv: str, ndjson: str) -> dict[str, Any]:
    """The same, for one that takes CSV and NDJSON, too.

    Their schema forbids nothing: a line that cannot be used is named in the answer and left out.
    """
    whole = takes(shape, example)
    for form, text in ((CSV, csv), (NDJSON, ndjson)):
        whole["requestBody"]["content"][form] = {"schema": {"description": "A line each."}, "example": text}
    return whole


def content(shape: type[BaseModel], example: object) -> dict[str, Any]:
    """One media type of such a body."""
    return {"schema": {"$ref": f"#/components/schemas/{shape.__name__}"}, "example": example}


def operation_id(route: APIRoute) -> str:
    """By the name of the function."""
    return to_camel(route.name)


def install(app: FastAPI, *shapes: type[BaseModel]) -> None:
    """Serve /openapi.json and /docs; `shapes` are those that `takes` has named."""

    def describe() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _document(app, (problems.ProblemDocument, *shapes))
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]  # FastAPI's own way to extend it
    routes = router("operation")
    text: list[bytes] = []

    @routes.get("/openapi.json", include_in_schema=False)
    async def openapi(_: Request) -> Response:
        if not text:  # it takes half a second to make
            text.append(await asyncio.to_thread(lambda: orjson.dumps(app.openapi())))
            app.openapi_schema = None
        return Response(text[0], media_type=JSON)

    @routes.get("/docs", include_in_schema=False)
    async def docs(_: Request) -> Response:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{ASSETS}/favicon.png",
        )

    @routes.get(f"/{ASSETS}/{{name}}", include_in_schema=False)
    async def asset(name: Literal["swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"]) -> Response:
        """From a package, where FastAPI's own page would fetch them from a public address."""
        return FileResponse(str(files("fastapi_offline").joinpath("static", name)))

    app.include_router(routes)


def _document(app: FastAPI, shapes: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=ABOUT, routes=app.routes, tags=TAGS
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for shape in shapes:
        schema = shape.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[shape.__name__] = schema
    for operation in operations(document):
        _name_errors(operation)
    return document


def operations(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every operation of every path."""
    for path in document["paths"].values():
        yield from path.values()


def _name_errors(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    parameters = operation.get("parameters", [])
    places = {one["in"] for one in parameters}
    named: set[int] = {422}
    if operation.get("security"):
        named |= {401, 403, 503}
    if "path" in places:
        named.add(404)
    if JSON in operation.get("requestBody", {}).get("content", {}):
        named |= {400, 408, 413, 415}
    if any(one["name"] == "If-Match" for one in parameters):
        named.add(412)
    for status in sorted(named | {int(one) for one in responses if one.isdigit() and int(one) >= 400}):
        _fill(status, responses.setdefault(str(status), {}))
    operation["responses"] = dict(sorted(responses.items()))


def _fill(status: int, response: dict[str, Any]) -> None:
    """A problem document with its example, unless the route answers in another form there."""
    meaning, detail = _DETAILS.get(status, (HTTPStatus(status).phrase, HTTPStatus(status).phrase))
    response.setdefault("description", meaning)
    example: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if status == 422:
        example["errors"] = [{"path": "activePeriod.startTime", "detail": "Field required"}]
    response.setdefault("content", {problems.MEDIA_TYPE: {"schema": _PROBLEM, "example": example}})
    if status == 503:
        wait = {"description": "Seconds to wait.", "schema": {"type": "string"}}
        response.setdefault("headers", {"Retry-After": wait})
