"""What happens, told as it happens: GET /dialer/events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from dialer_engine.core.model import Command
from dialer_engine.store import Store
from dialer_engine.store.events import Kind
from dialer_engine.store.records import Closed, RedialAt
from tests.ports.api_client import Client, House, new_token, served
from tests.ports.store_desk import CAMPAIGN, FLOW, NOW, Desk, RealRedis

pytestmark = pytest.mark.asyncio(loop_scope="module")

Told = tuple[str, str, dict[str, Any]]  # id, kind, data


@pytest_asyncio.fixture(loop_scope="module")
async def client(house: House) -> Client:
    return await house.empty()


@pytest.fixture
def desk(house: House) -> Desk:
    return Desk(house.store)


async def events(reply: aiohttp.ClientResponse) -> AsyncIterator[Told]:
    """As a browser's EventSource reads them."""
    fields: dict[str, str] = {}
    async for line in reply.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            yield fields.get("id", ""), fields["event"], json.loads(fields["data"])
            fields = {}


@asynccontextmanager
async def following(client: Client, query: str = "", last: str = "") -> AsyncIterator[AsyncIterator[Told]]:
    headers = {"Last-Event-ID": last} if last else {}
    async with client.reading(f"/dialer/events{query}", headers) as reply:
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield events(reply)


async def some(told: AsyncIterator[Told], count: int) -> list[Told]:
    return [await asyncio.wait_for(anext(told), 5) for _ in range(count)]


async def all_of(client: Client, last: str = "0-0") -> list[tuple[str, dict[str, Any]]]:
    """Everything that is kept behind an event."""
    await client.done("PUT", "/dialer/stop")
    found = []
    async with following(client, last=last) as told:
        async for _, kind, data in told:
            if kind == "stop":
                break
            found += [(kind, data)] if kind != "missed" else []
    await client.done("DELETE", "/dialer/stop")
    return found


async def test_the_stream_ends_after_so_many_events(client: Client, desk: Desk) -> None:
    async with following(client, "?limit=2") as told:
        began = time.time()
        await client.done("PUT", "/dialer/stop")
        await client.done("DELETE", "/dialer/stop")
        found = [(kind, data) async for _, kind, data in told]
        assert time.time() - began < 2
    assert [(kind, data["stopped"], data["by"]) for kind, data in found] == [
        ("stop", True, "token:eva"),
        ("stop", False, "token:eva"),
    ]
    assert found[0][1]["at"].endswith("+00:00")


async def test_what_is_done_to_campaigns_lists_ivrs_and_numbers_is_told(client: Client) -> None:
    made = await client.done("POST", "/dialer/call-lists", {"name": "x", "numbers": [{"number": "601"}]})
    ivr = (await client.done("POST", "/ivr", FLOW))["id"]
    definition = {**CAMPAIGN, "callLists": [made["id"]], "ivr": ivr}
    campaign = (await client.done("POST", "/dialer/campaigns", definition))["id"]
    path = f"/dialer/campaigns/{campaign}"
    await client.done("PUT", path, {**definition, "name": "other"})
    await client.done("PUT", f"{path}/control", {"command": "start"})
    await client.done("PUT", f"{path}/control", {"command": "remove"})
    await client.done("POST", "/dialer/do-not-call", {"number": "601"})
    await client.done("DELETE", path)
    found = await all_of(client)
    assert [(data["action"], data["subject"]) for kind, data in found if kind == "edit"] == [
        ("create", "list 1"),
        ("create", f"ivr {ivr}"),
        ("create", "campaign 1"),
        ("edit", "campaign 1"),
        ("forbid", "do-not-call"),
        ("delete", "campaign 1"),
    ]
    states = [(data["state"], data["run"], data["by"]) for kind, data in found if kind == "state"]
    assert states == [("RUNNING", 1, "token:eva"), ("REMOVED", 1, "token:eva")]
    assert {data.get("by") for _, data in found} == {"token:eva"}


async def test_states_that_nobody_commanded_are_told(client: Client, desk: Desk) -> None:
    campaign = await desk.running("601")
    await desk.store.campaigns.set_invalid(campaign, "no IVR", now=NOW)
    await desk.store.campaigns.set_valid(campaign, now=NOW)
    request = await desk.call(campaign)
    await desk.store.calls.settle(request.attempt_id, result={"status": "RS_BUSY"}, next=Closed(), now=NOW)
    view = await desk.view(campaign)
    assert await desk.store.campaigns.complete(campaign, view.run, view.lists, now=NOW)
    found = [(data["state"], data.get("reason")) for kind, data in await all_of(client) if kind == "state"]
    assert found == [("RUNNING", None), ("INVALID", "no IVR"), ("RUNNING", None), ("COMPLETED", None)]


async def test_results_are_told(client: Client, desk: Desk) -> None:
    campaign = await desk.running("601", "602")
    first, second = await desk.call(campaign), await desk.call(campaign)
    result = {"status": "TERMINATED", "extStatus": "CONFIRMED", "values": {"answer": "1"}}
    await desk.store.calls.settle(first.attempt_id, result=result, next=Closed(), now=NOW)
    again = RedialAt(second.due, NOW + 60)
    for _ in range(2):  # the second settlement of an attempt is none
        await desk.store.calls.settle(second.attempt_id, result={"status": "RS_BUSY"}, next=again, now=NOW)
    told = [data for kind, data in await all_of(client) if kind == "result"]
    assert [(one["number"], one["status"], one.get("extStatus")) for one in told] == [
        ("601", "TERMINATED", "CONFIRMED"),
        ("602", "RS_BUSY", None),
    ]
    assert (told[0]["campaign"], told[0]["attempt"]) == (campaign, first.attempt_id)
    assert "redialAt" not in told[0]
    assert told[1]["redialAt"].startswith("20")


async def test_who_comes_back_with_his_last_event_misses_nothing(client: Client) -> None:
    async with following(client) as told:
        await client.done("PUT", "/dialer/stop")
        ((last, _, _),) = await some(told, 1)
    for method in ("DELETE", "PUT", "DELETE"):
        await client.done(method, "/dialer/stop")
    async with following(client, "?limit=3", last=last) as told:
        assert [data["stopped"] async for _, _, data in told] == [False, True, False]
    bad = await client.ask("GET", "/dialer/events", headers={"Last-Event-ID": "yesterday"})
    assert (bad.status, bad.paths) == (422, ["header.Last-Event-ID"])


async def test_who_stays_away_for_too_long_is_told_so(client: Client, house: House) -> None:
    await client.done("PUT", "/dialer/stop")
    await client.done("DELETE", "/dialer/stop")
    await house.command("XTRIM", "{dialer}:events", "MAXLEN", "1")
    async with following(client, "?limit=1", last="5-0") as told:
        assert [kind async for _, kind, _ in told] == ["missed", "stop"]


async def test_what_another_program_has_put_there_harms_nothing(
    client: Client, desk: Desk, house: House
) -> None:
    await house.command("XADD", "{dialer}:events", "*", "kind", "result", "facts", "nonsense")
    await house.command("XADD", "{dialer}:events", "*", "what", "else")
    await client.done("PUT", "/dialer/stop")
    async with following(client, "?limit=3", last="1-0") as told:
        kinds = [kind async for _, kind, _ in told]
    assert kinds == ["missed", "result", "stop"]
    await house.command("DEL", "{dialer}:events")
    await house.command("SET", "{dialer}:events", "a text")
    await client.done("DELETE", "/dialer/stop")
    campaign = await desk.running("601")
    await desk.command(campaign, Command.PAUSE)
    assert (await client.ask("GET", "/dialer/events")).status == 409


async def test_a_reader_who_does_not_read_holds_up_nobody(client: Client, house: House) -> None:
    """And costs no more than the socket holds: the stream is in Redis."""
    facts = {"action": "edit", "subject": "x" * 8000}
    async with client.reading("/dialer/events") as slow, following(client, "?limit=2001") as told:
        await slow.content.readline()
        tell = house.store.events.tell
        await asyncio.gather(*(tell(Kind.EDIT, facts, now=NOW) for _ in range(2000)))
        begun = time.monotonic()
        await client.done("PUT", "/dialer/stop")
        count = sum([1 async for _ in told])
        assert count == 2001
        assert time.monotonic() - begun < 5


async def test_a_token_that_is_revoked_ends_the_stream(
    client: Client, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dialer_engine.api.events.BEAT_SECONDS", 0.3)
    reader = client.as_holder_of(await new_token(house.store, "dialer:read", name="ann"))
    async with reader.reading("/dialer/events") as reply:
        assert await reply.content.readline() == b"retry: 2000\n"
        await reply.content.readline()
        assert (await asyncio.wait_for(reply.content.readline(), 3)).startswith(b":")
        await house.store.accounts.revoke_token("ann", by="test", now=time.time())
        rest = await asyncio.wait_for(reply.content.read(), 3)
        assert rest.strip(b"\n: alsiwe") == b""


async def test_it_ends_the_stream_of_one_to_whom_much_is_told_too(
    client: Client, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dialer_engine.api.events.BEAT_SECONDS", 0.3)
    reader = client.as_holder_of(await new_token(house.store, "dialer:read", name="ann"))

    async def tell_for_ever() -> None:
        while True:
            await house.store.events.tell(Kind.EDIT, {"action": "edit"}, now=NOW)
            await asyncio.sleep(0.05)

    async with reader.reading("/dialer/events") as reply:
        telling = asyncio.create_task(tell_for_ever())
        try:
            assert b"event: edit" in await asyncio.wait_for(reply.content.readuntil(b"event: edit"), 3)
            await house.store.accounts.revoke_token("ann", by="test", now=time.time())
            await asyncio.wait_for(reply.content.read(), 3)
        finally:
            telling.cancel()


async def test_who_follows_keeps_his_place_while_redis_is_away(
    redis_server: RealRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dialer_engine.api.events.BEAT_SECONDS", 0.3)
    store = await Store.open(redis_server.url, timeout_seconds=0.5)
    async with served(store, token=await new_token(store)) as client, following(client) as told:
        redis_server.kill()
        await asyncio.sleep(1.5)  # some beats long, in which nobody can say whether he may read
        redis_server.start()
        await client.done("PUT", "/dialer/stop")
        ((_, kind, _),) = await some(told, 1)
    assert kind == "stop"
    await store.close()
