"""Three hundred people to call, what each of them does, and the campaign that calls them.

`dialer-engine demo` calls them through the simulated PBX, `make lab` through a real one: a person's number tells his
telephone how to behave (the table in simulator/callees.py; the lab's telephones read the same one).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dialer_engine.core.sharing import Claim, share

REDIAL_SECONDS = 5
LONGEST_RING_SECONDS = 15
"""The shortest that a campaign may have: whoever does not answer keeps us waiting so long."""

LISTED = "on the list before"
"""The reason with which some of them are on the do-not-call list."""

SURVEY: Mapping[str, Any] = {
    "name": "survey",
    "description": "1 yes, 2 no, 9 never call again",
    "start": "hello",
    "blocks": {
        "hello": {"type": "play", "media": ["sound:hello-world"], "next": "ask"},
        "ask": {
            "type": "menu",
            "media": ["sound:vm-press"],
            "timeout": 5,
            "retries": 1,
            "keys": {"1": "yes", "2": "no", "9": "never"},
            "invalid": "bye",
            "noInput": "bye",
        },
        "yes": {
            "type": "result",
            "extStatus": "CONFIRMED",
            "values": {"answer": "1", "who": "{name}"},
            "next": "bye",
        },
        "no": {
            "type": "result",
            "extStatus": "DECLINED",
            "values": {"answer": "2", "who": "{name}"},
            "next": "bye",
        },
        "never": {"type": "optOut", "next": "bye"},
        "bye": {"type": "hangup"},
    },
}
CHOICES: Mapping[str, str] = {
    "yes": "pressed 1 (yes)",
    "no": "pressed 2 (no)",
    "never": "pressed 9 (never again)",
}
"""The survey's blocks that tell what somebody chose, in words."""


@dataclass(frozen=True, slots=True)
class Kind:
    """People who do the same. `plan` is their number, blanks for the eye, # for the digits that tell them apart."""

    name: str
    share: int  # of 320 or so
    plan: str
    calls: int = 1  # how often each of them is called, by the campaign's rules; 0: must not be called

    def number(self, serial: int) -> str:
        digits = self.plan.replace(" ", "")
        return re.sub("#+", lambda found: f"{serial:0{len(found.group())}d}", digits)


KINDS: Sequence[Kind] = (
    Kind("presses 1", 38, "4 10 4 1 1000 ###"),
    Kind("presses 2 before asked", 20, "4 05 2 1 2000 ###"),
    Kind("presses 9, no more calls", 12, "4 08 6 1 9000 ###"),
    Kind("presses a wrong key", 8, "4 10 5 1 5000 ###"),
    Kind("listens and says nothing", 15, "3 15 000 ######"),
    Kind("hangs up in the message", 35, "2 10 010 ######"),
    Kind("is busy, and once more", 30, "5 00 486 ######", calls=2),
    Kind("rings, is busy, twice", 10, "5 02 486 ######", calls=2),
    Kind("does not exist, 404", 25, "5 00 404 ######"),
    Kind("has moved, 410", 5, "5 00 410 ######"),
    Kind("is announced, then 404", 15, "7 15 404 ######"),
    Kind("is switched off, 480", 12, "5 00 480 ######"),
    Kind("declines, 603", 12, "5 20 603 ######"),
    Kind("the carrier is full, 503", 10, "5 00 503 ######", calls=2),
    Kind("the carrier forbids, 403", 5, "5 00 403 ######"),
    Kind("speaks no such codec, 488", 5, "5 00 488 ######"),
    Kind("rings and rings", 20, "6 00 180 ######"),
    Kind("is never heard of", 5, "6 00 100 ######"),
    Kind("rings in band only", 6, "6 00 183 ######"),
    Kind("is not to be called", 10, "3 05 000 9#####", calls=0),
)


@dataclass(frozen=True, slots=True)
class Person:
    number: str
    name: str
    kind: Kind

    def row(self) -> dict[str, object]:
        """As a contact of a call list."""
        return {"number": self.number, "attributes": {"name": self.name}}


def crowd(size: int, kinds: Sequence[Kind] = KINDS, *, seed: int = 0) -> list[Person]:
    """So many people, of each kind by its share but at least one, mixed by the seed."""
    counts = share(size, [Claim(kind, kind.share, size) for kind in kinds])
    dice = random.Random(seed)
    people = [
        Person(kind.number(serial), f"{dice.choice(FIRST_NAMES)} {dice.choice(LAST_NAMES)}", kind)
        for kind, count in counts.items()
        for serial in range(count)
    ]
    dice.shuffle(people)
    return people


def campaign(call_list: int, ivr: str, *, calls_per_second: float) -> dict[str, Any]:
    """Its definition, as POST /dialer/campaigns takes it."""
    again = {"retryAfter": REDIAL_SECONDS, "maxAttempts": 1}
    return {
        "name": "survey",
        "callerId": "123456789",
        "callLists": [call_list],
        "ivr": ivr,
        "activePeriod": {"startTime": "00:00", "endTime": "24:00", "weekDays": [1, 2, 3, 4, 5, 6, 7]},
        "rescheduleRules": [
            {"status": "RS_BUSY", **again},
            {"status": "RS_REJECTED", "extStatus": "CONGESTION", **again},
        ],
        "callsPerSecond": calls_per_second,
        "maxChannels": 100,
        "dialTimeout": LONGEST_RING_SECONDS,
    }


FIRST_NAMES = (
    "Adam", "Alice", "Anna", "Boris", "Clara", "David", "Emil", "Eva", "Filip", "Greta", "Hana", "Ivan", "Jan", "Jana",
    "Karel", "Lena", "Marie", "Martin", "Nora", "Olga", "Pavel", "Petr", "Rosa", "Simon", "Tomas", "Vera",
)  # fmt: skip
LAST_NAMES = (
    "Adler", "Beran", "Cerny", "Dvorak", "Engel", "Fiala", "Gross", "Horak", "Huber", "Janda", "Klein", "Kral",
    "Lang", "Maly", "Novak", "Pokorny", "Ruzicka", "Sedlak", "Stern", "Urban", "Vesely", "Wagner", "Zeman",
)  # fmt: skip
