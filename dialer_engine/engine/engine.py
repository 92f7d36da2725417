"""The engine: recover, then for ever look, plan, claim, follow; at the end, drain.

It is the only writer of live state. Events never change a plan, they only wake the loop. Attempts fail alone and
are settled by `_ended` however they came to their end; the root tasks of `run` fail together and end the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from dialer_engine import log
from dialer_engine.ari import AriEvent, AriState
from dialer_engine.core.call import Phase
from dialer_engine.core.compliance import NumberPolicy, normalise
from dialer_engine.core.model import AttemptId, CampaignId, Trunk, TrunkName
from dialer_engine.core.pacing import Plan
from dialer_engine.core.told import Disposed, Told
from dialer_engine.engine.attempt import Attempt, Pbx, Verdict
from dialer_engine.engine.attendant import Attendant
from dialer_engine.engine.board import Board
from dialer_engine.engine.desk import Agents, Desk, NoAgents
from dialer_engine.engine.driver import ASK_AGAIN_SECONDS, Driver
from dialer_engine.engine.following import Follower
from dialer_engine.engine.hearing import Listener
from dialer_engine.engine.lanes import Lane, Pace
from dialer_engine.engine.passes import LEASE_SECONDS, Planner
from dialer_engine.engine.recovery import Recovery
from dialer_engine.engine.settling import Settler
from dialer_engine.engine.supply import Supply
from dialer_engine.errors import Rejected, Unavailable
from dialer_engine.metrics import Metrics
from dialer_engine.store import Store

TICK_SECONDS = 0.5
"""A pass runs at least so often, whatever is heard."""
FLOOR_SECONDS = 0.02
"""And at most so often: a burst of events is one reason to look."""
HEARTBEAT_SECONDS = 1.0
CLOCK_TOLERANCE_SECONDS = 2.0
"""A daemon whose clock is further off Redis' claims nothing (spec section 8)."""
EXTEND_SECONDS = 20.0
RECOVER_SECONDS = 15.0
LAST_WRITES_SECONDS = 5.0

_log = log.get("engine")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the engine is told by the configuration."""

    owner: str
    trunks: Mapping[TrunkName, Trunk]
    default_trunk: TrunkName
    numbers: NumberPolicy
    app: str = "dialer"
    queue_context: str = "dialer-queue"


class Engine:
    """One daemon's dialing. `connect` makes the PBX port, given where to hand events and changes of connection;
    `watch` the view of queues and agents, given where to hand what is told and that anything has changed."""

    def __init__(
        self,
        settings: EngineSettings,
        store: Store,
        connect: Callable[[Callable[[AriEvent], None], Callable[[AriState], None]], Pbx],
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], AttemptId],
        metrics: Metrics,
        watch: Callable[[Callable[[Told | Disposed], None], Callable[[], None]], Agents] | None = None,
    ) -> None:
        self._owner = settings.owner
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self.pbx = pbx = connect(self._hear, self._hear_state)
        self._numbers = settings.numbers
        self.last_pass_at = 0.0
        owner = settings.owner
        lanes = {name: Lane(trunk, Pace(trunk.calls_per_second)) for name, trunk in settings.trunks.items()}
        self._board = board = Board(lanes, metrics)
        agents = watch(self._hear_queue, self._hear_queues_changed) if watch else NoAgents()
        desk = Desk(agents, board, clock)
        self._driver = Driver(
            store,
            pbx,
            desk,
            owner,
            app=settings.app,
            queue_context=settings.queue_context,
            policy=settings.numbers,
            clock=clock,
            halted=board.is_halted,
            sent=board.pbx_takes,
            unsent=board.pbx_refuses,
        )
        self._attendant = Attendant(store, board, desk, self._driver, clock, self._errand)
        self._settler = Settler(store, pbx, board, desk, owner, clock, metrics)
        self._planner = Planner(store, board, desk, owner, clock, new_id, self._start, metrics)
        self._recovery = Recovery(store, board, owner, clock, self._start)
        self._listener = Listener(
            pbx, board, self._attendant, self._driver, self._recovery, clock, metrics, self._errand
        )
        self._follower = Follower(
            store,
            board,
            owner,
            settings.default_trunk,
            lambda number: normalise(number, self._numbers),
            clock,
            metrics,
        )
        self._driving: dict[AttemptId, asyncio.Task[None]] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self._drain = asyncio.Event()
        self._drain_until: float | None = None
        self._patience: asyncio.Timeout | None = None

    # --- what others may ask ---

    @property
    def plans(self) -> Mapping[CampaignId, Plan]:
        """The last decision for each running campaign."""
        return {campaign: line.plan for campaign, line in self._board.lines.items() if line.plan}

    @property
    def live(self) -> int:
        """Attempts of this daemon, claimed and not settled."""
        return len(self._board.attempts)

    def why_not_ready(self) -> str | None:
        """Why nothing new may be dialed by this daemon, in a sentence; None when it may."""
        board = self._board
        if board.draining:
            return "draining: no new calls are started"
        if board.store_trouble is not None:
            return f"Redis: {board.store_trouble}"
        if not board.pbx_up:
            return f"Asterisk: {getattr(self.pbx.state, 'reason', 'not connected')}"
        if asyncio.get_running_loop().time() < board.pbx_refuses_until:
            return f"Asterisk takes no originates: {board.refusal}"
        return None

    def wake(self) -> None:
        """Something in Redis may have changed: look sooner."""
        self._board.look.set()

    def take(self, settings: EngineSettings) -> None:
        """Go on with these trunks and number rules; calls under way keep the ones they were claimed with."""
        self._numbers = self._driver.policy = settings.numbers
        self._follower.default_trunk = settings.default_trunk
        lanes = self._board.lanes
        for name, trunk in settings.trunks.items():
            if name in lanes:
                lanes[name].trunk, lanes[name].pace.rate = trunk, trunk.calls_per_second
            else:
                lanes[name] = Lane(trunk, Pace(trunk.calls_per_second))
        for name in lanes.keys() - settings.trunks.keys():
            del lanes[name]
            self._metrics.drop_trunk(name)
        self._board.look.set()

    async def audit(self) -> None:
        """Ask Asterisk about every call that has been quiet for long."""
        self._errand(self._listener.ask_about_the_quiet())

    # --- the life of the daemon ---

    async def run(self) -> None:
        """Until drained. Whatever a root task raises ends the others, and this."""
        self.last_pass_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.TaskGroup() as roots:
                tasks = [
                    roots.create_task(root)
                    for root in (
                        self._keep_alive(),
                        self._follower.run(),
                        self._pass_for_ever(),
                        self._tend(),
                    )
                ]
                await self._drained()
                for task in tasks:
                    task.cancel()
        finally:
            # Also when another root task has failed: live calls are left to the next start, never hung up.
            await self._leave()

    def drain(self, seconds: float | None) -> None:
        """No new calls from now on; `run` ends with the last live one, or after so long (None: never before).

        What lives then is left to the next start, which adopts it. Called again, the new time counts from now.
        """
        self._board.draining = True
        self._drain_until = None if seconds is None else asyncio.get_running_loop().time() + seconds
        if self._patience is not None:
            self._patience.reschedule(self._drain_until)
        self._board.wake.set()
        self._drain.set()
        _log.info("draining", live=self.live, seconds=seconds)

    async def _drained(self) -> None:
        await self._drain.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._drain_until) as self._patience:
                while not self._board.is_idle:  # a claim that ends may begin attempts
                    await self._board.idle.wait()
        self._patience = None

    async def _leave(self) -> None:
        """Let go of what lives; results of what has ended are still written, if Redis takes them now."""
        for attempt in self._board.attempts.values():
            if not attempt.call.ended and attempt.call.phase is not Phase.CLAIMED:
                attempt.verdict = Verdict.LEAVE
        self._board.leaving.set()
        left = list(self._driving.values())
        for task in left:
            task.cancel()
        _log.info("leaving", calls=len(left))
        await asyncio.gather(*left, return_exceptions=True)
        pending = [errand for errand in self._errands if not errand.done()]
        if pending:
            await asyncio.wait(pending, timeout=LAST_WRITES_SECONDS)

    async def _pass_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # Cleared before the truth is read: what is told during the pass causes another one.
            self._board.wake.clear()
            began = loop.time()
            await self._planner.run_pass()
            self._refill()
            self.last_pass_at = loop.time()
            took = self.last_pass_at - began
            self._metrics.passed(took, overrun=took > TICK_SECONDS)
            await asyncio.sleep(max(0.0, FLOOR_SECONDS - took))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._board.wake.wait()

    def _pause(self) -> float:
        """Until the first instant at which a plan says that its limit may be gone, the tick at most.

        A pass that started calls is followed by another: only that one knows when the next token comes.
        """
        now = self._clock()
        plans = [line.plan for line in self._board.lines.values() if line.plan]
        if any(plan.originate for plan in plans):
            return 0.0
        instants = [plan.next_at for plan in plans if plan.next_at]
        return min([TICK_SECONDS, *(max(0.0, (at - now).total_seconds()) for at in instants)])

    def _refill(self) -> None:
        if self._board.store_trouble is not None:
            return
        for line in self._board.lines.values():
            if line.supply.wants_refill():
                line.supply.refilling = True
                self._errand(self._refill_one(line.supply))

    async def _refill_one(self, supply: Supply) -> None:
        try:
            await supply.refill()
        except Unavailable as exc:
            self._board.trouble(exc.reason)
        except Rejected as exc:
            _log.error("rows cannot be read", reason=str(exc))  # the tick tries again
            return
        self._board.wake.set()

    async def _keep_alive(self) -> None:
        """Heartbeats, leases, the clock, and attempts of ours that nobody drives."""
        due: dict[Callable[[], Coroutine[None, None, None]], tuple[float, float]] = {
            self._recovery.run: (RECOVER_SECONDS, 0.0),  # before the heartbeat, which lets the dialing begin
            self._beat: (HEARTBEAT_SECONDS, 0.0),
            self._extend: (EXTEND_SECONDS, 0.0),
        }
        loop = asyncio.get_running_loop()
        while True:
            try:
                for act, (every, at) in due.items():
                    if loop.time() >= at or (act == self._recovery.run and self._board.strays):
                        await act()
                        due[act] = every, loop.time() + every
            except (Unavailable, Rejected) as exc:
                self._board.trouble(str(exc))
                self._metrics.port("redis", up=False)
            await asyncio.sleep(HEARTBEAT_SECONDS / 4)

    async def _beat(self) -> None:
        offset = await self._store.clock_offset_seconds(lambda: self._clock().timestamp())
        now = self._clock().timestamp() - offset
        self._board.scales.alone = await self._store.calls.heartbeat(self._owner, now=now) == 1
        self._recovery.take_beat(now)
        if abs(offset) > CLOCK_TOLERANCE_SECONDS:
            self._board.store_trouble = f"this host's clock is {offset:+.1f} s off Redis': set it right"
        elif not self._board.strays:
            self._redis_is_back()

    def _redis_is_back(self) -> None:
        if self._board.store_trouble is not None:
            self._board.store_trouble = None
            self._board.look.set()
            self._board.wake.set()
        self._metrics.port("redis", up=True)

    async def _tend(self) -> None:
        """Who got an agent without our being told is found, and what nobody would hear answer is cut."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._attendant.tend()
            await self._listener.cut_the_unheard()

    async def _extend(self) -> None:
        """Keep what is ours; let go of what another daemon has taken over while we were frozen or cut off."""
        deadline = await self._store.time() + LEASE_SECONDS
        lost = await self._store.calls.extend(self._owner, list(self._board.attempts), deadline=deadline)
        for attempt_id in lost:
            task = self._driving.get(attempt_id)
            if task is not None:  # without one it is being settled just now
                self._board.attempts[attempt_id].verdict = Verdict.LEAVE
                task.cancel()
                _log.warning("taken over by another daemon", attempt=attempt_id)

    # --- what the ports say: they are made before those who hear them ---

    def _hear(self, event: AriEvent) -> None:
        self._listener.hear(event)

    def _hear_state(self, state: AriState) -> None:
        self._listener.hear_state(state)

    def _hear_queue(self, told: Told | Disposed) -> None:
        self._attendant.hear(told)

    def _hear_queues_changed(self) -> None:
        self._attendant.hear_change()

    # --- tasks and their owner ---

    def _start(self, attempt: Attempt) -> None:
        """The attempt is on the board already; its task's end, even before its first step, settles it."""
        attempt.watch = self._watch
        task = asyncio.create_task(self._driver.drive(attempt), name=f"attempt {attempt.id}")
        self._driving[attempt.id] = task
        task.add_done_callback(lambda done: self._ended(attempt, done))

    def _watch(self, attempt: Attempt) -> None:
        self._board.weigh(attempt)
        if attempt.call.was_connected and not attempt.announced:
            attempt.announced = True
            self._errand(self._driver.announce(attempt))

    def _ended(self, attempt: Attempt, done: asyncio.Task[None]) -> None:
        del self._driving[attempt.id]
        error = None if done.cancelled() else done.exception()
        known = isinstance(error, Unavailable | Rejected)
        if attempt.call.phase is Phase.CLAIMED and attempt.verdict is Verdict.SETTLE and (not error or known):
            attempt.verdict = Verdict.RELEASE  # nothing was sent
        if error is not None:
            _log.error(
                "attempt failed", attempt=attempt.id, reason=str(error), exc_info=None if known else error
            )
            if isinstance(error, Rejected) or (isinstance(error, Unavailable) and error.port == "redis"):
                self._board.trouble(str(error))
        if attempt.call.is_away and attempt.verdict is Verdict.SETTLE:
            self._errand(self._follow_again(attempt))
        else:
            self._errand(self._settler.end(attempt))

    async def _follow_again(self, attempt: Attempt) -> None:
        """Its task has failed, but the call is with a queue or an agent: it goes on, and so does its attempt."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ASK_AGAIN_SECONDS):
                await self._board.leaving.wait()
        if attempt.verdict is Verdict.SETTLE:
            attempt.adopted = True
            self._start(attempt)
        else:
            await self._settler.end(attempt)

    def _errand(self, errand: Coroutine[None, None, None]) -> None:
        """A short task of the engine's own; it is kept until it is done, and its failure is told."""
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errand_done)

    def _errand_done(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("errand failed", exc_info=error)
