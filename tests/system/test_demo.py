"""`dialer-engine demo` as a newcomer types it: with a terminal and without, to its end, stopped, and lied to."""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest
import redis
from rich.console import Console

from dialer_engine.cli import callcentre, show
from dialer_engine.cli.callcentre import CUSTOMERS, STAFF
from dialer_engine.cli.comparison import compare
from dialer_engine.cli.connections import compare_connections
from dialer_engine.cli.crowd import KINDS, Kind, Person, crowd
from dialer_engine.cli.wallboard import Wallboard
from dialer_engine.core.model import CampaignId, CampaignState
from dialer_engine.simulator.world import Seen

system = pytest.mark.system

QUICK = ("--numbers", "30", "--speed", "3")
PATIENCE_SECONDS = 45.0
ROWS, COLUMNS = 40, 100
ANOTHERS = {
    "DIALER_REDIS__URL": "redis://127.0.0.1:9/0",
    "DIALER_ARI__URL": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "NO_COLOR": "1",
}
"""A demo must not be led astray by it."""


def _without_size(environment: Mapping[str, str]) -> dict[str, str]:
    """Of the terminal: some runners set it, and it counts more than the terminal's own."""
    return {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}


class Demo:
    """A demo under way and what it has printed; its temporary files are in a directory of its own."""

    def __init__(
        self, home: Path, arguments: Sequence[str], environment: Mapping[str, str], *, terminal: bool
    ) -> None:
        self.home = home
        home.mkdir()
        self._text = b""
        self._read, written = pty.openpty() if terminal else os.pipe()
        if terminal:
            fcntl.ioctl(self._read, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = psutil.Popen(
            [sys.executable, "-m", "dialer_engine", "demo", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            start_new_session=True,
            env={**_without_size(os.environ), "TERM": "xterm-256color", "TMPDIR": str(home), **environment},
        )
        os.close(written)
        self._reader = threading.Thread(target=self._listen)
        self._reader.start()

    def _listen(self) -> None:
        while True:
            try:
                heard = os.read(self._read, 65536)
            except OSError:  # so a terminal ends
                return
            if not heard:
                return
            self._text += heard

    @property
    def text(self) -> str:
        return self._text.decode()

    def says(self, pattern: str) -> re.Match[str]:
        """Wait for it."""
        found: re.Match[str] = self.until(lambda: re.search(pattern, self.text), pattern)
        return found

    def until(self, found: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (one := found()):
            assert time.monotonic() < deadline, f"not in time: {what}\n{self.text}"
            assert self.process.poll() is None or found(), f"it has ended: {what}\n{self.text}"
            time.sleep(0.02)
        return one

    def daemon(self) -> psutil.Process:
        daemon: psutil.Process
        (daemon,) = self.until(self.process.children, "the daemon is started")
        return daemon

    def ctrl_c(self) -> None:
        """To whoever is in the terminal's foreground."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ends(self) -> int:
        """Its exit code; all that it has printed is in `text` then."""
        code: int = self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        return code

    def left(self) -> list[Path]:
        return [*self.home.iterdir()]

    def close(self) -> None:
        for process in (
            (*self.process.children(recursive=True), self.process) if self.process.is_running() else ()
        ):
            process.kill()
        self.ends()
        os.close(self._read)


@dataclass
class Demos:
    """Those that a test starts; none outlives it."""

    directory: Path
    stack: ExitStack = field(default_factory=ExitStack)

    def start(
        self,
        name: str,
        *arguments: str,
        terminal: bool = False,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> Demo:
        demo = Demo(self.directory / name, arguments, environment, terminal=terminal)
        self.stack.callback(demo.close)
        return demo


@pytest.fixture
def demos(tmp_path: Path) -> Iterator[Demos]:
    with ExitStack() as stack:
        yield Demos(tmp_path, stack)


@dataclass(frozen=True)
class Whole:
    """Three demos from beginning to end, at once: a ring alone takes 15 s."""

    plain: Demo
    terminal: Demo
    lied_to: Demo
    lost: str
    """The number whose result the last one does not find."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with ExitStack() as stack:
        demos = Demos(tmp_path_factory.mktemp("demo"), stack)
        lied_to = demos.start("lied-to", *QUICK)
        plain = demos.start("plain", *QUICK, "--seed", "7", environment=ANOTHERS)
        terminal = demos.start("terminal", *QUICK, "--keep", terminal=True)
        yield Whole(plain, terminal, lied_to, lose_a_result(lied_to))


def lose_a_result(demo: Demo) -> str:
    """Take one out of its Redis; the number."""
    url = demo.says(r"redis://\S+").group()
    with redis.Redis.from_url(url, decode_responses=True) as connection:
        name = demo.until(lambda: connection.keys("*:results"), "results")[0]
        ((entry, fields),) = demo.until(lambda: connection.xrange(name, count=1), "a result")
        connection.xdel(name, entry)
    return str(fields["number"])


@system
def test_a_result_that_is_lost_is_found_out(whole: Whole) -> None:
    demo = whole.lied_to
    assert demo.ends() == 1
    assert demo.text.count("NOT EQUAL") == 1
    assert re.search(rf": {whole.lost} \w+ \w+: .*; recorded: ", demo.text)
    assert "not all equal" in demo.text
    assert demo.left() == []


@system
def test_without_a_terminal_there_are_plain_lines(whole: Whole) -> None:
    demo = whole.plain
    assert demo.ends() == 0, demo.text
    assert "\x1b" not in demo.text
    assert re.search(r"^ +\d s  RUNNING .* of 30 done ", demo.text, re.MULTILINE), demo.text
    assert re.search(r"^ +\d+ s  COMPLETED .* 30 of 30 done ", demo.text, re.MULTILINE), demo.text
    assert re.search(
        r"^ +for agents  COMPLETED .* agents: .* connected, 0 waiting, ", demo.text, re.MULTILINE
    ), demo.text
    rows = [line for line in demo.text.splitlines() if line.rstrip().endswith(" equal")]
    assert len(rows) >= len(KINDS) + len(CUSTOMERS) + len(STAFF)
    assert re.search(r"waits for an agent +\d+ talked to an agent +\d+ TERMINATED", demo.text), demo.text
    assert demo.text.count("all equal") == 1
    assert "What next" in demo.text
    assert demo.left() == []


@system
def test_a_person_sees_it_dial_and_may_play_with_it(whole: Whole) -> None:
    demo = whole.terminal
    config = demo.says(r"DIALER_CONFIG=(\S+)").group(1)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", demo.text)
    assert re.search(r"campaign +RUNNING for \d+ s", shown), shown
    assert re.search(r"contacts +30 of 30 are done", shown), shown
    assert re.search(r"limit +(RATE|DIALING) +No call may start", shown), shown
    assert re.search(r"live now .*\d+ ringing", shown), shown
    assert re.search(r"for agents +RUNNING +\d+ of \d+ done; \d+ connected, \d+ waiting, abandoned ", shown), (
        shown
    )
    assert re.search(r"agents +(talking|ringing|free): \w+", shown), shown
    assert re.search(r"pace +(WAITING_AGENTS|DIALING|QUEUE_FULL|STALE_QUEUE_DATA) +\S", shown), shown
    assert re.search(r"keys .*\d+ pressed 1 \(yes\)", shown), shown
    assert re.search(r"RS_BUSY +[1-9]\d* +busy", shown), shown
    assert re.search(r"\w+ \w+ +TERMINATED/CONFIRMED", shown), shown
    assert "\nall equal" in shown
    assert f"\x1b[{1}A" in demo.text, "it was not drawn over and over at one place"

    command = [sys.executable, "-m", "dialer_engine", "campaign", "list", "--config", config]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    assert re.search(r"survey +COMPLETED", listed)
    demo.ctrl_c()
    assert demo.ends() == 130
    assert demo.left() == []


@system
def test_ended_in_the_middle_it_leaves_nothing(demos: Demos) -> None:
    stopped, terminated, orphaned = (
        demos.start(name, *QUICK) for name in ("stopped", "terminated", "orphaned")
    )
    daemons = [demo.daemon() for demo in (stopped, terminated, orphaned)]
    for demo in (stopped, terminated, orphaned):
        demo.says("RUNNING")
    stopped.ctrl_c()
    stopped.ctrl_c()  # the impatient one changes nothing
    terminated.process.terminate()
    daemons[2].kill()
    assert [demo.ends() for demo in (stopped, terminated, orphaned)] == [130, 143, 1]
    assert "everything is cleared away" in stopped.text
    assert "has ended by itself, exit code -9" in orphaned.text
    assert re.search(r'^  {.*"event":"\w+', orphaned.text, re.MULTILINE), "the last words of its log"
    assert not any(daemon.is_running() for daemon in daemons)
    assert stopped.left() == terminated.left() == orphaned.left() == []


@system
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_killed_outright_it_leaves_no_daemon(demos: Demos) -> None:
    demo = demos.start("killed", *QUICK)
    daemon = demo.daemon()
    demo.says("RUNNING")
    demo.process.kill()
    assert demo.ends() == -signal.SIGKILL
    assert psutil.wait_procs([daemon], PATIENCE_SECONDS)[1] == []


@system
def test_without_the_extra_the_remedy_is_named(demos: Demos) -> None:
    absent = demos.directory / "absent"
    absent.mkdir()
    (absent / "fakeredis.py").write_text("raise ImportError('not installed')")
    demo = demos.start("bare", environment={"PYTHONPATH": str(absent)})
    assert demo.ends() == 78
    assert 'pip install "dialer-engine[demo]"' in demo.text


# --- what the comparison finds ---


TALKS = Kind("hangs up", 1, "2 10 010 ######")
BUSY = Kind("is busy twice", 1, "5 00 486 ######", calls=2)
LISTED = Kind("is not to be called", 1, "3 05 000 ######", calls=0)
PRESSES = Kind("presses 9", 1, "4 10 1 1 9000 ###")
EVA, JAN, PETR, OLGA = (
    Person(kind.number(1), name, kind)
    for kind, name in ((TALKS, "Eva Kral"), (BUSY, "Jan Maly"), (LISTED, "Petr Novak"), (PRESSES, "Olga Lang"))
)
PEOPLE = (EVA, JAN, PETR, OLGA)


def seen(person: Person, at: float, **more: Any) -> Seen:
    return Seen(f"{person.number}-{at}", person.number, person.number, "100", at, ended_at=at + 3, **more)


def result(
    person: Person, at: float, status: str, ext_status: str | None = None, **more: Any
) -> dict[str, Any]:
    call = {
        "originatedAt": at,
        "endedAt": at + 3,
        "ringingAt": None,
        "answeredAt": None,
        "redialAt": None,
        **more,
    }
    instants = {
        name: None if value is None else f"2026-01-01T00:00:{value:09.6f}+00:00" for name, value in call.items()
    }
    return {"number": person.number, "status": status, "extStatus": ext_status, "values": {}, **instants}


BEGIN = 1767225600.0  # 2026-01-01
CALLS = [
    seen(EVA, BEGIN, answered_at=BEGIN + 1, ended_by="world"),
    seen(JAN, BEGIN + 1, rejected_by=486),
    seen(JAN, BEGIN + 9, rejected_by=486),
    seen(OLGA, BEGIN + 2, answered_at=BEGIN + 3, keys=[("9", BEGIN + 4)], ended_by="pbx"),
]
RESULTS = [
    result(EVA, 0, "TERMINATED", "HANGUP", answeredAt=1),
    result(JAN, 1, "RS_BUSY", redialAt=9),
    result(JAN, 9, "RS_BUSY"),
    {**result(PETR, 5, "RS_BLACKLIST", "on the list before"), "originatedAt": None},
    result(OLGA, 2, "TERMINATED", answeredAt=3),
]


def unequal(
    calls: Sequence[Seen] = CALLS,
    results: Sequence[dict[str, Any]] = RESULTS,
    opted_out: Sequence[str] = (OLGA.number,),
) -> list[str]:
    """The names of the rows that are not."""
    kinds = (TALKS, BUSY, LISTED, PRESSES)
    return [
        line.name for line in compare(PEOPLE, calls, results, frozenset(opted_out), kinds) if not line.equal
    ]


def but(index: int, **changes: Any) -> list[dict[str, Any]]:
    """The results, one of them changed."""
    return [{**one, **changes} if place == index else one for place, one in enumerate(RESULTS)]


def test_what_is_equal_is_called_equal() -> None:
    assert unequal() == []


@pytest.mark.parametrize(
    ("results", "rows"),
    [
        (but(0, status="RS_NOANSWER"), ["hangs up"]),
        (but(0, extStatus=None), ["hangs up"]),
        (but(0, values={"answer": "1"}), ["hangs up"]),
        (RESULTS[1:], ["hangs up"]),
        ([*RESULTS, RESULTS[0]], ["hangs up"]),
        (but(3, extStatus="another reason"), ["is not to be called"]),
        (but(0, number="2010010999999"), ["hangs up", "anybody else"]),
        (but(0, answeredAt="2026-01-01T00:00:02.500000+00:00"), ["times of all calls"]),
        (but(0, ringingAt="2026-01-01T00:00:01.000000+00:00"), ["times of all calls"]),
        (but(1, redialAt="2026-01-01T00:00:10.000000+00:00"), ["is called again"]),
        (but(1, redialAt=None), ["is called again"]),
    ],
)
def test_a_false_result_is_found(results: list[dict[str, Any]], rows: list[str]) -> None:
    assert unequal(results=results) == rows


def test_a_call_too_many_or_too_few_is_found() -> None:
    assert unequal(calls=[*CALLS, seen(PETR, BEGIN + 5)]) == ["is not to be called", "times of all calls"]
    assert unequal(calls=CALLS[1:]) == ["hangs up"]
    assert unequal(calls=[*CALLS[:2], CALLS[3]], results=[*RESULTS[:2], *RESULTS[3:]]) == [
        "is busy twice",
        "is called again",
    ]
    stranger = replace(CALLS[0], number="2010010999999")
    assert unequal(calls=[*CALLS, stranger]) == ["anybody else"]


def test_a_wish_that_is_not_heard_is_found() -> None:
    assert unequal(opted_out=()) == ["wants no more calls"]
    assert unequal(opted_out=(OLGA.number, EVA.number)) == ["wants no more calls"]


# --- and of who was connected to whom ---


WAITS = Kind("waits", 1, "3 10 000 7#####")
ANNA, BEN, CARL = (
    Person(WAITS.number(serial), name, WAITS)
    for serial, name in enumerate(("Anna Blau", "Ben Grün", "Carl Rot"))
)
AGENTS = {"1001": "Agnes", "1002": "Albert"}
MEETINGS = [
    seen(ANNA, BEGIN, answered_at=BEGIN + 1, ended_by="pbx", met="1001", met_at=BEGIN + 1.2),
    seen(BEN, BEGIN, answered_at=BEGIN + 1, ended_by="pbx", met="1002", met_at=BEGIN + 2.9),
    seen(CARL, BEGIN, answered_at=BEGIN + 1, ended_by="world"),
    *(
        Seen("t", telephone, telephone, "100", BEGIN + 1.1, ended_at=BEGIN + 3, met=person.number, **more)
        for telephone, person, more in (
            ("1001", ANNA, {"met_at": BEGIN + 1.2, "said": "SOLD"}),
            ("1002", BEN, {"met_at": BEGIN + 2.9}),
        )
    ),
    Seen("t", "1002", "1002", "100", BEGIN + 5, met="0155", met_at=BEGIN + 5, ended_at=BEGIN + 9),
]


def met(
    person: Person, agent: str | None, seconds: float | None = None, talk: float = 0.0, **more: Any
) -> dict[str, Any]:
    queue = {"secondsToAgent": seconds, "talkSeconds": talk, "abandoned": seconds is None or seconds > 2}
    status = "TERMINATED" if agent else "RS_LOST"
    return {**result(person, 0, status, answeredAt=1), "agent": agent, "queue": queue, **more}


CONNECTED = [
    met(ANNA, "Agnes", 0.2, 1.8, extStatus="SOLD"),
    met(BEN, "Albert", 1.9, 0.1),
    met(CARL, None),
]


def misconnected(results: Sequence[dict[str, Any]] = CONNECTED, calls: Sequence[Seen] = MEETINGS) -> list[str]:
    lines = compare_connections((ANNA, BEN, CARL), calls, results, (WAITS,), AGENTS)
    return [line.name for line in lines if not line.equal]


def changed(index: int, **changes: Any) -> list[dict[str, Any]]:
    return [{**one, **changes} if place == index else one for place, one in enumerate(CONNECTED)]


def of_queue(index: int, **changes: Any) -> list[dict[str, Any]]:
    return changed(index, queue={**CONNECTED[index]["queue"], **changes})


def test_who_was_connected_to_whom_is_called_equal() -> None:
    assert misconnected() == []


@pytest.mark.parametrize(
    ("results", "rows"),
    [
        (changed(0, agent="Albert"), ["waits", "agent Agnes", "agent Albert"]),
        (changed(0, agent=None), ["waits", "agent Agnes"]),
        (changed(0, extStatus="NOT_INTERESTED"), ["waits"]),
        (changed(2, status="TERMINATED"), ["waits"]),
        (changed(2, status="RS_TIMEOUT"), ["waits"]),
        (CONNECTED[1:], ["waits", "agent Agnes"]),
        ([*CONNECTED, changed(2, number="3010000799999")[2]], ["anybody else for agents"]),
        (of_queue(0, abandoned=True), ["no agent within 2 s"]),
        (of_queue(2, abandoned=False), ["no agent within 2 s"]),
        (changed(2, queue=None), ["no agent within 2 s"]),
        (of_queue(0, secondsToAgent=1.7), ["seconds to the agent"]),
        (of_queue(1, talkSeconds=4.0), ["agent Albert"]),
        (changed(1, answeredAt="2026-01-01T00:00:02.500000+00:00"), ["times of their calls"]),
    ],
)
def test_a_false_connection_is_found(results: list[dict[str, Any]], rows: list[str]) -> None:
    assert misconnected(results) == rows


def test_a_wait_that_is_nearly_two_seconds_may_be_abandoned_or_not() -> None:
    assert misconnected(of_queue(1, abandoned=True)) == misconnected(of_queue(1, abandoned=False)) == []


def test_a_caller_who_met_somebody_else_is_found() -> None:
    wrong = replace(MEETINGS[0], met="1002")
    assert misconnected(calls=[wrong, *MEETINGS[1:]]) == ["waits"]


def test_on_a_terminal_of_eighty_columns_there_are_fewer_than_24_lines() -> None:
    store: Any = None
    sentence = (
        "No call may start: 5 agents are available in queue sales; boostFactor 1.5 allows 7 calls for "
        "them, and 7 are under way."
    )
    board = Wallboard(store, CampaignId(2), 40, dict)
    board.agents = dict(
        zip(callcentre.NAMES, itertools.cycle(("talking", "ringing", "wrapping up")), strict=False)
    )
    board.state, board.plan = CampaignState.RUNNING, ("WAITING_AGENTS", sentence)
    picture = show.Picture(store, CampaignId(1), crowd(320), list, title="demo", beside=board)
    picture.state, picture.limit = CampaignState.RUNNING, "RATE"
    picture.sentence = "3 calls may start: calls of this campaign or of trunk carrier may not start faster."
    picture.phases = Counter({"about to be dialed": 1, "dialed": 4, "ringing": 12, "in the flow": 12})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(picture.render(80))
    assert 20 < len(console.export_text().splitlines()) < 24


def test_a_seed_tells_who_is_called_in_which_order() -> None:
    assert crowd(320, seed=1) == crowd(320, seed=1)
    assert crowd(320, seed=1) != crowd(320, seed=2)
    for size in (25, 320, 5000):
        people = crowd(size)
        assert len({person.number for person in people}) == size
        assert {person.kind for person in people} == {*KINDS}
