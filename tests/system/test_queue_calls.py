"""Campaigns for queues on the real Asterisk: agents at their telephones, callers from the world, and the judge.

Everything happens at once within a good minute (tests.lab.shifts): on one daemon the ordinary day, on a second one
AMI's faults and a kill -9, on a third a queue that just hangs up as FreePBX's does. The tests then look at what was
written down, by the daemon and by others.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.chaos.proxy import Proxy
from tests.lab import shifts
from tests.lab.agents import name_of
from tests.lab.books import SECONDS, Books
from tests.lab.centre import Centre, centre, instant
from tests.lab.lab import Lab
from tests.lab.recorder import Recorder
from tests.lab.shifts import STALE_SECONDS, Played

pytestmark = [
    pytest.mark.lab,
    pytest.mark.system,
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]

SOON_SECONDS = 0.5
"""From an agent who becomes free to the next INVITE, at most, on a machine that is busy with everything else."""

SCENARIOS = (
    *(play.__name__ for play in shifts.ORDINARY),
    *("ami_is_lost", "daemon_is_killed", "freepbx_hangs_up"),
)
KEPT_BOOKS = (
    *("a_busy_minute", "ten_agents", "ten_agents_boosted", "agents_are_shared"),
    *("agents_are_gone_at_the_answer", "daemon_is_killed", "freepbx_hangs_up", "through_a_local_trunk"),
)


@dataclass
class Day:
    """What was played, by the name of the scenario; a failed one fails whoever asks for it."""

    running: Mapping[str, Future[Played]]
    connected: list[dict[str, Any]]  # the events of that kind

    def __getitem__(self, name: str) -> Played:
        return self.running[name].result()


@pytest.fixture(scope="module")
def day(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    place = tmp_path_factory.mktemp("day")
    with ExitStack() as stack:
        recorder = stack.enter_context(Recorder(lab))
        wire = Proxy(("127.0.0.1", lab.ami_port), greets=True)
        stack.callback(wire.close)

        def opened(name: str, options: Mapping[str, Any]) -> Centre:
            directory = place / name
            directory.mkdir()
            return stack.enter_context(centre(lab, directory, recorder, name=name, **options))

        options: list[dict[str, Any]] = [{}, {"ami_port": wire.port}, {"queue_context": "ext-queues"}]
        with ThreadPoolExecutor(len(SCENARIOS)) as pool:
            ordinary, faulty, freepbx = pool.map(opened, ("ordinary", "faulty", "freepbx"), options)
            running = {play.__name__: pool.submit(play, ordinary) for play in shifts.ORDINARY}
            running["freepbx_hangs_up"] = pool.submit(shifts.freepbx_hangs_up, freepbx)
            lost = running["ami_is_lost"] = pool.submit(shifts.ami_is_lost, faulty, wire)

            def afterwards() -> Played:
                wait([lost])
                return shifts.daemon_is_killed(faulty)

            running["daemon_is_killed"] = pool.submit(afterwards)
        yield Day(running, _events(ordinary, "connected"))
        lab.hang_up_everything()


def _events(here: Centre, kind: str) -> list[dict[str, Any]]:
    entries: Any = here.rig.redis.xrange(here.rig.key("events"))
    return [json.loads(fields["facts"]) for _, fields in entries if fields["kind"] == kind]


def result_of(books: Books, number: str) -> Mapping[str, Any]:
    (result,) = [each for each in books.results if each["number"] == number]
    return result


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_call_begins_that_the_free_agents_do_not_warrant(day: Day, name: str) -> None:
    verdict = day[name].verdict
    print(f"{name}: {verdict.text}")
    assert verdict.judged
    assert not verdict.wrong, verdict.text


@pytest.mark.parametrize("name", KEPT_BOOKS)
def test_results_and_stats_say_what_queue_log_and_the_world_say(day: Day, name: str) -> None:
    """Call by call: who had it, every instant and duration within 0.3 s, by both clocks."""
    for books in day[name].books:
        assert books.results
        wrong = books.check()
        print(f"{name}: {books.figures()}")
        assert not wrong, "\n".join(wrong)


def test_every_kind_of_agent_has_had_calls(day: Day) -> None:
    for name, agents in (("ten_agents", (1006, 2001, 5001)), ("ten_agents_boosted", (1018, 2004))):
        ((books,), served) = (day[name].books, {result["agent"] for result in day[name].books[0].results})
        assert {name_of(agent) for agent in agents} <= served
        assert books.stats["connected"] >= len(agents)


def test_the_boost_is_used(day: Day) -> None:
    """Never more lines than 1.4 of an agent, and some time just as many."""
    assert min(each.margin for each in day["ten_agents_boosted"].verdict.judged) == 0
    assert max(each.unserved + 1 for each in day["ten_agents_boosted"].verdict.judged) > 10


def test_when_every_agent_has_gone_nothing_begins_and_the_plan_says_why(day: Day) -> None:
    played = day["agents_go"]
    (campaign,) = played.campaigns
    begin, end = played.marks["nobody"] + 0.1, played.marks["before he unpauses"]
    begun = [judged.call.invited_at for judged in played.verdict.judged]
    assert end - begin > 1.0
    assert not [at for at in begun if begin < at < end]
    plan = played.told["plan"]
    assert (plan["limit"], plan["originate"], plan["inputs"]["available"]) == ("WAITING_AGENTS", 0, 0)
    assert campaign.watched.queue == "white"


@pytest.mark.parametrize("way", ["unpauses", "logs in", "plugs in"])
def test_an_agent_who_comes_back_is_dialed_for_at_once(day: Day, way: str) -> None:
    played = day["agents_go"]
    begun = [judged.call.invited_at for judged in played.verdict.judged]
    first = min(at for at in begun if at > played.marks[f"before he {way}"])
    print(f"{way}: dialed after {first - played.marks[way]:+.3f} s")
    assert first < played.marks[way] + SOON_SECONDS


def test_while_the_queue_is_full_nothing_begins(day: Day) -> None:
    played = day["queue_is_full"]
    assert played.told["plan"]["inputs"]["available"] == 3
    assert played.told["plan"]["inputs"]["waiting"] == 2
    first = min(judged.call.invited_at for judged in played.verdict.judged)
    assert played.marks["one gives up"] < first < played.marks["one gives up"] + SOON_SECONDS


def test_agents_who_are_shared_serve_both_campaigns(day: Day) -> None:
    for books in day["agents_are_shared"].books:
        assert {name_of(1052), name_of(1053)} & {result["agent"] for result in books.results}


def test_who_finds_no_agent_in_time_is_abandoned_whatever_follows(day: Day) -> None:
    played = day["agents_are_gone_at_the_answer"]
    in_vain, too_late, in_message = played.books
    told = played.told
    vain = result_of(in_vain, told["vain"])
    assert (vain["status"], vain["agent"], vain["queue"]["abandoned"]) == ("RS_TIMEOUT", None, True)
    assert vain["queue"]["waitSeconds"] == pytest.approx(3, abs=1 + SECONDS)
    gives_up = result_of(in_vain, told["gives up"])
    assert (gives_up["status"], gives_up["queue"]["abandoned"]) == ("RS_LOST", True)
    assert gives_up["queue"]["waitSeconds"] == pytest.approx(2, abs=SECONDS)
    late = result_of(too_late, told["late"])
    assert (late["status"], late["agent"] is not None, late["queue"]["abandoned"]) == ("TERMINATED", True, True)
    leaves = result_of(in_message, told["leaves"])
    assert (leaves["status"], leaves["extStatus"], leaves["queue"]) == ("TERMINATED", "HANGUP", None)
    assert [books.stats["abandonRate"] for books in played.books] == [1.0, 1.0, None]


def test_what_the_agent_says_in_his_wrap_up_chooses_the_rule_and_later_it_amends(day: Day) -> None:
    told = day["agents_say_how_it_was"].told
    *in_time, later = told["results"]
    for first, second in in_time:
        assert (first["status"], first["extStatus"]) == ("TERMINATED", "AGAIN")
        assert first["redialAt"] is not None
        assert (second["agent"] is not None, second["redialAt"]) == (True, None)
        assert instant(second, "originatedAt") > instant(first, "endedAt") + 4
    (amended,) = later
    assert (amended["extStatus"], amended["redialAt"]) == ("SOLD", None)
    assert amended["amended"]["by"]
    assert (told["pending"].status, told["pending"].json["state"]) == (200, "PENDING")
    assert (told["amended"].status, told["amended"].json["state"]) == (200, "AMENDED")
    assert told["unknown"].status == 404


def test_every_call_that_reaches_an_agent_is_told_for_his_screen(day: Day) -> None:
    ((books,), told) = (day["ten_agents"].books, {each["attempt"]: each for each in day.connected})
    for result in books.results:
        if result["agent"] is not None:
            event = told[result["attempt"]]
            assert (event["agent"], event["queue"], event["number"]) == (
                result["agent"],
                "green",
                result["number"],
            )
            assert event["attributes"] == {"city": "Brno"}
            assert event["secondsToAgent"] == pytest.approx(result["queue"]["secondsToAgent"], abs=0.01)


def test_a_talk_through_a_local_trunk_is_one_call_from_the_answer_to_its_end(day: Day) -> None:
    """With sound on it, at which Asterisk optimises such a channel away where it may."""
    played = day["through_a_local_trunk"]
    (books,) = played.books
    for talker in played.told["talkers"]:
        result = result_of(books, talker)
        assert (result["status"], result["agent"] is not None) == ("TERMINATED", True)
        assert result["queue"]["talkSeconds"] > 2.9


@pytest.mark.parametrize("fault", ["cut", "hold"])
def test_without_ami_nothing_begins_after_3_s_and_no_live_call_is_dropped(day: Day, fault: str) -> None:
    """`hold`: connected and silent, as when the PBX's host hangs."""
    played = day["ami_is_lost"]
    begin, end = played.marks[fault], played.marks[f"{fault} is mended"]
    begun = [judged.call.invited_at for judged in played.verdict.judged]
    assert end > begin + STALE_SECONDS + 1
    assert not [at for at in begun if begin + STALE_SECONDS < at < end]
    assert [at for at in begun if at > end]
    assert played.told[fault]["limit"] == "STALE_QUEUE_DATA"
    assert [call.ended_at for call in played.told["live"]] == [None, None]


def test_calls_that_wait_and_talk_when_the_daemon_is_killed_are_followed_to_their_end(day: Day) -> None:
    """One is hung up by its agent while no daemon is there, one talks on, one waits and gets an agent afterwards."""
    played = day["daemon_is_killed"]
    (books,) = played.books
    assert sorted(result["status"] for result in books.results) == ["TERMINATED"] * 3
    assert len({result["agent"] for result in books.results}) == 3
    back = played.marks["back"]
    assert sorted(instant(result, "connectedAt") > back for result in books.results) == [False, False, True]


def test_a_queue_that_just_hangs_up_is_understood(day: Day) -> None:
    played = day["freepbx_hangs_up"]
    (books,) = played.books
    said = {
        name: (result["status"], result["agent"] is not None, result["path"])
        for name, result in ((each, result_of(books, played.told[each])) for each in played.told)
    }
    assert said == {
        "talks": ("TERMINATED", True, ["agent"]),
        "vain": ("RS_TIMEOUT", False, ["agent"]),
        "gives up": ("RS_LOST", False, ["agent"]),
    }
