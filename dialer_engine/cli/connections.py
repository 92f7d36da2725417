"""Who was connected to whom: what callees and agents know of each other against what the daemon recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from dialer_engine.cli.callcentre import ABANDONED_SECONDS
from dialer_engine.cli.comparison import (
    CLOSE_SECONDS,
    Line,
    Result,
    Said,
    SeenCall,
    Story,
    deed,
    grouped,
    instants,
    of_kinds,
    promised,
    strangers,
)
from dialer_engine.cli.crowd import Kind, Person
from dialer_engine.core.model import Status

NEAR_SECONDS = 0.25
"""Whoever had his agent so close to ABANDONED_SECONDS may be called abandoned or not: by two clocks."""


class Met(SeenCall, Protocol):
    """A call of somebody who was to reach an agent, or of an agent's telephone."""

    @property
    def met(self) -> str | None:
        """Whom he talked to, by the number of his telephone."""

    @property
    def met_at(self) -> float | None: ...
    @property
    def said(self) -> str | None:
        """What the agent said of it afterwards."""


def compare_connections(
    people: Sequence[Person],
    calls: Sequence[Met],
    results: Sequence[Result],
    kinds: Iterable[Kind],
    staff: Mapping[str, str],
) -> list[Line]:
    """A row of each kind, of each agent, and those of what holds for all. `staff`: telephones and names."""
    telephones = [call for call in calls if call.number in staff]
    got = grouped((call for call in calls if call.number not in staff), lambda call: call.number)
    told = grouped(results, lambda result: str(result["number"]))
    stories: list[Story] = []
    answered: list[tuple[Met, Result]] = []
    for person in people:
        his, of_him = got.pop(person.number, []), told.pop(person.number, [])
        stories.append(_story(person, his, of_him, telephones, staff))
        pairs = zip(his, of_him, strict=False)
        answered += [(call, result) for call, result in pairs if call.answered_at is not None]
    numbers = {person.number for person in people}
    served = grouped((call for call in telephones if call.met in numbers), lambda call: call.number)
    return [
        *of_kinds(kinds, stories),
        strangers(got, told, "anybody else for agents"),
        *(_of_agent(name, served.get(number, []), results) for number, name in staff.items()),
        _abandoned(answered),
        _until_connected(answered),
        instants("times of their calls", stories),
    ]


def _story(
    person: Person,
    calls: Sequence[Met],
    results: Sequence[Result],
    telephones: Sequence[Met],
    staff: Mapping[str, str],
) -> Story:
    wanted = [_promised(call, telephones, staff) for call in calls]
    said: list[Said] = [
        (result["status"], result["extStatus"], {"agent": result["agent"]} if result["agent"] else {})
        for result in results
    ]
    return Story(person, calls, results, [*map(_deed, calls)], wanted, said)


def _promised(call: Met, telephones: Sequence[Met], staff: Mapping[str, str]) -> Said:
    """What should have been recorded of somebody to whom this happened."""
    if call.answered_at is None or call.rejected_by is not None:
        return promised(call, "")
    if call.met is None:
        return Status.RS_LOST if call.ended_by == "world" else Status.RS_TIMEOUT, None, {}
    words = [each.said for each in telephones if each.number == call.met and each.met == call.number]
    return Status.TERMINATED, words[-1] if words else None, {"agent": staff.get(call.met, call.met)}


def _deed(call: Met) -> str:
    if call.met is not None:
        return "hung up on an agent" if call.ended_by == "world" else "talked to an agent"
    if call.answered_at is not None and call.rejected_by is None:
        return "gave up waiting" if call.ended_by == "world" else "waited in vain"
    return deed(call)


def _of_agent(name: str, served: Sequence[Met], results: Sequence[Result]) -> Line:
    """How many he talked to, and how long."""
    mine = [result for result in results if result["agent"] == name]
    did = len(served), sum((call.ended_at or 0) - (call.met_at or 0) for call in served)
    said = len(mine), sum(_of_queue(result, "talkSeconds") for result in mine)
    equal = did[0] == said[0] and abs(did[1] - said[1]) < CLOSE_SECONDS
    return Line(f"agent {name}", f"{did[0]} calls, {did[1]:.0f} s", f"{said[0]} calls, {said[1]:.0f} s", equal)


def _abandoned(answered: Sequence[tuple[Met, Result]]) -> Line:
    def is_late(call: Met) -> bool | None:
        seconds = _seconds(call)
        near = seconds is not None and abs(seconds - ABANDONED_SECONDS) < NEAR_SECONDS
        return None if near else seconds is None or seconds > ABANDONED_SECONDS

    late = sum(is_late(call) is not False for call, _ in answered)
    told = [bool((result.get("queue") or {}).get("abandoned")) for _, result in answered]
    differs = [
        f"{call.number}: no agent within {ABANDONED_SECONDS:.0f} s is {is_late(call)}, recorded {said}"
        for (call, _), said in zip(answered, told, strict=True)
        if is_late(call) not in (None, said)
    ]
    name = f"no agent within {ABANDONED_SECONDS:.0f} s"
    return Line(name, f"{late} of {len(answered)}", f"{sum(told)} abandoned", not differs, differs)


def _until_connected(answered: Sequence[tuple[Met, Result]]) -> Line:
    """From the answer: nothing is played to them before."""
    apart = [
        abs(seconds - _of_queue(result, "secondsToAgent"))
        for call, result in answered
        if (seconds := _seconds(call)) is not None
    ]
    largest = max(apart, default=0.0)
    said = f"the same within {largest:.2f} s"
    return Line("seconds to the agent", f"of {len(apart)} calls", said, largest < CLOSE_SECONDS)


def _seconds(call: Met) -> float | None:
    if call.met_at is None or call.answered_at is None:
        return None
    return call.met_at - call.answered_at


def _of_queue(result: Result, name: str) -> float:
    return float((result.get("queue") or {}).get(name) or 0.0)
