"""What may happen to an actor, as a table; and runs of it from a seed.

A Hypothesis machine and the soak both draw from `OPERATIONS`.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

from actor_world import World

from roost_voice.protocol.close_codes import CloseCode

CHANNELS = (11, 12, 13)
CODES = (None, *CloseCode, 4099)
FATES = (
    "done",
    "done",
    "server first",
    "first server null",
    "stale null first",
    "ignored",
    "late",
    "state late",
    "no server",
)
"""What becomes of an op 4."""
RUN_STEPS = 300
"""Steps of one run, from a start to the last leave."""
Step = tuple[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Operation:
    """Something that may happen, its choices, and how often a soak picks it."""

    choices: dict[str, tuple[Any, ...]]
    possible: Callable[[World], bool]
    weight: int = 10

    @property
    def fault(self) -> bool:
        """Something that a run can do without."""
        return self.weight < 15


BOTH = (False, True)


def _any(_world: World) -> bool:
    return True


def _in_voice(world: World) -> bool:
    return world.discord.channel is not None


OPERATIONS: dict[str, Operation] = {
    "want": Operation({"channel": CHANNELS, "may_move": BOTH}, _any, 15),
    "unwant": Operation({}, _any, 4),
    "unwant_unasked": Operation({}, _any, 1),
    "cancel": Operation({"pick": tuple(range(8))}, lambda w: bool(w.open_tickets), 4),
    "cancel_all": Operation({}, lambda w: bool(w.open_tickets), 4),
    "cancel_too_late": Operation({}, lambda w: bool(w.last_joined), 2),
    "stop": Operation({}, lambda w: not w.stopped, 1),
    "kill": Operation({"ghost": BOTH, "torn": BOTH}, _any, 1),
    "send_op4": Operation({"fate": FATES}, lambda w: len(w.queue) > 0 and w.discord.up, 100),
    "others_send": Operation({"count": (1, 20, 100)}, _any, 1),
    "op4_late": Operation({}, lambda w: bool(w.discord.late) and w.discord.up),
    "owed_state": Operation({}, lambda w: bool(w.discord.owed) and w.discord.up, 10),
    "deliver": Operation({"count": (1, 2, 4)}, lambda w: bool(w.discord.events) and w.discord.up, 100),
    "handshake": Operation({}, lambda w: "opening" in w.links.values(), 100),
    "handshake_fails": Operation({"code": CODES, "barred": BOTH}, lambda w: "opening" in w.links.values(), 8),
    "close_code": Operation({"code": CODES, "resumed": BOTH, "barred": BOTH}, lambda w: "live" in w.links.values()),
    "link_closes": Operation({"code": (None, None, 4014, 4006)}, lambda w: "closing" in w.links.values(), 30),
    "rest_answers": Operation({"known": (True, True, False)}, lambda w: bool(w.asks), 20),
    "hooks_open": Operation({"denied": (False, False, False, True)}, lambda w: w.opening is not None, 60),
    "hooks_drain": Operation({}, lambda w: w.drain is not None, 20),
    "stale": Operation({"kind": tuple(range(5))}, _any, 3),
    "wait": Operation({"fraction": (0.3, 1.0)}, lambda w: w.core.deadline is not None, 15),
    "time_passes": Operation({"seconds": (0.01, 1.0, 70.0)}, _any, 5),
    "kick": Operation({"told": BOTH}, _in_voice, 4),
    "moderator_moves": Operation({"channel": CHANNELS, "server_first": BOTH}, _in_voice, 6),
    "server_goes": Operation({"back": BOTH}, _in_voice, 4),
    "server_changes": Operation({}, _in_voice, 4),
    "channel_deleted": Operation({"channel": CHANNELS}, _any, 2),
    "guild_leaves": Operation({}, _any, 1),
    "outage": Operation({"lost": BOTH}, lambda w: w.discord.up, 2),
    "gateway_drops": Operation({}, lambda w: w.discord.up, 4),
    "gateway_resumes": Operation({}, lambda w: not w.discord.up, 10),
    "gateway_identifies": Operation({"ghost": BOTH}, lambda w: not w.discord.up, 10),
}


class Violation(AssertionError):
    """An invariant broke.

    Attributes:
        seed: Plays the run again.
        trace: What happened until then.
    """

    def __init__(self, seed: int, trace: list[Step], cause: BaseException) -> None:
        super().__init__(f"seed {seed}, step {len(trace)}: {type(cause).__name__}: {cause}")
        self.seed = seed
        self.trace = trace


def play(seed: int, steps: int = RUN_STEPS, *, loud: bool = False) -> World:
    """One run, the same for the same seed.

    Args:
        loud: Print every input and what the actor decides.

    Raises:
        Violation: An invariant broke, or the actor raised.
    """
    random_ = random.Random(seed)
    start = {name: random_.random() < 0.5 for name in ("null_honoured", "exclusive", "ghost")}
    # Each run does without half of what can go wrong, so that some come far and others fail in one way again and again.
    weights = {
        name: 0.1 if operation.fault and random_.random() < 0.5 else operation.weight
        for name, operation in OPERATIONS.items()
    }
    trace: list[Step] = [("start", start)]
    try:
        world = World(**start)
        world.loud = loud
        for _ in range(steps):
            possible = [name for name, operation in OPERATIONS.items() if operation.possible(world)]
            (name,) = random_.choices(possible, [weights[each] for each in possible])
            choices = {key: random_.choice(values) for key, values in OPERATIONS[name].choices.items()}
            trace.append((name, choices))
            if loud:
                print(f"{len(trace) - 1}. {written(name, choices)}")
            getattr(world, name)(**choices)
            world.check()
        trace.append(("settle", {}))
        world.settle()
    except Exception as error:
        raise Violation(seed, trace, error) from error
    return world


def written(name: str, choices: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in choices.items())})"
