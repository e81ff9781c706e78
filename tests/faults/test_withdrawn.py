"""Members who withdraw while their words are on their way: rows 200 to 204, 240, 242, 243 and 290, whole bots."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fault_report import Fault

from roost.audio import VoiceSession
from roost.hooks import Meta, hookimpl
from roost.speech import Transcript
from roost.testing import RoostBot, running_bot
from roost_stt import recalls, transcript_commands
from roost_stt.plugin import SttPlugin

pytestmark = pytest.mark.e2e

STILL_S = 4.0
"""How long nothing may come after a withdrawal: longer than a remote engine's pauses between its tries."""


class Service:
    """A transcription service on a socket of its own that counts every byte, and answers with a status or never."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.bytes = 0
        self.open: set[asyncio.StreamWriter] = set()
        self.asked = 0

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        finally:
            server.close()
            for writer in self.open:
                writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            with contextlib.suppress(ConnectionError):
                left = -1
                body = b""
                while data := await reader.read(1 << 16):
                    self.bytes += len(data)
                    body += data
                    if left < 0 and b"\r\n\r\n" in body:
                        head, _, body = body.partition(b"\r\n\r\n")
                        left = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    if 0 <= left <= len(body):
                        self.asked += 1
                        left, body = -1, b""
                        if self.status is not None:
                            writer.write(b"HTTP/1.1 %d Busy\r\nContent-Length: 0\r\n\r\n" % self.status)
        finally:
            self.open.discard(writer)
            writer.close()


class Call:
    """Ada and Ben in voice, a bot that transcribes into #general."""

    def __init__(self, bot: RoostBot) -> None:
        self.bot = bot

    async def texts(self, channel: str = "general") -> str:
        return "\n".join(await self.bot.messages(channel))

    async def until(self, check: Callable[[str], bool], channel: str = "general", timeout_s: float = 30.0) -> str:
        async with asyncio.timeout(timeout_s):
            while not check(text := await self.texts(channel)):
                await asyncio.sleep(0.05)
        return text

    async def stored(self) -> str:
        """The transcript of the server as a file."""
        listed = await self.bot.slash("/transcript list")
        if "`" not in listed.content:
            return ""
        name = listed.content.split("`")[1]
        reply = await self.bot.slash("/transcript export", transcript=name)
        return "".join(file.data.decode() for file in reply.files)


@contextlib.asynccontextmanager
async def a_call(folder: Path, *plugins: Any, **settings: Any) -> AsyncIterator[Call]:
    chosen = {"stt.engine": "scripted", "stt.script": "words of {user} number {count}"} | {
        key.replace("__", "."): value for key, value in settings.items()
    }
    async with running_bot(*plugins, data_dir=folder, installed=("voice", "stt"), settings=chosen, guilds=1) as bot:
        for member in ("Ada", "Ben"):
            await bot.slash("/privacy opt-in", member=member)
        await bot.join_voice("Ada")
        await bot.join_voice("Ben")
        await bot.slash("/voice join")
        reply = await bot.slash("/transcribe start")
        assert "Transcribing" in reply.content, reply.content
        yield Call(bot)


async def withdraw(bot: RoostBot, how: str) -> None:
    """Have Ben withdraw, with the press that confirms it where one is asked for."""
    reply = await bot.slash(how, member="Ben", wait_s=20.0)
    if how == "/privacy forget-me":
        await bot.press(reply, "Delete", member="Ben", wait_s=20.0)


@pytest.mark.fault(200)
@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("/privacy opt-out", None),
        ("/privacy opt-out", 503),
        ("/privacy forget-me", None),
        ("/privacy forget-me", 503),
        ("/voice leave", None),
        ("/transcribe stop", None),
    ],
)
async def test_withdrawal_ends_the_request_to_a_remote_engine(
    tmp_path: Path, fault: Fault, how: str, status: int | None
) -> None:
    service = Service()
    service.status = status
    # Where nobody has to agree, who is forgotten may be heard again; what they said before is gone all the same.
    mode = "notice" if how == "/privacy forget-me" else "opt-in"
    async with (
        service.serve() as url,
        a_call(tmp_path, stt__engine="openai", stt__remote__url=url, consent__mode=mode) as call,
    ):
        await call.bot.say("lv_0880", member="Ben")
        async with asyncio.timeout(20):
            while not service.asked:
                await asyncio.sleep(0.01)
        ends = not how.startswith("/privacy")
        if ends:
            # What was said before may still become text, for as long as the end waits for it.
            await withdraw(call.bot, how)
        with fault.clock(scaled=False):
            withdrawn = asyncio.create_task(asyncio.sleep(0.0) if ends else withdraw(call.bot, how))
            while status is None and service.open:
                await asyncio.sleep(0.01)
        await withdrawn
        before = service.bytes
        await asyncio.sleep(STILL_S)
        assert service.bytes == before
        assert "words" not in await call.texts()


class Censor:
    """A plugin that is to remove what may not be shown, and fails at it."""

    def __init__(self, *, hangs: bool) -> None:
        self.hangs = hangs
        self.asked = 0

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("censor")

    @hookimpl
    async def transcript_process(self, session: VoiceSession, draft: Transcript) -> Transcript | None:
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(3600)
        raise ValueError("no censorship today")


@pytest.mark.fault(204)
@pytest.mark.parametrize("how", ["raises", "hangs", "stopped"])
async def test_line_that_its_plugin_did_not_see_through_is_dropped(tmp_path: Path, fault: Fault, how: str) -> None:
    censor = Censor(hangs=how == "hangs")
    async with a_call(tmp_path, censor, plugins__quarantine_failures=2) as call:
        for _ in range(2 if how == "stopped" else 0):
            await call.bot.say("lv_0880", member="Ben")
        async with asyncio.timeout(20):
            while how == "stopped" and censor.asked < 2:
                await asyncio.sleep(0.05)
        await call.bot.say("lv_0880", member="Ben")
        with fault.clock(scaled=False):
            text = await call.until(lambda text: "the plugin censor, which checks it, failed" in text)
        await call.bot.slash("/transcribe stop", member="Ben", wait_s=20.0)
        text = await call.texts()
        assert "words of" not in text
        assert text.count("which checks it, failed") == 1
        assert censor.asked == (2 if how == "stopped" else 1)
        assert "words of" not in await call.stored()


class Redactor:
    """A plugin that changes lines, and on demand gives them to another member."""

    def __init__(self) -> None:
        self.to: int | None = None

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("redactor")

    @hookimpl
    async def transcript_process(self, session: VoiceSession, draft: Transcript) -> Transcript:
        text = draft.text.replace("words", "...")
        return dataclasses.replace(draft, text=text, user_id=draft.user_id if self.to is None else self.to)


@pytest.mark.fault(240)
async def test_plugin_changes_no_more_of_a_line_than_its_text(tmp_path: Path, fault: Fault) -> None:
    redactor = Redactor()
    async with a_call(tmp_path, redactor, stt__word_timestamps=True) as call:
        await call.bot.say("lv_0880", member="Ben")
        await call.until(lambda text: "... of" in text)
        redactor.to = int(call.bot.member("Ada"))
        await call.bot.say("lv_0880", member="Ben")
        with fault.clock(scaled=False):
            await call.until(lambda text: "the plugin redactor, which checks it, failed" in text)
        listed = await call.bot.slash("/transcript list")
        reply = await call.bot.slash(EXPORT, transcript=listed.content.split("`")[1], format="json")
        (line,) = json.loads(reply.files[0].content)["lines"]
        assert (line["user_id"], line["words"]) == (str(call.bot.member("Ben")), [])
        assert "words" not in line["text"]


class Leaky:
    """A plugin whose errors and wrong answers hold the words that it was given."""

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("leaky")

    @hookimpl
    async def transcript_ready(self, session: VoiceSession, transcript: Transcript) -> None:
        raise ValueError(f"cannot file {transcript.text!r}")

    @hookimpl
    async def user_data_export(self, user_id: int) -> Any:
        return ["words of mine"]


@pytest.mark.fault(242)
async def test_errors_of_plugins_bring_no_words_into_the_log(
    tmp_path: Path, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "roost")
    async with a_call(tmp_path, Leaky(), plugins__quarantine_failures=1) as call:
        await call.bot.say("lv_0880", member="Ben")
        await call.until(lambda text: "words of" in text)
        with fault.clock(scaled=False):
            async with asyncio.timeout(5):
                while "plugin leaky: paused" not in caplog.text:
                    await asyncio.sleep(0.02)
        why = await call.bot.slash("/plugins why", member="Mod", plugin="leaky")
        assert "ValueError" in why.content
        assert "leaky" in (await call.bot.slash("/privacy my-data")).content
        assert "leaky failed in transcript_ready" in caplog.text
        assert "it answered a list" in caplog.text
        assert "words of" not in caplog.text + why.content


EXPORT, SHOW = "/transcript export", "/transcript show"


@pytest.mark.fault(203)
@pytest.mark.parametrize(
    ("command", "how", "held_up", "refused"),
    [
        (EXPORT, "/privacy opt-out", "PATCH", False),
        (EXPORT, "/privacy forget-me", "PATCH", False),
        (SHOW, "/privacy opt-out", "PATCH", False),
        (EXPORT, "/privacy opt-out", "POST", False),
        (EXPORT, "/privacy opt-out", "POST", True),
    ],
    ids=["export-withdrawn", "export-forgotten", "page-withdrawn", "second-part-withdrawn", "second-part-refused-too"],
)
async def test_answer_under_way_holds_no_withdrawn_words(
    tmp_path: Path,
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    how: str,
    held_up: str,
    *,
    refused: bool,
) -> None:
    if held_up == "POST":
        monkeypatch.setattr(transcript_commands, "MAX_FILE_BYTES", 50)
    async with running_bot(
        data_dir=tmp_path, installed=("voice", "stt"), settings={"stt.engine": "scripted"}, guilds=1
    ) as bot:
        plugin: SttPlugin = bot.app.plugins.records["stt"].instance
        guild, channel = bot.guild.id, bot.channel("general").id
        keeper = plugin.book.begin(guild, bot.channel("perch").id, channel, 0)
        for member in ("Ada", "Ben"):
            await bot.slash("/privacy opt-in", member=member)
            user = int(bot.member(member))
            await keeper.keep(Transcript(1, guild, user, f"words of {member}", 1e9 + user % 10, 2e9), member)
        await keeper.close()
        # Discord takes its time over what holds Ben's words.
        armed = await bot.control.fault("rest_delay", method=held_up, path_prefix="/webhooks/", delay_s=3.0)
        asked = asyncio.create_task(bot.slash(command, transcript=keeper.head.id, wait_s=20.0))
        async with asyncio.timeout(10):
            while any(each["id"] == armed for each in (await bot.control.call("GET", "/faults"))["armed"]):
                await asyncio.sleep(0.01)
        with fault.clock(bound_s=3.0 if held_up == "PATCH" else 6.0, scaled=False):
            await withdraw(bot, how)
            if refused:
                await bot.control.fault("rest_error", method=held_up, path_prefix="/webhooks/", status=400)
            if held_up == "PATCH":
                reply = await asked
                assert "has withdrawn them meanwhile" in reply.content
        await asyncio.sleep(3.5)  # until Discord has done what it was asked first
        left = [each for each in bot.discord.book.messages.values() if each.files or "words of" in str(each.body)]
        assert left == []
        await asked
        again = await bot.slash(SHOW, transcript=keeper.head.id)
        assert "words of Ada" in again.content
        assert ("words of Ben" in again.content) is (how == "/privacy opt-out")


@pytest.mark.fault(243)
async def test_answer_under_way_holds_no_deleted_transcript(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as call:
        await call.bot.say("lv_0880", member="Ben")
        await call.until(lambda text: "words of" in text)
        await call.bot.slash("/transcribe stop", wait_s=20.0)
        name = (await call.bot.slash("/transcript list")).content.split("`")[1]
        armed = await call.bot.control.fault("rest_delay", method="PATCH", path_prefix="/webhooks/", delay_s=2.0)
        asked = asyncio.create_task(call.bot.slash(EXPORT, member="Ben", transcript=name, wait_s=20.0))
        async with asyncio.timeout(10):
            while any(each["id"] == armed for each in (await call.bot.control.call("GET", "/faults"))["armed"]):
                await asyncio.sleep(0.01)
        with fault.clock(scaled=False):
            sure = await call.bot.slash("/transcript delete", transcript=name)
            await call.bot.press(sure, "Delete", wait_s=20.0)
            assert "has been deleted meanwhile" in (await asked).content
        await asyncio.sleep(2.0)  # until Discord has done what it was asked first
        assert [each for each in call.bot.discord.book.messages.values() if each.files] == []


def posts(call: Call) -> str:
    return f"/channels/{call.bot.channel('general').id}/messages"


async def both_say(call: Call) -> str:
    """Have both say something, and wait until both stand there."""
    for member in ("Ben", "Ada"):
        await call.bot.say("lv_0880", member=member)
        text = await call.until(lambda text, member=member: f"**{member}**: words" in text)
    return text


@pytest.mark.fault(201)
async def test_withdrawn_words_go_although_discord_takes_no_edit_for_a_while(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path, stt__captions__mode="edited") as call:
        await both_say(call)
        await call.bot.control.fault("rest_error", method="PATCH", path_prefix=posts(call), status=400, times=4)
        with fault.clock(scaled=False):
            await call.bot.slash("/privacy opt-out", member="Ben")
            # The end of the transcription does not end it.
            await call.bot.slash("/transcribe stop", member="Ada", wait_s=20.0)
            text = await call.until(lambda text: "**Ben**" not in text)
        assert "**Ada**: words" in text


@pytest.mark.fault(290)
async def test_last_words_of_a_message_go_although_an_edit_of_it_is_on_its_way(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path, stt__captions__mode="edited") as call:
        bot = call.bot
        await bot.say("lv_0880", member="Ben")
        await call.until(lambda text: "**Ben**: words" in text)
        armed = await bot.control.fault("rest_delay", method="PATCH", path_prefix=posts(call), delay_s=1.0)
        await bot.say("lv_0880", member="Ben")
        async with asyncio.timeout(20):
            while any(each["id"] == armed for each in (await bot.control.call("GET", "/faults"))["armed"]):
                await asyncio.sleep(0.01)
        with fault.clock(scaled=False):
            await withdraw(bot, "/privacy opt-out")
            await call.until(lambda text: "**Ben**" not in text)
        await bot.slash("/transcribe stop", member="Ada", wait_s=20.0)
        assert "**Ben**" not in await call.texts()


@pytest.mark.fault(201)
async def test_words_that_discord_does_not_let_go_of_are_named(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recalls, "RECALL_AGAIN_S", (0.05,) * 3)
    async with a_call(tmp_path, stt__captions__mode="edited") as call:
        await both_say(call)
        await call.bot.control.fault("rest_error", method="PATCH", path_prefix=posts(call), status=400, times=100)
        with fault.clock(scaled=False):
            await call.bot.slash("/privacy opt-out", member="Ben")
            text = await call.until(lambda text: "Please delete https://discord.com/channels/" in text)
        link = text.split("Please delete ")[1].split(".\n")[0].rstrip(".")
        message = call.bot.discord.book.messages[int(link.rsplit("/", 1)[1])]
        assert "**Ben**" in str(message.body)


@pytest.mark.fault(202)
@pytest.mark.parametrize("times", [1, 6], ids=["once", "six-times"])
async def test_caption_whose_answer_is_lost_stands_once(tmp_path: Path, fault: Fault, times: int) -> None:
    async with a_call(tmp_path) as call:
        await call.bot.control.fault(
            "rest_error", method="POST", path_prefix=posts(call), status=502, taken=True, times=times
        )
        await call.bot.say("lv_0880", member="Ben")
        await call.until(lambda text: "**Ben**: words" in text)
        with fault.clock(scaled=False):
            await call.bot.say("lv_0880", member="Ada")
            text = await call.until(lambda text: "**Ada**: words" in text)
        assert text.count("**Ben**: words") == 1


@pytest.mark.fault(202)
async def test_withdrawn_words_in_a_caption_whose_answer_is_lost_are_deleted(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as call:
        armed = await call.bot.control.fault(
            "rest_error", method="POST", path_prefix=posts(call), status=502, taken=True, times=100
        )
        await call.bot.say("lv_0880", member="Ben")
        await call.until(lambda text: "**Ben**: words" in text)
        await call.bot.slash("/privacy opt-out", member="Ben")
        await call.bot.control.disarm(armed)
        with fault.clock(scaled=False):
            await call.until(lambda text: "**Ben**" not in text and "(withdrawn)" not in text)
