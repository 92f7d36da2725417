"""The books of a campaign against those of others: results and stats, Asterisk's queue_log, the world's own log.

Call by call. What differs is told in a sentence each; the figures are for a person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.lab import queue_log
from tests.lab.agents import name_of
from tests.lab.centre import Campaign, Centre, instant
from tests.lab.queue_log import Served
from tests.lab.world import WorldCall

SECONDS = 0.3
"""What the daemon may differ from the world in an instant or a duration."""
WHOLE_SECONDS = 1.0
"""What it may differ from the queue's log besides, which knows whole seconds."""

STATUS_OF_END = {"ABANDON": "RS_LOST", "EXITWITHTIMEOUT": "RS_TIMEOUT"}


@dataclass
class Books:
    """Every call of a campaign from all sides."""

    results: Sequence[Mapping[str, Any]]
    stats: Mapping[str, Any]
    calls: Mapping[str, WorldCall]  # by number
    telephones: Mapping[str, WorldCall]  # by attempt
    queue: Mapping[str, Served]  # by attempt
    ivr_seconds: float  # what the flow plays before the queue
    nobody_listened: tuple[float, float] | None  # from a kill -9 until the daemon had found its calls again
    wrong: list[str] = field(default_factory=list)

    def check(self) -> list[str]:
        """All that differs."""
        listed = Counter(result["number"] for result in self.results)
        self._same("the numbers called", dict(listed), dict.fromkeys(self.calls, 1))
        for result in self.results:
            if result["number"] in self.calls:
                self._check_call(result, self.calls[result["number"]])
        self._check_stats()
        return self.wrong

    def _same(self, what: str, ours: object, theirs: object) -> None:
        if ours != theirs:
            self.wrong.append(f"{what}: ours {ours}, theirs {theirs}")

    def _near(self, what: str, ours: float | None, theirs: float | None, within: float = SECONDS) -> None:
        if ours is None or theirs is None or abs(ours - theirs) > within:
            self.wrong.append(f"{what}: ours {ours}, theirs {theirs}")

    def _was_unheard(self, at: float | None) -> bool:
        """What ended while no daemon was there is known to have ended by the time it came back."""
        return at is not None and self.nobody_listened is not None and at <= self.nobody_listened[1]

    def _check_call(self, result: Mapping[str, Any], call: WorldCall) -> None:
        name = f"{result['number']} ({result['attempt']}, {result['status']})"
        for ours, theirs in (("answeredAt", call.answered_at), ("endedAt", call.ended_at)):
            if result[ours] is None or theirs is None:
                self._same(f"{name} {ours}", result[ours] is not None, theirs is not None)
            elif not self._was_unheard(theirs):
                self._near(f"{name} {ours}", instant(result, ours), theirs)
        served = self.queue.get(result["attempt"])
        if served is not None:
            self._same(f"{name} queue", (result["queue"] or {}).get("name"), served.queue)
        self._same(f"{name} agent", result["agent"], served and served.agent)
        if served is not None and served.agent is not None:
            self._same(f"{name} status", result["status"], "TERMINATED")
            self._check_agent(name, result, call, served)
        elif served is not None:
            self._same(f"{name} status", result["status"], STATUS_OF_END.get(served.ended or "", "?"))
            self._near(f"{name} waitSeconds", result["queue"]["waitSeconds"], served.hold_seconds, 1.3)
        if result["queue"] is not None:
            late = (result["queue"]["secondsToAgent"] or 1e9) > 2.0
            self._same(f"{name} abandoned", result["queue"]["abandoned"], late)

    def _check_agent(self, name: str, result: Mapping[str, Any], call: WorldCall, served: Served) -> None:
        queue, telephone = result["queue"], self.telephones.get(result["attempt"])
        if telephone is None or telephone.answered_at is None or call.answered_at is None:
            self.wrong.append(f"{name}: no telephone was answered for it")
            return
        self._same(f"{name} agent", result["agent"], name_of(int(telephone.number)))
        self._near(f"{name} connectedAt", instant(result, "connectedAt"), telephone.answered_at)
        to_agent = telephone.answered_at - call.answered_at - self.ivr_seconds
        self._near(f"{name} secondsToAgent", queue["secondsToAgent"], to_agent)
        self._near(f"{name} secondsToAgentPbx", queue["secondsToAgentPbx"], to_agent)
        if not self._was_unheard(telephone.ended_at):
            self._near(f"{name} talkSeconds", queue["talkSeconds"], telephone.duration)
            self._near(
                f"{name} talkSeconds", queue["talkSeconds"], served.talk_seconds, SECONDS + WHOLE_SECONDS
            )
        self._near(f"{name} waitSeconds", queue["waitSeconds"], served.hold_seconds, SECONDS + WHOLE_SECONDS)

    def _check_stats(self) -> None:
        """The counters against what the others wrote down; the sums against the results just checked."""
        stats, ours = self.stats, {result["attempt"] for result in self.results}
        served = [each for attempt, each in self.queue.items() if attempt in ours]
        took = Counter(each.agent for each in served if each.agent)
        self._same("stats calls", stats["calls"], dict(Counter(each["status"] for each in self.results)))
        self._same("stats answered", stats["answered"], sum(bool(c.answered_at) for c in self.calls.values()))
        self._same("stats connected", stats["connected"], sum(took.values()))
        self._same("stats agents", {name: one["calls"] for name, one in stats["agents"].items()}, dict(took))
        ends = Counter(each.ended for each in served)
        lost_before = sum(
            each["status"] == "RS_LOST" and each["attempt"] not in self.queue for each in self.results
        )
        self._same("stats queued", stats["queued"], len(served) + lost_before)
        self._same("stats lost", stats["calls"].get("RS_LOST", 0), ends["ABANDON"] + lost_before)
        self._same("stats timed out", stats["calls"].get("RS_TIMEOUT", 0), ends["EXITWITHTIMEOUT"])
        abandoned = sum(bool(each["queue"] and each["queue"]["abandoned"]) for each in self.results)
        self._same("stats abandoned", stats["abandoned"], abandoned)
        talked = [each["queue"]["talkSeconds"] or 0 for each in self.results if each["agent"]]
        self._near("stats talkSeconds", stats["talkSeconds"], sum(talked), 0.01 * (1 + len(talked)))
        for part in ("hours", "callLists"):
            whole = {name: sum(each[name] for each in stats[part]) for name in ("calls", "queued", "connected")}
            self._same(
                f"stats {part}",
                whole,
                {"calls": len(self.results), "queued": stats["queued"], "connected": stats["connected"]},
            )

    def figures(self) -> str:
        stats = self.stats
        return (
            f"{len(self.results)} calls {stats['calls']}, {stats['answered']} answered, {stats['queued']} queued, "
            f"{stats['connected']} connected, {stats['abandoned']} abandoned, "
            f"{stats['secondsToAgent'].get('average')} s to an agent; {len(self.wrong)} differences"
        )


def books(
    centre: Centre,
    campaign: Campaign,
    *,
    ivr_seconds: float = 0.0,
    nobody_listened: tuple[float, float] | None = None,
    says_for_whom: bool = True,
) -> Books:
    """Of a campaign whose calls have all ended, each number called once.

    `says_for_whom`: the queue's dialplan tells the telephone for which call it rings. A FreePBX has none that does;
    there an agent's call is the one that his telephone had, so each may have had one at most.
    """
    results = centre.results(campaign)
    if says_for_whom:
        telephones = centre.telephones()
    else:
        had = {name_of(int(call.number)): call for call in centre.calls_of_telephones()}
        telephones = {each["attempt"]: had[each["agent"]] for each in results if each["agent"] in had}
    return Books(
        results=results,
        stats=centre.stats(campaign),
        calls={call.number: call for call in centre.calls(campaign)},
        telephones=telephones,
        queue=queue_log.read(centre.lab.queue_log()),
        ivr_seconds=ivr_seconds,
        nobody_listened=nobody_listened,
    )
