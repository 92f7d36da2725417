"""The engine's world in virtual time: one Redis, one PBX, daemons that come and go, and an operator.

    async with World() as world:
        campaign = await world.campaign(numbers(3), rules=[rule("RS_BUSY", after=60)])
        world.pbx.callees["602000001"] = BUSY
        await world.daemon()
        await world.completed(campaign)

The wall clock is a fixed start plus the loop's time; `skip` makes hours pass at once, as for a host that was
suspended. `async with` ends every daemon by kill -9 and fails when one of them has logged an exception.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

import fakeredis
import pytest
import structlog

from dialer_engine.core.compliance import NumberPolicy
from dialer_engine.core.model import AttemptId, CampaignId, Command, ListId, Trunk, TrunkName
from dialer_engine.engine import Engine, EngineSettings
from dialer_engine.metrics import Metrics
from dialer_engine.store import Store
from dialer_engine.store.contract import parse_campaign, parse_ivr
from dialer_engine.store.link import Link
from dialer_engine.store.records import DoNotCall
from tests.engine.centre import RETURNS, Manager
from tests.engine.fate import Fate, current
from tests.engine.flaky import FlakyRedis, Ledger
from tests.engine.pbx import Pbx, Port
from tests.rig import result_of

VIRTUAL = pytest.mark.looptime(noop_cycles=0)
"""No idle turns before the time jumps: there is no thread here to wait for."""

MORNING = "2026-01-13T10:00:00+01:00"  # a Tuesday in Prague
ALWAYS = {"startTime": "00:00", "endTime": "24:00", "weekDays": [1, 2, 3, 4, 5, 6, 7]}

BYE = {"bye": {"type": "hangup"}}
HELLO = {"hello": {"type": "play", "media": ["sound:hello"], "next": "bye"}, **BYE}
SURVEY: dict[str, dict[str, Any]] = {
    "hello": {"type": "play", "media": ["sound:hello"], "next": "ask"},
    "ask": {"type": "menu", "media": ["sound:press"], "keys": {"1": "yes", "9": "never"}, "noInput": "bye",
            "timeout": 2, "retries": 0},
    "yes": {"type": "result", "extStatus": "YES", "values": {"answer": "1"}, "next": "thanks"},
    "thanks": {"type": "play", "media": ["sound:thanks"], "next": "bye"},
    "never": {"type": "optOut", "next": "bye"},
    **BYE,
}  # fmt: skip


def numbers(count: int, first: int = 602_000_001) -> list[str]:
    return [str(first + n) for n in range(count)]


def rule(status: str, *, after: float = 10, times: int = 1, **fields: Any) -> dict[str, Any]:
    return {"status": status, "retryAfter": after, "maxAttempts": times, **fields}


def period(start: str, end: str, days: Sequence[int] = (1, 2, 3, 4, 5, 6, 7)) -> dict[str, Any]:
    return {"startTime": start, "endTime": end, "weekDays": list(days)}


def trunk(name: str = "carrier", *, capacity: int = 100, rate: float | None = None) -> Trunk:
    return Trunk(TrunkName(name), f"PJSIP/${{num}}@{name}", capacity, rate)


@dataclass(slots=True, eq=False)
class Daemon:
    """One process."""

    engine: Engine
    port: Port
    redis: FlakyRedis
    fate: Fate
    store: Store
    task: asyncio.Task[None]
    manager: Manager | None
    metrics: Metrics

    async def audit(self) -> None:
        """As the daemon has it done once a minute."""
        await self.fate.inside(lambda: asyncio.get_running_loop().create_task(self.engine.audit()))

    async def kill(self) -> None:
        """kill -9."""
        await self.fate.kill()
        await self.store.close()


class World:
    def __init__(self, start: str = MORNING, *, trunks: Sequence[Trunk] = (trunk(),)) -> None:
        self.start = datetime.fromisoformat(start).astimezone(UTC)
        self.skipped = 0.0
        self.trunks = list(trunks)
        self.pbx = Pbx(self.now)
        self.centre = self.pbx.centre
        self.queue_context = RETURNS
        self.ahead: defaultdict[str, float] = defaultdict(float)  # seconds, of the clock of each daemon's host
        self.ledger = Ledger()
        self.daemons: list[Daemon] = []
        self.failures: list[Mapping[str, Any]] = []
        self.log: list[Mapping[str, Any]] = []
        self.on_task: Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]] = lambda coro: coro
        self.on_created: Callable[[str, asyncio.Task[Any]], None] = lambda name, task: None
        self.server = fakeredis.FakeServer()
        self.redis: Any = fakeredis.FakeRedis(server=self.server, decode_responses=True)
        self._ids = itertools.count(1)
        self._definitions: dict[CampaignId, dict[str, Any]] = {}

    # --- its life ---

    async def __aenter__(self) -> World:
        self._loop = asyncio.get_running_loop()
        self._loop.set_task_factory(self._create_task)
        structlog.configure(
            processors=[self._take_log], cache_logger_on_first_use=False, wrapper_class=structlog.BoundLogger
        )
        self.store = self._store(self._client(Fate()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for daemon in self.daemons:
            await daemon.kill()
        await self.store.close()
        self._loop.set_task_factory(None)
        structlog.reset_defaults()
        if kind is None and self.failures:
            raise AssertionError(f"the daemon logged {self.failures[0]}") from self.failures[0]["exc_info"]

    def _create_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        fate = current.get()
        if fate is None:
            return asyncio.Task(coro, loop=loop, **options)
        task = asyncio.Task(self.on_task(coro), loop=loop, **options)
        self.on_created(coro.__name__, task)
        fate.tasks.add(task)
        task.add_done_callback(fate.tasks.discard)
        return task

    def _take_log(self, _logger: Any, method: str, line: Any) -> Any:
        fate = current.get()
        if fate is not None and not fate.dead:
            self.log.append({"level": method, **line})
            if line.get("exc_info") is not None:
                self.failures.append(line)
        raise structlog.DropEvent

    def _client(self, fate: Fate) -> FlakyRedis:
        return FlakyRedis(self.server, fate, self.ledger, lambda: self.now().timestamp())

    def _store(self, client: FlakyRedis) -> Store:
        return Store(Link(client, "dialer"), "Europe/Prague")  # type: ignore[arg-type]

    async def daemon(
        self,
        name: str = "host",
        *,
        fate: Fate | None = None,
        default_trunk: str | None = None,
        ami: bool = True,
    ) -> Daemon:
        """Start one, connected to the PBX; `ami`: by both doors."""
        fate = fate or Fate()
        client = self._client(fate)
        store = self._store(client)
        ports: list[Port] = []
        managers: list[Manager] = []

        def watch(hear: Any, changed: Any) -> Manager:
            managers.append(Manager(self.centre, fate, hear, changed, self.now))
            return managers[0]

        def connect(on_event: Any, on_state: Any) -> Port:
            ports.append(Port(self.pbx, name, fate, on_event, on_state))
            return ports[0]

        metrics = Metrics("test")
        engine = Engine(
            self.settings(name, default_trunk),
            store,
            connect,
            clock=lambda: self.now() + timedelta(seconds=self.ahead[name]),
            new_id=lambda: AttemptId(f"a{next(self._ids):09}"),
            metrics=metrics,
            watch=watch if ami else None,
        )
        task = fate.inside(lambda: asyncio.get_running_loop().create_task(engine.run()))
        daemon = Daemon(engine, ports[0], client, fate, store, task, next(iter(managers), None), metrics)
        self.daemons.append(daemon)
        ports[0].connect()
        if daemon.manager is not None:
            daemon.manager.connect()
        return daemon

    def settings(self, name: str = "host", default_trunk: str | None = None) -> EngineSettings:
        return EngineSettings(
            owner=name,
            trunks={one.name: one for one in self.trunks},
            default_trunk=TrunkName(default_trunk or self.trunks[0].name),
            numbers=NumberPolicy(),
            app=name,
            queue_context=self.queue_context,
        )

    # --- time ---

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self._loop.time() + self.skipped)

    @property
    def at(self) -> float:
        """The loop's time, as the PBX stamps its originates."""
        return self._loop.time()

    def skip(self, seconds: float) -> None:
        self.skipped += seconds

    def skip_to(self, instant: str) -> None:
        self.skip((datetime.fromisoformat(instant) - self.now()).total_seconds())

    def wall(self, at: float) -> datetime:
        """The wall's instant of one of the loop's, if nothing was skipped since."""
        return self.start + timedelta(seconds=at + self.skipped)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        for daemon in self.daemons:
            if daemon.task.done() and not daemon.fate.dead and not daemon.task.cancelled():
                daemon.task.result()

    async def until(self, holds: Callable[[], Any], within: float = 60.0, *, every: float = 0.1) -> None:
        deadline = self.at + within
        while not holds():
            assert self.at < deadline, f"not within {within} s"
            await self.sleep(every)

    async def completed(self, *campaigns: CampaignId, within: float = 120.0) -> None:
        await self.until(lambda: {self.state(one) for one in campaigns} == {"COMPLETED"}, within, every=0.4)

    # --- the operator ---

    async def a_list(self, rows: Sequence[str]) -> ListId:
        call_list = ListId(int(self.redis.incr("{dialer}:next:list")))
        if rows:
            self.redis.rpush(f"{{dialer:list:{call_list}}}:rows:1", *rows)
        self.redis.sadd("{dialer}:lists", call_list)
        return call_list

    async def append(self, call_list: ListId, rows: Sequence[str]) -> None:
        generation = self.redis.hget(f"{{dialer:list:{call_list}}}:meta", "generation") or 1
        self.redis.rpush(f"{{dialer:list:{call_list}}}:rows:{generation}", *rows)

    async def replace(self, call_list: ListId, rows: Sequence[str]) -> None:
        async def batches() -> Any:
            yield [(row, row) for row in rows]

        await self.store.lists.replace(call_list, batches())

    async def campaign(
        self,
        *sources: Sequence[str] | ListId,
        flow: Mapping[str, Any] = BYE,
        rules: Sequence[Mapping[str, Any]] = (),
        start: bool = True,
        **fields: Any,
    ) -> CampaignId:
        """One over these lists, or over new lists of these numbers; started."""
        lists = [one if isinstance(one, int) else await self.a_list(one) for one in sources]
        document = {"name": "flow", "start": next(iter(flow)), "blocks": dict(flow)}
        ivr = await self.store.ivrs.save(parse_ivr(document), by="test", now=self.epoch())
        definition = {
            "name": "campaign",
            "callerId": "123456789",
            "activePeriod": ALWAYS,
            "callLists": lists,
            "ivr": ivr,
            "rescheduleRules": list(rules),
            **fields,
        }
        campaign = await self.store.campaigns.save(parse_campaign(definition), by="test", now=self.epoch())
        self._definitions[campaign] = definition
        if start:
            await self.command(campaign, "start")
        return campaign

    async def edit(self, campaign: CampaignId, **fields: Any) -> None:
        """A PUT."""
        definition = self._definitions[campaign] = {**self._definitions[campaign], **fields}
        await self.store.campaigns.save(
            parse_campaign(definition), campaign=campaign, by="test", now=self.epoch()
        )
        self.wake()

    def spoil(self, campaign: CampaignId) -> None:
        """Another program writes nonsense into its definition."""
        self.redis.set(f"{{dialer}}:campaign:{campaign}:definition", "{}")
        self.wake()

    async def command(self, campaign: CampaignId, command: str) -> None:
        await self.store.campaigns.command(campaign, Command(command), by="test", now=self.epoch())
        self.wake()

    async def stop_everything(self) -> None:
        await self.store.stop(by="test", now=self.epoch())
        self.wake()

    async def forbid(self, number: str, **fields: Any) -> None:
        await self.store.do_not_call.add(DoNotCall(number, **fields))

    def wake(self) -> None:
        """What the daemons hear of a PUBLISH."""
        for daemon in self.daemons:
            if not daemon.fate.dead:
                daemon.fate.inside(daemon.engine.wake)

    def epoch(self) -> float:
        return self.now().timestamp()

    # --- what is to be seen ---

    def key(self, campaign: CampaignId, name: str) -> str:
        return f"{{dialer}}:campaign:{campaign}:{name}"

    def state(self, campaign: CampaignId) -> str:
        return str(self.redis.hget(self.key(campaign, "state"), "state") or "NEW")

    def results(self, campaign: CampaignId) -> list[dict[str, Any]]:
        """Oldest first, as the API shows them."""
        found: Any = self.redis.xrange(self.key(campaign, "results"))
        return [result_of(fields) for _, fields in found]

    def statuses(self, campaign: CampaignId) -> dict[str, list[str]]:
        """By number, in order: "RS_BUSY", "TERMINATED/YES"."""
        by_number: dict[str, list[str]] = {}
        for one in self.results(campaign):
            status = one["status"] + (f"/{one['extStatus']}" if one["extStatus"] else "")
            by_number.setdefault(one["number"], []).append(status)
        return by_number

    def told(self) -> list[str]:
        """The kinds of what has happened, oldest first."""
        happenings: Any = self.redis.xrange("{dialer}:events")
        return [fields["kind"] for _, fields in happenings]

    def live(self) -> set[str]:
        """Attempts that Redis holds."""
        return {key.rpartition(":")[2] for key in self.redis.keys("{dialer}:attempt:*")}

    def owners(self) -> set[str]:
        """Daemons whose calls they are."""
        return {self.redis.hget(f"{{dialer}}:attempt:{one}", "owner") for one in self.live()}

    def limit(self, campaign: CampaignId) -> str | None:
        """What the last plan says."""
        plans = [one.engine.plans for one in self.daemons if not one.fate.dead]
        found = [each[campaign].limit.value for each in plans if campaign in each]
        return found[0] if found else None

    def census(self, campaign: CampaignId) -> dict[str, int]:
        """Where the run's contacts are, each in exactly one place, and every live set telling the same."""
        redis = self.redis
        run = redis.hgetall(self.key(campaign, "run"))
        members = [
            *redis.zrange(self.key(campaign, "fresh"), 0, -1),
            *redis.zrange(self.key(campaign, "due"), 0, -1),
        ]
        waiting = len(members)
        number_of_run = redis.hget(self.key(campaign, "state"), "run")
        attempts = {id: redis.hgetall(f"{{dialer}}:attempt:{id}") for id in self.live()}
        mine = {id: one for id, one in attempts.items() if one["campaign"] == str(campaign)}
        members += [one["member"] for one in mine.values() if one["run"] == number_of_run]
        contacts = [member.partition("|")[0] for member in members]
        assert len(contacts) == len(set(contacts)), "a contact is in two places"
        assert redis.smembers(self.key(campaign, "live")) == mine.keys()
        assert set().union(*(redis.smembers(f"{{dialer}}:trunk:{one.name}:live") for one in self.trunks)) == (
            attempts.keys()
        )
        owners: set[str] = set()
        for key in redis.keys("{dialer}:daemon:*:live"):
            owners |= set(redis.zrange(key, 0, -1))
        assert owners == attempts.keys()
        assert set(redis.hgetall("{dialer}:live-numbers").values()) == attempts.keys()
        counts = {name: int(run.get(name, 0)) for name in ("read", "refused", "repeats", "closed")}
        accepted = counts["read"] - counts["refused"] - counts["repeats"]
        in_flight = len(contacts) - waiting
        assert accepted == waiting + in_flight + counts["closed"], "a contact is nowhere"
        return {**counts, "waiting": waiting, "live": in_flight}

    def check_at_rest(self, *campaigns: CampaignId) -> None:
        """Nothing lives: no slot is taken, and every originate has exactly one result."""
        assert self.live() == set()
        assert not any(daemon.engine.live for daemon in self.daemons if not daemon.fate.dead)
        results = [one["attempt"] for campaign in campaigns for one in self.results(campaign)]
        assert len(results) == len(set(results)), "an attempt has two results"
        assert {one.id for one in self.pbx.originates if one.made} <= set(results)
        assert all(count == 1 for count in self.pbx.by_attempt.values()), "an originate was sent twice"
        assert self.pbx.channels.keys() <= set(self.pbx.inbound)
        for campaign in campaigns:
            self.census(campaign)
