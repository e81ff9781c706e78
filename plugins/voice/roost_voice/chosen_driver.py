"""The configured voice driver, and checks of what a driver of another plugin returns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from roost.audio import LinkEnd, LinkStats, Retry
from roost.errors import VoiceError
from roost.errortext import class_name, repr_of

if TYPE_CHECKING:
    from roost.audio import Credentials, DriverSettings, LinkEvents, VoiceDriver, VoiceLink
    from roost.context import HookCaller

HOOK = "voice_driver"


class ChosenDriver:
    """The configured driver, looked up at each use: a plugin that provides it may come and go.

    Args:
        hooks: Finds the driver, and is told of the failures of a foreign one.
        name: Of the driver.
        settings: For the driver.
        trusted: The plugin whose links are passed on as they are.
    """

    def __init__(self, hooks: HookCaller, name: str, settings: DriverSettings, trusted: str) -> None:
        self.name = name
        self._hooks = hooks
        self._settings = settings
        self._trusted = trusted

    @asynccontextmanager
    async def open(self, cred: Credentials, events: LinkEvents) -> AsyncIterator[VoiceLink]:
        found = await self._hooks.call_named(HOOK, guild_id=cred.guild_id, name=self.name, settings=self._settings)
        if found is None:
            raise VoiceError(f"there is no voice driver called {self.name}; check voice.driver")
        plugin, driver = found
        if plugin == self._trusted:
            async with driver.open(cred, events) as link:
                yield link
            return
        try:
            async with _foreign(driver, cred, events) as link:
                yield CheckedLink(link, plugin, cred.guild_id, self._hooks)
        except VoiceError:
            raise
        except Exception as error:
            self._hooks.failed(plugin, HOOK, error, cred.guild_id)
            raise VoiceError(f"the voice driver failed ({class_name(error)}); it is of the plugin {plugin}") from error


@asynccontextmanager
async def _foreign(driver: VoiceDriver, cred: Credentials, events: LinkEvents) -> AsyncIterator[VoiceLink]:
    opening: Any = driver.open(cred, events)
    if not hasattr(opening, "__aenter__"):
        if hasattr(opening, "close"):
            opening.close()  # a coroutine, which nobody would await
        raise TypeError(f"open() gave {repr_of(opening)}, not an async context manager")
    async with opening as link:
        missing = [name for name in CHECKED if not callable(getattr(link, name, None))]
        if missing:
            raise TypeError(f"the link {repr_of(link)} has no {missing[0]}()")
        yield link


CHECKED = ("send_opus", "set_speaking", "update", "stats", "wait_closed")


class CheckedLink:
    """The link of a foreign driver: what it raises or answers wrongly is its plugin's failure, and ends the link."""

    def __init__(self, link: VoiceLink, plugin: str, guild_id: int, hooks: HookCaller) -> None:
        self._link = link
        self._plugin = plugin
        self._guild_id = guild_id
        self._hooks = hooks
        self._stats = LinkStats()

    def _failed(self, error: Exception) -> None:
        self._hooks.failed(self._plugin, HOOK, error, self._guild_id)

    def send_opus(self, opus: bytes) -> None:
        try:
            self._link.send_opus(opus)
        except Exception as error:  # noqa: BLE001 - counted against the plugin
            self._failed(error)

    def set_speaking(self, on: bool) -> None:
        try:
            self._link.set_speaking(on)
        except Exception as error:  # noqa: BLE001 - counted against the plugin
            self._failed(error)

    async def update(self, cred: Credentials) -> bool:
        try:
            return await self._link.update(cred) is True
        except Exception as error:  # noqa: BLE001 - counted against the plugin; another link is opened
            self._failed(error)
            return False

    def stats(self) -> LinkStats:
        """The driver's counters, or the last ones that were right."""
        try:
            stats: Any = self._link.stats()
            if not isinstance(stats, LinkStats):
                raise TypeError(f"stats() gave {repr_of(stats)}, not LinkStats")
        except Exception as error:  # noqa: BLE001 - counted against the plugin
            self._failed(error)
        else:
            self._stats = stats
        return self._stats

    async def wait_closed(self) -> LinkEnd:
        end: Any = await self._link.wait_closed()
        if isinstance(end, LinkEnd) and isinstance(end.retry, Retry) and isinstance(end.reason, str):
            return end
        raise TypeError(f"wait_closed() gave {repr_of(end)}, not a LinkEnd")
