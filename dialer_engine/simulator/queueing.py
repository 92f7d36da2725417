"""Queue(): what it takes a caller to get an agent. Who is whose turn it is, and whom he may have, is in `queues`.

A caller waits and looks once a second whether it is his turn. Then one telephone after the other rings for him,
until one is answered or the time for it is over; after that he sleeps `retry` seconds.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from dialer_engine.simulator.channels import Channel, HungUp
from dialer_engine.simulator.exchange import ANSWERED, ENDED, NORMAL_CLEARING, Exchange, Place
from dialer_engine.simulator.queues import Caller, Member, Queues
from dialer_engine.simulator.scripts import Handler, Places, bridged, dialplan, wait

RECHECK_SECONDS = 1.0
TOO_SHORT_SECONDS = 0.5
"""What must be left of the time of the first telephone for another to be tried."""
CLOCK_SECONDS = 1e-6
"""What sums of floating instants may be short of a whole second."""
TIMEOUT, CONTINUE, NO_SUCH_QUEUE = "TIMEOUT", "CONTINUE", "UNKNOWN"
EMPTIED = ("ANSWEREDTIME", "ANSWEREDTIME_MS", "DIALEDTIME", "DIALEDTIME_MS", "QUEUEWAIT", "QUEUEWAIT_MS")
"""Variables, at its beginning."""


@dataclass(frozen=True, slots=True)
class Options:
    """What Queue() is given. `goes_on` (c): a channel does not end with its agent's call. `before_dial` (b) and
    `when_answered` (the last argument) are run on the agent's leg."""

    timeout: int | None = None
    goes_on: bool = False
    before_dial: Handler | None = None
    when_answered: Handler | None = None


class Queueing:
    """Runs Queue() for channels of the dialplan; `places` are those to which Local/ members lead."""

    def __init__(self, exchange: Exchange, queues: Queues, places: Places) -> None:
        self._exchange = exchange
        self._queues = queues
        self._places = places

    def run(self, channel: Channel, name: str, options: Options) -> Generator[float, Any, None]:
        """What became of it stands in QUEUESTATUS then."""
        exchange, queues = self._exchange, self._queues
        for variable in EMPTIED:
            exchange.set_variable(channel, variable, "")
        queue = queues.by_name.get(name)
        if queue is None:
            exchange.set_variable(channel, "QUEUESTATUS", NO_SUCH_QUEUE)
            return
        caller = queues.join(queue, channel, options.timeout)
        try:
            yield from self._serve(caller, options)
        except HungUp:
            if not caller.handled:
                queues.abandon(caller)
                queues.leave(caller)
            elif options.goes_on:
                exchange.set_variable(channel, "QUEUESTATUS", CONTINUE)
            raise
        if caller.handled and not options.goes_on:
            channel.cause = NORMAL_CLEARING
            raise HungUp
        if not caller.handled:
            queues.abandon(caller)
            queues.leave(caller)
        exchange.set_variable(channel, "QUEUESTATUS", CONTINUE if caller.handled else TIMEOUT)

    def _serve(self, caller: Caller, options: Options) -> Generator[float, Any, None]:
        """Until he has talked to an agent, or his time is over."""
        while True:
            while not self._queues.is_turn_of(caller):
                if self._queues.is_over(caller):
                    return
                yield from wait(self._exchange, RECHECK_SECONDS)
            if self._queues.is_over(caller):
                return
            caller.pending = True
            yield from self._offer(caller, options)
            caller.pending = False
            if caller.handled or self._queues.is_over(caller):
                return
            yield from wait(self._exchange, caller.queue.rules.retry)

    def _offer(self, caller: Caller, options: Options) -> Generator[float, Any, None]:
        """To one agent after the other, until one answers or the time of the first is over."""
        exchange, queues = self._exchange, self._queues
        until = exchange.now + self._ring_seconds(caller)
        penalty = caller.channel.variables.get("QUEUE_MAX_PENALTY", "")
        max_penalty = int(penalty) if penalty.isdecimal() else math.inf
        for member in queues.in_turn(caller.queue):
            if until - exchange.now <= TOO_SHORT_SECONDS:
                return
            if member.penalty > max_penalty or not queues.may_ring(member):
                continue
            queues.tried(member)
            leg = self._call(caller, member, options)
            if leg is None:
                queues.rung_out(member)
                continue
            began_at = exchange.now
            told = yield from self._answered(leg, member, until)
            rang = exchange.now - began_at
            if told == ANSWERED:
                if options.when_answered is not None:
                    options.when_answered(exchange, leg)
                yield from self._talk(caller, member, leg, int(rang + CLOCK_SECONDS))
                return
            seconds = round(rang) if told is None else int(exchange.now) - int(began_at)
            queues.refused(caller, member, leg, seconds)
            self._end(leg, member)

    def _ring_seconds(self, caller: Caller) -> float:
        rules = caller.queue.rules
        if caller.expires_at is None or rules.rings_out:
            return rules.timeout
        return min(rules.timeout, caller.expires_at - int(self._exchange.now))

    def _call(self, caller: Caller, member: Member, options: Options) -> Channel | None:
        """His telephone; None: it cannot be called, and nobody is told."""
        exchange, channel = self._exchange, caller.channel
        technology, _, resource = member.interface.partition("/")
        exten, _, context = resource.partition("/")[0].partition("@")
        if technology == "Local":
            leg = exchange.new_local(exchange.new_id(), exchange.new_id(), exten, context)
        elif resource in exchange.trunks and exchange.trunks[resource].has_contact:
            leg = exchange.new_call(exchange.new_id(), resource, resource)
        else:
            return None
        leg.is_offer, leg.dialer, leg.thread = True, channel, channel.thread
        leg.linked_id = channel.linked_id or channel.id
        exchange.introduce(leg, channel.connected, leg.connected, "AppQueue", at_once=True)
        exchange.inherit(channel, leg)
        exchange.set_variable(leg, "DIALEDPEERNUMBER", leg.dialled)
        leg.dialled = member.interface
        place = Place(leg.context, channel.exten)
        if options.before_dial is not None:
            leg.connected = channel.caller
            options.before_dial(exchange, leg)
        exchange.apps.publish_dial(leg, "", exchange.now)
        leg.connected = channel.caller  # known from the beginning, and noticed only when something else is told
        leg.context, leg.exten, leg.priority = place.context, place.exten, place.priority
        leg.app_name, leg.app_data = leg.runs
        self._queues.called(caller, member, leg)
        if leg.other is None:
            exchange.invite(leg, resource)
        else:
            self._run_far_half(leg, leg.other, Place(context, exten))
        return leg

    def _run_far_half(self, near: Channel, far: Channel, place: Place) -> None:
        far.linked_id = near.linked_id
        self._exchange.inherit(near, far)
        self._exchange.introduce(far, near.connected, near.caller, at_once=True)
        self._exchange.live(far, dialplan(self._exchange, far, place, self._places))

    def _answered(self, leg: Channel, member: Member, until: float) -> Generator[float, Any, object]:
        """ANSWERED, ENDED (by the agent), or None: the time is over."""
        exchange = self._exchange
        try:
            while (told := (yield until - exchange.now)) not in (ANSWERED, ENDED, None):
                pass
        except HungUp:
            exchange.apps.publish_dial(leg, "CANCEL", exchange.now, dialled="")
            exchange.apps.publish_dial(leg, "CANCEL", exchange.now)
            self._end(leg, member)
            raise
        if told is None:
            exchange.apps.publish_dial(leg, "NOANSWER", exchange.now, dialled="")
            exchange.apps.publish_dial(leg, "CANCEL", exchange.now)
        return told

    def _end(self, leg: Channel, member: Member) -> None:
        self._exchange.destroy(leg)
        self._queues.rung_out(member)

    def _talk(self, caller: Caller, member: Member, leg: Channel, rang: int) -> Generator[float, Any, None]:
        exchange, queues, since = self._exchange, self._queues, int(self._exchange.now)
        self._set_variables(caller, member, leg)
        queues.connected(caller, member, leg, rang)
        exchange.meet(caller.channel, leg)
        try:
            yield from bridged(exchange, caller.channel, leg)
        except HungUp:
            queues.completed(caller, member, leg, since, "caller")
            leg.cause = leg.cause or NORMAL_CLEARING
            exchange.destroy(leg)
            raise
        queues.completed(caller, member, leg, since, "agent")
        exchange.destroy(leg)

    def _set_variables(self, caller: Caller, member: Member, leg: Channel) -> None:
        """setinterfacevar and setqueueentryvar."""
        of_member = {
            "MEMBERINTERFACE": member.interface,
            "MEMBERNAME": member.name,
            "MEMBERCALLS": member.calls_taken,
            "MEMBERLASTCALL": member.last_call,
            "MEMBERPENALTY": member.penalty,
            "MEMBERDYNAMIC": 1,
            "MEMBERREALTIME": 0,
        }
        waited = int(self._exchange.now) - caller.since
        of_caller = {"QEHOLDTIME": waited, "QEORIGINALPOS": caller.original_position}
        for variables in (of_member, of_caller):
            for channel in (caller.channel, leg):
                for name, value in variables.items():
                    self._exchange.set_variable(channel, name, str(value))
