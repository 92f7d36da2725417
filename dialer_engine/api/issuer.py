"""An outside OpenID Connect issuer: its access tokens are checked by the keys it publishes.

The keys are fetched through the outgoing client, kept, and fetched again when they grow old or a token names one that
is not among them (the issuer has rotated). An issuer that is away for a while harms nobody whose key is known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
import orjson

from dialer_engine import log
from dialer_engine.config import OidcSettings
from dialer_engine.errors import DialerError, Unavailable
from dialer_engine.http import HttpClient
from dialer_engine.store.accounts import RIGHTS

ALGORITHMS = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
)
"""Those of a key pair alone: a public key must never serve as a shared secret."""
FRESH_SECONDS = 600.0
KEPT_SECONDS = 86_400.0
"""Keys that cannot be fetched again are believed for so long."""
PAUSE_SECONDS = 10.0
"""Between two fetches, whatever unknown keys tokens may name."""
LEEWAY_SECONDS = 10
"""How far its clock and ours may differ."""
LIMIT_BYTES = 262_144
LONGEST_NAME = 100

_log = log.get("api")


@dataclass(frozen=True, slots=True)
class Claimant:
    """Whom the issuer vouches for, and which of our rights it gives him."""

    name: str
    rights: frozenset[str]


class Issuer:
    """`settings.issuer` and `settings.audience` are set."""

    def __init__(self, settings: OidcSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.address = settings.issuer or ""
        self._settings = settings
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()

    def made(self, token: str) -> bool:
        """Whether the token says so, unchecked."""
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, RecursionError):
            return False
        return claims.get("iss") == self.address

    async def identify(self, token: str) -> Claimant | None:
        """None: it is not to be believed. Raises Unavailable when there are no keys to tell by."""
        try:
            header = jwt.get_unverified_header(token)
            key = await self._key(str(header.get("kid", "")))
            algorithm = header.get("alg")
            if key is None or algorithm != key.algorithm_name or algorithm not in ALGORITHMS:
                return None
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self.address,
                audience=self._settings.audience,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, RecursionError):
            return None
        return Claimant(_name(claims), _rights(claims, self._settings.rights_claim))

    async def _key(self, name: str) -> jwt.PyJWK | None:
        known = self._keys.get(name)
        if known and (self._age < FRESH_SECONDS or self._fetching.locked()):
            return known
        async with self._fetching:
            if self._clock() - self._tried_at >= PAUSE_SECONDS:
                await self._fetch()
        if self._age >= KEPT_SECONDS:
            raise Unavailable("OpenID Connect issuer", f"the keys of {self.address} cannot be fetched")
        return self._keys.get(name)

    @property
    def _age(self) -> float:
        return self._clock() - self._fetched_at

    async def _fetch(self) -> None:
        self._tried_at = self._clock()
        try:
            self._keys = await self._published()
        except DialerError as exc:
            _log.warning("issuer's keys not fetched", issuer=self.address, reason=str(exc))
        else:
            self._fetched_at = self._tried_at
            _log.info("issuer's keys fetched", issuer=self.address, keys=sorted(self._keys))

    async def _published(self) -> dict[str, jwt.PyJWK]:
        places = [place for place in (self.address, self._settings.jwks_url) if place]
        async with HttpClient(places, limit_bytes=LIMIT_BYTES) as client:
            place = self._settings.jwks_url or await self._discovered(client)
            document = await _json(client, place)
        try:
            found = await asyncio.to_thread(jwt.PyJWKSet.from_dict, document)  # there may be hundreds
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as exc:
            raise Unavailable(place, f"publishes no keys we can use: {exc}") from exc
        return {key.key_id: key for key in found.keys if key.key_id and key.public_key_use in (None, "sig")}

    async def _discovered(self, client: HttpClient) -> str:
        place = f"{self.address.rstrip('/')}/.well-known/openid-configuration"
        document = await _json(client, place)
        if document.get("issuer") != self.address:
            raise Unavailable(place, f"speaks for the issuer {document.get('issuer')!r}")
        return str(document.get("jwks_uri"))


async def _json(client: HttpClient, place: str) -> dict[str, Any]:
    reply = await client.send("GET", place)
    if reply.status != 200:
        raise Unavailable(place, f"answers {reply.status}")
    try:
        document = orjson.loads(reply.body)
    except orjson.JSONDecodeError as exc:
        raise Unavailable(place, "answers no JSON") from exc
    if not isinstance(document, dict):
        raise Unavailable(place, "answers no JSON object")
    return document


def _name(claims: Mapping[str, Any]) -> str:
    """As a person knows himself, if the issuer tells it; it stands in the audit."""
    name = str(claims.get("preferred_username") or claims["sub"])
    return "".join(letter if letter.isprintable() else "?" for letter in name[:LONGEST_NAME])


def _rights(claims: Mapping[str, Any], place: str) -> frozenset[str]:
    """What the claim grants: a list, or a text with blanks. Anything else grants nothing."""
    found: Any = claims
    for step in [place] if place in claims else place.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    granted = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
    return frozenset(right for right in RIGHTS if right in granted)
