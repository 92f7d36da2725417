"""dialer-engine list ...: call lists, from and to files of any length."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from dialer_engine.cli.rows import Format, Refused, batches, opened, read_csv
from dialer_engine.cli.session import AsJson, ConfigFile, Visit, put_rows, tell, visit
from dialer_engine.core.compliance import is_of, normalise
from dialer_engine.core.model import ListId
from dialer_engine.errors import Invalid
from dialer_engine.store.contract import Document, Name, Row, parse, parse_row
from dialer_engine.store.records import ListInfo, Written
from dialer_engine.store.tables import LINE_END

app = typer.Typer(help="Call lists: create, fill, look at.", no_args_is_help=True)

PAGE = 1000

Id = Annotated[int, typer.Argument(metavar="ID", min=1, help="The list's number.")]
File = Annotated[
    Path, typer.Argument(metavar="CSV", help="A file with a column `number`; - is standard input.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse the whole file if one row is refused.")]

Batches = AsyncIterator[Sequence[tuple[str, str]]]


class _Named(Document):
    name: Name


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="1 to 200 characters.")],
    file: File,
    config: ConfigFile = None,
    strict: Strict = False,
) -> None:
    """Create a list from a CSV and print its id. Campaigns see it when its last row is in."""
    parse(_Named, {"name": name})

    async def write(at: Visit, rows: Batches) -> Written:
        return await at.store.lists.create(name, rows)

    print(_imported(config, file, strict, write).id)


@app.command("import")
def import_(call_list: Id, file: File, config: ConfigFile = None, strict: Strict = False) -> None:
    """Replace the list's rows. Campaigns that run take them at `reload` or in their next run."""

    async def write(at: Visit, rows: Batches) -> Written:
        return await at.store.lists.replace(ListId(call_list), rows)

    _imported(config, file, strict, write)


@app.command()
def append(call_list: Id, file: File, config: ConfigFile = None, strict: Strict = False) -> None:
    """Add rows to the end: all of them, when the last has been read. Campaigns that run dial them too."""

    async def write(at: Visit, rows: Batches) -> Written:
        return await at.store.lists.append_all(ListId(call_list), rows)

    _imported(config, file, strict, write)


@app.command("list")
def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """All lists, one a line."""

    async def work(at: Visit) -> list[ListInfo]:
        return await at.store.lists.all()

    rows = ((info.id, info.name, info.rows, info.struck, info.generation) for info in visit(config, work))
    put_rows(("id", "name", "rows", "struck out", "generation"), rows, as_json=as_json)


@app.command()
def show(
    call_list: Id,
    config: ConfigFile = None,
    offset: Annotated[int, typer.Option(min=0, help="First row, counted from 0.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=5000)] = 20,
    as_json: AsJson = False,
) -> None:
    """Some of its rows."""

    async def work(at: Visit) -> tuple[ListInfo, list[str]]:
        info = await at.store.lists.info(ListId(call_list))
        return info, await at.store.lists.rows(info.id, offset, count)

    info, rows = visit(config, work)
    tell(f"{info.name}: {info.rows} rows, {info.struck} of them struck out, generation {info.generation}")
    put_rows(
        ("row", "number", "attributes"), (_shown(i, row) for i, row in enumerate(rows, offset)), as_json=as_json
    )


@app.command("strike-out")
def strike_out(call_list: Id, number: str, config: ConfigFile = None) -> None:
    """Take a number out, for campaigns that run too. Use `dnc add` for whoever must never be called."""

    async def work(at: Visit) -> int:
        policy = at.config.numbers.policy()
        identity = normalise(number, policy).identity
        return await at.store.lists.strike_out(
            ListId(call_list), identity, lambda other: is_of(other, identity, policy)
        )

    struck = visit(config, work)
    tell(f"{struck} rows struck out")
    if not struck:
        raise typer.Exit(1)


@app.command()
def export(call_list: Id, config: ConfigFile = None, form: Format = "csv") -> None:
    """All rows to standard output, without those struck out."""

    async def work(at: Visit) -> None:
        await at.store.lists.info(ListId(call_list))
        if form == "ndjson":
            async for number, attributes in _contacts(at, call_list):
                print(json.dumps({"number": number, "attributes": attributes}, ensure_ascii=False))
            return
        names = {name async for _, attributes in _contacts(at, call_list) for name in attributes}
        columns = sorted(names)
        table = csv.writer(sys.stdout, lineterminator=LINE_END)
        table.writerow(["number", *columns])
        async for number, attributes in _contacts(at, call_list):
            table.writerow([number, *(attributes.get(name, "") for name in columns)])

    visit(config, work)


@app.command()
def delete(call_list: Id, config: ConfigFile = None) -> None:
    """Delete a list that no campaign names."""

    async def work(at: Visit) -> None:
        await at.store.lists.delete(ListId(call_list))

    visit(config, work)
    tell(f"list {call_list} deleted")


def _imported(
    config: Path | None, file: Path, strict: bool, write: Callable[[Visit, Batches], Awaitable[Written]]
) -> Written:
    refused = Refused()

    async def work(at: Visit) -> Written:
        with opened(file) as lines:
            read = read_csv(lines, file.name)
            return await write(
                at, batches(read, at.config.numbers.policy(), refused, strict=strict, source=file.name)
            )

    written = visit(config, work)
    tell(
        f"list {written.id}: {written.written} rows written, {written.repeats} repeats dropped",
        *refused.sentences(),
    )
    return written


async def _contacts(at: Visit, call_list: int) -> AsyncIterator[tuple[str, Mapping[str, object]]]:
    """The list's rows, a page at a time; rows another program has spoilt are left out."""
    offset = 0
    while rows := await at.store.lists.rows(ListId(call_list), offset, PAGE):
        for row in rows:
            contact = _parsed(row)
            if contact is not None:
                yield contact.number, contact.attributes
        offset += len(rows)


def _parsed(row: str) -> Row | None:
    try:
        return parse_row(row)
    except Invalid:
        return None


def _shown(place: int, row: str) -> tuple[object, ...]:
    try:
        contact = parse_row(row)
    except Invalid as exc:
        return place, row, f"refused: {exc}"
    if contact is None:
        return place, "struck out", ""
    attributes = json.dumps(contact.attributes, ensure_ascii=False) if contact.attributes else ""
    return place, contact.number, attributes
