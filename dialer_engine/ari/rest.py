"""One request to Asterisk, once, with a deadline, and the truth about its fate.

aiohttp sends a request again by itself when a kept connection turns out to be closed, but only methods that may
be repeated (GET, PUT, DELETE; aiohttp's client.py, IDEMPOTENT_METHODS). A POST is never sent twice by anybody.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from dialer_engine.ari.terms import Patience
from dialer_engine.errors import NotFound, Rejected, Unavailable

Method: TypeAlias = Literal["GET", "PUT", "POST", "DELETE"]
EventSocket: TypeAlias = "aiohttp.ClientWebSocketResponse[Literal[False]]"

BODY_LIMIT = 40_960
"""Asterisk reads no longer body (main/http.c, MAX_CONTENT_LENGTH)."""

NEWCOMERS = 8
"""New connections that may wait for their first answer. Asterisk lets ten wait to be accepted (main/tcptls.c, listen);
one more is not refused but forgotten, and the kernel knocks again after a whole second."""

CLOSE_SECONDS = 1.0
"""How long a closing socket waits for the other side's goodbye; a lost one will never say it."""


class NotSent(Unavailable):
    """Certainly not carried out: no byte left us, or Asterisk said that it is not ready or we may not."""


class Reply(NamedTuple):
    status: int
    body: bytes


class Rest:
    """The HTTP side: two pools of connections, the user's name in every request.

    Calls begin on connections of their own: who comes back to a thousand live calls has much to ask and to play, and
    a new call that waited for that would miss its slot and look as if Asterisk did not take it.
    """

    def __init__(self, url: str, username: str, password: str, patience: Patience) -> None:
        self._base = url.rstrip("/") + "/ari"
        self._patience = patience
        token = base64.b64encode(f"{username}:{password}".encode()).decode("ascii")
        self._headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        self._session: aiohttp.ClientSession | None = None
        self._beginning: aiohttp.ClientSession | None = None

    def open(self) -> None:
        turns = asyncio.Semaphore(NEWCOMERS)
        self._session = self._pool(self._patience.connections, turns)
        self._beginning = self._pool(self._patience.originating_connections, turns)

    def _pool(self, limit: int, turns: asyncio.Semaphore) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # Asterisk drops an idle connection after 15 s (http.conf session_keep_alive); we must be first,
            # else a POST meets a closing connection and its fate is unknown.
            connector=aiohttp.TCPConnector(limit=limit, keepalive_timeout=10.0),
            headers=self._headers,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trace_configs=[_few_at_a_time(turns)],
        )

    async def close(self) -> None:
        for session in (self._session, self._beginning):
            if session is not None:
                await session.close()
        self._session = self._beginning = None

    async def ask(
        self,
        method: Method,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        seconds: float,
        begins: bool = False,
    ) -> Reply:
        """Send once and read the whole reply; `begins`: it makes a call. Raises NotSent, or Unavailable when the fate
        is unknown."""
        session = _opened(self._beginning if begins else self._session)
        url = self._base + path + (f"?{urlencode(query)}" if query else "")
        data = msgspec.json.encode(body) if body is not None else None
        if data is not None and len(data) > BODY_LIMIT:
            raise Rejected(f"a request of {len(data)} bytes is longer than Asterisk reads", code=413)
        timeout = aiohttp.ClientTimeout(total=seconds, connect=self._patience.connect_seconds)
        try:
            async with session.request(
                method, URL(url, encoded=True), data=data, timeout=timeout, allow_redirects=False
            ) as response:
                return Reply(response.status, await response.read())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise NotSent("asterisk", f"no connection: {exc}") from exc
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise Unavailable("asterisk", f"{method} {path}: {_words(exc)}") from exc

    @asynccontextmanager
    async def listen(self, app: str) -> AsyncIterator[EventSocket]:
        """The event socket of an application. Raises NotSent when it cannot be opened in time.

        A half-open socket is noticed within 1.5 heartbeats. Text stays bytes: the decoder wants bytes, and
        invalid UTF-8 in somebody's name must not close the socket. A frame may be of any size.
        """
        query = urlencode({"app": app, "subscribeAll": "false"})
        try:
            async with asyncio.timeout(self._patience.connect_seconds):
                socket: EventSocket = await _opened(self._session).ws_connect(
                    URL(f"{self._base}/events?{query}", encoded=True),
                    heartbeat=self._patience.heartbeat_seconds,
                    max_msg_size=0,
                    compress=0,
                    decode_text=False,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                )
        except aiohttp.WSServerHandshakeError as exc:
            raise NotSent("asterisk", f"refused the event socket: {_status_words(exc.status)}") from exc
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise NotSent("asterisk", f"no event socket: {_words(exc)}") from exc
        try:
            yield socket
        finally:
            await socket.close()


def _opened(session: aiohttp.ClientSession | None) -> aiohttp.ClientSession:
    if session is None or session.closed:
        raise NotSent("asterisk", "our client is closed")
    return session


def _few_at_a_time(turns: asyncio.Semaphore) -> aiohttp.TraceConfig:
    """Requests that open a connection take turns: see NEWCOMERS."""

    async def take(_: object, request: SimpleNamespace, __: object) -> None:
        if vars(request).get("opens"):
            return  # the first connection was closed unanswered, and aiohttp tries another one: one turn for both
        await turns.acquire()
        request.opens = True

    async def give(_: object, request: SimpleNamespace, __: object) -> None:
        if vars(request).pop("opens", False):
            turns.release()

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(take)
    trace.on_request_end.append(give)
    trace.on_request_exception.append(give)
    return trace


def accepted(reply: Reply) -> bytes:
    """The body of a good reply. Raises NotFound (404), NotSent (not booted, not allowed), Rejected (all
    else)."""
    status = reply.status
    if 200 <= status < 300:
        return reply.body
    if status == 404:
        raise NotFound(_message(reply))
    if status in (401, 403, 503):
        raise NotSent("asterisk", _status_words(status))
    raise Rejected(f"Asterisk refuses: {status} {_message(reply)}", code=status)


def segment(text: str) -> str:
    """One part of a path; a channel id may hold a ; (the halves of a Local/ channel)."""
    return quote(text, safe="")


def _message(reply: Reply) -> str:
    """What Asterisk says about an error, cut: an error page must not flood the log."""
    try:
        said = msgspec.json.decode(reply.body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = {}
    return str(said.get("message") or said.get("error") or "without a word")[:256]


def _status_words(status: int) -> str:
    match status:
        case 401:
            return "401, wrong user name or password ([ari] username, password; ari.conf)"
        case 403:
            return "403, the ARI user may only read (ari.conf read_only)"
        case 404:
            return "404, no ARI there (modules res_ari, res_ari_events; http.conf enabled and prefix)"
        case 503:
            return "503, Asterisk is still starting"
    return str(status)


def _words(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
