"""The engines that ship with Roost, against the conformance suite of all engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import av
import pytest
from stt_rig import RECORDINGS

from roost.speech import SpeechEngine
from roost.testing.engine_conformance import CHECKS, Bench, check_name
from roost_stt.models import locate
from roost_stt.worker.engines import scripted, whisper

pytestmark = pytest.mark.unit

WORDS = frozenset({"young", "man", "not"})


@cache
def speech() -> bytes:
    """A shipped recording, 16 kHz mono s16."""
    resampler = av.AudioResampler("s16", "mono", 16_000)
    with av.open(next(RECORDINGS.glob("lv_0880.*"))) as file:
        frames = [out for frame in file.decode(audio=0) for out in resampler.resample(frame)]
    frames += resampler.resample(None)
    return b"".join(frame.to_ndarray().tobytes() for frame in frames)


def make_whisper(**changes: object) -> SpeechEngine:
    return whisper.create({"model": locate("tiny.en"), "device": "cpu", "threads": 2, **changes})


@pytest.fixture(scope="module", params=["whisper", "scripted"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "whisper":
        made = Bench(make_whisper, speech(), WORDS, lambda: make_whisper(model="/no/such/folder"))
    else:
        made = Bench(
            lambda: scripted.create({"texts": ["hello"]}), speech(), broken=lambda: scripted.create({"texts": 3})
        )
    yield made
    made.close()


@pytest.mark.parametrize("check", CHECKS, ids=check_name)
def test_conformance(check: Callable[[Bench], None], bench: Bench) -> None:
    check(bench)
