"""What a log-in leaves: the keys that sign access tokens, the sessions that refresh them, the guesses that failed.

All of it stands in Redis, so a restart forgets none of it and every daemon knows the same.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

from dialer_engine.store.accounts import NAME, User, hashed_secret
from dialer_engine.store.link import Link

SIGN_SECONDS = 86_400
"""A key signs for so long, then a new one does."""
KEEP_SECONDS = 3 * SIGN_SECONDS
"""What a key has signed may be checked for so long after its birth. An access token lives for a day at most."""
SESSION_SECONDS = 43_200
"""However busy it is, a session ends after so long and the password is asked again."""

KNOWN_SECONDS = 30 * 86_400
"""So long an address counts as known after a user has logged in from it."""
PAIR, ADDRESS, USER = (5, 30), (20, 10), (50, 10)
"""Wrong passwords for one user from one address, for anyone from one address, for one user from anywhere: how many
at once, and after how many seconds one more."""

_REFRESH_TOKEN = re.compile(r"([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class SigningKey:
    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Session:
    """`refresh_token` is told this once and stored nowhere; it is worth something for `seconds`."""

    user: str
    stamp: str
    rights: frozenset[str]
    refresh_token: str = field(repr=False)
    seconds: int


@dataclass(frozen=True, slots=True)
class Admission:
    """May this log-in be tried?"""

    wait_seconds: float  # 0: go on
    known: bool  # this user has logged in from this address lately


class Sessions:
    def __init__(self, link: Link) -> None:
        self._link = link

    async def signing_key(self, *, now: float) -> SigningKey:
        """The key to sign with today."""
        fresh = secrets.token_hex(8), secrets.token_hex(32)
        found = await self._link.run("signing_key", now, *fresh, SIGN_SECONDS, KEEP_SECONDS)
        return SigningKey(*found)

    async def find_key(self, key: str) -> SigningKey | None:
        """None: never made, or forgotten."""
        text = await self._link.do("HGET", self._link.key("signing-keys"), key)
        return None if text is None else SigningKey(key, text.partition(" ")[2])

    async def open(self, user: User, rights: frozenset[str], *, idle_seconds: int, now: float) -> Session:
        """A new session of this user, with these of his rights."""
        terms = user.name, user.stamp, " ".join(sorted(rights)), now + SESSION_SECONDS
        session = await self._turn(secrets.token_urlsafe(16), "", now, idle_seconds, *terms)
        if session is None:
            raise AssertionError("a new session lives for a second at least")
        return session

    async def refresh(self, refresh_token: str, *, idle_seconds: int, now: float) -> Session | None:
        """The session with its next refresh token; this one has been used. None: it is worth nothing (any more).

        Whether the user still stands as the session knew him (`stamp`) is for the caller to ask.
        """
        parts = _REFRESH_TOKEN.fullmatch(refresh_token)
        if parts is None:
            return None
        return await self._turn(parts[1], hashed_secret(parts[2]), now, idle_seconds)

    async def _turn(
        self, session: str, old: str, now: float, idle_seconds: int, *terms: str | float
    ) -> Session | None:
        secret = secrets.token_urlsafe(32)
        found = await self._link.run("session", session, old, hashed_secret(secret), now, idle_seconds, *terms)
        if not found:
            return None
        user, stamp, rights, seconds = found
        return Session(user, stamp, frozenset(rights.split()), f"{session}.{secret}", seconds)


class Guesses:
    """Wrong passwords slow down whoever sends them, and nobody else for long.

    `address` is the caller's, as text. A user who has logged in from an address lately is measured by what came from
    there under his name alone.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    async def try_one(self, user: str, address: str, *, now: float) -> Admission:
        """One that may be tried counts as wrong until `right` or `give_back`."""
        wait_seconds, known = await self._run("try", user, address, now)
        return Admission(float(wait_seconds), bool(known))

    async def right(self, user: str, address: str, *, now: float) -> None:
        """The password was right."""
        await self._run("right", user, address, now)

    async def give_back(self, user: str, address: str, *, now: float) -> None:
        """It could not be tried."""
        await self._run("back", user, address, now)

    async def _run(self, verb: str, user: str, address: str, now: float) -> tuple[str, int]:
        name = user if NAME.fullmatch(user) else "?"  # there is no such user, and no key so long
        limits = *PAIR, *ADDRESS, *USER
        wait_seconds, known = await self._link.run("guess", verb, now, KNOWN_SECONDS, name, address, *limits)
        return wait_seconds, known
