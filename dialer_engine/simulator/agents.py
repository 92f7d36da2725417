"""The people at the agents' telephones: how soon they answer, how long they talk, when they are at work.

Whoever is of the staff is logged in to his queues from the beginning. What he does is drawn for each call and each
pause, by the seed, his extension and how many there were before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import msgspec

from dialer_engine.simulator.callees import Callee
from dialer_engine.simulator.exchange import Exchange
from dialer_engine.simulator.queues import Member, QueueError, Queues
from dialer_engine.simulator.threads import FOREVER, Script, Thread
from dialer_engine.simulator.world import Seen

Range = tuple[float, float]
"""Seconds, from the least to the most; drawn evenly."""

THINKS: Range = (0.2, 1.0)
SAID: Mapping[str, str] = {"1": "AGAIN", "2": "SOLD", "3": "NOT_INTERESTED"}
"""The dialplan's DIALER_SAID_1 and so on."""


class Agent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the staff, by his telephone's extension. `answers_after` is counted from the INVITE; without a wait his
    telephone answers by itself and does not ring. `works` and `pauses` take turns."""

    extension: str
    queues: tuple[str, ...] = ()
    name: str = ""
    answers_after: Range = (0.0, 0.0)
    talks: Range = (FOREVER, FOREVER)
    says: str = ""
    """Digits of which he dials one after a call of a campaign, behind *7: how it was (`SAID`). A blank among
    them: nothing."""
    works: Range = (FOREVER, FOREVER)
    pauses: Range = (0.0, 0.0)

    @property
    def interface(self) -> str:
        return f"PJSIP/{self.extension}"


class Staff:
    """All of them."""

    def __init__(
        self,
        exchange: Exchange,
        queues: Queues,
        agents: Iterable[Agent],
        seed: int,
        dial: Callable[[str, str], None],
    ) -> None:
        """`dial`: a telephone dials an extension."""
        self._dial = dial
        self._exchange = exchange
        self._queues = queues
        self._agents: dict[str, Agent] = {}
        self._dice: dict[str, random.Random] = {}
        self._work: dict[str, Thread] = {}
        self._seed = seed
        queues.on_talked = self._talked
        for agent in agents:
            self.log_in(agent)

    def log_in(self, agent: Agent) -> None:
        """He comes to work, or changes his habits; whoever is logged in already stays so. Raises QueueError."""
        for name in agent.queues:
            queue = self._queues.by_name.get(name)
            if queue is None or agent.interface not in queue.members:
                self._queues.add(name, agent.interface, agent.name)
        self._agents[agent.extension] = agent
        self._dice[agent.extension] = random.Random(f"{self._seed}:agent {agent.extension}")
        if agent.extension in self._work:
            self._work[agent.extension].stop()
        self._work[agent.extension] = self._exchange.threads.start(self._working(agent))

    def callee(self, extension: str) -> Callee | None:
        """What he does with the next call; None: he is not of the staff."""
        agent = self._agents.get(extension)
        if agent is None:
            return None
        waits = self._draw(agent, agent.answers_after)
        return Callee(rings=waits > 0, waits_seconds=waits, talks_seconds=self._draw(agent, agent.talks))

    def _working(self, agent: Agent) -> Script:
        with suppress(QueueError):  # somebody has logged him off
            while agent.works[0] != FOREVER:
                yield self._draw(agent, agent.works) / self._exchange.speed
                self._queues.pause("", agent.interface, "pause", paused=True)
                yield self._draw(agent, agent.pauses) / self._exchange.speed
                self._queues.pause("", agent.interface, "", paused=False)

    def _talked(self, member: Member, seen: Seen | None) -> None:
        agent = self._agents.get(member.interface.removeprefix("PJSIP/"))
        if agent is not None and agent.says and seen is not None and seen.attempt:
            self._exchange.threads.start(self._saying(agent, seen))

    def _saying(self, agent: Agent, seen: Seen) -> Script:
        """As soon as he has a hand free."""
        yield self._draw(agent, THINKS) / self._exchange.speed
        digit = self._dice[agent.extension].choice(agent.says)
        if digit in SAID:
            seen.said = SAID[digit]
            self._dial(agent.extension, f"*7{digit}")

    def _draw(self, agent: Agent, seconds: Range) -> float:
        if seconds[0] == FOREVER:
            return FOREVER
        return round(self._dice[agent.extension].uniform(*seconds), 3)
