"""dialer-engine dnc ...: who must not be called, by any campaign or by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from dialer_engine.cli.rows import BATCH, Refused, in_batches, opened, read_csv
from dialer_engine.cli.session import AsJson, ConfigFile, Visit, end, moment, now, put_rows, tell, visit
from dialer_engine.core.compliance import NumberPolicy, normalise
from dialer_engine.core.model import CampaignId
from dialer_engine.errors import Invalid, Problem
from dialer_engine.store.records import DoNotCall
from dialer_engine.store.tables import Line

app = typer.Typer(help="The do-not-call list, asked before every call.", no_args_is_help=True)

Numbers = Annotated[list[str], typer.Argument(metavar="NUMBER...")]
OfCampaign = Annotated[
    int | None, typer.Option("--campaign", metavar="ID", min=1, help="For this campaign alone.")
]
Why = Annotated[str, typer.Option("--reason", help="Kept with the entry and told in results.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="ISO 8601; without it, for ever.")]


@app.command()
def add(
    numbers: Numbers,
    config: ConfigFile = None,
    campaign: OfCampaign = None,
    reason: Why = "",
    until: Until = None,
) -> None:
    """Never call these numbers again; those ringing now are not cut off."""
    ends_at = end(until, "--until")

    async def work(at: Visit) -> None:
        policy = at.config.numbers.policy()
        entries = [_entry(number, policy, reason, ends_at, at.by) for number in numbers]
        await at.store.do_not_call.add(*entries, campaign=await _existing(at, campaign))

    visit(config, work)
    tell(f"{len(numbers)} numbers will not be called")


@app.command()
def remove(numbers: Numbers, config: ConfigFile = None, campaign: OfCampaign = None) -> None:
    """Let these numbers be called again."""

    async def work(at: Visit) -> list[str]:
        policy = at.config.numbers.policy()
        of = await _existing(at, campaign)
        found = [
            await at.store.do_not_call.remove(normalise(number, policy).identity, campaign=of)
            for number in numbers
        ]
        return [number for number, was_there in zip(numbers, found, strict=True) if not was_there]

    missing = visit(config, work)
    if missing:
        tell("not on the list: " + ", ".join(missing))
        raise typer.Exit(1)


@app.command()
def check(
    numbers: Numbers, config: ConfigFile = None, campaign: OfCampaign = None, as_json: AsJson = False
) -> None:
    """What the list says about these numbers: the one of all campaigns, and with --campaign that one's too."""

    async def work(at: Visit) -> list[tuple[object, ...]]:
        policy = at.config.numbers.policy()
        places = [None] if campaign is None else [None, await _existing(at, campaign)]
        rows: list[tuple[object, ...]] = []
        for number in numbers:
            identity = normalise(number, policy).identity
            found = [(place, await at.store.do_not_call.find(identity, campaign=place)) for place in places]
            rows += [_row(entry, place) for place, entry in found if entry] or [
                (number, "may be called", "", "", "")
            ]
        return rows

    put_rows(("number", "list", "reason", "until", "by"), visit(config, work), as_json=as_json)


@app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="CSV", help="A file with a column `number`; - is standard input.")
    ],
    config: ConfigFile = None,
    campaign: OfCampaign = None,
    reason: Why = "",
    until: Until = None,
) -> None:
    """Add every number of a CSV, all of them or none; a column `reason` goes before --reason."""
    ends_at = end(until, "--until")
    refused = Refused()

    async def work(at: Visit) -> int:
        policy = at.config.numbers.policy()
        of = await _existing(at, campaign)

        def entries(lines: Iterable[Line]) -> Iterator[DoNotCall]:
            for line, number, attributes in lines:
                try:
                    yield _entry(number, policy, attributes.get("reason") or reason, ends_at, at.by)
                except Invalid as exc:
                    refused.add(Problem(f"{file.name}:{line}", str(exc)))

        with opened(file) as source:
            batches = in_batches(entries(read_csv(source, file.name, attributes=False)))
            return sum(await at.store.do_not_call.add_all(batches, campaign=of))

    tell(f"{visit(config, work)} numbers will not be called", *refused.sentences())
    if refused.count:
        raise typer.Exit(1)


@app.command("list")
def list_(config: ConfigFile = None, campaign: OfCampaign = None, as_json: AsJson = False) -> None:
    """Every entry."""

    async def work(at: Visit) -> list[tuple[object, ...]]:
        entries = {entry.number: entry async for entry in _all(at, campaign)}  # one may come twice
        return [_row(entry, campaign) for _, entry in sorted(entries.items())]

    put_rows(("number", "list", "reason", "until", "by"), visit(config, work), as_json=as_json)


async def _all(at: Visit, campaign: int | None) -> AsyncIterator[DoNotCall]:
    cursor, of = 0, await _existing(at, campaign)
    while True:
        cursor, entries = await at.store.do_not_call.page(cursor, BATCH, campaign=of)
        for entry in entries:
            yield entry
        if cursor == 0:
            return


def _entry(number: str, policy: NumberPolicy, reason: str, until: float | None, by: str) -> DoNotCall:
    return DoNotCall(normalise(number, policy).identity, reason=reason, until=until, by=by, at=now())


def _row(entry: DoNotCall, campaign: int | None) -> tuple[object, ...]:
    place = "all campaigns" if campaign is None else f"campaign {campaign}"
    if entry.until is not None and entry.until <= now():
        place += ", over"
    return entry.number, place, entry.reason, moment(entry.until), entry.by


async def _existing(at: Visit, campaign: int | None) -> CampaignId | None:
    """Whose list it is. Raises NotFound: a number on the list of a campaign that is not there would be called."""
    if campaign is None:
        return None
    await at.store.campaigns.read(CampaignId(campaign))
    return CampaignId(campaign)
