"""The places of the dialplan that the simulated PBX has, each written as the real one is.

| context, extension | as in |
|---|---|
| dialer-answered, APP | config/asterisk/extensions_dialer.conf: waits 6 s for the application, then apologises |
| from-internal, NUMBER | the lab (tests/lab/lab.py): FreePBX's habits, which hide what the carrier said |
| from-internal-status, NUMBER | the same trunk, and UserEvent(CALLSTATUS) tells at the end how it went |
| from-trunk, anything | the lab: hung up with cause 21 |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from dialer_engine.simulator.channels import Channel
from dialer_engine.simulator.exchange import Exchange, Steps

PATIENCE = 24
AGAIN_SECONDS = 0.25
APOLOGY = ("im-sorry", "please-try-call-later", "goodbye")
BUSY_SECONDS = 20.0
RING_SECONDS = 300.0

Places: TypeAlias = Mapping[str, Callable[[Exchange, Channel], Steps]]


def dialer_answered(exchange: Exchange, channel: Channel) -> Steps:
    for left in range(PATIENCE, -1, -1):
        entered, place = yield from exchange.stasis(channel, channel.exten, ["answered"])
        if entered:
            return place
        if left:
            yield from exchange.wait(AGAIN_SECONDS)
    exchange.user_event(channel, "DIALERABSENT", {"Uniqueid": channel.id, "Queue": ""})
    yield from exchange.playback(*APOLOGY)
    return None


def from_internal(exchange: Exchange, channel: Channel) -> Steps:
    status = yield from exchange.dial(channel, "carrier", channel.exten, RING_SECONDS)
    if status == "BUSY":
        exchange.refuse(channel, "BUSY")
        yield from exchange.wait(BUSY_SECONDS)
    elif status in ("CONGESTION", "CHANUNAVAIL"):
        exchange.indicate(channel, "PROGRESS")
        yield from exchange.playback("all-circuits-busy-now")
        exchange.refuse(channel, "CONGESTION")
        yield from exchange.wait(BUSY_SECONDS)
    return None


def from_internal_status(exchange: Exchange, channel: Channel) -> Steps:
    status = yield from exchange.dial(channel, "carrier", channel.exten, RING_SECONDS)
    linked = channel.other.id if channel.other is not None else channel.id
    exchange.user_event(channel, "CALLSTATUS", {"Uniqueid": linked, "V": f"{status}-{channel.cause}"})
    return None


def from_trunk(exchange: Exchange, channel: Channel) -> Steps:
    channel.cause = 21
    yield 0.0
    return None


PLACES: Places = {
    "dialer-answered": dialer_answered,
    "from-internal": from_internal,
    "from-internal-status": from_internal_status,
    "from-trunk": from_trunk,
}
