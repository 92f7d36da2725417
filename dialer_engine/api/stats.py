"""What is told of a campaign's counters, as shapes.Stats describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dialer_engine.store.records import CampaignView
from dialer_engine.store.stats import RunStats, item

QUEUE_INPUTS = ("loggedIn", "available", "inCall", "paused", "wrappingUp", "waiting")
"""Of a plan: what it saw of the queue (core.pacing)."""

_TALLY: dict[str, Any] = {
    "calls": 388,
    "answered": 240,
    "queued": 200,
    "connected": 198,
    "abandoned": 5,
    "lost": 2,
    "timedOut": 0,
    "answerRate": 0.6186,
    "abandonRate": 0.025,
    "secondsToAgent": 0.612,
    "talkSeconds": 17820.5,
}
_OF_AGENT = {
    **dict.fromkeys(("calls", "answered", "queued", "connected"), 21),
    **dict.fromkeys(("abandoned", "lost", "timedOut"), 0),
    "answerRate": 1.0,
    "abandonRate": 0.0,
    "secondsToAgent": 0.58,
    "talkSeconds": 1911.0,
}
EXAMPLE: dict[str, Any] = {
    "state": "RUNNING",
    "activity": "DIALING",
    "run": 1,
    "numbers": {"total": 1000, "waiting": 600, "scheduled": 40, "live": 10, "closed": 348, "refused": 2},
    "calls": {"TERMINATED": 238, "RS_LOST": 2, "RS_BUSY": 60, "RS_NOANSWER": 88},
    "answered": 240,
    "queued": 200,
    "connected": 198,
    "abandoned": 5,
    "answerRate": 0.6186,
    "abandonRate": 0.025,
    "secondsToAgent": {"average": 0.612},
    "talkSeconds": 17820.5,
    "agents": {"Eva": _OF_AGENT},
    "queue": {"loggedIn": 10, "available": 2, "inCall": 6, "paused": 1, "wrappingUp": 1, "waiting": 0},
    "hours": [{"hour": "2026-11-24T09:00:00+00:00", **_TALLY}],
    "callLists": [{"callList": 1, **_TALLY}],
    "callsPerMinute": 42.0,
}


def shown(
    view: CampaignView, counted: RunStats, per_minute: float, plan: Mapping[str, Any] | None
) -> dict[str, object]:
    """`plan`: the last one, as it was told."""
    run, whole = view.counts, item(counted.whole)
    average, inputs = whole["secondsToAgent"], plan["inputs"] if plan else {}
    return {
        "state": view.state,
        "activity": plan and plan["limit"],
        "run": view.run,
        "numbers": {
            "total": run.read - run.repeats,
            "waiting": view.fresh,
            "scheduled": view.due,
            "live": view.live,
            "closed": run.closed,
            "refused": run.refused,
        },
        "calls": counted.whole.by_status,
        **{name: whole[name] for name in ("answered", "queued", "connected", "abandoned")},
        **{name: whole[name] for name in ("answerRate", "abandonRate")},
        "secondsToAgent": {} if average is None else {"average": average},
        "talkSeconds": whole["talkSeconds"],
        "agents": {name: item(tally) for name, tally in counted.agents.items()},
        "queue": {name: inputs[name] for name in QUEUE_INPUTS if inputs.get(name) is not None},
        "hours": [{"hour": f"{hour}:00:00+00:00", **item(tally)} for hour, tally in counted.hours.items()],
        "callLists": [{"callList": one or None, **item(tally)} for one, tally in counted.lists.items()],
        "callsPerMinute": per_minute,
    }
