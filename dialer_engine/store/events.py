"""What happens, as it happens: a capped stream that whoever wants to know reads for himself.

The scripts write most of it where it happens; what only a daemon sees, it tells by `tell`. Nobody waits for a reader,
and a reader that falls far behind loses the oldest: `have_passed` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import orjson

from dialer_engine.store.link import Link

BEGINNING = "0-0"


class Kind(StrEnum):
    STATE = "state"  # of a campaign
    CONNECTED = "connected"  # a call has reached an agent
    RESULT = "result"  # a call has been settled
    LIMIT = "limit"  # what binds the pace of a campaign, as one daemon plans it
    TRUNK = "trunk"  # closed or open again, as one daemon sees it
    STOP = "stop"  # everything, or the end of that
    EDIT = "edit"  # of a campaign, a list, an IVR or a do-not-call list


@dataclass(frozen=True, slots=True)
class Happening:
    id: str  # in the stream: the place to go on from
    kind: str
    at: object  # epoch seconds, as text
    facts: Mapping[str, object]


class Events:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._key = link.key("events")

    async def tell(self, kind: Kind, facts: Mapping[str, object], *, now: float) -> None:
        await self._link.run("event", now, kind, orjson.dumps(facts).decode())

    async def last(self) -> str:
        """The id of the latest one."""
        found = await self._link.do("XREVRANGE", self._key, "+", "-", "COUNT", 1)
        return str(found[0][0]) if found else BEGINNING

    async def after(self, id: str, count: int) -> list[Happening]:
        """Up to `count` behind this id, oldest first."""
        found = await self._link.do("XRANGE", self._key, f"({id}", "+", "COUNT", count)
        return [_happening(one, fields) for one, fields in found]

    async def have_passed(self, id: str) -> bool:
        """May there have been some behind this id that are not kept any more?"""
        found = await self._link.do("XRANGE", self._key, "-", "+", "COUNT", 1)
        return bool(found) and _place(id) < _place(found[0][0])


def _happening(id: str, fields: Mapping[str, str]) -> Happening:
    """What another program has put there is told without facts."""
    try:
        facts = orjson.loads(fields.get("facts", ""))
    except orjson.JSONDecodeError:
        facts = None
    return Happening(id, fields.get("kind", ""), fields.get("at"), facts if isinstance(facts, dict) else {})


def _place(id: str) -> tuple[int, int]:
    milliseconds, _, number = id.partition("-")
    return int(milliseconds), int(number)
