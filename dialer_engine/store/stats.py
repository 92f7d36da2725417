"""What is counted of the calls of a run: altogether, by the hour, by call list, by agent.

Settling a call counts it, and all that is counted is read off its result: counters and results say the same. A part
has the counters of the whole as `COUNTER PART` in a hash of its own, so that a question costs four commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import isfinite

from dialer_engine.core.model import CampaignId, Status
from dialer_engine.store.campaigns import numbers
from dialer_engine.store.link import Link

FACTS = ("answered", "queued", "connected", "abandoned")
SUMS = ("secondsToAgent", "talkSeconds")
COUNTERS = (*(status.value for status in Status), *FACTS, *SUMS)

KEPT = timedelta(days=31)
"""So long the hours of a run; older ones go when a new one begins."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What one settlement adds."""

    counters: tuple[str, ...]
    sums: Mapping[str, float]
    hour: str  # of the end of the call
    oldest_hour: str  # that is kept

    @classmethod
    def of(cls, result: Mapping[str, object], now: float) -> Counted:
        """result: the item of spec section 7, and `queue`: {..., secondsToAgent, talkSeconds, abandoned} or None."""
        counters, sums = [str(result["status"])], dict[str, float]()
        if result.get("answeredAt"):
            counters.append("answered")
        if isinstance(queue := result.get("queue"), Mapping):
            counters.append("queued")
            counters += ["connected"] if result.get("connectedAt") else []
            counters += ["abandoned"] if queue.get("abandoned") else []
            sums = {name: queue[name] for name in SUMS if queue.get(name) is not None}
        ended = result.get("endedAt")
        at = datetime.fromisoformat(ended) if isinstance(ended, str) else datetime.fromtimestamp(now, UTC)
        return cls(tuple(counters), sums, hour_of(at), hour_of(at - KEPT))


def hour_of(at: datetime) -> str:
    """As the parts are called: the UTC hour."""
    return at.astimezone(UTC).isoformat()[:13]


@dataclass(frozen=True, slots=True)
class Tally:
    """Settled calls. `seconds_to_agent` and `talk_seconds` are sums over the connected ones."""

    by_status: Mapping[str, int] = field(default_factory=dict)
    answered: int = 0
    queued: int = 0  # reached the queue, or were to reach it
    connected: int = 0  # of them, to an agent
    abandoned: int = 0  # of them, without an agent in time
    seconds_to_agent: float = 0.0
    talk_seconds: float = 0.0

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Tally:
        """From counters as Redis has them; what another program wrote there that is no number is 0."""
        counts = {name: int(_number(text)) for name, text in fields.items()}
        return cls(
            {status.value: counts[status] for status in Status if counts.get(status)},
            *(counts.get(name, 0) for name in FACTS),
            *(_number(fields.get(name)) for name in SUMS),
        )

    @property
    def calls(self) -> int:
        return sum(self.by_status.values())

    @property
    def dialed(self) -> int:
        """Calls that were made: a forbidden number was not called."""
        return self.calls - self.by_status.get(Status.RS_BLACKLIST.value, 0)

    @property
    def answer_rate(self) -> float | None:
        return _ratio(self.answered, self.dialed)

    @property
    def abandon_rate(self) -> float | None:
        return _ratio(self.abandoned, self.queued)

    @property
    def average_seconds_to_agent(self) -> float | None:
        return _ratio(self.seconds_to_agent, self.connected)


@dataclass(frozen=True, slots=True)
class RunStats:
    """A run, and its parts; a part without a call is left out."""

    whole: Tally
    hours: Mapping[str, Tally]  # by hour_of, the earliest first
    lists: Mapping[int, Tally]  # 0: calls that were added to the run
    agents: Mapping[str, Tally]


class Stats:
    def __init__(self, link: Link) -> None:
        self._link = link

    async def read(self, campaign: CampaignId, run: int, *, hours: int, now: float) -> RunStats:
        """hours: how many of the last ones, the one of now among them."""
        key = self._link.campaign_key(campaign, f"stats:{run}")
        latest = datetime.fromtimestamp(now, UTC)
        asked = [hour_of(latest - timedelta(hours=ago)) for ago in reversed(range(hours))]
        fields = [f"{counter} {hour}" for hour in asked for counter in COUNTERS]
        whole, found, lists, agents = await self._link.many(
            [
                ("HGETALL", key),
                ("HMGET", f"{key}:hours", *fields),
                ("HGETALL", f"{key}:lists"),
                ("HGETALL", f"{key}:agents"),
            ]
        )
        by_list = _parts(lists.items())
        return RunStats(
            Tally.of(whole),
            _parts((field, text) for field, text in zip(fields, found, strict=True) if text is not None),
            {one: by_list[str(one)] for one in sorted(numbers(by_list))},
            dict(sorted(_parts(agents.items()).items())),
        )


def item(tally: Tally) -> dict[str, object]:
    """As spec section 7 shapes it."""
    rates = {"answerRate": tally.answer_rate, "abandonRate": tally.abandon_rate}
    average = tally.average_seconds_to_agent
    return {
        "calls": tally.calls,
        "answered": tally.answered,
        "queued": tally.queued,
        "connected": tally.connected,
        "abandoned": tally.abandoned,
        "lost": tally.by_status.get(Status.RS_LOST.value, 0),
        "timedOut": tally.by_status.get(Status.RS_TIMEOUT.value, 0),
        **{name: None if rate is None else round(rate, 4) for name, rate in rates.items()},
        "secondsToAgent": None if average is None else round(average, 3),
        "talkSeconds": round(tally.talk_seconds, 3),
    }


def _parts(found: Iterable[tuple[str, str]]) -> dict[str, Tally]:
    parts: dict[str, dict[str, str]] = {}
    for name, text in found:
        counter, _, part = name.partition(" ")
        parts.setdefault(part, {})[counter] = text
    return {part: Tally.of(fields) for part, fields in parts.items()}


def _number(text: str | None) -> float:
    try:
        number = float(text or 0)
    except ValueError:
        return 0.0
    return number if isfinite(number) else 0.0


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
