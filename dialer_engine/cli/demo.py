"""dialer-engine demo: the real daemon at work, with nothing else installed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Annotated

import typer

from dialer_engine.cli.session import tell
from dialer_engine.errors import Unavailable


def demo(
    numbers: Annotated[int, typer.Option(min=25, max=5000, help="How many people are called.")] = 320,
    speed: Annotated[
        float, typer.Option(min=0.2, max=3, help="Of the dialing and of the people. A ring ends after 15 s.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Who is who, and in which order they are called.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Stay afterwards, to be played with.")] = False,
) -> None:
    """Watch the daemon call simulated people: no PBX, no Redis and no configuration are needed.

    At the end what it has recorded is compared with what the people did. Exit 0: all is equal.
    """
    from dialer_engine.cli import stage  # the other commands need neither an HTTP server nor a Redis

    try:
        code = asyncio.run(_until_told(stage.play(numbers, speed=speed, seed=seed, keep=keep)))
    except Unavailable as exc:
        tell(str(exc))
        raise typer.Exit(1) from exc
    raise typer.Exit(code)


async def _until_told(work: Coroutine[object, object, bool]) -> int:
    """The exit code: of the work, or of the signal that ended it. Further ones do not disturb the clearing up."""
    task = asyncio.create_task(work)
    told: list[int] = []

    def stop(signum: int) -> None:
        if not told:
            task.cancel()
        told.append(signum)

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signum, stop, signum)
    try:
        return 0 if await task else 1
    except asyncio.CancelledError:
        if not told:
            raise
        tell("stopped, and everything is cleared away")
        return 128 + told[0]
