"""One store on each kind of Redis: what passes here holds for both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis.asyncio

from dialer_engine.store import Store
from tests.ports.api_client import House, served
from tests.ports.store_desk import Desk, RealRedis, fake_redis, real_redis


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RealRedis]:
    with real_redis(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRedis]:
    """For tests that only need an empty one: emptied before each use."""
    with real_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["fake", "real"])
def store_url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "fake":
        with fake_redis() as url:
            yield url
        return
    yield emptied(request.getfixturevalue("shared_redis"))


def emptied(server: RealRedis) -> str:
    with server.client() as client:
        client.flushall()
    return server.url


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    opened = await Store.open(store_url)
    yield opened
    await opened.close()


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


@pytest.fixture(scope="module", params=["fake", "real"])
def house_url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "fake":
        with fake_redis() as url:
            yield url
    else:
        yield emptied(request.getfixturevalue("shared_redis"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(house_url: str) -> AsyncIterator[House]:
    """The application served on a store, once for a module whose tests share a loop (it takes its time to end)."""
    store = await Store.open(house_url)
    async with served(store) as client:
        yield House(store, client, house_url)
    await store.close()


@pytest.fixture
async def raw(store_url: str) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Any command to the same Redis, as any other program would send it."""
    async with redis.asyncio.Redis.from_url(store_url, decode_responses=True, protocol=2) as client:
        yield client.execute_command
