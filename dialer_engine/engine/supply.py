"""What one campaign may call next, held in memory so that a pass never waits for Redis.

Redis is the truth: a candidate held here is only an offer, and the claim finds out whether it still stands. So a
supply may be thrown away at any time, and two daemons may hold the same candidates.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dialer_engine.core.compliance import Number
from dialer_engine.core.model import Due, ListId
from dialer_engine.errors import Invalid
from dialer_engine.store import Store
from dialer_engine.store.contract import parse_row
from dialer_engine.store.records import CampaignView, Candidate, Candidates, PinnedList, ReadRow, RefusedRow

HELD = 200
"""Contacts held ready: a second of the fastest campaign, and small enough to be read again after a crash."""
BATCH = 500
"""Rows read in one go: longer ones would hold up Redis' other clients."""
TURN = 50
"""Rows looked at in one turn of the loop: with a region a number takes some 70 microseconds."""
LOOK_AGAIN_SECONDS = 1.0
"""How often a list read to its end is looked at for rows another program has appended."""

Identify = Callable[[str], Number]
"""compliance.normalise under the configuration's policy. Raises Invalid for what may not be dialed."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A contact that may be called now."""

    due: Due
    fresh: bool
    number: Number
    attributes: Mapping[str, object]


class Supply:
    """The contacts of one run of one campaign. Refilled by one task at a time; `take` never waits."""

    def __init__(
        self, view: CampaignView, store: Store, identify: Identify, clock: Callable[[], datetime]
    ) -> None:
        self._campaign = view.id
        self._run = view.run
        self._store = store
        self._identify = identify
        self._clock = clock
        self._redials: deque[Offer] = deque()
        self._fresh: deque[Offer] = deque()
        self._held: set[str] = set()
        self._places: dict[ListId, PinnedList] = {}
        self._at_end: dict[ListId, float] = {}
        self._fresh_in_redis = True
        self._look_at = 0.0
        self._not_before = 0.0  # the last refill failed: not at once again
        self.next_due_at: float | None = None
        self.refilling = False
        self.follow(view)

    def follow(self, view: CampaignView) -> None:
        """Take over where the lists stand in Redis; a reload may have moved them."""
        known, self._places = self._places, {place.call_list: self._newer(place) for place in view.lists}
        same = [call_list for call_list, place in self._places.items() if known.get(call_list) == place]
        self._at_end = {call_list: self._at_end[call_list] for call_list in same if call_list in self._at_end}
        self._fresh_in_redis = self._fresh_in_redis or view.fresh > len(self._fresh)
        self.hear_of(view.next_due_at)

    def _newer(self, place: PinnedList) -> PinnedList:
        """Rows may have been accepted since the snapshot was taken; within a generation they only grow."""
        known = self._places.get(place.call_list, place)
        return known if (known.generation, known.cursor) > (place.generation, place.cursor) else place

    def hear_of(self, due_at: float | None) -> None:
        """A re-dial waits until `due_at` (epoch seconds)."""
        if due_at is not None and (self.next_due_at is None or due_at < self.next_due_at):
            self.next_due_at = due_at

    def look_again(self) -> None:
        """A contact went back to where it was: what Redis holds is more than what is held here."""
        self._fresh_in_redis = True
        self._look_at = 0.0

    def suspend(self) -> None:
        """Redis refuses what is asked of it about this campaign: begin anew, and not at once."""
        self._redials.clear()
        self._fresh.clear()
        self._held.clear()
        self.look_again()
        self._not_before = asyncio.get_running_loop().time() + LOOK_AGAIN_SECONDS

    @property
    def places(self) -> list[PinnedList]:
        """How far the lists have been read, in reading order."""
        return list(self._places.values())

    @property
    def ready(self) -> int:
        """Contacts that may be called now."""
        return len(self._redials) + len(self._fresh)

    @property
    def drained(self) -> bool:
        """Nothing held, nothing waiting, every list read to its end: what is live is all that is left."""
        return (
            not self.ready
            and self.next_due_at is None
            and not self._fresh_in_redis
            and self._at_end.keys() >= self._places.keys()
        )

    async def is_read_to_the_end(self) -> bool:
        """Has no row come since the lists were last looked at? Raises Unavailable."""
        for place in self.places:
            if await self._store.reading.rows(place.call_list, place.generation, place.cursor, 1):
                self._at_end.pop(place.call_list, None)
                return False
        return True

    def wants_refill(self) -> bool:
        """Is there anything to fetch that is not held yet?"""
        now, mono = self._clock().timestamp(), asyncio.get_running_loop().time()
        if self.refilling or mono < self._not_before:
            return False
        if self.next_due_at is not None and self.next_due_at <= now and not self._redials:
            return True
        if len(self._fresh) > HELD // 2:
            return False
        return self._fresh_in_redis or self._unread() or mono >= self._look_at

    def take(self, count: int) -> list[Offer]:
        """Up to `count` contacts, due re-dials before new numbers. They are not held any more."""
        taken = []
        for _ in range(min(count, self.ready)):
            offer = (self._redials or self._fresh).popleft()
            self._held.discard(offer.due.member)
            taken.append(offer)
        return taken

    def take_probe(self, wanted: Callable[[str], bool]) -> Offer | None:
        """The first contact whose number is wanted as a probe of a trunk that is down."""
        for line in (self._redials, self._fresh):
            for offer in line:
                if wanted(offer.number.identity):
                    line.remove(offer)
                    self._held.discard(offer.due.member)
                    return offer
        return None

    def put_back(self, offers: Sequence[Offer]) -> None:
        """The claim did not take them and they still wait: first in line again."""
        for offer in reversed(offers):
            line = self._fresh if offer.fresh else self._redials
            line.appendleft(offer)
            self._held.add(offer.due.member)

    async def refill(self) -> None:
        """Fetch what may be called: waiting contacts first, then unread rows. Raises Unavailable.

        After a failure, and when somebody else has moved a list on, the next try waits for the next snapshot.
        """
        loop = asyncio.get_running_loop()
        self.refilling = True
        self._not_before = loop.time() + LOOK_AGAIN_SECONDS
        try:
            await self._fetch()
            while len(self._fresh) < HELD and (place := self._readable(loop.time())) is not None:
                if not await self._read(place, loop.time()):
                    return
                await self._fetch()
            self._not_before = 0.0
        finally:
            self.refilling = False

    async def _fetch(self) -> None:
        now = self._clock().timestamp()
        room = HELD - len(self._fresh)
        # Those held stand at the head of the same zset, so as many more have to be asked for.
        asked = HELD if room > 0 else 0
        if asked:
            self._fresh_in_redis = False  # before asking: what is told meanwhile is another reason to ask
        known = self.next_due_at
        got = await self._store.reading.candidates(self._campaign, self._run, fresh=asked, due=HELD, now=now)
        heard = self.next_due_at if self.next_due_at != known else None  # meanwhile: perhaps after the answer
        self.next_due_at = _after(got, now)
        self.hear_of(heard)
        self._fresh_in_redis = self._fresh_in_redis or len(got.fresh) >= asked > 0
        await self._hold(self._redials, got.due)
        await self._hold(self._fresh, got.fresh)

    async def _hold(self, line: deque[Offer], candidates: Iterable[Candidate]) -> None:
        for turn, candidate in enumerate(candidates):
            if candidate.due.member not in self._held:
                self._held.add(candidate.due.member)
                line.append(self._offer(candidate))
            if turn % TURN == TURN - 1:
                await asyncio.sleep(0)

    def _offer(self, candidate: Candidate) -> Offer:
        """A row that was good when it was read and is not now (the rules were changed) is offered as it stands:
        the attempt will be refused its number and says so in the result."""
        try:
            row = parse_row(candidate.row)
            number = self._identify(row.number if row else candidate.row)
        except Invalid:
            return Offer(
                candidate.due, candidate.fresh, Number(candidate.row, candidate.row, candidate.row), {}
            )
        return Offer(candidate.due, candidate.fresh, number, row.attributes if row else {})

    def _unread(self) -> bool:
        return any(call_list not in self._at_end for call_list in self._places)

    def _readable(self, mono: float) -> PinnedList | None:
        """The first list that has, or may have, unread rows."""
        for place in self._places.values():
            at_end = self._at_end.get(place.call_list)
            if at_end is None or mono - at_end >= LOOK_AGAIN_SECONDS:
                return place
        self._look_at = mono + LOOK_AGAIN_SECONDS
        return None

    async def _read(self, place: PinnedList, mono: float) -> bool:
        """Read one batch; False when the list does not stand at `place` any more: the next snapshot tells where.

        A list is at its end only when its last rows are in Redis as contacts, too.
        """
        rows = await self._store.reading.rows(place.call_list, place.generation, place.cursor, BATCH)
        if not rows:
            self._at_end[place.call_list] = mono
            return True
        self._at_end.pop(place.call_list, None)
        good, refused = await self._sort(rows, place.cursor)
        reply = await self._store.reading.accept(
            self._campaign,
            self._run,
            place,
            rows=good,
            refused=refused,
            cursor=place.cursor + len(rows),
        )
        if reply.stale:
            return False
        if self._places.get(place.call_list) == place:
            self._places[place.call_list] = PinnedList(place.call_list, place.generation, reply.cursor)
            if len(rows) < BATCH:
                self._at_end[place.call_list] = mono
        return True

    async def _sort(self, rows: Sequence[str], first: int) -> tuple[list[ReadRow], list[RefusedRow]]:
        good: list[ReadRow] = []
        refused: list[RefusedRow] = []
        for row, text in enumerate(rows, first):
            try:
                parsed = parse_row(text)
                if parsed is not None:
                    good.append(ReadRow(row, self._identify(parsed.number).identity))
            except Invalid as exc:
                refused.append(RefusedRow(row, text, str(exc)))
            if (row - first) % TURN == TURN - 1:
                await asyncio.sleep(0)
        return good, refused


def _after(got: Candidates, now: float) -> float | None:
    """When the next re-dial falls due that is not among those fetched."""
    at = got.next_due_at
    return at if at is None or at > now or len(got.due) >= HELD else None
