"""dialer-engine ivr ...: flows and dialplan places."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dialer_engine.cli.session import AsJson, ConfigFile, Visit, now, put_json, put_rows, read_json, tell, visit
from dialer_engine.core.flow import parse_flow
from dialer_engine.core.model import IvrId
from dialer_engine.store.contract import IvrDefinition, parse_ivr
from dialer_engine.store.records import Ivr

app = typer.Typer(help="IVRs: save, check, look at.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Ten letters and digits.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="Its JSON; - is standard input.")]


@app.command()
def save(
    file: File,
    config: ConfigFile = None,
    ivr: Annotated[str | None, typer.Option("--id", metavar="ID", help="Replace this one.")] = None,
) -> None:
    """Check a flow, store it and print its id. Calls under way go on with the flow they began."""
    definition = _checked(file)

    async def work(at: Visit) -> IvrId:
        return await at.store.ivrs.save(definition, ivr=IvrId(ivr) if ivr else None, by=at.by, now=now())

    print(visit(config, work))


@app.command()
def check(file: File) -> None:
    """Say every mistake of a flow without storing it."""
    _checked(file)
    tell(f"{file}: no mistakes")


@app.command("list")
def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """All IVRs, one a line."""

    async def work(at: Visit) -> list[Ivr]:
        return await at.store.ivrs.all()

    put_rows(("id", "name", "kind", "blocks"), map(_row, visit(config, work)), as_json=as_json)


@app.command()
def show(ivr: Id, config: ConfigFile = None) -> None:
    """Its document as stored."""

    async def work(at: Visit) -> Ivr:
        return await at.store.ivrs.load(IvrId(ivr))

    put_json(visit(config, work).document)


@app.command()
def delete(ivr: Id, config: ConfigFile = None) -> None:
    """Delete an IVR that no campaign names."""

    async def work(at: Visit) -> None:
        await at.store.ivrs.delete(IvrId(ivr), by=at.by, now=now())

    visit(config, work)
    tell(f"IVR {ivr} deleted")


def _checked(file: Path) -> IvrDefinition:
    """The definition, its envelope and its flow both sound. Raises Invalid with every mistake."""
    document = read_json(file)
    if isinstance(document, dict) and "blocks" in document:
        parse_flow(document)
    return parse_ivr(document)


def _row(ivr: Ivr) -> tuple[object, ...]:
    blocks = ivr.document.get("blocks")
    kind = "dialplan" if "dialplan" in ivr.document else "flow"
    return ivr.id, ivr.document.get("name", ""), kind, len(blocks) if isinstance(blocks, dict) else ""
