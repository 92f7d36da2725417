"""Commands: every one in every state, with calls ringing and calls in their IVR; reload under load; the ways
to stop a daemon and everything."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

from tests.lab import number
from tests.lab.lab import Lab
from tests.rig import Rig, serial

pytestmark = [pytest.mark.lab, pytest.mark.system]

TOML = """
[trunks.wide]
dial_string = "PJSIP/${num}@carrier"
capacity = 3000
[trunks.prefixed]
dial_string = "PJSIP/77${num}@carrier"
capacity = 3000
"""

WAITING = {
    "name": "waiting",
    "start": "wait",
    "blocks": {"wait": {"type": "wait", "seconds": 300, "next": "bye"}, "bye": {"type": "hangup"}},
}
STATES = ("NEW", "RUNNING", "PAUSED", "COMPLETED", "REMOVED", "INVALID")
COMMANDS = ("start", "pause", "unpause", "reload", "remove")
# Spec section 2: the state after the command, for every pair that is possible.
AFTER = {
    ("NEW", "start"): "RUNNING",
    ("COMPLETED", "start"): "RUNNING",
    ("REMOVED", "start"): "RUNNING",
    ("RUNNING", "pause"): "PAUSED",
    ("PAUSED", "unpause"): "RUNNING",
    ("RUNNING", "reload"): "RUNNING",
    ("PAUSED", "reload"): "PAUSED",
    ("INVALID", "reload"): "RUNNING",  # the state before
    ("RUNNING", "remove"): "REMOVED",
    ("PAUSED", "remove"): "REMOVED",
    ("COMPLETED", "remove"): "REMOVED",
    ("REMOVED", "remove"): "REMOVED",
    ("INVALID", "remove"): "REMOVED",
}
DONE = {"start": "started", "pause": "paused", "unpause": "unpaused", "reload": "reloaded", "remove": "removed"}
SETTLED_SECONDS = 0.3  # from the command to the last INVITE it could not stop; measured by the world's log


@dataclass
class Case:
    """A campaign in a state, with a call that rings, one in the IVR, and contacts that wait their turn."""

    state: str
    command: str
    campaign: int = 0
    ringing: str = field(default_factory=lambda: number.rings_out(serial()))
    in_ivr: str = field(default_factory=lambda: number.stays(ring=0.1, serial=serial()))
    waiting: list[str] = field(default_factory=list)
    commanded_at: float = 0.0

    @property
    def has_live_calls(self) -> bool:
        return self.state in ("RUNNING", "PAUSED", "REMOVED", "INVALID")

    @property
    def is_broken(self) -> bool:
        """INVALID campaigns cannot be reloaded before they are mended."""
        return (self.state, self.command) == ("INVALID", "reload")

    @property
    def begins_anew(self) -> bool:
        return self.command == "start" and self.state in ("COMPLETED", "REMOVED")

    @property
    def ends_in(self) -> str:
        """The state after the command, which a refused one does not change."""
        return AFTER.get((self.state, self.command), self.state)


def rejecting(count: int) -> list[str]:
    return [number.rejects(404, serial=serial()) for _ in range(count)]


def create(rig: Rig, case: Case) -> None:
    case.waiting = rejecting(2 if case.state == "COMPLETED" else 12)
    live = [case.ringing, case.in_ivr] if case.has_live_calls else []
    case.campaign = rig.campaign(
        [*live, *case.waiting],
        flow=WAITING,
        trunk="wide",
        callsPerSecond=20 if case.state == "COMPLETED" else 4,
        dialTimeout=300,
        start=case.state != "NEW",
    )


def bring(rig: Rig, case: Case) -> None:
    """Into its state, once both calls are where they should be."""
    match case.state:
        case "COMPLETED":
            rig.completed(case.campaign)
        case "PAUSED":
            rig.command(case.campaign, "pause")
        case "REMOVED":
            rig.command(case.campaign, "remove")
        case "INVALID":
            rig.define(case.campaign, rig.definition(case.campaign) | {"ivr": "gone"})
    if case.state != "NEW":
        rig.reaches(case.campaign, case.state)


def carried_out(rig: Rig, case: Case, run_before: int) -> None:
    """The command by the command line: exit code, words, and what stands in Redis then."""
    case.commanded_at = time.time()
    done = rig.cli("campaign", case.command, str(case.campaign))
    now_is = rig.state(case.campaign)
    what = (case.state, case.command, done.stderr)
    after = AFTER.get((case.state, case.command))
    if case.is_broken:
        # The definition is still broken: reload says what is wrong, and nothing has changed.
        assert (done.returncode, done.stderr) == (1, "refused:\n  ivr: there is no IVR 'gone'\n"), what
        assert now_is["state"] == "INVALID"
    elif after is None:
        allowed = ", ".join(one for one in COMMANDS if (case.state, one) in AFTER)
        refusal = f"campaign {case.campaign} is {case.state}: {case.command} is not possible"
        assert (done.returncode, done.stderr) == (1, f"{refusal}; possible now: {allowed}\n"), what
        assert (now_is.get("state", "NEW"), now_is.get("run", "0")) == (case.state, str(run_before)), what
    else:
        run = run_before + (case.command == "start")
        reply = f"campaign {case.campaign}: {after}, run {run}. Campaign successfully {DONE[case.command]}\n"
        assert (done.returncode, done.stderr) == (0, reply), what
        assert now_is["run"] == str(run)
    case.commanded_at = max(case.commanded_at, float(now_is.get("changed_at", 0)))


def holds(rig: Rig, case: Case, not_called: int) -> None:
    """What the state after the command means for contacts and calls."""
    what = f"{case.state} {case.command}"
    state = rig.state(case.campaign).get("state", "NEW")
    assert state in (case.ends_in, "COMPLETED"), what
    contacts = rig.contacts(case.campaign)
    calls = rig.world_calls(case.waiting)
    counts = Counter(call.number for call in calls)
    if case.has_live_calls:
        # Whatever was commanded: who rang goes on ringing, who listens goes on listening.
        assert [call.ended_at for call in rig.world_calls([case.ringing, case.in_ivr])] == [None, None], what
    match state:
        case "REMOVED":
            assert (contacts["fresh"], contacts["due"]) == (0, 0), what
        case "PAUSED" | "INVALID":
            # Place and counts are kept: every contact is in one of these, and who was called is called no more.
            assert contacts["live"] == 2, what
            assert contacts["fresh"] + contacts["closed"] == len(case.waiting), what
            assert contacts["fresh"] <= not_called, what
            assert counts.total() == contacts["closed"], what
        case "NEW":
            assert counts == {}, what
        case "RUNNING" | "COMPLETED" if case.begins_anew:
            # Every list from its beginning. Those who are still on the telephone are not rung.
            again = [item["number"] for item in rig.results(case.campaign) if item["run"] == 2]
            assert sorted(again) == sorted(case.waiting), what
        case _:
            assert counts == dict.fromkeys(case.waiting, 1), what
    if case.ends_in in ("PAUSED", "REMOVED", "INVALID"):
        late = [call for call in calls if call.invited_at > case.commanded_at + SETTLED_SECONDS]
        assert late == [], what


def ended(rig: Rig, case: Case) -> None:
    """Counts at the very end: each call has its one result, in the run in which it was made."""
    rig.until(lambda: rig.live(case.campaign) == 0, 15, f"{case} has no live calls")
    results = rig.results(case.campaign)
    statuses = {item["number"]: item["status"] for item in results if item["run"] == 1}
    assert statuses[case.in_ivr] == "TERMINATED", case
    assert statuses[case.ringing] in ("RS_REJECTED", "RS_NOANSWER"), case
    assert len(results) == len(rig.world_calls([case.ringing, case.in_ivr, *case.waiting])), case
    for run in (1, 2):
        counted = rig.redis.hgetall(rig.key(f"campaign:{case.campaign}:stats:{run}"))
        expected = Counter(item["status"] for item in results if item["run"] == run)
        assert {name: int(n) for name, n in counted.items() if name.isupper()} == expected, case


@pytest.mark.timeout(120)
def test_every_command_in_every_state_with_calls_ringing_and_in_the_ivr(rig: Rig, lab: Lab) -> None:
    cases = [Case(state, command) for state, command in itertools.product(STATES, COMMANDS)]
    live = [case for case in cases if case.has_live_calls]
    for case in cases:
        create(rig, case)
    for case in live:
        lab.wait_for_world(case.ringing, lambda call: call.ringing_at is not None, 20)
        lab.wait_for_world(case.in_ivr, lambda call: call.answered_at is not None, 20)
    for case in cases:
        bring(rig, case)
    runs = [int(rig.state(case.campaign).get("run", "0")) for case in cases]
    before = [rig.contacts(case.campaign) for case in cases]
    with ThreadPoolExecutor(3) as hands:
        list(hands.map(carried_out, itertools.repeat(rig), cases, runs))

    (mended,) = (case for case in cases if case.is_broken)
    rig.define(mended.campaign, rig.definition(mended.campaign) | {"ivr": rig.ivr(WAITING)})
    rig.reaches(mended.campaign, "RUNNING")  # the state before, by itself
    assert rig.cli("campaign", "reload", str(mended.campaign)).returncode == 0
    assert "reason" not in rig.state(mended.campaign)

    for case in cases:
        if case.ends_in == "RUNNING":
            all_called(rig, case)
    for case, contacts in zip(cases, before, strict=True):
        # What was claimed and not sent yet when the state changed has gone back.
        holds(rig, case, not_called=contacts["fresh"] + contacts["live"] - 2)
    for case in live:
        rig.command(case.campaign, "remove")
    rig.until(lambda: rig.redis.llen(rig.key("commands")) == 0, 5, "all are removed")
    lab.hang_up_everything()
    for case in live:
        ended(rig, case)


def all_called(rig: Rig, case: Case) -> None:
    enough = len(case.waiting)
    rig.until(lambda: rig.contacts(case.campaign)["closed"] >= enough, 20, f"{case} goes on to its end")


def test_reload_under_load_takes_list_rules_and_trunk_and_skips_nobody_nor_calls_anybody_twice(
    rig: Rig, tmp_path: Path
) -> None:
    old = [number.rejects(486 if n % 4 == 0 else 404, serial=serial()) for n in range(320)]
    added = [number.answers(ring=0, talk=0.6, serial=serial()) for _ in range(40)]
    dropped = old[290:]
    campaign = rig.campaign(old, trunk="wide", callsPerSecond=50, maxChannels=200)
    rig.until(lambda: rig.contacts(campaign)["closed"] >= 60, 15, "it is in full swing")
    call_list = rig.definition(campaign)["callLists"][0]
    file = tmp_path / "new.csv"
    # In another order, with people of before, without some of them, with new ones.
    kept = [one for one in reversed(old) if one not in dropped]
    file.write_text("number\n" + "\n".join([*added[:20], *kept, *added[20:]]) + "\n")
    imported = rig.cli("list", "import", str(call_list), str(file))
    assert imported.returncode == 0, imported.stderr
    rule = {"status": "RS_BUSY", "retryAfter": 1, "maxAttempts": 1}
    assert rig.state(campaign)["state"] == "RUNNING", "the test came too late to change anything"
    edited_from = time.time()
    rig.define(campaign, rig.definition(campaign) | {"trunk": "prefixed", "rescheduleRules": [rule]})
    rig.command(campaign, "reload")
    rig.until(lambda: rig.redis.llen(rig.key("commands")) == 0, 5, "it is reloaded")
    edited_until = time.time()
    results = rig.completed(campaign, 40)

    calls = rig.world_calls([*old, *added])
    counts = Counter(call.number for call in calls)
    assert {one for one in [*kept, *added] if counts[one] == 0} == set(), "nobody is skipped"
    first_calls = {item["number"]: item for item in reversed(results)}
    busy = {one for one in old if one[3:6] == "486"}
    assert {one for one, n in counts.items() if n > 1} <= busy, "nobody twice"
    for one in busy & set(counts):
        # The rule holds for whoever was busy after the edit; a re-dial there is one.
        ended = next(call.rejected_at for call in calls if call.number == one)
        assert ended is not None
        if ended < edited_from:
            assert counts[one] == 1, one
        elif ended > edited_until + 0.5:
            assert counts[one] == 2, one
        else:
            assert counts[one] in (1, 2)
    trunks = {
        "before": {call.dialled[:-12] for call in calls if call.invited_at < edited_from},
        "after": {call.dialled[:-12] for call in calls if call.invited_at > edited_until + 0.3},
    }
    assert trunks == {"before": {""}, "after": {"77"}}
    assert set(first_calls) == set(counts)
    stats = json.loads(rig.cli("campaign", "stats", str(campaign)).stdout)
    assert stats["numbers"]["closed"] == len(counts)
    assert stats["numbers"]["waiting"] == stats["numbers"]["scheduled"] == stats["numbers"]["live"] == 0


# --- stopping ---


def test_stop_dialing_holds_within_a_tenth_of_a_second_and_over_a_restart_until_resume(
    new_rig: Callable[[str], Rig],
) -> None:
    rig = new_rig(TOML)
    rig.start()
    contacts = rejecting(700)
    campaign = rig.campaign(contacts, trunk="wide", callsPerSecond=50)
    rig.until(lambda: len(rig.results(campaign)) > 20, 10, "it dials")
    stopped = rig.cli("stop-dialing")
    assert stopped.returncode == 0
    assert "stopped: nothing new is dialed" in stopped.stderr
    at = float(json.loads(str(rig.redis.get(rig.key("stop"))))["at"])
    time.sleep(0.5)
    last = max(call.invited_at for call in rig.world_calls(contacts))
    assert last - at <= 0.1, f"the last INVITE came {last - at:.3f} s after"
    assert rig.stop() == 0
    rig.start()
    time.sleep(1.0)
    assert max(call.invited_at for call in rig.world_calls(contacts)) == last
    assert rig.state(campaign)["state"] == "RUNNING"
    assert rig.cli("stop-dialing", "--resume").returncode == 0
    before = len(rig.world_calls(contacts))
    rig.until(lambda: len(rig.world_calls(contacts)) > before + 50, 10, "it goes on")
    assert rig.stop() == 0
    called = Counter(call.number for call in rig.world_calls(contacts))
    assert called == dict.fromkeys(contacts[: len(called)], 1), "in order, nobody skipped, nobody twice"


def test_sigterm_starts_nothing_new_waits_for_live_calls_and_exits_0(new_rig: Callable[[str], Rig]) -> None:
    rig = new_rig(TOML)
    rig.start()
    talking = [number.answers(ring=0.1, talk=3, serial=serial()) for _ in range(5)]
    ringing = [number.answers(ring=2, talk=0.6, serial=serial()) for _ in range(3)]
    contacts = rejecting(200)
    campaign = rig.campaign([*talking, *ringing, *contacts], trunk="wide", callsPerSecond=40, flow=WAITING)
    rig.until(lambda: len(rig.results(campaign)) > 10, 10, "it dials")
    terminated_at = time.time()
    assert rig.stop() == 0
    calls = rig.world_calls([*talking, *ringing])
    assert len(calls) == 8
    assert {call.ended_by for call in calls} == {"world"}, "every call came to its own end"
    assert max(call.invited_at for call in rig.world_calls(contacts)) < terminated_at + 0.1
    results = {item["number"]: item["status"] for item in rig.results(campaign)}
    assert {results[one] for one in [*talking, *ringing]} == {"TERMINATED"}
    assert rig.live(campaign) == 0
    assert len(results) + rig.contacts(campaign)["fresh"] == 208
    assert [line["event"] for line in rig.log()[-3:]][-1] == "stopped"


def test_a_drain_ends_after_drain_seconds_and_wait_all_waits_for_the_last_call(
    new_rig: Callable[[str], Rig],
) -> None:
    impatient, patient = (new_rig(TOML) for _ in range(2))
    for rig in (impatient, patient):
        rig.config.write_text(rig.config.read_text().replace("[daemon]\n", "[daemon]\ndrain_seconds = 0.5\n"))
    impatient.start()
    patient.start("--wait-all")
    numbers = {rig: number.answers(ring=0.1, talk=3, serial=serial()) for rig in (impatient, patient)}
    for rig, contact in numbers.items():
        rig.campaign([contact], trunk="wide", flow=WAITING)
    for rig, contact in numbers.items():
        assert rig.lab is not None
        rig.lab.wait_for_world(contact, lambda call: call.answered_at is not None)
    assert impatient.process is not None
    assert patient.process is not None
    impatient.process.send_signal(signal.SIGTERM)
    patient.process.send_signal(signal.SIGTERM)
    assert impatient.process.wait(10) == 0
    (draining,), (leaving,) = (impatient.logged(event) for event in ("draining", "leaving"))
    waited = datetime.fromisoformat(leaving["at"]) - datetime.fromisoformat(draining["at"])
    assert 0.49 <= waited.total_seconds() < 0.8  # the first line is written when the time has begun
    assert [call.ended_at for call in impatient.world_calls([numbers[impatient]])] == [None], "left alone"
    assert impatient.live(1) == 1, "and left to the next start"
    assert patient.process.wait(10) == 0
    assert [call.ended_by for call in patient.world_calls([numbers[patient]])] == ["world"]
    assert [item["status"] for item in patient.results(1)] == ["TERMINATED"]


def test_sighup_takes_what_it_can_and_names_what_needs_a_restart(new_rig: Callable[[str], Rig]) -> None:
    rig = new_rig(TOML)
    rig.start()
    assert rig.process is not None
    before = rig.config.read_text()
    fresh = (
        before.replace('bind = "127.0.0.1:0"', 'bind = "127.0.0.1:1"')
        .replace('app = "', 'app = "other')
        .replace("capacity = 3000", "capacity = 1")
        + '[trunks.new]\ndial_string = "PJSIP/88${num}@carrier"\n'
    )
    rig.config.write_text(fresh)
    rig.process.send_signal(signal.SIGHUP)
    rig.until(lambda: rig.logged("reloaded"), 5, "it has read the configuration again")
    assert [line["settings"] for line in rig.logged("restart needed")] == [["api.bind", "ari.app"]]
    contacts = rejecting(1)
    rig.completed(rig.campaign(contacts, trunk="new"))
    assert [call.dialled for call in rig.world_calls(contacts)] == [f"88{contacts[0]}"]
    rig.config.write_text(fresh + "[dialing2]\n[redis2]\n")
    rig.process.send_signal(signal.SIGHUP)
    rig.until(lambda: rig.logged("reload refused"), 5, "it refuses the broken one")
    assert rig.logged("reload refused")[0]["problems"] == [
        "dialing2: there is no such setting",
        "redis2: there is no such setting",
    ]
    assert rig.process.poll() is None


def test_a_second_daemon_of_the_same_name_replaces_the_first_which_exits_75(
    new_rig: Callable[[str], Rig],
) -> None:
    rig = new_rig(TOML)
    rig.start()
    first = rig.process
    assert first is not None
    talking = number.answers(ring=0.1, talk=3, serial=serial())
    contacts = rejecting(100)
    campaign = rig.campaign([talking, *contacts], trunk="wide", callsPerSecond=25, flow=WAITING)
    assert rig.lab is not None
    rig.lab.wait_for_world(talking, lambda call: call.answered_at is not None)
    rig.start()
    assert first.wait(10) == 75
    assert [line["event"] for line in rig.logged("replaced by a twin")] == ["replaced by a twin"]
    results = rig.completed(campaign)
    counts = Counter(call.number for call in rig.world_calls([talking, *contacts]))
    assert counts == dict.fromkeys([talking, *contacts], 1), "nobody twice, nobody forgotten"
    assert [item["status"] for item in results if item["number"] == talking] == ["TERMINATED"]
    assert rig.stop() == 0


def test_a_broken_configuration_lists_every_mistake_and_exits_78(new_rig: Callable[[str], Rig]) -> None:
    rig = new_rig('[queues.green]\nwrap_up_seconds = -1\n[numbers]\ndefault_region = "Czechia"\n')
    text = rig.config.read_text()
    rig.config.write_text(
        text.replace('default_trunk = "carrier"', 'default_trunk = "none"\ntimezone = "Mars/Base"').replace(
            "capacity = 5000", "capacity = 0\ncolour = 1"
        )
    )
    for command in (("check-config",), ("run",)):
        done = rig.cli(*command)
        assert done.returncode == 78
        first, *problems = done.stderr.splitlines()
        assert first == "the configuration cannot be used:"
        assert {line.strip().partition(": ")[0] for line in problems} == {
            "trunks.sipp.capacity",
            "trunks.sipp.colour",
            "dialing.timezone",
            "dialing.default_trunk",
            "numbers.default_region",
            "queues.green.wrap_up_seconds",
        }
