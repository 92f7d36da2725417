"""For every test."""

from __future__ import annotations

import asyncio


def pytest_configure() -> None:
    """pytest-asyncio leaves the loop open that asyncio makes for the main thread when none is set (a warning, and so
    an error, in whatever test comes next)."""
    asyncio.set_event_loop(None)
