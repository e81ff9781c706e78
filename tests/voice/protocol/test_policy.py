"""Close codes, and the shape of the tables."""

from __future__ import annotations

import pytest

from roost.audio import Retry
from roost_voice.protocol.close_codes import CloseCode, policy
from roost_voice.protocol.gateway import TRANSITIONS, GatewayState, Trigger
from roost_voice.protocol.opcodes import DAVE_BINARY_OPS, DAVE_TEXT_OPS, IGNORED_OPS, Op

pytestmark = pytest.mark.unit

RESUME = {1000, 1001, 1006, 4009, 4013, 4015}
OUR_BUG = {4001, 4002, 4003, 4005, 4012, 4016, 4020}


def test_every_code_has_a_rule() -> None:
    for code in CloseCode:
        decision = policy(code)
        assert decision.resume == (code in RESUME), code
        assert decision.reason.endswith("."), code
        assert "unknown code" not in decision.reason, code


@pytest.mark.parametrize("code", [*sorted(RESUME), None, 1002, 1009, 1011, 3000])
def test_broken_connections_resume_first(code: int | None) -> None:
    decision = policy(code)
    assert decision.resume
    assert decision.end(code).retry is Retry.REJOIN
    assert decision.end_after_resume(code).retry is Retry.RESUME_FAILED


@pytest.mark.parametrize(
    ("code", "retry", "tries"),
    [
        *((code, Retry.REJOIN, 1) for code in sorted(OUR_BUG)),
        (4004, Retry.REJOIN, 1),
        (4006, Retry.REJOIN, 3),
        (4011, Retry.REJOIN, 2),
        (4099, Retry.REJOIN, 1),
        (4014, Retry.AWAIT_SERVER, None),
        (4022, Retry.AWAIT_SERVER, None),
        (4017, Retry.STOP, None),
        (4021, Retry.STOP, None),
    ],
)
def test_the_others_do_not_resume(code: int, retry: Retry, tries: int | None) -> None:
    decision = policy(code)
    assert not decision.resume
    assert decision.tries == tries
    end = decision.end(code)
    assert (end.code, end.retry, end.cooldown_s) == (code, retry, 60.0 if code == 4021 else 0.0)
    after = decision.end_after_resume(code).retry
    assert after is (Retry.RESUME_FAILED if retry is Retry.REJOIN else retry)


def test_an_invalid_session_may_be_rejoined_three_times_in_five_minutes() -> None:
    assert policy(4006).tries_window_s == 300


def test_the_transition_table_reaches_every_state() -> None:
    reached = {GatewayState.IDLE, GatewayState.ENDED} | set(TRANSITIONS.values())
    assert reached == set(GatewayState)
    assert {trigger for _, trigger in TRANSITIONS} == set(Trigger)
    assert all(state is not GatewayState.ENDED for state, _ in TRANSITIONS)


def test_ops_are_in_one_group_at_most() -> None:
    assert not DAVE_BINARY_OPS & DAVE_TEXT_OPS
    assert not IGNORED_OPS & (DAVE_BINARY_OPS | DAVE_TEXT_OPS)
    assert {int(op) for op in IGNORED_OPS} == {14, 15, 16, 18, 20}
    assert Op(31) is Op.DAVE_INVALID_COMMIT_WELCOME
