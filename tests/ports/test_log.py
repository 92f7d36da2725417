"""Lines as a program reads them: JSON, numbers masked, and never a wait for whoever reads."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from dialer_engine import log

Lines = Callable[[], list[dict[str, Any]]]
Setup = Callable[..., Lines]


@pytest.fixture
def setup() -> Iterator[Setup]:
    """Log into memory; the lines are there when they are asked for, which ends the logging."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.BytesIO()

    def start(**settings: Any) -> Lines:
        end = log.setup(stream=stream, **settings)

        def lines() -> list[dict[str, Any]]:
            end()
            return [json.loads(line) for line in stream.getvalue().splitlines()]

        return lines

    yield start
    structlog.reset_defaults()
    root.handlers[:], root.level = before


def test_a_line_is_an_object_with_its_room_and_instant(setup: Setup) -> None:
    lines = setup()
    log.get("engine").info("originated", campaign=7, limit=None)
    (line,) = lines()
    assert line.pop("at").endswith("Z")
    assert line == {"room": "engine", "event": "originated", "level": "info", "campaign": 7, "limit": None}


def test_numbers_are_masked_but_for_their_last_three_digits(setup: Setup) -> None:
    lines = setup()
    log.get("x").info(
        "said", number="+420 123 456 789", endpoint="PJSIP/00420123456789@c2", numbers=["1234"], run=123456
    )
    (line,) = lines()
    assert (line["number"], line["endpoint"]) == ("+*** *** *** 789", "PJSIP/***********789@c2")
    assert (line["numbers"], line["run"]) == (["*234"], 123456)


def test_a_number_within_what_is_told_is_masked_too(setup: Setup) -> None:
    """As in a result that could not be written."""
    lines = setup()
    log.get("x").error(
        "said", result={"number": "123456789", "status": "RS_BUSY", "attributes": {"number": 1234}}
    )
    assert lines()[0]["result"] == {
        "number": "******789",
        "status": "RS_BUSY",
        "attributes": {"number": "*234"},
    }


def test_numbers_are_shown_when_asked_for(setup: Setup) -> None:
    lines = setup(show_numbers=True)
    log.get("x").info("said", number="123456789")
    assert lines()[0]["number"] == "123456789"


def test_what_is_less_important_than_the_level_is_not_written(setup: Setup) -> None:
    lines = setup(level="warning")
    log.get("x").info("said")
    log.get("x").warning("warned")
    assert [line["event"] for line in lines()] == ["warned"]


def test_libraries_speak_in_the_same_form(setup: Setup) -> None:
    lines = setup()
    logging.getLogger("some.library").warning("it is %s", "odd")
    logging.getLogger("some.library").info("chatter")
    (line,) = lines()
    assert (line["library"], line["message"], line["level"]) == ("some.library", "it is odd", "warning")


def test_a_failure_has_its_traceback(setup: Setup) -> None:
    lines = setup()
    log.get("x").error("failed", exc_info=ValueError("odd"))
    assert "ValueError: odd" in lines()[0]["exception"]


def test_a_reader_that_stalls_stops_nobody_and_the_lost_lines_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stalled, go_on = threading.Event(), threading.Event()

    class Stalling(io.BytesIO):
        def write(self, line: Any) -> int:
            stalled.set()
            go_on.wait()
            return super().write(line)

    stream = Stalling()
    end = log.setup(stream=stream)
    say = log.get("x")
    say.info("first")
    stalled.wait()
    for n in range(log.WAITING_LINES + 5):
        say.info("said", n=n)
    go_on.set()
    end()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()
    assert len(lines) == log.WAITING_LINES + 2
    (dropped,) = (line for line in lines if line["event"] == "lines dropped")
    assert dropped["lines"] == 5
