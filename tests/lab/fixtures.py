"""The lab as a pytest fixture; other directories' conftest may import it: one lab serves the whole run."""

from __future__ import annotations

import atexit
import os
from functools import cache

import pytest

from .lab import Lab
from .rootfs import CannotBuild


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
