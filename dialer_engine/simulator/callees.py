"""What a number makes its callee do.

The last twelve digits of a number are a script, the same as the lab's (tests/lab/number.py):

| digits            | callee |
|---|---|
| 1 RR PPP SSSSSS   | rings, answers, hangs up after PPP tenths unless he has got an agent by then (not in the lab) |
| 2 RR TTT SSSSSS   | rings, answers, hangs up after the talk |
| 3 RR 000 SSSSSS   | rings, answers, stays until hung up |
| 4 RR A N KKKK SSS | rings, answers, waits, presses keys, stays |
| 5 RR CCC SSSSSS   | rings, then rejects by this SIP code; without a ring time no 180 is sent |
| 6 00 180 SSSSSS   | rings for ever |
| 6 00 100 SSSSSS   | is never heard of: 100 Trying and nothing more |
| 6 00 183 SSSSSS   | ringing tone as early media (183) for ever, no 180 |
| 7 RR CCC SSSSSS   | early media (183) with an announcement for that time, then rejects by this SIP code |
| 8 RR 00x SSSSSS   | rings, a machine (0) or a person who says hello (1), and stays until hung up |
| 9 RR A N KKKK SSS | as 4 |

RR is the time until the answer in tenths of a second, TTT the talk and PPP the patience in tenths, CCC a SIP code, S
a serial. A is the wait before the first key in halves of a second, N the number of keys in KKKK, 5 more when a #
follows them. Four digits are a telephone of ours: 1xxx and 6xxx answer at once, 2xxx after 3 s, 3xxx never, 4xxx is
busy, 5xxx answers at once if it is asked to. Any other number is somebody of the `Population`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dialer_engine.simulator.threads import FOREVER

QUIET_SECONDS = 0.1
"""Asterisk's SendDTMF is still for so long before a key and after it, and holds it for KEY_SECONDS."""
KEY_SECONDS = 0.12
BETWEEN_KEYS_SECONDS = 0.2


class Line(Protocol):
    """What a callee can do on his telephone."""

    def ring(self) -> None: ...
    def progress(self) -> None:
        """Early media: he is heard before he answers."""

    def answer(self) -> None: ...
    def press(self, key: str) -> None: ...
    def let_go(self, key: str, seconds: float) -> None: ...
    def reject(self, sip_code: int) -> None: ...
    def hang_up(self) -> None: ...
    @property
    def is_served(self) -> bool:
        """Has an agent talked to him?"""


@dataclass(frozen=True, slots=True)
class Callee:
    """What one telephone does."""

    rings: bool = True
    early_media: bool = False
    waits_seconds: float = 0.0  # until the answer or the rejection; FOREVER: there is neither
    sip_code: int | None = None  # of the rejection; None: answers
    keys: str = ""
    keys_after_seconds: float = 0.0  # from the answer
    talks_seconds: float = FOREVER  # from the answer, when there are no keys
    patience_seconds: float = FOREVER  # from the answer, until an agent talks to him

    def deeds(self, line: Line) -> Iterator[float]:
        """All of it, from the INVITE on; yields the seconds to wait."""
        if self.early_media:
            line.progress()
        if self.rings:
            line.ring()
        if self.waits_seconds:
            yield self.waits_seconds
        if self.sip_code is not None:
            line.reject(self.sip_code)
            return
        line.answer()
        if self.keys:
            yield self.keys_after_seconds
        for key in self.keys:
            line.press(key)
            yield QUIET_SECONDS
            yield KEY_SECONDS
            line.let_go(key, KEY_SECONDS)
            yield QUIET_SECONDS + BETWEEN_KEYS_SECONDS
        yield min(self.talks_seconds, self.patience_seconds)
        if self.patience_seconds < self.talks_seconds and line.is_served:
            yield self.talks_seconds - self.patience_seconds
        line.hang_up()


def telephone(digits: str, *, asked: bool = False) -> Callee:
    """One of ours, by its four digits. `asked`: to answer by itself."""
    match digits[0]:
        case "1" | "6":
            return Callee(rings=False)
        case "5":
            return Callee(rings=False) if asked else Callee(waits_seconds=FOREVER)
        case "2":
            return Callee(waits_seconds=3.0)
        case "3":
            return Callee(waits_seconds=FOREVER)
        case "4":
            return Callee(rings=False, sip_code=486)
    return Callee(rings=False, sip_code=404)


def scripted(digits: str) -> Callee | None:
    """The callee whose number is his script; None when these twelve digits are none."""
    if not re.fullmatch(r"[1-9][0-9]{11}", digits):
        return None
    wait = int(digits[1:3]) / 10
    callee = Callee(rings=wait > 0, waits_seconds=wait)
    return _KINDS[digits[0]](callee, digits)


def _waits(callee: Callee, digits: str) -> Callee:
    return Callee(callee.rings, False, callee.waits_seconds, patience_seconds=int(digits[3:6]) / 10)


def _talks(callee: Callee, digits: str) -> Callee:
    return Callee(callee.rings, False, callee.waits_seconds, talks_seconds=int(digits[3:6]) / 10)


def _stays(callee: Callee, digits: str) -> Callee:
    return callee


def _presses(callee: Callee, digits: str) -> Callee:
    count = int(digits[4])
    keys = digits[5 : 5 + count - 5] + "#" if count >= 5 else digits[5 : 5 + count]
    return Callee(callee.rings, False, callee.waits_seconds, keys=keys, keys_after_seconds=int(digits[3]) / 2)


def _rejects(callee: Callee, digits: str) -> Callee | None:
    code = int(digits[3:6])
    return Callee(callee.rings, False, callee.waits_seconds, code) if 400 <= code <= 699 else None


def _announces(callee: Callee, digits: str) -> Callee | None:
    code = int(digits[3:6])
    return Callee(False, True, callee.waits_seconds, code) if 400 <= code <= 699 else None


def _rings_out(callee: Callee, digits: str) -> Callee | None:
    match digits[3:6]:
        case "180":
            return Callee(waits_seconds=FOREVER)
        case "100":
            return Callee(rings=False, waits_seconds=FOREVER)
        case "183":
            return Callee(rings=False, early_media=True, waits_seconds=FOREVER)
    return None


_KINDS: Mapping[str, Callable[[Callee, str], Callee | None]] = {
    "1": _waits,
    "2": _talks,
    "3": _stays,
    "4": _presses,
    "5": _rejects,
    "6": _rings_out,
    "7": _announces,
    "8": _stays,
    "9": _presses,
}

USUAL: Mapping[str, float] = {
    "rings out": 34,
    "machine": 12,
    "talks": 22,
    "presses": 16,
    "busy": 6,
    "switched off": 4,
    "does not exist": 3,
    "declines": 2,
    "congested": 1,
}
"""Of a hundred people called."""

_CODES = {"busy": 486, "switched off": 480, "does not exist": 404, "declines": 603, "congested": 503}


@dataclass(frozen=True, slots=True)
class Population:
    """Everybody else: of a hundred so many do this or that, and who does it once does it always."""

    seed: int = 0
    shares: Mapping[str, float] = field(default_factory=lambda: USUAL)

    def callee(self, number: str) -> Callee:
        dice = random.Random(f"{self.seed}:{number}")
        (kind,) = dice.choices([*self.shares], [*self.shares.values()])
        if kind == "rings out":
            return Callee(waits_seconds=FOREVER)
        rings = round(dice.lognormvariate(2.1, 0.5), 1)  # a median of 8 s
        if kind in ("does not exist", "switched off", "congested"):
            return Callee(rings=False, waits_seconds=round(dice.uniform(0.1, 1.5), 1), sip_code=_CODES[kind])
        if kind in _CODES:
            return Callee(rings=kind == "declines", waits_seconds=min(rings, 15.0), sip_code=_CODES[kind])
        if kind == "machine":
            return Callee(waits_seconds=round(dice.uniform(12.0, 25.0), 1))
        if kind == "presses":
            after = round(dice.uniform(1.0, 9.0), 1)
            return Callee(waits_seconds=rings, keys=dice.choice("1112239"), keys_after_seconds=after)
        return Callee(waits_seconds=rings, talks_seconds=round(dice.lognormvariate(2.7, 0.8), 1))
