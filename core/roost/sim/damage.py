"""Messages that Discord should never send, for the faults of the gateway. Pure."""

from __future__ import annotations

import copy
import dataclasses
import enum
import json
from collections.abc import Callable, Mapping
from typing import Any

DEEP = 100_000
HUGE = 65 << 20
"""Bytes of a message that is too large; it takes 64 KiB on the wire."""


class Carrier(enum.Enum):
    """How bytes are put into a websocket frame."""

    MESSAGE = "message"
    """As every message: compressed where the client asked for it."""
    TEXT = "text"
    """In a text frame, whatever the client asked for."""
    BYTES = "bytes"
    """In a binary frame, not compressed."""


@dataclasses.dataclass(frozen=True, slots=True)
class RawFrame:
    """One frame to send as it is."""

    raw: bytes
    carrier: Carrier = Carrier.MESSAGE


def _json(value: Any) -> Callable[[], RawFrame]:
    return lambda: RawFrame(json.dumps(value).encode())


FRAMES: Mapping[str, Callable[[], RawFrame]] = {
    "text": lambda: RawFrame(b"Bad Gateway", Carrier.TEXT),
    "not_json": lambda: RawFrame(b"<html>Bad Gateway</html>"),
    "not_utf8": lambda: RawFrame(b'{"op": 0, "t": "\xff\xfe"}'),
    "list": _json([1, 2, 3]),
    "number": _json(7),
    "no_op": _json({"t": "READY", "s": 1, "d": {}}),
    "op_text": _json({"op": "zero", "d": None}),
    "beat": _json({"op": 1, "d": None}),
    "unknown_op": _json({"op": 99, "d": {"what": "ever"}}),
    "no_t": _json({"op": 0, "s": 3, "d": {}}),
    "t_number": _json({"op": 0, "s": 3, "t": 5, "d": {}}),
    "no_s": _json({"op": 0, "t": "GUILD_CREATE", "d": {}}),
    "s_null": _json({"op": 0, "t": "NOISE", "s": None, "d": {}}),
    "no_d": _json({"op": 0, "t": "GUILD_CREATE", "s": 3}),
    "nested": lambda: RawFrame(b'{"op": 0, "d": ' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "zlib": lambda: RawFrame(b"\x12\x34\x56\x78 this is no stream\x00\x00\xff\xff", Carrier.BYTES),
    "huge": lambda: RawFrame(b'{"op": 0, "t": "NOISE", "s": 3, "d": "' + b"a" * HUGE + b'"}'),
    "rate_limited": _json({"op": 0, "t": "RATE_LIMITED", "s": 3, "d": {}}),
    "resumed_twice": _json({"op": 0, "t": "RESUMED", "s": 3, "d": None}),
    "ready_empty": _json({"op": 0, "t": "READY", "s": 3, "d": {}}),
}
"""Kinds of frames that the fault ``gateway_frame`` sends, with what makes them."""

HELLOS: Mapping[str, Any] = {
    "no_d": {"op": 10},
    "no_interval": {"op": 10, "d": {}},
    "interval_text": {"op": 10, "d": {"heartbeat_interval": "soon"}},
    "interval_zero": {"op": 10, "d": {"heartbeat_interval": 0}},
    "interval_huge": {"op": 10, "d": {"heartbeat_interval": 1e300}},
    "op_0": {"op": 0, "t": "HELLO", "s": 1, "d": {}},
    "list": [],
}
"""Kinds of first messages that the fault ``damaged_hello`` sends."""


def without(payload: Mapping[str, Any], fields: list[str], replaced: Mapping[str, Any]) -> dict[str, Any]:
    """A payload less those of some fields that it has, named with dots, and with others replaced."""
    damaged = copy.deepcopy(dict(payload))
    for path in fields:
        *outer, last = path.split(".")
        part: Any = damaged
        for name in outer:
            part = _inside(part, name)
        if isinstance(part, dict):
            part.pop(last, None)
    return damaged | dict(replaced)


def _inside(part: Any, name: str) -> Any:
    if isinstance(part, list):
        return part[int(name)] if name.isdecimal() and int(name) < len(part) else None
    return part.get(name) if isinstance(part, dict) else None
