"""Asterisk's own record of its queues, call by call: what the daemon's results are held against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Served:
    """What the queue's log says of one caller; instants and durations in whole seconds."""

    caller: str  # the channel's Uniqueid
    queue: str
    entered_at: int
    agent: str | None = None  # the name of the member who took the call
    connected_at: int | None = None
    hold_seconds: int | None = None  # until an agent or the end
    talk_seconds: int | None = None
    ended: str | None = None  # COMPLETEAGENT, COMPLETECALLER, ABANDON, EXITWITHTIMEOUT, ...
    refused: int = 0  # offers that were not answered


def read(path: Path) -> dict[str, Served]:
    """By Uniqueid; a caller who was in two queues is known by the last one."""
    return parse(path.read_text(errors="replace").splitlines()) if path.exists() else {}


def parse(lines: Iterable[str]) -> dict[str, Served]:
    found: dict[str, Served] = {}
    for line in lines:
        at, caller, queue, agent, event, *data = line.split("|")
        if event == "ENTERQUEUE":
            found[caller] = Served(caller, queue, int(at))
        elif caller in found:
            found[caller] = _after(found[caller], int(at), agent, event, data)
    return found


def _after(served: Served, at: int, agent: str, event: str, data: list[str]) -> Served:
    if event == "CONNECT":
        return replace(served, agent=agent, connected_at=at, hold_seconds=int(data[0]))
    if event in ("COMPLETEAGENT", "COMPLETECALLER"):
        return replace(served, ended=event, talk_seconds=int(data[1]))
    if event in ("ABANDON", "EXITWITHTIMEOUT"):
        return replace(served, ended=event, hold_seconds=int(data[2]))
    if event == "RINGNOANSWER":
        return replace(served, refused=served.refused + 1)
    return replace(served, ended=event)
