"""The real worker process, on human recordings."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from stt_rig import Build, manifest, packets_of, samples_of, scripted, worker_pids

from roost.audio import SILENCE_FRAME
from roost.opus import Samples, encode_all
from roost.speech import EngineSpec
from roost.text import wer
from roost_stt.supervision import State, Trouble

pytestmark = pytest.mark.e2e


async def test_shipped_recordings_are_understood(rig: Build) -> None:
    made = await rig()
    texts = manifest()
    for user, name in enumerate(texts):
        await made.say(packets_of(name), user=user)
    assert await made.drain()
    heard = [made.text(user) for user in range(len(texts))]
    assert wer(list(texts.values()), heard) <= 0.08
    stats = made.worker.stats()
    assert stats["frames_dropped"] == 0
    for user, name in enumerate(texts):
        packets = packets_of(name)
        audible = [packet for packet in packets if packet != SILENCE_FRAME]
        assert len(audible) <= stats["decoded"][user] <= len(packets)


async def test_two_at_once_keep_their_words_and_come_in_time(rig: Build) -> None:
    made = await rig()
    texts = manifest()
    farewell = [SILENCE_FRAME] * 5
    first, second = await asyncio.gather(
        made.say(packets_of("lv_0890") + farewell, user=1, real_time=True),
        made.say(packets_of("lv_0870") + farewell, user=2, real_time=True),
    )
    async with asyncio.timeout(5):
        while not (made.text(1).rstrip(".").endswith("ill-disposed") and made.text(2).rstrip(".").endswith("for them")):
            made.changed.clear()
            await made.changed.wait()
    assert wer(texts["lv_0890"], made.text(1)) <= 0.08
    assert wer(texts["lv_0870"], made.text(2)) <= 0.08
    last = {each.user_id: at for each, at in zip(made.transcripts, made.arrived_s, strict=True)}
    assert max(last[1] - first, last[2] - second) <= 1.5


async def test_noise_and_silence_give_no_text(rig: Build) -> None:
    made = await rig()
    noise = np.random.default_rng(1)
    hiss = (noise.standard_normal(48_000 * 8) * 2500).astype(np.int16)
    hum = (np.sin(np.arange(48_000 * 8) * 2 * np.pi * 100 / 48_000) * 8000).astype(np.int16)
    for user, samples in enumerate((hiss, hum, np.zeros(48_000 * 8, np.int16))):
        await made.say(encode_all(samples), user=user)
    await made.say([SILENCE_FRAME] * 500, user=9)
    assert await made.drain()
    assert [each.text for each in made.transcripts if each.text] == []


def a_minute_of(what: str) -> Samples:
    """Sounds that are nobody's voice, 48 kHz."""
    rate, seconds = 48_000, 60
    dice = np.random.default_rng(7)
    when = np.arange(rate * seconds) / rate
    if what == "silence":
        return np.zeros(when.size, np.int16)
    if what == "noise":
        return (dice.standard_normal(when.size) * 3000).astype(np.int16)
    sound = np.zeros(when.size)
    if what == "keyboard":
        at = 0
        while (at := at + int(rate * dice.uniform(0.08, 0.4))) < when.size - 2400:
            click = dice.standard_normal(2400) * np.exp(-np.arange(2400) / dice.uniform(80, 500))
            sound[at : at + 2400] += click * dice.uniform(3000, 12_000)
    else:
        # Chords with overtones, a new one each half second.
        for number in range(seconds * 2):
            part = slice(number * rate // 2, (number + 1) * rate // 2)
            for step in dice.choice([0, 3, 4, 7, 9, 12], 3):
                tone = 220 * 2 ** (step / 12)
                for overtone in (1, 2, 3, 4):
                    sound[part] += np.sin(2 * np.pi * tone * overtone * when[part]) * 2000 / overtone
            sound[part] *= np.exp(-np.arange(rate // 2) / rate * 3)
    return np.clip(sound, -32767, 32767).astype(np.int16)


async def test_a_minute_of_silence_noise_keyboard_and_music_gives_no_line(rig: Build) -> None:
    made = await rig()
    kinds = ("silence", "noise", "keyboard", "music")
    for user, what in enumerate(kinds, 1):
        await made.say(encode_all(a_minute_of(what)), user=user)
        assert await made.drain(timeout_s=60)
    assert [(kinds[each.user_id - 1], each.text) for each in made.transcripts if each.text] == []
    # It would have heard words.
    await made.say(packets_of("lv_0880"), user=9)
    assert await made.drain()
    assert made.text(9)


async def test_damaged_packets_do_not_end_anything(rig: Build) -> None:
    made = await rig(scripted("{seconds}"))
    packets = packets_of("lv_0880")
    for number in range(0, len(packets), 10):
        packets[number] = b"\xff" * 40
    await made.say(packets)
    assert await made.drain()
    assert made.transcripts
    assert made.worker.state is State.READY


async def test_packets_that_cease_end_the_utterance(rig: Build) -> None:
    made = await rig(scripted("{user}"))
    await made.say(packets_of("lv_0880")[:80])
    await made.until(1, 3.0)
    assert made.text() == "7"


async def test_speech_that_kills_the_engine_is_given_up_and_others_go_on(rig: Build) -> None:
    made = await rig(scripted("!crash"), backoff_s=(0.0,), crashes_per_window=10)
    await made.say(packets_of("lv_0880")[:100])
    async with asyncio.timeout(20):
        while Trouble.LOST not in [what for what, *_ in made.troubles]:
            made.changed.clear()
            await made.changed.wait()
    assert made.worker.stats()["crashes"] == 2  # the first time and one retry
    assert await made.drain()
    assert made.worker.stats()["kept_frames"] == 0


async def test_a_worker_that_keeps_dying_is_given_up(rig: Build) -> None:
    made = await rig(scripted("x"), backoff_s=(0.0,), crashes_per_window=2)
    for _ in range(2):
        async with asyncio.timeout(10):
            while made.worker.pid is None or made.worker.state is not State.READY:
                await asyncio.sleep(0.01)
        os.kill(made.worker.pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while made.worker.state is State.READY:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        while made.worker.state is not State.FAILED:
            await asyncio.sleep(0.01)
    assert made.troubles[-1][0] is Trouble.FAILED
    await made.worker.start(made.scope)
    assert made.worker.state is State.READY


async def test_purged_speech_never_becomes_text(rig: Build) -> None:
    made = await rig(scripted("{user}", delay_s=0.2))
    for user in (1, 2):
        await made.say(packets_of("lv_0880")[:100], user=user)
    made.worker.purge(1, 1)
    assert await made.worker.purged(asyncio.get_running_loop().time() + 3)
    assert await made.drain()
    assert {each.user_id for each in made.transcripts} == {2}
    assert (1, 1) not in made.worker._accounts.kept


async def test_frames_nobody_sent_are_not_decoded(rig: Build) -> None:
    made = await rig(scripted("x"))
    await made.say(packets_of("lv_0880")[:50], user=1)
    assert await made.drain()
    assert made.worker.stats()["decoded"] == {1: 50}


async def test_closing_ends_the_process_at_once(rig: Build) -> None:
    made = await rig(scripted("x", delay_s=5))
    await made.say(packets_of("lv_0880"))
    pid = made.worker.pid
    assert pid is not None
    await asyncio.sleep(0.3)
    began_s = time.monotonic()
    await made.worker.close()
    assert time.monotonic() - began_s < 0.5
    assert not psutil.pid_exists(pid)


async def test_an_engine_that_cannot_start_says_why(rig: Build) -> None:
    from roost.errors import SpeechError
    from roost.speech import EngineSpec

    said = "^I cannot transcribe, because speech recognition did not start: .*No module named 'no_such_engine'"
    with pytest.raises(SpeechError, match=said):
        await rig(EngineSpec("no_such_engine:create"))


async def test_the_bot_side_imports_no_model_library() -> None:
    code = (
        "import sys, roost_stt.plugin, roost_stt.engine; "
        "print([m for m in ('faster_whisper','ctranslate2','onnxruntime','av','numpy','soxr') if m in sys.modules])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"


def test_recordings_are_what_they_should_be() -> None:
    assert set(manifest()) >= {"lv_0870", "lv_0880", "lv_0890", "lv_0920", "lv_0930", "jfk"}
    assert len(samples_of("lv_0880")) > 48_000


async def test_a_bot_that_falls_silent_is_left(rig: Build) -> None:
    """It is frozen, or its loop is blocked: what the worker holds, a GPU perhaps, is given back."""
    made = await rig(scripted("Hello"), heartbeat_s=30.0, silent_s=60.0, bot_silent_s=1.0)
    (first,) = worker_pids()
    async with asyncio.timeout(20):
        while not made.troubles:
            made.changed.clear()
            await made.changed.wait()
    assert made.troubles[0][0] is Trouble.CRASHED
    assert "status 6" in made.troubles[0][2]
    assert not psutil.pid_exists(first)
    # Back again, the bot finds nothing lost.
    await made.say(packets_of("jfk"))
    await made.until(1)


async def test_a_card_that_hangs_the_start_leads_to_the_cpu(rig: Build, tmp_path: Path) -> None:
    (tmp_path / "stuck_engine.py").write_text("import time\ndef create(config):\n    time.sleep(600)\n")
    stuck = EngineSpec("stuck_engine:create", {"device": "cuda"}, needs_gpu=True, smaller=(scripted("Hello"),))
    made = await rig(stuck, card_handshake_s=3.0, cpu_if_gpu_fails=True, environment={"PYTHONPATH": str(tmp_path)})
    assert [what for what, _, _ in made.troubles] == [Trouble.NO_CARD]
    assert "not ready in time" in made.worker.ladder.why
    await made.say(packets_of("jfk"))
    await made.until(1)


async def test_a_worker_whose_task_a_plugin_cancels_is_replaced_and_nothing_said_is_lost(rig: Build) -> None:
    made = await rig(scripted("hello"))
    await made.say(packets_of("lv_0880")[:40])
    for task in made.scope.tasks:
        task.cancel()
    await made.say(packets_of("lv_0880")[40:100])
    assert await made.drain()
    assert [each.text for each in made.transcripts] == ["hello"]
    assert made.worker.state is State.READY
