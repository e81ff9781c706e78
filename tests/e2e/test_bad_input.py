"""Whatever is wrong is one line that says what to do, an exit status, and nothing left running."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from roost.sim import SimProcess, spawn

pytestmark = pytest.mark.e2e

STRANGER = "MTIzNDU2Nzg5MDEyMzQ1Njc4.AAAAAA.a-token-that-nobody-gave-out"


@pytest.fixture(name="sim")
async def simulated() -> AsyncIterator[SimProcess]:
    async with spawn() as process:
        yield process


async def roost(*arguments: str, **environ: str) -> tuple[int, str]:
    """Run the command to its end; gives its status and what it said on standard error."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")} | environ
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "roost", *arguments, env=env, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        _, err = await asyncio.wait_for(process.communicate(), 40)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, err.decode()


def complaint(err: str) -> str:
    """The one line that is meant for people; there may be log lines before it, never a traceback."""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("roost: ")]
    assert len(lines) == 1, err
    return lines[0]


def pointed_at(sim: SimProcess, tmp_path: Path) -> list[str]:
    return ["--data-dir", str(tmp_path / "data"), "--set", f"discord.rest_url={sim.card['rest_url']}"]


async def test_no_token(tmp_path: Path) -> None:
    status, err = await roost("run", "--data-dir", str(tmp_path))
    assert status == 2
    assert "set ROOST_TOKEN" in complaint(err)


async def test_malformed_token(tmp_path: Path) -> None:
    status, err = await roost("run", "--data-dir", str(tmp_path), ROOST_TOKEN="hunter2")
    assert status == 2
    assert "not a bot token" in complaint(err)
    assert "hunter2" not in err


async def test_refused_token(sim: SimProcess, tmp_path: Path) -> None:
    status, err = await roost("run", *pointed_at(sim, tmp_path), ROOST_TOKEN=STRANGER)
    assert status == 2
    assert "Discord refused the token" in complaint(err)
    assert STRANGER not in err
    assert not list((tmp_path / "data" / "instances").glob("*.lock"))


async def test_privileged_intent_that_is_not_enabled(sim: SimProcess, tmp_path: Path) -> None:
    arguments = [*pointed_at(sim, tmp_path), "--set", "discord.intents=GUILDS,GUILD_VOICE_STATES,GUILD_MEMBERS"]
    status, err = await roost("run", *arguments, ROOST_TOKEN=sim.card["bots"][0]["token"])
    assert status == 2
    assert "privileged intent" in complaint(err)


async def test_missing_voice_intent(sim: SimProcess, tmp_path: Path) -> None:
    arguments = [*pointed_at(sim, tmp_path), "--set", "discord.intents=GUILDS"]
    status, err = await roost("run", *arguments, ROOST_TOKEN=sim.card["bots"][0]["token"])
    assert status == 2
    assert "GUILD_VOICE_STATES" in complaint(err)


async def test_unknown_intent(sim: SimProcess, tmp_path: Path) -> None:
    arguments = [*pointed_at(sim, tmp_path), "--set", "discord.intents=GUILDZ"]
    status, err = await roost("run", *arguments, ROOST_TOKEN=sim.card["bots"][0]["token"])
    assert status == 2
    assert "GUILDZ is not one of Discord's intents" in complaint(err)


@pytest.mark.parametrize("setting", ["voice.driver=nativ", "stt.engine=wisper", "stt.model=large-v9"])
async def test_mistyped_driver_engine_or_model(setting: str, sim: SimProcess, tmp_path: Path) -> None:
    arguments = [*pointed_at(sim, tmp_path), "--set", setting]
    status, err = await roost("run", *arguments, ROOST_TOKEN=sim.card["bots"][0]["token"])
    assert status == 2
    assert setting.partition("=")[2] in complaint(err)


async def test_absent_model(sim: SimProcess, tmp_path: Path) -> None:
    arguments = [*pointed_at(sim, tmp_path), "--set", f"stt.model_path={tmp_path / 'nowhere'}"]
    status, err = await roost("run", *arguments, ROOST_TOKEN=sim.card["bots"][0]["token"])
    assert status == 2
    assert "nowhere" in complaint(err)


async def test_unreadable_config(tmp_path: Path) -> None:
    file = tmp_path / "roost.toml"
    file.write_text("x = = 1")
    status, err = await roost("run", "--config", str(file), "--data-dir", str(tmp_path), ROOST_TOKEN=STRANGER)
    assert status == 2
    assert str(file) in complaint(err)


async def test_discord_cannot_be_reached(tmp_path: Path) -> None:
    arguments = ["--data-dir", str(tmp_path), "--set", "discord.rest_url=http://127.0.0.1:9/api/v10"]
    status, err = await roost("run", *arguments, "--set", "start.wait_s=0", ROOST_TOKEN=STRANGER)
    assert status == 3
    assert "Discord" in complaint(err)


async def test_busy_port(sim: SimProcess) -> None:
    port = sim.card["rest_url"].split(":")[2].split("/")[0]
    status, err = await roost("sim", "--port", port)
    assert status == 2
    assert f"port {port} cannot be used" in complaint(err)
