"""The lab's agents are what they say: telephones, queues, cables, those who call in, and the shipped files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab import queue_log
from tests.lab.agents import Staff
from tests.lab.asterisk import LabError
from tests.lab.bare_ami import BareAmi, Event
from tests.lab.lab import Lab

pytestmark = pytest.mark.lab


def until(condition: Callable[[], Any], timeout: float, what: str) -> Any:
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return value


def status(staff: Staff, queue: str) -> dict[str, str]:
    return {member["Location"]: member["Status"] for member in staff.members(queue)}


@dataclass
class Day:
    """Everything at once, for it takes seconds."""

    lab: Lab
    staff: Staff
    events: list[Event]
    began_at: float
    patient: str  # waits though an agent is free
    served: str
    limited: str  # waits in FreePBX's queue, which has a longest wait

    def of(self, caller: str, name: str) -> list[Event]:
        return [event for event in self.events if event["CallerIDNum"] == caller and event.name == name]

    def leg(self, extension: int) -> Any:
        found = [call for call in self.lab.world_calls(str(extension)) if call.invited_at >= self.began_at]
        return found[-1] if found else None


@pytest.fixture(scope="module")
def day(lab: Lab) -> Iterator[Day]:
    events: list[Event] = []
    with ExitStack() as stack:
        staff = stack.enter_context(Staff(lab))
        stack.enter_context(lab.ami(classes="agent,call,user", on_event=events.append))
        began_at = time.time()
        staff.log_in("white", [6001, 1021])
        staff.log_in("black", [5001, 5002], penalty=5)  # two: who waits for nobody stands before the others
        staff.talk([5001, 5002], (1.0, 1.0))
        staff.call_directly(1021, 15)
        lab.unplug(6001)
        patient = staff.call_in("waits-black", 6)
        limited = staff.call_in("limited", 20)
        time.sleep(0.2)  # FreePBX's callers come first, and are in their queue
        served = staff.call_in("black", 20)
        yield Day(lab, staff, events, began_at, patient, served, limited)
        lab.unplug(6001, out=False)
        lab.hang_up_everything()


def test_a_digit_without_a_word_and_a_telephone_without_a_call_say_nothing(day: Day) -> None:
    dialled = {"*79", "*71"}
    for each in dialled:
        day.staff.dial(2010, each)  # nobody else calls it
    until(lambda: dialled <= {e["Exten"] for e in day.events if e.name == "Hangup"}, 8, "both have ended")
    assert not [event for event in day.events if event["UserEvent"] == "DISPOSITION"]


def test_a_telephone_on_a_direct_call_is_busy_for_its_queue(day: Day) -> None:
    until(lambda: status(day.staff, "white")["PJSIP/1021"] == "3", 3, "1021 talks")


def test_a_telephone_answers_by_itself_when_the_shipped_dialplan_asks_it_to(day: Day) -> None:
    """And who calls in is served by it: app_queue's option b reaches the agent's leg before its INVITE."""
    (connect,) = until(lambda: day.of(day.served, "AgentConnect"), 5, "an agent answers")
    extension = int(connect["Interface"].removeprefix("PJSIP/"))
    leg = day.leg(extension)
    assert leg.asked_to_answer
    assert connect.at - leg.answered_at == pytest.approx(0, abs=0.3)
    done = until(lambda: day.of(day.served, "AgentComplete"), 5, "the agent hangs up")[0]
    assert (done["Reason"], day.leg(extension).ended_by) == ("agent", "world")
    served = queue_log.read(day.lab.queue_log())[connect["Uniqueid"]]
    assert (served.queue, served.agent, served.ended) == ("black", f"Agent {extension}", "COMPLETEAGENT")


def test_who_is_served_by_nobody_waits_while_an_agent_is_free(day: Day) -> None:
    (joined,) = until(lambda: day.of(day.patient, "QueueCallerJoin"), 3, "he waits")
    (left,) = until(lambda: day.of(day.patient, "QueueCallerAbandon"), 9, "he gives up")
    assert left.at - joined.at == pytest.approx(6, abs=0.5)
    assert not day.of(day.patient, "AgentCalled")
    (caller,) = [each for each in day.lab.callers() if each.caller_id == day.patient]
    assert (caller.dialled, caller.ended_by) == ("waits-black", "world")


def test_an_unplugged_telephone_is_gone_for_its_queue_and_comes_back(day: Day) -> None:
    until(lambda: status(day.staff, "white")["PJSIP/6001"] == "5", 5, "6001 is unavailable")
    day.lab.unplug(6001, out=False)
    until(lambda: status(day.staff, "white")["PJSIP/6001"] == "1", 5, "6001 is back")


def test_freepbx_hangs_up_who_has_waited_long_enough(day: Day) -> None:
    caller = until(
        lambda: [each for each in day.lab.callers() if each.caller_id == day.limited and each.ended_at],
        8,
        "he is hung up",
    )[0]
    assert (caller.ended_by, caller.duration) == ("pbx", pytest.approx(4, abs=1.2))


def test_the_shipped_user_of_ami_may_what_the_daemon_needs_and_no_more(lab: Lab) -> None:
    heard: list[Event] = []
    with BareAmi(
        lab.ami_port, lab.shipped_user, lab.ami_secret, classes="agent,user,system", on_event=heard.append
    ) as ami:
        assert float(ami.do("Ping")[0]["Timestamp"]) == pytest.approx(time.time(), abs=1)
        assert any(row.get("Queue") == "shipped" for row in ami.do("QueueStatus"))
        assert "wrapuptime=5" in ami.do("GetConfig", Filename="queues.conf", Category="shipped")[0].values()
        ami.do("UserEvent", UserEvent="LOOK", Nonce="17")
        until(lambda: [e for e in heard if e.name == "UserEvent" and e["Nonce"] == "17"], 3, "it is heard")
        for action, headers in (
            ("Originate", {"Channel": "Local/1@nowhere", "Application": "Wait"}),
            ("Command", {"Command": "core show version"}),
            ("GetVar", {"Variable": "X"}),
        ):
            with pytest.raises(LabError, match="Permission denied"):
                ami.do(action, **headers)
