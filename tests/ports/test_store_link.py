"""The connection: pipelines, lost scripts, lost servers, full and read-only ones, wake-ups, versions."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dialer_engine.archive import Archive
from dialer_engine.core.model import AttemptId, CampaignId, CampaignState, Command
from dialer_engine.errors import ConfigError, Invalid, Rejected, Unavailable
from dialer_engine.store import Store
from dialer_engine.store.link import Link
from dialer_engine.store.records import ClaimKind, Closed, ControlReply, ReadRow, SentKind, SettleKind
from dialer_engine.store.server import connect
from dialer_engine.store.stats import Tally
from tests.ports.store_desk import NOW, OWNER, Desk, RealRedis, Wire, in_batches, real_redis

BUSY = {"status": "RS_BUSY"}


@pytest.fixture
async def own(redis_server: RealRedis) -> AsyncIterator[Desk]:
    """A desk on a server of its own, which the test may kill, fill or demote."""
    store = await Store.open(redis_server.url, timeout_seconds=1)
    yield Desk(store)
    await store.close()


async def until_it_answers(desk: Desk) -> None:
    deadline = time.monotonic() + 5
    while True:
        with contextlib.suppress(Unavailable):
            await desk.store.campaigns.load(now=NOW)
            return
        assert time.monotonic() < deadline


async def test_verbs_of_one_turn_share_a_pipeline(redis_server: RealRedis) -> None:
    async with Wire(redis_server) as wire:
        store = await Store.open(wire.url)
        await store.calls.heartbeat("host", now=NOW)
        before = wire.packets_up
        await asyncio.gather(*(store.calls.heartbeat(f"host{n}", now=NOW) for n in range(50)))
        assert wire.packets_up == before + 1
        await store.close()


async def test_a_verb_whose_reply_was_lost_may_be_repeated(redis_server: RealRedis) -> None:
    """Every verb of a call's life loses its reply once and is sent again: the same as if nothing had happened."""
    async with Wire(redis_server) as wire:
        store = await Store.open(wire.url)
        desk = Desk(store)
        campaign = await desk.new_campaign(await desk.new_list("601", "602"))

        async def repeated(verb: Callable[[], Awaitable[Any]]) -> Any:
            wire.lose_next_reply = True
            with pytest.raises(Unavailable, match="may have been done"):
                await verb()
            return await verb()

        calls, start = store.calls, Command.START
        started = await repeated(
            lambda: store.campaigns.command(campaign, start, by="test", now=NOW, request="r")
        )
        assert started.run == 1
        (place,) = (await desk.view(campaign)).lists
        rows = [ReadRow(0, "601"), ReadRow(1, "602")]
        read = await repeated(lambda: store.reading.accept(campaign, 1, place, rows=rows, cursor=2))
        assert (read.stale, read.cursor) == (True, 2)
        first, second = desk.requests(await desk.waiting(campaign))
        claimed = await repeated(lambda: desk.send_claim(campaign, [first, second], run=1))
        assert [one.kind for one in claimed.outcomes] == [ClaimKind.CLAIMED] * 2
        sent = await repeated(lambda: calls.mark_sent(first.attempt_id, owner=OWNER, now=NOW))
        assert sent.kind is SentKind.OK
        assert await repeated(lambda: calls.progress(first.attempt_id, {"phase": "RINGING"}, now=NOW))
        assert not await repeated(lambda: calls.release(second.attempt_id, owner=OWNER))
        found = await repeated(lambda: calls.recover(OWNER, lease_seconds=30, dead_after_seconds=15, now=NOW))
        assert [one.id for one in found.attempts] == [first.attempt_id]
        settle = partial(calls.settle, first.attempt_id, result=BUSY, next=Closed(), now=NOW)
        assert await repeated(settle) is SettleKind.GONE
        view = await desk.view(campaign)
        assert (view.fresh, view.live, view.counts.closed, view.counts.read) == (1, 0, 1, 2)
        assert (await store.stats.read(campaign, 1, hours=1, now=NOW)).whole == Tally({"RS_BUSY": 1})
        await store.close()


async def test_a_cancelled_verb_disturbs_nobody_in_its_pipeline(store: Store) -> None:
    tasks = [asyncio.create_task(store.calls.heartbeat(f"host{n}", now=NOW)) for n in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(tasks[0], tasks[2])
    assert await store.clock_offset_seconds(time.time) < 5


async def test_scripts_forgotten_by_redis_are_loaded_again(own: Desk, redis_server: RealRedis) -> None:
    campaign = await own.running("601")
    with redis_server.client() as client:
        client.script_flush()
    await asyncio.gather(own.call(campaign), own.view(campaign), own.store.calls.heartbeat("a", now=NOW))
    assert (await own.view(campaign)).live == 1


async def test_kill_9_of_redis_loses_nothing_acknowledged(own: Desk, redis_server: RealRedis) -> None:
    campaign = await own.running("601", "602", "603", "604")
    sent = await own.call(campaign)
    (claimed,) = await own.claim(campaign)
    waiting = own.requests(await own.waiting(campaign))
    redis_server.kill()
    calls = own.store.calls
    with pytest.raises(Unavailable):
        await calls.settle(sent.attempt_id, result=BUSY, next=Closed(), now=NOW)
    with pytest.raises(Unavailable):
        await own.send_claim(campaign, waiting, run=1)
    redis_server.start()
    await until_it_answers(own)
    kind = await calls.settle(sent.attempt_id, result=BUSY, next=Closed(), now=NOW)
    assert kind is SettleKind.DONE
    reply = await own.send_claim(campaign, waiting[:1], run=1)
    assert reply.outcomes[0].kind is ClaimKind.CLAIMED
    assert await calls.release(claimed.attempt_id, owner=OWNER)
    view = await own.view(campaign)
    assert (view.fresh, view.live, view.counts.closed) == (2, 1, 1)


async def test_killed_while_verbs_are_under_way(own: Desk, redis_server: RealRedis) -> None:
    """Whatever was carried out was carried out whole: every contact is somewhere, every set agrees."""
    campaign = await own.running(*(f"6{n:03}" for n in range(60)))
    requests = own.requests(await own.waiting(campaign))

    async def one_call(n: int) -> None:
        with contextlib.suppress(Unavailable):
            await own.send_claim(campaign, requests[n : n + 1], run=1)
            await own.store.calls.mark_sent(requests[n].attempt_id, owner=OWNER, now=NOW)
            await own.store.calls.settle(requests[n].attempt_id, result=BUSY, next=Closed(), now=NOW)

    tasks = [asyncio.create_task(one_call(n)) for n in range(60)]
    await asyncio.sleep(0.002)
    redis_server.kill()
    await asyncio.gather(*tasks)
    redis_server.start()
    await until_it_answers(own)
    view = await own.view(campaign)
    results = await own.store.results.read(campaign)
    assert view.fresh + view.due + view.live + view.counts.closed == 60
    assert len(results.items) == view.counts.closed
    found = await own.store.calls.recover(OWNER, lease_seconds=30, dead_after_seconds=15, now=NOW)
    assert len(found.attempts) + found.released == view.live


async def everything(server: RealRedis) -> dict[str, Any]:
    """Every key with its value, to see that a refused verb has changed none."""
    readers = {"string": "GET", "set": "SMEMBERS", "hash": "HGETALL", "list": "LRANGE", "zset": "ZRANGE"}
    found = {}
    with server.client() as client:
        for key in client.scan_iter():
            kind = client.type(key)
            whole = (0, -1) if kind in ("list", "zset") else ("-", "+") if kind == "stream" else ()
            found[key] = client.execute_command(readers.get(kind, "XRANGE"), key, *whole)
    return found


async def refused(desk: Desk, server: RealRedis, campaign: Any, sentence: str) -> None:
    """Every verb that writes is refused with the sentence, and nothing is half done."""
    sent = (await desk.store.calls.live(campaign))[0]
    requests = desk.requests(await desk.waiting(campaign))
    store, view = desk.store, await desk.view(campaign)
    before = await everything(server)
    verbs = [
        desk.send_claim(campaign, requests, run=1),
        store.calls.settle(sent.id, result=BUSY, next=Closed(), now=NOW),
        store.calls.mark_sent(sent.id, owner=OWNER, now=NOW),
        store.calls.progress(sent.id, {"phase": "RINGING"}, now=NOW),
        store.reading.accept(campaign, 1, view.lists[0], rows=[], cursor=view.lists[0].cursor + 1),
        store.campaigns.command(campaign, Command.RELOAD, by="test", now=NOW),
        store.lists.create("list", in_batches(["601"])),
    ]
    for outcome in await asyncio.gather(*verbs, return_exceptions=True):
        assert isinstance(outcome, Unavailable), outcome
        assert sentence in str(outcome)
    assert await everything(server) == before


async def test_a_master_that_has_become_a_replica_is_left_for_whoever_has_its_name_now(
    redis_server: RealRedis, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As a name moves to the new master and leaves open connections where they are."""
    with real_redis(tmp_path_factory.mktemp("master")) as master:
        async with Wire(redis_server) as wire:
            store = await Store.open(wire.url, timeout_seconds=1)
            await store.calls.heartbeat("host", now=NOW)
            with redis_server.client() as client:
                client.replicaof("127.0.0.1", "1")
                wire.server = master
                with pytest.raises(Unavailable, match="read-only replica"):
                    await store.calls.heartbeat("host", now=NOW)
                assert await store.calls.heartbeat("host", now=NOW) == 1
                client.replicaof("NO", "ONE")
            await store.close()


def brakes(desk: Desk, campaign: CampaignId) -> list[Callable[[], Awaitable[object]]]:
    """What must be possible whatever Redis has no room for."""
    return [
        partial(desk.store.stop, by="test", now=NOW),
        partial(desk.command, campaign, Command.PAUSE),
        partial(desk.store.campaigns.set_invalid, campaign, "broken", now=NOW),
        partial(desk.command, campaign, Command.REMOVE),
    ]


async def test_a_read_only_replica_refuses_whole(own: Desk, redis_server: RealRedis) -> None:
    campaign = await own.running("601", "602")
    await own.claim(campaign)
    with redis_server.client() as client:
        client.config_set("replica-serve-stale-data", "yes")
        client.replicaof("127.0.0.1", "1")
        await refused(own, redis_server, campaign, "read-only replica")
        for verb in brakes(own, campaign):
            with pytest.raises(Unavailable, match="read-only replica"):
                await verb()
        client.replicaof("NO", "ONE")
    assert (await own.call(campaign)).number == "602"


async def test_a_full_redis_refuses_whole(own: Desk, redis_server: RealRedis) -> None:
    campaign = await own.running("601", "602")
    await own.claim(campaign)
    with redis_server.client() as client:
        client.config_set("maxmemory", "1mb")
        await refused(own, redis_server, campaign, "full (maxmemory)")
        client.config_set("maxmemory", "0")
    assert (await own.call(campaign)).number == "602"


async def test_on_a_full_redis_everything_can_be_stopped(own: Desk, redis_server: RealRedis) -> None:
    """It may have room again at any time, and then would dial on."""
    campaign = await own.running("601", "602")
    await own.command(campaign, Command.PAUSE)
    await own.command(campaign, Command.UNPAUSE)
    with redis_server.client() as client:
        client.config_set("maxmemory", "1mb")
        for verb in brakes(own, campaign):
            await verb()
        with pytest.raises(Unavailable, match="it is full"):
            await own.command(campaign, Command.START)
        client.config_set("maxmemory", "0")
    view = await own.view(campaign)
    assert (view.state, view.fresh) == (CampaignState.REMOVED, 0)
    assert await own.store.stopped() == {"by": "test", "at": str(NOW)}


async def test_on_a_full_redis_a_campaign_is_completed_and_what_its_run_has_seen_is_freed(
    own: Desk, redis_server: RealRedis
) -> None:
    campaign = await own.running("601")
    await own.settle(await own.call(campaign))
    view = await own.view(campaign)
    with redis_server.client() as client:
        client.config_set("maxmemory", "1mb")
        assert await own.store.campaigns.complete(campaign, 1, view.lists, now=NOW)
        await own.store.tidy()
        assert [*client.scan_iter("{dialer}:campaign:*:seen:*")] == []
        client.config_set("maxmemory", "0")
    assert (await own.view(campaign)).state is CampaignState.COMPLETED


async def test_a_daemon_that_begins_on_a_full_redis_finds_its_calls(own: Desk, redis_server: RealRedis) -> None:
    campaign = await own.running("601", "602", "603")
    sent, theirs = await own.call(campaign), await own.call(campaign)
    await own.claim(campaign)
    with redis_server.client() as client:
        client.hset(f"{{dialer}}:attempt:{theirs.attempt_id}", "owner", "other")
        client.zrem(f"{{dialer}}:daemon:{OWNER}:live", theirs.attempt_id)
        client.zadd("{dialer}:daemon:other:live", {theirs.attempt_id: NOW})
        client.zadd("{dialer}:daemons", {"other": NOW})
        client.config_set("maxmemory", "1mb")
        store = await Store.open(redis_server.url)
        found = await store.calls.recover(OWNER, lease_seconds=30, dead_after_seconds=15, now=NOW + 60)
        client.config_set("maxmemory", "0")
    assert {one.id for one in found.attempts} == {sent.attempt_id, theirs.attempt_id}
    assert {one.owner for one in found.attempts} == {OWNER}
    assert found.released == 1
    assert (await own.view(campaign)).fresh == 1
    await store.close()


async def test_who_may_not_publish_does_all_the_same_what_he_is_told(redis_server: RealRedis) -> None:
    """As a user of Redis is by default, however many keys he has."""
    owner = Desk(await Store.open(redis_server.url))
    campaign = await owner.running("601")
    with redis_server.client() as client:
        client.acl_setuser("shop", enabled=True, nopass=True, keys=["*"], commands=["+@all"], reset=True)
        client.rpush("{dialer}:commands", '{"campaign":1,"command":"pause"}')
        client.set(f"{{dialer}}:campaign:{campaign}:definition", "{}")
        client.rpush("{dialer}:commands", '{"campaign":1,"command":"reload"}')
        guest = await Store.open(f"unix://shop:any@{redis_server.socket}")
        paused, reloaded = await guest.campaigns.obey(now=NOW)
        assert isinstance(paused, ControlReply)
        assert isinstance(reloaded, Invalid)
        assert client.llen("{dialer}:commands") == 0
    assert (await owner.view(campaign)).state is CampaignState.INVALID
    await guest.close()
    await owner.store.close()


async def test_a_full_redis_can_be_emptied(own: Desk, redis_server: RealRedis, tmp_path: Path) -> None:
    """By whatever frees: the archive, a list and a campaign that are deleted."""
    campaign = await own.running("601", "602")
    request = await own.call(campaign)
    await own.store.calls.settle(request.attempt_id, result=BUSY, next=Closed(), now=NOW)
    thousands = [f"7{n:08}" for n in range(2000)]
    spare = await own.new_list(*thousands)
    archive = Archive(tmp_path / "results", own.store.results)
    with redis_server.client() as client:
        client.config_set("maxmemory", "1mb")
        with pytest.raises(Unavailable, match="it is full"):
            await own.new_list("603")
        await archive.move([campaign], before=datetime.now(UTC) + timedelta(days=2), owner=OWNER)
        assert client.xlen(f"{{dialer}}:campaign:{campaign}:results") == 0
        assert client.hget(f"{{dialer}}:campaign:{campaign}:archived", f"by:{OWNER}") in (b"1", "1")
        await own.store.lists.delete(spare)
        await own.store.audit.write(by="test", action="delete", subject=f"list {spare}", now=NOW)
        assert [*client.scan_iter(f"{{dialer:list:{spare}}}:*")] == []
        await own.command(campaign, Command.REMOVE)
        await own.store.campaigns.delete(campaign, by="test", now=NOW)
        await own.store.tidy()
        assert [*client.scan_iter(f"{{dialer}}:campaign:{campaign}:*")] == []
        client.config_set("maxmemory", "0")
    assert (await own.store.audit.page(0, 1))[1][0].action == "delete"


async def test_what_was_committed_when_redis_became_full_is_finished_and_keeps_it_from_nothing(
    own: Desk, redis_server: RealRedis
) -> None:
    """Rows on their way to their list, numbers on their way to the do-not-call list: they move, and need no room."""
    filled, spare = await own.new_list("601"), await own.new_list("602")
    with redis_server.client() as client:
        base = f"{{dialer:list:{filled}}}"
        client.rpush(f"{base}:coming:2", "603", "603", "604", "604")
        client.hset(f"{base}:meta", "moving:2", 1)
        client.sadd("{dialer}:imports", f"{filled}.2")
        client.rpush("{dialer}:forbidding:t", "605", "{}", "606", "{}")
        client.hset("{dialer}:forbidding", "t", "all")
        client.config_set("maxmemory", "1mb")
        await own.store.lists.delete(spare)
        await own.store.tidy()
        assert [*client.scan_iter(f"{{dialer:list:{spare}}}:*")] == []
        client.config_set("maxmemory", "0")
    assert await own.store.lists.rows(filled, 0, 10) == ["601", "603", "604"]
    assert (await own.store.do_not_call.slice(0, 10))[0] == 2


async def test_a_hung_redis_is_unavailable_within_its_time(own: Desk, redis_server: RealRedis) -> None:
    redis_server.signal(signal.SIGSTOP)
    started = time.monotonic()
    try:
        with pytest.raises(Unavailable):
            await own.store.campaigns.load(now=NOW)
    finally:
        redis_server.signal(signal.SIGCONT)
    assert time.monotonic() - started < 3
    await until_it_answers(own)


async def test_no_answer_is_taken_for_anothers(redis_server: RealRedis) -> None:
    """Whoever did not wait for his answer leaves none to the next, also when Redis hung in the midst of a handshake."""
    link = Link(connect(redis_server.url, 0.2), "dialer")
    assert await link.do("ECHO", "before") == "before"
    for _ in range(3):
        redis_server.signal(signal.SIGSTOP)
        try:
            for n in range(2):
                with pytest.raises(Unavailable):
                    await link.do("ECHO", f"lost {n}")
        finally:
            redis_server.signal(signal.SIGCONT)
        assert [await link.do("ECHO", str(n)) for n in range(5)] == ["0", "1", "2", "3", "4"]
    await link.close()


async def test_what_is_no_text_is_written_all_the_same(store_url: str) -> None:
    link = Link(connect(store_url, 5.0), "dialer")
    said: list[str | int | float] = ["", "\ud800", "žluť\x00\r\n$3", -1, 0.1 + 0.2, 1764322391.123456, 10**20]
    heard = ["", "?", "žluť\x00\r\n$3", "-1", "0.30000000000000004", "1764322391.123456", "1" + 20 * "0"]
    assert await link.many([("ECHO", each) for each in said]) == heard
    await link.close()


@pytest.mark.parametrize("url", ["unix://{}/none.sock", "redis://127.0.0.1:1/0", "redis://nobody.invalid/0"])
async def test_nobody_there(tmp_path: Path, url: str) -> None:
    """And nobody is told that something may have been done."""
    with pytest.raises(Unavailable, match=r"^redis is unavailable: [^;]*[^.;]$"):
        await Store.open(url.format(tmp_path))


async def test_a_database_or_a_user_that_redis_refuses_is_a_mistake_in_the_configuration(
    redis_server: RealRedis,
) -> None:
    with pytest.raises(ConfigError, match=r"redis: Redis refuses: .*out of range"):
        await Store.open(f"{redis_server.url}?db=99")
    with redis_server.client() as client:
        client.acl_setuser("eva", enabled=True, passwords=["+secret"], categories=["-@all"])
    with pytest.raises(ConfigError, match=r"redis: Redis refuses: .*permissions"):
        await Store.open(redis_server.url.replace("unix://", "unix://eva:secret@"))


async def test_what_the_store_was_asked_while_it_closes_is_answered(store: Store) -> None:
    asked = asyncio.create_task(store.calls.heartbeat("host", now=NOW))
    await asyncio.sleep(0)
    await store.close()
    with contextlib.suppress(Unavailable):
        await asyncio.wait_for(asked, 1)


async def test_a_key_of_another_type_is_told(store: Store, raw: Any) -> None:
    await raw("SET", "{dialer}:campaigns", "x")
    with pytest.raises((Rejected, Unavailable)):  # fakeredis hangs up after an error
        await store.campaigns.load(now=NOW)


async def test_another_version_of_the_contract_is_refused_with_the_remedy(store_url: str, raw: Any) -> None:
    await raw("SET", "{dialer}:version", "2")
    with pytest.raises(ConfigError, match="use the program that wrote it"):
        await Store.open(store_url)
    other = await Store.open(store_url, prefix="second")
    await other.close()


async def test_two_prefixes_do_not_meet(store: Store, store_url: str) -> None:
    other = await Store.open(store_url, prefix="second")
    await Desk(store).running("601")
    assert (await other.campaigns.load(now=NOW)).campaigns == {}
    await other.close()


class Ear:
    """Hears wake-ups; `heard()` waits for the next one."""

    def __init__(self, store: Store) -> None:
        self.inbox: asyncio.Queue[str] = asyncio.Queue()
        self.task = asyncio.create_task(store.listen(self.inbox.put_nowait))

    async def heard(self) -> str:
        return await asyncio.wait_for(self.inbox.get(), 10)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_wake_ups_are_heard(desk: Desk) -> None:
    ear = Ear(desk.store)
    assert await ear.heard() == ""  # connected: whatever came before may have been missed
    await desk.store.wake("look")
    assert await ear.heard() == "look"
    campaign = await desk.new_campaign(await desk.new_list("601"))
    assert await ear.heard() == f"ivr {(await desk.store.ivrs.all())[0].id}"
    assert await ear.heard() == f"campaign {campaign}"
    await desk.command(campaign, Command.START)
    assert await ear.heard() == f"campaign {campaign}"
    await ear.stop()


async def test_a_lost_connection_is_a_wake_up(own: Desk, redis_server: RealRedis) -> None:
    ear = Ear(own.store)
    assert await ear.heard() == ""
    redis_server.kill()
    redis_server.start()
    assert await ear.heard() == ""
    await until_it_answers(own)
    await own.store.wake("again")
    assert await ear.heard() == "again"
    await ear.stop()


@pytest.mark.parametrize("ages", ["just begun", "listening"])
async def test_who_listens_can_be_cancelled_at_any_turn_of_the_loop(store: Store, ages: str) -> None:
    """A library that swallows one leaves a daemon that does not end."""
    for turns in range(80 if ages == "just begun" else 1):
        listening = asyncio.create_task(store.listen(lambda _: None))
        if ages == "listening":
            await asyncio.sleep(0.2)
        for _ in range(turns):
            await asyncio.sleep(0)
        listening.cancel()
        await asyncio.wait([listening], timeout=1)
        assert listening.cancelled(), turns


@pytest.mark.parametrize(
    "url",
    ["http://x", "redis://host:port/0", "redis+sentinel://a:1,b:2", "redis+sentinel://a:x/main"],
)
async def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigError):
        connect(url, 1)


async def test_a_sentinel_url_asks_the_sentinels() -> None:
    server = connect("redis+sentinel://eva:s%40t@one,two:26380/main/3", 1)
    pool: Any = server.client.connection_pool
    hosts = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"]) for one in hosts] == [("one", 26379), ("two", 26380)]
    kwargs = pool.connection_kwargs
    assert (pool.service_name, kwargs["db"], kwargs["username"], kwargs["password"]) == (
        "main",
        3,
        "eva",
        "s@t",
    )
    await server.aclose()


async def test_every_key_of_a_script_lies_in_one_slot(own: Desk, redis_server: RealRedis) -> None:
    """Cluster and Sentinel stay possible: all dispatch keys share a hash tag, each list has one of its own."""
    campaign = await own.running("601", "602")
    request = await own.call(campaign)
    await own.store.calls.settle(request.attempt_id, result=BUSY, next=Closed(), now=NOW)
    await own.claim(campaign)
    with redis_server.client() as client:
        keys = list(client.scan_iter())
    assert all(key.startswith(("{dialer}:", "{dialer:list:1}:")) for key in keys), keys


async def test_an_unknown_attempt_is_gone_for_every_verb(store: Store) -> None:
    none = AttemptId("none")
    assert (await store.calls.mark_sent(none, owner=OWNER, now=NOW)).kind == "GONE"
    kind = await store.calls.settle(none, result=BUSY, next=Closed(), now=NOW)
    assert kind is SettleKind.GONE
    assert not await store.calls.release(none, owner=OWNER)
