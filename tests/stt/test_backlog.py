"""`roost_stt.worker.backlog`: no server's words wait behind all words of another."""

from __future__ import annotations

import pytest

from roost_stt.protocol.segmenter import Cut, Segment
from roost_stt.worker.backlog import MAX_SECONDS, Backlog
from roost_stt.worker.utterances import Spoken

pytestmark = pytest.mark.unit

BUSY, QUIET = 1, 2


def spoken(guild_id: int, user_id: int, mark: int, seconds: float = 2.0) -> Spoken:
    pcm = bytes(int(seconds * 32_000))
    return Spoken(guild_id, user_id, Segment(pcm, mark, mark + 50, 0.0, seconds, 900, Cut.GAP))


def flood(backlog: Backlog, number: int = 60) -> None:
    """25 people of one server speak at once."""
    for mark in range(number):
        backlog.put(spoken(BUSY, 100 + mark % 25, mark))


def test_servers_take_turns() -> None:
    backlog = Backlog(lambda _lost: None, lambda _token: None)
    flood(backlog)
    for mark in range(3):
        backlog.put(spoken(QUIET, 7, 1000 + mark))
    assert [backlog.take(1).items[0].guild_id for _ in range(7)] == [BUSY, QUIET, BUSY, QUIET, BUSY, QUIET, BUSY]


def test_a_batch_holds_words_of_every_server_that_waits() -> None:
    backlog = Backlog(lambda _lost: None, lambda _token: None)
    flood(backlog)
    backlog.put(spoken(QUIET, 7, 1000))
    assert QUIET in {item.guild_id for item in backlog.take(8).items}


def test_what_is_too_much_is_taken_from_the_server_with_the_most() -> None:
    lost: list[Spoken] = []
    backlog = Backlog(lost.append, lambda _token: None)
    backlog.put(spoken(QUIET, 7, 0))
    flood(backlog, 200)
    assert {item.guild_id for item in lost} == {BUSY}
    assert [item.segment.first_mark for item in lost] == list(range(len(lost))), "the oldest first"
    assert backlog.stats()["waiting_s"] <= MAX_SECONDS
    batch = backlog.take(8)
    assert QUIET in {item.guild_id for item in batch.items}


def test_each_speakers_words_keep_their_order() -> None:
    backlog = Backlog(lambda _lost: None, lambda _token: None)
    flood(backlog, 50)
    for mark in range(10):
        backlog.put(spoken(QUIET, 7 + mark % 2, 1000 + mark, seconds=1.0 + mark % 3))
    order: dict[tuple[int, int], list[int]] = {}
    while backlog.stats()["waiting"]:
        for item in backlog.take(4).items:
            order.setdefault((item.guild_id, item.user_id), []).append(item.segment.first_mark)
        backlog.done()
    assert all(marks == sorted(marks) for marks in order.values())
    assert sum(len(marks) for marks in order.values()) == 60


def test_a_server_that_is_drained_still_goes_first() -> None:
    drained: list[int] = []
    backlog = Backlog(lambda _lost: None, drained.append)
    flood(backlog, 4)
    backlog.put(spoken(QUIET, 7, 1000))
    backlog.put(spoken(QUIET, 7, 1001))
    backlog.drain(QUIET, 5)
    assert [backlog.take(1).items[0].guild_id for _ in range(2)] == [QUIET, QUIET]
    backlog.done()
    assert drained == [5]
