"""How often the bot may begin a session with Discord, which resets the token of a bot that does so too often.

A bot that crashes in a loop begins one with each start. The starts of the last hour are kept in a file of the data
folder, so that the next process knows of them; how many Discord still allows is asked of Discord.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

_log = logging.getLogger("roost.start")

HOUR_S = 3600.0
FILE = "identifies.json"
LOW = 0.1
"""Of Discord's total: with less than this left, the rest is spread over the time until there are more."""
LEAST_S = 60.0
"""Between two questions whether Discord allows any again."""
LARGEST_FILE = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """Discord's ``session_start_limit``."""

    total: int
    remaining: int
    reset_after_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Pause:
    """How long to wait before the next start, and why."""

    seconds: float
    why: str


def decide(
    now: float, past: Sequence[float], per_hour: int, limit: Limit, *, shards: int = 1, waited_s: float = 0.0
) -> Pause | None:
    """Whether to wait before this start.

    Args:
        now: In the same seconds as `past`.
        past: When the bot was started before.
        per_hour: Starts an hour; each begins one session per shard.
        limit: What Discord allows.
        shards: How many sessions this start would begin.
        waited_s: How long this start has been waiting.
    """
    pauses = []
    recent = _recent(past, now)
    if len(recent) >= per_hour:
        pauses.append(
            Pause(
                recent[-per_hour] + HOUR_S - now,
                f"starts in the last hour: {len(recent)}, and start.max_identify_per_hour is {per_hour}",
            )
        )
    if limit.remaining < max(shards, limit.total * LOW):
        starts = limit.remaining // max(shards, 1)
        pauses.append(
            Pause(
                limit.reset_after_s / starts - waited_s if starts else max(limit.reset_after_s, LEAST_S),
                f"Discord allows {limit.remaining} more of {limit.total} sessions "
                f"in the next {_duration(limit.reset_after_s)}",
            )
        )
    longest = max(pauses, key=lambda pause: pause.seconds, default=None)
    return longest if longest is not None and longest.seconds > 0 else None


class Identifies:
    """The starts of this bot, in ``<data_dir>/identifies.json``.

    Args:
        per_hour: At most so many in any hour.
        clock: Seconds that go on from process to process.
        sleep: Waits.
    """

    def __init__(
        self,
        data_dir: Path,
        per_hour: int,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._path = data_dir / FILE
        self._per_hour = per_hour
        self._clock = clock
        self._sleep = sleep

    async def wait(self, ask: Callable[[], Awaitable[tuple[Limit, int]]]) -> None:
        """Return once the bot may be started, with this start already noted.

        Args:
            ask: Discord's limit, and how many shards the bot has. What it raises goes to the caller, and then nothing
                is noted: where Discord cannot be reached no session begins.
        """
        told, waited_s = "", 0.0
        while True:
            limit, shards = await ask()
            now = self._clock()
            past = self._read()
            pause = decide(now, past, self._per_hour, limit, shards=shards, waited_s=waited_s)
            if pause is None:
                break
            if pause.why != told:
                _log.warning(
                    "waiting %s before connecting to Discord: %s",
                    _duration(pause.seconds),
                    pause.why,
                    extra={"event": "start_waits", "seconds": round(pause.seconds, 1)},
                )
            told = pause.why
            await self._sleep(max(pause.seconds, 0.1))
            waited_s += self._clock() - now
        try:
            self._write([*_recent(past, now), now])
        except OSError as error:
            _log.warning("cannot note this start in %s: %s", self._path, error.strerror)

    def _read(self) -> list[float]:
        try:
            with self._path.open("rb") as stream:
                return parse(stream.read(LARGEST_FILE))
        except FileNotFoundError:
            return []
        except OSError as error:
            _log.warning("cannot read %s: %s", self._path, error.strerror)
            return []

    def _write(self, times: Sequence[float]) -> None:
        draft = self._path.with_suffix(f".{os.getpid()}.new")
        draft.unlink(missing_ok=True)
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(json.dumps({"identifies": list(times)}).encode())
            draft.replace(self._path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


def parse(raw: bytes) -> list[float]:
    """The times in the file, oldest first; none when it is torn or nonsense."""
    try:
        content: Any = json.loads(raw)
        times = content["identifies"]
        if not isinstance(times, list) or not all(type(each) in (int, float) and math.isfinite(each) for each in times):
            return []
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return []
    return sorted(float(each) for each in times)


def _recent(past: Sequence[float], now: float) -> list[float]:
    """Those of the last hour; one of the future is of a clock that was wrong."""
    return sorted(at for at in past if 0 <= now - at < HOUR_S)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
