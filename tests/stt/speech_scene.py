"""A server in which somebody speaks and a bot with the scripted engine listens."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from roost.sim import ControlClient, SimProcess


class Scene:
    """Ada, who owns the server, and Ben in a voice channel; a bot that answers every utterance with the same words."""

    def __init__(self, sim: SimProcess, discord: ControlClient, folder: Path) -> None:
        guild = sim.card["guilds"][0]
        self.discord = discord
        self.guild_id = int(guild["id"])
        self.ada, self.ben = (int(each["id"]) for each in guild["members"][:2])
        self.voice = int(guild["voice_channels"][0]["id"])
        self.text = int(guild["text_channels"][0]["id"])
        settings = {
            "discord.rest_url": sim.card["rest_url"],
            "voice.ca_file": sim.card["ca_file"],
            "voice.allowed_hosts": "localhost,127.0.0.1",
            "stt.engine": "scripted",
            "stt.script": "words that stay",
            "log.format": "json",
        }
        self.arguments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        self.arguments += ["--data-dir", str(folder / "data")]
        self.environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
        self.environ["ROOST_TOKEN"] = sim.card["bots"][0]["token"]

    async def ask(self, command: str, member: int, **options: Any) -> dict[str, Any]:
        answer = await self.discord.slash(
            member_id=member, channel_id=self.text, command=command, options=options, wait_s=10.0
        )
        assert answer["replies"], command
        return dict(answer["replies"][-1])

    async def said(self, command: str, member: int, **options: Any) -> str:
        return str((await self.ask(command, member, **options))["content"])

    async def posted(self) -> list[str]:
        return [str(each["content"]) for each in await self.discord.messages(channel_id=self.text)]

    async def speak(self, **params: Any) -> None:
        """Ben says something, with the simulator's parameters for it, and its caption stands."""
        before = sum("words that stay" in text for text in await self.posted())
        await self.discord.speak(member_id=self.ben, recording="lv_0880", params=params)
        for _ in range(100):
            if sum("words that stay" in text for text in await self.posted()) > before:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("no caption came")
