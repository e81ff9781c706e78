"""Sounds that are no speech, made by arithmetic: a minute of each must give no word."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RATE = 48_000

Sound = npt.NDArray[np.int16]


def made(seconds: int) -> dict[str, Sound]:
    """Silence, white noise, a keyboard, music; the same every time."""
    random = np.random.default_rng(5)
    count = seconds * RATE
    times = np.arange(count) / RATE
    return {
        "silence": np.zeros(count, np.int16),
        "noise": (random.standard_normal(count) * 2500).astype(np.int16),
        "keyboard": _keyboard(random, count),
        "music": _music(times),
    }


def _keyboard(random: np.random.Generator, count: int) -> Sound:
    """About seven keys a second, each a click down and a softer one up, in a room with a faint hiss."""
    sound = random.standard_normal(count) * 30
    moment = 0.0
    while moment < count / RATE - 0.4:
        for after, loud in ((0.0, 9000.0), (float(random.uniform(0.05, 0.1)), 4000.0)):
            length = int(RATE * random.uniform(0.004, 0.012))
            fade = np.exp(-np.arange(length) / (length / 4))
            ring = np.sin(2 * np.pi * random.uniform(1500, 4500) * np.arange(length) / RATE)
            start = int((moment + after) * RATE)
            sound[start : start + length] += loud * fade * (0.6 * random.standard_normal(length) + 0.4 * ring)
        moment += float(random.exponential(0.08)) + 0.06
    return np.clip(sound, -32768, 32767).astype(np.int16)


def _music(times: npt.NDArray[np.float64]) -> Sound:
    """Four chords in turn with a melody and a beat."""
    chords = ((220.0, 261.6, 329.6), (174.6, 220.0, 261.6), (261.6, 329.6, 392.0), (196.0, 246.9, 293.7))
    sound = np.zeros_like(times)
    beat = (times * 2) % 1.0
    for number, chord in enumerate(chords):
        now = (times // 2).astype(int) % len(chords) == number
        for place, tone in enumerate(chord):
            for harmonic in range(1, 5):
                sound += now * np.sin(2 * np.pi * tone * harmonic * times) / harmonic / 6
            step = ((times * 4).astype(int) % 3 == place) & now
            sound += step * np.exp(-3 * ((times * 4) % 1.0)) * np.sin(2 * np.pi * tone * 4 * times) / 2
    sound += np.exp(-40 * beat) * np.sin(2 * np.pi * 60 * times)
    return (np.clip(sound / 2.5, -1, 1) * 12_000).astype(np.int16)
