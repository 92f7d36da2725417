"""One event socket of one application, which comes back by itself."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

import aiohttp

from dialer_engine.ari.events import (
    ApplicationReplaced,
    AriEvent,
    ChannelUserevent,
    Malformed,
    Unknown,
    decode,
)
from dialer_engine.ari.rest import EventSocket, Rest, accepted, segment
from dialer_engine.ari.terms import AriCounts, Patience
from dialer_engine.errors import NotFound, Rejected, Replaced, Unavailable

FIRST_DELAY_SECONDS = 0.1
"""Never less: Asterisk cleans up after the socket before, and one that comes at once may stay deaf. See HEARING."""
LONGEST_DELAY_SECONDS = 5.0
SETTLED_SECONDS = 5.0
"""A connection that lived so long was a good one: the next loss starts again with the shortest delay."""

HEARING = "dialer-engine-hears"
"""The user event that we say to ourselves. Asterisk may clean up after the socket before so late that it switches off
the application of the next one, which stays open and answers pings but never gets an event: 1 of 120 sockets that
come at once. Nothing else tells."""

RECENT_FRAMES = 1024
"""How far apart the two may be of an event that is sent twice: side by side on an idle Asterisk, but more than 16
frames at 500 calls/s. See `Feed._is_double`."""


class Feed:
    """Events of `app` to `on_event`, in the order of the wire; `wanted` are the types Asterisk is to send,
    ChannelUserevent among them.

    `on_change` is told None when events come, and why when they do not: at the loss, before the socket's
    goodbyes, and at every try that fails. `prepare` is awaited between the opening and the first event handed
    on; what it raises ends that connection.
    """

    def __init__(
        self,
        rest: Rest,
        app: str,
        wanted: Sequence[str],
        *,
        patience: Patience,
        counts: AriCounts,
        prepare: Callable[[], Awaitable[None]],
        on_event: Callable[[AriEvent], None],
        on_change: Callable[[str | None], None],
    ) -> None:
        self._rest = rest
        self._app = app
        self._filter = {"allowed": [{"type": name} for name in wanted]}
        self._patience = patience
        self._counts = counts
        self._prepare = prepare
        self._on_event = on_event
        self._on_change = on_change
        self._connected_at = math.inf
        self._frames = 0
        self._recent: set[int] = set()
        self._recent_order: deque[int] = deque()

    async def run(self) -> NoReturn:
        """Connect, listen, and connect again, for ever. Raises Replaced when another client took our name."""
        loop = asyncio.get_running_loop()
        tries = 0
        while True:
            self._connected_at = math.inf
            await self._connection()
            # A socket that opens and closes at once must not make us turn in a tight circle either.
            tries = 0 if loop.time() - self._connected_at > SETTLED_SECONDS else tries
            await asyncio.sleep(min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**tries))
            tries = min(tries + 1, 16)

    async def _connection(self) -> None:
        """One life of the socket; what ends it is told before the goodbyes."""
        try:
            async with self._rest.listen(self._app) as socket:
                try:
                    await self._open()
                    reason = await self._listen(socket)
                except Replaced:
                    self._on_change("another client has taken our application's name")
                    raise
                self._on_change(reason)
        except (Unavailable, Rejected, NotFound) as exc:
            self._on_change(str(exc))

    async def _open(self) -> None:
        """Events wait in the socket meanwhile, in order.

        The filter may have died with the application's object (Asterisk drops one without subscriptions at
        the loss), so it is put every time; an application that is gone again (404) is connected anew.
        """
        path = f"/applications/{segment(self._app)}/eventFilter"
        accepted(await self._rest.ask("PUT", path, body=self._filter, seconds=self._patience.request_seconds))
        await self._prepare()
        self._connected_at = asyncio.get_running_loop().time()
        self._counts.connections += 1
        self._on_change(None)

    async def _listen(self, socket: EventSocket) -> str:
        """Until no events come any more; returns why."""
        ends = [asyncio.create_task(self._read(socket)), asyncio.create_task(self._until_deaf())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return next(end for end in ends if end.done()).result()
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _until_deaf(self) -> str:
        """Ask at once and at every heartbeat; returns why it is certain that Asterisk sends us nothing."""
        while True:
            if not await self._hears():
                return "Asterisk sends our application's events nowhere"
            await asyncio.sleep(self._patience.heartbeat_seconds)

    async def _hears(self) -> bool:
        """Does anything come after Asterisk has taken a word of ours? If it does not take it, nobody knows.

        Any frame is proof: the echo stands behind all that a slow socket still has to tell.
        """
        path = f"/events/user/{HEARING}"
        query, seconds = {"application": self._app}, self._patience.request_seconds
        frames = self._frames
        try:
            accepted(await self._rest.ask("POST", path, query=query, seconds=seconds))
        except NotFound:
            return False
        except (Unavailable, Rejected):
            return True
        await asyncio.sleep(self._patience.hearing_seconds)  # a loop that was held up reads first
        return self._frames > frames

    async def _read(self, socket: EventSocket) -> str:
        """Hand on events until the socket ends; returns why it did.

        aiohttp tells most ends by a message; an exception comes only from answering a ping on a dead socket.
        """
        while True:
            try:
                message = await socket.receive()
            except (aiohttp.ClientError, OSError) as exc:
                return f"event socket failed: {exc}"
            if message.type is aiohttp.WSMsgType.TEXT:
                self._feed(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                self._counts.malformed += 1
            elif message.type is aiohttp.WSMsgType.ERROR:
                return f"event socket failed: {message.data}"
            else:
                return f"event socket closed (code {socket.close_code})"

    def _feed(self, frame: bytes) -> None:
        self._frames += 1
        if self._is_double(frame):
            self._counts.doubles += 1
            return
        try:
            event = decode(frame)
        except Unknown as exc:
            self._count_unknown(str(exc))
            return
        except Malformed:
            self._counts.malformed += 1
            return
        if isinstance(event, ChannelUserevent) and event.eventname == HEARING:
            return
        self._counts.events += 1
        if isinstance(event, ApplicationReplaced):
            raise Replaced
        self._on_event(event)

    def _is_double(self, frame: bytes) -> bool:
        """A channel heard both by its own subscription and by its endpoint's sends every event twice, a key
        too.

        The two are the same bytes. Two different events never are: at least their times differ. Hashes are
        kept, 64 bits of them, not frames: a frame may be of any size.
        """
        seen = hash(frame)
        if seen in self._recent:
            return True
        self._recent.add(seen)
        self._recent_order.append(seen)
        if len(self._recent) > RECENT_FRAMES:
            self._recent.remove(self._recent_order.popleft())
        return False

    def _count_unknown(self, name: str) -> None:
        # The names come from outside: a bounded number of them is remembered.
        known = name in self._counts.unknown or len(self._counts.unknown) < 64
        self._counts.unknown[name if known else "(others)"] += 1
