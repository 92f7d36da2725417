"""From rows of call lists to contacts: reading ahead, and reading back what is to be called now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import orjson

from dialer_engine.core.model import CampaignId, Contact, Due, ListId
from dialer_engine.errors import Rejected
from dialer_engine.store.campaigns import read_object
from dialer_engine.store.contract import STRUCK_OUT
from dialer_engine.store.link import Link
from dialer_engine.store.records import Accepted, Candidate, Candidates, PinnedList, ReadRow, RefusedRow

KEPT_TEXT = 200  # characters of a refused row


class Reading:
    def __init__(self, link: Link) -> None:
        self._link = link

    async def rows(self, call_list: ListId, generation: int, cursor: int, count: int) -> list[str]:
        """Up to `count` rows from `cursor`; fewer mean the end of the list for now. `-` is a struck-out row."""
        key = f"{self._link.list_base(call_list)}:rows:{generation}"
        rows: list[str] = await self._link.do("LRANGE", key, cursor, cursor + count - 1)
        return rows

    async def accept(
        self,
        campaign: CampaignId,
        run: int,
        place: PinnedList,
        *,
        rows: Sequence[ReadRow],
        refused: Sequence[RefusedRow] = (),
        cursor: int,
    ) -> Accepted:
        """Turn rows read from `place` into fresh contacts and move its cursor on to `cursor`.

        Numbers seen before in this run are dropped as repeats. Stale when the list no longer stands at `place`
        (another daemon read it, it was reloaded, the run ended): then nothing is done.
        """
        refusals = [_refusal(place, one) for one in refused]
        contacts = [part for one in rows for part in (one.row, one.identity)]
        where = (place.call_list, place.generation, place.cursor)
        stale, at, accepted, repeats = await self._link.run(
            "accept", campaign, run, *where, cursor, len(refusals), *refusals, *contacts
        )
        return Accepted(bool(stale), at, accepted, repeats)

    async def candidates(
        self, campaign: CampaignId, run: int, *, fresh: int, due: int, now: float
    ) -> Candidates:
        """Contacts to call next, with their rows. Those struck out are closed here, and what is no contact."""
        due_members, fresh_members, next_due = await self._link.run("peek", campaign, run, fresh, due, now)
        waiting = {member: one for member in [*due_members, *fresh_members] if (one := _due(member))}
        rows = await self._rows_of(campaign, [one.contact for one in waiting.values()])
        there = {
            member: (one, row)
            for (member, one), row in zip(waiting.items(), rows, strict=True)
            if row is not None and row != STRUCK_OUT
        }
        gone = [member for member in [*due_members, *fresh_members] if member not in there]
        if gone:
            await self._link.run("close", campaign, run, *gone)
        return Candidates(
            due=tuple(Candidate(*there[one], fresh=False) for one in due_members if one in there),
            fresh=tuple(Candidate(*there[one], fresh=True) for one in fresh_members if one in there),
            next_due_at=float(next_due) if next_due else None,
        )

    async def stands(self, contact: Contact) -> bool:
        """Is its row still in the list, and not struck out? A call added to the run has none."""
        if contact.is_added:
            return True
        try:
            rows = await self.rows(ListId(contact.call_list), contact.generation, contact.row, 1)
        except Rejected:  # another program has put something else there
            return False
        return bool(rows) and rows[0] != STRUCK_OUT

    async def refused(self, campaign: CampaignId, run: int) -> list[dict[str, object]]:
        """The first refused rows of a run: {callList, generation, row, text, reason}."""
        texts = await self._link.do("LRANGE", self._link.campaign_key(campaign, f"refused:{run}"), 0, -1)
        return [read_object(text) for text in texts]

    async def _rows_of(self, campaign: CampaignId, contacts: Sequence[Contact]) -> list[str | None]:
        """Their rows, in their order; None for those not there any more."""
        added = [contact for contact in contacts if contact.is_added]
        listed = [contact for contact in contacts if not contact.is_added]
        found = dict(zip(listed, await self._rows_of_lists(listed), strict=True))
        if added:
            key = self._link.campaign_key(campaign, "added")
            rows = await self._link.do("HMGET", key, *(contact.row for contact in added))
            found.update(zip(added, rows, strict=True))
        return [found[contact] for contact in contacts]

    async def _rows_of_lists(self, contacts: Sequence[Contact]) -> list[str | None]:
        """Neighbours, as most are, by one command."""
        runs: list[list[Contact]] = []
        for contact in contacts:
            if runs and contact == replace(runs[-1][-1], row=runs[-1][-1].row + 1):
                runs[-1].append(contact)
            else:
                runs.append([contact])
        found = await asyncio.gather(
            *(self.rows(ListId(run[0].call_list), run[0].generation, run[0].row, len(run)) for run in runs)
        )
        rows: list[str | None] = []
        for run, texts in zip(runs, found, strict=True):
            rows += [*texts, *[None] * (len(run) - len(texts))]
        return rows


def _due(member: str) -> Due | None:
    """None: another program has put there what is no contact."""
    try:
        return Due.parse(member)
    except ValueError:
        return None


def _refusal(place: PinnedList, refused: RefusedRow) -> str:
    value = {
        "callList": place.call_list,
        "generation": place.generation,
        "row": refused.row,
        "text": refused.text[:KEPT_TEXT],
        "reason": refused.reason,
    }
    return orjson.dumps(value).decode()
