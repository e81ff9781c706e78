"""A server's rules about who may use which command: kept, enforced, and ``/config access``.

The decision itself is in `roost.access`. Rules are asked before any command runs; a denial names the rule and the role.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import hikari
import lightbulb

from roost.access import ALWAYS, EVERYTHING, ROLE, USER, Rule, decide
from roost.deferral import defer_for

if TYPE_CHECKING:
    from roost.commands.registry import CommandRegistry
    from roost.store import Store

_log = logging.getLogger("roost.commands")

MOST_RULES = 200
"""Of one server."""
EVERYBODYS = "/{path} belongs to every member: nobody can be kept from it."
LIMIT = 1900
RESCUE = "config"
"""The command that administrators can always use: a rule must not lock everybody out."""

_ACTION_CHOICES = [lightbulb.Choice("allow", "allow"), lightbulb.Choice("deny", "deny")]


class Access:
    """All servers' rules, held in memory."""

    def __init__(self, store: Store, bot: hikari.GatewayBot, rules: dict[int, list[Rule]]) -> None:
        self._store = store
        self._bot = bot
        self._rules = rules

    @classmethod
    async def load(cls, store: Store, bot: hikari.GatewayBot) -> Access:
        return cls(store, bot, await store.access_rules())

    def rules(self, guild_id: int) -> list[Rule]:
        """Of a server, in the order in which they are listed."""
        return sorted(self._rules.get(guild_id, []), key=lambda rule: (rule.path, rule.kind, rule.subject_id))

    def about(self, user_id: int) -> list[tuple[int, Rule]]:
        """Every server's rules about one user."""
        return [
            (guild_id, rule)
            for guild_id in sorted(self._rules)
            for rule in self.rules(guild_id)
            if rule.kind == USER and rule.subject_id == user_id
        ]

    async def add(self, guild_id: int, rule: Rule) -> None:
        """Add a rule in place of one about the same command and subject; durable when it returns."""
        await self._store.set_access_rule(guild_id, rule)
        self._rules[guild_id] = [*self._without(guild_id, rule), rule]

    async def remove(self, guild_id: int, rule: Rule) -> bool:
        """Remove the rule about that command and subject, whatever it says; whether there was one."""
        rest = self._without(guild_id, rule)
        await self._store.remove_access_rule(guild_id, rule)
        found = len(rest) < len(self._rules.get(guild_id, []))
        self._rules[guild_id] = rest
        return found

    def _without(self, guild_id: int, rule: Rule) -> list[Rule]:
        about = (rule.path, rule.kind, rule.subject_id)
        return [each for each in self._rules.get(guild_id, []) if (each.path, each.kind, each.subject_id) != about]

    def denial(self, command: str, guild_id: int, member: hikari.InteractionMember) -> str | None:
        """Why a member may not use a command, for that member; None when they may."""
        rules = self._rules.get(guild_id)
        if not rules:
            return None
        rule = decide(rules, command, int(member.id), self._ranked(guild_id, member.role_ids))
        if rule is None or rule.allowed:
            return None
        if command.split(" ", maxsplit=1)[0] == RESCUE and member.permissions & hikari.Permissions.ADMINISTRATOR:
            return None
        whose = f"your role {self.subject(guild_id, rule)}" if rule.kind == ROLE else "you yourself"
        return (
            f"You may not use /{command} here. The rule “{self.named(guild_id, rule)}” decides, and it is about "
            f"{whose}. Whoever manages this server can change that with `/config access`."
        )

    def _ranked(self, guild_id: int, role_ids: Sequence[hikari.Snowflake]) -> list[int]:
        """A member's roles, the highest first, @everyone last. Of equals the older is the higher, as Discord has it."""

        def place(role_id: int) -> tuple[int, int]:
            role = self._bot.cache.get_role(role_id)
            return (-role.position if role is not None else 0, role_id)

        mine = {int(role_id) for role_id in role_ids} - {guild_id}
        return [*sorted(mine, key=place), guild_id]

    def subject(self, guild_id: int, rule: Rule) -> str:
        """The name of whom a rule is about."""
        if rule.kind == USER:
            member = self._bot.cache.get_member(guild_id, rule.subject_id)
            return plain(member.display_name) if member is not None else f"<@{rule.subject_id}>"
        if rule.subject_id == guild_id:
            return "everyone"
        role = self._bot.cache.get_role(rule.subject_id)
        return plain(role.name) if role is not None else f"{rule.subject_id} (deleted)"

    def named(self, guild_id: int, rule: Rule) -> str:
        return rule.named(self.subject(guild_id, rule))


def plain(text: str) -> str:
    """A name as it is, whatever of Discord's markup is in it."""
    return "".join(f"\\{char}" if char in "\\*_~`|[<" else char for char in text).replace("\n", " ")


async def _reply(ctx: lightbulb.Context, text: str) -> None:
    shown = text if len(text) <= LIMIT else text[:LIMIT] + " …"
    await ctx.respond(shown, ephemeral=True, mentions_everyone=False, user_mentions=False, role_mentions=False)


def rule_of(guild_id: int, path: str, subject: hikari.Role | hikari.User | int, allowed: bool, roles: set[int]) -> Rule:
    """The rule that somebody typed.

    Args:
        guild_id: Where.
        path: As typed, the slash included or not.
        subject: A role or a user, by id.
        allowed: What the rule says.
        roles: Ids that came as roles.
    """
    number = int(subject)
    kind = ROLE if number in roles or number == guild_id else USER
    return Rule(" ".join(path.lower().lstrip("/").split()), kind, number, allowed)


def add_access_commands(group: lightbulb.Group, access: Access, registry: CommandRegistry) -> None:
    """Put ``access add | remove | list`` into the group ``/config``."""
    sub = group.subgroup("access", "Who may use which command in this server")

    async def paths(ctx: lightbulb.AutocompleteContext[str]) -> None:
        typed = str(ctx.focused.value or "").lower().lstrip("/")
        known = [EVERYTHING, *registry.paths()]
        await ctx.respond([path for path in known if typed in path and path.split(" ")[0] not in ALWAYS][:25])

    def typed_rule(ctx: lightbulb.Context, path: str, subject: int, allowed: bool) -> Rule:
        resolved = ctx.interaction.resolved
        roles = {int(role) for role in resolved.roles} if resolved is not None else set()
        assert ctx.guild_id is not None
        return rule_of(int(ctx.guild_id), path, subject, allowed, roles)

    async def add(guild_id: int, rule: Rule) -> str:
        if rule.path.split(" ")[0] in ALWAYS:
            return EVERYBODYS.format(path=rule.path)
        if rule.path not in (EVERYTHING, *registry.paths()):
            return f"There is no command /{plain(rule.path)}. `/plugins info` lists a plugin's commands."
        if len(access.rules(guild_id)) >= MOST_RULES:
            return f"This server has {MOST_RULES} rules already. Rules about roles need fewer."
        await access.add(guild_id, rule)
        return f"The rule “{access.named(guild_id, rule)}” counts from now on."

    async def remove(guild_id: int, rule: Rule) -> str:
        if rule.path.split(" ")[0] in ALWAYS:
            return EVERYBODYS.format(path=rule.path)
        known = next((each for each in access.rules(guild_id) if each in (rule, _opposite(rule))), None)
        if known is None or not await access.remove(guild_id, known):
            return "There is no such rule; `/config access list` shows them."
        return f"The rule “{access.named(guild_id, known)}” is gone."

    @sub.register
    class Add(lightbulb.SlashCommand, name="add", description="Allow or deny a command to a role or a member"):
        command = lightbulb.string("command", "Such as `voice join`, `voice` or `*`", autocomplete=paths)
        action = lightbulb.string("action", "What the rule says", choices=_ACTION_CHOICES)
        who = lightbulb.mentionable("who", "A role or a member")

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            assert ctx.guild_id is not None
            guild_id = int(ctx.guild_id)
            rule = typed_rule(ctx, self.command, int(self.who), self.action == "allow")
            await _reply(ctx, await defer_for(ctx, partial(add, guild_id, rule)))

    @sub.register
    class Remove(lightbulb.SlashCommand, name="remove", description="Remove a rule"):
        command = lightbulb.string("command", "Of the rule", autocomplete=paths)
        who = lightbulb.mentionable("who", "A role or a member")

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            assert ctx.guild_id is not None
            guild_id = int(ctx.guild_id)
            rule = typed_rule(ctx, self.command, int(self.who), True)
            await _reply(ctx, await defer_for(ctx, partial(remove, guild_id, rule)))

    @sub.register
    class List(lightbulb.SlashCommand, name="list", description="All rules of this server"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            assert ctx.guild_id is not None
            rules = access.rules(int(ctx.guild_id))
            if not rules:
                await _reply(ctx, "There are no rules: Discord's own permissions of each command decide.")
                return
            lines = [f"- {access.named(int(ctx.guild_id), rule)}" for rule in rules]
            await _reply(ctx, "\n".join(lines))


def _opposite(rule: Rule) -> Rule:
    return Rule(rule.path, rule.kind, rule.subject_id, not rule.allowed)
