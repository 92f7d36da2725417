"""Long lists and old results, and kill -9 in the midst of them: the old state or the new one, never between.

The commands and the daemon as processes of their own on a real Redis; nothing here needs Asterisk.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Rig

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]

ROWS = 20_000
DAYS, EACH = 6, 1500
RESULT_FIELDS = (
    "attempt", "run", "member", "number", "attributes", "redial", "at", "status", "extStatus", "cause", "sipCode",
    "agent", "recording", "values", "path", "originatedAt", "ringingAt", "answeredAt", "leftIvrAt", "connectedAt",
    "endedAt", "more",
)  # fmt: skip


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path, None) as rig:
        yield rig


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.csv"
    path.write_text("number\n" + "".join(f"{420_600_000_000 + 7 * n}\n" for n in range(ROWS)))
    return path


def killed_when(rig: Rig, condition: Callable[[], Any], *arguments: str) -> None:
    """Run a command, and kill it as soon as this holds."""
    command = [sys.executable, "-m", "dialer_engine", *arguments, "--config", str(rig.config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        while not condition():
            assert process.poll() is None, "it was done before"
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def a_minute_passes(rig: Rig) -> None:
    """The signs of life of imports run out."""
    for key in rig.redis.scan_iter("{dialer:list:*}:import:*"):
        assert 0 < rig.redis.ttl(key) <= 60
        rig.redis.delete(key)


def keys_of(rig: Rig, call_list: int) -> set[str]:
    return {str(key).partition("}:")[2] for key in rig.redis.scan_iter(f"{{dialer:list:{call_list}}}:*")}


def imported(rig: Rig, *arguments: str) -> str:
    done = rig.cli("list", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_list_whose_import_is_killed_is_not_there_and_can_be_imported_again(rig: Rig, numbers: Path) -> None:
    killed_when(
        rig,
        lambda: rig.redis.llen("{dialer:list:1}:rows:1") >= ROWS // 3,
        *("list", "create", "people", str(numbers)),
    )
    assert json.loads(rig.cli("list", "list", "--json").stdout) == []
    a_minute_passes(rig)
    assert f"list 2: {ROWS} rows written, 0 repeats dropped" in imported(rig, "create", "people", str(numbers))
    assert keys_of(rig, 1) == set()
    killed_when(
        rig,
        lambda: rig.redis.llen("{dialer:list:2}:rows:2") >= ROWS // 3,
        *("list", "import", "2", str(numbers)),
    )
    a_minute_passes(rig)
    assert f"list 2: 0 rows written, {ROWS} repeats dropped" in imported(rig, "append", "2", str(numbers))
    (info,) = json.loads(rig.cli("list", "list", "--json").stdout)
    assert (info["rows"], info["generation"]) == (ROWS, 1)
    assert not rig.redis.exists("{dialer:list:2}:rows:2", "{dialer}:imports")


def test_rows_whose_append_is_killed_are_all_there_or_none(rig: Rig, tmp_path: Path, numbers: Path) -> None:
    one = tmp_path / "one.csv"
    one.write_text("420999999999\n")
    imported(rig, "create", "people", str(one))
    append = ("list", "append", "1", str(numbers))
    killed_when(rig, lambda: rig.redis.llen("{dialer:list:1}:coming:2") >= ROWS, *append)
    a_minute_passes(rig)
    assert "list 1: 0 rows written, 1 repeats" in imported(rig, "append", "1", str(one))
    assert rig.redis.llen("{dialer:list:1}:rows:1") == 1
    assert not rig.redis.exists("{dialer:list:1}:coming:2")

    killed_when(rig, lambda: rig.redis.hexists("{dialer:list:1}:meta", "moving:4"), *append)
    assert rig.redis.llen("{dialer:list:1}:rows:1") < ROWS
    a_minute_passes(rig)
    assert "list 1: 0 rows written, 1 repeats" in imported(rig, "append", "1", str(one))
    assert rig.redis.llen("{dialer:list:1}:rows:1") == ROWS + 1
    assert f"list 1: 0 rows written, {ROWS} repeats" in imported(rig, *append[1:])
    rows = rig.redis.lrange("{dialer:list:1}:rows:1", 0, -1)
    assert rows == ["420999999999", *numbers.read_text().split()[1:]]


def old_results(rig: Rig, campaign: int) -> None:
    """EACH of DAYS days, the last of them 100 days ago, and one of today."""
    first = datetime.now(UTC).replace(hour=0, minute=0, second=0) - timedelta(days=100 + DAYS)
    with rig.redis.pipeline(transaction=False) as pipeline:
        for n in range(DAYS * EACH + 1):
            at = first + timedelta(days=n // EACH, seconds=n % EACH) if n < DAYS * EACH else datetime.now(UTC)
            known = {
                "attempt": f"a{n:020}",
                "run": 1,
                "member": f"1.1.{n}|0|0|",
                "number": 420_600_000_000 + n,
                "attributes": "{}",
                "at": at.timestamp(),
                "status": "RS_BUSY",
                "cause": 17,
            }
            fields: dict[Any, Any] = {name: known.get(name, "") for name in RESULT_FIELDS}
            pipeline.xadd(rig.key(f"campaign:{campaign}:results"), fields, id=f"{int(at.timestamp() * 1000)}-0")
        pipeline.execute()


def exported(rig: Rig, campaign: int) -> list[int]:
    done = rig.cli("export", str(campaign), "--format", "ndjson")
    assert done.returncode == 0, done.stderr
    return [int(json.loads(line)["number"]) - 420_600_000_000 for line in done.stdout.splitlines()]


def test_results_whose_archiving_is_killed_are_exported_once_each(rig: Rig) -> None:
    campaign = rig.campaign([], start=False)
    old_results(rig, campaign)
    results = rig.key(f"campaign:{campaign}:results")
    place = rig.directory / "data/results/dialer" / str(campaign)

    def files() -> list[str]:
        return sorted(path.name[:10] for path in place.glob("*.gz"))

    kills: list[Callable[[], object]] = [
        (place / ".unfinished").exists,
        lambda: len(files()) >= DAYS // 2,
    ]
    for moment in kills:
        rig.start(ready=False)
        rig.until(moment, 20, "the archive has come so far")
        rig.kill()
        assert rig.redis.xlen(results) > 1, "it was done before"
        assert exported(rig, campaign) == list(range(DAYS * EACH + 1))
    rig.start(ready=False)
    rig.until(lambda: rig.redis.xlen(results) == 1, 20, "all that is old has been archived")
    assert rig.stop() == 0
    assert len(set(files())) == DAYS
    assert not (place / ".unfinished").exists()
    assert exported(rig, campaign) == list(range(DAYS * EACH + 1))
    archived: Any = rig.redis.hgetall(rig.key(f"campaign:{campaign}:archived"))
    assert archived.pop("through") <= archived.pop("closed")
    assert archived == {"by:rig": str(DAYS * EACH)}
    told = rig.logged("archived results")
    assert sum(line["results"] for line in told) <= DAYS * EACH

    shutil.move(rig.directory / "data", rig.directory / "elsewhere")
    done = rig.cli("export", str(campaign))
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 2), "what is there, and that it is not all"
    assert f"{DAYS * EACH} more were archived by rig" in done.stderr
    assert rig.cli("export", str(campaign), "--since", "2099-01-01").returncode == 0
