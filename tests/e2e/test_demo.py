"""The demo as a person starts it: a process of its own, its last line, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(200)]


@asynccontextmanager
async def demo(*arguments: str, path: Path | None = None) -> AsyncIterator[Process]:
    """The demo's process; `path` holds packages that it finds as if they were installed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "roost", "demo", *arguments),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        limit=1 << 22,
        env={**os.environ, "PYTHONPATH": str(path)} if path is not None else None,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def test_the_whole_product_at_work() -> None:
    async with demo("--json") as process:
        out, err = await asyncio.wait_for(process.communicate(), 150)
    report: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert report["failures"] == [], err.decode()
    assert report["ok"] is True
    assert process.returncode == 0
    assert report["wer"] <= 0.08
    assert report["caption_latency_s"]["p95"] <= 1.5
    assert len(report["utterances"]) == 6
    assert {each["speaker"] for each in report["utterances"]} == {"Ada", "Ben"}
    assert report["sessions"] == {"opened": 2, "closed": 2, "leaked": 0, "max_per_guild": 1}
    assert report["consent"]["frames_sent"] > 200
    assert report["consent"]["frames_decoded"] == 0
    assert report["shutdown"]["last_words"]["hypothesis"]


@pytest.mark.parametrize("moment", ["Starting the bot", "speak at once", "killed in the middle"])
async def test_ctrl_c_leaves_no_process_behind(moment: str) -> None:
    async with demo() as process:
        assert process.stdout is not None
        seen = b""
        async with asyncio.timeout(120):
            while moment.encode() not in seen:
                line = await process.stdout.readline()
                assert line, f"the demo ended early: {seen.decode()}"
                seen += line
        await asyncio.sleep(0.8)
        family = psutil.Process(process.pid).children(recursive=True)
        assert family, "nothing runs that could be left behind"
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 130
    assert b"Traceback" not in err
    _, alive = psutil.wait_procs(family, timeout=3)
    assert alive == []


async def test_an_unexpected_reply_fails_the_demo(tmp_path: Path) -> None:
    """The bot is whole; a plugin installed beside it refuses one command."""
    (tmp_path / "spoiler.py").write_text(
        "from roost import Deny, Meta, hookimpl\n"
        "class Spoiler:\n"
        "    @hookimpl\n"
        "    def plugin_meta(self): return Meta('spoiler')\n"
        "    @hookimpl\n"
        "    async def command_check(self, ctx):\n"
        "        if ctx.command._command_data.qualified_name == 'voice join': return Deny('Not today.')\n"
    )
    (tmp_path / "spoiler-1.dist-info").mkdir()
    (tmp_path / "spoiler-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: spoiler\nVersion: 1\n")
    (tmp_path / "spoiler-1.dist-info" / "entry_points.txt").write_text("[roost.plugins]\nspoiler = spoiler:Spoiler\n")
    picture = tmp_path / "demo.svg"
    async with demo("--json", "--svg", str(picture), path=tmp_path) as process:
        out, err = await asyncio.wait_for(process.communicate(), 150)
    assert process.returncode == 1, out.decode()
    report: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert report["ok"] is False
    said = "Ada ran /voice join, and the bot replied: Not today."
    assert report["unexpected"] == [said]
    assert f"FAILED: {said}" in " ".join(err.decode().split())
    assert not picture.exists()
