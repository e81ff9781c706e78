"""The parameters of faults: declared as they are described, and no absurd one stops the simulator's clock."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from bot_scene import Scene, scenes

from roost.sim import ControlError
from roost.sim.faults import CORE_FAULTS, CORE_PARAMS
from roost_voice.sim import faults

DECLARED = {**CORE_PARAMS, **faults.PARAMS}


@pytest.mark.unit
@pytest.mark.parametrize("name", {**CORE_FAULTS, **faults.descriptions()})
def test_a_fault_takes_what_its_description_names(name: str) -> None:
    described = {**CORE_FAULTS, **faults.descriptions()}[name]
    told = re.sub(r"\([^)]*\)", "", described.partition("params: ")[2])
    names = {re.match(r"(?:or )?(\w+)", each.strip())[1] for each in told.split(",") if each.strip()}  # type: ignore[index]
    assert names - {"in"} == set(DECLARED.get(name, {}))


ABSURD: list[Any] = [-1e18, 10**30, "x", [], {}]


async def struck(scene: Scene, name: str, **params: Any) -> None:
    """Arm a fault for the bot and wait until the clock has taken it."""
    await scene.discord.fault(name, guild_id=scene.guild_id, **params)
    async with asyncio.timeout(15):
        while (await scene.discord.faults())["armed"]:
            await asyncio.sleep(0.02)


@pytest.mark.e2e
async def test_no_parameter_stops_the_clock(tmp_path: Path) -> None:
    """Of the faults that strike a bot at once: absurd ones are refused, and the bounds are harmless."""
    async with scenes(tmp_path) as scene, scene.bot():
        assert "Joined" in await scene.join()
        for name in faults.ACTIVE:
            for key, param in faults.PARAMS.get(name, {}).items():
                for value in ABSURD:
                    with pytest.raises(ControlError, match=f"{key} must be"):
                        await scene.discord.fault(name, guild_id=scene.guild_id, **{key: value})
                if param.kind in (int, float) and key != "user_id":
                    await struck(scene, name, **{key: param.kind(param.least)})
                    await struck(scene, name, **{key: param.kind(param.most)})
        await struck(scene, "udp_loss", percent=0)
        assert not [line for line in scene.sim.said if "failed" in line]
