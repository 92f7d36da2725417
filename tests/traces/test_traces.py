"""The simulator says what the real Asterisk said when it was recorded, and the real one says so still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import pytest

from dialer_engine.simulator import Agent, Simulator
from dialer_engine.simulator.threads import FOREVER
from tests.lab.lab import Lab

from .compare import differences
from .drift import Events, Replies, as_it_is, as_they_are, drifted
from .manager import ManagerPlace
from .normal import Trace
from .record import RECORDED, kept, place_of, record
from .scenarios import SCENARIOS
from .wire import Event, Place

pytestmark = pytest.mark.xdist_group("traces")  # the scenarios are played once for all tests
Heard = dict[str, Trace | Exception]
USER, PASSWORD = "tracer", "simulated"


def different(name: str, heard: Heard, by: str) -> list[str]:
    trace = heard[name]
    if isinstance(trace, Exception):
        raise trace
    return differences(name, kept(name), trace, by)


def test_every_scenario_is_recorded_and_no_other() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == set(SCENARIOS)


# On the simulator


async def heard_by(name: str, events: Events, replies: Replies) -> Heard:
    """A scenario on a simulator that has drifted so."""
    async with (
        Simulator(username=USER, password=PASSWORD) as simulator,
        drifted(Place(simulator.url, USER, PASSWORD), events, replies) as place,
    ):
        return await record(place, [name])


def place_of_simulator(simulator: Simulator) -> Place:
    def talk(extension: int, seconds: float | None) -> None:
        talks = (FOREVER, FOREVER) if seconds is None else (seconds, seconds)
        waits = (3.0, 3.0) if str(extension).startswith("2") else (0.0, 0.0)
        if str(extension)[0] in "12":
            simulator.pbx.employ(time.time(), Agent(str(extension), (), answers_after=waits, talks=talks))

    manager = ManagerPlace(simulator.ami_port, USER, PASSWORD, talk)
    return Place(simulator.url, USER, PASSWORD, manager)


@pytest.fixture(scope="session")
def simulated() -> Heard:
    async def all_of_them() -> Heard:
        async with Simulator(username=USER, password=PASSWORD) as simulator:
            return await record(place_of_simulator(simulator), at_once=24, real=False)

    return asyncio.run(all_of_them())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_simulator_says_the_same(name: str, simulated: Heard) -> None:
    found = different(name, simulated, "simulated")
    assert not found, "\n".join(found)


# A drift is caught: each is planted into what an otherwise good simulator says


def final_dial_on_time_out(event: Event) -> Iterable[Event]:
    if event["type"] == "ChannelDestroyed" and event["cause"] == 19:
        peer = {
            "type": "Dial",
            "peer": event["channel"],
            "dialstatus": "NOANSWER",
            "dialstring": "",
            "forward": "",
        }
        yield {**peer, **{key: event[key] for key in ("application", "asterisk_id", "timestamp")}}
    yield event


def wrong_cause(event: Event) -> Iterable[Event]:
    yield {**event, "cause": 16} if event["type"] == "ChannelDestroyed" and event["cause"] == 17 else event


def without_sip_code(event: Event) -> Iterable[Event]:
    yield {key: value for key, value in event.items() if key != "tech_cause"}


def without_call_id(event: Event) -> Iterable[Event]:
    part = "peer" if "peer" in event else "channel"
    channel = {key: value for key, value in event[part].items() if key != "protocol_id"}
    yield {**event, part: channel}


def after_the_end(event: Event) -> Iterable[Event]:
    yield event
    if event["type"] == "ChannelDestroyed":
        common = {key: event[key] for key in ("application", "asterisk_id", "timestamp", "channel")}
        yield {**common, "type": "ChannelStateChange"}


def conflict_for_a_refusal(request: str, status: int, body: Any) -> tuple[int, Any]:
    return (409 if status == 500 else status), body


class Lost:
    """The first event of a type does not come."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._lost = False

    def __call__(self, event: Event) -> Iterable[Event]:
        if event["type"] == self._kind and not self._lost:
            self._lost = True
            return ()
        return (event,)


class Late:
    """Events of a type come after the one that follows."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._held: list[Event] = []

    def __call__(self, event: Event) -> Iterable[Event]:
        if event["type"] == self._kind:
            self._held.append(event)
            return ()
        held, self._held = self._held, []
        return (event, *held)


def doubled(event: Event) -> Iterable[Event]:
    return (event, event) if event["type"] == "StasisEnd" else (event,)


def without_milliseconds(event: Event) -> Iterable[Event]:
    yield {**event, "timestamp": event["timestamp"].replace(".", ":")}


PLANTED: dict[str, tuple[str, Events, str]] = {
    "a final Dial on time-out": (
        "is_not_reached",
        final_dial_on_time_out,
        "app, rings, after event 3: Dial NOANSWER: not recorded, but drifted",
    ),
    "a wrong cause": (
        "rejects_unfiltered",
        wrong_cause,
        "app, busy, event 4 (ChannelDestroyed): field cause: recorded 17, drifted 16",
    ),
    "a missing SIP code": (
        "rejects_unfiltered",
        without_sip_code,
        "app, busy, event 4 (ChannelDestroyed): field tech_cause: recorded 486, drifted nothing",
    ),
    "a missing field of the channel": (
        "rejects_unfiltered",
        without_call_id,
        "app, busy, event 1 (Dial -): field peer.protocol_id: recorded '<sip call id>', drifted nothing",
    ),
    "an event after the end": (
        "rejects_unfiltered",
        after_the_end,
        "app, busy, after event 4: ChannelStateChange Down: not recorded, but drifted",
    ),
    "a lost event": (
        "rejects_unfiltered",
        Lost("ChannelHangupRequest"),
        "app, busy, event 2 (ChannelHangupRequest): recorded, not drifted",
    ),
    "a late event": (
        "comes_back_to_the_application",
        Late("StasisEnd"),
        "app, call, order: recorded",
    ),
    "a doubled event": (
        "comes_back_to_the_application",
        doubled,
        "(StasisEnd): field <times>: recorded nothing, drifted 2",
    ),
    "a timestamp of another form": (
        "rejects_unfiltered",
        without_milliseconds,
        "app, busy, event 1 (Dial -): field timestamp: recorded '<time>', drifted '2",
    ),
}


REFUSED = "originates_that_are_refused"


@pytest.fixture(scope="session")
def caught() -> dict[str, list[str]]:
    """The differences that each planted drift makes; all are heard at the same time, each by a simulator of its own."""

    async def one(name: str, events: Events, replies: Replies) -> list[str]:
        return different(name, await heard_by(name, events, replies), "drifted")

    async def all_of_them() -> dict[str, list[str]]:
        drifts = {what: one(name, events, as_it_is) for what, (name, events, _) in PLANTED.items()}
        drifts["a 409 in place of a 500"] = one(REFUSED, as_they_are, conflict_for_a_refusal)
        for name in {REFUSED, *(name for name, _, _ in PLANTED.values())}:
            drifts[f"none in {name}"] = one(name, as_they_are, as_it_is)
        return dict(zip(drifts, await asyncio.gather(*drifts.values()), strict=True))

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("what", PLANTED)
def test_a_drift_of_the_events_is_caught(what: str, caught: dict[str, list[str]]) -> None:
    _, _, difference = PLANTED[what]
    assert [line for line in caught[what] if difference in line], "\n".join(caught[what])


def test_a_409_in_place_of_a_500_is_caught(caught: dict[str, list[str]]) -> None:
    difference = "request 2 (POST /channels/<no trunk>): field status: recorded 500, drifted 409"
    assert f"{REFUSED}: {difference}" in caught["a 409 in place of a 500"]


def test_the_wire_on_which_drifts_are_planted_adds_none(caught: dict[str, list[str]]) -> None:
    honest = {what: lines for what, lines in caught.items() if what.startswith("none in ")}
    assert len(honest) == 4
    assert [line for lines in honest.values() for line in lines] == []


# On the lab


@pytest.fixture(scope="session")
def fresh(lab: Lab) -> Heard:
    """Everything recorded once more."""
    return asyncio.run(record(place_of(lab)))


@pytest.mark.lab
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", SCENARIOS)
def test_asterisk_says_what_is_recorded(name: str, fresh: Heard) -> None:
    found = different(name, fresh, "now")
    assert not found, "\n".join(found)
