"""Calls that go into a queue: every ending, and what is written down of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest

from dialer_engine.core.model import CampaignId, QueueName, Trunk, TrunkName
from dialer_engine.core.told import Rules
from dialer_engine.ivr import ENQUEUE_RETRY_SECONDS
from tests.engine.fate import Fate
from tests.engine.pbx import BUSY, answers
from tests.engine.world import BYE, VIRTUAL, World, numbers, rule

pytestmark = VIRTUAL

AGENT: dict[str, dict[str, Any]] = {"agent": {"type": "queue", "timeout": 20, "next": "bye"}, **BYE}
MESSAGE = {"hello": {"type": "play", "media": ["sound:hello"], "next": "agent"}, **AGENT}
SORRY = {
    "agent": {"type": "queue", "timeout": 5, "next": "sorry"},
    "sorry": {"type": "play", "media": ["sound:sorry"], "next": "bye"},
    **BYE,
}
SURVEYED = {
    "agent": {"type": "queue", "timeout": 20, "next": "how"},
    "how": {"type": "menu", "media": ["sound:how"], "keys": {"1": "good"}, "noInput": "bye", "retries": 0},
    "good": {"type": "result", "extStatus": "GOOD", "next": "bye"},
    **BYE,
}
STAYS = answers(1.0)


def wraps_up(world: World, seconds: float, queue: str = "green") -> None:
    world.centre.rules[QueueName(queue)] = Rules(wrap_up_seconds=seconds)


async def queue_campaign(
    world: World,
    count: int,
    *,
    flow: Mapping[str, Any] = AGENT,
    queue: str = "green",
    boost: float = 1,
    **fields: Any,
) -> CampaignId:
    endpoint = {"type": "queue", "queue": queue, "boostFactor": boost, **fields.pop("endpoint", {})}
    return await world.campaign(numbers(count), flow=flow, endpoint=endpoint, **fields)


async def only_result(world: World, campaign: CampaignId) -> dict[str, Any]:
    """Of a campaign that comes to its end with it."""
    await world.completed(campaign)
    world.check_at_rest(campaign)
    assert world.pbx.torn == []
    (result,) = world.results(campaign)
    return result


def said(result: Mapping[str, Any]) -> tuple[Any, ...]:
    return result["status"], result["extStatus"], result["agent"]


def seconds(result: Mapping[str, Any], begin: str, end: str) -> float:
    first, last = (datetime.fromisoformat(result[name]) for name in (begin, end))
    return (last - first).total_seconds()


# --- every ending ---


async def test_a_call_goes_to_an_agent_and_all_of_it_is_written_down() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva", answers_after=0.5, talks=7.0)
        campaign = await queue_campaign(world, 1)
        await world.daemon()
        result = await only_result(world, campaign)
        assert said(result) == ("TERMINATED", None, "Eva")
        assert result["path"] == ["agent", "bye"]
        assert result["queue"] == {
            "name": "green",
            "waitSeconds": pytest.approx(0.5, abs=0.01),
            "secondsToAgent": pytest.approx(0.51, abs=0.02),
            "secondsToAgentPbx": pytest.approx(0.51, abs=0.02),
            "talkSeconds": pytest.approx(7.0, abs=0.01),
            "abandoned": False,
        }
        assert seconds(result, "answeredAt", "connectedAt") == pytest.approx(0.51, abs=0.02)
        assert seconds(result, "connectedAt", "endedAt") == pytest.approx(7.0, abs=0.1)


async def test_behind_a_message_the_seconds_to_the_agent_count_from_its_end() -> None:
    async with World() as world:
        world.pbx.default, world.pbx.sound_seconds = STAYS, 3.0
        world.centre.log_in("Eva", answers_after=0.5)
        campaign = await queue_campaign(world, 1, flow=MESSAGE)
        await world.daemon()
        result = await only_result(world, campaign)
        assert seconds(result, "answeredAt", "leftIvrAt") == pytest.approx(3.0, abs=0.02)
        assert result["queue"]["secondsToAgent"] == pytest.approx(0.5, abs=0.02)
        assert result["queue"]["secondsToAgentPbx"] == pytest.approx(0.5, abs=0.02)
        assert result["queue"]["abandoned"] is False


async def test_the_answer_may_be_told_after_the_call_has_come_to_its_flow() -> None:
    async with World() as world:
        world.pbx.default = STAYS.but(loses=frozenset({"ChannelStateChange", "Dial"}))
        world.centre.log_in("Eva", answers_after=0.5)
        campaign = await queue_campaign(world, 1)
        await world.daemon()
        result = await only_result(world, campaign)
        assert said(result) == ("TERMINATED", None, "Eva")
        assert result["queue"]["secondsToAgentPbx"] == pytest.approx(0.51, abs=0.02)


async def test_whoever_is_not_served_in_time_is_abandoned_though_an_agent_comes_later() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        (eva,) = world.centre.log_in("Eva")
        campaign = await queue_campaign(world, 1)
        await world.daemon()
        await world.until(lambda: world.pbx.originates)
        world.centre.pause(eva)
        await world.until(lambda: world.centre.waiting("green"))
        await world.sleep(2.5)
        world.centre.pause(eva, False)
        result = await only_result(world, campaign)
        assert said(result) == ("TERMINATED", None, "Eva")
        assert result["queue"]["abandoned"] is True
        assert result["queue"]["secondsToAgent"] == pytest.approx(2.6, abs=0.2)


async def test_a_campaign_says_itself_when_a_call_is_abandoned() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva", answers_after=4.0)
        campaign = await queue_campaign(world, 1, endpoint={"abandonAfter": 5})
        await world.daemon()
        assert (await only_result(world, campaign))["queue"]["abandoned"] is False


async def without_an_agent(world: World, callee: Any, flow: Mapping[str, Any]) -> dict[str, Any]:
    """The agent goes while it rings."""
    world.pbx.default = callee
    (eva,) = world.centre.log_in("Eva")
    campaign = await queue_campaign(world, 1, flow=flow)
    await world.daemon()
    await world.until(lambda: world.pbx.originates)
    world.centre.pause(eva)
    return await only_result(world, campaign)


async def test_when_the_time_in_the_queue_is_over_the_flow_goes_on() -> None:
    async with World() as world:
        result = await without_an_agent(world, STAYS, SORRY)
        assert said(result) == ("RS_TIMEOUT", None, None)
        assert result["path"] == ["agent", "sorry", "bye"]
        assert result["variables"] == {"queueStatus": "TIMEOUT"}
        assert world.pbx.plays[numbers(1)[0]] == ["sound:sorry"]
        assert (result["queue"]["waitSeconds"], result["queue"]["abandoned"]) == (
            pytest.approx(5, abs=0.1),
            True,
        )
        assert result["queue"]["secondsToAgent"] is result["queue"]["talkSeconds"] is None


async def test_who_gives_up_in_the_queue_is_lost() -> None:
    async with World() as world:
        result = await without_an_agent(world, answers(1.0, talks=3.0), SORRY)
        assert said(result) == ("RS_LOST", None, None)
        assert result["path"] == ["agent"]
        assert (result["queue"]["waitSeconds"], result["queue"]["abandoned"]) == (
            pytest.approx(3, abs=0.1),
            True,
        )


async def test_who_hangs_up_on_the_message_was_not_on_his_way_to_an_agent() -> None:
    async with World() as world:
        result = await without_an_agent(world, answers(1.0, talks=0.2), MESSAGE)
        assert said(result) == ("TERMINATED", "HANGUP", None)
        assert result.get("queue") is None


@pytest.mark.parametrize("patience", [4.0, 60.0], ids=["who hangs up", "whose flow fails"])
async def test_who_waits_in_silence_and_cannot_be_sent_to_the_queue_is_lost_and_abandoned(
    patience: float,
) -> None:
    async with World() as world:
        world.pbx.default = answers(1.0, talks=patience)
        world.centre.log_in("Eva")
        campaign = await queue_campaign(world, 1)
        daemon = await world.daemon()
        await world.until(lambda: "before set_variables" in daemon.fate.steps, every=0.0005)
        world.pbx.rest_down = True
        await world.until(lambda: "before hangup" in daemon.fate.steps or not world.pbx.channels)
        world.pbx.rest_down = False
        result = await only_result(world, campaign)
        assert said(result) == ("RS_LOST", None, None)
        assert result["queue"] == {
            "name": "green",
            "waitSeconds": pytest.approx(min(patience, ENQUEUE_RETRY_SECONDS), abs=2.0),
            "secondsToAgent": None,
            "secondsToAgentPbx": None,
            "talkSeconds": None,
            "abandoned": True,
        }
        assert result["leftIvrAt"] is not None


@pytest.mark.parametrize("status", ["FULL", "JOINEMPTY"])
async def test_a_queue_that_takes_nobody_loses_the_call_and_the_flow_says_sorry(status: str) -> None:
    async with World() as world:
        world.centre.turned_away["green"] = status
        result = await without_an_agent(world, STAYS, SORRY)
        assert said(result) == ("RS_LOST", None, None)
        assert result["path"] == ["agent", "sorry", "bye"]
        assert result["variables"] == {"queueStatus": status}
        assert result["queue"]["abandoned"] is True


async def test_whom_the_agent_leaves_is_asked_how_it_was() -> None:
    async with World() as world:
        world.pbx.default = answers(1.0, keys=[(3.0, "9"), (9.0, "1")])
        world.centre.log_in("Eva", talks=6.0)
        campaign = await queue_campaign(world, 1, flow=SURVEYED)
        await world.daemon()
        result = await only_result(world, campaign)
        assert said(result) == ("TERMINATED", "GOOD", "Eva")
        assert result["queue"]["talkSeconds"] == pytest.approx(6.0, abs=0.1)
        assert world.pbx.plays[numbers(1)[0]] == ["sound:how"], "a key in the queue is none of the survey"


async def test_a_callee_may_hang_up_on_his_agent() -> None:
    async with World() as world:
        world.pbx.default = answers(1.0, talks=4.0)
        world.centre.log_in("Eva", talks=None)
        campaign = await queue_campaign(world, 1, flow=SURVEYED)
        await world.daemon()
        result = await only_result(world, campaign)
        assert said(result) == ("TERMINATED", None, "Eva")
        assert result["queue"]["talkSeconds"] == pytest.approx(3.9, abs=0.1)


async def test_an_agent_who_does_not_answer_costs_the_time_he_rang() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva", answers_after=None)
        world.centre.log_in("Jan")
        campaign = await queue_campaign(world, 1)
        await world.daemon()
        result = await only_result(world, campaign)
        assert said(result) == ("TERMINATED", None, "Jan")
        assert result["queue"]["secondsToAgent"] == pytest.approx(15.1, abs=0.1)


async def test_a_flow_may_lead_to_another_queue_than_the_one_that_is_watched() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva", queue="green")
        world.centre.log_in("Jan", queue="blue")
        flow = {"agent": {"type": "queue", "queue": "blue", "next": "bye"}, **BYE}
        campaign = await queue_campaign(world, 1, flow=flow)
        await world.daemon()
        result = await only_result(world, campaign)
        assert (result["agent"], result["queue"]["name"]) == ("Jan", "blue")


async def test_a_second_queue_goes_on_with_what_was_waited_for_the_first() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Jan", queue="blue")
        world.centre.rules[QueueName("green")] = Rules()
        flow = {
            "first": {"type": "queue", "queue": "green", "timeout": 4, "next": "second"},
            "second": {"type": "queue", "queue": "blue", "next": "bye"},
            **BYE,
        }
        campaign = await queue_campaign(world, 1, flow=flow, queue="blue")
        await world.daemon()
        result = await only_result(world, campaign)
        assert said(result) == ("TERMINATED", None, "Jan")
        assert (result["queue"]["name"], result["queue"]["abandoned"]) == ("blue", True)
        assert result["queue"]["secondsToAgent"] == pytest.approx(4.1, abs=0.1)
        assert result["queue"]["waitSeconds"] == pytest.approx(0.05, abs=0.02)


async def test_who_gives_up_in_a_second_queue_is_lost_though_the_first_has_timed_him_out() -> None:
    flow = {
        "first": {"type": "queue", "queue": "green", "timeout": 5, "next": "second"},
        "second": {"type": "queue", "queue": "blue", "timeout": 60, "next": "bye"},
        **BYE,
    }
    async with World() as world:
        result = await without_an_agent(world, answers(1.0, talks=12.0), flow)
        assert said(result) == ("RS_LOST", None, None)
        assert result["path"] == ["first", "second"]


async def test_a_call_through_a_local_channel_is_followed_to_the_end_of_its_talk() -> None:
    """Asterisk would optimise the channel away under it (core_unreal.c)."""
    outside = Trunk(TrunkName("outside"), "Local/${num}@outside")
    async with World(trunks=[outside]) as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva", talks=30.0)
        campaign = await queue_campaign(world, 1)
        await world.daemon()
        result = await only_result(world, campaign)
        assert said(result) == ("TERMINATED", None, "Eva")
        assert result["queue"]["talkSeconds"] == pytest.approx(30.0, abs=0.1)


async def test_what_the_dialplan_and_the_agents_screen_need_is_set_before() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva")
        row = '{"number": "602000001", "attributes": {"city": "Brno", "note": "two\\nlines", "n": 7}}'
        campaign = await world.campaign([row], flow=AGENT, endpoint={"type": "queue", "queue": "green"})
        await world.daemon()
        await world.until(lambda: world.centre.connected)
        _, attempt, _ = world.centre.connected[0]
        variables = world.pbx.channels[attempt].variables
        assert (
            variables.items()
            >= {
                "DIALER_APP": "host",
                "DIALER_QUEUE_TIMEOUT": "20",
                "DIALER_ATTEMPT": attempt,
                "DIALER_CAMPAIGN": str(campaign),
                "ATTR_city": "Brno",
                "ATTR_note": "two lines",
                "ATTR_n": "7",
            }.items()
        )


async def test_a_call_that_reaches_an_agent_is_told_for_his_screen_once() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva", answers_after=0.5)
        row = '{"number": "602000001", "attributes": {"city": "Brno"}}'
        campaign = await world.campaign([row], flow=AGENT, endpoint={"type": "queue", "queue": "green"})
        await world.daemon()
        result = await only_result(world, campaign)
        (told,) = [one.facts for one in await world.store.events.after("0-0", 100) if one.kind == "connected"]
        assert told == {
            "campaign": campaign,
            "run": 1,
            "attempt": result["attempt"],
            "number": "602000001",
            "agent": "Eva",
            "queue": "green",
            "attributes": {"city": "Brno"},
            "secondsToAgent": result["queue"]["secondsToAgent"],
        }


async def test_a_lost_call_is_dialed_again_by_its_rule() -> None:
    async with World() as world:
        number = numbers(1)[0]
        world.pbx.callees[number] = [answers(1.0, talks=1.5), STAYS]
        (eva,) = world.centre.log_in("Eva")
        campaign = await queue_campaign(world, 1, rules=[rule("RS_LOST", after=5)])
        await world.daemon()
        await world.until(lambda: world.pbx.originates)
        world.centre.pause(eva)
        await world.until(lambda: world.results(campaign))
        world.centre.pause(eva, False)
        await world.completed(campaign)
        assert world.statuses(campaign) == {number: ["RS_LOST", "TERMINATED"]}


async def test_the_longest_call_ends_flows_and_no_talk() -> None:
    async with World() as world:
        world.pbx.default, world.pbx.sound_seconds = STAYS, 500.0
        world.centre.log_in("Eva", talks=80.0)
        campaign = await queue_campaign(world, 1, flow=SURVEYED, maxCallDuration=60)
        await world.daemon()
        await world.completed(campaign, within=400)
        (result,) = world.results(campaign)
        assert said(result) == ("TERMINATED", None, "Eva")
        assert result["queue"]["talkSeconds"] == pytest.approx(80, abs=0.1)
        assert seconds(result, "connectedAt", "endedAt") == pytest.approx(140, abs=1.5)
        assert world.pbx.torn == []


async def test_a_flow_without_a_queues_name_needs_a_campaign_that_has_one() -> None:
    async with World() as world:
        campaign = await world.campaign(numbers(1), flow=AGENT)
        await world.daemon()
        await world.until(lambda: world.state(campaign) == "INVALID")
        reason = world.redis.hget(world.key(campaign, "state"), "reason")
        assert "blocks.agent.queue" in reason
        assert "names no queue" in reason


async def test_a_campaign_for_telephones_may_lead_to_a_queue_without_any_ami() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva", talks=6.0)
        flow = {"agent": {"type": "queue", "queue": "green", "next": "bye"}, **BYE}
        campaign = await world.campaign(numbers(1), flow=flow)
        await world.daemon(ami=False)
        result = await only_result(world, campaign)
        assert said(result) == ("TERMINATED", None, "Eva")
        assert result["queue"]["secondsToAgent"] == pytest.approx(0.06, abs=0.02)
        assert result["queue"]["talkSeconds"] == pytest.approx(6.0, abs=0.1)


# --- a dialplan that just hangs up ---


async def freepbx(world: World, callee: Any, **agent: Any) -> dict[str, Any]:
    world.queue_context = "ext-queues"
    world.pbx.default = callee
    (eva,) = world.centre.log_in("Eva", **agent)
    campaign = await queue_campaign(world, 1, flow=SORRY)
    await world.daemon()
    await world.until(lambda: world.pbx.originates)
    if not agent:
        world.centre.pause(eva)
    return await only_result(world, campaign)


async def test_freepbx_ends_the_call_after_the_agent() -> None:
    async with World() as world:
        result = await freepbx(world, STAYS, talks=6.0)
        assert said(result) == ("TERMINATED", None, "Eva")
        assert result["path"] == ["agent"]
        assert result["queue"]["talkSeconds"] == pytest.approx(6.0, abs=0.1)


@pytest.mark.parametrize("ami", [True, False])
async def test_freepbx_ends_the_call_when_its_time_is_over(ami: bool) -> None:
    async with World() as world:
        world.queue_context, world.pbx.default = "ext-queues", STAYS
        world.centre.rules[QueueName("green")] = Rules()
        campaign = await world.campaign(
            numbers(1), flow={"agent": {"type": "queue", "queue": "green", "timeout": 5, "next": "bye"}, **BYE}
        )
        await world.daemon(ami=ami)
        result = await only_result(world, campaign)
        assert said(result) == ("RS_TIMEOUT", None, None)
        assert result["path"] == ["agent"]


@pytest.mark.parametrize("patience", [3.0, 4.5, 4.95])
async def test_who_gives_up_in_freepbx_is_lost(patience: float) -> None:
    """However near to the end of his time: app_queue counts whole seconds, and says the same of both."""
    async with World() as world:
        assert said(await freepbx(world, answers(1.0, talks=patience))) == ("RS_LOST", None, None)


# --- a PBX that dies ---


async def test_a_pbx_that_dies_under_a_talk_is_told() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva", talks=60.0)
        campaign = await queue_campaign(world, 1)
        await world.daemon()
        await world.until(lambda: world.centre.connected)
        await world.sleep(2)
        world.pbx.restart()
        await world.sleep(1)
        world.pbx.restore_socket()
        await world.until(lambda: world.results(campaign))
        (result,) = world.results(campaign)
        assert said(result) == ("RS_ERROR", "PBX_LOST", "Eva")


async def test_who_does_not_answer_is_never_in_a_queue() -> None:
    async with World() as world:
        world.pbx.default = BUSY
        world.centre.log_in("Eva")
        campaign = await queue_campaign(world, 5)
        await world.daemon(fate=Fate())
        await world.completed(campaign)
        assert {(one["status"], one.get("queue")) for one in world.results(campaign)} == {("RS_BUSY", None)}
