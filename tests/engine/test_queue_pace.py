"""How many calls a campaign for a queue starts: never one that the free agents do not warrant, and none too late."""

from __future__ import annotations

import bisect
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest

from dialer_engine.core.model import CampaignId, QueueName
from dialer_engine.core.told import Rules
from tests.engine.fate import Fate
from tests.engine.pbx import BUSY, RINGS_OUT, Callee, answers
from tests.engine.test_queues import AGENT, MESSAGE
from tests.engine.world import VIRTUAL, World, numbers

pytestmark = VIRTUAL

SECOND_LIST = 603_000_001


@dataclass
class Judge:
    """Looks at every originate: unserved before it + 1 <= floor(available x boost), and nobody's agent is another's.

    `campaigns`: the numbers of each, its queue and its boost.
    """

    world: World
    campaigns: Sequence[tuple[Sequence[str], str, str]]
    wrong: list[str] = field(default_factory=list)
    margins: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world.pbx.asked.append(self.look)

    def look(self, number: str) -> None:
        centre, held = self.world.centre, 0
        for calls, queue, boost in self.campaigns:
            unserved, free = self._unserved(calls) + (number in calls), len(centre.free(queue))
            agents = int(-(-unserved // Fraction(boost)))
            held += agents if number in calls else min(agents, free)
            if number in calls:
                self.margins.append(int(free * Fraction(boost)) - unserved)
        spare = len(centre.free(*(queue for _, queue, _ in self.campaigns))) - held
        if self.margins[-1] < 0 or spare < 0:
            self.wrong.append(
                f"{number} at {self.world.at:.3f}: margin {self.margins[-1]}, agents to spare {spare}"
            )

    def _unserved(self, calls: Sequence[str]) -> int:
        return sum(
            channel.number in calls and self._is_unserved(id_)
            for id_, channel in self.world.pbx.channels.items()
        )

    def _is_unserved(self, channel: str) -> bool:
        caller = self.world.centre.callers.get(channel)
        if caller is not None:
            return caller.rung is None and caller.talks_to is None
        return all(channel != served for _, served, _ in self.world.centre.connected)


async def queue_campaign(
    world: World, calls: Sequence[str], *, queue: str = "green", boost: float = 1, most: int = 2, **fields: Any
) -> CampaignId:
    endpoint = {"type": "queue", "queue": queue, "boostFactor": boost, "maxWaitingCalls": most}
    return await world.campaign(calls, flow=fields.pop("flow", AGENT), endpoint=endpoint, **fields)


def judge_of(world: World, calls: Sequence[str], boost: str = "1") -> Judge:
    return Judge(world, [(calls, "green", boost)])


async def test_there_are_as_many_calls_as_free_agents() -> None:
    async with World() as world:
        world.pbx.default = answers(4.0)
        world.centre.log_in("Eva", "Jan", "Ota", talks=30.0)
        judge = judge_of(world, numbers(20))
        campaign = await queue_campaign(world, numbers(20))
        await world.daemon()
        await world.sleep(3)
        assert len(world.pbx.originates) == 3
        assert world.limit(campaign) == "WAITING_AGENTS"
        await world.sleep(10)
        assert len(world.pbx.originates) == 3, "all of them talk"
        assert judge.wrong == []


async def test_the_boost_makes_them_more_and_no_fraction_is_carried() -> None:
    async with World() as world:
        world.pbx.default = RINGS_OUT
        world.centre.log_in(*map(str, range(9)))
        judge = judge_of(world, numbers(40), "1.4")
        await queue_campaign(world, numbers(40), boost=1.4)
        await world.daemon()
        await world.sleep(3)
        assert len(world.pbx.originates) == 12
        assert (judge.wrong, min(judge.margins)) == ([], 0)


@pytest.mark.parametrize("wrap_up", [0.0, 2.0])
async def test_an_agent_who_gets_free_has_a_line_ringing_at_once(wrap_up: float) -> None:
    async with World() as world:
        world.centre.rules[QueueName("green")] = Rules(wrap_up_seconds=wrap_up)
        world.pbx.default = answers(0.5)
        world.centre.log_in("Eva", talks=3.37)
        judge = judge_of(world, numbers(20))
        campaign = await queue_campaign(world, numbers(20))
        await world.daemon()
        await world.completed(campaign, within=300)
        freed, begun = world.centre.freed[1:-1], world.pbx.times()
        late = [begun[bisect.bisect_left(begun, at)] - at for at in freed]
        assert len(late) > 15
        assert max(late) < 0.025, "the floor between two passes, and the way to Redis"
        assert sorted(late)[len(late) // 2] < 0.012
        assert judge.wrong == []


async def test_a_call_that_comes_to_nothing_makes_room_at_once() -> None:
    async with World() as world:
        world.pbx.default = BUSY
        world.centre.log_in("Eva")
        judge = judge_of(world, numbers(20))
        campaign = await queue_campaign(world, numbers(20))
        await world.daemon()
        await world.completed(campaign)
        assert world.at < 20 * (0.3 + 0.03) + 2
        assert judge.wrong == []


async def test_an_agent_who_pauses_between_the_claim_and_the_call_stops_it() -> None:
    """Three were claimed ahead of their slots; two agents go. The contacts that are given back are called later."""
    async with World() as world:
        world.pbx.default = answers(8.0)
        eva, jan, _ = world.centre.log_in("Eva", "Jan", "Ota", talks=5.0)
        judge = judge_of(world, numbers(3))
        campaign = await queue_campaign(world, numbers(3), callsPerSecond=12)
        await world.daemon()
        await world.until(lambda: len(world.pbx.originates) == 1, every=0.002)
        assert len(world.live()) > 1, "others wait for their slots"
        world.centre.pause(eva)
        world.centre.pause(jan)
        await world.sleep(3)
        assert len(world.pbx.originates) == 1
        assert len(world.live()) == 1
        world.centre.pause(eva, False)
        world.centre.pause(jan, False)
        await world.completed(campaign)
        assert judge.wrong == []
        assert world.pbx.by_number == dict.fromkeys(numbers(3), 1)
        world.check_at_rest(campaign)


async def test_what_rings_when_agents_go_rings_on_and_nothing_is_added() -> None:
    async with World() as world:
        world.pbx.default = answers(8.0)
        people = world.centre.log_in(*map(str, range(4)), talks=60.0)
        judge = judge_of(world, numbers(20))
        await queue_campaign(world, numbers(20))
        await world.daemon()
        await world.sleep(3)
        for person in people[1:]:
            world.centre.pause(person)
        await world.sleep(4)
        assert len(world.pbx.channels) == 4
        for person in people[1:3]:
            world.centre.pause(person, False)
        await world.sleep(4)
        assert len(world.pbx.originates) == 4
        assert (judge.wrong, world.pbx.cut, world.pbx.torn) == ([], [], [])


async def test_who_is_offered_to_nobody_any_more_needs_an_agent_though_the_end_is_told_a_moment_later() -> None:
    """The telephone is idle again some 100 ms before AgentRingNoAnswer; the queue looks for another a while later."""
    async with World() as world:
        world.pbx.default, world.centre.refusal_seconds, world.centre.retry_seconds = answers(1.0), 0.1, 5.0
        world.centre.log_in("Eva", answers_after=None)
        await queue_campaign(world, numbers(3))
        judge = judge_of(world, numbers(3))
        await world.daemon()
        await world.until(lambda: any(caller.rung for caller in world.centre.callers.values()))
        await world.sleep(16.0)
        (caller,) = world.centre.callers.values()
        assert caller.rung is None and world.centre.free("green") == {"Eva"}
        assert (len(world.pbx.originates), judge.wrong) == (1, [])


async def test_a_caller_who_is_sent_to_a_queue_again_needs_an_agent_again() -> None:
    flow = {**AGENT, "agent": {**AGENT["agent"], "next": "more"}, "more": AGENT["agent"]}
    async with World() as world:
        world.pbx.default, world.centre.retry_seconds = answers(1.0, talks=40.0), 5.0
        world.centre.rules[QueueName("green")] = Rules(wrap_up_seconds=2.0)
        world.centre.log_in("Eva", talks=5.0)
        await queue_campaign(world, numbers(2), flow=flow)
        judge = judge_of(world, numbers(2))
        await world.daemon()
        await world.until(lambda: len(world.centre.connected) == 2)
        assert len(world.centre.joined) == 2
        assert (len(world.pbx.originates), judge.wrong) == (1, [])


async def test_a_campaign_that_is_given_another_queue_keeps_the_agents_of_the_former_for_its_calls() -> None:
    async with World() as world:
        world.pbx.default = answers(5.0)
        world.centre.log_in("Eva", answers_after=None)
        world.centre.log_in("Bob", queue="blue")
        one = await queue_campaign(world, numbers(2))
        await world.daemon()
        await world.until(lambda: world.pbx.originates)
        await world.edit(one, endpoint={"type": "queue", "queue": "blue", "boostFactor": 1})
        two = await queue_campaign(world, numbers(3, first=SECOND_LIST))
        await world.sleep(3)
        assert [each.number for each in world.pbx.originates] == numbers(2), "one for Eva, one for Bob"
        assert (world.limit(one), world.limit(two)) == ("DIALING", "WAITING_AGENTS")


async def test_a_queue_that_is_full_of_others_gets_no_calls() -> None:
    async with World() as world:
        world.pbx.default = answers(2.0)
        world.centre.log_in("Eva", queue="green")
        (away,) = world.centre.log_in("Jan", queue="blue")
        world.centre.pause(away)
        world.pbx.call_in("blue", stays=10.0)
        world.pbx.call_in("blue", stays=20.0)
        world.centre.log_in("Ota", queue="green")
        campaign = await queue_campaign(world, numbers(3), queue="blue", most=2)
        await world.daemon()
        world.centre.people[-1].queues = ("green",)
        await world.sleep(4)
        assert world.limit(campaign) == "QUEUE_FULL"
        assert world.pbx.originates == []


@pytest.mark.parametrize("loss", ["lose", "fall_silent"])
async def test_without_ami_nothing_starts_after_three_seconds_and_what_lives_goes_on(loss: str) -> None:
    async with World() as world:
        world.pbx.default = BUSY
        world.pbx.callees[numbers(1)[0]] = answers(0.5)
        world.centre.log_in("Eva", talks=30.0)
        world.centre.log_in("Jan")
        campaign = await queue_campaign(world, numbers(400))
        daemon = await world.daemon()
        await world.until(lambda: world.centre.connected)
        await world.sleep(5)
        assert daemon.manager is not None
        getattr(daemon.manager, loss)()
        lost_at = world.at
        await world.sleep(10)
        assert max(world.pbx.times()) <= lost_at + (3.0 if loss == "fall_silent" else 0.0)
        assert world.limit(campaign) == "STALE_QUEUE_DATA"
        assert len(world.pbx.channels) == 1, "she talks on"
        daemon.manager.connect()
        await world.sleep(1)
        assert max(world.pbx.times()) > lost_at + 10
        assert world.pbx.torn == []


async def test_without_any_ami_a_campaign_for_a_queue_waits() -> None:
    async with World() as world:
        world.centre.log_in("Eva")
        campaign = await queue_campaign(world, numbers(3))
        await world.daemon(ami=False)
        await world.sleep(5)
        assert world.limit(campaign) == "STALE_QUEUE_DATA"
        assert world.pbx.originates == []


async def test_a_queue_is_found_whatever_the_case_as_asterisk_finds_it() -> None:
    async with World() as world:
        world.pbx.default = answers(1.0)
        world.centre.rules[QueueName("Green")] = Rules(wrap_up_seconds=3.0)
        world.centre.log_in("Eva", queue="Green")
        one = await queue_campaign(world, numbers(1), queue="green")
        two = await queue_campaign(world, numbers(1, first=SECOND_LIST), queue="GREEN")
        await world.daemon()
        await world.until(lambda: world.pbx.originates)
        await world.sleep(0.5)
        assert len(world.pbx.originates) == 1, "Eva is one agent"
        await world.completed(one)
        await world.completed(two)
        assert [result["agent"] for each in (one, two) for result in world.results(each)] == ["Eva", "Eva"]


async def test_a_queue_that_the_pbx_does_not_have_is_waited_for() -> None:
    async with World() as world:
        world.centre.log_in("Eva")
        campaign = await queue_campaign(world, numbers(3), queue="nowhere")
        await world.daemon()
        await world.sleep(5)
        assert world.limit(campaign) == "STALE_QUEUE_DATA"
        world.centre.log_in("Jan", queue="nowhere")
        await world.sleep(1)
        assert world.pbx.originates


def a_callee(dice: random.Random) -> Callee:
    kinds = (
        answers(dice.uniform(0.3, 6)),
        answers(dice.uniform(0.3, 6), talks=dice.uniform(0.1, 8)),
        BUSY,
        RINGS_OUT.but(ends_after=dice.uniform(1, 9), cause=19, sip_code=480, dial_status="NOANSWER"),
    )
    return dice.choice(kinds)


def somebody_does_something(world: World, dice: random.Random, queues: Sequence[str]) -> None:
    centre = world.centre
    person = dice.choice(centre.people)
    match dice.randrange(6):
        case 0 | 1:
            centre.pause(person, not person.paused)
        case 2 if not person.in_call and centre.free(*person.queues) >= {person.name}:
            centre.call_directly(person, dice.uniform(0.5, 5))
        case 3:
            world.pbx.call_in(dice.choice(queues), dice.uniform(0.5, 6))
        case 4 if person.name in centre.free(*person.queues):
            centre.log_off(person)
            centre.log_in(person.name, queue=person.queues, talks=dice.uniform(0.5, 6))
        case _:
            person.talks = dice.uniform(0.5, 6)


@pytest.mark.parametrize("seed", range(2))
async def test_the_rule_holds_at_every_originate_whatever_agents_and_callees_do(seed: int) -> None:
    dice = random.Random(seed)
    async with World() as world:
        boost = dice.choice(["1", "1.4", "2", "0.7"])
        calls = numbers(30)
        world.pbx.callees = {number: a_callee(dice) for number in calls}
        world.centre.rules[QueueName("green")] = Rules(wrap_up_seconds=dice.choice([0.0, 1.5]))
        for n in range(5):
            world.centre.log_in(
                str(n), answers_after=dice.choice([0.05, 3.0, None]) if n else 0.05, talks=dice.uniform(0.5, 6)
            )
        judge = judge_of(world, calls, boost)
        rate: dict[str, Any] = {"callsPerSecond": 3} if seed % 2 else {}
        campaign = await queue_campaign(
            world, calls, boost=float(boost), flow=dice.choice([AGENT, MESSAGE]), most=5, **rate
        )
        await world.daemon()
        while world.state(campaign) != "COMPLETED" and world.at < 600:
            await world.sleep(dice.uniform(0.05, 1.0))
            somebody_does_something(world, dice, ["green"])
            if dice.random() < 0.1:
                for person in world.centre.people:
                    world.centre.pause(person, False)
        assert world.state(campaign) == "COMPLETED"
        assert judge.wrong == []
        check_books(world, campaign)


@pytest.mark.parametrize("seed", range(2))
async def test_agents_of_two_queues_and_campaigns_are_nobodys_twice(seed: int) -> None:
    dice = random.Random(100 + seed)
    async with World() as world:
        first, second = numbers(25), numbers(25, SECOND_LIST)
        world.pbx.callees = {number: a_callee(dice) for number in (*first, *second)}
        for n in range(6):
            queues = dice.choice([("green",), ("blue",), ("green", "blue"), ("blue", "green")])
            world.centre.log_in(str(n), queue=queues, talks=dice.uniform(0.5, 4))
        world.centre.log_in("both", queue=("green", "blue"), talks=2.0)
        judge = Judge(world, [(first, "green", "1"), (second, "blue", "1")])
        two = [
            await queue_campaign(world, first, most=9),
            await queue_campaign(world, second, queue="blue", priority=30, most=9),
        ]
        await world.daemon()
        while {world.state(one) for one in two} != {"COMPLETED"} and world.at < 600:
            await world.sleep(dice.uniform(0.05, 1.0))
            if dice.random() < 0.6:
                for person in dice.sample(world.centre.people, 2):
                    world.centre.pause(person, not person.paused)
            if dice.random() < 0.2:
                for person in world.centre.people:
                    world.centre.pause(person, False)
        assert {world.state(one) for one in two} == {"COMPLETED"}
        assert judge.wrong == []
        check_books(world, *two)


def check_books(world: World, *campaigns: CampaignId) -> None:
    """What the results say is what the agents did."""
    had = {channel: name for _, channel, name in world.centre.connected}
    for result in [each for campaign in campaigns for each in world.results(campaign)]:
        assert result["agent"] == had.get(result["attempt"]), result
        assert (result["status"] == "TERMINATED") >= (result["agent"] is not None)
    world.check_at_rest(*campaigns)
    assert world.pbx.torn == []


async def test_a_campaign_that_is_paused_keeps_the_agents_its_calls_will_need() -> None:
    async with World() as world:
        first, second = numbers(5), numbers(5, SECOND_LIST)
        world.pbx.default = answers(6.0)
        world.centre.log_in("Eva", "Jan", queue=("green", "blue"), talks=3.0)
        judge = Judge(world, [(first, "green", "1"), (second, "blue", "1")])
        one = await queue_campaign(world, first)
        await world.daemon()
        await world.until(lambda: len(world.pbx.originates) == 2)
        await world.command(one, "pause")
        other = await queue_campaign(world, second, queue="blue")
        world.wake()
        await world.sleep(3)
        assert len(world.pbx.originates) == 2
        await world.completed(other)
        assert judge.wrong == []


async def test_two_daemons_never_dial_for_the_same_agent() -> None:
    async with World() as world:
        world.pbx.default = answers(2.0)
        world.centre.log_in("Eva", talks=3.0)
        judge = judge_of(world, numbers(12))
        campaign = await queue_campaign(world, numbers(12))
        await world.daemon("a")
        await world.daemon("b")
        await world.completed(campaign, within=300)
        assert judge.wrong == []
        assert {one.id for one in world.pbx.originates}
        check_books(world, campaign)


@pytest.mark.parametrize("agents", [("Eva",), ("Eva", "Jan", "Iva")])
async def test_two_daemons_that_claim_at_the_same_time_do_not_exceed_the_agents(
    agents: tuple[str, ...],
) -> None:
    """Both see the agent come, and neither can have heard of what the other claims for him."""
    async with World() as world:
        world.pbx.default = answers(2.0)
        world.centre.log_in(*agents, talks=3.0)
        judge = judge_of(world, numbers(30))
        campaign = await queue_campaign(world, numbers(30))
        for name in ("a", "b"):
            daemon = await world.daemon(name)
            daemon.redis.seconds = 0.05
        await world.completed(campaign, within=300)
        assert judge.wrong == []
        check_books(world, campaign)


async def test_a_second_daemon_that_comes_later_is_counted_with_from_its_first_call_on() -> None:
    async with World() as world:
        world.pbx.default = RINGS_OUT
        world.centre.log_in("Eva", "Jan")
        judge = judge_of(world, numbers(12))
        await queue_campaign(world, numbers(12), maxChannels=9)
        first = await world.daemon("a")
        await world.sleep(3)
        assert len(world.pbx.originates) == 2
        await world.daemon("b", fate=Fate())
        await world.sleep(10)
        assert len(world.pbx.originates) == 2
        assert first.engine.live == 2
        assert judge.wrong == []


async def test_a_snapshot_that_is_behind_does_not_make_one_daemon_wait_for_itself() -> None:
    """The counts of Redis are of another instant than ours. Who took the difference for others' calls waited."""
    async with World() as world:
        world.pbx.default = answers(0.5)
        world.centre.log_in("Eva", talks=1.01)
        campaign = await queue_campaign(world, numbers(30))
        daemon = await world.daemon()
        daemon.redis.seconds = 0.05
        await world.completed(campaign, within=300)
        freed, begun = world.centre.freed[1:-1], world.pbx.times()
        late = [begun[bisect.bisect_left(begun, at)] - at for at in freed]
        assert max(late) < 0.4
