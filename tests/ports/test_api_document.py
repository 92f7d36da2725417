"""The OpenAPI document: valid, and nothing in it is left unsaid. New routes are looked at by themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from openapi_spec_validator import validate

from dialer_engine import api
from dialer_engine.core.compliance import NumberPolicy
from dialer_engine.store import Store
from dialer_engine.store.link import Link
from dialer_engine.store.server import connect
from tests.ports.api_client import NO_PROBES, served, without_redis

APP = api.application(
    "1",
    NO_PROBES,
    store=Store(Link(connect("redis://127.0.0.1:1/0", 1), "dialer"), "UTC"),
    numbers=NumberPolicy,
)
DOCUMENT: dict[str, Any] = APP.openapi()
OPERATIONS: dict[str, dict[str, Any]] = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
SPEC = """
POST /token
POST /dialer/call-lists
GET /dialer/call-lists
GET /dialer/call-lists/{call_list}
PUT /dialer/call-lists/{call_list}
DELETE /dialer/call-lists/{call_list}
GET /dialer/call-lists/{call_list}/numbers
POST /dialer/call-lists/{call_list}/numbers
DELETE /dialer/call-lists/{call_list}/numbers/{number}
GET /ivr
GET /ivr/{ivr}
POST /ivr
PUT /ivr/{ivr}
DELETE /ivr/{ivr}
POST /ivr/check
POST /dialer/campaigns
GET /dialer/campaigns
GET /dialer/campaigns/{campaign}
GET /dialer/campaigns/{campaign}/versions
PUT /dialer/campaigns/{campaign}
DELETE /dialer/campaigns/{campaign}
POST /dialer/campaigns/{campaign}/clone
PUT /dialer/campaigns/{campaign}/control
GET /dialer/campaigns/{campaign}/stats
GET /dialer/campaigns/{campaign}/plan
POST /dialer/campaigns/{campaign}/calls
GET /dialer/campaigns/{campaign}/calls
GET /dialer/campaigns/{campaign}/results
PUT /dialer/calls/{attempt}/extStatus
GET /dialer/do-not-call
POST /dialer/do-not-call
DELETE /dialer/do-not-call
PUT /dialer/stop
DELETE /dialer/stop
GET /dialer/numbers/{number}
GET /dialer/audit
GET /dialer/events
GET /healthz
GET /readyz
GET /metrics
"""

each_operation = pytest.mark.parametrize("name", OPERATIONS)


def test_it_is_an_openapi_document() -> None:
    validate(DOCUMENT)


def test_the_specified_routes_are_there() -> None:
    assert set(filter(None, SPEC.splitlines())) <= set(OPERATIONS)


@each_operation
def test_every_route_says_what_it_does(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"] != operation["summary"]
    assert operation["tags"]
    assert operation["operationId"].isalnum()
    for parameter in operation.get("parameters", []):
        assert parameter.get("description"), parameter["name"]
    ids = [one["operationId"] for one in OPERATIONS.values()]
    assert ids.count(operation["operationId"]) == 1


@each_operation
def test_every_route_shows_what_goes_in_and_what_comes_out(name: str) -> None:
    operation = OPERATIONS[name]
    for form, content in operation.get("requestBody", {}).get("content", {}).items():
        assert has_example(content), f"{form} of the request"
    success = [response for status, response in operation["responses"].items() if status.startswith("2")]
    for response in success:
        for form, content in response["content"].items():
            assert has_example(content), f"{form} of the response"


@each_operation
def test_every_route_names_its_errors(name: str) -> None:
    operation = OPERATIONS[name]
    errors = {
        int(status): response for status, response in operation["responses"].items() if int(status) >= 400
    }
    expected = {422} if operation.get("parameters") or operation.get("requestBody") else set()
    if operation.get("security"):
        expected |= {401, 403, 503}
    if "application/json" in operation.get("requestBody", {}).get("content", {}):
        expected |= {400, 413, 415}
    if "{" in name:
        expected.add(404)
    assert expected <= errors.keys()
    for status, response in errors.items():
        assert response["description"], status
        for form, content in response["content"].items():
            assert has_example(content), f"{status} {form}"


@each_operation
def test_everything_under_dialer_needs_a_right(name: str) -> None:
    method, _, path = name.partition(" ")
    security = OPERATIONS[name].get("security", [])
    if path.startswith(("/dialer", "/ivr")):
        right = "dialer:read" if method == "GET" or path == "/ivr/check" else "dialer:manage"
        assert [right] in [next(iter(one.values())) for one in security]
    else:
        assert not security


def test_every_field_of_a_request_is_described() -> None:
    """By itself, by the shape it holds, or by a name that says it all."""
    plain = {"context", "extension", "name", "description", "number", "value"}
    mute = [
        f"{shape}.{name}"
        for shape in request_shapes()
        for name, field in DOCUMENT["components"]["schemas"][shape].get("properties", {}).items()
        if not (field.get("description") or "$ref" in field or field.get("readOnly") or name in plain)
    ]
    assert mute == []


async def test_it_is_served_to_everybody_with_a_page_to_read_it() -> None:
    async with without_redis() as store, served(store) as client:
        assert (await client.get("/openapi.json"))["paths"] == DOCUMENT["paths"]
        page = await client.ask("GET", "/docs")
        assert (page.status, "openapi.json" in page.text) == (200, True)
        linked = re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', page.text)
        assert linked
        assert [(await client.ask("GET", f"/{one}")).status for one in linked] == [200] * len(linked)
        assert (await client.ask("GET", "/docs-assets/..%2Fcore.py")).status in (404, 422)


def has_example(content: Mapping[str, Any]) -> bool:
    shape = content["schema"]
    named = DOCUMENT["components"]["schemas"].get(shape.get("$ref", "").rpartition("/")[2], {})
    return any(key in place for place in (content, shape, named) for key in ("example", "examples"))


def request_shapes() -> set[str]:
    """The schemas that bodies of requests are made of."""
    found: set[str] = set()
    waiting = [operation["requestBody"] for operation in OPERATIONS.values() if "requestBody" in operation]
    while waiting:
        for name in references(waiting.pop()):
            if name not in found:
                found.add(name)
                waiting.append(DOCUMENT["components"]["schemas"][name])
    return found


def references(part: object) -> Iterator[str]:
    match part:
        case {"$ref": str() as name}:
            yield name.rpartition("/")[2]
        case dict():
            for value in part.values():
                yield from references(value)
        case list():
            for value in part:
                yield from references(value)
