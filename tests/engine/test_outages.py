"""Redis and Asterisk go away, hang, forget, and lose what they say: nobody is called twice, every result is kept."""

from __future__ import annotations

import pytest

from tests.engine.pbx import BUSY, CARRIER_FAILS, NEVER_RINGS, NO_ENDPOINT, RINGS_OUT, Callee, answers
from tests.engine.world import HELLO, SURVEY, VIRTUAL, World, numbers, rule, trunk

pytestmark = VIRTUAL

STAY = {"stay": {"type": "wait", "seconds": 40, "next": "bye"}, "bye": {"type": "hangup"}}
TALKS = answers(0.5, keys=[(1.5, "1")])

# --- Redis ---


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "verb",
    [
        "claim",
        "mark_sent",
        "progress",
        "settle",
        "release",
        "accept",
        "peek",
        "snapshot",
        "recover",
        "ZADD",
        "LRANGE",
    ],
)
async def test_a_verb_whose_reply_is_lost_neither_calls_twice_nor_forgets(verb: str, when: str) -> None:
    async with World() as world:
        one, two, three, four = numbers(4)
        world.pbx.callees |= {one: TALKS, two: BUSY, three: [RINGS_OUT.but(fault="not sent"), BUSY]}
        campaign = await world.campaign([one, two, three, four], flow=SURVEY)
        daemon = await world.daemon()
        daemon.fate.faults.append((verb, when))  # type: ignore[arg-type]
        await world.completed(campaign)
        assert not daemon.fate.faults, "it happened"
        assert world.statuses(campaign) == {
            one: ["TERMINATED/YES"], two: ["RS_BUSY"], three: ["RS_BUSY"], four: ["TERMINATED"],
        }  # fmt: skip
        world.check_at_rest(campaign)


async def test_a_result_whose_writing_was_not_answered_is_not_told_as_lost() -> None:
    async with World() as world:
        world.pbx.default = BUSY
        campaign = await world.campaign(numbers(1))
        daemon = await world.daemon()
        daemon.fate.faults.append(("settle", "after"))
        await world.completed(campaign)
        assert len(world.results(campaign)) == 1
        assert not [line["event"] for line in world.log if line["level"] == "error"]


@pytest.mark.parametrize("how", ["away", "hung", "full"])
async def test_redis_fails_for_a_minute_and_the_results_of_the_live_calls_are_kept(how: str) -> None:
    async with World() as world:
        for n, number in enumerate(numbers(12)):
            world.pbx.callees[number] = [answers(3.0, talks=20.0), answers(20.0, talks=9.0), RINGS_OUT][n % 3]
        campaign = await world.campaign(numbers(40), flow=HELLO, maxChannels=12, dialTimeout=15)
        daemon = await world.daemon()
        await world.sleep(2)
        assert len(world.pbx.channels) == 12
        setattr(daemon.redis, how, True)
        await world.sleep(60)
        assert len(world.pbx.originates) == 12, "nothing new"
        assert world.limit(campaign) == "REDIS_DOWN"
        assert "Redis" in (daemon.engine.why_not_ready() or "")
        assert not world.pbx.channels, "the calls have come to their ends"
        setattr(daemon.redis, how, False)
        back = world.at
        await world.completed(campaign)
        assert world.pbx.times()[12] - back < 8
        statuses = world.statuses(campaign)
        assert {tuple(statuses[one]) for one in numbers(12)[2::3]} == {("RS_NOANSWER",)}
        assert {tuple(statuses[one]) for one in numbers(12)[0::3]} == {("TERMINATED",)}, "they were talked to"
        assert world.pbx.by_number == dict.fromkeys(numbers(40), 1)
        world.check_at_rest(campaign)


async def test_a_redis_that_hangs_keeps_nobody_waiting_for_longer_than_one_that_is_away() -> None:
    async with World() as world:
        number = numbers(1)[0]
        world.pbx.callees[number] = answers(2.0, keys=[(12.0, "1")])
        patient = {**SURVEY, "ask": dict(SURVEY["ask"], timeout=20)}
        campaign = await world.campaign([number], flow=patient)
        daemon = await world.daemon()
        await world.until(lambda: world.pbx.originates)
        daemon.redis.hung = True  # before it rings
        answered = world.pbx.originates[0].at + 2.0
        await world.until(lambda: "sound:hello" in world.pbx.plays[number], within=20, every=0.02)
        assert world.at - answered < 3.5
        await world.until(lambda: "sound:thanks" in world.pbx.plays[number], within=30, every=0.02)
        assert world.at - (answered + 12.0) < 3.5
        daemon.redis.hung = False
        await world.completed(campaign)
        assert world.statuses(campaign) == {number: ["TERMINATED/YES"]}


async def test_redis_goes_away_again_and_again() -> None:
    async with World() as world:
        world.pbx.default = answers(0.3, talks=1.0)
        campaign = await world.campaign(numbers(60), flow=HELLO, maxChannels=6)
        daemon = await world.daemon()
        for _ in range(6):
            await world.sleep(2.03)
            daemon.redis.away = True
            await world.sleep(0.2)
            daemon.redis.away = False
        await world.completed(campaign)
        assert world.pbx.by_number == dict.fromkeys(numbers(60), 1)
        world.check_at_rest(campaign)


async def test_a_daemon_whose_clock_is_wrong_claims_nothing() -> None:
    async with World() as world:
        campaign = await world.campaign(numbers(3))
        daemon = await world.daemon()
        daemon.redis.clock_error = 5.0
        await world.sleep(10)
        assert not world.pbx.originates
        assert "clock" in (daemon.engine.why_not_ready() or "")
        daemon.redis.clock_error = 0.5
        await world.completed(campaign)


async def test_a_document_that_another_program_has_spoilt_stops_its_campaign_and_no_other() -> None:
    async with World() as world:
        spoilt = await world.campaign(numbers(3))
        (ivr,) = world.redis.smembers("{dialer}:ivrs")
        other = await world.campaign(numbers(3, 603_000_001))
        world.redis.hset(f"{{dialer}}:ivr:{ivr}", "document", "no JSON")
        await world.daemon()
        await world.completed(other)
        assert world.state(spoilt) == "INVALID"
        assert len(world.pbx.originates) == 3


async def test_a_result_that_redis_refuses_waits_and_keeps_no_other_campaign_from_dialing() -> None:
    # All of them stood still for half of every second.
    async with World() as world:
        world.pbx.default = BUSY.but(ends_after=1.0)
        spoilt = await world.campaign(numbers(1))
        other = await world.campaign(numbers(100, 603_000_001), maxChannels=10)
        daemon = await world.daemon()
        await world.sleep(0.5)
        world.redis.set(world.key(spoilt, "due"), "another program's")
        for _ in range(50):
            await world.sleep(0.1)
            assert daemon.engine.why_not_ready() is None
        assert not world.results(spoilt)
        world.redis.delete(world.key(spoilt, "due"))
        await world.completed(spoilt, other, within=30)
        assert list(world.statuses(spoilt).values()) == [["RS_BUSY"]]
        world.check_at_rest(spoilt, other)


# --- Asterisk's requests ---


@pytest.mark.parametrize("fault", ["lost", "lost unmade", "hung", "not sent"])
@pytest.mark.parametrize("callee", [TALKS, BUSY, RINGS_OUT], ids=["who talks", "busy", "who does not answer"])
async def test_an_originate_in_doubt_is_never_sent_again(fault: str, callee: Callee) -> None:
    async with World() as world:
        number = numbers(1)[0]
        first = callee.but(fault=fault)
        world.pbx.callees[number] = [first, BUSY]
        campaign = await world.campaign(
            [number], flow=SURVEY, rules=[rule("RS_ERROR", after=1, times=5)], dialTimeout=15
        )
        await world.daemon()
        await world.completed(campaign)
        made = [one for one in world.pbx.originates if one.made]
        assert len(made) == (0 if fault == "lost unmade" else 1)
        assert len(world.pbx.originates) == (2 if fault == "not sent" else 1)
        if fault == "lost unmade":
            assert world.statuses(campaign) == {number: ["RS_ERROR/UNKNOWN"]}
        elif callee is TALKS and fault != "not sent":
            assert world.statuses(campaign) == {number: ["TERMINATED/YES"]}
        world.check_at_rest(campaign)


async def test_an_asterisk_that_talks_to_us_and_takes_no_calls_is_told_as_such() -> None:
    # As with a password that was changed: the plan said that it cannot be reached, and /readyz that all is well.
    async with World() as world:
        world.pbx.default = BUSY.but(fault="not sent")
        campaign = await world.campaign(numbers(3))
        daemon = await world.daemon()
        await world.sleep(5)
        assert world.limit(campaign) == "PBX_DOWN"
        assert "takes no originates: asterisk is unavailable" in (daemon.engine.why_not_ready() or "")
        world.pbx.default = BUSY
        await world.completed(campaign)
        assert daemon.engine.why_not_ready() is None


async def test_ports_that_never_answer_are_outlived_by_deadlines() -> None:
    async with World() as world:
        for n, number in enumerate(numbers(12)):
            world.pbx.callees[number] = [RINGS_OUT, NEVER_RINGS, answers(4.0), BUSY][n % 4]
        campaign = await world.campaign(
            numbers(20), flow=STAY, dialTimeout=15, maxCallDuration=20, maxChannels=12
        )
        await world.daemon()
        await world.sleep(1.5)
        world.pbx.hung = True
        await world.sleep(100)
        assert len(world.live()) <= 12
        world.pbx.hung = False
        await world.completed(campaign, within=200)
        assert max(world.pbx.by_number.values()) == 1
        assert world.statuses(campaign).keys() == set(numbers(20))
        world.check_at_rest(campaign)


async def test_a_call_that_is_too_long_is_ended_and_what_was_said_is_kept() -> None:
    async with World() as world:
        flow = {"yes": {"type": "result", "extStatus": "YES", "next": "stay"}, **STAY}
        campaign = await world.campaign(numbers(1), flow=flow, maxCallDuration=10)
        await world.daemon()
        await world.completed(campaign)
        assert list(world.statuses(campaign).values()) == [["TERMINATED/YES"]]
        assert world.at < 16


# --- Asterisk's events ---


async def test_lines_that_ring_when_the_socket_is_lost_are_cut_after_fifteen_seconds_and_not_before() -> None:
    async with World() as world:
        world.pbx.default = RINGS_OUT
        campaign = await world.campaign(numbers(30), maxChannels=10, callsPerSecond=1)
        daemon = await world.daemon()
        await world.sleep(8)
        ringing = len(world.pbx.channels)
        assert ringing > 5
        world.pbx.lose_socket()
        await world.sleep(20)
        assert len(world.pbx.originates) == ringing, "nothing new"
        assert world.limit(campaign) == "PBX_DOWN"
        assert "Asterisk" in (daemon.engine.why_not_ready() or "")
        assert len(world.pbx.cut) == ringing
        assert all(15.0 <= rang < 16.0 for _, _, rang in world.pbx.cut)
        world.pbx.restore_socket()
        await world.sleep(1)
        assert {tuple(one) for one in world.statuses(campaign).values()} == {("RS_NOANSWER",)}
        assert len(world.results(campaign)) == ringing


async def test_answered_calls_go_on_after_the_socket_was_lost() -> None:
    async with World() as world:
        one, two, three = numbers(3)
        world.pbx.callees |= {
            one: answers(0.5, keys=[(6.0, "1")]),
            two: answers(0.5, talks=3.0),  # hangs up while nobody hears it
            three: answers(3.5, keys=[(3.0, "1")]),  # answers meanwhile, and waits in the dialplan
        }
        patient = {**SURVEY, "ask": dict(SURVEY["ask"], timeout=10)}
        campaign = await world.campaign([one, two, three], flow=patient)
        await world.daemon()
        await world.sleep(1.5)
        world.pbx.lose_socket()
        await world.sleep(4)
        world.pbx.restore_socket()
        await world.completed(campaign)
        statuses = world.statuses(campaign)
        assert statuses[one] == ["TERMINATED/YES"]
        assert statuses[three] == ["TERMINATED/YES"]
        assert statuses[two][0].startswith(("TERMINATED", "RS_ERROR/UNKNOWN"))
        assert max(world.pbx.by_number.values()) == 1
        world.check_at_rest(campaign)


async def test_who_has_answered_is_not_cut_at_the_end_of_his_ring_while_somebody_asks_after_him() -> None:
    # The second to ask took no answer for one: he who had answered while nobody heard it was hung up as a ring-out.
    async with World() as world:
        world.pbx.default = answers(14.9)
        campaign = await world.campaign(numbers(1), flow=HELLO, dialTimeout=15)
        await world.daemon()
        await world.until(lambda: world.pbx.originates)
        sent = world.pbx.originates[0].at
        await world.sleep(sent + 14.0 - world.at)
        world.pbx.lose_socket()
        await world.sleep(sent + 19.95 - world.at)
        world.pbx.hung = True  # for those who ask just now
        world.pbx.restore_socket()
        await world.sleep(0.02)
        world.pbx.hung = False
        await world.completed(campaign)
        assert list(world.statuses(campaign).values()) == [["TERMINATED"]]
        assert not world.pbx.cut


@pytest.mark.parametrize(
    "event", ["StasisStart", "ChannelDestroyed", "PlaybackFinished", "ChannelStateChange", "Dial"]
)
@pytest.mark.parametrize("callee", [TALKS, BUSY, answers(1.0, talks=1.0)], ids=["talks", "busy", "hangs up"])
async def test_a_lost_event_is_found_by_asking(event: str, callee: Callee) -> None:
    async with World() as world:
        number = numbers(1)[0]
        world.pbx.callees[number] = callee.but(loses=frozenset([event]))
        campaign = await world.campaign([number], flow=SURVEY)
        daemon = await world.daemon()
        await world.sleep(6)
        await daemon.audit()
        await world.completed(campaign, within=20)
        assert world.pbx.by_number == {number: 1}
        world.check_at_rest(campaign)


@pytest.mark.parametrize("callee", [TALKS.but(keys=()), BUSY, RINGS_OUT], ids=["talks", "busy", "rings"])
async def test_events_that_come_twice_count_once(callee: Callee) -> None:
    async with World() as world:
        world.pbx.default = callee.but(twice=True)
        campaign = await world.campaign(numbers(3), flow=HELLO, dialTimeout=15)
        await world.daemon()
        await world.completed(campaign)
        assert world.ledger.settled.total() == 3
        world.check_at_rest(campaign)


@pytest.mark.parametrize("callee", [TALKS, BUSY], ids=["talks", "busy"])
async def test_a_call_may_be_over_before_its_originate_is_answered(callee: Callee) -> None:
    async with World() as world:
        world.pbx.default = callee.but(reply_seconds=8.0)
        campaign = await world.campaign(numbers(2), flow=SURVEY)
        await world.daemon()
        await world.completed(campaign)
        assert {tuple(one) for one in world.statuses(campaign).values()} in (
            {("RS_BUSY",)},
            {("TERMINATED/YES",)},
        )
        world.check_at_rest(campaign)


async def test_a_restarted_asterisk_has_lost_its_calls_and_only_who_was_not_talking_is_called_again() -> None:
    async with World() as world:
        talking, ringing = numbers(2)
        world.pbx.callees |= {talking: answers(0.5), ringing: [RINGS_OUT, BUSY]}
        campaign = await world.campaign(
            [talking, ringing], flow=STAY, rules=[rule("RS_ERROR", after=2, times=3)]
        )
        await world.daemon()
        await world.sleep(3)
        world.pbx.restart()
        await world.sleep(2)
        world.pbx.restore_socket()
        await world.completed(campaign)
        assert world.statuses(campaign) == {
            talking: ["RS_ERROR/PBX_LOST"], ringing: ["RS_ERROR/PBX_LOST", "RS_BUSY"],
        }  # fmt: skip
        world.check_at_rest(campaign)


async def test_who_was_talking_before_a_crash_is_not_called_again_when_asterisk_dies_too() -> None:
    # What was recorded of an adopted call was not read, so it counted as one that had never been answered.
    async with World() as world:
        number = numbers(1)[0]
        campaign = await world.campaign([number], flow=STAY, rules=[rule("RS_ERROR", after=2, times=3)])
        first = await world.daemon()
        await world.sleep(4)
        await first.kill()
        world.pbx.rest_down = True
        await world.daemon()
        await world.sleep(3)
        world.pbx.restart()
        world.pbx.rest_down = False
        world.pbx.restore_socket()
        await world.completed(campaign)
        assert world.statuses(campaign) == {number: ["RS_ERROR/PBX_LOST"]}
        assert world.pbx.by_number == {number: 1}


async def test_a_call_that_nobody_drives_is_hung_up_when_it_enters_the_application() -> None:
    async with World() as world:
        await world.daemon()
        await world.sleep(1)
        world.pbx.place("host", "a999999999", "PJSIP/602999999@carrier", 30)
        await world.sleep(5)
        assert not world.pbx.channels


# --- the trunk's brake ---


async def test_a_carrier_that_fails_for_a_minute_touches_few_contacts_and_everybody_else_is_called_after() -> (
    None
):
    async with World() as world:
        world.pbx.default = lambda: CARRIER_FAILS if world.at < 61 else BUSY
        waiting = numbers(10_000)
        campaign = await world.campaign(waiting, maxChannels=60)
        daemon = await world.daemon()
        await world.sleep(55)
        assert len(world.pbx.by_number) <= 25
        assert world.limit(campaign) == "TRUNK_DOWN"
        assert "503" in daemon.engine.plans[campaign].text
        counts = world.census(campaign)
        assert counts["closed"] == len(world.pbx.by_number)
        before = len(world.pbx.originates)
        await world.until(lambda: len(world.pbx.originates) > before + 60, within=70)
        assert world.limit(campaign) != "TRUNK_DOWN"
        assert max(world.pbx.by_number.values()) == 1


@pytest.mark.parametrize("channels", [1, 50])
async def test_a_missing_endpoint_costs_nobody_his_call(channels: int) -> None:
    async with World() as world:
        world.pbx.default = lambda: NO_ENDPOINT if world.at < 40 else BUSY.but(ends_after=0.1)
        campaign = await world.campaign(numbers(40), maxChannels=channels)
        await world.daemon()
        await world.sleep(39)
        assert len(world.pbx.by_number) <= 25
        assert world.limit(campaign) == "TRUNK_DOWN"
        assert world.census(campaign)["waiting"] == 40
        await world.completed(campaign, within=200)
        made = [one.number for one in world.pbx.originates if one.made]
        assert sorted(made) == numbers(40)
        assert {one[-1] for one in world.statuses(campaign).values()} == {"RS_BUSY"}
        world.check_at_rest(campaign)


async def test_a_dead_trunk_does_not_slow_another_one() -> None:
    async with World(trunks=[trunk("carrier"), trunk("other")]) as world:
        world.pbx.default = BUSY
        world.pbx.callees = dict.fromkeys(numbers(50), CARRIER_FAILS)
        dead = await world.campaign(numbers(50))
        alive = await world.campaign(numbers(50, 603_000_001), trunk="other")
        await world.daemon()
        await world.completed(alive, within=15)
        assert world.limit(dead) == "TRUNK_DOWN"


async def test_a_trunk_may_be_added_just_when_it_is_told_that_another_one_is_closed() -> None:
    # Its name came among those that were gone through, and the daemon ended.
    async with World() as world:
        world.pbx.default = CARRIER_FAILS
        await world.campaign(numbers(50))
        daemon = await world.daemon()
        await world.until(lambda: len(world.pbx.originates) == 10, every=0.01)
        daemon.redis.seconds = 0.1  # from the writing to its answer there is time
        await world.until(lambda: "trunk" in world.told(), every=0.01)
        world.trunks.append(trunk("other"))
        daemon.fate.inside(daemon.engine.take, world.settings())
        await world.sleep(1)
