"""From files people have to rows of a call list, a batch at a time: a file of any length in bounded memory."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Literal, TypeVar

import typer
from rich import progress
from rich.console import Console

from dialer_engine.core.compliance import NumberPolicy
from dialer_engine.errors import Invalid, Problem
from dialer_engine.store.contract import contact_row
from dialer_engine.store.tables import Csv, Line

BATCH = 1000
READ_AT_ONCE = 65_536  # characters
_TOLD = 10

_T = TypeVar("_T")

Format = Annotated[Literal["csv", "ndjson"], typer.Option("--format", help="How it is written.")]


@dataclass(slots=True)
class Refused:
    """Rows that are no contacts: how many, and the first of them."""

    count: int = 0
    first: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        """Count one; its reason is kept while they are few."""
        self.count += 1
        if len(self.first) < _TOLD:
            self.first.append(problem)

    def sentences(self) -> list[str]:
        """What to tell the person."""
        if not self.count:
            return []
        more = [f"  ... and {self.count - _TOLD} more"] if self.count > _TOLD else []
        return [f"{self.count} rows refused:", *(f"  {problem}" for problem in self.first), *more]


def read_csv(file: IO[str], source: str, *, attributes: bool = True) -> Iterator[Line]:
    """Rows of a CSV as store.tables reads one. Raises Invalid."""
    table = Csv(attributes=attributes)
    try:
        while text := file.read(READ_AT_ONCE):
            yield from table.feed(text)
        yield from table.feed("", last=True)
    except Invalid as exc:
        places = [Problem(f"{source}:{one.place.removeprefix('line ')}", one.reason) for one in exc.problems]
        raise Invalid(places) from exc


def batches(
    lines: Iterator[Line], policy: NumberPolicy, refused: Refused, *, strict: bool, source: str
) -> AsyncIterator[Sequence[tuple[str, str]]]:
    """(identity, row) in batches.

    A row that is no contact is refused; `strict`: Invalid is raised instead.
    """
    return in_batches(_contacts(lines, policy, refused, strict=strict, source=source))


async def in_batches(items: Iterator[_T]) -> AsyncIterator[Sequence[_T]]:
    """Made in a thread: the loop goes on while a file is slow or says nothing."""
    while batch := await _in_thread(lambda: list(islice(items, BATCH))):
        yield batch


def _contacts(
    lines: Iterator[Line], policy: NumberPolicy, refused: Refused, *, strict: bool, source: str
) -> Iterator[tuple[str, str]]:
    for line, number, attributes in lines:
        try:
            yield contact_row({"number": number, "attributes": attributes}, policy)
        except Invalid as exc:
            problem = Problem(f"{source}:{line}", str(exc))
            if strict:
                raise Invalid([problem]) from exc
            refused.add(problem)


async def _in_thread(read: Callable[[], _T]) -> _T:
    """In a thread of its own that nobody waits for at the end: standard input may keep it for ever."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def tell(outcome: Callable[[], None]) -> None:
        if not done.done():
            outcome()

    def work() -> None:
        try:
            result = read()
        except Exception as exc:  # noqa: BLE001 - it belongs to who waits for the answer
            loop.call_soon_threadsafe(tell, partial(done.set_exception, exc))
        else:
            loop.call_soon_threadsafe(tell, partial(done.set_result, result))

    threading.Thread(target=work, name="reader", daemon=True).start()
    return await done


@contextmanager
def opened(source: Path) -> Iterator[IO[str]]:
    """The file, with a bar on the terminal for how much has been read; `-` is standard input, read as a file is.

    Raises Invalid, also for what goes wrong while it is read.
    """
    words = Console(stderr=True)
    try:
        if source == Path("-"):
            if isinstance(sys.stdin, io.TextIOWrapper):
                sys.stdin.reconfigure(encoding="utf-8-sig", newline="", errors="strict")
            yield sys.stdin
            return
        with progress.open(
            source,
            "r",
            encoding="utf-8-sig",  # spreadsheets write a byte order mark
            newline="",
            description=source.name,
            console=words,
            disable=not words.is_terminal,
        ) as file:
            yield file
    except OSError as exc:
        raise Invalid([Problem(str(source), exc.strerror or "cannot be read")]) from exc
    except UnicodeDecodeError as exc:
        raise Invalid([Problem(str(source), "is not UTF-8 text")]) from exc
