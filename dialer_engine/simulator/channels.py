"""Channels, who hears of them, and what is said: every event as a whole JSON object, as Asterisk 22 has it.

An application hears of a channel once for each way it follows it: the channel itself (by an originate of its own, by
Stasis, by a subscription), the endpoint it belongs to, or every channel there is. So one event may come twice, and
is the same to the byte. While nobody is connected events are lost, but what the application follows it keeps.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from dialer_engine.simulator.sounds import Playback
from dialer_engine.simulator.threads import Thread

Json = dict[str, Any]

ASTERISK_ID = "02:00:00:00:00:01"


class HungUp(Exception):
    """Raised in a channel's script where it waits: somebody has hung up."""


@dataclass(slots=True, eq=False)
class Channel:
    """One channel. `thread` is whoever must be told of it: its own script, or that of the channel that dials it."""

    id: str
    name: str
    endpoint: str  # "PJSIP/carrier"; Local channels have none
    created: str
    state: str = "Down"
    began_at: float = 0.0
    caller: Json = field(default_factory=lambda: {"name": "", "number": ""})
    connected: Json = field(default_factory=lambda: {"name": "", "number": ""})
    protocol_id: str = ""  # the SIP Call-ID
    dialled: str = ""  # what Dial events call it
    context: str = "from-trunk"
    exten: str = "s"
    priority: int = 1
    app_name: str = ""
    app_data: str = ""
    runs: tuple[str, str] = ("", "")  # the application it is born with, and ends with
    variables: dict[str, str] = field(default_factory=dict)
    inherited: dict[str, str] = field(default_factory=dict)  # of these, under which name a leg gets it
    thread: Thread | None = None
    dialer: Channel | None = None  # whose Dial() or Queue() made it
    is_offer: bool = False  # to an agent, made by Queue()
    linked_id: str = ""  # the id of the channel for which it was made; empty: its own
    headers: dict[str, str] = field(default_factory=dict)  # of its INVITE
    other: Channel | None = None  # the other half of a Local channel
    stasis: App | None = None  # the application it is in
    line: Any = None  # to its callee, while there is one
    orders: deque[Any] = field(default_factory=deque)  # of its application, not begun yet
    playbacks: list[Playback] = field(default_factory=list)  # not ended yet
    cause: int = 0
    sip_code: int | None = None
    is_ending: bool = False
    is_renamed: bool = False  # its caller is another, and that has not been told
    followers: Counter[App] = field(default_factory=Counter)

    @property
    def device(self) -> str:
        """Whose state it is part of."""
        return self.endpoint or self.name.rpartition("-")[0]

    @property
    def is_far(self) -> bool:
        """The half of a Local channel that runs the dialplan."""
        return self.name.endswith(";2")

    def json(self) -> Json:
        """A snapshot, as events and replies carry it."""
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "protocol_id": self.protocol_id,
            "caller": self.caller,
            "connected": self.connected,
            "accountcode": "",
            "dialplan": {
                "context": self.context,
                "exten": self.exten,
                "priority": self.priority,
                "app_name": self.app_name,
                "app_data": self.app_data,
            },
            "creationtime": self.created,
            "language": "en",
        }


EVERYTHING: Mapping[str, tuple[str, ...]] = {
    "channel": ("__AST_CHANNEL_ALL_TOPIC",),
    "bridge": ("__AST_BRIDGE_ALL_TOPIC",),
    "endpoint": ("__AST_ENDPOINT_ALL_TOPIC",),
    "device": ("__AST_DEVICE_STATE_ALL_TOPIC",),
}
"""What an application follows that follows everything."""

Ear = Callable[[str, bytes], None]
"""Takes an event's type and the whole frame."""


@dataclass(slots=True, eq=False)
class App:
    """A Stasis application: what it follows outlives its socket, its ear does not."""

    name: str
    ear: Ear | None = None
    everything: bool = False  # bridges and endpoints as well as channels
    every_channel: bool = False
    allowed: list[Json] = field(default_factory=list)
    disallowed: list[Json] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=dict)  # id: how many want it
    endpoints: dict[str, int] = field(default_factory=dict)
    suffix: bytes = b""  # of each of its frames: the only thing in which they differ from another's
    _let_through: frozenset[str] = frozenset()
    _held_back: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.suffix = b',"application":' + orjson.dumps(self.name) + b"}"

    def filter(self, allowed: list[Json] | None, disallowed: list[Json] | None) -> None:
        """None: as it is; both None: none at all."""
        nothing = allowed is None and disallowed is None
        self.allowed = [] if nothing else self.allowed if allowed is None else allowed
        self.disallowed = [] if nothing else self.disallowed if disallowed is None else disallowed
        self._let_through = frozenset(str(entry["type"]) for entry in self.allowed)
        self._held_back = frozenset(str(entry["type"]) for entry in self.disallowed)

    @property
    def let_through(self) -> frozenset[str] | None:
        """Types of event; None: all but those held back."""
        return self._let_through or None

    def wants(self, kind: str) -> bool:
        if self.ear is None or kind in self._held_back:
            return False
        return not self._let_through or kind in self._let_through

    def json(self) -> Json:
        topics = EVERYTHING if self.everything else {}
        return {
            "name": self.name,
            "channel_ids": [*(EVERYTHING["channel"] if self.every_channel else ()), *sorted(self.channels)],
            "bridge_ids": [*topics.get("bridge", ())],
            "endpoint_ids": [*topics.get("endpoint", ()), *sorted(self.endpoints)],
            "device_names": [*topics.get("device", ())],
            "events_allowed": self.allowed,
            "events_disallowed": self.disallowed,
        }


class Apps:
    """The applications, and what they are told."""

    def __init__(self) -> None:
        self.by_name: dict[str, App] = {}
        self._of_endpoint: dict[str, Counter[App]] = {}
        self._of_everything: set[App] = set()
        self._of_every_channel: set[App] = set()
        self._heard: frozenset[str] | None = frozenset()  # types that anybody at all lets through; None: any

    def _listen_again(self) -> None:
        heard: set[str] = set()
        for app in self.by_name.values():
            if app.ear is not None and app.let_through is None:
                self._heard = None
                return
            heard |= (app.let_through or frozenset()) if app.ear is not None else frozenset()
        self._heard = frozenset(heard)

    def filter(self, app: App, allowed: list[Json] | None, disallowed: list[Json] | None) -> None:
        """Which types of event it is told."""
        app.filter(allowed, disallowed)
        self._listen_again()

    def connect(self, name: str, ear: Ear, *, everything: bool, now: float) -> App:
        """A socket opens. Whoever had the name hears that he is replaced, and nothing more."""
        app = self.by_name.setdefault(name, App(name))
        if app.ear is not None:
            self.send(app, "ApplicationReplaced", {}, now)
        app.ear = ear
        if everything:
            app.everything = True
            self._of_everything.add(app)
            self.follow_every_channel(app)
        self._listen_again()
        return app

    def disconnect(self, app: App, ear: Ear) -> None:
        """The socket is gone. What was followed singly is kept; what follows nothing any more is forgotten."""
        if app.ear != ear:  # bound methods are equal, never the same
            return
        app.ear, app.everything, app.every_channel = None, False, False
        self._of_everything.discard(app)
        self._of_every_channel.discard(app)
        self._forget_if_done(app)
        self._listen_again()

    def follow_every_channel(self, app: App) -> None:
        """As long as its socket lasts."""
        app.every_channel = True
        self._of_every_channel.add(app)

    def follow(self, app: App, channel: Channel) -> None:
        if app.every_channel:
            return
        channel.followers[app] += 1
        app.channels[channel.id] = channel.followers[app]

    def unfollow(self, app: App, channel: Channel) -> None:
        if app not in channel.followers:
            return
        if channel.followers[app] > 1:
            channel.followers[app] -= 1
            app.channels[channel.id] = channel.followers[app]
            return
        del channel.followers[app]
        app.channels.pop(channel.id, None)
        self._forget_if_done(app)

    def follow_endpoint(self, app: App, endpoint: str) -> None:
        followers = self._of_endpoint.setdefault(endpoint, Counter())
        followers[app] += 1
        app.endpoints[endpoint] = followers[app]

    def unfollow_endpoint(self, app: App, endpoint: str) -> None:
        followers = self._of_endpoint[endpoint]
        followers[app] -= 1
        app.endpoints[endpoint] = followers[app]
        if not followers[app]:
            del followers[app], app.endpoints[endpoint]

    def gone(self, channel: Channel) -> None:
        """Nobody can follow it any more."""
        for app in channel.followers:
            app.channels.pop(channel.id, None)
            self._forget_if_done(app)
        channel.followers.clear()

    def _forget_if_done(self, app: App) -> None:
        if app.ear is None and not app.channels and not app.endpoints:
            self.by_name.pop(app.name, None)

    def publish(
        self, channel: Channel, kind: str, body: Json, now: float, *, names_channel: bool = True
    ) -> None:
        """What happened to the channel, to everybody who follows it."""
        if self._heard is not None and kind not in self._heard:
            return
        hearers = [app for app in self._hearers(channel) if app.wants(kind)]
        if not hearers:
            return
        event: Json = {"type": kind, "timestamp": stamp(now), **body, "asterisk_id": ASTERISK_ID}
        if names_channel:
            event["channel"] = channel.json()
        frame = orjson.dumps(event)[:-1]
        for app in hearers:
            self._hand(app, kind, frame)

    def is_watched(self, endpoint: str, kind: str) -> bool:
        followers = (*self._of_endpoint.get(endpoint, ()), *self._of_everything)
        return any(app.wants(kind) for app in followers)

    def publish_endpoint(self, endpoint: str, snapshot: Json, now: float) -> None:
        """A channel of the endpoint has come or gone."""
        for app in (*self._of_endpoint.get(endpoint, ()), *self._of_everything):
            self.send(app, "EndpointStateChange", {"endpoint": snapshot}, now)

    def publish_dial(self, peer: Channel, status: str, now: float, dialled: str | None = None) -> None:
        """How the dialing of a channel goes on. Where another channel dials it, this is told to those who follow that
        one, and what was dialed only at the beginning, unless it is a queue that dials."""
        hearers = [app for app in self._hearers(peer.dialer or peer) if app.wants("Dial")]
        if not hearers:
            return
        if dialled is None:
            dialled = "" if peer.dialer is not None and status and not peer.is_offer else peer.dialled
        event: Json = {
            "type": "Dial",
            "timestamp": stamp(now),
            "dialstatus": status,
            "forward": "",
            "dialstring": dialled,
            "peer": peer.json(),
            "asterisk_id": ASTERISK_ID,
        }
        if peer.dialer is not None:
            event["caller"] = peer.dialer.json()
        frame = orjson.dumps(event)[:-1]
        for app in hearers:
            self._hand(app, "Dial", frame)

    def publish_everything(self, kind: str, body: Json, now: float) -> None:
        """What only those hear who follow everything."""
        for app in self._of_everything:
            self.send(app, kind, body, now)

    def send(self, app: App, kind: str, body: Mapping[str, Any], now: float) -> None:
        """To this application alone."""
        if app.wants(kind):
            event = {"type": kind, "timestamp": stamp(now), **body, "asterisk_id": ASTERISK_ID}
            self._hand(app, kind, orjson.dumps(event)[:-1])

    def _hearers(self, channel: Channel) -> Iterable[App]:
        """Each as often as it hears."""
        yield from channel.followers
        followers = self._of_endpoint.get(channel.endpoint)
        if followers:
            yield from followers
        if self._of_every_channel:
            yield from self._of_every_channel

    @staticmethod
    def _hand(app: App, kind: str, frame: bytes) -> None:
        if app.ear is not None:
            app.ear(kind, frame + app.suffix)


def stamp(at: float) -> str:
    """As Asterisk writes an instant: to the millisecond, in the time zone of its host, which is UTC here."""
    milliseconds = round(at * 1000)
    return f"{_second(milliseconds // 1000)}{milliseconds % 1000:03d}+0000"


@lru_cache(maxsize=4)  # the same second is written very often
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
