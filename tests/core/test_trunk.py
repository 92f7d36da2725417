from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialer_engine.core.model import Outcome, Status
from dialer_engine.core.trunk import (
    REMEMBERED_NUMBERS,
    Brake,
    Bucket,
    code_text,
    counts_against_trunk,
    got_through,
)

CONGESTION = "SIP 503"


def is_closed(brake: Brake) -> bool:
    return brake.closed


def refuse(brake: Brake, numbers: range, now: float = 0.0) -> None:
    for number in numbers:
        brake.refused(str(number), CONGESTION, now)


# --- bucket


def test_a_bucket_saves_nothing_up() -> None:
    bucket = Bucket(10)
    assert bucket.ready(100.0) == 1
    assert bucket.take(100.0) == 100.0
    assert bucket.ready(100.05) == 0
    assert bucket.next_at(100.05) == pytest.approx(100.1)
    assert bucket.next_at(200.0) == 200.0
    bucket.take(200.0)
    assert bucket.ready(200.0) == 0


def test_without_a_rate_everything_may_leave() -> None:
    bucket = Bucket(None)
    assert (bucket.ready(1.0), bucket.next_at(1.0), bucket.take(1.0), bucket.ready(1.0)) == (
        None,
        1.0,
        1.0,
        None,
    )


def test_calls_taken_ahead_are_spaced() -> None:
    bucket = Bucket(4)
    assert [bucket.take(8.0) for _ in range(3)] == [8.0, 8.25, 8.5]


def test_a_rate_that_changes_counts_from_the_last_call() -> None:
    bucket = Bucket(0.1)
    bucket.take(100.0)
    bucket.rate = 2.0
    assert bucket.next_at(100.2) == pytest.approx(100.5)
    bucket.rate = None
    assert bucket.next_at(100.2) == 100.2
    bucket.rate = 0.5
    assert bucket.next_at(100.2) == pytest.approx(102.0)


def test_a_rate_of_nothing_is_refused() -> None:
    for rate in (0.0, -1.0):
        with pytest.raises(ValueError, match="above 0"):
            Bucket(rate)
        with pytest.raises(ValueError, match="above 0"):
            Bucket(1.0).rate = rate


@given(rate=st.floats(0.1, 500), pauses=st.lists(st.floats(0, 3), max_size=80), window=st.floats(0.01, 5))
def test_no_window_holds_more_than_the_rate_and_one(rate: float, pauses: list[float], window: float) -> None:
    bucket = Bucket(rate)
    now, left = 0.0, []
    for pause in pauses:
        now += pause
        if bucket.ready(now):
            left.append(bucket.take(now))
    for start in left:
        inside = [at for at in left if start <= at < start + window]
        assert len(inside) <= window * rate + 1 + 1e-6


# --- whose fault is it


@pytest.mark.parametrize(
    ("outcome", "refused"),
    [
        *((Outcome(Status.RS_REJECTED, "CONGESTION", 34, code), True) for code in (500, 502, 503, 504, 599)),
        (Outcome(Status.RS_ERROR, "REFUSED", 21, 401), True),
        (Outcome(Status.RS_REJECTED, "REFUSED", 21, 403), True),
        (Outcome(Status.RS_ERROR, "REFUSED", 21, 407), True),
        *((Outcome(Status.RS_REJECTED, "CONGESTION", cause), True) for cause in (3, 27, 34, 38, 42, 44)),
        (Outcome(Status.RS_REJECTED, "CONGESTION", 41), False),
        (Outcome(Status.RS_REJECTED, "CONGESTION", 34, 420), False),  # the SIP code goes before the cause
        (Outcome(Status.RS_REJECTED, "REFUSED", 21, 603), False),
        (Outcome(Status.RS_REJECTED, "BLOCKED", 127, 608), False),
        (Outcome(Status.RS_BUSY, None, 17, 486), False),
        (Outcome(Status.RS_NOANSWER, "NOT_REACHABLE", 34, 503), False),  # our own timer or cancel
        (Outcome(Status.RS_ERROR, "MEDIA", 58, 488), False),
        (Outcome(Status.RS_ERROR, "PBX_LOST", 34), False),
        (Outcome(Status.RS_ERROR, "UNKNOWN", 34), False),
        (Outcome(Status.RS_BLACKLIST, "opt-out"), False),
    ],
)
def test_what_counts_against_the_trunk(outcome: Outcome, refused: bool) -> None:
    assert counts_against_trunk(outcome, False) is refused
    assert counts_against_trunk(Outcome(Status.RS_ERROR, "REFUSED"), True)


@pytest.mark.parametrize("status", Status)
def test_what_got_through(status: Status) -> None:
    through = {Status.TERMINATED, Status.RS_LOST, Status.RS_TIMEOUT, Status.RS_BUSY, Status.RS_NUMBER}
    assert got_through(Outcome(status), False) is (status in through)
    assert got_through(Outcome(status), True)


def test_the_code_is_named_as_a_person_names_it() -> None:
    assert code_text(Outcome(Status.RS_REJECTED, None, 34, 503), False) == "SIP 503"
    assert code_text(Outcome(Status.RS_REJECTED, None, 34), False) == "cause 34"
    assert code_text(Outcome(Status.RS_ERROR, "REFUSED"), True) == "ARI refused"


# --- brake


def test_ten_in_a_row_over_different_numbers_close_the_trunk() -> None:
    brake = Brake()
    refuse(brake, range(9))
    assert not is_closed(brake)
    assert brake.may_dial(0)
    brake.refused("9", "cause 34", 5.0)
    assert is_closed(brake)
    assert brake.last_code == "cause 34"
    assert brake.probe_due_at == 15.0
    assert not brake.may_dial(14.9)


def test_one_number_refused_again_and_again_does_not() -> None:
    brake = Brake()
    for _ in range(60):
        brake.refused("always", CONGESTION, 0)
    refuse(brake, range(8))
    assert not is_closed(brake)
    refuse(brake, range(8))  # re-dials of refused numbers do not count
    assert not is_closed(brake)
    refuse(brake, range(8, 9))
    assert is_closed(brake)


def test_one_that_gets_through_breaks_the_row() -> None:
    brake = Brake()
    refuse(brake, range(9))
    brake.passed(0)
    refuse(brake, range(9, 18))
    assert not is_closed(brake)


def test_more_than_four_fifths_of_the_last_fifty_close_the_trunk() -> None:
    brake = Brake()
    numbers = iter(range(1000))
    for refusals in (8, 8, 8, 8, 8):  # 40 of 45: four fifths of fifty, not more
        for _ in range(refusals):
            brake.refused(str(next(numbers)), CONGESTION, 0)
        brake.passed(0)
    assert not is_closed(brake)
    brake.refused(str(next(numbers)), CONGESTION, 0)
    assert is_closed(brake)


def test_what_closed_the_trunk_does_not_close_it_again() -> None:
    brake = Brake()
    for number in range(50):
        brake.passed(0) if number % 6 == 0 else brake.refused(str(number), CONGESTION, 0)
    assert is_closed(brake)
    brake.passed(20.0)
    for number in range(100, 109):
        brake.refused(str(number), CONGESTION, 21.0)
        assert not is_closed(brake)


def test_just_four_fifths_for_ever_does_not() -> None:
    brake = Brake()
    for number in range(2000):
        brake.passed(0) if number % 5 == 0 else brake.refused(str(number), CONGESTION, 0)
        assert not is_closed(brake)


def test_probes_come_after_10_20_40_and_then_every_60_seconds() -> None:
    brake = Brake()
    refuse(brake, range(10), now=100.0)
    sent = []
    for tenth in range(1000, 4000):
        now = tenth / 10
        number = f"new{tenth}"
        if brake.want_probe(number, now):
            brake.probed(now)
            sent.append(now)
            brake.refused(number, CONGESTION, now)
    assert sent == [110.0, 130.0, 170.0, 230.0, 290.0, 350.0]


def test_a_probe_is_a_number_not_refused_yet_while_there_is_one() -> None:
    brake = Brake()
    refuse(brake, range(10))
    assert not brake.want_probe("3", 10.0)
    assert brake.want_probe("10", 10.0)
    assert brake.want_probe("3", 10.0, last_resort=True)
    assert not brake.want_probe("3", 9.0, last_resort=True)


def test_an_open_trunk_wants_no_probe() -> None:
    assert not Brake().want_probe("1", 100.0)


def test_one_call_that_gets_through_opens_the_trunk_with_a_clean_slate() -> None:
    brake = Brake()
    refuse(brake, range(10))
    for n in range(5):
        brake.probed(10.0 + n)
    brake.passed(70.0, "11")
    assert not is_closed(brake)
    assert brake.probe_due_at is None
    refuse(brake, range(20, 29), now=71.0)
    assert not is_closed(brake)
    brake.refused("29", CONGESTION, 72.0)
    assert is_closed(brake)
    assert brake.probe_due_at == 82.0


def test_a_number_that_got_through_counts_again() -> None:
    brake = Brake()
    brake.refused("7", CONGESTION, 0)
    brake.passed(0, "7")
    assert not brake.was_refused("7")


def test_memory_is_bounded() -> None:
    brake = Brake()
    for number in range(REMEMBERED_NUMBERS * 2):
        brake.refused(str(number), CONGESTION, 0)
        brake.passed(0)
    assert sum(brake.was_refused(str(number)) for number in range(REMEMBERED_NUMBERS * 2)) == REMEMBERED_NUMBERS


def test_a_healthy_trunk_may_carry_ever_more_unheard_calls() -> None:
    brake = Brake()
    assert brake.room(0, 0) == 10
    assert brake.room(10, 0) == 0
    for _ in range(5 + 1701):
        brake.passed(1.0)
    assert brake.room(0, 2.0) == 100
    brake.refused("1", CONGESTION, 2.0)
    assert brake.room(0, 2.0) == 9  # until one gets through again
    brake.passed(2.0)
    assert brake.room(0, 2.0) == 100
    assert brake.room(0, 11.0) == 100
    assert brake.room(0, 12.0) == 10  # what was true ten seconds ago has to be shown anew


@pytest.mark.parametrize("delay", [0.0, 0.05, 2.0, 8.0])
@pytest.mark.parametrize("was_healthy", [True, False])
def test_a_minute_of_refusals_touches_few_of_ten_thousand(delay: float, was_healthy: bool) -> None:
    """A pass every 20 ms, as many calls as the brake lets go, each refused after `delay` seconds."""
    brake = Brake()
    for _ in range(5000 if was_healthy else 0):
        brake.passed(-120.0)
    numbers = iter(range(10_000))
    in_flight: list[tuple[float, str]] = []
    touched = 0
    for step in range(3000):
        now = step * 0.02
        for at, number in [call for call in in_flight if call[0] <= now]:
            in_flight.remove((at, number))
            brake.refused(number, CONGESTION, now)
        for _ in range(brake.room(len(in_flight), now)):
            number = str(next(numbers))
            if brake.closed:
                assert brake.want_probe(number, now)
                brake.probed(now)
            touched += 1
            in_flight.append((now + delay, number))
    assert 10 < touched <= 25


@given(
    st.lists(
        st.tuples(st.sampled_from(["refused", "passed", "probe"]), st.integers(0, 40), st.floats(0, 30)),
        max_size=200,
    )
)
def test_the_brake_is_closed_exactly_while_a_probe_is_planned(steps: list[tuple[str, int, float]]) -> None:
    brake, now = Brake(), 0.0
    for what, number, pause in steps:
        now += pause
        if what == "refused":
            brake.refused(str(number), CONGESTION, now)
        elif what == "passed":
            brake.passed(now, str(number))
            assert not is_closed(brake)
        elif brake.want_probe(str(number), now):
            brake.probed(now)
            assert not brake.may_dial(now + 19.9)
        assert brake.closed == (brake.probe_due_at is not None)
        assert brake.probe_due_at is None or brake.probe_due_at <= now + 60
        assert brake.room(0, now) >= 0
        assert brake.closed or brake.room(0, now) >= 1
