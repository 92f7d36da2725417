"""For every test."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator

import pytest
from hypothesis import settings

settings.register_profile("dialer", deadline=None)
"""How long an example takes says more about the machine than about the code; pytest's own time-out is the limit."""


def pytest_configure() -> None:
    """pytest-asyncio leaves the loop open that asyncio makes for the main thread when none is set (a warning, and so
    an error, in whatever test comes next)."""
    asyncio.set_event_loop(None)
    settings.load_profile("dialer")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where DIALER_CI is set nothing may be skipped: what is missing there has to be installed."""
    report = yield
    if report.skipped and os.environ.get("DIALER_CI"):
        report.outcome = "failed"
    return report
