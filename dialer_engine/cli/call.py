"""dialer-engine call: one test call through the running daemon, by the same path as any other.

It is an ordinary campaign of one number, made for the purpose and taken away at the end; so what it shows is
what a campaign would do, do-not-call list, trunk and limits included.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from dialer_engine.cli.campaigns import sentences
from dialer_engine.cli.session import ConfigFile, Visit, now, put_json, tell, visit
from dialer_engine.core.model import CampaignId, Command, ListId, Status
from dialer_engine.errors import Conflict, NotFound
from dialer_engine.store.contract import contact_row, parse_campaign

LOOK_SECONDS = 0.5
CLEARING_SECONDS = 10.0


def call(
    number: Annotated[str, typer.Argument(metavar="NUMBER", help="Whom to call.")],
    ivr: Annotated[str, typer.Option("--ivr", metavar="ID", help="What the callee hears.")],
    config: ConfigFile = None,
    caller_id: Annotated[str, typer.Option(metavar="NUMBER", help="Shown to the callee.")] = "100",
    trunk: Annotated[str | None, typer.Option(metavar="NAME", help="Instead of the default trunk.")] = None,
    attribute: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the contact.")] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="How long to wait for the end.")
    ] = 180,
) -> None:
    """Call one number now, wait for the end of the call and print its result. Exit 0: it was answered."""
    attributes = dict(_pair(text) for text in attribute or [])
    definition = _definition(number, ivr=ivr, caller_id=caller_id, trunk=trunk)

    signals: list[int] = []

    async def work(at: Visit) -> Mapping[str, object] | None:
        row = contact_row({"number": number, "attributes": attributes}, at.config.numbers.policy())
        stopped = _stopped(signals)
        async with _campaign(at, definition, row) as campaign:
            result = await _result(at, campaign, time.monotonic() + timeout, stopped)
            if signals:
                tell("stopped")
            elif result is None:
                why = sentences(await at.store.campaigns.plans(campaign))
                tell(f"no result within {timeout:.0f} s: {why}")
            return result

    result = visit(config, work)
    if result is None:
        raise typer.Exit(128 + signals[0] if signals else 1)
    put_json(result)
    raise typer.Exit(0 if result.get("status") == Status.TERMINATED else 1)


def _definition(number: str, *, ivr: str, caller_id: str, trunk: str | None) -> dict[str, object]:
    definition: dict[str, object] = {
        "name": f"test call to {number}",
        "callerId": caller_id,
        "activePeriod": {"startTime": "00:00", "endTime": "24:00", "weekDays": [1, 2, 3, 4, 5, 6, 7]},
        "rescheduleRules": [],
        "ivr": ivr,
        "endpoint": {"type": "phone"},
        "maxChannels": 1,
        "priority": 100,
    }
    return definition if trunk is None else definition | {"trunk": trunk}


@asynccontextmanager
async def _campaign(
    at: Visit, definition: Mapping[str, object], row: tuple[str, str]
) -> AsyncIterator[CampaignId]:
    """The started campaign; afterwards nothing of it is left, whatever happens meanwhile."""
    written = await at.store.lists.create(str(definition["name"]), _once(row))
    try:
        parsed = parse_campaign({**definition, "callLists": [written.id]})
        campaign = await at.store.campaigns.save(parsed, by=at.by, now=now())
        try:
            await at.store.campaigns.command(campaign, Command.START, by=at.by, now=now())
            yield campaign
        finally:
            await _clear(at, campaign)
    finally:
        with contextlib.suppress(Conflict):  # the call still lives: what is left is told by _clear
            await at.store.lists.delete(ListId(written.id))


async def _clear(at: Visit, campaign: CampaignId) -> None:
    await at.store.campaigns.command(campaign, Command.REMOVE, by=at.by, now=now())
    until = time.monotonic() + CLEARING_SECONDS
    while True:
        try:
            return await at.store.campaigns.delete(campaign, by=at.by, now=now())
        except NotFound:
            return None
        except Conflict:
            if time.monotonic() > until:
                return tell(f"the call still lives; afterwards: dialer-engine campaign delete {campaign}")
            await asyncio.sleep(LOOK_SECONDS)


def _stopped(signals: list[int]) -> asyncio.Event:
    """Set by Ctrl-C, SIGTERM or a terminal that is closed; a campaign left behind would call when nobody waits."""
    stopped = asyncio.Event()

    def stop(signum: int) -> None:
        signals.append(signum)
        stopped.set()

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signum, stop, signum)
    return stopped


async def _result(
    at: Visit, campaign: CampaignId, until: float, stopped: asyncio.Event
) -> Mapping[str, object] | None:
    """None: there was none when `until` (monotonic seconds) came, or when it was stopped."""
    while time.monotonic() < until and not stopped.is_set():
        page = await at.store.results.read(campaign)
        if page.items:
            return page.items[0]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), LOOK_SECONDS)
    return None


async def _once(row: tuple[str, str]) -> AsyncIterator[Sequence[tuple[str, str]]]:
    yield [row]


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text}: must be NAME=VALUE", param_hint="--attribute")
    return name, value
