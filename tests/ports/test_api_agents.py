"""Calls with agents, as a client of the API sees them: dispositions, stats, live calls, screen pops."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from dialer_engine.api import shapes
from dialer_engine.core.model import CampaignId
from dialer_engine.store.events import Kind
from tests.ports.api_client import Client, House, new_token
from tests.ports.store_desk import AT, EVA, NOW, OWNER, Desk, talked

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOLD = {"extStatus": "SOLD"}


@pytest_asyncio.fixture(loop_scope="module")
async def client(house: House) -> Client:
    return await house.empty()


@pytest.fixture
def desk(house: House) -> Desk:
    return Desk(house.store)


def path_of(attempt: str) -> str:
    return f"/dialer/calls/{attempt}/extStatus"


async def results(client: Client, campaign: CampaignId) -> list[dict[str, Any]]:
    found = await client.get(f"/dialer/campaigns/{campaign}/results")
    shapes.Results.model_validate(found)
    return list(found["items"])


async def test_an_agent_says_how_his_call_was_before_and_after_it_is_settled(
    client: Client, desk: Desk
) -> None:
    campaign = await desk.running("601")
    request = await desk.connected(campaign)
    path = path_of(request.attempt_id)
    for _ in range(2):
        said = await client.done("PUT", path, {"extStatus": "LATER"})
        assert said == {
            "id": request.attempt_id,
            "state": "PENDING",
            "message": "The result of the call will say so",
        }
    (live,) = (await client.get(f"/dialer/campaigns/{campaign}/calls"))["items"]
    shapes.LiveCall.model_validate(live)
    shown = [live[name] for name in ("phase", "agent", "queue", "disposition")]
    assert shown == ["CONNECTED", EVA, "green", "LATER"]
    await desk.store.calls.release(request.attempt_id, owner=OWNER)

    request = await desk.connected(campaign)
    await desk.settle(request, **talked(), extStatus="LATER")
    for _ in range(2):
        said = await client.done("PUT", path_of(request.attempt_id), SOLD)
        assert (said["state"], said["message"]) == ("AMENDED", "Result successfully amended")
    (result,) = await results(client, campaign)
    assert (result["extStatus"], result["agent"], result["queue"]) == ("SOLD", EVA, talked()["queue"])
    assert result["amended"]["by"] == "token:eva"
    audit = (await client.get("/dialer/audit"))["items"]
    assert [(one["by"], one["subject"], one["detail"]) for one in audit if one["action"] == "dispose"] == [
        ("token:eva", f"call {request.attempt_id}", "SOLD"),
        ("token:eva", f"call {path.split('/')[3]}", "LATER"),
    ]


async def test_dispositions_that_are_refused(client: Client, desk: Desk, house: House) -> None:
    campaign = await desk.running("601", "602")
    ringing, settled = await desk.call(campaign), await desk.call(campaign)
    await desk.settle(settled)
    answer = await client.ask("PUT", path_of(ringing.attempt_id), SOLD)
    assert (answer.status, "has not come to an agent yet" in answer.json["detail"]) == (409, True)
    for attempt in (settled.attempt_id, "a0000000000000000000f"):
        answer = await client.ask("PUT", path_of(attempt), SOLD)
        assert (answer.status, "or its result is archived" in answer.json["detail"]) == (404, True)
    for body in ({}, {"extStatus": None}, {"extStatus": "a b"}, {"extStatus": "x" * 81}, {**SOLD, "by": "me"}):
        answer = await client.ask("PUT", path_of(ringing.attempt_id), body)
        assert answer.status == 422, body
    assert (await client.ask("PUT", path_of("a%20b"), SOLD)).status == 422
    assert (await client.ask("PUT", path_of("x" * 65), SOLD)).status == 422
    reader = await new_token(house.store, "dialer:read", "reader")
    assert (await client.ask("PUT", path_of(ringing.attempt_id), SOLD, token=reader)).status == 403
    assert (await client.ask("GET", path_of(ringing.attempt_id))).status == 405


async def test_stats_tell_of_agents_abandonment_and_every_hour(client: Client, desk: Desk) -> None:
    campaign = await desk.running("601", "602", "603", "604")
    now = datetime.now(UTC)
    before = await client.get(f"/dialer/campaigns/{campaign}/stats")
    shapes.Stats.model_validate(before)
    assert (before["secondsToAgent"], before["agents"], before["queue"], before["hours"]) == ({}, {}, {}, [])
    for result in (
        talked(now),
        talked(now, secondsToAgent=3.0, abandoned=True),
        talked(now, agent=None),
        {"status": "RS_BUSY", "endedAt": AT.isoformat()},  # long ago
    ):
        await desk.settle(await desk.call(campaign), **result)
    found = await client.get(f"/dialer/campaigns/{campaign}/stats")
    shapes.Stats.model_validate(found)
    assert found["calls"] == {"TERMINATED": 2, "RS_LOST": 1, "RS_BUSY": 1}
    counts = {name: found[name] for name in ("answered", "queued", "connected", "abandoned")}
    assert counts == {"answered": 3, "queued": 3, "connected": 2, "abandoned": 2}
    assert (found["answerRate"], found["abandonRate"]) == (0.75, 0.6667)
    assert (found["secondsToAgent"], found["talkSeconds"]) == ({"average": 2.25}, 120.5)
    of_eva = {"calls": 2, "talkSeconds": 120.5, "secondsToAgent": 2.25, "abandoned": 1, "lost": 0}
    assert found["agents"].keys() == {EVA}
    assert {name: found["agents"][EVA][name] for name in of_eva} == of_eva
    (hour,) = found["hours"]
    assert (hour["hour"], hour["calls"], hour["lost"]) == (f"{now:%Y-%m-%dT%H}:00:00+00:00", 3, 1)
    (of_list,) = found["callLists"]
    assert (of_list["callList"], of_list["calls"], of_list["abandonRate"]) == (1, 4, 0.6667)
    for hours in ("0", "169", "x"):
        assert (await client.ask("GET", f"/dialer/campaigns/{campaign}/stats?hours={hours}")).status == 422


async def test_stats_show_the_queue_as_the_last_plan_saw_it(client: Client, desk: Desk) -> None:
    campaign = await desk.running("601")
    at = datetime.fromtimestamp(time.time(), UTC).isoformat()
    inputs = {"available": 2, "loggedIn": 10, "waiting": 0, "unserved": 3, "boostFactor": "1.1", "inCall": None}
    plan = {
        "at": at,
        "originate": 0,
        "limit": "WAITING_AGENTS",
        "inputs": inputs,
        "nextAt": None,
        "text": "No.",
    }
    await desk.store.campaigns.tell_plans("host", {campaign: plan})
    found = await client.get(f"/dialer/campaigns/{campaign}/stats")
    shapes.Stats.model_validate(found)
    assert (found["activity"], found["queue"]) == (
        "WAITING_AGENTS",
        {"loggedIn": 10, "available": 2, "waiting": 0},
    )


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", '{"limit": "IDLE"}'])
async def test_a_plan_that_is_none_is_not_told(client: Client, desk: Desk, house: House, text: str) -> None:
    campaign = await desk.running("601")
    await house.command("HSET", f"{{dialer}}:campaign:{campaign}:plan", "host", text)
    assert (await client.get(f"/dialer/campaigns/{campaign}/stats"))["activity"] is None
    assert (await client.get(f"/dialer/campaigns/{campaign}/plan"))["limit"] is None


async def test_a_connected_call_is_told_for_screen_pops(client: Client, desk: Desk) -> None:
    facts = {
        "campaign": 1,
        "run": 1,
        "attempt": "a000001",
        "number": "601",
        "agent": EVA,
        "queue": "green",
        "attributes": {"name": "Jan"},
        "secondsToAgent": 0.612,
    }
    await desk.store.events.tell(Kind.CONNECTED, facts, now=NOW)
    headers = {"Last-Event-ID": "0-0"}
    answer = await client.ask("GET", "/dialer/events?limit=1", headers=headers)
    assert "event: connected\n" in answer.text
    assert f'"agent":"{EVA}"' in answer.text
    assert '"attributes":{"name":"Jan"}' in answer.text


async def test_results_as_csv_tell_of_the_queue(client: Client, desk: Desk) -> None:
    campaign = await desk.running("601", "602")
    request = await desk.connected(campaign)
    await desk.settle(request, **talked())
    await client.done("PUT", path_of(request.attempt_id), SOLD)
    await desk.settle(await desk.call(campaign))
    answer = await client.ask("GET", f"/dialer/campaigns/{campaign}/results?format=csv")
    head, first, second = answer.text.splitlines()
    assert head.endswith(",redialAt,queue")
    assert first.startswith("601,TERMINATED,SOLD,")
    assert f",{EVA}," in first
    assert '""talkSeconds"": 60.25' in first
    assert second.endswith(",,")
