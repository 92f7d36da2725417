"""From an HTTP request to an INVITE: the seed's campaign, and the stop, in the lab."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests import seed
from tests.lab import number
from tests.rig import HELLO, Rig, serial
from tests.system.api import Api, beside, serve

pytestmark = [pytest.mark.lab, pytest.mark.system]

# The seed's number has nine digits; with these before it the world's callee rings for a second, answers, talks.
TOML = """
[trunks.seed]
dial_string = "PJSIP/210${num}@carrier"
[trunks.wide]
dial_string = "PJSIP/${num}@carrier"
capacity = 3000
"""
STOP_SECONDS = 0.1


def where_it_is_noon() -> str:
    """A time zone in which the seed's 09:00 to 17:00 is now."""
    hours = 12 - datetime.now(UTC).hour
    return f"Etc/GMT{-hours:+d}"


def test_the_campaign_made_by_the_seed_s_requests_dials(new_rig: Callable[[str], Rig]) -> None:
    """The API is a process of its own, beside the daemon that dials."""
    rig = new_rig(TOML)
    rig.redis.hset(rig.key("ivr:TUxw53xCBf"), "document", json.dumps({**HELLO, "name": "IVR-app-name"}))
    rig.redis.sadd(rig.key("ivrs"), "TUxw53xCBf")
    rig.start()
    with beside(rig) as api:
        host, _, port = api.address.partition(":")

        def send(request: str, **more: int) -> tuple[int, Any]:
            return seed.send(request, (host, int(port)), api.token, **more)

        assert send(seed.CREATE_LIST) == (200, seed.document(seed.LIST_CREATED))
        assert [one["name"] for one in send(seed.GET_IVRS)[1]] == ["IVR-app-name"]
        assert send(seed.CREATE_CAMPAIGN) == (200, seed.document(seed.CAMPAIGN_CREATED))
        assert send(seed.CONTROL, id=1)[1]["state"] == "RUNNING"
        waits = plan(rig, api, "/dialer/campaigns/1", "STALE_QUEUE_DATA", "OUT_OF_PERIOD")
        assert waits["originate"] == 0, "no agents are known here, and it may be night"

        phone = seed.body(seed.CREATE_CAMPAIGN) | {
            "endpoint": {"type": "phone"},
            "timezone": where_it_is_noon(),
        }
        api.done("PUT", "/dialer/campaigns/1", {**phone, "trunk": "seed"})
        rig.until(lambda: rig.world_calls(["210123456789"]), 5, "the seed's number is rung at once")
        rig.until(lambda: api.done("GET", "/dialer/campaigns/1/calls")["total"] == 1, 5, "the call is shown")
        rig.until(lambda: api.done("GET", "/dialer/campaigns/1")["state"] == "COMPLETED", 20, "it completes")
        (result,) = api.done("GET", "/dialer/campaigns/1/results")["items"]
        came_to = (result["number"], result["status"], result["path"])
        assert came_to == ("123456789", "TERMINATED", ["hello", "bye"])
        stats = api.done("GET", "/dialer/campaigns/1/stats")
        assert (stats["calls"], stats["answerRate"], stats["numbers"]["closed"]) == ({"TERMINATED": 1}, 1.0, 1)
    assert rig.stop() == 0


def test_the_stop_holds_within_a_tenth_of_a_second_and_over_a_restart(new_rig: Callable[[str], Rig]) -> None:
    rig = new_rig(TOML)
    api = serve(rig)
    rig.until(lambda: rig.logged("asterisk connected"), 20, "the daemon is connected")
    contacts = [number.rejects(404, serial=serial()) for _ in range(120)]
    made = api.done(
        "POST", "/dialer/call-lists", {"name": "x", "numbers": [{"number": one} for one in contacts]}
    )
    ivr = api.done("POST", "/ivr", HELLO)["id"]
    definition = seed.body(seed.CREATE_CAMPAIGN) | {"callLists": [made["id"]], "ivr": ivr, "trunk": "wide"}
    definition |= {"endpoint": {"type": "phone"}, "timezone": where_it_is_noon(), "callsPerSecond": 30}
    campaign = api.done("POST", "/dialer/campaigns", definition)["id"]
    path = f"/dialer/campaigns/{campaign}"
    api.done("PUT", f"{path}/control", {"command": "start"})
    rig.until(lambda: len(rig.world_calls(contacts)) > 20, 10, "it dials")
    asked_at = time.time()
    api.done("PUT", "/dialer/stop")
    called = until_silent(rig, contacts)
    assert max(called.values()) < asked_at + STOP_SECONDS, "the last INVITE"
    assert 20 < len(called) < 120
    assert plan(rig, api, path, "STOPPED")["originate"] == 0

    assert rig.stop() == 0
    api = serve(rig, bearer=api.token)
    rig.until(lambda: rig.logged("asterisk connected"), 20, "the daemon is connected")
    assert plan(rig, api, path, "STOPPED")["text"] == "No call may start: all dialing has been stopped."
    assert len(rig.world_calls(contacts)) == len(called)
    api.done("DELETE", "/dialer/stop")
    rig.until(lambda: api.done("GET", path)["state"] == "COMPLETED", 20, "it goes on to its end")
    assert Counter(call.number for call in rig.world_calls(contacts)) == dict.fromkeys(contacts, 1)
    assert rig.stop() == 0


def until_silent(rig: Rig, contacts: list[str]) -> dict[str, float]:
    """Wait for a second without a new INVITE; when each contact was called."""
    calls = rig.world_calls(contacts)
    while time.time() < max(call.invited_at for call in calls) + 1:
        time.sleep(0.1)
        calls = rig.world_calls(contacts)
    return {call.number: call.invited_at for call in calls}


def plan(rig: Rig, api: Api, path: str, *limits: str) -> Any:
    """The plan, once one of these binds it."""
    rig.until(lambda: api.done("GET", f"{path}/plan")["limit"] in limits, 5, f"the plan says {limits}")
    return api.done("GET", f"{path}/plan")
