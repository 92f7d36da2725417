"""The API of a daemon in a process of its own, as a program on the same host uses it."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.rig import START_SECONDS, Rig


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True, slots=True)
class Api:
    """Where it listens, and a token with the right to manage."""

    address: str  # host:port
    token: str
    timeout_seconds: float = 20.0

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """body: bytes as they are, anything else as JSON. Headers are written with _ for -."""
        sent = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.address, timeout=self.timeout_seconds)
        try:
            connection.request(method, path, data, sent)
            reply = connection.getresponse()
            names = {name.lower(): value for name, value in reply.getheaders()}
            return Answer(reply.status, names, reply.read().decode())
        finally:
            connection.close()

    def done(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """What came of it, which must have gone well."""
        answer = self.ask(method, path, body, **headers)
        assert answer.status == 200, answer
        return answer.json


def serve(rig: Rig, *arguments: str, bearer: str | None = None) -> Api:
    """Start the daemon; its API, once it answers, with a new token or that one."""
    begun = len(rig.log()) if rig.log_path.exists() else 0
    rig.start(*arguments, ready=False)
    rig.until(lambda: rig.logged("started", since=begun), START_SECONDS, "the daemon has started")
    address = rig.logged("started", since=begun)[0]["api"]
    return Api(address, bearer or token(rig))


@contextmanager
def beside(rig: Rig) -> Iterator[Api]:
    """A second process with the same configuration that serves the API alone; ended by SIGTERM."""
    log = rig.directory / "api.log"
    command = [sys.executable, "-m", "dialer_engine", "run", "--config", str(rig.config), "--api-only"]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr)
    try:
        rig.until(lambda: b'"started"' in log.read_bytes(), START_SECONDS, "the API has started")
        lines = map(json.loads, log.read_text().splitlines())
        address = next(line["api"] for line in lines if line["event"] == "started")
        yield Api(address, token(rig))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def token(rig: Rig, rights: str = "dialer:manage") -> str:
    """A new one, as an administrator makes it."""
    made = rig.cli("token", "create", f"test{len(rig.redis.hkeys(rig.key('tokens')))}", "--rights", rights)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()
