"""What the commands share: the configuration they were given, one visit to the store, and how they speak."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dialer_engine import config as configuration
from dialer_engine.config import Config
from dialer_engine.errors import Invalid, Problem
from dialer_engine.store import Store

_T = TypeVar("_T")

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        envvar="DIALER_CONFIG",
        help=f"The TOML file. Without it {configuration.DEFAULT_PATH}, if there is one.",
    ),
]
WIDEST = 1_000_000
"""Columns: more than any row has."""
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "\N{REPLACEMENT CHARACTER}")

AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs instead of a table.")]


@dataclass(frozen=True, slots=True)
class Visit:
    """An open store and who visits it."""

    store: Store
    config: Config
    by: str


def config_path(given: Path | None) -> Path | None:
    """The file to read; None when none was given and the default one does not exist."""
    if given is None and configuration.DEFAULT_PATH.exists():
        return configuration.DEFAULT_PATH
    return given


def visit(path: Path | None, work: Callable[[Visit], Awaitable[_T]]) -> _T:
    """Open the store, do the work, close it. DialerErrors are told by `main`."""
    config = configuration.load(config_path(path), needs_pbx=False)

    async def visiting() -> _T:
        store = await Store.open(
            config.redis.location,
            prefix=config.redis.prefix,
            timeout_seconds=config.redis.timeout_seconds,
            default_timezone=config.dialing.timezone,
        )
        try:
            return await work(Visit(store, config, f"cli:{getpass.getuser()}"))
        finally:
            await store.close()

    return asyncio.run(visiting())


def now() -> float:
    """Epoch seconds, as the store wants them."""
    return datetime.now(UTC).timestamp()


def tell(*lines: str) -> None:
    """Words for the person at the terminal; standard output is for data."""
    for line in lines:
        print(line, file=sys.stderr)


def put_json(value: object) -> None:
    """Data, to standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def put_rows(columns: Sequence[str], rows: Iterable[Sequence[object]], *, as_json: bool) -> None:
    """A table for a person, or a JSON array of objects."""
    if as_json:
        put_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*map(_cell, row))
    # Into a pipe: as wide as the data wants, never wrapped.
    Console(width=None if sys.stdout.isatty() else WIDEST).print(table)


def _cell(value: object) -> Text:
    """Letter by letter: what people have written is no markup, no second line and no command to the terminal."""
    return Text("" if value is None else str(value).translate(_CONTROLS))


def read_json(source: Path) -> object:
    """A JSON document from a file, or from standard input when its name is `-`. Raises Invalid."""
    return parse_json(read_text(source), str(source))


def parse_json(text: str, place: str) -> object:
    """Raises Invalid with the line of the mistake."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        raise Invalid([Problem(f"{place}:{exc.lineno}", f"is not JSON: {exc.msg}")]) from exc
    except ValueError as exc:  # a whole number of more digits than Python reads
        raise Invalid([Problem(place, "holds a number that is too long")]) from exc
    except RecursionError as exc:
        raise Invalid([Problem(place, "is nested too deep")]) from exc


def read_text(source: Path) -> str:
    """The whole of a small file, or of standard input when its name is `-`. Raises Invalid."""
    try:
        return sys.stdin.read() if source == Path("-") else source.read_text(encoding="utf-8")
    except OSError as exc:
        raise Invalid([Problem(str(source), exc.strerror or "cannot be read")]) from exc
    except UnicodeDecodeError as exc:
        raise Invalid([Problem(str(source), "is not UTF-8 text")]) from exc


def moment(epoch: object) -> str | None:
    """Epoch seconds as ISO 8601 with the offset; None stays None."""
    if not isinstance(epoch, int | float):
        return None
    try:
        return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):  # beyond the year 9999, or before the first
        return str(epoch)


def epoch(text: str, option: str) -> float:
    """An instant given by a person, ISO 8601; without an offset in UTC. Raises Invalid."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise Invalid(
            [Problem(option, "is not a time such as 2030-12-31 or 2030-12-31T17:00:00+01:00")]
        ) from exc
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def end(text: str | None, option: str) -> float | None:
    """The instant at which something is to end; None: never. Raises Invalid, also when it is over already."""
    if text is None:
        return None
    at = epoch(text, option)
    if at <= now():
        raise Invalid([Problem(option, "is over already")])
    return at


def edited(text: str) -> str | None:
    """What the person made of the text in $EDITOR; None: left as it was. Raises Invalid."""
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.NamedTemporaryFile("w+", suffix=".json", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        try:
            subprocess.run([*editor, file.name], check=True)
        except (OSError, subprocess.CalledProcessError) as exc:
            raise Invalid([Problem("$EDITOR", f"{editor[0]} failed: {exc}")]) from exc
        after = Path(file.name).read_text(encoding="utf-8")
    return None if after == text else after
