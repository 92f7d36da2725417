"""From a JSON document to a Flow, or to every problem it has, each with its place.

The shape of the blocks is a table: a new kind of block is a row there. Behind it the blocks are looked at as
a whole (graph.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dialer_engine.core.flow import graph, media
from dialer_engine.core.flow.blocks import (
    KEYS,
    Block,
    BranchBlock,
    Condition,
    Flow,
    GotoBlock,
    HangUpBlock,
    MenuBlock,
    Operator,
    OptOutBlock,
    PlayBlock,
    QueueBlock,
    ReadBlock,
    ResultBlock,
    SetBlock,
    WaitBlock,
)
from dialer_engine.errors import Invalid, Problem

MAX_BLOCKS = 200
MAX_BYTES = 64 * 1024
MAX_DEPTH = 8
MAX_MEDIA = 20
MAX_ENTRIES = 50  # of variables, values, conditions, texts of an `in`
MAX_SECONDS = 600
MAX_QUEUE_SECONDS = 3600

NAME = re.compile(r"[A-Za-z0-9_ -]{1,40}")
VARIABLE = re.compile(r"[A-Za-z0-9_]{1,40}")
QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")
_WAITING = (MenuBlock, ReadBlock, WaitBlock)


def parse_flow(document: object) -> Flow:
    """The flow that a decoded JSON document describes. Raises Invalid with every problem it has."""
    if problem := _size_problem(document):
        raise Invalid([problem])
    reader = _Reader()
    flow: Flow | None = reader.value(_flow, "", document)
    if flow is None or reader.problems:
        raise Invalid(reader.problems)
    return flow


def _size_problem(document: object) -> Problem | None:
    """Before anything else: what is too deep or too large is not looked at any closer."""
    level: list[object] = [document]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
    if level:
        return Problem("", f"is nested more than {MAX_DEPTH} deep")
    try:
        size = len(
            json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
        )
    except (TypeError, ValueError):
        return Problem("", "is not a JSON document")
    return Problem("", f"is larger than {MAX_BYTES // 1024} kB") if size > MAX_BYTES else None


class _Wrong(Exception):
    """Why a value cannot be used; whoever called its reader knows the place."""


Read = Callable[["_Reader", str, Any], Any]  # (reader, place, value) -> the value for the block, or raises


class _Reader:
    """Collects what is wrong and where blocks lead, while the document is read."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.targets: dict[str, list[tuple[str, str]]] = {}  # block -> (place, target)
        self.block = ""

    def wrong(self, place: str, reason: str) -> None:
        self.problems.append(Problem(place, reason))

    def value(self, read: Read, place: str, value: Any) -> Any:
        """What the reader makes of it, or None after its complaint was noted."""
        try:
            return read(self, place, value)
        except _Wrong as exc:
            self.wrong(place, str(exc))
            return None

    def lead(self, place: str, target: str) -> None:
        self.targets.setdefault(self.block, []).append((place, target))


@dataclass(frozen=True, slots=True)
class _Field:
    name: str  # of the dataclass's field
    read: Read
    required: bool = False


# --- readers of one value ---


def _text(least: int, most: int) -> Read:
    def read(reader: _Reader, place: str, value: Any) -> str:
        if not isinstance(value, str):
            raise _Wrong("must be a text")
        if not least <= len(value) <= most:
            raise _Wrong(f"must have {least} to {most} characters")
        if not all(char.isprintable() or char == "\n" for char in value):
            raise _Wrong("has a character that cannot be printed")
        return value

    return read


def _pattern(pattern: re.Pattern[str], kinds: str, most: int = 40) -> Read:
    def read(reader: _Reader, place: str, value: Any) -> str:
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        raise _Wrong(f"must be 1 to {most} of {kinds}")

    return read


_ext_status = _pattern(NAME, "letters, digits, blank, _ and -")
_variable = _pattern(VARIABLE, "letters, digits and _")
_queue = _pattern(QUEUE, "letters, digits, _, . and -", most=80)


def _template(reader: _Reader, place: str, value: Any) -> str:
    """A text with names in it; a number is taken as its text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _Wrong("must be a text")
    if len(value) > media.MAX_TEXT:
        raise _Wrong(f"must have at most {media.MAX_TEXT} characters")
    if problem := media.text_problem(value):
        raise _Wrong(problem)
    return value


def _flag(reader: _Reader, place: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("must be true or false")
    return value


def _number(least: float, most: float, *, whole: bool = False) -> Read:
    kind = "a whole number" if whole else "a number"

    def read(reader: _Reader, place: str, value: Any) -> float:
        right = isinstance(value, int) if whole else isinstance(value, int | float)
        if right and not isinstance(value, bool) and least <= value <= most:
            return value  # type: ignore[no-any-return]
        raise _Wrong(f"must be {kind} from {least:g} to {most:g}")

    return read


def _target(reader: _Reader, place: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _Wrong("must be the name of a block")
    reader.lead(place, value)
    return value


def _key_or_none(reader: _Reader, place: str, value: Any) -> str:
    if value == "" or (isinstance(value, str) and len(value) == 1 and value in KEYS):
        return value  # type: ignore[no-any-return]
    raise _Wrong(f'must be one key of {KEYS}, or "" for none')


def _key(reader: _Reader, place: str, value: str) -> str:
    if len(value) != 1 or value not in KEYS:
        raise _Wrong(f"must be one key of {KEYS}")
    return value


def _medium(reader: _Reader, place: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _Wrong("must be a media URI such as sound:hello-world")
    if problem := media.medium_problem(value):
        raise _Wrong(problem)
    return value


def _medium_of_question(reader: _Reader, place: str, value: Any) -> str:
    if isinstance(value, str) and value.startswith("tone:"):
        raise _Wrong("a tone never ends by itself: it belongs in a play with a timeout")
    return _medium(reader, place, value)


def _list(read: Read, least: int, most: int, kind: str) -> Read:
    def read_list(reader: _Reader, place: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _Wrong(f"must be a list of {kind}")
        if not least <= len(value) <= most:
            raise _Wrong(f"must have {least} to {most} {kind}")
        return tuple(reader.value(read, f"{place}.{n}", each) for n, each in enumerate(value))

    return read_list


def _map(read_key: Read, read_value: Read, kind: str) -> Read:
    def read_map(reader: _Reader, place: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _Wrong(f"must be an object of {kind}")
        if not 1 <= len(value) <= MAX_ENTRIES:
            raise _Wrong(f"must have 1 to {MAX_ENTRIES} {kind}")
        found = {}
        for key, each in value.items():
            inner = f"{place}.{graph.shown(key)}"
            if isinstance(key, str):
                found[reader.value(read_key, inner, key)] = reader.value(read_value, inner, each)
            else:
                reader.wrong(inner, "must be a text")
        return found

    return read_map


def _clock(reader: _Reader, place: str, value: Any) -> int:
    if not isinstance(value, str) or not _CLOCK.fullmatch(value):
        raise _Wrong('must be a time of day such as "08:30"')
    return int(value[:2]) * 3600 + int(value[3:]) * 60


def _week_days(reader: _Reader, place: str, value: Any) -> frozenset[int]:
    days = value if isinstance(value, list) else []
    if not days or not all(type(day) is int and 1 <= day <= 7 for day in days):
        raise _Wrong("must be a list of weekdays, 1 (Monday) to 7 (Sunday)")
    return frozenset(days)


def _operator(reader: _Reader, place: str, value: Any) -> Operator:
    if isinstance(value, str) and value in list(Operator):
        return Operator(value)
    raise _Wrong(f"must be one of {', '.join(Operator)}")


def _operand(reader: _Reader, place: str, value: Any) -> str | tuple[str, ...]:
    if isinstance(value, list):
        return _list(_template, 1, MAX_ENTRIES, "texts")(reader, place, value)  # type: ignore[no-any-return]
    return _template(reader, place, value)


# --- objects ---

_CONDITION = {
    "next": _Field("next", _target, required=True),
    "name": _Field("name", _variable),
    "operator": _Field("operator", _operator),
    "value": _Field("value", _operand),
    "startTime": _Field("start_seconds", _clock),
    "endTime": _Field("end_seconds", _clock),
    "weekDays": _Field("week_days", _week_days),
}


def _condition(reader: _Reader, place: str, value: Any) -> Condition | None:
    found = _object(reader, place, value, _CONDITION)
    given = set(value)
    for together in ({"name", "operator", "value"}, {"startTime", "endTime"}):
        if given & together and not together <= given:
            reader.wrong(place, f"{', '.join(sorted(together))} go together")
    if not given & (_CONDITION.keys() - {"next"}):
        reader.wrong(
            place, "tests nothing: give name, operator and value, or startTime and endTime, or weekDays"
        )
    operator, operand = found.get("operator"), found.get("value")
    listed = operator in (Operator.IN, Operator.NOT_IN)
    if operator and operand is not None and listed != isinstance(operand, tuple):
        reader.wrong(f"{place}.value", f"must be {'a list of texts' if listed else 'a text'} for {operator}")
    elif operator is Operator.MATCHES and "{" in str(operand):
        reader.wrong(f"{place}.value", "takes no {name} for matches")
    complete = "next" in found and None not in found.values()
    return Condition(**found) if complete else None


def _object(reader: _Reader, place: str, value: Any, shape: Mapping[str, _Field]) -> dict[str, Any]:
    """The fields under their names in the dataclass; None stands for a value that is wrong."""
    if not isinstance(value, dict):
        raise _Wrong("must be an object")
    found = {}
    for name, each in value.items():
        inner = f"{place}.{graph.shown(name)}" if place else graph.shown(name)
        if name not in shape:
            reader.wrong(inner, f"is not known here (known: {', '.join(shape)})")
        else:
            found[shape[name].name] = reader.value(shape[name].read, inner, each)
    for name, known in shape.items():
        if known.required and name not in value:
            reader.wrong(f"{place}.{name}" if place else name, "is missing")
    return found


_seconds = _number(0.1, MAX_SECONDS)
_retries = _number(0, 10, whole=True)
_NEXT = _Field("next", _target, required=True)
_PROMPT = {
    "media": _Field("media", _list(_medium_of_question, 0, MAX_MEDIA, "media")),
    "bargeIn": _Field("barge_in", _flag),
    "timeout": _Field("timeout_seconds", _seconds),
    "retries": _Field("retries", _retries),
    "invalid": _Field("invalid", _target),
    "noInput": _Field("no_input", _target),
}
_type = _Field("type", lambda _reader, _place, value: value)
_values = _map(_pattern(NAME, "letters, digits, blank, _ and -"), _template, "values")

SHAPES: dict[str, tuple[type[Any], Mapping[str, _Field]]] = {
    "play": (
        PlayBlock,
        {
            "media": _Field("media", _list(_medium, 1, MAX_MEDIA, "media"), required=True),
            "next": _NEXT,
            "bargeIn": _Field("barge_in", _flag),
            "timeout": _Field("timeout_seconds", _seconds),
        },
    ),
    "menu": (
        MenuBlock,
        {"keys": _Field("keys", _map(_key, _target, "keys"), required=True), **_PROMPT},
    ),
    "read": (
        ReadBlock,
        {
            "variable": _Field("variable", _variable, required=True),
            "next": _NEXT,
            "minLength": _Field("min_length", _number(0, 40, whole=True)),
            "maxLength": _Field("max_length", _number(1, 40, whole=True)),
            "terminator": _Field("terminator", _key_or_none),
            **_PROMPT,
        },
    ),
    "set": (
        SetBlock,
        {
            "variables": _Field("variables", _map(_variable, _template, "variables"), required=True),
            "next": _NEXT,
        },
    ),
    "branch": (
        BranchBlock,
        {
            "conditions": _Field("conditions", _list(_condition, 1, MAX_ENTRIES, "conditions"), required=True),
            "else": _Field("otherwise", _target, required=True),
        },
    ),
    "wait": (WaitBlock, {"seconds": _Field("seconds", _seconds, required=True), "next": _NEXT}),
    "result": (
        ResultBlock,
        {"extStatus": _Field("ext_status", _ext_status), "values": _Field("values", _values), "next": _NEXT},
    ),
    "optOut": (OptOutBlock, {"next": _NEXT}),
    "queue": (
        QueueBlock,
        {
            "queue": _Field("queue", _queue),
            "timeout": _Field("timeout_seconds", _number(1, MAX_QUEUE_SECONDS, whole=True)),
            "next": _NEXT,
        },
    ),
    "goto": (GotoBlock, {"next": _NEXT}),
    "hangup": (HangUpBlock, {}),
}


def _block(reader: _Reader, place: str, value: Any) -> Block | None:
    if not isinstance(value, dict):
        raise _Wrong("must be an object")
    kind = value.get("type", "")
    if not isinstance(kind, str) or kind not in SHAPES:
        known = f"is no block's type (known: {', '.join(SHAPES)})"
        reader.wrong(f"{place}.type", known if "type" in value else "is missing")
        return None
    before = len(reader.problems)
    build, shape = SHAPES[kind]
    found = _object(reader, place, value, {"type": _type, **shape})
    found.pop("type")
    _together(reader, place, build, found)
    return build(**found) if len(reader.problems) == before else None


def _together(reader: _Reader, place: str, build: type[Any], found: dict[str, Any]) -> None:
    """What no field can say for itself; and the defaults that stand on other fields."""
    if build in (MenuBlock, ReadBlock):
        if not {"invalid", "no_input"} & set(found):
            reader.wrong(
                f"{place}.noInput", "is missing (or invalid: one of them is needed, and serves for both)"
            )
        else:
            found.setdefault("invalid", found.get("no_input"))
            found.setdefault("no_input", found["invalid"])
    if build is ReadBlock:
        least, most = found.get("min_length", 1), found.get("max_length", 20)
        if least is not None and most is not None and least > most:
            reader.wrong(f"{place}.minLength", "must not be above maxLength (1 and 20 where not given)")
    if build is ResultBlock and not {"ext_status", "values"} & set(found):
        reader.wrong(place, "sets nothing: give extStatus or values")
    tones = build is PlayBlock and any(str(uri).startswith("tone:") for uri in found.get("media") or ())
    if tones and "timeout_seconds" not in found:
        reader.wrong(f"{place}.timeout", "is missing: a tone never ends by itself")


# --- the whole ---


def _blocks(reader: _Reader, place: str, value: Any) -> dict[str, Block | None]:
    if not isinstance(value, dict) or not value:
        raise _Wrong("must be an object of named blocks, at least one")
    if len(value) > MAX_BLOCKS:
        raise _Wrong(f"must have at most {MAX_BLOCKS} blocks")
    found = {}
    for name, block in value.items():
        inner = f"{place}.{graph.shown(name)}"
        if not isinstance(name, str):
            raise _Wrong("must have texts as names")
        if not NAME.fullmatch(name):
            reader.wrong(inner, "a block's name is 1 to 40 letters, digits, blanks, _ and -")
        reader.block = name
        found[name] = reader.value(_block, inner, block)
    return found


_FLOW = {
    "name": _Field("name", _text(1, 100), required=True),
    "description": _Field("description", _text(0, 1000)),
    "start": _Field("start", _text(1, 40), required=True),
    "blocks": _Field("blocks", _blocks, required=True),
}


def _flow(reader: _Reader, place: str, document: object) -> Flow | None:
    found = _object(reader, place, document, _FLOW)
    blocks = found.get("blocks")
    if blocks:
        assert isinstance(document, dict)
        busy = [name for name in blocks if _kind(document["blocks"][name]) not in (*_WAITING, None)]
        # Of a faulty block nobody knows where it was to lead: to any block whose name stands in it.
        perhaps = {name: list(_texts(document["blocks"][name])) for name, block in blocks.items() if not block}
        reader.problems += graph.problems(
            found.get("start"), list(blocks), reader.targets, perhaps=perhaps, busy=busy
        )
    return None if reader.problems else Flow(**found)


def _kind(block: object) -> type[Any] | None:
    kind = block.get("type") if isinstance(block, dict) else None
    return SHAPES[kind][0] if isinstance(kind, str) and kind in SHAPES else None


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
