"""The lab as a pytest fixture; other directories' conftest may import it: one lab serves the whole run."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from functools import cache

import pytest

from .lab import Lab
from .rootfs import CannotBuild
from .sipp import NoSipp, Sipp


@cache
def _running() -> Lab:
    lab = Lab()
    atexit.register(lab.close)
    lab.start()
    return lab


@pytest.fixture(scope="session")
def lab() -> Lab:
    """PBX and world, running; skipped where they cannot be had, but not in CI."""
    try:
        return _running()
    except CannotBuild as error:
        if os.environ.get("DIALER_CI") == "1":
            raise
        pytest.skip(f"no lab: {error}")


@pytest.fixture
def sipp(lab: Lab) -> Iterator[Sipp]:
    """A callee for load behind `PJSIP/NUMBER@sipp`: answers at once and stays until hung up."""
    try:
        callee = Sipp(lab.sipp_port)
    except NoSipp as error:
        if os.environ.get("DIALER_CI") == "1":
            raise
        pytest.skip(str(error))
    with callee:
        yield callee
