"""What speech-to-text costs and how right it is. Writes one JSON file and prints a table.

Everything is measured beside stock faster-whisper with the same model (int8, greedy, timestamps on) in the same run, on
recordings of people. The parts: ``decode`` (the engine alone, and words that are wrong), ``ttfs`` (end of speech to
its text, through the worker), ``talkers`` (how many at once), ``partials`` (what it costs to show words before they
are finished), ``no-speech`` (sounds that must give no line), ``crash`` and ``ends`` (the worker dies, or its bot
does), ``bot`` (processor and memory of a real bot while ten talk).

Usage: python bench/speech/run.py build/bench-speech.json [--only decode,ttfs] [--quick] [--minutes 3] [--model tiny.en]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# For the worker too, which loads the stock engine by name.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))

import bot  # noqa: E402
import decode  # noqa: E402
import live  # noqa: E402
import partials  # noqa: E402
from recordings import Clip, fetched, shipped  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

SETS = ("shipped", "fetched", "foreign", "noisy")
PARTS = ("decode", "ttfs", "talkers", "partials", "no-speech", "crash", "ends", "bot")
LONGEST_S = 13.0
PROGRESS = Console(stderr=True)

Goal = tuple[str, str, str, bool]


def material() -> list[Clip]:
    """What the talkers say: sentences, not speeches."""
    return [each for each in (*shipped(), *fetched()) if 1.5 <= each.seconds <= LONGEST_S]


async def measure(wanted: list[str], options: dict[str, Any], *, quick: bool, minutes: float) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "load": round(os.getloadavg()[0], 2),
        },
        **options,
    }
    for part in wanted:
        if PROGRESS.is_terminal:
            PROGRESS.print(f"{part:<20}", end="\r")
        if part == "decode":
            figures[part] = decode.measure(options, rounds=1 if quick else 3)
        elif part == "ttfs":
            figures[part] = await live.ttfs(options, material(), 20 if quick else 90)
        elif part == "talkers":
            figures[part] = await live.talkers(options, material(), 8 if quick else 20)
        elif part == "partials":
            figures[part] = await partials.measure(options, material(), 15 if quick else 60)
        elif part == "no-speech":
            figures[part] = await live.no_speech(options, 60)
        elif part == "crash":
            figures[part] = await live.crash(options, shipped(), 3 if quick else 10)
        elif part == "ends":
            figures[part] = await live.ends(options, 1 if quick else 5)
        elif part == "bot":
            figures[part] = await bot.measure(options, 0.5 if quick else minutes)
    figures["goals"] = [dict(zip(("what", "measured", "goal", "met"), row, strict=True)) for row in goals(figures)]
    return figures


def goals(figures: dict[str, Any]) -> list[Goal]:
    """Each figure that has a goal, and whether it is met."""
    found: list[Goal] = []
    sets = [figures.get("decode", {}).get(name) for name in SETS]
    if words := sum(each["words"] for each in sets if each):
        ours, stock = (
            round(sum(each[f"{who}_wer_pct"] * each["words"] for each in sets if each) / words, 2)
            for who in ("ours", "stock")
        )
        found.append((f"all sets: words wrong of {words}", f"{ours} % / {stock} %", "+0.5", ours <= stock + 0.5))
    for name in SETS:
        part = figures.get("decode", {}).get(name)
        if part is None:
            continue
        # Noise sends many utterances down the long way on both sides: its times say little.
        for share, most in (("p50", 0.45), ("p95", 0.6)) if name != "noisy" else ():
            ratio = part[f"{share}_ratio"]
            ours, stock = part[f"ours_{share}_ms"], part[f"stock_{share}_ms"]
            found.append((f"{name}: decode {share}", f"{ours} / {stock} ms: {ratio}x", f"{most}x", ratio <= most))
        ours, stock = part["ours_wer_pct"], part["stock_wer_pct"]
        measured = f"{ours} % / {stock} % (uncut {part['stock_uncut_wer_pct']} %)"
        found.append((f"{name}: words wrong of {part['words']}", measured, "+0.5", ours <= stock + 0.5))
    for count, part in figures.get("ttfs", {}).items():
        ours, stock = part["ours"], part["stock"]
        measured = " ".join(f"{name} {ours[f'{name}_ms']} / {stock[f'{name}_ms']}" for name in ("p50", "p95", "p99"))
        met = ours["p50_ms"] <= 400 and ours["p95_ms"] <= 700
        found.append((f"end of speech to text, {count} talking, ms", measured, "p50 400, p95 700", met))
        found.append(
            (
                f"  utterances without text, of {ours['utterances']}",
                str(ours["without_text"]),
                "0",
                not ours["without_text"],
            )
        )
    if part := figures.get("talkers"):
        ours, stock = part["ours"]["talkers"], part["stock"]["talkers"]
        least = 40 if figures["model"] == "tiny.en" else 15
        found.append(("talkers at p95 of 1 s", f"{ours} / {stock}", f"{least}, 4x", ours >= max(least, 4 * stock)))
    for count, part in figures.get("partials", {}).items():
        ours, more = part["without"], part["with"]
        measured = " ".join(f"{name} {more[f'{name}_ms']} (without {ours[f'{name}_ms']})" for name in ("p50", "p95"))
        measured += f", first words {part['first_words_p50_s']} s, {part['shown_pct']} % shown"
        found.append((f"text with partials, {count} talking, ms", measured, "none lost", not more["lost"]))
    if part := figures.get("no-speech"):
        for name, lines in part["lines"].items():
            said = part["stock_says"][name]
            found.append((f"lines from {part['seconds_each']} s of {name}", f"{lines} / {said!r}", "0", not lines))
    if part := figures.get("crash"):
        found.append(
            ("crash to next text, p50, max", f"{part['p50_s']} s, {part['max_s']} s", "1 s", part["max_s"] <= 1)
        )
    for name, value in figures.get("ends", {}).items():
        found.append((name.removesuffix("_ms").replace("_", " ") + ", dead after", f"{value} ms", "50 ms", value <= 50))
    if part := figures.get("bot"):
        found.append(
            ("bot process while 10 talk", f"{part['bot_core']:.1%} of a core", "10 %", part["bot_core"] <= 0.1)
        )
        for who in ("bot", "worker"):
            memory = part[who]
            measured = f"{memory['last_mib']} MiB, {memory['slope_mib_per_hour']:+} MiB/h over {part['minutes']} min"
            found.append((f"memory of the {who}", measured, "flat", memory["last_mib"] <= memory["first_mib"] * 1.1))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="a few minutes, for a look")
    parser.add_argument("--minutes", type=float, default=3.0, help="of ten talkers, for the memory")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compute-type", default="int8")
    given = parser.parse_args()
    wanted = given.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    options = {
        "model": given.model,
        "threads": given.threads,
        "device": given.device,
        "compute_type": given.compute_type,
    }
    figures = asyncio.run(measure(wanted, options, quick=given.quick, minutes=given.minutes))
    given.path.parent.mkdir(parents=True, exist_ok=True)
    given.path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    table = Table(title=f"Speech-to-text: {given.model}, ours / stock faster-whisper")
    for column in ("what", "measured", "goal", ""):
        table.add_column(column)
    for what, measured, goal, met in goals(figures):
        table.add_row(what, measured, goal, "" if met else "missed")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
