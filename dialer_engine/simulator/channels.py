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
    caller: Json = field(default_factory=lambda: {"name": "", "number": ""})
    connected: Json = field(default_factory=lambda: {"name": "", "number": ""})
    protocol_id: str = ""  # the SIP Call-ID
    number: str = ""  # that is dialed
    context: str = "default"
    exten: str = "s"
    priority: int = 1
    app_name: str = ""
    app_data: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    thread: Thread | None = None
    dialer: Channel | None = None  # whose Dial() made it
    other: Channel | None = None  # the other half of a Local channel
    stasis: App | None = None  # the application it is in
    line: Any = None  # to its callee, while there is one
    orders: deque[Any] = field(default_factory=deque)  # of an application, not carried out yet
    cause: int = 0
    sip_code: int | None = None
    is_ending: bool = False
    followers: Counter[App] = field(default_factory=Counter)

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


Ear = Callable[[str, bytes], None]
"""Takes an event's type and the whole frame."""


@dataclass(slots=True, eq=False)
class App:
    """A Stasis application: what it follows outlives its socket, its ear does not."""

    name: str
    ear: Ear | None = None
    everything: bool = False
    allowed: list[Json] = field(default_factory=list)
    disallowed: list[Json] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=dict)  # id: how many want it
    endpoints: dict[str, int] = field(default_factory=dict)
    suffix: bytes = b""  # of each of its frames: the only thing in which they differ from another's
    _let_through: frozenset[str] = frozenset()
    _held_back: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.suffix = b',"application":' + orjson.dumps(self.name) + b"}"

    def filter(self, allowed: list[Json], disallowed: list[Json]) -> None:
        self.allowed, self.disallowed = allowed, disallowed
        self._let_through = frozenset(str(entry.get("type")) for entry in allowed)
        self._held_back = frozenset(str(entry.get("type")) for entry in disallowed)

    def wants(self, kind: str) -> bool:
        if self.ear is None or kind in self._held_back:
            return False
        return not self._let_through or kind in self._let_through

    def json(self) -> Json:
        return {
            "name": self.name,
            "channel_ids": [*self.channels],
            "bridge_ids": [],
            "endpoint_ids": [*self.endpoints],
            "device_names": [],
            "events_allowed": self.allowed,
            "events_disallowed": self.disallowed,
        }


class Apps:
    """The applications, and what they are told."""

    def __init__(self) -> None:
        self.by_name: dict[str, App] = {}
        self._of_endpoint: dict[str, Counter[App]] = {}
        self._of_everything: set[App] = set()

    def connect(self, name: str, ear: Ear, *, everything: bool, now: float) -> App:
        """A socket opens. Whoever had the name hears that he is replaced, and nothing more."""
        app = self.by_name.setdefault(name, App(name))
        if app.ear is not None:
            self.send(app, "ApplicationReplaced", {}, now)
        app.ear = ear
        if everything:
            app.everything = True
            self._of_everything.add(app)
        return app

    def disconnect(self, app: App, ear: Ear) -> None:
        """The socket is gone. What was followed singly is kept; what follows nothing any more is forgotten."""
        if app.ear is not ear:
            return
        app.ear, app.everything = None, False
        self._of_everything.discard(app)
        self._forget_if_done(app)

    def follow(self, app: App, channel: Channel) -> None:
        if app.everything:
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

    def publish(self, channel: Channel, kind: str, body: Json, now: float) -> None:
        """What happened to the channel, to everybody who follows it."""
        hearers = [app for app in self._hearers(channel) if app.wants(kind)]
        if not hearers:
            return
        frame = orjson.dumps(
            {
                "type": kind,
                "timestamp": stamp(now),
                "channel": channel.json(),
                **body,
                "asterisk_id": ASTERISK_ID,
            }
        )[:-1]
        for app in hearers:
            self._hand(app, kind, frame)

    def publish_dial(self, peer: Channel, status: str, now: float) -> None:
        """How the dialing of a channel goes on. It is told where its dialer is followed, if it has one."""
        about = peer.dialer or peer
        hearers = [app for app in self._hearers(about) if app.wants("Dial")]
        if not hearers:
            return
        body: Json = {
            "type": "Dial",
            "timestamp": stamp(now),
            "dialstatus": status,
            "forward": "",
            "dialstring": "",
        }
        if peer.dialer is not None:
            body["caller"] = peer.dialer.json()
        frame = orjson.dumps({**body, "peer": peer.json(), "asterisk_id": ASTERISK_ID})[:-1]
        for app in hearers:
            self._hand(app, "Dial", frame)

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
        if self._of_everything:
            yield from self._of_everything

    @staticmethod
    def _hand(app: App, kind: str, frame: bytes) -> None:
        if app.ear is not None:
            app.ear(kind, frame + app.suffix)


def stamp(at: float) -> str:
    """As Asterisk writes an instant: to the millisecond, in the time zone of its host, which is UTC here."""
    milliseconds = int(at * 1000)
    return f"{_second(milliseconds // 1000)}{milliseconds % 1000:03d}+0000"


@lru_cache(maxsize=4)  # the same second is written very often
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
