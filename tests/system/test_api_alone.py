"""`run --api-only`: the API in a process of its own, on a real Redis, and what kill -9 does to it."""

from __future__ import annotations

import json
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.ports.store_desk import CAMPAIGN, FLOW
from tests.rig import Rig
from tests.system.api import Answer, Api, serve

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]

LONG = {"name": "long", "numbers": [{"number": str(number)} for number in range(600_000_000, 600_020_000)]}
ROUNDS = 4
FORBID, FORBIDDEN = "/dialer/do-not-call", 20_000


def test_it_needs_no_pbx_says_how_it_is_and_stops_at_once(tmp_path: Path) -> None:
    with Rig(tmp_path, None) as rig:
        rig.config.write_text(rig.config.read_text().replace('password = "none"\n', ""))
        api = serve(rig, "--api-only")
        assert api.ask("GET", "/healthz").json == {"status": "ok"}
        rig.until(lambda: api.ask("GET", "/readyz").status == 200, 5, "it is ready")
        api.done("POST", "/dialer/call-lists", {"name": "x", "numbers": []})

        rig.kill_redis()
        rig.until(lambda: api.ask("GET", "/readyz").status == 503, 5, "it says that Redis is away")
        lost = api.ask("GET", "/dialer/campaigns")
        assert (lost.status, lost.headers["retry-after"], lost.headers["content-type"]) == (
            503,
            "1",
            "application/problem+json",
        )
        assert api.ask("GET", "/healthz").status == 200
        rig.start_redis()
        rig.until(lambda: api.ask("GET", "/readyz").status == 200, 5, "it is ready again")
        assert api.done("GET", "/dialer/call-lists")["total"] == 1

        begun = time.monotonic()
        assert rig.stop() == 0
        assert time.monotonic() - begun < 2
        assert not rig.logged("asterisk connected")


def test_a_reload_changes_how_numbers_are_read(tmp_path: Path) -> None:
    with Rig(tmp_path, None) as rig:
        api = serve(rig, "--api-only")
        assert api.done("POST", "/dialer/do-not-call", {"number": "601 123 456"})["number"] == "601123456"
        rig.write_config('[numbers]\ndefault_region = "CZ"\n')
        assert rig.process is not None
        rig.process.send_signal(signal.SIGHUP)
        rig.until(lambda: rig.logged("reloaded"), 5, "it has read its configuration again")
        assert api.done("POST", "/dialer/do-not-call", {"number": "601 123 456"})["number"] == "+420601123456"
        rig.config.write_text("nonsense")
        rig.process.send_signal(signal.SIGHUP)
        rig.until(lambda: rig.logged("reload refused"), 5, "a broken one is not taken")
        assert api.ask("GET", "/healthz").status == 200


def asked(api: Api, method: str, path: str, body: object, **headers: str) -> Callable[[], Answer | None]:
    """In a thread, of a server that is killed meanwhile; what it answered, if it did."""
    answers: list[Answer] = []

    def ask() -> None:
        with suppress(OSError, HTTPException):
            answers.append(api.ask(method, path, body, **headers))

    thread = threading.Thread(target=ask)
    thread.start()

    def ended() -> Answer | None:
        thread.join(20)
        assert not thread.is_alive()
        return answers[0] if answers else None

    return ended


def test_killed_at_any_moment_it_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    with Rig(tmp_path, None) as rig:
        api = serve(rig, "--api-only")
        api.done("POST", "/ivr", FLOW)
        call_list = api.done("POST", "/dialer/call-lists", {"name": "list", "numbers": [{"number": "601"}]})[
            "id"
        ]
        ivr = api.done("GET", "/ivr")[0]["id"]
        definition = {**CAMPAIGN, "callLists": [call_list], "ivr": ivr}
        campaign = api.done("POST", "/dialer/campaigns", definition)["id"]
        path = f"/dialer/campaigns/{campaign}"
        for n in range(ROUNDS):
            before = api.done("GET", path)
            lists = api.done("GET", "/dialer/call-lists")["total"]
            campaigns = api.done("GET", "/dialer/campaigns")["total"]
            command = {"NEW": "start", "RUNNING": "pause", "PAUSED": "unpause"}[before["state"]]
            key = f"key {n}"
            created = definition | {"name": f"made {n}"}
            put = asked(api, "PUT", path, definition | {"name": f"edit {n}"})
            control = asked(api, "PUT", f"{path}/control", {"command": command})
            upload = asked(api, "POST", "/dialer/call-lists", LONG)
            forbid = asked(api, "POST", FORBID, forbidden(n), Content_Type="text/csv")
            post = asked(api, "POST", "/dialer/campaigns", created, Idempotency_Key=key)
            time.sleep(random.uniform(0, 0.25))
            rig.kill()
            answers = [one() for one in (put, control, upload, post, forbid)]
            api = serve(rig, "--api-only", bearer=api.token)
            edited(api, path, before, f"edit {n}", answers[0])
            commanded(api, path, before["state"], command, answers[1])
            uploaded(api, lists, answers[2])
            made_once(api, campaigns, created, key, answers[3])
            all_or_none(api, n, answers[4])


def edited(api: Api, path: str, before: Any, name: str, answer: Answer | None) -> None:
    """Done or not, with its version; and done when it was said to be."""
    after = api.done("GET", path)["name"]
    assert after in (before["name"], name)
    assert api.done("GET", f"{path}/versions?pageSize=5000")["items"][-1]["definition"]["name"] == after
    if answer is not None:
        assert (answer.status, after) == (200, name)


def commanded(api: Api, path: str, before: str, command: str, answer: Answer | None) -> None:
    """Done or not, state and run together; and done when it was said to be."""
    after = api.done("GET", path)
    done = {"start": "RUNNING", "pause": "PAUSED", "unpause": "RUNNING"}[command]
    assert after["state"] in (before, done)
    if answer is not None:
        assert (answer.status, after["state"]) == (200, done)
    assert after["run"] == int(after["state"] != "NEW")


def forbidden(n: int) -> bytes:
    """A table of numbers that no other round has."""
    return "".join(f"{700_000_000 + n * FORBIDDEN + one}\n" for one in range(FORBIDDEN)).encode()


def all_or_none(api: Api, n: int, answer: Answer | None) -> None:
    """Whoever imports next ends what a dead process has left: forward when it was all there, else back."""
    before = api.done("GET", "/dialer/do-not-call")["total"]
    api.done("POST", FORBID, b"799999999\n", Content_Type="text/csv")
    now_is = api.done("GET", "/dialer/do-not-call")["total"] - 1
    assert now_is >= before - 1
    assert now_is % FORBIDDEN == 0
    if answer is not None:
        assert api.ask("DELETE", f"{FORBID}?number={700_000_000 + n * FORBIDDEN}").status == 200
        api.done("POST", FORBID, {"number": str(700_000_000 + n * FORBIDDEN)})


def uploaded(api: Api, lists: int, answer: Answer | None) -> None:
    """The whole list, or none."""
    page = api.done("GET", "/dialer/call-lists?pageSize=5000")
    assert page["total"] in (lists, lists + 1)
    assert all(one["numbersCount"] in (1, len(LONG["numbers"])) for one in page["items"])
    if answer is not None:
        assert (answer.status, page["total"]) == (200, lists + 1)


def made_once(api: Api, campaigns: int, created: Any, key: str, answer: Answer | None) -> None:
    """Who got no answer asks again with his key."""
    again = api.ask("POST", "/dialer/campaigns", created, Idempotency_Key=key)
    assert again.status == 200
    assert answer is None or json.loads(answer.text) == again.json
    page = api.done("GET", "/dialer/campaigns?pageSize=5000")
    assert page["total"] == campaigns + 1
    assert [one["id"] for one in page["items"] if one["name"] == created["name"]] == [again.json["id"]]
