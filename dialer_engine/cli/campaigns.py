"""dialer-engine campaign ...: definitions, commands and what came of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from dialer_engine.cli.session import (
    AsJson,
    ConfigFile,
    Visit,
    edited,
    moment,
    now,
    parse_json,
    put_json,
    put_rows,
    read_json,
    tell,
    visit,
)
from dialer_engine.core.model import CampaignId, CampaignState, Command
from dialer_engine.errors import NotFound
from dialer_engine.store.contract import parse_campaign
from dialer_engine.store.records import CampaignView
from dialer_engine.store.stats import RunStats, item

Plans = Mapping[str, Mapping[str, object]]
"""The last plan of each daemon, by its name."""

app = typer.Typer(help="Campaigns: create, control, look at.", no_args_is_help=True)

Id = Annotated[int, typer.Argument(metavar="ID", min=1, help="The campaign's number.")]
File = Annotated[
    Path, typer.Argument(metavar="FILE", help="Its JSON, as POST /dialer/campaigns takes it; - is stdin.")
]


@app.command()
def create(file: File, config: ConfigFile = None) -> None:
    """Create a campaign (NEW) and print its id."""
    definition = parse_campaign(read_json(file))

    async def work(at: Visit) -> CampaignId:
        return await at.store.campaigns.save(definition, by=at.by, now=now())

    print(visit(config, work))


@app.command("list")
def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """All campaigns, one a line."""

    async def work(at: Visit) -> list[tuple[CampaignView, Plans]]:
        views = (await at.store.campaigns.load(now=now())).campaigns.values()
        plans = await asyncio.gather(*(at.store.campaigns.plans(view.id) for view in views))
        return list(zip(views, plans, strict=True))

    columns = ("id", "name", "state", "run", "waiting", "re-dials", "live", "closed", "why")
    put_rows(columns, map(_row, visit(config, work)), as_json=as_json)


@app.command()
def show(
    campaign: Id, config: ConfigFile = None, versions: Annotated[bool, typer.Option("--versions")] = False
) -> None:
    """Its definition as stored; --versions: all of them, with who and when."""

    async def work(at: Visit) -> object:
        if versions:
            return await at.store.campaigns.versions(CampaignId(campaign))
        return json.loads(await at.store.campaigns.read(CampaignId(campaign)))

    put_json(visit(config, work))


@app.command()
def edit(
    campaign: Id,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The new JSON; without it, $EDITOR.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Replace the definition. Pace, periods and rules take effect at once, new lists at `reload`."""

    async def work(at: Visit) -> bool:
        before = await at.store.campaigns.read(CampaignId(campaign))
        after = read_json(file) if file else _by_editor(before)
        if after is None:
            return False
        definition = parse_campaign(after)
        await at.store.campaigns.save(
            definition, campaign=CampaignId(campaign), expected=before, by=at.by, now=now()
        )
        return True

    tell(f"campaign {campaign} changed" if visit(config, work) else "nothing changed")


def _control(command: Command, help_text: str) -> None:
    @app.command(command.value, help=help_text)
    def control(campaign: Id, config: ConfigFile = None) -> None:
        async def work(at: Visit) -> str:
            reply = await at.store.campaigns.command(CampaignId(campaign), command, by=at.by, now=now())
            return f"campaign {reply.id}: {reply.state}, run {reply.run}. {reply.message}"

        tell(visit(config, work))


_control(Command.START, "Begin a new run: every list from its beginning.")
_control(Command.PAUSE, "No new calls; live calls go on, re-dials keep their times.")
_control(Command.UNPAUSE, "Go on where it was paused.")
_control(Command.RELOAD, "Take new generations of the lists and an edited definition, keeping the place.")
_control(Command.REMOVE, "End the run: no new calls, waiting re-dials dropped; definition and results stay.")


@app.command()
def delete(campaign: Id, config: ConfigFile = None) -> None:
    """Delete the definition of a campaign that neither runs nor has live calls."""

    async def work(at: Visit) -> None:
        await at.store.campaigns.delete(CampaignId(campaign), by=at.by, now=now())

    visit(config, work)
    tell(f"campaign {campaign} deleted")


@app.command()
def stats(
    campaign: Id,
    config: ConfigFile = None,
    hours: Annotated[int, typer.Option(min=1, max=168, help="How many of the last hours are told apart.")] = 24,
) -> None:
    """Counters of the current run as JSON: calls, abandonment, agents, by the hour and by call list."""

    async def work(at: Visit) -> dict[str, Any]:
        view = await _view(at, campaign)
        counted = await at.store.stats.read(view.id, view.run, hours=hours, now=now())
        refused = await at.store.reading.refused(view.id, view.run)
        return _stats(view, counted) | {"refusedRows": refused}

    put_json(visit(config, work))


@app.command()
def plan(campaign: Id, config: ConfigFile = None) -> None:
    """What each daemon has decided last, and which limit bound it, as JSON: why does it not dial?"""

    async def work(at: Visit) -> Plans:
        view = await _view(at, campaign)
        return await at.store.campaigns.plans(view.id)

    put_json(visit(config, work))


def _by_editor(before: str) -> object | None:
    after = edited(json.dumps(json.loads(before), ensure_ascii=False, indent=2) + "\n")
    return None if after is None else parse_json(after, "$EDITOR")


async def _view(at: Visit, campaign: int) -> CampaignView:
    view = (await at.store.campaigns.load(now=now())).campaigns.get(CampaignId(campaign))
    if view is None:
        raise NotFound(f"there is no campaign {campaign}")
    return view


def sentences(plans: Plans) -> str:
    """Why so many calls start and no more, as each daemon says it."""
    said = " ".join(str(plan.get("text", "")) for plan in plans.values())
    return said or "No daemon has planned it yet. Does a daemon run?"


def _row(found: tuple[CampaignView, Plans]) -> tuple[object, ...]:
    view, plans = found
    name = view.definition.name if view.definition else ""
    why = view.reason or "; ".join(str(problem) for problem in view.problems)
    if view.state is CampaignState.RUNNING and not why:
        why = sentences(plans)
    return view.id, name, view.state, view.run, view.fresh, view.due, view.live, view.counts.closed, why


def _stats(view: CampaignView, counted: RunStats) -> dict[str, Any]:
    counts = view.counts
    return {
        "state": view.state,
        "run": view.run,
        "numbers": {
            "total": counts.read - counts.repeats,
            "waiting": view.fresh,
            "scheduled": view.due,
            "live": view.live,
            "closed": counts.closed,
            "refused": counts.refused,
        },
        "calls": {**counted.whole.by_status, "answered": counted.whole.answered},
        "whole": item(counted.whole),
        "agents": {name: item(tally) for name, tally in counted.agents.items()},
        "hours": {f"{hour}:00Z": item(tally) for hour, tally in counted.hours.items()},
        "callLists": {str(one or "added"): item(tally) for one, tally in counted.lists.items()},
        "nextDueAt": moment(view.next_due_at),
    }
