"""Where a call is in its flow, what may happen to it there, and what is to be done about it.

A position is small JSON both ways, so that another process can go on with it. Ids of actions are
`<life>-<count>`: a process that takes a call over after a crash begins a new life, so that a late answer to
the old one is told apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import NoneType

from dialer_engine.errors import Invalid, Problem

MAX_PATH = 200
MAX_NOTES = 20


# --- what happens ---


@dataclass(frozen=True, slots=True)
class Key:
    """The callee has pressed a key."""

    digit: str


@dataclass(frozen=True, slots=True)
class Played:
    """A Play has ended: heard to the end, stopped, or (ok is false) not playable."""

    id: str
    ok: bool = True


@dataclass(frozen=True, slots=True)
class TimerFired:
    id: str


@dataclass(frozen=True, slots=True)
class Done:
    """An OptOut has been carried out; ok is false when it was refused for good."""

    id: str
    ok: bool = True


@dataclass(frozen=True, slots=True)
class Returned:
    """The queue has given the callee back; the id is the Enqueue's. `status` is what Asterisk says in QUEUESTATUS."""

    id: str
    status: str


@dataclass(frozen=True, slots=True)
class HungUp:
    """The channel is gone."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The flow cannot go on. The call is to be ended."""

    reason: str


Event = Key | Played | TimerFired | Done | Returned | HungUp | Failed


# --- what is to be done ---


@dataclass(frozen=True, slots=True)
class Play:
    id: str
    media: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopPlay:
    """The id is the Play's."""

    id: str


@dataclass(frozen=True, slots=True)
class Timer:
    """There is one timer: a new one replaces it, and it is void when the position no longer names it."""

    id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class OptOut:
    """Put the number on the do-not-call list; may be asked for twice (after a crash)."""

    id: str


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Send the callee to a queue, the campaign's if it is None. Nothing happens here until Returned or HungUp."""

    id: str
    queue: str | None
    timeout_seconds: int


@dataclass(frozen=True, slots=True)
class HangUp:
    id: str


Action = Play | StopPlay | Timer | OptOut | Enqueue | HangUp


# --- where it is ---


@dataclass(frozen=True, slots=True)
class Position:
    """Everything the interpreter knows about a call. `block` is the block last begun.

    `stage` is what the block waits for: "" (nothing yet), playing, keys, time, job, queue. `end` is "" while the flow
    runs, then completed (it came to a hangup block), hungup (the callee was first) or failed.
    """

    block: str
    life: int = 1
    action: int = 0  # ids given out in this life
    stage: str = ""
    play: str = ""  # id of the Play that is under way
    timer: str = ""  # id of the one timer that counts
    job: str = ""  # id of the OptOut or Enqueue that is under way
    medium: int = 0  # how many media of this block have been begun
    tries: int = 0  # how often this block has asked again
    keys: str = ""  # pressed and not yet used: the digits of a read so far, and what was typed ahead
    variables: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    ext_status: str | None = None
    opted_out: bool = False
    path: tuple[str, ...] = ()  # blocks in the order they began, at most MAX_PATH
    notes: tuple[str, ...] = ()  # what went wrong on the way without ending the call, at most MAX_NOTES
    end: str = ""
    failure: str = ""

    @property
    def memory(self) -> Position:
        """What a crash must not lose. Positions with equal memories resume alike: one record serves both."""
        return replace(self, action=0, stage="", play="", timer="", job="", medium=0, notes=())

    def to_json(self) -> str:
        """Compact; what stands at its default is left out."""
        state = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if value not in (each.default, (), {}):
                state[each.name] = value
        return json.dumps(state, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Position:
        """The inverse of `to_json`. Raises Invalid when the text is not a position."""
        try:
            state = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise Invalid([Problem("", "a position is not JSON")]) from exc
        if not isinstance(state, dict):
            raise Invalid([Problem("", "a position is an object")])
        if problems := _problems(state):
            raise Invalid(problems)
        for name in ("path", "notes"):
            if name in state:
                state[name] = tuple(state[name])
        return cls(**state)


_KINDS: dict[str, tuple[type, ...]] = {
    "block": (str,),
    "life": (int,),
    "action": (int,),
    "stage": (str,),
    "play": (str,),
    "timer": (str,),
    "job": (str,),
    "medium": (int,),
    "tries": (int,),
    "keys": (str,),
    "variables": (dict,),
    "values": (dict,),
    "ext_status": (str, NoneType),
    "opted_out": (bool,),
    "path": (list,),
    "notes": (list,),
    "end": (str,),
    "failure": (str,),
}


def _problems(state: Mapping[str, object]) -> list[Problem]:
    problems = [] if "block" in state else [Problem("block", "is missing")]
    for name, value in state.items():
        if name not in _KINDS:
            problems.append(Problem(name, "is not known"))
        elif type(value) not in _KINDS[name] or not _texts_only(value):
            problems.append(Problem(name, "has the wrong type"))
    return problems


def _texts_only(value: object) -> bool:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(isinstance(member, str) for member in members)


@dataclass(frozen=True, slots=True)
class Step:
    """The new position, and what is to be done once it is recorded, in this order."""

    position: Position
    actions: tuple[Action, ...] = ()


@dataclass(frozen=True, slots=True)
class FlowResult:
    """What a flow came to. `ext_status` is what the flow itself set; HANGUP, IVR_FAILED come later."""

    ext_status: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    opted_out: bool = False
    completed: bool = False  # the flow came to a hangup block; false when the callee hung up before
    failed: str | None = None  # why the flow could not go on
    notes: tuple[str, ...] = ()  # sounds that could not be played and the like

    @classmethod
    def of(cls, position: Position) -> FlowResult:
        return cls(
            ext_status=position.ext_status,
            values=position.values,
            variables=position.variables,
            path=position.path,
            opted_out=position.opted_out,
            completed=position.end == "completed",
            failed=(position.failure or "the flow failed") if position.end == "failed" else None,
            notes=position.notes,
        )
