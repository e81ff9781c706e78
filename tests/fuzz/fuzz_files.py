"""Targets that take what other processes wrote: journals, the folder of instances, the pipe of the speech worker."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

from fuzzing import Script, Target, mutate, mutate_json

from roost.instances import is_alive
from roost_stt.protocol import ipc
from roost_voice import journal

NEW = {"channel": "702", "session_sha256": None}
JOURNALS = [
    {"instance": "0f", "guilds": {"700": NEW}},
    {"instance": "0f", "guilds": {"700": {"channel": "702", "session_sha256": "ab" * 32}, "701": NEW}},
    {"instance": "0f", "guilds": {}},
]
AUDIO = ipc.Audio(1, 2, 3, 4, 5.0, 0, b"\x78opus")
MESSAGES = [
    ipc.encode_audio(AUDIO),
    ipc.encode_json(ipc.Kind.HELLO, {"engine": "x"}) + ipc.encode_audio(AUDIO) + ipc.encode(ipc.Kind.PING),
    ipc.encode_json(ipc.Kind.PURGE, {"token": 1, "guild": 2, "user": 3}) * 3,
]


def run_journal(data: bytes) -> None:
    """`journal.parse`: claims, or None; and whatever was read is read as ids."""
    claims = journal.parse(data)
    for guild, claim in (claims or {}).items():
        assert 0 < guild < 1 << 64
        assert 0 < claim.channel_id < 1 << 64
        assert claim.session_sha256 is None or isinstance(claim.session_sha256, str)


def run_instances(data: bytes) -> None:
    """A folder of instances in which files have any name and content: read without an error, the torn removed."""
    script = Script(data)
    with tempfile.TemporaryDirectory(prefix="roost-fuzz-") as folder:
        root = Path(folder)
        instances = root / "instances"
        instances.mkdir()
        for _ in range(1 + script.number() % 3):
            name = script.take(script.number() % 24).decode("latin-1").replace("/", "_").replace("\0", "_")
            path = instances / (name + script.pick((".json", ".json.new", ".lock", "", ".json.x")))
            if path.name in ("", ".", "..") or path.exists():
                continue
            if script.number() % 8 == 0:
                path.mkdir()
            else:
                path.write_bytes(script.take(script.number(2) % 300))
            assert not is_alive(root, name)
        for path, guilds in journal.read_dead(root, "own").items():
            assert guilds
            journal.remove_lock_of(path)
        assert journal.read_dead(root, "own") == {}


def make_instances(dice: random.Random) -> bytes:
    body = mutate_json(dice, JOURNALS)[:290]
    name = dice.randbytes(dice.randrange(12))
    entry = bytes([len(name)]) + name + bytes([dice.randrange(5), 1]) + len(body).to_bytes(2, "big") + body
    return bytes([dice.randrange(3)]) + entry * dice.choice((1, 2)) + dice.randbytes(20)


def run_ipc(data: bytes) -> None:
    """The framing, in pieces and at once: the same messages, never more kept than one message holds."""
    script = Script(data)
    size = 1 + script.number()
    stream = data[1:]
    whole = ipc.FrameParser(4096)
    at_once = whole.feed(stream)
    pieces, found = ipc.FrameParser(4096), []
    for start in range(0, len(stream), size):
        found += pieces.feed(stream[start : start + size])
        assert len(pieces._buffer) <= 4096 + 5 + size
    assert found == at_once
    for message in found:
        if isinstance(message, ipc.Violation):
            continue
        audio = ipc.decode_audio(message.body)
        if isinstance(audio, ipc.Audio):
            assert audio.opus
            assert ipc.encode_audio(audio) == ipc.encode(ipc.Kind.AUDIO, message.body)
        fields = ipc.decode_json(message.body)
        assert isinstance(fields, dict | ipc.Violation)


def make_journal(dice: random.Random) -> bytes:
    return mutate_json(dice, JOURNALS)


def make_ipc(dice: random.Random) -> bytes:
    return bytes([dice.randrange(256)]) + mutate(dice, MESSAGES)


TARGETS = (
    Target("journal", [json.dumps(each).encode() for each in JOURNALS], run_journal, make_journal),
    Target("instances", [], run_instances, make_instances),
    Target("ipc", [b"\7" + message for message in MESSAGES], run_ipc, make_ipc),
)
