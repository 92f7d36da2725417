"""The places of the dialplan that the simulated PBX has, each written as the real one is.

| context, extension | as in |
|---|---|
| dialer-answered, APP | config/asterisk/extensions_dialer.conf: waits 6 s for the application, then apologises |
| from-internal, NUMBER | the lab (tests/lab/lab.py): FreePBX's habits, which hide what the carrier said |
| from-internal-status, NUMBER | the same trunk, and UserEvent(CALLSTATUS) tells at the end how it went |
| from-trunk, NUMBER | the lab: hung up with cause 21 |
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from dialer_engine.simulator.channels import Channel
from dialer_engine.simulator.exchange import Exchange, Steps
from dialer_engine.simulator.scripts import Places, dial, playback, stasis, wait

ANSWERED_CONTEXT = "dialer-answered"
PATIENCE = 24
"""Quarters of a second, as DIALER_PATIENCE."""
AGAIN_SECONDS = 0.25
APOLOGY = "im-sorry&please-try-call-later&goodbye"
RING_SECONDS = 300
TONE_SECONDS = 20


def dialer_answered(exchange: Exchange, channel: Channel) -> Steps:
    exchange.step(channel, 1, "Set", f"DIALER_LEFT={PATIENCE}")
    exchange.set_variable(channel, "DIALER_LEFT", str(PATIENCE))
    for left in range(PATIENCE - 1, -2, -1):
        exchange.step(channel, 2, "Stasis", f"{channel.exten},answered")
        entered, place = yield from stasis(exchange, channel, channel.exten, ["answered"])
        if entered:
            exchange.set_variable(channel, "STASISSTATUS", "SUCCESS")
            return place
        exchange.step(channel, 3, "GotoIf", "0?over")
        exchange.step(channel, 4, "Set", f"DIALER_LEFT={left}")
        exchange.set_variable(channel, "DIALER_LEFT", str(left))
        exchange.step(channel, 5, "GotoIf", f"{int(left < 0)}?alone")
        if left >= 0:
            exchange.step(channel, 6, "Wait", f"{AGAIN_SECONDS}")
            yield from wait(exchange, AGAIN_SECONDS)
            exchange.step(channel, 7, "Goto", "again")
    exchange.step(channel, 8, "UserEvent", f"DIALERABSENT,Uniqueid:{channel.id},Queue:")
    exchange.user_event(channel, "DIALERABSENT", {"Uniqueid": channel.id, "Queue": ""})
    exchange.step(channel, 9, "GotoIf", "0?dialer-queue,,1")
    exchange.step(channel, 10, "Playback", APOLOGY)
    yield from playback(exchange, *APOLOGY.split("&"))
    exchange.step(channel, 11, "Hangup")
    channel.cause = 16
    return None


def from_internal(exchange: Exchange, channel: Channel) -> Steps:
    exchange.step(channel, 1, "Set", f"OUTNUM={channel.exten}")
    exchange.set_variable(channel, "OUTNUM", channel.exten)
    exchange.step(channel, 2, "Dial", f"PJSIP/{channel.exten}@carrier,{RING_SECONDS}")
    status = yield from dial(exchange, channel, "carrier", channel.exten, RING_SECONDS)
    if status == "ANSWER":
        return None
    exchange.step(channel, 3, "Goto", f"s-{status},1")
    channel.exten = f"s-{status}"
    if status == "BUSY":
        exchange.step(channel, 1, "PlayTones", "busy")
        exchange.step(channel, 2, "Busy", f"{TONE_SECONDS}")
        exchange.refuse(channel, "BUSY", 17)
        yield from wait(exchange, TONE_SECONDS)
    elif status == "NOANSWER":
        exchange.step(channel, 1, "Hangup")
    else:
        exchange.step(channel, 1, "Progress")
        exchange.indicate(channel, "PROGRESS")
        exchange.step(channel, 2, "Playback", "all-circuits-busy-now,noanswer")
        yield from playback(exchange, "all-circuits-busy-now")
        exchange.step(channel, 3, "Congestion", f"{TONE_SECONDS}")
        exchange.refuse(channel, "CONGESTION", 34)
        yield from wait(exchange, TONE_SECONDS)
    return None


def from_internal_status(exchange: Exchange, channel: Channel) -> Steps:
    exchange.step(channel, 1, "Dial", f"PJSIP/{channel.exten}@carrier,{RING_SECONDS}")
    status = yield from dial(exchange, channel, "carrier", channel.exten, RING_SECONDS)
    if status == "ANSWER":
        return None
    told = {"Uniqueid": channel.other.id if channel.other is not None else channel.id}
    told["V"] = f"{status}-{channel.cause}"
    exchange.step(channel, 2, "UserEvent", ",".join(["CALLSTATUS", *(f"{k}:{v}" for k, v in told.items())]))
    exchange.user_event(channel, "CALLSTATUS", told)
    exchange.step(channel, 3, "Hangup", str(channel.cause))
    return None


def from_trunk(exchange: Exchange, channel: Channel) -> Steps:
    exchange.step(channel, 1, "Hangup", "21")
    channel.cause = 21
    yield 0.0
    return None


PLACES: Places = {
    ANSWERED_CONTEXT: dialer_answered,
    "from-internal": from_internal,
    "from-internal-status": from_internal_status,
    "from-trunk": from_trunk,
}

_EXTENSIONS: Mapping[str, str] = {
    ANSWERED_CONTEXT: r"[a-zA-Z0-9].+",
    "from-internal": r"[+*0-9].+",
    "from-internal-status": r"[+*0-9].+",
    "from-trunk": r"[0-9].+",
}


def is_place(context: str, exten: str) -> bool:
    """Does the dialplan know it?"""
    return re.fullmatch(_EXTENSIONS.get(context, "(?!)"), exten) is not None
