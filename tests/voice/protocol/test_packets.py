"""RTP, discovery and transport encryption: golden bytes, and arbitrary ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost_voice.protocol import discovery, rtp
from roost_voice.protocol.aead import ReplayWindow, Sealer, choose_mode, make_opener
from roost_voice.protocol.opcodes import MODE_GCM, MODE_XCHACHA, MODES

pytestmark = pytest.mark.unit

VECTORS = Path(__file__).parents[2] / "vectors"
RTP: list[dict[str, Any]] = json.loads((VECTORS / "rtp.json").read_text())
DISCOVERY: list[dict[str, Any]] = json.loads((VECTORS / "discovery.json").read_text())


def named(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def unpack(data: bytes, mode: str, key: bytes) -> tuple[rtp.Header, bytes]:
    header = rtp.parse(data)
    assert not isinstance(header, str), header
    body = make_opener(mode, key)(data, header[4])
    assert body is not None
    payload = rtp.strip(header[0], header[5], body)
    assert isinstance(payload, bytes), payload
    return header, payload


@pytest.mark.parametrize("vector", RTP, ids=named)
def test_golden_rtp_packets_open(vector: dict[str, Any]) -> None:
    header, payload = unpack(bytes.fromhex(vector["packet"]), vector["mode"], bytes.fromhex(vector["key"]))
    assert payload.hex() == vector["payload"]
    assert header[1:4] == (vector["sequence"], vector["timestamp"], vector["ssrc"])
    assert header[4] == len(vector["header"]) // 2
    assert header[5] == len(vector["extension"]) // 2


@pytest.mark.parametrize("mode", MODES)
def test_sealing_gives_the_golden_bytes(mode: str) -> None:
    vector = next(v for v in RTP if v["mode"] == mode and v["nonce_counter"] == 0 and not v["padding"])
    header = rtp.build_header(vector["sequence"], vector["timestamp"], vector["ssrc"])
    assert header.hex() == vector["header"]
    sealer = Sealer(mode, bytes.fromhex(vector["key"]))
    packet = sealer.seal(header, bytes.fromhex(vector["payload"]))
    assert packet is not None
    assert packet.hex() == vector["packet"]
    again = sealer.seal(header, bytes.fromhex(vector["payload"]))
    assert again is not None
    assert again[-4:] == (1).to_bytes(4, "big")


@pytest.mark.parametrize("vector", RTP, ids=named)
def test_every_flipped_bit_is_noticed(vector: dict[str, Any]) -> None:
    packet = bytes.fromhex(vector["packet"])
    opener = make_opener(vector["mode"], bytes.fromhex(vector["key"]))
    clear = len(vector["header"]) // 2
    for position in (0, 3, clear - 1, clear, len(packet) - 10, len(packet) - 1):
        damaged = packet[:position] + bytes([packet[position] ^ 1]) + packet[position + 1 :]
        assert opener(damaged, clear) is None, position


def test_a_sealer_never_repeats_a_nonce() -> None:
    sealer = Sealer(MODE_GCM, bytes(32))
    sealer._counter = 2**32 - 1
    assert sealer.seal(bytes(12), b"x") is not None
    assert sealer.seal(bytes(12), b"x") is None


def test_the_preferred_mode_is_chosen() -> None:
    assert choose_mode([MODE_XCHACHA, MODE_GCM]) == MODE_GCM
    assert choose_mode([MODE_XCHACHA, "x"]) == MODE_XCHACHA
    assert choose_mode(["x"]) is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "size"),
        (b"\x80\x78" + bytes(29), "size"),
        (b"\x80\x78" + bytes(3000), "size"),
        (b"\x40\x78" + bytes(40), "not_rtp"),
        (b"\x80\xc8" + bytes(40), "rtcp"),
        (b"\x80\xcc" + bytes(40), "rtcp"),
        (b"\x80\x65" + bytes(40), "payload_type"),
        (b"\x8f\x78" + bytes(40), "header"),
        (b"\x90\x78" + bytes(18 + 12), "header"),
        (b"\x90\x78" + bytes(12) + b"\xff\xff" + bytes(40), "header"),
    ],
)
def test_what_is_no_voice_is_named(data: bytes, reason: str) -> None:
    assert rtp.parse(data) == reason


@pytest.mark.parametrize(
    ("first", "extension", "body", "result"),
    [
        (0x80, 0, b"abc", b"abc"),
        (0x90, 4, b"EEEEabc", b"abc"),
        (0xB0, 4, b"EEEEabc\0\2", b"abc"),
        (0xA0, 0, b"abc\1", b"abc"),
        (0xA0, 0, b"", "padding"),
        (0xA0, 0, b"abc\0", "padding"),
        (0xA0, 0, b"abc\5", "padding"),
        (0xB0, 4, b"EEEEab\4", "padding"),
        (0xA0, 0, b"\1", "empty"),
        (0x90, 8, b"EEEE", "empty"),
        (0x80, 0, b"", "empty"),
    ],
)
def test_extension_and_padding_are_cut_off(first: int, extension: int, body: bytes, result: bytes | str) -> None:
    assert rtp.strip(first, extension, body) == result


@pytest.mark.parametrize("vector", DISCOVERY, ids=named)
def test_golden_discovery(vector: dict[str, Any]) -> None:
    assert discovery.build_request(vector["ssrc"]).hex() == vector["request"]
    reply = bytes.fromhex(vector["reply"])
    assert discovery.looks_like_discovery(reply)
    assert discovery.parse_reply(reply, vector["ssrc"]) == (vector["address"], vector["port"])


def test_false_discovery_replies_are_refused() -> None:
    reply = bytes.fromhex(DISCOVERY[0]["reply"])
    ssrc = DISCOVERY[0]["ssrc"]
    assert discovery.parse_reply(reply[:-1], ssrc) == "discovery_size"
    assert discovery.parse_reply(reply + b"\0", ssrc) == "discovery_size"
    assert discovery.parse_reply(b"\0\1" + reply[2:], ssrc) == "discovery_type"
    assert discovery.parse_reply(reply[:3] + b"\x45" + reply[4:], ssrc) == "discovery_length"
    assert discovery.parse_reply(reply, ssrc + 1) == "discovery_ssrc"
    assert discovery.parse_reply(reply[:8] + b"x" * 64 + reply[72:], ssrc) == "discovery_address"
    assert discovery.parse_reply(reply[:8] + b"evil.example".ljust(64, b"\0") + reply[72:], ssrc) == "discovery_address"
    assert discovery.parse_reply(reply[:-2] + b"\0\0", ssrc) == "discovery_address"


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=200)
    | st.builds(lambda tail: b"\x9f\x78" + tail, st.binary(max_size=100))
    | st.builds(lambda tail: b"\xb0\x78" + tail, st.binary(max_size=100))
)
def test_any_bytes_parse_to_something(data: bytes) -> None:
    header = rtp.parse(data)
    if not isinstance(header, str):
        assert header[4] + header[5] + 20 <= len(data)
        for mode in MODES:
            assert make_opener(mode, bytes(32))(data, header[4]) is None
        rtp.strip(header[0], header[5], data)
    discovery.parse_reply(data, 1)
    discovery.parse_reply(b"\0\2\0\x46\0\0\0\1" + data[:66].ljust(66, b"\0"), 1)


def test_the_replay_window_refuses_what_it_has_seen() -> None:
    window = ReplayWindow()
    assert [window.accept(n) for n in (5, 5, 6, 9, 7, 7, 5)] == [True, False, True, True, True, False, False]
    assert window.accept(2000)
    assert not window.accept(2000 - 512)
    assert window.accept(2000 - 511)


def test_the_replay_window_follows_the_counter_around() -> None:
    window = ReplayWindow()
    assert window.accept(2**32 - 1)
    assert window.accept(1)
    assert window.accept(0)
    assert not window.accept(2**32 - 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=60))
def test_the_replay_window_accepts_each_counter_once(counters: list[int]) -> None:
    window = ReplayWindow()
    accepted = [n for n in counters if window.accept(n)]
    assert len(accepted) == len(set(accepted))
    highest = -1
    for n in counters:
        if n > highest:
            assert n in accepted
        highest = max(highest, n)
