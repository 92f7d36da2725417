"""What takes a channel time: to be dialed, to be in an application, to play, to run through the dialplan."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeAlias

from dialer_engine.simulator import sounds
from dialer_engine.simulator.causes import status_of
from dialer_engine.simulator.channels import App, Channel, HungUp, Json, stamp
from dialer_engine.simulator.exchange import ANSWERED, ENDED, NORMAL_CLEARING, Exchange, Place, Steps
from dialer_engine.simulator.sounds import Playback
from dialer_engine.simulator.threads import FOREVER, Script

NO_ANSWER = 19
RUN_OUT = 16
"""What Asterisk puts in the place of the cause when the dialplan has come to its end (AST_SOFTHANGUP_APPUNLOAD)."""
DIALSTATUS = {17: "BUSY", 34: "CONGESTION", 16: "NOANSWER", 19: "NOANSWER"}
"""What Dial() leaves behind, which is not the status of its last event; every other cause is CHANUNAVAIL."""

DIAL_VARIABLES = (
    "DIALSTATUS", "DIALEDPEERNUMBER", "DIALEDPEERNAME", "ANSWEREDTIME", "ANSWEREDTIME_MS", "DIALEDTIME",
    "DIALEDTIME_MS", "RINGTIME", "RINGTIME_MS", "PROGRESSTIME", "PROGRESSTIME_MS",
)  # fmt: skip
"""Emptied at its beginning."""

Places: TypeAlias = Mapping[str, Callable[[Exchange, Channel], Steps]]
"""By context."""
Handler: TypeAlias = Callable[[Exchange, Channel], None]
"""Takes no time."""


def pause(seconds: float) -> Generator[float, Any, bool]:
    """Was it cut short? A channel that is dialed while it is in an application ends where it waits."""
    told = yield seconds
    if told == ENDED:
        raise HungUp
    return told is not None


def wait(exchange: Exchange, seconds: float) -> Generator[float, Any, None]:
    """All of it, whatever comes."""
    until = exchange.now + seconds
    while (yield from pause(until - exchange.now)):
        pass


# Dialing


def originated(exchange: Exchange, channel: Channel, timeout_seconds: float, then: Steps) -> Steps:
    """Dial, and if it is answered, go on."""
    exchange.apps.publish_dial(channel, "", exchange.now)
    if (yield from _ringing(exchange, channel, timeout_seconds)):
        yield from then
    return None


def nowhere(exchange: Exchange, far: Channel) -> Steps:
    """A Local channel to a place that is not in the dialplan is taken, and ends by itself."""
    yield 0.0
    exchange.destroy(far)
    return None


def _ringing(exchange: Exchange, channel: Channel, timeout_seconds: float) -> Generator[float, Any, bool]:
    """Wait: was it answered? A time-out has no last Dial event; that is Asterisk's own trap."""
    gives_up_at = exchange.now + timeout_seconds
    try:
        while (told := (yield gives_up_at - exchange.now)) not in (ANSWERED, ENDED):
            if told is None:
                channel.cause = NO_ANSWER
                return False
    except HungUp:
        if channel.dialer is None:
            exchange.apps.publish_dial(channel, status_of(channel.cause), exchange.now)
        raise
    return bool(told == ANSWERED)


def dialed_in_app(exchange: Exchange, channel: Channel, timeout_seconds: float, places: Places) -> Script:
    """A channel that was created is dialed, beside whatever its application does with it."""
    exchange.apps.publish_dial(channel, "", exchange.now)
    channel.dialled, dialled = "", channel.dialled  # only the first of its Dial events names it
    far = channel.other
    if far is None:
        exchange.invite(channel, dialled)
    else:
        exchange.live(far, dialplan(exchange, far, Place(far.context, far.exten), places))
    yield timeout_seconds
    if channel.state != "Up":
        exchange.hang_up(channel, NO_ANSWER)


def dial(
    exchange: Exchange,
    channel: Channel,
    trunk: str,
    number: str,
    timeout_seconds: float,
    *,
    before_dial: Handler | None = None,
    when_answered: Handler | None = None,
) -> Generator[float, Any, str]:
    """Dial(): until it is over; its DIALSTATUS. The cause is left on the channel, as HANGUPCAUSE. `before_dial` and
    `when_answered` are its options b and U: run on the new leg."""
    for name in DIAL_VARIABLES:
        exchange.set_variable(channel, name, "")
    leg = exchange.new_call(exchange.new_id(), trunk, number)
    exchange.set_variable(leg, "DIALEDPEERNUMBER", leg.dialled)
    leg.dialer, leg.thread, leg.exten = channel, channel.thread, number
    leg.linked_id = channel.linked_id or channel.id
    exchange.introduce(leg, {**channel.caller, "number": number}, channel.caller, "AppDial", at_once=True)
    exchange.inherit(channel, leg)
    if before_dial is not None:
        before_dial(exchange, leg)
    exchange.apps.publish_dial(leg, "", exchange.now)
    exchange.connect(channel, leg.caller)
    exchange.invite(leg, leg.dialled)
    try:
        answered = yield from _ringing(exchange, leg, timeout_seconds)
        if answered and when_answered is not None:
            when_answered(exchange, leg)
        if answered:
            yield from bridged(exchange, channel, leg)
    except HungUp:
        if leg.state != "Up":
            exchange.apps.publish_dial(leg, "CANCEL", exchange.now)
        leg.cause = leg.cause or channel.cause or NORMAL_CLEARING
        exchange.destroy(leg)
        raise
    channel.cause = leg.cause
    status = "ANSWER" if answered else DIALSTATUS.get(leg.cause, "CHANUNAVAIL")
    exchange.destroy(leg)
    exchange.set_variable(channel, "DIALSTATUS", status)
    return status


def bridged(exchange: Exchange, channel: Channel, leg: Channel) -> Generator[float, Any, None]:
    """Both talk, until one of them hangs up. Of the bridge itself only those hear who follow everything."""
    exchange.change(channel, "Up")
    exchange.step(leg, leg.priority, *leg.runs)
    began_at, bridge = exchange.now, Bridge(exchange)
    for one, other in ((leg, channel), (channel, leg)):
        bridge.enter(one)
        exchange.set_variable(one, "BRIDGEPEER", other.name)
        if other.protocol_id:
            exchange.set_variable(one, "BRIDGEPVTCALLID", other.protocol_id)
    try:
        while not leg.is_ending:
            yield FOREVER
    finally:
        for one, other in ((leg, channel), (channel, leg)):
            exchange.set_variable(one, "BRIDGEPEER", "")
            if other.protocol_id:
                exchange.set_variable(one, "BRIDGEPVTCALLID", "")
            bridge.leave(one)
        bridge.end()
    exchange.set_time(channel, "ANSWEREDTIME", exchange.now - began_at)
    exchange.set_time(channel, "DIALEDTIME", exchange.now - leg.began_at)


class Bridge:
    """Where two channels meet; nothing but what is told of it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._inside: list[str] = []
        self._json: Json = {
            "id": exchange.new_id(),
            "technology": "simple_bridge",
            "bridge_type": "mixing",
            "bridge_class": "basic",
            "creator": "",
            "name": "",
            "creationtime": stamp(exchange.now),
            "video_mode": "none",
        }
        self._tell("BridgeCreated")

    def enter(self, channel: Channel) -> None:
        self._inside.append(channel.id)
        self._tell("ChannelEnteredBridge", channel)

    def leave(self, channel: Channel) -> None:
        self._inside.remove(channel.id)
        self._tell("ChannelLeftBridge", channel)

    def end(self) -> None:
        self._tell("BridgeDestroyed")

    def _tell(self, kind: str, channel: Channel | None = None) -> None:
        body: Json = {"bridge": {**self._json, "channels": [*self._inside]}}
        if channel is not None:
            body["channel"] = channel.json()
        self._exchange.apps.publish_everything(kind, body, self._exchange.now)


# In an application


def run_app(exchange: Exchange, channel: Channel, name: str, args: list[str], places: Places) -> Steps:
    """What an originate into an application does when it is answered: nothing, in silence, if nobody is there.

    Where the channel is sent on to, it runs the dialplan inside the application that it has left (its status comes
    only then).
    """
    entered, place = yield from stasis(exchange, channel, name, args)
    if not entered:
        channel.cause = NORMAL_CLEARING
    if place is not None:
        try:
            yield from _through(exchange, channel, place, places)
        finally:
            exchange.set_variable(channel, "STASISSTATUS", "SUCCESS")
    return None


def stasis(
    exchange: Exchange, channel: Channel, name: str, args: list[str]
) -> Generator[float, Any, tuple[bool, Place | None]]:
    """Stasis(), until the application is left: was anybody there, and where does the channel go on, if anywhere?"""
    channel.app_name, channel.app_data = "Stasis", ",".join([name, *args])
    exchange.set_variable(channel, "STASISSTATUS", "")
    app = exchange.apps.by_name.get(name)
    if app is None or app.ear is None:
        exchange.set_variable(channel, "STASISSTATUS", "FAILED")
        return False, None
    channel.stasis = app
    exchange.apps.follow(app, channel)
    exchange.apps.send(app, "StasisStart", {"args": args, "channel": channel.json()}, exchange.now)
    try:
        place = yield from _obey(channel)
    except HungUp:
        _leave(exchange, channel, app)
        exchange.set_variable(channel, "STASISSTATUS", "SUCCESS")
        raise
    _leave(exchange, channel, app)
    return True, place


def _obey(channel: Channel) -> Steps:
    """One order after the other; one that names a place is the last."""
    while True:
        while channel.orders:
            place: Place | None = yield from channel.orders.popleft()
            if place is not None:
                return place
        yield from pause(FOREVER)


def _leave(exchange: Exchange, channel: Channel, app: App) -> None:
    """What was to be played has failed."""
    for playback in channel.playbacks:
        playback.state = "failed"
        _tell(exchange, channel, playback, "PlaybackFinished")
        exchange.playbacks.pop(playback.id, None)
    channel.playbacks.clear()
    channel.orders.clear()
    channel.stasis = None
    exchange.apps.send(app, "StasisEnd", {"channel": channel.json()}, exchange.now)
    exchange.apps.unfollow(app, channel)


def going_on(place: Place) -> Steps:
    """The order to leave for a place of the dialplan."""
    yield 0.0
    return place


def playing(exchange: Exchange, channel: Channel, playback: Playback) -> Steps:
    """The order to play. A sound that is not there is passed over; a medium of a kind that nobody knows, and a
    recording that is not there, end it without a word. That is Asterisk's own trap."""
    heard_of = yield from _play(exchange, channel, playback)
    channel.playbacks.remove(playback)
    del exchange.playbacks[playback.id]
    if heard_of:
        _tell(exchange, channel, playback, "PlaybackFinished")
    return None


def _play(exchange: Exchange, channel: Channel, playback: Playback) -> Generator[float, Any, bool]:
    for at, uri in enumerate(playback.media):
        if playback.is_stopped:
            break
        if at:
            playback.state = "continuing"
            _tell(exchange, channel, playback, "PlaybackContinuing")
        playback.at = at
        if not sounds.is_known(uri):
            return False
        playback.state = "playing"
        _tell(exchange, channel, playback, "PlaybackStarted")
        lasts = sounds.seconds(uri)
        playback.state = "failed" if lasts is None else "done"
        if lasts is not None:
            yield from _sound(exchange, playback, lasts / exchange.speed)
    else:
        return True
    playback.state = "done"
    return True


def _sound(exchange: Exchange, playback: Playback, seconds: float) -> Generator[float, Any, None]:
    """Until it ends or is stopped; further orders wait."""
    playback.state = "playing"
    ends_at = exchange.now + seconds
    while not playback.is_stopped and (yield from pause(ends_at - exchange.now)):
        pass
    playback.state = "done"


def _tell(exchange: Exchange, channel: Channel, playback: Playback, kind: str) -> None:
    exchange.apps.publish(channel, kind, {"playback": playback.json()}, exchange.now, names_channel=False)


# Through the dialplan


def dialplan(exchange: Exchange, channel: Channel, place: Place, places: Places) -> Steps:
    """From this place on, to the end, which is a hang-up of its own."""
    try:
        yield from _through(exchange, channel, place, places)
    finally:
        exchange.tell(channel, "ChannelHangupRequest", {"cause": RUN_OUT, "soft": True})
    return None


def _through(exchange: Exchange, channel: Channel, place: Place, places: Places) -> Steps:
    going: Place | None = place
    while going is not None:
        channel.context, channel.exten, channel.priority = going.context, going.exten, going.priority
        steps = places.get(going.context)
        going = None if steps is None else (yield from steps(exchange, channel))
    return None


def playback(exchange: Exchange, *names: str) -> Generator[float, Any, None]:
    """Playback(): one sound after the other."""
    for name in names:
        yield from wait(exchange, (sounds.seconds(f"sound:{name}") or 0.0) / exchange.speed)
