"""The framing between bot and worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_stt.protocol import ipc

pytestmark = pytest.mark.unit

audios = st.builds(
    ipc.Audio,
    index=st.integers(0, 2**63),
    guild_id=st.integers(0, 2**64 - 1),
    user_id=st.integers(0, 2**64 - 1),
    rtp_timestamp=st.integers(0, 2**32 - 1),
    arrival_s=st.floats(-1e9, 1e9),
    lost_before=st.integers(0, 0xFFFF),
    opus=st.binary(min_size=1, max_size=200),
)


def kept_bytes(parser: ipc.FrameParser) -> int:
    return len(parser._buffer)


@given(st.lists(audios, max_size=5), st.data())
def test_messages_survive_any_chunking(sent: list[ipc.Audio], data: st.DataObject) -> None:
    stream = b"".join(ipc.encode_audio(audio) for audio in sent)
    parser, got = ipc.FrameParser(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += parser.feed(stream[:size])
        stream = stream[size:]
    bodies = [message.body for message in got if isinstance(message, ipc.Message)]
    assert [ipc.decode_audio(body) for body in bodies] == sent
    assert kept_bytes(parser) == 0


@given(st.lists(st.binary(max_size=64), max_size=10))
def test_no_bytes_make_it_raise(pieces: list[bytes]) -> None:
    parser = ipc.FrameParser(max_body_bytes=1000)
    for piece in pieces:
        for item in parser.feed(piece):
            if isinstance(item, ipc.Message):
                ipc.decode_json(item.body)
                ipc.decode_audio(item.body)
        assert kept_bytes(parser) <= 1005


def test_known_bytes() -> None:
    audio = ipc.Audio(1, 2, 3, 4, 0.0, 5, b"\xf8\xff\xfe")
    head = bytes([41, 0, 0, 0, 2]) + b"".join(n.to_bytes(8, "little") for n in (1, 2, 3))
    assert ipc.encode_audio(audio) == head + bytes([4, 0, 0, 0]) + bytes(8) + bytes([5, 0]) + b"\xf8\xff\xfe"


@pytest.mark.parametrize(
    "damage", [b"\x01\x00\x00\x00\xc8x", b"\xe9\x03\x00\x00\x02" + bytes(1001)], ids=["unknown kind", "too long"]
)
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_after_a_violation_the_next_message_is_read(damage: bytes, size: int) -> None:
    parser = ipc.FrameParser(max_body_bytes=1000)
    good = ipc.encode_json(ipc.Kind.PING, {"token": 1})
    stream, items = good + damage + damage + good, []
    for start in range(0, len(stream), size):
        items += parser.feed(stream[start : start + size])
        assert kept_bytes(parser) <= 1005 + size
    assert [type(item) for item in items] == [ipc.Message, ipc.Violation, ipc.Violation, ipc.Message]
    assert kept_bytes(parser) == 0


def test_bodies_that_are_no_objects_are_violations() -> None:
    assert isinstance(ipc.decode_json(b"[1]"), ipc.Violation)
    assert isinstance(ipc.decode_json(b"\xff"), ipc.Violation)
    assert isinstance(ipc.decode_json(b"[" * 100_000), ipc.Violation)
    assert isinstance(ipc.decode_audio(bytes(10)), ipc.Violation)


def test_an_oversized_body_is_the_senders_mistake() -> None:
    with pytest.raises(ValueError, match="at most"):
        ipc.encode(ipc.Kind.AUDIO, bytes(ipc.MAX_BODY_BYTES + 1))
