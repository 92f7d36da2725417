"""The do-not-call lists: one for all campaigns and one per campaign, asked by claim and mark_sent."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from contextlib import suppress
from secrets import token_hex

import orjson

from dialer_engine.core.model import CampaignId
from dialer_engine.errors import Conflict, Unavailable
from dialer_engine.store.link import Link
from dialer_engine.store.records import DoNotCall

ADDED_AT_ONCE = 1000
MOVED_AT_ONCE = 250  # a millisecond or so of Redis


class DoNotCallLists:
    """`campaign=None` is the list for all campaigns. Numbers are identities (core.compliance.normalise)."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def add(self, *entries: DoNotCall, campaign: CampaignId | None = None) -> None:
        for start in range(0, len(entries), ADDED_AT_ONCE):
            part = entries[start : start + ADDED_AT_ONCE]
            fields = [text for one in part for text in (one.number, _text(one))]
            await self._link.do("HSET", self._key(campaign), *fields)

    async def add_all(
        self, batches: AsyncIterable[Sequence[DoNotCall]], *, campaign: CampaignId | None = None
    ) -> tuple[int, int]:
        """Any number of them: all, or none when `batches` fails or the process dies. Returns (new, there before).

        Raises Conflict when it was given up because nothing has come for ten minutes.
        """
        await self.tidy()
        token, first = token_hex(8), "first"
        try:
            async for batch in batches:
                for start in range(0, len(batch), MOVED_AT_ONCE):
                    fields = [
                        text
                        for one in batch[start : start + MOVED_AT_ONCE]
                        for text in (one.number, _text(one))
                    ]
                    await self._forbid("stage", token, first, *fields)
                    first = ""
            if first:
                return 0, 0
            await self._forbid("commit", token, _scope(campaign))
        except BaseException:
            with suppress(Unavailable):  # then `tidy` does it
                await self._forbid("drop", token, 1)
            raise
        return await self._move(token)

    async def tidy(self) -> None:
        """End what dead processes have left: what was committed counts, the rest is dropped. Housekeeping."""
        for token, scope in (await self._link.do("HGETALL", self._link.key("forbidding"))).items():
            if scope:
                await self._move(token)
            else:
                await self._forbid("drop", token, 0)

    async def _move(self, token: str) -> tuple[int, int]:
        left, new, known = await self._link.run("forbid", "move", token, MOVED_AT_ONCE)
        while left:
            left, more, more_known = await self._link.run("forbid", "move", token, MOVED_AT_ONCE)
            new, known = new + more, known + more_known
        return new, known

    async def _forbid(self, verb: str, token: str, *arguments: str | int) -> None:
        if await self._link.run("forbid", verb, token, *arguments) < 0:
            raise Conflict("this import was given up, because nothing came for ten minutes: import again")

    async def remove(self, number: str, *, campaign: CampaignId | None = None) -> bool:
        return bool(await self._link.do("HDEL", self._key(campaign), number))

    async def find(self, number: str, *, campaign: CampaignId | None = None) -> DoNotCall | None:
        """The entry as it stands, even if its `until` is over."""
        text = await self._link.do("HGET", self._key(campaign), number)
        return None if text is None else _entry(number, text)

    async def find_on(self, number: str, places: Sequence[CampaignId | None]) -> list[DoNotCall | None]:
        """What stands on each of these lists."""
        texts = await self._link.many([("HGET", self._key(place), number) for place in places])
        return [None if text is None else _entry(number, text) for text in texts]

    async def page(
        self, cursor: int, count: int, *, campaign: CampaignId | None = None
    ) -> tuple[int, list[DoNotCall]]:
        """Some entries and the next cursor; 0 begins and ends, an entry may come twice."""
        following, found = await self._link.do("HSCAN", self._key(campaign), cursor, "COUNT", count)
        return int(following), [_entry(number, text) for number, text in found.items()]

    async def slice(
        self, offset: int, count: int, *, campaign: CampaignId | None = None
    ) -> tuple[int, list[DoNotCall]]:
        """How many entries there are, and some of them, in no order. It takes as long as all that are left out.

        None of those is kept: there may be millions. The table that grows meanwhile may show one twice.
        """
        total = int(await self._link.do("HLEN", self._key(campaign)))
        entries: dict[str, DoNotCall] = {}
        cursor, passed = 0, offset >= total
        while not passed:
            cursor, found = await self.page(cursor, ADDED_AT_ONCE, campaign=campaign)
            entries.update((entry.number, entry) for entry in found[offset:])
            offset = max(0, offset - len(found))
            passed = not cursor or len(entries) >= count
        return total, list(entries.values())[:count]

    def _key(self, campaign: CampaignId | None) -> str:
        return self._link.key(f"dnc:{_scope(campaign)}")


def _scope(campaign: CampaignId | None) -> str:
    return "all" if campaign is None else f"campaign:{campaign}"


def _text(entry: DoNotCall) -> str:
    value = {"reason": entry.reason, "until": entry.until, "by": entry.by, "at": entry.at}
    return orjson.dumps({name: one for name, one in value.items() if one not in (None, "")}).decode()


def _entry(number: str, text: str) -> DoNotCall:
    """What cannot be understood forbids for ever, here as in the scripts."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        return DoNotCall(number, reason="do-not-call")
    until, at = value.get("until"), value.get("at")
    return DoNotCall(
        number,
        reason=str(value.get("reason") or "do-not-call"),
        until=float(until) if isinstance(until, int | float) else None,
        by=str(value.get("by") or ""),
        at=float(at) if isinstance(at, int | float) else None,
    )
