"""The commands as an operator runs them, on a real Redis; the daemon as a process of its own.

Most commands run within this process, by the same `main`: starting Python fifty times would show nothing more.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dialer_engine.cli import main

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]

PATIENCE_SECONDS = 20.0

FLOW = {
    "name": "hello",
    "start": "hello",
    "blocks": {
        "hello": {"type": "play", "media": ["sound:hello-world"], "next": "bye"},
        "bye": {"type": "hangup"},
    },
}
ALWAYS = {"startTime": "00:00", "endTime": "24:00", "weekDays": [1, 2, 3, 4, 5, 6, 7]}


class Place:
    """A directory with a configuration, a Redis behind it, and the commands."""

    def __init__(self, path: Path, redis_url: str) -> None:
        self.path = path
        self.redis_url = redis_url
        self.bind = f"127.0.0.1:{free_port()}"
        self.config = path / "dialer.toml"
        self.configure()

    def configure(self, more: str = "") -> None:
        self.config.write_text(
            f"[redis]\nurl = '{self.redis_url}'\n[api]\nbind = '{self.bind}'\n"
            f"[ari]\npassword = 'x'\nurl = 'http://127.0.0.1:9'\n[daemon]\nname = 'here'\n"
            f"data_directory = '{self.path}/data'\n{more}"
        )

    def file(self, name: str, content: object) -> str:
        target = self.path / name
        target.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(target)

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dialer_engine", *arguments],
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Standard output and error of a command that ends with `code`."""
        out, err = io.StringIO(), io.StringIO()
        # In a thread, for a command runs a loop of its own and pytest-asyncio keeps one in this.
        with (
            redirect_stdout(out),
            redirect_stderr(err),
            ThreadPoolExecutor() as thread,
            pytest.raises(SystemExit) as ended,
        ):
            thread.submit(main, arguments).result()
        assert (ended.value.code or 0) == code, (out.getvalue(), err.getvalue())
        return out.getvalue(), err.getvalue()

    def run_process(self, *arguments: str, code: int, environment: dict[str, str] | None = None) -> str:
        """Standard error of a process that ends with `code`."""
        process = self.start(*arguments, environment=environment)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == code, (out, err)
        return err

    def pipe(self, *arguments: str, words: bytes = b"", code: int = 0) -> bytes:
        """What a process with these words on its standard input says: its output, or why it failed."""
        command = [sys.executable, "-m", "dialer_engine", *arguments]
        done = subprocess.run(command, input=words, capture_output=True, timeout=PATIENCE_SECONDS, check=False)
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stderr if code else done.stdout

    @contextmanager
    def daemon(self, *arguments: str, **environment: str) -> Iterator[Daemon]:
        """A daemon that runs, and at the end has been stopped."""
        process = self.start("run", *arguments, environment=environment)
        daemon = Daemon(process)
        try:
            yield daemon
        finally:
            if not daemon.ended:
                process.terminate()
                daemon.wait()

    def ask(self, asked: str | urllib.request.Request) -> tuple[int, str]:
        """Status and text of the answer; 0: there was none."""
        url = f"http://{self.bind}{asked}" if isinstance(asked, str) else asked
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()
        except OSError as exc:
            return 0, str(exc)

    def wait_for(self, path: str, text: str) -> None:
        """Ask until the answer holds the text."""
        until = time.monotonic() + PATIENCE_SECONDS
        while text not in (answer := self.ask(path)[1]):
            assert time.monotonic() < until, f"{path} never said {text}, but {answer}"
            time.sleep(0.05)


class Daemon:
    """A running daemon; afterwards, what it has logged."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.send_signal = process.send_signal
        self._process = process
        self.ended = False
        self.log: list[dict[str, object]] = []

    def wait(self) -> int:
        """Its exit code."""
        try:
            _, err = self._process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, err = self._process.communicate()
        self.ended = True
        self.log = [json.loads(line) for line in err.splitlines()]
        return self._process.returncode

    def told(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.log if line["event"] == event]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("redis")
    path = home / "socket"
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(home)],
        stdout=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while not path.exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        yield f"unix://{path}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def place(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path, redis_url)
    monkeypatch.setenv("DIALER_CONFIG", str(made.config))
    monkeypatch.setenv("COLUMNS", "200")
    return made


def test_a_campaign_from_files_to_its_end(place: Place) -> None:
    people = place.file(
        "people.csv", "number;name\n+420 123 456 789;Jan\n420123456780;Eva\nnobody;x\n420123456780;again\n"
    )
    out, err = place.run("list", "create", "people", people)
    call_list = int(out)
    assert "2 rows written, 1 repeats dropped" in err
    assert "people.csv:4: number" in err

    ivr = place.run("ivr", "save", place.file("ivr.json", FLOW))[0].strip()
    definition = {
        "name": "all",
        "callerId": "100",
        "activePeriod": ALWAYS,
        "callLists": [call_list],
        "ivr": ivr,
        "rescheduleRules": [],
    }
    campaign = place.run("campaign", "create", place.file("campaign.json", definition))[0].strip()
    assert json.loads(place.run("campaign", "show", campaign)[0]) == definition

    assert "possible now: start" in place.run("campaign", "pause", campaign, code=1)[1]
    place.run("campaign", "start", campaign)
    assert "No daemon has planned it yet." in place.run("campaign", "list")[0]
    place.run("campaign", "pause", campaign)
    assert json.loads(place.run("campaign", "stats", campaign)[0])["state"] == "PAUSED"

    changed = place.file("campaign.json", definition | {"callerId": "200"})
    place.run("campaign", "edit", campaign, changed)
    (_, last) = json.loads(place.run("campaign", "show", campaign, "--versions")[0])
    assert last["definition"]["callerId"] == "200"

    assert f"campaigns {campaign}" in place.run("list", "delete", str(call_list), code=1)[1]
    place.run("campaign", "remove", campaign)
    assert place.run("export", campaign)[0].startswith("number,status,extStatus")
    place.run("campaign", "delete", campaign)
    place.run("campaign", "show", campaign, code=1)


def test_a_list_goes_out_as_it_came_in(place: Place) -> None:
    rows = 'number,name\r\n+420123456789,Jan\r\n00420 123 456 780,"Eva, the ""first"""\r\n'
    call_list = place.run("list", "create", "people", place.file("a.csv", rows))[0].strip()
    assert place.run("list", "export", call_list)[0] == rows
    place.run("list", "append", call_list, place.file("b.csv", "123456\n123457\n"))
    place.run("list", "strike-out", call_list, "+420 123 456 789")
    place.run("list", "strike-out", call_list, "999999", code=1)
    lines = place.run("list", "export", call_list, "--format", "ndjson")[0].splitlines()
    assert [json.loads(line)["number"] for line in lines] == ["00420 123 456 780", "123456", "123457"]
    place.run("list", "import", call_list, place.file("c.csv", "number\n777777\n"))
    shown = json.loads(place.run("list", "show", call_list, "--json")[0])
    assert [row["number"] for row in shown] == ["777777"]


def test_an_export_is_an_import(place: Place) -> None:
    """Through a pipe, with a byte order mark, and with whatever an attribute may be called and hold."""
    rows = [
        {"number": "601", "attributes": {"note": "a\rb\r\nc\nd", "number": "602", "phone": "603"}},
        {"number": "604", "attributes": {"note": '=1+"1";,', "number": "", "phone": " "}},
    ]
    lines = [[row["number"], *row["attributes"].values()] for row in rows]  # type: ignore[attr-defined]
    text = io.StringIO()
    csv.writer(text).writerows([["number", "note", "number", "phone"], *lines])
    out = place.pipe("list", "create", "people", "-", words=b"\xef\xbb\xbf" + text.getvalue().encode())
    table = place.pipe("list", "export", out.decode().strip())
    assert table == text.getvalue().encode()
    copy = place.pipe("list", "create", "copy", "-", words=table).decode().strip()
    exported = place.run("list", "export", copy, "--format", "ndjson")[0]
    assert [json.loads(line) for line in exported.splitlines()] == rows


def test_standard_input_that_is_no_text_is_told(place: Place) -> None:
    told = place.pipe("list", "create", "people", "-", words=b"number\n601\n\xff\n", code=1)
    assert b"is not UTF-8 text" in told


def test_a_strict_import_is_all_or_nothing(place: Place) -> None:
    before = place.run("list", "list", "--json")[0]
    bad = place.file("bad.csv", "number\n123456\nnobody\n")
    assert "bad.csv:3" in place.run("list", "create", "bad", bad, "--strict", code=1)[1]
    assert (
        "column `number`" in place.run("list", "create", "bad", place.file("n.csv", "name\nJan\n"), code=1)[1]
    )
    assert place.run("list", "list", "--json")[0] == before


def test_whoever_must_not_be_called(place: Place) -> None:
    place.run("dnc", "add", "+420 111 111 111", "--reason", "asked", "--until", "2999-01-01")
    place.run("dnc", "import", place.file("dnc.csv", "number,reason\n222222,letter\n"))
    (one, two) = json.loads(place.run("dnc", "check", "+420111111111", "222222", "--json")[0])
    assert (one["reason"], one["until"][:4], two["reason"]) == ("asked", "2999", "letter")
    place.run("dnc", "remove", "222222")
    place.run("dnc", "remove", "222222", code=1)
    bad = place.file("bad.csv", "number\n" + "".join(f"3{n:05}\n" for n in range(3000)) + '"444444\n')
    assert "a quoted text begins here" in place.run("dnc", "import", bad, code=1)[1]  # none of it counts
    assert [row["number"] for row in json.loads(place.run("dnc", "list", "--json")[0])] == ["+420111111111"]


def test_nobody_is_told_that_a_number_will_not_be_called_when_it_will(place: Place) -> None:
    file = place.file("dnc.csv", "number\n333333\n")
    for command in (("add", "333333"), ("import", file)):
        assert "--until: is over" in place.run("dnc", *command, "--until", "2020-01-01", code=1)[1]
        assert "no campaign 999" in place.run("dnc", *command, "--campaign", "999", code=1)[1]
    for asked in (("remove", "333333"), ("check", "333333"), ("list",)):
        assert "no campaign 999" in place.run("dnc", *asked, "--campaign", "999", code=1)[1]
    soon = datetime.now(UTC) + timedelta(seconds=1)
    place.run("dnc", "add", "333333", "--until", soon.isoformat())
    time.sleep(max(0.0, (soon - datetime.now(UTC)).total_seconds()))
    (row,) = json.loads(place.run("dnc", "check", "333333", "--json")[0])
    assert row["list"] == "all campaigns, over"
    place.run("dnc", "remove", "333333")


def test_a_flow_with_mistakes_is_refused_with_their_places(place: Place) -> None:
    flow = {**FLOW, "start": "hallo"}
    assert "start: there is no block" in place.run("ivr", "check", place.file("ivr.json", flow), code=1)[1]


def test_a_test_call_without_a_daemon_says_so_and_leaves_nothing(place: Place) -> None:
    ivr = place.run("ivr", "save", place.file("ivr.json", FLOW))[0].strip()
    before = place.run("campaign", "list", "--json")[0], place.run("list", "list", "--json")[0]
    assert "Does a daemon run" in place.run_process("call", "123456", "--ivr", ivr, "--timeout", "1", code=1)
    assert "no IVR" in place.run_process("call", "123456", "--ivr", "nonesuch00", code=1)
    place.run_process("call", "112", "--ivr", ivr, code=1)
    assert (place.run("campaign", "list", "--json")[0], place.run("list", "list", "--json")[0]) == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
def test_a_test_call_that_is_stopped_leaves_nothing_that_would_call_later(
    place: Place, signum: signal.Signals
) -> None:
    ivr = place.run("ivr", "save", place.file("ivr.json", FLOW))[0].strip()
    before = place.run("campaign", "list", "--json")[0], place.run("list", "list", "--json")[0]
    call = place.start("call", "123456", "--ivr", ivr)
    until = time.monotonic() + PATIENCE_SECONDS
    while '"RUNNING"' not in place.run("campaign", "list", "--json")[0]:
        assert time.monotonic() < until
    call.send_signal(signum)
    out, err = call.communicate(timeout=PATIENCE_SECONDS)
    assert (call.returncode, out, err) == (128 + signum, "", "stopped\n")
    assert (place.run("campaign", "list", "--json")[0], place.run("list", "list", "--json")[0]) == before


def test_a_test_call_that_is_not_dialed_says_why(place: Place) -> None:
    ivr = place.run("ivr", "save", place.file("ivr.json", FLOW))[0].strip()
    with place.daemon():
        place.wait_for("/readyz", "Asterisk")
        told = place.run_process("call", "123456", "--ivr", ivr, "--timeout", "2", code=1)
    assert "no result within 2 s: No call may start: Asterisk" in told


def test_what_people_have_written_stands_in_a_table_letter_by_letter(place: Place) -> None:
    """No markup of it is obeyed, no line is broken for it, and none of it commands the terminal."""
    people = place.file("people.csv", f"number,note\n601,[/b] :smile: [red]x[/]\n602,{'long ' * 190}\n")
    call_list = place.run("list", "create", "[1] [/green]", people)[0].strip()
    assert f" {call_list} " in place.run("list", "list")[0]
    assert " [1] [/green] " in place.run("list", "list")[0]
    header, first, second = place.run("list", "show", call_list)[0].splitlines()
    assert "attributes" in header
    assert '{"note": "[/b] :smile: [red]x[/]"}' in first
    assert "long " * 189 in second
    place.run("dnc", "add", "603", "--reason", "a\x1b[31m\nb")
    assert "a\ufffd[31m\ufffdb" in place.run("dnc", "list")[0]
    place.run("dnc", "remove", "603")
    place.run("list", "delete", call_list)


def test_a_list_has_a_name_that_the_api_would_take(place: Place) -> None:
    people = place.file("people.csv", "601\n")
    for name in ("", "two\nlines", "\x1b[31m", "x" * 201):
        assert "name:" in place.run("list", "create", name, people, code=1)[1]


def test_whose_fault_it_is_stands_in_the_exit_code(place: Place) -> None:
    nowhere = {"DIALER_REDIS__URL": f"redis://127.0.0.1:{free_port()}/0"}
    assert "redis is unavailable" in place.run_process("list", "list", code=69, environment=nowhere)
    place.run_process("run", code=69, environment=nowhere)
    place.run("list", "show", "none", code=2)
    embedded = {"DIALER_REDIS__URL": "embedded"}
    assert "--volatile" in place.run_process("run", code=78, environment=embedded)
    with socket.create_server(("127.0.0.1", int(place.bind.rpartition(":")[2]))):
        assert "cannot listen" in place.run_process("run", code=69)


@pytest.mark.parametrize("command", [("list", "list"), ("run",)], ids=" ".join)
def test_a_redis_that_does_not_answer_is_given_up_when_the_configuration_says_so(
    place: Place, command: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hung = {
            "DIALER_REDIS__URL": f"redis://127.0.0.1:{silent.getsockname()[1]}/0",
            "DIALER_REDIS__TIMEOUT_SECONDS": "0.2",
        }
        began = time.monotonic()
        place.run_process(*command, code=69, environment=hung)
        assert time.monotonic() - began < 4.5, "the default is 5 s"


def test_the_daemon_lives_reloads_and_drains(place: Place, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE_SECONDS)
        with place.daemon(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="300000") as daemon:
            assert systemd.recv(1000) == b"READY=1"
            assert systemd.recv(1000) == b"WATCHDOG=1"
            place.wait_for("/metrics", 'dialer_port_up{port="redis"} 1.0')
            place.wait_for("/readyz", "Asterisk")
            assert place.ask("/healthz") == (200, '{"status":"ok"}')

            place.configure("[results]\nkeep_days = 5\n[dialing]\nqueue_context = 'elsewhere'\n")
            daemon.send_signal(signal.SIGHUP)
            while (told := systemd.recv(1000)) == b"WATCHDOG=1":
                pass
            assert told.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert systemd.recv(1000) == b"READY=1"
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait() == 0
    assert daemon.log[-1]["event"] == "stopped"
    (told_of,) = daemon.told("restart needed")
    assert told_of["settings"] == ["dialing.queue_context"]


def test_a_reload_with_mistakes_changes_nothing(place: Place) -> None:
    with place.daemon() as daemon:
        place.wait_for("/healthz", "ok")
        place.configure("[redsi]\n")
        daemon.send_signal(signal.SIGHUP)
        place.wait_for("/healthz", "ok")
        daemon.send_signal(signal.SIGINT)
        assert daemon.wait() == 0
    (refused,) = daemon.told("reload refused")
    assert refused["problems"] == ["redsi: there is no such setting"]


def test_an_embedded_redis_serves_a_trial(place: Place) -> None:
    with place.daemon("--volatile", DIALER_REDIS__URL="embedded"):
        place.wait_for("/metrics", 'dialer_port_up{port="redis"} 1.0')


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def listed(place: Place, kind: str) -> dict[str, dict[str, str]]:
    """By name; other tests may have left some."""
    return {one["name"]: one for one in json.loads(place.run(kind, "list", "--json")[0])}


def test_users_are_added_listed_changed_and_removed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, "correct horse battery\nnot this line\n")
    out, err = place.run("user", "add", "eva", "--rights", "dialer:manage")
    assert (out, err) == ("", "user eva added\n")
    type_in(monkeypatch, "short")
    _, err = place.run("user", "add", "jan", "--rights", "dialer:read", "--rights", "dialer:manage")
    assert "easily guessed" in err

    users = listed(place, "user")
    assert (users["eva"]["rights"], users["jan"]["rights"]) == ("dialer:manage", "dialer:manage dialer:read")
    assert "argon2" not in str(users) + place.run("user", "list")[0]

    type_in(monkeypatch, "another one, longer\n")
    assert "already" in place.run("user", "add", "eva", "--rights", "dialer:read", code=1)[1]
    type_in(monkeypatch, "another one, longer\n")
    assert "new password" in place.run("user", "password", "eva")[1]
    for name in ("eva", "jan"):
        place.run("user", "remove", name)
    assert "no user 'eva'" in place.run("user", "remove", "eva", code=1)[1]
    assert not listed(place, "user").keys() & {"eva", "jan"}


@pytest.mark.parametrize(
    ("arguments", "typed", "complaint"),
    [
        (("noah", "--rights", "dialer:all"), "correct horse battery", "dialer:read and dialer:manage"),
        (("no ah", "--rights", "dialer:read"), "correct horse battery", "name: must have"),
        (("noah", "--rights", "dialer:read"), "\n", "password: must have"),
        (("noah", "--rights", "dialer:read"), "", "password: must have"),
    ],
)
def test_a_user_who_cannot_be(
    place: Place, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], typed: str, complaint: str
) -> None:
    type_in(monkeypatch, typed)
    assert complaint in place.run("user", "add", *arguments, code=1)[1]
    assert arguments[0] not in listed(place, "user")


def test_a_token_is_printed_once_and_alone(place: Place) -> None:
    out, err = place.run("token", "create", "ci", "--rights", "dialer:read", "--until", "2099-01-01")
    assert re.fullmatch(r"dialer_ci\.[A-Za-z0-9_-]{43}\n", out)
    assert err == ""
    token = listed(place, "token")["ci"]
    assert (token["rights"], token["until"]) == ("dialer:read", "2099-01-01T00:00:00+00:00")
    assert out.strip().rpartition(".")[2] not in str(token) + place.run("token", "list")[0]

    assert "revoke it" in place.run("token", "create", "ci", "--rights", "dialer:read", code=1)[1]
    assert (
        "--until" in place.run("token", "create", "x", "--rights", "dialer:read", "--until", "soon", code=1)[1]
    )
    past = ("--until", "2020-01-01")
    assert "is over" in place.run("token", "create", "x", "--rights", "dialer:read", *past, code=1)[1]
    place.run("token", "revoke", "ci")
    assert "no token 'ci'" in place.run("token", "revoke", "ci", code=1)[1]
    assert "ci" not in listed(place, "token")


def test_a_daemon_lets_in_whom_the_commands_have_added(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """And at once no more whom they have removed."""
    type_in(monkeypatch, "correct horse battery")
    place.run("user", "add", "anna", "--rights", "dialer:read")
    api_token = place.run("token", "create", "crm", "--rights", "dialer:manage")[0].strip()
    form = {"grant_type": "password", "username": "anna", "password": "correct horse battery"}

    def ask(path: str, bearer: str | None = None, form: dict[str, str] | None = None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        body = urllib.parse.urlencode(form).encode() if form else None
        return place.ask(urllib.request.Request(f"http://{place.bind}{path}", body, headers))

    with place.daemon():
        place.wait_for("/healthz", "ok")
        status, text = ask("/token", form=form)
        assert status == 200
        access_token = json.loads(text)["access_token"]
        for bearer in (access_token, api_token):
            assert ask("/ivr", bearer)[0] == 200
        assert ask("/ivr")[0] == 401
        place.run("user", "remove", "anna")
        place.run("token", "revoke", "crm")
        for bearer in (access_token, api_token):
            assert ask("/ivr", bearer)[0] == 401
        assert ask("/token", form=form)[0] == 400
