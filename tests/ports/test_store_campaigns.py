"""Definitions, states and commands: one behaviour, on fakeredis and on a real redis-server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dialer_engine.core.model import CampaignId, CampaignState, Command, ListId, Status
from dialer_engine.errors import Conflict, Invalid, NotFound
from dialer_engine.store.contract import parse_campaign, parse_ivr
from dialer_engine.store.records import Closed, ControlReply
from tests.ports.store_desk import CAMPAIGN, FLOW, NOW, Desk

S, C = CampaignState, Command
TABLE = {  # spec section 2; any other pair is refused
    (S.NEW, C.START): S.RUNNING,
    (S.COMPLETED, C.START): S.RUNNING,
    (S.REMOVED, C.START): S.RUNNING,
    (S.RUNNING, C.PAUSE): S.PAUSED,
    (S.PAUSED, C.UNPAUSE): S.RUNNING,
    (S.RUNNING, C.RELOAD): S.RUNNING,
    (S.PAUSED, C.RELOAD): S.PAUSED,
    (S.INVALID, C.RELOAD): S.RUNNING,
    (S.RUNNING, C.REMOVE): S.REMOVED,
    (S.PAUSED, C.REMOVE): S.REMOVED,
    (S.COMPLETED, C.REMOVE): S.REMOVED,
    (S.REMOVED, C.REMOVE): S.REMOVED,
    (S.INVALID, C.REMOVE): S.REMOVED,
}


async def in_state(desk: Desk, state: CampaignState) -> CampaignId:
    campaign = await desk.new_campaign(await desk.new_list("601"))
    if state is not S.NEW:
        await desk.command(campaign, C.START)
    if state is S.PAUSED:
        await desk.command(campaign, C.PAUSE)
    if state is S.REMOVED:
        await desk.command(campaign, C.REMOVE)
    if state is S.INVALID:
        assert await desk.store.campaigns.set_invalid(campaign, "the flow is broken", now=NOW)
    if state is S.COMPLETED:
        await desk.read(campaign)
        request = await desk.call(campaign)
        await desk.store.calls.settle(
            request.attempt_id, result={"status": "TERMINATED"}, next=Closed(), now=NOW
        )
        assert await complete(desk, campaign)
    assert (await desk.view(campaign)).state is state
    return campaign


async def complete(desk: Desk, campaign: CampaignId) -> bool:
    view = await desk.view(campaign)
    return await desk.store.campaigns.complete(campaign, view.run, view.lists, now=NOW)


@pytest.mark.parametrize("command", C)
@pytest.mark.parametrize("state", S)
async def test_the_table_of_commands(desk: Desk, state: CampaignState, command: Command) -> None:
    campaign = await in_state(desk, state)
    run = (await desk.view(campaign)).run
    if expected := TABLE.get((state, command)):
        reply = await desk.store.campaigns.command(campaign, command, by="test", now=NOW)
        assert (reply.state, reply.run) == (expected, run + (command is C.START))
    else:
        with pytest.raises(Conflict) as refused:
            await desk.command(campaign, command)
        assert set(refused.value.allowed) == {c for s, c in TABLE if s is state}
    assert (await desk.view(campaign)).state is (expected or state)


async def test_the_same_request_again_gives_the_same_answer(desk: Desk) -> None:
    campaign = await desk.new_campaign(await desk.new_list("601"))
    replies = [
        await desk.store.campaigns.command(campaign, C.START, by="test", now=NOW, request="r1") for _ in "12"
    ]
    assert replies == [ControlReply(campaign, S.RUNNING, "Campaign successfully started", 1)] * 2


async def test_commands_of_an_unknown_campaign(desk: Desk) -> None:
    for command in C:
        with pytest.raises(NotFound):
            await desk.command(CampaignId(9), command)


async def test_a_new_run_reads_every_list_from_its_beginning(desk: Desk) -> None:
    campaign = await desk.running("601", "602")
    await desk.call(campaign)
    await desk.command(campaign, C.REMOVE)
    await desk.command(campaign, C.START)
    await desk.read(campaign)
    view = await desk.view(campaign)
    assert (view.run, view.fresh, view.live, view.counts.read) == (2, 2, 1, 2)


async def test_completed_only_when_nothing_is_left(desk: Desk) -> None:
    campaign = await desk.new_campaign(await desk.new_list("601"))
    await desk.command(campaign, C.START)
    unread = (await desk.view(campaign)).lists
    await desk.read(campaign)
    assert not await complete(desk, campaign)  # fresh
    request = await desk.call(campaign)
    assert not await complete(desk, campaign)  # live
    await desk.store.calls.settle(request.attempt_id, result={"status": "RS_LOST"}, next=Closed(), now=NOW)
    assert not await desk.store.campaigns.complete(campaign, 1, unread, now=NOW)  # read on meanwhile
    assert await complete(desk, campaign)
    assert not await complete(desk, campaign)
    assert (await desk.view(campaign)).counts.closed == 1


async def test_invalid_keeps_run_place_and_the_state_before(desk: Desk) -> None:
    campaign = await desk.running("601", "602")
    await desk.command(campaign, C.PAUSE)
    assert await desk.store.campaigns.set_invalid(campaign, "broken", now=NOW)
    assert not await desk.store.campaigns.set_invalid(campaign, "still broken", now=NOW)
    view = await desk.view(campaign)
    assert (view.state, view.reason, view.run, view.fresh) == (S.INVALID, "still broken", 1, 2)
    assert await desk.store.campaigns.set_valid(campaign, now=NOW)
    assert not await desk.store.campaigns.set_valid(campaign, now=NOW)
    after = await desk.view(campaign)
    assert (after.state, after.reason, after.run, after.fresh) == (S.PAUSED, "", 1, 2)


@pytest.mark.parametrize("state", [S.NEW, S.COMPLETED])
async def test_no_call_is_added_to_what_is_invalid_and_had_no_run_under_way(
    desk: Desk, state: CampaignState
) -> None:
    """It would wait for ever: the next run begins without it."""
    campaign = await in_state(desk, state)
    assert await desk.store.campaigns.set_invalid(campaign, "broken", now=NOW)
    with pytest.raises(Conflict) as refused:
        await desk.store.campaigns.add_call(campaign, "602", at=NOW, now=NOW)
    assert refused.value.allowed == (C.RELOAD,)
    assert (await desk.view(campaign)).due == 0
    await desk.store.campaigns.set_valid(campaign, now=NOW)
    with pytest.raises(Conflict) as refused:
        await desk.store.campaigns.add_call(campaign, "602", at=NOW, now=NOW)
    assert refused.value.allowed == (C.START,)


async def test_a_call_is_added_to_what_is_invalid_and_was_running(desk: Desk) -> None:
    campaign = await in_state(desk, S.INVALID)
    await desk.store.campaigns.add_call(campaign, "602", at=NOW, now=NOW)
    await desk.store.campaigns.set_valid(campaign, now=NOW)
    assert (await desk.view(campaign)).due == 1


async def test_a_removed_campaign_needs_no_mending(desk: Desk) -> None:
    campaign = await in_state(desk, S.REMOVED)
    assert not await desk.store.campaigns.set_invalid(campaign, "broken", now=NOW)


async def test_a_valid_edit_ends_invalid(desk: Desk) -> None:
    campaign = await in_state(desk, S.INVALID)
    text = (await desk.view(campaign)).text
    edited = parse_campaign({**json.loads(text), "name": "mended"})
    await desk.store.campaigns.save(edited, campaign=campaign, by="test", now=NOW)
    assert (await desk.view(campaign)).state is S.RUNNING


async def test_what_a_definition_names_must_be_there(desk: Desk, raw: Any) -> None:
    with pytest.raises(Invalid) as refused:
        await desk.store.campaigns.save(parse_campaign(CAMPAIGN), by="test", now=NOW)
    assert [one.place for one in refused.value.problems] == ["callLists.0", "ivr"]
    campaign = await desk.new_campaign(await desk.new_list("601"))
    await raw("SREM", "{dialer}:lists", 1)
    view = await desk.view(campaign)
    assert view.definition is None
    assert [str(one) for one in view.problems] == ["callLists.0: there is no call list 1"]
    with pytest.raises(Invalid):
        await desk.command(campaign, C.START)
    assert (await desk.view(campaign)).state is S.INVALID
    await raw("SADD", "{dialer}:lists", 1)
    await desk.command(campaign, C.RELOAD)
    assert (await desk.view(campaign)).state is S.NEW


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 1}'])
async def test_a_definition_that_is_none_is_told_not_raised(desk: Desk, raw: Any, text: str) -> None:
    await raw("SADD", "{dialer}:campaigns", 3)
    await raw("SET", "{dialer}:campaign:3:definition", text)
    view = await desk.view(CampaignId(3))
    assert view.definition is None
    assert view.problems


async def test_a_definition_is_parsed_again_only_when_its_text_changed(desk: Desk, raw: Any) -> None:
    campaign = await desk.new_campaign(await desk.new_list("601"))
    first, second = await desk.view(campaign), await desk.view(campaign)
    assert first.definition is second.definition is not None
    await raw("SET", f"{{dialer}}:campaign:{campaign}:definition", first.text.replace("campaign", "edited"))
    third = (await desk.view(campaign)).definition
    assert third is not None
    assert third.name == "edited"


async def test_edits_are_kept_and_compared(desk: Desk) -> None:
    campaigns = desk.store.campaigns
    campaign = await desk.new_campaign(await desk.new_list("601"))
    text = await campaigns.read(campaign)
    edited = parse_campaign({**json.loads(text), "name": "edited"})
    await campaigns.save(edited, campaign=campaign, expected=text, by="eva", now=NOW + 1)
    await campaigns.save(edited, campaign=campaign, expected=text, by="eva", now=NOW + 1)  # a lost reply
    with pytest.raises(Conflict):
        other = parse_campaign({**json.loads(text), "name": "other"})
        await campaigns.save(other, campaign=campaign, expected=text, by="adam", now=NOW)
    with pytest.raises(NotFound):
        await campaigns.save(edited, campaign=CampaignId(99), by="eva", now=NOW)
    versions = await campaigns.versions(campaign)
    assert [(one["by"], one["at"]) for one in versions] == [("test", NOW), ("eva", NOW + 1)]
    assert versions[0]["definition"] == json.loads(text)


async def test_deleting(desk: Desk, raw: Any) -> None:
    campaign = await desk.running("601")
    with pytest.raises(Conflict):
        await desk.store.campaigns.delete(campaign, by="test", now=NOW)
    request = await desk.call(campaign)
    await desk.command(campaign, C.REMOVE)
    with pytest.raises(Conflict, match="live"):
        await desk.store.campaigns.delete(campaign, by="test", now=NOW)
    await desk.store.calls.settle(request.attempt_id, result={"status": "RS_LOST"}, next=Closed(), now=NOW)
    await desk.store.campaigns.delete(campaign, by="test", now=NOW)
    await desk.store.tidy()
    assert await raw("KEYS", "{dialer}:campaign:*") == []
    with pytest.raises(NotFound):
        await desk.store.campaigns.delete(campaign, by="test", now=NOW)


async def test_queued_commands_are_obeyed_in_order_and_once(desk: Desk, raw: Any) -> None:
    campaign = await desk.new_campaign(await desk.new_list("601"))
    for command in ("start", "pause", "start", "unpause"):
        await raw("RPUSH", "{dialer}:commands", json.dumps({"campaign": campaign, "command": command}))
    await raw("RPUSH", "{dialer}:commands", "nonsense", '{"campaign": 99, "command": "reload"}')
    assert (await desk.store.campaigns.load(now=NOW)).commands == 6
    both = await asyncio.gather(*(desk.store.campaigns.obey(now=NOW) for _ in "12"))  # two daemons
    done = [one for part in both for one in part]
    assert [one.state for one in done if isinstance(one, ControlReply)] == [S.RUNNING, S.PAUSED, S.RUNNING]
    refused = [type(one) for one in done if not isinstance(one, ControlReply)]
    assert sorted(refused, key=str) == [Conflict, Invalid, NotFound]
    view = await desk.view(campaign)
    assert (view.state, view.run) == (S.RUNNING, 1)
    assert (await desk.store.campaigns.load(now=NOW)).commands == 0


async def test_the_snapshot_counts_trunks_and_tells_of_the_stop(desk: Desk) -> None:
    campaign = await desk.running("601", "602")
    await desk.claim(campaign, 2)
    await desk.store.stop(by="test", now=NOW)
    snapshot = await desk.store.campaigns.load(trunks=["carrier", "none"], now=NOW)  # type: ignore[list-item]
    assert (snapshot.trunk_live, snapshot.stopped) == ({"carrier": 2, "none": 0}, True)


async def test_who_did_what_is_kept(desk: Desk) -> None:
    campaign = await desk.new_campaign(await desk.new_list("601"))
    await desk.command(campaign, C.START)
    await desk.store.audit.write(by="eva", action="login", subject="api", now=NOW)
    entries = await desk.store.audit.read()
    (ivr,) = (one.id for one in await desk.store.ivrs.all())
    told = [(one.by, one.action, one.subject.replace(ivr, "..."), one.detail) for one in entries]
    assert told == [
        ("test", "create", "ivr ...", ""),
        ("test", "create", f"campaign {campaign}", ""),
        ("test", "start", f"campaign {campaign}", "RUNNING"),
        ("eva", "login", "api", ""),
    ]
    assert await desk.store.audit.read(after=entries[1].cursor) == entries[2:]
    assert await desk.store.audit.page(1, 2) == (4, entries[2:0:-1])


async def test_ivrs_are_stored_as_given(desk: Desk) -> None:
    ivr = await desk.store.ivrs.save(parse_ivr(FLOW), by="eva", now=NOW)
    assert len(ivr) == 10
    assert ivr.isalnum()
    await desk.store.ivrs.save(parse_ivr({**FLOW, "name": "other"}), ivr=ivr, by="adam", now=NOW + 1)
    stored = await desk.store.ivrs.load(ivr)
    assert stored.document == {**FLOW, "name": "other"}
    assert (stored.meta["created_by"], stored.meta["updated_by"]) == ("eva", "adam")
    with pytest.raises(NotFound):
        await desk.store.ivrs.save(parse_ivr(FLOW), ivr="none", by="eva", now=NOW)  # type: ignore[arg-type]
    campaign = await desk.new_campaign(await desk.new_list("601"))
    with pytest.raises(Conflict, match=f"campaigns {campaign}"):
        await desk.store.ivrs.delete(ivr, by="eva", now=NOW)
    with pytest.raises(Conflict, match=f"campaigns {campaign}"):
        await desk.store.lists.delete(ListId(1))
    await desk.store.campaigns.delete(campaign, by="test", now=NOW)
    await desk.store.ivrs.delete(ivr, by="eva", now=NOW)
    assert await desk.store.ivrs.all() == []


async def test_results_by_cursor_and_filter(desk: Desk) -> None:
    campaign = await desk.running(*(f"60{n}" for n in range(6)))
    for n in range(6):
        request = await desk.call(campaign)
        status = Status.RS_BUSY if n % 2 else Status.RS_NUMBER
        await desk.store.calls.settle(request.attempt_id, result={"status": status}, next=Closed(), now=NOW)
    results = desk.store.results
    first = await results.read(campaign, count=4)
    assert [one["number"] for one in first.items] == ["600", "601", "602", "603"]
    rest = await results.read(campaign, after=first.next, count=4)
    assert ([one["number"] for one in rest.items], rest.next) == (["604", "605"], None)
    busy = await results.read(campaign, wanted=lambda item: item["status"] == "RS_BUSY")
    assert [one["number"] for one in busy.items] == ["601", "603", "605"]
    assert (await results.read(campaign, count=6)).next is None
    assert (await results.read(campaign, since=4e9)).items == ()
    assert (await results.read(campaign, since=-1, count=1)).items == first.items[:1]
    (fourth,) = await results.entries(campaign, after=(await results.read(campaign, count=3)).next, count=1)
    assert await results.lease("host", 60)
    assert await results.trim(campaign, through=fourth[0], owner="host") == 4
    assert (await results.read(campaign)).items == rest.items
    archived = await results.archived(campaign)
    assert (archived.by, archived.through) == ({"host": 4}, fourth[0])
