"""What voice costs. Writes one JSON file and prints a table.

A real bot (`roost run`, speech-to-text off) at a simulated Discord in a process of its own, beside the floor: the same
libraries with nothing around them (`floor.py`), in the same run, at the same simulator, with the same packets. Ratios
are against that floor, so that figures of different machines compare. With two or more cores the simulator has one
of them and what is measured has another.

Usage: python bench/voice/run.py build/bench-voice.json [--only joins,packets,fleet] [--sessions 300]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from roost.demo.bot_process import BotProcess, run_bot
from roost.sim import ControlClient, spawn
from roost.sim.process import SimProcess

HERE = Path(__file__).parent
RECORDING = "lv_0880"
JOINS = 50
SPEAKERS = (1, 10, 25)
WINDOW_S = 8.0
FLEET_S = 20.0
SHARDS = 8
"""One member asks for all joins, and a shard keeps half of each minute's voice requests for others."""
REAPED_IN_S = 10.0
NULL_IGNORED_S = 60.0
PROGRESS = Console(stderr=True)


class Fleet:
    """A simulator with its control client, and bots to start at it."""

    def __init__(self, sim: SimProcess, discord: ControlClient, folder: Path, driver: str) -> None:
        self.sim = sim
        self.driver = driver
        self.discord = discord
        self.folder = folder
        self.guilds = sim.card["guilds"]

    @asynccontextmanager
    async def bot(self, *, lag: bool = False) -> AsyncIterator[BotProcess]:
        """A real bot with the probe, speech-to-text off, on its core; `lag` measures that of its event loop too."""
        plugins = self.folder / "plugins"
        plugins.mkdir(mode=0o700, exist_ok=True)
        (plugins / "probe.py").write_text((HERE / "probe.py").read_text(encoding="utf-8"), encoding="utf-8")
        settings = {
            "discord.rest_url": self.sim.card["rest_url"],
            "voice.ca_file": self.sim.card["ca_file"],
            "voice.allowed_hosts": "localhost,127.0.0.1",
            "voice.driver": self.driver,
            "voice.joins_per_user": "1000",
            "voice.joins_per_shard": "1000",
            "log.format": "json",
            "plugins.required": "voice",
            "plugins.deny": "stt",
        }
        arguments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        arguments += ["--data-dir", str(self.folder / "data"), "--plugins-dir", str(plugins)]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
        environ |= {"ROOST_TOKEN": self.sim.card["bots"][0]["token"], "BENCH_PROBE": str(self.folder / "probe.json")}
        if lag:
            environ["BENCH_LAG"] = "1"
        async with run_bot(arguments, environ) as bot:
            pin(bot.pid, 0)
            await bot.ready(60.0)
            yield bot

    def places(self) -> list[tuple[int, int]]:
        return [(int(guild["id"]), int(guild["voice_channels"][0]["id"])) for guild in self.guilds]

    async def join(self, number: int) -> float:
        """Have the bot join by slash command; seconds until the reply says so."""
        guild = self.guilds[number]
        began = time.perf_counter()
        answer = await self.discord.slash(
            member_id=int(guild["members"][0]["id"]),
            channel_id=int(guild["text_channels"][0]["id"]),
            command="/voice join",
            options={"channel": guild["voice_channels"][0]["id"]},
            wait_s=20.0,
        )
        took = time.perf_counter() - began
        said = " ".join(reply["content"] for reply in answer["replies"])
        if "Joined" not in said:
            raise RuntimeError(f"the bot did not join server {number}: {said or 'no answer'}")
        return took

    async def in_voice(self) -> int:
        """In how many servers Discord shows the bot."""
        mine = self.sim.card["bots"][0]["user_id"]
        state = await self.discord.state()
        return sum(str(each["user_id"]) == mine for each in state["voice_states"])

    async def probe(self) -> dict[str, Any]:
        """The next figures that the bot writes about itself."""
        path = self.folder / "probe.json"
        before = json.loads(path.read_text(encoding="utf-8"))["number"] if path.exists() else 0
        while True:
            await asyncio.sleep(0.02)
            with contextlib.suppress(FileNotFoundError):
                found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                if found["number"] != before:
                    return found


@asynccontextmanager
async def fleet(*arguments: str, driver: str = "native") -> AsyncIterator[Fleet]:
    with tempfile.TemporaryDirectory() as folder:
        async with spawn(arguments) as sim, ControlClient(sim.card["control_url"]) as discord:
            pin(sim.pid, 1)
            yield Fleet(sim, discord, Path(folder), driver)


def say(what: str) -> None:
    """How far it is, where somebody looks on."""
    if PROGRESS.is_terminal:
        PROGRESS.print(f"{what:<60}", end="\r")


def pin(pid: int, core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, {cores[core]})


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def joins() -> dict[str, Any]:
    """Joining one after the other, memory of idle sessions, stopping them all, reaping their ghosts."""
    figures: dict[str, Any] = {}
    async with fleet("--guilds", str(JOINS), "--ghosts", "honoured") as world:
        places = [f"{guild}:{channel}" for guild, channel in world.places()]
        bare = [line["seconds"] for line in await floor("joins", world, places)]
        async with world.bot() as bot:
            memory = psutil.Process(bot.pid)
            replies = [await world.join(0)]
            began_log = (await world.discord.state())["t"]
            warm = memory.memory_info().rss
            for number in range(1, JOINS):
                replies.append(await world.join(number))
                say(f"joins: {number + 1} of {JOINS}")
            await asyncio.sleep(1.0)
            idle = (memory.memory_info().rss - warm) / (JOINS - 1) / 1024
            ours = handshakes(await world.discord.log(), began_log, world.sim.card["bots"][0]["user_id"])
            figures["join"] = {
                "reply_p50_s": statistics.median(replies),
                "reply_p99_s": quantile(replies, 0.99),
                "handshake_s": statistics.median(ours),
                "bare_s": statistics.median(bare),
                "ratio": statistics.median(ours) / statistics.median(bare),
                "joins": JOINS,
            }
            figures["idle_session_kib"] = idle
            began = time.perf_counter()
            bot.terminate()
            await bot.wait(20.0)
            figures["stop_s"] = time.perf_counter() - began
            figures["left_behind_by_stop"] = await world.in_voice()
            figures["stop_sessions"] = JOINS
    for ghosts in ("honoured", "ignored"):
        figures[f"reap_{ghosts}"] = await reap(ghosts)
    return figures


def handshakes(log: list[dict[str, Any]], since: float, bot_id: str) -> list[float]:
    """From op 4 to the session description of each join, by the simulator's own clock."""
    asked: dict[str, float] = {}
    found = []
    for entry in log:
        if entry["t"] < since or str(entry.get("user_id", entry.get("bot_id", ""))) != bot_id:
            continue
        guild = str(entry.get("guild_id"))
        if entry["kind"] == "op4" and entry["channel_id"]:
            asked[guild] = entry["t"]
        elif entry.get("event") == "select" and guild in asked:
            found.append(entry["t"] - asked.pop(guild))
    return found


async def reap(ghosts: str) -> dict[str, Any]:
    """Kill a bot with so many sessions, start another, and watch the ghosts go."""
    async with fleet("--guilds", str(JOINS), "--ghosts", ghosts) as world:
        async with world.bot() as bot:
            for number in range(JOINS):
                await world.join(number)
            bot.kill()
            await bot.wait(5.0)
        left = await world.in_voice()
        async with world.bot():
            began = time.perf_counter()
            first_30 = 0.0
            while left and time.perf_counter() - began < NULL_IGNORED_S + REAPED_IN_S:
                await asyncio.sleep(0.05)
                left = await world.in_voice()
                if not first_30 and left <= JOINS - 30:
                    first_30 = time.perf_counter() - began
                say(f"ghosts ({ghosts}): {left} left")
            return {
                "ghosts": JOINS,
                "first_30_s": first_30 or None,
                "all_s": time.perf_counter() - began if not left else None,
                "left": left,
            }


async def floor(what: str, world: Fleet, places: list[str]) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "floor.py"), what, json.dumps(world.sim.card), "1", *places),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    pin(process.pid, 0)
    out, _ = await asyncio.wait_for(process.communicate(), 120.0)
    if process.returncode:
        raise RuntimeError(f"the floor's {what} failed")
    return [json.loads(line) for line in out.decode().splitlines()]


async def packets(driver: str = "native") -> dict[str, Any]:
    """Processor time per received packet, in the bot and in the floor, of the same speakers at once."""
    figures: dict[str, Any] = {}
    people = str(max(SPEAKERS))
    async with fleet("--guilds", "1", "--members", people, driver=driver) as world, world.bot():
        await world.join(0)
        ((guild, channel),) = world.places()
        members = [int(each["id"]) for each in world.guilds[0]["members"]]
        inside: list[int] = []
        for count in SPEAKERS:
            for member in members[len(inside) : count]:
                await world.discord.voice(member_id=member, channel_id=channel)
                inside.append(member)
            async with receiver(world, f"{guild}:{channel}") as ask:
                quiet = await window(world, None, WINDOW_S / 2)
                talk = [
                    asyncio.ensure_future(
                        world.discord.speak(member_id=member, recording=RECORDING, params={"repeat": 8, "wait_s": 15})
                    )
                    for member in inside
                ]
                await asyncio.sleep(1.0)
                say(f"packets of {count} speakers: {WINDOW_S:g} s")
                await ask(count)
                ours, bare = await window(world, functools.partial(ask, count), WINDOW_S)
                for each in talk:
                    each.cancel()
                await asyncio.gather(*talk, return_exceptions=True)
            figures[str(count)] = {
                "packets": ours["packets"],
                "us": ours["cpu_s"] / ours["packets"] * 1e6,
                "bare_us": bare["cpu_s"] / bare["packets"] * 1e6,
                "ratio": (ours["cpu_s"] / ours["packets"]) / (bare["cpu_s"] / bare["packets"]),
                "idle_share_of_core": quiet[0]["cpu_s"] / quiet[0]["seconds"],
                "dropped": ours["dropped"],
                "lost": ours["lost"],
                "bare_undecrypted": bare["undecrypted"],
            }
    return figures


async def window(world: Fleet, ask: Any, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """What the bot (and the floor, by `ask`) used and received in so many seconds."""
    first, bare_first = await world.probe(), await ask() if ask else {}
    await asyncio.sleep(seconds)
    last, bare_last = await world.probe(), await ask() if ask else {}
    ours = {
        "seconds": last["at"] - first["at"],
        "cpu_s": last["cpu_s"] - first["cpu_s"],
        "packets": last["packets_in"] - first["packets_in"],
        "dropped": last["dropped"] - first["dropped"],
        "lost": last["lost"] - first["lost"],
    }
    return ours, {key: bare_last[key] - bare_first[key] for key in bare_last}


@asynccontextmanager
async def receiver(world: Fleet, place: str) -> AsyncIterator[Any]:
    """The floor as another bot in the same channel."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "floor.py"), "receive", json.dumps(world.sim.card), "1", place),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def line() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await asyncio.wait_for(stdout.readline(), 30.0))
        return found

    async def ask(speakers: int) -> dict[str, Any]:
        stdin.write(json.dumps({"speakers": speakers}).encode() + b"\n")
        return await line()

    try:
        await line()
        pin(process.pid, 0)
        yield ask
    finally:
        stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 10.0)
        except TimeoutError:
            process.kill()
            await process.wait()


async def many(sessions: int, driver: str = "native") -> dict[str, Any]:
    """So many sessions with one speaker each in one process on one core."""
    places = ("--guilds", str(sessions), "--shards", str(SHARDS))
    async with fleet(*places, driver=driver) as world, world.bot(lag=True) as bot:
        for number in range(sessions):
            await world.join(number)
            guild = world.guilds[number]
            await world.discord.voice(
                member_id=int(guild["members"][0]["id"]),
                guild_id=int(guild["id"]),
                channel_id=int(guild["voice_channels"][0]["id"]),
            )
            say(f"sessions: {number + 1} of {sessions}")
        talk = [
            asyncio.ensure_future(
                world.discord.speak(
                    member_id=int(guild["members"][0]["id"]),
                    guild_id=int(guild["id"]),
                    recording=RECORDING,
                    params={"repeat": 16, "wait_s": 30, "direct": True},
                )
            )
            for guild in world.guilds
        ]
        await asyncio.sleep(8.0)
        simulator = psutil.Process(world.sim.pid)
        sim_before = sum(simulator.cpu_times()[:2])
        first = await world.probe()
        lags: list[float] = []
        last = first
        while last["at"] - first["at"] < FLEET_S:
            last = await world.probe()
            lags += last["lags_ms"]
        seconds = last["at"] - first["at"]
        received = last["packets_in"] - first["packets_in"]
        figures = {
            "sessions": last["sessions"],
            "shards": SHARDS,
            "packets_per_s": received / seconds,
            "wanted_packets_per_s": sessions * 50,
            "dropped": last["dropped"] - first["dropped"],
            "lost": last["lost"] - first["lost"],
            "core": (last["cpu_s"] - first["cpu_s"]) / seconds,
            "simulator_core": (sum(simulator.cpu_times()[:2]) - sim_before) / seconds,
            "lag_p50_ms": statistics.median(lags),
            "lag_p99_ms": quantile(lags, 0.99),
            "rss_mib": psutil.Process(bot.pid).memory_info().rss / 2**20,
        }
        for each in talk:
            each.cancel()
        await asyncio.gather(*talk, return_exceptions=True)
        return figures


def rows(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    if "joins" in figures:
        part = figures["joins"]
        join = part["join"]
        found += [
            ("join: op 4 to session description", f"{join['handshake_s'] * 1000:.1f} ms", ""),
            ("  the bare handshake", f"{join['bare_s'] * 1000:.1f} ms", ""),
            ("  ratio", f"{join['ratio']:.2f}", "1.5"),
            ("  /voice join to its reply, p99", f"{join['reply_p99_s']:.3f} s", "0.5 s"),
            ("memory of an idle session", f"{part['idle_session_kib']:.0f} KiB", "300 KiB"),
            (f"stop with {JOINS} live sessions", f"{part['stop_s']:.2f} s", "3 s"),
        ]
        for ghosts in ("honoured", "ignored"):
            reaped = part[f"reap_{ghosts}"]
            all_s = "not all" if reaped["all_s"] is None else f"{reaped['all_s']:.1f} s"
            first = "not" if reaped["first_30_s"] is None else f"{reaped['first_30_s']:.1f} s"
            found.append((f"{JOINS} ghosts reaped, null {ghosts}", f"{all_s} (30: {first})", "10 s"))
    for count, part in figures.get("packets", {}).items():
        found.append(
            (
                f"processor per packet, {count} speaking",
                f"{part['us']:.1f} us, bare {part['bare_us']:.1f} us, ratio {part['ratio']:.2f}",
                "2",
            )
        )
    if "fleet" in figures:
        part = figures["fleet"]
        found += [
            (
                f"{part['sessions']} sessions, {SHARDS} shards, one core",
                f"{part['packets_per_s']:.0f} packets/s of {part['wanted_packets_per_s']}, "
                f"{part['dropped']} dropped, {part['lost']} lost",
                "0",
            ),
            ("  the core", f"{part['core']:.0%} (the simulator's {part['simulator_core']:.0%})", ""),
            ("  event loop lag p99", f"{part['lag_p99_ms']:.1f} ms", "20 ms"),
        ]
    return found


async def measure(wanted: list[str], sessions: int) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "machine": {"cpus": len(os.sched_getaffinity(0)), "python": platform.python_version()},
    }
    if "joins" in wanted:
        figures["joins"] = await joins()
    if "packets" in wanted:
        figures["packets"] = await packets()
    if "fleet" in wanted:
        figures["fleet"] = await many(sessions)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--only", default="joins,packets,fleet")
    parser.add_argument("--sessions", type=int, default=300)
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.only.split(","), arguments.sessions))
    arguments.path.parent.mkdir(parents=True, exist_ok=True)
    arguments.path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    table = Table(title="Voice")
    for column in ("what", "measured", "goal"):
        table.add_column(column)
    for row in rows(figures):
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
