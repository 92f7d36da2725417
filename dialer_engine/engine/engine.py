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
from dialer_engine.ari import AriEvent, AriState, Connected, Dial, NotSent, StasisStart
from dialer_engine.core.call import Event, Phase
from dialer_engine.core.compliance import NumberPolicy, normalise
from dialer_engine.core.model import AttemptId, CampaignId, Trunk, TrunkName
from dialer_engine.core.pacing import Plan
from dialer_engine.core.told import Disposed, Told
from dialer_engine.engine.attempt import Attempt, Pbx, Verdict
from dialer_engine.engine.attendant import Attendant
from dialer_engine.engine.board import Board
from dialer_engine.engine.desk import Agents, Desk, NoAgents
from dialer_engine.engine.driver import ASK_AGAIN_SECONDS, OUR_APP, Driver
from dialer_engine.engine.following import Follower
from dialer_engine.engine.lanes import Lane, Pace
from dialer_engine.engine.passes import LEASE_SECONDS, Planner
from dialer_engine.engine.recovery import Recovery
from dialer_engine.engine.settling import Settler
from dialer_engine.engine.supply import Supply
from dialer_engine.errors import NotFound, Rejected, Unavailable
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
DEAD_AFTER_SECONDS = 30.0
"""A daemon whose heartbeat is older is dead; its attempts are taken over when their leases have run out, too."""
RUNG_ENOUGH_SECONDS = 15.0
"""While no events come, lines that have rung so long are cut: nobody would hear them answer. Never sooner."""
QUIET_SECONDS = 3.0
"""The audit asks about calls of which nothing has been heard for so long."""
FIRST_REFUSAL_SECONDS = 1.0
LONGEST_REFUSAL_SECONDS = 10.0
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
        self.pbx = pbx = connect(self.hear, self.hear_state)
        self._numbers = settings.numbers
        self.last_pass_at = 0.0
        owner = settings.owner
        lanes = {name: Lane(trunk, Pace(trunk.calls_per_second)) for name, trunk in settings.trunks.items()}
        self._board = board = Board(lanes, metrics)
        agents = watch(self.hear_queue, self.hear_queues_changed) if watch else NoAgents()
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
            sent=self._sent,
            unsent=self._unsent,
        )
        self._attendant = Attendant(store, board, desk, self._driver, clock, self._errand)
        self._settler = Settler(store, pbx, board, desk, owner, clock, metrics)
        self._planner = Planner(store, board, desk, owner, clock, new_id, self._start, metrics)
        self._recovery = Recovery(store, board, owner, clock, self._start)
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
        self._recovering = asyncio.Lock()
        self._refusal_seconds = FIRST_REFUSAL_SECONDS
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
        return None if board.pbx_up else f"Asterisk: {getattr(self.pbx.state, 'reason', 'not connected')}"

    def hear_queue(self, told: Told | Disposed) -> None:
        """AMI tells of a caller, or of what an agent says of a call."""
        self._attendant.hear(told)

    def hear_queues_changed(self) -> None:
        """AMI has anything new."""
        self._attendant.hear_change()

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
        self._board.look.set()

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
                        self._outages(),
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
        now = self._clock().timestamp()
        if self._board.store_trouble is not None:
            return
        for line in self._board.lines.values():
            if line.supply.wants_refill(now):
                line.supply.refilling = True
                self._errand(self._refill_one(line.supply, now))

    async def _refill_one(self, supply: Supply, now: float) -> None:
        try:
            await supply.refill(now)
        except Unavailable as exc:
            self._board.trouble(exc.reason)
        except Rejected as exc:
            _log.error("rows cannot be read", reason=str(exc))  # the tick tries again
            return
        self._board.wake.set()

    async def _keep_alive(self) -> None:
        """Heartbeats, leases, the clock, and attempts of ours that nobody drives."""
        due: dict[Callable[[], Coroutine[None, None, None]], tuple[float, float]] = {
            self._recover: (RECOVER_SECONDS, 0.0),  # before the heartbeat, which lets the dialing begin
            self._beat: (HEARTBEAT_SECONDS, 0.0),
            self._extend: (EXTEND_SECONDS, 0.0),
        }
        loop = asyncio.get_running_loop()
        while True:
            try:
                for act, (every, at) in due.items():
                    if loop.time() >= at or (act == self._recover and self._board.strays):
                        await act()
                        due[act] = every, loop.time() + every
            except (Unavailable, Rejected) as exc:
                self._board.trouble(str(exc))
                self._metrics.port("redis", up=False)
            await asyncio.sleep(HEARTBEAT_SECONDS / 4)

    async def _beat(self) -> None:
        now = self._clock().timestamp()
        self._board.scales.alone = await self._store.calls.heartbeat(self._owner, now=now) == 1
        offset = await self._store.clock_offset_seconds(lambda: self._clock().timestamp())
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

    async def audit(self) -> None:
        """Ask Asterisk about every call that has been quiet for long: no event may be lost for good."""
        self._errand(self._ask_about_the_quiet())

    async def _ask_about_the_quiet(self) -> None:
        """One after the other: the connections are the originates' own."""
        quiet_since = asyncio.get_running_loop().time() - QUIET_SECONDS
        for attempt in list(self._board.attempts.values()):
            if self._board.pbx_up and attempt.heard_at < quiet_since and _is_out(attempt):
                await self._driver.look(attempt)

    async def _extend(self) -> None:
        """Keep what is ours; let go of what another daemon has taken over while we were frozen or cut off."""
        deadline = self._clock().timestamp() + LEASE_SECONDS
        lost = await self._store.calls.extend(self._owner, list(self._board.attempts), deadline=deadline)
        for attempt_id in lost:
            task = self._driving.get(attempt_id)
            if task is not None:  # without one it is being settled just now
                self._board.attempts[attempt_id].verdict = Verdict.LEAVE
                task.cancel()
                _log.warning("taken over by another daemon", attempt=attempt_id)

    async def _recover(self) -> None:
        """Only when all of ours are accounted for may anything new be dialed.

        Not before the campaigns have been read: a call adopted without its flow is hung up.
        """
        await self._board.looked.wait()
        async with self._recovering:  # at a start the strays ask for it as well: the second finds nothing left
            # Cleared before they are read: a claim whose reply is lost meanwhile makes a further stray.
            self._board.strays = False
            try:
                await self._recovery.run(lease_seconds=LEASE_SECONDS, dead_after_seconds=DEAD_AFTER_SECONDS)
            except BaseException:
                self._board.strays = True
                raise

    # --- what Asterisk says ---

    def hear(self, event: AriEvent) -> None:
        """In the order of the wire, and into the facts at once."""
        if isinstance(event, Dial) and (caller := self._board.attempts.get(AttemptId(event.caller_channel_id))):
            self._attendant.hear_agents_leg(caller, event)
            return
        attempt = self._board.channels.get(event.channel_id) or self._far_side(event)
        if attempt is None:
            if isinstance(event, StasisStart):
                self._errand(self._stray(event.channel_id))
            return
        illegal = attempt.call.illegal
        attempt.heard_at = asyncio.get_running_loop().time()
        attempt.hear(event, self._clock())
        if attempt.call.illegal > illegal:
            self._metrics.illegal_event()
        self._hear_trunk(attempt)

    def _far_side(self, event: AriEvent) -> Attempt | None:
        """A leg dialed by the far half of a Local/ channel is told under its caller."""
        caller = event.caller_channel_id if isinstance(event, Dial) else ""
        attempt = self._board.channels.get(caller) if caller else None
        if attempt is None or caller != attempt.far_id:
            return None
        self._board.follow_leg(event.channel_id, attempt)
        return attempt

    def _hear_trunk(self, attempt: Attempt) -> None:
        """The first sign of life of a call; a tone in early media may still be an announcement of congestion."""
        call = attempt.call
        if call.rang or call.was_answered:
            self._board.trunk_works(attempt, asyncio.get_running_loop().time())
        elif call.early_media:
            self._board.trunk_answers(attempt)

    async def _stray(self, channel_id: str) -> None:
        """A call in our application that nobody drives: from before a crash, or nobody's. Silence is not an option,
        so it is not let go of before it is adopted or hung up."""
        while channel_id not in self._board.channels:
            try:
                await self._recover()
                if channel_id not in self._board.channels and await self._is_in_our_hands(channel_id):
                    _log.warning("stray call hung up", channel=channel_id)
                    await self.pbx.hangup(channel_id)
            except Unavailable:
                await asyncio.sleep(HEARTBEAT_SECONDS)
            except (Rejected, NotFound):
                return
            else:
                return

    async def _is_in_our_hands(self, channel_id: str) -> bool:
        """Who waits in a queue or talks to an agent is none of our business, though he came through us."""
        snapshot = await self.pbx.channel(channel_id)
        return snapshot is not None and snapshot.dialplan.app_name == OUR_APP

    def _sent(self) -> None:
        self._refusal_seconds = FIRST_REFUSAL_SECONDS

    def _unsent(self, reason: NotSent) -> None:
        """Asterisk takes no originates although it talks to us: ask again later, and later still."""
        loop = asyncio.get_running_loop()
        if self._board.pbx_refuses_until > loop.time():
            return
        _log.error("originates not taken", reason=str(reason), seconds=self._refusal_seconds)
        self._board.pbx_refuses_until = loop.time() + self._refusal_seconds
        self._refusal_seconds = min(2 * self._refusal_seconds, LONGEST_REFUSAL_SECONDS)

    async def _find_strays(self) -> None:
        """After a connection: whoever entered our application while nobody listened."""
        with suppress(Unavailable, Rejected):
            for channel_id in await self.pbx.application_channels():
                if channel_id not in self._board.channels and _is_ours(channel_id):
                    await self._stray(channel_id)

    def hear_state(self, state: AriState) -> None:
        """Connected or lost. After a connection every call is looked at: events were missed."""
        self._board.pbx_up = isinstance(state, Connected)
        self._metrics.port("ari", up=self._board.pbx_up)
        self._board.wake.set()
        if not isinstance(state, Connected):
            _log.warning("asterisk lost", reason=state.reason)
            for attempt in self._board.attempts.values():
                if attempt.call.phase is not Phase.CLAIMED and not attempt.call.ended:
                    attempt.feed(Event.DEAF, self._clock())
            return
        _log.info("asterisk connected", startup_time=state.startup_time, restarted=state.restarted)
        if not state.waiting_room:
            _log.warning(
                "shipped dialplan missing",
                remedy="include config/asterisk/extensions_dialer.conf: without it whoever answers while this daemon "
                "restarts is hung up in silence",
            )
        for attempt in self._board.attempts.values():
            if not _is_out(attempt):
                continue  # one whose originate is unanswered may be a call of the Asterisk that is there now
            if state.restarted:
                attempt.feed(Event.PBX_LOST, self._clock())
            else:
                self._errand(self._driver.look(attempt))
        self._errand(self._find_strays())

    async def _outages(self) -> None:
        """Who got an agent without our being told is found. And while no events come, lines that have rung long enough
        are cut: an answer would not be heard."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._attendant.tend()
            if self._board.pbx_up:
                continue
            now = self._clock()
            rung = [attempt for attempt in self._board.attempts.values() if _rung_enough(attempt, now)]
            await asyncio.gather(*map(self._cut, rung))

    async def _cut(self, attempt: Attempt) -> None:
        """Not who has answered meanwhile: he waits in the dialplan for us. Of the end we shall not be told."""
        with suppress(Unavailable, Rejected, NotFound):
            snapshot = await self.pbx.channel(attempt.id)
            if snapshot is None or snapshot.state == "Up" or self._board.pbx_up:
                return
            if await self.pbx.hangup(attempt.id, "no_answer"):
                attempt.feed(Event.CANCELLED, self._clock())
                attempt.feed(Event.GONE, self._clock())

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


def _is_out(attempt: Attempt) -> bool:
    """Asterisk has it, and has said so."""
    return not attempt.posting and attempt.call.phase is not Phase.CLAIMED and not attempt.call.ended


def _is_ours(channel_id: str) -> bool:
    """Of the shape of an attempt's id: the far half of a Local/ channel and others' channels are not."""
    return channel_id.startswith("a") and channel_id.isalnum()


def _rung_enough(attempt: Attempt, now: datetime) -> bool:
    call = attempt.call
    since = call.times.originated_at
    waiting = call.phase in (Phase.SENT, Phase.RINGING) and not call.cancelled_by_us
    return waiting and since is not None and (now - since).total_seconds() >= RUNG_ENOUGH_SECONDS
