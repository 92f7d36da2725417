"""The callees' side of the calls: what they saw and did, written down by themselves.

The lines of a log are those of the lab's world (tests/lab/world.py): `key|EVENT|epoch seconds|detail`, for an INVITE
`key|INVITE|at|dialled|caller id`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

UNFIT = dict.fromkeys(map(ord, "|\n\r"), "?")
"""What would break a line of the log; numbers and callers come from outside."""


@dataclass(slots=True)
class Seen:
    """One INVITE as the callee saw it; instants are epoch seconds, None when it never was."""

    key: str  # the SIP Call-ID: unique for each INVITE, also when a number is called twice
    number: str  # the last twelve digits
    dialled: str  # as it came in the INVITE
    caller_id: str
    invited_at: float
    ringing_at: float | None = None
    progress_at: float | None = None  # early media
    answered_at: float | None = None
    rejected_at: float | None = None
    rejected_by: int | None = None  # the SIP code
    keys: list[tuple[str, float]] = field(default_factory=list)
    ended_at: float | None = None
    ended_by: str | None = None  # "world", "pbx"
    attempt: str | None = None  # of a telephone: what the PBX said it is for
    met: str | None = None  # whom he talked to at the other end of a queue, by the last twelve digits
    met_at: float | None = None
    said: str | None = None  # of a telephone: what the agent said of the call afterwards


class World:
    """All of them: the last `keep` calls in memory, and every line to `write`."""

    def __init__(self, keep: int = 20_000, write: Callable[[str], None] | None = None) -> None:
        self.calls: deque[Seen] = deque(maxlen=keep)
        self._write = write

    def invited(self, seen: Seen) -> None:
        self.calls.append(seen)
        said = (text.translate(UNFIT) for text in (seen.dialled, seen.caller_id))
        self._note(seen, "INVITE", seen.invited_at, "|".join(said))

    def called(self, seen: Seen) -> None:
        """Somebody calls in, and is answered."""
        said = (text.translate(UNFIT) for text in (seen.dialled, seen.caller_id))
        self._note(seen, "CALLS", seen.invited_at, "|".join(said))

    def telephone(self, seen: Seen, attempt: str, *, asked: bool) -> None:
        """It is one of ours; `asked` to answer by itself."""
        seen.attempt = attempt or None
        self._note(seen, "TELEPHONE", seen.invited_at, f"{attempt.translate(UNFIT)}|{int(asked)}")

    def ringing(self, seen: Seen, at: float) -> None:
        seen.ringing_at = at
        self._note(seen, "RINGING", at)

    def progress(self, seen: Seen, at: float) -> None:
        seen.progress_at = at
        self._note(seen, "PROGRESS", at)

    def answered(self, seen: Seen, at: float) -> None:
        seen.answered_at = at
        self._note(seen, "ANSWER", at)

    def rejected(self, seen: Seen, at: float, sip_code: int) -> None:
        seen.rejected_at, seen.rejected_by = at, sip_code
        self._note(seen, "REJECT", at, str(sip_code))
        self.ended(seen, at, "world")

    def key(self, seen: Seen, at: float, key: str) -> None:
        seen.keys.append((key, at))
        self._note(seen, "KEY", at, key)

    def met(self, seen: Seen, at: float, number: str) -> None:
        seen.met, seen.met_at = number, at
        self._note(seen, "MET", at, number)

    def ended(self, seen: Seen, at: float, by: str) -> None:
        if seen.ended_at is None:
            seen.ended_at, seen.ended_by = at, by
            self._note(seen, "HANGUP", at, by)

    def _note(self, seen: Seen, event: str, at: float, detail: str = "") -> None:
        if self._write is not None:
            self._write(f"{seen.key}|{event}|{at:.3f}|{detail}\n")
