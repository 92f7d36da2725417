"""The judges judge: the recorder finds what the rule forbids and forgives nothing else; the queue's log is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from tests.lab import queue_log
from tests.lab.bare_ami import Event, Headers
from tests.lab.recorder import TOLERANCE_SECONDS, History, Judged, Watched, judge
from tests.lab.world import WorldCall

BEGIN = 1_700_000_000.0
WELL_BEFORE = 1.0
ENDED = str(int(BEGIN) + 1)


@dataclass
class Story:
    """Events of AMI and INVITEs of the world, told by the second from BEGIN."""

    rows: list[Headers] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    calls: list[WorldCall] = field(default_factory=list)

    def member(self, agent: str, *, queue: str = "red", **fields: str) -> Headers:
        row = {
            "Queue": queue, "Interface": agent, "Location": agent, "StateInterface": agent, "Status": "1",
            "Paused": "0", "InCall": "0", "LastCall": "0", "Wrapuptime": "0", "Event": "QueueMember",
        }  # fmt: skip
        return {**row, **fields}

    def agents(self, *names: str, queue: str = "red") -> Story:
        self.rows += [self.member(name, queue=queue) for name in names]
        return self

    def says(self, at: float, name: str, **headers: str) -> Story:
        self.events.append(Event(name, BEGIN + at, headers))
        return self

    def becomes(self, at: float, agent: str, **fields: str) -> Story:
        return self.says(at, "QueueMemberStatus", **self.member(agent, **fields))

    def rings(self, at: float, number: str) -> Story:
        """An INVITE, and the channel 5 ms before it."""
        self.says(at - 0.005, "DialBegin", DestUniqueid=f"c{number}", DialString=f"{number}@carrier")
        self.calls.append(
            WorldCall(key=f"{number}{at}", number=number, dialled=number, caller_id="", invited_at=BEGIN + at)
        )
        return self

    def ends(self, at: float, number: str) -> Story:
        return self.says(at, "Hangup", Uniqueid=f"c{number}")

    def offers(self, at: float, number: str, agent: str) -> Story:
        headers = {"Queue": "red", "Uniqueid": f"c{number}", "DestUniqueid": f"leg{agent}", "Interface": agent}
        return self.says(at, "AgentCalled", **headers)

    def judge(self, *campaigns: Watched, sharing: Sequence[Sequence[int]] = ()) -> list[int]:
        """The margin of each INVITE."""
        return [each.margin for each in self.judged(*campaigns, sharing=sharing)]

    def judged(self, *campaigns: Watched, sharing: Sequence[Sequence[int]] = ()) -> Sequence[Judged]:
        history = History(self.rows, self.events, BEGIN - WELL_BEFORE)
        return judge(history, self.calls, campaigns or [RED], sharing=sharing).judged


NUMBERS = [str(n) for n in range(1, 9)]
RED = Watched("red", "1", NUMBERS)


def test_one_line_for_each_free_agent_and_none_beyond() -> None:
    story = Story().agents("A", "B").rings(1, "1").rings(2, "2").rings(3, "3").ends(4, "1").rings(5, "4")
    assert story.judge() == [1, 0, -1, -1]
    assert Story().rings(1, "1").judge() == [-1]


def test_a_boost_is_reckoned_in_decimals_and_rounded_down() -> None:
    """Of 45 x 1.4 a float makes 62."""
    numbers = [str(n) for n in range(1, 66)]
    story = Story().agents(*(f"A{n}" for n in range(45)))
    for n, number in enumerate(numbers):
        story.rings(1 + n / 10, number)
    margins = story.judge(Watched("red", "1.4", numbers))
    assert margins[62] == 0
    assert margins[63] == -1


@pytest.mark.parametrize("fields", [{"Paused": "1"}, {"Status": "0"}, {"Status": "3"}, {"Status": "5"}])
def test_who_is_not_free_warrants_nothing(fields: dict[str, str]) -> None:
    assert Story().agents("A").becomes(1, "A", **fields).rings(2, "1").judge() == [-1]
    assert Story().agents("A").becomes(1, "A", **fields).becomes(2, "A").rings(3, "1").judge() == [0]


def test_who_has_logged_off_warrants_nothing() -> None:
    story = Story().agents("A").says(1, "QueueMemberRemoved", Queue="red", Interface="A")
    assert story.rings(2, "1").judge() == [-1]


def test_an_agent_counts_once_whatever_the_queue_calls_him() -> None:
    story = Story().agents("A")
    story.rows.append(story.member("A", Location="Local/A@from-queue/n"))
    assert story.rings(1, "1").rings(2, "2").judge() == [0, -1]


def test_a_wrap_up_ends_at_the_second_at_which_asterisk_ends_it() -> None:
    green = Watched("green", "1", NUMBERS)
    for at, margin in ((5.99, -1), (6.0, 0)):
        story = Story().becomes(1.5, "A", queue="green", LastCall=ENDED)
        assert story.rings(at, "1").judge(green) == [margin]
    in_call = Story().becomes(1, "A", queue="green", InCall="1").rings(9, "1")
    assert in_call.judge(green) == [-1]
    own = Story().becomes(1.5, "A", queue="red", LastCall=ENDED, Wrapuptime="3").rings(3.5, "1")
    assert own.judge() == [-1]
    elsewhere = (
        Story().becomes(1, "A", queue="green").becomes(2, "A", queue="red", LastCall=ENDED).rings(5.9, "1")
    )
    assert elsewhere.judge(green) == [-1]


def test_a_caller_who_is_offered_is_served_and_the_rung_agent_is_not_free() -> None:
    story = Story().agents("A", "B").rings(1, "1").offers(2, "1", "A").rings(3, "2").rings(4, "3")
    assert story.judge() == [1, 0, -1]
    refused = Story().agents("A", "B").rings(1, "1").offers(2, "1", "A")
    refused.says(3, "AgentRingNoAnswer", Queue="red", Uniqueid="c1", DestUniqueid="legA").rings(4, "2")
    assert refused.judge() == [1, 0]
    assert refused.rings(5, "3").judge() == [1, 0, -1]


def test_a_telephone_that_rings_is_free_again_by_its_own_word() -> None:
    """The caller gave up while it rang."""
    story = Story().agents("A").rings(1, "1").offers(2, "1", "A").becomes(2.1, "A", Status="6").ends(3, "1")
    assert story.becomes(3.1, "A").rings(4, "2").judge() == [0, 0]
    silent = Story().agents("A").rings(1, "1").offers(2, "1", "A").ends(3, "1").rings(4, "2")
    assert silent.judge() == [0, -1]
    assert silent.says(5, "Hangup", Uniqueid="legA").rings(6, "3").judge() == [0, -1, -1]


def test_only_what_was_so_shortly_before_is_forgiven() -> None:
    for ago, margin in ((TOLERANCE_SECONDS - 0.01, 0), (TOLERANCE_SECONDS + 0.01, -1)):
        story = Story().agents("A").becomes(2 - ago, "A", Paused="1").rings(2, "1")
        (judged,) = story.judged()
        assert judged.margin == margin
        assert judged.lookback_seconds == (pytest.approx(ago, abs=0.001) if margin == 0 else math.inf)
    ahead = Story().becomes(0, "A", Paused="1").becomes(2.001, "A").rings(2, "1")
    assert ahead.judge() == [-1]


def test_two_lines_begun_within_the_tolerance_are_two() -> None:
    assert Story().agents("A").rings(1, "1").rings(1.001, "2").judge() == [0, -1]


def test_who_waits_from_elsewhere_fills_the_queue() -> None:
    story = Story().agents("A", "B", "C")
    for caller in ("x", "y"):
        story.says(1, "QueueCallerJoin", Queue="red", Uniqueid=caller)
    story.rings(2, "1").says(3, "QueueCallerLeave", Queue="red", Uniqueid="x").rings(4, "2")
    assert story.judge() == [-1, 0]
    assert story.judge(Watched("red", "1", NUMBERS, max_waiting=0)) == [-2, -1]


def test_agents_who_are_shared_are_in_one_share_only() -> None:
    story = Story().agents("A", "B").agents("B", "C", queue="white")
    campaigns = [Watched("red", "1", ["1", "2", "3"]), Watched("white", "1", ["4", "5", "6"])]
    story.rings(1, "1").rings(2, "4").rings(3, "5").rings(4, "2")
    assert story.judge(*campaigns) == [1, 1, 0, 0]
    assert story.judge(*campaigns, sharing=[[0, 1]]) == [1, 1, 0, -1]


def test_a_number_that_is_called_again_is_two_calls() -> None:
    story = Story().agents("A").rings(1, "1")
    first = story.events[-1]["DestUniqueid"]
    story.says(2, "Hangup", Uniqueid=first)
    story.says(2.99, "DialBegin", DestUniqueid="again", DialString="1@carrier")
    story.calls.append(WorldCall(key="again", number="1", dialled="1", caller_id="", invited_at=BEGIN + 3))
    assert story.rings(4, "2").judge() == [0, 0, -1]


def test_an_invite_amis_session_never_heard_of_is_no_verdict() -> None:
    story = Story().agents("A").rings(1, "1")
    story.events.clear()
    with pytest.raises(AssertionError, match="no channel"):
        story.judge()


LOG = """1|NONE|NONE|NONE|QUEUESTART|
2|MANAGER|red|PJSIP/1|ADDMEMBER|
10|c1|red|NONE|ENTERQUEUE||123|1
11|c2|red|NONE|ENTERQUEUE||123|2
12|c1|red|Agent 1|RINGNOANSWER|1000
13|c1|red|Agent 2|CONNECT|3|leg|1
14|c3|red|NONE|ENTERQUEUE||123|3
19|c1|red|Agent 2|COMPLETEAGENT|3|6|1
20|c2|red|NONE|ABANDON|1|2|9
24|c3|red|NONE|EXITWITHTIMEOUT|1|3|10
25|c4|red|NONE|ABANDON|1|2|9
""".splitlines()


def test_the_queues_log_tells_what_became_of_each_caller() -> None:
    read = queue_log.parse(LOG)
    assert set(read) == {"c1", "c2", "c3"}
    one = read["c1"]
    assert (one.agent, one.hold_seconds, one.talk_seconds, one.refused) == ("Agent 2", 3, 6, 1)
    assert (read["c2"].ended, read["c2"].agent, read["c2"].hold_seconds) == ("ABANDON", None, 9)
    assert (read["c3"].ended, read["c3"].entered_at) == ("EXITWITHTIMEOUT", 14)
