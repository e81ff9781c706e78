"""``/voice test``: listen for some seconds, then say what came of whom, how much was lost, and how loud it was."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from roost import processes
from roost.audio import SAMPLE_RATE_HZ, SILENCE_FRAME, AudioFrame, LinkStats, NotHeard, NoticeFacts, Unheard, Use
from roost.i18n import counted
from roost_voice.levels import FRAME

if TYPE_CHECKING:
    from roost_voice.session import Session

_log = logging.getLogger("roost.voice.hearing")

MAX_FRAMES = 60_000
"""Of all speakers: 15 s of 80 people."""
MAX_FRAMES_EACH = 6_000
"""Of one speaker: 15 s of the shortest packets. Nobody crowds out the others."""
MAX_BYTES_EACH = 512 * 1024
"""Of one speaker: 15 s of the highest bit rate that Discord offers, and some more."""
MEASURE_S = 10.0
"""How long the measuring process may take."""
QUIET_DB = -45.0
CLIPPED_DB = -0.5
WHY = {
    Unheard.REFUSED: "they do not want to be",
    Unheard.UNDECIDED: "they have not agreed",
    Unheard.FORBIDDEN: "{plugin} does not allow it",
    Unheard.GUARD_FAILS: "{plugin}, which decides about it, does not work",
    Unheard.GUARD_LOADS: "{plugin}, which decides about it, is being loaded",
    Unheard.IDLE: "nobody listens any more",
    Unheard.NOTICE_COMING: "a new notice has to stand first",
    Unheard.NOTICE_FAILS: "Discord does not accept the notice",
    Unheard.ASKED_MORE: "they have not agreed to all that the notice says",
    Unheard.UNSEEN: "they cannot see every channel where the notice stands, and have not agreed",
    Unheard.ONLOOKERS: "others can read along, and they have not agreed to that",
    Unheard.UNTOLD: "no notice was posted since they came",
    Unheard.FORGOTTEN: "they asked to be forgotten and have not agreed since",
    Unheard.DEAF: "a moderator has deafened me",
}
MEANWHILE = "they withdrew, and decided anew after that"
NEXT = "`/privacy status` says what you can do to be heard."


def without_dave(link: LinkStats) -> str:
    """What is said of the end-to-end encryption of a link that names no version of it."""
    return "off" if link.tells_dave else "unknown, because this voice driver does not tell"


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """How loud somebody was, in dBFS."""

    level_db: float
    peak_db: float
    damaged: int = 0

    @property
    def words(self) -> str:
        verdict = "very quiet" if self.level_db < QUIET_DB else "too loud" if self.peak_db > CLIPPED_DB else "good"
        return f"loudness {verdict} ({self.level_db:.0f} dB)"


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """What came of one member.

    Attributes:
        frames: Packets.
        seconds: How long they last together.
        lost: Packets missing between them.
    """

    frames: int
    seconds: float
    lost: int
    level: Level | None

    @property
    def words(self) -> str:
        share = f" ({100 * self.lost / (self.frames + self.lost):.1f} %)" if self.lost else ""
        level = self.level.words if self.level is not None else "loudness unknown"
        return f"{self.seconds:.1f} s of speech, {counted(self.lost, 'packet')} lost{share}, {level}"


@dataclasses.dataclass(frozen=True, slots=True)
class Hearing:
    """The outcome of a test.

    Attributes:
        seconds: How long it listened.
        link: What the link counted meanwhile, but for the state of the encryption, which is that of the end.
        heard: By user, everybody in the channel who may be heard; None: nothing came of them.
        refused: Members who were not heard, and why; None: they withdrew, and are heard since.
        capturing: The notice stood; else nobody was listened to.
        deafened: A moderator has deafened the bot.
    """

    seconds: float
    channel_id: int
    link: LinkStats
    heard: dict[int, Heard | None]
    refused: dict[int, NotHeard | None]
    capturing: bool
    deafened: bool = False

    def words(self, reader_id: int) -> str:
        """For the member who asked, who alone reads what plugins say of them."""
        link = self.link
        if not self.capturing:
            return (
                f"I could not post the notice for <#{self.channel_id}>, so I listened to nobody. "
                "Discord did not take it: check that I have View Channel and Send Messages in that channel's own chat, "
                "and try again in a moment."
            )
        dave = without_dave(link)
        if link.dave_version:
            dave = (
                f"on (version {link.dave_version}); {counted(link.frames_decrypted, 'packet')} could be decrypted, "
                f"{link.decrypt_failures} could not"
            )
        expected = link.packets_in + link.lost
        share = f" ({100 * link.lost / expected:.1f} %)" if expected else ""
        lines = [f"I listened in <#{self.channel_id}> for {self.seconds:.0f} s."]
        if self.deafened:
            lines.append("A moderator has deafened me, so Discord sends me no voices. Undeafen me.")
        lines.append(f"End-to-end encryption: {dave}.")
        lines.append(f"Packets: {link.packets_in} in, {link.lost} lost{share}.")
        for user_id, found in sorted(self.heard.items()):
            said = found.words if found is not None else "nothing came: muted, or silent"
            lines.append(f"- <@{user_id}>: {said}")
        for user_id in sorted(self.refused):
            lines.append(f"- <@{user_id}>: not heard, because {self._why(user_id, reader_id)}")
        if self.refused.get(reader_id) is not None:
            lines.append(NEXT)
        if not self.heard and not self.refused:
            lines.append("Nobody is there; bots are never listened to.")
        text = "\n".join(lines)
        return text if len(text) <= 1900 else text[:1900].rsplit("\n", 1)[0] + "\n…"

    def _why(self, user_id: int, reader_id: int) -> str:
        found = self.refused[user_id]
        if found is None:
            return MEANWHILE
        said = f": {found.reason}" if found.reason and user_id == reader_id else ""
        return WHY[found.why].format(plugin=f"the plugin `{found.plugin}`" if found.plugin else "a plugin") + said


class Ear:
    """`roost.audio.FrameSink` that keeps frames for a few seconds."""

    def __init__(self) -> None:
        self.frames: list[AudioFrame] = []
        self._kept: dict[int, tuple[int, int]] = {}
        """By speaker: frames and bytes."""
        self.gone: set[int] = set()
        self.listening = True
        self.on_purge: Callable[[], None] = lambda: None

    def write(self, frame: AudioFrame) -> None:
        if not self.listening or frame.opus == SILENCE_FRAME or len(self.frames) >= MAX_FRAMES:
            return
        count, size = self._kept.get(frame.user_id, (0, 0))
        if count < MAX_FRAMES_EACH and size + len(frame.opus) <= MAX_BYTES_EACH:
            self._kept[frame.user_id] = count + 1, size + len(frame.opus)
            self.frames.append(frame)

    def begin(self) -> None:
        """Forget what came so far: the test begins now."""
        self.frames.clear()
        self._kept.clear()

    def purge(self, user_id: int) -> None:
        self.frames = [frame for frame in self.frames if frame.user_id != user_id]
        self.gone.add(user_id)
        self.on_purge()


async def hear(session: Session, seconds: float) -> Hearing:
    """Listen to those who may be heard, after the notice stands, and measure what came.

    Args:
        seconds: How long.

    Raises:
        ClosedError: The session has ended.
    """
    ear = Ear()
    detach = session.attach(ear, facts=NoticeFacts(Use.LEVELS))
    try:
        capturing = await session.capturing()
        ear.begin()
        before = session.stats().link
        if capturing:
            await asyncio.sleep(seconds)
        ear.listening = False
        link = _since(before, session.stats().link)
        levels = await _measured(ear)
        agreed = session.heard - ear.gone
    finally:
        detach()
    came: dict[int, list[AudioFrame]] = {}
    for frame in ear.frames:
        came.setdefault(frame.user_id, []).append(frame)
    heard: dict[int, Heard | None] = {}
    for user_id in agreed:
        frames = came.get(user_id)
        # What was lost before the first one was lost before the test.
        lost = sum(frame.lost_before for frame in frames[1:]) if frames else 0
        lasted_s = sum(frame.samples for frame in frames) / SAMPLE_RATE_HZ if frames else 0.0
        heard[user_id] = Heard(len(frames), lasted_s, lost, levels.get(user_id)) if frames else None
    refused = {user_id: session.unheard(user_id) for user_id in session.humans - agreed}
    return Hearing(seconds, session.channel_id, link, heard, refused, capturing, deafened=session.deafened)


def _since(before: LinkStats, after: LinkStats) -> LinkStats:
    return dataclasses.replace(
        after,
        packets_in=after.packets_in - before.packets_in,
        lost=after.lost - before.lost,
        frames_decrypted=after.frames_decrypted - before.frames_decrypted,
        decrypt_failures=after.decrypt_failures - before.decrypt_failures,
    )


async def _measured(ear: Ear) -> dict[int, Level]:
    """The levels by user; empty where they cannot be had. Whoever takes their consent back is decoded no further."""
    if importlib.util.find_spec("av") is None or importlib.util.find_spec("numpy") is None:
        _log.info("levels need the packages av and numpy: pip install 'roost[stt]'")
        return {}
    try:
        async with asyncio.timeout(MEASURE_S):
            while ear.frames:
                gone = len(ear.gone)
                levels = await _measure(ear)
                if len(ear.gone) == gone:
                    return levels
    except (OSError, TimeoutError, ValueError) as error:
        _log.warning("levels could not be measured: %s: %s", type(error).__name__, error)
    return {}


async def _measure(ear: Ear) -> dict[int, Level]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROOST_")}
    process = await processes.spawn(
        sys.executable,
        "-P",
        "-m",
        "roost_voice.levels",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
    )

    def kill() -> None:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    # From here to the writing nothing is awaited: whoever is gone by now is not in the frames.
    ear.on_purge = kill
    data = b"".join(FRAME.pack(frame.user_id, len(frame.opus)) + frame.opus for frame in ear.frames)
    try:
        out, _ = await process.communicate(data)
    finally:
        ear.on_purge = lambda: None
        kill()
        await process.wait()
    if process.returncode:
        return {}
    return {int(user_id): Level(**each) for user_id, each in json.loads(out).items()}
