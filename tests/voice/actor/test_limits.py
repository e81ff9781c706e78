"""`roost_voice.limits`."""

from __future__ import annotations

import pytest

from roost_voice.limits import SWEEP_AT, Counted, JoinLimits, Limits

pytestmark = pytest.mark.unit

SHARD = 0


def limits(user: int = 3, guild: int = 100, shard: int = 100, newcomers: int = 100) -> JoinLimits:
    return JoinLimits(Limits(user, guild, shard, newcomers), 60.0)


def test_a_member_over_the_limit_reads_the_seconds_left() -> None:
    counted = limits(user=3)
    assert [counted.take(7, guild, SHARD, float(guild)) for guild in range(3)] == [None] * 3
    refused = counted.take(7, 3, SHARD, 20.5)
    assert refused is not None
    assert counted.look(7, 3, SHARD, 20.5) == refused
    assert refused.scope is Counted.USER
    assert refused.words == "you have asked me to join 3 times in a minute; try again in 40 s"
    assert counted.take(8, 3, SHARD, 20.5) is None, "others are not concerned"
    assert counted.take(7, 3, SHARD, 60.0) is None


def test_a_server_over_the_limit_concerns_that_server_alone() -> None:
    counted = limits(guild=2)
    assert [counted.take(user, 1, SHARD, 0.0) for user in (7, 8)] == [None] * 2
    refused = counted.take(9, 1, SHARD, 1.0)
    assert refused is not None
    assert refused.scope is Counted.GUILD
    assert counted.take(9, 2, SHARD, 1.0) is None


def test_a_busy_shard_still_takes_members_who_asked_for_nothing_yet() -> None:
    counted = limits(user=50, shard=4, newcomers=6)
    assert [counted.take(7, guild, SHARD, 0.0) for guild in range(4)] == [None] * 4
    refused = counted.take(7, 5, SHARD, 10.0)
    assert refused is not None
    assert refused.scope is Counted.SHARD
    assert refused.after_s == 50.0
    assert counted.take(8, 6, SHARD, 10.0) is None
    assert counted.take(7, 7, 1, 10.0) is None, "another shard has its own window"
    assert counted.take(9, 8, SHARD, 10.0) is None
    assert counted.take(10, 9, SHARD, 10.0) is not None


def test_a_plugin_that_asks_for_nobody_has_the_limits_of_server_and_shard_alone() -> None:
    counted = limits(user=1, newcomers=8)
    assert [counted.take(0, guild, SHARD, 0.0) for guild in range(8)] == [None] * 8
    assert counted.take(0, 9, SHARD, 0.0) is not None


def test_looking_counts_no_join() -> None:
    counted = limits(user=1)
    assert [counted.look(7, 1, SHARD, 0.0) for _ in range(3)] == [None] * 3
    assert counted.take(7, 1, SHARD, 0.0) is None
    assert counted.look(7, 1, SHARD, 1.0) is not None


def test_members_without_a_join_in_the_window_are_forgotten() -> None:
    counted = limits(newcomers=10**9, shard=10**9)
    for user in range(3 * SWEEP_AT):
        assert counted.take(user + 1, user, SHARD, user * 1.0) is None
    assert len(counted) < SWEEP_AT + 200
