"""Who is heard, against a small model: members, decisions, notices, guards, crashes and a failing store."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from consent_world import OPERATIONS, PEOPLE, World, play, quick, step
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

pytestmark = pytest.mark.unit

FRESH = int(os.environ.get("ROOST_CONSENT_SEED") or random.SystemRandom().randrange(1 << 32))
"""A seed that no run had before. A failure shows it; ``ROOST_CONSENT_SEED`` plays it again."""


@pytest.fixture(autouse=True)
def quickly() -> Iterator[None]:
    with quick():
        yield


class Machine(RuleBasedStateMachine):
    """Everything of `OPERATIONS` as a rule; Hypothesis picks, and shortens what fails."""

    world: World | None = None

    @initialize(mode=st.sampled_from(("opt-in", "notice")), number=st.integers(0, 9))
    def begin(self, mode: str, number: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.world = World(mode, number)
        self.running = self.world.running()
        self.loop.run_until_complete(self.running.__aenter__())
        for user in PEOPLE:
            self.happen("arrive", {"user": user})

    def happen(self, name: str, choices: dict[str, Any]) -> None:
        assert self.world is not None
        self.loop.run_until_complete(step(self.world, name, choices))

    def teardown(self) -> None:
        if self.world is None:
            return
        try:
            self.happen("rest", {})
        finally:
            self.loop.run_until_complete(self.running.__aexit__(None, None, None))
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()


def as_rule(name: str, choices: dict[str, tuple[Any, ...]]) -> Any:
    def happens(self: Machine, **chosen: Any) -> None:
        self.happen(name, chosen)

    happens.__name__ = name
    possible = precondition(lambda machine: machine.world is not None)
    return possible(rule(**{key: st.sampled_from(values) for key, values in choices.items()})(happens))


for _name, _choices in OPERATIONS.items():
    setattr(Machine, _name, as_rule(_name, _choices))


@pytest.mark.parametrize("number", [1, pytest.param(FRESH, id="fresh")])
def test_nobody_is_heard_against_their_will(number: int) -> None:
    print(f"seed {number}")

    @seed(number)
    class Run(Machine):
        pass

    run_state_machine_as_test(
        Run,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_short_walk() -> None:
    """What `make soak` does for longer."""
    for number in range(FRESH, FRESH + 10):
        asyncio.run(play(number, 120))
