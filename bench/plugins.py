"""What calling hooks costs, and reloading a plugin. Writes one JSON file and prints a table.

Ratios are against the same functions called bare in the same run (awaited one after the other, or for sync hooks by
pluggy itself), so that figures of different machines can be compared. All times are medians.

Usage: python bench/plugins.py build/bench-plugins.json [--quick]
"""

from __future__ import annotations

import asyncio
import gc
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from roost import AudioFrame, Meta, hookimpl
from roost.dispatch import Dispatcher
from roost.testing import running_bot

IMPLEMENTERS = (1, 3, 10)
FRAME_GOAL_US = 2.0
RELOAD_GOAL_S = 2.0
GUILD = 1
CONSENT = {"session": None, "user_id": 1}


class Quiet:
    """Implements one hook of each kind, doing nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta(self.name)

    @hookimpl
    async def handover(self) -> None:
        return None

    @hookimpl
    async def transcript_process(self, session: Any, draft: Any) -> None:
        return None

    @hookimpl
    async def voice_idle(self, seconds: float) -> None:
        return None

    @hookimpl
    async def handle_error(self, error: Any, source: str, plugin: str) -> None:
        return None

    @hookimpl
    def voice_consent(self, session: Any, user_id: int) -> None:
        return None

    @hookimpl
    def voice_audio_frame(self, frame: AudioFrame) -> None:
        return None


ASYNC_HOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "all": ("transcript_process", {"session": None, "draft": None}),
    "par": ("voice_idle", {"seconds": 1.0}),
    "first": ("handle_error", {"error": None, "source": "", "plugin": ""}),
}


async def each_us(call: Callable[[], Awaitable[Any]], calls: int, rounds: int) -> float:
    """Microseconds per call, the median of some rounds."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter_ns()
        for _ in range(calls):
            await call()
        found.append((time.perf_counter_ns() - began) / calls / 1000)
    return statistics.median(found)


def each_us_sync(call: Callable[[], Any], calls: int, rounds: int) -> float:
    found = []
    for _ in range(rounds):
        began = time.perf_counter_ns()
        for _ in range(calls):
            call()
        found.append((time.perf_counter_ns() - began) / calls / 1000)
    return statistics.median(found)


def row(kind: str, hook: str, count: int, *, ours_us: float, bare_us: float, bare: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "hook": hook,
        "implementers": count,
        "us": round(ours_us, 3),
        "bare_us": round(bare_us, 3),
        "bare": bare,
        "ratio": round(ours_us / bare_us, 2),
    }


async def dispatch_rows(calls: int, rounds: int) -> list[dict[str, Any]]:
    """One row per kind and number of implementers."""
    found = []
    for count in IMPLEMENTERS:
        plugins = [Quiet(f"quiet{number}") for number in range(count)]
        names = [plugin.name for plugin in plugins]
        dispatcher = Dispatcher(lambda names=names: names, lambda plugin, guild: True)  # type: ignore[misc]
        for plugin in plugins:
            dispatcher.manager.register(plugin, plugin.name)

        if count == 1:
            ours = await each_us(lambda d=dispatcher: d.call_own("quiet0", "handover"), calls, rounds)  # type: ignore[misc]
            bare = await each_us(plugins[0].handover, calls, rounds)
            found.append(row("own", "handover", 1, ours_us=ours, bare_us=bare, bare="awaited call"))
        for kind, (hook, arguments) in ASYNC_HOOKS.items():
            functions = [getattr(plugin, hook) for plugin in plugins]

            async def one_by_one(functions: Any = functions, arguments: Any = arguments) -> None:
                for function in functions:
                    await function(**arguments)

            async def dispatched(hook: str = hook, arguments: Any = arguments, dispatcher: Any = dispatcher) -> None:
                await dispatcher.call(hook, guild_id=GUILD, **arguments)

            bare = await each_us(one_by_one, calls, rounds)
            ours = await each_us(dispatched, calls, rounds)
            found.append(row(kind, hook, count, ours_us=ours, bare_us=bare, bare="awaited calls"))

        ours = each_us_sync(
            lambda d=dispatcher: d.call_sync("voice_consent", guild_id=GUILD, **CONSENT),  # type: ignore[misc]
            calls,
            rounds,
        )
        bare = each_us_sync(lambda d=dispatcher: d.manager.hook.voice_consent(**CONSENT), calls, rounds)  # type: ignore[misc]
        found.append(row("sync", "voice_consent", count, ours_us=ours, bare_us=bare, bare="pluggy's own call"))
    return found


def frame_rows(calls: int, rounds: int) -> list[dict[str, Any]]:
    """The path of every audio frame; ``us_per_implementer`` has the budget."""
    found = []
    frame = AudioFrame(GUILD, 1, 1, 960, bytes(80))
    for count in IMPLEMENTERS:
        dispatcher = Dispatcher(list, lambda plugin, guild: True)
        for number in range(count):
            dispatcher.manager.register(Quiet(f"quiet{number}"), f"quiet{number}")
        sink = dispatcher.frame_sink(GUILD, None)
        ours = each_us_sync(lambda s=sink: s.write(frame), calls, rounds)  # type: ignore[misc]
        functions = [function for _, _, function in dispatcher.bound("voice_audio_frame", GUILD)]

        def bare(functions: Any = functions) -> None:
            for function in functions:
                function(frame)

        found.append(
            row(
                "frame",
                "voice_audio_frame",
                count,
                ours_us=ours,
                bare_us=each_us_sync(bare, calls, rounds),
                bare="a loop",
            )
            | {"us_per_implementer": round(ours / count, 3)}
        )
    return found


PLUGIN = """
from roost import CommandContext, Plugin
__roost_plugin__ = plugin = Plugin("reloaded")

@plugin.command("version", "Which one is it?")
async def version(ctx: CommandContext) -> None:
    await ctx.respond("{number}")
"""


async def reload_row(times: int) -> dict[str, Any]:
    """From the edit of a drop-in plugin to its new answer, at the simulated Discord."""
    seconds, live = [], []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        file = folder / "drop" / "reloaded.py"
        file.parent.mkdir(mode=0o755)
        file.write_text(PLUGIN.format(number=0))
        async with running_bot(file, data_dir=folder / "data") as bot:
            for number in range(1, times + 1):
                file.write_text(PLUGIN.format(number=number))
                began = time.perf_counter()
                await bot.app.plugins.reload("reloaded")
                seconds.append(time.perf_counter() - began)
                answer = (await bot.slash("/version")).content
                live.append(time.perf_counter() - began)
                if answer != str(number):
                    raise RuntimeError(f"version {number} was loaded, but {answer} answered")
    return {
        "times": times,
        "reload_s": round(statistics.median(seconds), 4),
        "reload_max_s": round(max(seconds), 4),
        "live_s": round(statistics.median(live), 4),
    }


def show(result: dict[str, Any]) -> None:
    table = Table(title="Hooks: cost of a call (medians)")
    for name in ("kind", "hook", "plugins", "us", "bare us", "ratio"):
        table.add_column(name, justify="left" if name in ("kind", "hook") else "right")
    for each in result["dispatch"] + result["frames"]:
        cells = (each["kind"], each["hook"], each["implementers"], each["us"], each["bare_us"], each["ratio"])
        table.add_row(*map(str, cells))
    console = Console()
    console.print(table)
    worst = max(each["us_per_implementer"] for each in result["frames"])
    console.print(f"a frame costs at most {worst} us per implementation (goal: under {FRAME_GOAL_US})")
    reload = result["reload"]
    console.print(f"a reload takes {reload['reload_s']} s, and {reload['live_s']} s to the new answer (goal: under 2)")


def main(arguments: list[str]) -> int:
    """Measure, write, print; gives 1 if a goal is missed."""
    paths = [each for each in arguments if not each.startswith("--")]
    if len(paths) != 1:
        print("usage: python bench/plugins.py FILE [--quick]", file=sys.stderr)
        return 2
    quick = "--quick" in arguments
    calls, rounds, reloads = (300, 5, 3) if quick else (3000, 15, 20)
    gc.disable()  # A collection in one of two figures would make their ratio wrong.
    result: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "dispatch": asyncio.run(dispatch_rows(calls, rounds)),
        "frames": frame_rows(calls * 10, rounds),
    }
    gc.enable()
    result["reload"] = asyncio.run(reload_row(reloads))
    result["goals"] = {
        "frame_us_per_implementer": {
            "goal": FRAME_GOAL_US,
            "met": all(each["us_per_implementer"] < FRAME_GOAL_US for each in result["frames"]),
        },
        "reload_s": {"goal": RELOAD_GOAL_S, "met": result["reload"]["live_s"] < RELOAD_GOAL_S},
    }
    file = Path(paths[0])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(result)
    return 0 if all(each["met"] for each in result["goals"].values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
