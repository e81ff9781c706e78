"""Who can read captions and transcripts, against a model that works it out anew for every message and answer."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from reading_world import OPERATIONS, World, play, settle_in, step

from roost.testing.clock import VirtualTime

pytestmark = pytest.mark.unit

FRESH = int(os.environ.get("ROOST_READING_SEED") or random.SystemRandom().randrange(1 << 32))
"""A seed that no run had before. A failure shows it; ``ROOST_READING_SEED`` plays it again."""


class Machine(RuleBasedStateMachine):
    """Everything of `OPERATIONS` as a rule; Hypothesis picks, and shortens what fails."""

    world: World | None = None

    @initialize(mode=st.sampled_from(("opt-in", "notice")), intent=st.booleans(), number=st.integers(0, 9))
    def begin(self, mode: str, intent: bool, number: int) -> None:
        self.time = VirtualTime()
        self.world = World(mode, intent, number)
        self.running = self.world.running()
        self.time.run(self.running.__aenter__())
        self.time.run(settle_in(self.world))

    def happen(self, name: str, choices: dict[str, Any]) -> None:
        assert self.world is not None
        self.time.run(step(self.world, name, choices))

    def teardown(self) -> None:
        if self.world is None:
            return
        try:
            self.happen("rest_a_while", {})
        finally:
            self.time.run(self.running.__aexit__(None, None, None))
            self.time.close()


def as_rule(name: str, choices: dict[str, tuple[Any, ...]]) -> Any:
    def happens(self: Machine, **chosen: Any) -> None:
        self.happen(name, chosen)

    happens.__name__ = name
    possible = precondition(lambda machine: machine.world is not None)
    return possible(rule(**{key: st.sampled_from(values) for key, values in choices.items()})(happens))


for _name, _choices in OPERATIONS.items():
    setattr(Machine, _name, as_rule(_name, _choices))


def test_nobody_reads_along_who_may_not() -> None:
    print(f"seed {FRESH}")

    @seed(FRESH)
    class Run(Machine):
        pass

    run_state_machine_as_test(
        Run,
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("first", [20, pytest.param(FRESH, id="fresh")])
def test_a_short_walk(first: int) -> None:
    """What `make soak` does for longer."""
    print(f"seed {first}")
    for number in range(first, first + 8):
        with VirtualTime() as time:
            time.run(play(number, 120))
