"""The example with hikari, as a process of its own, in the simulated Discord."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from roost.sim import SimSettings, SimulatedDiscord
from roost.sim.world import VOICE
from roost.testing.driver_conformance import tone

songbird = pytest.importorskip(
    "songbird", reason="the module songbird is not built: make songbird", exc_type=ImportError
)

pytestmark = pytest.mark.e2e

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
