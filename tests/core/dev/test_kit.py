"""The test kit used as a plugin author would: the fixture, the marker, the leak check, virtual time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from roost import CommandContext, Meta, Plugin, hookimpl
from roost.errors import UsageError
from roost.sim import ControlError
from roost.testing import LeakError, RoostBot, VirtualTime, leak_check, running_bot

pytestmark = pytest.mark.sim

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
greeter = Plugin("greeter")


@greeter.command("greet", "Greet somebody")
async def greet(ctx: CommandContext, name: str, times: int = 1, loud: bool = False, weight: float = 0.5) -> None:
    text = f"Hello, {name}! " * times + f"({weight})"
    await ctx.respond(text.upper() if loud else text)


class Silent:
    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("silent")


@pytest.mark.roost(greeter, Silent)
async def test_plugin_objects_answer_with_options_of_every_type(roost_bot: RoostBot) -> None:
    assert roost_bot.app.plugins.loaded == ("greeter", "silent")
    assert (await roost_bot.slash("/greet", name="Ben")).content == "Hello, Ben! (0.5)"
    reply = await roost_bot.slash("/greet", name="Ben", times=2, loud=True, weight=1.5)
    assert reply.content == "HELLO, BEN! HELLO, BEN! (1.5)"
    with pytest.raises(ControlError, match="'name' is required"):
        await roost_bot.slash("/greet")
    with pytest.raises(UsageError, match="Ada, Ben, Cleo"):
        await roost_bot.slash("/greet", member="Nobody", name="x")


@pytest.mark.roost(
    str(EXAMPLES / "wordcount.py"),
    installed=("voice", "stt"),
    settings={"stt.engine": "scripted", "stt.script": ["two words"]},
)
async def test_the_example_hears_a_member_speak(roost_bot: RoostBot) -> None:
    lines = (EXAMPLES / "wordcount.py").read_text().splitlines()
    assert len([line for line in lines if line]) <= 12
    assert (await roost_bot.slash("/words")).content == "You said 0 words."
    await roost_bot.join_voice("Ada", "perch")
    await roost_bot.slash("/privacy opt-in")
    await roost_bot.slash("/voice join", wait_s=15)
    await roost_bot.slash("/transcribe start", wait_s=15)
    await roost_bot.say((await roost_bot.recordings())[0])
    async with asyncio.timeout(20):
        while (said := (await roost_bot.slash("/words")).content) == "You said 0 words.":
            await asyncio.sleep(0.1)
    assert int(said.split()[2]) % 2 == 0


@pytest.mark.roost(str(EXAMPLES / "quietrooms.py"), installed=("voice",))
async def test_the_example_of_a_guard_refuses(roost_bot: RoostBot) -> None:
    example = EXAMPLES / "quietrooms.py"
    assert example.read_text() in (EXAMPLES.parent / "plugin-host.md").read_text(), "the page shows another one"
    quiet = int((await roost_bot.control.channel(name="quiet room", type="voice"))["id"])
    for room, answer in ((roost_bot.channel("perch").id, "You agreed: Roost may"), (quiet, "This is a quiet room.")):
        await roost_bot.control.voice(member_id=roost_bot.member("Ada"), channel_id=room)
        assert str(room) in (await roost_bot.slash("/voice join", wait_s=15)).content
        assert answer in (await roost_bot.slash("/privacy opt-in")).content


@pytest.mark.roost(str(EXAMPLES / "visits.py"))
async def test_the_example_of_a_class_counts_and_is_reached_by_my_data(roost_bot: RoostBot) -> None:
    ada, perch = roost_bot.member("Ada"), roost_bot.channel("perch").id
    for channel_id in (perch, roost_bot.channel("loft").id, None, perch):
        await roost_bot.control.voice(member_id=ada, channel_id=channel_id)
    options = {"member": str(ada)}
    async with asyncio.timeout(10):
        while (await roost_bot.slash("/visits count", options=options)).content != "Ada came 2 times.":
            await asyncio.sleep(0.05)
    (file,) = (await roost_bot.slash("/privacy my-data")).files
    assert json.loads(file.content)["data"]["visits"] == {"visits": {f"{roost_bot.guild.id}/{ada}": 2}}


async def test_a_leak_fails_the_test_that_made_it(tmp_path: Path) -> None:
    stop = threading.Event()
    with pytest.raises(LeakError, match="thread left alone"):
        async with leak_check(grace_s=0.1):
            threading.Thread(target=stop.wait, name="left alone").start()
    stop.set()

    waits: list[asyncio.Task[object]] = []
    with pytest.raises(LeakError, match="task forgotten"):
        async with leak_check(grace_s=0.1):
            waits.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))
    waits[0].cancel()
    with pytest.raises(LeakError, match="descriptor"):
        async with leak_check(grace_s=0.1):
            kept = (tmp_path / "file").open("w")
    kept.close()


async def test_a_running_bot_leaves_nothing(tmp_path: Path) -> None:
    async with running_bot(greeter, data_dir=tmp_path / "warm"):
        pass
    async with leak_check(), running_bot(greeter, data_dir=tmp_path / "data") as bot:
        await bot.slash("/greet", name="you")


async def test_what_cannot_be_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no plugin called nothing is installed"):
        async with running_bot(data_dir=tmp_path, installed=("nothing",)):
            pass
    with pytest.raises(UsageError, match="is not a plugin"):
        async with running_bot(object(), data_dir=tmp_path):
            pass
    with pytest.raises(UsageError, match="cannot be mixed"):
        async with running_bot(greeter, tmp_path / "x.py", data_dir=tmp_path):
            pass


def test_an_hour_passes_at_once(virtual_time: Callable[..., VirtualTime]) -> None:
    async def sleeper() -> str:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(3600)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        return f"{loop.time() - began:.0f}"

    clock = virtual_time(100.0)
    assert clock.run(sleeper()) == "3660"
    assert clock.now_s == pytest.approx(3760)


def test_waiting_for_nothing_is_a_deadlock(virtual_time: Callable[..., VirtualTime]) -> None:
    async def stuck() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="deadlock in virtual time"):
        virtual_time().run(stuck())
