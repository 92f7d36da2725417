"""What the benchmarks have in common: CPU seconds of a process, figures over repetitions, and the word for a run
that says nothing. No benchmark itself."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import psutil
import uvloop

from tests.lab.asterisk import LabError
from tests.lab.rootfs import CannotBuild
from tests.lab.sipp import NoSipp
from tests.rig import RigError


class Invalid(Exception):
    """The run itself went wrong: its figures mean nothing, for or against anybody."""


def cpu_seconds(pid: int | None = None) -> float:
    """User and system time of a process so far, this one's by default."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def spread(values: Iterable[float], form: str = "{:.2f}") -> str:
    """Minimum, median, maximum."""
    ordered = sorted(values)
    shown = (ordered[0], statistics.median(ordered), ordered[-1])
    return " / ".join(form.format(value) for value in shown)


def share(ordered: Sequence[float], part: float) -> float:
    """The value below which this part of them lies."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def load() -> str:
    """Others on this machine take time, too: a figure without this is none."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


def verdict(name: str, value: float, at_most: float | None = None, at_least: float | None = None) -> None:
    """The median against its aim. No test: a miss is told and nothing more."""
    if at_most is not None:
        say(f"{name}: {value:.2f}, at most {at_most}: {'met' if value <= at_most else 'MISSED'}")
    if at_least is not None:
        say(f"{name}: {value:.2f}, at least {at_least}: {'met' if value >= at_least else 'MISSED'}")


def run(measure: Callable[[ExitStack], Coroutine[Any, Any, None]]) -> None:
    """Measure, on the loop that the daemon uses; exit 1 with a sentence when the run was none."""
    try:
        with ExitStack() as stack, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measure(stack))
    except CannotBuild as exc:
        say(f"not measured, there is no lab here: {exc}")
    except NoSipp as exc:
        say(f"not measured: {exc}")
    except (Invalid, RigError, LabError) as exc:
        say(f"INVALID, this run proves nothing: {exc} ({load()})")
        sys.exit(1)
