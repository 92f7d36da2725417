"""IVR documents as users saved them. Whether a flow is sound is for core.flow to say, before it is saved."""

from __future__ import annotations

import asyncio
import secrets
import string

from dialer_engine.core.model import IvrId
from dialer_engine.errors import Conflict, Invalid, NotFound, Problem, Rejected
from dialer_engine.store.campaigns import Campaigns
from dialer_engine.store.contract import IvrDefinition, from_json
from dialer_engine.store.link import Link
from dialer_engine.store.records import Ivr

ID_LETTERS = string.ascii_letters + string.digits
ID_LENGTH = 10
DOCUMENT_BYTES = 262_144
"""Longer ones are not even read: a flow has 64 kB at most, however it is spaced."""


class Ivrs:
    def __init__(self, link: Link, campaigns: Campaigns) -> None:
        self._link = link
        self._campaigns = campaigns

    async def save(self, definition: IvrDefinition, *, ivr: IvrId | None = None, by: str, now: float) -> IvrId:
        """A new id of ten letters and digits when `ivr` is None; an unknown one raises NotFound."""
        identity = await self._place(ivr)
        stamp = {"updated_at": str(now), "updated_by": by}
        if ivr is None:
            stamp |= {"created_at": str(now), "created_by": by}
        fields = [part for pair in stamp.items() for part in pair]
        await self._link.many(
            [
                ("HSET", self._link.key(f"ivr:{identity}"), "document", definition.text(), *fields),
                ("SADD", self._link.key("ivrs"), identity),
                ("PUBLISH", self._link.key("wake"), f"ivr {identity}"),
            ]
        )
        return identity

    async def load(self, ivr: IvrId) -> Ivr:
        """Raises NotFound, and Invalid when another program has stored what is no IVR."""
        if await self._link.do("HSTRLEN", self._link.key(f"ivr:{ivr}"), "document") > DOCUMENT_BYTES:
            raise Invalid([Problem("", f"the document is longer than {DOCUMENT_BYTES} bytes")])
        fields = await self._link.do("HGETALL", self._link.key(f"ivr:{ivr}"))
        if not fields:
            raise NotFound(f"there is no IVR {ivr!r}")
        return _ivr(ivr, fields)

    async def all(self) -> list[Ivr]:
        """Those that can be read: one that another program has spoilt must not hide the others."""
        ids = sorted(await self._link.do("SMEMBERS", self._link.key("ivrs")))
        found = await asyncio.gather(*(self.load(IvrId(one)) for one in ids), return_exceptions=True)
        return [_sound(one) for one in found if not isinstance(one, NotFound | Invalid | Rejected)]

    async def delete(self, ivr: IvrId) -> None:
        """Raises NotFound, and Conflict naming the campaigns whose definition names it."""
        await self._place(ivr)
        if users := await self._campaigns.naming(ivr=ivr):
            raise Conflict(f"IVR {ivr} is used by campaigns {', '.join(map(str, users))}")
        await self._link.many([("SREM", self._link.key("ivrs"), ivr), ("UNLINK", self._link.key(f"ivr:{ivr}"))])

    async def _place(self, ivr: IvrId | None) -> IvrId:
        """The id given, if there is such an IVR, or a new one."""
        if ivr is None:
            return IvrId("".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH)))
        if not await self._link.do("SISMEMBER", self._link.key("ivrs"), ivr):
            raise NotFound(f"there is no IVR {ivr!r}")
        return ivr


def _sound(found: Ivr | BaseException) -> Ivr:
    if isinstance(found, BaseException):
        raise found
    return found


def _ivr(ivr: IvrId, fields: dict[str, str]) -> Ivr:
    """Raises Invalid when another program has stored what is no JSON object."""
    text = fields.pop("document", "")
    document = from_json(text)
    if not isinstance(document, dict):
        raise Invalid([Problem("", f"IVR {ivr!r} is no JSON object")])
    return Ivr(ivr, document, fields)
