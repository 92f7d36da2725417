"""The ARI client: an event socket that comes back by itself, and a handful of verbs.

Nothing here decides about calls. The owner is told what happened (events), whether we can hear (Connected,
Lost) and how each order ended; after Connected it compares its calls with `application_channels` and
`channel`.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal, NoReturn, TypeVar

import msgspec

from dialer_engine.ari.events import WANTED, WATCHED, AriEvent
from dialer_engine.ari.feed import Feed
from dialer_engine.ari.replies import Application, ChannelSnapshot, DeviceState, Info, Variable
from dialer_engine.ari.rest import NotSent, Reply, Rest, accepted, segment
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
from dialer_engine.errors import NotFound, Rejected, Unavailable

ANSWERED_CONTEXT = "dialer-answered"
"""Of the shipped dialplan (config/asterisk/extensions_dialer.conf): where an answered call waits for us."""
ALL_CHANNELS = "channel:"
"""A source with an empty id is all of a kind. Never `subscribeAll`: it takes in device states, and a socket that ends
with those may block ARI for good (Asterisk's #2170)."""
WATCH_SUFFIX = "-watch"
"""The second application, which hears all channels of the PBX; another one, for each may have a channel but once."""

DEFAULT_PATIENCE = Patience()

_T = TypeVar("_T")


class Ari:
    """One application on one Asterisk: `run()` keeps the event socket, the verbs work while `async with` lasts.

    `on_event` and `on_state` are called in the loop, in the order of the wire, and must neither block nor
    raise: what they raise ends `run()`. A verb raises Unavailable (its fate is unknown), NotSent (an
    Unavailable: certainly not carried out), Rejected (with Asterisk's status as `code`) or NotFound. None
    waits longer than its deadline.

    `sources` ("endpoint:PJSIP/carrier") are followed at every connection, and so is every endpoint once called:
    the channels of such an endpoint are heard although no originate subscribed them. Never deviceState:, it can
    deadlock Asterisk (#2170).
    `watch_all`: a second socket hears every channel of the PBX (Dial, state, end, UserEvent), for trunks that have no
    endpoint to follow: Local/. `extra_events`: further types, left out where nobody needs them; told twice with it.
    """

    def __init__(
        self,
        config: AriConfig,
        on_event: Callable[[AriEvent], None],
        on_state: Callable[[AriState], None],
        *,
        sources: Sequence[str] = (),
        watch_all: bool = False,
        extra_events: Sequence[str] = (),
        patience: Patience = DEFAULT_PATIENCE,
    ) -> None:
        self._app = config.app
        self._application = f"/applications/{segment(config.app)}"
        self._on_state = on_state
        self._sources = dict.fromkeys(sources, True)
        self._patience = patience
        self._rest = Rest(config.url, config.username, config.password, patience)
        self._state: AriState = Lost("not yet connected")
        self._deaf: dict[str, str] = {}
        self._startup_time: str | None = None
        self._restarted = False
        self._version: tuple[int, ...] = ()
        self._following = asyncio.Lock()
        self._waiting_room = False
        self.counts = AriCounts()
        self._feeds = [self._feed(config.app, (*WANTED, *extra_events), on_event, self._prepare)]
        if watch_all:
            app = config.app + WATCH_SUFFIX
            wanted = (*WATCHED, *extra_events)
            self._feeds.append(self._feed(app, wanted, on_event, lambda: self.subscribe(ALL_CHANNELS, app)))

    def _feed(
        self,
        app: str,
        wanted: Sequence[str],
        on_event: Callable[[AriEvent], None],
        prepare: Callable[[], Awaitable[None]],
    ) -> Feed:
        self._deaf[app] = "not yet connected"
        return Feed(
            self._rest,
            app,
            wanted,
            patience=self._patience,
            counts=self.counts,
            prepare=prepare,
            on_event=on_event,
            on_change=lambda reason: self._changed(app, reason),
        )

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

    # What we hear

    async def run(self) -> NoReturn:
        """Keep the event sockets, for ever. Raises Replaced when another client took our application's name."""
        try:
            async with asyncio.TaskGroup() as sockets:
                for feed in self._feeds:
                    sockets.create_task(feed.run())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None  # one fault ended the others
        finally:
            self._state = Lost("not running")
        raise AssertionError("a feed has no end")

    async def _prepare(self) -> None:
        """Which Asterisk this is, and how our calls are heard there."""
        for source in list(self._sources):  # a call that begins just now may add another one
            self._sources[source] = await self._follows(source)
        self._waiting_room = await self._is_place(ANSWERED_CONTEXT, self._app)
        info = await self.info()
        self._restarted |= self._startup_time not in (None, info.startup_time)  # until it has been told
        self._startup_time = info.startup_time
        self._version = _numbers(info.version)

    async def _hears(self, source: str) -> bool:
        """Follow a source from the first call to it on, if Asterisk knows it.

        One that it does not know is asked for again: a dial string may make another one of each number.
        """
        if not source or self._sources.get(source):
            return bool(source)
        async with self._following:
            if source not in self._sources:
                try:
                    if not await self._follows(source):
                        return False
                except Unavailable as exc:
                    raise NotSent("asterisk", f"{source} cannot be followed: {exc.reason}") from exc
                self._sources[source] = True
        return self._sources[source]

    async def _follows(self, source: str) -> bool:
        try:
            await self.subscribe(source)
        except (NotFound, Rejected):
            return False
        return True

    async def _is_place(self, context: str, extension: str) -> bool:
        """Is it in the dialplan? The device state of a Local/ channel to a place that is not is INVALID.

        ARI has no other way to ask: the dialplan's own functions want a channel.
        """
        path = f"/deviceStates/{segment(f'Local/{extension}@{context}')}"
        try:
            return (await self._read_as(DeviceState, path)).state not in ("INVALID", "UNKNOWN")
        except (NotFound, Rejected):
            return False

    def _changed(self, app: str, reason: str | None) -> None:
        """We hear when each of our sockets does; a socket that has come back makes its owner look at every call."""
        if reason is None:
            self._deaf.pop(app, None)
        else:
            self._deaf[app] = reason
        if self._deaf:
            self._tell(Lost(next(iter(self._deaf.values()))))
            return
        missing = tuple(source for source, known in self._sources.items() if not known)
        restarted, self._restarted = self._restarted, False
        self._tell(Connected(self._startup_time or "", restarted, missing, self._waiting_room))

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
        to: ToApp | ToDialplan | None = None,
    ) -> None:
        """Create and dial a channel; its events may come before this returns.

        The request is sent exactly once. Returns when the channel was made. Raises Rejected when Asterisk
        made none (400; 500: no such endpoint, no contact, no capacity; no INVITE was sent), NotSent when
        nothing was sent (in particular while no events come: an answered call would be hung up in silence),
        Unavailable when nobody knows.

        `to` is where an answered call goes; None: to the shipped dialplan, where it waits for us if no socket is
        there, or straight into our application when that dialplan is missing or its channels cannot be heard.
        Asterisk does not subscribe us to a channel that goes to the dialplan: it is heard by its endpoint, if
        Asterisk has one, or by `watch_all`; else it is subscribed to here, once it is made, and one
        that fails at once is over by then (Unavailable).

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
        self._require_events()
        if to is None:
            to = await self._place(endpoint)
        if isinstance(to, ToApp):
            body |= {"app": self._app, "appArgs": to.args}
        else:
            body |= {"context": to.context, "extension": to.extension, "priority": to.priority}
        await self._make(channel_id, f"/channels/{segment(channel_id)}", body, variables, other_channel_id)
        await self._follow_call(channel_id, other_channel_id, endpoint, to)

    async def _place(self, endpoint: str) -> ToApp | ToDialplan:
        """The shipped dialplan, if it is there and the call's way to it can be heard."""
        if self._waiting_room and (self._hears_all or await self._hears(_source_of(endpoint))):
            return ToDialplan(ANSWERED_CONTEXT, self._app)
        return ToApp()

    async def _follow_call(
        self, channel_id: str, other_channel_id: str | None, endpoint: str, to: ToApp | ToDialplan
    ) -> None:
        """What is not heard by itself is subscribed to now, hoping that it is not over yet."""
        if self._hears_all:
            return
        if other_channel_id:
            await self._follow_far_half(other_channel_id)
        if isinstance(to, ToDialplan) and not self._sources.get(_source_of(endpoint)):
            await self._follow(channel_id)

    @property
    def _hears_all(self) -> bool:
        return len(self._feeds) > 1

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
            seconds = self._patience.originate_seconds
            reply = await self._rest.ask("POST", path, body=body, seconds=seconds, begins=True)
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
        try:
            found = await self.channel(channel_id)
        except NotSent as exc:  # this question was not sent; the call may have been made
            raise Unavailable("asterisk", f"409, and nobody knows whose: {exc.reason}") from exc
        if found is None:
            self.counts.stale_conflicts += 1
            raise Rejected("Asterisk refuses: 409 of an earlier conflict, and no such channel", code=500)

    async def _follow(self, channel_id: str) -> None:
        """Of a channel that was made we must hear the end. Raises Unavailable: perhaps it is over already."""
        try:
            await self.subscribe(f"channel:{channel_id}")
        except (
            NotFound,
            Rejected,
            NotSent,
        ) as exc:  # a NotSent of this request must not be taken for the call's
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

    async def subscribe(self, source: str, app: str | None = None) -> None:
        """Hear of "channel:ID" or "endpoint:PJSIP/NAME" from now on, in our application if `app` names no other.
        Raises NotFound or Rejected(422): no such."""
        path = f"/applications/{segment(app or self._app)}/subscription"
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
        """Every channel of the PBX. Large."""
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
    """Raises as `accepted` does, but only Asterisk's own 400 and 500 say for certain that no channel was made.

    404 means that ARI itself is missing. What a proxy in between has to say (502, 504) may hide a call that rings.
    """
    try:
        accepted(reply)
    except NotFound as exc:
        raise NotSent("asterisk", f"404, {exc} (is res_ari_channels loaded?)") from exc
    except Rejected as exc:
        if exc.code not in (400, 500):
            raise Unavailable("asterisk", f"an answer that says nothing of the call: {exc}") from exc
        raise


def _numbers(version: str) -> tuple[int, ...]:
    """ "22.10.1~dfsg+~cs6" is (22, 10, 1); () when it does not begin with numbers ("GIT-master-...")."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _source_of(endpoint: str) -> str:
    """What tells of an endpoint's channels: "PJSIP/123@carrier" is of endpoint:PJSIP/carrier; Local/ has none."""
    technology, _, resource = endpoint.partition("/")
    return "" if technology.lower() == "local" else f"endpoint:{technology}/{resource.rpartition('@')[2]}"
