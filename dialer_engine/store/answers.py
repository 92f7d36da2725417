"""What a request with an Idempotency-Key was answered, for a day: who asks again is told the same.

The id of what is to be made is reserved before anything is made. Who dies between the two and asks again makes
the same thing with the same id, and the verb that makes it does nothing when it is there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from dialer_engine.store.link import Link

KEPT_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Asked:
    """One request under its key."""

    id: int | str | None  # reserved for what it makes
    fingerprint: str | None  # of the request; None: it was never read to its end
    answer: str | None = None  # None: not answered yet, as far as is known


class Answers:
    def __init__(self, link: Link) -> None:
        self._link = link

    async def begin(
        self, key: str, fingerprint: str | None, reserve: Callable[[], Awaitable[int | str | None]]
    ) -> Asked:
        """The first request under this key, or what stands there of the one before."""
        name = self._name(key)
        text = await self._link.do("GET", name)
        if text is None:
            fresh = _text(Asked(await reserve(), fingerprint))
            _, text = await self._link.many([("SET", name, fresh, "NX", "EX", KEPT_SECONDS), ("GET", name)])
        return msgspec.json.decode(text, type=Asked)

    async def keep(self, key: str, asked: Asked) -> None:
        """For a day from now."""
        await self._link.do("SET", self._name(key), _text(asked), "EX", KEPT_SECONDS)

    async def forget(self, key: str) -> None:
        """The request was refused: nothing has been made."""
        await self._link.do("DEL", self._name(key))

    def _name(self, key: str) -> str:
        return self._link.key(f"answer:{key}")


def _text(asked: Asked) -> str:
    return msgspec.json.encode(asked).decode()
