"""Results leave Redis for files, and nothing is lost or told twice. On fakeredis and on a real redis-server."""

from __future__ import annotations

import asyncio
import gzip
import resource
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from dialer_engine.archive import MOVED_AT_ONCE, READ_AT_ONCE, Archive
from dialer_engine.core.model import CampaignId, Status
from dialer_engine.errors import Conflict, Unavailable
from dialer_engine.store import Store
from dialer_engine.store.link import Link
from dialer_engine.store.records import RedialAt
from dialer_engine.store.results import Entry, Results
from dialer_engine.store.server import connect
from tests.ports.store_desk import NOW, Desk, RealRedis

CAMPAIGN = CampaignId(7)
FIRST_DAY = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
OWNER = "host"
KEY = "{dialer}:campaign:7:results"

Item = Mapping[str, object]


@pytest.fixture
async def link(store_url: str) -> AsyncIterator[Link]:
    """Another connection, for many commands at once."""
    opened = Link(connect(store_url, 5.0), "dialer")
    yield opened
    await opened.close()


@pytest.fixture
def archive(store: Store, tmp_path: Path) -> Archive:
    return Archive(tmp_path / "results" / "dialer", store.results)


def entry(serial: int, at: datetime, place: int = 0) -> list[str]:
    """As docs/redis.md says it: id, field, value, field, value ..."""
    fields = {
        "attempt": f"a{serial:06}",
        "run": "1",
        "member": f"3.1.{serial}|0|0|",
        "number": f"{600_000_000 + serial}",
        "attributes": '{"name":"Eva"}',
        "redial": "",
        "at": str(at.timestamp()),
        "status": "RS_BUSY" if serial % 2 else "TERMINATED",
        **dict.fromkeys(("extStatus", "cause", "sipCode", "agent", "recording", "values", "path"), ""),
        **dict.fromkeys(("originatedAt", "ringingAt", "answeredAt", "leftIvrAt", "connectedAt", "endedAt"), ""),
        "more": "",
    }
    return [f"{int(at.timestamp() * 1000)}-{place}", *(part for pair in fields.items() for part in pair)]


def over_days(days: int, each: int) -> list[list[str]]:
    """`each` entries a day, some of them in one millisecond."""
    return [
        entry(day * each + n, FIRST_DAY + day * DAY + timedelta(milliseconds=n // 3), n % 3)
        for day in range(days)
        for n in range(each)
    ]


async def put(link: Link, entries: Sequence[Sequence[str]]) -> None:
    await link.many([("XADD", KEY, *one) for one in entries])


async def everything(archive: Archive, **filters: Any) -> list[Item]:
    return [item async for item in archive.read(CAMPAIGN, **filters)]


def numbers(items: Sequence[Item]) -> list[int]:
    return [int(str(item["number"])) - 600_000_000 for item in items]


def names(archive: Archive) -> list[str]:
    return sorted(path.name for path in (archive.directory / "7").glob("*.gz"))


async def test_old_days_move_and_everything_is_read_as_before(
    store: Store, archive: Archive, link: Link, raw: Any
) -> None:
    await put(link, over_days(4, 6))
    before = await everything(archive)
    assert numbers(before) == list(range(24))
    await archive.move([CAMPAIGN], before=FIRST_DAY + 3 * DAY - timedelta(seconds=1), owner=OWNER)
    assert [name[:10] for name in names(archive)] == ["2026-03-01", "2026-03-02"]
    assert await raw("XLEN", KEY) == 12, "the day in which the time ends stays whole"
    assert await everything(archive) == before
    assert await archive.missing(CAMPAIGN) is None
    await archive.move([CAMPAIGN], before=FIRST_DAY + 9 * DAY, owner=OWNER)
    assert await raw("XLEN", KEY) == 0
    assert len(names(archive)) == 4
    assert await everything(archive) == before


async def test_a_line_is_the_item_of_the_api_with_its_id(desk: Desk, tmp_path: Path) -> None:
    campaign = await desk.running("601")
    request = await desk.call(campaign)
    result = {
        "status": Status.TERMINATED,
        "extStatus": "CONFIRMED",
        "values": {"answer": "1"},
        "variables": {"town": "Brno"},
        "path": ["ask", "yes"],
        "notes": [],
        "cause": 16,
        "sipCode": None,
        "originatedAt": "2025-10-09T08:53:20.123+00:00",
        "answeredAt": "2025-10-09T08:53:25.001+00:00",
        "endedAt": "2025-10-09T08:54:00.000+00:00",
    }
    redial = RedialAt(request.due, NOW + 60)
    await desk.store.calls.settle(request.attempt_id, result=result, next=redial, now=NOW)
    (shown,) = (await desk.store.results.read(campaign)).items
    expected = {
        **result,
        "number": "601",
        "attempt": request.attempt_id,
        "run": 1,
        "callList": request.due.contact.call_list,
        "attributes": [],
        "agent": None,
        "queue": None,
        "recording": None,
        **dict.fromkeys(("ringingAt", "leftIvrAt", "connectedAt")),
        "redialAt": "2025-10-09T08:54:20.250+00:00",
    }
    assert shown == expected
    archive = Archive(tmp_path, desk.store.results)
    await archive.move([campaign], before=datetime.now(UTC) + 2 * DAY, owner=OWNER)
    (path,) = (tmp_path / str(campaign)).glob("*.gz")
    (line,) = gzip.decompress(path.read_bytes()).splitlines()
    archived = orjson.loads(line)
    assert next(iter(archived)) == "id"
    assert path.name.split("_")[1:] == [archived["id"], archived["id"], "1.ndjson.gz"]
    assert {name: value for name, value in archived.items() if name != "id"} == expected


async def test_what_is_asked_for_since_an_instant_comes_from_both(
    archive: Archive, link: Link, raw: Any
) -> None:
    await put(link, over_days(3, 6))
    await archive.move([CAMPAIGN], before=FIRST_DAY + 2 * DAY, owner=OWNER)
    at = (FIRST_DAY + DAY + timedelta(milliseconds=1)).timestamp()
    assert numbers(await everything(archive, since=at)) == list(range(9, 18))
    assert numbers(await everything(archive, since=0)) == list(range(18))
    assert await everything(archive, since=4e9) == []


@pytest.mark.parametrize("left", [6, 4, 1])
async def test_killed_before_all_had_left_redis_tells_nothing_twice(
    archive: Archive, link: Link, raw: Any, left: int
) -> None:
    """The file stands; in Redis are still all of its results, or the last of them."""
    entries = over_days(1, 6)
    await put(link, entries)
    await archive.move([CAMPAIGN], before=FIRST_DAY + 2 * DAY, owner=OWNER)
    await raw("DEL", KEY)
    await put(link, [*entries[-left:], entry(6, FIRST_DAY + 5 * DAY)])
    assert numbers(await everything(archive)) == list(range(7))
    await archive.move([CAMPAIGN], before=FIRST_DAY + 2 * DAY, owner=OWNER)
    assert await raw("XLEN", KEY) == 1
    assert len(names(archive)) == (1 if left == 6 else 2)
    assert numbers(await everything(archive)) == list(range(7))


async def test_a_file_is_not_trusted_when_somebody_else_removed_results_meanwhile(
    archive: Archive, link: Link, raw: Any
) -> None:
    class Meddled(Results):
        """Another daemon's trim comes between two pages."""

        async def entries(self, campaign: CampaignId, **terms: Any) -> list[Entry]:
            found = await super().entries(campaign, **terms)
            if len(found) == MOVED_AT_ONCE:
                await raw("XTRIM", KEY, "MAXLEN", 10)
            return found

    await put(link, over_days(1, MOVED_AT_ONCE + 20))
    other = "{dialer}:campaign:8:results"
    await raw("XADD", other, *entry(1, FIRST_DAY))
    await Archive(archive.directory, Meddled(link)).move(
        [CAMPAIGN, CampaignId(8)], before=FIRST_DAY + 2 * DAY, owner=OWNER
    )
    assert await raw("XLEN", other) == 0, "it is the matter of one campaign"
    await link.close()
    assert names(archive) == []
    assert await raw("XLEN", KEY) == 10
    await archive.move([CAMPAIGN], before=FIRST_DAY + 2 * DAY, owner=OWNER)
    assert len(await everything(archive)) == 10


async def test_who_has_lost_the_lease_moves_nothing_more(archive: Archive, link: Link, raw: Any) -> None:
    class Overtaken(Results):
        """Another daemon has taken over, for this one stood still for minutes."""

        async def entries(self, campaign: CampaignId, **terms: Any) -> list[Entry]:
            await raw("SET", "{dialer}:lease:archive", "other")
            return await super().entries(campaign, **terms)

    await put(link, over_days(1, 5))
    with pytest.raises(Conflict, match="another daemon"):
        await Archive(archive.directory, Overtaken(link)).move(
            [CAMPAIGN, CAMPAIGN], before=FIRST_DAY + 2 * DAY, owner=OWNER
        )
    await link.close()
    assert (names(archive), await raw("XLEN", KEY)) == ([], 5)


async def test_what_redis_holds_from_before_the_files_is_told_first(
    archive: Archive, link: Link, raw: Any
) -> None:
    """As after the restore of a backup, with the files of another daemon: none of it is lost or out of order."""
    entries = over_days(5, 4)
    await put(link, entries)
    await archive.move([CAMPAIGN], before=FIRST_DAY + 4 * DAY, owner=OWNER)
    for name in names(archive):
        if name[:10] in ("2026-03-01", "2026-03-03"):
            (archive.directory / "7" / name).unlink()
    await raw("DEL", KEY)
    await put(link, entries)
    assert numbers(await everything(archive)) == list(range(20))
    since = (FIRST_DAY + 2 * DAY).timestamp()
    assert numbers(await everything(archive, since=since)) == list(range(8, 20))


async def test_one_daemon_archives_at_a_time(
    store: Store, archive: Archive, link: Link, raw: Any, tmp_path: Path
) -> None:
    await put(link, over_days(2, 5))
    assert await store.results.lease("other", 60)
    await archive.move([CAMPAIGN], before=FIRST_DAY + 9 * DAY, owner=OWNER)
    assert names(archive) == []
    with pytest.raises(Conflict):
        await store.results.trim(CAMPAIGN, through="1-1", owner=OWNER)
    await store.results.lease("other", 0)
    elsewhere = Archive(tmp_path / "elsewhere", store.results)
    await asyncio.gather(
        archive.move([CAMPAIGN], before=FIRST_DAY + 9 * DAY, owner=OWNER),
        elsewhere.move([CAMPAIGN], before=FIRST_DAY + 9 * DAY, owner="other"),
    )
    assert len(names(archive)) + len(names(elsewhere)) == 2
    assert await raw("XLEN", KEY) == 0


async def test_two_processes_do_not_write_into_one_directory(archive: Archive, link: Link, raw: Any) -> None:
    """As a daemon does that was replaced by its twin a moment ago: both have one name, and so one lease."""
    await put(link, over_days(3, MOVED_AT_ONCE + 1))
    moves = [archive.move([CAMPAIGN], before=FIRST_DAY + 9 * DAY, owner=OWNER) for _ in range(2)]
    done = await asyncio.gather(*moves, return_exceptions=True)
    assert [type(one) for one in done if one is not None] in ([], [Conflict])
    await archive.move([CAMPAIGN], before=FIRST_DAY + 9 * DAY, owner=OWNER)
    assert numbers(await everything(archive)) == list(range(3 * (MOVED_AT_ONCE + 1)))
    assert len(names(archive)) == 3


async def test_what_another_host_has_archived_is_told(
    store: Store, archive: Archive, link: Link, raw: Any, tmp_path: Path
) -> None:
    await put(link, over_days(3, 4))
    elsewhere = Archive(tmp_path / "elsewhere", store.results)
    await elsewhere.move([CAMPAIGN], before=FIRST_DAY + DAY, owner="other")
    await archive.move([CAMPAIGN], before=FIRST_DAY + 2 * DAY, owner=OWNER)
    missing = await archive.missing(CAMPAIGN)
    assert missing is not None
    assert (missing.count, set(missing.daemons)) == (4, {OWNER, "other"})
    assert await archive.missing(CAMPAIGN, since=(FIRST_DAY + 2 * DAY).timestamp()) is None
    for path in (elsewhere.directory / "7").glob("*.gz"):
        path.rename(archive.directory / "7" / path.name)
    assert await archive.missing(CAMPAIGN) is None
    assert numbers(await everything(archive)) == list(range(12))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A disk with room for so many bytes; Python is told by an error, as by a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_what_cannot_be_written_stays_in_redis(archive: Archive, link: Link, raw: Any) -> None:
    await put(link, over_days(2, 300))
    with file_size_limit(1000), pytest.raises(Unavailable, match="stays in Redis: make room"):
        await archive.move([CAMPAIGN], before=FIRST_DAY + 9 * DAY, owner=OWNER)
    assert await raw("XLEN", KEY) == 600
    assert names(archive) == []
    await archive.move([CAMPAIGN], before=FIRST_DAY + 9 * DAY, owner=OWNER)
    assert numbers(await everything(archive)) == list(range(600))


async def test_no_directory_can_be_made(archive: Archive, link: Link, raw: Any) -> None:
    archive.directory.parent.parent.mkdir(parents=True, exist_ok=True)
    archive.directory.parent.write_text("a file stands here")
    await put(link, over_days(1, 3))
    with pytest.raises(Unavailable, match="stays in Redis"):
        await archive.move([CAMPAIGN], before=FIRST_DAY + 9 * DAY, owner=OWNER)
    assert await raw("XLEN", KEY) == 3


async def test_a_move_that_is_cancelled_leaves_old_or_new(archive: Archive, link: Link, raw: Any) -> None:
    """At every point where it waits, as a daemon that is stopped."""
    entries = over_days(2, 4)
    for turns in range(0, 60, 2):
        await raw("DEL", KEY, "{dialer}:campaign:7:archived")
        await put(link, entries)
        moving = asyncio.ensure_future(archive.move([CAMPAIGN], before=FIRST_DAY + 9 * DAY, owner=OWNER))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
        assert numbers(await everything(archive)) == list(range(8)), turns
        if moving.cancelled():
            assert not (archive.directory / "7" / ".unfinished").exists()
        for path in (archive.directory / "7").glob("*.gz"):
            path.unlink()


async def test_a_reader_loses_nothing_to_a_move_under_way(archive: Archive, link: Link, raw: Any) -> None:
    count = 3 * READ_AT_ONCE
    await put(link, over_days(3, READ_AT_ONCE))
    reading = archive.read(CAMPAIGN)
    told = [await anext(reading) for _ in range(READ_AT_ONCE + 7)]  # the second page of Redis is in its hands
    await archive.move([CAMPAIGN], before=FIRST_DAY + 9 * DAY, owner=OWNER)
    assert await raw("XLEN", KEY) == 0
    told += [item async for item in reading]
    assert numbers(told) == list(range(count))


async def test_a_damaged_file_is_named(archive: Archive, link: Link, raw: Any) -> None:
    await put(link, over_days(1, 50))
    await archive.move([CAMPAIGN], before=FIRST_DAY + 9 * DAY, owner=OWNER)
    (path,) = (archive.directory / "7").glob("*.gz")
    whole = path.read_bytes()
    for damaged in (whole[:-30], whole[:40] + b"\0\0\0\0" + whole[44:], b"", gzip.compress(b"[]\n")):
        path.write_bytes(damaged)
        with pytest.raises(Unavailable, match=f"{path.name}.*damaged"):
            await everything(archive)
    path.write_bytes(whole)
    (path.parent / "notes.txt").write_text("an operator's own")
    assert numbers(await everything(archive)) == list(range(50))


async def test_what_another_program_has_put_there_is_kept_as_it_stands(archive: Archive, raw: Any) -> None:
    await raw("XADD", KEY, "1772323200000-0", "hello", "world", "id", "mine")
    await raw("XADD", KEY, "1772323200000-1", *entry(1, FIRST_DAY)[1:-1], "[1]")
    await archive.move([CAMPAIGN], before=FIRST_DAY + 9 * DAY, owner=OWNER)
    assert await raw("XLEN", KEY) == 0
    first, second = await everything(archive)
    assert first == {"hello": "world"}
    assert second["more"] == "[1]"


async def test_a_key_of_another_type_harms_its_campaign_alone(redis_server: RealRedis, tmp_path: Path) -> None:
    """Not on the fake: it hangs up where a Redis says WRONGTYPE."""
    link = Link(connect(redis_server.url, 5.0), "dialer")
    archive = Archive(tmp_path, Results(link))
    await put(link, over_days(1, 3))
    await link.do("SET", "{dialer}:campaign:6:results", "no stream")
    await archive.move([CampaignId(6), CAMPAIGN], before=FIRST_DAY + 9 * DAY, owner=OWNER)
    assert await link.do("XLEN", KEY) == 0
    assert numbers(await everything(archive)) == [0, 1, 2]
    await link.close()
