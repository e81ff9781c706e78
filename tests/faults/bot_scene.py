"""Real bot processes at a simulated Discord in a process of its own, for faults of whole processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from fault_report import DRIVER

from roost.demo.bot_process import BotProcess, run_bot
from roost.sim import ControlClient, SimProcess, spawn

QUIET = {"plugins.deny": "stt", "plugins.required": "voice"}
"""Without speech-to-text: a bot that starts in a second and has no child."""


class Scene:
    """The simulator, and Ada, who is in a voice channel of the first server."""

    def __init__(self, sim: SimProcess, discord: ControlClient, folder: Path) -> None:
        self.sim = sim
        self.discord = discord
        self.folder = folder
        guild = sim.card["guilds"][0]
        self.guild_id = int(guild["id"])
        self.ada = int(guild["members"][1]["id"])
        self.voice = [int(each["id"]) for each in guild["voice_channels"]]
        self.text = int(guild["text_channels"][0]["id"])
        self.bot_id = str(sim.card["bots"][0]["user_id"])

    @contextlib.asynccontextmanager
    async def bot(
        self, *arguments: str, data: str = "data", ready_s: float = 20.0, told: bool = True, **settings: str
    ) -> AsyncIterator[BotProcess]:
        """A bot that is ready within `ready_s`; `settings` with ``__`` for the dot.

        Args:
            told: Wait until Discord was told its commands too.
        """
        given = {
            "discord.rest_url": self.sim.card["rest_url"],
            "voice.ca_file": self.sim.card["ca_file"],
            "voice.allowed_hosts": "localhost,127.0.0.1",
            "voice.driver": DRIVER,
            "log.format": "json",
            **QUIET,
            **{key.replace("__", "."): value for key, value in settings.items()},
        }
        words = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
        environ["ROOST_TOKEN"] = self.sim.card["bots"][0]["token"]
        async with run_bot([*words, "--data-dir", str(self.folder / data), *arguments], environ) as bot:
            await bot.ready(ready_s, told=told)
            yield bot

    async def join(self, channel: int = 0, wait_s: float = 10.0) -> str:
        """``/voice join`` by Ada; the reply."""
        answer = await self.discord.slash(
            member_id=self.ada,
            channel_id=self.text,
            command="/voice join",
            options={"channel": str(self.voice[channel])},
            wait_s=wait_s,
        )
        return str(answer["replies"][-1]["content"]) if answer["replies"] else ""

    async def place(self) -> int | None:
        """Where Discord shows the bot."""
        states = (await self.discord.state())["voice_states"]
        return next((int(each["channel_id"]) for each in states if str(each["user_id"]) == self.bot_id), None)

    async def gone(self, within_s: float = 15.0) -> None:
        """Wait until Discord shows the bot nowhere."""
        async with asyncio.timeout(within_s):
            while await self.place() is not None:
                await asyncio.sleep(0.01)

    async def log(self, *kinds: str) -> list[dict[str, Any]]:
        """What the simulator noted of this bot."""
        entries = await self.discord.log()
        return [
            each for each in entries if each["kind"] in kinds and str(each.get("bot_id", self.bot_id)) == self.bot_id
        ]

    async def leaves_before_the_gateway(self) -> bool:
        """Whether the last op 4 (null) came before the bot closed its gateway connection."""
        leaves = [each["t"] for each in await self.log("op4") if each["channel_id"] is None]
        closes = [each["t"] for each in await self.log("gateway_close")]
        return bool(leaves) and leaves[-1] < closes[-1]

    def journals(self, data: str = "data") -> list[Path]:
        return list((self.folder / data / "instances").glob("*.json*"))


@contextlib.asynccontextmanager
async def scenes(folder: Path, *arguments: str) -> AsyncIterator[Scene]:
    """A scene; `arguments` are of ``roost sim``."""
    async with spawn(arguments) as sim, ControlClient(sim.card["control_url"]) as discord:
        scene = Scene(sim, discord, folder)
        await discord.voice(member_id=scene.ada, channel_id=scene.voice[0])
        yield scene


def steps(bot: BotProcess) -> Sequence[str]:
    """The stop log of a bot that has ended."""
    return tuple(each["step"] for each in bot.events if each.get("logger") == "roost.stop")


async def until(check: Callable[[], bool], within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not check():
            await asyncio.sleep(0.005)
