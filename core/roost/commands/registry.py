"""Which slash commands exist in which guild, and keeping Discord's copy the same.

lightbulb dispatches interactions; Discord is told with one bulk PUT per guild, which also removes whatever an earlier
run left behind, and only where something changed (`roost.commands.discord_copy`). lightbulb's own sync is off: it
overlooks guilds in which nothing is registered.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import hikari
import lightbulb

from roost.commands.discord_copy import DiscordCopy, Records
from roost.commands.running import RunningCommands
from roost.commands.shapes import MOST, MOST_INSIDE, fault
from roost.errors import PluginError, ResourceError
from roost.errortext import error_line
from roost.i18n import Texts, localise
from roost.scopes import Kept, Scope
from roost.strays import taming

_log = logging.getLogger("roost.commands")

ABREAST = 8
"""Guilds whose commands are sent at the same time."""
PACE_S = 0.5
"""Pause after each guild that changed: two requests each, so at most two thirds of Discord's 50 a second."""
LIMITED_S = 2.0
"""A guild that takes longer is limited (429): the others do not wait for it."""
MOST_LATE = 64
"""The most limited guilds that wait at the same time."""
COMPLETE_S = 2.0
"""How long the choices of an option may take; a completion cannot be deferred, and Discord waits 3 s."""
AGAIN_S = (3.0, 30.0, 120.0, 600.0)
"""Pauses before the commands of a guild are sent again for which Discord had no answer; the last one goes on."""
SETTLE_S = 5.0
"""How long a change of plugins waits until Discord has the commands."""
ABSENT = "/{name} is not available right now. Try again in a moment."
OWNERS_GROUP = "bot"
"""The core's command for the owners of the bot. Plugins add subgroups to it with a group of the same name."""
Command = Any
"""A `lightbulb.Group` or a subclass of `lightbulb.SlashCommand` and its kin."""
Allowed = Callable[[lightbulb.AutocompleteContext[Any]], Awaitable[bool]]
"""Whether the member who types an option is offered choices."""
ChoicesFailed = Callable[[lightbulb.AutocompleteContext[Any], Exception], object]
"""Counts what the choices of an option raised."""


def command_name(command: Command) -> str:
    return str(command.name if isinstance(command, lightbulb.Group) else command._command_data.name)


def _paths(command: Command, above: str) -> list[str]:
    if not hasattr(command, "subcommands"):
        return [f"{above}{command._command_data.name}"]
    name = f"{above}{command.name}"
    return [name, *(path for inner in command.subcommands.values() for path in _paths(inner, f"{name} "))]


def _tame(command: Command, allowed: Allowed, failed: ChoicesFailed) -> None:
    """Have completions of options ask whether they may answer, and what they and checks raise be an `Exception`.

    That is all that lightbulb catches.
    """
    if hasattr(command, "subcommands"):
        for inner in command.subcommands.values():
            _tame(inner, allowed, failed)
        return
    command._command_data.hooks = [_tamed_hook(each) for each in command._command_data.hooks]
    for option in command._command_data.options.values():
        complete = option.autocomplete_provider
        if complete is hikari.UNDEFINED:
            continue
        # The same command may have been another registry's before.
        complete = complete.complete if isinstance(complete, _Tamed) else complete
        option.autocomplete_provider = _Tamed(complete, allowed, failed)


def _tamed_hook(hook: lightbulb.ExecutionHook) -> lightbulb.ExecutionHook:
    """A check, cooldown or limit of a command, or what it runs afterwards."""
    if isinstance(hook.func, _TamedHook):
        return hook
    return dataclasses.replace(hook, func=_TamedHook(hook.func))


class _TamedHook:
    def __init__(self, func: Callable[..., Any]) -> None:
        self._func = func

    async def __call__(self, *arguments: Any) -> None:
        with taming():
            done = self._func(*arguments)
            if inspect.isawaitable(done):
                await done


class _Tamed:
    """A completion of options, for those who may run the command; where it fails there are no choices."""

    def __init__(self, complete: Any, allowed: Allowed, failed: ChoicesFailed) -> None:
        self.complete = complete
        self._allowed = allowed
        self._failed = failed

    async def __call__(self, ctx: lightbulb.AutocompleteContext[Any]) -> Any:
        try:
            async with asyncio.timeout(COMPLETE_S) as timer:
                if await self._allowed(ctx):
                    with taming():
                        return await self.complete(ctx)
        except Exception as error:  # noqa: BLE001 - counted
            answered = ctx.initial_response_sent.is_set()
            if timer.expired() and not answered:
                _log.info("/%s: the choices of an option took too long", ctx.command._command_data.qualified_name)
            else:
                self._failed(ctx, error)
            if answered:
                return None
        await ctx.respond([])
        return None


async def _anybody(_ctx: lightbulb.AutocompleteContext[Any]) -> bool:
    return True


def _log_choices(ctx: lightbulb.AutocompleteContext[Any], error: Exception) -> None:
    _log.error("/%s: the choices of an option failed: %s", ctx.command._command_data.qualified_name, error_line(error))


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
        choices_failed: Called with what a completion raised.
        records: Keep what Discord has over restarts; None keeps nothing.
        remove_foreign: Remove commands that this bot did not register.

    Attributes:
        running: The plugins' commands that are at work.
    """

    def __init__(
        self,
        bot: hikari.GatewayBot,
        client: lightbulb.GatewayEnabledClient,
        enabled: Callable[[str, int], bool],
        completes: Allowed = _anybody,
        choices_failed: ChoicesFailed = _log_choices,
        *,
        records: Records | None = None,
        remove_foreign: bool = False,
    ) -> None:
        self._bot = bot
        self._client = client
        self._enabled = enabled
        self._completes = completes
        self._choices_failed = choices_failed
        self.running = RunningCommands()
        self._owners: dict[str, list[Command]] = {}
        self._texts: dict[str, Texts] = {}
        self._guests: dict[str, dict[str, Command]] = {}
        """Plugin to the subgroups of ``/bot`` that are its."""
        self._last_owners: dict[str, str] = {}
        """Command to the plugin that has, or had, it last."""
        self._guilds: set[int] = set()
        self._in_place: set[int] = set()
        self._copy = DiscordCopy(bot, records, remove_foreign=remove_foreign)
        self._built: dict[tuple[str, ...], list[hikari.api.CommandBuilder]] = {}
        """Built commands by owners."""
        self._pending: dict[int, bool] = {}
        """Guilds to sync, and whether even if nothing changed."""
        self._syncing: Kept | None = None
        self._late: dict[int, asyncio.Task[bool | None]] = {}
        """Guilds for which Discord makes the bot wait. What changes in them meanwhile stays in `_pending`."""
        self._again: dict[int, Kept] = {}
        """Guilds that wait to be synced once more, because Discord had no answer."""
        self._unanswered: Counter[int] = Counter()
        """How often in a row Discord had no answer for a guild."""
        self._locks: dict[int, asyncio.Lock] = {}
        self._rebuilding = asyncio.Lock()
        self._scope = Scope("commands")

    @property
    def puts(self) -> int:
        """Requests that changed a guild's commands."""
        return self._copy.puts

    def names(self, owner: str) -> list[str]:
        return [command_name(command) for command in self._owners.get(owner, [])]

    def sizes(self) -> dict[str, int]:
        """How many commands each owner has; a server takes `MOST` of all together."""
        return {owner: len(commands) for owner, commands in self._owners.items()}

    async def collect(self, owner: str, loaders: Sequence[lightbulb.Loader], room: int | None = MOST) -> list[Command]:
        """The commands inside some loaders.

        Args:
            owner: Whose.
            loaders: Of lightbulb.
            room: How many commands all owners may have together; None for any number.

        Raises:
            PluginError: A loader holds something else, a command's name is taken, or Discord would refuse it.
        """
        collector = _Collector(owner)
        for loader in loaders:
            with taming():
                await loader.add_to_client(collector)  # type: ignore[arg-type]
        taken = {name: other for other in self._owners if other != owner for name in self.names(other)}
        for command in collector.commands:
            name = command_name(command)
            if name == OWNERS_GROUP and name in taken:
                self._check_guests(owner, command)
            elif name in taken:
                raise PluginError(f"its command /{name} is already a command of {taken[name]}", plugin=owner)
            taken[name] = owner
            _tame(command, self._completes, self._choices_failed)
            wrong = fault((await self._builder("", command)).build(self._bot.entity_factory))
            if wrong is not None:
                raise PluginError(f"Discord would refuse {wrong}", plugin=owner)
        if room is not None and len(taken) > room:
            by_size = Counter(taken.values()).most_common(3)
            most = ", ".join(f"{other} has {size}" for other, size in by_size)
            kept = f", {MOST - room} of them kept for required plugins" if room < MOST else ""
            raise PluginError(
                f"with its commands there are {len(taken)}, and Discord takes {MOST}{kept} ({most}); put commands into "
                "groups, or deny a plugin: plugins.deny",
                plugin=owner,
            )
        return collector.commands

    def add(self, owner: str, commands: Sequence[Command], texts: Texts | None = None) -> None:
        """Take an owner's commands, and the catalogues that translate their names and descriptions."""
        self.running.open(owner)
        self._built = {}
        present = self._for_owners(owner)
        guests = [] if present is None else [each for each in commands if command_name(each) == OWNERS_GROUP]
        self._owners[owner] = [each for each in commands if each not in guests]
        self._last_owners |= dict.fromkeys(map(command_name, self._owners[owner]), owner)
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
        self._built = {}
        self._texts.pop(owner, None)
        guests, present = self._guests.pop(owner, {}), self._for_owners(owner) or {}
        for name in guests:
            present.pop(name, None)
        for command in self._owners.pop(owner, []):
            self._client.unregister(command)

    async def rebuild(self) -> None:
        """Make lightbulb dispatch exactly the commands that are enabled, guild by guild. No request is made."""
        async with self._rebuilding:
            for owner, commands in self._owners.items():
                guilds = [guild for guild in self._guilds if self._enabled(owner, guild)]
                for command in commands:
                    self._client.unregister(command)
                    self._client.register(command, guilds=guilds)
            await self._client.sync_application_commands()

    async def sync_guild(self, guild_id: int) -> None:
        """Tell Discord the commands of one guild.

        Raises:
            hikari.HikariError: Discord refused.
        """
        self._guilds.add(guild_id)
        await self.rebuild()
        await self._put(guild_id, always=True)

    async def sync_all(self, guild_ids: Iterable[int]) -> None:
        """`sync_soon`, and wait until it is done."""
        self.sync_soon(guild_ids)
        await self.settled(None)

    async def sync_known(self) -> None:
        """After the set of plugins changed: tell Discord in the guilds where that changed the commands.

        What takes longer than `SETTLE_S` goes on by itself.
        """
        self.sync_soon(self._guilds)
        await self.rebuild()
        await self.settled(SETTLE_S)

    def sync_soon(self, guild_ids: Iterable[int], *, always: bool = False) -> None:
        """Start to sync the commands of guilds where they differ from what Discord has.

        A guild that refuses is logged; one for which Discord makes the bot wait holds up no other.

        Args:
            always: Sync even if nothing changed.
        """
        for guild_id in tuple(guild_ids):
            self._guilds.add(guild_id)
            self._pending[guild_id] = always or self._pending.get(guild_id, False)
        self._begin_sync()

    def _begin_sync(self) -> None:
        idle = self._syncing is None or self._syncing.done()
        if idle and not self._scope.closed and self._next_guilds():
            self._syncing = self._scope.keep(self._sync, "sync")

    def _next_guilds(self) -> list[int]:
        """Guilds that can be synced now."""
        return [guild_id for guild_id in self._pending if guild_id not in self._late]

    async def settled(self, timeout_s: float | None) -> bool:
        """Wait until nothing is left to sync, at most `timeout_s`; return whether nothing is left."""
        loop = asyncio.get_running_loop()
        until = None if timeout_s is None else loop.time() + timeout_s
        while working := self._working():
            left_s = None if until is None else until - loop.time()
            if left_s is not None and left_s <= 0:
                return False
            await asyncio.wait(working, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        return True

    def _working(self) -> set[asyncio.Task[Any]]:
        syncing = {self._syncing.task} if self._syncing is not None and not self._syncing.done() else set()
        return syncing | set(self._late.values())

    async def aclose(self) -> None:
        """Cancel what is still being synced."""
        await self._scope.aclose()

    async def _sync(self) -> None:
        loop = asyncio.get_running_loop()
        while self._next_guilds():
            began = loop.time()
            await self.rebuild()
            due = {guild_id: self._pending.pop(guild_id) for guild_id in self._next_guilds()}
            queue, size = deque(due.items()), len(due)
            outcomes: Counter[bool | None] = Counter()
            try:
                await asyncio.gather(*(self._tell(queue, outcomes) for _ in range(ABREAST)))
            except asyncio.CancelledError:
                # Perhaps a plugin has cancelled every task. A guild that was told already costs no request.
                self._put_back(due)
                raise
            _log.info(
                "commands are in place: %d guilds changed, %d unchanged, %d refused, %d limited, in %.1f s",
                outcomes[True],
                outcomes[False],
                outcomes[None],
                size - outcomes.total(),
                loop.time() - began,
                extra={"event": "commands", "changed": outcomes[True], "refused": outcomes[None]},
            )

    async def _tell(self, queue: deque[tuple[int, bool]], outcomes: Counter[bool | None]) -> None:
        """Work on the queue; a guild that takes long is left to itself, so that it holds up no other."""
        while queue:
            guild_id, always = queue.popleft()
            task = self._scope.spawn(self._put_or_log(guild_id, always=always), f"guild {guild_id}")
            done, _ = await asyncio.wait({task}, timeout=LIMITED_S)
            if not done:
                self._late[guild_id] = task
                task.add_done_callback(partial(self._caught_up, guild_id, always))
            elif task.cancelled():
                self._put_back({guild_id: always})
            else:
                outcomes[task.result()] += 1
                if queue and task.result() is not False:
                    await asyncio.sleep(PACE_S)
            while len(self._late) >= MOST_LATE:
                await asyncio.wait(self._late.values(), return_when=asyncio.FIRST_COMPLETED)

    def _caught_up(self, guild_id: int, always: bool, task: asyncio.Task[bool | None]) -> None:
        self._late.pop(guild_id, None)
        if task.cancelled():
            self._put_back({guild_id: always})
        self._begin_sync()

    def _put_back(self, due: Mapping[int, bool]) -> None:
        """Have guilds synced once more that something cancelled."""
        for guild_id, always in due.items():
            self._pending[guild_id] = always or self._pending.get(guild_id, False)

    async def _put_or_log(self, guild_id: int, *, always: bool) -> bool | None:
        """Whether the guild changed; None if Discord refused, or had no answer, for which it is asked again."""
        try:
            changed = await self._put(guild_id, always=always)
        except hikari.ClientHTTPResponseError as error:
            _log.error("the commands of guild %d could not be set: %s", guild_id, error)
            return None
        except (hikari.HikariError, ResourceError, OSError) as error:
            _log.error("the commands of guild %d could not be set: %s", guild_id, error)
        except Exception as error:  # noqa: BLE001 - an answer of another shape raises anything; the other guilds go on
            _log.error(
                "the commands of guild %d could not be set: Discord's answer cannot be read (%s)",
                guild_id,
                type(error).__name__,
            )
        else:
            self._unanswered.pop(guild_id, None)
            return changed
        self._ask_again(guild_id, always=always)
        return None

    def _ask_again(self, guild_id: int, *, always: bool) -> None:
        """Sync a guild once more after a pause, which grows with each time."""
        waiting = self._again.get(guild_id)
        if waiting is not None and not waiting.done():
            return
        pause_s = AGAIN_S[min(self._unanswered[guild_id], len(AGAIN_S) - 1)]
        self._unanswered[guild_id] += 1
        self._again[guild_id] = self._scope.keep(partial(self._sync_later, guild_id, pause_s, always=always), "again")

    async def _sync_later(self, guild_id: int, pause_s: float, *, always: bool) -> None:
        await asyncio.sleep(pause_s)
        del self._again[guild_id]
        if guild_id in self._guilds:
            self.sync_soon([guild_id], always=always)

    async def _put(self, guild_id: int, *, always: bool) -> bool:
        async with self._locks.setdefault(guild_id, asyncio.Lock()):
            owners = tuple(owner for owner in self._owners if self._enabled(owner, guild_id))
            builders = await self._builders(owners)
            core = len(next(iter(self._owners.values()), ()))
            guild = self._bot.cache.get_guild(guild_id)
            mark = str(guild.joined_at) if guild is not None else ""
            changed = await self._copy.put(guild_id, builders, core=core, mark=mark, always=always)
            self._in_place.add(guild_id)
            _log.debug("commands of guild %d: %d", guild_id, len(builders))
            return changed

    async def _builders(self, owners: tuple[str, ...]) -> list[hikari.api.CommandBuilder]:
        """The commands of some owners, made once for all guilds that have the same."""
        made_before = self._built
        built = made_before.get(owners)
        if built is None:
            built = [await self._builder(owner, command) for owner in owners for command in self._owners.get(owner, ())]
            made_before[owners] = built
        return built

    async def _builder(self, owner: str, command: Command) -> hikari.api.CommandBuilder:
        builder: hikari.api.CommandBuilder = await command.as_command_builder(
            self._client.default_locale, self._client.localization_provider
        )
        if owner in self._texts:
            localise(builder, self._texts[owner])
        return builder

    async def on_interaction(self, event: hikari.InteractionCreateEvent) -> None:
        """Answer commands of this bot that lightbulb drops, for example while their plugin is being loaded."""
        interaction = event.interaction
        if not isinstance(interaction, hikari.CommandInteraction) or self._dispatches(interaction):
            return
        guild_id = interaction.registered_guild_id
        if guild_id is None or not self._copy.is_own(int(guild_id), int(interaction.command_id)):
            return
        name = interaction.command_name
        text = self.running.why_not(self._last_owners.get(name, "")) or ABSENT.format(name=name)
        _log.info("guild %d: /%s was answered with: %s", guild_id, name, text)
        try:
            await interaction.create_initial_response(
                hikari.ResponseType.MESSAGE_CREATE,
                text,
                flags=hikari.MessageFlag.EPHEMERAL,
                mentions_everyone=False,
                user_mentions=False,
                role_mentions=False,
            )
        except hikari.HikariError as error:
            _log.info("guild %d: the answer to /%s was refused: %s", guild_id, name, type(error).__name__)

    def _dispatches(self, interaction: hikari.CommandInteraction) -> bool:
        return bool(self._client._started) and self._client._resolve_options_and_command(interaction) is not None

    async def application(self) -> hikari.Application:
        """The bot's application, asked for once."""
        return await self._copy.application()

    async def tidy_globals(self) -> None:
        """Report global commands, or remove them with `remove_foreign`: this bot's commands all belong to guilds."""
        try:
            await self._copy.tidy_globals()
        except (hikari.HikariError, OSError) as error:
            _log.error("the global commands could not be tidied: %s", error)
        except Exception as error:  # noqa: BLE001 - an answer of another shape raises anything
            _log.error(
                "the global commands could not be tidied: Discord's answer cannot be read (%s)", type(error).__name__
            )

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
        """Whether Discord has the guild's commands as of this run."""
        return guild_id in self._in_place

    async def forget_guild(self, guild_id: int) -> None:
        """The bot left a guild."""
        self._guilds.discard(guild_id)
        self._in_place.discard(guild_id)
        self._pending.pop(guild_id, None)
        self._locks.pop(guild_id, None)
        self._unanswered.pop(guild_id, None)
        await self._copy.forget(guild_id)
