"""From one datagram to one `AudioFrame`, in one call: parse, open, order, end-to-end decrypt, check.

Every packet ends as a frame or under a named reason, so that ``packets_in == frames_out + sum(dropped.values())``;
packets that still wait for an earlier one are counted when their fate is known.
"""

from __future__ import annotations

from collections.abc import Callable

from roost.audio import AudioFrame, Timing
from roost.opus_packet import packet_samples

from . import rtp
from .aead import Opener, ReplayWindow
from .dave import DaveGroup
from .jitter import LATE, Released, SequenceTracker

MAX_SOURCES = 1024
"""Streams known at a time; the longest known one goes first."""
MAX_CLIENTS = 4
"""Streams of one user; each of their clients has its own."""
MAX_EARLY = 64
"""Packets, over all streams, that may wait for the voice gateway to say whose they are."""


class Source:
    """One ssrc: who speaks on it, and where its packets stand."""

    __slots__ = ("last_at", "left_at", "replay", "ssrc", "tracker", "user_id")

    def __init__(self, ssrc: int, user_id: int) -> None:
        self.ssrc = ssrc
        self.user_id = user_id
        # Outlives the tracker: going idle must not make old packets acceptable again.
        self.replay = ReplayWindow()
        self.tracker: SequenceTracker | None = None
        self.last_at = 0.0
        self.left_at: float | None = None
        """When a client of the user left, which may have been this one; None once a packet shows that it was not."""


class Receiver:
    """The receiving half of one link's media.

    Args:
        guild_id: Written into every frame.
        dave: The link's group; read per packet, so a change of keys is never missed.
        emit: Takes every frame, in the same call stack as the packet that completed it.
        timing: Uses `reorder_s`, `early_packet_s` and `ssrc_idle_s`.
        wants: Whether a user's frames are to be decrypted; see `roost.audio.LinkEvents.wants`.
    """

    def __init__(
        self,
        guild_id: int,
        dave: DaveGroup,
        emit: Callable[[AudioFrame], None],
        timing: Timing,
        wants: Callable[[int], bool] = lambda _user_id: True,
    ) -> None:
        self._guild_id = guild_id
        self._dave = dave
        self._emit = emit
        self._timing = timing
        self._wants = wants
        self._open: Opener | None = None
        self._sources: dict[int, Source] = {}
        self._by_user: dict[int, tuple[int, ...]] = {}
        self._early: list[tuple[float, bytes]] = []
        self._waiting: set[int] = set()
        self._sweep_at: float | None = None
        self._taken = 0
        self._lost_before = 0
        self.due: float | None = None
        """When `handle_timer` should be called."""
        self.frames_out = 0
        self.dropped: dict[str, int] = {}
        self.last_packet_at = float("-inf")
        """When a packet last passed the transport encryption."""

    # -- what the voice gateway says ------------------------------------------------------------------------------

    def set_opener(self, opener: Opener | None) -> None:
        """Use the key of a new session description; streams of the old key are forgotten."""
        self._open = opener
        for source in self._sources.values():
            self._release_all(source)
            source.tracker = None
            source.replay = ReplayWindow()

    def learn(self, ssrc: int, user_id: int, now: float) -> None:
        """Map an ssrc to the user who speaks on it (ops 5 and 12), and deliver the packets that came before this news.

        A user may have several clients in the call, each with a stream of its own.
        """
        known = self._sources.get(ssrc)
        if known is not None and known.user_id == user_id:
            known.left_at = None
        else:
            self._forget_source(ssrc)
            others = self._by_user.get(user_id, ())
            for position, other in enumerate(others):
                if self._sources[other].left_at is not None or len(others) - position >= MAX_CLIENTS:
                    self._forget_source(other)
            while len(self._sources) >= MAX_SOURCES:
                self._forget_source(next(iter(self._sources)))
            self._sources[ssrc] = Source(ssrc, user_id)
            self._by_user[user_id] = (*self._by_user.get(user_id, ()), ssrc)
        self._retry_early(now)

    def client_left(self, user_id: int, now: float) -> None:
        """A client of the user left the call (op 13), and nobody says which.

        Their streams are doubted: what comes at once may still have been under way, what comes later is of a client
        that has stayed. Nothing is forgotten, as the voice gateway names a stream only once.
        """
        for ssrc in self._by_user.get(user_id, ()):
            self._sources[ssrc].left_at = now

    # -- what arrives ---------------------------------------------------------------------------------------------

    def datagram(self, data: bytes, now: float) -> None:
        """Take one datagram that is neither discovery nor a keepalive."""
        self._taken += 1
        header = rtp.parse(data)
        if isinstance(header, str):
            return self._drop(header)
        first, sequence, rtp_timestamp, ssrc, clear, extension = header
        opener = self._open
        if opener is None:
            return self._drop("no_key")
        source = self._sources.get(ssrc)
        if source is None:
            return self._unknown(data, now)
        if source.left_at is not None:
            if now - source.left_at < self._timing.early_packet_s / 2:
                return self._unknown(data, now)
            source.left_at = None
            self._retry_early(now)
        body = opener(data, clear)
        if body is None:
            return self._drop("aead")
        self.last_packet_at = source.last_at = now
        counter = int.from_bytes(data[-4:], "big")
        if not source.replay.accept(counter):
            return self._drop("replayed")
        user_id = source.user_id
        if not self._wants(user_id):
            return self._refuse(source)
        payload = rtp.strip(first, extension, body)
        if isinstance(payload, str):
            return self._drop(payload)
        tracker = source.tracker
        if tracker is None:
            tracker = source.tracker = SequenceTracker(self._timing.reorder_s)
            self._schedule(now + self._timing.ssrc_idle_s)
        refusal = tracker.refusal(sequence)
        if refusal is not None:
            # What the network brought late, the server had sent before others; a new beginning it sends after them.
            if refusal != LATE or source.replay.newest != counter or not tracker.restarts(sequence):
                return self._drop(refusal)
            self._out_of_order(source, tracker, tracker.restart(sequence))
        opus = self._dave.decrypt(user_id, payload, now)
        if isinstance(opus, str):
            self._drop(opus)
            self._out_of_order(source, tracker, tracker.accept(sequence, None, now))
            return None
        samples = packet_samples(opus)
        if not samples:
            self._drop("opus")
            self._out_of_order(source, tracker, tracker.accept(sequence, None, now))
            return None
        lost = tracker.in_order(sequence, rtp_timestamp, samples)
        if lost >= 0:
            self.frames_out += 1
            self._emit(AudioFrame(self._guild_id, user_id, ssrc, rtp_timestamp, opus, lost))
        else:
            self._out_of_order(source, tracker, tracker.accept(sequence, (rtp_timestamp, samples, opus), now))
        return None

    def handle_timer(self, now: float) -> None:
        """Release packets that waited long enough, and free what has been idle."""
        self.due = None
        for ssrc in list(self._waiting):
            source = self._sources.get(ssrc)
            if source is None or source.tracker is None:
                self._waiting.discard(ssrc)
                continue
            self._out_of_order(source, source.tracker, source.tracker.expire(now))
        self._retry_early(now)
        next_sweep: float | None = None
        for source in self._sources.values():
            if source.tracker is None:
                continue
            idle_at = source.last_at + self._timing.ssrc_idle_s
            if now >= idle_at:
                self._release_all(source)
                self._lost_before += source.tracker.lost
                source.tracker = None
            elif next_sweep is None or idle_at < next_sweep:
                next_sweep = idle_at
        if next_sweep is not None:
            self._schedule(next_sweep)

    # -- counters -------------------------------------------------------------------------------------------------

    @property
    def packets_in(self) -> int:
        """Packets whose fate is known."""
        return self._taken - len(self._early) - self.waiting

    @property
    def waiting(self) -> int:
        """Packets that wait for an earlier one of their stream."""
        return sum(s.tracker.held for s in self._sources.values() if s.tracker is not None)

    @property
    def lost(self) -> int:
        """Packets that never came, came too late, could not be decrypted or are not valid Opus."""
        return self._lost_before + sum(s.tracker.lost for s in self._sources.values() if s.tracker is not None)

    @property
    def streams(self) -> int:
        """Streams that hold state now; idle ones were freed."""
        return sum(s.tracker is not None for s in self._sources.values())

    # -- inside ---------------------------------------------------------------------------------------------------

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def _refuse(self, source: Source) -> None:
        """What its speaker does not want to be heard stays encrypted, and is no loss of the stream."""
        self._drop("refused")
        if source.tracker is not None:
            self._release_all(source)
            self._lost_before += source.tracker.lost
            source.tracker = None

    def _unknown(self, data: bytes, now: float) -> None:
        """A packet of nobody we know: the gateway's word on its speaker may be a moment behind the media."""
        if len(self._early) >= MAX_EARLY:
            return self._drop("unknown_ssrc")
        self._early.append((now, data))
        self._schedule(now + self._timing.early_packet_s)
        return None

    def _retry_early(self, now: float) -> None:
        """Deliver, drop or keep each packet that waits for its speaker."""
        if self._early:
            early, self._early = self._early, []
            self._taken -= len(early)
            for arrived_at, data in early:
                self._expire_or_retry(arrived_at, data, now)

    def _expire_or_retry(self, arrived_at: float, data: bytes, now: float) -> None:
        source = self._sources.get(int.from_bytes(data[8:12], "big"))
        if source is not None and source.left_at is None:
            self.datagram(data, now)
            return
        self._taken += 1
        expires_at = arrived_at + self._timing.early_packet_s
        if now >= expires_at:
            self._drop("unknown_ssrc")
        else:
            self._early.append((arrived_at, data))
            self._schedule(expires_at)

    def _out_of_order(self, source: Source, tracker: SequenceTracker, released: list[Released]) -> None:
        for rtp_timestamp, opus, lost in released:
            self.frames_out += 1
            self._emit(AudioFrame(self._guild_id, source.user_id, source.ssrc, rtp_timestamp, opus, lost))
        due = tracker.due
        if due is None:
            self._waiting.discard(source.ssrc)
        else:
            self._waiting.add(source.ssrc)
            self._schedule(due)

    def _release_all(self, source: Source) -> None:
        if source.tracker is not None:
            self._out_of_order(source, source.tracker, source.tracker.flush())

    def _forget_source(self, ssrc: int) -> None:
        source = self._sources.pop(ssrc, None)
        if source is None:
            return
        left = tuple(other for other in self._by_user[source.user_id] if other != ssrc)
        if left:
            self._by_user[source.user_id] = left
        else:
            del self._by_user[source.user_id]
        self._release_all(source)
        self._waiting.discard(ssrc)
        if source.tracker is not None:
            self._lost_before += source.tracker.lost

    def _schedule(self, at: float) -> None:
        if self.due is None or at < self.due:
            self.due = at
