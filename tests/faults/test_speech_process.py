"""Speech-to-text in a bot process of its own, with the model loaded: rows 81, 83 and 330."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import resource
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import stt_rig
from fault_report import DRIVER, Fault
from test_speech import lease_is_free

from roost.demo.bot_process import BotProcess, run_bot, wait_gone
from roost.processes import SMALLEST_CORE
from roost.sim import ControlClient, spawn
from roost.text import wer
from roost_stt.reports import TROUBLES
from roost_stt.supervision import Trouble, WorkerTiming

pytestmark = pytest.mark.e2e

SAID = "lv_0920"


@dataclasses.dataclass
class Stage:
    """A bot that transcribes a channel in which Ada, who agreed to it, may speak."""

    discord: ControlClient
    bot: BotProcess
    ada: int
    text: int
    owner: int
    """Of the bot."""

    @property
    def worker(self) -> int:
        (pid,) = self.bot.descendants()
        return pid

    def speak(self) -> asyncio.Task[Any]:
        return asyncio.create_task(self.discord.speak(member_id=self.ada, recording=SAID))

    async def captions(self) -> list[str]:
        """What was posted, without its speakers' names, oldest first."""
        messages = await self.discord.messages(channel_id=self.text)
        lines = [line for message in messages for line in str(message["content"]).splitlines()]
        return [line.removeprefix("**Ada**: ") for line in lines if line.startswith(("**Ada**: ", "**Roost**: "))]

    async def until(self, check: Callable[[list[str]], bool], timeout_s: float = 15.0) -> list[str]:
        async with asyncio.timeout(timeout_s):
            while not check(captions := await self.captions()):
                await asyncio.sleep(0.02)
        return captions


@contextlib.asynccontextmanager
async def transcribing_bot(folder: Path, *, started: bool = True, **more: object) -> AsyncIterator[Stage]:
    """A bot in its own process; `more` are settings, with ``__`` for the dots in their names."""
    async with spawn([]) as sim, ControlClient(sim.card["control_url"]) as discord:
        guild = sim.card["guilds"][0]
        ada = int(guild["members"][1]["id"])
        channel, text = int(guild["voice_channels"][0]["id"]), int(guild["text_channels"][0]["id"])
        settings = {
            "discord.rest_url": sim.card["rest_url"],
            "voice.ca_file": sim.card["ca_file"],
            "voice.allowed_hosts": "localhost,127.0.0.1",
            "voice.driver": DRIVER,
            "log.format": "json",
            **{key.replace("__", "."): value for key, value in more.items()},
        }
        arguments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
        environ |= {"ROOST_TOKEN": sim.card["bots"][0]["token"], "ROOST_LEASE_DIR": str(folder / "leases")}
        await discord.voice(member_id=ada, channel_id=channel)
        async with run_bot([*arguments, "--data-dir", str(folder / "data")], environ) as bot:
            await bot.ready()
            joined = await discord.slash(member_id=ada, channel_id=text, command="/voice join")
            assert "Joined" in joined["replies"][-1]["content"]
            stage = Stage(discord, bot, ada, text, int(guild["members"][0]["id"]))
            if started:
                answer = await discord.slash(member_id=ada, channel_id=text, command="/transcribe start", wait_s=15)
                assert "Transcribing" in answer["replies"][-1]["content"]
                messages = await discord.messages(channel_id=text)
                notice = next(message for message in messages if message.get("components"))
                await discord.press(member_id=ada, message_id=int(notice["id"]), label="Agree")
            yield stage


@pytest.mark.fault(81)
async def test_a_crash_of_the_model_is_told_and_voice_goes_on(fault: Fault, tmp_path: Path) -> None:
    text = stt_rig.manifest()[SAID]
    async with transcribing_bot(tmp_path) as stage:
        speaking = stage.speak()
        await asyncio.sleep(2.0)  # in mid-sentence
        assert set(resource.prlimit(stage.bot.pid, resource.RLIMIT_CORE)) <= {0, SMALLEST_CORE}
        os.kill(stage.worker, signal.SIGSEGV)
        died_at = time.monotonic()
        spoken = await speaking

        def all_there(captions: list[str]) -> bool:
            return wer(text, " ".join(each for each in captions if "speech engine" not in each)) <= 0.1

        captions = await stage.until(all_there)
        fault.note(time.monotonic() - max(died_at, spoken["ended_at"]), scaled=False)
        assert sum("starting again" in each for each in captions) == 1
        state = await stage.discord.state()
        assert state["sessions"]["live"] == state["max_sessions_per_guild"] == 1
        log = await stage.discord.log()
        assert len([entry for entry in log if entry["kind"] == "op4"]) == 1


@pytest.mark.fault(330)
@pytest.mark.parametrize("module", ["roost_stt.worker", "roost_voice.levels"])
async def test_a_crash_leaves_no_image_of_the_memory(module: str, fault: Fault, tmp_path: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module, str(os.getpid())),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (most, most)),
    )
    try:
        async with asyncio.timeout(10):
            # It may hold voices from then on.
            while set(resource.prlimit(process.pid, resource.RLIMIT_CORE)) - {0, SMALLEST_CORE}:
                await asyncio.sleep(0.01)
        with fault.clock():
            process.send_signal(signal.SIGSEGV)
            assert await process.wait() == -signal.SIGSEGV
        assert not list(tmp_path.iterdir())
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.fault(83)
@pytest.mark.parametrize("when", ["idle", "in speech", "worker starting", "worker stopped"])
async def test_a_killed_bot_takes_its_model_along(fault: Fault, tmp_path: Path, when: str) -> None:
    async with transcribing_bot(tmp_path, started=when != "worker starting") as stage:
        command = asyncio.create_task(asyncio.sleep(0))
        if when == "in speech":
            command = stage.speak()
            await asyncio.sleep(2.0)
        elif when == "worker starting":
            command = asyncio.create_task(
                stage.discord.slash(member_id=stage.ada, channel_id=stage.text, command="/transcribe start", wait_s=1)
            )
            while not stage.bot.descendants():
                await asyncio.sleep(0.001)
        worker = stage.worker
        if when != "worker starting":
            assert psutil.Process(worker).memory_info().rss > 100 << 20  # with the model in it
        if when == "worker stopped":
            os.kill(worker, signal.SIGSTOP)
        stage.bot.kill()
        with fault.clock(scaled=False):
            assert await wait_gone([stage.bot.pid, worker], 5.0) is not None
        command.cancel()
        await asyncio.wait([command])


@pytest.mark.long
async def test_a_frozen_bot_keeps_no_model(tmp_path: Path) -> None:
    """It neither ends nor answers; what its worker holds is free all the same, and it goes on where it was."""
    async with transcribing_bot(tmp_path) as stage:
        worker = stage.worker
        os.kill(stage.bot.pid, signal.SIGSTOP)
        try:
            # A zombie holds nothing, and its parent cannot collect it now.
            assert await wait_gone([worker], WorkerTiming().bot_silent_s + 5.0) is not None
        finally:
            os.kill(stage.bot.pid, signal.SIGCONT)
        await stage.until(lambda captions: any(TROUBLES[Trouble.CRASHED] in each for each in captions))
        await stage.speak()
        text = stt_rig.manifest()[SAID]
        await stage.until(lambda captions: wer(text, captions[-1]) < 0.3)


PARENT = """
import asyncio, pathlib, sys
import fault_engine
from roost.audio import AudioFrame
from roost.scopes import Scope
from roost_stt.engine import SpeechWorker
from roost_stt.supervision import WorkerSettings
from stt_rig import packets_of

async def main():
    folder = pathlib.Path(sys.argv[1])
    spec = fault_engine.spec(folder, delay_s=60, needs_gpu=True)
    worker = SpeechWorker(WorkerSettings(spec, lease={"folder": str(folder / "lease"), "slots": 1}), print, print)
    await worker.start(Scope("parent"))
    for number, packet in enumerate(packets_of("lv_0880")):
        worker.write(AudioFrame(1, 2, 3, number * 960, packet))
    while not (folder / "busy").exists():
        await asyncio.sleep(0.01)
    print(worker.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.fault(83)
async def test_a_killed_bot_gives_the_gpus_lease_back_in_the_middle_of_an_inference(
    fault: Fault, tmp_path: Path
) -> None:
    paths = os.pathsep.join([os.fspath(Path(__file__).parent), os.fspath(Path(stt_rig.__file__).parent)])
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(PARENT),
        os.fspath(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert parent.stdout is not None
    try:
        async with asyncio.timeout(20):
            worker = int(await parent.stdout.readline())
        assert not lease_is_free(tmp_path / "lease")
        parent.kill()
        with fault.clock(0.2, scaled=False):  # 4 ms, on an idle machine
            assert await wait_gone([parent.pid, worker], 5.0) is not None
            assert lease_is_free(tmp_path / "lease")
    finally:
        if parent.returncode is None:
            parent.kill()
        await parent.wait()
