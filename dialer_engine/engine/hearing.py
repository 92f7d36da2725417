"""What Asterisk says, and what is done while it says nothing.

Every event goes into the facts of its attempt at once. A call in our application that nobody drives is adopted or hung
up, never left in silence; and while no events come, lines that have rung long enough are cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from dialer_engine import log
from dialer_engine.ari import AriEvent, AriState, Connected, Dial, StasisStart
from dialer_engine.core.call import Event, Phase
from dialer_engine.core.model import AttemptId
from dialer_engine.engine.attempt import Attempt, Pbx
from dialer_engine.engine.attendant import Attendant
from dialer_engine.engine.board import Board
from dialer_engine.engine.driver import ASK_AGAIN_SECONDS, OUR_APP, Driver
from dialer_engine.engine.recovery import Recovery
from dialer_engine.errors import NotFound, Rejected, Unavailable
from dialer_engine.metrics import Metrics

RUNG_ENOUGH_SECONDS = 15.0
"""While no events come, lines that have rung so long are cut: nobody would hear them answer. Never sooner."""
QUIET_SECONDS = 3.0
"""The audit asks about calls of which nothing has been heard for so long."""

_log = log.get("engine")


@dataclass(slots=True)
class Listener:
    """The engine's ear towards Asterisk; `errand` runs what may take longer than the loop's turn."""

    pbx: Pbx
    board: Board
    attendant: Attendant
    driver: Driver
    recovery: Recovery
    clock: Callable[[], datetime]
    metrics: Metrics
    errand: Callable[[Coroutine[None, None, None]], None]

    # --- events ---

    def hear(self, event: AriEvent) -> None:
        """In the order of the wire, and into the facts at once."""
        if isinstance(event, Dial) and (caller := self.board.attempts.get(AttemptId(event.caller_channel_id))):
            self.attendant.hear_agents_leg(caller, event)
            return
        attempt = self.board.channels.get(event.channel_id) or self._far_side(event)
        if attempt is None:
            if isinstance(event, StasisStart):
                self.errand(self._take_in(event))
            return
        illegal = attempt.call.illegal
        attempt.heard_at = asyncio.get_running_loop().time()
        attempt.hear(event, self.clock())
        if attempt.call.illegal > illegal:
            self.metrics.illegal_event()
        self._hear_trunk(attempt)

    def _far_side(self, event: AriEvent) -> Attempt | None:
        """A leg dialed by the far half of a Local/ channel is told under its caller."""
        caller = event.caller_channel_id if isinstance(event, Dial) else ""
        attempt = self.board.channels.get(caller) if caller else None
        if attempt is None or caller != attempt.far_id:
            return None
        self.board.follow_leg(event.channel_id, attempt)
        return attempt

    def _hear_trunk(self, attempt: Attempt) -> None:
        """The first sign of life of a call; a tone in early media may still be an announcement of congestion."""
        call = attempt.call
        if call.rang or call.was_answered:
            self.board.trunk_works(attempt, asyncio.get_running_loop().time())
        elif call.early_media:
            self.board.trunk_answers(attempt)

    # --- the connection ---

    def hear_state(self, state: AriState) -> None:
        """Connected or lost. After a connection every call is looked at: events were missed."""
        self.board.pbx_up = isinstance(state, Connected)
        self.metrics.port("ari", up=self.board.pbx_up)
        self.board.wake.set()
        if not isinstance(state, Connected):
            _log.warning("asterisk lost", reason=state.reason)
            for attempt in self.board.attempts.values():
                if attempt.call.phase is not Phase.CLAIMED and not attempt.call.ended:
                    attempt.feed(Event.DEAF, self.clock())
            return
        _log.info("asterisk connected", startup_time=state.startup_time, restarted=state.restarted)
        if not state.waiting_room:
            _log.warning(
                "shipped dialplan missing",
                remedy="include config/asterisk/extensions_dialer.conf: without it whoever answers while this daemon "
                "restarts is hung up in silence",
            )
        for attempt in self.board.attempts.values():
            if not _is_out(attempt):
                continue  # one whose originate is unanswered may be a call of the Asterisk that is there now
            if state.restarted:
                attempt.feed(Event.PBX_LOST, self.clock())
            else:
                self.errand(self.driver.look(attempt))
        self.errand(self._find_strays())

    async def cut_the_unheard(self) -> None:
        """While no events come: lines that have rung long enough, for an answer would not be heard."""
        if not self.board.pbx_up:
            now = self.clock()
            rung = [attempt for attempt in self.board.attempts.values() if _rung_enough(attempt, now)]
            await asyncio.gather(*map(self._cut, rung))

    async def _cut(self, attempt: Attempt) -> None:
        """Not who has answered meanwhile: he waits in the dialplan for us. Of the end we shall not be told."""
        with suppress(Unavailable, Rejected, NotFound):
            snapshot = await self.pbx.channel(attempt.id)
            if snapshot is None or snapshot.state == "Up" or self.board.pbx_up:
                return
            if await self.pbx.hangup(attempt.id, "no_answer"):
                attempt.feed(Event.CANCELLED, self.clock())
                attempt.feed(Event.GONE, self.clock())

    async def ask_about_the_quiet(self) -> None:
        """No event may be lost for good. One after the other: who talks just now needs the connections more."""
        quiet_since = asyncio.get_running_loop().time() - QUIET_SECONDS
        for attempt in list(self.board.attempts.values()):
            if self.board.pbx_up and attempt.heard_at < quiet_since and _is_out(attempt):
                await self.driver.look(attempt)

    # --- calls that nobody drives ---

    async def _take_in(self, event: StasisStart) -> None:
        """Who comes to us before his attempt has been found is heard once it has: he is not to wait for his turn to be
        asked after, behind all the others that a start finds."""
        await self._stray(event.channel_id)
        attempt = self.board.channels.get(event.channel_id)
        # Who entered by what was learned meanwhile may be in a queue by now: late news would bring him back from it.
        if attempt is not None and not attempt.call.entered and not attempt.call.ended:
            self.hear(event)

    async def _find_strays(self) -> None:
        """After a connection: whoever entered our application while nobody listened."""
        with suppress(Unavailable, Rejected):
            for channel_id in await self.pbx.application_channels():
                if channel_id not in self.board.channels and _is_ours(channel_id):
                    await self._stray(channel_id)

    async def _stray(self, channel_id: str) -> None:
        """A call in our application that nobody drives: from before a crash, or nobody's. Silence is not an option,
        so it is not let go of before it is adopted or hung up."""
        while channel_id not in self.board.channels:
            try:
                await self.recovery.run(wanted=channel_id)
                if channel_id not in self.board.channels and await self._is_in_our_hands(channel_id):
                    _log.warning("stray call hung up", channel=channel_id)
                    await self.pbx.hangup(channel_id)
            except Unavailable:
                await asyncio.sleep(ASK_AGAIN_SECONDS)
            except (Rejected, NotFound):
                return
            else:
                return

    async def _is_in_our_hands(self, channel_id: str) -> bool:
        """Who waits in a queue or talks to an agent is none of our business, though he came through us."""
        snapshot = await self.pbx.channel(channel_id)
        return snapshot is not None and snapshot.dialplan.app_name == OUR_APP


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
