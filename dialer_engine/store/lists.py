"""Call lists: plain Redis LISTs of rows, one per generation, each list in a slot of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from dialer_engine.core.model import CampaignId, CampaignState, ListId
from dialer_engine.errors import Conflict, Invalid, NotFound, Rejected, Stale
from dialer_engine.store.campaigns import Campaigns, numbers, whole
from dialer_engine.store.contract import STRUCK_OUT, parse_row
from dialer_engine.store.imports import Batches, Imports, NumberedRow
from dialer_engine.store.link import Link
from dialer_engine.store.records import ListInfo, Written

ROWS_AT_ONCE = 1000
MOST_GENERATIONS = 1000
"""Looked at when they are freed."""
ENDED = (CampaignState.NEW, CampaignState.COMPLETED, CampaignState.REMOVED)


class Lists:
    def __init__(self, link: Link, campaigns: Campaigns) -> None:
        self._link = link
        self._campaigns = campaigns
        self.imports = Imports(link)
        self._current_at_last_drop: dict[ListId, int] = {}

    async def reserve(self) -> ListId:
        """An id nobody has, for `create`."""
        while True:
            call_list = ListId(await self._link.do("INCR", self._link.key("next:list")))
            if not await self._link.do("SISMEMBER", self._link.key("lists"), call_list):
                return call_list  # another program may have written one without asking the counter

    async def create(
        self, name: str | Callable[[], str], batches: Batches, *, reserved: ListId | None = None
    ) -> Written:
        """A new list, visible to campaigns only when its last batch is in. Repeated numbers are dropped.

        name: may be asked for behind the last row. reserved: the id, from `reserve`; asking again with it writes
        the same list anew.
        """
        await self.imports.clean_up()
        call_list = reserved or await self.reserve()
        async with self.imports.begin(call_list, is_new=True) as begun:
            written = await begun.fill(batches)
            await begun.publish(name if isinstance(name, str) else name())
            await self._link.do("SADD", self._link.key("lists"), call_list)
            if not await begun.lives():  # then its rows may have been freed right before it was listed
                await self._link.do("SREM", self._link.key("lists"), call_list)
                raise begun.given_up()
        return written

    async def replace(
        self,
        call_list: ListId,
        batches: Batches,
        *,
        name: str | Callable[[], str] = "",
        expected: str = "",
    ) -> Written:
        """A new generation; running campaigns take it at `reload` or the next run.

        name: "" leaves it as it is. expected: `ListInfo.mark` as the caller has seen it; another one there at the
        end raises Stale. Raises NotFound, and Conflict when a later replacement was finished first.
        """
        await self._require(call_list)
        await self.imports.clean_up()
        async with self.imports.begin(call_list) as begun:
            written = await begun.fill(batches)
            mark = await begun.publish(name if isinstance(name, str) else name(), expected=expected)
            await self._require(call_list)
        return replace(written, mark=mark)

    async def rename(self, call_list: ListId, name: str, *, expected: str = "") -> str:
        """Returns the list's mark then. Raises NotFound, and Stale as `replace` does."""
        await self._require(call_list)
        mark = await self._link.run("rename", name, expected, base=self._link.list_base(call_list))
        if not mark:
            raise Stale(f"call list {call_list} has been changed meanwhile")
        return str(mark)

    async def append_all(self, call_list: ListId, batches: Batches) -> Written:
        """Rows of any number to the end of the current generation: all of them, or none. Raises NotFound."""
        await self._require(call_list)
        await self.imports.clean_up()
        async with self.imports.begin(call_list) as begun:
            written = await begun.append(batches)
            await self._require(call_list)
        await self._tell_readers(call_list)
        return written

    async def append(self, call_list: ListId, rows: Sequence[NumberedRow]) -> Written:
        """A few rows to the end of the current generation, in one step. Raises NotFound."""
        await self._require(call_list)
        flat = [part for row in rows for part in row]
        answer = await self._link.run("append", "", *flat, base=self._link.list_base(call_list))
        try:
            await self._require(call_list)
        except NotFound:  # it was deleted right before, and nobody else would free these rows
            await self._link.do("SADD", self._link.key("imports"), self.imports.name(call_list, answer[0]))
            raise
        await self._tell_readers(call_list)
        return Written(call_list, *answer)

    async def strike_out(self, call_list: ListId, identity: str, same: Callable[[str], bool]) -> int:
        """Overwrite by `-` every row of which `same(number)` is true, in the current generation and in those that
        runs under way still read; returns how many. Raises NotFound."""
        generations = {(await self.info(call_list)).generation}
        generations |= {one for of_list, one in await self._generations_in_use() if of_list == call_list}
        return sum([await self._strike_out(call_list, one, identity, same) for one in sorted(generations)])

    async def info(self, call_list: ListId) -> ListInfo:
        """Raises NotFound."""
        await self._require(call_list)
        return (await self._infos([call_list]))[0]

    async def all(self) -> list[ListInfo]:
        ids = await self._link.do("SMEMBERS", self._link.key("lists"))
        return await self._infos(sorted(ListId(one) for one in numbers(ids)))

    async def page(self, offset: int, count: int) -> tuple[int, list[ListInfo]]:
        """How many lists there are, and some of them, by their ids."""
        ids = sorted(ListId(one) for one in numbers(await self._link.do("SMEMBERS", self._link.key("lists"))))
        return len(ids), await self._infos(ids[offset : offset + count])

    async def rows(self, call_list: ListId, offset: int, count: int) -> list[str]:
        """Rows of the current generation, struck-out ones (`-`) included. Raises NotFound."""
        info = await self.info(call_list)
        return await self._range(call_list, info.generation, offset, count)

    async def numbers_page(self, call_list: ListId, offset: int, count: int) -> tuple[int, list[str]]:
        """How many rows are not struck out, and some of them. Raises NotFound.

        It costs as much as all rows before them when any is struck out.
        """
        info = await self.info(call_list)
        total = info.rows - info.struck
        if not info.struck:
            return total, await self._range(call_list, info.generation, offset, count)
        found: list[str] = []
        for start in range(0, info.rows, ROWS_AT_ONCE):
            rows = await self._range(call_list, info.generation, start, ROWS_AT_ONCE)
            kept = [row for row in rows if row != STRUCK_OUT]
            found += kept[offset : offset + count - len(found)]
            offset = max(0, offset - len(kept))
            if len(found) >= count:
                break
        return total, found

    async def delete(self, call_list: ListId) -> None:
        """Raises NotFound, and Conflict naming the campaigns whose definition names it, or whose run is still at it."""
        info = await self.info(call_list)
        users = {*await self._campaigns.naming(call_list=call_list), *await self._running_on(call_list)}
        if users:
            raise Conflict(f"call list {call_list} is used by campaigns {', '.join(map(str, sorted(users)))}")
        oldest = await self._oldest(call_list)
        there = {*_from(oldest, info.generation), info.generation}
        left = [self.imports.name(call_list, one) for one in sorted(there)]
        await self._link.run("unlist", call_list, *left)
        await self.imports.clean_up()

    async def drop_old_generations(self) -> int:
        """Free generations no run reads or has contacts on; returns how many. Housekeeping.

        One that was still current at the housekeeping before is left: a start may be about to pin it.
        """
        in_use, imported = await self._generations_in_use(), await self.imports.under_way()
        dropped = 0
        for info in await self.all():
            if info.id in imported:  # rows may be on their way to an old generation
                continue
            meta = f"{self._link.list_base(info.id)}:meta"
            oldest = await self._oldest(info.id)
            before = min(self._current_at_last_drop.get(info.id, 0), info.generation)
            kept = {one for of_list, one in in_use if of_list == info.id and oldest <= one < before}
            old = [one for one in _from(oldest, before) if one not in kept]
            await self.imports.drop(info.id, old)
            dropped += len(old)
            await self._link.do("HSET", meta, "oldest", min(kept, default=max(oldest, before)))
            self._current_at_last_drop[info.id] = info.generation
        return dropped

    async def _oldest(self, call_list: ListId) -> int:
        """The first generation that may not have been freed."""
        meta = f"{self._link.list_base(call_list)}:meta"
        return max(1, whole(await self._link.do("HGET", meta, "oldest") or "1"))

    async def _generations_in_use(self) -> set[tuple[int, int]]:
        """(list, generation) of every run under way: those it reads, and those it has open contacts on."""
        in_use = set()
        for run in (await self._runs()).values():
            in_use |= _open(run)
            for name, value in run.items():
                kind, _, call_list = name.partition(":")
                if kind == "generation":
                    in_use.add((whole(call_list), whole(value)))
        return in_use

    async def _running_on(self, call_list: ListId) -> list[CampaignId]:
        """The campaigns whose run reads this list or has open contacts on it, whatever their definition says now."""
        return [
            campaign
            for campaign, run in (await self._runs()).items()
            if call_list in {one for one, _ in _open(run) | _read(run)}
        ]

    async def _runs(self) -> dict[CampaignId, dict[str, str]]:
        """What stands of every run under way."""
        ids = list(numbers(await self._link.do("SMEMBERS", self._link.key("campaigns"))))
        states = await self._link.many(
            [("HGET", self._link.campaign_key(one, "state"), "state") for one in ids]
        )
        under_way = [one for one, state in zip(ids, states, strict=True) if state and state not in ENDED]
        runs = await self._link.many([("HGETALL", self._link.campaign_key(one, "run")) for one in under_way])
        return dict(zip(map(CampaignId, under_way), runs, strict=True))

    async def _strike_out(
        self, call_list: ListId, generation: int, identity: str, same: Callable[[str], bool]
    ) -> int:
        struck = offset = 0
        while rows := await self._range(call_list, generation, offset, ROWS_AT_ONCE):
            found = await asyncio.to_thread(_places, rows, same)
            if found:
                flat = [part for index in found for part in (offset + index, rows[index])]
                base = self._link.list_base(call_list)
                struck += await self._link.run("strike", generation, identity, *flat, base=base)
            offset += len(rows)
        return struck

    async def _require(self, call_list: ListId) -> None:
        if not await self._link.do("SISMEMBER", self._link.key("lists"), call_list):
            raise NotFound(f"there is no call list {call_list}")

    async def _tell_readers(self, call_list: ListId) -> None:
        await self._link.do("PUBLISH", self._link.key("wake"), f"list {call_list}")

    async def _range(self, call_list: ListId, generation: int, offset: int, count: int) -> list[str]:
        key = f"{self._link.list_base(call_list)}:rows:{generation}"
        rows: list[str] = await self._link.do("LRANGE", key, offset, offset + count - 1)
        return rows

    async def _infos(self, ids: Sequence[ListId]) -> list[ListInfo]:
        bases = [self._link.list_base(one) for one in ids]
        metas = await self._link.many([("HGETALL", f"{base}:meta") for base in bases])
        generations = [whole(meta.get("generation", "1")) for meta in metas]
        lengths = await asyncio.gather(
            *(self._length(f"{base}:rows:{one}") for base, one in zip(bases, generations, strict=True))
        )
        return [
            ListInfo(one, meta.get("name", ""), generation, rows, whole(meta.get(f"struck:{generation}", "0")))
            for one, meta, generation, rows in zip(ids, metas, generations, lengths, strict=True)
        ]

    async def _length(self, rows: str) -> int:
        try:
            return int(await self._link.do("LLEN", rows))
        except Rejected:  # another program has stored something else there: it hides no other list
            return 0


def _read(run: Mapping[str, str]) -> set[tuple[int, int]]:
    """(list, generation) of what a run reads."""
    return {_place(one) for one in run.get("lists", "").split(",")}


def _open(run: Mapping[str, str]) -> set[tuple[int, int]]:
    """(list, generation) of what it has open contacts on."""
    kept = (name.partition(":") for name, value in run.items() if value != "0")
    return {_place(place) for kind, _, place in kept if kind == "open"}


def _place(text: str) -> tuple[int, int]:
    call_list, _, generation = text.partition(".")
    return whole(call_list), whole(generation)


def _from(oldest: int, before: int) -> range:
    """Generations to be freed. Another program that numbers them by the clock leaves a gap that is not walked."""
    return range(oldest, min(before, oldest + MOST_GENERATIONS))


def _places(rows: Sequence[str], same: Callable[[str], bool]) -> list[int]:
    return [index for index, row in enumerate(rows) if _is_of(row, same)]


def _is_of(row: str, same: Callable[[str], bool]) -> bool:
    try:
        parsed = parse_row(row)
    except Invalid:
        return False
    return parsed is not None and same(parsed.number)
