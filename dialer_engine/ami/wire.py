"""One AMI connection: panoramisk's protocol, hardened. Bytes in, messages out; questions, each with a deadline.

What panoramisk 1.4 would do otherwise (each has a test of its name in tests/ports/test_ami_wire.py): it decodes each
TCP chunk alone, looks through every event it does not want, sends unanswered actions again after a reconnect, and waits
for ever. Its Message and Action, and how answers find their questions, are used as they are.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NoReturn

from panoramisk.actions import Action
from panoramisk.ami_protocol import AMIProtocol
from panoramisk.message import Message

from dialer_engine.errors import Rejected, Unavailable

PORT = "asterisk"

SLICE_SECONDS = 0.005
"""So long messages are handled before others have their turn."""
MESSAGE_BYTES = 256 * 1024
"""Who sends more without an end is left."""
MESSAGE_LINES = 4096
LINE_BYTES = 16 * 1024
"""A message with more lines, or with a longer one, is malformed. A queue's settings have a line for each member."""

_BANNER = b"Asterisk Call Manager/"
_END = b"\r\n\r\n"
_EVENT = b"Event: "
_ROUTING = ("Event", "Response", "ActionID", "CommandID", "EventList")


class Malformed(Exception):
    """It cannot be what Asterisk meant to say; the text is why."""


class Ask(Action):  # type: ignore[misc]  # the library has no types
    """An action and what has been answered to it; rows of a list are handed on as they come, in the order of the
    wire."""

    def __init__(self, headers: Mapping[str, str], row: Callable[[Message], None] | None) -> None:
        super().__init__(headers)
        self.row = row

    def add_message(self, message: Message) -> bool:
        """Is the answer complete?"""
        if message.response:
            if message.success and self.row is not None and message.eventlist.lower() == "start":
                return False
        elif self.row is None:
            return False
        elif message.eventlist.lower() not in ("complete", "cancelled"):
            self.row(message)
            return False
        if not self.future.done():
            self.future.set_result(message)
        return True


class Wire(AMIProtocol):  # type: ignore[misc]
    """`wanted` are the events to parse; the others are dropped by their name. `hear` is given them, and `nonsense` the
    event (empty: it is none) and why, of a message that was wanted and cannot be read. Both are called in `listen`, and
    what they raise ends it.
    """

    encoding = "utf8"
    version: str | None  # of the protocol; None: the banner has not come

    def __init__(
        self,
        wanted: frozenset[bytes],
        *,
        hear: Callable[[Message], None],
        nonsense: Callable[[str, str], None],
        count: Counter[str],
    ) -> None:
        self._wanted = wanted
        self._hear = hear
        self._nonsense = nonsense
        self._count = count
        self._arrived = asyncio.Event()
        self._buffer = bytearray()
        self._start = 0  # of the first message not handled
        self._searched = 0  # there is no end before
        self._is_paused = False
        self._why_lost: str | None = None

    # what asyncio and panoramisk call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.factory = self

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()
        if len(self._buffer) > MESSAGE_BYTES and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    def handle_message(self, message: Message) -> None:
        if (
            message.event == "UserEvent"
        ):  # it bears the ActionID of the action that raised it, and answers nothing
            self.dispatch(message)
        else:
            super().handle_message(message)

    def dispatch(self, message: Message) -> None:
        """An event that answers nothing."""
        self._hear(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """Also called by panoramisk, with the event Shutdown."""
        why = "Asterisk shuts down" if isinstance(exc, Message) else str(exc or "the connection was closed")
        self._why_lost = self._why_lost or why
        self._arrived.set()
        self.close()

    def close(self) -> None:
        """At once, half-open or not. Nobody's action is kept for the next connection."""
        self.closed = True
        self.transport.abort()
        for action in list(self.responses.values()):
            if not action.future.done():
                action.future.set_exception(self._lost())
        self.responses.clear()

    def _lost(self) -> Unavailable:
        return Unavailable(PORT, self._why_lost or "the connection was left")

    # what we call

    async def listen(self) -> NoReturn:
        """Hand on messages until the connection ends: Unavailable."""
        while True:
            self._arrived.clear()
            if self._work():
                await asyncio.sleep(0)
            elif self.closed:
                raise self._lost()
            else:
                await self._arrived.wait()

    async def ask(
        self,
        action: str,
        headers: Mapping[str, str] | None = None,
        *,
        seconds: float,
        row: Callable[[Message], None] | None = None,
    ) -> Message:
        """The answer. Raises Unavailable without one, Rejected when it is no success. Sent once."""
        asked = Ask(_clean({"Action": action, **(headers or {})}), row)
        if self.closed:
            raise self._lost()
        try:
            async with asyncio.timeout(seconds):
                message = await self.send(asked)
        except TimeoutError as exc:
            raise Unavailable(PORT, f"no answer to {action} for {seconds:g} s") from exc
        finally:
            self.responses.pop(asked.id, None)
        is_whole = row is None or message.eventlist.lower() == "complete"
        if not (message.success and is_whole):
            raise Rejected(f"Asterisk refuses {action}: {_shown(message.message)}")
        return message

    # bytes

    def _work(self) -> bool:
        """Handle messages for one slice; is there more?"""
        loop = asyncio.get_running_loop()
        until = loop.time() + SLICE_SECONDS
        while self._next():
            if loop.time() > until:
                self._compact()
                return True
        self._compact()
        if len(self._buffer) > MESSAGE_BYTES:
            raise Unavailable(PORT, f"a message without an end, after {len(self._buffer)} bytes")
        if self._is_paused and not self.closed:
            self._is_paused = False
            self.transport.resume_reading()
        return False

    def _compact(self) -> None:
        del self._buffer[: self._start]
        self._searched -= self._start
        self._start = 0

    def _next(self) -> bool:
        """Handle one message; was there a whole one?"""
        if self.version is None:
            return self._read_banner()
        end = self._buffer.find(_END, max(self._start, self._searched))
        if end < 0:
            self._searched = max(self._start, len(self._buffer) - len(_END) + 1)
            return False
        start, self._start = self._start, end + len(_END)
        self._handle(start, end)
        return True

    def _read_banner(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if not self._buffer.startswith(_BANNER[: len(self._buffer)]) or len(self._buffer[:end]) > LINE_BYTES:
            raise Unavailable(PORT, "what answers there is no Asterisk manager")
        if end < 0:
            return False
        self.version = bytes(self._buffer[len(_BANNER) : end]).decode("ascii", "replace")
        self._start = end + 2
        return True

    def _handle(self, start: int, end: int) -> None:
        data, name = self._buffer, b""
        if data.startswith(_EVENT, start):
            line_end = data.find(b"\r\n", start, end)
            name = bytes(data[start + len(_EVENT) : end if line_end < 0 else line_end])
            if name not in self._wanted:
                self._count["dropped"] += 1
                return
        self._count["parsed"] += 1
        try:
            message = _parse(bytes(data[start:end]))
        except Malformed as exc:
            self._nonsense(name.decode(errors="replace"), str(exc))
            return
        self.handle_message(message)


def _parse(data: bytes) -> Message:
    """Raises Malformed. Invalid UTF-8 is shown as such; it may stand in a field that nobody reads."""
    lines = data.split(b"\r\n")
    if len(lines) > MESSAGE_LINES or max(map(len, lines)) > LINE_BYTES:
        raise Malformed(f"a message of {len(lines)} lines, {len(data)} bytes")
    message = Message.from_line(data.decode("utf8", "replace"))
    if message is None:
        raise Malformed("neither an event nor a response")
    if any(not isinstance(message.get(name, ""), str) for name in _ROUTING):
        raise Malformed("an event or response that is several")
    return message


def _clean(headers: Mapping[str, str]) -> Mapping[str, str]:
    """A value must not become a header of its own, nor end the action."""
    for name, value in headers.items():
        if not value.isprintable():
            raise Rejected(f"{name} holds characters that AMI cannot carry")
    return headers


def _shown(text: object) -> str:
    return text[:200] if isinstance(text, str) and text else "without a reason"
