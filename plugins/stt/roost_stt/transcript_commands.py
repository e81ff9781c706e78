"""``/transcript``: what members can ask of transcripts that are kept."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import hikari
import lightbulb

from roost.errors import ResourceError, RoostError, UsageError
from roost.permissions import permissions_in
from roost_stt.captions import Line, display_name, render
from roost_stt.exports import FORMATS, Head, StoredLine, export

if TYPE_CHECKING:
    from roost_stt.plugin import SttPlugin

READS = hikari.Permissions.VIEW_CHANNEL | hikari.Permissions.READ_MESSAGE_HISTORY
PAGE_CHARS = 1800
CHOICES = 25
NO_PINGS: dict[str, Any] = {"mentions_everyone": False, "user_mentions": False, "role_mentions": False}
_NONE = "There is no transcript here that you may read. `/transcribe start` makes one while I am in voice."


def transcript_loader(plugin: SttPlugin) -> lightbulb.Loader:
    """The loader with the one command group."""
    group = lightbulb.Group("transcript", "Transcripts that are kept")

    async def choices(ctx: lightbulb.AutocompleteContext[str]) -> None:
        member = ctx.interaction.member
        typed = str(ctx.focused.value or "").lower()
        if member is None or ctx.interaction.guild_id is None:
            await ctx.respond([])
            return
        guild_id = int(ctx.interaction.guild_id)
        found = await plugin.book.newest(guild_id, functools.partial(may_read, plugin.bot, member), CHOICES)
        titles = {f"{_title(plugin.bot, head)} ({head.id})": head.id for head, _ in found}
        await ctx.respond({title: name for title, name in titles.items() if typed in title.lower()})

    @group.register
    class List(lightbulb.SlashCommand, name="list", description="The latest transcripts of this server"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _answer(ctx, functools.partial(_list, plugin, ctx))

    @group.register
    class Show(lightbulb.SlashCommand, name="show", description="Read a transcript"):
        transcript = lightbulb.string("transcript", "Which one; see /transcript list", autocomplete=choices)
        page = lightbulb.integer("page", "Which page; the last one if you leave it out", default=0, min_value=0)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _answer(ctx, functools.partial(_show, plugin, ctx, self.transcript, self.page))

    @group.register
    class Export(lightbulb.SlashCommand, name="export", description="Get a transcript as a file"):
        transcript = lightbulb.string("transcript", "Which one; see /transcript list", autocomplete=choices)
        format = lightbulb.string(
            "format",
            "txt and md to read, srt and vtt for videos, json for programs",
            choices=[lightbulb.Choice(name, name) for name in FORMATS],
            default="txt",
        )

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _answer(ctx, functools.partial(_export, plugin, ctx, self.transcript, self.format))

    @group.register
    class Delete(lightbulb.SlashCommand, name="delete", description="Delete a transcript for good"):
        transcript = lightbulb.string("transcript", "Which one; see /transcript list", autocomplete=choices)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _answer(ctx, functools.partial(_delete, plugin, ctx, self.transcript))

    loader = lightbulb.Loader()
    loader.command(group, defer_guilds=True)
    return loader


def may_read(bot: hikari.GatewayBot, member: hikari.Member, head: Head) -> bool:
    """Whoever may read the channel that the captions went to, and whoever manages the server."""
    guild = bot.cache.get_guild(head.guild_id)
    if guild is None:
        return False
    if _manages(bot, member):
        return True
    channel = bot.cache.get_guild_channel(head.text_channel_id)
    if channel is None:
        thread = bot.cache.get_thread(head.text_channel_id)
        channel = bot.cache.get_guild_channel(thread.parent_id) if thread is not None else None
    return channel is not None and READS & permissions_in(member, guild, channel) == READS


def _manages(bot: hikari.GatewayBot, member: hikari.Member) -> bool:
    if isinstance(member, hikari.InteractionMember):
        return bool(member.permissions & (hikari.Permissions.MANAGE_GUILD | hikari.Permissions.ADMINISTRATOR))
    return False


async def _answer(ctx: lightbulb.Context, make: Callable[[], Awaitable[str | tuple[str, hikari.Bytes]]]) -> None:
    """Reply to the member who asked, and to nobody else, with what `make` gives or an error's own words."""
    await ctx.defer(ephemeral=True)
    try:
        made = await make()
    except RoostError as error:
        made = str(error)
    if isinstance(made, tuple):
        await ctx.respond(made[0], attachment=made[1], **NO_PINGS)
    else:
        await ctx.respond(made, **NO_PINGS)


def _asker(ctx: lightbulb.Context) -> tuple[int, hikari.Member]:
    if ctx.guild_id is None or ctx.member is None:
        raise UsageError("This works in a server only.")
    return int(ctx.guild_id), ctx.member


async def _find(plugin: SttPlugin, ctx: lightbulb.Context, name: str) -> tuple[str, Head]:
    guild_id, member = _asker(ctx)
    found = await plugin.book.find(guild_id, name.strip().lower())
    if found is None or not may_read(plugin.bot, member, found[1]):
        raise UsageError(f"There is no transcript `{display_name(name)}` that you may read; see `/transcript list`.")
    return found


async def _list(plugin: SttPlugin, ctx: lightbulb.Context) -> str:
    guild_id, member = _asker(ctx)
    found = await plugin.book.newest(guild_id, functools.partial(may_read, plugin.bot, member))
    if not found:
        return _NONE
    lines = []
    for head, count in found:
        length = "still going on" if head.ended_at is None else _length(head.ended_at - head.started_at)
        lines.append(f"`{head.id}` <t:{int(head.started_at)}:f> in <#{head.voice_channel_id}>: {count} lines, {length}")
    days = plugin.days_of(guild_id)
    kept = f"Kept for {days} days after their end." if days else "New ones are not kept in this server."
    return "\n".join([*lines, kept])


async def _show(plugin: SttPlugin, ctx: lightbulb.Context, name: str, page: int) -> str:
    key, head = await _find(plugin, ctx, name)
    lines = sorted(await plugin.book.lines(key), key=lambda line: (line.started_at, line.ended_at))
    if not lines:
        return f"Transcript `{head.id}` has no lines; who said something may have had it deleted."
    pages = render([Line(line.name, line.text, line.user_id) for line in lines], PAGE_CHARS)
    number = min(page, len(pages)) or len(pages)
    return f"Transcript `{head.id}`, <t:{int(head.started_at)}:f>, page {number} of {len(pages)}\n{pages[number - 1]}"


async def _export(plugin: SttPlugin, ctx: lightbulb.Context, name: str, kind: str) -> tuple[str, hikari.Bytes]:
    key, head = await _find(plugin, ctx, name)
    lines: list[StoredLine] = await plugin.book.lines(key)
    data = export(head, lines, kind).encode()
    return f"Transcript `{head.id}`, {len(lines)} lines.", hikari.Bytes(data, f"transcript-{head.id}.{kind}")


async def _delete(plugin: SttPlugin, ctx: lightbulb.Context, name: str) -> str:
    key, head = await _find(plugin, ctx, name)
    _, member = _asker(ctx)
    if member.id != head.started_by and not _manages(plugin.bot, member):
        raise ResourceError("Only whoever began it, and those who manage the server, can delete a transcript.")
    if plugin.keeps_on(key):
        raise ResourceError(f"Transcript `{head.id}` is still going on. Use `/transcribe stop` first.")
    lines = await plugin.book.delete(key)
    return f"Transcript `{head.id}` and its {lines} lines are deleted."


def _length(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes else f"{round(seconds)} s"


def _title(bot: hikari.GatewayBot, head: Head) -> str:
    channel = bot.cache.get_guild_channel(head.voice_channel_id)
    name = channel.name if channel is not None and channel.name else "a channel"
    return f"{datetime.datetime.fromtimestamp(head.started_at, datetime.UTC):%Y-%m-%d %H:%M} UTC, {name}"
