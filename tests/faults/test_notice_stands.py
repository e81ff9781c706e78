"""Everybody heard was shown the notice, where they are: rows 205 to 214, 230, 231, 291 and 300, whole bots."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fault_report import Fault

from roost.audio import AudioFrame, VoiceSession
from roost.hooks import Meta, hookimpl
from roost.speech import Transcript
from roost.testing import RoostBot, running_bot
from roost_voice import session as session_module

pytestmark = pytest.mark.e2e

REMOTE = {
    "stt.engine": "openai",
    "stt.remote.url": "https://speech.example.com/v1",
}
LATE_S = 2.0
QUIET_S = 2.0
"""Longer than a caption takes here, from the first word on."""


class Call:
    """Ada and a bot in the voice channel perch; captions go to the text channel general."""

    def __init__(self, bot: RoostBot) -> None:
        self.bot = bot

    async def start(self, **options: Any) -> str:
        return (await self.bot.slash("/transcribe start", wait_s=20, **options)).content

    async def notices(self, channel: str = "perch") -> list[dict[str, Any]]:
        """Messages with buttons that everybody in a channel sees, oldest first."""
        found = await self.bot.control.messages(channel_id=self.bot.channel(channel).id)
        return [dict(each) for each in found if each["components"]]

    async def notice(self, count: int, channel: str = "perch") -> dict[str, Any]:
        """The notice of this number, once it stands."""
        async with asyncio.timeout(10):
            while len(found := await self.notices(channel)) < count:
                await asyncio.sleep(0.01)
        return found[count - 1]

    async def agree(self, member: str, notice: dict[str, Any]) -> None:
        assert "You agreed" in (await self.bot.press(int(notice["id"]), "Agree", member=member)).content

    async def heard(self) -> set[str]:
        """Names of the members who would be heard now, by ``/voice status``."""
        line = (await self.bot.slash("/voice status", channel="captions")).content.rsplit("Heard: ", 1)[-1]
        return {name for name in ("Ada", "Ben", "Cleo") if f"<@{self.bot.member(name)}>" in line}

    async def heard_is(self, *names: str, within_s: float = 5.0) -> None:
        async with asyncio.timeout(within_s):
            while await self.heard() != set(names):
                await asyncio.sleep(0.05)

    async def captioned(self, member: str) -> bool:
        """Whether anything that a member said stands in general."""
        return any(f"**{member}**" in each for each in await self.bot.messages())

    async def until_captioned(self, member: str) -> None:
        async with asyncio.timeout(20):
            while not await self.captioned(member):
                await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def speaking(self, *members: str) -> AsyncIterator[None]:
        """Members who speak all the time."""
        control, ids = self.bot.control, [self.bot.member(each) for each in members]
        said = [
            asyncio.create_task(control.speak(member_id=each, recording="lv_0880", params={"repeat": 20}))
            for each in ids
        ]
        try:
            yield
        finally:
            for each in said:
                each.cancel()
            await asyncio.gather(*said, return_exceptions=True)


@contextlib.asynccontextmanager
async def a_call(folder: Path, *plugins: object, mode: str = "notice", **settings: Any) -> AsyncIterator[Call]:
    given = {"stt.engine": "scripted", "stt.script": "words", "consent.mode": mode, **settings}
    async with running_bot(*plugins, data_dir=folder, installed=("voice", "stt"), settings=given, guilds=1) as bot:
        await bot.join_voice("Ada")
        assert "Joined" in (await bot.slash("/voice join", wait_s=15)).content
        yield Call(bot)


@pytest.mark.fault(205)
async def test_notice_stands_where_people_are_and_where_the_text_goes(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path, **{"stt.retention_days": "30"}) as call:
        with fault.clock(scaled=False):
            assert "Transcribing" in await call.start()
            here, there = await call.notice(1), await call.notice(1, "general")
        assert here["content"] == there["content"]
        general = f"<#{call.bot.channel('general').id}>"
        for fact in (f"captions in {general}", "stored until 30 days", f"can read {general}", "stays on the bot's"):
            assert fact in here["content"]


@pytest.mark.fault(206)
@pytest.mark.parametrize("way", ["late", "pause", "stop"])
async def test_newcomer_is_not_heard_before_a_notice(
    way: str, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ben comes late, in a pause, or between a stop and a start, when Discord takes no message in perch."""
    monkeypatch.setattr(session_module, "LATE_NOTICE_S", LATE_S)
    async with a_call(tmp_path) as call:
        bot = call.bot
        await call.start()
        if way != "late":
            await bot.slash("/transcribe pause" if way == "pause" else "/transcribe stop", wait_s=20)
        path = f"/channels/{bot.channel('perch').id}/messages"
        armed = await bot.control.fault("rest_error", method="POST", path_prefix=path, status=403, times=999)
        await bot.join_voice("Ben")
        again = {"pause": "/transcribe resume", "stop": "/transcribe start"}.get(way)
        async with call.speaking("Ben"):
            if again is not None:
                assert "could not post the notice" in (await bot.slash(again, wait_s=20)).content
            await asyncio.sleep(QUIET_S)
            assert not await call.captioned("Ben")
            assert await call.heard() == ({"Ada"} if way == "late" else set())
            await bot.control.disarm(armed)
            if again is not None:
                assert "The notice stands now" in (await bot.slash("/transcribe start", wait_s=20)).content
            with fault.clock(scaled=False):
                await call.heard_is("Ada", "Ben", within_s=30)
            await call.until_captioned("Ben")


class Ears:
    """A plugin that gets frames."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, float]] = []
        """Speaker and time."""

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("ears")

    @hookimpl
    def voice_audio_frame(self, frame: AudioFrame) -> None:
        self.frames.append((frame.user_id, time.monotonic()))

    def first(self, user_id: int, since: float = 0.0) -> float:
        return next(at for user, at in self.frames if user == user_id and at > since)


@pytest.mark.fault(207)
async def test_second_latecomer_is_heard_after_the_second_notice(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "LATE_NOTICE_S", LATE_S)
    ears = Ears()
    async with a_call(tmp_path, ears) as call:
        await call.notice(1)
        ben, cleo = call.bot.member("Ben"), call.bot.member("Cleo")
        async with call.speaking("Ada"):
            await call.bot.join_voice("Ben")
            second = await call.notice(2)
            with fault.clock(scaled=False):
                await call.bot.join_voice("Cleo")
                async with call.speaking("Ben", "Cleo"):
                    third = await call.notice(3)
                    async with asyncio.timeout(5):
                        while not {ben, cleo} <= {user for user, _at in ears.frames}:
                            await asyncio.sleep(0.01)
        assert third["at"] - second["at"] >= LATE_S - 0.5
        assert ears.first(ben) > second["at"]
        assert ears.first(cleo) > third["at"]
        assert len(await call.notices()) == 3


@pytest.mark.fault(208)
@pytest.mark.fault(214)
@pytest.mark.parametrize("mode", ["notice", "opt-in"])
async def test_member_who_cannot_see_the_captions_is_asked_on_the_notice(
    mode: str, tmp_path: Path, fault: Fault
) -> None:
    async with a_call(tmp_path, mode=mode) as call:
        bot, general = call.bot, call.bot.channel("general").id
        if mode == "opt-in":
            for member in ("Ada", "Ben"):
                await bot.slash("/privacy opt-in", member=member)
        await bot.join_voice("Ben")
        await bot.control.permissions(member_id=bot.member("Ben"), channel_id=general, deny=["VIEW_CHANNEL"])
        await call.start()
        notice = await call.notice(1)
        assert f"If you cannot see <#{general}>" in notice["content"]
        async with call.speaking("Ben"):
            await asyncio.sleep(QUIET_S)
            assert await call.heard() == {"Ada"}
            assert not await call.captioned("Ben")
            with fault.clock(scaled=False):
                await call.agree("Ben", notice)
                await call.heard_is("Ada", "Ben")
            await call.until_captioned("Ben")
        with fault.clock(scaled=False):
            await bot.control.permissions(member_id=bot.member("Ada"), channel_id=general, deny=["VIEW_CHANNEL"])
            await call.heard_is("Ben")


@pytest.mark.fault(209)
async def test_longer_keeping_in_mid_call_asks_anew(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path, mode="opt-in") as call:
        bot = call.bot
        for member in ("Ada", "Ben"):
            await bot.slash("/privacy opt-in", member=member)
        await bot.join_voice("Ben")
        await call.start()
        assert "until 7 days" in (await call.notice(1))["content"]
        await bot.say("lv_0880")
        await call.until_captioned("Ada")
        with fault.clock(scaled=False):
            await bot.slash("/config set", member="Mod", plugin="stt", key="retention_days", value="30")
            notice = await call.notice(2)
        assert "until 30 days" in notice["content"]
        assert await call.heard() == set(), "both agreed to seven days"
        await call.agree("Ben", notice)
        await call.heard_is("Ben")
        await bot.say("lv_0880", member="Ben")
        await call.until_captioned("Ben")
        listed = (await bot.slash("/transcript list")).content
        assert listed.count("1 line,") == 2, "what was said under another promise is another transcript"


@pytest.mark.fault(300)
async def test_longer_keeping_taken_back_in_a_pause_does_not_count_later(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as call:
        bot = call.bot

        async def keep(days: str) -> None:
            await bot.slash("/config set", member="Mod", plugin="stt", key="retention_days", value=days)

        await call.start()
        await bot.slash("/transcribe pause")
        await keep("30")
        await keep("7")
        await bot.slash("/transcribe resume", wait_s=15)
        assert "until 7 days" in (await call.notice(2))["content"]
        await bot.say("lv_0880")
        await call.until_captioned("Ada")
        with fault.clock(scaled=False):
            await keep("30")
            assert "until 30 days" in (await call.notice(3))["content"]
        await bot.say("lv_0880")
        async with asyncio.timeout(10):
            while (await bot.slash("/transcript list")).content.count("1 line,") != 2:
                await asyncio.sleep(0.05)


class Thinker:
    """A plugin that takes its time over what was said."""

    def __init__(self) -> None:
        self.thinks, self.is_done = asyncio.Event(), asyncio.Event()

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("thinker")

    @hookimpl
    async def transcript_process(self, session: VoiceSession, draft: Transcript) -> None:
        self.thinks.set()
        await self.is_done.wait()


@pytest.mark.fault(291)
async def test_words_of_which_no_captions_were_to_be_posted_are_not_posted(tmp_path: Path, fault: Fault) -> None:
    thinker = Thinker()
    async with a_call(tmp_path, thinker, **{"stt.captions.where": "none"}) as call:
        bot = call.bot
        await call.start()
        assert "no captions are posted" in (await call.notice(1))["content"]
        await bot.say("lv_0880")
        async with asyncio.timeout(10):
            await thinker.thinks.wait()
        with fault.clock(scaled=False):
            await bot.slash("/config set", member="Mod", plugin="stt", key="captions.where", value="channel")
            thinker.is_done.set()
            assert "becomes captions" in (await call.notice(2))["content"]
        await bot.slash("/transcribe stop", wait_s=20)
        assert not await call.captioned("Ada")
        assert "1 line," in (await bot.slash("/transcript list")).content


@pytest.mark.fault(210)
async def test_agreement_covers_no_service_that_it_did_not_name(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path, mode="opt-in", **REMOTE) as call:
        await call.bot.slash("/privacy opt-in")
        await call.start()
        notice = await call.notice(1)
        assert "sent to the service `speech.example.com`" in notice["content"]
        assert await call.heard() == set()
        with fault.clock(scaled=False):
            await call.agree("Ada", notice)
            await call.heard_is("Ada")
    async with a_call(tmp_path, mode="opt-in", **REMOTE) as call:
        await call.start()
        assert await call.heard() == {"Ada"}, "an agreement lasts"
        # Who agrees to less afterwards has not taken that back.
        await call.bot.slash("/privacy opt-in")
        assert await call.heard() == {"Ada"}


@pytest.mark.fault(211)
async def test_no_place_for_the_notice_where_people_are(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as call:
        bot, perch = call.bot, call.bot.channel("perch").id
        me = bot.discord.world.bots[0].user.id
        await bot.control.permissions(member_id=me, channel_id=perch, deny=["SEND_MESSAGES"])
        with fault.clock(scaled=False):
            said = await call.start()
        assert f"I cannot write in <#{perch}>. Give me Send Messages there." in said
        assert await call.notices("general") == []


@pytest.mark.fault(212)
async def test_plugin_that_begins_to_listen_is_told_of_first(tmp_path: Path, fault: Fault) -> None:
    ears = Ears()
    async with a_call(tmp_path, ears) as call:
        bot = call.bot
        await call.notice(1)
        await bot.slash("/plugins disable", member="Mod", plugin="ears")
        await call.start()
        assert "ears" not in (await call.notice(2))["content"]
        async with call.speaking("Ada"):
            await call.until_captioned("Ada")
            assert ears.frames == []
            with fault.clock(scaled=False):
                asked = time.monotonic()
                await bot.slash("/plugins enable", member="Mod", plugin="ears")
                notice = await call.notice(3)
            assert "The plugin `ears` receives your voice" in notice["content"]
            assert "becomes captions" in notice["content"]
            async with asyncio.timeout(5):
                while not ears.frames:
                    await asyncio.sleep(0.01)
        assert ears.first(bot.member("Ada")) > notice["at"] > asked


@pytest.mark.fault(213)
async def test_notice_of_a_test_is_none_for_captions(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as call:
        assert "I listened in" in (await call.bot.slash("/voice test", seconds=2, wait_s=20)).content
        test = await call.notice(1)
        assert "measure how loud" in test["content"]
        assert await call.notices("general") == []
        with fault.clock(scaled=False):
            await call.start()
            assert "becomes captions" in (await call.notice(2))["content"]
        # What measures only is covered by it.
        await call.bot.slash("/voice test", seconds=2, wait_s=20)
        assert len(await call.notices()) == 2


@pytest.mark.fault(230)
async def test_where_others_read_along_a_notice_alone_is_not_enough(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as call:
        bot = call.bot
        room = bot.channel("perch").id
        await bot.control.permissions(member_id=bot.member("Cleo"), channel_id=room, deny=["CONNECT"])
        with fault.clock(scaled=False):
            assert "heard only after they press **Agree**" in await call.start(member="Mod")
            assert await call.heard() == set()
            await call.agree("Ada", await call.notice(1))
            await call.heard_is("Ada")


@pytest.mark.fault(231)
async def test_words_that_wait_do_not_go_where_their_speaker_cannot_see_them(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path, **{"stt.script": "words number {count}"}) as call:
        bot = call.bot
        hidden = bot.channel("captions").id
        await bot.control.permissions(member_id=bot.member("Ada"), channel_id=hidden, deny=["VIEW_CHANNEL"])
        await bot.join_voice("Ben")
        await call.start()
        me = bot.discord.world.bots[0].user.id
        await bot.control.permissions(member_id=me, channel_id=bot.channel("general").id, deny=["SEND_MESSAGES"])
        for member in ("Ada", "Ben"):
            await bot.say("lv_0880", member=member)
        async with asyncio.timeout(20):
            while "2 lines" not in (await bot.slash("/transcript list")).content:
                await asyncio.sleep(0.1)
        with fault.clock(scaled=False):
            assert "Transcribing" in await call.start(member="Mod", options={"channel": str(hidden)})
            async with asyncio.timeout(10):
                while "**Ben**" not in (said := "\n".join(await bot.messages("captions"))):
                    await asyncio.sleep(0.05)
        assert "**Ada**" not in said
        assert "1 caption is missing" in said
