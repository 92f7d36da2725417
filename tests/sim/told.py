"""What AMI has told of the queues, put together: it must fit together, and in the end be what the model has."""

from __future__ import annotations

from collections import Counter
from typing import Any

from dialer_engine.simulator import Pbx
from dialer_engine.simulator.sessions import Headers

MEMBERS = ("QueueMemberAdded", "QueueMemberStatus", "QueueMemberPause", "QueueMemberRemoved")


class Told:
    """An ear of AMI. Whatever cannot be is an assertion that fails."""

    def __init__(self) -> None:
        self.rings_in_use = False  # may a telephone ring while its agent talks?
        self.events: list[dict[str, Any]] = []
        self.members: dict[tuple[str, str], dict[str, Any]] = {}
        self.waiting: dict[str, list[str]] = {}  # by queue: callers
        self.offers: dict[str, str] = {}  # caller: interface
        self.talks: dict[str, str] = {}
        self.ends: Counter[str] = Counter()

    def hear(self, kind: str, told: Headers) -> None:
        event = dict(told)
        assert event["Privilege"] == f"{kind},all"
        self.events.append(event)
        if event["Event"] in MEMBERS:
            self._member(event)
        elif "Queue" in event:
            self._caller(event)

    def of(self, *names: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["Event"] in names]

    def story(self) -> list[str]:
        """Each event in a few words."""
        return [brief(event) for event in self.events]

    def _member(self, event: dict[str, Any]) -> None:
        key = event["Queue"], event["Interface"]
        assert (key in self.members) != (event["Event"] == "QueueMemberAdded")
        self.members[key] = event
        if event["Event"] == "QueueMemberRemoved":
            del self.members[key]

    def _caller(self, event: dict[str, Any]) -> None:
        caller, queue = event["Uniqueid"], self.waiting.setdefault(event["Queue"], [])
        match event["Event"]:
            case "QueueCallerJoin":
                assert all(caller not in callers for callers in self.waiting.values())
                queue.append(caller)
                assert event["Position"] == event["Count"] == len(queue)
            case "QueueCallerLeave":
                assert queue[event["Position"] - 1] == caller
                queue.remove(caller)
                assert event["Count"] == len(queue)
                self.ends[caller] += 1
            case "QueueCallerAbandon":
                assert caller in queue
                self.offers.pop(caller, None)
            case "AgentCalled":
                assert caller in queue and caller not in self.offers
                taken = event["Interface"] in [*self.offers.values(), *self.talks.values()]
                assert self.rings_in_use or not taken
                self.offers[caller] = event["Interface"]
            case "AgentRingNoAnswer":
                assert self.offers.pop(caller) == event["Interface"]
            case "AgentConnect":
                assert caller not in queue and self.offers.pop(caller) == event["Interface"]
                self.talks[caller] = event["Interface"]
            case "AgentComplete":
                assert self.talks.pop(caller) == event["Interface"]

    def fits(self, pbx: Pbx) -> None:
        """Is it what the model has?"""
        queues = pbx.queues.by_name.values()
        has = {queue.name: [caller.channel.id for caller in queue.callers] for queue in queues if queue.callers}
        assert {name: callers for name, callers in self.waiting.items() if callers} == has
        assert {
            key: (member["Status"], member["Paused"], member["CallsTaken"])
            for key, member in self.members.items()
        } == {
            (queue.name, member.interface): (member.status, member.paused, member.calls_taken)
            for queue in queues
            for member in queue.members.values()
        }


def brief(event: dict[str, Any]) -> str:
    name = str(event["Event"]).removeprefix("Queue")
    if "Interface" not in event:
        return name
    return f"{name} {event['Interface']}" + (f" {event['Status']}" if name == "MemberStatus" else "")
