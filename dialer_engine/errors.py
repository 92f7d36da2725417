"""Who is at fault, and therefore what to do: wait (Unavailable), stop (Rejected), mend (ConfigError).

Ports build these at their edge and chain the library's own error with `raise ... from exc`; no room above a
port knows an exception of a library. The docstring of a class is the sentence an operator reads when no
better message was given.
"""

from __future__ import annotations

from collections.abc import Sequence


class DialerError(Exception):
    """Something went wrong in dialer_engine."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class Unavailable(DialerError):
    """A port cannot answer now; nothing new is started and the next pass tries again.

    "Unavailable" never means "not done": a request whose answer was lost may have been carried out.
    """

    def __init__(self, port: str, reason: str) -> None:
        super().__init__(f"{port} is unavailable: {reason}")
        self.port = port
        self.reason = reason


class Rejected(DialerError):
    """The other side understood the request and refuses it; the same request again is useless."""

    def __init__(self, message: str | None = None, *, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class NotFound(DialerError):
    """There is no such thing (any more)."""


class Conflict(DialerError):
    """The state does not allow this now."""

    def __init__(self, message: str | None = None, *, allowed: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.allowed = tuple(allowed)


class Stale(Conflict):
    """Somebody else has changed it meanwhile: look again before you change it."""


class Replaced(DialerError):
    """Another daemon with our name has taken over the Stasis application; this one must exit."""


class Invalid(DialerError):
    """Data from outside cannot be used; every problem is listed with its place."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class ConfigError(Invalid):
    """The configuration cannot be used; every mistake is listed."""


class Problem:
    """One mistake in data from outside: where it stands (`rescheduleRules.0.retryAfter`) and why it is one."""

    __slots__ = ("place", "reason")

    def __init__(self, place: str, reason: str) -> None:
        self.place = place
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}" if self.place else self.reason

    def __repr__(self) -> str:
        return f"Problem({self.place!r}, {self.reason!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and (self.place, self.reason) == (other.place, other.reason)

    def __hash__(self) -> int:
        return hash((self.place, self.reason))
