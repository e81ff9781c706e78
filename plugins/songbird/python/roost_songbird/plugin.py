"""The plugin that provides the driver: set ``voice.driver = "songbird"``."""

from __future__ import annotations

from roost.audio import DriverSettings, VoiceDriver
from roost.hooks import Meta, hookimpl
from roost_songbird.driver import SongbirdDriver


class SongbirdPlugin:
    """Found through the entry-point group ``roost.plugins``."""

    def __init__(self) -> None:
        self._driver: SongbirdDriver | None = None

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("songbird", "0.1.0", description="The voice driver songbird")

    @hookimpl
    async def voice_driver(self, name: str, settings: DriverSettings) -> VoiceDriver | None:
        if name != SongbirdDriver.name:
            return None
        if self._driver is None or self._driver.settings != settings:
            self._driver = SongbirdDriver(settings)
        return self._driver
