"""Campaigns: their definitions, their states, and the commands that move them (spec section 2)."""

from __future__ import annotations

from collections.abc import Sequence

from dialer_engine.core.model import CampaignId, Command, TrunkName
from dialer_engine.errors import Conflict, Invalid, NotFound
from dialer_engine.store.contract import CampaignDefinition
from dialer_engine.store.link import Link
from dialer_engine.store.records import ControlReply, PinnedList, Snapshot


class Campaigns:
    def __init__(self, link: Link, default_timezone: str) -> None:
        self._link = link
        self._default_timezone = default_timezone

    async def load(self, *, trunks: Sequence[TrunkName] = (), now: float) -> Snapshot:
        """All campaigns as they stand, in one round trip; definitions are parsed only when their text changed.

        A definition naming a missing list or IVR has `definition=None` and the reason in `problems`.
        """
        raise NotImplementedError

    async def save(
        self,
        definition: CampaignDefinition,
        *,
        campaign: CampaignId | None = None,
        expected: str | None = None,
        by: str,
        now: float,
    ) -> CampaignId:
        """Store a definition (a new campaign when `campaign` is None) and keep it as a version.

        expected: the text the caller has seen; another one there raises Conflict. A missing list or IVR raises
        Invalid, an unknown campaign NotFound. An INVALID campaign returns to the state before.
        """
        raise NotImplementedError

    async def read(self, campaign: CampaignId) -> str:
        """The definition as stored. Raises NotFound."""
        raise NotImplementedError

    async def versions(self, campaign: CampaignId) -> list[dict[str, object]]:
        """[{at, by, definition}], oldest first."""
        raise NotImplementedError

    async def delete(self, campaign: CampaignId, *, by: str, now: float) -> None:
        """Raises Conflict while it is RUNNING or PAUSED or has live calls, NotFound."""
        raise NotImplementedError

    async def command(
        self, campaign: CampaignId, command: Command, *, by: str, now: float, request: str = ""
    ) -> ControlReply:
        """Carry out a command. Raises Conflict(allowed=...), NotFound, Invalid (start or reload of a definition
        that cannot be used: the campaign is INVALID then). The same `request` again gives the same answer.
        """
        raise NotImplementedError

    async def obey(self, *, now: float) -> list[ControlReply | Conflict | Invalid | NotFound]:
        """Carry out what other programs have pushed to the queue of commands, each exactly once."""
        raise NotImplementedError

    async def set_invalid(self, campaign: CampaignId, reason: str, *, now: float) -> bool:
        """The definition cannot be used: INVALID, keeping run, place and the state before. False: as it was."""
        raise NotImplementedError

    async def set_valid(self, campaign: CampaignId, *, now: float) -> bool:
        """Back from INVALID to the state before. False: it was not INVALID."""
        raise NotImplementedError

    async def complete(
        self, campaign: CampaignId, run: int, read: Sequence[PinnedList], *, now: float
    ) -> bool:
        """RUNNING -> COMPLETED, if nothing waits or lives and the run's lists still stand at `read`, their ends."""
        raise NotImplementedError
