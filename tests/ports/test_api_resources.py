"""Campaigns, call lists, IVRs, do-not-call, stop and audit, as a client of the API sees them."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from dialer_engine.api.requests import iso
from dialer_engine.api.uploads import JsonList
from dialer_engine.core.compliance import NumberPolicy
from dialer_engine.core.model import CampaignId, Status
from dialer_engine.store import Store
from dialer_engine.store.records import Closed, DoNotCall
from tests.ports.api_client import Answer, Client, House, new_token, served, without_redis
from tests.ports.store_desk import CAMPAIGN, FLOW, Desk, RealRedis

NUMBERS = [{"number": "601", "attributes": {"name": "Eva", "debt": 12.5}}, {"number": "602"}]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def client(house: House) -> Client:
    return await house.empty()


@pytest.fixture
def store(house: House) -> Store:
    return house.store


@pytest.fixture
def raw(house: House) -> Callable[..., Awaitable[Any]]:
    return house.command


async def new_list(client: Client, *numbers: str) -> int:
    body = {"name": "list", "numbers": [{"number": number} for number in numbers or ("601",)]}
    made = await client.done("POST", "/dialer/call-lists", body)
    found: int = made["id"]
    return found


async def new_ivr(client: Client) -> str:
    found: str = (await client.done("POST", "/ivr", FLOW))["id"]
    return found


async def new_definition(client: Client, **fields: object) -> dict[str, Any]:
    """The seed's, on a list and an IVR that are there."""
    names = {"callLists": [await new_list(client)], "ivr": await new_ivr(client)}
    return {**CAMPAIGN, **names, **fields}


async def new_campaign(client: Client, **fields: object) -> int:
    made = await client.done("POST", "/dialer/campaigns", await new_definition(client, **fields))
    found: int = made["id"]
    return found


def refused(answer: Answer, status: int, *paths: str) -> None:
    """A problem document that names just these fields."""
    assert (answer.status, sorted(answer.paths)) == (status, sorted(paths)), answer.text
    assert answer.json["status"] == status


# --- campaigns ---


async def test_a_campaign_is_told_with_its_defaults_and_how_it_stands(client: Client) -> None:
    definition = await new_definition(client)
    del definition["rescheduleRules"]
    del definition["endpoint"]
    campaign = (await client.done("POST", "/dialer/campaigns", definition))["id"]
    told = await client.get(f"/dialer/campaigns/{campaign}")
    assert told.items() >= definition.items()
    assert told["rescheduleRules"] == []
    assert told["endpoint"].items() >= {"type": "phone", "boostFactor": 1, "maxWaitingCalls": 2}.items()
    standing = {name: told[name] for name in ("id", "state", "activity", "run", "reason", "maxChannels")}
    assert standing == {
        "id": campaign,
        "state": "NEW",
        "activity": None,
        "run": 0,
        "reason": None,
        "maxChannels": 50,
    }


async def test_every_mistake_is_named_at_once_with_its_path(client: Client) -> None:
    broken = {
        **CAMPAIGN,
        "name": "",
        "activePeriod": {"startTime": "25:00", "endTime": "17:00", "weekDays": [0, 1]},
        "rescheduleRules": [{"status": "RS_ERROR", "retryAfter": -1, "maxAttempts": 1}],
        "colour": "green",
    }
    refused(
        await client.ask("POST", "/dialer/campaigns", broken),
        422,
        "name",
        "activePeriod.startTime",
        "activePeriod.weekDays.0",
        "rescheduleRules.0.retryAfter",
        "colour",
    )


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/dialer/campaigns", ""),
        ("/dialer/do-not-call", ""),
        ("/ivr/check", ""),
        ("/ivr/check", "blocks"),
        ("/dialer/campaigns/1/calls", "attributes"),
    ],
)
async def test_a_crowd_of_members_is_one_mistake(client: Client, path: str, place: str) -> None:
    """To tell each of them held up the loop for an eighth of a second: whoever may only read could stop the dialing."""
    crowd = {f"a{n}": None for n in range(15_000)}
    answer = await client.ask("POST", path, {place: crowd} if place else crowd)
    assert place in answer.paths
    assert len(answer.paths) < 10
    assert "15000 members, more than 500" in answer.text


async def test_what_a_campaign_names_must_be_there(client: Client) -> None:
    answer = await client.ask("POST", "/dialer/campaigns", {**CAMPAIGN, "callLists": [7], "ivr": "missing"})
    refused(answer, 422, "callLists.0", "ivr")
    queueless = await new_definition(client, endpoint={"type": "queue"})
    refused(await client.ask("POST", "/dialer/campaigns", queueless), 422, "endpoint")
    del queueless["endpoint"]
    made = await client.done("POST", "/dialer/campaigns", queueless)
    assert made["id"] == 1, "what is refused takes no number"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"", {}, 422),
        (b'{"name": NaN}', {}, 400),
        (b'{"name": "\\ud800"}', {}, 400),
        (b"[" * 100_000, {}, 400),
        (b"name=campaign", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b'{"name": "' + b"x" * 300_000 + b'"}', {}, 413),
    ],
)
@pytest.mark.parametrize("path", ["/dialer/campaigns", "/ivr"])
async def test_bodies_that_are_no_documents(
    client: Client, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = await client.ask("POST", path, body, headers=headers)
    assert (answer.status, answer.json["status"]) == (status, status)


async def test_every_command_and_those_the_state_refuses(client: Client) -> None:
    campaign = await new_campaign(client)

    async def command(name: str) -> Answer:
        return await client.ask("PUT", f"/dialer/campaigns/{campaign}/control", {"command": name})

    answer = await command("pause")
    assert (answer.status, answer.json["allowed"]) == (409, ["start"])
    for name, state, done in (
        ("start", "RUNNING", "started"),
        ("pause", "PAUSED", "paused"),
        ("unpause", "RUNNING", "unpaused"),
        ("reload", "RUNNING", "reloaded"),
        ("remove", "REMOVED", "removed"),
    ):
        answer = await command(name)
        reply = {"id": campaign, "state": state, "message": f"Campaign successfully {done}"}
        assert (answer.status, answer.json) == (200, reply)
    refused(await command("explode"), 422, "command")
    refused(await client.ask("PUT", "/dialer/campaigns/99/control", {"command": "start"}), 404)
    told = await client.get(f"/dialer/campaigns/{campaign}")
    assert (told["run"], told["changedBy"]) == (1, "token:eva")


async def test_a_start_that_cannot_be_used_makes_it_invalid_and_an_edit_mends_it(
    client: Client, raw: Any
) -> None:
    definition = await new_definition(client)
    campaign = (await client.done("POST", "/dialer/campaigns", definition))["id"]
    path = f"/dialer/campaigns/{campaign}"
    await raw("SREM", "{dialer}:ivrs", definition["ivr"])
    refused(await client.ask("PUT", f"{path}/control", {"command": "start"}), 422, "ivr")
    told = await client.get(path)
    assert (told["state"], told["run"], told["name"]) == ("INVALID", 0, "campaign")
    assert f"there is no IVR '{definition['ivr']}'" in told["reason"]
    assert "INVALID" in (await client.get(f"{path}/plan"))["text"]
    await client.done("PUT", path, {**definition, "ivr": await new_ivr(client)})
    told = await client.get(path)
    assert (told["state"], told["reason"]) == ("NEW", None)
    assert (await client.done("PUT", f"{path}/control", {"command": "start"}))["state"] == "RUNNING"


async def test_the_second_of_two_editors_is_told(client: Client) -> None:
    campaign = await new_campaign(client)
    path = f"/dialer/campaigns/{campaign}"
    read = await client.ask("GET", path)
    first = await client.ask("PUT", path, {**read.json, "name": "first"}, headers={"If-Match": read.etag})
    second = await client.ask("PUT", path, {**read.json, "name": "second"}, headers={"If-Match": read.etag})
    assert (first.status, second.status) == (200, 412)
    again = await client.ask("GET", path)
    assert (again.json["name"], again.etag) == ("first", first.etag)
    assert (await client.ask("DELETE", path, headers={"If-Match": read.etag})).status == 412
    await client.done("PUT", f"{path}/control", {"command": "start"})
    assert (await client.ask("GET", path)).etag == first.etag, "the state is no edit"
    await client.done("PUT", path, {**again.json, "name": "third"}, If_Match=f'"other", {first.etag}')
    await client.done("PUT", path, {**again.json, "name": "fourth"}, If_Match="*")
    await client.done("PUT", path, {**again.json, "name": "fifth"})


async def test_of_two_editors_at_once_one_is_told(client: Client) -> None:
    campaign = await new_campaign(client)
    path = f"/dialer/campaigns/{campaign}"
    read = await client.ask("GET", path)
    edits = (
        client.ask("PUT", path, {**read.json, "name": f"editor {n}"}, headers={"If-Match": read.etag})
        for n in range(10)
    )
    answers = await asyncio.gather(*edits)
    assert sorted(answer.status for answer in answers) == [200] + [412] * 9
    assert (await client.get(f"{path}/versions"))["total"] == 2


async def test_versions_tell_who_and_when(client: Client, store: Store) -> None:
    campaign = await new_campaign(client)
    path = f"/dialer/campaigns/{campaign}"
    other = await new_token(store, name="adam")
    before = await client.get(path)
    assert (await client.ask("PUT", path, {**before, "name": "new"}, token=other)).status == 200
    page = await client.get(f"{path}/versions")
    assert [(one["version"], one["by"], one["definition"]["name"]) for one in page["items"]] == [
        (1, "token:eva", "campaign"),
        (2, "token:adam", "new"),
    ]
    assert (page["page"], page["pageSize"], page["total"]) == (1, 100, 2)
    late = await client.get(f"{path}/versions?page=2&pageSize=1")
    assert [one["version"] for one in late["items"]] == [2]


async def test_a_clone_is_new(client: Client) -> None:
    campaign = await new_campaign(client)
    await client.done("PUT", f"/dialer/campaigns/{campaign}/control", {"command": "start"})
    for body, name in ((None, "campaign"), ({"name": "copy"}, "copy")):
        clone = (await client.done("POST", f"/dialer/campaigns/{campaign}/clone", body))["id"]
        told = await client.get(f"/dialer/campaigns/{clone}")
        assert (clone != campaign, told["name"], told["state"], told["run"]) == (True, name, "NEW", 0)
    refused(await client.ask("POST", f"/dialer/campaigns/{campaign}/clone", {"state": "NEW"}), 422, "state")


async def test_the_list_of_campaigns_by_page_and_state(client: Client) -> None:
    definition = await new_definition(client)
    ids = [(await client.done("POST", "/dialer/campaigns", definition))["id"] for _ in range(5)]
    await client.done("PUT", f"/dialer/campaigns/{ids[3]}/control", {"command": "start"})
    page = await client.get("/dialer/campaigns?page=2&pageSize=2")
    assert [one["id"] for one in page["items"]] == ids[2:4]
    assert (page["page"], page["pageSize"], page["total"]) == (2, 2, 5)
    running = await client.get("/dialer/campaigns?state=RUNNING")
    assert ([one["id"] for one in running["items"]], running["total"]) == ([ids[3]], 1)
    assert (await client.get("/dialer/campaigns?page=9"))["items"] == []
    for query, path in (
        ("page=0", "query.page"),
        ("pageSize=5001", "query.pageSize"),
        ("state=LOST", "query.state"),
        ("sate=RUNNING", "query.sate"),
    ):
        refused(await client.ask("GET", f"/dialer/campaigns?{query}"), 422, path)
    many = await client.ask("GET", "/healthz?" + "&".join(f"a{n}=" for n in range(5000)))
    assert len(many.paths) == 101, "whoever asks, the answer is no larger than that"


async def test_a_spoilt_definition_hides_nothing(client: Client, raw: Any) -> None:
    campaign = await new_campaign(client)
    await raw("SET", "{dialer}:campaign:50:definition", '{"name": 1}')
    await raw("SADD", "{dialer}:campaigns", "50")
    sound, spoilt = (await client.get("/dialer/campaigns"))["items"]
    assert (sound["id"], spoilt["id"], spoilt["definition"]) == (campaign, 50, '{"name": 1}')
    assert {"path": "callerId", "detail": "Field required"} in spoilt["problems"]
    refused(
        await client.ask("POST", "/dialer/campaigns/50/clone"),
        422,
        *(one["path"] for one in spoilt["problems"]),
    )
    await client.done("PUT", "/dialer/campaigns/50", await new_definition(client))
    assert (await client.get("/dialer/campaigns/50"))["name"] == "campaign"


async def test_deleting_a_campaign(client: Client) -> None:
    campaign = await new_campaign(client)
    path = f"/dialer/campaigns/{campaign}"
    await client.done("PUT", f"{path}/control", {"command": "start"})
    answer = await client.ask("DELETE", path)
    assert (answer.status, answer.json["allowed"]) == (409, ["remove"])
    await client.done("PUT", f"{path}/control", {"command": "remove"})
    await client.done("DELETE", path)
    for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/stats"), ("GET", "/results"), ("GET", "/plan")):
        refused(await client.ask(method, path + rest), 404)


# --- how a campaign stands ---


async def test_stats_live_calls_and_results_of_a_run(client: Client, store: Store) -> None:
    desk = Desk(store)
    campaign = await desk.running("601", "602", "603", "604")
    path = f"/dialer/campaigns/{campaign}"
    now = time.time()
    said = {"extStatus": "YES", "values": {"answer": "1"}, "path": ["hello"], "answeredAt": iso(now)}
    for result in ({"status": Status.TERMINATED, **said}, {"status": Status.RS_BUSY}):
        call = await desk.call(campaign)
        await store.calls.settle(call.attempt_id, result=result, next=Closed(), now=now)
    live = await desk.call(campaign)

    stats = await client.get(f"{path}/stats")
    assert stats["numbers"] == {
        "total": 4,
        "waiting": 1,
        "scheduled": 0,
        "live": 1,
        "closed": 2,
        "refused": 0,
    }
    assert (stats["state"], stats["run"], stats["calls"]) == ("RUNNING", 1, {"TERMINATED": 1, "RS_BUSY": 1})
    assert (stats["answerRate"], stats["callsPerMinute"]) == (0.5, 2.0)

    (call_now,) = (await client.get(f"{path}/calls"))["items"]
    assert (call_now["attempt"], call_now["number"], call_now["callList"]) == (live.attempt_id, "603", 1)
    assert (call_now["phase"], call_now["attributes"], call_now["answeredAt"]) == ("SENT", [], None)

    results = await client.get(f"{path}/results")
    assert [(one["number"], one["status"], one["extStatus"]) for one in results["items"]] == [
        ("601", "TERMINATED", "YES"),
        ("602", "RS_BUSY", None),
    ]
    assert (results["items"][0]["values"], results["items"][0]["callList"]) == ({"answer": "1"}, 1)
    assert results["next"] is None


async def test_results_by_cursor_and_filter(client: Client, store: Store) -> None:
    desk = Desk(store)
    campaign = await desk.running(*(f"60{n}" for n in range(6)))
    begun = time.time()
    for n in range(6):
        call = await desk.call(campaign)
        status = Status.RS_BUSY if n % 2 else Status.RS_NUMBER
        await store.calls.settle(call.attempt_id, result={"status": status}, next=Closed(), now=begun)

    async def numbers(query: str) -> list[str]:
        page = await client.get(f"/dialer/campaigns/{campaign}/results?{query}")
        return [one["number"] for one in page["items"]]

    first = await client.get(f"/dialer/campaigns/{campaign}/results?pageSize=4")
    assert len(first["items"]) == 4
    assert await numbers(f"cursor={first['next']}") == ["604", "605"]
    assert await numbers("status=RS_BUSY") == ["601", "603", "605"]
    assert await numbers("number=60-3") == ["603"]
    assert await numbers("run=1&status=RS_NUMBER&pageSize=2") == ["600", "602"]
    assert await numbers("run=2") == []
    assert await numbers("since=2001-01-01T00:00:00%2B01:00") == [f"60{n}" for n in range(6)]
    for rest in ("", f"&cursor={first['next']}"):
        assert await numbers(f"since=2101-01-01T00:00:00Z{rest}") == []
    assert await numbers(f"since=2001-01-01T00:00:00Z&cursor={first['next']}") == ["604", "605"]
    for query, place in (
        ("since=2001-01-01T00:00:00", "since"),
        ("cursor=x", "cursor"),
        ("status=BUSY", "status"),
    ):
        answer = await client.ask("GET", f"/dialer/campaigns/{campaign}/results?{query}")
        refused(answer, 422, f"query.{place}")


async def test_the_plan_says_why(client: Client, store: Store) -> None:
    campaign = await new_campaign(client)
    path = f"/dialer/campaigns/{campaign}"
    plan = await client.get(f"{path}/plan")
    assert (plan["limit"], plan["originate"], plan["text"]) == (
        None,
        0,
        "No call may start: the campaign is NEW.",
    )
    await client.done("PUT", f"{path}/control", {"command": "start"})
    assert "no daemon" in (await client.get(f"{path}/plan"))["text"]
    for owner, at, limit in (
        ("b", "2026-11-24T09:00:01+00:00", "RATE"),
        ("a", "2026-11-24T09:00:00+00:00", "IDLE"),
    ):
        told = {"at": at, "originate": 0, "limit": limit, "inputs": {}, "nextAt": None, "text": f"{limit}."}
        await store.campaigns.tell_plans(owner, {CampaignId(campaign): told})
    assert (await client.get(f"{path}/plan"))["limit"] == "RATE"
    assert (await client.get(path))["activity"] == "RATE"
    assert (await client.get(f"{path}/stats"))["activity"] == "RATE"
    await client.done("PUT", f"{path}/control", {"command": "pause"})
    assert (await client.get(path))["activity"] is None


# --- call lists ---


async def test_a_list_keeps_a_number_once(client: Client) -> None:
    body = {"name": "list", "numbers": [*NUMBERS, {"number": "6-01"}]}
    made = await client.done("POST", "/dialer/call-lists", body)
    assert made == {"id": 1, "message": "Call list successfully created", "numbersCount": 2, "repeats": 1}
    assert await client.get("/dialer/call-lists/1") == {
        "id": 1,
        "name": "list",
        "numbersCount": 2,
        "struckOut": 0,
        "generation": 1,
    }
    page = await client.get("/dialer/call-lists/1/numbers")
    assert page["items"] == [NUMBERS[0], {"number": "602", "attributes": []}]
    more = {"numbers": [{"number": "602"}, {"number": "603", "attributes": [{"name": "a", "value": True}]}]}
    added = await client.done("POST", "/dialer/call-lists/1/numbers", more)
    assert (added["numbersCount"], added["repeats"]) == (1, 1)
    late = await client.get("/dialer/call-lists/1/numbers?page=2&pageSize=2")
    assert (late["items"], late["total"]) == ([{"number": "603", "attributes": {"a": True}}], 3)


async def test_a_list_with_mistakes_is_not_there(client: Client) -> None:
    body = {
        "nmae": "list",
        "numbers": [
            {"number": "601"},
            {"number": "60x"},
            {"number": 602},
            {"number": "603", "attributes": {"a b": 1}},
            {"number": "112"},
            "604",
            {"number": "605", "colour": 1},
        ],
    }
    answer = await client.ask("POST", "/dialer/call-lists", body)
    refused(
        answer,
        422,
        "numbers.1.number",
        "numbers.2.number",
        "numbers.3.attributes.a b.[key]",
        "numbers.4.number",
        "numbers.5",
        "numbers.6.colour",
        "name",
        "nmae",
    )
    assert (await client.get("/dialer/call-lists"))["total"] == 0
    many = {"name": "x", "numbers": [{"number": "x"}] * 5000}
    assert len((await client.ask("POST", "/dialer/call-lists", many)).paths) == 101


async def test_who_takes_numbers_for_names_fills_no_memory() -> None:
    """{"601000000": {"name": "Eva"}, ...}: a plausible mistake, in a body of up to 64 MB."""
    read, piece = JsonList(NumberPolicy(), ("name",)), ""
    read.feed(b'{"numbers": [], ')
    tracemalloc.start()
    try:
        for number in range(601_000_000, 601_020_000, 100):
            piece = "".join(f'"{one}": {{"name": "Eva"}}, ' for one in range(number, number + 100))
            read.feed(piece.encode())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    read.feed(b'"name": "x"}', last=True)
    assert (read.members, len(read.problems)) == ({"name": "x"}, 101)
    assert (read.problems[0].place, read.problems[0].reason) == ("601000000", "Extra inputs are not permitted")
    assert most < 1_000_000, "bytes"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"name": "a", "numbers": [{"number": "601"}', 400),
        (b'{"name": "a", "numbers": []} x', 400),
        (b'{"name": "a", "numbers": [], "numbers": []}', 400),
        (b'{"name": "a", "numbers": [{"number": "601"},]}', 400),
        (b'{"name": "a", "numbers": [{"number": "601", "attributes": {"a": NaN}}]}', 400),
        (b'{"name": "a", "numbers": [' + b"[" * 60_000, 400),
        (b'{"name": "a", "numbers": ["' + b"x" * 200_000 + b'"]}', 400),
        (b'{"name": "\xff", "numbers": []}', 400),
        (b'{1: "a"}', 400),
        (b"[]", 422),
        (b"null", 422),
        (b"{}", 422),
        (b'{"name": "a", "numbers": {}}', 422),
        (b'{"name": "a", "numbers": [], "\\ud800": 1}', 422),
        (b'{"name": "a", "numbers": [{"number": "601", "attributes": {"a": "\\ud800"}}]}', 422),
    ],
)
async def test_lists_that_are_no_documents(client: Client, body: bytes, status: int) -> None:
    answer = await client.ask("POST", "/dialer/call-lists", body)
    assert (answer.status, answer.json["status"]) == (status, status), answer.text
    assert (await client.get("/dialer/call-lists"))["total"] == 0


async def test_a_list_as_something_else_than_json(client: Client) -> None:
    answer = await client.ask("POST", "/dialer/call-lists", b"<a/>", headers={"Content-Type": "text/xml"})
    refused(answer, 415)


async def test_a_list_arrives_in_any_pieces(client: Client) -> None:
    """Numbers before the name, blanks, escapes: cut at every byte."""
    eva = '{"number": "601", "attributes": {"n\\u0061me": "\u017d\u00edt"}}'
    text = f'{{"numbers" : [ {eva},{{"number":"602"}} ],\n "name": "x"}}'
    whole = text.encode()
    for cut in range(1, len(whole), 7):

        async def pieces(cut: int = cut) -> AsyncIterator[bytes]:
            for start in range(0, len(whole), cut):
                yield whole[start : start + cut]
                await asyncio.sleep(0)

        made = await client.stream("POST", "/dialer/call-lists", pieces())
        assert (made.status, made.json["numbersCount"]) == (200, 2)
    told = await client.get(f"/dialer/call-lists/{made.json['id']}/numbers")
    assert told["items"][0] == {"number": "601", "attributes": {"name": "\u017d\u00edt"}}


async def test_an_upload_that_breaks_off_leaves_nothing(client: Client, raw: Any) -> None:
    rows = b",".join(b'{"number":"%d"}' % number for number in range(600_000_000, 600_005_000))

    async def rows_there(wanted: bool) -> None:
        deadline = time.monotonic() + 10
        while True:
            keys, imports = await raw("KEYS", "{dialer:list:1}:*"), await raw("SCARD", "{dialer}:imports")
            if (bool(keys), imports) == (wanted, int(wanted)):
                return
            assert time.monotonic() < deadline, keys
            await asyncio.sleep(0.02)

    async def half() -> AsyncIterator[bytes]:
        yield b'{"name":"x","numbers":[' + rows
        await rows_there(True)
        raise ConnectionResetError

    with pytest.raises(aiohttp.ClientError):
        await client.stream("POST", "/dialer/call-lists", half())
    await rows_there(False)
    assert (await client.get("/dialer/call-lists"))["total"] == 0


async def test_replacing_and_renaming_a_list(client: Client) -> None:
    call_list = await new_list(client, "601", "602")
    path = f"/dialer/call-lists/{call_list}"
    await client.done("PUT", path, {"name": "renamed"})
    told = await client.get(path)
    assert (told["name"], told["numbersCount"], told["generation"]) == ("renamed", 2, 1)
    replaced = await client.done("PUT", path, {"name": "new", "numbers": [{"number": "603"}]})
    assert replaced["numbersCount"] == 1
    told = await client.get(path)
    assert (told["name"], told["numbersCount"], told["generation"] > 1) == ("new", 1, True)
    refused(await client.ask("PUT", path, {"numbers": []}), 422, "name")
    refused(await client.ask("PUT", "/dialer/call-lists/99", {"name": "x"}), 404)


async def test_the_second_editor_of_a_list_is_told(client: Client) -> None:
    call_list = await new_list(client)
    path = f"/dialer/call-lists/{call_list}"
    tag = (await client.ask("GET", path)).etag
    await client.done("POST", f"{path}/numbers", {"numbers": [{"number": "700"}]})
    for body in ({"name": "x"}, {"name": "x", "numbers": []}):
        assert (await client.ask("PUT", path, body, headers={"If-Match": tag})).status == 412
    assert (await client.ask("DELETE", path, headers={"If-Match": tag})).status == 412
    edited = await client.ask(
        "PUT", path, {"name": "x", "numbers": []}, headers={"If-Match": (await client.ask("GET", path)).etag}
    )
    assert edited.status == 200
    await client.done("PUT", path, {"name": "y"}, If_Match=edited.etag)
    told = await client.get(path)
    assert (told["name"], told["numbersCount"]) == ("y", 0)


@pytest.mark.parametrize(("if_match", "status"), [(True, 412), (False, 409)])
async def test_a_replacement_that_another_one_has_overtaken_is_refused(
    client: Client, raw: Any, if_match: bool, status: int
) -> None:
    path = f"/dialer/call-lists/{await new_list(client)}"
    tag = (await client.ask("GET", path)).etag

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"name": "slow", "numbers": ['
        for _ in range(500):
            if await raw("SCARD", "{dialer}:imports"):
                break
            await asyncio.sleep(0.01)
        await client.done("PUT", path, {"name": "fast", "numbers": []})
        yield b"]}"

    answer = await client.stream("PUT", path, chunks(), if_match=tag if if_match else None)
    assert answer.status == status
    assert (await client.get(path))["name"] == "fast"


@pytest.mark.parametrize("body", [{"name": "x"}, {"name": "x", "numbers": [{"number": "603"}]}])
async def test_an_editor_of_a_list_is_told_of_a_change_right_behind_his_own(
    client: Client, store: Store, monkeypatch: pytest.MonkeyPatch, body: dict[str, object]
) -> None:
    """The ETag he is answered must not be that of the other one's list, which he has never seen."""
    path, write = f"/dialer/call-lists/{await new_list(client)}", store.audit.write

    async def append_and_write(*, action: str, **entry: Any) -> None:
        if action == "edit":
            await client.done("POST", f"{path}/numbers", {"numbers": [{"number": "700"}]})
        await write(action=action, **entry)

    monkeypatch.setattr(store.audit, "write", append_and_write)
    edited = await client.ask("PUT", path, body)
    assert (await client.ask("DELETE", path, headers={"If-Match": edited.etag})).status == 412


async def test_taking_a_number_out(client: Client) -> None:
    call_list = await new_list(client, "601", "602", "603", "604")
    path = f"/dialer/call-lists/{call_list}/numbers"
    await client.done("DELETE", f"{path}/6-02")
    refused(await client.ask("DELETE", f"{path}/602"), 404)
    await client.done("POST", path, {"numbers": [{"number": "030/605"}]})
    await client.done("DELETE", f"{path}/030%2F605")
    refused(await client.ask("DELETE", f"{path}/x"), 422, "path.number")
    page = await client.get(f"{path}?page=2&pageSize=2")
    assert ([one["number"] for one in page["items"]], page["total"]) == (["604"], 3)
    about = await client.get("/dialer/numbers/030%2F605")
    assert (about["number"], about["total"]) == ("030605", 0)
    told = await client.get(f"/dialer/call-lists/{call_list}")
    assert (told["numbersCount"], told["struckOut"]) == (3, 2)


async def test_a_list_in_use_is_not_deleted(client: Client) -> None:
    definition = await new_definition(client)
    campaign = (await client.done("POST", "/dialer/campaigns", definition))["id"]
    path = f"/dialer/call-lists/{definition['callLists'][0]}"
    answer = await client.ask("DELETE", path)
    assert (answer.status, f"campaigns {campaign}" in answer.json["detail"]) == (409, True)
    await client.done("DELETE", f"/dialer/campaigns/{campaign}")
    await client.done("DELETE", path)
    refused(await client.ask("GET", path), 404)


async def test_a_list_that_a_run_is_still_at_is_not_deleted(client: Client, store: Store, raw: Any) -> None:
    """Its definition names another one already; the waiting contacts stand in this one until they are done with."""
    definition = await new_definition(client)
    campaign = (await client.done("POST", "/dialer/campaigns", definition))["id"]
    path, old = f"/dialer/campaigns/{campaign}", definition["callLists"][0]
    await client.done("PUT", f"{path}/control", {"command": "start"})
    desk = Desk(store)
    await desk.read(CampaignId(campaign))
    await client.done("PUT", path, {**definition, "callLists": [await new_list(client)]})

    async def refuses() -> bool:
        answer = await client.ask("DELETE", f"/dialer/call-lists/{old}")
        return (answer.status, f"campaigns {campaign}" in answer.json["detail"]) == (409, True)

    assert await refuses(), "the run reads it"
    await client.done("PUT", f"{path}/control", {"command": "reload"})
    assert await refuses(), "a contact of it waits"
    call = await desk.call(CampaignId(campaign))
    await store.calls.settle(call.attempt_id, result={"status": "RS_BUSY"}, next=Closed(), now=time.time())
    await client.done("DELETE", f"/dialer/call-lists/{old}")


async def test_a_list_that_another_program_has_spoilt_hides_no_other(client: Client, raw: Any) -> None:
    sound, spoilt = await new_list(client), await new_list(client)
    await raw("HSET", f"{{dialer:list:{spoilt}}}:meta", "generation", "latest")
    page = await client.get("/dialer/call-lists")
    assert [(one["id"], one["numbersCount"]) for one in page["items"]] == [(sound, 1), (spoilt, 0)]
    assert (await client.get(f"/dialer/call-lists/{spoilt}/numbers"))["items"] == []


async def test_rows_of_other_programs_are_told_as_they_are(client: Client, raw: Any) -> None:
    call_list = await new_list(client)
    await raw("RPUSH", f"{{dialer:list:{call_list}}}:rows:1", "{broken", '{"number": "777"}')
    first, spoilt, sound = (await client.get(f"/dialer/call-lists/{call_list}/numbers"))["items"]
    assert (first["number"], sound["number"], "problem" in sound) == ("601", "777", False)
    assert (spoilt["number"], "not JSON" in spoilt["problem"]) == ("{broken", True)


# --- IVRs ---


async def test_ivrs_in_the_seed_s_shape(client: Client, raw: Any) -> None:
    ivr = await new_ivr(client)
    (told,) = await client.get("/ivr")
    assert list(told) == [
        "id",
        "name",
        "description",
        "createdAt",
        "updatedAt",
        "createdBy",
        "updatedBy",
        "routing",
    ]
    assert (told["id"], told["name"], told["description"], told["routing"]) == (ivr, "hello", "", [])
    assert told["createdBy"] == {"id": "token:eva", "email": ""}
    await raw("HSET", f"{{dialer}}:ivr:{ivr}", "routing", '[{"exten": "600", "ddi": "+420123"}]')
    whole = await client.get(f"/ivr/{ivr}")
    assert whole["routing"] == [{"exten": "600", "ddi": "+420123"}]
    assert {name: whole[name] for name in FLOW} == FLOW
    for spoilt in ("nonsense", '{"exten": 1}', "[1]"):
        await raw("HSET", f"{{dialer}}:ivr:{ivr}", "routing", spoilt)
        assert (await client.get(f"/ivr/{ivr}"))["routing"] == []


async def test_a_flow_with_mistakes_is_refused_with_their_places(client: Client) -> None:
    flow = {
        "name": "x",
        "start": "a",
        "blocks": {"a": {"type": "goto", "next": "nowhere"}, "b": {"type": "hangup"}, "c": {"type": "sing"}},
    }
    for path in ("/ivr", "/ivr/check"):
        answer = await client.ask("POST", path, flow)
        assert answer.status == 422
        assert {"blocks.a.next", "blocks.c.type"} <= set(answer.paths), answer.text
    assert await client.get("/ivr") == []
    assert await client.done("POST", "/ivr/check", FLOW) == {"message": "No mistakes"}
    refused(await client.ask("POST", "/ivr", {"name": "x"}), 422, "")
    dialplan = {"name": "x", "dialplan": {"context": "survey", "extension": "s"}}
    made = await client.done("POST", "/ivr", dialplan)
    assert (await client.get(f"/ivr/{made['id']}"))["dialplan"] == dialplan["dialplan"]


async def test_editing_and_deleting_an_ivr(client: Client) -> None:
    ivr = await new_ivr(client)
    path = f"/ivr/{ivr}"
    read = await client.ask("GET", path)
    first = await client.ask("PUT", path, {**FLOW, "name": "first"}, headers={"If-Match": read.etag})
    second = await client.ask("PUT", path, {**FLOW, "name": "second"}, headers={"If-Match": read.etag})
    assert (first.status, second.status) == (200, 412)
    assert (await client.ask("DELETE", path, headers={"If-Match": read.etag})).status == 412
    told = await client.ask("GET", path)
    assert (told.json["name"], told.etag) == ("first", first.etag)
    definition = {**CAMPAIGN, "callLists": [await new_list(client)], "ivr": ivr}
    campaign = (await client.done("POST", "/dialer/campaigns", definition))["id"]
    answer = await client.ask("DELETE", path)
    assert (answer.status, f"campaigns {campaign}" in answer.json["detail"]) == (409, True)
    await client.done("DELETE", f"/dialer/campaigns/{campaign}")
    await client.done("DELETE", path, If_Match=first.etag)
    for method, body in (("GET", None), ("PUT", FLOW), ("DELETE", None)):
        refused(await client.ask(method, path, body), 404)


# --- do-not-call, stop, audit ---


async def test_do_not_call_for_all_and_for_one_campaign(client: Client) -> None:
    campaign = await new_campaign(client)
    until = "2130-01-01T00:00:00+01:00"
    entry = {"number": "(601) 1", "reason": "asked us", "until": until}
    added = await client.done("POST", "/dialer/do-not-call", entry)
    assert added == {"number": "6011", "message": "Number successfully added"}
    await client.done("POST", "/dialer/do-not-call", {"number": "602", "campaign": campaign})
    page = await client.get("/dialer/do-not-call")
    (told,) = page["items"]
    assert (page["total"], told["number"], told["reason"], told["by"]) == (1, "6011", "asked us", "token:eva")
    assert (told["until"], told["campaign"]) == ("2129-12-31T23:00:00.000+00:00", None)
    ours = await client.get(f"/dialer/do-not-call?campaign={campaign}&number=60-2")
    assert [(one["number"], one["campaign"]) for one in ours["items"]] == [("602", campaign)]
    assert (await client.get("/dialer/do-not-call?number=602"))["items"] == []
    await client.done("DELETE", f"/dialer/do-not-call?number=602&campaign={campaign}")
    refused(await client.ask("DELETE", "/dialer/do-not-call?number=602"), 404)
    await client.done("DELETE", "/dialer/do-not-call?number=6011")
    assert (await client.get("/dialer/do-not-call"))["total"] == 0
    refused(await client.ask("POST", "/dialer/do-not-call", {"number": "x", "until": "soon"}), 422, "until")
    refused(await client.ask("POST", "/dialer/do-not-call", {"number": "x"}), 422, "number")
    refused(await client.ask("POST", "/dialer/do-not-call", {"number": "603", "campaign": 99}), 422, "campaign")
    refused(await client.ask("GET", "/dialer/do-not-call?campaign=99"), 422, "query.campaign")
    refused(await client.ask("DELETE", "/dialer/do-not-call"), 422, "query.number")


async def test_a_plus_that_the_query_has_lost_is_told(client: Client) -> None:
    """`?number=+420601` is ` 420601`: "not on the list" would be a lie that somebody is called for."""
    await client.done("POST", "/dialer/do-not-call", {"number": "+420601"})
    campaign = await new_campaign(client)
    for method, path in (
        ("GET", "/dialer/do-not-call"),
        ("DELETE", "/dialer/do-not-call"),
        ("GET", f"/dialer/campaigns/{campaign}/results"),
    ):
        answer = await client.ask(method, f"{path}?number=+420601")
        refused(answer, 422, "query.number")
        assert "%2B" in answer.json["errors"][0]["detail"]
    await client.done("DELETE", "/dialer/do-not-call?number=%2B420601")


async def test_do_not_call_page_by_page(client: Client, store: Store) -> None:
    for number in range(100, 400):
        await store.do_not_call.add(DoNotCall(str(number)))
    numbers = []
    for page in range(1, 5):
        told = await client.get(f"/dialer/do-not-call?page={page}&pageSize=90")
        numbers += [one["number"] for one in told["items"]]
        assert told["total"] == 300
    assert sorted(numbers) == [str(number) for number in range(100, 400)]


async def test_what_was_done_is_told_though_the_audit_takes_no_entry(redis_server: RealRedis) -> None:
    """It is done, so nobody is told that it is not: neither by a full Redis nor for another program's value there."""
    opened = await Store.open(redis_server.url)
    with redis_server.client() as raw:
        async with served(opened, token=await new_token(opened)) as client:
            numbers = {"name": "people", "numbers": [{"number": "601"}]}
            made = await client.done("POST", "/dialer/call-lists", numbers)
            raw.config_set("maxmemory", "1mb")
            await client.done("DELETE", f"/dialer/call-lists/{made['id']}")
            raw.config_set("maxmemory", "0")
            raw.set("{dialer}:audit", "mine")
            await client.done("POST", "/dialer/call-lists", numbers)
    await opened.close()


async def test_a_late_page_of_do_not_call_keeps_nothing_of_those_before(redis_server: RealRedis) -> None:
    """Whoever may read may ask for it, of a list of millions, again and again."""
    opened = await Store.open(redis_server.url)
    async with served(opened, token=await new_token(opened)) as client:
        await opened.do_not_call.add(
            *(
                DoNotCall(str(number), reason="asked us not to", by="token:eva")
                for number in range(100_000, 140_000)
            )
        )
        tracemalloc.start()
        try:
            for page, items in ((39_000, 1), (10**9, 0)):
                told = await client.get(f"/dialer/do-not-call?page={page}&pageSize=1")
                assert (len(told["items"]), told["total"]) == (items, 40_000)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    await opened.close()
    assert most < 3_000_000, f"{most} bytes"


async def test_numbers_are_compared_as_the_configuration_says(house: House) -> None:
    await house.empty()
    token = await new_token(house.store, name="adam")
    async with served(house.store, token=token, policy=NumberPolicy(default_region="CZ")) as client:
        await client.done("POST", "/dialer/do-not-call", {"number": "601 123 456"})
        assert (await client.get("/dialer/do-not-call?number=%2B420601123456"))["total"] == 1
        refused(await client.ask("POST", "/dialer/do-not-call", {"number": "1"}), 422, "number")


async def test_stop_everything(client: Client, store: Store, raw: Any) -> None:
    assert await client.get("/dialer/stop") == {"stopped": False, "by": None, "at": None}
    await client.done("PUT", "/dialer/stop")
    told = await client.get("/dialer/stop")
    assert (told["stopped"], told["by"]) == (True, "token:eva")
    assert (await store.campaigns.load(now=0)).stopped
    for words in ("fire drill", "[]", '{"by": 1, "at": "noon"}'):
        await raw("SET", "{dialer}:stop", words)
        assert await client.get("/dialer/stop") == {"stopped": True, "by": None, "at": None}
    await client.done("DELETE", "/dialer/stop")
    assert not (await store.campaigns.load(now=0)).stopped


async def test_the_audit_tells_who_did_what(client: Client) -> None:
    definition = await new_definition(client)
    campaign = (await client.done("POST", "/dialer/campaigns", definition))["id"]
    path = f"/dialer/campaigns/{campaign}"
    await client.done("PUT", path, {**definition, "name": "new"})
    await client.done("PUT", f"{path}/control", {"command": "start"})
    await client.done("POST", "/dialer/do-not-call", {"number": "601"})
    page = await client.get("/dialer/audit")
    told = [(one["action"], one["subject"]) for one in page["items"] if one["by"] == "token:eva"]
    assert told == [
        ("forbid", "do-not-call"),
        ("start", f"campaign {campaign}"),
        ("edit", f"campaign {campaign}"),
        ("create", f"campaign {campaign}"),
        ("create", f"ivr {definition['ivr']}"),
        ("create", f"list {definition['callLists'][0]}"),
    ]
    second = await client.get("/dialer/audit?page=2&pageSize=2")
    assert second["items"] == page["items"][2:4]


# --- the same request twice ---


async def test_the_same_key_is_carried_out_once(client: Client) -> None:
    definition = await new_definition(client)
    key = {"Idempotency_Key": "order 17"}
    first = await client.done("POST", "/dialer/campaigns", definition, **key)
    assert await client.done("POST", "/dialer/campaigns", definition, **key) == first
    assert (await client.get("/dialer/campaigns"))["total"] == 1
    other = {**definition, "name": "other"}
    headers = {"Idempotency-Key": "order 17"}
    for path, body in (("/dialer/campaigns", other), ("/ivr", FLOW)):
        refused(await client.ask("POST", path, body, headers=headers), 422, "header.Idempotency-Key")
    await client.done("POST", "/dialer/campaigns", other, Idempotency_Key="order 18")
    assert (await client.get("/dialer/campaigns"))["total"] == 2


async def test_the_same_key_ten_times_at_once_makes_one(client: Client) -> None:
    definition = await new_definition(client)
    answers = await asyncio.gather(
        *(client.done("POST", "/dialer/campaigns", definition, Idempotency_Key="k") for _ in range(10))
    )
    assert all(answer == answers[0] for answer in answers)
    assert (await client.get("/dialer/campaigns"))["total"] == 1


async def test_keys_belong_to_who_sent_them(client: Client, store: Store) -> None:
    definition = await new_definition(client)
    adam = await new_token(store, name="adam")
    ids = set()
    for token in (None, adam):
        answer = await client.ask(
            "POST", "/dialer/campaigns", definition, headers={"Idempotency-Key": "k"}, token=token
        )
        ids.add(answer.json["id"])
    assert len(ids) == 2


async def test_a_list_is_uploaded_once(client: Client) -> None:
    body = {"name": "list", "numbers": NUMBERS}
    first = await client.done("POST", "/dialer/call-lists", body, Idempotency_Key="k")
    assert await client.done("POST", "/dialer/call-lists", body, Idempotency_Key="k") == first
    other = {"name": "list", "numbers": NUMBERS[:1]}
    answer = await client.ask("POST", "/dialer/call-lists", other, headers={"Idempotency-Key": "k"})
    refused(answer, 422, "header.Idempotency-Key")
    assert (await client.get("/dialer/call-lists"))["total"] == 1


async def test_who_was_refused_may_ask_again(client: Client) -> None:
    definition = await new_definition(client)
    broken = {**definition, "callLists": [99]}
    headers = {"Idempotency-Key": "k"}
    assert (await client.ask("POST", "/dialer/campaigns", broken, headers=headers)).status == 422
    await client.done("POST", "/dialer/campaigns", definition, Idempotency_Key="k")
    cut = b'{"name": "x", "numbers": ['
    assert (await client.ask("POST", "/dialer/call-lists", cut, headers={"Idempotency-Key": "l"})).status == 400
    await client.done("POST", "/dialer/call-lists", {"name": "x", "numbers": []}, Idempotency_Key="l")


@pytest.mark.parametrize("kind", ["campaign", "list", "ivr"])
async def test_who_died_before_the_answer_was_kept_makes_it_once(client: Client, raw: Any, kind: str) -> None:
    paths = {"campaign": "/dialer/campaigns", "list": "/dialer/call-lists", "ivr": "/ivr"}
    body = {"campaign": await new_definition(client), "list": {"name": "x", "numbers": NUMBERS}, "ivr": FLOW}[
        kind
    ]
    first = await client.done("POST", paths[kind], body, Idempotency_Key="k")
    (key,) = await raw("KEYS", "{dialer}:answer:*")
    kept = json.loads(await raw("GET", key))
    lost = {"answer": None, **({"fingerprint": None} if kind == "list" else {})}
    await raw("SET", key, json.dumps(kept | lost))
    ids = await raw("SMEMBERS", f"{{dialer}}:{kind}s")
    assert await client.done("POST", paths[kind], body, Idempotency_Key="k") == first
    assert await raw("SMEMBERS", f"{{dialer}}:{kind}s") == ids
    if kind == "campaign":
        await client.done("PUT", f"/dialer/campaigns/{first['id']}", {**body, "name": "edited"})
        await raw("SET", key, json.dumps(kept | lost))
        assert await client.done("POST", paths[kind], body, Idempotency_Key="k") == first
        assert (await client.get(f"/dialer/campaigns/{first['id']}"))["name"] == "edited"


# --- when nothing goes ---


async def test_without_redis_everybody_is_told_to_come_again() -> None:
    async with without_redis() as store, served(store) as client:
        for method, path in (("GET", "/dialer/campaigns"), ("POST", "/dialer/call-lists"), ("GET", "/ivr")):
            answer = await client.ask(method, path, token="dialer_eva." + "x" * 43)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            refused(answer, 503)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/dialer/campaigns/", 404),
        ("GET", "/dialer/campaigns/0", 422),
        ("GET", "/dialer/campaigns/one", 422),
        ("GET", f"/dialer/campaigns/{10**30}", 422),
        ("GET", "/ivr/a%2Fb", 404),
        ("GET", "/ivr/a%00b", 422),
    ],
)
async def test_places_that_are_none(client: Client, method: str, path: str, status: int) -> None:
    answer = await client.ask(method, path)
    assert (answer.status, answer.json["status"]) == (status, status)


async def test_a_method_that_is_none_is_told_which_there_are(client: Client) -> None:
    answer = await client.ask("PATCH", "/dialer/campaigns/1", {})
    assert (answer.status, answer.headers["allow"]) == (405, "DELETE, GET, PUT")
    assert json.loads(answer.text)["title"] == "Method Not Allowed"
