"""Who asks, and may he?

A route says what it needs by naming `Reader` or `Manager` in its signature, and its router is made with
`APIRouter(route_class=Guarded)`, so that nobody without the right has a body read for him:

    async def start(by: Manager, campaign: int) -> ...:   # by.name is for the audit

The right stands in the OpenAPI document by that. 401 and 403 say which right is missing and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

from fastapi import Depends, HTTPException, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer, OAuth2PasswordBearer, SecurityScopes
from fastapi.security.http import HTTPAuthorizationCredentials

from dialer_engine.api import access
from dialer_engine.api.issuer import Issuer
from dialer_engine.store import Store
from dialer_engine.store.accounts import MANAGE, READ, RIGHTS, TOKEN_PREFIX, including

REALM = "dialer_engine"
LONGEST_TOKEN = 8192


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: `user:NAME`, `token:NAME` or `oidc:NAME`, as the audit and the versions keep it."""

    name: str
    rights: frozenset[str]
    """With what they include: whoever may manage may read."""


# They only describe: what is in the header is looked at below, once for both.
_password = OAuth2PasswordBearer(
    tokenUrl="token",
    refreshUrl="token",
    scheme_name="password",
    scopes=dict(RIGHTS),
    description="A user's name and password, exchanged for an access token at `POST /token`.",
    auto_error=False,
)
_token = HTTPBearer(
    scheme_name="token",
    description="An access token, or an API token made by `dialer-engine token create`.",
    auto_error=False,
)


async def _permitted(
    request: Request,
    needed: SecurityScopes,
    _password: Annotated[str | None, Depends(_password)],
    _token: Annotated[HTTPAuthorizationCredentials | None, Depends(_token)],
) -> Principal:
    return await permit(request, needed.scopes[0])


Reader = Annotated[Principal, Security(_permitted, scopes=[READ])]
"""In a route's signature: needs `dialer:read`."""
Manager = Annotated[Principal, Security(_permitted, scopes=[MANAGE])]
"""In a route's signature: needs `dialer:manage`."""


class Guarded(APIRoute):
    """Asks for the right before anything of the body is read, let alone explained."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        needed = [
            right
            for one in self.dependant.dependencies
            if one.call is _permitted
            for right in one.own_oauth_scopes or ()
        ]

        async def guarded(request: Request) -> Response:
            for right in needed:
                await permit(request, right)
            return await answer(request)

        return guarded


async def permit(request: Request, right: str) -> Principal:
    """Who asks, if he has the right; asked once per request. Raises HTTPException 401 or 403."""
    if not hasattr(request.state, "principal"):
        request.state.principal = await _identified(request)
    principal: Principal | None = request.state.principal
    if principal is None:
        given = "authorization" in request.headers
        _refuse(401, right, "invalid_token" if given else "")
    if right not in principal.rights:
        _refuse(403, right, "insufficient_scope")
    return principal


async def _identified(request: Request) -> Principal | None:
    given = request.headers.getlist("authorization")
    scheme, _, text = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    text = text.strip()
    if scheme.lower() != "bearer" or len(text) > LONGEST_TOKEN:
        return None
    found = await _vouched(request.app.state.store, getattr(request.app.state, "issuer", None), text)
    return Principal(found[0], including(found[1])) if found else None


async def _vouched(store: Store, issuer: Issuer | None, text: str) -> tuple[str, frozenset[str]] | None:
    if text.startswith(TOKEN_PREFIX):
        api_token = await store.accounts.find_token(text, now=time.time())
        return (f"token:{api_token.name}", api_token.rights) if api_token else None
    if issuer and issuer.made(text):
        claimant = await issuer.identify(text)
        return (f"oidc:{claimant.name}", claimant.rights) if claimant else None
    user = await access.identify(store, text)
    return (f"user:{user[0]}", user[1]) if user else None


def _refuse(status: int, right: str, error: str) -> NoReturn:
    """RFC 6750 section 3."""
    challenge = f'Bearer realm="{REALM}", scope="{right}"' + (f', error="{error}"' if error else "")
    raise HTTPException(status, f"needs the right {right}", {"WWW-Authenticate": challenge})
