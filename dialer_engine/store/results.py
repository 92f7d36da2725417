"""What came of the calls: a stream of results per campaign, counters per run, and the audit of who did what."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dialer_engine.core.model import CampaignId
from dialer_engine.store.link import Link
from dialer_engine.store.records import AuditEntry, ResultPage


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

        A page may hold fewer (even none) and still have a `next`: one request looks at a bounded number.
        """
        raise NotImplementedError

    async def trim(self, campaign: CampaignId, *, before: float) -> int:
        """Drop results settled before `before`; returns how many. Retention."""
        raise NotImplementedError

    async def stats(self, campaign: CampaignId, run: int) -> dict[str, int]:
        """Settled attempts of a run: {status: n, further counters: n}."""
        raise NotImplementedError


class Audit:
    def __init__(self, link: Link) -> None:
        self._link = link

    async def write(self, *, by: str, action: str, subject: str, detail: str = "", now: float) -> None:
        raise NotImplementedError

    async def read(self, *, after: str | None = None, count: int = 100) -> list[AuditEntry]:
        """Oldest first, after a cursor."""
        raise NotImplementedError
