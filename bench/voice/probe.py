"""A plugin that measures its bot from inside: processor time, packets, the event loop's lag. See `run.py`."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from roost import Plugin, VoiceSession

__roost_plugin__ = plugin = Plugin("probe", "Measures the bot")

EVERY_S = 0.5
STEP_S = 0.005 if os.environ.get("BENCH_LAG") else EVERY_S
"""Measuring the lag costs 200 wake-ups a second, so it is not done while the processor is measured."""
sessions: dict[str, VoiceSession] = {}


@plugin.hook
async def on_load(ctx: Any) -> None:
    ctx.task(_write(Path(os.environ["BENCH_PROBE"])), "probe")


@plugin.hook
async def voice_session_opened(session: VoiceSession) -> None:
    sessions[session.id] = session


@plugin.hook
async def voice_session_closed(session: VoiceSession, reason: str, stats: Any) -> None:
    sessions.pop(session.id, None)


async def _write(path: Path) -> None:
    """Replace the file twice a second; the lags are those since the last one."""
    lags: list[float] = []
    written = 0.0
    number = 0
    while True:
        due = time.perf_counter() + STEP_S
        await asyncio.sleep(STEP_S)
        now = time.perf_counter()
        lags.append(now - due)
        if now - written < EVERY_S:
            continue
        written, number = now, number + 1
        links = [session.stats().link for session in sessions.values()]
        figures = {
            "number": number,
            "at": time.monotonic(),
            "cpu_s": time.process_time(),
            "sessions": len(links),
            "packets_in": sum(link.packets_in for link in links),
            "frames_out": sum(link.frames_out for link in links),
            "dropped": sum(sum(link.dropped.values()) for link in links),
            "lost": sum(link.lost for link in links),
            "lags_ms": [round(lag * 1000, 3) for lag in lags],
        }
        lags.clear()
        new = path.with_suffix(".new")
        new.write_text(json.dumps(figures), encoding="utf-8")
        new.replace(path)
