"""One telephone number: every call to it that has a result in Redis, whoever dials it now, who may not.

Settling a call notes it under its number, in lists of some sixty notes for a million results: a question costs as
much as one of these lists. Results that were archived are not in Redis any more; `complete_since` says from when on
nothing is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from dialer_engine.core.model import AttemptId, CampaignId
from dialer_engine.store.calls import Calls
from dialer_engine.store.campaigns import numbers
from dialer_engine.store.dnc import DoNotCallLists
from dialer_engine.store.link import Link
from dialer_engine.store.records import AttemptRecord, DoNotCall
from dialer_engine.store.results import Results, item

READ_AT_ONCE = 100


class Numbers:
    """Numbers are identities (core.compliance.normalise)."""

    def __init__(self, link: Link, calls: Calls, results: Results, do_not_call: DoNotCallLists) -> None:
        self._link = link
        self._calls = calls
        self._results = results
        self._do_not_call = do_not_call

    async def calls(self, number: str, offset: int, count: int) -> tuple[int, list[Mapping[str, object]]]:
        """How many calls there were over all campaigns, and some results, each with its `campaign`; latest first."""
        total, flat = await self._link.run("history", number, offset, count)
        places = list(zip(map(int, flat[::2]), flat[1::2], strict=True))
        results: list[Mapping[str, object]] = []
        for start in range(0, len(places), READ_AT_ONCE):
            some = places[start : start + READ_AT_ONCE]
            found = await asyncio.gather(
                *(self._results.entry(CampaignId(campaign), id) for campaign, id in some)
            )
            results += (
                {"campaign": campaign, **item(entry[1])}
                for (campaign, _), entry in zip(some, found, strict=True)
                if entry  # else archived a moment ago
            )
        return total, results

    async def live(self, number: str) -> AttemptRecord | None:
        """The call under way; there is at most one."""
        attempt = await self._link.do("HGET", self._link.key("live-numbers"), number)
        return await self._calls.read(AttemptId(attempt)) if attempt else None

    async def do_not_call(self, number: str) -> dict[CampaignId | None, DoNotCall]:
        """The entries on the list for all (None) and on those of campaigns, even if their `until` is over."""
        places: list[CampaignId | None] = [None, *await self._campaigns()]
        found = await self._do_not_call.find_on(number, places)
        return {place: entry for place, entry in zip(places, found, strict=True) if entry}

    async def complete_since(self) -> float | None:
        """No result from then on has been archived (epoch seconds); None: none at all has."""
        asked = [
            ("HGET", self._link.campaign_key(one, "archived"), "through") for one in await self._campaigns()
        ]
        last = [int(id.partition("-")[0]) for id in await self._link.many(asked) if id]
        return (max(last) + 1) / 1000 if last else None

    async def _campaigns(self) -> list[CampaignId]:
        ids = await self._link.do("SMEMBERS", self._link.key("campaigns"))
        return sorted(CampaignId(one) for one in numbers(ids))
