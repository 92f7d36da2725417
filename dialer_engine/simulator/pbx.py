"""A PBX and the people it calls, as one model: no socket, no task, no clock.

Time is the first argument of every verb. Between two verbs nothing happens until somebody says that it is later:
`advance(now)` does what is due by now, `next_at` is when something will be due again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import uuid4

from dialer_engine.simulator.callees import Callee, Population, scripted, telephone
from dialer_engine.simulator.causes import REASONS
from dialer_engine.simulator.channels import ASTERISK_ID, App, Channel, Ear, Json, stamp
from dialer_engine.simulator.dialplan import PLACES
from dialer_engine.simulator.exchange import Exchange, Place, Trunk
from dialer_engine.simulator.sounds import STOPPABLE, Playback
from dialer_engine.simulator.threads import FOREVER
from dialer_engine.simulator.world import World

DEFAULT_RING_SECONDS = 30
LONGEST_ID = 149

TRUNKS: Mapping[str, Trunk] = {
    "carrier": Trunk(),
    "carrier2": Trunk(),
    "sipp": Trunk(Callee(rings=False)),
    "carrier-auth": Trunk(Callee(rings=False, sip_code=401), is_seen=False),
    "carrier-dead": Trunk(Callee(rings=False, waits_seconds=FOREVER), is_seen=False),
    "carrier-refused": Trunk(Callee(rings=False, sip_code=503), is_seen=False),
    "nocontact": Trunk(has_contact=False),
}
"""The lab's: two that work, one whose callees answer at once and stay, one that wants a password, one that is silent,
one that refuses, and one that nobody has registered."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Refused(Exception):
    """What Asterisk answers to a request that it does not carry out."""

    def __init__(self, status: int, message: str, *, key: str = "message") -> None:
        super().__init__(message)
        self.status = status
        self.body = {key: message}


class Taken(Refused):
    """The id is a live channel's, or the beginning of one's."""

    def __init__(self) -> None:
        super().__init__(409, "Channel with given unique ID already exists")


class Unmade(Refused):
    """No channel comes of it: no such endpoint, no contact. No event tells of it."""

    def __init__(self) -> None:
        super().__init__(500, "Allocation failed", key="error")


def _verb(act: Callable[Concatenate[Pbx, _P], _T]) -> Callable[Concatenate[Pbx, float, _P], _T]:
    """What was due before is done before; what it sets off begins at once, after its reply is made."""

    def verb(self: Pbx, now: float, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        self.advance(now)
        try:
            return act(self, *args, **kwargs)
        finally:
            self.advance(now)

    return verb


class Pbx:
    """`speed` divides what callees and sounds take, not what our own side waits for.

    `population` is whoever has a number that is no script; `every_number`: scripts are not looked for. `dialplan`:
    the shipped dialplan is there. `trunks` are further PJSIP endpoints that behave like `carrier`.
    """

    def __init__(
        self,
        *,
        now: float,
        seed: int = 0,
        speed: float = 1.0,
        population: Population | None = None,
        every_number: bool = False,
        dialplan: bool = True,
        trunks: Sequence[str] = (),
        world: World | None = None,
    ) -> None:
        self.world = world or World()
        self.population = population or Population(seed)
        self.broken: dict[str, int] = {}  # carriers, by prefix: the SIP code they answer with
        self._every_number = every_number
        places = {name: place for name, place in PLACES.items() if dialplan or name != "dialer-answered"}
        self._exchange = Exchange(
            now=now,
            speed=speed,
            world=self.world,
            places=places,
            trunks={**TRUNKS, **dict.fromkeys(trunks, Trunk())},
            callee_of=self._callee_of,
        )
        self.startup_time = stamp(now)
        self.version = "22.10.1~simulated"

    # Time

    def advance(self, now: float) -> None:
        """Do what is due by now. A clock that goes back stands still here."""
        self._exchange.threads.run(now)

    @property
    def next_at(self) -> float | None:
        """When something is due; None when nothing ever is without a further request."""
        return self._exchange.threads.next_at

    def restart(self, now: float) -> None:
        """As after a crash: every channel is gone without a word, the applications are forgotten."""
        self._exchange.crash()
        self.advance(now)
        self.startup_time = stamp(now)

    # Callees

    def _callee_of(self, number: str) -> Callee:
        digits = number[-12:]
        if len(digits) == 12 and number[:-12] in self.broken:
            return Callee(rings=False, sip_code=self.broken[number[:-12]])
        if len(digits) == 4 and digits.isdecimal():
            return telephone(digits)
        found = None if self._every_number else scripted(digits)
        return found or self.population.callee(number)

    @_verb
    def hang_up_everything(self) -> None:
        """Every call, and every callee who was forgotten by a crash."""
        for channel in [*self._exchange.channels.values()]:
            self._exchange.hang_up(channel, 0)

    # Applications

    @_verb
    def connect(self, app: str, ear: Ear, *, everything: bool = False) -> App:
        """An event socket opens; its ear is told from now on what the application hears."""
        return self._exchange.apps.connect(app, ear, everything=everything, now=self._exchange.now)

    @_verb
    def disconnect(self, app: App, ear: Ear) -> None:
        """An event socket is gone."""
        self._exchange.apps.disconnect(app, ear)

    @_verb
    def applications(self) -> list[Json]:
        return [app.json() for app in self._exchange.apps.by_name.values()]

    @_verb
    def application(self, name: str) -> Json:
        return self._app(name).json()

    @_verb
    def filter(self, name: str, asked: Mapping[str, Any]) -> Json:
        app = self._app(name)
        app.filter(_types(asked, "allowed"), _types(asked, "disallowed"))
        return app.json()

    @_verb
    def subscribe(self, name: str, source: str) -> Json:
        """To "channel:ID" or "endpoint:PJSIP/NAME"."""
        app = self._app(name)
        kind, _, what = source.partition(":")
        if kind == "channel" and (channel := self._exchange.channels.get(what)) is not None:
            self._exchange.apps.follow(app, channel)
        elif kind == "endpoint" and what.removeprefix("PJSIP/") in self._exchange.trunks:
            self._exchange.apps.follow_endpoint(app, what)
        elif kind in ("channel", "endpoint", "bridge", "deviceState"):
            raise Refused(422, "Event source does not exist")
        else:
            raise Refused(400, "Invalid parameter: eventSource scheme")
        return app.json()

    @_verb
    def unsubscribe(self, name: str, source: str) -> Json:
        app = self._app(name)
        kind, _, what = source.partition(":")
        if kind == "channel" and what in app.channels:
            self._exchange.apps.unfollow(app, self._exchange.channels[what])
        elif kind == "endpoint" and what in app.endpoints:
            self._exchange.apps.unfollow_endpoint(app, what)
        else:
            raise Refused(409, "Application not subscribed to event source")
        return app.json()

    def _app(self, name: str) -> App:
        app = self._exchange.apps.by_name.get(name)
        if app is None:
            raise Refused(404, "Application not found")
        return app

    # Calls begin

    @_verb
    def originate(self, channel_id: str | None, asked: Mapping[str, Any]) -> Json:
        """Make a channel and dial it. Nobody asks whether the application exists, only whether one is named."""
        channel = self._make(channel_id, asked)
        told = channel.json()
        if asked.get("app"):
            app = str(asked["app"])
            if app in self._exchange.apps.by_name:
                self._exchange.apps.follow(self._exchange.apps.by_name[app], channel)
            then = self._exchange.run_app(channel, app, _args(asked))
        else:
            then = self._exchange.dialplan(channel, _place(asked))
        self._exchange.live(channel, self._exchange.originated(channel, _ring_seconds(asked), then))
        self._exchange.call(channel)
        return told

    @_verb
    def create(self, asked: Mapping[str, Any]) -> Json:
        """Make a channel in an application; `dial` comes later, or never."""
        channel = self._make(None, asked)
        told = channel.json()
        self._exchange.live(channel, self._exchange.run_app(channel, str(asked.get("app", "")), _args(asked)))
        return told

    @_verb
    def dial(self, channel_id: str, asked: Mapping[str, Any]) -> None:
        """Dial a channel that was created."""
        channel = self._in_app(channel_id)
        if channel.state not in ("Down", "Rsrvd"):
            raise Refused(409, "Channel is already dialed or up")
        self._exchange.dial_created(channel, _ring_seconds(asked))

    def _make(self, channel_id: str | None, asked: Mapping[str, Any]) -> Channel:
        endpoint = str(asked.get("endpoint") or "")
        if not endpoint:
            raise Refused(400, "Endpoint must be specified")
        technology, slash, resource = endpoint.partition("/")
        if not slash or not resource:
            raise Refused(400, "Invalid endpoint specified")
        if not asked.get("app") and not asked.get("extension"):
            raise Refused(400, "Application or extension must be specified")
        channel_id = str(channel_id or asked.get("channelId") or self._exchange.new_id())
        other_id = str(asked.get("otherChannelId") or "")
        if max(len(channel_id), len(other_id)) > LONGEST_ID:
            raise Refused(400, f"Uniqueid length exceeds maximum of {LONGEST_ID}")
        if any(self._exchange.is_taken(name) for name in (channel_id, other_id) if name):
            raise Taken
        number, _, where = resource.partition("@")
        if technology.lower() == "local":
            context, _, _ = (where or "default").partition("/")
            other_id = other_id or f"{self._exchange.new_id()}"
            channel = self._exchange.new_local(channel_id, other_id, number, context)
        else:
            trunk = where or number
            if technology.upper() != "PJSIP" or not self._has_contact(trunk):
                raise Unmade
            channel = self._exchange.new_call(channel_id, trunk)
            channel.number = number
        self._describe(channel, asked)
        return channel

    def _has_contact(self, trunk: str) -> bool:
        known = self._exchange.trunks.get(trunk)
        return known is not None and known.has_contact

    def _describe(self, channel: Channel, asked: Mapping[str, Any]) -> None:
        caller = _name_and_number(str(asked.get("callerId") or ""))
        channel.connected = caller
        for name, value in variables_of(asked).items():
            self._exchange.set_variable(channel, name, value)

    # Calls go on

    @_verb
    def channels(self) -> list[Json]:
        return [channel.json() for channel in self._exchange.channels.values()]

    @_verb
    def channel(self, channel_id: str) -> Json:
        return self._channel(channel_id).json()

    @_verb
    def hang_up(self, channel_id: str, asked: Mapping[str, Any]) -> None:
        channel = self._channel(channel_id)
        if "reason_code" in asked:
            cause = _whole(asked, "reason_code", 16)
        else:
            reason = str(asked.get("reason") or "normal")
            if reason not in REASONS:
                raise Refused(400, "Invalid Reason")
            cause = REASONS[reason]
        self._exchange.hang_up(channel, cause, by_us=True)

    @_verb
    def play(self, channel_id: str, playback_id: str | None, asked: Mapping[str, Any]) -> Json:
        channel = self._in_app(channel_id)
        media = asked.get("media")
        uris = media.split(",") if isinstance(media, str) else [str(uri) for uri in media or []]
        if not uris:
            raise Refused(400, "Media must be specified")
        playback_id = playback_id or str(asked.get("playbackId") or uuid4())
        if playback_id in self._exchange.playbacks:
            raise Refused(409, "Playback ID already in use")
        playback = self._exchange.playbacks[playback_id] = Playback(playback_id, channel.id, uris)
        self._exchange.order(channel, self._exchange.playing(channel, playback))
        return playback.json()

    @_verb
    def playback(self, playback_id: str) -> Json:
        return self._playback(playback_id).json()

    @_verb
    def stop_playback(self, playback_id: str) -> None:
        playback = self._playback(playback_id)
        if playback.state == "playing" and playback.kind not in STOPPABLE:
            raise Refused(500, "Could not stop playback")
        self._exchange.stop(playback)

    @_verb
    def go_on(self, channel_id: str, asked: Mapping[str, Any]) -> None:
        """`continue`: into the dialplan, when the orders before are carried out."""
        channel = self._in_app(channel_id)
        place = Place(
            str(asked.get("context") or channel.context),
            str(asked.get("extension") or channel.exten),
            _whole(asked, "priority", 1),
        )
        self._exchange.order(channel, self._exchange.go_on(place))

    @_verb
    def set_variables(self, channel_id: str, variables: Mapping[str, str]) -> None:
        channel = self._in_app(channel_id)
        for name, value in variables.items():
            self._exchange.set_variable(channel, name, value)

    @_verb
    def variable(self, channel_id: str, name: str) -> str:
        channel = self._channel(channel_id)
        if name not in channel.variables:
            raise Refused(404, "Provided variable was not found")
        return channel.variables[name]

    def _channel(self, channel_id: str) -> Channel:
        channel = self._exchange.channels.get(channel_id)
        if channel is None:
            raise Refused(404, "Channel not found")
        return channel

    def _in_app(self, channel_id: str) -> Channel:
        channel = self._channel(channel_id)
        if channel.stasis is None:
            raise Refused(409, "Channel not in Stasis application")
        return channel

    def _playback(self, playback_id: str) -> Playback:
        playback = self._exchange.playbacks.get(playback_id)
        if playback is None:
            raise Refused(404, "Playback not found")
        return playback

    # The PBX itself

    @_verb
    def device_state(self, name: str) -> Json:
        """Of a Local channel to a place: INVALID when there is no such place."""
        technology, _, resource = name.partition("/")
        if technology.lower() == "local":
            known = resource.partition("@")[2].partition("/")[0] in self._exchange.places
        else:
            known = self._has_contact(resource)
        return {"name": name, "state": "NOT_INUSE" if known else "INVALID"}

    def info(self) -> Json:
        return {
            "build": {"os": "Linux", "kernel": "", "machine": "", "options": "", "date": "", "user": ""},
            "system": {"version": self.version, "entity_id": ASTERISK_ID},
            "config": {"name": "simulated", "default_language": "en", "setid": {"user": "", "group": ""}},
            "status": {"startup_time": self.startup_time, "last_reload_time": self.startup_time},
        }

    def endpoints(self) -> list[Json]:
        return [
            {
                "technology": "PJSIP",
                "resource": name,
                "state": "online" if trunk.has_contact else "offline",
                "channel_ids": [
                    channel.id
                    for channel in self._exchange.channels.values()
                    if channel.endpoint == f"PJSIP/{name}"
                ],
            }
            for name, trunk in self._exchange.trunks.items()
        ]


def _types(asked: Mapping[str, Any], key: str) -> list[Json]:
    entries = asked.get(key) or []
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and "type" in entry for entry in entries
    ):
        raise Refused(400, f"Invalid parameter: {key} is no list of objects with a type")
    return entries


def _whole(asked: Mapping[str, Any], key: str, otherwise: int) -> int:
    """A whole number, as text or not."""
    value = asked.get(key, otherwise)
    try:
        return int(value)
    except (TypeError, ValueError) as exc:
        raise Refused(400, f"Invalid parameter: {key} is no whole number") from exc


def _ring_seconds(asked: Mapping[str, Any]) -> float:
    seconds = _whole(asked, "timeout", 0)
    return FOREVER if seconds == -1 else float(seconds or DEFAULT_RING_SECONDS)


def _args(asked: Mapping[str, Any]) -> list[str]:
    args = str(asked.get("appArgs") or "")
    return args.split(",") if args else []


def _place(asked: Mapping[str, Any]) -> Place:
    context, exten = str(asked.get("context") or "default"), str(asked["extension"])
    return Place(context, exten, _whole(asked, "priority", 1))


def _name_and_number(caller_id: str) -> Json:
    """`"Name" <number>`, `Name <number>` or a number."""
    name, angle, number = caller_id.partition("<")
    if not angle:
        return {"name": "", "number": caller_id}
    return {"name": name.strip().strip('"'), "number": number.rstrip("> ")}


def variables_of(asked: Mapping[str, Any]) -> dict[str, str]:
    """Each value is a text, or an object that holds one."""
    variables = asked.get("variables") or {}
    if not isinstance(variables, dict):
        raise Refused(400, "Invalid parameter: variables is no object")
    found = {}
    for name, value in variables.items():
        text = value.get("value") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise Refused(400, "Only string values in the 'variables' object allowed")
        found[name] = text
    return found
