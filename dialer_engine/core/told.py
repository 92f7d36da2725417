"""What Asterisk tells about its queues, in our words: absolute values of members, callers by their channel's Uniqueid.

The AMI client makes them, `agents.Floor` remembers them, the engine hears those that are about its calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from dialer_engine.core.model import Agent, QueueName


class DeviceState(IntEnum):
    """Asterisk's numbers (include/asterisk/devicestate.h)."""

    UNKNOWN = 0
    NOT_INUSE = 1
    INUSE = 2
    BUSY = 3
    INVALID = 4
    UNAVAILABLE = 5
    RINGING = 6
    RINGINUSE = 7
    ONHOLD = 8


@dataclass(frozen=True, slots=True)
class Rules:
    """What AMI does not tell of a queue: from its configuration, or from ours."""

    wrap_up_seconds: float = 0.0
    ring_in_use: bool = True  # app_queue's own default; an agent who talks is not available all the same
    shared_last_call: bool = True  # shared_lastcall: a call of one queue is followed by wrap-up in all


@dataclass(frozen=True, slots=True)
class MemberSeen:
    """Every event about a member and every row of a snapshot: all of it, absolute."""

    queue: QueueName
    interface: str  # what the queue dials; a member's key within its queue
    agent: Agent
    name: str
    state: DeviceState
    paused: bool
    in_call: bool  # of this queue
    last_call_at: datetime | None  # by our clock, the offset of Asterisk's taken out
    wrap_up_seconds: float = 0.0  # of the member; 0: the queue's
    ring_in_use: bool | None = None  # None: the queue's


@dataclass(frozen=True, slots=True)
class MemberGone:
    queue: QueueName
    interface: str


@dataclass(frozen=True, slots=True)
class CallerJoined:
    queue: QueueName
    caller: str
    at: datetime


@dataclass(frozen=True, slots=True)
class CallerLeft:
    """For an agent, or not."""

    queue: QueueName
    caller: str
    at: datetime | None = None  # None: who rings for him is let go at once


@dataclass(frozen=True, slots=True)
class CallerAbandoned:
    """Left without an agent: hung up, timed out, or the queue gave him back (app_queue raises it for all of them)."""

    queue: QueueName
    caller: str
    waited_seconds: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Offered:
    """AgentCalled: this agent's telephone rings for this caller."""

    queue: QueueName
    caller: str
    interface: str
    agent: Agent | None  # None: the table knows it by the interface
    at: datetime | None = None  # None: no limit to how long he is held


@dataclass(frozen=True, slots=True)
class Refused:
    """AgentRingNoAnswer: it rang in vain; the caller waits again."""

    queue: QueueName
    caller: str
    interface: str
    at: datetime | None = None  # None: he is let go at once, whether his telephone was seen to ring or not


@dataclass(frozen=True, slots=True)
class Connected:
    """AgentConnect. `at` is when we heard it, `pbx_at` Asterisk's own stamp moved to our clock (None: none is sent)."""

    queue: QueueName
    caller: str
    interface: str
    name: str  # of the member
    at: datetime
    pbx_at: datetime | None


@dataclass(frozen=True, slots=True)
class Completed:
    """AgentComplete: they have talked."""

    queue: QueueName
    caller: str
    interface: str
    reason: str  # caller, agent, transfer
    at: datetime


@dataclass(frozen=True, slots=True)
class Disposed:
    """UserEvent(DISPOSITION): what the agent says of the attempt."""

    attempt: str
    ext_status: str


Told = (
    MemberSeen
    | MemberGone
    | CallerJoined
    | CallerLeft
    | CallerAbandoned
    | Offered
    | Refused
    | Connected
    | Completed
)
