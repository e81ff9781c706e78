"""One datagram to one frame: every packet is delivered or counted, whatever it holds."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.audio import SILENCE_FRAME, AudioFrame, Timing
from roost_voice.protocol import receive
from roost_voice.protocol.aead import make_opener
from roost_voice.protocol.dave import DaveGroup
from roost_voice.protocol.opcodes import MODE_GCM
from roost_voice.protocol.receive import Receiver
from roost_voice.sim import rtp as sim_rtp

pytestmark = pytest.mark.unit

KEY = bytes(range(32))
ANN, ANN_SSRC = 4001, 11
OPUS = b"\x78" + bytes(40)


class Ear:
    """A receiver of a call without end-to-end encryption, and a server's hand that seals for it."""

    def __init__(self, **timing: Any) -> None:
        self.frames: list[AudioFrame] = []
        group = DaveGroup(1, 2, Timing(), allow_unencrypted=True)
        group.describe(0)
        self.receiver = Receiver(7, group, self.frames.append, Timing(**timing))
        self.receiver.set_opener(make_opener(MODE_GCM, KEY))
        self.sealer = sim_rtp.Cipher(MODE_GCM, KEY)
        self.now = 10.0

    def packet(self, sequence: int, ssrc: int = ANN_SSRC, payload: bytes = OPUS, **more: Any) -> bytes:
        return sim_rtp.seal(sim_rtp.Packet(ssrc, sequence, 960 * sequence, payload, **more), self.sealer)

    def take(self, *datagrams: bytes) -> Ear:
        for data in datagrams:
            self.receiver.datagram(data, self.now)
        return self

    def known(self, ssrc: int = ANN_SSRC, user_id: int = ANN) -> Ear:
        self.receiver.learn(ssrc, user_id, self.now)
        return self

    def tick(self, seconds: float) -> Ear:
        until = self.now + seconds
        while (due := self.receiver.due) is not None and due <= until:
            self.now = max(self.now, due)
            self.receiver.handle_timer(self.now)
        self.now = until
        return self

    def balanced(self) -> bool:
        receiver = self.receiver
        return receiver.packets_in == receiver.frames_out + sum(receiver.dropped.values())


def test_a_packet_becomes_a_frame() -> None:
    ear = Ear().known().take(Ear().packet(5))
    ear.take(ear.packet(5))
    assert ear.frames[0] == AudioFrame(7, ANN, ANN_SSRC, 4800, OPUS, 0)


def test_what_nobody_may_hear_is_not_decrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    ear = Ear()
    wanted: set[int] = {ANN}
    group = DaveGroup(1, 2, Timing(), allow_unencrypted=True)
    group.describe(0)
    ear.receiver = Receiver(7, group, ear.frames.append, Timing(), wanted.__contains__)
    ear.receiver.set_opener(make_opener(MODE_GCM, KEY))
    seen: list[int] = []
    decrypt = group.decrypt
    monkeypatch.setattr(group, "decrypt", lambda user, data, now: seen.append(user) or decrypt(user, data, now))
    ear.known().take(ear.packet(1))
    wanted.clear()
    ear.take(*(ear.packet(sequence) for sequence in range(2, 52)))
    assert (len(ear.frames), seen, ear.receiver.dropped) == (1, [ANN], {"refused": 50})
    wanted.add(ANN)
    ear.take(ear.packet(52), ear.packet(53))
    assert [frame.lost_before for frame in ear.frames] == [0, 0, 0], "what was refused is not lost"
    assert ear.receiver.lost == 0
    assert ear.balanced()


def test_what_waits_is_not_kept_when_its_speaker_refuses() -> None:
    wanted: set[int] = {ANN}
    ear = Ear()
    group = DaveGroup(1, 2, Timing(), allow_unencrypted=True)
    group.describe(0)
    ear.receiver = Receiver(7, group, ear.frames.append, Timing(), wanted.__contains__)
    ear.receiver.set_opener(make_opener(MODE_GCM, KEY))
    ear.known().take(ear.packet(1), ear.packet(3))
    assert ear.receiver.waiting == 1
    wanted.clear()
    ear.take(ear.packet(4))
    assert (ear.receiver.waiting, ear.receiver.streams) == (0, 0)
    assert ear.balanced()


def test_extension_and_padding_are_no_part_of_the_frame() -> None:
    ear = Ear().known()
    ear.take(ear.packet(1, extension=bytes(8), padding=3), ear.packet(2, padding=1))
    assert [frame.opus for frame in ear.frames] == [OPUS, OPUS]


def test_a_replayed_packet_is_refused() -> None:
    ear = Ear().known()
    data = ear.packet(1)
    ear.take(data, data)
    assert ear.receiver.dropped == {"replayed": 1}
    ear.tick(70.0)
    assert ear.receiver.streams == 0
    ear.take(data)
    assert ear.receiver.dropped == {"replayed": 2}
    assert len(ear.frames) == 1


def test_packets_that_come_before_their_speaker_is_named_are_kept_a_moment() -> None:
    ear = Ear()
    ear.take(ear.packet(1), ear.packet(2), ear.packet(3, ssrc=99))
    assert ear.frames == []
    assert ear.receiver.packets_in == 0
    ear.known()
    assert [frame.rtp_timestamp for frame in ear.frames] == [960, 1920]
    ear.tick(0.6)
    assert ear.receiver.dropped == {"unknown_ssrc": 1}
    assert ear.balanced()


def test_an_unknown_stream_is_never_delivered_and_never_piles_up() -> None:
    ear = Ear()
    ear.take(*(ear.packet(n, ssrc=500 + n) for n in range(200)))
    assert ear.receiver.dropped == {"unknown_ssrc": 200 - receive.MAX_EARLY}
    ear.tick(1.0)
    assert ear.receiver.dropped == {"unknown_ssrc": 200}
    assert ear.frames == []
    assert ear.receiver.due is None


def test_each_client_of_a_user_has_its_stream() -> None:
    ear = Ear().known()
    ear.take(ear.packet(1))
    ear.known(ssrc=12)
    ear.take(ear.packet(2), ear.packet(1, ssrc=12))
    assert [(frame.user_id, frame.ssrc) for frame in ear.frames] == [(ANN, 11), (ANN, 11), (ANN, 12)]


def test_a_user_has_few_streams_at_a_time() -> None:
    ear = Ear()
    for ssrc in range(100):
        ear.known(ssrc=ssrc)
    assert list(ear.receiver._sources) == list(range(100 - receive.MAX_CLIENTS, 100))


def test_what_was_under_way_when_the_only_client_left_is_dropped() -> None:
    ear = Ear().known()
    ear.take(ear.packet(1))
    ear.receiver.client_left(ANN, ear.now)
    ear.take(ear.packet(2)).tick(0.1).take(ear.packet(3)).tick(1.0)
    assert len(ear.frames) == 1
    assert ear.receiver.dropped == {"unknown_ssrc": 2}
    assert ear.balanced()


def test_the_client_that_stays_is_heard_whole() -> None:
    ear = Ear().known().known(ssrc=12)
    ear.receiver.client_left(ANN, ear.now)
    for number in range(50):
        ear.take(ear.packet(number, ssrc=12)).tick(0.02)
    assert [frame.rtp_timestamp for frame in ear.frames] == [960 * number for number in range(50)]
    assert ear.receiver.dropped == {}
    assert ear.receiver.lost == 0


def test_a_client_that_stays_silent_for_long_is_heard_all_the_same() -> None:
    ear = Ear().known()
    ear.receiver.client_left(ANN, ear.now)
    ear.tick(3600.0).take(ear.packet(1))
    assert len(ear.frames) == 1


def test_the_stream_of_a_user_who_left_and_came_back_replaces_the_old_one() -> None:
    ear = Ear().known()
    ear.receiver.client_left(ANN, ear.now)
    ear.known(ssrc=12)
    assert list(ear.receiver._sources) == [12]


def test_a_stream_of_somebody_who_left_is_the_new_users_from_its_first_packet() -> None:
    ear = Ear().known()
    ear.take(ear.packet(1))
    ear.receiver.client_left(ANN, ear.now)
    ear.take(ear.packet(500), ear.packet(501)).known(user_id=4002)
    assert [frame.user_id for frame in ear.frames] == [ANN, 4002, 4002]
    assert ear.receiver.lost == 0


def test_a_stream_that_changes_hands_is_the_new_users() -> None:
    ear = Ear().known().known(user_id=4002)
    ear.take(ear.packet(1))
    assert [frame.user_id for frame in ear.frames] == [4002]


def test_churning_streams_are_bounded() -> None:
    ear = Ear()
    for number in range(10_000):
        ear.known(ssrc=number, user_id=100_000 + number)
    assert len(ear.receiver._sources) == len(ear.receiver._by_user) == receive.MAX_SOURCES


def test_idle_streams_are_freed_and_heard_again() -> None:
    ear = Ear().known()
    ear.take(ear.packet(1))
    assert ear.receiver.streams == 1
    ear.tick(61.0)
    assert ear.receiver.streams == 0
    assert ear.receiver.due is None
    ear.take(ear.packet(30_000))
    assert len(ear.frames) == 2
    assert ear.frames[1].lost_before == 0


def test_a_gap_is_told_with_the_next_frame() -> None:
    ear = Ear().known()
    ear.take(ear.packet(1), ear.packet(4), ear.packet(5))
    assert len(ear.frames) == 1
    assert ear.balanced()
    ear.tick(0.06)
    assert [frame.lost_before for frame in ear.frames] == [0, 2, 0]
    assert ear.receiver.lost == 2
    assert ear.balanced()


def test_damage_of_every_kind_has_its_name() -> None:
    ear = Ear().known()
    good = ear.packet(1)
    ear.take(
        b"",
        good[:-1],
        good[:12] + bytes([good[12] ^ 1]) + good[13:],
        b"\x80\xc9" + bytes(40),
        b"\x80\x65" + bytes(40),
        b"\x00" * 60,
        b"\x9f" + good[1:],
        ear.packet(2, payload=b""),
        ear.sealer.seal(b"\xa0\x78\0\3" + good[4:12], b"\xff"),
    )
    assert ear.receiver.dropped == {
        "size": 1,
        "aead": 2,
        "rtcp": 1,
        "payload_type": 1,
        "not_rtp": 1,
        "header": 1,
        "empty": 1,
        "padding": 1,
    }
    assert ear.frames == []
    assert ear.balanced()


def test_what_is_no_opus_is_dropped_and_leaves_no_gap() -> None:
    ear = Ear()
    group = DaveGroup(1, 2, Timing(), allow_unencrypted=True)
    group.describe(0)
    group.decrypt = lambda user_id, payload, now: payload[1:]  # type: ignore[method-assign]
    ear.receiver = Receiver(7, group, ear.frames.append, Timing())
    ear.receiver.set_opener(make_opener(MODE_GCM, KEY))
    ear.known().take(ear.packet(1, payload=b"+" + OPUS))
    ear.take(*(ear.packet(2 + n, payload=b"+" + bad) for n, bad in enumerate((b"", b"\x7b\x00", b"\x7b\x07"))))
    ear.take(ear.packet(5, payload=b"+" + OPUS))
    assert [(frame.opus, frame.lost_before) for frame in ear.frames] == [(OPUS, 0), (OPUS, 3)]
    assert ear.receiver.dropped == {"opus": 3}
    assert ear.receiver.lost == 3
    assert ear.balanced()


def test_a_stream_numbered_anew_is_heard_after_two_packets() -> None:
    ear = Ear().known()
    ear.take(*(ear.packet(n) for n in range(2000, 2010)))
    ear.take(*(ear.packet(n) for n in range(600, 610)))
    assert len(ear.frames) == 18
    assert ear.frames[10].lost_before == 2
    assert ear.receiver.dropped == {"late": 2}
    assert ear.receiver.lost == 2
    assert ear.balanced()


def test_packets_that_the_network_delays_restart_no_stream() -> None:
    ear = Ear().known()
    sealed = [ear.packet(n) for n in range(40)]
    ear.take(*sealed[:10], *sealed[20:]).tick(0.1)
    ear.take(*sealed[10:20], ear.packet(40))
    assert ear.receiver.dropped == {"late": 10}
    assert ear.frames[-1].lost_before == 0
    assert ear.receiver.lost == 10


def test_without_a_key_nothing_is_read() -> None:
    ear = Ear().known()
    ear.receiver.set_opener(None)
    ear.take(ear.packet(1))
    assert ear.receiver.dropped == {"no_key": 1}


def test_encrypted_calls_drop_plaintext_but_pass_silence() -> None:
    ear = Ear()
    group = DaveGroup(1, 2, Timing())
    group.describe(1)
    ear.receiver = Receiver(7, group, ear.frames.append, Timing())
    ear.receiver.set_opener(make_opener(MODE_GCM, KEY))
    ear.known()
    ear.take(ear.packet(1), ear.packet(2, payload=SILENCE_FRAME))
    assert [frame.opus for frame in ear.frames] == [SILENCE_FRAME]
    assert ear.frames[0].lost_before == 1
    assert ear.receiver.dropped == {"dave_pending": 1}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.floats(0, 0.5))
def test_nothing_is_ever_unaccounted_for(seed: int, speakers: int, damage: float) -> None:
    dice = random.Random(seed)
    ear = Ear()
    sent: list[bytes] = []
    for sequence in range(40):
        for speaker in range(speakers):
            sent.append(ear.packet(sequence, ssrc=speaker, padding=dice.choice([0, 0, 1, 7])))
    for index in range(0, len(sent) - 4, 3):
        if dice.random() < 0.2:
            sent[index], sent[index + 3] = sent[index + 3], sent[index]
    for whole in sent:
        data = whole
        roll = dice.random()
        if roll < damage / 2:
            continue
        if roll < damage:
            position = dice.randrange(len(data))
            data = data[:position] + dice.randbytes(1) + data[position + 1 :]
        ear.take(data)
        if dice.random() < 0.1:
            ear.take(data)
        if dice.random() < 0.05:
            ear.known(dice.randrange(speakers), 100 + dice.randrange(speakers))
        if dice.random() < 0.05:
            ear.receiver.client_left(100 + dice.randrange(speakers), ear.now)
        ear.tick(dice.random() * 0.02)
        assert ear.balanced()
    ear.tick(100.0)
    assert ear.balanced()
    assert ear.receiver.waiting == 0
    assert ear.receiver.frames_out == len(ear.frames)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=120), max_size=10))
def test_no_bytes_raise(datagrams: list[bytes]) -> None:
    ear = Ear().known().take(*datagrams).tick(1.0)
    assert ear.balanced()
    assert ear.receiver.packets_in == len(datagrams)
