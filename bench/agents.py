"""How soon does a free agent become a ringing line? Agent freed -> INVITE, beside the bare POST -> INVITE.

An agent is freed in two ways: he unpauses, and his telephone hangs up after a call. "Freed" is Asterisk's own stamp of
the AMI event (for the hang-up the telephone's own note is shown, too), and the INVITE is the world's. "Bare" is a POST
of /channels by aiohttp and nothing else, to the same place of the dialplan, in the same run. Boost 1, one agent
for a queue, so that every INVITE has had to wait for him. Run: `python -m bench.agents [UNPAUSES] [SECONDS]`.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.figures import Invalid, load, run, say, share, verdict
from tests.lab import number
from tests.lab.bare_ami import Event
from tests.lab.bare_ari import BareAri
from tests.lab.centre import Centre, centre
from tests.lab.lab import Lab
from tests.lab.recorder import Recorder
from tests.lab.world import WorldCall
from tests.rig import serial

AT_MOST_MORE_MS = 20.0
PAUSER, PAUSERS_QUEUE = 1021, "white"
TALKERS = {"lime": 1022, "teal": 1023, "gold": 1024, "cyan": 1025}
TALK_SECONDS = (0.6, 1.0)
BARE_EVERY_SECONDS = 0.4
BARE_APP = "bare"

_ids = itertools.count(1)


class Bench:
    def __init__(self, here: Centre, ari: BareAri) -> None:
        self._here = here
        self._ari = ari

    async def bare(self) -> float:
        """Seconds from a POST to its INVITE."""
        dialled = number.rejects(486, serial=serial())
        begun = time.time()
        status = await self._ari.originate(
            f"b{next(_ids):020d}",
            f"PJSIP/{dialled}@carrier",
            context="dialer-answered",
            extension=BARE_APP,
            priority=1,
        )
        if status != 200:
            raise Invalid(f"a bare originate is answered by {status}")
        return self._here.lab.wait_for_world(dialled).invited_at - begun

    async def unpauses(self, count: int) -> tuple[list[float], list[float]]:
        """Seconds from each unpause to its INVITE, and of the bare POSTs in between."""
        staff = self._here.staff
        staff.log_in(PAUSERS_QUEUE, [PAUSER], paused=True)
        rings = [number.rejects(486, ring=0.3, serial=serial()) for _ in range(4 * count)]
        campaign = self._here.campaign(PAUSERS_QUEUE, rings, whenDone="wait")
        self._here.until(lambda: self._here.plan(campaign)["limit"] == "WAITING_AGENTS", 10, "it waits")
        bare, freed = [], []
        for _ in range(count):
            bare.append(await self.bare())
            before = time.time()
            staff.pause(PAUSERS_QUEUE, PAUSER, paused=False)
            self._here.dials_after(campaign, before)
            staff.pause(PAUSERS_QUEUE, PAUSER)
            self._here.until(lambda: self._here.rig.live(campaign.id) == 0, 5, "the call has ended")
            freed.append(self._last("QueueMemberPause", "Paused", "0").at)
        self._here.rig.command(campaign.id, "remove")
        return bare, _until_next(freed, self._here.calls(campaign))

    def _last(self, name: str, header: str, value: str) -> Event:
        return [event for event in self._here.recorder.events(name) if event[header] == value][-1]

    async def hang_ups(self, seconds: float) -> tuple[list[float], list[float], list[float]]:
        """Seconds from Asterisk's word that the agent is free, and from the telephone's hang-up, to the next INVITE;
        and of the bare POSTs meanwhile."""
        here, campaigns, bare = self._here, {}, []
        here.staff.talk(TALKERS.values(), TALK_SECONDS)
        for queue, agent in TALKERS.items():
            here.staff.log_in(queue, [agent])
            callees = [number.stays(ring=0.2, serial=serial()) for _ in range(round(seconds * 2))]
            campaigns[queue] = here.campaign(queue, callees, whenDone="wait")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(BARE_EVERY_SECONDS)
            bare.append(await self.bare())
        told, hung_up = [], []
        for queue, campaign in campaigns.items():
            calls = here.calls(campaign)
            told += _until_next(self._freed(queue), calls)
            ends = [call.ended_at for call in here.lab.world_calls(str(TALKERS[queue])) if call.ended_at]
            hung_up += _until_next(ends, calls)
            here.rig.command(campaign.id, "remove")
        return bare, told, hung_up

    def _freed(self, queue: str) -> list[float]:
        """When his telephone became free after a call, by AMI."""
        rows = [event for event in self._here.recorder.events("QueueMemberStatus") if event["Queue"] == queue]
        return [
            after.at
            for before, after in itertools.pairwise(rows)
            if before["Status"] != "1" and after["Status"] == "1"
        ]


def _until_next(instants: Iterable[float], calls: Sequence[WorldCall]) -> list[float]:
    """From each instant to the next INVITE; the last one may have none."""
    invites = [call.invited_at for call in calls]
    places = [(at, bisect.bisect_right(invites, at)) for at in instants]
    return [invites[place] - at for at, place in places if place < len(invites)]


def _tell(name: str, seconds: Sequence[float]) -> float:
    """Median in milliseconds."""
    ordered = sorted(seconds)
    median, late = share(ordered, 0.5) * 1e3, share(ordered, 0.95) * 1e3
    say(f"{name}: median {median:.1f} ms, 95 % {late:.1f} ms, of {len(ordered)}")
    return median


async def measure(stack: ExitStack, unpauses: int, seconds: float) -> None:
    lab = stack.enter_context(Lab())
    recorder = stack.enter_context(Recorder(lab))
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-agents-")))
    here = stack.enter_context(centre(lab, directory, recorder, name="bench"))
    async with BareAri(lab, BARE_APP) as ari:
        bench = Bench(here, ari)
        for _ in range(20):
            await bench.bare()  # warm
        bare, freed = await bench.unpauses(unpauses)
        base = _tell("bare POST -> INVITE", bare)
        median = _tell("agent unpauses -> INVITE", freed)
        say(f"ratio {median / base:.2f} ({load()})")
        verdict("agent unpauses -> INVITE over the bare POST, ms", median - base, at_most=AT_MOST_MORE_MS)
        bare, told, hung_up = await bench.hang_ups(seconds)
        base = _tell(f"bare POST -> INVITE beside {len(TALKERS)} campaigns", bare)
        median = _tell("agent free after a call (AMI) -> INVITE", told)
        _tell("his telephone's hang-up -> INVITE", hung_up)
        say(f"ratio {median / base:.2f} ({load()})")
        verdict(
            "agent free after a call -> INVITE over the bare POST, ms", median - base, at_most=AT_MOST_MORE_MS
        )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    times = int(arguments[0]) if arguments else 100
    wanted_seconds = float(arguments[1]) if len(arguments) > 1 else 60.0
    run(lambda stack: measure(stack, times, wanted_seconds))
