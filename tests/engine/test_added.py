"""Added calls in the loop, and what the engine tells others while it dials."""

from __future__ import annotations

import itertools
from typing import Any

from tests.engine.pbx import BUSY, CARRIER_FAILS, answers
from tests.engine.world import VIRTUAL, World, numbers, rule, trunk

pytestmark = VIRTUAL


async def told(world: World, kind: str) -> list[dict[str, Any]]:
    found = await world.store.events.after("0-0", 10_000)
    return [dict(one.facts) for one in found if one.kind == kind]


async def test_an_added_call_goes_before_new_numbers_and_is_made_at_once() -> None:
    async with World(trunks=[trunk(rate=2.0)]) as world:
        campaign = await world.campaign(numbers(60), whenDone="wait")
        await world.daemon()
        await world.sleep(5.003)
        added, asked_at = "603999999", world.at
        world.pbx.callees[added] = [BUSY, answers(1)]
        await world.store.campaigns.add_call(campaign, added, at=0, now=world.epoch())
        world.wake()
        await world.until(lambda: added in world.pbx.by_number, every=0.01)
        assert world.at - asked_at < 1.2, "two at most stood before it in the lane"
        assert len(world.pbx.by_number) < 20
        world.census(campaign)


async def test_an_idle_campaign_makes_an_added_call_within_two_passes() -> None:
    async with World() as world:
        campaign = await world.campaign(whenDone="wait", rules=[rule("RS_BUSY", after=7)])
        await world.daemon()
        await world.sleep(3.333)
        world.pbx.callees["603999999"] = [BUSY, answers(1)]
        asked_at = world.at
        await world.store.campaigns.add_call(campaign, "603999999", at=0, now=world.epoch())
        world.wake()
        await world.until(lambda: world.pbx.by_number["603999999"] == 1, every=0.001)
        assert world.at - asked_at < 0.045
        await world.until(lambda: world.pbx.by_number["603999999"] == 2, within=10)
        await world.sleep(5)
        assert world.statuses(campaign) == {"603999999": ["RS_BUSY", "TERMINATED"]}
        assert world.state(campaign) == "RUNNING"
        world.census(campaign)


async def test_limits_states_and_results_are_told() -> None:
    async with World() as world:
        campaign = await world.campaign(numbers(3))
        await world.daemon()
        await world.completed(campaign)
        limits = await told(world, "limit")
        assert limits
        assert {(one["campaign"], one["daemon"]) for one in limits} == {(campaign, "host")}
        names = [one["limit"] for one in limits]
        assert all(before != after for before, after in itertools.pairwise(names))
        assert [one["state"] for one in await told(world, "state")] == ["RUNNING", "COMPLETED"]
        assert sorted(one["number"] for one in await told(world, "result")) == numbers(3)


async def test_a_trunk_that_closes_and_opens_is_told() -> None:
    async with World() as world:
        world.pbx.default = lambda: CARRIER_FAILS if world.at < 20 else BUSY
        await world.campaign(numbers(200))
        await world.daemon()
        await world.sleep(60)
        closed, opened = await told(world, "trunk")
        assert (closed["trunk"], closed["closed"], closed["daemon"]) == ("carrier", True, "host")
        assert "503" in closed["lastCode"]
        assert (opened["trunk"], opened["closed"]) == ("carrier", False)
