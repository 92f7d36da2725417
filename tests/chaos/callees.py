"""The people to be called, a seeded mixture of them, and what a call to each comes to when nothing disturbs it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.lab import number

Outcome = tuple[str, str | None]

NO_INPUT: Outcome = ("TERMINATED", "NO_INPUT")
UNKNOWN: Outcome = ("RS_ERROR", "UNKNOWN")
PBX_LOST: Outcome = ("RS_ERROR", "PBX_LOST")

FLOW: dict[str, Any] = {
    "name": "chaos",
    "start": "hello",
    "blocks": {
        "hello": {"type": "play", "media": ["sound:hello-world"], "next": "ask"},
        "ask": {
            "type": "menu",
            "media": ["sound:vm-press"],
            "timeout": 3,
            "retries": 1,
            "keys": {"1": "yes", "2": "no", "9": "never"},
            "invalid": "ask",
            "noInput": "nobody",
        },
        "yes": {"type": "result", "extStatus": "CONFIRMED", "values": {"answer": "1"}, "next": "thanks"},
        "no": {"type": "result", "extStatus": "DECLINED", "values": {"answer": "2"}, "next": "thanks"},
        "never": {"type": "optOut", "next": "off"},
        "off": {"type": "result", "extStatus": "OPTED_OUT", "values": {"answer": "9"}, "next": "thanks"},
        "nobody": {"type": "result", "extStatus": "NO_INPUT", "next": "thanks"},
        # Long enough that many a call is cut off after its answer has been given.
        "thanks": {"type": "play", "media": ["sound:tt-weasels"], "next": "bye"},
        "bye": {"type": "hangup"},
    },
}
WAIT: dict[str, Any] = {
    "name": "wait",
    "start": "wait",
    "blocks": {"wait": {"type": "wait", "seconds": 300, "next": "bye"}, "bye": {"type": "hangup"}},
}
RULES: list[dict[str, Any]] = [
    {"status": "RS_BUSY", "retryAfter": 2, "maxAttempts": 1},
    {"status": "RS_ERROR", "retryAfter": 1, "maxAttempts": 1},  # the seed's own, only quicker
]
ANSWERS: dict[str, Outcome] = {
    "1": ("TERMINATED", "CONFIRMED"),
    "2": ("TERMINATED", "DECLINED"),
    "9": ("TERMINATED", "OPTED_OUT"),
}
REFUSALS: dict[str, tuple[int, Outcome]] = {
    "busy": (486, ("RS_BUSY", None)),
    "nobody": (404, ("RS_NUMBER", None)),
    "declines": (603, ("RS_REJECTED", "REFUSED")),
    "congested": (503, ("RS_REJECTED", "CONGESTION")),
}


@dataclass(frozen=True)
class Callee:
    number: str
    outcome: Outcome
    key: str = ""  # the only one that is pressed, perhaps several times

    @property
    def values(self) -> dict[str, str]:
        return {"answer": self.key} if self.key else {}


def talkers(dice: random.Random, count: int, *, talk: float) -> list[Callee]:
    """Callees who listen for so long, and hang up."""
    serials = iter(dice.sample(range(10**6), count))
    ring = (dice.uniform(0.2, 2.0) for _ in range(count))
    return [
        Callee(number.answers(ring=each, talk=talk, serial=next(serials)), ("TERMINATED", "HANGUP"))
        for each in ring
    ]


@dataclass
class Crowd:
    """Different numbers for as long as you like."""

    dice: random.Random
    weights: Mapping[str, float] = field(
        default_factory=lambda: {
            "talks": 25,
            "presses": 38,
            "stays": 6,
            "busy": 14,
            "nobody": 6,
            "declines": 5,
            "congested": 3,
            "rings out": 3,
        }
    )
    callees: dict[str, Callee] = field(default_factory=dict)

    def more(self, count: int) -> list[Callee]:
        made = []
        for callee in self._stream():
            if callee.number not in self.callees:
                self.callees[callee.number] = callee
                made.append(callee)
            if len(made) == count:
                break
        return made

    def _stream(self) -> Iterator[Callee]:
        kinds: Sequence[str] = list(self.weights)
        while True:
            yield self._one(self.dice.choices(kinds, list(self.weights.values()))[0])

    def _one(self, kind: str) -> Callee:
        dice = self.dice
        ring, serial = dice.uniform(0.2, 3.0), dice.randrange(10**6)
        if kind == "talks":
            talk = dice.uniform(1.0, 5.5)
            return Callee(number.answers(ring=ring, talk=talk, serial=serial), ("TERMINATED", "HANGUP"))
        if kind == "presses":
            key = dice.choice("1129")
            keys, after = key * dice.randint(1, 4), dice.randint(2, 9) / 2
            return Callee(number.presses(keys, after, ring, serial % 1000), ANSWERS[key], key)
        if kind == "stays":
            return Callee(number.stays(ring=ring, serial=serial), NO_INPUT)
        if kind == "rings out":
            return Callee(number.rings_out(serial=serial), ("RS_NOANSWER", None))
        code, outcome = REFUSALS[kind]
        return Callee(number.rejects(code, 0 if code in (404, 503) else ring, serial), outcome)
