"""Calls with agents: who has been served, what the agent says of a call, and what is counted of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from dialer_engine.archive import Archive
from dialer_engine.core.model import AttemptId, CampaignId, Command, ListId
from dialer_engine.errors import Invalid, Unavailable
from dialer_engine.store.records import (
    ClaimRequest,
    Closed,
    DisposeKind,
    PinnedList,
    RedialAt,
    RefusedRow,
    SettleKind,
)
from dialer_engine.store.stats import KEPT, RunStats, Tally, item
from tests.ports.store_desk import AT, EVA, NOW, OWNER, Desk, talked

WORDS = ["", " SOLD", "SOLD\n", "S" * 81, "ž", "A/B"]


async def dispose(desk: Desk, request: ClaimRequest, ext_status: str, by: str = "eva") -> DisposeKind:
    return await desk.store.calls.dispose(request.attempt_id, ext_status, by=by, now=NOW)


async def result_of(desk: Desk, campaign: CampaignId) -> Mapping[str, object]:
    (found,) = (await desk.store.results.read(campaign)).items
    return found


async def disposals(desk: Desk) -> list[tuple[str, str, str]]:
    entries = await desk.store.audit.read()
    return [(one.by, one.subject, one.detail) for one in entries if one.action == "dispose"]


# --- served ---


async def test_who_has_reached_an_agent_is_served_until_the_call_is_over(desk: Desk) -> None:
    campaign = await desk.running("601", "602", "603")
    first, _ = await desk.call(campaign), await desk.call(campaign)
    progress = desk.store.calls.progress
    for phase, served in (("QUEUED", 0), ("CONNECTED", 1), ("CONNECTED", 1), ("ANSWERED", 1), ("ENDED", 1)):
        await progress(first.attempt_id, {"phase": phase}, now=NOW)
        view = await desk.view(campaign)
        assert (view.live, view.served) == (2, served), phase
    reply = await desk.send_claim(campaign, desk.requests(await desk.waiting(campaign)))
    assert (reply.campaign_live, reply.campaign_served) == (3, 1)
    await desk.settle(first, **talked())
    assert ((await desk.view(campaign)).live, (await desk.view(campaign)).served) == (2, 0)


async def test_only_the_owners_word_makes_a_call_served(desk: Desk) -> None:
    campaign = await desk.running("601")
    request = await desk.call(campaign)
    await desk.store.calls.progress(request.attempt_id, {"phase": "CONNECTED"}, owner="other", now=NOW)
    assert (await desk.view(campaign)).served == 0


async def test_a_call_that_is_released_is_served_no_more(desk: Desk) -> None:
    campaign = await desk.running("601")
    request = await desk.connected(campaign)
    await desk.store.calls.release(request.attempt_id, owner=OWNER)
    assert (await desk.view(campaign)).served == 0


# --- what the agent says ---


async def test_until_it_is_settled_the_record_carries_the_disposition_and_the_result_says_it(
    desk: Desk,
) -> None:
    campaign = await desk.running("601")
    request = await desk.connected(campaign)
    for said in ("LATER", "SOLD", "SOLD"):
        assert await dispose(desk, request, said) is DisposeKind.PENDING
    record = await desk.store.calls.read(request.attempt_id)
    assert record is not None
    assert (record.disposition, "disposition" in record.progress) == ("SOLD", False)
    settle = desk.store.calls.settle
    for considered in (None, "LATER"):
        kind = await settle(request.attempt_id, result=talked(), next=Closed(), now=NOW, disposition=considered)
        assert kind is SettleKind.CHANGED
    assert not (await desk.store.results.read(campaign)).items
    result = {**talked(), "extStatus": "SOLD"}
    for kind in (SettleKind.DONE, SettleKind.GONE):
        done = await settle(request.attempt_id, result=result, next=Closed(), now=NOW, disposition="SOLD")
        assert done is kind
    shown = await result_of(desk, campaign)
    assert (shown["extStatus"], shown["agent"], "amended" in shown) == ("SOLD", EVA, False)
    assert shown["queue"] == talked()["queue"]
    subject = f"call {request.attempt_id}"
    assert await disposals(desk) == [("eva", subject, "LATER"), ("eva", subject, "SOLD")]


@pytest.mark.parametrize("phase", ["CLAIMED", "SENT", "RINGING", "ANSWERED"])
async def test_a_call_that_no_agent_can_have_is_not_disposed_of(desk: Desk, phase: str) -> None:
    campaign = await desk.running("601")
    (request,) = await desk.claim(campaign)
    await desk.store.calls.progress(request.attempt_id, {"phase": phase}, now=NOW)
    assert await dispose(desk, request, "SOLD") is DisposeKind.NO_AGENT
    await desk.settle(request)
    assert await dispose(desk, request, "SOLD") is DisposeKind.NOT_FOUND
    assert await disposals(desk) == []


@pytest.mark.parametrize("phase", ["QUEUED", "HANDED_OVER", "ENDED"])
async def test_an_agent_may_be_faster_than_the_news_of_him(desk: Desk, phase: str) -> None:
    request = await desk.call(await desk.running("601"))
    await desk.store.calls.progress(request.attempt_id, {"phase": phase}, now=NOW)
    assert await dispose(desk, request, "SOLD") is DisposeKind.PENDING


async def test_who_came_back_from_an_agent_may_still_be_disposed_of(desk: Desk) -> None:
    request = await desk.connected(await desk.running("601"))
    await desk.store.calls.progress(request.attempt_id, {"phase": "ANSWERED"}, now=NOW)
    assert await dispose(desk, request, "SOLD") is DisposeKind.PENDING


async def test_after_the_settlement_the_result_is_amended_wherever_it_is_read(desk: Desk) -> None:
    campaign = await desk.running("601", "602")
    request, other = await desk.connected(campaign), await desk.connected(campaign)
    again = RedialAt(request.due, NOW + 60)
    await desk.settle(request, again, **talked(), extStatus="LATER")
    await desk.settle(other, **talked())
    for said in ("GONE", "SOLD", "SOLD"):
        assert await dispose(desk, request, said, by=f"by-{said}") is DisposeKind.AMENDED
    first, second = (await desk.store.results.read(campaign)).items
    at = AT.isoformat(timespec="milliseconds")
    assert (first["extStatus"], first["amended"]) == ("SOLD", {"by": "by-SOLD", "at": at})
    assert (second["extStatus"], "amended" in second) == (None, False)
    (_, fields), _ = await desk.store.results.entries(campaign)
    assert fields["extStatus"] == "LATER"  # what was settled stays
    total, [history] = await desk.store.numbers.calls("601", 0, 10)
    assert (total, history["extStatus"]) == (1, "SOLD")
    assert (await desk.view(campaign)).due == 1  # what followed for the number stays
    assert [detail for _, _, detail in await disposals(desk)] == ["GONE", "SOLD"]


async def test_a_disposition_told_again_after_the_settlement_amends_nothing(desk: Desk) -> None:
    campaign = await desk.running("601")
    request = await desk.connected(campaign)
    await dispose(desk, request, "SOLD")
    result = {**talked(), "extStatus": "SOLD"}
    await desk.store.calls.settle(request.attempt_id, result=result, next=Closed(), now=NOW, disposition="SOLD")
    assert await dispose(desk, request, "SOLD") is DisposeKind.AMENDED
    assert "amended" not in await result_of(desk, campaign)
    assert len(await disposals(desk)) == 1


async def test_nobody_knows_the_call(desk: Desk) -> None:
    for name in ("a999999", "a 1", "é", ""):
        kind = await desk.store.calls.dispose(AttemptId(name), "SOLD", by="eva", now=NOW)
        assert kind is DisposeKind.NOT_FOUND


@pytest.mark.parametrize("word", WORDS)
async def test_a_disposition_is_a_word(desk: Desk, word: str) -> None:
    with pytest.raises(Invalid):
        await desk.store.calls.dispose(AttemptId("a000001"), word, by="eva", now=NOW)


@pytest.mark.parametrize(
    "amendment", ["", "x", "[]", '{"extStatus": "SOLD"}', '{"extStatus":1,"by":2,"at":"x"}']
)
async def test_an_amendment_that_is_none_amends_nothing(desk: Desk, raw: Any, amendment: str) -> None:
    campaign = await desk.running("601")
    request = await desk.connected(campaign)
    await desk.settle(request, **talked(), extStatus="LATER")
    ((id, _),) = await desk.store.results.entries(campaign)
    key = f"{{dialer}}:campaign:{campaign}:amended"
    await raw("HSET", key, id, amendment)
    assert (await result_of(desk, campaign))["extStatus"] == "LATER"
    assert await dispose(desk, request, "GONE") is DisposeKind.AMENDED
    assert (await result_of(desk, campaign))["extStatus"] == "GONE"


async def test_results_are_read_though_the_amendments_are_another_programs(desk: Desk, raw: Any) -> None:
    campaign = await desk.running("601")
    await desk.settle(await desk.connected(campaign), **talked())
    await raw("SET", f"{{dialer}}:campaign:{campaign}:amended", "mine")
    for _ in range(10):  # fakeredis hangs up on an error now and then
        try:
            assert (await result_of(desk, campaign))["agent"] == EVA
        except Unavailable:
            continue
        return
    raise AssertionError("redis is never there")


# --- archived ---


async def test_an_archived_result_says_what_it_was_amended_to_and_is_amended_no_more(
    desk: Desk, tmp_path: Path, raw: Any
) -> None:
    campaign = await desk.running("601", "602")
    request, other = await desk.connected(campaign), await desk.connected(campaign)
    await desk.settle(request, **talked())
    await desk.settle(other, **talked())
    assert await dispose(desk, request, "SOLD") is DisposeKind.AMENDED
    archive = Archive(tmp_path, desk.store.results)
    await archive.move([campaign], before=datetime.now(UTC) + timedelta(days=2), owner=OWNER)
    found = [one async for one in archive.read(campaign)]
    assert [(one["extStatus"], one.get("amended", {}).get("by")) for one in found] == [  # type: ignore[attr-defined]
        ("SOLD", "eva"),
        (None, None),
    ]
    for one in (request, other):
        assert await dispose(desk, one, "GONE") is DisposeKind.NOT_FOUND
    assert await raw("EXISTS", f"{{dialer}}:campaign:{campaign}:amended") == 0


async def test_what_is_about_to_be_archived_is_amended_no_more(desk: Desk) -> None:
    """Else the file could say one thing and Redis, for a moment, another."""
    campaign = await desk.running("601")
    request = await desk.connected(campaign)
    await desk.settle(request, **talked())
    await desk.store.results.close(campaign, datetime.now(UTC).timestamp() + 60)
    await desk.store.results.close(campaign, 0.0)  # the fence is never taken back
    assert await dispose(desk, request, "SOLD") is DisposeKind.NOT_FOUND
    assert (await result_of(desk, campaign))["extStatus"] is None


async def test_amendments_left_by_a_move_that_was_killed_go_with_the_next(
    desk: Desk, tmp_path: Path, raw: Any
) -> None:
    campaign = await desk.running("601")
    request = await desk.connected(campaign)
    await desk.settle(request, **talked())
    await dispose(desk, request, "SOLD")
    ((id, _),) = await desk.store.results.entries(campaign)
    await desk.store.results.lease(OWNER, 60)
    await desk.store.results.trim(campaign, through=id, owner=OWNER)
    key = f"{{dialer}}:campaign:{campaign}:amended"
    await raw("HSET", key, "9999999999999-0", orjson.dumps({"extStatus": "X", "by": "", "at": 1}).decode())
    await Archive(tmp_path, desk.store.results).move([campaign], before=datetime.now(UTC), owner=OWNER)
    assert await raw("HKEYS", key) == ["9999999999999-0"]


# --- what is counted ---


async def stats(desk: Desk, campaign: CampaignId, hours: int = 24, now: float = NOW) -> RunStats:
    return await desk.store.stats.read(campaign, 1, hours=hours, now=now)


async def test_calls_are_counted_by_the_hour_by_list_and_by_agent(desk: Desk) -> None:
    campaign = await desk.new_campaign(await desk.new_list("601", "602", "603"), await desk.new_list("701"))
    await desk.command(campaign, Command.START)
    await desk.read(campaign)
    await desk.store.campaigns.add_call(campaign, "801", at=NOW, now=NOW)
    hour = AT - timedelta(hours=1)
    results = [
        talked(),  # the added call goes first
        talked(hour, secondsToAgent=2.5, abandoned=True),
        {"status": "RS_BUSY", "endedAt": hour.isoformat()},
        talked(agent=None),
        talked(agent="Jan"),
    ]
    for result in results:
        await desk.settle(await desk.call(campaign), **result)
    found = await stats(desk, campaign)
    eva = Tally({"TERMINATED": 2}, 2, 2, 2, 1, 4.0, 120.5)
    assert found.whole == Tally({"TERMINATED": 3, "RS_LOST": 1, "RS_BUSY": 1}, 4, 4, 3, 2, 5.5, 180.75)
    assert found.agents == {EVA: eva, "Jan": Tally({"TERMINATED": 1}, 1, 1, 1, 0, 1.5, 60.25)}
    assert found.hours == {
        f"{hour:%Y-%m-%dT%H}": Tally({"TERMINATED": 1, "RS_BUSY": 1}, 1, 1, 1, 1, 2.5, 60.25),
        f"{AT:%Y-%m-%dT%H}": Tally({"TERMINATED": 2, "RS_LOST": 1}, 3, 3, 2, 1, 3.0, 120.5),
    }
    assert {one: tally.calls for one, tally in found.lists.items()} == {0: 1, 1: 3, 2: 1}
    assert (await stats(desk, campaign, hours=1)).hours.keys() == {f"{AT:%Y-%m-%dT%H}"}
    assert item(found.whole) == {
        "calls": 5,
        "answered": 4,
        "queued": 4,
        "connected": 3,
        "abandoned": 2,
        "lost": 1,
        "timedOut": 0,
        "answerRate": 0.8,
        "abandonRate": 0.5,
        "secondsToAgent": 1.833,
        "talkSeconds": 180.75,
    }


async def test_before_the_first_call_there_are_no_rates(desk: Desk) -> None:
    found = await stats(desk, await desk.running("601"))
    assert found == RunStats(Tally(), {}, {}, {})
    rates = {name: item(found.whole)[name] for name in ("answerRate", "abandonRate", "secondsToAgent")}
    assert rates == dict.fromkeys(rates)


async def test_a_forbidden_number_was_not_called(desk: Desk) -> None:
    campaign = await desk.running("601", "602")
    for result in ({"status": "RS_BLACKLIST"}, talked()):
        await desk.settle(await desk.call(campaign), **result)
    whole = (await stats(desk, campaign)).whole
    assert (whole.calls, whole.dialed, whole.answer_rate) == (2, 1, 1.0)


async def test_hours_that_are_too_old_go_when_a_new_one_begins(desk: Desk, raw: Any) -> None:
    campaign = await desk.running("601", "602", "603", "604")
    for at in (AT - KEPT - timedelta(hours=2), AT - KEPT - timedelta(hours=1), AT - KEPT, AT):
        await desk.settle(await desk.call(campaign), **talked(at))
    fields = await raw("HKEYS", f"{{dialer}}:campaign:{campaign}:stats:1:hours")
    hours = {field.partition(" ")[2] for field in fields}
    assert hours == {f"{at:%Y-%m-%dT%H}" for at in (AT - KEPT, AT)}


async def test_parts_of_old_runs_go_and_their_whole_stays(desk: Desk, raw: Any) -> None:
    campaign = await desk.running("601")
    await desk.settle(await desk.call(campaign), **talked())
    place = PinnedList(ListId(1), 1, 1)
    refused = [RefusedRow(1, "x", "not a number")]
    await desk.store.reading.accept(campaign, 1, place, rows=[], refused=refused, cursor=2)
    base = f"{{dialer}}:campaign:{campaign}:stats:1"
    parts = [f"{base}:agents", f"{base}:hours", f"{base}:lists", f"{{dialer}}:campaign:{campaign}:refused:1"]
    for run in range(2, 34):
        assert await raw("EXISTS", *parts) == 4, run
        await desk.command(campaign, Command.REMOVE)
        await desk.command(campaign, Command.START)
    assert await raw("EXISTS", *parts) == 0
    assert (await desk.counted(campaign)).connected == 1


async def test_counters_that_are_no_numbers_count_nothing(desk: Desk, raw: Any) -> None:
    campaign = await desk.running("601")
    base = f"{{dialer}}:campaign:{campaign}:stats:1"
    await raw(
        "HSET", base, "answered", "many", "talkSeconds", "inf", "secondsToAgent", "nan", "RS_BUSY", "1e400"
    )
    await raw("HSET", f"{base}:lists", "answered 1", "x", "mine", "1", "calls mine", "1")
    await raw("HSET", f"{base}:agents", "connected", "1", "talkSeconds Eva", "-")
    found = await stats(desk, campaign)
    assert (found.whole, found.lists) == (Tally(), {1: Tally()})
    await desk.settle(await desk.call(campaign), **talked())
    assert (await stats(desk, campaign)).whole.connected == 1


async def test_a_deleted_campaign_leaves_nothing_of_its_agents(desk: Desk, raw: Any) -> None:
    campaign = await desk.running("601")
    request = await desk.connected(campaign)
    await desk.settle(request, **talked())
    await dispose(desk, request, "SOLD")
    await desk.command(campaign, Command.REMOVE)
    await desk.store.campaigns.delete(campaign, by="test", now=NOW)
    await desk.store.tidy()
    assert await raw("KEYS", f"{{dialer}}:campaign:{campaign}:*") == []
    assert await dispose(desk, request, "GONE") is DisposeKind.NOT_FOUND
