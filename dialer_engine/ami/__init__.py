"""Asterisk's manager interface: its queues and agents as they are now; the only room that knows panoramisk."""

from __future__ import annotations

from dialer_engine.ami.client import Ami
from dialer_engine.ami.terms import Patience

__all__ = ["Ami", "Patience"]
