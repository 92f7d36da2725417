"""The composition root: configuration -> store, ARI, AMI, engine -> api, and the life of the process around them.

Root tasks fail together: when one ends that should not, all end and so does the process, for systemd to start
it again; the next start adopts the calls it left. Only the engine ends by itself, when it has drained.

    SIGTERM, SIGINT   no new calls; live ones get `drain_seconds`. The second signal: at once.
    SIGHUP            read the configuration again; the log names what needs a restart.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any

import uvloop
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from dialer_engine import __version__, api, log, metrics
from dialer_engine import config as configuration
from dialer_engine.ami import Ami
from dialer_engine.archive import Archive
from dialer_engine.ari import Ari, AriConfig, AriEvent, AriState
from dialer_engine.config import Config
from dialer_engine.core.compliance import NumberPolicy
from dialer_engine.core.model import AttemptId
from dialer_engine.core.told import Disposed, Told
from dialer_engine.engine import EXTRA_EVENTS, Engine, EngineSettings
from dialer_engine.errors import ConfigError, DialerError, Problem, Replaced, Unavailable
from dialer_engine.store import Store
from dialer_engine.store.embedded import embedded_redis

ALIVE_SECONDS = 10.0
"""Without a pass for so long the daemon calls itself dead. A pass is due every half second."""
AUDIT_SECONDS = 60
TIDY_SECONDS = 60
PULSE_SECONDS = 1.0
ARCHIVE_AFTER_SECONDS = 1.0
"""After the start, for a daemon that is down every night; what it adopts goes before."""

_log = log.get("daemon")


class Exit(IntEnum):
    """How the process ends; systemd's unit and scripts read it (sysexits.h where it has a word for it)."""

    OK = os.EX_OK
    FAILED = 1
    UNAVAILABLE = os.EX_UNAVAILABLE  # 69
    REPLACED = os.EX_TEMPFAIL  # 75
    CONFIG = os.EX_CONFIG  # 78


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says about a run."""

    path: Path | None
    wait_all: bool = False
    """Drain until the last call has ended, however long."""
    volatile: bool = False
    """Allow a Redis inside the process, which forgets everything."""
    api_only: bool = False
    """Serve the API and dial nothing: engines elsewhere obey the same Redis."""


def run(config: Config, options: Options) -> Exit:
    """Be the daemon until a signal or a failure ends it. Logging has been set up."""
    try:
        uvloop.run(_run(config, options))
    except BaseExceptionGroup as group:
        return _told(list(_leaves(group)))
    except (DialerError, OSError) as exc:
        return _told([exc])
    _log.info("stopped")
    return Exit.OK


async def _run(config: Config, options: Options) -> None:
    listener = api.listen(config.api.bind)
    with _redis(config, options) as url:
        await _run_on(url, listener, config, options)


async def _run_on(redis_url: str, listener: socket.socket, config: Config, options: Options) -> None:
    store = await Store.open(
        redis_url,
        prefix=config.redis.prefix,
        timeout_seconds=config.redis.timeout_seconds,
        default_timezone=config.dialing.timezone,
    )
    counted = metrics.Metrics(__version__)
    try:
        if options.api_only:
            await _ApiAlone(config, options, store, counted).live(listener)
            return
        engine, ari, ami = _compose(config, store, counted)
        counted.watch_live(lambda: engine.live)
        # However it ends, the engine leaves what lives where it is. What it is still told after that reaches neither
        # port: both are closed before the loop cancels whatever is left, and the next start (or the twin) takes over.
        async with ari:
            await _Daemon(config, options, store, engine, counted).live(ari, ami, listener)
    finally:
        await store.close()


def _compose(config: Config, store: Store, counted: metrics.Metrics) -> tuple[Engine, Ari, Ami | None]:
    """The engine, and the clients of ARI and AMI that it has been given and that we run."""
    to = config.ari
    address = AriConfig(to.url, to.username, to.password.get_secret_value(), to.app)
    aris: list[Ari] = []
    amis: list[Ami] = []

    def connect(on_event: Callable[[AriEvent], None], on_state: Callable[[AriState], None]) -> Ari:
        # Local/ channels belong to no endpoint that could be followed: they are found among all channels.
        watch_all = any(trunk.is_local for trunk in config.trunk_table().values())
        aris.append(Ari(address, on_event, on_state, watch_all=watch_all, extra_events=EXTRA_EVENTS))
        return aris[0]

    def watch(hear: Callable[[Told | Disposed], None], changed: Callable[[], None]) -> Ami:
        amis.append(
            Ami(config.ami, hear=hear, changed=changed, clock=_now, rules=config.queues, metrics=counted)
        )
        return amis[0]

    engine = Engine(
        _engine_settings(config),
        store,
        connect,
        clock=_now,
        new_id=lambda: AttemptId(f"a{secrets.token_hex(10)}"),  # of one width; the far half begins with f
        metrics=counted,
        watch=watch if config.ami.secret else None,
    )
    return engine, aris[0], next(iter(amis), None)


def _now() -> datetime:
    return datetime.now(UTC)


def _engine_settings(config: Config) -> EngineSettings:
    return EngineSettings(
        owner=config.daemon.name,
        trunks=config.trunk_table(),
        default_trunk=config.default_trunk,
        numbers=config.numbers.policy(),
        app=config.ari.app,
        queue_context=config.dialing.queue_context,
    )


def _redis(config: Config, options: Options) -> AbstractContextManager[str]:
    """The URL of the Redis to use; an embedded one is there for as long as the context is."""
    if config.redis.url != configuration.EMBEDDED:
        return nullcontext(config.redis.location)
    if not options.volatile:
        raise ConfigError([Problem("redis.url", '"embedded" forgets everything: say --volatile to mean it')])
    return embedded_redis()


class _Daemon:
    """One life of the process: its root tasks, its signals, its housekeeping."""

    def __init__(
        self, config: Config, options: Options, store: Store, engine: Engine, counted: metrics.Metrics
    ) -> None:
        self._config = config
        self._options = options
        self._store = store
        self._engine = engine
        self._metrics = counted
        self._systemd = Systemd()
        self._stops = 0
        self._ami: Ami | None = None

    async def live(self, ari: Ari, ami: Ami | None, listener: socket.socket) -> None:
        """Until the engine has drained, or a root task fails (ExceptionGroup)."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._ami = ami
        if ami is None:
            _log.info("queues not watched", reason="ami.secret is not set: campaigns for queues wait")
        jobs = housekeeping(lambda: self._config, self._engine, self._store)
        jobs.start()
        try:
            async with asyncio.TaskGroup() as group:
                services = [
                    group.create_task(_eternal(name, service), name=name)
                    for name, service in (
                        ("api", self._serve(listener)),
                        ("ari", ari.run()),
                        *([("ami", ami.run())] if ami else []),
                        ("wake-ups", self._store.listen(lambda _: self._engine.wake())),
                        ("watchdog", self._feed_watchdog()),
                    )
                ]
                self._systemd.tell("READY=1")
                _log.info("started", version=__version__, name=self._config.daemon.name, api=_where(listener))
                await self._engine.run()
                for service in services:
                    service.cancel()
        finally:
            jobs.shutdown(wait=False)
            self._systemd.tell("STOPPING=1")

    async def _serve(self, listener: socket.socket) -> None:
        probes = _probes(self._config, self._metrics, self._why_dead, self._engine.why_not_ready)
        app = await asyncio.to_thread(_application, probes, self._store, lambda: self._config)
        await api.serve(app, listener)

    def _why_dead(self) -> str | None:
        silence = asyncio.get_running_loop().time() - self._engine.last_pass_at
        return None if silence < ALIVE_SECONDS else f"the engine has made no pass for {silence:.0f} s"

    def _stop(self) -> None:
        self._stops += 1
        seconds = None if self._options.wait_all else self._config.daemon.drain_seconds
        if self._stops > 1:
            seconds = 0.0
        self._metrics.draining()
        self._systemd.tell("STOPPING=1")
        self._engine.drain(seconds)

    def _reload(self) -> None:
        if self._stops:
            return
        with self._systemd.reloading():
            fresh = _reloaded(self._config, self._options)
            if fresh is not None:
                self._config = fresh
                self._engine.take(_engine_settings(fresh))
                if self._ami is not None:
                    self._ami.take(fresh.queues)

    async def _feed_watchdog(self) -> None:
        """Only while the engine makes passes: a daemon that answers HTTP but does not dial is restarted."""
        pause = self._systemd.watchdog_seconds / 3
        while True:
            await asyncio.sleep(pause)
            if self._why_dead() is None:
                self._systemd.tell("WATCHDOG=1")


def housekeeping(config: Callable[[], Config], engine: Engine, store: Store) -> AsyncIOScheduler:
    """What is due by the calendar. When a contact is due is no business of it: that stands in Redis.

    Coroutines alone: APScheduler runs what is none in a thread, where nothing of ours may be touched.
    """

    async def look() -> None:
        engine.wake()

    async def archive_results() -> None:
        settings = config()
        archive = Archive(settings.daemon.archive_of(settings.redis.prefix), store.results)
        keep = timedelta(days=settings.results.keep_days)
        snapshot = await store.campaigns.load(now=time.time())
        await archive.move(snapshot.campaigns, before=datetime.now(UTC) - keep, owner=settings.daemon.name)

    async def drop_old_generations() -> None:
        dropped = await store.lists.drop_old_generations()
        if dropped:
            _log.info("dropped old generations", generations=dropped)

    jobs = AsyncIOScheduler(
        timezone=config().dialing.timezone,
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
    )
    jobs.add_job(_job("audit", engine.audit), "interval", seconds=AUDIT_SECONDS)
    jobs.add_job(_job("look", look), "cron", second=0)  # active periods begin and end on minutes, mostly
    at_once = datetime.now(UTC)  # a do-not-call list may wait for its second half
    jobs.add_job(_job("tidy", store.tidy), "interval", seconds=TIDY_SECONDS, next_run_time=at_once)
    soon = datetime.now(UTC) + timedelta(seconds=ARCHIVE_AFTER_SECONDS)
    jobs.add_job(_job("archive results", archive_results), "cron", hour=3, minute=17, next_run_time=soon)
    jobs.add_job(_job("drop old generations", drop_old_generations), "cron", minute=41)
    return jobs


class _ApiAlone:
    """One life of a process that serves the API and has no engine."""

    def __init__(self, config: Config, options: Options, store: Store, counted: metrics.Metrics) -> None:
        self._config = config
        self._options = options
        self._store = store
        self._metrics = counted
        self._systemd = Systemd()
        self._stopped = asyncio.Event()
        self._trouble: str | None = "Redis has not been asked yet"

    async def live(self, listener: socket.socket) -> None:
        """Until a signal, or until a root task fails (ExceptionGroup)."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stopped.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        probes = _probes(self._config, self._metrics, lambda: None, lambda: self._trouble)
        app = _application(probes, self._store, lambda: self._config)
        try:
            async with asyncio.TaskGroup() as group:
                services = [
                    group.create_task(_eternal("api", api.serve(app, listener)), name="api"),
                    group.create_task(self._feel_pulse(), name="pulse"),
                ]
                self._systemd.tell("READY=1")
                _log.info("started", version=__version__, api=_where(listener), api_only=True)
                await self._stopped.wait()
                for service in services:
                    service.cancel()
        finally:
            self._systemd.tell("STOPPING=1")

    async def _feel_pulse(self) -> None:
        """Does Redis answer? A loop that turns is alive whatever it says."""
        while True:
            try:
                await self._store.clock_offset_seconds(time.time)
            except Unavailable as exc:
                self._trouble = str(exc)
            else:
                self._trouble = None
            self._systemd.tell("WATCHDOG=1")
            await asyncio.sleep(PULSE_SECONDS)

    def _reload(self) -> None:
        with self._systemd.reloading():
            self._config = _reloaded(self._config, self._options) or self._config


def _where(listener: socket.socket) -> str:
    """The address as configured, with the port that 0 has become."""
    host, port = listener.getsockname()[:2]
    return f"{host}:{port}"


def _probes(config: Config, counted: metrics.Metrics, alive: api.Reason, ready: api.Reason) -> api.Probes:
    token = config.api.metrics_token
    return api.Probes(
        alive=alive,
        ready=ready,
        metrics=lambda: (counted.render(), metrics.CONTENT_TYPE),
        metrics_token=token.get_secret_value() if token else None,
    )


def _application(probes: api.Probes, store: Store, config: Callable[[], Config]) -> api.Application:
    def numbers() -> NumberPolicy:
        return config().numbers.policy()

    settings = config()
    made = api.application(
        __version__, probes, store=store, numbers=numbers, tokens=settings.api, oidc=settings.oidc
    )
    # All that has been made so far lives for ever. To look through it for garbage, again and again, would hold the
    # loop for a tenth of a second each time.
    gc.freeze()
    return made


def _reloaded(config: Config, options: Options) -> Config | None:
    """The configuration as it stands in the file now; None: it cannot be used, and the log says why."""
    try:
        fresh = configuration.load(options.path, needs_pbx=not options.api_only)
    except ConfigError as exc:
        _log.error("reload refused", problems=[str(problem) for problem in exc.problems])
        return None
    needs_restart = configuration.reload(config, fresh)
    if needs_restart:
        _log.warning("restart needed", settings=needs_restart)
    _log.info("reloaded")
    return fresh


class Systemd:
    """The notify socket of a unit with Type=notify (sd_notify(3)); without one, nothing happens."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self.watchdog_seconds = int(os.environ.get("WATCHDOG_USEC") or 30_000_000) / 1e6

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Between its two messages about a reload."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        yield
        self.tell("READY=1")

    def tell(self, *lines: str) -> None:
        """Send e.g. `READY=1`. A systemd that does not listen is no reason to stop."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notify:
            try:
                notify.sendto("\n".join(lines).encode(), self._address)
            except OSError as exc:
                _log.warning("systemd not told", lines=lines, reason=str(exc))


async def _eternal(name: str, service: Coroutine[Any, Any, None]) -> None:
    """A root task that must never end by itself."""
    await service
    raise RuntimeError(f"{name} has ended")


def _job(name: str, work: Callable[[], Awaitable[None]]) -> Callable[[], Coroutine[Any, Any, None]]:
    """Housekeeping that failed is told, and done the next time."""

    async def job() -> None:
        try:
            await work()
        except DialerError as exc:
            _log.warning("housekeeping failed", job=name, reason=str(exc))

    return job


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc


def _told(failures: list[BaseException]) -> Exit:
    """Log why the process ends; the exit code follows from the failure that decides most."""
    codes = []
    for exc in failures:
        match exc:
            case Replaced():
                codes.append(Exit.REPLACED)
                _log.error("replaced by a twin", reason=str(exc))
            case ConfigError():
                codes.append(Exit.CONFIG)
                _log.error("configuration refused", problems=[str(problem) for problem in exc.problems])
            case Unavailable():
                codes.append(Exit.UNAVAILABLE)
                _log.error("gave up", port=exc.port, reason=exc.reason)
            case _:
                codes.append(Exit.FAILED)
                _log.error("failed", exc_info=exc)
    return max(codes)
