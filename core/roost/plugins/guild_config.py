"""What a server sets for itself: a plugin's configuration, overlaid by the server's own values."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from roost.errors import ConfigError, PluginError
from roost.plugins.records import RUNNING
from roost.schema import Setting, from_text, settings_of

if TYPE_CHECKING:
    from roost.plugins.host import PluginHost

_log = logging.getLogger("roost.config")

T = TypeVar("T")

HOOK = "config_changed"
SETTINGS = "its settings"
"""The source of failures of the code of a plugin's settings, such as checks of values."""


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What a change came to.

    Attributes:
        old: The configuration before, in that server.
        new: And now.
        told: The plugin's hook did not fail; without one there is nothing to fail.
    """

    old: BaseModel
    new: BaseModel
    told: bool


class GuildConfig:
    """Every server's own values of every plugin, held in memory, checked against the plugin's model."""

    def __init__(self, host: PluginHost) -> None:
        self._host = host
        self._values: dict[tuple[str, int], dict[str, Any]] = {}
        self._made: dict[tuple[str, int], tuple[BaseModel, BaseModel]] = {}
        """(the configuration of the bot, that of the server) as made last."""
        self._locks: dict[tuple[str, int], asyncio.Lock] = {}

    async def read(self) -> None:
        """Take over what the store says."""
        self._values = await self._host.store.guild_config()
        self._made.clear()

    def configurable(self) -> list[str]:
        """Running plugins in which a server may set something."""
        return [name for name in sorted(self._host.records) if self.settings(name)]

    def settings(self, plugin: str) -> list[Setting]:
        """What a server may set in a plugin; nothing in one that does not run."""
        record = self._host.records.get(plugin)
        if record is None or record.state not in RUNNING or record.context is None:
            return []
        base = record.context.whole_config
        return [each for each in settings_of(type(base)) if each.guild] if base is not None else []

    def own(self, plugin: str, guild_id: int) -> Mapping[str, Any]:
        """What the server set itself, by dotted key."""
        return self._values.get((plugin, guild_id), {})

    def of(self, plugin: str, base: BaseModel, guild_id: int) -> BaseModel:
        """A plugin's configuration in a server.

        A value that a newer version of the plugin does not take any more is left out and logged.
        """
        values = self._values.get((plugin, guild_id))
        if not values:
            return base
        made = self._made.get((plugin, guild_id))
        if made is None or made[0] is not base:
            made = self._made[plugin, guild_id] = (base, self._overlaid(plugin, base, guild_id)[0])
        return made[1]

    def _overlaid(self, plugin: str, base: BaseModel, guild_id: int) -> tuple[BaseModel, dict[str, Any]]:
        """The configuration in a server, and what of the server's own values is in it."""
        known = {each.key for each in settings_of(type(base)) if each.guild}
        fitting: dict[str, Any] = {}
        result = base
        for key, value in self.own(plugin, guild_id).items():
            try:
                if key not in known:
                    raise ConfigError("a server cannot set that (any more)", key=f"{plugin}.{key}")
                result = self._checked(plugin, guild_id, base, {**fitting, key: value})
            except ConfigError as error:
                _log.warning("guild %d: its own value is left out: %s", guild_id, error, extra={"plugin": plugin})
            else:
                fitting[key] = value
        return result, fitting

    def _checked(self, plugin: str, guild_id: int, base: BaseModel, over: Mapping[str, Any]) -> BaseModel:
        return self._guarded(plugin, guild_id, lambda: self._host.config.plugin(plugin, type(base), over))

    def _guarded(self, plugin: str, guild_id: int, work: Callable[[], T]) -> T:
        """Run code of a plugin's settings; what it raises is a failure of the plugin in that server.

        Raises:
            ConfigError: A value does not fit, or that code failed.
        """
        try:
            return self._host.guarded(work)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - code of the plugin
            self._host.failed(plugin, SETTINGS, error, guild_id)
            raise ConfigError(
                "the plugin failed to check this; the owner of this bot can see why", key=plugin
            ) from None

    async def change(self, plugin: str, guild_id: int, texts: Mapping[str, str], reset: Iterable[str] = ()) -> Change:
        """Set and reset values of a server, all or none, durably, and tell the plugin.

        Args:
            plugin: A running one.
            guild_id: The server.
            texts: Dotted key to value, as people type it.
            reset: Keys that shall be the bot's again.

        Raises:
            ConfigError: A value does not fit, or a key is not the server's to set; nothing was changed.
            PluginError: The plugin does not run, or has nothing to set.
            ResourceError: The store failed; nothing was changed.
        """
        settings = {each.key: each for each in self.settings(plugin)}
        if not settings:
            raise PluginError("it has nothing that a server can set, or does not run", plugin=plugin)
        reset = set(reset)
        for key in (*texts, *reset):
            if key not in settings:
                known = ", ".join(settings)
                raise ConfigError(f"a server cannot set that (it can set: {known})", key=f"{plugin}.{key}")
        record = self._host.records[plugin]
        async with self._locks.setdefault((plugin, guild_id), asyncio.Lock()):
            assert record.context is not None
            base = record.context.config
            old = self.of(plugin, base, guild_id)
            typed = {key: from_text(text, settings[key].field.annotation) for key, text in texts.items()}
            kept = self._overlaid(plugin, base, guild_id)[1]
            gone = (set(self.own(plugin, guild_id)) - set(kept) - set(typed)) | reset
            over = {key: value for key, value in {**kept, **typed}.items() if key not in reset}
            new = self._checked(plugin, guild_id, base, over)
            as_json = self._guarded(plugin, guild_id, lambda: {key: _json_value(new, key) for key in typed})
            await self._host.store.set_guild_config(plugin, guild_id, as_json, gone)
            self._values[plugin, guild_id] = {
                key: value for key, value in {**kept, **as_json}.items() if key not in reset
            }
            self._made.pop((plugin, guild_id), None)
            new = self.of(plugin, base, guild_id)
            told = True
            if self._guarded(plugin, guild_id, lambda: bool(new != old)):
                asked = await self._host.dispatcher.ask_plugin(
                    plugin, HOOK, guild_id=guild_id, ctx=record.context, old=old, new=new
                )
                told = asked.worked or not asked.called
            return Change(old, new, told)


def _json_value(model: BaseModel, key: str) -> Any:
    """The validated value as JSON knows it."""
    value: Any = model.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value
