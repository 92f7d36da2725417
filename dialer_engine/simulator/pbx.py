"""A PBX and the people it calls, as one model: no socket, no task, no clock.

Time is the first argument of every verb. Between two verbs nothing happens until somebody says that it is later:
`advance(now)` does what is due by now, `next_at` is when something will be due again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from dialer_engine.simulator.agents import Agent, Staff
from dialer_engine.simulator.callees import Callee, Population, scripted, telephone
from dialer_engine.simulator.causes import REASONS
from dialer_engine.simulator.channels import ASTERISK_ID, App, Channel, Ear, Json, stamp
from dialer_engine.simulator.dialplan import PLACES, SHIPPED, is_place, places_of_queues
from dialer_engine.simulator.exchange import Exchange, Place, Steps, Trunk
from dialer_engine.simulator.queueing import Queueing
from dialer_engine.simulator.queues import QueueRules, Queues
from dialer_engine.simulator.requests import (
    Refused,
    Taken,
    Unmade,
    args_of,
    endpoint_of,
    name_and_number,
    place_of,
    ring_seconds_of,
    types_of,
    variables_of,
    whole,
)
from dialer_engine.simulator.scripts import (
    Places,
    dialed_in_app,
    dialplan,
    going_on,
    nowhere,
    originated,
    playing,
    run_app,
)
from dialer_engine.simulator.sounds import STOPPABLE, Playback
from dialer_engine.simulator.threads import FOREVER
from dialer_engine.simulator.world import World

INBOUND = "inbound"
LONGEST_ID = 149

TRUNKS: Mapping[str, Trunk] = {
    "carrier": Trunk(),
    "carrier2": Trunk(),
    "sipp": Trunk(Callee(rings=False)),
    "carrier-auth": Trunk(Callee(rings=False, sip_code=401), is_seen=False),
    "carrier-dead": Trunk(Callee(rings=False, waits_seconds=FOREVER), is_seen=False),
    "carrier-refused": Trunk(Callee(rings=False, sip_code=503), is_seen=False),
    "nocontact": Trunk(has_contact=False),
    INBOUND: Trunk(has_contact=False, context="calls-in"),
}
"""The lab's: two that work, one whose callees answer at once and stay, one that wants a password, one that is silent,
one that refuses, and two that nobody has registered; through the last one come calls from outside."""
TELEPHONE = Trunk(context="telephones", is_busy_at_one=True)
TELEPHONES: Mapping[str, Trunk] = {
    str(extension): TELEPHONE
    for extension in (*range(1001, 1061), *range(2001, 2011), 3001, 3002, 4001, *range(5001, 5005), 6001, 6002)
}
"""Of agents, as in the lab; what each of them does stands in `callees`."""
_COLOURS = ("red", "white", "black", "grey", "pink", "cyan", "lime", "navy", "teal", "gold")
QUEUES: Mapping[str, QueueRules] = {
    **dict.fromkeys(("green", "blue", "amber", "violet"), QueueRules(wrap_up=5, template="campaigns")),
    **dict.fromkeys(_COLOURS, QueueRules(template="campaigns")),
    "shipped": QueueRules(wrap_up=5, autopause=True, rings_out=True),
}
"""The lab's. Nobody is logged in."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


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
    the shipped dialplan is there. `trunks` are further PJSIP endpoints that behave like `carrier`. `agents` are at work
    from the beginning.
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
        queues: Mapping[str, QueueRules] = QUEUES,
        agents: Sequence[Agent] = (),
        world: World | None = None,
    ) -> None:
        self.world = world or World()
        self.population = population or Population(seed)
        self.broken: dict[str, int] = {}  # carriers, by prefix: the SIP code they answer with
        self._every_number = every_number
        self._exchange = exchange = Exchange(
            now=now,
            speed=speed,
            world=self.world,
            trunks={**TRUNKS, **TELEPHONES, **dict.fromkeys(trunks, Trunk())},
            callee_of=self._callee_of,
        )
        self.sessions = exchange.sessions
        self.queues = Queues(exchange, queues)
        self._places = self._dialplan(shipped=dialplan)
        self._staff = Staff(exchange, self.queues, agents, seed, self._dial_out)
        self.began_at = now
        self.startup_time = stamp(now)
        self.version = "22.10.1~simulated"

    def _dialplan(self, *, shipped: bool) -> Places:
        places: dict[str, Callable[[Exchange, Channel], Steps]] = {**PLACES}
        places |= places_of_queues(Queueing(self._exchange, self.queues, places))
        return {name: place for name, place in places.items() if shipped or name not in SHIPPED}

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
        self.queues.crash()
        self.advance(now)
        self.began_at, self.startup_time = now, stamp(now)

    # Callees

    def _callee_of(self, number: str, asked: bool) -> Callee | None:
        if not re.fullmatch(r"[+*0-9].+", number):
            return None
        digits = number[-12:]
        if len(digits) == 12 and number[:-12] in self.broken:
            return Callee(rings=False, sip_code=self.broken[number[:-12]])
        if re.fullmatch(r"[0-9]{4}", number):
            return self._staff.callee(number) or telephone(number, asked=asked)
        found = None if self._every_number else scripted(digits)
        return found or self.population.callee(number)

    @_verb
    def hang_up_everything(self) -> None:
        """Every call, and every callee who was forgotten by a crash."""
        self._exchange.hang_up_everything()

    # Agents, and who calls in

    @_verb
    def act(self, deed: Callable[[], _T]) -> _T:
        """Anything else, of the queues for instance."""
        return deed()

    def tell_user_event(self, name: str, fields: Sequence[tuple[str, str]]) -> None:
        """AMI's own UserEvent, of no channel."""
        self.sessions.tell("user", "UserEvent", [("UserEvent", name), *fields], self._exchange.now)

    @_verb
    def employ(self, agent: Agent) -> None:
        """He works so from now on, and is logged in to his queues."""
        self._staff.log_in(agent)

    @_verb
    def plug(self, telephone: str, *, plugged: bool) -> None:
        """A cable is put in, or pulled out: the PBX notices it at once. What talks goes on."""
        if telephone not in self._exchange.trunks:
            raise Refused(404, "no such telephone")
        self._exchange.plug(telephone, plugged=plugged)

    def _dial_out(self, telephone: str, exten: str) -> None:
        channel = self._exchange.dial_out(telephone, exten)
        place = Place(channel.context, exten)
        self._exchange.live(channel, dialplan(self._exchange, channel, place, self._places))

    @_verb
    def call_in(self, dialled: str, caller: str, stay_seconds: float) -> str:
        """Somebody calls from outside and hangs up so long after he is answered; the channel's id."""
        exchange = self._exchange
        channel = exchange.new_call(exchange.new_id(), INBOUND, dialled)
        channel.exten, channel.caller = dialled, {"name": "", "number": caller}
        exchange.change(channel, "Ring")
        exchange.live(channel, dialplan(exchange, channel, Place(channel.context, dialled), self._places))
        exchange.come_in(channel, stay_seconds)
        return channel.id

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
        self._exchange.apps.filter(app, types_of(asked, "allowed"), types_of(asked, "disallowed"))
        return app.json()

    @_verb
    def subscribe(self, name: str, source: str) -> Json:
        """To "channel:ID", "channel:" (all of them) or "endpoint:PJSIP/NAME"."""
        app = self._app(name)
        kind, _, what = source.partition(":")
        if source == "channel:":
            self._exchange.apps.follow_every_channel(app)
        elif kind == "channel" and (channel := self._exchange.channels.get(what)) is not None:
            self._exchange.apps.follow(app, channel)
        elif kind == "endpoint" and what.removeprefix("PJSIP/") in self._exchange.trunks:
            self._exchange.apps.follow_endpoint(app, what)
        elif kind in ("channel", "endpoint", "bridge", "deviceState"):
            raise Refused(422, "Event source does not exist")
        else:
            raise Refused(400, "Invalid event source URI scheme")
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
            raise Refused(422, "Event source was not subscribed to")
        return app.json()

    @_verb
    def say_user_event(self, name: str, event: str, variables: Mapping[str, str]) -> None:
        """Of no channel, to the application itself and to nobody else. It need not be connected."""
        app, body = self._app(name), {"eventname": event, "userevent": {**variables, "eventname": event}}
        self._exchange.apps.send(app, "ChannelUserevent", body, self._exchange.now)

    def _app(self, name: str) -> App:
        app = self._exchange.apps.by_name.get(name)
        if app is None:
            raise Refused(404, "Application not found")
        return app

    # Calls begin

    @_verb
    def originate(self, channel_id: str | None, asked: Mapping[str, Any]) -> Json:
        """Make a channel and dial it. Nobody asks whether the application exists, only whether one is named."""
        if not asked.get("app") and not asked.get("extension"):
            endpoint_of(asked)
            raise Refused(400, "Application or extension must be specified")
        if asked.get("originator") and str(asked["originator"]) not in self._exchange.channels:
            raise Refused(400, "Provided originator channel was not found")
        ring_seconds, place, app = ring_seconds_of(asked), place_of(asked), str(asked.get("app") or "")
        variables, caller = variables_of(asked), name_and_number(str(asked.get("callerId") or ""))
        channel = self._make(channel_id, asked)
        self._exchange.introduce(channel, caller, caller, "AppDial2", at_once=False)
        self._set(channel, variables)
        self._follow(app, channel)
        told = channel.json()
        if app:
            then = run_app(self._exchange, channel, app, args_of(asked), self._places)
        else:
            then = dialplan(self._exchange, channel, place, self._places)
        self._dial(channel, ring_seconds, then)
        return told

    def _follow(self, name: str, channel: Channel) -> None:
        """An application that is not there is not missed."""
        app = self._exchange.apps.by_name.get(name)
        for half in (channel, channel.other):
            if half is not None and app is not None:
                self._exchange.apps.follow(app, half)

    def _dial(self, channel: Channel, ring_seconds: float, then: Steps) -> None:
        exchange, far = self._exchange, channel.other
        if far is None:
            exchange.live(channel, originated(exchange, channel, ring_seconds, then))
            exchange.invite(channel, channel.dialled)
        elif is_place(far.context, far.exten):
            exchange.introduce(far, channel.connected, channel.caller, at_once=True)
            exchange.live(channel, originated(exchange, channel, ring_seconds, then))
            exchange.live(far, dialplan(exchange, far, Place(far.context, far.exten), self._places))
        else:
            exchange.introduce(far, channel.connected, channel.caller, at_once=True)
            exchange.live(channel, nowhere(exchange, far))

    @_verb
    def create(self, asked: Mapping[str, Any]) -> Json:
        """Make a channel in an application; `dial` comes later, or never."""
        variables = variables_of(asked)
        channel = self._make(None, asked)
        self._set(channel, variables)
        told = channel.json()
        app = str(asked.get("app") or "")
        self._follow(app, channel)
        self._exchange.live(channel, run_app(self._exchange, channel, app, args_of(asked), self._places))
        return told

    @_verb
    def dial(self, channel_id: str, asked: Mapping[str, Any]) -> None:
        """Dial a channel that was created."""
        channel = self._in_app(channel_id)
        ring_seconds = ring_seconds_of(asked)
        if channel.state != "Down" or not channel.dialled:
            raise Refused(409, "Channel is not in a state to be dialed")
        self._exchange.threads.start(dialed_in_app(self._exchange, channel, ring_seconds, self._places))

    def _make(self, channel_id: str | None, asked: Mapping[str, Any]) -> Channel:
        technology, resource = endpoint_of(asked)
        channel_id = str(channel_id or asked.get("channelId") or self._exchange.new_id())
        number, _, where = resource.partition("@")
        other_id = str(asked.get("otherChannelId") or f"{channel_id};2") if technology == "LOCAL" else ""
        if max(len(channel_id), len(other_id)) > LONGEST_ID:
            raise Refused(400, f"Uniqueid length exceeds maximum of {LONGEST_ID}")
        if any(self._exchange.is_taken(name) for name in (channel_id, other_id) if name):
            raise Taken
        if other_id and channel_id.lower().startswith(other_id.lower()):
            raise Taken  # the far half is made after the near one
        if technology == "LOCAL":
            exten, _, context = resource.partition("/")[0].partition("@")  # without its options
            near = self._exchange.new_local(channel_id, other_id, exten, context or "default")
            near.dialled = resource
            return near
        if technology != "PJSIP" or not self._has_contact(where or number):
            raise Unmade
        return self._exchange.new_call(channel_id, where or number, number)

    def _has_contact(self, trunk: str) -> bool:
        known = self._exchange.trunks.get(trunk)
        return known is not None and known.has_contact

    def _set(self, channel: Channel, variables: Mapping[str, str]) -> None:
        for name, value in variables.items():
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
        if "reason" in asked and "reason_code" in asked:
            raise Refused(400, "The reason and reason_code can't both be specified")
        reason = str(asked.get("reason") or "normal")
        if reason not in REASONS:
            raise Refused(400, "Invalid reason for hangup reason provided")
        self._exchange.hang_up(channel, whole(asked, "reason_code", REASONS[reason]))

    @_verb
    def play(self, channel_id: str, playback_id: str | None, asked: Mapping[str, Any]) -> Json:
        channel = self._in_app(channel_id)
        media = asked.get("media")
        listed = media.split(",") if isinstance(media, str) else media
        uris = [str(uri) for uri in listed] if isinstance(listed, list) else []
        if not uris:
            raise Refused(500, "Failed to queue media for playback")
        playback_id = playback_id or str(asked.get("playbackId") or self._exchange.new_id())
        if playback_id in self._exchange.playbacks:
            raise Refused(409, "Playback ID already in use")
        playback = self._exchange.playbacks[playback_id] = Playback(playback_id, channel.id, uris)
        channel.playbacks.append(playback)
        self._exchange.order(channel, playing(self._exchange, channel, playback))
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
            whole(asked, "priority", 1),
        )
        self._exchange.order(channel, going_on(place))

    @_verb
    def set_variable(self, channel_id: str, name: str, value: str) -> None:
        self._exchange.set_variable(self._in_app(channel_id), name, value)

    @_verb
    def set_variables(self, channel_id: str, variables: Mapping[str, str]) -> None:
        self._channel(channel_id, "Provided channel was not found")
        self._set(self._in_app(channel_id), variables)

    @_verb
    def variable(self, channel_id: str, name: str) -> str:
        """A variable, or one of the few functions that are known here."""
        channel = self._channel(channel_id, "Provided channel was not found")
        if name in _FUNCTIONS:
            return str(_FUNCTIONS[name](channel))
        if "(" in name:
            raise Refused(500, "Unable to read provided function")
        if name not in channel.variables:
            raise Refused(404, "Provided variable was not found")
        return channel.variables[name]

    def _channel(self, channel_id: str, otherwise: str = "Channel not found") -> Channel:
        channel = self._exchange.channels.get(channel_id)
        if channel is None:
            raise Refused(404, otherwise)
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
            exten, _, context = resource.partition("@")
            known = context in self._places and is_place(context, exten)
        else:
            known = technology.upper() == "PJSIP" and self._has_contact(resource)
        return {"name": name, "state": "NOT_INUSE" if known else "INVALID"}

    def info(self) -> dict[str, Json]:
        build = dict.fromkeys(("os", "kernel", "machine", "options", "date", "user"), "simulated")
        files = {
            "name": "",
            "default_language": "en",
            "setid": {"user": "", "group": ""},
            "max_open_files": 20_000,
        }
        return {
            "build": build,
            "system": {"version": self.version, "entity_id": ASTERISK_ID},
            "config": files,
            "status": {"startup_time": self.startup_time, "last_reload_time": self.startup_time},
        }

    def endpoints(self) -> list[Json]:
        return [self._exchange.endpoint(name) for name in self._exchange.trunks]


_FUNCTIONS: Mapping[str, Callable[[Channel], object]] = {
    "CALLERID(num)": lambda channel: channel.caller["number"],
    "CALLERID(name)": lambda channel: channel.caller["name"],
    "CHANNEL(state)": lambda channel: channel.state,
    "CHANNEL(name)": lambda channel: channel.name,
}
