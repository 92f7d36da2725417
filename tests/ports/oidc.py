"""An OpenID Connect issuer of a test: discovery, keys, and tokens as one likes them."""

from __future__ import annotations

import base64
import hmac
import itertools
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from dialer_engine.config import OidcSettings
from tests.ports.web_server import serving

AUDIENCE = "dialer"


class OidcServer:
    def __init__(
        self,
        *,
        discovery: dict[str, Any] | None = None,
        discovery_text: str | None = None,
        keys_text: str | None = None,
        status: int = 200,
    ) -> None:
        """What it answers otherwise than it should."""
        self.published: dict[str, dict[str, Any]] = {}
        self.fetched = 0
        self._discovery = discovery or {}
        self._discovery_text = discovery_text
        self._keys_text = keys_text
        self._status = status
        self._private: dict[str, tuple[str, Any]] = {}
        self._names = (f"key{n}" for n in itertools.count(1))

    async def __aenter__(self) -> OidcServer:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discover)
        app.router.add_get("/keys", self._keys)
        self._serving = serving(app)
        self.address = await self._serving.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._serving.__aexit__(None, None, None)

    def settings(self, **more: str) -> OidcSettings:
        return OidcSettings(issuer=self.address, audience=AUDIENCE, **more)

    def new_key(self, algorithm: str, *, publish: bool = True) -> str:
        """Its name."""
        name = next(self._names)
        public: dict[str, Any]
        private: Any
        if algorithm == "RS256":
            private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            public = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
        elif algorithm == "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
            public = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
        else:
            private = ed25519.Ed25519PrivateKey.generate()
            public = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
        self._private[name] = (algorithm, private)
        if publish:
            self.published[name] = {**public, "kid": name, "alg": algorithm, "use": "sig"}
        return name

    def withdraw(self, key: str) -> None:
        del self.published[key]

    def token(self, key: str, *, algorithm: str | None = None, **claims: Any) -> str:
        """Good for five minutes, unless the claims say otherwise; None leaves one out."""
        its_algorithm, private = self._private[key]
        said = self._claims(claims)
        return jwt.encode(said, private, algorithm=algorithm or its_algorithm, headers={"kid": key})

    def confused_token(self, key: str, *, algorithm: object = "HS256", **claims: Any) -> str:
        """Signed with the public key, as if that were a shared secret. The library refuses to make such a thing."""
        public = self._private[key][1].public_key()
        secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        parts = ({"alg": algorithm, "typ": "JWT", "kid": key}, self._claims(claims))
        text = b".".join(_encoded(json.dumps(part).encode()) for part in parts)
        return b".".join((text, _encoded(hmac.digest(secret, text, "sha256")))).decode()

    def _claims(self, claims: Mapping[str, Any]) -> dict[str, Any]:
        now = int(time.time())
        said: dict[str, Any] = {
            "iss": self.address,
            "aud": AUDIENCE,
            "sub": "sub-1",
            "iat": now,
            "exp": now + 300,
        }
        return {name: value for name, value in {**said, **claims}.items() if value is not None}

    async def _discover(self, _: web.Request) -> web.Response:
        said = {"issuer": self.address, "jwks_uri": f"{self.address}/keys", **self._discovery}
        return web.Response(text=self._discovery_text or json.dumps(said), status=self._status)

    async def _keys(self, _: web.Request) -> web.Response:
        self.fetched += 1
        return web.Response(text=self._keys_text or json.dumps({"keys": list(self.published.values())}))


def _encoded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")
