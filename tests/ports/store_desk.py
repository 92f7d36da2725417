"""What the store's suites share: two kinds of Redis, and a desk with the steps most tests begin with."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from fakeredis import TcpFakeServer

from dialer_engine.core.model import AttemptId, CampaignId, Command, Due, ListId, TrunkName
from dialer_engine.store import Store
from dialer_engine.store.contract import parse_campaign, parse_ivr, parse_row
from dialer_engine.store.records import (
    CampaignView,
    Candidate,
    ClaimKind,
    ClaimReply,
    ClaimRequest,
    Closed,
    Next,
    ReadRow,
    SettleKind,
)
from dialer_engine.store.stats import Tally

CAMPAIGN: dict[str, Any] = {  # the seed's own
    "name": "campaign",
    "callerId": "123456789",
    "activePeriod": {"startTime": "09:00", "endTime": "17:00", "weekDays": [1, 2, 3, 4, 5, 6, 7]},
    "callLists": [1],
    "rescheduleRules": [{"status": "RS_ERROR", "retryAfter": 15, "maxAttempts": 1}],
    "ivr": "TUxw53xCBf",
    "endpoint": {"type": "queue", "boostFactor": 1.1, "maxWaitingCalls": 2, "queue": "green"},
}
FLOW = {"name": "hello", "start": "bye", "blocks": {"bye": {"type": "hangup"}}}
TRUNK = TrunkName("carrier")
OWNER = "host"
NOW = 1_760_000_000.25
AT = datetime.fromtimestamp(NOW, UTC)
EVA = "Eva Nová"


def talked(at: datetime = AT, agent: str | None = EVA, **queue: Any) -> dict[str, Any]:
    """The result of a call that an agent has taken (agent None: of one that waited and nobody took)."""
    fared: dict[str, Any] = {"secondsToAgent": 1.5, "secondsToAgentPbx": 1.0, "talkSeconds": 60.25}
    fared = fared if agent else dict.fromkeys(fared)
    return {
        "status": "TERMINATED" if agent else "RS_LOST",
        "answeredAt": (at - timedelta(seconds=70)).isoformat(),
        "leftIvrAt": (at - timedelta(seconds=62)).isoformat(),
        "connectedAt": (at - timedelta(seconds=60)).isoformat() if agent else None,
        "endedAt": at.isoformat(),
        "agent": agent,
        "queue": {"name": "green", "waitSeconds": 1.4, **fared, "abandoned": agent is None, **queue},
    }


class RealRedis:
    """A redis-server of our own on a unix socket, with the persistence docs/redis.md asks for.

    Only when its file reaches the disk is left to the kernel: a kill -9 of the process loses nothing, while with
    `everysec` a busy disk makes Redis put off the writes themselves.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.directory)]
        options += ["--appendonly", "yes", "--appendfsync", "no", "--save", ""]
        options += ["--maxmemory-policy", "noeviction"]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), decode_responses=True)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False


class Wire:
    """A TCP proxy in front of a RealRedis: counts what goes up, can lose the next reply, and lead on to another server
    whoever connects anew."""

    def __init__(self, server: RealRedis) -> None:
        self.server = server
        self.packets_up = 0
        self.lose_next_reply = False

    async def __aenter__(self) -> Wire:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await self._listener.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(str(self.server.socket))

        async def down() -> None:
            while data := await up_reader.read(1 << 20):
                if self.lose_next_reply:
                    self.lose_next_reply = False
                    break
                writer.write(data)
            writer.close()

        answers = asyncio.create_task(down())
        while data := await reader.read(1 << 20):
            self.packets_up += 1
            up_writer.write(data)
        up_writer.close()
        await answers


def need_redis_server() -> None:
    if shutil.which("redis-server") is None:
        reason = "redis-server is not installed (apt install redis-server)"
        if os.environ.get("DIALER_CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@contextmanager
def real_redis(directory: Path) -> Iterator[RealRedis]:
    need_redis_server()
    server = RealRedis(directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def fake_redis() -> Iterator[str]:
    """fakeredis behind TCP, as `dialer-engine demo` uses it; yields its URL."""
    server = TcpFakeServer(("127.0.0.1", 0))
    # It answers a pipeline in many small packets: without this each would wait 40 ms for an acknowledgement.
    handler: Any = server.RequestHandlerClass
    server.RequestHandlerClass = type("Prompt", (handler,), {"disable_nagle_algorithm": True})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def in_batches(*batches: Sequence[str]) -> AsyncIterator[list[tuple[str, str]]]:
    for batch in batches:
        yield [numbered(row) for row in batch]


def numbered(row: str) -> tuple[str, str]:
    parsed = parse_row(row)
    assert parsed is not None
    return parsed.number, row


class Desk:
    """A store with one IVR in it, and the steps a test repeats. Identities are the numbers themselves."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._ids = (AttemptId(f"a{n:06}") for n in itertools.count(1))

    async def new_list(self, *rows: str) -> ListId:
        return (await self.store.lists.create("list", in_batches(rows))).id

    async def new_campaign(self, *lists: ListId, **fields: Any) -> CampaignId:
        ivrs = await self.store.ivrs.all()
        ivr = ivrs[0].id if ivrs else await self.store.ivrs.save(parse_ivr(FLOW), by="test", now=NOW)
        definition = parse_campaign({**CAMPAIGN, "callLists": list(lists), "ivr": ivr, **fields})
        return await self.store.campaigns.save(definition, by="test", now=NOW)

    async def running(self, *rows: str, **fields: Any) -> CampaignId:
        """A started campaign whose one list has been read to its end."""
        campaign = await self.new_campaign(await self.new_list(*rows), **fields)
        await self.command(campaign, Command.START)
        await self.read(campaign)
        return campaign

    async def command(self, campaign: CampaignId, command: Command) -> None:
        await self.store.campaigns.command(campaign, command, by="test", now=NOW)

    async def view(self, campaign: CampaignId, now: float = NOW) -> CampaignView:
        return (await self.store.campaigns.load(now=now)).campaigns[campaign]

    async def read(self, campaign: CampaignId) -> None:
        """Read every list of the run to its end, 100 rows at a time."""
        view = await self.view(campaign)
        for place in view.lists:
            rows = await self.store.reading.rows(place.call_list, place.generation, place.cursor, 100)
            if not rows:
                continue
            contacts = [
                ReadRow(place.cursor + index, numbered(row)[0]) for index, row in enumerate(rows) if row != "-"
            ]
            at = place.cursor + len(rows)
            await self.store.reading.accept(campaign, view.run, place, rows=contacts, cursor=at)

    async def waiting(self, campaign: CampaignId, now: float = NOW) -> list[Candidate]:
        run = (await self.view(campaign)).run
        found = await self.store.reading.candidates(campaign, run, fresh=1000, due=1000, now=now)
        return [*found.due, *found.fresh]

    def requests(self, candidates: Sequence[Candidate]) -> list[ClaimRequest]:
        return [
            ClaimRequest(next(self._ids), one.due, numbered(one.row)[0], numbered(one.row)[0], "{}")
            for one in candidates
        ]

    async def send_claim(
        self, campaign: CampaignId, requests: Sequence[ClaimRequest], **changed: Any
    ) -> ClaimReply:
        terms: dict[str, Any] = {
            "run": (await self.view(campaign)).run,
            "owner": OWNER,
            "trunk": TRUNK,
            "max_channels": 50,
            "trunk_capacity": 100,
            "period_until_epoch": None,
            "lease_seconds": 30.0,
            "now": NOW,
        }
        return await self.store.calls.claim(requests, campaign=campaign, **{**terms, **changed})

    async def claim(self, campaign: CampaignId, count: int = 1, **changed: Any) -> list[ClaimRequest]:
        """Claim the next contacts; all of them must be had."""
        now = changed.get("now", NOW)
        requests = self.requests((await self.waiting(campaign, now))[:count])
        reply = await self.send_claim(campaign, requests, **changed)
        assert [one.kind for one in reply.outcomes] == [ClaimKind.CLAIMED] * count
        return requests

    async def call(self, campaign: CampaignId) -> ClaimRequest:
        """Claim the next contact and mark it sent."""
        (request,) = await self.claim(campaign)
        await self.store.calls.mark_sent(request.attempt_id, owner=OWNER, now=NOW)
        return request

    async def connected(self, campaign: CampaignId) -> ClaimRequest:
        """The next contact talks to an agent."""
        request = await self.call(campaign)
        fields = {"phase": "CONNECTED", "agent": EVA, "queue": "green"}
        await self.store.calls.progress(request.attempt_id, fields, now=NOW)
        return request

    async def settle(self, request: ClaimRequest, next: Next | None = None, **result: Any) -> None:
        """What came of the call: busy, unless told."""
        said = {"status": "RS_BUSY", **result}
        kind = await self.store.calls.settle(request.attempt_id, result=said, next=next or Closed(), now=NOW)
        assert kind is SettleKind.DONE

    async def counted(self, campaign: CampaignId, run: int = 1) -> Tally:
        return (await self.store.stats.read(campaign, run, hours=1, now=NOW)).whole


def members(candidates: Sequence[Candidate]) -> list[Due]:
    return [one.due for one in candidates]
