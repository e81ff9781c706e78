"""A real bot under random commands and faults for as long as you like: ``python tests/live_soak.py --seconds 3600``.

A bot process (speech-to-text off) at a simulated Discord in another one; every second or so somebody joins, leaves,
moves or kicks it, the voice server or the gateway breaks, or people speak. Never may there be two sessions in a
server, and at the end the bot must be at rest where it was after its first call: descriptors, threads, children,
memory. Prints a line of figures a minute and a JSON summary; exit status 1 for a violation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent / "faults"))

from bot_scene import Scene, scenes

from roost.demo.bot_process import BotProcess
from roost.sim.client import ControlError

CODES = (1000, 1001, 4001, 4004, 4006, 4009, 4011, 4014, 4015, 4022, 4099)
REST_S = 90.0
RSS_MIB = 16.0
"""What the allocator may keep beside what is used."""


class Walk:
    """One random walk over everything that can happen to a bot in voice."""

    def __init__(self, scene: Scene, dice: random.Random) -> None:
        self.scene = scene
        self.dice = dice
        self.done: Counter[str] = Counter()

    async def step(self) -> None:
        name = self.dice.choice(list(STEPS))
        self.done[name] += 1
        try:
            await STEPS[name](self)
        except ControlError:
            self.done["impossible then"] += 1
        await asyncio.sleep(self.dice.uniform(0.0, 1.2))

    async def join(self) -> None:
        await self.scene.join(self.dice.randrange(3), wait_s=8.0)

    async def leave(self) -> None:
        await self.scene.discord.slash(
            member_id=self.scene.ada, channel_id=self.scene.text, command="/voice leave", wait_s=8.0
        )

    async def move(self) -> None:
        channel = self.scene.voice[self.dice.randrange(3)]
        await self.scene.discord.move(member_id=int(self.scene.bot_id), channel_id=channel)

    async def kick(self) -> None:
        await self.scene.discord.kick(member_id=int(self.scene.bot_id))

    async def server(self) -> None:
        lost = self.dice.random() < 0.3
        await self.scene.discord.call("POST", "/server", {"guild_id": str(self.scene.guild_id), "bot": 0, "null": lost})

    async def gateway(self) -> None:
        action = self.dice.choice(["drop", "abort", "invalidate"])
        await self.scene.discord.call("POST", "/gateway", {"bot": 0, "action": action})
        await asyncio.sleep(2.0)

    async def close(self) -> None:
        await self.fault("close", code=self.dice.choice(CODES))

    async def breaks(self) -> None:
        name = self.dice.choice(
            ["reset_tcp", "blackhole_ws", "mute_ready", "withhold_vsrvu", "corrupt_media", "drop_op4"]
        )
        await self.fault(name)

    async def loss(self) -> None:
        await self.fault("udp_loss", percent=20, seconds=3, seed=self.dice.randrange(1000))

    async def fault(self, name: str, **params: Any) -> None:
        await self.scene.discord.fault(name, guild_id=self.scene.guild_id, times=1, **params)

    async def speak(self) -> None:
        await self.scene.discord.speak(member_id=self.scene.ada, recording="lv_0880")

    async def company(self) -> None:
        channel = self.dice.choice([None, *self.scene.voice[:3]])
        await self.scene.discord.voice(member_id=self.scene.ada, channel_id=channel)


STEPS = {
    name: getattr(Walk, name)
    for name in ("join", "leave", "move", "kick", "server", "gateway", "close", "breaks", "loss", "speak", "company")
}


def held(bot: BotProcess) -> dict[str, Any]:
    """What the process holds."""
    process = psutil.Process(bot.pid)
    kinds: Counter[str] = Counter()
    for fd in Path(f"/proc/{bot.pid}/fd").iterdir():
        try:
            kinds[str(fd.readlink()).partition(":")[0]] += 1
        except OSError:
            continue
    return {
        "fds": dict(kinds),
        "threads": process.num_threads(),
        "children": len(process.children()),
        "rss_mib": round(process.memory_info().rss / 2**20, 1),
    }


async def at_rest(scene: Scene, bot: BotProcess) -> dict[str, Any]:
    """Leave, disarm every fault, and wait until nothing changes any more."""
    for each in (await scene.discord.call("GET", "/faults"))["armed"]:
        await scene.discord.call("DELETE", f"/fault/{each['id']}")
    deadline = time.monotonic() + REST_S
    while time.monotonic() < deadline:
        await scene.discord.slash(member_id=scene.ada, channel_id=scene.text, command="/voice leave", wait_s=8.0)
        await asyncio.sleep(2.0)
        live = (await scene.discord.state())["sessions"]["live"]
        mine = await scene.place()
        if mine is None and not live:
            await asyncio.sleep(3.0)
            return held(bot)
    raise AssertionError(f"the bot is still in voice {REST_S:g} s after it was told to leave")


async def walk(seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    dice = random.Random(seed)
    async with (
        scenes(folder, "--ghosts", dice.choice(["honoured", "ignored"])) as scene,
        scene.bot(voice__joins_per_user="1000") as bot,
    ):
        await scene.join()
        await asyncio.sleep(2.0)
        first = await at_rest(scene, bot)
        steps, began, said = Walk(scene, dice), time.monotonic(), time.monotonic()
        while time.monotonic() - began < seconds:
            await steps.step()
            assert bot.returncode is None, "the bot ended"
            if time.monotonic() - said > 60:
                said = time.monotonic()
                most = (await scene.discord.state())["max_sessions_per_guild"]
                print(
                    f"{time.monotonic() - began:.0f} s, {steps.done.total()} steps, {held(bot)}, most {most}",
                    flush=True,
                )
        last = await at_rest(scene, bot)
        state = await scene.discord.state()
        errors = Counter(
            str(each.get("message"))[:90] for each in bot.events if each.get("level") in ("ERROR", "CRITICAL")
        )
        bot.terminate()
        status = await bot.wait(15)
        return {
            "seconds": round(time.monotonic() - began),
            "seed": seed,
            "steps": dict(steps.done),
            "sessions": {key: state["sessions"][key] for key in ("live", "opened", "closed")},
            "max_sessions_per_guild": state["max_sessions_per_guild"],
            "first": first,
            "last": last,
            "errors": dict(errors),
            "status": status,
            "place": await scene.place(),
        }


def judge(figures: dict[str, Any]) -> list[str]:
    """What is wrong, in words."""
    first, last = figures["first"], figures["last"]
    wrong = []
    if figures["max_sessions_per_guild"] != 1:
        wrong.append(f"{figures['max_sessions_per_guild']} sessions at once in a server")
    if figures["sessions"]["live"] or figures["place"] is not None or figures["status"]:
        wrong.append("voice was not left at the end")
    # The connection to REST comes and goes by itself.
    if sum(last["fds"].values()) > sum(first["fds"].values()) + 1:
        wrong.append(f"descriptors: {first['fds']} became {last['fds']}")
    if last["threads"] > first["threads"] or last["children"] > first["children"]:
        wrong.append("threads or children were left")
    if last["rss_mib"] > first["rss_mib"] + RSS_MIB:
        wrong.append(f"memory: {first['rss_mib']} MiB became {last['rss_mib']} MiB")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(2**32)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(walk(arguments.seconds, seed, Path(folder)))
    wrong = judge(figures)
    print(json.dumps({"ok": not wrong, "wrong": wrong, **figures}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
