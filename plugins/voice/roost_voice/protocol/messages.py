"""Reading the voice gateway's frames: sizes, nesting and types checked, nothing trusted, nothing raised."""

from __future__ import annotations

import ipaddress
import json
import struct
from typing import Any

from .aead import KEY_BYTES

MAX_TEXT_BYTES = 256 * 1024
MAX_BINARY_BYTES = 1024 * 1024
"""Far above any real one: a welcome grows by a few hundred bytes with each member."""
MAX_DEPTH = 16
MAX_MODES = 64
MAX_HEARTBEAT_MS = 600_000
_SNOWFLAKE_LIMIT = 1 << 64
_SEQ_LIMIT = 1 << 32
"""What is acknowledged goes back to the server with every heartbeat, so it may not be of any size."""
_BINARY_HEADER = struct.Struct(">HB")

Text = tuple[int, Any, int | None]
"""(opcode, its ``d``, its ``seq`` if it has one)."""


def parse_text(data: str) -> Text | str:
    """One JSON frame, or the reason why it is none."""
    if len(data) > MAX_TEXT_BYTES:
        return "frame_size"
    if not _shallow(data):
        return "json_depth"
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return "json"
    if not isinstance(message, dict):
        return "shape"
    op = message.get("op")
    if type(op) is not int:
        return "shape"
    seq = message.get("seq")
    return op, message.get("d"), seq if type(seq) is int and 0 <= seq < _SEQ_LIMIT else None


def parse_binary(data: bytes) -> tuple[int, int, bytes] | str:
    """One binary frame as (seq, opcode, body), or the reason why it is none."""
    if len(data) > MAX_BINARY_BYTES:
        return "frame_size"
    if len(data) < _BINARY_HEADER.size:
        return "binary_short"
    seq, op = _BINARY_HEADER.unpack_from(data)
    return seq, op, data[_BINARY_HEADER.size :]


def _shallow(data: str) -> bool:
    """Whether brackets nest no deeper than `MAX_DEPTH`; those inside strings count too, which no real frame minds."""
    if data.count("[") + data.count("{") <= MAX_DEPTH:
        return True
    depth = 0
    for char in data:
        if char in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return False
        elif char in "]}" and depth:
            depth -= 1
    return True


def snowflake(value: object) -> int | None:
    """A Discord id, sent as a string (or, by lenient servers, as a number)."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        value = int(value)
    if type(value) is int and 0 < value < _SNOWFLAKE_LIMIT:
        return value
    return None


def snowflakes(data: object) -> list[int] | None:
    """The ``user_ids`` of op 11."""
    ids = data.get("user_ids") if isinstance(data, dict) else None
    if not isinstance(ids, list):
        return None
    return [user_id for user_id in map(snowflake, ids) if user_id is not None]


def u32(value: object) -> int | None:
    """An ssrc."""
    return value if type(value) is int and 0 <= value <= 0xFFFFFFFF else None


def heartbeat_interval_s(data: object) -> float | None:
    """The interval of hello, in seconds."""
    value = data.get("heartbeat_interval") if isinstance(data, dict) else None
    if type(value) not in (int, float) or not isinstance(value, (int, float)):
        return None
    if not 0 < value <= MAX_HEARTBEAT_MS:
        return None
    return value / 1000


def ready(data: object) -> tuple[int, str, int, list[str]] | None:
    """(ssrc, ip, port, modes) of op 2."""
    if not isinstance(data, dict):
        return None
    ssrc, ip, port, modes = u32(data.get("ssrc")), data.get("ip"), data.get("port"), data.get("modes")
    if ssrc is None or not isinstance(ip, str) or type(port) is not int or not 0 < port <= 0xFFFF:
        return None
    if not isinstance(modes, list) or len(modes) > MAX_MODES:
        return None
    try:
        address = str(ipaddress.ip_address(ip))
    except ValueError:
        return None
    return ssrc, address, port, [mode for mode in modes if isinstance(mode, str)]


def session_description(data: object) -> tuple[str, bytes, int] | str:
    """(mode, key, DAVE version) of op 4, or what is wrong with it."""
    if not isinstance(data, dict):
        return "it is no object"
    mode, key, version = data.get("mode"), data.get("secret_key"), data.get("dave_protocol_version", 0)
    if not isinstance(mode, str):
        return "it names no encryption mode"
    if not isinstance(key, list) or len(key) != KEY_BYTES:
        return "its key has the wrong length"
    if not all(type(byte) is int and 0 <= byte <= 255 for byte in key):
        return "its key is not made of bytes"
    if version is None:
        version = 0
    if type(version) is not int or not 0 <= version <= 0xFFFF:
        return "its DAVE version is no number"
    return mode, bytes(key), version


def streams(data: object) -> tuple[int, int] | None:
    """(user_id, audio ssrc) of op 12, or None where it names no audio stream."""
    if not isinstance(data, dict):
        return None
    user_id, ssrc = snowflake(data.get("user_id")), u32(data.get("audio_ssrc"))
    return (user_id, ssrc) if user_id is not None and ssrc else None


def speaking(data: object) -> tuple[int, int, bool] | None:
    """(user_id, ssrc, whether they speak) of op 5."""
    if not isinstance(data, dict):
        return None
    user_id, ssrc, bits = snowflake(data.get("user_id")), u32(data.get("ssrc")), data.get("speaking")
    if user_id is None or ssrc is None or not isinstance(bits, int):
        return None
    return user_id, ssrc, bits != 0
