"""When has someone stopped talking? The rules that need no audio: how packets arrive.

Discord clients send five silence frames when their own voice detection closes, then nothing; clients with video send
silence on and on; a client that vanishes just stops. So the end is a gap in the packets, shorter after silence frames,
because those are the client's own word that nothing more comes.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Endpointing:
    """How utterances are cut. Times in milliseconds unless the name says otherwise.

    Attributes:
        pre_roll_ms: Audio kept from before the detected start (the detector is late by about 280 ms).
        start_probability: Speech starts at this probability.
        stop_probability: Below this a stretch counts as silence.
        silence_ms: Silence in the audio that ends an utterance.
        gap_ms: Time without packets that ends an utterance, counted from the packet's arrival; what a packet lasts
            beyond 20 ms is added.
        quiet_gap_ms: The same after silence frames, counted from the first of them.
        soft_limit_s: From this length on, `soft_silence_ms` is silence enough.
        soft_silence_ms: See `soft_limit_s`.
        max_s: No utterance is longer; the cut is made at the quietest recent moment.
        min_speech_ms: Less detected speech than this is noise.
    """

    pre_roll_ms: int = 480
    start_probability: float = 0.5
    stop_probability: float = 0.35
    silence_ms: int = 500
    gap_ms: int = 400
    quiet_gap_ms: int = 200
    soft_limit_s: float = 12.0
    soft_silence_ms: int = 250
    max_s: float = 28.0
    min_speech_ms: int = 96


USUAL_PACKET_S = 0.02


class ArrivalClock:
    """Tells from arrival times alone whether one speaker's packets have ceased.

    Two clocks on purpose: `arrival_s` is stamped by the sender's side and stays right when this process lags behind;
    `now` is this process's own clock, for the moment when nothing arrives any more.
    """

    def __init__(self, options: Endpointing) -> None:
        self._options = options
        self._last_arrival_s: float | None = None
        self._quiet_arrival_s: float | None = None
        self._last_seen_s = 0.0
        self._quiet_seen_s = 0.0
        self.silence_frames = 0

    def frame(self, arrival_s: float, now: float, *, is_silence: bool, lasts_s: float = USUAL_PACKET_S) -> None:
        """A packet came.

        Args:
            arrival_s: When the bot got it.
            now: The clock of this process.
            is_silence: It is the silence frame that ends a stretch of speech.
            lasts_s: How long its audio is: the next packet is due only after it.
        """
        if is_silence:
            if self.silence_frames == 0:
                self._quiet_arrival_s, self._quiet_seen_s = arrival_s, now
            self.silence_frames += 1
        else:
            self.silence_frames = 0
            self._quiet_arrival_s = None
        longer_s = max(0.0, lasts_s - USUAL_PACKET_S)
        self._last_arrival_s, self._last_seen_s = arrival_s + longer_s, now + longer_s

    def ended_by(self, arrival_s: float) -> bool:
        """Whether a packet (of anybody) that arrived then proves that this speaker had stopped before."""
        if self._last_arrival_s is None:
            return False
        return self._over(arrival_s, self._last_arrival_s, self._quiet_arrival_s)

    def ended_at(self, now: float) -> bool:
        """Whether nothing has come for long enough; ask only when everything received has been processed."""
        if self._last_arrival_s is None:
            return False
        quiet = self._quiet_seen_s if self._quiet_arrival_s is not None else None
        return self._over(now, self._last_seen_s, quiet)

    def _over(self, now: float, last: float, quiet: float | None) -> bool:
        if now - last >= self._options.gap_ms / 1000:
            return True
        # One lone silence frame is nothing: five are the farewell, some clients send a few less.
        return quiet is not None and self.silence_frames >= 3 and now - quiet >= self._options.quiet_gap_ms / 1000

    def reset(self) -> None:
        self._last_arrival_s = None
        self._quiet_arrival_s = None
        self.silence_frames = 0
