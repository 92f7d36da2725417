"""The public JSON: what is taken, what is refused, and where every problem is placed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialer_engine.core.model import ActivePeriod, CampaignId, Endpoint, EndpointType, RescheduleRule, Status
from dialer_engine.errors import Invalid
from dialer_engine.store.contract import (
    from_json,
    missing,
    parse_campaign,
    parse_command,
    parse_contact,
    parse_ivr,
    parse_row,
)
from tests.ports.store_desk import CAMPAIGN, FLOW


def problems(parse: Any, document: object) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        parse(document)
    return {one.place: one.reason for one in refused.value.problems}


def test_the_seeds_own_campaign() -> None:
    campaign = parse_campaign(CAMPAIGN).noun(CampaignId(7), "Europe/Prague")
    assert campaign.active_period == ActivePeriod(9 * 3600, 17 * 3600, frozenset(range(1, 8)), "Europe/Prague")
    assert campaign.endpoint == Endpoint(EndpointType.QUEUE, "green", "1.1", 2)
    assert campaign.reschedule_rules == (RescheduleRule(Status.RS_ERROR, 15, 1),)
    assert (campaign.id, campaign.caller_id, campaign.call_lists, campaign.ivr) == (
        7,
        "123456789",
        (1,),
        "TUxw53xCBf",
    )


def test_every_optional_field_and_back() -> None:
    document = {
        **CAMPAIGN,
        "timezone": "America/New_York",
        "trunk": "carrier",
        "priority": 100,
        "maxChannels": 5,
        "callsPerSecond": 0.5,
        "dialTimeout": 15,
        "maxCallDuration": 60,
        "maxTotalAttempts": 4,
        "whenDone": "wait",
        "webhook": "https://example.org/hook",
        "rescheduleRules": [
            {"status": "RS_BUSY", "retryAfter": 1.5, "maxAttempts": 0, "retryMode": "multiplied"},
            {"status": "RS_BUSY", "retryAfter": 60, "maxAttempts": 3, "extStatus": "CONGESTION"},
        ],
    }
    definition = parse_campaign(document)
    assert json.loads(definition.text()) == document
    assert parse_campaign(json.loads(definition.text())) == definition
    campaign = definition.noun(CampaignId(1), "UTC")
    assert (campaign.active_period.timezone, campaign.trunk) == ("America/New_York", "carrier")
    assert [rule.key for rule in campaign.reschedule_rules] == ["RS_BUSY", "RS_BUSY/CONGESTION"]
    assert definition.complete()["endpoint"]["maxLinesPerAgent"] == 10


def test_what_was_left_out_stays_out_of_the_text() -> None:
    assert json.loads(parse_campaign(CAMPAIGN).text()) == CAMPAIGN


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"callerId": 123456789}, "callerId"),
        ({"callLists": []}, ""),
        ({"callLists": [1, 1]}, "callLists"),
        ({"callLists": [0]}, "callLists.0"),
        ({"callLists": ["1"]}, "callLists.0"),
        ({"ivr": "a/b"}, "ivr"),
        ({"maxChannels": 0}, "maxChannels"),
        ({"maxChannels": True}, "maxChannels"),
        ({"maxChannels": 10_001}, "maxChannels"),
        ({"dialTimeout": 14}, "dialTimeout"),
        ({"dialTimeout": "30"}, "dialTimeout"),
        ({"callsPerSecond": 0}, "callsPerSecond"),
        ({"callsPerSecond": float("nan")}, "callsPerSecond"),
        ({"priority": 101}, "priority"),
        ({"timezone": "Mars/Base"}, "timezone"),
        ({"timezone": "../etc/passwd"}, "timezone"),
        ({"whenDone": "never"}, "whenDone"),
        ({"webhook": "ftp://x"}, "webhook"),
        ({"unknown": 1}, "unknown"),
        ({"max_channels": 1}, "max_channels"),
        ({"endpoint": {"type": "queue"}}, "endpoint"),
        ({"endpoint": {"type": "pigeon"}}, "endpoint.type"),
        ({"endpoint": {"boostFactor": 0}}, "endpoint.boostFactor"),
        ({"endpoint": {"boostFactor": float("inf")}}, "endpoint.boostFactor"),
        ({"endpoint": {"boostFactor": "1.1"}}, "endpoint.boostFactor"),
        ({"endpoint": {"pacing": "fast"}}, "endpoint.pacing"),
        ({"activePeriod": {"startTime": "24:00", "endTime": "17:00", "weekDays": [1]}}, "activePeriod"),
        (
            {"activePeriod": {"startTime": "9:00", "endTime": "17:00", "weekDays": [1]}},
            "activePeriod.startTime",
        ),
        (
            {"activePeriod": {"startTime": "09:00", "endTime": "24:01", "weekDays": [1]}},
            "activePeriod.endTime",
        ),
        (
            {"activePeriod": {"startTime": "09:00", "endTime": "17:00", "weekDays": [8]}},
            "activePeriod.weekDays.0",
        ),
        (
            {"rescheduleRules": [{"status": "BUSY", "retryAfter": 1, "maxAttempts": 1}]},
            "rescheduleRules.0.status",
        ),
        (
            {"rescheduleRules": [{"status": "RS_BUSY", "retryAfter": -1, "maxAttempts": 1}]},
            "rescheduleRules.0.retryAfter",
        ),
        (
            {"rescheduleRules": [{"status": "RS_BUSY", "retryAfter": 1, "maxAttempts": 1}] * 2},
            "rescheduleRules",
        ),
    ],
)
def test_refused_campaigns(change: dict[str, Any], place: str) -> None:
    assert set(problems(parse_campaign, {**CAMPAIGN, **change})) == {place}


def test_every_problem_at_once() -> None:
    found = problems(parse_campaign, {"name": "x", "priority": "high", "extra": None})
    assert set(found) == {"callerId", "activePeriod", "callLists", "ivr", "priority", "extra"}


@pytest.mark.parametrize("document", [None, [], "campaign", 7])
def test_no_campaign_at_all(document: object) -> None:
    assert set(problems(parse_campaign, document)) == {""}


def test_two_rules_for_one_status_are_told_which() -> None:
    rule = {"status": "RS_BUSY", "retryAfter": 1, "maxAttempts": 1}
    other = {**rule, "extStatus": "X"}
    found = problems(parse_campaign, {**CAMPAIGN, "rescheduleRules": [rule, other, other]})
    assert found == {"rescheduleRules": "rule 2 is a second one for RS_BUSY/X"}


@pytest.mark.parametrize(("end", "seconds"), [("24:00", 86_400), ("24:00:00", 86_400), ("09:00:01", 32_401)])
def test_the_end_of_a_period(end: str, seconds: int) -> None:
    period = {"startTime": "09:00", "endTime": end, "weekDays": [1]}
    campaign = parse_campaign({**CAMPAIGN, "activePeriod": period}).noun(CampaignId(1), "UTC")
    assert campaign.active_period.end_seconds == seconds


@given(st.decimals("0.01", "100", places=2))
def test_the_boost_is_exact_decimal_text(boost: Any) -> None:
    document = {**CAMPAIGN, "endpoint": {"type": "queue", "queue": "q", "boostFactor": float(boost)}}
    text = parse_campaign(document).noun(CampaignId(1), "UTC").endpoint.boost_factor
    assert type(boost)(text) == boost


def test_missing_names() -> None:
    definition = parse_campaign(CAMPAIGN)
    assert missing(definition, {1}, {"TUxw53xCBf"}) == []
    assert [one.place for one in missing(definition, set(), set())] == ["callLists.0", "ivr"]


@pytest.mark.parametrize("attributes", [[{"name": "who", "value": "Eva"}], {"who": "Eva"}])
def test_attributes_as_list_or_object(attributes: object) -> None:
    row = parse_contact({"number": "601", "attributes": attributes})
    assert row.attributes == {"who": "Eva"}
    assert parse_row(row.text()) == row
    assert row.public() == {"number": "601", "attributes": {"who": "Eva"}}


def test_no_attributes_are_no_json() -> None:
    row = parse_contact({"number": "601", "attributes": []})
    assert row.text() == "601"
    assert row.public() == {"number": "601", "attributes": []}


def test_what_asterisk_cannot_read_is_refused() -> None:
    with pytest.raises(Invalid, match=r"U\+0000"):
        parse_contact({"number": "601", "attributes": {"note": "a\0b"}})
    with pytest.raises(Invalid, match=r"U\+0000"):
        parse_row('{"number":"601","attributes":{"note":"a\\u0000b"}}')


@pytest.mark.parametrize("value", ["", "Eva", "\x01\r\n\x7f", 1, -1.5, True, False, 2**53])
def test_values_come_back_as_they_went(value: object) -> None:
    row = parse_row(parse_contact({"number": "1", "attributes": {"x": value}}).text())
    assert row is not None
    assert row.attributes == {"x": value}
    assert type(row.attributes["x"]) is type(value)


@pytest.mark.parametrize(
    "row",
    [
        {"number": 601},
        {"number": ""},
        {"number": "6" * 65},
        {"number": "601", "extra": 1},
        {"number": "601", "attributes": {"a b": "x"}},
        {"number": "601", "attributes": {"a" * 41: "x"}},
        {"number": "601", "attributes": {"a": None}},
        {"number": "601", "attributes": {"a": [1]}},
        {"number": "601", "attributes": {"a": "x" * 1001}},
        {"number": "601", "attributes": [{"name": "a"}]},
        {"number": "601", "attributes": [{"name": "a", "value": 1}, {"name": "a", "value": 2}]},
        {"number": "601", "attributes": [{"name": 1, "value": 1}]},
        {"number": "601", "attributes": "x"},
        [],
    ],
)
def test_refused_contacts(row: object) -> None:
    assert problems(parse_contact, row)
    assert problems(parse_row, json.dumps(row)) if isinstance(row, dict) else True


def test_a_row_is_at_most_four_kilobytes() -> None:
    big = {"number": "1", "attributes": {f"a{n}": "x" * 1000 for n in range(5)}}
    with pytest.raises(Invalid, match="4096"):
        parse_contact(big).text()
    assert "" in problems(parse_row, json.dumps(big))


def test_struck_out_and_broken_rows() -> None:
    assert parse_row("-") is None
    assert "" in problems(parse_row, "{")
    assert "" in problems(parse_row, '{"number": "1"} trailing')


@given(st.text())
def test_any_text_is_a_row_or_refused(text: str) -> None:
    try:
        row = parse_row(text)
    except Invalid:
        return
    assert row is None or row.number


def test_ivrs() -> None:
    assert json.loads(parse_ivr(FLOW).text()) == FLOW
    place = {"name": "x", "dialplan": {"context": "ivr", "extension": "100"}}
    assert json.loads(parse_ivr(place).text()) == place
    assert problems(parse_ivr, {**FLOW, **place}) == {
        "": "an IVR has either blocks (a flow) or a dialplan place"
    }
    assert problems(parse_ivr, {"name": "x", "blocks": {}}) == {"": "a flow names the block it starts with"}
    assert set(problems(parse_ivr, {"name": "x", "dialplan": {"context": "a b"}})) == {
        "dialplan.context",
        "dialplan.extension",
    }


def test_queued_commands() -> None:
    assert parse_command('{"campaign": 7, "command": "start"}').by == "redis"
    assert set(problems(parse_command, '{"campaign": "7", "command": "go"}')) == {"campaign", "command"}
    assert "" in problems(from_json, "{")
