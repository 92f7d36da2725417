"""A wire between daemon and PBX that can be cut, held or slowed down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

_T = TypeVar("_T")
Mode = Literal["pass", "cut", "hold", "slow"]


class Proxy:
    """TCP from a port of ours to `target`, in a thread of its own.

    | mode | what it does |
    |---|---|
    | pass | hands everything on |
    | cut | closes what is open and refuses what comes |
    | hold | takes everything and hands nothing on until the mode changes: as when the peer's host has gone |
    | slow | hands everything on after `delay` seconds |

    With `only_events` the event socket alone is treated so, and requests pass. `greets`: the target speaks first, as
    AMI does.
    """

    def __init__(self, target: tuple[str, int], *, greets: bool = False) -> None:
        self._target = target
        self._greets = greets
        self.mode: Mode = "pass"
        self.delay = 0.0
        self.only_events = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._open: dict[asyncio.StreamWriter, bool] = {}  # with "is it the event socket?"
        self._changed = asyncio.Event()
        self._server = self._do(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def set(self, mode: Mode, *, delay: float = 0.0, only_events: bool = False) -> None:
        async def change() -> None:
            self.mode, self.delay, self.only_events = mode, delay, only_events
            self._changed.set()
            self._changed = asyncio.Event()
            if mode == "cut":
                for writer, events in list(self._open.items()):
                    if events or not only_events:
                        writer.transport.abort()

        self._do(change())

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def _treated(self, events: bool) -> Mode:
        return self.mode if events or not self.only_events else "pass"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.mode == "cut" and not self.only_events:
                writer.transport.abort()
                return
            first = b"" if self._greets else await reader.read(65536)
            events = b"/ari/events?" in first.split(b"\r\n", 1)[0]
            if self._treated(events) == "cut":
                writer.transport.abort()
                return
            await self._join(reader, writer, first, events)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes, events: bool
    ) -> None:
        there, back = await asyncio.open_connection(*self._target)
        self._open |= {writer: events, back: events}
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._carry(reader, back, events, first))
                ways.create_task(self._carry(there, writer, events, b""))
        except* OSError:
            pass
        finally:
            for end in (writer, back):
                self._open.pop(end, None)
                end.transport.abort()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, events: bool, piece: bytes
    ) -> None:
        piece = piece or await reader.read(65536)
        while piece:
            while (mode := self._treated(events)) == "hold":
                await self._changed.wait()
            if mode == "slow":
                await asyncio.sleep(self.delay)
            writer.write(piece)
            await writer.drain()
            piece = await reader.read(65536)
        if writer.can_write_eof():
            writer.write_eof()
