"""May this trunk carry another call now? Its rate, and the brake that keeps a dead trunk from burning a list.

The clock here is monotonic seconds, a float handed in. Both classes are statistics in memory: a fresh start
has forgotten that a trunk was down and finds out again at the price of ten calls.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from dialer_engine.core.model import Outcome, Status


class Bucket:
    """A token bucket one call deep: calls leave at least 1/rate seconds apart, idle time saves up nothing."""

    __slots__ = ("_next_at", "_rate")

    def __init__(self, rate: float | None) -> None:
        """`rate` in calls per second; None: no limit. It may be changed at any time."""
        self._rate: float | None = None
        self._next_at = float("-inf")
        self.rate = rate

    @property
    def rate(self) -> float | None:
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        """The distance to the last call is the new one's from now on."""
        if rate is not None and rate <= 0:
            raise ValueError(f"a rate is above 0 calls per second, not {rate}")
        self._next_at += _distance(rate) - _distance(self._rate)
        self._rate = rate

    def next_at(self, now: float) -> float:
        """When the next call may leave: `now`, or later."""
        return max(now, self._next_at)

    def postpone(self, until: float) -> None:
        """No call may leave before `until`."""
        self._next_at = max(self._next_at, until)

    def ready(self, now: float) -> int | None:
        """How many calls may leave now: one or none; None: as many as you like."""
        if self.rate is None:
            return None
        return 1 if self._next_at <= now else 0

    def take(self, now: float) -> float:
        """Use up a token; the instant at which that call may leave, which is `now` when one was ready."""
        leaves_at = self.next_at(now)
        if self.rate is not None:
            self._next_at = leaves_at + 1 / self.rate
        return leaves_at


def _distance(rate: float | None) -> float:
    """Seconds between two calls."""
    return 0.0 if rate is None else 1 / rate


TRUNK_CAUSES = frozenset({3, 27, 34, 38, 42, 44})
"""Q.850 causes that are the trunk's fault, no route among them (spec section 4)."""
TRUNK_SIP_CODES = frozenset({401, 403, 407, *range(500, 600)})
_BLAMELESS = frozenset({"UNKNOWN", "PBX_LOST", "IVR_FAILED", "MEDIA"})


def counts_against_trunk(outcome: Outcome, refused_before_invite: bool) -> bool:
    """Did the trunk refuse this call, which never rang? By SIP code where there is one, else by cause."""
    if refused_before_invite:
        return True
    if outcome.status not in (Status.RS_REJECTED, Status.RS_ERROR) or outcome.ext_status in _BLAMELESS:
        return False
    if outcome.sip_code is not None:
        return outcome.sip_code in TRUNK_SIP_CODES
    return outcome.cause in TRUNK_CAUSES


def got_through(outcome: Outcome, reached: bool) -> bool:
    """Did the call reach its callee's network: it rang, was answered, busy or unknown there?

    What counts against the trunk is asked first (a carrier may announce its congestion in early media). What
    neither counts against it nor got through (a 480 without ringing) proves nothing.
    """
    match outcome.status:
        case Status.RS_BUSY | Status.RS_NUMBER | Status.TERMINATED | Status.RS_LOST | Status.RS_TIMEOUT:
            return True
        case Status.RS_NOANSWER | Status.RS_REJECTED | Status.RS_ERROR | Status.RS_BLACKLIST:
            return reached


def code_text(outcome: Outcome, refused_before_invite: bool) -> str:
    """The code as a person names it: `SIP 503`, `cause 34`."""
    if outcome.sip_code is not None and not refused_before_invite:
        return f"SIP {outcome.sip_code}"
    return "ARI refused" if refused_before_invite or outcome.cause is None else f"cause {outcome.cause}"


ROW_LIMIT = 10
WINDOW = 50
WINDOW_LIMIT = 40
"""More than four fifths of the last fifty."""
FIRST_PROBE_SECONDS = 10.0
LAST_PROBE_SECONDS = 60.0
REMEMBERED_NUMBERS = 10_000
FIRST_UNHEARD = 10
QUICKLY_UNHEARD = 15
GROWTH = 0.05
"""More calls that may be out unheard for each that gets through: one up to QUICKLY_UNHEARD, then so little that a
carrier which dies after the first hundreds of calls costs no more than 25 contacts, and so much that one with a second
of post-dial delay carries 50 calls a second within a minute."""
TRUST_SECONDS = 10.0
"""Trust lasts so long after the last call that got through: a campaign may begin on a trunk that has died since."""


@dataclass(slots=True)
class Brake:
    """Closes a trunk that refuses everything, and opens it when one call gets through (spec section 4).

    A number counts against the trunk once: ten in a row are ten numbers, and a re-dial of a refused one is no
    news. Beyond the spec's law it says how many calls may be out unheard of: few until the trunk has shown
    that it works, and more with every call that gets through; else a first pass would send a dead trunk as many
    calls as a campaign has channels.
    """

    closed: bool = False
    last_code: str | None = None
    probe_due_at: float | None = None
    _probe_seconds: float = FIRST_PROBE_SECONDS
    _row: int = 0
    _recent: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _refused: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _unheard: float = FIRST_UNHEARD
    _heard_at: float = float("-inf")

    def may_dial(self, now: float) -> bool:
        """May an ordinary call go out, or a probe? When closed, `want_probe` says of which number."""
        return not self.closed or (self.probe_due_at is not None and now >= self.probe_due_at)

    def room(self, unheard: int, now: float) -> int:
        """How many more calls may go out when `unheard` are out that neither rang nor ended."""
        if self.closed:
            return int(self.may_dial(now))
        allowed = int(self._trusted(now))
        if self._row:
            allowed = min(allowed, ROW_LIMIT - self._row)
        return max(0, allowed - unheard)

    def refused(self, number: str, code: str, now: float) -> None:
        """The trunk refused a call to `number` (its identity); `code` as `code_text` has it."""
        self.last_code = code
        if self.was_refused(number):
            return
        self._remember(number)
        if self.closed:
            return
        self._row += 1
        self._recent.append(True)
        if self._row >= ROW_LIMIT or sum(self._recent) > WINDOW_LIMIT:
            self._close(now)

    def passed(self, now: float, number: str | None = None) -> None:
        """A call got through (to `number`): one per call, as soon as it rings or at its end."""
        trusted = self._trusted(now)
        self._unheard, self._heard_at = trusted + (1 if trusted < QUICKLY_UNHEARD else GROWTH), now
        if number is not None:
            self._refused.pop(number, None)
        if self.closed:
            self._open()
        self._row = 0
        self._recent.append(False)

    def want_probe(self, number: str, now: float, *, last_resort: bool = False) -> bool:
        """May `number` be the probe that is due now? One refused before only when all were: `last_resort`."""
        due = self.closed and self.may_dial(now)
        return due and (last_resort or not self.was_refused(number))

    def probed(self, now: float) -> None:
        """The probe is on its way; the next one waits twice as long, a minute at most."""
        self._probe_seconds = min(self._probe_seconds * 2, LAST_PROBE_SECONDS)
        self.probe_due_at = now + self._probe_seconds

    def was_refused(self, number: str) -> bool:
        return number in self._refused

    def _trusted(self, now: float) -> float:
        return self._unheard if now - self._heard_at < TRUST_SECONDS else FIRST_UNHEARD

    def _remember(self, number: str) -> None:
        self._refused[number] = None
        if len(self._refused) > REMEMBERED_NUMBERS:
            self._refused.popitem(last=False)

    def _close(self, now: float) -> None:
        self.closed = True
        self._probe_seconds = FIRST_PROBE_SECONDS
        self.probe_due_at = now + FIRST_PROBE_SECONDS

    def _open(self) -> None:
        """A clean slate: what closed the trunk must not close it again at the next refusal."""
        self.closed = False
        self.probe_due_at = None
        self._recent.clear()
        self._unheard = FIRST_UNHEARD
