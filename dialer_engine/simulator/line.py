"""The wire between a channel and whoever is at its other end: a callee, an agent, somebody who calls in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dialer_engine.simulator.channels import Channel
from dialer_engine.simulator.threads import Thread
from dialer_engine.simulator.world import Seen, World

if TYPE_CHECKING:
    from dialer_engine.simulator.exchange import Exchange


class Line:
    """The wire between a channel and its callee, who acts on it (`callees.Line`). Cut off, he talks to nobody."""

    def __init__(self, exchange: Exchange, channel: Channel, seen: Seen | None) -> None:
        self._exchange = exchange
        self._channel: Channel | None = channel
        self.seen = seen
        self.thread: Thread | None = None
        self.is_served = False

    def ring(self) -> None:
        self._write(World.ringing)
        if self._channel is not None:
            self._exchange.ringing(self._channel)

    def progress(self) -> None:
        self._write(World.progress)
        if self._channel is not None:
            self._exchange.progress(self._channel)

    def answer(self) -> None:
        self._write(World.answered)
        if self._channel is not None:
            self._exchange.answered(self._channel)

    def press(self, key: str) -> None:
        if self.seen is not None:
            self._exchange.world.key(self.seen, self._exchange.now, key)

    def let_go(self, key: str, seconds: float) -> None:
        if self._channel is not None:
            self._exchange.key(self._channel, key, seconds)

    def reject(self, sip_code: int) -> None:
        if self.seen is not None:
            self._exchange.world.rejected(self.seen, self._exchange.now, sip_code)
        if self._channel is not None:
            self._exchange.rejected(self._channel, sip_code)

    def hang_up(self) -> None:
        self._end("world")
        if self._channel is not None:
            self._exchange.left(self._channel)

    def meet(self, other: Line) -> None:
        self.is_served = True
        if self.seen is not None and other.seen is not None:
            self._exchange.world.met(self.seen, self._exchange.now, other.seen.number)

    def cut(self) -> None:
        """The channel is gone in good order: the callee is told, unless it was he who ended it."""
        self.lose()
        self._end("pbx")
        if self.thread is not None:
            self.thread.stop()

    def lose(self) -> None:
        """The channel is gone without a word; the callee goes on."""
        self._channel = None

    def _write(self, note: Callable[[World, Seen, float], None]) -> None:
        if self.seen is not None:
            note(self._exchange.world, self.seen, self._exchange.now)

    def _end(self, by: str) -> None:
        if self.seen is not None:
            self._exchange.world.ended(self.seen, self._exchange.now, by)
