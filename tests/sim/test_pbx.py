"""The model under virtual time: every kind of callee, and every trap of the real one.

What is said of each event stands in tests/traces, recorded on the real Asterisk; here it is when, how often, to whom.
"""

from __future__ import annotations

from datetime import datetime

import pytest

from dialer_engine.simulator import Refused
from dialer_engine.simulator.world import World
from tests.lab import number
from tests.sim.desk import BEGIN, Desk, brief

DIALPLAN = {"context": "dialer-answered", "extension": "dialer"}
CARRIER = ("endpoint:PJSIP/carrier",)


def at(desk: Desk, channel_id: str, kind: str, **fields: object) -> list[float]:
    """Seconds since the beginning of the events of a type, with these fields, by their own stamps."""
    return [
        round(datetime.fromisoformat(event["timestamp"]).timestamp() - BEGIN, 3)
        for event in desk.of(channel_id, kind)
        if fields.items() <= event.items()
    ]


# Callees


def test_who_answers_and_talks() -> None:
    desk = Desk()
    call = desk.call(number.answers(ring=0.5, talk=3.0))
    desk.run(10)
    assert desk.story(call) == [
        *("Dial", "Ringing", "Dial RINGING", "Up", "Dial ANSWER", "Varset", "StasisStart"),
        *(["Varset"] * 5),
        *("HangupRequest", "StasisEnd", "Varset", "Destroyed"),
    ]
    assert desk.end(call) == (16, None)
    assert at(desk, call, "Dial") == [0.0, 0.0, 0.5]
    assert at(desk, call, "ChannelDestroyed") == [3.5]


@pytest.mark.parametrize(
    ("code", "cause", "status"),
    [
        *((486, 17, "BUSY"), (600, 17, "BUSY"), (404, 1, "NOANSWER"), (480, 19, "NOANSWER")),
        *((503, 34, "CONGESTION"), (599, 34, "CONGESTION"), (603, 21, "NOANSWER"), (608, 127, "NOANSWER")),
    ],
)
@pytest.mark.parametrize("ring", [0.0, 0.7])
def test_who_rejects(code: int, cause: int, status: str, ring: float) -> None:
    desk = Desk()
    call = desk.call(number.rejects(code, ring))
    desk.run(5)
    assert desk.end(call) == (cause, code)
    dials = [event["dialstatus"] for event in desk.of(call, "Dial")]
    assert dials == (["", "RINGING", status] if ring else ["", status])
    assert at(desk, call, "ChannelDestroyed") == [ring]


@pytest.mark.parametrize(
    ("dialled", "story"),
    [
        (number.rings_out(), ["Dial", "Ringing", "Dial RINGING", "Destroyed"]),
        (number.never_rings(), ["Dial", "Destroyed"]),
        (number.rings_in_band(), ["Dial", "Dial PROGRESS", "Destroyed"]),
    ],
)
def test_a_ring_time_out_is_ours_and_has_no_last_dial(dialled: str, story: list[str]) -> None:
    desk = Desk()
    call = desk.call(dialled, timeout=7)
    desk.run(60)
    assert desk.story(call) == story
    assert desk.end(call) == (19, 480)
    assert at(desk, call, "ChannelDestroyed") == [7.0]
    (seen,) = desk.pbx.world.calls
    assert (seen.ended_at, seen.ended_by) == (BEGIN + 7, "pbx")


def test_a_timeout_of_zero_is_thirty_seconds_and_of_minus_one_is_none() -> None:
    desk = Desk()
    default, patient = (desk.call(number.rings_out(), timeout=timeout) for timeout in (0, -1))
    desk.run(300)
    assert at(desk, default, "ChannelDestroyed") == [30.0]
    assert not desk.of(patient, "ChannelDestroyed")


def test_an_announcement_before_the_rejection() -> None:
    desk = Desk()
    call = desk.call(number.announces(404, seconds=1.5))
    desk.run(5)
    assert [event["dialstatus"] for event in desk.of(call, "Dial")] == ["", "PROGRESS", "NOANSWER"]
    assert desk.end(call) == (1, 404)


def test_keys_are_told_when_they_are_let_go() -> None:
    desk = Desk()
    call = desk.call(number.presses("59#", after=1.0, ring=0.5))
    desk.run(5)
    keys = desk.of(call, "ChannelDtmfReceived")
    assert [event["digit"] for event in keys] == ["5", "9", "#"]
    assert at(desk, call, "ChannelDtmfReceived") == [1.72, 2.24, 2.76]
    (seen,) = desk.pbx.world.calls
    assert [(key, round(pressed - BEGIN, 2)) for key, pressed in seen.keys] == [
        ("5", 1.5),
        ("9", 2.02),
        ("#", 2.54),
    ]


def test_a_machine_and_who_listens_stay_until_we_hang_up() -> None:
    desk = Desk()
    calls = [
        desk.call(each) for each in (number.machine(), number.says_hello(), number.stays(), number.listens())
    ]
    desk.run(3000)
    assert not any(desk.of(call, "ChannelDestroyed") for call in calls)
    for call in calls:
        desk.pbx.hang_up(desk.now, call, {"reason": "normal"})
        assert desk.end(call) == (16, None)
    assert {seen.ended_by for seen in desk.pbx.world.calls} == {"pbx"}


def test_speed_is_of_callees_and_sounds_and_not_of_our_patience() -> None:
    desk = Desk(speed=10)
    talks, rings = desk.call(number.answers(ring=2.0, talk=20.0)), desk.call(number.rings_out(), timeout=3)
    desk.run(60)
    assert at(desk, talks, "StasisStart") == [0.2]
    assert at(desk, talks, "ChannelDestroyed") == [2.2]
    assert at(desk, rings, "ChannelDestroyed") == [3.0]


def test_a_broken_carrier_rejects_everybody_of_its_prefix() -> None:
    desk = Desk()
    desk.pbx.broken["099"] = 503
    broken, other = (desk.call(prefix + number.answers(0.1, 0.7)) for prefix in ("099", "098"))
    desk.run(5)
    assert (desk.end(broken), desk.end(other)) == ((34, 503), (16, None))
    assert [seen.dialled for seen in desk.pbx.world.calls] == [
        "099" + number.answers(0.1, 0.7),
        "098" + number.answers(0.1, 0.7),
    ]
    del desk.pbx.broken["099"]
    mended = desk.call("099" + number.answers(0.1, 0.7))
    desk.run(5)
    assert desk.end(mended) == (16, None)


def test_what_comes_from_outside_breaks_no_line_of_the_log() -> None:
    lines: list[str] = []
    desk = Desk(world=World(write=lines.append))
    desk.call("12|34", callerId="55|66\r\n77")
    assert lines[0].split("|")[3:] == ["12?34", "55?66??77\n"]


# What becomes of an answer


def test_an_answered_call_that_finds_no_application_is_hung_up_in_silence() -> None:
    desk = Desk()
    call = desk.call(number.stays(ring=1.0))
    desk.ear()
    desk.run(5)
    assert desk.story(call) == ["Dial", "Ringing", "Dial RINGING"]
    (seen,) = desk.pbx.world.calls
    assert (seen.answered_at, seen.ended_at, seen.ended_by) == (BEGIN + 1, BEGIN + 1, "pbx")


@pytest.mark.parametrize("away", [1.0, 5.9])
def test_in_the_shipped_dialplan_it_waits(away: float) -> None:
    desk = Desk()
    call = desk.waiting(number.stays(ring=1.0))
    desk.ear()
    desk.run(1.0 + away)
    assert not desk.of(call, "StasisStart")
    desk.listen("dialer")
    desk.run(0.25)
    (start,) = desk.of(call, "StasisStart")
    assert start["args"] == ["answered"]


def test_after_six_seconds_the_callee_hears_an_apology() -> None:
    desk = Desk(None)
    desk.listen("watch", everything=True)
    call = desk.waiting(number.stays(ring=1.0))
    desk.run(30)
    assert at(desk, call, "ChannelUserevent") == [7.0]
    assert at(desk, call, "ChannelDestroyed") == [11.16]  # im-sorry, please-try-call-later, goodbye
    assert not desk.of(call, "StasisStart")


def test_what_was_told_while_nobody_listened_is_lost() -> None:
    """The channel stays in the application, and what comes later is told to whoever connects."""
    desk = Desk()
    call = desk.call(number.presses("12", after=1.0, ring=0.0))
    desk.run(1.5)
    desk.ear()
    desk.run(1)
    desk.listen("dialer")
    desk.pbx.hang_up(desk.now, call, {})
    assert [event["digit"] for event in desk.of(call, "ChannelDtmfReceived")] == ["1"]
    assert desk.story(call)[-3:] == ["StasisEnd", "Varset", "Destroyed"]
    assert len(desk.of(call, "StasisStart")) == 1


# Who hears what


def test_a_dialplan_originate_is_heard_by_nobody_before_the_answer() -> None:
    desk = Desk()
    rejected, answered = desk.waiting(number.rejects(486)), desk.waiting(number.answers(0.5, 0.7))
    desk.run(5)
    assert not desk.of(rejected)
    assert "Destroyed" not in desk.story(answered)
    assert desk.story(answered)[0] == "StasisStart"


def test_whoever_is_heard_twice_presses_every_key_twice_to_the_byte() -> None:
    desk = Desk(sources=CARRIER)
    call = desk.waiting(number.presses("12", after=0.5, ring=0.0))
    desk.run(5)
    keys = desk.of(call, "ChannelDtmfReceived")
    assert [event["digit"] for event in keys] == ["1", "1", "2", "2"]
    assert keys[0] == keys[1]


def test_an_application_without_socket_and_subscriptions_is_forgotten_and_its_filter_with_it() -> None:
    desk = Desk()
    desk.pbx.filter(desk.now, "dialer", {"allowed": [{"type": "StasisStart"}]})
    call = desk.call(number.stays(0.0))
    desk.ear()
    assert desk.pbx.application(desk.now, "dialer")["channel_ids"] == [call]
    reconnected = desk.listen("dialer")
    assert desk.pbx.application(desk.now, "dialer")["events_allowed"]
    desk.pbx.hang_up(desk.now, call, {})
    reconnected()
    with pytest.raises(Refused):
        desk.pbx.application(desk.now, "dialer")


def test_a_twin_takes_the_application_and_the_first_hears_no_more() -> None:
    desk = Desk()
    call = desk.call(number.stays(0.0))
    mine, desk.events = desk.events, []
    twin = Desk.listen(desk, "dialer")
    assert [brief(event) for event in desk.events] == ["ApplicationReplaced"]
    desk.ear()  # the first one's socket closes, late
    desk.pbx.hang_up(desk.now, call, {})
    assert "StasisEnd" in desk.story(call)
    assert "StasisEnd" not in [event["type"] for event in mine]
    twin()


# Orders


def test_plays_wait_for_each_other_and_going_on_waits_for_them() -> None:
    desk = Desk()
    call = desk.call(number.stays(0.0))
    for name in ("one", "two"):
        desk.pbx.play(desk.now, call, name, {"media": ["sound:beep", "sound:hello-world"]})
    desk.pbx.go_on(desk.now, call, {"context": "from-trunk", "extension": "12"})
    desk.run(10)
    assert at(desk, call, "PlaybackFinished") == [1.86, 3.72]
    assert at(desk, call, "ChannelDestroyed") == [3.72]
    assert desk.end(call) == (21, 403)


def test_a_stopped_play_ends_at_once_with_all_its_media() -> None:
    desk = Desk()
    call = desk.call(number.stays(0.0))
    desk.pbx.play(desk.now, call, "menu", {"media": ["sound:hello-world"] * 30})
    desk.run(2)
    desk.pbx.stop_playback(desk.now, "menu")
    assert at(desk, call, "PlaybackFinished") == [2.0]
    with pytest.raises(Refused):
        desk.pbx.stop_playback(desk.now, "menu")


@pytest.mark.parametrize("medium", ["digits:12345", "number:12", "characters:ab"])
def test_what_is_spelt_cannot_be_stopped(medium: str) -> None:
    desk = Desk()
    call = desk.call(number.stays(0.0))
    desk.pbx.play(desk.now, call, "spelt", {"media": [medium]})
    with pytest.raises(Refused) as refused:
        desk.pbx.stop_playback(desk.now, "spelt")
    assert refused.value.status == 500
    desk.run(30)
    assert desk.of(call, "PlaybackFinished")


def test_of_a_recording_that_is_not_there_nobody_tells_the_end() -> None:
    desk = Desk()
    call = desk.call(number.stays(0.0))
    desk.pbx.play(desk.now, call, "gone", {"media": ["recording:no-such-recording"]})
    desk.pbx.play(desk.now, call, "missing", {"media": ["sound:no-such-sound"]})
    desk.run(30)
    finished = [
        (event["playback"]["id"], event["playback"]["state"]) for event in desk.of(call, "PlaybackFinished")
    ]
    assert finished == [("missing", "failed")]
    with pytest.raises(Refused):
        desk.pbx.playback(desk.now, "gone")


def test_a_hang_up_ends_what_plays_and_what_waits() -> None:
    desk = Desk()
    call = desk.call(number.answers(0.0, 0.7))
    for name in ("plays", "waits"):
        desk.pbx.play(desk.now, call, name, {"media": ["sound:demo-congrats"]})
    desk.run(5)
    finished = [
        (event["playback"]["id"], event["playback"]["state"]) for event in desk.of(call, "PlaybackFinished")
    ]
    assert finished == [("plays", "failed"), ("waits", "failed")]
    with pytest.raises(Refused):
        desk.pbx.playback(desk.now, "waits")


def test_created_then_dialed() -> None:
    desk = Desk()
    asked = {"endpoint": f"PJSIP/{number.stays(0.5)}@carrier", "app": "dialer", "channelId": "made"}
    desk.pbx.create(desk.now, asked)
    assert desk.of("made", "StasisStart")[0]["channel"]["state"] == "Down"
    desk.run(3)
    desk.pbx.dial(desk.now, "made", {"timeout": 10})
    desk.run(1)
    assert desk.story("made")[-5:] == ["Dial", "Ringing", "Dial RINGING", "Up", "Dial ANSWER"]
    desk.pbx.create(desk.now, {**asked, "endpoint": f"PJSIP/{number.rings_out()}@carrier", "channelId": "lost"})
    desk.pbx.dial(desk.now, "lost", {"timeout": 2})
    desk.run(2)
    assert desk.end("lost") == (19, 480)


# Local channels


def test_the_near_half_hides_what_the_carrier_said_and_the_far_one_has_it() -> None:
    desk = Desk()
    for code, near, far in ((486, 0, 17), (404, 0, 34), (480, 19, 19)):
        name = desk.new_id()
        endpoint = f"Local/{number.rejects(code, 0.5)}@from-internal"
        desk.pbx.originate(
            desk.now, name, {"endpoint": endpoint, "app": "dialer", "otherChannelId": f"far{code}"}
        )
        desk.run(10)
        assert desk.end(name) == (near, None)
        assert desk.end(f"far{code}") == (far, None)


def test_an_answered_local_call_ends_with_either_end() -> None:
    desk = Desk()
    endpoint = "Local/{}@from-internal"
    by_callee, by_us = desk.new_id(), desk.new_id()
    for name, dialled in ((by_callee, number.answers(0.5, 0.7)), (by_us, number.presses("7", 0.5, 0.0))):
        desk.pbx.originate(desk.now, name, {"endpoint": endpoint.format(dialled), "app": "dialer"})
    desk.run(5)
    assert desk.end(by_callee) == (16, None)
    assert [event["digit"] for event in desk.of(by_us, "ChannelDtmfReceived")] == ["7"]
    desk.pbx.hang_up(desk.now, by_us, {})
    assert desk.end(by_us) == (16, None)
    assert not desk.pbx.channels(desk.now)
    assert [seen.ended_by for seen in desk.pbx.world.calls] == ["world", "pbx"]


# Refusals


def test_an_id_may_not_be_the_beginning_of_a_live_one_in_whatever_case() -> None:
    desk = Desk()
    endpoint = f"PJSIP/{number.stays(0.0)}@carrier"
    desk.pbx.originate(desk.now, "prefixed1", {"endpoint": endpoint, "app": "dialer"})
    for taken in ("prefixed1", "prefixed", "PREFIXED"):
        with pytest.raises(Refused) as refused:
            desk.pbx.originate(desk.now, taken, {"endpoint": endpoint, "app": "dialer"})
        assert refused.value.status == 409
    desk.pbx.originate(desk.now, "prefixed12", {"endpoint": endpoint, "app": "dialer"})


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"endpoint": "PJSIP/1@nocontact", "app": "dialer"}, 500),
        ({"endpoint": "PJSIP/1@no-such-trunk", "app": "dialer"}, 500),
        ({"endpoint": "SMOKE/1", "app": "dialer"}, 500),
        ({"endpoint": "", "app": "dialer"}, 400),
        ({"endpoint": "PJSIP/1@carrier"}, 400),
        ({"endpoint": "PJSIP/1@carrier", "app": "dialer", "timeout": "soon"}, 400),
        ({"endpoint": "PJSIP/1@carrier", "app": "dialer", "variables": {"ONE": 1}}, 400),
        ({"endpoint": "PJSIP/1@carrier", "app": "dialer", "variables": "ONE"}, 400),
        ({"endpoint": "PJSIP/1@carrier", "extension": "x", "priority": "first"}, 400),
        ({"endpoint": "Local/12@from-internal", "app": "dialer", "otherChannelId": "X"}, 409),
        ({"endpoint": "PJSIP/1@carrier", "app": "dialer", "originator": "nobody"}, 400),
    ],
)
def test_what_is_refused_leaves_nothing_behind(asked: dict[str, object], status: int) -> None:
    desk = Desk()
    with pytest.raises(Refused) as refused:
        desk.pbx.originate(desk.now, "x", asked)
    assert refused.value.status == status
    assert not desk.pbx.channels(desk.now)
    assert not desk.events


# The PBX as a whole


def test_a_restart_loses_every_channel_without_a_word_and_the_callees_talk_on() -> None:
    desk = Desk()
    before = desk.pbx.startup_time
    desk.call(number.answers(0.0, 3.0))
    desk.call(number.stays(0.0))
    desk.run(1)
    heard = len(desk.events)
    desk.pbx.restart(desk.now)
    assert desk.pbx.startup_time != before
    assert not desk.pbx.channels(desk.now)
    assert not desk.pbx.applications(desk.now)
    desk.run(10)
    assert len(desk.events) == heard
    talked, stays = desk.pbx.world.calls
    assert (talked.ended_at, talked.ended_by) == (BEGIN + 3, "world")
    assert [seen.ended_at for seen in desk.pbx.world.calls] == [BEGIN + 3, None]
    desk.pbx.hang_up_everything(desk.now)
    assert (stays.ended_at, stays.ended_by) == (desk.now, "pbx")


def test_a_clock_that_goes_back_stands_still() -> None:
    desk = Desk()
    call = desk.call(number.answers(1.0, 1.0))
    desk.pbx.advance(BEGIN + 1.5)
    desk.pbx.advance(BEGIN - 100)
    assert "StasisStart" in desk.story(call)
    assert "Destroyed" not in desk.story(call)
    desk.pbx.advance(BEGIN + 2.5)
    assert "Destroyed" in desk.story(call)


def test_what_is_overdue_happens_when_time_is_told() -> None:
    desk = Desk()
    call = desk.call(number.answers(1.0, 1.0))
    desk.pbx.advance(BEGIN + 50)
    desk.pbx.advance(BEGIN + 60)
    assert at(desk, call, "StasisStart") == [50.0]
    assert at(desk, call, "ChannelDestroyed") == [60.0]


def test_an_idle_pbx_has_nothing_to_do() -> None:
    desk = Desk()
    assert desk.pbx.next_at is None
    call = desk.call(number.stays(0.0))
    assert desk.pbx.next_at is None  # it stays for ever
    desk.pbx.hang_up(desk.now, call, {})
    assert desk.pbx.next_at is None


def test_a_seed_tells_the_same_story_and_another_one_another() -> None:
    def story(seed: int) -> list[object]:
        desk = Desk(seed=seed)
        for serial in range(60):
            desk.call(f"0155{serial:05d}")
            desk.run(0.1)
        desk.run(200)
        return [*desk.events, *desk.pbx.world.calls]

    assert story(1) == story(1)
    assert story(1) != story(2)
