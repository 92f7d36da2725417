"""The doors of the simulator's AMI: who is let in, what each session hears, and what goes wrong on purpose.

That it speaks as Asterisk does is shown by tests/traces and by `test_ami.py`, which runs on both.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Self

import aiohttp
import pytest

from dialer_engine.ami import Patience
from dialer_engine.simulator import Agent, Simulator
from tests.lab import number
from tests.ports.ami_server import Listener, listening
from tests.ports.ari_client import client

BASIC = {"Authorization": aiohttp.encode_basic_auth("dialer", "simulated")}

Message = dict[str, str]


class Line:
    """A connection to AMI, message by message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, action: str, **headers: str) -> Self:
        lines = [f"Action: {action}", *(f"{name}: {value}" for name, value in headers.items())]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        await self.writer.drain()
        return self

    async def hear(self, seconds: float = 5.0) -> Message:
        async with asyncio.timeout(seconds):
            data = await self.reader.readuntil(b"\r\n\r\n")
        lines = data.decode(errors="replace").strip().split("\r\n")
        return dict(line.partition(": ")[::2] for line in lines)

    async def ask(self, action: str, **headers: str) -> Message:
        return await (await self.say(action, **headers)).hear()

    async def hears_nothing(self, seconds: float = 0.15) -> bool:
        try:
            await self.hear(seconds)
        except TimeoutError:
            return True
        return False

    async def ends(self) -> bool:
        async with asyncio.timeout(5):
            try:
                while await self.reader.read(4096):
                    pass
            except ConnectionResetError:
                pass
        return True


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    agents = [Agent("1001", ("red",), "Eva", talks=(0.2, 0.2))]
    async with Simulator(agents=agents) as one:
        yield one


@pytest.fixture
async def door(simulator: Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"{simulator.url}/", headers=BASIC) as session:
        yield session


@asynccontextmanager
async def stranger(simulator: Simulator) -> AsyncIterator[Line]:
    """Connected; not even the banner is read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.ami_port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def logged_in(simulator: Simulator, events: str = "agent,user") -> AsyncIterator[Line]:
    async with stranger(simulator) as line:
        assert (await line.reader.readline()).startswith(b"Asterisk Call Manager/")
        reply = await line.ask("Login", Username="dialer", Secret="simulated", Events=events)
        assert reply["Message"] == "Authentication accepted"
        yield line


async def pause(line: Line, paused: str = "true") -> Message:
    return await line.ask("QueuePause", Interface="PJSIP/1001", Paused=paused)


# Who is let in


@pytest.mark.parametrize("events", ["on", "agent,user,system"])
async def test_by_a_secret_and_then_it_is_fully_booted(simulator: Simulator, events: str) -> None:
    async with logged_in(simulator, events) as line:
        assert (await line.hear())["Event"] == "FullyBooted"


async def test_by_a_challenge(simulator: Simulator) -> None:
    async with stranger(simulator) as line:
        await line.reader.readline()
        challenge = (await line.ask("Challenge", AuthType="md5"))["Challenge"]
        key = hashlib.md5(f"{challenge}simulated".encode()).hexdigest()
        answer = await line.ask("Login", AuthType="MD5", Username="dialer", Key=key, Events="off")
        assert answer["Response"] == "Success"
        assert (await line.ask("Ping"))["Ping"] == "Pong"


@pytest.mark.parametrize(
    "given",
    [
        {"Username": "dialer", "Secret": "wrong"},
        {"Username": "nobody", "Secret": "simulated"},
        {"Username": "dialer"},
        {"Username": "dialer", "AuthType": "MD5", "Key": "0" * 32},
    ],
)
async def test_a_wrong_secret_is_told_after_a_second_and_ends_it(
    simulator: Simulator, given: dict[str, str]
) -> None:
    async with stranger(simulator) as line:
        await line.reader.readline()
        await line.say("Login", **given)
        assert await line.hears_nothing(0.5)
        assert (await line.hear())["Message"] == "Authentication failed"
        assert await line.ends()


async def test_before_the_login_everything_is_denied(simulator: Simulator) -> None:
    async with stranger(simulator) as line:
        await line.reader.readline()
        assert (await line.ask("QueueStatus"))["Message"] == "Permission denied"
        assert (await line.ask("Challenge"))["Message"] == "Must specify AuthType"


# What each session hears


async def test_a_session_hears_the_classes_that_it_asked_for(simulator: Simulator) -> None:
    async with logged_in(simulator, "user") as user, logged_in(simulator, "off") as deaf:
        await pause(deaf)
        await deaf.ask("UserEvent", UserEvent="NONCE", ActionID="7", Value="17")
        told = await user.hear()
        assert (told["Event"], told["UserEvent"], told["Value"], told["ActionID"]) == (
            "UserEvent",
            "NONCE",
            "17",
            "7",
        )
        await deaf.ask("Events", EventMask="agent")
        await pause(deaf, "false")
        assert (await deaf.hear())["Event"] == "QueueMemberPause"


async def test_lines_may_come_in_pieces_and_end_as_they_like(simulator: Simulator) -> None:
    async with logged_in(simulator) as line:
        for piece in (
            b"act",
            b"ION: pi",
            b"ng\nActionID: 1\r",
            b"\n\n",
            b"Action: Ping\r\nActionID: 2\r\n\r\n",
        ):
            line.writer.write(piece)
            await asyncio.sleep(0.01)
        assert [(await line.hear())["ActionID"] for _ in "12"] == ["1", "2"]


async def test_what_is_too_long_harms_nobody(simulator: Simulator) -> None:
    async with logged_in(simulator) as line:
        line.writer.write(b"x" * 200_000 + b"\r\n" + b"A: b\r\n" * 500 + b"\r\n")
        assert (await line.hear())["Message"] == "Missing action in request"
        assert (await line.ask("Ping"))["Response"] == "Success"
        assert (await line.ask("Logoff"))["Response"] == "Goodbye"
        assert await line.ends()


async def test_a_call_is_told_from_the_queue_to_its_end(simulator: Simulator) -> None:
    async with logged_in(simulator) as line, client(simulator) as c:
        call = await c.answered(number.stays(0.0))
        await c.ari.continue_in_dialplan(call, context="dialer-queue", extension="red")
        told = [await line.hear() for _ in range(7)]
        assert [each["Event"] for each in told] == [
            *("QueueCallerJoin", "AgentCalled", "QueueCallerLeave", "AgentConnect"),
            *("QueueMemberStatus", "AgentComplete", "QueueMemberStatus"),
        ]
        assert {each["Uniqueid"] for each in told if "Uniqueid" in each} == {call}


# What goes wrong on purpose


async def test_connections_are_refused_and_cut(simulator: Simulator, door: aiohttp.ClientSession) -> None:
    async with logged_in(simulator) as line:
        await door.delete("simulator/managers")
        assert await line.ends()
    simulator.set_faults({"ami_refuse": True})
    async with stranger(simulator) as line:
        assert await line.ends()


async def test_a_restart_cuts_them_and_keeps_who_is_logged_in(simulator: Simulator) -> None:
    async with logged_in(simulator) as line:
        simulator.restart()
        assert await line.ends()
    async with logged_in(simulator) as line:
        await line.say("QueueStatus", Queue="red")
        assert [(await line.hear()).get("Location") for _ in range(3)][2] == "PJSIP/1001"


async def test_silence_holds_back_everything_until_it_is_over(simulator: Simulator) -> None:
    async with logged_in(simulator) as line:
        simulator.set_faults({"ami_silent": True})
        await line.say("Ping", ActionID="1")
        await line.say("QueuePause", Interface="PJSIP/1001", Paused="true", ActionID="2")
        assert await line.hears_nothing()
        simulator.set_faults({"ami_silent": False})
        assert [(await line.hear()).get("ActionID") for _ in "123"] == ["1", "2", None]


async def test_an_action_may_never_be_answered(simulator: Simulator) -> None:
    async with logged_in(simulator) as line:
        simulator.set_faults({"ami_unanswered": ["ping"]})
        await line.say("Ping")
        assert (await line.ask("UserEvent", UserEvent="X", ActionID="9"))["ActionID"] == "9"


async def test_events_come_late_while_replies_do_not(simulator: Simulator) -> None:
    simulator.set_faults({"ami_late_seconds": 0.2})
    async with logged_in(simulator) as line:
        await pause(line)
        assert (await pause(line, "false"))["Response"] == "Success"
        assert await line.hears_nothing(0.05)
        assert [(await line.hear())["Paused"] for _ in "12"] == ["1", "0"]


async def test_events_are_lost_doubled_and_lied_about(simulator: Simulator) -> None:
    async with logged_in(simulator) as line:
        simulator.set_faults({"ami_events_lost": 1.0})
        await pause(line)
        simulator.set_faults({"ami_events_lost": 0.0, "ami_events_doubled": 1.0})
        await pause(line, "false")
        assert [(await line.hear())["Paused"] for _ in "12"] == ["0", "0"]
        simulator.set_faults({"ami_events_doubled": 0.0})
        await pause(line)
        honest = await line.hear()
        simulator.set_faults({"ami_lies": 1.0})
        for _ in range(20):
            await pause(line)
            told = await line.hear()
            assert told["Event"] == "QueueMemberPause"
            differs = {name for name in honest if told.get(name) != honest[name]} - {"Timestamp", "LastPause"}
            assert len(differs) <= 1


async def test_people_change_while_it_runs(simulator: Simulator, door: aiohttp.ClientSession) -> None:
    async with logged_in(simulator) as line:
        habits = {"queues": ["red"], "name": "Jan", "talks": [0.1, 0.1]}
        assert (await door.put("simulator/agents/1002", json=habits)).status == 204
        added = await line.hear()
        assert (added["Event"], added["MemberName"]) == ("QueueMemberAdded", "Jan")
        assert (await door.delete("simulator/cables/1002")).status == 204
        assert (await line.hear())["Status"] == "5"
        assert (await door.put("simulator/cables/1002")).status == 204
        assert (await line.hear())["Status"] == "1"
        who = {"dialled": "waits-red", "caller": "0155", "stay": "0.3"}
        assert (await door.post("simulator/calls", params=who)).status == 204
        told = [await line.hear() for _ in range(3)]
        assert [each["Event"] for each in told] == ["QueueCallerJoin", "AgentCalled", "QueueCallerLeave"]
        for method, path, body in (
            ("PUT", "agents/1003", {"queues": ["no-such-queue"]}),
            ("PUT", "agents/1003", {"moods": 7}),
            ("POST", "calls?stay=long", None),
        ):
            assert (await door.request(method, f"simulator/{path}", json=body)).status == 400
        for method, path in (("DELETE", "cables/nobody"), ("PATCH", "agents/1001")):
            assert (await door.request(method, f"simulator/{path}")).status == 404


# And the daemon's own client on it


async def test_after_lies_losses_and_delays_the_view_is_the_models_again() -> None:
    """A busy queue, of whose events every kind is spoilt."""
    busy: dict[str, Any] = {
        "answers_after": (0.0, 0.1),
        "talks": (0.05, 0.3),
        "works": (0.2, 0.6),
        "pauses": (0.05, 0.2),
    }
    agents = [Agent(str(extension), ("red", "white"), **busy) for extension in range(1001, 1007)]
    async with Simulator(agents=agents, seed=7) as simulator:
        listener = Listener(
            simulator.ami_port,
            username=simulator.username,
            secret=simulator.password,
            patience=replace(Patience(), resync_seconds=0.2),
        )

        async def callers(seconds: float) -> None:
            for serial in range(round(seconds / 0.03)):
                simulator.call_in(("red", "white")[serial % 2], f"0155{serial:04d}", 0.1 + serial % 5 / 5)
                await asyncio.sleep(0.03)

        async with listening(listener):
            spoilt = {
                "ami_lies": 0.2,
                "ami_events_lost": 0.1,
                "ami_events_doubled": 0.1,
                "ami_late_seconds": 0.02,
            }
            simulator.set_faults(spoilt)
            await callers(1.5)
            assert listener.ami.counts["malformed"] > 0
            simulator.set_faults(dict.fromkeys(spoilt, 0.0))
            await callers(0.5)
            for agent in agents:
                simulator.pbx.employ(time.time(), Agent(agent.extension))  # he goes on, and pauses no more
            queues = simulator.pbx.queues.by_name
            await listener.until(lambda: not any(queue.callers for queue in queues.values()))
            resyncs = listener.ami.counts["resync"]
            await listener.until(lambda: listener.ami.counts["resync"] > resyncs + 1 and listener.is_exact)
            for name in ("red", "white"):
                state = listener.state(name)
                members = queues[name].members.values()
                assert state is not None
                assert state.available == {each.interface for each in members if not each.paused}
                assert (state.waiting, state.logged_in) == (0, 6)
