"""Does a call cost more when many others are live? CPU of the daemon per call at 10 and at 1,000 live calls.

The live ones were answered by SIPp and stand in a `wait` block; the new ones come at the same rate beside 10 and
beside 1,000, are answered at once and hung up at once. What the daemon does for the live ones meanwhile (their
leases, the question about each of them once a minute) counts, as it must. Run: `python -m bench.live_calls
[REPETITIONS] [RATE]`.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.figures import Invalid, cpu_seconds, load, run, say, spread, verdict
from tests.lab.lab import Lab
from tests.lab.sipp import Sipp
from tests.rig import Rig

FEW, MANY = 10, 1000
SECONDS = 8
"""Of new calls, at each number of live ones."""
HOLD = {
    "name": "hold",
    "start": "hold",
    "blocks": {"hold": {"type": "wait", "seconds": 600, "next": "bye"}, "bye": {"type": "hangup"}},
}
HELD_PER_SECOND = 100

_serials = itertools.count(1)


def numbers(count: int) -> list[str]:
    return [f"6{next(_serials):011d}" for _ in range(count)]


class Bench:
    def __init__(self, rig: Rig, lab: Lab, rate: float) -> None:
        self.rig = rig
        self.lab = lab
        self.rate = rate

    def hold(self, count: int) -> None:
        """So many more calls that stay."""
        self.rig.campaign(
            numbers(count), flow=HOLD, trunk="sipp", maxChannels=5000, callsPerSecond=HELD_PER_SECOND
        )
        wanted = self._live() + count
        self.rig.until(lambda: self._live() >= wanted, 30 + count / 20, f"{wanted} calls are live")

    def _live(self) -> int:
        """Answered and in the flow: only then a call's record knows its position."""
        keys = self.rig.redis.scan_iter(self.rig.key("attempt:*"), count=1000)
        return sum(bool(self.rig.redis.hexists(key, "position")) for key in keys)

    def milliseconds(self, live: int) -> float:
        """Of CPU, for one new call beside these."""
        assert self.rig.process is not None
        count = round(self.rate * SECONDS)
        campaign = self.rig.campaign(
            numbers(count), trunk="sipp", start=False, maxChannels=1000, callsPerSecond=self.rate
        )
        before = cpu_seconds(self.rig.process.pid)
        self.rig.command(campaign, "start")
        self.rig.completed(campaign, timeout=60 + count / 5)
        spent = cpu_seconds(self.rig.process.pid) - before
        if self.rig.statuses(campaign) != {"TERMINATED": count}:
            raise Invalid(f"{count} callees answer, and the results are {dict(self.rig.statuses(campaign))}")
        if self._live() != live:
            raise Invalid(f"{live} calls should be live, and {self._live()} are")
        return spent / count * 1e3

    def end_all(self) -> None:
        self.lab.hang_up_everything()
        self.rig.until(lambda: self._live() == 0, 60, "every call has ended")


async def measure(stack: ExitStack, repetitions: int, rate: float) -> None:
    lab = stack.enter_context(Lab())
    stack.enter_context(Sipp(lab.sipp_port))
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-live-")))
    rig = stack.enter_context(Rig(directory, lab))
    rig.start()
    bench = Bench(rig, lab, rate)
    bench.milliseconds(0)  # warm: connections are open, the trunk is trusted
    few: list[float] = []
    many: list[float] = []
    for _ in range(repetitions):
        bench.hold(FEW)
        few.append(bench.milliseconds(FEW))
        bench.hold(MANY - FEW)
        many.append(bench.milliseconds(MANY))
        bench.end_all()
        say(f"ms of CPU per call: at {FEW} live {few[-1]:.2f}, at {MANY} live {many[-1]:.2f} ({load()})")
    ratio = [more / less for more, less in zip(many, few, strict=True)]
    say(
        "",
        f"ms of CPU per call at {rate:g} new calls/s, minimum / median / maximum of {repetitions}, {load()}",
        f"{FEW} live calls {spread(few)}; {MANY} live calls {spread(many)}; ratio {spread(ratio)}",
    )
    verdict(f"CPU per call, {MANY} live / {FEW} live", statistics.median(ratio), at_most=1.3)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    times = int(arguments[0]) if arguments else 5
    wanted_rate = float(arguments[1]) if len(arguments) > 1 else 100.0
    run(lambda stack: measure(stack, times, wanted_rate))
