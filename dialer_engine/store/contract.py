"""The public JSON, checked: campaigns, rows of call lists, IVR documents (docs/redis.md, spec section 7)."""

from __future__ import annotations

from dialer_engine.core.model import Campaign, CampaignId


class CampaignDefinition:
    """A campaign's JSON that has passed every check that needs nothing but itself."""

    def noun(self, campaign: CampaignId, default_timezone: str) -> Campaign:
        raise NotImplementedError

    def text(self) -> str:
        """The definition as it is stored: what the user gave, and nothing he left out."""
        raise NotImplementedError


def parse_campaign(document: object) -> CampaignDefinition:
    """Raises Invalid with every problem at its place (`rescheduleRules.0.retryAfter`)."""
    raise NotImplementedError


def parse_row(text: str) -> tuple[str, dict[str, object]] | None:
    """(number, attributes) of a row of a list, None for a struck-out one. Raises Invalid."""
    raise NotImplementedError


def make_row(number: str, attributes: object) -> str:
    """The row to store for the public {"number", "attributes"}. Raises Invalid."""
    raise NotImplementedError


def parse_ivr(document: object) -> dict[str, object]:
    """The document, its envelope checked (name, description, flow or dialplan). Raises Invalid."""
    raise NotImplementedError
