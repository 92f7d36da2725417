"""What a simulated attempt costs the simulator: CPU of `dialer-engine simulate` per call, beside a client that does
nothing but what the daemon does on the wire.

Calls are originated into the shipped dialplan, heard through the trunk's endpoint with the daemon's own event filter:
half of them are busy after ringing, half are answered and hung up by us. The client is a process of its own and
not counted. Run: `python -m bench.simulator [CALLS] [REPETITIONS]`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import aiohttp

from bench.figures import Invalid, cpu_seconds, load, run, say, spread, verdict
from dialer_engine.ari.events import WANTED
from tests.lab import number
from tests.simulated import SimulatedPbx

AT_ONCE = 64
"""Calls under way together."""
RING_SECONDS = 0.2
AT_MOST_MS = 0.8

_serials = itertools.count(1)


class Caller:
    """One application and its calls; a call ends when ChannelDestroyed is told."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._ends: dict[str, asyncio.Future[None]] = {}
        self.events = 0

    async def listen(self) -> asyncio.Task[None]:
        socket = await self._session.ws_connect("/ari/events?app=dialer", max_msg_size=0)
        await self._ask(
            "PUT", "applications/dialer/eventFilter", {"allowed": [{"type": each} for each in WANTED]}
        )
        await self._ask("POST", "applications/dialer/subscription", {"eventSource": "endpoint:PJSIP/carrier"})
        return asyncio.create_task(self._read(socket))

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            self.events += 1
            event = json.loads(message.data)
            if event["type"] == "StasisStart":
                await self._ask("DELETE", f"channels/{event['channel']['id']}", None)
            elif event["type"] == "ChannelDestroyed":
                self._ends[event["channel"]["id"]].set_result(None)

    async def call(self) -> None:
        serial = next(_serials)
        name, last = f"c{serial:025d}", serial % 10**6
        stays = serial % 2
        dialled = number.stays(RING_SECONDS, last) if stays else number.rejects(486, RING_SECONDS, last)
        self._ends[name] = asyncio.get_running_loop().create_future()
        place = {"context": "dialer-answered", "extension": "dialer", "priority": 1}
        endpoint = f"PJSIP/{dialled}@carrier"
        await self._ask(
            "POST", f"channels/{name}", {"endpoint": endpoint, "timeout": 30, "callerId": "1", **place}
        )
        async with asyncio.timeout(30):
            await self._ends.pop(name) if self._ends[name].done() else await self._ends[name]

    async def _ask(self, method: str, path: str, body: object) -> None:
        async with self._session.request(method, f"/ari/{path}", json=body) as reply:
            if reply.status >= 300:
                raise Invalid(f"{method} {path}: {reply.status} {await reply.text()}")


@contextmanager
def simulator() -> Iterator[SimulatedPbx]:
    pbx = SimulatedPbx()
    pbx.start()
    try:
        yield pbx
    finally:
        pbx.remove()


async def measure(stack: ExitStack, calls: int, repetitions: int) -> None:
    pbx = stack.enter_context(simulator())
    secret = b64encode(f"{pbx.username}:{pbx.password}".encode()).decode()
    connector = aiohttp.TCPConnector(limit=AT_ONCE + 1)
    headers = {"Authorization": f"Basic {secret}"}
    async with aiohttp.ClientSession(pbx.url, connector=connector, headers=headers) as session:
        caller = Caller(session)
        reading = await caller.listen()
        spent = [await _milliseconds(pbx.pid, caller, calls) for _ in range(repetitions + 1)][1:]
        reading.cancel()
    say(
        f"ms of the simulator's CPU per call, minimum / median / maximum of {repetitions}: {spread(spent)} ({load()})"
    )
    verdict("CPU per simulated attempt, ms", statistics.median(spent), at_most=AT_MOST_MS)


async def _milliseconds(pid: int, caller: Caller, calls: int) -> float:
    room = asyncio.Semaphore(AT_ONCE)
    events, before = caller.events, cpu_seconds(pid)

    async def one() -> None:
        async with room:
            await caller.call()

    await asyncio.gather(*(one() for _ in range(calls)))
    spent = (cpu_seconds(pid) - before) / calls * 1e3
    say(f"{spent:.3f} ms per call, {(caller.events - events) / calls:.1f} events ({load()})")
    return spent


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    count, times = (arguments + [2000, 5][len(arguments) :])[:2]
    run(lambda stack: measure(stack, count, times))
