"""AMI's own wire before the model: TCP on loopback, messages as lines, with the faults of a real one.

Replies are written at once, events when the model has come to rest: so an event that is older than a reply may come
after it, as with Asterisk, whose events pass through a queue of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import time
from collections.abc import Callable, Iterable
from typing import cast

from dialer_engine.simulator.actions import Asked, Denied, carry_out, success
from dialer_engine.simulator.faults import Faults, happens
from dialer_engine.simulator.pbx import Pbx
from dialer_engine.simulator.sessions import Headers

BANNER = b"Asterisk Call Manager/11.0.0\r\n"
CLASSES = frozenset(("agent", "user", "system"))
"""Those in which anything is told here; a session may ask for any."""
LONGEST_LINE = 1024
MOST_HEADERS = 128
LONGEST_BACKLOG = 16 * 2**20
"""Bytes that a reader may leave unread; then he is dropped (writetimeout)."""
PUNISHMENT_SECONDS = 1.0
"""Until whoever has given a wrong secret is told so."""
LIES: tuple[object, ...] = ("", "-1", "9" * 30, "1e9", "nan", "\udcff\udcfe", "x" * 2000, "PJSIP/nobody")
"""What may stand in the place of a header's value; the surrogates become bytes that are no UTF-8."""


class Door:
    """Where sessions log in. `turned` is called whenever the model has been moved."""

    def __init__(
        self,
        pbx: Pbx,
        faults: Faults,
        dice: random.Random,
        *,
        username: str,
        secret: str,
        turned: Callable[[], None],
    ) -> None:
        self.pbx, self.faults, self.dice = pbx, faults, dice
        self.username, self.secret = username, secret
        self.turned = turned
        self.sessions: set[Session] = set()
        self.sessions_opened = 0
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> int:
        """The port. Raises OSError when it is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Session(self), host, port, reuse_address=True)
        address: tuple[str, int] = self._server.sockets[0].getsockname()
        return address[1]

    async def close(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def cut(self) -> None:
        """Every connection, as a crash does it."""
        for session in [*self.sessions]:
            session.abort()

    def flush(self) -> None:
        for session in [*self.sessions]:
            session.flush()


class Session(asyncio.Protocol):
    """One connection."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._unread = b""
        self._headers: list[tuple[str, str]] = []
        self._replies: list[bytes] = []
        self._events: list[bytes] = []
        self._challenge = ""
        self._is_in = False
        self._classes: frozenset[str] = frozenset()

    # Reading

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._door.sessions_opened += 1
        if self._door.faults.ami_refuse:
            self._transport.abort()
            return
        self._door.sessions.add(self)
        self._replies.append(BANNER)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.sessions.discard(self)
        self._door.pbx.sessions.ears.discard(self.hear)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._unread += data
        self.flush()

    def _read(self) -> None:
        """A line ends in LF, whatever stands before; an empty one ends the action."""
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            text = line.rstrip(b"\r")[:LONGEST_LINE].decode(errors="replace")
            if text:
                name, colon, value = text.partition(":")
                if len(self._headers) < MOST_HEADERS and colon:
                    self._headers.append((name, value.lstrip()))
            elif self._headers:
                asked, self._headers = Asked(self._headers), []
                self._act(asked)
        self._unread = self._unread[-LONGEST_LINE:]

    # Acting

    def _act(self, asked: Asked) -> None:
        action = asked.get("Action")
        if action.lower() in self._door.faults.ami_unanswered:
            return
        try:
            self._answer(asked, self._answers(action, asked))
        except Denied as denied:
            self._answer(asked, [[("Response", "Error"), ("Message", str(denied))]])

    def _answers(self, action: str, asked: Asked) -> Iterable[Headers]:
        if not action:
            raise Denied("Missing action in request")
        match action.lower():
            case "login":
                return self._log_in(asked)
            case "challenge":
                return self._challenged(asked)
        if not self._is_in:
            raise Denied("Permission denied")
        match action.lower():
            case "logoff":
                asyncio.get_running_loop().call_soon(self._say_goodbye)
                return [[("Response", "Goodbye"), ("Message", "Thanks for all the fish.")]]
            case "ping":
                stamp = f"{time.time():.6f}"
                return [[("Response", "Success"), ("Ping", "Pong"), ("Timestamp", stamp)]]
            case "events":
                if not asked.get("EventMask"):
                    raise Denied("Invalid event mask")
                self._listen(asked.get("EventMask"))
                return [[("Response", "Success"), ("Events", "On" if self._classes else "Off")]]
        try:
            return carry_out(self._door.pbx, time.time(), action, asked)
        finally:
            self._door.turned()

    def _log_in(self, asked: Asked) -> Iterable[Headers]:
        if asked.get("AuthType").upper() == "MD5" and self._challenge:
            wanted = hashlib.md5((self._challenge + self._door.secret).encode()).hexdigest()
            given = asked.get("Key")
        else:
            wanted, given = self._door.secret, asked.get("Secret")
        is_known = asked.get("Username") == self._door.username
        if not is_known or not hmac.compare_digest(given.encode(), wanted.encode()):
            asyncio.get_running_loop().call_later(PUNISHMENT_SECONDS, self._turn_away, asked)
            return []
        self._is_in = True
        self._listen(asked.get("Events") or "on")
        told = [success("Authentication accepted")]
        if "system" in self._classes and not self._door.faults.booting:
            told.append(self._fully_booted())
        return told

    def _fully_booted(self) -> Headers:
        up = int(time.time() - self._door.pbx.began_at)
        booted: Headers = [("Event", "FullyBooted"), ("Privilege", "system,all"), ("Uptime", up)]
        return [*booted, ("LastReload", up), ("Status", "Fully Booted")]

    def _challenged(self, asked: Asked) -> Iterable[Headers]:
        if asked.get("AuthType").upper() != "MD5":
            raise Denied("Must specify AuthType")
        self._challenge = str(self._door.dice.randrange(10**8, 10**9))
        return [[("Response", "Success"), ("Challenge", self._challenge)]]

    def _listen(self, mask: str) -> None:
        words = {word.strip().lower() for word in mask.split(",")}
        self._classes = CLASSES if words & {"on", "all", "yes", "true"} else CLASSES & words
        ears = self._door.pbx.sessions.ears
        (ears.add if self._classes else ears.discard)(self.hear)

    def _turn_away(self, asked: Asked) -> None:
        self._answer(asked, [[("Response", "Error"), ("Message", "Authentication failed")]])
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        self.flush()
        if self._transport is not None:
            self._transport.close()

    # Telling

    def _answer(self, asked: Asked, messages: Iterable[Headers]) -> None:
        """A response has its ActionID second; what follows it, but for a list's end, has it last."""
        action_id = asked.get("ActionID")
        for number, message in enumerate(messages):
            named = [*message]
            if action_id and ("Event", "FullyBooted") not in message:
                place = 1 if number == 0 or ("EventList", "Complete") in message else len(message)
                named.insert(place, ("ActionID", action_id))
            self._replies.append(encode(named))

    def hear(self, kind: str, told: Headers) -> None:
        """An event; the ear of this session."""
        faults, dice = self._door.faults, self._door.dice
        if kind not in self._classes or happens(faults.ami_events_lost, dice):
            return
        if happens(faults.ami_lies, dice):
            told = lied(told, dice)
        data = encode(told)
        if happens(faults.ami_events_doubled, dice):
            data += data
        if faults.ami_late_seconds:
            asyncio.get_running_loop().call_later(faults.ami_late_seconds, self._come_late, data)
        else:
            self._events.append(data)

    def _come_late(self, data: bytes) -> None:
        self._events.append(data)
        self.flush()

    def flush(self) -> None:
        if self._door.faults.ami_silent or self._transport is None or self._transport.is_closing():
            return
        self._read()
        data = b"".join([*self._replies, *self._events])
        if data:
            self._replies.clear()
            self._events.clear()
            self._transport.write(data)
            if self._transport.get_write_buffer_size() > LONGEST_BACKLOG:
                self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def encode(message: Headers) -> bytes:
    """As it goes over the wire."""
    lines = "".join(f"{name}: {value}\r\n" if name else f"{value}\r\n" for name, value in message)
    return f"{lines}\r\n".encode(errors="surrogateescape")


def lied(told: Headers, dice: random.Random) -> Headers:
    """One of its headers, but not its name, is not there or says something else."""
    place = dice.randrange(1, len(told))
    name, _ = told[place]
    changed = [] if dice.random() < 0.3 else [(name, dice.choice(LIES))]
    return [*told[:place], *changed, *told[place + 1 :]]
