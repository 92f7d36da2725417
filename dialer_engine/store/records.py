"""What the store's verbs take and answer: small frozen values.

`now`, `at`, `score` and `*_epoch` are seconds since 1970 as floats; a member is `core.model.Due.member`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dialer_engine.core.model import (
    AttemptId,
    Campaign,
    CampaignId,
    CampaignState,
    Due,
    ListId,
    TrunkName,
)
from dialer_engine.errors import Problem
from dialer_engine.store.contract import CampaignDefinition


class ClaimKind(StrEnum):
    CLAIMED = "CLAIMED"
    GONE = "GONE"  # the contact does not wait any more (another daemon has it, or it is not due yet)
    FORBIDDEN = "FORBIDDEN"  # do-not-call: the attempt exists, its owner settles it as RS_BLACKLIST
    NUMBER_BUSY = "NUMBER_BUSY"  # another live call to this number: put back, due in 10 s
    FULL = "FULL"  # maxChannels or the trunk's capacity
    STOPPED = "STOPPED"  # not RUNNING with this run, stop-everything, or the period is over


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    attempt_id: AttemptId
    due: Due
    number: str  # as the row gave it
    identity: str  # what repeats, do-not-call and "one live call per number" compare
    attributes: str  # JSON object


@dataclass(frozen=True, slots=True)
class ClaimOutcome:
    kind: ClaimKind
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ClaimReply:
    outcomes: tuple[ClaimOutcome, ...]  # one per request, in their order
    campaign_live: int
    trunk_live: int
    next_due_at: float | None  # of the earliest waiting re-dial; may lie in the past
    state: CampaignState
    run: int
    campaign_served: int = 0  # of the live: those that have reached an agent


class SentKind(StrEnum):
    OK = "OK"
    FORBIDDEN = "FORBIDDEN"
    STOPPED = "STOPPED"
    GONE = "GONE"


class ProgressKind(StrEnum):
    OK = "OK"
    OTHER = "OTHER"  # another daemon has taken it over
    GONE = "GONE"  # settled, or Redis has lost it


class SettleKind(StrEnum):
    DONE = "DONE"
    GONE = "GONE"  # it was settled before, or is not the owner's any more
    CHANGED = "CHANGED"  # nothing was done: the agent says otherwise than what it was decided with


class DisposeKind(StrEnum):
    PENDING = "PENDING"  # the call is not settled: its record carries it
    AMENDED = "AMENDED"  # its result says it now
    NOT_FOUND = "NOT_FOUND"  # no such call has reached an agent, or its result is archived
    NO_AGENT = "NO_AGENT"  # the call is live and has not come to an agent yet


@dataclass(frozen=True, slots=True)
class SentReply:
    kind: SentKind
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RedialAt:
    """The contact is due again at `at`, with these counts."""

    due: Due
    at: float


@dataclass(frozen=True, slots=True)
class ReturnTo:
    """Refused before an INVITE left: due again exactly where it was, with these counts."""

    due: Due


@dataclass(frozen=True, slots=True)
class Closed:
    """The contact is done with."""


Next = RedialAt | ReturnTo | Closed


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """A live attempt as Redis holds it. `progress` has the fields of `Calls.progress`, as text."""

    id: AttemptId
    campaign: CampaignId
    run: int
    due: Due
    number: str
    identity: str
    attributes: str  # JSON object
    trunk: TrunkName
    owner: str
    phase: str  # CLAIMED, SENT, or whatever `progress` wrote
    claimed_at: float
    sent_at: float | None
    forbidden: str | None  # the do-not-call reason found by claim or mark_sent
    progress: Mapping[str, str]
    disposition: str | None = None  # what the agent has said of it


@dataclass(frozen=True, slots=True)
class Recovered:
    attempts: tuple[AttemptRecord, ...]  # sent, owned by us, and not known to the caller
    released: int  # claimed, not sent: due again, unchanged


@dataclass(frozen=True, slots=True)
class Candidate:
    """A contact that may be called now, and its row as the list holds it."""

    due: Due
    row: str
    fresh: bool


@dataclass(frozen=True, slots=True)
class Candidates:
    due: tuple[Candidate, ...]  # earliest first
    fresh: tuple[Candidate, ...]  # in reading order
    next_due_at: float | None


@dataclass(frozen=True, slots=True)
class PinnedList:
    """A list as a run reads it: `cursor` rows of `generation` have been read."""

    call_list: ListId
    generation: int
    cursor: int


@dataclass(frozen=True, slots=True)
class ReadRow:
    """A row that is a contact."""

    row: int
    identity: str


@dataclass(frozen=True, slots=True)
class RefusedRow:
    row: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """`cursor` is where the list stands now. Stale: nothing was done, because it already stood elsewhere."""

    stale: bool
    cursor: int
    accepted: int
    repeats: int


@dataclass(frozen=True, slots=True)
class RunCounts:
    """Rows of the current run: read = accepted + refused + repeats; accepted = fresh + due + live + closed."""

    read: int = 0
    refused: int = 0
    repeats: int = 0
    closed: int = 0


@dataclass(frozen=True, slots=True)
class CampaignView:
    """One campaign as it stands in Redis. `definition` is the same object until its text changes."""

    id: CampaignId
    state: CampaignState
    run: int
    definition: Campaign | None  # None: it cannot be used, `problems` say why
    problems: tuple[Problem, ...]
    text: str  # the definition as stored
    reason: str  # why INVALID
    lists: tuple[PinnedList, ...]  # the run's, in reading order
    counts: RunCounts
    fresh: int  # contacts read and never called
    due: int  # waiting re-dials, whenever they are due
    due_now: int  # of them, due by `now`
    next_due_at: float | None
    live: int  # of every daemon and run
    served: int  # of them: those that have reached an agent
    document: CampaignDefinition | None = None  # the definition as JSON says it; None: it says nothing sound
    started_at: float | None = None  # the current run
    changed_at: float | None = None  # the state, by a command
    changed_by: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    campaigns: Mapping[CampaignId, CampaignView]
    trunk_live: Mapping[TrunkName, int]
    stopped: bool
    commands: int  # waiting in the queue of commands


@dataclass(frozen=True, slots=True)
class ControlReply:
    id: CampaignId
    state: CampaignState
    message: str
    run: int


@dataclass(frozen=True, slots=True)
class ListInfo:
    id: ListId
    name: str
    generation: int
    rows: int  # struck-out ones included: the cursor runs over them
    struck: int

    @property
    def mark(self) -> str:
        """Another one after every change of the list."""
        return f"{self.generation}.{self.rows}.{self.struck}.{self.name}"


@dataclass(frozen=True, slots=True)
class Written:
    """What an import came to."""

    id: ListId
    generation: int
    written: int
    repeats: int
    mark: str = ""  # ListInfo.mark right after a replacement


@dataclass(frozen=True, slots=True)
class Ivr:
    """A stored IVR: `document` is what the user sent, `text` the same as it is stored.

    `meta` is the rest: created_at, created_by, updated_at, updated_by (instants as epoch seconds), routing (JSON).
    """

    id: str
    document: Mapping[str, object]
    meta: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True, slots=True)
class ResultPage:
    items: tuple[Mapping[str, object], ...]  # spec section 7's item
    next: str | None  # the cursor to go on from; None: nothing more now


@dataclass(frozen=True, slots=True)
class Archived:
    """Results of a campaign that have left Redis for the files of these daemons, the last of them `through`."""

    by: Mapping[str, int]  # name of the daemon -> how many
    through: str | None  # id in the stream


@dataclass(frozen=True, slots=True)
class DoNotCall:
    number: str
    reason: str = ""
    until: float | None = None  # None: for ever
    by: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    cursor: str
    at: float
    by: str
    action: str
    subject: str
    detail: str
