"""What Asterisk tells over the event socket: slim structs, only the fields that somebody reads.

A struct's class name is the event's `type` on the wire, and each knows whose event it is (`channel_id`). `at`
is the instant Asterisk stamped, in UTC. Asterisk's page: "Asterisk REST Data Models", rest-api/events.json.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import msgspec


class Leg(msgspec.Struct, frozen=True, gc=False):
    """A channel as events carry it. `state` is Asterisk's word: Down, Dialing, Ring, Ringing, Up, Busy ..."""

    id: str
    name: str = ""
    state: str = ""


class Event(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag=True, kw_only=True):
    """Any event. gc=False: an event holds no cycles, and the collector need not visit thousands of them."""

    at: datetime | None = msgspec.field(name="timestamp", default=None)

    @property
    def channel_id(self) -> str:
        """The channel this event is about; empty when it is about none."""
        return ""


class ChannelEvent(Event, frozen=True, gc=False, tag=True, kw_only=True):
    channel: Leg

    @property
    def channel_id(self) -> str:
        return self.channel.id


class StasisStart(ChannelEvent, frozen=True, gc=False, tag=True, kw_only=True):
    """The channel entered our application; not necessarily answered (`create`, early media): look at its
    state."""

    args: tuple[str, ...] = ()


class StasisEnd(ChannelEvent, frozen=True, gc=False, tag=True, kw_only=True):
    """The channel left our application; events about it may still come."""


class ChannelStateChange(ChannelEvent, frozen=True, gc=False, tag=True, kw_only=True):
    """`channel.state` is the new one."""


class ChannelDestroyed(ChannelEvent, frozen=True, gc=False, tag=True, kw_only=True):
    """The end. `cause` is Q.850; `tech_cause` the SIP code, absent before Asterisk 22.7 and on Local/."""

    cause: int = 0
    cause_txt: str = ""
    tech_cause: int | None = None


class ChannelHangupRequest(ChannelEvent, frozen=True, gc=False, tag=True, kw_only=True):
    """Somebody hangs up: the far end, or (`soft`) the dialplan at its own end, or an order of ours. Comes only when
    asked for by `AriConfig.extra_events`."""

    soft: bool = False


class ChannelDtmfReceived(ChannelEvent, frozen=True, gc=False, tag=True, kw_only=True):
    """A key, told when it is let go."""

    digit: str
    duration_ms: int = 0


class ChannelVarset(Event, frozen=True, gc=False, tag=True, kw_only=True):
    """A variable was set; comes only when asked for by `AriConfig.extra_events`, for there are very many."""

    channel: Leg | None = None
    variable: str = ""
    value: str = ""

    @property
    def channel_id(self) -> str:
        return self.channel.id if self.channel else ""


class ChannelDialplan(ChannelEvent, frozen=True, gc=False, tag=True, kw_only=True):
    """The channel came to a dialplan application (Queue, say); only by `AriConfig.extra_events`."""

    dialplan_app: str = ""
    dialplan_app_data: str = ""


class ChannelUserevent(Event, frozen=True, gc=False, tag=True, kw_only=True):
    """UserEvent() of the dialplan. `fields` are its headers as written, among them `eventname`."""

    eventname: str
    channel: Leg | None = None
    fields: dict[str, object] = msgspec.field(name="userevent", default_factory=dict)

    @property
    def channel_id(self) -> str:
        return self.channel.id if self.channel else ""


class Dial(Event, frozen=True, gc=False, tag=True, kw_only=True):
    """Progress of a dialed leg: status "" at the start, RINGING, PROGRESS, ANSWER, or how it failed.

    Lossy: only causes 17, 34, 3 and 20 have a word of their own, the rest is NOANSWER, and a ring time-out
    gives no final status at all. With a `caller` this is not about our own dialing: the ;2 half of a Local/
    channel dials the carrier, or a caller of ours waits in Queue() and the peer is an agent's leg (ANSWER:
    the agent took the call). Hence `channel_id` is always the peer's.
    """

    peer: Leg
    caller: Leg | None = None
    dialstatus: str = ""

    @property
    def channel_id(self) -> str:
        return self.peer.id

    @property
    def caller_channel_id(self) -> str:
        return self.caller.id if self.caller else ""


class Playback(msgspec.Struct, frozen=True, gc=False):
    """One `play`. `target` is "channel:ID"; `state` at its end is done or failed."""

    id: str
    target: str = msgspec.field(name="target_uri", default="")
    state: str = ""


class PlaybackFinished(Event, frozen=True, gc=False, tag=True, kw_only=True):
    """All media of one `play` are through, were stopped, or failed."""

    playback: Playback

    @property
    def channel_id(self) -> str:
        return self.playback.target.removeprefix("channel:")


class ApplicationReplaced(Event, frozen=True, gc=False, tag=True, kw_only=True):
    """Another socket took our application's name. Never handed on: `Ari.run` raises `errors.Replaced`."""

    application: str = ""


AriEvent: TypeAlias = (
    StasisStart
    | StasisEnd
    | ChannelStateChange
    | ChannelDestroyed
    | ChannelHangupRequest
    | ChannelDtmfReceived
    | ChannelVarset
    | ChannelDialplan
    | ChannelUserevent
    | Dial
    | PlaybackFinished
)

WANTED = (
    "StasisStart",
    "StasisEnd",
    "ChannelStateChange",
    "ChannelDestroyed",
    "ChannelDtmfReceived",
    "ChannelUserevent",
    "Dial",
    "PlaybackFinished",
    "ApplicationReplaced",
)
"""What every connection asks Asterisk to send (its event filter); the rest stays on its side."""


WATCHED = ("Dial", "ChannelStateChange", "ChannelDestroyed", "ChannelUserevent", "ApplicationReplaced")
"""What is heard of channels that are not in our application. A key would come twice."""


class Malformed(Exception):
    """A frame that is no event of ours: not JSON, or a needed field is missing or of the wrong type."""


class Unknown(Exception):
    """A proper event of a type we have no struct for; the text is the type."""


class _Peek(msgspec.Struct, gc=False):
    type: str


_decoder: msgspec.json.Decoder[AriEvent | ApplicationReplaced] = msgspec.json.Decoder(
    AriEvent | ApplicationReplaced
)
_peek = msgspec.json.Decoder(_Peek)
_known = frozenset((*WANTED, "ChannelHangupRequest", "ChannelVarset", "ChannelDialplan"))


def decode(frame: bytes) -> AriEvent | ApplicationReplaced:
    """One frame's event. Raises Unknown or Malformed.

    The type is looked at a second time only when the frame could not be decoded: the filter keeps unknown
    types away, so this is the rare path. Invalid UTF-8 in a field nobody reads (a caller's name) is harmless.
    """
    try:
        return _decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise _diagnose(frame, exc) from exc


def _diagnose(frame: bytes, reason: Exception) -> Exception:
    try:
        name = _peek.decode(frame).type
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Malformed(str(reason))
    return Malformed(f"{name}: {reason}") if name in _known else Unknown(name)
