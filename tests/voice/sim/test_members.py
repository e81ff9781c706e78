"""Virtual members: they join, hear each other, speak recordings, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import struct
import threading
import time
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest

import roost_voice.sim
from roost.audio import SILENCE_FRAME
from roost.errors import BusyError, ClosedError, ResourceError, UsageError
from roost.opus import OpusDecoder
from roost_voice.sim import sound

pytestmark = pytest.mark.sim

GUILD, CHANNEL = 100, 200
MODES = ["aead_aes256_gcm_rtpsize", "aead_xchacha20_poly1305_rtpsize"]


def wav(seconds: float = 0.3, rate: int = 22_050, channels: int = 2, width: int = 2) -> bytes:
    """A tone in a WAV file."""
    moments = np.arange(int(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * 440 * moments) * 0.5
    samples = np.repeat(tone[:, None], channels, axis=1)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        if width == 2:
            out.writeframes((samples * 32_767).astype("<i2").tobytes())
        else:
            out.writeframes(((samples + 1) * 127).astype("u1").tobytes())
    return file.getvalue()


def listen(rig: Any, user: int) -> list[tuple[int, bytes]]:
    heard: list[tuple[int, bytes]] = []
    rig.voice.listen(GUILD, user, lambda speaker, opus: heard.append((speaker, opus)))
    return heard


async def in_one_group(rig: Any, *users: int) -> None:
    await rig.until(lambda: sorted(rig.dave(users[0])["members"]) == sorted(map(str, users)))
    await rig.until(lambda: all(rig.voice.member(GUILD, user).ready for user in users))


@pytest.mark.parametrize("mode", MODES)
async def test_three_hear_each_other(make_rig: Any, mode: str) -> None:
    rig = await make_rig(member_mode=mode, extension_share=0.5, padding_share=0.5)
    await rig.join(11, 12, 13)
    await in_one_group(rig, 11, 12, 13)
    assert {session["mode"] for session in rig.voice.state()["voice_sessions"]} == {mode}
    assert len({rig.voice.member(GUILD, user).dave.epoch for user in (11, 12, 13)}) == 1
    heard = {user: listen(rig, user) for user in (11, 12, 13)}
    sound_ = wav()
    results = await asyncio.gather(
        *(rig.voice.speak(GUILD, user, wav=sound_, recording=None, params={}) for user in (11, 12))
    )
    packets = sound.packets_of_wav(sound_)
    assert [result["frames"] for result in results] == [len(packets)] * 2
    expected = packets + [SILENCE_FRAME] * 5
    await rig.until(lambda: len(heard[13]) == 2 * len(expected))
    for speaker in (11, 12):
        assert [opus for who, opus in heard[13] if who == speaker] == expected
    assert {who for who, _ in heard[11]} == {12}
    assert {who for who, _ in heard[12]} == {11}
    for user in (11, 12, 13):
        assert rig.voice.member(GUILD, user).problems == {}
    await rig.until(lambda: all(session["speaking"] == 0 for session in rig.voice.state()["voice_sessions"]))


async def test_relayed_packets_have_every_first_byte(make_rig: Any) -> None:
    rig = await make_rig(extension_share=0.5, padding_share=0.5)
    await rig.join(11, 12)
    await in_one_group(rig, 11, 12)
    first: set[int] = set()
    receiver = rig.voice.member(GUILD, 12)
    real = receiver.datagram
    receiver.datagram = lambda data: (first.add(data[0]), real(data))
    await rig.voice.speak(GUILD, 11, wav=wav(1.0), recording=None, params={})
    assert first == {0x80, 0x90, 0xA0, 0xB0}


@pytest.mark.parametrize("first_zero", [True, False])
async def test_keys_change_on_join_and_leave(make_rig: Any, first_zero: bool) -> None:
    rig = await make_rig(first_transition_zero=first_zero)
    await rig.join(11, 12)
    await in_one_group(rig, 11, 12)
    codes = [rig.voice.member(GUILD, 11).dave.voice_privacy_code]
    await rig.join(13)
    await in_one_group(rig, 11, 12, 13)
    codes.append(rig.voice.member(GUILD, 11).dave.voice_privacy_code)
    await rig.voice.member_leave(GUILD, 12)
    await in_one_group(rig, 11, 13)
    codes.append(rig.voice.member(GUILD, 11).dave.voice_privacy_code)
    assert len(set(codes)) == 3
    heard = listen(rig, 13)
    await rig.voice.speak(GUILD, 11, wav=wav(), recording=None, params={})
    await rig.until(lambda: len(heard) >= 15)
    assert rig.voice.member(GUILD, 13).problems == {}


async def test_the_last_one_starts_over(rig: Any) -> None:
    await rig.join(11, 12)
    await in_one_group(rig, 11, 12)
    await rig.voice.member_leave(GUILD, 12)
    await rig.host.logged(event="dave_reset")
    await rig.until(lambda: not rig.voice.member(GUILD, 11).dave.ready)
    await rig.join(13)
    await in_one_group(rig, 11, 13)


async def test_invalid_welcome_is_recovered_from(rig: Any) -> None:
    """Op 31: the member is removed and added again."""
    await rig.join(11, 12, 13)
    await in_one_group(rig, 11, 12, 13)
    member = rig.voice.member(GUILD, 12)
    await member._send(31, {"transition_id": 1})
    await member._new_group()
    await rig.host.logged(event="dave_invalid", user_id=str(12))
    await rig.until(lambda: rig.dave(12)["in_group"] and rig.dave(12)["epoch"] == 3)
    await in_one_group(rig, 11, 12, 13)
    heard = listen(rig, 12)
    await rig.voice.speak(GUILD, 11, wav=wav(), recording=None, params={})
    await rig.until(lambda: len(heard) >= 15)


async def test_rooms_are_apart(rig: Any) -> None:
    await rig.join(11)
    await rig.voice.member_join(GUILD, CHANNEL + 1, 12, "s")
    await rig.voice.member_join(GUILD + 1, CHANNEL, 13, "s")
    heard = [listen(rig, 12)]
    await rig.voice.speak(GUILD, 11, wav=wav(), recording=None, params={})
    assert heard == [[]]
    assert {rig.dave(user)["epoch"] for user in (11, 12, 13)} == {0}


async def test_a_member_moves(rig: Any) -> None:
    await rig.join(11, 12)
    await rig.voice.member_join(GUILD, CHANNEL + 1, 12, "session-12")
    sessions = {session["user_id"]: session["channel_id"] for session in rig.voice.state()["voice_sessions"]}
    assert sessions == {"11": str(CHANNEL), "12": str(CHANNEL + 1)}
    assert len(rig.host.open) == 2


async def test_speaking_keeps_time(rig: Any) -> None:
    await rig.join(11, 12)
    before = time.monotonic()
    result = await rig.voice.speak(GUILD, 11, wav=None, recording="lv_0880", params={})
    seconds = next(entry["seconds"] for entry in rig.voice.recordings() if entry["name"] == "lv_0880")
    assert before < result["started_at"] < result["ended_at"] < time.monotonic()
    assert abs(result["ended_at"] - result["started_at"] - seconds) < 0.1
    assert abs(result["frames"] * 0.02 - seconds) < 0.05


async def test_the_loop_is_not_blocked_by_encoding(rig: Any) -> None:
    await rig.join(11)
    long = wav(20.0, rate=48_000)
    speaking = asyncio.ensure_future(rig.voice.speak(GUILD, 11, wav=long, recording=None, params={}))
    worst, last = 0.0, time.monotonic()
    for _ in range(60):
        await asyncio.sleep(0.005)  # the heartbeat of the loop being measured
        now = time.monotonic()
        worst, last = max(worst, now - last), now
    speaking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await speaking
    assert worst < 0.2


async def test_speaking_twice_at_once_is_refused(rig: Any) -> None:
    await rig.join(11)
    first = asyncio.ensure_future(rig.voice.speak(GUILD, 11, wav=wav(5.0), recording=None, params={}))
    await rig.host.logged(event="speaking", speaking=1)
    with pytest.raises(BusyError, match="already speaking"):
        await rig.voice.speak(GUILD, 11, wav=wav(), recording=None, params={})
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await rig.host.logged(event="speaking", speaking=0)
    assert (await rig.voice.speak(GUILD, 11, wav=wav(0.1), recording=None, params={}))["frames"] > 0


async def test_leaving_while_speaking(rig: Any) -> None:
    await rig.join(11)
    speaking = asyncio.ensure_future(rig.voice.speak(GUILD, 11, wav=wav(5.0), recording=None, params={}))
    await rig.host.logged(event="speaking", speaking=1)
    await rig.voice.member_leave(GUILD, 11)
    with pytest.raises(ClosedError):
        await speaking


async def test_speaking_without_encryption_is_refused(rig: Any) -> None:
    """Somebody is there who never sends a key package, so that nobody could decrypt."""
    await rig.join(11)
    client = await rig.client()
    await client.to_ready()
    await rig.until(lambda: rig.voice.member(GUILD, 11).others == {900})
    with pytest.raises(ResourceError, match="not ready"):
        await rig.voice.speak(GUILD, 11, wav=wav(), recording=None, params={"wait_s": 0.1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wav": b"RIFF....WAVEjunk"}, "not a readable WAV"),
        ({"wav": b""}, "not a readable WAV"),
        ({"wav": wav(0.0)}, "holds no sound"),
        ({"recording": "nobody"}, "no recording is called 'nobody'"),
        ({"recording": "../manifest"}, "no recording is called"),
        ({}, "either wav or recording"),
        ({"wav": wav(), "recording": "jfk"}, "either wav or recording"),
        ({"wav": wav(), "params": {"repeat": 0}}, "repeat"),
        ({"wav": wav(), "params": {"wait_s": "long"}}, "must be numbers"),
    ],
)
async def test_bad_speech(rig: Any, arguments: dict[str, Any], message: str) -> None:
    await rig.join(11)
    with pytest.raises(UsageError, match=message) as caught:
        await rig.voice.speak(GUILD, 11, **{"wav": None, "recording": None, "params": {}, **arguments})
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="not in voice"):
        await rig.voice.speak(GUILD, 12, wav=wav(), recording=None, params={})


@pytest.mark.parametrize(("rate", "channels", "width"), [(8_000, 1, 1), (16_000, 1, 2), (44_100, 2, 2), (96_000, 2, 2)])
def test_any_rate_and_any_channels(rate: int, channels: int, width: int) -> None:
    packets = sound.packets_of_wav(wav(0.5, rate, channels, width))
    decoder = OpusDecoder()
    heard = np.concatenate([decoder.decode(packet) for packet in packets]).astype(float)
    middle = heard[4_800:19_200]
    spectrum = np.abs(np.fft.rfft(middle))
    assert abs(np.argmax(spectrum) * 48_000 / len(middle) - 440) < 10
    assert 0.45 < len(heard) / 48_000 < 0.6


def test_recordings_match_their_manifest() -> None:
    entries = sound.manifest()
    files = sorted(path.stem for path in sound.FOLDER.glob("*.flac"))
    assert sorted(entry["name"] for entry in entries) == files
    assert sum(path.stat().st_size for path in sound.FOLDER.iterdir()) < 1_000_000
    provenance = (sound.FOLDER / "PROVENANCE.md").read_text()
    for entry in entries:
        assert set(entry) == {"name", "text", "speaker", "seconds", "source", "license"}
        assert entry["name"] in provenance
        assert "public domain" in entry["license"]
        with av.open(str(sound.FOLDER / f"{entry['name']}.flac")) as file:
            stream = file.streams.audio[0]
            assert (stream.rate, stream.channels) == (16_000, 1)
            samples = sum(frame.samples for frame in file.decode(stream))
        assert abs(samples / 16_000 - entry["seconds"]) < 0.01


async def test_a_member_that_gets_no_connection(make_rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await make_rig(require_dave=True)
    monkeypatch.setattr("davey.DAVE_PROTOCOL_VERSION", 0)
    with pytest.raises(ResourceError, match="refused by the voice gateway"):
        await rig.join(11)
    assert rig.voice.state()["voice_sessions"] == []
    with pytest.raises(UsageError):
        rig.voice.member(GUILD, 11)


async def test_nothing_stays_after_close(make_rig: Any) -> None:
    rig = await make_rig()
    await rig.join(11)
    await rig.voice.aclose()  # one warm cycle: default executor threads, TLS state
    gc.collect()
    process = psutil.Process()
    tasks, descriptors, threads = len(asyncio.all_tasks()), process.num_fds(), threading.active_count()
    for _ in range(3):
        rig = await make_rig()
        folder = rig.voice.ca_file.parent
        assert folder.stat().st_mode & 0o777 == 0o700
        await rig.join(11, 12, 13)
        client = await rig.client()
        await client.to_described()
        speaking = asyncio.ensure_future(
            rig.voice.speak(GUILD, 11, wav=wav(5.0), recording=None, params={"wait_s": 0.1})
        )
        await rig.host.logged(event="speaking", speaking=1)
        started = time.monotonic()
        await rig.voice.aclose()
        assert time.monotonic() - started < 1.5
        with pytest.raises(ClosedError):
            await speaking
        await client.websocket.close()
        await rig.voice.aclose()
        assert not folder.exists()
        assert rig.host.open == {}
        with pytest.raises(ClosedError):
            rig.voice.state()
        await rig._http.close()
    gc.collect()
    await rig.until(lambda: process.num_fds() <= descriptors)
    await rig.until(lambda: len(asyncio.all_tasks()) <= tasks)
    await rig.until(lambda: threading.active_count() <= threads + 1)


async def test_state_is_plain_data(rig: Any) -> None:
    await rig.join(11)
    assert json.loads(json.dumps(rig.voice.state()))["voice_ws"] == 1
    assert struct.calcsize(">H") == 2
    assert isinstance(roost_voice.sim.create(), roost_voice.sim.SimulatedVoice)
    assert Path(rig.voice.ca_file).read_text().startswith("-----BEGIN CERTIFICATE-----")
