"""What our ARI client costs: CPU per originate and per event, against bare aiohttp in the same run.

The PBX is another process that answers every originate and sends seven events of some 600 bytes for it, as
Asterisk does for an answered call. "Bare" is aiohttp as its documentation shows it: `session.post(json=...)`,
`async for message in ws`, `json.loads`. Run: `python bench/ari_client.py [CALLS]`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from dialer_engine.ari import Ari, AriConfig, AriEvent, AriState

IN_FLIGHT = 16
EVENTS_PER_CALL = 7
TARGET_EVENT_US = 8.0


def frame(channel_id: str, serial: int) -> str:
    """As long as a real one; most fields are there to be skipped. No two are the same: nor are Asterisk's."""
    party = {"name": "", "number": "420123456789"}
    channel = {
        "id": channel_id, "name": "PJSIP/carrier-00000001", "state": "Up", "protocol_id": "a" * 36,
        "caller": party, "connected": party, "accountcode": "", "language": "en",
        "dialplan": {"context": "from-trunk", "exten": "s", "priority": 1, "app_name": "AppDial2",
                     "app_data": "(Outgoing Line)"},
        "creationtime": "2026-11-24T15:00:00.000+0000",
    }  # fmt: skip
    at = "2026-11-24T15:00:00.123+0000"
    event = {"type": "ChannelStateChange", "timestamp": at, "channel": channel, "serial": serial}
    return json.dumps({**event, "asterisk_id": "52:54:00:12:34:56", "application": "dialer"})


async def serve() -> None:
    """The PBX: prints its port, then serves until killed."""
    sockets: list[web.WebSocketResponse] = []

    async def events(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        sockets.append(socket)
        async for _ in socket:
            pass
        return socket

    async def flood(request: web.Request) -> web.Response:
        frames = [frame("flood", serial) for serial in range(int(request.match_info["count"]))]
        for text in frames:
            await sockets[-1].send_str(text)
        return web.Response()

    async def originate(request: web.Request) -> web.Response:
        await request.read()
        for serial in range(EVENTS_PER_CALL):
            await sockets[-1].send_str(frame(request.match_info["id"], serial))
        return web.Response(body=b"{}", content_type="application/json")

    async def info(_: web.Request) -> web.Response:
        return web.json_response({"status": {"startup_time": "x"}, "system": {"version": "22.10.1"}})

    async def echo(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        await sockets[-1].send_json({"type": "ChannelUserevent", "eventname": name, "serial": time.time()})
        return web.Response(status=204)

    app = web.Application()
    app.add_routes(
        [
            web.get("/ari/events", events),
            web.post("/ari/channels/{id}", originate),
            web.post("/flood/{count}", flood),
            web.get("/ari/asterisk/info", info),
            web.put("/ari/applications/{app}/eventFilter", lambda _: _empty()),
            web.post("/ari/events/user/{name}", echo),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


async def _empty() -> web.Response:
    return web.json_response({})


class Heard:
    """Counts events and wakes whoever waits for the last one."""

    def __init__(self) -> None:
        self.count = 0
        self._wanted = 0
        self._enough = asyncio.Event()

    def one(self, event: object) -> None:
        self.count += 1
        if self.count == self._wanted:
            self._enough.set()

    def expect(self, count: int) -> None:
        self._wanted = self.count + count
        self._enough.clear()

    async def enough(self) -> None:
        await asyncio.wait_for(self._enough.wait(), 120)


Originate = Callable[[str], Awaitable[None]]


@asynccontextmanager
async def ours(url: str, heard: Heard) -> AsyncIterator[Originate]:
    up = asyncio.Event()

    def on_event(event: AriEvent) -> None:
        heard.one(event)

    def on_state(_: AriState) -> None:
        up.set()

    async with Ari(AriConfig(url, "dialer", "secret", "dialer"), on_event, on_state) as ari:
        run = asyncio.create_task(ari.run())
        await asyncio.wait_for(up.wait(), 10)

        async def originate(channel_id: str) -> None:
            await ari.originate(
                channel_id,
                endpoint="PJSIP/1@carrier",
                caller_id="100",
                timeout_seconds=30,
                variables={"A": "1"},
            )

        yield originate
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


@asynccontextmanager
async def bare(url: str, heard: Heard) -> AsyncIterator[Originate]:
    headers = {"Authorization": aiohttp.encode_basic_auth("dialer", "secret")}
    async with aiohttp.ClientSession(headers=headers) as session, session.ws_connect(f"{url}/ari/events") as ws:

        async def listen() -> None:
            async for message in ws:
                heard.one(json.loads(message.data))

        async def originate(channel_id: str) -> None:
            body = {"endpoint": "PJSIP/1@carrier", "app": "dialer", "appArgs": "", "callerId": "100",
                    "timeout": 30, "variables": {"A": "1"}}  # fmt: skip
            async with session.post(f"{url}/ari/channels/{channel_id}", json=body) as response:
                response.raise_for_status()
                await response.json()

        listening = asyncio.create_task(listen())
        yield originate
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def cpu_per_call(originate: Originate, heard: Heard, calls: int) -> float:
    """Microseconds of CPU for one originate and its events, IN_FLIGHT at a time."""
    heard.expect(calls * EVENTS_PER_CALL)
    numbers = iter(range(heard.count, heard.count + calls))

    async def caller() -> None:
        for number in numbers:
            await originate(f"c{number:020d}")

    began = time.process_time()
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    await heard.enough()
    return (time.process_time() - began) / calls * 1e6


async def cpu_per_event(url: str, heard: Heard, events: int) -> float:
    """Microseconds of CPU from the socket to the callback."""
    heard.expect(events)
    began = time.process_time()
    async with aiohttp.ClientSession() as helper, helper.post(f"{url}/flood/{events}"):
        await heard.enough()
    return (time.process_time() - began) / events * 1e6


async def compare(url: str, calls: int) -> None:
    """Each client five times, in turn, the best counts: the machine is shared."""
    best: dict[str, tuple[float, float]] = {}
    for _ in range(5):
        for name, client in (("ours", ours), ("bare aiohttp", bare)):
            heard = Heard()
            async with client(url, heard) as originate:
                await cpu_per_call(originate, heard, calls // 10)
                call = await cpu_per_call(originate, heard, calls)
                event = await cpu_per_event(url, heard, calls * 20)
            before = best.get(name, (call, event))
            best[name] = (min(call, before[0]), min(event, before[1]))
    print(f"us of CPU      originate with its {EVENTS_PER_CALL} events    one event")
    for name, (call, event) in best.items():
        print(f"{name:14} {call:28.1f} {event:12.2f}")
    (call, event), (bare_call, bare_event) = best["ours"], best["bare aiohttp"]
    print(f"{'ours / bare':14} {call / bare_call:28.2f} {event / bare_event:12.2f}")
    print(f"target: at most {TARGET_EVENT_US} us per event: {'met' if event <= TARGET_EVENT_US else 'MISSED'}")


async def main(calls: int) -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "serve", stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        port = int(await asyncio.wait_for(server.stdout.readline(), 20))
        await compare(f"http://127.0.0.1:{port}", calls)
    finally:
        server.kill()
        await server.wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
