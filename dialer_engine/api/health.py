"""Is it alive, may it be sent work, and what has it counted?

Liveness is not readiness: a daemon whose Redis is away is alive (a restart would mend nothing) and not ready.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

Reason = Callable[[], str | None]
"""None: it is so; else the sentence why it is not."""


@dataclass(frozen=True, slots=True)
class Probes:
    """What the daemon lets us ask. All but `metrics` answer at once, from memory."""

    alive: Reason
    ready: Reason
    metrics: Callable[[], tuple[bytes, str]]
    """The text and its content type; slow, and called in a worker thread."""
    metrics_token: str | None = field(default=None, repr=False)


def router(probes: Probes) -> APIRouter:
    """/healthz, /readyz and /metrics."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/healthz", summary="Does the loop turn?")
    async def healthz() -> JSONResponse:
        return _verdict(probes.alive())

    @routes.get("/readyz", summary="Can it dial, as far as Redis, the PBX and the operator are concerned?")
    async def readyz() -> JSONResponse:
        return _verdict(probes.ready())

    @routes.get("/metrics", summary="Prometheus; for loopback, others need the token", response_class=Response)
    async def metrics(request: Request) -> Response:
        if not (_is_loopback(request) or _has_token(request, probes.metrics_token)):
            return PlainTextResponse("for loopback, or with the token of api.metrics_token\n", status_code=403)
        text, content_type = await asyncio.to_thread(probes.metrics)
        return Response(text, headers={"content-type": content_type})

    return routes


def _verdict(reason: str | None) -> JSONResponse:
    if reason is None:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "unavailable", "reason": reason}, status_code=503)


def _is_loopback(request: Request) -> bool:
    """Behind a proxy on this host uvicorn has put the client's own address here (X-Forwarded-For)."""
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def _has_token(request: Request, token: str | None) -> bool:
    given = request.headers.get("authorization", "").encode()
    return token is not None and hmac.compare_digest(given, f"Bearer {token}".encode())
