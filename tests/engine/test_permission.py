"""Nobody is called who must not be, nor when he must not be: checked at the instant of the originate."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from dialer_engine.engine.engine import FLOOR_SECONDS
from dialer_engine.store.records import DoNotCall
from tests.engine.pbx import BUSY, RINGS_OUT, answers
from tests.engine.world import ALWAYS, VIRTUAL, World, numbers, period, rule, trunk

pytestmark = VIRTUAL

PRAGUE = ZoneInfo("Europe/Prague")


def local(world: World) -> list[datetime]:
    """When calls went out, by the clock on the wall of the callee; for runs without skips after the first."""
    return [world.wall(at).astimezone(PRAGUE) for at in world.pbx.times()]


# --- the active period ---


async def test_nothing_is_originated_before_the_period_opens_and_the_first_call_is_on_the_second() -> None:
    async with World("2026-01-13T08:59:50+01:00") as world:
        campaign = await world.campaign(numbers(3), activePeriod=period("09:00", "17:00"))
        await world.daemon()
        await world.sleep(5)
        assert world.limit(campaign) == "OUT_OF_PERIOD"
        await world.completed(campaign)
        assert 10.0 <= world.pbx.times()[0] < 10.1


@pytest.mark.parametrize("rate", [None, 40.0, 7.0])
@pytest.mark.parametrize("redis_seconds", [0.001, 0.04])
async def test_nothing_is_originated_after_the_period_has_ended_under_load(
    rate: float | None, redis_seconds: float
) -> None:
    async with World("2026-01-13T16:59:57+01:00", trunks=[trunk(rate=rate)]) as world:
        world.pbx.default = BUSY.but(ends_after=0.05)
        campaign = await world.campaign(numbers(2000), activePeriod=period("09:00", "17:00"), maxChannels=9)
        daemon = await world.daemon()
        daemon.redis.seconds = redis_seconds
        await world.sleep(6)
        assert len(world.pbx.originates) > 10
        # The last twentieth of a second is left free, and before it the next slot, or the next turn of channels that
        # are full, may just not fit: a claim, a mark, a call and a settlement.
        turn = 0.05 + 3 * redis_seconds + FLOOR_SECONDS
        last_slot = 2.95 - (1 / rate if rate else 0.0) - turn
        assert last_slot < world.pbx.last_at() < 3.0, "dialed up to the end and no further"
        assert world.limit(campaign) == "OUT_OF_PERIOD"
        world.check_at_rest(campaign)


async def test_a_call_that_has_begun_goes_on_after_the_end_of_the_period() -> None:
    async with World("2026-01-13T16:59:55+01:00") as world:
        world.pbx.default = answers(20.0)
        campaign = await world.campaign(numbers(2), activePeriod=period("09:00", "17:00"))
        await world.daemon()
        await world.sleep(30)
        assert set(map(tuple, world.statuses(campaign).values())) == {("TERMINATED",)}


async def test_a_redial_that_falls_due_outside_waits_for_the_next_period() -> None:
    async with World("2026-01-13T16:59:50+01:00") as world:
        world.pbx.default = BUSY
        campaign = await world.campaign(
            numbers(2), activePeriod=period("09:00", "17:00"), rules=[rule("RS_BUSY", after=60)]
        )
        await world.daemon()
        await world.sleep(100)
        assert len(world.pbx.originates) == 2
        world.skip_to("2026-01-14T08:59:58+01:00")
        await world.completed(campaign)
        assert [at.hour for at in local(world)[2:]] == [9, 9]


async def test_a_period_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    async with World("2026-01-13T23:59:58+01:00") as world:  # from Tuesday to Wednesday
        world.pbx.default = BUSY
        rows = await world.a_list([])
        campaign = await world.campaign(rows, activePeriod=period("22:00", "02:00", [2]), whenDone="wait")
        await world.daemon()

        async def is_dialed(number: str) -> bool:
            await world.append(rows, [number])
            await world.sleep(2.5)
            return number in world.pbx.by_number

        one, two, three, four, five = numbers(5)
        assert await is_dialed(one)
        world.skip_to("2026-01-14T01:59:56+01:00")
        assert await is_dialed(two)
        world.skip_to("2026-01-14T02:00:00+01:00")
        assert not await is_dialed(three)
        world.skip_to("2026-01-14T22:30:00+01:00")  # Wednesday
        assert not await is_dialed(four)
        world.skip_to("2026-01-20T22:00:00+01:00")
        assert await is_dialed(five)
        assert world.pbx.by_number == dict.fromkeys(numbers(5), 1)
        assert world.state(campaign) == "RUNNING"


async def test_the_hour_repeated_in_autumn_is_dialed_both_times() -> None:
    async with World("2026-10-25T01:59:58+02:00") as world:
        world.pbx.default = BUSY.but(ends_after=0.5)
        campaign = await world.campaign(numbers(500), activePeriod=period("02:00", "03:00"), maxChannels=1)
        await world.daemon()
        calls = []
        for instant in ("02:00:00+02:00", "02:59:58+02:00", "02:59:58+01:00", "03:30:00+01:00"):
            before = len(world.pbx.originates)
            await world.sleep(4)
            calls.append(len(world.pbx.originates) - before)
            world.skip_to(f"2026-10-25T{instant}")
        before_it, first_begins, between_the_two, last_ends = calls
        assert 2 <= before_it <= 4  # from its first second on
        assert first_begins >= 6
        assert between_the_two >= 6, "no gap where the hour begins again"
        assert 2 <= last_ends <= 4
        await world.sleep(2)
        assert world.limit(campaign) == "OUT_OF_PERIOD"


async def test_the_hour_skipped_in_spring_is_never_dialed() -> None:
    async with World("2026-03-29T01:59:57+01:00") as world:
        world.pbx.default = BUSY
        skipped = await world.campaign(numbers(5), activePeriod=period("02:00", "03:00"))
        around = await world.campaign(
            numbers(500, 603_000_001), activePeriod=period("01:00", "03:30"), maxChannels=1
        )
        await world.daemon()
        await world.sleep(6)
        assert [one for one in world.pbx.originates if one.number < "603"] == []
        assert {at.hour for at in local(world)} == {1, 3}
        assert world.limit(skipped) == "OUT_OF_PERIOD"
        assert world.limit(around) != "OUT_OF_PERIOD"


async def test_an_edited_period_closes_at_once() -> None:
    async with World() as world:
        world.pbx.default = BUSY
        campaign = await world.campaign(numbers(500), maxChannels=2)
        await world.daemon()
        await world.sleep(3)
        await world.edit(campaign, activePeriod=period("11:00", "12:00"))
        edited = world.at
        await world.sleep(5)
        assert world.pbx.last_at() < edited + 0.1
        assert world.limit(campaign) == "OUT_OF_PERIOD"
        await world.edit(campaign, activePeriod=ALWAYS)
        await world.sleep(1)
        assert world.pbx.last_at() > edited + 5


# --- do-not-call ---


async def test_a_number_forbidden_while_it_waits_is_not_called_and_recorded() -> None:
    async with World() as world:
        one, two, three = numbers(3)
        campaign = await world.campaign([one, two, three], maxChannels=1)
        await world.daemon()
        await world.until(lambda: one in world.pbx.by_number)
        await world.forbid(three, reason="complaint")
        await world.completed(campaign)
        assert world.statuses(campaign)[three] == ["RS_BLACKLIST/complaint"]
        assert three not in world.pbx.by_number
        assert world.ledger.settled.total() == 3
        world.check_at_rest(campaign)


async def test_a_number_forbidden_between_its_claim_and_its_turn_is_not_called() -> None:
    async with World(trunks=[trunk(rate=25.0)]) as world:
        campaign = await world.campaign(numbers(10))
        await world.daemon()
        await world.until(lambda: len(world.pbx.originates) >= 3)
        while not (reserved := world.live() - {one.id for one in world.pbx.originates}):
            await world.sleep(0.001)
        number = world.redis.hget(f"{{dialer}}:attempt:{min(reserved)}", "number")
        await world.forbid(number)
        await world.completed(campaign)
        assert number not in world.pbx.by_number
        assert world.statuses(campaign)[number] == ["RS_BLACKLIST/do-not-call"]
        world.check_at_rest(campaign)


async def test_a_number_allowed_again_between_its_claim_and_its_turn_is_not_called_either() -> None:
    # The claim had found it forbidden; the second look did not, and the call went out unsupervised.
    async with World(trunks=[trunk(rate=0.5)]) as world:
        one, two = numbers(2)
        campaign = await world.campaign([one, two])
        await world.forbid(two, until=world.epoch() + 2.04)
        await world.daemon()
        await world.completed(campaign)
        assert world.pbx.by_number == {one: 1}
        assert world.statuses(campaign)[two] == ["RS_BLACKLIST/do-not-call"]
        world.check_at_rest(campaign)


async def test_a_number_forbidden_for_one_campaign_is_called_by_another() -> None:
    async with World() as world:
        one, other = [await world.campaign(numbers(1)) for _ in range(2)]
        await world.store.do_not_call.add(DoNotCall(numbers(1)[0]), campaign=one)
        await world.daemon()
        await world.completed(one, other)
        assert list(world.statuses(one).values()) == [["RS_BLACKLIST/do-not-call"]]
        assert list(world.statuses(other).values()) == [["TERMINATED"]]


# --- stop everything ---


@pytest.mark.parametrize("rate", [None, 15.0])
async def test_stop_everything_stops_within_a_tenth_of_a_second_and_live_calls_go_on(
    rate: float | None,
) -> None:
    async with World(trunks=[trunk(rate=rate)]) as world:
        world.pbx.default = answers(1.0)
        campaign = await world.campaign(numbers(400), maxChannels=20)
        await world.daemon()
        await world.sleep(3.02)
        await world.stop_everything()
        stopped, live = world.at, len(world.pbx.channels)
        assert live > 5
        await world.sleep(10)
        assert world.pbx.last_at() < stopped + 0.1
        assert world.limit(campaign) == "STOPPED"
        assert {status for each in world.statuses(campaign).values() for status in each} == {"TERMINATED"}
        world.check_at_rest(campaign)
        await world.store.resume(by="test", now=world.epoch())
        world.wake()
        await world.sleep(1)
        assert world.pbx.last_at() > stopped + 10


async def test_a_stop_without_a_wake_up_still_stops_at_the_originate() -> None:
    async with World() as world:
        world.pbx.default = RINGS_OUT.but(ends_after=0.1, cause=17, dial_status="BUSY")
        campaign = await world.campaign(numbers(500), maxChannels=3)
        await world.daemon()
        await world.sleep(2.3)
        world.redis.set("{dialer}:stop", "by hand")
        stopped = world.at
        await world.sleep(3)
        assert world.pbx.last_at() < stopped + 0.01
        world.check_at_rest(campaign)
