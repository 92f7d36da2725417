"""What the engine may rely on about queues and agents: one suite, on the simulator and on a real Asterisk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from dialer_engine.ami import Patience
from dialer_engine.core.model import QueueName
from dialer_engine.core.told import (
    CallerAbandoned,
    CallerJoined,
    CallerLeft,
    Completed,
    Connected,
    Disposed,
    Offered,
    Refused,
)
from dialer_engine.simulator import Simulator
from tests.lab import number
from tests.lab.bare_ami import BareAmi
from tests.lab.fixtures import lab
from tests.lab.lab import Lab
from tests.ports.ami_server import Listener, listening

__all__ = ["lab"]  # pytest finds the fixture by its name here

OFTEN = replace(Patience(), resync_seconds=0.3)
ANNA, SLOW, BUSY = "PJSIP/1001", "PJSIP/2001", "PJSIP/4001"
LOCAL, HINT = "Local/1002@from-queue/n", "hint:1002@ext-local"


@dataclass
class QueuePbx:
    """A PBX with the lab's queues and telephones, and whoever works them by AMI."""

    pbx: Lab | Simulator
    port: int
    username: str
    secret: str
    added: set[tuple[str, str]] = field(default_factory=set)

    def listener(self, patience: Patience = OFTEN) -> Listener:
        return Listener(self.port, username=self.username, secret=self.secret, patience=patience)

    async def do(self, action: str, **headers: object) -> None:
        def work() -> None:
            user = self.pbx.ami_user if isinstance(self.pbx, Lab) else self.username
            with BareAmi(self.port, user, self.secret) as session:
                session.do(action, **headers)

        await asyncio.to_thread(work)

    async def add(self, queue: str, interface: str, **headers: object) -> None:
        self.added.add((queue, interface))
        await self.do("QueueAdd", Queue=queue, Interface=interface, **headers)

    async def pause(self, queue: str, interface: str, *, paused: bool) -> None:
        await self.do("QueuePause", Queue=queue, Interface=interface, Paused=str(paused).lower())

    async def remove(self, queue: str, interface: str) -> None:
        self.added.discard((queue, interface))
        await self.do("QueueRemove", Queue=queue, Interface=interface)

    async def call(self, queue: str, seconds: float) -> None:
        """Somebody comes to the queue who hangs up after so many seconds, whether he waits or talks then."""
        where = {"Context": "dialer-queue", "Exten": queue, "Priority": 1}
        callee = number.answers(ring=0, talk=seconds)
        await self.do("Originate", Channel=f"PJSIP/{callee}@carrier", Async="true", **where)

    async def restart(self) -> None:
        if isinstance(self.pbx, Lab):
            self.pbx.pbx.kill()
            await asyncio.to_thread(self.pbx.pbx.start)
        else:
            self.pbx.restart()
        self.added.clear()

    async def clear(self) -> None:
        if isinstance(self.pbx, Lab):
            await asyncio.to_thread(self.pbx.hang_up_everything)
            for queue, interface in tuple(self.added):
                await self.remove(queue, interface)


@pytest.fixture(params=["simulated", pytest.param("lab", marks=pytest.mark.lab)])
async def pbx(request: pytest.FixtureRequest) -> AsyncIterator[QueuePbx]:
    if request.param == "simulated":
        async with Simulator() as simulator:
            yield QueuePbx(simulator, simulator.ami_port, simulator.username, simulator.password)
        return
    real: Lab = request.getfixturevalue("lab")
    made = QueuePbx(real, real.ami_port, real.shipped_user, real.ami_secret)
    yield made
    await made.clear()


async def test_what_is_shipped_is_enough_to_see_everything_exactly(pbx: QueuePbx) -> None:
    began = time.monotonic()
    async with listening(pbx.listener()) as listener:
        assert time.monotonic() - began < 1
        now = datetime.now(UTC)
        seconds = {
            queue: (listener.ami.floor.wrap_up_ends_at(QueueName(queue), ANNA, now) - now).total_seconds()
            for queue in ("green", "red")
        }
        assert seconds == {"green": 5, "red": 0}
        assert listener.state("nosuch") is None
        state = listener.state("green")
        assert state is not None and (state.logged_in, state.waiting) == (0, 0)


async def test_agents_come_pause_and_go(pbx: QueuePbx) -> None:
    async with listening(pbx.listener()) as listener:
        await pbx.add("red", ANNA)
        await pbx.add("white", ANNA)
        await listener.until(lambda: listener.free("red") == listener.free("white") == {ANNA})
        await pbx.pause("red", ANNA, paused=True)
        await listener.until(lambda: listener.free("red") == set())
        assert listener.free("white") == {ANNA}
        await pbx.pause("red", ANNA, paused=False)
        await listener.until(lambda: listener.free("red") == {ANNA})
        await pbx.remove("red", ANNA)
        await listener.until(lambda: listener.free("red") == set())
        assert listener.free("white") == {ANNA}
        assert listener.ami.counts["drift"] == 0


async def test_a_call_is_told_from_the_queue_to_its_end(pbx: QueuePbx) -> None:
    await pbx.add("red", ANNA, MemberName="Anna Nováková")
    async with listening(pbx.listener()) as listener:
        assert listener.free("red") == {ANNA}
        await pbx.call("red", 1)
        await listener.until(lambda: len(listener.told) == 5, seconds=10)
        kinds = [CallerJoined, Offered, CallerLeft, Connected, Completed]
        assert [type(told) for told in listener.told] == kinds
        connected = listener.told[3]
        assert isinstance(connected, Connected) and connected.pbx_at is not None
        assert (connected.name, connected.interface) == ("Anna Nováková", ANNA)
        assert abs((connected.at - connected.pbx_at).total_seconds()) < 0.5
        await listener.until(lambda: listener.free("red") == {ANNA})
        resyncs = listener.ami.counts["resync"]
        await listener.until(lambda: listener.ami.counts["resync"] > resyncs + 1)
        assert (listener.ami.counts["drift"], listener.ami.counts["malformed"]) == (0, 0)


async def test_a_telephone_that_rings_is_held_in_every_queue(pbx: QueuePbx) -> None:
    for queue in ("red", "white"):
        await pbx.add(queue, SLOW)
    async with listening(pbx.listener()) as listener:
        seen: set[str] = set()
        await pbx.call("red", 5)
        await listener.until(lambda: any(isinstance(told, Offered) for told in listener.told))
        caller = next(told.caller for told in listener.told if isinstance(told, Offered))
        assert caller in listener.ami.floor.offered

        def connected() -> bool:
            seen.update(listener.free("red"), listener.free("white"))
            state = listener.state("red")
            assert state is not None and state.waiting == 0
            return any(isinstance(told, Connected) for told in listener.told)

        await listener.until(connected, seconds=10)
        assert not seen
        assert not listener.ami.floor.is_waiting(caller)
        await listener.until(lambda: listener.free("red") == listener.free("white") == {SLOW}, seconds=10)


async def test_a_refusal_lets_the_caller_wait_again(pbx: QueuePbx) -> None:
    await pbx.add("red", BUSY)
    async with listening(pbx.listener()) as listener:
        await pbx.call("red", 2)

        def waits() -> bool:
            state = listener.state("red")
            return bool(state and state.waiting)

        await listener.until(lambda: any(isinstance(told, Refused) for told in listener.told))
        await listener.until(waits)
        await listener.until(lambda: any(isinstance(told, CallerAbandoned) for told in listener.told))
        await listener.until(lambda: not waits() and listener.free("red") == {BUSY}, seconds=10)


async def test_a_local_member_is_seen_by_his_hint(pbx: QueuePbx) -> None:
    await pbx.add("red", LOCAL, StateInterface=HINT)
    async with listening(pbx.listener()) as listener:
        assert listener.free("red") == {HINT}
        await pbx.call("red", 2)
        await listener.until(lambda: any(isinstance(told, Connected) for told in listener.told))
        assert listener.free("red") == set()
        await listener.until(lambda: listener.free("red") == {HINT}, seconds=10)
        assert listener.ami.counts["drift"] == 0


async def test_an_agent_on_a_call_of_his_own_is_not_available(pbx: QueuePbx) -> None:
    for queue in ("red", "white"):
        await pbx.add(queue, ANNA)
    async with listening(pbx.listener()) as listener:
        assert listener.free("red") == listener.free("white") == {ANNA}
        wait = {"Application": "Wait", "Data": 1, "Async": "true"}
        await pbx.do("Originate", Channel=ANNA, **wait)
        await listener.until(lambda: listener.free("red") == listener.free("white") == set())
        await listener.until(lambda: listener.free("red") == listener.free("white") == {ANNA}, seconds=10)
        assert not listener.told


async def test_wrap_up_is_as_long_as_asterisks_in_every_queue(pbx: QueuePbx) -> None:
    for queue in ("green", "blue"):
        await pbx.add(queue, ANNA)
    async with listening(pbx.listener()) as listener:
        await pbx.call("green", 1)
        await listener.until(lambda: any(isinstance(told, Completed) for told in listener.told), seconds=10)
        ended = time.time()
        await listener.until(lambda: bool(listener.state("blue") and listener.state("blue").wrapping_up))  # type: ignore[union-attr]
        await pbx.call("blue", 9)  # whom Asterisk serves when the wrap-up is over
        state = listener.state("green")
        assert state is not None and (state.wrapping_up, state.available) == (1, frozenset())
        assert state.next_free_at is not None and ended + 3.8 < state.next_free_at.timestamp() < ended + 5.1
        offers: list[Offered] = []

        def is_offered_again() -> bool:
            offers[:] = [told for told in listener.told if isinstance(told, Offered)]
            return len(offers) == 2

        await listener.until(is_offered_again, seconds=10)
        doubt = timedelta(seconds=0.05)  # Asterisk's clock is known to half a round trip
    assert offers[1].at is not None and offers[1].at >= state.next_free_at - doubt


async def test_who_gives_up_is_told_and_gone(pbx: QueuePbx) -> None:
    async with listening(pbx.listener()) as listener:
        await pbx.call("red", 1)
        await listener.until(lambda: any(isinstance(told, CallerJoined) for told in listener.told))
        state = listener.state("red")
        assert state is not None and state.waiting == 1
        await listener.until(lambda: any(isinstance(told, CallerLeft) for told in listener.told), seconds=10)
        assert [type(told) for told in listener.told] == [CallerJoined, CallerAbandoned, CallerLeft]
        state = listener.state("red")
        assert state is not None and state.waiting == 0


async def test_who_was_there_before_us_is_seen(pbx: QueuePbx) -> None:
    async with listening(pbx.listener()) as first:
        await pbx.call("red", 3)
        await first.until(lambda: bool(first.told))
    async with listening(pbx.listener()) as listener:
        state = listener.state("red")
        assert state is not None and state.waiting == 1
        assert listener.ami.counts["drift"] == 0


async def test_a_disposition_comes_by_a_user_event(pbx: QueuePbx) -> None:
    async with listening(pbx.listener()) as listener:
        await pbx.do("UserEvent", UserEvent="DISPOSITION", Uniqueid="a1b2", V="SOLD")
        await listener.until(lambda: bool(listener.told))
        assert listener.told == [Disposed("a1b2", "SOLD")]


async def test_snapshots_amid_events_never_drift(pbx: QueuePbx) -> None:
    """Whatever a snapshot has overtaken is waited for before it is compared."""
    agents = [f"PJSIP/{extension}" for extension in range(1010, 1030)]
    for agent in agents:
        await pbx.add("red", agent)

    def hurry() -> None:
        user = pbx.pbx.ami_user if isinstance(pbx.pbx, Lab) else pbx.username
        with BareAmi(pbx.port, user, pbx.secret) as session:
            for turn in range(1020):  # at last nobody is paused
                paused = "true" if turn // len(agents) % 2 else "false"
                session.do("QueuePause", Queue="red", Interface=agents[turn % len(agents)], Paused=paused)

    hasty = replace(Patience(), resync_seconds=0.001, ping_seconds=0.05)
    async with listening(pbx.listener(hasty)) as listener:
        await asyncio.to_thread(hurry)
        await listener.until(lambda: listener.free("red") == set(agents))
        assert listener.ami.counts["resync"] > 5
        assert listener.ami.counts["drift"] == 0
        assert listener.is_exact


async def test_events_later_than_rows_are_waited_for() -> None:
    """By the fence; a snapshot that was compared before them would find that everything had drifted."""
    async with Simulator() as simulator:
        pbx = QueuePbx(simulator, simulator.ami_port, simulator.username, simulator.password)
        async with listening(pbx.listener(replace(OFTEN, resync_seconds=0.05))) as listener:
            simulator.faults.ami_late_seconds = 0.2
            for extension in range(1010, 1020):
                await pbx.add("red", f"PJSIP/{extension}")
            await listener.until(lambda: len(listener.free("red")) == 10)
            resyncs = listener.ami.counts["resync"]
            await listener.until(lambda: listener.ami.counts["resync"] > resyncs + 1)
            assert listener.ami.counts["drift"] == 0


async def test_a_pbx_that_loses_doubles_and_lies_is_seen_rightly_in_the_end() -> None:
    async with Simulator(seed=7) as simulator:
        pbx = QueuePbx(simulator, simulator.ami_port, simulator.username, simulator.password)
        for extension in range(1010, 1020):
            await pbx.add("red", f"PJSIP/{extension}")

        def is_seen_rightly() -> bool:
            queue = simulator.pbx.queues.by_name["red"]
            seen = {told.interface: (int(told.state), told.paused) for told in listener.ami.floor.members}
            true = {name: (int(member.status), member.paused) for name, member in queue.members.items()}
            waiting = {caller.channel.id for caller in queue.callers}
            return seen == true and {told.caller for told in listener.ami.floor.callers} == waiting

        async with listening(pbx.listener(replace(OFTEN, resync_seconds=0.1, ping_seconds=0.1))) as listener:
            faults = simulator.faults
            faults.ami_events_lost = faults.ami_events_doubled = faults.ami_lies = 0.15
            for _ in range(12):
                await pbx.call("red", 0.8)
                await pbx.do("QueuePause", Queue="red", Interface="PJSIP/1010", Paused="true")
                await pbx.do("QueuePause", Queue="red", Interface="PJSIP/1010", Paused="false")
            faults.ami_events_lost = faults.ami_events_doubled = faults.ami_lies = 0.0
            await listener.until(lambda: listener.is_exact and is_seen_rightly(), seconds=15)
            assert listener.ami.counts["drift"] + listener.ami.counts["malformed"] > 0
            await listener.until(lambda: len(listener.free("red")) == 10, seconds=15)


async def test_a_pbx_that_is_restarted_is_another_one(pbx: QueuePbx) -> None:
    await pbx.add("red", ANNA)
    async with listening(pbx.listener()) as listener:
        assert listener.free("red") == {ANNA}
        await pbx.restart()
        await listener.until(lambda: listener.ami.counts["connection"] > 1 and listener.is_exact, seconds=30)
        await pbx.add("red", SLOW)
        await listener.until(lambda: SLOW in listener.free("red"))
        assert listener.ami.counts["drift"] == 0
