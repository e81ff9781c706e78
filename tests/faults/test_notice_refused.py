"""The notice cannot be posted, and the member reads whose fault that is: row 119."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from bot_scene import scenes
from fault_report import Fault


@pytest.mark.e2e
@pytest.mark.fault(119)
@pytest.mark.parametrize("status", [404, 503])
async def test_notice_that_discord_does_not_take_is_not_blamed_on_permissions(
    status: int, fault: Fault, tmp_path: Path
) -> None:
    async with scenes(tmp_path) as scene, scene.bot(plugins__deny="", plugins__required="voice,stt") as bot:

        async def ask(command: str) -> str:
            answer = await scene.discord.slash(
                member_id=scene.ada, channel_id=scene.text, command=command, options={}, wait_s=30.0
            )
            assert answer["replies"], command
            reply = answer["replies"][-1]
            async with asyncio.timeout(30):
                while "This message changes when it has" in reply["content"]:
                    await asyncio.sleep(0.1)
                    shown = await scene.discord.messages(channel_id=scene.text)
                    reply = next(each for each in shown if each["id"] == reply["id"])
            return str(reply["content"])

        assert "Joined" in await scene.join()
        armed = await scene.discord.fault(
            "rest_error", method="POST", path_prefix=f"/channels/{scene.text}", status=status, times=999
        )
        said = await ask("/transcribe start")
        assert "Discord did not take the notice" in said
        assert "Give me" not in said
        said = await ask("/voice status")
        assert "Discord did not take the notice" in said
        assert "give me" not in said
        assert not [each for each in bot.events if "I may not write" in str(each["message"])]
        await scene.discord.disarm(armed)
        with fault.clock(scaled=False):
            assert "Transcribing" in await ask("/transcribe start")
