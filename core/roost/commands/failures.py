"""The check before every slash command, and the handler of its failures.

The server's rules and the hook ``command_check`` may refuse a command. A failure counts against the command's plugin.
Members who may not run a command are not offered choices for its options either.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import hikari
import lightbulb

from roost.blocking import working
from roost.commands import refusals
from roost.commands.registry import OWNERS_GROUP
from roost.commands.running import DeniedError, EndedError, answer, is_answered
from roost.dispatch import log_failure
from roost.errortext import is_error
from roost.hooks import Deny
from roost.places import Place, current, place_of
from roost.plugins import State
from roost.plugins.blame import EXCUSES, Blame, blame
from roost.strays import taming
from roost.unreadable import is_unread_reply

if TYPE_CHECKING:
    from roost.commands.access import Access
    from roost.commands.registry import CommandRegistry
    from roost.commands.running import RunningCommands
    from roost.plugins import PluginHost

_log = logging.getLogger("roost.commands")

CORE = "core"
OWNERS_S = 2.0
"""How long Discord may take to say who owns the bot, before a command has its first answer."""
OWNERS_UNKNOWN = "Discord takes too long to say who owns this bot. Try again in a moment."


def owners_of(application: hikari.Application) -> frozenset[int]:
    """The owner of an application, or the members of the team that owns it."""
    if application.team is not None:
        return frozenset(int(user_id) for user_id in application.team.members)
    return frozenset({int(application.owner.id)})


class TypingContext:
    """Stands in for a command's context in ``command_check`` while a member types an option of the command.

    It has what an `lightbulb.AutocompleteContext` has, and who types where. What is said through it reaches nobody,
    because a member who types is shown nothing but choices.
    """

    def __init__(self, ctx: lightbulb.AutocompleteContext[Any]) -> None:
        self._ctx = ctx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    @property
    def guild_id(self) -> hikari.Snowflake | None:
        return self._ctx.interaction.guild_id

    @property
    def channel_id(self) -> hikari.Snowflake:
        return self._ctx.interaction.channel_id

    @property
    def user(self) -> hikari.User:
        return self._ctx.interaction.user

    @property
    def member(self) -> hikari.InteractionMember | None:
        return self._ctx.interaction.member

    @property
    def command_data(self) -> lightbulb.CommandData:
        return self._ctx.command._command_data

    async def respond(self, *_content: Any, **_options: Any) -> None:
        """Do nothing."""

    defer = edit_response = delete_response = fetch_response = respond_with_modal = respond


class CommandFailures:
    """The client-wide check and error handler.

    Attributes:
        check: A lightbulb hook.
        registry: Knows whose command is whose; set when it exists.
    """

    def __init__(self, host: PluginHost, access: Access) -> None:
        self._host = host
        self._access = access
        self.registry: CommandRegistry | None = None
        self.check = lightbulb.hook(lightbulb.ExecutionSteps.CHECKS, skip_when_failed=True)(self._check)

    def _owner(self, ctx: lightbulb.Context) -> str:
        return self._owner_of(ctx.command._command_data.qualified_name)

    def _owner_of(self, path: str) -> str:
        return (self.registry.owner_of(path) if self.registry is not None else None) or CORE

    async def _check(self, _pipeline: lightbulb.ExecutionPipeline, ctx: lightbulb.Context) -> None:
        guild_id = int(ctx.guild_id) if ctx.guild_id is not None else None
        # Whatever this command makes plugins do, and their failures, belongs here.
        place = place_of(guild_id, int(ctx.user.id))
        current.set(place)
        if guild_id is not None and ctx.member is not None:
            denial = self._access.denial(ctx.command._command_data.qualified_name, guild_id, ctx.member)
            if denial is not None:
                raise DeniedError(denial)
        if ctx.command._command_data.qualified_name.split(" ")[0] == OWNERS_GROUP:
            await self._check_owner(ctx)
        owner = self._owner(ctx)
        if owner == CORE:
            return
        assert self.registry is not None
        _tame(ctx, owner, self.registry.running)
        path = ctx.command._command_data.qualified_name
        if stopped := self._stopped(owner, path, place):
            raise DeniedError(stopped)
        if place is not None:
            self._host.called(owner, place)
        denial = await self._denial(owner, path, guild_id, ctx)
        if denial is not None:
            raise DeniedError(denial)

    async def _denial(
        self, owner: str, path: str, guild_id: int | None, ctx: lightbulb.Context | TypingContext
    ) -> str | None:
        """What the first plugin says that refuses a command of a plugin; None where nobody does."""
        stops = self._ends_something(owner, path)
        # A guard that cannot be asked, or fails, refuses, as with consent. But it must keep nothing from being ended.
        ask = self._host.dispatcher.call_ending if stops else self._host.dispatcher.call_strict
        answers = await ask("command_check", guild_id=guild_id, ctx=ctx)
        return next((said.reason for said in answers if isinstance(said, Deny)), None)

    def _ends_something(self, owner: str, path: str) -> bool:
        record = self._host.records.get(owner)
        return record is not None and record.meta is not None and path in record.meta.stop_commands

    def _stopped(self, owner: str, path: str, place: Place | None) -> str:
        """Why a command of a plugin that is paused or quarantined does not run; empty when it does."""
        record = self._host.records.get(owner)
        if record is None or self._ends_something(owner, path):
            return ""
        if record.state is State.QUARANTINED:
            return refusals.QUARANTINED.format(plugin=owner, id=record.failure_id)
        pause = self._host.pauses.of(owner, place)
        return refusals.paused(pause) if pause is not None else ""

    async def completes(self, ctx: lightbulb.AutocompleteContext[Any]) -> bool:
        """Whether the member who types an option may run the command: they are offered no choices otherwise."""
        path, interaction = ctx.command._command_data.qualified_name, ctx.interaction
        guild_id, member = interaction.guild_id, interaction.member
        place = place_of(int(guild_id) if guild_id is not None else None, int(interaction.user.id))
        current.set(place)
        owner = self._owner_of(path)
        working.set(owner if owner != CORE else None)
        if self._stopped(owner, path, place):
            return False
        if guild_id is not None and member is not None and self._access.denial(path, int(guild_id), member) is not None:
            return False
        if path.split(" ")[0] == OWNERS_GROUP and not await self.owns(int(interaction.user.id)):
            return False
        return owner == CORE or await self._denial(owner, path, guild_id, TypingContext(ctx)) is None

    def choices_failed(self, ctx: lightbulb.AutocompleteContext[Any], error: Exception) -> None:
        """Count what the choices of an option raised."""
        path, interaction = ctx.command._command_data.qualified_name, ctx.interaction
        guild_id, owner, source = interaction.guild_id, self._owner_of(path), f"its choices for /{path}"
        place = place_of(int(guild_id) if guild_id is not None else None, int(interaction.user.id))
        if owner == CORE:
            log_failure(owner, source, error, place, excuse=EXCUSES[blame(error)])
        else:
            self._host.failed(owner, source, error, place)

    async def owns(self, user_id: int) -> bool:
        """Whether a user is an owner of the bot."""
        assert self.registry is not None
        return user_id in owners_of(await self.registry.application())

    async def _check_owner(self, ctx: lightbulb.Context) -> None:
        try:
            async with asyncio.timeout(OWNERS_S):
                owns = await self.owns(int(ctx.user.id))
        except TimeoutError:
            raise DeniedError(OWNERS_UNKNOWN) from None
        if not owns:
            _log.warning("user %d may not use /bot: not an owner of the application", ctx.user.id)
            raise DeniedError(
                "Only the owners of this bot may do that: those who own its application at Discord. You are not one."
            )

    async def on_error(self, failure: lightbulb.exceptions.ExecutionPipelineFailedException) -> bool:
        """Answer the member, once, and count what is the plugin's failure."""
        ctx = failure.context
        path = ctx.command._command_data.qualified_name
        words: str | None = None
        errors: list[Exception] = []
        checking = [refusals.is_checking(hook) for hook in failure.failed_hooks]
        for error, in_check in zip(failure.causes, [*checking, False], strict=False):
            if is_error(error, EndedError):
                return True
            said = refusals.refusal(error, path, checking=in_check)
            if said is None:
                errors.append(error)
            words = words or said
        for error in errors:
            said = await self._failed(ctx, path, error)
            words = words or said
        if words:
            await answer(ctx, words)
        return True

    async def _failed(self, ctx: lightbulb.Context, path: str, error: Exception) -> str:
        """Count an error where it belongs; return the reply for the member, empty for no reply."""
        owner = self._owner(ctx)
        source = f"its command /{path}"
        whose = blame(error)
        place = place_of(int(ctx.guild_id) if ctx.guild_id is not None else None, int(ctx.user.id))
        if owner == CORE:
            log_failure(owner, source, error, place, excuse=EXCUSES[whose])
        else:
            offered = self._host.failed(owner, source, error, place, ctx)
            if offered is not None and await asyncio.shield(offered) and await is_answered(ctx):
                return ""
        if whose is Blame.TOO_LATE:
            return ""
        if is_unread_reply(error) and await is_answered(ctx, unsaid=False):
            # The member has read it; only what Discord says of that makes no sense.
            return ""
        return refusals.ANSWERS.get(whose, refusals.WENT_WRONG).format(command=path)


def _tame(ctx: lightbulb.Context, plugin: str, running: RunningCommands) -> None:
    """Have this one run of a command end with its plugin, and what it raises be an `Exception`.

    That is all that lightbulb catches.

    Raises:
        DeniedError: The plugin is on its way out.
    """
    command = ctx.command
    name = command._command_data.invoke_method
    invoke = getattr(command, name)
    admitted = running.admit(plugin)

    async def tame(*arguments: Any) -> Any:
        working.set(plugin)
        async with running.run(plugin, admitted, ctx):
            with taming():
                return await invoke(*arguments)

    setattr(command, name, tame)
