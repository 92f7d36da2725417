"""Where chaos happens: the rig of every system test, with the daemon's lives written down and a wire to cut."""

from __future__ import annotations

import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from tests.chaos.callees import FLOW, RULES, Callee, Crowd
from tests.chaos.proxy import Proxy
from tests.lab.world import WorldCall
from tests.nursery import Forked, Nursery
from tests.rig import Rig
from tests.simulated import AnyLab, SimulatedLab

ENOUGH_WAITING = 60
"""Contacts nobody has called yet: while there are so many, a daemon that may dial has somebody to call."""
VM_PRESS_SECONDS = 0.9


@dataclass
class Life:
    """One process of the daemon. Instants are epoch seconds."""

    began_at: float
    log_from: int = 0  # its first byte in the log
    waiting: int = 0  # contacts that could be called when it began
    connected_at: float | None = None  # to Asterisk, by its own log
    ended_at: float | None = None


@dataclass(frozen=True)
class Gap:
    """No daemon could hear of calls, from the fault until it was connected again."""

    began_at: float
    ended_at: float
    fault: str


class ChaosRig(Rig):
    """A daemon behind the proxy. `beside`: it shares the Redis of that one."""

    def __init__(
        self, directory: Path, lab: AnyLab, proxy: Proxy | None, *, name: str = "rig", beside: Rig | None = None
    ) -> None:
        self._proxy = proxy
        self._beside = beside
        self.lives: list[Life] = []
        self._nursery = Nursery() if isinstance(lab, SimulatedLab) else None
        super().__init__(directory, lab, name=name, app="dialer" if beside is None else name)
        if beside is not None:
            self.redis.close()
            self.redis = beside.redis

    def write_config(self, toml: str = "") -> None:
        assert self.lab is not None
        if self._beside is not None:
            self.socket, self.url = self._beside.socket, self._beside.url
        super().write_config(toml)
        text = self.config.read_text()
        text = text.replace("[trunks.carrier]\n", "[trunks.carrier]\ncapacity = 2000\n")
        if self._proxy is not None:
            text = text.replace(self.lab.ari_url, f"http://127.0.0.1:{self._proxy.port}")
        self.config.write_text(text)

    def _begin(self, arguments: Sequence[str]) -> subprocess.Popen[bytes] | Forked:
        return self._nursery.begin(arguments, self.log_path) if self._nursery else super()._begin(arguments)

    def close(self) -> None:
        """End what it started."""
        self.__exit__(None, None, None)
        if self._nursery is not None:
            self._nursery.close()

    def begin(self, waiting: int = 0) -> Life:
        """Start it and wait for nothing."""
        size = self.log_path.stat().st_size if self.log_path.exists() else 0
        life = Life(time.time(), size, waiting)
        self.start(ready=False)
        self.lives.append(life)
        return life

    def murder(self) -> float:
        """kill -9; when."""
        self.kill()
        now = time.time()
        self.lives[-1].ended_at = now
        return now

    def is_connected(self, life: Life) -> bool:
        """Has it logged so? Cheap enough to ask often."""
        if not self.log_path.exists():
            return False
        with self.log_path.open("rb") as log:
            log.seek(life.log_from)
            return b'"asterisk connected"' in log.read()

    def stop_cont(self, *, stop: bool) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP if stop else signal.SIGCONT)

    def note_connections(self) -> None:
        """Read from the log when each life was connected."""
        connected = [logged_at(line) for line in self.logged("asterisk connected")]
        for life in self.lives:
            end = life.ended_at or float("inf")
            life.connected_at = next((at for at in connected if life.began_at <= at <= end), None)


def logged_at(line: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(line["at"]).timestamp()


@dataclass
class Place:
    """A lab with a rig in it, the campaigns of a crowd, and what was done to them."""

    lab: AnyLab
    rig: ChaosRig
    proxy: Proxy
    dice: random.Random
    crowd: Crowd
    begun_at: float = field(default_factory=time.time)
    campaigns: list[int] = field(default_factory=list)
    faults: list[Gap] = field(default_factory=list)  # those that are no deaths of the daemon
    phases: Counter[str] = field(default_factory=Counter)  # of the calls that kills met
    met: Counter[str] = field(default_factory=Counter)  # kills that met at least one call in the phase

    # --- load ---

    def campaign(self, callees: list[Callee], **fields: Any) -> int:
        for callee in callees:
            self.crowd.callees[callee.number] = callee
        made = self.rig.campaign(
            [callee.number for callee in callees],
            **{
                "flow": FLOW,
                "rescheduleRules": RULES,
                "maxChannels": 400,
                "callsPerSecond": 10 * self.lab.speed,
                "whenDone": "complete",
                **fields,
            },
        )
        self.campaigns.append(made)
        return made

    def waiting(self) -> int:
        """Contacts that may be called now: fresh ones, and rows nobody has read yet."""
        waiting = 0
        for campaign in self.campaigns:
            state = self.rig.state(campaign).get("state", "NEW")
            if state == "COMPLETED":
                continue
            run: Any = self.rig.redis.hgetall(self.rig.key(f"campaign:{campaign}:run"))
            rows = len(self.rows(campaign))
            waiting += rows - int(run.get("read", 0)) + self.rig.contacts(campaign)["fresh"]
        return waiting

    def rows(self, campaign: int) -> list[str]:
        call_list = self.rig.definition(campaign)["callLists"][0]
        rows: Any = self.rig.redis.lrange(f"{{dialer:list:{call_list}}}:rows:1", 0, -1)
        return list(rows)

    def feed(self, count: int = 300, **fields: Any) -> int:
        """A further campaign when the others come to their end; how many contacts wait."""
        waiting = self.waiting()
        if waiting < ENOUGH_WAITING:
            self.campaign(self.crowd.more(count), **fields)
            waiting += count
        return waiting

    def wait_for_write(self, text: str, patience: float = 2.0) -> None:
        """Until Redis is told something with this text in it."""
        ear: Any = redis.Redis(unix_socket_path=str(self.rig.socket), socket_timeout=patience)
        with ear, suppress(redis.TimeoutError), ear.monitor() as monitor:
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if text in monitor.next_command()["command"]:
                    return

    def run_out(self, timeout: float = 90) -> None:
        """Until every campaign is COMPLETED."""
        for campaign in self.campaigns:
            self.rig.completed(campaign, timeout)

    # --- what happened ---

    def look_at_the_dead(self, killed_at: float) -> None:
        """Count the phases of the calls a kill has met, as the dead daemon left them in Redis."""
        found: Counter[str] = Counter()
        calls = {call.number: call for call in self.world()}
        live: Any = self.rig.redis.zrange(self.rig.key(f"daemon:{self.rig.name}:live"), 0, -1)
        for attempt in live:
            record: Any = self.rig.redis.hgetall(self.rig.key(f"attempt:{attempt}"))
            if record:
                found[_phase(record, calls.get(record["number"]), killed_at)] += 1
        self.phases += found
        self.met += Counter(found.keys())

    def world(self) -> list[WorldCall]:
        """Calls to anybody of the crowd since we began; a lab may have served others before."""
        begun = self.begun_at - 0.1
        return [
            call
            for call in self.lab.world_calls()
            if call.invited_at >= begun and call.number in self.crowd.callees
        ]

    def gaps(self) -> list[Gap]:
        """Deaths of the daemon and all other faults."""
        self.rig.note_connections()
        deaths = []
        open_since: float | None = None
        for life in self.rig.lives:
            if open_since is not None and life.connected_at is not None:
                deaths.append(Gap(open_since, life.connected_at, "kill"))
                open_since = None
            if life.ended_at is not None and open_since is None:
                open_since = life.ended_at
        return sorted([*deaths, *self.faults], key=lambda gap: gap.began_at)

    def fault(self, fault: str, began_at: float, *, until_connected: bool = True) -> Gap:
        """Write down a fault that is over now, or as soon as the daemon logs that it is connected."""
        if until_connected:
            self.rig.until(
                lambda: any(logged_at(line) > began_at for line in self.rig.logged("asterisk connected")),
                40,
                f"the daemon is connected after {fault}",
            )
            ended_at = min(
                at for line in self.rig.logged("asterisk connected") if (at := logged_at(line)) > began_at
            )
        else:
            ended_at = time.time()
        gap = Gap(began_at, ended_at, fault)
        self.faults.append(gap)
        return gap


def _phase(record: Mapping[str, str], call: WorldCall | None, killed_at: float) -> str:
    """The phase of a call at a kill, in the words of the report."""
    if record["phase"] in ("CLAIMED", "SENT"):
        return str(record["phase"]).lower()
    if call is not None and call.ended_at is not None and call.ended_at <= killed_at:
        return "settling"
    position = record.get("position", "")
    if '"end"' in position:
        return "hanging up"
    if '"block":"ask"' in position:
        asked = killed_at - float(record["progress_at"]) > VM_PRESS_SECONDS
        return "waiting for keys" if asked else "IVR playing"
    return "IVR playing" if position else str(record["phase"]).lower()


@contextmanager
def place(
    lab: AnyLab, seed: int, *, proxied: bool = True, redis_options: tuple[str, ...] = ()
) -> Iterator[Place]:
    """A fresh Redis and a daemon that is not started yet."""
    url = urlsplit(lab.ari_url)
    assert url.hostname is not None
    assert url.port is not None
    proxy = Proxy((url.hostname, url.port))
    dice = random.Random(seed)
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    rig = ChaosRig(directory, lab, proxy if proxied else None)
    rig.start_redis(*redis_options)
    try:
        yield Place(lab, rig, proxy, dice, Crowd(dice))
    finally:
        rig.close()
        proxy.close()
        lab.hang_up_everything()


@contextmanager
def twin(of: ChaosRig) -> Iterator[ChaosRig]:
    """A second daemon of another name on the same Redis and PBX."""
    assert of.lab is not None
    other = ChaosRig(Path(tempfile.mkdtemp(prefix="chaos-")), of.lab, None, name="twin", beside=of)
    try:
        yield other
    finally:
        other.close()
