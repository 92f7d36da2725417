"""`make lab`: watch the daemon dial three hundred callees of every kind on two real Asterisks.

The same as `dialer-engine demo`, but for the PBX and the callees, who are real. At the end what the daemon recorded is
compared with what the callees wrote down themselves; the exit code is 0 only when all of it is equal. Without a
terminal there are plain lines in place of the live picture. Ctrl-C cleans up.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dialer_engine.cli import show
from dialer_engine.cli.comparison import Line, compare, opted_out, results_of
from dialer_engine.cli.crowd import KINDS, LISTED, SURVEY, Person, campaign, crowd
from dialer_engine.core.model import CampaignId
from dialer_engine.errors import DialerError
from dialer_engine.store import Store
from tests.lab.lab import Lab
from tests.lab.rootfs import CannotBuild
from tests.rig import Rig, RigError

PEOPLE = 300
CALLS_PER_SECOND = 6.0
PATIENCE_SECONDS = 240.0


def run(console: Console) -> bool:
    console.print("starting two Asterisks, Redis and the daemon ...")
    with (
        tempfile.TemporaryDirectory(prefix="watch-") as directory,
        Lab() as lab,
        Rig(Path(directory), lab) as rig,
    ):
        rig.start()
        people = crowd(PEOPLE)
        listed = [person.number for person in people if not person.kind.calls]
        added = rig.cli("dnc", "add", *listed, "--reason", LISTED)
        if added.returncode:
            raise RigError(f"the do-not-call list: {added.stderr or added.stdout}")
        call_list, ivr = rig.call_list(person.row() for person in people), rig.ivr(SURVEY)
        survey = rig.campaign(**campaign(call_list, ivr, calls_per_second=CALLS_PER_SECOND))
        console.print(f"Asterisk {lab.version}; {len(people)} contacts, {CALLS_PER_SECOND} calls a second")
        lines = asyncio.run(_watched(console, rig, lab, CampaignId(survey), people))
        equal = show.tell(lines, console, witness="the world's own log")
        if rig.stop() != 0:
            console.print("[bold red]the daemon did not end in good order[/]")
            return False
    return equal


async def _watched(
    console: Console, rig: Rig, lab: Lab, survey: CampaignId, people: Sequence[Person]
) -> list[Line]:
    store = await Store.open(rig.url)
    try:
        picture = show.Picture(store, survey, people, lab.world_calls, title="dialer-engine on the lab")
        await show.watch(picture, console, patience_seconds=PATIENCE_SECONDS)
        rig.until(lambda: all(call.ended_at for call in lab.world_calls()), 10, "every callee is hung up")
        results, kept = await results_of(store, survey), await opted_out(store)
        return compare(people, lab.world_calls(), results, kept, KINDS)
    finally:
        await store.close()


def main() -> int:
    console = show.standard_output()
    try:
        return 0 if run(console) else 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except (CannotBuild, RigError, DialerError) as error:
        console.print(f"[bold red]{error}[/]")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
