"""The nouns of the dialer. They are frozen and do nothing; the deciders of this package stand on them alone.

Durations are seconds (`_seconds`), instants are aware datetimes (`_at`) unless a name says `epoch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, NewType, TypeAlias

CampaignId = NewType("CampaignId", int)
ListId = NewType("ListId", int)
IvrId = NewType("IvrId", str)
AttemptId = NewType("AttemptId", str)
TrunkName = NewType("TrunkName", str)
QueueName = NewType("QueueName", str)
Agent = NewType("Agent", str)
"""The StateInterface of a member: the telephone that can talk to one caller at a time."""


class Status(StrEnum):
    """How an attempt ended (spec section 5). A reschedule rule names one of these."""

    TERMINATED = "TERMINATED"
    RS_LOST = "RS_LOST"
    RS_TIMEOUT = "RS_TIMEOUT"
    RS_BUSY = "RS_BUSY"
    RS_NOANSWER = "RS_NOANSWER"
    RS_NUMBER = "RS_NUMBER"
    RS_REJECTED = "RS_REJECTED"
    RS_ERROR = "RS_ERROR"
    RS_BLACKLIST = "RS_BLACKLIST"


class CampaignState(StrEnum):
    NEW = "NEW"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    REMOVED = "REMOVED"
    INVALID = "INVALID"


class Command(StrEnum):
    START = "start"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    RELOAD = "reload"
    REMOVE = "remove"


class Limit(StrEnum):
    """What binds a running campaign now: its activity, and the reason a plan names (spec section 2)."""

    DIALING = "DIALING"
    IDLE = "IDLE"
    OUT_OF_PERIOD = "OUT_OF_PERIOD"
    WAITING_AGENTS = "WAITING_AGENTS"
    QUEUE_FULL = "QUEUE_FULL"
    STALE_QUEUE_DATA = "STALE_QUEUE_DATA"
    ABANDON_BUDGET = "ABANDON_BUDGET"
    MAX_CHANNELS = "MAX_CHANNELS"
    TRUNK_FULL = "TRUNK_FULL"
    TRUNK_DOWN = "TRUNK_DOWN"
    RATE = "RATE"
    PBX_DOWN = "PBX_DOWN"
    REDIS_DOWN = "REDIS_DOWN"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"


class RetryMode(StrEnum):
    FIXED = "fixed"
    MULTIPLIED = "multiplied"


class WhenDone(StrEnum):
    COMPLETE = "complete"
    WAIT = "wait"


class EndpointType(StrEnum):
    PHONE = "phone"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class ActivePeriod:
    """When a campaign may dial. Seconds of the local day, the end exclusive, 86400 for "24:00".

    start > end spans midnight and belongs to the day on which it starts; start == end is the whole day.
    """

    start_seconds: int
    end_seconds: int
    week_days: frozenset[int]  # 1 = Monday .. 7 = Sunday
    timezone: str  # IANA


@dataclass(frozen=True, slots=True)
class RescheduleRule:
    status: Status
    retry_after_seconds: float
    max_attempts: int  # re-dials by this rule; the first call is not counted
    ext_status: str | None = None
    retry_mode: RetryMode = RetryMode.FIXED

    @property
    def key(self) -> str:
        """The pair under which re-dials are counted, so that edits of a rule keep its counts."""
        return self.status if self.ext_status is None else f"{self.status}/{self.ext_status}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Who takes the answered calls. Of the queue fields only `queue` has no default."""

    type: EndpointType = EndpointType.PHONE
    queue: str | None = None
    boost_factor: str = "1"  # decimal text: the arithmetic of the boost is exact
    max_waiting_calls: int = 2
    pacing: str = "boost"
    max_abandon_rate: float = 0.03
    abandon_window: str = "day"
    abandon_after_seconds: float = 2.0
    max_lines_per_agent: float = 10.0


@dataclass(frozen=True, slots=True)
class Campaign:
    id: CampaignId
    name: str
    caller_id: str
    active_period: ActivePeriod
    call_lists: tuple[ListId, ...]
    ivr: IvrId
    endpoint: Endpoint = Endpoint()
    reschedule_rules: tuple[RescheduleRule, ...] = ()
    trunk: TrunkName | None = None  # None: the configuration's default trunk
    priority: int = 10
    max_channels: int = 50
    calls_per_second: float | None = None
    dial_timeout_seconds: int = 30
    max_call_duration_seconds: int = 3600
    max_total_attempts: int | None = None
    when_done: WhenDone = WhenDone.COMPLETE


NumberFormat: TypeAlias = Literal["as_given", "e164", "digits", "national"]
"""How a trunk writes a number of a region: +420123456789 (e164), 420123456789 (digits), 123456789 (national)."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """A way out. `dial_string` holds `${num}` once; `capacity` is calls, of all campaigns and daemons."""

    name: TrunkName
    dial_string: str
    capacity: int = 100
    calls_per_second: float | None = None
    number_format: NumberFormat = "as_given"

    @property
    def is_local(self) -> bool:
        """A Local/ channel hides the cause on its near half: the outcome comes from the far one."""
        return self.dial_string.lower().startswith("local/")


@dataclass(frozen=True, slots=True, order=True)
class Contact:
    """One row of one generation of a call list: who is to be reached. The row is counted from 0.

    A call added to a run stands on no list: list 0, whose generation is the run and whose rows are counted from 1.
    """

    call_list: int
    generation: int
    row: int

    @property
    def is_added(self) -> bool:
        return self.call_list == 0

    @property
    def key(self) -> str:
        return f"{self.call_list}.{self.generation}.{self.row}"


@dataclass(frozen=True, slots=True)
class Counts:
    """What has been spent on a contact: all re-dials, re-dials per rule key, returns before an INVITE."""

    redials: int = 0
    by_rule: Mapping[str, int] = field(default_factory=dict)
    returns: int = 0


@dataclass(frozen=True, slots=True)
class Due:
    """A contact that waits for its call. `member` is how it stands in Redis: one string, contact and counts."""

    contact: Contact
    counts: Counts = Counts()

    @property
    def member(self) -> str:
        rules = ",".join(f"{key}:{n}" for key, n in sorted(self.counts.by_rule.items()))
        return f"{self.contact.key}|{self.counts.redials}|{self.counts.returns}|{rules}"

    @classmethod
    def parse(cls, member: str) -> Due:
        """The inverse of `member`. Raises ValueError when the text is not one."""
        place, redials, returns, rules = member.split("|")
        call_list, generation, row = (int(part) for part in place.split("."))
        by_rule = {}
        for rule in filter(None, rules.split(",")):
            key, _, n = rule.rpartition(":")
            by_rule[key] = int(n)
        return cls(Contact(call_list, generation, row), Counts(int(redials), by_rule, int(returns)))


@dataclass(frozen=True, slots=True)
class Times:
    """The instants of one attempt, each None until it happened."""

    originated_at: datetime | None = None
    ringing_at: datetime | None = None
    answered_at: datetime | None = None
    left_ivr_at: datetime | None = None
    connected_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to: the row of spec section 5's table, and the raw facts behind it."""

    status: Status
    ext_status: str | None = None
    cause: int | None = None  # Q.850, as Asterisk gave it
    sip_code: int | None = None
