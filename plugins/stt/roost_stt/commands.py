"""``/transcribe``: what members can ask of speech-to-text."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import hikari
import lightbulb

from roost.deferral import answer_alone, defer_during, defer_for, defer_if_late, patiently
from roost.errors import RoostError
from roost_stt import checks
from roost_stt.languages import language_code, suggestions

if TYPE_CHECKING:
    from roost_stt.plugin import SttPlugin

_log = logging.getLogger("roost.stt")

PATIENCE_S = 8.0
"""After so long people are told what a start waits for."""


def transcribe_loader(plugin: SttPlugin) -> lightbulb.Loader:
    """The loader with the one command group."""
    group = lightbulb.Group("transcribe", "Turn what is said in voice into text")

    async def languages(ctx: lightbulb.AutocompleteContext[str]) -> None:
        await ctx.respond(dict(suggestions(str(ctx.focused.value or ""))))

    @group.register
    class Start(lightbulb.SlashCommand, name="start", description="Transcribe this server's voice session"):
        channel = lightbulb.channel(
            "channel",
            "Where the text goes; here if you leave it out",
            default=None,
            channel_types=[
                hikari.ChannelType.GUILD_TEXT,
                hikari.ChannelType.GUILD_VOICE,
                hikari.ChannelType.GUILD_PUBLIC_THREAD,
                hikari.ChannelType.GUILD_PRIVATE_THREAD,
            ],
        )

        language = lightbulb.string(
            "language",
            "What is spoken; the server's setting if you leave it out",
            default=None,
            autocomplete=languages,
        )

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            chosen, language = self.channel, self.language
            check = functools.partial(_check_start, plugin, ctx, chosen, language)
            await _answer(ctx, functools.partial(_start_patiently, plugin, ctx, chosen, language), check)

    @group.register
    class Stop(lightbulb.SlashCommand, name="stop", description="Stop transcribing; what was said is still posted"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            check = functools.partial(_check_stop, plugin, ctx)
            await _answer(ctx, functools.partial(_stop, plugin, ctx), check, ends=True)

    @group.register
    class Pause(lightbulb.SlashCommand, name="pause", description="Hear nothing until it is resumed"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            check = functools.partial(_check_stop, plugin, ctx)
            await _answer(ctx, functools.partial(_pause, plugin, ctx, paused=True), check, ends=True)

    @group.register
    class Resume(lightbulb.SlashCommand, name="resume", description="Go on after a pause"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            check = functools.partial(_check_stop, plugin, ctx)
            await _answer(ctx, functools.partial(_pause, plugin, ctx, paused=False), check)

    @group.register
    class Language(lightbulb.SlashCommand, name="language", description="Which language you speak, in every server"):
        language = lightbulb.string(
            "language",
            "Its name or code, or auto; leave it out to see what is set",
            default=None,
            autocomplete=languages,
        )

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            choose = functools.partial(_language, plugin, ctx, self.language)
            await _answer_alone(ctx, functools.partial(defer_for, ctx, choose))

    @group.register
    class Status(lightbulb.SlashCommand, name="status", description="Is anything being transcribed, and how well?"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _answer_alone(ctx, functools.partial(_status, plugin, ctx))

    loader = lightbulb.Loader()
    loader.command(group, defer_guilds=True)
    return loader


async def _answer(
    ctx: lightbulb.Context,
    make: Callable[[], Awaitable[str]],
    check: Callable[[], Awaitable[None]],
    *,
    ends: bool = False,
) -> None:
    """Reply with what `make` gives, or with an error's own words; nothing pings.

    What `check` refuses, only the member who asked sees.

    Args:
        ends: `make` ends something, so it is called whether or not Discord takes the answer.
    """
    try:
        await defer_if_late(ctx, check())
    except RoostError as error:
        if ctx.initial_response_sent.is_set():
            await answer_alone(ctx, str(error))
        else:
            await ctx.respond(str(error), ephemeral=True, **_NO_PINGS)
        return
    try:
        # Whoever sees a deferred answer is settled with the deferring.
        if ends:
            text = await defer_during(ctx, patiently(ctx.interaction, make()))
        else:
            await ctx.defer(ephemeral=False)
            text = await patiently(ctx.interaction, make())
    except RoostError as error:
        text = str(error)
    # An answer that stands already, because the member was told to wait, is changed as well as one that is deferred.
    await ctx.interaction.edit_initial_response(text, **_NO_PINGS)


async def _answer_alone(ctx: lightbulb.Context, make: Callable[[], Awaitable[str]]) -> None:
    """Reply to the member who asked, and to nobody else, with what `make` gives or an error's own words."""
    try:
        text = await make()
    except RoostError as error:
        text = str(error)
    await ctx.respond(text, ephemeral=True, **_NO_PINGS)


_NO_PINGS: dict[str, Any] = {"mentions_everyone": False, "user_mentions": False, "role_mentions": False}


async def _check_start(
    plugin: SttPlugin, ctx: lightbulb.Context, chosen: hikari.PartialChannel | None, language: str | None
) -> None:
    assert ctx.guild_id is not None
    if language is not None:
        language_code(language)
    plugin.check(int(ctx.guild_id), int(ctx.user.id), _rank(ctx), stop=False)
    channel_id = int(chosen.id if chosen is not None else ctx.channel_id)
    permissions = ctx.member.permissions if ctx.member is not None else hikari.Permissions.NONE
    if isinstance(chosen, hikari.InteractionChannel):
        permissions = chosen.permissions
    if permissions & hikari.Permissions.ADMINISTRATOR:
        permissions = hikari.Permissions.all_permissions()
    checks.asker_can_write(plugin.bot, ctx.member, channel_id, permissions, within=int(ctx.channel_id))
    await plugin.check_channel(int(ctx.guild_id), channel_id, _rank(ctx))


async def _check_stop(plugin: SttPlugin, ctx: lightbulb.Context) -> None:
    assert ctx.guild_id is not None
    plugin.check(int(ctx.guild_id), int(ctx.user.id), _rank(ctx), stop=True)


async def _start(
    plugin: SttPlugin, ctx: lightbulb.Context, chosen: hikari.PartialChannel | None, language: str | None
) -> str:
    assert ctx.guild_id is not None
    return await plugin.start_transcribing(
        int(ctx.guild_id),
        int(ctx.user.id),
        int(chosen.id) if chosen is not None else int(ctx.channel_id),
        _rank(ctx),
        language_code(language) if language is not None else None,
    )


async def _start_patiently(
    plugin: SttPlugin, ctx: lightbulb.Context, chosen: hikari.PartialChannel | None, language: str | None
) -> str:
    """Start, and say what that waits for where it takes long: an engine that is loaded, or Discord."""
    starting = asyncio.ensure_future(_start(plugin, ctx, chosen, language))
    try:
        done, _ = await asyncio.wait({starting}, timeout=PATIENCE_S)
        if not done and ctx.guild_id is not None:
            try:
                waits = plugin.start_waits_for(int(ctx.guild_id))
                await ctx.interaction.edit_initial_response(waits, **_NO_PINGS)
            except (hikari.HikariError, OSError) as error:
                _log.warning("Discord did not take word of a start that waits: %s", type(error).__name__)
        return await starting
    finally:
        starting.cancel()


async def _pause(plugin: SttPlugin, ctx: lightbulb.Context, *, paused: bool) -> str:
    assert ctx.guild_id is not None
    return await plugin.pause_transcribing(int(ctx.guild_id), int(ctx.user.id), _rank(ctx), paused=paused)


async def _language(plugin: SttPlugin, ctx: lightbulb.Context, language: str | None) -> str:
    return await plugin.choose_language(int(ctx.user.id), language_code(language) if language is not None else None)


async def _stop(plugin: SttPlugin, ctx: lightbulb.Context) -> str:
    assert ctx.guild_id is not None
    return await plugin.stop_transcribing(int(ctx.guild_id), int(ctx.user.id), _rank(ctx))


async def _status(plugin: SttPlugin, ctx: lightbulb.Context) -> str:
    assert ctx.guild_id is not None
    return plugin.describe(int(ctx.guild_id), ctx.member)


def _rank(ctx: lightbulb.Context) -> bool:
    """Whether the member may manage the server, and so may act from outside the voice channel."""
    member = ctx.member
    return member is not None and bool(member.permissions & hikari.Permissions.MANAGE_GUILD)
