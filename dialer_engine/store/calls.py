"""What happens to one contact's call: claimed, sent, followed, settled or released, recovered after a crash.

Every verb is one script, atomic and repeatable: when the reply was lost (`Unavailable`), the same verb may be
sent again and answers the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import orjson

from dialer_engine.core.model import AttemptId, CampaignId, CampaignState, Due, TrunkName
from dialer_engine.store.link import Link
from dialer_engine.store.records import (
    AttemptRecord,
    ClaimKind,
    ClaimOutcome,
    ClaimReply,
    ClaimRequest,
    Closed,
    Next,
    Recovered,
    RedialAt,
    ReturnTo,
    SentKind,
    SentReply,
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
        raise NotImplementedError

    async def mark_sent(self, attempt_id: AttemptId, *, owner: str, now: float) -> SentReply:
        """To be called right before the originate: only after OK may it be sent, and only once."""
        raise NotImplementedError

    async def progress(self, attempt_id: AttemptId, fields: Mapping[str, str], *, now: float) -> bool:
        """Record what must survive a crash: phase, position, times. False: the attempt is settled."""
        raise NotImplementedError

    async def settle(
        self,
        attempt_id: AttemptId,
        *,
        result: Mapping[str, object],
        next: Next,
        now: float,
        counters: Sequence[str] = (),
    ) -> bool:
        """Write the result and let the contact go; exactly once. False: it was settled before.

        result: the item of spec section 7 (`status` at least; `attempt`, `run`, `callList`, `number`,
        `attributes`, `redialAt` are filled in). counters: further counts of the run's stats, e.g. "abandoned".
        An ended or earlier run gets its result and no re-dial.
        """
        raise NotImplementedError

    async def release(self, attempt_id: AttemptId, *, owner: str, now: float) -> bool:
        """Claimed and not sent: due again exactly where it was. False: it is gone, or it has been sent."""
        raise NotImplementedError

    async def heartbeat(self, owner: str, *, now: float) -> None:
        raise NotImplementedError

    async def extend(self, owner: str, attempt_ids: Sequence[AttemptId], *, deadline: float) -> None:
        """Move the leases of these attempts of ours to `deadline`; unknown ones are left alone."""
        raise NotImplementedError

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
        raise NotImplementedError

    async def live(self, campaign: CampaignId) -> list[AttemptRecord]:
        """The live attempts of a campaign, in every daemon."""
        raise NotImplementedError

    async def read(self, attempt_id: AttemptId) -> AttemptRecord | None:
        raise NotImplementedError
