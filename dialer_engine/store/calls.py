"""What happens to one contact's call: claimed, sent, followed, settled or released, recovered after a crash.

Every verb is one script, atomic and repeatable: when the reply was lost (`Unavailable`), the same verb may be
sent again and answers the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dialer_engine.core.model import AttemptId, CampaignId, CampaignState, Due, TrunkName
from dialer_engine.store.link import Argument, Link
from dialer_engine.store.records import (
    AttemptRecord,
    ClaimKind,
    ClaimOutcome,
    ClaimReply,
    ClaimRequest,
    Next,
    ProgressKind,
    Recovered,
    RedialAt,
    ReturnTo,
    SentKind,
    SentReply,
)
from dialer_engine.store.results import stored

# What claim and mark_sent write into an attempt; everything else there is `progress`.
CLAIM_FIELDS = frozenset(
    {
        *("campaign", "run", "member", "from", "score", "number", "identity", "attributes", "trunk", "owner"),
        *("phase", "claimed_at", "sent_at", "until", "forbidden"),
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
        flat, campaign_live, trunk_live, next_due, state, its_run = await self._link.run("claim", *fields)
        kinds = zip(flat[::2], flat[1::2], strict=True)
        return ClaimReply(
            outcomes=tuple(ClaimOutcome(ClaimKind(kind), reason) for kind, reason in kinds),
            campaign_live=campaign_live,
            trunk_live=trunk_live,
            next_due_at=float(next_due) if next_due else None,
            state=CampaignState(state),
            run=int(its_run),
        )

    async def mark_sent(self, attempt_id: AttemptId, *, owner: str, now: float) -> SentReply:
        """To be called right before the originate: only after OK may it be sent, and only once."""
        kind, reason = await self._link.run("mark_sent", attempt_id, owner, now)
        return SentReply(SentKind(kind), reason)

    async def progress(
        self, attempt_id: AttemptId, fields: Mapping[str, str], *, owner: str = "", now: float
    ) -> ProgressKind:
        """Record what must survive a crash: phase, position, times. owner "": whoever owns it."""
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
        counters: Sequence[str] = (),
    ) -> bool:
        """Write the result and let the contact go; exactly once. False: it was settled before, or is not the
        owner's any more ("": whoever owns it).

        result: the item of spec section 7 (`status` at least; `attempt`, `run`, `callList`, `number`,
        `attributes`, `redialAt` are filled in). counters: further counts of the run's stats, e.g. "abandoned".
        An ended or earlier run gets its result and no re-dial.
        """
        step, member, at = _next_fields(next)
        counted = [str(result["status"]), *counters]
        pairs = [part for pair in stored(result).items() for part in pair]
        follows = (step, member, at, now)
        return bool(await self._link.run("settle", attempt_id, owner, *follows, len(counted), *counted, *pairs))

    async def release(self, attempt_id: AttemptId, *, owner: str) -> bool:
        """Due again exactly where it was; only for who knows that nothing was sent. False: it is gone.

        Also after `mark_sent`: its reply may have been lost, or the originate certainly not sent.
        """
        return bool(await self._link.run("release", attempt_id, owner))

    async def heartbeat(self, owner: str, *, now: float) -> None:
        await self._link.do("ZADD", self._link.key("daemons"), now, owner)

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
        """Those that are still live."""
        hashes = await self._link.many([("HGETALL", self._link.key(f"attempt:{id}")) for id in ids])
        return [_record(AttemptId(id), fields) for id, fields in zip(ids, hashes, strict=True) if fields]


def _next_fields(next: Next) -> tuple[str, str, float]:
    if isinstance(next, RedialAt):
        return "REDIAL", next.due.member, next.at
    if isinstance(next, ReturnTo):
        return "RETURN", next.due.member, 0.0
    return "CLOSE", "", 0.0


def _record(attempt_id: AttemptId, fields: Mapping[str, str]) -> AttemptRecord:
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
    )
