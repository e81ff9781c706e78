"""``python -m roost_voice.levels``: how loud Opus frames are. A process of its own: the bot itself decodes nothing.

Reads frames from stdin until it ends, writes one JSON object: by user id the level of their speech and the highest
peak, in dBFS, and how many frames were damaged.
"""

from __future__ import annotations

import json
import struct
import sys

FRAME = struct.Struct(">QH")
"""Before each frame: user id, and the frame's length in bytes."""
FLOOR_DB = -96.0
WINDOW_SAMPLES = 960
"""Loudness is measured over 20 ms, however long the packets are."""


def main() -> None:
    """Measure what stdin holds."""
    import numpy as np

    from roost.opus import OpusDecoder, OpusError
    from roost.processes import leave_no_core

    leave_no_core()
    data, at = sys.stdin.buffer.read(), 0
    decoders: dict[int, OpusDecoder] = {}
    levels: dict[int, list[float]] = {}
    rest: dict[int, np.ndarray] = {}
    peaks: dict[int, float] = {}
    damaged: dict[int, int] = {}
    while at + FRAME.size <= len(data):
        user_id, size = FRAME.unpack_from(data, at)
        at += FRAME.size + size
        decoder = decoders.setdefault(user_id, OpusDecoder())
        try:
            samples = decoder.decode(data[at - size : at]).astype(np.float64) / 32768
        except OpusError:
            damaged[user_id] = damaged.get(user_id, 0) + 1
            continue
        if samples.size:
            peaks[user_id] = max(peaks.get(user_id, 0.0), float(np.max(np.abs(samples))))
            if user_id in rest:
                samples = np.concatenate([rest[user_id], samples])
            whole = len(samples) - len(samples) % WINDOW_SAMPLES
            windows = samples[:whole].reshape(-1, WINDOW_SAMPLES)
            levels.setdefault(user_id, []).extend(np.sqrt(np.mean(windows**2, axis=1)).tolist())
            rest[user_id] = samples[whole:]

    def decibels(amplitude: float) -> float:
        return round(max(FLOOR_DB, float(20 * np.log10(max(amplitude, 1e-9)))), 1)

    # Speech is full of pauses: the loud tenth says how loud the voice is.
    found = {
        str(user_id): {
            "level_db": decibels(float(np.percentile(levels[user_id], 90))) if levels.get(user_id) else FLOOR_DB,
            "peak_db": decibels(peaks.get(user_id, 0.0)),
            "damaged": damaged.get(user_id, 0),
        }
        for user_id in decoders
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
