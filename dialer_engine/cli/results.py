"""dialer-engine export: the results of a campaign, for a spreadsheet or another program."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from dialer_engine.cli.rows import Format
from dialer_engine.cli.session import ConfigFile, Visit, epoch, visit
from dialer_engine.core.model import CampaignId, Status

COLUMNS = (
    "number", "status", "extStatus", "attempt", "run", "callList", "attributes", "values", "path", "cause",
    "sipCode", "agent", "recording", "originatedAt", "ringingAt", "answeredAt", "leftIvrAt", "connectedAt",
    "endedAt", "redialAt",
)  # fmt: skip
PAGE = 1000


def export(
    campaign: Annotated[int, typer.Argument(metavar="CAMPAIGN", min=1)],
    config: ConfigFile = None,
    form: Format = "csv",
    since: Annotated[str | None, typer.Option(metavar="TIME", help="ISO 8601: settled at or after.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only these.")] = None,
    run: Annotated[int | None, typer.Option(help="Only of this run.")] = None,
) -> None:
    """Results of a campaign to standard output, oldest first, in bounded memory."""
    begin = epoch(since, "--since") if since else None

    def wanted(item: Mapping[str, object]) -> bool:
        return (status is None or item.get("status") == status) and (run is None or item.get("run") == run)

    async def work(at: Visit) -> None:
        await at.store.campaigns.read(CampaignId(campaign))  # a campaign that is not there is no empty export
        write = _csv() if form == "csv" else _ndjson
        cursor = None
        while True:
            page = await at.store.results.read(
                CampaignId(campaign), after=cursor, since=begin, count=PAGE, wanted=wanted
            )
            for item in page.items:
                write(item)
            if page.next is None:
                return
            cursor = page.next

    visit(config, work)


def _ndjson(item: Mapping[str, object]) -> None:
    print(json.dumps(item, ensure_ascii=False))


def _csv() -> Callable[[Mapping[str, object]], None]:
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(COLUMNS)
    return lambda item: table.writerow([_cell(item.get(column)) for column in COLUMNS])


def _cell(value: object) -> object:
    """Structured values as JSON; a text that a spreadsheet would run as a formula gets an apostrophe."""
    match value:
        case dict() | list():
            return json.dumps(value, ensure_ascii=False) if value else ""
        case str() if value[:1] in ("=", "@", "\t", "\r") or (
            value[:1] in ("+", "-") and not value[1:].isdigit()
        ):
            return "'" + value
        case _:
            return value
