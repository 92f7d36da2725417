"""The dialer's loop and everything it decides on; see engine.py."""

from dialer_engine.engine.attempt import EXTRA_EVENTS, Pbx
from dialer_engine.engine.engine import Engine, EngineSettings

__all__ = ["EXTRA_EVENTS", "Engine", "EngineSettings", "Pbx"]
