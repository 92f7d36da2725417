"""Is it alive, may it be sent work, and what has it counted?

Liveness is not readiness: a daemon whose Redis is away is alive (a restart would mend nothing) and not ready.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from dialer_engine.api import problems, requests
from dialer_engine.api.document import answers
from dialer_engine.api.problems import JSON
from dialer_engine.api.shapes import Health

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
    routes = requests.router("operation")

    @routes.get(
        "/healthz",
        summary="Does the loop turn?",
        response_model=Health,
        responses=_verdicts("no pass for 12 s"),
    )
    async def show_health() -> Response:
        """A daemon whose Redis is away is alive: a restart would mend nothing."""
        return _verdict(probes.alive())

    @routes.get(
        "/readyz", summary="Can it dial?", response_model=Health, responses=_verdicts("Redis: it is full")
    )
    async def show_readiness() -> Response:
        """As far as Redis and the PBX are concerned, unless it drains. Whether all is stopped says /dialer/stop."""
        return _verdict(probes.ready())

    @routes.get(
        "/metrics",
        summary="Counters for Prometheus",
        response_class=PlainTextResponse,
        responses={
            200: {"content": {"text/plain": {"example": "dialer_live_calls 50.0\n"}}},
            403: {"description": "It is for loopback, others need the token of the configuration."},
        },
    )
    async def show_metrics(request: Request) -> Response:
        """For clients on this host; for others with `api.metrics_token` as the bearer token."""
        if not (_is_loopback(request) or _has_token(request, probes.metrics_token)):
            return problems.response(403, "for loopback, or with the token of api.metrics_token")
        text, content_type = await asyncio.to_thread(probes.metrics)
        return Response(text, headers={"content-type": content_type})

    return routes


def _verdicts(reason: str) -> dict[int | str, dict[str, Any]]:
    no = {"status": "unavailable", "reason": reason}
    return {
        **answers({"status": "ok"}),
        503: {"description": "No; `reason` says why not.", "model": Health, "content": {JSON: {"example": no}}},
    }


def _verdict(reason: str | None) -> Response:
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
