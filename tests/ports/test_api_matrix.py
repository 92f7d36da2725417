"""The authorisation matrix: every route of the application against every kind of credential.

Routes are read from the application itself, so a new one stands in the matrix by being there. Which right it needs
is told by its method, unless it is named below: a route that forgets to ask, or asks for too little, fails here.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import cast

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from dialer_engine import api
from dialer_engine.core.compliance import NumberPolicy
from dialer_engine.store import Store
from dialer_engine.store.accounts import MANAGE, READ
from tests.ports.api_client import NO_PROBES
from tests.ports.rights_client import Client, serving
from tests.ports.store_desk import RealRedis

PUBLIC = {
    ("POST", "/token"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),  # its own rule: loopback or api.metrics_token
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/docs-assets/{name}"),
}
OTHERWISE = {("POST", "/ivr/check"): READ}  # it changes nothing

Route = tuple[str, str]


def application(store: Store) -> FastAPI:
    return api.application("1", NO_PROBES, store=store, numbers=NumberPolicy)


def all_routes() -> Iterator[Route]:
    for route in iter_route_contexts(application(cast(Store, None)).routes):
        assert route.path, route
        assert route.methods, f"{route.path} takes any method"
        path = route.path.replace(":path}", "}")  # as the document has it
        yield from ((method, path) for method in route.methods if method not in ("HEAD", "OPTIONS"))


ROUTES = sorted(all_routes())
GUARDED = [route for route in ROUTES if route not in PUBLIC]


def needed(route: Route) -> str:
    return OTHERWISE.get(route) or (READ if route[0] == "GET" else MANAGE)


@pytest.fixture
def store_url(shared_redis: RealRedis) -> str:
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis.url


@pytest.fixture
async def client(store: Store) -> AsyncIterator[Client]:
    async with serving(application(store), store) as client:
        yield client


async def no_token(client: Client) -> str | None:
    return None


async def nonsense(client: Client) -> str:
    return "nonsense"


async def access_expired(client: Client) -> str:
    return await client.forged(await client.access_token("eva", MANAGE), exp=int(time.time()) - 1)


async def access_of_another_key(client: Client) -> str:
    return await client.forged(await client.access_token("eva", MANAGE), key="k" * 64)


async def access_of_a_removed_user(client: Client) -> str:
    bearer = await client.access_token("eva", MANAGE)
    await client.store.accounts.remove_user("eva", by="test", now=time.time())
    return bearer


async def access_before_a_new_password(client: Client) -> str:
    bearer = await client.access_token("eva", MANAGE)
    await client.store.accounts.set_password("eva", "another", by="test", now=time.time())
    return bearer


async def api_token_expired(client: Client) -> str:
    now = time.time()
    return await client.store.accounts.create_token("ci", (MANAGE,), until=now - 1, by="test", now=now)


async def api_token_revoked(client: Client) -> str:
    bearer = await api_token_manage(client)
    await client.store.accounts.revoke_token("ci", by="test", now=time.time())
    return bearer


async def api_token_read(client: Client) -> str:
    return await client.store.accounts.create_token("ci", (READ,), by="test", now=time.time())


async def api_token_manage(client: Client) -> str:
    return await client.store.accounts.create_token("ci", (MANAGE,), by="test", now=time.time())


async def access_read(client: Client) -> str:
    return await client.access_token("eva", READ)


async def access_manage(client: Client) -> str:
    return await client.access_token("eva", MANAGE)


Credential = Callable[[Client], Awaitable[str | None]]
WORTHLESS: list[Credential] = [
    no_token,
    nonsense,
    access_expired,
    access_of_another_key,
    access_of_a_removed_user,
    access_before_a_new_password,
    api_token_expired,
    api_token_revoked,
]


def named(credential: Credential) -> str:
    return credential.__name__


async def refusals(client: Client, bearer: str | None) -> dict[Route, int]:
    """What each guarded route says: 401, 403, or 0 when it goes on. A refusal names the right it needs."""
    found = {}
    for route in GUARDED:
        method, path = route
        answer = await client.ask(method, re.sub(r"\{[^}]*\}", "1", path), bearer, only_status=True)
        assert answer.status < 500, (route, answer)
        found[route] = answer.status if answer.status in (401, 403) else 0
        if found[route]:
            assert f'scope="{needed(route)}"' in answer.headers["www-authenticate"], route
            assert answer.headers["content-type"] == "application/problem+json", route
    return found


def test_the_matrix_has_rows() -> None:
    assert len(GUARDED) > 20
    assert {*ROUTES} >= PUBLIC
    assert OTHERWISE.keys() <= {*ROUTES}


@pytest.mark.parametrize("credential", WORTHLESS, ids=named)
async def test_what_is_worth_nothing_opens_nothing(client: Client, credential: Credential) -> None:
    assert await refusals(client, await credential(client)) == dict.fromkeys(GUARDED, 401)


@pytest.mark.parametrize("credential", [access_read, api_token_read], ids=named)
async def test_the_read_right_opens_what_changes_nothing(client: Client, credential: Credential) -> None:
    expected = {route: 0 if needed(route) == READ else 403 for route in GUARDED}
    assert await refusals(client, await credential(client)) == expected


@pytest.mark.parametrize("credential", [access_manage, api_token_manage], ids=named)
async def test_the_manage_right_opens_everything(client: Client, credential: Credential) -> None:
    assert await refusals(client, await credential(client)) == dict.fromkeys(GUARDED, 0)


async def test_the_document_says_the_same(client: Client) -> None:
    document = (await client.ask("GET", "/openapi.json")).json
    told = {
        (method.upper(), path): operation.get("security", [])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    for route, security in told.items():
        rights = {right for scheme in security for rights in scheme.values() for right in rights}
        assert rights == (set() if route in PUBLIC else {needed(route)}), route
    assert {*GUARDED} <= told.keys()
