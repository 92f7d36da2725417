"""The HTTP side of the daemon: today health and metrics, the REST API as it comes.

It knows neither the engine nor the ports: the daemon hands it small callables.
"""

from __future__ import annotations

from dialer_engine.api.health import Probes
from dialer_engine.api.server import application, listen, serve

__all__ = ["Probes", "application", "listen", "serve"]
