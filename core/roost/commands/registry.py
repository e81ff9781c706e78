"""Which slash commands exist in which guild, and keeping Discord's copy the same.

lightbulb dispatches interactions; Discord is told with one bulk PUT per guild, which also removes whatever an earlier
run left behind. lightbulb's own sync is off: it overlooks guilds in which nothing is registered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import hikari
import lightbulb

from roost.commands.running import RunningCommands
from roost.commands.shapes import MOST, MOST_INSIDE, fault
from roost.errors import PluginError
from roost.i18n import Texts, localise
from roost.strays import taming

_log = logging.getLogger("roost.commands")

OWNERS_GROUP = "bot"
"""The core's command for the owners of the bot. Plugins add subgroups to it with a group of the same name."""
Command = Any
"""A `lightbulb.Group` or a subclass of `lightbulb.SlashCommand` and its kin."""
Allowed = Callable[[lightbulb.AutocompleteContext[Any]], Awaitable[bool]]
"""Whether who types an option is to be offered choices."""


def command_name(command: Command) -> str:
    return str(command.name if isinstance(command, lightbulb.Group) else command._command_data.name)


def _paths(command: Command, above: str) -> list[str]:
    if not hasattr(command, "subcommands"):
        return [f"{above}{command._command_data.name}"]
    name = f"{above}{command.name}"
    return [name, *(path for inner in command.subcommands.values() for path in _paths(inner, f"{name} "))]


def _tame_completion(command: Command, allowed: Allowed) -> None:
    """Have completions of options ask whether they may answer, and what they raise be an `Exception`.

    That is all that lightbulb catches.
    """
    if hasattr(command, "subcommands"):
        for inner in command.subcommands.values():
            _tame_completion(inner, allowed)
        return
    for option in command._command_data.options.values():
        complete = option.autocomplete_provider
        if complete is hikari.UNDEFINED:
            continue
        # The same command may have been another registry's before.
        option.autocomplete_provider = _Tamed(complete.complete if isinstance(complete, _Tamed) else complete, allowed)


class _Tamed:
    """A completion of options, for those who may run the command."""

    def __init__(self, complete: Any, allowed: Allowed) -> None:
        self.complete = complete
        self._allowed = allowed

    async def __call__(self, ctx: lightbulb.AutocompleteContext[Any]) -> Any:
        if not await self._allowed(ctx):
            await ctx.respond([])
            return None
        with taming():
            return await self.complete(ctx)


async def _anybody(_ctx: lightbulb.AutocompleteContext[Any]) -> bool:
    return True


class _Collector:
    """Stands in for a lightbulb client while a loader is read: takes commands, refuses what can't be gated."""

    _current_extension_being_loaded = None

    def __init__(self, plugin: str) -> None:
        self.commands: list[Command] = []
        self._plugin = plugin

    def register(self, command: Command, **_options: Any) -> Command:
        self.commands.append(command)
        return command

    @property
    def _error_handlers(self) -> dict[int, list[Any]]:
        raise PluginError("a loader holds an error handler; implement the hook handle_error", plugin=self._plugin)

    @property
    def _app(self) -> Any:
        raise PluginError("a loader holds a listener; use ctx.listen", plugin=self._plugin)

    @property
    def _tasks(self) -> Any:
        raise PluginError("a loader holds a task; use ctx.task", plugin=self._plugin)


class CommandRegistry:
    """Owns the commands of the core and of all plugins.

    Args:
        enabled: Whether a plugin's commands are to exist in a guild.
        completes: Asked before any completion of an option.

    Attributes:
        running: The plugins' commands that are at work.
    """

    def __init__(
        self,
        bot: hikari.GatewayBot,
        client: lightbulb.GatewayEnabledClient,
        enabled: Callable[[str, int], bool],
        completes: Allowed = _anybody,
    ) -> None:
        self._bot = bot
        self._client = client
        self._enabled = enabled
        self._completes = completes
        self.running = RunningCommands()
        self._owners: dict[str, list[Command]] = {}
        self._texts: dict[str, Texts] = {}
        self._guests: dict[str, dict[str, Command]] = {}
        """Plugin to the subgroups of ``/bot`` that are its."""
        self._guilds: set[int] = set()
        self._told: dict[int, str] = {}
        """Guild to what Discord was told last."""
        self.puts = 0
        """Requests that changed a guild's commands."""
        self._application: hikari.Application | None = None
        self._lock = asyncio.Lock()

    def names(self, owner: str) -> list[str]:
        return [command_name(command) for command in self._owners.get(owner, [])]

    async def collect(self, owner: str, loaders: Sequence[lightbulb.Loader]) -> list[Command]:
        """The commands inside some loaders.

        Raises:
            PluginError: A loader holds something else, a command's name is taken, or Discord would refuse it.
        """
        collector = _Collector(owner)
        for loader in loaders:
            await loader.add_to_client(collector)  # type: ignore[arg-type]
        taken = {name: other for other in self._owners if other != owner for name in self.names(other)}
        for command in collector.commands:
            name = command_name(command)
            if name == OWNERS_GROUP and name in taken:
                self._check_guests(owner, command)
            elif name in taken:
                raise PluginError(f"its command /{name} is already a command of {taken[name]}", plugin=owner)
            taken[name] = owner
            _tame_completion(command, self._completes)
            wrong = fault((await self._builder("", command)).build(self._bot.entity_factory))
            if wrong is not None:
                raise PluginError(f"Discord would refuse {wrong}", plugin=owner)
        if len(taken) > MOST:
            raise PluginError(f"with its commands there are {len(taken)}, and Discord takes {MOST}", plugin=owner)
        return collector.commands

    def add(self, owner: str, commands: Sequence[Command], texts: Texts | None = None) -> None:
        """Take an owner's commands, and the catalogues that translate their names and descriptions."""
        self.running.open(owner)
        present = self._for_owners(owner)
        guests = [] if present is None else [each for each in commands if command_name(each) == OWNERS_GROUP]
        self._owners[owner] = [each for each in commands if each not in guests]
        for guest in guests:
            self._guests.setdefault(owner, {}).update(guest.subcommands)
        if present is not None:
            present.update(self._guests.get(owner, {}))
        if texts is not None:
            self._texts[owner] = texts

    def _for_owners(self, besides: str) -> dict[str, Command] | None:
        """What is in ``/bot``, which is another's; None before it is there."""
        others = (each for owner, each in self._all() if owner != besides and command_name(each) == OWNERS_GROUP)
        return next((each.subcommands for each in others), None)

    def _all(self) -> list[tuple[str, Command]]:
        return [(owner, command) for owner, commands in self._owners.items() for command in commands]

    def _check_guests(self, owner: str, guest: Command) -> None:
        """What a plugin adds to ``/bot`` must be subgroups, under names of their own."""
        present = set(self._for_owners(owner) or ()) - set(self._guests.get(owner, ()))
        for name, inner in getattr(guest, "subcommands", {"itself": None}).items():
            if not hasattr(inner, "subcommands"):
                raise PluginError(f"only subgroups can be added to /{OWNERS_GROUP}, and {name} is none", plugin=owner)
            if name in present:
                raise PluginError(f"its command /{OWNERS_GROUP} {name} is there already", plugin=owner)
            present.add(name)
        if len(present) > MOST_INSIDE:
            raise PluginError(
                f"/{OWNERS_GROUP} would have {len(present)} parts, and Discord takes {MOST_INSIDE}", plugin=owner
            )

    def remove(self, owner: str) -> None:
        self._texts.pop(owner, None)
        guests, present = self._guests.pop(owner, {}), self._for_owners(owner) or {}
        for name in guests:
            present.pop(name, None)
        for command in self._owners.pop(owner, []):
            self._client.unregister(command)

    async def rebuild(self) -> None:
        """Make lightbulb dispatch exactly the commands that are enabled, guild by guild. No request is made."""
        for owner, commands in self._owners.items():
            guilds = [guild for guild in self._guilds if self._enabled(owner, guild)]
            for command in commands:
                self._client.unregister(command)
                self._client.register(command, guilds=guilds)
        await self._client.sync_application_commands()

    async def sync_guild(self, guild_id: int) -> None:
        """Tell Discord the commands of one guild, with one PUT.

        Raises:
            hikari.HikariError: Discord refused.
        """
        async with self._lock:
            self._guilds.add(guild_id)
            await self.rebuild()
            await self._put(guild_id, always=True)

    async def sync_all(self, guild_ids: Sequence[int]) -> None:
        """Tell Discord the commands of every guild; a guild that refuses is logged and does not stop the others."""
        async with self._lock:
            self._guilds.update(guild_ids)
            await self.rebuild()
            for guild_id in guild_ids:
                await self._put_or_log(guild_id, always=True)

    async def sync_known(self) -> None:
        """After the set of plugins changed: tell Discord in the guilds where that changed the commands."""
        async with self._lock:
            await self.rebuild()
            for guild_id in sorted(self._guilds):
                await self._put_or_log(guild_id, always=False)

    async def _put_or_log(self, guild_id: int, *, always: bool) -> None:
        try:
            await self._put(guild_id, always=always)
        except hikari.HikariError as error:
            _log.error("the commands of guild %d could not be set: %s", guild_id, error)

    async def _put(self, guild_id: int, *, always: bool) -> None:
        builders = [
            await self._builder(owner, command)
            for owner, commands in self._owners.items()
            if self._enabled(owner, guild_id)
            for command in commands
        ]
        said = repr(sorted(repr(builder.build(self._bot.entity_factory)) for builder in builders))
        if not always and self._told.get(guild_id) == said:
            return
        self._told.pop(guild_id, None)
        self.puts += 1
        application = await self.application()
        try:
            await self._bot.rest.set_application_commands(application, builders, guild=guild_id)
        except hikari.BadRequestError:
            # It refuses all for one. The core's own, which came first, must stay: with them this can be mended.
            core = len(next(iter(self._owners.values()), ()))
            if core < len(builders):
                await self._bot.rest.set_application_commands(application, builders[:core], guild=guild_id)
            raise
        self._told[guild_id] = said
        _log.debug("commands of guild %d: %d", guild_id, len(builders))

    async def _builder(self, owner: str, command: Command) -> hikari.api.CommandBuilder:
        builder: hikari.api.CommandBuilder = await command.as_command_builder(
            self._client.default_locale, self._client.localization_provider
        )
        if owner in self._texts:
            localise(builder, self._texts[owner])
        return builder

    async def application(self) -> hikari.Application:
        """The bot's application, asked for once."""
        if self._application is None:
            self._application = await self._bot.rest.fetch_application()
        return self._application

    async def remove_stale_globals(self) -> None:
        """Every command of ours belongs to a guild; a global one was left behind by something else."""
        application = await self.application()
        try:
            for command in await self._bot.rest.fetch_application_commands(application):
                _log.info("removing the global command /%s, which nobody here has", command.name)
                await self._bot.rest.delete_application_command(application, command)
        except hikari.HikariError as error:
            _log.error("the global commands could not be tidied: %s", error)

    def owner_of(self, path: str) -> str | None:
        """The owner of a command, by its whole path, such as ``voice join``."""
        name, *inner = path.split(" ")
        if name == OWNERS_GROUP and inner:
            guest = next((owner for owner, guests in self._guests.items() if inner[0] in guests), None)
            if guest is not None:
                return guest
        return next((owner for owner in self._owners if name in self.names(owner)), None)

    def paths(self) -> list[str]:
        """The paths of all slash commands and of the groups they are in, such as ``voice`` and ``voice join``."""
        found: list[str] = []
        for commands in self._owners.values():
            for command in commands:
                found += _paths(command, "")
        return sorted(found)

    def knows(self, guild_id: int) -> bool:
        """Whether the guild's commands were set in this run."""
        return guild_id in self._guilds

    def forget_guild(self, guild_id: int) -> None:
        self._guilds.discard(guild_id)
        self._told.pop(guild_id, None)
