"""What a request of ARI asks for, checked as Asterisk does it, and how Asterisk refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dialer_engine.simulator.channels import Json
from dialer_engine.simulator.exchange import Place
from dialer_engine.simulator.threads import FOREVER

DEFAULT_RING_SECONDS = 30


class Refused(Exception):
    """What Asterisk answers to a request that it does not carry out."""

    def __init__(self, status: int, message: str, *, key: str = "message") -> None:
        super().__init__(message)
        self.status = status
        self.body = {key: message}


class Taken(Refused):
    """The id is a live channel's, or the beginning of one's."""

    def __init__(self) -> None:
        super().__init__(409, "Channel with given unique ID already exists")


class Unmade(Refused):
    """No channel comes of it: no such endpoint, no contact. No event tells of it."""

    def __init__(self) -> None:
        super().__init__(500, "Allocation failed", key="error")


def endpoint_of(asked: Mapping[str, Any]) -> tuple[str, str]:
    """Technology, in capitals, and resource."""
    endpoint = str(asked.get("endpoint") or "")
    if not endpoint:
        raise Refused(400, "Endpoint must be specified")
    technology, slash, resource = endpoint.partition("/")
    if not slash or not resource:
        raise Refused(400, "Invalid endpoint specified")
    return technology.upper(), resource


def types_of(asked: Mapping[str, Any], key: str) -> list[Json] | None:
    entries = asked.get(key)
    if entries is None:
        return None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and "type" in entry for entry in entries
    ):
        raise Refused(400, "Invalid format definition")
    return entries


def whole(asked: Mapping[str, Any], key: str, otherwise: int) -> int:
    """A whole number, as text or not."""
    value = asked.get(key, otherwise)
    try:
        return int(value)
    except (TypeError, ValueError) as exc:
        raise Refused(400, f"Invalid parameter: {key} is no whole number") from exc


def ring_seconds_of(asked: Mapping[str, Any]) -> float:
    seconds = whole(asked, "timeout", 0)
    return FOREVER if seconds == -1 else float(seconds or DEFAULT_RING_SECONDS)


def args_of(asked: Mapping[str, Any]) -> list[str]:
    args = str(asked.get("appArgs") or "")
    return args.split(",") if args else []


def place_of(asked: Mapping[str, Any]) -> Place:
    context, exten = str(asked.get("context") or "default"), str(asked.get("extension") or "s")
    return Place(context, exten, whole(asked, "priority", 1))


def name_and_number(caller_id: str) -> Json:
    """`"Name" <number>`, `Name <number>` or a number."""
    name, angle, number = caller_id.partition("<")
    if not angle:
        return {"name": "", "number": caller_id}
    return {"name": name.strip().strip('"'), "number": number.rstrip("> ")}


def variables_of(asked: Mapping[str, Any]) -> dict[str, str]:
    """Each value is a text, or an object that holds one."""
    variables = asked.get("variables") or {}
    if not isinstance(variables, dict):
        raise Refused(400, "Invalid parameter: variables is no object")
    found = {}
    for name, value in variables.items():
        text = value.get("value") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise Refused(400, "Only string values in the 'variables' object allowed")
        found[name] = text
    return found
