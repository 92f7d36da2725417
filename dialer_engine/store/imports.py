"""Imports of any length into call lists: whole or not at all, whoever is killed meanwhile.

Rows wait where no campaign looks: in a generation that is not the current one yet, or put by for the end of the
list. One small script at last makes them count. Rows put by are then moved in slices, because a million at once
would hold up everybody; who is killed at that has only left the rest of the moving to others.

An import lives as long as its key does, and its process keeps that alive. `{dialer}:imports` names all that were
begun: what a dead process has left is rolled back, or forward, by `clean_up`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from dialer_engine.core.model import ListId
from dialer_engine.errors import Conflict, Rejected, Stale, Unavailable
from dialer_engine.store.campaigns import whole
from dialer_engine.store.link import Link
from dialer_engine.store.records import Written

NumberedRow = tuple[str, str]  # (identity of the number, row as stored)
Batches = AsyncIterable[Sequence[NumberedRow]]

ALIVE_SECONDS = 60
"""Without a sign of life for so long an import has failed."""
SIGN_SECONDS = 15.0
WRITTEN_AT_ONCE = 250  # rows; two or three milliseconds of Redis
MOVED_AT_ONCE = 250
FREED_AT_ONCE = 500  # sets of numbers; a millisecond or so of Redis


@dataclass(frozen=True, slots=True)
class Import:
    """One import under way, on its list."""

    link: Link
    call_list: ListId
    number: int  # of the generation it fills, or of the rows it puts by

    @property
    def name(self) -> str:
        return Imports.name(self.call_list, self.number)

    async def fill(self, batches: Batches) -> Written:
        """All rows into the generation of this import, each number once; `publish` makes it the current one."""

        async def append(batch: Sequence[NumberedRow]) -> tuple[int, int]:
            generation, written, repeats = await self._run("append", *_flat(batch))
            if not generation:
                raise self.given_up()
            return written, repeats

        written, repeats = await _poured(batches, append)
        return Written(self.call_list, self.number, written, repeats)

    async def publish(self, name: str, *, expected: str = "") -> str:
        """Returns the list's mark then.

        Raises Conflict when a later generation has become the current one, Stale when the list is not as expected.
        expected: `ListInfo.mark`; "" is whatever stands there.
        """
        answer, *mark = await self._run("publish", name, expected)
        if answer == "GONE":
            raise self.given_up()
        if answer == "CHANGED":
            raise Stale(f"call list {self.call_list} has been changed meanwhile")
        if answer == "LATER":
            raise Conflict(f"call list {self.call_list} has been replaced meanwhile")
        return str(mark[0])

    async def append(self, batches: Batches) -> Written:
        """All rows to the end of the current generation, each number once."""

        async def stage(batch: Sequence[NumberedRow]) -> tuple[int, int]:
            if not await self._run("stage", *_flat(batch)):
                raise self.given_up()
            return 0, 0

        await _poured(batches, stage)
        if not await self._run("commit"):
            raise self.given_up()
        return await self.move()

    async def move(self) -> Written:
        """What was put by and belongs to the list goes there."""
        left, generation, written, repeats = await self._run("move", MOVED_AT_ONCE)
        while left:
            left, generation, more, more_repeats = await self._run("move", MOVED_AT_ONCE)
            written, repeats = written + more, repeats + more_repeats
        return Written(self.call_list, generation, written, repeats)

    async def lives(self) -> bool:
        return bool(await self.link.do("EXISTS", self._key))

    async def give_up(self) -> None:
        """From now on it can write nothing."""
        await self.link.do("DEL", self._key)

    async def stay_alive(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(SIGN_SECONDS)
            with suppress(Unavailable):
                await self.link.do("EXPIRE", self._key, ALIVE_SECONDS)

    async def _run(self, script: str, *arguments: str | int) -> Any:
        return await self.link.run(script, self.number, *arguments, base=self._base)

    @property
    def _base(self) -> str:
        return self.link.list_base(self.call_list)

    @property
    def _key(self) -> str:
        return f"{self._base}:import:{self.number}"

    def given_up(self) -> Conflict:
        return Conflict(f"this import into call list {self.call_list} was given up meanwhile: import again")


class Imports:
    def __init__(self, link: Link) -> None:
        self._link = link

    @asynccontextmanager
    async def begin(self, call_list: ListId, *, is_new: bool = False) -> AsyncIterator[Import]:
        """An import, kept alive; when it fails nothing is left of it.

        is_new: the list is made by it. Whose first try has left something behind begins another generation.
        """
        base = self._link.list_base(call_list)
        number = await self._link.run("begin", int(is_new), ALIVE_SECONDS, base=base)
        begun = Import(self._link, call_list, number)
        alive = asyncio.create_task(begun.stay_alive(), name=f"import {begun.name}")
        try:
            await self._link.do("SADD", self._register, begun.name)
            yield begun
        except BaseException:
            with suppress(Unavailable):  # then it is left to `clean_up`
                await begun.give_up()
                await self._end(begun)
            raise
        finally:
            alive.cancel()
            await asyncio.gather(alive, return_exceptions=True)
        await begun.give_up()
        await self._forget(begun)

    @staticmethod
    def name(call_list: ListId, number: int) -> str:
        """An import, or a generation nobody wants any more, as `{dialer}:imports` has it."""
        return f"{call_list}.{number}"

    async def clean_up(self) -> int:
        """End what dead processes have left; returns how many imports. By housekeeping, and before each import."""
        dead = [one for one in await self._begun() if not await one.lives()]
        for one in dead:
            with suppress(Rejected):  # another program has spoilt its list: that stops no other import
                await self._end(one)
        return len(dead)

    async def under_way(self) -> set[ListId]:
        """The lists that imports go into, dead ones included until they are cleaned up."""
        return {one.call_list for one in await self._begun()}

    async def drop(self, call_list: ListId, generations: Iterable[int]) -> None:
        """Free generations, or what was put by under these numbers, in slices."""
        base = self._link.list_base(call_list)
        for generation in generations:
            while await self._link.run("drop_generation", generation, FREED_AT_ONCE, base=base):
                pass

    async def _end(self, left: Import) -> None:
        """Forward when its rows belong to the list already, else back."""
        meta = f"{self._link.list_base(left.call_list)}:meta"
        current = whole(await self._link.do("HGET", meta, "generation") or "1")
        # A second try with the same id may have published `current` and list it in a moment. It is registered until
        # it is listed: whoever asks in this order sees one or the other.
        alone = all(one.call_list != left.call_list or one == left for one in await self._begun())
        listed = await self._link.do("SISMEMBER", self._link.key("lists"), left.call_list)
        if not listed:
            await self.drop(left.call_list, {left.number, current} if alone else {left.number})
        elif await self._link.do("HEXISTS", meta, f"moving:{left.number}"):
            await left.move()
        elif (
            left.number > current
        ):  # a lower one may have been current: who drops old generations knows its readers
            await self.drop(left.call_list, [left.number])
        await self._forget(left)
        if not listed and left.call_list not in await self.under_way():
            await self._link.do("UNLINK", meta)

    async def _begun(self) -> list[Import]:
        names = await self._link.do("SMEMBERS", self._register)
        return [Import(self._link, ListId(call_list), number) for call_list, number in _places(names)]

    async def _forget(self, ended: Import) -> None:
        await self._link.do("SREM", self._register, ended.name)

    @property
    def _register(self) -> str:
        return self._link.key("imports")


async def _poured(
    batches: Batches, write: Callable[[Sequence[NumberedRow]], Awaitable[tuple[int, int]]]
) -> tuple[int, int]:
    """Write all batches, a slice at a time; returns the sums. While one is written, the next is made ready."""
    sums = (0, 0)
    coming = aiter(batches)
    ahead = asyncio.create_task(_next(coming))
    try:
        while (batch := await ahead) is not None:
            ahead = asyncio.create_task(_next(coming))
            for at in range(0, len(batch), WRITTEN_AT_ONCE):
                done = await write(batch[at : at + WRITTEN_AT_ONCE])
                sums = (sums[0] + done[0], sums[1] + done[1])
    finally:
        ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)  # nobody reads on when this has ended
    return sums


async def _next(batches: AsyncIterator[Sequence[NumberedRow]]) -> Sequence[NumberedRow] | None:
    return await anext(batches, None)


def _flat(batch: Sequence[NumberedRow]) -> Iterator[str]:
    return (part for row in batch for part in row)


def _places(names: Iterable[str]) -> Iterator[tuple[int, int]]:
    """List and number of each; what another program has put there stands for nothing."""
    for name in names:
        call_list, _, number = name.partition(".")
        if call_list.isdecimal() and number.isdecimal():
            yield int(call_list), int(number)
