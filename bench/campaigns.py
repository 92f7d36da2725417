"""What campaigns cost that run and do nothing: CPU at 200 of them against 1.

Idle: every contact has been called and the campaign waits for more. Due: contacts wait, and the one trunk of all is
full, so that every pass shares out what is not there. First the decision alone, also for campaigns that dial for the
agents of queues; then, in this process and without a PBX: one pass, and one look at what stands in Redis, which comes
once a second. Then four whole daemons side by side, on one lab.
Run: `python -m bench.campaigns [REPETITIONS]`.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from bench.figures import Invalid, cpu_seconds, load, run, say, spread
from dialer_engine import log
from dialer_engine.core.compliance import NumberPolicy, normalise
from dialer_engine.core.model import (
    Agent,
    AttemptId,
    CampaignId,
    EndpointType,
    Limit,
    QueueName,
    Trunk,
    TrunkName,
)
from dialer_engine.core.pacing import CampaignFacts, QueueFacts, TrunkFacts, plan
from dialer_engine.engine.board import Board
from dialer_engine.engine.desk import Desk, NoAgents
from dialer_engine.engine.following import Follower
from dialer_engine.engine.lanes import Lane, Pace
from dialer_engine.engine.passes import Planner
from dialer_engine.metrics import Metrics
from dialer_engine.store import Store
from tests.lab import number
from tests.lab.lab import Lab
from tests.lab.rootfs import CannotBuild
from tests.rig import Rig

FEW, MANY = 1, 200
ROWS = 3
"""Contacts of each campaign that has any."""
PASSES = 100
LOOKS = 10
WHOLE_SECONDS = 5.0
QUEUES, AGENTS = 50, 500
FULL = TrunkName("full")
FULL_TRUNK = f"""[trunks.{FULL}]
dial_string = "PJSIP/${{num}}@carrier"
capacity = 1
"""

_serials = itertools.count(1)


def campaigns(rig: Rig, count: int, *, due: bool) -> list[int]:
    """Running ones; the contact that gets the trunk's one channel rings for ever."""
    rows = [[number.rings_out(next(_serials)) for _ in range(ROWS if due else 0)] for _ in range(count)]
    return [rig.campaign(each, trunk=FULL, whenDone="wait", dialTimeout=300) for each in rows]


# The decision alone


def deciding(repetitions: int) -> None:
    """200 campaigns; those of queues over 50 queues and 500 agents who are all available, in so many queues each."""
    dice = random.Random(1)
    phone = [CampaignFacts(CampaignId(n), FULL, 10, ROWS, 0, 50, open=True) for n in range(MANY)]
    say(
        "",
        f"the decision alone, {MANY} campaigns, us of CPU: minimum / median / maximum of {repetitions}, {load()}",
    )
    for what, room in (("none for anybody", 0), ("one for each second", MANY // 2), ("for all", 10_000)):
        _decide(f"phone, room on the trunk {what}", phone, {}, room, repetitions)
    for each in (1, 2, 3):
        members: dict[QueueName, set[Agent]] = {QueueName(f"q{n}"): set() for n in range(QUEUES)}
        for n in range(AGENTS):
            for name in dice.sample(sorted(members), each):
                members[name].add(Agent(f"PJSIP/{n}"))
        queues = {name: QueueFacts(name, frozenset(who), 0, len(who)) for name, who in members.items()}
        facts = [
            replace(
                one,
                priority=dice.randint(1, 100),
                due=dice.choice([0, 100, 100]),
                endpoint=EndpointType.QUEUE,
                queue=QueueName(f"q{n % QUEUES}"),
                boost_factor=Decimal(dice.choice(["0.8", "1", "1.4", "2"])),
                unserved=dice.choice([0, 0, 1, 3]),
            )
            for n, one in enumerate(phone)
        ]
        _decide(f"queue, {AGENTS} agents in {each} of {QUEUES} queues", facts, queues, 10_000, repetitions)


def _decide(
    what: str,
    campaigns: list[CampaignFacts],
    queues: dict[QueueName, QueueFacts],
    room: int,
    repetitions: int,
) -> None:
    trunks, figures = {FULL: TrunkFacts(FULL, live=0, capacity=room)}, []
    for _ in range(repetitions):
        began = time.process_time()
        for _ in range(PASSES):
            plan(
                campaigns,
                trunks,
                now=datetime.now(UTC),
                stopped=False,
                draining=False,
                pbx_up=True,
                store_up=True,
                queues=queues,
                queue_age_seconds=0.5,
            )
        figures.append((time.process_time() - began) / PASSES * 1e6)
    say(f"{what}: {spread(figures, '{:.0f}')}")


# In this process


@dataclass(slots=True)
class Loop:
    """The parts of an engine that look and plan, with nobody who drives calls."""

    board: Board
    follower: Follower
    planner: Planner

    @classmethod
    def over(cls, store: Store) -> Loop:
        """A trunk without room, so that nothing is claimed."""
        policy, metrics = NumberPolicy(), Metrics("0")
        board = Board({FULL: Lane(Trunk(FULL, "PJSIP/${num}@full", capacity=0), Pace(None))}, metrics)
        board.store_trouble, board.pbx_up = None, True

        def clock() -> datetime:
            return datetime.now(UTC)

        follower = Follower(
            store=store,
            board=board,
            owner="bench",
            default_trunk=FULL,
            identify=lambda text: normalise(text, policy),
            clock=clock,
            metrics=metrics,
        )
        planner = Planner(
            store=store,
            board=board,
            desk=Desk(NoAgents(), board, clock),
            owner="bench",
            clock=clock,
            new_id=lambda: AttemptId(""),
            start=lambda _: None,
            metrics=metrics,
        )
        return cls(board, follower, planner)

    async def fill(self, count: int, *, due: bool) -> None:
        await self.follower.look()
        for line in self.board.lines.values():
            await line.supply.refill()
        await self.planner.run_pass()
        limits = {line.plan.limit for line in self.board.lines.values() if line.plan}
        if len(self.board.lines) != count or limits != {Limit.TRUNK_FULL if due else Limit.IDLE}:
            raise Invalid(f"{count} campaigns were started; {len(self.board.lines)} run, bound by {limits}")


async def microseconds(act: Callable[[], Awaitable[None]], times: int) -> float:
    """Of CPU, for one of them."""
    began = time.process_time()
    for _ in range(times):
        await act()
    return (time.process_time() - began) / times * 1e6


async def in_process(stack: ExitStack, repetitions: int) -> None:
    log.setup(level="warning")
    async with AsyncExitStack() as stores:
        loops: dict[tuple[bool, int], Loop] = {}
        for due, count in itertools.product((False, True), (FEW, MANY)):
            rig = stack.enter_context(Rig(_directory(stack), None))
            store = await Store.open(rig.url, prefix="dialer", default_timezone="UTC")
            stores.push_async_callback(store.close)
            campaigns(rig, count, due=due)
            loops[due, count] = Loop.over(store)
            await loops[due, count].fill(count, due=due)
        passes: dict[tuple[bool, int], list[float]] = {key: [] for key in loops}
        looks: dict[tuple[bool, int], list[float]] = {key: [] for key in loops}
        for _ in range(repetitions):
            for key, loop in loops.items():
                passes[key].append(await microseconds(loop.planner.run_pass, PASSES))
                looks[key].append(await microseconds(loop.follower.look, LOOKS))
    for name, figures in (("a pass", passes), ("a look at Redis", looks)):
        _tell(f"{name}, us of CPU", figures, "{:.0f}")


# The whole daemon


async def whole(stack: ExitStack, repetitions: int) -> None:
    """Side by side, so that all four see the same machine."""
    lab = stack.enter_context(Lab())
    daemons: dict[tuple[bool, int], int] = {}
    for due, count in itertools.product((False, True), (FEW, MANY)):
        name = f"{'due' if due else 'idle'}{count}"
        rig = stack.enter_context(Rig(_directory(stack), lab, toml=FULL_TRUNK, name=name, app=name))
        started = campaigns(rig, count, due=due)
        rig.start()
        rig.until(lambda: _settled_in(rig, started, due), 30, f"{count} campaigns run")  # noqa: B023
        assert rig.process is not None
        daemons[due, count] = rig.process.pid
    figures: dict[tuple[bool, int], list[float]] = {key: [] for key in daemons}
    for _ in range(repetitions):
        before, began = {key: cpu_seconds(pid) for key, pid in daemons.items()}, time.monotonic()
        time.sleep(WHOLE_SECONDS)  # noqa: ASYNC251  nothing else is done on this loop
        spent = time.monotonic() - began
        for key, pid in daemons.items():
            figures[key].append((cpu_seconds(pid) - before[key]) / spent * 1e3)
    _tell("the whole daemon, ms of CPU per second", figures, "{:.1f}")


def _settled_in(rig: Rig, started: list[int], due: bool) -> bool:
    """All run, and the one call that there is room for is out."""
    running = len({line["campaign"] for line in rig.logged("campaign runs")})
    live = sum(rig.live(campaign) for campaign in started)
    return running == len(started) and live == int(due)


def _directory(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-campaigns-")))


def _tell(what: str, figures: dict[tuple[bool, int], list[float]], form: str) -> None:
    say("", f"{what}: minimum / median / maximum of {len(figures[False, FEW])} repetitions, {load()}")
    for due in (False, True):
        few, many = figures[due, FEW], figures[due, MANY]
        ratio = [more / less for more, less in zip(many, few, strict=True)]
        each = statistics.median(more - less for more, less in zip(many, few, strict=True)) / (MANY - FEW)
        say(
            f"{'due ' if due else 'idle'}  {FEW} campaign {spread(few, form)}; {MANY} campaigns {spread(many, form)}; "
            f"ratio {spread(ratio, '{:.1f}')}; each further one {each:.2f}"
        )


async def measure(stack: ExitStack, repetitions: int) -> None:
    deciding(repetitions)
    await in_process(stack, repetitions)
    try:
        await whole(stack, repetitions)
    except CannotBuild as exc:
        say("", f"the whole daemon is not measured, there is no lab here: {exc}")


if __name__ == "__main__":
    run(lambda stack: measure(stack, int(sys.argv[1]) if len(sys.argv) > 1 else 5))
