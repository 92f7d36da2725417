"""kill -9 before and after every request of a call: nobody is called twice, nobody is forgotten, no slot is lost."""

from __future__ import annotations

from collections import deque
from itertools import groupby

import pytest

from tests.engine.fate import Fate
from tests.engine.pbx import BUSY, NO_ENDPOINT, RINGS_OUT, Behaviour, answers
from tests.engine.world import BYE, SURVEY, VIRTUAL, World, numbers, rule

pytestmark = VIRTUAL

CHUNKS = 4
WAITS = {"hello": {"type": "wait", "seconds": 300, "next": "bye"}, **BYE}
TALKS = answers(0.5, keys=[(1.5, "1")])
RINGS = RINGS_OUT.but(ends_after=3.0, cause=19, sip_code=480, dial_status="NOANSWER")


async def killed_at(step: int, callee: Behaviour, away_seconds: float) -> bool:
    """One run; False when the call was over before that step."""
    async with World() as world:
        number = numbers(1)[0]
        world.pbx.callees[number] = callee
        again = [rule("RS_ERROR", after=2, times=3)]  # names no extStatus: must not match what a crash leaves
        campaign = await world.campaign([number], flow=SURVEY, rules=again, dialTimeout=15)
        fate = Fate(dies_at=step)
        first = await world.daemon(fate=fate)
        await world.until(lambda: fate.died.is_set() or world.state(campaign) == "COMPLETED")
        if fate.dead:
            await first.kill()
            await world.sleep(away_seconds)
            await world.daemon()
            await world.completed(campaign)
        await world.sleep(1)
        last = fate.steps[-1]
        made = [one for one in world.pbx.originates if one.made]
        assert len(made) <= 1, f"called twice when killed {last}"
        assert world.pbx.rung[number] <= 1
        assert world.statuses(campaign).keys() == {number}, f"forgotten when killed {last}"
        world.check_at_rest(campaign)
        check_flow(world, number, world.statuses(campaign)[number][-1], last)
        return fate.dead


def check_flow(world: World, number: str, status: str, last: str) -> None:
    heard = [medium for medium, _ in groupby(world.pbx.plays[number])]
    order = ["sound:hello", "sound:press", "sound:thanks"]
    assert heard == order[: len(heard)], f"the flow did not go on where it was, killed {last}"
    if "sound:thanks" in heard:
        assert status == "TERMINATED/YES", f"what had been said was lost, killed {last}"


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize(
    ("callee", "away_seconds"),
    [(TALKS, 0.2), (TALKS, 9.0), (BUSY, 0.2), (RINGS, 0.2)],
    ids=["who talks", "who has talked", "busy", "who does not answer"],
)
async def test_a_daemon_killed_at_any_step_of_a_call_leaves_nothing_that_the_next_one_does_not_end(
    callee: Behaviour, away_seconds: float, chunk: int
) -> None:
    step = chunk + 1
    while await killed_at(step, callee, away_seconds):
        step += CHUNKS
    assert step > 8


@pytest.mark.parametrize("steps", [range(1, 6), range(6, 11)], ids=["before the originate", "and after"])
async def test_a_daemon_killed_around_a_refused_originate_leaves_the_contact_to_be_called(steps: range) -> None:
    for step in steps:
        assert await killed_at(step, [NO_ENDPOINT, BUSY], 0.2)


async def test_a_talk_goes_on_at_the_block_recorded_and_the_key_is_heard_by_the_next_daemon() -> None:
    async with World() as world:
        number = numbers(1)[0]
        world.pbx.callees[number] = answers(0.5, keys=[(2.0, "1")])
        campaign = await world.campaign([number], flow=SURVEY)
        first = await world.daemon()
        await world.until(lambda: "sound:press" in world.pbx.plays[number])
        await first.kill()
        await world.daemon()
        await world.completed(campaign)
        assert world.statuses(campaign) == {number: ["TERMINATED/YES"]}
        assert world.pbx.plays[number] == ["sound:hello", "sound:press", "sound:press", "sound:thanks"]
        (result,) = world.results(campaign)
        assert result["values"] == {"answer": "1"}


async def test_a_talk_goes_on_although_commands_wait_for_the_next_daemon() -> None:
    # They made its first look at the campaigns longer than its recovery: the call was adopted without its flow.
    async with World() as world:
        number = numbers(1)[0]
        world.pbx.callees[number] = answers(0.5, keys=[(2.0, "1")])
        campaign = await world.campaign([number], flow=SURVEY)
        other = await world.campaign(numbers(3, 603_000_001), start=False)
        first = await world.daemon()
        await world.until(lambda: "sound:press" in world.pbx.plays[number])
        await first.kill()
        for _ in range(3):
            world.redis.rpush("{dialer}:commands", f'{{"campaign": {other}, "command": "start"}}')
            world.redis.rpush("{dialer}:commands", f'{{"campaign": {other}, "command": "remove"}}')
        await world.daemon()
        await world.completed(campaign)
        assert world.statuses(campaign) == {number: ["TERMINATED/YES"]}


async def test_a_flow_that_had_ended_is_hung_up_by_the_next_daemon() -> None:
    # Its end was recorded, its hang-up not carried out: the line stayed open and silent for an hour.
    async with World() as world:
        campaign = await world.campaign(numbers(1), flow=BYE)
        first = await world.daemon(fate=Fate(dies_on="before hangup"))
        await world.until(lambda: first.fate.dead)
        await first.kill()
        assert world.pbx.channels
        await world.daemon()
        await world.completed(campaign, within=20)
        assert list(world.statuses(campaign).values()) == [["TERMINATED"]]


async def test_who_answers_while_no_daemon_is_there_is_talked_to_by_the_next_one() -> None:
    async with World() as world:
        number = numbers(1)[0]
        world.pbx.callees[number] = answers(4.0, keys=[(2.0, "1")])
        campaign = await world.campaign([number], flow=SURVEY)
        first = await world.daemon()
        await world.sleep(3.5)
        await first.kill()
        await world.sleep(3.0)
        await world.daemon()
        await world.completed(campaign)
        assert world.statuses(campaign) == {number: ["TERMINATED/YES"]}
        assert world.pbx.apologised == []


async def test_who_rings_at_a_start_is_greeted_though_asterisk_has_not_told_yet_how_he_is() -> None:
    # With hundreds to be asked after, those who answered and had little patience heard nothing.
    async with World() as world:
        number = numbers(1)[0]
        world.pbx.callees[number] = answers(4.0, talks=2.0)
        campaign = await world.campaign([number], flow=SURVEY)
        first = await world.daemon()
        await world.until(lambda: world.pbx.originates)
        await world.sleep(world.pbx.originates[0].at + 2.0 - world.at)
        await first.kill()
        world.pbx.hung = True  # for those who ask just now
        await world.daemon()
        await world.sleep(0.5)
        world.pbx.hung = False
        await world.completed(campaign)
        assert world.statuses(campaign) == {number: ["TERMINATED/HANGUP"]}
        assert world.pbx.plays[number][:1] == ["sound:hello"]


async def test_who_comes_to_us_before_his_attempt_is_found_is_greeted_once_it_is() -> None:
    # That he came was told once, while nobody knew of him, and forgotten: he waited for his turn to be asked after.
    async with World() as world:
        number = numbers(1)[0]
        world.pbx.callees[number] = answers(4.0, talks=3.0)
        campaign = await world.campaign([number], flow=SURVEY)
        first = await world.daemon()
        await world.until(lambda: world.pbx.originates)
        answers_at = world.pbx.originates[0].at + 4.0
        await world.sleep(answers_at - 0.3 - world.at)
        await first.kill()
        await world.sleep(answers_at - 0.1 - world.at)
        world.pbx.hung = True  # for those who ask just now
        await world.daemon(fate=Fate(faults=deque([("recover", "before")] * 2)))
        await world.sleep(0.8)
        world.pbx.hung = False
        await world.completed(campaign)
        assert world.statuses(campaign) == {number: ["TERMINATED/HANGUP"]}
        assert world.pbx.plays[number][:1] == ["sound:hello"]


async def test_a_crash_under_load_loses_nobody() -> None:
    async with World() as world:
        for n, number in enumerate(numbers(60)):
            world.pbx.callees[number] = [BUSY, RINGS, answers(1.0, talks=4.0), answers(3.0)][n % 4]
        campaign = await world.campaign(numbers(60), flow=SURVEY, dialTimeout=15, maxChannels=25)
        for seconds in (0.3, 1.0, 2.0, 3.0):
            daemon = await world.daemon()
            await world.sleep(seconds)
            await daemon.kill()
        await world.daemon()
        await world.completed(campaign)
        assert world.statuses(campaign).keys() == set(numbers(60))
        assert max(world.pbx.by_number.values()) == 1
        world.check_at_rest(campaign)


async def test_the_calls_of_a_dead_daemon_are_taken_over_by_another_when_lease_and_heartbeat_are_dead() -> None:
    async with World() as world:
        world.pbx.default = BUSY
        campaign = await world.campaign(numbers(2), maxChannels=1)
        dead = await world.daemon("dead", fate=Fate(dies_on="after mark_sent"))
        await world.until(lambda: dead.fate.dead)
        await dead.kill()
        await world.daemon("alive")
        await world.sleep(100)
        assert len(world.results(campaign)) == 0, "the lease is not over, and the channel is taken"
        await world.completed(campaign, within=60)
        assert sorted(world.statuses(campaign).values()) == [["RS_BUSY"], ["RS_ERROR/UNKNOWN"]]
        world.check_at_rest(campaign)


@pytest.mark.parametrize("ahead", [600.0, -600.0])
async def test_a_daemon_whose_clock_is_wrong_takes_no_calls_of_the_living(ahead: float) -> None:
    async with World() as world:
        world.pbx.default = answers(0.5, talks=60.0)
        campaign = await world.campaign(numbers(2), flow=WAITS)
        await world.daemon("right")
        await world.until(lambda: len(world.pbx.originates) == 2)
        world.ahead["wrong"] = ahead
        wrong = await world.daemon("wrong")
        await world.sleep(40)
        assert wrong.engine.live == 0
        assert world.owners() == {"right"}
        await world.completed(campaign)
        world.check_at_rest(campaign)


async def test_who_reaches_redis_first_after_a_long_outage_takes_no_calls_of_the_living() -> None:
    async with World() as world:
        world.pbx.default = answers(0.5, talks=290.0)
        campaign = await world.campaign(numbers(2), flow=WAITS)
        one = await world.daemon("one")
        await world.until(lambda: len(world.pbx.originates) == 2)
        two = await world.daemon("two")
        await world.sleep(5)
        one.redis.away = two.redis.away = True
        await world.sleep(180)
        two.redis.away = False
        await world.sleep(3)
        one.redis.away = False
        await world.sleep(60)
        assert two.engine.live == 0
        assert world.owners() == {"one"}
        await world.completed(campaign)
        world.check_at_rest(campaign)


@pytest.mark.parametrize("after", [29.9, 29.98, 30.06, 30.14])
async def test_after_a_pause_of_all_hosts_nobody_takes_the_calls_of_another(after: float) -> None:
    """Whoever looks first finds that the others have been silent: as long as he was himself."""
    async with World() as world:
        world.pbx.default = answers(0.5, talks=100.0)
        campaign = await world.campaign(numbers(2), flow=WAITS)
        await world.daemon("one")
        await world.until(lambda: len(world.pbx.originates) == 2)
        two = await world.daemon("two")
        await world.sleep(after)
        world.skip(200)
        await world.sleep(40)
        assert two.engine.live == 0
        assert world.owners() == {"one"}
        await world.completed(campaign)
        world.check_at_rest(campaign)


async def test_a_daemon_whose_clock_goes_back_keeps_its_calls() -> None:
    async with World() as world:
        world.pbx.default = answers(0.5, talks=200.0)
        campaign = await world.campaign(numbers(2), flow=WAITS)
        await world.daemon("wrong")
        await world.until(lambda: len(world.pbx.originates) == 2)
        other = await world.daemon("right")
        world.ahead["wrong"] = -600.0
        await world.sleep(150)
        assert other.engine.live == 0
        assert world.owners() == {"wrong"}
        world.ahead["wrong"] = 0.0
        await world.completed(campaign, within=300)
        world.check_at_rest(campaign)


async def test_what_was_claimed_and_not_sent_is_called_again_though_a_do_not_call_entry_came_meanwhile() -> (
    None
):
    async with World() as world:
        number = numbers(1)[0]
        campaign = await world.campaign([number])
        first = await world.daemon(fate=Fate(dies_on="after claim"))
        await world.until(lambda: first.fate.dead)
        await first.kill()
        await world.forbid(number)
        await world.daemon()
        await world.completed(campaign)
        assert world.statuses(campaign) == {number: ["RS_BLACKLIST/do-not-call"]}
        world.check_at_rest(campaign)


@pytest.mark.parametrize(
    "spoilt",
    [{"phase": "BEYOND"}, {"phase": "SENT", "sent_at": "inf"}, {"attributes": "[1]"}, {"position": "{}"}],
    ids=["phase", "instant", "attributes", "position"],
)
async def test_a_record_that_cannot_be_read_keeps_nobody_from_starting(spoilt: dict[str, str]) -> None:
    # A phase of a later version ended every start of the former one.
    async with World() as world:
        one, other = numbers(2)
        world.pbx.callees[one] = answers(0.5, keys=[(4.0, "1")])
        campaign = await world.campaign([one, other], flow=SURVEY, maxChannels=1)
        first = await world.daemon()
        await world.until(lambda: "sound:hello" in world.pbx.plays[one])
        await first.kill()
        (attempt,) = world.live()
        world.redis.hset(f"{{dialer}}:attempt:{attempt}", mapping=spoilt)
        await world.daemon()
        await world.completed(campaign)
        assert world.pbx.by_number == {one: 1, other: 1}
        assert len(world.statuses(campaign)[one]) == 1
        world.check_at_rest(campaign)
