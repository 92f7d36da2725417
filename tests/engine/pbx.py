"""An Asterisk in memory: it does what its callees are told to, by the loop's clock, and counts. It asserts nothing.

`Pbx` is the exchange and outlives the daemons; a `Port` is one daemon's connection to it (the engine's `Pbx`).
The order of events and their fields are those of a real Asterisk 22 (facts/asterisk.md): a ring time-out has no
final Dial, a play ends before the channel does, an answered call whose application is not there waits for it
six seconds in the shipped dialplan and then hears an apology.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

import msgspec

from dialer_engine.ari import (
    AriEvent,
    AriState,
    ChannelDestroyed,
    ChannelDtmfReceived,
    ChannelHangupRequest,
    ChannelSnapshot,
    ChannelStateChange,
    Connected,
    Dial,
    Dialplan,
    HangupReason,
    Leg,
    Lost,
    NotSent,
    Playback,
    PlaybackFinished,
    StasisEnd,
    StasisStart,
)
from dialer_engine.errors import NotFound, Rejected, Unavailable
from tests.engine.centre import CLOCK_AHEAD, WAY_SECONDS, Centre
from tests.engine.fate import Fate

ORIGINATE_SECONDS = 10.0
"""As ari.Patience has them: how long our client waits for a PBX that does not answer."""
REQUEST_SECONDS = 5.0
WAITING_SECONDS = 6.0
AGAIN_SECONDS = 0.25
OPTIMISED_SECONDS = 0.1
"""From a connect to the end of a Local/ channel without /n, while the two talk on."""

Fault = Literal["lost", "lost unmade", "hung", "not sent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Callee:
    """What one telephone does, in seconds from the INVITE; from the answer where that is said."""

    rings_after: float | None = 0.1
    answers_after: float | None = None
    ends_after: float | None = None  # the carrier's final answer, with the three below
    cause: int = 0
    sip_code: int | None = None
    dial_status: str = ""
    keys: tuple[tuple[float, str], ...] = ()  # (seconds after the answer, key)
    hangs_up_after: float | None = None  # seconds after the answer
    refused: int | None = None  # ARI answers 400 or 500: no channel, no INVITE
    fault: Fault | None = None  # of the answer to our originate
    reply_seconds: float = 0.002
    loses: frozenset[str] = frozenset()  # names of events that never arrive
    twice: bool = False  # every event arrives twice

    def but(self, **changes: Any) -> Callee:
        return replace(self, **changes)


def answers(
    after: float = 2.0, *, keys: Sequence[tuple[float, str]] = (), talks: float | None = None
) -> Callee:
    return Callee(answers_after=after, keys=tuple(keys), hangs_up_after=talks)


BUSY = Callee(rings_after=None, ends_after=0.3, cause=17, sip_code=486, dial_status="BUSY")
RINGS_OUT = Callee()
NEVER_RINGS = Callee(rings_after=None)
NOT_IN_USE = Callee(rings_after=None, ends_after=0.2, cause=1, sip_code=404, dial_status="NOANSWER")
CARRIER_FAILS = Callee(rings_after=None, ends_after=0.2, cause=34, sip_code=503, dial_status="CONGESTION")
NO_ENDPOINT = Callee(refused=500)

Behaviour = Callee | Sequence[Callee] | Callable[[], Callee]
"""Always the same, one call after the other (the last one stays), or asked at each call."""


@dataclass(frozen=True, slots=True)
class Originate:
    at: float
    id: str
    number: str
    trunk: str
    made: bool


@dataclass(slots=True, eq=False)
class Channel:
    id: str
    number: str
    trunk: str
    callee: Callee
    app: str
    state: str = "Down"
    in_stasis: bool = False
    since: float = 0.0
    answered: bool = False
    away: bool = False  # in a queue
    optimisable: bool = False  # Local/ without /n
    exten: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    playing: dict[str, asyncio.TimerHandle] = field(default_factory=dict)
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class Pbx:
    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self.centre = Centre(self, clock)
        self.default: Behaviour = answers()
        self.callees: dict[str, Behaviour] = {}
        self.sound_seconds = 0.5
        self.channels: dict[str, Channel] = {}
        self.originates: list[Originate] = []
        self.rung: Counter[str] = Counter()  # telephones that rang, by number
        self.answered: Counter[str] = Counter()
        self.apologised: list[str] = []  # who answered and waited for a daemon in vain
        self.cut: list[tuple[str, float, float]] = []  # by us, before the answer: id, when, after how long
        self.torn: list[str] = []  # by us, out of a queue or from an agent
        self.asked: list[Callable[[str], None]] = []  # told the number of each originate, before it is made
        self.most: Counter[str] = Counter()  # channels at once, by trunk
        self.most_by_number: Counter[str] = Counter()
        self.plays: defaultdict[str, list[str]] = defaultdict(list)  # media by number
        self.listeners: dict[str, Port] = {}  # by application
        self.startup_time = "2026-01-01T00:00:00"
        self.rest_down = False  # requests are refused at once
        self.hung = False  # requests are never answered
        self.inbound: list[str] = []
        self.fallback_queue = ""  # for whoever answers while no daemon is there, at once
        self._calls: Counter[str] = Counter()

    # --- what a test counts ---

    @property
    def by_number(self) -> Counter[str]:
        return Counter(one.number for one in self.originates)

    @property
    def by_attempt(self) -> Counter[str]:
        return Counter(one.id for one in self.originates)

    def times(self, trunk: str | None = None) -> list[float]:
        return [one.at for one in self.originates if trunk in (None, one.trunk)]

    def last_at(self) -> float:
        return self.originates[-1].at if self.originates else float("-inf")

    # --- what happens to it ---

    def lose_socket(self) -> None:
        """No events from now on; requests are still answered unless `rest_down`."""
        for port in self.listeners.values():
            port.tell(Lost("event socket closed"))

    def restore_socket(self) -> None:
        for port in self.listeners.values():
            restarted, port.seen = port.seen != self.startup_time, self.startup_time
            port.tell(Connected(self.startup_time, restarted))

    def restart(self) -> None:
        """The process ends: every call is dead, and nobody is told."""
        self.lose_socket()
        for channel in list(self.channels.values()):
            self._forget(channel)
        self.centre.callers.clear()
        self.startup_time += "+"

    def hang_up_by_callee(self, number: str) -> None:
        for channel in [one for one in self.channels.values() if one.number == number]:
            self._hang_up(channel)

    # --- the dialplan of queues ---

    def end(self, channel: Channel) -> None:
        """Hangup() of the dialplan."""
        self._emit(channel, ChannelHangupRequest(channel=self._leg(channel), soft=True))
        self._end(channel, cause=16)

    def bridge(self, channel: Channel) -> None:
        """An agent has it."""
        if channel.optimisable:
            asyncio.get_running_loop().call_later(OPTIMISED_SECONDS, self._optimise, channel)

    def _optimise(self, channel: Channel) -> None:
        """Its end is told, and the talk goes on without it."""
        self.channels.pop(channel.id, None)
        self._emit(channel, ChannelDestroyed(channel=self._leg(channel), cause=16))

    def leg(self, channel: Channel) -> Leg:
        return self._leg(channel)

    def tell(self, channel: Channel, event: AriEvent) -> None:
        self._emit(channel, event)

    def come_back(self, channel: Channel, args: Sequence[str], patience: float = WAITING_SECONDS) -> None:
        """Stasis(...) after Queue(): a daemon that is away is waited for."""
        channel.away = False
        if self._is_heard(channel):
            channel.in_stasis = True
            self._emit(channel, StasisStart(channel=self._leg(channel), args=tuple(args)))
        elif patience < 0:
            self._end(channel, cause=16)
        else:
            self._later(channel, AGAIN_SECONDS, lambda: self.come_back(channel, args, patience - AGAIN_SECONDS))

    def send_on(self, channel_id: str, context: str, extension: str) -> None:
        channel = self._in_stasis(channel_id)
        channel.in_stasis, channel.away, channel.exten = False, True, extension
        for playback in list(channel.playing):
            self._finish(channel, playback, "failed")
        self._emit(channel, StasisEnd(channel=self._leg(channel)))
        self._later(channel, WAY_SECONDS, lambda: self.centre.enter(channel, context, extension))

    def call_in(self, queue: str, stays: float) -> None:
        """Somebody from outside, into the queue."""
        id_ = f"inbound-{len(self.inbound)}"
        channel = self.channels[id_] = Channel(id_, id_, "", Callee(), "", state="Up", answered=True, away=True)
        self.inbound.append(id_)
        self._later(channel, stays, lambda: self._end(channel, cause=16))
        self.centre.enter(channel, "elsewhere", queue)

    def set_variables(self, channel_id: str, variables: Mapping[str, str]) -> None:
        self._in_stasis(channel_id).variables |= {name.lstrip("_"): text for name, text in variables.items()}

    def _in_stasis(self, channel_id: str) -> Channel:
        channel = self.channels.get(channel_id)
        if channel is None:
            raise NotFound(f"no channel {channel_id}")
        if not channel.in_stasis:
            raise Rejected("channel not in Stasis application", code=409)
        return channel

    # --- calls ---

    def behaviour(self, number: str) -> Callee:
        plan = self.callees.get(number, self.default)
        if isinstance(plan, Callee):
            return plan
        if callable(plan):
            return plan()
        return plan[min(self._calls[number], len(plan)) - 1]

    def place(self, app: str, channel_id: str, endpoint: str, timeout_seconds: float) -> Callee:
        """An originate has arrived."""
        found = re.search(r"/(\+?\d+)(?:@(\w+))?(/n)?$", endpoint)
        number, trunk = (found[1], found[2] or "") if found else (endpoint, "")
        optimisable = endpoint.startswith("Local/") and not (found and found[3])
        for told in self.asked:
            told(number)
        self._calls[number] += 1
        callee = self.behaviour(number)
        made = callee.refused is None and callee.fault not in ("lost unmade", "not sent")
        now = asyncio.get_running_loop().time()
        self.originates.append(Originate(now, channel_id, number, trunk, made))
        if made:
            channel = self.channels[channel_id] = Channel(
                channel_id, number, trunk, callee, app, optimisable=optimisable, since=now
            )
            alike = sum(one.number == number for one in self.channels.values())
            self.most_by_number[number] = max(self.most_by_number[number], alike)
            self.most[trunk] = max(self.most[trunk], sum(one.trunk == trunk for one in self.channels.values()))
            self._plan(channel, timeout_seconds)
        return callee

    def _plan(self, channel: Channel, timeout_seconds: float) -> None:
        callee = channel.callee
        self._later(channel, 0.0, lambda: self._emit(channel, Dial(peer=self._leg(channel))))
        if callee.rings_after is not None:
            self._later(channel, callee.rings_after, lambda: self._ring(channel))
        if callee.answers_after is not None:
            self._later(channel, callee.answers_after, lambda: self._answer(channel))
        elif callee.ends_after is not None:
            self._later(channel, callee.ends_after, lambda: self._fail(channel))
        if callee.answers_after is None or callee.answers_after >= timeout_seconds:
            self._later(channel, timeout_seconds, lambda: self._end(channel, cause=19, sip_code=480))

    def _ring(self, channel: Channel) -> None:
        channel.state = "Ringing"
        self.rung[channel.number] += 1
        self._emit(channel, ChannelStateChange(channel=self._leg(channel)))
        self._emit(channel, Dial(peer=self._leg(channel), dialstatus="RINGING"))

    def _answer(self, channel: Channel) -> None:
        self._stop_timers(channel)
        channel.state, channel.answered = "Up", True
        self.answered[channel.number] += 1
        self._emit(channel, ChannelStateChange(channel=self._leg(channel)))
        self._emit(channel, Dial(peer=self._leg(channel), dialstatus="ANSWER"))
        if channel.callee.hangs_up_after is not None:
            self._later(channel, channel.callee.hangs_up_after, lambda: self._hang_up(channel))
        self._enter(channel, asyncio.get_running_loop().time() + WAITING_SECONDS)

    def _enter(self, channel: Channel, patient_until: float) -> None:
        if not self._is_heard(channel):
            if self.fallback_queue:
                channel.away, channel.exten = True, self.fallback_queue
                self.centre.enter(channel, "dialer-queue", self.fallback_queue)
            elif asyncio.get_running_loop().time() >= patient_until:
                self.apologised.append(channel.id)
                self._end(channel, cause=16)
            else:
                self._later(channel, AGAIN_SECONDS, lambda: self._enter(channel, patient_until))
            return
        channel.in_stasis = True
        self._emit(channel, StasisStart(channel=self._leg(channel)))
        for after, digit in channel.callee.keys:
            self._later(channel, after, lambda digit=digit: self._press(channel, digit))  # type: ignore[misc]

    def _hang_up(self, channel: Channel) -> None:
        self._emit(channel, ChannelHangupRequest(channel=self._leg(channel)))
        self._end(channel, cause=16)

    def _press(self, channel: Channel, digit: str) -> None:
        self._emit(channel, ChannelDtmfReceived(channel=self._leg(channel), digit=digit))

    def _fail(self, channel: Channel) -> None:
        callee = channel.callee
        self._emit(channel, Dial(peer=self._leg(channel), dialstatus=callee.dial_status))
        self._end(channel, cause=callee.cause, sip_code=callee.sip_code)

    def _end(self, channel: Channel, *, cause: int, sip_code: int | None = None) -> None:
        if self.channels.get(channel.id) is not channel:
            return
        for playback in list(channel.playing):
            self._finish(channel, playback, "failed")
        if channel.in_stasis:
            self._emit(channel, StasisEnd(channel=self._leg(channel)))
        self._forget(channel)
        self.centre.leave(channel)
        gone = ChannelDestroyed(channel=self._leg(channel), cause=cause, tech_cause=sip_code)
        self._emit(channel, gone)

    def _forget(self, channel: Channel) -> None:
        self.channels.pop(channel.id, None)
        self._stop_timers(channel)
        for handle in channel.playing.values():
            handle.cancel()
        channel.playing.clear()

    def _stop_timers(self, channel: Channel) -> None:
        for handle in channel.timers:
            handle.cancel()
        channel.timers.clear()

    def _later(self, channel: Channel, seconds: float, act: Callable[[], None]) -> None:
        channel.timers.append(asyncio.get_running_loop().call_later(seconds, act))

    def _leg(self, channel: Channel) -> Leg:
        return Leg(channel.id, f"PJSIP/{channel.trunk}-{channel.id}", channel.state)

    def _is_heard(self, channel: Channel) -> bool:
        port = self.listeners.get(channel.app)
        return port is not None and port.connected

    def _emit(self, channel: Channel, event: AriEvent) -> None:
        port = self.listeners.get(channel.app)
        if port is None or type(event).__name__ in channel.callee.loses:
            return
        stamped = msgspec.structs.replace(event, at=self._clock() - CLOCK_AHEAD)
        for _ in range(2 if channel.callee.twice else 1):
            port.hand(stamped)

    # --- orders ---

    def hang_up(self, channel_id: str, reason: str) -> bool:
        channel = self.channels.get(channel_id)
        if channel is None:
            return False
        now = asyncio.get_running_loop().time()
        if channel.away:
            self.torn.append(channel_id)
        if not channel.answered:
            self.cut.append((channel_id, now, now - channel.since))
        self._end(channel, cause=19 if reason == "no_answer" else 16)
        return True

    def play(self, channel_id: str, media: Sequence[str], playback_id: str) -> None:
        channel = self._in_stasis(channel_id)
        self.plays[channel.number] += media
        channel.playing[playback_id] = asyncio.get_running_loop().call_later(
            self.sound_seconds * len(media), lambda: self._finish(channel, playback_id, "done")
        )

    def _finish(self, channel: Channel, playback_id: str, state: str) -> None:
        handle = channel.playing.pop(playback_id, None)
        if handle is not None:
            handle.cancel()
            playback = Playback(playback_id, f"channel:{channel.id}", state)
            self._emit(channel, PlaybackFinished(playback=playback))

    def stop_playback(self, playback_id: str) -> bool:
        channel = self._playing(playback_id)
        if channel is not None:
            self._finish(channel, playback_id, "done")
        return channel is not None

    def is_playing(self, playback_id: str) -> bool:
        return self._playing(playback_id) is not None

    def _playing(self, playback_id: str) -> Channel | None:
        return next((one for one in self.channels.values() if playback_id in one.playing), None)


class Port:
    """One daemon's connection, with an application of its own: the engine's `Pbx`."""

    def __init__(
        self,
        pbx: Pbx,
        app: str,
        fate: Fate,
        on_event: Callable[[AriEvent], None],
        on_state: Callable[[AriState], None],
    ) -> None:
        self._pbx = pbx
        self.app = app
        self._fate = fate
        self._on_event = on_event
        self._on_state = on_state
        self.seen = pbx.startup_time
        self.state: AriState = Lost("not yet connected")

    @property
    def connected(self) -> bool:
        return isinstance(self.state, Connected) and not self._fate.dead

    def connect(self) -> None:
        """As `Ari.run` does at its start: this application is ours from now on."""
        self._pbx.listeners[self.app] = self
        self.seen = self._pbx.startup_time
        self.tell(Connected(self._pbx.startup_time, restarted=False))

    def tell(self, state: AriState) -> None:
        self.state = state
        if not self._fate.dead:
            self._fate.inside(self._on_state, state)

    def hand(self, event: AriEvent) -> None:
        if self.connected:
            self._fate.inside(self._on_event, event)

    async def originate(
        self,
        channel_id: str,
        *,
        endpoint: str,
        caller_id: str,
        timeout_seconds: float,
        other_channel_id: str | None = None,
    ) -> None:
        await self._fate.meet("originate", "before")
        if not self.connected:
            raise NotSent("asterisk", "no events come")
        if self._pbx.hung:
            await asyncio.sleep(ORIGINATE_SECONDS)
            raise Unavailable("asterisk", "no answer within 10 s")
        callee = self._pbx.place(self.app, channel_id, endpoint, timeout_seconds)
        await asyncio.sleep(ORIGINATE_SECONDS if callee.fault == "hung" else callee.reply_seconds)
        await self._fate.meet("originate", "after")
        if callee.refused is not None:
            raise Rejected("Allocation failed", code=callee.refused)
        if callee.fault == "not sent":
            raise NotSent("asterisk", "no connection")
        if callee.fault is not None:
            raise Unavailable("asterisk", "the reply was lost")

    async def channel(self, channel_id: str) -> ChannelSnapshot | None:
        await self._ask("channel")
        found = self._pbx.channels.get(channel_id)
        if found is None:
            return None
        app = "Stasis" if found.in_stasis else "Queue" if found.away else "AppDial2"
        return ChannelSnapshot(found.id, state=found.state, dialplan=Dialplan(exten=found.exten, app_name=app))

    async def application_channels(self) -> list[str]:
        await self._ask("application_channels")
        return [one.id for one in self._pbx.channels.values() if one.app == self.app and one.in_stasis]

    async def subscribe(self, source: str) -> None:
        await self._ask("subscribe")
        if not self.connected or source.removeprefix("channel:") not in self._pbx.channels:
            raise NotFound(f"no {source}, or no application {self.app}")

    async def hangup(self, channel_id: str, reason: HangupReason = "normal") -> bool:
        await self._ask("hangup")
        done = self._pbx.hang_up(channel_id, reason)
        await self._fate.meet("hangup", "after")
        return done

    async def play(self, channel_id: str, media: Sequence[str], playback_id: str) -> None:
        await self._ask("play")
        self._pbx.play(channel_id, media, playback_id)
        await self._fate.meet("play", "after")

    async def stop_playback(self, playback_id: str) -> bool:
        await self._ask("stop_playback")
        return self._pbx.stop_playback(playback_id)

    async def is_playing(self, playback_id: str) -> bool:
        await self._ask("is_playing")
        return self._pbx.is_playing(playback_id)

    async def set_variables(self, channel_id: str, variables: Mapping[str, str]) -> None:
        await self._ask("set_variables")
        self._pbx.set_variables(channel_id, variables)
        await self._fate.meet("set_variables", "after")

    async def get_variable(self, channel_id: str, name: str) -> str | None:
        await self._ask("get_variable")
        channel = self._pbx.channels.get(channel_id)
        return channel.variables.get(name) if channel else None

    async def continue_in_dialplan(self, channel_id: str, *, context: str, extension: str) -> None:
        await self._ask("continue")
        self._pbx.send_on(channel_id, context, extension)
        await self._fate.meet("continue", "after")

    async def _ask(self, verb: str) -> None:
        await self._fate.meet(verb, "before")
        if self._pbx.hung:
            await asyncio.sleep(REQUEST_SECONDS)
            raise Unavailable("asterisk", f"no answer within {REQUEST_SECONDS} s")
        await asyncio.sleep(0.001)
        if self._pbx.rest_down:
            raise Unavailable("asterisk", "connection refused")
