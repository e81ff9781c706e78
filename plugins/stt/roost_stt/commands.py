"""``/transcribe``: what members can ask of speech-to-text."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import hikari
import lightbulb

from roost.errors import RoostError

if TYPE_CHECKING:
    from roost_stt.plugin import SttPlugin

_log = logging.getLogger("roost.stt")

NEEDED = hikari.Permissions.VIEW_CHANNEL | hikari.Permissions.SEND_MESSAGES


def transcribe_loader(plugin: SttPlugin) -> lightbulb.Loader:
    """The loader with the one command group."""
    group = lightbulb.Group("transcribe", "Turn what is said in voice into text")

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

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            chosen = self.channel
            await _answer(ctx, functools.partial(_start, plugin, ctx, chosen), slow=True)

    @group.register
    class Stop(lightbulb.SlashCommand, name="stop", description="Stop transcribing; what was said is still posted"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _answer(ctx, functools.partial(_stop, plugin, ctx), slow=True)

    @group.register
    class Status(lightbulb.SlashCommand, name="status", description="Is anything being transcribed, and how well?"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _answer(ctx, functools.partial(_status, plugin, ctx), slow=False)

    loader = lightbulb.Loader()
    loader.command(group, defer_guilds=True)
    return loader


async def _answer(ctx: lightbulb.Context, make: Callable[[], Awaitable[str]], *, slow: bool) -> None:
    """Reply with what `make` gives, or with its error's own words; nothing pings."""
    if slow:
        await ctx.defer(ephemeral=False)
    try:
        text = await make()
    except RoostError as error:
        text = str(error)
    await ctx.respond(text, ephemeral=not slow, **_NO_PINGS)


_NO_PINGS: dict[str, Any] = {"mentions_everyone": False, "user_mentions": False, "role_mentions": False}


async def _start(plugin: SttPlugin, ctx: lightbulb.Context, chosen: hikari.PartialChannel | None) -> str:
    assert ctx.guild_id is not None
    if chosen is not None and isinstance(chosen, hikari.InteractionChannel):
        missing = NEEDED & ~chosen.permissions
        if missing:
            return f"You cannot write in <#{chosen.id}>, so I do not put transcripts there."
    return await plugin.start_transcribing(
        int(ctx.guild_id), int(ctx.user.id), int(chosen.id) if chosen is not None else int(ctx.channel_id), _rank(ctx)
    )


async def _stop(plugin: SttPlugin, ctx: lightbulb.Context) -> str:
    assert ctx.guild_id is not None
    return await plugin.stop_transcribing(int(ctx.guild_id), int(ctx.user.id), _rank(ctx))


async def _status(plugin: SttPlugin, ctx: lightbulb.Context) -> str:
    assert ctx.guild_id is not None
    return plugin.describe(int(ctx.guild_id))


def _rank(ctx: lightbulb.Context) -> bool:
    """Whether the member may manage the server, and so may act from outside the voice channel."""
    member = ctx.member
    return member is not None and bool(member.permissions & hikari.Permissions.MANAGE_GUILD)
