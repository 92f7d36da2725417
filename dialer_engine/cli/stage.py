"""The stage of the demo: a Redis, a PBX and everybody who is called in this process, and the daemon in its own.

The daemon is the real one, started as anybody would. Like any other program we write a call list, an IVR and a
campaign to Redis, and watch.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import os
import secrets
import signal
import sys
import tempfile
import urllib.request
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from dialer_engine.cli import callcentre, show
from dialer_engine.cli.callcentre import CUSTOMERS, QUEUE, QUEUES, STAFF, TO_AN_AGENT
from dialer_engine.cli.comparison import Line, compare, opted_out, results_of
from dialer_engine.cli.connections import compare_connections
from dialer_engine.cli.crowd import KINDS, LISTED, SURVEY, Kind, Person, campaign, crowd
from dialer_engine.cli.session import now
from dialer_engine.cli.wallboard import Wallboard
from dialer_engine.core.compliance import NumberPolicy
from dialer_engine.core.model import CampaignId, Command, IvrId, ListId
from dialer_engine.errors import Unavailable
from dialer_engine.simulator import Callee, Population, Simulator
from dialer_engine.simulator.world import Seen
from dialer_engine.store import Store
from dialer_engine.store.accounts import MANAGE
from dialer_engine.store.contract import contact_row, parse_campaign, parse_ivr
from dialer_engine.store.embedded import embedded_redis
from dialer_engine.store.records import DoNotCall

BY = "demo"
CALLS_PER_SECOND = 14.0
CUSTOMERS_SHARE = 8
"""So many people of the survey for each who is called for an agent."""
START_SECONDS = 30.0
STOP_SECONDS = 5.0
ASK_SECONDS = 2.0
LOOK_SECONDS = 0.1
SPARE_SECONDS = 60.0
"""What a campaign may take beside the dialing: the last rings and re-dials, on a machine with other things to do."""
LAST_WORDS = 5
_PR_SET_PDEATHSIG = 1  # prctl(2)

LATECOMERS = Kind("is busy, then presses 1", 12, "0 00 000 ######", calls=2)

_NOT_OURS = ("DIALER_", "CREDENTIALS_DIRECTORY", "STATE_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_")
"""Of the environment: with it the daemon would be another one's, with a real PBX perhaps."""

T = TypeVar("T")


async def play(size: int, *, speed: float, seed: int, keep: bool) -> bool:
    """The whole demo, on standard output; True when the daemon has recorded what the callees did.

    Raises Unavailable, and ConfigError when the extra `demo` is missing. Cancelled, it leaves nothing behind.
    """
    console = show.standard_output()
    people = crowd(size, [*KINDS, LATECOMERS], seed=seed)
    customers = crowd(max(len(CUSTOMERS), size // CUSTOMERS_SHARE), CUSTOMERS, seed=seed)
    called = f"{size} people to call, {len(customers)} more for its {len(STAFF)} agents"
    console.print(f"Starting a Redis, a PBX with {called}, and the daemon ...")
    with tempfile.TemporaryDirectory(prefix="dialer-demo-") as directory, embedded_redis() as redis_url:
        async with (
            _pbx(speed, seed) as pbx,
            _open(redis_url) as store,
            _daemon(Path(directory), redis_url, pbx) as daemon,
        ):
            await daemon.while_it_lives(daemon.ready())
            await _introduce(console, store, pbx, daemon)
            ivr, survey = await _prepare(store, people, CALLS_PER_SECOND * speed)
            sales = await _prepare_agents(store, customers)
            board = Wallboard(store, sales, len(customers), lambda: pbx.pbx.queues.doing(QUEUE))
            title = "dialer-engine demo"
            picture = show.Picture(
                store, survey, people, lambda: _calls_of(pbx, customers)[1], title=title, beside=board
            )
            patience = size / (CALLS_PER_SECOND * speed) + SPARE_SECONDS
            await daemon.while_it_lives(show.watch(picture, console, patience_seconds=patience))
            lines = await _compared(store, pbx, (survey, sales), people, customers)
            equal = show.tell(lines, console, witness="their own log")
            _say_what_next(console, daemon, survey, ivr, keep=keep)
            if keep:
                await daemon.while_it_lives(asyncio.Event().wait())
            return await daemon.stop() == 0 and equal


@asynccontextmanager
async def _pbx(speed: float, seed: int) -> AsyncIterator[Simulator]:
    """With agents at work, for whom others call in, too."""
    async with Simulator(
        speed=speed, seed=seed, population=Latecomers(), queues=QUEUES, agents=callcentre.staff()
    ) as pbx:
        calling = asyncio.create_task(_call_in(pbx, speed))
        try:
            yield pbx
        finally:
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)


async def _call_in(pbx: Simulator, speed: float) -> None:
    for serial in itertools.count():
        await asyncio.sleep(callcentre.INBOUND_SECONDS / speed)
        pbx.call_in(QUEUE, f"0800{serial:06d}", callcentre.INBOUND_STAY_SECONDS)


@dataclass(frozen=True, slots=True)
class Latecomers(Population):
    """Whose number is no script is busy when he is called first, and presses 1 when he is called again."""

    called: set[str] = field(default_factory=set)

    def callee(self, number: str) -> Callee:
        if number in self.called:
            return Callee(waits_seconds=1.0, keys="1", keys_after_seconds=2.0)
        self.called.add(number)
        return Callee(rings=False, sip_code=486)


@asynccontextmanager
async def _open(url: str) -> AsyncIterator[Store]:
    store = await Store.open(url)
    try:
        yield store
    finally:
        await store.close()


async def _prepare(store: Store, people: Sequence[Person], calls_per_second: float) -> tuple[IvrId, CampaignId]:
    """Write what the campaign needs, and start it."""
    ivr = await store.ivrs.save(parse_ivr(SURVEY), by=BY, now=now())
    listed = (person.number for person in people if not person.kind.calls)
    await store.do_not_call.add(*(DoNotCall(number, reason=LISTED, by=BY, at=now()) for number in listed))
    call_list = await _listed(store, "people", people)
    definition = campaign(call_list, ivr, calls_per_second=calls_per_second)
    return ivr, await _started(store, definition)


async def _prepare_agents(store: Store, customers: Sequence[Person]) -> CampaignId:
    """The same for the campaign whose pace the agents set."""
    ivr = await store.ivrs.save(parse_ivr(TO_AN_AGENT), by=BY, now=now())
    call_list = await _listed(store, "customers", customers)
    return await _started(store, callcentre.campaign(call_list, ivr))


async def _listed(store: Store, name: str, people: Sequence[Person]) -> ListId:
    rows = [contact_row(person.row(), NumberPolicy()) for person in people]

    async def batches() -> AsyncIterator[Sequence[tuple[str, str]]]:
        yield rows

    return (await store.lists.create(name, batches())).id


async def _started(store: Store, definition: Mapping[str, object]) -> CampaignId:
    saved = await store.campaigns.save(parse_campaign(definition), by=BY, now=now())
    await store.campaigns.command(saved, Command.START, by=BY, now=now())
    return saved


def _calls_of(pbx: Simulator, customers: Sequence[Person]) -> tuple[list[Seen], list[Seen]]:
    """Those for agents, their telephones' among them, and all others."""
    numbers = {*STAFF, *(person.number for person in customers)}
    calls = [*pbx.pbx.world.calls]
    return [call for call in calls if call.number in numbers], [
        call for call in calls if call.number not in numbers
    ]


async def _compared(
    store: Store,
    pbx: Simulator,
    campaigns: tuple[CampaignId, CampaignId],
    people: Sequence[Person],
    customers: Sequence[Person],
) -> list[Line]:
    survey, sales = campaigns
    for_agents, others = _calls_of(pbx, customers)
    kept = await opted_out(store)
    return [
        *compare(people, others, await results_of(store, survey), kept, [*KINDS, LATECOMERS]),
        *compare_connections(customers, for_agents, await results_of(store, sales), CUSTOMERS, STAFF),
    ]


async def _introduce(console: Console, store: Store, pbx: Simulator, daemon: Daemon) -> None:
    password = secrets.token_urlsafe(9)
    await store.accounts.add_user(BY, password, [MANAGE], by=BY, now=now())
    doors = {
        "metrics": f"{daemon.url}/metrics",
        "API": f"{daemon.url}/docs  ({BY}, {password})",
        "PBX": f"{pbx.url}/simulator/calls  ({pbx.username}, {pbx.password})",
        "Redis": daemon.redis_url,
    }
    if not await daemon.answers("/docs"):
        del doors["API"]
    console.print("Nothing leaves this machine, all is forgotten at the end. Meanwhile, to look at:")
    for name, door in doors.items():
        console.print(f"  {name:8} {door}", soft_wrap=True)


def _say_what_next(console: Console, daemon: Daemon, survey: CampaignId, ivr: IvrId, *, keep: bool) -> None:
    if keep:
        lines = [
            "It goes on until Ctrl-C. In another terminal, for instance:",
            f"  export DIALER_CONFIG={daemon.config}",
            f"  dialer-engine campaign start {survey}; dialer-engine campaign list",
            f"  dialer-engine call {KINDS[0].number(0)} --ivr {ivr}",
            f"  {daemon.url}/metrics",
        ]
    else:
        lines = [
            "What next:",
            "  dialer-engine demo --keep   stays, to be played with",
            "  make lab                    in the source: the same on two real Asterisks",
            '  README.md                   "On your own PBX": from here to your first call',
        ]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


# --- the daemon ---


@asynccontextmanager
async def _daemon(directory: Path, redis_url: str, pbx: Simulator) -> AsyncIterator[Daemon]:
    """Started; at the end it is gone, whatever happened."""
    config, log = directory / "dialer.toml", directory / "daemon.log"
    config.write_text(_toml(directory, redis_url, pbx), encoding="utf-8")
    with log.open("wb") as words:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dialer_engine", "run", "--config", str(config)),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=words,
            env={name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)},
            start_new_session=True,  # a Ctrl-C is for us, who then end it
            preexec_fn=_die_with_us if sys.platform == "linux" else None,
        )
    daemon = Daemon(process, redis_url, config, log)
    try:
        yield daemon
    finally:
        await daemon.stop()


def _die_with_us() -> None:
    """In the child, before it becomes the daemon: whoever kills us outright leaves it no Redis and no PBX."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _toml(directory: Path, redis_url: str, pbx: Simulator) -> str:
    tables: dict[str, dict[str, object]] = {
        "redis": {"url": redis_url},
        "ari": {"url": pbx.url, "username": pbx.username, "password": pbx.password},
        "ami": {"port": pbx.ami_port, "username": pbx.username, "secret": pbx.password},
        "api": {"bind": "127.0.0.1:0"},
        "trunks.carrier": {},
        "daemon": {"name": BY, "drain_seconds": 0.5, "data_directory": str(directory / "data")},
        "log": {"show_numbers": True},
    }
    return "".join(
        f"[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
        for table, settings in tables.items()
    )


class Daemon:
    """A process, and what is known of it from outside."""

    def __init__(self, process: Process, redis_url: str, config: Path, log: Path) -> None:
        self.url = ""  # of its API, as soon as it is ready
        self.redis_url = redis_url
        self.config = config
        self._process = process
        self._log = log
        # Nothing of the environment: a proxy would look for us at its own place.
        self._web = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    async def ready(self) -> None:
        """Wait until it says that it can dial. Raises Unavailable."""
        try:
            async with asyncio.timeout(START_SECONDS):
                while not (self.url and await self.answers("/readyz")):
                    self.url = self._said_url()
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError as exc:
            raise self._fault(f"it was not ready within {START_SECONDS:.0f} s") from exc

    async def answers(self, path: str) -> bool:
        """Well, that is: no error."""

        def ask() -> bool:
            with suppress(OSError), self._web.open(self.url + path, timeout=ASK_SECONDS):
                return True
            return False

        return await asyncio.to_thread(ask)

    async def while_it_lives(self, work: Coroutine[object, object, T]) -> T:
        """What comes of the work. Raises Unavailable when the daemon ends before."""
        doing, end = asyncio.create_task(work), asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait((doing, end), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise self._fault(f"it has ended by itself, exit code {end.result()}")
            return doing.result()
        finally:
            for task in (doing, end):
                task.cancel()
            await asyncio.gather(doing, end, return_exceptions=True)

    async def stop(self) -> int:
        """Its exit code; who does not end in time is killed."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
        return await self._process.wait()

    def _said_url(self) -> str:
        """Its log says which port it was given."""
        *lines, _ = self._log.read_text(encoding="utf-8").split("\n")  # behind the last end there may be a part
        return next((f"http://{json.loads(line)['api']}" for line in lines if '"api":' in line), "")

    def _fault(self, what: str) -> Unavailable:
        words = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_WORDS:]
        return Unavailable("the daemon", "\n  ".join([f"{what}. Its last words:", *words]))
