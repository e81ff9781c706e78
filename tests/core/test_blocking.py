"""Telling a plugin that is slow from a process that stood still."""

from __future__ import annotations

import time

import pytest

from roost.blocking import STALL_S, BlockedError, Guard

pytestmark = pytest.mark.sim


def test_time_that_other_plugin_code_blocked_is_not_the_waiting_ones() -> None:
    guard = Guard()
    with guard.watching():
        waits_since = guard.moment()
        before = guard.enter(STALL_S + 0.5)
        try:
            with pytest.raises(BlockedError):
                while True:
                    time.sleep(0.01)
        finally:
            guard.leave(before)
        assert guard.stood_still(waits_since)


def test_waiting_is_no_standing_still() -> None:
    guard = Guard()
    assert not guard.stood_still(guard.moment())
    with guard.watching():
        since = guard.moment()
        time.sleep(STALL_S + 0.5)
        assert not guard.stood_still(since)
    assert not guard.stood_still(since)
