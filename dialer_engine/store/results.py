"""What came of the calls: a stream of results per campaign, what agents have said of them later, and the audit of who
did what."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import orjson

from dialer_engine.core.model import CampaignId, Due
from dialer_engine.errors import Conflict, Rejected
from dialer_engine.store.campaigns import whole
from dialer_engine.store.link import Link
from dialer_engine.store.records import Archived, AuditEntry, ResultPage

AT_ONCE = 200  # entries of a stream; decoding them holds the loop for two milliseconds or so
LOOKED_AT = 5000  # at most, per page
MINUTE_SECONDS = 60.0
RATED = 100  # results that say how fast a campaign is
LAST_PLACE = 2**64 - 1  # among the entries of one millisecond

TEXTS = ("status", "extStatus", "cause", "sipCode", "agent", "recording")
TIMES = ("originatedAt", "ringingAt", "answeredAt", "leftIvrAt", "connectedAt", "endedAt")
DOCUMENTS = ("values", "path")
FILLED_IN = ("number", "attempt", "run", "callList", "attributes", "redialAt")  # from the attempt's own record

_ID = re.compile(r"[0-9]{1,16}-[0-9]{1,20}")

Entry = tuple[str, Mapping[str, str]]
"""A result as it stands in Redis: its id in the stream, and its fields."""


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
        """Up to `count` results for which `wanted` is true, oldest first, after the cursor `after` and settled since.

        A page may hold fewer (even none) and still have a `next`: one page looks at a bounded number.
        """
        begins = [after or "0-0", "0-0" if since is None else before_instant(since)]
        last = max(begins, key=place)
        items: list[Mapping[str, object]] = []
        for _ in range(LOOKED_AT // AT_ONCE):
            found = await self.entries(campaign, after=last, count=AT_ONCE)
            for nth, (last, fields) in enumerate(found, 1):
                result = item(fields)
                if wanted(result):
                    items.append(result)
                if len(items) == count:
                    more = nth < len(found) or nth == AT_ONCE
                    return ResultPage(tuple(items), last if more else None)
            if len(found) < AT_ONCE:
                return ResultPage(tuple(items), None)
        return ResultPage(tuple(items), last)

    async def entries(
        self,
        campaign: CampaignId,
        *,
        after: str | None = None,
        before: float | None = None,
        count: int = AT_ONCE,
    ) -> list[Entry]:
        """Up to `count` entries behind the id `after`, settled before the instant `before`, oldest first; each with
        its amendment, if there is one."""
        start = f"({after}" if after else "-"
        end = "+" if before is None else before_instant(before)
        return await self._range(campaign, start, end, count)

    async def entry(self, campaign: CampaignId, id: str) -> Entry | None:
        """This one, with its amendment."""
        return next(iter(await self._range(campaign, id, id, 1)), None)

    async def close(self, campaign: CampaignId, before: float) -> None:
        """Results that were settled before that instant are not amended any more."""
        await self._link.run("fence", campaign, before_instant(before))

    async def drop_amendments(self, campaign: CampaignId) -> None:
        """Those of results that have left."""
        key, through = self._amendments_key(campaign), (await self.archived(campaign)).through
        if through is None or not await self._are_amended(campaign):
            return
        cursor, is_first = 0, True
        while cursor or is_first:
            cursor, found = await self._link.do("HSCAN", key, cursor, "COUNT", AT_ONCE)
            left = [id for id in found if not _ID.fullmatch(id) or place(id) <= place(through)]
            if left:
                await self._link.do("HDEL", key, *left)
            is_first = False

    async def _range(self, campaign: CampaignId, start: str, end: str, count: int) -> list[Entry]:
        key = self._link.campaign_key(campaign, "results")
        found, are_amended = await asyncio.gather(
            self._link.do("XRANGE", key, start, end, "COUNT", count), self._are_amended(campaign)
        )
        amendments: list[str | None] = [None] * len(found)
        if found and are_amended:
            key = self._amendments_key(campaign)
            amendments = await self._link.do("HMGET", key, *(id for id, _ in found))
        return [_amended(id, fields, text) for (id, fields), text in zip(found, amendments, strict=True)]

    async def _are_amended(self, campaign: CampaignId) -> bool:
        """Any of them? What another program has put there amends nothing."""
        try:
            return bool(await self._link.do("HLEN", self._amendments_key(campaign)))
        except Rejected:
            return False

    def _amendments_key(self, campaign: CampaignId) -> str:
        return self._link.campaign_key(campaign, "amended")

    async def lease(self, owner: str, seconds: int) -> bool:
        """Take, keep or (0 seconds) give back the right to archive, which one daemon has. False: another has it."""
        return bool(await self._link.run("lease", "archive", owner, seconds))

    async def trim(self, campaign: CampaignId, *, through: str, owner: str) -> int:
        """Drop entries up to the id `through`, counted as archived by `owner`; returns how many.

        Raises Conflict when another daemon has the right to archive.
        """
        trimmed = int(await self._link.run("trim", campaign, through, owner))
        if trimmed < 0:
            raise Conflict("another daemon archives now")
        return trimmed

    async def archived(self, campaign: CampaignId) -> Archived:
        found = await self._link.do("HGETALL", self._link.campaign_key(campaign, "archived"))
        by = {name[3:]: whole(count) for name, count in found.items() if name.startswith("by:")}
        return Archived(by, found.get("through"))

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


def _amended(id: str, fields: Mapping[str, str], amendment: str | None) -> Entry:
    """The entry as it reads with what stands for it among the amendments."""
    return (id, fields) if amendment is None else (id, {**fields, "amended": amendment})


def place(id: str) -> tuple[int, int]:
    """An id of the stream as it is compared."""
    milliseconds, _, number = id.partition("-")
    return int(milliseconds), int(number)


def before_instant(at: float) -> str:
    """The last id an entry can have that was settled before this instant."""
    milliseconds = int(at * 1000) - 1
    return f"{milliseconds}-{LAST_PLACE}" if milliseconds > 0 else "0-0"


def stored(result: Mapping[str, object]) -> dict[str, str]:
    """A result as settle writes it: always the same fields, so that Redis keeps their names once for many."""
    known = {name: _text(result.get(name)) for name in TEXTS + DOCUMENTS}
    times = {name: _seconds(result.get(name)) for name in TIMES}
    others = result.keys() - {*known, *times, *FILLED_IN}
    return {**known, **times, "more": _text({name: result[name] for name in sorted(others) if result[name]})}


def item(fields: Mapping[str, str]) -> dict[str, object]:
    """The result in an entry as spec section 7 shapes it; what another program has put there, as it stands."""
    try:
        return _item(fields)
    except (KeyError, ValueError, TypeError, OverflowError):
        return dict(fields)


def _item(fields: Mapping[str, str]) -> dict[str, object]:
    """What the attempt knew of itself, around what its call came to, and what the agent has said of it later."""
    amendment = _amendment(fields.get("amended"))
    return {
        "number": fields["number"],
        "status": fields["status"],
        "extStatus": amendment.get("extStatus", fields["extStatus"] or None),
        "attempt": fields["attempt"],
        "run": int(fields["run"]),
        "callList": Due.parse(fields["member"]).contact.call_list or None,
        "attributes": orjson.loads(fields["attributes"]) or [],
        "values": orjson.loads(fields["values"] or "{}"),
        "path": orjson.loads(fields["path"] or "[]"),
        "cause": _whole(fields["cause"]),
        "sipCode": _whole(fields["sipCode"]),
        "agent": fields["agent"] or None,
        "recording": fields["recording"] or None,
        **{name: _moment(fields[name]) for name in TIMES},
        "redialAt": _moment(fields["redial"]),
        "queue": None,
        "variables": {},
        "notes": [],
        **orjson.loads(fields["more"] or "{}"),
        **({"amended": {name: amendment[name] for name in ("by", "at")}} if amendment else {}),
    }


def _amendment(text: str | None) -> dict[str, str]:
    """{extStatus, by, at}; what another program has put there amends nothing."""
    try:
        found = orjson.loads(text or "")
        return {"extStatus": str(found["extStatus"]), "by": str(found["by"]), "at": _moment(found["at"]) or ""}
    except (ValueError, TypeError, KeyError, OverflowError):
        return {}


def _text(value: object) -> str:
    """Nothing, as most of them are, costs nothing."""
    match value:
        case None:
            return ""
        case dict() | list() | tuple():
            return orjson.dumps(value).decode() if value else ""
        case _:
            return str(value)


def _seconds(moment: object) -> str:
    return f"{datetime.fromisoformat(moment).timestamp():.3f}" if isinstance(moment, str) else ""


def _moment(seconds: str | float) -> str | None:
    return datetime.fromtimestamp(float(seconds), UTC).isoformat(timespec="milliseconds") if seconds else None


def _whole(text: str) -> int | None:
    return int(text) if text else None
