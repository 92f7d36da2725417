"""The callee's channel as a flow sees it: what it orders becomes requests, and the facts of its way to a queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from dialer_engine import log
from dialer_engine.core.call import Phase
from dialer_engine.engine.attempt import Attempt, Pbx
from dialer_engine.errors import Rejected

NOT_IN_STASIS = 409
"""Asterisk's answer to an order for a channel that has left our application."""
LEFT_BEHIND = ("QUEUESTATUS", "QUEUEWAIT", "ANSWEREDTIME_MS", "MEMBERNAME", "MEMBERINTERFACE", "DIALER_WAITED")
"""By a queue in which he was before."""

_log = log.get("attempt")


@dataclass(frozen=True, slots=True)
class CalleesChannel:
    """An `ivr.IvrChannel`."""

    pbx: Pbx
    attempt: Attempt
    app: str
    queue_context: str
    clock: Callable[[], datetime]

    async def play(self, playback_id: str, media: Sequence[str]) -> None:
        await self.pbx.play(self.attempt.id, media, playback_id)

    async def stop_playback(self, playback_id: str) -> None:
        await self.pbx.stop_playback(playback_id)

    async def is_playing(self, playback_id: str) -> bool:
        return await self.pbx.is_playing(playback_id)

    async def prepare(self, queue: str | None, timeout_seconds: int) -> None:
        attempt = self.attempt
        name = queue or attempt.campaign.endpoint.queue
        if name is None:
            raise Rejected("the flow names no queue, and the campaign has none")
        variables = _variables(attempt, self.app, timeout_seconds)
        attempt.head_for(name, timeout_seconds, self.clock())
        try:
            await self.pbx.set_variables(attempt.id, variables)
        except Rejected as exc:  # he must not be lost for that
            _log.warning("variables refused", attempt=attempt.id, reason=str(exc))
        attempt.leave_for(name, timeout_seconds, self.clock())

    async def enqueue(self) -> None:
        attempt = self.attempt
        if attempt.call.phase is not Phase.QUEUED or attempt.stay is None or attempt.given_back is not None:
            return  # it has been there already
        try:
            await self.pbx.continue_in_dialplan(
                attempt.id, context=self.queue_context, extension=attempt.stay.queue
            )
        except Rejected as exc:
            if exc.code != NOT_IN_STASIS:
                raise

    async def hangup(self) -> None:
        await self.pbx.hangup(self.attempt.id)


def _variables(attempt: Attempt, app: str, timeout_seconds: int) -> dict[str, str]:
    """What the dialplan of queues reads; with `__` it is on the agent's channel as well, for his screen."""
    before = LEFT_BEHIND if attempt.stay else ()
    return {
        **dict.fromkeys(before, ""),
        "DIALER_APP": app,
        "DIALER_QUEUE_TIMEOUT": str(timeout_seconds),
        "__DIALER_ATTEMPT": attempt.id,
        "__DIALER_CAMPAIGN": str(attempt.campaign.id),
        **{f"__ATTR_{name}": _plain(value) for name, value in attempt.attributes.items()},
    }


def _plain(value: object) -> str:
    """One line of text."""
    return "".join(char if char.isprintable() else " " for char in str(value))
