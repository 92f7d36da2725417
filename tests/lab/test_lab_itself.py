"""The lab tells the truth: every kind of callee, judged on bare ARI, and the facts we build on."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.lab import number
from tests.lab.bare_ari import BareAri, Event, brief
from tests.lab.lab import Lab
from tests.lab.sipp import Sipp
from tests.lab.world import WorldCall

pytestmark = pytest.mark.lab

CARRIER = "PJSIP/{}@carrier"
ROUTE = "Local/{}@from-internal"

# What Asterisk makes of a carrier's answer: the hang-up cause, and the (lossy) status of the Dial event.
CAUSES: dict[int, tuple[int, str]] = {
    401: (21, "NOANSWER"),
    403: (21, "NOANSWER"),
    404: (1, "NOANSWER"),
    407: (21, "NOANSWER"),
    408: (18, "NOANSWER"),
    410: (22, "NOANSWER"),
    480: (19, "NOANSWER"),
    484: (28, "NOANSWER"),
    485: (1, "NOANSWER"),
    486: (17, "BUSY"),
    487: (127, "NOANSWER"),
    488: (58, "NOANSWER"),
    500: (38, "NOANSWER"),
    501: (29, "NOANSWER"),
    502: (27, "NOANSWER"),
    503: (34, "CONGESTION"),
    504: (102, "NOANSWER"),
    600: (17, "BUSY"),
    603: (21, "NOANSWER"),
    604: (1, "NOANSWER"),
    606: (58, "NOANSWER"),
    607: (127, "NOANSWER"),
    608: (127, "NOANSWER"),
}

_serials = itertools.count(1)


def new_id(kind: str = "c") -> str:
    """Fixed width, as the engine's own: no id is a prefix of another."""
    return f"{kind}{next(_serials):020d}"


def serial() -> int:
    return next(_serials) % 1000


@pytest.fixture
async def ari(lab: Lab) -> AsyncIterator[BareAri]:
    async with BareAri(lab) as connected:
        yield connected
    lab.hang_up_everything()


@pytest.fixture
def own_lab(lab: Lab) -> Iterator[Lab]:
    """For what may end or restart an Asterisk; costs a second, and can be had where the common one can."""
    with Lab() as private:
        yield private


async def ends(ari: BareAri, endpoint: str, **query: str | int) -> tuple[str, Event]:
    """Originate, and the end of the call."""
    identifier = new_id()
    assert await ari.originate(identifier, endpoint, **{"timeout": 20, **query}) == 200
    return identifier, await ari.wait(identifier, "ChannelDestroyed", within=20)


def dial_states(ari: BareAri, identifier: str) -> list[str]:
    """The statuses of the Dial events whose peer is the channel."""
    return [e["dialstatus"] for e in ari.of(identifier, "Dial") if e["peer"]["id"] == identifier]


async def seen_by_world(lab: Lab, dialled: str, field: str = "ended_at") -> WorldCall:
    def complete(call: WorldCall) -> bool:
        return getattr(call, field) is not None

    return await asyncio.to_thread(lab.wait_for_world, dialled, complete)


async def test_every_rejection_arrives_as_the_outcome_table_expects(lab: Lab, ari: BareAri) -> None:
    async def one(code: int, ring: float) -> None:
        dialled = number.rejects(code, ring=ring, serial=serial())
        identifier, end = await ends(ari, CARRIER.format(dialled))
        cause, status = CAUSES[code]
        assert end["cause"] == cause, code
        assert end.get("tech_cause", code) == code
        assert dial_states(ari, identifier)[-1] == status, code
        assert ("RINGING" in dial_states(ari, identifier)) == (ring > 0)
        call = await seen_by_world(lab, dialled)
        assert (call.rejected_by, call.ended_by, call.answered_at) == (code, "world", None)

    await asyncio.gather(*(one(code, ring) for code in CAUSES for ring in (0.0, 0.3)))


async def test_a_call_that_is_answered(lab: Lab, ari: BareAri) -> None:
    dialled = number.answers(ring=0.5, talk=1.0, serial=serial())
    identifier, end = await ends(ari, CARRIER.format(dialled), callerId="shop <42421>")
    assert end["cause"] == 16
    order = [brief(e) for e in ari.of(identifier)]
    assert order.index("State Up") < order.index("StasisStart")
    assert dial_states(ari, identifier) == ["", "RINGING", "ANSWER"]
    call = await seen_by_world(lab, dialled)
    assert call.caller_id == "42421"
    assert call.ringing_at is not None
    assert call.answered_at is not None
    assert call.answered_at - call.ringing_at == pytest.approx(0.5, abs=0.15)
    assert call.duration == pytest.approx(1.0, abs=0.15)
    assert call.ended_by == "world"
    start = (await ari.wait(identifier, "StasisStart"))["_at"]
    assert start - call.answered_at == pytest.approx(0, abs=0.2)  # one clock for both


async def test_a_call_that_we_end(lab: Lab, ari: BareAri) -> None:
    dialled, identifier = number.stays(ring=0.1, serial=serial()), new_id()
    await ari.originate(identifier, CARRIER.format(dialled))
    await ari.wait(identifier, "StasisStart")
    await ari.request("DELETE", f"channels/{identifier}")
    call = await seen_by_world(lab, dialled)
    assert call.ended_by == "pbx"


async def test_keys_are_heard(lab: Lab, ari: BareAri) -> None:
    dialled, identifier = number.presses("12#", after=0.5, ring=0.1, serial=serial()), new_id()
    await ari.originate(identifier, CARRIER.format(dialled))
    heard = await ari.until(lambda: len(keys := ari.of(identifier, "ChannelDtmfReceived")) == 3 and keys)
    assert "".join(event["digit"] for event in heard) == "12#"
    call = await seen_by_world(lab, dialled, "answered_at")
    assert "".join(key for key, _ in call.keys) == "12#"
    assert call.answered_at is not None
    assert call.keys[0][1] - call.answered_at == pytest.approx(0.5, abs=0.15)


async def test_who_is_never_reached(lab: Lab, ari: BareAri) -> None:
    """Three ways to run into our own time-out; all look alike in the cause, only the events before differ."""

    async def one(dialled: str, states: list[str]) -> None:
        identifier, end = await ends(ari, CARRIER.format(dialled), timeout=2)
        assert end["cause"] == 19
        assert end.get("tech_cause", 480) == 480  # invented by Asterisk
        assert dial_states(ari, identifier) == states  # and no final one
        call = await seen_by_world(lab, dialled)
        assert call.ended_by == "pbx"
        assert call.ended_at is not None
        assert call.ended_at - call.invited_at == pytest.approx(2.0, abs=0.3)

    await asyncio.gather(
        one(number.rings_out(serial()), ["", "RINGING"]),
        one(number.never_rings(serial()), [""]),
        one(number.rings_in_band(serial()), ["", "PROGRESS"]),
    )


async def test_announcements_come_before_the_rejection(lab: Lab, ari: BareAri) -> None:
    dialled = number.announces(404, seconds=1.0, serial=serial())
    identifier, end = await ends(ari, CARRIER.format(dialled))
    assert (end["cause"], dial_states(ari, identifier)) == (1, ["", "PROGRESS", "NOANSWER"])
    call = await seen_by_world(lab, dialled)
    assert call.progress_at is not None
    assert call.rejected_at is not None
    assert call.rejected_at - call.progress_at == pytest.approx(1.0, abs=0.15)


async def test_a_machine_and_a_person_sound_different(lab: Lab, ari: BareAri) -> None:
    """By Asterisk's own AMD, which the PBX has at hand."""

    async def verdict(dialled: str) -> str:
        identifier = new_id()
        await ari.originate(identifier, CARRIER.format(dialled))
        await ari.wait(identifier, "StasisStart")
        await ari.request(
            "POST", f"channels/{identifier}/continue", context="lab-amd", extension="s", priority=1
        )
        told = await ari.until(
            lambda: [
                e for e in ari.of(identifier, "ChannelVarset") if e["variable"] == "AMDSTATUS" and e["value"]
            ]
        )
        return str(told[0]["value"])

    machine, person = await asyncio.gather(
        verdict(number.machine(ring=0.1, serial=serial())),
        verdict(number.says_hello(ring=0.1, serial=serial())),
    )
    assert (machine, person) == ("MACHINE", "HUMAN")


async def test_trunks_that_do_not_work(ari: BareAri) -> None:
    assert await ari.originate(new_id(), "PJSIP/1@nocontact") == 500
    assert await ari.originate(new_id(), "PJSIP/1@no-such-trunk") == 500
    _, challenged = await ends(ari, "PJSIP/1@carrier-auth")
    assert (challenged["cause"], challenged.get("tech_cause", 401)) == (21, 401)
    _, refused = await ends(ari, "PJSIP/1@carrier-refused")
    assert (refused["cause"], refused.get("tech_cause", 503)) == (34, 503)
    silent, gone = await ends(ari, "PJSIP/1@carrier-dead", timeout=1)
    assert (gone["cause"], dial_states(ari, silent)) == (19, [""])


async def test_an_endpoint_of_local_that_does_not_exist_answers_200_and_ends(ari: BareAri) -> None:
    _, end = await ends(ari, "Local/1@no-such-context")
    assert end["cause"] == 0


async def test_local_channels_tell_the_cause_only_on_the_far_half(lab: Lab, ari: BareAri) -> None:
    async def one(dialled: str, near_status: str, near_cause: int, far_status: str, far_cause: int) -> None:
        near, far = new_id("l"), new_id("m")
        await ari.originate(near, ROUTE.format(dialled), otherChannelId=far)
        near_end = await ari.wait(near, "ChannelDestroyed")
        far_end = await ari.wait(far, "ChannelDestroyed")
        assert (dial_states(ari, near)[-1], near_end["cause"]) == (near_status, near_cause)
        assert (ari.of(far, "Dial")[-1]["dialstatus"], far_end["cause"]) == (far_status, far_cause)
        assert "tech_cause" not in near_end
        assert "tech_cause" not in far_end

    await asyncio.gather(
        one(number.rejects(486, serial=serial()), "BUSY", 0, "BUSY", 17),
        one(number.rejects(503, serial=serial()), "CONGESTION", 0, "CONGESTION", 34),
        one(number.rejects(404, serial=serial()), "CONGESTION", 0, "NOANSWER", 34),
        one(number.rejects(480, serial=serial()), "NOANSWER", 19, "NOANSWER", 19),
        one(number.answers(0.1, 0.7, serial()), "ANSWER", 16, "ANSWER", 16),
    )


async def test_a_dialplan_tells_the_status_of_the_originated_half(lab: Lab, ari: BareAri) -> None:
    near, far = new_id("l"), new_id("m")
    endpoint = f"Local/{number.rejects(404, serial=serial())}@from-internal-status"
    await ari.originate(near, endpoint, otherChannelId=far)
    told = await ari.wait(far, "ChannelUserevent")
    assert told["eventname"] == "CALLSTATUS"
    assert told["userevent"]["Uniqueid"] == near
    assert told["userevent"]["V"]


async def test_one_number_called_twice_is_two_calls(lab: Lab, ari: BareAri) -> None:
    dialled = number.answers(0.1, 0.7, serial())
    await asyncio.gather(*(ends(ari, CARRIER.format(dialled)) for _ in range(2)))
    await ends(ari, CARRIER.format(f"+00{dialled}"))
    calls = lab.world_calls(dialled)
    assert len({call.key for call in calls}) == len(calls) == 3
    assert calls[-1].dialled == f"+00{dialled}"


async def test_a_hundred_calls_a_second_are_all_logged(lab: Lab, ari: BareAri) -> None:
    dialled = [number.rejects(486, serial=100_000 + i) for i in range(200)]

    async def one(i: int) -> None:
        await asyncio.sleep(i / 100)
        await ari.originate(new_id(), CARRIER.format(dialled[i]))

    await asyncio.gather(*(one(i) for i in range(200)))
    await seen_by_world(lab, dialled[-1])
    logged = {
        call.number for call in lab.world_calls() if call.rejected_by == 486 and call.ended_at is not None
    }
    assert set(dialled) <= logged


async def test_sipp_counts_and_stays(sipp: Sipp, ari: BareAri) -> None:
    ids = [new_id("s") for _ in range(50)]
    for i, identifier in enumerate(ids):
        assert await ari.originate(identifier, f"PJSIP/{i:06d}@sipp") == 200
    for identifier in ids:
        await ari.wait(identifier, "StasisStart")
    await _counted(sipp, invites=50, live=50)
    for identifier in ids:
        await ari.request("DELETE", f"channels/{identifier}")
    await _counted(sipp, invites=50, live=0)
    assert sipp.counts().ended_well == 50


async def _counted(sipp: Sipp, **wanted: int) -> None:
    for _ in range(50):
        counts: Any = sipp.counts()
        if all(getattr(counts, name) == value for name, value in wanted.items()):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{counts}, not {wanted}")


@pytest.mark.parametrize(
    ("interface", "state", "least"),
    [
        ("PJSIP/1001", "PJSIP/1001", 0.0),
        ("PJSIP/2001", "PJSIP/2001", 3.0),
        ("Local/1002@from-queue/n", "hint:1002@ext-local", 0.0),
    ],
)
async def test_agents_take_calls_from_the_queue(
    lab: Lab, ari: BareAri, interface: str, state: str, least: float
) -> None:
    lab.pbx.cli(f"queue add member {interface} to green penalty 0 as agent state_interface {state}")
    try:
        identifier, dialled = new_id("q"), number.stays(ring=0.1, serial=serial())
        await ari.originate(identifier, CARRIER.format(dialled))
        entered = (await ari.wait(identifier, "StasisStart"))["_at"]
        await ari.request("POST", f"channels/{identifier}/variable", variable="DIALER_APP", value="dialer")
        await ari.request(
            "POST", f"channels/{identifier}/continue", context="dialer-queue", extension="green", priority=1
        )
        connected = await ari.until(
            lambda: [
                e
                for e in ari.of(identifier, "ChannelVarset")
                if e["variable"] == "MEMBERINTERFACE" and e["value"]
            ]
        )
        assert connected[0]["value"] == interface
        assert least <= connected[0]["_at"] - entered < least + 1.5
        extension = re.findall(r"\d{4}", interface)[0]
        telephone = await seen_by_world(lab, extension, "answered_at")
        assert telephone.dialled == extension
        await asyncio.to_thread(lab.pbx.cli, f"channel request hangup {leg_of(lab, extension)}")
        returned = await ari.until(lambda: len(starts := ari.of(identifier, "StasisStart")) == 2 and starts)
        assert returned[1]["args"][:2] == ["queue-exit", "green"]
    finally:
        lab.pbx.cli(f"queue remove member {interface} from green")


def leg_of(lab: Lab, extension: str) -> str:
    """The PBX's channel to an agent's telephone."""
    lines = lab.pbx.cli("core show channels concise").splitlines()
    return next(line for line in lines if line.startswith(f"PJSIP/{extension}-")).split("!")[0]


async def test_an_id_may_not_be_a_prefix_of_a_live_one(ari: BareAri) -> None:
    """Why attempt ids are of fixed width. The reverse is allowed."""
    assert await ari.originate("prefixed1", CARRIER.format(number.stays(serial=serial()))) == 200
    await ari.wait("prefixed1", "StasisStart")
    shorter = await ari.originate("prefixed", CARRIER.format(number.rejects(486, serial=serial())))
    longer = await ari.originate("prefixed12", CARRIER.format(number.rejects(486, serial=serial())))
    same = await ari.originate("prefixed1", CARRIER.format(number.rejects(486, serial=serial())))
    assert longer == 200
    assert same == 409
    assert shorter in (200, 409)  # 409 in 22.5 to 22.10 at least


async def test_the_pbx_comes_back_after_a_crash(own_lab: Lab) -> None:
    dialled = number.stays(ring=0.1, serial=serial())
    async with BareAri(own_lab) as ari:
        await ari.originate(new_id(), CARRIER.format(dialled))
        await ari.until(lambda: [e for e in ari.events if e["type"] == "StasisStart"])
        own_lab.pbx.kill()
        assert not own_lab.pbx.running
    await asyncio.to_thread(own_lab.pbx.start)
    assert own_lab.world_calls(dialled)[0].ended_at is None  # no BYE: the callee does not know
    async with BareAri(own_lab) as ari:
        _, end = await ends(ari, CARRIER.format(number.rejects(486, serial=serial())))
        assert end["cause"] == 17
