"""Every channel there is, and everything that can happen to one at an instant. What takes time is in `scripts`.

A channel's life is a script. Hanging up is an exception where the script waits (`HungUp`), so that every script ends
the same way: its application is left, its channel destroyed, whoever it dialed is cut off.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from dialer_engine.simulator.callees import Callee
from dialer_engine.simulator.causes import cause_of, invented_code, status_of, text_of
from dialer_engine.simulator.channels import Apps, Channel, HungUp, Json, stamp
from dialer_engine.simulator.line import Line
from dialer_engine.simulator.sessions import Sessions, snapshot
from dialer_engine.simulator.sounds import Playback
from dialer_engine.simulator.threads import Script, Threads
from dialer_engine.simulator.world import Seen, World

NORMAL_CLEARING = 16
SOFTLY = 32
"""What Asterisk puts in the place of the cause when a channel is hung up by order (AST_SOFTHANGUP_EXPLICIT)."""
UNDIALED_CODE = 603
"""What Asterisk makes up for a channel that was created and never dialed."""
ANSWERED, ENDED, ORDER = "answered", "ended", "order"
"""What wakes a channel's script."""

HEARD_LATE_SECONDS = 0.06
"""How much longer a key seems to Asterisk while it plays (measured: 180 ms of 120)."""

OUTGOING = "(Outgoing Line)"
ANSWER_AT_ONCE = "answer-after=0"
ATTEMPT_HEADER = "X-Dialer-Attempt"
"""In the INVITE to an agent's telephone: that it shall answer by itself, and for which call it rings."""
PRESENTED: Json = {
    "caller_presentation": 0,
    "caller_presentation_txt": "Presentation Allowed, Not Screened",
}
TIMES = {"RINGING": "RINGTIME", "PROGRESS": "PROGRESSTIME"}
MEASURED = {
    "RTPAUDIOQOS": "ssrc=0;themssrc=0;lp=0;rxjitter=0.000000;rxcount=0;txjitter=0.000000;txcount=0;rlp=0;"
    "rtt=0.000000;rxmes=0.000000;txmes=0.000000",
    **{
        f"RTPAUDIOQOS{name.upper()}": "".join(
            f"{word}{name}=000.000000;"
            for word in ("minrx", "maxrx", "avgrx", "stdevrx", "mintx", "maxtx", "avgtx", "stdevtx")
        )
        for name in ("jitter", "loss", "rtt", "mes")
    },
}
"""What Asterisk sets at the end of a channel that was up. Here there is no sound to measure."""


@dataclass(frozen=True, slots=True)
class Place:
    """Of the dialplan."""

    context: str
    exten: str
    priority: int = 1


Steps: TypeAlias = Generator[float, Any, Place | None]
"""A part of a script that may end by naming the place where the channel goes on."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """What lies behind a PJSIP endpoint: the callees of its numbers, or one and the same for each."""

    callee: Callee | None = None
    is_seen: bool = True  # what is called writes it down
    has_contact: bool = True
    context: str = "from-trunk"  # where its own calls come in
    is_busy_at_one: bool = False  # device_state_busy_at=1: with one call, be it ringing, its device is busy


class Exchange:
    """`speed` divides what callees and sounds take; our own time-outs it does not touch. `callee_of` is asked for
    each number that is called, and whether he is asked to answer by himself; None: there is no such, and nobody
    writes it down."""

    def __init__(
        self,
        *,
        now: float,
        speed: float,
        world: World,
        trunks: Mapping[str, Trunk],
        callee_of: Callable[[str, bool], Callee | None],
    ) -> None:
        self.threads = Threads(now)
        self.apps = Apps()
        self.sessions = Sessions()
        self.on_device: Callable[[str], None] = lambda device: None
        self.world = world
        self.trunks = dict(trunks)
        self.speed = speed
        self.globals: dict[str, str] = {}
        self.channels: dict[str, Channel] = {}
        self.playbacks: dict[str, Playback] = {}
        self._callee_of = callee_of
        self._ids: list[str] = []  # in lower case and in order
        self._serials: dict[str, int] = {}
        self._by_device: dict[str, set[Channel]] = {}
        self._orphans: set[Line] = set()  # callees whose channel was lost in a crash

    @property
    def now(self) -> float:
        return self.threads.now

    # Birth

    def new_id(self) -> str:
        """As Asterisk makes them."""
        return f"{int(self.now)}.{self._serial('id')}"

    def _serial(self, kind: str) -> int:
        number = self._serials.get(kind, 0)
        self._serials[kind] = number + 1
        return number

    def is_taken(self, channel_id: str) -> bool:
        """An id is refused that a live one begins with, in whatever case (Asterisk's ao2_legacy channel store)."""
        wanted = channel_id.lower()
        place = bisect_left(self._ids, wanted)
        return place < len(self._ids) and self._ids[place].startswith(wanted)

    def new_call(self, channel_id: str, trunk: str, number: str) -> Channel:
        """A PJSIP channel; nobody is called yet."""
        name = f"PJSIP/{trunk}-{self._serial('PJSIP'):08x}"
        context, created = self.trunks[trunk].context, stamp(self.now)
        channel = self._create(
            Channel(channel_id, name, f"PJSIP/{trunk}", created, began_at=self.now, context=context)
        )
        channel.protocol_id = f"{self._serial('Call-ID'):08x}-0000-4000-8000-{int(self.now * 1000):012x}"
        channel.dialled = number if number == trunk else f"{number}@{trunk}"
        return channel

    def new_local(self, channel_id: str, other_id: str, exten: str, context: str) -> Channel:
        """Both halves of a Local channel; the near one."""
        name = f"Local/{exten}@{context}-{self._serial('Local'):08x}"
        near = Channel(channel_id, f"{name};1", "", stamp(self.now), context=context, exten=exten)
        far = Channel(other_id, f"{name};2", "", stamp(self.now), "Ring", context=context, exten=exten)
        near.other, far.other, near.dialled, far.linked_id = far, near, f"{exten}@{context}", channel_id
        self._create(near)
        self._create(far)
        return near

    def _create(self, channel: Channel) -> Channel:
        self.channels[channel.id] = channel
        self._by_device.setdefault(channel.device, set()).add(channel)
        insort(self._ids, channel.id.lower())
        self.tell(channel, "ChannelCreated")
        self._tell_endpoint(channel.endpoint)
        return channel

    def introduce(
        self, channel: Channel, caller: Json, connected: Json, app: str = "", *, at_once: bool
    ) -> None:
        """Whose channel it is, who is at its other end, and what it runs while it runs nothing else. `at_once`: all
        of it is so before the first of it is told."""
        renamed, reconnected = channel.caller != caller, channel.connected != connected
        if at_once:
            channel.caller, channel.connected = caller, connected
        if app:
            channel.runs = (app, OUTGOING)
            self.step(channel, channel.priority, app, OUTGOING)
        channel.caller = caller
        if renamed:
            self.tell(channel, "ChannelCallerId", dict(PRESENTED))
        channel.connected = connected
        if reconnected:
            self.tell(channel, "ChannelConnectedLine")

    def connect(self, channel: Channel, connected: Json) -> None:
        """Who is at its other end. What is so for the far half of a Local channel is the near one's own name; that
        is told with its next change of state."""
        if channel.connected != connected:
            channel.connected = connected
            self.tell(channel, "ChannelConnectedLine")
        near = channel.other
        if near is not None and channel.is_far:
            near.is_renamed = near.caller != connected
            near.caller = connected

    def dial_out(self, telephone: str, exten: str) -> Channel:
        """A telephone of ours dials; its channel has no life yet."""
        channel = self.new_call(self.new_id(), telephone, telephone)
        channel.exten, channel.caller = exten, {"name": "", "number": telephone}
        self.change(channel, "Ring")
        return channel

    # Life

    def live(self, channel: Channel, script: Script | Steps) -> None:
        """The channel's life: the script, and then its end, however that came."""

        def life() -> Script:
            with suppress(HungUp):
                yield from script
            self.destroy(channel)

        channel.thread = self.threads.start(life())

    def tell(self, channel: Channel, kind: str, body: Json | None = None) -> None:
        """To everybody who follows it."""
        self.apps.publish(channel, kind, body or {}, self.now)

    def step(self, channel: Channel, priority: int, app: str, data: str = "") -> None:
        """The next application that the dialplan runs."""
        channel.priority, channel.app_name, channel.app_data = priority, app, data
        self.tell(channel, "ChannelDialplan", {"dialplan_app": app, "dialplan_app_data": data})

    def set_variable(self, channel: Channel, name: str, value: str) -> None:
        """One or two underscores before its name are none of it: they say that legs inherit it, once or for ever."""
        bare = name.removeprefix("_").removeprefix("_")
        channel.variables[bare] = value
        channel.inherited.pop(bare, None)
        if bare != name:
            channel.inherited[bare] = name if name.startswith("__") else bare
        self.tell(channel, "ChannelVarset", {"variable": name, "value": value})

    def inherit(self, parent: Channel, child: Channel) -> None:
        for bare, name in [*parent.inherited.items()]:
            self.set_variable(child, name, parent.variables[bare])

    def user_event(self, channel: Channel, name: str, fields: Mapping[str, str]) -> None:
        """UserEvent()."""
        self.tell(channel, "ChannelUserevent", {"eventname": name, "userevent": {"eventname": name, **fields}})
        told = [*snapshot(channel), ("UserEvent", name), *fields.items()]
        self.sessions.tell("user", "UserEvent", told, self.now)

    def change(self, channel: Channel, state: str) -> None:
        if channel.state == state:
            return
        channel.state = state
        self.on_device(channel.device)
        self.tell(channel, "ChannelStateChange")
        if channel.is_renamed:
            channel.is_renamed = False
            self.tell(channel, "ChannelCallerId", dict(PRESENTED))

    def order(self, channel: Channel, steps: Steps) -> None:
        """To a channel in an application; carried out when those before it are."""
        channel.orders.append(steps)
        self._wake(channel, ORDER)

    def stop(self, playback: Playback) -> None:
        """Its remaining media included."""
        playback.is_stopped = True
        self._wake(self.channels[playback.channel_id], ORDER)

    def _wake(self, channel: Channel, told: object) -> None:
        if channel.thread is not None:
            self.threads.wake(channel.thread, told)

    def _tell_endpoint(self, endpoint: str) -> None:
        if endpoint and self.apps.is_watched(endpoint, "EndpointStateChange"):
            self.apps.publish_endpoint(endpoint, self.endpoint(endpoint.removeprefix("PJSIP/")), self.now)

    def states_of(self, device: str) -> list[str]:
        """Of its channels."""
        return [channel.state for channel in self._by_device.get(device, ())]

    def plug(self, telephone: str, *, plugged: bool) -> None:
        """A telephone's cable: the PBX notices it at once. What talks goes on."""
        self.trunks[telephone] = replace(self.trunks[telephone], has_contact=plugged)
        self.on_device(f"PJSIP/{telephone}")

    def endpoint(self, name: str) -> Json:
        """As events and replies carry it."""
        channels = [one.id for one in self.channels.values() if one.endpoint == f"PJSIP/{name}"]
        state = "online" if self.trunks[name].has_contact else "offline"
        return {"technology": "PJSIP", "resource": name, "state": state, "channel_ids": channels}

    # A callee is called, and what he does is heard

    def invite(self, channel: Channel, dialled: str) -> None:
        """The INVITE to NUMBER@TRUNK leaves; from now on the callee acts."""
        number, _, name = dialled.partition("@")
        trunk = self.trunks[name or number]
        is_asked = ANSWER_AT_ONCE in channel.headers.get("Call-Info", "")
        callee = trunk.callee or self._callee_of(number, is_asked)
        seen = None
        if callee is None:
            callee = Callee(rings=False, sip_code=404)
        elif trunk.is_seen:
            caller = str(channel.connected["number"])
            seen = Seen(channel.protocol_id, number[-12:], number, caller, self.now)
            self.world.invited(seen)
            if not name:
                self.world.telephone(seen, channel.headers.get(ATTEMPT_HEADER, ""), asked=is_asked)
        channel.line = line = Line(self, channel, seen)
        line.thread = self.threads.start(self._paced(callee.deeds(line)))

    def come_in(self, channel: Channel, stay_seconds: float) -> None:
        """A channel from outside has its caller, who hangs up so long after now."""

        def deeds(line: Line) -> Iterator[float]:
            yield stay_seconds
            line.hang_up()

        caller = str(channel.caller["number"])
        seen = Seen(channel.protocol_id, caller[-12:], channel.exten, caller, self.now, answered_at=self.now)
        self.world.called(seen)
        channel.line = line = Line(self, channel, seen)
        line.thread = self.threads.start(self._paced(deeds(line)))

    def meet(self, one: Channel, other: Channel) -> None:
        """A caller and an agent are connected, and know to whom they talk."""
        lines = self._line_of(one), self._line_of(other)
        for mine, theirs in (lines, reversed(lines)):
            if mine is not None and theirs is not None:
                mine.meet(theirs)

    def _line_of(self, channel: Channel) -> Line | None:
        """Of a Local channel it is that of the leg which its other half dials."""
        legs = (
            each
            for each in self.channels.values()
            if channel.other is not None and each.dialer is channel.other
        )
        line: Line | None = channel.line or next((leg.line for leg in legs), None)
        return line

    def _paced(self, deeds: Iterator[float]) -> Script:
        for seconds in deeds:
            yield seconds / self.speed

    def ringing(self, channel: Channel) -> None:
        self.change(channel, "Ringing")
        self._dial_goes_on(channel, "RINGING")

    def progress(self, channel: Channel) -> None:
        self._dial_goes_on(channel, "PROGRESS")

    def answered(self, channel: Channel) -> None:
        self.change(channel, "Up")
        if channel.dialer is not None and channel.is_offer and channel.other is not None:
            self.connect(channel.dialer, channel.caller)
        elif channel.dialer is not None and not channel.is_offer:
            channel.exten = ""
            self.set_variable(channel.dialer, "DIALSTATUS", "ANSWER")
            self.set_variable(channel.dialer, "DIALEDPEERNAME", channel.name)
            self.set_variable(channel.dialer, "DIALEDPEERNUMBER", channel.dialled)
        self._dial_goes_on(channel, "ANSWER")
        self._wake(channel, ANSWERED)

    def key(self, channel: Channel, key: str, seconds: float) -> None:
        """It was let go; the near half of a Local channel hears it, too. What is being played makes it longer."""
        if channel.playbacks:
            seconds += HEARD_LATE_SECONDS
        body = {"digit": key, "duration_ms": round(seconds * 1000)}
        self.tell(channel, "ChannelDtmfReceived", body)
        if channel.dialer is not None and not channel.is_offer and channel.dialer.other is not None:
            self.tell(channel.dialer.other, "ChannelDtmfReceived", body)

    def rejected(self, channel: Channel, sip_code: int) -> None:
        channel.cause, channel.sip_code, channel.is_ending = cause_of(sip_code), sip_code, True
        self.tell(channel, "ChannelHangupRequest", {"cause": channel.cause, "tech_cause": sip_code})
        if channel.stasis is None:
            self._dial_goes_on(channel, "NOANSWER" if channel.is_offer else status_of(channel.cause))
        self._wake(channel, ENDED)

    def left(self, channel: Channel) -> None:
        """The callee has hung up."""
        self.hang_up(channel, NORMAL_CLEARING, {"cause": NORMAL_CLEARING})

    def _dial_goes_on(self, channel: Channel, status: str) -> None:
        """Told of the channel; and whoever dials it is told what he hears."""
        dialer = None if channel.is_offer else channel.dialer  # a queue goes on with its music
        if dialer is not None and status in TIMES:
            self.set_time(dialer, TIMES[status], self.now - channel.began_at)
        self.apps.publish_dial(channel, status, self.now)
        if dialer is not None:
            self.indicate(dialer, status)

    def set_time(self, channel: Channel, name: str, seconds: float) -> None:
        """As Dial() does: in whole seconds, and in milliseconds."""
        self.set_variable(channel, name, str(int(seconds)))
        self.set_variable(channel, f"{name}_MS", str(int(seconds * 1000)))

    def indicate(self, channel: Channel, status: str) -> None:
        """What the far half of a Local channel is told, the near one hears."""
        near = channel.other
        if near is None:
            return
        match status:
            case "RINGING":
                self.ringing(near)
            case "PROGRESS":
                self.progress(near)
            case "ANSWER":
                self.answered(near)

    def refuse(self, channel: Channel, status: str, cause: int) -> None:
        """Busy() and Congestion(): the far half says so, and the near one is given up without a cause."""
        channel.cause = cause
        self.change(channel, "Busy")
        near = channel.other
        if near is not None:
            self.apps.publish_dial(near, status, self.now)
            self._wake(near, ENDED)

    # The end

    def hang_up(self, channel: Channel, cause: int, request: Json | None = None) -> None:
        """From either side; `request` is what the event says of it. What is over already stays over."""
        if channel.is_ending or channel.id not in self.channels:
            return
        channel.is_ending, channel.cause = True, cause
        self._measure(channel)
        self.tell(channel, "ChannelHangupRequest", request or {"cause": SOFTLY, "soft": True})
        if channel.thread is None:
            self.destroy(channel)
        self._wake(channel, ENDED if channel.dialer is not None else HungUp())

    def destroy(self, channel: Channel) -> None:
        if self.channels.pop(channel.id, None) is None:
            return
        self._by_device[channel.device].discard(channel)
        self.on_device(channel.device)
        self._measure(channel)
        del self._ids[bisect_left(self._ids, channel.id.lower())]
        channel.app_name, channel.app_data = channel.runs
        if channel.endpoint and channel.sip_code is None:
            undialed = channel.line is None and channel.state == "Down"
            channel.sip_code = UNDIALED_CODE if undialed else invented_code(channel.cause)
        if channel.line is not None:
            channel.line.cut()
        if channel.other is not None:
            self._half_gone(channel.other, channel.cause)
        code: Json = {} if channel.sip_code is None else {"tech_cause": channel.sip_code}
        body = {"cause": channel.cause, "cause_txt": text_of(channel.cause), **code}
        self.tell(channel, "ChannelDestroyed", body)
        self.apps.gone(channel)
        self._tell_endpoint(channel.endpoint)

    def _measure(self, channel: Channel) -> None:
        """Of a sound that is none: what Asterisk says of it once, at the end."""
        if not channel.endpoint or channel.state != "Up" or "RTPAUDIOQOS" in channel.variables:
            return
        for name, value in MEASURED.items():
            self.set_variable(channel, name, value)
        if channel.dialer is not None:
            for name, value in MEASURED.items():
                self.set_variable(channel.dialer, f"{name}BRIDGED", value)

    def _half_gone(self, left: Channel, cause: int) -> None:
        """The other half of a Local channel is no more."""
        left.other = None
        if left.state == "Up" and not left.is_far:
            self.set_variable(left, "CHANLOCALSTATUS", "ANSWER")
        if left.state == "Up" or left.is_far:
            self.hang_up(left, left.cause or cause, {"cause": cause})
            return
        left.cause = cause
        if cause:
            self.apps.publish_dial(left, "NOANSWER" if left.is_offer else status_of(cause), self.now)
        self._wake(left, ENDED)

    def crash(self) -> None:
        """Every channel is gone, and nobody is told, not even the callees: they go on as if they talked."""
        for channel in self.channels.values():
            if channel.thread is not None:
                channel.thread.stop()
            if channel.line is not None:
                channel.line.lose()
                self._orphans.add(channel.line)
        self.channels.clear()
        self._by_device.clear()
        self.playbacks.clear()
        self._ids.clear()
        self.apps = Apps()

    def hang_up_everything(self) -> None:
        """Every call, and every callee whom a crash has forgotten."""
        for channel in [*self.channels.values()]:
            self.hang_up(channel, 0)
        for line in self._orphans:
            line.cut()
        self._orphans.clear()
