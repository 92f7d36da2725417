"""Who may use the API: users with a password, and API tokens for programs.

A password is stored as argon2id, an API token as SHA-256 (its secret is 256 random bits: guessing is hopeless,
so nothing slow is needed). What counts is what stands in Redis at that instant: a user or token removed there is
refused by the next request of any daemon.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import unicodedata
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from dialer_engine.errors import Conflict, Invalid, NotFound, Problem, Rejected, Unavailable
from dialer_engine.store.link import Link

READ = "dialer:read"
MANAGE = "dialer:manage"
RIGHTS: Mapping[str, str] = {
    READ: "Look at everything and change nothing.",
    MANAGE: "Change everything; reading is included.",
}

LONGEST_PASSWORD = 1024  # characters
WAITING_CHECKS = 16
"""Log-ins that may wait for their password to be checked; one more is told to come again."""

NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
TOKEN_PREFIX = "dialer_"
_TOKEN = re.compile(TOKEN_PREFIX + r"([A-Za-z0-9_.@-]{1,64})\.([A-Za-z0-9_-]{43})")

# OWASP's password storage cheat sheet: 19 MiB, two passes, one lane. On a PBX host the memory and the other cores
# belong to the calls.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

_Entry = TypeVar("_Entry")


@dataclass(frozen=True, slots=True)
class User:
    name: str
    rights: frozenset[str]
    created_at: float
    created_by: str
    stamp: str = field(repr=False)
    """Another one after every change of the password: what was given out before is worth nothing then."""
    hash: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApiToken:
    name: str
    rights: frozenset[str]
    created_at: float
    created_by: str
    until: float | None  # None: for ever
    hash: str = field(repr=False)


class _Lane:
    """One check at a time, and not too many who wait."""

    def __init__(self) -> None:
        self._checking = asyncio.Lock()
        self._inside = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        if self._inside >= WAITING_CHECKS:
            raise Unavailable("log-in", "too many passwords wait to be checked")
        self._inside += 1
        try:
            async with self._checking:
                yield
        finally:
            self._inside -= 1


class Accounts:
    """Names have 1 to 64 letters, digits and `_ . @ -`. A user and a token may have the same."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lanes = {known: _Lane() for known in (True, False)}
        self._hash_of_nobody = ""

    async def add_user(self, name: str, password: str, rights: Iterable[str], *, by: str, now: float) -> None:
        """Raises Invalid, and Conflict when there is such a user."""
        sound = _sound(name, rights)
        stamp, hashed = secrets.token_hex(8), await _hashed(password)
        user = User(name, sound, created_at=now, created_by=by, stamp=stamp, hash=hashed)
        if not await self._swap("users", name, "", _text(user), action="create", by=by, now=now):
            raise Conflict(f"there is a user {name!r} already")

    async def set_password(self, name: str, password: str, *, by: str, now: float) -> None:
        """Ends what the user was given before, access and refresh tokens. Raises NotFound, Invalid, Conflict."""
        old = await self._entry("users", name)
        user = _decoded(old, User)
        if user is None:
            raise Rejected(f"what stands for user {name!r} cannot be read: remove and add it")
        changed = replace(user, stamp=secrets.token_hex(8), hash=await _hashed(password))
        await self._change("users", name, old, _text(changed), action="password", by=by, now=now)

    async def remove_user(self, name: str, *, by: str, now: float) -> None:
        """From now on nothing of his is accepted. Raises NotFound, Conflict."""
        old = await self._entry("users", name)
        await self._change("users", name, old, "", action="delete", by=by, now=now)

    async def users(self) -> list[User]:
        found = await self._link.do("HGETALL", self._link.key("users"))
        return _readable(found, User)

    async def find_user(self, name: str) -> User | None:
        text = await self._link.do("HGET", self._link.key("users"), name)
        return None if text is None else _decoded(text, User)

    async def check_password(self, name: str, password: str, *, known: bool = False) -> User | None:
        """The user with this name and password. It takes as long when there is no such user.

        Some 20 ms of a worker thread, one check after the other: a flood of log-ins must not take the machine from
        the calls. `known` is a lane of its own, past the strangers. Raises Unavailable when too many wait.
        """
        async with self._lanes[known].turn():
            user = await self.find_user(name)
            self._hash_of_nobody = self._hash_of_nobody or await _hashed(secrets.token_hex())
            stored = user.hash if user else self._hash_of_nobody
            return user if await asyncio.to_thread(_is_right, stored, password) else None

    async def create_token(
        self, name: str, rights: Iterable[str], *, until: float | None = None, by: str, now: float
    ) -> str:
        """The token itself: told this once, stored nowhere. Raises Invalid, and Conflict when the name is taken."""
        sound, secret = _sound(name, rights), secrets.token_urlsafe(32)
        token = ApiToken(name, sound, created_at=now, created_by=by, until=until, hash=hashed_secret(secret))
        if not await self._swap("tokens", name, "", _text(token), action="create", by=by, now=now):
            raise Conflict(f"there is a token {name!r} already: revoke it or choose another name")
        return f"{TOKEN_PREFIX}{name}.{secret}"

    async def revoke_token(self, name: str, *, by: str, now: float) -> None:
        """Raises NotFound, Conflict."""
        old = await self._entry("tokens", name)
        await self._change("tokens", name, old, "", action="revoke", by=by, now=now)

    async def tokens(self) -> list[ApiToken]:
        """The expired ones too: they stand until they are revoked."""
        found = await self._link.do("HGETALL", self._link.key("tokens"))
        return _readable(found, ApiToken)

    async def find_token(self, text: str, *, now: float) -> ApiToken | None:
        """Whose token this is; None: it is none, or not any more."""
        parts = _TOKEN.fullmatch(text)
        entry = parts and await self._link.do("HGET", self._link.key("tokens"), parts[1])
        if not (parts and entry):
            return None
        token = _decoded(entry, ApiToken)
        if token is None or not hmac.compare_digest(token.hash, hashed_secret(parts[2])):
            return None
        return token if token.until is None or now < token.until else None

    async def _entry(self, kind: str, name: str) -> str:
        text: str | None = await self._link.do("HGET", self._link.key(kind), name)
        if text is None:
            raise NotFound(f"there is no {kind[:-1]} {name!r}")
        return text

    async def _change(
        self, kind: str, name: str, old: str, new: str, *, action: str, by: str, now: float
    ) -> None:
        if not await self._swap(kind, name, old, new, action=action, by=by, now=now):
            raise Conflict(f"{kind[:-1]} {name!r} has been changed meanwhile")

    async def _swap(
        self, kind: str, name: str, old: str, new: str, *, action: str, by: str, now: float
    ) -> bool:
        """False: what stands there is not `old` ("": nothing)."""
        return bool(await self._link.run("account", kind, name, old, new, now, by, action))


def hashed_secret(secret: str) -> str:
    """How a long random secret is stored."""
    return hashlib.sha256(secret.encode()).hexdigest()


def including(rights: frozenset[str]) -> frozenset[str]:
    """The rights and what they include: whoever may manage may read."""
    return rights | {READ} if MANAGE in rights else rights


async def _hashed(password: str) -> str:
    if not 0 < len(password) <= LONGEST_PASSWORD:
        raise Invalid([Problem("password", f"must have 1 to {LONGEST_PASSWORD} characters")])
    return await asyncio.to_thread(_HASHER.hash, _prepared(password))


def _is_right(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, _prepared(password))
    except (Argon2Error, InvalidHashError):
        return False


def _prepared(password: str) -> bytes:
    """The same password typed on another keyboard is the same bytes (RFC 8265)."""
    return unicodedata.normalize("NFC", password).encode(errors="surrogatepass")


def _sound(name: str, rights: Iterable[str]) -> frozenset[str]:
    """The rights, if they and the name can be used. Raises Invalid with all that is wrong."""
    asked = frozenset(rights)
    problems = [
        Problem("rights", f"there is no right {right!r}: there are {' and '.join(RIGHTS)}")
        for right in sorted(asked - RIGHTS.keys())
    ]
    if not asked:
        problems.append(Problem("rights", f"at least one of {' and '.join(RIGHTS)} is needed"))
    if not NAME.fullmatch(name):
        problems.append(Problem("name", "must have 1 to 64 letters, digits, dots, dashes, underscores and @"))
    if problems:
        raise Invalid(problems)
    return asked


def _text(entry: User | ApiToken) -> str:
    return msgspec.json.encode(entry).decode()


def _decoded(text: str, kind: type[_Entry]) -> _Entry | None:
    """None: another program has written what cannot be understood; it opens nothing and can be removed."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError:
        return None


def _readable(found: Mapping[str, str], kind: type[_Entry]) -> list[_Entry]:
    entries = (_decoded(text, kind) for _, text in sorted(found.items()))
    return [entry for entry in entries if entry is not None]
