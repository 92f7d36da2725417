"""Lists of millions: what a number, a waiting re-dial and a result cost in Redis, how fast they come in and go out,
how long each of it holds up Redis or the loop, and how soon the first call is made.

Run: `python -m bench.million [PART ...] [--numbers N]`; the parts are

    memory   a list from a CSV, read and called to its end by the store's own verbs: bytes of each thing (one million)
    archive  after that: the results leave Redis for a file, and are exported from there
    start    from the command to the first INVITE of a list of ten million, on the simulated PBX; memory of the daemon
    run      a whole campaign on the simulated PBX

Without one: memory, archive, start. `--numbers` goes for every part named.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import redis

from bench.figures import Invalid, cpu_seconds, load, run, say, spread, verdict
from dialer_engine import log
from dialer_engine.archive import Archive
from dialer_engine.core.model import AttemptId, CampaignId, Command, Contact, Counts, Due, TrunkName
from dialer_engine.store import Store
from dialer_engine.store.records import ClaimRequest, PinnedList, ReadRow, RedialAt, SettleKind
from tests.lab.number import answers, rejects
from tests.rig import Rig
from tests.simulated import SimulatedLab

MILLION = 1_000_000
BATCH = 500  # rows, as the engine reads them
TOGETHER = 50  # calls settled in one turn
STARTS = 5
DIALING_SECONDS = 20.0
CHANNELS = 400
FIRST = 420_600_000_000
SETTLED_EVERY = 10  # of ten calls one is answered and says something, the others are busy


def number(serial: int) -> str:
    return str(FIRST + 7 * serial)


@dataclass(frozen=True, slots=True)
class Done:
    """What a command took."""

    seconds: float
    megabytes: float  # of resident memory at most
    output: str


def command(rig: Rig, *arguments: str, output: Path | None = None) -> Done:
    """`dialer-engine ARGUMENTS`, measured."""
    line = [sys.executable, "-m", "dialer_engine", *arguments, "--config", str(rig.config)]
    began = time.perf_counter()
    with ExitStack() as files:
        out = files.enter_context(output.open("wb")) if output else subprocess.PIPE
        process = subprocess.Popen(line, stdout=out, stderr=subprocess.PIPE)
        assert process.stderr is not None
        told = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        if process.stdout is not None:
            told += process.stdout.read().decode()
            process.stdout.close()
        process.stderr.close()
    if process.returncode != 0:
        raise Invalid(f"{arguments} failed: {told}")
    return Done(seconds, usage.ru_maxrss / 1024, told)


class Redis:
    """What Redis holds, and for how long it did not answer."""

    def __init__(self, rig: Rig) -> None:
        self._socket = str(rig.socket)
        self.client: Any = redis.Redis(unix_socket_path=self._socket, decode_responses=True)

    def used(self) -> int:
        return int(self.client.info("memory")["used_memory"])

    def used_at_rest(self) -> int:
        """When what was unlinked has been freed."""
        while int(self.client.info("memory")["lazyfree_pending_objects"]):
            time.sleep(0.01)
        return self.used()

    @contextmanager
    def watched(self, what: str) -> Iterator[None]:
        """Tells the longest that a ping had to wait meanwhile."""
        waits: list[float] = []
        over = threading.Event()

        def ping() -> None:
            with redis.Redis(unix_socket_path=self._socket) as client:
                while not over.is_set():
                    began = time.perf_counter()
                    client.ping()
                    waits.append(time.perf_counter() - began)
                    time.sleep(0.001)

        thread = threading.Thread(target=ping)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        say(
            f"  {what}: Redis answered within {max(waits) * 1000:.0f} ms, half of the time within "
            f"{sorted(waits)[len(waits) // 2] * 1000:.1f} ms"
        )


async def held_up(work: Any) -> float:
    """Seconds that the loop was longest without a turn while this was done."""
    longest, loop = 0.0, asyncio.get_running_loop()

    async def turn() -> None:
        nonlocal longest
        while True:
            began = loop.time()
            await asyncio.sleep(0.001)
            longest = max(longest, loop.time() - began - 0.001)

    turning = asyncio.create_task(turn())
    try:
        await work
    finally:
        turning.cancel()
    return longest


# Memory


class Caller:
    """Reads a list to its end and calls everybody, as an engine does, without a PBX."""

    def __init__(self, store: Store, campaign: CampaignId, call_list: int) -> None:
        self._store = store
        self._campaign = campaign
        self._list = call_list

    async def call_all(self, numbers: int) -> None:
        for first in range(0, numbers, BATCH):
            rows = await self._store.reading.rows(self._list, 1, first, BATCH)  # type: ignore[arg-type]
            place = PinnedList(self._list, 1, first)  # type: ignore[arg-type]
            read = [ReadRow(first + n, row) for n, row in enumerate(rows)]
            await self._store.reading.accept(self._campaign, 1, place, rows=read, cursor=first + len(rows))
            for at in range(0, len(rows), TOGETHER):
                await self._call(first + at, rows[at : at + TOGETHER])

    async def _call(self, first: int, rows: Sequence[str]) -> None:
        now = time.time()
        requests = [
            ClaimRequest(AttemptId(f"a{first + n:020}"), Due(Contact(self._list, 1, first + n)), row, row, "{}")
            for n, row in enumerate(rows)
        ]
        await self._store.calls.claim(
            requests,
            campaign=self._campaign,
            run=1,
            owner="bench",
            trunk=TrunkName("carrier"),
            max_channels=10_000,
            trunk_capacity=10_000,
            period_until_epoch=None,
            lease_seconds=120,
            now=now,
        )
        settled = await asyncio.gather(*(self._settle(request, now) for request in requests))
        if not all(settled):
            raise Invalid("a call was settled before, or never claimed")

    async def _settle(self, request: ClaimRequest, now: float) -> bool:
        """Everybody waits for a re-dial afterwards."""
        answered = request.due.contact.row % SETTLED_EVERY == 0
        again = Due(request.due.contact, Counts(1, {"TERMINATED/CONFIRMED" if answered else "RS_BUSY": 1}))
        kind = await self._store.calls.settle(
            request.attempt_id,
            owner="bench",
            result=survey(now) if answered else busy(now),
            next=RedialAt(again, now + 3600 + request.due.contact.row / 1000),
            now=now,
        )
        return kind is SettleKind.DONE


def moment(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")


def busy(now: float) -> dict[str, Any]:
    times = {"originatedAt": moment(now - 5), "ringingAt": moment(now - 4.2), "endedAt": moment(now)}
    return {"status": "RS_BUSY", "cause": 17, "sipCode": 486, "path": [], "values": {}, "notes": [], **times}


def survey(now: float) -> dict[str, Any]:
    return {
        **busy(now),
        "status": "TERMINATED",
        "extStatus": "CONFIRMED",
        "cause": 16,
        "sipCode": None,
        "answeredAt": moment(now - 3),
        "path": ["hello", "ask", "yes", "bye"],
        "values": {"answer": "1"},
    }


async def memory(rig: Rig, numbers: int) -> CampaignId:
    """From a CSV to a result and a waiting re-dial for everybody."""
    server = Redis(rig)
    csv = rig.directory / "numbers.csv"
    with csv.open("w") as file:
        file.write("number\n")
        file.writelines(f"{number(serial)}\n" for serial in range(numbers))
    before = server.used()
    with server.watched("import"):
        imported = command(rig, "list", "create", "million", str(csv))
    unread = (server.used() - before) / numbers
    say(f"  import: {numbers / imported.seconds:,.0f} rows/s, {imported.megabytes:.0f} MB resident; {load()}")
    verdict("bytes per unread number, with its repeat check", unread, at_most=40)

    call_list = int(server.client.smembers("{dialer}:lists").pop())
    campaign = CampaignId(rig.campaign(None, callLists=[call_list], start=False))
    store = await Store.open(rig.url)
    await store.campaigns.command(campaign, Command.START, by="bench", now=time.time())
    began = time.perf_counter()
    with server.watched("claims and settlements"):
        await Caller(store, campaign, call_list).call_all(numbers)
    say(f"  claim and settle: {numbers / (time.perf_counter() - began):,.0f} calls/s")
    called = server.used()
    encodings = {
        server.client.object("encoding", one) for one in server.client.scan_iter("*:seen:*", count=10_000)
    }
    say(f"  the sets of numbers are {', '.join(sorted(encodings))}")

    with server.watched("remove, and tidy up"):
        took = await held_up(store.campaigns.command(campaign, Command.REMOVE, by="bench", now=time.time()))
        removed = server.used_at_rest()
        tidied = await held_up(store.tidy())
    say(
        f"  the run is over: the loop was held up {took * 1000:.0f} ms by it, {tidied * 1000:.0f} ms by tidying"
    )
    await store.close()
    kept = server.used()
    verdict("bytes per number, read", unread + (removed - kept) / numbers, at_most=40)
    verdict("bytes per waiting re-dial", (called - removed) / numbers, at_most=160)
    verdict("bytes per result", (kept - before) / numbers - unread, at_most=300)
    return campaign


async def archive(rig: Rig, campaign: CampaignId, numbers: int) -> None:
    log.setup(level="warning")
    server, store = Redis(rig), await Store.open(rig.url)
    place = rig.directory / "data" / "results" / "dialer"
    began = time.perf_counter()
    with server.watched("archive"):
        longest = await held_up(
            Archive(place, store.results).move(
                [campaign], before=datetime.now(UTC) + timedelta(days=2), owner="rig"
            )
        )
    seconds = time.perf_counter() - began
    await store.close()
    size = sum(path.stat().st_size for path in place.rglob("*.gz"))
    say(
        f"  archive: {numbers / seconds:,.0f} results/s, {size / numbers:.0f} bytes of disk each; "
        f"the loop was held up {longest * 1000:.0f} ms at most; {load()}"
    )
    out = rig.directory / "results.csv"
    exported = command(rig, "export", str(campaign), output=out)
    with out.open() as file:
        lines = sum(1 for _ in file) - 1
    if lines != numbers:
        raise Invalid(f"{lines} results were exported")
    say(f"  export: {lines / exported.seconds:,.0f} results/s, {exported.megabytes:.0f} MB resident")


# The daemon


def busy_numbers(numbers: int) -> Iterator[str]:
    """Everybody is busy at once; seven digits of serial, the first of them before the twelve of the plan."""
    return (f"{serial // MILLION + 1}{rejects(486, serial=serial % MILLION)}" for serial in range(numbers))


def first_invite(log: Path, past: int, seconds: float) -> float:
    """When the world's log grows beyond this."""
    deadline = time.time() + seconds
    while log.stat().st_size <= past:
        if time.time() > deadline:
            raise Invalid(f"no call within {seconds} s")
        time.sleep(0.002)
    return time.time()


@contextmanager
def dialing(numbers: Iterable[str], speed: float = 1.0) -> Iterator[tuple[Rig, SimulatedLab, int]]:
    """A daemon, connected to a simulated PBX, and a list of these numbers."""
    with (
        TemporaryDirectory(prefix="bench-million-") as home,
        SimulatedLab(speed=speed) as lab,
        Rig(Path(home), lab) as rig,
    ):
        call_list = rig.call_list(numbers)
        rig.start()
        yield rig, lab, call_list


def start(numbers: int) -> None:
    with dialing(busy_numbers(numbers)) as (rig, lab, call_list):
        server = Redis(rig)
        resident = psutil.Process(rig.process.pid).memory_info  # type: ignore[union-attr]
        say(f"  before: {resident().rss / 1e6:.0f} MB of the daemon; {numbers:,} rows in Redis")
        campaign = rig.campaign(None, callLists=[call_list], start=False, maxChannels=50, callsPerSecond=100)
        waits = []
        for _ in range(STARTS):
            past, began = lab.pbx.world_log.stat().st_size, time.time()
            rig.command(campaign, "start")
            waits.append(first_invite(lab.pbx.world_log, past, 30.0) - began)
            rig.until(lambda: rig.state(campaign)["state"] == "RUNNING", 10, "it runs")
            rig.command(campaign, "remove")
            rig.until(lambda: not rig.live(campaign), 30, "its calls end")
        say(f"  from the command to the first INVITE, s: {spread(waits)}; {load()}")
        verdict("seconds to the first call", sorted(waits)[len(waits) // 2], at_most=2)

        rig.command(campaign, "start")
        rig.until(lambda: rig.state(campaign)["state"] == "RUNNING", 10, "it runs")
        rig.redis.hset(rig.key(f"campaign:{campaign}:run"), f"cursor:{call_list}", numbers // 2)
        server.client.config_resetstat()
        with server.watched("dialing from the middle of the list"):
            time.sleep(DIALING_SECONDS)
        done = rig.contacts(campaign)["closed"]
        stats = server.client.info("commandstats")
        reads, scripts = (stats[f"cmdstat_{name}"]["usec_per_call"] for name in ("lrange", "evalsha"))
        say(
            f"  from the middle: {done / DIALING_SECONDS:.0f} calls/s, LRANGE {reads:.0f} us, scripts {scripts:.0f} us"
        )
        verdict("MB of the daemon, resident", resident().rss / 1e6, at_most=150)


KINDS: tuple[tuple[str, Callable[[int], str]], ...] = (
    *(("TERMINATED", lambda serial: answers(ring=1.0, talk=3.0, serial=serial)),) * 4,
    *(("RS_BUSY", lambda serial: rejects(486, ring=0.5, serial=serial)),) * 3,
    *(("RS_NUMBER", lambda serial: rejects(404, serial=serial)),) * 2,
    ("RS_REJECTED", lambda serial: rejects(603, ring=1.0, serial=serial)),
)
"""Of ten people four answer, three are busy, two do not exist and one declines."""
FAST = 20.0
"""So many times as fast are the callees; the daemon's clock is the real one."""


def crowd(numbers: int) -> Iterator[str]:
    for serial in range(numbers):
        _, written = KINDS[serial % len(KINDS)]
        yield f"{serial // MILLION + 1}{written(serial % MILLION)}"


def whole(numbers: int) -> None:
    """A campaign from its start to its end, as fast as it goes."""
    with dialing(crowd(numbers), speed=FAST) as (rig, _, call_list):
        process = psutil.Process(rig.process.pid)  # type: ignore[union-attr]
        before, began = cpu_seconds(process.pid), time.time()
        campaign = rig.campaign(None, callLists=[call_list], maxChannels=CHANNELS)
        resident = []
        while rig.state(campaign).get("state") != "COMPLETED":
            resident.append(process.memory_info().rss / 1e6)
            time.sleep(1.0)
        seconds, spent = time.time() - began, cpu_seconds(process.pid) - before
        statuses: Any = rig.redis.hgetall(rig.key(f"campaign:{campaign}:stats:1"))
        statuses.pop("answered")
        expected = Counter(KINDS[serial % len(KINDS)][0] for serial in range(numbers))
        if {status: int(n) for status, n in statuses.items()} != expected:
            raise Invalid(f"the results are {json.dumps(statuses)}")
        say(
            f"  {numbers:,} calls in {seconds:.0f} s, {numbers / seconds:.0f} a second; each exactly once; {load()}"
        )
        tenth = max(1, len(resident) // 10)
        say(
            f"  MB resident: {max(resident[:tenth]):.0f} in the first tenth, {max(resident[-tenth:]):.0f} in the last"
        )
        verdict("ms of the engine's CPU per attempt", spent / numbers * 1000, at_most=1.1)
        verdict("MB of the daemon, resident", max(resident), at_most=150)
        verdict(
            "the last tenth's memory to the first's",
            max(resident[-tenth:]) / max(resident[:tenth]),
            at_most=1.1,
        )


async def measure(stack: ExitStack, parts: Sequence[str], numbers: int | None) -> None:
    if "memory" in parts or "archive" in parts:
        many = numbers or MILLION
        say("", f"memory: {many:,} numbers")
        home = Path(stack.enter_context(TemporaryDirectory(prefix="bench-million-")))
        with Rig(home, None) as rig:
            campaign = await memory(rig, many)
            if "archive" in parts:
                say("", f"archive: {many:,} results")
                await archive(rig, campaign, many)
    daemons: dict[str, tuple[Callable[[int], None], int]] = {
        "start": (start, 10 * MILLION),
        "run": (whole, MILLION),
    }
    for part, (measured, many) in daemons.items():
        if part in parts:
            say("", f"{part}: {numbers or many:,} numbers")
            measured(numbers or many)


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("parts", nargs="*", metavar="PART", help="memory, archive, start, run")
    asked.add_argument("--numbers", type=int)
    given = asked.parse_args()
    run(lambda stack: measure(stack, given.parts or ("memory", "archive", "start"), given.numbers))
