"""A dead trunk burns no list: a dial string that leads nowhere, and a carrier that answers 503 for a while."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab import number
from tests.lab.lab import Lab
from tests.lab.world import WorldCall
from tests.rig import HELLO, Rig

pytestmark = [pytest.mark.lab, pytest.mark.system]

WAITING = 10_000
IN_A_ROW = 10
"""So many refusals close the trunk."""


def limits(rig: Rig, campaign: int, since: int) -> list[dict[str, Any]]:
    """Each change of the limit that bound the campaign, as the log has it."""
    return [line for line in rig.logged("planned", since=since) if line["campaign"] == campaign]


def brake(rig: Rig, event: str, trunk: str, since: int) -> list[dict[str, Any]]:
    return [line for line in rig.logged(event, since=since) if line["trunk"] == trunk]


def test_a_dial_string_that_leads_nowhere_burns_nobody(new_rig: Callable[..., Rig], lab: Lab) -> None:
    """Thirty contacts: ten are refused and come back, and after the mend everybody is called once."""
    table = '[trunks.mended]\ndial_string = "PJSIP/${num}@%s"'
    rig = new_rig(table % "not-there-yet")
    rig.start()
    dialled = [number.rejects(486, ring=0.1, serial=200_000 + i) for i in range(30)]
    campaign = rig.campaign(dialled, trunk="mended")
    rig.until(lambda: brake(rig, "trunk closed", "mended", 0), 10, "the brake closes")
    rig.until(lambda: limits(rig, campaign, 0)[-1]["limit"] == "TRUNK_DOWN", 5, "the plan says so")
    refused = [item["number"] for item in rig.results(campaign)]
    assert len(refused) == len(set(refused)) == IN_A_ROW
    assert brake(rig, "trunk closed", "mended", 0)[0]["last_code"] == "ARI refused"
    assert "ARI refused" in limits(rig, campaign, 0)[-1]["text"]
    assert rig.contacts(campaign) == {"fresh": 20, "due": IN_A_ROW, "live": 0, "closed": 0}

    rig.write_config(table % "carrier")
    assert rig.process is not None
    rig.process.send_signal(signal.SIGHUP)
    results = rig.completed(campaign, 30)

    assert brake(rig, "trunk opened", "mended", 0)
    statuses = Counter((item["status"], item["extStatus"]) for item in results)
    assert statuses == {("RS_ERROR", "REFUSED"): IN_A_ROW, ("RS_BUSY", None): 30}
    assert {item["number"] for item in results if item["status"] == "RS_BUSY"} == set(dialled)
    assert Counter(call.number for call in rig.world_calls(dialled)) == dict.fromkeys(dialled, 1)
    last = {item["number"]: item for item in results}
    assert all(item["redialAt"] is None for item in last.values())


def outage(rig: Rig, lab: Lab, prefix: str, seconds: float) -> tuple[int, set[str]]:
    """A carrier that answers 503 to everybody from the first call on and is mended after some seconds.

    Returns the campaign, whose contacts are numbers of this prefix, and who was called in vain.
    """
    begun = len(rig.log())
    lab.break_carrier(prefix, 503)
    try:
        campaign = rig.campaign([dialled(prefix, i) for i in range(WAITING)], maxChannels=100)
        rig.until(lambda: brake(rig, "trunk closed", "carrier", begun), 15, "the brake closes")
        closed_at = time.monotonic()
        rig.until(lambda: limits(rig, campaign, begun)[-1]["limit"] == "TRUNK_DOWN", 5, "the plan says so")
        assert brake(rig, "trunk closed", "carrier", begun)[0]["last_code"] == "SIP 503"
        assert "SIP 503" in limits(rig, campaign, begun)[-1]["text"]
        time.sleep(closed_at + seconds - time.monotonic())
        calls = invited(rig, prefix)
        assert {call.rejected_by for call in calls} == {503}
        refused = Counter(call.dialled for call in calls)
        assert set(refused.values()) == {1}, "a probe goes to a number that was not refused yet"
        assert rig.contacts(campaign)["closed"] == len(refused)
    finally:
        lab.break_carrier(prefix, None)
    return campaign, set(refused)


def dialled(prefix: str, serial: int) -> str:
    """Answers at once and stays; the flow hangs up."""
    return prefix + number.stays(ring=0.0, serial=serial)


def invited(rig: Rig, prefix: str) -> list[WorldCall]:
    """The calls through a carrier so far."""
    assert rig.lab is not None
    return [call for call in rig.lab.world_calls() if call.dialled[:-12] == prefix]


SHORT = (15, 1, 1000)
LONG = (60, 2, WAITING)
"""Takes two minutes and more."""


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("seconds", "probes", "enough"), [SHORT, LONG] if os.environ.get("DIALER_LONG") else [SHORT]
)
def test_a_carrier_that_answers_503_for_a_while_touches_few_of_ten_thousand(
    new_rig: Callable[..., Rig], lab: Lab, seconds: float, probes: int, enough: int
) -> None:
    """Ten, and a probe 10 s and one 30 s after the first; the one after the mend finds it, and all goes on."""
    rig = new_rig()
    rig.start()
    prefix = f"04{seconds}"
    campaign, refused = outage(rig, lab, prefix, seconds)
    assert len(refused) == IN_A_ROW + probes

    def answered() -> int:
        return int(str(rig.redis.hget(rig.key(f"campaign:{campaign}:stats:1"), "TERMINATED") or 0))

    rig.until(lambda: answered() >= enough - len(refused), 300, "the list is dialed on")
    rig.command(campaign, "remove")
    rig.until(lambda: rig.live(campaign) == 0, 10, "the last calls end")
    results, calls = rig.results(campaign), invited(rig, prefix)
    assert {item["number"] for item in results if item["status"] != "TERMINATED"} == refused
    assert Counter(item["number"] for item in results) == Counter(call.dialled for call in calls)
    assert set(Counter(call.dialled for call in calls).values()) == {1}
    assert len(calls) >= enough
    instants = sorted(call.invited_at for call in calls if call.answered_at)
    assert len(instants) / (instants[-1] - instants[0]) > 20, "calls per second"


def test_a_carrier_that_breaks_while_the_campaign_runs_touches_few(rig: Rig, lab: Lab) -> None:
    """Fifty channels, some 25 calls a second: those who talk or ring stay, and some 25 contacts are lost at most."""
    prefix, begun = "0477", len(rig.log())
    rows = [prefix + number.answers(ring=0.3, talk=5.0, serial=i) for i in range(WAITING)]
    campaign = rig.campaign(rows, flow=HELLO)
    rig.until(lambda: len(invited(rig, prefix)) > 150, 30, "it is well under way")
    lab.break_carrier(prefix, 503)
    try:
        rig.until(lambda: brake(rig, "trunk closed", "carrier", begun), 15, "the brake closes")
        rig.until(lambda: limits(rig, campaign, begun)[-1]["limit"] == "TRUNK_DOWN", 5, "the plan says so")
        rig.until(lambda: rig.live(campaign) == 0, 10, "who was on the telephone has heard it all")
    finally:
        lab.break_carrier(prefix, None)
    calls = invited(rig, prefix)
    assert IN_A_ROW <= sum(call.rejected_by == 503 for call in calls) <= 25
    assert all(call.rejected_by == 503 or call.ended_by == "pbx" for call in calls)
    assert rig.statuses(campaign) == Counter(
        "RS_REJECTED" if call.rejected_by else "TERMINATED" for call in calls
    )
    rig.until(lambda: len(invited(rig, prefix)) > len(calls) + 50, 20, "the probe finds it mended")
    rig.command(campaign, "remove")
