"""The HTTP side of the daemon: the REST API of spec section 7, health and metrics.

It knows neither the engine nor the ports: it writes to the store what daemons then obey, and the daemon it runs in
hands it small callables.
"""

from __future__ import annotations

from dialer_engine.api.health import Probes, Reason
from dialer_engine.api.server import Application, application, listen, serve

__all__ = ["Application", "Probes", "Reason", "application", "listen", "serve"]
