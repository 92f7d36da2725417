from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialer_engine.core.model import ActivePeriod
from dialer_engine.core.schedule import Opening, opening
from dialer_engine.errors import Invalid

WEEKDAYS = frozenset({1, 2, 3, 4, 5})
ALL_DAYS = frozenset(range(1, 8))


def period(
    start: str, end: str, *, days: frozenset[int] = ALL_DAYS, timezone: str = "Europe/Prague"
) -> ActivePeriod:
    def seconds(text: str) -> int:
        hours, minutes = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60

    return ActivePeriod(seconds(start), seconds(end), days, timezone)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("active", "now", "is_open", "until"),
    [
        # 2026-08-10 is a Monday; Prague is two hours ahead in summer.
        (period("08:00", "18:00", days=WEEKDAYS), "2026-08-10 05:59:59", False, "2026-08-10 06:00"),
        (period("08:00", "18:00", days=WEEKDAYS), "2026-08-10 06:00", True, "2026-08-10 16:00"),
        (period("08:00", "18:00", days=WEEKDAYS), "2026-08-10 15:59:59", True, "2026-08-10 16:00"),
        (period("08:00", "18:00", days=WEEKDAYS), "2026-08-10 16:00", False, "2026-08-11 06:00"),
        (period("08:00", "18:00", days=WEEKDAYS), "2026-08-14 16:00", False, "2026-08-17 06:00"),
        (period("20:00", "24:00", days=frozenset({1})), "2026-08-10 21:59:59", True, "2026-08-10 22:00"),
        (period("22:00", "02:00", days=frozenset({1})), "2026-08-10 23:30", True, "2026-08-11 00:00"),
        (period("22:00", "02:00", days=frozenset({2})), "2026-08-10 23:30", False, "2026-08-11 20:00"),
        (period("00:00", "00:00", days=frozenset({1})), "2026-08-10 12:00", True, "2026-08-10 22:00"),
        (period("09:00", "09:00", days=frozenset({7})), "2026-08-10 12:00", False, "2026-08-15 22:00"),
        # the night without 02:00-03:00, and the one in which it comes twice
        (period("02:15", "02:45"), "2026-03-28 23:30", False, "2026-03-30 00:15"),
        (period("02:15", "03:30"), "2026-03-29 00:00", False, "2026-03-29 01:00"),
        (period("01:00", "02:30"), "2026-03-29 00:30", True, "2026-03-29 01:00"),
        (period("02:15", "02:45"), "2026-10-25 00:15", True, "2026-10-25 00:45"),
        (period("02:15", "02:45"), "2026-10-25 00:45", False, "2026-10-25 01:15"),
        (period("01:00", "02:30"), "2026-10-25 00:30", False, "2026-10-25 01:00"),
        (period("01:00", "02:30"), "2026-10-25 01:00", True, "2026-10-25 01:30"),
    ],
)
def test_the_local_wall_clock_decides(active: ActivePeriod, now: str, is_open: bool, until: str) -> None:
    assert opening(active, utc(now)) == Opening(is_open, utc(until))


def test_what_never_changes_has_no_until() -> None:
    now = utc("2026-08-10 12:00")
    assert opening(period("08:00", "18:00", days=frozenset()), now) == Opening(False, None)
    assert opening(period("08:00", "08:00"), now) == Opening(True, None)
    assert opening(period("00:00", "24:00"), now) == Opening(True, None)


def test_a_period_that_a_change_of_the_clock_swallows_is_asked_for_again() -> None:
    active = period("02:15", "02:45", days=frozenset({7}))
    first = opening(active, utc("2026-03-22 02:00"))
    assert not first.open
    assert first.until is not None
    assert opening(active, first.until) == Opening(False, utc("2026-04-05 00:15"))


def test_an_unknown_time_zone_is_named() -> None:
    for name in ("Europe/Brno", "../etc/passwd", "", "\0"):
        with pytest.raises(Invalid, match="no time zone"):
            opening(period("08:00", "18:00", timezone=name), utc("2026-08-10 12:00"))


def test_a_naive_now_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        opening(period("08:00", "18:00"), datetime(2026, 8, 10))  # noqa: DTZ001


CLOCK_CHANGES = [
    ("Europe/Prague", "2026-03-29"),
    ("Europe/Prague", "2026-10-25"),
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("Australia/Lord_Howe", "2026-04-05"),
    ("Australia/Lord_Howe", "2026-10-04"),
    ("Asia/Kathmandu", "2026-10-04"),
    ("Pacific/Apia", "2011-12-30"),
]


def reads_inside(active: ActivePeriod, local: datetime) -> bool:
    """The definition again, by minutes of the week instead of cases."""
    start, end = active.start_seconds // 60, active.end_seconds // 60
    if start == end:
        start, end = 0, 1440
    elif start > end:
        end += 1440
    reading = (local.isoweekday() - 1) * 1440 + local.hour * 60 + local.minute
    week = 7 * 1440
    return any((reading - ((day - 1) * 1440 + start)) % week < end - start for day in active.week_days)


minutes = st.integers(0, 24 * 60) | st.sampled_from([0, 60, 90, 105, 120, 135, 150, 165, 180, 1440])


@settings(max_examples=60, deadline=None)
@given(
    place=st.sampled_from(CLOCK_CHANGES),
    start=minutes,
    end=minutes,
    days=st.frozensets(st.integers(1, 7)),
    offset_seconds=st.integers(-86400, 2 * 86400),
)
def test_a_scan_of_every_minute_says_the_same(
    place: tuple[str, str], start: int, end: int, days: frozenset[int], offset_seconds: int
) -> None:
    name, day = place
    local_zone = ZoneInfo(name)
    active = ActivePeriod(start * 60, end * 60, days, name)
    now = datetime.fromisoformat(day).replace(tzinfo=local_zone).astimezone(UTC) + timedelta(
        seconds=offset_seconds
    )
    answer = opening(active, now)
    assert answer.open == reads_inside(active, now.astimezone(local_zone))
    horizon = now + timedelta(hours=30)
    minute = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
    while minute < horizon and reads_inside(active, minute.astimezone(local_zone)) == answer.open:
        minute += timedelta(minutes=1)
    if minute < horizon:
        assert answer.until == minute
    else:
        assert answer.until is None or answer.until >= minute


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from([place for place, _ in CLOCK_CHANGES]),
    start=st.integers(0, 86400),
    end=st.integers(0, 86400),
    days=st.frozensets(st.integers(1, 7)),
    now=st.datetimes(datetime(2011, 12, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_until_is_exact(name: str, start: int, end: int, days: frozenset[int], now: datetime) -> None:
    active = ActivePeriod(start, end, days, name)
    answer = opening(active, now)
    if answer.until is None:
        return
    assert answer.until > now
    just_before = answer.until - timedelta(microseconds=1)
    assert opening(active, just_before).open == answer.open
    assert opening(active, just_before).until == answer.until or just_before > now
    if answer.until - now < timedelta(days=7):
        assert opening(active, answer.until).open != answer.open
