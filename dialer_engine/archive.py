"""Results that have left Redis: compressed files in the data directory; `read` gives both places as one.

A file holds the results of one campaign that were settled on one UTC day, oldest first, as lines of JSON:

    DATA/results/PREFIX/CAMPAIGN/2026-08-26_1787702400123-0_1787788799001-2_5120.ndjson.gz

named by the ids of its first and last result in the stream of docs/redis.md, and by how many it holds. A line is
the item of spec section 7 with its `id` in front. `Archive.move` may be killed at any step:

1. One daemon at a time has the lease in Redis, and one process the lock of the campaign's directory. From now on
   nobody amends what is to be moved; what was amended is written as it reads.
2. The results of a day go to a hidden file, which is synced. It is whole if its first result is still in Redis
   after its last has been read: then nobody has removed any in between.
3. The file gets its name, and the directory is synced.
4. Only now, and only what this very run has written, leaves Redis, in slices; each is counted in the same script
   under the daemon's name, so that `missing` knows what stands on other hosts.

Killed before 3: a hidden file, which the next run begins anew. Killed after it: results stand in both places, and
the next run writes them again, to the same name when none has left Redis yet. Ids grow along the stream and every
file is whole between its first and its last: whoever reads in the order of the ids and leaves out what lies at or
below the last one he has given loses nothing and repeats nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import os
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TypeVar

import orjson

from dialer_engine import log
from dialer_engine.core.model import CampaignId
from dialer_engine.errors import Conflict, Rejected, Unavailable
from dialer_engine.store.results import Entry, Results, before_instant, item, place

LEASE_SECONDS = 120
READ_AT_ONCE = 500  # results
MOVED_AT_ONCE = 100  # results; more would hold up the loop, by the reply and by the thread that works on it
TRIMMED_AT_ONCE = 50 * MOVED_AT_ONCE  # some milliseconds of Redis

Result = tuple[str, Mapping[str, object]]
"""Its id in the stream, and the item of spec section 7."""

T = TypeVar("T")

_NAME = re.compile(r"[\d-]{10}_(?P<first>\d+-\d+)_(?P<last>\d+-\d+)_(?P<count>\d+)\.ndjson\.gz", re.ASCII)
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, ValueError, KeyError, TypeError)

_log = log.get("archive")


@dataclass(frozen=True, slots=True)
class Archive:
    """The results of one installation. `directory` is DATA/results/PREFIX; it need not be there yet."""

    directory: Path
    results: Results

    async def move(self, campaigns: Iterable[CampaignId], *, before: datetime, owner: str) -> None:
        """Into files what was settled before the UTC day of `before`; nothing while another daemon does it.

        Raises Unavailable when a file cannot be written (what it was to hold stays in Redis) or Redis is away, and
        Conflict when another daemon has taken over.
        """
        if not await self.results.lease(owner, LEASE_SECONDS):
            return
        try:
            for campaign in campaigns:
                try:
                    moved = await self._move_campaign(campaign, _day(before).timestamp(), owner)
                    await self.results.drop_amendments(campaign)
                except Rejected as exc:  # what stands there is no stream: it harms itself alone
                    _log.warning("results not archived", campaign=campaign, reason=str(exc))
                    continue
                except Conflict as exc:  # somebody else is at this campaign's, or has taken over all of it
                    if not await self.results.lease(owner, LEASE_SECONDS):
                        raise
                    _log.warning("results not archived", campaign=campaign, reason=str(exc))
                    continue
                if moved:
                    _log.info("archived results", campaign=campaign, results=moved)
        finally:
            with suppress(Unavailable):
                await self.results.lease(owner, 0)

    async def read(
        self, campaign: CampaignId, *, since: float | None = None
    ) -> AsyncIterator[Mapping[str, object]]:
        """Every result settled at or after `since`, oldest first, wherever it is; in bounded memory.

        Raises Unavailable for a file that cannot be read.
        """
        last = "0-0" if since is None else before_instant(since)
        while True:
            # Redis first: what has left it by now stands in a file that the look after it finds.
            page = await self.results.entries(campaign, after=last, count=READ_AT_ONCE)
            file = await asyncio.to_thread(self._first_behind, campaign, last)
            # What lies before the file stands in Redis alone: after a backup was restored, or files were brought here.
            ahead = page if file is None else [one for one in page if place(one[0]) < place(file.first)]
            for _, fields in ahead:
                yield item(fields)
            if ahead:
                last = ahead[-1][0]
            elif file is not None:
                async for id, result in _lines(file):
                    if place(id) > place(last):
                        yield result
                last = file.last
            if file is None and len(page) < READ_AT_ONCE:
                return

    async def missing(self, campaign: CampaignId, *, since: float | None = None) -> Missing | None:
        """What other daemons have archived and is not in this directory; None: nothing that `read` would give."""
        archived = await self.results.archived(campaign)
        if archived.through is None:
            return None
        if since is not None and place(archived.through) <= place(before_instant(since)):
            return None
        here = await asyncio.to_thread(self._count, campaign)
        lacking = sum(archived.by.values()) - here
        return Missing(lacking, tuple(archived.by), self._place_of(campaign)) if lacking > 0 else None

    async def _move_campaign(self, campaign: CampaignId, before: float, owner: str) -> int:
        moved = 0
        if not await self.results.entries(campaign, before=before, count=1):
            return moved
        await self.results.close(campaign, before)
        directory = self._place_of(campaign)
        try:
            with _locked(directory):
                while first := await self.results.entries(campaign, before=before, count=1):
                    moved += await self._move_day(campaign, first[0][0], directory, owner)
        except OSError as exc:
            raise _trouble(
                Path(exc.filename or directory),
                f"{exc.strerror}; what was to be archived stays in Redis: make room or set the rights right, or move "
                "daemon.data_directory, and the next night goes on",
            ) from exc
        return moved

    async def _move_day(self, campaign: CampaignId, first: str, directory: Path, owner: str) -> int:
        """Everything on the day of the entry `first`; returns how many."""
        end = (_day(_instant(first)) + timedelta(days=1)).timestamp()
        draft = _Draft(directory)
        marks: list[str] = []  # an id every few thousand: up to each of them is removed in one step
        try:
            await _in_thread(draft.begin)
            while page := await self.results.entries(
                campaign, after=draft.last or None, before=end, count=MOVED_AT_ONCE
            ):
                await _in_thread(lambda page=page: draft.write(page))  # type: ignore[misc]
                if draft.count % TRIMMED_AT_ONCE == 0:
                    marks.append(draft.last)
                if not await self.results.lease(owner, LEASE_SECONDS):
                    raise Conflict("another daemon archives now")
            still = await self.results.entries(campaign, count=1)
            if not still or still[0][0] != draft.first:
                raise Conflict(
                    f"somebody else removes results of campaign {campaign}: they are archived the next time"
                )
            await _in_thread(draft.finish)
        finally:
            await _in_thread(draft.discard)
        for through in [*marks, draft.last]:
            await self.results.trim(campaign, through=through, owner=owner)
        return draft.count

    def _place_of(self, campaign: CampaignId) -> Path:
        return self.directory / str(campaign)

    def _files(self, campaign: CampaignId) -> list[ArchiveFile]:
        """In the order of their first results."""
        try:
            names = os.listdir(self._place_of(campaign))
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise _trouble(self._place_of(campaign), exc.strerror or str(exc)) from exc
        files = (ArchiveFile.of(self._place_of(campaign) / name) for name in names)
        return sorted(filter(None, files), key=lambda one: (place(one.first), place(one.last)))

    def _first_behind(self, campaign: CampaignId, id: str) -> ArchiveFile | None:
        return next((one for one in self._files(campaign) if place(one.last) > place(id)), None)

    def _count(self, campaign: CampaignId) -> int:
        """Results in the files; a file whose results stand in those before it adds none."""
        count, last = 0, "0-0"
        for file in self._files(campaign):
            if place(file.last) > place(last):
                count, last = count + file.count, file.last
        return count


@dataclass(frozen=True, slots=True)
class Missing:
    """Archived results that no file here holds."""

    count: int
    daemons: tuple[str, ...]  # that have archived results of the campaign
    directory: Path


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One file, as its name tells."""

    path: Path
    first: str
    last: str
    count: int

    @classmethod
    def of(cls, path: Path) -> ArchiveFile | None:
        """None for a file that is none of ours."""
        name = _NAME.fullmatch(path.name)
        return cls(path, name["first"], name["last"], int(name["count"])) if name else None

    def lines(self) -> Iterator[Result]:
        """Oldest first. Raises Unavailable for a damaged file."""
        told = 0
        try:
            with gzip.open(self.path) as file:
                for line in file:
                    told += 1
                    result = orjson.loads(line)
                    yield str(result.pop("id")), result
        except _DAMAGED as exc:
            raise self._damaged(str(exc)) from exc
        except OSError as exc:
            raise _trouble(self.path, exc.strerror or str(exc)) from exc
        if told != self.count:
            raise self._damaged(f"it holds {told} results")

    def _damaged(self, how: str) -> Unavailable:
        return _trouble(self.path, f"it is damaged ({how}): fetch it from a backup")


class _Draft:
    """A file on its way: hidden until it is whole."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / ".unfinished"
        self._open = ExitStack()
        self.first = self.last = ""
        self.count = 0

    def begin(self) -> None:
        self._path.unlink(missing_ok=True)  # of a run that was killed
        self._file = self._open.enter_context(self._path.open("xb"))
        packed = gzip.GzipFile(filename="", mode="wb", fileobj=self._file, mtime=0)
        self._packed = self._open.enter_context(packed)

    def write(self, entries: Sequence[Entry]) -> None:
        for id, fields in entries:
            self._packed.write(_line(id, fields))
        self.first = self.first or entries[0][0]
        self.last = entries[-1][0]
        self.count += len(entries)

    def finish(self) -> None:
        """From here on it counts, and no crash takes it away."""
        self._packed.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        day = _instant(self.first).date().isoformat()
        directory = self._path.parent
        self._path.rename(directory / f"{day}_{self.first}_{self.last}_{self.count}.ndjson.gz")
        for one in (directory, *directory.parents[:3]):  # up to the data directory: each may be new
            _sync(one)

    def discard(self) -> None:
        """What is left of it when it was not finished."""
        with suppress(OSError):
            self._open.close()
        self._path.unlink(missing_ok=True)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """The directory is ours until the end, even if we are killed. Raises Conflict when another process has it."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Conflict(f"another process archives into {directory} now") from exc
        yield


async def _in_thread(work: Callable[[], T]) -> T:
    """One step with the disk. Once begun it is finished, also when we are cancelled: only then the lock may go."""
    step = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        await asyncio.wait([step])
        raise


async def _lines(file: ArchiveFile) -> AsyncIterator[Result]:
    lines = file.lines()
    while some := await asyncio.to_thread(lambda: list(islice(lines, READ_AT_ONCE))):
        for one in some:
            yield one


def _line(id: str, fields: Mapping[str, str]) -> bytes:
    try:
        return orjson.dumps({"id": id} | item(fields) | {"id": id}, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # what another program has put there
        return orjson.dumps({"id": id} | dict(fields) | {"id": id}, option=orjson.OPT_APPEND_NEWLINE)


def _instant(id: str) -> datetime:
    """When an entry was written."""
    return datetime.fromtimestamp(place(id)[0] / 1000, UTC)


def _day(at: datetime) -> datetime:
    """The beginning of its UTC day."""
    return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _sync(directory: Path) -> None:
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _trouble(path: Path, reason: str) -> Unavailable:
    return Unavailable("archive", f"{path}: {reason}")
