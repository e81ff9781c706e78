"""Work does not depend on what becomes of the answer to it: rows 118 and 177."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from bot_scene import scenes
from fault_report import Fault

ANSWERS = "/interactions/"


@pytest.mark.e2e
@pytest.mark.fault(118)
@pytest.mark.parametrize("status", [404, 503])
async def test_leave_that_cannot_be_answered_is_carried_out(status: int, fault: Fault, tmp_path: Path) -> None:
    async with scenes(tmp_path) as scene, scene.bot() as bot:
        assert "Joined" in await scene.join()
        armed = await scene.discord.fault("rest_error", path_prefix=ANSWERS, status=status, times=999)
        with fault.clock(scaled=False):
            await scene.discord.slash(
                member_id=scene.ada, channel_id=scene.text, command="/voice leave", options={}, wait_s=0.0
            )
            await scene.gone()
        await scene.discord.disarm(armed)
        left = "sent me out with /voice leave"
        await bot.wait_for(lambda event: left in str(event["message"]), 5, left)


@pytest.mark.e2e
@pytest.mark.fault(118)
@pytest.mark.parametrize(("command", "said"), [("stop", "Nothing is being transcribed"), ("pause", "Paused")])
async def test_stop_of_a_transcription_that_cannot_be_answered_is_carried_out(
    command: str, said: str, fault: Fault, tmp_path: Path
) -> None:
    async with scenes(tmp_path) as scene, scene.bot(plugins__deny="", plugins__required="voice,stt"):

        async def ask(what: str, wait_s: float = 10.0) -> str:
            answer = await scene.discord.slash(
                member_id=scene.ada, channel_id=scene.text, command=f"/transcribe {what}", options={}, wait_s=wait_s
            )
            return str(answer["replies"][-1]["content"]) if answer["replies"] else ""

        assert "Joined" in await scene.join()
        assert "Transcribing" in await ask("start", 30.0)
        armed = await scene.discord.fault("rest_error", path_prefix=ANSWERS, status=404, times=999)
        await ask(command, 0.5)
        await scene.discord.disarm(armed)
        with fault.clock(scaled=False):
            async with asyncio.timeout(10.0):
                while said not in await ask("status"):
                    pass


@pytest.mark.e2e
@pytest.mark.fault(177)
async def test_first_answer_whose_confirmation_is_lost_does_not_end_the_command(fault: Fault, tmp_path: Path) -> None:
    async with scenes(tmp_path) as scene, scene.bot() as bot:
        armed = {"path_prefix": ANSWERS, "status": 503, "taken": True}
        await scene.discord.fault("rest_error", **armed)
        with fault.clock(scaled=False):
            # Deferred: without the mend the member sees "thinking" for good, and the bot is not in voice.
            assert "Joined" in await scene.join()
        await scene.discord.fault("rest_error", **armed)
        answer = await scene.discord.slash(
            member_id=scene.ada, channel_id=scene.text, command="/voice status", options={}, wait_s=5.0
        )
        assert len(answer["replies"]) == 1
        await bot.wait_for(lambda event: "its confirmation was lost" in str(event["message"]), 5.0, "the repetition")
        assert not [each for each in bot.events if "takes no answer" in str(each["message"])]
