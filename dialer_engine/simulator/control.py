"""What a real PBX has not: the people at it and what goes wrong there can be changed while it runs.

| path under /simulator | does |
|---|---|
| GET calls[?number=] | what the callees saw, one JSON object a line, oldest first |
| POST calls?dialled=&caller=&stay= | somebody calls in and hangs up `stay` seconds after the answer |
| GET, PUT faults | `faults.Faults`; a PUT names those that are to change |
| POST restart | as a crash and a start: every channel and connection is gone without a word |
| PUT, DELETE carriers/PREFIX[?code=503] | numbers of this prefix are rejected by the code; mended |
| DELETE channels | every call is hung up |
| PUT agents/EXTENSION | a telephone's habits: `agents.Agent` without its extension; who has queues is logged in |
| PUT, DELETE cables/EXTENSION | a telephone's cable is put in, pulled out |
| DELETE managers | every connection to AMI is cut |
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from dialer_engine.simulator.agents import Agent
from dialer_engine.simulator.queues import QueueError
from dialer_engine.simulator.requests import Refused

if TYPE_CHECKING:
    from dialer_engine.simulator.wire import Simulator


def control(
    simulator: Simulator, method: str, parts: Sequence[str], asked: Mapping[str, Any]
) -> bytes | dict[str, Any] | None:
    """Lines, an object, or nothing. Raises Refused."""
    pbx, now = simulator.pbx, time.time()
    match method, *parts:
        case "GET", "calls":
            number = str(asked.get("number") or "")[-12:]
            seen = [call for call in pbx.world.calls if not number or call.number == number]
            return b"".join(orjson.dumps(call) + b"\n" for call in seen)
        case "GET", "faults":
            return dict(msgspec.to_builtins(simulator.faults))
        case "PUT", "faults":
            simulator.set_faults(asked)
            return dict(msgspec.to_builtins(simulator.faults))
        case "POST", "restart":
            asyncio.get_running_loop().call_soon(simulator.restart)  # after this answer
        case "PUT", "carriers", prefix:
            pbx.broken[prefix] = sip_code(asked)
        case "DELETE", "carriers", prefix:
            pbx.broken.pop(prefix, None)
        case "DELETE", "channels":
            pbx.hang_up_everything(now)
        case _:
            _people(simulator, method, parts, asked)
    return None


def _people(simulator: Simulator, method: str, parts: Sequence[str], asked: Mapping[str, Any]) -> None:
    pbx, now = simulator.pbx, time.time()
    match method, *parts:
        case "POST", "calls":
            pbx.call_in(now, str(asked.get("dialled") or ""), str(asked.get("caller") or ""), _seconds(asked))
        case "PUT", "agents", extension:
            try:
                pbx.employ(now, msgspec.convert({**asked, "extension": extension}, Agent))
            except (msgspec.ValidationError, QueueError) as exc:
                raise Refused(400, str(exc)) from exc
        case (("PUT" | "DELETE"), "cables", extension):
            pbx.plug(now, extension, plugged=method == "PUT")
        case "DELETE", "managers":
            simulator.ami.cut()
        case _:
            raise Refused(404, "Resource not found")


def sip_code(asked: Mapping[str, Any]) -> int:
    text = str(asked.get("code", "503"))
    if not text.isdecimal() or not 400 <= int(text) <= 699:
        raise Refused(400, "code: must be 400 to 699")
    return int(text)


def _seconds(asked: Mapping[str, Any]) -> float:
    try:
        return float(asked.get("stay", "10"))
    except ValueError as exc:
        raise Refused(400, "stay: must be seconds") from exc
