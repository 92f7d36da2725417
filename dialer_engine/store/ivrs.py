"""IVR documents as users saved them. Whether a flow is sound is for core.flow to say, before it is saved."""

from __future__ import annotations

from collections.abc import Mapping

from dialer_engine.core.model import IvrId
from dialer_engine.store.link import Link
from dialer_engine.store.records import Ivr


class Ivrs:
    def __init__(self, link: Link) -> None:
        self._link = link

    async def save(
        self, document: Mapping[str, object], *, ivr: IvrId | None = None, by: str, now: float
    ) -> IvrId:
        """A new id of ten letters and digits when `ivr` is None; an unknown one raises NotFound."""
        raise NotImplementedError

    async def load(self, ivr: IvrId) -> Ivr:
        """Raises NotFound."""
        raise NotImplementedError

    async def all(self) -> list[Ivr]:
        raise NotImplementedError

    async def delete(self, ivr: IvrId) -> None:
        """Raises NotFound, and Conflict naming the campaigns whose definition names it."""
        raise NotImplementedError
