"""IVR documents as users saved them. Whether a flow is sound is for core.flow to say, before it is saved."""

from __future__ import annotations

import asyncio
import secrets
import string

from dialer_engine.core.model import IvrId
from dialer_engine.errors import Conflict, Invalid, NotFound, Problem, Rejected, Stale
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

    async def reserve(self) -> IvrId:
        """An id of ten letters and digits, for `save`."""
        return IvrId("".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH)))

    async def save(
        self,
        definition: IvrDefinition,
        *,
        ivr: IvrId | None = None,
        reserved: IvrId | None = None,
        expected: str | None = None,
        by: str,
        now: float,
    ) -> IvrId:
        """Store a new IVR when `ivr` is None; an unknown one raises NotFound.

        reserved: the new IVR's id, from `reserve`; once it is there, asking again changes nothing.
        expected: the text the caller has seen; another one there raises Stale.
        """
        identity = ivr or reserved or await self.reserve()
        seen = () if expected is None else (expected,)
        answer = await self._link.run("save_ivr", identity, definition.text(), int(ivr is None), by, now, *seen)
        _done(answer, identity)
        return identity

    async def load(self, ivr: IvrId) -> Ivr:
        """Raises NotFound, and Invalid when another program has stored what is no IVR."""
        if await self._link.do("HSTRLEN", self._link.key(f"ivr:{ivr}"), "document") > DOCUMENT_BYTES:
            raise Invalid([Problem("", f"the document is longer than {DOCUMENT_BYTES} bytes")])
        fields = await self._link.do("HGETALL", self._link.key(f"ivr:{ivr}"))
        if not fields:
            raise _no_ivr(ivr)
        return _ivr(ivr, fields)

    async def all(self) -> list[Ivr]:
        """Those that can be read: one that another program has spoilt must not hide the others."""
        ids = sorted(await self._link.do("SMEMBERS", self._link.key("ivrs")))
        found = await asyncio.gather(*(self.load(IvrId(one)) for one in ids), return_exceptions=True)
        return [_sound(one) for one in found if not isinstance(one, NotFound | Invalid | Rejected)]

    async def delete(self, ivr: IvrId, *, expected: str | None = None, by: str, now: float) -> None:
        """Raises NotFound, Conflict naming the campaigns whose definition names it, and Stale as `save` does."""
        if not await self._link.do("SISMEMBER", self._link.key("ivrs"), ivr):
            raise _no_ivr(ivr)
        if users := await self._campaigns.naming(ivr=ivr):
            raise Conflict(f"IVR {ivr} is used by campaigns {', '.join(map(str, users))}")
        seen = () if expected is None else (expected,)
        _done(await self._link.run("delete_ivr", ivr, by, now, *seen), ivr)


def _done(answer: str, ivr: IvrId) -> None:
    if answer == "MISSING":
        raise _no_ivr(ivr)
    if answer == "CHANGED":
        raise Stale(f"IVR {ivr} has been edited meanwhile")


def _no_ivr(ivr: IvrId) -> NotFound:
    return NotFound(f"there is no IVR {ivr!r}")


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
    return Ivr(ivr, document, fields, text)
