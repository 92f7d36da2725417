"""`python -m tests.traces [--times N] [SCENARIO ...]`: record on the lab what the scenarios say, and keep it.

Each scenario is recorded N times. One that does not come out the same each time is told and not kept: what differs is
either a fault of the scenario, or chance that `normal` must not keep.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.lab.lab import Lab

from . import queue_scenarios  # noqa: F401  they are registered by being there
from .compare import differences
from .manager import ManagerPlace
from .normal import Trace, trace
from .scenarios import CARRIER, SCENARIOS, serial
from .wire import Place, Wire

RECORDED = Path(__file__).parent / "recorded"
AT_ONCE = 12
"""Scenarios side by side: more would make two cores so busy that what is fast becomes slow."""
NEWCOMERS = 6
"""Connections being opened at the same time, of all scenarios together."""


async def record(
    place: Place, names: Sequence[str] = tuple(SCENARIOS), at_once: int = AT_ONCE, real: bool = True
) -> dict[str, Trace | Exception]:
    """Run scenarios beside each other; what went wrong with one stands in place of its trace.

    What a real Asterisk bears only alone (`Scenario.alone`) comes last, one by one.
    """
    turns, room = asyncio.Semaphore(NEWCOMERS), asyncio.Semaphore(at_once)

    async def one(name: str) -> Trace | Exception:
        async with room:
            return await _recorded(place, turns, name)

    together = [name for name in names if not (real and SCENARIOS[name].alone)]
    traces = dict(zip(together, await asyncio.gather(*(one(name) for name in together)), strict=True))
    for name in names:
        if name not in traces:
            traces[name] = await one(name)
    return traces


async def _recorded(place: Place, turns: asyncio.Semaphore, name: str) -> Trace | Exception:
    scenario = SCENARIOS[name]
    async with Wire(place, turns, serial(name)) as wire:
        try:
            await scenario.run(wire)
        except (TimeoutError, OSError) as error:
            return error
        finally:
            await _clean(wire)
    return {"scenario": name, "says": scenario.says, **trace(wire.recording())}


async def _clean(wire: Wire) -> None:
    """Leave no call behind, and no application: one that still follows a trunk would outlive its socket."""
    for identifier, label in wire.labels.items():
        with suppress(OSError):
            if identifier.startswith("c"):
                await wire.look("DELETE", f"/channels/{identifier}")
            elif label in ("app", "watch"):
                path = f"/applications/{identifier}/subscription"
                await wire.look("DELETE", path, query={"eventSource": CARRIER})


def place_of(lab: Lab) -> Place:
    """Where the lab is."""

    def talk(extension: int, seconds: float | None) -> None:
        tenths = "" if seconds is None else f"{seconds * 10:.0f}"
        with lab.world_ami() as world:
            world.do("Setvar", Variable=f"TALK{extension}", Value=f"{tenths}-{tenths}" if tenths else "")

    manager = ManagerPlace(lab.ami_port, lab.ami_user, lab.ami_secret, talk)
    return Place(lab.ari_url, lab.ari_user, lab.ari_password, manager)


def text(kept: Trace) -> str:
    """As it stands in a file: one line for each request and each event."""
    return _indented(kept, 0) + "\n"


def _indented(value: Any, depth: int) -> str:
    inner = "\n" + " " * (depth + 1)
    if isinstance(value, dict) and not {"type", "request"} & value.keys():
        lines = [f"{json.dumps(key)}: {_indented(each, depth + 1)}" for key, each in value.items()]
        return "{" + inner + f",{inner}".join(lines) + f"\n{' ' * depth}}}" if lines else "{}"
    if isinstance(value, list):
        lines = [_indented(each, depth + 1) for each in value]
        return "[" + inner + f",{inner}".join(lines) + f"\n{' ' * depth}]" if lines else "[]"
    return json.dumps(_arranged(value), ensure_ascii=False)


def _arranged(value: Any) -> Any:
    """What it is stands first, the rest in the order of the alphabet."""
    if isinstance(value, dict):
        first = [key for key in ("type", "request", "status", "query", "body", "reply", "id") if key in value]
        return {key: _arranged(value[key]) for key in [*first, *sorted(value.keys() - set(first))]}
    return [_arranged(each) for each in value] if isinstance(value, list) else value


def kept(name: str) -> Trace:
    """The trace that is kept."""
    recorded: Trace = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return recorded


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.traces", description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="how often each is recorded (3)")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", default=list(SCENARIOS))
    chosen = parser.parse_args()
    with Lab() as lab:
        print(f"Asterisk {lab.version}, {len(chosen.scenarios)} scenarios", flush=True)
        place = place_of(lab)
        rounds = []
        for _ in range(chosen.times):
            began = time.monotonic()
            rounds.append(asyncio.run(record(place, chosen.scenarios)))
            print(f"recorded in {time.monotonic() - began:.1f} s", flush=True)
    return _keep(rounds)


def _keep(rounds: list[dict[str, Trace | Exception]]) -> int:
    wrong: list[str] = []
    for name, first in rounds[0].items():
        mine: list[str] = []
        for each in (again[name] for again in rounds):
            if isinstance(each, Exception) or isinstance(first, Exception):
                mine.append(f"{name}: {each if isinstance(each, Exception) else first}")
            else:
                mine += differences(name, first, each, by="then")
        if not mine and not isinstance(first, Exception):
            (RECORDED / f"{name}.json").write_text(text(first), encoding="utf-8")
        wrong += dict.fromkeys(mine)
    print("\n".join(wrong) or "every scenario is the same each time")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
