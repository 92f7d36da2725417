"""AMI's messages in our words. They come from outside: what is missing, doubled or absurd is Malformed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from panoramisk.message import Message

from dialer_engine.ami.wire import Malformed
from dialer_engine.core.model import Agent, QueueName
from dialer_engine.core.told import (
    CallerAbandoned,
    CallerJoined,
    CallerLeft,
    Completed,
    Connected,
    DeviceState,
    Disposed,
    MemberGone,
    MemberSeen,
    Offered,
    Refused,
    Rules,
    Told,
)

LONGEST_TEXT = 256
LONGEST_SECONDS = 366 * 86400
DISPOSITION = "DISPOSITION"

_STAMP = re.compile(r"[0-9]{1,10}(\.[0-9]{1,6})?")
_SETTING = re.compile(r"Line-[0-9]+-[0-9]+", re.IGNORECASE)
_STATES = {state.value: state for state in DeviceState}
_YES = ("yes", "true", "y", "t", "1", "on")  # what Asterisk takes for true
_TICK_SECONDS = 0.01
"""time(2), which app_queue counts by, is behind the clock of stamps by up to a tick of the kernel."""


@dataclass(slots=True)
class PbxClock:
    """How far Asterisk's clock is from ours: never too little, so that nothing is believed to be over too early."""

    offset: timedelta = timedelta(0)

    def measure(self, message: Message, sent_at: datetime, heard_at: datetime) -> None:
        """From a stamped answer to a question that left at `sent_at`. A smaller offset is a better one, until it
        cannot be right any more."""
        stamp = stamped(message)
        if stamp is None:
            return
        most = heard_at - stamp
        if not sent_at - stamp <= self.offset <= most:
            self.offset = most

    def at(self, stamp: datetime) -> datetime:
        """By our clock."""
        return stamp + self.offset

    def whole_second(self, seconds: int) -> datetime:
        """When app_queue has seen this second begin, by our clock."""
        return self.at(datetime.fromtimestamp(seconds, UTC)) + timedelta(seconds=_TICK_SECONDS)


def stamped(message: Message) -> datetime | None:
    """When Asterisk sent it, by its clock (Ping, and every event with timestampevents)."""
    text = message.get("Timestamp")
    if not isinstance(text, str) or not _STAMP.fullmatch(text):
        return None
    return datetime.fromtimestamp(float(text), UTC)


def told(message: Message, at: datetime, clock: PbxClock) -> Told | Disposed | None:
    """What the event says that we heard at `at`; None: nothing for us. Raises Malformed."""
    make = _MAKERS.get(message.event)
    return make(message, at, clock) if make else None


def is_row_of_member(message: Message) -> bool:
    return bool(message.event == "QueueMember")


def queue_of(message: Message) -> QueueName:
    """Raises Malformed."""
    return QueueName(_text(message, "Queue"))


def entry(message: Message, at: datetime) -> CallerJoined:
    """A row about a caller. Raises Malformed."""
    waited = timedelta(seconds=_whole(message, "Wait", LONGEST_SECONDS, 0))
    return CallerJoined(queue_of(message), _text(message, "Uniqueid"), at - waited)


def member(message: Message, _: datetime, clock: PbxClock) -> MemberSeen:
    """An event or a row about a member. Raises Malformed. A state nobody has heard of is unknown: not available."""
    interface = _text(message, "Interface", "Location")
    last_call = _whole(message, "LastCall", 2**32, 0)
    state = _whole(message, "Status", 10**9)
    return MemberSeen(
        queue=queue_of(message),
        interface=interface,
        agent=Agent(_text(message, "StateInterface", default=interface)),
        name=_name(message) or interface,
        state=_STATES.get(state, DeviceState.UNKNOWN),
        paused=_whole(message, "Paused", 10**9) > 0,
        in_call=_whole(message, "InCall", 10**9, 0) > 0,
        last_call_at=clock.whole_second(last_call) if last_call else None,
        wrap_up_seconds=float(_whole(message, "Wrapuptime", LONGEST_SECONDS, 0)),
        ring_in_use=_whole(message, "Ringinuse", 10**9) > 0 if "Ringinuse" in message else None,
    )


def rules(message: Message, shared_last_call: bool) -> Rules | None:
    """Of one category of queues.conf, those of its templates included, as GetConfig gives it; None: it has no such."""
    settings = setting_lines(message)
    if not settings:
        return None
    wrap_up = settings.get("wrapuptime", "0")
    seconds = int(wrap_up) if wrap_up.isdecimal() and len(wrap_up) < 10 else 0  # as atoi does
    return Rules(
        wrap_up_seconds=float(min(seconds, LONGEST_SECONDS)),
        ring_in_use=settings.get("ringinuse", "yes").lower() in _YES,
        shared_last_call=shared_last_call,
    )


def shared_last_call(message: Message) -> bool:
    """Of the category general. In doubt it is shared: then agents wrap up in all their queues."""
    return setting_lines(message).get("shared_lastcall", "yes").lower() in _YES


def setting_lines(message: Message) -> dict[str, str]:
    """name -> value; the last of a name counts, as it does in Asterisk."""
    found = {}
    for header, line in message.items():
        if _SETTING.fullmatch(header) and isinstance(line, str):
            name, _, value = line.partition("=")
            found[name.strip().lower()] = value.strip()
    return found


def _gone(message: Message, _: datetime, __: PbxClock) -> MemberGone:
    return MemberGone(queue_of(message), _text(message, "Interface"))


def _joined(message: Message, at: datetime, _: PbxClock) -> CallerJoined:
    return CallerJoined(queue_of(message), _caller(message), at)


def _left(message: Message, at: datetime, _: PbxClock) -> CallerLeft:
    return CallerLeft(queue_of(message), _caller(message), at)


def _abandoned(message: Message, at: datetime, _: PbxClock) -> CallerAbandoned:
    waited = float(_whole(message, "HoldTime", LONGEST_SECONDS, 0))
    return CallerAbandoned(queue_of(message), _caller(message), waited, at)


def _offered(message: Message, at: datetime, _: PbxClock) -> Offered:
    return Offered(queue_of(message), _caller(message), _text(message, "Interface"), None, at)


def _refused(message: Message, at: datetime, _: PbxClock) -> Refused:
    return Refused(queue_of(message), _caller(message), _text(message, "Interface"), at)


def _connected(message: Message, at: datetime, clock: PbxClock) -> Connected:
    stamp = stamped(message)
    interface = _text(message, "Interface")
    return Connected(
        queue=queue_of(message),
        caller=_caller(message),
        interface=interface,
        name=_name(message) or interface,
        at=at,
        pbx_at=clock.at(stamp) if stamp else None,
    )


def _completed(message: Message, at: datetime, _: PbxClock) -> Completed:
    return Completed(
        queue=queue_of(message),
        caller=_caller(message),
        interface=_text(message, "Interface"),
        reason=_text(message, "Reason", default="caller"),
        at=at,
    )


def _user_event(message: Message, _: datetime, __: PbxClock) -> Disposed | None:
    """UserEvent(DISPOSITION,Uniqueid:ATTEMPT,V:EXTSTATUS). What the dialplan gives stands after the channel's own
    Uniqueid."""
    name = message.userevent
    if not isinstance(name, str) or name.upper() != DISPOSITION:
        return None
    return Disposed(attempt=_last_text(message, "Uniqueid"), ext_status=_last_text(message, "V"))


_MAKERS: dict[str, Callable[[Message, datetime, PbxClock], Told | Disposed | None]] = {
    "QueueMemberAdded": member,
    "QueueMemberStatus": member,
    "QueueMemberPause": member,
    "QueueMemberPenalty": member,
    "QueueMemberRinginuse": member,
    "QueueMemberRemoved": _gone,
    "QueueCallerJoin": _joined,
    "QueueCallerLeave": _left,
    "QueueCallerAbandon": _abandoned,
    "AgentCalled": _offered,
    "AgentRingNoAnswer": _refused,
    "AgentDump": _refused,  # he answered and hung up before he was connected
    "AgentConnect": _connected,
    "AgentComplete": _completed,
    "UserEvent": _user_event,
}
EVENTS = frozenset(_MAKERS)


def _caller(message: Message) -> str:
    return _text(message, "Uniqueid")


def _text(message: Message, *names: str, default: str | None = None) -> str:
    """The first of these headers that is there. An empty one is not."""
    for name in names:
        text = message.get(name, "")
        if not isinstance(text, str) or len(text) > LONGEST_TEXT or not text.isprintable():
            raise Malformed(f"{message.event}: {name} is doubled, too long or no text")
        if text:
            return text
    if default is None:
        raise Malformed(f"{message.event} without {names[0]}")
    return default


def _name(message: Message) -> str:
    """Of a member, for people to read: whatever it holds is no fault."""
    name = message.get("MemberName") or message.get("Name") or ""
    return "".join(char if char.isprintable() else "?" for char in str(name)[:LONGEST_TEXT])


def _last_text(message: Message, name: str) -> str:
    values = message.get(name, "")
    text = values[-1] if isinstance(values, list) else values
    if not text or len(text) > LONGEST_TEXT or not text.isprintable():
        raise Malformed(f"{message.userevent}: {name} is missing, too long or no text")
    return str(text)


def _whole(message: Message, name: str, most: int, default: int | None = None) -> int:
    text = message.get(name, "")
    if text == "" and default is not None:
        return default
    if not isinstance(text, str) or not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise Malformed(f"{message.event}: {name} is no number")
    if int(text) > most:
        raise Malformed(f"{message.event}: {name} is {text}")
    return int(text)
