from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialer_engine.core.call import (
    CHECK_SECONDS,
    GRACE_SECONDS,
    TRANSITIONS,
    Call,
    Event,
    Phase,
    from_cause,
    from_sip,
    next_deadline,
    outcome,
    render_chart,
)
from dialer_engine.core.model import Outcome, Status, Times

START = datetime(2026, 8, 10, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Flow:
    """What a flow said, as `outcome` sees it."""

    ext_status: str | None = None
    completed: bool = False
    failed: str | None = None


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def call(*events: Event, timeout: float | None = 30) -> Call:
    """A call that was sent at 0 and heard these events, one a second."""
    fresh = Call(dial_timeout_seconds=timeout)
    for second, event in enumerate((Event.MARK_SENT, *events)):
        assert fresh.feed(event, at(second)), event
    return fresh


def ended(
    *events: Event, cause: int | None = None, sip_code: int | None = None, final: str | None = None
) -> Call:
    """The same, destroyed at 20 s with these codes."""
    lost = call(*events)
    if final is not None:
        assert lost.feed(Event.DIAL_ENDED, at(20), dial_status=final)
    assert lost.feed(Event.GONE, at(20), cause=cause, sip_code=sip_code)
    return lost


def verdict(lost: Call, flow: Flow | None = None) -> tuple[Status, str | None]:
    answer = outcome(lost, flow)
    return answer.status, answer.ext_status


UP = (Event.DIALING, Event.RINGING, Event.ANSWERED, Event.ENTERED)
BUSY = (Status.RS_BUSY, None)
NOANSWER = (Status.RS_NOANSWER, None)
UNREACHABLE = (Status.RS_NOANSWER, "NOT_REACHABLE")
NUMBER = (Status.RS_NUMBER, None)
DECLINED = (Status.RS_REJECTED, "REFUSED")
CONGESTION = (Status.RS_REJECTED, "CONGESTION")
REFUSED = (Status.RS_ERROR, "REFUSED")
MEDIA = (Status.RS_ERROR, "MEDIA")
HANGUP = (Status.TERMINATED, "HANGUP")


# --- the table of spec section 5


SIP_ROWS = [
    ((486, 600), BUSY),
    ((480, 408), NOANSWER),
    ((404, 410, 484, 485, 604), NUMBER),
    ((603, 607, 403), DECLINED),
    ((608,), (Status.RS_REJECTED, "BLOCKED")),
    ((503, 500, 501, 502, 504, 580), CONGESTION),
    ((401, 407), REFUSED),
    ((488, 606), MEDIA),
]
CAUSE_ROWS = [
    ((17,), BUSY),
    ((18, 19, 20), NOANSWER),
    ((1, 22, 28), NUMBER),
    ((21,), DECLINED),
    ((27, 34, 38, 41, 42, 44, 102, 0, 3, 31, 127), CONGESTION),
    ((58, 65, 66, 69, 88), MEDIA),
]


@pytest.mark.parametrize(("code", "expected"), [(code, row) for codes, row in SIP_ROWS for code in codes])
def test_every_sip_code_of_the_table(code: int, expected: tuple[Status, str | None]) -> None:
    assert from_sip(code) == Outcome(*expected, sip_code=code)
    assert verdict(ended(Event.DIALING, Event.RINGING, cause=127, sip_code=code)) == expected


@pytest.mark.parametrize(
    ("cause", "expected"), [(cause, row) for causes, row in CAUSE_ROWS for cause in causes]
)
def test_every_cause_of_the_table(cause: int, expected: tuple[Status, str | None]) -> None:
    assert from_cause(cause) == Outcome(*expected, cause=cause)
    assert verdict(ended(Event.DIALING, Event.RINGING, cause=cause)) == expected


@pytest.mark.parametrize("code", range(300, 700))
def test_no_sip_code_is_without_a_row(code: int) -> None:
    assert from_sip(code).status in {status for _, (status, _) in SIP_ROWS}


@pytest.mark.parametrize(
    ("lost", "flow", "expected"),
    [
        # answered and gone through the IVR
        (ended(*UP, cause=16), Flow("CONFIRMED", completed=True), (Status.TERMINATED, "CONFIRMED")),
        (ended(*UP, cause=16), Flow(completed=True), (Status.TERMINATED, None)),
        (ended(*UP, cause=16), Flow(), HANGUP),
        (ended(*UP, cause=16), Flow("CONFIRMED"), (Status.TERMINATED, "CONFIRMED")),
        (ended(*UP, cause=16), None, HANGUP),
        (ended(*UP, cause=34, sip_code=503), Flow(), HANGUP),  # an answered call has a cause too
        (ended(*UP, Event.CANCELLED), Flow(), (Status.TERMINATED, None)),  # maxCallDuration
        (ended(*UP, Event.CANCELLED), Flow("YES"), (Status.TERMINATED, "YES")),
        # ... or an agent, or elsewhere in the dialplan
        (ended(*UP, Event.LEFT, Event.CONNECTED), Flow("YES"), (Status.TERMINATED, "YES")),
        (ended(*UP, Event.CONNECTED), None, (Status.TERMINATED, None)),
        (ended(*UP, Event.LEFT, Event.CONNECTED, Event.ENTERED), Flow(failed="x"), (Status.TERMINATED, None)),
        (ended(*UP, Event.HANDED_OVER), Flow(), (Status.TERMINATED, None)),
        # answered, in the queue or on its way there
        (ended(*UP, Event.LEFT), Flow(), (Status.RS_LOST, None)),
        (ended(*UP, Event.LEAVING), Flow(), (Status.RS_LOST, None)),
        (
            ended(*UP, Event.LEFT, Event.QUEUE_TIMED_OUT, Event.ENTERED, Event.LEAVING),
            Flow(),
            (Status.RS_LOST, None),
        ),
        (ended(*UP, Event.LEAVING), Flow(failed="no orders taken"), (Status.RS_LOST, None)),
        (call(*UP, Event.LEAVING, Event.PBX_LOST), Flow(), (Status.RS_ERROR, "PBX_LOST")),
        (ended(*UP, Event.LEFT), Flow("VIP", completed=True), (Status.RS_LOST, "VIP")),
        (ended(*UP, Event.LEFT, Event.QUEUE_TIMED_OUT), Flow(), (Status.RS_TIMEOUT, None)),
        (
            ended(*UP, Event.LEFT, Event.QUEUE_TIMED_OUT, Event.ENTERED),
            Flow(completed=True),
            (Status.RS_TIMEOUT, None),
        ),
        # ... which gave it back without an agent (full, nobody there), whatever its flow did then
        (ended(*UP, Event.LEFT, Event.ENTERED), Flow(completed=True), (Status.RS_LOST, None)),
        (ended(*UP, Event.LEFT, Event.ENTERED), Flow("CALL BACK"), (Status.RS_LOST, "CALL BACK")),
        (
            call(*UP, Event.LEFT, Event.ENTERED, Event.UNKNOWN),
            Flow(completed=True),
            (Status.RS_ERROR, "UNKNOWN"),
        ),
        # ... and was lost in the next one
        (
            ended(*UP, Event.LEFT, Event.QUEUE_TIMED_OUT, Event.ENTERED, Event.LEFT),
            Flow(),
            (Status.RS_LOST, None),
        ),
        # ... and got an agent the second time
        (
            ended(*UP, Event.LEFT, Event.QUEUE_TIMED_OUT, Event.ENTERED, Event.LEFT, Event.CONNECTED),
            Flow(),
            (Status.TERMINATED, None),
        ),
        # with an agent, and its end was not heard: it has come to its end all the same; a lost PBX has cut it
        (call(*UP, Event.LEFT, Event.CONNECTED, Event.UNKNOWN), Flow(), (Status.TERMINATED, None)),
        (call(*UP, Event.LEFT, Event.CONNECTED, Event.PBX_LOST), Flow(), (Status.RS_ERROR, "PBX_LOST")),
        (call(*UP, Event.LEFT, Event.DEAF, Event.UNKNOWN), Flow(), (Status.RS_ERROR, "UNKNOWN")),
        # the IVR failed, or the call never came to it
        (ended(*UP), Flow("YES", failed="no sound"), (Status.RS_ERROR, "IVR_FAILED")),
        (ended(Event.RINGING, Event.DEAF, Event.ANSWERED, cause=16), None, (Status.RS_ERROR, "UNKNOWN")),
        (ended(Event.RINGING, Event.ANSWERED, Event.DEAF, cause=16), None, (Status.RS_ERROR, "UNKNOWN")),
        (ended(Event.RINGING, Event.ANSWERED, cause=16), None, HANGUP),  # over at once, and we were there
        # an end that a busy or absent callee would have explained, after events were missed
        (ended(Event.RINGING, Event.DEAF, cause=16), None, (Status.RS_ERROR, "UNKNOWN")),
        (ended(Event.RINGING, Event.DEAF, cause=17, sip_code=486), None, (Status.RS_BUSY, None)),
        # lost
        (call(*UP, Event.PBX_LOST), Flow(), (Status.RS_ERROR, "PBX_LOST")),
        (call(Event.RINGING, Event.PBX_LOST), None, (Status.RS_ERROR, "PBX_LOST")),
        (call(*UP, Event.UNKNOWN), Flow("YES"), (Status.RS_ERROR, "UNKNOWN")),
        (call(Event.UNKNOWN), None, (Status.RS_ERROR, "UNKNOWN")),
        (call(*UP, Event.UNKNOWN), Flow("YES", completed=True), (Status.TERMINATED, "YES")),
        (call(Event.RINGING), None, (Status.RS_ERROR, "UNKNOWN")),  # settled before it ended
        (call(Event.REFUSED), None, REFUSED),
        # it never rang
        (ended(Event.DIALING, cause=19, sip_code=480, final="NOANSWER"), None, UNREACHABLE),
        (ended(Event.DIALING, Event.PROGRESS, cause=19, sip_code=480, final="NOANSWER"), None, UNREACHABLE),
        (ended(Event.DIALING, cause=18), None, UNREACHABLE),
        (ended(Event.DIALING, cause=17, sip_code=486, final="BUSY"), None, BUSY),
        # SIP before cause before what the Dial says
        (ended(Event.RINGING, cause=21, sip_code=407, final="NOANSWER"), None, REFUSED),
        (ended(Event.RINGING, cause=1, sip_code=404, final="NOANSWER"), None, NUMBER),
        (ended(Event.RINGING, cause=1, final="NOANSWER"), None, NUMBER),
        (ended(Event.RINGING, cause=0, final="BUSY"), None, BUSY),
        (ended(Event.RINGING, cause=0, final="CONGESTION"), None, CONGESTION),
        (ended(Event.RINGING, final="CHANUNAVAIL"), None, CONGESTION),
        (ended(Event.RINGING, final="NOANSWER"), None, NOANSWER),
        (ended(Event.RINGING), None, CONGESTION),
        (ended(Event.RINGING, cause=16), None, NOANSWER),
        # our own deeds before any code
        (ended(Event.DIALING, Event.RINGING, Event.TIMED_OUT, cause=0, sip_code=503), None, NOANSWER),
        (ended(Event.DIALING, Event.TIMED_OUT, cause=19, sip_code=480), None, UNREACHABLE),
        (ended(Event.DIALING, Event.PROGRESS, Event.TIMED_OUT, cause=19, sip_code=480), None, NOANSWER),
        (ended(Event.RINGING, Event.CANCELLED, cause=16), None, NOANSWER),
        (ended(Event.CANCELLED, cause=127, sip_code=487), None, UNREACHABLE),
    ],
)
def test_what_a_call_came_to(lost: Call, flow: Flow | None, expected: tuple[Status, str | None]) -> None:
    assert verdict(lost, flow) == expected


def test_a_forbidden_number_was_not_called() -> None:
    fresh = Call()
    assert fresh.feed(Event.FORBIDDEN, START, value="opt-out")
    assert verdict(fresh) == (Status.RS_BLACKLIST, "opt-out")
    assert fresh.times.originated_at is None


@pytest.mark.parametrize(("cause", "sip_code"), [(0, None), (None, None), (19, 480), (19, None)])
def test_asterisks_own_ring_timeout_is_known_by_the_final_dial_it_lacks(
    cause: int | None, sip_code: int | None
) -> None:
    lost = call(Event.DIALING, Event.RINGING)
    lost.feed(Event.GONE, at(30.1), cause=cause, sip_code=sip_code)
    assert verdict(lost) == NOANSWER


def test_a_late_code_that_asterisk_would_not_make_up_is_the_carriers() -> None:
    for cause, sip_code, expected in ((0, 486, BUSY), (34, 503, CONGESTION), (17, None, BUSY)):
        lost = call(Event.DIALING, Event.RINGING)
        lost.feed(Event.GONE, at(30.1), cause=cause, sip_code=sip_code)
        assert verdict(lost) == expected


def test_an_early_end_with_cause_0_is_no_ring_timeout() -> None:
    lost = call(Event.DIALING, Event.RINGING)
    lost.feed(Event.GONE, at(3), cause=0)
    assert verdict(lost) == CONGESTION


def test_an_answer_overtakes_our_timer() -> None:
    lost = call(Event.RINGING, Event.TIMED_OUT, Event.ANSWERED, Event.ENTERED)
    assert not lost.feed(Event.TIMED_OUT, at(9))
    lost.feed(Event.GONE, at(20), cause=16)
    assert verdict(lost, Flow(completed=True)) == (Status.TERMINATED, None)


def test_raw_codes_are_kept() -> None:
    assert outcome(ended(Event.RINGING, cause=17, sip_code=486), None) == Outcome(*BUSY, 17, 486)
    assert outcome(ended(*UP, cause=16), None).cause == 16


# --- Local/ channels


@pytest.mark.parametrize(
    ("far_cause", "far_sip_code", "far_status", "expected"),
    [
        (17, None, "BUSY", BUSY),
        (34, None, "CONGESTION", CONGESTION),
        (1, 404, "NOANSWER", NUMBER),
        (21, 603, None, DECLINED),
        (None, None, "BUSY", BUSY),
        (16, None, "BUSY", BUSY),
        (None, None, "NOANSWER", NOANSWER),
    ],
)
def test_the_far_half_tells_what_the_near_one_hides(
    far_cause: int | None, far_sip_code: int | None, far_status: str | None, expected: tuple[Status, str | None]
) -> None:
    lost = call(Event.DIALING)
    assert lost.feed(Event.RINGING, at(2), far=True)
    assert lost.feed(Event.DIAL_ENDED, at(5), dial_status=far_status, far=True)
    assert lost.feed(Event.GONE, at(5), cause=far_cause, sip_code=far_sip_code, far=True)
    assert lost.phase is Phase.RINGING
    assert lost.feed(Event.GONE, at(5), cause=0)
    assert verdict(lost) == expected


def test_the_last_leg_of_a_local_channel_has_the_word_but_a_plain_clearing_has_not() -> None:
    lost = call(Event.DIALING)
    for cause in (34, 17, 16):
        lost.feed(Event.GONE, at(3), cause=cause, far=True)
    lost.feed(Event.GONE, at(5), cause=0)
    assert outcome(lost, None).cause == 17


def test_other_far_events_are_neither_taken_nor_illegal() -> None:
    lost = call(Event.DIALING)
    assert not lost.feed(Event.ANSWERED, at(3), far=True)
    assert (lost.phase, lost.illegal) == (Phase.SENT, 0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("RS_NUMBER", NUMBER),
        ("RS_REJECTED/SIT", (Status.RS_REJECTED, "SIT")),
        ("RS_REJECTED/", (Status.RS_REJECTED, None)),
        (" RS_NUMBER ", NUMBER),
        ("FAX", (Status.RS_BUSY, "FAX")),
        ("rs_number", (Status.RS_BUSY, "rs_number")),
        ("A/B", (Status.RS_BUSY, "A/B")),
        ("  ", BUSY),
        ("", BUSY),
    ],
)
def test_callstatus_overrides(value: str, expected: tuple[Status, str | None]) -> None:
    lost = call(Event.RINGING)
    assert lost.feed(Event.STATUS, at(2), value=value)
    lost.feed(Event.GONE, at(5), cause=17)
    assert verdict(lost) == expected


def test_callstatus_of_an_answered_call_is_its_ext_status() -> None:
    lost = call(*UP)
    lost.feed(Event.STATUS, at(6), value="WRONG")
    lost.feed(Event.STATUS, at(7), value="SOLD")
    lost.feed(Event.GONE, at(8), cause=16)
    assert verdict(lost, Flow("YES", completed=True)) == (Status.TERMINATED, "SOLD")


# --- the table of transitions


def test_the_table_names_every_phase_and_nothing_leaves_the_end() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert TRANSITIONS[Phase.ENDED] == {}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", Event)
def test_an_illegal_event_changes_nothing_and_is_counted(phase: Phase, event: Event) -> None:
    lost = Call(phase=phase, times=Times(originated_at=START))
    before = replace(lost)
    taken = lost.feed(event, at(1), cause=17, sip_code=486, dial_status="BUSY", value="X")
    assert taken is (event in TRANSITIONS[phase])
    if not taken:
        assert lost == replace(before, illegal=1)


def test_every_event_of_a_channel_may_come_before_the_originates_reply() -> None:
    ours = {Event.MARK_SENT, Event.FORBIDDEN, Event.LEAVING, Event.LEFT, Event.HANDED_OVER}
    assert set(Event) - set(TRANSITIONS[Phase.SENT]) == ours | {Event.QUEUE_TIMED_OUT, Event.CONNECTED}


def test_the_normal_call_in_asterisks_order() -> None:
    lost = call(Event.DIALING, Event.RINGING, Event.RINGING, Event.ANSWERED, Event.ANSWERED, Event.ENTERED)
    lost.feed(Event.LEFT, at(10))
    lost.feed(Event.CONNECTED, at(12))
    lost.feed(Event.GONE, at(60), cause=16)
    assert lost.times == Times(at(0), at(2), at(4), at(10), at(12), at(60))
    assert (lost.ended_in, lost.illegal) == (Phase.CONNECTED, 0)


heard = st.tuples(
    st.sampled_from(Event),
    st.sampled_from([None, 0, 1, 16, 17, 19, 34, 127, 999]),
    st.sampled_from([None, 403, 480, 486, 503, 999]),
    st.sampled_from([None, "BUSY", "NOANSWER", "WHAT"]),
    st.sampled_from([None, "", "FAX", "RS_BUSY/X"]),
    st.booleans(),
)
flows = st.none() | st.builds(
    Flow, st.sampled_from([None, "YES"]), st.booleans(), st.sampled_from([None, "why"])
)


def steps(
    call_: Call, events: list[tuple[Event, int | None, int | None, str | None, str | None, bool]]
) -> Iterator[None]:
    for second, (event, cause, sip_code, dial_status, value, far) in enumerate(events):
        call_.feed(
            event, at(second), cause=cause, sip_code=sip_code, dial_status=dial_status, value=value, far=far
        )
        yield


@given(events=st.lists(heard, max_size=25), flow=flows, sent=st.booleans())
def test_no_order_of_events_raises_or_leaves_the_end(
    events: list[tuple[Event, int | None, int | None, str | None, str | None, bool]],
    flow: Flow | None,
    sent: bool,
) -> None:
    lost = call() if sent else Call()
    was_ended: Outcome | None = None
    for _ in steps(lost, events):
        answer = outcome(lost, flow)
        assert was_ended is None or answer == was_ended
        if lost.ended:
            was_ended = answer
            assert lost.times.ended_at is not None
        next_deadline(lost, 30, 3600)
        assert Call.from_fields(lost.to_fields()) == lost


def test_a_second_queue_takes_back_from_the_record_that_the_first_had_timed_out() -> None:
    lost = call(*UP, Event.LEFT, Event.QUEUE_TIMED_OUT, Event.ENTERED)
    record = lost.to_fields()
    lost.feed(Event.LEFT, at(9))
    assert Call.from_fields({**record, **lost.to_fields()}) == lost


def test_the_record_is_flat_text_without_what_has_not_happened() -> None:
    assert Call().to_fields() == {"phase": "CLAIMED"}
    record = call(Event.RINGING).to_fields()
    assert record == {
        "phase": "RINGING",
        "originated_at": at(0).isoformat(),
        "ringing_at": at(1).isoformat(),
        "dial_timeout_seconds": "30",
    }
    assert Call.from_fields({**record, "campaign": "7"}).rang
    with pytest.raises(ValueError, match="WHAT"):
        Call.from_fields({"phase": "WHAT"})


# --- deadlines


def test_every_live_phase_has_its_deadline() -> None:
    def deadline(lost: Call) -> datetime | None:
        return next_deadline(lost, 30, 3600)

    ring_end = at(30 + GRACE_SECONDS)
    assert deadline(Call()) is None
    assert deadline(call()) == ring_end
    assert deadline(call(Event.DIALING, Event.RINGING)) == ring_end
    assert deadline(call(*UP)) == at(3 + 3600)
    assert deadline(call(*UP, Event.LEFT)) == at(3 + 3600)
    assert deadline(ended(*UP)) is None


def test_a_living_channel_puts_the_deadline_off_but_not_in_the_ivr() -> None:
    for lost in (call(), call(*UP, Event.LEFT), call(*UP, Event.LEFT, Event.CONNECTED)):
        lost.feed(Event.ALIVE, at(4000))
        assert next_deadline(lost, 30, 3600) == at(4000 + CHECK_SECONDS)
    in_ivr = call(*UP)
    in_ivr.feed(Event.ALIVE, at(4000))
    assert next_deadline(in_ivr, 30, 3600) == at(3 + 3600)


def test_who_is_back_from_an_agent_has_the_whole_time_in_the_ivr_again() -> None:
    back = call(*UP, Event.LEFT, Event.CONNECTED)
    back.feed(Event.ENTERED, at(4000))
    assert back.back_at == at(4000)
    assert next_deadline(back, 30, 3600) == at(4000 + 3600)


def test_the_chart_has_an_arrow_for_every_change_of_phase() -> None:
    chart = render_chart()
    assert chart.startswith("stateDiagram-v2\n    [*] --> CLAIMED\n")
    for phase, events in TRANSITIONS.items():
        for event, target in events.items():
            if target is not phase:
                (arrow,) = [
                    line for line in chart.splitlines() if line.startswith(f"    {phase} --> {target}: ")
                ]
                assert event.value in arrow
