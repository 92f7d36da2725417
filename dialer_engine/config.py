"""One TOML file, overridden by the environment, into frozen sections: one for each room that needs settings.

Order of precedence: `DIALER_SECTION__KEY` in the environment, then a file named `section.key` in
$CREDENTIALS_DIRECTORY (systemd's LoadCredential=; secrets only), then the TOML file, then the default below.
A secret may also stand in a file of its own, named by `key_file` in the TOML.

Every mistake is found before any is reported: `load` raises one ConfigError with all of them and their places.
The docstring under a field is its manual: the unit and what happens.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast
from urllib.parse import quote, urlsplit, urlunsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    field_serializer,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from dialer_engine.core.compliance import EMERGENCY, NumberPolicy
from dialer_engine.core.model import NumberFormat, Trunk, TrunkName
from dialer_engine.errors import ConfigError, Problem

DEFAULT_PATH = Path("/etc/dialer-engine/dialer.toml")
ENVIRONMENT_PREFIX = "DIALER_"
EMBEDDED = "embedded"
"""The Redis URL of `run --volatile`: a Redis inside the process that forgets everything at its end."""

SECRETS = ("redis.password", "ari.password", "ami.secret", "api.metrics_token")
"""What may come from a credential or from `KEY_file`, and is never shown."""

# Everything else is taken over by a reload.
_NEED_RESTART = frozenset(
    ["redis", "ari", "ami", "api", "oidc", "log", "daemon.name", "dialing.queue_context", "dialing.timezone"]
)

# No `&` (Asterisk would ring two), no separators of the dialplan, no quotes, no blanks.
_DIAL_STRING = re.compile(r"[A-Za-z0-9]+/[A-Za-z0-9_.@:/+*#-]*")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PLACEHOLDER = "${num}"
_UNREAD = "unread"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel")


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as exc:  # OSError: the name of a directory of the tz database
        raise ValueError("not an IANA time zone such as Europe/Prague") from exc
    return name


def _redis_url(url: str) -> str:
    if url != EMBEDDED and urlsplit(url).scheme not in _REDIS_SCHEMES:
        raise ValueError(f'must begin with one of {", ".join(_REDIS_SCHEMES)} and ://, or be "embedded"')
    return url


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
    if parts.username or parts.password:
        raise ValueError("carries a user or password: use the keys `username` and `password`")
    return url.rstrip("/")


def _issuer(url: str) -> str:
    _http_url(url)
    if urlsplit(url).scheme == "http" and urlsplit(url).hostname not in _LOOPBACK:
        raise ValueError("must be https://...: whoever stands on a plain way could put in keys of his own")
    return url


def _bind(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
    return address


def _dial_string(text: str) -> str:
    if text.count(_PLACEHOLDER) != 1:
        raise ValueError("must contain ${num} exactly once")
    if not _DIAL_STRING.fullmatch(text.replace(_PLACEHOLDER, "")):
        raise ValueError(
            "must be TECHNOLOGY/... of letters, digits and _.@:/+*#- only, such as PJSIP/${num}@carrier"
        )
    return text


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("must be 1 to 64 letters, digits, dots, dashes and underscores")
    return text


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path: the daemon and the commands stand in different directories")
    return path


def _state_directory() -> Path:
    return Path(os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or "/var/lib/dialer-engine")


Name = Annotated[str, AfterValidator(_name)]
Secret = Annotated[SecretStr, Field(min_length=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RedisSettings(_Section):
    """Where campaigns, lists and results live."""

    url: Annotated[str, AfterValidator(_redis_url)] = Field("redis://127.0.0.1:6379/0", repr=False)
    """redis://HOST:PORT/DB, rediss://, unix:///PATH; "embedded" forgets everything when the process ends."""
    password: Secret | None = None
    """Overrides a password inside the URL."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,40}$")] = "dialer"
    """First part of every key, so that two installations can share one Redis. Changing it is starting empty."""
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 5.0
    """A command unanswered for so long counts as lost: nothing new is dialed until Redis answers again."""

    @property
    def location(self) -> str:
        """The URL with the password in it, for the client alone."""
        if self.password is None:
            return self.url
        parts = urlsplit(self.url)
        secret, host = quote(self.password.get_secret_value(), safe=""), parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{secret}@{host}"))

    @field_serializer("url")
    def _without_password(self, url: str) -> str:
        return without_password(url)


class AriSettings(_Section):
    """How calls are made: Asterisk's REST interface and its events."""

    url: Annotated[str, AfterValidator(_http_url)] = "http://127.0.0.1:8088"
    """Asterisk's HTTP server (http.conf), with its prefix if it has one, without /ari."""
    username: Annotated[str, Field(min_length=1)] = "dialer"
    """A user of ari.conf that is not read-only."""
    password: Secret
    """That user's password. The one setting without a default."""
    app: Name = "dialer"
    """Stasis application. A second daemon with the same one takes it over and the first exits with 75."""


class AmiSettings(_Section):
    """How queues and agents are watched. Without a secret AMI is not used and queue campaigns wait."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Host of Asterisk's manager interface."""
    port: Port = 5038
    """TCP port of it (manager.conf)."""
    username: Annotated[str, Field(min_length=1)] = "dialer"
    """A user of manager.conf with the rights that config/asterisk shows."""
    secret: Secret | None = None
    """That user's secret; unset: queue campaigns stay on STALE_QUEUE_DATA, the others do not need it."""


class ApiSettings(_Section):
    """The HTTP side: health, metrics and the REST API."""

    bind: Annotated[str, AfterValidator(_bind)] = "127.0.0.1:8080"
    """HOST:PORT to listen on. Beyond loopback put a TLS proxy before it. Port 0: a free one (for tests)."""
    metrics_token: Secret | None = None
    """Bearer token for /metrics from other hosts; unset: /metrics answers to loopback alone."""
    access_token_seconds: Annotated[int, Field(ge=10, le=86_400)] = 300
    """How long an access token of POST /token is good; a user who is removed loses his at once all the same."""
    refresh_token_seconds: Annotated[int, Field(ge=10, le=43_200)] = 1800
    """How long a refresh token may lie unused. After twelve hours the password is asked again in any case."""


class OidcSettings(_Section):
    """An outside OpenID Connect issuer whose access tokens are accepted beside our own; unset: none is."""

    issuer: Annotated[str, AfterValidator(_issuer)] | None = None
    """Its address exactly as its tokens say it in `iss`, such as https://id.example.com/realms/main."""
    audience: Annotated[str, Field(min_length=1)] | None = None
    """Only tokens made for this audience (`aud`) are accepted; needed with an issuer."""
    rights_claim: Annotated[str, Field(min_length=1)] = "scope"
    """The claim that holds dialer:read or dialer:manage, as a list or with blanks between; dots lead into objects
    (realm_access.roles)."""
    jwks_url: Annotated[str, AfterValidator(_issuer)] | None = None
    """Where its keys are. Unset: found by its discovery document, which must name a place on the same host."""


class TrunkSettings(_Section):
    """A way out, `[trunks.NAME]`."""

    dial_string: Annotated[str, AfterValidator(_dial_string)] | None = None
    """Where `${num}` is dialed; default PJSIP/${num}@NAME. On a FreePBX: Local/${num}@from-internal.

    A Local/ channel is dialed with /n, written here or not: Asterisk must not optimise it away under a talk."""
    capacity: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Calls at once, of all campaigns and daemons: what the carrier sold you. More would be refused there."""
    calls_per_second: Annotated[float, Field(gt=0, le=1000)] | None = None
    """New calls a second, evenly spaced; unset: as fast as the campaigns want. Carriers bar those who burst."""
    number_format: NumberFormat = "as_given"
    """How numbers are written for it: +420123456789 (e164), 420123456789 (digits), 123456789 (national).

    Any but as_given needs numbers.default_region.
    """


class DialingSettings(_Section):
    """What holds for every campaign that does not say otherwise."""

    default_trunk: str | None = None
    """The trunk of campaigns that name none; may be left out when there is but one."""
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"
    """IANA zone in which active periods are read when a campaign names none."""
    queue_context: Name = "dialer-queue"
    """Dialplan context at which a `queue` block continues, the extension being the queue's name."""


class NumbersSettings(_Section):
    """Which numbers may be dialed and how they are compared."""

    default_region: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] | None = None
    """ISO country such as CZ: numbers are then compared in E.164 form. Unset: compared as given."""
    allow_symbols: bool = False
    """Let `*` and `#` stand in a number (feature codes of a PBX)."""
    allow_premium: bool = False
    """Let premium-rate numbers be dialed (needs default_region to be known as such)."""
    allow_short: bool = False
    """Let short numbers be dialed. Emergency numbers never are."""
    emergency: frozenset[Annotated[str, Field(pattern=r"^[0-9]{2,6}$")]] | None = None
    """Never dialed, replacing the built-in table of the world's emergency numbers. With a default_region the
    region's own are refused whatever stands here."""

    def policy(self) -> NumberPolicy:
        """These settings as the core knows them."""
        return NumberPolicy(
            default_region=self.default_region,
            allow_symbols=self.allow_symbols,
            allow_premium=self.allow_premium,
            allow_short=self.allow_short,
            emergency=EMERGENCY if self.emergency is None else self.emergency,
        )


class DaemonSettings(_Section):
    """The process itself."""

    name: Name = Field(default_factory=socket.gethostname)
    """Owner of the calls in flight: the next start with this name adopts them. Default: the host's name.

    Two daemons on one Redis need two names. After a change of name the calls in flight are adopted only when
    their leases have run out.
    """
    drain_seconds: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    """How long a stop waits for live calls; the next start adopts the others. Keep it below TimeoutStopSec."""
    data_directory: Annotated[Path, AfterValidator(_absolute)] = Field(default_factory=_state_directory)
    """Where files are kept: archived results. Default: systemd's StateDirectory, else /var/lib/dialer-engine.

    Two installations need two of them, or two redis.prefix.
    """

    def archive_of(self, prefix: str) -> Path:
        """Where the archived results of the installation with this prefix stand."""
        return self.data_directory / "results" / prefix


class ResultsSettings(_Section):
    """What becomes of old results."""

    keep_days: Annotated[int, Field(ge=1, le=3650)] = 90
    """Days in Redis; a nightly job moves older ones, whole UTC days, to files in daemon.data_directory. `export`
    reads both."""


class QueueSettings(_Section):
    """`[queues.NAME]`: what AMI does not tell about a queue."""

    wrap_up_seconds: Seconds | None = None
    """An agent is not available for so long after a call; unset: read from the PBX."""
    ring_in_use: bool | None = None
    """Whether the queue rings agents who are talking; unset: read from the PBX."""


class LogSettings(_Section):
    """What is told to the journal."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important level written."""
    show_numbers: bool = False
    """Write telephone numbers in full. Default: all but their last three digits are masked."""


def _nothing() -> Any:
    return {}


class Config(BaseSettings):
    """Everything; rooms receive their own section of it. Make one with `load`."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    redis: RedisSettings = RedisSettings()
    ari: AriSettings = Field(default_factory=_nothing, validate_default=True)  # so that its password is missed
    ami: AmiSettings = AmiSettings()
    api: ApiSettings = ApiSettings()
    oidc: OidcSettings = OidcSettings()
    trunks: dict[Name, TrunkSettings] = Field(
        default_factory=lambda: {"carrier": TrunkSettings()}, min_length=1
    )
    dialing: DialingSettings = DialingSettings()
    numbers: NumbersSettings = NumbersSettings()
    daemon: DaemonSettings = Field(default_factory=DaemonSettings)
    results: ResultsSettings = ResultsSettings()
    queues: dict[Name, QueueSettings] = {}
    log: LogSettings = LogSettings()

    @property
    def default_trunk(self) -> TrunkName:
        """The trunk of campaigns that name none."""
        return TrunkName(self.dialing.default_trunk or next(iter(self.trunks)))

    def trunk_table(self) -> dict[TrunkName, Trunk]:
        """The trunks as the core knows them."""
        return {TrunkName(name): _trunk(name, section) for name, section in self.trunks.items()}

    def shown(self) -> dict[str, Any]:
        """The whole configuration for a person, secrets masked."""
        return self.model_dump(mode="json")

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, data: Any, handler: ModelWrapValidatorHandler[Config]) -> Config:
        """Mistakes between sections stand beside those within one; a ConfigError passes pydantic untouched."""
        across = list(_across(data)) if isinstance(data, Mapping) else []
        try:
            config = handler(data)
        except ValidationError as exc:
            raise ConfigError([*map(_problem, exc.errors()), *across]) from None  # its text quotes the input
        if across:
            raise ConfigError(across)
        return config

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, InitSettingsSource(settings_cls, _credentials()), init_settings


def load(path: Path | None, *, needs_pbx: bool = True) -> Config:
    """The configuration of this process, from `path` (None: from the environment alone).

    Raises ConfigError with every mistake; its text never holds a secret. Commands that speak with Redis alone
    pass `needs_pbx=False`: whoever runs them need not be allowed to read the PBX's secrets.
    """
    document, problems = _read(path) if path else ({}, [])
    if not needs_pbx:
        problems = [problem for problem in problems if problem.place.startswith("redis.")]
        ari = document.setdefault("ari", {})
        if isinstance(ari, dict):
            ari.setdefault("password", _UNREAD)
    try:
        config = Config(**document)
    except ConfigError as exc:
        raise ConfigError([*problems, *exc.problems]) from None
    except SettingsError as exc:
        raise ConfigError([*problems, Problem("environment", str(exc))]) from exc
    if problems:
        raise ConfigError(problems)
    return config


def reload(old: Config, new: Config) -> tuple[str, ...]:
    """Names of the changed settings that only a restart takes over, e.g. ("ari.url", "daemon.name")."""
    before, after = _flat(old), _flat(new)
    changed = sorted(place for place in before.keys() | after.keys() if before.get(place) != after.get(place))
    needed = [place for place in changed if {place, place.partition(".")[0]} & _NEED_RESTART]
    if not _local_trunks(old):  # all channels are heard from the start, or never
        needed += _local_trunks(new)
    return tuple(needed)


def _local_trunks(config: Config) -> list[str]:
    return [f"trunks.{name}" for name, trunk in config.trunk_table().items() if trunk.is_local]


def without_password(url: str) -> str:
    """The URL as it may be shown or logged."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user, host = parts.username or "", parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:***@{host}"))


def _trunk(name: str, section: TrunkSettings) -> Trunk:
    return Trunk(
        name=TrunkName(name),
        dial_string=section.dial_string or f"PJSIP/{_PLACEHOLDER}@{name}",
        capacity=section.capacity,
        calls_per_second=section.calls_per_second,
        number_format=section.number_format,
    )


def _read(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError([Problem(str(path), exc.strerror or "cannot be read")]) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError([Problem(str(path), "is not UTF-8 text")]) from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError([Problem(str(path), f"is not TOML: {exc}")]) from exc
    return document, list(_take_secret_files(document))


def _take_secret_files(document: dict[str, Any]) -> Iterator[Problem]:
    """Replace every `KEY_file` by the KEY it stands for."""
    for place in SECRETS:
        section, key = place.split(".")
        table = document.get(section)
        if not isinstance(table, dict) or f"{key}_file" not in table:
            continue
        name = table.pop(f"{key}_file")
        if key in table:
            yield Problem(f"{place}_file", f"stands beside `{key}`: give one of them")
            continue
        table[key] = _UNREAD  # so that a file that cannot be read is one mistake, not two
        try:
            table[key] = Path(str(name)).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            yield Problem(f"{place}_file", f"{name}: {getattr(exc, 'strerror', None) or 'is not UTF-8 text'}")


def _credentials() -> dict[str, Any]:
    """Secrets handed over by systemd: files `ari.password` and the like in $CREDENTIALS_DIRECTORY."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    found: dict[str, Any] = {}
    for place in SECRETS if directory else ():
        path = Path(cast(str, directory)) / place
        if path.is_file():
            section, key = place.split(".")
            found.setdefault(section, {})[key] = path.read_text(encoding="utf-8").strip()
    return found


def _across(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Mistakes that show only when two sections are read together; malformed sections are passed over."""
    trunks, dialing, numbers = (_table(data, name) for name in ("trunks", "dialing", "numbers"))
    oidc = _table(data, "oidc")
    if oidc.get("issuer") and not oidc.get("audience"):
        yield Problem("oidc.audience", "is needed: else a token made for any other service would open this one")
    names = list(trunks) if "trunks" in data else ["carrier"]
    default = dialing.get("default_trunk")
    if default is not None and default not in names:
        yield Problem("dialing.default_trunk", f"there is no [trunks.{default}]")
    if default is None and len(names) > 1:
        yield Problem("dialing.default_trunk", f"is needed, for there are several trunks: {', '.join(names)}")
    for name in names if not numbers.get("default_region") else ():
        if _table(trunks, name).get("number_format", "as_given") != "as_given":
            yield Problem(f"trunks.{name}.number_format", "needs numbers.default_region")


def _table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = data.get(name)
    return found if isinstance(found, Mapping) else {}


def _problem(error: Any) -> Problem:
    """pydantic's finding in the words of the file; only `loc`, `type` and `msg` are read: never the input."""
    place = ".".join(str(part) for part in error["loc"] if part != "[key]")
    match error["type"]:
        case "extra_forbidden":
            return Problem(place, "there is no such setting")
        case "missing":
            return Problem(place, "is needed and has no default")
        case _:
            return Problem(place, error["msg"].removeprefix("Value error, "))


def _flat(config: Config) -> dict[str, Any]:
    """section.key -> value, with `trunks.NAME` and `queues.NAME` as one value each."""
    return {
        f"{section}.{key}": value
        for section in type(config).model_fields
        for key, value in dict(getattr(config, section)).items()
    }
