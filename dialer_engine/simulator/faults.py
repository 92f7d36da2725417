"""What goes wrong on the wire, at random but by a seed, or always.

Shares are of 1: `events_lost = 0.01` loses one event of a hundred. An event that is delayed is overtaken by those
after it. All of it can be changed while the simulator runs (`PUT /simulator/faults`, any of these as JSON).
"""

from __future__ import annotations

import random

import msgspec

Share = float


class Faults(msgspec.Struct, forbid_unknown_fields=True):
    """None to begin with."""

    events_lost: Share = 0.0
    events_doubled: Share = 0.0
    events_delayed: Share = 0.0
    delay_seconds: float = 0.5
    """The longest; each one's is drawn."""
    event_types: list[str] = []
    """Only these are lost, doubled and delayed; empty: any."""

    refuse_sockets: bool = False
    """An event socket is closed as soon as it is open."""
    deaf_sockets: int = 0
    """So many of the next event sockets are told nothing for ever, though they are open and answer pings: Asterisk has
    cleaned up after their forerunners too late."""
    half_open: bool = False
    """Event sockets tell nothing and answer no ping; what would have been told is told when this is over."""
    answer_pings: bool = True

    booting: bool = False
    """Everything is answered by 503."""
    requests_refused: Share = 0.0
    """Answered by 500 and not carried out."""
    requests_lost: Share = 0.0
    """The connection is cut, nothing is carried out."""
    replies_lost: Share = 0.0
    """Carried out, and the connection is cut."""
    reply_seconds: float = 0.0
    """Carried out at once and answered so much later."""
    silent: list[str] = []
    """Requests whose path ends so are never answered, nor carried out."""
    cut: list[str] = []
    """Requests whose path ends so are carried out and the connection is cut."""
    garbled: list[str] = []
    """Requests whose path ends so are answered by what is no JSON."""

    ami_refuse: bool = False
    """A connection to AMI is cut as soon as it is made."""
    ami_silent: bool = False
    """Sessions tell and answer nothing, as half-open connections; all of it comes when this is over."""
    ami_unanswered: list[str] = []
    """These actions, in small letters, are neither carried out nor answered."""
    ami_events_lost: Share = 0.0
    ami_events_doubled: Share = 0.0
    ami_late_seconds: float = 0.0
    """Events come so much later than they happen, in their order, while replies do not."""
    ami_lies: Share = 0.0
    """Events in which a header is missing or says what cannot be."""

    def spoils(self, kind: str) -> bool:
        """May an event of this type be lost, doubled or delayed?"""
        if not (self.events_lost or self.events_doubled or self.events_delayed):
            return False
        return not self.event_types or kind in self.event_types


def happens(share: Share, dice: random.Random) -> bool:
    """Costs no number while there is no such fault, so that a seed tells the same story."""
    return share > 0 and dice.random() < share


def names(path: str, endings: list[str]) -> bool:
    return any(path.endswith(ending) for ending in endings)
