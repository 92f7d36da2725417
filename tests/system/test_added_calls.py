"""Calls added to a run by the API: none is lost and none is made twice, whatever is killed meanwhile."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPException

import pytest

from tests.lab import number
from tests.rig import Rig, serial
from tests.system.api import Api, serve, token

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

CALLS, CLIENTS = 1000, 4
TOML = """
[trunks.wide]
dial_string = "PJSIP/${num}@carrier"
capacity = 1000
"""


class Feeder:
    """A client that adds calls one by one, each until it has been told that it is done."""

    def __init__(self, contacts: Sequence[str], path: str, bearer: str) -> None:
        self.added = 0
        self.address = ""
        self._contacts = contacts
        self._path = path
        self._bearer = bearer
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        for contact in self._contacts:
            while not self._add(contact):
                time.sleep(0.05)
            self.added += 1

    def _add(self, contact: str) -> bool:
        api = Api(self.address, self._bearer)
        try:
            answer = api.ask("POST", self._path, {"number": contact}, Idempotency_Key=contact)
        except (OSError, HTTPException):
            return False
        assert answer.status in (200, 503), answer
        return answer.status == 200


def has_added(feeders: Sequence[Feeder], count: int) -> bool:
    return sum(feeder.added for feeder in feeders) >= count


def test_a_thousand_added_calls_are_each_made_once_over_a_kill(new_rig: Callable[[str], Rig]) -> None:
    rig = new_rig(TOML)
    campaign = rig.campaign(whenDone="wait", trunk="wide", maxChannels=500)
    bearer = token(rig)
    contacts = [number.rejects(404, serial=serial()) for _ in range(CALLS)]
    path = f"/dialer/campaigns/{campaign}/calls"
    feeders = [Feeder(contacts[first::CLIENTS], path, bearer) for first in range(CLIENTS)]
    address = serve(rig, bearer=bearer).address
    rig.reaches(campaign, "RUNNING")
    for feeder in feeders:
        feeder.address = address
        feeder.start()
    for kill_at in (CALLS // 3, 2 * CALLS // 3):
        rig.until(partial(has_added, feeders, kill_at), 60, "a third more")
        rig.kill()
        address = serve(rig, bearer=bearer).address
        for feeder in feeders:
            feeder.address = address
    for feeder in feeders:
        feeder.finish()

    rig.until(lambda: len(rig.results(campaign)) >= CALLS, 60, "every call has a result")
    assert rig.contacts(campaign) == {"fresh": 0, "due": 0, "live": 0, "closed": CALLS}
    results = rig.results(campaign)
    assert Counter(one["number"] for one in results) == dict.fromkeys(contacts, 1)
    called = Counter(call.number for call in rig.world_calls(contacts))
    assert set(called.values()) == {1}
    silent = [one for one in results if one["number"] not in called]
    assert {one["extStatus"] for one in silent} <= {"UNKNOWN"}, "sent, and the PBX had not begun"
    assert len(silent) < CALLS // 10
    assert rig.state(campaign)["state"] == "RUNNING"
    assert not rig.redis.exists(rig.key(f"campaign:{campaign}:added"))
    one_for_later_waits_for_its_time(rig, Api(address, bearer), path)
    assert rig.stop() == 0


def one_for_later_waits_for_its_time(rig: Rig, api: Api, path: str) -> None:
    contact = number.rejects(404, serial=serial())
    at = datetime.now(UTC) + timedelta(seconds=2)
    api.done("POST", path, {"number": contact, "at": at.isoformat()})
    rig.until(lambda: rig.world_calls([contact]), 10, "it is called")
    (call,) = rig.world_calls([contact])
    assert at.timestamp() <= call.invited_at < at.timestamp() + 0.5
