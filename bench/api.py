"""What the API costs the calls, on the simulated PBX: long uploads and exports beside live calls, clients that ask
for everything all the time, and how soon an added call is made.

The daemon serves its API from the loop that drives its calls. How long that loop keeps others waiting is seen from
outside: GET /healthz on a connection of its own, a hundred times a second; what it takes while nothing else goes on is
told as well, for it is in every figure. "Bare" is the same work without the API: the rows checked one after the other
in a bare loop, and handed to the store by a bare loop. Run: `python -m bench.api [PART ...] [--numbers N]`; the parts
are lab, upload, export, polling, added. Without one: all of them; `lab` is `added` on the real Asterisk.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import socket
import tempfile
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from bench.figures import Invalid, load, run, say, share, spread, verdict
from dialer_engine.core.compliance import NumberPolicy
from dialer_engine.store import Store
from dialer_engine.store.contract import contact_row
from tests.lab.lab import Lab
from tests.lab.number import rejects, stays
from tests.rig import Rig
from tests.simulated import AnyLab, SimulatedLab
from tests.system.api import Api, serve

MILLION = 1_000_000
LIVE = 200
ADDED = 60
RATE = 60.0
RATED_SECONDS = 20
BATCH = 500
PARTS = ("lab", "upload", "export", "polling", "added")
TOML = """
[trunks.wide]
dial_string = "PJSIP/${num}@carrier"
capacity = 3000
"""
HOLD = {
    "name": "hold",
    "start": "hold",
    "blocks": {"hold": {"type": "wait", "seconds": 600, "next": "bye"}, "bye": {"type": "hangup"}},
}

_serials = itertools.count(1)


def numbers(count: int) -> list[str]:
    """Busy at once."""
    return [rejects(486, serial=next(_serials)) for _ in range(count)]


def long_list(count: int) -> list[str]:
    return [str(420_600_000_000 + 7 * n) for n in range(count)]


@dataclass(slots=True)
class Watch:
    """One daemon from outside, while something is done to it."""

    waits: list[float] = field(default_factory=list)  # seconds, of GET /healthz
    megabytes: float = 0.0  # resident, at most, above those at the begin

    @property
    def p99(self) -> float:
        return share(sorted(self.waits), 0.99) * 1e3

    def told(self) -> str:
        ordered = sorted(one * 1e3 for one in self.waits)
        return (
            f"the loop kept a question waiting {share(ordered, 0.5):.1f} ms (median), {self.p99:.1f} ms (p99), "
            f"{ordered[-1]:.0f} ms (worst of {len(ordered)}); memory +{self.megabytes:.0f} MB"
        )


@contextmanager
def watching(rig: Rig, api: Api) -> Iterator[Watch]:
    """Ask and weigh the daemon until the end."""
    assert rig.process is not None
    process, watch, over = psutil.Process(rig.process.pid), Watch(), threading.Event()
    begin = process.memory_info().rss

    def look() -> None:
        connection = http.client.HTTPConnection(api.address, timeout=30)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not over.wait(0.01):
            asked_at = time.perf_counter()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            watch.waits.append(time.perf_counter() - asked_at)
            watch.megabytes = max(watch.megabytes, (process.memory_info().rss - begin) / 1e6)
        connection.close()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


def live_calls(rig: Rig) -> None:
    """So many that stay."""
    contacts = [stays(ring=0.1, serial=next(_serials)) for _ in range(LIVE)]
    campaign = rig.campaign(contacts, flow=HOLD, trunk="wide", maxChannels=LIVE, callsPerSecond=50)
    rig.until(lambda: rig.live(campaign) == LIVE, 60, f"{LIVE} calls are live")


def idle(rig: Rig, api: Api) -> Watch:
    with watching(rig, api) as watch:
        time.sleep(5)
    say(f"nothing else goes on, {LIVE} calls live: {watch.told()}")
    return watch


# --- uploads ---


async def bare(rig: Rig, rows: Sequence[str]) -> tuple[float, float]:
    """Seconds of checking these rows, and of handing them to the store."""
    policy = NumberPolicy()
    began = time.perf_counter()
    checked = [contact_row({"number": row, "attributes": {}}, policy) for row in rows]
    normalised = time.perf_counter()

    async def batches() -> AsyncIterator[list[tuple[str, str]]]:
        for start in range(0, len(checked), BATCH):
            yield checked[start : start + BATCH]

    store = await Store.open(rig.url)
    written_from = time.perf_counter()
    await store.lists.create("bare", batches())
    written = time.perf_counter()
    await store.close()
    return normalised - began, written - written_from


def uploaded(api: Api, table: bytes) -> float:
    """Seconds for a list as CSV."""
    began = time.perf_counter()
    answer = api.ask("POST", "/dialer/call-lists?name=long", table, Content_Type="text/csv")
    if answer.status != 200:
        raise Invalid(f"the upload was answered {answer}")
    return time.perf_counter() - began


async def upload(rig: Rig, api: Api, count: int, quiet: Watch) -> None:
    rows = long_list(count)
    table = ("number\n" + "\n".join(rows)).encode()
    await asyncio.to_thread(uploaded, api, table[: len(table) // 20])  # warm
    with watching(rig, api) as watch:
        seconds = await asyncio.to_thread(uploaded, api, table)
    normalising, writing = await bare(rig, rows)
    say(
        f"upload of {count:,} rows as CSV, {LIVE} calls live: {seconds:.1f} s ({count / seconds:,.0f}/s); bare "
        f"{normalising:.1f} s of checking + {writing:.1f} s of writing; {load()}",
        f"  {watch.told()}",
    )
    verdict("upload / (bare checking + bare writing)", seconds / (normalising + writing), at_most=1.5)
    verdict("MB more memory", watch.megabytes, at_most=50)
    verdict(f"ms of waiting for the loop, p99 (idle {quiet.p99:.1f})", watch.p99, at_most=20)


# --- exports ---


def with_results(rig: Rig, count: int) -> int:
    """A campaign that has so many results."""
    campaign = rig.campaign(numbers(1), trunk="wide")
    rig.completed(campaign)
    key = rig.key(f"campaign:{campaign}:results")
    entries: Any = rig.redis.xrange(key)
    fields: dict[str, str] = entries[0][1]
    for start in range(0, count, 1000):
        with rig.redis.pipeline(transaction=False) as pipeline:
            for n in range(start, min(start + 1000, count)):
                entry: Any = {**fields, "number": str(420_600_000_000 + 7 * n)}
                pipeline.xadd(key, entry)
            pipeline.execute()
    return campaign


def exported(api: Api, campaign: int, form: str) -> tuple[float, int]:
    """Seconds, and how many lines came."""
    began, lines = time.perf_counter(), 0
    request = urllib.request.Request(
        f"{api.url}/dialer/campaigns/{campaign}/results?format={form}",
        headers={"Authorization": f"Bearer {api.token}"},
    )
    with urllib.request.urlopen(request, timeout=600) as reply:
        while piece := reply.read(65_536):
            lines += piece.count(b"\n")
    return time.perf_counter() - began, lines


async def export(rig: Rig, api: Api, count: int, quiet: Watch) -> None:
    campaign = await asyncio.to_thread(with_results, rig, count)
    for form, head in (("ndjson", 0), ("csv", 1)):
        with watching(rig, api) as watch:
            seconds, lines = await asyncio.to_thread(exported, api, campaign, form)
        if lines != count + 1 + head:
            raise Invalid(f"{count + 1} results make {lines} lines")
        say(
            f"export of {count:,} results as {form}, {LIVE} calls live: {seconds:.1f} s ({count / seconds:,.0f}/s); "
            f"{load()}",
            f"  {watch.told()}",
        )
        verdict("MB more memory", watch.megabytes, at_most=50)
        verdict(f"ms of waiting for the loop, p99 (idle {quiet.p99:.1f})", watch.p99, at_most=20)


# --- clients that ask for everything ---


def late_passes(api: Api) -> tuple[float, float]:
    """Passes so far, and those that took longer than a tick."""
    with urllib.request.urlopen(f"{api.url}/metrics", timeout=10) as reply:
        lines = dict(
            line.rsplit(" ", 1) for line in reply.read().decode().splitlines() if not line.startswith("#")
        )
    return float(lines["dialer_tick_seconds_count"]), float(lines["dialer_tick_overruns_total"])


def rated(rig: Rig, api: Api) -> tuple[float, float]:
    """A campaign at a rate: calls per second that it reached, and passes late."""
    contacts = numbers(int(RATE * RATED_SECONDS))
    _, late = late_passes(api)
    campaign = rig.campaign(contacts, trunk="wide", maxChannels=500, callsPerSecond=RATE)
    rig.completed(campaign, timeout=RATED_SECONDS * 4)
    calls = sorted(call.invited_at for call in rig.world_calls(contacts))
    if len(calls) != len(contacts):
        raise Invalid(f"{len(contacts)} contacts got {len(calls)} calls")
    return (len(calls) - 1) / (calls[-1] - calls[0]), late_passes(api)[1] - late


def polling_client(api: Api, campaign: int, over: threading.Event) -> int:
    """Everything there is, ten times a second; how many answers."""
    path = f"/dialer/campaigns/{campaign}"
    paths = [
        "/dialer/campaigns",
        *(f"{path}{what}" for what in ("", "/stats", "/plan", "/calls", "/results", "/versions")),
        *("/dialer/call-lists", "/ivr", "/dialer/do-not-call", "/dialer/audit", "/dialer/stop", "/readyz"),
    ]
    connection = http.client.HTTPConnection(api.address, timeout=30)
    answers, next_at = 0, time.monotonic()
    while not over.is_set():
        for one in paths:
            connection.request("GET", one, headers={"Authorization": f"Bearer {api.token}"})
            if connection.getresponse().read() and connection.sock is None:
                connection.connect()
            answers += 1
        next_at = max(next_at + 0.1, time.monotonic())
        over.wait(next_at - time.monotonic())
    return answers


async def polling(rig: Rig, api: Api, count: int) -> None:
    campaign = await asyncio.to_thread(with_results, rig, count // 10)
    table = ("number\n" + "\n".join(long_list(count))).encode()
    alone, late_alone = await asyncio.to_thread(rated, rig, api)
    over = threading.Event()

    def again_and_again(work: Callable[[], object]) -> int:
        for n in itertools.count():
            if over.is_set():
                return n
            work()
        raise AssertionError("a count has no end")

    with ThreadPoolExecutor() as clients:
        asked = clients.submit(polling_client, api, campaign, over)
        uploads = clients.submit(again_and_again, lambda: uploaded(api, table[: len(table) // 10]))
        exports = clients.submit(again_and_again, lambda: exported(api, campaign, "ndjson"))
        with watching(rig, api) as watch:
            busy, late = await asyncio.to_thread(rated, rig, api)
        over.set()
    say(
        f"{RATE:g} calls/s beside {asked.result()} answers, {uploads.result()} uploads and {exports.result()} exports "
        f"of {count // 10:,}: {busy:.1f} calls/s, {late:.0f} passes late; alone: {alone:.1f}, {late_alone:.0f}",
        f"  {watch.told()}; {load()}",
    )
    verdict("calls per second, with / without", busy / alone, at_least=0.95)
    verdict("passes late", late, at_most=max(1.0, late_alone))


# --- added calls ---


async def added(rig: Rig, api: Api, lab: AnyLab) -> None:
    campaign = rig.campaign(whenDone="wait", trunk="wide")
    rig.reaches(campaign, "RUNNING")
    secret = b64encode(f"{lab.ari_user}:{lab.ari_password}".encode()).decode()
    latency: dict[str, list[float]] = {"added": [], "bare": []}
    for turn in range(2 * ADDED):
        way = ("added", "bare")[turn % 2]
        (contact,) = numbers(1)
        asked_at = time.time()
        if way == "added":
            await asyncio.to_thread(
                api.done, "POST", f"/dialer/campaigns/{campaign}/calls", {"number": contact}
            )
        else:
            body = {"endpoint": f"PJSIP/{contact}@carrier", "app": rig.app, "timeout": 15}
            request = urllib.request.Request(
                f"{lab.ari_url}/ari/channels",
                json.dumps(body).encode(),
                {"Authorization": f"Basic {secret}", "Content-Type": "application/json"},
            )
            await asyncio.to_thread(lambda request=request: urllib.request.urlopen(request, timeout=10).close())  # type: ignore[misc]
        call = await asyncio.to_thread(lab.wait_for_world, contact)
        latency[way].append((call.invited_at - asked_at) * 1e3)
        await asyncio.sleep(0.05 + 0.013 * (turn % 7))
    say(
        f"{lab.version}: ms from the request to the INVITE, minimum / median / maximum of {ADDED}: added call "
        f"{spread(latency['added'], '{:.0f}')}, bare POST {spread(latency['bare'], '{:.0f}')}; {load()}"
    )
    verdict("ms more than a bare POST, median", median(latency["added"]) - median(latency["bare"]), at_most=50)
    worst = share(sorted(latency["added"]), 0.95) - median(latency["bare"])
    verdict("ms more than a bare POST, p95", worst, at_most=50)


async def measure(stack: ExitStack, parts: Sequence[str], count: int) -> None:
    if "lab" in parts:
        with ExitStack() as here:
            lab = here.enter_context(Lab())
            await added(*served_on(here, lab), lab)
    if not set(parts) - {"lab"}:
        return
    simulated = stack.enter_context(SimulatedLab())
    rig, api = served_on(stack, simulated)
    if "added" in parts:
        await added(rig, api, simulated)
    if "polling" in parts:
        await polling(rig, api, count)
    if {"upload", "export"} & set(parts):
        await asyncio.to_thread(live_calls, rig)
        quiet = await asyncio.to_thread(idle, rig, api)
        if "upload" in parts:
            await upload(rig, api, count, quiet)
        if "export" in parts:
            await export(rig, api, count, quiet)


def served_on(stack: ExitStack, lab: AnyLab) -> tuple[Rig, Api]:
    """A daemon on this PBX, and its API."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-api-")))
    rig = stack.enter_context(Rig(directory, lab, toml=TOML))
    served = serve(rig)
    rig.until(lambda: rig.logged("asterisk connected"), 20, "the daemon is connected")
    return rig, Api(served.address, served.token, timeout_seconds=600)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--numbers", type=int, default=MILLION)
    asked_for = parser.parse_args()
    if unknown := set(asked_for.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    run(lambda stack: measure(stack, asked_for.parts or PARTS, asked_for.numbers))
