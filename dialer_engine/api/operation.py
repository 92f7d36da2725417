"""For those who run it: stop everything, and who did what."""

from __future__ import annotations

from fastapi import Response

from dialer_engine.api import pages, shapes
from dialer_engine.api.document import answers
from dialer_engine.api.requests import AtStore, Paging, answered, iso, now, router
from dialer_engine.api.rights import Manager, Reader
from dialer_engine.store.records import AuditEntry

routes = router("operation")

_STOPPED = {"stopped": True, "by": "user:eva", "at": "2026-11-24T09:00:00.000+00:00"}


@routes.get(
    "/dialer/stop", summary="Is everything stopped?", response_model=shapes.Stop, responses=answers(_STOPPED)
)
async def show_stop(_: Reader, store: AtStore) -> Response:
    """By whom, and since when."""
    found = await store.stopped()
    if found is None:
        return answered({"stopped": False, "by": None, "at": None})
    by, at = found.get("by"), found.get("at")
    return answered(
        {
            "stopped": True,
            "by": by if isinstance(by, str) else None,
            "at": iso(at),
        }
    )


@routes.put(
    "/dialer/stop",
    summary="Stop everything",
    response_model=shapes.Done,
    responses=answers({"message": "Dialing successfully stopped"}),
)
async def stop_dialing(by: Manager, store: AtStore) -> Response:
    """No new call by any daemon, at once and over restarts, until it is taken back. Live calls go on."""
    await store.stop(by=by.name, now=now())
    return answered(shapes.Done(message="Dialing successfully stopped"))


@routes.delete(
    "/dialer/stop",
    summary="Dial again",
    response_model=shapes.Done,
    responses=answers({"message": "Dialing successfully resumed"}),
)
async def resume_dialing(by: Manager, store: AtStore) -> Response:
    """Campaigns go on where they were."""
    await store.resume(by=by.name, now=now())
    return answered(shapes.Done(message="Dialing successfully resumed"))


@routes.get(
    "/dialer/audit",
    summary="Who did what",
    response_model=shapes.PageOf[shapes.AuditEntry],
    responses=answers(
        pages.example(
            {
                "id": "1763974800000-0",
                "at": "2026-11-24T09:00:00.000+00:00",
                "by": "user:eva",
                "action": "start",
                "subject": "campaign 1",
                "detail": "RUNNING",
            }
        )
    ),
)
async def list_audit(_: Reader, store: AtStore, page: Paging) -> Response:
    """The last ten thousand or so, the latest first."""
    total, entries = await store.audit.page(page.offset, page.size)
    return await pages.answer(page, total, entries, _shown)


def _shown(entry: AuditEntry) -> dict[str, object]:
    return {
        "id": entry.cursor,
        "at": iso(entry.at),
        "by": entry.by,
        "action": entry.action,
        "subject": entry.subject,
        "detail": entry.detail,
    }
