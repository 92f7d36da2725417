"""The model under virtual time: a desk with an ear at every application, and a clock that only we move."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import orjson

from dialer_engine.simulator import Pbx

Event = dict[str, Any]
BEGIN = 1_700_000_000.0


class Desk:
    """A model, what its applications heard (`events`), and the instant it is."""

    def __init__(self, app: str | None = "dialer", *, sources: tuple[str, ...] = (), **more: Any) -> None:
        self.now = BEGIN
        self.pbx = Pbx(now=self.now, **more)
        self.events: list[Event] = []
        self._ids = itertools.count(1)
        if app is not None:
            self.ear = self.listen(app)
            for source in sources:
                self.pbx.subscribe(self.now, app, source)

    def listen(self, app: str, *, everything: bool = False) -> Callable[[], None]:
        """Open a socket; what is returned closes it."""

        def ear(kind: str, frame: bytes) -> None:
            event = orjson.loads(frame)
            assert event["type"] == kind
            self.events.append(event)

        opened = self.pbx.connect(self.now, app, ear, everything=everything)
        return lambda: self.pbx.disconnect(self.now, opened, ear)

    def new_id(self) -> str:
        return f"c{next(self._ids):06d}"

    def call(self, number: str, **asked: Any) -> str:
        """Originate to the carrier, into the application if nothing else is said; the channel's id."""
        where = {} if "context" in asked else {"app": "dialer"}
        channel_id = self.new_id()
        wanted = {"endpoint": f"PJSIP/{number}@carrier", "timeout": "30", **where, **asked}
        self.pbx.originate(self.now, channel_id, wanted)
        return channel_id

    def waiting(self, number: str, **asked: Any) -> str:
        """Originate into the shipped dialplan."""
        return self.call(number, context="dialer-answered", extension="dialer", **asked)

    def run(self, seconds: float) -> None:
        """Let time pass; everything happens when it is due."""
        until = self.now + seconds
        while (due := self.pbx.next_at) is not None and due <= until:
            self.now = due
            self.pbx.advance(due)
        self.now = until
        self.pbx.advance(until)

    def of(self, channel_id: str, *kinds: str) -> list[Event]:
        """What was heard of a channel, of these types only if any are named."""
        return [
            event
            for event in self.events
            if channel_id in _about(event) and (not kinds or event["type"] in kinds)
        ]

    def story(self, channel_id: str) -> list[str]:
        """The same in a few words each."""
        return [brief(event) for event in self.of(channel_id)]

    def end(self, channel_id: str) -> tuple[int, int | None]:
        """Cause and SIP code of the only ChannelDestroyed."""
        (gone,) = self.of(channel_id, "ChannelDestroyed")
        return gone["cause"], gone.get("tech_cause")


def _about(event: Event) -> list[str]:
    return [event[key]["id"] for key in ("channel", "peer", "caller") if key in event] + [
        event["playback"]["target_uri"].removeprefix("channel:") for _ in "x" if "playback" in event
    ]


def brief(event: Event) -> str:
    """An event in a word or two."""
    kind = str(event["type"])
    match kind:
        case "Dial":
            return f"Dial {event['dialstatus']}".strip()
        case "ChannelStateChange":
            return str(event["channel"]["state"])
        case "ChannelDtmfReceived":
            return f"Key {event['digit']}"
    return kind.removeprefix("Channel")
