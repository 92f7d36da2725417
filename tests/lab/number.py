"""The numbering plan of the world: a number of twelve digits says what its callee does.

| digits           | callee |
|---|---|
| 2 RR TTT SSSSSS  | rings, answers, hangs up after the talk |
| 3 RR 000 SSSSSS  | rings, answers, stays until hung up |
| 4 RR A N KKKK SSS| rings, answers, waits, presses keys, stays |
| 5 RR CCC SSSSSS  | rings, then rejects by this SIP code; without a ring time no 180 is sent |
| 6 00 180 SSSSSS  | rings for ever |
| 6 00 100 SSSSSS  | is never heard of: 100 Trying and nothing more |
| 6 00 183 SSSSSS  | ringing tone as early media (183) for ever, no 180 |
| 7 RR CCC SSSSSS  | early media (183) with an announcement for that time, then rejects by this SIP code |
| 8 RR 000 SSSSSS  | rings, an answering machine: greeting of some seconds, beep, silence until hung up |
| 8 RR 001 SSSSSS  | rings, a person who says hello and listens until hung up |
| 9 RR A N KKKK SSS| as 4, and what it hears is recorded (`Lab.heard`) |

RR is the time until the answer in tenths of a second (of the announcement in 7), TTT the talk in tenths,
CCC a SIP code, S the serial that makes numbers differ. A is the wait before the first key in halves of a
second, N the number of keys in KKKK, 5 more when a # follows them. Whatever stands before the last twelve
digits (+, 00, a trunk's prefix) is logged and otherwise ignored, unless `Lab.break_carrier` has broken this
prefix. Telephones of agents have four digits.
"""

from __future__ import annotations

import re


def answers(ring: float = 0.5, talk: float = 3.0, serial: int = 0) -> str:
    """Rings, answers, hangs up after the talk (at least 0.6 s: Asterisk waits for audio when it answers)."""
    return f"2{_tenths(ring, 2)}{_tenths(talk, 3)}{_serial(serial, 6)}"


def stays(ring: float = 0.5, serial: int = 0) -> str:
    """Rings, answers, stays until hung up."""
    return f"3{_tenths(ring, 2)}000{_serial(serial, 6)}"


def presses(keys: str, after: float = 1.0, ring: float = 0.5, serial: int = 0) -> str:
    """Rings, answers, presses up to four digits and perhaps a closing #, a third of a second apart, stays."""
    if not keys:
        raise ValueError("who presses no key stays")
    return f"4{_pressing(keys, after, ring, serial)}"


def listens(keys: str = "", after: float = 1.0, ring: float = 0.5, serial: int = 0) -> str:
    """The same, and what the callee hears is recorded; keys or none."""
    return f"9{_pressing(keys, after, ring, serial)}"


def _pressing(keys: str, after: float, ring: float, serial: int) -> str:
    if not re.fullmatch(r"[0-9]{0,4}#?", keys):
        raise ValueError(f"up to four digits and a closing # can be pressed, not {keys!r}")
    digits = keys.rstrip("#")
    count = len(digits) + (5 if keys.endswith("#") else 0)
    halves = round(after * 2)
    if not 1 <= halves <= 9:
        raise ValueError(f"the wait before the first key is 0.5 to 4.5 s, not {after}")
    return f"{_tenths(ring, 2)}{halves}{count}{digits:0<4}{_serial(serial, 3)}"


def rejects(code: int, ring: float = 0.0, serial: int = 0) -> str:
    """Rejects by a SIP code, after ringing or at once."""
    return f"5{_tenths(ring, 2)}{_code(code)}{_serial(serial, 6)}"


def rings_out(serial: int = 0) -> str:
    """Rings until the caller gives up."""
    return f"600180{_serial(serial, 6)}"


def never_rings(serial: int = 0) -> str:
    """100 Trying, and nothing more until the caller gives up."""
    return f"600100{_serial(serial, 6)}"


def rings_in_band(serial: int = 0) -> str:
    """The ringing tone as early media and no 180, as some mobile carriers do, until the caller gives up."""
    return f"600183{_serial(serial, 6)}"


def announces(code: int, seconds: float = 1.5, serial: int = 0) -> str:
    """An announcement as early media, then the rejection."""
    return f"7{_tenths(seconds, 2)}{_code(code)}{_serial(serial, 6)}"


def machine(ring: float = 0.5, serial: int = 0) -> str:
    """An answering machine: a greeting, a beep, silence."""
    return f"8{_tenths(ring, 2)}000{_serial(serial, 6)}"


def says_hello(ring: float = 0.5, serial: int = 0) -> str:
    """A person: one short phrase, then silence."""
    return f"8{_tenths(ring, 2)}001{_serial(serial, 6)}"


def _tenths(seconds: float, width: int) -> str:
    text = f"{round(seconds * 10):0{width}d}"
    if seconds < 0 or len(text) > width:
        raise ValueError(f"{seconds} s does not fit into {width} digits of tenths")
    return text


def _code(code: int) -> str:
    if not 400 <= code <= 699:
        raise ValueError(f"a callee rejects by 400 to 699, not {code}")
    return str(code)


def _serial(serial: int, width: int) -> str:
    if not 0 <= serial < 10**width:
        raise ValueError(f"the serial {serial} does not fit into {width} digits")
    return f"{serial:0{width}d}"
