"""Call lists: plain Redis LISTs of rows, one per generation, each list in a slot of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Sequence

from dialer_engine.core.model import CampaignState, ListId
from dialer_engine.errors import Conflict, Invalid, NotFound, Rejected
from dialer_engine.store.campaigns import Campaigns, numbers
from dialer_engine.store.contract import parse_row
from dialer_engine.store.link import Link
from dialer_engine.store.records import ListInfo, Written

NumberedRow = tuple[str, str]  # (identity of the number, row as stored)

ROWS_AT_ONCE = 1000
ENDED = (CampaignState.NEW, CampaignState.COMPLETED, CampaignState.REMOVED)


class Lists:
    def __init__(self, link: Link, campaigns: Campaigns) -> None:
        self._link = link
        self._campaigns = campaigns
        self._current_at_last_drop: dict[ListId, int] = {}

    async def create(self, name: str, batches: AsyncIterable[Sequence[NumberedRow]]) -> Written:
        """A new list, visible to campaigns only when its last batch is in. Repeated numbers are dropped."""
        call_list = ListId(await self._link.do("INCR", self._link.key("next:list")))
        written = await self._import(call_list, 1, batches)
        await self._publish(written, name)
        await self._link.do("SADD", self._link.key("lists"), call_list)
        return written

    async def replace(
        self, call_list: ListId, batches: AsyncIterable[Sequence[NumberedRow]], *, name: str | None = None
    ) -> Written:
        """A new generation; running campaigns take it at `reload` or the next run.

        Raises NotFound, and Conflict when a later replacement was finished first.
        """
        await self._require(call_list)
        generation = await self._link.run("generation", "", base=self._link.list_base(call_list))
        written = await self._import(call_list, generation, batches)
        await self._publish(written, name or "")
        return written

    async def append(self, call_list: ListId, rows: Sequence[NumberedRow]) -> Written:
        """Add rows to the end of the current generation. Raises NotFound."""
        await self._require(call_list)
        written = await self._append(call_list, "", rows)
        await self._link.do("PUBLISH", self._link.key("wake"), f"list {call_list}")
        return written

    async def strike_out(self, call_list: ListId, identity: str, same: Callable[[str], bool]) -> int:
        """Overwrite by `-` every row of which `same(number)` is true; returns how many. Raises NotFound."""
        info = await self.info(call_list)
        struck = 0
        for offset in range(0, info.rows, ROWS_AT_ONCE):
            rows = await self._range(call_list, info.generation, offset, ROWS_AT_ONCE)
            found = [(offset + index, row) for index, row in enumerate(rows) if _is_of(row, same)]
            if found:
                flat = [part for one in found for part in one]
                base = self._link.list_base(call_list)
                struck += await self._link.run("strike", info.generation, identity, *flat, base=base)
        return struck

    async def info(self, call_list: ListId) -> ListInfo:
        """Raises NotFound."""
        await self._require(call_list)
        return (await self._infos([call_list]))[0]

    async def all(self) -> list[ListInfo]:
        ids = await self._link.do("SMEMBERS", self._link.key("lists"))
        return await self._infos(sorted(ListId(one) for one in numbers(ids)))

    async def rows(self, call_list: ListId, offset: int, count: int) -> list[str]:
        """Rows of the current generation, struck-out ones (`-`) included. Raises NotFound."""
        info = await self.info(call_list)
        return await self._range(call_list, info.generation, offset, count)

    async def delete(self, call_list: ListId) -> None:
        """Raises NotFound, and Conflict naming the campaigns whose definition names it."""
        info = await self.info(call_list)
        if users := await self._campaigns.naming(call_list=call_list):
            raise Conflict(f"call list {call_list} is used by campaigns {', '.join(map(str, users))}")
        await self._link.do("SREM", self._link.key("lists"), call_list)
        await self._drop(call_list, range(1, info.generation + 1))
        await self._link.do("UNLINK", f"{self._link.list_base(call_list)}:meta")

    async def drop_old_generations(self) -> int:
        """Free generations no run reads or has contacts on; returns how many. Housekeeping.

        One that was still current at the housekeeping before is left: a start may be about to pin it.
        """
        in_use = await self._generations_in_use()
        dropped = 0
        for info in await self.all():
            meta = f"{self._link.list_base(info.id)}:meta"
            oldest = int(await self._link.do("HGET", meta, "oldest") or 1)
            before = min(self._current_at_last_drop.get(info.id, 0), info.generation)
            old = [one for one in range(oldest, before) if (info.id, one) not in in_use]
            await self._drop(info.id, old)
            dropped += len(old)
            kept = [one for one in range(oldest, before) if one not in old]
            await self._link.do("HSET", meta, "oldest", min(kept, default=max(oldest, before)))
            self._current_at_last_drop[info.id] = info.generation
        return dropped

    async def _generations_in_use(self) -> set[tuple[int, int]]:
        """(list, generation) of every run under way: those it reads, and those it has open contacts on."""
        ids = list(await self._link.do("SMEMBERS", self._link.key("campaigns")))
        states = await self._link.many(
            [("HGET", self._link.campaign_key(one, "state"), "state") for one in ids]
        )
        under_way = [one for one, state in zip(ids, states, strict=True) if state and state not in ENDED]
        in_use = set()
        for run in await self._link.many(
            [("HGETALL", self._link.campaign_key(one, "run")) for one in under_way]
        ):
            for name, value in run.items():
                kind, _, place = name.partition(":")
                if kind == "generation":
                    in_use.add((int(place), int(value)))
                elif kind == "open" and int(value) > 0:
                    call_list, _, generation = place.partition(".")
                    in_use.add((int(call_list), int(generation)))
        return in_use

    async def _drop(self, call_list: ListId, generations: Sequence[int]) -> None:
        for generation in generations:
            await self._link.run("drop_generation", generation, base=self._link.list_base(call_list))

    async def _require(self, call_list: ListId) -> None:
        if not await self._link.do("SISMEMBER", self._link.key("lists"), call_list):
            raise NotFound(f"there is no call list {call_list}")

    async def _import(
        self, call_list: ListId, generation: int, batches: AsyncIterable[Sequence[NumberedRow]]
    ) -> Written:
        written = repeats = 0
        async for batch in batches:
            part = await self._append(call_list, generation, batch)
            written += part.written
            repeats += part.repeats
        return Written(call_list, generation, written, repeats)

    async def _append(self, call_list: ListId, generation: int | str, rows: Sequence[NumberedRow]) -> Written:
        flat = [part for row in rows for part in row]
        answer = await self._link.run("append", generation, *flat, base=self._link.list_base(call_list))
        return Written(call_list, *answer)

    async def _publish(self, written: Written, name: str) -> None:
        base = self._link.list_base(written.id)
        if not await self._link.run("generation", written.generation, name, base=base):
            await self._drop(written.id, [written.generation])
            raise Conflict(f"call list {written.id} has been replaced meanwhile")

    async def _range(self, call_list: ListId, generation: int, offset: int, count: int) -> list[str]:
        key = f"{self._link.list_base(call_list)}:rows:{generation}"
        rows: list[str] = await self._link.do("LRANGE", key, offset, offset + count - 1)
        return rows

    async def _infos(self, ids: Sequence[ListId]) -> list[ListInfo]:
        bases = [self._link.list_base(one) for one in ids]
        metas = await self._link.many([("HGETALL", f"{base}:meta") for base in bases])
        generations = [int(meta.get("generation", 1)) for meta in metas]
        lengths = await asyncio.gather(
            *(self._length(f"{base}:rows:{one}") for base, one in zip(bases, generations, strict=True))
        )
        return [
            ListInfo(one, meta.get("name", ""), generation, rows, int(meta.get(f"struck:{generation}", 0)))
            for one, meta, generation, rows in zip(ids, metas, generations, lengths, strict=True)
        ]

    async def _length(self, rows: str) -> int:
        try:
            return int(await self._link.do("LLEN", rows))
        except Rejected:  # another program has stored something else there: it hides no other list
            return 0


def _is_of(row: str, same: Callable[[str], bool]) -> bool:
    try:
        parsed = parse_row(row)
    except Invalid:
        return False
    return parsed is not None and same(parsed.number)
