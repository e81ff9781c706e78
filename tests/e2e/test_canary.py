"""The sound of a member who refused is looked for in everything that a bot keeps, says, sends and has in memory.

Also in what passes through the pipes between bot and speech worker, and in the requests to a remote engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import numpy as np
import pytest
import soxr
from aiohttp import web

from roost.audio import SAMPLE_RATE_HZ
from roost.demo.bot_process import run_bot
from roost.opus import OpusDecoder
from roost.sim import ControlClient, spawn
from roost.speech import ENGINE_SAMPLE_RATE_HZ
from roost_voice.sim.sound import packets_of_recording

pytestmark = [pytest.mark.e2e, pytest.mark.long]

AGREED, REFUSED = "lv_0920", "lv_0880"
MOST = 12
"""Samples of each kind, from all over the recording, that are looked for."""
LAST = 12
"""Packets of the recording's end, which would be the last to be overwritten."""
LENGTH = 24
"""Of such a sample, in bytes of Opus or samples of PCM."""
TAP = Path(__file__).with_name("tap")
"""What a bot's processes import first, so that the pipes of the worker can be seen."""
WORDS = "these are the words of somebody"


@dataclasses.dataclass(frozen=True)
class Canary:
    """Bytes that only one member's sound has.

    Attributes:
        opus: From the middle of packets.
        pcm: The upper bytes of 16-bit samples from loud places, as the speech worker decodes them and as its engine
            gets them: the lower ones differ from run to run by the dither of the resampler.
    """

    opus: tuple[bytes, ...]
    pcm: tuple[bytes, ...]


def canary(recording: str) -> Canary:
    packets = packets_of_recording(recording)
    long = [packet for packet in packets if len(packet) >= 48]
    chosen = dict.fromkeys(long[:: max(1, len(long) // MOST)][:MOST] + long[-LAST:])
    opus = tuple(packet[20 : 20 + LENGTH] for packet in chosen)
    decoder = OpusDecoder()
    sound = np.concatenate([decoder.decode(packet) for packet in packets])
    stream = soxr.ResampleStream(SAMPLE_RATE_HZ, ENGINE_SAMPLE_RATE_HZ, 1, dtype="int16", quality="MQ")
    low = np.asarray(stream.resample_chunk(sound, last=True))
    return Canary(opus, (*_windows(sound), *_windows(low)))


def _windows(sound: np.ndarray[tuple[int], np.dtype[np.int16]]) -> Iterable[bytes]:
    """Short pieces that are neither silence nor chance, and that a difference of 2 does not change."""
    upper, lower = (sound.astype("<i2").view(np.uint8)[at::2] for at in (1, 0))
    sure = (lower > 2) & (lower < 253)
    starts = range(0, len(sound) - LENGTH, LENGTH // 4)
    loud = [at for at in starts if sure[at : at + LENGTH].all() and len(set(upper[at : at + LENGTH])) >= 8]
    return [upper[at : at + LENGTH].tobytes() for at in loud[:: max(1, len(loud) // MOST)][:MOST]]


def found(data: bytes, canary: Canary) -> tuple[set[bytes], set[bytes]]:
    """The samples of Opus, and those of PCM, that are in the data."""
    uppers = (data[0::2], data[1::2])
    return (
        {sample for sample in canary.opus if sample in data},
        {sample for sample in canary.pcm if any(sample in upper for upper in uppers)},
    )


def memory_of(pid: int) -> Iterable[bytes]:
    """Everything that a process can write to, mapping by mapping (Linux)."""
    process = Path(f"/proc/{pid}")
    with (process / "maps").open() as maps, (process / "mem").open("rb") as memory:
        for line in maps:
            place, rights, *_ = line.split()
            if rights[:2] != "rw" or "[v" in line:
                continue
            start, end = (int(each, 16) for each in place.split("-"))
            with contextlib.suppress(OSError, ValueError):  # unmapped meanwhile
                memory.seek(start)
                yield memory.read(end - start)


def found_in_memory(pids: Iterable[int], canary: Canary) -> tuple[set[bytes], set[bytes]]:
    """The same, for the memory of processes."""
    opus, pcm = set[bytes](), set[bytes]()
    for pid in pids:
        for part in memory_of(pid):
            more = found(part, canary)
            opus |= more[0]
            pcm |= more[1]
    return opus, pcm


@contextlib.asynccontextmanager
async def service(bodies: list[bytes]) -> AsyncIterator[str]:
    """A transcription service that keeps what it is sent."""

    async def answer(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.json_response({"text": WORDS})

    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="the memory of processes is read from /proc")
@pytest.mark.parametrize("mode", ["opt-in", "notice"])
async def test_the_sound_of_who_refused_is_nowhere(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, mode: str
) -> None:
    yes, no = canary(AGREED), canary(REFUSED)
    assert min(map(len, (yes.opus, yes.pcm, no.opus, no.pcm))) > MOST
    bodies: list[bytes] = []
    async with service(bodies) as url, spawn([]) as sim, ControlClient(sim.card["control_url"]) as discord:
        guild = sim.card["guilds"][0]
        ada, ben = (int(each["id"]) for each in guild["members"][1:3])
        channel, text = int(guild["voice_channels"][0]["id"]), int(guild["text_channels"][0]["id"])
        settings = {
            "discord.rest_url": sim.card["rest_url"],
            "voice.ca_file": sim.card["ca_file"],
            "voice.allowed_hosts": "localhost,127.0.0.1",
            "log.format": "json",
            "log.level": "DEBUG",
            "consent.mode": mode,
            "stt.engine": "openai",
            "stt.remote.url": url,
        }
        arguments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
        environ["ROOST_TOKEN"] = sim.card["bots"][0]["token"]
        pipes = tmp_path_factory.mktemp("pipes")
        environ |= {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(TAP), environ.get("PYTHONPATH")))),
            "PIPE_TAP": str(pipes),
        }
        for member in (ada, ben):
            await discord.voice(member_id=member, channel_id=channel)
        async with run_bot([*arguments, "--data-dir", str(tmp_path)], environ) as bot:
            await bot.ready()
            await discord.slash(member_id=ada, channel_id=text, command="/privacy opt-in")
            await discord.slash(member_id=ben, channel_id=text, command="/privacy opt-out")
            await discord.slash(member_id=ada, channel_id=text, command="/voice join")
            answer = await discord.slash(member_id=ada, channel_id=text, command="/transcribe start", wait_s=15)
            assert "Transcribing" in answer["replies"][-1]["content"]
            speaking = [
                asyncio.create_task(discord.speak(member_id=member, recording=recording))
                for member, recording in ((ada, AGREED), (ben, REFUSED))
            ]
            await asyncio.sleep(3.0)
            processes = [bot.pid, *bot.descendants()]
            heard = await asyncio.to_thread(found_in_memory, processes, yes)
            assert min(map(len, heard)) > 5, "the search would find nothing anyway"
            await asyncio.gather(*speaking)
            async with asyncio.timeout(20):
                while not any(WORDS in each["content"] for each in await discord.messages(channel_id=text)):
                    await asyncio.sleep(0.05)
            await asyncio.sleep(1.0)
            left = await asyncio.to_thread(found_in_memory, processes, no)
            messages = json.dumps(await discord.messages(channel_id=text)).encode()
            said = json.dumps(bot.events).encode()
            bot.terminate()
            assert await bot.wait(10) == 0
    assert left == (set(), set())
    sent = b"".join(bodies)
    assert len(found(sent, yes)[1]) > 5, "the search would find nothing anyway"
    to_worker, from_worker = (
        b"".join(file.read_bytes() for file in pipes.glob(f"*-{end}")) for end in ("to-worker", "from-worker")
    )
    assert len(found(to_worker, yes)[0]) > 5, "the search would find nothing anyway"
    assert WORDS.encode() in from_worker
    kept = b"".join(file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file())
    for place in (sent, kept, messages, said, to_worker, from_worker):
        assert found(place, no) == (set(), set())
    assert b"Ben" not in messages.split(WORDS.encode(), 1)[-1]
