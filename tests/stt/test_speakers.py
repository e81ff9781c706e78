"""Decoders and counters of many speakers, in this process."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from stt_rig import packets_of

from roost.audio import SILENCE_FRAME
from roost_stt.protocol.endpointing import Endpointing
from roost_stt.protocol.ipc import Audio
from roost_stt.protocol.segmenter import Cut, Segment
from roost_stt.worker import speakers as module
from roost_stt.worker.backlog import Backlog
from roost_stt.worker.speakers import IDLE_DECODER_S, Speakers
from roost_stt.worker.utterances import Spoken
from roost_stt.worker.vad import SileroModel

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def model() -> SileroModel:
    return SileroModel()


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    return packets_of("lv_0880")


def audio(number: int, packet: bytes, *, user: int = 7, at_s: float | None = None, lost: int = 0) -> Audio:
    return Audio(number, 1, user, number * 960, number * 0.02 if at_s is None else at_s, lost, packet)


def test_idle_decoders_are_dropped_and_their_frames_stay_counted(model: SileroModel, packets: list[bytes]) -> None:
    speakers = Speakers(model, Endpointing(), lambda spoken: None)
    speakers.frame(audio(1, packets[50]), 0.0)
    assert speakers.stats()["speakers"] == 1
    speakers.tick(IDLE_DECODER_S / 2)  # ends what was open
    speakers.free_idle(IDLE_DECODER_S + 1)
    assert speakers.stats()["speakers"] == 0
    assert speakers.decoded() == {7: 1}


def test_ten_thousand_speakers_are_bounded(
    model: SileroModel, packets: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SPEAKERS", 8)
    monkeypatch.setattr(module, "MAX_COUNTED", 16)
    speakers = Speakers(model, Endpointing(), lambda spoken: None)
    for number in range(200):
        speakers.frame(audio(number, packets[50], user=number + 1), number * 0.02)
    assert speakers.stats()["speakers"] == 8
    assert sum(speakers.decoded().values()) == 200
    assert len(speakers.decoded()) <= 8 + 16 + 1


def test_endless_silence_frames_are_not_decoded(model: SileroModel) -> None:
    speakers = Speakers(model, Endpointing(), lambda spoken: None)
    for number in range(1000):
        speakers.frame(audio(number, SILENCE_FRAME), number * 0.02)
    assert speakers.decoded().get(7, 0) == 0


def test_lost_packets_become_silence_of_their_length(model: SileroModel, packets: list[bytes]) -> None:
    whole: list[Spoken] = []
    holes: list[Spoken] = []
    for out, skip in ((whole, range(0)), (holes, range(60, 65))):
        speakers = Speakers(model, Endpointing(), out.append)
        for number, packet in enumerate(packets):
            if number not in skip:
                speakers.frame(audio(number, packet), number * 0.02)
        speakers.drain(1)
    assert len(whole) == len(holes) == 1
    assert abs(len(whole[0].segment.pcm) - len(holes[0].segment.pcm)) <= 2 * 1024


@pytest.mark.parametrize("packet_ms", [2.5, 10, 40, 60, 120])
def test_packets_of_every_length_make_the_same_utterance(
    model: SileroModel, packets: list[bytes], packet_ms: float
) -> None:
    spoken: list[list[Spoken]] = []
    for each_ms, stream in ((20.0, packets), (packet_ms, packets_of("lv_0880", packet_ms))):
        out: list[Spoken] = []
        speakers = Speakers(model, Endpointing(), out.append)
        for number, packet in enumerate(stream):
            at_s = number * each_ms / 1000
            speakers.frame(Audio(number, 1, 7, round(at_s * 48_000), at_s, 0, packet), at_s)
        assert abs(speakers.decoded()[7] - len(packets)) <= 6
        speakers.drain(1)
        assert speakers.stats()["damaged"] == 0
        spoken.append(out)
    (usual,), (other,) = spoken
    assert other.segment.duration_s == pytest.approx(usual.segment.duration_s, abs=0.1)
    assert other.segment.started_s == pytest.approx(usual.segment.started_s, abs=0.1)
    assert other.segment.ended_s == pytest.approx(usual.segment.ended_s, abs=0.1)


def test_lost_packets_of_60_ms_become_silence_of_their_length(model: SileroModel) -> None:
    lengths = []
    for skip in (range(0), range(20, 23)):
        out: list[Spoken] = []
        speakers = Speakers(model, Endpointing(), out.append)
        for number, packet in enumerate(packets_of("lv_0880", 60)):
            if number not in skip:
                speakers.frame(Audio(number, 1, 7, number * 2880, number * 0.06, 0, packet), number * 0.06)
        speakers.drain(1)
        assert len(out) == 1
        lengths.append(out[0].segment.duration_s)
    assert lengths[0] == pytest.approx(lengths[1], abs=0.07)


def test_a_pause_between_packets_of_120_ms_does_not_end_an_utterance_early(model: SileroModel) -> None:
    out: list[Spoken] = []
    speakers = Speakers(model, Endpointing(), out.append)
    for number, packet in enumerate(packets_of("lv_0880", 120)[:12]):
        if number not in (6, 7, 8):  # 480 ms from one arrival to the next, of which 360 ms are lost
            speakers.frame(Audio(number, 1, 7, number * 5760, number * 0.12, 0, packet), number * 0.12)
    assert out == []


def test_what_is_no_opus_is_counted_and_changes_nothing(model: SileroModel, packets: list[bytes]) -> None:
    segments: list[Segment] = []
    for bad in ([], [b"", b"\x7b\x00", b"\x7b\x07" + bytes(70)]):
        out: list[Spoken] = []
        speakers = Speakers(model, Endpointing(), out.append)
        for number, packet in enumerate(packets):
            for each in bad:
                speakers.frame(audio(number, each), number * 0.02)
            speakers.frame(audio(number, packet), number * 0.02)
        speakers.drain(1)
        assert speakers.stats()["damaged"] == len(bad) * len(packets)
        (spoken,) = out
        segments.append(spoken.segment)
    clean, spoiled = segments
    assert dataclasses.replace(clean, pcm=b"") == dataclasses.replace(spoiled, pcm=b"")
    # The resampler dithers.
    heard, meant = (np.frombuffer(each.pcm, np.int16).astype(int) for each in segments)
    assert np.abs(heard - meant).max() <= 4


def test_one_persons_packets_end_anothers_utterance(model: SileroModel, packets: list[bytes]) -> None:
    out: list[Spoken] = []
    speakers = Speakers(model, Endpointing(), out.append)
    for number in range(80):
        speakers.frame(audio(number, packets[number]), 0.0)  # this process's clock stands still: it lags behind
    for number in range(80, 120):
        speakers.frame(audio(number, packets[5], user=8), 0.0)
    assert [(spoken.user_id, spoken.segment.cut) for spoken in out] == [(7, Cut.GAP)]


def test_what_is_still_needed(model: SileroModel, packets: list[bytes]) -> None:
    out: list[Spoken] = []
    speakers = Speakers(model, Endpointing(), out.append)
    for number in range(80):
        speakers.frame(audio(number, packets[number]), 0.0)
    first = speakers.needed()[1, 7]
    assert first <= 20
    speakers.drain(1)
    assert out[0].segment.first_mark == first
    assert speakers.needed()[1, 7] == 80


def test_the_backlog_drops_the_oldest_and_serves_drains_first(model: SileroModel, packets: list[bytes]) -> None:
    out: list[Spoken] = []
    speakers = Speakers(model, Endpointing(), out.append)
    for user in (1, 2, 3):
        for number, packet in enumerate(packets):
            speakers.frame(Audio(number, user, user, number * 960, number * 0.02, 0, packet), 0.0)
        speakers.drain(user)
    assert [spoken.guild_id for spoken in out] == [1, 2, 3]
    lost: list[Spoken] = []
    drained: list[int] = []
    backlog = Backlog(lost.append, drained.append, max_seconds=sum(s.segment.duration_s for s in out[:2]) + 0.1)
    for spoken in out:
        backlog.put(spoken)
    assert lost == out[:1]
    backlog.drain(3, 99)
    backlog.drain(5, 98)
    assert drained == [98]
    batch = backlog.take(1)
    assert batch.items == out[2:]
    assert backlog.needed() == {(2, 2): out[1].segment.first_mark, (3, 3): out[2].segment.first_mark}
    backlog.purge((3, 3))
    assert [item.withdrawal.withdrawn for item in batch.items] == [True]
    backlog.done()
    assert drained == [98, 99]
