"""What is said of a transcription: to people in words, to the log in figures. Never any text of what was spoken."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from roost.audio import FRAME_MS, NoticeFacts, Use, VoiceSession
from roost.i18n import counted
from roost_stt.captions import display_name
from roost_stt.config import SttConfig, Where
from roost_stt.engine import SpeechWorker
from roost_stt.refusals import Refusal
from roost_stt.supervision import State, Trouble
from roost_stt.transcription import Transcription

_log = logging.getLogger("roost.stt")

TROUBLES = {
    Trouble.CRASHED: "The speech engine failed and is starting again; captions may come late.",
    Trouble.LOST: "Some of what was said could not be turned into text.",
    Trouble.SMALLER: "The graphics card has no room for the speech engine, so it runs with less; captions may come "
    "later or be less exact.",
    Trouble.NO_CARD: "The graphics card cannot be used now, so the speech engine runs on the processor; captions may "
    "come later or be less exact.",
    Trouble.FAILED: "The speech engine keeps failing, so there are no more captions. Try `/transcribe start` "
    "again later.",
}


ENGINE = {
    State.STOPPED: "has stopped",
    State.STARTING: "is starting",
    State.READY: "is ready",
    State.WAITING: "failed and starts again in a moment",
    State.FAILED: "keeps failing",
}
"""What the speech engine does, after its name."""
KEEPS_TRYING = "I keep trying, with growing pauses; `/transcribe start` tries at once."
"""Said of the notice."""


def muted(name: str | None) -> str:
    """Say that a speaker is not transcribed any more because the engine died of their audio; None: a whole server."""
    if name is None:
        return (
            "The speech engine has failed too often on what was said here, so there are no more captions. "
            "An hour from now, `/transcribe stop` and then `/transcribe start` try again."
        )
    return (
        f"The speech engine failed three times on what {display_name(name)} said, so I do not transcribe them. "
        "All others go on. An hour from now, `/transcribe stop` and then `/transcribe start` try again."
    )


def cut_off(refusal: Refusal, channel_id: int) -> str:
    """Why captions wait, and what to do about it."""
    if refusal is Refusal.GONE:
        return (
            "The channel for the captions is gone, so they wait. "
            "Use `/transcribe start` in another channel, and they go on there."
        )
    return (
        f"I may no longer write in <#{channel_id}>, so captions wait. Give me View Channel and Send Messages there, "
        "or use `/transcribe start` in another channel, and they go on there."
    )


def no_notice(session: VoiceSession, channel_id: int) -> str:
    """Why nobody is heard yet, and what the bot does about it."""
    places = " and ".join(f"<#{place}>" for place in dict.fromkeys((channel_id, session.channel_id)))
    return f"I could not post the notice in {places}, so I hear nobody: Discord did not take the notice. {KEEPS_TRYING}"


def onlookers(text_id: int, voice_id: int, *, wide: bool) -> str:
    """Why captions pause, and what to do about it; or that they go on."""
    if not wide:
        return f"Captions go on: everybody who can read <#{text_id}> can be in <#{voice_id}> now."
    return (
        f"Captions pause: there may be people who can read <#{text_id}> and cannot be in <#{voice_id}>. "
        "They go on when nobody can any more, or with `/transcribe start` in another channel. "
        "Those who manage the server can have them here all the same, with `/transcribe start`."
    )


def already(session: VoiceSession, running: Transcription, into: str) -> str:
    """Why a second start does nothing."""
    if running.paused:
        return f"Transcription of <#{session.channel_id}> is paused. `/transcribe resume` goes on."
    return f"I am already transcribing <#{session.channel_id}> into {into}."


def ending(running: Transcription) -> str:
    """Why nothing can be asked of a transcription whose end has begun."""
    return (
        f"The transcription of <#{running.room_id}> is ending: I hear nobody, and post what was said before. "
        "`/transcribe start` begins a new one in a moment."
    )


def place_words(where: Where, channel_id: int, thread_id: int | None, *, is_thread: bool) -> str:
    """Where the text goes, to stand after "into".

    Args:
        where: What the server has set.
        channel_id: The channel that was chosen.
        thread_id: The thread of it that was made for the captions, if there is one.
        is_thread: The channel that was chosen is a thread itself.
    """
    if where == "none":
        return "the transcript alone"
    if where == "channel" or is_thread:
        return f"<#{channel_id}>"
    return f"<#{thread_id}>" if thread_id is not None else f"a thread of <#{channel_id}>"


def status(
    running: Transcription, worker: SpeechWorker, name_of: Callable[[int], str], into: str, *, shown: bool
) -> str:
    """The state of a transcription; `into`: see `place_words`; `shown`: captions are posted."""
    if running.is_ending:
        return ending(running)
    heard = ", ".join(
        f"{display_name(name_of(user_id))} {frames * FRAME_MS / 1000:.1f} s"
        for user_id, frames in sorted(running.decoded().items())
        if user_id in running.session.members
    )
    failed = running.session.capture_state == "failed"
    trouble = f" Nobody is heard, because Discord did not take the notice. {KEEPS_TRYING}" if failed else ""
    state = "Paused: transcribing" if running.paused else "Transcribing"
    if running.captioner.refusal is not None:
        trouble += " Captions wait, because Discord does not take them."
    elif running.audience.wide and shown:
        trouble += " Captions pause, because people may be able to read them who cannot be there."
    made = counted(running.captioner.captions, "caption") if shown else counted(running.transcripts, "line")
    return (
        f"{state} <#{running.session.channel_id}> into {into}: "
        f"{made} so far. "
        f"The speech engine {ENGINE[worker.state]}. Heard: {heard or 'nobody'}.{trouble}"
    )


def notice_facts(
    config: SttConfig,
    channel_id: int,
    worker: SpeechWorker,
    *,
    onlookers: bool,
    is_thread: bool,
    text_plugins: tuple[str, ...],
) -> NoticeFacts:
    """What the notice tells members of a transcription into a channel, which may be a thread itself."""
    return NoticeFacts(
        Use.TEXT,
        channel_id=channel_id,
        shown=config.captions.where != "none",
        in_thread=config.captions.where == "thread" and not is_thread,
        onlookers=onlookers and config.captions.where != "none",
        kept_days=config.retention_days,
        sends_to=next((each.sends_to for each in worker.ladder.steps if each.sends_to), ""),
        text_plugins=text_plugins,
    )


def report(why: str, worker: SpeechWorker, transcription: Transcription | None = None) -> None:
    """Figures for the log; programs find them by ``event``."""
    stats = worker.stats()
    extra: dict[str, Any] = {
        "event": "speech_report",
        "decoded": {str(user_id): frames for user_id, frames in stats["decoded"].items()},
        "utterances": stats["utterances"],
        "lost": stats["utterances_lost"],
        "crashes": stats["crashes"],
        "frames_sent": stats["frames_sent"],
        "frames_dropped": stats["frames_dropped"],
        "partials_shed": stats["worker"].get("partials_shed", 0),
        "alive": stats["alive"],
    }
    if transcription is not None:
        extra |= {"guild": str(transcription.guild_id), "captions": transcription.stats()}
    _log.info("speech: %s", why, extra=extra)
