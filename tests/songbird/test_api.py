"""The module without a server: what it takes, what it refuses."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import pytest

songbird = pytest.importorskip(
    "songbird", reason="the module songbird is not built: make songbird", exc_type=ImportError
)

pytestmark = pytest.mark.unit

GOOD = {"token": "t", "endpoint": "localhost:1", "session_id": "s", "guild_id": 1, "channel_id": 2, "user_id": 3}


@pytest.mark.parametrize(
    "endpoint",
    ["", "wss://localhost", "localhost/path", "user@localhost", "localhost:0", "localhost:99999", "a b", "-x", "x?v=9"],
)
async def test_only_addresses_are_endpoints(endpoint: str) -> None:
    driver = await songbird.Driver.create()
    with pytest.raises(songbird.EndpointError, match="no address"):
        await driver.connect(**{**GOOD, "endpoint": endpoint})
    assert not driver.is_open


@pytest.mark.parametrize(
    "change", [{"guild_id": 0}, {"user_id": -1}, {"channel_id": 2**64}, {"token": ""}, {"session_id": ""}]
)
async def test_credentials_are_checked(change: dict[str, Any]) -> None:
    driver = await songbird.Driver.create()
    with pytest.raises(ValueError, match=next(iter(change))):
        await driver.connect(**{**GOOD, **change})
    assert not driver.is_open


async def test_nobody_listens_there(driver: Any) -> None:
    with pytest.raises(songbird.ConnectError, match="refused") as caught:
        await driver.connect(**GOOD)
    assert caught.value.code is None
    assert caught.value.kind == "io"
    assert not driver.is_open


def test_a_driver_is_not_constructed() -> None:
    with pytest.raises(songbird.UseAsyncConstructorError):
        songbird.Driver()


async def test_a_driver_unused_holds_nothing() -> None:
    before = threading.active_count(), len(list(Path("/proc/self/task").iterdir()))
    driver = await songbird.Driver.create()
    await driver.mute()
    assert await driver.is_muted()
    assert (threading.active_count(), len(list(Path("/proc/self/task").iterdir()))) == before
    await driver.leave()


@pytest.mark.parametrize(
    "wrong",
    [
        {"retry_limit": 0},
        {"retry_limit": 256},
        {"driver_timeout": 0},
        {"preallocated_tracks": 0},
        {"gateway_timeout": -1},
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        songbird.Config(**wrong)
    config = songbird.Config()
    before = dataclasses.replace(config)
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=name):
        if name == "retry_limit":
            config.set_driver_retry(songbird.Strategy.every(1.0), value)
        else:
            getattr(config, f"set_{name}")(value)
    assert config == before


async def test_settings_are_copied(driver: Any) -> None:
    config = songbird.Config(decode_mode=songbird.DecodeMode.Decode)
    await driver.set_config(config)
    config.preallocated_tracks = 7
    assert (await driver.get_config()).preallocated_tracks == 1
    assert (await driver.get_config()).decode_mode is songbird.DecodeMode.Decode


async def test_a_source_plays_once(driver: Any) -> None:
    source = songbird.Source.bytes(b"RIFF")
    await driver.play_source(source)
    assert source.consumed
    with pytest.raises(songbird.ConsumedSourceError):
        await driver.play_source(source)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(songbird.CouldNotOpenFileError, match="No such file"):
        songbird.Source.file(tmp_path / "none.ogg")


async def test_what_songbird_gave_up() -> None:
    with pytest.raises(songbird.FfmpegError, match="no longer"):
        await songbird.ffmpeg("a.mp3")


def test_web_addresses_only() -> None:
    with pytest.raises(songbird.SourceError):
        songbird.Source.url("file:///etc/passwd")


async def test_frames_are_checked(driver: Any) -> None:
    for frame in (b"", bytes(1276)):
        with pytest.raises(ValueError, match="1275"):
            driver.send_opus(frame)
    with pytest.raises(songbird.NotConnectedError):
        driver.send_opus(b"\xf8\xff\xfe")


async def test_timers(driver: Any) -> None:
    """They need no connection to be told of, but an open driver to run; `Event.Cancel` ends one."""
    struck: list[str] = []
    enough = asyncio.Event()

    def every() -> Any:
        struck.append("every")
        if struck.count("every") == 3:
            enough.set()
            return songbird.Event.Cancel
        return None

    await driver.add_event(songbird.Event.periodic(0.01), every)
    await driver.add_event(songbird.Event.delayed(0.01), lambda: struck.append("once"))
    await driver.play_source(songbird.Source.bytes(b"RIFF"))
    async with asyncio.timeout(10):
        await enough.wait()
    await asyncio.sleep(0.05)
    assert struck.count("every") == 3
    assert struck.count("once") == 1


@pytest.mark.parametrize("duration", [0, -1, float("nan"), 1e9])
def test_times_of_events(duration: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        songbird.Event.periodic(duration)


def test_trust_wants_a_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(ValueError, match="no certificate"):
        songbird.trust(tmp_path / "empty.pem")
    with pytest.raises(FileNotFoundError):
        songbird.trust(tmp_path / "none.pem")


def test_the_decoder() -> None:
    decoder = songbird.OpusDecoder()
    assert len(decoder.decode(b"\xf8\xff\xfe")) == 960 * 4
    assert len(songbird.OpusDecoder(stereo=False).decode(b"\xf8\xff\xfe")) == 960 * 2
    with pytest.raises(ValueError, match="no Opus packet"):
        decoder.decode(b"\xff")


def test_a_loop_that_ends_without_leave() -> None:
    """Nothing hangs and nothing is left pending when the user forgets."""

    async def forget() -> Any:
        driver = await songbird.Driver.create()
        return driver, await driver.play_source(songbird.Source.bytes(b"RIFF"))

    driver, handle = asyncio.run(forget())
    asyncio.run(driver.leave())
    assert not driver.is_open
    with pytest.raises(songbird.TrackError):
        # Songbird's mixer ends on its own, a moment later.
        for _ in range(1000):
            handle.stop()
            time.sleep(0.01)
