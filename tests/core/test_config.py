"""One file and the environment, every mistake at once, and never a secret on the screen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from dialer_engine import config
from dialer_engine.config import Config, load, reload
from dialer_engine.core.compliance import dial, normalise
from dialer_engine.core.model import TrunkName
from dialer_engine.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "config/dialer.toml"
SECRET = "hunter2"
OF_SYSTEMD = ("CREDENTIALS_DIRECTORY", "STATE_DIRECTORY")

SECTIONS: dict[str, type[BaseModel]] = {
    "redis": config.RedisSettings,
    "ari": config.AriSettings,
    "ami": config.AmiSettings,
    "api": config.ApiSettings,
    "oidc": config.OidcSettings,
    "trunks": config.TrunkSettings,
    "dialing": config.DialingSettings,
    "numbers": config.NumbersSettings,
    "daemon": config.DaemonSettings,
    "results": config.ResultsSettings,
    "queues": config.QueueSettings,
    "log": config.LogSettings,
}

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DIALER_") or name in OF_SYSTEMD]:
        monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "dialer.toml"
        path.write_text(text)
        return path

    return write


def mistakes(path: Path) -> dict[str, str]:
    with pytest.raises(ConfigError) as raised:
        load(path)
    return {problem.place: problem.reason for problem in raised.value.problems}


ARI = f'[ari]\npassword = "{SECRET}"\n'


def test_a_password_is_enough(write: Write) -> None:
    loaded = load(write(ARI))
    assert loaded.default_trunk == "carrier"
    assert loaded.trunk_table()[TrunkName("carrier")].dial_string == "PJSIP/${num}@carrier"
    assert loaded.daemon.drain_seconds == 30


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("", "ari.password", "needed"),
        ("[ari]\npassword = ''", "ari.password", "at least 1"),
        ("[redsi]\n", "redsi", "no such setting"),
        ("[redis]\nurrl = 'x'", "redis.urrl", "no such setting"),
        ("[redis]\nurl = 'http://x'", "redis.url", "redis"),
        ("[redis]\nurl = 'redis+cluster://x'", "redis.url", "redis+sentinel"),
        ("[redis]\nprefix = 'a{b'", "redis.prefix", "pattern"),
        ("[ari]\nurl = 'ftp://x'", "ari.url", "http://HOST"),
        ("[ari]\nurl = 'http://me:it@x'", "ari.url", "username"),
        ("[ami]\nport = 70000", "ami.port", "65535"),
        ("[api]\nbind = '8080'", "api.bind", "HOST:PORT"),
        ("[api]\naccess_token_seconds = 100000", "api.access_token_seconds", "86400"),
        ("[oidc]\nissuer = 'https://id'", "oidc.audience", "needed"),
        ("[oidc]\nissuer = 'http://id.example.com'\naudience = 'a'", "oidc.issuer", "https"),
        ("[oidc]\njwks_url = 'file:///keys'", "oidc.jwks_url", "http://HOST"),
        ("[trunks.a]\ndial_string = 'PJSIP/a'", "trunks.a.dial_string", "exactly once"),
        ("[trunks.a]\ndial_string = 'PJSIP/${num}${num}'", "trunks.a.dial_string", "exactly once"),
        ("[trunks.a]\ndial_string = 'PJSIP/${num}@c&PJSIP/1'", "trunks.a.dial_string", "TECHNOLOGY"),
        ("[trunks.a]\ndial_string = '${num}@c'", "trunks.a.dial_string", "TECHNOLOGY"),
        ("[trunks.a]\ndial_string = 'Local/${num},1'", "trunks.a.dial_string", "TECHNOLOGY"),
        ("[trunks.'a b']\n", "trunks.a b", "letters"),
        ("[trunks.a]\ncapacity = 0", "trunks.a.capacity", "greater"),
        ("[trunks.a]\ncalls_per_second = 0", "trunks.a.calls_per_second", "greater"),
        ("[trunks.a]\nnumber_format = 'e164'", "trunks.a.number_format", "default_region"),
        ("[trunks.a]\n[trunks.b]\n", "dialing.default_trunk", "several"),
        ("[dialing]\ndefault_trunk = 'b'", "dialing.default_trunk", "no [trunks.b]"),
        ("[dialing]\ntimezone = 'Mars/Olympus'", "dialing.timezone", "IANA"),
        ("[dialing]\ntimezone = 'Europe'", "dialing.timezone", "IANA"),
        ("[dialing]\ntimezone = '/etc/localtime'", "dialing.timezone", "IANA"),
        ("[numbers]\ndefault_region = 'Czechia'", "numbers.default_region", "pattern"),
        ("[daemon]\ndrain_seconds = -1", "daemon.drain_seconds", "greater"),
        ("[daemon]\ndata_directory = 'here'", "daemon.data_directory", "absolute"),
        ("[results]\nkeep_days = 0", "results.keep_days", "greater"),
        ("[queues.green]\nwrap_up_seconds = inf", "queues.green.wrap_up_seconds", "finite"),
        ("[log]\nlevel = 'loud'", "log.level", "debug"),
        ("redis = 5", "redis", "dictionary"),
    ],
)
def test_a_mistake_is_told_with_its_place(write: Write, text: str, place: str, reason: str) -> None:
    assert reason in mistakes(write(text))[place]


def test_all_mistakes_are_told_at_once(write: Write) -> None:
    found = mistakes(
        write("""
        [redis]
        prot = 1
        [ari]
        password_file = "/nowhere/at/all"
        [trunks.a]
        capacity = -1
        [dialing]
        default_trunk = "b"
        timezone = "Nowhere"
        """)
    )
    assert found.keys() == {
        "redis.prot",
        "ari.password_file",
        "trunks.a.capacity",
        "dialing.default_trunk",
        "dialing.timezone",
    }


def test_a_file_that_cannot_be_read_is_a_mistake_of_the_configuration(tmp_path: Path, write: Write) -> None:
    assert "No such file" in mistakes(tmp_path / "none.toml")[str(tmp_path / "none.toml")]
    assert "is not TOML" in next(iter(mistakes(write("[ari")).values()))


def test_the_environment_goes_before_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIALER_REDIS__URL", "redis://elsewhere/1")
    monkeypatch.setenv("DIALER_TRUNKS__CARRIER__CAPACITY", "7")
    loaded = load(write(ARI + "[redis]\nurl = 'redis://here/0'\n[trunks.carrier]\ncapacity = 100"))
    assert (loaded.redis.url, loaded.trunks["carrier"].capacity) == ("redis://elsewhere/1", 7)


def test_a_credential_goes_before_the_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ari.password").write_text("from systemd\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load(write(ARI)).ari.password.get_secret_value() == "from systemd"


def test_systemd_says_where_the_data_is(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(load(write(ARI)).daemon.data_directory) == "/var/lib/dialer-engine"
    monkeypatch.setenv("STATE_DIRECTORY", "/srv/dialer:/srv/other")
    assert str(load(write(ARI)).daemon.archive_of("mine")) == "/srv/dialer/results/mine"


def test_a_secret_may_stand_in_a_file_of_its_own(write: Write, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    loaded = load(write(f"[ari]\npassword_file = '{tmp_path}/secret'"))
    assert loaded.ari.password.get_secret_value() == SECRET
    assert "give one" in mistakes(write(ARI + f"password_file = '{tmp_path}/secret'"))["ari.password_file"]


def test_commands_for_redis_alone_need_no_secret_of_the_pbx(write: Write) -> None:
    path = write("[ari]\npassword_file = '/root/only'\n[redis]\npassword = 'p@ss'")
    assert load(path, needs_pbx=False).redis.location == "redis://:p%40ss@127.0.0.1:6379/0"


def test_no_secret_is_ever_shown(write: Write) -> None:
    loaded = load(
        write(
            ARI
            + f"[ami]\nsecret = '{SECRET}'\n[api]\nmetrics_token = '{SECRET}'\n"
            + f"[redis]\nurl = 'redis://u:{SECRET}@h:1/0'\npassword = '{SECRET}'"
        )
    )
    assert SECRET not in repr(loaded) + str(loaded) + str(loaded.shown()) + repr(loaded.redis)
    assert "u:***@h:1" in str(loaded.shown())
    bad = write(f"[ari]\npassword = ['{SECRET}']\n[redis]\nurl = 'mysql://{SECRET}@h'")
    assert SECRET not in str(mistakes(bad))


def test_a_reload_names_what_needs_a_restart(write: Write) -> None:
    old = load(write(ARI))
    new = load(
        write(
            "[ari]\npassword = 'other'\n[redis]\nprefix = 'p'\n[trunks.carrier]\ncapacity = 1\n"
            "[daemon]\nname = 'n'\ndrain_seconds = 5\n[dialing]\ntimezone = 'Europe/Prague'\nqueue_context = 'q'"
        )
    )
    changed = ("ari.password", "daemon.name", "dialing.queue_context", "dialing.timezone", "redis.prefix")
    assert reload(old, new) == changed
    assert reload(old, old) == ()


WITHOUT_DEFAULT = {  # shown with an example, because their default is "unset" or of this host
    "redis.password", "ari.password", "ami.secret", "api.metrics_token", "oidc.issuer",
    "oidc.audience", "oidc.jwks_url", "trunks.dial_string",
    "trunks.calls_per_second", "dialing.default_trunk", "numbers.default_region", "numbers.emergency",
    "daemon.name", "daemon.data_directory", "queues.wrap_up_seconds", "queues.ring_in_use",
}  # fmt: skip


def test_the_example_shows_every_setting_and_its_default(write: Write) -> None:
    text = re.sub(r"^# (?=\[|[a-z_]+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    shown = tomllib.loads(text)
    shown["trunks"], shown["queues"] = shown["trunks"]["carrier"], shown["queues"]["green"]
    assert shown.keys() == SECTIONS.keys() == Config.model_fields.keys()
    for name, section in SECTIONS.items():
        assert shown[name].keys() == section.model_fields.keys()
        for key, field in section.model_fields.items():
            if f"{name}.{key}" not in WITHOUT_DEFAULT:
                assert shown[name][key] == field.default, f"{name}.{key}"
    load(EXAMPLE)
    load(write(text))


def test_every_setting_has_its_manual() -> None:
    for section in SECTIONS.values():
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


def test_check_config_exits_with_78_and_lists_the_mistakes(write: Write) -> None:
    path = write("[redis]\nport = 1\n[dialing]\ntimezone = 'Mars'")
    done = subprocess.run(
        [sys.executable, "-m", "dialer_engine", "check-config", "--config", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    for place in ("redis.port", "dialing.timezone", "ari.password"):
        assert place in done.stderr
    assert not done.stdout


def test_the_first_local_trunk_needs_a_restart_and_the_second_does_not(write: Write) -> None:
    """Its channels are heard among all of the PBX, by a socket that is opened at the start."""
    head = "[ari]\npassword = 'x'\n[dialing]\ndefault_trunk = 'a'\n[trunks.a]\ncapacity = 5\n"
    plain, one, two = (
        load(
            write(
                head
                + "".join(f"[trunks.{name}]\ndial_string = 'Local/${{num}}@from-internal'\n" for name in names)
            )
        )
        for names in ("", "b", "bc")
    )
    assert reload(plain, one) == ("trunks.b",)
    assert reload(one, two) == reload(two, one) == reload(one, plain) == ()


@pytest.mark.parametrize(
    ("number_format", "dialed"),
    [
        ("as_given", "777123456"),
        ("e164", "+420777123456"),
        ("digits", "420777123456"),
        ("national", "777123456"),
    ],
)
def test_every_format_of_numbers_that_may_be_configured_can_be_dialed(
    write: Write, number_format: str, dialed: str
) -> None:
    """`digits` was unknown to the room that writes them: every contact of such a trunk ended as RS_BLACKLIST."""
    settings = load(
        write(
            "[ari]\npassword = 'x'\n[numbers]\ndefault_region = 'CZ'\n"
            f"[trunks.a]\nnumber_format = '{number_format}'"
        )
    )
    number = normalise("777 123 456", settings.numbers.policy())
    trunk = settings.trunk_table()[TrunkName("a")]
    assert dial(trunk, number.dialed, identity=number.identity) == f"PJSIP/{dialed}@a"
