"""The call centre of the demo: its agents, whom it calls for them, and the campaign that does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dialer_engine.cli.crowd import LONGEST_RING_SECONDS, Kind
from dialer_engine.simulator import Agent, QueueRules

QUEUE = "sales"
QUEUES: Mapping[str, QueueRules] = {QUEUE: QueueRules(wrap_up=2)}
WAIT_SECONDS = 15
"""A caller's, for an agent."""
ABANDONED_SECONDS = 2.0
"""Whoever has no agent by then is abandoned."""

TO_AN_AGENT: Mapping[str, Any] = {
    "name": "to an agent",
    "description": "whoever answers is for the agents of the campaign's queue",
    "start": "agent",
    "blocks": {
        "agent": {"type": "queue", "timeout": WAIT_SECONDS, "next": "bye"},
        "bye": {"type": "hangup"},
    },
}

CUSTOMERS: Sequence[Kind] = (
    Kind("waits for an agent", 24, "3 12 000 7#####"),
    Kind("answers late", 12, "3 30 000 7#####"),
    Kind("hangs up on the agent", 8, "2 15 060 7#####"),
    Kind("gives up after a second", 6, "1 10 010 7#####"),
    Kind("is busy, for agents", 14, "5 00 486 7#####"),
    Kind("rings, for agents", 8, "6 00 180 7#####"),
    Kind("has no such number", 8, "5 03 404 7#####"),
)

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Filip", "Greta", "Hugo")
STAFF: Mapping[str, str] = {str(1001 + place): name for place, name in enumerate(NAMES)}
"""Their telephones' extensions: their names."""
BY_HAND = ("Greta", "Hugo")
"""The others' telephones answer by themselves."""
WITH_PAUSES = ("Clara", "Hugo")
INBOUND_SECONDS, INBOUND_STAY_SECONDS = 4.0, 20.0
"""Somebody calls in for the same agents so often, and gives up after so long."""


def staff() -> list[Agent]:
    return [
        Agent(
            extension,
            (QUEUE,),
            name,
            answers_after=(0.4, 1.2) if name in BY_HAND else (0.0, 0.0),
            talks=(3.0, 9.0),
            says="22333 ",
            **({"works": (9.0, 15.0), "pauses": (4.0, 7.0)} if name in WITH_PAUSES else {}),
        )
        for extension, name in STAFF.items()
    ]


def campaign(call_list: int, ivr: str) -> dict[str, Any]:
    """Its definition, as POST /dialer/campaigns takes it."""
    return {
        "name": QUEUE,
        "callerId": "123456789",
        "callLists": [call_list],
        "ivr": ivr,
        "endpoint": {"type": "queue", "queue": QUEUE, "boostFactor": 1.25, "abandonAfter": ABANDONED_SECONDS},
        "activePeriod": {"startTime": "00:00", "endTime": "24:00", "weekDays": [1, 2, 3, 4, 5, 6, 7]},
        "rescheduleRules": [],
        "dialTimeout": LONGEST_RING_SECONDS,
    }
