"""Imports of many rows: whole or not at all, and nothing left of those that died. On fakeredis and on a real
redis-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from dialer_engine.core.model import Command, ListId
from dialer_engine.errors import Conflict, Invalid, NotFound, Problem
from dialer_engine.store import Store
from dialer_engine.store.imports import Import
from dialer_engine.store.link import Link
from dialer_engine.store.lists import Lists
from dialer_engine.store.server import connect
from tests.ports.store_desk import Desk, RealRedis, in_batches, numbered

THOUSANDS = [f"7{n:08}" for n in range(0, 90_000, 30)]


class Slow:
    """Batches of rows; it waits before the last one until it is told to go on."""

    def __init__(self, *batches: Sequence[str]) -> None:
        self._batches = batches
        self.waits = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[list[tuple[str, str]]]:
        for batch in self._batches:
            if batch is self._batches[-1]:
                self.waits.set()
                await self.go_on.wait()
            yield [numbered(row) for row in batch]


async def keys_of(raw: Any, call_list: int) -> set[str]:
    return {key.partition("}:")[2] for key in await raw("KEYS", f"{{dialer:list:{call_list}}}:*")}


async def die(raw: Any, name: str) -> None:
    """As if the process of the import had been dead for a minute."""
    call_list, number = name.split(".")
    assert await raw("DEL", f"{{dialer:list:{call_list}}}:import:{number}") == 1


async def test_rows_appended_in_bulk_are_there_when_the_last_is(desk: Desk, raw: Any) -> None:
    campaign = await desk.running("601", "602", whenDone="wait")
    (call_list,) = [info.id for info in await desk.store.lists.all()]
    rows = Slow(["603", "602"], ["604", "603", '{"number":"605","attributes":{"name":"Eva"}}'])
    appending = asyncio.create_task(desk.store.lists.append_all(call_list, rows))
    await rows.waits.wait()
    assert await desk.store.lists.rows(call_list, 0, 10) == ["601", "602"]
    await desk.store.lists.append(call_list, [numbered("604")])  # a single one meanwhile
    rows.go_on.set()
    written = await appending
    assert (written.written, written.repeats, written.generation) == (2, 3, 1)
    await desk.read(campaign)
    assert [numbered(one.row)[0] for one in await desk.waiting(campaign)] == ["601", "602", "604", "603", "605"]
    assert await keys_of(raw, call_list) == {"meta", "rows:1", "seen:1:1:0"}
    assert await raw("EXISTS", "{dialer}:imports") == 0


async def test_thousands_are_appended_each_once(desk: Desk) -> None:
    call_list = await desk.new_list(*THOUSANDS[:10])
    batches = [THOUSANDS[at : at + 700] for at in range(0, 3000, 700)]
    written = await desk.store.lists.append_all(call_list, in_batches(*batches))
    assert (written.written, written.repeats) == (2990, 10)
    again = await desk.store.lists.append_all(call_list, in_batches(*batches))
    assert (again.written, again.repeats) == (0, 3000)
    assert (await desk.store.lists.info(call_list)).rows == 3000


async def test_a_list_whose_import_died_is_cleaned_up_by_the_next(desk: Desk, raw: Any) -> None:
    rows = Slow(THOUSANDS[:1000], ["1"])
    creating = asyncio.create_task(desk.store.lists.create("big", rows))
    await rows.waits.wait()
    assert await desk.store.lists.all() == []
    assert await raw("SMEMBERS", "{dialer}:imports") == {"1.1"} or await raw(
        "SMEMBERS", "{dialer}:imports"
    ) == ["1.1"]
    assert await desk.store.lists.imports.clean_up() == 0, "it lives"
    await die(raw, "1.1")
    made = await desk.store.lists.create("big", in_batches(THOUSANDS[:1000]))
    assert (made.id, made.written, made.repeats) == (2, 1000, 0)
    assert await keys_of(raw, 1) == set()
    rows.go_on.set()  # it was not dead, but stood still
    with pytest.raises(Conflict, match="import again"):
        await creating
    assert await keys_of(raw, 1) == set()
    assert [info.id for info in await desk.store.lists.all()] == [2]
    assert await raw("EXISTS", "{dialer}:imports") == 0


async def test_who_dies_before_he_is_registered_leaves_a_key_that_goes_by_itself(
    desk: Desk, raw: Any, store_url: str
) -> None:
    link = Link(connect(store_url, 5.0), "dialer")
    assert await link.run("begin", 1, 60, base=link.list_base(1)) == 1
    await link.close()
    assert await keys_of(raw, 1) == {"import:1"}
    assert 0 < await raw("TTL", "{dialer:list:1}:import:1") <= 60
    # He who asks again meanwhile fills another generation: the first may only stand still.
    made = await desk.store.lists.create("people", in_batches(["601"]), reserved=ListId(1))
    assert (made.id, made.generation) == (1, 2)
    await die(raw, "1.1")
    assert await keys_of(raw, 1) == {"meta", "rows:2", "seen:2:1:0"}


class Watched(Link):
    """Something else happens right before a new list is listed."""

    before_listing: Callable[[], Awaitable[Any]]

    async def do(self, *command: str | int | float) -> Any:
        if command[:2] == ("SADD", self.key("lists")):
            await self.before_listing()
        return await super().do(*command)


async def test_the_end_of_a_dead_first_try_leaves_the_second_its_rows(
    desk: Desk, raw: Any, store_url: str
) -> None:
    lists = desk.store.lists
    call_list = await lists.reserve()
    first = Slow(["601"], ["602"])
    dead = asyncio.create_task(lists.create("dead", first, reserved=call_list))
    await first.waits.wait()
    link = Watched(connect(store_url, 5.0), "dialer")

    async def another_cleans_up() -> None:
        await die(raw, f"{call_list}.1")
        assert await lists.imports.clean_up() == 1

    link.before_listing = another_cleans_up
    await Lists(link, desk.store.campaigns).create("people", in_batches(["603", "604"]), reserved=call_list)
    assert await lists.rows(call_list, 0, 10) == ["603", "604"]
    assert await keys_of(raw, call_list) == {"meta", "rows:2", "seen:2:1:0"}
    await link.close()
    dead.cancel()
    await asyncio.gather(dead, return_exceptions=True)


async def test_what_another_program_takes_for_a_generation_stops_no_import(desk: Desk, raw: Any) -> None:
    spoilt = await desk.new_list("601")
    campaign = await desk.running("602")
    rows = Slow(["603"], ["604"])
    left = asyncio.create_task(desk.store.lists.append_all(spoilt, rows))
    await rows.waits.wait()
    await die(raw, f"{spoilt}.2")
    await raw("HSET", f"{{dialer:list:{spoilt}}}:meta", "generation", "newest", "oldest", "first")
    await raw("HSET", f"{{dialer}}:campaign:{campaign}:run", "generation:x", "y", "open:x.y", "z")
    made = await desk.store.lists.create("people", in_batches(["605"]))
    assert await desk.store.lists.rows(made.id, 0, 10) == ["605"]
    assert await desk.store.lists.drop_old_generations() == 0
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)


async def test_a_list_that_another_program_has_spoilt_stops_no_other_import(redis_server: RealRedis) -> None:
    store = await Store.open(redis_server.url)
    spoilt = await Desk(store).new_list("601")
    with redis_server.client() as client:
        client.sadd("{dialer}:imports", f"{spoilt}.2")  # of a process that has died
        client.delete(f"{{dialer:list:{spoilt}}}:meta")
        client.set(f"{{dialer:list:{spoilt}}}:meta", "mine")
    made = await store.lists.create("people", in_batches(["605"]))
    assert await store.lists.rows(made.id, 0, 10) == ["605"]
    await store.tidy()
    await store.close()


async def test_a_generation_that_another_program_fills_is_left_to_it(desk: Desk, raw: Any) -> None:
    call_list = await desk.new_list("601")
    rows = f"{{dialer:list:{call_list}}}:rows"
    await raw("RPUSH", f"{rows}:2", "602")

    async def broken() -> AsyncIterator[list[tuple[str, str]]]:
        yield [numbered("604")]
        raise Invalid([Problem("numbers.1", "must be an object")])

    for write in (desk.store.lists.append_all, desk.store.lists.replace):
        with pytest.raises(Invalid):
            await write(call_list, broken())
        assert await raw("LRANGE", f"{rows}:2", 0, -1) == ["602"]
    assert (await desk.store.lists.replace(call_list, in_batches(["603"]))).generation > 2
    assert await desk.store.lists.rows(call_list, 0, 10) == ["603"]
    assert await raw("LRANGE", f"{rows}:2", 0, -1) == ["602"]


async def test_a_replacement_that_died_changes_nothing(desk: Desk, raw: Any) -> None:
    call_list = await desk.new_list("601")
    rows = Slow(THOUSANDS[:1000], ["1"])
    replacing = asyncio.create_task(desk.store.lists.replace(call_list, rows))
    await rows.waits.wait()
    await die(raw, f"{call_list}.2")
    await desk.store.tidy()
    assert await desk.store.lists.rows(call_list, 0, 10) == ["601"]
    assert await keys_of(raw, call_list) == {"meta", "rows:1", "seen:1:1:0"}
    replacing.cancel()
    await asyncio.gather(replacing, return_exceptions=True)
    replaced = await desk.store.lists.replace(call_list, in_batches(["602"]))
    assert (replaced.generation, await desk.store.lists.rows(call_list, 0, 10)) == (3, ["602"])


async def test_an_append_that_died_is_rolled_back_and_a_committed_one_forward(desk: Desk, raw: Any) -> None:
    call_list = await desk.new_list("601")
    rows = Slow(THOUSANDS[:1000], THOUSANDS[1000:2000])
    appending = asyncio.create_task(desk.store.lists.append_all(call_list, rows))
    await rows.waits.wait()
    await die(raw, f"{call_list}.2")
    await desk.store.tidy()
    assert (await desk.store.lists.info(call_list)).rows == 1
    appending.cancel()
    await asyncio.gather(appending, return_exceptions=True)
    assert await keys_of(raw, call_list) == {"meta", "rows:1", "seen:1:1:0"}

    again = Slow(THOUSANDS[:1000], THOUSANDS[1000:2000])
    appending = asyncio.create_task(desk.store.lists.append_all(call_list, again))
    await again.waits.wait()
    again.go_on.set()
    while not await raw("HEXISTS", f"{{dialer:list:{call_list}}}:meta", "moving:3"):
        assert not appending.done()
    await asyncio.sleep(0)
    appending.cancel()  # in the midst of the moving
    await asyncio.gather(appending, return_exceptions=True)
    await desk.store.tidy()
    assert await desk.store.lists.rows(call_list, 0, 3000) == ["601", *THOUSANDS[:2000]]
    assert await raw("EXISTS", "{dialer}:imports") == 0


async def test_who_dies_between_commit_and_move_has_appended(desk: Desk, raw: Any) -> None:
    call_list = await desk.new_list("601")
    with pytest.raises(Dead):
        async with desk.store.lists.imports.begin(call_list) as begun:
            await Dying(begun.link, begun.call_list, begun.number).append(in_batches(["602"], ["603"]))
    assert await desk.store.lists.rows(call_list, 0, 10) == ["601", "602", "603"]
    assert await raw("EXISTS", "{dialer}:imports") == 0


class Dead(Exception):
    pass


class Dying(Import):
    async def move(self) -> Any:
        raise Dead


async def test_old_generations_wait_for_what_is_moved_into_them(desk: Desk, raw: Any) -> None:
    call_list = await desk.new_list("601")
    lists = desk.store.lists
    rows = Slow(["602"], ["603"])
    appending = asyncio.create_task(lists.append_all(call_list, rows))
    await rows.waits.wait()
    assert (await lists.replace(call_list, in_batches(["604"]))).generation == 3
    assert [await lists.drop_old_generations() for _ in "12"] == [0, 0]
    rows.go_on.set()
    assert (await appending).generation == 3, "the current one when the last row was in"
    assert await lists.rows(call_list, 0, 10) == ["604", "602", "603"]
    assert [await lists.drop_old_generations() for _ in "123"] == [0, 2, 0]
    assert await keys_of(raw, call_list) == {"meta", "rows:3", "seen:3:1:0"}


async def test_a_list_deleted_meanwhile_takes_no_import(desk: Desk, raw: Any) -> None:
    for verb in (desk.store.lists.replace, desk.store.lists.append_all):
        call_list = await desk.new_list(*THOUSANDS[:1000])
        rows = Slow(["602"], ["603"])
        under_way = asyncio.create_task(verb(call_list, rows))
        await rows.waits.wait()
        await desk.store.lists.delete(call_list)
        rows.go_on.set()
        with pytest.raises(NotFound):
            await under_way
        assert await keys_of(raw, call_list) == set()
        assert await raw("EXISTS", "{dialer}:imports") == 0


class Overtaken(Link):
    """The list is deleted right before the rows are appended."""

    delete: Callable[[], Awaitable[Any]]

    async def run(self, name: str, *args: Any, base: str | None = None) -> Any:
        if name == "append":
            await self.delete()
        return await super().run(name, *args, base=base)


async def test_rows_appended_right_behind_a_deletion_are_freed(desk: Desk, raw: Any, store_url: str) -> None:
    call_list = await desk.new_list("601")
    link = Overtaken(connect(store_url, 5.0), "dialer")
    link.delete = lambda: desk.store.lists.delete(call_list)
    with pytest.raises(NotFound):
        await Lists(link, desk.store.campaigns).append(call_list, [numbered("602")])
    await link.close()
    await desk.store.tidy()
    assert await keys_of(raw, call_list) == set()


async def test_a_deletion_that_died_is_finished_by_the_next(desk: Desk, raw: Any) -> None:
    call_list = await desk.new_list(*THOUSANDS)
    await raw("SREM", "{dialer}:lists", call_list)
    await raw("SADD", "{dialer}:imports", f"{call_list}.1", "nonsense", "1.x")
    await desk.store.tidy()
    assert await keys_of(raw, call_list) == set()


async def test_what_a_run_has_seen_is_freed_when_it_is_over(desk: Desk, raw: Any) -> None:
    call_list = await desk.new_list(*THOUSANDS)
    campaign = await desk.new_campaign(call_list)
    for run in (1, 2):
        await desk.command(campaign, Command.START)
        await desk.read(campaign)
        assert len(await desk.waiting(campaign)) == 100, "what an earlier run has seen is no repeat"
        assert await raw("KEYS", f"{{dialer}}:campaign:{campaign}:seen:{run}:*")
        await desk.command(campaign, Command.REMOVE)
    await desk.store.tidy()
    assert await raw("KEYS", f"{{dialer}}:campaign:{campaign}:seen:*") == []
    assert await raw("EXISTS", "{dialer}:unwanted") == 0
    await desk.command(campaign, Command.START)
    await desk.read(campaign)
    await desk.store.tidy()
    assert await raw("KEYS", f"{{dialer}}:campaign:{campaign}:seen:*"), "the current run's stay"


async def test_many_sets_are_freed_in_slices(desk: Desk, raw: Any) -> None:
    """Several layers, and more sets than one slice takes."""
    prefix = "{dialer}:campaign:9:seen:1"
    sets = [f"{prefix}:1:0", *(f"{prefix}:2:{n}" for n in range(1201)), f"{prefix}:other"]
    for key in sets:
        await raw("SADD", key, "1")
    await raw("RPUSH", "{dialer}:unwanted", f"{prefix} 1,1201")
    await desk.store.tidy()
    assert await raw("EXISTS", *sets, "{dialer}:unwanted") == 0


async def test_an_import_shows_that_it_lives(desk: Desk, raw: Any) -> None:
    async with desk.store.lists.imports.begin(ListId(5), is_new=True) as begun:
        assert 0 < await raw("TTL", "{dialer:list:5}:import:1") <= 60
        assert await begun.lives()
    assert not await begun.lives()
