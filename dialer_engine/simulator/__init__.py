"""One model of a PBX and the people it calls, with the clock as argument, and the real wire before it.

It shares no code with the clients of ARI and AMI: what both get wrong in the same way, the real Asterisk of the lab
shows (tests/ports run on both).
"""

from __future__ import annotations

from dialer_engine.simulator.agents import Agent
from dialer_engine.simulator.callees import Callee, Population
from dialer_engine.simulator.faults import Faults
from dialer_engine.simulator.pbx import Pbx
from dialer_engine.simulator.queues import QueueRules
from dialer_engine.simulator.requests import Refused
from dialer_engine.simulator.wire import Simulator

__all__ = ["Agent", "Callee", "Faults", "Pbx", "Population", "QueueRules", "Refused", "Simulator"]
