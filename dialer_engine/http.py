"""One outgoing HTTP client: nowhere but where it is allowed, never longer than a deadline, never more than a limit.

What it is sent to comes from outside in part (documents, discovery), so the address is judged by the very object that
is then used, redirects are answers like others, and nothing of the environment (proxies, .netrc) is heeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from dialer_engine.errors import Rejected, Unavailable

DEADLINE_SECONDS = 5.0
LIMIT_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class HttpReply:
    """Whatever the other side answered, a redirect or a failure included. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """`allowed`: the origins it may speak with, such as `https://id.example.com` or `http://127.0.0.1:8080`.

    A context manager: connections are kept for as long as it is open.
    """

    def __init__(
        self,
        allowed: Iterable[str],
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self._allowed = frozenset(_origin(URL(one)) for one in allowed)
        self._deadline_seconds = deadline_seconds
        self._limit_bytes = limit_bytes

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._deadline_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,  # nor is it asked for: a small answer must not become a large one here
            headers={"Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> HttpReply:
        """One request, sent once. The deadline covers all of it, the body of the answer too.

        Raises Rejected (the place is not allowed, the answer too long) and Unavailable (no whole answer in time: it
        may have been carried out).
        """
        place = self._judged(url)
        try:
            async with self._session.request(
                method, place, headers=headers, data=body, allow_redirects=False
            ) as reply:
                taken = await self._read(reply, place)
        except TimeoutError as exc:
            raise Unavailable(place.authority, f"no whole answer within {self._deadline_seconds:g} s") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise Unavailable(place.authority, str(exc) or type(exc).__name__) from exc
        return HttpReply(reply.status, {name.lower(): value for name, value in reply.headers.items()}, taken)

    def _judged(self, url: str) -> URL:
        try:
            place = URL(url)
            origin = _origin(place)
        except ValueError as exc:
            raise Rejected(f"{url[:200]!r} is no address: {exc}") from exc
        if origin not in self._allowed or place.user or place.password:
            raise Rejected(f"{url[:200]!r} is not among the places we may speak with")
        return place

    async def _read(self, reply: aiohttp.ClientResponse, place: URL) -> bytes:
        if "content-encoding" in reply.headers:
            raise Rejected(f"{place.authority} answers compressed, which was not asked for")
        taken = bytearray()
        async for part in reply.content.iter_chunked(65_536):
            taken += part
            if len(taken) > self._limit_bytes:
                raise Rejected(f"{place.authority} answers more than {self._limit_bytes} bytes")
        return bytes(taken)


def _origin(url: URL) -> tuple[str, str | None, int | None]:
    return url.scheme, url.host, url.port
