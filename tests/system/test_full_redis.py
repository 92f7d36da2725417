"""A Redis without room: what lives goes on, also with a daemon that begins then."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab import number
from tests.rig import Rig, serial

pytestmark = [pytest.mark.system]

BLOCKS = {"stay": {"type": "wait", "seconds": 60, "next": "bye"}, "bye": {"type": "hangup"}}
FLOW = {"name": "stay", "start": "stay", "blocks": BLOCKS}


def test_a_daemon_that_begins_while_redis_is_full_goes_on_with_its_calls(new_rig: Callable[[str], Rig]) -> None:
    rig = new_rig("")
    rig.start()
    talks, waits = number.answers(ring=0.3, talk=6, serial=serial()), number.stays(serial=serial())
    campaign = rig.campaign([talks, waits], flow=FLOW, maxChannels=1)
    rig.until(lambda: rig.redis.keys("{dialer}:attempt:*"), 5, "the call is claimed")
    (attempt,) = rig.redis.keys("{dialer}:attempt:*")
    rig.until(lambda: rig.redis.hget(attempt, "position"), 5, "the flow has begun")
    rig.kill()
    spoilt = rig.campaign([number.stays(serial=serial())], start=False)
    rig.define(spoilt, "{}")  # what has to be written of it does not keep the others waiting
    rig.redis.config_set("maxmemory", "1mb")
    rig.start()
    rig.until(lambda: rig.logged("recovered"), 5, "the call is found")
    rig.until(lambda: rig.world_calls([talks])[0].ended_at, 15, "the callee has gone")
    assert rig.results(campaign) == []
    assert rig.state(spoilt)["state"] == "INVALID"
    assert not rig.world_calls([waits])
    rig.redis.config_set("maxmemory", "0")
    rig.until(lambda: rig.world_calls([waits]), 15, "it dials on")
    (result,) = rig.results(campaign)
    assert (result["number"], result["status"], result["path"]) == (talks, "TERMINATED", ["stay"])
    rig.command(campaign, "remove")
