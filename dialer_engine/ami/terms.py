"""How long the AMI client waits, in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """What a running daemon uses; tests are less patient."""

    connect_seconds: float = 3.0
    action_seconds: float = 5.0
    ping_seconds: float = 1.0
    """From one ping to the next."""
    silence_seconds: float = 3.0
    """A ping unanswered for so long ends the connection: Asterisk sends nothing by itself when nothing happens."""
    resync_seconds: float = 20.0
    snapshot_seconds: float = 10.0
    """For the whole list of queues, members and callers."""
    settings_seconds: float = 60.0
    """A queue's settings are read again when they are so old."""
    grace_seconds: float = 0.5
    """For events on their way: as long where no event of our own comes back, at most twice where a snapshot differs."""
    first_delay_seconds: float = 0.1
    longest_delay_seconds: float = 5.0
    settled_seconds: float = 5.0
    """A connection that lived so long was a good one: the next loss starts again with the shortest delay."""
