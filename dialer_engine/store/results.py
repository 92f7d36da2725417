"""What came of the calls: a stream of results per campaign, counters per run, and the audit of who did what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import orjson

from dialer_engine.core.model import CampaignId, Due
from dialer_engine.store.link import Link
from dialer_engine.store.records import AuditEntry, ResultPage

AT_ONCE = 500  # entries of a stream; decoding them takes some milliseconds
LOOKED_AT = 10 * AT_ONCE  # at most, per page
MINUTE_SECONDS = 60.0
RATED = 100  # results that say how fast a campaign is


class Results:
    def __init__(self, link: Link) -> None:
        self._link = link

    async def read(
        self,
        campaign: CampaignId,
        *,
        after: str | None = None,
        since: float | None = None,
        count: int = 100,
        wanted: Callable[[Mapping[str, object]], bool] = lambda item: True,
    ) -> ResultPage:
        """Up to `count` results for which `wanted` is true, oldest first, after the cursor `after`.

        A page may hold fewer (even none) and still have a `next`: one page looks at a bounded number.
        """
        start = f"({after}" if after else "-" if since is None else f"{int(since * 1000)}-0"
        key = self._link.campaign_key(campaign, "results")
        items: list[Mapping[str, object]] = []
        for _ in range(LOOKED_AT // AT_ONCE):
            found = await self._link.do("XRANGE", key, start, "+", "COUNT", AT_ONCE)
            for place, (cursor, fields) in enumerate(found, 1):
                start = f"({cursor}"
                item = _item(fields)
                if wanted(item):
                    items.append(item)
                if len(items) == count:
                    more = place < len(found) or place == AT_ONCE
                    return ResultPage(tuple(items), cursor if more else None)
            if len(found) < AT_ONCE:
                return ResultPage(tuple(items), None)
        return ResultPage(tuple(items), start.removeprefix("("))

    async def trim(self, campaign: CampaignId, *, before: float) -> int:
        """Drop results settled before `before`; returns how many. Retention."""
        key = self._link.campaign_key(campaign, "results")
        return int(await self._link.do("XTRIM", key, "MINID", f"{int(before * 1000)}-0"))

    async def stats(self, campaign: CampaignId, run: int) -> dict[str, int]:
        """Settled attempts of a run: {status: n, further counters: n}."""
        counts = await self._link.do("HGETALL", self._link.campaign_key(campaign, f"stats:{run}"))
        return {name: int(n) for name, n in counts.items()}

    async def per_minute(self, campaign: CampaignId, *, now: float) -> float:
        """Results of the last minute; of a faster campaign, as many as the last hundred would make in one."""
        since = int((now - MINUTE_SECONDS) * 1000)
        count, oldest = await self._link.run("rate", campaign, since, RATED)
        seconds = MINUTE_SECONDS if count < RATED else max(0.001, now - int(oldest) / 1000)
        return round(float(count * MINUTE_SECONDS / seconds), 1)


class Audit:
    """Who did what; the last 10,000 or so."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def write(self, *, by: str, action: str, subject: str, detail: str = "", now: float) -> None:
        await self._link.run("audit", now, by, action, subject, detail)

    async def read(self, *, after: str | None = None, count: int = 100) -> list[AuditEntry]:
        """Oldest first, after a cursor."""
        start = f"({after}" if after else "-"
        found = await self._link.do("XRANGE", self._link.key("audit"), start, "+", "COUNT", count)
        return [_audited(cursor, one) for cursor, one in found]

    async def page(self, offset: int, count: int) -> tuple[int, list[AuditEntry]]:
        """How many there are, and some of them, the latest first."""
        key, end, left = self._link.key("audit"), "+", offset + count
        total, entries = int(await self._link.do("XLEN", key)), list[AuditEntry]()
        while left > 0:
            found = await self._link.do("XREVRANGE", key, end, "-", "COUNT", min(left, AT_ONCE))
            if offset < len(found):
                entries += [_audited(cursor, one) for cursor, one in found[offset:]]
            offset = max(0, offset - len(found))
            left -= len(found)
            if len(found) < AT_ONCE:
                break
            end = f"({found[-1][0]}"
        return total, entries


def _audited(cursor: str, fields: Mapping[str, str]) -> AuditEntry:
    """What another program has left out is empty."""
    by, action, subject, detail = (fields.get(name, "") for name in ("by", "action", "subject", "detail"))
    try:
        at = float(fields.get("at", ""))
    except ValueError:
        at = int(cursor.partition("-")[0]) / 1000
    return AuditEntry(cursor, at, by, action, subject, detail)


def _item(fields: Mapping[str, str]) -> dict[str, object]:
    """What the attempt knew of itself, around what its call came to."""
    redial = fields["redial"]
    return {
        **orjson.loads(fields["r"]),
        "number": fields["number"],
        "attempt": fields["attempt"],
        "run": int(fields["run"]),
        "callList": Due.parse(fields["member"]).contact.call_list,
        "attributes": orjson.loads(fields["attributes"]) or [],
        "redialAt": datetime.fromtimestamp(float(redial), UTC).isoformat() if redial else None,
    }
