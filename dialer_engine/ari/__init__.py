"""Asterisk's REST and event interface behind a handful of verbs; the only room that knows its URLs."""

from __future__ import annotations

from dialer_engine.ari.client import Ari
from dialer_engine.ari.events import (
    AriEvent,
    ChannelDestroyed,
    ChannelDialplan,
    ChannelDtmfReceived,
    ChannelHangupRequest,
    ChannelStateChange,
    ChannelUserevent,
    ChannelVarset,
    Dial,
    Leg,
    Playback,
    PlaybackFinished,
    StasisEnd,
    StasisStart,
)
from dialer_engine.ari.replies import ChannelSnapshot, Dialplan, Info
from dialer_engine.ari.rest import NotSent
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

__all__ = [
    "Ari",
    "AriConfig",
    "AriCounts",
    "AriEvent",
    "AriState",
    "ChannelDestroyed",
    "ChannelDialplan",
    "ChannelDtmfReceived",
    "ChannelHangupRequest",
    "ChannelSnapshot",
    "ChannelStateChange",
    "ChannelUserevent",
    "ChannelVarset",
    "Connected",
    "Dial",
    "Dialplan",
    "HangupReason",
    "Info",
    "Leg",
    "Lost",
    "NotSent",
    "Patience",
    "Playback",
    "PlaybackFinished",
    "StasisEnd",
    "StasisStart",
    "ToApp",
    "ToDialplan",
]
