"""app_queue's model under virtual time: who gets whom, and when.

What is said of it stands in tests/traces, recorded on the real Asterisk; here it is the second at which it happens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dialer_engine.simulator import Agent, QueueRules
from dialer_engine.simulator.queues import DeviceState, QueueError, Strategy
from dialer_engine.simulator.threads import FOREVER
from tests.lab import number
from tests.sim.desk import BEGIN, Desk
from tests.sim.told import Told

MINUTE = (60.0, 60.0)


class Office(Desk):
    """A desk with an ear at AMI, too. Agents talk a minute, unless it is said otherwise."""

    def __init__(self, *agents: Agent, **more: Any) -> None:
        super().__init__(agents=agents, **more)
        self.told = Told()
        queues = self.pbx.queues.by_name.values()
        self.told.members = {(each.name, name): {} for each in queues for name in each.members}
        self.stamps: list[tuple[float, dict[str, Any]]] = []
        self.pbx.sessions.ears.add(self._hear)

    def _hear(self, kind: str, headers: Any) -> None:
        self.told.hear(kind, headers)
        self.stamps.append((round(self.now - BEGIN, 3), self.told.events[-1]))

    def queue(
        self, name: str = "red", *, timeout: str = "", context: str = "dialer-queue", talk: float = 3600
    ) -> str:
        """Somebody is called, answers at once, and goes into a queue; he would stay for so long."""
        call = self.call(number.answers(0.0, min(talk, 99.9)) if talk < 3600 else number.stays(0.0))
        self.run(0)
        variables = {"DIALER_APP": "dialer", "DIALER_QUEUE_TIMEOUT": timeout, "__DIALER_ATTEMPT": call}
        self.pbx.set_variables(self.now, call, variables)
        self.pbx.go_on(self.now, call, {"context": context, "extension": name})
        self.run(0)
        return call

    def add(self, queue: str, interface: str, **more: Any) -> None:
        self.pbx.act(self.now, lambda: self.pbx.queues.add(queue, interface, **more))

    def at(self, event: str, **headers: Any) -> list[float]:
        """When it was told."""
        return [at for at, told in self.stamps if told["Event"] == event and headers.items() <= told.items()]

    def who(self) -> list[str]:
        """Whose telephones were called, in their order."""
        return [event["Interface"] for event in self.told.of("AgentCalled")]

    def args(self, call: str) -> list[str]:
        """With which a call came back."""
        args: list[str] = self.of(call, "StasisStart")[-1]["args"]
        return args

    def member(self, interface: str, queue: str = "red") -> Any:
        return self.pbx.queues.by_name[queue].members[interface]


def agent(extension: int, *queues: str, **more: Any) -> Agent:
    return Agent(str(extension), queues or ("red",), f"Agent {extension}", **{"talks": MINUTE, **more})


# A caller gets an agent


def test_a_free_agent_is_rung_at_once_and_his_talk_sends_the_caller_back() -> None:
    office = Office(agent(1001, talks=(4.0, 4.0)))
    call = office.queue()
    office.run(10)
    assert office.told.story() == [
        *("CallerJoin", "AgentCalled PJSIP/1001", "CallerLeave", "AgentConnect PJSIP/1001"),
        *("MemberStatus PJSIP/1001 3", "AgentComplete PJSIP/1001", "MemberStatus PJSIP/1001 1"),
    ]
    assert office.at("AgentComplete", TalkTime=4, Reason="agent") == [4.0]
    assert office.args(call) == ["queue-exit", "red", "CONTINUE"]


def test_the_telephone_is_told_for_whom_it_rings() -> None:
    office = Office(agent(1001))
    call = office.queue()
    _, seen = office.pbx.world.calls
    assert (seen.number, seen.attempt, seen.answered_at) == ("1001", call, BEGIN)
    assert office.pbx.variable(office.now, call, "MEMBERNAME") == "Agent 1001"


@pytest.mark.parametrize(("extension", "answered"), [(5001, True), (3001, False)])
def test_a_telephone_that_answers_by_itself_must_be_asked_to(extension: int, answered: bool) -> None:
    """The shipped dialplan asks it, a FreePBX does not."""
    for context, expected in (("dialer-queue", answered), ("ext-queues", False)):
        office = Office()
        office.add("red", f"PJSIP/{extension}")
        office.queue(context=context)
        office.run(1)
        assert bool(office.at("AgentConnect")) == expected


def test_who_answers_after_three_seconds_has_let_it_ring_so_long() -> None:
    office = Office(agent(2001, answers_after=(3.0, 3.0)))
    office.queue()
    office.run(5)
    assert office.at("AgentConnect", HoldTime=3, RingTime=3) == [3.0]
    assert office.at("QueueMemberStatus", Status=DeviceState.BUSY) == [0.0]


def test_a_telephone_without_the_limit_of_one_call_rings_before_it_is_in_use() -> None:
    office = Office(trunks=("soft",))
    office.add("red", "PJSIP/soft")
    states = []
    for state in ("Ringing", "Up"):
        channel = office.pbx._exchange.new_call(office.new_id(), "soft", "soft")
        office.pbx._exchange.change(channel, state)
        office.run(0)
        states.append(office.member("PJSIP/soft").status)
    assert states == [DeviceState.RINGING, DeviceState.RINGINUSE]


def test_a_caller_who_waits_looks_once_a_second() -> None:
    office = Office(agent(1001, talks=(2.5, 2.5)))
    office.queue()
    office.run(0.25)
    office.queue()
    office.run(5)
    assert office.at("QueueCallerJoin") == [0.0, 0.25]
    assert office.at("AgentConnect") == [0.0, 3.25]


def test_each_waiting_caller_gets_one_of_the_free_agents() -> None:
    office = Office(*(agent(extension) for extension in (1001, 1002)))
    calls = [office.queue() for _ in range(3)]
    office.run(0.5)
    assert office.told.talks == {calls[0]: "PJSIP/1001", calls[1]: "PJSIP/1002"}
    assert office.told.waiting["red"] == [calls[2]]


def test_without_autofill_the_second_waits_for_the_first() -> None:
    rules = {"red": QueueRules(autofill=False)}
    office = Office(*(agent(extension, answers_after=(2.2, 2.2)) for extension in (1001, 1002)), queues=rules)
    for _ in range(2):
        office.queue()
    office.run(6)
    assert office.at("AgentCalled") == [0.0, 3.0]


# Who is rung first


def test_whose_last_call_is_the_longest_ago_is_rung_first() -> None:
    office = Office(*(agent(extension, talks=(1.0, 1.0)) for extension in (1001, 1002, 1003)))
    for _ in range(6):
        office.queue()
        office.run(3)
    assert office.who() == ["PJSIP/1001", "PJSIP/1002", "PJSIP/1003"] * 2


def test_one_after_the_other_even_if_his_last_call_was_just_now() -> None:
    rules = {"red": QueueRules(strategy=Strategy.ROUND_ROBIN)}
    agents = (agent(1001), agent(1002, talks=(1.0, 1.0)), agent(1003, talks=(1.0, 1.0)))
    office = Office(*agents, queues=rules)
    for _ in range(4):
        office.queue()
        office.run(3)
    assert office.who() == ["PJSIP/1001", "PJSIP/1002", "PJSIP/1003", "PJSIP/1002"]


def test_whose_penalty_is_too_high_is_passed_over() -> None:
    office = Office()
    office.add("red", "PJSIP/1001", penalty=5)
    office.pbx.call_in(office.now, "waits-red", "0155", 3.0)
    office.run(10)
    assert office.who() == []
    assert len(office.at("QueueCallerAbandon")) == 1


# Who is not available


def test_who_is_busy_is_tried_again_after_retry_seconds_and_the_next_one_at_once() -> None:
    office = Office()
    office.add("red", "PJSIP/4001")
    office.queue()
    office.run(2.5)
    assert office.at("AgentCalled") == office.at("AgentRingNoAnswer", RingTime=0) == [0.0, 1.0, 2.0]
    assert office.told.of("QueueMemberStatus") == []
    office.add("red", "PJSIP/1001")
    office.run(1)
    assert office.at("AgentConnect") == [3.0]


def test_who_does_not_answer_in_time_loses_the_caller_to_the_next() -> None:
    """Unless the strategy begins with him again: to LEAST_RECENT both are the same."""
    rules = {"red": QueueRules(strategy=Strategy.ROUND_ROBIN)}
    office = Office(agent(3001, answers_after=(FOREVER, FOREVER)), agent(1002), queues=rules)
    office.queue()
    office.run(20)
    assert office.at("AgentRingNoAnswer", RingTime=15_000) == [15.0]
    assert office.at("AgentConnect", Interface="PJSIP/1002") == [16.0]


def test_autopause_sends_him_home() -> None:
    office = Office(queues={"red": QueueRules(autopause=True, timeout=2)})
    office.add("red", "PJSIP/3001")
    office.queue(timeout="10")
    office.run(12)
    assert office.at("AgentCalled") == [0.0]
    assert office.at("QueueMemberPause", Paused=1, PausedReason="Auto-Pause") == [2.0]


@pytest.mark.parametrize("deed", ["pause", "remove", "unplug"])
def test_who_pauses_leaves_or_is_unplugged_gets_no_caller_but_his_call_goes_on(deed: str) -> None:
    office = Office(agent(6001, talks=(5.0, 5.0)))
    office.queue()
    queues = office.pbx.queues
    match deed:
        case "pause":
            office.pbx.act(office.now, lambda: queues.pause("", "PJSIP/6001", "lunch", paused=True))
        case "remove":
            office.pbx.act(office.now, lambda: queues.remove("red", "PJSIP/6001"))
        case "unplug":
            office.pbx.plug(office.now, "6001", plugged=False)
    office.queue()
    office.run(9)
    assert office.at("AgentCalled") == [0.0]
    assert office.at("AgentComplete", Reason="agent") == [5.0]
    match deed:
        case "pause":
            office.pbx.act(office.now, lambda: queues.pause("red", "PJSIP/6001", "", paused=False))
        case "remove":
            office.add("red", "PJSIP/6001")
        case "unplug":
            assert office.member("PJSIP/6001").status is DeviceState.UNAVAILABLE
            office.pbx.plug(office.now, "6001", plugged=True)
    office.run(2)
    assert len(office.at("AgentConnect")) == 2


def test_a_direct_call_makes_an_agent_unavailable_in_every_queue_of_his() -> None:
    office = Office(agent(1001, "red", "white"))
    asked = {"endpoint": "PJSIP/1001", "app": "dialer"}
    office.pbx.originate(office.now, office.new_id(), asked)
    assert office.at("QueueMemberStatus", Status=DeviceState.BUSY, InCall=0) == [0.0, 0.0]
    office.queue()
    office.run(3)
    assert office.who() == []


def test_with_ringinuse_somebody_who_talks_is_rung_all_the_same() -> None:
    office = Office(agent(1001), queues={"red": QueueRules(ring_in_use=True)})
    office.told.rings_in_use = True
    for _ in range(2):
        office.queue()
    assert office.at("AgentConnect", Interface="PJSIP/1001") == [0.0, 0.0]


# Wrap-up


@pytest.mark.parametrize("shared", [True, False])
def test_a_wrap_up_is_counted_in_whole_seconds_and_in_all_queues_if_it_is_shared(shared: bool) -> None:
    """The call ends at 1.6 s, in Asterisk's second 1; five seconds later it is second 6."""
    office = Office(agent(1001, "green", "blue", talks=(1.6, 1.6)))
    office.pbx.queues.shared_last_call = shared
    office.queue("green")
    office.run(1.8)
    office.queue("blue")
    office.run(10)
    assert office.at("AgentConnect", Queue="blue") == [6.8 if shared else 1.8]


def test_the_end_of_a_wrap_up_is_told_by_nobody() -> None:
    office = Office(agent(1001, "green", talks=(1.0, 1.0)))
    office.queue("green")
    office.run(30)
    last = office.told.events[-1]
    assert (last["Event"], last["LastCall"], last["Status"]) == ("QueueMemberStatus", int(BEGIN) + 1, 1)
    assert office.at("QueueMemberStatus")[-1] == 1.0


# A caller gets none


@pytest.mark.parametrize(("timeout", "ends"), [("2", 2.0), ("7", 7.0), ("", None), ("0", None), ("soon", None)])
def test_the_queue_is_left_when_its_time_is_over(timeout: str, ends: float | None) -> None:
    office = Office()
    call = office.queue(timeout=timeout)
    office.run(60)
    assert office.at("QueueCallerAbandon") == office.at("QueueCallerLeave") == ([] if ends is None else [ends])
    if ends is not None:
        assert office.args(call) == ["queue-exit", "red", "TIMEOUT"]
        assert office.pbx.variable(office.now, call, "ABANDONED") == "TRUE"


def test_a_telephone_rings_no_longer_than_the_caller_may_wait_unless_the_queue_says_so() -> None:
    for rings_out, ends in ((False, 3.0), (True, 15.0)):
        office = Office(queues={"red": QueueRules(rings_out=rings_out)})
        office.add("red", "PJSIP/3001")
        office.queue(timeout="3")
        office.run(30)
        assert office.at("AgentRingNoAnswer") == office.at("QueueCallerLeave") == [ends]


def test_who_hangs_up_while_it_rings_leaves_without_a_word_about_the_telephone() -> None:
    office = Office()
    office.add("red", "PJSIP/3001")
    call = office.queue(talk=2.5)
    office.run(5)
    assert office.told.story() == [
        *("MemberAdded PJSIP/3001", "CallerJoin", "AgentCalled PJSIP/3001"),
        *("MemberStatus PJSIP/3001 3", "CallerAbandon", "CallerLeave", "MemberStatus PJSIP/3001 1"),
    ]
    assert office.end(call) == (16, None)
    assert len(office.of(call, "StasisStart")) == 1


def test_a_queue_that_is_not_there_is_left_at_once() -> None:
    office = Office()
    assert office.args(office.queue("no-such-queue")) == ["queue-exit", "no-such-queue", "UNKNOWN"]
    assert office.told.events == []


def test_a_freepbx_hangs_up_after_the_agent_and_after_its_own_time() -> None:
    office = Office(agent(1001, talks=(2.0, 2.0)))
    served = office.queue(context="ext-queues")
    office.run(1)
    late = office.queue(context="ext-queues", timeout="60")
    office.pbx.act(office.now, lambda: office.pbx.queues.remove("red", "PJSIP/1001"))
    office.run(10)
    gone = {call: office.of(call, "ChannelDestroyed")[0]["timestamp"][17:23] for call in (served, late)}
    assert gone == {served: "22.000", late: "25.000"}
    assert office.end(served) == office.end(late) == (16, None)


@pytest.mark.parametrize(("wait", "by", "ends"), [(0.5, "pbx", 61.0), (5.0, "world", 3.0)])
def test_patience_ends_unless_an_agent_talks_to_him_by_then(wait: float, by: str, ends: float) -> None:
    office = Office()
    call = office.call("100030000001")
    office.run(0)
    office.pbx.go_on(office.now, call, {"context": "dialer-queue", "extension": "red"})
    office.run(wait)
    office.pbx.employ(office.now, agent(1001))
    office.run(70)
    seen, *_ = office.pbx.world.calls
    assert (seen.ended_at, seen.ended_by) == (BEGIN + ends, by)


# Other ways in


def test_who_calls_in_waits_in_the_same_queue_and_is_served_in_turn() -> None:
    office = Office(agent(1001, talks=(2.0, 2.0)))
    inbound = [office.pbx.call_in(office.now, "red", "0155", 30.0) for _ in range(2)]
    ours = office.queue()
    office.run(7)
    connected = [event["Uniqueid"] for event in office.told.of("AgentConnect")]
    assert connected == [*inbound, ours]
    assert office.told.of("QueueCallerJoin")[0]["CallerIDNum"] == "0155"


def test_a_local_member_is_free_when_his_hint_says_so() -> None:
    office = Office(Agent("1001", (), talks=(1.5, 1.5)))
    office.add("red", "Local/1001@from-queue/n", state_interface="hint:1001@ext-local")
    for _ in range(2):
        office.queue()
    office.run(5)
    assert office.at("AgentConnect", Interface="Local/1001@from-queue/n") == [0.0, 2.0]
    attempts = [seen.attempt for seen in office.pbx.world.calls if seen.number == "1001"]
    assert attempts == [event["Uniqueid"] for event in office.told.of("AgentConnect")]


@pytest.mark.parametrize(
    ("member", "status"), [("PJSIP/nobody", 4), ("SMOKE/1", 4), ("Local/1001@from-queue", 1)]
)
def test_the_state_of_what_is_no_telephone(member: str, status: int) -> None:
    office = Office()
    office.add("red", member)
    assert office.told.events[0]["Status"] == status


def test_who_is_there_already_or_not_at_all() -> None:
    office = Office(agent(1001))
    deeds: list[Callable[[], None]] = [
        lambda: office.add("red", "PJSIP/1001"),
        lambda: office.add("nowhere", "PJSIP/1001"),
        lambda: office.pbx.queues.remove("red", "PJSIP/1002"),
        lambda: office.pbx.queues.remove("nowhere", "PJSIP/1001"),
        lambda: office.pbx.queues.pause("white", "PJSIP/1001", "", paused=True),
    ]
    for deed in deeds:
        with pytest.raises(QueueError):
            deed()
    assert office.told.events == []


# Agents


def test_what_each_agent_does() -> None:
    office = Office(
        *(agent(extension, "green", talks=(1.0, 1.0)) for extension in (1001, 1002)),
        agent(2001, "green", answers_after=(9.0, 9.0)),
        *(agent(extension, "green") for extension in (1003, 1004, 6001)),
    )
    for _ in range(2):
        office.queue("green")
    office.run(1.5)
    for _ in range(2):
        office.queue("green")
    office.pbx.act(office.now, lambda: office.pbx.queues.pause("", "PJSIP/1004", "", paused=True))
    office.pbx.plug(office.now, "6001", plugged=False)
    office.run(0)
    doing = {name.removeprefix("Agent "): does for name, does in office.pbx.queues.doing("green").items()}
    assert doing == {
        **dict.fromkeys(("1001", "1002"), "wrapping up"),
        **{"2001": "ringing", "1003": "talking", "1004": "paused", "6001": "away"},
    }


def test_agents_answer_talk_and_pause_as_their_seed_says() -> None:
    habits = {"answers_after": (0.0, 3.0), "talks": (2.0, 9.0), "works": (5.0, 30.0), "pauses": (3.0, 9.0)}

    def stamps(seed: int) -> list[float]:
        office = Office(*(agent(extension, **habits) for extension in (1001, 1002)), seed=seed)
        for _ in range(10):
            office.queue()
            office.run(6)
        return [at for at, event in office.stamps if event["Event"] in ("AgentConnect", "QueueMemberPause")]

    assert len(stamps(1)) > 12
    assert stamps(1) == stamps(1) != stamps(2)


def test_caller_and_agent_know_to_whom_they_talked() -> None:
    office = Office(agent(1001, answers_after=(1.0, 1.0)), Agent("1002", (), talks=MINUTE))
    office.add("red", "Local/1002@from-queue/n", state_interface="hint:1002@ext-local")
    for _ in range(2):
        office.queue()
        office.run(0.5)
    office.run(1)
    met = {seen.number: (seen.met, seen.met_at) for seen in office.pbx.world.calls}
    caller = number.stays(0.0)
    assert met == {caller: ("1002", BEGIN + 0.5), "1001": (caller, BEGIN + 1), "1002": (caller, BEGIN + 0.5)}


def test_an_agent_says_how_it_was_from_his_own_telephone() -> None:
    """Of a campaign's call, and not of somebody who called in."""
    office = Office(agent(1001, "green", says="2", talks=(2.0, 2.0)))
    call = office.queue("green")
    office.run(5)
    (said,) = office.told.of("UserEvent")
    (at,) = office.at("UserEvent")
    assert (said["UserEvent"], said["Uniqueid"], said["V"], said["Exten"]) == (
        "DISPOSITION",
        call,
        "SOLD",
        "*72",
    )
    assert 2.2 <= at <= 3.0
    assert [seen.said for seen in office.pbx.world.calls] == [None, "SOLD"]
    assert office.at("QueueMemberStatus", Status=DeviceState.BUSY) == [0.0, at]
    office.pbx.call_in(office.now, "green", "0155", 30.0)
    office.run(20)
    assert len(office.at("AgentComplete")) == 2
    assert len(office.at("UserEvent")) == 1


def test_what_he_says_while_the_next_call_rings_is_of_the_one_that_he_has_had() -> None:
    office = Office(agent(2001, says="2", answers_after=(3.0, 3.0), talks=(2.0, 2.0)))
    had = office.queue()
    office.run(4.1)
    office.queue()
    office.run(2)
    (said,) = office.told.of("UserEvent")
    (_, rings), (at,) = office.at("AgentCalled"), office.at("UserEvent")
    assert rings < at < rings + 3
    assert said["Uniqueid"] == had


def test_speed_is_of_agents_and_not_of_the_queue() -> None:
    office = Office(agent(2001, "green", answers_after=(4.0, 4.0), talks=(10.0, 10.0)), speed=4)
    office.queue("green")
    office.queue("green")
    office.run(20)
    assert office.at("AgentConnect") == [1.0, 8.0 + 1.0]


def test_who_is_logged_off_by_somebody_else_pauses_no_more() -> None:
    office = Office(agent(1001, works=(5.0, 5.0), pauses=(1.0, 1.0)))
    office.pbx.act(office.now, lambda: office.pbx.queues.remove("red", "PJSIP/1001"))
    office.run(30)
    assert office.at("QueueMemberPause") == []


def test_a_crash_forgets_callers_and_counts_but_not_who_is_logged_in() -> None:
    office = Office(agent(1001))
    for _ in range(2):
        office.queue()
    told = len(office.told.events)
    office.pbx.restart(office.now)
    member = office.member("PJSIP/1001")
    assert len(office.told.events) == told
    assert (member.status, member.in_call, member.queue.callers) == (DeviceState.NOT_INUSE, False, [])
    office.told.waiting.clear()
    office.told.talks.clear()
    office.listen("dialer")
    office.queue()
    assert office.at("AgentConnect") == [0.0, 0.0]
