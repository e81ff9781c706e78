"""Limits on how often the bot begins a session with Discord (IDENTIFY). Beyond its own, Discord resets the token.

A bot that crashes in a loop begins a session at each start. A bot whose sessions Discord ends begins one after another.
The sessions of the last hour are kept in a file of the data folder, so that the next process knows of them; Discord is
asked how many more it allows. `Identifies` decides about the start of a process, `Turns` about every single session.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from roost.file_errors import explain

_log = logging.getLogger("roost.start")

HOUR_S = 3600.0
FILE = "identifies.json"
LOW = 0.1
"""Of Discord's total: with less than this left, the rest is spread over the time until there are more."""
LEAST_S = 60.0
"""Between two questions whether Discord allows any again."""
LARGEST_FILE = 1 << 20
WINDOW_S = 5.0
"""Discord lets `Limit.max_concurrency` shards begin a session in so many seconds."""
LONGEST_PAUSE_S = 300.0
"""Between two sessions of one shard that Discord ends again and again."""
ASK_S = 10.0
"""How long an answer of Discord's about its limit is believed, less the sessions begun since."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """Discord's ``session_start_limit``."""

    total: int
    remaining: int
    reset_after_s: float
    max_concurrency: int = 1


Ask = Callable[[], Awaitable[tuple[Limit, int]]]
"""Asks Discord for its limit, and how many shards the bot has."""


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
        past: When the bot was started before, or a shard began a session.
        per_hour: At most so many in any hour; 0: any number.
        limit: What Discord allows.
        shards: How many sessions this start would begin.
        waited_s: How long this start has been waiting.
    """
    pauses = []
    recent = _recent(past, now)
    if 0 < per_hour <= len(recent):
        pauses.append(
            Pause(
                recent[-per_hour] + HOUR_S - now,
                f"sessions begun in the last hour: {len(recent)}, and start.max_identify_per_hour is {per_hour}",
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
    """The sessions that this bot began, in ``<data_dir>/identifies.json``.

    Args:
        per_hour: At most so many of each shard in any hour; 0: any number.
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
        self.per_hour = per_hour
        self._clock = clock
        self._sleep = sleep

    async def wait(self, ask: Ask) -> None:
        """Return once the bot may be started.

        Args:
            ask: Asks Discord. Its errors are raised to the caller, because no session can begin while it fails.
        """
        told, waited_s = "", 0.0
        while True:
            limit, shards = await ask()
            now = self._clock()
            past = max((self.past(shard) for shard in range(shards)), key=len, default=[])
            pause = decide(now, past, self.per_hour, limit, shards=shards, waited_s=waited_s)
            if pause is None:
                return
            if pause.why != told:
                log_pause("the bot waits {} before it connects to Discord: {}", pause, None)
            told = pause.why
            await self._sleep(max(pause.seconds, 0.1))
            waited_s += self._clock() - now

    def past(self, shard: int) -> list[float]:
        """When a shard began sessions in the last hour, oldest first."""
        now = self._clock()
        return _recent([at for at, whose in self._read() if whose == shard], now)

    def note(self, shard: int) -> None:
        """A shard begins a session now."""
        now = self._clock()
        kept = [(at, whose) for at, whose in self._read() if 0 <= now - at < HOUR_S]
        try:
            self._write([*kept, (now, shard)])
        except OSError as error:
            _log.warning("cannot note this session in %s: %s", self._path, explain(error, self._path))

    def decide(self, shard: int, limit: Limit, waited_s: float) -> Pause | None:
        """Whether a shard that has had a session in this process waits before the next one."""
        return decide(self._clock(), self.past(shard), self.per_hour, limit, waited_s=waited_s)

    def _read(self) -> list[tuple[float, int]]:
        try:
            with self._path.open("rb") as stream:
                return parse(stream.read(LARGEST_FILE))
        except FileNotFoundError:
            return []
        except OSError as error:
            _log.warning("cannot read %s: %s", self._path, explain(error, self._path))
            return []

    def _write(self, times: Sequence[tuple[float, int]]) -> None:
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


class Turns:
    """When each shard may begin a session: growing pauses, within all limits, and as many at once as Discord allows.

    Args:
        ask: Discord's limit; when it raises, the last answer stands.
        clock: Monotonic seconds.
        sleep: Waits.
    """

    def __init__(
        self,
        identifies: Identifies,
        ask: Ask,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._identifies = identifies
        self._ask = ask
        self._clock = clock
        self._sleep = sleep
        self._begun: dict[int, list[float]] = {}
        """By shard, in the last hour of this process."""
        self._last: dict[int, float] = {}
        """By key: Discord counts the shards of one remainder by its concurrency together."""
        self._locks: dict[int, asyncio.Lock] = {}
        self._limit: Limit | None = None
        self._asked_at = -math.inf
        self._asking = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def turn(self, shard: int) -> AsyncIterator[Callable[[], None]]:
        """Wait until the shard may begin a session; yield a callback for the moment when it sends IDENTIFY."""
        limit = await self._known_limit()
        key = shard % (limit.max_concurrency if limit is not None else 1)
        async with self._locks.setdefault(key, asyncio.Lock()):
            await self._wait(shard, key)
            yield lambda: self._note(shard, key)

    def _note(self, shard: int, key: int) -> None:
        now = self._clock()
        begun = self._begun[shard] = [*(at for at in self._begun.get(shard, ()) if now - at < HOUR_S), now]
        self._last[key] = now
        if self._limit is not None:
            self._limit = dataclasses.replace(self._limit, remaining=self._limit.remaining - 1)
        self._identifies.note(shard)
        _log.info(
            "shard %d begins a session with Discord: number %d in this process's last hour%s",
            shard,
            len(begun),
            f", {self._limit.remaining} left of {self._limit.total}" if self._limit is not None else "",
            extra={"event": "identify", "shard": shard, "number": len(begun)},
        )

    async def _wait(self, shard: int, key: int) -> None:
        told, began = "", self._clock()
        while (pause := await self._pause(shard, key, self._clock() - began)) is not None:
            if pause.why != told:
                log_pause(f"shard {shard} waits {{}} before its next session with Discord: {{}}", pause, shard)
            told = pause.why
            await self._sleep(pause.seconds)

    async def _pause(self, shard: int, key: int, waited_s: float) -> Pause | None:
        now = self._clock()
        pauses = []
        begun = [at for at in self._begun.get(shard, ()) if now - at < HOUR_S]
        if begun:
            # The first session of a process was decided about at its start.
            pauses.append(Pause(begun[-1] + pause_after(len(begun)) - now, f"sessions begun lately: {len(begun)}"))
            limit = await self._known_limit()
            if limit is not None and (more := self._identifies.decide(shard, limit, waited_s)) is not None:
                pauses.append(more)
        pauses.append(Pause(self._last.get(key, -math.inf) + WINDOW_S - now, "Discord lets shards begin one by one"))
        longest = max(pauses, key=lambda pause: pause.seconds)
        return longest if longest.seconds > 0 else None

    async def _known_limit(self) -> Limit | None:
        """Discord's limit; None when it has never answered. Shards that ask at the same time share one question."""
        async with self._asking:
            if self._clock() - self._asked_at >= ASK_S:
                try:
                    self._limit, _ = await self._ask()
                except Exception as error:  # noqa: BLE001 - logged; the gateway may be up when REST is not
                    _log.warning("Discord did not say how many sessions it still allows: %s", type(error).__name__)
                self._asked_at = self._clock()
            return self._limit


def pause_after(number: int) -> float:
    """Seconds between a shard's `number` th session of an hour and its next one."""
    return float(min(WINDOW_S * 2 ** (min(number, 16) - 1), LONGEST_PAUSE_S))


def log_pause(text: str, pause: Pause, shard: int | None) -> None:
    """Log why a session waits; `text` has a place for the time and one for the reason."""
    _log.warning(
        text.format(_duration(pause.seconds), pause.why),
        extra={"event": "start_waits", "seconds": round(pause.seconds, 1), "shard": shard},
    )


def parse(raw: bytes) -> list[tuple[float, int]]:
    """When sessions were begun and by which shard, oldest first; none when the file is torn or nonsense.

    Versions before 0.3 noted the times of starts alone; they count as the first shard's.
    """
    try:
        content: Any = json.loads(raw)
        times = [(each, 0) if type(each) in (int, float) else (each[0], each[1]) for each in content["identifies"]]
        if not all(type(at) in (int, float) and math.isfinite(at) and type(shard) is int for at, shard in times):
            return []
        return sorted((float(at), shard) for at, shard in times)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, OverflowError):
        return []


def _recent(past: Sequence[float], now: float) -> list[float]:
    """Those of the last hour; one of the future is of a clock that was wrong."""
    return sorted(at for at in past if 0 <= now - at < HOUR_S)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
