"""AMI away, a daemon killed, a task cancelled: at every point of a call that goes to an agent. Nobody is torn from a
queue or an agent, and what became of him is known all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.fate import Fate
from tests.engine.pbx import Callee, answers
from tests.engine.test_cancel import Cancelling
from tests.engine.test_queues import AGENT, SORRY, SURVEYED, queue_campaign, said, seconds, wraps_up
from tests.engine.world import VIRTUAL, World, numbers, rule

pytestmark = VIRTUAL

CHUNKS = 4
ANSWERED_STEP = 14
"""What goes before is of every call (test_crash)."""
STAYS = answers(1.0)
RATED = answers(1.0, keys=[(9.5, "1")])


# --- AMI ---

POINTS: dict[str, Callable[[World], Any]] = {
    "rings": lambda world: world.pbx.rung,
    "waits": lambda world: world.centre.waiting("green"),
    "is offered": lambda world: any(one.rung for one in world.centre.callers.values()),
    "talks": lambda world: world.centre.connected,
    "has talked": lambda world: world.centre.connected and not world.centre.callers,
}


@pytest.mark.parametrize("back", [True, False], ids=["for a while", "for good"])
@pytest.mark.parametrize("loss", ["lose", "fall_silent"])
@pytest.mark.parametrize("point", POINTS)
async def test_ami_goes_while_a_call(point: str, loss: str, back: bool) -> None:
    async with World() as world:
        world.pbx.default = RATED
        (eva,) = world.centre.log_in("Eva", answers_after=1.0, talks=6.0)
        campaign = await queue_campaign(world, 1, flow=SURVEYED)
        daemon = await world.daemon()
        assert daemon.manager is not None
        await world.until(lambda: world.pbx.originates)
        if point == "waits":
            world.centre.pause(eva)
        await world.until(lambda: POINTS[point](world), every=0.02)
        getattr(daemon.manager, loss)()
        await world.sleep(2.0)
        world.centre.pause(eva, False)
        if back:
            await world.sleep(3.0)
            daemon.manager.connect()
        await world.completed(campaign)
        (result,) = world.results(campaign)
        assert said(result) == ("TERMINATED", "GOOD", "Eva")
        queue = result["queue"]
        at, _, _ = world.centre.connected[0]
        left = world.centre.joined[0][0]
        assert queue["secondsToAgent"] == pytest.approx(at - left, abs=0.1)
        assert queue["talkSeconds"] == pytest.approx(6.0, abs=0.1)
        assert queue["abandoned"] is (at - left > 2)
        assert world.pbx.torn == []
        world.check_at_rest(campaign)


async def test_an_agent_is_found_by_what_asterisk_knows_when_nobody_told_of_him() -> None:
    """AMI was away and ARI was, too, when the agent took the call."""
    for says_who, knows in ((True, True), (True, False), (False, False)):
        async with World() as world:
            world.centre.says_who, world.centre.knows_milliseconds = says_who, knows
            world.pbx.default = STAYS
            (eva,) = world.centre.log_in("Eva", talks=15.0)
            campaign = await queue_campaign(world, 1)
            daemon = await world.daemon()
            assert daemon.manager is not None
            await world.until(lambda: world.pbx.originates)
            world.centre.pause(eva)
            await world.until(lambda: world.centre.waiting("green"))
            daemon.manager.lose()
            world.pbx.lose_socket()
            await world.sleep(1)
            world.centre.pause(eva, False)
            await world.sleep(3)
            world.pbx.restore_socket()
            daemon.manager.connect()
            await world.until(lambda: [one for one in world.log if one["event"] == "settled"])
            (result,) = world.results(campaign)
            assert said(result) == ("TERMINATED", None, "Eva" if says_who else None)
            waited = result["queue"]["secondsToAgent"]
            assert waited == pytest.approx(1.0 if knows else 4.5, abs=1.1)
            assert world.pbx.torn == []


async def test_an_agent_of_whom_only_his_telephone_is_known_has_his_name() -> None:
    """A queue without setinterfacevar, and AMI falls silent."""
    async with World() as world:
        world.pbx.default, world.centre.says_who = STAYS, False
        nick, _ = world.centre.log_in("nick", "nora", talks=1.0)
        world.centre.pause(nick)
        campaign = await queue_campaign(world, 1)
        daemon = await world.daemon()
        assert daemon.manager is not None
        await world.until(lambda: world.centre.joined, every=0.01)
        daemon.manager.fall_silent()
        await world.completed(campaign)
        assert said(world.results(campaign)[0]) == ("TERMINATED", None, "nora")


async def test_the_telephones_that_rang_in_vain_do_not_hide_from_us_which_one_answered() -> None:
    """Strategy ringall, by ARI alone: the others are cancelled when one has answered."""
    async with World() as world:
        world.pbx.default, world.centre.rings_all = answers(1.0, talks=20.0), True
        world.centre.log_in("Eva", "Bob", talks=None, answers_after=1.0)
        campaign = await queue_campaign(world, 1, rules=[rule("RS_LOST", after=5)])
        daemon = await world.daemon()
        assert daemon.manager is not None
        await world.until(lambda: world.centre.joined)
        daemon.manager.fall_silent()
        await world.until(lambda: world.centre.connected)
        await world.sleep(5)
        (attempt,) = world.live()
        assert world.redis.hget(f"{{dialer}}:attempt:{attempt}", "phase") == "CONNECTED"
        await world.completed(campaign)
        (result,) = world.results(campaign)
        assert said(result) == ("TERMINATED", None, "Eva")
        assert result["queue"]["talkSeconds"] == pytest.approx(18.9, abs=0.2)


async def test_who_waits_in_the_queue_while_ami_sees_nothing_is_not_taken_for_one_who_talks() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        (eva,) = world.centre.log_in("Eva")
        campaign = await queue_campaign(world, 1)
        daemon = await world.daemon()
        assert daemon.manager is not None
        await world.until(lambda: world.pbx.originates)
        world.centre.pause(eva)
        daemon.manager.fall_silent()
        await world.until(lambda: world.centre.waiting("green"))
        await world.sleep(8)
        daemon.manager.connect()
        await world.sleep(4)
        (attempt,) = world.live()
        assert world.redis.hget(f"{{dialer}}:attempt:{attempt}", "phase") == "QUEUED"
        world.centre.pause(eva, False)
        await world.completed(campaign)
        assert said(world.results(campaign)[0]) == ("TERMINATED", None, "Eva")


# --- kill -9 ---


async def killed_at(step: int, away_seconds: float, **agent: Any) -> bool:
    """One run; False when the call was over before that step."""
    async with World() as world:
        number = numbers(1)[0]
        world.pbx.callees[number] = RATED
        wraps_up(world, 3)
        world.centre.log_in("Eva", **agent)
        rules = [rule("RS_ERROR", after=2, times=3)]
        campaign = await queue_campaign(world, 1, flow=SURVEYED, rules=rules, dialTimeout=15)
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
        assert len([one for one in world.pbx.originates if one.made]) <= 1, f"called twice when killed {last}"
        assert world.statuses(campaign).keys() == {number}, f"forgotten when killed {last}"
        assert len(world.centre.joined) <= 1, f"queued twice when killed {last}"
        assert world.pbx.torn == [], f"torn from the queue when killed {last}"
        (result,) = world.results(campaign)
        talked = [name for _, _, name in world.centre.connected]
        # Only who was sent and never made, or came and went while nobody was there, is unknown.
        unknown, was_made = result["extStatus"] == "UNKNOWN", any(one.made for one in world.pbx.originates)
        assert unknown <= (away_seconds > 5 or not was_made), f"unknown when killed {last}"
        if talked and not unknown:
            assert said(result)[::2] == ("TERMINATED", "Eva"), f"killed {last}"
            true = (world.wall(world.centre.connected[0][0]) - world.start).total_seconds() - 1.0
            assert result["queue"]["secondsToAgent"] <= true + 1.1, f"killed {last}"
        served = world.redis.scard(world.key(campaign, "served"))
        assert served == 0
        stats = world.redis.hgetall(world.key(campaign, "stats:1"))
        assert int(stats.get("connected", 0)) == int(result["connectedAt"] is not None)
        assert int(stats[result["status"]]) == 1
        world.check_at_rest(campaign)
        return fate.dead


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize(("away_seconds", "first"), [(0.2, 1), (9.0, ANSWERED_STEP)])
async def test_a_daemon_killed_at_any_step_leaves_who_waits_or_talks_where_he_is(
    away_seconds: float, first: int, chunk: int
) -> None:
    step = chunk + first
    while await killed_at(step, away_seconds, answers_after=0.5, talks=6.0):
        step += CHUNKS
    assert step > 12


async def test_who_waits_gets_his_agent_after_a_crash_and_counts_as_unserved_till_then() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        eva, jan = world.centre.log_in("Eva", "Jan")
        campaign = await queue_campaign(world, 6)
        first = await world.daemon()
        await world.until(lambda: len(world.pbx.originates) == 2)
        world.centre.pause(eva)
        world.centre.pause(jan)
        await world.until(lambda: world.centre.waiting("green") == 2)
        await first.kill()
        await world.sleep(1)
        second = await world.daemon()
        await world.sleep(3)
        assert second.engine.live == 2
        world.centre.pause(eva, False)
        await world.sleep(1)
        assert len(world.pbx.originates) == 2, "one is served, and one waits for the next"
        world.centre.pause(jan, False)
        await world.completed(campaign)
        assert sorted(one["agent"] for one in world.results(campaign)) == ["Eva"] * 3 + ["Jan"] * 3
        assert world.pbx.torn == []
        world.check_at_rest(campaign)


async def test_whose_offer_ends_while_ami_is_away_needs_an_agent_as_soon_as_it_is_back() -> None:
    async with World() as world:
        world.pbx.default, world.centre.retry_seconds = answers(1.0), 5.0
        world.centre.log_in("Eva", answers_after=None)
        await queue_campaign(world, 3)
        daemon = await world.daemon()
        await world.until(lambda: any(caller.rung for caller in world.centre.callers.values()))
        await world.sleep(1)
        assert daemon.manager is not None
        daemon.manager.lose()
        await world.until(lambda: not any(caller.rung for caller in world.centre.callers.values()))
        daemon.manager.connect()
        await world.sleep(1)
        assert world.centre.free("green") == {"Eva"}
        assert len(world.pbx.originates) == 1


async def test_who_talks_when_the_daemon_dies_is_followed_and_counted_once() -> None:
    for away in (0.5, 4.0, 30.0):
        async with World() as world:
            world.pbx.default = STAYS
            world.centre.log_in("Eva", talks=10.0)
            campaign = await queue_campaign(world, 1)
            first = await world.daemon()
            await world.until(lambda: world.centre.connected)
            await world.sleep(2)
            await first.kill()
            await world.sleep(away)
            await world.daemon()
            await world.completed(campaign)
            (result,) = world.results(campaign)
            assert said(result) == ("TERMINATED", None, "Eva")
            assert result["queue"]["talkSeconds"] == (pytest.approx(10.0, abs=0.1) if away < 30 else None)
            assert world.pbx.torn == []
            world.check_at_rest(campaign)


@pytest.mark.parametrize("when", ["before he is offered", "while he talks"])
async def test_whom_his_agent_leaves_while_no_daemon_is_there_has_talked_as_long_as_he_has(when: str) -> None:
    async with World() as world:
        world.pbx.default = RATED
        (eva,) = world.centre.log_in("Eva", talks=2.5)
        campaign = await queue_campaign(world, 1, flow=SURVEYED)
        first = await world.daemon()
        await world.until(lambda: world.pbx.originates)
        world.centre.pause(eva)
        await world.until(lambda: world.centre.waiting("green"))
        await world.sleep(1)
        if when == "while he talks":
            world.centre.pause(eva, False)
            await world.until(lambda: world.centre.connected)
            await world.sleep(0.3)
        await first.kill()
        world.centre.pause(eva, False)
        await world.sleep(4.5)
        await world.daemon()
        await world.completed(campaign)
        (result,) = world.results(campaign)
        assert said(result) == ("TERMINATED", "GOOD", "Eva")
        assert result["queue"]["talkSeconds"] == pytest.approx(2.5, abs=0.1)
        assert result["queue"]["secondsToAgent"] == pytest.approx(1.1, abs=1.0)


async def test_whom_the_queue_gives_back_while_no_daemon_is_there_goes_on_with_the_next_one() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        (eva,) = world.centre.log_in("Eva")
        campaign = await queue_campaign(world, 1, flow=SORRY)
        first = await world.daemon()
        await world.until(lambda: world.pbx.originates)
        world.centre.pause(eva)
        await world.until(lambda: world.centre.waiting("green"))
        await world.sleep(3)
        await first.kill()
        await world.sleep(4)
        await world.daemon()
        await world.completed(campaign)
        (result,) = world.results(campaign)
        assert said(result) == ("RS_TIMEOUT", None, None)
        assert world.pbx.plays[numbers(1)[0]] == ["sound:sorry"]


async def test_a_call_in_a_queue_that_redis_has_forgotten_is_left_where_it_is() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva", talks=30.0)
        await queue_campaign(world, 1)
        first = await world.daemon()
        await world.until(lambda: world.centre.connected)
        await first.kill()
        world.redis.flushall()
        await world.daemon()
        await world.sleep(10)
        assert world.pbx.torn == []
        assert len(world.pbx.channels) == 1


async def test_who_went_to_the_queue_unrecorded_is_found_there() -> None:
    """Redis was away when he left, and the daemon died before it was back."""
    async with World() as world:
        world.pbx.default = STAYS
        (eva,) = world.centre.log_in("Eva")
        campaign = await queue_campaign(world, 1)
        first = await world.daemon()
        await world.until(lambda: world.pbx.originates)
        world.centre.pause(eva)
        first.redis.away = True
        await world.until(lambda: world.centre.waiting("green"))
        await first.kill()
        await world.sleep(1)
        await world.daemon()
        await world.sleep(3)
        world.centre.pause(eva, False)
        await world.completed(campaign)
        (result,) = world.results(campaign)
        assert said(result) == ("TERMINATED", None, "Eva")
        assert result["queue"]["name"] == "green"
        assert world.pbx.torn == []


async def test_whom_the_dialplan_has_put_into_a_queue_is_left_there() -> None:
    """He answered while no daemon was there, and there is a queue for such."""
    async with World() as world:
        world.pbx.default, world.pbx.fallback_queue = answers(3.0), "green"
        world.centre.log_in("Eva", talks=90.0)
        campaign = await queue_campaign(world, 1, maxCallDuration=60)
        first = await world.daemon()
        await world.until(lambda: world.pbx.rung)
        await first.kill()
        await world.until(lambda: world.centre.connected)
        await world.sleep(1)
        await world.daemon()
        await world.completed(campaign, within=200)
        (result,) = world.results(campaign)
        assert said(result) == ("TERMINATED", None, "Eva")
        assert seconds(result, "answeredAt", "endedAt") > 80
        assert world.pbx.torn == []


# --- cancellation ---


async def cancelled_at(n: int, callee: Callee, flow: Any, **agent: Any) -> bool:
    async with World() as world:
        world.pbx.default = callee
        world.centre.log_in("Eva", **agent)
        cancelling = world.on_task = Cancelling(n)
        campaign = await queue_campaign(world, 1, flow=flow, dialTimeout=15)
        await world.daemon()
        await world.until(lambda: cancelling.done or world.state(campaign) == "COMPLETED")
        await world.completed(campaign)
        assert world.pbx.torn == [], f"torn from the queue, cancelled at wait {n}"
        first = world.ledger.first_claimed
        assert world.ledger.settled[first] + world.ledger.released[first] == 1
        talked = {channel for _, channel, _ in world.centre.connected}
        for result in world.results(campaign):
            assert (result["agent"] == "Eva") == (result["attempt"] in talked)
        assert len([one for one in world.pbx.originates if one.made]) <= 1, "nobody is called twice"
        world.check_at_rest(campaign)
        return cancelling.done


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("flow", [AGENT, SURVEYED], ids=["to the agent", "and to a survey"])
async def test_an_attempt_cancelled_at_any_await_leaves_its_caller_to_the_queue(flow: Any, chunk: int) -> None:
    n = chunk + 1
    while await cancelled_at(n, RATED, flow, answers_after=0.5, talks=6.0):
        n += CHUNKS
    assert n > 4


# --- ports that are away on the way ---


@pytest.mark.parametrize("verb", ["set_variables", "continue"])
async def test_asterisk_is_away_when_the_call_is_to_go_to_its_queue(verb: str) -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva")
        campaign = await queue_campaign(world, 1)
        daemon = await world.daemon()
        await world.until(lambda: f"before {verb}" in daemon.fate.steps, every=0.0005)
        world.pbx.rest_down = True
        await world.sleep(1.5)
        world.pbx.rest_down = False
        await world.completed(campaign)
        (result,) = world.results(campaign)
        assert said(result) == ("TERMINATED", None, "Eva")
        assert len(world.centre.joined) == 1


async def test_redis_is_away_while_he_waits_and_talks() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        world.centre.log_in("Eva", talks=12.0)
        campaign = await queue_campaign(world, 1)
        daemon = await world.daemon()
        await world.until(lambda: world.centre.joined, every=0.001)
        daemon.redis.away = True
        await world.sleep(8)
        daemon.redis.away = False
        await world.completed(campaign)
        assert said(world.results(campaign)[0]) == ("TERMINATED", None, "Eva")
        told = [
            one.facts["agent"] for one in await world.store.events.after("0-0", 99) if one.kind == "connected"
        ]
        assert told == ["Eva"]


async def test_an_event_socket_that_breaks_while_he_waits_takes_nobody_out_of_the_queue() -> None:
    async with World() as world:
        world.pbx.default = STAYS
        (eva,) = world.centre.log_in("Eva")
        campaign = await queue_campaign(world, 1)
        await world.daemon()
        await world.until(lambda: world.pbx.originates)
        world.centre.pause(eva)
        for pause in (0.0, 0.001, 0.002, 0.004, 0.3):
            await world.until(lambda: world.centre.joined or world.pbx.answered, every=0.001)
            await world.sleep(pause)
            world.pbx.lose_socket()
            world.pbx.restore_socket()
        await world.sleep(3)
        assert world.centre.waiting("green") == 1
        world.centre.pause(eva, False)
        await world.completed(campaign)
        assert said(world.results(campaign)[0]) == ("TERMINATED", None, "Eva")
        assert len(world.centre.joined) == 1
        assert world.pbx.torn == []
