"""Plugins that harm others by mistake: rows 100 to 109, 165, 308, 310, 311, 318, 331 and 332.

Whole bots at a simulated Discord of their own.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from bot_scene import Scene, scenes, steps
from fault_report import Fault
from plugin_scene import folder_of, said_of, say, stops
from test_guards import ada_speaks, owner_says
from test_last_word import locked

from roost.sim.client import ControlError
from roost.store.database import TURNS

pytestmark = pytest.mark.e2e

BAD_TEXTS = {
    "raises": "raise RuntimeError('twice')",
    "exits": "raise SystemExit(3)",
    "number": "return 5",
    "endless": "while True: pass",
    "megabyte": "return 'x' * 1_000_000",
}


BAD = """
class Bad(Exception):
    def __str__(self):
        {how}
    __repr__ = __str__
"""

OPENS_BADLY = """
@plugin.hook
async def on_load(ctx): raise Bad
"""

WORKS_BADLY = """
@plugin.hook
async def on_load(ctx): plugin.ctx = ctx
@plugin.hook
async def on_started(bot): raise Bad
@plugin.hook
async def voice_session_opened(session):
    plugin.ctx.task(fails(), "fails")
    asyncio.get_running_loop().create_task(fails())
    raise Bad
async def fails(): raise Bad
@plugin.command("bad", "Fails")
async def bad(ctx): raise Bad
"""


@pytest.mark.fault(100)
@pytest.mark.parametrize("how", BAD_TEXTS)
async def test_error_with_a_bad_text_harms_its_plugin_alone(how: str, fault: Fault, tmp_path: Path) -> None:
    bad = BAD.format(how=BAD_TEXTS[how])
    folder = folder_of(tmp_path, {"opening": bad + OPENS_BADLY, "working": bad + WORKS_BADLY})
    async with scenes(tmp_path) as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        assert "Bad" in said_of(bot, "opening")
        assert "Joined" in await scene.join()
        with fault.clock(scaled=False):
            assert "went wrong" in await say(scene, "/bad")
            assert "decided" in await say(scene, "/privacy status")
        fault.note(await stops(bot, scene), 3.0, scaled=False)
    assert all(len(str(each)) < 30_000 for each in bot.events)


DAMAGE: dict[str, dict[str, bytes]] = {
    "requirement": {"METADATA": b"Metadata-Version: 2.1\nName: shaky\nVersion: 1\nRequires-Dist: foo ==== bar\n"},
    "marker": {"METADATA": b"Metadata-Version: 2.1\nName: shaky\nVersion: 1\nRequires-Dist: foo; nonsense > 3\n"},
    "not UTF-8": {"METADATA": b"Metadata-Version: 2.1\nName: shaky\nVersion: 1\nSummary: \xff\xfe\n"},
    "target": {"entry_points.txt": b"[roost.plugins]\nshaky = not a module\n"},
    "no target": {"entry_points.txt": b"[roost.plugins]\nshaky\n"},
    "entry points not UTF-8": {"entry_points.txt": b"[roost.plugins]\nshaky = shaky:\xff\xfe\n"},
    "name": {"entry_points.txt": b"[roost.plugins]\nshaky; drop table = shaky:P\n"},
}
HARMLESS = {"no metadata": {"METADATA": b""}}


@pytest.mark.fault(106)
@pytest.mark.parametrize("how", [*DAMAGE, *HARMLESS])
async def test_damaged_distribution_harms_its_plugin_alone(
    how: str, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    info = site / "shaky-1.dist-info"
    info.mkdir(parents=True)
    (site / "shaky.py").write_text("from roost import Plugin\nP = Plugin('shaky')\n")
    files = {
        "METADATA": b"Metadata-Version: 2.1\nName: shaky\nVersion: 1\n",
        "entry_points.txt": b"[roost.plugins]\nshaky = shaky:P\n",
    } | {**DAMAGE, **HARMLESS}[how]
    for name, content in files.items():
        (info / name).write_bytes(content)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    async with scenes(tmp_path) as scene:
        with fault.clock(20.0, scaled=False):
            async with scene.bot() as bot:
                assert "Joined" in await scene.join()
                told = [str(each["message"]) for each in bot.events if "shaky" in str(each.get("message"))]
                if how in HARMLESS:
                    assert any("loaded" in line for line in told)
                else:
                    assert any("pip install --force-reinstall shaky" in line or "name is" in line for line in told)
                assert not any("Traceback" in line for line in bot.tail)


STORES = """
@plugin.hook
async def on_load(ctx):
    notes = ctx.store.collection("notes")
    assert await notes.get("whose", plugin._meta.name) == plugin._meta.name
    await notes.put("whose", plugin._meta.name, user_id=1)
"""
WITH_STT = {"plugins__deny": "nothing", "plugins__required": "voice,stt", "stt__engine": "scripted"}


@pytest.mark.fault(105)
async def test_plugins_whose_names_make_one_table_keep_their_own(fault: Fault, tmp_path: Path) -> None:
    names = ("foo", "foo_user", "foo_guild", "stt_user", "stt_guild", "select", "x" * 60, "x" * 59 + "y")
    folder = folder_of(tmp_path, dict.fromkeys(names, STORES))
    async with scenes(tmp_path) as scene:
        # They are there before stt, whose own table comes in the second start.
        for settings in ({}, WITH_STT):
            async with scene.bot("--plugins-dir", str(folder), **settings) as bot:
                with fault.clock(scaled=False):
                    for name in names:
                        assert f"plugin {name}: loaded" in said_of(bot, name)
                    assert "Joined" in await scene.join()
                await stops(bot, scene)


RUBBISH = {
    "number": "5",
    "text": "'no'",
    "class": "dict",
    "itself": "plugin",
    "huge": "'x' * 1_000_000",
    "no reason": "Deny(None)",
    "blank reason": "Deny('   ')",
    "reason of another kind": "Deny(['a', 'list'])",
}
ANSWERS = """
from roost.hooks import INFO, hookimpl
ANSWER = {answer}
for name, info in INFO.items():
    if name in {hooks}:
        if info.sync:
            exec(f"def {{name}}(): return ANSWER")
        else:
            exec(f"async def {{name}}(): return ANSWER")
        plugin.hook(globals()[name])
"""
DENIALS = ("command_check", "voice_join_check", "voice_session_opening", "voice_consent")
OTHERS = (
    "handover", "health", "diagnostics", "user_data_export", "voice_driver", "stt_engine", "transcript_process",
    "on_started", "voice_session_opened", "handle_error", "plugin_loaded",
)  # fmt: skip


@pytest.mark.fault(101)
@pytest.mark.parametrize("what", RUBBISH)
async def test_check_that_answers_rubbish_refuses_and_is_named(what: str, fault: Fault, tmp_path: Path) -> None:
    code = ANSWERS.format(answer=RUBBISH[what], hooks=DENIALS)
    folder = folder_of(tmp_path, {"rubbish": code})
    async with (
        scenes(tmp_path) as scene,
        scene.bot("--plugins-dir", str(folder), plugins__quarantine_failures="3") as bot,
    ):
        with fault.clock(scaled=False):
            assert "the plugin rubbish failed in its check" in await scene.join()
            # Who cannot be asked has not said yes, paused or not.
            for _ in range(3):
                assert "rubbish" in await scene.join()
            assert "plugin rubbish failed in" in said_of(bot, "rubbish")
            assert "must answer a Deny with a reason or None" in said_of(bot, "rubbish")
            assert "decided" in await say(scene, "/privacy status")


@pytest.mark.fault(101)
@pytest.mark.parametrize("what", ["number", "class", "huge", "itself"])
async def test_hook_that_answers_rubbish_harms_its_plugin_alone(what: str, fault: Fault, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"rubbish": ANSWERS.format(answer=RUBBISH[what], hooks=OTHERS)})
    async with (
        scenes(tmp_path) as scene,
        scene.bot("--plugins-dir", str(folder), **WITH_STT) as bot,
    ):
        with fault.clock(scaled=False):
            assert "Joined" in await scene.join()
            assert "ranscri" in await say(scene, "/transcribe start")
            assert "decided" in await say(scene, "/privacy status")
        assert "voice_driver" in said_of(bot, "rubbish")
        assert "must answer a VoiceDriver or None" in said_of(bot, "rubbish")
        assert "must answer an EngineSpec" in said_of(bot, "rubbish")
        fault.note(await stops(bot, scene), 5.0, scaled=False)


DRIVER_HEAD = """
import contextlib
from roost.audio import LinkStats
class Driver:
    @contextlib.asynccontextmanager
    async def open(self, cred, events):
        yield Link()
class Link:
    def send_opus(self, opus): raise OSError
    def set_speaking(self, on): raise OSError
    async def update(self, cred): return "maybe"
    def stats(self): return LinkStats()
    async def wait_closed(self): await asyncio.Event().wait()
@plugin.hook
async def voice_driver(name, settings): return Driver() if name == "mine" else None
"""
DRIVERS = {
    "open is no context": "Driver.open = lambda self, cred, events: 5",
    "open is a coroutine": "async def opens(*a): return 5\nDriver.open = opens",
    "no link": "Driver.open = lambda self, cred, events: contextlib.nullcontext(5)",
    "ends with nonsense": "async def ends(self): return 5\nLink.wait_closed = ends",
    "counts nonsense": "Link.stats = lambda self: 5",
    "counts by raising": "Link.stats = lambda self: 1 // 0",
}


@pytest.mark.fault(101)
@pytest.mark.parametrize("what", DRIVERS)
async def test_driver_that_answers_rubbish_is_named_and_voice_is_left(what: str, fault: Fault, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"driver": DRIVER_HEAD + DRIVERS[what] + "\n"})
    async with (
        scenes(tmp_path, "--ghosts", "ignored") as scene,
        scene.bot("--plugins-dir", str(folder), voice__driver="mine", plugins__quarantine_failures="50") as bot,
    ):
        answer = await scene.join(wait_s=20.0)
        if "counts" in what:
            assert "Joined" in answer
        with fault.clock(scaled=False):
            assert await say(scene, "/voice leave")
            await scene.gone()
            assert "decided" in await say(scene, "/privacy status")
        assert "plugin driver failed in" in said_of(bot, "driver")
        assert not any("the voice actor failed" in str(each.get("message")) for each in bot.events)
        fault.note(await stops(bot, scene), 3.0, scaled=False)


TAKES_OVER = """
from signal import signal as signal_of_before
def mine(*given): raise SystemExit(3)
async def on_load(ctx): take() if WHEN == "on load" else None
async def voice_session_opened(session): take() if WHEN == "in a call" else None
WHEN = {when!r}
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
def take():
    for number in NUMBERS:
        {take}
plugin.hook(on_load)
plugin.hook(voice_session_opened)
"""
TAKES = {
    "a handler": "signal.signal(number, mine)",
    "ignores": "signal.signal(number, signal.SIG_IGN)",
    "default": "signal.signal(number, signal.SIG_DFL)",
    "the loop's": "asyncio.get_running_loop().add_signal_handler(number, lambda: None)",
    "removes the loop's": "asyncio.get_running_loop().remove_signal_handler(number)",
    "blocks": "signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)",
}
PAST_THE_GUARD = "__import__('_signal').signal(number, 1)  # SIG_IGN"


@pytest.mark.fault(103)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("how", TAKES)
async def test_plugin_that_takes_over_the_stop_signals_is_named(
    how: str, number: signal.Signals, fault: Fault, tmp_path: Path
) -> None:
    when = "in a call" if number is signal.SIGINT else "on load"
    folder = folder_of(tmp_path, {"greedy": TAKES_OVER.format(when=when, take=TAKES[how])})
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        assert "Joined" in await scene.join()
        if how != "removes the loop's":
            await bot.wait_for(lambda each: "plugin greedy wanted to" in str(each.get("message")), 5, "its name")
        fault.note(await stops(bot, scene, number), scaled=False)


@pytest.mark.fault(103)
async def test_signal_taken_past_the_guard_is_taken_back(fault: Fault, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"greedy": TAKES_OVER.format(when="on load", take=PAST_THE_GUARD)})
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        assert "Joined" in await scene.join()
        await bot.wait_for(lambda each: "wanted to handle SIGTERM" in str(each.get("message")), 5, "its end")
        fault.note(await stops(bot, scene), scaled=False)


HABITS = {
    "folder": "os.chdir('/')",
    "umask": "os.umask(0o777)",
    "warnings": "import warnings; warnings.simplefilter('error')",
    "logging off": "import logging; logging.disable(logging.CRITICAL); logging.getLogger().handlers.clear()",
    "logging anew": "import logging; logging.basicConfig(force=True, level=1)",
    "logging that raises": "import logging; logging.getLogger().addHandler(Raises())",
    "exception hooks": "sys.excepthook = fails; asyncio.get_running_loop().set_exception_handler(fails)",
    "policy": "asyncio.set_event_loop_policy(None)",
    "socket timeout": "import socket; socket.setdefaulttimeout(0.001)",
}


@pytest.mark.fault(104)
@pytest.mark.parametrize("habit", HABITS)
async def test_voice_is_left_whatever_a_plugin_does_to_the_process(habit: str, fault: Fault, tmp_path: Path) -> None:
    code = f"""
import logging
class Raises(logging.Handler):
    def emit(self, record): raise RuntimeError("no room")
def fails(*given): raise RuntimeError("hook")
async def fail_later(): raise RuntimeError("nobody awaits it")
@plugin.hook
async def on_started(bot):
    asyncio.get_running_loop().create_task(fail_later())
    {HABITS[habit]}
"""
    folder = folder_of(tmp_path, {"habit": code})
    # A plugin that ends the logging also ends the line that tells of the commands.
    async with (
        scenes(tmp_path, "--ghosts", "ignored") as scene,
        scene.bot("--plugins-dir", str(folder), told=False) as bot,
    ):
        assert "Joined" in await joined(scene)
        fault.note(await stops(bot, scene), scaled=False)
        assert scene.journals() == []


@pytest.mark.fault(251)
async def test_plugin_that_keeps_its_threads_busy_holds_up_no_join(fault: Fault, tmp_path: Path) -> None:
    code = """
import time
@plugin.hook
async def on_started(bot):
    global busy
    busy = [asyncio.create_task(asyncio.to_thread(time.sleep, 3)) for _ in range(8)]
    busy += [asyncio.create_task(wait()) for _ in range(8)]
async def wait(): await asyncio.to_thread(lambda: time.sleep(3))
"""
    folder = folder_of(tmp_path, {"greedy": code})
    async with scenes(tmp_path) as scene, scene.bot("--plugins-dir", str(folder)):
        with fault.clock(scaled=False):
            assert "Joined" in await scene.join()


async def joined(scene: Scene) -> str:
    """The reply to ``/voice join``, once Discord has the command."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await scene.join()
            except ControlError as error:
                if "there is no command" not in str(error):
                    raise
                await asyncio.sleep(0.1)


MANY = """
for number in range({count}):
    async def invoke(ctx): await ctx.respond("one of many")
    plugin.command(f"{prefix}-{{number}}", "One of many")(invoke)
"""


@pytest.mark.fault(102)
async def test_plugin_with_too_many_commands_is_the_one_refused(fault: Fault, tmp_path: Path) -> None:
    plugins = {
        "aaa": MANY.format(count=95, prefix="aaa"),
        "bbb": MANY.format(count=5, prefix="bbb"),
        "squats": '@plugin.command("transcribe", "Not what you think")\nasync def transcribe(ctx): ...\n',
    }
    folder = folder_of(tmp_path, plugins)
    async with scenes(tmp_path) as scene:
        with fault.clock(scaled=False):
            async with scene.bot("--plugins-dir", str(folder), **WITH_STT) as bot:
                assert "failed (it has 95 commands; with them all plugins have" in said_of(bot, "aaa")
                assert "/transcribe is already a command of stt" in said_of(bot, "squats")
                assert "plugin bbb: loaded" in said_of(bot, "bbb")
                assert "Joined" in await scene.join()
                assert "ranscri" in await say(scene, "/transcribe start")
                assert await say(scene, "/bbb-4") == "one of many"


ENDLESS_EXPORT = """
class Items(dict):
    def items(self):
        while True:
            yield "one", 1

@plugin.hook
async def user_data_export(user_id): return Items(one=1)

@plugin.hook
async def user_data_delete(user_id): pass
"""


@pytest.mark.fault(165)
async def test_an_endless_export_is_given_up_for_the_members_who_wait(fault: Fault, tmp_path: Path) -> None:
    plugins = ["--plugins-dir", str(folder_of(tmp_path, {"endless": ENDLESS_EXPORT}))]
    async with scenes(tmp_path) as scene, scene.bot(*plugins) as bot:
        members = [int(each["id"]) for each in scene.sim.card["guilds"][0]["members"]][1:3]
        with fault.clock(scaled=False):
            answers = await asyncio.gather(
                *(
                    scene.discord.slash(
                        member_id=each, channel_id=scene.text, command="/privacy my-data", options={}, wait_s=15.0
                    )
                    for each in members
                )
            )
        for answer in answers:
            assert "ask whoever runs this bot for the rest: endless" in answer["replies"][-1]["content"]
        assert await say(scene, "/voice status") == "I am in no voice channel."
        bot.terminate()
        assert await bot.wait(5.0) == 0


ENDS_THE_LOOP = """
@plugin.hook
async def voice_session_opened(session):
    if not hasattr(plugin, "harmed"):
        plugin.harmed = True
        asyncio.get_running_loop().call_later(0.2, harm)
def harm():
    loop = asyncio.get_running_loop()
    {how}
async def exits(): sys.exit(3)
"""
ENDINGS = {
    "cancels the main task": (
        "[each.cancel() for each in asyncio.all_tasks() if each.get_name() == 'Task-1']",
        "the bot's main task was cancelled",
    ),
    "stops the loop": ("loop.stop()", "plugin harmful wanted to stop the event loop"),
    "stops the loop later": ("loop.call_soon(loop.stop)", "wanted to stop the event loop"),
    "exits": ("sys.exit(3)", "plugin harmful wanted to end the process (SystemExit"),
    "exits in a task": ("loop.create_task(exits())", "plugin harmful wanted to end the process (SystemExit"),
    "interrupts": ("raise KeyboardInterrupt", "plugin harmful wanted to end the process (KeyboardInterrupt"),
}


@pytest.mark.fault(107)
@pytest.mark.parametrize("how", ENDINGS)
async def test_plugin_that_ends_the_event_loop_does_not_end_the_bot(how: str, fault: Fault, tmp_path: Path) -> None:
    code, line = ENDINGS[how]
    folder = folder_of(tmp_path, {"harmful": ENDS_THE_LOOP.format(how=code)})
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        assert "Joined" in await scene.join()
        with fault.clock(scaled=False):
            await bot.wait_for(lambda each: line in str(each.get("message")), 5, "its line")
            await answers(scene)
        await stops(bot, scene)
        assert not any(line.startswith("Traceback") for line in bot.tail)


CANCELS = {
    "all": ("each is not None", "the bot's main task was cancelled"),
    "voice": ("each.get_name().startswith('voice')", "the voice actor was cancelled"),
}


@pytest.mark.fault(107)
@pytest.mark.parametrize("which", CANCELS)
async def test_voice_is_left_when_a_plugin_cancels_its_tasks(which: str, fault: Fault, tmp_path: Path) -> None:
    condition, line = CANCELS[which]
    code = f"[each.cancel() for each in asyncio.all_tasks() if {condition}]"
    folder = folder_of(tmp_path, {"harmful": ENDS_THE_LOOP.format(how=code)})
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        assert "Joined" in await scene.join()
        await bot.wait_for(lambda each: line in str(each.get("message")), 5, "its line")
        with fault.clock(scaled=False):
            await scene.gone()
            await answers(scene)
            assert "Joined" in await joined(scene)
        assert await scene.place() == scene.voice[0]
        os.kill(bot.pid, signal.SIGTERM)
        assert await bot.wait(12.0) == 0
        assert await scene.place() is None
        assert scene.journals() == []
        assert not any(line.startswith("Traceback") for line in bot.tail)


@pytest.mark.fault(107)
async def test_voice_is_left_when_a_plugin_cancels_all_tasks_of_the_stop(fault: Fault, tmp_path: Path) -> None:
    code = """
@plugin.hook
async def on_stopping(bot, deadline): [each.cancel() for each in asyncio.all_tasks()]
"""
    folder = folder_of(tmp_path, {"harmful": code})
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        assert "Joined" in await scene.join()
        os.kill(bot.pid, signal.SIGTERM)
        with fault.clock(scaled=False):
            status = await bot.wait(12.0)
        # The wait for Discord's answer to the close frame may be cancelled too.
        assert status == (3 if "gateway.lost" in steps(bot) else 0)
        assert "voice.unload" in steps(bot)
        assert await scene.place() is None
        assert any("the stop was cancelled by something else" in str(each.get("message")) for each in bot.events)
        assert not any(line.startswith("Traceback") for line in bot.tail)


async def answers(scene: Scene) -> None:
    """Wait until the bot answers a command, which it may have to reconnect for."""
    async with asyncio.timeout(15):
        while "decided" not in await say(scene, "/privacy status", wait_s=1.0):
            pass


CLOSES = """
@plugin.hook
async def on_load(ctx): plugin.ctx = ctx
@plugin.hook
async def voice_session_opened(session): plugin.ctx.task(closes(), "closes")
async def closes():
    await asyncio.sleep(0.2)
    await plugin.ctx.bot.close()
"""


@pytest.mark.fault(108)
async def test_plugin_that_closes_the_bot_stops_it_in_order(fault: Fault, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"closes": CLOSES})
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        assert "Joined" in await scene.join()
        with fault.clock(scaled=False):
            assert await bot.wait(12.0) == 0
        assert "plugin closes called bot.close()" in said_of(bot, "closes")
        assert await scene.place() is None
        assert await scene.leaves_before_the_gateway()
        assert scene.journals() == []


LOADS = {
    "all": "cancel(asyncio.all_tasks())",
    "others": "cancel(asyncio.all_tasks() - {asyncio.current_task()})",
    "later": "plugin.task = asyncio.create_task(cancel_all()); await asyncio.sleep(0.5)",
    "raises-cancelled": "raise asyncio.CancelledError",
    "raises-exit": "raise SystemExit(3)",
    "raises-generator-exit": "raise GeneratorExit",
    "raises-group": "raise BaseExceptionGroup('many', [KeyboardInterrupt()])",
}
CANCELS_ON_LOAD = """
def cancel(tasks):
    for task in tasks: task.cancel()
async def cancel_all(): cancel(asyncio.all_tasks())
@plugin.hook
async def on_load(ctx):
    {does}
    await asyncio.sleep(0)
"""


CANCELS_LATER = """
async def cancel_later():
    await asyncio.sleep(0.3)
    for task in asyncio.all_tasks() - {asyncio.current_task()}: task.cancel()
@plugin.hook
async def on_load(ctx): ctx.task(cancel_later(), "cancels")
"""
LOADS_SLOWLY = """
@plugin.hook
async def on_load(ctx): await asyncio.sleep(1.0)
"""


@pytest.mark.fault(107)
async def test_load_that_cancels_or_raises_anything_harms_its_plugin_alone(fault: Fault, tmp_path: Path) -> None:
    plugins = {name: CANCELS_ON_LOAD.format(does=does) for name, does in LOADS.items()}
    others = {"zx-late": CANCELS_LATER, "zy-slow": LOADS_SLOWLY, "zz-last": STORES}
    folder = folder_of(tmp_path, plugins | others)
    async with scenes(tmp_path) as scene:
        with fault.clock(20.0, scaled=False):
            async with scene.bot("--plugins-dir", str(folder)) as bot:
                assert "Joined" in await scene.join()
                for name in LOADS:
                    told = "loaded" if name == "others" else "failed"
                    assert f"plugin {name}: {told}" in said_of(bot, name)
                assert "it cancelled the task that called it" in said_of(bot, "all")
                assert "it was cancelled while it was loading" in said_of(bot, "zy-slow")
                for name in others:
                    assert f"plugin {name}: loaded" in said_of(bot, name)
                fault.note(await stops(bot, scene), 3.0, scaled=False)


SETTINGS = """
from pydantic import field_validator
from roost.config import Section, guild_setting
class Settings(Section):
    words: str = guild_setting("plain")
    @field_validator("words")
    @classmethod
    def check(cls, value):
        if value == "hangs":
            while True: pass
        if value == "raises": raise LookupError("the list")
        if value == "exits": raise SystemExit(3)
        if value == "cancels": raise asyncio.CancelledError
        return value
@plugin.hook
def register_config(): return Settings
"""
CHECKS = ("raises", "exits", "cancels", "hangs")


@pytest.mark.fault(229)
async def test_settings_whose_check_breaks_harm_their_plugin_alone(fault: Fault, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, dict.fromkeys((*CHECKS, "plain"), SETTINGS))
    settings = {f"{name}__words": name for name in CHECKS}
    async with scenes(tmp_path) as scene:
        owner = int(scene.sim.card["guilds"][0]["members"][0]["id"])

        async def configure(value: str) -> str:
            answer = await scene.discord.slash(
                member_id=owner,
                channel_id=scene.text,
                command="/config set",
                options={"plugin": "plain", "key": "words", "value": value},
                wait_s=8.0,
            )
            return str(answer["replies"][-1]["content"]) if answer["replies"] else ""

        async with scene.bot("--plugins-dir", str(folder), **settings) as bot:
            for name in CHECKS:
                assert f"plugin {name}: failed" in said_of(bot, name)
            assert f"it took too long ({folder}/hangs.py" in said_of(bot, "hangs")
            assert "plugin plain: loaded" in said_of(bot, "plain")
            assert "Joined" in await scene.join()
            assert "is `fine` here now" in await configure("fine")
            for value in CHECKS:
                with fault.clock(5.0, scaled=False):
                    assert "Nothing was changed" in await configure(value)
            assert "plain failed in its settings" in said_of(bot, "plain")
            assert "decided" in await say(scene, "/privacy status")
            fault.note(await stops(bot, scene), 3.0, scaled=False)


OUTLASTS = """
async def goes_on():
    while True:
        try:
            await asyncio.sleep(3600)
        except BaseException:
            pass
@plugin.hook
async def command_check(ctx): await goes_on()
@plugin.hook
async def call_status(guild_id, user_id): await goes_on()
@plugin.hook
async def on_stopping(bot): await goes_on()
"""


@pytest.mark.fault(308)
async def test_hook_that_catches_its_cancellation_delays_nothing(fault: Fault, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"outlasts": OUTLASTS})
    async with scenes(tmp_path) as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        with fault.clock(scaled=False):
            assert "I am in no voice channel" in await say(scene, "/voice leave")
        with fault.clock(scaled=False):
            assert "You are not heard" in await say(scene, "/privacy opt-out")
        assert "outlasts failed in command_check" in said_of(bot, "outlasts")
        assert "outlasts failed in call_status" in said_of(bot, "outlasts")
        with fault.clock(5.0, scaled=False):
            os.kill(bot.pid, signal.SIGTERM)
            assert await bot.wait(12.0) == 0


CANCELS_ITSELF = """
def cancel(): asyncio.current_task().cancel()
@plugin.hook
async def voice_join_check(request):
    cancel()
    await asyncio.sleep(30)
@plugin.hook
async def call_status(guild_id, user_id): cancel()
async def listens(event):
    cancel()
    await asyncio.sleep(30)
@plugin.hook
async def on_load(ctx): ctx.listen(hikari.InteractionCreateEvent, listens)
@plugin.command("works", "Cancels itself")
async def works(ctx):
    cancel()
    await asyncio.sleep(30)
@lightbulb.hook(lightbulb.ExecutionSteps.CHECKS)
async def checks(pipeline, ctx): cancel()
@plugin.command("checked", "Has a check that cancels itself", hooks=[checks])
async def checked(ctx): await ctx.respond("allowed")
"""


@pytest.mark.fault(310)
async def test_plugin_that_cancels_its_caller_has_failed_and_its_caller_answers(fault: Fault, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"wild": CANCELS_ITSELF})
    async with (
        scenes(tmp_path) as scene,
        scene.bot("--plugins-dir", str(folder), plugins__quarantine_failures="100") as bot,
    ):
        with fault.clock(scaled=False):
            assert "the plugin wild failed in its check" in await scene.join()
        with fault.clock(scaled=False):
            assert "decided" in await say(scene, "/privacy status")
        for command in ("/works", "/checked"):
            with fault.clock(scaled=False):
                assert "Something went wrong" in await say(scene, command)
        for source in (
            "voice_join_check",
            "call_status",
            "its listener for InteractionCreateEvent",
            "its command /works",
            "its command /checked",
        ):
            assert f"wild failed in {source} ({folder}/wild.py:" in said_of(bot, "wild"), source


KEEPS = """
works = ended = 0
@plugin.hook
async def on_load(ctx): ctx.keep(lasts, "lasts")
async def lasts():
    global works, ended
    works += 1
    try:
        await asyncio.sleep(3600)
    finally:
        works -= 1
        ended += 1
@plugin.command("lasts", "Whether its work lasts")
async def tells(ctx): await ctx.respond(f"{works} works, {ended} ended")
"""
CANCELS_ALL = """
@plugin.command("cancel", "Cancels every task")
async def cancels(ctx):
    await ctx.respond("done")
    for task in asyncio.all_tasks() - {asyncio.current_task()}: task.cancel()
"""


@pytest.mark.fault(311)
async def test_lasting_work_outlasts_a_plugin_that_cancels_every_task(fault: Fault, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"keeps": KEEPS, "wild": CANCELS_ALL})
    async with scenes(tmp_path) as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        assert await say(scene, "/lasts") == "1 works, 0 ended"
        with fault.clock(scaled=False):
            assert await say(scene, "/cancel", 1.0) == "done"
            answer = ""
            while answer != "1 works, 1 ended":
                answer = await say(scene, "/lasts", 1.0)
        told = "task plugin:keeps/lasts was cancelled by something else and starts again in 0.0 s"
        assert told in [str(each.get("message")) for each in bot.events]
        owner = int(scene.sim.card["guilds"][0]["members"][0]["id"])
        await scene.discord.slash(
            member_id=owner,
            channel_id=scene.text,
            command="/bot plugins unload",
            options={"plugin": "keeps"},
            wait_s=8.0,
        )
        assert "plugin keeps: unloaded" in said_of(bot, "keeps")


SINK = """
FILE = {file!r}
class Sink:
    def write(self, frame): os.truncate(FILE, os.path.getsize(FILE) + 1)
    def purge(self, user_id): pass
async def attach_again(session):
    while True:
        await asyncio.sleep(0.1)
        if os.path.exists(FILE + ".again"): session.attach(Sink())
@plugin.hook
async def voice_session_opened(session):
    {attach}
    asyncio.get_running_loop().create_task(attach_again(session))
"""
"""Listens by a sink of its own and says nothing of itself; counts packets by the size of a file."""
ATTACHES = {
    "first": "session.attach(Sink())",
    "second": "asyncio.get_running_loop().call_soon(session.attach, Sink())",
}
"""The second one by a callback that none of its code calls."""


async def is_deaf(file: Path) -> None:
    """A plugin's sink hears nothing: 25 packets would come in this time."""
    before = file.stat().st_size
    await asyncio.sleep(0.5)
    assert file.stat().st_size == before


async def hears(file: Path) -> None:
    before = file.stat().st_size
    async with asyncio.timeout(10):
        while file.stat().st_size == before:
            await asyncio.sleep(0.02)


@pytest.mark.fault(331)
@pytest.mark.fault(332)
async def test_a_plugin_hears_by_its_own_sink_only_while_it_is_on_and_told(fault: Fault, tmp_path: Path) -> None:
    heard = {name: tmp_path / f"heard by {name}" for name in ("first", "second")}
    for file in heard.values():
        file.touch()
    folder = folder_of(
        tmp_path, {name: SINK.format(file=str(file), attach=ATTACHES[name]) for name, file in heard.items()}
    )
    later = (folder / "second.py").rename(tmp_path / "second.py")

    async with scenes(tmp_path) as scene, scene.bot("--plugins-dir", str(folder)):

        async def notice(*plugins: str) -> int:
            async with asyncio.timeout(10):
                while True:
                    said = await scene.discord.messages(channel_id=scene.voice[0])
                    told = said and {each for each in heard if f"`{each}` receives your voice" in said[-1]["content"]}
                    if told == set(plugins):
                        return int(said[-1]["id"])
                    await asyncio.sleep(0.05)

        async def agree(message_id: int) -> None:
            await scene.discord.press(member_id=scene.ada, message_id=message_id, label="Agree", wait_s=5)

        assert "Joined" in await scene.join()
        await agree(one := await notice("first"))
        async with ada_speaks(scene):
            await hears(heard["first"])
            # Another one that says nothing of itself is told, and asked about, too.
            later.rename(folder / "second.py")
            with fault.clock(scaled=False):
                assert "is loaded" in await owner_says(scene, "/bot plugins load", plugin="second")
                both = await notice("first", "second")
            await is_deaf(heard["second"])
            for command in ("/plugins disable", "/bot plugins unload"):
                await agree(both)
                await hears(heard["second"])
                with fault.clock(scaled=False):
                    assert command[-5:] in await owner_says(scene, command, plugin="second")
                await agree(one)
                await hears(heard["first"])
                Path(f"{heard['second']}.again").touch()
                await is_deaf(heard["second"])
                Path(f"{heard['second']}.again").unlink()
                if "disable" in command:
                    assert "enabled" in await owner_says(scene, "/plugins enable", plugin="second")
                    both = await notice("first", "second")


STORES_ON = """
@plugin.hook
async def on_load(ctx): plugin.notes = ctx.store.collection("notes")
@plugin.hook
async def command_check(ctx):
    while True:
        try:
            return await plugin.notes.put("a note", 1)
        except asyncio.CancelledError:
            pass
@plugin.command("notes", "Counts them")
async def notes(ctx): await ctx.respond(f"There are {await plugin.notes.count()}.")
"""


@pytest.mark.fault(318)
async def test_hook_that_is_left_behind_while_it_stores_takes_nothing_with_it(fault: Fault, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"stores": STORES_ON})
    async with scenes(tmp_path) as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        assert "There are 1." in await say(scene, "/notes")
        with locked(tmp_path / "data"):
            replies = await asyncio.gather(*(say(scene, "/notes") for _ in range(TURNS)))
            assert not any("There are" in each for each in replies)
        with fault.clock(scaled=False):
            assert "There are 1." in await say(scene, "/notes")
        assert "command_check did not finish because the database is busy" in said_of(bot, "stores")
        os.kill(bot.pid, signal.SIGTERM)
        assert await bot.wait(12.0) == 0
    assert not any("never retrieved" in line for line in bot.tail)
