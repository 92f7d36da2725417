"""A campaign's calls: added by hand, live, what agents say of them, and what came of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import orjson
from fastapi import Body, Path, Query, Request, Response

from dialer_engine import log
from dialer_engine.api import pages, shapes
from dialer_engine.api.campaigns import Id
from dialer_engine.api.document import also, answers
from dialer_engine.api.exports import EXPORTED, RESULT, exported, form_wanted
from dialer_engine.api.problems import JSON
from dialer_engine.api.requests import (
    AskedNumber,
    AtStore,
    Moment,
    Numbers,
    OnceOnly,
    PageSize,
    Paging,
    answered,
    iso,
    now,
    router,
)
from dialer_engine.api.rights import Manager, Reader
from dialer_engine.core.compliance import NumberPolicy, is_of, normalise
from dialer_engine.core.model import AttemptId, Status
from dialer_engine.errors import Conflict, Invalid, NotFound
from dialer_engine.store.contract import Disposition, Row, contact_row
from dialer_engine.store.records import AttemptRecord, DisposeKind, ResultPage

routes = router("campaigns")
_log = log.get("api")

_SAID = {
    DisposeKind.PENDING: "The result of the call will say so",
    DisposeKind.AMENDED: "Result successfully amended",
}


class NewCall(Row):
    """Whom to call, what is known of him, and when."""

    at: Moment | None = None
    """ISO 8601 with an offset; absent, or over: now."""


@routes.post(
    "/dialer/campaigns/{campaign}/calls",
    summary="Add a call to a run",
    response_model=shapes.AddedCall,
    responses=answers(
        {"id": 1, "message": "Call successfully added"},
        conflict="No run is under way: the campaign is NEW, COMPLETED or REMOVED.",
    ),
)
async def add_campaign_call(
    *,
    campaign: Id,
    call: Annotated[
        NewCall,
        Body(
            openapi_examples={
                "now": {"value": {"number": "123456789", "attributes": {"name": "Eva"}}},
                "later": {"value": {"number": "123456789", "at": "2030-12-31T17:00:00+01:00"}},
            }
        ),
    ],
    _: Manager,
    store: AtStore,
    numbers: Numbers,
    once: OnceOnly,
) -> Response:
    """One call, now or later, before the numbers of the lists. Period, pace, do-not-call and reschedule rules hold
    for it as for any other; it is made even if the run has called the number before. While the campaign is PAUSED it
    waits. A campaign with `whenDone: wait` takes such calls as long as it runs.

    What came of it stands among the results, by its number and attributes.
    """
    row = contact_row({"number": call.number, "attributes": call.attributes}, numbers)[1]

    async def reserve() -> str:
        return secrets.token_hex(8) if once.may_come_again else ""

    async def make(token: str) -> Response:
        at = 0.0 if call.at is None else call.at.timestamp()
        number = await store.campaigns.add_call(campaign, row, at=at, now=now(), token=token)
        return answered(shapes.AddedCall(id=number, message="Call successfully added"))

    return await once(reserve, make)


@routes.get(
    "/dialer/campaigns/{campaign}/calls",
    summary="Its live calls",
    response_model=shapes.PageOf[shapes.LiveCall],
    responses=answers(
        pages.example(
            {
                "attempt": "a0123456789abcdef0123",
                "number": "123456789",
                "attributes": {"name": "Eva"},
                "callList": 1,
                "run": 1,
                "phase": "RINGING",
                "agent": None,
                "queue": None,
                "disposition": None,
                "trunk": "carrier",
                "daemon": "pbx1",
                "claimedAt": "2026-11-24T09:00:00.990+00:00",
                "originatedAt": "2026-11-24T09:00:01.000+00:00",
                "ringingAt": "2026-11-24T09:00:02.100+00:00",
                "answeredAt": None,
                "leftIvrAt": None,
                "connectedAt": None,
            }
        )
    ),
)
async def list_campaign_calls(campaign: Id, _: Reader, store: AtStore, page: Paging) -> Response:
    """Calls under way, in every daemon. What they showed last may be a moment old."""
    await store.campaigns.read(campaign)
    total, records = await store.calls.live_page(campaign, page.offset, page.size)
    return await pages.answer(page, total, records, live_call)


@routes.put(
    "/dialer/calls/{attempt}/extStatus",
    summary="What the agent says of a call",
    response_model=shapes.Disposed,
    responses=answers(
        {"id": "a0123456789abcdef0123", "state": "PENDING", "message": _SAID[DisposeKind.PENDING]},
        conflict="The call has not come to an agent yet.",
    ),
)
async def dispose_call(
    attempt: Annotated[
        AttemptId, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="The call: its `attempt`.")
    ],
    said: Annotated[Disposition, Body(openapi_examples={"sold": {"value": {"extStatus": "SOLD"}}})],
    by: Manager,
    store: AtStore,
) -> Response:
    """The agent's disposition, for a call that has reached one. Until his wrap-up ends (at most 60 s) it is the
    extStatus of the result and chooses the reschedule rule (PENDING); later it amends the result, and what followed
    for the number stays (AMENDED). The last one counts; the same one again changes nothing. Of a call that waits it is
    taken, and dropped if no agent takes the call.

    Results that are archived (after `[results] keep_days`) are not amended any more.
    """
    kind = await store.calls.dispose(attempt, said.ext_status, by=by.name, now=now())
    match kind:
        case DisposeKind.NOT_FOUND:
            raise NotFound(f"no call {attempt} has reached an agent, or its result is archived")
        case DisposeKind.NO_AGENT:
            raise Conflict(f"call {attempt} has not come to an agent yet")
        case DisposeKind.PENDING | DisposeKind.AMENDED:
            return answered(shapes.Disposed(id=attempt, state=kind.value, message=_SAID[kind]))


@routes.get(
    "/dialer/campaigns/{campaign}/results",
    summary="What came of its calls",
    response_model=shapes.Results,
    responses=also(answers({"items": [RESULT], "next": "1763974820000-0"}), EXPORTED),
)
async def list_campaign_results(
    *,
    request: Request,
    campaign: Id,
    by: Reader,
    store: AtStore,
    numbers: Numbers,
    cursor: Annotated[
        str | None,
        Query(
            pattern=r"^[0-9]{1,16}-[0-9]{1,16}$", description="`next` of the page before; absent: the oldest."
        ),
    ] = None,
    page_size: PageSize = 100,
    number: Annotated[
        AskedNumber | None, Query(max_length=64, description="Only of this number; a + is written %2B.")
    ] = None,
    status: Annotated[Status | None, Query(description="Only with this status.")] = None,
    run: Annotated[int | None, Query(ge=0, lt=10**9, description="Only of this run.")] = None,
    since: Annotated[
        Moment | None,
        Query(
            description="Only calls that were settled then or later (at their end; with an agent, when his wrap-up "
            "was over); ISO 8601 with an offset."
        ),
    ] = None,
    form: Annotated[
        Literal["json", "csv", "ndjson"] | None,
        Query(alias="format", description="Absent: what the Accept header asks for, else json."),
    ] = None,
) -> Response:
    """Oldest first, one entry for each call. Ask again with `next` as the cursor until it is null.

    A page looks at some thousand results: with a rare filter it may hold few, even none, and still have a `next`. CSV
    and NDJSON have no pages: they hold everything behind the cursor. Archived results (after `[results] keep_days`)
    are not among them: `dialer-engine export` reads those, too.
    """
    await store.campaigns.read(campaign)
    wanted = _wanted(number, status, run, numbers)
    begin = None if since is None else max(0.0, since.timestamp())

    async def read(after: str | None, count: int) -> ResultPage:
        return await store.results.read(campaign, after=after, since=begin, count=count, wanted=wanted)

    wanted_form = form_wanted(request, form)
    if wanted_form == JSON:
        return await pages.cursored(read, cursor, page_size)
    # The log, not the audit: whoever may only read must not be able to push out what others have changed.
    _log.info("exported results", campaign=campaign, by=by.name, form=wanted_form)
    return exported(wanted_form, read, cursor, f"results-{campaign}")


# --- how it is told ---


def live_call(record: AttemptRecord) -> dict[str, object]:
    """As shapes.LiveCall describes it."""
    shown = record.progress
    return {
        "attempt": record.id,
        "number": record.number,
        "attributes": orjson.loads(record.attributes) or [],
        "callList": record.due.contact.call_list or None,
        "run": record.run,
        "phase": record.phase,
        "agent": shown.get("agent") or None,
        "queue": shown.get("queue") or None,
        "disposition": record.disposition,
        "trunk": record.trunk,
        "daemon": record.owner,
        "claimedAt": iso(record.claimed_at),
        "originatedAt": shown.get("originated_at") or iso(record.sent_at),
        **{name: shown.get(field) for name, field in _TIMES.items()},
    }


_TIMES = {
    "ringingAt": "ringing_at",
    "answeredAt": "answered_at",
    "leftIvrAt": "left_ivr_at",
    "connectedAt": "connected_at",
}


def _wanted(
    number: str | None, status: Status | None, run: int | None, policy: NumberPolicy
) -> Callable[[Mapping[str, object]], bool]:
    identity = None if number is None else _identity(number, policy)

    def is_of_number(text: str) -> bool:
        return text == number or (identity is not None and is_of(text, identity, policy))

    def wanted(item: Mapping[str, object]) -> bool:
        return (
            (status is None or item.get("status") == status)
            and (run is None or item.get("run") == run)
            and (number is None or is_of_number(str(item.get("number"))))
        )

    return wanted


def _identity(number: str, policy: NumberPolicy) -> str | None:
    """None: it is none that would be dialed; a result may tell of it all the same."""
    try:
        return normalise(number, policy).identity
    except Invalid:
        return None
