"""What is played, and how long it lasts: a table for the sounds that Asterisk ships, a guess for the rest."""

from __future__ import annotations

from dataclasses import dataclass
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
    "silence/1": 1.0,
    "tt-weasels": 2.96,
    "vm-goodbye": 0.88,
    "vm-intro": 5.66,
    "vm-press": 0.74,
}
OTHER_SECONDS = 2.0
SPOKEN_SECONDS = {"digits": 0.84, "characters": 0.71, "number": 1.35}
"""Of each character."""
MISSING = "no-such-"
"""A sound whose name begins so is a file that is not there; a recording never is."""

STOPPABLE = ("sound", "tone")


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


def is_known(uri: str) -> bool:
    """Of a kind that can be played. No recording is there."""
    return uri.partition(":")[0] in ("sound", "tone", *SPOKEN_SECONDS)


def seconds(uri: str) -> float | None:
    """How long it lasts; None when it is not there."""
    kind, _, name = uri.partition(":")
    if kind == "sound":
        return None if name.startswith(MISSING) else SECONDS.get(name, OTHER_SECONDS)
    if kind == "tone":
        return FOREVER
    return SPOKEN_SECONDS[kind] * len(name)
