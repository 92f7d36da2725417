"""What happens in a call centre, scenario by scenario; each has a queue and agents of its own, so that all can run at
once. The tests look at what they leave behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.chaos.proxy import Proxy
from tests.lab import number
from tests.lab.agents import name_of
from tests.lab.books import Books, books
from tests.lab.centre import Campaign, Centre, to_queue
from tests.lab.lab import CABLED
from tests.lab.recorder import TOLERANCE_SECONDS, Verdict
from tests.lab.soak import MESSAGE, MESSAGE_SECONDS, Soak
from tests.lab.world import now
from tests.rig import serial

SOAK_SECONDS = 40.0
STALE_SECONDS = 3.0
"""So old may the view of a queue be."""
PLAN_SECONDS = 7.0
"""The plan is told anew at least every 5 s, or when its limit changes."""
HOLD: dict[str, Any] = {
    "name": "hold",
    "start": "hold",
    "blocks": {"hold": {"type": "wait", "seconds": 120, "next": "bye"}, "bye": {"type": "hangup"}},
}


def stays(count: int, ring: float = 0.3) -> list[str]:
    """Callees who answer and stay until they are hung up."""
    return [number.stays(ring=ring, serial=serial()) for _ in range(count)]


def busy(count: int, ring: float = 0.4) -> list[str]:
    """Callees who let it ring and are busy: a flow of calls that never comes to an agent."""
    return [number.rejects(486, ring=ring, serial=serial()) for _ in range(count)]


def mixed(count: int) -> list[str]:
    """Three of five answer."""
    kinds = (stays, stays, busy, stays, busy)
    return [kinds[n % 5](1)[0] for n in range(count)]


@dataclass
class Played:
    """What a scenario leaves behind."""

    campaigns: list[Campaign]
    verdict: Verdict
    books: list[Books] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)  # instants
    told: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Notes:
    """Made while it is played."""

    marks: dict[str, float] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)


def _judge(here: Centre, *campaigns: Campaign) -> Verdict:
    """Of campaigns that share their agents."""
    calls = sorted((call for each in campaigns for call in here.calls(each)), key=lambda call: call.invited_at)
    return here.recorder.judge(calls, [each.watched for each in campaigns], sharing=[range(len(campaigns))])


# --- the ordinary day ---


def a_busy_minute(here: Centre) -> Played:
    campaign, kept, verdict = Soak(here, serial(), SOAK_SECONDS).run()
    return Played([campaign], verdict, [kept])


def ten_agents(here: Centre) -> Played:
    """A queue that wraps up 5 s: telephones that answer at once, that ring 3 s, that want to be asked, a Local/ one."""
    agents = [1001, 1002, 1003, 1004, 1005, 2001, 2002, 2003, 5001]
    here.staff.talk([*agents, 1006], (1.0, 2.5))
    here.staff.log_in("green", agents)
    here.staff.log_in("green", [1006], local=True)
    one = here.campaign("green", mixed(36), attributes={"city": "Brno"})
    here.rig.completed(one.id, 80)
    return Played([one], _judge(here, one), [books(here, one)])


def ten_agents_boosted(here: Centre) -> Played:
    """No wrap-up and a boost of 1.4, a telephone that is always busy, and a message before the queue."""
    agents = [*range(1011, 1018), 2004, 4001]
    here.staff.talk([*agents, 1018], (0.8, 2.0))
    here.staff.log_in("red", agents)
    here.staff.log_in("red", [1018], local=True)
    one = here.campaign("red", mixed(60), boost="1.4", flow=to_queue("red", before=MESSAGE))
    here.rig.completed(one.id, 80)
    return Played([one], _judge(here, one), [books(here, one, ivr_seconds=MESSAGE_SECONDS)])


def agents_go(here: Centre) -> Played:
    """Four agents: each goes in a way of his own, and three of them come back and go again, one after the other."""
    staff, (cabled, _) = here.staff, CABLED
    pauses, logs_off, talks = 1021, 1022, 1023
    staff.log_in("white", [pauses, logs_off, talks, cabled])
    one = here.campaign("white", busy(900), maxChannels=10, whenDone="wait")
    here.until(lambda: len(here.calls(one)) > 8, 10, "calls are made")
    played = _Notes()
    here.lab.unplug(cabled)
    staff.pause("white", pauses)
    staff.log_off("white", logs_off)
    staff.call_directly(talks, 18)
    here.until(lambda: _free(here, "white") == 0, 8, "nobody is free")
    played.marks["nobody"] = now()
    here.until(lambda: here.plan(one)["inputs"]["available"] == 0, PLAN_SECONDS, "the plan says so")
    played.told["plan"] = here.plan(one)
    ways: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "unpauses": (
            lambda: staff.pause("white", pauses, paused=False),
            lambda: staff.pause("white", pauses),
        ),
        "logs in": (lambda: staff.log_in("white", [logs_off]), lambda: staff.log_off("white", logs_off)),
        "plugs in": (lambda: here.lab.unplug(cabled, out=False), lambda: here.lab.unplug(cabled)),
    }
    for way, (comes, goes) in ways.items():
        here.until(lambda: here.rig.live(one.id) == 0, 5, "no line rings that would be for him")
        played.marks[f"before he {way}"] = now()
        comes()
        here.until(lambda: _free(here, "white") == 1, 8, way)
        played.marks[way] = now()
        here.dials_after(one, played.marks[way], 3)
        goes()
        here.until(lambda: _free(here, "white") == 0, 8, f"who {way} is gone again")
        played.marks["all gone again"] = now() + TOLERANCE_SECONDS
    here.dials_after(one, played.marks["all gone again"], 15)  # for who talked and has hung up
    here.lab.unplug(cabled, out=False)
    here.rig.command(one.id, "remove")
    here.until(lambda: here.rig.live(one.id) == 0, 10, "its last call has ended")
    return Played([one], _judge(here, one), marks=played.marks, told=played.told)


def _free(here: Centre, queue: str) -> int:
    return sum(row["Status"] == "1" and row["Paused"] == "0" for row in here.staff.members(queue))


def queue_is_full(here: Centre) -> Played:
    """Two callers from elsewhere wait, whom nobody will serve, though agents are free; then one gives up."""
    here.staff.log_in("black", [1024, 1025, 1026], penalty=5)
    for stay in (5.0, 25.0):
        here.staff.call_in("waits-black", stay)
    here.until(lambda: here.staff.waiting("black") == 2, 5, "two wait")
    one = here.campaign("black", busy(8))
    here.until(lambda: here.plan(one)["limit"] == "QUEUE_FULL", 3, "the plan says that the queue is full")
    plan = here.plan(one)
    here.rig.completed(one.id, 30)
    left = [event.at for event in here.recorder.events("QueueCallerAbandon") if event["Queue"] == "black"]
    return Played([one], _judge(here, one), marks={"one gives up": left[0]}, told={"plan": plan})


def agents_are_shared(here: Centre) -> Played:
    """Two campaigns, two queues, and two of the four agents in both."""
    agents = [1051, 1052, 1053, 1054]
    here.staff.talk(agents, (0.8, 1.5))
    here.staff.log_in("grey", agents[:3])
    here.staff.log_in("pink", agents[1:])
    two = [here.campaign("grey", mixed(20)), here.campaign("pink", mixed(20), priority=20)]
    for each in two:
        here.rig.completed(each.id, 60)
    return Played(two, _judge(here, *two), [books(here, each) for each in two])


def agents_are_gone_at_the_answer(here: Centre) -> Played:
    """Four calls ring when all agents pause: one waits in vain, one gives up, one is late, one leaves the message."""
    agents = [1032, 1033, 1034, 1035]
    here.staff.talk(agents, (1.0, 1.0))
    here.staff.log_in("navy", agents)
    vain, gives_up = number.stays(ring=1.5, serial=serial()), number.answers(1.5, 2.0, serial())
    late, leaves = number.stays(ring=1.5, serial=serial()), number.answers(1.5, 0.7, serial())
    in_vain = here.campaign("navy", [vain, gives_up], flow=to_queue("navy", timeout=3))
    too_late = here.campaign("navy", [late], flow=to_queue("navy", timeout=20))
    in_message = here.campaign("navy", [leaves], flow=to_queue("navy", before=MESSAGE))
    campaigns = [in_vain, too_late, in_message]
    here.until(lambda: sum(len(here.calls(each)) for each in campaigns) == 4, 10, "all ring")
    for extension in agents:
        here.staff.pause("navy", extension)
    here.rig.completed(in_vain.id, 20)
    here.rig.completed(in_message.id, 20)
    here.staff.pause("navy", agents[0], paused=False)
    here.rig.completed(too_late.id, 20)
    told = {"vain": vain, "gives up": gives_up, "late": late, "leaves": leaves}
    return Played(campaigns, _judge(here, *campaigns), [books(here, each) for each in campaigns], told=told)


def agents_say_how_it_was(here: Centre) -> Played:
    """While they wrap up by their telephone, by UserEvent and by the API; one by the API, too late for a rule."""
    agents = [1036, 1037, 1038, 1020]
    here.staff.talk(agents, (1.0, 1.5))
    here.staff.log_in("blue", agents)
    rules = [{"status": "TERMINATED", "extStatus": "AGAIN", "retryAfter": 0, "maxAttempts": 1}]
    four = [here.campaign("blue", stays(1), rescheduleRules=rules) for _ in range(4)]
    here.until(lambda: all(here.attempts(each) for each in four), 10, "four calls are made")
    by_telephone, by_event, by_api, later = first = [here.attempts(each)[0] for each in four]
    here.until(lambda: set(first) <= here.history().completed.keys(), 15, "they have talked")
    here.staff.dial(int(here.telephones()[by_telephone].number), "*71")
    here.staff.user_event("DISPOSITION", Uniqueid=by_event, V="AGAIN")
    told: dict[str, Any] = {"pending": here.dispose(by_api, "AGAIN")}
    here.until(lambda: here.results(four[3]), 20, "the last is settled")
    told |= {"amended": here.dispose(later, "SOLD"), "unknown": here.dispose("x" * len(later), "SOLD")}
    for each in four:
        here.rig.completed(each.id, 40)
    told["results"] = [here.results(each) for each in four]
    return Played(four, _judge(here, *four), told=told)


def through_a_local_trunk(here: Centre) -> Played:
    """As every FreePBX dials; callees who send sound, at which Asterisk optimises their channel away where it may."""
    agents = [1027, 1028]
    here.staff.talk(agents, (3.0, 4.0))
    here.staff.log_in("amber", agents)
    talkers = [number.says_hello(ring=0.3, serial=serial()) for _ in range(4)]
    hangs_up = number.answers(ring=0.3, talk=1.5, serial=serial())
    one = here.campaign("amber", [*talkers, hangs_up, *busy(1)], trunk="freepbx")
    here.rig.completed(one.id, 40)
    return Played([one], _judge(here, one), [books(here, one)], told={"talkers": talkers})


ORDINARY = (
    a_busy_minute,
    ten_agents,
    ten_agents_boosted,
    agents_go,
    queue_is_full,
    agents_are_shared,
    agents_are_gone_at_the_answer,
    agents_say_how_it_was,
    through_a_local_trunk,
)


# --- AMI's faults, and a kill -9 ---


def ami_is_lost(here: Centre, wire: Proxy) -> Played:
    """Cut, and then silent, while calls ring, one is in the IVR and one talks."""
    here.staff.log_in("lime", [1056, 1057])
    here.staff.log_in("teal", [1058])
    in_ivr, talks = here.phone_campaign(stays(1), HOLD), here.campaign("teal", stays(1))
    here.until(lambda: here.history().connected.keys() & set(here.attempts(talks)), 10, "one talks")
    one = here.campaign("lime", busy(2000), maxChannels=4, whenDone="wait")
    played = _Notes()
    faults: tuple[Literal["cut", "hold"], ...] = ("cut", "hold")
    for fault in faults:
        here.until(lambda: len(here.begun_after(one, now() - 1.0)) > 1, 10, "calls are made")
        played.marks[fault] = now()
        wire.set(fault)
        time.sleep(STALE_SECONDS + 2.0)
        played.told[fault] = here.plan(one)
        played.marks[f"{fault} is mended"] = now()
        wire.set("pass")
        here.dials_after(one, played.marks[f"{fault} is mended"])
    played.told["live"] = [here.calls(each)[-1] for each in (in_ivr, talks)]
    here.rig.command(one.id, "remove")
    here.rig.command(in_ivr.id, "remove")
    return Played([one, in_ivr, talks], _judge(here, one), marks=played.marks, told=played.told)


def daemon_is_killed(here: Centre) -> Played:
    """kill -9 while two talk and one waits; one agent hangs up before the daemon is back, the rest goes on after."""
    hangs_up, talks_on, pauses = agents = 1060, 1059, 1031
    here.staff.talk([pauses], (1.0, 1.0))
    here.staff.log_in("gold", agents)
    one = here.campaign("gold", [*stays(2, ring=1.0), *stays(1, ring=1.6)])
    here.until(lambda: len(here.calls(one)) == 3, 10, "three ring")
    here.staff.pause("gold", pauses)
    here.until(lambda: _phases(here, one) == ["CONNECTED", "CONNECTED", "QUEUED"], 10, "two talk, one waits")
    for extension in (hangs_up, talks_on):  # who waits is not for them
        here.staff.pause("gold", extension)
    here.rig.kill()
    killed_at = now()
    here.staff.hang_up(hangs_up)
    here.until(lambda: _completed_by(here, hangs_up), 10, "an agent hangs up meanwhile")
    time.sleep(0.5)  # the callee is hung up, too
    here.start_again()
    here.rig.until(lambda: here.rig.logged("recovered"), 20, "the daemon has found its calls")
    back_at = now()
    here.staff.hang_up(talks_on)
    here.staff.pause("gold", pauses, paused=False)
    here.rig.completed(one.id, 60)
    kept = books(here, one, nobody_listened=(killed_at, back_at))
    return Played([one], _judge(here, one), [kept], marks={"back": back_at})


def _phases(here: Centre, campaign: Campaign) -> list[str]:
    """Of its live calls, as they would survive the daemon."""
    live: Any = here.rig.redis.smembers(here.rig.key(f"campaign:{campaign.id}:live"))
    return sorted(
        str(here.rig.redis.hget(here.rig.key(f"attempt:{attempt}"), "phase")) for attempt in sorted(live)
    )


def _completed_by(here: Centre, extension: int) -> bool:
    return any(event["MemberName"] == name_of(extension) for event in here.recorder.events("AgentComplete"))


# --- FreePBX ---


def freepbx_hangs_up(here: Centre) -> Played:
    """Its queue gives nobody back: one talks, one waits its longest wait, one gives up."""
    agents = [1039, 1040, 1055]
    here.staff.talk(agents, (1.5, 1.5))
    here.staff.log_in("cyan", agents)
    talks, vain = number.stays(ring=1.0, serial=serial()), number.stays(ring=1.6, serial=serial())
    gives_up = number.answers(1.6, 2.0, serial())
    one = here.campaign("cyan", [talks, vain, gives_up], flow=to_queue("cyan", timeout=4))
    here.until(lambda: len(here.calls(one)) == 3, 10, "three ring")
    for extension in agents[1:]:
        here.staff.pause("cyan", extension)
    here.until(lambda: here.history().connected.keys() & set(here.attempts(one)), 10, "one talks")
    here.staff.pause("cyan", agents[0])
    here.rig.completed(one.id, 30)
    told = {"talks": talks, "vain": vain, "gives up": gives_up}
    kept = books(here, one, says_for_whom=False)
    return Played([one], _judge(here, one), [kept], told=told)
