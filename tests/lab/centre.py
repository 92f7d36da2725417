"""A call centre on the lab: a daemon with campaigns for queues, its agents, and the judge who watches all of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.lab.agents import Staff
from tests.lab.lab import Lab
from tests.lab.recorder import History, Recorder, Watched
from tests.lab.world import WorldCall, now
from tests.rig import Rig, RigError
from tests.system.api import Answer, Api, serve

LOOK_SECONDS = 0.05
EXTENSION_DIGITS = 4
BYE: dict[str, Any] = {"type": "hangup"}


def to_queue(queue: str, *, timeout: float = 60, before: str | None = None) -> dict[str, Any]:
    """A flow that leads to the queue, perhaps after a message."""
    blocks: dict[str, Any] = {
        "agent": {"type": "queue", "queue": queue, "timeout": timeout, "next": "bye"},
        "bye": BYE,
    }
    if before is not None:
        blocks["hello"] = {"type": "play", "media": [before], "next": "agent"}
    return {"name": f"to {queue}", "start": "agent" if before is None else "hello", "blocks": blocks}


def instant(result: Mapping[str, Any], field: str) -> float:
    """Epoch seconds of one of a result's instants."""
    return datetime.fromisoformat(str(result[field])).timestamp()


@dataclass
class Campaign:
    """One for a queue, and what is known of it beforehand."""

    id: int
    watched: Watched
    numbers: Sequence[str]


@dataclass
class Centre:
    """The daemon on its lab. `began_at`: the world's log before it is others'."""

    lab: Lab
    rig: Rig
    api: Api
    staff: Staff
    recorder: Recorder
    began_at: float = field(default_factory=now)

    def campaign(
        self,
        queue: str,
        numbers: Sequence[str],
        *,
        boost: str = "1",
        max_waiting: int = 2,
        flow: Mapping[str, Any] | None = None,
        attributes: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Campaign:
        """Started; its calls begin as agents become free."""
        endpoint = {
            "type": "queue",
            "queue": queue,
            "boostFactor": float(boost),
            "maxWaitingCalls": max_waiting,
        }
        made = self.rig.campaign(
            [{"number": number, "attributes": dict(attributes or {})} for number in numbers],
            flow=flow or to_queue(queue),
            endpoint=endpoint,
            **fields,
        )
        return Campaign(made, Watched(queue, boost, numbers, max_waiting), numbers)

    def phone_campaign(self, numbers: Sequence[str], flow: Mapping[str, Any]) -> Campaign:
        """One that has nothing to do with a queue."""
        made = self.rig.campaign(numbers, flow=flow)
        return Campaign(made, Watched("", "1", numbers), numbers)

    def calls(self, campaign: Campaign) -> list[WorldCall]:
        """The campaign's INVITEs so far."""
        wanted = {number[-12:] for number in campaign.numbers}
        return [
            call
            for call in self.lab.world_calls()
            if call.number in wanted and call.invited_at >= self.began_at
        ]

    def telephones(self) -> dict[str, WorldCall]:
        """By the attempt: the last telephone that rang for it."""
        return {
            call.attempt: call
            for call in self.lab.world_calls()
            if call.attempt and call.invited_at >= self.began_at
        }

    def calls_of_telephones(self) -> list[WorldCall]:
        """Of those that no dialplan has told for whom they rang."""
        return [
            call
            for call in self.lab.world_calls()
            if len(call.number) == EXTENSION_DIGITS and not call.attempt and call.invited_at >= self.began_at
        ]

    def begun_after(self, campaign: Campaign, at: float) -> list[WorldCall]:
        return [call for call in self.calls(campaign) if call.invited_at > at]

    def dials_after(self, campaign: Campaign, at: float, timeout: float = 10) -> None:
        """Wait for an INVITE of the campaign that is later than this instant."""
        self.until(lambda: self.begun_after(campaign, at), timeout, f"campaign {campaign.id} dials again")

    def until(self, condition: Callable[[], Any], timeout: float, what: str) -> Any:
        """Its value as soon as it is true."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise RigError(f"not within {timeout} s: {what}")
            time.sleep(LOOK_SECONDS)
        return value

    def plan(self, campaign: Campaign) -> dict[str, Any]:
        """The daemon's last decision."""
        return dict(self.api.done("GET", f"/dialer/campaigns/{campaign.id}/plan"))

    def stats(self, campaign: Campaign) -> dict[str, Any]:
        return dict(self.api.done("GET", f"/dialer/campaigns/{campaign.id}/stats"))

    def results(self, campaign: Campaign) -> list[dict[str, Any]]:
        """As the API tells them, amendments with them."""
        path, items = f"/dialer/campaigns/{campaign.id}/results?pageSize=5000", []
        page = self.api.done("GET", path)
        while True:
            items += page["items"]
            if page["next"] is None:
                return items
            page = self.api.done("GET", f"{path}&cursor={page['next']}")

    def history(self) -> History:
        return self.recorder.history()

    def attempts(self, campaign: Campaign) -> list[str]:
        """The ids of its calls, as AMI knows them."""
        known = self.history().attempts
        return [attempt for number in campaign.numbers for attempt in known.get(number[-12:], ())]

    def dispose(self, attempt: str, ext_status: str) -> Answer:
        """As the agent's program does it over the API."""
        return self.api.ask("PUT", f"/dialer/calls/{attempt}/extStatus", {"extStatus": ext_status})

    def start_again(self) -> None:
        """After a kill."""
        self.api = serve(self.rig, bearer=self.api.token)


@contextmanager
def centre(
    lab: Lab,
    directory: Path,
    recorder: Recorder,
    *,
    name: str,
    ami_port: int | None = None,
    queue_context: str = "dialer-queue",
) -> Iterator[Centre]:
    """A daemon of its own (`name` is its Stasis application, too), by the shipped rights of AMI."""
    with ExitStack() as stack:
        rig = stack.enter_context(
            Rig(
                directory,
                lab,
                name=name,
                app=name,
                ami=(ami_port or lab.ami_port, lab.shipped_user, lab.ami_secret),
                queue_context=queue_context,
            )
        )
        staff = stack.enter_context(Staff(lab))
        api = serve(rig)
        rig.until(lambda: rig.logged("asterisk connected"), 20, "the daemon is connected")
        yield Centre(lab, rig, api, staff, recorder)
