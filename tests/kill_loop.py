"""Kills the bot over and over: ``python tests/kill_loop.py --n 1000 [--seed S]``.

A real ``roost run`` at a simulated Discord in a process of its own is killed (SIGKILL) at a random point of a random
activity and started again on the same data folder. In every round: whatever it had started is gone within 2 s, its
ghost within 10 s of READY, its journal with it, its lock on the data folder no longer in the way; and nothing befalls
the voice session of a second bot in another server. In every other batch foreign software shares the bot's token
(``voice.exclusive = false``), and nothing befalls its session either. Half of the rounds are played where a new
session's leave ends an old one's voice state, half where it does not. The last line is JSON; a violation is told as a
story on standard error, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from kill_loop_parts import MOMENTS, Figures, Violation, foreign_bot, progress, session_of, watch
from roost.demo.bot_process import BotProcess, run_bot, wait_gone
from roost.errors import RoostError
from roost.sim import ControlClient, SimProcess, spawn

GHOSTS = ("honoured", "ignored")
GHOST_S = 10.0
"""From READY until Discord shows the bot nowhere."""
CHILDREN_S = 2.0
READY_S = 30.0
HOLD_S = 0.25
"""For so long is looked whether the ghost stays gone."""
POINTS = {"idle": 0.3, "start": 2.5, "joining": 1.2, "live": 0.5, "moving": 1.2, "leaving": 1.2, "journal": 0.0}
"""The activities, and how long after its beginning the kill comes at the latest: voice requests are a second apart. In
"journal" it comes at once in one of the moments in which the journal changes."""
SHOWN = 40
BATCH = 250
"""Rounds at one simulator: Discord lets a bot begin 1,000 sessions a day. Every other batch shares its token."""
ENVIRON = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}


class Loop:
    """One simulator, the bot that is killed, a second bot and, if its token is shared, foreign software."""

    def __init__(
        self, sim: SimProcess, discord: ControlClient, folder: Path, dice: random.Random, *, shared: bool
    ) -> None:
        self._shared = shared
        self._card = sim.card
        self._discord = discord
        self._folder = folder
        self._dice = dice
        self._bot_id, self._bystander_id = (each["user_id"] for each in sim.card["bots"])
        self._here, self._there = sim.card["guilds"]
        self._member = int(self._here["members"][0]["id"])  # who may send the bot anywhere
        self._running = contextlib.AsyncExitStack()
        self._struck: list[int] = []
        self._struck_at = 0.0
        self._others: dict[str, Any] = {}
        self._looked_at = 0.0
        self._story: list[str] = []
        self.figures = Figures()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """The others are in voice and the bot is ready."""
        neighbour = int(self._there["members"][2]["id"])
        channel = int(self._there["voice_channels"][0]["id"])
        await self._discord.voice(member_id=neighbour, channel_id=channel)
        await self._discord.voice(member_id=self._member, channel_id=int(self._here["voice_channels"][0]["id"]))
        foreign_in = int(self._there["voice_channels"][1]["id"])
        foreign = foreign_bot(self._card, int(self._there["id"]), foreign_in)
        async with (
            foreign if self._shared else contextlib.nullcontext(),
            run_bot(self._arguments("bystander"), self._environ(1)) as self._bystander,
        ):
            await self._bystander.ready(READY_S)
            text = int(self._there["text_channels"][0]["id"])
            await self._slash("/voice join", member=neighbour, text=text, bot=1, wait_s=10.0)
            self._others = self._others_in(await self._discord.state())
            assert self._others["bystander"]["place"] == [str(channel)], "the bystander did not come into voice"
            if self._shared:
                assert self._others["foreign software"]["place"] == [str(foreign_in)], "the foreign software did not"
            self._looked_at = time.monotonic()
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(self._end_bot)
                await self._start_bot()
                await self._bot.ready(READY_S)
                yield

    async def round(self) -> None:
        """Kill the bot once (twice, when it is killed while it starts), and see that nothing is left.

        Raises:
            Violation: Something is.
        """
        self._story, began = [], time.monotonic()
        activity = self._dice.choice(list(POINTS))
        after_s = self._dice.uniform(0.0, POINTS[activity])
        try:
            await getattr(self, f"_{activity}")(after_s)
            await self._kill()
            if await self._place():
                self.figures.ghosts += 1
            await self._start_bot()
            await self._no_ghost()
            await self._look_at_others()
        except (Violation, RoostError, TimeoutError, AssertionError) as error:
            violation = error if isinstance(error, Violation) else Violation(f"{type(error).__name__}: {error}")
            violation.story = [
                f"killed {after_s:.3f} s after the beginning of: {activity}",
                *self._story,
                "the bot's log:",
                *self._bot.tail,
                "the simulator's log:",
                *[json.dumps(each) for each in (await self._discord.log(began))[-SHOWN:]],
            ]
            raise violation from None
        self.figures.rounds += 1
        self.figures.activities[activity] += 1

    # What the bot is doing when it is killed

    async def _idle(self, after_s: float) -> None:
        await asyncio.sleep(after_s)

    async def _start(self, after_s: float) -> None:
        """A ghost is already there when the bot that would end it is killed."""
        await self._join()
        await self._kill()
        await self._start_bot()
        await asyncio.sleep(after_s)

    async def _joining(self, after_s: float) -> None:
        async with self._meanwhile(self._slash("/voice join", channel=self._channel())):
            await asyncio.sleep(after_s)

    async def _live(self, after_s: float) -> None:
        await self._join()
        await asyncio.sleep(after_s)

    async def _moving(self, after_s: float) -> None:
        here = await self._join()
        there = self._dice.choice([each for each in self._channels() if each != here])
        if self._dice.random() < 0.5:
            moved: Awaitable[Any] = self._slash("/voice join", channel=there)
        else:
            moved = self._discord.move(member_id=int(self._bot_id), channel_id=there)
        async with self._meanwhile(moved):
            await asyncio.sleep(after_s)

    async def _leaving(self, after_s: float) -> None:
        await self._join()
        async with self._meanwhile(self._slash("/voice leave")):
            await asyncio.sleep(after_s)

    async def _journal(self, _after_s: float) -> None:
        moment = self._dice.choice(list(MOMENTS))
        if moment == "removed":
            await self._join()
        below = self._bot.descendants()
        with watch(self._instances, moment) as come:
            doing = (
                self._slash("/voice leave")
                if moment == "removed"
                else self._slash("/voice join", channel=self._channel())
            )
            async with self._meanwhile(doing, below):
                await asyncio.wait_for(come.wait(), 5)
        self._tell(f"its journal was {moment}")

    async def _join(self) -> int:
        channel = self._channel()
        await self._slash("/voice join", channel=channel, wait_s=10.0)
        if await self._place() != [str(channel)]:
            raise Violation("the bot did not come into voice")
        return channel

    @contextlib.asynccontextmanager
    async def _meanwhile(self, doing: Awaitable[Any], below: list[int] | None = None) -> AsyncIterator[None]:
        """Something goes on while the block waits; the bot is killed at its end, before the answer is there."""
        task = asyncio.ensure_future(doing)
        try:
            yield
            self._strike(below)
        finally:
            await asyncio.wait([task])
        task.result()

    # The bot

    def _arguments(self, name: str) -> list[str]:
        settings = {
            "discord.rest_url": self._card["rest_url"],
            "voice.ca_file": self._card["ca_file"],
            "voice.allowed_hosts": "localhost,127.0.0.1",
            "voice.exclusive": "false" if self._shared and name == "killed" else "true",
            "plugins.deny": "stt",
            "plugins.required": "voice",
            "start.max_identify_per_hour": "0",
            "log.format": "json",
        }
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        return [*words, "--data-dir", str(self._folder / name)]

    def _environ(self, bot: int) -> dict[str, str]:
        return {**ENVIRON, "ROOST_TOKEN": self._card["bots"][bot]["token"]}

    async def _start_bot(self) -> None:
        await self._end_bot()
        self._bot: BotProcess = await self._running.enter_async_context(
            run_bot(self._arguments("killed"), self._environ(0))
        )
        self._struck = []
        self.figures.starts += 1
        self._tell("started")

    async def _end_bot(self) -> None:
        await self._running.aclose()

    def _strike(self, below: list[int] | None = None) -> None:
        """Kill it; what is below it is looked up first, unless that has been done."""
        self._struck = [self._bot.pid, *(self._bot.descendants() if below is None else below)]
        self._struck_at = time.monotonic()
        self._bot.kill()

    async def _kill(self) -> None:
        """See the bot and all below it go; kill it unless that has been done."""
        if not self._struck:
            self._strike()
        within_s = CHILDREN_S - (time.monotonic() - self._struck_at)
        if await wait_gone(self._struck, within_s) is None:
            raise Violation(f"{CHILDREN_S:.0f} s after the kill a process is still there: {self._struck}")
        seconds = time.monotonic() - self._struck_at
        self.figures.worst_children_s = max(self.figures.worst_children_s, seconds)
        await self._bot.wait(CHILDREN_S)
        self.figures.drafts += any(path.suffix == ".new" for path in self._instances.iterdir())
        self._tell(f"killed, with {len(self._struck) - 1} processes below; Discord shows it at {await self._place()}")

    # What must hold

    async def _no_ghost(self) -> None:
        """READY is the simulator's: the moment in which it let the new session in."""
        began = time.monotonic()
        ready: float | None = None
        gone: float | None = None
        while gone is None:
            if ready is None:
                entries = await self._discord.log(began)
                own = [each for each in entries if each["kind"] == "gateway_identify"]
                ready = next((each["t"] for each in own if each["bot_id"] == self._bot_id), None)
            if self._bot.returncode is not None:
                raise Violation(f"the bot ended with {self._bot.returncode} when it was started again")
            now = time.monotonic()
            if not await self._place():
                gone = now if ready is not None else None
            if now - (ready or began) > (GHOST_S if ready else READY_S):
                raise Violation(f"{now - began:.1f} s after the start the bot is not ready, or its ghost still there")
            await asyncio.sleep(0.02)
        assert ready is not None
        self.figures.worst_ghost_s = max(self.figures.worst_ghost_s, gone - ready)
        self._tell(f"no ghost {gone - ready:.3f} s after READY")
        await self._bot.ready(READY_S)
        until = time.monotonic() + HOLD_S
        while time.monotonic() < until:
            if place := await self._place():
                raise Violation(f"the ghost came back, in {place}")
            await asyncio.sleep(0.02)
        while (left := self._journals()) and time.monotonic() - ready < GHOST_S:
            await asyncio.sleep(0.05)
        if left:
            raise Violation(f"journals of the dead are left: {left}")

    async def _look_at_others(self) -> None:
        state = await self._discord.state()
        if (now := self._others_in(state)) != self._others:
            raise Violation(f"the others' sessions changed from {self._others} to {now}")
        if self._bystander.returncode is not None:
            raise Violation("the bystander ended")
        since, self._looked_at = self._looked_at, time.monotonic()
        for each in await self._discord.log(since):
            if self._bystander_id in (each.get("user_id"), each.get("bot_id")) and each["kind"] != "voice":
                raise Violation(f"something befell the bystander: {each}")
            if each["kind"] in ("op4", "voice_state") and each.get("guild_id") == self._there["id"]:
                raise Violation(f"something befell the foreign software: {each}")
        if state["max_sessions_per_guild"] > 1:
            raise Violation("there were two sessions in one server at once")

    # Helpers

    @property
    def _instances(self) -> Path:
        return self._folder / "killed" / "instances"

    def _journals(self) -> list[str]:
        """Those of the killed."""
        return sorted(path.name for path in self._instances.glob("*.json*"))

    def _others_in(self, state: dict[str, Any]) -> dict[str, Any]:
        there = self._there["id"]
        return {
            "bystander": session_of(state, self._bystander_id, there),
            "foreign software": session_of(state, self._bot_id, there),
        }

    def _tell(self, what: str) -> None:
        self._story.append(f"{time.monotonic():.3f} {what}")

    def _channels(self) -> list[int]:
        return [int(each["id"]) for each in self._here["voice_channels"]]

    def _channel(self) -> int:
        return self._dice.choice(self._channels())

    async def _place(self) -> list[str]:
        return list(session_of(await self._discord.state(), self._bot_id, self._here["id"])["place"])

    async def _slash(
        self,
        command: str,
        *,
        channel: int | None = None,
        member: int | None = None,
        text: int | None = None,
        bot: int = 0,
        wait_s: float = 0.0,
    ) -> None:
        self._tell(f"{command} {channel or ''}")
        await self._discord.slash(
            member_id=member or self._member,
            channel_id=text or int(self._here["text_channels"][0]["id"]),
            command=command,
            options={"channel": str(channel)} if channel else {},
            wait_s=wait_s,
            bot=bot,
        )


async def play(ghosts: str, rounds: int, seed: int, figures: Figures, done: Callable[[], None]) -> None:
    """So many rounds with one of the semantics.

    Raises:
        Violation: At the first.
    """
    dice = random.Random(f"{seed} {ghosts}")
    for number, first in enumerate(range(0, rounds, BATCH), GHOSTS.index(ghosts)):
        with tempfile.TemporaryDirectory(prefix="roost-kill-") as folder:
            async with spawn(["--ghosts", ghosts]) as sim, ControlClient(sim.card["control_url"]) as discord:
                loop = Loop(sim, discord, Path(folder), dice, shared=number % 2 == 0)
                loop.figures = figures
                async with loop.open():
                    for _ in range(min(BATCH, rounds - first)):
                        await loop.round()
                        done()


async def kill_loop(rounds: int, seed: int, done: Callable[[], None]) -> tuple[dict[str, Figures], list[str]]:
    """Both halves at once; the figures of each, and the stories of the violations."""
    figures = {ghosts: Figures() for ghosts in GHOSTS}
    shares = {"honoured": rounds - rounds // 2, "ignored": rounds // 2}
    halves = [play(ghosts, shares[ghosts], seed, figures[ghosts], done) for ghosts in GHOSTS if shares[ghosts]]
    stories: list[str] = []
    for ghosts, result in zip(GHOSTS, await asyncio.gather(*halves, return_exceptions=True), strict=False):
        if isinstance(result, Violation):
            head = f"VIOLATION in round {figures[ghosts].rounds + 1} with ghosts {ghosts}: {result}"
            stories.append("\n  ".join([head, *result.story]))
        elif result is not None:
            raise result
    return figures, stories


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="rounds (default: 100)")
    parser.add_argument("--seed", type=int, help="by default a fresh one")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 40)
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    counter = progress(options.n)
    figures, stories = asyncio.run(kill_loop(options.n, seed, lambda: next(counter)))
    for story in stories:
        print(story, file=sys.stderr)
    total = Figures()
    for half in figures.values():
        total.add(half)
    summary = {
        "ok": not stories,
        "violations": len(stories),
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        **total.json(),
        **{f"ghosts_{name}": half.json() for name, half in figures.items()},
    }
    print(json.dumps(summary))
    return 1 if stories else 0


if __name__ == "__main__":
    sys.exit(main())
