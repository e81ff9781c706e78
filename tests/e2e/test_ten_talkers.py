"""Ten people talk at the same time: from UDP to captions, no word may stand under somebody else's name."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import re
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from stt_rig import manifest, samples_of

from roost.demo.bot_process import run_bot
from roost.sim import ControlClient, spawn
from roost.text import normalise, wer

pytestmark = [pytest.mark.e2e, pytest.mark.long]

ROUNDS = 2
PIECES: tuple[tuple[str, float, float, str], ...] = (
    ("jfk", 0.0, 2.9, "and so my fellow americans"),
    ("jfk", 3.1, 7.9, "ask not what your country can do for you"),
    ("lv_0870", 0.0, 3.44, "and mister john dashwood had then leisure to consider"),
    ("lv_0870", 3.44, 7.1, "how much there might be prudently in his power to do for them"),
    ("lv_0880", 0.0, 2.99, "he was not an ill disposed young man"),
    ("lv_0890", 0.0, 2.3, "unless to be rather cold hearted"),
    ("lv_0890", 2.3, 5.3, "and rather selfish is to be ill disposed"),
    ("lv_0920", 0.0, 2.62, "had he married a more amiable woman"),
    ("lv_0920", 2.62, 6.05, "he might have been made still more respectable than he was"),
    ("lv_0930", 0.0, 3.29, "he might even have been made amiable himself"),
)
"""Recording, from, to (seconds), what is said there: a different sentence for each of the ten."""
LINE = re.compile(r"^\*\*(?P<name>.+?):?\*\*:? (?P<text>.*)$")


def wav_of(name: str, first_s: float, last_s: float) -> str:
    """A piece of a recording as base64."""
    samples = samples_of(name)[int(first_s * 48_000) : int(last_s * 48_000)]
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(samples.tobytes())
    return base64.b64encode(out.getvalue()).decode()


class Scene:
    """Ten members who agreed, and what is written under each of their names."""

    def __init__(self, card: dict[str, Any], discord: ControlClient) -> None:
        guild = card["guilds"][0]
        self.discord = discord
        self.members = {int(each["id"]): str(each["name"]) for each in guild["members"][: len(PIECES)]}
        self.voice, self.text = (int(guild[kind][0]["id"]) for kind in ("voice_channels", "text_channels"))

    async def begin(self) -> None:
        for member in self.members:
            await self.discord.voice(member_id=member, channel_id=self.voice)
        first = next(iter(self.members))
        for command in ("/voice join", "/transcribe start"):
            answer = await self.discord.slash(member_id=first, channel_id=self.text, command=command, wait_s=20.0)
            assert answer["replies"], command
        notice = next(each for each in await self.discord.messages(channel_id=self.text) if each["components"])
        for member in self.members:
            await self.discord.press(member_id=member, message_id=int(notice["id"]), label="Agree")

    async def captions(self) -> dict[str, str]:
        """What stands under each name, of all messages in order."""
        found = dict.fromkeys(self.members.values(), "")
        for message in await self.discord.messages(channel_id=self.text):
            for line in str(message["content"]).splitlines():
                match = LINE.match(line)
                if match and match["name"] in found:
                    found[match["name"]] += f" {match['text']}"
        return found


@contextlib.asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    async with spawn(("--members", str(len(PIECES)))) as sim, ControlClient(sim.card["control_url"]) as discord:
        settings = {
            "discord.rest_url": sim.card["rest_url"],
            "voice.ca_file": sim.card["ca_file"],
            "voice.allowed_hosts": "localhost,127.0.0.1",
            "log.format": "json",
        }
        arguments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
        environ["ROOST_TOKEN"] = sim.card["bots"][0]["token"]
        async with run_bot([*arguments, "--data-dir", str(folder / "data")], environ) as bot:
            await bot.ready()
            made = Scene(sim.card, discord)
            await made.begin()
            yield made
            bot.terminate()
            assert await bot.wait(15) == 0


async def test_no_word_stands_under_a_wrong_name(tmp_path: Path) -> None:
    texts = [text for *_, text in PIECES]
    whole = manifest()
    assert all(normalise(text) in normalise(whole[name]) for name, _, _, text in PIECES)
    wavs = [wav_of(name, first, last) for name, first, last, _ in PIECES]
    async with scene(tmp_path) as made:

        async def say(member: int, wav: str) -> tuple[float, float]:
            said = await made.discord.speak(member_id=member, wav=wav, params={"wait_s": 20})
            return float(said["started_at"]), float(said["ended_at"])

        for _ in range(ROUNDS):
            times = await asyncio.gather(*(say(*each) for each in zip(made.members, wavs, strict=True)))
            # All ten at once, or this would prove nothing.
            assert max(began for began, _ in times) < min(ended for _, ended in times)
        captions: dict[str, str] = {}
        for _ in range(150):
            captions = await made.captions()
            wanted = [len(text.split()) * ROUNDS for text in texts]
            if all(len(heard.split()) >= 0.7 * count for heard, count in zip(captions.values(), wanted, strict=True)):
                break
            await asyncio.sleep(0.1)
    spoken = [" ".join([text] * ROUNDS) for text in texts]
    heard = list(captions.values())
    assert wer(spoken, heard) <= 0.25, captions
    for number, (name, caption) in enumerate(captions.items()):
        errors = [wer(each, caption) for each in spoken]
        assert errors.index(min(errors)) == number, f"{name} is given what {spoken[number]!r} is not: {caption!r}"
        others = {word for place, text in enumerate(texts) if place != number for word in normalise(text).split()}
        foreign = (others - set(normalise(texts[number]).split())) & set(normalise(caption).split())
        assert not foreign, f"{name} said {texts[number]!r} and is given {foreign} too: {caption!r}"
