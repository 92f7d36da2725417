"""A Redis inside this process, for who has none at hand: fakeredis' TCP server."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dialer_engine.errors import ConfigError, Problem

POLL_SECONDS = 0.05
"""How long its end may wait."""


@contextmanager
def embedded_redis() -> Iterator[str]:
    """Its URL, on a free port of loopback. At the end it forgets everything.

    Raises ConfigError with the remedy when the extra `demo` is not installed.
    """
    try:
        fakeredis = importlib.import_module("fakeredis")
        importlib.import_module("lupa")  # without it fakeredis runs no scripts
    except ImportError as exc:
        remedy = 'the embedded one needs pip install "dialer-engine[demo]"'
        raise ConfigError([Problem("redis", remedy)]) from exc
    server = fakeredis.TcpFakeServer(("127.0.0.1", 0))
    thread = threading.Thread(
        target=server.serve_forever, args=(POLL_SECONDS,), name="embedded redis", daemon=True
    )
    thread.start()
    try:
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
