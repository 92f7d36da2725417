"""What is done by the calendar is done in the loop, with an engine that notes where it is called."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from dialer_engine.config import load
from dialer_engine.daemon import housekeeping
from dialer_engine.engine import Engine
from dialer_engine.store import Store


class Noting:
    def __init__(self) -> None:
        self.threads: list[int] = []
        self.called = asyncio.Event()

    async def audit(self) -> None:
        self._note()

    def wake(self) -> None:
        self._note()

    def _note(self) -> None:
        self.threads.append(threading.get_ident())
        asyncio.get_running_loop().call_soon(self.called.set)


async def test_the_engine_is_woken_in_its_own_thread(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """APScheduler runs what is no coroutine in a thread of its own, where an event of the loop's wakes nobody."""
    monkeypatch.setenv("DIALER_ARI__PASSWORD", "x")
    monkeypatch.setenv("DIALER_DAEMON__DATA_DIRECTORY", str(tmp_path))
    config, engine = load(None), Noting()
    jobs = housekeeping(lambda: config, cast(Engine, engine), store)
    for job in jobs.get_jobs():
        job.modify(next_run_time=datetime.now(UTC))
    jobs.start()
    try:
        async with asyncio.timeout(5):
            while len(engine.threads) < 2:
                engine.called.clear()
                await engine.called.wait()
    finally:
        jobs.shutdown(wait=False)
    assert set(engine.threads) == {threading.get_ident()}
