"""Recordings: those that ship, and WAV files that a person hands in. Blocking; called from a thread."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np

from roost.audio import FRAME_MS, SAMPLE_RATE_HZ
from roost.errors import UsageError
from roost.opus import Samples, encode_all

FOLDER = Path(__file__).resolve().parent / "recordings"
MAX_SECONDS = 600
_MAX_WAV_BYTES = 200 * 1024 * 1024


def decode(data: bytes, container: str, what: str) -> Samples:
    """A whole file to 48 kHz mono.

    Args:
        data: The file.
        container: ``wav`` or ``flac``; nothing else is tried.
        what: How the error calls the file.

    Raises:
        UsageError: It is no such file, holds no sound, or is too long.
    """
    if len(data) > _MAX_WAV_BYTES:
        raise UsageError(f"{what} is too large, at most {_MAX_WAV_BYTES >> 20} MiB")
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
    parts: list[Samples] = []
    samples = 0
    try:
        with av.open(io.BytesIO(data), "r", format=container) as file:
            if not file.streams.audio:
                raise UsageError(f"{what} holds no sound")
            for frame in file.decode(file.streams.audio[0]):
                for piece in resampler.resample(frame):
                    parts.append(piece.to_ndarray().reshape(-1).astype(np.int16, copy=False))
                    samples += parts[-1].size
                if samples > MAX_SECONDS * SAMPLE_RATE_HZ:
                    raise UsageError(f"{what} is longer than {MAX_SECONDS} s")
            parts += [piece.to_ndarray().reshape(-1).astype(np.int16, copy=False) for piece in resampler.resample(None)]
    except (av.error.FFmpegError, ValueError) as error:
        raise UsageError(f"{what} is not a readable {container.upper()} file") from error
    sound = np.concatenate(parts) if parts else np.zeros(0, np.int16)
    if not sound.size:
        raise UsageError(f"{what} holds no sound")
    return sound


def packets_of_wav(data: bytes, packet_ms: float = FRAME_MS) -> list[bytes]:
    """A WAV file as Opus packets of so many milliseconds. Raises `UsageError`."""
    return encode_all(decode(data, "wav", "the WAV data"), packet_ms=packet_ms)


def manifest() -> list[dict[str, Any]]:
    """What ships: name, text, speaker, seconds, source, license."""
    entries: list[dict[str, Any]] = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    return entries


@functools.cache
def packets_of_recording(name: str, packet_ms: float = FRAME_MS) -> tuple[bytes, ...]:
    """A shipped recording as Opus packets of so many milliseconds. Raises `UsageError`."""
    names = [entry["name"] for entry in manifest()]
    if name not in names:
        raise UsageError(f"no recording is called {name!r}; there are {', '.join(names)}")
    data = (FOLDER / f"{name}.flac").read_bytes()
    return tuple(encode_all(decode(data, "flac", f"recording {name}"), packet_ms=packet_ms))
