"""What this daemon knows at this instant. The engine's rooms share it; only they write it, and only in the loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from dialer_engine import log
from dialer_engine.ari import NotSent
from dialer_engine.core.flow import Flow
from dialer_engine.core.model import AttemptId, Campaign, CampaignId, EndpointType, Limit, TrunkName
from dialer_engine.core.trunk import Brake
from dialer_engine.engine.attempt import Attempt
from dialer_engine.engine.lanes import Lane, Line
from dialer_engine.engine.scales import Heading, Scales
from dialer_engine.metrics import Metrics

FIRST_REFUSAL_SECONDS = 1.0
LONGEST_REFUSAL_SECONDS = 10.0

_log = log.get("board")


@dataclass(slots=True)
class Board:
    """`attempts` holds each claimed attempt from its claim to its settlement: slots are records, not counters."""

    lanes: dict[TrunkName, Lane]
    metrics: Metrics
    lines: dict[CampaignId, Line] = field(default_factory=dict)
    usable: dict[CampaignId, tuple[Campaign, Flow]] = field(default_factory=dict)  # in whatever state
    attempts: dict[AttemptId, Attempt] = field(default_factory=dict)
    channels: dict[str, Attempt] = field(default_factory=dict)  # also by the far half of a Local/ channel
    claiming: set[AttemptId] = field(default_factory=set)  # asked for, not answered yet
    scales: Scales = field(default_factory=Scales)
    store_trouble: str | None = "not yet asked"
    strays: bool = True  # Redis may hold attempts of ours that are not in `attempts`
    looked: asyncio.Event = field(default_factory=asyncio.Event)  # `usable` holds what Redis knows
    pbx_up: bool = False
    pbx_refuses_until: float = 0.0  # by the loop's clock: originates are not taken before
    refusal: str = ""  # why not
    _refusal_seconds: float = FIRST_REFUSAL_SECONDS
    stopped: bool = False
    draining: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    look: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    leaving: asyncio.Event = field(default_factory=asyncio.Event)  # what lives, or is held, is the next start's

    def __post_init__(self) -> None:
        self.idle.set()

    def register(self, attempt: Attempt) -> None:
        """Before the first await after the claim: from now on its end settles it."""
        self.idle.clear()
        self.attempts[attempt.id] = attempt
        self.channels[attempt.id] = attempt
        if attempt.trunk.is_local:
            self.channels[attempt.far_id] = attempt
        self._count(attempt, +1)
        self.weigh(attempt)

    def weigh(self, attempt: Attempt) -> None:
        """After every change of its facts: a call that needs no agent any more makes room for another."""
        if attempt.id in self.attempts and self.scales.weigh(attempt):
            self.wake.set()

    def follow_leg(self, leg: str, attempt: Attempt) -> None:
        """What the far half of a Local/ channel dials knows the true cause."""
        self.channels[leg] = attempt
        attempt.legs.setdefault(leg, False)

    def forget(self, attempt: Attempt) -> None:
        """Settled, released or left to somebody else."""
        if self.attempts.pop(attempt.id, None) is None:
            return
        self.channels.pop(attempt.id, None)
        for channel in (attempt.far_id, *attempt.legs):
            self.channels.pop(channel, None)
        if attempt.trunk.name in self.lanes:
            self.lanes[attempt.trunk.name].unheard.discard(attempt.id)
        self._count(attempt, -1)
        self.scales.take_off(attempt)
        if not self._waits_for_agents(attempt):
            self.wake.set()
        self._rest()

    def _waits_for_agents(self, attempt: Attempt) -> bool:
        """Its end makes no room for another: agents are what its campaign lacks, and it has had its own. A pass for
        nothing would only put the next one off, which comes with the agent's telephone in a moment."""
        line = self.lines.get(attempt.campaign.id)
        limit = line.plan.limit if line is not None and line.plan is not None else None
        return attempt.call.was_connected and limit is Limit.WAITING_AGENTS

    def begin_claim(self, ids: Collection[AttemptId]) -> None:
        self.idle.clear()
        self.claiming.update(ids)

    def end_claim(self, ids: Collection[AttemptId]) -> None:
        """It was answered, or its fate is unknown."""
        self.claiming.difference_update(ids)
        self._rest()

    @property
    def is_idle(self) -> bool:
        """Nothing lives, and nothing can come to life by a claim under way."""
        return not self.attempts and not self.claiming

    def _rest(self) -> None:
        if self.is_idle:
            self.idle.set()

    def _count(self, attempt: Attempt, change: int) -> None:
        line, lane = self.lines.get(attempt.campaign.id), self.lanes.get(attempt.trunk.name)
        if line is not None:
            line.own += change
        if lane is not None:
            lane.own += change

    # --- what an originate shows of Asterisk ---

    def pbx_takes(self) -> None:
        """An originate was taken."""
        self._refusal_seconds = FIRST_REFUSAL_SECONDS

    def pbx_refuses(self, reason: NotSent) -> None:
        """Asterisk takes no originates although it talks to us: ask again later, and later still."""
        loop = asyncio.get_running_loop()
        if self.pbx_refuses_until > loop.time():
            return
        _log.error("originates not taken", reason=str(reason), seconds=self._refusal_seconds)
        self.pbx_refuses_until, self.refusal = loop.time() + self._refusal_seconds, str(reason)
        self._refusal_seconds = min(2 * self._refusal_seconds, LONGEST_REFUSAL_SECONDS)

    # --- what a call shows of its trunk: one verdict each, the first sign of life or the end ---

    def trunk_works(self, attempt: Attempt, mono: float) -> None:
        """It rings, was answered, or got through to its end."""
        self._judge(attempt, lambda brake: brake.passed(mono, attempt.number.identity))

    def trunk_refuses(self, attempt: Attempt, code: str, mono: float) -> None:
        self._judge(attempt, lambda brake: brake.refused(attempt.number.identity, code, mono))

    def trunk_answers(self, attempt: Attempt) -> None:
        """Something came back; what it means, the end will say."""
        lane = self.lanes.get(attempt.trunk.name)
        if lane is not None and attempt.id in lane.unheard:
            lane.unheard.discard(attempt.id)
            self.wake.set()

    def _judge(self, attempt: Attempt, judge: Callable[[Brake], None]) -> None:
        lane = self.lanes.get(attempt.trunk.name)
        if lane is None or attempt.heard:
            return
        attempt.heard = True
        lane.unheard.discard(attempt.id)
        was_closed = lane.brake.closed
        judge(lane.brake)
        self.wake.set()
        if lane.brake.closed != was_closed:
            self.metrics.trunk(lane.trunk.name, closed=lane.brake.closed)
            phrase = "trunk closed" if lane.brake.closed else "trunk opened"
            self.look.set()  # it is told to others there
            _log.warning(phrase, trunk=lane.trunk.name, last_code=lane.brake.last_code)

    def is_halted(self, attempt: Attempt) -> bool:
        """May nothing of its campaign start now, though it could when the attempt was claimed?"""
        line = self.lines.get(attempt.campaign.id)
        return self.draining or self.stopped or line is None or line.view.run != attempt.run

    def take_census(self) -> None:
        """The counts kept along the way, taken anew from the records they count."""
        on_trunk = Counter(attempt.trunk.name for attempt in self.attempts.values())
        of_campaign = Counter(attempt.campaign.id for attempt in self.attempts.values())
        for name, lane in self.lanes.items():
            lane.own = on_trunk[name]
            lane.unheard &= self.attempts.keys()
        for campaign, line in self.lines.items():
            line.own = of_campaign[campaign]
        self.scales.weigh_all(self.attempts.values())

    def hear_of_all(self, id: CampaignId, campaign: Campaign | None, live: int, served: int) -> None:
        """How many calls of a campaign Redis counts, in every daemon; agents are only for those of queues."""
        if campaign is not None and campaign.endpoint.type is EndpointType.QUEUE:
            self.scales.hear_of_all(Heading.of(campaign), live, served, claiming=len(self.claiming))
        else:
            self.scales.forget_others(id)

    def definition(self, heading: Heading) -> Campaign | None:
        """As it stands; if it cannot be used, or is for another queue by now, as it was when a call was claimed."""
        campaign, _ = self.usable.get(heading.campaign, (None, None))
        if campaign is not None and Heading.of(campaign) == heading:
            return campaign
        return self.scales.claimed_for(heading)

    def own_calls(self, campaign: CampaignId) -> int:
        return sum(attempt.campaign.id == campaign for attempt in self.attempts.values())

    def trouble(self, reason: str) -> None:
        """Redis failed us: nothing new until a heartbeat gets through, and what was under way is in doubt."""
        self.store_trouble = reason
        self.strays = True
