"""From claim to settlement: one behaviour, on fakeredis and on a real redis-server."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import suppress
from typing import Any

import pytest

from dialer_engine.core.model import AttemptId, CampaignState, Command, Contact, Counts, Due
from dialer_engine.errors import Invalid, Rejected, Unavailable
from dialer_engine.store.records import (
    ClaimKind,
    ClaimReply,
    Closed,
    DoNotCall,
    Next,
    ProgressKind,
    Recovered,
    RedialAt,
    ReturnTo,
    SentKind,
    SettleKind,
)
from dialer_engine.store.stats import Tally
from tests.ports.store_desk import NOW, OWNER, Desk

BUSY: dict[str, Any] = {"status": "RS_BUSY", "extStatus": None}


def kinds(reply: ClaimReply) -> list[ClaimKind]:
    return [one.kind for one in reply.outcomes]


def redialed(due: Due, at: float) -> RedialAt:
    counts = Counts(due.counts.redials + 1, {"RS_BUSY": due.counts.by_rule.get("RS_BUSY", 0) + 1})
    return RedialAt(Due(due.contact, counts), at)


async def test_a_claimed_contact_waits_no_more_and_is_live(desk: Desk) -> None:
    campaign = await desk.running("601", "602")
    (request,) = await desk.claim(campaign)
    view = await desk.view(campaign)
    assert (view.fresh, view.live) == (1, 1)
    (record,) = await desk.store.calls.live(campaign)
    assert (record.id, record.due, record.number, record.phase) == (
        request.attempt_id,
        request.due,
        "601",
        "CLAIMED",
    )


async def test_the_same_claim_again_gives_the_same_answer(desk: Desk) -> None:
    campaign = await desk.running("601", "602", "603")
    requests = desk.requests(await desk.waiting(campaign))
    first = await desk.send_claim(campaign, requests, max_channels=2)
    again = await desk.send_claim(campaign, requests, max_channels=2)
    assert kinds(first) == [ClaimKind.CLAIMED, ClaimKind.CLAIMED, ClaimKind.FULL]
    assert again == first
    assert (await desk.view(campaign)).live == 2


async def test_two_daemons_claiming_the_same_contact(desk: Desk) -> None:
    campaign = await desk.running("601")
    waiting = await desk.waiting(campaign)
    replies = await asyncio.gather(
        desk.send_claim(campaign, desk.requests(waiting), owner="one"),
        desk.send_claim(campaign, desk.requests(waiting), owner="two"),
    )
    assert sorted(kind for reply in replies for kind in kinds(reply)) == [ClaimKind.CLAIMED, ClaimKind.GONE]


async def test_lines_of_campaign_and_trunk_bound_a_claim(desk: Desk) -> None:
    one = await desk.running("601", "602")
    other = await desk.running("603", "604")
    await desk.claim(one)
    requests = desk.requests(await desk.waiting(other))
    reply = await desk.send_claim(other, requests, trunk_capacity=2)
    assert kinds(reply) == [ClaimKind.CLAIMED, ClaimKind.FULL]
    assert (reply.campaign_live, reply.trunk_live) == (1, 2)


@pytest.mark.parametrize("command", [Command.PAUSE, Command.REMOVE])
async def test_nothing_is_claimed_or_sent_unless_running(desk: Desk, command: Command) -> None:
    campaign = await desk.running("601", "602")
    (claimed,) = await desk.claim(campaign)
    waiting = await desk.waiting(campaign)
    await desk.command(campaign, command)
    assert kinds(await desk.send_claim(campaign, desk.requests(waiting))) == [ClaimKind.STOPPED]
    sent = await desk.store.calls.mark_sent(claimed.attempt_id, owner=OWNER, now=NOW)
    assert sent.kind is SentKind.STOPPED


async def test_stop_everything_and_the_end_of_the_period(desk: Desk) -> None:
    campaign = await desk.running("601", "602")
    (claimed,) = await desk.claim(campaign, period_until_epoch=NOW + 5)
    requests = desk.requests(await desk.waiting(campaign))
    assert kinds(await desk.send_claim(campaign, requests, period_until_epoch=NOW)) == [ClaimKind.STOPPED]
    late = await desk.store.calls.mark_sent(claimed.attempt_id, owner=OWNER, now=NOW + 5)
    assert (late.kind, late.reason) == (SentKind.STOPPED, "the active period is over")
    await desk.store.stop(by="test", now=NOW)
    assert kinds(await desk.send_claim(campaign, requests)) == [ClaimKind.STOPPED]
    stopped = await desk.store.calls.mark_sent(claimed.attempt_id, owner=OWNER, now=NOW)
    assert stopped.reason == "everything is stopped"
    await desk.store.resume(by="test", now=NOW)
    assert (await desk.store.calls.mark_sent(claimed.attempt_id, owner=OWNER, now=NOW)).kind is SentKind.OK


async def test_do_not_call_is_asked_by_claim(desk: Desk) -> None:
    campaign = await desk.running("601", "602", "603", "604")
    await desk.store.do_not_call.add(DoNotCall("601", "asked us"), DoNotCall("603", until=NOW))
    await desk.store.do_not_call.add(DoNotCall("602", until=NOW + 1), campaign=campaign)
    requests = desk.requests(await desk.waiting(campaign))
    reply = await desk.send_claim(campaign, requests)
    outcomes = [(one.kind, one.reason) for one in reply.outcomes]
    assert outcomes == [
        (ClaimKind.FORBIDDEN, "asked us"),
        (ClaimKind.FORBIDDEN, "do-not-call"),
        (ClaimKind.CLAIMED, ""),
        (ClaimKind.CLAIMED, ""),
    ]
    assert await desk.send_claim(campaign, requests) == reply
    assert (await desk.view(campaign)).live == 4  # the forbidden are attempts too: their owner settles them


async def test_do_not_call_is_asked_again_by_mark_sent(desk: Desk) -> None:
    campaign = await desk.running("601")
    (request,) = await desk.claim(campaign)
    await desk.store.do_not_call.add(DoNotCall("601", "just now"))
    reply = await desk.store.calls.mark_sent(request.attempt_id, owner=OWNER, now=NOW)
    assert (reply.kind, reply.reason) == (SentKind.FORBIDDEN, "just now")
    record = await desk.store.calls.read(request.attempt_id)
    assert record is not None
    assert (record.phase, record.forbidden) == ("CLAIMED", "just now")


async def test_what_cannot_be_understood_on_a_do_not_call_list_forbids(desk: Desk, raw: Any) -> None:
    campaign = await desk.running("601", "602")
    await raw("HSET", "{dialer}:dnc:all", "601", "not json", "602", '{"until": "tomorrow"}')
    reply = await desk.send_claim(campaign, desk.requests(await desk.waiting(campaign)))
    assert kinds(reply) == [ClaimKind.FORBIDDEN] * 2
    assert (await desk.store.do_not_call.find("601")) == DoNotCall("601", "do-not-call")


async def test_one_live_call_per_number_across_campaigns(desk: Desk) -> None:
    one, other = await desk.running("601"), await desk.running("601")
    (first,) = await desk.claim(one)
    requests = desk.requests(await desk.waiting(other))
    assert kinds(await desk.send_claim(other, requests)) == [ClaimKind.NUMBER_BUSY]
    view = await desk.view(other)
    assert (view.fresh, view.due, view.due_now, view.next_due_at) == (0, 1, 0, NOW + 10)
    await desk.store.calls.settle(first.attempt_id, result=BUSY, next=Closed(), now=NOW)
    await desk.claim(other, now=NOW + 10)


async def test_a_live_number_without_its_attempt_binds_nobody(desk: Desk, raw: Any) -> None:
    campaign = await desk.running("601")
    await raw("HSET", "{dialer}:live-numbers", "601", "lost")
    await desk.claim(campaign)


async def test_a_settlement_leaves_the_live_number_of_another_attempt(desk: Desk, raw: Any) -> None:
    campaign = await desk.running("601", "602")
    first, second = await desk.claim(campaign, 2)
    await raw("HSET", "{dialer}:live-numbers", "601", second.attempt_id)
    await desk.store.calls.settle(first.attempt_id, result=BUSY, next=Closed(), now=NOW)
    assert await raw("HGET", "{dialer}:live-numbers", "601") == second.attempt_id


async def test_mark_sent_is_for_the_owner_and_may_be_repeated(desk: Desk) -> None:
    campaign = await desk.running("601")
    (request,) = await desk.claim(campaign)
    calls = desk.store.calls
    assert (await calls.mark_sent(request.attempt_id, owner="other", now=NOW)).kind is SentKind.GONE
    assert (await calls.mark_sent(request.attempt_id, owner=OWNER, now=NOW)).kind is SentKind.OK
    await calls.progress(request.attempt_id, {"phase": "RINGING"}, now=NOW)
    assert (await calls.mark_sent(request.attempt_id, owner=OWNER, now=NOW)).kind is SentKind.OK
    record = await calls.read(request.attempt_id)
    assert record is not None
    assert (record.phase, record.sent_at) == ("RINGING", NOW)


async def test_progress_is_kept_until_the_settlement(desk: Desk) -> None:
    campaign = await desk.running("601")
    request = await desk.call(campaign)
    kept = await desk.store.calls.progress(request.attempt_id, {"position": '{"block":"ask"}'}, now=NOW)
    assert kept is ProgressKind.OK
    record = await desk.store.calls.read(request.attempt_id)
    assert record is not None
    assert record.progress["position"] == '{"block":"ask"}'
    await desk.store.calls.settle(request.attempt_id, result=BUSY, next=Closed(), now=NOW)
    gone = await desk.store.calls.progress(request.attempt_id, {"position": "{}"}, now=NOW)
    assert gone is ProgressKind.GONE
    assert await desk.store.calls.read(request.attempt_id) is None


async def test_a_settlement_counts_once(desk: Desk) -> None:
    campaign = await desk.running("601")
    request = await desk.call(campaign)
    settle = desk.store.calls.settle
    next = redialed(request.due, NOW + 60)
    result = {**BUSY, "cause": 17, "values": {"a": "1"}, "answeredAt": "2025-10-09T08:53:20.250+00:00"}
    kinds = [await settle(request.attempt_id, result=result, next=next, now=NOW) for _ in range(2)]
    assert kinds == [SettleKind.DONE, SettleKind.GONE]
    page = await desk.store.results.read(campaign)
    assert page.items == (
        {
            **result,
            "number": "601",
            "attempt": request.attempt_id,
            "run": 1,
            "callList": request.due.contact.call_list,
            "attributes": [],
            "path": [],
            "variables": {},
            "notes": [],
            **dict.fromkeys(("sipCode", "agent", "queue", "recording", "originatedAt", "ringingAt")),
            **dict.fromkeys(("leftIvrAt", "connectedAt", "endedAt")),
            "redialAt": "2025-10-09T08:54:20.250+00:00",
        },
    )
    assert await desk.counted(campaign) == Tally({"RS_BUSY": 1}, answered=1)
    view = await desk.view(campaign, now=NOW + 60)
    assert (view.due, view.due_now, view.live, view.counts.closed) == (1, 1, 0, 0)
    (again,) = await desk.waiting(campaign, now=NOW + 60)
    assert again.due.counts == Counts(1, {"RS_BUSY": 1})


@pytest.mark.parametrize("text", ["1 2", "1234\n5678", "1234\x005678", "1\r\nX: 2", "%d+", "", "١٢٣"])
async def test_a_row_that_is_no_number_is_settled_once_and_leaves_no_note(
    desk: Desk, raw: Any, text: str
) -> None:
    campaign = await desk.running("601")
    (request,) = desk.requests(await desk.waiting(campaign))
    await desk.send_claim(campaign, [dataclasses.replace(request, number=text, identity=text)])
    await desk.settle(request)
    page = await desk.store.results.read(campaign)
    assert [item["number"] for item in page.items] == [text]
    assert (await desk.view(campaign)).live == 0
    assert await raw("KEYS", "{dialer}:calls:*") == []


@pytest.mark.parametrize("garbage", ["", "x", "601 1 tomorrow", "601 one 1-1"])
async def test_notes_that_are_none_go_and_keep_no_call_from_being_settled(
    desk: Desk, raw: Any, garbage: str
) -> None:
    first, second = await desk.running("601"), await desk.running("601")
    for campaign in (first, second):
        request = await desk.call(campaign)
        await desk.settle(request)
        (notes,) = await raw("KEYS", "{dialer}:calls:*")
        await raw("LPUSH", notes, garbage)
    total, _ = await desk.store.numbers.calls("601", offset=0, count=10)
    assert total == 2
    assert await raw("LLEN", notes) == 3


async def test_a_key_of_notes_that_is_another_programs_keeps_no_call_from_being_settled(
    desk: Desk, raw: Any
) -> None:
    first, second = await desk.running("601"), await desk.running("601")
    request = await desk.call(first)
    await desk.settle(request)
    (notes,) = await raw("KEYS", "{dialer}:calls:*")
    await raw("SET", notes, "mine")
    request = await desk.call(second)
    await desk.settle(request)
    assert len((await desk.store.results.read(second)).items) == 1


async def test_a_settlement_that_cannot_be_finished_is_not_begun(desk: Desk, raw: Any) -> None:
    campaign = await desk.running("601")
    request = await desk.call(campaign)
    key, next = f"{{dialer}}:campaign:{campaign}:due", redialed(request.due, NOW + 60)
    await raw("SET", key, "mine")

    async def settle() -> SettleKind:
        """As the engine does: again while Redis is away. fakeredis may hang up on an error of a script."""
        for _ in range(10):
            with suppress(Unavailable):
                return await desk.store.calls.settle(request.attempt_id, result=BUSY, next=next, now=NOW)
        raise AssertionError("redis is never there")

    for _ in range(3):
        with pytest.raises((Rejected, AssertionError)):
            await settle()
    assert await raw("XLEN", f"{{dialer}}:campaign:{campaign}:results") == 0
    await raw("DEL", key)
    assert await settle() is SettleKind.DONE
    assert len((await desk.store.results.read(campaign)).items) == 1
    assert await desk.counted(campaign) == Tally({"RS_BUSY": 1})
    assert ((await desk.view(campaign)).due, (await desk.view(campaign)).live) == (1, 0)


async def test_the_reply_of_a_claim_tells_when_the_next_is_due(desk: Desk) -> None:
    campaign = await desk.running("601", "602")
    first = await desk.call(campaign)
    await desk.store.calls.settle(first.attempt_id, result=BUSY, next=redialed(first.due, NOW + 60), now=NOW)
    reply = await desk.send_claim(campaign, desk.requests(await desk.waiting(campaign)))
    assert reply.next_due_at == NOW + 60
    assert (reply.state, reply.run) == (CampaignState.RUNNING, 1)


async def test_a_redial_is_not_claimed_before_its_time(desk: Desk) -> None:
    campaign = await desk.running("601")
    first = await desk.call(campaign)
    await desk.store.calls.settle(first.attempt_id, result=BUSY, next=redialed(first.due, NOW + 60), now=NOW)
    requests = desk.requests(await desk.waiting(campaign, now=NOW + 60))
    assert kinds(await desk.send_claim(campaign, requests, now=NOW + 59)) == [ClaimKind.GONE]
    assert kinds(await desk.send_claim(campaign, requests, now=NOW + 60)) == [ClaimKind.CLAIMED]


@pytest.mark.parametrize("returned", [False, True])
async def test_given_back_a_contact_stands_exactly_where_it_was(desk: Desk, returned: bool) -> None:
    campaign = await desk.running("601", "602", "603")
    before = await desk.waiting(campaign)
    first, second = await desk.claim(campaign, 2)
    calls = desk.store.calls
    if returned:
        counted = Due(first.due.contact, Counts(returns=1))
        await calls.settle(first.attempt_id, result={"status": "RS_ERROR"}, next=ReturnTo(counted), now=NOW)
        assert (await desk.waiting(campaign))[0].due == counted
    else:
        assert not await calls.release(first.attempt_id, owner="other")
        assert await calls.release(first.attempt_id, owner=OWNER)
        assert not await calls.release(first.attempt_id, owner=OWNER)
    await calls.release(second.attempt_id, owner=OWNER)
    after = await desk.waiting(campaign)
    assert [one.due.contact for one in after] == [one.due.contact for one in before]
    assert (await desk.view(campaign)).counts.closed == 0


async def test_its_driver_releases_a_call_although_the_reply_of_mark_sent_was_lost(desk: Desk) -> None:
    campaign = await desk.running("601")
    request = await desk.call(campaign)
    assert await desk.store.calls.release(request.attempt_id, owner=OWNER)
    view = await desk.view(campaign)
    assert (view.fresh, view.live) == (1, 0)


@pytest.mark.parametrize(
    "next", [Closed(), RedialAt(Due(Contact(1, 1, 0)), NOW), ReturnTo(Due(Contact(1, 1, 0)))]
)
async def test_a_call_of_an_earlier_run_is_recorded_there_and_never_redialed(desk: Desk, next: Next) -> None:
    campaign = await desk.running("601")
    request = await desk.call(campaign)
    await desk.command(campaign, Command.REMOVE)
    await desk.command(campaign, Command.START)
    await desk.settle(request, next=next)
    view = await desk.view(campaign)
    assert (view.run, view.fresh, view.due, view.live, view.counts.closed) == (2, 0, 0, 0, 0)
    assert (await desk.store.results.read(campaign)).items[0]["run"] == 1
    assert await desk.counted(campaign) == Tally({"RS_BUSY": 1})
    assert await desk.counted(campaign, 2) == Tally()


async def test_a_removed_campaign_gets_its_results_and_no_redials(desk: Desk) -> None:
    campaign = await desk.running("601", "602")
    sent, claimed = await desk.call(campaign), (await desk.claim(campaign))[0]
    await desk.command(campaign, Command.REMOVE)
    await desk.store.calls.settle(sent.attempt_id, result=BUSY, next=redialed(sent.due, NOW), now=NOW)
    await desk.store.calls.release(claimed.attempt_id, owner=OWNER)
    view = await desk.view(campaign)
    assert (view.fresh, view.due, view.live) == (0, 0, 0)
    assert len((await desk.store.results.read(campaign)).items) == 1


async def test_a_removed_campaign_that_cannot_be_started_again_gets_no_redials_either(
    desk: Desk, raw: Any
) -> None:
    campaign = await desk.running("601", "602")
    sent, claimed = await desk.call(campaign), (await desk.claim(campaign))[0]
    await desk.command(campaign, Command.REMOVE)
    await raw("SET", f"{{dialer}}:campaign:{campaign}:definition", "{}")
    with pytest.raises(Invalid):
        await desk.command(campaign, Command.START)
    await desk.store.calls.settle(sent.attempt_id, result=BUSY, next=redialed(sent.due, NOW), now=NOW)
    await desk.store.calls.release(claimed.attempt_id, owner=OWNER)
    view = await desk.view(campaign)
    assert (view.state, view.fresh, view.due, view.live) == (CampaignState.INVALID, 0, 0, 0)
    assert (await desk.store.results.read(campaign)).items[0]["redialAt"] is None


async def recover(
    desk: Desk, owner: str = OWNER, known: tuple[AttemptId, ...] = (), now: float = NOW
) -> Recovered:
    return await desk.store.calls.recover(owner, known=known, lease_seconds=30, dead_after_seconds=15, now=now)


async def test_after_a_crash_what_was_sent_is_ours_and_what_was_not_is_due_again(desk: Desk) -> None:
    campaign = await desk.running("601", "602", "603")
    sent = await desk.call(campaign)
    await desk.claim(campaign)
    for _ in range(2):  # the reply may be lost
        found = await recover(desk)
        assert [one.id for one in found.attempts] == [sent.attempt_id]
    assert (await desk.view(campaign)).fresh == 2


async def test_recovering_while_running_leaves_alone_what_the_daemon_knows(desk: Desk) -> None:
    campaign = await desk.running("601", "602", "603")
    sent, (claimed,) = await desk.call(campaign), await desk.claim(campaign)
    (orphan,) = await desk.claim(campaign)  # its reply was lost and nobody repeated it
    found = await recover(desk, known=(sent.attempt_id, claimed.attempt_id))
    assert (found.attempts, found.released) == ((), 1)
    assert await desk.store.calls.read(orphan.attempt_id) is None


async def test_another_daemons_calls_are_taken_when_lease_and_heartbeat_are_dead(desk: Desk) -> None:
    campaign = await desk.running("601", "602", "603")
    sent = await desk.call(campaign)
    other, calls = "other", desk.store.calls
    await calls.heartbeat(OWNER, now=NOW)
    assert (await recover(desk, other, now=NOW + 14)).attempts == ()  # neither is dead
    assert (await recover(desk, other, now=NOW + 20)).attempts == ()  # the lease lives
    await calls.extend(OWNER, [sent.attempt_id], deadline=NOW + 50)
    await calls.heartbeat(OWNER, now=NOW + 55)
    assert (await recover(desk, other, now=NOW + 60)).attempts == ()  # the heartbeat lives
    taken = await recover(desk, other, now=NOW + 71)
    assert [(one.id, one.owner) for one in taken.attempts] == [(sent.attempt_id, other)]
    assert (await recover(desk, now=NOW + 71)).attempts == ()
    assert (await calls.mark_sent(sent.attempt_id, owner=OWNER, now=NOW + 71)).kind is SentKind.GONE


async def test_a_lease_of_a_settled_attempt_is_not_extended(desk: Desk, raw: Any) -> None:
    campaign = await desk.running("601")
    sent = await desk.call(campaign)
    await desk.store.calls.settle(sent.attempt_id, result=BUSY, next=Closed(), now=NOW)
    await desk.store.calls.extend(OWNER, [sent.attempt_id], deadline=NOW + 60)
    assert await raw("ZCARD", f"{{dialer}}:daemon:{OWNER}:live") == 0
