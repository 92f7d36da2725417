"""The simulator's own doors: its faults, its control paths, what its callees write down, its command.

That its wire is Asterisk's is shown by `test_ari.py`, which runs on both, and by tests/traces.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dialer_engine.ari import ChannelDestroyed, Connected, Dial, Lost, Patience, StasisStart
from dialer_engine.errors import Rejected, Unavailable
from dialer_engine.simulator import Simulator
from tests.lab import number
from tests.lab.bare_ami import BareAmi
from tests.lab.world import WorldLog
from tests.ports.ari_client import Client, client
from tests.simulated import SimulatedLab

BASIC = {"Authorization": aiohttp.encode_basic_auth("dialer", "simulated")}


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    (tmp_path / "calls").touch()
    async with Simulator(speed=10, seed=3, world_log=tmp_path / "calls", fault_log=tmp_path / "faults") as one:
        yield one


@pytest.fixture
async def door(simulator: Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"{simulator.url}/", headers=BASIC) as session:
        yield session


async def calls_of(door: aiohttp.ClientSession, **query: str) -> list[dict[str, Any]]:
    async with door.get("simulator/calls", params=query) as reply:
        return [json.loads(line) for line in (await reply.text()).splitlines()]


async def ends(c: Client, *numbers: str) -> list[str]:
    """Calls to all of them, to their ends."""
    ids = await asyncio.gather(*(c.call(each) for each in numbers))
    for channel_id in ids:
        await c.owner.event(ChannelDestroyed, channel_id)
    return list(ids)


async def test_the_callees_tell_the_same_by_the_path_and_by_the_log(
    simulator: Simulator, door: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with client(simulator) as c:
        talks, rejects = number.answers(0.5, 2.0), number.rejects(486, 1.0)
        presses, announces = number.presses("19#", 1.0, 0.5), number.announces(404, 1.0)
        await ends(c, talks, f"+00{rejects}", announces)
        pressing = await c.answered(presses)
        await c.owner.until(lambda: len(simulator.pbx.world.calls[-1].keys) == 3)
        await c.ari.hangup(pressing)
        await c.owner.event(ChannelDestroyed, pressing)
    told = {call["number"]: call for call in await calls_of(door)}
    assert told.keys() == {talks, rejects, presses, announces}
    for call in WorldLog(tmp_path / "calls").calls():
        seen = told[call.number]
        assert (call.key, call.dialled, call.caller_id) == (seen["key"], seen["dialled"], seen["caller_id"])
        assert (call.rejected_by, call.ended_by) == (seen["rejected_by"], seen["ended_by"])
        assert [key for key, _ in call.keys] == [key for key, _ in seen["keys"]]
        for name in ("invited_at", "ringing_at", "progress_at", "answered_at", "rejected_at", "ended_at"):
            assert getattr(call, name) == (seen[name] and pytest.approx(seen[name], abs=0.001)), name
    assert told[rejects]["dialled"] == f"+00{rejects}"
    assert (told[presses]["ended_by"], told[talks]["ended_by"]) == ("pbx", "world")
    assert [call["number"] for call in await calls_of(door, number=talks)] == [talks]


async def test_events_are_lost_doubled_and_late_by_the_shares_and_written_down(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.faults.events_lost, simulator.faults.events_doubled = 0.2, 0.3
    simulator.faults.events_delayed, simulator.faults.delay_seconds = 0.1, 0.01
    simulator.faults.event_types = ["Dial"]
    async with client(simulator) as c:
        ids = [channel_id for _ in range(10) for channel_id in await ends(c, *[number.rejects(486, 0.1)] * 40)]
        await asyncio.sleep(0.1)
        heard = sum(isinstance(event, Dial) for event in c.owner.events)
        assert c.ari.counts.doubles > 0  # the client hands a double on once
    lines = [line.split("|") for line in (tmp_path / "faults").read_text().splitlines()]
    what = Counter(line[1] for line in lines)
    assert {line[2] for line in lines} == {"Dial"}
    assert {line[3] for line in lines} <= set(ids)
    said = 3 * len(ids)
    assert heard == said - what["lost"]
    assert what["lost"] / said == pytest.approx(0.2, abs=0.05)
    assert what["doubled"] / (said - what["lost"]) == pytest.approx(0.3, abs=0.06)
    assert what["delayed"] / said == pytest.approx(0.1, abs=0.05)


async def test_the_same_seed_spoils_the_same_events() -> None:
    async def spoilt(seed: int) -> list[str]:
        async with Simulator(speed=20, seed=seed) as one, client(one) as c:
            one.faults.events_lost, one.faults.event_types = 0.3, ["Dial"]
            for _ in range(15):
                await ends(c, number.rejects(486, 1.0))
            return [event.dialstatus for event in c.owner.events if isinstance(event, Dial)]

    first, again, other = await asyncio.gather(spoilt(5), spoilt(5), spoilt(6))
    assert first == again != other
    assert len(first) < 45


async def test_requests_are_refused_lost_and_answered_in_vain(simulator: Simulator) -> None:
    hasty = Patience(request_seconds=2.0, originate_seconds=2.0)
    async with client(simulator, patience=hasty) as c:
        await c.answered(number.stays(0.0))
        calls = simulator.pbx.world.calls
        simulator.faults.requests_refused = 1.0
        with pytest.raises(Rejected):
            await c.call(number.stays(0.0))
        simulator.faults.requests_refused, simulator.faults.requests_lost = 0.0, 1.0
        with pytest.raises(Unavailable):
            await c.call(number.stays(0.0))
        assert len(calls) == 1
        simulator.faults.requests_lost, simulator.faults.replies_lost = 0.0, 1.0
        with pytest.raises(Unavailable):
            await c.call(number.stays(0.0))
        assert len(calls) == 2


async def test_a_half_open_socket_tells_later_what_it_held_back(simulator: Simulator) -> None:
    async with client(simulator) as c:
        channel_id = await c.call(number.stays(ring=3.0))
        simulator.faults.half_open = True
        await asyncio.sleep(0.6)
        assert simulator.pbx.world.calls[-1].answered_at is not None
        assert not c.owner.all(StasisStart, channel_id)
        simulator.faults.half_open = False
        await c.ari.set_variables(channel_id, {"ONE": "1"})
        await c.owner.event(StasisStart, channel_id)


async def test_faults_are_put_and_asked_for(door: aiohttp.ClientSession, simulator: Simulator) -> None:
    async with door.put("simulator/faults", json={"events_lost": 0.5, "silent": ["/info"]}) as reply:
        assert (await reply.json())["events_lost"] == 0.5
    async with door.put("simulator/faults", json={"booting": True}) as reply:
        assert reply.status == 200
    assert (simulator.faults.events_lost, simulator.faults.silent, simulator.faults.booting) == (
        0.5,
        ["/info"],
        True,
    )
    async with door.get("ari/asterisk/info") as reply:
        assert reply.status == 503
    async with door.get("simulator/faults") as reply:
        assert (await reply.json())["silent"] == ["/info"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("PUT", "faults", {"events_lost": "many"}, 400, "events_lost"),
        ("PUT", "faults", {"events_lots": 1}, 400, "events_lots"),
        ("PUT", "carriers/099?code=200", None, 400, "400 to 699"),
        ("PUT", "carriers/099?code=many", None, 400, "400 to 699"),
        ("GET", "nonsense", None, 404, "not found"),
        ("DELETE", "faults", None, 404, "not found"),
    ],
)
async def test_what_the_control_paths_refuse(
    door: aiohttp.ClientSession, method: str, path: str, body: object, *, status: int, said: str
) -> None:
    async with door.request(method, f"simulator/{path}", json=body) as reply:
        assert (reply.status, said in await reply.text()) == (status, True)


@pytest.mark.parametrize("body", ["{", "[1]", "null", "7", '"text"', b"\xff\xfe", "x" * 50_000])
async def test_a_body_that_is_none_is_refused(door: aiohttp.ClientSession, body: str | bytes) -> None:
    async with door.post("ari/channels/x", data=body) as reply:
        assert reply.status in (400, 413)


async def test_strangers_have_no_door(simulator: Simulator) -> None:
    async with aiohttp.ClientSession(f"{simulator.url}/") as stranger:
        for path in ("ari/channels", "simulator/calls", "simulator/faults"):
            async with stranger.get(path) as reply:
                assert reply.status == 401


async def test_carriers_break_and_are_mended(simulator: Simulator, door: aiohttp.ClientSession) -> None:
    async with client(simulator) as c:
        async with door.put("simulator/carriers/099", params={"code": "503"}) as reply:
            assert reply.status == 204
        (broken,) = await ends(c, "099" + number.answers(0.5, 1.0))
        assert c.owner.all(ChannelDestroyed, broken)[0].tech_cause == 503
        async with door.delete("simulator/carriers/099") as reply:
            assert reply.status == 204
        (mended,) = await ends(c, "099" + number.answers(0.5, 1.0))
        assert c.owner.all(ChannelDestroyed, mended)[0].cause == 16


async def test_everything_is_hung_up(simulator: Simulator, door: aiohttp.ClientSession) -> None:
    async with client(simulator) as c:
        talking, ringing = await c.answered(number.stays(0.0)), await c.call(number.rings_out())
        async with door.delete("simulator/channels") as reply:
            assert reply.status == 204
        for channel_id in (talking, ringing):
            await c.owner.event(ChannelDestroyed, channel_id)


async def test_a_restart_by_the_path_is_a_crash(simulator: Simulator, door: aiohttp.ClientSession) -> None:
    async with client(simulator) as c:
        channel_id = await c.answered(number.stays(0.0))
        async with door.post("simulator/restart") as reply:
            assert reply.status == 204
        await c.owner.until(lambda: [type(state) for state in c.owner.states[1:]] == [Lost, Connected])
        again = c.owner.states[-1]
        assert isinstance(again, Connected)
        assert again.restarted
        assert await c.ari.channel(channel_id) is None
        assert not c.owner.all(ChannelDestroyed, channel_id)


async def test_a_port_that_is_taken_is_told() -> None:
    async with Simulator() as first:
        with pytest.raises(Unavailable, match=str(first.port)):
            await Simulator(port=first.port).start()


async def test_without_the_shipped_dialplan_calls_go_straight_into_the_application() -> None:
    async with Simulator(dialplan=False) as bare, client(bare) as c:
        state = c.owner.states[-1]
        assert isinstance(state, Connected)
        assert not state.waiting_room
        channel_id = await c.answered(number.stays(0.0))
        assert c.owner.all(StasisStart, channel_id)[0].args == ()


# The command


def command(*options: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "dialer_engine", "simulate", "--ami-port", "0", *options]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_where_it_is_and_ends_when_told(signum: signal.Signals) -> None:
    with command("--port", "0") as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first.startswith("simulated PBX: http://127.0.0.1:")
        process.send_signal(signum)
        rest = process.stderr.read()
        assert process.wait(5) == 0
    assert "rejects by the SIP code" in rest
    assert "Traceback" not in rest


def test_the_command_may_have_agents() -> None:
    with command("--port", "0", "--agents", "2") as process:
        assert process.stderr is not None
        (port,) = re.findall(r"AMI at port (\d+)", process.stderr.readline())
        with BareAmi(int(port), "dialer", "simulated") as ami:
            rows = ami.do("QueueStatus", Queue="green")
        process.terminate()
        process.stderr.read()
        assert process.wait(5) == 0
    assert [row["Location"] for row in rows if row.get("Event") == "QueueMember"] == [
        "PJSIP/1001",
        "PJSIP/1002",
    ]


def test_the_command_says_that_its_port_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with command("--port", str(taken.getsockname()[1])) as process:
            assert process.stderr is not None
            said = process.stderr.read()
            assert process.wait(10) == os.EX_UNAVAILABLE
    assert "cannot listen" in said
    assert "Traceback" not in said


def test_a_simulated_lab_keeps_its_callees_over_a_crash_of_its_pbx() -> None:
    with SimulatedLab() as lab:
        lab.break_carrier("099", 503)
        first = lab.pbx.pid
        lab.pbx.kill()
        assert not lab.pbx.running
        lab.hang_up_everything()  # nobody is there; that is no mistake
        lab.pbx.start()
        assert lab.pbx.pid != first
        assert lab.world_calls() == []
