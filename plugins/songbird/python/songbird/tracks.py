"""Sounds, tracks and the remote control of what plays."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from songbird import _songbird
from songbird._hub import LoopHub, ask
from songbird._listening import Listener, Listeners
from songbird.errors import CouldNotOpenFileError, FfmpegError, SourceError, TrackError
from songbird.events import Event
from songbird.track_state import PlayMode, ReadyState, TrackState

ANSWER_S = 10.0
"""Songbird answers for a track within a tick, or after reading from its source."""


class Opener(Protocol):
    """A driver, as far as a sound needs it."""

    def open(self) -> tuple[LoopHub, _songbird.Link]:
        """Open the driver if it is not open yet, and return its queue and its native half."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Metadata:
    """What a source says of itself; times in seconds."""

    track: str | None = None
    artist: str | None = None
    album: str | None = None
    date: str | None = None
    channels: int | None = None
    channel: str | None = None
    start_time: float | None = None
    duration: float | None = None
    sample_rate: int | None = None
    source_url: str | None = None
    title: str | None = None
    thumbnail: str | None = None


class Source:
    """Where a sound comes from. It can be played once. Made by the static methods.

    Read are WAV, AIFF, MP3, FLAC, Ogg (Opus, Vorbis, FLAC), WebM and Matroska (Opus, Vorbis), MP4 (AAC, ALAC), and
    DCA; never through FFmpeg.
    """

    __slots__ = ("name", "native")

    def __init__(self, native: _songbird.Source, name: str) -> None:
        self.native = native
        self.name = name

    @staticmethod
    def bytes(data: bytes, stereo: bool | None = None) -> Source:
        """A whole file in memory; with `stereo` given, bare samples: 32-bit floats, little-endian, 48 kHz."""
        if stereo is None:
            return Source(_songbird.Source.bytes(data), "bytes")
        # The header of Songbird's own container.
        header = b"SbirdRaw" + struct.pack("<II", 48_000, 2 if stereo else 1)
        return Source(_songbird.Source.bytes(header + data), "samples")

    @staticmethod
    def file(filename: str | os.PathLike[str]) -> Source:
        """A file, read while it plays.

        Raises:
            CouldNotOpenFileError: There is none, or it may not be read.
        """
        path = Path(filename)
        try:
            path.open("rb").close()
        except OSError as error:
            raise CouldNotOpenFileError(f"{path}: {error.strerror}") from error
        return Source(_songbird.Source.file(path), path.name)

    @staticmethod
    def url(url: str) -> Source:
        """A file on a web server, read while it plays."""
        if not url.startswith(("http://", "https://")):
            raise SourceError(f"no web address: {url!r}")
        return Source(_songbird.Source.http(url), url)

    @staticmethod
    async def ytdl(url: str) -> Source:
        """Whatever the program yt-dlp finds there; it runs when the track begins."""
        return Source(_songbird.Source.ytdl(url), url)

    @staticmethod
    async def ffmpeg(filename: str, *_: object, **__: object) -> Source:
        """Always raises: Songbird has given FFmpeg up and decodes by itself."""
        raise FfmpegError(f"Songbird no longer uses FFmpeg; try Source.file({filename!r})")

    @property
    def consumed(self) -> bool:
        return self.native.consumed

    async def metadata(self, driver: Opener) -> Metadata:
        """What the origin says of itself: of web addresses and yt-dlp; a file or bytes raise SourceError.

        Raises:
            SourceError: It says nothing, or cannot be asked.
        """
        hub, link = driver.open()
        pairs = await ask(hub, lambda op: self.native.metadata(link, hub.native, op), 60.0)
        found: dict[str, Any] = dict(pairs)
        for name, kind in (("channels", int), ("sample_rate", int), ("start_time", float), ("duration", float)):
            if name in found:
                found[name] = kind(found[name])
        return Metadata(**found)

    def __repr__(self) -> str:
        return f"Source({self.name!r})"


@dataclasses.dataclass(slots=True)
class Track:
    """A source and how it is to be played.

    Attributes:
        loops: How often it is repeated; None is without end.
    """

    source: Source
    volume: float = 1.0
    paused: bool = False
    loops: int | None = 0


class TrackHandle:
    """Commands to a track that plays. Its methods raise TrackError once the track is over."""

    __slots__ = ("_listeners", "_native", "uuid")

    def __init__(self, listeners: Listeners, native: _songbird.NativeHandle) -> None:
        self._listeners = listeners
        self._native = native
        self.uuid: str = native.uuid

    def play(self) -> None:
        self._tell(self._native.play)

    def pause(self) -> None:
        self._tell(self._native.pause)

    def stop(self) -> None:
        self._tell(self._native.stop)

    def set_volume(self, volume: float) -> None:
        """1.0 leaves the sound as it is."""
        if not 0 <= volume <= 100:
            raise ValueError("a volume is 0 to 100, and 1 changes nothing")
        self._tell(lambda: self._native.set_volume(volume))

    def enable_loop(self) -> None:
        self._tell(lambda: self._native.set_loops(None))

    def disable_loop(self) -> None:
        self._tell(lambda: self._native.set_loops(0))

    def loop_for(self, count: int) -> None:
        if count < 0:
            raise ValueError("count is 0 or more")
        self._tell(lambda: self._native.set_loops(count))

    async def get_info(self) -> TrackState:
        hub = LoopHub.of_this_loop()
        return TrackState.of(await ask(hub, lambda op: self._native.info(hub.native, op), ANSWER_S))

    async def seek_time(self, position: float) -> float:
        """Go to a position; gives the one reached. Seconds."""
        if not 0 <= position < 1e8:
            raise ValueError("a position is in seconds, 0 or more")
        hub = LoopHub.of_this_loop()
        return float(await ask(hub, lambda op: self._native.seek(hub.native, op, position), ANSWER_S))

    async def make_playable(self) -> None:
        """Open the sound now, so that it begins without delay."""
        hub = LoopHub.of_this_loop()
        await ask(hub, lambda op: self._native.make_playable(hub.native, op), ANSWER_S)

    def add_event(self, event: Event, call: Listener) -> None:
        """Call back for this track: events of tracks, and timers that run with it."""
        if not event.is_of_tracks and not event.is_timer:
            raise ValueError(f"{event.name} is an event of the driver")
        self._tell(lambda: self._listeners.subscribe(self._native, event, call))

    def _tell(self, command: Callable[[], None]) -> None:
        try:
            command()
        except RuntimeError as error:
            raise TrackError(str(error)) from error

    def __repr__(self) -> str:
        return f"TrackHandle({self.uuid})"


__all__ = ["Metadata", "PlayMode", "ReadyState", "Source", "Track", "TrackHandle", "TrackState"]
