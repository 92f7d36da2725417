"""Who is logged in over AMI, and what they are told: every event as the lines of Asterisk's manager interface.

An event has a class (`agent`, `user`, `system`), and a session hears the classes that it asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from dialer_engine.simulator.channels import Channel

Headers: TypeAlias = list[tuple[str, object]]
"""Of a message, in the order of the wire; a name may come more than once. Without a name it is a bare line."""

Ear = Callable[[str, Headers], None]
"""Takes an event's class and its headers."""

STATES = {"Down": 0, "Ring": 4, "Ringing": 5, "Up": 6, "Busy": 7}
UNKNOWN = "<unknown>"


class Sessions:
    """Those that are logged in."""

    def __init__(self) -> None:
        self.ears: set[Ear] = set()

    def tell(self, kind: str, event: str, headers: Iterable[tuple[str, object]], now: float) -> None:
        if not self.ears:
            return
        told: Headers = [
            ("Event", event),
            ("Privilege", f"{kind},all"),
            ("Timestamp", f"{now:.6f}"),
            *headers,
        ]
        for ear in [*self.ears]:
            ear(kind, told)


def snapshot(channel: Channel, prefix: str = "") -> Headers:
    """A channel, as events carry it."""
    told: Headers = [
        ("Channel", channel.name),
        ("ChannelState", STATES[channel.state]),
        ("ChannelStateDesc", channel.state),
        ("CallerIDNum", channel.caller["number"] or UNKNOWN),
        ("CallerIDName", channel.caller["name"] or UNKNOWN),
        ("ConnectedLineNum", channel.connected["number"] or UNKNOWN),
        ("ConnectedLineName", channel.connected["name"] or UNKNOWN),
        ("Language", "en"),
        ("AccountCode", ""),
        ("Context", channel.context),
        ("Exten", channel.exten),
        ("Priority", channel.priority),
        ("Uniqueid", channel.id),
        ("Linkedid", channel.linked_id or channel.id),
    ]
    return [(prefix + name, value) for name, value in told]
