"""The speech-to-text plugin: hook implementations and what a command makes them do.

It knows voice only through hooks and `roost.audio.VoiceSession`. The model runs in a child process; this module and
everything it imports stays free of model libraries.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import logging
import weakref
from collections.abc import Sequence
from typing import Any, cast

import hikari
import lightbulb

from roost import __version__
from roost.audience import can_be_in, can_see, is_wider, onlookers_of, place_of
from roost.audio import CallStatus, SessionStats, Unshown, VoiceSession
from roost.confirming import Confirmations
from roost.context import PluginContext
from roost.errors import ClosedError, ConfigError, PluginError, ResourceError, RoostError
from roost.hooks import Leftover, Meta, Report, SwitchCause, hookimpl
from roost.i18n import counted
from roost.scopes import Kept
from roost.speech import EngineSpec, Transcript
from roost_stt import checks, gpu, gpu_report
from roost_stt.addresses import outside_host
from roost_stt.audience_watch import CHANGES, MEMBER_CHANGES
from roost_stt.boards import ChannelBoard, Standing, say
from roost_stt.captioner import Captioner, ChannelRates
from roost_stt.captions import unnamed
from roost_stt.commands import transcribe_loader
from roost_stt.config import SttConfig
from roost_stt.engine import REMOTE, SpeechWorker
from roost_stt.exports import Head
from roost_stt.gpu_commands import gpu_loader
from roost_stt.gpu_report import GpuMetrics
from roost_stt.guard import duration
from roost_stt.ladder import whisper_ladder
from roost_stt.languages import AUTO, ENGLISH_ONLY, UserLanguages, language_name
from roost_stt.models import locate
from roost_stt.partials import Partial
from roost_stt.posted import Deleted, NotedCut, PostedCaptions
from roost_stt.posted import words as posted_words
from roost_stt.protocol.wishes import Wish
from roost_stt.reading import ReadingRoom
from roost_stt.recalls import Recaller
from roost_stt.refusals import CUT_OFF, Refusal
from roost_stt.reports import (
    TROUBLES,
    already,
    cut_off,
    ending,
    muted,
    no_notice,
    notice_facts,
    onlookers,
    place_words,
    report,
    status,
)
from roost_stt.supervision import STEPS_DOWN, State, Trouble
from roost_stt.transcript_commands import transcript_loader
from roost_stt.transcription import Transcription
from roost_stt.transcripts import AGAIN_S, TranscriptBook
from roost_stt.worker_owner import WorkerOwner

_log = logging.getLogger("roost.stt")

EXTRA = ("av", "ctranslate2", "faster_whisper", "numpy", "onnxruntime", "soxr")
CLOSING_MARGIN_S = 0.1
FLUSH_S = 0.5
"""How long the unload waits for the places of the last captions to be stored."""
NOTED_S = 2.0
"""How long a member waits until the store has what a reload goes on with."""
STOP_DRAIN_S = 10.0
DISABLED_DRAIN_S = 3.0
PAUSED = "I failed too often in this server, so transcription ends here. `/transcribe start` works again in a while."
SWITCHED_OFF = "Transcription was switched off in this server, so it ends here."
MOVED = "I was moved to another channel, so transcription of <#{room}> ends. `/transcribe start` begins anew."
NO_USE = (
    "Captions are switched off here now and transcripts are not kept, so transcription ends and I hear nobody. "
    "Change `captions.where` or `retention_days` with `/config set stt`, and use `/transcribe start` to begin anew."
)
IS_CHANGING = (
    "Transcription has begun, but my channel, or what the notice says, is just changing. I hear people again when the "
    "new notice stands; `/privacy status` says whether you are heard."
)
OVER = "The transcription has ended."
JUST_MOVED = "I have just been moved to another channel. Use `/transcribe start` again in a moment."
_ACTIVE = "active"


def _link(guild_id: int, message: Standing | None) -> str:
    if message is None:
        return "the last message with captions"
    return f"https://discord.com/channels/{guild_id}/{message[0]}/{message[1]}"


class SttPlugin:
    """Turns what consenting members say into captions."""

    def __init__(self) -> None:
        self._ctx: PluginContext | None = None
        self._config = SttConfig()
        self._model = ""
        self._owner: WorkerOwner | None = None
        self._sessions: dict[int, VoiceSession] = {}
        self._running: dict[int, Transcription] = {}
        self._rates = ChannelRates()
        self._recallers: dict[int, Recaller] = {}
        self._starting = asyncio.Lock()
        self._noting: dict[int, Kept] = {}
        """By guild: tells the store what is transcribed, one after the other, so that the last word is stored last."""
        self._unnoted: dict[int, asyncio.Event] = {}
        """Guilds of which the store is to be told that, and what is set once that was tried."""
        self._asker = 0
        """Who asked for the start that is under way, as long as they are not forgotten."""
        self._book: TranscriptBook | None = None
        self._posted: PostedCaptions | None = None
        self._languages: UserLanguages | None = None
        self._interrupted: list[Head] = []
        self._earlier_cuts: list[NotedCut] = []
        """What an earlier process did not get out of messages."""
        self._stopping = False
        self.confirmations = Confirmations("stt:confirm")
        """Of deletions."""
        self.reading = ReadingRoom()
        """For those who read transcripts."""

    # ---- what the host asks

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta(
            "stt",
            __version__,
            requires=("voice",),
            description="Live captions of voice channels",
            stop_commands=("transcribe stop", "transcribe pause"),
        )

    @hookimpl
    def register_config(self) -> type[SttConfig]:
        return SttConfig

    @hookimpl
    def register_loaders(self) -> list[lightbulb.Loader]:
        # lightbulb keeps what it has made of a command for ever; it must not keep us.
        me = cast("SttPlugin", weakref.proxy(self))
        return [transcribe_loader(me), transcript_loader(me), gpu_loader(me)]

    @hookimpl
    async def on_load(self, ctx: PluginContext) -> None:
        missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
        if missing:
            raise PluginError(f"{missing[0]} is not installed; run: pip install 'roost[stt]'", plugin="stt")
        assert isinstance(ctx.config, SttConfig)
        self._ctx, self._config = ctx, ctx.config
        self._owner = WorkerOwner(
            ctx,
            ctx.config,
            lambda: bool(self._running),
            self._take,
            self._trouble,
            on_partial=self._take_partial,
            on_muted=self._muted,
            owner_of=self._server_owner,
        )
        ctx.metrics.register(GpuMetrics(self._owner))
        ctx.on_unload(ctx.consent.subscribe(self._consent_changed))
        ctx.listen(hikari.InteractionCreateEvent, self.confirmations.on_interaction)
        for event in CHANGES:
            ctx.listen(event, self._audience_changed)
        for event in MEMBER_CHANGES if ctx.bot.intents & hikari.Intents.GUILD_MEMBERS else ():
            ctx.listen(event, self._audience_changed)
        book = self._book = TranscriptBook(ctx.store, self.days_of)
        self._interrupted = await book.end_interrupted(ctx.consent.allows)
        posted = self._posted = PostedCaptions(ctx.store)
        self._earlier_cuts = await posted.earlier_cuts()
        ctx.keep(lambda: book.sweep_forever(posted.sweep), "retention")
        ctx.keep(posted.run, "posted captions")
        ctx.keep(book.catch_up_forever, "unstored")
        self._languages = UserLanguages(ctx.store)
        await self._languages.load()
        if self._config.engine == "faster-whisper":
            # Hashing the model takes a moment; the worker is spared it.
            self._model = await asyncio.to_thread(locate, self._config.model, self._config.model_path)

    @hookimpl
    async def on_started(self, bot: hikari.GatewayBot) -> None:
        """Tell where a crash ended a transcription, and that what was said until then is kept.

        Also take out of messages what had to go from them before the bot ended.
        """
        earlier, self._earlier_cuts = self._earlier_cuts, []
        for noted in earlier:
            take_out = functools.partial(self.posted.take_out, bot.rest, noted)
            self._recaller_of(noted.guild_id).take_up(noted.message, take_out)
        while self._interrupted:
            head = self._interrupted[0]
            wide = await is_wider(bot, head.guild_id, head.voice_channel_id, head.text_channel_id)
            # Named so that they see that it is for them, unless they were forgotten meanwhile. It pings nobody.
            head = self._interrupted.pop(0)
            whose = f" for <@{head.started_by}>" if head.started_by and not wide else ""
            text = (
                f"I was interrupted <t:{int(head.ended_at or head.started_at)}:R> while transcribing "
                f"<#{head.voice_channel_id}>{whose}. What was said until then is kept: `/transcript show {head.id}`."
            )
            try:
                await say(self._context().bot, head.text_channel_id, text)
            except ResourceError as error:
                _log.warning("guild %d could not be told of transcript %s: %s", head.guild_id, head.id, error)

    @hookimpl
    async def user_data_export(self, user_id: int) -> dict[str, Any] | None:
        return await self.book.about(user_id) or None

    @hookimpl
    async def user_data_leftover(self, user_id: int) -> Leftover | None:
        found = await self.posted.of(user_id)
        if not found:
            return None
        self.posted.offered(user_id, found)
        rest = self.bot.rest

        async def delete() -> str:
            work = self._context().task(self.posted.delete(rest, found), "delete captions", always=True)
            await asyncio.wait({work})
            return posted_words(Deleted(late=len(found)) if work.cancelled() else work.result())

        messages = counted(len(found), "message")
        return Leftover(f"your captions in {messages} at Discord", delete)

    @hookimpl
    async def user_data_delete(self, user_id: int, reason: str) -> None:
        # By consent alone nobody would be dropped where members need not agree.
        for transcription in self._running.values():
            transcription.purge(user_id)
        for recaller in self._recallers.values():
            recaller.forget(user_id)
        self.reading.withdraw(user_id)
        if self._asker == user_id:
            self._asker = 0
        self._interrupted = [
            dataclasses.replace(each, started_by=0) if each.started_by == user_id else each
            for each in self._interrupted
        ]
        await self.book.forget(user_id)
        self.languages.forget(user_id)
        self._wish_of_user(user_id)

    @hookimpl
    async def call_status(self, guild_id: int, user_id: int) -> CallStatus | None:
        transcription = self._running.get(guild_id)
        if transcription is None or user_id not in transcription.session.members:
            return None
        return CallStatus(transcription.session.channel_id, unshown=self._unshown(transcription, user_id))

    def _unshown(self, transcription: Transcription, user_id: int) -> Unshown | None:
        """Why a member's words are not shown; None where they are, or where the server wants no captions."""
        if self._has_failed():
            return Unshown.FAILED
        if self._worker is not None and self._worker.is_muted(transcription.guild_id, user_id):
            return Unshown.MUTED
        if not self._shows(transcription.guild_id):
            return None
        if transcription.audience.wide:
            return Unshown.ONLOOKERS
        return Unshown.CUT_OFF if self._is_cut_off(transcription.guild_id) else None

    @hookimpl
    async def config_changed(self, ctx: PluginContext, guild_id: int, old: SttConfig, new: SttConfig) -> None:
        self._wish_of_guild(guild_id)
        transcription = self._running.get(guild_id)
        if transcription is None:
            return
        transcription.limits_changed()
        if old.captions.where == "none" != new.captions.where:
            # Who reads along was not told while there was nothing to read.
            transcription.audience.accept(accepted=transcription.audience.accepted)
        if not checks.serves(new):
            self._end_because(transcription.session, transcription, NO_USE)
        else:
            self._tell_what_changed(transcription)

    @hookimpl
    async def plugin_loaded(self, name: str) -> None:
        """It may receive what is said."""
        for transcription in self._running.values():
            self._tell_what_changed(transcription)

    @hookimpl
    async def plugin_switched(self, name: str, guild_id: int | None, enabled: bool) -> None:
        """It may receive what is said."""
        for transcription in self._running.values():
            if guild_id in (None, transcription.guild_id):
                self._tell_what_changed(transcription)

    def _tell_what_changed(self, transcription: Transcription) -> None:
        """Have a new notice posted if the one that stands does not tell what is done now."""
        if transcription.notice_is_old and not transcription.is_ending:
            # At once: from now on nobody is heard who was told something else.
            transcription.stop_intake()
            guild_id = transcription.guild_id
            self._context().task(self._tell_anew(transcription), f"tell-anew:{guild_id}", guild_id=guild_id)

    @hookimpl
    async def on_unload(self, ctx: PluginContext, reason: str) -> None:
        self._stopping = True
        running, self._running = list(self._running.values()), {}
        try:
            await asyncio.gather(*(each.close() for each in running))
        finally:
            self._sessions.clear()
            if self._owner is not None:
                await self._owner.close(stopping=reason == "shutdown")
            if self._posted is not None:
                await self._posted.flush_within(FLUSH_S)
                self._log_recalls(self._posted)
            self._recallers.clear()

    def _log_recalls(self, posted: PostedCaptions) -> None:
        """Name the messages that still have withdrawn words."""
        for guild_id, recaller in self._recallers.items():
            for message in recaller.waiting:
                link = _link(guild_id, message)
                if message is not None and posted.keeps_cut(message):
                    _log.warning("guild %d: withdrawn words go from %s after the next start", guild_id, link)
                else:
                    _log.error("guild %d: withdrawn words are left in %s", guild_id, link)

    @hookimpl
    async def on_stopping(self, bot: hikari.GatewayBot, deadline: float) -> None:
        """Hear nothing more. What was heard becomes text while voice prepares to leave."""
        self._stopping = True
        for transcription in self._running.values():
            transcription.end_intake()
            if self._worker is not None and self._ctx is not None:
                drain = self._worker.drain(transcription.guild_id, asyncio.get_running_loop().time() + STOP_DRAIN_S)
                self._ctx.task(drain, f"drain:{transcription.guild_id}")

    @hookimpl
    async def guild_disabled(self, ctx: PluginContext, guild_id: int, cause: SwitchCause) -> None:
        """End for good: who switches it on again has not asked for anybody to be heard."""
        transcription, session = self._running.get(guild_id), self._sessions.get(guild_id)
        if transcription is None:
            if session is not None:
                await self._note(session)
            return
        transcription.tell("end", PAUSED if cause is SwitchCause.FAILURES else SWITCHED_OFF)
        await self._end_for_good(transcription.session, asyncio.get_running_loop().time() + DISABLED_DRAIN_S)

    @hookimpl
    async def health(self) -> Report:
        state = self._worker.state if self._worker is not None else State.STOPPED
        card = self._owner.card if self._owner is not None else None
        if card is not None and card.last is not None and card.last.outcome == "kept":
            return Report(False, f"GPU {card.key} was not given back: {card.last.detail}")
        return Report(state is not State.FAILED, f"speech worker {state.value}")

    @hookimpl
    async def diagnostics(self) -> dict[str, Any]:
        return {
            "worker": self._worker.stats() if self._worker is not None else {"state": "stopped"},
            "sessions": {str(guild_id): each.stats() for guild_id, each in self._running.items()},
        }

    @hookimpl(trylast=True)
    def stt_engine(self, name: str) -> EngineSpec | None:
        config = self._config
        if name == "faster-whisper":
            return whisper_ladder(
                {
                    "model": self._model,
                    "threads": config.threads,
                    "beam": config.beam,
                    "short_window": config.short_window,
                },
                "roost_stt.worker.engines.whisper:create",
                gpu=config.device == "cuda" or (config.device == "auto" and gpu.is_there()),
                compute_type=config.compute_type,
            )
        if name == "openai":
            return EngineSpec(REMOTE, config.remote.model_dump(mode="json"), sends_to=outside_host(config.remote.url))
        if name == "scripted":
            return EngineSpec("roost_stt.worker.engines.scripted:create", {"texts": list(config.script)})
        return None

    # ---- what voice tells

    @hookimpl
    async def voice_session_opened(self, session: VoiceSession) -> None:
        self._sessions[session.guild_id] = session
        if self._ctx is None or self._stopping:
            return
        before = await self._ctx.settings.get(session.guild_id, _ACTIVE)
        # Loaded again in the middle of a call: go on where the last one of us was.
        if isinstance(before, dict) and before.get("session") == session.id:
            self._ctx.task(self._resume(session, before), f"resume:{session.guild_id}")

    @hookimpl
    async def voice_session_moved(self, session: VoiceSession, old: int, new: int, by_request: bool) -> None:
        """Others may read along where nobody there has asked for it: a moderator's move ends the transcription."""
        transcription = self._running.get(session.guild_id)
        if transcription is None or self._ctx is None:
            return
        # Nobody there is heard before it is clear who would read along.
        transcription.stop_intake()
        if by_request:
            # Longer than a hook may take: what was said in the old room has to become text first.
            self._ctx.task(self._change_room(transcription, new), f"room:{session.guild_id}", guild_id=session.guild_id)
        else:
            self._end_because(session, transcription, MOVED.format(room=old))

    async def _change_room(self, transcription: Transcription, new: int) -> None:
        """Go on in another room with a new transcript: other people can be there.

        What was said in the old room is posted and stored by the old room's rules, or not at all.
        """
        session, guild_id = transcription.session, transcription.guild_id
        async with transcription.changing:
            if await is_wider(self.bot, guild_id, new, transcription.channel_id):
                old = transcription.room_id
                why = f"There may be people here who cannot be in <#{new}>, so transcription ends with <#{old}>."
                self._end_because(session, transcription, f"{why} `/transcribe start` begins anew.")
                return
            await transcription.leave_room(asyncio.get_running_loop().time() + STOP_DRAIN_S)
            # Moved on meanwhile: that is seen to by another task.
            if self._stopping or self._running.get(guild_id) is not transcription or session.channel_id != new:
                return
            before, shown_in = transcription.keeper, transcription.channel_id
            transcription.room_id = new
            transcription.keeper = self.book.begin(guild_id, new, shown_in, before.head.started_by)
            transcription.accepts_wide = False
            transcription.audience.accept(accepted=False)
            with contextlib.suppress(ClosedError):
                transcription.go_on()
            await before.close()
            await self._note(session)

    def _end_because(self, session: VoiceSession, transcription: Transcription, why: str) -> None:
        """Hear nothing more at once, and end with the reason said."""
        transcription.end_intake()
        if self._is_closed(transcription) or not checks.writable(self.bot, session.guild_id, transcription.channel_id):
            places = dict.fromkeys((transcription.room_id, session.channel_id))
            self._context().task(self._say_somewhere(list(places), why), f"say-end:{session.guild_id}")
        else:
            transcription.tell("end", why)
        deadline = asyncio.get_running_loop().time() + STOP_DRAIN_S
        # Kept: what has ended may not go on as if it ran, whoever cancels its end.
        self._context().keep(lambda: self._end_one(session, transcription, deadline), f"end:{session.guild_id}")

    def _too_long(self, session: VoiceSession, transcription: Transcription, cap_s: float) -> None:
        why = f"Transcriptions last at most {duration(cap_s)} in this server, so this one ends."
        self._end_because(session, transcription, f"{why} `/transcribe start` begins a new one.")

    async def _end_one(self, session: VoiceSession, transcription: Transcription, deadline: float) -> None:
        if self._running.get(session.guild_id) is transcription:
            await self._end_for_good(session, deadline)

    async def _end_for_good(self, session: VoiceSession, deadline: float) -> bool:
        """End, so that a reload does not go on; return whether all that was said is posted."""
        transcription = self._running.get(session.guild_id)
        if transcription is not None:
            transcription.end_intake()
        # At once: a reload can come before the end.
        noting = asyncio.ensure_future(self._note(session))
        try:
            return await self._end(session.guild_id, deadline)
        finally:
            await noting

    @hookimpl
    async def voice_session_closing(self, session: VoiceSession, reason: str, deadline: float) -> None:
        """Finish the open utterances and post what they became, before `deadline` and never after."""
        transcription = self._running.get(session.guild_id)
        if transcription is not None and not await transcription.drain(deadline - CLOSING_MARGIN_S):
            _log.warning("guild %d: not everything that was said could be posted in time", session.guild_id)

    @hookimpl
    async def voice_session_closed(self, session: VoiceSession, reason: str, stats: SessionStats) -> None:
        if self._sessions.get(session.guild_id) is session:
            del self._sessions[session.guild_id]
        await self._finish(session.guild_id)

    # ---- what members ask

    async def start_transcribing(
        self, guild_id: int, user_id: int, channel_id: int, manages: bool, language: str | None = None
    ) -> str:
        """Begin, and say so in words for the member who asked.

        Args:
            guild_id: Where.
            user_id: Who asks.
            channel_id: Where the captions go.
            manages: They manage the server.
            language: Of those who have not chosen one for themselves; None: the server's.

        Raises:
            RoostError: It cannot be done; the message is for people.
        """
        async with self._starting, self._worker_owner().wanted():
            self._asker = user_id
            session = self._session(guild_id)
            room_id = session.channel_id
            if not manages and not self._is_present(session, user_id):
                raise self._only_those_there(session, user_id, "have it transcribed")
            transcription = self._running.get(guild_id)
            self._check_goes_on(transcription)
            failed = session.capture_state == "failed"
            mind = ""
            if transcription is not None and self._has_failed():
                await self._worker_owner().ready()
                transcription.forget_told(Trouble.FAILED.value)
                return f"Transcribing <#{session.channel_id}> into {self._into(transcription)} again."
            if transcription is not None and self._is_cut_off(guild_id):
                mind = await self.check_channel(guild_id, channel_id, manages)
                await self._move(transcription, channel_id, room_id=room_id, accepts_wide=bool(mind))
                if transcription.paused:
                    await self._note(session)
                    return already(session, transcription, self._into(transcription))
            elif transcription is not None and not failed:
                return already(session, transcription, self._into(transcription))
            if transcription is None:
                mind = await self.check_channel(guild_id, channel_id, manages)
                await self._begin(session, channel_id, room_id=room_id, language=language, accepts_wide=bool(mind))
            else:
                channel_id = transcription.channel_id
        await self._note(session)
        await self._notice_stands(session, channel_id)
        again = " The notice stands now." if transcription is not None else ""
        into = place_words(
            self.config_of(guild_id).captions.where, channel_id, None, is_thread=self._is_thread(channel_id)
        )
        spoken = self._config.language if language is None else language
        deaf = f" {ENGLISH_ONLY}" if self._is_deaf_to(language) else ""
        said = f" Language: {language_name(spoken)}." if language is not None and not deaf else ""
        return f"Transcribing <#{session.channel_id}> into {into}.{said}{again}{deaf}{mind}"

    def start_waits_for(self, guild_id: int) -> str:
        """What a start that takes long is waiting for, in words."""
        if guild_id not in self._running:
            return "The speech engine is not ready yet. I begin when it is, and this message changes then."
        return "Discord has not accepted the notice yet, so I hear nobody. This message changes when it has."

    async def choose_language(self, user_id: int, language: str | None) -> str:
        """A member's own language, in every server; ``auto`` takes it back, None only asks."""
        if language is not None:
            await self.languages.choose(user_id, None if language == AUTO else language)
            self._wish_of_user(user_id)
        own = self.languages.of(user_id)
        if own is None:
            return "Your speech is taken for what the server has set, or guessed. `/transcribe language` changes that."
        deaf = f" {ENGLISH_ONLY}" if self._is_deaf_to(own) else ""
        return f"Your speech is taken for {language_name(own)}, in every server.{deaf}"

    async def pause_transcribing(self, guild_id: int, user_id: int, manages: bool, *, paused: bool) -> str:
        """Hear nothing for a while, or hear again; see `start_transcribing`."""
        self.check(guild_id, user_id, manages, stop=True)
        session, transcription = self._session(guild_id), self._running[guild_id]
        self._check_goes_on(transcription)
        if transcription.paused is paused:
            return "Transcription is paused already." if paused else "Transcription is not paused."
        if paused:
            transcription.pause()
            if self._worker is not None:
                # What is being said becomes text now and not with the first words after the pause.
                drain = self._worker.drain(guild_id, asyncio.get_running_loop().time() + STOP_DRAIN_S)
                self._context().task(drain, f"drain:{guild_id}")
        else:
            # Not in the middle of a change: what is said then would be taken for what was said before it.
            async with transcription.changing:
                if self._running.get(guild_id) is not transcription:
                    raise ResourceError(OVER)
                self._check_goes_on(transcription)
                transcription.resume()
        await self._note(session)
        if paused:
            return f"Transcription of <#{session.channel_id}> is paused. `/transcribe resume` goes on."
        await self._notice_stands(session, transcription.channel_id)
        transcription.arrive()
        return f"Transcription of <#{session.channel_id}> goes on."

    async def _notice_stands(self, session: VoiceSession, channel_id: int) -> None:
        """Wait until the notice of a transcription into a channel stands.

        Raises:
            ResourceError: It does not; the message says why.
        """
        if await session.capturing():
            return
        running = self._running.get(session.guild_id)
        if running is None:
            raise ResourceError(OVER)
        self._check_goes_on(running)
        if running.paused:
            raise ResourceError(already(session, running, self._into(running)))
        if not running.hearing:
            raise ResourceError(IS_CHANGING)
        checks.can_write(self.bot, session.guild_id, channel_id)
        checks.can_write(self.bot, session.guild_id, session.channel_id)
        raise ResourceError(no_notice(session, channel_id))

    def check(self, guild_id: int, user_id: int, manages: bool, *, stop: bool) -> None:
        """Refuse what needs no trying.

        Raises:
            RoostError: The message is for the member who asked.
        """
        running = self._running.get(guild_id)
        if stop and running is None:
            raise ResourceError("Nothing is being transcribed here.")
        session = self._session(guild_id)
        if not stop:
            checks.is_of_use(self.config_of(guild_id))
        if not manages and not self._is_present(session, user_id):
            what = "stop its transcription" if stop else "have it transcribed"
            raise self._only_those_there(session, user_id, what)
        if not stop:
            self._check_goes_on(running)
        goes_on = session.capture_state != "failed" and not self._has_failed() and not self._is_cut_off(guild_id)
        if not stop and running is not None and goes_on:
            raise ResourceError(already(session, running, self._into(running)))

    @staticmethod
    def _check_goes_on(running: Transcription | None) -> None:
        """Refuse what is asked of a transcription that is about to end.

        Raises:
            ResourceError: The message is for the member who asked.
        """
        if running is not None and running.is_ending:
            raise ResourceError(ending(running))

    async def check_channel(self, guild_id: int, channel_id: int, manages: bool) -> str:
        """Whether captions may go there; gives what to say about it.

        Raises:
            ResourceError: The message is for the member who asked.
        """
        voice_id = self._session(guild_id).channel_id
        checks.can_write(self.bot, guild_id, channel_id)
        # The notice has to stand where the people are.
        checks.can_write(self.bot, guild_id, voice_id)
        if not self._shows(guild_id):
            return ""
        return await checks.audience(self.bot, guild_id, voice_id, channel_id, manages=manages)

    async def stop_transcribing(self, guild_id: int, user_id: int, manages: bool) -> str:
        """End, with everything said so far posted; see `start_transcribing`."""
        session = self._session(guild_id)
        if guild_id not in self._running:
            return "Nothing is being transcribed here."
        if not manages and not self._is_present(session, user_id):
            raise self._only_those_there(session, user_id, "stop its transcription")
        complete = await self._end_for_good(session, asyncio.get_running_loop().time() + STOP_DRAIN_S)
        return "Transcription has stopped." if complete else "Transcription has stopped; its end may be missing."

    def describe(self, guild_id: int, member: hikari.Member | None) -> str:
        """The state of transcription in a guild, in words for a member: who cannot be in the room learns nothing."""
        transcription = self._running.get(guild_id)
        worker = self._worker
        if transcription is None or worker is None:
            return "Nothing is being transcribed here."
        rooms = {transcription.room_id, transcription.session.channel_id}
        if member is None or not all(can_be_in(self.bot.cache, member, room_id) for room_id in rooms):
            return "I transcribe a voice channel that you cannot join, so I do not say more about it."
        report("asked for the status", worker)
        return status(
            transcription,
            worker,
            lambda user_id: self._name_of(guild_id, user_id),
            self._into(transcription),
            shown=self._shows(guild_id),
        )

    # ---- what the owners of the bot ask

    async def gpu_status(self) -> str:
        """The card and the worker, in words."""
        owner = self._worker_owner()
        if owner.card is not None:
            await owner.card.sample()
        return gpu_report.status(owner, len(self._running))

    async def release_gpu(self, *, force: bool) -> str:
        """End the worker, and say what became of the card.

        Args:
            force: End running transcriptions first, with their last words posted.

        Raises:
            ResourceError: Transcriptions run, and `force` is not given.
        """
        owner = self._worker_owner()
        self._check_release(force=force)
        if force:
            await owner.cut_short()
        async with self._starting:
            if owner.rests:
                return await self.gpu_status()
            self._check_release(force=force)
            deadline = asyncio.get_running_loop().time() + STOP_DRAIN_S
            for transcription in list(self._running.values()):
                transcription.end_intake()
                transcription.tell("end", "Transcription stopped: the bot's operator needs the GPU.")
                await self._end_for_good(transcription.session, deadline)
            await owner.release()
        return gpu_report.ended(owner.card.last if owner.card is not None else None)

    def _check_release(self, *, force: bool) -> None:
        if self._running and not force:
            raise ResourceError(
                f"{counted(len(self._running), 'transcription is', 'transcriptions are')} going on. "
                "`/bot gpu release force:True` ends all."
            )

    # ---- how it is done

    def _worker_owner(self) -> WorkerOwner:
        if self._owner is None:
            raise ClosedError("The speech-to-text plugin is not loaded.")
        return self._owner

    @property
    def _worker(self) -> SpeechWorker | None:
        return self._owner.worker if self._owner is not None else None

    @property
    def book(self) -> TranscriptBook:
        """The transcripts that are kept.

        Raises:
            ClosedError: The plugin is not loaded.
        """
        if self._book is None:
            raise ClosedError("The speech-to-text plugin is not loaded.")
        return self._book

    @property
    def posted(self) -> PostedCaptions:
        """Which messages hold whose captions.

        Raises:
            ClosedError: The plugin is not loaded.
        """
        if self._posted is None:
            raise ClosedError("The speech-to-text plugin is not loaded.")
        return self._posted

    @property
    def languages(self) -> UserLanguages:
        """What people chose for themselves.

        Raises:
            ClosedError: The plugin is not loaded.
        """
        if self._languages is None:
            raise ClosedError("The speech-to-text plugin is not loaded.")
        return self._languages

    def _is_deaf_to(self, language: str | None) -> bool:
        """Whether the model does not understand a language that is asked of it."""
        if language in (None, AUTO, "en"):
            return False
        config = self._config
        named = config.engine == "faster-whisper" and config.model_path is None and config.model.endswith(".en")
        return named or (self._worker is not None and self._worker.english_only)

    def _wish_of_user(self, user_id: int) -> None:
        if self._worker is not None:
            self._worker.wish(Wish(0, user_id, self.languages.of(user_id)))

    def _wish_of_guild(self, guild_id: int) -> None:
        """Tell the worker how a server's speech is to be understood, and the server what cannot be."""
        transcription = self._running.get(guild_id)
        if self._worker is None or transcription is None:
            return
        config = self.config_of(guild_id)
        language = transcription.language or config.language
        spoken = None if language == AUTO else language
        captions = config.captions
        partials = captions.partials and captions.mode == "edited" and captions.where != "none"
        transcription.show_partials(wanted=partials)
        self._worker.wish(Wish(guild_id, 0, spoken, config.hints, config.word_timestamps, partials))
        # What was asked for with the start is answered there.
        if transcription.language is None and self._is_deaf_to(spoken):
            transcription.tell("english", ENGLISH_ONLY)

    def _limits(self, guild_id: int) -> tuple[float, float]:
        config = self.config_of(guild_id)
        return config.silence_minutes * 60.0, config.max_hours * 3600.0

    @property
    def bot(self) -> hikari.GatewayBot:
        return self._context().bot

    def keeps_on(self, record: str) -> bool:
        """Whether lines are still added to a transcript."""
        return any(each.keeper.key == record for each in self._running.values())

    def days_of(self, guild_id: int) -> int:
        """How long the server keeps transcripts."""
        return self.config_of(guild_id).retention_days

    def config_of(self, guild_id: int) -> SttConfig:
        """The settings of a server, as they are now."""
        config = self._context().config_for(guild_id)
        assert isinstance(config, SttConfig)
        return config

    def _text_plugins(self, guild_id: int) -> tuple[str, ...]:
        """Names of the plugins that receive what was said in a server."""
        hooks = self._context().hooks
        found = (hooks.implementers(hook, guild_id) for hook in ("transcript_process", "transcript_ready"))
        return tuple(sorted(set().union(*found)))

    def _shows(self, guild_id: int) -> bool:
        """Whether a server wants captions posted."""
        return self.config_of(guild_id).captions.where != "none"

    def _has_failed(self) -> bool:
        return self._worker is not None and self._worker.state is State.FAILED

    def _session(self, guild_id: int) -> VoiceSession:
        if self._stopping:
            raise ClosedError("I am shutting down.")
        session = self._sessions.get(guild_id)
        if session is None:
            raise ResourceError("I am in no voice channel of this server. Use `/voice join` first.")
        return session

    def _is_present(self, session: VoiceSession, user_id: int) -> bool:
        if user_id in session.members:
            return True
        state = self._context().bot.cache.get_voice_state(session.guild_id, user_id)
        return state is not None and state.channel_id == session.channel_id

    def _only_those_there(self, session: VoiceSession, user_id: int, what: str) -> ResourceError:
        """For a member who is not in the room; which one it is learn those who could be there."""
        cache = self.bot.cache
        member = cache.get_member(session.guild_id, user_id)
        if member is None or not can_be_in(cache, member, session.channel_id):
            return ResourceError(f"Only people in the voice channel where I am can {what}.")
        return ResourceError(f"Only people in <#{session.channel_id}> can {what}.")

    async def _begin(
        self,
        session: VoiceSession,
        channel_id: int,
        *,
        room_id: int,
        record: str | None = None,
        language: str | None = None,
        paused: bool = False,
        thread_id: int | None = None,
        accepts_wide: bool = False,
    ) -> None:
        ctx = self._context()
        worker = await self._worker_owner().ready()
        if self._stopping or self._sessions.get(session.guild_id) is not session:
            raise ClosedError("The voice session ended before the transcription could begin.")
        guild_id = session.guild_id
        # The server may have changed that while the engine was loaded, or while this plugin was switched off.
        checks.is_of_use(self.config_of(guild_id))
        keeper = await self.book.resume(record) if record is not None else None
        if keeper is None:
            keeper = self.book.begin(guild_id, room_id, channel_id, self._asker)
        if session.channel_id != room_id:
            await keeper.close()
            # Who reads along was asked about another room.
            raise ResourceError(JUST_MOVED)

        def may_show(user_id: int) -> bool:
            return ctx.consent.allows(guild_id, user_id)

        captioner = Captioner(
            self._board(session, channel_id, thread_id),
            self._rates.of(channel_id),
            recaller=self._recaller_of(guild_id),
            may_show=may_show,
            edited=lambda: self.config_of(guild_id).captions.mode == "edited",
            cut_off=lambda refusal: self._cut_off(session, refusal),
            stands=lambda message, speakers: self.posted.note(guild_id, message, speakers),
        )
        transcription = Transcription(
            session,
            channel_id,
            worker=worker,
            hooks=ctx.hooks,
            name_of=lambda user_id: self._known_name(guild_id, user_id),
            captioner=captioner,
            may_show=may_show,
            keeper=keeper,
            is_wide=lambda: is_wider(self.bot, guild_id, transcription.room_id, transcription.shown_in),
            tell_audience=lambda wide: self._tell_audience(session, wide),
            accepts_wide=accepts_wide,
            facts=lambda text_id: notice_facts(
                self.config_of(guild_id),
                text_id,
                worker,
                onlookers=transcription.accepts_wide,
                is_thread=self._is_thread(text_id),
                text_plugins=self._text_plugins(guild_id),
            ),
            shown=lambda: self._shows(guild_id),
            first_heard=self._wish_of_user,
            language=language,
        )
        transcription.thread_id = thread_id
        self._running[guild_id] = transcription
        if worker.ladder.why:
            lowered = STEPS_DOWN[worker.ladder.asked]
            transcription.tell(lowered.value, TROUBLES[lowered])
        try:
            self._wish_of_guild(guild_id)
            transcription.start(paused=paused)
            transcription.watch_with(
                lambda: self._limits(guild_id), lambda cap_s: self._too_long(session, transcription, cap_s)
            )
        except BaseException:
            self._running.pop(guild_id, None)
            await transcription.close()
            await keeper.close()
            raise

    def _board(self, session: VoiceSession, channel_id: int, thread_id: int | None = None) -> ChannelBoard:
        return ChannelBoard(
            self.bot,
            channel_id,
            where=lambda: self.config_of(session.guild_id).captions.where,
            voice_channel=lambda: self._room_of(session),
            thread_id=thread_id,
            opened=lambda opened: self._has_thread(session, channel_id, opened),
        )

    def _is_thread(self, channel_id: int) -> bool:
        return self.bot.cache.get_thread(channel_id) is not None

    def _into(self, transcription: Transcription) -> str:
        """Where the text of a transcription goes, in words."""
        where, channel_id = self.config_of(transcription.guild_id).captions.where, transcription.channel_id
        return place_words(where, channel_id, transcription.thread_id, is_thread=self._is_thread(channel_id))

    def _room_of(self, session: VoiceSession) -> int:
        """The room whose captions are shown: after a move, the old one until what was said there is done with."""
        transcription = self._running.get(session.guild_id)
        return transcription.room_id if transcription is not None else session.channel_id

    # ---- words that Discord does not let go of

    def _recaller_of(self, guild_id: int) -> Recaller:
        """The server's; it works on beyond the end of a transcription."""
        known = self._recallers.get(guild_id)
        if known is None:
            known = self._recallers[guild_id] = Recaller(
                lambda message: self._not_recalled(guild_id, message),
                begin=lambda work: self._context().keep(work, f"recalls:{guild_id}"),
                stands=lambda message, speakers: self.posted.note(guild_id, message, speakers),
                noted=lambda message, cut: self.posted.note_cut(guild_id, message, cut),
            )
        return known

    def _not_recalled(self, guild_id: int, message: Standing | None) -> None:
        """Have people delete what the bot could not take back."""
        if message is not None:
            self.posted.gave_up(guild_id, message)
        session, transcription = self._sessions.get(guild_id), self._running.get(guild_id)
        places = [message[0]] if message is not None else []
        places += [transcription.channel_id] if transcription is not None else []
        places += [session.channel_id] if session is not None else []
        text = (
            "Discord did not let me remove words that may not stay, such as those of a member who withdrew. "
            f"Please delete {_link(guild_id, message)}."
        )
        self._context().task(self._say_somewhere(list(dict.fromkeys(places)), text), f"not-recalled:{guild_id}")

    async def _say_somewhere(self, places: Sequence[int], text: str) -> None:
        """Say something in the first channel that takes it."""
        for place in places:
            try:
                await say(self.bot, place, text)
                return
            except ResourceError as error:
                _log.warning("channel %d could not be told: %s", place, error)

    # ---- a channel that takes no captions any more

    def _cut_off(self, session: VoiceSession, refusal: Refusal) -> None:
        """Tell the voice channel's own chat, for the text channel cannot be told."""
        transcription = self._running.get(session.guild_id)
        if transcription is None or transcription.channel_id == transcription.room_id:
            return
        text = cut_off(refusal, transcription.channel_id)
        self._context().task(self._tell_voice_chat(session, text), f"cut-off:{session.guild_id}")

    async def _tell_voice_chat(self, session: VoiceSession, text: str) -> None:
        try:
            await say(self.bot, self._room_of(session), text)
        except ResourceError as error:
            _log.warning("guild %d: nobody could be told that captions wait: %s", session.guild_id, error)

    def _is_cut_off(self, guild_id: int) -> bool:
        """Whether captions cannot be posted until somebody does something."""
        transcription = self._running.get(guild_id)
        if transcription is None:
            return False
        return (transcription.audience.wide and self._shows(guild_id)) or self._is_closed(transcription)

    def _is_closed(self, transcription: Transcription) -> bool:
        """Whether the place of the captions is gone, or takes nothing from the bot."""
        return transcription.captioner.refusal in CUT_OFF or not checks.is_there(self.bot, transcription.channel_id)

    # ---- who reads along

    async def _audience_changed(self, event: Any) -> None:
        """Others may be able to read along, in a server where something is transcribed."""
        transcription = self._running.get(int(event.guild_id))
        if transcription is None:
            return
        matters = True
        try:
            matters = self._matters(transcription, event)
        finally:
            if matters:
                transcription.audience.doubt()

    def _matters(self, transcription: Transcription, event: hikari.Event) -> bool:
        """Whether a change can decide who reads along."""
        text_id, room_id = transcription.shown_in, transcription.room_id
        if isinstance(event, hikari.GuildThreadEvent):
            return int(event.thread_id) == text_id
        if isinstance(event, hikari.GuildChannelEvent):
            place = place_of(self.bot.cache, text_id)
            return place is None or int(event.channel_id) in (room_id, int(place.channel.id))
        if isinstance(event, hikari.MemberCreateEvent | hikari.MemberUpdateEvent) and not transcription.audience.wide:
            # One member's change is judged without asking all the others.
            found = onlookers_of(self.bot, transcription.guild_id, room_id, text_id)
            return found is None or found.includes(event.member)
        return True

    async def _tell_audience(self, session: VoiceSession, wide: bool) -> None:
        transcription = self._running.get(session.guild_id)
        if transcription is None or not self._shows(session.guild_id):
            return
        text = onlookers(transcription.thread_id or transcription.shown_in, transcription.room_id, wide=wide)
        if not checks.is_there(self.bot, transcription.shown_in):
            await self._tell_voice_chat(session, cut_off(Refusal.GONE, transcription.shown_in))
            return
        try:
            await say(self.bot, transcription.thread_id or transcription.shown_in, text)
        except ResourceError:
            await self._tell_voice_chat(session, text)

    async def _move(self, transcription: Transcription, channel_id: int, *, room_id: int, accepts_wide: bool) -> None:
        """Show captions in another channel, first those that waited.

        What was said before can be read by those who may read the old channel, so a new transcript begins.

        Raises:
            ResourceError: The bot is not in that room any more.
        """
        session, guild_id = transcription.session, transcription.guild_id

        def check_room() -> None:
            if self._running.get(guild_id) is not transcription:
                raise ResourceError(OVER)
            self._check_goes_on(transcription)
            if not room_id == session.channel_id == transcription.room_id:
                raise ResourceError(JUST_MOVED)

        def sees(user_id: int) -> bool:
            # Who is in the room has its chat before them, whatever else they may.
            is_there = channel_id == room_id and user_id in session.members
            return is_there or can_see(self.bot.cache, guild_id, channel_id, user_id)

        async with transcription.changing:
            check_room()
            complete = await transcription.settle_all(asyncio.get_running_loop().time() + STOP_DRAIN_S)
            check_room()
            before = transcription.keeper
            keeper = self.book.begin(guild_id, room_id, channel_id, self._asker)
            # Before the move, because the notice tells it. Captions wait until they are posted where it holds.
            transcription.accepts_wide = accepts_wide
            transcription.audience.doubt()
            try:
                transcription.move(
                    channel_id,
                    keeper,
                    self._board(session, channel_id),
                    self._rates.of(channel_id),
                    sees,
                )
            finally:
                await before.close()
            if not transcription.paused and await session.capturing():
                transcription.arrive()
            if not complete:
                transcription.tell_unfinished()

    async def _tell_anew(self, transcription: Transcription) -> None:
        """Go on with a new notice, because a fact of it has changed.

        What was said before it is published and kept as was told, or not at all; another time of keeping begins a new
        transcript.
        """
        session, guild_id = transcription.session, transcription.guild_id
        async with transcription.changing:
            # It stops the intake once more: another change may have gone on meanwhile.
            complete = await transcription.settle_all(asyncio.get_running_loop().time() + STOP_DRAIN_S)
            if self._stopping or self._running.get(guild_id) is not transcription:
                return
            before, room_id = transcription.keeper, transcription.room_id
            if before.head.kept_days != self.days_of(guild_id):
                asker = before.head.started_by
                transcription.keeper = self.book.begin(guild_id, room_id, transcription.channel_id, asker)
            with contextlib.suppress(ClosedError):
                transcription.go_on()
            if not complete:
                transcription.tell_unfinished()
            try:
                await self._note(session)
            finally:
                if before is not transcription.keeper:
                    await before.close()

    async def _resume(self, session: VoiceSession, before: dict[str, Any]) -> None:
        async with self._starting, self._worker_owner().wanted():
            if session.guild_id in self._running:
                return
            self._asker = 0
            room_id = int(before.get("room") or session.channel_id)
            try:
                if not checks.serves(self.config_of(session.guild_id)):
                    await self._remember(session)
                    await say(self.bot, int(before["channel"]), NO_USE)
                    return
                if session.channel_id != room_id:
                    # Nobody knows any more whether members have asked for it.
                    await self._remember(session)
                    await say(self.bot, int(before["channel"]), MOVED.format(room=room_id))
                    return
                await self._begin(
                    session,
                    int(before["channel"]),
                    room_id=room_id,
                    record=before.get("record"),
                    language=before.get("language"),
                    paused=bool(before.get("paused")),
                    thread_id=before.get("thread"),
                    accepts_wide=bool(before.get("accepts_wide")),
                )
            except (ResourceError, ClosedError, ConfigError) as error:
                _log.warning("guild %d: transcription could not go on: %s", session.guild_id, error)

    async def _end(self, guild_id: int, deadline: float) -> bool:
        transcription = self._running.get(guild_id)
        if transcription is None:
            return True
        complete = await transcription.drain(deadline)
        await self._finish(guild_id)
        return complete

    async def _finish(self, guild_id: int) -> None:
        transcription = self._running.pop(guild_id, None)
        if transcription is None:
            return
        if self._worker is not None:
            report("a transcription ended", self._worker, transcription)
        try:
            try:
                await transcription.close()
            finally:
                # Cancelled or not: what has no end never expires.
                await transcription.keeper.close()
        finally:
            if self._owner is not None and not self._stopping:
                self._owner.arm_idle()

    async def _has_thread(self, session: VoiceSession, channel_id: int, thread_id: int | None) -> None:
        transcription = self._running.get(session.guild_id)
        # After a move it is the old channel's.
        if transcription is not None and (transcription.session, transcription.channel_id) == (session, channel_id):
            transcription.thread_id = thread_id
            await self._note(session)

    async def _note(self, session: VoiceSession) -> None:
        """`_remember`; where the store does not take it, or not within `NOTED_S`, it is tried again later.

        What is remembered has happened already, and that is what members are told.
        """
        guild_id = session.guild_id
        tried = self._unnoted.setdefault(guild_id, asyncio.Event())
        noting = self._noting.get(guild_id)
        with contextlib.suppress(ClosedError, TimeoutError):
            if noting is None or noting.done():
                # Kept: what has ended may not go on as if it ran, whoever cancels what notes its end.
                work = functools.partial(self._note_at_last, session)
                self._noting[guild_id] = self._context().keep(work, f"remember:{guild_id}")
            async with asyncio.timeout(NOTED_S):
                await tried.wait()

    async def _note_at_last(self, session: VoiceSession) -> None:
        guild_id, pauses = session.guild_id, itertools.chain(AGAIN_S, itertools.repeat(AGAIN_S[-1]))
        while (tried := self._unnoted.pop(guild_id, None)) is not None:
            noted = False
            try:
                await self._remember(session)
                noted = True
            except RoostError as error:
                if not tried.is_set():
                    _log.error("guild %d: a reload would not know what is transcribed: %s", guild_id, error)
            finally:
                tried.set()
                if not noted:
                    self._unnoted.setdefault(guild_id, tried)
            if not noted:
                await asyncio.sleep(next(pauses))

    async def _remember(self, session: VoiceSession) -> None:
        """Store what a reload goes on with: what is transcribed now, unless its end has begun."""
        running = self._running.get(session.guild_id)
        if running is None and self._stopping:
            return
        value: dict[str, Any] | None = None
        if running is not None and not running.is_ending:
            value = {
                "session": running.session.id,
                "channel": running.channel_id,
                "record": running.keeper.key,
                "language": running.language,
                "paused": running.paused,
                "thread": running.thread_id,
                "room": running.room_id,
                "accepts_wide": running.accepts_wide,
            }
        with contextlib.suppress(ClosedError):
            await self._context().settings.set(session.guild_id, _ACTIVE, value)

    def _consent_changed(self, guild_id: int, user_id: int) -> None:
        """Drop a member's words in every stage; whatever the session hands over no more still becomes text otherwise.

        A member without a decision was forgotten, also where everybody is heard who does not refuse.
        """
        if self._ctx is None or self._ctx.consent.decision(guild_id, user_id):
            return
        self.reading.withdraw(user_id, guild_id)
        if self._worker is not None:
            self._worker.purge(guild_id, user_id)
        if guild_id in self._recallers:
            self._recallers[guild_id].forget(user_id)
        transcription = self._running.get(guild_id)
        if transcription is not None:
            transcription.forget(user_id)

    def _take(self, transcript: Transcript) -> None:
        transcription = self._running.get(transcript.guild_id)
        if transcription is not None:
            transcription.take(transcript)

    def _take_partial(self, partial: Partial) -> None:
        transcription = self._running.get(partial.guild_id)
        if transcription is not None:
            transcription.take_partial(partial)

    def _trouble(self, what: Trouble, guild_id: int | None, detail: str) -> None:
        _log.warning("speech: %s: %s", what.value, detail)
        for transcription in list(self._running.values()):
            if guild_id is None or transcription.guild_id == guild_id:
                transcription.tell(what.value, TROUBLES[what])

    def _muted(self, guild_id: int, user_id: int) -> None:
        """Workers died of somebody's audio, so it is not taken any more."""
        _log.error(
            "guild %d: speech workers died of the audio of user %d, which is not taken any more", guild_id, user_id
        )
        transcription = self._running.get(guild_id)
        if transcription is not None:
            name = self._name_of(guild_id, user_id) if user_id else None
            transcription.tell(f"muted:{user_id}", muted(name), about=user_id)

    def _server_owner(self, guild_id: int) -> int:
        """The owner of a server; the server itself where the bot does not know it any more."""
        guild = self._ctx.bot.cache.get_guild(guild_id) if self._ctx is not None else None
        return int(guild.owner_id) if guild is not None else guild_id

    def _name_of(self, guild_id: int, user_id: int) -> str:
        transcription = self._running.get(guild_id)
        if transcription is not None:
            return transcription.name(user_id)
        return self._known_name(guild_id, user_id) or unnamed(user_id)

    def _known_name(self, guild_id: int, user_id: int) -> str | None:
        """A user's name by the bot's cache; None for a user who is not in it, such as one who has left."""
        cache = self._context().bot.cache
        member = cache.get_member(guild_id, user_id)
        if member is not None:
            return member.display_name
        user = cache.get_user(user_id)
        return user.display_name or user.username if user is not None else None

    def _context(self) -> PluginContext:
        if self._ctx is None:
            raise ClosedError("The speech-to-text plugin is not loaded.")
        return self._ctx
