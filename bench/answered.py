"""Answered calls, the daemon against a bare loop: what an answered call costs, and how many each can do.

Callees are SIPp's, which answer at once; the flow hangs up at once. "Bare" is aiohttp and nothing else: it sends
the same originates to the same place of the dialplan, reads the same events through the same filter, and deletes
the channel when the call has come to the application. It knows no campaigns, no rules and no Redis, and loses all
of it when it dies. Both take turns on one lab.

First at a rate: CPU per call, and whether the daemon keeps its slots. A call's slot is 1/rate after the call
before it; what a stall has lost is not caught up, so the achieved rate tells it. Then without one: calls per
second, with the same number of them under way. Run: `python -m bench.answered [REPETITIONS] [RATE]`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from bench.figures import Invalid, cpu_seconds, load, run, say, share, spread, verdict
from dialer_engine.ari.events import WANTED
from tests.lab.lab import Lab
from tests.lab.sipp import Sipp
from tests.rig import Rig

SECONDS = 6
"""Of calls at the rate."""
PEAK_CALLS = 2000
IN_FLIGHT = 150
"""Calls under way at the peak, of either. More than the PBX can use at a time; many more only make it slower."""
WARM_CALLS = 300
"""Before the clock runs: connections are opened, and a trunk that has shown nothing yet is trusted by and by."""
LATE_SECONDS = 0.05
CONNECTIONS = 32
CLEANING_SECONDS = 1.0
"""For Asterisk to clean up after the socket before: one that comes at once may stay deaf."""
ROUNDED_SECONDS = 0.002

_serials = itertools.count(1)


def numbers(count: int) -> list[str]:
    return [f"6{next(_serials):011d}" for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's turn at one load."""

    calls: int
    cpu: float
    begun: Sequence[float]  # when each was originated, in order
    answered: Sequence[float]

    @property
    def rate(self) -> float:
        """Calls per second, from the first originate to the last."""
        return (len(self.begun) - 1) / (self.begun[-1] - self.begun[0])

    @property
    def milliseconds(self) -> float:
        """Of CPU for one call."""
        return self.cpu / self.calls * 1000

    @property
    def seconds_to_answer(self) -> float:
        """The mean one: what the PBX takes, and how long both sides wait for each other."""
        return statistics.mean(self.answered) - statistics.mean(self.begun)

    def lateness(self, rate: float) -> list[float]:
        """How long after its slot each call left, ascending."""
        return sorted(after - before - 1 / rate for before, after in itertools.pairwise(self.begun))


# The daemon


def daemon(rig: Rig, count: int, **pace: Any) -> Turn:
    """A campaign from its start to its end."""
    assert rig.process is not None
    campaign = rig.campaign(numbers(count), trunk="sipp", start=False, maxCallDuration=60, **pace)
    before = cpu_seconds(rig.process.pid)
    rig.command(campaign, "start")
    results = rig.completed(campaign, timeout=60 + count / 20)
    cpu = cpu_seconds(rig.process.pid) - before
    if rig.statuses(campaign) != {"TERMINATED": count}:
        raise Invalid(f"{count} callees answer, and the results are {dict(rig.statuses(campaign))}")
    return Turn(count, cpu, *(_instants(results, name) for name in ("originatedAt", "answeredAt")))


def _instants(results: Sequence[dict[str, object]], name: str) -> list[float]:
    return sorted(datetime.fromisoformat(str(result[name])).timestamp() for result in results)


# The bare loop


@dataclass(slots=True)
class Bare:
    """Aiohttp as its documentation shows it."""

    session: aiohttp.ClientSession
    url: str
    live: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    begun: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    deleting: set[asyncio.Task[None]] = field(default_factory=set)

    async def listen(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            event = json.loads(message.data)
            match event["type"]:
                case "StasisStart":
                    task = asyncio.create_task(self.hang_up(event["channel"]["id"]))
                    self.deleting.add(task)
                    task.add_done_callback(self.deleting.discard)
                case "ChannelDestroyed":
                    ended = self.live.pop(event["channel"]["id"], None)
                    if ended is not None:
                        ended.set_result(None)

    async def hang_up(self, channel: str) -> None:
        self.answered.append(time.time())
        async with self.session.delete(
            f"{self.url}/channels/{channel}", params={"reason": "normal"}
        ) as response:
            await response.read()

    async def call(self, number: str) -> None:
        channel = f"b{number:0>20}"
        ended = self.live[channel] = asyncio.get_running_loop().create_future()
        body = {
            "endpoint": f"PJSIP/{number}@sipp", "callerId": "123456789", "timeout": 15,
            "context": "dialer-answered", "extension": "dialer", "priority": 1,
        }  # fmt: skip
        self.begun.append(time.time())
        async with self.session.post(f"{self.url}/channels/{channel}", json=body) as response:
            response.raise_for_status()
            await response.read()
        await asyncio.wait_for(ended, 60)

    async def turn(self, count: int, rate: float | None) -> Turn:
        self.begun, self.answered = [], []
        before = cpu_seconds()
        await (self._at_rate(count, rate) if rate else self._at_once(count))
        if len(self.answered) != count:
            raise Invalid(f"the bare loop heard {len(self.answered)} of {count} calls answer")
        return Turn(count, cpu_seconds() - before, self.begun, self.answered)

    async def _at_rate(self, count: int, rate: float) -> None:
        """A stall is not caught up: that is the daemon's law, too. What a timer rounds up to its milliseconds is."""
        loop = asyncio.get_running_loop()
        slot = loop.time()
        async with asyncio.TaskGroup() as calls:
            for number in numbers(count):
                await asyncio.sleep(max(0.0, slot - loop.time()))
                calls.create_task(self.call(number))
                slot = max(slot, loop.time() - ROUNDED_SECONDS) + 1 / rate

    async def _at_once(self, count: int) -> None:
        waiting = iter(numbers(count))

        async def caller() -> None:
            for number in waiting:
                await self.call(number)

        await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))


@asynccontextmanager
async def bare_loop(lab: Lab) -> AsyncIterator[Bare]:
    """The same application as the daemon's, which must be down meanwhile."""
    await asyncio.sleep(CLEANING_SECONDS)
    headers = {"Authorization": aiohttp.encode_basic_auth(lab.ari_user, lab.ari_password)}
    url = f"{lab.ari_url}/ari"
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with (
        aiohttp.ClientSession(headers=headers, connector=connector) as session,
        session.ws_connect(f"{url}/events?app=dialer") as socket,
    ):
        wanted = {"allowed": [{"type": name} for name in WANTED]}
        async with session.put(f"{url}/applications/dialer/eventFilter", json=wanted) as response:
            response.raise_for_status()
        source = {"eventSource": "endpoint:PJSIP/sipp"}
        async with session.post(f"{url}/applications/dialer/subscription", json=source) as response:
            response.raise_for_status()
        bare = Bare(session, url)
        listening = asyncio.create_task(bare.listen(socket))
        yield bare
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


# Both in turn


@dataclass(slots=True)
class Figures:
    """Of all repetitions."""

    daemon: list[tuple[Turn, Turn]] = field(default_factory=list)  # at the rate, at the peak
    bare: list[tuple[Turn, Turn]] = field(default_factory=list)


async def compare(stack: ExitStack, repetitions: int, rate: float) -> None:
    lab = stack.enter_context(Lab())
    sipp = stack.enter_context(Sipp(lab.sipp_port))
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-answered-")))
    rig = stack.enter_context(Rig(directory, lab))
    figures, calls = Figures(), round(rate * SECONDS)
    for repetition in range(repetitions):
        order = [_daemons_turns, _bare_turns]
        for turns in order if repetition % 2 == 0 else reversed(order):
            await turns(rig, lab, figures, calls, rate)
        _tell_repetition(figures, rate)
    invites = repetitions * 2 * (WARM_CALLS + calls + PEAK_CALLS)
    rig.until(lambda: sipp.counts().invites >= invites, 5, "SIPp has counted its calls")
    if sipp.counts().invites != invites:
        raise Invalid(f"{invites} calls were made, and SIPp has seen {sipp.counts().invites}")
    _tell(figures, rate)


async def _daemons_turns(rig: Rig, lab: Lab, figures: Figures, calls: int, rate: float) -> None:
    rig.start()
    daemon(rig, WARM_CALLS, callsPerSecond=rate, maxChannels=1000)
    at_rate = daemon(rig, calls, callsPerSecond=rate, maxChannels=1000)
    figures.daemon.append((at_rate, daemon(rig, PEAK_CALLS, maxChannels=IN_FLIGHT)))
    if rig.stop() != 0:
        raise Invalid("the daemon did not end well")


async def _bare_turns(_: Rig, lab: Lab, figures: Figures, calls: int, rate: float) -> None:
    async with bare_loop(lab) as bare:
        await bare.turn(WARM_CALLS, rate)
        at_rate = await bare.turn(calls, rate)
        figures.bare.append((at_rate, await bare.turn(PEAK_CALLS, None)))


def _tell_repetition(figures: Figures, rate: float) -> None:
    ours, bare = figures.daemon[-1], figures.bare[-1]
    say(
        f"CPU per call {ours[0].milliseconds:.2f} ms, bare {bare[0].milliseconds:.2f} ms; at {rate:g} calls/s "
        f"achieved {ours[0].rate:.1f}, bare {bare[0].rate:.1f}; peak {ours[1].rate:.0f} calls/s, "
        f"bare {bare[1].rate:.0f} ({load()})"
    )


def _tell(figures: Figures, rate: float) -> None:
    say("", f"minimum / median / maximum of {len(figures.daemon)} repetitions, {load()}")
    for name, turns in (("daemon", figures.daemon), ("bare loop", figures.bare)):
        late = sorted(each for at_rate, _ in turns for each in at_rate.lateness(rate))
        answered = statistics.median(at_rate.seconds_to_answer for at_rate, _ in turns)
        say(
            f"{name}: at {rate:g} calls/s, ms of CPU per call {spread(turn.milliseconds for turn, _ in turns)}; "
            f"achieved {spread((turn.rate for turn, _ in turns), '{:.1f}')}",
            f"    after its slot, in ms: half {share(late, 0.5) * 1e3:.1f}, 99 % {share(late, 0.99) * 1e3:.1f}, "
            f"the last {late[-1] * 1e3:.1f}; late by over {LATE_SECONDS * 1e3:.0f} ms: "
            f"{sum(each > LATE_SECONDS for each in late)} of {len(late)}; answered after "
            f"{answered * 1e3:.0f} ms",
            f"    peak, calls/s {spread((turn.rate for _, turn in turns), '{:.0f}')}; "
            f"ms of CPU per call {spread(turn.milliseconds for _, turn in turns)}",
        )
    pairs = list(zip(figures.daemon, figures.bare, strict=True))
    cost = [ours[0].milliseconds / bare[0].milliseconds for ours, bare in pairs]
    peak = [ours[1].rate / bare[1].rate for ours, bare in pairs]
    say(f"daemon / bare: CPU per call {spread(cost)}, peak {spread(peak)}")
    if statistics.median(turn.rate for turn, _ in figures.bare) < 0.97 * rate:
        raise Invalid(f"not even the bare loop gets {rate:g} calls/s out of this machine's Asterisk")
    verdict("CPU per call, daemon / bare", statistics.median(cost), at_most=2.5)
    verdict("peak, daemon / bare", statistics.median(peak), at_least=0.75)
    verdict(
        "share of the offered rate",
        statistics.median(turn.rate for turn, _ in figures.daemon) / rate,
        at_least=0.97,
    )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    times = int(arguments[0]) if arguments else 5
    wanted_rate = float(arguments[1]) if len(arguments) > 1 else 300.0
    run(lambda stack: compare(stack, times, wanted_rate))
