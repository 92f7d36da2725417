"""`python -m tests.lab.soak`: a busy queue for ten minutes, and then every book is held against every other.

Agents pause at random, callers come in from the world, the answer rate of the list swings. At the end the campaign's
results and stats must equal what Asterisk's queue_log and the world's log say, call by call, and the judge goes through
every INVITE. `make test` runs a minute of it.
"""

from __future__ import annotations

import argparse
import math
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.lab import number
from tests.lab.books import Books, books
from tests.lab.centre import Campaign, Centre, centre, to_queue
from tests.lab.lab import Lab
from tests.lab.recorder import Recorder, Verdict
from tests.rig import serial

QUEUE = "violet"
AGENTS = range(1041, 1051)
TALK_SECONDS = (1.0, 4.0)
MESSAGE, MESSAGE_SECONDS = "sound:hello-world", 1.42
NUMBERS_PER_SECOND = 8
"""More than ten agents with a boost of 1.2 can use."""
SWING = 40
"""Numbers from one height of the answer rate to the next."""
MOST_PAUSED = 4
"""But for a meeting, to which all go at once and from which they come back one by one."""


def people(dice: random.Random, count: int) -> list[str]:
    """Their answer rate swings between some 20 and 90 per cent."""
    return [_person(dice, 0.55 + 0.35 * math.sin(2 * math.pi * n / SWING)) for n in range(count)]


def _person(dice: random.Random, answer_rate: float) -> str:
    ring = round(dice.uniform(0.2, 1.5), 1)
    if dice.random() >= answer_rate:
        return number.rejects(dice.choice((486, 486, 480, 404, 603)), ring=ring, serial=serial())
    if dice.random() < 0.3:
        return number.answers(ring=ring, talk=dice.uniform(2.5, 8.0), serial=serial())
    return number.stays(ring=ring, serial=serial())


class Soak:
    """One campaign of it on a call centre."""

    def __init__(self, here: Centre, seed: int, seconds: float) -> None:
        self._here = here
        self._dice = random.Random(seed)
        self._seconds = seconds
        self._paused: list[int] = []
        self.callers = 0

    def run(self) -> tuple[Campaign, Books, Verdict]:
        """From the first log-in to the last hang-up."""
        staff, dice = self._here.staff, self._dice
        staff.talk(AGENTS, TALK_SECONDS)
        staff.log_in(QUEUE, AGENTS)
        campaign = self._here.campaign(
            QUEUE,
            people(dice, round(self._seconds * NUMBERS_PER_SECOND)),
            boost="1.2",
            flow=to_queue(QUEUE, timeout=6, before=MESSAGE),
        )
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            self._something_happens()
            time.sleep(dice.uniform(0.1, 0.6))
        self._here.rig.command(campaign.id, "pause")
        self._here.rig.reaches(campaign.id, "PAUSED")
        for extension in self._paused:
            staff.pause(QUEUE, extension, paused=False)
        self._here.until(lambda: self._here.rig.live(campaign.id) == 0, 60, "every call has been settled")
        verdict = self._here.recorder.judge(self._here.calls(campaign), [campaign.watched])
        return campaign, books(self._here, campaign, ivr_seconds=MESSAGE_SECONDS), verdict

    def _something_happens(self) -> None:
        dice = self._dice
        free = [each for each in AGENTS if each not in self._paused]
        match dice.random():
            case chance if chance < 0.015:
                self._call_in(5)
            case chance if chance < 0.035:
                self._pause(free)
            case chance if chance < 0.1:
                self._call_in(1)
            case chance if self._paused and (len(self._paused) >= MOST_PAUSED or chance < 0.55):
                self._here.staff.pause(QUEUE, self._paused.pop(0), paused=False)
            case _:
                self._pause(dice.sample(free, 1))

    def _call_in(self, count: int) -> None:
        for _ in range(count):
            self._here.staff.call_in(QUEUE, self._dice.uniform(3.0, 9.0))
        self.callers += count

    def _pause(self, extensions: Sequence[int]) -> None:
        for extension in extensions:
            self._here.staff.pause(QUEUE, extension)
        self._paused += extensions


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int)
    chosen = parser.parse_args(arguments)
    seed = secrets.randbelow(10**6) if chosen.seed is None else chosen.seed
    print(f"seed {seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as directory,
        Lab() as lab,
        Recorder(lab) as recorder,
        centre(lab, Path(directory), recorder, name="soak") as here,
    ):
        soak = Soak(here, seed, chosen.minutes * 60)
        _, kept, verdict = soak.run()
        wrong = [*kept.check(), *verdict.wrong]
        print(
            *wrong, kept.figures(), f"{soak.callers} callers from elsewhere", verdict.text, sep="\n", flush=True
        )
    return 1 if wrong or not verdict.judged else 0


if __name__ == "__main__":
    sys.exit(main())
