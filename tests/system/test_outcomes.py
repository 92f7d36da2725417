"""Every row of the outcome table (spec section 5) that needs no agent, produced on real SIP.

All numbers are called at once, one campaign per trunk; each test then holds one call's result against the table
and against what the callee wrote down. Numbers through Local/ trunks go the way of every FreePBX.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from tests.lab import number
from tests.lab.world import WorldCall, now
from tests.rig import SURVEY, Rig
from tests.simulated import AnyLab

pytestmark = [pytest.mark.system]

DIAL_TIMEOUT = 15
"""The shortest there is."""
TOLERANCE = 0.3
"""Between an instant as the callee wrote it down and as the result has it."""
RETURN_SECONDS = 10
"""After so long comes back who was refused before an INVITE."""


@dataclass(frozen=True)
class Row:
    """A callee, and the result that the table demands of its call."""

    name: str
    dialled: str
    status: str
    ext_status: str | None
    cause: int | None
    sip_code: int | None
    path: tuple[str, ...] = ()
    values: dict[str, str] = field(default_factory=dict)
    ended_by: str | None = "world"  # None: the world never hears of the call


def rejected(code: int, status: str, ext_status: str | None, cause: int, *, ring: float = 0.0) -> Row:
    name = f"{code} after ringing" if ring else str(code)
    return Row(name, number.rejects(code, ring), status, ext_status, cause, code)


def hung_up(name: str, dialled: str, ext_status: str | None, *path: str, **values: str) -> Row:
    """Answered, through the flow to its end, and hung up by us: no response of SIP belongs to that."""
    path = ("hello", "ask", *path, "bye")
    return Row(name, dialled, "TERMINATED", ext_status, 16, None, path, values, ended_by="pbx")


# Those that count against the trunk stand apart: ten in a row would close it (test_trunk_brake).
CARRIER = [
    # Asterisk invents the 480 when a ring has lasted too long; the result keeps what it said.
    Row("rings out", number.rings_out(), "RS_NOANSWER", None, 19, 480, ended_by="pbx"),
    Row("never rings", number.never_rings(), "RS_NOANSWER", "NOT_REACHABLE", 19, 480, ended_by="pbx"),
    Row("rings in band", number.rings_in_band(), "RS_NOANSWER", None, 19, 480, ended_by="pbx"),
    rejected(503, "RS_REJECTED", "CONGESTION", 34),
    rejected(486, "RS_BUSY", None, 17),
    rejected(403, "RS_REJECTED", "REFUSED", 21),
    rejected(486, "RS_BUSY", None, 17, ring=0.5),
    rejected(500, "RS_REJECTED", "CONGESTION", 38),
    rejected(600, "RS_BUSY", None, 17),
    rejected(501, "RS_REJECTED", "CONGESTION", 29),
    rejected(404, "RS_NUMBER", None, 1),
    rejected(502, "RS_REJECTED", "CONGESTION", 27),
    rejected(404, "RS_NUMBER", None, 1, ring=0.5),
    rejected(504, "RS_REJECTED", "CONGESTION", 102),
    rejected(410, "RS_NUMBER", None, 22),
    rejected(407, "RS_ERROR", "REFUSED", 21),
    rejected(484, "RS_NUMBER", None, 28),
    rejected(485, "RS_NUMBER", None, 1),
    rejected(604, "RS_NUMBER", None, 1),
    rejected(480, "RS_NOANSWER", "NOT_REACHABLE", 19),
    rejected(480, "RS_NOANSWER", None, 19, ring=0.5),
    rejected(408, "RS_NOANSWER", "NOT_REACHABLE", 18),
    rejected(408, "RS_NOANSWER", None, 18, ring=0.5),
    rejected(487, "RS_NOANSWER", "NOT_REACHABLE", 127),
    rejected(603, "RS_REJECTED", "REFUSED", 21, ring=0.5),
    rejected(607, "RS_REJECTED", "REFUSED", 127),
    rejected(608, "RS_REJECTED", "BLOCKED", 127),
    rejected(503, "RS_REJECTED", "CONGESTION", 34, ring=0.5),
    rejected(488, "RS_ERROR", "MEDIA", 58),
    rejected(606, "RS_ERROR", "MEDIA", 58),
    Row("announcement and 404", number.announces(404), "RS_NUMBER", None, 1, 404),
    Row("announcement and 486", number.announces(486), "RS_BUSY", None, 17, 486),
    Row("announcement and 480", number.announces(480), "RS_NOANSWER", "NOT_REACHABLE", 19, 480),
    Row("hangs up in the flow", number.answers(talk=1.0), "TERMINATED", "HANGUP", 16, None, ("hello",)),
    hung_up("presses 1", number.presses("1", after=2.5), "CONFIRMED", "yes", answer="1"),
    hung_up("presses 2", number.presses("2", after=2.5), "DECLINED", "no", answer="2"),
    hung_up("says nothing", number.stays(), None),
]
AUTH = [Row("401", "500486000401", "RS_ERROR", "REFUSED", 21, 401, ended_by=None)]
DEAD = [Row("silence", "500486000019", "RS_NOANSWER", "NOT_REACHABLE", 19, 480, ended_by=None)]
REFUSED = {"nocontact": "500486000020", "missing": "500486000021"}


def through_local(serial: int, *, told: dict[str, str]) -> list[Row]:
    """The table again, one exchange behind a dialplan; `told` is what that says in CALLSTATUS, by row."""
    return [
        Row("rings out", number.rings_out(serial), "RS_NOANSWER", None, 19, 480, ended_by="pbx"),
        Row("never rings", number.never_rings(serial), "RS_NOANSWER", "NOT_REACHABLE", 19, 480, ended_by="pbx"),
        Row("503", number.rejects(503, 0, serial), "RS_REJECTED", told.get("503", "CONGESTION"), 34, 503),
        Row("486", number.rejects(486, 0, serial), "RS_BUSY", told.get("486"), 17, 486),
        Row("404", number.rejects(404, 0, serial), "RS_NUMBER", told.get("404"), 1, 404),
        Row("403", number.rejects(403, 0, serial), "RS_REJECTED", told.get("403", "REFUSED"), 21, 403),
        Row("480", number.rejects(480, 0.5, serial), "RS_NOANSWER", told.get("480"), 19, 480),
        Row("announcement and 404", number.announces(404, 1.5, serial), "RS_NUMBER", told.get("404"), 1, 404),
        Row(
            "hangs up in the flow",
            number.answers(0.5, 1.0, serial),
            "TERMINATED",
            "HANGUP",
            16,
            None,
            ("hello",),
        ),
        hung_up("presses 1", number.presses("1", 2.5, serial=serial), "CONFIRMED", "yes", answer="1"),
    ]


STATUS_TOLD = {
    "486": "BUSY-17",
    "503": "CONGESTION-34",
    "404": "CHANUNAVAIL-1",
    "403": "CHANUNAVAIL-21",
    "480": "NOANSWER-19",
}
TABLE = {
    "carrier": CARRIER,
    "carrier-auth": AUTH,
    "carrier-dead": DEAD,
    "freepbx": through_local(1, told={}),
    "freepbx-status": through_local(2, told=STATUS_TOLD),
}


def cases(*trunks: str) -> pytest.MarkDecorator:
    """One test for each row of these trunks."""
    rows = [pytest.param(trunk, row, id=f"{trunk}: {row.name}") for trunk in trunks for row in TABLE[trunk]]
    return pytest.mark.parametrize(("trunk", "row"), rows)


@dataclass
class Dialed:
    """The results by trunk and number, and what the world saw since we began."""

    results: dict[tuple[str, str], list[dict[str, Any]]]
    calls: dict[str, list[WorldCall]]


@pytest.fixture(scope="module")
def dialed(rig: Rig, lab: AnyLab) -> Dialed:
    """All calls made and over, in little more than the longest of them."""
    since = now()
    dialled = {trunk: [row.dialled for row in rows] for trunk, rows in TABLE.items()}
    dialled |= {trunk: [refused] for trunk, refused in REFUSED.items()}
    campaigns = {
        trunk: rig.campaign(numbers, trunk=trunk, flow=SURVEY, dialTimeout=DIAL_TIMEOUT)
        for trunk, numbers in dialled.items()
    }
    results = {trunk: rig.completed(campaigns[trunk], 40) for trunk in TABLE}
    for trunk in REFUSED:
        rig.command(campaigns[trunk], "remove")
        results[trunk] = rig.results(campaigns[trunk])
    rig.until(lambda: all(call.ended_at for call in _since(lab, since)), 5, "every callee is hung up")
    by_number: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for trunk, items in results.items():
        for item in items:
            by_number.setdefault((trunk, item["number"]), []).append(item)
    calls: dict[str, list[WorldCall]] = {}
    for call in _since(lab, since):
        calls.setdefault(call.number, []).append(call)
    return Dialed(by_number, calls)


def _since(lab: AnyLab, since: float) -> list[WorldCall]:
    return [call for call in lab.world_calls() if call.invited_at >= since - 0.001]


def result_of(dialed: Dialed, trunk: str, row: Row) -> dict[str, Any]:
    """The only result there is for a number."""
    (result,) = dialed.results[trunk, row.dialled]
    return result


def call_of(dialed: Dialed, row: Row) -> WorldCall:
    """The only call there was to a number."""
    (call,) = dialed.calls[row.dialled]
    return call


def said(result: dict[str, Any]) -> tuple[object, ...]:
    return result["status"], result["extStatus"], result["cause"], result["sipCode"]


def epoch(result: dict[str, Any], instant: str) -> float | None:
    text = result[instant]
    return None if text is None else datetime.fromisoformat(text).timestamp()


def assert_close(result: dict[str, Any], instant: str, seen: float | None) -> None:
    assert epoch(result, instant) == (None if seen is None else pytest.approx(seen, abs=TOLERANCE)), instant


@cases("carrier", "carrier-auth", "carrier-dead")
def test_the_table_of_outcomes_holds_on_real_sip(dialed: Dialed, trunk: str, row: Row) -> None:
    assert said(result_of(dialed, trunk, row)) == (row.status, row.ext_status, row.cause, row.sip_code)


@cases("freepbx")
def test_the_table_of_outcomes_holds_through_a_dialplan_that_hides_them(
    dialed: Dialed, trunk: str, row: Row
) -> None:
    assert said(result_of(dialed, trunk, row)) == (row.status, row.ext_status, row.cause, row.sip_code)


@cases("freepbx-status")
def test_the_dialplan_has_the_word_on_the_ext_status(dialed: Dialed, trunk: str, row: Row) -> None:
    assert said(result_of(dialed, trunk, row)) == (row.status, row.ext_status, row.cause, row.sip_code)


@cases("carrier", "freepbx", "freepbx-status")
def test_the_callee_saw_one_call_that_ended_so(dialed: Dialed, trunk: str, row: Row) -> None:
    call = call_of(dialed, row)
    assert call.ended_by == row.ended_by
    assert call.caller_id == "123456789"
    assert (call.answered_at is None) == (result_of(dialed, trunk, row)["answeredAt"] is None)


@cases("carrier", "carrier-auth", "carrier-dead", "freepbx", "freepbx-status")
def test_the_answers_given_in_the_flow_are_in_the_result(dialed: Dialed, trunk: str, row: Row) -> None:
    result = result_of(dialed, trunk, row)
    assert (tuple(result["path"]), result["values"], result["notes"]) == (row.path, row.values, [])


@cases("carrier")
def test_the_times_of_a_result_are_those_of_the_callee(dialed: Dialed, trunk: str, row: Row) -> None:
    result, call = result_of(dialed, trunk, row), call_of(dialed, row)
    assert_close(result, "originatedAt", call.invited_at)
    assert_close(result, "ringingAt", call.ringing_at)
    assert_close(result, "answeredAt", call.answered_at)
    assert_close(result, "endedAt", call.ended_at)
    assert (result["leftIvrAt"], result["connectedAt"]) == (None, None)


@cases("freepbx", "freepbx-status")
def test_the_times_through_a_dialplan_are_those_of_the_callee(dialed: Dialed, trunk: str, row: Row) -> None:
    """But the end of a rejected call: a dialplan may speak to the caller for a while after the callee has gone."""
    result, call = result_of(dialed, trunk, row), call_of(dialed, row)
    assert_close(result, "originatedAt", call.invited_at)
    assert_close(result, "ringingAt", call.ringing_at)
    assert_close(result, "answeredAt", call.answered_at)
    assert call.ended_at is not None
    if row.path or row.ended_by == "pbx" or trunk == "freepbx-status":
        assert_close(result, "endedAt", call.ended_at)
    else:
        assert call.ended_at - TOLERANCE < (epoch(result, "endedAt") or 0) < call.ended_at + 5


@pytest.mark.parametrize(
    ("trunk", "row"),
    [
        (trunk, row)
        for trunk in TABLE
        for row in TABLE[trunk]
        if row.name in ("rings out", "never rings", "silence")
    ],
)
def test_who_does_not_answer_is_rung_exactly_as_long_as_configured(
    dialed: Dialed, trunk: str, row: Row
) -> None:
    result = result_of(dialed, trunk, row)
    originated, ended = epoch(result, "originatedAt"), epoch(result, "endedAt")
    assert originated is not None
    assert ended == pytest.approx(originated + DIAL_TIMEOUT, abs=TOLERANCE)


@pytest.mark.parametrize("trunk", REFUSED)
def test_an_endpoint_that_cannot_be_dialed_is_an_error_and_brings_the_contact_back(
    dialed: Dialed, trunk: str
) -> None:
    first, *_ = results = dialed.results[trunk, REFUSED[trunk]]
    assert said(first) == ("RS_ERROR", "REFUSED", None, None)
    assert (first["ringingAt"], first["answeredAt"], first["path"]) == (None, None, [])
    assert first["redialAt"] == pytest.approx((epoch(first, "endedAt") or 0) + RETURN_SECONDS, abs=TOLERANCE)
    assert len(results) >= 2
    assert epoch(results[1], "originatedAt") == pytest.approx(first["redialAt"], abs=1.0)
    assert REFUSED[trunk] not in dialed.calls
