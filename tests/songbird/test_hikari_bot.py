"""The example with hikari, as a process of its own, in the simulated Discord."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import hikari
import pytest

from roost.sim import ControlClient, SimSettings, SimulatedDiscord
from roost.sim.world import VOICE
from roost.testing.driver_conformance import tone

songbird = pytest.importorskip(
    "songbird", reason="the module songbird is not built: make songbird", exc_type=ImportError
)

pytestmark = pytest.mark.e2e

DEADLINE_S = 20.0
EXAMPLE = Path(__file__).parents[2] / "plugins" / "songbird" / "examples" / "hikari_bot.py"
SILENCE = b"\xf8\xff\xfe"


async def test_the_example_is_heard_and_leaves(tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(tone(1.5))
    async with SimulatedDiscord(SimSettings()) as sim:
        part: Any = sim.part
        guild = next(iter(sim.world.guilds.values()))
        channel = guild.of_type(VOICE)[0]
        ada = sim.world.humans[1].id
        bot = sim.world.bots[0]
        await sim.voice.member(guild, ada, channel)
        heard: list[tuple[int, bytes]] = []
        part.listen(guild.id, ada, lambda user, opus: heard.append((user, opus)))
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
        environ |= {"ROOST_TOKEN": bot.token, "REST_URL": sim.rest_url, "CA_FILE": str(part.ca_file)}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(EXAMPLE),
            str(guild.id),
            str(channel.id),
            str(tmp_path / "song.wav"),
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(60):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, err.decode()[-3000:]
        assert [line for line in out.decode().split("\n") if line in ("connected", "played", "left")] == [
            "connected",
            "played",
            "left",
        ]
        sound = [opus for user, opus in heard if user == bot.user.id and opus != SILENCE]
        assert len(sound) > 60
        give_up_at = time.monotonic() + 10
        while bot.user.id in guild.voice_states:
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.02)
        assert sim.state()["max_sessions_per_guild"] == 1


class Scene:
    """A hikari bot that is ready, in this process, and Ada in the first channel."""

    def __init__(self, sim: SimulatedDiscord, bot: hikari.GatewayBot, discord: ControlClient) -> None:
        self.sim = sim
        self.bot = bot
        self.discord = discord
        self.part: Any = sim.part
        self.guild = next(iter(sim.world.guilds.values()))
        self.channels = self.guild.of_type(VOICE)
        self.ada = sim.world.humans[1].id
        self.me = sim.world.bots[0].user.id

    async def until(self, condition: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < give_up_at, f"did not happen: {condition}"
            await asyncio.sleep(0.01)

    def sessions(self) -> list[dict[str, Any]]:
        return [each for each in self.part.state()["voice_sessions"] if each["user_id"] == str(self.me)]

    async def hears_ada(self, box: Any) -> None:
        """In whatever channel both are."""
        await self.until(lambda: bool(self.sessions()) and self.sessions()[0]["dave"]["in_group"])
        await self.until(lambda: self.part.member(self.guild.id, self.ada).ready)
        packets: list[Any] = []
        box.driver.on_packets = packets.extend
        await self.part.speak(self.guild.id, self.ada, wav=tone(0.2), recording=None, params={})
        await self.until(lambda: any(packet.user_id == self.ada and packet.opus != SILENCE for packet in packets))


@contextlib.asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    async with SimulatedDiscord(SimSettings()) as sim, ControlClient(sim.control_url) as discord:
        bot = hikari.GatewayBot(
            sim.world.bots[0].token,
            intents=hikari.Intents.GUILDS | hikari.Intents.GUILD_VOICE_STATES,
            rest_url=sim.rest_url,
            banner=None,
            logs=None,
            suppress_optimization_warning=True,
        )
        await bot.start(check_for_updates=False)
        made = Scene(sim, bot, discord)
        try:
            await sim.voice.member(made.guild, made.ada, made.channels[0])
            yield made
        finally:
            if bot.is_alive:
                await bot.close()


@pytest.fixture
async def at(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with scene() as made:
        monkeypatch.setenv("SSL_CERT_FILE", str(made.part.ca_file))
        yield made


async def join(at: Scene) -> Any:
    from songbird.hikari import Voicebox

    return await Voicebox.connect(at.bot, at.guild.id, at.channels[0].id)


async def test_it_follows_a_region_change(at: Scene) -> None:
    box = await join(at)
    await at.hears_ada(box)
    before = at.sessions()[0]["connection_id"]
    await at.discord.server(guild_id=at.guild.id)
    await at.until(lambda: bool(at.sessions()) and at.sessions()[0]["connection_id"] not in (None, before))
    await at.hears_ada(box)
    await box.disconnect()
    await at.until(lambda: at.me not in at.guild.voice_states)
    assert at.sim.state()["max_sessions_per_guild"] == 1


async def test_it_is_moved(at: Scene) -> None:
    box = await join(at)
    await at.discord.move(member_id=at.me, channel_id=at.channels[1].id)
    await at.until(lambda: box.channel_id == at.channels[1].id and bool(at.sessions()))
    await at.sim.voice.member(at.guild, at.ada, at.channels[1])
    await at.hears_ada(box)
    assert box.is_alive
    await box.disconnect()


async def test_it_is_put_out(at: Scene) -> None:
    box = await join(at)
    await at.discord.kick(member_id=at.me)
    async with asyncio.timeout(DEADLINE_S):
        await box.join()
    assert not box.is_alive
    assert not box.driver.is_open
    await box.disconnect()
    await at.until(lambda: not at.sessions())
    again = await join(at)
    await again.disconnect()


async def test_it_ends_with_the_bot(at: Scene) -> None:
    box = await join(at)
    await at.bot.close()
    assert not box.is_alive
    assert not box.driver.is_open


async def test_a_voice_server_that_refuses(at: Scene) -> None:
    """The bot leaves the channel again."""
    await at.discord.fault("refuse_identify", guild_id=at.guild.id, times=2, code=4006)
    with pytest.raises(songbird.ConnectError) as caught:
        await join(at)
    assert caught.value.code == 4006
    await at.until(lambda: at.me not in at.guild.voice_states)
