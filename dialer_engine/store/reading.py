"""From rows of call lists to contacts: reading ahead, and reading back what is to be called now."""

from __future__ import annotations

from collections.abc import Sequence

from dialer_engine.core.model import CampaignId, ListId
from dialer_engine.store.link import Link
from dialer_engine.store.records import Accepted, Candidates, PinnedList, ReadRow, RefusedRow


class Reading:
    def __init__(self, link: Link) -> None:
        self._link = link

    async def rows(self, call_list: ListId, generation: int, cursor: int, count: int) -> list[str]:
        """Up to `count` rows from `cursor`; fewer mean the end of the list for now. `-` is a struck-out row."""
        raise NotImplementedError

    async def accept(
        self,
        campaign: CampaignId,
        run: int,
        place: PinnedList,
        *,
        rows: Sequence[ReadRow],
        refused: Sequence[RefusedRow],
        cursor: int,
        now: float,
    ) -> Accepted:
        """Turn rows read from `place` into fresh contacts and move its cursor on to `cursor`.

        Numbers seen before in this run are dropped as repeats. Stale when the list no longer stands at `place`
        (another daemon read it, it was reloaded, the run ended): then nothing is done.
        """
        raise NotImplementedError

    async def candidates(
        self, campaign: CampaignId, run: int, *, fresh: int, due: int, now: float
    ) -> Candidates:
        """Contacts to call next, with their rows. Those struck out meanwhile are closed here."""
        raise NotImplementedError

    async def refused(self, campaign: CampaignId, run: int) -> list[dict[str, object]]:
        """The first refused rows of a run: {callList, generation, row, text, reason}."""
        raise NotImplementedError
