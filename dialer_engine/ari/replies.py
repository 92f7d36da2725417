"""What Asterisk answers when asked: only the fields that somebody reads. Asterisk's page: rest-api/*.json."""

from __future__ import annotations

import msgspec


class Dialplan(msgspec.Struct, frozen=True):
    """Where a channel is in the dialplan; `app_name` is "Stasis" while an application has it."""

    context: str = ""
    exten: str = ""
    app_name: str = ""
    app_data: str = ""


class ChannelSnapshot(msgspec.Struct, frozen=True):
    """A channel as asked for. `protocol_id` is the SIP Call-ID."""

    id: str
    name: str = ""
    state: str = ""
    protocol_id: str = ""
    dialplan: Dialplan = Dialplan()


class _Status(msgspec.Struct, frozen=True):
    startup_time: str


class _System(msgspec.Struct, frozen=True):
    version: str = ""


class Info(msgspec.Struct, frozen=True):
    """Asterisk about itself."""

    status: _Status
    system: _System = _System()

    @property
    def startup_time(self) -> str:
        return self.status.startup_time

    @property
    def version(self) -> str:
        return self.system.version


class Application(msgspec.Struct, frozen=True):
    channel_ids: list[str] = []


class Variable(msgspec.Struct, frozen=True):
    value: str = ""


class DeviceState(msgspec.Struct, frozen=True):
    """The state of a device: INVALID where there is none."""

    state: str
