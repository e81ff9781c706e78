"""Nothing poisonous is replayed and nobody silences others: rows 120 to 122, with real worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import fault_engine
import pytest
from fault_report import Fault
from stt_house import ADA, BEN, TEXT, House, houses
from stt_rig import Build, Rig, packets_of, scripted, workers
from test_speech import Make, fault_engine_importable, transcribing, until  # noqa: F401  the fixture among them

from roost.audio import SILENCE_FRAME
from roost_stt import child
from roost_stt.protocol import ipc
from roost_stt.supervision import State, Trouble

pytestmark = pytest.mark.e2e


@pytest.fixture
async def rig() -> AsyncIterator[Build]:
    async with workers() as build:
        yield build


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    async with houses() as build:
        yield build


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    """Two seconds of speech, and how Discord's clients end it."""
    return packets_of("lv_0880")[:100] + [SILENCE_FRAME] * 5


# Row 120: messages that break the rules


@contextlib.asynccontextmanager
async def bare_worker() -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker with the scripted engine that nobody supervises."""
    process = await child.spawn(1)
    log = asyncio.create_task(child.forward_log(process))
    try:
        assert process.stdin is not None
        hello = {"factory": "roost_stt.worker.engines.scripted:create", "config": {"texts": ["said by {user}"]}}
        process.stdin.write(ipc.encode_json(ipc.Kind.HELLO, hello))
        yield process
    finally:
        await child.end(process, 5.0)
        await log


async def answer_of(process: asyncio.subprocess.Process, kind: ipc.Kind) -> dict[str, Any]:
    """The next message of a kind."""
    parser = ipc.FrameParser()
    assert process.stdout is not None
    async with asyncio.timeout(20):
        while True:
            data = await process.stdout.read(1 << 16)
            assert data, f"the worker ended with status {process.returncode}"
            for message in parser.feed(data):
                if isinstance(message, ipc.Message) and message.kind is kind:
                    return dict(json.loads(message.body))


VIOLATIONS = {
    "an empty packet": ipc.encode(ipc.Kind.AUDIO, bytes(44)),
    "audio without a head": ipc.encode(ipc.Kind.AUDIO, b"x"),
    "an unknown kind": b"\x02\x00\x00\x00\xc8{}",
    "a message too long": (ipc.MAX_BODY_BYTES + 1).to_bytes(4, "little") + b"\x02" + bytes(ipc.MAX_BODY_BYTES + 1),
    "no JSON": ipc.encode(ipc.Kind.WISH, b"\xff"),
    "JSON that is no object": ipc.encode(ipc.Kind.WISH, b"[1]"),
    "a wish without a server": ipc.encode_json(ipc.Kind.WISH, {"hints": 3}),
    "a purge of nobody": ipc.encode_json(ipc.Kind.PURGE, {"guild": [1], "user": {}}),
    "a drain without a token": ipc.encode_json(ipc.Kind.DRAIN, {"guild": 1}),
    "a second greeting": ipc.encode_json(ipc.Kind.HELLO, {"factory": 5}),
}


@pytest.mark.fault(120)
async def test_messages_that_break_the_rules_are_dropped_and_counted(fault: Fault, packets: list[bytes]) -> None:
    async with bare_worker() as process:
        await answer_of(process, ipc.Kind.READY)
        assert process.stdin is not None
        with fault.clock(scaled=False):
            for data in VIOLATIONS.values():
                process.stdin.write(data)
            for number, packet in enumerate(packets):
                process.stdin.write(
                    ipc.encode_audio(ipc.Audio(number + 1, 1, 7, number * 960, 0.02 * number, 0, packet))
                )
            process.stdin.write(ipc.encode_json(ipc.Kind.DRAIN, {"token": 1, "guild": 1}))
            assert (await answer_of(process, ipc.Kind.TRANSCRIPT))["text"] == "said by 7"
        process.stdin.write(ipc.encode_json(ipc.Kind.PING, {"token": 2}))
        assert (await answer_of(process, ipc.Kind.PONG))["stats"]["refused"] >= len(VIOLATIONS) - 2


@pytest.mark.fault(120)
async def test_empty_and_endless_packets_never_reach_the_worker(rig: Build, fault: Fault, packets: list[bytes]) -> None:
    made = await rig(scripted("said by {user}"))
    pid = made.worker.pid
    with fault.clock(scaled=False):
        await made.say([b"", bytes(100_000)] * 20, user=8)
        await made.say(packets)
        await made.until(1)
    assert (made.text(), made.worker.pid, made.troubles) == ("said by 7", pid, [])
    assert made.worker.stats()["frames_dropped"] == 40


@pytest.mark.fault(120)
async def test_audio_that_raises_costs_its_speaker_alone(
    rig: Build, fault: Fault, packets: list[bytes], tmp_path: Path
) -> None:
    made = await rig(fault_engine.spec(tmp_path, "decoder-raises"))
    pid = made.worker.pid
    with fault.clock(scaled=False):
        await made.say([fault_engine.POISON] * 50, user=8)
        await made.say(packets)
        await made.until(1)
    assert (made.text(), made.worker.pid) == ("said by 7", pid)
    assert {each for each, *_ in made.troubles} == {Trouble.LOST}
    await until(lambda: made.worker.stats()["worker"].get("refused") == 50)


@pytest.mark.fault(120)
async def test_an_answer_that_no_message_can_hold_costs_its_utterance_alone(
    rig: Build, fault: Fault, packets: list[bytes], tmp_path: Path
) -> None:
    made = await rig(fault_engine.spec(tmp_path, "nonsense:8"))
    pid = made.worker.pid
    with fault.clock(scaled=False):
        await made.say(packets, user=8)
        await made.say(packets)
        await made.until(1)
        await until(lambda: made.worker.stats()["utterances_lost"] == 1)
    assert (made.text(), made.text(8), made.worker.pid) == ("said by 7", "", pid)


# Row 121: what a worker died of


async def others_speak(made: Rig, packets: list[bytes], users: range) -> None:
    """Ten members say something after the poison, and each has their text."""
    for user in users:
        await made.say(packets, user=user)
    async with asyncio.timeout(60):
        while {each.user_id for each in made.transcripts if each.text} < set(users):
            made.changed.clear()
            await made.changed.wait()


@pytest.mark.fault(121)
async def test_an_utterance_the_engine_dies_of_is_tried_once_more_and_no_more(
    rig: Build, fault: Fault, packets: list[bytes], tmp_path: Path
) -> None:
    made = await rig(fault_engine.spec(tmp_path, "segv:8"), backoff_s=(0.0,))
    with fault.clock(scaled=False):
        await made.say(packets, user=8)
        await others_speak(made, packets, range(11, 15))
    assert made.worker.state is State.READY
    assert len(list(tmp_path.glob("deaths.*"))) == 2
    assert made.worker.stats()["utterances_lost"] == 1
    assert made.muted == []
    assert made.worker.stats()["crashes"] == 2


@pytest.mark.fault(121)
async def test_a_packet_the_decoder_dies_of_is_tried_once_more_and_no_more(
    rig: Build, fault: Fault, packets: list[bytes], tmp_path: Path
) -> None:
    made = await rig(fault_engine.spec(tmp_path, "decoder-dies", delay_s=0.3), backoff_s=(0.0,))
    with fault.clock(scaled=False):
        # Somebody's words are in the engine when the process dies of another's packet.
        await made.say(packets, user=9)
        await until((tmp_path / "busy").exists)
        await made.say([*packets[:50], fault_engine.POISON, *packets[50:]], user=8)
        await others_speak(made, packets, range(11, 13))
        await until(lambda: made.text(8) and made.text(9))
    assert made.worker.stats()["crashes"] == 2
    assert made.muted == []
    assert made.worker.state is State.READY


# Row 122: who is muted


@pytest.mark.fault(122)
@pytest.mark.parametrize("kind", ["utterances", "packets"])
async def test_a_speaker_whose_audio_kills_is_muted_and_the_others_go_on(
    rig: Build, fault: Fault, packets: list[bytes], tmp_path: Path, kind: str
) -> None:
    made = await rig(fault_engine.spec(tmp_path, "segv:8" if kind == "utterances" else "decoder-dies"))
    poison = packets if kind == "utterances" else [fault_engine.POISON] * 10
    with fault.clock(scaled=False):
        for _ in range(4):
            await made.say(poison, user=8)
            await made.say([SILENCE_FRAME] * 60, user=8)
        await others_speak(made, packets, range(11, 15))
        await until(lambda: made.muted)
    assert made.muted == [(1, 8)]
    assert [user for user in (7, 8, 9) if made.worker.is_muted(1, user)] == [8]
    assert made.worker.stats()["crashes"] == 3
    # Told once; what they say from now on is not even sent.
    await made.say(poison, user=8)
    await others_speak(made, packets, range(21, 23))
    assert made.muted == [(1, 8)]
    assert made.worker.stats()["crashes"] == 3
    assert made.worker.stats()["frames_muted"] >= len(poison)
    assert Trouble.FAILED not in {what for what, *_ in made.troubles}
    # A transcription that is stopped and started again forgives nothing.
    made.worker.forget(1)
    before = made.worker.stats()["frames_muted"]
    await made.say(packets[:10], user=8)
    assert made.worker.stats()["frames_muted"] == before + 10
    assert made.muted == [(1, 8), (1, 8)]


@pytest.mark.fault(122)
async def test_the_channel_is_told_whom_the_engine_dies_of(
    make: Make, fault: Fault, packets: list[bytes], tmp_path: Path
) -> None:
    house: House = await transcribing(make, fault_engine.spec(tmp_path, f"segv:{BEN}"))
    with fault.clock(scaled=False):
        for _ in range(3):
            house.session.say(packets, BEN)
            house.session.say([SILENCE_FRAME] * 60, BEN)
        house.session.say(packets, ADA)
        await house.until(lambda: any("Ben" in text and "do not transcribe" in text for text in house.texts), 60.0)
        await house.until(lambda: any("said by" in text for text in house.texts), 60.0)
    assert sum("do not transcribe" in text for text in house.texts) == 1
    assert all(channel == TEXT for channel, *_ in house.messages)


@pytest.mark.fault(175)
async def test_a_new_session_does_not_have_the_muted_heard_again(
    rig: Build, fault: Fault, packets: list[bytes], tmp_path: Path
) -> None:
    made = await rig(fault_engine.spec(tmp_path, "segv:8"), backoff_s=(0.0,))
    with fault.clock(scaled=False):
        for _ in range(5):
            await made.say(packets, user=8)
            await made.drain(timeout_s=5.0)
            made.worker.forget(1)
        await others_speak(made, packets, range(11, 13))
    assert made.worker.stats()["crashes"] == 3
    # Muted in the second session; the channel of each session after it is told, too.
    assert made.muted == [(1, 8)] * 4


@pytest.mark.fault(176)
async def test_one_speaker_in_many_servers_does_not_have_the_engine_given_up(
    rig: Build, fault: Fault, packets: list[bytes], tmp_path: Path
) -> None:
    made = await rig(fault_engine.spec(tmp_path, "segv:8"), backoff_s=(0.0,), crashes_per_window=2)
    with fault.clock(scaled=False):
        for guild in range(2, 7):
            await made.say(packets, user=8, guild=guild)
            await made.drain(guild, timeout_s=5.0)
        await others_speak(made, packets, range(11, 13))
    assert made.worker.stats()["crashes"] == 3
    assert made.worker.state is State.READY
    assert Trouble.FAILED not in {what for what, *_ in made.troubles}


@pytest.mark.fault(176)
async def test_deaths_in_one_server_make_the_others_wait_no_longer_each_time(
    rig: Build, fault: Fault, packets: list[bytes], tmp_path: Path
) -> None:
    hostile = range(31, 35)
    made = await rig(fault_engine.spec(tmp_path, " ".join(f"segv:{user}" for user in hostile)))
    with fault.clock(scaled=False):
        for user in hostile:
            await made.say(packets, user=user, guild=2)
        await others_speak(made, packets, range(11, 13))
    # Each utterance is tried twice.
    assert made.worker.stats()["crashes"] == 2 * len(hostile)


@pytest.mark.fault(122)
async def test_deaths_from_outside_still_count_against_the_engine(
    rig: Build, fault: Fault, packets: list[bytes]
) -> None:
    made = await rig(scripted("x"), backoff_s=(0.0,), crashes_per_window=2)
    with fault.clock(scaled=False):
        for _ in range(2):
            await until(lambda: made.worker.state is State.READY)
            assert made.worker.pid is not None
            os.kill(made.worker.pid, signal.SIGKILL)
            await until(lambda: made.worker.state is not State.READY)
        await until(lambda: made.worker.state is State.FAILED)
