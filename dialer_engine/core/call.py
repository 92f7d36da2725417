"""What has happened to this one call?

Two rules. Everything that may happen to a call stands in `TRANSITIONS`; an event that is not there changes
nothing and is counted. And what a call came to is read from the facts kept on it, not from its last event: our
own deeds and what we know to be lost, then how far an answered call came, then our timer and cancel, then the
SIP code, then the cause (spec section 5). Timer and cancel come first because they make Asterisk invent a code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol, assert_never

from dialer_engine.core.model import Outcome, Status, Times

GRACE_SECONDS = 5.0
"""Asterisk ends a ring itself; this much later we ask what became of it."""
CHECK_SECONDS = 60.0
"""How long "the channel lives" counts as an answer."""
TIMER_SLACK_SECONDS = 1.0
"""Asterisk's ring timer has whole seconds, and its clock and ours differ by the way of an event."""


NORMAL_CLEARING = 16
"""The Q.850 cause that says nothing of a call that was not answered."""


class Phase(StrEnum):
    """How far a call has come. What ends in QUEUED is lost; what was handed over to the dialplan is not."""

    CLAIMED = "CLAIMED"
    SENT = "SENT"
    RINGING = "RINGING"
    ANSWERED = "ANSWERED"
    QUEUED = "QUEUED"
    HANDED_OVER = "HANDED_OVER"
    CONNECTED = "CONNECTED"
    ENDED = "ENDED"


class Event(StrEnum):
    """What may be heard of a call, or done to it. The comment says where it comes from."""

    MARK_SENT = "MARK_SENT"  # the store took it down, the originate goes out next
    FORBIDDEN = "FORBIDDEN"  # the store says that this number must not be called; `value` is the reason
    REFUSED = "REFUSED"  # ARI answered 400 or 500: no channel, no INVITE
    DIALING = "DIALING"  # Dial with an empty status
    RINGING = "RINGING"  # ChannelStateChange Ringing, Dial RINGING
    PROGRESS = "PROGRESS"  # Dial PROGRESS: early media, a tone or an announcement
    DIAL_ENDED = "DIAL_ENDED"  # Dial with a final status other than ANSWER, in `dial_status`
    ANSWERED = "ANSWERED"  # ChannelStateChange Up, Dial ANSWER
    ENTERED = "ENTERED"  # StasisStart while Up; again when the queue gives the callee back
    LEAVING = "LEAVING"  # we are about to send it on to a queue: whatever comes between, it was to reach it
    LEFT = "LEFT"  # we sent it on to a queue
    HANDED_OVER = "HANDED_OVER"  # we sent it on to another place of the dialplan
    QUEUE_TIMED_OUT = "QUEUE_TIMED_OUT"  # QUEUESTATUS=TIMEOUT
    CONNECTED = "CONNECTED"  # an agent took it
    STATUS = "STATUS"  # UserEvent(CALLSTATUS): `value` is its V
    ALIVE = "ALIVE"  # asked, Asterisk says that the channel lives
    TIMED_OUT = "TIMED_OUT"  # our own ring timer ran out
    CANCELLED = "CANCELLED"  # we hang it up
    DEAF = "DEAF"  # a crash, or the event socket was lost: what happens meanwhile is not heard
    GONE = "GONE"  # ChannelDestroyed
    UNKNOWN = "UNKNOWN"  # it was sent, there is no such channel, and nothing told us why
    PBX_LOST = "PBX_LOST"  # Asterisk was restarted under it


def _stay(phase: Phase, *events: Event) -> dict[Event, Phase]:
    return dict.fromkeys(events, phase)


_ENDS = _stay(Phase.ENDED, Event.GONE, Event.UNKNOWN, Event.PBX_LOST)
_ALWAYS = (Event.STATUS, Event.ALIVE, Event.CANCELLED, Event.DEAF)
_BEFORE_ANSWER = (*_ALWAYS, Event.DIALING, Event.DIAL_ENDED, Event.TIMED_OUT)

TRANSITIONS: dict[Phase, dict[Event, Phase]] = {
    Phase.CLAIMED: {Event.MARK_SENT: Phase.SENT, Event.FORBIDDEN: Phase.ENDED},
    # Every event of a channel is legal here: Asterisk may tell them before it answers the originate.
    Phase.SENT: {
        **_stay(Phase.SENT, *_BEFORE_ANSWER),
        Event.RINGING: Phase.RINGING,
        Event.PROGRESS: Phase.RINGING,
        Event.ANSWERED: Phase.ANSWERED,
        Event.ENTERED: Phase.ANSWERED,
        Event.REFUSED: Phase.ENDED,
        **_ENDS,
    },
    Phase.RINGING: {
        **_stay(Phase.RINGING, *_BEFORE_ANSWER, Event.RINGING, Event.PROGRESS),
        Event.ANSWERED: Phase.ANSWERED,
        Event.ENTERED: Phase.ANSWERED,
        **_ENDS,
    },
    # CONNECTED comes over the AMI and may overtake what ARI has to say.
    Phase.ANSWERED: {
        **_stay(Phase.ANSWERED, *_ALWAYS, Event.ANSWERED, Event.ENTERED, Event.LEAVING),
        Event.LEFT: Phase.QUEUED,
        Event.HANDED_OVER: Phase.HANDED_OVER,
        Event.CONNECTED: Phase.CONNECTED,
        **_ENDS,
    },
    Phase.QUEUED: {
        **_stay(Phase.QUEUED, *_ALWAYS, Event.ANSWERED, Event.QUEUE_TIMED_OUT),
        Event.ENTERED: Phase.ANSWERED,
        Event.CONNECTED: Phase.CONNECTED,
        **_ENDS,
    },
    Phase.HANDED_OVER: {
        **_stay(Phase.HANDED_OVER, *_ALWAYS, Event.ANSWERED),
        Event.ENTERED: Phase.ANSWERED,
        Event.CONNECTED: Phase.CONNECTED,
        **_ENDS,
    },
    Phase.CONNECTED: {
        **_stay(Phase.CONNECTED, *_ALWAYS, Event.ANSWERED, Event.CONNECTED),
        Event.ENTERED: Phase.ANSWERED,
        **_ENDS,
    },
    Phase.ENDED: {},
}

_FIRST_TIME: dict[Event, str] = {
    Event.MARK_SENT: "originated_at",
    Event.RINGING: "ringing_at",
    Event.ANSWERED: "answered_at",
    Event.ENTERED: "answered_at",
    Event.LEAVING: "left_ivr_at",
    Event.LEFT: "left_ivr_at",
    Event.HANDED_OVER: "left_ivr_at",
    Event.CONNECTED: "connected_at",
}
_FLAG: dict[Event, str] = {
    Event.REFUSED: "refused",
    Event.PROGRESS: "early_media",
    Event.ENTERED: "entered",
    Event.LEAVING: "queued",
    Event.LEFT: "queued",
    Event.QUEUE_TIMED_OUT: "queue_timed_out",
    Event.TIMED_OUT: "timed_out",
    Event.CANCELLED: "cancelled_by_us",
    Event.DEAF: "deaf",
    Event.UNKNOWN: "unknown",
    Event.PBX_LOST: "pbx_lost",
}


@dataclass(slots=True)
class Call:
    """The facts of one call, in the order in which they were heard. Only `feed` changes it."""

    phase: Phase = Phase.CLAIMED
    ended_in: Phase | None = None
    times: Times = field(default_factory=Times)
    dial_timeout_seconds: float | None = None  # tells a ring that Asterisk timed out from a carrier's 480
    cause: int | None = None
    sip_code: int | None = None
    dial_status: str | None = None
    far_cause: int | None = None
    far_sip_code: int | None = None
    far_dial_status: str | None = None
    checked_at: datetime | None = None
    back_at: datetime | None = None  # when a queue, or another place of the dialplan, gave it back
    early_media: bool = False
    entered: bool = False
    queued: bool = False  # or was to be
    queue_timed_out: bool = False
    timed_out: bool = False
    cancelled_by_us: bool = False
    deaf: bool = False
    refused: bool = False
    unknown: bool = False
    pbx_lost: bool = False
    forbidden: str | None = None
    override: str | None = None
    illegal: int = 0

    @property
    def rang(self) -> bool:
        return self.times.ringing_at is not None

    @property
    def reached(self) -> bool:
        """It came to its callee's network. A tone in early media is all the ringing that some carriers let us hear."""
        return self.rang or self.early_media or self.was_answered

    @property
    def was_answered(self) -> bool:
        return self.times.answered_at is not None

    @property
    def was_connected(self) -> bool:
        return self.times.connected_at is not None

    @property
    def is_away(self) -> bool:
        """It is in the dialplan's hands, where nothing of ours may touch it."""
        return self.phase in (Phase.QUEUED, Phase.HANDED_OVER, Phase.CONNECTED)

    @property
    def ended(self) -> bool:
        return self.phase is Phase.ENDED

    def feed(
        self,
        event: Event,
        at: datetime,
        *,
        cause: int | None = None,
        sip_code: int | None = None,
        dial_status: str | None = None,
        value: str | None = None,
        far: bool = False,
    ) -> bool:
        """Take an event in; False when it cannot happen now: then nothing has changed but `illegal`.

        `far` marks what was heard of the far half of a Local/ channel, or of the leg behind it: its codes are
        kept apart, and of its events only ringing moves the call.
        """
        if far and event not in (Event.RINGING, Event.PROGRESS):
            return self._feed_far(event, cause, sip_code, dial_status)
        target = TRANSITIONS[self.phase].get(event)
        if target is None:
            self.illegal += not far
            return False
        self._take(event, at, value)
        self._take_codes(cause, sip_code, dial_status)
        if target is Phase.ENDED:
            self.ended_in, self.times = self.phase, replace(self.times, ended_at=at)
        self.phase = target
        return True

    def _feed_far(self, event: Event, cause: int | None, sip_code: int | None, dial_status: str | None) -> bool:
        """What the far half says, kept for `outcome`. A later leg (a second trunk) has the last word."""
        if self.ended or event not in (Event.GONE, Event.DIAL_ENDED):
            return False
        if cause and (cause != NORMAL_CLEARING or self.far_cause is None):
            self.far_cause = cause
        self.far_sip_code = sip_code or self.far_sip_code
        self.far_dial_status = dial_status or self.far_dial_status
        return True

    def _take(self, event: Event, at: datetime, value: str | None) -> None:
        first = _FIRST_TIME.get(event)
        if first is not None and getattr(self.times, first) is None:
            self.times = replace(self.times, **{first: at})
        flag = _FLAG.get(event)
        if flag is not None:
            setattr(self, flag, True)
        if event is Event.STATUS:
            self.override = (value or "").strip() or self.override
        elif event is Event.FORBIDDEN:
            self.forbidden = value or "forbidden"
        elif event is Event.ALIVE:
            self.checked_at = at
        elif event is Event.ENTERED and self.is_away:
            self.back_at = at
        elif event in (Event.LEAVING, Event.LEFT):
            self.queue_timed_out = False  # that was another queue's time

    def _take_codes(self, cause: int | None, sip_code: int | None, dial_status: str | None) -> None:
        if cause is not None:
            self.cause = cause
        if sip_code is not None:
            self.sip_code = sip_code
        if dial_status is not None:
            self.dial_status = dial_status

    def to_fields(self) -> dict[str, str]:
        """The facts as a flat record of texts; what has not happened is left out, what is so no more is empty."""
        times = {name: at.isoformat() for name in _TIMES if (at := getattr(self.times, name)) is not None}
        changed = {name: value for name in _FIELDS if (value := getattr(self, name)) != getattr(_FRESH, name)}
        texts = {name: _FIELDS[name][0](value) for name, value in changed.items()}
        if self.queued:
            texts.setdefault("queue_timed_out", "")  # a second queue takes back what the first has written
        return {**times, **texts, "phase": self.phase.value}

    @classmethod
    def from_fields(cls, record: Mapping[str, str]) -> Call:
        """The inverse of `to_fields`; other keys are ignored. Raises ValueError when a text cannot be read."""
        times = {name: datetime.fromisoformat(record[name]) for name in _TIMES if record.get(name)}
        call = cls(phase=Phase(record.get("phase", Phase.CLAIMED)), times=Times(**times))
        for name, (_, read) in _FIELDS.items():
            if record.get(name):
                setattr(call, name, read(record[name]))
        return call


_FRESH = Call()
_TIMES = tuple(each.name for each in fields(Times))
_Codec = tuple[Callable[..., str], Callable[[str], object]]
_CODECS: dict[str, _Codec] = {
    "bool": (lambda value: "1", lambda text: text == "1"),
    "int": (str, int),
    "int | None": (str, int),
    "float | None": (str, float),
    "str | None": (str, str),
    "Phase | None": (str, Phase),
    "datetime | None": (datetime.isoformat, datetime.fromisoformat),
}
_FIELDS: dict[str, _Codec] = {
    each.name: _CODECS[str(each.type)] for each in fields(Call) if each.name not in ("phase", "times")
}


_Verdict = tuple[Status, str | None]

_BUSY: _Verdict = (Status.RS_BUSY, None)
_NOANSWER: _Verdict = (Status.RS_NOANSWER, None)
_NUMBER: _Verdict = (Status.RS_NUMBER, None)
_DECLINED: _Verdict = (Status.RS_REJECTED, "REFUSED")
_BLOCKED: _Verdict = (Status.RS_REJECTED, "BLOCKED")
_CONGESTION: _Verdict = (Status.RS_REJECTED, "CONGESTION")
_REFUSED: _Verdict = (Status.RS_ERROR, "REFUSED")
_MEDIA: _Verdict = (Status.RS_ERROR, "MEDIA")

SIP: dict[int, _Verdict] = {
    **dict.fromkeys((486, 600), _BUSY),
    **dict.fromkeys((408, 480, 487), _NOANSWER),  # 487, not by us: somebody upstream gave up
    **dict.fromkeys((404, 410, 484, 485, 604), _NUMBER),
    **dict.fromkeys((403, 603, 607), _DECLINED),
    608: _BLOCKED,
    **dict.fromkeys((401, 407), _REFUSED),
    **dict.fromkeys((415, 488, 606), _MEDIA),
}
"""SIP code (RFC 3261, 8197, 8688) to status; every code that is not here is the network's: CONGESTION."""

CAUSES: dict[int, _Verdict] = {
    17: _BUSY,
    **dict.fromkeys((NORMAL_CLEARING, 18, 19, 20, 26), _NOANSWER),
    **dict.fromkeys((1, 22, 28), _NUMBER),
    **dict.fromkeys((21, 50, 52, 54, 57), _DECLINED),
    **dict.fromkeys((58, 65, 66, 69, 88), _MEDIA),
}
"""Q.850 cause to status, without a SIP code; every cause that is not here is the network's: CONGESTION."""

DIAL_STATUSES: dict[str, _Verdict] = {
    "BUSY": _BUSY,
    "NOANSWER": _NOANSWER,
    "CANCEL": _NOANSWER,
    "CONGESTION": _CONGESTION,
    "CHANUNAVAIL": _CONGESTION,
}
"""Final Dial status to status, for causes that say nothing (Local/ channels)."""


def from_sip(code: int) -> Outcome:
    """The row of spec section 5's table for this SIP code, NOT_REACHABLE apart."""
    return Outcome(*SIP.get(code, _CONGESTION), sip_code=code)


def from_cause(cause: int) -> Outcome:
    """The row of spec section 5's table for this cause without a SIP code, NOT_REACHABLE apart."""
    return Outcome(*CAUSES.get(cause, _CONGESTION), cause=cause)


class IvrResult(Protocol):
    """What `outcome` wants to know of a flow.FlowResult: the deciders do not import each other."""

    @property
    def ext_status(self) -> str | None: ...
    @property
    def completed(self) -> bool: ...
    @property
    def failed(self) -> str | None: ...


def outcome(call: Call, ivr: IvrResult | None) -> Outcome:
    """What the call came to: spec section 5's table. `ivr` is what the flow said, None when it never began."""
    cause, sip_code = _codes(call)
    status, ext_status = _verdict(call, ivr)
    if call.override is not None:
        status, ext_status = _overridden(call.override, status)
    return Outcome(status, ext_status, cause, sip_code)


def _verdict(call: Call, ivr: IvrResult | None) -> _Verdict:
    if call.forbidden is not None:
        return Status.RS_BLACKLIST, call.forbidden
    if call.refused:
        return _REFUSED
    if _is_complete(call, ivr):
        return Status.TERMINATED, _said(ivr)
    if call.pbx_lost:
        return Status.RS_ERROR, "PBX_LOST"
    if (call.unknown and not call.was_connected) or not call.ended:
        return Status.RS_ERROR, "UNKNOWN"
    return _answered(call, ivr) if call.was_answered else _unanswered(call)


def _is_complete(call: Call, ivr: IvrResult | None) -> bool:
    """The flow had come to its end in our hands: nothing that was lost afterwards can matter."""
    served = call.was_connected or not call.queued
    return ivr is not None and ivr.completed and call.ended_in is Phase.ANSWERED and served


def _said(ivr: IvrResult | None) -> str | None:
    return None if ivr is None else ivr.ext_status


def _answered(call: Call, ivr: IvrResult | None) -> _Verdict:
    if call.was_connected or call.ended_in is Phase.HANDED_OVER:
        return Status.TERMINATED, _said(ivr)
    if call.queued:
        return (Status.RS_TIMEOUT if call.queue_timed_out else Status.RS_LOST), _said(ivr)
    if not call.entered and call.deaf:
        # It waited in the dialplan while we were away. What its callee has heard nobody knows, an apology perhaps;
        # so no plain rule rings him again. Had we been there all the time, he hung up at once.
        return Status.RS_ERROR, "UNKNOWN"
    if ivr is not None and ivr.failed is not None:
        return Status.RS_ERROR, "IVR_FAILED"
    return Status.TERMINATED, _said(ivr) or (None if call.cancelled_by_us else "HANGUP")


def _unanswered(call: Call) -> _Verdict:
    if call.cancelled_by_us or _was_timed_out(call):
        # A tone in early media is all the ringing that some carriers let us hear.
        return Status.RS_NOANSWER, None if call.rang or call.early_media else "NOT_REACHABLE"
    if call.deaf and _ended_as_answered(call):
        return Status.RS_ERROR, "UNKNOWN"
    status, ext_status = _from_codes(call)
    if status is Status.RS_NOANSWER and not call.rang:
        return status, "NOT_REACHABLE"
    return status, ext_status


def _ended_as_answered(call: Call) -> bool:
    """An end without any code or Dial of a failure: an answer that was not heard explains it best."""
    said = call.sip_code or call.far_sip_code or call.dial_status or call.far_dial_status
    return not said and call.cause == NORMAL_CLEARING


def _was_timed_out(call: Call) -> bool:
    """Did the ring time out, by our timer or by Asterisk's, which shows as no final Dial and a made-up 480?"""
    if call.timed_out:
        return True
    sent, ended, timeout = call.times.originated_at, call.times.ended_at, call.dial_timeout_seconds
    if sent is None or ended is None or timeout is None or call.dial_status or call.far_dial_status:
        return False
    late = (ended - sent).total_seconds() >= timeout - TIMER_SLACK_SECONDS
    return late and call.cause in (None, 0, 19) and call.sip_code in (None, 480)


def _codes(call: Call) -> tuple[int | None, int | None]:
    """Cause and SIP code, of the far half where there is one: the near half of a Local/ knows neither."""
    return call.far_cause or call.cause, call.far_sip_code or call.sip_code


def _from_codes(call: Call) -> _Verdict:
    cause, sip_code = _codes(call)
    if sip_code is not None:
        return SIP.get(sip_code, _CONGESTION)
    said = DIAL_STATUSES.get(call.far_dial_status or call.dial_status or "")
    if said is not None and cause in (None, 0, NORMAL_CLEARING):
        return said
    return _CONGESTION if cause is None else CAUSES.get(cause, _CONGESTION)


def _overridden(value: str, status: Status) -> _Verdict:
    """CALLSTATUS: `RS_BUSY` is a status, `RS_BUSY/SIT` a status and its extStatus, all else an extStatus."""
    named, _, ext_status = value.partition("/")
    if named in Status.__members__:
        return Status(named), ext_status or None
    return status, value


def next_deadline(call: Call, dial_timeout_seconds: float, max_call_duration_seconds: float) -> datetime | None:
    """When to look after the call if nothing is heard of it; None: nothing to look after, the lease is the net.

    Before the answer: the ring's end and GRACE_SECONDS. In the IVR: the longest call, which is then hung up; what
    went before an agent's talk does not count.
    In the queue or with an agent: the same, but Asterisk is only asked, and ALIVE puts it off by CHECK_SECONDS.
    """
    match call.phase:
        case Phase.CLAIMED | Phase.ENDED:
            return None
        case Phase.SENT | Phase.RINGING:
            start, seconds = call.times.originated_at, dial_timeout_seconds + GRACE_SECONDS
        case Phase.ANSWERED:
            return _later(call.back_at or call.times.answered_at, max_call_duration_seconds)
        case Phase.QUEUED | Phase.HANDED_OVER | Phase.CONNECTED:
            start, seconds = call.times.answered_at, max_call_duration_seconds
        case _:
            assert_never(call.phase)
    first, checked = _later(start, seconds), _later(call.checked_at, CHECK_SECONDS)
    return max(first, checked) if first and checked else first


def _later(at: datetime | None, seconds: float) -> datetime | None:
    return None if at is None else at + timedelta(seconds=seconds)


def render_chart() -> str:
    """The state chart of the README, in mermaid's words, one arrow per pair of phases."""
    lines = ["stateDiagram-v2", "    [*] --> CLAIMED"]
    for phase, events in TRANSITIONS.items():
        for target in Phase:
            names = [event.value for event, to in events.items() if to is target is not phase]
            if names:
                lines.append(f"    {phase.value} --> {target.value}: {', '.join(names)}")
    return "\n".join([*lines, "    ENDED --> [*]"])
