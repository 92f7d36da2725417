"""From rows to contacts: nobody skipped, nobody twice. On fakeredis and on a real redis-server."""

from __future__ import annotations

from typing import Any

import pytest

from dialer_engine.core.model import CampaignId, Command, ListId
from dialer_engine.errors import Conflict, NotFound
from dialer_engine.store import Store
from dialer_engine.store.contract import from_json, parse_campaign
from dialer_engine.store.records import Closed, PinnedList, ReadRow, RefusedRow
from tests.ports.store_desk import NOW, OWNER, Desk, RealRedis, in_batches, members, numbered


async def numbers_waiting(desk: Desk, campaign: CampaignId) -> list[str]:
    return [numbered(one.row)[0] for one in await desk.waiting(campaign)]


async def test_lists_are_read_in_the_order_given_and_repeats_dropped(desk: Desk) -> None:
    first, second = await desk.new_list("601", "602"), await desk.new_list("602", "603")
    campaign = await desk.new_campaign(second, first)
    await desk.command(campaign, Command.START)
    await desk.read(campaign)
    assert await numbers_waiting(desk, campaign) == ["602", "603", "601"]
    counts = (await desk.view(campaign)).counts
    assert (counts.read, counts.repeats, counts.refused, counts.closed) == (4, 1, 0, 0)


async def test_reading_is_guarded_by_the_place(desk: Desk) -> None:
    call_list = await desk.new_list("601", "602")
    campaign = await desk.new_campaign(call_list)
    await desk.command(campaign, Command.START)
    place = PinnedList(call_list, 1, 0)
    rows = [ReadRow(0, "601"), ReadRow(1, "602")]
    accept = desk.store.reading.accept
    done = await accept(campaign, 1, place, rows=rows, cursor=2)
    assert (done.stale, done.cursor, done.accepted, done.repeats) == (False, 2, 2, 0)
    again = await accept(campaign, 1, place, rows=rows, cursor=2)  # a lost reply, or another daemon
    assert (again.stale, again.cursor, again.accepted) == (True, 2, 0)
    other_run = await accept(campaign, 2, PinnedList(call_list, 1, 2), rows=[], cursor=3)
    assert other_run.stale
    await desk.command(campaign, Command.PAUSE)
    assert (await accept(campaign, 1, PinnedList(call_list, 1, 2), rows=[], cursor=3)).stale
    assert (await desk.view(campaign)).fresh == 2


async def test_refused_rows_are_counted_and_kept(desk: Desk) -> None:
    call_list = await desk.new_list("601")
    campaign = await desk.new_campaign(call_list)
    await desk.command(campaign, Command.START)
    refused = [RefusedRow(row, "x" * 300, "not a number") for row in range(1, 1201)]
    await desk.store.reading.accept(
        campaign, 1, PinnedList(call_list, 1, 0), rows=[ReadRow(0, "601")], refused=refused, cursor=1201
    )
    counts = (await desk.view(campaign)).counts
    assert (counts.read, counts.refused) == (1201, 1200)
    kept = await desk.store.reading.refused(campaign, 1)
    assert len(kept) == 1000
    expected = {"callList": call_list, "generation": 1, "row": 1, "text": "x" * 200, "reason": "not a number"}
    assert kept[0] == expected


async def test_no_two_numbers_are_taken_for_one(desk: Desk) -> None:
    numbers = ["601", "+420601", "1601", "2601", "420601", "0601", "*21#", "0", "00", "000", "+0"]
    numbers += ["1" * 17, "1" * 18, "1" * 19, "+" + "1" * 17, "2" + "1" * 17]
    first, second = await desk.new_list(*numbers), await desk.new_list(*numbers)
    campaign = await desk.new_campaign(first, second)
    await desk.command(campaign, Command.START)
    await desk.read(campaign)
    view = await desk.view(campaign)
    assert (view.fresh, view.counts.repeats) == (len(numbers), len(numbers))


async def test_thousands_of_numbers_each_once(desk: Desk) -> None:
    """Over several layers of buckets."""
    numbers = [f"7{n:08}" for n in range(0, 90_000, 30)]
    first, second = await desk.new_list(*numbers), await desk.new_list(*reversed(numbers), "601")
    campaign = await desk.new_campaign(first, second)
    await desk.command(campaign, Command.START)
    view = await desk.view(campaign)
    for place, size in zip(view.lists, (3000, 3001), strict=True):
        for at in range(0, size, 500):
            rows = await desk.store.reading.rows(place.call_list, 1, at, 500)
            contacts = [ReadRow(at + index, row) for index, row in enumerate(rows)]
            where = PinnedList(place.call_list, 1, at)
            await desk.store.reading.accept(campaign, 1, where, rows=contacts, cursor=at + len(rows))
    counts = (await desk.view(campaign)).counts
    assert (counts.read, counts.repeats) == (6001, 3000)


async def test_appended_rows_are_read_on(desk: Desk, raw: Any) -> None:
    call_list = await desk.new_list("601")
    campaign = await desk.new_campaign(call_list, whenDone="wait")
    await desk.command(campaign, Command.START)
    await desk.read(campaign)
    await desk.store.lists.append(call_list, [numbered("602")])
    await raw("RPUSH", f"{{dialer:list:{call_list}}}:rows:1", "603", "601")  # any program may
    await desk.read(campaign)
    assert await numbers_waiting(desk, campaign) == ["601", "602", "603"]


async def test_a_row_struck_out_before_it_was_read_is_no_contact(desk: Desk) -> None:
    call_list = await desk.new_list("601", "602")
    assert await desk.store.lists.strike_out(call_list, "601", lambda number: number == "601") == 1
    campaign = await desk.new_campaign(call_list)
    await desk.command(campaign, Command.START)
    await desk.read(campaign)
    assert await numbers_waiting(desk, campaign) == ["602"]
    assert (await desk.view(campaign)).counts.read == 1


async def test_a_row_struck_out_after_it_was_read_is_closed_at_read_back(desk: Desk) -> None:
    call_list = await desk.new_list("601", "602", '{"number":"603","attributes":{"name":"Eva"}}')
    campaign = await desk.new_campaign(call_list)
    await desk.command(campaign, Command.START)
    await desk.read(campaign)
    for number in ("601", "603"):
        await desk.store.lists.strike_out(call_list, number, number.__eq__)
    assert await numbers_waiting(desk, campaign) == ["602"]
    view = await desk.view(campaign)
    assert (view.fresh, view.counts.closed, view.counts.read) == (1, 2, 3)
    assert (await desk.store.lists.info(call_list)).struck == 2


async def test_a_number_is_struck_out_of_the_generation_that_a_run_still_reads_too(desk: Desk) -> None:
    call_list = await desk.new_list("601", "602", "603")
    campaign = await desk.new_campaign(call_list)
    await desk.command(campaign, Command.START)
    await desk.read(campaign)
    await desk.store.lists.replace(call_list, in_batches(["601"]))
    assert await desk.store.lists.strike_out(call_list, "602", "602".__eq__) == 1
    assert await numbers_waiting(desk, campaign) == ["601", "603"]
    assert await desk.store.lists.strike_out(call_list, "601", "601".__eq__) == 2
    assert await numbers_waiting(desk, campaign) == ["603"]
    assert await desk.store.lists.rows(call_list, 0, 10) == ["-"]
    assert await desk.store.lists.strike_out(call_list, "601", "601".__eq__) == 0


async def test_a_row_that_is_no_text_is_struck_out_too(desk: Desk, raw: Any) -> None:
    """Another program may write attributes in Latin-1: they are read, and so the row is dialed."""
    call_list = await desk.new_list("601")
    row = '{"number":"602","attributes":{"name":"René"}}'.encode("latin-1")
    await raw("RPUSH", f"{{dialer:list:{call_list}}}:rows:1", row)
    campaign = await desk.new_campaign(call_list)
    await desk.command(campaign, Command.START)
    await desk.read(campaign)
    assert await numbers_waiting(desk, campaign) == ["601", "602"]
    assert await desk.store.lists.strike_out(call_list, "602", "602".__eq__) == 1
    assert await numbers_waiting(desk, campaign) == ["601"]


async def test_reload_takes_the_new_generation_without_losing_its_place(desk: Desk) -> None:
    call_list = await desk.new_list("601", "602", "603", "604")
    campaign = await desk.new_campaign(call_list)
    await desk.command(campaign, Command.START)
    place = PinnedList(call_list, 1, 0)
    rows = [ReadRow(0, "601"), ReadRow(1, "602")]
    await desk.store.reading.accept(campaign, 1, place, rows=rows, cursor=2)  # 603, 604 are not read yet
    called = await desk.call(campaign)  # 601
    await desk.store.lists.replace(call_list, in_batches(["602", "604", "605"]))
    assert (await desk.view(campaign)).lists == (PinnedList(call_list, 1, 2),)  # until reload
    await desk.command(campaign, Command.RELOAD)
    assert (await desk.view(campaign)).lists == (PinnedList(call_list, 2, 0),)
    stale = await desk.store.reading.accept(
        campaign, 1, PinnedList(call_list, 1, 2), rows=[ReadRow(2, "603")], cursor=3
    )
    assert stale.stale
    await desk.read(campaign)
    assert await numbers_waiting(desk, campaign) == ["602", "604", "605"]
    await desk.store.calls.release(called.attempt_id, owner=OWNER)
    assert await numbers_waiting(desk, campaign) == ["601", "602", "604", "605"]
    await desk.command(campaign, Command.RELOAD)  # the same generation: the place stays
    assert (await desk.view(campaign)).lists == (PinnedList(call_list, 2, 3),)


async def test_reload_takes_the_edited_lists(desk: Desk) -> None:
    first, second = await desk.new_list("601"), await desk.new_list("602")
    campaign = await desk.new_campaign(first)
    await desk.command(campaign, Command.START)
    await desk.read(campaign)
    text = (await desk.view(campaign)).text
    document = from_json(text)
    assert isinstance(document, dict)
    edited = parse_campaign({**document, "callLists": [second, first]})
    await desk.store.campaigns.save(edited, campaign=campaign, by="test", now=NOW)
    await desk.command(campaign, Command.RELOAD)
    await desk.read(campaign)
    assert await numbers_waiting(desk, campaign) == ["601", "602"]  # 601 was read before


async def test_old_generations_stay_while_a_run_has_contacts_on_them(desk: Desk, raw: Any) -> None:
    call_list = await desk.new_list("601", "602")
    campaign = await desk.new_campaign(call_list)
    await desk.command(campaign, Command.START)
    await desk.read(campaign)
    await desk.store.lists.replace(call_list, in_batches(["603"]))
    await desk.command(campaign, Command.RELOAD)
    await desk.read(campaign)
    lists = desk.store.lists
    assert [await lists.drop_old_generations() for _ in "12"] == [0, 0]
    assert await numbers_waiting(desk, campaign) == ["601", "602", "603"]
    for _ in "12":
        request = await desk.call(campaign)
        await desk.store.calls.settle(request.attempt_id, result={"status": "RS_LOST"}, next=Closed(), now=NOW)
    assert [await lists.drop_old_generations() for _ in "12"] == [1, 0]
    assert await raw("EXISTS", f"{{dialer:list:{call_list}}}:rows:1") == 0
    assert await numbers_waiting(desk, campaign) == ["603"]


async def test_a_generation_just_replaced_is_left_to_the_next_housekeeping(desk: Desk) -> None:
    call_list = await desk.new_list("601")
    assert await desk.store.lists.drop_old_generations() == 0
    await desk.store.lists.replace(call_list, in_batches(["602"]))
    assert [await desk.store.lists.drop_old_generations() for _ in "123"] == [0, 1, 0]


@pytest.mark.timeout(30)
async def test_generations_that_are_numbered_by_the_clock_are_not_counted_through(desk: Desk, raw: Any) -> None:
    """As another program may do it: the next one is only the greater one."""
    call_list = await desk.new_list("601")
    rows, lists = f"{{dialer:list:{call_list}}}:rows", desk.store.lists
    await lists.drop_old_generations()
    for before, generation in ((1, 1_796_000_000), (1_796_000_000, 1_796_086_400)):
        await raw("RPUSH", f"{rows}:{generation}", "602")
        await raw("HSET", f"{{dialer:list:{call_list}}}:meta", "generation", generation)
        for _ in "12":
            assert await raw("EXISTS", f"{rows}:{before}") == 1
            await lists.drop_old_generations()
        assert await raw("EXISTS", f"{rows}:{before}", f"{rows}:{generation}") == 1
    await lists.delete(call_list)
    assert await raw("KEYS", f"{{dialer:list:{call_list}}}:*") == []


async def test_lists(desk: Desk) -> None:
    lists = desk.store.lists
    made = await lists.create("customers", in_batches(["601", "602", "601"], ["602", "603"]))
    assert (made.written, made.repeats, made.generation) == (3, 2, 1)
    replaced = await lists.replace(made.id, in_batches(["604"]), name="others")
    assert (replaced.written, replaced.generation) == (1, 2)
    more = await lists.append(made.id, [numbered("604"), numbered("605")])
    assert (more.written, more.repeats) == (1, 1)
    info = await lists.info(made.id)
    assert (info.name, info.generation, info.rows) == ("others", 2, 2)
    assert await lists.all() == [info]
    assert await lists.rows(made.id, 1, 10) == ["605"]
    await lists.strike_out(made.id, "604", "604".__eq__)
    again = await lists.append(made.id, [numbered("604")])  # struck out, so it may come back
    assert again.written == 1
    await lists.delete(made.id)
    with pytest.raises(NotFound):
        await lists.info(made.id)


async def test_of_two_replacements_the_later_one_stands(desk: Desk) -> None:
    call_list = await desk.new_list("601")

    async def slow() -> Any:
        yield [numbered("602")]
        await desk.store.lists.replace(call_list, in_batches(["603"]))
        yield [numbered("604")]

    with pytest.raises(Conflict):
        await desk.store.lists.replace(call_list, slow())
    assert await desk.store.lists.rows(call_list, 0, 10) == ["603"]


async def test_a_list_half_imported_is_not_there(desk: Desk) -> None:
    async def broken() -> Any:
        yield [numbered("601")]
        raise OSError("the upload broke off")

    with pytest.raises(OSError, match="broke off"):
        await desk.store.lists.create("half", broken())
    assert await desk.store.lists.all() == []
    with pytest.raises(NotFound):
        await desk.store.lists.append(ListId(1), [])


async def test_candidates_come_due_first_each_with_its_row(desk: Desk) -> None:
    campaign = await desk.running("601", '{"number":"602","attributes":{"name":"Eva"}}')
    found = await desk.store.reading.candidates(campaign, 1, fresh=10, due=10, now=NOW)
    assert [one.row for one in found.fresh] == ["601", '{"number":"602","attributes":{"name":"Eva"}}']
    assert found.due == ()
    assert [one.contact.row for one in members(found.fresh)] == [0, 1]
    assert (await desk.store.reading.candidates(campaign, 2, fresh=10, due=10, now=NOW)).fresh == ()


async def test_a_number_costs_at_most_forty_bytes_in_its_list_and_its_run(redis_server: RealRedis) -> None:
    """Read and unread alike; contacts that wait for a call are few, and cost more."""
    store = await Store.open(redis_server.url)
    desk, count = Desk(store), 60_000
    numbers = [f"420{600_000_000 + 37 * n}" for n in range(count)]
    batches = (numbers[at : at + 1000] for at in range(0, count, 1000))
    call_list = (await store.lists.create("list", in_batches(*batches))).id
    campaign = await desk.new_campaign(call_list)
    await desk.command(campaign, Command.START)
    for at in range(0, count, 1000):
        rows = [ReadRow(at + n, number) for n, number in enumerate(numbers[at : at + 1000])]
        where = PinnedList(call_list, 1, at)
        await store.reading.accept(campaign, 1, where, rows=rows, cursor=at + 1000)
    with redis_server.client() as client:
        sets = list(client.scan_iter("*:seen:*", count=1000))
        encodings = {client.object("encoding", key) for key in sets}
        kept = [*sets, f"{{dialer:list:{call_list}}}:rows:1"]
        used = sum(client.memory_usage(key, samples=0) or 0 for key in kept) / count
    await store.close()
    assert encodings == {"intset"}
    assert used <= 40, used
