"""Do-not-call: numbers that nobody may dial, for all campaigns or for one; asked right before every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import Field, StringConstraints

from dialer_engine.api import pages, shapes
from dialer_engine.api.document import answers, takes_lines
from dialer_engine.api.problems import JSON
from dialer_engine.api.requests import (
    AskedNumber,
    AtStore,
    Moment,
    Numbers,
    Once,
    OnceOnly,
    Paging,
    answered,
    iso,
    json_body,
    now,
    router,
)
from dialer_engine.api.rights import Manager, Reader
from dialer_engine.api.uploads import LineReader, form_of
from dialer_engine.core.compliance import NumberPolicy, normalise
from dialer_engine.core.model import CampaignId
from dialer_engine.errors import Invalid, NotFound, Problem
from dialer_engine.store import Store, records
from dialer_engine.store.contract import Document, parse

routes = router("do-not-call")

COLUMNS = ("reason", "until")

Number = Annotated[
    AskedNumber,
    Query(max_length=64, description="As it is given; separators do not matter. A + is written %2B."),
]
OfCampaign = Annotated[
    CampaignId | None, Query(ge=1, lt=10**15, description="The list of this campaign; absent: the one for all.")
]
_NEW = {"number": "123 456 789", "reason": "asked us not to", "until": "2030-12-31T00:00:00+01:00"}
ENTRY = {
    "number": "123456789",
    "campaign": None,
    "reason": "asked us not to",
    "until": "2030-12-30T23:00:00.000+00:00",
    "by": "user:eva",
    "at": "2026-11-24T09:00:00.000+00:00",
}


class _Line(Document):
    """A number that is not to be called."""

    number: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    reason: Annotated[str, StringConstraints(max_length=200)] = ""
    """Kept with the entry, and the extStatus of what it forbids."""
    until: Moment | None = None
    """ISO 8601 with an offset; absent: for ever."""


class Entry(_Line):
    """A number that is not to be called."""

    campaign: Annotated[int, Field(ge=1, lt=10**15)] | None = None
    """For this campaign alone; absent: for all."""


SHAPES = (Entry,)


@routes.get(
    "/dialer/do-not-call",
    summary="Numbers that are not called",
    response_model=shapes.PageOf[shapes.DoNotCall],
    responses=answers(pages.example(ENTRY)),
)
async def list_do_not_call(
    *,
    _: Reader,
    store: AtStore,
    numbers: Numbers,
    page: Paging,
    number: Annotated[
        AskedNumber | None, Query(max_length=64, description="Only this number; a + is written %2B.")
    ] = None,
    campaign: OfCampaign = None,
) -> Response:
    """One list: of all campaigns, or of one. In no order; a late page costs as much as all before it.

    An entry whose `until` is over is still there and forbids nothing.
    """
    await _require(store, campaign)
    if number is None:
        total, entries = await store.do_not_call.slice(page.offset, page.size, campaign=campaign)
    else:
        found = await store.do_not_call.find(_identity(number, numbers, "query.number"), campaign=campaign)
        total, entries = (1, [found]) if found else (0, [])
        entries = entries[page.offset :]
    return await pages.answer(page, total, entries, lambda one: shown(one, campaign))


@routes.post(
    "/dialer/do-not-call",
    summary="Never call a number again",
    response_model=shapes.DoNotCallAdded | shapes.DoNotCallImported,
    responses=answers(
        {"number": "123456789", "message": "Number successfully added"},
        conflict="The upload was given up, because Redis did not hear of it for ten minutes.",
    ),
    openapi_extra=takes_lines(
        Entry,
        _NEW,
        "number,reason,until\n123456789,asked us not to,2030-12-31T00:00:00+01:00\n",
        '{"number": "123456789", "reason": "asked us not to"}\n',
    ),
)
async def add_do_not_call(
    *,
    request: Request,
    by: Manager,
    store: AtStore,
    numbers: Numbers,
    once: OnceOnly,
    campaign: OfCampaign = None,
) -> Response:
    """From now on; those ringing are not cut off. An entry that is there already is replaced.

    JSON: one number. CSV (columns `number`, `reason`, `until`) and NDJSON may be of any length: all of it, or nothing
    when the upload breaks off; lines that cannot be used are left out and told.
    """
    form = form_of(request)
    if form != JSON:
        await _require(store, campaign)
        return await _import(
            LineReader(form, _entry(numbers, by.name), COLUMNS), store, by.name, once, campaign
        )
    if campaign is not None:
        raise Invalid([Problem("query.campaign", "a number as JSON names its campaign itself")])
    return await _add(await json_body(request, Entry), store, numbers, by.name, once)


async def _add(entry: Entry, store: Store, numbers: NumberPolicy, by: str, once: Once) -> Response:
    campaign = None if entry.campaign is None else CampaignId(entry.campaign)
    identity = _identity(entry.number, numbers, "number")
    if campaign is not None and not await _exists(store, campaign):
        raise Invalid([Problem("campaign", f"there is no campaign {campaign}")])

    async def reserve() -> str:
        return identity

    async def make(number: str) -> Response:
        until = None if entry.until is None else entry.until.timestamp()
        added = records.DoNotCall(number, reason=entry.reason, until=until, by=by, at=now())
        await store.do_not_call.add(added, campaign=campaign)
        await store.audit.write(by=by, action="forbid", subject=_subject(campaign), now=now())
        return answered(shapes.DoNotCallAdded(number=number, message="Number successfully added"))

    return await once(reserve, make)


async def _import(
    lines: LineReader[records.DoNotCall], store: Store, by: str, once: Once, campaign: CampaignId | None
) -> Response:
    async def reserve() -> None:
        return None

    async def make(_: None) -> Response:
        new, known = await store.do_not_call.add_all(lines.entries(once.chunks()), campaign=campaign)
        await store.audit.write(
            by=by, action="forbid", subject=_subject(campaign), detail=f"{new + known} numbers", now=now()
        )
        told: dict[str, object] = {"message": "Numbers successfully added", "numbersCount": new}
        return answered({**told, **({"repeats": known} if known else {}), **lines.told()})

    return await once(reserve, make, streams=True)


def _entry(policy: NumberPolicy, by: str) -> Callable[[object], records.DoNotCall]:
    """Of a line."""

    def entry(document: object) -> records.DoNotCall:
        line = parse(_Line, document)
        until = None if line.until is None else line.until.timestamp()
        identity = _identity(line.number, policy, "number")
        return records.DoNotCall(identity, reason=line.reason, until=until, by=by, at=now())

    return entry


@routes.delete(
    "/dialer/do-not-call",
    summary="Let a number be called again",
    response_model=shapes.DoNotCallAdded,
    responses={
        **answers({"number": "123456789", "message": "Number successfully removed"}),
        404: {"description": "It is not on the list."},
    },
)
async def remove_do_not_call(
    by: Manager, store: AtStore, numbers: Numbers, number: Number, campaign: OfCampaign = None
) -> Response:
    """From the list of all campaigns, or of one."""
    await _require(store, campaign)
    identity = _identity(number, numbers, "query.number")
    if not await store.do_not_call.remove(identity, campaign=campaign):
        raise NotFound("this number is not on the list")
    await store.audit.write(by=by.name, action="allow", subject=_subject(campaign), now=now())
    return answered(shapes.DoNotCallAdded(number=identity, message="Number successfully removed"))


async def _exists(store: Store, campaign: CampaignId) -> bool:
    try:
        await store.campaigns.read(campaign)
    except NotFound:
        return False
    return True


async def _require(store: Store, campaign: CampaignId | None) -> None:
    if campaign is not None and not await _exists(store, campaign):
        raise Invalid([Problem("query.campaign", f"there is no campaign {campaign}")])


def _identity(number: str, policy: NumberPolicy, place: str) -> str:
    try:
        return normalise(number, policy).identity
    except Invalid as exc:
        raise Invalid([Problem(place, one.reason) for one in exc.problems]) from exc


def _subject(campaign: CampaignId | None) -> str:
    return "do-not-call" if campaign is None else f"do-not-call of campaign {campaign}"


def shown(entry: records.DoNotCall, campaign: CampaignId | None) -> dict[str, object]:
    """As shapes.DoNotCall describes it."""
    return {
        "number": entry.number,
        "campaign": campaign,
        "reason": entry.reason,
        "until": iso(entry.until),
        "by": entry.by,
        "at": iso(entry.at),
    }
