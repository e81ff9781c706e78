"""``/config show | set | edit | reset``, made from the plugins' own settings, for those who manage a server.

Only settings that the plugin marked for servers (`roost.config.guild_setting`) are seen here, and no secret is shown.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import hikari
import lightbulb
from pydantic import BaseModel

from roost.commands.access import Access, add_access_commands, plain
from roost.deferral import defer_for, patiently
from roost.errors import ConfigError, RoostError
from roost.schema import Setting

if TYPE_CHECKING:
    from roost.commands.registry import CommandRegistry
    from roost.plugins import PluginHost

_log = logging.getLogger("roost.commands")

LIMIT = 1900
FORM = "roost:config:"
"""How the ``custom_id`` of our forms begins; what follows is known to whoever was shown the form."""
EDIT = "config edit"
"""The command that opens them."""
FIELDS = 5
"""Discord's limit for one form."""
OPEN_FORMS = 200
LABEL_CHARS = 45
INPUT_CHARS = 1000
HIDDEN = "(set, not shown)"
UNSET = "(not set)"

_PLUGIN = "Whose settings; `/plugins list` shows them"
_KEY = "Which one; `/config show` lists them"


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """A form that somebody was shown.

    Attributes:
        shown: Key to the text it was filled with.
        managed: Whether they managed the server then. Others may use the command because Discord's own page
            *Integrations* allows it, and Discord does not say whether it still does.
    """

    guild_id: int
    user_id: int
    plugin: str
    shown: Mapping[str, str]
    managed: bool


class Configure:
    """What the commands do."""

    def __init__(self, host: PluginHost, access: Access) -> None:
        self._host = host
        self._access = access
        self._forms: dict[str, Form] = {}

    @property
    def plugins(self) -> list[str]:
        return self._host.guild_config.configurable()

    def settings(self, plugin: str) -> list[Setting]:
        return self._host.guild_config.settings(plugin)

    def config(self, plugin: str, guild_id: int) -> BaseModel:
        """As the plugin itself gets it."""
        context = self._host.records[plugin].context
        assert context is not None
        return context.config_for(guild_id)

    def unknown(self, plugin: str) -> str | None:
        """What to say of a plugin in which nothing can be set; None for one in which something can."""
        if self.settings(plugin):
            return None
        known = ", ".join(self.plugins) or "none"
        if plugin in self._host.records:
            return (
                f"**{plain(plugin)}** has nothing that a server can set, or does not run. Plugins that have: {known}."
            )
        return f"There is no plugin called {plain(plugin)}. Plugins in which a server can set something: {known}."

    def show(self, plugin: str | None, guild_id: int) -> str:
        """The reply to ``/config show``."""
        if plugin is not None and (refusal := self.unknown(plugin)):
            return refusal
        names = [plugin] if plugin is not None else self.plugins
        if not names:
            return "No plugin has anything that a server can set."
        lines: list[str] = []
        for name in names:
            config = self.config(name, guild_id)
            own = self._host.guild_config.own(name, guild_id)
            lines.append(f"**{name}**")
            for each in self.settings(name):
                whose = "set here" if each.key in own else "the bot's"
                lines.append(f"- `{each.key}` = {code(shown(each, config))} ({whose}): {each.description}".rstrip(": "))
        return "\n".join(lines)

    async def change(self, plugin: str, guild_id: int, texts: Mapping[str, str], reset: tuple[str, ...] = ()) -> str:
        """Set and reset, and say what came of it."""
        if refusal := self.unknown(plugin):
            return refusal
        settings = {each.key: each for each in self.settings(plugin)}
        try:
            change = await self._host.guild_config.change(plugin, guild_id, texts, reset)
        except ConfigError as error:
            return "\n".join(["Nothing was changed:", *(f"- {code(str(each))}" for each in (error, *error.more))])
        lines = []
        for key in (*texts, *reset):
            now = code(shown(settings[key], change.new))
            lines.append(f"`{plugin}.{key}` is {now} here now" + (", as everywhere." if key in reset else "."))
        if not change.told:
            lines.append(f"But {plugin} failed to take that over while it runs; the owner of this bot can see why.")
        elif not self._host.switches.enabled(plugin, guild_id):
            lines.append(f"{plugin} is off in this server; that counts when it is enabled.")
        _log.info("guild %d: %s of %s changed", guild_id, ", ".join([*texts, *reset]), plugin, extra={"plugin": plugin})
        return "\n".join(lines)

    def form(
        self, plugin: str, guild_id: int, user_id: int, page: int, *, managed: bool
    ) -> tuple[str, list[Any]] | str:
        """A form's ``custom_id`` and its rows, or why there is none; for `managed` see `Form`."""
        if refusal := self.unknown(plugin):
            return refusal
        settings = self.settings(plugin)
        pages = -(-len(settings) // FIELDS)
        if not 1 <= page <= pages:
            return f"**{plugin}** has {pages} page{'s' if pages > 1 else ''} of settings, not {page}."
        config = self.config(plugin, guild_id)
        texts: dict[str, str] = {}
        rows: list[Any] = []
        for each in settings[(page - 1) * FIELDS : page * FIELDS]:
            text = "" if each.secret else each.text(config)
            if len(text) > INPUT_CHARS:
                continue  # too long for a form; /config set does it
            texts[each.key] = text
            row = hikari.impl.ModalActionRowBuilder()
            row.add_text_input(
                each.key,
                each.key[:LABEL_CHARS],
                placeholder=f"{each.description} ({each.expected})"[:100],
                value=text or hikari.UNDEFINED,
                required=False,
                max_length=INPUT_CHARS,
            )
            rows.append(row)
        key = secrets.token_urlsafe(16)
        while len(self._forms) >= OPEN_FORMS:
            del self._forms[next(iter(self._forms))]
        self._forms[key] = Form(guild_id, user_id, plugin, texts, managed)
        return FORM + key, rows

    async def on_interaction(self, event: hikari.InteractionCreateEvent) -> None:
        """A form comes back. Fields left as they were stay as they are; emptied ones become the bot's again."""
        interaction = event.interaction
        if not isinstance(interaction, hikari.ModalInteraction) or not interaction.custom_id.startswith(FORM):
            return
        form = self._forms.get(interaction.custom_id.removeprefix(FORM))
        if form is None or (form.guild_id, form.user_id) != (interaction.guild_id, interaction.user.id):
            await _respond(interaction, "This form is too old. Open it again with `/config edit`.")
            return
        del self._forms[interaction.custom_id.removeprefix(FORM)]
        if refusal := self._refusal(form, interaction):
            await _respond(interaction, refusal)
            return
        typed = {
            str(part.custom_id): str(part.value or "")
            for row in interaction.components
            for part in getattr(row, "components", ())
            if getattr(part, "custom_id", None) in form.shown
        }
        own = self._host.guild_config.own(form.plugin, form.guild_id)
        changed = {key: text.strip() for key, text in typed.items() if text.strip() != form.shown[key].strip()}
        texts = {key: text for key, text in changed.items() if text}
        reset = tuple(key for key, text in changed.items() if not text and key in own)
        if not texts and not reset:
            await _respond(interaction, "Nothing was changed.")
            return
        await interaction.create_initial_response(
            hikari.ResponseType.DEFERRED_MESSAGE_CREATE,
            flags=hikari.MessageFlag.EPHEMERAL,
            mentions_everyone=False,
            user_mentions=False,
            role_mentions=False,
        )
        try:
            answer = await patiently(interaction, self.change(form.plugin, form.guild_id, texts, reset))
        except RoostError as error:
            answer = f"That did not work. {error}"
        await interaction.edit_initial_response(
            answer[:LIMIT], mentions_everyone=False, user_mentions=False, role_mentions=False
        )

    def _refusal(self, form: Form, interaction: hikari.ModalInteraction) -> str | None:
        """Why a member may not send a form any more: they may have lost the right since it was opened."""
        member = interaction.member
        if member is None or (form.managed and not _manages(member)):
            return "Nothing was changed: you do not manage this server any more."
        return self._access.denial(EDIT, form.guild_id, member)


def _manages(member: hikari.InteractionMember | None) -> bool:
    managers = hikari.Permissions.MANAGE_GUILD | hikari.Permissions.ADMINISTRATOR
    return member is not None and bool(member.permissions & managers)


def shown(setting: Setting, config: BaseModel) -> str:
    """A value for people; a secret only as set or not."""
    if setting.secret:
        return HIDDEN if setting.of(config) else UNSET
    return setting.text(config)


def code(text: str) -> str:
    """As code, so that nothing in it is markup or a mention."""
    safe = text.replace("`", "´").replace("\n", " ")
    return f"`{safe[:500]}`" if safe not in ("", "[]", "{}") else "(empty)"


async def _respond(interaction: hikari.ModalInteraction, text: str) -> None:
    await interaction.create_initial_response(
        hikari.ResponseType.MESSAGE_CREATE,
        text[:LIMIT],
        flags=hikari.MessageFlag.EPHEMERAL,
        mentions_everyone=False,
        user_mentions=False,
        role_mentions=False,
    )


async def _reply(ctx: lightbulb.Context, text: str) -> None:
    shown_text = text if len(text) <= LIMIT else text[:LIMIT] + " …"
    await ctx.respond(shown_text, ephemeral=True, mentions_everyone=False, user_mentions=False, role_mentions=False)


def config_loader(configure: Configure, access: Access, registry: CommandRegistry) -> lightbulb.Loader:
    """``/config show | set | edit | reset | access``."""
    group = lightbulb.Group(
        "config",
        "How this bot behaves in this server",
        contexts=[hikari.ApplicationContextType.GUILD],
        default_member_permissions=hikari.Permissions.MANAGE_GUILD,
    )

    async def plugins(ctx: lightbulb.AutocompleteContext[str]) -> None:
        typed = str(ctx.focused.value or "").lower()
        await ctx.respond([name for name in configure.plugins if typed in name][:25])

    def chosen(ctx: lightbulb.AutocompleteContext[str], option: str) -> str:
        found = ctx.get_option(option)
        return str(found.value) if found is not None else ""

    async def keys(ctx: lightbulb.AutocompleteContext[str]) -> None:
        typed = str(ctx.focused.value or "").lower()
        known = [each.key for each in configure.settings(chosen(ctx, "plugin"))]
        await ctx.respond([key for key in known if typed in key][:25])

    async def values(ctx: lightbulb.AutocompleteContext[str]) -> None:
        typed = str(ctx.focused.value or "").lower()
        key = chosen(ctx, "key")
        setting = next((each for each in configure.settings(chosen(ctx, "plugin")) if each.key == key), None)
        found = [each for each in setting.choices if typed in each.lower()] if setting is not None else []
        await ctx.respond([each for each in found if 0 < len(each) <= 100][:25])

    @group.register
    class Show(lightbulb.SlashCommand, name="show", description="What is set in this server"):
        plugin = lightbulb.string("plugin", _PLUGIN, autocomplete=plugins, default=None)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _reply(ctx, configure.show(self.plugin, _guild(ctx)))

    @group.register
    class Set(lightbulb.SlashCommand, name="set", description="Set one value for this server"):
        plugin = lightbulb.string("plugin", _PLUGIN, autocomplete=plugins)
        key = lightbulb.string("key", _KEY, autocomplete=keys)
        value = lightbulb.string("value", "The new value; lists as a,b", autocomplete=values, max_length=INPUT_CHARS)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            change = partial(configure.change, self.plugin, _guild(ctx), {self.key: self.value})
            await _reply(ctx, await defer_for(ctx, change))

    @group.register
    class Reset(lightbulb.SlashCommand, name="reset", description="Take the bot's own value again"):
        plugin = lightbulb.string("plugin", _PLUGIN, autocomplete=plugins)
        key = lightbulb.string("key", _KEY + "; without: all of them", autocomplete=keys, default=None)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            keys = (self.key,) if self.key else tuple(each.key for each in configure.settings(self.plugin))
            change = partial(configure.change, self.plugin, _guild(ctx), {}, keys)
            await _reply(ctx, await defer_for(ctx, change))

    @group.register
    class Edit(lightbulb.SlashCommand, name="edit", description="Fill in a form, five settings on a page"):
        plugin = lightbulb.string("plugin", _PLUGIN, autocomplete=plugins)
        page = lightbulb.integer("page", "Which five, from 1", min_value=1, max_value=50, default=1)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            managed = _manages(ctx.member)
            form = configure.form(self.plugin, _guild(ctx), int(ctx.user.id), self.page, managed=managed)
            if isinstance(form, str):
                await _reply(ctx, form)
                return
            custom_id, rows = form
            await ctx.respond_with_modal(f"{self.plugin} in this server"[:45], custom_id, components=rows)

    add_access_commands(group, access, registry)
    loader = lightbulb.Loader()
    loader.command(group)
    return loader


def _guild(ctx: lightbulb.Context) -> int:
    assert ctx.guild_id is not None
    return int(ctx.guild_id)
