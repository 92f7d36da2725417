"""What is done on the wire, one small course per scenario.

A scenario is one course in one way: an answered call goes straight into the application (`app`), or as the daemon
does it into the shipped dialplan, which is heard through the trunk's endpoint (`dialplan`). Before the course its
application's socket is open, with the daemon's own event filter unless the scenario has another.

Scenarios run beside each other, those that take longest first. None may change anything that another one hears, and
nothing but the wire is used, so that all of them run on any PBX with the lab's trunks, dialplan and callees
(`tests.lab.number`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import quote
from zlib import crc32

from dialer_engine.ari.events import WANTED, WATCHED
from dialer_engine.ari.terms import HangupReason
from tests.lab import number

from .wire import Wire

Way = Literal["app", "dialplan"]
Course = Callable[[Wire], Awaitable[None]]

CODES = (
    401, 403, 404, 407, 408, 410, 480, 484, 485, 486, 487, 488,
    500, 501, 502, 503, 504, 600, 603, 604, 606, 607, 608,
)  # fmt: skip
REASONS: tuple[str, ...] = get_args(HangupReason)
CARRIER = "endpoint:PJSIP/carrier"
SETTLE_SECONDS = 0.4
"""After a course: what comes although all has ended comes within this time, and is recorded."""


@dataclass(frozen=True)
class Scenario:
    name: str
    course: Course
    way: Way
    allowed: tuple[str, ...] | None
    """The event filter; None: every event."""
    listens: bool
    """False: the course opens its sockets itself."""
    alone: bool
    """It cannot run beside others."""
    managed: str | None = None
    """The queues of which its AMI session is to hear; None: it has no such session."""

    @property
    def says(self) -> str:
        return " ".join((self.course.__doc__ or "").split())

    async def run(self, wire: Wire) -> None:
        wire.where = {"app": wire.app, "appArgs": ""}
        if self.way == "dialplan":
            wire.where = {"context": "dialer-answered", "extension": wire.app, "priority": 1}
        if self.managed is not None:
            await wire.manage(self.managed.split())
        if self.listens:
            await wire.listen(allowed=self.allowed)
            if self.way == "dialplan":
                await wire.subscribe(CARRIER)
        await self.course(wire)
        await asyncio.sleep(SETTLE_SECONDS)


SCENARIOS: dict[str, Scenario] = {}


def serial(name: str) -> int:
    """The same for a scenario for ever, so that its numbers do not change when others come or go."""
    return crc32(name.encode()) % 1000


def scenario(
    *ways: Way,
    allowed: tuple[str, ...] | None = WANTED,
    listens: bool = True,
    alone: bool = False,
    managed: str | None = None,
) -> Callable[[Course], Course]:
    """Make scenarios of a course: one for each way (`app` when none is given), named after it."""

    def register(course: Course) -> Course:
        name = course.__name__
        for way in ways or ("app",):
            full = name if way == "app" else f"{name}_{way}"
            SCENARIOS[full] = Scenario(full, course, way, allowed, listens, alone, managed)
        return course

    return register


# Sockets that come and go


@scenario(listens=False)
async def originate_without_a_socket(wire: Wire) -> None:
    """Asterisk takes it, rings the callee, and hangs up when he answers, without a word."""
    call = await wire.call("call", number.stays(0.3, wire.serial))
    await wire.state(call, "gone")
    await wire.ask("GET", f"/applications/{wire.app}")
    await wire.listen(allowed=WANTED)


async def _back(wire: Wire) -> None:
    await wire.listen("app again", allowed=WANTED)


@scenario("app", "dialplan")
async def socket_away_while_it_rings(wire: Wire) -> None:
    """Dropped and back before the answer: what comes then is heard."""
    call = await wire.ring("call", number.stays(3.0, wire.serial))
    await wire.drop()
    await wire.ask("GET", f"/applications/{wire.app}")
    await _back(wire)
    await wire.event(call, "StasisStart")
    await wire.hang_up(call)
    await wire.end(call)


@scenario()
async def socket_away_at_the_answer(wire: Wire) -> None:
    """An originate into the application is hung up when nobody is there."""
    call = await wire.ring("call", number.stays(2.0, wire.serial))
    await wire.drop()
    await wire.state(call, "gone")
    await wire.ask("GET", f"/channels/{call}")
    await _back(wire)
    await wire.ask("GET", f"/applications/{wire.app}")


@scenario("dialplan")
async def socket_away_and_waited_for(wire: Wire) -> None:
    """The shipped dialplan tries again and again. The filter outlives the socket, as the application does."""
    call = await wire.ring("call", number.stays(2.0, wire.serial))
    await wire.drop()
    await wire.state(call, "Up")
    await asyncio.sleep(0.6)  # it waits
    await wire.ask("GET", f"/applications/{wire.app}")
    await wire.listen("app again")
    await wire.event(call, "StasisStart")
    await wire.hang_up(call)
    await wire.end(call)


@scenario("dialplan")
async def socket_away_for_good(wire: Wire) -> None:
    """After six seconds the callee hears an apology; another application, which watches the trunk, hears of it."""
    watch = wire.name("watch", "w")
    await wire.listen("watch", app=watch, allowed=WANTED)
    await wire.subscribe(CARRIER, watch)
    call = await wire.ring("call", number.stays(2.0, wire.serial))
    await wire.event(call, "Dial", 2, dialstatus="RINGING")  # both sockets have heard it
    await wire.event(call, "ChannelStateChange", 2)
    await wire.drop()
    await wire.end(call)


@scenario("app", "dialplan")
async def socket_away_in_the_application(wire: Wire) -> None:
    """A channel in the application stays, without a second StasisStart; one that ends meanwhile ends unheard."""
    call = await wire.answered("call", number.stays(0.0, wire.serial))
    leaves = await wire.answered("leaves", number.answers(0.0, 1.5, wire.serial))
    playback = await wire.play(call, "play", "sound:beep")
    await wire.drop()
    await wire.state(leaves, "gone")
    await wire.ask("GET", f"/applications/{wire.app}")
    await wire.ask("GET", f"/playbacks/{playback}")
    await _back(wire)
    await wire.hang_up(call)
    await wire.end(call)


@scenario("app", "dialplan")
async def a_twin(wire: Wire) -> None:
    """A second socket under the same name takes the application; the first is told so, and hears no more."""
    call = await wire.answered("call", number.stays(0.0, wire.serial))
    await wire.listen("twin", allowed=WANTED)
    await wire.event(wire.app, "ApplicationReplaced")
    await wire.hang_up(call)
    await wire.end(call)
    await wire.drop("app")
    after = await wire.call("after", number.rejects(486, 0.0, wire.serial))
    await wire.end(after)


# Through a dialplan: Local/


async def _through(wire: Wire, context: str, callees: dict[str, str]) -> None:
    """Local/ channels to their end, the far halves subscribed to as the daemon does it when it does not watch all.

    A subscription comes after the call was made. What happens at the same time is heard by chance, so it comes later
    here, when all rings and nothing happens.
    """

    async def ringing(label: str, dialled: str, far: str) -> str:
        timeout = 6 if label == "rings" else 15
        call = await wire.call(label, f"Local/{dialled}@{context}/n", otherChannelId=far, timeout=timeout)
        await wire.state(call, "Ringing")
        return call

    far_halves = {label: wire.name(f"far {label}") for label in callees}
    calls = await asyncio.gather(*(ringing(label, callees[label], far) for label, far in far_halves.items()))
    await asyncio.sleep(SETTLE_SECONDS)
    for far in far_halves.values():
        await wire.subscribe(f"channel:{far}")
    for channel in (*calls, *far_halves.values()):
        await wire.state(channel, "gone")


@scenario("app", "dialplan")
async def local_halves(wire: Wire) -> None:
    """Both halves followed: answered, rejected after ringing, not reached."""
    callees = {str(code): number.rejects(code, 5.0, wire.serial) for code in (486, 404, 503)}
    callees |= {"answers": number.answers(5.0, 0.9, wire.serial), "rings": number.rings_out(wire.serial)}
    await _through(wire, "from-internal", callees)


@scenario("app", "dialplan")
async def local_halves_with_a_word(wire: Wire) -> None:
    """The dialplan has its own word for how the call went."""
    callees = {str(code): number.rejects(code, 5.0, wire.serial) for code in (486, 404, 503, 480)}
    callees |= {"answers": number.answers(5.0, 0.9, wire.serial)}
    await _through(wire, "from-internal-status", callees)


ALL_CHANNELS = "channel:"
"""A subscription to every channel of the PBX, and to nothing else, in contrast to subscribeAll."""


async def _watch(wire: Wire, allowed: tuple[str, ...] | None) -> None:
    watch = wire.name("watch", "w")
    await wire.listen("watch", app=watch, allowed=allowed)
    await wire.subscribe(ALL_CHANNELS, watch)


async def _local(wire: Wire, context: str, callees: dict[str, str]) -> None:
    calls, far_halves = [], []
    for label, dialled in callees.items():
        far_halves.append(wire.name(f"far {label}"))
        timeout = 1 if label == "rings" else 15
        endpoint = f"Local/{dialled}@{context}/n"
        calls.append(await wire.call(label, endpoint, otherChannelId=far_halves[-1], timeout=timeout))
    await wire.end(*calls, *far_halves)


def _all_kinds(wire: Wire) -> dict[str, str]:
    return {
        "answers": number.answers(0.3, 0.9, wire.serial),
        "busy": number.rejects(486, 0.3, wire.serial),
        "unknown": number.rejects(404, 0.0, wire.serial),
        "congested": number.rejects(503, 0.0, wire.serial),
        "rings": number.rings_out(wire.serial),
    }


@scenario("app", "dialplan")
async def local_watched(wire: Wire) -> None:
    """A second application hears all channels of the PBX, the leg to the carrier too."""
    await _watch(wire, WATCHED)
    await _local(wire, "from-internal", _all_kinds(wire))


@scenario("app", "dialplan")
async def local_watched_with_a_word(wire: Wire) -> None:
    """The same, and the dialplan has its own word for how the call went."""
    await _watch(wire, WATCHED)
    await _local(wire, "from-internal-status", _all_kinds(wire))


@scenario(allowed=None)
async def local_watched_unfiltered(wire: Wire) -> None:
    """Every event of an answered call and of a busy one through a dialplan."""
    await _watch(wire, None)
    callees = {"answers": number.answers(0.3, 0.9, wire.serial), "busy": number.rejects(486, 0.3, wire.serial)}
    await _local(wire, "from-internal", callees)


@scenario("dialplan", alone=True)
async def everything_watched(wire: Wire) -> None:
    """A second application hears everything of the PBX (subscribeAll)."""
    await wire.listen("watch", app=wire.name("watch", "w"), everything=True, allowed=WATCHED)
    await _local(wire, "from-internal", _all_kinds(wire))


@scenario(alone=True, allowed=None)
async def everything_watched_unfiltered(wire: Wire) -> None:
    """Every event of an answered call through a dialplan, bridges included."""
    await wire.listen("watch", app=wire.name("watch", "w"), everything=True)
    await _local(wire, "from-internal", {"answers": number.answers(0.3, 0.9, wire.serial)})


@scenario("dialplan")
async def local_hung_up_by_us(wire: Wire) -> None:
    """While it rings and after the answer."""
    await _watch(wire, WATCHED)
    far_rings, far_talks = wire.name("far rings"), wire.name("far talks")
    rings = await wire.ring(
        "rings", f"Local/{number.rings_out(wire.serial)}@from-internal/n", otherChannelId=far_rings
    )
    talks = await wire.answered(
        "talks", f"Local/{number.stays(0.2, wire.serial)}@from-internal/n", otherChannelId=far_talks
    )
    await wire.hang_up(rings, "no_answer")
    await wire.hang_up(talks)
    await wire.end(rings, far_rings, talks, far_talks)


@scenario()
async def local_without_a_name_for_its_far_half(wire: Wire) -> None:
    """Asterisk derives an id; and a context that does not exist ends by itself."""
    busy = number.rejects(486, 0.2, wire.serial)
    calls = [
        await wire.call("busy", f"Local/{busy}@from-internal/n"),
        await wire.call("nowhere", "Local/1@no-such-context"),
    ]
    await wire.end(*calls)


# Callees


@scenario("app", "dialplan")
async def answers_and_hangs_up(wire: Wire) -> None:
    """Rings, answers, talks, hangs up; and one who answers without ringing."""
    calls = await asyncio.gather(
        wire.call("rings", number.answers(0.3, 0.9, wire.serial)),
        wire.call("at once", number.answers(0.0, 0.9, wire.serial)),
    )
    await wire.end(*calls)


@scenario("app", "dialplan", allowed=None)
async def answers_unfiltered(wire: Wire) -> None:
    """Every event of a call that rings, is answered and hung up by the callee."""
    await wire.end(await wire.call("call", number.answers(0.3, 0.9, wire.serial)))


@scenario("app", "dialplan")
async def rejects_at_once(wire: Wire) -> None:
    """Every SIP code, without ringing before."""
    calls = [wire.call(str(code), number.rejects(code, 0.0, wire.serial)) for code in CODES]
    await wire.end(*await asyncio.gather(*calls))


@scenario("app", "dialplan")
async def rings_and_rejects(wire: Wire) -> None:
    """Every SIP code, after ringing."""
    calls = [wire.call(str(code), number.rejects(code, 0.3, wire.serial)) for code in CODES]
    await wire.end(*await asyncio.gather(*calls))


@scenario("app", "dialplan", allowed=None)
async def rejects_unfiltered(wire: Wire) -> None:
    """Every event of a call that is busy, and of one that is declined after ringing."""
    calls = await asyncio.gather(
        wire.call("busy", number.rejects(486, 0.0, wire.serial)),
        wire.call("declined", number.rejects(603, 0.3, wire.serial)),
    )
    await wire.end(*calls)


@scenario("app", "dialplan")
async def is_not_reached(wire: Wire) -> None:
    """Our own time-out, while it rings, before anything is heard, and while it rings in-band."""
    calls = await asyncio.gather(
        wire.call("rings", number.rings_out(wire.serial), timeout=1),
        wire.call("silent", number.never_rings(wire.serial), timeout=1),
        wire.call("in-band", number.rings_in_band(wire.serial), timeout=1),
    )
    await wire.end(*calls)


@scenario("app", "dialplan")
async def announces_and_rejects(wire: Wire) -> None:
    """An announcement as early media before the rejection."""
    calls = [wire.call(str(code), number.announces(code, 0.6, wire.serial)) for code in (404, 480, 503)]
    await wire.end(*await asyncio.gather(*calls))


@scenario("app", "dialplan")
async def machines_and_people(wire: Wire) -> None:
    """On the wire a machine looks like anybody; we hang up."""
    calls = await asyncio.gather(
        wire.answered("machine", number.machine(0.3, wire.serial)),
        wire.answered("person", number.says_hello(0.3, wire.serial)),
        wire.answered("listener", number.listens(ring=0.3, serial=wire.serial)),
    )
    for call in calls:
        await wire.hang_up(call)
    await wire.end(*calls)


@scenario("app", "dialplan")
async def presses_keys(wire: Wire) -> None:
    """Keys are told when they are let go."""
    call = await wire.answered("call", number.presses("109#", 0.5, 0.2, wire.serial))
    await wire.event(call, "ChannelDtmfReceived", digit="#")
    await wire.hang_up(call)
    await wire.end(call)


@scenario()
async def other_trunks(wire: Wire) -> None:
    """A second trunk; one that challenges us; an address that nobody listens on; a TCP port that is closed."""
    busy = number.rejects(486, 0.0, wire.serial)
    calls = await asyncio.gather(
        wire.call("second", f"PJSIP/{busy}@carrier2"),
        wire.call("challenged", f"PJSIP/{busy}@carrier-auth"),
        wire.call("nobody", f"PJSIP/{busy}@carrier-dead", timeout=1),
        wire.call("closed", f"PJSIP/{busy}@carrier-refused"),
    )
    await wire.end(*calls)


@scenario()
async def callers_and_variables(wire: Wire) -> None:
    """What an originate may carry: the caller's name and number in several spellings, arguments, variables."""
    callers = {"name": '"Žofie & co" <+420123>', "number": "123456789", "none": "", "bracketed": "<5>"}
    calls = []
    for label, caller in callers.items():
        dialled = number.rejects(486, 0.0, wire.serial)
        calls.append(await wire.call(label, dialled, callerId=caller, variables={"ONE": "1", "TWO": "a,b&c=ü"}))
    talk = number.answers(0.0, 0.7, wire.serial)
    calls.append(await wire.call("arguments", talk, appArgs="one,two three,,4"))
    await wire.end(*calls)


# We hang up


@scenario()
async def cancelled_while_ringing(wire: Wire) -> None:
    """Each reason that ARI knows."""
    calls = await asyncio.gather(*(wire.ring(reason, number.rings_out(wire.serial)) for reason in REASONS))
    for call, reason in zip(calls, REASONS, strict=True):
        await wire.hang_up(call, reason=reason)
    await wire.end(*calls)


@scenario()
async def cancelled_before_a_sign_of_life(wire: Wire) -> None:
    """Nothing but 100 Trying was heard: the SIP code is Asterisk's own."""
    dialled = number.never_rings(wire.serial)
    calls = await asyncio.gather(*(wire.call(reason, dialled) for reason in REASONS))
    await asyncio.gather(*(wire.event(call, "Dial", dialstatus="") for call in calls))
    await asyncio.sleep(0.3)  # the 100 tells nobody that it has come
    for call, reason in zip(calls, REASONS, strict=True):
        await wire.hang_up(call, reason=reason)
    await wire.end(*calls)


@scenario()
async def hung_up_after_the_answer(wire: Wire) -> None:
    """Each reason that ARI knows."""
    dialled = number.stays(0.0, wire.serial)
    calls = await asyncio.gather(*(wire.answered(reason, dialled) for reason in REASONS))
    for call, reason in zip(calls, REASONS, strict=True):
        await wire.hang_up(call, reason=reason)
    await wire.end(*calls)


@scenario("dialplan")
async def hung_up_by_us(wire: Wire) -> None:
    """While it rings, by the reasons that the daemon gives, and after the answer."""
    rings, waits = await asyncio.gather(
        wire.ring("normal", number.rings_out(wire.serial)),
        wire.ring("no answer", number.rings_out(wire.serial)),
    )
    talks = await wire.answered("talks", number.stays(0.0, wire.serial))
    await wire.hang_up(rings, reason="normal")
    await wire.hang_up(waits, reason="no_answer")
    await wire.hang_up(talks, reason="normal")
    await wire.end(rings, waits, talks)


@scenario()
async def hung_up_by_number(wire: Wire) -> None:
    """`reason_code` instead of a word; a word nobody knows; both; a channel that is gone."""
    call = await wire.ring("call", number.rings_out(wire.serial))
    await wire.hang_up(call, reason="boredom")
    await wire.hang_up(call, reason="busy", code="21")
    await wire.hang_up(call, code="21")
    await wire.end(call)
    await wire.hang_up(call)


# In the application


@scenario()
async def plays(wire: Wire) -> None:
    """One recording, several, numbers spelt; a second play waits for the first; the end of each is told."""
    call = await wire.answered("call", number.stays(0.0, wire.serial))
    played = [
        await wire.play(call, "one", "sound:beep"),
        await wire.play(call, "several", "sound:beep", "digits:12", "sound:silence/1"),
        await wire.play(call, "spelt", "number:21"),
        await wire.play(call, "letters", "characters:a1"),
    ]
    for playback in played:
        await wire.event(playback, "PlaybackFinished")
    await wire.hang_up(call)
    await wire.end(call)


@scenario(allowed=None)
async def plays_unfiltered(wire: Wire) -> None:
    """Every event of a play of two recordings, and of one that is cut short by the end of the call."""
    call = await wire.answered("call", number.stays(0.0, wire.serial))
    await wire.event(await wire.play(call, "two", "sound:beep", "sound:silence/1"), "PlaybackFinished")
    playback = await wire.play(call, "cut", "sound:vm-intro")
    await wire.event(playback, "PlaybackStarted")
    await wire.hang_up(call)
    await wire.end(call)


@scenario()
async def plays_what_is_missing(wire: Wire) -> None:
    """A file that is not there, alone and among others, a stored recording, and a kind of media that nobody knows:
    what is told of their ends, if anything is."""
    media = {
        "sound": ("sound:no-such-sound",),
        "among others": ("sound:beep", "sound:no-such-sound", "sound:beep"),
        "recording": ("recording:no-such-recording",),
        "unknown kind": ("smell:roses",),
    }
    labels = [f"to {label}" for label in media]
    calls = await asyncio.gather(*(wire.answered(label, number.stays(0.0, wire.serial)) for label in labels))
    playbacks = []
    for call, (label, missing) in zip(calls, media.items(), strict=True):
        playbacks.append(await wire.play(call, label, *missing))
        after = await wire.play(call, f"after {label}", "sound:beep")
        await wire.event(after, "PlaybackFinished")
    for playback in playbacks:
        await wire.ask("GET", f"/playbacks/{playback}")
        await wire.stop(playback)
    for call in calls:
        await wire.hang_up(call)
    await wire.end(*calls)


@scenario()
async def stops_a_play(wire: Wire) -> None:
    """A key ends a play with all its media, and another one begins; the second stop comes too late."""
    call = await wire.answered("call", number.presses("1", 1.0, 0.0, wire.serial))
    menu = await wire.play(call, "menu", *["sound:vm-intro"] * 3)
    await wire.ask("GET", f"/playbacks/{menu}")
    await wire.event(call, "ChannelDtmfReceived")
    await wire.stop(menu)
    await wire.event(menu, "PlaybackFinished")
    await wire.stop(menu)
    await wire.ask("GET", f"/playbacks/{menu}")
    await wire.event(await wire.play(call, "answer", "sound:beep"), "PlaybackFinished")
    await wire.hang_up(call)
    await wire.end(call)


@scenario()
async def stops_a_play_that_waits(wire: Wire) -> None:
    """The second of two is stopped before it began, then the first."""
    call = await wire.answered("call", number.stays(0.0, wire.serial))
    first = await wire.play(call, "first", "sound:vm-intro")
    second = await wire.play(call, "second", "sound:vm-intro")
    await asyncio.sleep(0.5)  # no event of the filter tells that the first has begun
    await wire.ask("GET", f"/playbacks/{second}")
    await wire.stop(second)
    await wire.stop(first)
    await wire.event(first, "PlaybackFinished")
    await wire.event(second, "PlaybackFinished")
    await wire.hang_up(call)
    await wire.end(call)


@scenario()
async def stops_what_is_spelt(wire: Wire) -> None:
    """Digits, numbers and letters while they are spelt, and a tone, which has no end of its own."""
    media = {
        "digits": "digits:123456",
        "number": "number:123456",
        "letters": "characters:abcdef",
        "tone": "tone:ring",
    }
    labels = [f"to {label}" for label in media]
    calls = await asyncio.gather(*(wire.answered(label, number.stays(0.0, wire.serial)) for label in labels))
    playbacks = []
    for call, (label, medium) in zip(calls, media.items(), strict=True):
        playbacks.append(await wire.play(call, label, medium))
    await asyncio.sleep(0.7)  # no event of the filter tells that they have begun
    for playback in playbacks:
        await wire.stop(playback)
    for playback in playbacks:
        await wire.event(playback, "PlaybackFinished")
    for call in calls:
        await wire.hang_up(call)
    await wire.end(*calls)


@scenario()
async def hung_up_while_it_plays(wire: Wire) -> None:
    """By the callee, and by us: one play runs and one waits."""
    left, ended = await asyncio.gather(
        wire.answered("left", number.answers(0.0, 1.5, wire.serial)),
        wire.answered("ended", number.stays(0.0, wire.serial)),
    )
    for call in (left, ended):
        await wire.play(call, f"{wire.labels[call]} runs", "sound:vm-intro")
        await wire.play(call, f"{wire.labels[call]} waits", "sound:vm-intro")
    await wire.end(left)
    await wire.hang_up(ended)
    await wire.end(ended)


@scenario()
async def plays_that_are_refused(wire: Wire) -> None:
    """To a channel that rings or is gone, without media, of an unknown kind; a playback nobody knows."""
    rings = await wire.ring("rings", number.rings_out(wire.serial))
    await wire.play(rings, "ringing", "sound:beep")
    await wire.hang_up(rings)
    await wire.end(rings)
    await wire.play(rings, "gone", "sound:beep")
    call = await wire.answered("call", number.stays(0.0, wire.serial))
    await wire.play(call, "nothing")
    await wire.play(call, "unknown kind", "smell:roses")
    await wire.play(call, "no kind", "beep")
    await wire.ask("GET", "/playbacks/never-begun")
    await wire.stop("never-begun")
    await asyncio.sleep(0.3)  # so that what a refused play may tell comes before the end
    await wire.hang_up(call)
    await wire.end(call)


@scenario("app", "dialplan")
async def goes_on_elsewhere(wire: Wire) -> None:
    """To a place that hangs up, and to one that is not there."""
    calls = await asyncio.gather(
        *(wire.answered(label, number.stays(0.0, wire.serial)) for label in ("there", "nowhere"))
    )
    for call, place in zip(calls, ("from-trunk", "no-such-context"), strict=True):
        body = {"context": place, "extension": "1234", "priority": 1}
        await wire.ask("POST", f"/channels/{call}/continue", body)
    await wire.end(*calls)
    await wire.ask("POST", f"/channels/{calls[0]}/continue", {"context": "from-trunk", "extension": "1234"})


@scenario(allowed=None)
async def goes_on_unfiltered(wire: Wire) -> None:
    """Every event of a call that leaves the application for the dialplan."""
    call = await wire.answered("call", number.stays(0.0, wire.serial))
    await wire.ask("POST", f"/channels/{call}/continue", {"context": "from-trunk", "extension": "1234"})
    await wire.end(call)


@scenario()
async def comes_back_to_the_application(wire: Wire) -> None:
    """From the application to the shipped dialplan, which gives it back with arguments of its own."""
    call = await wire.answered("call", number.stays(0.0, wire.serial))
    place = {"context": "dialer-answered", "extension": wire.app, "priority": 1}
    await wire.ask("POST", f"/channels/{call}/continue", place)
    await wire.event(call, "StasisStart", args=["answered"])
    await wire.hang_up(call)
    await wire.end(call)


@scenario("app", "dialplan")
async def variables(wire: Wire) -> None:
    """Set with the originate, one by one and many at once; functions; what is not there."""
    call = await wire.answered(
        "call", number.stays(0.0, wire.serial), variables={"ATTR_name": 'A "b" ž', "EMPTY": ""}
    )
    await wire.ask("POST", f"/channels/{call}/variable", {"variable": "ONE", "value": "1"})
    await wire.ask("POST", f"/channels/{call}/variables", {"variables": {"TWO": "a,b&c=ü", "THREE": ""}})
    for name in ("ATTR_name", "EMPTY", "ONE", "TWO", "THREE", "NEVER_SET", "CALLERID(num)", "NO_SUCH(1)"):
        await wire.ask("GET", f"/channels/{call}/variable", query={"variable": name})
    await wire.ask("GET", f"/channels/{call}/variable")
    await wire.ask("POST", f"/channels/{call}/variable", {"value": "1"})
    await wire.hang_up(call)
    await wire.end(call)
    await wire.ask("GET", f"/channels/{call}/variable", query={"variable": "ONE"})
    await wire.ask("POST", f"/channels/{call}/variable", {"variable": "ONE", "value": "1"})
    await wire.ask("POST", f"/channels/{call}/variables", {"variables": {"ONE": "1"}})


@scenario()
async def variables_while_it_rings(wire: Wire) -> None:
    """A channel that is not in the application yet has variables, too."""
    call = await wire.ring("call", number.rings_out(wire.serial))
    await wire.ask("POST", f"/channels/{call}/variable", {"variable": "ONE", "value": "1"})
    await wire.ask("POST", f"/channels/{call}/variables", {"variables": {"TWO": "2"}})
    await wire.ask("GET", f"/channels/{call}/variable", query={"variable": "ONE"})
    await wire.ask("POST", f"/channels/{call}/continue", {"context": "from-trunk", "extension": "1234"})
    await wire.hang_up(call)
    await wire.end(call)


# Created, then dialed


async def _create(wire: Wire, label: str, dialled: str, **more: object) -> str:
    channel = wire.name(label)
    body = {
        "endpoint": f"PJSIP/{dialled}@carrier",
        "app": wire.app,
        "appArgs": "",
        "channelId": channel,
        **more,
    }
    await wire.ask("POST", "/channels/create", body)
    await wire.event(channel, "StasisStart")
    return channel


@scenario()
async def created_and_dialed(wire: Wire) -> None:
    """The channel is in the application before it is dialed: answered, rejected, not reached."""
    answers = await _create(wire, "answers", number.answers(0.2, 0.9, wire.serial), variables={"ONE": "1"})
    rejects = await _create(wire, "rejects", number.rejects(486, 0.2, wire.serial))
    rings = await _create(wire, "rings", number.rings_out(wire.serial))
    await wire.ask("GET", f"/channels/{answers}/variable", query={"variable": "ONE"})
    for call in (answers, rejects):
        await wire.ask("POST", f"/channels/{call}/dial", {"timeout": 15})
    await wire.ask("POST", f"/channels/{rings}/dial", {"timeout": 1})
    await wire.end(answers, rejects, rings)


@scenario()
async def created_and_not_dialed(wire: Wire) -> None:
    """Hung up before it is dialed; and what cannot be created or dialed."""
    call = await _create(wire, "call", number.stays(0.0, wire.serial))
    await wire.ask("GET", f"/channels/{call}")
    await wire.hang_up(call)
    await wire.end(call)
    await wire.ask("POST", f"/channels/{call}/dial", {"timeout": 5})
    for endpoint in ("PJSIP/1@nocontact", "PJSIP/1@no-such-trunk", ""):
        body = {"endpoint": endpoint, "app": wire.app, "channelId": wire.name(f"to {endpoint or 'nobody'}")}
        await wire.ask("POST", "/channels/create", body)


# Refused


@scenario("app", "dialplan")
async def originates_that_are_refused(wire: Wire) -> None:
    """No such endpoint or technology, no contact, nothing, an id that is too long: no event tells of it."""
    for label, endpoint in {
        "no trunk": "PJSIP/1@no-such-trunk",
        "no contact": "PJSIP/1@nocontact",
        "no technology": "SMOKE/1",
        "no endpoint": "",
        "no resource": "PJSIP",
    }.items():
        await wire.call(label, endpoint)
    await wire.ask("POST", f"/channels/{'x' * 150}", {"endpoint": "PJSIP/1@carrier", **wire.where})


@scenario()
async def originates_that_lead_nowhere(wire: Wire) -> None:
    """Neither application nor extension; a caller that is not there; what is no JSON."""
    channel = wire.name("call")
    path, endpoint = f"/channels/{channel}", f"PJSIP/{number.rejects(486, 0.0, wire.serial)}@carrier"
    await wire.ask("POST", path, {"endpoint": endpoint})
    await wire.ask("POST", path, {"endpoint": endpoint, "context": "dialer-answered"})
    await wire.ask("POST", path, {"endpoint": endpoint, "app": wire.app, "originator": wire.name("nobody")})
    await wire.ask("POST", path, "{no json", headers={"Content-Type": "application/json"})
    await wire.ask("GET", path)


@scenario()
async def ids_that_are_taken(wire: Wire) -> None:
    """The same id, a prefix of it, another case, a longer one."""
    call = await wire.answered("call", number.stays(0.0, wire.serial))
    body = {"endpoint": f"PJSIP/{number.rejects(486, 0.0, wire.serial)}@carrier", **wire.where}
    for taken in (call, call[:-1], call.upper()):
        wire.labels.setdefault(taken, {call[:-1]: "shortened", call.upper(): "in capitals"}.get(taken, ""))
        await wire.ask("POST", f"/channels/{taken}", body)
    longer = f"{call}0"
    wire.labels[longer] = "longer"
    await wire.ask("POST", f"/channels/{longer}", body)
    await wire.end(longer)
    await wire.hang_up(call)
    await wire.end(call)
    await wire.ask("POST", f"/channels/{call}", body)
    await wire.event(call, "ChannelDestroyed", 2)


@scenario()
async def stale_conflicts(wire: Wire) -> None:
    """After one true 409 each later failure on the same connection is a 409; a success is one."""
    call = await wire.answered("call", number.stays(0.0, wire.serial))
    busy = f"PJSIP/{number.rejects(486, 0.0, wire.serial)}@carrier"
    async with wire.one_connection():
        await wire.call("before", "PJSIP/1@nocontact")
        await wire.ask("POST", f"/channels/{call}", {"endpoint": busy, **wire.where})
        await wire.call("after", "PJSIP/1@nocontact")
        made = await wire.call("made", busy)
        await wire.end(made)
        await wire.call("still", "PJSIP/1@no-such-trunk")
    await wire.call("elsewhere", "PJSIP/1@nocontact")
    await wire.hang_up(call)
    await wire.end(call)


@scenario()
async def strangers(wire: Wire) -> None:
    """Without a user, with a wrong password; a path and a method nobody knows."""
    await wire.ask("GET", "/asterisk/info", headers={"Authorization": "Basic ZGlhbGVyOndyb25n"})
    await wire.ask("GET", "/asterisk/info", headers={"Authorization": ""})
    await wire.ask("GET", "/no/such/path")
    await wire.ask("PATCH", "/channels")
    await wire.ask("GET", "/channels/none-of-that-id")


# What can be asked


@scenario("app", "dialplan")
async def asked_about_channels(wire: Wire) -> None:
    """A channel that rings, one in the application, one that is gone, and the list."""
    rings = await wire.ring("rings", number.rings_out(wire.serial))
    talks = await wire.answered("talks", number.stays(0.0, wire.serial))
    for call in (rings, talks):
        await wire.ask("GET", f"/channels/{call}")
    await wire.ask("GET", "/channels")
    await wire.ask("GET", f"/applications/{wire.app}")
    for call in (rings, talks):
        await wire.hang_up(call)
    await wire.end(rings, talks)
    await wire.ask("GET", f"/channels/{talks}")
    await wire.ask("GET", f"/applications/{wire.app}")


@scenario("dialplan", listens=False)
async def asked_about_a_channel_that_waits(wire: Wire) -> None:
    """Answered, in the shipped dialplan, and nobody there: the place where it waits."""
    call = await wire.call("call", number.stays(0.0, wire.serial))
    await wire.state(call, "Up")
    await asyncio.sleep(0.3)  # it is on its way to the place
    await wire.ask("GET", f"/channels/{call}")
    await wire.hang_up(call)
    await wire.state(call, "gone")


@scenario()
async def asked_about_applications(wire: Wire) -> None:
    """One without a filter, with one, with a nonsensical one; one that is not there; all."""
    other = wire.name("other", "w")
    await wire.listen("other", app=other)
    for app in (wire.app, other, "no-such-application"):
        await wire.ask("GET", f"/applications/{app}")
    await wire.ask("GET", "/applications")
    disallowed = {"disallowed": [{"type": "Dial"}]}
    bodies: list[object] = [disallowed, {"allowed": "Dial"}, {"allowed": []}, {}]
    for body in bodies:
        await wire.ask("PUT", f"/applications/{other}/eventFilter", body)
    await wire.ask("PUT", "/applications/no-such-application/eventFilter", disallowed)


@scenario()
async def user_events(wire: Wire) -> None:
    """Said to an application: ours, one that does not want them, one that is away, one that is not there, none."""
    watch = wire.name("watch", "w")
    await wire.listen("watch", app=watch, allowed=("Dial",))
    for app in (wire.app, watch):
        await wire.ask("POST", "/events/user/a-word", query={"application": app})
    await wire.subscribe(CARRIER, watch)
    await wire.drop("watch")
    for app in (watch, "no-such-application", ""):
        await wire.ask("POST", "/events/user/a-word", query={"application": app})
    await wire.ask("POST", "/events/user/a-word")
    await wire.ask("POST", "/events/user/another", {"application": wire.app, "variables": {"one": "1"}})
    await wire.ask("GET", "/events/user/a-word")


@scenario()
async def subscriptions(wire: Wire) -> None:
    """To what is there and what is not, twice, and given up again."""
    call = await wire.ring("call", number.rings_out(wire.serial))
    for source in (
        CARRIER,
        CARRIER,
        f"channel:{call}",
        "endpoint:PJSIP/nobody",
        "channel:nobody",
        "endpoint:SMOKE/1",
    ):
        await wire.subscribe(source)
    await wire.subscribe("nonsense")
    await wire.subscribe(CARRIER, "no-such-application")
    path = f"/applications/{wire.app}/subscription"
    for source in (CARRIER, CARRIER, "endpoint:PJSIP/nobody"):
        await wire.ask("DELETE", path, query={"eventSource": source})
    await wire.ask("GET", f"/applications/{wire.app}")
    await wire.hang_up(call)
    await wire.end(call)


@scenario()
async def asked_about_the_pbx(wire: Wire) -> None:
    """Who it is, in parts and as a whole; which places of the dialplan and which devices there are."""
    await wire.ask("GET", "/asterisk/info", query={"only": "status,system"})
    await wire.ask("GET", "/asterisk/info", query={"only": "status"})
    await wire.ask("GET", "/asterisk/info", query={"only": "nonsense"})
    await wire.ask("GET", "/asterisk/info")
    await wire.ask("GET", "/asterisk/ping")
    for device in (
        f"Local/{wire.app}@dialer-answered",
        f"Local/{wire.app}@no-such-context",
        "Local/1234@from-trunk",
        "Local/abc@from-trunk",
        "PJSIP/nobody",
        "nonsense",
    ):
        await wire.ask("GET", f"/deviceStates/{quote(device, safe='')}")
