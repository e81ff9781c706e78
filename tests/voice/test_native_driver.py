"""The native driver against the simulated voice server, over real sockets."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from roost.audio import AudioFrame, Credentials, Retry, Timing, VoiceDriver
from roost.errors import ConfigError, VoiceError
from roost.testing.driver_conformance import (
    ANN,
    BEN,
    BOT,
    CHANNEL,
    CHECKS,
    GUILD,
    Bench,
    Check,
    RecordingEvents,
    check_name,
    open_bench,
)
from roost_voice.native import NativeDriver
from roost_voice.protocol.opcodes import MODE_GCM, MODE_XCHACHA
from roost_voice.sim import create

pytestmark = pytest.mark.sim

BenchMaker = Callable[..., Any]


def make_native(timing: Timing, ca_file: Path, allowed_hosts: tuple[str, ...]) -> VoiceDriver:
    return NativeDriver(timing, ca_file=ca_file, allowed_hosts=allowed_hosts)


@pytest.fixture
async def make_bench() -> AsyncIterator[BenchMaker]:
    async with AsyncExitStack() as stack:

        async def make(timing: Timing | None = None, **settings: Any) -> Bench:
            voice = create(**{"tick_s": 0.01, **settings})
            return await stack.enter_async_context(open_bench(make_native, voice, timing))

        yield make


@pytest.fixture
async def bench(make_bench: BenchMaker) -> Bench:
    made: Bench = await make_bench()
    return made


@pytest.mark.parametrize("check", CHECKS, ids=check_name)
async def test_conformance(check: Check, bench: Bench) -> None:
    await check(bench)


async def talk(bench: Bench, user: int, events: RecordingEvents, more: int = 5) -> None:
    """Have a member speak, and wait until more than so many of their frames arrived."""
    before = len(events.frames)
    await bench.speak(user)
    await events.until(lambda: len(events.frames) > before + more, "frames")


@pytest.mark.parametrize("mode", [MODE_GCM, MODE_XCHACHA])
async def test_both_transport_modes(make_bench: BenchMaker, mode: str) -> None:
    bench = await make_bench(modes=(mode,), member_mode=mode, padding_share=1.0, extension_share=1.0)
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await events.until(lambda: events.encrypted, "encryption")
        assert link.stats().mode == mode
        heard = bench.hear(ANN)
        await talk(bench, ANN, events)
        link.send_opus(b"\x78hello")
        await bench.settled(lambda: (BOT, b"\x78hello") in heard, "the bot is heard")
        assert not link.stats().dropped


async def test_gcm_is_preferred(make_bench: BenchMaker) -> None:
    bench = await make_bench(modes=(MODE_XCHACHA, MODE_GCM))
    async with bench.link() as (link, _):
        assert link.stats().mode == MODE_GCM


@pytest.mark.parametrize("zero", [True, False])
async def test_the_first_group_with_either_transition_id(make_bench: BenchMaker, zero: bool) -> None:
    bench = await make_bench(first_transition_zero=zero)
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await events.until(lambda: events.encrypted, "encryption")
        await talk(bench, ANN, events)
        assert "dave_unknown_transition" not in link.stats().violations


async def test_sequence_numbers_wrap(make_bench: BenchMaker) -> None:
    bench = await make_bench(first_seq=65_533)
    async with bench.link() as (link, events):
        await bench.join(ANN, BEN)
        await events.until(lambda: events.encrypted, "encryption")
        events.states.clear()
        bench.host.arm("close", code=4015)
        await events.until(lambda: "live" in events.states, "live again")
        await talk(bench, BEN, events)
        assert link.stats().resumes == 1


async def test_messages_missed_during_a_resume_are_made_up(bench: Bench) -> None:
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await events.until(lambda: events.encrypted, "encryption")
        epochs = link.stats().dave_epochs
        bench.host.arm("close", code=4015)
        await events.until(lambda: "resuming" in events.states, "resuming")
        await bench.join(BEN)
        await events.until(lambda: link.stats().dave_epochs > epochs and events.encrypted, "Ben's epoch")
        await talk(bench, BEN, events)
        assert events.joined == [ANN, BEN]


async def test_half_open_connection_is_resumed_within_its_bound(make_bench: BenchMaker) -> None:
    timing = dataclasses.replace(Timing().scaled(0.1), heartbeat_max_s=0.2)
    bench = await make_bench(timing)
    async with bench.link() as (link, events):
        events.states.clear()
        started_at = time.monotonic()
        bench.host.arm("blackhole_ws")
        await events.until(lambda: "live" in events.states, "live again")
        # Two missed heartbeats show within two intervals; the rest is the resume and the scheduler.
        assert time.monotonic() - started_at < 2 * 0.2 + timing.resume_s
        assert link.stats().resumes == 1
        assert bench.host.most_sessions == 1


async def test_acknowledgements_with_a_wrong_nonce_count_as_missed(make_bench: BenchMaker) -> None:
    timing = dataclasses.replace(Timing().scaled(0.1), heartbeat_max_s=0.1)
    bench = await make_bench(timing)
    async with bench.link() as (link, events):
        events.states.clear()
        bench.host.arm("wrong_heartbeat_nonce", times=2)
        await events.until(lambda: "live" in events.states, "live again")
        assert link.stats().violations["heartbeat_ack"] == 2


async def test_resuming_for_ever_is_given_up(make_bench: BenchMaker) -> None:
    timing = dataclasses.replace(Timing().scaled(0.1), reconnect_window_s=60.0, reconnect_limit=3)
    bench = await make_bench(timing)
    async with bench.link() as (link, events):
        for number in range(4):
            bench.host.arm("close", code=4015)
            await events.until(lambda number=number: events.states.count("live") > number + 1 or link.end, "resume")
        end = await link.wait_closed()
        assert end.retry is Retry.RESUME_FAILED
        assert link.stats().resumes == 3


async def test_a_stalled_loop_costs_nothing(make_bench: BenchMaker) -> None:
    timing = dataclasses.replace(Timing().scaled(0.1), heartbeat_max_s=0.1)
    bench = await make_bench(timing)
    async with bench.link() as (link, _):
        for _ in range(3):
            await asyncio.sleep(0.06)
            time.sleep(0.5)
        await asyncio.sleep(0.15)
        assert link.end is None
        assert link.stats().resumes == 0


async def test_a_deaf_path_ends_the_link(make_bench: BenchMaker) -> None:
    bench = await make_bench(keepalive_echo=False)
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await events.until(lambda: events.encrypted, "encryption")
        bench.host.arm("udp_loss", percent=100)
        await bench.settled(lambda: not bench.host._armed["udp_loss"], "the fault strikes")
        await bench.speak(ANN)
        async with asyncio.timeout(bench.timing.deaf_after_s + bench.timing.discovery_s + 1):
            end = await link.wait_closed()
        assert end.retry is Retry.RESUME_FAILED


async def test_speech_that_never_comes_is_no_fault_while_discovery_is_answered(make_bench: BenchMaker) -> None:
    timing = dataclasses.replace(Timing().scaled(0.1), deaf_after_s=0.1)
    bench = await make_bench(timing, keepalive_echo=False)
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await events.until(lambda: events.encrypted, "encryption")
        member = bench.voice.member(GUILD, ANN)
        await member._send(5, {"speaking": 1, "delay": 0, "ssrc": member._ssrc})
        await events.until(lambda: (ANN, True) in events.spoke, "op 5")
        await asyncio.sleep(0.4)
        assert link.end is None


async def test_keepalives_flow(make_bench: BenchMaker) -> None:
    bench = await make_bench(dataclasses.replace(Timing().scaled(0.1), keepalive_s=0.05))
    async with bench.link() as (link, _):
        await bench.settled(
            lambda: bench.voice.state()["datagrams_ignored"].get("keepalive", 0) >= 3, "keepalives arrive"
        )
        assert link.stats().packets_in == 0


async def test_a_storm_of_bad_commits_ends_the_link(bench: Bench) -> None:
    await bench.join(ANN)
    bench.host.arm("flip_welcome", times=50)
    bench.host.arm("flip_commit", times=50)
    async with bench.link() as (link, events):
        async with asyncio.timeout(5):
            end = await link.wait_closed()
        assert end.retry is Retry.REJOIN
        assert sum(state == "recovering" for _, _, state in events.encryption) >= 1


async def test_alone_the_encryption_is_pending_and_sending_is_counted_as_dropped(bench: Bench) -> None:
    async with bench.link() as (link, events):
        await events.until(lambda: events.encryption != [], "pending")
        assert events.encryption == [(1, 0, "pending")]
        link.send_opus(b"\x78hello")
        await bench.settled(lambda: link.stats().send_dropped == 1, "dropped")


async def test_the_send_queue_is_bounded(bench: Bench) -> None:
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await events.until(lambda: events.encrypted, "encryption")
        for _ in range(200):
            link.send_opus(b"\x78hello")
        assert 140 <= link.stats().send_dropped <= 150


async def test_a_raising_consumer_loses_its_frame_only(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    class Raising(RecordingEvents):
        def frame(self, frame: AudioFrame) -> None:
            super().frame(frame)
            raise RuntimeError("broken consumer")

    await bench.join(ANN)
    events = Raising()
    async with bench.driver.open(bench.credentials(), events) as link:
        await events.until(lambda: events.encrypted, "encryption")
        await talk(bench, ANN, events)
        assert link.end is None
    assert caplog.text.count("a frame could not be delivered") == 1


async def test_an_untrusted_certificate_is_refused_at_once(bench: Bench) -> None:
    driver = NativeDriver(bench.timing, allowed_hosts=("localhost",))
    started_at = time.monotonic()
    with pytest.raises(VoiceError, match="certificate"):
        async with driver.open(bench.credentials(), RecordingEvents()):
            pass
    assert time.monotonic() - started_at < 2


async def test_a_refused_connection_is_tried_three_times(bench: Bench, unused_tcp_port: int) -> None:
    cred = Credentials(GUILD, CHANNEL, BOT, "session", "token", f"localhost:{unused_tcp_port}")
    started_at = time.monotonic()
    with pytest.raises(VoiceError, match="could not be reached") as caught:
        async with bench.driver.open(cred, RecordingEvents()):
            pass
    assert caught.value.retryable
    assert 2 * bench.timing.ws_retry_s <= time.monotonic() - started_at < 2


async def test_a_server_that_accepts_and_stays_silent_times_out(bench: Bench) -> None:
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    cred = Credentials(GUILD, CHANNEL, BOT, "session", "token", f"localhost:{port}")
    started_at = time.monotonic()
    try:
        with pytest.raises(VoiceError, match="in time"):
            async with bench.driver.open(cred, RecordingEvents()):
                pass
        timing = bench.timing
        assert time.monotonic() - started_at < timing.ws_tries * (timing.ws_open_s + timing.ws_retry_s) + 1
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


def test_a_missing_authority_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"voice\.ca_file"):
        NativeDriver(ca_file=tmp_path / "none.pem")


def test_the_driver_is_one() -> None:
    assert isinstance(NativeDriver(), VoiceDriver)
    assert NativeDriver.name == "native"
