"""The five acts. Nothing is faked: a real bot process, a simulated Discord in another, real voices between them."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from roost.demo import expected
from roost.demo.bot_process import BotProcess, run_bot, wait_gone
from roost.demo.face import Face, Scene, Seat
from roost.demo.ledger import Ledger, SpokenUtterance
from roost.errors import ResourceError
from roost.scopes import Scope
from roost.sim.client import ControlClient
from roost.sim.process import spawn

ACT_SHARES = (0.0, 0.08, 0.52, 0.66, 0.86, 1.0)
QUIET_S = 1.2
"""A recording's captions are complete when none has come for this long."""
CAPTION_LIMIT_S = 5.0
PICTURE_LIMIT_S = 15.0
"""By then both speakers of the first act have been captioned."""

_MENTION = re.compile(r"<#(\d+)>")


class Stage:
    """Everything the acts share. Made by `open_stage`."""

    def __init__(self, face: Face, scene: Scene, ledger: Ledger, sim: ControlClient, card: Mapping[str, Any]) -> None:
        self.face = face
        self.scene = scene
        self.ledger = ledger
        self.sim = sim
        guild = card["guilds"][0]
        self.guild_id = int(guild["id"])
        self.bot_id = int(card["bots"][0]["user_id"])
        self.token = str(card["bots"][0]["token"])
        self.card = card
        self.voice = {channel["name"]: int(channel["id"]) for channel in guild["voice_channels"]}
        self.text_channel = int(guild["text_channels"][0]["id"])
        self.text_name = str(guild["text_channels"][0]["name"])
        self.members = {member["name"]: int(member["id"]) for member in guild["members"]}
        self.names = {number: name for name, number in self.members.items()}
        self.bot: BotProcess | None = None
        self.speaking: set[int] = set()
        self.arrived: list[tuple[float, str, str]] = []
        """Captions as (monotonic arrival, name, text)."""
        self._seen: dict[int, str] = {}

    async def slash(
        self,
        who: str,
        command: str,
        expects: str,
        *,
        channel: str = "",
        options: Mapping[str, Any] | None = None,
        wait_s: float = 8.0,
    ) -> str:
        """Run a slash command as a member and give the reply.

        Args:
            who: The member.
            command: With its slash.
            expects: The pattern of the reply, of `roost.demo.expected`.
            channel: Name of the voice channel in that reply.
            options: Of the command.
            wait_s: For the reply.

        Raises:
            ResourceError: No reply came, or another one.
        """
        self.face.step(f"{who} runs {command}")
        answer = await self.sim.slash(
            member_id=self.members[who],
            channel_id=self.text_channel,
            command=command,
            options=dict(options or {}),
            wait_s=wait_s,
        )
        return self._expected(f"{who} ran {command}", answer, expects, channel=channel, text=self.text_name)

    async def agree(self, who: str, notice: Mapping[str, Any], channel: str) -> None:
        """Press **Agree** below the notice of a voice channel in which the member is.

        Raises:
            ResourceError: The bot did not confirm it.
        """
        self.face.step(f"{who} presses Agree")
        answer = await self.sim.press(member_id=self.members[who], message_id=int(notice["id"]), label="Agree")
        self._expected(f"{who} pressed Agree", answer, expected.AGREED, channel=channel)

    def _expected(self, deed: str, answer: Mapping[str, Any], pattern: str, **names: str) -> str:
        """The reply, which must be the expected one."""
        said = [self._readable(str(reply["content"])) for reply in answer["replies"]]
        if expected.is_answer(said, pattern, **names):
            return said[0]
        replied = " | ".join(said) or "nothing"
        self.ledger.unexpected.append(f"{deed}, and the bot replied: {replied}")
        log = "\n".join(self.bot.tail) if self.bot else ""
        raise ResourceError(f"{deed}, and the bot replied: {replied}; its log ends with:\n{log}")

    def _readable(self, text: str) -> str:
        """Channel mentions as Discord shows them."""
        names = {number: name for name, number in self.voice.items()} | {self.text_channel: self.text_name}
        return _MENTION.sub(lambda match: f"#{names.get(int(match[1]), match[1])}", text)

    async def enter(self, who: str, channel: str) -> None:
        await self.sim.voice(member_id=self.members[who], channel_id=self.voice[channel])

    async def speak(self, who: str, recording: str, reference: str) -> SpokenUtterance:
        """Play a recording as a member and collect the captions it leads to."""
        user = self.members[who]
        self.speaking.add(user)
        try:
            spoken = await self.sim.speak(member_id=user, recording=recording)
        finally:
            self.speaking.discard(user)
        started, ended = float(spoken["started_at"]), float(spoken["ended_at"])
        mine = await self._settled(who, started, ended)
        # The text is complete with the caption that came last, whatever part of the recording it holds.
        latency = mine[-1][0] - ended if mine else None
        return SpokenUtterance(who, reference, " ".join(text for _, _, text in mine), latency)

    async def _settled(self, who: str, started: float, ended: float) -> list[tuple[float, str, str]]:
        while True:
            mine = [caption for caption in self.arrived if caption[1] == who and caption[0] >= started]
            now = time.monotonic()
            last = max([ended, *(caption[0] for caption in mine)])
            if mine and mine[-1][0] >= ended - QUIET_S and now - last > QUIET_S:
                return mine
            if now - ended > CAPTION_LIMIT_S:
                return mine
            await asyncio.sleep(0.05)

    async def until_captioned(self, names: set[str], timeout_s: float) -> None:
        """Wait until each of these members has been captioned, or for `timeout_s`."""
        end = time.monotonic() + timeout_s
        while True:
            if names <= {name for _, name, _ in self.arrived} or time.monotonic() > end:
                return
            await asyncio.sleep(0.1)

    async def state(self) -> dict[str, Any]:
        return await self.sim.state()

    def bot_channel(self, state: Mapping[str, Any]) -> int | None:
        """Where Discord says the bot is."""
        for voice_state in state["voice_states"]:
            if int(voice_state["guild_id"]) == self.guild_id and int(voice_state["user_id"]) == self.bot_id:
                return int(voice_state["channel_id"])
        return None

    async def bot_is_in_encrypted_group(self) -> bool:
        """Whether Discord delivers the group's keys to the bot."""
        sessions = (await self.state())["voice_sessions"]
        return any(int(each["user_id"]) == self.bot_id and each["dave"]["in_group"] for each in sessions)

    async def until_bot_is_in(self, channel: int | None, timeout_s: float) -> None:
        """Wait until the simulated Discord has the bot in a channel (None: nowhere).

        Raises:
            ResourceError: It did not get there.
        """
        end = time.monotonic() + timeout_s
        while self.bot_channel(await self.state()) != channel:
            if time.monotonic() > end:
                raise ResourceError(f"the bot is not in channel {channel} after {timeout_s:.0f} s")
            await asyncio.sleep(0.02)

    async def watch(self) -> None:
        """Keep the scene and the captions up to date; runs beside the acts."""
        while True:
            await self._read_messages()
            state = await self.state()
            self.scene.sessions = int(state["sessions"]["live"])
            self.scene.max_sessions = int(state["max_sessions_per_guild"])
            occupied: dict[int, list[Seat]] = {number: [] for number in self.voice.values()}
            for voice_state in state["voice_states"]:
                user = int(voice_state["user_id"])
                if int(voice_state["guild_id"]) == self.guild_id and int(voice_state["channel_id"]) in occupied:
                    occupied[int(voice_state["channel_id"])].append(self._seat(user))
            self.scene.channels = {name: occupied[number] for name, number in self.voice.items()}
            bot = self.bot
            alive = bot is not None and bot.returncode is None
            self.scene.bot = f"pid {bot.pid}" if bot is not None and alive else "dead"
            self.scene.workers = len(bot.descendants()) if bot is not None and alive else 0
            await asyncio.sleep(0.1)

    def _seat(self, user: int) -> Seat:
        if user != self.bot_id:
            return Seat(self.names.get(user, str(user)), user in self.speaking)
        ghost = self.bot is None or self.bot.returncode is not None
        return Seat("Roost", note="a ghost: its process is dead" if ghost else "the bot")

    async def _read_messages(self) -> None:
        for message in await self.sim.messages(channel_id=self.text_channel):
            number, content = int(message["id"]), str(message["content"])
            if self._seen.get(number) == content:
                continue
            self._seen[number] = content
            for line in self._readable(content).splitlines():
                if not expected.is_message(line, frozenset(self.members)):
                    self.ledger.unexpected.append(f"the bot wrote into #{self.text_name}: {line}")
                spoken = expected.caption(line)
                if spoken is not None:
                    self.arrived.append((float(message["at"]), *spoken))
                    self.face.caption(*spoken)

    async def notice(self) -> Mapping[str, Any]:
        """The latest message with buttons in the text channel.

        Raises:
            ResourceError: There is none.
        """
        end = time.monotonic() + 5.0
        while time.monotonic() < end:
            for message in reversed(await self.sim.messages(channel_id=self.text_channel)):
                if message.get("components"):
                    return message
            await asyncio.sleep(0.05)
        raise ResourceError("no notice appeared in the text channel")

    @asynccontextmanager
    async def running_bot(self, data_dir: Path, driver: str) -> AsyncIterator[BotProcess]:
        """The bot, as ``roost run`` starts it; only the address of Discord differs."""
        settings = {
            "discord.rest_url": self.card["rest_url"],
            "voice.ca_file": self.card["ca_file"],
            "voice.allowed_hosts": "localhost,127.0.0.1",
            "voice.driver": driver,
            "log.format": "json",
        }
        arguments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
        environ |= {"ROOST_TOKEN": self.token, "ROOST_DATA_DIR": str(data_dir)}
        async with run_bot(arguments, environ) as bot:
            self.bot = bot
            yield bot


@asynccontextmanager
async def open_stage(face: Face, scene: Scene, ledger: Ledger) -> AsyncIterator[Stage]:
    """Start the simulated Discord and watch it; at the end it is gone."""
    async with AsyncExitStack() as stack:
        sim = await stack.enter_async_context(spawn())
        client = await stack.enter_async_context(ControlClient(str(sim.card["control_url"])))
        stage = Stage(face, scene, ledger, client, sim.card)
        scope = Scope("demo")
        stack.push_async_callback(scope.aclose)
        watcher = scope.spawn(stage.watch(), "watch", awaited=True)
        yield stage
        if watcher.done():
            watcher.result()


async def play_acts(face: Face, scene: Scene, ledger: Ledger, driver: str) -> None:
    """All acts, in order; the ledger is filled in as they go.

    Raises:
        ResourceError: A step never came about; the ledger holds what was measured until then.
    """
    async with AsyncExitStack() as stack:
        data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roost-demo-")))
        stage = await stack.enter_async_context(open_stage(face, scene, ledger))
        recordings = {each["name"]: str(each["text"]) for each in await stage.sim.recordings()}
        try:
            async with stage.running_bot(data_dir, driver) as bot:
                await _join_and_transcribe(stage, bot, recordings)
                await _one_session(stage, bot, recordings)
                await _crash(stage, bot)
                _read_sessions(ledger, bot)
                _read_errors(ledger, bot)
            async with stage.running_bot(data_dir, driver) as bot:
                await _come_back(stage, bot)
                await _stop(stage, bot, recordings)
                _read_speech(ledger, bot, stage.members["Cleo"])
                _read_sessions(ledger, bot)
                _read_errors(ledger, bot)
            _progress(stage, 5)
        finally:
            await _count(stage)


def _progress(stage: Stage, act: int) -> None:
    stage.face.act(act)
    stage.scene.done = ACT_SHARES[act]


async def _join_and_transcribe(stage: Stage, bot: BotProcess, texts: Mapping[str, str]) -> None:
    _progress(stage, 1)
    first, *_ = stage.voice
    ledger, face = stage.ledger, stage.face
    face.step("Starting the bot, as roost run does")
    await bot.ready()
    ledger.open_files_at_rest = bot.open_files()
    for who in ("Ada", "Ben", "Cleo"):
        await stage.enter(who, first)
    face.fact(await stage.slash("Ada", "/voice join", expected.JOINED, channel=first))
    face.fact(await stage.slash("Ada", "/transcribe start", expected.TRANSCRIBING, channel=first))
    notice = await stage.notice()
    face.fact("A notice asks everybody before anything is heard")
    for who in ("Ada", "Ben"):
        await stage.agree(who, notice, first)
    ledger.refused_speaker = "Cleo"
    face.step("Ada and Ben speak at once; Cleo, who never agreed, speaks too")

    async def ada() -> None:
        for name in ("lv_0870", "lv_0880", "lv_0890"):
            ledger.utterances.append(await stage.speak("Ada", name, texts[name]))
            stage.scene.done += 0.1

    async def ben() -> None:
        for name in ("jfk", "lv_0930"):
            ledger.utterances.append(await stage.speak("Ben", name, texts[name]))
            stage.scene.done += 0.06

    async def cleo() -> None:
        spoken = await stage.sim.speak(member_id=stage.members["Cleo"], recording="lv_0920")
        ledger.refused_frames_sent = int(spoken["frames"])

    async def photograph() -> None:
        await stage.until_captioned({"Ada", "Ben"}, PICTURE_LIMIT_S)
        face.picture_now()

    async with asyncio.TaskGroup() as group:
        for part in (ada(), ben(), cleo(), photograph()):
            group.create_task(part)
    ledger.open_files_live = bot.open_files()
    ledger.in_encrypted_group = await stage.bot_is_in_encrypted_group()
    await stage.slash("Ada", "/transcribe stop", expected.STOPPED)
    await bot.wait_for(lambda each: each.get("event") == "speech_report", 5.0, "a report of what was decoded")
    _read_speech(ledger, bot, stage.members["Cleo"])
    face.fact(f"Cleo sent {ledger.refused_frames_sent} frames; {ledger.refused_frames_decoded} of them were decoded")
    ledger.acts.append("join and transcribe")


async def _one_session(stage: Stage, bot: BotProcess, texts: Mapping[str, str]) -> None:
    _progress(stage, 2)
    _, second, third, *_ = stage.voice
    for who, channel in (("Mod", second), ("Mod", third)):
        await stage.enter(who, channel)
        options = {"channel": str(stage.voice[channel])}
        stage.face.fact(await stage.slash(who, "/voice join", expected.MOVED, channel=channel, options=options))
        await stage.until_bot_is_in(stage.voice[channel], 5.0)
    await stage.enter("Ada", third)
    stage.face.fact(await stage.slash("Ada", "/transcribe start", expected.TRANSCRIBING, channel=third))
    stage.face.step("Ada, who followed, is heard in the new channel")
    stage.ledger.utterances.append(await stage.speak("Ada", "lv_0920", texts["lv_0920"]))
    most = int((await stage.state())["max_sessions_per_guild"])
    stage.face.fact(f"Two moves; the simulated Discord never counted more than {most} session")
    stage.ledger.acts.append("one session per guild")


async def _crash(stage: Stage, bot: BotProcess) -> None:
    _progress(stage, 3)
    ledger, face = stage.ledger, stage.face
    scope = Scope("crash")
    try:
        face.step("Ada speaks, and the bot is killed in the middle of a word")
        stage.speaking.add(stage.members["Ada"])
        speech = scope.spawn(
            stage.sim.speak(member_id=stage.members["Ada"], recording="lv_0890"), "speech", awaited=True
        )
        await asyncio.sleep(1.5)
        workers = bot.descendants()
        if not workers:
            raise ResourceError("the bot runs no speech worker while somebody speaks")
        bot.kill()
        ledger.worker_gone_after_kill_s = await wait_gone([bot.pid, *workers], 5.0)
        gone = ledger.worker_gone_after_kill_s
        face.fact(
            "SIGKILL: the speech worker never went"
            if gone is None
            else f"SIGKILL: bot and speech worker gone after {gone * 1000:.0f} ms"
        )
        await bot.wait(2.0)
        ledger.ghost_seen = stage.bot_channel(await stage.state()) is not None
        face.fact("The ghost stands in the channel" if ledger.ghost_seen else "No ghost was left")
        await speech
    finally:
        stage.speaking.discard(stage.members["Ada"])
        await scope.aclose()


async def _come_back(stage: Stage, bot: BotProcess) -> None:
    ledger, face = stage.ledger, stage.face
    face.step("The bot starts again and finds its ghost")
    event = await bot.wait_for(lambda each: each.get("event") == "ghost_reaped", 30.0, "the ghost reaped")
    await stage.until_bot_is_in(None, 5.0)
    ledger.ghosts_reaped += 1
    ledger.ghost_reaped_in_s = float(event["since_ready_s"])
    face.fact(f"The ghost is gone {ledger.ghost_reaped_in_s:.2f} s after READY")
    await bot.ready()
    third = list(stage.voice)[2]
    face.fact(await stage.slash("Ada", "/voice join", expected.JOINED, channel=third))
    await stage.until_bot_is_in(stage.voice[third], 5.0)
    face.fact(await stage.slash("Ada", "/transcribe start", expected.TRANSCRIBING, channel=third))
    ledger.rejoined = True
    ledger.acts.append("crash")


async def _stop(stage: Stage, bot: BotProcess, texts: Mapping[str, str]) -> None:
    _progress(stage, 4)
    ledger, face = stage.ledger, stage.face
    face.step("Ada speaks, and the bot gets SIGTERM in the middle of it")
    scope = Scope("stop")
    ada = stage.members["Ada"]
    try:
        stage.speaking.add(ada)
        speech = scope.spawn(stage.sim.speak(member_id=ada, recording="lv_0870"), "speech", awaited=True)
        started = time.monotonic()
        await asyncio.sleep(4.0)
        workers = bot.descendants()
        told = time.monotonic()
        bot.terminate()
        code = await bot.wait(10.0)
        ledger.shutdown_s = time.monotonic() - told
        if code != 0:
            raise ResourceError(f"the bot ended with status {code}")
        ledger.shutdown_order = [str(each["step"]) for each in bot.events if each.get("logger") == "roost.stop"]
        await wait_gone(workers, 2.0)
        ledger.workers_alive_at_end = len([pid for pid in workers if await wait_gone([pid], 0.0) is None])
        await stage.until_bot_is_in(None, 2.0)
        await asyncio.sleep(0.3)
        said = [text for at, who, text in stage.arrived if who == "Ada" and at >= started]
        last = max((at for at, who, _ in stage.arrived if who == "Ada"), default=0.0)
        ledger.last_words = _last_words("Ada", texts["lv_0870"], " ".join(said))
        ledger.last_words_in_time = told < last < await _left_at(stage, told)
        face.fact(f"Order: {' > '.join(ledger.shutdown_order)}")
        when = "before voice was left" if ledger.last_words_in_time else "never, or too late"
        face.fact(f"Down after {ledger.shutdown_s:.2f} s; the last words were posted {when}")
        await speech
    finally:
        stage.speaking.discard(ada)
        await scope.aclose()
    ledger.acts.append("stop")


async def _left_at(stage: Stage, since: float) -> float:
    """When the bot asked to leave voice; 0 if it never did, or if the gateway closed first."""
    entries = await stage.sim.log(since)
    leaves = [float(each["t"]) for each in entries if each["kind"] == "op4" and each["channel_id"] is None]
    closes = [float(each["t"]) for each in entries if each["kind"] == "gateway_close"]
    return leaves[0] if leaves and closes and leaves[0] < closes[0] else 0.0


def _last_words(speaker: str, whole: str, heard: str) -> SpokenUtterance:
    """Compare cut-off speech with the beginning of the text that fits it best: nobody knows where the cut fell."""
    from roost.text import normalise, wer

    words = normalise(whole).split()
    beginnings = [" ".join(words[:count]) for count in range(1, len(words) + 1)]
    best = min(beginnings, key=lambda beginning: wer([beginning], [heard])) if heard else whole
    return SpokenUtterance(speaker, best, heard, None)


async def _count(stage: Stage) -> None:
    """What the simulated Discord counted, however far the acts came."""
    ledger = stage.ledger
    state = await stage.state()
    sessions = state["sessions"]
    ledger.sessions_opened = int(sessions["opened"])
    ledger.sessions_closed = int(sessions["closed"])
    ledger.sessions_leaked = int(sessions["live"])
    ledger.max_sessions_per_guild = int(state["max_sessions_per_guild"])


def _read_sessions(ledger: Ledger, bot: BotProcess) -> None:
    """Add up what a bot reported of its voice sessions.

    Sessions report their figures so far at every move and at their end; a bot that is killed leaves it at the moves.
    """
    latest: dict[str, Mapping[str, Any]] = {}
    for event in bot.events:
        if event.get("event") in ("session_moved", "session_closed"):
            latest[event["session"]] = event["stats"]["link"]
    for link in latest.values():
        ledger.dave_version = max(ledger.dave_version, int(link["dave_version"]))
        ledger.dave_epochs += int(link["dave_epochs"])
        ledger.frames_decrypted += int(link["frames_decrypted"])
        ledger.frames_dropped += int(link["decrypt_failures"])


def _read_errors(ledger: Ledger, bot: BotProcess) -> None:
    """A bot that logs an error has not shown what the demo is to show."""
    for event in bot.events:
        if event.get("level") in ("ERROR", "CRITICAL"):
            ledger.unexpected.append(f"the bot logged an error: {event.get('message')}")


def _read_speech(ledger: Ledger, bot: BotProcess, refused_user: int) -> None:
    """Take over how many frames of the one who never agreed a bot's speech worker decoded."""
    for event in bot.events:
        if event.get("event") == "speech_report":
            decoded = int(event["decoded"].get(str(refused_user), 0))
            ledger.refused_frames_decoded = max(ledger.refused_frames_decoded or 0, decoded)
