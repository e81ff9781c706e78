"""Rows 110 and 111 with a whole bot: bad and long packets of a member, and the captions that come all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_report import Fault
from speech_scene import Scene

from roost.demo.bot_process import descendants_of, run_bot
from roost.sim import ControlClient, spawn

pytestmark = pytest.mark.e2e

CAPTION_S = 12.0
"""A recording of three seconds, said and captioned on a busy machine."""


@pytest.mark.fault(110)
@pytest.mark.fault(111)
async def test_captions_come_whatever_a_member_sends(tmp_path: Path, fault: Fault) -> None:
    async with spawn() as sim, ControlClient(sim.card["control_url"]) as discord:
        scene = Scene(sim, discord, tmp_path)
        for member in (scene.ada, scene.ben):
            await discord.voice(member_id=member, channel_id=scene.voice)
        async with run_bot(scene.arguments, scene.environ) as bot:
            await bot.ready()
            await scene.ask("/voice join", scene.ben)
            await scene.ask("/transcribe start", scene.ben)
            notice = next(each for each in await discord.messages(channel_id=scene.text) if each["components"])
            await discord.press(member_id=scene.ben, message_id=int(notice["id"]), label="Agree")
            await scene.speak()
            workers = descendants_of(bot.pid)
            assert workers
            bad = ["", "7b00", "7b07", "79" + 7 * "00"]
            for params in ({"insert": bad}, {"packet_ms": 60}, {"packet_ms": 120}):
                with fault.clock(CAPTION_S, scaled=False):
                    await scene.speak(**params)
            assert descendants_of(bot.pid) == workers, "no worker died"
            report = await scene.said("/transcribe status", scene.ben)
            assert "4 captions so far" in report
