"""Flows on real calls: what the callee presses and hears, by the world's own log and ears.

Every scenario is a flow and a callee. All are dialed at once, each by a campaign of its own; the tests then look
at the result and at what the callee wrote down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.lab import number
from tests.lab.lab import Lab
from tests.lab.world import WorldCall, now
from tests.rig import Rig
from tests.simulated import AnyLab

pytestmark = [pytest.mark.system]

HELLO, HELLO_SECONDS = "sound:hello-world", 1.42
LONG, LONG_SECONDS = "sound:demo-congrats", 30.28
SOON = 0.5
"""From a key to what it does, at most."""
TOLERANCE = 0.3
LONGEST_CALL = 10
"""The shortest maxCallDuration there is."""

BYE = {"type": "hangup"}


def play(*media: str, then: str, **options: Any) -> dict[str, Any]:
    return {"type": "play", "media": list(media), "next": then, **options}


def menu(*media: str, keys: Mapping[str, str], **options: Any) -> dict[str, Any]:
    spoken = {"media": list(media)} if media else {}
    ends = {"timeout": 1, "retries": 0, "invalid": "wrong", "noInput": "silent"}
    return {"type": "menu", "keys": dict(keys), **spoken, **ends, **options}


def result(ext_status: str, then: str = "bye", **values: str) -> dict[str, Any]:
    given = {"values": values} if values else {}
    return {"type": "result", "extStatus": ext_status, "next": then, **given}


WRONG_AND_SILENT = {"wrong": result("WRONG"), "silent": result("SILENT")}


def asks(*media: str, keys: str = "12", **options: Any) -> dict[str, dict[str, Any]]:
    """The blocks of a menu, each key of which is an extStatus and a value."""
    answers = {f"key {key}": result(f"KEY {key}", answer=key) for key in keys}
    return {
        "ask": menu(*media, keys={key: f"key {key}" for key in keys}, **options),
        **answers,
        **WRONG_AND_SILENT,
    }


def reads(**options: Any) -> dict[str, dict[str, Any]]:
    """The blocks of an entry of two to four digits."""
    ends = {"timeout": 1, "retries": 0, "next": "done", "invalid": "wrong", "noInput": "silent"}
    entry = {"type": "read", "media": [HELLO], "variable": "code", "minLength": 2, "maxLength": 4}
    return {"type": {**entry, **ends, **options}, "done": result("READ", code="{code}"), **WRONG_AND_SILENT}


def types(keys: str, after: float = 0.5, serial: int = 0) -> str:
    return number.presses(keys, after=after, ring=0.1, serial=serial)


def listener(serial: int) -> str:
    return number.stays(ring=0.1, serial=serial)


@dataclass(frozen=True)
class Scenario:
    """A flow from its first block, who is called, and with what."""

    blocks: dict[str, dict[str, Any]]
    dialled: str
    attributes: dict[str, str] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def flow(self) -> dict[str, Any]:
        return {"name": "scenario", "start": next(iter(self.blocks)), "blocks": {**self.blocks, "bye": BYE}}


SAY = {"say": play(HELLO, then="said"), "said": result("SAID")}
MESSAGE = {"told": result("TOLD", "say", told="1"), "say": play(LONG, then="heard"), "heard": result("HEARD")}

SCENARIOS = {
    "stops a message": Scenario({"say": play(LONG, then="bye")}, types("7", 1.5)),
    "may not stop it": Scenario(
        {"say": play(HELLO, then="ask", bargeIn=False), **asks()}, types("1", serial=1)
    ),
    "chooses": Scenario(asks(LONG), types("2", 1.5)),
    "errs": Scenario(asks(LONG), types("5", 1.5)),
    "errs twice": Scenario(asks(LONG, retries=1), types("56", 1.0)),
    "errs and then chooses": Scenario(asks(LONG, retries=1), types("51", 1.0)),
    "does not choose": Scenario(asks(HELLO, retries=1), listener(101)),
    "types ahead": Scenario(
        {
            "say": play(HELLO, then="first", bargeIn=False),
            "first": menu(LONG, keys={"1": "note"}),
            "note": {"type": "set", "variables": {"first": "1"}, "next": "second"},
            "second": menu(LONG, keys={"2": "done"}),
            "done": result("DONE", first="{first}"),
            **WRONG_AND_SILENT,
        },
        types("12"),
    ),
    "types in a pause": Scenario(
        {"pause": {"type": "wait", "seconds": 1.5, "next": "ask"}, **asks(LONG)}, types("1", serial=2)
    ),
    "closes with #": Scenario(reads(), types("123#", 1.0)),
    "types all there may be": Scenario(reads(), types("1234", 1.0)),
    "types and waits": Scenario(reads(), types("12", 1.0, serial=1)),
    "types too little": Scenario(reads(), types("1#", 1.0)),
    "types nothing": Scenario(reads(), listener(102)),
    "is from Brno": Scenario(
        {
            "name": {"type": "set", "variables": {"town": "{city}", "twice": "{city}-{city}"}, "next": "old"},
            "old": {
                "type": "branch",
                "conditions": [{"name": "age", "operator": "gt", "value": "99", "next": "wrong"}],
                "else": "town",
            },
            "town": {
                "type": "branch",
                "conditions": [
                    {"name": "town", "operator": "in", "value": ["Praha", "Ostrava"], "next": "wrong"},
                    {"name": "town", "operator": "matches", "value": "B*o", "next": "brno"},
                ],
                "else": "wrong",
            },
            "brno": result("BRNO", "hop", town="{town}", twice="{twice}", age="{age}", none="<{nothing}>"),
            "hop": {"type": "goto", "next": "more"},
            "more": result("MORE", age="old", more="1"),
            "wrong": result("WRONG"),
        },
        listener(103),
        {"city": "Brno", "age": "42"},
    ),
    "is left to wait": Scenario({"pause": {"type": "wait", "seconds": 1.5, "next": "bye"}}, listener(104)),
    "wants no more calls": Scenario(
        {
            "ask": menu(LONG, keys={"9": "never"}),
            "never": {"type": "optOut", "next": "out"},
            "out": result("OUT"),
        }
        | WRONG_AND_SILENT,
        types("9", 1.0),
    ),
    "hears figures": Scenario(
        {"say": play("number:{amount}", "digits:{ticket}", "characters:{ticket}", then="bye")},
        listener(105),
        {"amount": "42", "ticket": "420 1"},
    ),
    "has no whole amount": Scenario(
        {**SAY, "say": play("number:{amount}", HELLO, then="said")}, listener(106), {"amount": "12.50"}
    ),
    "misses a sound": Scenario({**SAY, "say": play("sound:no-such-sound", HELLO, then="said")}, listener(107)),
    "misses a recording": Scenario(
        {**SAY, "say": play("recording:no-such-recording", HELLO, then="said")}, listener(108)
    ),
    "stays too long": Scenario(MESSAGE, listener(109), fields={"maxCallDuration": LONGEST_CALL}),
    "leaves": Scenario(MESSAGE, number.answers(ring=0.1, talk=1.0, serial=1)),
    "listens": Scenario({"say": play(HELLO, then="bye")}, number.listens(ring=0.1)),
    "listens and stops it": Scenario(
        {"say": play(LONG, then="pause"), "pause": {"type": "wait", "seconds": 1, "next": "bye"}},
        number.listens("5", after=2.0, ring=0.1),
    ),
}


@dataclass(frozen=True)
class Told:
    """What became of a scenario: the daemon's result and the callee's own log."""

    result: dict[str, Any]
    call: WorldCall

    @property
    def said(self) -> tuple[str, str | None, dict[str, str]]:
        return self.result["status"], self.result["extStatus"], self.result["values"]

    @property
    def seconds(self) -> float:
        """From the answer to the end, for the callee."""
        assert self.call.duration is not None
        return self.call.duration

    @property
    def seconds_after_last_key(self) -> float:
        assert self.call.ended_at is not None
        return self.call.ended_at - self.call.keys[-1][1]


@pytest.fixture(scope="module")
def told(rig: Rig, lab: AnyLab) -> dict[str, Told]:
    """Every scenario, played to its end."""
    since = now()
    campaigns = {}
    for name, scenario in SCENARIOS.items():
        row = {"number": scenario.dialled, "attributes": scenario.attributes}
        campaigns[name] = rig.campaign([row], flow=scenario.flow, **scenario.fields)
    results = {name: rig.completed(campaign, 40) for name, campaign in campaigns.items()}

    def calls(scenario: Scenario) -> Sequence[WorldCall]:
        return [c for c in lab.world_calls(scenario.dialled) if c.invited_at >= since - 0.001 and c.ended_at]

    rig.until(lambda: all(map(calls, SCENARIOS.values())), 5, "every callee is hung up")
    made = {}
    for name, scenario in SCENARIOS.items():
        (result,), (call,) = results[name], calls(scenario)
        made[name] = Told(result, call)
    return made


def test_a_key_stops_a_message_at_once(told: dict[str, Told]) -> None:
    one = told["stops a message"]
    assert one.said == ("TERMINATED", None, {})
    assert one.seconds_after_last_key < SOON


def test_a_message_that_may_not_be_stopped_is_heard_and_the_key_counts_afterwards(
    told: dict[str, Told],
) -> None:
    one = told["may not stop it"]
    assert one.said == ("TERMINATED", "KEY 1", {"answer": "1"})
    assert one.seconds == pytest.approx(HELLO_SECONDS, abs=TOLERANCE)


def test_a_key_of_the_menu_is_taken_during_its_prompt(told: dict[str, Told]) -> None:
    one = told["chooses"]
    assert one.said == ("TERMINATED", "KEY 2", {"answer": "2"})
    assert one.result["path"] == ["ask", "key 2", "bye"]
    assert one.seconds_after_last_key < SOON


def test_a_key_that_is_none_of_the_menu_is_invalid(told: dict[str, Told]) -> None:
    one = told["errs"]
    assert one.said == ("TERMINATED", "WRONG", {})
    assert one.seconds_after_last_key < SOON


def test_a_menu_asks_again_after_a_wrong_key(told: dict[str, Told]) -> None:
    one = told["errs and then chooses"]
    assert one.said == ("TERMINATED", "KEY 1", {"answer": "1"})
    assert one.seconds_after_last_key < SOON
    assert told["errs twice"].said == ("TERMINATED", "WRONG", {})
    assert told["errs twice"].seconds_after_last_key < SOON


def test_a_menu_without_a_key_asks_again_and_gives_up(told: dict[str, Told]) -> None:
    one = told["does not choose"]
    assert one.said == ("TERMINATED", "SILENT", {})
    assert one.seconds == pytest.approx(2 * (HELLO_SECONDS + 1), abs=2 * TOLERANCE)


def test_keys_typed_ahead_go_through_several_menus(told: dict[str, Told]) -> None:
    one = told["types ahead"]
    assert one.said == ("TERMINATED", "DONE", {"first": "1"})
    assert one.result["path"] == ["say", "first", "note", "second", "done", "bye"]
    assert one.seconds == pytest.approx(HELLO_SECONDS, abs=TOLERANCE)


def test_a_key_pressed_in_a_pause_is_kept_for_the_menu(told: dict[str, Told]) -> None:
    one = told["types in a pause"]
    assert one.said == ("TERMINATED", "KEY 1", {"answer": "1"})
    assert one.seconds == pytest.approx(1.5, abs=TOLERANCE)


@pytest.mark.parametrize(("name", "code"), [("closes with #", "123"), ("types all there may be", "1234")])
def test_an_entry_ends_at_once_when_it_is_complete(told: dict[str, Told], name: str, code: str) -> None:
    assert told[name].said == ("TERMINATED", "READ", {"code": code})
    assert told[name].result["variables"] == {"code": code}
    assert told[name].seconds_after_last_key < SOON


def test_an_entry_ends_when_no_more_digits_come(told: dict[str, Told]) -> None:
    one = told["types and waits"]
    assert one.said == ("TERMINATED", "READ", {"code": "12"})
    assert one.seconds_after_last_key == pytest.approx(1 + 0.15, abs=TOLERANCE)


def test_too_few_digits_are_wrong_and_none_are_silence(told: dict[str, Told]) -> None:
    assert told["types too little"].said == ("TERMINATED", "WRONG", {})
    assert told["types too little"].seconds_after_last_key < SOON
    assert told["types nothing"].said == ("TERMINATED", "SILENT", {})
    assert told["types nothing"].seconds == pytest.approx(HELLO_SECONDS + 1, abs=TOLERANCE)


def test_attributes_and_variables_lead_through_the_branches_and_into_the_values(told: dict[str, Told]) -> None:
    one = told["is from Brno"]
    values = {"town": "Brno", "twice": "Brno-Brno", "age": "old", "none": "<>", "more": "1"}
    assert one.said == ("TERMINATED", "MORE", values)
    assert one.result["variables"] == {"town": "Brno", "twice": "Brno-Brno"}
    assert one.result["path"] == ["name", "old", "town", "brno", "hop", "more", "bye"]
    assert one.result["attributes"] == {"city": "Brno", "age": "42"}


def test_a_pause_lasts_as_long_as_it_says(told: dict[str, Told]) -> None:
    assert told["is left to wait"].seconds == pytest.approx(1.5, abs=TOLERANCE)


def test_who_opts_out_is_never_called_again(told: dict[str, Told], rig: Rig) -> None:
    one = told["wants no more calls"]
    assert one.said == ("TERMINATED", "OUT", {})
    assert one.seconds_after_last_key < SOON
    listed = rig.cli("dnc", "check", one.call.number)
    assert listed.returncode == 0, listed.stderr
    assert "opt-out in a call" in listed.stdout
    (second,) = rig.completed(rig.campaign([one.call.number]))
    assert (second["status"], second["extStatus"]) == ("RS_BLACKLIST", "opt-out in a call")
    assert second["originatedAt"] is None
    assert len(rig.world_calls([one.call.number])) == 1


def test_figures_of_a_contact_are_spoken(told: dict[str, Told]) -> None:
    """Forty-two, four-two-zero-one, and the same letter by letter: nine words of some 0.7 s, more or less."""
    one = told["hears figures"]
    assert (one.result["notes"], one.result["path"]) == ([], ["say", "bye"])
    assert 5 < one.seconds < 10


def test_a_figure_that_does_not_fit_is_left_out_and_noted(told: dict[str, Told]) -> None:
    one = told["has no whole amount"]
    assert one.said == ("TERMINATED", "SAID", {})
    assert one.result["notes"] == ["say: number:{amount} was left out: what was filled in does not fit"]
    assert one.seconds == pytest.approx(HELLO_SECONDS, abs=TOLERANCE)


def test_a_missing_sound_is_skipped_and_noted_and_the_call_goes_on(told: dict[str, Told]) -> None:
    one = told["misses a sound"]
    assert one.said == ("TERMINATED", "SAID", {})
    assert one.result["notes"] == ["say: sound:no-such-sound could not be played"]
    # Half a second is waited for the news that the callee has gone, which looks the same at first.
    assert one.seconds == pytest.approx(0.5 + HELLO_SECONDS, abs=TOLERANCE)


def test_a_missing_recording_costs_a_pause_and_no_call(told: dict[str, Told]) -> None:
    one = told["misses a recording"]
    assert one.said == ("TERMINATED", "SAID", {})
    assert one.result["notes"] == ["say: recording:no-such-recording could not be played"]
    assert one.seconds == pytest.approx(5.5 + HELLO_SECONDS, abs=1.0)


def test_a_call_that_lasts_too_long_is_ended_and_keeps_what_was_said(told: dict[str, Told]) -> None:
    one = told["stays too long"]
    assert one.said == ("TERMINATED", "TOLD", {"told": "1"})
    assert one.result["path"] == ["told", "say"]
    assert one.seconds == pytest.approx(LONGEST_CALL, abs=TOLERANCE)
    assert one.call.ended_by == "pbx"


def test_who_hangs_up_keeps_what_was_said_and_no_more(told: dict[str, Told]) -> None:
    one = told["leaves"]
    assert one.said == ("TERMINATED", "TOLD", {"told": "1"})
    assert (one.result["path"], one.result["notes"]) == (["told", "say"], [])
    assert one.call.ended_by == "world"


@pytest.mark.lab
def test_the_callee_hears_the_message_and_after_a_key_no_more_of_it(told: dict[str, Told], lab: Lab) -> None:
    whole = loud_seconds(lab.heard(told["listens"].call.number))
    assert sum(whole) == pytest.approx(HELLO_SECONDS, abs=0.6)  # a voice pauses within words, too
    cut = told["listens and stops it"]
    ((_, pressed_at),) = cut.call.keys
    assert cut.call.answered_at is not None
    heard = lab.heard(cut.call.number)
    assert sum(loud_seconds(heard)) > 1.0
    assert len(heard) / SAMPLES == pytest.approx(pressed_at - cut.call.answered_at, abs=SOON)


SAMPLES = 8000
"""A second."""
WINDOW = 160
LOUD = 300
"""Of 32768: speech here has some thousands, silence has none."""


def loud_seconds(samples: Sequence[int]) -> list[float]:
    """The windows of 20 ms in which there is sound, as seconds."""
    windows = [samples[start : start + WINDOW] for start in range(0, len(samples), WINDOW)]
    return [WINDOW / SAMPLES for window in windows if window and max(map(abs, window)) > LOUD]
