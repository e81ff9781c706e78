"""Who reads along with a call: rows 215 to 219, whole bots at the simulated Discord."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from fault_report import Fault

from roost.testing import RoostBot, running_bot

pytestmark = pytest.mark.e2e

EVERYBODY = "GUILDS,GUILD_VOICE_STATES,GUILD_MEMBERS"
REFUSED = "only those who manage the server"


class Call:
    """Ada and Ben in the room "perch". Mod owns the server; Cleo is somebody else."""

    def __init__(self, bot: RoostBot) -> None:
        self.bot = bot
        self.control = bot.control
        self.room = bot.channel("perch").id
        self.text = bot.channel("general").id
        self.everyone = bot.guild.id
        self.cleo = bot.member("Cleo")

    async def start(self, **how: str) -> str:
        return (await self.bot.slash("/transcribe start", **how)).content

    async def role(self, name: str, *, booster: bool = False) -> int:
        return int((await self.control.role(name=name, booster=booster))["id"])

    async def wear(self, role: int, member: int) -> None:
        await self.control.role(role_id=str(role), member_id=str(member))

    async def agree(self, member: str) -> None:
        """Agree to the last notice in the room: it asks for more than before."""
        found = [each for each in await self.control.messages(channel_id=self.room) if each["components"]]
        assert "You agreed" in (await self.bot.press(int(found[-1]["id"]), "Agree", member=member)).content

    async def texts(self) -> str:
        return "\n".join(await self.bot.messages("general"))

    async def until(self, check: Callable[[str], bool], timeout_s: float = 20.0) -> str:
        async with asyncio.timeout(timeout_s):
            while not check(text := await self.texts()):
                await asyncio.sleep(0.02)
        return text

    async def say(self) -> None:
        await self.bot.say("lv_0880", member="Ben")

    async def stored(self, count: int) -> None:
        """Wait until so many lines are in the transcript: they have become text."""
        async with asyncio.timeout(20.0):
            lines = f" {count} line{'s' if count > 1 else ''},"
            while lines not in (await self.bot.slash("/transcript list")).content:
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def a_call(folder: Path, intents: str = "GUILDS,GUILD_VOICE_STATES") -> AsyncIterator[Call]:
    settings = {"stt.engine": "scripted", "stt.script": "words number {count}", "discord.intents": intents}
    async with running_bot(data_dir=folder, installed=("voice", "stt"), settings=settings, guilds=1) as bot:
        for member in ("Ada", "Ben"):
            await bot.slash("/privacy opt-in", member=member)
            await bot.join_voice(member)
        await bot.slash("/voice join")
        yield Call(bot)


@pytest.mark.fault(215)
async def test_captions_pause_when_a_role_may_not_connect_and_go_on_when_it_is_gone(
    tmp_path: Path, fault: Fault
) -> None:
    async with a_call(tmp_path) as call:
        role = await call.role("guests")
        assert "Transcribing" in await call.start()
        await call.say()
        await call.until(lambda text: "words number 1" in text)
        with fault.clock(scaled=False):
            await call.control.permissions(role_id=role, channel_id=call.room, deny=["CONNECT"])
            await call.until(lambda text: "Captions pause" in text)
        await call.say()
        await call.stored(2)
        assert "words number 2" not in await call.texts()
        assert "Captions pause" in (await call.bot.slash("/transcribe status")).content
        # Nobody of the room can have it shown there; who manages the server can.
        assert REFUSED in await call.start()
        with fault.clock(scaled=False):
            await call.control.role(role_id=str(role), delete=True)
            await call.until(lambda text: "words number 2" in text and "Captions go on" in text)

        barred = await call.role("barred")
        await call.control.permissions(role_id=barred, channel_id=call.room, deny=["VIEW_CHANNEL"])
        await call.say()
        await call.stored(3)
        assert "can be read by people who cannot be in" in await call.start(member="Mod")
        await call.agree("Ben")
        await call.say()
        assert "words number 3" not in await call.until(lambda text: "words number 4" in text)


@pytest.mark.fault(216)
async def test_roles_together_are_refused_where_members_are_unknown(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as call:
        readers, barred = await call.role("readers"), await call.role("barred")
        await call.control.permissions(role_id=call.everyone, channel_id=call.text, deny=["VIEW_CHANNEL"])
        await call.control.permissions(role_id=readers, channel_id=call.text, allow=["VIEW_CHANNEL"])
        await call.control.permissions(member_id=call.bot.member("Roost"), channel_id=call.text, allow=["VIEW_CHANNEL"])
        await call.wear(readers, call.bot.member("Ada"))
        await call.control.permissions(role_id=barred, channel_id=call.room, deny=["CONNECT"])
        with fault.clock(scaled=False):
            reply = await call.bot.slash("/transcribe start")
        assert REFUSED in reply.content
        assert reply.ephemeral
        await call.control.role(role_id=str(barred), delete=True)
        boosters = await call.role("boosters", booster=True)
        await call.control.permissions(role_id=boosters, channel_id=call.room, deny=["VIEW_CHANNEL"])
        assert REFUSED in await call.start()
        await call.control.permissions(role_id=boosters, channel_id=call.text, deny=["VIEW_CHANNEL"])
        assert REFUSED in await call.start(), "what the role of readers allows, that of boosters cannot deny"
        await call.control.role(role_id=str(boosters), delete=True)
        assert "Transcribing" in await call.start()


@pytest.mark.fault(217)
@pytest.mark.parametrize("intents", ["GUILDS,GUILD_VOICE_STATES", EVERYBODY], ids=["unknown", "known"])
async def test_a_private_thread_takes_the_list_of_members(tmp_path: Path, fault: Fault, intents: str) -> None:
    async with a_call(tmp_path, intents) as call:
        thread = await call.control.private_thread("aside", channel_id=call.text)
        with fault.clock(scaled=False):
            reply = await call.bot.slash("/transcribe start", channel=thread)
        assert (REFUSED in reply.content) is (intents != EVERYBODY)
        assert ("Transcribing" in reply.content) is (intents == EVERYBODY)
        if intents == EVERYBODY:
            await call.agree("Ben")
            await call.say()
            async with asyncio.timeout(20.0):
                while not any("words number 1" in text for text in await call.bot.messages(thread)):
                    await asyncio.sleep(0.05)


@pytest.mark.fault(218)
async def test_somebody_outside_learns_nothing_of_the_room(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as call:
        assert "Transcribing" in await call.start()
        await call.say()
        await call.until(lambda text: "words number 1" in text)
        name = (await call.bot.slash("/transcript list")).content.split("`")[1]
        assert str(call.bot.member("Ben")) in (await call.bot.slash("/voice status", member="Cleo")).content
        await call.control.permissions(member_id=call.cleo, channel_id=call.room, deny=["CONNECT"])
        commands: dict[str, dict[str, str]] = {
            "/voice status": {},
            "/transcribe status": {},
            "/transcript list": {},
            "/transcript show": {"transcript": name},
            "/transcript export": {"transcript": name},
            "/transcript delete": {"transcript": name},
        }
        for command, options in commands.items():
            with fault.clock(scaled=False):
                reply = await call.bot.slash(command, member="Cleo", options=options)
            assert reply.ephemeral
            assert not reply.files
            for word in ("Ben", str(call.bot.member("Ben")), str(call.room), "words"):
                assert word not in reply.content, (command, reply.content)
        choices = await call.control.autocomplete(
            member_id=call.cleo,
            channel_id=call.text,
            command="/transcript show",
            options={"transcript": ""},
            focused="transcript",
        )
        assert choices == []
        # A member whom a moderator moved in is in the room.
        await call.control.move(member_id=call.bot.member("Ada"), channel_id=call.room)
        assert name in (await call.bot.slash("/transcript list")).content


@pytest.mark.fault(219)
async def test_a_timeout_pauses_captions_until_it_ends(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path, EVERYBODY) as call:
        # Nobody wears the role, and the list is whole, also after somebody has left.
        role = await call.role("guests")
        await call.control.permissions(role_id=role, channel_id=call.room, deny=["CONNECT"])
        leaver = await call.control.add_member("Dan")
        await call.control.remove_member(leaver)
        assert "Transcribing" in await call.start()
        with fault.clock(scaled=False):
            await call.control.time_out(call.cleo, 3600)
            await call.until(lambda text: "Captions pause" in text)
        await call.say()
        await call.stored(1)
        assert "words number 1" not in await call.texts()
        with fault.clock(scaled=False):
            await call.control.time_out(call.cleo, 0)
            await call.until(lambda text: "words number 1" in text)
        await call.until(lambda text: "Captions go on" in text)
        with fault.clock(scaled=False):
            await call.wear(role, call.cleo)
            async with asyncio.timeout(20.0):
                while "Captions pause" not in (await call.bot.slash("/transcribe status")).content:
                    await asyncio.sleep(0.02)


async def test_words_held_back_are_not_shown_after_members_move_the_bot(tmp_path: Path) -> None:
    async with a_call(tmp_path) as call:
        role = await call.role("guests")
        assert "Transcribing" in await call.start()
        await call.control.permissions(role_id=role, channel_id=call.room, deny=["CONNECT"])
        await call.until(lambda text: "Captions pause" in text)
        await call.say()
        await call.stored(1)
        loft = call.bot.channel("loft").id
        for member in ("Ada", "Ben"):
            await call.bot.join_voice(member, "loft")
        assert "Moved to" in (await call.bot.slash("/voice join")).content
        await call.until(lambda text: f"may join <#{loft}>" in text)
        await call.say()
        assert "words number 1" not in await call.until(lambda text: "words number 2" in text)
