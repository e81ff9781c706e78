"""What the bot owes to those who spoke: which frames are kept, what the worker is at, what was lost and how often.

No process and no clock is in here; `roost_stt.engine` owns both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from roost.speech import Transcript, Word
from roost_stt.kept import KeptFrames, Key
from roost_stt.partials import OpenPartials, Partial
from roost_stt.protocol.ipc import Audio
from roost_stt.supervision import Cause, Trouble
from roost_stt.suspects import Suspects, Verdict

TOO_MUCH = "the worker does not keep up, so audio is dropped"
MAX_DOUBLINGS = 6
"""Of the rest from drafts: then it lasts an hour."""
MAX_COUNTED = 4096
"""Speakers of former processes counted by name; further ones are counted together, as user 0."""


@dataclasses.dataclass(slots=True)
class Counters:
    """Since the supervision began, over all processes."""

    starts: int = 0
    crashes: int = 0
    frames_sent: int = 0
    frames_dropped: int = 0
    frames_muted: int = 0
    """Of speakers whose audio workers died of."""
    frames_replayed: int = 0
    utterances: int = 0
    utterances_lost: int = 0
    draft_deaths: int = 0
    """Crashes while the engine worked on a draft."""
    nonsense: int = 0
    """Messages of workers that broke the rules."""
    decode_s: float = 0.0


class Accounts:
    """Books of one `roost_stt.engine.SpeechWorker`, through the lives of its processes.

    Args:
        on_transcript: See `roost_stt.engine.SpeechWorker`, like the others.
        on_trouble: What the people in the channel may have to be told.
        on_partial: What is certain of utterances that are not over.
        on_muted: Called, once in a session, with the guild and user (0: all of the guild) whose audio is dropped.
        owner_of: The owner of a server, or what stands for them where they are not known.
    """

    def __init__(
        self,
        on_transcript: Callable[[Transcript], None],
        on_trouble: Callable[[Trouble, int | None, str], None],
        on_partial: Callable[[Partial], None],
        on_muted: Callable[[int, int], None],
        owner_of: Callable[[int], int] = lambda guild_id: guild_id,
    ) -> None:
        self._on_muted = on_muted
        self._on_transcript = on_transcript
        self._on_trouble = on_trouble
        self._partials = OpenPartials(on_partial)
        self.kept = KeptFrames()
        self.counters = Counters()
        self.suspects = Suspects(owner_of)
        self._in_engine: dict[Key, int] = {}
        """The speakers whose utterances the engine works on, with the last audio index of each."""
        self._is_draft = False
        """The engine works on a draft: on an utterance that is not over and will come again as a whole."""
        self.purging: set[int] = set()
        """Tokens of the purges that the worker has not confirmed."""
        self._withdrawn: dict[Key, int] = {}
        """By speaker, or by guild with user 0: no text comes out of audio up to this index, whenever it arrives."""
        self._decoded_before: dict[int, int] = {}
        self._decoded_now: dict[int, int] = {}
        self._worker_stats: Mapping[str, Any] = {}
        self._inbox_dropped = 0
        self._drops_told: set[int] = set()
        self._mutes_told: set[Key] = set()

    def keep(self, audio: Audio, sent: int) -> None:
        """Keep a frame until it has become text; an old one that was never sent may be lost for it."""
        gone = self.kept.add(audio)
        if gone is not None and gone.index > sent:
            self.counters.frames_dropped += 1
            if gone.guild_id not in self._drops_told:
                self._drops_told.add(gone.guild_id)
                self._on_trouble(Trouble.LOST, gone.guild_id, TOO_MUCH)

    def refuses(self, guild_id: int, user_id: int, now: float) -> bool:
        """Whether a frame is dropped, because workers died of such audio; says so once in a session."""
        whom = self.suspects.muted(guild_id, user_id, now)
        if whom is None:
            return False
        self.counters.frames_muted += 1
        self._tell_muted(guild_id, whom)
        return True

    def _tell_muted(self, guild_id: int, user_id: int) -> None:
        if (guild_id, user_id) not in self._mutes_told:
            self._mutes_told.add((guild_id, user_id))
            self._on_muted(guild_id, user_id)

    def purge(self, key: Key, token: int | None, index: int) -> None:
        """Forget a speaker, or with user 0 a guild.

        Args:
            key: Whose words are withdrawn.
            token: Of the order that tells the worker to, if there is one.
            index: Of the last audio that is withdrawn.
        """
        for each in self.kept.speakers if not key[1] else (key,):
            if each[0] == key[0]:
                self.kept.forget(each)
        self._partials.over_in(*key)
        self._withdrawn.pop(key, None)
        self._withdrawn[key] = index
        if len(self._withdrawn) > MAX_COUNTED:
            del self._withdrawn[next(iter(self._withdrawn))]
        if token is not None:
            self.purging.add(token)

    def _is_withdrawn(self, key: Key, mark: int) -> bool:
        """Whether an utterance that began at an audio index may not come out any more."""
        return mark <= max(self._withdrawn.get(key, -1), self._withdrawn.get((key[0], 0), -1))

    def over(self, guild_id: int, now: float) -> None:
        """A server's session is over."""
        self._drops_told.discard(guild_id)
        self._mutes_told = {key for key in self._mutes_told if key[0] != guild_id}
        self.suspects.session_over(guild_id, now)

    # ---- what the worker says

    def started(self, fields: Mapping[str, Any]) -> None:
        """What the engine is at now."""
        self._in_engine = {(int(guild), int(user)): int(last) for guild, user, last in fields["speakers"]}
        self._is_draft = bool(fields.get("draft"))

    def transcript(self, fields: Mapping[str, Any]) -> None:
        """An utterance has become text."""
        key = (int(fields["guild"]), int(fields["user"]))
        transcript = Transcript(
            utterance_id=int(fields["id"]),
            guild_id=key[0],
            user_id=key[1],
            text=str(fields["text"]),
            started_at=float(fields["started_at"]),
            ended_at=float(fields["ended_at"]),
            language=fields["language"],
            confidence=float(fields["confidence"]),
            words=tuple(Word(float(start), float(end), str(text)) for start, end, text in fields["words"]),
        )
        self._heard(key, int(fields["last"]))
        self._partials.final(key, transcript.utterance_id)
        self.counters.utterances += 1
        self.counters.decode_s += float(fields["decode_s"])
        if not self._is_withdrawn(key, transcript.utterance_id):
            self._on_transcript(transcript)

    def partial(self, fields: Mapping[str, Any]) -> None:
        """Something of an utterance is certain."""
        partial = Partial(int(fields["guild"]), int(fields["user"]), int(fields["mark"]), str(fields["text"]))
        if not self._is_withdrawn(partial.key, partial.mark):
            self._partials.take(partial)

    def lost(self, fields: Mapping[str, Any]) -> None:
        """An utterance has been given up."""
        key = (int(fields["guild"]), int(fields["user"]))
        self._heard(key, int(fields["last"]))
        self._partials.over(key, int(fields["last"]))
        self.counters.utterances_lost += 1
        self._on_trouble(Trouble.LOST, key[0], str(fields["reason"]))

    def needs(self, fields: Mapping[str, Any]) -> None:
        """Which frames the worker has seen, and which of them it still needs."""
        needed = {(int(guild), int(user)): int(index) for guild, user, index in fields["needed"]}
        self.kept.trim(int(fields["seen"]), needed)

    def facts(self, fields: Mapping[str, Any]) -> None:
        """Figures of the living process."""
        self._decoded_now = {int(user): int(frames) for user, frames in fields["decoded"].items()}
        self._worker_stats = fields["stats"]
        dropped = int(self._worker_stats.get("inbox_dropped", 0))
        if dropped > self._inbox_dropped:
            self.counters.frames_dropped += dropped - self._inbox_dropped
            self._inbox_dropped = dropped
            self._on_trouble(Trouble.LOST, None, TOO_MUCH)

    def _heard(self, key: Key, last: int) -> None:
        """Everything of this speaker up to an index has become text or been given up."""
        self._in_engine.pop(key, None)
        self.suspects.cleared(key)
        self.kept.heard(key, last)

    # ---- ends

    def process_over(self) -> None:
        """A process has ended: its figures become part of the sum."""
        before = self._decoded_before
        for user_id, frames in self._decoded_now.items():
            counted = user_id if user_id in before or len(before) < MAX_COUNTED else 0
            before[counted] = before.get(counted, 0) + frames
        self._decoded_now = {}
        self._inbox_dropped = 0

    def after_death(self, cause: Cause, audio: tuple[Key, int] | None = None, *, now: float) -> Verdict:
        """It ended by itself. What it may have died of is tried again once at most.

        Args:
            cause: See `Cause`.
            now: Seconds of a clock that only goes forward.
            audio: Speaker and index of what its audio thread was at.
        """
        self.counters.crashes += 1
        self._partials.all_over()
        self.purging.clear()
        in_engine, self._in_engine = self._in_engine, {}
        is_draft, self._is_draft = self._is_draft, False
        verdict = self.suspects.died(Cause.NOBODY if is_draft else cause, in_engine, audio, now)
        if is_draft and cause is not Cause.NOBODY:
            self.counters.draft_deaths += 1
            verdict = dataclasses.replace(verdict, parties=self.suspects.parties(in_engine))
        for key, last in verdict.utterances.items():
            self.kept.heard(key, last)
            self.counters.utterances_lost += 1
            self._on_trouble(Trouble.LOST, key[0], "the speech engine died of it")
        if verdict.audio is not None:
            self.kept.remove(*verdict.audio)
            self._on_trouble(Trouble.LOST, verdict.audio[0][0], "the speech engine died of its audio")
        if verdict.muted:
            for key in self.kept.speakers:
                if self.suspects.muted(*key, now) is not None:
                    self.kept.forget(key)
        for guild_id, user_id in verdict.muted:
            self._tell_muted(guild_id, user_id)
        return verdict

    def draft_rest_s(self, window_s: float) -> float:
        """Seconds without drafts after a crash: they double with each crash that a draft may have caused.

        Nobody is muted for such a crash, so nothing else would end a series of them.
        """
        return window_s * 2.0 ** min(max(self.counters.draft_deaths - 1, 0), MAX_DOUBLINGS)

    def give_up(self, how: str) -> None:
        """There will be no other process."""
        self.counters.utterances_lost += len(self.kept.speakers)
        self.kept.clear()
        self._on_trouble(Trouble.FAILED, None, how)

    def close(self) -> None:
        """Forget everything that is kept."""
        self.kept.clear()
        self._partials.all_over()

    def stats(self) -> dict[str, Any]:
        """Counters, and the figures of the process's last answer."""
        decoded = dict(self._decoded_before)
        for user_id, frames in self._decoded_now.items():
            decoded[user_id] = decoded.get(user_id, 0) + frames
        return {
            **dataclasses.asdict(self.counters),
            "decoded": decoded,
            "kept_frames": len(self.kept),
            "blamed": {f"{guild}:{user}": deaths for (guild, user), deaths in self.suspects.deaths.items()},
            "worker": dict(self._worker_stats),
        }
