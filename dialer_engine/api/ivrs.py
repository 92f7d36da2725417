"""IVRs: what happens to a call that is answered."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import orjson
from fastapi import Body, Path, Response

from dialer_engine.api import pages, shapes
from dialer_engine.api.document import answers
from dialer_engine.api.requests import AtStore, IfMatch, OnceOnly, answered, etag, iso, now, router, seen
from dialer_engine.api.rights import Manager, Reader
from dialer_engine.core.flow import parse_flow
from dialer_engine.core.model import IvrId
from dialer_engine.store import Store
from dialer_engine.store.contract import IvrDefinition
from dialer_engine.store.records import Ivr

routes = router("ivr")

Id = Annotated[
    IvrId, Path(pattern=r"^[A-Za-z0-9]{1,40}$", description="Ten letters and digits.", examples=["TUxw53xCBf"])
]

FLOW: dict[str, Any] = {  # spec section 6
    "name": "survey",
    "description": "",
    "start": "hello",
    "blocks": {
        "hello": {"type": "play", "media": ["sound:hello-world"], "next": "ask"},
        "ask": {
            "type": "menu",
            "media": ["sound:vm-press"],
            "timeout": 5,
            "retries": 2,
            "keys": {"1": "yes", "9": "never"},
            "invalid": "bye",
            "noInput": "bye",
        },
        "yes": {"type": "result", "extStatus": "CONFIRMED", "values": {"answer": "1"}, "next": "bye"},
        "never": {"type": "optOut", "next": "bye"},
        "bye": {"type": "hangup"},
    },
}
_DIALPLAN = {"name": "our own", "dialplan": {"context": "survey", "extension": "s"}}
_IVR = {
    "id": "TUxw53xCBf",
    "name": "survey",
    "description": "",
    "createdAt": "2026-11-24T08:00:00.000+00:00",
    "updatedAt": "2026-11-24T08:00:00.000+00:00",
    "createdBy": {"id": "user:eva", "email": ""},
    "updatedBy": {"id": "user:eva", "email": ""},
    "routing": [],
}
_ETAG = "For If-Match of an edit."

Definition = Annotated[
    IvrDefinition, Body(openapi_examples={"flow": {"value": FLOW}, "dialplan": {"value": _DIALPLAN}})
]


@routes.get("/ivr", summary="All IVRs", response_model=list[shapes.Ivr], responses=answers([_IVR]))
async def list_ivrs(_: Reader, store: AtStore) -> Response:
    """An array, without the blocks."""
    return await pages.bare(await store.ivrs.all(), _shown)


@routes.get(
    "/ivr/{ivr}",
    summary="One IVR",
    response_model=shapes.WholeIvr,
    responses=answers({**_IVR, "start": FLOW["start"], "blocks": FLOW["blocks"]}, ETag=_ETAG),
)
async def show_ivr(ivr: Id, _: Reader, store: AtStore) -> Response:
    """With its blocks, or its place in the dialplan."""
    found = await store.ivrs.load(ivr)
    does = {name: found.document[name] for name in ("start", "blocks", "dialplan") if name in found.document}
    return answered({**_shown(found), **does}, tag=etag(found.text))


@routes.post(
    "/ivr",
    summary="Save a new IVR",
    response_model=shapes.SavedIvr,
    responses=answers({"id": "TUxw53xCBf", "message": "IVR successfully created"}, ETag=_ETAG),
)
async def create_ivr(definition: Definition, by: Manager, store: AtStore, once: OnceOnly) -> Response:
    """A flow is checked first: unknown blocks, targets that are missing, blocks nobody reaches, endless loops."""
    await _check(definition)

    async def make(ivr: IvrId) -> Response:
        await store.ivrs.save(definition, reserved=ivr, by=by.name, now=now())
        return _saved(ivr, "IVR successfully created", definition)

    return await once(store.ivrs.reserve, make)


@routes.post(
    "/ivr/check",
    summary="Check an IVR without saving it",
    response_model=shapes.Done,
    responses=answers({"message": "No mistakes"}),
)
async def check_ivr(definition: Definition, _: Reader) -> Response:
    """Every mistake is named with its place (422)."""
    await _check(definition)
    return answered(shapes.Done(message="No mistakes"))


@routes.put(
    "/ivr/{ivr}",
    summary="Edit an IVR",
    response_model=shapes.SavedIvr,
    responses=answers({"id": "TUxw53xCBf", "message": "IVR successfully edited"}, ETag=_ETAG),
)
async def edit_ivr(
    ivr: Id, definition: Definition, by: Manager, store: AtStore, if_match: IfMatch = None
) -> Response:
    """Calls under way go on with the flow they began."""
    await _check(definition)
    expected = await _seen(store, ivr, if_match)
    await store.ivrs.save(definition, ivr=ivr, expected=expected, by=by.name, now=now())
    return _saved(ivr, "IVR successfully edited", definition)


@routes.delete(
    "/ivr/{ivr}",
    summary="Delete an IVR",
    response_model=shapes.SavedIvr,
    responses=answers(
        {"id": "TUxw53xCBf", "message": "IVR successfully deleted"},
        conflict="Campaigns use it; `detail` names them.",
    ),
)
async def delete_ivr(ivr: Id, by: Manager, store: AtStore, if_match: IfMatch = None) -> Response:
    """Only when no campaign names it."""
    expected = await _seen(store, ivr, if_match)
    await store.ivrs.delete(ivr, expected=expected, by=by.name, now=now())
    return answered(shapes.SavedIvr(id=ivr, message="IVR successfully deleted"))


async def _check(definition: IvrDefinition) -> None:
    """Raises Invalid with every mistake of the flow, each with its place."""
    if definition.blocks is not None:
        await asyncio.to_thread(parse_flow, definition.model_dump(by_alias=True, exclude_unset=True))


async def _seen(store: Store, ivr: IvrId, if_match: str | None) -> str | None:
    return None if if_match is None else seen(if_match, (await store.ivrs.load(ivr)).text, f"IVR {ivr}")


def _saved(ivr: IvrId, message: str, definition: IvrDefinition) -> Response:
    return answered(shapes.SavedIvr(id=ivr, message=message), tag=etag(definition.text()))


def _shown(ivr: Ivr) -> dict[str, object]:
    meta = ivr.meta
    return {
        "id": ivr.id,
        "name": str(ivr.document.get("name", "")),
        "description": str(ivr.document.get("description", "")),
        "createdAt": iso(meta.get("created_at")),
        "updatedAt": iso(meta.get("updated_at")),
        "createdBy": _person(meta.get("created_by", "")),
        "updatedBy": _person(meta.get("updated_by", "")),
        "routing": _routing(meta.get("routing", "[]")),
    }


def _person(by: str) -> dict[str, str]:
    """The name may be an address: some log in by one, and outside issuers give it."""
    name = by.partition(":")[2] or by
    return {"id": by, "email": name if "@" in name else ""}


def _routing(text: str) -> list[dict[str, str]]:
    """As another program has stored it; what cannot be read is no line."""
    try:
        lines = orjson.loads(text)
    except orjson.JSONDecodeError:
        return []
    return [
        {"exten": str(line.get("exten", "")), "ddi": str(line.get("ddi", ""))}
        for line in (lines if isinstance(lines, list) else [])
        if isinstance(line, dict)
    ]
