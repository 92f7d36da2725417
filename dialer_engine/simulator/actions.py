"""Which deed of the model an AMI action is, and what Asterisk answers. What belongs to a session is in `ami`.

Asterisk's pages: "AMI Actions". What is not here is answered as Asterisk answers what it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from dialer_engine.simulator.dialplan import WAITING, is_place
from dialer_engine.simulator.pbx import Pbx
from dialer_engine.simulator.queues import DeviceState, Member, Queue, QueueError
from dialer_engine.simulator.requests import Refused
from dialer_engine.simulator.sessions import UNKNOWN, Headers


class Asked:
    """An action's headers, whatever their case."""

    def __init__(self, headers: list[tuple[str, str]]) -> None:
        self.headers = headers

    def get(self, name: str) -> str:
        """Empty when it is not there; the first one when there are several."""
        return next(self.all(name), "")

    def all(self, name: str) -> Iterator[str]:
        return (value for each, value in self.headers if each.lower() == name.lower())

    def needs(self, name: str) -> str:
        """Raises Denied."""
        value = self.get(name)
        if not value:
            raise Denied(f"'{name}' not specified.")
        return value


class Denied(Exception):
    """The text is Asterisk's own."""


Reply = Iterator[Headers]
"""Messages without their ActionID; the first one is the response."""


def carry_out(pbx: Pbx, now: float, action: str, asked: Asked) -> list[Headers]:
    """Every message of the answer. Raises Denied."""
    act = ACTIONS.get(action.lower())
    if act is None:
        raise Denied(f"Invalid/unknown command: {action}. Use Action: ListCommands to show available commands.")
    try:
        return pbx.act(now, lambda: [*act(pbx, now, asked)])
    except QueueError as refused:
        raise Denied(str(refused)) from refused


def success(message: str) -> Headers:
    return [("Response", "Success"), ("Message", message)]


# Queues


def _queue_add(pbx: Pbx, now: float, asked: Asked) -> Reply:
    penalty = asked.get("Penalty")
    pbx.queues.add(
        asked.needs("Queue"),
        asked.needs("Interface"),
        asked.get("MemberName"),
        asked.get("StateInterface"),
        penalty=int(penalty) if penalty.isdecimal() else 0,
        paused=_is_true(asked.get("Paused")),
        reason=asked.get("Reason"),
    )
    yield success("Added interface to queue")


def _queue_remove(pbx: Pbx, now: float, asked: Asked) -> Reply:
    if not asked.get("Queue") or not asked.get("Interface"):
        raise Denied("Need 'Queue' and 'Interface' parameters.")
    pbx.queues.remove(asked.get("Queue"), asked.get("Interface"))
    yield success("Removed interface from queue")


def _queue_pause(pbx: Pbx, now: float, asked: Asked) -> Reply:
    if not asked.get("Interface") or not asked.get("Paused"):
        raise Denied("Need 'Interface' and 'Paused' parameters.")
    paused = _is_true(asked.get("Paused"))
    pbx.queues.pause(asked.get("Queue"), asked.get("Interface"), asked.get("Reason"), paused=paused)
    yield success(f"Interface {'' if paused else 'un'}paused successfully")


def _queue_status(pbx: Pbx, now: float, asked: Asked) -> Reply:
    wanted = asked.get("Member")
    rows: list[Headers] = []
    for queue in _queues(pbx, asked.get("Queue")):
        rows.append(_params(queue))
        rows += [_member(each) for each in queue.members.values() if wanted in ("", each.interface)]
        rows += _entries(queue, int(now))
    return _listed("Queue status will follow", rows, "QueueStatusComplete")


def _queue_reset(pbx: Pbx, now: float, asked: Asked) -> Reply:
    for queue in _queues(pbx, asked.get("Queue")):
        pbx.queues.reset(queue)
    yield success("Queue stats reset successfully")


def _params(queue: Queue) -> Headers:
    counts = queue.counts
    ended = counts.completed + counts.abandoned
    at_once = counts.completed_at_once + counts.abandoned_at_once
    return [
        ("Event", "QueueParams"),
        ("Queue", queue.name),
        ("Max", 0),
        ("Strategy", queue.rules.strategy),
        ("Calls", len(queue.callers)),
        ("Holdtime", counts.hold_time),
        ("TalkTime", counts.talk_time),
        ("Completed", counts.completed),
        ("Abandoned", counts.abandoned),
        ("ServiceLevel", 0),
        ("ServicelevelPerf", _percent(counts.completed_at_once, counts.completed)),
        ("ServicelevelPerf2", _percent(at_once, ended)),
        ("Weight", 0),
    ]


def _member(member: Member) -> Headers:
    return [
        ("Event", "QueueMember"),
        ("Queue", member.queue.name),
        ("Name", member.name),
        ("Location", member.interface),
        *member.headers(),
        ("Wrapuptime", 0),
    ]


def _entries(queue: Queue, now: int) -> Iterator[Headers]:
    for caller in queue.callers:
        channel = caller.channel
        yield [
            ("Event", "QueueEntry"),
            ("Queue", queue.name),
            ("Position", caller.position),
            ("Channel", channel.name),
            ("Uniqueid", channel.id),
            ("CallerIDNum", channel.caller["number"] or UNKNOWN),
            ("CallerIDName", channel.caller["name"] or UNKNOWN),
            ("ConnectedLineNum", channel.connected["number"] or UNKNOWN),
            ("ConnectedLineName", channel.connected["name"] or UNKNOWN),
            ("Wait", now - caller.since),
            ("Priority", 0),
        ]


def _queue_summary(pbx: Pbx, now: float, asked: Asked) -> Reply:
    return _listed(
        "Queue summary will follow",
        [_summary(queue, int(now)) for queue in _queues(pbx, asked.get("Queue"))],
        "QueueSummaryComplete",
    )


def _summary(queue: Queue, now: int) -> Headers:
    """Its idea of who is available knows no wrap-up."""
    free = (DeviceState.NOT_INUSE, DeviceState.UNKNOWN)
    members = queue.members.values()
    gone = (DeviceState.UNAVAILABLE, DeviceState.INVALID)
    return [
        ("Event", "QueueSummary"),
        ("Queue", queue.name),
        ("LoggedIn", sum(each.status not in gone for each in members)),
        ("Available", sum(each.status in free and not each.paused for each in members)),
        ("Callers", len(queue.callers)),
        ("HoldTime", queue.counts.hold_time),
        ("TalkTime", queue.counts.talk_time),
        ("LongestHoldTime", max((now - caller.since for caller in queue.callers), default=0)),
    ]


def _queues(pbx: Pbx, name: str) -> list[Queue]:
    return [queue for queue in pbx.queues.by_name.values() if name in ("", queue.name)]


def _listed(message: str, rows: list[Headers], complete: str) -> Reply:
    yield [("Response", "Success"), ("EventList", "start"), ("Message", message)]
    yield from rows
    yield [("Event", complete), ("EventList", "Complete"), ("ListItems", len(rows))]


# The PBX


def _user_event(pbx: Pbx, now: float, asked: Asked) -> Reply:
    """Every header but Action and UserEvent is handed on, its ActionID too."""
    more = [(name, value) for name, value in asked.headers if name.lower() not in ("action", "userevent")]
    pbx.tell_user_event(asked.get("UserEvent"), more)
    yield success("Event Sent")


def _get_config(pbx: Pbx, now: float, asked: Asked) -> Reply:
    """Only queues.conf is there."""
    if not asked.get("Filename"):
        raise Denied("Filename not specified")
    if asked.get("Filename") != "queues.conf":
        raise Denied("Config file not found")
    shared = "yes" if pbx.queues.shared_last_call else "no"
    sections = {"general": ["autofill=yes", f"shared_lastcall={shared}"]}
    sections |= {name: [*queue.rules.lines()] for name, queue in pbx.queues.by_name.items()}
    wanted = asked.get("Category")
    found = [name for name in sections if wanted in ("", name)]
    told: Headers = [("Response", "Success")]
    for number, name in enumerate(found):
        queue = pbx.queues.by_name.get(name)
        told.append((f"Category-{number:06d}", name))
        if queue is not None and queue.rules.template:
            told.append((f"Templates-{number:06d}", queue.rules.template))
        told += [(f"Line-{number:06d}-{place:06d}", line) for place, line in enumerate(sections[name])]
    yield told if found else [*told, ("", "No categories found")]


def _originate(pbx: Pbx, now: float, asked: Asked) -> Reply:
    """Always asynchronous."""
    variables = dict(each.partition("=")[::2] for each in asked.all("Variable"))
    wanted: dict[str, object] = {
        "endpoint": asked.needs("Channel"),
        "callerId": asked.get("CallerID"),
        "timeout": (int(asked.get("Timeout")) if asked.get("Timeout").isdecimal() else 30_000) // 1000,
        "variables": variables,
        "context": asked.get("Context") or "default",
        "extension": asked.get("Exten"),
    }
    if asked.get("Application").lower() == "wait":
        wanted |= {"context": WAITING, "extension": asked.get("Data")}
        if not is_place(WAITING, asked.get("Data")):
            raise Denied("Originate failed")
    try:
        pbx.originate(now, asked.get("ChannelId") or None, wanted)
    except Refused as refused:
        raise Denied("Originate failed") from refused
    yield success("Originate successfully queued")


def _is_true(text: str) -> bool:
    return text.lower() in ("yes", "true", "y", "t", "1", "on")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "0.0"


ACTIONS: Mapping[str, Callable[[Pbx, float, Asked], Reply]] = {
    "queueadd": _queue_add,
    "queueremove": _queue_remove,
    "queuepause": _queue_pause,
    "queuereset": _queue_reset,
    "queuestatus": _queue_status,
    "queuesummary": _queue_summary,
    "queuereload": lambda pbx, now, asked: iter([success("Queue reloaded successfully")]),
    "userevent": _user_event,
    "getconfig": _get_config,
    "originate": _originate,
}
