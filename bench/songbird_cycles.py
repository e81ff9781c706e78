"""Whether the module songbird keeps anything: joins and leaves, and what a process holds after each.

The simulated voice server is in this process, what joins is in another, so that its threads, files and memory are its
own. Writes one JSON file and prints a few lines.

Usage: python bench/songbird_cycles.py --n 1000 build/songbird-cycles.json
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from roost.testing.driver_conformance import ANN, BOT, open_bench
from roost_voice.sim import create

WARM_UP = 20
DEADLINE_S = 30.0


async def joiner(ca_file: str) -> None:
    """The other process: a line of credentials in, a line of figures out."""
    import songbird

    songbird.trust(ca_file)
    process = psutil.Process()
    loop = asyncio.get_running_loop()
    driver = await songbird.Driver.create()
    driver.on_packets = lambda packets: None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        started_at = time.monotonic()
        await driver.connect(**json.loads(line))
        joined_at = time.monotonic()
        driver.send_opus(b"\x78" + bytes(40))
        await asyncio.sleep(0.03)
        leaving_at = time.monotonic()
        await driver.leave()
        left_at = time.monotonic()
        gc.collect()
        figures = {
            "join_s": joined_at - started_at,
            "leave_s": left_at - leaving_at,
            "threads": process.num_threads(),
            "files": process.num_fds(),
            "rss": process.memory_info().rss,
            "tasks": len(asyncio.all_tasks()),
        }
        print(json.dumps(figures), flush=True)


async def measure(count: int) -> list[dict[str, Any]]:
    voice = create(tick_s=0.01)
    rows: list[dict[str, Any]] = []
    async with open_bench(lambda *_: None, voice) as bench:  # type: ignore[arg-type, return-value]
        await bench.join(ANN)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            "--join",
            str(voice.ca_file),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for number in range(count + WARM_UP):
                cred = dataclasses.asdict(bench.credentials())
                cred["endpoint"] = cred.pop("server_address")
                del cred["stage"]
                process.stdin.write(json.dumps(cred).encode() + b"\n")
                async with asyncio.timeout(DEADLINE_S):
                    line = await process.stdout.readline()
                if not line:
                    raise SystemExit(f"the joining process ended in cycle {number}")
                rows.append(json.loads(line))
                if number % 100 == WARM_UP:
                    print(number - WARM_UP, rows[-1], file=sys.stderr, flush=True)
            process.stdin.close()
            async with asyncio.timeout(DEADLINE_S):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert bench.host.most_sessions == 1, "the bot was in voice twice"
        assert not [session for session in bench.sessions() if session["connection_id"]], f"{BOT} is still there"
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    counted = rows[WARM_UP:]
    first, last = counted[0], counted[-1]
    tenth = max(1, len(counted) // 10)
    early, late = (statistics.fmean(row["rss"] for row in part) for part in (counted[:tenth], counted[-tenth:]))
    joins = sorted(row["join_s"] for row in counted)
    return {
        "cycles": len(counted),
        "threads": [first["threads"], last["threads"], max(row["threads"] for row in counted)],
        "files": [first["files"], last["files"], max(row["files"] for row in counted)],
        "tasks": [first["tasks"], last["tasks"]],
        "rss_mb": [round(early / 1e6, 2), round(late / 1e6, 2)],
        "rss_growth_bytes_per_cycle": round((late - early) / (len(counted) * 0.9)),
        "join_ms": [round(statistics.median(joins) * 1000, 1), round(joins[int(len(joins) * 0.99)] * 1000, 1)],
        "leave_ms": round(statistics.median(row["leave_s"] for row in counted) * 1000, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--join")
    parser.add_argument("output", nargs="?", type=Path)
    arguments = parser.parse_args()
    if importlib.util.find_spec("songbird") is None:
        sys.exit("the module songbird is not built, so it cannot be measured: make songbird")
    if arguments.join:
        asyncio.run(joiner(arguments.join))
        return
    found = summary(asyncio.run(measure(arguments.n)))
    print(json.dumps(found, indent=2))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
