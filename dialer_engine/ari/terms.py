"""The words between the client and its owner: what the owner sets, is told, and asks for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

HangupReason: TypeAlias = Literal[
    "normal", "busy", "congestion", "no_answer", "timeout", "rejected", "unallocated", "normal_unspecified",
    "number_incomplete", "codec_mismatch", "interworking", "failure", "answered_elsewhere",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class AriConfig:
    """Where Asterisk is, and as whom we come: a user of ari.conf with a plain password, not read-only."""

    url: str
    """With http.conf's prefix, if it has one; without /ari."""
    username: str
    password: str = field(repr=False)
    app: str
    """The Stasis application; whoever takes the same name pushes us out (`errors.Replaced`)."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long we wait for Asterisk, in seconds, and how many connections we hold."""

    connect_seconds: float = 2.0
    """For a free or new connection; what waits there longer has certainly not been sent."""
    request_seconds: float = 5.0
    originate_seconds: float = 10.0
    """An originate looks up the host's own name, which takes 5 s where /etc/hosts lacks it."""
    heartbeat_seconds: float = 15.0
    """Asterisk sends no pings to us; a half-open socket is noticed after at most 1.5 of these. As often
    we ask whether events come at all."""
    hearing_seconds: float = 2.0
    """What we have said to ourselves by way of Asterisk, or anything else, must be heard by then; it takes 0.5 ms."""
    connections: int = 32
    """The event socket is one of them. Asterisk's http.conf sessionlimit (100 by default) must be higher than both."""
    originating_connections: int = 16
    """Kept for calls that begin; an originate takes 3 ms, and 5 s where it looks up the host's name."""


@dataclass(frozen=True, slots=True)
class Connected:
    """Events come and originates are accepted. What happened before this instant may have been missed."""

    startup_time: str
    """As Asterisk gives it; only good for comparing."""
    restarted: bool
    """Another Asterisk process than last time: every call of ours is dead, and nobody will say so."""
    missing_sources: tuple[str, ...] = ()
    """Of the sources to follow, those Asterisk does not know."""
    waiting_room: bool = True
    """The shipped dialplan is there. Without it an answered call that finds no socket is hung up in silence."""


@dataclass(frozen=True, slots=True)
class Lost:
    """No events come. Told at the loss, and again when a further try fails for another reason."""

    reason: str


AriState: TypeAlias = Connected | Lost


@dataclass(slots=True)
class AriCounts:
    """What an operator may want to see; only ever grows."""

    events: int = 0
    doubles: int = 0
    """Events that came twice and were handed on once."""
    malformed: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    stale_conflicts: int = 0
    unknown_fates: int = 0


@dataclass(frozen=True, slots=True)
class ToApp:
    """An answered call goes into our application; args come with StasisStart."""

    args: str = ""


@dataclass(frozen=True, slots=True)
class ToDialplan:
    """An answered call goes to a place of the dialplan. Unlike an application it is not hung up in silence when
    nobody listens: the dialplan decides."""

    context: str
    extension: str
    priority: int = 1
