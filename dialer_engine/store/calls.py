"""What happens to one contact's call: claimed, sent, followed, settled or released, recovered after a crash.

Every verb is one script, atomic and repeatable: when the reply was lost (`Unavailable`), the same verb may be
sent again and answers the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import orjson

from dialer_engine.core.model import AttemptId, CampaignId, CampaignState, Due, TrunkName
from dialer_engine.store.campaigns import state_in, whole
from dialer_engine.store.contract import Disposition, parse
from dialer_engine.store.link import Link
from dialer_engine.store.records import (
    AttemptRecord,
    ClaimKind,
    ClaimOutcome,
    ClaimReply,
    ClaimRequest,
    DisposeKind,
    Next,
    ProgressKind,
    Recovered,
    RedialAt,
    ReturnTo,
    SentKind,
    SentReply,
    SettleKind,
)
from dialer_engine.store.results import stored
from dialer_engine.store.server import Argument
from dialer_engine.store.stats import Counted

# What claim and mark_sent write into an attempt; everything else there is `progress`.
CLAIM_FIELDS = frozenset(
    {
        *("campaign", "run", "member", "from", "score", "number", "identity", "attributes", "trunk", "owner"),
        *("phase", "claimed_at", "sent_at", "until", "forbidden", "disposition"),
    }
)


class Calls:
    def __init__(self, link: Link) -> None:
        self._link = link

    async def claim(
        self,
        requests: Sequence[ClaimRequest],
        *,
        campaign: CampaignId,
        run: int,
        owner: str,
        trunk: TrunkName,
        max_channels: int,
        trunk_capacity: int,
        period_until_epoch: float | None,
        lease_seconds: float,
        now: float,
    ) -> ClaimReply:
        """Take these contacts for calls of ours. Whether one stood among the fresh or the due is found here."""
        fields: list[Argument] = [campaign, run, owner, trunk, max_channels, trunk_capacity]
        fields += ["" if period_until_epoch is None else period_until_epoch, now + lease_seconds, now]
        for request in requests:
            fields += [request.attempt_id, request.due.member, request.number, request.identity]
            fields.append(request.attributes)
        flat, campaign_live, trunk_live, next_due, state, its_run, served = await self._link.run(
            "claim", *fields
        )
        kinds = zip(flat[::2], flat[1::2], strict=True)
        return ClaimReply(
            outcomes=tuple(ClaimOutcome(ClaimKind(kind), reason) for kind, reason in kinds),
            campaign_live=campaign_live,
            trunk_live=trunk_live,
            next_due_at=float(next_due) if next_due else None,
            state=state_in(state) or CampaignState.INVALID,
            run=whole(its_run),
            campaign_served=served,
        )

    async def mark_sent(self, attempt_id: AttemptId, *, owner: str, now: float) -> SentReply:
        """To be called right before the originate: only after OK may it be sent, and only once."""
        kind, reason = await self._link.run("mark_sent", attempt_id, owner, now)
        return SentReply(SentKind(kind), reason)

    async def progress(
        self, attempt_id: AttemptId, fields: Mapping[str, str], *, owner: str = "", now: float
    ) -> ProgressKind:
        """Record what must survive a crash: phase, position, times. owner "": whoever owns it.

        With the phase CONNECTED the call counts as served from then on, whatever phase follows.
        """
        pairs = [part for pair in fields.items() for part in pair]
        return ProgressKind(await self._link.run("progress", attempt_id, owner, "progress_at", now, *pairs))

    async def settle(
        self,
        attempt_id: AttemptId,
        *,
        owner: str = "",
        result: Mapping[str, object],
        next: Next,
        now: float,
        disposition: str | None = None,
    ) -> SettleKind:
        """Write the result and let the contact go; exactly once. owner "": whoever owns it.

        result: the item of spec section 7 (`status` at least; `attempt`, `run`, `callList`, `number`,
        `attributes`, `redialAt` are filled in) with its `queue`; what is counted is read off it (store.stats).
        disposition: the one of the record that this was decided with. An ended or earlier run gets its result and
        no re-dial.
        """
        counted = Counted.of(result, now)
        counts = [*counted.counters, *(part for pair in counted.sums.items() for part in pair)]
        pairs = [part for pair in stored(result).items() for part in pair]
        follows = (*_next_fields(next), now, disposition or "", counted.hour, counted.oldest_hour)
        sizes = (len(counted.counters), len(counted.sums))
        return SettleKind(await self._link.run("settle", attempt_id, owner, *follows, *sizes, *counts, *pairs))

    async def dispose(self, attempt_id: AttemptId, ext_status: str, *, by: str, now: float) -> DisposeKind:
        """What the agent says of the call; said again it changes nothing. Raises Invalid for what is no word."""
        parse(Disposition, {"extStatus": ext_status})
        amendment = orjson.dumps({"extStatus": ext_status, "by": by, "at": now}).decode()
        return DisposeKind(await self._link.run("dispose", attempt_id, ext_status, by, now, amendment))

    async def release(self, attempt_id: AttemptId, *, owner: str) -> bool:
        """Due again exactly where it was; only for who knows that nothing was sent. False: it is gone.

        Also after `mark_sent`: its reply may have been lost, or the originate certainly not sent.
        """
        return bool(await self._link.run("release", attempt_id, owner))

    async def heartbeat(self, owner: str, *, now: float) -> int:
        """How many daemons there are, this one among them, and dead ones whose calls nobody has taken over."""
        key = self._link.key("daemons")
        _, daemons = await self._link.many([("ZADD", key, now, owner), ("ZCARD", key)])
        return int(daemons)

    async def extend(self, owner: str, attempt_ids: Sequence[AttemptId], *, deadline: float) -> list[AttemptId]:
        """Move the leases of these attempts of ours to `deadline`; returns those that are not ours any more."""
        lost = await self._link.run("extend", owner, deadline, *attempt_ids) if attempt_ids else []
        return [AttemptId(attempt_id) for attempt_id in lost]

    async def recover(
        self,
        owner: str,
        *,
        known: Collection[AttemptId] = (),
        lease_seconds: float,
        dead_after_seconds: float,
        now: float,
    ) -> Recovered:
        """What we own and do not know of: after our crash, after a lost reply, or left by a dead daemon.

        `known` are the attempts the caller drives, those of claims still under way included; at a start it is
        empty. Attempts of other daemons are taken over when their lease and the heartbeat are both dead.
        """
        released, *ids = await self._link.run(
            "recover", owner, now, now - dead_after_seconds, now + lease_seconds, *known
        )
        return Recovered(tuple(await self._records(ids)), released)

    async def live(self, campaign: CampaignId) -> list[AttemptRecord]:
        """The live attempts of a campaign, in every daemon."""
        ids = await self._link.do("SMEMBERS", self._link.campaign_key(campaign, "live"))
        return await self._records(sorted(ids))

    async def live_page(self, campaign: CampaignId, offset: int, count: int) -> tuple[int, list[AttemptRecord]]:
        """How many live attempts a campaign has, and some of them."""
        ids = sorted(await self._link.do("SMEMBERS", self._link.campaign_key(campaign, "live")))
        return len(ids), await self._records(ids[offset : offset + count])

    async def read(self, attempt_id: AttemptId) -> AttemptRecord | None:
        return next(iter(await self._records([attempt_id])), None)

    async def _records(self, ids: Sequence[str]) -> list[AttemptRecord]:
        """Those that are still live, and that no other program has spoilt."""
        hashes = await self._link.many([("HGETALL", self._link.key(f"attempt:{id}")) for id in ids])
        found = (_record(AttemptId(id), fields) for id, fields in zip(ids, hashes, strict=True) if fields)
        return [record for record in found if record]


def _next_fields(next: Next) -> tuple[str, str, float]:
    if isinstance(next, RedialAt):
        return "REDIAL", next.due.member, next.at
    if isinstance(next, ReturnTo):
        return "RETURN", next.due.member, 0.0
    return "CLOSE", "", 0.0


def _record(attempt_id: AttemptId, fields: Mapping[str, str]) -> AttemptRecord | None:
    try:
        return _readable(attempt_id, fields)
    except (KeyError, ValueError):
        return None


def _readable(attempt_id: AttemptId, fields: Mapping[str, str]) -> AttemptRecord:
    sent_at = fields.get("sent_at")
    return AttemptRecord(
        id=attempt_id,
        campaign=CampaignId(int(fields["campaign"])),
        run=int(fields["run"]),
        due=Due.parse(fields["member"]),
        number=fields["number"],
        identity=fields["identity"],
        attributes=fields["attributes"],
        trunk=TrunkName(fields["trunk"]),
        owner=fields["owner"],
        phase=fields["phase"],
        claimed_at=float(fields["claimed_at"]),
        sent_at=None if sent_at is None else float(sent_at),
        forbidden=fields.get("forbidden"),
        progress={name: value for name, value in fields.items() if name not in CLAIM_FIELDS},
        disposition=fields.get("disposition"),
    )
