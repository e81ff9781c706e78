"""The actor's core against a small model of Discord, in virtual time, with faults at every step."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from actor_runs import OPERATIONS, RUN_STEPS, Operation, play
from actor_world import World
from hypothesis import HealthCheck, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from roost_voice.actor import TRANSITIONS
from roost_voice.moves import State, Stop, Tick, Unwant

pytestmark = pytest.mark.unit

FRESH = int(os.environ.get("ROOST_ACTOR_SEED") or random.SystemRandom().randrange(1 << 32))
"""A seed that no run had before. A failure shows it; ``ROOST_ACTOR_SEED`` plays it again."""
SEEDS = [1, 2, 3]
EXAMPLES = 200
"""Of 40 steps at most, for each seed: more than 10,000 steps in all."""


class ActorMachine(RuleBasedStateMachine):
    """Everything of `OPERATIONS` as a rule; Hypothesis picks, and shortens what fails."""

    steps = 0
    world: World | None = None

    @initialize(null_honoured=st.booleans(), exclusive=st.booleans(), ghost=st.booleans())
    def begin(self, **start: bool) -> None:
        self.world = World(**start)

    def happen(self, name: str, choices: dict[str, Any]) -> None:
        assert self.world is not None
        getattr(self.world, name)(**choices)
        self.world.check()
        ActorMachine.steps += 1

    def teardown(self) -> None:
        if self.world is not None:
            self.world.settle()


def as_rule(name: str, operation: Operation) -> Any:
    def happens(self: ActorMachine, really: int = 0, **choices: Any) -> None:
        if really == 0:
            self.happen(name, choices)

    happens.__name__ = name
    choices = {key: st.sampled_from(values) for key, values in operation.choices.items()}
    if operation.weight <= 2:
        choices["really"] = st.integers(0, 9)
    possible = precondition(lambda machine: machine.world is not None and operation.possible(machine.world))
    return possible(rule(**choices)(happens))


for _name, _operation in OPERATIONS.items():
    # Hypothesis knows no weights: what brings a join forward stands there several times.
    for _copy in range(max(1, _operation.weight // 20)):
        setattr(ActorMachine, f"{_name}_{_copy}", as_rule(_name, _operation))


@pytest.mark.parametrize("number", [*SEEDS, pytest.param(FRESH, id="fresh")])
def test_the_actor_holds(number: int) -> None:
    print(f"seed {number}")
    before = ActorMachine.steps

    @seed(number)
    class Machine(ActorMachine):
        pass

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            verbosity=Verbosity.normal,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert ActorMachine.steps - before >= 2500, "too few steps"


@pytest.mark.parametrize("first", [0, pytest.param(FRESH, id="fresh")])
def test_a_short_soak(first: int) -> None:
    """What `tests/soak.py` does for hours; a failure names the seed for its `--replay`."""
    print(f"seed {first}")
    steps = sum(play(number).steps for number in range(first, first + 100))
    assert steps >= 100 * RUN_STEPS


def test_every_state_hears_its_deadline_and_its_end() -> None:
    for state in State:
        if state is not State.IDLE:
            assert (state, Tick) in TRANSITIONS
        assert (state, Stop) in TRANSITIONS
        assert (state, Unwant) in TRANSITIONS
