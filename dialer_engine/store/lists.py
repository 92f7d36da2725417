"""Call lists: plain Redis LISTs of rows, one per generation, each list in a slot of its own."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Sequence

from dialer_engine.core.model import ListId
from dialer_engine.store.link import Link
from dialer_engine.store.records import ListInfo, Written

NumberedRow = tuple[str, str]  # (identity of the number, row as stored)


class Lists:
    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(self, name: str, batches: AsyncIterable[Sequence[NumberedRow]]) -> Written:
        """A new list, visible to campaigns only when its last batch is in. Repeated numbers are dropped."""
        raise NotImplementedError

    async def replace(
        self, call_list: ListId, batches: AsyncIterable[Sequence[NumberedRow]], *, name: str | None = None
    ) -> Written:
        """A new generation; running campaigns take it at `reload` or the next run. Raises NotFound."""
        raise NotImplementedError

    async def append(self, call_list: ListId, rows: Sequence[NumberedRow]) -> Written:
        """Add rows to the end of the current generation. Raises NotFound."""
        raise NotImplementedError

    async def strike_out(self, call_list: ListId, identity: str, same: Callable[[str], bool]) -> int:
        """Overwrite by `-` every row of which `same(number)` is true; returns how many. Raises NotFound."""
        raise NotImplementedError

    async def info(self, call_list: ListId) -> ListInfo:
        """Raises NotFound."""
        raise NotImplementedError

    async def all(self) -> list[ListInfo]:
        raise NotImplementedError

    async def rows(self, call_list: ListId, offset: int, count: int) -> list[str]:
        """Rows of the current generation, struck-out ones (`-`) included."""
        raise NotImplementedError

    async def delete(self, call_list: ListId) -> None:
        """Raises NotFound, and Conflict naming the campaigns whose definition names it."""
        raise NotImplementedError

    async def drop_old_generations(self) -> int:
        """Free generations no run reads or has contacts on; returns how many. Housekeeping."""
        raise NotImplementedError
