"""What agents say of their calls: when it still chooses the rule, whose word it is, and which one counts."""

from __future__ import annotations

from datetime import datetime

import pytest

from dialer_engine.core.model import AttemptId
from dialer_engine.engine.attendant import MOST_DISPOSITIONS
from tests.engine.pbx import answers
from tests.engine.test_queues import (
    AGENT,
    STAYS,
    SURVEYED,
    only_result,
    queue_campaign,
    said,
    seconds,
    wraps_up,
)
from tests.engine.world import BYE, VIRTUAL, World, rule

pytestmark = VIRTUAL

AGAIN = [rule("TERMINATED", after=1, extStatus="AGAIN")]


async def dispose(world: World, attempt: str, ext_status: str) -> str:
    return await world.store.calls.dispose(AttemptId(attempt), ext_status, by="eva", now=world.epoch())


@pytest.mark.parametrize("door", ["api", "ami"])
@pytest.mark.parametrize("when", [2.0, 9.0], ids=["while they talk", "while he wraps up"])
async def test_what_the_agent_says_before_his_wrap_up_ends_chooses_the_rule(door: str, when: float) -> None:
    async with World() as world:
        world.pbx.default = STAYS
        wraps_up(world, 10)
        world.centre.log_in("Eva", talks=5.0)
        campaign = await queue_campaign(world, 1, rules=AGAIN)
        await world.daemon()
        await world.until(lambda: world.centre.connected)
        at, attempt, _ = world.centre.connected[0]
        await world.sleep(at + when - world.at)
        if door == "api":
            assert await dispose(world, attempt, "AGAIN") == "PENDING"
        else:
            world.centre.user_event(attempt, "AGAIN")
        await world.sleep(at + 14.5 - world.at)
        assert world.results(campaign) == [], "his wrap-up is not over"
        await world.completed(campaign)
        first, second = world.results(campaign)
        assert said(first) == ("TERMINATED", "AGAIN", "Eva")
        assert said(second) == ("TERMINATED", None, "Eva")
        assert seconds(first, "endedAt", "endedAt") == 0
        assert len(world.pbx.originates) == 2


async def test_what_he_says_later_amends_the_result() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        wraps_up(world, 5)
        world.centre.log_in("Eva", talks=5.0)
        campaign = await queue_campaign(world, 1, rules=AGAIN)
        await world.daemon()
        result = await only_result(world, campaign)
        assert await dispose(world, result["attempt"], "AGAIN") == "AMENDED"
        await world.sleep(20)
        assert len(world.pbx.originates) == 1
        (item,) = (await world.store.results.read(campaign)).items
        assert item["extStatus"] == "AGAIN"


async def test_without_wrap_up_nothing_is_held_and_never_for_more_than_a_minute() -> None:
    for wrap_up, least, most in ((0, 0.0, 0.5), (300, 59.0, 61.5)):
        async with World() as world:
            world.pbx.default = STAYS
            wraps_up(world, wrap_up)
            world.centre.log_in("Eva", talks=5.0)
            campaign = await queue_campaign(world, 1)
            await world.daemon()
            await world.until(lambda: world.results(campaign), within=100)  # noqa: B023
            ended = datetime.fromisoformat(world.results(campaign)[0]["endedAt"])
            assert least <= (world.now() - ended).total_seconds() <= most


async def test_the_flow_is_overruled_by_the_agent() -> None:
    async with World() as world:
        world.pbx.default = answers(1.0, keys=[(9.0, "1")])
        world.centre.log_in("Eva", talks=6.0)
        campaign = await queue_campaign(world, 1, flow=SURVEYED)
        await world.daemon()
        await world.until(lambda: world.centre.connected)
        await dispose(world, world.centre.connected[0][1], "SOLD")
        assert said(await only_result(world, campaign)) == ("TERMINATED", "SOLD", "Eva")


async def test_a_word_that_comes_while_the_result_is_written_is_not_lost() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva", talks=3.0)
        campaign = await queue_campaign(world, 1)
        daemon = await world.daemon()
        daemon.fate.faults.append(("settle", "before"))
        await world.until(lambda: "before settle" in daemon.fate.steps, every=0.01)
        (attempt,) = world.live()
        assert await dispose(world, attempt, "AGAIN") == "PENDING"
        assert said(await only_result(world, campaign)) == ("TERMINATED", "AGAIN", "Eva")


async def test_who_has_missed_a_call_cannot_say_how_it_was() -> None:
    """A word that comes while it rings for him, or is meant for another call of his, chooses no rule."""
    async with World() as world:
        world.pbx.default = answers(1.0, talks=25.0)
        world.centre.log_in("Eva", answers_after=None)
        campaign = await queue_campaign(
            world,
            1,
            flow={**AGENT, "agent": {**AGENT["agent"], "timeout": 60}},
            rules=[rule("RS_LOST", after=5)],
        )
        await world.daemon()
        await world.until(lambda: world.centre.joined)
        await world.sleep(15.5)
        assert await dispose(world, world.centre.joined[0][1], "SOLD") == "PENDING"
        await world.until(lambda: world.results(campaign))
        (result,) = world.results(campaign)
        assert (said(result), result["redialAt"] is not None) == (("RS_LOST", None, None), True)
        dropped = [one for one in world.log if one["event"] == "disposition of no agent dropped"]
        assert [one["ext_status"] for one in dropped] == ["SOLD"]
        assert await dispose(world, result["attempt"], "SOLD") == "NOT_FOUND", "it never came to an agent"


async def test_nonsense_that_is_called_a_disposition_harms_nobody() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva", talks=6.0)
        campaign = await queue_campaign(world, 1)
        await world.daemon()
        await world.until(lambda: world.centre.connected)
        attempt = world.centre.connected[0][1]
        for id_, word in ((attempt, "no word"), ("a999", "SOLD"), ("a b\x7f", "SOLD"), (attempt, "x" * 200)):
            world.centre.user_event(id_, word)
        for n in range(MOST_DISPOSITIONS + 100):
            world.centre.user_event(f"b{n:09}", "SOLD")
        await world.sleep(1)
        world.centre.user_event(attempt, "SOLD")
        assert said(await only_result(world, campaign)) == ("TERMINATED", "SOLD", "Eva")
        assert len([one for one in world.log if one["event"] == "disposition dropped"]) == 103


async def test_his_last_word_counts_though_redis_was_away_at_the_one_before() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        wraps_up(world, 20)
        world.centre.log_in("Eva", talks=5.0)
        campaign = await queue_campaign(world, 1, rules=AGAIN)
        daemon = await world.daemon()
        await world.until(lambda: world.centre.connected)
        attempt = world.centre.connected[0][1]
        daemon.redis.away = True
        world.centre.user_event(attempt, "AGAIN")
        await world.sleep(0.3)
        daemon.redis.away = False
        world.centre.user_event(attempt, "SOLD")
        assert said(await only_result(world, campaign)) == ("TERMINATED", "SOLD", "Eva")


async def test_words_that_follow_each_other_fast_are_written_in_their_order() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva", talks=6.0)
        campaign = await queue_campaign(world, 1)
        await world.daemon()
        await world.until(lambda: world.centre.connected)
        for word in ("no word", "AGAIN", "x" * 200, "SOLD", "CALLBACK"):
            world.centre.user_event(world.centre.connected[0][1], word)
            await world.sleep(0.0005)
        assert said(await only_result(world, campaign)) == ("TERMINATED", "CALLBACK", "Eva")


@pytest.mark.parametrize("end", ["kill", "drain"])
async def test_a_result_that_is_held_when_the_daemon_ends_is_written_by_the_next_one(end: str) -> None:
    async with World() as world:
        world.pbx.default = STAYS
        wraps_up(world, 20)
        world.centre.log_in("Eva", talks=5.0)
        campaign = await queue_campaign(world, 1, rules=AGAIN)
        first = await world.daemon()
        await world.until(lambda: world.centre.connected)
        await world.until(lambda: not world.pbx.channels)
        await world.sleep(3)
        (attempt,) = world.live()
        ended_at = world.at
        if end == "drain":
            first.fate.inside(first.engine.drain, 2.0)
            await world.until(first.task.done)
            assert world.at < ended_at + 4
        await first.kill()
        assert await dispose(world, attempt, "AGAIN") == "PENDING"
        await world.daemon()
        await world.sleep(8)
        assert world.results(campaign) == []
        await world.completed(campaign)
        assert [said(result) for result in world.results(campaign)] == [
            ("TERMINATED", "AGAIN", "Eva"),
            ("TERMINATED", None, "Eva"),
        ]
        assert world.results(campaign)[0]["queue"]["talkSeconds"] == pytest.approx(5.0, abs=0.1)


# --- a second agent ---


TWO_QUEUES = {
    "agent": {"type": "queue", "timeout": 5, "next": "second"},
    "second": {"type": "queue", "queue": "blue", "next": "bye"},
    **BYE,
}


async def test_the_word_of_a_second_queues_agent_chooses_the_rule() -> None:
    """AMI is lost while he talks: that his talk has ended is known, that the one before has is not what counts."""
    async with World() as world:
        world.pbx.default = answers(1.0, talks=15.0)
        for queue in ("green", "blue"):
            wraps_up(world, 10, queue)
        world.centre.log_in("Eva", talks=5.0)
        world.centre.log_in("Jan", queue="blue", talks=None)
        campaign = await queue_campaign(world, 1, flow=TWO_QUEUES, rules=AGAIN)
        daemon = await world.daemon()
        assert daemon.manager is not None
        await world.until(lambda: len(world.centre.connected) == 2)
        daemon.manager.lose()
        await world.until(lambda: not world.pbx.channels)
        await world.sleep(3)
        assert await dispose(world, world.centre.connected[0][1], "AGAIN") == "PENDING", "Jan wraps up"
        await world.until(lambda: world.results(campaign))
        result = world.results(campaign)[0]
        assert said(result) == ("TERMINATED", "AGAIN", "Jan")
        assert (result["queue"]["name"], result["queue"]["talkSeconds"]) == (
            "blue",
            pytest.approx(9.9, abs=0.1),
        )


async def test_the_word_of_an_agent_to_whom_another_one_has_passed_the_call_chooses_the_rule() -> None:
    """AMI tells of his end a moment after ARI does."""
    async with World() as world:
        world.pbx.default = answers(1.0, talks=15.0)
        wraps_up(world, 0)
        wraps_up(world, 10, "blue")
        world.centre.log_in("Eva", talks=None)
        (jan,) = world.centre.log_in("Jan", queue="blue", talks=None)
        campaign = await queue_campaign(world, 1, rules=AGAIN)
        daemon = await world.daemon()
        assert daemon.manager is not None
        daemon.manager.late_seconds = 0.05
        await world.until(lambda: world.centre.connected)
        await world.sleep(3)
        _, attempt, _ = world.centre.connected[0]
        world.centre.pass_on(attempt, jan, "blue")
        await world.until(lambda: not world.pbx.channels)
        await world.sleep(3)
        assert await dispose(world, attempt, "AGAIN") == "PENDING", "Jan wraps up"
        await world.until(lambda: world.results(campaign))
        result = world.results(campaign)[0]
        assert said(result) == ("TERMINATED", "AGAIN", "Jan")
        assert result["queue"]["talkSeconds"] == pytest.approx(12.0, abs=0.2)
