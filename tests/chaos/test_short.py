"""A small run of `python -m tests.chaos`, of another seed each time; a failure tells the seed and the stories."""

from __future__ import annotations

import secrets
import shutil

import pytest

from tests.chaos.scenarios import kills
from tests.lab.lab import Lab

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]


@pytest.mark.timeout(150)
def test_a_few_kills_lose_nobody_and_ring_nobody_twice(lab: Lab) -> None:
    verdict = kills(lab, secrets.randbelow(10**6), count=7, contacts=70, longest=False)
    print(verdict.text())
    assert not verdict.wrong, verdict.text()
