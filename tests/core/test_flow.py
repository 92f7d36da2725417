"""What the interpreter makes of a call: tables of small flows, and what holds for every flow."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialer_engine.core.flow import (
    KEYS,
    Action,
    Done,
    Enqueue,
    Event,
    Failed,
    Flow,
    FlowResult,
    HangUp,
    HungUp,
    Key,
    OptOut,
    Play,
    Played,
    Position,
    Returned,
    Step,
    StopPlay,
    Timer,
    TimerFired,
    begin,
    come_back,
    feed,
    parse_flow,
    resume,
)
from dialer_engine.core.flow.interpret import MAX_KEYS, matches
from dialer_engine.core.flow.media import fill, medium
from dialer_engine.core.flow.position import _KINDS, MAX_NOTES, MAX_PATH
from dialer_engine.errors import Invalid

MONDAY_NOON = datetime(2026, 8, 3, 12, 0)  # noqa: DTZ001 - the interpreter sees only the local reading


def flow(**blocks: dict[str, Any]) -> Flow:
    """A flow whose first block is the start; `bye` is there when something leads to it."""
    if '"bye"' in json.dumps(blocks):
        blocks.setdefault("bye", {"type": "hangup"})
    return parse_flow({"name": "test", "start": next(iter(blocks)), "blocks": blocks})


class Callee:
    """One call through a flow: what is done, and short words for what happens."""

    def __init__(self, flow: Flow, now: datetime = MONDAY_NOON, **attributes: str) -> None:
        self.flow, self.now, self.attributes = flow, now, attributes
        self.actions: list[Action] = []
        self._take(begin(flow, attributes, now=now))

    def _take(self, step: Step) -> None:
        self.position = step.position
        self.actions = list(step.actions)

    def feed(self, event: Event) -> Callee:
        self._take(feed(self.flow, self.position, event, self.attributes, now=self.now))
        return self

    def press(self, keys: str) -> Callee:
        for key in keys:
            self.feed(Key(key))
        return self

    def listen(self, *, ok: bool = True) -> Callee:
        return self.feed(Played(self.position.play, ok))

    def wait(self) -> Callee:
        return self.feed(TimerFired(self.position.timer))

    def come_back(self, status: str) -> Callee:
        kept = Position.from_json(self.position.to_json())
        self._take(come_back(self.flow, kept, status, self.attributes, now=self.now))
        return self

    def crash(self) -> Callee:
        kept = Position.from_json(self.position.to_json())
        self._take(resume(self.flow, kept, self.attributes, now=self.now))
        return self

    @property
    def hears(self) -> list[str]:
        return [uri for action in self.actions if isinstance(action, Play) for uri in action.media]

    @property
    def result(self) -> FlowResult:
        return FlowResult.of(self.position)


PLAY = {"type": "play", "media": ["sound:hello"], "next": "bye"}
MENU = {"type": "menu", "media": ["sound:press"], "keys": {"1": "yes", "*": "bye"}, "retries": 1,
        "invalid": "wrong", "noInput": "silent"}  # fmt: skip
READ = {"type": "read", "variable": "pin", "media": ["sound:pin"], "minLength": 2, "maxLength": 4, "retries": 1,
        "next": "bye", "invalid": "wrong", "noInput": "silent"}  # fmt: skip
ENDS = {name: {"type": "result", "extStatus": name, "next": "bye"} for name in ("yes", "wrong", "silent")}
MENU_FLOW = flow(ask=MENU, **ENDS)
READ_FLOW = flow(ask=READ, **{name: ENDS[name] for name in ("wrong", "silent")})


# --- play ---


def test_media_are_played_one_after_the_other() -> None:
    callee = Callee(flow(hello=PLAY | {"media": ["sound:a", "number:7"]}))
    assert callee.hears == ["sound:a"]
    assert callee.listen().hears == ["number:7"]
    assert callee.listen().actions == [HangUp("1-5")]
    assert callee.result == FlowResult(path=("hello", "bye"), completed=True)


def test_a_medium_that_fails_is_noted_and_the_next_one_played() -> None:
    callee = Callee(flow(hello=PLAY | {"media": ["sound:a", "sound:b"]})).listen(ok=False)
    assert callee.hears == ["sound:b"]
    assert callee.result.notes == ("hello: sound:a could not be played",)


def test_a_key_ends_a_play_and_the_rest_of_its_media() -> None:
    callee = Callee(flow(hello=PLAY | {"media": ["sound:a", "sound:b"]})).press("5")
    assert callee.actions == [StopPlay("1-1"), HangUp("1-3")]


def test_a_play_without_barge_in_goes_on() -> None:
    callee = Callee(flow(hello=PLAY | {"bargeIn": False})).press("5")
    assert callee.actions == []
    assert callee.position.keys == "5"


def test_what_asterisk_spells_is_not_stopped_for_it_cannot_be() -> None:
    callee = Callee(flow(hello=PLAY | {"media": ["digits:123"], "next": "ask"}, ask=MENU | {"noInput": "bye"},
                         yes=ENDS["yes"], wrong=ENDS["wrong"])).press("1")  # fmt: skip
    assert callee.actions == [HangUp("1-3")]
    assert callee.result.ext_status == "yes"


def test_a_play_of_which_nobody_hears_the_end_is_ended() -> None:
    callee = Callee(flow(hello=PLAY))
    assert callee.actions[1] == Timer("1-2", 300.0)
    assert callee.wait().actions == [StopPlay("1-1"), HangUp("1-3")]
    assert callee.result.notes == ("hello: sound:hello did not end in 300 s",)


def test_a_tone_ends_by_its_timeout_without_a_note() -> None:
    callee = Callee(flow(hello=PLAY | {"media": ["tone:busy"], "timeout": 4}))
    assert callee.actions[1] == Timer("1-2", 4)
    assert callee.wait().result.notes == ()


# --- menu ---


def test_a_key_of_a_menu_leads_on_while_it_plays_and_after() -> None:
    assert Callee(MENU_FLOW).press("1").result.ext_status == "yes"
    assert Callee(MENU_FLOW).listen().press("1").result.ext_status == "yes"
    assert Callee(MENU_FLOW).press("1").actions[0] == StopPlay("1-1")


def test_a_menu_waits_for_a_key_when_it_has_played() -> None:
    callee = Callee(MENU_FLOW).listen()
    assert callee.actions == [Timer("1-3", 5)]


@pytest.mark.parametrize(("event", "end"), [("press", "wrong"), ("wait", "silent")])
def test_a_menu_asks_again_and_then_gives_up(event: str, end: str) -> None:
    callee = Callee(MENU_FLOW).listen()
    _ = callee.press("7") if event == "press" else callee.wait()
    assert callee.hears == ["sound:press"]
    callee.listen()
    _ = callee.press("7") if event == "press" else callee.wait()
    assert callee.result.ext_status == end


def test_retries_are_counted_over_wrong_keys_and_silence() -> None:
    assert Callee(MENU_FLOW).press("7").listen().wait().result.ext_status == "silent"


def test_retries_begin_anew_when_the_menu_is_entered_anew() -> None:
    callee = Callee(flow(ask=MENU | {"keys": {"1": "ask"}, "invalid": "bye", "noInput": "bye"}))
    callee.press("7").press("1")
    assert callee.position.tries == 0


# --- typing ahead ---


def test_a_key_that_ends_a_play_is_the_first_key_of_the_menu() -> None:
    callee = Callee(flow(hello=PLAY | {"next": "ask"}, ask=MENU, **ENDS)).press("1")
    assert callee.actions == [StopPlay("1-1"), HangUp("1-3")]
    assert callee.result.path == ("hello", "ask", "yes", "bye")


def test_a_key_typed_ahead_skips_the_prompts_that_may_be_interrupted() -> None:
    blocks: dict[str, dict[str, Any]] = {
        "a": PLAY | {"next": "b"},
        "b": PLAY | {"next": "ask"},
        "ask": MENU,
        **ENDS,
    }
    assert Callee(flow(**blocks)).press("1").result.ext_status == "yes"
    blocks["b"] = blocks["b"] | {"bargeIn": False}
    callee = Callee(flow(**blocks)).press("1")
    assert callee.hears == ["sound:hello"]
    assert callee.listen().result.ext_status == "yes"


def test_a_key_pressed_in_a_wait_is_kept() -> None:
    callee = Callee(flow(w={"type": "wait", "seconds": 2, "next": "ask"}, ask=MENU, **ENDS)).press("1")
    assert callee.actions == []
    assert callee.wait().result.ext_status == "yes"


def test_several_keys_go_to_one_question_after_the_other() -> None:
    two = flow(
        hello=PLAY | {"next": "ask", "bargeIn": False},
        ask=MENU | {"keys": {"1": "pin"}, "invalid": "bye", "noInput": "bye"},
        pin=READ | {"invalid": "bye", "noInput": "bye"},
    )
    assert Callee(two).press("1234#").listen().result.variables == {"pin": "234"}


def test_what_was_typed_ahead_of_a_wrong_answer_is_dropped() -> None:
    callee = Callee(flow(hello=PLAY | {"next": "ask", "bargeIn": False}, ask=MENU, **ENDS)).press("71").listen()
    assert callee.hears == ["sound:press"]
    assert callee.position.keys == ""


def test_keys_without_end_are_bounded_and_others_are_none() -> None:
    callee = Callee(flow(hello=PLAY | {"bargeIn": False})).press("1" * 100)
    assert len(callee.position.keys) == MAX_KEYS
    callee = Callee(MENU_FLOW).press("xé").feed(Key("")).feed(Key("11"))
    assert callee.position == begin(MENU_FLOW, {}, now=MONDAY_NOON).position


# --- read ---


@pytest.mark.parametrize(
    ("keys", "pin"),
    [("12#", "12"), ("1234", "1234"), ("123#", "123"), ("12", None), ("12*4", "12*4")],
)
def test_a_read_ends_by_its_terminator_or_its_length(keys: str, pin: str | None) -> None:
    assert Callee(READ_FLOW).press(keys).result.variables.get("pin") == pin


def test_silence_ends_a_read_that_is_long_enough() -> None:
    assert Callee(READ_FLOW).press("12").wait().result.variables == {"pin": "12"}


def test_a_read_waits_anew_after_each_key() -> None:
    callee = Callee(READ_FLOW).press("1")
    assert callee.actions == [StopPlay("1-1"), Timer("1-3", 5)]
    assert callee.press("2").actions == [Timer("1-4", 5)]
    assert callee.feed(TimerFired("1-3")).actions == []


@pytest.mark.parametrize(("keys", "end"), [("1", "wrong"), ("1#", "wrong"), ("", "silent")])
def test_a_read_asks_again_and_then_gives_up(keys: str, end: str) -> None:
    callee = Callee(READ_FLOW)
    for again in (True, False):
        if not keys:
            callee.listen()
        callee.press(keys)
        if not keys.endswith("#"):
            callee.wait()
        assert callee.hears == (["sound:pin"] if again else [])
    assert callee.result.ext_status == end
    assert callee.result.variables == {}


def test_an_empty_answer_is_taken_when_it_may_be_empty() -> None:
    open_flow = flow(ask=READ | {"minLength": 0, "noInput": "bye", "invalid": "bye"})
    assert Callee(open_flow).press("#").result.variables == {"pin": ""}


def test_a_read_without_terminator_takes_the_hash_as_a_key() -> None:
    assert Callee(flow(ask=READ | {"terminator": "", "noInput": "bye", "invalid": "bye"})).press(
        "1#2#"
    ).result.variables == {"pin": "1#2#"}


# --- variables, results, branches ---


def test_texts_are_filled_from_variables_before_attributes() -> None:
    callee = Callee(
        flow(
            s={"type": "set", "variables": {"name": "Ms {name}", "both": "{name} {nobody}!"}, "next": "r"},
            r={"type": "result", "values": {"who": "{name}", "both": "{both}"}, "next": "t"},
            t={"type": "result", "extStatus": "A b-1", "next": "bye"},
        ),
        name="Nováková",
    )
    assert callee.result.variables == {"name": "Ms Nováková", "both": "Nováková !"}
    assert callee.result.values == {"who": "Ms Nováková", "both": "Nováková !"}
    assert callee.result.ext_status == "A b-1"


def test_later_results_add_values_and_the_last_ext_status_counts() -> None:
    callee = Callee(
        flow(
            a={"type": "result", "extStatus": "A", "values": {"x": "1", "y": "1"}, "next": "b"},
            b={"type": "result", "extStatus": "B", "next": "c"},
            c={"type": "result", "values": {"y": "2"}, "next": "bye"},
        )
    )
    assert (callee.result.ext_status, callee.result.values) == ("B", {"x": "1", "y": "2"})


def test_a_text_put_in_is_not_looked_at_again_and_stays_bounded() -> None:
    assert fill("{a}", {"a": "{b}", "b": "!"}.__getitem__) == "{b}"
    assert len(fill("{a}{a}", lambda _: "x" * 900)) == 1000


def branches(**condition: object) -> Flow:
    return flow(
        b={"type": "branch", "conditions": [condition | {"next": "yes"}], "else": "bye"},
        yes={"type": "result", "extStatus": "yes", "next": "bye"},
    )


@pytest.mark.parametrize(
    ("operator", "value", "attribute", "holds"),
    [
        ("eq", "de", "de", True),
        ("eq", "de", "DE", False),
        ("eq", "", None, True),
        ("eq", "{other}", "x", True),
        ("eq", 5, "5", True),
        ("eq", "5", "5.0", False),
        ("ne", "de", "cs", True),
        ("ne", "de", "de", False),
        ("in", ["de", "{other}"], "x", True),
        ("in", ["de", "cs"], None, False),
        ("notIn", ["de", "cs"], "en", True),
        ("notIn", ["de", "cs"], "cs", False),
        ("lt", "10", "9", True),
        ("lt", "9", "10", False),
        ("lt", "10", "9.99", True),
        ("le", "9", " 9 ", True),
        ("gt", "-1", "0", True),
        ("ge", "0.1", "0.10", True),
        ("ge", "1", "many", False),
        ("lt", "1", "NaN", False),
        ("lt", "1", "-1e999999", False),
        ("lt", "1", None, False),
        ("matches", "+420*", "+420123", True),
        ("matches", "+420*", "0420123", False),
        ("matches", "4?0", "420", True),
        ("matches", "*", None, True),
    ],
)
def test_a_branch_on_a_text(operator: str, value: object, attribute: str | None, holds: bool) -> None:
    attributes = {"other": "x"} | ({} if attribute is None else {"a": attribute})
    callee = Callee(branches(name="a", operator=operator, value=value), MONDAY_NOON, **attributes)
    assert (callee.result.ext_status == "yes") is holds


@pytest.mark.parametrize(
    ("start", "end", "days", "now", "holds"),
    [  # 3 August 2026 is a Monday
        ("08:00", "12:00", None, "2026-08-03T08:00:00", True),
        ("08:00", "12:00", None, "2026-08-03T12:00:00", False),
        ("08:00", "24:00", None, "2026-08-03T23:59:59", True),
        ("22:00", "06:00", None, "2026-08-03T23:00:00", True),
        ("22:00", "06:00", None, "2026-08-03T05:59:59", True),
        ("22:00", "06:00", None, "2026-08-03T06:00:00", False),
        ("22:00", "06:00", [1], "2026-08-03T23:00:00", True),
        ("22:00", "06:00", [1], "2026-08-04T05:00:00", True),
        ("22:00", "06:00", [1], "2026-08-03T05:00:00", False),
        ("22:00", "06:00", [7], "2026-08-03T05:00:00", True),
        (None, None, [1, 2], "2026-08-03T00:00:00", True),
        (None, None, [6, 7], "2026-08-03T00:00:00", False),
    ],
)
def test_a_branch_on_time_and_day(
    start: str | None, end: str | None, days: list[int] | None, now: str, holds: bool
) -> None:
    given = {"startTime": start, "endTime": end, "weekDays": days}
    condition = {key: value for key, value in given.items() if value is not None}
    callee = Callee(branches(**condition), now=datetime.fromisoformat(now))
    assert (callee.result.ext_status == "yes") is holds


def test_all_of_a_condition_must_hold_and_the_first_that_holds_counts() -> None:
    equal = {"name": "a", "operator": "eq", "value": "1"}
    callee = Callee(branches(**equal, weekDays=[2]), a="1")
    assert callee.result.ext_status is None
    two = [equal | {"next": "one"}, equal | {"next": "two"}, {"weekDays": [1], "next": "two"}]
    ends = {name: {"type": "result", "extStatus": name, "next": "bye"} for name in ("one", "two")}
    both = flow(b={"type": "branch", "conditions": two, "else": "bye"}, **ends)
    assert Callee(both, a="1").result.ext_status == "one"
    assert Callee(both, a="2").result.ext_status == "two"


def test_a_hostile_text_does_not_keep_a_pattern_busy() -> None:
    assert not matches("a" * 1000, "*a" * 200 + "b")


# --- media ---


@pytest.mark.parametrize(
    ("uri", "value", "played"),
    [
        ("sound:{x}", "hello", "sound:hello"),
        ("sound:names/{x}-cs", "Eva_1", "sound:names/Eva_1-cs"),
        ("sound:{x}", "../../etc/passwd", None),
        ("sound:{x}", "..", None),
        ("sound:{x}", "a/b", None),
        ("sound:{x}", "a&b", None),
        ("sound:{x}", "http://evil/a", None),
        ("sound:{x}", "recording:a", None),
        ("sound:{x}", "hello\n", None),
        ("sound:{x}", "ﬁle", None),
        ("sound:{x}", "", None),
        ("sound:names/{x}", "", None),
        ("sound:{x}", "a" * 300, None),
        ("recording:{x}", "r1", "recording:r1"),
        ("recording:{x}", "../r1", None),
        ("number:{x}", "42", "number:42"),
        ("number:{x}", " -42 ", "number:-42"),
        ("number:{x}", "12.50", None),
        ("number:{x}", "12&sound:a", None),
        ("number:{x}", "٣", None),
        ("number:{x}", "9999999999", None),
        ("number:{x}", "", None),
        ("digits:{x}", "+420 123-456", "digits:420123456"),
        ("digits:{x}", "12a", None),
        ("digits:{x}", "", None),
        ("characters:{x}", "AB 12", "characters:AB 12"),
        ("characters:{x}", "a&b|c\n", "characters:abc"),
        ("characters:{x}", "&", None),
        ("tone:busy", "", "tone:busy"),
    ],
)
def test_what_an_attribute_may_make_of_a_medium(uri: str, value: str, played: str | None) -> None:
    assert medium(uri, lambda _: value) == played


def test_a_medium_that_does_not_fit_is_left_out_with_a_note() -> None:
    callee = Callee(flow(hello=PLAY | {"media": ["sound:{file}", "sound:b"]}), file="../x")
    assert callee.hears == ["sound:b"]
    assert callee.result.notes == ("hello: sound:{file} was left out: what was filled in does not fit",)


@given(
    st.text(), st.sampled_from(["sound:{x}", "sound:a/{x}.{x}", "recording:{x}", "number:{x}", "digits:{x}"])
)
def test_no_text_gets_out_of_its_place(value: str, uri: str) -> None:
    played = medium(uri, lambda _: value)
    if played is not None:
        scheme, _, rest = played.partition(":")
        assert uri.startswith(scheme)
        assert rest.isascii()
        assert ".." not in rest
        assert not set(rest) & set(":&|,;\n\x00 ")
        assert not rest.startswith("/")
        assert scheme in ("sound", "recording") or rest.strip("0123456789*#-") == ""


# --- opting out, hanging up, failing ---


def test_an_opt_out_is_known_before_it_is_carried_out() -> None:
    callee = Callee(flow(never={"type": "optOut", "next": "bye"}))
    assert callee.actions == [OptOut("1-1")]
    assert callee.position.opted_out
    assert callee.feed(Done("1-1")).actions == [HangUp("1-2")]
    assert callee.result.opted_out


def test_a_refused_opt_out_is_noted_and_still_known() -> None:
    callee = Callee(flow(never={"type": "optOut", "next": "bye"})).feed(Done("1-1", ok=False))
    assert callee.result.opted_out
    assert callee.result.notes == ("never: the do-not-call list refused the number",)


def test_a_callee_who_hangs_up_keeps_what_was_said_so_far() -> None:
    callee = Callee(flow(a=ENDS["yes"] | {"next": "hello"}, hello=PLAY | {"next": "heard"},
                         heard={"type": "result", "extStatus": "HEARD", "next": "bye"})).feed(HungUp())  # fmt: skip
    assert callee.actions == []
    assert callee.result == FlowResult(ext_status="yes", path=("a", "hello"))


def test_nothing_happens_after_the_end() -> None:
    callee = Callee(flow(bye={"type": "hangup"}))
    end = callee.position
    for event in (HungUp(), Key("1"), Played("1-1"), Failed("x"), Done("1-1"), TimerFired("")):
        assert callee.feed(event).actions == []
        assert callee.position == end
    assert callee.result.completed


def test_a_failure_hangs_up_and_is_told() -> None:
    callee = Callee(MENU_FLOW).feed(Failed("the channel is gone"))
    assert callee.actions == [HangUp("1-3")]
    assert callee.result.failed == "the channel is gone"
    assert not callee.result.completed


def test_path_and_notes_are_bounded() -> None:
    callee = Callee(flow(w={"type": "wait", "seconds": 1, "next": "p"},
                         p=PLAY | {"media": ["sound:{x}"], "next": "w"}))  # fmt: skip
    for _ in range(400):
        callee.wait()
    assert len(callee.result.path) == MAX_PATH
    assert len(callee.result.notes) == MAX_NOTES


# --- the queue ---

QUEUE = {"type": "queue", "queue": "green", "timeout": 20, "next": "bye"}
OUT = {"type": "branch", "else": "bye", "conditions": [
    {"name": "queueStatus", "operator": "eq", "value": "TIMEOUT", "next": "sorry"}]}  # fmt: skip


def test_nothing_happens_in_a_queue_until_it_gives_the_callee_back() -> None:
    callee = Callee(flow(agent=QUEUE))
    assert callee.actions == [Enqueue("1-1", "green", 20)]
    waiting = callee.position
    for event in (Played("1-1"), TimerFired("1-1"), Done("1-1"), Returned("1-2", "TIMEOUT")):
        assert callee.feed(event).actions == []
        assert callee.position == waiting
    assert callee.feed(Returned("1-1", "TIMEOUT")).actions == [HangUp("1-2")]
    assert callee.result.completed


def test_a_queue_without_a_name_is_the_campaigns() -> None:
    assert Callee(flow(agent={"type": "queue", "next": "bye"})).actions == [Enqueue("1-1", None, 60)]


@pytest.mark.parametrize(
    ("status", "told", "path"),
    [
        ("TIMEOUT", "TIMEOUT", ("agent", "out", "sorry")),
        ("CONTINUE", "CONTINUE", ("agent", "out", "bye")),
        ("", "UNKNOWN", ("agent", "out", "bye")),
        ("TIMEOUT,x", "UNKNOWN", ("agent", "out", "bye")),
    ],
)
def test_a_branch_asks_why_the_queue_gave_him_back(status: str, told: str, path: tuple[str, ...]) -> None:
    callee = Callee(flow(agent=QUEUE | {"next": "out"}, out=OUT, sorry=PLAY)).come_back(status)
    assert callee.result.path == path
    assert callee.result.variables == {"queueStatus": told}


def test_keys_that_were_typed_before_or_in_the_queue_mean_nothing_after_it() -> None:
    ask = MENU | {"keys": {"1": "agent"}, "invalid": "bye", "noInput": "bye"}
    again = MENU | {"invalid": "bye", "noInput": "bye"}
    tree = flow(ask=ask, agent=QUEUE | {"next": "again"}, again=again, yes=ENDS["yes"])
    callee = Callee(tree).press("1")
    assert callee.actions == [StopPlay("1-1"), Enqueue("1-3", "green", 20)]
    assert callee.press("2").come_back("CONTINUE").hears == ["sound:press"]


def test_who_was_on_his_way_to_a_queue_is_sent_again_after_a_crash() -> None:
    callee = Callee(flow(agent=QUEUE)).crash()
    assert callee.actions == [Enqueue("2-1", "green", 20)]
    assert callee.result.path == ("agent",)


def test_the_flow_goes_on_behind_the_queue_in_another_process_too() -> None:
    callee = Callee(flow(a=ENDS["yes"] | {"next": "agent"}, agent=QUEUE)).crash().come_back("CONTINUE")
    assert callee.actions == [HangUp("2-2")]
    assert callee.result.ext_status == "yes"


def test_who_comes_back_to_a_flow_that_was_edited_is_not_forgotten() -> None:
    callee = Callee(flow(agent=QUEUE))
    callee.flow = flow(agent=PLAY)
    assert callee.come_back("CONTINUE").hears == ["sound:hello"]
    callee = Callee(flow(agent=QUEUE))
    callee.flow = flow(hello=PLAY)
    assert callee.come_back("CONTINUE").result.failed == "there is no block named 'agent' any more"


def test_what_has_been_played_on_the_way_is_known() -> None:
    tree = flow(a=ENDS["yes"] | {"next": "ask"}, ask=MENU | {"media": [], "noInput": "hello"}, hello=PLAY,
                **{name: ENDS[name] for name in ("yes", "wrong")})  # fmt: skip
    assert not tree.has_played(["a", "ask", "gone"])
    assert tree.has_played(["a", "ask", "hello"])
    assert flow(ask=MENU, **ENDS).has_played(["ask"])


# --- after a crash ---


def test_after_a_crash_the_block_begins_again() -> None:
    callee = Callee(flow(hello=PLAY)).crash()
    assert callee.actions == [StopPlay("1-1"), Play("2-1", ("sound:hello",)), Timer("2-2", 300.0)]
    assert callee.result.path == ("hello",)


def test_after_a_crash_no_digit_and_no_retry_is_lost() -> None:
    callee = Callee(READ_FLOW).listen().wait().press("12").crash()
    assert callee.hears == []
    assert callee.position.tries == 1
    assert callee.press("3#").result.variables == {"pin": "123"}


def test_after_a_crash_a_hang_up_is_asked_for_again() -> None:
    assert Callee(flow(bye={"type": "hangup"})).crash().actions == [HangUp("2-1")]
    assert Callee(MENU_FLOW).feed(Failed("x")).crash().actions == [HangUp("2-1")]
    assert Callee(MENU_FLOW).feed(HungUp()).crash().actions == []


def test_an_opt_out_is_asked_for_again_after_a_crash() -> None:
    callee = Callee(flow(never={"type": "optOut", "next": "bye"})).crash()
    assert callee.actions == [OptOut("2-1")]


def test_a_block_that_is_no_longer_there_fails_the_flow() -> None:
    callee = Callee(MENU_FLOW)
    callee.flow = flow(hello=PLAY)
    callee.crash()
    assert callee.actions == [StopPlay("1-1"), HangUp("2-1")]
    assert callee.result.failed == "there is no block named 'ask' any more"


# --- positions ---


def test_every_field_of_a_position_has_its_kind() -> None:
    assert list(_KINDS) == [each.name for each in fields(Position)]


def test_a_position_is_small_json() -> None:
    assert begin(flow(hello=PLAY), {}, now=MONDAY_NOON).position.to_json() == (
        '{"block":"hello","action":2,"stage":"playing","play":"1-1","timer":"1-2","medium":1,"path":["hello"]}'
    )


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"block":1}', '{"block":"a","path":[1]}', '{"block":"a","values":{"a":1}}', "[" * 9000,
     '{"block":"a","colour":"red"}', '{"block":"a","opted_out":1}', '{"block":"a","tries":true}', b"\xff"],
)  # fmt: skip
def test_what_is_no_position_is_refused(text: str | bytes) -> None:
    with pytest.raises(Invalid):
        Position.from_json(text)


# --- what holds for every flow ---

NAMES = ["a", "b", "c", "d", "e"]
targets = st.sampled_from(NAMES)
prompt = st.sampled_from(["sound:a", "sound:{x}", "number:{v}", "digits:12"])
prompts = st.lists(prompt, max_size=2)


def shape(kind: str, **entries: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(kind), **entries})


question = {"media": prompts, "bargeIn": st.booleans(), "retries": st.integers(0, 2), "invalid": targets,
            "noInput": targets}  # fmt: skip
conditions = st.fixed_dictionaries(
    {"name": st.sampled_from(["v", "x"]), "operator": st.sampled_from(["eq", "lt"]),
     "value": st.sampled_from(["", "1", "{v}"]), "next": targets}
)  # fmt: skip
blocks = st.one_of(
    shape("play", media=st.lists(prompt, min_size=1, max_size=2), bargeIn=st.booleans(), next=targets),
    shape("menu", keys=st.dictionaries(st.sampled_from(KEYS), targets, min_size=1, max_size=4), **question),
    shape("read", variable=st.just("v"), minLength=st.integers(0, 2), maxLength=st.integers(2, 3),
          terminator=st.sampled_from(["#", ""]), next=targets, **question),
    shape("set", variables=st.just({"v": "{v}1"}), next=targets),
    shape("branch", conditions=st.lists(conditions, min_size=1, max_size=2), **{"else": targets}),
    shape("wait", seconds=st.just(1), next=targets),
    shape("result", extStatus=st.sampled_from(["A", "B"]), next=targets),
    shape("optOut", next=targets),
    shape("queue", queue=st.just("green"), next=targets),
    shape("goto", next=targets),
    shape("hangup"),
)  # fmt: skip


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    """Random blocks, mended until the parser takes them: what is unreachable goes, what loops waits."""
    found: dict[str, Any] = {name: draw(blocks) for name in NAMES}
    while True:
        try:
            return parse_flow({"name": "random", "start": "a", "blocks": found})
        except Invalid as exc:
            for problem in exc.problems:
                name = problem.place.split(".")[1]
                if "reached" in problem.reason:
                    found.pop(name, None)
                else:
                    assert "loops" in problem.reason
                    found[name] = {"type": "hangup"}


ANSWERS: list[Callable[[str], Event]] = [Played, TimerFired, Done, lambda id: Returned(id, "TIMEOUT")]
events = st.one_of(
    st.sampled_from(KEYS).map(Key),
    st.booleans().map(lambda ok: Played("current", ok)),
    st.just(TimerFired("current")),
    st.booleans().map(lambda ok: Done("current", ok)),
    st.sampled_from(["TIMEOUT", "CONTINUE"]).map(lambda status: Returned("current", status)),
    st.sampled_from([HungUp(), Failed("broken")]),
)
likely = st.one_of(*[st.sampled_from(KEYS).map(Key)] * 3, events)


def aimed(event: Event, position: Position) -> Event:
    """The event as the answer to what the position waits for."""
    match event:
        case Played():
            return replace(event, id=position.play)
        case TimerFired():
            return replace(event, id=position.timer)
        case Done() | Returned():
            return replace(event, id=position.job)
        case _:
            return event


def check(step: Step) -> None:
    """Whatever happened: it has ended, or something that will come is waited for."""
    at = step.position
    assert at.end or (at.play and at.timer) or at.timer or at.job
    assert bool(at.end) != bool(at.stage)
    assert Position.from_json(at.to_json()) == at
    ids = [action.id for action in step.actions if not isinstance(action, StopPlay)]
    assert len(set(ids)) == len(ids)
    for action in step.actions[:-2]:
        assert isinstance(action, StopPlay)


@settings(max_examples=300)
@given(flows(), st.lists(likely, max_size=30), st.text(max_size=5), st.data())
def test_any_events_lead_through_any_flow(
    tree: Flow, happens: list[Event], x: str, data: st.DataObject
) -> None:
    attributes = {"x": x}
    step = begin(tree, attributes, now=MONDAY_NOON)
    check(step)
    for raw in happens:
        here = step.position
        event = aimed(raw, here)
        step = feed(tree, here, event, attributes, now=MONDAY_NOON)
        check(step)
        # Another process, which knows the position only as JSON, goes on in the same way.
        again = Position.from_json(here.to_json())
        assert feed(tree, again, event, attributes, now=MONDAY_NOON) == step
        # A late answer changes nothing.
        stale = data.draw(st.sampled_from(["0-1", "2-1", "1-0", "", "1-999999"]))
        late = data.draw(st.sampled_from(ANSWERS))(stale)
        assert feed(tree, step.position, late, attributes, now=MONDAY_NOON) == Step(step.position)
        # After a crash at any time the same block begins again, with everything the callee said.
        after = resume(tree, again, attributes, now=MONDAY_NOON)
        check(after)
        if not here.end:
            assert after.position.path[: len(here.path)] == here.path
            assert after.position.values.items() >= here.values.items()
            assert after.position.opted_out >= here.opted_out


@given(flows())
def test_a_call_that_hears_everything_and_says_nothing_comes_to_a_wait_or_an_end(tree: Flow) -> None:
    step = begin(tree, {}, now=MONDAY_NOON)
    for _ in range(200):
        at = step.position
        if at.end:
            return
        answer: Event = Played(at.play) if at.play else TimerFired(at.timer) if at.timer else Done(at.job)
        if at.stage == "queue":
            answer = Returned(at.job, "TIMEOUT")
        step = feed(tree, at, answer, {}, now=MONDAY_NOON)
        check(step)


@given(flows(), st.lists(st.sampled_from(KEYS), max_size=10))
def test_equal_memories_resume_alike(tree: Flow, keys: list[str]) -> None:
    at = begin(tree, {}, now=MONDAY_NOON).position
    for key in keys:
        at = feed(tree, at, Key(key), {}, now=MONDAY_NOON).position
    one, two = (resume(tree, each, {}, now=MONDAY_NOON) for each in (at, at.memory))
    assert one.position.memory == two.position.memory
    assert [a for a in one.actions if not isinstance(a, StopPlay)] == list(two.actions)
