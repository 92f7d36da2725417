"""One telephone number: the first question of any complaint."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Path, Response

from dialer_engine.api import pages, shapes
from dialer_engine.api.calls import live_call
from dialer_engine.api.do_not_call import ENTRY, shown
from dialer_engine.api.document import answers
from dialer_engine.api.exports import RESULT
from dialer_engine.api.requests import AtStore, Numbers, Paging, iso, router
from dialer_engine.api.rights import Reader
from dialer_engine.core.compliance import normalise
from dialer_engine.errors import Invalid, Problem

routes = router("do-not-call")


@routes.get(
    "/dialer/numbers/{number:path}",
    summary="Every call to a number",
    response_model=shapes.CalledNumber,
    responses=answers(
        {
            "number": "123456789",
            "doNotCall": [ENTRY],
            "live": None,
            "completeSince": None,
            **pages.example({"campaign": 1, **RESULT}),
        }
    ),
)
async def show_number(
    number: Annotated[str, Path(max_length=64, description="As it is given; separators do not matter.")],
    _: Reader,
    store: AtStore,
    numbers: Numbers,
    page: Paging,
) -> Response:
    """Over all campaigns, the latest first; whether it is on a do-not-call list, and the call under way.

    Results that have been archived (after `[results] keep_days`) are not among them: `dialer-engine export` reads
    those. The question costs about as much with a million results as with none.
    """
    try:
        identity = normalise(number, numbers).identity
    except Invalid as exc:
        raise Invalid([Problem("path.number", one.reason) for one in exc.problems]) from exc
    (total, results), live, forbidden, complete_since = await asyncio.gather(
        store.numbers.calls(identity, page.offset, page.size),
        store.numbers.live(identity),
        store.numbers.do_not_call(identity),
        store.numbers.complete_since(),
    )
    about = {
        "number": identity,
        "doNotCall": [shown(entry, campaign) for campaign, entry in forbidden.items()],
        "live": live and {"campaign": live.campaign, **live_call(live)},
        "completeSince": iso(complete_since),
    }
    return await pages.answer(page, total, results, about=about)
