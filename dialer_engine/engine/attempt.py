"""One attempt: the facts of a call, fed the moment its events arrive; what is done about them is the driver's.

What became of the call is read from the facts (`Attempt.call`, `said`, `stay`, `verdict`) by its owner when the
driver's task is done, however it is done: so a cancellation at any await, or before the first step, settles exactly
once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from dialer_engine.ari import (
    AriEvent,
    AriState,
    ChannelDestroyed,
    ChannelDtmfReceived,
    ChannelHangupRequest,
    ChannelSnapshot,
    ChannelStateChange,
    ChannelUserevent,
    Dial,
    HangupReason,
    PlaybackFinished,
    StasisEnd,
    StasisStart,
)
from dialer_engine.core import flow as flows
from dialer_engine.core.call import Call, Event, Phase
from dialer_engine.core.compliance import Number
from dialer_engine.core.model import AttemptId, Campaign, Due, Trunk
from dialer_engine.core.queued import Stay
from dialer_engine.core.told import Connected, Told

OTHER_SOCKET_SECONDS = 0.25
"""Two sockets have no order between them: so long what is late on one is waited for."""

EXTRA_EVENTS = ("ChannelHangupRequest",)
"""What the PBX port is to tell besides. It tells who gave up in a queue from whose time was over."""
QUEUE_EXIT = "queue-exit"
"""The first argument with which the shipped dialplan gives a call back."""
UNDER_WAY = frozenset({"", "RINGING", "PROGRESS", "PROCEEDING"})
"""Dial statuses of a leg that is neither up nor over."""


class Pbx(Protocol):
    """What the engine wants of Asterisk; `ari.Ari` is it, and the tests have one in memory."""

    @property
    def connected(self) -> bool: ...
    @property
    def state(self) -> AriState: ...
    async def originate(
        self,
        channel_id: str,
        *,
        endpoint: str,
        caller_id: str,
        timeout_seconds: float,
        other_channel_id: str | None = None,
    ) -> None: ...
    async def channel(self, channel_id: str) -> ChannelSnapshot | None: ...
    async def application_channels(self) -> list[str]: ...
    async def subscribe(self, source: str) -> None: ...
    async def hangup(self, channel_id: str, reason: HangupReason = "normal") -> bool: ...
    async def play(self, channel_id: str, media: Sequence[str], playback_id: str) -> None: ...
    async def stop_playback(self, playback_id: str) -> bool: ...
    async def is_playing(self, playback_id: str) -> bool: ...
    async def set_variables(self, channel_id: str, variables: Mapping[str, str]) -> None: ...
    async def get_variable(self, channel_id: str, name: str) -> str | None: ...
    async def continue_in_dialplan(self, channel_id: str, *, context: str, extension: str) -> None: ...


class Verdict(StrEnum):
    """What its owner has to do with an attempt whose task is done."""

    SETTLE = "SETTLE"
    RELEASE = "RELEASE"  # nothing was sent: due again exactly where it was
    LEAVE = "LEAVE"  # the daemon ends and the call goes on: the next start adopts it


@dataclass(slots=True, eq=False)
class Attempt:
    """One claimed contact and the facts of its call. The campaign is the one of the claim; edits come too late."""

    id: AttemptId
    campaign: Campaign
    run: int
    due: Due
    trunk: Trunk
    number: Number
    attributes: Mapping[str, object]
    flow: flows.Flow
    slot_at: float = 0.0  # by the loop's clock: not before this, so that rates are kept
    departure: Callable[[float], float] = float  # when it may really leave, once nothing forbids it
    adopted: bool = False
    call: Call = field(default_factory=Call)
    position: flows.Position | None = None
    flow_result: flows.FlowResult | None = None
    stay: Stay | None = None  # in a queue, once it was sent there
    agents_leg: str = ""  # the telephone that has answered in that queue
    given_back: str | None = None  # QUEUESTATUS of one that has come back, until that is taken into the facts
    returned: str | None = None  # and of one whose flow has still to go on with it
    over: bool = False  # it will not start after all, or has ended and AMI's last word is waited for
    announced: bool = False  # that it has reached an agent
    hangs_up: bool = False  # the callee, and not the dialplan
    verdict: Verdict = Verdict.SETTLE
    legs: dict[str, bool] = field(default_factory=dict)  # dialed by the far half of a Local/ channel; over?
    posting: bool = False  # the originate is out and unanswered
    looking: bool = False  # somebody asks Asterisk about it
    sought_at: float = float("-inf")  # when AMI's view of it was last doubted, by the loop's clock
    conversing: bool = False  # its flow runs, and knows better where it is
    heard_at: float = 0.0  # the last event, by the loop's clock
    heard: bool = False  # the trunk has shown that it works, or not
    answered_pbx_at: datetime | None = None  # by Asterisk's clock
    last_pbx_at: datetime | None = None  # of the last event, by its clock
    last_at: datetime | None = None  # when that was heard, by ours
    inbox: asyncio.Queue[flows.Event] = field(default_factory=asyncio.Queue)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    watch: Callable[[Attempt], None] = lambda _: None  # told after every change

    @property
    def far_id(self) -> str:
        """The id of the far half of a Local/ channel: as wide as ours, so that none is a prefix of another."""
        return f"f{self.id[1:]}"

    @property
    def said(self) -> flows.FlowResult | None:
        """What the flow came to; of a call that ended before its flow went on again, what was recorded."""
        if self.flow_result is None and self.position is not None:
            return flows.FlowResult.of(self.position)
        return self.flow_result

    @property
    def needs_agent(self) -> bool:
        """Has none taken it? From the claim on, in the IVR, in the queue, whether one is just rung for it or not; after
        an agent only if it is sent to a queue again."""
        call = self.call
        if self.over or call.ended:
            return False
        return call.phase is Phase.QUEUED or not (call.was_connected or call.phase is Phase.HANDED_OVER)

    def to_fields(self) -> dict[str, str]:
        """The facts as Redis keeps them beside the position."""
        return {**self.call.to_fields(), **(self.stay.to_fields() if self.stay else {})}

    def feed(self, event: Event, at: datetime, **facts: int | str | bool | None) -> bool:
        """Take what has happened into the facts and let the task look at them."""
        taken = self.call.feed(event, at, **facts)  # type: ignore[arg-type]
        if taken and event is Event.CONNECTED and self.stay is not None:
            self.stay.begin_talk(at)
        if taken and self.call.ended:
            self._tell_flow_of_end()
        self.changed.set()
        self.watch(self)
        return taken

    def give_up(self) -> None:
        """It will not start: no agent is kept for it."""
        self.over = True
        self.watch(self)

    def _tell_flow_of_end(self) -> None:
        """Keys come over another socket than the end of a Local/ channel: the last one gets a moment to arrive."""
        if self.trunk.is_local and self.call.entered:
            asyncio.get_running_loop().call_later(OTHER_SOCKET_SECONDS, self.inbox.put_nowait, flows.HungUp())
        else:
            self.inbox.put_nowait(flows.HungUp())

    # --- what ARI says ---

    def hear(self, event: AriEvent, at: datetime) -> None:
        """What Asterisk says about our channel, or about what is behind a Local/ one, as an event of the call."""
        if self.call.ended:
            return  # what two sockets hear is told twice
        self.last_pbx_at, self.last_at = event.at, at
        match event:
            case Dial():
                self._hear_dial(event, at)
            case ChannelStateChange():
                self._hear_state(event, at)
            case StasisStart() if event.channel.state == "Up":
                self._hear_entry(event, at)
            case ChannelDestroyed():
                self._hear_end(event, at)
            case ChannelUserevent(eventname="CALLSTATUS"):
                self.feed(Event.STATUS, at, value=str(event.fields.get("V", "")).strip()[:40] or None)
            case ChannelDtmfReceived() | PlaybackFinished():
                self.inbox.put_nowait(_for_flow(event))
            case StasisEnd():
                self._hear_exit()
            case ChannelHangupRequest():
                self.hangs_up = self.hangs_up or not event.soft
            case _:
                pass  # of no consequence for a call

    def _hear_state(self, event: ChannelStateChange, at: datetime) -> None:
        far = event.channel_id != self.id
        if event.channel.state == "Ringing":
            self.feed(Event.RINGING, at, far=far)
        elif event.channel.state == "Up" and not far:
            self._hear_answer(event.at, at)

    def _hear_answer(self, pbx_at: datetime | None, at: datetime) -> None:
        self.answered_pbx_at = self.answered_pbx_at or pbx_at
        self.feed(Event.ANSWERED, at)

    def _hear_entry(self, event: StasisStart, at: datetime) -> None:
        if self.call.is_away:
            is_ours = event.args[:1] == (QUEUE_EXIT,) and len(event.args) > 2
            self.given_back = event.args[2] if is_ours else ""
            if self.call.deaf:
                self.changed.set()  # more than that may have been missed: the driver asks
                return
            self.come_back(self.given_back, at)
        self.answered_pbx_at = (
            self.answered_pbx_at or event.at
        )  # the answer itself may come over another socket
        self.feed(Event.ENTERED, at)

    def _hear_exit(self) -> None:
        """It left our application: to where we sent it, or it is over."""
        if not self.call.is_away:
            self.inbox.put_nowait(flows.HungUp())

    def _hear_end(self, event: ChannelDestroyed, at: datetime) -> None:
        def end() -> None:
            if self.call.phase is Phase.QUEUED and not far:
                self._end_wait(at)
            self.feed(Event.GONE, at, cause=event.cause, sip_code=event.tech_cause, far=far)

        far = event.channel_id != self.id
        if event.channel_id in self.legs:
            self.legs[event.channel_id] = True
        elif event.channel_id == self.far_id and self.call.far_cause is not None:
            return  # a dialplan ends as it likes; the leg behind it knows the cause
        waits = self.call.far_cause is None or not all(self.legs.values())
        if self.trunk.is_local and not far and not self.call.was_answered and waits:
            # The leg behind it knows the cause, and its end may come a little later.
            asyncio.get_running_loop().call_later(OTHER_SOCKET_SECONDS, end)
        elif self.call.phase is Phase.QUEUED and not far:
            # AMI may still have to tell that an agent had him, or that his time was over.
            self.over = True
            self.watch(self)
            asyncio.get_running_loop().call_later(OTHER_SOCKET_SECONDS, end)
        else:
            end()

    def _hear_dial(self, event: Dial, at: datetime) -> None:
        far = event.channel_id != self.id
        match event.dialstatus:
            case "":
                self.feed(Event.DIALING, at, far=far)
            case "RINGING":
                self.feed(Event.RINGING, at, far=far)
            case "PROGRESS":
                self.feed(Event.PROGRESS, at, far=far)
            case "ANSWER":
                if not far:
                    self._hear_answer(event.at, at)
            case "PROCEEDING":
                pass
            case status:
                self.feed(Event.DIAL_ENDED, at, dial_status=status, far=far)

    # --- in a queue ---

    def head_for(self, queue: str, timeout_seconds: int, at: datetime) -> None:
        """It is to go there: whoever hangs up before, or cannot be sent, is lost. Said again it changes nothing."""
        if self.call.phase is not Phase.ANSWERED:
            return
        if self.stay is None:
            heard = self.position is not None and self.flow.has_played(self.position.path)
            since = at if heard else self.call.times.answered_at or at
            since_pbx = self._pbx_instant(at) if heard else self.answered_pbx_at
            self.stay = Stay(queue, timeout_seconds, since, at, since_pbx)
        elif self.stay.left_at is not None:  # it is back from the one before
            self.stay.go_on_in(queue, timeout_seconds, at)
        self.feed(Event.LEAVING, at)

    def leave_for(self, queue: str, timeout_seconds: int, at: datetime) -> None:
        """We are about to send it there; said again it changes nothing."""
        self.head_for(queue, timeout_seconds, at)
        if self.stay is not None and self.call.phase is Phase.ANSWERED:
            self.stay.sent_at = at
            self.feed(Event.LEFT, at)

    def _pbx_instant(self, at: datetime) -> datetime | None:
        """This instant by Asterisk's clock: what we do follows from what it told last."""
        if self.last_pbx_at is None or self.last_at is None:
            return None
        return self.last_pbx_at + (at - self.last_at)

    def hear_agents_leg(self, event: Dial, at: datetime) -> None:
        """ARI tells of the telephones that the queue rings for it, too: the connect is known without AMI.

        When one has answered, the others are cancelled; that says nothing of the one.
        """
        if self.call.phase is not Phase.QUEUED or self.stay is None:
            return
        if event.dialstatus == "ANSWER":
            self.agents_leg, self.stay.answered_at = event.peer.id, at
            self.stay.interface = event.peer.name.rpartition("-")[0]
        elif event.dialstatus not in UNDER_WAY and event.peer.id == self.agents_leg:
            self.stay.answered_at = None

    def hear_queue(self, told: Told, *, pbx_offset: timedelta) -> None:
        """What AMI says about it as a caller."""
        if self.stay is not None:
            self.stay.take(told, pbx_offset)
            # Told late, of one that is back or over, it says only who it was.
            if isinstance(told, Connected) and self.call.is_away:
                self.feed(Event.CONNECTED, told.at)
        self.watch(self)

    def come_back(self, queue_status: str, at: datetime, *, talked_seconds: float | None = None) -> None:
        """The queue gives it back, into our hands. Keys that were pressed there meant nothing.

        `talked_seconds`: with an agent, when that was asked because it was not heard.
        """
        self.inbox = asyncio.Queue()
        self.returned, self.given_back = queue_status, None
        if self.call.phase is Phase.QUEUED:
            if queue_status == "TIMEOUT":
                self.feed(Event.QUEUE_TIMED_OUT, at)
            elif queue_status == "CONTINUE":
                self.feed(Event.CONNECTED, (self.stay and self.stay.answered_at) or at)
        if self.stay is not None:
            self.stay.come_back(at, talked_seconds)

    def _end_wait(self, at: datetime) -> None:
        """It has ended in the queue, as far as AMI has told: with an agent after all, at its time-out, or before."""
        if self.stay is None:
            return
        if self.stay.answered_at is not None:
            self.feed(Event.CONNECTED, self.stay.answered_at)
        elif not self.hangs_up and self.stay.has_timed_out(at):
            self.feed(Event.QUEUE_TIMED_OUT, at)


def _for_flow(event: ChannelDtmfReceived | PlaybackFinished) -> flows.Event:
    if isinstance(event, ChannelDtmfReceived):
        return flows.Key(event.digit)
    return flows.Played(event.playback.id, ok=event.playback.state != "failed")
