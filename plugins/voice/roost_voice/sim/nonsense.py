"""Voice gateway messages that are wrong in every way a client may trip over. Pure."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

_JSON_OPS = (2, 4, 5, 6, 8, 9, 11, 13, 21, 22, 24)
_FIELDS = {
    2: ("ssrc", "ip", "port", "modes"),
    4: ("mode", "secret_key", "dave_protocol_version"),
    5: ("user_id", "ssrc", "speaking"),
    6: ("t",),
    8: ("heartbeat_interval",),
    9: (),
    11: ("user_ids",),
    13: ("user_id",),
    21: ("protocol_version", "transition_id"),
    22: ("transition_id",),
    24: ("protocol_version", "epoch"),
}
_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    "1" * 400,
    [],
    [None, -1, {}, "x"],
    {"a": {}},
)
"""None of them means anything in any field."""
_BIG = 300 * 1024


def _text(dice: random.Random) -> str:
    """A JSON message whose fields hold nonsense."""
    op = dice.choice(_JSON_OPS)
    fields: Any = {name: dice.choice(_VALUES) for name in _FIELDS[op] if dice.random() < 0.8}
    if dice.random() < 0.3:
        fields = dice.choice(_VALUES)
    return json.dumps({"op": op, "d": fields, "seq": dice.choice((None, -1, "x", 1.5))})


def _broken(dice: random.Random) -> str:
    """Text that is no message."""
    good = json.dumps({"op": 5, "d": {"user_id": "1", "ssrc": 1, "speaking": 1}})
    return dice.choice(
        (
            "",
            "null",
            "[]",
            "5",
            '"\\ud800"',
            "{",
            good[: dice.randrange(len(good))],
            good.replace("5", "null", 1),
            good.replace("5", '"5"', 1),
            good.replace("5", "1e999", 1),
            good.replace("5", "9" * 5000, 1),
            '{"op": 99, "d": {}}',
            '{"d": {}}',
            "[" * 100_000,
            '{"op": 13, "d": ' + '{"d": ' * 50 + "1" + "}" * 51,
            '{"op": 5, "d": "' + "x" * _BIG + '"}',
            dice.randbytes(dice.randrange(1, 60)).decode("latin-1"),
        )
    )


def _binary(dice: random.Random, seq: int) -> bytes:
    """A binary message nobody can mean: too short, of an unknown op, or group messages that are none."""
    head = struct.pack(">H", seq)
    return dice.choice(
        (
            b"",
            b"\x00",
            head,
            head + bytes([dice.choice((0, 2, 26, 28, 31, 255))]) + dice.randbytes(20),
            head + b"\x19" + dice.randbytes(dice.randrange(0, 90)),
            head + b"\x1b",
            head + b"\x1b" + bytes([dice.randrange(256)]) + dice.randbytes(dice.randrange(0, 400)),
            head + bytes([dice.choice((29, 30))]) + dice.randbytes(dice.randrange(0, 3)),
            head + b"\x1b\x00" + b"\x80\xff\xff\xff",
        )
    )


def messages(count: int, seed: int, seq: int) -> list[str | bytes]:
    """So many messages, the same for the same seed.

    Args:
        count: How many.
        seed: Of the choice.
        seq: The sequence number that binary ones carry: one in use, for else a client could not resume.
    """
    dice = random.Random(seed)  # noqa: S311
    kinds: tuple[Callable[[], str | bytes], ...] = (
        lambda: _text(dice),
        lambda: _broken(dice),
        lambda: _binary(dice, seq),
    )
    return [kinds[number % len(kinds)]() for number in range(count)]
