"""The public JSON, checked: campaigns, rows of call lists, IVR documents, queued commands.

docs/redis.md and spec section 7 describe them. Every reader raises Invalid with all problems at once, each at
its place. What a campaign names elsewhere (lists, an IVR) is compared by `missing`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from math import isfinite
from typing import Annotated, Any, Literal, TypeVar
from unicodedata import category
from zoneinfo import ZoneInfo

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from dialer_engine.core.compliance import NumberPolicy, normalise
from dialer_engine.core.model import (
    ActivePeriod,
    Campaign,
    CampaignId,
    Command,
    Endpoint,
    EndpointType,
    IvrId,
    ListId,
    RescheduleRule,
    RetryMode,
    Status,
    TrunkName,
    WhenDone,
)
from dialer_engine.errors import Invalid, Problem

STRUCK_OUT = "-"
NO_TEXT = "\ufffd"  # what bytes that are no UTF-8 are read as
ROW_BYTES = 4096
DAY_SECONDS = 86_400
MONTH_SECONDS = 31 * DAY_SECONDS
DEFINITION_BYTES = 65_536
"""The longest definition that the fields leave room for is shorter; a longer one is not even read."""
ATTRIBUTE_NAME = r"[A-Za-z0-9_]{1,40}"
MOST_MEMBERS = 500  # of a document, and blocks that are looked at: a flow has 200 at most
TOLD_PROBLEMS = 100
TOLD_PLACE = 200  # characters: the names in it are a stranger's

_NAME_MARKS = " .,'&()+/!?_#*-"
_CALLER_ID = re.compile(
    r"""(?=.{1,80}\Z)(?:[+]?[0-9*#][0-9*#() ./-]*"""
    r"""|(?P<quote>"?)(?P<name>[^"<>]*)(?P=quote)[ ]*<[+]?[A-Za-z0-9*#._-]+>)"""
)


def _few(value: object) -> object:
    """Each member that nobody knows is a mistake to tell: a stranger's thousands would hold the loop meanwhile."""
    if isinstance(value, dict) and len(value) > MOST_MEMBERS:
        raise ValueError(f"has {len(value)} members, more than {MOST_MEMBERS}")
    return value


class Document(BaseModel):
    """JSON from outside: camelCase, no conversions, nothing unknown. A field's docstring is its manual."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=False,
        use_attribute_docstrings=True,
    )

    _has_few_members = model_validator(mode="before")(_few)


def _known_timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{name!r} is not an IANA time zone") from error
    return name


def _without_repeats(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("names the same one twice")
    return values


def _safe_caller_id(text: str) -> str:
    """Asterisk makes the From header of it, quoting little: what is harmless there is listed, not what is not."""
    found = _CALLER_ID.fullmatch(text)
    name = found["name"] or "" if found else ""
    if not found or not all(category(one)[0] in "LMN" or one in _NAME_MARKS for one in name):
        raise ValueError(
            f"must be a number such as +420 123 456, or Name <123456> with no signs but {_NAME_MARKS} in the name"
        )
    return text


def _text(pattern: str) -> StringConstraints:
    return StringConstraints(pattern=f"^{pattern}$")


Name = Annotated[str, _text(r"[^\x00-\x1f\x7f]{1,200}")]
CallerId = Annotated[str, AfterValidator(_safe_caller_id)]
Word = Annotated[str, _text(r"[A-Za-z0-9_.-]{1,80}")]  # a queue, a trunk, an extStatus, an IVR, a context
Clock = Annotated[str, _text(r"(([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?|24:00(:00)?)")]
TimeZone = Annotated[str, AfterValidator(_known_timezone)]
StatusName = Annotated[Status, Field(strict=False)]
Seconds = Annotated[float, Field(ge=0, le=MONTH_SECONDS, allow_inf_nan=False)]


class PeriodDefinition(Document):
    """When new calls may start, by the local wall clock. A start after the end spans midnight and belongs to the day
    on which it starts; start = end is the whole day."""

    start_time: Clock
    """Runs from this time, HH:MM or HH:MM:SS."""
    end_time: Clock
    """Runs to this time, which is outside; 24:00 is the end of the day. Live calls go on."""
    week_days: Annotated[
        list[Annotated[int, Field(ge=1, le=7)]],
        Field(max_length=7, json_schema_extra={"uniqueItems": True}),
        AfterValidator(_without_repeats),
    ]
    """1 = Monday to 7 = Sunday."""

    @model_validator(mode="after")
    def _starts_within_the_day(self) -> PeriodDefinition:
        if _seconds_of(self.start_time) == DAY_SECONDS:
            raise ValueError("startTime is within the day: 24:00 can only end a period")
        return self


class RuleDefinition(Document):
    """When to call again after this outcome. One rule for each pair of status and extStatus."""

    status: StatusName
    """Call status to which the rule applies."""
    retry_after: Seconds
    """Seconds after the end of the call."""
    max_attempts: Annotated[int, Field(ge=0, le=1000)]
    """Re-dials of a contact by this rule; the first call is not counted."""
    ext_status: Word | None = None
    """Only for this extended status; such a rule goes before one without."""
    retry_mode: Annotated[RetryMode, Field(strict=False)] = RetryMode.FIXED
    """fixed: always retryAfter; multiplied: retryAfter x (re-dials by this rule + 1)."""

    def noun(self) -> RescheduleRule:
        return RescheduleRule(
            self.status, self.retry_after, self.max_attempts, self.ext_status, self.retry_mode
        )


class EndpointDefinition(Document):
    """Who takes the answered calls, and what sets the pace."""

    type: Annotated[EndpointType, Field(strict=False)] = EndpointType.PHONE
    """phone: as many calls as channels and trunk allow; queue: by the free agents of a queue."""
    boost_factor: Annotated[float, Field(gt=0, le=100)] = 1
    """Multiplies the number of available agents."""
    max_waiting_calls: Annotated[int, Field(ge=0, le=10_000)] = 2
    """While so many callers wait in the queue, nothing new is dialed."""
    queue: Word | None = None
    """Name of the observed queue; needed by type queue."""
    pacing: Literal["boost", "predictive"] = "boost"
    """boost: agents x boostFactor; predictive: looks ahead, keeping maxAbandonRate."""
    max_abandon_rate: Annotated[float, Field(gt=0, le=1)] = 0.03
    """Largest share of answered calls that may find no agent in time (predictive)."""
    abandon_window: Literal["day", "30d"] = "day"
    """Over which time maxAbandonRate is kept: the local day, or 30 days."""
    abandon_after: Annotated[float, Field(ge=0, le=60)] = 2
    """Seconds after the IVR in which an agent has to be connected, else the call counts as abandoned."""
    max_lines_per_agent: Annotated[float, Field(ge=1, le=100)] = 10
    """Most calls under way for one available agent (predictive)."""

    @model_validator(mode="after")
    def _a_queue_has_a_name(self) -> EndpointDefinition:
        if self.type is EndpointType.QUEUE and self.queue is None:
            raise ValueError("an endpoint of type queue names its queue")
        return self

    def noun(self) -> Endpoint:
        return Endpoint(
            type=self.type,
            queue=self.queue,
            boost_factor=repr(self.boost_factor),
            max_waiting_calls=self.max_waiting_calls,
            pacing=self.pacing,
            max_abandon_rate=self.max_abandon_rate,
            abandon_window=self.abandon_window,
            abandon_after_seconds=self.abandon_after,
            max_lines_per_agent=self.max_lines_per_agent,
        )


def _one_rule_each(rules: list[RuleDefinition]) -> list[RuleDefinition]:
    keys = [rule.noun().key for rule in rules]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise ValueError(f"rule {index} is a second one for {key}")
    return rules


class CampaignDefinition(Document):
    """What to dial, when, how fast, and what then: a campaign as its user defines it."""

    name: Name
    """Name for the campaign, in lists and statistics."""
    caller_id: CallerId
    """Number of the caller, or Name <number>."""
    active_period: PeriodDefinition
    call_lists: Annotated[
        list[Annotated[int, Field(ge=1)]],
        Field(max_length=1000, json_schema_extra={"uniqueItems": True}),
        AfterValidator(_without_repeats),
    ]
    """Ids of call lists, read in this order. Empty only with whenDone wait."""
    reschedule_rules: Annotated[
        list[RuleDefinition], Field(max_length=100), AfterValidator(_one_rule_each)
    ] = []
    """When to call again; no rule: a contact is called once."""
    ivr: Word
    """Id of the IVR that an answered call enters."""
    endpoint: EndpointDefinition = EndpointDefinition()
    timezone: TimeZone | None = None
    """IANA zone of activePeriod, such as Europe/Prague; absent: the one of the configuration."""
    trunk: Word | None = None
    """Trunk of the configuration; absent: its default trunk."""
    priority: Annotated[int, Field(ge=1, le=100)] = 10
    """Share of trunks and agents that several campaigns want; more is more."""
    max_channels: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Most live calls at once."""
    calls_per_second: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Most new calls a second; absent: as the trunk allows."""
    dial_timeout: Annotated[int, Field(ge=15, le=300)] = 30
    """Seconds a call may ring."""
    max_call_duration: Annotated[int, Field(ge=10, le=DAY_SECONDS)] = 3600
    """Seconds after which a call in the IVR is ended."""
    max_total_attempts: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Most calls to a contact in a run, over all rules; absent: as the rules say."""
    when_done: Annotated[WhenDone, Field(strict=False)] = WhenDone.COMPLETE
    """complete: COMPLETED when all is dialed; wait: stays RUNNING and takes what is added."""
    webhook: Annotated[str, _text(r"https?://[^\s]{1,2000}")] | None = None
    """URL to which results are sent."""

    @model_validator(mode="after")
    def _reads_something(self) -> CampaignDefinition:
        if not self.call_lists and self.when_done is WhenDone.COMPLETE:
            raise ValueError("callLists is empty: only a campaign with whenDone wait may begin so")
        return self

    @property
    def lists(self) -> tuple[ListId, ...]:
        return tuple(ListId(call_list) for call_list in self.call_lists)

    def noun(self, campaign: CampaignId, default_timezone: str) -> Campaign:
        period = self.active_period
        return Campaign(
            id=campaign,
            name=self.name,
            caller_id=self.caller_id,
            active_period=ActivePeriod(
                _seconds_of(period.start_time),
                _seconds_of(period.end_time),
                frozenset(period.week_days),
                self.timezone or default_timezone,
            ),
            call_lists=self.lists,
            ivr=IvrId(self.ivr),
            endpoint=self.endpoint.noun(),
            reschedule_rules=tuple(rule.noun() for rule in self.reschedule_rules),
            trunk=None if self.trunk is None else TrunkName(self.trunk),
            priority=self.priority,
            max_channels=self.max_channels,
            calls_per_second=self.calls_per_second,
            dial_timeout_seconds=self.dial_timeout,
            max_call_duration_seconds=self.max_call_duration,
            max_total_attempts=self.max_total_attempts,
            when_done=self.when_done,
        )

    def text(self) -> str:
        """As it is stored: what the user gave, and nothing he left out."""
        return self.model_dump_json(by_alias=True, exclude_unset=True)

    def complete(self) -> dict[str, Any]:
        """As JSON with every default filled in."""
        return self.model_dump(mode="json", by_alias=True)


class DialplanPlace(Document):
    """A place in the PBX's own dialplan that takes the call over."""

    context: Word
    extension: Annotated[str, _text(r"[A-Za-z0-9_.*#+-]{1,80}")]


class IvrDefinition(Document):
    """An IVR: a flow of named blocks (`start` and `blocks`), or a place in the PBX's dialplan."""

    # Whether the blocks make a sound flow is for core.flow to say.
    name: Name
    description: Annotated[str, StringConstraints(max_length=2000)] = ""
    start: str | None = None
    """Name of the block a call begins with."""
    blocks: Annotated[dict[str, dict[str, Any]] | None, BeforeValidator(_few)] = None
    """The flow: blocks by their names, each with its type and where it goes next."""
    dialplan: DialplanPlace | None = None
    """A place in the dialplan instead of a flow."""

    @model_validator(mode="after")
    def _flow_or_dialplan(self) -> IvrDefinition:
        if (self.blocks is None) == (self.dialplan is None):
            raise ValueError("an IVR has either blocks (a flow) or a dialplan place")
        if self.blocks is not None and self.start is None:
            raise ValueError("a flow names the block it starts with")
        return self

    def text(self) -> str:
        return self.model_dump_json(by_alias=True, exclude_unset=True)


class Disposition(Document):
    """What the agent says of a call."""

    ext_status: Word
    """The extended status of its result."""


class QueuedCommand(Document):
    campaign: Annotated[int, Field(ge=1)]
    command: Annotated[Command, Field(strict=False)]
    by: Annotated[str, StringConstraints(max_length=200)] = "redis"


def _as_object(value: object) -> object:
    """[{"name", "value"}] as an object; two of one name are refused."""
    if not isinstance(value, list):
        return _few(value)
    if not all(isinstance(one, Mapping) and set(one) == {"name", "value"} for one in value):
        raise ValueError('a list of attributes holds {"name", "value"} only')
    if any(not isinstance(one["name"], str) for one in value):
        raise ValueError("an attribute's name is a text")
    if len({one["name"] for one in value}) < len(value):
        raise ValueError("two attributes have one name")
    return _few({one["name"]: one["value"] for one in value})


def _attribute_value(value: object) -> object:
    """One reason, where a union of types would give one for each."""
    match value:
        case str() if len(value) <= 1000 and not any("\ud800" <= one <= "\udfff" for one in value):
            if "\0" in value:  # Asterisk refuses a JSON that holds it: the call could never be made
                raise ValueError("must not hold the character U+0000")
            return value
        case bool():
            return value
        case int() if -(2**63) <= value < 2**64:
            return value
        case float() if isfinite(value):
            return value
    raise ValueError("must be a text of at most 1000 characters, a number, true or false")


AttributeName = Annotated[str, _text(ATTRIBUTE_NAME)]
AttributeValue = Annotated[
    bool | int | float | Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\x00]*$")],
    BeforeValidator(_attribute_value),
]


class Attribute(Document):
    name: AttributeName
    value: AttributeValue


class Row(Document):
    """A contact: whom to call, and what is known of him."""

    number: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    """Telephone number as text: a JSON number would lose leading zeros."""
    attributes: Annotated[
        dict[AttributeName, AttributeValue],
        BeforeValidator(
            _as_object, json_schema_input_type=list[Attribute] | dict[AttributeName, AttributeValue]
        ),
    ] = {}
    """By name; an object, or a list of {"name", "value"}. IVRs and the dialplan can read them."""

    def text(self) -> str:
        """As it is stored: the bare number when there are no attributes. Raises Invalid above 4 kB."""
        if not self.attributes:
            return self.number
        text = orjson.dumps({"number": self.number, "attributes": self.attributes})
        if len(text) > ROW_BYTES:
            raise Invalid([Problem("attributes", f"the row has {len(text)} bytes, more than {ROW_BYTES}")])
        return text.decode()

    def public(self) -> dict[str, object]:
        """Attributes as an object; none are `[]`, as they were given."""
        return {"number": self.number, "attributes": self.attributes or []}


_ROW = TypeAdapter(Row)
_CAMPAIGN = TypeAdapter(CampaignDefinition)
_IVR = TypeAdapter(IvrDefinition)
_COMMAND = TypeAdapter(QueuedCommand)
T = TypeVar("T")
D = TypeVar("D", bound=Document)


def parse(shape: type[D], document: object) -> D:
    """Any of these shapes. Raises Invalid with every problem."""
    return _checked(TypeAdapter(shape), document)


def parse_campaign(document: object) -> CampaignDefinition:
    return _checked(_CAMPAIGN, document)


def parse_ivr(document: object) -> IvrDefinition:
    return _checked(_IVR, document)


def parse_contact(document: object) -> Row:
    """The public {"number", "attributes"}."""
    return _checked(_ROW, document)


def contact_row(document: object, policy: NumberPolicy) -> tuple[str, str]:
    """(identity of the number, row as stored) of a public contact. Raises Invalid with every reason against it."""
    problems: list[Problem] = []
    identity = row = ""
    number = document.get("number") if isinstance(document, Mapping) else None
    try:
        identity = normalise(number, policy).identity if isinstance(number, str) else ""
    except Invalid as exc:
        problems += exc.problems
    try:
        row = parse_contact(document).text()
    except Invalid as exc:
        problems += (problem for problem in exc.problems if problem.place != "number" or not problems)
    if problems:
        raise Invalid(problems)
    return identity, row


def parse_row(text: str) -> Row | None:
    """A row as it stands in Redis, whoever pushed it; None for a struck-out one."""
    if text == STRUCK_OUT:
        return None
    if not text.startswith("{"):
        return _checked(_ROW, {"number": text})
    if len(text.encode(errors="replace")) > ROW_BYTES:
        raise Invalid([Problem("", f"the row is longer than {ROW_BYTES} bytes")])
    return _checked(_ROW, from_json(text))


def parse_command(text: str) -> QueuedCommand:
    if NO_TEXT in text:
        raise Invalid([Problem("", "not UTF-8 text")])
    return _checked(_COMMAND, from_json(text))


def from_json(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Invalid([Problem("", f"not JSON: {error}")]) from error


def missing(definition: CampaignDefinition, lists: Container[int], ivrs: Container[str]) -> list[Problem]:
    """What the definition names and is not there."""
    problems = [
        Problem(f"callLists.{index}", f"there is no call list {call_list}")
        for index, call_list in enumerate(definition.call_lists)
        if call_list not in lists
    ]
    if definition.ivr not in ivrs:
        problems.append(Problem("ivr", f"there is no IVR {definition.ivr!r}"))
    return problems


def _checked(shape: TypeAdapter[T], document: object) -> T:
    try:
        return shape.validate_python(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise Invalid(told([(one["loc"], one["msg"]) for one in found])) from error


def told(mistakes: Sequence[tuple[Sequence[int | str], str]]) -> list[Problem]:
    """pydantic's findings, (place, message) each, as ours; the first hundred, for they may be a stranger's million."""
    problems = [_problem(place, message) for place, message in mistakes[:TOLD_PROBLEMS]]
    if len(mistakes) > TOLD_PROBLEMS:
        problems.append(Problem("", f"and {len(mistakes) - TOLD_PROBLEMS} more mistakes"))
    return problems


def _problem(place: Sequence[int | str], reason: str) -> Problem:
    where = ".".join(map(str, place)).encode(errors="replace").decode()  # half of a surrogate pair is no text
    shown = where if len(where) <= TOLD_PLACE else f"{where[:TOLD_PLACE]}..."
    return Problem(shown, reason.removeprefix("Value error, "))


def _seconds_of(clock: str) -> int:
    hours, minutes, *seconds = (int(part) for part in clock.split(":"))
    return hours * 3600 + minutes * 60 + (seconds[0] if seconds else 0)
