"""`roost_voice.plugin`: the drivers of installed packages."""

from __future__ import annotations

import importlib.metadata

import pytest

from roost.audio import DriverSettings, Timing
from roost_voice import plugin as voice
from roost_voice.plugin import VoicePlugin

pytestmark = pytest.mark.unit

POINT = importlib.metadata.EntryPoint("native-again", "roost_voice.native:NativeDriver", "roost.voice_drivers")


async def test_a_driver_that_was_not_found_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[importlib.metadata.EntryPoint] = []
    monkeypatch.setattr(voice, "installed_points", lambda _group: found)
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda _self: lambda _settings: Driver())
    plugin = VoicePlugin()
    settings = DriverSettings(timing=Timing(), ca_file=None, allowed_hosts=())
    assert await plugin.voice_driver(POINT.name, settings) is None
    found.append(POINT)
    driver = await plugin.voice_driver(POINT.name, settings)
    assert isinstance(driver, Driver)
    assert await plugin.voice_driver(POINT.name, settings) is driver


class Driver:
    """Something with `open`."""

    def open(self) -> None: ...
