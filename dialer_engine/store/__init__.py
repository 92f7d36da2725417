"""Redis behind a handful of verbs: the only room that knows keys, scripts and the library."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import NoReturn

import orjson

from dialer_engine.errors import ConfigError, Problem, Rejected, Unavailable
from dialer_engine.store.accounts import Accounts
from dialer_engine.store.answers import Answers
from dialer_engine.store.calls import Calls
from dialer_engine.store.campaigns import Campaigns
from dialer_engine.store.dnc import DoNotCallLists
from dialer_engine.store.events import Events
from dialer_engine.store.imports import FREED_AT_ONCE
from dialer_engine.store.ivrs import Ivrs
from dialer_engine.store.link import Link
from dialer_engine.store.lists import Lists
from dialer_engine.store.numbers import Numbers
from dialer_engine.store.reading import Reading
from dialer_engine.store.results import Audit, Results
from dialer_engine.store.server import connect
from dialer_engine.store.sessions import Guesses, Sessions
from dialer_engine.store.stats import Stats

__all__ = ["Store"]

CONTRACT_VERSION = "1"  # of docs/redis.md
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


class Store:
    """One Redis, one contract version, one connection for commands and one for wake-ups."""

    def __init__(self, link: Link, default_timezone: str) -> None:
        self._link = link
        self.calls = Calls(link)
        self.reading = Reading(link)
        self.campaigns = Campaigns(link, default_timezone)
        self.lists = Lists(link, self.campaigns)
        self.ivrs = Ivrs(link, self.campaigns)
        self.do_not_call = DoNotCallLists(link)
        self.results = Results(link)
        self.numbers = Numbers(link, self.calls, self.results, self.do_not_call)
        self.stats = Stats(link)
        self.audit = Audit(link)
        self.answers = Answers(link)
        self.events = Events(link)
        self.accounts = Accounts(link)
        self.sessions = Sessions(link)
        self.guesses = Guesses(link)

    @classmethod
    async def open(
        cls, url: str, *, prefix: str = "dialer", timeout_seconds: float = 5.0, default_timezone: str = "UTC"
    ) -> Store:
        """Connect, and compare the contract version. Raises Unavailable and ConfigError, the latter also when Redis
        refuses the database or the user: asking again would change nothing."""
        store = cls(Link(connect(url, timeout_seconds), prefix), default_timezone)
        try:
            await store._agree_on_version()
        except BaseException as error:
            await store.close()
            if isinstance(error, Rejected):
                raise ConfigError([Problem("redis", str(error))]) from error
            raise
        return store

    async def close(self) -> None:
        await self._link.close()

    async def stop(self, *, by: str, now: float) -> None:
        """Stop everything: no new call anywhere, until `resume`."""
        await self._link.run("stop", by, now, 1)

    async def resume(self, *, by: str, now: float) -> None:
        await self._link.run("stop", by, now, 0)

    async def tidy(self) -> None:
        """Free what ended runs and dead imports have left, in slices. Housekeeping."""
        await self.lists.imports.clean_up()
        await self.do_not_call.tidy()
        while await self._link.run("sweep", FREED_AT_ONCE):
            pass

    async def stopped(self) -> dict[str, object] | None:
        """Who has stopped everything and when, as far as is known; None: nothing is stopped."""
        text = await self._link.do("GET", self._link.key("stop"))
        if text is None:
            return None
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError:  # another program's own words
            return {}
        return found if isinstance(found, dict) else {}

    async def wake(self, what: str = "") -> None:
        """Ask every daemon to look sooner."""
        await self._link.do("PUBLISH", self._link.key("wake"), what)

    async def listen(self, on_wake: Callable[[str], None]) -> NoReturn:
        """Call `on_wake` at every wake-up and after every (re)connection, for ever: none can be lost.

        An eternal root task. While Redis is away it tries again with growing pauses.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            with contextlib.suppress(Unavailable):
                async for what in self._link.hear(self._link.key("wake")):
                    pause = FIRST_PAUSE_SECONDS
                    on_wake(what)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def clock_offset_seconds(self, clock: Callable[[], float]) -> float:
        """How far our clock is ahead of Redis' (half a round trip of doubt)."""
        before = clock()
        theirs = await self.time()
        return (before + clock()) / 2 - theirs

    async def time(self) -> float:
        """Redis' clock (epoch seconds): the one by which daemons tell the dead from the living, whatever their hosts'
        clocks say."""
        seconds, microseconds = await self._link.do("TIME")
        return int(seconds) + int(microseconds) / 1e6

    async def _agree_on_version(self) -> None:
        key = self._link.key("version")
        theirs = await self._link.do("GET", key)
        if theirs is None:  # not asked before: a full Redis takes none, and must keep no daemon from its calls
            _, theirs = await self._link.many([("SETNX", key, CONTRACT_VERSION), ("GET", key)])
        if theirs != CONTRACT_VERSION:
            remedy = (
                f"{key} says version {theirs} of docs/redis.md, this program speaks {CONTRACT_VERSION}: "
                "use the program that wrote it, another [redis] prefix, or another database"
            )
            raise ConfigError([Problem("redis", remedy)])
