"""Daemons that begin at once: each is a fork of a process that has imported the program and done nothing else.

An import takes a second of CPU, and thousands of lives half of an hour. Where it is counted how soon a daemon is back
(on the lab), it begins as users begin it. Run as a program, this is the process that is forked.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

LOOK_SECONDS = 0.005


class Forked:
    """What `subprocess.Popen` is to its process, to the nursery's child; its exit code is nobody's."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (60.0 if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"forked {self.pid}", timeout or 60.0)
            time.sleep(LOOK_SECONDS)
        return 0


class Nursery:
    """The process to be forked; close it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nursery"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, arguments: Sequence[str], log: Path) -> Forked:
        """`dialer-engine ARGUMENTS`, whose stderr is appended to `log`."""
        asked, answer = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answer is not None
        asked.write(json.dumps({"arguments": list(arguments), "log": str(log)}) + "\n")
        asked.flush()
        return Forked(int(answer.readline()))

    def close(self) -> None:
        self._process.communicate()


def _be_forked() -> None:
    """Read what to begin, a line each; answer with the pid."""
    from dialer_engine import cli, daemon  # all that a daemon needs
    from dialer_engine.api import server

    assert cli and daemon and server
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _be_a_daemon(asked["arguments"], asked["log"])
        print(pid, flush=True)


def _be_a_daemon(arguments: Sequence[str], log: str) -> NoReturn:
    from dialer_engine.cli import main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), 2)
    sys.argv = ["dialer-engine", *arguments]
    code = 1
    try:
        main()
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
    finally:
        os._exit(code)


if __name__ == "__main__":
    _be_forked()
