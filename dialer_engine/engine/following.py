"""Follows what stands in Redis: definitions, states, commands of other programs, IVRs. Everybody obeys it.

A wake-up only says "look sooner"; the truth is one snapshot of all campaigns, read at least once a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from dialer_engine import log
from dialer_engine.core.flow import Flow, parse_flow
from dialer_engine.core.model import Campaign, CampaignId, CampaignState, IvrId, Limit, Trunk, TrunkName
from dialer_engine.engine.board import Board
from dialer_engine.engine.lanes import Lane, Line, Pace
from dialer_engine.engine.supply import Identify, Supply
from dialer_engine.errors import DialerError, Invalid, NotFound, Problem, Rejected, Unavailable
from dialer_engine.metrics import Metrics
from dialer_engine.store import Store
from dialer_engine.store.events import Kind
from dialer_engine.store.records import CampaignView, Snapshot

LOOK_SECONDS = 1.0
"""Another program that writes without a wake-up is noticed after so long."""

TELL_SECONDS = 5.0
"""A plan is told again after so long though its limit is the same: its numbers have changed."""

_log = log.get("campaigns")


@dataclass(slots=True)
class Follower:
    store: Store
    board: Board
    owner: str
    default_trunk: TrunkName
    identify: Identify
    clock: Callable[[], datetime]
    metrics: Metrics
    _paces: dict[CampaignId, Pace] = field(
        default_factory=dict
    )  # a pause must not shorten the distance of calls
    _missing: dict[TrunkName, Lane] = field(default_factory=dict)
    _told: dict[CampaignId, tuple[Limit, datetime]] = field(default_factory=dict)
    _closed: set[TrunkName] = field(default_factory=set)  # told to be so
    _flows: dict[IvrId, tuple[Mapping[str, object] | Invalid, Flow | Invalid]] = field(default_factory=dict)

    async def run(self) -> None:
        """A root task: look, for ever."""
        while True:
            self.board.look.clear()
            try:
                await self.look()
            except Unavailable:
                pass
            except (
                Rejected
            ) as exc:  # a key of another type, a right that is missing: nothing is known, nothing new
                self.board.trouble(str(exc))
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.board.look.wait()

    async def look(self) -> None:
        """Take over what stands in Redis. Raises Unavailable or Rejected; the next look finds the rest."""
        snapshot = await self._load()
        if snapshot.commands:
            for reply in await self.store.campaigns.obey(now=self._epoch()):
                _log.info("command obeyed", reply=str(reply), refused=isinstance(reply, DialerError))
            snapshot = await self._load()
        self.board.stopped = snapshot.stopped
        self.board.take_census()
        for name, lane in self.board.lanes.items():
            lane.others = max(0, snapshot.trunk_live.get(name, 0) - lane.own)
        await self._read_flows({view.definition.ivr for view in snapshot.campaigns.values() if view.definition})
        for view in snapshot.campaigns.values():
            self.board.hear_of_all(view.id, view.definition, view.live, view.served)
            await self._follow(view)
        self._forget(snapshot)
        self.board.looked.set()
        await self._complete_the_drained()
        await self._tell_plans()
        await self._tell_trunks()
        self.board.wake.set()

    async def _load(self) -> Snapshot:
        return await self.store.campaigns.load(trunks=tuple(self.board.lanes), now=self._epoch())

    async def _follow(self, view: CampaignView) -> None:
        try:
            campaign, flow, lane = self._usable(view)
        except Invalid as exc:
            self._drop(view.id)
            await self._tell_invalid(view, str(exc))
            return
        self.board.usable[view.id] = campaign, flow
        if view.state is CampaignState.INVALID:
            if await self.store.campaigns.set_valid(view.id, now=self._epoch()):
                _log.info("campaign valid again", campaign=view.id)
                self.board.look.set()
        elif view.state is CampaignState.RUNNING:
            self._go_on(view, campaign, flow, lane)
        if view.state is not CampaignState.RUNNING:
            self._drop(view.id)

    def _usable(self, view: CampaignView) -> tuple[Campaign, Flow, Lane]:
        """Everything a campaign needs, or Invalid with what is wrong."""
        campaign = view.definition
        if campaign is None:
            raise Invalid(view.problems)
        name = campaign.trunk or self.default_trunk
        # Only this daemon may lack the trunk: that is no fault of the definition, and the plan says TRUNK_DOWN.
        lane = self.board.lanes.get(name) or self._missing.setdefault(name, Lane(Trunk(name, ""), Pace(None)))
        _, flow = self._flows[campaign.ivr]
        if isinstance(flow, Invalid):
            raise flow
        if campaign.endpoint.queue is None and (block := flow.unnamed_queue):
            lack = "names no queue, and neither does the campaign's endpoint"
            raise Invalid([Problem(f"ivr {campaign.ivr}: blocks.{block}.queue", lack)])
        return campaign, flow, lane

    async def _read_flows(self, ivrs: set[IvrId]) -> None:
        """The flows of these IVRs in one round trip, parsed again only when a document has changed."""
        names = sorted(ivrs)
        documents = await asyncio.gather(*map(self._document, names))
        read: dict[IvrId, tuple[Mapping[str, object] | Invalid, Flow | Invalid]] = {}
        for ivr, document in zip(names, documents, strict=True):
            known = self._flows.get(ivr)
            read[ivr] = known if known and known[0] == document else (document, _parse(ivr, document))
        self._flows = read

    async def _document(self, ivr: IvrId) -> Mapping[str, object] | Invalid:
        """As another program may have written it."""
        try:
            return (await self.store.ivrs.load(ivr)).document
        except (NotFound, Rejected, Invalid) as exc:
            return Invalid([Problem("ivr", str(exc))])

    async def _tell_invalid(self, view: CampaignView, reason: str) -> None:
        if view.state is CampaignState.INVALID and view.reason == reason:
            return
        if await self.store.campaigns.set_invalid(view.id, reason, now=self._epoch()):
            _log.error("campaign invalid", campaign=view.id, reason=reason)

    def _go_on(self, view: CampaignView, campaign: Campaign, flow: Flow, lane: Lane) -> None:
        line = self.board.lines.get(view.id)
        if line is None or line.view.run != view.run:
            supply = Supply(view, self.store, self.identify, self.clock)
            pace = self._paces.setdefault(view.id, Pace(None))
            pace.rate = campaign.calls_per_second
            line = Line(view, campaign, flow, lane, supply, pace, own=self.board.own_calls(view.id))
            self.board.lines[view.id] = line
            _log.info("campaign runs", campaign=view.id, run=view.run)
        if line.campaign is not campaign or line.lane is not lane:
            line.redefine(campaign, lane)
        line.flow = flow
        line.supply.follow(view)
        line.view = view
        line.others = max(0, view.live - line.own)

    def _drop(self, campaign: CampaignId) -> None:
        line = self.board.lines.pop(campaign, None)
        self._told.pop(campaign, None)
        if line is not None:
            self.metrics.forget(campaign)
            _log.info("campaign stands", campaign=campaign)

    def _forget(self, snapshot: Snapshot) -> None:
        for campaign in self.board.usable.keys() - snapshot.campaigns.keys():
            del self.board.usable[campaign]
            self.board.hear_of_all(campaign, None, 0, 0)
            self._paces.pop(campaign, None)
            self._drop(campaign)
            self.metrics.drop(campaign)

    async def _complete_the_drained(self) -> None:
        for line in list(self.board.lines.values()):
            # A row that somebody appends right before the end is called as any other.
            if not line.is_complete or not await line.supply.is_read_to_the_end():
                continue
            if await self.store.campaigns.complete(
                line.campaign.id, line.view.run, line.supply.places, now=self._epoch()
            ):
                _log.info("campaign completed", campaign=line.campaign.id, run=line.view.run)
                self._drop(line.campaign.id)

    async def _tell_plans(self) -> None:
        """Why it dials, or does not, for whoever asks: at each change of the limit, else now and then."""
        now = self.clock()
        told: dict[CampaignId, dict[str, object]] = {}
        changed: dict[CampaignId, tuple[Limit, str]] = {}
        for campaign, line in self.board.lines.items():
            limit, at = self._told.get(campaign, (None, now))
            if line.plan and (limit is not line.plan.limit or (now - at).total_seconds() >= TELL_SECONDS):
                told[campaign] = line.plan.shown(now)
                self._told[campaign] = line.plan.limit, now
                if line.plan.limit is not limit:
                    changed[campaign] = line.plan.limit, line.plan.text
        if told:
            await self.store.campaigns.tell_plans(self.owner, told)
        for campaign, (now_is, text) in changed.items():
            facts = {"campaign": campaign, "daemon": self.owner, "limit": now_is, "text": text}
            await self.store.events.tell(Kind.LIMIT, facts, now=now.timestamp())

    async def _tell_trunks(self) -> None:
        """Those that have been closed, or opened again, since the last look."""
        for name, lane in list(self.board.lanes.items()):  # a reload may add others meanwhile
            closed = lane.brake.closed
            if closed != (name in self._closed):
                facts = {
                    "trunk": name,
                    "daemon": self.owner,
                    "closed": closed,
                    "lastCode": lane.brake.last_code,
                }
                await self.store.events.tell(Kind.TRUNK, facts, now=self._epoch())
                (self._closed.add if closed else self._closed.discard)(name)

    def _epoch(self) -> float:
        return self.clock().timestamp()


def _parse(ivr: IvrId, document: Mapping[str, object] | Invalid) -> Flow | Invalid:
    if isinstance(document, Invalid):
        return document
    try:
        return parse_flow(document)
    except Invalid as exc:
        return Invalid([Problem(f"ivr {ivr}: {problem.place}", problem.reason) for problem in exc.problems])
