"""The voice plugin: hook implementations only; the work is in `roost_voice.sessions`."""

from __future__ import annotations

import asyncio
import logging
import weakref
from typing import TYPE_CHECKING, Any, cast

import hikari
import lightbulb
from pydantic import BaseModel

from roost import __version__
from roost.audio import CallStatus, DriverSettings, Timing, VoiceDriver
from roost.entrypoints import installed_points
from roost.errors import PluginError
from roost.errortext import error_line, repr_of
from roost.hooks import Meta, Report, SwitchCause, hookimpl
from roost.i18n import counted
from roost_voice.chosen_driver import ChosenDriver
from roost_voice.commands import voice_loader
from roost_voice.config import DRIVERS, NATIVE, VoiceConfig
from roost_voice.sessions import SessionManager, on_consent
from roost_voice.signalling import Signalling

if TYPE_CHECKING:
    from roost.context import PluginContext

_log = logging.getLogger("roost.voice")

NAME = "voice"
PAUSED = "voice failed too often in this server and is paused"
SWITCHED_OFF = "voice was switched off in this server"
UNLOAD_S = 2.4
"""How long sessions that still stand at unload may take to end."""
LAST_LEAVES_S = 2.4
"""How long everything else may take then: where no other version of voice follows, leaves that were lost."""

NEEDED_INTENTS = {
    "GUILDS": hikari.Intents.GUILDS,
    "GUILD_VOICE_STATES": hikari.Intents.GUILD_VOICE_STATES,
}


def settings_of(config: VoiceConfig) -> DriverSettings:
    """What the configuration asks of a driver."""
    timing = Timing() if config.timing_scale == 1.0 else Timing().scaled(config.timing_scale)
    return DriverSettings(timing, config.ca_file, config.allowed_hosts)


def _driver(name: str, settings: DriverSettings) -> VoiceDriver | None:
    """A driver by its name; one that is not chosen is not even imported."""
    if name == NATIVE:
        from roost_voice.native import NativeDriver

        return NativeDriver(settings.timing, ca_file=settings.ca_file, allowed_hosts=settings.allowed_hosts)
    entry = next((each for each in installed_points(DRIVERS) if each.name == name), None)
    if entry is None:
        return None
    try:
        made: VoiceDriver = entry.load()(settings)
        if not callable(getattr(made, "open", None)):
            raise TypeError(f"it gave {repr_of(made)}, which has no open()")
    except Exception as error:  # noqa: BLE001 - its failure is not the voice plugin's
        _log.error("the voice driver %s (%s) cannot be made: %s", name, entry.value, error_line(error))
        return None
    return made


class VoicePlugin:
    """Found through the entry-point group ``roost.plugins``."""

    def __init__(self) -> None:
        self.manager: SessionManager | None = None
        self._bot: hikari.GatewayBot | None = None
        self._signalling: Signalling | None = None
        self._drivers: dict[str, VoiceDriver] = {}
        self._followed = True
        """Another version of voice follows, or the gateway session ends: either ends what Discord still shows."""

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta(
            name=NAME,
            version=__version__,
            description="Joins voice channels, one session per server, never leaks",
            stop_commands=("voice leave",),
        )

    @hookimpl
    def register_config(self) -> type[BaseModel]:
        return VoiceConfig

    @hookimpl
    def register_loaders(self) -> list[lightbulb.Loader]:
        assert self._bot is not None
        # lightbulb keeps what it has made of a command for ever; it must not keep us.
        me = weakref.ref(self)
        return [voice_loader(self._bot, lambda: plugin.manager if (plugin := me()) is not None else None)]

    @hookimpl
    async def on_load(self, ctx: PluginContext) -> None:
        for name, intent in NEEDED_INTENTS.items():
            if not ctx.bot.intents & intent:
                raise PluginError(f"the intent {name} is missing; add it to discord.intents", plugin=NAME)
        config = cast(VoiceConfig, ctx.config)
        self._bot = ctx.bot
        driver = ChosenDriver(ctx.hooks, config.driver, settings_of(config), trusted=NAME)
        manager = self.manager = SessionManager(ctx, config, driver)
        ctx.on_unload(self._forget)
        ctx.on_unload(ctx.consent.subscribe(on_consent(manager)))
        signalling = self._signalling = Signalling(manager)
        signalling.listen(ctx)
        signalling.catch_up(ctx.bot)

    @hookimpl
    async def on_stopping(self, bot: hikari.GatewayBot, deadline: float) -> None:
        if self.manager is not None:
            await self.manager.stop_all("the bot is shutting down", deadline)

    @hookimpl
    async def on_unload(self, ctx: PluginContext, reason: str) -> None:
        """Ends whatever still stands: nothing when `on_stopping` came before."""
        manager = self.manager
        self._followed = reason in ("reload", "shutdown")
        if manager is None or manager.is_stopping():
            return
        deadline = asyncio.get_running_loop().time() + UNLOAD_S
        await manager.stop_all(f"voice was unloaded ({reason})", deadline)

    async def _forget(self) -> None:
        manager, self.manager = self.manager, None
        self._drivers.clear()
        self._bot = self._signalling = None
        if manager is not None:
            deadline, problems = asyncio.get_running_loop().time() + LAST_LEAVES_S, []
            if stuck := await manager.aclose():
                problems.append(f"tasks ignored their cancellation: {', '.join(stuck)}")
            left = [] if self._followed else await manager.leave_for_good(deadline)
            if left:
                places = counted(len(left), "server")
                problems.append(
                    f"Discord still shows the bot in a voice channel of {places}: it has not confirmed that the bot "
                    "left; load voice again to end that"
                )
            if problems:
                raise PluginError("; ".join(problems), plugin=NAME)

    @hookimpl
    async def guild_disabled(self, ctx: PluginContext, guild_id: int, cause: SwitchCause) -> None:
        if self.manager is not None:
            await self.manager.leave(guild_id, PAUSED if cause is SwitchCause.FAILURES else SWITCHED_OFF, tell=True)

    @hookimpl
    async def guild_enabled(self, ctx: PluginContext, guild_id: int) -> None:
        """Learn where Discord shows the bot, in case an event was lost while voice was paused."""
        if self._signalling is not None:
            self._signalling.catch_up_in(ctx.bot, guild_id)

    @hookimpl
    async def user_data_delete(self, user_id: int, reason: str) -> None:
        """Forget that the notice was shown to somebody: they are not heard again without a new one or their word."""
        if self.manager is not None:
            self.manager.forget(user_id)

    @hookimpl
    async def call_status(self, guild_id: int, user_id: int) -> CallStatus | None:
        return self.manager.call_status(guild_id, user_id) if self.manager is not None else None

    @hookimpl
    async def config_changed(self, ctx: PluginContext, guild_id: int, old: BaseModel, new: BaseModel) -> None:
        if self.manager is not None:
            self.manager.reconfigured(guild_id)

    @hookimpl
    async def plugin_loaded(self, name: str) -> None:
        if self.manager is not None:
            self.manager.plugin_loaded(name)

    @hookimpl
    async def plugin_switched(self, name: str, guild_id: int | None, enabled: bool) -> None:
        if self.manager is not None:
            self.manager.plugin_switched(name, guild_id, enabled)

    @hookimpl
    async def plugin_unloading(self, name: str, reason: str, deadline: float) -> None:
        """Sessions go on without the plugin: let it drain, as if they ended."""
        if self.manager is not None:
            await self.manager.plugin_unloading(name, f"the plugin {name} is going ({reason})", deadline)

    @hookimpl
    async def plugin_unloaded(self, name: str, reason: str) -> None:
        if self.manager is not None:
            self.manager.plugin_unloaded(name)

    @hookimpl
    async def voice_driver(self, name: str, settings: DriverSettings) -> VoiceDriver | None:
        """Provides ``native``, and what installed packages have in the entry-point group ``roost.voice_drivers``."""
        driver = self._drivers.get(name) or _driver(name, settings)
        if driver is not None:
            # One that is not found is looked for again: packages cannot be read without descriptors, say.
            self._drivers[name] = driver
        return driver

    @hookimpl
    async def health(self) -> Report:
        if self.manager is None:
            return Report(False, "not loaded")
        return Report(True, f"{len(self.manager.sessions)} sessions")

    @hookimpl
    async def diagnostics(self) -> dict[str, Any]:
        if self.manager is None:
            return {}
        return {"sessions": len(self.manager.sessions), "states": self.manager.states()}
