"""What of a recording is kept: two runs of one scenario on the same Asterisk give the same trace.

Everything is kept as it is, every field, with these exceptions, and no others:

| what | becomes |
|---|---|
| an id that the scenario gave | its label: `<call>`, `<app>`, `<hello>` (also where it is part of a text) |
| an id that Asterisk gave to a leg that a channel of ours dials | `<leg of call>` |
| the serial in a channel's name, PJSIP/carrier-0000001a | its channel's label, PJSIP/carrier-<call>; of a Local/ both
  halves take the first one's and keep ;1 and ;2 |
| an id that Asterisk gave to a bridge | `<bridge 1>`, counted in the order of their first events |
| an instant (2026-01-31T12:00:00.000+0000) | `<time>` |
| `asterisk_id`, `entity_id` that look like a MAC address | `<asterisk>` |
| `protocol_id`, unless it is empty | `<sip call id>` |
| values of MEASURED variables, unless they are empty | `<measured>` |
| the peer's state in a Dial of status "" or RINGING, Down or Ringing by chance | `<Down or Ringing>` |
| the state of a playback in the reply to `play`: how far it is by then | `<queued or playing or failed>` |
| the state in a hang-up request, Ring or Busy by chance | `<Ring or Busy>` |
| `duration_ms` of a key, if it is within KEY_MS | `<of a key>` |
| what the BUILD of this Asterisk is | its name in brackets |
| channels and applications of others in a list of all | left out; ours are sorted, as every list of ids is |
| events about channels or bridges of others, or about the state of the PBX (OF_THE_PBX) | left out |
| of AMI: what is about other queues, Fully Booted and the PBX's telephones | left out |
| of AMI: the lines of BY_CHANCE, instants and seconds | `<time>`, `<seconds>`, ... |
| of AMI: at the end of an agent's call | where its caller is: `<place>`; the agent's channel, gone or not: left out |
| an event heard twice, byte by byte the same (a channel followed by two subscriptions) | once, with `"<times>": 2` |

Order is kept per event socket and per channel (the channel that an event is about: of a Dial its peer, of a playback
its target). Between channels it is chance. Within one channel it is that of Asterisk, except between events that two
threads send independently of each other (`independent`): of these the order in which they came is chance, too,
and they are put into one normal order (the lexicographic normal form of a Mazurkiewicz trace: each time the
smallest of the events that nothing holds back). When an event came is not kept.

A message of AMI is the list of its lines. Events of AMI are kept in their order for each caller and for each member.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote

from .manager import Message
from .wire import Event, Exchange, Recording, Socket

Trace = dict[str, Any]

TIMES = "<times>"
KEY_MS = range(80, 301)
"""A key of 100 ms: 120 on an idle line, up to 200 while something is played."""
MEASURED = re.compile(r"RTPAUDIOQOS.*|BRIDGEPVTCALLID|(ANSWERED|DIALED|PROGRESS|RING)TIME(_MS)?")
"""What was measured, and a SIP call id."""
BUILD = ("date", "kernel", "machine", "options", "os", "user", "version")

OF_THE_PBX = ("ContactStatusChange", "DeviceStateChanged", "EndpointStateChange", "PeerStatusChange")

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}")
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_CHANNEL_NAME = re.compile(r"(?P<stem>.+)-(?P<serial>[0-9a-f]{8})(?P<half>;[12])?")
_LISTS_OF_ALL = ("/channels", "/applications")


BY_CHANCE = tuple(
    (re.compile(line), replacement)
    for line, replacement in (
        (r"Timestamp: \d+\.\d{6}", "Timestamp: <time>"),
        (r"(LastCall|LastPause|LoginTime): [1-9]\d{9}", r"\1: <time>"),
        (r"(\w*HoldTime|Holdtime|TalkTime|Wait|Uptime|LastReload): \d{1,6}", r"\1: <seconds>"),
        (r"RingTime: \d{1,2}000", "RingTime: <seconds>"),
        (r"Challenge: \d+", "Challenge: <challenge>"),
    )
)
"""Whole seconds are differences of a clock that ticks in between, or does not."""
_AT_WORK = re.compile(r"Status: [23]")


def trace(recording: Recording) -> Trace:
    """The trace of a recording: plain JSON, keys as in a kept file."""
    names = _Names(recording)
    exchanges = [_exchange(exchange, names) for exchange in recording.exchanges]
    sockets = {socket.name: _socket(socket, names) for socket in recording.sockets}
    if recording.queues is not None:
        exchanges += [_action(*action, names) for action in recording.actions]
        sockets["ami"] = _managed(recording, names)
    return {"exchanges": exchanges, "sockets": sockets}


def about(event: Event) -> str:
    """The channel an event is about; a bridge or an application when it is about no channel."""
    for key in ("channel", "peer", "bridge"):
        if key in event:
            return str(event[key]["id"])
    if "playback" in event:
        return str(event["playback"]["target_uri"]).removeprefix("channel:")
    return str(event.get("application", ""))


def independent(one: Event, other: Event) -> bool:
    """May two events of one channel come in either order?

    The thread that reads SIP sets the state Ringing and requests the hang-up of a call that is rejected. The thread
    that dials tells of Dial "" once the INVITE is sent, and of Dial RINGING when it reads of it. A Local/ channel's
    far half sets its own state Busy, while the near half's end requests its hang-up. Everything else is told by one
    thread, or by one that waits for the other: Dial BUSY comes after the request it follows from.
    """
    return _crosses(one, other) or _crosses(other, one)


def _crosses(one: Event, other: Event) -> bool:
    state = one["channel"].get("state") if one["type"] == "ChannelStateChange" else ""
    if other["type"] == "Dial":
        status = other.get("dialstatus")
        ringing = state == "Ringing" and status in _BEFORE_THE_END
        return ringing or (one["type"] == "ChannelHangupRequest" and status == "")
    return state == "Busy" and other["type"] == "ChannelHangupRequest"


_BEFORE_THE_END = ("", "RINGING")


def in_order(events: Sequence[Event]) -> list[Event]:
    """The normal form of one channel's events."""
    left, ordered = list(events), []
    while left:
        ready = [
            event
            for place, event in enumerate(left)
            if all(independent(before, event) for before in left[:place])
        ]
        chosen = min(ready, key=lambda event: (event["type"] != "Dial", json.dumps(event, sort_keys=True)))
        left.remove(chosen)
        ordered.append(chosen)
    return ordered


def _exchange(exchange: Exchange, names: _Names) -> Trace:
    reply = exchange.reply
    if exchange.method == "GET" and exchange.path in _LISTS_OF_ALL and isinstance(reply, list):
        reply = sorted((each for each in reply if names.owns(each)), key=names.sort_key)
    if exchange.method == "POST" and "/play/" in exchange.path and isinstance(reply, dict):
        reply = {key: _one_of(value, "queued", "playing", "failed") for key, value in reply.items()}
    said: Trace = {"request": f"{exchange.method} {unquote(exchange.path)}", "status": exchange.status}
    for key, value in (("query", exchange.query or None), ("body", exchange.body), ("reply", reply)):
        if value is not None:
            said[key] = value
    replaced: Trace = names.replaced(said)
    return replaced


def _socket(socket: Socket, names: _Names) -> Trace:
    heard: dict[str, Event] = {}
    for frame in socket.frames:
        if not names.concern(frame.event):
            continue
        if frame.text in heard:
            heard[frame.text][TIMES] = heard[frame.text].get(TIMES, 1) + 1
        else:
            heard[frame.text] = dict(frame.event)
    channels: dict[str, list[Event]] = {}
    for event in heard.values():
        channels.setdefault(names.replaced(about(event)), []).append(names.replaced(event))
    return {
        "application": names.replaced(socket.app),
        "ended": socket.ended,
        "events": {channel: in_order(events) for channel, events in sorted(channels.items())},
    }


def _action(action: str, asked: dict[str, str], replies: list[Message], names: _Names) -> Trace:
    """Of AMI, as an exchange."""
    said = [_lines(reply, names) for reply in replies]
    return {"request": f"AMI {action}", "status": 0, "body": names.replaced(asked), "reply": said}


def _managed(recording: Recording, names: _Names) -> Trace:
    events: dict[str, list[Event]] = {}
    for message in recording.managed:
        headers = dict(line.partition(": ")[::2] for line in message)
        told = _lines(message, names)
        subject = ""
        if headers.get("Queue") in (recording.queues or ()):
            subject = headers.get("Uniqueid") or f"{headers.get('Interface')} in {headers['Queue']}"
        elif names.replaced(headers.get("UserEvent", "")) != headers.get("UserEvent", ""):
            subject = headers["UserEvent"]
        if subject:
            kind = headers["Event"]
            events.setdefault(names.replaced(subject), []).append({"type": kind, "lines": told[1:]})
    return {"application": "AMI", "ended": "open", "events": dict(sorted(events.items()))}


def _lines(message: Message, names: _Names) -> Message:
    """Asterisk's own order of them is kept."""
    lines = [names.replaced(line) for line in message]
    for place, line in enumerate(lines):
        for pattern, replacement in BY_CHANCE:
            if pattern.fullmatch(line):
                lines[place] = pattern.sub(replacement, line)
    if lines[0] == "Event: AgentComplete":
        lines = [_moving.sub(r"\1: <place>", line) for line in lines if not line.startswith("Dest")]
    if any(_AT_WORK.fullmatch(line) for line in lines):
        lines = [re.sub(r"^InCall: [01]$", "InCall: <0 or 1>", line) for line in lines]
    return lines


_moving = re.compile(r"(Context|Exten|Priority): .*")


class _Names:
    """What belongs to the scenario, and what it is called in the trace."""

    def __init__(self, recording: Recording) -> None:
        self._labels = dict(recording.labels)
        events = [frame.event for socket in recording.sockets for frame in socket.frames]
        replies = [exchange.reply for exchange in recording.exchanges]
        self._find_far_halves([events, replies])
        self._find_legs(events)
        self._find_bridges(events)
        self._texts = {identifier: f"<{label}>" for identifier, label in self._labels.items()}
        for snapshot in _channels([events, replies]):
            self._take_name(snapshot)
        longest_first = sorted(self._texts, key=len, reverse=True)
        self._any = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")

    def owns(self, listed: dict[str, Any]) -> bool:
        """Is a channel or application of ours?"""
        return listed.get("id", listed.get("name")) in self._labels

    def concern(self, event: Event) -> bool:
        """Is it about a channel or a bridge of ours, or about none?"""
        if event["type"] in OF_THE_PBX:
            return False
        ids = {snapshot["id"] for snapshot in _channels(event)} | {about(event)}
        return any(identifier in self._labels for identifier in ids)

    def sort_key(self, value: Any) -> str:
        return json.dumps(self.replaced(value), sort_keys=True)

    def replaced(self, value: Any, key: str = "") -> Any:
        """The value as it stands in a trace."""
        if isinstance(value, dict):
            return {name: self.replaced(each, name) for name, each in _without_chance(value).items()}
        if isinstance(value, list):
            members = [self.replaced(each) for each in value]
            return sorted(members) if key.endswith("_ids") else members
        if isinstance(value, str):
            return self._replaced_text(value, key)
        if key == "duration_ms" and value in KEY_MS:
            return "<of a key>"
        return value

    def _replaced_text(self, text: str, key: str) -> str:
        if _INSTANT.fullmatch(text):
            return "<time>"
        if key in ("asterisk_id", "entity_id") and _MAC.fullmatch(text):
            return "<asterisk>"
        if key == "protocol_id" and text:
            return "<sip call id>"
        if key in BUILD:
            return f"<{key}>"
        return self._any.sub(lambda found: self._texts[found[0]], text)

    def _find_far_halves(self, said: Any) -> None:
        """Asterisk derives the far half's id when nobody gave one."""
        for snapshot in _channels(said):
            near = snapshot["id"].removesuffix(";2")
            if near != snapshot["id"] and near in self._labels:
                self._labels[snapshot["id"]] = f"{self._labels[near]};2"

    def _find_legs(self, events: Sequence[Event]) -> None:
        """A leg that a channel of ours dials is ours, and so is what it dials in turn."""
        dials = [event for event in events if event["type"] == "Dial" and "caller" in event]
        found = True
        while found:
            found = False
            for dial in dials:
                caller, peer = dial["caller"]["id"], dial["peer"]["id"]
                if caller in self._labels and peer not in self._labels:
                    self._label(peer, f"leg of {self._labels[caller]}")
                    found = True

    def _find_bridges(self, events: Sequence[Event]) -> None:
        entered = [event for event in events if "bridge" in event and "channel" in event]
        for event in entered:
            bridge = event["bridge"]["id"]
            if event["channel"]["id"] in self._labels and bridge not in self._labels:
                self._label(bridge, "bridge 1")

    def _label(self, identifier: str, label: str) -> None:
        taken, count, free = set(self._labels.values()), 1, label
        while free in taken:
            count += 1
            free = f"{label.removesuffix(' 1')} {count}"
        self._labels[identifier] = free

    def _take_name(self, snapshot: dict[str, Any]) -> None:
        """In place of its serial a channel's name has its label; the far half of a Local/ channel has the near
        one's."""
        named = _CHANNEL_NAME.fullmatch(snapshot["name"])
        if named is None or snapshot["id"] not in self._labels:
            return
        name = snapshot["name"].removesuffix(named["half"] or "")
        if named["half"] != ";2" or name not in self._texts:
            self._texts[name] = f"{named['stem']}-<{self._labels[snapshot['id']]}>"


def _without_chance(value: dict[str, Any]) -> dict[str, Any]:
    if value.get("value") and MEASURED.fullmatch(str(value.get("variable"))):
        return {**value, "value": "<measured>"}
    if "peer" in value and value.get("dialstatus") in _BEFORE_THE_END:
        state = _one_of(value["peer"].get("state"), "Down", "Ringing")
        return {**value, "peer": {**value["peer"], "state": state}}
    if value.get("type") == "ChannelHangupRequest":
        state = _one_of(value["channel"].get("state"), "Ring", "Busy")
        return {**value, "channel": {**value["channel"], "state": state}}
    return value


def _one_of(said: Any, *by_chance: str) -> Any:
    return f"<{' or '.join(by_chance)}>" if said in by_chance else said


def _channels(value: Any) -> Iterator[dict[str, Any]]:
    """Every channel snapshot within."""
    if isinstance(value, dict):
        if {"id", "name", "state", "dialplan"} <= value.keys():
            yield value
        for each in value.values():
            yield from _channels(each)
    elif isinstance(value, list):
        for each in value:
            yield from _channels(each)
