"""One session being transcribed: frames in, captions out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from roost.audio import SILENCE_FRAME, AudioFrame, NoticeFacts, VoiceSession
from roost.context import Asked, HookCaller
from roost.errors import RoostError
from roost.hook_answers import WrongAnswerError
from roost.scopes import Scope
from roost.speech import Transcript
from roost_stt.audience_watch import AudienceWatch
from roost_stt.captioner import Captioner, ChannelRate
from roost_stt.captions import Line, unnamed
from roost_stt.engine import SpeechWorker
from roost_stt.guard import Finding, Look, duration
from roost_stt.pages import Board
from roost_stt.partials import Partial
from roost_stt.transcripts import Keeper

_log = logging.getLogger("roost.stt")

TRANSCRIPT_LIMIT = 256
NAME_S = 10.0
"""A speaker's name is looked up anew after so long."""
MAX_NAMES = 4096
MAX_HEARD = 4096
"""Users remembered as heard; when there are more, the callback for a first word runs again, which does no harm."""
OTHERS = "it answered the words of another utterance; utterance_id, guild_id and user_id may not change"


class Transcription:
    """Owns the sink, the hooks' queue and the captioner of one session. `start` starts it, `close` ends it.

    Args:
        session: What is heard.
        channel_id: Where the captions go.
        worker: Shared by all sessions.
        hooks: For ``transcript_process`` and ``transcript_ready``.
        name_of: A user's name in this guild, as their profile has it; None where nobody knows it.
        captioner: Posts to the channel.
        may_show: Whether a user's words may be posted, by their consent now.
        facts: What the notice tells, for the channel of the captions; asked for each notice.
        shown: Whether captions are posted at all; asked for each.
        first_heard: Called with each user before their first frame is passed on.
        language: What was asked for with the start: a code, ``auto``, or None for the server's.
        keeper: Stores every line before it is posted.
        is_wide: Whether somebody may read along who cannot be in the room.
        tell_audience: Tells people that captions pause for that reason (True), or go on.
        accepts_wide: Somebody who manages the server wants the captions there all the same.
    """

    def __init__(
        self,
        session: VoiceSession,
        channel_id: int,
        *,
        worker: SpeechWorker,
        hooks: HookCaller,
        name_of: Callable[[int], str | None],
        captioner: Captioner,
        may_show: Callable[[int], bool],
        keeper: Keeper,
        is_wide: Callable[[], Awaitable[bool]],
        tell_audience: Callable[[bool], Awaitable[None]],
        facts: Callable[[int], NoticeFacts],
        accepts_wide: bool = False,
        shown: Callable[[], bool] = lambda: True,
        first_heard: Callable[[int], None] = lambda _user_id: None,
        language: str | None = None,
    ) -> None:
        self.session = session
        self.channel_id = channel_id
        self.shown_in = channel_id
        """Where captions are posted: after a move, the old channel until the notice stands in the new one."""
        self._destination: tuple[Board, ChannelRate, Callable[[int], bool]] | None = None
        """Of the new channel until then, and whether a speaker can see it."""
        self.room_id = session.channel_id
        """Where what is shown was said: after a move, the old room until all of that is done with."""
        self.changing = asyncio.Lock()
        """Held while the room, the channel or what is told changes."""
        self.accepts_wide = accepts_wide
        """Whether the next notice tells that others may read along."""
        self.guild_id = session.guild_id
        self.captioner = captioner
        self._facts = facts
        self._shown = shown
        self._first_heard = first_heard
        self._heard: set[int] = set()
        self.language = language
        self.thread_id: int | None = None
        """Of the thread that the captions go to, once there is one."""
        self.paused = False
        self.wants_partials = False
        """Whether what is being said is shown before it is finished."""
        self.heard_s = time.monotonic()
        """When somebody was heard last, or when hearing began."""
        self._may_show = may_show
        self.keeper = keeper
        self._in_hand = 0
        """Whose transcript the other plugins have now; 0 once it must not be published any more."""
        self._hold: asyncio.Timeout | None = None
        """Around the plugin that has it."""
        self._worker = worker
        self._hooks = hooks
        self._name_of = name_of
        self._names: dict[int, tuple[str, float]] = {}
        """By user: what they were called when they were heard last, and when that was looked up."""
        self._transcripts: deque[Transcript] = deque()
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._limits_changed = asyncio.Event()
        self._detach: Callable[[], None] | None = None
        self._ending = False
        self._told_facts: NoticeFacts | None = None
        """What the notice tells since the last attaching."""
        self._scope = Scope(f"transcription:{session.guild_id}")
        self.audience = AudienceWatch(captioner, self._scope, is_wide, tell_audience, accepted=accepts_wide)
        self._told: set[str] = set()
        self._post_until = float("inf")
        self.transcripts = 0
        self.transcripts_dropped = 0
        self._decoded_before: dict[int, int] = dict(worker.stats()["decoded"])

    @property
    def hearing(self) -> bool:
        """Whether frames are being taken."""
        return self._detach is not None

    @property
    def is_ending(self) -> bool:
        """Whether nothing is heard any more, for good."""
        return self._ending

    def start(self, *, paused: bool = False) -> None:
        """Attach to the session, unless it begins with a pause.

        Raises:
            ClosedError: The session has ended.
        """
        self.paused = paused
        if not paused:
            self._attach()
        # Kept, because a plugin may cancel the task that calls it, or all tasks.
        self._scope.keep(self.audience.run, "watch over the audience")
        self._scope.keep(self.captioner.run, "captions")
        self._scope.keep(self._pump, "transcripts")

    def pause(self) -> None:
        """Hear nothing until `resume`. What was said becomes text."""
        self.paused = True
        self.stop_intake()

    def resume(self) -> None:
        """Hear again.

        Raises:
            ClosedError: The session has ended.
        """
        if self.paused:
            self._attach()
            self.paused = False

    def _attach(self) -> None:
        # Nobody is heard whose words would be shown and kept as said in another room.
        if self._ending or self.session.channel_id != self.room_id:
            return
        self._told_facts = self._facts(self.channel_id)
        self._detach = self.session.attach(self, facts=self._told_facts)
        self.heard_s = time.monotonic()

    def write(self, frame: AudioFrame) -> None:
        """`roost.audio.FrameSink`: one frame for the worker."""
        if self.session.channel_id != self.room_id:
            return
        if self._destination is not None:
            # Somebody is heard, so the notice stands.
            self.arrive()
        now = time.monotonic()
        if frame.opus != SILENCE_FRAME:
            self.heard_s = now
        known = self._names.get(frame.user_id)
        if known is None or now - known[1] > NAME_S:
            self._look_up(frame.user_id, now)
        if frame.user_id not in self._heard:
            if len(self._heard) >= MAX_HEARD:
                self._heard.clear()
            self._heard.add(frame.user_id)
            self._first_heard(frame.user_id)
        self._worker.write(frame)

    def _look_up(self, user_id: int, now: float) -> None:
        """Note a speaker's name while they are here to be asked."""
        name = self._name_of(user_id)
        if name is None and user_id in self._names:
            name = self._names[user_id][0]
        if name is None:
            return
        if len(self._names) >= MAX_NAMES and user_id not in self._names:
            del self._names[next(iter(self._names))]
        self._names[user_id] = name, now

    def name(self, user_id: int) -> str:
        """What a speaker was called when they were heard; they may have left since."""
        known = self._names.get(user_id)
        return known[0] if known is not None else self._name_of(user_id) or unnamed(user_id)

    def purge(self, user_id: int) -> None:
        """`roost.audio.FrameSink`: forget a speaker, in the worker and in every queue here."""
        self._worker.purge(self.guild_id, user_id)
        self.forget(user_id)

    def forget(self, user_id: int) -> None:
        """Drop a speaker's words from every queue here."""
        self._transcripts = deque(each for each in self._transcripts if each.user_id != user_id)
        if self._in_hand == user_id:
            self._revoke()
        self._names.pop(user_id, None)
        # That they spoke is forgotten too.
        self._decoded_before[user_id] = self._worker.stats()["decoded"].get(user_id, 0)
        self.captioner.forget(user_id)

    def move(
        self, channel_id: int, keeper: Keeper, board: Board, rate: ChannelRate, sees: Callable[[int], bool]
    ) -> None:
        """Hear people for another channel from now on; the notice comes first, then `arrive`.

        Args:
            channel_id: That channel.
            keeper: Of the transcript for it.
            board: Posts there.
            rate: Of the channel.
            sees: Whether a speaker can see it.

        Raises:
            ClosedError: The session has ended.
        """
        self.channel_id, self.thread_id, self.keeper = channel_id, None, keeper
        self._destination = board, rate, sees
        self.stop_intake()
        self.go_on()

    def arrive(self) -> None:
        """Show captions in the channel of the last move, where the notice stands by now. Idempotent."""
        destination, self._destination = self._destination, None
        if destination is not None:
            self.captioner.move(*destination)
            self.shown_in = self.channel_id
            self.audience.accept(accepted=self.accepts_wide)

    def go_on(self) -> None:
        """Take frames again after `stop_intake`, unless people have paused it.

        Raises:
            ClosedError: The session has ended.
        """
        if not self.paused and not self.hearing:
            self._attach()

    @property
    def notice_is_old(self) -> bool:
        """Whether the notice, or the transcript that lines go to, was made for something else than what is done now.

        In a pause the transcript changes with the settings, and the notice does not. That fewer plugins receive the
        text is not told.
        """
        facts, told = self._facts(self.channel_id), self._told_facts
        if told is not None and set(facts.text_plugins) <= set(told.text_plugins):
            facts = dataclasses.replace(facts, text_plugins=told.text_plugins)
        return self._told_facts != facts or self.keeper.head.kept_days != facts.kept_days

    def end_intake(self) -> None:
        """`stop_intake` for good: the end has begun."""
        self._ending = True
        self.stop_intake()

    def stop_intake(self) -> None:
        """Take no further frame; what was heard goes on to become text. Idempotent."""
        detach, self._detach = self._detach, None
        if detach is not None:
            detach()

    def take(self, transcript: Transcript) -> None:
        """A transcript from the worker; never blocks."""
        if not transcript.text:
            self._end_partial(transcript)
            return
        if len(self._transcripts) >= TRANSCRIPT_LIMIT:
            self._end_partial(self._transcripts.popleft())
            self.transcripts_dropped += 1
            self.tell("overflow", "Some of what was said is missing above: too much was said at once.")
        self._transcripts.append(transcript)
        self._settled.clear()
        self._wake.set()

    def take_partial(self, partial: Partial) -> None:
        """How an utterance begins that is not over: shown until its transcript has been seen to, and nothing else."""
        # What another plugin would change or drop nobody may see before it has.
        if not partial.text or self._is_processed():
            self.captioner.end_partial(partial.user_id, partial.mark)
        elif self.wants_partials and self._is_shown and self._may_show(partial.user_id):
            line = Line(self.name(partial.user_id), f"{partial.text} …", partial.user_id)
            self.captioner.show_partial(line, partial.mark)

    def show_partials(self, *, wanted: bool) -> None:
        """From now on, or not any more."""
        self.wants_partials = wanted
        if not wanted:
            self.captioner.end_partials()

    def _end_partial(self, transcript: Transcript) -> None:
        self.captioner.end_partial(transcript.user_id, transcript.utterance_id)

    def tell(self, what: str, text: str, *, about: int = 0) -> None:
        """Say something to the channel, once per session for each `what`; what is about a user waits as captions do."""
        if what not in self._told:
            self._told.add(what)
            self.captioner.add(Line("Roost", text, about, own=True))

    def was_told(self, what: str) -> bool:
        return what in self._told

    async def watch(self, limits: Callable[[], tuple[float, float]], too_long: Callable[[float], None]) -> None:
        """Warn of silence, and say when this has lasted long enough.

        Args:
            limits: Seconds of silence to warn after, and seconds this may last; asked each time.
            too_long: Called once, with the latter.
        """
        # The record's beginning, so that a reload does not make it longer.
        began_s = time.monotonic() - max(0.0, time.time() - self.keeper.head.started_at)
        while True:
            silence_s, cap_s = limits()
            listening = self.hearing and not self.was_told("silence")
            look = Look(time.monotonic(), began_s, self.heard_s, silence_s, cap_s, listening)
            finding = look.finding()
            if finding is Finding.TOO_LONG:
                too_long(cap_s)
                return
            if finding is Finding.SILENT:
                why = (
                    "I hear only members who agreed and are not muted. `/privacy status` says whether you are heard, "
                    "and why not."
                )
                if self.session.capture_state == "failed":
                    why = "Discord does not accept the notice that I have to post first; I keep trying."
                self.tell("silence", f"I have heard nobody for {duration(silence_s)}. {why}")
                continue
            self._limits_changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(look.wait_s()):
                    await self._limits_changed.wait()

    def limits_changed(self) -> None:
        """What `watch` asks for may be answered otherwise from now on."""
        self._limits_changed.set()

    def watch_with(self, limits: Callable[[], tuple[float, float]], too_long: Callable[[float], None]) -> None:
        """Run `watch` until `close`."""
        # Kept, because it alone ends what lasts too long.
        self._scope.keep(lambda: self.watch(limits, too_long), "watch")

    def forget_told(self, what: str) -> None:
        """The trouble is over; `tell` may speak of it again."""
        self._told.discard(what)

    async def drain(self, deadline: float) -> bool:
        """Stop the intake, have everything said transcribed and posted, until `deadline` (event loop time).

        What becomes text later is stored, and not posted any more.
        """
        self.end_intake()
        self._post_until = deadline
        # What the deadline cuts off may not stand there as if more of it came.
        self.wants_partials = False
        self.captioner.end_partials(at_once=True)
        complete = await self.settle(deadline)
        return await self._flush(deadline) and complete

    async def leave_room(self, deadline: float) -> None:
        """Hear nothing more; until `deadline`, have all that was said become text, be stored and posted.

        What does not is dropped, because others can be in the next room.
        """
        complete = await self.settle_all(deadline)
        await self._flush(deadline)
        self.captioner.close()
        if not complete:
            self.tell_unfinished()

    async def settle_all(self, deadline: float) -> bool:
        """Hear nothing more, have all that was said be published until `deadline`, and drop what is not.

        Returns:
            Whether all was published.
        """
        self.stop_intake()
        complete = await self.settle(deadline)
        if not complete:
            self._drop_unfinished()
        return complete

    def tell_unfinished(self) -> None:
        self.tell("unfinished", "Some of what was said may be missing above: it did not become text in time.")

    async def _flush(self, deadline: float) -> bool:
        """Post what may be posted until `deadline`, and give up the rest; whether there was none."""
        await self.audience.settle(deadline)
        posted = await self.captioner.flush(deadline)
        if not posted:
            self.captioner.give_up()
        return posted

    def _drop_unfinished(self) -> None:
        """Drop what is not text yet, or not published."""
        self._worker.purge(self.guild_id, 0)
        self.transcripts_dropped += len(self._transcripts)
        self._transcripts.clear()
        self._revoke()

    def _revoke(self) -> None:
        """Have the line that is in hand not be published."""
        self._in_hand = 0
        # A timeout that has expired may not be moved again.
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.reschedule(asyncio.get_running_loop().time())

    async def settle(self, deadline: float) -> bool:
        """Have everything said become text and be published, until `deadline`; whether it is."""
        complete = await self._worker.drain(self.guild_id, deadline)
        try:
            async with asyncio.timeout_at(deadline):
                await self._settled.wait()
        except TimeoutError:
            return False
        return complete

    async def close(self) -> None:
        """End everything; what is still queued is not posted. Idempotent."""
        self.end_intake()
        self._worker.forget(self.guild_id)
        await self._scope.aclose(1.0)
        self.captioner.close()

    def decoded(self) -> dict[int, int]:
        """Frames decoded for each user since this began; the worker counts over all its sessions."""
        now: dict[int, int] = self._worker.stats()["decoded"]
        since = {user_id: frames - self._decoded_before.get(user_id, 0) for user_id, frames in now.items()}
        return {user_id: frames for user_id, frames in since.items() if frames > 0}

    def stats(self) -> dict[str, Any]:
        captions = self.captioner
        return {
            "transcripts": self.transcripts,
            "dropped": self.transcripts_dropped + captions.dropped,
            "posted": captions.posted,
            "merged": captions.merged,
            "edits": captions.edits,
            "recalled": captions.recalled,
            "failed": captions.failed,
        }

    async def _pump(self) -> None:
        while True:
            if not self._transcripts:
                self._settled.set()
                self._wake.clear()
                await self._wake.wait()
                continue
            transcript = self._transcripts.popleft()
            try:
                await self._publish(transcript)
            except Exception as error:  # noqa: BLE001  one line must not end all that come after it
                self.transcripts_dropped += 1
                _log.error("guild %d: a line failed: %s", self.guild_id, type(error).__name__, exc_info=error)
                self.tell("unshown", "Some of what was said could not be shown, because something went wrong in me.")
            finally:
                self._end_partial(transcript)

    async def _publish(self, draft: Transcript) -> None:
        self._in_hand = draft.user_id
        final = await self._processed(draft)
        if final is None:
            return
        if not self._may_show(draft.user_id):
            return
        self.transcripts += 1
        name = self.name(final.user_id)
        if not await self._keep(final, name, draft.user_id):
            return
        self._end_partial(draft)
        if self._is_shown and asyncio.get_running_loop().time() <= self._post_until:
            self.captioner.add(Line(name, final.text, draft.user_id))
        hook = "transcript_ready"
        told = self._told_facts.text_plugins if self._told_facts is not None else ()
        readers = [name for name in self._hooks.implementers(hook, self.guild_id) if name in told]
        if readers:
            async with self._held():
                await asyncio.gather(
                    *(
                        self._hooks.ask_plugin(
                            name, hook, guild_id=self.guild_id, session=self.session, transcript=final
                        )
                        for name in readers
                    )
                )

    @property
    def _is_shown(self) -> bool:
        """Whether what is heard is posted: only where the notice told so, and no longer than it is wanted."""
        return self._told_facts is not None and self._told_facts.shown and self._shown()

    def _is_processed(self) -> bool:
        """Whether a plugin has a say in what is shown here, even one that has to be refused because it is stopped."""
        hooks, hook = self._hooks, "transcript_process"
        return bool(hooks.implementers(hook, self.guild_id) or hooks.stopped_guards(hook, self.guild_id))

    async def _processed(self, draft: Transcript) -> Transcript | None:
        """What the other plugins make of a line, one after the other; None where it is to be dropped."""
        hook, final = "transcript_process", draft
        for plugin in self._hooks.implementers(hook, self.guild_id):
            asked: Asked | None = None
            async with self._held():
                asked = await self._hooks.ask_plugin(
                    plugin, hook, guild_id=self.guild_id, session=self.session, draft=final
                )
            # Consent may have been taken back while the plugin thought.
            if asked is None or self._in_hand != draft.user_id:
                return None
            if asked.called and not asked.worked:
                self._unchecked(plugin)
                return None
            if isinstance(asked.answer, Transcript):
                if _whose(asked.answer) != _whose(draft):
                    # Kept as somebody else's, it would stay when its speaker withdraws it.
                    self._hooks.failed(plugin, hook, WrongAnswerError(OTHERS), self.guild_id)
                    self._unchecked(plugin)
                    return None
                final = _with_own_words(final, asked.answer)
            if not final.text:
                return None
        stopped = self._hooks.stopped_guards(hook, self.guild_id)
        if stopped:
            self._unchecked(stopped[0])
            return None
        return final

    def _unchecked(self, plugin: str) -> None:
        """Drop a line that a plugin should have seen: it may be the one that was to remove what may not be shown."""
        self.transcripts_dropped += 1
        if self._hooks.is_loading(plugin):
            # It has not failed, and its failure later is told.
            return
        self.tell(
            f"unchecked:{plugin}",
            f"Some of what was said is missing, because the plugin {plugin}, which checks it, failed. "
            "Tell the owner of this bot.",
        )

    @contextlib.asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        """Around a call of other plugins, which ends when the speaker whose line they have withdraws."""
        try:
            async with asyncio.timeout(None) as self._hold:
                yield
        except TimeoutError:
            if self._in_hand:
                raise
        finally:
            self._hold = None

    async def _keep(self, line: Transcript, name: str, user_id: int) -> bool:
        """Store a line; whether it may be posted, which its speaker may have taken back meanwhile."""

        def is_wanted() -> bool:
            return self._in_hand == user_id and self._may_show(user_id)

        try:
            await self.keeper.keep(line, name, is_wanted)
        except RoostError as error:
            _log.error("guild %d: a line could not be stored: %s", self.guild_id, error)
            self.tell("unstored", "What follows could not be stored, so it will be missing from the transcript.")
        return is_wanted()


def _whose(line: Transcript) -> tuple[int, int, int]:
    return line.utterance_id, line.guild_id, line.user_id


def _with_own_words(before: Transcript, after: Transcript) -> Transcript:
    """A line that a plugin has changed, without the times of words that are no longer its text."""
    if after.text != before.text and after.words == before.words:
        return dataclasses.replace(after, words=())
    return after
