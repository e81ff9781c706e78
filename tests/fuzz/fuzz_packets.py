"""Targets that take datagrams: RTP, RTCP, discovery, what is stripped, the order of packets, the receiver."""

from __future__ import annotations

import ipaddress
import json
import random
import struct
from pathlib import Path
from typing import Any

from fuzzing import Script, Target, mutate, noise

from roost.audio import SILENCE_FRAME, AudioFrame, Timing
from roost.opus_packet import MAX_SAMPLES, packet_samples
from roost_voice.protocol import discovery, rtp
from roost_voice.protocol.aead import ReplayWindow, make_opener
from roost_voice.protocol.dave import DaveGroup
from roost_voice.protocol.jitter import LATE, MAX_HELD, SequenceTracker
from roost_voice.protocol.opcodes import MODE_GCM
from roost_voice.protocol.receive import MAX_EARLY, MAX_SOURCES, Receiver
from roost_voice.sim import rtp as sim_rtp

VECTORS = Path(__file__).parents[1] / "vectors"
KEY = bytes(range(32))
SSRC = 1001


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


PACKETS = [bytes.fromhex(each["packet"]) for each in vectors("rtp")]
REPORTS = [
    struct.pack(">BBHI", 0x80 | count, kind, words, SSRC) + bytes(range(4 * words))
    for kind in range(200, 205)
    for count, words in ((0, 1), (1, 7), (31, 12))
]
REPLIES = [bytes.fromhex(each["reply"]) for each in vectors("discovery")]


def run_rtp(data: bytes) -> None:
    """`rtp.parse` and both openers: a header within the packet, or a reason."""
    header = rtp.parse(data)
    if isinstance(header, str):
        assert header
        return
    first, sequence, timestamp, ssrc, clear, extension = header
    assert first >> 6 == 2
    assert 0 <= sequence < 1 << 16
    assert 0 <= timestamp < 1 << 32
    assert 0 <= ssrc < 1 << 32
    assert clear >= 12
    assert clear + extension + 20 <= len(data) <= rtp.MAX_DATAGRAM_BYTES
    for opener in _OPENERS:
        body = opener(data, clear)
        if body is not None:
            _check_stripped(first, extension, body)


_OPENERS = [make_opener(mode, KEY) for mode in sim_rtp.MODES]


def _check_stripped(first: int, extension: int, body: bytes) -> None:
    payload = rtp.strip(first, extension, body)
    if isinstance(payload, str):
        assert payload in ("padding", "empty")
    else:
        assert payload
        assert payload in body
        assert len(payload) <= len(body) - extension
        assert first & 0x20 or len(payload) == len(body) - extension


def run_rtcp(data: bytes) -> None:
    """RTCP never becomes a header, whatever follows its type."""
    header = rtp.parse(data)
    if len(data) > 1 and 200 <= data[1] <= 204:
        assert isinstance(header, str)


def run_strip(data: bytes) -> None:
    """First byte, words of extension, decrypted body."""
    script = Script(data)
    first, words = script.number(), script.number(2)
    _check_stripped(first, 4 * words, script.take(1 << 16))


def make_strip(dice: random.Random) -> bytes:
    body = bytearray(noise(dice, 80))
    if body and dice.random() < 0.7:
        body[-1] = dice.randrange(min(255, len(body) + 4))
    return struct.pack(">BH", dice.randrange(256), dice.choice((0, 1, 2, 5, 20, 65_535))) + body


def run_discovery(data: bytes) -> None:
    """`parse_reply`: an address that is one, or a reason."""
    discovery.looks_like_discovery(data)
    ssrc = int.from_bytes(data[4:8], "big")
    for asked in (ssrc, ssrc ^ 1):
        reply = discovery.parse_reply(data, asked)
        if isinstance(reply, str):
            assert reply.startswith("discovery_")
            continue
        assert asked == ssrc
        address, port = reply
        assert str(ipaddress.ip_address(address)) == address
        assert 0 < port <= 0xFFFF


def run_jitter(data: bytes) -> None:
    """Packets in any order: each passes once at most, in order, and few wait."""
    script = Script(data)
    tracker, replay, now, number = SequenceTracker(0.06), ReplayWindow(), 0.0, 0
    given: list[int] = []
    taken = dropped = 0
    sequence = script.number(2)
    while script:
        step = script.number()
        replay.accept(script.number(4) if step & 1 else number)
        number += 1
        jump = script.number(2) if step % 16 == 1 else (step >> 4) - 4
        sequence = (sequence + 1 + jump) & 0xFFFF
        now += (step & 7) / 100
        if step & 8:
            given += [timestamp for timestamp, _, _ in tracker.expire(now)]
        refusal = tracker.refusal(sequence)
        if refusal is not None:
            if refusal != LATE or not step & 4 or not tracker.restarts(sequence):
                continue
            given += [timestamp for timestamp, _, _ in tracker.restart(sequence)]
        taken += 1
        samples = 120 << (step & 3)
        lost = tracker.in_order(sequence, number, samples) if step & 0xC0 else -1
        if lost >= 0:
            given.append(number)
            continue
        bad = step % 5 == 0
        dropped += bad
        for timestamp, _, missing in tracker.accept(sequence, None if bad else (number, samples, b"x"), now):
            given.append(timestamp)
            assert missing >= 0
        assert 0 <= tracker.held <= MAX_HELD + 1
        assert (tracker.due is None) == (not tracker._held)
    given += [timestamp for timestamp, _, _ in tracker.flush()]
    assert tracker.held == 0
    assert tracker.due is None
    assert len(given) == len(set(given)) == taken - dropped, "every packet that was taken passes exactly once"
    assert tracker.lost >= dropped


def run_receiver(data: bytes) -> None:
    """Steps for a `Receiver`: raw datagrams, well-sealed nonsense, news, time. Every packet is accounted for."""
    script = Script(data)
    frames: list[AudioFrame] = []
    group = DaveGroup(1, 2, Timing(), allow_unencrypted=True)
    group.describe(0)
    receiver = Receiver(7, group, frames.append, Timing())
    receiver.set_opener(make_opener(MODE_GCM, KEY))
    receiver.learn(SSRC, 5, 0.0)
    sealer = sim_rtp.Cipher(MODE_GCM, KEY)
    now, number, taken = 0.0, 0, 0
    while script:
        step = script.number() % 8
        if step == 0:
            packet = script.take(script.number())
            receiver.datagram(packet, now)
            taken += 1
        elif step == 1:
            receiver.learn(script.number() + SSRC - 2, script.number() % 4 + 4, now)
        elif step == 2:
            receiver.client_left(script.number() % 4 + 4, now)
        elif step == 3:
            now += script.number(2) / 500
            receiver.handle_timer(now)
        elif step == 4:
            receiver.set_opener(make_opener(MODE_GCM, KEY))
        else:
            # A header of any shape, sealed as the voice server does.
            first = 0x80 | script.number() & 0x3F
            number = (number + script.number() - 1) & 0xFFFF
            header = struct.pack(">BBHII", first, 0x78, number, 960 * number, SSRC + script.number() % 3)
            header += bytes(4 * (first & 15))
            if first & 0x10:
                header += b"\xbe\xde" + struct.pack(">H", script.number() % 4)
            receiver.datagram(sealer.seal(header, script.take(script.number() % 40)), now)
            taken += 1
        assert len(receiver._sources) <= MAX_SOURCES
        assert len(receiver._early) <= MAX_EARLY
    for calls in range(1000):
        if receiver.due is None:
            break
        now = max(now, receiver.due)
        receiver.handle_timer(now)
        assert calls < 900, "the timer never rests"
    assert receiver.streams == 0
    assert taken == receiver.packets_in == receiver.frames_out + sum(receiver.dropped.values())
    assert receiver.frames_out == len(frames)
    assert all(0 < frame.samples <= MAX_SAMPLES for frame in frames)


def run_opus(data: bytes) -> None:
    """`packet_samples`: a length that the format allows, or none."""
    samples = packet_samples(data)
    assert samples == 0 or samples % 120 == 0
    assert 0 <= samples <= MAX_SAMPLES


def make_opus(dice: random.Random) -> bytes:
    """Mostly packets of many frames, whose lengths hardly ever add up."""
    data = bytearray(noise(dice, 1400))
    if data and dice.random() < 0.7:
        data[0] |= 3
    return bytes(data)


STEPS = [bytes([5, 0, 1, 0, 3]) + SILENCE_FRAME + bytes([6, 0x30, 1, 0, 1, 14]) + bytes(9) + b"opus" + b"\2", bytes(64)]


def _sized(dice: random.Random, data: bytes) -> bytes:
    """Mostly the right size: else nothing but the size is ever looked at."""
    return data if dice.random() < 0.2 else data[:74].ljust(74, b"\0")


def make_rtcp(dice: random.Random) -> bytes:
    return bytes([dice.randrange(256), dice.randrange(198, 207)]) + noise(dice)


def make_receiver(dice: random.Random) -> bytes:
    return mutate(dice, STEPS, 20) if dice.random() < 0.5 else noise(dice, 400)


TARGETS = (
    Target("rtp", PACKETS, run_rtp),
    Target("rtcp", REPORTS, run_rtcp, make_rtcp),
    Target("strip", [], run_strip, make_strip),
    Target("discovery", REPLIES, run_discovery, lambda dice: _sized(dice, mutate(dice, REPLIES, 3))),
    Target("jitter", [bytes([0, 0]) + bytes([0x40] * 40)], run_jitter, lambda dice: noise(dice, 400)),
    Target("receiver", STEPS, run_receiver, make_receiver),
    Target("opus", [SILENCE_FRAME, b"\x7b\x03" + bytes(90)], run_opus, make_opus),
)
