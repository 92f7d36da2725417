"""Calls that go into a queue: every ending, and what is written down of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from dialer_engine.core.model import CampaignId
from tests.engine.pbx import answers
from tests.engine.world import BYE, VIRTUAL, World, numbers

pytestmark = VIRTUAL

AGENT: dict[str, dict[str, Any]] = {"agent": {"type": "queue", "timeout": 20, "next": "bye"}, **BYE}
MESSAGE = {"hello": {"type": "play", "media": ["sound:hello"], "next": "agent"}, **AGENT}
SURVEYED = {
    "agent": {"type": "queue", "timeout": 20, "next": "how"},
    "how": {"type": "menu", "media": ["sound:how"], "keys": {"1": "good"}, "noInput": "bye", "retries": 0},
    "good": {"type": "result", "extStatus": "GOOD", "next": "bye"},
    **BYE,
}
STAYS = answers(1.0)


def endpoint(queue: str = "green", **fields: Any) -> dict[str, Any]:
    return {"type": "queue", "queue": queue, "boostFactor": 1, **fields}


async def queue_campaign(world: World, count: int, *, flow: Any = AGENT, **fields: Any) -> CampaignId:
    ends = fields.pop("endpoint", endpoint())
    return await world.campaign(numbers(count), flow=flow, endpoint=ends, **fields)


def seconds(result: Any, begin: str, end: str) -> float:
    first, last = (datetime.fromisoformat(result[name]) for name in (begin, end))
    return (last - first).total_seconds()


async def test_a_call_goes_to_an_agent_and_all_of_it_is_written_down() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva", answers_after=0.5, talks=7.0)
        campaign = await queue_campaign(world, 1)
        await world.daemon()
        await world.completed(campaign)
        (result,) = world.results(campaign)
        assert (result["status"], result["extStatus"], result["agent"]) == ("TERMINATED", None, "Eva")
        assert result["path"] == ["agent", "bye"]
        assert result["queue"] == {
            "name": "green",
            "waitSeconds": pytest.approx(0.5, abs=0.01),
            "secondsToAgent": pytest.approx(0.51, abs=0.02),
            "secondsToAgentPbx": None,
            "talkSeconds": pytest.approx(7.0, abs=0.01),
            "abandoned": False,
        }
        assert seconds(result, "answeredAt", "connectedAt") == pytest.approx(0.51, abs=0.02)
        assert seconds(result, "connectedAt", "endedAt") == pytest.approx(7.0, abs=0.1)
        world.check_at_rest(campaign)
