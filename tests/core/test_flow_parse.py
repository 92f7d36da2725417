"""A document becomes a flow, or every problem it has is named with its place."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialer_engine.core.flow import parse_flow
from dialer_engine.core.flow.blocks import (
    BranchBlock,
    MenuBlock,
    Operator,
    PlayBlock,
    QueueBlock,
    ResultBlock,
)
from dialer_engine.errors import Invalid

SURVEY: dict[str, Any] = {
    "name": "survey",
    "description": "",
    "start": "hello",
    "blocks": {
        "hello": {"type": "play", "media": ["sound:hello-world"], "next": "ask"},
        "ask": {
            "type": "menu",
            "media": ["sound:vm-press"],
            "timeout": 5,
            "retries": 2,
            "keys": {"1": "yes", "2": "agent", "9": "never"},
            "invalid": "bye",
            "noInput": "bye",
        },
        "yes": {"type": "result", "extStatus": "CONFIRMED", "values": {"answer": "1"}, "next": "bye"},
        "agent": {"type": "queue", "queue": "green", "timeout": 20, "next": "bye"},
        "never": {"type": "optOut", "next": "bye"},
        "bye": {"type": "hangup"},
    },
}


def flow(**blocks: dict[str, Any]) -> dict[str, Any]:
    """A document whose first block is the start; `bye` is there when something leads to it."""
    if '"bye"' in json.dumps(blocks):
        blocks.setdefault("bye", {"type": "hangup"})
    return {"name": "test", "start": next(iter(blocks)), "blocks": blocks}


def problems(document: object) -> list[str]:
    try:
        parse_flow(document)
    except Invalid as exc:
        return [str(problem) for problem in exc.problems]
    return []


def test_the_example_of_the_specification_is_taken() -> None:
    parsed = parse_flow(SURVEY)
    assert parsed.start == "hello"
    assert list(parsed.blocks) == ["hello", "ask", "yes", "agent", "never", "bye"]
    assert parsed.blocks["agent"] == QueueBlock(next="bye", queue="green", timeout_seconds=20)
    assert parsed.blocks["hello"] == PlayBlock(media=("sound:hello-world",), next="ask")
    assert parsed.blocks["ask"] == MenuBlock(
        keys={"1": "yes", "2": "agent", "9": "never"},
        invalid="bye",
        no_input="bye",
        media=("sound:vm-press",),
    )
    assert parsed.blocks["yes"] == ResultBlock("bye", "CONFIRMED", {"answer": "1"})


def test_a_queue_may_be_the_campaigns_own() -> None:
    unnamed = parse_flow(flow(agent={"type": "queue", "next": "bye"}))
    assert unnamed.blocks["agent"] == QueueBlock(next="bye", queue=None, timeout_seconds=60)
    assert unnamed.unnamed_queue == "agent"
    assert parse_flow(SURVEY).unnamed_queue is None


def test_a_menu_with_one_way_out_takes_it_for_both() -> None:
    parsed = parse_flow(flow(ask={"type": "menu", "keys": {"1": "bye"}, "noInput": "bye"}))
    block = parsed.blocks["ask"]
    assert isinstance(block, MenuBlock)
    assert (block.invalid, block.no_input) == ("bye", "bye")


def test_numbers_are_taken_as_texts_of_values() -> None:
    parsed = parse_flow(flow(r={"type": "result", "values": {"a": 1, "b": 1.5}, "next": "bye"}))
    assert parsed.blocks["r"] == ResultBlock("bye", None, {"a": "1", "b": "1.5"})


def test_a_condition_may_test_a_text_a_time_and_a_day() -> None:
    parsed = parse_flow(
        flow(
            b={
                "type": "branch",
                "conditions": [
                    {"name": "lang", "operator": "in", "value": ["cs", "sk"], "next": "bye"},
                    {"startTime": "22:00", "endTime": "24:00", "weekDays": [6, 7], "next": "bye"},
                ],
                "else": "bye",
            }
        )
    )
    block = parsed.blocks["b"]
    assert isinstance(block, BranchBlock)
    assert block.conditions[0].operator is Operator.IN
    assert block.conditions[0].value == ("cs", "sk")
    assert (block.conditions[1].start_seconds, block.conditions[1].end_seconds) == (79200, 86400)


PLAY = {"type": "play", "media": ["sound:a"], "next": "bye"}
QUEUE = {"type": "queue", "queue": "green", "next": "bye"}
READ = {"type": "read", "variable": "v", "next": "bye", "invalid": "bye"}
MENU = {"type": "menu", "keys": {"1": "bye"}, "invalid": "bye"}
BRANCH: dict[str, Any] = {"type": "branch", "conditions": [], "else": "bye"}
EQ = {"name": "a", "operator": "eq", "value": "b", "next": "bye"}


def branch(*conditions: dict[str, Any]) -> dict[str, Any]:
    return BRANCH | {"conditions": list(conditions)}


@pytest.mark.parametrize(
    ("block", "place", "words"),
    [
        ({"type": "plya", "next": "bye"}, ".type", "no block's type (known: play, menu, read"),
        ({"type": 7, "next": "bye"}, ".type", "no block's type"),
        ({"type": ["play"], "next": "bye"}, ".type", "no block's type"),
        ({"next": "bye"}, ".type", "is missing"),
        ("bye", "", "must be an object"),
        (PLAY | {"colour": 1}, ".colour", "is not known here (known: type, media, next, bargeIn, timeout)"),
        ({"type": "play", "media": ["sound:a"]}, ".next", "is missing"),
        ({"type": "play", "next": "bye"}, ".media", "is missing"),
        (PLAY | {"media": []}, ".media", "must have 1 to 20 media"),
        (PLAY | {"media": ["sound:a"] * 21}, ".media", "must have 1 to 20 media"),
        (PLAY | {"media": "sound:a"}, ".media", "must be a list"),
        (PLAY | {"media": [1]}, ".media.0", "media URI"),
        (PLAY | {"media": ["sound:a", "prompt:hello"]}, ".media.1", "uploaded prompts are not supported yet"),
        (PLAY | {"media": ["text:hello"]}, ".media.0", "spoken text is not supported yet"),
        (PLAY | {"media": ["hello"]}, ".media.0", "begins with none of sound:"),
        (PLAY | {"media": ["http://x"]}, ".media.0", "begins with none of sound:"),
        (PLAY | {"media": ["{x}:a"]}, ".media.0", "begins with none of sound:"),
        (PLAY | {"media": ["sound:../a"]}, ".media.0", "not the name of a sound"),
        (PLAY | {"media": ["sound:/etc/a"]}, ".media.0", "not the name of a sound"),
        (PLAY | {"media": ["sound:http://a"]}, ".media.0", "not the name of a sound"),
        (PLAY | {"media": ["sound:a&b"]}, ".media.0", "not the name of a sound"),
        (PLAY | {"media": ["sound:"]}, ".media.0", "not the name of a sound"),
        (PLAY | {"media": ["sound:{a"]}, ".media.0", "has a { or }"),
        (PLAY | {"media": ["number:1.5"]}, ".media.0", "not a whole number"),
        (PLAY | {"media": ["digits:12a"]}, ".media.0", "something else than digits"),
        (PLAY | {"media": ["tone:busy"]}, ".timeout", "is missing: a tone never ends"),
        (PLAY | {"media": ["tone:{x}"], "timeout": 1}, ".media.0", "a tone takes no {name}"),
        (PLAY | {"next": 1}, ".next", "must be the name of a block"),
        (PLAY | {"next": "nowhere"}, ".next", "there is no block named 'nowhere'"),
        (PLAY | {"bargeIn": "yes"}, ".bargeIn", "must be true or false"),
        (PLAY | {"timeout": 0}, ".timeout", "must be a number from 0.1 to 600"),
        (PLAY | {"timeout": True}, ".timeout", "must be a number"),
        (PLAY | {"timeout": float("nan")}, ".timeout", "must be a number"),
        (MENU | {"keys": {}}, ".keys", "must have 1 to 50 keys"),
        (MENU | {"keys": {"12": "bye"}}, ".keys.12", "must be one key of 0123456789*#ABCD"),
        (MENU | {"keys": {"1": "nowhere"}}, ".keys.1", "there is no block named 'nowhere'"),
        (MENU | {"retries": 1.5}, ".retries", "must be a whole number from 0 to 10"),
        (MENU | {"media": ["tone:busy"]}, ".media.0", "belongs in a play"),
        ({"type": "menu", "keys": {"1": "bye"}}, ".noInput", "is missing (or invalid"),
        (READ | {"variable": "a b"}, ".variable", "letters, digits and _"),
        (READ | {"minLength": 5, "maxLength": 4}, ".minLength", "must not be above maxLength"),
        (READ | {"minLength": 21}, ".minLength", "must not be above maxLength"),
        (READ | {"terminator": "##"}, ".terminator", "must be one key"),
        ({"type": "set", "variables": {"a": "{"}, "next": "bye"}, ".variables.a", "has a { or }"),
        ({"type": "set", "variables": {"a-b": "c"}, "next": "bye"}, ".variables.a-b", "letters, digits and _"),
        ({"type": "set", "variables": {"a": None}, "next": "bye"}, ".variables.a", "must be a text"),
        ({"type": "set", "variables": {"a": "\ud800"}, "next": "bye"}, ".variables.a", "cannot be printed"),
        (BRANCH, ".conditions", "must have 1 to 50 conditions"),
        (branch(EQ | {"operator": "is"}), ".conditions.0.operator", "must be one of eq, ne"),
        (branch(EQ, EQ | {"next": "nowhere"}), ".conditions.1.next", "no block named"),
        (branch(EQ | {"operator": "in"}), ".conditions.0.value", "list of texts for in"),
        (branch(EQ | {"value": ["b"]}), ".conditions.0.value", "must be a text for eq"),
        (branch({"name": "a", "next": "bye"}), ".conditions.0", "operator, value go together"),
        (branch({"startTime": "09:00", "next": "bye"}), ".conditions.0", "go together"),
        (branch({"next": "bye"}), ".conditions.0", "tests nothing"),
        (branch({"weekDays": [0], "next": "bye"}), ".conditions.0.weekDays", "list of weekdays"),
        (branch(EQ | {"startTime": "9", "endTime": "25:00"}), ".conditions.0.startTime", "time of day"),
        (branch(EQ | {"operator": "matches", "value": "{x}*"}), ".conditions.0.value", "takes no"),
        ({"type": "wait", "next": "bye"}, ".seconds", "is missing"),
        ({"type": "wait", "seconds": 601, "next": "bye"}, ".seconds", "from 0.1 to 600"),
        ({"type": "result", "next": "bye"}, "", "sets nothing"),
        ({"type": "result", "extStatus": "A/B", "next": "bye"}, ".extStatus", "letters, digits, blank"),
        ({"type": "result", "extStatus": "", "next": "bye"}, ".extStatus", "must be 1 to 40"),
        ({"type": "result", "extStatus": "A" * 41, "next": "bye"}, ".extStatus", "must be 1 to 40"),
        ({"type": "queue", "queue": "green"}, ".next", "is missing"),
        (QUEUE | {"queue": "a b"}, ".queue", "must be 1 to 80 of letters, digits"),
        (QUEUE | {"queue": "{who}"}, ".queue", "must be 1 to 80 of letters, digits"),
        (QUEUE | {"queue": None}, ".queue", "must be 1 to 80 of letters, digits"),
        (QUEUE | {"timeout": 0}, ".timeout", "must be a whole number from 1 to 3600"),
        (QUEUE | {"timeout": 2.5}, ".timeout", "must be a whole number from 1 to 3600"),
        ({"type": "hangup", "next": "bye"}, ".next", "is not known here"),
    ],
)  # fmt: skip
def test_one_wrong_thing_is_one_problem_at_its_place(block: Any, place: str, words: str) -> None:
    found = problems(flow(first=block, bye={"type": "hangup"}) | {"start": "first"})
    mine = [each for each in found if each.startswith(f"blocks.first{place}: ")]
    assert mine, found
    assert words in mine[0]
    assert all(each.startswith("blocks.") for each in found)


def test_every_problem_is_told_at_once() -> None:
    document = copy.deepcopy(SURVEY)
    document["blocks"]["ask"]["keys"]["1"] = "yess"
    document["blocks"]["ask"]["timeout"] = "long"
    document["blocks"]["hello"]["media"] = ["sound:../hello"]
    document["blocks"]["x"] = {"type": "goto", "next": "y"}
    document["blocks"]["y"] = {"type": "play", "media": ["sound:a"], "next": "x"}
    document["version"] = 1
    assert problems(document) == [
        "blocks.hello.media.0: is not the name of a sound: letters, digits, _ - . and /, relative to the "
        "sounds, without ..",
        "blocks.ask.timeout: must be a number from 0.1 to 600",
        "version: is not known here (known: name, description, start, blocks)",
        "blocks.ask.keys.1: there is no block named 'yess'",
        "blocks.yes: can never be reached: no way from the start leads here",
        "blocks.x: can never be reached: no way from the start leads here",
        "blocks.y: can never be reached: no way from the start leads here",
        "blocks.x: loops without waiting for a key or a time: x -> y -> x",
    ]


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (None, "must be an object"),
        ([], "must be an object"),
        ({}, "name: is missing"),
        (SURVEY | {"start": "nowhere"}, "start: there is no block named 'nowhere'"),
        ({key: value for key, value in SURVEY.items() if key != "start"}, "start: is missing"),
        (SURVEY | {"blocks": {}}, "blocks: must be an object of named blocks, at least one"),
        (SURVEY | {"name": ""}, "name: must have 1 to 100 characters"),
        (SURVEY | {"name": "a\x00"}, "name: has a character that cannot be printed"),
        (SURVEY | {"description": "x" * 70_000}, "is larger than 64 kB"),
        (SURVEY | {"blocks": {f"{n}": {} for n in range(201)}}, "blocks: must have at most 200 blocks"),
        (SURVEY | {"name": {1, 2}}, "is not a JSON document"),
        (SURVEY | {"blocks": {1: {"type": "hangup"}}}, "blocks: must have texts as names"),
    ],
)  # fmt: skip
def test_a_document_that_is_none(document: object, problem: str) -> None:
    assert problem in problems(document)


def test_a_bad_name_of_a_block_is_told_without_repeating_it_raw() -> None:
    found = problems(flow(**{"\ud800.\n": {"type": "hangup"}}))
    assert found
    assert all(each.isprintable() for each in found)


def test_hostile_nesting_is_refused_before_it_is_read() -> None:
    document: Any = []
    for _ in range(100_000):
        document = [document]
    assert problems(document) == ["is nested more than 8 deep"]
    itself: list[Any] = []
    itself.append(itself)
    assert problems(itself) == ["is nested more than 8 deep"]


@pytest.mark.parametrize("kind", ["play", "set", "result", "optOut", "queue", "goto"])
def test_a_loop_of_blocks_that_do_not_wait_is_refused(kind: str) -> None:
    rest: dict[str, dict[str, Any]] = {
        "play": {"media": ["sound:a"]}, "set": {"variables": {"a": "b"}}, "result": {"extStatus": "A"}
    }  # fmt: skip
    assert problems(flow(a={"type": kind, "next": "a", **rest.get(kind, {})})) == [
        "blocks.a: loops without waiting for a key or a time: a -> a"
    ]


def test_a_branch_out_of_a_loop_does_not_excuse_it() -> None:
    found = problems(flow(b=BRANCH | {"conditions": [EQ]} | {"else": "p"}, p=PLAY | {"next": "b"}))
    assert found == ["blocks.b: loops without waiting for a key or a time: b -> p -> b"]


@pytest.mark.parametrize(
    "pause", [MENU | {"invalid": "p"}, READ | {"next": "p"}, {"type": "wait", "seconds": 1}]
)
def test_a_loop_that_waits_is_allowed(pause: dict[str, Any]) -> None:
    assert not problems(
        flow(p=PLAY | {"next": "w"}, w={"next": "p"} | pause if pause["type"] == "wait" else pause)
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_no_json_breaks_the_parser(document: object) -> None:
    assert problems(document)


@st.composite
def spoilt(draw: st.DrawFn) -> object:
    """The example with something put in the place of a random part."""
    document = copy.deepcopy(SURVEY)
    place: Any = document
    while True:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or draw(st.booleans()):
            place[key] = draw(json_values | st.sampled_from(["hello", "bye", "menu", "play"]))
            return document
        place = place[key]


@given(spoilt())
def test_a_spoilt_document_gives_a_flow_or_problems_that_can_be_printed(document: object) -> None:
    for problem in problems(document):
        assert problem.encode()


def test_the_example_of_the_manual_is_taken() -> None:
    manual = Path(__file__).parents[2] / "docs" / "ivr.md"
    example = manual.read_text().split("```json\n")[1].split("```")[0]
    assert not problems(json.loads(example))
