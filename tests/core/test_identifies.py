"""Row 75: a bot that crashes in a loop does not use up what Discord allows. In virtual time."""

from __future__ import annotations

import asyncio
import itertools
import random
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from fault_report import Fault

from roost.identifies import FILE, HOUR_S, WINDOW_S, Identifies, Limit, Turns, decide, parse

pytestmark = pytest.mark.unit

PLENTY = Limit(1000, 1000, 86_400.0)


class Killed(Exception):
    """The process ends while it waits."""


class Day:
    """A clock of the wall, and Discord's count of sessions begun in a day."""

    def __init__(self, total: int = 1000, seed: int = 0) -> None:
        self.now = 1_800_000_000.0
        self.total = total
        self.begun: list[float] = []
        self.waits: list[float] = []
        self.dice = random.Random(seed)
        self.killed_in_waits = 0.0
        self._reset_at = self.now + 24 * HOUR_S
        self._remaining = total

    def limit(self) -> Limit:
        if self.now >= self._reset_at:
            self._reset_at += 24 * HOUR_S * (1 + (self.now - self._reset_at) // (24 * HOUR_S))
            self._remaining = self.total
        return Limit(self.total, self._remaining, self._reset_at - self.now)

    async def ask(self) -> tuple[Limit, int]:
        self.now += self.dice.uniform(0.0, 0.3)
        return self.limit(), 1

    async def sleep(self, seconds: float) -> None:
        if self.dice.random() < self.killed_in_waits:
            self.now += seconds * self.dice.random()
            raise Killed
        self.waits.append(seconds)
        self.now += seconds

    async def start(self, folder: Path, per_hour: int = 20) -> None:
        """A process of its own: it knows what the file says."""
        identifies = Identifies(folder, per_hour, clock=lambda: self.now, sleep=self.sleep)
        await identifies.wait(self.ask)
        identifies.note(0)
        assert self.limit().remaining > 0, "Discord would reset the token"
        self._remaining -= 1
        self.begun.append(self.now)


def most_in_an_hour(times: Sequence[float]) -> int:
    return max(sum(at <= each < at + HOUR_S for each in times) for at in times)


@pytest.mark.fault(75)
@pytest.mark.parametrize(("crash_s", "killed_in_waits"), [(0.0, 0.0), (5.0, 0.0), (5.0, 0.3), (170.0, 0.0)])
async def test_a_crash_loop_never_starts_more_than_its_share(
    crash_s: float, killed_in_waits: float, tmp_path: Path, fault: Fault
) -> None:
    day = Day()
    day.killed_in_waits = killed_in_waits
    while len(day.begun) < 200:
        try:
            await day.start(tmp_path)
        except Killed:
            continue
        day.now += day.dice.uniform(0.0, 2.0 * crash_s)
    assert most_in_an_hour(day.begun) == 20
    assert day.begun[19] - day.begun[0] < 20 * (2.0 * crash_s + 1.0), "the first twenty are not delayed"
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    fault.note(0.0, virtual=True)


@pytest.mark.fault(75)
async def test_what_discord_allows_is_never_used_up(tmp_path: Path, fault: Fault) -> None:
    day = Day(total=100)
    for number in range(300):
        folder = tmp_path / str(number)  # A container that keeps nothing.
        folder.mkdir()
        await day.start(folder, per_hour=1000)
    assert len(day.begun) == 300, "it goes on, slowly"
    assert day.begun[90] - day.begun[0] < 60.0, "the first nine tenths are not delayed"
    fault.note(0.0, virtual=True)


async def test_a_start_that_never_reached_discord_does_not_count(tmp_path: Path) -> None:
    async def unreachable() -> tuple[Limit, int]:
        raise OSError("no network")

    for _ in range(30):
        with pytest.raises(OSError, match="no network"):
            await Identifies(tmp_path, 1).wait(unreachable)
    assert not (tmp_path / FILE).exists()


async def test_a_file_that_cannot_be_written_stops_no_bot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await Day().start(tmp_path / "missing")
    assert "cannot note this session" in caplog.text


async def test_one_line_says_how_long_and_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    day = Day()
    await day.start(tmp_path, per_hour=1)
    day.now += 600
    await day.start(tmp_path, per_hour=1)
    assert [record.getMessage() for record in caplog.records] == [
        "the bot waits 50 min before it connects to Discord: "
        "sessions begun in the last hour: 1, and start.max_identify_per_hour is 1"
    ]


async def test_the_wait_is_over_at_once_when_it_is_cancelled(tmp_path: Path) -> None:
    async def ask() -> tuple[Limit, int]:
        return Limit(1000, 0, 3600.0), 1

    waiting = asyncio.ensure_future(Identifies(tmp_path, 20).wait(ask))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    ("past", "per_hour", "seconds"),
    [
        ([], 1, None),
        ([0.0], 1, 3500.0),
        ([0.0, 10.0], 1, 3510.0),
        ([0.0, 10.0], 2, 3500.0),
        ([0.0, 10.0], 3, None),
        ([-3500.0], 1, None),
        ([101.0, 1e12], 1, None),
    ],
)
def test_the_share_of_an_hour(past: list[float], per_hour: int, seconds: float | None) -> None:
    pause = decide(100.0, past, per_hour, PLENTY)
    assert (pause.seconds if pause else None) == seconds


@pytest.mark.parametrize(
    ("limit", "shards", "waited_s", "seconds"),
    [
        (Limit(1000, 100, 5000.0), 1, 0.0, None),
        (Limit(1000, 99, 9900.0), 1, 0.0, 100.0),
        (Limit(1000, 99, 9900.0), 1, 40.0, 60.0),
        (Limit(1000, 99, 9900.0), 1, 100.0, None),
        (Limit(1000, 1, 5000.0), 1, 0.0, 5000.0),
        (Limit(1000, 0, 5000.0), 1, 9000.0, 5000.0),
        (Limit(1000, 0, 0.0), 1, 0.0, 60.0),
        (Limit(1000, 150, 5000.0), 200, 9000.0, 5000.0),
        (Limit(1000, 50, 5000.0), 10, 0.0, 1000.0),
    ],
)
def test_what_discord_allows(limit: Limit, shards: int, waited_s: float, seconds: float | None) -> None:
    pause = decide(0.0, [], 20, limit, shards=shards, waited_s=waited_s)
    assert (pause.seconds if pause else None) == seconds


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'{"identifies": [1.0, 2',
        b"\xff\x00",
        b"[]",
        b"7",
        b'{"identifies": 7}',
        b'{"identifies": ["7"]}',
        b'{"identifies": [true]}',
        b'{"identifies": [NaN]}',
        b'{"identifies": [Infinity]}',
        b'{"identifies": [1' + b"0" * 400 + b"]}",
        b"[" * 60_000,
    ],
)
async def test_a_torn_file_is_ignored_and_replaced(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(raw)
    day = Day()
    await day.start(tmp_path)
    assert day.waits == []
    assert parse((tmp_path / FILE).read_bytes()) == [(at, 0) for at in day.begun]


def turns_of(day: Day, folder: Path, per_hour: int = 20) -> Turns:
    identifies = Identifies(folder, per_hour, clock=lambda: day.now, sleep=day.sleep)
    return Turns(identifies, day.ask, clock=lambda: day.now, sleep=day.sleep)


async def begin(day: Day, turns: Turns, shard: int = 0) -> None:
    async with turns.turn(shard) as note:
        note()
        assert day.limit().remaining > 0, "Discord would reset the token"
        day._remaining -= 1
        day.begun.append(day.now)


@pytest.mark.fault(143)
async def test_sessions_that_discord_ends_at_once_begin_ever_more_slowly(tmp_path: Path, fault: Fault) -> None:
    day = Day()
    turns = turns_of(day, tmp_path)
    began = day.now
    while day.now - began < 24 * HOUR_S:
        await begin(day, turns)
        day.now += 0.5
    pauses = [later - earlier for earlier, later in zip(day.begun, day.begun[1:], strict=False)]
    assert sum(at - began < 90 for at in day.begun) <= 6
    assert pauses[:5] == sorted(pauses[:5])
    assert most_in_an_hour(day.begun) <= 20
    assert len(day.begun) <= 20 * 24
    fault.note(0.0, virtual=True)


@pytest.mark.fault(143)
async def test_the_remainder_of_a_day_is_never_used_up_by_one_process(tmp_path: Path, fault: Fault) -> None:
    day = Day(total=30)
    turns = turns_of(day, tmp_path, per_hour=0)
    for _ in range(60):
        await begin(day, turns)  # Asserts that some remain.
        day.now += 0.5
    fault.note(0.0, virtual=True)


async def test_a_session_that_lasted_is_followed_at_once(tmp_path: Path) -> None:
    day = Day()
    turns = turns_of(day, tmp_path)
    await begin(day, turns)
    day.now += 600.0
    await begin(day, turns)
    assert day.waits == []


@pytest.mark.parametrize(("concurrency", "seconds"), [(1, 13 * WINDOW_S), (4, 3 * WINDOW_S), (14, 0.0), (100, 0.0)])
async def test_shards_begin_as_discord_allows(concurrency: int, seconds: float, tmp_path: Path) -> None:
    day = Day()

    async def ask() -> tuple[Limit, int]:
        return Limit(1000, 1000, 3600.0, concurrency), 14

    turns = Turns(Identifies(tmp_path, 20, clock=lambda: day.now), ask, clock=lambda: day.now, sleep=day.sleep)
    began = day.now
    for shard in range(14):
        await begin(day, turns, shard)
    for key in range(min(concurrency, 14)):
        mine = day.begun[key::concurrency]
        assert all(later - earlier >= WINDOW_S for earlier, later in itertools.pairwise(mine))
    assert day.now - began == pytest.approx(seconds)


async def test_shards_that_ask_at_the_same_time_all_know_the_concurrency(tmp_path: Path) -> None:
    day = Day()
    asked = 0

    async def slow_answer() -> tuple[Limit, int]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.05)
        return Limit(1000, 1000, 3600.0, 8), 8

    turns = Turns(Identifies(tmp_path, 20, clock=lambda: day.now), slow_answer, clock=lambda: day.now, sleep=day.sleep)
    began = day.now
    await asyncio.gather(*(begin(day, turns, shard) for shard in range(8)))
    assert day.now == began
    assert asked == 1


async def test_question_that_was_cut_short_is_asked_again(tmp_path: Path) -> None:
    day = Day()
    answers = asyncio.Event()

    async def ask() -> tuple[Limit, int]:
        await answers.wait()
        return Limit(1000, 1000, 3600.0, 8), 8

    turns = Turns(Identifies(tmp_path, 20, clock=lambda: day.now), ask, clock=lambda: day.now, sleep=day.sleep)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await begin(day, turns)
    answers.set()
    began = day.now
    await begin(day, turns, 0)
    await begin(day, turns, 1)
    assert day.now == began


async def test_every_session_is_logged_and_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "roost.start")
    day = Day()
    turns = turns_of(day, tmp_path)
    await begin(day, turns)
    await begin(day, turns)
    assert "shard 0 begins a session with Discord: number 2 in this process's last hour" in caplog.text
    assert "shard 0 waits 5 s before its next session with Discord: sessions begun lately: 1" in caplog.text
    assert parse((tmp_path / FILE).read_bytes()) == [(at, 0) for at in day.begun]


async def test_when_discord_does_not_say_its_limit_the_pauses_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    day = Day()

    async def unreachable() -> tuple[Limit, int]:
        raise OSError("no network")

    turns = Turns(Identifies(tmp_path, 20, clock=lambda: day.now), unreachable, clock=lambda: day.now, sleep=day.sleep)
    for _ in range(4):
        await begin(day, turns)
    assert day.begun[-1] - day.begun[0] == pytest.approx(5 + 10 + 20)
    assert "did not say how many sessions" in caplog.text


def test_starts_noted_by_earlier_versions_count() -> None:
    assert parse(b'{"identifies": [2.0, 1.0]}') == [(1.0, 0), (2.0, 0)]
