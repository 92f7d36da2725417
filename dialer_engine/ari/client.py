"""The ARI client: an event socket that comes back by itself, and a handful of verbs.

Nothing here decides about calls. The owner is told what happened (events), whether we can hear (Connected,
Lost) and how each order ended; after Connected it compares its calls with `application_channels` and
`channel`.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal, NoReturn, TypeVar

import aiohttp
import msgspec

from dialer_engine.ari.events import WANTED, ApplicationReplaced, AriEvent, Malformed, Unknown, decode
from dialer_engine.ari.replies import Application, ChannelSnapshot, Info, Variable
from dialer_engine.ari.rest import EventSocket, NotSent, Reply, Rest, accepted, segment
from dialer_engine.ari.terms import (
    AriConfig,
    AriCounts,
    AriState,
    Connected,
    HangupReason,
    Lost,
    Patience,
    ToApp,
    ToDialplan,
)
from dialer_engine.errors import NotFound, Rejected, Replaced, Unavailable

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 5.0
SETTLED_SECONDS = 5.0
"""A connection that lived so long was a good one: the next loss starts again with the shortest delay."""

RECENT_FRAMES = 1024
"""How far apart the two may be of an event that is sent twice: side by side on an idle Asterisk, but more
than 16 frames at 500 calls/s. See `Ari._is_double`."""

DEFAULT_PATIENCE = Patience()
TO_APP = ToApp()

_T = TypeVar("_T")


class Ari:
    """One application on one Asterisk: `run()` keeps the event socket, the verbs work while `async with` lasts.

    `on_event` and `on_state` are called in the loop, in the order of the wire, and must neither block nor
    raise: what they raise ends `run()`. A verb raises Unavailable (its fate is unknown), NotSent (an
    Unavailable: certainly not carried out), Rejected (with Asterisk's status as `code`) or NotFound. None
    waits longer than its deadline.

    `sources` ("endpoint:PJSIP/carrier") are followed at every connection: the channels of such an endpoint are
    heard although no originate subscribed them. Never deviceState:, it can deadlock Asterisk (#2170).
    `extra_events` are ChannelVarset and ChannelDialplan, left out by default for their number.
    """

    def __init__(
        self,
        config: AriConfig,
        on_event: Callable[[AriEvent], None],
        on_state: Callable[[AriState], None],
        *,
        sources: Sequence[str] = (),
        extra_events: Sequence[str] = (),
        patience: Patience = DEFAULT_PATIENCE,
    ) -> None:
        self._app = config.app
        self._application = f"/applications/{segment(config.app)}"
        self._on_event = on_event
        self._on_state = on_state
        self._sources = tuple(sources)
        self._filter = [{"type": name} for name in (*WANTED, *extra_events)]
        self._patience = patience
        self._rest = Rest(config.url, config.username, config.password, patience)
        self._state: AriState = Lost("not yet connected")
        self._connected_at = math.inf
        self._startup_time: str | None = None
        self._version: tuple[int, ...] = ()
        self._followed: frozenset[str] = frozenset()
        self._recent: set[int] = set()
        self._recent_order: deque[int] = deque()
        self.counts = AriCounts()

    async def __aenter__(self) -> Ari:
        self._rest.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._rest.close()

    @property
    def state(self) -> AriState:
        return self._state

    @property
    def connected(self) -> bool:
        return isinstance(self._state, Connected)

    # The event socket

    async def run(self) -> NoReturn:
        """Connect, listen, and connect again, for ever. Raises Replaced when another client took our name."""
        loop = asyncio.get_running_loop()
        tries = 0
        try:
            while True:
                self._connected_at = math.inf
                await self._connection()
                # A socket that opens and closes at once must not make us turn in a tight circle either.
                tries = 0 if loop.time() - self._connected_at > SETTLED_SECONDS else tries
                await asyncio.sleep(min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**tries))
                tries = min(tries + 1, 16)
        finally:
            self._state = Lost("not running")

    async def _connection(self) -> None:
        """One life of the socket; what ends it is told before the goodbyes."""
        try:
            async with self._rest.listen(self._app) as socket:
                try:
                    await self._prepare()
                    reason = await self._read(socket)
                except Replaced:
                    self._tell(Lost("another client has taken our application's name"))
                    raise
                self._tell(Lost(reason))
        except (Unavailable, Rejected, NotFound) as exc:
            self._tell(Lost(str(exc)))

    async def _prepare(self) -> None:
        """Filter, sources, and which Asterisk this is. Events wait in the socket meanwhile, in order.

        The filter may have died with the application's object (Asterisk drops one without subscriptions at
        the loss), so it is put every time.
        """
        await self._do("PUT", f"{self._application}/eventFilter", body={"allowed": self._filter})
        self._followed = frozenset([source for source in self._sources if await self._follows(source)])
        info = await self.info()
        restarted = self._startup_time not in (None, info.startup_time)
        self._startup_time = info.startup_time
        self._version = _numbers(info.version)
        self._connected_at = asyncio.get_running_loop().time()
        self.counts.connections += 1
        missing = tuple(source for source in self._sources if source not in self._followed)
        self._tell(Connected(info.startup_time, restarted, missing))

    async def _follows(self, source: str) -> bool:
        try:
            await self.subscribe(source)
        except (NotFound, Rejected):
            return False
        return True

    async def _read(self, socket: EventSocket) -> str:
        """Hand on events until the socket ends; returns why it did.

        aiohttp tells most ends by a message; an exception comes only from answering a ping on a dead socket.
        """
        while True:
            try:
                message = await socket.receive()
            except (aiohttp.ClientError, OSError) as exc:
                return f"event socket failed: {exc}"
            if message.type is aiohttp.WSMsgType.TEXT:
                self._feed(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                self.counts.malformed += 1
            elif message.type is aiohttp.WSMsgType.ERROR:
                return f"event socket failed: {message.data}"
            else:
                return f"event socket closed (code {socket.close_code})"

    def _feed(self, frame: bytes) -> None:
        if self._is_double(frame):
            self.counts.doubles += 1
            return
        try:
            event = decode(frame)
        except Unknown as exc:
            self._count_unknown(str(exc))
            return
        except Malformed:
            self.counts.malformed += 1
            return
        self.counts.events += 1
        if isinstance(event, ApplicationReplaced):
            raise Replaced
        self._on_event(event)

    def _is_double(self, frame: bytes) -> bool:
        """A channel heard both by its own subscription and by its endpoint's sends every event twice, a key
        too.

        The two are the same bytes. Two different events never are: at least their times differ. Hashes are
        kept, 64 bits of them, not frames: a frame may be of any size.
        """
        seen = hash(frame)
        if seen in self._recent:
            return True
        self._recent.add(seen)
        self._recent_order.append(seen)
        if len(self._recent) > RECENT_FRAMES:
            self._recent.remove(self._recent_order.popleft())
        return False

    def _count_unknown(self, name: str) -> None:
        # The names come from outside: a bounded number of them is remembered.
        known = name in self.counts.unknown or len(self.counts.unknown) < 64
        self.counts.unknown[name if known else "(others)"] += 1

    def _tell(self, state: AriState) -> None:
        if isinstance(state, Lost) and state == self._state:
            return
        self._state = state
        self._on_state(state)

    # Calls begin

    async def originate(
        self,
        channel_id: str,
        *,
        endpoint: str,
        caller_id: str,
        timeout_seconds: float,
        variables: Mapping[str, str] | None = None,
        other_channel_id: str | None = None,
        to: ToApp | ToDialplan = TO_APP,
    ) -> None:
        """Create and dial a channel; its events may come before this returns.

        The request is sent exactly once. Returns when the channel was made. Raises Rejected when Asterisk
        made none (400; 500: no such endpoint, no contact, no capacity; no INVITE was sent), NotSent when
        nothing was sent (in particular while no events come: an answered call would be hung up in silence),
        Unavailable when nobody knows.

        Asterisk does not subscribe us to a channel that goes to the dialplan. If its endpoint is one of the
        sources, it is heard from its first event on; else it is subscribed to here, once it is made, and one
        that fails at once is over by then (Unavailable). There is no source for Local/.

        `endpoint` is "PJSIP/NUMBER@TRUNK" and the like; `caller_id` is `"Name" <number>` or a number;
        `timeout_seconds` of ringing go to Asterisk as whole seconds, rounded up. `other_channel_id` names the
        far half (;2) of a Local/ channel, which is then followed too. Ids must be of one fixed width: an id
        that is a prefix of a live one, in whatever case, is refused as its double (ao2_legacy channel store).
        """
        body: dict[str, object] = {
            "endpoint": endpoint,
            "callerId": caller_id,
            "timeout": math.ceil(timeout_seconds),
        }
        if isinstance(to, ToApp):
            body |= {"app": self._app, "appArgs": to.args}
        else:
            body |= {"context": to.context, "extension": to.extension, "priority": to.priority}
        await self._make(channel_id, f"/channels/{segment(channel_id)}", body, variables, other_channel_id)
        following = [self._follow_far_half(other_channel_id)] if other_channel_id else []
        if isinstance(to, ToDialplan) and _source_of(endpoint) not in self._followed:
            following.append(self._follow(channel_id))
        await asyncio.gather(*following)

    async def create(
        self,
        channel_id: str,
        *,
        endpoint: str,
        args: str = "",
        variables: Mapping[str, str] | None = None,
        other_channel_id: str | None = None,
    ) -> None:
        """Create a channel in our application without dialing it: StasisStart comes at once, state Down.

        Errors as of `originate`. Then `dial` it; until StasisStart has come Asterisk answers 409 to that.
        """
        body: dict[str, object] = {"endpoint": endpoint, "app": self._app, "appArgs": args}
        body["channelId"] = channel_id
        await self._make(channel_id, "/channels/create", body, variables, other_channel_id)
        if other_channel_id:
            await self._follow_far_half(other_channel_id)

    async def dial(self, channel_id: str, *, timeout_seconds: float) -> None:
        """Dial a created channel. Raises Rejected(409) when it is not in our application (yet)."""
        self._require_events()
        await self._do(
            "POST", f"/channels/{segment(channel_id)}/dial", body={"timeout": math.ceil(timeout_seconds)}
        )

    async def _make(
        self,
        channel_id: str,
        path: str,
        body: dict[str, object],
        variables: Mapping[str, str] | None,
        other_channel_id: str | None,
    ) -> None:
        self._require_events()
        if variables:
            body["variables"] = dict(variables)
        if other_channel_id:
            body["otherChannelId"] = other_channel_id
        try:
            reply = await self._rest.ask("POST", path, body=body, seconds=self._patience.originate_seconds)
        except NotSent:
            raise
        except Unavailable:
            self.counts.unknown_fates += 1
            raise
        if reply.status == 409:
            await self._confirm(channel_id)
        else:
            _made(reply)

    async def _confirm(self, channel_id: str) -> None:
        """Is a 409 true? Asterisk's errno of an old conflict sticks to the connection's thread and colours
        every later failure on it (channel_internal_api.c, ast_channel_errno), so only the channel itself is
        proof."""
        if await self.channel(channel_id) is None:
            self.counts.stale_conflicts += 1
            raise Rejected("Asterisk refuses: 409 of an earlier conflict, and no such channel", code=500)

    async def _follow(self, channel_id: str) -> None:
        """Of a channel that was made we must hear the end. Raises Unavailable: perhaps it is over already."""
        try:
            await self.subscribe(f"channel:{channel_id}")
        except (NotFound, Rejected) as exc:
            raise Unavailable("asterisk", f"the call was made, but cannot be followed: {exc}") from exc

    async def _follow_far_half(self, channel_id: str) -> None:
        """The near half is heard whatever becomes of this; a far half that is gone costs only detail."""
        try:
            await self.subscribe(f"channel:{channel_id}")
        except (NotFound, Rejected, Unavailable):
            return

    def _require_events(self) -> None:
        if isinstance(self._state, Lost):
            raise NotSent("asterisk", self._state.reason)

    # Calls go on

    async def channel(self, channel_id: str) -> ChannelSnapshot | None:
        """The channel now, None when there is none (any more)."""
        try:
            return await self._read_as(ChannelSnapshot, f"/channels/{segment(channel_id)}")
        except NotFound:
            return None

    async def hangup(self, channel_id: str, reason: HangupReason = "normal") -> bool:
        """End a channel, dialing or up. False: it was gone already."""
        return await self._done_if_there("DELETE", f"/channels/{segment(channel_id)}", {"reason": reason})

    async def play(self, channel_id: str, media: Sequence[str], playback_id: str) -> None:
        """Play media URIs one after the other; PlaybackFinished tells the end. Plays queue up behind each
        other."""
        path = f"/channels/{segment(channel_id)}/play/{segment(playback_id)}"
        await self._do("POST", path, body={"media": list(media)})

    async def stop_playback(self, playback_id: str) -> bool:
        """Stop a play, its remaining media included. False: it was through already."""
        return await self._done_if_there("DELETE", f"/playbacks/{segment(playback_id)}", None)

    async def is_playing(self, playback_id: str) -> bool:
        """Does Asterisk still know this play? It tells nothing of the end of a recording that is not there."""
        path = f"/playbacks/{segment(playback_id)}"
        try:
            accepted(await self._rest.ask("GET", path, seconds=self._patience.request_seconds))
        except NotFound:
            return False
        return True

    async def continue_in_dialplan(
        self, channel_id: str, *, context: str, extension: str, priority: int = 1
    ) -> None:
        """Hand the channel to the dialplan. Returns when the order is queued; StasisEnd tells that it left
        us."""
        place = {"context": context, "extension": extension, "priority": priority}
        await self._do("POST", f"/channels/{segment(channel_id)}/continue", body=place)

    async def set_variables(self, channel_id: str, variables: Mapping[str, str]) -> None:
        """Set variables of a channel in our application: one request since Asterisk 22.10, before it one
        each."""
        path = f"/channels/{segment(channel_id)}"
        if self._version >= (22, 10):
            await self._do("POST", f"{path}/variables", body={"variables": dict(variables)})
            return
        for name, value in variables.items():
            await self._do("POST", f"{path}/variable", body={"variable": name, "value": value})

    async def get_variable(self, channel_id: str, name: str) -> str | None:
        """A variable or function of a channel; None when the channel or the function is not there."""
        try:
            got = await self._read_as(Variable, f"/channels/{segment(channel_id)}/variable", {"variable": name})
        except NotFound:
            return None
        return got.value

    # Asterisk as a whole

    async def subscribe(self, source: str) -> None:
        """Hear of "channel:ID" or "endpoint:PJSIP/NAME" from now on. Raises NotFound or Rejected(422): no
        such."""
        path = f"{self._application}/subscription"
        await self._do("POST", path, body={"eventSource": source})

    async def info(self) -> Info:
        """Which Asterisk, and since when it runs."""
        return await self._read_as(Info, "/asterisk/info", {"only": "status,system"})

    async def application_channels(self) -> list[str]:
        """Ids of the channels our application is subscribed to; empty when Asterisk does not know it."""
        try:
            return (await self._read_as(Application, self._application)).channel_ids
        except NotFound:
            return []

    async def channels(self) -> list[ChannelSnapshot]:
        """Every channel of the PBX. Large: for `doctor` only."""
        return await self._read_as(list[ChannelSnapshot], "/channels")

    # Requests

    async def _do(self, method: Literal["PUT", "POST"], path: str, *, body: object) -> None:
        accepted(await self._rest.ask(method, path, body=body, seconds=self._patience.request_seconds))

    async def _done_if_there(
        self, method: Literal["DELETE"], path: str, query: Mapping[str, str] | None
    ) -> bool:
        try:
            accepted(await self._rest.ask(method, path, query=query, seconds=self._patience.request_seconds))
        except NotFound:
            return False
        return True

    async def _read_as(self, kind: type[_T], path: str, query: Mapping[str, str] | None = None) -> _T:
        body = accepted(await self._rest.ask("GET", path, query=query, seconds=self._patience.request_seconds))
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise Unavailable("asterisk", f"GET {path}: its answer cannot be read: {exc}") from exc


def _made(reply: Reply) -> None:
    """Raises as `accepted` does, but there is no channel to be missing here: 404 means that ARI itself is."""
    try:
        accepted(reply)
    except NotFound as exc:
        raise NotSent("asterisk", f"404, {exc} (is res_ari_channels loaded?)") from exc


def _numbers(version: str) -> tuple[int, ...]:
    """ "22.10.1~dfsg+~cs6" is (22, 10, 1); () when it does not begin with numbers ("GIT-master-...")."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _source_of(endpoint: str) -> str:
    """The event source that hears of an endpoint's channels: "PJSIP/123@carrier" is of
    endpoint:PJSIP/carrier."""
    technology, _, resource = endpoint.partition("/")
    return f"endpoint:{technology}/{resource.rpartition('@')[2]}"
