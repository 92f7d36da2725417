"""Random requests at random times: whatever is asked of the model, what it tells must fit together."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dialer_engine.simulator import Agent, Refused
from dialer_engine.simulator.queues import QueueError
from tests.lab import number
from tests.sim.desk import Desk, Event
from tests.sim.told import Told

NUMBERS = [
    *(number.answers(ring, 0.8) for ring in (0.0, 0.4)),
    *(number.rejects(code, ring) for code in (404, 486, 503) for ring in (0.0, 0.3)),
    *(number.stays(0.0), number.stays(0.6), number.presses("19#", 0.5, 0.2)),
    *(number.rings_out(), number.never_rings(), number.rings_in_band(), number.announces(480, 0.5)),
    *("nobody", "1", "0155123456"),
]
PLACES = [
    {"app": "dialer"},
    {"app": "other"},
    {"app": "nobody-listens"},
    {"context": "dialer-answered", "extension": "dialer"},
    {"context": "from-trunk", "extension": "12"},
    {"context": "no-such-context", "extension": "1"},
    {"context": "dialer-queue", "extension": "red"},
    {"context": "dialer-queue", "extension": "green"},
    {"context": "dialer-queue", "extension": "no-such-queue"},
    {"context": "ext-queues", "extension": "red"},
]
QUEUES = ["red", "green", "shipped"]
MEMBERS = [
    *(f"PJSIP/{extension}" for extension in (1001, 1002, 2001, 3001, 4001, 6001, 9999)),
    *("Local/1003@from-queue/n", "Local/1001@from-queue/n", "Local/1@nowhere/n"),
]
VARIABLES = [
    {"ONE": "1"},
    {"DIALER_APP": "dialer", "__DIALER_ATTEMPT": "7"},
    {"DIALER_QUEUE_TIMEOUT": "2"},
]
ENDPOINTS = ["PJSIP/{}@carrier", "Local/{}@from-internal", "Local/{}@from-internal-status", "Local/{}@nowhere"]
MEDIA = ["sound:beep", "sound:no-such-sound", "recording:gone", "digits:12", "tone:ring", "smell:roses"]
APPS = ["dialer", "other"]


class Anything(RuleBasedStateMachine):
    """One ear hears everything (`watch`), others come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(None)
        self.desk.listen("watch", everything=True)
        self.told = Told()
        self.desk.pbx.sessions.ears.add(self.told.hear)
        for extension in ("1001", "1002", "1003"):
            self.desk.pbx.employ(self.desk.now, Agent(extension, (), talks=(0.2, 2.0)))
        self.ids: list[str] = ["never-made"]
        self.playbacks: list[str] = ["never-begun"]
        self.closers: dict[str, Any] = {}

    def ask(self, verb: str, *args: Any) -> None:
        """A refusal is an answer, too."""
        try:
            getattr(self.desk.pbx, verb)(self.desk.now, *args)
        except Refused as refused:
            assert 400 <= refused.status <= 500
        except QueueError as refused:
            assert str(refused)

    @rule(
        endpoint=st.builds(str.format, st.sampled_from(ENDPOINTS), st.sampled_from(NUMBERS)),
        place=st.sampled_from(PLACES),
        timeout=st.sampled_from([1, 5, 30]),
        verb=st.sampled_from(["originate", "create", "again"]),
        data=st.data(),
    )
    def call(self, endpoint: str, place: dict[str, str], timeout: int, *, verb: str, data: Any) -> None:
        name = data.draw(st.sampled_from(self.ids)) if verb == "again" else self.desk.new_id()
        asked = {"endpoint": endpoint, "timeout": timeout, **place}
        self.ids.append(name)
        if verb == "create":
            self.ask("create", {**asked, "channelId": name})
        else:
            self.ask("originate", name, asked)

    @rule(
        data=st.data(),
        verb=st.sampled_from(["hang_up", "dial", "go_on", "play", "set_variables", "stop", "follow"]),
    )
    def order(self, data: Any, verb: str) -> None:
        name = data.draw(st.sampled_from(self.ids))
        match verb:
            case "hang_up":
                self.ask("hang_up", name, {"reason": data.draw(st.sampled_from(["normal", "busy", "boredom"]))})
            case "play":
                playback = f"p{len(self.playbacks)}"
                self.playbacks.append(playback)
                self.ask(
                    "play", name, playback, {"media": data.draw(st.lists(st.sampled_from(MEDIA), max_size=3))}
                )
            case "go_on":
                self.ask("go_on", name, data.draw(st.sampled_from(PLACES[3:])))
            case "dial":
                self.ask("dial", name, {"timeout": 2})
            case "set_variables":
                self.ask("set_variables", name, data.draw(st.sampled_from(VARIABLES)))
            case "stop":
                self.ask("stop_playback", data.draw(st.sampled_from(self.playbacks)))
            case "follow":
                self.ask("subscribe", data.draw(st.sampled_from(APPS)), f"channel:{name}")

    @rule(
        queue=st.sampled_from(QUEUES),
        member=st.sampled_from(MEMBERS),
        verb=st.sampled_from(["add", "add", "remove", "pause", "unpause"]),
    )
    def staff(self, queue: str, member: str, verb: str) -> None:
        queues = self.desk.pbx.queues
        match verb:
            case "add":
                state = "hint:1003@ext-local" if "1003" in member else ""
                self.ask("act", lambda: queues.add(queue, member, "", state))
            case "remove":
                self.ask("act", lambda: queues.remove(queue, member))
            case _:
                self.ask("act", lambda: queues.pause(queue, member, "", paused=verb == "pause"))

    @rule(dialled=st.sampled_from(["red", "waits-green", "limited"]), stay=st.floats(0.1, 5.0))
    def call_in(self, dialled: str, stay: float) -> None:
        self.ask("call_in", dialled, "0155", stay)

    @rule(telephone=st.sampled_from(["1001", "6001"]), plugged=st.booleans())
    def cable(self, telephone: str, *, plugged: bool) -> None:
        self.desk.pbx.plug(self.desk.now, telephone, plugged=plugged)

    @rule(app=st.sampled_from(APPS))
    def open_or_close(self, app: str) -> None:
        close = self.closers.pop(app, None)
        if close is not None:
            close()
            self.desk.events.append({"type": "closed", "application": app})
        else:
            self.closers[app] = self.desk.listen(app)

    @rule(seconds=st.floats(0.01, 3.0))
    def wait(self, seconds: float) -> None:
        self.desk.run(seconds)

    @invariant()
    def what_lives_is_whole(self) -> None:
        live = [channel["id"] for channel in self.desk.pbx.channels(self.desk.now)]
        assert len(live) == len(set(live))
        created, destroyed = (self.count(kind) for kind in ("ChannelCreated", "ChannelDestroyed"))
        assert created - destroyed == Counter(live)

    @invariant()
    def what_is_told_of_queues_is_true(self) -> None:
        self.told.fits(self.desk.pbx)

    def count(self, kind: str) -> Counter[str]:
        return Counter(event["channel"]["id"] for event in self.watched() if event["type"] == kind)

    def watched(self) -> list[Event]:
        return [event for event in self.desk.events if event["application"] == "watch"]

    def teardown(self) -> None:
        self.desk.run(100)
        self.desk.pbx.hang_up_everything(self.desk.now)
        self.desk.run(100)
        assert not self.desk.pbx.channels(self.desk.now)
        assert self.desk.pbx.next_at is None
        self.told.fits(self.desk.pbx)
        assert not self.told.offers and not self.told.talks
        assert self.count("ChannelCreated") == self.count("ChannelDestroyed")
        assert all(seen.ended_at is not None for seen in self.desk.pbx.world.calls)
        stamps = [event["timestamp"] for event in self.watched()]
        assert stamps == sorted(stamps)
        lives: dict[str, list[Event]] = {}
        for event in self.watched():
            for key in ("channel", "peer"):
                if key in event:
                    lives.setdefault(event[key]["id"], []).append(event)
        for life in lives.values():
            self.a_life_is_in_order(life)
        for app in APPS:
            self.who_enters_leaves(app)

    def a_life_is_in_order(self, life: list[Event]) -> None:
        """Perhaps of several channels of one id, one after the other."""
        alive = False
        for event in life:
            kind = event["type"]
            assert alive != (kind == "ChannelCreated"), [each["type"] for each in life]
            alive = kind != "ChannelDestroyed"
        assert not alive

    def who_enters_leaves(self, app: str) -> None:
        """Before it enters again, unless nobody was there to hear it."""
        inside: set[str] = set()
        for event in self.desk.events:
            mine = event["application"] == app
            if mine and event["type"] == "closed":
                inside.clear()
            elif mine and event["type"] == "StasisStart":
                assert event["channel"]["id"] not in inside
                inside.add(event["channel"]["id"])
            elif event["type"] == "ChannelDestroyed" or (mine and event["type"] == "StasisEnd"):
                inside.discard(event["channel"]["id"])
        assert not inside


TestAnything = Anything.TestCase
TestAnything.settings = settings(
    max_examples=60, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow], deadline=None
)
