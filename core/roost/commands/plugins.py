"""``/plugins`` for server admins and ``/bot`` for the bot's owners."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import hikari
import lightbulb

from roost.commands.registry import OWNERS_GROUP
from roost.deferral import defer_for
from roost.errors import RoostError
from roost.hooks import NO_VERSION
from roost.logs import redact
from roost.plugins import State
from roost.plugins.guards import HOOKS as GUARD_HOOKS
from roost.plugins.records import FailureKind

if TYPE_CHECKING:
    from roost.plugins import PluginHost, PluginRecord

_log = logging.getLogger("roost.commands")

CORE = "core"
CORE_STAYS = "The core cannot be switched off: it is what switches plugins on and off."
LIMIT = 1900
"""Characters of a reply; Discord takes 2000."""

STATE_WORDS = {
    State.UNAVAILABLE: "something that it needs is not installed",
    State.INCOMPATIBLE: "it was written for another version of Roost",
    State.DISABLED: "the configuration of this bot leaves it out",
    State.FAILED: "it could not be loaded",
    State.LEAKED: "it was unloaded and left something behind",
    State.UNLOADED: "the owner of this bot unloaded it",
}
"""Why a plugin is in a state, for those who may not see more."""
REFUSES = (
    "It decides whether some things may happen, and until it works again they are refused here. `/plugins disable` "
    "ends that in this server."
)
REFUSES_AT_TIMES = (
    "It decides whether some things may happen, and when it fails they are refused here. `/plugins disable` ends that "
    "in this server."
)
KIND_WORDS = {
    FailureKind.RAISED: "it ran into an error",
    FailureKind.TIMED_OUT: "it took too long",
    FailureKind.BLOCKED: "it kept the whole bot waiting",
    FailureKind.OVER_BUDGET: "it took too long over what it hears",
}

_GUILD_ONLY = [hikari.ApplicationContextType.GUILD]
_NAME = "Its name; `/plugins list` shows them"


async def _reply(ctx: lightbulb.Context, text: str) -> None:
    shown = text if len(text) <= LIMIT else text[:LIMIT] + " …"
    await ctx.respond(shown, ephemeral=True, mentions_everyone=False, user_mentions=False, role_mentions=False)


async def _answer(ctx: lightbulb.Context, work: Callable[[], Awaitable[str]]) -> None:
    """Do something that may take a while, and say what came of it in its own words or its error's."""
    try:
        text = await defer_for(ctx, work)
    except RoostError as error:
        text = redact(f"That did not work. {error}")
    except hikari.HikariError as error:
        text = redact(f"It is done, but Discord did not take the commands: {error}")
    await _reply(ctx, text)


def here(host: PluginHost, name: str, guild_id: int) -> str:
    """On or off in a guild, and why, in a few words."""
    record = host.records[name]
    if record.state is State.QUARANTINED:
        return "quarantined"
    if record.state is not State.LOADED:
        return str(record.state.value)
    blocker = host.switches.blocked_by(name, guild_id)
    if blocker is None:
        if host.pauses.of(name, guild_id) is not None:
            return "paused, because it failed too often here"
        failed = host.last_failures.of(name, guild_id)
        return "on" if failed is None else f"on, but failed <t:{int(failed.at)}:R>"
    return "off" if blocker == name else f"off, because it needs {blocker}, which is off"


def listing(host: PluginHost, guild_id: int) -> str:
    """The reply to ``/plugins list``."""
    lines = []
    for row in host.table():
        what = here(host, str(row["name"]), guild_id)
        lines.append(f"{_title(row)}: {what}")
    return "\n".join(lines) or "There are no plugins."


def _title(row: Mapping[str, object]) -> str:
    """Name and version; a file in the plugins folder need not have one."""
    version = "" if row["version"] == NO_VERSION else f" {row['version']}"
    return f"**{row['name']}**{version}"


def details(host: PluginHost, name: str, guild_id: int) -> str:
    """The reply to ``/plugins info``."""
    row = next((row for row in host.table() if row["name"] == name), None)
    if row is None:
        return unknown(host, name)
    record = host.records[name]
    lines = [f"{_title(row)} from {row['source']}: {here(host, name, guild_id)}"]
    if record.meta is not None and record.meta.description:
        lines.append(record.meta.description)
    if host.requires(name):
        lines.append(f"Needs: {', '.join(host.requires(name))}")
    commands = host.command_names(name)
    if commands:
        lines.append("Commands: " + ", ".join(f"/{command}" for command in commands))
    if row["hooks"]:
        lines.append(f"Hooks: {', '.join(row['hooks'])}")
    return "\n".join(lines)


def why(host: PluginHost, name: str, guild_id: int, *, owner: bool = False) -> str:
    """The reply to ``/plugins why``.

    Args:
        owner: The reader owns the bot, and may see the details.
    """
    text = reasons(host, name, guild_id, owner=owner)
    return f"{text}\n{REFUSES}" if host.guards.refuses(name, guild_id) else text


def reasons(host: PluginHost, name: str, guild_id: int, *, owner: bool = False) -> str:
    """Why a plugin is in its state, for `why` and for the reply to ``/plugins enable``."""
    record = host.records.get(name)
    if record is None:
        return unknown(host, name)
    if record.state is not State.LOADED:
        said = f"**{name}** is {record.state.value} in the whole bot"
        if record.failure is not None:
            said += f": it failed too often, the last time because {KIND_WORDS[record.failure.kind]}"
        elif record.state in STATE_WORDS:
            said += f": {STATE_WORDS[record.state]}"
        return said + _for_owners(record.failure_id, record.detail, owner=owner)
    pause = host.pauses.of(name, guild_id)
    if pause is not None and host.switches.enabled(name, guild_id):
        whose = "it" if pause.plugin == name else f"{pause.plugin}, which it needs,"
        said = (
            f"**{name}** is paused here because {whose} failed too often in this server, the last time because "
            f"{KIND_WORDS[pause.failure.kind]}. I try again <t:{int(pause.until)}:R>"
        )
        return said + _for_owners(pause.failure.id, f"{pause.failure.source}: {pause.failure.detail}", owner=owner)
    blocker = host.switches.blocked_by(name, guild_id)
    if blocker is None:
        return _working(host, name, guild_id, owner=owner)
    if blocker == name:
        return (
            f"**{name}** is off here: somebody who manages this server switched it off. `/plugins enable` undoes that."
        )
    return f"**{name}** is off here because it needs {blocker}, which is off here. Enable that first."


def _working(host: PluginHost, name: str, guild_id: int, *, owner: bool) -> str:
    """What there is to say about a plugin that is called in a guild."""
    failed = host.last_failures.of(name, guild_id)
    if failed is None:
        return f"**{name}** is on here: it is loaded, and nobody switched it or anything it needs off."
    place = "this server" if failed.place is not None else "work for the whole bot"
    said = f"**{name}** is on here, but failed in {place} <t:{int(failed.at)}:R>, because {KIND_WORDS[failed.kind]}"
    more = f", in {failed.source}" if owner else ""
    text = f"{said}{more}. The owner of this bot can find the details in its log."
    return f"{text}\n{REFUSES_AT_TIMES}" if failed.source in GUARD_HOOKS else text


def _for_owners(failure_id: str, detail: str, *, owner: bool) -> str:
    """How the owner of the bot finds out more, or what there is to know."""
    if not detail:
        return "."
    if owner:
        return f" (failure {failure_id}): {redact(detail)}" if failure_id else f": {redact(detail)}"
    return f". The owner of this bot can find the details in its log (failure {failure_id})." if failure_id else "."


def unknown(host: PluginHost, name: str) -> str:
    return f"There is no plugin called {name}. There is: {', '.join(sorted(host.records)) or 'none'}."


async def switch(host: PluginHost, name: str, guild_id: int, enabled: bool) -> str:
    """Enable or disable, and say what that did."""
    if name == CORE:
        return CORE_STAYS
    if name not in host.records:
        return unknown(host, name)
    if host.switches.switched_on(name, guild_id) == enabled:
        return f"**{name}** is already {'enabled' if enabled else 'disabled'} here."
    changed = await host.switches.switch(name, guild_id, enabled)
    also = [other for other in changed if other != name]
    text = f"**{name}** is now {'enabled' if enabled else 'disabled'} here."
    if also:
        text += (
            f" So {'is' if len(also) == 1 else 'are'} {', '.join(also)}, which need{'s' if len(also) == 1 else ''} it."
        )
    if enabled and name not in changed:
        text += " " + reasons(host, name, guild_id)
    return text


def _suggest(host: PluginHost) -> Callable[[lightbulb.AutocompleteContext[str]], Awaitable[None]]:
    async def names(ctx: lightbulb.AutocompleteContext[str]) -> None:
        typed = str(ctx.focused.value or "").lower()
        await ctx.respond([name for name in sorted(host.records) if typed in name][:25])

    return names


def plugins_loader(host: PluginHost, owns: Callable[[int], Awaitable[bool]]) -> lightbulb.Loader:
    """``/plugins list | info | enable | disable | why``, for those who may manage the server.

    Args:
        owns: Whether a user owns the bot.
    """
    group = lightbulb.Group(
        "plugins",
        "Switch parts of this bot on and off in this server",
        contexts=_GUILD_ONLY,
        default_member_permissions=hikari.Permissions.MANAGE_GUILD,
    )
    suggest = _suggest(host)

    @group.register
    class List(lightbulb.SlashCommand, name="list", description="All plugins and whether they are on here"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _reply(ctx, listing(host, _guild(ctx)))

    @group.register
    class Info(lightbulb.SlashCommand, name="info", description="What a plugin is and does"):
        plugin = lightbulb.string("plugin", _NAME, autocomplete=suggest)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _reply(ctx, details(host, self.plugin, _guild(ctx)))

    @group.register
    class Why(lightbulb.SlashCommand, name="why", description="Why a plugin is on or off here"):
        plugin = lightbulb.string("plugin", _NAME, autocomplete=suggest)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await ctx.defer(ephemeral=True)  # Discord says who owns the bot
            owner = await owns(int(ctx.user.id))
            await _reply(ctx, why(host, self.plugin, _guild(ctx), owner=owner))

    @group.register
    class Enable(lightbulb.SlashCommand, name="enable", description="Switch a plugin on in this server"):
        plugin = lightbulb.string("plugin", _NAME, autocomplete=suggest)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _answer(ctx, partial(switch, host, self.plugin, _guild(ctx), True))

    @group.register
    class Disable(lightbulb.SlashCommand, name="disable", description="Switch a plugin off in this server"):
        plugin = lightbulb.string("plugin", _NAME, autocomplete=suggest)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _answer(ctx, partial(switch, host, self.plugin, _guild(ctx), False))

    loader = lightbulb.Loader()
    loader.command(group)
    return loader


def _guild(ctx: lightbulb.Context) -> int:
    assert ctx.guild_id is not None
    return int(ctx.guild_id)


def report(rows: Sequence[dict[str, object]]) -> str:
    """The reply to ``/bot plugins check``."""
    return "\n".join(
        f"**{row['name']}** {row['version']} ({row['source']}): {row['state']}"
        + (f": {redact(str(row['detail']))}" if row["detail"] else "")
        for row in rows
    )


def bot_loader(host: PluginHost, request_stop: Callable[[str], None]) -> lightbulb.Loader:
    """``/bot plugins ... | shutdown``, for the owners of the application alone.

    Discord hides it from everybody but administrators, which is the most it can do; `CommandFailures` refuses it to
    whoever does not own the bot. Plugins can add subgroups.
    """
    group = lightbulb.Group(
        OWNERS_GROUP,
        "For the owners of this bot",
        contexts=_GUILD_ONLY,
        default_member_permissions=hikari.Permissions.ADMINISTRATOR,
    )
    plugins = group.subgroup("plugins", "Load and unload plugins in the whole bot")
    suggest = _suggest(host)

    @plugins.register
    class Load(lightbulb.SlashCommand, name="load", description="Load a plugin"):
        plugin = lightbulb.string("plugin", _NAME, autocomplete=suggest)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            async def work() -> str:
                return _loaded(await host.load(self.plugin))

            await _answer(ctx, work)

    @plugins.register
    class Unload(lightbulb.SlashCommand, name="unload", description="Unload a plugin and what needs it"):
        plugin = lightbulb.string("plugin", _NAME, autocomplete=suggest)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            async def work() -> str:
                gone = await host.unload(self.plugin, "disable")
                if not gone:
                    return f"**{self.plugin}** is not loaded."
                return "\n".join(_unloaded(host.records[name]) for name in gone)

            await _answer(ctx, work)

    @plugins.register
    class Reload(lightbulb.SlashCommand, name="reload", description="Put a plugin's code of now in place"):
        plugin = lightbulb.string("plugin", _NAME, autocomplete=suggest)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            async def work() -> str:
                return _loaded(await host.reload(self.plugin))

            await _answer(ctx, work)

    @plugins.register
    class Unquarantine(lightbulb.SlashCommand, name="unquarantine", description="Call a quarantined plugin again"):
        plugin = lightbulb.string("plugin", _NAME, autocomplete=suggest)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            async def work() -> str:
                return f"**{(await host.unquarantine(self.plugin)).name}** is called again."

            await _answer(ctx, work)

    @plugins.register
    class Check(lightbulb.SlashCommand, name="check", description="Look for plugins and say which would load"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            async def work() -> str:
                return report(await host.check())

            await _answer(ctx, work)

    @group.register
    class Shutdown(lightbulb.SlashCommand, name="shutdown", description="Stop this bot"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _reply(ctx, "Going down.")
            request_stop(f"/bot shutdown by user {ctx.user.id}")

    loader = lightbulb.Loader()
    loader.command(group)
    return loader


def _loaded(record: PluginRecord) -> str:
    version = record.meta.version if record.meta else record.version
    return f"**{record.name}** {version} is loaded." + (f" Mind: {record.detail}" if record.detail else "")


def _unloaded(record: PluginRecord) -> str:
    if record.state is State.LEAKED:
        return f"**{record.name}** is unloaded but left something behind: {record.detail}"
    return f"**{record.name}** is unloaded, and nothing of it is left."
