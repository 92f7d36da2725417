"""What became of a call in a queue: how long did it wait, who took it, was it abandoned? (spec section 4)

Two clocks. Instants are ours; those named `pbx` are Asterisk's own stamps, and are only compared with each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Self

from dialer_engine.core.model import Times
from dialer_engine.core.told import (
    CallerAbandoned,
    CallerJoined,
    CallerLeft,
    Completed,
    Connected,
    Refused,
    Told,
)

SLACK_SECONDS = 1.0
"""app_queue counts whole seconds: a time-out may come so much earlier by ours."""


@dataclass(slots=True)
class Stay:
    """One call's way through a queue, from the moment at which it was sent there. A second queue goes on with it."""

    queue: str
    timeout_seconds: int
    since: datetime  # leaving the IVR, or the answer when nothing was played
    sent_at: datetime
    since_pbx: datetime | None = None
    joined_at: datetime | None = None
    answered_at: datetime | None = None  # by an agent's telephone, as ARI tells it
    connected_pbx_at: datetime | None = None
    left_at: datetime | None = None  # for an agent, or not
    waited_seconds: float | None = None  # of one who left without an agent, as app_queue counts
    taken_at: datetime | None = None  # by the agent who had him last, as all that follows
    talked_until: datetime | None = None
    agent: str | None = None  # the member's name
    interface: str | None = None  # his, as ARI names it (a Local/ one without /n) or AMI

    def take(self, told: Told, pbx_offset: timedelta) -> None:
        """What AMI tells of this caller; told twice, it changes nothing. `pbx_offset`: our clock less Asterisk's."""
        match told:
            case CallerJoined():
                self.joined_at = self.joined_at or told.at
            case CallerLeft():
                self.left_at = self.left_at or told.at
            case CallerAbandoned():
                self.waited_seconds = told.waited_seconds
            case Connected():
                self.queue, self.agent, self.interface = told.queue, told.name, told.interface
                self.left_at = self.left_at or told.at
                if self.connected_pbx_at is None and told.pbx_at is not None:
                    self.connected_pbx_at = told.pbx_at - pbx_offset
            case Completed():
                self.talked_until = told.at
            case Refused() if told.interface.removesuffix("/n") == self.interface:
                self.answered_at = None  # he hung up before they were connected
            case _:
                pass

    def go_on_in(self, queue: str, timeout_seconds: int, at: datetime) -> None:
        """Sent to another queue, or to the same again: what he has waited counts from the first."""
        self.queue, self.timeout_seconds, self.sent_at = queue, timeout_seconds, at
        self.joined_at = self.answered_at = self.left_at = self.waited_seconds = None

    def begin_talk(self, at: datetime) -> None:
        """An agent took him, or another one after that; told again of the same talk, the first instant stands."""
        if self.taken_at is None or self.talked_until is not None:
            self.taken_at, self.talked_until = at, None

    def come_back(self, at: datetime, talked_seconds: float | None) -> None:
        """It gave him back, perhaps some time before `at`. `talked_seconds`: None: as long as he was with the agent."""
        self.left_at = self.left_at or at
        if self.taken_at is not None and self.talked_until is None:
            talked = None if talked_seconds is None else self.taken_at + timedelta(seconds=talked_seconds)
            self.talked_until = min(at, talked or at)

    def has_timed_out(self, at: datetime) -> bool:
        """Had he been given all his time when he left at that instant?"""
        if self.waited_seconds is not None:
            return self.waited_seconds >= self.timeout_seconds
        waited = at - (self.joined_at or self.sent_at)
        return waited.total_seconds() >= self.timeout_seconds - SLACK_SECONDS

    def shown(self, times: Times, *, end_is_known: bool, abandon_after_seconds: float) -> dict[str, object]:
        """As the result has it, of a call that has ended."""
        connected_at, ended_at = times.connected_at, times.ended_at if end_is_known else None
        served = [at for at in (connected_at, self.taken_at) if at is not None and at >= self.sent_at]
        waited_until = min(served, default=self.left_at or ended_at)
        return {
            "name": self.queue,
            "waitSeconds": _seconds(self.joined_at or self.sent_at, waited_until),
            "secondsToAgent": _seconds(self.since, connected_at),
            "secondsToAgentPbx": _seconds(self.since_pbx, self.connected_pbx_at),
            "talkSeconds": _seconds(self.taken_at, self.talked_until or ended_at),
            "abandoned": is_abandoned(self.since, connected_at, abandon_after_seconds),
        }

    def to_fields(self) -> dict[str, str]:
        """A flat record of texts. What is not known is empty: a second queue takes back what the first has written."""
        return {_field(each.name): _text(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_fields(cls, record: Mapping[str, str]) -> Self | None:
        """The inverse of `to_fields`; None: it was not sent to a queue. Raises ValueError when it cannot be read."""
        if not record.get("queue"):
            return None
        found = {each.name: record[_field(each.name)] for each in fields(cls) if record.get(_field(each.name))}
        read = {name: _READ.get(name, datetime.fromisoformat)(text) for name, text in found.items()}
        try:
            return cls(**read)  # type: ignore[arg-type]
        except TypeError as exc:
            raise ValueError(f"a field is missing: {exc}") from exc


_READ = {"queue": str, "agent": str, "interface": str, "timeout_seconds": int, "waited_seconds": float}


def _text(value: datetime | str | float | None) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _field(name: str) -> str:
    """Beside those of the call itself (call.Call.to_fields)."""
    return name if name in ("queue", "agent") else f"queue_{name}"


def is_abandoned(since: datetime, connected_at: datetime | None, after_seconds: float) -> bool:
    """No agent had him in time, whether one did later or not."""
    return connected_at is None or (connected_at - since).total_seconds() > after_seconds


def _seconds(begin: datetime | None, end: datetime | None) -> float | None:
    if begin is None or end is None:
        return None
    return max(0.0, round((end - begin).total_seconds(), 3))
