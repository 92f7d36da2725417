"""`make lab`: watch the daemon dial three hundred callees of every kind on two real Asterisks.

At the end what the daemon recorded is compared with what the callees wrote down themselves; the exit code is 0 only
when all of it is equal. Without a terminal there are plain lines in place of the live picture. Ctrl-C cleans up.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tests.lab import number
from tests.lab.lab import Lab
from tests.lab.rootfs import CannotBuild
from tests.lab.world import WorldCall
from tests.rig import SURVEY, Rig, RigError

CALLS_PER_SECOND = 6
CHANNELS = 60
DIAL_TIMEOUT = 15
PATIENCE_SECONDS = 240.0
LOOK_SECONDS = 0.25
PLAIN_LINE_SECONDS = 5.0
PACE_SECONDS = 5.0
"""Calls per second are those of so long."""
CLOSE_SECONDS = 1.0
"""Times that differ by less are equal: a busy machine hands on an event later than it happened."""


@dataclass(frozen=True)
class Kind:
    """Callees that do the same."""

    name: str
    count: int
    dialled: Callable[[int], str]
    listed: bool = False  # on the do-not-call list before the first call


KINDS = [
    Kind("presses 1", 40, lambda n: number.presses("1", after=2.0, ring=1.0, serial=n)),
    Kind("presses 2, ahead of the question", 20, lambda n: number.presses("2", ring=0.5, serial=n)),
    Kind("presses 9: never again", 12, lambda n: number.presses("9", after=3.0, ring=0.8, serial=n)),
    Kind("presses a wrong key", 8, lambda n: number.presses("5", after=2.5, ring=1.0, serial=n)),
    Kind("listens and says nothing", 15, lambda n: number.stays(ring=1.5, serial=n)),
    Kind("hangs up in the message", 35, lambda n: number.answers(ring=1.0, talk=1.0, serial=n)),
    Kind("is busy", 40, lambda n: number.rejects(486, ring=0.2 * (n % 2), serial=n)),
    Kind("does not exist (404)", 25, lambda n: number.rejects(404, serial=n)),
    Kind("has moved (410)", 5, lambda n: number.rejects(410, serial=n)),
    Kind("is announced, then 404", 15, lambda n: number.announces(404, seconds=1.5, serial=n)),
    Kind("is switched off (480)", 12, lambda n: number.rejects(480, serial=n)),
    Kind("declines (603)", 12, lambda n: number.rejects(603, ring=2.0, serial=n)),
    Kind("the carrier is full (503)", 10, lambda n: number.rejects(503, serial=n)),
    Kind("the carrier forbids it (403)", 5, lambda n: number.rejects(403, serial=n)),
    Kind("speaks no codec of ours (488)", 5, lambda n: number.rejects(488, serial=n)),
    Kind("rings and rings", 20, number.rings_out),
    Kind("is never heard of", 5, number.never_rings),
    Kind("rings in band only", 6, number.rings_in_band),
    Kind("is on the do-not-call list", 10, lambda n: number.stays(serial=900_000 + n), listed=True),
]

REJECTED: Mapping[int, tuple[str, str | None]] = {
    403: ("RS_REJECTED", "REFUSED"),
    404: ("RS_NUMBER", None),
    410: ("RS_NUMBER", None),
    480: ("RS_NOANSWER", "NOT_REACHABLE"),
    486: ("RS_BUSY", None),
    488: ("RS_ERROR", "MEDIA"),
    503: ("RS_REJECTED", "CONGESTION"),
    603: ("RS_REJECTED", "REFUSED"),
}
"""The product's promise (spec section 5), written down once more and not taken from its source."""
KEYS: Mapping[str, str] = {"1": "CONFIRMED", "2": "DECLINED"}
INSTANTS = {
    "originatedAt": "invited_at",
    "ringingAt": "ringing_at",
    "answeredAt": "answered_at",
    "endedAt": "ended_at",
}


# --- what is compared ---


Said: TypeAlias = tuple[str, str | None, dict[str, str]]
"""Status, extStatus and the answers given."""


def promised(call: WorldCall) -> Said:
    """What the daemon should have recorded of a callee who did this."""
    if call.rejected_by is not None:
        return *REJECTED[call.rejected_by], {}
    if call.answered_at is None:
        reached = call.ringing_at is not None or call.progress_at is not None
        return "RS_NOANSWER", None if reached else "NOT_REACHABLE", {}
    if call.ended_by == "world":
        return "TERMINATED", "HANGUP", {}
    answer = next((key for key, _ in call.keys if key in KEYS), None)
    return ("TERMINATED", KEYS[answer], {"answer": answer}) if answer else ("TERMINATED", None, {})


def deed(call: WorldCall) -> str:
    """What the callee did, in words."""
    if call.rejected_by is not None:
        announced = "announced it, " if call.progress_at is not None else ""
        return f"{announced}rejected by {call.rejected_by}"
    if call.answered_at is None:
        reached = "rang" if call.ringing_at else "rang in band" if call.progress_at else "gave no sign"
        return f"{reached} for {(call.ended_at or 0) - call.invited_at:.0f} s"
    if call.keys:
        return "pressed " + "".join(key for key, _ in call.keys)
    return "answered and hung up" if call.ended_by == "world" else "answered and listened"


def recorded(result: Mapping[str, Any]) -> Said:
    return result["status"], result["extStatus"], result["values"]


def largest_difference(result: Mapping[str, Any], call: WorldCall) -> float:
    """In seconds, of the four instants; infinite when only one of both knows of one."""
    largest = 0.0
    for ours, theirs in INSTANTS.items():
        text, seen = result[ours], getattr(call, theirs)
        if (text is None) != (seen is None):
            return float("inf")
        if text is not None:
            largest = max(largest, abs(datetime.fromisoformat(text).timestamp() - seen))
    return largest


@dataclass(frozen=True)
class Line:
    """A row of the last table."""

    name: str
    callees: int
    did: str
    said: str
    equal: bool


def compare(rig: Rig, kind: Kind, results: Mapping[str, list[dict[str, Any]]]) -> tuple[Line, float]:
    """One kind's row, and how far its times are apart."""
    did: Counter[str] = Counter()
    said: Counter[str] = Counter()
    equal, apart = True, 0.0
    for serial in range(kind.count):
        dialled = kind.dialled(serial)
        calls, items = rig.world_calls([dialled]), results.get(dialled, [])
        wanted: list[Said]
        if kind.listed:
            wanted = [] if calls else [("RS_BLACKLIST", "on the list before", {})]
        else:
            wanted = [promised(call) for call in calls]
            apart = max([apart, *map(largest_difference, items, calls)])
        found = [recorded(item) for item in items]
        did.update(map(deed, calls) if calls else ["was not called"])
        said.update(words(one) for one in found)
        equal = equal and len(wanted) == 1 and wanted == found
    return Line(kind.name, kind.count, counted(did), counted(said), equal), apart


def words(one: Said) -> str:
    status, ext_status, _ = one
    return f"{status}/{ext_status}" if ext_status else status


def counted(texts: Counter[str]) -> str:
    return ", ".join(f"{count} {text}" for text, count in sorted(texts.items())) or "nothing"


def summary(rig: Rig, campaign: int) -> list[Line]:
    """Everything that must be equal."""
    results: dict[str, list[dict[str, Any]]] = {}
    for item in rig.results(campaign):
        results.setdefault(item["number"], []).append(item)
    pairs = [compare(rig, kind, results) for kind in KINDS]
    lines = [line for line, _ in pairs]
    apart = max(seconds for _, seconds in pairs)
    lines.append(
        Line(
            "times of all calls",
            sum(line.callees for line in lines),
            "INVITE, ringing, answer, end",
            f"the same within {apart:.2f} s",
            apart < CLOSE_SECONDS,
        )
    )
    wishes = {call.number for call in rig.world_calls(numbers(KINDS)) if "9" in {key for key, _ in call.keys}}
    kept = opted_out(rig)
    lines.append(
        Line(
            "wants no more calls",
            len(wishes),
            f"{len(wishes)} pressed 9",
            f"{len(kept)} listed",
            wishes == kept,
        )
    )
    return lines


def numbers(kinds: Iterable[Kind]) -> list[str]:
    return [kind.dialled(serial) for kind in kinds for serial in range(kind.count)]


def opted_out(rig: Rig) -> set[str]:
    """Who is on the do-not-call list by a wish of his own."""
    listed = json.loads(rig.cli("dnc", "list", "--json").stdout)
    return {row["number"] for row in listed if row["reason"] == "opt-out in a call"}


# --- what is watched ---


class Picture:
    """What a person sees while it dials."""

    def __init__(self, rig: Rig, campaign: int) -> None:
        self._rig = rig
        self._campaign = campaign
        self._begun = time.time()
        self._dialled = numbers(KINDS)
        self.look()

    def look(self) -> None:
        """Read everything anew."""
        rig, campaign = self._rig, self._campaign
        self.state = rig.state(campaign).get("state", "NEW")
        self.contacts = rig.contacts(campaign)
        self.statuses = rig.statuses(campaign)
        plans: Any = rig.redis.hvals(rig.key(f"campaign:{campaign}:plan"))
        plan = json.loads(plans[0]) if plans else {}
        self.limit, self.sentence = plan.get("limit", "-"), plan.get("text", "")
        live: Any = rig.redis.smembers(rig.key(f"campaign:{campaign}:live"))
        phases = [rig.redis.hget(rig.key(f"attempt:{attempt}"), "phase") for attempt in live]
        self.phases = Counter(str(phase) for phase in phases if phase)
        calls = [call.invited_at for call in rig.world_calls(self._dialled)]
        self.calls = len(calls)
        self.pace = sum(at > time.time() - PACE_SECONDS for at in calls) / PACE_SECONDS

    @property
    def over(self) -> bool:
        return self.state == "COMPLETED"

    @property
    def seconds(self) -> float:
        return time.time() - self._begun

    def render(self) -> RenderableType:
        total = len(self._dialled)
        facts = Table.grid(padding=(0, 2))
        facts.add_row("campaign", f"[bold]{self.state}[/] for {self.seconds:.0f} s")
        facts.add_row("limit", f"[bold]{self.limit}[/]  {self.sentence}")
        facts.add_row("live calls", counted(self.phases))
        facts.add_row("calls", f"{self.calls} so far, {self.pace:.1f} a second")
        statuses = Table(box=None, padding=(0, 2))
        statuses.add_column("status")
        statuses.add_column("results", justify="right")
        for status, count in sorted(self.statuses.items()):
            statuses.add_row(status, str(count))
        done = Table.grid(padding=(0, 1))
        closed = self.contacts["closed"]
        done.add_row(
            ProgressBar(total=total, completed=closed, width=40), f"{closed} of {total} contacts are done"
        )
        return Panel(Group(facts, Text(), statuses, Text(), done), title="dialer-engine on the lab")

    def line(self) -> str:
        return (
            f"{self.seconds:4.0f} s  {self.state}  {self.limit}  {self.contacts['closed']} of {len(self._dialled)} "
            f"done  {self.pace:.1f} calls/s  live: {counted(self.phases)}  results: {counted(self.statuses)}"
        )


def watch(picture: Picture, console: Console) -> None:
    """Until the campaign has completed."""
    shown = console.is_terminal
    said_at, limit = 0.0, ""
    with Live(picture.render(), console=console, auto_refresh=False) if shown else nullcontext() as live:
        while not picture.over:
            if picture.seconds > PATIENCE_SECONDS:
                raise RigError(f"not completed in {PATIENCE_SECONDS:.0f} s: {picture.line()}")
            time.sleep(LOOK_SECONDS)
            picture.look()
            if live is not None:
                live.update(picture.render(), refresh=True)
                continue
            if picture.sentence and picture.limit != limit:
                limit = picture.limit
                print(f"{picture.seconds:4.0f} s  {limit}: {picture.sentence}", flush=True)
            if time.monotonic() - said_at >= PLAIN_LINE_SECONDS:
                said_at = time.monotonic()
                print(picture.line(), flush=True)


def tell(lines: Iterable[Line], console: Console) -> bool:
    """The last table; True when all is equal."""
    table = Table(title="what the callees did, and what the daemon recorded")
    for heading in ("callee", "calls", "by the world's own log", "by the daemon", ""):
        table.add_column(heading, justify="right" if heading == "calls" else "left", overflow="fold")
    all_equal = True
    for line in lines:
        all_equal = all_equal and line.equal
        verdict = "[green]equal[/]" if line.equal else "[bold red]NOT EQUAL[/]"
        table.add_row(line.name, str(line.callees), line.did, line.said, verdict)
    console.print(table)
    console.print("all equal" if all_equal else "[bold red]not all equal[/]")
    return all_equal


# --- the whole ---


def run(console: Console) -> bool:
    console.print("starting two Asterisks, Redis and the daemon ...")
    with (
        tempfile.TemporaryDirectory(prefix="watch-") as directory,
        Lab() as lab,
        Rig(Path(directory), lab) as rig,
    ):
        rig.start()
        listed = numbers(kind for kind in KINDS if kind.listed)
        added = rig.cli("dnc", "add", *listed, "--reason", "on the list before")
        if added.returncode:
            raise RigError(f"the do-not-call list: {added.stderr or added.stdout}")
        dialled = numbers(KINDS)
        random.Random(0).shuffle(dialled)  # kinds mixed, and the same every time
        campaign = rig.campaign(
            dialled,
            flow=SURVEY,
            callsPerSecond=CALLS_PER_SECOND,
            maxChannels=CHANNELS,
            dialTimeout=DIAL_TIMEOUT,
        )
        console.print(f"Asterisk {lab.version}; {len(dialled)} contacts, {CALLS_PER_SECOND} calls a second")
        watch(Picture(rig, campaign), console)
        rig.until(lambda: all(call.ended_at for call in lab.world_calls()), 10, "every callee is hung up")
        equal = tell(summary(rig, campaign), console)
        if rig.stop() != 0:
            console.print("[bold red]the daemon did not end in good order[/]")
            return False
    return equal


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        return 0 if run(console) else 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except (CannotBuild, RigError) as error:
        console.print(f"[bold red]{error}[/]")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
