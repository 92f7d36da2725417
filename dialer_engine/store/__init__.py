"""Redis behind a handful of verbs: the only room that knows keys, scripts and the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from dialer_engine.store.calls import Calls
from dialer_engine.store.campaigns import Campaigns
from dialer_engine.store.dnc import DoNotCallLists
from dialer_engine.store.ivrs import Ivrs
from dialer_engine.store.link import Link
from dialer_engine.store.lists import Lists
from dialer_engine.store.reading import Reading
from dialer_engine.store.results import Audit, Results

__all__ = ["Store"]


class Store:
    """One Redis, one contract version, one connection for commands and one for wake-ups."""

    def __init__(self, link: Link, default_timezone: str) -> None:
        self._link = link
        self.calls = Calls(link)
        self.reading = Reading(link)
        self.campaigns = Campaigns(link, default_timezone)
        self.lists = Lists(link)
        self.ivrs = Ivrs(link)
        self.do_not_call = DoNotCallLists(link)
        self.results = Results(link)
        self.audit = Audit(link)

    @classmethod
    async def open(cls, url: str, *, prefix: str = "dialer", default_timezone: str = "UTC") -> Store:
        """Connect and compare the contract version. Raises Unavailable, ConfigError (url, or another version)."""
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    async def stop(self, *, by: str, now: float) -> None:
        """Stop everything: no new call anywhere, until `resume`."""
        raise NotImplementedError

    async def resume(self, *, by: str, now: float) -> None:
        raise NotImplementedError

    async def wake(self, what: str = "") -> None:
        """Ask every daemon to look sooner."""
        raise NotImplementedError

    async def listen(self, on_wake: Callable[[str], None]) -> NoReturn:
        """Call `on_wake` at every wake-up and after every (re)connection, for ever: none can be lost.

        An eternal root task. While Redis is away it tries again with growing pauses.
        """
        raise NotImplementedError

    async def clock_offset_seconds(self, clock: Callable[[], float]) -> float:
        """How far our clock is ahead of Redis' (half a round trip of doubt)."""
        raise NotImplementedError
