from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialer_engine.core.agents import LEAVING_SECONDS, OFFER_SECONDS, SEEN_SECONDS, Floor, QueueState
from dialer_engine.core.model import Agent, QueueName
from dialer_engine.core.told import (
    CallerAbandoned,
    CallerJoined,
    CallerLeft,
    Completed,
    Connected,
    DeviceState,
    MemberGone,
    MemberSeen,
    Offered,
    Refused,
    Rules,
    Told,
)

NOW = datetime(2026, 8, 10, 12, tzinfo=UTC)
GREEN, BLUE = QueueName("green"), QueueName("blue")
ANNA, BERT = Agent("PJSIP/1001"), Agent("PJSIP/1002")
IDLE, RINGING, TALKING = DeviceState.NOT_INUSE, DeviceState.RINGING, DeviceState.INUSE


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def member(
    agent: Agent = ANNA,
    state: DeviceState = IDLE,
    *,
    queue: QueueName = GREEN,
    interface: str = "",
    paused: bool = False,
    in_call: bool = False,
    last_call_at: datetime | None = None,
    wrap_up_seconds: float = 0.0,
) -> MemberSeen:
    return MemberSeen(
        queue=queue,
        interface=interface or agent,
        agent=agent,
        name=agent,
        state=state,
        paused=paused,
        in_call=in_call,
        last_call_at=last_call_at,
        wrap_up_seconds=wrap_up_seconds,
    )


def joined(caller: str = "c1", queue: QueueName = GREEN) -> CallerJoined:
    return CallerJoined(queue, caller, NOW)


def offered(caller: str = "c1", agent: Agent = ANNA, queue: QueueName = GREEN) -> Offered:
    return Offered(queue, caller, agent, None, NOW)


def connected(caller: str = "c1", agent: Agent = ANNA, queue: QueueName = GREEN) -> Connected:
    return Connected(queue, caller, agent, agent, NOW, None)


def completed(
    caller: str = "c1", agent: Agent = ANNA, queue: QueueName = GREEN, when: datetime = NOW
) -> Completed:
    return Completed(queue, caller, agent, "caller", when)


def floor(*told: Told, rules: dict[QueueName, Rules] | None = None) -> Floor:
    made = Floor(rules)
    for each in told:
        made.feed(each)
    return made


def state(of: Floor, queue: QueueName = GREEN, now: datetime = NOW) -> QueueState:
    found = of.state(queue, now)
    assert found is not None
    return found


def is_free(of: Floor, agent: Agent = ANNA, queue: QueueName = GREEN, now: datetime = NOW) -> bool:
    return agent in state(of, queue, now).available


# --- who is available


def test_of_a_queue_nobody_spoke_of_nothing_is_known() -> None:
    assert Floor().state(GREEN, NOW) is None


@pytest.mark.parametrize(
    ("seen", "available"),
    [
        (member(), True),
        (member(paused=True), False),
        (member(in_call=True), False),
        *((member(state=other), False) for other in DeviceState if other is not IDLE),
    ],
)
def test_only_an_idle_telephone_of_somebody_unpaused_is_available(seen: MemberSeen, available: bool) -> None:
    assert is_free(floor(seen)) is available


def test_the_agents_of_a_queue_are_counted_by_what_they_do() -> None:
    rules = {GREEN: Rules(wrap_up_seconds=5)}
    of = floor(
        member(Agent("free")),
        member(Agent("talks"), TALKING),
        member(Agent("talks though paused"), TALKING, paused=True),
        member(Agent("paused"), paused=True),
        member(Agent("wraps up"), last_call_at=at(-2)),
        member(Agent("has wrapped up"), last_call_at=at(-5)),
        member(Agent("rings"), RINGING),
        member(Agent("unknown"), DeviceState.UNKNOWN),
        member(Agent("unplugged"), DeviceState.UNAVAILABLE),
        member(Agent("no such telephone"), DeviceState.INVALID, paused=True),
        rules=rules,
    )
    seen = state(of)
    assert seen.available == {"free", "has wrapped up"}
    assert (seen.logged_in, seen.in_call, seen.paused, seen.wrapping_up) == (8, 2, 1, 1)
    assert seen.next_free_at == at(3)


def test_an_agent_of_two_queues_is_one_telephone() -> None:
    of = floor(member(), member(queue=BLUE))
    assert is_free(of) and is_free(of, queue=BLUE)
    of.feed(member(state=TALKING))
    assert not is_free(of, queue=BLUE)
    of.feed(member(state=TALKING, queue=BLUE))
    of.feed(member())
    assert not is_free(of)  # blue has not seen it yet
    of.feed(member(queue=BLUE))
    assert is_free(of) and is_free(of, queue=BLUE)


def test_a_pause_is_of_one_queue() -> None:
    of = floor(member(paused=True), member(queue=BLUE))
    assert not is_free(of)
    assert is_free(of, queue=BLUE)


def test_a_member_twice_in_a_queue_is_counted_once() -> None:
    of = floor(member(interface="PJSIP/1001"), member(interface="Local/1001@from-queue/n"))
    assert state(of).available == {ANNA}
    assert state(of).logged_in == 1
    of.feed(member(interface="Local/1001@from-queue/n", paused=True))
    assert state(of).available == {ANNA}
    assert state(of).paused == 0


def test_who_is_a_member_under_two_state_interfaces_is_two() -> None:
    """As in Asterisk, which would ring him for two callers; documented, for nothing tells that they are one."""
    hint = Agent("hint:1001@ext-local")
    of = floor(member(), member(hint, interface="Local/1001@from-queue/n"))
    assert state(of).available == {ANNA, hint}


def test_a_local_member_is_known_by_his_state_interface_and_dialed_by_his_interface() -> None:
    hint, local = Agent("hint:1001@ext-local"), "Local/1001@from-queue/n"
    of = floor(member(hint, interface=local), joined(), Offered(GREEN, "c1", local, None, NOW))
    assert not is_free(of, hint)
    of.feed(Refused(GREEN, "c1", local))
    assert is_free(of, hint)
    of.feed(MemberGone(GREEN, local))
    assert not is_free(of, hint)


def test_an_interface_may_get_another_telephone() -> None:
    of = floor(member(interface="Local/1"), member(BERT, interface="Local/1"))
    assert state(of).available == {BERT}


def test_who_is_gone_is_gone_from_his_queue_alone() -> None:
    of = floor(member(), member(queue=BLUE))
    assert of.feed(MemberGone(GREEN, ANNA))
    assert not of.feed(MemberGone(GREEN, ANNA))
    assert not is_free(of) and is_free(of, queue=BLUE)
    assert state(of).logged_in == 0


# --- wrap-up


def test_wrap_up_is_the_members_or_the_queues() -> None:
    of = floor(member(last_call_at=NOW), rules={GREEN: Rules(wrap_up_seconds=5)})
    assert state(of).next_free_at == at(5)
    assert not is_free(of, now=at(4.999)) and is_free(of, now=at(5))
    of.feed(member(last_call_at=NOW, wrap_up_seconds=2))
    assert is_free(of, now=at(2)) and not is_free(of, now=at(1.999))


def test_new_rules_hold_at_once() -> None:
    of = floor(member(last_call_at=NOW))
    assert is_free(of)
    assert of.take_rules({GREEN: Rules(wrap_up_seconds=5)})
    assert not of.take_rules({GREEN: Rules(wrap_up_seconds=5)})
    assert not is_free(of)


def test_a_clock_set_back_is_not_answered_from_memory() -> None:
    of = floor(member(last_call_at=NOW), rules={GREEN: Rules(wrap_up_seconds=5)})
    assert is_free(of, now=at(6))
    assert not is_free(of, now=at(1))


def test_wrap_up_runs_from_the_end_of_the_call_before_last_call_says_so() -> None:
    of = floor(member(last_call_at=at(-100)), rules={GREEN: Rules(wrap_up_seconds=5)})
    of.feed(connected())
    of.feed(member(state=TALKING, in_call=True, last_call_at=at(-100)))
    of.feed(completed(when=NOW))
    of.feed(member(last_call_at=at(-100), in_call=True))  # of before, and told now
    assert not is_free(of, now=at(5)) and is_free(of, now=at(5.1))
    of.feed(member(last_call_at=at(-0.7)))  # in whole seconds
    assert is_free(of, now=at(4.3))


def test_last_call_never_goes_back() -> None:
    of = floor(member(last_call_at=NOW), rules={GREEN: Rules(wrap_up_seconds=5)})
    of.feed(member(last_call_at=at(-50)))
    of.feed(member(last_call_at=None))
    assert not is_free(of, now=at(4))


def test_a_shared_last_call_makes_wrap_up_in_every_queue() -> None:
    rules = {GREEN: Rules(wrap_up_seconds=5), BLUE: Rules(wrap_up_seconds=2)}
    of = floor(member(), member(queue=BLUE), connected(), completed(), rules=rules)
    assert not is_free(of, queue=BLUE, now=at(4)) and is_free(of, queue=BLUE, now=at(5.1))
    of.feed(connected(queue=BLUE))
    of.feed(completed(queue=BLUE, when=at(10)))
    assert not is_free(of, now=at(14)) and is_free(of, now=at(15.1))  # green wants its own wrap-up, too
    assert not is_free(of, queue=BLUE, now=at(11)) and is_free(of, queue=BLUE, now=at(12.1))


def test_whose_last_call_is_not_known_wraps_up_as_long_as_any_of_his_queues_wants() -> None:
    rules = {GREEN: Rules(wrap_up_seconds=5), BLUE: Rules(wrap_up_seconds=2)}
    of = floor(member(last_call_at=NOW), member(queue=BLUE, last_call_at=NOW), rules=rules)
    assert not is_free(of, queue=BLUE, now=at(4)) and is_free(of, queue=BLUE, now=at(5))


def test_without_a_shared_last_call_each_queue_has_its_own_wrap_up() -> None:
    rules = {queue: Rules(wrap_up_seconds=5, shared_last_call=False) for queue in (GREEN, BLUE)}
    of = floor(member(), member(queue=BLUE), connected(), completed(), rules=rules)
    assert not is_free(of) and is_free(of, queue=BLUE)


def test_when_the_engine_may_settle() -> None:
    of = floor(member(), member(BERT, wrap_up_seconds=9), rules={GREEN: Rules(wrap_up_seconds=5)})
    assert of.wrap_up_ends_at(GREEN, ANNA, NOW) == at(5)
    assert of.wrap_up_ends_at(GREEN, BERT, NOW) == at(9)
    assert of.wrap_up_ends_at(GREEN, "nobody", NOW) == at(5)
    assert of.wrap_up_ends_at(BLUE, ANNA, NOW) == NOW
    assert of.wrap_up_ends_at(QueueName("Green"), BERT, NOW) == at(9)


def test_a_queue_is_found_whatever_the_case_as_asterisk_finds_it() -> None:
    of = floor(member(), joined("c1"))
    assert of.state(QueueName("GREEN"), NOW) == of.state(GREEN, NOW)
    assert (of.spelt(QueueName("Green")), of.spelt(BLUE)) == (GREEN, BLUE)


# --- offers


def test_who_is_rung_is_available_to_no_queue_and_his_caller_does_not_wait() -> None:
    of = floor(member(), member(queue=BLUE), joined())
    assert (state(of).waiting, of.is_waiting("c1"), "c1" in of.offered) == (1, True, False)
    of.feed(offered())
    assert not is_free(of) and not is_free(of, queue=BLUE)
    assert (state(of).waiting, of.is_waiting("c1"), "c1" in of.offered) == (0, True, True)


def test_an_idle_telephone_is_no_proof_that_it_does_not_ring() -> None:
    """Blue hears of the end of the last call when green has offered the next one already."""
    of = floor(member(state=TALKING), member(state=TALKING, queue=BLUE), joined())
    of.feed(member())
    of.feed(offered())
    of.feed(member(queue=BLUE))
    assert not is_free(of) and not is_free(of, queue=BLUE)
    of.feed(member(state=RINGING))
    of.feed(member(queue=BLUE, paused=True))  # blue still believes in what it saw
    of.feed(member(queue=BLUE, state=RINGING))
    assert "c1" in of.offered
    of.feed(member())
    of.feed(member(queue=BLUE))
    assert is_free(of) and "c1" not in of.offered


def test_a_refusal_gives_the_agent_and_the_caller_back() -> None:
    of = floor(member(), joined(), offered(), member(state=RINGING))
    of.feed(Refused(GREEN, "c1", ANNA))
    assert (is_free(of), state(of).waiting) == (False, 1)  # the telephone is still ringing
    of.feed(member())
    assert is_free(of)


def test_who_was_not_seen_to_ring_yet_is_held_until_he_is() -> None:
    """app_queue tries nobody again before it has seen his telephone change; the caller may be offered to others."""
    of = floor(member(), joined(), offered(), Refused(GREEN, "c1", ANNA, NOW))
    assert (is_free(of), state(of).waiting, "c1" in of.offered) == (False, 1, False)
    assert is_free(of, now=at(SEEN_SECONDS))
    of.feed(member(state=RINGING))
    of.feed(member())
    assert is_free(of)


def test_a_telephone_that_is_busy_ringing_does_not_talk() -> None:
    """PJSIP's device_state_busy_at=1."""
    of = floor(member(), joined(), offered(), member(state=DeviceState.BUSY))
    assert (is_free(of), state(of).in_call) == (False, 0)
    of.feed(connected())
    assert (is_free(of), state(of).in_call) == (False, 1)


def test_an_offer_of_the_same_again_is_a_new_one() -> None:
    of = floor(member(), joined(), offered(), Refused(GREEN, "c1", ANNA, NOW))
    assert of.feed(Offered(GREEN, "c1", ANNA, None, at(1)))
    assert (is_free(of, now=at(100)), state(of, now=at(100)).waiting) == (False, 0)


def test_a_ring_of_all_ends_for_all_when_one_answers() -> None:
    of = floor(member(), member(BERT), joined(), offered(), offered(agent=BERT))
    of.feed(Refused(GREEN, "c1", BERT))
    assert "c1" in of.offered and is_free(of, BERT)
    of.feed(offered(agent=BERT))
    of.feed(CallerLeft(GREEN, "c1", NOW))
    assert not of.is_waiting("c1")
    of.feed(connected(agent=BERT))
    assert state(of).available == {ANNA}
    assert state(of).in_call == 1
    of.feed(completed(agent=BERT))
    assert state(of, now=at(SEEN_SECONDS)).available == {ANNA, BERT}


def test_between_leaving_the_queue_and_the_connect_the_agent_is_held() -> None:
    of = floor(member(), joined(), offered(), CallerLeft(GREEN, "c1", NOW))
    assert not is_free(of, now=at(LEAVING_SECONDS - 0.1))
    assert of.next_change_at(NOW) == at(LEAVING_SECONDS)
    assert is_free(of, now=at(LEAVING_SECONDS))  # left by a key, and nobody says what became of the ringing


def test_who_gives_up_lets_the_agent_go_at_once() -> None:
    of = floor(member(), joined(), offered())
    of.feed(CallerAbandoned(GREEN, "c1", 3.0, NOW))
    assert is_free(of) and not of.is_waiting("c1")
    assert not of.feed(CallerLeft(GREEN, "c1", NOW))


def test_an_offer_without_an_end_ends() -> None:
    of = floor(member(), joined(), offered())
    assert of.next_change_at(NOW) == at(OFFER_SECONDS)
    assert not is_free(of, now=at(OFFER_SECONDS - 1))
    assert not of.expire(at(OFFER_SECONDS - 1))
    assert is_free(of, now=at(OFFER_SECONDS)) and state(of, now=at(OFFER_SECONDS)).waiting == 1
    assert of.expire(at(OFFER_SECONDS))
    assert "c1" not in of.offered
    assert of.next_change_at(at(OFFER_SECONDS)) is None


def test_an_agent_without_a_device_state_talks_until_he_is_told_to_have_ended() -> None:
    of = floor(member(), joined(), offered(), CallerLeft(GREEN, "c1", NOW), connected())
    assert not is_free(of, now=at(3600)) and state(of, now=at(3600)).in_call == 1
    of.feed(completed(when=at(3600)))
    assert is_free(of, now=at(3601))


def test_an_offer_by_an_unknown_member_harms_nobody() -> None:
    of = floor(member(), joined("x"))
    assert state(of).waiting == 1
    of.feed(offered(caller="x", agent=Agent("Local/ghost")))
    assert (is_free(of), state(of).waiting) == (True, 0)
    assert of.feed(Refused(GREEN, "x", "Local/ghost"))
    assert state(of).waiting == 1
    assert not of.feed(Refused(GREEN, "x", "Local/ghost"))
    assert not of.feed(connected(caller="y", agent=Agent("Local/ghost")))
    assert not of.feed(completed(caller="y", agent=Agent("Local/ghost")))


# --- callers


def test_a_caller_is_in_one_queue() -> None:
    of = floor(joined(), joined(queue=BLUE))
    assert (state(of).waiting, state(of, BLUE).waiting) == (0, 1)
    assert not of.feed(CallerLeft(GREEN, "c1", NOW))
    assert of.feed(CallerLeft(BLUE, "c1", NOW))
    assert not of.is_waiting("c1")


@pytest.mark.parametrize(
    "told",
    [
        [member()],
        [MemberGone(GREEN, "nobody")],
        [joined()],
        [joined(), CallerLeft(GREEN, "c1", NOW)],
        [joined(), CallerAbandoned(GREEN, "c1", 1.0, NOW)],
        [member(), joined(), offered()],
        [member(), joined(), offered(), Refused(GREEN, "c1", ANNA)],
        [member(), joined(), connected()],
    ],
)
def test_what_is_told_twice_changes_nothing(told: list[Told]) -> None:
    of = floor(*told)
    before = of.state(GREEN, NOW)
    assert not of.feed(told[-1])
    assert of.state(GREEN, NOW) == before


# --- snapshots


def test_a_snapshot_counts_what_differed() -> None:
    of = floor(member(), member(BERT), member(Agent("old")), joined(), joined("c2"))
    drift = of.replace(
        [member(), member(BERT, paused=True), member(Agent("new"))], [joined(), joined("c3")], [GREEN, BLUE]
    )
    assert drift == 5  # Bert, old, new, c2, c3
    assert state(of).available == {ANNA, Agent("new")}
    assert state(of).waiting == 2
    assert state(of, BLUE) == QueueState(frozenset(), 0, 0, 0, 0, 0, None)
    assert of.replace(of.members, of.callers, of.queues) == 0


def test_of_two_rows_for_one_member_the_last_counts() -> None:
    of = Floor()
    of.replace([member(interface="Local/1"), member(BERT, interface="Local/1")], [], [GREEN])
    assert state(of).available == {BERT}


def test_a_queue_that_is_not_in_the_snapshot_is_gone() -> None:
    of = floor(member(), member(queue=BLUE))
    of.replace([member()], [], [GREEN])
    assert of.state(BLUE, NOW) is None
    assert is_free(of)


def test_last_call_is_no_drift_for_it_changes_without_an_event() -> None:
    of = floor(member())
    assert of.replace([member(last_call_at=NOW)], [], [GREEN]) == 0
    of.take_rules({GREEN: Rules(wrap_up_seconds=5)})
    assert not is_free(of)


def test_a_snapshot_ends_no_offer_of_a_caller_who_still_waits() -> None:
    of = floor(member(), member(BERT), joined(), joined("c2"), offered(), offered("c2", BERT))
    of.replace([member(), member(BERT)], [joined()], [GREEN])
    assert state(of).available == {BERT}
    assert ("c1" in of.offered, "c2" in of.offered) == (True, False)


def test_a_snapshot_ends_a_call_whose_end_was_missed_and_begins_none() -> None:
    of = floor(member(), member(BERT), connected())
    of.replace([member(in_call=False), member(BERT, in_call=True)], [], [GREEN])
    assert state(of).available == {ANNA, BERT}  # Bert's end is known; the row was written just before


def test_nobody_is_free_when_nobody_tells_any_more() -> None:
    of = floor(member(), joined(), offered())
    of.lost()
    assert state(of).available == frozenset()
    assert ("c1" in of.offered, of.is_waiting("c1")) == (False, True)
    of.replace([member(in_call=True)], [], [GREEN])
    assert state(of).in_call == 1  # what was said then is believed


# --- against a model of app_queue


@dataclass
class Exchange:
    """app_queue in small: what it would offer, and what it tells of it in which order (its sources, 22.10).

    A device's change is told queue by queue by one thread, and everything else may happen in between. LastCall
    changes silently. Who is being tried is in `pending` until a queue sees his telephone change.
    """

    wrap_up: dict[QueueName, float]
    agents: tuple[Agent, ...] = (ANNA, BERT, Agent("PJSIP/1003"))
    now: datetime = NOW
    told: list[Told] = field(default_factory=list)
    device: dict[Agent, DeviceState] = field(default_factory=dict)
    changes: list[tuple[QueueName, Agent, DeviceState]] = field(default_factory=list)
    rows: dict[tuple[QueueName, Agent], MemberSeen] = field(default_factory=dict)
    last_queue: dict[Agent, QueueName] = field(default_factory=dict)
    pending: set[Agent] = field(default_factory=set)
    waiting: dict[str, QueueName] = field(default_factory=dict)
    ringing: dict[str, Agent] = field(default_factory=dict)
    talking: dict[str, tuple[QueueName, Agent]] = field(default_factory=dict)
    born: int = 0

    def __post_init__(self) -> None:
        for queue in self.wrap_up:
            for agent in self.agents:
                self.device[agent] = IDLE
                self.rows[queue, agent] = member(agent, queue=queue)
                self.tell_member(queue, agent)

    def may_be_offered(self, queue: QueueName, agent: Agent) -> bool:
        row = self.rows[queue, agent]
        wrap_up = max(self.wrap_up[queue], self.wrap_up[self.last_queue.get(agent, queue)])
        over = row.last_call_at is None or self.now - row.last_call_at >= timedelta(seconds=wrap_up)
        busy = wrap_up > 0 and row.in_call
        return row.state is IDLE and not row.paused and over and not busy and agent not in self.pending

    def tell_member(self, queue: QueueName, agent: Agent) -> None:
        self.told.append(self.rows[queue, agent])

    def turn(self, agent: Agent, into: DeviceState) -> None:
        self.device[agent] = into
        self.changes += [(queue, agent, into) for queue in self.wrap_up]

    def is_behind(self, queue: QueueName, agent: Agent) -> bool:
        """Does this queue not know yet what his telephone has done? What is shorter than these milliseconds (a call of
        his own, a caller who gave up) would be taken for the ringing of the next offer, whose caller then counts as
        waiting: that errs on the safe side, and is not judged here."""
        return any((queue, agent) == change[:2] for change in self.changes)

    # what may happen

    def pass_time(self, which: int) -> None:
        """What has changed is told within milliseconds."""
        while self.changes:
            self.device_is_seen(0)
        self.now += timedelta(seconds=(0.3, 1.0, 2.5, 7.0)[which % 4])

    def device_is_seen(self, _: int) -> None:
        if self.changes:
            queue, agent, into = self.changes.pop(0)
            if self.rows[queue, agent].state is not into:
                self.pending.discard(agent)
            self.rows[queue, agent] = replace(self.rows[queue, agent], state=into)
            self.tell_member(queue, agent)

    def join(self, which: int) -> None:
        self.born += 1
        queue = list(self.wrap_up)[which % len(self.wrap_up)]
        self.waiting[f"c{self.born}"] = queue
        self.told.append(CallerJoined(queue, f"c{self.born}", self.now))

    def offer(self, which: int) -> None:
        for caller, queue in self.waiting.items():
            if caller in self.ringing:
                continue
            able = [
                agent
                for agent in self.agents
                if self.may_be_offered(queue, agent)
                and self.device[agent] is IDLE
                and not self.is_behind(queue, agent)
            ]
            if able:
                agent = able[which % len(able)]
                self.pending.add(agent)
                self.ringing[caller] = agent
                self.turn(agent, RINGING)
                self.told.append(Offered(queue, caller, agent, None, self.now))
                return

    def refuse(self, which: int) -> None:
        if self.ringing:
            caller = list(self.ringing)[which % len(self.ringing)]
            agent = self.ringing.pop(caller)
            self.turn(agent, IDLE)
            self.told.append(Refused(self.waiting[caller], caller, agent, self.now))

    def give_up(self, which: int) -> None:
        if self.waiting:
            caller = list(self.waiting)[which % len(self.waiting)]
            queue = self.waiting.pop(caller)
            if caller in self.ringing:
                agent = self.ringing.pop(caller)
                if self.rows[queue, agent].state is IDLE:
                    self.pending.discard(agent)
                self.turn(agent, IDLE)
            self.told += [CallerAbandoned(queue, caller, 1.0, self.now), CallerLeft(queue, caller, self.now)]

    def answer(self, which: int) -> None:
        if self.ringing:
            caller = list(self.ringing)[which % len(self.ringing)]
            queue, agent = self.waiting.pop(caller), self.ringing.pop(caller)
            self.turn(agent, TALKING)
            self.told.append(CallerLeft(queue, caller, self.now))
            for each in self.wrap_up:
                self.rows[each, agent] = replace(self.rows[each, agent], in_call=True)
            self.talking[caller] = queue, agent
            self.told.append(Connected(queue, caller, agent, agent, self.now, None))

    def end(self, which: int) -> None:
        if self.talking:
            caller = list(self.talking)[which % len(self.talking)]
            queue, agent = self.talking.pop(caller)
            self.told.append(Completed(queue, caller, agent, "caller", self.now))
            self.last_queue[agent] = queue
            for each in self.wrap_up:
                row = replace(
                    self.rows[each, agent], in_call=False, last_call_at=self.now.replace(microsecond=0)
                )
                self.rows[each, agent] = row
            self.turn(agent, IDLE)

    def pause(self, which: int) -> None:
        queue = list(self.wrap_up)[which % len(self.wrap_up)]
        agent = self.agents[which % len(self.agents)]
        self.rows[queue, agent] = replace(self.rows[queue, agent], paused=not self.rows[queue, agent].paused)
        self.tell_member(queue, agent)

    def own_call(self, which: int) -> None:
        agent = self.agents[which % len(self.agents)]
        engaged = {*self.ringing.values(), *(agent for _, agent in self.talking.values())}
        if agent not in engaged:
            self.turn(agent, IDLE if self.device[agent] is TALKING else TALKING)

    def repeat(self, _: int) -> None:
        if self.told:
            self.told.append(self.told[-1])

    def settle(self) -> None:
        """Everybody hangs up, everything is told, every wrap-up is over."""
        for one in (self.refuse, self.give_up, self.end):
            while (self.ringing, self.waiting, self.talking)[(self.refuse, self.give_up, self.end).index(one)]:
                one(0)
        for agent in self.agents:
            if self.device[agent] is not IDLE:
                self.turn(agent, IDLE)
        while self.changes:
            self.device_is_seen(0)
        self.now += timedelta(seconds=60)


STEPS = (
    Exchange.pass_time,
    Exchange.device_is_seen,
    Exchange.device_is_seen,
    Exchange.device_is_seen,
    Exchange.join,
    Exchange.offer,
    Exchange.offer,
    Exchange.refuse,
    Exchange.give_up,
    Exchange.answer,
    Exchange.end,
    Exchange.pause,
    Exchange.own_call,
    Exchange.repeat,
)


def listen(exchange: Exchange, of: Floor) -> Iterator[Told]:
    while exchange.told:
        told = exchange.told.pop(0)
        of.feed(told)
        yield told


def judge(exchange: Exchange, of: Floor) -> None:
    for queue in exchange.wrap_up:
        seen = state(of, queue, exchange.now)
        able = {agent for agent in exchange.agents if exchange.may_be_offered(queue, agent)}
        assert seen.available <= able, (queue, seen.available - able)
        waiting = [caller for caller, where in exchange.waiting.items() if where == queue]
        assert seen.waiting == sum(caller not in exchange.ringing for caller in waiting)
        assert all((caller in of.offered) is (caller in exchange.ringing) for caller in waiting)


@settings(max_examples=250)
@given(
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), max_size=80),
    wrap_up=st.sampled_from(
        [{GREEN: 0.0}, {GREEN: 5.0}, {GREEN: 5.0, BLUE: 2.0}, {GREEN: 0.0, BLUE: 5.0}, {GREEN: 0.0, BLUE: 0.0}]
    ),
)
def test_nobody_is_available_before_app_queue_would_offer_him_a_caller(
    steps: list[tuple[object, int]], wrap_up: dict[QueueName, float]
) -> None:
    exchange = Exchange(wrap_up)
    of = Floor({queue: Rules(wrap_up_seconds=seconds) for queue, seconds in wrap_up.items()})
    for step, which in steps:
        step(exchange, which)  # type: ignore[operator]
        for _ in listen(exchange, of):
            pass
        judge(exchange, of)
        if not exchange.changes:
            rows = [row for (queue, _), row in exchange.rows.items()]
            callers = [CallerJoined(queue, caller, NOW) for caller, queue in exchange.waiting.items()]
            snapshot = floor(*(told for told in of.members))
            assert snapshot.replace(rows, [], wrap_up) == 0
            assert of.replace(rows, callers, wrap_up) == 0
            judge(exchange, of)
    exchange.settle()
    for _ in listen(exchange, of):
        pass
    for queue in wrap_up:
        unpaused = {agent for agent in exchange.agents if not exchange.rows[queue, agent].paused}
        assert state(of, queue, exchange.now).available == unpaused
        assert state(of, queue, exchange.now).waiting == 0
    assert of.next_change_at(exchange.now) is None
