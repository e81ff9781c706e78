"""Discord voice through the Rust library Songbird, with the shape of songbird-py.

    driver = await Driver.create()
    await driver.connect(token, endpoint, session_id, guild_id, channel_id, user_id)
    await driver.play_source(Source.file("song.ogg"))
    ...
    await driver.leave()

With hikari, `songbird.hikari.Voicebox` does the connecting.
"""

from __future__ import annotations

from songbird._songbird import SONGBIRD_VERSION, OpusDecoder, OpusPacket
from songbird._tls import trust
from songbird.config import Config, CryptoMode, DecodeMode, MixMode, Strategy
from songbird.driver import Driver
from songbird.errors import (
    CLOSE_CODES,
    ConnectError,
    ConsumedSourceError,
    CouldNotConnectToRTPError,
    CouldNotOpenFileError,
    EndpointError,
    FfmpegError,
    NotConnectedError,
    QueueError,
    SongbirdError,
    SourceError,
    TrackError,
    UseAsyncConstructorError,
    YtdlError,
)
from songbird.events import (
    ClientDisconnect,
    ConnectData,
    DisconnectData,
    DisconnectKind,
    DisconnectReason,
    Event,
    Panic,
    Speaking,
    SpeakingState,
)
from songbird.queue import Queue
from songbird.tracks import Metadata, PlayMode, ReadyState, Source, Track, TrackHandle, TrackState

ytdl = Source.ytdl
ffmpeg = Source.ffmpeg

__all__ = [
    "CLOSE_CODES",
    "SONGBIRD_VERSION",
    "ClientDisconnect",
    "Config",
    "ConnectData",
    "ConnectError",
    "ConsumedSourceError",
    "CouldNotConnectToRTPError",
    "CouldNotOpenFileError",
    "CryptoMode",
    "DecodeMode",
    "DisconnectData",
    "DisconnectKind",
    "DisconnectReason",
    "Driver",
    "EndpointError",
    "Event",
    "FfmpegError",
    "Metadata",
    "MixMode",
    "NotConnectedError",
    "OpusDecoder",
    "OpusPacket",
    "Panic",
    "PlayMode",
    "Queue",
    "QueueError",
    "ReadyState",
    "SongbirdError",
    "Source",
    "SourceError",
    "Speaking",
    "SpeakingState",
    "Strategy",
    "Track",
    "TrackError",
    "TrackHandle",
    "TrackState",
    "UseAsyncConstructorError",
    "YtdlError",
    "ffmpeg",
    "trust",
    "ytdl",
]
