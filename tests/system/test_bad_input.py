"""What is hostile or broken comes in by every door; nothing of it leaves by the telephone, and nothing stops
the campaign that is dialed meanwhile. The world's log is the judge of what was dialed."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import number
from tests.lab.lab import Lab
from tests.rig import ALL_DAY, HANG_UP, HELLO, Rig, serial

pytestmark = [pytest.mark.lab, pytest.mark.system]

TOML = """
[trunks.wide]
dial_string = "PJSIP/${num}@carrier"
capacity = 3000
[trunks.wire]
dial_string = "PJSIP/${num}@sipp"
"""

# Each of these would mean something to Asterisk, to a dialplan, to a shell or to SIP.
ESCAPES = [
    "100&PJSIP/1",
    "${SHELL(id)}",
    "$[1+1]",
    "1234\n5678",
    "1234\r\nX-Evil: 1",
    "1234\x005678",
    "1" * 300,
    "\u0661\u0662\u0663\u0664\u0665",
    "\uff11\uff12\uff13\uff14",
    "1001@other",
    "PJSIP/1001",
    "Local/1001@from-internal",
    "1001,30",
    "1001;phone-context=x",
    "1001|30",
    "1001?1002:1003",
    "*43",
    "43#",
    "+",
    "++4912",
    "12+34",
    "%31%31%32",
]
EMERGENCY = ["112", "911", "155", "1-1-2", "(911)", "1.5.5", "+112", "+ 911", "1\u00a01\u00a02", "1/5/5"]
REFUSABLE = [*ESCAPES, *EMERGENCY]


@pytest.fixture(scope="module")
def steady(rig: Rig) -> Iterator[int]:
    """A good campaign that is dialed all the while."""
    contacts = [number.rejects(404, serial=serial()) for _ in range(3000)]
    campaign = rig.campaign(contacts, trunk="wide", callsPerSecond=10)
    rig.until(lambda: rig.results(campaign), 10, "the steady campaign dials")
    yield campaign
    rig.command(campaign, "remove")


@pytest.fixture
def unharmed(rig: Rig, steady: int) -> Iterator[None]:
    """Whatever the test does: the other campaign never pauses for more than 1.5 s, by the world's log."""
    began = time.time()
    before = rig.redis.xlen(rig.key(f"campaign:{steady}:results"))
    yield
    assert rig.process is not None
    assert rig.process.poll() is None, rig.log()[-5:]
    rig.until(
        lambda: rig.redis.xlen(rig.key(f"campaign:{steady}:results")) >= before + 3,
        3,
        "the other campaign is dialed on",
    )
    numbers = [item["number"] for item in rig.results(steady)]
    instants = [began, *(c.invited_at for c in rig.world_calls(numbers) if c.invited_at > began)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(instants)]
    assert max(gaps) < 1.5, gaps


@pytest.fixture(scope="module", autouse=True)
def nothing_else_left(rig: Rig, lab: Lab) -> Iterator[None]:
    """Over the whole module: every number the world was called on is one of ours, of twelve digits."""
    began = time.time()
    yield
    dialled = {call.dialled for call in lab.world_calls() if call.invited_at >= began}
    assert [one for one in dialled if not (one.isascii() and one.isdigit() and len(one) == 12)] == []


def good() -> str:
    return number.rejects(404, serial=serial())


# --- numbers, by every door ---


@pytest.mark.usefixtures("unharmed")
def test_a_bad_row_of_a_csv_is_named_by_line_and_reason_and_the_rest_is_dialed(
    rig: Rig, tmp_path: Path
) -> None:
    first, second, third = good(), good(), good()
    file = tmp_path / "people.csv"
    file.write_text(
        f'number,name,note\n{first},Ann,x\n100&PJSIP/1,Eve,x\n{second},Bob,"two\nlines"\n'
        f"112,Eve,x\n\n{'1' * 300},Eve,x\n{third},{'N' * 2000},x\n{third},Cid,x\n"
    )
    done = rig.cli("list", "create", "people", str(file))
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"list {done.stdout.strip()}: 3 rows written, 0 repeats dropped",
        "4 rows refused:",
        "  people.csv:3: number: this is not a telephone number of 2 to 20 digits",
        "  people.csv:6: number: emergency numbers are never dialed",
        "  people.csv:8: number: this is not a telephone number of 2 to 20 digits",
        "  people.csv:9: attributes.name: must be a text of at most 1000 characters, a number, true or false",
    ]
    campaign = rig.campaign(callLists=[int(done.stdout)], trunk="wide")
    results = rig.completed(campaign)
    assert sorted(item["number"] for item in results) == sorted([first, second, third])
    assert {item["status"] for item in results} == {"RS_NUMBER"}
    assert [item["attributes"] for item in results if item["number"] == second] == [
        {"name": "Bob", "note": "two\nlines"}
    ]


@pytest.mark.usefixtures("unharmed")
def test_what_could_escape_is_refused_by_every_command(rig: Rig, tmp_path: Path) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    contact, later = good(), good()
    file, more = tmp_path / "escapes.csv", tmp_path / "more.csv"
    rows = "".join(f"{quoted(text)}\n" for text in REFUSABLE)
    file.write_text(f"number\n{rows}{contact}\n", newline="")
    more.write_text(f"number\n{rows}{later}\n", newline="")
    created = rig.cli("list", "create", "escapes", str(file))
    call_list = created.stdout.strip()
    assert f"{len(REFUSABLE)} rows refused:" in created.stderr
    appended = rig.cli("list", "append", call_list, str(more))
    assert f"{len(REFUSABLE)} rows refused:" in appended.stderr
    exported = rig.cli("list", "export", call_list)
    assert exported.stdout.split() == ["number", contact, later]

    strict = rig.cli("list", "import", call_list, str(more), "--strict")
    assert strict.returncode == 1
    assert strict.stderr.splitlines() == [
        "refused:",
        "  more.csv:2: number: this is not a telephone number of 2 to 20 digits",
    ]
    assert rig.cli("list", "export", call_list).stdout == exported.stdout

    entries = rig.cli("dnc", "import", str(file))
    assert entries.returncode == 1
    assert f"{len(REFUSABLE)} rows refused:" in entries.stderr
    assert rig.redis.hkeys(rig.key("dnc:all")) == [contact]
    rig.redis.hdel(rig.key("dnc:all"), contact)


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("text", ["100&PJSIP/1", "*43", "+112"])
def test_the_test_call_and_the_do_not_call_list_refuse_what_is_no_number(rig: Rig, text: str) -> None:
    campaigns = rig.redis.scard(rig.key("campaigns"))
    ivr = rig.ivr(HANG_UP)
    called = rig.cli("call", text, "--ivr", ivr)
    assert called.returncode == 1
    assert called.stderr.startswith("refused:\n  number: ")
    added = rig.cli("dnc", "add", text)
    assert added.returncode == 1
    assert added.stderr.startswith("refused:\n  number: ")
    assert rig.redis.scard(rig.key("campaigns")) == campaigns


@pytest.mark.usefixtures("unharmed")
def test_rows_pushed_by_hand_are_refused_with_their_reason_and_the_rest_is_dialed(rig: Rig) -> None:
    first, last = good(), good()
    as_objects = [json.dumps({"number": text}) for text in REFUSABLE]
    rows = [first, *REFUSABLE, *as_objects, last]
    campaign = rig.campaign(rows, trunk="wide")
    results = rig.completed(campaign)
    assert sorted((item["number"], item["status"]) for item in results) == [
        (first, "RS_NUMBER"),
        (last, "RS_NUMBER"),
    ]
    stats = json.loads(rig.cli("campaign", "stats", str(campaign)).stdout)
    assert [(one["row"], one["text"]) for one in stats["refusedRows"]] == [
        (index, text[:200]) for index, text in enumerate(rows) if text not in (first, last)
    ]
    reasons = {one["row"]: one["reason"] for one in stats["refusedRows"]}
    assert all(reason.startswith("number: ") for reason in reasons.values())
    emergency = {rows.index(text) for text in EMERGENCY}
    assert {row for row, reason in reasons.items() if "emergency" in reason} >= emergency
    assert stats["numbers"] == {
        "total": len(rows),
        "waiting": 0,
        "scheduled": 0,
        "live": 0,
        "closed": 2,
        "refused": len(rows) - 2,
    }


@pytest.mark.usefixtures("unharmed")
def test_a_row_rewritten_after_it_was_read_is_not_dialed(rig: Rig) -> None:
    blocker = number.rings_out(serial())
    contacts = [good() for _ in REFUSABLE]
    campaign = rig.campaign([blocker, *contacts], trunk="wide", maxChannels=1)
    rig.until(
        lambda: rig.contacts(campaign)["live"] == 1 and rig.contacts(campaign)["fresh"] == len(contacts),
        10,
        "the rows were read",
    )
    rig.command(campaign, "pause")
    rig.until(lambda: rig.state(campaign)["state"] == "PAUSED", 5, "it pauses")
    rig.until(lambda: any(one["campaign"] == campaign for one in rig.logged("campaign stands")), 5, "it stands")
    call_list = rig.definition(campaign)["callLists"][0]
    for row, text in enumerate(REFUSABLE, 1):
        rig.redis.lset(f"{{dialer:list:{call_list}}}:rows:1", row, text)
    rig.define(campaign, rig.definition(campaign) | {"maxChannels": 50})
    rig.command(campaign, "unpause")
    rig.until(lambda: len(rig.results(campaign)) == len(REFUSABLE), 10, "all of them have a result")
    results = rig.results(campaign)
    assert sorted((item["number"], item["status"]) for item in results) == sorted(
        (text, "RS_BLACKLIST") for text in REFUSABLE
    )
    assert all(item["extStatus"] for item in results)
    assert {item["originatedAt"] for item in results} == {None}
    assert rig.world_calls(contacts) == []
    rig.command(campaign, "remove")


# --- the caller's number ---

BAD_CALLER_IDS = [
    "",
    "1\r\nX-Evil: 1",
    "123\n",
    "12\x003",
    "12\x7f3",
    "\x8512",
    "\u202812",
    '"x\\" <sip:evil@example.com>" <12>',
    '"x\\" <12>',
    '"unclosed <12>',
    "Ann <12",
    "<>",
    "<sip:evil@example.com>",
    "12>,<sip:evil@example.com",
    "12;phone-context=x",
    "12@example.com",
    "%0d%0aX-Evil: 1",
    "${SHELL(id)}",
    '"${SHELL(id)}" <12>',
    "Ann `id` <12>",
    "\u0661\u0662",
    "1" * 81,
]
GOOD_CALLER_IDS = {
    "123456789": "From: <sip:123456789@",
    "+420 123 456": "From: <sip:+420123456@",
    "Ann O'Neil <123>": 'From: "Ann O\'Neil" <sip:123@',
    '"Müller & Söhne (CZ), s.r.o." <+420123>': 'From: "Müller & Söhne (CZ), s.r.o." <sip:+420123@',
}


@pytest.mark.usefixtures("unharmed")
def test_a_caller_id_that_is_more_than_name_and_number_is_refused_at_both_doors(
    rig: Rig, tmp_path: Path
) -> None:
    contact = good()
    broken = {text: rig.campaign([contact], callerId=text, trunk="wide") for text in BAD_CALLER_IDS}
    for text, campaign in broken.items():
        rig.reaches(campaign, "INVALID")
        assert rig.state(campaign)["reason"].startswith("callerId: "), text
    file = tmp_path / "campaign.json"
    file.write_text(json.dumps(rig.definition(broken["12;phone-context=x"])))
    created = rig.cli("campaign", "create", str(file))
    assert created.returncode == 1
    assert created.stderr.startswith("refused:\n  callerId: ")
    called = rig.cli("call", contact, "--ivr", rig.ivr(HANG_UP), "--caller-id", "12\r\nX-Evil: 1")
    assert called.returncode == 1
    assert called.stderr.startswith("refused:\n  callerId: ")
    assert rig.world_calls([contact]) == []


def test_of_a_campaign_only_its_caller_id_reaches_sip(rig: Rig, lab: Lab) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind(("127.0.0.1", lab.sipp_port))
        wire.settimeout(5)
        contacts = {good(): text for text in GOOD_CALLER_IDS}
        campaigns = [
            rig.campaign([contact], name="evil\u2028name", callerId=text, trunk="wire")
            for contact, text in contacts.items()
        ]
        seen: dict[str, str] = {}
        while len(seen) < len(contacts):
            packet = wire.recv(65535).decode()
            if packet.startswith("INVITE sip:"):
                seen[packet[len("INVITE sip:") :].partition("@")[0]] = packet
        for campaign in campaigns:
            rig.command(campaign, "remove")
    for contact, text in contacts.items():
        headers = seen[contact].partition("\r\n\r\n")[0].split("\r\n")
        assert [one for one in headers if one.startswith(GOOD_CALLER_IDS[text])], headers
        assert "evil" not in seen[contact]


# --- definitions ---

TEN_MISTAKES: dict[str, Any] = {
    "name": "",
    "callerId": 5,
    "activePeriod": {"startTime": "9:00", "endTime": "25:00", "weekDays": [0, 1]},
    "callLists": [-1],
    "rescheduleRules": [{"status": "RS_MAYBE", "retryAfter": -1, "maxAttempts": 1}],
    "ivr": "no such/ivr",
    "maxChannels": 0,
}
TEN_PLACES = [
    "name",
    "callerId",
    "activePeriod.startTime",
    "activePeriod.endTime",
    "activePeriod.weekDays.0",
    "callLists.0",
    "rescheduleRules.0.status",
    "rescheduleRules.0.retryAfter",
    "ivr",
    "maxChannels",
]


@pytest.mark.usefixtures("unharmed")
def test_a_definition_with_ten_mistakes_lists_all_ten_with_their_places(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "campaign.json"
    file.write_text(json.dumps(TEN_MISTAKES))
    created = rig.cli("campaign", "create", str(file))
    assert created.returncode == 1
    first, *problems = created.stderr.splitlines()
    assert first == "refused:"
    assert [line.strip().partition(": ")[0] for line in problems] == TEN_PLACES
    campaign = rig.campaign([])
    rig.define(campaign, TEN_MISTAKES)
    rig.until(lambda: "name: " in rig.state(campaign).get("reason", ""), 5, "the daemon refuses it")
    reason = rig.state(campaign)["reason"]
    assert [part.partition(": ")[0] for part in reason.split("; ")] == TEN_PLACES
    rig.command(campaign, "remove")


DEEP = "[" * 100_000 + "]" * 100_000
NOT_A_DEFINITION = [
    "",
    "null",
    "[]",
    '"text"',
    "5",
    "NaN",
    "{",
    '{"name": NaN}',
    '{"name": "\\ud800"}',
    DEEP,
    '{"name": ' + DEEP + "}",
    "{" + ",".join(f'"field{n}": 0' for n in range(20_000)) + "}",
    json.dumps({"callLists": ["x"] * 100_000}),
    json.dumps({"name": "n" * 5_000_000}),
    json.dumps({"rescheduleRules": [{"status": f"S{n}"} for n in range(20_000)]}),
]
WRONG: list[object] = [
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    -0.5,
    "",
    "\x00",
    "x" * 10_000,
    [],
    [[]],
    [None],
    {},
    {"type": {}},
]


@pytest.mark.usefixtures("unharmed")
def test_hostile_definitions_make_their_campaign_invalid_and_nothing_else(rig: Rig) -> None:
    campaigns = {}
    for text in NOT_A_DEFINITION:
        campaigns[rig.campaign([], start=False)] = text
    for campaign, text in campaigns.items():
        rig.define(campaign, text)
    for campaign, text in campaigns.items():
        rig.reaches(campaign, "INVALID")
        reason = rig.state(campaign)["reason"]
        assert reason
        assert len(reason) < 10_000, f"{text[:40]!r}: a reason is for a person to read"
    lines = [one for one in rig.logged("campaign invalid") if one["campaign"] in campaigns]
    assert all(len(json.dumps(line)) < 20_000 for line in lines)
    for campaign in campaigns:
        rig.define(campaign, "{}")  # the large ones have been read long enough


def complete_definition(rig: Rig) -> dict[str, Any]:
    return {
        "name": "complete",
        "callerId": "123",
        "activePeriod": dict(ALL_DAY),
        "callLists": [rig.call_list([])],
        "rescheduleRules": [
            {"status": "RS_BUSY", "retryAfter": 5, "maxAttempts": 1, "extStatus": "X", "retryMode": "fixed"}
        ],
        "ivr": rig.ivr(HANG_UP),
        "endpoint": {
            "type": "phone",
            "boostFactor": 1.1,
            "maxWaitingCalls": 2,
            "queue": "green",
            "pacing": "boost",
            "maxAbandonRate": 0.03,
            "abandonWindow": "day",
            "abandonAfter": 2,
            "maxLinesPerAgent": 10,
        },
        "timezone": "UTC",
        "trunk": "wide",
        "priority": 10,
        "maxChannels": 50,
        "callsPerSecond": 5,
        "dialTimeout": 30,
        "maxCallDuration": 60,
        "maxTotalAttempts": 5,
        "whenDone": "wait",
        "webhook": "http://127.0.0.1/",
    }


def places_of(value: object, before: str = "") -> Iterator[str]:
    if before:
        yield before
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places_of(inner, f"{before}.{name}" if before else name)
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places_of(inner, f"{before}.{index}")


def replaced(document: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    fresh: Any = json.loads(json.dumps(document))
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    at = fresh
    for part in path:
        at = at[part]
    at[last] = value
    assert isinstance(fresh, dict)
    return fresh


@pytest.mark.usefixtures("unharmed")
def test_a_wrong_type_or_an_absurd_value_in_any_field_is_named_by_its_place(rig: Rig) -> None:
    document = complete_definition(rig)
    campaigns: dict[int, tuple[str, object]] = {}
    good_one = rig.campaign([], start=False)
    rig.define(good_one, document)
    for place in places_of(document):
        for value in WRONG:
            campaign = rig.campaign([], start=False)
            rig.redis.set(
                rig.key(f"campaign:{campaign}:definition"), json.dumps(replaced(document, place, value))
            )
            campaigns[campaign] = place, value
    rig.redis.publish(rig.key("wake"), "campaigns")
    # What is a legal value after all, and no other one, leaves the campaign as it is.
    harmless: dict[str, list[object]] = {
        "activePeriod.weekDays": [[]],
        "callLists": [[]],
        "rescheduleRules": [[]],
        "rescheduleRules.0.retryAfter": [0],
        "rescheduleRules.0.maxAttempts": [0],
        "rescheduleRules.0.extStatus": [None],
        "endpoint": [{}],
        "endpoint.queue": [None],
        "endpoint.maxWaitingCalls": [0],
        "endpoint.abandonAfter": [0],
        "timezone": [None],
        "trunk": [None],
        "callsPerSecond": [None],
        "maxTotalAttempts": [None],
        "webhook": [None],
    }
    legal = {(place, json.dumps(value)) for place, values in harmless.items() for value in values}
    expected = {
        campaign for campaign, (place, value) in campaigns.items() if (place, json.dumps(value)) not in legal
    }
    states: dict[int, dict[str, str]] = {}

    def settled() -> bool:
        states.update({campaign: rig.state(campaign) for campaign in expected})
        return all(state.get("state") == "INVALID" for state in states.values())

    try:
        rig.until(settled, 15, "all of them are INVALID")
    finally:
        not_refused = [campaigns[one] for one in expected if rig.state(one).get("state") != "INVALID"]
        assert not_refused == []
    refused = [campaigns[one] for one in campaigns.keys() - expected if rig.state(one)]
    assert refused == []
    assert rig.state(good_one) == {}
    for campaign in expected:
        place, value = campaigns[campaign]
        named = [part.partition(": ")[0] for part in states[campaign]["reason"].split("; ")]
        assert any(one == place or one.startswith(f"{place}.") for one in named), (place, value, named)
    forget(rig, [*campaigns, good_one])


def forget(rig: Rig, campaigns: list[int]) -> None:
    """Take campaigns that never ran out of the snapshot again."""
    rig.redis.srem(rig.key("campaigns"), *campaigns)


@pytest.mark.usefixtures("unharmed")
def test_hostile_ivr_documents_make_the_campaigns_that_name_them_invalid(rig: Rig) -> None:
    bye = {"type": "hangup"}
    documents = [
        *NOT_A_DEFINITION,
        json.dumps({"name": "x", "start": "a", "blocks": {"a": {"type": "goto", "next": "a"}}}),
        json.dumps({"name": "x", "start": "a", "blocks": {"a": bye, "b": bye}}),
        json.dumps({"name": "x", "start": ["a"], "blocks": {"a": bye}}),
        json.dumps({"name": "x", "start": "a", "blocks": {"a": {"type": {"type": "hangup"}}}}),
        json.dumps(
            {
                "name": "x",
                "start": "a",
                "blocks": {"a": {"type": "wait", "seconds": 1e300, "next": "b"}, "b": bye},
            }
        ),
        json.dumps(
            {
                "name": "x",
                "start": "a",
                "blocks": {"a": {"type": "play", "media": ["sound:../../etc/passwd"], "next": "b"}, "b": bye},
            }
        ),
        json.dumps({"name": "x", "start": "a", "blocks": [bye]}),
        json.dumps({"name": "x", "start": "0", "blocks": {str(n): bye for n in range(50_000)}}),
    ]
    campaigns = {}
    for text in documents:
        ivr = rig.ivr(HANG_UP)
        campaign = rig.campaign([good()], ivr=ivr, start=False, trunk="wide")
        rig.redis.hset(rig.key(f"ivr:{ivr}"), "document", text)
        rig.command(campaign, "start")
        campaigns[campaign] = text
    without = rig.ivr(HANG_UP)
    rig.redis.hdel(rig.key(f"ivr:{without}"), "document")
    rig.redis.hset(rig.key(f"ivr:{without}"), "note", "no document at all")
    campaigns[rig.campaign([good()], ivr=without, trunk="wide")] = "(none)"
    for campaign in campaigns:
        rig.reaches(campaign, "INVALID")
        assert "ivr" in rig.state(campaign)["reason"]
        assert len(rig.state(campaign)["reason"]) < 10_000
        assert rig.results(campaign) == []
    assert rig.cli("ivr", "list").returncode == 0, "one broken document hides none of the others"
    forget(rig, list(campaigns))
    for campaign in campaigns:
        rig.redis.hset(rig.key(f"ivr:{rig.definition(campaign)['ivr']}"), "document", json.dumps(HANG_UP))


@pytest.mark.usefixtures("unharmed")
def test_what_the_queue_of_commands_cannot_mean_is_dropped_and_the_next_command_is_obeyed(
    rig: Rig, steady: int
) -> None:
    campaign = rig.campaign([good()], trunk="wide", start=False)
    hostile: list[str | bytes] = [
        "",
        " ",
        "\n",
        "pause",
        "null",
        "{}",
        "[" * 50_000,
        DEEP,
        "x" * 1_000_000,
        b"\xff",
        b'{"campaign": 1, "command": "pause", "by": "\xff"}',
        b"\x00",
        f'{{"campaign": {steady}, "command": "explode"}}',
        f'{{"campaign": {steady}, "command": ["pause"]}}',
        f'{{"campaign": "{steady}", "command": "pause"}}',
        f'{{"campaign": {steady}.0, "command": "pause"}}',
        f'{{"campaign": {steady}, "command": "pause", "more": 1}}',
        f'{{"campaign": {steady}, "command": "pause", "by": {"9" * 400}}}',
        '{"campaign": -1, "command": "pause"}',
        '{"campaign": 1e400, "command": "pause"}',
        '{"campaign": NaN, "command": "pause"}',
        '{"campaign": 99999999999999999999999, "command": "start"}',
        '{"campaign": 999999, "command": "start"}',
        f'{{"campaign": {campaign}, "command": "pause"}}',  # well said, and not possible: it is NEW
    ]
    rig.redis.rpush(rig.key("commands"), *hostile)
    rig.command(campaign, "start")
    results = rig.completed(campaign, 10)
    assert len(results) == 1
    assert rig.redis.llen(rig.key("commands")) == 0
    assert rig.state(steady)["state"] == "RUNNING"


@pytest.mark.usefixtures("unharmed")
def test_a_do_not_call_entry_that_cannot_be_understood_forbids(rig: Rig) -> None:
    contacts: dict[str | bytes, str] = {
        text: good()
        for text in (
            "",
            "garbage",
            "null",
            "[]",
            "1",
            "{",
            '{"until": NaN}',
            '{"until": "yesterday"}',
            '{"until": null}',
            '{"until": [1]}',
            '{"until": 1e308}',
            '{"until": 99999999999999999999999}',
            '{"reason": {"a": 1}}',
            '{"reason": "' + "r" * 100_000 + '"}',
            DEEP,
            b"\xff\xfe",
        )
    }
    over: dict[str | bytes, str] = {
        '{"until": -1e308}': good(),
        '{"until": 1}': good(),
        '{"until": -5, "reason": 7}': good(),
    }
    rig.redis.hset(
        rig.key("dnc:all"), mapping={contact: text for text, contact in {**contacts, **over}.items()}
    )
    rig.redis.hset(rig.key("dnc:all"), mapping={"\n": "x", "&": DEEP})
    campaign = rig.campaign([*contacts.values(), *over.values()], trunk="wide")
    results = {item["number"]: item["status"] for item in rig.completed(campaign)}
    assert results == dict.fromkeys(contacts.values(), "RS_BLACKLIST") | dict.fromkeys(
        over.values(), "RS_NUMBER"
    )
    assert rig.world_calls(contacts.values()) == []
    listed = rig.cli("dnc", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert {one["number"] for one in json.loads(listed.stdout)} >= set(contacts.values())
    checked = rig.cli("dnc", "check", *contacts.values())
    assert checked.returncode == 0, checked.stderr
    assert "may be called" not in checked.stdout
    rig.redis.delete(rig.key("dnc:all"))


@pytest.mark.usefixtures("unharmed")
def test_hostile_rows_are_refused_and_the_rest_of_their_list_is_dialed(rig: Rig) -> None:
    first, twice, last = good(), good(), good()
    rows: list[str | bytes] = [
        first,
        "",
        " ",
        "{",
        "{}",
        "[]",
        "null",
        '{"number": 123456789012}',
        '{"number": null}',
        '{"number": ["1"]}',
        '{"number": NaN}',
        '{"number": "\\ud800"}',
        '{"number": "1\\u0000"}',
        '{"number": "123456", "more": 1}',
        '{"number": "123456", "attributes": "x"}',
        '{"number": "123456", "attributes": [{"name": "a"}]}',
        '{"number": "123456", "attributes": [{"name": "a", "value": 1}, {"name": "a", "value": 2}]}',
        '{"number": "123456", "attributes": {"a b": "x"}}',
        '{"number": "123456", "attributes": {"a": {"b": "c"}}}',
        '{"number": "123456", "attributes": {"a": 1e999}}',
        '{"number": "123456", "attributes": ' + DEEP + "}",
        '{"number": "' + "1" * 5_000_000 + '"}',
        "1" * 5_000_000,
        "[" * 1_000_000,
        b"\xff\xfe\x00",
        b'{"number": "12345\xff"}',
        f'{{"number": "112", "number": "{twice}"}}',  # the last one counts, as everywhere
        last,
    ]
    campaign = rig.campaign([], trunk="wide", start=False)
    call_list = rig.definition(campaign)["callLists"][0]
    rig.redis.rpush(f"{{dialer:list:{call_list}}}:rows:1", *rows)
    rig.command(campaign, "start")
    results = rig.completed(campaign)
    assert sorted(item["number"] for item in results) == [first, twice, last]
    stats = json.loads(rig.cli("campaign", "stats", str(campaign)).stdout)
    assert stats["numbers"]["refused"] == len(rows) - 3
    assert all(one["reason"] and len(one["reason"]) < 1000 for one in stats["refusedRows"])
    assert rig.cli("list", "show", str(call_list), "--count", "50").returncode == 0


@pytest.mark.usefixtures("unharmed")
def test_keys_of_a_wrong_type_and_foreign_members_harm_only_what_they_stand_for(rig: Rig) -> None:
    """Another program may write what is no JSON at all: a hash for a definition, a word for an id."""
    rig.redis.sadd(rig.key("campaigns"), "abc", "", "-1", "1e5", "0x10", "\u0661", "9" * 400)
    rig.redis.sadd(rig.key("lists"), "abc", "", "\u0661")
    rig.redis.sadd(rig.key("ivrs"), "", "a b", "x" * 100_000)
    a_hash, a_list, no_rows, no_ivr, no_state = (rig.campaign([], start=False, trunk="wide") for _ in range(5))
    rig.redis.delete(rig.key(f"campaign:{a_hash}:definition"), rig.key(f"campaign:{a_list}:definition"))
    rig.redis.hset(rig.key(f"campaign:{a_hash}:definition"), "name", "x")
    rig.redis.rpush(rig.key(f"campaign:{a_list}:definition"), "x")
    call_list = rig.call_list([])
    rig.redis.set(f"{{dialer:list:{call_list}}}:rows:1", "a text")
    rig.define(no_rows, rig.definition(no_rows) | {"callLists": [call_list]})
    ivr = rig.definition(no_ivr)["ivr"]
    rig.redis.delete(rig.key(f"ivr:{ivr}"))
    rig.redis.set(rig.key(f"ivr:{ivr}"), "a text")
    rig.redis.hset(rig.key(f"campaign:{no_state}:state"), mapping={"state": "DANCING", "run": "x"})
    for campaign in (a_hash, a_list, no_rows, no_ivr, no_state):
        rig.command(campaign, "start")
    contact = good()
    other = rig.campaign([contact], trunk="wide")
    assert [item["number"] for item in rig.completed(other)] == [contact]
    for campaign in (a_hash, a_list, no_ivr):
        rig.reaches(campaign, "INVALID")
    assert rig.redis.llen(rig.key("commands")) == 0
    assert rig.cli("campaign", "list").returncode == 0
    assert rig.cli("list", "list").returncode == 0
    rig.redis.srem(rig.key("campaigns"), "abc", "", "-1", "1e5", "0x10", "\u0661", "9" * 400)
    rig.redis.srem(rig.key("lists"), "abc", "", "\u0661")
    rig.redis.srem(rig.key("ivrs"), "", "a b", "x" * 100_000)
    forget(rig, [a_hash, a_list, no_rows, no_ivr, no_state])


def test_a_do_not_call_list_that_cannot_be_read_stops_everything_until_it_can(
    new_rig: Callable[[str], Rig],
) -> None:
    rig = new_rig(TOML)
    rig.start()
    stays = number.stays(serial=serial())
    contacts = [good() for _ in range(120)]
    campaign = rig.campaign([stays, *contacts], trunk="wide", callsPerSecond=30, flow=HELLO)
    rig.until(lambda: len(rig.results(campaign)) > 5, 10, "it dials")
    rig.redis.set(rig.key("dnc:all"), "not a hash")
    broken_at = time.time()
    rig.until(lambda: time.time() > broken_at + 1.5, 3, "a while")
    assert [call for call in rig.world_calls(contacts) if call.invited_at > broken_at + 0.1] == []
    assert rig.process is not None
    assert rig.process.poll() is None, rig.log()[-3:]
    rig.redis.delete(rig.key("dnc:all"))
    rig.completed(campaign, 30)
    missed = set(contacts) - {c.number for c in rig.world_calls(contacts)}
    assert missed == set(), [(i) for i in rig.results(campaign) if i["number"] in missed]
    assert len(rig.world_calls(contacts)) == len(contacts), "nobody skipped, nobody twice"


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("text", [DEEP, "1" * 5000, ""], ids=["deep", "long", "empty"])
def test_the_command_line_refuses_hostile_json_in_words(rig: Rig, text: str) -> None:
    for command in (("campaign", "create", "-"), ("ivr", "save", "-")):
        done = rig.cli(*command, stdin=text)
        assert done.returncode == 1
        assert done.stderr.startswith("refused:\n  -"), done.stderr[-300:]


@pytest.mark.usefixtures("unharmed")
def test_not_a_number_passes_no_check_of_the_command_line(rig: Rig) -> None:
    document = complete_definition(rig)
    for place in ("endpoint.boostFactor", "rescheduleRules.0.retryAfter"):
        text = json.dumps(replaced(document, place, float("nan")))
        done = rig.cli("campaign", "create", "-", stdin=text)
        assert done.returncode == 1, place
        assert "refused" in done.stderr
        assert place in done.stderr
