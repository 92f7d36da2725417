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
from tests.rig import Rig

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


def test_a_carrier_that_answers_503_for_a_while_touches_few_contacts(rig: Rig, lab: Lab) -> None:
    """Ten thousand wait; fifteen seconds of 503 cost ten and a probe; then the list is dialed on, fast."""
    prefix, enough = "0421", 1000
    campaign, refused = outage(rig, lab, prefix, 15)
    assert len(refused) == IN_A_ROW + 1
    # The next probe goes out when thirty seconds have passed, and finds the carrier mended.
    rig.until(lambda: rig.statuses(campaign)["TERMINATED"] >= enough, 45, "the list is dialed on")
    rig.command(campaign, "remove")
    rig.until(lambda: rig.live(campaign) == 0, 10, "the last calls end")
    results = rig.results(campaign)
    assert {item["number"] for item in results if item["status"] != "TERMINATED"} == refused
    assert set(Counter(item["number"] for item in results).values()) == {1}
    assert set(Counter(call.dialled for call in invited(rig, prefix)).values()) == {1}
    answered = sorted(call.invited_at for call in invited(rig, prefix) if call.answered_at)
    assert len(answered) / (answered[-1] - answered[0]) > 20, "calls per second, most of them without a brake"


@pytest.mark.skipif("DIALER_LONG" not in os.environ, reason="takes minutes; DIALER_LONG=1 runs it")
@pytest.mark.timeout(400)
def test_a_minute_of_503_with_ten_thousand_waiting_loses_no_more_than_25(rig: Rig, lab: Lab) -> None:
    prefix = "0422"
    campaign, refused = outage(rig, lab, prefix, 60)
    assert len(refused) <= 25
    results = rig.completed(campaign, 300)
    assert Counter(item["status"] for item in results) == {
        "TERMINATED": WAITING - len(refused),
        "RS_REJECTED": len(refused),
    }
    calls = Counter(call.dialled for call in invited(rig, prefix))
    assert calls == {dialled(prefix, i): 1 for i in range(WAITING)}
