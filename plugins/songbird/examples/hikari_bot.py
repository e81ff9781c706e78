"""A hikari bot that joins a voice channel, plays a file, pauses, goes on, and leaves.

    ROOST_TOKEN=... python hikari_bot.py GUILD_ID CHANNEL_ID song.ogg

Against the simulated Discord (``roost sim``), REST_URL and CA_FILE are those of the line it prints.
"""

from __future__ import annotations

import asyncio
import os
import sys

import hikari
from songbird.hikari import Voicebox

import songbird


async def perform(bot: hikari.GatewayBot, guild_id: int, channel_id: int, song: str) -> None:
    voice = await Voicebox.connect(bot, guild_id, channel_id)
    print("connected", flush=True)
    ended = asyncio.Event()
    try:
        track = await voice.play_source(songbird.Source.file(song))
        track.add_event(songbird.Event.End, lambda _: ended.set())
        await asyncio.sleep(0.5)
        track.pause()
        await asyncio.sleep(0.2)
        track.play()
        async with asyncio.timeout(600):
            await ended.wait()
        print("played", flush=True)
    finally:
        await voice.disconnect()
    print("left", flush=True)


async def main(guild_id: int, channel_id: int, song: str) -> None:
    ca_file, rest_url = os.environ.get("CA_FILE"), os.environ.get("REST_URL")
    if ca_file:
        songbird.trust(ca_file)
    bot = hikari.GatewayBot(
        os.environ["ROOST_TOKEN"],
        intents=hikari.Intents.GUILDS | hikari.Intents.GUILD_VOICE_STATES,
        rest_url=rest_url,
        banner=None,
        suppress_optimization_warning=True,
    )
    await bot.start(check_for_updates=False)
    try:
        await perform(bot, guild_id, channel_id, song)
    finally:
        await bot.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
