"""Which plugin is switched on in which guild, and switching it, without a restart."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from roost.errors import PluginError
from roost.hooks import SwitchCause

if TYPE_CHECKING:
    from roost.plugins.host import PluginHost


class Switches:
    """A plugin is on where nobody switched it off and everything it needs is on."""

    def __init__(self, host: PluginHost) -> None:
        self._host = host
        self._off: set[tuple[str, int]] = set()
        self._going: set[tuple[str, int]] = set()
        """On their way off: no commands any more, hooks and listeners still, so that they can finish."""
        self._locks: dict[int, asyncio.Lock] = {}

    async def read(self) -> None:
        """Take over what the store says."""
        self._off = {key for key, enabled in (await self._host.store.enablement()).items() if not enabled}

    def switched_on(self, plugin: str, guild_id: int) -> bool:
        """The plugin's own switch."""
        return (plugin, guild_id) not in self._off

    def enabled(self, plugin: str, guild_id: int) -> bool:
        if not self._off:
            return True
        return self.blocked_by(plugin, guild_id) is None

    def takes_commands(self, plugin: str, guild_id: int) -> bool:
        return (plugin, guild_id) not in self._going and self.enabled(plugin, guild_id)

    def blocked_by(self, plugin: str, guild_id: int) -> str | None:
        """The plugin whose switch keeps this one off in a guild: itself or one it needs; None when it is on."""
        if (plugin, guild_id) in self._off:
            return plugin
        for needed in self._host.requires(plugin):
            if (found := self.blocked_by(needed, guild_id)) is not None:
                return found
        return None

    async def switch(self, plugin: str, guild_id: int, enabled: bool) -> list[str]:
        """Switch a plugin in a guild, durably; gives the loaded plugins that this turned on or off.

        What goes off loses its commands first, is told while hooks and listeners still reach it, and then hears no
        more of that guild. Discord gets one PUT.

        Raises:
            PluginError: There is no such plugin.
            hikari.HikariError: Discord refused the commands; the switch is made all the same.
        """
        host = self._host
        if plugin not in host.records:
            known = ", ".join(sorted(host.records)) or "none"
            raise PluginError(f"there is no plugin of that name (there is: {known})", plugin=plugin)
        async with self._locks.setdefault(guild_id, asyncio.Lock()):
            if self.switched_on(plugin, guild_id) == enabled:
                return []
            before = [name for name in host.loaded if self.enabled(name, guild_id)]
            await host.store.set_enabled(plugin, guild_id, enabled)
            if enabled:
                self._off.discard((plugin, guild_id))
                changed = [name for name in host.loaded if self.enabled(name, guild_id) and name not in before]
                await self._announce(changed, guild_id, True)
            else:
                self._off.add((plugin, guild_id))
                changed = [name for name in reversed(before) if not self.enabled(name, guild_id)]
                self._off.discard((plugin, guild_id))
                self._going |= {(name, guild_id) for name in changed}
                try:
                    await host.rebuild_commands()
                    for name in changed:
                        await host.dispatcher.call_plugin(
                            name,
                            "guild_disabled",
                            ctx=host.records[name].context,
                            guild_id=guild_id,
                            cause=SwitchCause.ADMIN,
                        )
                finally:
                    self._off.add((plugin, guild_id))
                    self._going -= {(name, guild_id) for name in changed}
                await self._announce(changed, guild_id, False)
            await host.sync_commands(guild_id, changed)
            return changed

    async def _announce(self, changed: list[str], guild_id: int, enabled: bool) -> None:
        host = self._host
        host.dispatcher.changed()
        for name in changed:
            context = host.records[name].context
            if enabled:
                await host.dispatcher.call_plugin(
                    name, "guild_enabled", ctx=context, guild_id=guild_id, cause=SwitchCause.ADMIN
                )
            elif context is not None:
                await context.end_guild(guild_id)
            await host.dispatcher.call_others(name, "plugin_switched", name=name, guild_id=guild_id, enabled=enabled)
