"""What the API answers: the public shapes of spec section 7, with their examples. They describe and check nothing.

Instants are ISO 8601 with an offset, durations seconds. What a request holds stands in store.contract.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dialer_engine.api.problems import FieldProblem
from dialer_engine.core.model import CampaignState, Limit, Status
from dialer_engine.store.contract import CampaignDefinition, DialplanPlace

Item = TypeVar("Item")
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Share = Annotated[float, Field(ge=0, le=1)]


class Shape(BaseModel):
    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, validate_by_name=True, use_attribute_docstrings=True
    )


class PageOf(Shape, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    page: int
    """Which page this is, counted from 1."""
    page_size: int
    """Items of a full page."""
    total: int
    """Items of all pages."""


class Done(Shape):
    """What was done, in a sentence."""

    message: str


class Saved(Shape):
    """It is stored."""

    id: int
    message: str


# --- campaigns ---


class Standing(Shape):
    """How a campaign stands. All of it is read-only."""

    id: int
    state: CampaignState
    activity: Limit | None
    """While RUNNING: what binds the pace now, as some daemon has told within the last seconds."""
    run: int
    """Number of the current run, or the last one; 0 before the first start."""
    reason: str | None
    """Why it is INVALID."""
    started_at: Instant | None
    """Begin of that run."""
    changed_at: Instant | None
    """When the state was changed last by a command."""
    changed_by: str | None
    """Who gave that command."""


class Campaign(Standing, CampaignDefinition):
    """A campaign: its definition, all defaults filled in, and how it stands."""


class SpoiltCampaign(Standing):
    """A campaign whose definition another program has stored and nobody can use."""

    problems: list[FieldProblem]
    """What is wrong with it."""
    definition: str
    """The text as it is stored."""


class Controlled(Shape):
    """What came of a command."""

    id: int
    state: CampaignState
    """The state now."""
    message: str


class AddedCall(Shape):
    """The call will be made."""

    id: int
    """Its number among the calls added to this run."""
    message: str


class Disposed(Shape):
    """What the agent has said counts."""

    id: str
    """The attempt."""
    state: Literal["PENDING", "AMENDED"]
    """PENDING: the call is not settled yet, its result will say it, and it chooses the reschedule rule. AMENDED: the
    result says it now; what followed for the number stays."""
    message: str


class Version(Shape):
    """A definition as it was saved by the API or the command line."""

    version: int
    """Counted from 1."""
    at: Instant
    by: str
    definition: dict[str, Any]


class Numbers(Shape):
    """Numbers of a run; total = waiting + scheduled + live + closed + refused."""

    total: int
    """Read from the lists so far, repeats left out."""
    waiting: int
    """Never called yet."""
    scheduled: int
    """Waiting for a re-dial, or added and not called yet."""
    live: int
    closed: int
    """Done with."""
    refused: int
    """Rows that are no numbers."""


Count = Annotated[int, Field(ge=0)]


class Tally(Shape):
    """Calls that have ended, counted as their results say."""

    calls: Count
    answered: Count
    queued: Count
    """Answered calls that reached the queue or were to reach it."""
    connected: Count
    """Of the queued: those that reached an agent."""
    abandoned: Count
    """Of the queued: those that no agent took within `endpoint.abandonAfter` of leaving the IVR, later or never."""
    lost: Count
    """RS_LOST: hung up while they waited."""
    timed_out: Count
    """RS_TIMEOUT: the queue's time ran out."""
    answer_rate: Share | None
    """Answered calls / calls that were made; null without any."""
    abandon_rate: Share | None
    """Abandoned / queued; null without any."""
    seconds_to_agent: float | None
    """From leaving the IVR to the agent, on an average of the connected calls."""
    talk_seconds: float
    """With agents, in sum."""


class HourTally(Tally):
    hour: Instant
    """When it began (UTC). A call belongs to the hour in which it ended."""


class ListTally(Tally):
    call_list: int | None
    """Null: calls that were added to the run."""


class SecondsToAgent(Shape):
    """From leaving the IVR to the agent; empty before the first connected call."""

    average: float | None = None


class QueueNow(Shape):
    """The queue as the last plan saw it; empty when no daemon plans for one. What is not known is left out."""

    logged_in: Count | None = None
    available: Count | None = None
    in_call: Count | None = None
    paused: Count | None = None
    wrapping_up: Count | None = None
    waiting: Count | None = None
    """Callers from anywhere who wait and are not being offered to an agent."""


class Stats(Shape):
    """Counters and rates of the current run."""

    state: CampaignState
    activity: Limit | None
    run: int
    numbers: Numbers
    calls: dict[Status, int]
    """Calls that have ended, by status; one with none is left out."""
    answered: Count
    queued: Count
    """Answered calls that reached the queue or were to reach it."""
    connected: Count
    """Of the queued: those that reached an agent."""
    abandoned: Count
    """Of the queued: those that no agent took within `endpoint.abandonAfter` of leaving the IVR, later or never."""
    answer_rate: Share | None
    """Answered calls / calls that were made; null before the first."""
    abandon_rate: Share | None
    """Abandoned / queued; null before the first."""
    seconds_to_agent: SecondsToAgent
    talk_seconds: float
    """With agents, in sum."""
    agents: dict[str, Tally]
    """The calls that each agent has had, by his name."""
    queue: QueueNow
    hours: list[HourTally]
    """The last ones, the earliest first; one without calls is left out."""
    call_lists: list[ListTally]
    calls_per_minute: Annotated[float, Field(ge=0)]
    """Calls that have ended within the last minute."""


class Plan(Shape):
    """The last decision about new calls, and why not more."""

    at: Instant
    originate: Annotated[int, Field(ge=0)]
    """New calls it allowed."""
    limit: Limit | None
    """What bound it; null: no daemon plans this campaign now."""
    inputs: dict[str, Any]
    """What the decision was made from."""
    next_at: Instant | None
    """When the limit may be gone; null: when something happens."""
    text: str
    """The decision in one sentence."""


Values = dict[str, Any]
Attributes = dict[str, Any] | Annotated[list[Any], Field(max_length=0)]
"""By name; none are []."""


class LiveCall(Shape):
    """A call under way."""

    attempt: str
    number: str
    attributes: Attributes
    call_list: int | None
    """Null: it was added to the run."""
    run: int
    phase: str
    """CLAIMED, SENT, RINGING, ANSWERED (in the IVR), QUEUED, HANDED_OVER (to the dialplan), CONNECTED (to an agent) or
    ENDED (his wrap-up goes on: he may still say how it was)."""
    agent: str | None
    """Name of the agent he talks to."""
    queue: str | None
    """Where he waits, or has waited."""
    disposition: str | None
    """What the agent has said of the call."""
    trunk: str
    daemon: str
    """Name of the daemon that drives it."""
    claimed_at: Instant | None
    originated_at: Instant | None
    ringing_at: Instant | None
    answered_at: Instant | None
    left_ivr_at: Instant | None
    connected_at: Instant | None


class QueueResult(Shape):
    """How the call fared in the queue. Seconds by our clock, but for `secondsToAgentPbx`."""

    model_config = ConfigDict(extra="allow")

    name: str
    wait_seconds: float | None = None
    """In the queue, until the agent or the end."""
    seconds_to_agent: float | None = None
    """From leaving the IVR (from the answer, if nothing was played) to the agent; null: none took it."""
    seconds_to_agent_pbx: float | None = None
    """The same by Asterisk's own stamps; null: it sent none."""
    talk_seconds: float | None = None
    abandoned: bool
    """No agent within `endpoint.abandonAfter` of leaving the IVR, whether later or not."""


class Amended(Shape):
    """Who has said the extStatus after the call was settled."""

    by: str
    at: Instant


class Result(Shape):
    """What came of one call."""

    model_config = ConfigDict(extra="allow")

    number: str
    """As it was submitted."""
    status: Status
    ext_status: str | None
    attempt: str
    run: int
    call_list: int | None
    """Null: the call was added to the run."""
    attributes: Attributes
    values: Values
    """What the callee told the IVR."""
    path: list[str]
    """The blocks of the IVR he came through."""
    cause: int | None
    """Q.850, as Asterisk gave it."""
    sip_code: int | None
    agent: str | None
    """Name of the agent who had the call."""
    queue: QueueResult | None
    """Null: it was never to reach a queue."""
    recording: str | None
    originated_at: Instant | None
    ringing_at: Instant | None
    answered_at: Instant | None
    left_ivr_at: Instant | None
    connected_at: Instant | None
    ended_at: Instant | None
    redial_at: Instant | None
    """When the number is called again; null: it is done with."""
    amended: Amended | None = None
    """Left out unless an agent's disposition came later."""


class Results(Shape):
    """Results, oldest first."""

    items: list[Result]
    """May be fewer than asked for, even none, while there is a next."""
    next: str | None
    """The cursor to go on from; null: there is nothing more now."""


class DoNotCall(Shape):
    """A number that is not called."""

    number: str
    """As the dialer compares it: without separators, in E.164 when a region is configured."""
    campaign: int | None
    """For this campaign alone; null: for all."""
    reason: str
    until: Instant | None
    """Null: for ever."""
    by: str
    at: Instant | None


class NumberResult(Result):
    """What came of one call to the number."""

    campaign: int


class NumberLiveCall(LiveCall):
    """The call to the number that is under way."""

    campaign: int


class CalledNumber(PageOf[NumberResult]):
    """Every call to a number, the latest first; and may it be called?"""

    number: str
    """As the dialer compares it."""
    do_not_call: list[DoNotCall]
    """Its entries on the list for all and on those of campaigns; one whose `until` is over forbids nothing."""
    live: NumberLiveCall | None
    complete_since: Instant | None
    """Calls before it may stand in the archive alone; null: none does."""


# --- call lists ---


class Rejecting(Shape):
    """What became of lines of CSV or NDJSON that cannot be used."""

    rejected: int = 0
    """How many were left out; absent when none was."""
    errors: list[FieldProblem] = []
    """The first hundred of them, each with its line as the path; absent when there are none."""


class SavedList(Rejecting):
    """The list is stored."""

    id: int
    message: str
    numbers_count: int
    """Numbers that were written."""
    repeats: int = 0
    """Numbers dropped because the list has them already; left out when there are none."""


class CallList(Shape):
    id: int
    name: str
    numbers_count: int
    """Numbers in it, those struck out left out."""
    struck_out: int
    """Rows whose number was taken out."""
    generation: int
    """Grows when the numbers are replaced; a campaign that runs takes a new one by reload."""


class ListedNumber(Shape):
    number: str
    attributes: Attributes
    problem: str | None = None
    """Why no campaign will dial it: another program has pushed it. Left out when nothing is wrong."""


# --- IVRs ---


class Person(Shape):
    id: str
    """Who it was; a user, an API token, or another program."""
    email: str
    """Empty when it is not known."""


class Line(Shape):
    exten: str
    ddi: str


class Ivr(Shape):
    """An IVR without its blocks."""

    id: str
    name: str
    description: str
    created_at: Instant | None
    updated_at: Instant | None
    created_by: Person
    updated_by: Person
    routing: list[Line]
    """Lines that lead into it from outside."""


class WholeIvr(Ivr):
    """An IVR with what it does: `start` and `blocks`, or `dialplan`."""

    start: str | None = None
    blocks: dict[str, dict[str, Any]] | None = None
    dialplan: DialplanPlace | None = None


class SavedIvr(Shape):
    """It is stored."""

    id: str
    message: str


# --- do-not-call, and what operators ask for ---


class DoNotCallAdded(Shape):
    number: str
    message: str


class DoNotCallImported(Rejecting):
    """The numbers are on the list."""

    message: str
    numbers_count: int
    """Numbers that were not on it before."""
    repeats: int = 0
    """Those that were, or came twice: their entries are replaced; left out when there are none."""


class Stop(Shape):
    """Is everything stopped, and by whom?"""

    stopped: bool
    by: str | None = None
    at: Instant | None = None


class AuditEntry(Shape):
    """Who did what."""

    id: str
    at: Instant | None
    by: str
    action: str
    subject: str
    detail: str


class Health(Shape):
    """Yes or no."""

    status: Literal["ok", "unavailable"]
    reason: str | None = None
    """Why it is not; left out when it is."""
