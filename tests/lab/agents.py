"""The people at the lab's telephones: they log in, pause, talk, leave; and those who call in from the world.

Everything goes over AMI as a call centre's own programs do it. An agent is known by his telephone's extension.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

from .asterisk import LabError
from .bare_ami import Headers
from .lab import Lab

_serials = itertools.count(1)


def interface(extension: int, *, local: bool = False) -> str:
    """What the queue dials."""
    return f"Local/{extension}@from-queue/n" if local else f"PJSIP/{extension}"


def state_interface(extension: int, *, local: bool = False) -> str:
    """By what the queue knows whether the telephone is free."""
    return f"hint:{extension}@ext-local" if local else f"PJSIP/{extension}"


def name_of(extension: int) -> str:
    """The member's name, unless it is given another."""
    return f"Agent {extension}"


class Staff:
    """Works the agents of a lab; whoever is still logged in at the end is logged off."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._pbx, self._world = lab.ami(), lab.world_ami()
        self._members: set[tuple[str, str]] = set()
        self._talking: set[int] = set()

    def __enter__(self) -> Self:
        self._pbx.__enter__()
        self._world.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for queue, member in self._members:
                with suppress(LabError):  # a test's PBX may have been restarted
                    self._pbx.do("QueueRemove", Queue=queue, Interface=member)
            self.talk(self._talking, None)
        finally:
            self._pbx.__exit__(kind, value, trace)
            self._world.__exit__(kind, value, trace)

    # --- queues ---

    def log_in(
        self,
        queue: str,
        extensions: Iterable[int],
        *,
        local: bool = False,
        penalty: int = 0,
        paused: bool = False,
    ) -> None:
        for extension in extensions:
            member = interface(extension, local=local)
            self._pbx.do(
                "QueueAdd",
                Queue=queue,
                Interface=member,
                StateInterface=state_interface(extension, local=local),
                MemberName=name_of(extension),
                Penalty=penalty,
                Paused=str(paused).lower(),
            )
            self._members.add((queue, member))

    def log_off(self, queue: str, extension: int, *, local: bool = False) -> None:
        member = interface(extension, local=local)
        self._pbx.do("QueueRemove", Queue=queue, Interface=member)
        self._members.discard((queue, member))

    def pause(self, queue: str, extension: int, *, paused: bool = True, local: bool = False) -> None:
        member = interface(extension, local=local)
        self._pbx.do("QueuePause", Queue=queue, Interface=member, Paused=str(paused).lower(), Reason="coffee")

    def members(self, queue: str) -> list[Headers]:
        """Rows of QueueStatus, as they stand now."""
        rows = self._pbx.do("QueueStatus", Queue=queue)
        return [row for row in rows if row.get("Event") == "QueueMember"]

    def waiting(self, queue: str) -> int:
        """Callers in the queue, those being offered to an agent among them."""
        rows = self._pbx.do("QueueStatus", Queue=queue)
        return sum(row.get("Event") == "QueueEntry" for row in rows)

    def user_event(self, name: str, **headers: str) -> None:
        """As an agent's program tells it."""
        self._pbx.do("UserEvent", UserEvent=name, **headers)

    # --- telephones ---

    def talk(self, extensions: Iterable[int], seconds: tuple[float, float] | None) -> None:
        """From now on these hang up after so long, from the shortest to the longest; None: never."""
        for extension in list(extensions):
            value = "" if seconds is None else f"{round(seconds[0] * 10)}-{round(seconds[1] * 10)}"
            self._world.do("Setvar", Variable=f"TALK{extension}", Value=value)
            self._talking.add(extension)

    def call_directly(self, extension: int, seconds: float) -> None:
        """Somebody rings this telephone past any queue and talks so long."""
        self._pbx.do(
            "Originate",
            Channel=f"PJSIP/{extension}",
            Application="Wait",
            Data=seconds,
            CallerID="07000",
            Timeout=20_000,
            Async="true",
        )

    def hang_up(self, extension: int) -> None:
        """End whatever call the telephone has."""
        self._pbx.do("Hangup", Channel=f"/^PJSIP/{extension}-/")

    def dial(self, extension: int, dialled: str) -> None:
        """The agent dials it on his telephone."""
        self._world.do(
            "Originate",
            Channel=f"PJSIP/{dialled}@pbx",
            Application="Wait",
            Data=5,
            CallerID=extension,
            Timeout=5_000,
            Async="true",
        )

    # --- who calls in ---

    def call_in(self, dialled: str, stay: float) -> str:
        """Somebody calls from the world and hangs up `stay` seconds after the PBX has answered; his number."""
        caller = f"08{next(_serials):06d}"
        self._world.do(
            "Originate",
            {"DIALLED": dialled, "CALLER": caller, "STAY": f"{stay:.1f}"},
            Channel=f"PJSIP/{dialled}@pbx",
            Context="caller",
            Exten="s",
            Priority=1,
            CallerID=caller,
            Timeout=10_000,
            Async="true",
        )
        return caller
