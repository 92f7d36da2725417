"""The simulator in the lab's place: `dialer-engine simulate` as a process of its own, behind the lab's interface.

A test that needs the lab takes this one as well, unless it wants to hear sound (`Lab.heard`) or two Asterisks.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tests.lab.asterisk import LabError, Ports
from tests.lab.lab import Lab
from tests.lab.world import WorldCall, WorldLog

START_SECONDS = 20.0

AnyLab: TypeAlias = "Lab | SimulatedLab"
"""Where calls can be made: two real Asterisks, or their likeness."""


@dataclass(frozen=True)
class Spoilt:
    """An event that was lost, doubled or delayed; `kind` is its type, `at` epoch seconds."""

    at: float
    what: str
    kind: str
    channel: str
    seconds: float  # of delay


class SimulatedPbx:
    """One process of it, started and killed at will; what its callees write down outlives it."""

    username, password = "dialer", "simulated"

    def __init__(self, *, speed: float = 1.0, seed: int = 0, options: tuple[str, ...] = ()) -> None:
        self._ports = Ports()
        self.port, self.ami_port = self._ports.take_many(2)
        self.url = f"http://127.0.0.1:{self.port}"
        self.home = Path(tempfile.mkdtemp(prefix="simulated-"))
        self.world_log = self.home / "calls"
        self.world_log.touch()
        self.fault_log = self.home / "faults"
        self._command = [
            *(sys.executable, "-m", "dialer_engine", "simulate", "--port", str(self.port)),
            *("--ami-port", str(self.ami_port)),
            *("--speed", str(speed), "--seed", str(seed), "--world-log", str(self.world_log)),
            *("--fault-log", str(self.fault_log), *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise LabError("the simulator is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait until it listens."""
        if self.running:
            return
        environment = {**os.environ, "DIALER_SIMULATOR_PASSWORD": self.password}
        with (self.home / "console").open("ab") as console:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise LabError(f"the simulator does not start: {(self.home / 'console').read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """End it and forget everything it wrote."""
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)
        self._ports.close()

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """One of its own requests, under /simulator."""
        secret = b64encode(f"{self.username}:{self.password}".encode()).decode()
        request = urllib.request.Request(
            f"{self.url}/simulator/{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Basic {secret}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            answer: bytes = reply.read()
        return answer

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class SimulatedLab:
    """What `tests.lab.lab.Lab` offers, as far as a daemon and its callees go."""

    ari_user = ami_user = SimulatedPbx.username
    ari_password = ami_secret = SimulatedPbx.password
    version = "simulated"

    def __init__(self, *, speed: float = 1.0, seed: int = 0) -> None:
        self.speed = speed
        self.pbx = SimulatedPbx(speed=speed, seed=seed)
        self.ari_url = self.pbx.url
        self.ami_port = self.pbx.ami_port
        self._log = WorldLog(self.pbx.world_log)

    def start(self) -> None:
        self.pbx.start()

    def close(self) -> None:
        self.pbx.remove()

    def __enter__(self) -> SimulatedLab:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def world_calls(self, number: str | None = None) -> list[WorldCall]:
        """Every INVITE the world has seen, or those to one number, oldest first."""
        return self._log.of(number)

    def wait_for_world(
        self, number: str, condition: Callable[[WorldCall], bool] = lambda call: True, timeout: float = 10.0
    ) -> WorldCall:
        """The last call to a number, as soon as it exists and fulfils the condition."""
        return self._log.wait_for(number, condition, timeout)

    def spoil(self, **faults: float) -> None:
        """Faults of the wire from now on (dialer_engine/simulator/faults.py)."""
        self.pbx.ask("PUT", "faults", faults)

    def spoilt(self) -> list[Spoilt]:
        """Every event that was not told as it happened."""
        found = []
        for line in self.pbx.fault_log.read_text().splitlines():
            at, what, kind, channel, seconds = line.split("|")
            found.append(Spoilt(float(at), what, kind, channel, float(seconds)))
        return found

    def break_carrier(self, prefix: str, code: int | None) -> None:
        """From now on numbers of this prefix are rejected by this SIP code; None mends it."""
        if code is None:
            self.pbx.ask("DELETE", f"carriers/{prefix}")
        else:
            self.pbx.ask("PUT", f"carriers/{prefix}?code={code}")

    def employ(self, extension: int, **habits: object) -> None:
        """An agent of these habits comes to work (dialer_engine/simulator/agents.py)."""
        self.pbx.ask("PUT", f"agents/{extension}", habits)

    def hang_up_everything(self) -> None:
        """Between tests: no call of one may be seen by the next."""
        if self.pbx.running:
            self.pbx.ask("DELETE", "channels")

    def callees_hang_up(self) -> None:
        """Those whose PBX died under them, as the carrier's own timers would."""
        with self.pbx.world_log.open("a") as log:
            for call in self.world_calls():
                if call.ended_at is None:
                    log.write(f"{call.key}|HANGUP|{time.time():.3f}|pbx\n")
