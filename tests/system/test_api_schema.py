"""The API keeps its word: schemathesis reads /openapi.json and asks everything it can think of, with a token."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports.store_desk import CAMPAIGN, FLOW
from tests.rig import Rig
from tests.system.api import Api, serve

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
    "ignored_auth",
)
"""All there are but one: positive_data_acceptance. What a schema allows may still name a list that is not there, be
no time zone, or no flow that ends, and is refused with its reason."""
EXAMPLES = os.environ.get("DIALER_SCHEMA_EXAMPLES", "5")

HOOKS = """
import schemathesis

schemathesis.serializer.alias("application/x-ndjson", "text/plain")
"""
CONFIG = """
hooks = "hooks.py"

[[operations]]
# It has no end; tests/ports/test_api_events.py asks it.
include-path = "/dialer/events"
enabled = false

[checks.negative_data_rejection]
# 412: a precondition is looked at before a body that may be long (RFC 9110, section 13.2.1).
expected-statuses = ["400", "401", "403", "404", "405", "409", "412", "413", "415", "422", "429"]
"""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Rig(tmp_path, None) as rig:
        served = serve(rig, "--api-only")
        rig.redis.hset(
            rig.key("ivr:TUxw53xCBf"), "document", '{"name":"x","start":"b","blocks":{"b":{"type":"hangup"}}}'
        )
        rig.redis.sadd(rig.key("ivrs"), "TUxw53xCBf")
        served.done("POST", "/ivr", FLOW)
        for _ in range(3):
            served.done("POST", "/dialer/call-lists", {"name": "list", "numbers": [{"number": "601"}]})
            served.done("POST", "/dialer/campaigns", CAMPAIGN)
        yield served
        assert rig.stop() == 0


def test_schemathesis_finds_nothing(api: Api, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    (tmp_path / "hooks.py").write_text(HOOKS)
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(config),
        "run",
        f"{api.url}/openapi.json",
    ]
    command += ["-H", f"Authorization: Bearer {api.token}", "--checks", ",".join(CHECKS)]
    command += ["--phases", "examples,coverage,fuzzing,stateful", "--max-examples", EXAMPLES]
    command += ["--continue-on-failure", "--no-color", "--warnings", "off"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
