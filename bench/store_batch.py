"""What the store costs: verbs one after another against verbs of one turn, which share a pipeline.

python bench/store_batch.py          starts a redis-server of its own on a unix socket
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dialer_engine.core.model import AttemptId, CampaignId, Command, Contact, Due, TrunkName
from dialer_engine.store import Store
from dialer_engine.store.contract import parse_campaign, parse_ivr
from dialer_engine.store.records import ClaimRequest, Closed, PinnedList, ReadRow

CALLS = 2000
CAMPAIGNS = 200
CAMPAIGN: dict[str, Any] = {
    "name": "bench",
    "callerId": "1",
    "activePeriod": {"startTime": "00:00", "endTime": "24:00", "weekDays": [1, 2, 3, 4, 5, 6, 7]},
}


async def one_after_another(verbs: Sequence[Callable[[], Awaitable[object]]]) -> None:
    for verb in verbs:
        await verb()


async def in_one_turn(verbs: Sequence[Callable[[], Awaitable[object]]], at_once: int = 50) -> None:
    for start in range(0, len(verbs), at_once):
        await asyncio.gather(*(verb() for verb in verbs[start : start + at_once]))


class Bench:
    def __init__(self, store: Store, server_cpu: Callable[[], float]) -> None:
        self.store = store
        self.server_cpu = server_cpu

    async def campaign(self, rows: int) -> CampaignId:
        async def numbers() -> Any:
            for start in range(0, rows, 1000):
                texts = [f"420{600_000_000 + n}" for n in range(start, min(start + 1000, rows))]
                yield [(text, text) for text in texts]

        call_list = (await self.store.lists.create("bench", numbers())).id
        ivr = await self.store.ivrs.save(
            parse_ivr({"name": "x", "start": "a", "blocks": {"a": {"type": "hangup"}}}), by="bench", now=0
        )
        definition = parse_campaign({**CAMPAIGN, "callLists": [call_list], "ivr": ivr})
        campaign = await self.store.campaigns.save(definition, by="bench", now=0)
        await self.store.campaigns.command(campaign, Command.START, by="bench", now=0)
        for start in range(0, rows, 1000):
            read = await self.store.reading.rows(call_list, 1, start, 1000)
            contacts = [ReadRow(start + n, text) for n, text in enumerate(read)]
            place = PinnedList(call_list, 1, start)
            await self.store.reading.accept(campaign, 1, place, rows=contacts, cursor=start + len(read))
        self.call_list = call_list
        return campaign

    def lives(self, campaign: CampaignId, rows: Sequence[int]) -> list[Callable[[], Awaitable[object]]]:
        """One claim, mark_sent, progress and settle per row."""

        async def life(row: int) -> None:
            attempt = AttemptId(f"a{campaign}-{row:06}")
            number = f"420{600_000_000 + row}"
            request = ClaimRequest(attempt, Due(Contact(self.call_list, 1, row)), number, number, "{}")
            calls = self.store.calls
            await calls.claim(
                [request],
                campaign=campaign,
                run=1,
                owner="bench",
                trunk=TrunkName("t"),
                max_channels=10_000,
                trunk_capacity=10_000,
                period_until_epoch=None,
                lease_seconds=30,
                now=1,
            )
            await calls.mark_sent(attempt, owner="bench", now=1)
            await calls.progress(attempt, {"phase": "RINGING"}, now=1)
            await calls.settle(attempt, result={"status": "RS_BUSY"}, next=Closed(), now=1)

        return [lambda row=row: life(row) for row in rows]  # type: ignore[misc]

    async def measured(self, what: str, count: int, work: Awaitable[object]) -> float:
        wall, cpu, redis_cpu = time.perf_counter(), time.process_time(), self.server_cpu()
        await work
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        redis_cpu = self.server_cpu() - redis_cpu
        print(
            f"{what:48} {count / wall:8.0f}/s  wall {wall / count * 1e6:6.0f} us  "
            f"our cpu {cpu / count * 1e6:6.0f} us  redis cpu {redis_cpu / count * 1e6:6.0f} us"
        )
        return wall / count

    async def run(self) -> None:
        campaign = await self.campaign(2 * CALLS)
        alone, together = self.lives(campaign, range(CALLS)), self.lives(campaign, range(CALLS, 2 * CALLS))
        slow = await self.measured("calls, one after another", CALLS, one_after_another(alone))
        fast = await self.measured("calls, 50 in one turn", CALLS, in_one_turn(together))
        print(f"sharing pipelines is {slow / fast:.1f} times as fast")
        await self.memory(100_000)
        for _ in range(CAMPAIGNS):
            await self.campaign(1)
        await self.store.campaigns.load(now=1)
        loads = [lambda: self.store.campaigns.load(now=1)] * 20
        await self.measured(f"load of {CAMPAIGNS} campaigns", 20, one_after_another(loads))

    async def memory(self, rows: int) -> None:
        link = self.store.calls._link
        before = int((await link.do("INFO", "memory"))["used_memory"])
        campaign = await self.campaign(rows)
        fresh = link.campaign_key(campaign, "fresh")
        fresh_bytes = await link.do("MEMORY", "USAGE", fresh, "SAMPLES", 0)
        used = int((await link.do("INFO", "memory"))["used_memory"]) - before - int(fresh_bytes)
        print(f"memory per number of a list, read: {used / rows:.1f} bytes (fresh contacts not counted)")


def cpu_of(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@contextmanager
def redis_server() -> Iterator[tuple[str, int]]:
    """Yields its URL and its process id."""
    with tempfile.TemporaryDirectory() as directory:
        socket = f"{directory}/redis.sock"
        place = ["--port", "0", "--unixsocket", socket, "--dir", directory]
        server = subprocess.Popen(
            ["redis-server", *place, "--appendonly", "yes", "--save", ""], stdout=subprocess.DEVNULL
        )
        try:
            while not Path(socket).exists():
                time.sleep(0.01)
            yield f"unix://{socket}", server.pid
        finally:
            server.kill()
            server.wait()


async def main(url: str, process: int) -> None:
    store = await Store.open(url)
    await Bench(store, lambda: cpu_of(process)).run()
    await store.close()


if __name__ == "__main__":
    with redis_server() as (url, process):
        asyncio.run(main(url, process))
