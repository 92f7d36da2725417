"""docs/redis.md keeps its word: its commands, run by the real redis-cli, start a campaign."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

from dialer_engine.core.model import CampaignId, CampaignState
from dialer_engine.store import Store
from dialer_engine.store.records import ClaimKind, ControlReply, SentKind
from tests.ports.store_desk import NOW, OWNER, Desk, RealRedis, talked

PAGE = Path(__file__).parents[2] / "docs" / "redis.md"


def blocks() -> list[list[str]]:
    text = PAGE.read_text()
    return [block.strip().splitlines() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]


def run(server: RealRedis, command: str) -> str:
    """Exactly the line of the page, except that redis-cli is told where our server is."""
    assert command.startswith("redis-cli ")
    line = command.replace("redis-cli ", f"redis-cli -e -s {server.socket} ", 1)
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


async def test_redis_cli_alone_makes_and_starts_a_campaign(redis_server: RealRedis) -> None:
    store = await Store.open(redis_server.url)
    desk = Desk(store)
    start, outcome, rest = blocks()
    for command in filter(None, start):
        run(redis_server, command)
    (reply,) = await store.campaigns.obey(now=NOW)
    assert isinstance(reply, ControlReply)
    assert (reply.state, reply.run) == (CampaignState.RUNNING, 1)
    assert run(redis_server, outcome[0]) == "RUNNING"
    assert "cron" in run(redis_server, outcome[1])

    campaign = CampaignId(1)
    view = await desk.view(campaign)
    assert view.definition is not None
    assert (await store.ivrs.load(view.definition.ivr)).document["start"] == "tell"
    await desk.read(campaign)
    assert [one.row[:20] for one in await desk.waiting(campaign)] == ["123456789", '{"number":"987654321']

    append, strike, forbid, pause, stop, resume, results = rest
    run(redis_server, append)
    run(redis_server, strike)
    run(redis_server, forbid)
    await desk.read(campaign)
    waiting = await desk.waiting(campaign)
    reply_to_claim = await desk.send_claim(campaign, requests := desk.requests(waiting))
    assert [one.kind for one in reply_to_claim.outcomes] == [ClaimKind.FORBIDDEN, ClaimKind.CLAIMED]
    run(redis_server, stop)
    sent = await store.calls.mark_sent(requests[1].attempt_id, owner=OWNER, now=NOW)
    assert sent.kind is SentKind.STOPPED
    run(redis_server, resume)
    run(redis_server, pause)
    (paused,) = await store.campaigns.obey(now=NOW)
    assert isinstance(paused, ControlReply)
    assert paused.state is CampaignState.PAUSED
    assert run(redis_server, results) == ""
    await store.close()


async def test_every_key_of_the_store_is_on_the_page(redis_server: RealRedis) -> None:
    """What a whole life of a campaign leaves in Redis is named on the page."""
    store = await Store.open(redis_server.url)
    desk = Desk(store)
    campaign = await desk.running("601", "602", "x")
    request = await desk.connected(campaign)
    await desk.settle(request, **talked())
    await store.calls.dispose(request.attempt_id, "SOLD", by="eva", now=NOW)
    await desk.connected(campaign)
    page = re.sub(r"`, `", "`\n`", PAGE.read_text())
    with redis_server.client() as client:
        for key in client.scan_iter():
            known = re.sub(r":campaign:\d+:", ":campaign:7:", str(key))
            known = re.sub(r"\{dialer:list:\d+\}", "{dialer:list:3}", known)
            known = re.sub(r":attempt:.*", ":attempt:ID", known)
            known = re.sub(r":(seen|calls|talked):.*", r":\1:*", known)
            known = re.sub(r":stats:\d+", ":stats:RUN", known)
            known = re.sub(r":rows:\d+", ":rows:GENERATION", known)
            known = re.sub(r":ivr:.*", ":ivr:ID", known)
            known = re.sub(r":(trunk|daemon):[^:]+:live", r":\1:NAME:live", known)
            assert f"`{known}`" in page, known
    await store.close()


async def test_a_user_of_redis_with_the_rights_of_the_page_dials_and_hears(redis_server: RealRedis) -> None:
    (rights,) = re.findall(r"`(~\S+ &\S+ \+@all)`", PAGE.read_text())
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "dialer", "on", "nopass", *rights.split())
    store = await Store.open(f"unix://dialer:any@{redis_server.socket}")
    heard: asyncio.Queue[str] = asyncio.Queue()
    listening = asyncio.create_task(store.listen(heard.put_nowait))
    assert await heard.get() == ""
    desk = Desk(store)
    await desk.settle(await desk.call(await desk.running("601", "602")))
    while await heard.get() != "campaign 1":
        pass
    await store.tidy()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await store.close()
