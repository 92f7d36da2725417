"""What the callees did against what the daemon recorded, person by person."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeAlias, TypeVar

from dialer_engine.cli.crowd import LISTED, Kind, Person
from dialer_engine.core.model import CampaignId, Status
from dialer_engine.store import Store

CLOSE_SECONDS = 1.0
"""Times that differ by less are equal: a busy machine hands on an event later than it happened."""
CLOCK_SECONDS = 0.01
"""Instants are written down to the millisecond."""
PAGE = 500
NOT_CALLED = "not called"

REJECTED: Mapping[int, tuple[str, str | None]] = {
    403: ("RS_REJECTED", "REFUSED"),
    404: ("RS_NUMBER", None),
    410: ("RS_NUMBER", None),
    480: ("RS_NOANSWER", "NOT_REACHABLE"),
    486: ("RS_BUSY", None),
    488: ("RS_ERROR", "MEDIA"),
    503: ("RS_REJECTED", "CONGESTION"),
    603: ("RS_REJECTED", "REFUSED"),
}
"""The product's promise, written down once more and not taken from the core: here it is checked."""
KEYS: Mapping[str, str] = {"1": "CONFIRMED", "2": "DECLINED"}
INSTANTS = {
    "originatedAt": "invited_at",
    "ringingAt": "ringing_at",
    "answeredAt": "answered_at",
    "endedAt": "ended_at",
}

T = TypeVar("T")


class SeenCall(Protocol):
    """One INVITE as the callee saw it; instants are epoch seconds, None when it never was."""

    @property
    def number(self) -> str: ...
    @property
    def invited_at(self) -> float: ...
    @property
    def ringing_at(self) -> float | None: ...
    @property
    def progress_at(self) -> float | None: ...
    @property
    def answered_at(self) -> float | None: ...
    @property
    def rejected_by(self) -> int | None:
        """The SIP code."""

    @property
    def keys(self) -> Sequence[tuple[str, float]]: ...
    @property
    def ended_at(self) -> float | None: ...
    @property
    def ended_by(self) -> str | None:
        """The callee ("world") or us ("pbx")."""


Result: TypeAlias = Mapping[str, Any]
"""As the API shows it."""
Said: TypeAlias = tuple[str, str | None, Mapping[str, str]]
"""Status, extStatus and the answers given, or the agent who was reached."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the comparison. `differs`: where, as far as it can be told one by one."""

    name: str
    did: str
    said: str
    equal: bool
    differs: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Story:
    """Somebody, the calls that he got, and the results of those that were to reach him, both in their order.

    `deeds` are his calls in words, `wanted` what should have been recorded of them, `said` what was.
    """

    person: Person
    calls: Sequence[SeenCall]
    results: Sequence[Result]
    deeds: Sequence[str]
    wanted: Sequence[Said]
    said: Sequence[Said]

    def is_true(self) -> bool:
        """Was he called as often as he should be, and was of each call recorded what came of it?"""
        return len(self.calls) == self.person.kind.calls and [*self.wanted] == [*self.said]

    def __str__(self) -> str:
        did = ", then ".join(self.deeds) or NOT_CALLED
        said = ", then ".join(map(in_full, self.said)) or "nothing"
        return f"{self.person.number} {self.person.name}: {did}; recorded: {said}"


def compare(
    people: Sequence[Person],
    calls: Sequence[SeenCall],
    results: Sequence[Result],
    opted_out: frozenset[str],
    kinds: Iterable[Kind],
) -> list[Line]:
    """Everything that must be equal: a row of each kind, and those of what holds for all.

    `opted_out`: the numbers on the do-not-call list that were not there before.
    """
    got = grouped(calls, lambda call: call.number)
    told = grouped(results, lambda result: str(result["number"]))
    stories = [_story(person, got.pop(person.number, []), told.pop(person.number, [])) for person in people]
    lines = [*of_kinds(kinds, stories), strangers(got, told), _again(stories)]
    return [*lines, instants("times of all calls", stories), _wishes(calls, opted_out)]


def _story(person: Person, calls: Sequence[SeenCall], results: Sequence[Result]) -> Story:
    wanted = [promised(call, person.name) for call in calls]
    if not person.kind.calls:
        wanted.append((Status.RS_BLACKLIST, LISTED, {}))
    return Story(person, calls, results, [*map(deed, calls)], wanted, [*map(recorded, results)])


def grouped(found: Iterable[T], number: Callable[[T], str]) -> dict[str, list[T]]:
    grouped: dict[str, list[T]] = {}
    for one in found:
        grouped.setdefault(number(one), []).append(one)
    return grouped


def of_kinds(kinds: Iterable[Kind], stories: Sequence[Story]) -> list[Line]:
    """A row of each."""
    return [_of_kind(kind, [story for story in stories if story.person.kind is kind]) for kind in kinds]


def _of_kind(kind: Kind, stories: Sequence[Story]) -> Line:
    did: Counter[str] = Counter()
    said: Counter[str] = Counter()
    for story in stories:
        did.update(story.deeds or [NOT_CALLED])
        said.update(map(words, story.said))
    differs = [str(story) for story in stories if not story.is_true()]
    return Line(kind.name, counted(did), counted(said), not differs, differs)


def strangers(
    calls: Mapping[str, Sequence[SeenCall]], results: Mapping[str, Sequence[Result]], name: str = "anybody else"
) -> Line:
    """Whoever should not have been called at all."""
    others = calls.keys() | results.keys()
    called, recorded = sum(map(len, calls.values())), sum(map(len, results.values()))
    return Line(name, f"{called} calls", f"{recorded} results", not others, sorted(others))


def _again(stories: Sequence[Story]) -> Line:
    """Re-dials: as many as were promised, and nobody before he was due."""
    early, after, due = False, list[float](), 0
    for story in stories:
        promises = [instant(result["redialAt"]) for result in story.results if result["redialAt"]]
        due += len(promises)
        for before, call in itertools.pairwise(story.calls):
            after.append(call.invited_at - (before.ended_at or before.invited_at))
        for promise, call in zip(promises, story.calls[1:], strict=False):
            early = early or call.invited_at < promise - CLOCK_SECONDS
    when = f", {min(after):.1f} to {max(after):.1f} s after the first" if after else ""
    equal = len(after) == due and not early
    return Line("is called again", f"{len(after)} calls{when}", f"{due} were due", equal)


def instants(name: str, stories: Sequence[Story]) -> Line:
    """All instants of all calls, in one row."""
    pairs = (pair for story in stories for pair in zip(story.calls, story.results, strict=False))
    largest = max((apart(result, call) for call, result in pairs), default=0.0)
    said = f"the same within {largest:.2f} s"
    return Line(name, "INVITE, ringing, answer, end", said, largest < CLOSE_SECONDS)


def _wishes(calls: Iterable[SeenCall], opted_out: frozenset[str]) -> Line:
    wishes = {call.number for call in calls if any(key == "9" for key, _ in call.keys)}
    kept = f"{len(opted_out)} on the do-not-call list"
    differs = sorted(wishes ^ opted_out)
    return Line("wants no more calls", f"{len(wishes)} pressed 9", kept, not differs, differs)


# --- one call ---


def promised(call: SeenCall, name: str) -> Said:
    """What should have been recorded of a callee of this name who did this."""
    if call.rejected_by is not None:
        return *REJECTED[call.rejected_by], {}
    if call.answered_at is None:
        reached = call.ringing_at is not None or call.progress_at is not None
        return Status.RS_NOANSWER, None if reached else "NOT_REACHABLE", {}
    if call.ended_by == "world":
        return Status.TERMINATED, "HANGUP", {}
    answer = next((key for key, _ in call.keys if key in KEYS), None)
    if answer is None:
        return Status.TERMINATED, None, {}
    return Status.TERMINATED, KEYS[answer], {"answer": answer, "who": name}


def recorded(result: Result) -> Said:
    return result["status"], result["extStatus"], result["values"]


def deed(call: SeenCall) -> str:
    """What the callee did, in words."""
    if call.rejected_by is not None:
        announced = "announced it, " if call.progress_at is not None else ""
        return f"{announced}rejected by {call.rejected_by}"
    if call.answered_at is None:
        reached = "rang" if call.ringing_at else "rang in band" if call.progress_at else "gave no sign"
        return f"{reached} for {(call.ended_at or 0) - call.invited_at:.0f} s"
    if call.keys:
        return "pressed " + "".join(key for key, _ in call.keys)
    return "answered and hung up" if call.ended_by == "world" else "answered and listened"


def words(one: Said) -> str:
    status, ext_status, _ = one
    return f"{status}/{ext_status}" if ext_status else status


def in_full(one: Said) -> str:
    """With the answers, or the agent."""
    *_, values = one
    more = " ".join(f"{name}={value}" for name, value in values.items())
    return f"{words(one)} ({more})" if more else words(one)


def counted(texts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {text}" for text, count in sorted(texts.items())) or "nothing"


def apart(result: Result, call: SeenCall) -> float:
    """The largest difference of the four instants, in seconds; infinite when only one side knows of one."""
    largest = 0.0
    for ours, theirs in INSTANTS.items():
        text, seen = result[ours], getattr(call, theirs)
        if (text is None) != (seen is None):
            return math.inf
        if text is not None:
            largest = max(largest, abs(instant(text) - seen))
    return largest


def instant(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# --- the daemon's side, read from Redis ---


async def results_of(store: Store, campaign: CampaignId) -> list[Result]:
    """All of them, oldest first."""
    found: list[Result] = []
    cursor: str | None = None
    while True:
        page = await store.results.read(campaign, after=cursor, count=PAGE)
        found += page.items
        cursor = page.next
        if cursor is None:
            return found


async def opted_out(store: Store) -> frozenset[str]:
    """The numbers on the do-not-call list that were not there before."""
    found: set[str] = set()
    cursor = 0
    while True:
        cursor, entries = await store.do_not_call.page(cursor, PAGE)
        found |= {entry.number for entry in entries if entry.reason != LISTED}
        if not cursor:
            return frozenset(found)
