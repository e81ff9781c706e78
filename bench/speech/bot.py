"""A real bot at a simulated Discord while ten members talk: what it costs the bot's own process, and its memory."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from recordings import shipped

from roost.demo.bot_process import run_bot
from roost.sim import ControlClient, spawn

TALKERS = 10
WARM_S = 20.0
SAMPLE_S = 2.0


class Scene:
    """Ten members in a voice channel who agreed to be transcribed."""

    def __init__(self, card: dict[str, Any], discord: ControlClient) -> None:
        guild = card["guilds"][0]
        self.discord = discord
        self.members = [int(each["id"]) for each in guild["members"]][:TALKERS]
        self.voice = int(guild["voice_channels"][0]["id"])
        self.text = int(guild["text_channels"][0]["id"])

    async def begin(self) -> None:
        for member in self.members:
            await self.discord.voice(member_id=member, channel_id=self.voice)
        for command in ("/voice join", "/transcribe start"):
            await self.discord.slash(
                member_id=self.members[0], channel_id=self.text, command=command, options={}, wait_s=20.0
            )
        notice = next(
            each for each in reversed(await self.discord.messages(channel_id=self.text)) if each["components"]
        )
        for member in self.members:
            await self.discord.press(member_id=member, message_id=int(notice["id"]), label="Agree")

    async def talk(self, member: int, turn: int, until: float) -> None:
        names = [each.name for each in shipped()]
        while time.monotonic() < until:
            await self.discord.speak(
                member_id=member, recording=names[turn % len(names)], params={"wait_s": 20, "direct": True}
            )
            turn += 1
            await asyncio.sleep(1.0)


def arguments(card: dict[str, Any], folder: Path, options: dict[str, Any]) -> list[str]:
    settings = {
        "discord.rest_url": card["rest_url"],
        "voice.ca_file": card["ca_file"],
        "voice.allowed_hosts": "localhost,127.0.0.1",
        "log.format": "json",
        "stt.model": options["model"],
        "stt.device": options["device"],
        "stt.compute_type": options["compute_type"],
        "stt.threads": str(options["threads"]),
        "stt.language": "en",
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return [*words, "--data-dir", str(folder / "data")]


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """MiB per hour, a straight line through the last two thirds."""
    kept = np.array(samples[len(samples) // 3 :])
    return float(np.polyfit(kept[:, 0], kept[:, 1], 1)[0] * 3600)


def memory(samples: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return {
        "mib": [round(each) for _, each in samples[:: max(1, len(samples) // 30)]],
        "first_mib": round(samples[0][1], 1),
        "last_mib": round(samples[-1][1], 1),
        "max_mib": round(max(each for _, each in samples), 1),
        "slope_mib_per_hour": round(slope(samples), 1),
    }


async def measure(options: dict[str, Any], minutes: float) -> dict[str, Any]:
    """CPU of the bot process and of its worker, and how their memory goes, over so many minutes of ten talkers."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        async with (
            spawn(("--members", str(TALKERS))) as sim,
            ControlClient(sim.card["control_url"]) as discord,
        ):
            environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
            environ["ROOST_TOKEN"] = sim.card["bots"][0]["token"]
            async with run_bot(arguments(sim.card, folder, options), environ) as bot:
                await bot.ready(60.0)
                scene = Scene(sim.card, discord)
                await scene.begin()
                until = time.monotonic() + WARM_S + minutes * 60
                talk = [
                    asyncio.ensure_future(scene.talk(member, turn, until)) for turn, member in enumerate(scene.members)
                ]
                await asyncio.sleep(WARM_S)
                (worker,) = [each for each in bot.descendants() if "roost_stt.worker" in psutil.Process(each).cmdline()]
                processes = {"bot": psutil.Process(bot.pid), "worker": psutil.Process(worker)}
                before = {name: sum(each.cpu_times()[:2]) for name, each in processes.items()}
                samples: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
                began = time.monotonic()
                while time.monotonic() < until:
                    for name, process in processes.items():
                        samples[name].append((time.monotonic() - began, process.memory_info().rss / 2**20))
                    await asyncio.sleep(SAMPLE_S)
                seconds = time.monotonic() - began
                core = {name: (sum(p.cpu_times()[:2]) - before[name]) / seconds for name, p in processes.items()}
                await asyncio.gather(*talk)
                captions = sum(
                    len(each["content"].splitlines()) for each in await discord.messages(channel_id=scene.text)
                )
                bot.terminate()
                await bot.wait(20.0)
    return {
        "talkers": TALKERS,
        "minutes": minutes,
        "bot_core": round(core["bot"], 4),
        "worker_core": round(core["worker"], 4),
        "caption_lines": captions,
        "bot": memory(samples["bot"]),
        "worker": memory(samples["worker"]),
    }
