"""The faults, one function each; every one ends with the ledger's verdict on everybody's calls."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from dialer_engine.engine.recovery import DEAD_AFTER_SECONDS
from tests.chaos.callees import PBX_LOST, WAIT, talkers
from tests.chaos.ledger import WIRE_SECONDS, Ledger, Verdict, spread
from tests.chaos.place import Gap, Place, logged_at, place, twin
from tests.simulated import AnyLab, SimulatedLab

UNHEARD_SECONDS = 60.0
"""An answered call whose end nobody told is asked about so often (core/call.py, CHECK_SECONDS)."""
AIMED = 0.35
"""The share of kills that wait, after their random moment, for a write the daemon waits for itself just then."""
# claim, mark_sent, the hang-up of a flow, settle, recover
AIMS = ("phase CLAIMED", "phase SENT", '"end":"completed"', ":results *", "daemons -inf")


def kills(lab: AnyLab, seed: int, count: int = 200, *, contacts: int = 300, longest: bool = True) -> Verdict:
    """kill -9 of the daemon at random moments, at once or after a pause started again.

    A campaign of so many contacts is begun whenever the last one comes to its end; without the longest calls the
    whole ends sooner.
    """
    verdict = Verdict(f"kill -9 of the daemon, {count} times", seed)
    with place(lab, seed, proxied=False) as here:
        if not longest:
            here.crowd.weights = {**here.crowd.weights, "rings out": 0}
        idle = here.rig.campaign(None, whenDone="wait", callLists=[])
        for n in range(count):
            _a_life(here, n, idle, contacts)
        here.rig.begin(here.waiting())
        here.run_out()
        _of_kills(here, Ledger(here), verdict)
    return verdict


def unreliable(lab: AnyLab, seed: int, count: int = 15) -> Verdict:
    """Events are lost, doubled and delayed, so that they overtake each other, and every few seconds a kill -9.

    A TCP connection does none of this; a fault in Asterisk's filters or in ours would. What is lost may cost a key or
    an outcome, never a second call to somebody, a contact or a slot.
    """
    verdict = Verdict(f"unreliable events, and kill -9 of the daemon, {count} times", seed)
    if not isinstance(lab, SimulatedLab):
        verdict.figures["not run"] = "a real Asterisk loses no events (--simulated)"
        return verdict
    with place(lab, seed, proxied=False) as here:
        lab.spoil(events_lost=0.05, events_doubled=0.1, events_delayed=0.1, delay_seconds=1.0)
        idle = here.rig.campaign(None, whenDone="wait", callLists=[])
        for n in range(count):
            _a_life(here, n, idle, 300, longer=here.dice.uniform(3.0, 9.0))
        here.rig.begin(here.waiting())
        here.run_out(UNHEARD_SECONDS + 90)
        lab.spoil(events_lost=0, events_doubled=0, events_delayed=0)
        ledger = Ledger(here, lab.spoilt())
        _of_kills(here, ledger, verdict)
        spoilt = Counter(one.what for one in lab.spoilt())
        verdict.figures["events spoilt"] = dict(spoilt.most_common())
    return verdict


def _a_life(here: Place, n: int, idle: int, contacts: int, *, longer: float = 0.0) -> None:
    """The daemon begins, lives a while and is killed; the `n`-th. `idle` is a campaign without anybody to call."""
    dice, speed = here.dice, here.lab.speed
    here.rig.begin(here.feed(contacts))
    _live_a_while(here)
    time.sleep(longer)
    if dice.random() < AIMED:
        here.wait_for_write(dice.choice(AIMS), patience=2.0 / speed)
    here.look_at_the_dead(here.rig.murder())
    if dice.random() < 0.3:  # orders given while nobody is there must not get in the way of recovery
        for order in ("pause", "unpause"):
            here.rig.command(idle, order)
    if dice.random() < 0.4:
        time.sleep(dice.uniform(0.0, 4.0 / speed if n % 10 else 9.0))


def _live_a_while(here: Place) -> None:
    """Some lives end before they are connected, most amid the first calls."""
    dice, life, speed = here.dice, here.rig.lives[-1], here.lab.speed
    if dice.random() < 0.12:
        time.sleep(dice.uniform(0.05, 1.5))
        return
    here.rig.until(lambda: here.rig.is_connected(life), 30, "the daemon is connected")
    long = dice.random() >= 0.85
    time.sleep((dice.uniform(2.2, 5.0) if long else dice.uniform(0.0, 2.2)) / speed)


def _of_kills(here: Place, ledger: Ledger, verdict: Verdict) -> None:
    ledger.audit(verdict)
    ledger.restarts(verdict)
    verdict.figures["calls met by kills"] = dict(here.phases.most_common())
    verdict.figures["kills that met such a call"] = dict(here.met.most_common())
    orders = here.rig.redis.llen(here.rig.key("commands"))
    verdict.expect(not orders, f"{orders} orders were not obeyed")


def redis_killed(lab: AnyLab, seed: int, count: int = 5) -> Verdict:
    """kill -9 of redis-server under load. It writes to its file before it answers, so nothing acknowledged may go."""
    verdict = Verdict(f"kill -9 of Redis, {count} times", seed)
    with place(lab, seed, proxied=False, redis_options=ALWAYS) as here:
        _load(here)
        resumed = []
        for _ in range(count):
            time.sleep(here.dice.uniform(2.0, 5.0))
            began = time.time()
            here.rig.kill_redis()
            time.sleep(here.dice.uniform(0.1, 6.0))
            here.rig.start_redis(*ALWAYS)
            resumed.append(_resumed(here, time.time()))
            here.faults.append(Gap(began, time.time(), "redis"))
            here.feed()
        here.run_out()
        Ledger(here).audit(verdict)
        verdict.figures["Redis answers to the next INVITE"] = spread(resumed)
    return verdict


def redis_refuses(lab: AnyLab, seed: int) -> Verdict:
    """Redis full, then read-only: nothing new while it lasts, nothing lost, and on it goes."""
    verdict = Verdict("Redis full, and Redis read-only", seed)
    with place(lab, seed, proxied=False, redis_options=ALWAYS) as here:
        redis = here.rig.redis
        for name, spoil, mend in (
            ("full", lambda: redis.config_set("maxmemory", 1), lambda: redis.config_set("maxmemory", 0)),
            ("read-only", lambda: redis.replicaof("127.0.0.1", 1), lambda: redis.replicaof("NO", "ONE")),
        ):
            _load(here)
            time.sleep(3)
            began = time.time()
            spoil()
            time.sleep(here.dice.uniform(6.0, 9.0))
            mended = time.time()
            mend()
            resumed = _resumed(here, mended)
            here.faults.append(Gap(began, time.time(), "redis"))
            new = [call for call in here.world() if began + WIRE_SECONDS < call.invited_at < mended]
            verdict.expect(not new, f"{len(new)} INVITEs while Redis was {name}")
            verdict.figures[f"{name}: INVITEs meanwhile, seconds to the next"] = f"{len(new)}, {resumed:.2f}"
        here.run_out()
        Ledger(here).audit(verdict)
    return verdict


def asterisk_killed(lab: AnyLab, seed: int, count: int = 3) -> Verdict:
    """kill -9 of the PBX under load: its calls are lost, those that talked are not rung again."""
    verdict = Verdict(f"kill -9 of Asterisk, {count} times", seed)
    with place(lab, seed, proxied=False) as here:
        _load(here)
        resumed = []
        for _ in range(count):
            time.sleep(here.dice.uniform(4.0, 7.0))
            began = time.time()
            lab.pbx.kill()
            time.sleep(here.dice.uniform(0.0, 4.0))
            lab.pbx.start()
            lab.callees_hang_up()
            gap = here.fault("pbx", began)
            resumed.append(_resumed(here, gap.ended_at))
            here.feed()
        here.run_out()
        ledger = Ledger(here)
        ledger.audit(verdict)
        answered = [
            result.outcome == PBX_LOST or result.outcome == here.crowd.callees[result.number].outcome
            for result, call in ledger.pairs
            if call is not None
            and call.answered_at is not None
            and any(
                call.answered_at < gap.began_at - WIRE_SECONDS < gap.began_at < (call.ended_at or gap.ended_at)
                for gap in here.faults
            )
        ]
        verdict.figures["answered calls that the PBX lost: PBX_LOST, or their flow was through"] = (
            f"{sum(answered)} of {len(answered)}"
        )
        verdict.expect(all(answered), "answered calls that the PBX lost came to something else")
        verdict.figures["connected to the next INVITE"] = spread(resumed)
    return verdict


def events_cut(lab: AnyLab, seed: int, count: int = 8) -> Verdict:
    """The event socket is closed, and for a while no other can be had."""

    def fault(here: Place) -> None:
        here.proxy.set("cut", only_events=here.dice.random() < 0.5)
        time.sleep(here.dice.uniform(0.0, 4.0))

    return _wire(lab, Verdict(f"event socket cut, {count} times", seed), "cut", fault, count)


def events_half_open(lab: AnyLab, seed: int, count: int = 2) -> Verdict:
    """The peer has gone without a word: what is sent is taken by nobody, and arrives when he is back."""

    def fault(here: Place) -> None:
        here.proxy.set("hold", only_events=here.dice.random() < 0.5)
        time.sleep(here.dice.uniform(8.0, 26.0))

    return _wire(lab, Verdict(f"half-open wire, {count} times", seed), "half-open", fault, count)


def events_slow(lab: AnyLab, seed: int, count: int = 2) -> Verdict:
    """A reader who is slow: every piece of what Asterisk tells comes late."""

    def fault(here: Place) -> None:
        here.proxy.set("slow", delay=here.dice.uniform(0.3, 1.0), only_events=True)
        time.sleep(here.dice.uniform(8.0, 12.0))

    return _wire(lab, Verdict(f"slow event socket, {count} times", seed), "slow", fault, count)


def _wire(lab: AnyLab, verdict: Verdict, kind: str, fault: Callable[[Place], None], count: int) -> Verdict:
    with place(lab, verdict.seed) as here:
        _load(here)
        resumed = []
        for _ in range(count):
            time.sleep(here.dice.uniform(3.0, 5.0))
            began = time.time()
            fault(here)
            here.proxy.set("pass")
            lost = any(logged_at(line) > began for line in here.rig.logged("asterisk lost"))
            gap = here.fault(kind, began, until_connected=lost)
            resumed.append(_resumed(here, gap.ended_at))
            here.feed()
        here.run_out()
        Ledger(here).audit(verdict)
        verdict.figures["connected to the next INVITE"] = spread(resumed)
    return verdict


def takeover(lab: AnyLab, seed: int) -> Verdict:
    """Two daemons share a campaign and one is killed: the other one takes its calls when heartbeat and leases are dead.

    The leases are constants of the engine (120 s), so the test makes them and the heartbeat old in Redis.
    """
    verdict = Verdict("one of two daemons killed", seed)
    with place(lab, seed, proxied=False) as here, twin(here.rig) as other:
        here.rig.begin()
        other.begin()
        time.sleep(
            DEAD_AFTER_SECONDS + 3
        )  # who has just come leaves the others the time to tell that they live
        here.campaign(talkers(here.dice, 40, talk=min(40 * lab.speed, 99)), flow=WAIT, callsPerSecond=8)
        here.rig.until(lambda: len(here.world()) == 40, 20, "all are rung")
        time.sleep(2.5)
        theirs = {name: len(_owned(here, name)) for name in ("rig", "twin")}
        killed = here.rig.murder()
        _age(here, "rig")
        here.rig.until(lambda: not _owned(here, "rig"), 30, "the twin has taken over")
        verdict.figures["calls of the killed one, of the twin"] = f"{theirs['rig']}, {theirs['twin']}"
        verdict.figures["seconds until taken over"] = f"{time.time() - killed:.1f}"
        here.run_out()
        ledger = Ledger(here)
        ledger.audit(verdict)
        good = sum(result.outcome == ("TERMINATED", "HANGUP") for result, _ in ledger.pairs)
        verdict.figures["as if nothing had been"] = f"{good} of {len(ledger.pairs)}"
        verdict.expect(good == len(ledger.pairs), "calls were not followed to their end by the twin")
        verdict.expect(theirs["rig"] > 0, "the killed one had no calls")
    return verdict


def frozen(lab: AnyLab, seed: int) -> Verdict:
    """SIGSTOP of a daemon for longer than its leases, while a twin takes over; then SIGCONT: it must not interfere."""
    verdict = Verdict("a daemon frozen beyond its leases", seed)
    with place(lab, seed, proxied=False) as here, twin(here.rig) as other:
        here.campaign(here.crowd.more(200), callsPerSecond=10)
        here.rig.begin()
        other.begin()
        here.rig.until(lambda: len(here.world()) > 40, 20, "both dial")
        frozen_at = time.time()
        here.rig.stop_cont(stop=True)
        theirs = _owned(here, "rig")
        _age(here, "rig")
        here.rig.until(lambda: not _owned(here, "rig"), 30, "the twin has taken over")
        taken = len(theirs & _owned(here, "twin"))
        thawed_at = time.time()
        here.rig.stop_cont(stop=False)
        here.faults.append(Gap(frozen_at, thawed_at, "frozen"))
        here.run_out()
        ledger = Ledger(here)
        ledger.audit(verdict)
        verdict.figures["calls when frozen, still up when taken over"] = f"{len(theirs)}, {taken}"
        second = [
            line
            for line in here.rig.logged("settled")
            if logged_at(line) > thawed_at and line["attempt"] in theirs
        ]
        late = sum(line["first"] for line in second)
        verdict.figures["of these settled by the thawed one"] = late
        verdict.expect(not late, "the thawed daemon settled what was not its own")
    return verdict


ALWAYS = ("--appendfsync", "always")


def _load(here: Place) -> None:
    """Calls under way in every phase."""
    here.feed()
    if not here.rig.lives:
        here.rig.begin()
    rung = len(here.world())
    here.rig.until(lambda: len(here.world()) > rung + 40, 30, "the load is on")


def _resumed(here: Place, since: float) -> float:
    """How long it took from then to the next INVITE."""
    here.rig.until(
        lambda: any(call.invited_at > since for call in here.world()) or not here.waiting(),
        30,
        "it dials again",
    )
    return max(
        0.0, min((call.invited_at for call in here.world() if call.invited_at > since), default=since) - since
    )


def _owned(here: Place, name: str) -> set[str]:
    attempts: Any = here.rig.redis.zrange(here.rig.key(f"daemon:{name}:live"), 0, -1)
    return set(attempts)


def _age(here: Place, name: str) -> None:
    """As if this daemon had been silent for longer than heartbeat and leases last."""
    past = time.time() - 1000
    owned = _owned(here, name)
    if owned:
        here.rig.redis.zadd(here.rig.key(f"daemon:{name}:live"), dict.fromkeys(owned, past))
    here.rig.redis.zadd(here.rig.key("daemons"), {name: past})


SCENARIOS: dict[str, Callable[[AnyLab, int], Verdict]] = {
    "kills": kills,
    "redis-killed": redis_killed,
    "redis-refuses": redis_refuses,
    "asterisk-killed": asterisk_killed,
    "events-cut": events_cut,
    "half-open": events_half_open,
    "slow": events_slow,
    "takeover": takeover,
    "frozen": frozen,
    "unreliable": unreliable,
}
