from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialer_engine.core.model import Counts, Outcome, RescheduleRule, RetryMode, Status
from dialer_engine.core.reschedule import Close, Redial, decide, returned

NOW = datetime(2026, 8, 10, 12, tzinfo=UTC)
BUSY = RescheduleRule(Status.RS_BUSY, 300, 1)


def after(
    outcome: Outcome,
    *rules: RescheduleRule,
    counts: Counts = Counts(),  # noqa: B008
    total: int | None = None,
    answered: bool = False,
) -> Redial | Close:
    return decide(rules, outcome, counts, now=NOW, max_total_attempts=total, was_answered=answered)


def test_the_first_call_is_not_counted() -> None:
    first = after(Outcome(Status.RS_BUSY), BUSY)
    assert first == Redial(NOW + timedelta(seconds=300), Counts(1, {"RS_BUSY": 1}), BUSY)
    assert isinstance(first, Redial)
    assert after(Outcome(Status.RS_BUSY), BUSY, counts=first.counts) == Close("maxAttempts of RS_BUSY reached")


def test_without_a_rule_the_contact_is_closed() -> None:
    assert after(Outcome(Status.RS_NOANSWER), BUSY) == Close("no rule")
    assert after(Outcome(Status.TERMINATED)) == Close("no rule")


@pytest.mark.parametrize("specific_first", [True, False])
def test_a_rule_with_ext_status_goes_before_one_without(specific_first: bool) -> None:
    plain = RescheduleRule(Status.RS_REJECTED, 60, 5)
    specific = RescheduleRule(Status.RS_REJECTED, 600, 5, ext_status="CONGESTION")
    rules = (specific, plain) if specific_first else (plain, specific)
    congestion = after(Outcome(Status.RS_REJECTED, "CONGESTION"), *rules)
    refused = after(Outcome(Status.RS_REJECTED, "REFUSED"), *rules)
    assert isinstance(congestion, Redial)
    assert isinstance(refused, Redial)
    assert (congestion.rule, refused.rule) == (specific, plain)
    assert congestion.counts.by_rule == {"RS_REJECTED/CONGESTION": 1}


def test_a_spent_rule_with_ext_status_does_not_fall_back_on_the_one_without() -> None:
    plain = RescheduleRule(Status.RS_REJECTED, 60, 5)
    specific = RescheduleRule(Status.RS_REJECTED, 60, 1, ext_status="REFUSED")
    spent = Counts(1, {"RS_REJECTED/REFUSED": 1})
    assert after(Outcome(Status.RS_REJECTED, "REFUSED"), plain, specific, counts=spent) == Close(
        "maxAttempts of RS_REJECTED/REFUSED reached"
    )


@pytest.mark.parametrize(("spent", "seconds"), [(0, 60), (1, 120), (2, 180)])
def test_multiplied_grows_with_the_redials_of_the_rule(spent: int, seconds: int) -> None:
    rule = RescheduleRule(Status.RS_BUSY, 60, 9, retry_mode=RetryMode.MULTIPLIED)
    answer = after(Outcome(Status.RS_BUSY), rule, counts=Counts(7, {"RS_BUSY": spent, "RS_LOST": 4}))
    assert isinstance(answer, Redial)
    assert answer.at == NOW + timedelta(seconds=seconds)


def test_max_total_attempts_counts_the_first_call() -> None:
    rule = RescheduleRule(Status.RS_BUSY, 60, 9)
    assert after(Outcome(Status.RS_BUSY), rule, total=1) == Close("maxTotalAttempts reached")
    assert isinstance(after(Outcome(Status.RS_BUSY), rule, total=3, counts=Counts(1)), Redial)
    assert after(Outcome(Status.RS_BUSY), rule, total=3, counts=Counts(2)) == Close("maxTotalAttempts reached")


@pytest.mark.parametrize(
    ("ext_status", "answered", "redialed"),
    [
        ("UNKNOWN", True, False),
        ("UNKNOWN", False, False),
        ("PBX_LOST", True, False),
        ("PBX_LOST", False, True),
        ("IVR_FAILED", True, True),
        ("REFUSED", False, True),
    ],
)
def test_a_crash_rings_nobody_twice_by_a_rule_that_does_not_name_it(
    ext_status: str, answered: bool, redialed: bool
) -> None:
    outcome = Outcome(Status.RS_ERROR, ext_status)
    plain = RescheduleRule(Status.RS_ERROR, 60, 5)
    assert isinstance(after(outcome, plain, answered=answered), Redial) is redialed
    named = RescheduleRule(Status.RS_ERROR, 60, 5, ext_status=ext_status)
    assert isinstance(after(outcome, plain, named, answered=answered), Redial)


def test_three_returns_cost_nothing_and_a_fourth_is_an_outcome() -> None:
    counts: Counts | None = Counts(2, {"RS_BUSY": 2})
    for expected in (1, 2, 3):
        assert counts is not None
        counts = returned(counts)
        assert counts == Counts(2, {"RS_BUSY": 2}, expected)
    assert counts is not None
    assert returned(counts) is None


def test_no_rule_reaches_beyond_the_calendar() -> None:
    rule = RescheduleRule(Status.RS_BUSY, 1e300, 9, retry_mode=RetryMode.MULTIPLIED)
    assert isinstance(after(Outcome(Status.RS_BUSY), rule), Redial)


statuses = st.sampled_from(Status)
ext_statuses = st.sampled_from([None, "UNKNOWN", "PBX_LOST", "REFUSED", "X"])
rules_by_pair = st.lists(
    st.builds(
        RescheduleRule,
        statuses,
        st.floats(0, 1e6),
        st.integers(0, 4),
        ext_statuses,
        st.sampled_from(RetryMode),
    ),
    unique_by=lambda rule: rule.key,
    max_size=12,
)


@given(rules=rules_by_pair, outcomes=st.lists(st.tuples(statuses, ext_statuses), max_size=30), edits=st.data())
def test_never_early_and_never_more_than_the_rule_allows(
    rules: list[RescheduleRule], outcomes: list[tuple[Status, str | None]], edits: st.DataObject
) -> None:
    counts = Counts()
    for n, (status, ext_status) in enumerate(outcomes):
        answer = after(Outcome(status, ext_status), *rules, counts=counts, total=20)
        if isinstance(answer, Redial):
            assert answer.at >= NOW
            assert answer.rule in rules
            assert answer.counts.by_rule[answer.rule.key] == counts.by_rule.get(answer.rule.key, 0) + 1
            assert answer.counts.by_rule[answer.rule.key] <= answer.rule.max_attempts
            counts = answer.counts
        assert counts.redials == sum(counts.by_rule.values()) <= min(19, n + 1)
        if edits.draw(st.booleans()):  # an edit of the rules keeps what was spent
            rules = [replace(rule, max_attempts=rule.max_attempts + 1) for rule in reversed(rules)]
