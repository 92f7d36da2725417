"""One story from three witnesses: what the world saw, what Redis holds, and when which fault was.

The rules are written down here a second time, from the specification and not from the engine's code.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.chaos.callees import NO_INPUT, PBX_LOST, UNKNOWN, Callee, Outcome
from tests.chaos.place import Gap, Life, Place
from tests.lab.world import WorldCall
from tests.rig import result_of
from tests.simulated import SimulatedLab, Spoilt

AT_ONCE_SECONDS = 0.2
"""Who picks up so shortly before the end met the cancel of our ring's time-out on the wire."""
WIRE_SECONDS = 0.5
"""From what the world does to what the daemon has written down of it (a key is told when it is let go)."""
BACK_SECONDS = 0.5
"""From the connection until every call has been looked at."""
DIALS_SECONDS = 1.5
"""A daemon that is connected, and has somebody to call, calls within this time."""
START_SECONDS = 1.0
FORK_SECONDS = 0.2
"""What a daemon needs to start on an idle machine, and what one does that is forked (tests/nursery.py). Where it
needs longer, the three above are longer, too."""
PATIENCE_SECONDS = 6.0
"""How long an answered call waits in the dialplan; it asks every quarter of a second."""
TAKES_SECONDS = 0.6
APOLOGY_SECONDS = 5.5
"""A call that lasted so long without a daemon has waited in the dialplan and heard the apology."""
ANSWER_SECONDS = 0.7
"""Asterisk's Answer() takes half a second; then the call must be with us."""
KEY_SECONDS = 0.5
"""From a key to the news that it was let go, and some more."""
STORIES = 8

RULE_OF: dict[str, int] = {"RS_BUSY": 1, "RS_ERROR": 1}  # status: maxAttempts


@dataclass(frozen=True)
class Result:
    attempt: str
    number: str
    outcome: Outcome
    values: dict[str, str]
    originated_at: float | None
    answered_at: float | None
    settled_at: float
    redial_at: float | None
    raw: dict[str, Any] = field(repr=False, compare=False, default_factory=dict)


@dataclass
class Verdict:
    """Figures, and what is wrong; a scenario with anything wrong has failed."""

    name: str
    seed: int
    figures: dict[str, object] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def expect(self, condition: bool, complaint: str) -> None:
        if not condition:
            self.wrong.append(complaint)

    def text(self) -> str:
        width = max(map(len, self.figures), default=0)
        lines = [f"== {self.name} (seed {self.seed}): {'FAILED' if self.wrong else 'as it must be'}"]
        lines += [f"   {name:<{width}}  {value}" for name, value in self.figures.items()]
        self.wrong.sort(key=lambda complaint: "\n" in complaint)  # the short ones first
        lines += [f"   WRONG: {complaint}" for complaint in self.wrong[:STORIES]]
        if len(self.wrong) > STORIES:
            lines.append(f"   ... and {len(self.wrong) - STORIES} more")
        return "\n".join(lines)


class Ledger:
    """Everything about the calls of a place, joined when it has come to rest."""

    def __init__(self, place: Place, spoilt: Sequence[Spoilt] = ()) -> None:
        """`spoilt` are the events that were not told as they happened."""
        self.place = place
        self.spoilt: dict[str, list[Spoilt]] = defaultdict(list)
        for event in spoilt:
            self.spoilt[event.channel].append(event)
        self.answers = ANSWER_SECONDS / place.lab.speed
        self.gaps = place.gaps()
        starts = [life.connected_at - life.began_at for life in place.rig.lives if life.connected_at]
        usual = FORK_SECONDS if isinstance(place.lab, SimulatedLab) else START_SECONDS
        slowness = max(1.0, statistics.median(starts) / usual) if starts else 1.0
        self.wire, self.back = WIRE_SECONDS * slowness, BACK_SECONDS * slowness
        self.dials = DIALS_SECONDS * slowness
        self.calls: dict[str, list[WorldCall]] = defaultdict(list)
        for call in place.world():
            self.calls[call.number].append(call)
        self.results: dict[str, list[Result]] = defaultdict(list)
        for result in self._read():
            self.results[result.number].append(result)
        self.pairs: list[tuple[Result, WorldCall | None]] = []
        self._log = place.rig.log()

    def _read(self) -> Iterable[Result]:
        for campaign in self.place.campaigns:
            key = self.place.rig.key(f"campaign:{campaign}:results")
            entries: Any = self.place.rig.redis.xrange(key)
            for _, fields in entries:
                item = result_of(fields)
                yield Result(
                    fields["attempt"],
                    fields["number"],
                    (item["status"], item["extStatus"]),
                    item["values"],
                    _epoch(item["originatedAt"]),
                    _epoch(item["answeredAt"]),
                    float(fields["at"]),
                    float(fields["redial"]) if fields["redial"] else None,
                    item,
                )

    # --- the audit ---

    def audit(self, verdict: Verdict) -> None:
        """All of it."""
        self._contacts(verdict)
        self._leaks(verdict)
        outcomes = Counter("/".join(filter(None, result.outcome)) for result, _ in self.pairs)
        verdict.figures |= {
            "contacts, attempts, INVITEs": (
                f"{len(self.place.crowd.callees)}, {len(self.pairs)}, {sum(map(len, self.calls.values()))}"
            ),
            "sent, and no INVITE left": sum(
                call is None and result.originated_at is not None for result, call in self.pairs
            ),
            "outcomes": ", ".join(f"{name} {count}" for name, count in outcomes.most_common()),
        }
        self._outcomes(verdict)
        self._adopted(verdict)
        self._silence(verdict)

    def _contacts(self, verdict: Verdict) -> None:
        """Each contact closed by the results it must have; each attempt with one INVITE at most."""
        talked_again = 0
        for number in self.place.crowd.callees:
            results = sorted(self.results[number], key=lambda result: result.originated_at or result.settled_at)
            calls = self.calls[number]
            if not results:
                verdict.wrong.append(self.story(number, "has no result: forgotten"))
                continue
            self._chain(number, results, verdict)
            self._join(number, results, calls, verdict)
            if any(self._talked(call) for call in calls[:-1]):
                talked_again += 1
                verdict.wrong.append(self.story(number, "was rung again after having been talking"))
        verdict.figures["rung again after talking"] = talked_again

    def _talked(self, call: WorldCall) -> bool:
        """Who picks up when the PBX behind the call is dead, or dies that instant, is heard of by nobody."""
        at = call.answered_at
        dead = (gap for gap in self.gaps if gap.fault == "pbx")
        return at is not None and not any(gap.began_at - self.wire < at < gap.ended_at for gap in dead)

    def _chain(self, number: str, results: Sequence[Result], verdict: Verdict) -> None:
        spent: Counter[str] = Counter()
        for place, result in enumerate(results):
            status = result.outcome[0]
            due = spent[status] < RULE_OF.get(status, 0) and not _nobody_twice(result)
            if due:
                spent[status] += 1
            last = place == len(results) - 1
            if due != (result.redial_at is not None) or due == last:
                verdict.wrong.append(self.story(number, f"result {place + 1} is followed by the wrong thing"))
                return

    def _join(
        self, number: str, results: Sequence[Result], calls: Sequence[WorldCall], verdict: Verdict
    ) -> None:
        left = list(calls)
        for place, result in enumerate(results):
            following = results[place + 1] if place + 1 < len(results) else None
            until = following.originated_at if following is not None else None
            mine = [call for call in left if until is None or call.invited_at < until - 0.02]
            del left[: len(mine)]
            self.pairs.append((result, mine[0] if mine else None))
            if len(mine) > 1:
                verdict.wrong.append(self.story(number, f"attempt {result.attempt} rang it {len(mine)} times"))
            if mine and result.originated_at is None:
                verdict.wrong.append(self.story(number, "was rung by an attempt that was never sent"))
            elif mine and mine[0].invited_at < (result.originated_at or 0) - 0.02:
                verdict.wrong.append(self.story(number, "was rung before its attempt was marked sent"))
            elif mine and mine[0].invited_at > result.settled_at + 0.02:
                verdict.wrong.append(self.story(number, "was rung after its attempt was settled"))
            if not mine and result.outcome not in (UNKNOWN, PBX_LOST, ("RS_ERROR", "REFUSED")):
                verdict.wrong.append(self.story(number, f"{result.outcome} and the world knows no such call"))

    def _leaks(self, verdict: Verdict) -> None:
        rig = self.place.rig
        found = []
        for pattern in ("attempt:*", "daemon:*:live", "trunk:*:live", "campaign:*:live", "live-numbers"):
            found += [str(key) for key in rig.redis.scan_iter(rig.key(pattern).replace("{", "\\{"))]
        verdict.figures["slots leaked"] = len(found)
        verdict.expect(not found, f"left in Redis: {found}")
        for campaign in self.place.campaigns:
            contacts, rows = rig.contacts(campaign), len(self.place.rows(campaign))
            wanted = {"fresh": 0, "due": 0, "live": 0, "closed": rows}
            verdict.expect(contacts == wanted, f"campaign {campaign} of {rows} rows ends with {contacts}")

    # --- outcomes ---

    def _outcomes(self, verdict: Verdict) -> None:
        """Each result is what it must be, or a fault explains it; a key heard before a fault is in it."""
        keys, lost_keys, gap_keys = 0, 0, 0
        for result, call in self.pairs:
            callee = self.place.crowd.callees[result.number]
            heard = call is not None and self._heard(call, result)
            if heard:
                keys += 1
                if result.values != callee.values:
                    lost_keys += 1
                    verdict.wrong.append(
                        self.story(result.number, "a key pressed in time is not in the result")
                    )
            elif call is not None and call.keys:
                gap_keys += 1
            if result.outcome not in self._allowed(callee, call, result, heard=heard):
                verdict.wrong.append(self.story(result.number, f"{result.outcome} is not to be explained"))
            if callee.key == "9" and result.values:
                barred = self.place.rig.redis.hexists(self.place.rig.key("dnc:all"), result.number)
                verdict.expect(bool(barred), self.story(result.number, "opted out and is not on the list"))
        verdict.figures["keys heard in time, and not in the result"] = f"{keys}, {lost_keys}"
        verdict.figures["calls whose keys nobody could hear"] = gap_keys

    def _heard(self, call: WorldCall, result: Result) -> bool:
        """Was a key pressed while a daemon certainly listened?"""
        if call.answered_at is None:
            return False
        if self._spoilt(result, "StasisStart"):
            return False
        answered = call.answered_at + self.answers
        return any(
            at >= answered
            and not self._spoilt(result, "ChannelDtmfReceived", at=at)
            and (call.ended_at is None or at + self.wire <= call.ended_at)
            and not any(
                gap.began_at - self.wire < at < gap.ended_at + self.back for gap in self._hitting(result)
            )
            for _, at in call.keys
        )

    def _spoilt(self, result: Result, *kinds: str, lost: bool = False, at: float | None = None) -> bool:
        """Were events of all these types lost or told late of this call? `lost`: the former only. `at`: those of a key
        that was pressed then."""
        found = {
            one.kind
            for one in self.spoilt.get(result.attempt, ())
            if one.what in (("lost",) if lost else ("lost", "delayed"))
            and (at is None or at <= one.at <= at + KEY_SECONDS)
        }
        return found >= set(kinds)

    def _hitting(self, result: Result) -> list[Gap]:
        """The faults during an attempt."""
        began = result.originated_at or result.settled_at
        return [
            gap
            for gap in self.gaps
            if gap.ended_at + self.back >= began and gap.began_at - self.wire <= result.settled_at
        ]

    def _allowed(self, callee: Callee, call: WorldCall | None, result: Result, *, heard: bool) -> set[Outcome]:
        allowed = {callee.outcome}
        gaps = self._hitting(result)
        if callee.key and not heard and gaps:
            allowed |= {NO_INPUT, ("TERMINATED", "HANGUP")}
        allowed |= self._allowed_unheard(callee, result, heard=heard)
        for gap in gaps:
            if gap.fault == "pbx":
                allowed |= {PBX_LOST, UNKNOWN}
            elif gap.fault != "redis" and (call is None or self._ended_in(call, gap)):
                allowed.add(UNKNOWN)
            if gap.fault in ("half-open", "slow") and call is not None and self._ended_in(call, gap):
                allowed.add(NO_INPUT)  # the flow talked on to one who had gone, and nobody told
            if gap.fault not in ("redis", "kill") and callee.outcome[0] == "RS_NOANSWER":
                allowed.add(("RS_NOANSWER", "NOT_REACHABLE"))
            if gap.fault == "half-open" and call is not None and (call.duration or 0) < AT_ONCE_SECONDS:
                allowed |= {
                    ("RS_NOANSWER", None),
                    ("RS_NOANSWER", "NOT_REACHABLE"),
                }  # nobody heard the rest of it
        if call is not None and (self._abandoned(call) or self._gave_up(call)):
            allowed |= {UNKNOWN, ("RS_ERROR", "IVR_FAILED")}
        return allowed

    def _allowed_unheard(self, callee: Callee, result: Result, *, heard: bool) -> set[Outcome]:
        """What events that were not told as they happened explain."""
        allowed: set[Outcome] = set()
        keys_lost = self._spoilt(result, "ChannelDtmfReceived") or self._spoilt(result, "StasisStart")
        if callee.key and not heard and keys_lost:
            allowed |= {NO_INPUT, ("TERMINATED", "HANGUP")}
        if self._spoilt(result, "ChannelDestroyed", lost=not self._hitting(result)):
            allowed.add(UNKNOWN)
        if self._spoilt(result, "ChannelDestroyed") and callee.outcome[0] == "TERMINATED":
            allowed.add(NO_INPUT)  # the flow talked on to one who had gone
        if callee.outcome == ("RS_NOANSWER", None) and self._spoilt(result, "Dial", "ChannelStateChange"):
            allowed.add(("RS_NOANSWER", "NOT_REACHABLE"))
        if self._spoilt(result, "ChannelStateChange", "Dial", "StasisStart"):
            allowed |= {("RS_NOANSWER", None), ("RS_NOANSWER", "NOT_REACHABLE")}  # nobody told of the answer
        return allowed

    def _ended_in(self, call: WorldCall, gap: Gap) -> bool:
        """Did it end while nobody could hear it, or too shortly before to be written down?"""
        if call.ended_at is None:
            return False
        return gap.began_at - self.wire <= call.ended_at <= gap.ended_at + self.back

    def _adopted(self, verdict: Verdict) -> None:
        """Of the calls up when a daemon came back and over before the next fault: as if nothing had been?"""
        up, adopted, over, by_phase = 0, 0, 0, Counter[str]()
        for result, call in self.pairs:
            if call is None or call.answered_at is None:
                continue
            met = [
                gap for gap in self.gaps if self._is_up(call, gap.ended_at) and not self._ended_in(call, gap)
            ]
            if not met or self.spoilt.get(result.attempt):
                continue
            later = [gap for gap in self.gaps if gap.began_at > met[-1].ended_at]
            if later and (call.ended_at or result.settled_at) > later[0].began_at - self.wire:
                over += 1
                continue
            up += 1
            callee = self.place.crowd.callees[call.number]
            good = result.outcome == callee.outcome or (
                callee.key != "" and not self._heard(call, result) and result.outcome == NO_INPUT
            )
            adopted += good
            if not good:
                by_phase["/".join(filter(None, result.outcome))] += 1
        share = adopted / up if up else 1.0
        text = f"{adopted} of {up} = {share:.1%}"
        verdict.figures["calls up at a return, adopted"] = text + (
            f"; others: {dict(by_phase)}" if by_phase else ""
        )
        verdict.figures["calls up at a return, ended in a later fault"] = over
        verdict.expect(share >= 0.95 or up - adopted < 2, f"only {text} were adopted")  # one of a dozen is none

    @staticmethod
    def _is_up(call: WorldCall, at: float) -> bool:
        return (
            call.answered_at is not None
            and call.answered_at <= at
            and (call.ended_at is None or call.ended_at > at)
        )

    def _abandoned(self, call: WorldCall) -> Gap | None:
        """The fault in which the call was answered and hung up again by the PBX."""
        if call.answered_at is None or call.ended_at is None or call.ended_by != "pbx":
            return None
        for gap in self.gaps:
            if gap.began_at - 0.1 <= call.answered_at and call.ended_at <= gap.ended_at + 0.05:
                return gap
        return None

    def _gave_up(self, call: WorldCall) -> Gap | None:
        """The fault in which the call was answered, if the dialplan's patience ended before anybody took it."""
        answered = call.answered_at
        if answered is None or call.ended_by != "pbx":
            return None
        first = next((gap for gap in self.gaps if gap.began_at - 0.1 <= answered <= gap.ended_at + 0.1), None)
        if first is None:
            return None
        silent_until = first.ended_at
        for gap in self.gaps:
            if first.began_at < gap.began_at <= silent_until + TAKES_SECONDS:
                silent_until = gap.ended_at
        return first if silent_until + TAKES_SECONDS > answered + PATIENCE_SECONDS else None

    def _silence(self, verdict: Verdict) -> None:
        """Who was answered while nobody listened and was not talked to by anybody."""
        silent: Counter[str] = Counter()
        apologised: Counter[str] = Counter()
        for result, call in self.pairs:
            gap = None if call is None else self._abandoned(call) or self._gave_up(call)
            talked_to = result.outcome[0] == "TERMINATED" and result.raw["path"]
            if call is None or gap is None or gap.fault == "pbx" or talked_to:
                continue
            kind = apologised if (call.duration or 0) >= APOLOGY_SECONDS else silent
            kind[gap.fault] += 1
            if kind is silent:
                verdict.wrong.append(self.story(call.number, "was answered and dropped in silence"))
        answered = sum(
            call.answered_at is not None and gap.began_at <= call.answered_at <= gap.ended_at
            for calls in self.calls.values()
            for call in calls
            for gap in self.gaps
        )
        faults = Counter(gap.fault for gap in self.gaps)
        verdict.figures["faults"] = dict(faults)
        verdict.figures["answered while nobody listened"] = answered
        verdict.figures["of these dropped in silence"] = f"{silent.total()} {dict(silent) or ''}".strip()
        verdict.figures["of these heard the apology"] = f"{apologised.total()} {dict(apologised) or ''}".strip()

    # --- after a restart ---

    def restarts(self, verdict: Verdict) -> None:
        """From exec to the first INVITE. How long a process takes to start is the machine's affair and told apart."""
        invites = sorted(call.invited_at for calls in self.calls.values() for call in calls)
        starts, firsts, waits, unseen = [], [], [], 0
        for life in self.place.rig.lives:
            if not life.waiting or life.connected_at is None:
                continue
            end = life.ended_at or life.began_at + 60
            first = min(next((at for at in invites if at > life.began_at + 0.3), end), end)
            starts.append(life.connected_at - life.began_at)
            if first < end:
                firsts.append(first - life.connected_at)
                waits.append(first - life.began_at)
            unseen += first >= end
            if first - life.connected_at > self.dials:
                verdict.wrong.append(self._slow(life, first))
        verdict.figures |= {
            "exec to connected": spread(starts),
            "connected to first INVITE": spread(firsts),
            "exec to first INVITE": f"{spread(waits)}; killed before: {unseen}",
            "of these within 3 s": f"{sum(wait <= 3 for wait in waits)} of {len(waits)}",
        }

    def _slow(self, life: Life, first: float) -> str:
        """What a daemon logged that took its time to dial."""
        waited = first - (life.connected_at or first)
        lines = [f"a connected daemon, {life.waiting} contacts waiting, dialed nobody for {waited:.2f} s"]
        for line in self._log:
            at = _epoch(line.get("at"))
            if at is not None and life.began_at <= at <= first:
                rest = {k: v for k, v in line.items() if k not in ("at", "level", "room")}
                lines.append(f"        {at - life.began_at:8.3f}  {rest}")
        return "\n".join([*lines[:10], *lines[10:][-50:]])  # what it adopted in between is of no interest

    # --- stories ---

    def story(self, number: str, complaint: str) -> str:
        """All that is known about the calls to a number."""
        callee = self.place.crowd.callees[number]
        moments = [*self._seen(number), *self._written(number), *self._logged(number), *self._untold(number)]
        if moments:
            first, last = min(moments)[0] - 3, max(moments)[0] + 3
            near = [gap for gap in self.gaps if first <= gap.ended_at and gap.began_at <= last]
            moments += [(gap.began_at, f"fault: {gap.fault}") for gap in near]
            moments += [(gap.ended_at, f"fault: {gap.fault} is over") for gap in near]
        start = min(moments)[0] if moments else 0
        return "\n".join(
            [
                f"{number} {complaint}; it must come to {callee.outcome} {callee.values}",
                *(f"        {at - start:8.3f}  {text}" for at, text in sorted(moments)),
            ]
        )

    def _seen(self, number: str) -> Iterable[tuple[float, str]]:
        for call in self.calls[number]:
            for name in ("invited_at", "ringing_at", "answered_at", "rejected_at", "ended_at"):
                at = getattr(call, name)
                if at is not None:
                    by = f" by {call.ended_by}" if name == "ended_at" else ""
                    yield at, f"world: {name.removesuffix('_at')}{by}"
            yield from ((at, f"world: key {key}") for key, at in call.keys)

    def _written(self, number: str) -> Iterable[tuple[float, str]]:
        for result in self.results[number]:
            if result.originated_at:
                yield result.originated_at, f"redis: {result.attempt} originated"
            said = (
                f"{result.outcome} values {result.values} path {result.raw['path']} redial {result.redial_at}"
            )
            yield result.settled_at, f"redis: {result.attempt} settled {said}"

    def _untold(self, number: str) -> Iterable[tuple[float, str]]:
        for result in self.results[number]:
            for one in self.spoilt.get(result.attempt, ()):
                yield one.at, f"{one.kind} is {one.what}" + (f" by {one.seconds:.3f} s" if one.seconds else "")

    def _logged(self, number: str) -> Iterable[tuple[float, str]]:
        attempts = {result.attempt for result in self.results[number]}
        for line in self._log:
            if number == line.get("number") or attempts & {line.get("attempt"), line.get("channel")}:
                rest = {k: v for k, v in line.items() if k not in ("at", "event", "level", "room", "attempt")}
                yield _epoch(line["at"]) or 0.0, f"log: {line['event']} {rest}"


def _nobody_twice(result: Result) -> bool:
    """What the plain RS_ERROR rule must not match."""
    return result.outcome == UNKNOWN or (result.outcome == PBX_LOST and result.answered_at is not None)


def _epoch(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()


def spread(values: Sequence[float]) -> str:
    """Median, 95th percentile and worst."""
    if not values:
        return "none"
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return f"median {statistics.median(ordered):.2f} s, p95 {p95:.2f} s, worst {ordered[-1]:.2f} s, n={len(ordered)}"
