"""Who is called, in which order, how often and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from dialer_engine.core.model import CampaignId
from tests.engine.pbx import BUSY, NOT_IN_USE, RINGS_OUT, answers
from tests.engine.world import HELLO, SURVEY, VIRTUAL, World, numbers, rule, trunk

pytestmark = VIRTUAL


def gaps(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(sorted(times))]


async def test_every_contact_is_called_once_and_the_campaign_completes() -> None:
    async with World() as world:
        campaign = await world.campaign(numbers(30))
        await world.daemon()
        await world.completed(campaign)
        assert world.pbx.by_number == dict.fromkeys(numbers(30), 1)
        assert set(map(tuple, world.statuses(campaign).values())) == {("TERMINATED",)}
        world.check_at_rest(campaign)


async def test_a_number_that_stands_in_two_lists_is_called_once_and_refused_rows_not_at_all() -> None:
    async with World() as world:
        campaign = await world.campaign([*numbers(3), "112", "no number"], [numbers(1)[0], "-", "603000001"])
        await world.daemon()
        await world.completed(campaign)
        assert world.pbx.by_number == dict.fromkeys([*numbers(3), "603000001"], 1)
        assert world.census(campaign) | {"read": 0} == {
            "read": 0, "refused": 2, "repeats": 1, "closed": 4, "waiting": 0, "live": 0,
        }  # fmt: skip


async def test_lists_are_read_in_the_order_given() -> None:
    async with World() as world:
        world.pbx.default = BUSY
        first, second = numbers(12), numbers(5, 603_000_001)
        campaign = await world.campaign(second, first, maxChannels=1)
        await world.daemon()
        await world.completed(campaign)
        assert [one.number for one in world.pbx.originates] == [*second, *first]


async def test_a_due_redial_goes_before_new_numbers() -> None:
    async with World() as world:
        first, *others = numbers(20)
        world.pbx.callees[first] = [BUSY, answers()]
        world.pbx.default = answers(1.0, talks=1.0)
        campaign = await world.campaign(
            [first, *others], flow=HELLO, rules=[rule("RS_BUSY", after=5)], maxChannels=1
        )
        await world.daemon()
        await world.completed(campaign)
        order = [one.number for one in world.pbx.originates]
        assert len(order) == 21
        again = world.pbx.times()[order.index(first, 1)]
        assert 5 <= again <= 9, "the next call after it fell due"


async def test_a_contact_is_called_again_after_retry_after_up_to_max_attempts() -> None:
    async with World() as world:
        world.pbx.default = BUSY
        campaign = await world.campaign(numbers(1), rules=[rule("RS_BUSY", after=15, times=3)])
        await world.daemon()
        await world.completed(campaign, within=400)
        assert world.statuses(campaign) == {numbers(1)[0]: ["RS_BUSY"] * 4}
        assert gaps(world.pbx.times()) == pytest.approx([15.3] * 3, abs=0.2)
        world.check_at_rest(campaign)


async def test_multiplied_delays_grow_with_the_redials() -> None:
    async with World() as world:
        world.pbx.default = BUSY
        campaign = await world.campaign(
            numbers(1), rules=[rule("RS_BUSY", after=6, times=3, retryMode="multiplied")]
        )
        await world.daemon()
        await world.completed(campaign, within=400)
        assert gaps(world.pbx.times()) == pytest.approx([6.3, 12.3, 18.3], abs=0.2)


async def test_max_total_attempts_caps_all_rules_together() -> None:
    async with World() as world:
        world.pbx.default = BUSY
        world.pbx.callees[numbers(1)[0]] = [BUSY, NOT_IN_USE, BUSY, NOT_IN_USE, BUSY]
        rules = [rule("RS_BUSY", after=2, times=10), rule("RS_NUMBER", after=2, times=10)]
        campaign = await world.campaign(numbers(1), rules=rules, maxTotalAttempts=3)
        await world.daemon()
        await world.completed(campaign)
        assert world.statuses(campaign) == {numbers(1)[0]: ["RS_BUSY", "RS_NUMBER", "RS_BUSY"]}


async def test_a_rule_with_an_ext_status_goes_before_one_without() -> None:
    async with World() as world:
        world.pbx.callees[numbers(1)[0]] = [answers(1.0, keys=[(1.5, "1")]), BUSY]
        rules = [rule("TERMINATED", after=50), rule("TERMINATED", after=5, extStatus="YES")]
        campaign = await world.campaign(numbers(1), flow=SURVEY, rules=rules)
        await world.daemon()
        await world.completed(campaign)
        assert world.statuses(campaign) == {numbers(1)[0]: ["TERMINATED/YES", "RS_BUSY"]}
        assert gaps(world.pbx.times())[0] < 20


async def test_an_unanswered_ring_is_ended_by_the_dial_timeout() -> None:
    async with World() as world:
        world.pbx.default = RINGS_OUT
        campaign = await world.campaign(numbers(3), dialTimeout=20)
        await world.daemon()
        await world.completed(campaign)
        assert set(map(tuple, world.statuses(campaign).values())) == {("RS_NOANSWER",)}
        assert world.at == pytest.approx(20.5, abs=1.5)


async def test_a_callee_who_opts_out_is_never_called_again() -> None:
    async with World() as world:
        world.pbx.default = answers(1.0, keys=[(1.5, "9")])
        one = await world.campaign(numbers(1), flow=SURVEY, rules=[rule("TERMINATED", after=1, times=5)])
        await world.daemon()
        await world.completed(one)
        assert world.statuses(one) == {numbers(1)[0]: ["TERMINATED", "RS_BLACKLIST/opt-out in a call"]}
        assert len(world.pbx.originates) == 1


# --- limits ---


@pytest.mark.parametrize("limit", [1, 3, 7])
async def test_max_channels_are_used_and_never_exceeded(limit: int) -> None:
    async with World() as world:
        campaign = await world.campaign(numbers(8 * limit), maxChannels=limit)
        await world.daemon()
        await world.completed(campaign)
        assert world.pbx.most["carrier"] == limit
        world.check_at_rest(campaign)


async def test_the_capacity_of_a_trunk_binds_all_its_campaigns_and_daemons_together() -> None:
    async with World(trunks=[trunk(capacity=5)]) as world:
        campaigns = [await world.campaign(numbers(12, 602_000_001 + 100 * n)) for n in range(3)]
        await world.daemon()
        await world.daemon("twin")
        await world.completed(*campaigns)
        assert world.pbx.most["carrier"] == 5
        assert world.pbx.by_number.total() == len(world.pbx.by_number) == 36
        world.check_at_rest(*campaigns)


async def test_a_full_trunk_is_shared_in_proportion_to_priority() -> None:
    async with World(trunks=[trunk(capacity=20)]) as world:
        world.pbx.default = RINGS_OUT
        low = await world.campaign(numbers(100), priority=10, dialTimeout=15)
        high = await world.campaign(numbers(100, 603_000_001), priority=30, dialTimeout=15)
        await world.daemon()
        await world.until(lambda: len(world.live()) == 20)
        live = {one: len(world.redis.smembers(world.key(one, "live"))) for one in (low, high)}
        assert live[low] in (5, 6), "each freed channel is dealt out by itself, so it may be rounded"
        assert sum(live.values()) == 20


@pytest.mark.parametrize("rate", [0.5, 3.0, 10.0, 60.0, 130.0])
async def test_a_trunk_rate_spaces_its_calls_evenly_and_is_reached(rate: float) -> None:
    async with World(trunks=[trunk(rate=rate)]) as world:
        world.pbx.default = BUSY.but(ends_after=0.05)  # as quick as trust in a new trunk grows
        count = min(100, int(20 * rate))
        halves = [await world.campaign(numbers(count // 2, 602_000_001 + 1000 * n)) for n in range(2)]
        await world.daemon()
        await world.completed(*halves)
        times = world.pbx.times()
        assert min(gaps(times)) > 1 / rate - 0.000_1
        steady = times[len(times) // 2 :]  # few calls at first: the trunk has to show that it works
        assert len(steady) / (steady[-1] - steady[0] + 1 / rate) > 0.85 * rate


@pytest.mark.parametrize("seconds", [0.005, 0.05, 0.3])
async def test_a_slow_redis_does_not_bunch_the_calls(seconds: float) -> None:
    # The claim's answer came after the slots that had been counted from the beginning of the pass.
    async with World(trunks=[trunk(rate=100.0)]) as world:
        world.pbx.default = BUSY
        campaign = await world.campaign(numbers(60))
        daemon = await world.daemon()
        daemon.redis.seconds = seconds
        await world.completed(campaign)
        assert min(gaps(world.pbx.times())) > 0.009


async def test_both_rates_hold_when_a_campaign_has_one_of_its_own() -> None:
    async with World(trunks=[trunk(rate=20.0)]) as world:
        world.pbx.default = BUSY
        slow = await world.campaign(numbers(20), callsPerSecond=4.0)
        fast = await world.campaign(numbers(60, 603_000_001))
        await world.daemon()
        await world.completed(slow, fast)
        of_slow = [one.at for one in world.pbx.originates if one.number < "603"]
        assert min(gaps(of_slow)) > 0.249
        assert min(gaps(world.pbx.times())) > 0.049


async def test_a_campaign_with_a_rate_of_its_own_takes_no_slots_of_the_trunk_from_the_others() -> None:
    # The slots between the trunk's next one and its own went unused: a third of them, behind a Redis of 50 ms.
    async with World(trunks=[trunk(rate=20.0, capacity=1000)]) as world:
        world.pbx.default = BUSY
        await world.campaign(numbers(200), callsPerSecond=5.0)
        await world.campaign(numbers(500, 603_000_001))
        daemon = await world.daemon()
        daemon.redis.seconds = 0.05
        await world.sleep(2)
        before = len(world.pbx.originates)
        await world.sleep(10)
        assert len(world.pbx.originates) - before > 10 * 20 * 0.8
        assert min(gaps(world.pbx.times())) > 0.049


@pytest.mark.parametrize("rate", [10, None])
async def test_a_rate_that_is_raised_holds_at_once(rate: float | None) -> None:
    # The next call waited for the slot of the former rate; without one, all that might start now waited, claimed.
    async with World() as world:
        campaign = await world.campaign(numbers(20), callsPerSecond=0.02)
        await world.daemon()
        await world.until(lambda: world.pbx.originates)
        await world.sleep(1)
        await world.edit(campaign, callsPerSecond=rate)
        await world.completed(campaign, within=10)


async def test_pausing_and_going_on_does_not_shorten_the_distance_between_calls() -> None:
    async with World() as world:
        world.pbx.default = BUSY
        campaign = await world.campaign(numbers(6), callsPerSecond=0.5)
        await world.daemon()
        await world.until(lambda: len(world.pbx.originates) == 2)
        await world.command(campaign, "pause")
        await world.sleep(0.1)
        await world.command(campaign, "unpause")
        await world.completed(campaign)
        assert min(gaps(world.pbx.times())) > 1.999


async def test_one_number_in_two_campaigns_has_one_live_call_at_a_time() -> None:
    async with World() as world:
        world.pbx.default = answers(2.0, talks=5.0)
        flow = {"stay": {"type": "wait", "seconds": 30, "next": "bye"}, "bye": {"type": "hangup"}}
        campaigns = [await world.campaign(numbers(3), flow=flow) for _ in range(2)]
        await world.daemon()
        most = 0
        while {world.state(one) for one in campaigns} != {"COMPLETED"}:
            await world.sleep(0.05)
            live = [one.number for one in world.pbx.channels.values()]
            most = max([most, *map(live.count, live)])
        assert most == 1
        assert world.pbx.by_number == dict.fromkeys(numbers(3), 2)
        world.check_at_rest(*campaigns)


async def test_two_daemons_share_a_list_and_nobody_is_called_twice() -> None:
    async with World() as world:
        campaign = await world.campaign(numbers(40), maxChannels=4)
        await world.daemon("one")
        await world.daemon("two")
        await world.completed(campaign)
        assert world.pbx.by_number == dict.fromkeys(numbers(40), 1)
        assert world.pbx.most["carrier"] == 4
        world.check_at_rest(campaign)


async def test_an_api_fed_campaign_waits_for_more() -> None:
    async with World() as world:
        rows = await world.a_list([])
        campaign = await world.campaign(rows, whenDone="wait")
        await world.daemon()
        for row in numbers(3):
            await world.sleep(10)
            await world.append(rows, [row])
            appended = world.at
            await world.until(lambda row=row: row in world.pbx.by_number)  # type: ignore[misc]
            assert world.at - appended < 1.7
        await world.sleep(5)
        assert world.state(CampaignId(campaign)) == "RUNNING"
        assert world.limit(campaign) == "IDLE"


async def test_a_struck_out_row_is_not_called_though_it_was_held_ready() -> None:
    async with World() as world:
        one, two, three = numbers(3)
        rows = await world.a_list([one, two, three])
        campaign = await world.campaign(rows, maxChannels=1)
        await world.daemon()
        await world.until(lambda: one in world.pbx.by_number)
        await world.store.lists.strike_out(rows, three, lambda number: number == three)
        world.wake()
        await world.completed(campaign)
        assert set(world.pbx.by_number) == {one, two}
        world.check_at_rest(campaign)


async def test_a_struck_out_row_is_not_called_though_so_many_are_held_that_none_is_read_again() -> None:
    async with World() as world:
        listed = numbers(150)
        rows = await world.a_list(listed)
        campaign = await world.campaign(rows, maxChannels=1)
        await world.daemon()
        await world.until(lambda: listed[0] in world.pbx.by_number)
        gone = listed[3]
        await world.store.lists.strike_out(rows, gone, gone.__eq__)
        await world.until(lambda: listed[5] in world.pbx.by_number)
        assert gone not in world.pbx.by_number
        await world.edit(campaign, maxChannels=50)
        await world.completed(campaign)
        assert world.pbx.by_number == dict.fromkeys([one for one in listed if one != gone], 1)
        assert world.census(campaign)["closed"] == 150
        world.check_at_rest(campaign)


async def test_a_list_spoilt_while_its_rows_are_held_stops_no_other_campaign() -> None:
    async with World() as world:
        rows = await world.a_list(numbers(150))
        spoilt = await world.campaign(rows, maxChannels=1)
        campaign = await world.campaign(numbers(20, first=603_000_001), maxChannels=1)
        daemon = await world.daemon()
        await world.until(lambda: len(world.pbx.originates) > 2)
        world.redis.delete(f"{{dialer:list:{rows}}}:rows:1")
        world.redis.set(f"{{dialer:list:{rows}}}:rows:1", "another program's")
        at = world.at
        await world.completed(campaign)
        assert world.at - at < 60
        assert daemon.engine.why_not_ready() is None
        assert world.state(spoilt) == "RUNNING"


async def test_a_redial_does_not_wait_until_a_long_list_without_contacts_is_read() -> None:
    # What was due by then was looked for with the instant at which the reading had begun.
    async with World() as world:
        number = numbers(1)[0]
        world.pbx.default = BUSY
        rows = [f"no number {n}" for n in range(20_000)]
        campaign = await world.campaign([number], rows, rules=[rule("RS_BUSY", after=1)])
        daemon = await world.daemon()
        daemon.redis.seconds = 0.1
        await world.until(lambda: world.pbx.originates)
        await world.until(lambda: len(world.pbx.originates) == 2, within=4)
        assert int(world.redis.hget(world.key(campaign, "run"), "refused")) < len(rows)
