"""Two traces of one scenario side by side: every difference in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any

from .normal import Trace
from .wire import Event

_ABSENT: Any = object()


def differences(name: str, recorded: Trace, heard: Trace, by: str = "simulated") -> list[str]:
    """What `heard` has otherwise than `recorded`; empty when they are equal. `by` is who said what was heard.

    For instance: `is_not_reached: app, rings, event 3 (ChannelDestroyed 19): field cause: recorded 19, simulated 16`.
    """
    lines = [*_exchanges(recorded["exchanges"], heard["exchanges"], by)]
    for socket in _keys(recorded["sockets"], heard["sockets"]):
        lines += _sockets(socket, recorded["sockets"].get(socket), heard["sockets"].get(socket), by)
    return [f"{name}: {line}" for line in lines]


def brief(event: Event) -> str:
    """An event in a few words."""
    kind = str(event["type"])
    if kind == "Dial":
        return f"Dial {event.get('dialstatus') or '-'}"
    if kind == "ChannelStateChange":
        return f"{kind} {event['channel'].get('state')}"
    if kind == "ChannelVarset":
        return f"{kind} {event.get('variable')}"
    if kind == "ChannelDtmfReceived":
        return f"{kind} {event.get('digit')}"
    if "playback" in event:
        return f"{kind} {event['playback'].get('id')}"
    return kind


def _exchanges(recorded: Sequence[Trace], heard: Sequence[Trace], by: str) -> Iterator[str]:
    for number, (one, other) in enumerate(zip(recorded, heard, strict=False), 1):
        for line in _fields("", one, other, by):
            yield f"request {number} ({one['request']}): {line}"
    if len(recorded) != len(heard):
        yield f"requests: recorded {len(recorded)}, {by} {len(heard)}"


def _sockets(name: str, recorded: Trace | None, heard: Trace | None, by: str) -> Iterator[str]:
    if recorded is None or heard is None:
        yield f"socket {name}: {'not recorded' if recorded is None else f'recorded, not {by}'}"
        return
    for key in ("application", "ended"):
        for line in _fields(key, recorded[key], heard[key], by):
            yield f"socket {name}: {line}"
    for channel in _keys(recorded["events"], heard["events"]):
        one, other = recorded["events"].get(channel, []), heard["events"].get(channel, [])
        for line in _events(one, other, by):
            yield f"{name}, {channel.strip('<>')}, {line}"


def _events(recorded: Sequence[Event], heard: Sequence[Event], by: str) -> Iterator[str]:
    """Told by the place in the recording; an event that is only missing does not make the next ones differ."""
    told, said = [brief(event) for event in recorded], [brief(event) for event in heard]
    if told != said and sorted(told) == sorted(said):
        yield f"order: recorded {', '.join(told)}; {by} {', '.join(said)}"
        return
    for what, low, high, other_low, other_high in SequenceMatcher(
        None, told, said, autojunk=False
    ).get_opcodes():
        if what == "equal":
            for place in range(high - low):
                number, one, other = low + place + 1, recorded[low + place], heard[other_low + place]
                for line in _fields("", one, other, by):
                    yield f"event {number} ({brief(one)}): {line}"
            continue
        for place in range(low, high):
            yield f"event {place + 1} ({told[place]}): recorded, not {by}"
        for place in range(other_low, other_high):
            yield f"after event {low}: {said[place]}: not recorded, but {by}"


def _fields(path: str, recorded: Any, heard: Any, by: str) -> Iterator[str]:
    if isinstance(recorded, dict) and isinstance(heard, dict):
        for key in _keys(recorded, heard):
            inner = f"{path}.{key}" if path else key
            yield from _fields(inner, recorded.get(key, _ABSENT), heard.get(key, _ABSENT), by)
    elif isinstance(recorded, list) and isinstance(heard, list) and len(recorded) == len(heard):
        for place, (one, other) in enumerate(zip(recorded, heard, strict=True)):
            yield from _fields(f"{path}[{place}]", one, other, by)
    elif type(recorded) is not type(heard) or recorded != heard:
        yield f"field {path}: recorded {_said(recorded)}, {by} {_said(heard)}"


def _said(value: Any) -> str:
    return "nothing" if value is _ABSENT else repr(value)


def _keys(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [*one, *(key for key in other if key not in one)]
