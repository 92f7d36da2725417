"""The do-not-call lists: one for all campaigns and one per campaign, asked by claim and mark_sent."""

from __future__ import annotations

from dialer_engine.core.model import CampaignId
from dialer_engine.store.link import Link
from dialer_engine.store.records import DoNotCall


class DoNotCallLists:
    """`campaign=None` is the list for all campaigns. Numbers are identities (core.compliance.normalise)."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def add(self, *entries: DoNotCall, campaign: CampaignId | None = None) -> None:
        raise NotImplementedError

    async def remove(self, number: str, *, campaign: CampaignId | None = None) -> bool:
        raise NotImplementedError

    async def find(self, number: str, *, campaign: CampaignId | None = None) -> DoNotCall | None:
        """The entry as it stands, even if its `until` is over."""
        raise NotImplementedError

    async def page(
        self, cursor: int, count: int, *, campaign: CampaignId | None = None
    ) -> tuple[int, list[DoNotCall]]:
        """Some entries and the next cursor; 0 begins and ends, an entry may come twice."""
        raise NotImplementedError
