"""IVR flows: the document (parse), where a call is in it (position), what follows from an event (interpret).

Pure: no await, no clock, no channel. dialer_engine/ivr.py carries the actions out.
"""

from dialer_engine.core.flow.blocks import KEYS, Flow
from dialer_engine.core.flow.interpret import PLAY_SECONDS, begin, come_back, feed, resume
from dialer_engine.core.flow.parse import parse_flow
from dialer_engine.core.flow.position import (
    Action,
    Done,
    Enqueue,
    Event,
    Failed,
    FlowResult,
    HangUp,
    HungUp,
    Key,
    OptOut,
    Play,
    Played,
    Position,
    Returned,
    Step,
    StopPlay,
    Timer,
    TimerFired,
)

__all__ = [
    "KEYS",
    "PLAY_SECONDS",
    "Action",
    "Done",
    "Enqueue",
    "Event",
    "Failed",
    "Flow",
    "FlowResult",
    "HangUp",
    "HungUp",
    "Key",
    "OptOut",
    "Play",
    "Played",
    "Position",
    "Returned",
    "Step",
    "StopPlay",
    "Timer",
    "TimerFired",
    "begin",
    "come_back",
    "feed",
    "parse_flow",
    "resume",
]
