"""What a trace keeps, what it does not, and that no difference goes unnamed."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .compare import differences
from .normal import TIMES, in_order, trace
from .wire import Event, Exchange, Frame, Recording, Socket

STAMP = "2026-01-31T12:00:00.000+0000"


def channel(identifier: str, name: str = "PJSIP/carrier-0000001a", **more: object) -> dict[str, Any]:
    snapshot = {"id": identifier, "name": name, "state": "Down", "protocol_id": "abc", "creationtime": STAMP}
    return {**snapshot, "dialplan": {"exten": "s"}, **more}


def told(kind: str, identifier: str, **more: object) -> Event:
    return {"type": kind, "timestamp": STAMP, "application": "app77", "channel": channel(identifier), **more}


def dial(caller: str, peer: str, status: str = "") -> Event:
    parts = {"caller": channel(caller, "Local/1@x-00000002;2"), "peer": channel(peer, "PJSIP/carrier-0000001b")}
    return {"type": "Dial", "application": "app77", "dialstatus": status, **parts}


def traced(*events: Event, exchanges: tuple[Exchange, ...] = ()) -> Any:
    frames = [Frame(json.dumps(event), event) for event in events]
    labels = {"app77": "app", "c123": "call"}
    return trace(Recording(labels, list(exchanges), [Socket("app", "app77", frames)]))


def heard(*events: Event) -> dict[str, list[Event]]:
    channels: dict[str, list[Event]] = traced(*events)["sockets"]["app"]["events"]
    return channels


def test_ids_names_and_times_are_replaced_and_nothing_else() -> None:
    event = told("ChannelDestroyed", "c123", cause=17, cause_txt="User busy", invented={"new": [1, None]})
    assert heard(event) == {
        "<call>": [
            {
                "type": "ChannelDestroyed",
                "timestamp": "<time>",
                "application": "<app>",
                "cause": 17,
                "cause_txt": "User busy",
                "invented": {"new": [1, None]},
                "channel": {
                    "id": "<call>",
                    "name": "PJSIP/carrier-<call>",
                    "state": "Down",
                    "protocol_id": "<sip call id>",
                    "creationtime": "<time>",
                    "dialplan": {"exten": "s"},
                },
            }
        ]
    }


@pytest.mark.parametrize("stamp", ["2026-01-31T12:00:00+0000", "2026-01-31 12:00:00.000+0000", "", "soon"])
def test_an_instant_of_another_form_stays_and_is_a_difference(stamp: str) -> None:
    (event,) = heard({**told("StasisEnd", "c123"), "timestamp": stamp})["<call>"]
    assert event["timestamp"] == stamp


def test_an_empty_call_id_stays_empty() -> None:
    (event,) = heard({**told("StasisEnd", "c123"), "channel": channel("c123", protocol_id="")})["<call>"]
    assert event["channel"]["protocol_id"] == ""


def test_legs_that_we_dial_are_ours_and_calls_of_others_are_not() -> None:
    ours = dial("c123", "17.5")
    events = heard(
        told("ChannelStateChange", "17.5"), told("ChannelStateChange", "17.9"), ours, dial("17.9", "17.8")
    )
    assert list(events) == ["<leg of call>"]
    assert {event["type"] for event in events["<leg of call>"]} == {"Dial", "ChannelStateChange"}
    peer = next(event["peer"] for event in events["<leg of call>"] if event["type"] == "Dial")
    assert peer["name"] == "PJSIP/carrier-<leg of call>"


def test_events_of_every_kind_are_kept_if_they_are_ours() -> None:
    playback = {"id": "p1", "target_uri": "channel:c123", "state": "done"}
    bridge = {"id": "b1", "channels": []}
    ours = [
        told("ChannelDestroyed", "c123"),
        {"type": "PlaybackFinished", "application": "app77", "playback": playback},
        {"type": "ChannelEnteredBridge", "application": "app77", "bridge": bridge, "channel": channel("c123")},
        {"type": "BridgeCreated", "application": "app77", "bridge": bridge},
        {"type": "ApplicationReplaced", "application": "app77"},
        {"type": "NeverSeenBefore", "application": "app77"},
    ]
    of_others = [
        told("ChannelDestroyed", "c124"),
        {
            "type": "PlaybackFinished",
            "application": "app77",
            "playback": {**playback, "target_uri": "channel:c124"},
        },
        {"type": "BridgeCreated", "application": "app77", "bridge": {"id": "b2", "channels": []}},
        {"type": "DeviceStateChanged", "application": "app77", "device_state": {"name": "PJSIP/carrier"}},
    ]
    kept = [event["type"] for events in heard(*ours, *of_others).values() for event in events]
    assert sorted(kept) == sorted(event["type"] for event in ours)


def test_an_id_that_begins_as_ours_is_not_ours() -> None:
    events = heard(dial("c123", "17.5"), told("StasisEnd", "17.51"), told("StasisEnd", "c1234"))
    assert list(events) == ["<leg of call>"]
    legs = heard(dial("c123", "17.5"), dial("c123", "17.51"))
    assert {label: event["peer"]["id"] for label, (event,) in legs.items()} == {
        "<leg of call>": "<leg of call>",
        "<leg of call 2>": "<leg of call 2>",
    }


def test_what_is_heard_twice_is_counted() -> None:
    event = told("ChannelStateChange", "c123")
    assert [each.get(TIMES) for each in heard(event, event)["<call>"]] == [2]
    later = {**event, "timestamp": "2026-01-31T12:00:01.000+0000"}
    assert [each.get(TIMES) for each in heard(event, later)["<call>"]] == [None, None]


def test_lists_of_all_hold_only_ours_in_an_order_of_their_own() -> None:
    reply = [channel("c123"), channel("17.9"), channel("c123", state="Up")]
    exchanges = (
        Exchange("GET", "/channels", {}, None, 200, reply),
        Exchange("GET", "/channels", {}, None, 200, reply[::-1]),
    )
    first, second = traced(exchanges=exchanges)["exchanges"]
    assert first == second
    assert [each["id"] for each in first["reply"]] == ["<call>"] * 2


KINDS = ("Dial -", "Dial RINGING", "Dial BUSY", "Ringing", "Up", "Busy", "ChannelHangupRequest", "StasisStart")
CHANCE = (
    {"Dial -", "Ringing"},
    {"Dial RINGING", "Ringing"},
    {"Dial -", "ChannelHangupRequest"},
    {"Busy", "ChannelHangupRequest"},
)


def some(kind: str) -> Event:
    """An event in few words; equal ones differ by nothing but their place."""
    if kind in ("Ringing", "Up", "Busy"):
        return {"type": "ChannelStateChange", "kind": kind, "channel": {"state": kind}}
    name, _, status = kind.partition(" ")
    return {"type": name, "kind": kind, "dialstatus": status.replace("-", "")}


@given(st.lists(st.sampled_from(KINDS), max_size=10), st.randoms())
def test_the_order_of_chance_is_forgotten_and_no_other(kinds: list[str], chance: random.Random) -> None:
    other = list(kinds)
    for _ in range(30):
        place = chance.randrange(max(1, len(other) - 1))
        if set(other[place : place + 2]) in CHANCE:
            other[place : place + 2] = reversed(other[place : place + 2])
    events = [some(kind) for kind in kinds]
    assert in_order(events) == in_order([some(kind) for kind in other])
    for place in range(len(kinds) - 1):
        pair = kinds[place : place + 2]
        if len(set(pair)) == 2 and set(pair) not in CHANCE:
            swapped = [*kinds[:place], *reversed(pair), *kinds[place + 2 :]]
            assert in_order(events) != in_order([some(kind) for kind in swapped])


# Differences


CALL = (
    told("ChannelStateChange", "c123"),
    dial("c9", "c123", "RINGING"),
    told("StasisStart", "c123", args=["a"]),
    told("StasisEnd", "c123"),
    told("ChannelDestroyed", "c123", cause=19, tech_cause=480),
)
BUSY = Exchange("POST", "/channels/c123", {}, {"endpoint": "PJSIP/1@x"}, 500, {"error": "Allocation failed"})


def compared(*events: Event, exchanges: tuple[Exchange, ...] = (BUSY,)) -> list[str]:
    return differences("it", traced(*CALL, exchanges=(BUSY,)), traced(*events, exchanges=exchanges))


def test_equal_traces_do_not_differ() -> None:
    assert compared(*copy.deepcopy(CALL)) == []


@pytest.mark.parametrize(
    ("last", "difference"),
    [
        ({"cause": 16, "tech_cause": 480}, "field cause: recorded 19, simulated 16"),
        ({"cause": 19}, "field tech_cause: recorded 480, simulated nothing"),
        ({"cause": 19, "tech_cause": 480, "more": True}, "field more: recorded nothing, simulated True"),
        ({"cause": 19, "tech_cause": "480"}, "field tech_cause: recorded 480, simulated '480'"),
        ({"cause": 19, "tech_cause": 480.0}, "field tech_cause: recorded 480, simulated 480.0"),
    ],
)
def test_a_field_that_differs_is_named(last: dict[str, object], difference: str) -> None:
    place = "it: app, call, event 5 (ChannelDestroyed): "
    assert compared(*CALL[:-1], told("ChannelDestroyed", "c123", **last)) == [place + difference]


def test_an_event_that_is_missing_is_one_difference() -> None:
    assert compared(*CALL[:2], *CALL[3:]) == ["it: app, call, event 3 (StasisStart): recorded, not simulated"]


def test_an_event_too_many_is_one_difference() -> None:
    assert compared(*CALL, told("ChannelHangupRequest", "c123")) == [
        "it: app, call, after event 5: ChannelHangupRequest: not recorded, but simulated"
    ]


def test_another_order_is_one_difference() -> None:
    (difference,) = compared(*CALL[:3], CALL[4], CALL[3])
    assert difference.startswith("it: app, call, order: recorded ")
    assert difference.endswith("ChannelDestroyed, StasisEnd")


@pytest.mark.parametrize(
    ("status", "reply", "difference"),
    [
        (409, BUSY.reply, "field status: recorded 500, simulated 409"),
        (500, {"error": "No"}, "field reply.error: recorded 'Allocation failed', simulated 'No'"),
        (500, None, "field reply: recorded {'error': 'Allocation failed'}, simulated nothing"),
    ],
)
def test_a_reply_that_differs_is_named(status: int, reply: object, difference: str) -> None:
    other = Exchange(BUSY.method, BUSY.path, {}, BUSY.body, status, reply)
    assert compared(*CALL, exchanges=(other,)) == [f"it: request 1 (POST /channels/<call>): {difference}"]


def test_an_end_of_a_socket_that_differs_is_named() -> None:
    one, other = traced(*CALL), traced(*CALL)
    other["sockets"]["app"]["ended"] = "by Asterisk, code 1000"
    other["sockets"]["twin"] = other["sockets"]["app"]
    assert differences("it", one, other) == [
        "it: socket app: field ended: recorded 'open', simulated 'by Asterisk, code 1000'",
        "it: socket twin: not recorded",
    ]


# AMI


def managed(*messages: list[str], queues: tuple[str, ...] = ("red",)) -> Any:
    recording = Recording({"c123": "call"}, [], [], list(queues), list(messages))
    return trace(recording)["sockets"]["ami"]["events"]


def of_caller(event: str, *more: str, caller: str = "c123", queue: str = "red") -> list[str]:
    stamp = "Timestamp: 1795845873.953817"
    return [f"Event: {event}", "Privilege: agent,all", stamp, f"Uniqueid: {caller}", f"Queue: {queue}", *more]


def of_member(event: str, *more: str, queue: str = "red") -> list[str]:
    return [f"Event: {event}", f"Queue: {queue}", "Interface: PJSIP/1001", *more]


def test_what_ami_says_is_kept_for_each_caller_and_member_line_by_line() -> None:
    heard = managed(
        of_caller("QueueCallerJoin", "Count: 1"),
        of_member("QueueMemberStatus", "LastCall: 1795845873", "InCall: 1", "Status: 3"),
        of_caller("AgentConnect", "HoldTime: 12", "RingTime: 3"),
        of_member("QueueMemberStatus", "LastCall: 0", "InCall: 1", "Status: 1"),
    )
    both = ["Privilege: agent,all", "Timestamp: <time>", "Uniqueid: <call>", "Queue: red"]
    assert heard == {
        "<call>": [
            {"type": "QueueCallerJoin", "lines": [*both, "Count: 1"]},
            {"type": "AgentConnect", "lines": [*both, "HoldTime: <seconds>", "RingTime: 3"]},
        ],
        "PJSIP/1001 in red": [
            {
                "type": "QueueMemberStatus",
                "lines": [*_member, "LastCall: <time>", "InCall: <0 or 1>", "Status: 3"],
            },
            {"type": "QueueMemberStatus", "lines": [*_member, "LastCall: 0", "InCall: 1", "Status: 1"]},
        ],
    }


_member = ["Queue: red", "Interface: PJSIP/1001"]


def test_what_ami_says_of_other_queues_and_of_nobody_is_left_out() -> None:
    others = of_caller("QueueCallerJoin", queue="blue"), of_member("QueueMemberAdded", queue="blue")
    assert managed(*others, ["Event: FullyBooted"], ["Event: PeerStatus", "Peer: PJSIP/6001"]) == {}


def test_where_a_caller_is_at_the_end_of_an_agents_call_is_chance() -> None:
    first = of_caller(
        "AgentComplete", "Priority: 2", "Exten: red", "DestChannel: PJSIP/1001-00000001", "Reason: agent"
    )
    second = of_caller("AgentComplete", "Priority: 4", "Exten: red", "Reason: agent")
    other = of_caller("AgentComplete", "Priority: 4", "Exten: red", "Reason: caller")
    assert managed(first) == managed(second) != managed(other)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        (["Position: 1", "Count: 2"], "field lines[5]: recorded 'Count: 1', then 'Count: 2'"),
        (["Count: 1", "Position: 1"], "field lines[4]: recorded 'Position: 1', then 'Count: 1'"),
        (["Position: 1"], "field lines: recorded ["),
    ],
)
def test_a_header_that_is_another_or_elsewhere_or_gone_is_a_difference(
    changed: list[str], difference: str
) -> None:
    def whole(*more: str) -> Any:
        recording = Recording({"c123": "call"}, [], [], ["red"], [of_caller("QueueCallerJoin", *more)])
        return trace(recording)

    found = differences("a", whole("Position: 1", "Count: 1"), whole(*changed), "then")
    assert [line for line in found if line.startswith("a: ami, call, event 1 (QueueCallerJoin): " + difference)]
