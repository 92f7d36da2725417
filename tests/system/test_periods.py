"""When, how fast and how many: periods, re-dials, channels, rates, shares, do-not-call. All of it is judged by
the world's own log, never by what the daemon says of itself."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from tests.lab import number
from tests.lab.world import WorldCall
from tests.rig import Rig, serial

pytestmark = [pytest.mark.lab, pytest.mark.system]

TOML = """
[trunks.wide]
dial_string = "PJSIP/${num}@carrier"
capacity = 3000
[trunks.fifty]
dial_string = "PJSIP/${num}@carrier"
capacity = 3000
calls_per_second = 50
[trunks.twenty]
dial_string = "PJSIP/${num}@carrier"
capacity = 3000
calls_per_second = 20
[trunks.narrow]
dial_string = "PJSIP/${num}@carrier"
capacity = 4
[trunks.shared]
dial_string = "PJSIP/${num}@carrier"
capacity = 3000
calls_per_second = 30
"""

TALKING = {
    "name": "talking",
    "start": "wait",
    "blocks": {"wait": {"type": "wait", "seconds": 300, "next": "bye"}, "bye": {"type": "hangup"}},
}
WOKEN_SECONDS = 0.02
"""How late a busy machine wakes the daemon."""
RUNG_SECONDS = 0.05
"""From a slot to the world's note of the INVITE on a busy machine: what two instants of its log may be off."""


def rejecting(count: int, code: int = 404, ring: float = 0.0) -> list[str]:
    return [number.rejects(code, ring=ring, serial=serial()) for _ in range(count)]


def clock(at: datetime) -> str:
    return at.strftime("%H:%M:%S")


def period(start: datetime, end: datetime) -> dict[str, Any]:
    return {"startTime": clock(start), "endTime": clock(end), "weekDays": [1, 2, 3, 4, 5, 6, 7]}


def whole_second(ahead: float) -> datetime:
    return (datetime.now(UTC) + timedelta(seconds=ahead + 0.999)).replace(microsecond=0)


def most_at_once(calls: Iterable[WorldCall]) -> int:
    """The largest number of calls that overlap; one without an end lives still."""
    edges = sorted(
        edge for call in calls for edge in ((call.invited_at, 1), (call.ended_at or float("inf"), -1))
    )
    most = live = 0
    for _, change in edges:
        live += change
        most = max(most, live)
    return most


def fastest(calls: Sequence[WorldCall], seconds: float) -> int:
    """The most INVITEs in any window of so many seconds."""
    instants = [call.invited_at for call in calls]
    return max(sum(at <= one < at + seconds for one in instants) for at in instants)


# --- periods ---


def test_nothing_is_dialed_after_the_end_of_the_period_also_under_load(rig: Rig) -> None:
    contacts = rejecting(900)
    end = whole_second(4)
    campaign = rig.campaign(
        contacts, trunk="fifty", maxChannels=200, activePeriod=period(end - timedelta(hours=1), end)
    )
    rig.until(lambda: datetime.now(UTC) > end + timedelta(seconds=1.5), 10, "the period is over")
    calls = rig.world_calls(contacts)
    assert len(calls) > 100, "it dialed at full speed"
    last = calls[-1].invited_at - end.timestamp()
    assert last < 0, f"the last INVITE came {last:.3f} s after the end"
    assert last > -0.5, f"and it dialed nearly to the end: {last:.3f} s"
    assert rig.state(campaign)["state"] == "RUNNING"
    rig.until(lambda: rig.live(campaign) == 0, 5, "the last ones are settled")
    assert rig.contacts(campaign)["closed"] == len(calls) == len(rig.results(campaign))
    rig.define(campaign, rig.definition(campaign) | {"activePeriod": period(end, end)})
    rig.until(
        lambda: len(rig.world_calls(contacts)) > len(calls) + 50, 10, "an edit of the period takes effect"
    )
    rig.command(campaign, "remove")
    counts = Counter(call.number for call in rig.world_calls(contacts))
    assert set(counts.values()) == {1}, "nobody twice at the edge"


def test_nothing_is_dialed_before_the_period_begins_and_a_redial_waits_for_it(rig: Rig) -> None:
    begin = whole_second(4)
    contacts = rejecting(5)
    busy = number.rejects(486, serial=serial())
    later = rig.campaign(contacts, trunk="wide", activePeriod=period(begin, begin + timedelta(hours=1)))
    end = whole_second(2)
    again = begin + timedelta(seconds=1)
    rule = {"status": "RS_BUSY", "retryAfter": 2, "maxAttempts": 1}
    edge = rig.campaign(
        [busy],
        trunk="wide",
        rescheduleRules=[rule],
        activePeriod=period(end - timedelta(hours=1), end),
    )
    rig.until(lambda: len(rig.results(edge)) == 1, 5, "the first call, within the period")
    rig.define(edge, rig.definition(edge) | {"activePeriod": period(again, again + timedelta(hours=1))})
    rig.completed(later)
    rig.completed(edge)
    first = min(call.invited_at for call in rig.world_calls(contacts)) - begin.timestamp()
    assert 0 <= first < 0.3, f"the first INVITE came {first:.3f} s after the beginning"
    redial = rig.world_calls([busy])[1].invited_at - again.timestamp()
    assert 0 <= redial < 0.3, f"the re-dial came {redial:.3f} s after the beginning of the next period"


# --- re-dials ---


def test_redials_come_after_retry_after_and_at_most_max_attempts_times(rig: Rig) -> None:
    fixed, multiplied, total, no_answer = (number.rejects(486, serial=serial()) for _ in range(4))
    never = number.rejects(404, serial=serial())
    rule: dict[str, Any] = {"status": "RS_BUSY", "retryAfter": 1, "maxAttempts": 3}
    campaigns = {
        fixed: rig.campaign([fixed, never], trunk="wide", rescheduleRules=[rule]),
        multiplied: rig.campaign(
            [multiplied], trunk="wide", rescheduleRules=[{**rule, "maxAttempts": 2, "retryMode": "multiplied"}]
        ),
        total: rig.campaign([total], trunk="wide", rescheduleRules=[rule], maxTotalAttempts=2),
        no_answer: rig.campaign([no_answer], trunk="wide", rescheduleRules=[{**rule, "maxAttempts": 0}]),
    }
    for campaign in campaigns.values():
        rig.completed(campaign)

    def pauses(contact: str) -> list[float]:
        calls = rig.world_calls([contact])
        return [later.invited_at - (one.ended_at or 0) for one, later in pairwise(calls)]

    for contact, due in ((fixed, [1, 1, 1]), (multiplied, [1, 2]), (total, [1]), (no_answer, []), (never, [])):
        found = pauses(contact)
        assert len(found) == len(due), (contact, found)
        late = [pause - expected for pause, expected in zip(found, due, strict=True)]
        assert all(-0.02 <= one <= 0.3 for one in late), f"re-dials are late by {late}"


# --- channels and rates ---


def test_never_more_calls_at_once_than_max_channels_nor_than_the_trunk_carries(rig: Rig) -> None:
    of_three = [number.answers(ring=0.1, talk=0.6, serial=serial()) for _ in range(12)]
    of_trunk = [
        [number.answers(ring=0.1, talk=0.6, serial=serial()) for _ in range(8)],
        [number.rejects(404, ring=0.5, serial=serial()) for _ in range(8)],
    ]
    campaigns = [
        rig.campaign(of_three, trunk="wide", maxChannels=3),
        *(rig.campaign(contacts, trunk="narrow", maxChannels=50) for contacts in of_trunk),
    ]
    for campaign in campaigns:
        rig.completed(campaign)
    assert most_at_once(rig.world_calls(of_three)) == 3
    assert most_at_once(rig.world_calls([*of_trunk[0], *of_trunk[1]])) == 4


def test_calls_are_spaced_by_the_campaigns_rate_and_by_the_trunks(rig: Rig) -> None:
    slow, fast, alone = rejecting(20), rejecting(60), rejecting(30)
    campaigns = [
        rig.campaign(slow, trunk="twenty", callsPerSecond=5),
        rig.campaign(fast, trunk="twenty"),
        rig.campaign(alone, trunk="wide", callsPerSecond=10),
    ]
    for campaign in campaigns:
        rig.completed(campaign)
    sent = {item["number"]: item["originatedAt"] for campaign in campaigns for item in rig.results(campaign)}
    for contacts, rate in ((slow, 5), (alone, 10), ([*slow, *fast], 20)):
        left = sorted(datetime.fromisoformat(sent[one]).timestamp() for one in contacts)
        # By the daemon's clock: however many calls are looked at, they are no closer than the rate says. Only the
        # wake-up of the last one may be late, which shortens the next gap and never adds up.
        early = [(j - i) / rate - (left[j] - left[i]) for j in range(len(left)) for i in range(j)]
        assert max(early) < WOKEN_SECONDS, (rate, max(early))
        calls = rig.world_calls(contacts)
        gaps = [later.invited_at - one.invited_at for one, later in pairwise(calls)]
        assert min(gaps) > 1 / rate - RUNG_SECONDS, (rate, min(gaps))
        # One call deep: in a second as many as the rate says, and one for where the window begins.
        assert fastest(calls, 1.0) <= rate + 1, rate
        took = calls[-1].invited_at - calls[0].invited_at
        assert took >= (len(calls) - 1) / rate - RUNG_SECONDS
    took = rig.world_calls(alone)[-1].invited_at - rig.world_calls(alone)[0].invited_at
    assert took < 29 / 10 * 1.25, "and the rate is used"


def test_campaigns_share_a_trunk_by_priority(rig: Rig) -> None:
    priorities = {1: rejecting(200), 3: rejecting(200), 6: rejecting(200)}
    campaigns = {
        priority: rig.campaign(contacts, trunk="shared", priority=priority, start=False)
        for priority, contacts in priorities.items()
    }
    for campaign in campaigns.values():
        rig.command(campaign, "start")
    rig.until(lambda: len(rig.results(campaigns[6])) >= 90, 20, "a while of sharing")
    for campaign in campaigns.values():
        rig.command(campaign, "remove")
    calls = {priority: rig.world_calls(contacts) for priority, contacts in priorities.items()}
    # Of the time when all three had contacts: from the last one's first call to the first one's last.
    begin = max(some[0].invited_at for some in calls.values())
    end = min(calls[6][-1].invited_at, calls[3][-1].invited_at)
    counts = {
        priority: sum(begin <= call.invited_at <= end for call in some) for priority, some in calls.items()
    }
    everything = sum(counts.values())
    assert everything > 100
    shares = {priority: counts[priority] / everything for priority in counts}
    assert shares == pytest.approx({1: 0.1, 3: 0.3, 6: 0.6}, abs=0.04), counts


# --- who must not be called now ---


def test_a_number_put_on_the_do_not_call_list_while_it_waits_is_not_called(rig: Rig) -> None:
    first, by_cli, by_redis, of_this, last = rejecting(5)
    busy = number.rejects(486, serial=serial())
    blocker = number.rings_out(serial())
    rule = {"status": "RS_BUSY", "retryAfter": 6, "maxAttempts": 1}
    waiting = rig.campaign([blocker, first, by_cli, by_redis, of_this, last], trunk="wide", maxChannels=1)
    redial = rig.campaign([busy], trunk="wide", rescheduleRules=[rule])
    rig.until(lambda: rig.live(waiting) == 1 and rig.contacts(redial)["due"] == 1, 10, "both of them wait")
    added = rig.cli("dnc", "add", f"{by_cli[:3]} {by_cli[3:]}", busy, "--reason", "asked by letter")
    assert added.returncode == 0, added.stderr
    by_hand = ["redis-cli", "-s", str(rig.socket), "HSET"]
    for key, contact, entry in (
        ("{dialer}:dnc:all", by_redis, '{"reason": "court order"}'),
        (f"{{dialer}}:dnc:campaign:{waiting}", of_this, "{}"),
    ):
        assert subprocess.run([*by_hand, key, contact, entry], check=True, capture_output=True).stdout == b"1\n"
    rig.define(waiting, rig.definition(waiting) | {"maxChannels": 10})
    rig.until(lambda: len(rig.results(waiting)) == 5, 10, "the others had their turn")
    results = {item["number"]: (item["status"], item["extStatus"]) for item in rig.results(waiting)}
    assert results == {
        first: ("RS_NUMBER", None),
        by_cli: ("RS_BLACKLIST", "asked by letter"),
        by_redis: ("RS_BLACKLIST", "court order"),
        of_this: ("RS_BLACKLIST", "do-not-call"),
        last: ("RS_NUMBER", None),
    }
    rig.command(waiting, "remove")
    assert [item["status"] for item in rig.completed(redial)] == ["RS_BUSY", "RS_BLACKLIST"]
    assert len(rig.world_calls([busy])) == 1
    assert rig.world_calls([by_cli, by_redis, of_this]) == []


def test_a_number_forbidden_50_ms_before_its_turn_is_not_called(rig: Rig) -> None:
    contacts = rejecting(24)
    campaign = rig.campaign(contacts, trunk="wide", callsPerSecond=5)
    forbidden: dict[str, float] = {}
    # The turns are 0.2 s apart: 150 ms after one call its successor is 50 ms away.
    for index in range(3, 20, 4):
        rig.until(lambda n=index: len(rig.world_calls(contacts)) >= n, 15, f"{index} calls")  # type: ignore[misc]
        before = rig.world_calls(contacts)[-1]
        time.sleep(max(0.0, before.invited_at + 0.15 - time.time()))
        successor = contacts[contacts.index(before.number) + 1]
        if rig.world_calls([successor]):
            continue  # the test was late
        rig.redis.hset(rig.key("dnc:all"), successor, "{}")
        forbidden[successor] = time.time()
    results = {item["number"]: item["status"] for item in rig.completed(campaign, 20)}
    assert len(forbidden) >= 3
    # Whoever was called all the same had been sent by the daemon's own clock before he was forbidden.
    sent = {item["number"]: item["originatedAt"] for item in rig.results(campaign)}
    called = {
        call.number: datetime.fromisoformat(sent[call.number]).timestamp() - forbidden[call.number]
        for call in rig.world_calls(forbidden)
    }
    assert all(after <= 0 for after in called.values()), f"forbidden and called all the same: {called}"
    assert {results[one] for one in forbidden if one not in called} == {"RS_BLACKLIST"}
    assert len(called) < len(forbidden)


@pytest.fixture(scope="module", autouse=True)
def of_the_same_people(rig: Rig) -> dict[int, list[str]]:
    """Two campaigns begun with the module: the second one's calls wait ten seconds for their turn."""
    people = [number.answers(ring=0.3, talk=1.5, serial=serial()) for _ in range(5)]
    spaced = [f"{one[:3]} {one[3:6]}-{one[6:]}" for one in people]
    return {rig.campaign(contacts, trunk="wide", flow=TALKING): people for contacts in (people, spaced)}


def test_two_campaigns_with_the_same_number_never_ring_it_at_the_same_time(
    rig: Rig, of_the_same_people: dict[int, list[str]]
) -> None:
    both = next(iter(of_the_same_people.values()))
    for campaign in of_the_same_people:
        assert [item["status"] for item in rig.completed(campaign, 50)] == ["TERMINATED"] * 5
    for one in both:
        calls = rig.world_calls([one])
        assert len(calls) == 2
        assert all((call.ended_at or 0) <= later.invited_at for call, later in pairwise(calls))
