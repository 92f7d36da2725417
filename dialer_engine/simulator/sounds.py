"""What is played, and how long it lasts: a table for the sounds that Asterisk ships, a guess for the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dialer_engine.simulator.threads import FOREVER

SECONDS = {
    "all-circuits-busy-now": 1.82,
    "auth-thankyou": 0.96,
    "beep": 0.44,
    "demo-congrats": 30.28,
    "demo-instruct": 73.36,
    "demo-thanks": 5.52,
    "goodbye": 0.94,
    "hello": 0.8,
    "hello-world": 1.42,
    "im-sorry": 1.04,
    "please-try-call-later": 2.18,
    "queue-thankyou": 1.6,
    "tt-weasels": 2.96,
    "vm-goodbye": 0.88,
    "vm-press": 0.74,
}
OTHER_SECONDS = 2.0
CHARACTER_SECONDS = 0.8
"""A spoken digit, letter, or word of a number."""
MISSING = "no-such-"
"""A sound whose name begins so is a file that is not there; a recording never is."""

SPOKEN = ("number", "digits", "characters")
STOPPABLE = ("sound", "recording")


@dataclass(slots=True, eq=False)
class Playback:
    """One `play` of a channel; `media` are its URIs."""

    id: str
    channel_id: str
    media: list[str]
    language: str = "en"
    state: str = "queued"
    at: int = 0  # which of its media
    is_stopped: bool = False
    is_lost: bool = field(default=False)

    @property
    def kind(self) -> str:
        return self.media[self.at].partition(":")[0]

    def json(self) -> dict[str, Any]:
        playback: dict[str, Any] = {
            "id": self.id,
            "media_uri": self.media[self.at],
            "target_uri": f"channel:{self.channel_id}",
            "language": self.language,
            "state": self.state,
        }
        if self.at + 1 < len(self.media):
            playback["next_media_uri"] = self.media[self.at + 1]
        return playback


def seconds(uri: str) -> float | None:
    """How long it lasts; None when it cannot be played."""
    kind, _, name = uri.partition(":")
    if kind == "sound":
        return None if name.startswith(MISSING) else SECONDS.get(name, OTHER_SECONDS)
    if kind in SPOKEN:
        return CHARACTER_SECONDS * len(name)
    if kind == "tone":
        return FOREVER
    return None
