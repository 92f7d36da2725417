"""A call's way through a queue: what is told of it, what it came to, and whether it was abandoned."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialer_engine.core.model import Agent, QueueName, Times
from dialer_engine.core.queued import Stay, is_abandoned
from dialer_engine.core.told import (
    CallerAbandoned,
    CallerJoined,
    CallerLeft,
    Completed,
    Connected,
    Offered,
    Refused,
    Told,
)

START = datetime(2026, 8, 10, 12, tzinfo=UTC)
GREEN = QueueName("green")
EVA = "PJSIP/1001"
SKEW = timedelta(minutes=5)
"""Our clock is ahead of Asterisk's."""


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def stay(**known: Any) -> Stay:
    """Answered at 0, sent to the queue at 2 after a message, by Asterisk's clock five minutes earlier."""
    return Stay(**{"queue": "green", "timeout_seconds": 20, "since": at(2), "sent_at": at(2),
                   "since_pbx": at(2) - SKEW, **known})  # fmt: skip


def told(*events: Told, of: Stay | None = None) -> Stay:
    found = of or stay()
    for event in (each for each in events for _ in range(2)):  # twice is once
        found.take(event, SKEW)
        if isinstance(event, Connected):
            found.begin_talk(event.at)
    return found


JOINED = CallerJoined(GREEN, "a1", at(2.1))
CONNECTED = Connected(GREEN, "a1", EVA, "Eva", at(3.6), at(3.5))
COMPLETED = Completed(GREEN, "a1", EVA, "agent", at(10.6))


def times(connected: float | None = None, ended: float | None = 30) -> Times:
    return Times(
        answered_at=at(0),
        left_ivr_at=at(2),
        connected_at=None if connected is None else at(connected),
        ended_at=None if ended is None else at(ended),
    )


def shown(found: Stay, of: Times, *, known: bool = True, after: float = 2.0) -> dict[str, object]:
    if of.connected_at is not None and found.taken_at is None:
        found.begin_talk(of.connected_at)
    return found.shown(of, end_is_known=known, abandon_after_seconds=after)


def test_with_an_agent_by_both_clocks() -> None:
    served = told(
        JOINED, Offered(GREEN, "a1", EVA, Agent(EVA)), CallerLeft(GREEN, "a1", at(3.6)), CONNECTED, COMPLETED
    )
    assert (served.agent, served.interface) == ("Eva", EVA)
    assert shown(served, times(3.6)) == {
        "name": "green",
        "waitSeconds": 1.5,
        "secondsToAgent": 1.6,
        "secondsToAgentPbx": 1.5,
        "talkSeconds": 7.0,
        "abandoned": False,
    }


@pytest.mark.parametrize(
    ("events", "of", "known", "expected"),
    [
        # nobody took him
        ((JOINED,), times(ended=9.1), True, (7.0, None, True)),
        ((JOINED, CallerLeft(GREEN, "a1", at(6.1))), times(ended=9.1), True, (4.0, None, True)),
        ((), times(ended=2.5), True, (0.5, None, True)),  # gone before he came there
        ((JOINED,), times(ended=9.1), False, (None, None, True)),  # of whose end nobody knows when it was
        # somebody did, and the rest was not told
        ((JOINED,), times(4.1, ended=9.1), True, (2.0, 5.0, True)),
        ((JOINED,), times(4.0, ended=9.0), True, (1.9, 5.0, False)),  # 2 s are not more than 2 s
        ((JOINED, CONNECTED), times(3.6, ended=9.1), False, (1.5, None, False)),
    ],
)
def test_what_the_result_says(
    events: tuple[Told, ...], of: Times, known: bool, expected: tuple[float | None, float | None, bool]
) -> None:
    found = shown(told(*events), of, known=known)
    assert (found["waitSeconds"], found["talkSeconds"], found["abandoned"]) == expected


@pytest.mark.parametrize(
    ("connected", "after", "expected"),
    [
        (None, 2.0, True),
        (None, 60.0, True),
        (4.0, 2.0, False),
        (4.001, 2.0, True),
        (4.001, 5.0, False),
        (1.0, 2.0, False),
    ],
)
def test_abandoned_is_who_has_no_agent_in_time(connected: float | None, after: float, expected: bool) -> None:
    assert is_abandoned(at(2), None if connected is None else at(connected), after) is expected


@pytest.mark.parametrize(
    ("events", "left", "expected"),
    [
        ((JOINED, CallerAbandoned(GREEN, "a1", 20.0, at(21.5))), 21.5, True),
        ((JOINED, CallerAbandoned(GREEN, "a1", 19.0, at(21.9))), 21.9, False),  # as app_queue counts
        ((JOINED,), 22.0, True),
        ((JOINED,), 21.2, True),  # its whole seconds may be shorter by one
        ((JOINED,), 20.9, False),
        ((), 21.0, True),
        ((), 20.9, False),
    ],
)
def test_whose_time_was_over(events: tuple[Told, ...], left: float, expected: bool) -> None:
    assert told(*events).has_timed_out(at(left)) is expected


def test_who_hung_up_on_the_caller_before_they_were_connected_did_not_take_him() -> None:
    rung = stay(answered_at=at(3), interface=EVA)
    told(Refused(GREEN, "a1", EVA, at(3.1)), of=rung)
    assert rung.answered_at is None


def test_that_another_telephone_rang_in_vain_says_nothing_of_the_one_that_answered() -> None:
    rung = stay(answered_at=at(3), interface="Local/1001@from-queue")
    told(Refused(GREEN, "a1", "Local/1002@from-queue/n", at(3.1)), of=rung)
    assert rung.answered_at == at(3)
    told(Refused(GREEN, "a1", "Local/1001@from-queue/n", at(3.2)), of=rung)
    assert rung.answered_at is None


@pytest.mark.parametrize(
    ("connected", "seconds", "until"),
    [(3.6, None, 30.0), (3.6, 7.0, 10.6), (3.6, 99.0, 30.0), (None, 7.0, None)],
)
def test_who_comes_back_has_talked(connected: float | None, seconds: float | None, until: float | None) -> None:
    back = stay(taken_at=None if connected is None else at(connected))
    back.come_back(at(30), seconds)
    assert back.talked_until == (None if until is None else at(until))
    assert back.left_at == at(30)


def test_what_was_told_of_the_end_of_the_talk_stands() -> None:
    back = told(JOINED, CONNECTED, COMPLETED)
    back.come_back(at(30), None)
    assert back.talked_until == at(10.6)


def test_a_second_queue_is_waited_for_from_the_first_on() -> None:
    moved = told(JOINED, CallerAbandoned(GREEN, "a1", 20.0, at(22)), CallerLeft(GREEN, "a1", at(22)))
    moved.go_on_in("blue", 10, at(25))
    told(CallerJoined(QueueName("blue"), "a1", at(25.5)), of=moved)
    assert not moved.has_timed_out(at(30))
    found = shown(moved, times(26.5, ended=40))
    assert (found["name"], found["waitSeconds"], found["secondsToAgent"]) == ("blue", 1.0, 24.5)


JAN = Connected(QueueName("blue"), "a1", "PJSIP/1002", "Jan", at(20), at(19.9))


def in_a_second_queue() -> Stay:
    moved = told(JOINED, CONNECTED, COMPLETED)
    moved.come_back(at(10.6), None)
    moved.go_on_in("blue", 30, at(11))
    return told(CallerJoined(QueueName("blue"), "a1", at(11)), of=moved)


def test_the_agent_of_a_second_queue_has_his_own_talk() -> None:
    found = told(JAN, of=in_a_second_queue())
    assert (found.agent, found.talked_until) == ("Jan", None)
    assert shown(found, times(3.6, ended=25)) == {
        "name": "blue",
        "waitSeconds": 9.0,
        "secondsToAgent": 1.6,
        "secondsToAgentPbx": 1.5,
        "talkSeconds": 5.0,
        "abandoned": False,
    }


def test_who_finds_nobody_in_a_second_queue_has_talked_in_the_first() -> None:
    found = told(CallerLeft(QueueName("blue"), "a1", at(18)), of=in_a_second_queue())
    found.come_back(at(18), None)
    seen = shown(found, times(3.6, ended=25))
    assert (found.agent, seen["waitSeconds"], seen["talkSeconds"]) == ("Eva", 7.0, 7.0)


def test_an_agent_may_pass_him_on_to_another_ones_queue() -> None:
    found = told(JOINED, CONNECTED, COMPLETED, CallerJoined(QueueName("blue"), "a1", at(10.7)), JAN)
    seen = shown(found, times(3.6, ended=25))
    assert (found.agent, seen["name"], seen["waitSeconds"], seen["talkSeconds"]) == ("Jan", "blue", 1.5, 5.0)


instants = st.none() | st.integers(0, 10**6).map(at)
texts = st.none() | st.text(min_size=1, max_size=5)


@given(st.builds(Stay, queue=st.text(min_size=1), timeout_seconds=st.integers(1, 3600), since=st.just(at(1)),
                 sent_at=st.just(at(2)), since_pbx=instants, joined_at=instants, answered_at=instants,
                 connected_pbx_at=instants, left_at=instants, waited_seconds=st.none() | st.floats(0, 9e9),
                 taken_at=instants, talked_until=instants, agent=texts, interface=texts))  # fmt: skip
def test_it_is_kept_as_texts(known: Stay) -> None:
    record = known.to_fields()
    assert record["queue"] == known.queue
    assert record["agent"] == (known.agent or "")
    assert record.keys() <= {"queue", "agent", *(f"queue_{each.name}" for each in fields(Stay))}
    assert Stay.from_fields({**record, "phase": "QUEUED", "answered_at": "x"}) == known


def test_a_second_queue_takes_back_what_the_first_has_written() -> None:
    known = stay(joined_at=at(3), waited_seconds=5.0, left_at=at(8))
    record = known.to_fields()
    known.go_on_in("blue", 60, at(9))
    assert Stay.from_fields({**record, **known.to_fields()}) == known


def test_a_record_of_another_hand_is_no_stay() -> None:
    assert Stay.from_fields({"phase": "ANSWERED"}) is None
    for spoilt in ({"queue": "green"}, {**stay().to_fields(), "queue_since": "soon"}):
        with pytest.raises(ValueError):
            Stay.from_fields(spoilt)
