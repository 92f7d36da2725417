"""dialer-engine export: the results of a campaign, for a spreadsheet or another program."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from typing import Annotated

import orjson
import typer

from dialer_engine.archive import Archive, Missing
from dialer_engine.cli.rows import Format
from dialer_engine.cli.session import ConfigFile, Visit, epoch, tell, visit
from dialer_engine.core.model import CampaignId, Status
from dialer_engine.store.tables import LINE_END, RESULT_COLUMNS, cells


def export(
    campaign: Annotated[int, typer.Argument(metavar="CAMPAIGN", min=1)],
    config: ConfigFile = None,
    form: Format = "csv",
    since: Annotated[str | None, typer.Option(metavar="TIME", help="ISO 8601: settled at or after.")] = None,
    status: Annotated[
        Status | None, typer.Option(metavar="STATUS", help="Only these, such as RS_BUSY.")
    ] = None,
    run: Annotated[int | None, typer.Option(help="Only of this run.")] = None,
) -> None:
    """Results of a campaign to standard output, oldest first, archived ones included, in bounded memory."""
    begin = epoch(since, "--since") if since else None

    async def work(at: Visit) -> Missing | None:
        of = CampaignId(campaign)
        await at.store.campaigns.read(of)  # a campaign that is not there is no empty export
        archive = Archive(at.config.daemon.archive_of(at.config.redis.prefix), at.store.results)
        missing = await archive.missing(of, since=begin)
        write = _csv() if form == "csv" else _ndjson
        async for item in archive.read(of, since=begin):
            if (status is None or item.get("status") == status) and (run is None or item.get("run") == run):
                write(item)
        return missing

    missing = visit(config, work)
    if missing is not None:
        tell(
            f"this is not all: {missing.count} more were archived by {', '.join(missing.daemons)} "
            f"and are in no file of {missing.directory}; export where they are, or bring their files here"
        )
        raise typer.Exit(1)


def _ndjson(item: Mapping[str, object]) -> None:
    print(orjson.dumps(item).decode())


def _csv() -> Callable[[Mapping[str, object]], None]:
    table = csv.writer(sys.stdout, lineterminator=LINE_END)
    table.writerow(RESULT_COLUMNS)
    return lambda item: table.writerow(cells(item))
