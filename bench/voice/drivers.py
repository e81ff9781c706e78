"""The voice drivers side by side. Writes one JSON file and prints a table.

A real bot with each driver in turn, at simulated Discords of the same make, in one run: joining, memory of idle
sessions, processor time of the whole process for each received packet, many sessions on one core.

Usage: python bench/voice/drivers.py build/bench-drivers.json [--sessions 300] [--drivers native,songbird]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

import run

JOINS = 50


async def joining(driver: str) -> dict[str, float]:
    """Joins one after the other, then nobody speaks."""
    async with run.fleet("--guilds", str(JOINS), driver=driver) as world, world.bot() as bot:
        process = psutil.Process(bot.pid)
        replies = [await world.join(0)]
        since = (await world.discord.state())["t"]
        before, threads = process.memory_info().rss, process.num_threads()
        for number in range(1, JOINS):
            replies.append(await world.join(number))
        await asyncio.sleep(1.0)
        took = run.handshakes(await world.discord.log(), since, world.sim.card["bots"][0]["user_id"])
        first = (await world.probe(), process.memory_info().rss, process.num_threads(), process.num_fds())
        await asyncio.sleep(10.0)
        last = await world.probe()
        return {
            "reply_p50_ms": statistics.median(replies) * 1000,
            "handshake_p50_ms": statistics.median(took) * 1000,
            "session_kib": (first[1] - before) / (JOINS - 1) / 1024,
            "idle_core_each": (last["cpu_s"] - first[0]["cpu_s"]) / (last["at"] - first[0]["at"]) / JOINS,
            "threads": first[2],
            "threads_each": (first[2] - threads) / (JOINS - 1),
            "fds_each": first[3] / JOINS,
        }


async def measure(drivers: list[str], sessions: int) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "machine": {"cpus": len(os.sched_getaffinity(0)), "python": platform.python_version()},
    }
    for driver in drivers:
        run.say(driver)
        figures[driver] = {
            "joins": await joining(driver),
            "packets": await run.packets(driver),
            "fleet": await run.many(sessions, driver),
        }
    return figures


def rows(figures: dict[str, Any], drivers: list[str]) -> list[list[str]]:
    def row(what: str, show: Any) -> list[str]:
        return [what, *(show(figures[driver]) for driver in drivers)]

    found = [
        row("join: op 4 to session description, median", lambda each: f"{each['joins']['handshake_p50_ms']:.1f} ms"),
        row("/voice join to its reply, median", lambda each: f"{each['joins']['reply_p50_ms']:.0f} ms"),
        row("memory of an idle session", lambda each: f"{each['joins']['session_kib']:.0f} KiB"),
        row("processor of an idle session", lambda each: f"{each['joins']['idle_core_each']:.3%} of a core"),
        row("threads with 50 sessions", lambda each: f"{each['joins']['threads']:.0f}"),
    ]
    for count in run.SPEAKERS:
        found.append(
            row(
                f"processor per packet, {count} speaking",
                lambda each, key=str(count): f"{each['packets'][key]['us']:.0f} us",
            )
        )
    return [
        *found,
        row("many sessions, one core", lambda each: f"{each['fleet']['sessions']}"),
        row("  packets/s", lambda each: f"{each['fleet']['packets_per_s']:.0f}"),
        row("  dropped, lost", lambda each: f"{each['fleet']['dropped']}, {each['fleet']['lost']}"),
        row("  of the core", lambda each: f"{each['fleet']['core']:.0%}"),
        row("  event loop lag p99", lambda each: f"{each['fleet']['lag_p99_ms']:.1f} ms"),
        row("  memory of the bot", lambda each: f"{each['fleet']['rss_mib']:.0f} MiB"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--sessions", type=int, default=300)
    parser.add_argument("--drivers", default="native,songbird")
    arguments = parser.parse_args()
    drivers = arguments.drivers.split(",")
    if "songbird" in drivers and importlib.util.find_spec("songbird") is None:
        print("the module songbird is not built, so there is nothing to compare: make songbird", file=sys.stderr)
        return 1
    figures = asyncio.run(measure(drivers, arguments.sessions))
    arguments.path.parent.mkdir(parents=True, exist_ok=True)
    arguments.path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    table = Table(title="Voice drivers")
    for column in ("what", *drivers):
        table.add_column(column)
    for each in rows(figures, drivers):
        table.add_row(*each)
    Console().print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
