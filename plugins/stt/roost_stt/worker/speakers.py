"""From Opus frames to utterances: one decoder, resampler, voice detector and segmenter for each speaker."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import soxr

from roost.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, SILENCE_FRAME
from roost.opus import OpusDecoder, OpusError
from roost.opus_packet import MAX_SAMPLES, packet_samples
from roost.speech import ENGINE_SAMPLE_RATE_HZ
from roost_stt.blackbox import BlackBox
from roost_stt.protocol.endpointing import ArrivalClock, Endpointing
from roost_stt.protocol.ipc import Audio
from roost_stt.protocol.segmenter import CHUNK_SAMPLES, Cut, Segment, Segmenter
from roost_stt.worker.drafts import Drafts
from roost_stt.worker.utterances import Key, Spoken
from roost_stt.worker.vad import SileroModel, SileroStream

IDLE_DECODER_S = 50.0
MAX_CONCEAL_SAMPLES = 20 * FRAME_SAMPLES
"""Longer losses are a gap, not something to fill."""
MAX_SPEAKERS = 512
"""With decoders of their own; beyond that the one silent for longest makes room."""
MAX_COUNTED = 4096
"""Former speakers counted by name; older ones are counted together, as user 0."""
RESTING_FRAMES = 25
"""After so many silence frames in a row, further ones are not even decoded."""


class Speaker:
    """One person in one guild."""

    def __init__(self, model: SileroModel, options: Endpointing) -> None:
        self._decoder = OpusDecoder()
        self._vad = SileroStream(model)
        self._segmenter = Segmenter(options)
        self._new_resampler()
        self.clock = ArrivalClock(options)
        self._left = np.zeros(0, np.int16)
        self._next_timestamp: int | None = None
        self._last_index = 0
        self.last_seen_s = 0.0
        self.active = False
        self.decoded_samples = 0
        self.damaged = 0

    @property
    def needed_from(self) -> int:
        """The first audio index that a restarted worker would have to hear again."""
        mark = self._segmenter.first_mark
        return self._last_index + 1 if mark is None else mark

    @property
    def speaking(self) -> bool:
        return self._segmenter.speaking

    @property
    def open_mark(self) -> int | None:
        """The first mark of the open utterance, or None."""
        return self._segmenter.first_mark if self.speaking else None

    @property
    def speech_ms(self) -> int:
        return self._segmenter.speech_ms

    def so_far(self) -> Segment | None:
        """The open utterance."""
        return self._segmenter.so_far()

    def frame(self, audio: Audio, now: float) -> list[Segment]:
        """Take one packet, of whatever length it says."""
        samples = packet_samples(audio.opus)
        if not samples:
            self.damaged += 1
            return []
        is_silence = audio.opus == SILENCE_FRAME
        out: list[Segment] = []
        if self.clock.ended_by(audio.arrival_s):
            out += self.finish(Cut.GAP)
        lasts_s = samples / SAMPLE_RATE_HZ
        self.clock.frame(audio.arrival_s, now, is_silence=is_silence, lasts_s=lasts_s)
        self.last_seen_s = now
        self._last_index = audio.index
        missing = self._missing(audio, samples)
        self._next_timestamp = (audio.rtp_timestamp + samples) & 0xFFFFFFFF
        if is_silence and not self.active:
            return out  # a video client's endless silence costs nothing
        self.active = True
        try:
            pcm = self._decoder.decode(audio.opus)
        except OpusError:
            self.damaged += 1
            pcm = np.zeros(samples, np.int16)
        else:
            self.decoded_samples += samples
        if len(pcm) > MAX_SAMPLES:
            self.damaged += 1
            return out
        if missing:
            pcm = np.concatenate([np.zeros(missing, np.int16), pcm])
        # The packet was sent when its audio began, as far as anybody can know: what it holds ends so much later.
        out += self._hear(np.asarray(self._resampler.resample_chunk(pcm)), audio.arrival_s + lasts_s, audio.index)
        if self.clock.silence_frames >= RESTING_FRAMES and not self.speaking:
            self.clear()
        return out

    def finish(self, cut: Cut) -> list[Segment]:
        """Nothing more comes for now: flush everything and start afresh."""
        if not self.active:
            self.clock.reset()
            self._next_timestamp = None
            return []
        tail = np.asarray(self._resampler.resample_chunk(np.zeros(0, np.int16), last=True))
        out = self._hear(tail, self.last_end_s, self._last_index)
        if len(self._left) and self.speaking:
            padding = np.zeros(CHUNK_SAMPLES - len(self._left), np.int16)
            out += self._hear(padding, self.last_end_s, self._last_index)
        out += self._segmenter.end(cut)
        self._rest()
        return out

    def clear(self) -> None:
        """Forget everything heard."""
        self._segmenter.clear()
        self._rest()

    def _rest(self) -> None:
        self._new_resampler()
        self._vad.reset()
        self._left = np.zeros(0, np.int16)
        self._next_timestamp = None
        self.clock.reset()
        self.active = False

    def _new_resampler(self) -> None:
        self._resampler = soxr.ResampleStream(SAMPLE_RATE_HZ, ENGINE_SAMPLE_RATE_HZ, 1, dtype="int16", quality="MQ")
        self.last_end_s = 0.0

    def _missing(self, audio: Audio, samples: int) -> int:
        """Samples to fill with silence before this packet: by the sender's clock, else by what is counted as lost."""
        missing = audio.lost_before * samples
        if self._next_timestamp is not None:
            step = ((audio.rtp_timestamp - self._next_timestamp + 0x80000000) & 0xFFFFFFFF) - 0x80000000
            if step > 0:
                missing = step
        return missing if 0 < missing <= MAX_CONCEAL_SAMPLES and self.active else 0

    def _hear(self, pcm: npt.NDArray[np.int16], end_s: float, index: int) -> list[Segment]:
        self.last_end_s = end_s
        samples = np.concatenate([self._left, pcm]) if len(self._left) else pcm
        out: list[Segment] = []
        whole = len(samples) - len(samples) % CHUNK_SAMPLES
        for start in range(0, whole, CHUNK_SAMPLES):
            chunk = samples[start : start + CHUNK_SAMPLES]
            began_s = end_s - (len(samples) - start) / ENGINE_SAMPLE_RATE_HZ
            out += self._segmenter.push(chunk.tobytes(), self._vad.probability(chunk), began_s, index)
        self._left = samples[whole:]
        return out


class Speakers:
    """All speakers of all guilds. One thread uses it.

    Args:
        model: Shared voice detector.
        options: How utterances are cut.
        emit: Called with each finished utterance.
        idle_s: A speaker silent for so long loses their decoder.
        drafts: Told of utterances that are not over.
        box: Says whose audio is at work, should the process die of it.
        failed: Called with a speaker whose audio raised, the index of that audio and the error; they begin afresh.
    """

    def __init__(
        self,
        model: SileroModel,
        options: Endpointing,
        emit: Callable[[Spoken], None],
        *,
        idle_s: float = IDLE_DECODER_S,
        drafts: Drafts | None = None,
        box: BlackBox | None = None,
        failed: Callable[[Key, int, Exception], None] = lambda _key, _index, _error: None,
    ) -> None:
        self._model = model
        self._options = options
        self._emit = emit
        self._speakers: dict[Key, Speaker] = {}
        self._decoded_samples: dict[int, int] = {}
        self._damaged = 0
        self._checked_s = 0.0
        self._idle_s = idle_s
        self._drafts = drafts
        self._freed_s = 0.0
        self._box = box or BlackBox()
        self._failed = failed

    def frame(self, audio: Audio, now: float) -> None:
        key = (audio.guild_id, audio.user_id)
        speaker = self._speakers.get(key)
        if speaker is None:
            if len(self._speakers) >= MAX_SPEAKERS:
                self._make_room()
            speaker = self._speakers[key] = Speaker(self._model, self._options)
        self._work(key, audio.index, lambda: speaker.frame(audio, now))
        # Other people's packets are proof of time passing even while this process lags behind.
        if abs(audio.arrival_s - self._checked_s) >= 0.02:
            self._checked_s = audio.arrival_s
            for other, candidate in list(self._speakers.items()):
                if candidate.active and candidate.clock.ended_by(audio.arrival_s):
                    self._finish(other, Cut.GAP)

    def tick(self, now: float) -> None:
        """Nothing waits to be processed: end what has fallen silent."""
        for key, speaker in list(self._speakers.items()):
            if speaker.active and speaker.clock.ended_at(now):
                self._finish(key, Cut.GAP)

    def free_idle(self, now: float) -> None:
        """Drop the decoders of those long gone. Cheap enough for every item: it looks now and then only."""
        if now - self._freed_s < self._idle_s / 20:
            return
        self._freed_s = now
        for key, speaker in list(self._speakers.items()):
            if not speaker.active and now - speaker.last_seen_s > self._idle_s:
                self._drop(key)

    def drain(self, guild_id: int) -> None:
        """End every open utterance of a guild."""
        for key in list(self._speakers):
            if key[0] == guild_id:
                self._finish(key, Cut.ORDER)

    def purge(self, guild_id: int, user_id: int) -> None:
        """Forget what is held of a speaker, and their decoder; with user 0, of everybody in the guild."""
        for key in [key for key in self._speakers if key[0] == guild_id and user_id in (0, key[1])]:
            self._speakers[key].clear()
            self._drop(key)
        if self._drafts is not None:
            self._drafts.forget((guild_id, user_id))

    @property
    def any_active(self) -> bool:
        return any(speaker.active for speaker in self._speakers.values())

    def decoded(self) -> dict[int, int]:
        """Audio decoded so far, per user, in frames of 20 ms however long the packets were."""
        total = dict(self._decoded_samples)
        for (_, user_id), speaker in list(self._speakers.items()):
            total[user_id] = total.get(user_id, 0) + speaker.decoded_samples
        return {user_id: samples // FRAME_SAMPLES for user_id, samples in total.items()}

    def needed(self) -> dict[Key, int]:
        """Per speaker, the first audio index not yet part of a finished utterance (or known to be no speech)."""
        return {key: speaker.needed_from for key, speaker in list(self._speakers.items())}

    def stats(self) -> dict[str, int]:
        damaged = self._damaged + sum(speaker.damaged for speaker in list(self._speakers.values()))
        return {"speakers": len(self._speakers), "damaged": damaged}

    def _make_room(self) -> None:
        oldest = min(self._speakers, key=lambda key: self._speakers[key].last_seen_s)
        self._finish(oldest, Cut.ORDER)
        if oldest in self._speakers:
            self._drop(oldest)

    def _drop(self, key: Key) -> None:
        speaker = self._speakers.pop(key)
        self._damaged += speaker.damaged
        decoded = self._decoded_samples
        if len(decoded) >= MAX_COUNTED and key[1] not in decoded:
            first = next(user_id for user_id in decoded if user_id)
            decoded[0] = decoded.get(0, 0) + decoded.pop(first)
        if speaker.decoded_samples:
            decoded[key[1]] = decoded.get(key[1], 0) + speaker.decoded_samples

    def _finish(self, key: Key, cut: Cut) -> None:
        speaker = self._speakers[key]
        self._work(key, speaker.needed_from, lambda: speaker.finish(cut))

    def _work(self, key: Key, index: int, work: Callable[[], list[Segment]]) -> None:
        """Do something with a speaker's audio. If it raises, that speaker alone begins afresh.

        Raises:
            MemoryError: Only a new process helps.
        """
        self._box.begin(key, index)
        try:
            self._give(key, work())
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  one speaker's audio must not end the others'
            self._drop(key)
            if self._drafts is not None:
                self._drafts.forget(key)
            self._failed(key, index, error)
        finally:
            self._box.end()

    def _give(self, key: Key, segments: list[Segment]) -> None:
        speaker = self._speakers[key]
        if self._drafts is not None:
            self._drafts.look(key, speaker.open_mark, speaker.speech_ms, speaker.so_far, segments)
        for segment in segments:
            self._emit(Spoken(key[0], key[1], segment))
