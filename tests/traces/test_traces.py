"""The recordings are what the real Asterisk says now."""

from __future__ import annotations

import asyncio

import pytest

from tests.lab.lab import Lab

from .compare import differences
from .normal import Trace
from .record import RECORDED, kept, record
from .scenarios import SCENARIOS
from .wire import Place

Heard = dict[str, Trace | Exception]


def check(name: str, heard: Heard, by: str) -> None:
    got = heard[name]
    if isinstance(got, Exception):
        raise got
    different = differences(name, kept(name), got, by)
    assert not different, "\n".join(different)


def test_every_scenario_is_recorded_and_no_other() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == set(SCENARIOS)


@pytest.fixture(scope="session")
def fresh(lab: Lab) -> Heard:
    """Everything recorded once more."""
    return asyncio.run(record(Place(lab.ari_url, lab.ari_user, lab.ari_password)))


@pytest.mark.lab
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", SCENARIOS)
def test_asterisk_says_what_is_recorded(name: str, fresh: Heard) -> None:
    check(name, fresh, "now")
