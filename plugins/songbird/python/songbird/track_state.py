"""What a track reports about itself."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any


class PlayMode(enum.Enum):
    """What a track does."""

    Play = "play"
    Pause = "pause"
    Stop = "stop"
    """Stopped by somebody."""
    End = "end"
    """Played to its end."""
    Errored = "errored"


class ReadyState(enum.Enum):
    """Whether a track's sound has been opened."""

    Uninitialised = "uninitialised"
    Preparing = "preparing"
    Playable = "playable"


@dataclasses.dataclass(frozen=True, slots=True)
class TrackState:
    """A track at one moment. Seconds; `loops` is None without end; `error` is set when `playing` is Errored."""

    uuid: str
    playing: PlayMode
    error: str | None
    volume: float
    position: float
    play_time: float
    loops: int | None
    ready: ReadyState

    @staticmethod
    def of(report: tuple[Any, ...]) -> TrackState:
        uuid, playing, error, volume, position, play_time, loops, ready = report
        return TrackState(uuid, PlayMode(playing), error, volume, position, play_time, loops, ReadyState(ready))
