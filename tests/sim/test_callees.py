"""What a number makes its callee do: the simulator's plan is the lab's."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from dialer_engine.cli.simulate import NUMBERS
from dialer_engine.simulator.callees import Callee, Population, scripted
from dialer_engine.simulator.threads import FOREVER
from tests.lab import number

SCRIPTS = [
    (number.answers(ring=0.5, talk=3.0), Callee(waits_seconds=0.5, talks_seconds=3.0)),
    (number.answers(ring=0, talk=0.6, serial=7), Callee(rings=False, talks_seconds=0.6)),
    (number.stays(ring=2.5), Callee(waits_seconds=2.5)),
    (number.presses("12", after=1.5, ring=0.3), Callee(waits_seconds=0.3, keys="12", keys_after_seconds=1.5)),
    (number.presses("1234#", ring=0), Callee(rings=False, keys="1234#", keys_after_seconds=1.0)),
    (number.presses("#"), Callee(waits_seconds=0.5, keys="#", keys_after_seconds=1.0)),
    (number.listens(), Callee(waits_seconds=0.5, keys_after_seconds=1.0)),
    (number.rejects(486), Callee(rings=False, sip_code=486)),
    (number.rejects(603, ring=1.2), Callee(waits_seconds=1.2, sip_code=603)),
    (number.rings_out(), Callee(waits_seconds=FOREVER)),
    (number.never_rings(), Callee(rings=False, waits_seconds=FOREVER)),
    (number.rings_in_band(), Callee(rings=False, early_media=True, waits_seconds=FOREVER)),
    (number.announces(404, 1.5), Callee(rings=False, early_media=True, waits_seconds=1.5, sip_code=404)),
    (number.machine(ring=0.4), Callee(waits_seconds=0.4)),
    (number.says_hello(), Callee(waits_seconds=0.5)),
]


@pytest.mark.parametrize(("digits", "callee"), SCRIPTS)
def test_a_script_says_what_the_labs_numbers_say(digits: str, callee: Callee) -> None:
    assert scripted(digits) == callee


@pytest.mark.parametrize("digits", ["", "1", "000000000000", "500399000000", "600181000000", "50048600000x"])
def test_other_numbers_are_no_scripts(digits: str) -> None:
    assert scripted(digits) is None


@pytest.mark.parametrize("first", "123456789")
def test_the_command_says_what_each_first_digit_means(first: str) -> None:
    assert scripted(f"{first}00486000000") or scripted(f"{first}00180000000")
    assert re.search(rf"^  {first} |so does {first}$", NUMBERS, re.MULTILINE)


def test_who_does_it_once_does_it_always_and_another_seed_is_another_town() -> None:
    town, again, other = Population(1), Population(1), Population(2)
    numbers = [f"0155{n:05d}" for n in range(200)]
    assert [town.callee(n) for n in numbers] == [again.callee(n) for n in reversed(numbers)][::-1]
    assert [town.callee(n) for n in numbers] != [other.callee(n) for n in numbers]


def test_a_population_has_the_shares_it_was_given() -> None:
    shares = {"talks": 60, "busy": 30, "rings out": 10}
    town = Population(3, shares)
    met = Counter(_kind(town.callee(f"0155{n:06d}")) for n in range(3000))
    assert met.keys() == shares.keys()
    for kind, share in shares.items():  # four standard deviations
        assert met[kind] / 3000 == pytest.approx(share / 100, abs=0.036)


def _kind(callee: Callee) -> str:
    if callee.sip_code is not None:
        return "busy"
    return "rings out" if callee.waits_seconds == FOREVER else "talks"
