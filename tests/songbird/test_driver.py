"""The module against the simulated voice server."""

from __future__ import annotations

import array
import asyncio
import itertools
import math
import wave
from pathlib import Path
from typing import Any

import pytest

from roost.testing.driver_conformance import ANN, BEN, BOT, CHANNEL, GUILD, tone

songbird = pytest.importorskip(
    "songbird", reason="the module songbird is not built: make songbird", exc_type=ImportError
)

pytestmark = pytest.mark.sim

SILENCE = b"\xf8\xff\xfe"


async def listen(driver: Any) -> list[Any]:
    """A list that fills with the driver's events."""
    told: list[Any] = []
    for event in ("SpeakingStateUpdate", "ClientDisconnect", "DriverConnect", "DriverReconnect", "DriverDisconnect"):
        await driver.add_event(getattr(songbird.Event, event), told.append)
    return told


def loudness(pcm: bytes) -> float:
    samples = array.array("h", pcm)
    return math.sqrt(sum(sample * sample for sample in samples) / max(1, len(samples)))


async def test_hears_a_member_bit_for_bit(stage: Any, driver: Any) -> None:
    await stage.bench.join(BEN)
    packets: list[Any] = []
    driver.on_packets = packets.extend
    told = await listen(driver)
    await stage.connect(driver)
    await stage.until(lambda: any(isinstance(event, songbird.ConnectData) for event in told))
    await stage.encrypted()
    heard = stage.bench.hear(BEN)
    await stage.bench.speak(ANN)
    await stage.until(lambda: len(packets) >= len(heard) > 5, "all packets")
    assert [packet.opus for packet in packets] == [opus for _, opus in heard]
    assert {packet.user_id for packet in packets} == {ANN}
    steps = {(after.timestamp - before.timestamp) % 2**32 for before, after in itertools.pairwise(packets)}
    assert steps == {960}
    assert [packet.sequence for packet in packets] == list(
        range(packets[0].sequence, packets[0].sequence + len(packets))
    )
    assert any(isinstance(event, songbird.Speaking) and event.user_id == ANN for event in told)
    # The same samples as whoever decodes what Ben heard.
    decoder, reference = songbird.OpusDecoder(), songbird.OpusDecoder()
    assert b"".join(decoder.decode(packet.opus) for packet in packets) == b"".join(
        reference.decode(opus) for _, opus in heard
    )


async def test_decodes_when_told_to(stage: Any, driver: Any) -> None:
    await driver.set_config(songbird.Config(decode_mode=songbird.DecodeMode.Decode))
    packets: list[Any] = []
    await driver.add_event(songbird.Event.VoicePacket, packets.extend)
    await stage.connect(driver)
    await stage.encrypted()
    await stage.bench.speak(ANN)
    await stage.until(lambda: len(packets) > 10)
    assert all(len(packet.audio) == 960 * 4 for packet in packets)
    assert max(loudness(packet.audio) for packet in packets) > 1000


async def test_frames_are_sent_as_they_are(stage: Any, driver: Any) -> None:
    await stage.connect(driver)
    await stage.encrypted()
    heard = stage.bench.hear(ANN)
    for run in range(2):
        heard.clear()
        frames = [b"\x78" + bytes([run, number]) * 15 for number in range(10)]
        for frame in frames:
            assert driver.send_opus(frame)
        await stage.until(lambda: len(heard) >= 15, "ten frames and five of silence")
        assert [opus for _, opus in heard] == [*frames, *[SILENCE] * 5]
        assert {user for user, _ in heard} == {BOT}
    assert driver.opus_stats() == (0, 20)
    for number in range(60):
        taken = driver.send_opus(b"\x78" + bytes([number]) * 30)
    assert not taken, "more than a second may not wait"


@pytest.mark.parametrize("way", ["bytes", "file", "samples"])
async def test_a_member_hears_a_source(stage: Any, driver: Any, tmp_path: Path, way: str) -> None:
    await stage.connect(driver)
    await stage.encrypted()
    heard = stage.bench.hear(ANN)
    (tmp_path / "tone.wav").write_bytes(tone(0.5))
    if way == "file":
        source = songbird.Source.file(tmp_path / "tone.wav")
    elif way == "bytes":
        source = songbird.Source.bytes(tone(0.5))
    else:
        with wave.open(str(tmp_path / "tone.wav")) as file:
            samples = array.array("h", file.readframes(file.getnframes()))
        source = songbird.Source.bytes(array.array("f", [sample / 32768 for sample in samples]).tobytes(), stereo=False)
    ended = asyncio.Event()
    states: list[Any] = []
    handle = await driver.play_source(source)
    handle.add_event(songbird.Event.End, lambda tracks: (states.extend(tracks), ended.set()))
    async with asyncio.timeout(10):
        await ended.wait()
    assert states[0].playing is songbird.PlayMode.End
    assert states[0].uuid == handle.uuid
    await stage.until(lambda: [opus for _, opus in heard[-5:]] == [SILENCE] * 5)
    sound = [opus for user, opus in heard if user == BOT and opus != SILENCE]
    assert 24 <= len(sound) <= 27
    decoder = songbird.OpusDecoder()
    assert max(loudness(decoder.decode(opus)) for opus in sound) > 1000
    with pytest.raises(songbird.TrackError, match="ended"):
        handle.pause()


async def test_a_track_obeys(stage: Any, driver: Any) -> None:
    await stage.connect(driver)
    handle = await driver.play(songbird.Track(songbird.Source.bytes(tone(2.0)), paused=True, volume=0.5))
    await handle.make_playable()
    state = await handle.get_info()
    assert (state.playing, state.volume, state.loops) == (songbird.PlayMode.Pause, 0.5, 0)
    assert state.ready is songbird.ReadyState.Playable
    assert await handle.seek_time(1.0) == pytest.approx(1.0, abs=0.1)
    handle.loop_for(3)
    handle.set_volume(0.25)
    handle.play()
    await stage.until(lambda: bool(stage.bench.sessions()[0]["speaking"]))
    state = await handle.get_info()
    assert (state.playing, state.volume, state.loops) == (songbird.PlayMode.Play, 0.25, 3)
    assert state.position >= 0.9
    await driver.stop()

    async def over() -> None:
        # The command to stop and the question go different ways; the first may be the slower.
        while True:
            await handle.get_info()
            await asyncio.sleep(0.02)

    with pytest.raises(songbird.TrackError, match=r"ended|replaced"):
        async with asyncio.timeout(10):
            await over()


async def test_a_source_that_is_no_sound(stage: Any, driver: Any) -> None:
    await stage.connect(driver)
    failed: list[Any] = []
    handle = await driver.play_source(songbird.Source.bytes(b"no sound at all" * 100))
    handle.add_event(songbird.Event.Error, failed.extend)
    await stage.until(lambda: bool(failed))
    assert failed[0].playing is songbird.PlayMode.Errored
    assert failed[0].error


async def test_muted_nothing_is_heard(stage: Any, driver: Any) -> None:
    await driver.mute()
    await stage.connect(driver)
    await stage.encrypted()
    heard = stage.bench.hear(ANN)
    ended = asyncio.Event()
    handle = await driver.play_source(songbird.Source.bytes(tone(0.3)))
    handle.add_event(songbird.Event.End, lambda _: ended.set())
    async with asyncio.timeout(10):
        await ended.wait()
    assert [opus for _, opus in heard if opus != SILENCE] == []


async def test_refused_with_code_and_reason(stage: Any, driver: Any) -> None:
    with pytest.raises(songbird.ConnectError) as caught:
        await stage.connect(driver, token="wrong")
    assert (caught.value.code, caught.value.kind) == (4004, "ws_closed")
    assert "token" in str(caught.value)
    with pytest.raises(songbird.ConnectError) as caught:
        await stage.connect(driver, session_id="another")
    assert caught.value.code == 4006
    assert not driver.is_open


async def test_a_certificate_of_nobody(stage: Any, driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(songbird.ConnectError, match="trust") as caught:
        await stage.connect(driver)
    assert caught.value.kind == "untrusted"
    assert not stage.bench.sessions()


async def test_put_out(stage: Any, driver: Any) -> None:
    told = await listen(driver)
    await stage.connect(driver)
    stage.bench.voice.end(GUILD, BOT, 4014)
    await stage.until(lambda: any(isinstance(event, songbird.DisconnectData) for event in told))
    end = next(event for event in told if isinstance(event, songbird.DisconnectData))
    assert (end.code, end.kind, end.reason) == (
        4014,
        songbird.DisconnectKind.Runtime,
        songbird.DisconnectReason.WsClosed,
    )
    assert (end.guild_id, end.channel_id) == (GUILD, CHANNEL)
    assert "kicked" in end.text


async def test_resumes(stage: Any, driver: Any) -> None:
    told, packets = await listen(driver), []
    driver.on_packets = packets.extend
    await stage.connect(driver)
    await stage.encrypted()
    ssrc = stage.bench.sessions()[0]["ssrc"]
    stage.bench.host.arm("close", code=4015)
    await stage.until(lambda: sum(isinstance(event, songbird.ConnectData) for event in told) == 2, "reconnected")
    assert [session["ssrc"] for session in stage.bench.sessions()] == [ssrc]
    await stage.bench.speak(ANN)
    await stage.until(lambda: len(packets) > 10)
    assert stage.bench.host.most_sessions == 1


async def test_members_come_and_go(stage: Any, driver: Any) -> None:
    """The end-to-end group changes under a running call."""
    told, packets = await listen(driver), []
    driver.on_packets = packets.extend
    await stage.connect(driver)
    await stage.encrypted()
    await stage.bench.join(BEN)
    await stage.until(
        lambda: (
            stage.bench.sessions()[0]["dave"]["members"] == [str(user) for user in sorted((ANN, BEN, BOT))]
            or len(stage.bench.sessions()[0]["dave"]["members"]) == 3
        )
    )
    await stage.until(lambda: stage.bench.voice.member(GUILD, BEN).ready)
    await stage.bench.speak(BEN)
    await stage.until(lambda: any(packet.user_id == BEN and packet.opus != SILENCE for packet in packets))
    await stage.bench.voice.member_leave(GUILD, BEN)
    await stage.until(lambda: songbird.ClientDisconnect(BEN) in told)
    packets.clear()
    await stage.bench.speak(ANN)
    await stage.until(lambda: any(packet.user_id == ANN and packet.opus != SILENCE for packet in packets))


async def test_a_new_server_replaces_the_old(stage: Any, driver: Any) -> None:
    await stage.connect(driver)
    await stage.connect(driver)
    await stage.until(lambda: len(stage.bench.host.open) == 1)
    assert stage.bench.host.most_sessions == 1


async def test_listeners(stage: Any, driver: Any) -> None:
    """Coroutines run, mistakes are reported and cost nobody else, `Event.Cancel` ends a listener."""
    calls: list[str] = []
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["exception"]))

    async def slowly(_: Any) -> Any:
        await asyncio.sleep(0)
        calls.append("coroutine")
        return songbird.Event.Cancel

    def wrongly(_: Any) -> None:
        raise RuntimeError("mine")

    for listener in (wrongly, slowly, lambda _: calls.append("function")):
        await driver.add_event(songbird.Event.SpeakingStateUpdate, listener)
    await stage.connect(driver)
    await stage.encrypted()
    await stage.bench.speak(ANN)
    await stage.until(lambda: calls.count("function") >= 2)
    assert calls.count("coroutine") == 1
    assert {str(problem) for problem in problems} == {"mine"}
    await driver.remove_all_events()
    calls.clear()
    await stage.bench.speak(ANN)
    assert calls == []


async def test_a_queue(stage: Any, driver: Any) -> None:
    await stage.connect(driver)
    begun: list[str] = []
    failed: list[Any] = []

    async def broken() -> Any:
        raise songbird.SourceError("none")

    async def source() -> Any:
        return songbird.Source.bytes(tone(0.1))

    async def on_next(_: Any, handle: Any) -> None:
        begun.append(handle.uuid)

    async def on_fail(_: Any, item: Any) -> None:
        failed.append(item)

    items = [songbird.Source.bytes(tone(0.1)), broken(), songbird.Track(songbird.Source.bytes(tone(30.0))), source()]
    async with songbird.Queue.with_items(driver, items, on_next=on_next, on_fail=on_fail) as queue:
        await stage.until(lambda: len(begun) == 2)
        assert failed == [items[1]]
        queue.skip()
        await stage.until(lambda: len(begun) == 3)
        await stage.until(lambda: queue.track_handle is None)
        with pytest.raises(songbird.QueueError):
            queue.skip()
        with pytest.raises(songbird.QueueError):
            queue.append("song")  # type: ignore[arg-type]
    assert not queue.running


async def test_listeners_go_with_their_tracks(stage: Any, driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("songbird._listening.FORGET_S", 0.0)
    await stage.connect(driver)
    for _ in range(5):
        ended = asyncio.Event()
        handle = await driver.play(songbird.Track(songbird.Source.bytes(tone(0.02)), paused=True))
        handle.add_event(songbird.Event.End, lambda _, ended=ended: ended.set())
        handle.add_event(songbird.Event.periodic(0.01), lambda _: None)
        handle.play()
        async with asyncio.timeout(10):
            await ended.wait()
        await asyncio.sleep(0.01)
    assert len(driver._listeners) <= 6
    await driver.leave()
    assert not driver._listeners


async def test_packets_wanted_and_not(stage: Any, driver: Any) -> None:
    """Taken back and wanted again, each comes once."""
    await stage.connect(driver)
    await stage.encrypted()
    packets: list[Any] = []
    for _ in range(3):
        driver.on_packets = packets.extend
        driver.on_packets = None
    await stage.bench.speak(ANN)
    assert packets == []
    driver.on_packets = packets.extend
    driver.on_packets = None
    driver.on_packets = packets.extend
    await stage.bench.speak(ANN)
    await stage.until(lambda: len(packets) > 10)
    assert len({packet.sequence for packet in packets}) == len(packets)
