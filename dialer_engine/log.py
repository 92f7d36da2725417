"""Log lines: one JSON object each, the event a fixed verb phrase, what varies under keys of its own.

    _log = log.get("engine")
    _log.info("originated", campaign=7, attempt="...", number="420123456789")

Lines are made on the loop (some 5 microseconds) and written by a thread, so that a journal that stalls stops
nobody; when ten thousand wait, further ones are dropped and their number is told. Telephone numbers under the
keys of NUMBER_KEYS are masked here, in one place, unless the configuration shows them. Warnings of other
libraries come out in the same form.
"""

from __future__ import annotations

import atexit
import logging
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, BinaryIO, cast

import orjson
import structlog
from structlog.typing import FilteringBoundLogger, Processor

NUMBER_KEYS = frozenset({"number", "numbers", "identity", "dialed", "caller_id", "endpoint"})
"""Keys whose values are telephone numbers or hold one."""

WAITING_LINES = 10_000
"""What a stalled reader may leave unread before further lines are dropped."""
GATHERING_SECONDS = 0.02
"""Lines that come together are written together: a thread that wakes for each costs the loop more than the line."""
_CLOSING_SECONDS = 2.0
_BUT_LAST_THREE_DIGITS = re.compile(
    r"\d(?=(?:[^\d@]*\d){3})"
)  # across separators, not across the @ of an endpoint


def get(room: str) -> FilteringBoundLogger:
    """The logger of a room; may be called before `setup`."""
    return cast(FilteringBoundLogger, structlog.get_logger(room=room))


def setup(
    *, level: str = "info", show_numbers: bool = False, console: bool = False, stream: BinaryIO | None = None
) -> Callable[[], None]:
    """Begin to log to `stream` (standard error); `console`: for a person, in colours. Returns what ends it.

    The end writes what still waits, for two seconds at most; it also runs by itself when the interpreter exits.
    """
    writer = _Writer(stream or sys.stderr.buffer)
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    if not show_numbers:
        processors.append(_mask)
    processors += _for_people() if console else _for_programs()
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(cast(BinaryIO, writer)),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_OfLibraries()], level=logging.WARNING, force=True)
    atexit.register(writer.close)
    return writer.close


def masked(text: str) -> str:
    """The text with every digit of a number but its last three replaced: `+*** *** *** 789`."""
    return _BUT_LAST_THREE_DIGITS.sub("*", text)


def _mask(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    line.update(_masked_fields(line))
    return line


def _masked_fields(fields: Mapping[str, object]) -> dict[str, object]:
    """Those that hold a number, or fields that may."""
    found: dict[str, object] = {}
    for key, value in fields.items():
        if key in NUMBER_KEYS:
            found[key] = _masked_value(value)
        elif isinstance(value, dict):
            found[key] = {**value, **_masked_fields(value)}
    return found


def _masked_value(value: object) -> object:
    match value:
        case str() | int():
            return masked(str(value))
        case list() | tuple() | set() | frozenset():
            return [_masked_value(item) for item in value]
        case None:
            return None
        case _:
            return "***"


def _for_programs() -> list[Processor]:
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=_json),
    ]


def _json(line: Mapping[str, Any], **_: object) -> bytes:
    return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS)


def _for_people() -> list[Processor]:
    text = structlog.dev.ConsoleRenderer(timestamp_key="at")

    def encoded(logger: Any, method: str, line: MutableMapping[str, Any]) -> bytes:
        return text(logger, method, line).encode("utf-8", "backslashreplace")

    return [encoded]


class _OfLibraries(logging.Handler):
    """Warnings and errors of uvicorn, APScheduler, asyncio and the rest, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        say = get("libraries")
        level = min(record.levelno, logging.ERROR)
        say.log(
            level,
            "library reported",
            library=record.name,
            message=record.getMessage(),
            exc_info=record.exc_info,
        )


class _Writer(threading.Thread):
    """The file that structlog writes to: takes a line at once, writes it when the real one is ready."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(name="log", daemon=True)
        self._stream = stream
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._dropped = 0
        self.start()

    def write(self, line: bytes) -> int:
        if self._lines.qsize() < WAITING_LINES:
            self._lines.put(line)
        else:
            self._dropped += 1
        return len(line)

    def flush(self) -> None:
        """structlog asks for it after every line; the thread does it when nothing waits."""

    def run(self) -> None:
        lines: list[bytes | None] = []
        while None not in lines:
            lines = [self._lines.get()]
            time.sleep(GATHERING_SECONDS)
            lines += [self._lines.get() for _ in range(self._lines.qsize())]
            try:
                self._stream.write(b"".join(line for line in lines if line is not None))
                self._tell_of_dropped()
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more (a closed pipe or file): that must not end us
                self._dropped += len(lines)

    def close(self) -> None:
        if self.is_alive():
            self._lines.put(None)
            self.join(_CLOSING_SECONDS)

    def _tell_of_dropped(self) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._stream.write(
                orjson.dumps({"event": "lines dropped", "level": "warning", "lines": dropped}) + b"\n"
            )
