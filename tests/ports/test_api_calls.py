"""Calls added to a run, and what is told of one number, as a client of the API sees them."""

from __future__ import annotations

import time
from typing import Any

import pytest
import pytest_asyncio

from dialer_engine.core.model import CampaignId, Command, Due
from dialer_engine.store.records import ClaimKind, Closed, RedialAt
from tests.ports.api_client import Client, House
from tests.ports.store_desk import NOW, OWNER, Desk

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def client(house: House) -> Client:
    return await house.empty()


@pytest.fixture
def desk(house: House) -> Desk:
    return Desk(house.store)


async def fed(desk: Desk, *rows: str) -> tuple[CampaignId, str]:
    """A running campaign that waits for calls, and where they are added."""
    campaign = await desk.running(*rows, whenDone="wait")
    return campaign, f"/dialer/campaigns/{campaign}/calls"


async def rows_due(desk: Desk, campaign: CampaignId, now: float) -> list[str]:
    return [one.row for one in await desk.waiting(campaign, now) if not one.fresh]


async def test_an_added_call_is_due_at_once_or_later(client: Client, desk: Desk) -> None:
    campaign, path = await fed(desk, "601")
    added = await client.done("POST", path, {"number": "602 000", "attributes": {"name": "Eva"}})
    assert added == {"id": 1, "message": "Call successfully added"}
    later = {"number": "603", "at": "2099-12-31T17:00:00+01:00"}
    assert (await client.done("POST", path, later))["id"] == 2
    assert (await client.done("POST", path, {"number": "604", "at": "1999-01-01T00:00:00Z"}))["id"] == 3

    now = time.time()
    assert await rows_due(desk, campaign, now) == ['{"number":"602 000","attributes":{"name":"Eva"}}', "604"]
    assert (await desk.view(campaign, now)).due == 3
    assert (await desk.view(campaign, now)).next_due_at == pytest.approx(now, abs=5)
    assert await rows_due(desk, campaign, 5e9) == [
        '{"number":"602 000","attributes":{"name":"Eva"}}',
        "604",
        "603",
    ]
    numbers = (await client.get(f"/dialer/campaigns/{campaign}/stats"))["numbers"]
    assert (numbers["total"], numbers["waiting"], numbers["scheduled"]) == (4, 1, 3)


async def test_its_call_is_as_any_other_and_leaves_nothing(client: Client, desk: Desk, house: House) -> None:
    campaign, path = await fed(desk)
    await client.done("POST", path, {"number": "602", "attributes": {"name": "Eva"}})
    now = time.time()
    (request,) = await desk.claim(campaign, now=now)
    (live,) = (await client.get(path))["items"]
    assert (live["number"], live["callList"]) == ("602", None)
    again = Due(request.due.contact, request.due.counts)
    busy = {"status": "RS_BUSY"}
    await desk.store.calls.settle(request.attempt_id, result=busy, next=RedialAt(again, now), now=now)
    (request,) = await desk.claim(campaign, now=now)
    await desk.store.calls.release(request.attempt_id, owner=OWNER)
    (request,) = await desk.claim(campaign, now=now)
    await desk.store.calls.settle(request.attempt_id, result=busy, next=Closed(), now=now)
    results = (await client.get(f"/dialer/campaigns/{campaign}/results"))["items"]
    assert [(one["number"], one["callList"], one["run"]) for one in results] == [("602", None, 1)] * 2
    view = await desk.view(campaign)
    assert (view.due, view.live, view.counts.read, view.counts.closed) == (0, 0, 1, 1)
    assert await house.command("EXISTS", f"{{dialer}}:campaign:{campaign}:added") == 0


async def test_an_added_call_obeys_do_not_call_and_one_call_per_number(client: Client, desk: Desk) -> None:
    campaign, path = await fed(desk)
    for number in ("602", "603", "603"):
        await client.done("POST", path, {"number": number})
    await client.done("POST", "/dialer/do-not-call", {"number": "602"})
    now = time.time()
    requests = desk.requests(await desk.waiting(campaign, now))
    reply = await desk.send_claim(campaign, requests, now=now)
    kinds = [one.kind for one in reply.outcomes]
    assert kinds == [ClaimKind.FORBIDDEN, ClaimKind.CLAIMED, ClaimKind.NUMBER_BUSY]


async def test_only_a_run_under_way_takes_calls(client: Client, desk: Desk, house: House) -> None:
    campaign = await desk.new_campaign(await desk.new_list("601"))
    path = f"/dialer/campaigns/{campaign}/calls"

    async def refusal() -> Any:
        answer = await client.ask("POST", path, {"number": "602"})
        return answer.status, answer.json.get("allowed")

    assert await refusal() == (409, ["start"])
    await desk.command(campaign, Command.START)
    await client.done("POST", path, {"number": "602"})
    await desk.command(campaign, Command.PAUSE)
    assert (await client.done("POST", path, {"number": "603"}))["id"] == 2, "it waits for unpause"
    await desk.command(campaign, Command.REMOVE)
    assert await refusal() == (409, ["start"])
    assert await house.command("EXISTS", f"{{dialer}}:campaign:{campaign}:added") == 0
    await desk.command(campaign, Command.START)
    assert await rows_due(desk, campaign, time.time()) == []
    assert (await client.done("POST", path, {"number": "604"}))["id"] == 1, "another run counts anew"
    assert (await client.ask("POST", "/dialer/campaigns/99/calls", {"number": "602"})).status == 404


async def test_what_is_wrong_with_a_call_is_told(client: Client, desk: Desk) -> None:
    campaign, path = await fed(desk)
    wrong = {"number": "call me", "attributes": {"a-b": 1}, "at": "tomorrow", "colour": "green"}
    answer = await client.ask("POST", path, wrong)
    assert (answer.status, set(answer.paths)) == (422, {"attributes.a-b.[key]", "at", "colour"})
    answer = await client.ask("POST", path, {"number": "112"})
    assert (answer.status, answer.paths) == (422, ["number"])
    answer = await client.ask(
        "POST", path, {"number": "602", "attributes": {f"a{n}": "x" * 900 for n in range(6)}}
    )
    assert (answer.status, answer.paths) == (422, ["attributes"])
    assert (await desk.view(campaign)).due == 0


async def test_a_call_is_added_once_for_a_key_whenever_its_process_died(
    client: Client, desk: Desk, house: House
) -> None:
    campaign, path = await fed(desk)
    call = {"number": "602"}
    first = await client.done("POST", path, call, Idempotency_Key="k")
    assert await client.done("POST", path, call, Idempotency_Key="k") == first
    (name,) = await house.command("KEYS", "{dialer}:answer:*")
    kept = str(await house.command("GET", name))
    await house.command("SET", name, kept[: kept.index(',"answer"')] + "}")  # it died before it answered
    await desk.claim(campaign, now=time.time())  # and the call is on its way
    assert await client.done("POST", path, call, Idempotency_Key="k") == first
    assert (await desk.view(campaign)).counts.read == 1
    other = await client.ask("POST", path, {"number": "603"}, headers={"Idempotency-Key": "k"})
    assert other.status == 422


# --- one number ---


async def test_every_call_to_a_number_is_told_over_all_campaigns(client: Client, desk: Desk) -> None:
    first = await desk.running("601", "602")
    second = await desk.running("601")
    for campaign, status in ((first, "RS_BUSY"), (second, "RS_NOANSWER")):
        request = await desk.call(campaign)
        await desk.store.calls.settle(request.attempt_id, result={"status": status}, next=Closed(), now=NOW)
    other = await desk.call(first)
    told = await client.get("/dialer/numbers/6-01")
    assert told["number"] == "601"
    came_to = [(one["campaign"], one["status"]) for one in told["items"]]
    assert came_to == [(second, "RS_NOANSWER"), (first, "RS_BUSY")]
    assert (told["total"], told["live"], told["doNotCall"], told["completeSince"]) == (2, None, [], None)
    page = await client.get("/dialer/numbers/601?page=2&pageSize=1")
    assert [one["campaign"] for one in page["items"]] == [first]
    live = (await client.get("/dialer/numbers/602"))["live"]
    assert (live["campaign"], live["attempt"], live["phase"]) == (first, other.attempt_id, "SENT")
    assert (await client.get("/dialer/numbers/999999"))["items"] == []
    assert (await client.ask("GET", "/dialer/numbers/112")).paths == ["path.number"]


async def test_who_may_not_be_called_is_told_with_his_number(client: Client, desk: Desk) -> None:
    campaign = await desk.running("601")
    await client.done("POST", "/dialer/do-not-call", {"number": "601", "reason": "asked"})
    await client.done("POST", "/dialer/do-not-call", {"number": "601", "campaign": campaign})
    told = (await client.get("/dialer/numbers/601"))["doNotCall"]
    assert [(one["campaign"], one["reason"], one["by"]) for one in told] == [
        (None, "asked", "token:eva"),
        (campaign, "do-not-call", "token:eva"),
    ]


async def test_notes_of_calls_leave_with_their_results(client: Client, desk: Desk, house: House) -> None:
    kept = await desk.running("601")
    gone = await desk.running("601", "602")
    results = desk.store.results
    for campaign in (gone, kept):
        request = await desk.call(campaign)
        await desk.store.calls.settle(request.attempt_id, result={"status": "RS_BUSY"}, next=Closed(), now=NOW)
    assert (await client.get("/dialer/numbers/601"))["total"] == 2
    (first,) = await results.entries(gone)
    assert await results.lease("host", 60)
    await results.trim(gone, through=first[0], owner="host")
    told = await client.get("/dialer/numbers/601")
    assert ([one["campaign"] for one in told["items"]], told["total"]) == ([kept], 1)
    assert told["completeSince"] is not None
    await client.done("PUT", f"/dialer/campaigns/{kept}/control", {"command": "remove"})
    await client.done("DELETE", f"/dialer/campaigns/{kept}")
    assert (await client.get("/dialer/numbers/601"))["total"] == 0
    (key,) = await house.command("KEYS", "{dialer}:calls:*")
    assert await house.command("LLEN", key) == 2
    again = await desk.running("601")
    request = await desk.call(again)
    await desk.store.calls.settle(request.attempt_id, result={"status": "RS_BUSY"}, next=Closed(), now=NOW)
    assert await house.command("LLEN", key) == 1, "only what is there is noted"
