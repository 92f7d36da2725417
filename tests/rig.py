"""The daemon as users run it, on a real Redis and the lab: what tests of the whole, chaos and benchmarks stand on.

Everything goes through the daemon's own doors: its command line, its signals, its Redis contract.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from tests.lab.world import WorldCall
from tests.nursery import Forked
from tests.simulated import AnyLab

START_SECONDS = 60.0
"""A daemon is there by then, on a slow machine with other work, too."""

ALL_DAY = {"startTime": "00:00", "endTime": "24:00", "weekDays": [1, 2, 3, 4, 5, 6, 7]}
HANG_UP: dict[str, Any] = {"name": "hang-up", "start": "bye", "blocks": {"bye": {"type": "hangup"}}}
HELLO: dict[str, Any] = {
    "name": "hello",
    "start": "hello",
    "blocks": {
        "hello": {"type": "play", "media": ["sound:hello-world"], "next": "bye"},
        "bye": {"type": "hangup"},
    },
}
SURVEY: dict[str, Any] = {
    "name": "survey",
    "start": "hello",
    "blocks": {
        "hello": {"type": "play", "media": ["sound:hello-world"], "next": "ask"},
        "ask": {
            "type": "menu",
            "media": ["sound:vm-press"],
            "timeout": 5,
            "retries": 1,
            "keys": {"1": "yes", "2": "no", "9": "never"},
            "invalid": "bye",
            "noInput": "bye",
        },
        "yes": {"type": "result", "extStatus": "CONFIRMED", "values": {"answer": "1"}, "next": "bye"},
        "no": {"type": "result", "extStatus": "DECLINED", "values": {"answer": "2"}, "next": "bye"},
        "never": {"type": "optOut", "next": "bye"},
        "bye": {"type": "hangup"},
    },
}


_serials = itertools.count(500_000)


def serial() -> int:
    """A serial for `tests.lab.number` that no other test of this run has: the world's log is one for all."""
    return next(_serials)


def result_of(fields: Mapping[str, str]) -> dict[str, Any]:
    """An entry of a stream of results (docs/redis.md) as spec section 7 shapes it, `redialAt` as epoch seconds."""
    item: dict[str, Any] = {name: value or None for name, value in fields.items()}
    item |= {name: json.loads(fields[name] or empty) for name, empty in (("values", "{}"), ("path", "[]"))}
    item |= {name: int(fields[name]) if fields[name] else None for name in ("cause", "sipCode", "run")}
    for name in ("originatedAt", "ringingAt", "answeredAt", "leftIvrAt", "connectedAt", "endedAt"):
        if fields[name]:
            item[name] = datetime.fromtimestamp(float(fields[name]), UTC).isoformat(timespec="milliseconds")
    item["attributes"] = json.loads(fields["attributes"])
    item["redialAt"] = float(fields["redial"]) if fields["redial"] else None
    return {**item, "variables": {}, "notes": [], **json.loads(fields["more"] or "{}")}


class RigError(Exception):
    """Something did not happen in time."""


class Rig:
    """One redis-server, one daemon, and the lab (None: a configuration without a PBX to be reached)."""

    def __init__(
        self,
        directory: Path,
        lab: AnyLab | None,
        *,
        toml: str = "",
        name: str = "rig",
        app: str = "dialer",
        ami: tuple[int, str, str] | None = None,
        queue_context: str = "dialer-queue",
    ) -> None:
        """`ami`: port, user and secret; without them campaigns for queues wait."""
        self.app = app  # a second daemon beside another one needs an application of its own
        self.ami = ami
        self.queue_context = queue_context
        self.directory = directory
        self.lab = lab
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.log_path = directory / "daemon.log"
        self.config = directory / "dialer.toml"
        self.name = name
        self.write_config(toml)
        self.redis_process: subprocess.Popen[bytes] | None = None
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self.redis = redis.Redis(unix_socket_path=str(self.socket), decode_responses=True)
        self._ids = itertools.count(1)

    def write_config(self, toml: str = "") -> None:
        """The lab's trunks and whatever the test adds."""
        url, password = (
            (self.lab.ari_url, self.lab.ari_password) if self.lab else ("http://127.0.0.1:9", "none")
        )
        self.config.write_text(
            f"""[redis]
url = "{self.url}"
[ari]
url = "{url}"
username = "dialer"
password = "{password}"
app = "{self.app}"
[api]
bind = "127.0.0.1:0"
[daemon]
name = "{self.name}"
data_directory = "{self.directory}/data"
[log]
show_numbers = true
[dialing]
default_trunk = "carrier"
queue_context = "{self.queue_context}"
{self._ami_section()}
[trunks.carrier]
[trunks.carrier2]
[trunks.carrier-auth]
[trunks.carrier-dead]
[trunks.nocontact]
[trunks.missing]
dial_string = "PJSIP/${{num}}@no-such-endpoint"
[trunks.sipp]
capacity = 5000
[trunks.freepbx]
dial_string = "Local/${{num}}@from-internal"
[trunks.freepbx-status]
dial_string = "Local/${{num}}@from-internal-status"
{toml}
"""
        )

    def _ami_section(self) -> str:
        if self.ami is None:
            return ""
        port, user, secret = self.ami
        return f'[ami]\nport = {port}\nusername = "{user}"\nsecret = "{secret}"'

    # --- processes ---

    def start_redis(self, *options: str) -> None:
        command = [
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            str(self.socket),
            "--dir",
            str(self.directory),
        ]
        command += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction", *options]
        self.redis_process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.until(self._redis_answers, 10, "redis-server answers")

    def kill_redis(self) -> None:
        assert self.redis_process is not None
        self.redis_process.kill()
        self.redis_process.wait()

    def _redis_answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except redis.ConnectionError:
            return False
        except redis.BusyLoadingError:
            return False

    def start(self, *arguments: str, ready: bool = True) -> None:
        """The daemon; `ready`: wait until it says that Asterisk is connected."""
        begun = len(self.log()) if self.log_path.exists() else 0
        self.process = self._begin(["run", "--config", str(self.config), *arguments])
        if ready:
            self.until(
                lambda: self.logged("asterisk connected", since=begun), START_SECONDS, "the daemon is connected"
            )

    def _begin(self, arguments: Sequence[str]) -> subprocess.Popen[bytes] | Forked:
        command = [sys.executable, "-m", "dialer_engine", *arguments]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(command, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})

    def stop(self, timeout: float = 20.0) -> int:
        """SIGTERM and the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Rig:
        self.start_redis()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in (self.process, self.redis_process):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        self.redis.close()

    def cli(
        self, *arguments: str, stdin: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """`dialer-engine ARGUMENTS --config ...` as a person would type it."""
        command = [sys.executable, "-m", "dialer_engine", *arguments, "--config", str(self.config)]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )

    # --- the public Redis contract, as any other program uses it (docs/redis.md) ---

    def key(self, name: str) -> str:
        return f"{{dialer}}:{name}"

    def call_list(self, rows: Iterable[str | Mapping[str, Any]]) -> int:
        """A new call list; its id."""
        call_list = next(self._ids) + 1000
        texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        key = f"{{dialer:list:{call_list}}}:rows:1"
        self.redis.hset(
            f"{{dialer:list:{call_list}}}:meta", mapping={"name": f"list {call_list}", "generation": 1}
        )
        for start in range(0, len(texts), 1000):
            self.redis.rpush(key, *texts[start : start + 1000])
        self.redis.sadd(self.key("lists"), call_list)
        return call_list

    def ivr(self, flow: Mapping[str, Any]) -> str:
        ivr = f"ivr{next(self._ids):07d}"
        self.redis.hset(self.key(f"ivr:{ivr}"), "document", json.dumps(flow))
        self.redis.sadd(self.key("ivrs"), ivr)
        return ivr

    def campaign(
        self,
        rows: Iterable[str | Mapping[str, Any]] | None = None,
        *,
        flow: Mapping[str, Any] = HANG_UP,
        start: bool = True,
        **fields: Any,
    ) -> int:
        """A campaign over a new list, started; its id. `fields` go over the defaults of its definition."""
        campaign = next(self._ids)
        definition = {
            "name": f"campaign {campaign}",
            "callerId": "123456789",
            "activePeriod": ALL_DAY,
            "callLists": [self.call_list(rows)] if rows is not None else [],
            "ivr": self.ivr(flow) if "ivr" not in fields else fields["ivr"],
            "dialTimeout": 15,
            **fields,
        }
        self.define(campaign, definition)
        self.redis.sadd(self.key("campaigns"), campaign)
        if start:
            self.command(campaign, "start")
        return campaign

    def define(self, campaign: int, definition: Mapping[str, Any] | str) -> None:
        """Write a definition as it is, valid or not, and say so."""
        text = definition if isinstance(definition, str) else json.dumps(definition)
        self.redis.set(self.key(f"campaign:{campaign}:definition"), text)
        self.redis.publish(self.key("wake"), f"campaign {campaign}")

    def definition(self, campaign: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(str(self.redis.get(self.key(f"campaign:{campaign}:definition"))))
        return found

    def command(self, campaign: int, command: str) -> None:
        """Push a command as another program does; the daemon obeys within the second."""
        order = {"campaign": campaign, "command": command, "by": "rig"}
        self.redis.rpush(self.key("commands"), json.dumps(order))
        self.redis.publish(self.key("wake"), "command")

    def state(self, campaign: int) -> dict[str, str]:
        found: dict[str, str] = self.redis.hgetall(self.key(f"campaign:{campaign}:state"))  # type: ignore[assignment]
        return found

    def results(self, campaign: int) -> list[dict[str, Any]]:
        """Every result, oldest first, as `result_of` gives it."""
        entries: Any = self.redis.xrange(self.key(f"campaign:{campaign}:results"))
        return [result_of(fields) for _, fields in entries]

    def statuses(self, campaign: int) -> Counter[str]:
        return Counter(item["status"] for item in self.results(campaign))

    def live(self, campaign: int) -> int:
        return int(self.redis.scard(self.key(f"campaign:{campaign}:live")))

    def contacts(self, campaign: int) -> dict[str, int]:
        """Where the contacts of the current run are: fresh, due, live, closed."""
        run: Any = self.redis.hgetall(self.key(f"campaign:{campaign}:run"))
        return {
            "fresh": int(self.redis.zcard(self.key(f"campaign:{campaign}:fresh"))),
            "due": int(self.redis.zcard(self.key(f"campaign:{campaign}:due"))),
            "live": self.live(campaign),
            "closed": int(run.get("closed", 0)),
        }

    # --- waiting and reading ---

    def world_calls(self, numbers: Iterable[str]) -> list[WorldCall]:
        """Every INVITE the world has seen to one of these numbers, oldest first."""
        assert self.lab is not None
        wanted = {number[-12:] for number in numbers}
        return [call for call in self.lab.world_calls() if call.number in wanted]

    def log(self) -> list[dict[str, Any]]:
        """The daemon's log lines so far."""
        lines = []
        for line in self.log_path.read_bytes().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append({"event": "not JSON", "text": line.decode(errors="replace")})
        return lines

    def logged(self, event: str, *, since: int = 0) -> list[dict[str, Any]]:
        return [line for line in self.log()[since:] if line.get("event") == event]

    def until(self, condition: Callable[[], Any], timeout: float, what: str) -> None:
        """Look every 20 ms until it holds."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise RigError(f"not within {timeout} s: {what}")
            time.sleep(0.02)

    def reaches(self, campaign: int, state: str, timeout: float = 10.0) -> dict[str, str]:
        """Wait until the campaign is in this state; what stands there then."""
        try:
            self.until(lambda: self.state(campaign).get("state") == state, timeout, f"it is {state}")
        except RigError as exc:
            raise RigError(f"{exc}; campaign {campaign} is {self.state(campaign)}") from None
        return self.state(campaign)

    def completed(self, campaign: int, timeout: float = 30.0) -> list[dict[str, Any]]:
        """Wait for COMPLETED; its results."""
        try:
            self.until(
                lambda: self.state(campaign).get("state") == "COMPLETED", timeout, "the campaign completes"
            )
        except RigError as exc:
            raise RigError(f"{exc}; state {self.state(campaign)}, contacts {self.contacts(campaign)}") from None
        return self.results(campaign)
