"""The places of the dialplan that the simulated PBX has, each written as the real one is.

| context, extension | as in |
|---|---|
| dialer-answered, APP | config/asterisk/extensions_dialer.conf: waits 6 s for the application, then apologises |
| from-internal, NUMBER | the lab (tests/lab/lab.py): FreePBX's habits, which hide what the carrier said |
| from-internal-status, NUMBER | the same trunk, and UserEvent(CALLSTATUS) tells at the end how it went |
| from-trunk, NUMBER | the lab: hung up with cause 21 |
| dialer-queue, QUEUE | config/asterisk/extensions_dialer.conf: Queue(), and back to the application |
| ext-queues, QUEUE | the lab: FreePBX's queues: a longest wait of their own (4 s), and who comes back is hung up |
| telephones, *7 DIGIT | dialer-dispositions of the shipped file, included by the lab: how an agent's last call was |
| from-queue, EXTENSION | the lab: where members that are Local/ channels lead |
| calls-in, QUEUE | the lab: who calls in and comes to a queue; waits-QUEUE: no agent is for him; limited: FreePBX's |
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from typing import Any

from dialer_engine.simulator.agents import SAID
from dialer_engine.simulator.channels import Channel
from dialer_engine.simulator.exchange import ANSWER_AT_ONCE, ATTEMPT_HEADER, Exchange, Place, Steps
from dialer_engine.simulator.queueing import Options, Queueing
from dialer_engine.simulator.scripts import Places, dial, playback, stasis, wait

ANSWERED_CONTEXT = "dialer-answered"
SHIPPED = (ANSWERED_CONTEXT, "dialer-queue")
PATIENCE = 24
"""Quarters of a second, as DIALER_PATIENCE."""
AGAIN_SECONDS = 0.25
APOLOGY = "im-sorry&please-try-call-later&goodbye"
RING_SECONDS = 300
TONE_SECONDS = 20
LONGEST_WAIT = 4
WAITING = "(Wait)"
"""No context: where a channel is that an originate by application makes wait; the extension is how long."""
UNSERVED, LIMITED = "waits-", "limited"


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


def auto_answer(exchange: Exchange, leg: Channel) -> None:
    """dialer-auto-answer, before an agent's telephone is called."""
    is_telephone = leg.other is None
    attempt = leg.variables.get("DIALER_ATTEMPT", "")
    exchange.set_variable(leg, "LOCAL(ARGC)", "0")
    leg.context, leg.exten = "dialer-auto-answer", "s"
    exchange.step(leg, 1, "GotoIf", f"{int(not is_telephone)}?over")
    if is_telephone:
        leg.headers["Call-Info"] = f"<sip:dialer>;{ANSWER_AT_ONCE}"
        exchange.step(leg, 2, "Set", f"PJSIP_HEADER(add,Call-Info)={leg.headers['Call-Info']}")
        alert = "<http://localhost>;info=alert-autoanswer;delay=0"
        exchange.step(leg, 3, "Set", f"PJSIP_HEADER(add,Alert-Info)={alert}")
        exchange.step(leg, 4, "GotoIf", f"{int(attempt == '')}?over")
    if is_telephone and attempt:
        leg.headers[ATTEMPT_HEADER] = attempt
        exchange.step(leg, 5, "Set", f"PJSIP_HEADER(add,{ATTEMPT_HEADER})={attempt}")
    exchange.step(leg, 6, "Return")
    exchange.set_variable(leg, "ARGC", "")
    exchange.set_variable(leg, "GOSUB_RETVAL", "")


def connected(exchange: Exchange, leg: Channel) -> None:
    """dialer-connected, when an agent's telephone was answered."""
    attempt, before = leg.variables.get("DIALER_ATTEMPT", ""), Place(leg.context, leg.exten, leg.priority)
    is_telephone = leg.other is None
    exchange.set_variable(leg, "LOCAL(ARGC)", "0")
    leg.context, leg.exten = "dialer-connected", "s"
    exchange.step(leg, 1, "GotoIf", f"{int(not is_telephone or attempt == '')}?over")
    if is_telephone and attempt:
        had = f"DIALER_ATTEMPT_{leg.endpoint.removeprefix('PJSIP/')}"
        exchange.step(leg, 2, "Set", f"GLOBAL({had})={attempt}")
        exchange.globals[had] = attempt
    exchange.step(leg, 3, "Return")
    exchange.set_variable(leg, "ARGC", "")
    exchange.set_variable(leg, "GOSUB_RETVAL", "")
    leg.context, leg.exten, leg.priority = before.context, before.exten, before.priority


def from_queue(exchange: Exchange, channel: Channel) -> Steps:
    exten = channel.exten
    exchange.step(channel, 1, "Dial", f"PJSIP/{exten},20,b(dialer-auto-answer^s^1)U(dialer-connected)")
    status = yield from dial(
        exchange, channel, exten, exten, 20, before_dial=auto_answer, when_answered=connected
    )
    if status != "ANSWER":
        exchange.step(channel, 2, "Hangup")
    return None


def from_trunk(exchange: Exchange, channel: Channel) -> Steps:
    exchange.step(channel, 1, "Hangup", "21")
    channel.cause = 21
    yield 0.0
    return None


def calls_in(exchange: Exchange, channel: Channel) -> Steps:
    exchange.step(channel, 1, "Answer")
    exchange.change(channel, "Up")
    yield 0.0
    place = Place("dialer-queue", channel.exten.removeprefix(UNSERVED))
    if channel.exten == LIMITED:
        place = Place("ext-queues", "lime")
    elif channel.exten != place.exten:
        exchange.step(channel, 2, "Set", "QUEUE_MAX_PENALTY=1")
        exchange.set_variable(channel, "QUEUE_MAX_PENALTY", "1")
    exchange.step(channel, channel.priority + 1, "Goto", f"{place.context},{place.exten},1")
    return place


def telephones(exchange: Exchange, channel: Channel) -> Steps:
    telephone = channel.endpoint.removeprefix("PJSIP/")
    attempt = exchange.globals.get(f"DIALER_ATTEMPT_{telephone}", "")
    told = {"Uniqueid": attempt, "V": SAID.get(channel.exten[2:], "")}
    for n, (variable, value) in enumerate(zip(("DIALER_HAD", "DIALER_SAID"), told.values(), strict=True)):
        exchange.step(channel, n + 1, "Set", f"{variable}={value}")
        exchange.set_variable(channel, variable, value)
    exchange.step(channel, 3, "GotoIf", "0?nothing")  # nobody here dials a digit without a word
    exchange.step(channel, 4, "UserEvent", ",".join(["DISPOSITION", *(f"{k}:{v}" for k, v in told.items())]))
    exchange.user_event(channel, "DISPOSITION", told)
    exchange.step(channel, 5, "Answer")
    exchange.change(channel, "Up")
    exchange.step(channel, 6, "Playback", "beep")
    yield from playback(exchange, "beep")
    exchange.step(channel, 7, "Hangup")
    channel.cause = 16
    return None


def waiting(exchange: Exchange, channel: Channel) -> Steps:
    yield from wait(exchange, float(channel.exten))
    return None


PLACES: Places = {
    WAITING: waiting,
    ANSWERED_CONTEXT: dialer_answered,
    "from-internal": from_internal,
    "from-internal-status": from_internal_status,
    "from-queue": from_queue,
    "from-trunk": from_trunk,
    "calls-in": calls_in,
    "telephones": telephones,
}


def _back(
    exchange: Exchange, channel: Channel, app: str, args: list[str]
) -> Generator[float, Any, tuple[bool, Place | None]]:
    """To the application that sent it to the queue; one that is away is waited for."""
    for waited in range(1, PATIENCE + 2):
        exchange.step(channel, 4, "Stasis", ",".join([app, *args]))
        entered, place = yield from stasis(exchange, channel, app, args)
        if entered:
            exchange.set_variable(channel, "STASISSTATUS", "SUCCESS")
            return True, place
        exchange.step(channel, 5, "GotoIf", "0?over")
        exchange.step(channel, 6, "Set", f"DIALER_WAITED={waited}")
        exchange.set_variable(channel, "DIALER_WAITED", str(waited))
        exchange.step(channel, 7, "GotoIf", f"{int(waited > PATIENCE)}?over")
        if waited <= PATIENCE:
            exchange.step(channel, 8, "Wait", f"{AGAIN_SECONDS}")
            yield from wait(exchange, AGAIN_SECONDS)
            exchange.step(channel, 9, "Goto", "again")
    return False, None


def places_of_queues(queueing: Queueing) -> Places:
    """Those in which a channel is queued."""

    def dialer_queue(exchange: Exchange, channel: Channel) -> Steps:
        exchange.step(channel, 1, "Set", "QUEUESTATUS=")
        exchange.set_variable(channel, "QUEUESTATUS", "")
        timeout = channel.variables.get("DIALER_QUEUE_TIMEOUT", "")
        arguments = f"{channel.exten},cb(dialer-auto-answer^s^1),,,{timeout},,dialer-connected"
        exchange.step(channel, 2, "Queue", arguments)
        options = Options(_seconds(timeout), goes_on=True, before_dial=auto_answer, when_answered=connected)
        yield from queueing.run(channel, channel.exten, options)
        app, status = channel.variables.get("DIALER_APP", ""), channel.variables["QUEUESTATUS"]
        exchange.step(channel, 3, "GotoIf", f"{int(app == '')}?over")
        if app:
            entered, place = yield from _back(exchange, channel, app, ["queue-exit", channel.exten, status])
            if entered and place is not None:
                return place
        exchange.step(channel, 10, "Hangup")
        channel.cause = 16
        return None

    def ext_queues(exchange: Exchange, channel: Channel) -> Steps:
        exchange.step(channel, 1, "Queue", f"{channel.exten},t,,,{LONGEST_WAIT}")
        yield from queueing.run(channel, channel.exten, Options(LONGEST_WAIT))
        exchange.step(channel, 2, "Hangup")
        channel.cause = 16
        return None

    return {"dialer-queue": dialer_queue, "ext-queues": ext_queues}


_EXTENSIONS: Mapping[str, str] = {
    ANSWERED_CONTEXT: r"[a-zA-Z0-9].+",
    "from-internal": r"[+*0-9].+",
    "from-internal-status": r"[+*0-9].+",
    "from-trunk": r"[0-9].+",
    "calls-in": r"[a-z].+",
    "telephones": r"\*7[0-9]",
    WAITING: r"[0-9]+(\.[0-9]+)?",
    "dialer-queue": r"[a-zA-Z0-9].+",
    "ext-queues": r"[a-z].+",
    "from-queue": r"[0-9]{4}",
}


def is_place(context: str, exten: str) -> bool:
    """Does the dialplan know it?"""
    return re.fullmatch(_EXTENSIONS.get(context, "(?!)"), exten) is not None


def _seconds(timeout: str) -> int | None:
    """As Queue() reads it: none at all is for ever."""
    return int(timeout) if timeout.isdecimal() and int(timeout) else None
