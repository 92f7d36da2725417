"""POST /token: a password or a refresh token for an access token (RFC 6749), answered as Keycloak does."""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from dialer_engine import log
from dialer_engine.api import access
from dialer_engine.api.document import answers
from dialer_engine.api.problems import JSON
from dialer_engine.api.requests import AtStore, now, router
from dialer_engine.config import ApiSettings
from dialer_engine.errors import Unavailable
from dialer_engine.store import Store
from dialer_engine.store.accounts import RIGHTS, User, including
from dialer_engine.store.sessions import Session

FORM = "application/x-www-form-urlencoded"
LONGEST_FORM = 8192  # bytes
FORM_SECONDS = 5.0
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}

_log = log.get("api")


class TokenReply(BaseModel):
    """What a client keeps."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    access_token: str
    """To be sent as `Authorization: Bearer ...`."""
    expires_in: int
    """Seconds for which the access token is good."""
    refresh_token: str
    """Gets the next access token, once: every refresh answers a new one."""
    refresh_expires_in: int
    """Seconds for which the refresh token is good."""
    token_type: str
    """Always Bearer."""
    scope: str
    """The rights the access token carries, with blanks between."""


class TokenError(BaseModel):
    """RFC 6749, section 5.2."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    error: str = Field(
        pattern="^(invalid_request|invalid_grant|invalid_scope|unsupported_grant_type|slow_down)$"
    )
    """What is wrong, for a program."""
    error_description: str
    """What is wrong, for a person."""


_REPLY = {
    "access_token": "eyJhbGciOiJIUzI1NiIsImtpZCI6Ij...",
    "expires_in": 300,
    "refresh_token": "Jx2yQ0Zr8kq0b1mYt3c9Vg.Qm9b...",
    "refresh_expires_in": 1800,
    "token_type": "Bearer",
    "scope": "dialer:manage",
}
_REQUEST_BODY = {
    "required": True,
    "content": {
        FORM: {
            "schema": {
                "type": "object",
                "required": ["grant_type"],
                "properties": {
                    "grant_type": {
                        "type": "string",
                        "enum": ["password", "refresh_token"],
                        "description": "What is given for the access token.",
                    },
                    "username": {"type": "string", "description": "With `password`: the user's name."},
                    "password": {"type": "string", "description": "With `password`: his password."},
                    "refresh_token": {
                        "type": "string",
                        "description": "With `refresh_token`: the one of the last reply.",
                    },
                    "scope": {
                        "type": "string",
                        "description": (
                            "Rights asked for, with blanks between. Default: all the user has. Scopes that are no "
                            "rights of this service are passed over."
                        ),
                    },
                    "client_id": {"type": "string", "description": "Taken and not looked at."},
                },
            },
            "examples": {
                "password": {
                    "summary": "Log in",
                    "value": {"grant_type": "password", "username": "eva", "password": "correct horse"},
                },
                "refresh": {
                    "summary": "Go on with a new access token",
                    "value": {"grant_type": "refresh_token", "refresh_token": "Jx2yQ0Zr8kq0b1mYt3c9Vg.Qm9b..."},
                },
            },
        }
    },
}


def _error(error: str, description: str) -> dict[str, Any]:
    return {JSON: {"example": {"error": error, "error_description": description}}}


_RESPONSES: dict[int | str, dict[str, Any]] = {
    **answers(_REPLY),
    400: {
        "model": TokenError,
        "description": "It cannot be granted; `error` says why.",
        "content": _error("invalid_grant", "user name or password is wrong"),
    },
    429: {
        "model": TokenError,
        "description": "Too many wrong passwords: wait for `Retry-After` seconds.",
        "content": _error("slow_down", "too many wrong passwords, come again later"),
        "headers": {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}},
    },
    503: {"description": "Redis is away, or too many passwords wait to be checked: try again."},
}


class _Refused(Exception):
    """The answer is an error of RFC 6749."""

    def __init__(self, error: str, description: str, *, wait_seconds: float = 0) -> None:
        super().__init__(description)
        self.error = error
        self.wait_seconds = wait_seconds

    def reply(self) -> JSONResponse:
        body = {"error": self.error, "error_description": str(self)}
        if self.wait_seconds:
            headers = {**NO_STORE, "Retry-After": str(math.ceil(self.wait_seconds))}
            return JSONResponse(body, 429, headers)
        return JSONResponse(body, 400, NO_STORE)


def routes(settings: ApiSettings) -> APIRouter:
    """POST /token, which needs no right."""
    made = router("rights")

    @made.post(
        "/token",
        summary="Log in, or go on with a refresh token",
        description=(
            "Answers an access token for a user's name and password, or for a refresh token. Programs need neither: "
            "they send an API token made by `dialer-engine token create`."
        ),
        response_model=TokenReply,
        responses=_RESPONSES,
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def issue_token(request: Request, store: AtStore) -> JSONResponse:
        try:
            form = await _form(request)
            session = await _session(store, form, _address(request), settings.refresh_token_seconds)
            rights = _narrowed(form, session.rights)
        except _Refused as refusal:
            return refusal.reply()
        reply = TokenReply(
            access_token=await access.signed(store, session, rights, settings.access_token_seconds),
            expires_in=settings.access_token_seconds,
            refresh_token=session.refresh_token,
            refresh_expires_in=session.seconds,
            token_type="Bearer",
            scope=" ".join(sorted(rights)),
        )
        return JSONResponse(reply.model_dump(), headers=NO_STORE)

    return made


async def _session(store: Store, form: Mapping[str, str], address: str, idle_seconds: int) -> Session:
    match form.get("grant_type"):
        case "password":
            user = await _logged_in(store, _needed(form, "username"), _needed(form, "password"), address)
            rights = _narrowed(form, user.rights)
            return await store.sessions.open(user, rights, idle_seconds=idle_seconds, now=now())
        case "refresh_token":
            return await _refreshed(store, _needed(form, "refresh_token"), idle_seconds)
        case None:
            _refuse("invalid_request", "grant_type is needed")
        case _:
            _refuse("unsupported_grant_type", "grant_type must be password or refresh_token")


async def _logged_in(store: Store, name: str, password: str, address: str) -> User:
    at = now()
    admission = await store.guesses.try_one(name, address, now=at)
    if admission.wait_seconds:
        description = "too many wrong passwords, come again later"
        raise _Refused("slow_down", description, wait_seconds=admission.wait_seconds)
    try:
        user = await store.accounts.check_password(name, password, known=admission.known)
    except Unavailable:
        await store.guesses.give_back(name, address, now=at)
        raise
    if user is None:
        _log.warning("log-in refused", address=address)
        _refuse("invalid_grant", "user name or password is wrong")
    await store.guesses.right(name, address, now=at)
    return user


async def _refreshed(store: Store, refresh_token: str, idle_seconds: int) -> Session:
    session = await store.sessions.refresh(refresh_token, idle_seconds=idle_seconds, now=now())
    user = session and await store.accounts.find_user(session.user)
    if not (session and user) or user.stamp != session.stamp:
        _refuse("invalid_grant", "the refresh token is not good any more, log in again")
    return session


async def _form(request: Request) -> dict[str, str]:
    """Every field once, as RFC 6749 wants it."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        _refuse("invalid_request", f"the body must be {FORM}")
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_SECONDS):  # nobody knows yet who is asking
            async for part in request.stream():
                body += part
                if len(body) > LONGEST_FORM:
                    _refuse("invalid_request", f"the body must not be longer than {LONGEST_FORM} bytes")
    except TimeoutError:
        _refuse("invalid_request", f"the body did not come within {FORM_SECONDS:.0f} seconds")
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError:
        _refuse("invalid_request", "the body is no form in UTF-8")
    form = dict(fields)
    if len(form) < len(fields):
        _refuse("invalid_request", "a field stands there twice")
    return form


def _needed(form: Mapping[str, str], field: str) -> str:
    if not form.get(field):
        _refuse("invalid_request", f"{field} is needed")
    return form[field]


def _narrowed(form: Mapping[str, str], rights: frozenset[str]) -> frozenset[str]:
    """Those asked for; without any, all there are."""
    asked = frozenset(form.get("scope", "").split()) & RIGHTS.keys()
    if not asked <= including(rights):
        _refuse("invalid_scope", "the user has not all of the rights asked for")
    return asked or rights


def _address(request: Request) -> str:
    """The caller's. An IPv6 caller has a whole /64 to himself, so that counts as one."""
    try:
        ip = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return "unknown"
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False).network_address)
    return str(ip)


def _refuse(error: str, description: str) -> NoReturn:
    raise _Refused(error, description)
