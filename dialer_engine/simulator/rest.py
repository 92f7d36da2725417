"""Which verb of the model a path of Asterisk's REST interface is. In a path every second part is a name.

Asterisk's page: rest-api/*.json. What is not here is answered as Asterisk answers what it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dialer_engine.simulator.channels import stamp
from dialer_engine.simulator.pbx import Pbx
from dialer_engine.simulator.requests import Refused, variables_of

Act = Callable[[Pbx, float, Sequence[str], Mapping[str, Any]], object]


class Route(NamedTuple):
    status: int
    act: Act


ROUTES: Mapping[str, Mapping[str, Route]] = {
    "applications": {"GET": Route(200, lambda pbx, now, _, __: pbx.applications(now))},
    "applications/*": {"GET": Route(200, lambda pbx, now, names, _: pbx.application(now, names[0]))},
    "applications/*/eventFilter": {
        "PUT": Route(200, lambda pbx, now, names, asked: pbx.filter(now, names[0], asked)),
    },
    "applications/*/subscription": {
        "POST": Route(
            200, lambda pbx, now, names, asked: pbx.subscribe(now, names[0], _text(asked, "eventSource"))
        ),
        "DELETE": Route(
            200, lambda pbx, now, names, asked: pbx.unsubscribe(now, names[0], _text(asked, "eventSource"))
        ),
    },
    "asterisk/*": {"GET": Route(200, lambda pbx, now, names, asked: _about(pbx, now, names[0], asked))},
    "channels": {
        "GET": Route(200, lambda pbx, now, _, __: pbx.channels(now)),
        "POST": Route(200, lambda pbx, now, _, asked: pbx.originate(now, None, asked)),
    },
    "channels/*": {
        "GET": Route(200, lambda pbx, now, names, _: pbx.channel(now, names[0])),
        "POST": Route(200, lambda pbx, now, names, asked: _begin(pbx, now, names[0], asked)),
        "DELETE": Route(204, lambda pbx, now, names, asked: pbx.hang_up(now, names[0], asked)),
    },
    "channels/*/continue": {"POST": Route(204, lambda pbx, now, names, asked: pbx.go_on(now, names[0], asked))},
    "channels/*/dial": {"POST": Route(204, lambda pbx, now, names, asked: pbx.dial(now, names[0], asked))},
    "channels/*/play": {
        "POST": Route(201, lambda pbx, now, names, asked: pbx.play(now, names[0], None, asked))
    },
    "channels/*/play/*": {
        "POST": Route(201, lambda pbx, now, names, asked: pbx.play(now, names[0], names[1], asked))
    },
    "channels/*/variable": {
        "GET": Route(
            200, lambda pbx, now, names, asked: {"value": pbx.variable(now, names[0], _text(asked, "variable"))}
        ),
        "POST": Route(
            204,
            lambda pbx, now, names, asked: pbx.set_variable(
                now, names[0], _text(asked, "variable"), str(asked.get("value", ""))
            ),
        ),
    },
    "channels/*/variables": {
        "POST": Route(204, lambda pbx, now, names, asked: pbx.set_variables(now, names[0], variables_of(asked)))
    },
    "deviceStates/*": {"GET": Route(200, lambda pbx, now, names, _: pbx.device_state(now, names[0]))},
    "endpoints": {"GET": Route(200, lambda pbx, _, __, ___: pbx.endpoints())},
    "events/user/*": {
        "POST": Route(
            204,
            lambda pbx, now, names, asked: pbx.say_user_event(
                now, _text(asked, "application"), names[0], variables_of(asked)
            ),
        )
    },
    "playbacks/*": {
        "GET": Route(200, lambda pbx, now, names, _: pbx.playback(now, names[0])),
        "DELETE": Route(204, lambda pbx, now, names, _: pbx.stop_playback(now, names[0])),
    },
}


_MISSING = {"variable": "Variable name is required", "eventSource": "Invalid event source URI scheme"}


def carry_out(
    pbx: Pbx, now: float, method: str, parts: Sequence[str], asked: Mapping[str, Any]
) -> tuple[int, object]:
    """The status and the body of the reply, None for none. Raises Refused."""
    if parts[:2] == ["events", "user"]:
        parts = ["events/user", *parts[2:]]  # one word of Asterisk's
    shape = "/".join("*" if place % 2 else part for place, part in enumerate(parts))
    methods = ROUTES.get(shape)
    if methods is None:
        raise Refused(404, "Resource not found")
    route = methods.get(method)
    if route is None:
        raise Refused(405, "Invalid method")
    return route.status, route.act(pbx, now, parts[1::2], asked)


def _begin(pbx: Pbx, now: float, name: str, asked: Mapping[str, Any]) -> object:
    return pbx.create(now, asked) if name == "create" else pbx.originate(now, name, asked)


def _about(pbx: Pbx, now: float, name: str, asked: Mapping[str, Any]) -> object:
    if name == "ping":
        return {"asterisk_id": pbx.info()["system"]["entity_id"], "ping": "pong", "timestamp": stamp(now)}
    if name != "info":
        raise Refused(404, "Resource not found")
    info = pbx.info()
    only = str(asked.get("only") or ",".join(info)).split(",")
    return {section: info[section] for section in only if section in info}


def _text(asked: Mapping[str, Any], key: str) -> str:
    value = asked.get(key)
    if not isinstance(value, str) or not value:
        raise Refused(400, _MISSING.get(key, f"Missing parameter {key}"))
    return value
