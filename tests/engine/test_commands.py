"""Commands, edits, reloads and the drain, with calls in every phase: nobody is skipped, nobody is called twice."""

from __future__ import annotations

import asyncio

import pytest

from dialer_engine.core.model import CampaignId
from tests.engine.pbx import BUSY, CARRIER_FAILS, RINGS_OUT, Behaviour, answers
from tests.engine.world import BYE, HELLO, SURVEY, VIRTUAL, World, numbers, rule, trunk

pytestmark = VIRTUAL

STAY = {"stay": {"type": "wait", "seconds": 8, "next": "bye"}, "bye": {"type": "hangup"}}


def _callee(n: int) -> Behaviour:
    return [BUSY, answers(0.2)] if n % 3 == 0 else [answers(0.5), RINGS_OUT][n % 3 - 1]


async def in_every_phase(world: World) -> CampaignId:
    """A running campaign with calls that ring, talk and are claimed, redials waiting, rows unread."""
    for n, number in enumerate(numbers(1200)):
        world.pbx.callees[number] = _callee(n)
    campaign = await world.campaign(
        numbers(1200), flow=STAY, rules=[rule("RS_BUSY", after=3)], maxChannels=40, dialTimeout=15
    )
    await world.daemon()
    await world.sleep(3.01)
    assert len(world.pbx.channels) > 20
    return campaign


# --- the life of a campaign ---


async def test_a_pause_starts_nothing_new_and_an_unpause_goes_on_where_it_was() -> None:
    async with World(trunks=[trunk(rate=30.0)]) as world:
        campaign = await in_every_phase(world)
        await world.command(campaign, "pause")
        paused, dialed = world.at, len(world.pbx.originates)
        await world.sleep(20)
        assert world.pbx.last_at() < paused + 0.1
        assert not world.pbx.channels, "live calls went on to their ends"
        counts = world.census(campaign)
        assert counts["live"] == 0
        assert counts["closed"] > 10
        await world.command(campaign, "unpause")
        await world.sleep(3)
        assert len(world.pbx.originates) > dialed + 20
        busy = [number for number in world.pbx.by_number if int(number) % 3 == 602_000_001 % 3]
        assert max(world.pbx.by_number[number] for number in busy) <= 2
        assert all(world.pbx.by_number[number] == 1 for number in world.pbx.by_number.keys() - set(busy))
        world.census(campaign)


async def test_remove_drops_what_waits_and_the_live_calls_finish_with_their_results() -> None:
    async with World() as world:
        campaign = await in_every_phase(world)
        await world.command(campaign, "remove")
        removed = world.at
        await world.sleep(20)
        assert world.pbx.last_at() < removed + 0.1
        assert world.state(campaign) == "REMOVED"
        assert (
            world.redis.zcard(world.key(campaign, "due"))
            == world.redis.zcard(world.key(campaign, "fresh"))
            == 0
        )
        assert {one["attempt"] for one in world.results(campaign)} == set(world.pbx.by_attempt)
        assert world.live() == set()


async def test_a_start_after_remove_is_a_new_run_from_the_beginning() -> None:
    async with World() as world:
        world.pbx.default = answers(0.2)
        campaign = await world.campaign(numbers(6), flow=STAY, maxChannels=3)
        await world.daemon()
        await world.sleep(3)
        await world.command(campaign, "remove")
        await world.command(campaign, "start")  # while the calls of the first run are live
        await world.completed(campaign)
        by_run = [one["run"] for one in world.results(campaign)]
        assert by_run.count(2) == 6
        assert world.pbx.most["carrier"] == 3, "calls of the ended run count, too"
        world.check_at_rest(campaign)


async def test_commands_that_any_program_pushes_are_obeyed_and_nonsense_is_skipped() -> None:
    async with World() as world:
        campaign = await world.campaign(numbers(3), start=False)
        await world.daemon()
        await world.sleep(1)
        for text in (
            "nonsense",
            '{"campaign": 99, "command": "start"}',
            f'{{"campaign": {campaign}, "command": "start"}}',
        ):
            world.redis.rpush("{dialer}:commands", text)
        await world.completed(campaign, within=10)
        assert len(world.pbx.by_number) == 3


# --- edits ---


async def test_edited_rules_count_at_once_also_for_the_calls_of_a_paused_campaign() -> None:
    async with World() as world:
        world.pbx.default = [answers(1.0), BUSY]
        campaign = await world.campaign(numbers(1), flow=STAY)
        await world.daemon()
        await world.sleep(4)
        await world.command(campaign, "pause")
        await world.sleep(1)
        await world.edit(campaign, rescheduleRules=[rule("TERMINATED", after=1)])
        await world.sleep(8)
        assert world.census(campaign)["waiting"] == 1, "by the new rule"
        await world.command(campaign, "unpause")
        await world.completed(campaign)
        assert world.pbx.by_number.total() == 2


async def test_an_edited_trunk_takes_the_next_calls() -> None:
    async with World(trunks=[trunk("carrier"), trunk("other")]) as world:
        world.pbx.default = BUSY
        campaign = await world.campaign(numbers(200), maxChannels=5)
        await world.daemon()
        await world.sleep(2)
        await world.edit(campaign, trunk="other")
        edited = world.at
        await world.sleep(2)
        assert {one.trunk for one in world.pbx.originates if one.at > edited + 0.1} == {"other"}
        assert max(world.pbx.by_number.values()) == 1


async def test_a_definition_spoilt_while_it_runs_lets_live_calls_go_on_and_is_mended() -> None:
    async with World() as world:
        campaign = await in_every_phase(world)
        world.spoil(campaign)
        spoilt = world.at
        await world.sleep(20)
        assert world.state(campaign) == "INVALID"
        assert world.pbx.last_at() < spoilt + 0.1
        assert not world.pbx.channels
        assert {one["attempt"] for one in world.results(campaign)} == set(world.pbx.by_attempt)
        before = world.census(campaign)
        await world.edit(campaign)
        await world.sleep(3)
        assert world.state(campaign) == "RUNNING"
        assert world.pbx.last_at() > spoilt + 20
        assert world.census(campaign)["read"] >= before["read"]


async def test_a_trunk_that_left_the_configuration_is_down_for_its_campaign_until_it_is_back() -> None:
    async with World(trunks=[trunk("carrier"), trunk("other")]) as world:
        world.pbx.default = answers(0.2)
        campaign = await world.campaign(numbers(60), flow=STAY, trunk="other", maxChannels=5)
        daemon = await world.daemon()
        await world.sleep(2)
        both, world.trunks = world.trunks, [trunk("carrier")]
        daemon.fate.inside(daemon.engine.take, world.settings())
        await world.sleep(12)
        assert world.state(campaign) == "RUNNING"  # another daemon may well have that trunk
        assert world.limit(campaign) == "TRUNK_DOWN"
        world.trunks = both
        assert {one["attempt"] for one in world.results(campaign)} == set(world.pbx.by_attempt)
        daemon.fate.inside(daemon.engine.take, world.settings())
        await world.completed(campaign, within=150)
        assert world.pbx.by_number == dict.fromkeys(numbers(60), 1)
        assert world.pbx.most["other"] == 5
        world.check_at_rest(campaign)


# --- lists ---


async def test_a_reload_under_load_skips_nobody_and_calls_nobody_twice() -> None:
    async with World() as world:
        world.pbx.default = BUSY.but(ends_after=0.2)
        old, new = numbers(60), numbers(80, 602_000_041)  # twenty in both
        rows = await world.a_list(old)
        campaign = await world.campaign(rows, maxChannels=4)
        await world.daemon()
        await world.until(lambda: len(world.pbx.by_number) > 30)
        await world.replace(rows, new)
        await world.command(campaign, "reload")
        await world.completed(campaign)
        assert world.pbx.by_number == dict.fromkeys({*old, *new}, 1)
        world.check_at_rest(campaign)


@pytest.mark.parametrize("after", [0.0, 0.3, 0.7])
async def test_a_reload_while_the_last_call_ends_does_not_complete_the_campaign_unread(after: float) -> None:
    # The old generation had been read to its end, and that counted for the new one.
    async with World() as world:
        world.pbx.default = answers(0.5)
        rows = await world.a_list(numbers(2))
        campaign = await world.campaign(rows, flow=STAY)
        await world.daemon()
        await world.until(lambda: len(world.pbx.channels) == 2)
        await world.replace(rows, numbers(2, 603_000_001))
        await world.sleep(7.5)
        await world.until(lambda: not world.pbx.channels)
        await world.sleep(after)
        if world.state(campaign) == "RUNNING":
            await world.command(campaign, "reload")
            await world.completed(campaign)
            assert len(world.pbx.by_number) == 4
        world.check_at_rest(campaign)


async def test_a_reload_takes_a_further_list_and_forgets_one_that_was_taken_out() -> None:
    async with World() as world:
        world.pbx.default = BUSY
        first, second = await world.a_list(numbers(700)), await world.a_list(numbers(5, 603_000_001))
        campaign = await world.campaign(first, maxChannels=40)
        await world.daemon()
        await world.sleep(2)
        await world.edit(campaign, callLists=[second])
        await world.command(campaign, "reload")
        await world.until(lambda: len([one for one in world.pbx.by_number if one > "603"]) == 5, within=100)
        assert max(world.pbx.by_number.values()) == 1


async def test_rows_appended_while_it_runs_are_called() -> None:
    async with World() as world:
        world.pbx.default = answers(0.5)
        rows = await world.a_list(numbers(4))
        campaign = await world.campaign(rows, flow=HELLO, maxChannels=1)
        await world.daemon()
        await world.sleep(2)
        await world.append(rows, numbers(3, 603_000_001))
        await world.completed(campaign)
        assert len(world.pbx.by_number) == 7


@pytest.mark.parametrize("before", [0.0, 0.2, 0.4, 0.6, 0.8])
async def test_a_row_appended_right_before_the_end_is_called(before: float) -> None:
    # The list had been looked at within the last second, and that was end enough to complete the campaign.
    async with World() as world:
        rows = await world.a_list(numbers(1))
        campaign = await world.campaign(rows, whenDone="wait")
        await world.daemon()
        await world.sleep(5 + before)
        await world.append(rows, numbers(1, 603_000_001))
        await world.edit(campaign, whenDone="complete")
        await world.completed(campaign)
        assert len(world.pbx.by_number) == 2


# --- the end of the daemon ---


async def test_a_drain_starts_nothing_new_and_ends_with_the_last_call() -> None:
    async with World(trunks=[trunk(rate=40.0)]) as world:
        campaign = await in_every_phase(world)
        daemon = world.daemons[0]
        daemon.fate.inside(daemon.engine.drain, None)  # wait all
        drained = world.at
        assert (daemon.engine.why_not_ready() or "").startswith("draining")
        await asyncio.wait_for(asyncio.shield(daemon.task), 40)
        assert world.pbx.last_at() < drained + 0.1
        assert world.at > drained + 8, "those that talk have talked to the end"
        assert {one["attempt"] for one in world.results(campaign)} == set(world.pbx.by_attempt)
        assert world.live() == set()
        world.census(campaign)


@pytest.mark.parametrize("seconds", [0.0, 2.0])
async def test_a_drain_leaves_what_still_lives_to_the_next_start(seconds: float) -> None:
    async with World(trunks=[trunk(rate=40.0)]) as world:
        number = numbers(1)[0]
        world.pbx.default = RINGS_OUT
        world.pbx.callees[number] = answers(0.5, keys=[(6.0, "1")])
        patient = {**SURVEY, "ask": dict(SURVEY["ask"], timeout=20)}
        campaign = await world.campaign(numbers(30), flow=patient, maxChannels=20, dialTimeout=15)
        first = await world.daemon()
        await world.sleep(2.03)
        first.fate.inside(first.engine.drain, seconds)
        await asyncio.wait_for(asyncio.shield(first.task), seconds + 1)
        assert len(world.pbx.channels) > 5, "nobody was hung up"
        assert not [one for one in world.results(campaign) if one["status"] == "RS_ERROR"]
        await first.kill()
        await world.daemon()
        await world.completed(campaign)
        assert world.pbx.by_number == dict.fromkeys(numbers(30), 1)
        assert world.statuses(campaign)[number] == ["TERMINATED/YES"]
        assert {one[0] for one in world.statuses(campaign).values()} == {"TERMINATED/YES", "RS_NOANSWER"}
        world.check_at_rest(campaign)


async def test_a_drain_during_an_outage_of_redis_ends_all_the_same() -> None:
    async with World() as world:
        world.pbx.default = BUSY.but(ends_after=1.0)
        campaign = await world.campaign(numbers(20), maxChannels=5)
        first = await world.daemon()
        await world.until(lambda: len(world.pbx.channels) == 5)
        first.redis.away = True
        await world.sleep(2)
        first.fate.inside(first.engine.drain, 3.0)
        await asyncio.wait_for(asyncio.shield(first.task), 12)
        await first.kill()
        await world.daemon()
        await world.completed(campaign)
        assert world.pbx.by_number == dict.fromkeys(numbers(20), 1)
        world.check_at_rest(campaign)


@pytest.mark.parametrize("phase", [0.1, 0.7, 0.9, 1.1, 1.3])
async def test_a_daemon_that_drains_while_it_claims_calls_nobody_after(phase: float) -> None:
    async with World() as world:
        world.pbx.default = BUSY.but(ends_after=0.1)
        campaign = await world.campaign(numbers(300), flow=BYE, maxChannels=10)
        first = await world.daemon()
        first.redis.seconds = 0.3
        await world.until(lambda: len(world.pbx.originates) > 20)
        await world.sleep(phase)
        first.fate.inside(first.engine.drain, None)
        drained = world.at
        await asyncio.wait_for(asyncio.shield(first.task), 20)
        assert world.pbx.last_at() < drained + 0.1
        assert world.live() == set()
        world.census(campaign)


async def test_a_deleted_campaign_leaves_no_series_behind() -> None:
    # A shop that makes a campaign a day had some thousand more of them in a year.
    async with World() as world:
        campaign = await world.campaign(numbers(3))
        daemon = await world.daemon()
        await world.completed(campaign)
        label = f'campaign="{campaign}"'
        assert label in daemon.metrics.render().decode()
        await world.store.campaigns.delete(campaign, by="test", now=world.epoch())
        world.wake()
        await world.sleep(1)
        assert label not in daemon.metrics.render().decode()


async def test_a_closed_trunk_that_a_reload_takes_away_is_told_of_no_more() -> None:
    # Its gauge stood at 0, and the alert with it, until a restart.
    async with World(trunks=[trunk("carrier"), trunk("other")]) as world:
        world.pbx.default = CARRIER_FAILS
        await world.campaign(numbers(20), trunk="other")
        daemon = await world.daemon()
        await world.until(lambda: 'trunk_open{trunk="other"} 0.0' in daemon.metrics.render().decode())
        world.trunks.pop()
        daemon.fate.inside(daemon.engine.take, world.settings())
        assert 'trunk="other"' not in daemon.metrics.render().decode()
        await world.sleep(30)
        assert 'trunk="other"' not in daemon.metrics.render().decode()
