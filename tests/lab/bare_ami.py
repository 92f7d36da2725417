"""AMI with nothing in between: what Asterisk itself says, to judge the daemon's view by, and to work the agents.

Blocking, with a thread that reads. Its parser is its own and shares nothing with the product's.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .asterisk import LabError

TIMEOUT_SECONDS = 10.0

Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Event:
    """`at` is Asterisk's own stamp (timestampevents), epoch seconds; when it came, where it sends none."""

    name: str
    at: float
    headers: Headers

    def __getitem__(self, header: str) -> str:
        return self.headers.get(header, "")


class BareAmi:
    """One session. `on_event` is called by the reading thread for every event that answers no action."""

    def __init__(
        self,
        port: int,
        user: str,
        secret: str,
        *,
        classes: str = "off",
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self._port, self._user, self._secret = port, user, secret
        self._classes = classes
        self._on_event = on_event
        self._ids = itertools.count(1)
        self._replies: dict[str, list[Headers]] = {}
        self._changed = threading.Condition()
        self._socket: socket.socket | None = None
        self._ended = False

    def __enter__(self) -> Self:
        self._socket = socket.create_connection(("127.0.0.1", self._port), TIMEOUT_SECONDS)
        self._socket.settimeout(None)
        threading.Thread(target=self._read, args=(self._socket,), name="bare-ami", daemon=True).start()
        self.do("Login", Username=self._user, Secret=self._secret, Events=self._classes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None

    def do(
        self, action: str, variables: Mapping[str, str] | None = None, /, **headers: object
    ) -> list[Headers]:
        """The response, and after it the rows of a list; LabError when it is no success."""
        if self._socket is None:
            raise RuntimeError("use it as a context manager")
        identifier = f"bare-{next(self._ids)}"
        self._replies[identifier] = []
        lines = [f"Action: {action}", f"ActionID: {identifier}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Variable: {name}={value}" for name, value in (variables or {}).items()]
        self._socket.sendall("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n")
        deadline = time.monotonic() + TIMEOUT_SECONDS
        with self._changed:
            while not _is_complete(self._replies[identifier]):
                if self._ended or not self._changed.wait(deadline - time.monotonic()):
                    raise LabError(f"AMI does not answer {action} {headers}")
            replies = self._replies.pop(identifier)
        if replies[0].get("Response") == "Error":
            raise LabError(f"AMI refuses {action} {headers}: {replies[0].get('Message')}")
        return replies

    def _read(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            lines.readline()  # the banner
            headers: Headers = {}
            try:
                for line in lines:
                    text = line.rstrip(b"\r\n").decode(errors="replace")
                    if text:
                        name, _, value = text.partition(":")
                        headers.setdefault(name, value.strip())
                    elif headers:
                        self._take(headers)
                        headers = {}
            except (OSError, ValueError):  # closed by us
                pass
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _take(self, headers: Headers) -> None:
        identifier = headers.get("ActionID", "")
        if (
            identifier in self._replies and headers.get("Event") != "UserEvent"
        ):  # it names the action that made it
            with self._changed:
                self._replies[identifier].append(headers)
                self._changed.notify_all()
        elif self._on_event is not None and "Event" in headers:
            at = float(headers.get("Timestamp") or time.time())
            self._on_event(Event(headers["Event"], at, headers))


def _is_complete(replies: list[Headers]) -> bool:
    if not replies:
        return False
    return replies[0].get("EventList") != "start" or replies[-1].get("EventList") == "Complete"
