"""AMI's messages in our words. They come from outside: what is missing, doubled or absurd is Malformed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

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

Fields = Mapping[str, object]
"""Headers as Asterisk writes them; one that comes twice has a list."""

LONGEST_TEXT = 256
LONGEST_SECONDS = 366 * 86400
DISPOSITION = "DISPOSITION"

_STAMP = re.compile(r"[0-9]{1,10}(\.[0-9]{1,6})?")
_SETTING = re.compile(r"Line-[0-9]+-[0-9]+", re.IGNORECASE)
_STATES = {state.value: state for state in DeviceState}
_LEADING_NUMBER = re.compile(r"\s*([0-9]{1,7})")
_YES = ("yes", "true", "y", "t", "1", "on")  # what Asterisk takes for true
_TICK_SECONDS = 0.01
"""time(2), which app_queue counts by, is behind the clock of stamps by up to a tick of the kernel."""


@dataclass(slots=True)
class PbxClock:
    """How far Asterisk's clock is from ours: never too little, so that nothing is believed to be over too early."""

    offset: timedelta = timedelta(0)

    def measure(self, fields: Fields, sent_at: datetime, heard_at: datetime) -> None:
        """From a stamped answer to a question that left at `sent_at`. A smaller offset is a better one, until it
        cannot be right any more."""
        stamp = stamped(fields)
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


def stamped(fields: Fields) -> datetime | None:
    """When Asterisk sent it, by its clock (Ping, and every event with timestampevents)."""
    text = fields.get("Timestamp")
    if not isinstance(text, str) or not _STAMP.fullmatch(text):
        return None
    return datetime.fromtimestamp(float(text), UTC)


def told(fields: Fields, at: datetime, clock: PbxClock) -> Told | Disposed | None:
    """What the event says that we heard at `at`; None: nothing for us. Raises Malformed."""
    make = _MAKERS.get(str(fields.get("Event")))
    return make(fields, at, clock) if make else None


def queue_of(fields: Fields) -> QueueName:
    """Raises Malformed."""
    return QueueName(_text(fields, "Queue"))


def entry(fields: Fields, at: datetime) -> CallerJoined:
    """A row about a caller. Raises Malformed."""
    waited = timedelta(seconds=_whole(fields, "Wait", LONGEST_SECONDS, 0))
    return CallerJoined(queue_of(fields), _text(fields, "Uniqueid"), at - waited)


def member(fields: Fields, _: datetime, clock: PbxClock) -> MemberSeen:
    """An event or a row about a member. Raises Malformed. A state nobody has heard of is unknown: not available."""
    interface = _text(fields, "Interface", "Location")
    last_call = _whole(fields, "LastCall", 2**32, 0)
    state = _whole(fields, "Status", 10**9)
    return MemberSeen(
        queue=queue_of(fields),
        interface=interface,
        agent=Agent(_text(fields, "StateInterface", default=interface)),
        name=_name(fields) or interface,
        state=_STATES.get(state, DeviceState.UNKNOWN),
        paused=_whole(fields, "Paused", 10**9) > 0,
        in_call=_whole(fields, "InCall", 10**9, 0) > 0,
        last_call_at=clock.whole_second(last_call) if last_call else None,
        wrap_up_seconds=float(_whole(fields, "Wrapuptime", LONGEST_SECONDS, 0)),
        ring_in_use=_whole(fields, "Ringinuse", 10**9) > 0 if "Ringinuse" in fields else None,
    )


def rules(fields: Fields, shared_last_call: bool) -> Rules | None:
    """Of one category of queues.conf, those of its templates included, as GetConfig gives it; None: it has no such."""
    settings = setting_lines(fields)
    if not settings:
        return None
    wrap_up = _LEADING_NUMBER.match(settings.get("wrapuptime", ""))  # as Asterisk reads it
    return Rules(
        wrap_up_seconds=float(wrap_up.group(1)) if wrap_up else 0.0,
        ring_in_use=settings.get("ringinuse", "yes").lower() in _YES,
        shared_last_call=shared_last_call,
    )


def shared_last_call(fields: Fields) -> bool:
    """Of the category general. In doubt it is shared: then agents wrap up in all their queues."""
    return setting_lines(fields).get("shared_lastcall", "yes").lower() in _YES


def setting_lines(fields: Fields) -> dict[str, str]:
    """name -> value; the last of a name counts, as it does in Asterisk."""
    found = {}
    for header, line in fields.items():
        if _SETTING.fullmatch(header) and isinstance(line, str):
            name, _, value = line.partition("=")
            found[name.strip().lower()] = value.strip()
    return found


def _gone(fields: Fields, _: datetime, __: PbxClock) -> MemberGone:
    return MemberGone(queue_of(fields), _text(fields, "Interface"))


def _joined(fields: Fields, at: datetime, _: PbxClock) -> CallerJoined:
    return CallerJoined(queue_of(fields), _caller(fields), at)


def _left(fields: Fields, at: datetime, _: PbxClock) -> CallerLeft:
    return CallerLeft(queue_of(fields), _caller(fields), at)


def _abandoned(fields: Fields, at: datetime, _: PbxClock) -> CallerAbandoned:
    waited = float(_whole(fields, "HoldTime", LONGEST_SECONDS, 0))
    return CallerAbandoned(queue_of(fields), _caller(fields), waited, at)


def _offered(fields: Fields, at: datetime, _: PbxClock) -> Offered:
    return Offered(queue_of(fields), _caller(fields), _text(fields, "Interface"), None, at)


def _refused(fields: Fields, at: datetime, _: PbxClock) -> Refused:
    return Refused(queue_of(fields), _caller(fields), _text(fields, "Interface"), at)


def _connected(fields: Fields, at: datetime, clock: PbxClock) -> Connected:
    stamp = stamped(fields)
    interface = _text(fields, "Interface")
    return Connected(
        queue=queue_of(fields),
        caller=_caller(fields),
        interface=interface,
        name=_name(fields) or interface,
        at=at,
        pbx_at=clock.at(stamp) if stamp else None,
    )


def _completed(fields: Fields, at: datetime, _: PbxClock) -> Completed:
    return Completed(
        queue=queue_of(fields),
        caller=_caller(fields),
        interface=_text(fields, "Interface"),
        reason=_text(fields, "Reason", default="caller"),
        at=at,
    )


def _user_event(fields: Fields, _: datetime, __: PbxClock) -> Disposed | None:
    """UserEvent(DISPOSITION,Uniqueid:ATTEMPT,V:EXTSTATUS). What the dialplan gives stands after the channel's own
    Uniqueid."""
    name = fields.get("UserEvent")
    if not isinstance(name, str) or name.upper() != DISPOSITION:
        return None
    return Disposed(attempt=_last_text(fields, "Uniqueid"), ext_status=_last_text(fields, "V"))


_MAKERS: dict[str, Callable[[Fields, datetime, PbxClock], Told | Disposed | None]] = {
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


def _caller(fields: Fields) -> str:
    return _text(fields, "Uniqueid")


def _text(fields: Fields, *names: str, default: str | None = None) -> str:
    """The first of these headers that is there. An empty one is not."""
    for name in names:
        text = fields.get(name, "")
        if not isinstance(text, str) or len(text) > LONGEST_TEXT or not text.isprintable():
            raise Malformed(f"{fields.get('Event')}: {name} is doubled, too long or no text")
        if text:
            return text
    if default is None:
        raise Malformed(f"{fields.get('Event')} without {names[0]}")
    return default


def _name(fields: Fields) -> str:
    """Of a member, for people to read: whatever it holds is no fault."""
    name = fields.get("MemberName") or fields.get("Name") or ""
    return "".join(char if char.isprintable() else "?" for char in str(name)[:LONGEST_TEXT])


def _last_text(fields: Fields, name: str) -> str:
    values = fields.get(name)
    text = values[-1] if isinstance(values, list) else values
    if not isinstance(text, str) or not text or len(text) > LONGEST_TEXT or not text.isprintable():
        raise Malformed(f"{fields.get('UserEvent')}: {name} is missing, too long or no text")
    return text


def _whole(fields: Fields, name: str, most: int, default: int | None = None) -> int:
    text = fields.get(name, "")
    if text == "" and default is not None:
        return default
    if not isinstance(text, str) or not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise Malformed(f"{fields.get('Event')}: {name} is no number")
    if int(text) > most:
        raise Malformed(f"{fields.get('Event')}: {name} is {text}")
    return int(text)
