"""After this outcome: re-dialed at ..., or closed because ...? (spec section 5, "Reschedule rules")

What a contact has spent is counted by the rule's pair (status, extStatus), not by the rule: edit a rule and its
counts stay. All counts are bounds, never credits: no edit, order of outcomes or clock gives a contact more
re-dials by a pair than that pair's maxAttempts says now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dialer_engine.core.model import Counts, Outcome, RescheduleRule, RetryMode, Status

MAX_RETURNS = 3
"""Refusals before an INVITE that cost a contact nothing (spec section 4)."""
MAX_DELAY_SECONDS = 10 * 365 * 86400.0
"""No settlement may fail because a rule reaches beyond the calendar."""


@dataclass(frozen=True, slots=True)
class Redial:
    """The contact is due again at `at`, with `counts`, because of `rule`."""

    at: datetime
    counts: Counts
    rule: RescheduleRule


@dataclass(frozen=True, slots=True)
class Close:
    """The contact is done with, for this reason."""

    reason: str


def decide(
    rules: Sequence[RescheduleRule],
    outcome: Outcome,
    counts: Counts,
    *,
    now: datetime,
    max_total_attempts: int | None,
    was_answered: bool,
) -> Redial | Close:
    """What follows from `outcome`; `counts` is what the contact had spent before it.

    `max_total_attempts` caps the calls to a contact by all rules together, the first one included. It may fall
    due outside the active period: then it waits for the next one.
    """
    rule = _rule(rules, outcome, was_answered)
    if rule is None:
        return Close("no rule")
    spent = counts.by_rule.get(rule.key, 0)
    if spent >= rule.max_attempts:
        return Close(f"maxAttempts of {rule.key} reached")
    if max_total_attempts is not None and 1 + counts.redials >= max_total_attempts:
        return Close("maxTotalAttempts reached")
    return Redial(now + _delay(rule, spent), _one_more(counts, rule.key), rule)


def returned(counts: Counts) -> Counts | None:
    """The counts after a call refused before an INVITE left; the contact is due again where it was.

    None when it has been returned MAX_RETURNS times: then `decide` has the word, as after any call.
    """
    if counts.returns >= MAX_RETURNS:
        return None
    return replace(counts, returns=counts.returns + 1)


def _rule(rules: Sequence[RescheduleRule], outcome: Outcome, was_answered: bool) -> RescheduleRule | None:
    of_status = [rule for rule in rules if rule.status is outcome.status]
    if outcome.ext_status is not None:
        for rule in of_status:
            if rule.ext_status == outcome.ext_status:
                return rule
    if _may_have_rung_twice(outcome, was_answered):
        return None
    return next((rule for rule in of_status if rule.ext_status is None), None)


def _may_have_rung_twice(outcome: Outcome, was_answered: bool) -> bool:
    """A crash rings nobody twice: its outcomes are re-dialed only by a rule that names them.

    Nobody knows whether an UNKNOWN call was answered; one that the PBX lost before the answer only rang.
    """
    if outcome.status is not Status.RS_ERROR:
        return False
    return outcome.ext_status == "UNKNOWN" or (outcome.ext_status == "PBX_LOST" and was_answered)


def _delay(rule: RescheduleRule, spent: int) -> timedelta:
    match rule.retry_mode:
        case RetryMode.FIXED:
            seconds = rule.retry_after_seconds
        case RetryMode.MULTIPLIED:
            seconds = rule.retry_after_seconds * (spent + 1)
    return timedelta(seconds=min(max(0.0, seconds), MAX_DELAY_SECONDS))


def _one_more(counts: Counts, key: str) -> Counts:
    by_rule = {**counts.by_rule, key: counts.by_rule.get(key, 0) + 1}
    return replace(counts, redials=counts.redials + 1, by_rule=by_rule)
