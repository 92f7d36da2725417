"""Any order of verbs, some of them sent twice: nobody is lost, nobody waits twice, no slot leaks.

A model in Python follows the store. After every step the two are compared: each contact of the run is exactly
one of not-yet-read, waiting, in flight or closed, and the live sets are the attempts.
DIALER_LONG=1 walks further.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dialer_engine.core.model import AttemptId, CampaignId, Command, Contact, Counts, Due
from dialer_engine.store import Store
from dialer_engine.store.records import (
    ClaimKind,
    ClaimRequest,
    Closed,
    DisposeKind,
    Next,
    ReadRow,
    RedialAt,
    ReturnTo,
    SettleKind,
)
from tests.ports.store_desk import NOW, OWNER, TRUNK, Desk, RealRedis, in_batches, numbered

NUMBERS = st.sampled_from([f"60{n}" for n in range(8)])
CAMPAIGNS = st.integers(0, 1)
TWICE = st.booleans()  # the reply was lost and the verb is sent again
LONG = bool(os.environ.get("DIALER_LONG"))
T = TypeVar("T")


@dataclass
class Run:
    """What the model knows of one campaign's run. A contact is known by its (generation, row)."""

    campaign: CampaignId
    run: int = 1
    running: bool = True
    generation: int = 1
    cursor: int = 0
    seen: set[str] = field(default_factory=set)
    waiting: dict[tuple[int, int], float] = field(default_factory=dict)  # 0.0: fresh, else due at
    live: dict[AttemptId, tuple[int, int]] = field(default_factory=dict)
    earlier: set[AttemptId] = field(default_factory=set)  # live calls of earlier runs
    closed: int = 0
    read: int = 0  # contacts, repeats included


class StoreMachine(RuleBasedStateMachine):
    server: RealRedis

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.client = self.server.client()
        self.client.flushall()
        self.now = NOW
        self.attempts = 0
        self.sent: set[AttemptId] = set()
        self.served: set[AttemptId] = set()
        self.said: dict[AttemptId, str] = {}  # by agents
        self.numbers: dict[AttemptId, str] = {}
        self.generations: dict[int, list[str]] = {1: []}
        self.current = 1
        self.store = self.do(Store.open(self.server.url))
        self.desk = Desk(self.store)

    def do(self, verb: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(verb)

    def teardown(self) -> None:
        self.do(self.store.close())
        self.loop.close()
        self.client.close()

    @initialize(rows=st.lists(NUMBERS, max_size=6))
    def two_campaigns_on_one_list(self, rows: list[str]) -> None:
        self.list = self.do(self.desk.new_list())
        self.runs = []
        for _ in range(2):
            campaign = self.do(self.desk.new_campaign(self.list, whenDone="wait"))
            self.do(self.desk.command(campaign, Command.START))
            self.runs.append(Run(campaign))
        self.push(rows)

    @rule(rows=st.lists(NUMBERS, min_size=1, max_size=4))
    def push(self, rows: list[str]) -> None:
        """Any program may RPUSH, repeats included."""
        if rows:
            self.client.rpush(f"{{dialer:list:{self.list}}}:rows:{self.current}", *rows)
        self.generations[self.current] += rows

    @rule(number=NUMBERS)
    def strike_out(self, number: str) -> None:
        self.do(self.store.lists.strike_out(self.list, number, number.__eq__))
        held = (place for run in self.runs for place in (*run.waiting, *run.live.values()))
        in_use = {self.current, *(run.generation for run in self.runs), *(generation for generation, _ in held)}
        for one in in_use:
            self.generations[one] = ["-" if row == number else row for row in self.generations[one]]

    @rule(rows=st.lists(NUMBERS, max_size=5, unique=True))
    def new_generation(self, rows: list[str]) -> None:
        self.current = self.do(self.store.lists.replace(self.list, in_batches(rows))).generation
        self.generations[self.current] = list(rows)

    @rule(which=CAMPAIGNS)
    def reload(self, which: int) -> None:
        run = self.runs[which]
        if not run.running:
            return
        self.do(self.desk.command(run.campaign, Command.RELOAD))
        if run.generation != self.current:
            run.generation, run.cursor = self.current, 0

    @rule(which=CAMPAIGNS)
    def restart(self, which: int) -> None:
        """remove, then start: a new run from the beginning; live calls go on."""
        run = self.runs[which]
        self.do(self.desk.command(run.campaign, Command.REMOVE))
        self.do(self.desk.command(run.campaign, Command.START))
        earlier = run.earlier | set(run.live)
        self.runs[which] = Run(run.campaign, run.run + 1, generation=self.current, earlier=earlier)

    @rule()
    def housekeeping(self) -> None:
        self.do(self.store.lists.drop_old_generations())

    @rule(which=CAMPAIGNS, count=st.integers(1, 4), twice=TWICE)
    def read(self, which: int, count: int, twice: bool) -> None:
        run = self.runs[which]
        (place,) = self.do(self.desk.view(run.campaign)).lists
        assert (place.generation, place.cursor) == (run.generation, run.cursor)
        rows = self.do(self.store.reading.rows(self.list, place.generation, place.cursor, count))
        assert rows == self.generations[run.generation][run.cursor : run.cursor + count]
        contacts = [ReadRow(place.cursor + n, row) for n, row in enumerate(rows) if row != "-"]
        cursor = place.cursor + len(rows)
        for _ in range(2 if twice and rows else 1):
            self.do(self.store.reading.accept(run.campaign, run.run, place, rows=contacts, cursor=cursor))
        run.cursor = cursor
        run.read += len(contacts)
        for one in contacts:
            if one.identity not in run.seen:
                run.seen.add(one.identity)
                run.waiting[(run.generation, one.row)] = 0.0

    @rule(which=CAMPAIGNS, count=st.integers(1, 3), lines=st.integers(1, 4), twice=TWICE)
    def claim(self, which: int, count: int, lines: int, twice: bool) -> None:
        run = self.runs[which]
        candidates = self.do(self.desk.waiting(run.campaign, self.now))
        self.close_struck_out(run)
        requests = []
        for one in candidates[:count]:
            self.attempts += 1
            number = numbered(one.row)[0]
            attempt = AttemptId(f"a{self.attempts:06}")
            requests.append(ClaimRequest(attempt, one.due, number, number, "{}"))
        replies = [
            self.do(self.desk.send_claim(run.campaign, requests, now=self.now, max_channels=lines))
            for _ in range(2 if twice else 1)
        ]
        for request, outcome in zip(requests, replies[0].outcomes, strict=True):
            self.note_claimed(run, request, outcome.kind, len(run.live) + len(run.earlier) >= lines)
        assert [o.kind for o in replies[-1].outcomes if o.kind is ClaimKind.CLAIMED] == [
            o.kind for o in replies[0].outcomes if o.kind is ClaimKind.CLAIMED
        ]

    def close_struck_out(self, run: Run) -> None:
        """What the read-back found."""
        for place in [at for at, due in run.waiting.items() if due <= self.now]:
            if self.generations[place[0]][place[1]] == "-":
                del run.waiting[place]
                run.closed += 1

    def note_claimed(self, run: Run, request: ClaimRequest, kind: ClaimKind, full: bool) -> None:
        place = (request.due.contact.generation, request.due.contact.row)
        if full:
            assert kind is ClaimKind.FULL
        elif request.identity in self.numbers.values():
            assert kind is ClaimKind.NUMBER_BUSY
            run.waiting[place] = self.now + 10
        else:
            assert kind is ClaimKind.CLAIMED
            del run.waiting[place]
            run.live[request.attempt_id] = place
            self.numbers[request.attempt_id] = request.identity

    def any_live(self, data: st.DataObject) -> tuple[Run, AttemptId]:
        return data.draw(
            st.sampled_from([(run, one) for run in self.runs for one in [*run.live, *sorted(run.earlier)]])
        )

    def somebody_is_live(self) -> bool:
        return any(run.live or run.earlier for run in getattr(self, "runs", []))

    @precondition(somebody_is_live)
    @rule(data=st.data(), twice=TWICE)
    def mark_sent(self, data: st.DataObject, twice: bool) -> None:
        run, attempt = self.any_live(data)
        for _ in range(2 if twice else 1):
            reply = self.do(self.store.calls.mark_sent(attempt, owner=OWNER, now=self.now))
        if attempt not in run.earlier:
            assert reply.kind == "OK"
            self.sent.add(attempt)

    @precondition(somebody_is_live)
    @rule(data=st.data(), twice=TWICE)
    def connect(self, data: st.DataObject, twice: bool) -> None:
        _, attempt = self.any_live(data)
        for _ in range(2 if twice else 1):
            self.do(self.store.calls.progress(attempt, {"phase": "CONNECTED"}, now=self.now))
        self.served.add(attempt)
        self.sent.add(attempt)  # it is no more CLAIMED

    @precondition(somebody_is_live)
    @rule(data=st.data(), word=st.sampled_from(["SOLD", "LATER"]), twice=TWICE)
    def dispose(self, data: st.DataObject, word: str, twice: bool) -> None:
        _, attempt = self.any_live(data)
        for _ in range(2 if twice else 1):
            kind = self.do(self.store.calls.dispose(attempt, word, by="eva", now=self.now))
            assert kind is (DisposeKind.PENDING if attempt in self.served else DisposeKind.NO_AGENT)
        if attempt in self.served:
            self.said[attempt] = word

    @precondition(somebody_is_live)
    @rule(data=st.data(), step=st.sampled_from(["redial", "return", "close"]), twice=TWICE)
    def settle(self, data: st.DataObject, step: str, twice: bool) -> None:
        run, attempt = self.any_live(data)
        record = self.do(self.store.calls.read(attempt))
        assert record is not None
        place = record.due.contact
        counts = Counts(record.due.counts.redials + 1)
        steps: dict[str, Next] = {
            "redial": RedialAt(Due(place, counts), self.now + 5),
            "return": ReturnTo(Due(place, counts)),
            "close": Closed(),
        }
        settle, said = self.store.calls.settle, self.said.get(attempt)
        busy = {"status": "RS_BUSY"}
        if said is not None:
            assert self.do(settle(attempt, result=busy, next=steps[step], now=self.now)) is SettleKind.CHANGED
        for again in range(2 if twice else 1):
            done = self.do(settle(attempt, result=busy, next=steps[step], now=self.now, disposition=said))
            assert done is (SettleKind.GONE if again else SettleKind.DONE)
        self.forget(run, attempt, {"redial": self.now + 5, "return": 0.0, "close": None}[step])

    @precondition(somebody_is_live)
    @rule(data=st.data(), twice=TWICE)
    def release(self, data: st.DataObject, twice: bool) -> None:
        run, attempt = self.any_live(data)
        for _ in range(2 if twice else 1):
            self.do(self.store.calls.release(attempt, owner=OWNER))
        self.forget(run, attempt, 0.0)

    def forget(self, run: Run, attempt: AttemptId, waits: float | None) -> None:
        del self.numbers[attempt]
        self.sent.discard(attempt)
        self.served.discard(attempt)
        self.said.pop(attempt, None)
        if attempt in run.earlier:
            run.earlier.remove(attempt)
            return
        place = run.live.pop(attempt)
        if waits is None:
            run.closed += 1
        else:
            run.waiting[place] = waits

    @rule(twice=TWICE)
    def crash_and_recover(self, twice: bool) -> None:
        for _ in range(2 if twice else 1):
            found = self.do(
                self.store.calls.recover(OWNER, lease_seconds=30, dead_after_seconds=15, now=self.now)
            )
        assert {one.id for one in found.attempts} == self.sent
        for run in self.runs:
            for attempt in [*run.live, *run.earlier]:
                if attempt not in self.sent:
                    self.forget(run, attempt, 0.0)

    @rule(seconds=st.integers(1, 12))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def every_contact_is_exactly_one_thing(self) -> None:
        for run in getattr(self, "runs", []):
            view = self.do(self.desk.view(run.campaign, self.now))
            base = f"{{dialer}}:campaign:{run.campaign}"
            stands: list[str] = self.client.zrange(f"{base}:fresh", 0, -1)  # type: ignore[assignment]
            stands += self.client.zrange(f"{base}:due", 0, -1)  # type: ignore[arg-type]
            assert sorted(self.place(one) for one in stands) == sorted(run.waiting)
            assert (view.counts.closed, view.counts.read) == (run.closed, run.read)
            assert view.live == len(run.live) + len(run.earlier)
            assert view.served == len(self.served & {*run.live, *run.earlier})
            accepted = view.counts.read - view.counts.repeats - view.counts.refused
            assert accepted == len(run.seen) == view.fresh + view.due + len(run.live) + run.closed

    @staticmethod
    def place(member: str) -> tuple[int, int]:
        contact: Contact = Due.parse(member).contact
        return contact.generation, contact.row

    @invariant()
    def live_sets_are_the_attempts(self) -> None:
        expected = {one for run in getattr(self, "runs", []) for one in [*run.live, *run.earlier]}
        hashes = {str(key).rpartition(":")[2] for key in self.client.keys("{dialer}:attempt:*")}
        assert hashes == expected
        assert self.client.smembers(f"{{dialer}}:trunk:{TRUNK}:live") == expected
        assert set(self.client.zrange(f"{{dialer}}:daemon:{OWNER}:live", 0, -1)) == expected
        assert set(self.client.hvals("{dialer}:live-numbers")) == expected

    @invariant()
    def rows_of_waiting_contacts_are_kept(self) -> None:
        for run in getattr(self, "runs", []):
            for generation in {place[0] for place in run.waiting}:
                assert self.client.exists(f"{{dialer:list:{self.list}}}:rows:{generation}")


def test_any_order_of_verbs(shared_redis: RealRedis) -> None:
    class Machine(StoreMachine):
        server = shared_redis

    Machine.TestCase.settings = settings(
        max_examples=1000 if LONG else 60,
        stateful_step_count=100 if LONG else 40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=list(Phase) if LONG else [Phase.reuse, Phase.generate],  # shrinking takes minutes
    )
    Machine.TestCase("runTest").debug()


test_any_order_of_verbs = pytest.mark.timeout(3600 if LONG else 60)(test_any_order_of_verbs)
