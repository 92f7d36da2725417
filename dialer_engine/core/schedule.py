"""May a campaign dial at this instant, and if not, when next? (spec section 3)

An instant is inside the period when its local wall clock reading is. So the hour that a zone repeats in
autumn is dialed both times and the one it skips in spring never. Between two changes of the zone's offset the
local clock runs evenly; the walk below goes from edge to edge and stops at every such change.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dialer_engine.core.model import ActivePeriod
from dialer_engine.errors import Invalid, Problem

DAY_SECONDS = 86400
EVERY_DAY = frozenset(range(1, 8))
STEPS = 32
"""Edges looked at before the question is put off: eight days of three edges each, and changes of the offset."""


@dataclass(frozen=True, slots=True)
class Opening:
    """May it dial, and the UTC instant before which this answer stays true (None: it stays true for ever).

    At `until` the answer changes, or, when nothing changes for more than a week, has to be asked for again.
    """

    open: bool
    until: datetime | None


TRAVEL = timedelta(seconds=0.05)
"""What is sent in the last moment of a period would reach the callee's network after it."""


def may_start(found: Opening, now: datetime) -> bool:
    """May a call start at `now`, of which `found` is the answer? Not so late that it is under way at the end."""
    return found.open and (found.until is None or now + TRAVEL < found.until)


def opening(period: ActivePeriod, now: datetime) -> Opening:
    """Is `period` open at `now` (aware)? Raises Invalid for an unknown time zone."""
    if now.tzinfo is None:
        raise ValueError("`now` must be an aware datetime")
    local_zone = zone(period.timezone)
    at = now.astimezone(UTC)
    is_open = _inside(period, at.astimezone(local_zone))
    if not period.week_days or _is_always(period):
        return Opening(is_open, None)
    for _ in range(STEPS):
        at = _next_edge(period, local_zone, at)
        if _inside(period, at.astimezone(local_zone)) != is_open:
            break
    return Opening(is_open, at)


@lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo:
    """The IANA time zone of that name. Raises Invalid when there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise Invalid([Problem("timezone", f"there is no time zone {name!r}")]) from exc


def _is_always(period: ActivePeriod) -> bool:
    return period.week_days >= EVERY_DAY and (
        period.start_seconds == period.end_seconds
        or (period.start_seconds == 0 and period.end_seconds == DAY_SECONDS)
    )


def _inside(period: ActivePeriod, local: datetime) -> bool:
    seconds = local.hour * 3600 + local.minute * 60 + local.second
    today = local.isoweekday()
    yesterday = today - 1 or 7
    start, end = period.start_seconds, period.end_seconds
    if start == end:
        return today in period.week_days
    if start < end:
        return today in period.week_days and start <= seconds < end
    return (today in period.week_days and seconds >= start) or (yesterday in period.week_days and seconds < end)


def _next_edge(period: ActivePeriod, local_zone: ZoneInfo, at: datetime) -> datetime:
    """The first UTC instant after `at` where the local clock reads an edge, or is put forward or back."""
    local = at.astimezone(local_zone).replace(tzinfo=None)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    edges = (
        midnight + timedelta(seconds=seconds)
        for seconds in (period.start_seconds, period.end_seconds, DAY_SECONDS)
    )
    edge = at + min(edge - local for edge in edges if edge > local)
    if _offset(local_zone, edge) == _offset(local_zone, at):
        return edge
    return _offset_change(local_zone, at, edge)


def _offset_change(local_zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """The instant, a whole second, in (before, after] from which the offset is no longer that of `before`."""
    offset = _offset(local_zone, before)
    low, high = int(before.timestamp()), int(after.timestamp())
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(local_zone, datetime.fromtimestamp(middle, UTC)) == offset:
            low = middle
        else:
            high = middle
    return datetime.fromtimestamp(high, UTC)


def _offset(local_zone: ZoneInfo, at: datetime) -> timedelta | None:
    return at.astimezone(local_zone).utcoffset()
