"""The lives of channels: dialed, answered, in an application or the dialplan, hung up.

Each life is a script that reads like a dialplan. Hanging up is an exception where the script waits (`HungUp`), so
that every script ends the same way: its application is left, its channel destroyed, whoever it dialed is cut off.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from dialer_engine.simulator import sounds
from dialer_engine.simulator.callees import Callee
from dialer_engine.simulator.causes import cause_of, invented_code, status_of, text_of
from dialer_engine.simulator.channels import App, Apps, Channel, HungUp, Json, stamp
from dialer_engine.simulator.sounds import Playback
from dialer_engine.simulator.threads import FOREVER, Script, Thread, Threads
from dialer_engine.simulator.world import Seen, World

NORMAL_CLEARING, NO_ANSWER = 16, 19
ANSWERED, ENDED, ORDER = "answered", "ended", "order"
"""What wakes a channel's script."""


@dataclass(frozen=True, slots=True)
class Place:
    """Of the dialplan."""

    context: str
    exten: str
    priority: int = 1


@dataclass(frozen=True, slots=True)
class Trunk:
    """What lies behind a PJSIP endpoint: the callees of its numbers, or one and the same for each."""

    callee: Callee | None = None
    is_seen: bool = True  # what is called writes it down
    has_contact: bool = True


Steps: TypeAlias = Generator[float, Any, Place | None]
"""A part of a script that may end by naming the place where the channel goes on."""


DIALSTATUS = {17: "BUSY", 34: "CONGESTION", 16: "NOANSWER", 19: "NOANSWER"}
"""Of Dial(), which is not that of its last event; every other cause is CHANUNAVAIL."""


class Line:
    """The wire between a channel and its callee, who acts on it (`callees.Line`). Cut off, he talks to nobody."""

    def __init__(self, exchange: Exchange, channel: Channel, seen: Seen | None) -> None:
        self._exchange = exchange
        self._channel: Channel | None = channel
        self.seen = seen
        self.thread: Thread | None = None

    def ring(self) -> None:
        self._write(World.ringing)
        if self._channel is not None:
            self._exchange.ringing(self._channel)

    def progress(self) -> None:
        self._write(World.progress)
        if self._channel is not None:
            self._exchange.progress(self._channel)

    def answer(self) -> None:
        self._write(World.answered)
        if self._channel is not None:
            self._exchange.answered(self._channel)

    def press(self, key: str) -> None:
        if self.seen is not None:
            self._exchange.world.key(self.seen, self._exchange.threads.now, key)

    def let_go(self, key: str) -> None:
        if self._channel is not None:
            self._exchange.key(self._channel, key)

    def reject(self, sip_code: int) -> None:
        if self.seen is not None:
            self._exchange.world.rejected(self.seen, self._exchange.threads.now, sip_code)
        if self._channel is not None:
            self._channel.line = None
            self._exchange.rejected(self._channel, sip_code)

    def hang_up(self) -> None:
        self._end("world")
        if self._channel is not None:
            self._channel.line = None
            self._exchange.hang_up(self._channel, NORMAL_CLEARING)

    def cut(self) -> None:
        """The channel is gone in good order: the callee is told."""
        self._channel = None
        self._end("pbx")
        if self.thread is not None:
            self.thread.stop()

    def lose(self) -> None:
        """The channel is gone without a word; the callee goes on."""
        self._channel = None

    def _write(self, note: Callable[[World, Seen, float], None]) -> None:
        if self.seen is not None:
            note(self._exchange.world, self.seen, self._exchange.threads.now)

    def _end(self, by: str) -> None:
        if self.seen is not None:
            self._exchange.world.ended(self.seen, self._exchange.threads.now, by)


class Exchange:
    """Every channel there is. `speed` divides what callees and sounds take; our own time-outs it does not touch."""

    def __init__(
        self,
        *,
        now: float,
        speed: float,
        world: World,
        places: Mapping[str, Callable[[Exchange, Channel], Steps]],
        trunks: Mapping[str, Trunk],
        callee_of: Callable[[str], Callee],
    ) -> None:
        self.threads = Threads(now)
        self.apps = Apps()
        self.world = world
        self.places = places
        self.trunks = trunks
        self._callee_of = callee_of
        self.channels: dict[str, Channel] = {}
        self.playbacks: dict[str, Playback] = {}
        self._speed = speed
        self._ids: list[str] = []  # in lower case and in order
        self._serials: dict[str, int] = {}

    @property
    def now(self) -> float:
        return self.threads.now

    # Channels come and go

    def serial(self, kind: str) -> int:
        """Counted from 1, each kind for itself."""
        self._serials[kind] = number = self._serials.get(kind, 0) + 1
        return number

    def is_taken(self, channel_id: str) -> bool:
        """An id is refused that a live one begins with, in whatever case (Asterisk's ao2_legacy channel store)."""
        wanted = channel_id.lower()
        place = bisect_left(self._ids, wanted)
        return place < len(self._ids) and self._ids[place].startswith(wanted)

    def create(self, channel_id: str, name: str, endpoint: str = "", state: str = "Down") -> Channel:
        channel = Channel(channel_id, name, endpoint, stamp(self.now), state)
        self.channels[channel_id] = channel
        insort(self._ids, channel_id.lower())
        self._tell(channel, "ChannelCreated")
        return channel

    def live(self, channel: Channel, script: Script | Steps) -> None:
        """The channel's life: the script, and then its end, however that came."""

        def life() -> Script:
            with suppress(HungUp):
                yield from script
            self.destroy(channel)

        channel.thread = self.threads.start(life())

    def hang_up(self, channel: Channel, cause: int, *, by_us: bool = False) -> None:
        """From either side. What is over already stays over."""
        if channel.is_ending or channel.id not in self.channels:
            return
        channel.is_ending, channel.cause = True, cause
        self._tell(
            channel, "ChannelHangupRequest", {"soft": True, "cause": cause} if by_us else {"cause": cause}
        )
        if channel.thread is not None:
            self.threads.wake(channel.thread, ENDED if channel.dialer is not None else HungUp())

    def destroy(self, channel: Channel) -> None:
        if self.channels.pop(channel.id, None) is None:
            return
        del self._ids[bisect_left(self._ids, channel.id.lower())]
        if channel.line is not None:
            if channel.state != "Up" and channel.sip_code is None:
                channel.sip_code = invented_code(channel.cause)
            channel.line.cut()
            channel.line = None
        if channel.other is not None:
            self._half_gone(channel.other, channel.cause)
        code: Json = {} if channel.sip_code is None else {"tech_cause": channel.sip_code}
        body = {"cause": channel.cause, "cause_txt": text_of(channel.cause), **code}
        self._tell(channel, "ChannelDestroyed", body)
        self.apps.gone(channel)

    def _half_gone(self, left: Channel, cause: int) -> None:
        """The other half of a Local channel is no more."""
        left.other = None
        if left.state == "Up" or left.name.endswith(";2"):
            self.hang_up(left, left.cause or cause)
        else:
            left.cause = cause
            self.apps.publish_dial(left, status_of(cause), self.now)
            self._wake(left, ENDED)

    def crash(self) -> None:
        """Every channel is gone, and nobody is told, not even the callees."""
        for channel in self.channels.values():
            if channel.thread is not None:
                channel.thread.stop()
            if channel.line is not None:
                channel.line.lose()
        self.channels.clear()
        self.playbacks.clear()
        self._ids.clear()
        self.apps = Apps()

    def _tell(self, channel: Channel, kind: str, body: Json | None = None) -> None:
        self.apps.publish(channel, kind, body or {}, self.now)

    # A callee is called

    def invite(self, channel: Channel, trunk: Trunk, number: str) -> None:
        """The INVITE leaves; from now on the callee acts."""
        callee = trunk.callee or self._callee_of(number)
        seen = None
        if trunk.is_seen:
            seen = Seen(channel.protocol_id, number[-12:], number, channel.connected["number"], self.now)
            self.world.invited(seen)
        channel.line = line = Line(self, channel, seen)
        line.thread = self.threads.start(self._paced(callee.deeds(line)))

    def _paced(self, deeds: Iterator[float]) -> Script:
        for seconds in deeds:
            yield seconds / self._speed

    def ringing(self, channel: Channel) -> None:
        self._change(channel, "Ringing")
        self._dial_goes_on(channel, "RINGING")

    def progress(self, channel: Channel) -> None:
        self._dial_goes_on(channel, "PROGRESS")

    def answered(self, channel: Channel) -> None:
        self._change(channel, "Up")
        self._dial_goes_on(channel, "ANSWER")
        self._wake(channel, ANSWERED)

    def rejected(self, channel: Channel, sip_code: int) -> None:
        channel.cause, channel.sip_code = cause_of(sip_code), sip_code
        channel.is_ending = True
        self._tell(channel, "ChannelHangupRequest", {"cause": channel.cause, "tech_cause": sip_code})
        self._dial_goes_on(channel, status_of(channel.cause))
        self._wake(channel, ENDED)

    def key(self, channel: Channel, key: str) -> None:
        self._tell(channel, "ChannelDtmfReceived", {"digit": key, "duration_ms": 120})
        near = channel.dialer and channel.dialer.other
        if near is not None:
            self._tell(near, "ChannelDtmfReceived", {"digit": key, "duration_ms": 120})

    def _change(self, channel: Channel, state: str) -> None:
        if channel.state != state:
            channel.state = state
            self._tell(channel, "ChannelStateChange")

    def _dial_goes_on(self, channel: Channel, status: str) -> None:
        """Told of the channel; and whoever dials it is told what he hears."""
        self.apps.publish_dial(channel, status, self.now)
        if channel.dialer is not None:
            self.indicate(channel.dialer, status)

    def indicate(self, channel: Channel, status: str) -> None:
        """What the far half of a Local channel is told, the near one hears."""
        near = channel.other
        if near is None:
            return
        match status:
            case "RINGING":
                self.ringing(near)
            case "PROGRESS":
                self.progress(near)
            case "ANSWER":
                self._change(channel, "Up")
                self.answered(near)

    def _wake(self, channel: Channel, told: str) -> None:
        if channel.thread is not None:
            self.threads.wake(channel.thread, told)

    # Scripts

    def call(self, channel: Channel) -> None:
        """What an originate or a `dial` sets off at the far end."""
        if channel.other is not None:
            far = channel.other
            self.live(far, self.dialplan(far, Place(far.context, far.exten)))
        else:
            self.invite(channel, self.trunks[channel.endpoint.removeprefix("PJSIP/")], channel.number)

    def dial_created(self, channel: Channel, timeout_seconds: float) -> None:
        """A channel that is in an application already: it stays there, and hears of the answer by its state."""

        def give_up() -> Script:
            yield timeout_seconds
            if channel.state != "Up":
                self.hang_up(channel, NO_ANSWER)

        self.apps.publish_dial(channel, "", self.now)
        self.call(channel)
        self.threads.start(give_up())

    def originated(self, channel: Channel, timeout_seconds: float, then: Steps) -> Steps:
        """Dial, and if it is answered, go on."""
        if (yield from self.dialing(channel, timeout_seconds)):
            yield from then
        return None

    def dialing(self, channel: Channel, timeout_seconds: float) -> Generator[float, Any, bool]:
        """Wait for the answer. A time-out has no last Dial event; Asterisk's own trap."""
        self.apps.publish_dial(channel, "", self.now)
        gives_up_at = self.now + timeout_seconds
        while (told := (yield gives_up_at - self.now)) not in (ANSWERED, ENDED):
            if told is None:
                channel.cause = NO_ANSWER
                return False
        return bool(told == ANSWERED)

    def dial(
        self, channel: Channel, trunk: str, number: str, timeout_seconds: float
    ) -> Generator[float, Any, str]:
        """Dial(): until it is over; its DIALSTATUS. The cause is left on the channel, as HANGUPCAUSE."""
        leg = self.new_call(self.new_id(), trunk)
        leg.dialer, leg.thread, leg.connected = channel, channel.thread, channel.caller
        self.invite(leg, self.trunks[trunk], number)
        try:
            answered = yield from self.dialing(leg, timeout_seconds)
            while answered and not leg.is_ending:
                yield FOREVER
        except HungUp:
            if leg.state != "Up":
                self.apps.publish_dial(leg, "CANCEL", self.now)
            leg.cause = leg.cause or channel.cause or NORMAL_CLEARING
            self.destroy(leg)
            raise
        channel.cause = leg.cause
        self.destroy(leg)
        return "ANSWER" if answered else DIALSTATUS.get(leg.cause, "CHANUNAVAIL")

    def new_call(self, channel_id: str, trunk: str) -> Channel:
        """A PJSIP channel."""
        name = f"PJSIP/{trunk}-{self.serial(trunk) - 1:08x}"
        channel = self.create(channel_id, name, f"PJSIP/{trunk}")
        channel.protocol_id = f"{self.serial('Call-ID'):08x}-{int(self.now * 1000):x}"
        return channel

    def new_local(self, channel_id: str, other_id: str, exten: str, context: str) -> Channel:
        """Both halves of a Local channel; the far one runs the dialplan once the near one is dialed."""
        name = f"Local/{exten}@{context}-{self.serial('Local') - 1:08x}"
        near = self.create(channel_id, f"{name};1")
        far = self.create(other_id, f"{name};2", state="Ring")
        near.other, far.other = far, near
        far.context, far.exten = context, exten
        return near

    def new_id(self) -> str:
        """As Asterisk makes them."""
        return f"{int(self.now)}.{self.serial('id')}"

    def refuse(self, channel: Channel, status: str) -> None:
        """Busy() and Congestion(): the far half says so, and the near one is given up without a cause."""
        channel.cause = {"BUSY": 17, "CONGESTION": 34}[status]
        near = channel.other
        if near is not None:
            self.apps.publish_dial(near, status, self.now)
            self._wake(near, ENDED)

    def set_variable(self, channel: Channel, name: str, value: str) -> None:
        channel.variables[name] = value
        self._tell(channel, "ChannelVarset", {"variable": name, "value": value})

    def user_event(self, channel: Channel, name: str, fields: Mapping[str, str]) -> None:
        """UserEvent()."""
        body = {"eventname": name, "userevent": {"eventname": name, **fields}}
        self._tell(channel, "ChannelUserevent", body)

    def playback(self, *names: str) -> Generator[float, Any, None]:
        """Playback(): one sound after the other."""
        for name in names:
            yield from self.wait((sounds.seconds(f"sound:{name}") or 0.0) / self._speed)

    def stasis(
        self, channel: Channel, name: str, args: list[str]
    ) -> Generator[float, Any, tuple[bool, Place | None]]:
        """Into an application, until it is left: was anybody there, and where does the channel go on, if anywhere?"""
        app = self.apps.by_name.get(name)
        if app is None or app.ear is None:
            return False, None
        channel.stasis = app
        channel.app_name, channel.app_data = "Stasis", ",".join([name, *args])
        self.apps.follow(app, channel)
        self.apps.send(app, "StasisStart", {"args": args, "channel": channel.json()}, self.now)
        try:
            place = yield from self._obey(channel)
        except HungUp:
            self._leave(channel, app)
            raise
        self._leave(channel, app)
        return True, place

    def _leave(self, channel: Channel, app: App) -> None:
        channel.stasis = None
        channel.orders.clear()
        self.apps.send(app, "StasisEnd", {"channel": channel.json()}, self.now)
        self.apps.unfollow(app, channel)

    def _obey(self, channel: Channel) -> Steps:
        """One order after the other."""
        while True:
            while channel.orders:
                place: Place | None = yield from channel.orders.popleft()
                if place is not None:
                    return place
            yield from _pause(FOREVER)

    def stop(self, playback: Playback) -> None:
        """Its remaining media included."""
        playback.is_stopped = True
        self._wake(self.channels[playback.channel_id], ORDER)

    def order(self, channel: Channel, steps: Steps) -> None:
        """To a channel in an application; carried out when those before it are."""
        channel.orders.append(steps)
        self._wake(channel, ORDER)

    def go_on(self, place: Place) -> Steps:
        """The order to leave for a place of the dialplan."""
        yield 0.0
        return place

    def playing(self, channel: Channel, playback: Playback) -> Steps:
        """The order to play."""
        try:
            for at in range(len(playback.media)):
                playback.at = at
                yield from self._play_one(channel, playback)
                if playback.state in ("failed", "stopped"):
                    break
        except HungUp:
            playback.state = "failed"
            self._played(channel, playback)
            raise
        self._played(channel, playback)
        return None

    def _play_one(self, channel: Channel, playback: Playback) -> Generator[float, Any, None]:
        if playback.is_stopped:
            playback.state = "stopped"
            return
        lasts = sounds.seconds(playback.media[playback.at])
        if lasts is None:
            playback.state = "failed"
            return
        playback.state = "playing"
        self._tell_playback(channel, playback, "PlaybackContinuing" if playback.at else "PlaybackStarted")
        ends_at = self.now + lasts / self._speed
        while not playback.is_stopped and (yield from _pause(ends_at - self.now)):
            continue  # another order has come; it must wait

    def _played(self, channel: Channel, playback: Playback) -> None:
        self.playbacks.pop(playback.id, None)
        if playback.state != "failed":
            playback.state = "done"
        self._tell_playback(channel, playback, "PlaybackFinished")

    def _tell_playback(self, channel: Channel, playback: Playback, kind: str) -> None:
        self._tell(channel, kind, {"playback": playback.json()})

    def wait(self, seconds: float) -> Generator[float, Any, None]:
        """Whatever else wakes the channel."""
        until = self.now + seconds
        while (yield from _pause(until - self.now)):
            continue

    def dialplan(self, channel: Channel, place: Place) -> Steps:
        """From this place on, to the end."""
        going: Place | None = place
        while going is not None:
            channel.context, channel.exten, channel.priority = going.context, going.exten, going.priority
            steps = self.places.get(going.context)
            going = None if steps is None else (yield from steps(self, channel))
        return None

    def run_app(self, channel: Channel, name: str, args: list[str]) -> Steps:
        """What an originate into an application does when it is answered: in silence nothing, if nobody is there."""
        entered, place = yield from self.stasis(channel, name, args)
        if place is not None:
            yield from self.dialplan(channel, place)
        elif not entered:
            channel.cause = NORMAL_CLEARING
        return None


def _pause(seconds: float) -> Generator[float, Any, bool]:
    """Was the wait cut short? A channel that was dialed while it is in an application ends where it waits."""
    told = yield seconds
    if told == ENDED:
        raise HungUp
    return told is not None
