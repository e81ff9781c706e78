"""Guards fail closed: rows 225 to 228. Whole bots at a simulated Discord of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bot_scene import Scene, scenes
from fault_report import Fault
from plugin_scene import folder_of, said_of, say

from roost.demo.bot_process import BotProcess
from roost.sim.client import ControlError

pytestmark = pytest.mark.e2e

EAR = """
heard = {}
@plugin.hook
def voice_audio_frame(frame): heard[frame.user_id] = heard.get(frame.user_id, 0) + 1
@plugin.command("ear", "How many packets came")
async def ear(ctx): await ctx.respond(str(sum(heard.values())))
"""
WORDS = "lv_0880"
HEARS_ALL = {"consent__mode": "notice"}
BREAKS = {"raises": "raise KeyError('the list')", "hangs": "await asyncio.Event().wait()"}
CONSENT = "@plugin.hook\ndef voice_consent(user_id):\n    {does}\n"
DENIES = CONSENT.format(does="return Deny('Not today.')")
CHECK = "@plugin.hook\nasync def {hook}():\n    {does}\n"


async def owner_says(scene: Scene, command: str, wait_s: float = 10.0, **options: str) -> str:
    """The owner of the server and of the application types a command; the last reply."""
    owner = int(scene.sim.card["guilds"][0]["members"][0]["id"])
    answer = await scene.discord.slash(
        member_id=owner, channel_id=scene.text, command=command, options=options, wait_s=wait_s
    )
    return str(answer["replies"][-1]["content"]) if answer["replies"] else ""


@contextlib.asynccontextmanager
async def ada_speaks(scene: Scene) -> AsyncIterator[None]:
    """Ada speaks until the end of the block."""
    speaking = asyncio.create_task(
        scene.discord.speak(member_id=scene.ada, recording=WORDS, params={"repeat": 100, "direct": True})
    )
    try:
        yield
    finally:
        await scene.discord.voice(member_id=scene.ada, channel_id=None)
        with contextlib.suppress(ControlError):
            await speaking


async def packets(scene: Scene) -> int:
    """How many packets plugins were given so far."""
    return int(await say(scene, "/ear"))


async def is_heard(scene: Scene) -> None:
    """Wait until packets come."""
    async with asyncio.timeout(10):
        before = await packets(scene)
        while await packets(scene) == before:
            await asyncio.sleep(0.05)


async def is_silent(scene: Scene) -> None:
    """Nothing comes: 25 packets would have in this time."""
    before = await packets(scene)
    await asyncio.sleep(0.5)
    assert await packets(scene) == before


def refusals_of(bot: BotProcess, plugin: str) -> list[str]:
    """The log's lines that tell the owner of a guard that does not work."""
    return [
        str(each["message"])
        for each in bot.events
        if each.get("plugin") == plugin and each.get("event") == "guard_refuses"
    ]


@pytest.mark.fault(225)
async def test_a_guard_that_is_loaded_in_mid_call_takes_effect(fault: Fault, tmp_path: Path) -> None:
    opens_slowly = "@plugin.hook\nasync def on_load(ctx): await asyncio.sleep(1.0)\n"
    folder = folder_of(tmp_path, {"ear": EAR, "gate": DENIES + opens_slowly})
    later = (folder / "gate.py").rename(tmp_path / "gate.py")
    async with scenes(tmp_path) as scene, scene.bot("--plugins-dir", str(folder), **HEARS_ALL):
        assert "Joined" in await scene.join()
        async with ada_speaks(scene):
            await is_heard(scene)
            later.rename(folder / "gate.py")
            loading = asyncio.create_task(owner_says(scene, "/bot plugins load", plugin="gate"))
            async with asyncio.timeout(5):
                while await packets(scene) != await packets(scene):
                    await asyncio.sleep(0.01)
            with fault.clock(1.5, scaled=False):
                assert "is loaded" in await loading
            await is_silent(scene)
            # Who manages the server can do without it there, and have it again.
            assert "disabled" in await owner_says(scene, "/plugins disable", plugin="gate")
            await is_heard(scene)
            with fault.clock(scaled=False):
                assert "enabled" in await owner_says(scene, "/plugins enable", plugin="gate")
            await is_silent(scene)
            assert "unloaded" in await owner_says(scene, "/bot plugins unload", plugin="gate")
            await is_heard(scene)


@pytest.mark.fault(225)
@pytest.mark.parametrize("does", ["return Deny('Not on Sundays.')", "raise KeyError('the list')", "return None"])
async def test_a_session_is_put_before_a_plugin_that_comes_in_mid_call(does: str, fault: Fault, tmp_path: Path) -> None:
    told = "@plugin.hook\nasync def voice_session_opened():\n    raise LookupError('opened')\n"
    folder = folder_of(tmp_path, {"gate": CHECK.format(hook="voice_session_opening", does=does) + told})
    later = (folder / "gate.py").rename(tmp_path / "gate.py")
    async with scenes(tmp_path) as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        assert "Joined" in await scene.join()
        later.rename(folder / "gate.py")
        assert "is loaded" in await owner_says(scene, "/bot plugins load", plugin="gate")
        with fault.clock(scaled=False):
            if does == "return None":
                await bot.wait_for(lambda each: "voice_session_opened" in str(each.get("message")), 5.0, "the call")
            else:
                await scene.gone(5.0)
        if does != "return None":
            reason = "Not on Sundays" if "Deny" in does else "the plugin gate failed in its check"
            async with asyncio.timeout(5):
                while not any(reason in str(each) for each in await scene.discord.messages(channel_id=scene.text)):
                    await asyncio.sleep(0.05)
            assert "voice_session_opened" not in said_of(bot, "gate")


@pytest.mark.fault(241)
async def test_nobody_is_heard_until_a_plugin_has_decided_about_a_running_session(fault: Fault, tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path, {"ear": EAR, "gate": CHECK.format(hook="voice_session_opening", does="await asyncio.sleep(1.5)")}
    )
    later = (folder / "gate.py").rename(tmp_path / "gate.py")
    async with scenes(tmp_path) as scene, scene.bot("--plugins-dir", str(folder), **HEARS_ALL):
        assert "Joined" in await scene.join()
        async with ada_speaks(scene):
            await is_heard(scene)
            later.rename(folder / "gate.py")
            assert "is loaded" in await owner_says(scene, "/bot plugins load", plugin="gate")
            await is_silent(scene)
            with fault.clock(scaled=False):
                await is_heard(scene)


@pytest.mark.fault(226)
@pytest.mark.parametrize("how", BREAKS)
async def test_a_guard_that_breaks_refuses_everything_but_the_end(how: str, fault: Fault, tmp_path: Path) -> None:
    hooks = {"rules": "command_check", "doors": "voice_join_check", "rooms": "voice_session_opening"}
    checks = {name: CHECK.format(hook=hook, does=BREAKS[how]) for name, hook in hooks.items()}
    folder = folder_of(tmp_path, checks)
    async with scenes(tmp_path) as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        for name in hooks:
            with fault.clock(scaled=False):
                assert f"the plugin {name} failed in its check" in await scene.join()
                assert "decided" in await say(scene, "/privacy status")
            assert "disabled" in await owner_says(scene, "/plugins disable", plugin=name)
        assert "Joined" in await scene.join()
        # It has failed once too often here: still it refuses.
        assert "enabled" in await owner_says(scene, "/plugins enable", plugin="rules")
        with fault.clock(scaled=False):
            assert "the plugin rules" in await say(scene, "/voice status")
        with fault.clock(scaled=False):
            assert "Left" in await say(scene, "/voice leave")
        assert await scene.place() is None
        assert not [each for each in bot.events if "did not finish because Discord" in str(each.get("message"))]


@pytest.mark.fault(226)
@pytest.mark.parametrize("hook", ["voice_join_check", "voice_session_opening"])
async def test_a_refusal_is_read_by_who_asked_alone(hook: str, fault: Fault, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"gate": CHECK.format(hook=hook, does="return Deny('You owe Ben a drink.')")})
    async with scenes(tmp_path) as scene, scene.bot("--plugins-dir", str(folder)):
        with fault.clock(scaled=False):
            answer = await scene.discord.slash(
                member_id=scene.ada, channel_id=scene.text, command="/voice join", options={}, wait_s=10.0
            )
        assert [each["content"] for each in answer["replies"]] == ["I did not join: You owe Ben a drink."]
        assert answer["replies"][0]["ephemeral"]
        assert await scene.discord.messages(channel_id=scene.text) == []


GOES_WRONG = """
@plugin.hook
async def on_started(bot): plugin.ctx.task(fails(), "fails")
@plugin.hook
async def on_load(ctx): plugin.ctx = ctx
async def fails(): raise KeyError("x")
"""


@pytest.mark.fault(226)
async def test_a_guard_in_quarantine_refuses_until_it_is_unloaded(fault: Fault, tmp_path: Path) -> None:
    hooks = {"rules": "command_check", "doors": "voice_join_check", "rooms": "voice_session_opening"}
    checks = {name: CHECK.format(hook=hook, does="return None") + GOES_WRONG for name, hook in hooks.items()}
    folder = folder_of(tmp_path, checks | {"ears": CONSENT.format(does="return None") + GOES_WRONG, "ear": EAR})
    once = {"plugins__quarantine_failures": "1"}
    async with scenes(tmp_path) as scene, scene.bot("--plugins-dir", str(folder), **HEARS_ALL, **once) as bot:
        for name in hooks:
            with fault.clock(scaled=False):
                assert f"the plugin {name} decides about this" in await scene.join()
            assert "no voice channel" in await say(scene, "/voice leave")
            assert "unloaded" in await owner_says(scene, "/bot plugins unload", plugin=name)
            assert len(refusals_of(bot, name)) == 1
        assert "Joined" in await scene.join()
        async with ada_speaks(scene):
            await is_silent(scene)
            assert "disabled" in await owner_says(scene, "/plugins disable", plugin="ears")
            await is_heard(scene)


RELOADED = {
    "works": "is loaded",
    "fails": "the version before was loaded again",
    "fails, and the old too": "the version before does not load any more either",
}


@pytest.mark.fault(227)
@pytest.mark.parametrize("new", RELOADED)
async def test_nobody_slips_through_while_a_guard_is_loaded_anew(new: str, fault: Fault, tmp_path: Path) -> None:
    opens_slowly = """
@plugin.hook
async def on_load(ctx):
    await asyncio.sleep(1.0)
    if {fails}: raise KeyError("x")
"""
    opens = f"""
@plugin.hook
async def on_load(ctx):
    if os.path.exists({str(tmp_path / "broken")!r}): raise KeyError("x")
"""
    folder = folder_of(tmp_path, {"ear": EAR, "gate": DENIES + opens})
    async with scenes(tmp_path) as scene, scene.bot("--plugins-dir", str(folder), **HEARS_ALL) as bot:
        assert "Joined" in await scene.join()
        async with ada_speaks(scene):
            await is_silent(scene)
            file = folder / "gate.py"
            file.write_text(file.read_text() + opens_slowly.format(fails=new != "works"))
            if "old" in new:
                (tmp_path / "broken").touch()
            said = await owner_says(scene, "/bot plugins reload", plugin="gate")
            assert RELOADED[new] in said
            with fault.clock(scaled=False):
                await is_silent(scene)
            assert await packets(scene) == 0
            assert "unloaded" in await owner_says(scene, "/bot plugins unload", plugin="gate")
            await is_heard(scene)
        assert len(refusals_of(bot, "gate")) == ("old" in new)


UNFIT = {
    "import fails": "import nothing_of_that_name\n",
    "syntax error": "def voice_consent(:\n",
    "on_load fails": "@plugin.hook\nasync def on_load(ctx): raise KeyError('x')\n",
    "misspelt hook": "from roost import hookimpl\nplugin.on_lode = hookimpl(lambda: None)\n",
}


@pytest.mark.fault(228)
@pytest.mark.parametrize("how", UNFIT)
async def test_a_guard_that_does_not_load_refuses(how: str, fault: Fault, tmp_path: Path) -> None:
    doors = CHECK.format(hook="voice_join_check", does="return None")
    folder = folder_of(tmp_path, {"ear": EAR, "gate": DENIES + doors + UNFIT[how]})
    async with scenes(tmp_path) as scene:
        with fault.clock(scaled=False):
            async with scene.bot("--plugins-dir", str(folder), **HEARS_ALL) as bot:
                assert "the plugin gate decides about this, and does not work" in await scene.join()
                assert len(refusals_of(bot, "gate")) == 1
                assert "no voice channel" in await say(scene, "/voice leave")
                assert "they are refused here" in await owner_says(scene, "/plugins why", plugin="gate")
                assert "disabled" in await owner_says(scene, "/plugins disable", plugin="gate")
                assert "refused" not in await owner_says(scene, "/plugins why", plugin="gate")
                assert "Joined" in await scene.join()
                if how != "import fails":
                    return
                async with ada_speaks(scene):
                    await is_heard(scene)
                    assert "enabled" in await owner_says(scene, "/plugins enable", plugin="gate")
                    await is_silent(scene)
                    assert "unloaded" in await owner_says(scene, "/bot plugins unload", plugin="gate")
                    await is_heard(scene)
