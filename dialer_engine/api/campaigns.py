"""Campaigns: define, control, and see how they stand and what came of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Body, Path, Query, Response
from pydantic import Field

from dialer_engine import log
from dialer_engine.api import pages, shapes, stats
from dialer_engine.api.document import answers
from dialer_engine.api.requests import (
    AtStore,
    IfMatch,
    Once,
    OnceOnly,
    Paging,
    answered,
    etag,
    iso,
    now,
    router,
    seen,
)
from dialer_engine.api.rights import Manager, Principal, Reader
from dialer_engine.core.model import CampaignId, CampaignState, Command
from dialer_engine.errors import Invalid
from dialer_engine.store import Store
from dialer_engine.store.contract import CampaignDefinition, Document, Name
from dialer_engine.store.records import CampaignView

routes = router("campaigns")
_log = log.get("api")

Id = Annotated[CampaignId, Path(ge=1, lt=10**15, description="The campaign's number.", examples=[1])]

DEFINITION: dict[str, Any] = {  # the seed's own
    "name": "campaign",
    "callerId": "123456789",
    "activePeriod": {"startTime": "09:00", "endTime": "17:00", "weekDays": [1, 2, 3, 4, 5, 6, 7]},
    "callLists": [1],
    "rescheduleRules": [{"status": "RS_ERROR", "retryAfter": 15, "maxAttempts": 1}],
    "ivr": "TUxw53xCBf",
    "endpoint": {"type": "queue", "boostFactor": 1.1, "maxWaitingCalls": 2, "queue": "green"},
}
CREATED = {"id": 1, "message": "Campaign successfully created"}
_STANDING = {
    "id": 1,
    "state": "RUNNING",
    "activity": "DIALING",
    "run": 1,
    "reason": None,
    "startedAt": "2026-11-24T09:00:00.000+00:00",
    "changedAt": "2026-11-24T09:00:00.000+00:00",
    "changedBy": "user:eva",
}
_CAMPAIGN = {**DEFINITION, **_STANDING}
_PLAN = {
    "at": "2026-11-24T09:00:00.500+00:00",
    "originate": 0,
    "limit": "MAX_CHANNELS",
    "inputs": {"due": 812, "live": 50, "maxChannels": 50},
    "nextAt": None,
    "text": "No call may start: 50 of 50 channels are in use.",
}
_ETAG = "For If-Match of an edit: of the definition, whatever the state."


class Edit(CampaignDefinition):
    """The whole definition anew. What GET adds to it is read-only: it may be sent back and is not looked at."""

    id: Annotated[Any, Field(exclude=True, json_schema_extra={"readOnly": True})] = None
    state: Annotated[Any, Field(exclude=True, json_schema_extra={"readOnly": True})] = None
    activity: Annotated[Any, Field(exclude=True, json_schema_extra={"readOnly": True})] = None
    run: Annotated[Any, Field(exclude=True, json_schema_extra={"readOnly": True})] = None
    reason: Annotated[Any, Field(exclude=True, json_schema_extra={"readOnly": True})] = None
    started_at: Annotated[Any, Field(exclude=True, json_schema_extra={"readOnly": True})] = None
    changed_at: Annotated[Any, Field(exclude=True, json_schema_extra={"readOnly": True})] = None
    changed_by: Annotated[Any, Field(exclude=True, json_schema_extra={"readOnly": True})] = None


class Control(Document):
    """A command to a campaign."""

    command: Annotated[Command, Field(strict=False)]
    """start: a new run, every list from its beginning. pause: no new calls, live ones go on. unpause: go on where it
    was. reload: take new numbers of its lists without losing the place. remove: end the run."""


class Clone(Document):
    """What the copy is to have otherwise."""

    name: Name | None = None
    """Absent: the same."""


# --- definitions ---


@routes.post(
    "/dialer/campaigns",
    summary="Create a campaign",
    response_model=shapes.Saved,
    responses=answers(CREATED, ETag=_ETAG),
)
async def create_campaign(
    definition: Annotated[CampaignDefinition, Body(openapi_examples={"seed": {"value": DEFINITION}})],
    by: Manager,
    store: AtStore,
    once: OnceOnly,
) -> Response:
    """It is NEW and dials nothing until it is started."""
    return await _create(store, definition, by, once)


@routes.get(
    "/dialer/campaigns",
    summary="All campaigns",
    response_model=shapes.PageOf[shapes.Campaign | shapes.SpoiltCampaign],
    responses=answers(pages.example(_CAMPAIGN)),
)
async def list_campaigns(
    _: Reader,
    store: AtStore,
    page: Paging,
    state: Annotated[CampaignState | None, Query(description="Only those in this state.")] = None,
) -> Response:
    """By their numbers, each with its definition and how it stands."""
    found = (await store.campaigns.load(now=now())).campaigns.values()
    views = [view for view in found if state in (None, view.state)]
    asked = views[page.offset : page.offset + page.size]
    plans = await asyncio.gather(*(_last_plan(store, view) for view in asked))
    return await pages.answer(page, len(views), zip(asked, plans, strict=True), lambda one: _shown(*one))


@routes.get(
    "/dialer/campaigns/{campaign}",
    summary="One campaign",
    response_model=shapes.Campaign | shapes.SpoiltCampaign,
    responses=answers(_CAMPAIGN, ETag=_ETAG),
)
async def show_campaign(campaign: Id, _: Reader, store: AtStore) -> Response:
    """Its definition, every default filled in, and how it stands."""
    view = await store.campaigns.view(campaign, now=now())
    return answered(_shown(view, await _last_plan(store, view)), tag=etag(view.text))


@routes.put(
    "/dialer/campaigns/{campaign}",
    summary="Edit a campaign",
    response_model=shapes.Saved,
    responses=answers({"id": 1, "message": "Campaign successfully edited"}, ETag=_ETAG),
)
async def edit_campaign(
    campaign: Id,
    definition: Annotated[Edit, Body(openapi_examples={"seed": {"value": DEFINITION}})],
    by: Manager,
    store: AtStore,
    if_match: IfMatch = None,
) -> Response:
    """Pace, period, rules and endpoint take effect at once; new call lists by `reload` or the next run.

    A campaign that was INVALID returns to the state before.
    """
    expected = await _seen(store, campaign, if_match)
    await store.campaigns.save(definition, campaign=campaign, expected=expected, by=by.name, now=now())
    edited = shapes.Saved(id=campaign, message="Campaign successfully edited")
    return answered(edited, tag=etag(definition.text()))


@routes.delete(
    "/dialer/campaigns/{campaign}",
    summary="Delete a campaign",
    response_model=shapes.Saved,
    responses=answers(
        {"id": 1, "message": "Campaign successfully deleted"},
        conflict="It is RUNNING or PAUSED (`remove` ends its run), or calls of it are still live.",
    ),
)
async def delete_campaign(campaign: Id, by: Manager, store: AtStore, if_match: IfMatch = None) -> Response:
    """With its results, versions and do-not-call list. Its call lists stay."""
    expected = await _seen(store, campaign, if_match)
    await store.campaigns.delete(campaign, expected=expected, by=by.name, now=now())
    return answered(shapes.Saved(id=campaign, message="Campaign successfully deleted"))


@routes.post(
    "/dialer/campaigns/{campaign}/clone",
    summary="Copy a campaign",
    response_model=shapes.Saved,
    responses=answers({"id": 2, "message": CREATED["message"]}, ETag=_ETAG),
)
async def clone_campaign(
    campaign: Id,
    by: Manager,
    store: AtStore,
    once: OnceOnly,
    changes: Annotated[
        Clone | None, Body(openapi_examples={"named": {"value": {"name": "campaign 2"}}})
    ] = None,
) -> Response:
    """A new campaign with the same definition, NEW: no results, no run."""
    view = await store.campaigns.view(campaign, now=now())
    if view.document is None:
        raise Invalid(view.problems)
    name = changes.name if changes and changes.name else view.document.name
    return await _create(store, view.document.model_copy(update={"name": name}), by, once)


@routes.get(
    "/dialer/campaigns/{campaign}/versions",
    summary="How the definition was edited",
    response_model=shapes.PageOf[shapes.Version],
    responses=answers(
        pages.example(
            {
                "version": 1,
                "at": "2026-11-24T08:00:00.000+00:00",
                "by": "user:eva",
                "definition": DEFINITION,
            }
        )
    ),
)
async def list_campaign_versions(campaign: Id, _: Reader, store: AtStore, page: Paging) -> Response:
    """Every definition that was saved by the API or the command line, with who and when, oldest first."""
    await store.campaigns.read(campaign)
    total, versions = await store.campaigns.versions_page(campaign, page.offset, page.size)
    numbered = list(enumerate(versions, page.offset + 1))
    return await pages.answer(page, total, numbered, _version)


# --- control ---


@routes.put(
    "/dialer/campaigns/{campaign}/control",
    summary="Start, pause, unpause, reload or remove a campaign",
    response_model=shapes.Controlled,
    responses=answers(
        {"id": 1, "state": "RUNNING", "message": "Campaign successfully started"},
        conflict="The state does not allow the command; `allowed` names those it does.",
    ),
)
async def control_campaign(
    campaign: Id,
    order: Annotated[Control, Body(openapi_examples={"seed": {"value": {"command": "start"}}})],
    by: Manager,
    store: AtStore,
) -> Response:
    """Every daemon obeys at once. A start or reload of a definition that cannot be used makes it INVALID (422)."""
    reply = await store.campaigns.command(campaign, order.command, by=by.name, now=now())
    return answered(shapes.Controlled(id=campaign, state=reply.state, message=reply.message))


# --- how it stands ---


@routes.get(
    "/dialer/campaigns/{campaign}/stats",
    summary="Counters and rates",
    response_model=shapes.Stats,
    responses=answers(stats.EXAMPLE),
)
async def show_campaign_stats(
    campaign: Id,
    _: Reader,
    store: AtStore,
    hours: Annotated[int, Query(ge=1, le=168, description="How many of the last hours are told apart.")] = 24,
) -> Response:
    """Of the current run, or of the last one. Calls count when they are settled: with an agent, when his wrap-up is
    over."""
    at = now()
    view = await store.campaigns.view(campaign, now=at)
    counted, per_minute, plan = await asyncio.gather(
        store.stats.read(campaign, view.run, hours=hours, now=at),
        store.results.per_minute(campaign, now=at),
        _last_plan(store, view),
    )
    return answered(stats.shown(view, counted, per_minute, plan))


@routes.get(
    "/dialer/campaigns/{campaign}/plan",
    summary="Why it dials or does not",
    response_model=shapes.Plan,
    responses=answers(_PLAN),
)
async def show_campaign_plan(campaign: Id, _: Reader, store: AtStore) -> Response:
    """The last decision about new calls: how many, from which inputs, which limit bound it, when that may change.

    Where several daemons dial the campaign, it is the decision made last.
    """
    at = now()
    view = await store.campaigns.view(campaign, now=at)
    return answered(await _last_plan(store, view) or _no_plan(view, at))


# --- how it is told ---


async def _create(store: Store, definition: CampaignDefinition, by: Principal, once: Once) -> Response:
    async def reserve() -> CampaignId:
        await store.campaigns.check(definition)  # what is refused takes no number
        return await store.campaigns.reserve()

    async def make(campaign: CampaignId) -> Response:
        await store.campaigns.save(definition, reserved=campaign, by=by.name, now=now())
        created = shapes.Saved(id=campaign, message=str(CREATED["message"]))
        return answered(created, tag=etag(definition.text()))

    return await once(reserve, make)


async def _seen(store: Store, campaign: CampaignId, if_match: str | None) -> str | None:
    if if_match is None:
        return None
    return seen(if_match, await store.campaigns.read(campaign), f"campaign {campaign}")


async def _last_plan(store: Store, view: CampaignView) -> Mapping[str, object] | None:
    """The latest decision any daemon has told; None when it does not run, or nobody dials it."""
    if view.state is not CampaignState.RUNNING:
        return None
    plans = (await store.campaigns.plans(view.id)).values()
    return max(plans, key=lambda plan: str(plan["at"]), default=None)


def _no_plan(view: CampaignView, at: float) -> dict[str, object]:
    if view.state is CampaignState.RUNNING:
        why = "No call may start: no daemon has told a plan for it within the last seconds."
    else:
        why = f"No call may start: the campaign is {view.state}{f' ({view.reason})' if view.reason else ''}."
    return {"at": iso(at), "originate": 0, "limit": None, "inputs": {}, "nextAt": None, "text": why}


def _shown(view: CampaignView, plan: Mapping[str, object] | None) -> dict[str, object]:
    reason = view.reason or "; ".join(str(problem) for problem in view.problems)
    standing = {
        "id": view.id,
        "state": view.state,
        "activity": plan and plan["limit"],
        "run": view.run,
        "reason": reason or None,
        "startedAt": iso(view.started_at),
        "changedAt": iso(view.changed_at),
        "changedBy": view.changed_by or None,
    }
    if view.document is None:
        problems = [{"path": one.place, "detail": one.reason} for one in view.problems]
        return {**standing, "problems": problems, "definition": view.text}
    return {"id": view.id, **view.document.complete(), **standing}


def _version(numbered: tuple[int, Mapping[str, Any]]) -> dict[str, object]:
    number, version = numbered
    return {
        "version": number,
        "at": iso(version["at"]),
        "by": version["by"],
        "definition": version["definition"],
    }
