"""Another program with redis-cli alone, by the very commands of docs/redis.md, on the lab."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import number
from tests.lab.lab import Lab
from tests.rig import Rig, serial

pytestmark = [pytest.mark.lab, pytest.mark.system]

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "redis.md"


class Shell:
    """Types commands at one Redis, as the document prints them."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def __call__(self, line: str) -> str:
        program, *arguments = shlex.split(line)
        assert program == "redis-cli", line
        command = ["redis-cli", "-s", str(self.rig.socket), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        assert not done.stdout.startswith(("ERR", "WRONGTYPE")), done.stdout
        return done.stdout.strip()


def documented() -> list[str]:
    """The first block of commands: a list, an IVR, a campaign, and its start."""
    block = re.search(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert block is not None
    return [line for line in block[1].splitlines() if line]


@pytest.fixture(scope="module")
def shell(new_rig: Callable[[str], Rig]) -> Shell:
    rig = new_rig("")
    rig.start()
    return Shell(rig)


@pytest.fixture(scope="module")
def dialed(shell: Shell) -> dict[str, str]:
    """The documented campaign, started and dialed: numbers of the lab and the whole day, all else to the letter."""
    ours = {
        "123456789'": f"{number.rejects(404, serial=serial())}'",
        "987654321": number.answers(ring=0.1, talk=5, serial=serial()),
        '"startTime":"09:00"': '"startTime":"00:00"',
        '"endTime":"17:00"': '"endTime":"24:00"',
        '"ivr":': '"whenDone":"wait","ivr":',
    }
    for line in documented():
        written = line
        for theirs, mine in ours.items():
            written = written.replace(theirs, mine)
        shell(written)
    shell.rig.until(lambda: len(shell.rig.results(1)) == 2, 15, "both are called")
    return {item["number"]: item["status"] for item in shell.rig.results(1)}


def test_the_documented_commands_alone_make_a_campaign_that_is_dialed(
    shell: Shell, dialed: dict[str, str], lab: Lab
) -> None:
    assert sorted(dialed.values()) == ["RS_NUMBER", "TERMINATED"]
    assert [call.caller_id for call in shell.rig.world_calls(dialed)] == ["123456789"] * 2
    talked = next(one for one, status in dialed.items() if status == "TERMINATED")
    (item,) = [item for item in shell.rig.results(1) if item["number"] == talked]
    assert item["attributes"] == {"name": "Eva"}
    assert item["path"] == ["tell", "bye"]
    (call,) = lab.world_calls(talked)
    assert call.ended_by == "pbx"
    assert call.duration == pytest.approx(1.7, abs=1.3), "it heard hello-world to the end"
    assert shell("redis-cli HGET '{dialer}:campaign:1:state' state") in ("RUNNING", "INVALID")
    assert "cron" in shell("redis-cli XRANGE '{dialer}:audit' - +")


def test_a_row_pushed_to_the_list_of_a_waiting_campaign_is_dialed(shell: Shell, dialed: dict[str, str]) -> None:
    rig = shell.rig
    contact = number.rejects(486, serial=serial())
    pushed_at = time.time()
    shell(f"redis-cli RPUSH '{{dialer:list:1}}:rows:1' '{contact}'")
    rig.until(lambda: rig.world_calls([contact]), 5, "it is called")
    assert rig.world_calls([contact])[0].invited_at - pushed_at < 2.5
    assert contact not in dialed


def test_a_definition_broken_while_it_runs_is_invalid_with_the_reason_and_goes_on_when_mended(
    shell: Shell, dialed: dict[str, str]
) -> None:
    rig = shell.rig
    rig.reaches(1, "RUNNING")
    assert dialed
    ringing = number.answers(ring=4, talk=5, serial=serial())
    shell(f"redis-cli RPUSH '{{dialer:list:1}}:rows:1' '{ringing}'")
    rig.until(lambda: rig.world_calls([ringing]), 5, "it rings")
    sound = shell("redis-cli GET '{dialer}:campaign:1:definition'")
    broken = sound.replace('"callerId":"123456789"', '"callerId":"12@34","colour":"red"')
    shell(f"redis-cli SET '{{dialer}}:campaign:1:definition' '{broken}'")
    shell("redis-cli PUBLISH '{dialer}:wake' 'campaign 1'")
    reason = rig.reaches(1, "INVALID")["reason"]
    assert [part.partition(": ")[0] for part in reason.split("; ")] == ["callerId", "colour"]
    assert shell("redis-cli HGET '{dialer}:campaign:1:state' reason") == reason
    broken_at = time.time()
    waiting = number.rejects(404, serial=serial())
    shell(f"redis-cli RPUSH '{{dialer:list:1}}:rows:1' '{waiting}'")
    rig.until(lambda: ringing in {item["number"] for item in rig.results(1)}, 15, "the live call goes on")
    (item,) = [item for item in rig.results(1) if item["number"] == ringing]
    assert (item["status"], item["path"]) == ("TERMINATED", ["tell", "bye"])
    assert rig.world_calls([waiting]) == []
    run = rig.state(1)["run"]
    shell(f"redis-cli SET '{{dialer}}:campaign:1:definition' '{sound}'")
    rig.until(lambda: rig.world_calls([waiting]), 5, "it goes on without any command")
    assert rig.state(1)["state"] == "RUNNING"
    assert rig.state(1)["run"] == run
    assert "reason" not in rig.state(1)
    called = [
        call.number for call in rig.world_calls([*dialed, ringing, waiting]) if call.invited_at > broken_at
    ]
    assert called == [waiting], "its place is kept"


def test_commands_without_a_wake_up_are_obeyed_within_two_seconds(shell: Shell, dialed: dict[str, str]) -> None:
    rig = shell.rig
    rig.reaches(1, "RUNNING")
    assert dialed
    for command, state in (("pause", "PAUSED"), ("unpause", "RUNNING")):
        order = json.dumps({"campaign": 1, "command": command, "by": "cron"})
        shell(f"redis-cli RPUSH '{{dialer}}:commands' '{order}'")
        pushed_at = time.time()
        rig.reaches(1, state)
        assert float(rig.state(1)["changed_at"]) - pushed_at < 2
        assert rig.state(1)["changed_by"] == "cron"


def test_everything_is_stopped_and_resumed_by_one_key(shell: Shell, dialed: dict[str, str]) -> None:
    rig = shell.rig
    rig.reaches(1, "RUNNING")
    assert dialed
    shell("redis-cli SET '{dialer}:stop' 'fire drill'")
    contact = number.rejects(404, serial=serial())
    shell(f"redis-cli RPUSH '{{dialer:list:1}}:rows:1' '{contact}'")
    time.sleep(2)
    assert rig.world_calls([contact]) == []
    shell("redis-cli DEL '{dialer}:stop'")
    rig.until(lambda: rig.world_calls([contact]), 5, "it is dialed now")
