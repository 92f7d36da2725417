"""What the client makes of what it is told: the view is right, or known not to be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from dialer_engine.ami import Patience
from dialer_engine.ami.client import MOST_ROWS
from dialer_engine.ami.settings import UNREAD
from dialer_engine.config import QueueSettings
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
from tests.ports.ami_server import (
    GREEN,
    HASTY,
    AmiServer,
    Headers,
    Listener,
    caller_event,
    event,
    lines,
    listening,
    member,
    member_event,
    serving,
)

ANNA, BERT = "PJSIP/1001", "PJSIP/1002"
QUIET = replace(HASTY, resync_seconds=60.0)


@asynccontextmanager
async def centre(
    *interfaces: str, patience: Patience = HASTY, **more: object
) -> AsyncIterator[tuple[AmiServer, Listener]]:
    """A server whose queue has these members, and whoever listens to it."""
    server = AmiServer(members={(GREEN, each): member(each) for each in interfaces})
    async with serving(server), listening(Listener(server.port, patience=patience)) as listener:
        yield server, listener


def seconds_ago(seconds: float) -> int:
    return int(time.time() - seconds)


# --- the life of the view


async def test_members_and_callers_are_there_from_the_first_snapshot() -> None:
    server = AmiServer(
        members={(GREEN, ANNA): member(), (GREEN, BERT): member(BERT, Status=2)}, callers={"c1": GREEN}
    )
    async with serving(server), listening(Listener(server.port)) as listener:
        state = listener.state()
        assert state is not None
        assert state.available == {ANNA}
        assert (state.waiting, state.in_call) == (1, 1)
        assert not listener.told  # nothing has happened
        assert listener.state("nosuch") is None


async def test_the_view_is_exact_only_when_our_own_event_has_come_back() -> None:
    server = AmiServer(members={(GREEN, ANNA): member()}, unanswered={"UserEvent"})
    patience = replace(HASTY, action_seconds=5.0)
    async with serving(server), listening(Listener(server.port, patience=patience), exact=False) as listener:
        await listener.until(lambda: "UserEvent" in server.names())
        server.say(member_event(Status=2))  # sent before, and slower than the rows
        await listener.until(lambda: listener.ami.counts["parsed"] > 0 and not listener.is_exact)
        fence = server.asked[-1]
        assert not listener.is_exact
        server.say(lines({"Event": "UserEvent", "UserEvent": "DialerFence", "Fence": "of another daemon"}))
        server.say(lines({"Response": "Success", "ActionID": fence["ActionID"]}))
        server.say(lines({"Event": "UserEvent", "UserEvent": "DialerFence", "Fence": fence["Fence"]}))
        await listener.exact()
        assert listener.free() == set()


@pytest.mark.parametrize(
    ("missing", "reason"),
    [("user", "Asterisk refuses UserEvent"), ("hears user", "our own event does not come back")],
)
async def test_without_the_right_to_events_of_our_own_we_wait_a_little(missing: str, reason: str) -> None:
    server = AmiServer(members={(GREEN, ANNA): member()})
    server.rights.discard(missing)
    with capture_logs() as logs:
        async with serving(server), listening(Listener(server.port)) as listener:
            await listener.until(lambda: listener.ami.counts["resync"] > 2)
            assert server.names().count("UserEvent") == 1  # remembered
            assert listener.free() == {ANNA}
    (said,) = (line for line in logs if line["event"] == "queues less exact")
    assert said["reason"].startswith(reason) and "write=user" in said["remedy"]


async def test_when_events_stop_to_come_the_connection_is_left() -> None:
    async with centre(ANNA) as (server, listener):
        server.rights.discard("hears user")
        await listener.until(lambda: not listener.is_exact)
        server.rights.add("hears user")
        await listener.exact()
        assert server.connections == 2


async def test_the_age_is_that_of_the_last_answered_ping() -> None:
    async with centre(ANNA, patience=replace(HASTY, silence_seconds=2.0)) as (server, listener):
        await listener.until(lambda: server.names().count("Ping") > 3)
        assert (listener.ami.age_seconds() or 9) < 0.5
        server.unanswered.add("Ping")
        await listener.until(lambda: (listener.ami.age_seconds() or 0) > 0.5)
        assert listener.free() == {ANNA}  # old, and said to be
        server.cut()
        await listener.until(lambda: listener.ami.age_seconds() is None)
        assert listener.free() == set()


async def test_a_connection_that_is_lost_leaves_nobody_free_and_comes_back() -> None:
    async with centre(ANNA) as (server, listener):
        changes = listener.changes
        server.cut()
        await listener.until(lambda: not listener.is_exact)
        assert listener.changes > changes
        assert listener.free() == set()
        await listener.exact()
        assert listener.free() == {ANNA}
        assert listener.ami.counts["drift"] == 0


async def test_an_asterisk_that_shuts_down_is_believed_at_once() -> None:
    async with centre(ANNA) as (server, listener):
        server.say(event("Shutdown", Shutdown="Cleanly", Restart="False"))
        await listener.until(lambda: not listener.is_exact)
        await listener.exact()
        assert server.connections == 2


async def test_an_asterisk_that_has_only_come_up_is_asked_again() -> None:
    async with centre(ANNA, patience=QUIET) as (server, listener):
        asked = server.names().count("QueueStatus")
        server.members[GREEN, BERT] = member(BERT)
        server.say(event("FullyBooted", Status="Fully Booted"))
        await listener.until(lambda: listener.free() == {ANNA, BERT})
        assert server.names().count("QueueStatus") == asked + 1


async def test_a_wrong_secret_is_told_and_never_shown() -> None:
    server = AmiServer(secret="correct horse")
    with capture_logs() as logs:
        async with (
            serving(server),
            listening(Listener(server.port, secret="battery staple"), exact=False) as listener,
        ):
            await listener.until(lambda: server.connections > 3)
    told = [line for line in logs if line["event"] == "queues not seen"]
    assert [line["reason"] for line in told] == ["Asterisk refuses Login: Authentication failed"]
    assert "staple" not in str(logs) and "staple" not in str(server.asked)


async def test_an_end_is_obeyed_at_whatever_instant_it_comes() -> None:
    """Also when the connection ends in the same turn of the loop."""
    async with serving(AmiServer(members={(GREEN, ANNA): member()})) as server:
        for turns in range(12):
            listener = Listener(server.port)
            run = asyncio.create_task(listener.ami.run())
            await listener.exact()
            server.cut()
            for _ in range(turns):
                await asyncio.sleep(0)
            run.cancel()
            async with asyncio.timeout(2):
                await asyncio.wait([run])
            assert run.cancelled()


# --- events


async def test_a_call_through_the_queue_is_told_and_seen() -> None:
    async with centre(ANNA) as (server, listener):

        def seen() -> tuple[set[str], int]:
            state = listener.state()
            assert state is not None
            return set(state.available), state.waiting

        server.say(caller_event("QueueCallerJoin", "c1", Position=1, Count=1))
        await listener.until(lambda: seen() == ({ANNA}, 1))
        server.say(caller_event("AgentCalled", "c1", Interface=ANNA, MemberName="Anna"))
        await listener.until(lambda: seen() == (set(), 0))
        server.say(member_event(Status=6))
        server.say(caller_event("AgentRingNoAnswer", "c1", Interface=ANNA, MemberName="Anna", RingTime=0))
        server.say(member_event(Status=1))
        await listener.until(lambda: seen() == ({ANNA}, 1))
        server.say(caller_event("AgentCalled", "c1", Interface=ANNA, MemberName="Anna"))
        server.say(member_event(Status=2))
        server.say(caller_event("QueueCallerLeave", "c1", Position=1, Count=0))
        stamp = server.stamp()
        server.say(caller_event("AgentConnect", "c1", Interface=ANNA, MemberName="Anna", Timestamp=stamp))
        server.say(caller_event("AgentComplete", "c1", Interface=ANNA, MemberName="Anna", Reason="agent"))
        server.say(member_event(Status=1))
        await listener.until(lambda: seen() == ({ANNA}, 0))
        server.say(caller_event("QueueCallerJoin", "c2"))
        server.say(caller_event("QueueCallerAbandon", "c2", HoldTime=7))
        server.say(caller_event("QueueCallerLeave", "c2"))
        await listener.until(lambda: len(listener.told) == 10)
        kinds = [CallerJoined, Offered, Refused, Offered, CallerLeft, Connected, Completed]
        assert [type(told) for told in listener.told] == [*kinds, CallerJoined, CallerAbandoned, CallerLeft]
        connected, completed, abandoned = listener.told[5], listener.told[6], listener.told[8]
        assert isinstance(connected, Connected) and isinstance(completed, Completed)
        assert (connected.caller, connected.interface, connected.name) == ("c1", ANNA, "Anna")
        assert connected.pbx_at is not None
        assert abs(connected.pbx_at - datetime.fromtimestamp(float(stamp), UTC)) < timedelta(seconds=0.2)
        assert completed.reason == "agent"
        assert isinstance(abandoned, CallerAbandoned) and abandoned.waited_seconds == 7.0


async def test_an_agent_who_hangs_up_before_he_is_connected_is_told_as_a_refusal() -> None:
    async with centre(ANNA) as (server, listener):
        server.say(caller_event("QueueCallerJoin", "c1") + caller_event("AgentCalled", "c1", Interface=ANNA))
        server.say(caller_event("AgentDump", "c1", Interface=ANNA, MemberName="Anna"))
        await listener.until(lambda: len(listener.told) == 3)
        assert isinstance(listener.told[-1], Refused)


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (
            b"Event: UserEvent\r\nUserEvent: DISPOSITION\r\nUniqueid: a1\r\nV: SOLD\r\n\r\n",
            Disposed("a1", "SOLD"),
        ),
        (  # from the dialplan: the channel's own Uniqueid comes first
            b"Event: UserEvent\r\nUniqueid: 17.3\r\nUserEvent: Disposition\r\nUniqueid: a1\r\nV: X Y\r\n\r\n",
            Disposed("a1", "X Y"),
        ),
    ],
)
async def test_a_disposition_is_heard(said: bytes, heard: Disposed) -> None:
    async with centre(ANNA) as (server, listener):
        server.say(event("UserEvent", UserEvent="SOMETHING", Uniqueid="a1"))
        server.say(said)
        await listener.until(lambda: bool(listener.told))
        assert listener.told == [heard]


@pytest.mark.parametrize(
    "said",
    [
        # *7 and a digit that has no word
        b"Event: UserEvent\r\nUniqueid: 17.3\r\nUserEvent: DISPOSITION\r\nUniqueid: a1\r\nV: \r\n\r\n",
        # from a telephone that has had no call
        b"Event: UserEvent\r\nUniqueid: 17.3\r\nUserEvent: DISPOSITION\r\nUniqueid: \r\nV: SOLD\r\n\r\n",
        b"Event: UserEvent\r\nUniqueid: 17.3\r\nUserEvent: SOMETHING\r\nEvent: QueueMemberStatus\r\n\r\n",
    ],
)
async def test_a_user_event_without_sense_is_counted_told_and_leaves_the_view_exact(said: bytes) -> None:
    with capture_logs() as logs:
        async with centre(ANNA, patience=QUIET) as (server, listener):
            asked = server.names().count("QueueStatus")
            server.say(said + member_event(Status=2))
            await listener.until(lambda: not listener.free())
            assert listener.is_exact and listener.state() is not None
            assert (listener.ami.counts["malformed"], listener.told) == (1, [])
            assert server.names().count("QueueStatus") == asked
    assert [line["log_level"] for line in logs if line["event"] == "user event passed over"] == ["warning"]


# --- wrap-up, clocks and settings


async def test_the_end_of_a_wrap_up_is_told_at_its_instant() -> None:
    server = AmiServer(settings={GREEN: {"wrapuptime": "1"}})
    server.members[GREEN, ANNA] = member(LastCall=int(time.time()))
    async with serving(server), listening(Listener(server.port, patience=QUIET)) as listener:
        state = listener.state()
        assert state is not None and state.next_free_at is not None
        due, changes = state.next_free_at, listener.changes
        assert abs(due - datetime.fromtimestamp(seconds_ago(0) + 1, UTC)) <= timedelta(seconds=1.1)
        await listener.until(lambda: listener.free() == {ANNA})
        assert timedelta(0) <= datetime.now(UTC) - due < timedelta(seconds=0.2)
        assert listener.changes > changes


async def test_last_call_is_taken_by_asterisks_clock() -> None:
    server = AmiServer(settings={GREEN: {"wrapuptime": "60"}}, clock_ahead_seconds=3600.0)
    server.members[GREEN, ANNA] = member(LastCall=int(time.time() + 3600 - 30))
    server.members[GREEN, BERT] = member(BERT, LastCall=int(time.time() + 3600 - 62))
    async with serving(server), listening(Listener(server.port)) as listener:
        state = listener.state()
        assert state is not None and state.next_free_at is not None
        assert state.available == {BERT}
        assert 28 < (state.next_free_at - datetime.now(UTC)).total_seconds() < 31
        server.clock_ahead_seconds = -3600.0
        await listener.until(lambda: listener.free() == set())  # nor would Asterisk, whose clock was set back


@pytest.mark.parametrize(
    ("found", "overridden", "seconds"),
    [
        ({"wrapuptime": "5", "ringinuse": "no"}, None, 5.0),
        ({"ringinuse": "no"}, None, 0.0),
        ({"wrapuptime": "five"}, None, 0.0),
        ({"wrapuptime": "7 seconds"}, None, 7.0),
        ({"wrapuptime": "-7"}, None, 0.0),
        ({"wrapuptime": "5"}, QueueSettings(wrap_up_seconds=2.5), 2.5),
        ({"wrapuptime": "5"}, QueueSettings(ring_in_use=False), 5.0),
        ({}, None, UNREAD.wrap_up_seconds),  # of a database: no section in the file
        ({}, QueueSettings(wrap_up_seconds=0.0), 0.0),
    ],
)
async def test_a_queues_wrap_up_is_the_configurations_or_asterisks(
    found: dict[str, str], overridden: QueueSettings | None, seconds: float
) -> None:
    server = AmiServer(settings={GREEN: found}, members={(GREEN, ANNA): member()})
    rules: dict[str, QueueSettings] = {GREEN: overridden} if overridden else {}
    async with serving(server), listening(Listener(server.port, rules=rules)) as listener:
        ends = listener.ami.floor.wrap_up_ends_at(GREEN, ANNA, datetime.now(UTC))
        assert ends - datetime.now(UTC) == pytest.approx(timedelta(seconds=seconds), abs=timedelta(seconds=0.1))


async def test_without_the_right_to_read_them_settings_are_assumed_and_it_is_said_once() -> None:
    server = AmiServer(members={(GREEN, ANNA): member(LastCall=seconds_ago(20))})
    server.rights.discard("config")
    with capture_logs() as logs:
        async with serving(server), listening(Listener(server.port)) as listener:
            assert listener.free() == set()
            await listener.until(lambda: listener.ami.counts["resync"] > 2)
            assert server.names().count("GetConfig") == 1  # remembered
            listener.ami.take({GREEN: QueueSettings(wrap_up_seconds=5.0)})  # SIGHUP
            assert listener.free() == {ANNA}
            server.cut()
            await listener.until(lambda: server.connections == 2)
            await listener.exact()
    (said,) = (line for line in logs if line["event"] == "queue settings not readable")
    assert "write=config" in said["remedy"] and said["assumed_wrap_up_seconds"] == UNREAD.wrap_up_seconds


async def test_settings_are_read_once_a_minute_and_after_a_reload() -> None:
    server = AmiServer(settings={GREEN: {"wrapuptime": "5"}})
    server.members[GREEN, ANNA] = member(LastCall=seconds_ago(20))
    async with serving(server), listening(Listener(server.port)) as listener:
        await listener.until(lambda: listener.ami.counts["resync"] > 3)
        assert server.names().count("GetConfig") == 2  # general, green
        assert listener.free() == {ANNA}
        server.settings[GREEN] = {"wrapuptime": "40"}
        server.say(event("Reload", Module="chan_pjsip.so", Status=0))
        server.say(event("Reload", Module="app_queue.so", Status=0))
        await listener.until(lambda: listener.free() == set())
        assert server.names().count("GetConfig") == 4


async def test_settings_that_are_old_are_read_again() -> None:
    server = AmiServer(settings={GREEN: {"wrapuptime": "5"}})
    patience = replace(HASTY, settings_seconds=0.1)
    async with serving(server), listening(Listener(server.port, patience=patience)) as listener:
        await listener.until(lambda: server.names().count("GetConfig") >= 6)


async def test_a_new_queue_has_its_settings_read_before_its_agents_count() -> None:
    server = AmiServer(settings={GREEN: {"wrapuptime": "0"}})
    async with serving(server), listening(Listener(server.port, patience=QUIET)) as listener:
        server.settings["blue"] = {"wrapuptime": "15"}
        server.members["blue", ANNA] = member(queue="blue", LastCall=seconds_ago(20))
        server.say(event("QueueMemberAdded", **server.members["blue", ANNA]))
        await listener.until(lambda: listener.state("blue") is not None)
        assert listener.free("blue") == set()
        await listener.until(lambda: listener.free("blue") == {ANNA})


async def test_whether_last_call_is_shared_is_read_too() -> None:
    server = AmiServer(
        settings={
            "general": {"shared_lastcall": "no"},
            GREEN: {"wrapuptime": "60"},
            "blue": {"wrapuptime": "60"},
        }
    )
    for queue in (GREEN, "blue"):
        server.members[queue, ANNA] = member(queue=queue)
    async with serving(server), listening(Listener(server.port)) as listener:
        server.say(caller_event("AgentConnect", "c1", Interface=ANNA))
        server.say(caller_event("AgentComplete", "c1", Interface=ANNA))
        await listener.until(lambda: len(listener.told) == 2)
        assert listener.free() == set()
        assert listener.free("blue") == {ANNA}


# --- drift, doubt and lies


async def test_what_changed_without_a_word_is_mended_and_counted() -> None:
    async with centre(ANNA, BERT) as (server, listener):
        server.say(member_event(BERT, Status=2))
        server.members[GREEN, BERT] = member(BERT, Status=2)
        await listener.until(lambda: listener.free() == {ANNA})
        resyncs = listener.ami.counts["resync"]
        await listener.until(lambda: listener.ami.counts["resync"] > resyncs + 1)
        assert listener.ami.counts["drift"] == 0
        server.members[GREEN, ANNA] = member(Status=5)
        server.callers["c1"] = GREEN
        await listener.until(lambda: listener.free() == set())
        assert listener.ami.counts["drift"] == 2
        assert listener.is_exact


async def test_while_events_are_lost_the_view_is_compared_again_and_again_until_nothing_differs() -> None:
    with capture_logs() as logs:
        async with centre(ANNA, patience=QUIET) as (server, listener):
            server.members[GREEN, ANNA] = member(Status=2)
            server.say(event("Reload", Module="app_queue"))  # it is long till the next look
            await listener.until(lambda: listener.free() == set())
            for status, free in ((1, {ANNA}), (2, set()), (1, {ANNA})):
                server.members[GREEN, ANNA] = member(Status=status)
                await listener.until(lambda free=free: listener.free() == free)  # type: ignore[misc]
            resyncs = listener.ami.counts["resync"]
            await asyncio.sleep(0.5)
            assert (listener.ami.counts["resync"], listener.ami.counts["drift"]) == (resyncs + 1, 4)
    assert len([line for line in logs if line["event"] == "queues had drifted"]) == 1


async def test_events_that_our_own_has_overtaken_are_no_drift() -> None:
    """Asterisk hands UserEvent to AMI at once, and what its queues tell by way of a thread of its own."""
    async with centre(ANNA, BERT) as (server, listener):
        changed = member(BERT, Status=2)

        def overtakes(headers: Headers) -> bytes:
            if server.members[GREEN, BERT] is not changed:
                server.members[GREEN, BERT] = changed
                server.answers["UserEvent"] = late
            return server._list(headers)

        def late(headers: Headers) -> bytes:
            del server.answers["UserEvent"]
            asyncio.get_running_loop().call_later(0.04, server.say, event("QueueMemberStatus", **changed))
            return server._user_event(headers)

        server.answers["QueueStatus"] = overtakes
        await listener.until(lambda: listener.free() == {ANNA})
        resyncs = listener.ami.counts["resync"]
        await listener.until(lambda: listener.ami.counts["resync"] > resyncs + 1)
        assert listener.ami.counts["drift"] == 0


async def test_a_row_that_cannot_be_read_is_nobody_free() -> None:
    async with centre(ANNA, BERT) as (server, listener):
        server.members[GREEN, BERT]["Status"] = "idle"
        await listener.until(lambda: listener.free() == {ANNA})
        assert listener.ami.counts["malformed"] > 0
        assert listener.is_exact


@pytest.mark.parametrize("status", [9, 99, 10**9])
async def test_a_state_that_nobody_knows_is_not_available(status: int) -> None:
    async with centre(ANNA) as (server, listener):
        server.say(member_event(Status=status))
        await listener.until(lambda: listener.free() == set())
        assert listener.is_exact


async def test_a_caller_who_cannot_be_read_leaves_the_view_unknown() -> None:
    async with centre(ANNA) as (server, listener):
        server.callers[""] = GREEN
        await listener.until(lambda: not listener.is_exact)
        server.callers.clear()
        await listener.exact()


async def test_doubt_during_a_snapshot_outlives_it() -> None:
    server = AmiServer(members={(GREEN, ANNA): member()})
    async with serving(server), listening(Listener(server.port, patience=QUIET), exact=False) as listener:
        listing = server._list

        def doubtful(headers: Headers) -> bytes:
            return listing(headers) + event("QueueMemberStatus", Queue=GREEN)

        server.answers["QueueStatus"] = doubtful
        await listener.until(lambda: listener.ami.counts["resync"] == 2)
        assert not listener.is_exact
        server.answers.clear()
        await listener.exact()


async def test_more_than_can_be_is_not_believed() -> None:
    async with centre(ANNA, patience=QUIET) as (server, listener):
        flood = b"".join(caller_event("QueueCallerJoin", f"c{n}") for n in range(MOST_ROWS + 2000))
        server.say(flood)
        await listener.until(lambda: not listener.is_exact, seconds=20)
        await listener.exact(seconds=20)
        assert listener.ami.floor.rows < 10


# --- under fire


class Pulse:
    """How long the loop was held at most, by this thread's own work: the machine's other work is not ours."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def beat(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            self.longest = max(self.longest, time.thread_time() - before)
            await asyncio.sleep(0.001)


@asynccontextmanager
async def pulse() -> AsyncIterator[None]:
    """The loop is never held for 50 ms."""
    measure = Pulse()
    beating = asyncio.create_task(measure.beat())
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.wait([beating])
    assert measure.longest < 0.05


@pytest.mark.parametrize("wanted", [False, True])
async def test_a_flood_holds_nobody(wanted: bool) -> None:
    async with centre(*(f"PJSIP/{n}" for n in range(500)), patience=replace(QUIET, silence_seconds=20.0)) as (
        server,
        listener,
    ):
        async with pulse():
            one = (
                member_event("PJSIP/7", Status=2)
                if wanted
                else event("VarSet", Channel="PJSIP/7", Value="x" * 200)
            )
            server.say(one * 8_000)
            server.say(member_event("PJSIP/8", Status=2))
            await listener.until(lambda: "PJSIP/8" not in listener.free(), seconds=30)
        assert listener.is_exact


@dataclass
class World:
    """What is true, and a server that mostly says so."""

    server: AmiServer
    is_mute: bool = False
    born: int = field(default=0)

    def tell(self, data: bytes) -> None:
        if not self.is_mute:
            self.server.say(data)

    def change(self, which: int, *, silently: bool = False) -> None:
        interface = f"PJSIP/{which % 5}"
        status, paused = which % 9, which % 2
        now = member(interface, Status=status, Paused=paused)
        is_new = (GREEN, interface) not in self.server.members
        self.server.members[GREEN, interface] = now
        if not silently:
            self.tell(event("QueueMemberAdded" if is_new else "QueueMemberStatus", **now))

    def change_silently(self, which: int) -> None:
        self.change(which, silently=True)

    def remove(self, which: int) -> None:
        gone = self.server.members.pop((GREEN, f"PJSIP/{which % 5}"), None)
        if gone:
            self.tell(event("QueueMemberRemoved", **gone))

    def join(self, _: int) -> None:
        self.born += 1
        self.server.callers[f"c{self.born}"] = GREEN
        self.tell(caller_event("QueueCallerJoin", f"c{self.born}"))

    def leave(self, which: int) -> None:
        if self.server.callers:
            caller = list(self.server.callers)[which % len(self.server.callers)]
            del self.server.callers[caller]
            if which % 2:
                self.tell(caller_event("QueueCallerAbandon", caller, HoldTime=1))
            self.tell(caller_event("QueueCallerLeave", caller))

    def lie(self, which: int) -> None:
        """Of people who are not there, or nothing at all."""
        lies = [
            member_event("PJSIP/ghost"),
            member_event("PJSIP/0", Status=7, LastCall=2**32),
            caller_event("QueueCallerJoin", "ghost"),
            caller_event("QueueCallerLeave", "nobody"),
            caller_event("AgentCalled", "nobody", Interface="PJSIP/0"),
            caller_event("AgentConnect", "nobody", Interface="PJSIP/1"),
            event("QueueMemberRemoved", **member("PJSIP/0")),
            event("QueueMemberStatus", Queue=GREEN),
            event("QueueCallerJoin", Queue=GREEN),
            event("AgentCalled", Queue=GREEN, Interface="PJSIP/0", Uniqueid="\x00"),
            event("QueueStatusComplete", ActionID="x", EventList="Complete"),
            event("FullyBooted"),
            b"Event: Reload\r\nModule: app_queue\r\nModule: app_queue\r\n\r\n",
            b"Event: UserEvent\r\nUserEvent: DialerFence\r\nUserEvent: DISPOSITION\r\nV: 1\r\n\r\n",
            b"Event: QueueMemberStatus\r\nStatus: 1\r\nStatus: 2\r\n\r\n",
            b"\xff\xfe\r\n\r\n",
            b"\r\n\r\n\r\n",
        ]
        self.tell(lies[which % len(lies)])

    def flood(self, which: int) -> None:
        self.tell(event("VarSet", Variable="x", Value="y" * which) * 200)

    def cut(self, _: int) -> None:
        self.server.cut()

    def shut_down(self, _: int) -> None:
        self.tell(event("Shutdown", Restart="False"))

    def go_silent(self, _: int) -> None:
        """Half-open: the connection stands, and nothing comes through it."""
        self.is_mute = True
        self.server.unanswered = {"Challenge", "Login", "Ping", "QueueStatus", "GetConfig", "UserEvent"}

    def speak(self, _: int) -> None:
        """Who has been silent has nothing to add to what was lost."""
        if self.is_mute:
            self.server.cut()
        self.is_mute = False
        self.server.unanswered = set()

    def seen_by(self, listener: Listener) -> bool:
        told = {seen.interface: (int(seen.state), seen.paused) for seen in listener.ami.floor.members}
        true = {
            interface: (int(row["Status"]), row["Paused"] == "1")
            for (_, interface), row in self.server.members.items()
        }
        callers = {caller.caller for caller in listener.ami.floor.callers}
        return told == true and callers == self.server.callers.keys()


STEPS = (
    World.change,
    World.change,
    World.change_silently,
    World.remove,
    World.join,
    World.join,
    World.leave,
    World.lie,
    World.lie,
    World.flood,
    World.cut,
    World.shut_down,
    World.go_silent,
    World.speak,
)
FIERCE = replace(HASTY, resync_seconds=0.05, silence_seconds=0.1, ping_seconds=0.02, settled_seconds=0.0)


@settings(max_examples=100)
@given(
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 500)), max_size=25),
    cuts=st.lists(st.integers(1, 60), max_size=20),
)
def test_under_fire_the_view_is_right_or_known_to_be_stale(
    steps: list[tuple[object, int]], cuts: list[int]
) -> None:
    def pieces(data: bytes) -> list[bytes]:
        found = []
        for cut in cuts:
            found.append(data[:cut])
            data = data[cut:]
        return [*found, data]

    async def fire() -> None:
        world = World(AmiServer(pieces=pieces))
        async with (
            serving(world.server),
            listening(Listener(world.server.port, patience=FIERCE), exact=False) as listener,
            pulse(),
        ):
            for step, which in steps:
                step(world, which)  # type: ignore[operator]
                await listener.until(lambda: not listener.is_exact or world.seen_by(listener))
            world.speak(0)
            await listener.until(lambda: listener.is_exact and world.seen_by(listener))
            busy = {agent for agent in listener.free() if world.server.members[GREEN, agent]["Status"] != "1"}
            assert not busy

    asyncio.run(fire())
