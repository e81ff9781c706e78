"""The whole worker in real time: latency, how many talk at once, sounds that are no speech, crashes and ends."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import select
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import sounds
from decode import quantile
from recordings import Clip, words_of
from stock_engine import StockEngine

from roost.audio import SILENCE_FRAME, AudioFrame
from roost.opus import encode_all
from roost.scopes import Scope
from roost.speech import EngineSpec, Transcript
from roost.text import wer
from roost_stt.engine import SpeechWorker
from roost_stt.models import locate
from roost_stt.partials import Partial
from roost_stt.protocol.wishes import Wish
from roost_stt.supervision import Trouble, WorkerSettings

GUILD = 1
FRAME_S = 0.02
FAREWELL = [SILENCE_FRAME] * 5
PAUSE_S = (0.8, 1.6)
"""Between two utterances of a talker."""
SETTLE_S = 6.0
GOAL_P95_S = 1.0
MOST = 256


@dataclasses.dataclass
class Said:
    """One utterance as it was spoken, and when its last text came."""

    user: int
    clip: Clip
    began: float
    ended: float
    ended_at: float
    """Of the event loop's clock."""
    texts: list[str] = dataclasses.field(default_factory=list)
    text_at: float | None = None


class Listener:
    """A worker and what it said."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.heard: list[tuple[Transcript, float]] = []
        self.troubles: list[tuple[Trouble, str]] = []
        self.news = asyncio.Event()
        self.partials: list[tuple[int, float]] = []
        """Whose and when, by the wall clock."""
        self.worker = SpeechWorker(settings, self._text, self._trouble, self._partial)

    def _text(self, transcript: Transcript) -> None:
        self.heard.append((transcript, asyncio.get_running_loop().time()))
        self.news.set()

    def _partial(self, partial: Partial) -> None:
        if partial.text:
            self.partials.append((partial.user_id, time.time()))

    def _trouble(self, what: Trouble, _guild: int | None, detail: str) -> None:
        self.troubles.append((what, detail))
        self.news.set()

    def write(self, packets: Sequence[bytes], user: int = 1) -> None:
        for number, packet in enumerate(packets):
            self.worker.write(AudioFrame(GUILD, user, user, number * 960, packet))

    async def drain(self, timeout_s: float = 60.0) -> None:
        if not await self.worker.drain(GUILD, asyncio.get_running_loop().time() + timeout_s):
            raise RuntimeError("the worker did not finish in time")

    def process(self) -> psutil.Process:
        assert self.worker.pid is not None
        return psutil.Process(self.worker.pid)


def settings_of(who: str, options: dict[str, Any]) -> WorkerSettings:
    """Roost as it is, or stock faster-whisper behind the same ears, one utterance after the other."""
    config = {"model": locate(options["model"]), "threads": options["threads"], "beam": 1}
    if who == "stock":
        return WorkerSettings(EngineSpec("stock_engine:create", config), threads=options["threads"], max_batch=1)
    config |= {"device": options["device"], "compute_type": options["compute_type"]}
    return WorkerSettings(
        EngineSpec("roost_stt.worker.engines.whisper:create", config), threads=options["threads"], max_batch=8
    )


@contextlib.asynccontextmanager
async def listener(who: str, options: dict[str, Any]) -> AsyncIterator[Listener]:
    made, scope = Listener(settings_of(who, options)), Scope("bench")
    try:
        await made.worker.start(scope)
        made.worker.wish(Wish(GUILD, language="en"))
        yield made
    finally:
        await made.worker.close()
        await scope.aclose()


async def crowd(listening: Listener, clips: Sequence[Clip], talkers: int, seconds: float, seed: int) -> list[Said]:
    """So many people talk for so long, each at their own times; gives what was said, with its texts."""
    loop = asyncio.get_running_loop()
    dice = random.Random(seed)  # noqa: S311  the same crowd every time
    said: list[Said] = []
    waiting = [int(dice.uniform(0, 3) / FRAME_S) for _ in range(talkers)]
    queues: list[list[bytes]] = [[] for _ in range(talkers)]
    stamps = [dice.randrange(1 << 32) for _ in range(talkers)]
    open_: list[Said | None] = [None] * talkers
    began, tick = loop.time(), 0
    while tick * FRAME_S < seconds or any(queues):
        tick += 1
        await asyncio.sleep(max(0.0, began + tick * FRAME_S - loop.time()))
        for user in range(talkers):
            stamps[user] = (stamps[user] + 960) & 0xFFFFFFFF
            if not queues[user]:
                waiting[user] -= 1
                if waiting[user] > 0 or tick * FRAME_S >= seconds:
                    continue
                chosen = dice.choice(clips)
                queues[user] = [*reversed(FAREWELL), *reversed(chosen.spoken)]
                open_[user] = Said(user, chosen, time.time(), 0.0, 0.0)
                said.append(open_[user])  # type: ignore[arg-type]
                waiting[user] = int(dice.uniform(*PAUSE_S) / FRAME_S)
            listening.worker.write(AudioFrame(GUILD, user, user, stamps[user], queues[user].pop()))
            speaking = open_[user]
            if speaking is not None and len(queues[user]) == len(FAREWELL):
                speaking.ended, speaking.ended_at, open_[user] = time.time(), loop.time(), None
    with contextlib.suppress(RuntimeError):
        await listening.drain(SETTLE_S)
    for transcript, at in listening.heard:
        middle = (transcript.started_at + transcript.ended_at) / 2
        mine = [each for each in said if each.user == transcript.user_id and each.began - 0.4 <= middle]
        if mine and transcript.text:
            mine[-1].texts.append(transcript.text)
            mine[-1].text_at = at
    return said


def latency(said: Sequence[Said], listening: Listener) -> dict[str, Any]:
    """From the end of speech to the last text of it, in milliseconds."""
    found = [(each.text_at - each.ended_at) * 1000 for each in said if each.text_at is not None]
    lost = sum(what is Trouble.LOST for what, _ in listening.troubles)
    return {
        "utterances": len(said),
        "without_text": len(said) - len(found),
        "lost": lost,
        **{f"p{share * 100:g}_ms": round(quantile(found, share)) if found else None for share in (0.5, 0.95, 0.99)},
        "wer_pct": round(
            wer([words_of(each.clip.text) for each in said], [words_of(" ".join(each.texts)) for each in said]) * 100, 2
        ),
    }


async def ttfs(options: dict[str, Any], clips: Sequence[Clip], seconds: float) -> dict[str, Any]:
    """The time to the final text, endpointing included, of one talker and of ten."""
    figures: dict[str, Any] = {}
    for talkers in (1, 10):
        for who in ("ours", "stock"):
            async with listener(who, options) as listening:
                said = await crowd(listening, clips, talkers, seconds, 11)
                figures.setdefault(str(talkers), {})[who] = latency(said, listening)
    return figures


async def talkers(options: dict[str, Any], clips: Sequence[Clip], seconds: float) -> dict[str, Any]:
    """How many can talk at once, by doubling and then halving the doubt."""
    figures: dict[str, Any] = {}
    for who in ("ours", "stock"):
        trials: dict[int, dict[str, Any]] = {}

        async def holds(count: int, who: str = who, trials: dict[int, dict[str, Any]] = trials) -> bool:
            async with listener(who, options) as listening:
                said = await crowd(listening, clips, count, seconds, count)
                trials[count] = figure = latency(said, listening)
                process = listening.process()
                figure["rss_mib"] = round(process.memory_info().rss / 2**20)
                figure["worker_core"] = round(sum(process.cpu_times()[:2]) / (time.time() - process.create_time()), 2)
            p95 = figure["p95_ms"]
            return p95 is not None and p95 <= GOAL_P95_S * 1000 and not figure["lost"]

        good, bad = 0, 10 if who == "stock" else 40
        while bad <= MOST and await holds(bad):
            good, bad = bad, bad * 2
        while bad - good > max(1, good // 8):
            middle = (good + bad) // 2
            if await holds(middle):
                good = middle
            else:
                bad = middle
        figures[who] = {"talkers": good, "trials": {str(count): trials[count] for count in sorted(trials)}}
    if figures["stock"]["talkers"]:
        figures["ratio"] = round(figures["ours"]["talkers"] / figures["stock"]["talkers"], 2)
    return figures


async def no_speech(options: dict[str, Any], seconds: int) -> dict[str, Any]:
    """Lines from a minute each of what is no speech; stock hears the same without ears in front of it."""
    noises = sounds.made(seconds)
    stock = StockEngine(locate(options["model"]), options["threads"], 1)
    figures: dict[str, Any] = {"seconds_each": seconds, "lines": {}, "stock_says": {}}
    async with listener("ours", options) as listening:
        for user, (name, sound) in enumerate(noises.items()):
            packets = encode_all(sound)
            for first in range(0, len(packets), 200):
                listening.write(packets[first : first + 200], user)
                await asyncio.sleep(0.05)
            await listening.drain()
            figures["lines"][name] = sum(bool(each.text) for each, _ in listening.heard if each.user_id == user)
            figures["stock_says"][name] = (await asyncio.to_thread(stock.text, sound[::3], "en"))[:80]
    return figures


async def crash(options: dict[str, Any], clips: Sequence[Clip], times: int) -> dict[str, Any]:
    """The worker is killed when an utterance has just ended: until its text comes all the same."""
    took = []
    wrong: list[float] = []
    for number in range(times):
        clip = clips[number % len(clips)]
        async with listener("ours", options) as listening:
            listening.write([*clip.spoken, *FAREWELL])
            pid = listening.worker.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            began = asyncio.get_running_loop().time()
            async with asyncio.timeout(20):
                while not any(each.text for each, _ in listening.heard):
                    listening.news.clear()
                    await listening.news.wait()
            took.append(next(at for each, at in listening.heard if each.text) - began)
            await listening.drain()
            wrong.append(wer(clip.text, " ".join(each.text for each, _ in listening.heard)))
    return {
        "times": times,
        "p50_s": round(quantile(took, 0.5), 3),
        "max_s": round(max(took), 3),
        "answered": len(took),
        "wer_pct": round(sum(wrong) / len(wrong) * 100, 1),
    }


def gone_after(pid: int, end: Callable[[], None]) -> float:
    """Seconds from `end` until the process is dead."""
    descriptor = os.pidfd_open(pid)
    try:
        began = time.perf_counter()
        end()
        if not select.select([descriptor], [], [], 10.0)[0]:
            raise RuntimeError(f"process {pid} still lives")
        return time.perf_counter() - began
    finally:
        os.close(descriptor)


KEEPER = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import live
from recordings import shipped

async def main():
    options = {"model": sys.argv[2], "threads": 2, "device": "cpu", "compute_type": "int8"}
    async with live.listener("ours", options) as listening:
        print(listening.worker.pid, flush=True)
        while True:
            if sys.argv[3] == "busy":
                for user in range(8):
                    listening.write([*shipped()[-1].spoken, *live.FAREWELL], user)
            await asyncio.sleep(1)

asyncio.run(main())
"""


async def ends(options: dict[str, Any], times: int) -> dict[str, Any]:
    """A worker, idle or in the middle of an inference, is killed, or its bot is: until it is dead."""
    figures: dict[str, Any] = {}
    for state in ("idle", "busy"):
        for victim in ("worker", "bot"):
            took = []
            for _ in range(times):
                bot = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", KEEPER, str(Path(__file__).parent), options["model"], state),
                    stdout=asyncio.subprocess.PIPE,
                )
                assert bot.stdout is not None
                pid = int(await asyncio.wait_for(bot.stdout.readline(), 30))
                await asyncio.sleep(1.6)
                killed = pid if victim == "worker" else bot.pid
                took.append(gone_after(pid, lambda killed=killed: os.kill(killed, signal.SIGKILL)))  # type: ignore[misc]
                with contextlib.suppress(ProcessLookupError):
                    bot.kill()
                await bot.wait()
            figures[f"{victim}_killed_{state}_ms"] = round(max(took) * 1000, 1)
    took = []
    for _ in range(times):
        async with listener("ours", options) as listening:
            began = time.perf_counter()
            await listening.worker.close()
            took.append(time.perf_counter() - began)
    figures["closed_ms"] = round(float(np.max(took)) * 1000, 1)
    return figures
