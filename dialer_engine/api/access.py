"""Access tokens: JWTs signed by a key of Redis.

One says whom it was made for and which of his rights it carries. Whether the user still stands as he did then is
asked at every request, so that removing him ends it at once.
"""

from __future__ import annotations

import time

import jwt

from dialer_engine.store import Store
from dialer_engine.store.accounts import including
from dialer_engine.store.sessions import Session

ISSUER = "dialer_engine"
ALGORITHM = "HS256"


async def signed(store: Store, session: Session, rights: frozenset[str], seconds: int) -> str:
    """A token for the user of this session, with these of his rights, good for so long."""
    now = time.time()
    key = await store.sessions.signing_key(now=now)
    claims = {
        "iss": ISSUER,
        "sub": session.user,
        "stamp": session.stamp,
        "scope": " ".join(sorted(rights)),
        "iat": int(now),
        "exp": int(now) + seconds,
    }
    return jwt.encode(claims, key.secret, algorithm=ALGORITHM, headers={"kid": key.id})


async def identify(store: Store, token: str) -> tuple[str, frozenset[str]] | None:
    """The user a token was made for, and the rights it carries. None: it is worth nothing (any more)."""
    try:
        header = jwt.get_unverified_header(token)
        key = await store.sessions.find_key(str(header.get("kid", "")))
        if key is None:
            return None
        claims = jwt.decode(
            token,
            key.secret,
            algorithms=[ALGORITHM],
            issuer=ISSUER,
            options={"require": ["exp", "sub"], "verify_iat": False},  # the clocks of daemons differ
        )
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None
    user = await store.accounts.find_user(claims["sub"])
    if user is None or user.stamp != claims.get("stamp"):
        return None
    return user.name, including(user.rights) & frozenset(str(claims.get("scope", "")).split())
