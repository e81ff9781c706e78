"""``/transcript``: what members can ask of transcripts that are kept."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import hikari
import lightbulb

from roost.audience import as_known_now, can_be_in, can_read, place_of
from roost.confirming import Outcome
from roost.deferral import defer_for
from roost.errors import ResourceError, RoostError, UsageError
from roost.i18n import counted
from roost.permissions import effective_in
from roost.rest_buckets import NotSentError, sent_only_if
from roost_stt.captions import display_name
from roost_stt.exports import FORMATS, Head
from roost_stt.reading import AbandonedError, ExportFile, Pager, Part, Reading
from roost_stt.transcripts import LIST_LIMIT

if TYPE_CHECKING:
    from roost_stt.plugin import SttPlugin

_log = logging.getLogger("roost.stt.transcripts")

PAGE_CHARS = 1800
CHOICES = 25
FILE_LIMITS = {0: 10 << 20, 1: 10 << 20, 2: 50 << 20, 3: 100 << 20}
"""Bytes, by the level of a server's boosts."""
MAX_FILE_BYTES = 24 << 20
"""A file is in memory while it is sent."""
DELETE_AGAIN_S = (0.0, 1.0, 3.0, 10.0)
"""Pauses before the tries to delete an answer with withdrawn words."""
NO_PINGS: dict[str, Any] = {"mentions_everyone": False, "user_mentions": False, "role_mentions": False}
TRACES = " The last traces of it are still being removed from the files of my database."
_NONE = "There is no transcript here that you may read. `/transcribe start` makes one while I am in voice."


def transcript_loader(plugin: SttPlugin) -> lightbulb.Loader:
    """The loader with the one command group."""
    group = lightbulb.Group("transcript", "Transcripts that are kept")

    async def choices(ctx: lightbulb.AutocompleteContext[str]) -> None:
        await suggest_transcripts(plugin, ctx)

    @group.register
    class List(lightbulb.SlashCommand, name="list", description="The latest transcripts of this server"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _answer(ctx, partial(list_transcripts, plugin, ctx))

    @group.register
    class Show(lightbulb.SlashCommand, name="show", description="Read a transcript"):
        transcript = lightbulb.string("transcript", "Which one; see /transcript list", autocomplete=choices)
        page = lightbulb.integer("page", "Which page; the last one if you leave it out", default=0, min_value=0)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _answer(ctx, partial(show_transcript, plugin, ctx, self.transcript, self.page))

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
            await _answer(ctx, partial(export_transcript, plugin, ctx, self.transcript, self.format))

    @group.register
    class Delete(lightbulb.SlashCommand, name="delete", description="Delete a transcript for good"):
        transcript = lightbulb.string("transcript", "Which one; see /transcript list", autocomplete=choices)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _answer(ctx, partial(_ask_to_delete, plugin, ctx, self.transcript))

    loader = lightbulb.Loader()
    loader.command(group, defer_guilds=True)
    return loader


@dataclasses.dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and where.

    Attributes:
        guild_id: The server.
        channel_id: The channel or thread.
        member: As Discord sent them with the command or the press.
    """

    guild_id: int
    channel_id: int
    member: hikari.Member


def may_read(bot: hikari.GatewayBot, asker: Asker, head: Head) -> bool:
    """Whether a member may have to do with a transcript: they could have heard it, and can read where it was shown.

    Those who manage the server need not be able to read the text channel. Where the voice channel is gone, nobody else
    can be told from those who could not hear it.
    """
    member = as_known_now(bot, asker.member)
    manages = _manages(bot, asker, member)
    if bot.cache.get_guild_channel(head.voice_channel_id) is None:
        return manages
    if not can_be_in(bot.cache, member, head.voice_channel_id):
        return False
    return manages or can_read(bot.cache, member, head.text_channel_id, within=asker.channel_id)


def _manages(bot: hikari.GatewayBot, asker: Asker, member: hikari.Member) -> bool:
    if isinstance(member, hikari.InteractionMember):
        theirs = member.permissions
    else:
        guild, place = bot.cache.get_guild(asker.guild_id), place_of(bot.cache, asker.channel_id)
        if guild is None or place is None:
            return False
        theirs = effective_in(member, guild, place.channel)
    return bool(theirs & (hikari.Permissions.MANAGE_GUILD | hikari.Permissions.ADMINISTRATOR))


async def _answer(ctx: lightbulb.Context, make: Callable[[], Awaitable[str | None]]) -> None:
    """Reply to the member who asked, and to nobody else, with what `make` returns or an error's own words.

    `make` may reply itself and return None.
    """
    try:
        made = await defer_for(ctx, make)
    except RoostError as error:
        made = str(error)
    if made is not None:
        await ctx.respond(made, ephemeral=True, **NO_PINGS)


def _asker(ctx: lightbulb.Context) -> Asker:
    if ctx.guild_id is None or ctx.member is None:
        raise UsageError("This works in a server only.")
    return Asker(int(ctx.guild_id), int(ctx.channel_id), ctx.member)


async def _find(plugin: SttPlugin, asker: Asker, name: str) -> tuple[str, Head]:
    found = await plugin.book.find(asker.guild_id, name.strip().lower())
    if found is None or not may_read(plugin.bot, asker, found[1]):
        raise _no_such(name)
    return found


def _no_such(name: str) -> UsageError:
    return UsageError(f"There is no transcript `{display_name(name)}` that you may read; see `/transcript list`.")


@contextlib.contextmanager
def _to_reader(plugin: SttPlugin, asker: Asker, head: Head) -> Iterator[None]:
    """Around one request that sends a transcript: it is not sent unless the member may read it at that moment.

    Reading can take long, and so can hikari: it waits for Discord's limits, and before it tries again after an error.

    Raises:
        UsageError: The member may not read it any more.
    """
    is_readable = partial(may_read, plugin.bot, asker, head)
    if not is_readable():
        raise _no_such(head.id)
    try:
        with sent_only_if(is_readable):
            yield
    except NotSentError as error:
        raise _no_such(head.id) from error


async def suggest_transcripts(plugin: SttPlugin, ctx: lightbulb.AutocompleteContext[str]) -> None:
    """Suggest transcripts whose titles hold what was typed, to a member who may read them."""
    member = ctx.interaction.member
    typed = str(ctx.focused.value or "").lower()
    if member is None or ctx.interaction.guild_id is None:
        await ctx.respond([])
        return
    asker = Asker(int(ctx.interaction.guild_id), int(ctx.interaction.channel_id), member)
    found = await _readable(plugin, asker, CHOICES)
    titles = {f"{_title(plugin.bot, head)} ({head.id})": head.id for head, _ in found}
    await ctx.respond({title: name for title, name in titles.items() if typed in title.lower()})


async def _readable(plugin: SttPlugin, asker: Asker, limit: int) -> list[tuple[Head, int]]:
    """The newest transcripts that a member may read, with their numbers of lines."""
    is_readable = partial(may_read, plugin.bot, asker)
    found = await plugin.book.newest(asker.guild_id, is_readable, limit)
    # Reading took its time.
    return [each for each in found if is_readable(each[0])]


async def list_transcripts(plugin: SttPlugin, ctx: lightbulb.Context) -> str | None:
    """Send a list of the newest transcripts that the member may read, or return that there are none."""
    asker = _asker(ctx)
    found = await _readable(plugin, asker, LIST_LIMIT)
    if not found:
        return _NONE
    lines = []
    for head, count in found:
        length = "still going on" if head.ended_at is None else _length(head.ended_at - head.started_at)
        size = f"{counted(count, 'line')}, {length}"
        lines.append(f"`{head.id}` <t:{int(head.started_at)}:f> in <#{head.voice_channel_id}>: {size}")
    days = plugin.days_of(asker.guild_id)
    kept = "New ones are not kept in this server."
    if days:
        kept = f"Kept for at most {counted(days, 'day')} after their end."
    try:
        with sent_only_if(lambda: all(may_read(plugin.bot, asker, head) for head, _ in found)):
            await ctx.respond("\n".join([*lines, kept]), ephemeral=True, **NO_PINGS)
    except NotSentError:
        # At least one of them is not for this member any more.
        return await list_transcripts(plugin, ctx)
    return None


async def show_transcript(plugin: SttPlugin, ctx: lightbulb.Context, name: str, page: int) -> None:
    """Send one page of a transcript."""
    asker = _asker(ctx)
    pager = Pager(page, PAGE_CHARS)
    async with plugin.reading.turn(asker.guild_id, int(ctx.user.id)) as reading:
        # Who may read it is asked when their turn comes: that may take long.
        key, head = await _find(plugin, asker, name)
        reading.reads(key)
        async for lines in plugin.book.pages(key):
            await asyncio.to_thread(pager.add, reading.lines(lines))
        text, number = await asyncio.to_thread(pager.finish)
        said = f"Transcript `{head.id}`, <t:{int(head.started_at)}:f>, page {number} of {pager.count}\n{text}"
        if not text:
            said = f"Transcript `{head.id}` has no lines; who said something may have had it deleted."
        async with _sent(ctx, reading), reading.uploading():
            with _to_reader(plugin, asker, head):
                await ctx.interaction.edit_initial_response(said, **NO_PINGS)


async def export_transcript(plugin: SttPlugin, ctx: lightbulb.Context, name: str, kind: str) -> None:
    """Send a transcript as a file, or as several. One is in memory at a time."""
    asker = _asker(ctx)
    limit = file_limit_bytes(plugin.bot, asker.guild_id)
    async with plugin.reading.turn(asker.guild_id, int(ctx.user.id)) as reading:
        key, head = await _find(plugin, asker, name)
        reading.reads(key)
        reading.shows(head.started_by)
        try:
            file = await asyncio.to_thread(ExportFile, head, kind)
            try:
                async for lines in plugin.book.pages(key):
                    await asyncio.to_thread(file.add, reading.lines(lines))
                    reading.check()
                parts = await asyncio.to_thread(file.finish, limit)
                text = f"Transcript `{head.id}`, {counted(file.lines, 'line')}.{_how(parts, limit)}"
                async with _sent(ctx, reading) as sent:
                    for number, part in enumerate(parts, 1):
                        data = hikari.Bytes(await asyncio.to_thread(file.read, part), part.name)
                        if number == 1:
                            async with reading.uploading():
                                with _to_reader(plugin, asker, head):
                                    await ctx.interaction.edit_initial_response(text, attachment=data, **NO_PINGS)
                        else:
                            # Its id is known only when Discord has it all.
                            said = f"Part {number} of {len(parts)}."
                            with _to_reader(plugin, asker, head):
                                sent.append(await ctx.respond(said, attachment=data, ephemeral=True, **NO_PINGS))
                            reading.check()
            finally:
                file.close()
        except OSError as error:
            _log.error("an export could not be written: %s", error)
            raise ResourceError("This machine has no room for the file just now. Try again later.") from error


@contextlib.asynccontextmanager
async def _sent(ctx: lightbulb.Context, reading: Reading) -> AsyncIterator[list[hikari.Snowflakeish]]:
    """Around the sending of an answer whose further messages are put into the list: all are deleted if it is abandoned.

    Also if the sending itself fails meanwhile. The first message is an edit of the deferred one. If Discord takes that
    edit late it finds no message.

    Raises:
        AbandonedError: It is.
        ResourceError: It is, and Discord did not let go of what was sent.
    """
    sent: list[hikari.Snowflakeish] = []
    try:
        reading.check()
        yield sent
    except Exception as error:
        if not reading.is_abandoned:
            raise
        deletes: list[Callable[[], Awaitable[None]]] = [ctx.interaction.delete_initial_response]
        deletes += [partial(ctx.delete_response, each) for each in sent]
        if not all([await _deleted(delete) for delete in deletes]):
            raise ResourceError(f"{reading.why} Delete what I sent: Discord did not let me.") from error
        raise AbandonedError(reading.why) from error


async def _deleted(delete: Callable[[], Awaitable[None]]) -> bool:
    for pause_s in DELETE_AGAIN_S:
        await asyncio.sleep(pause_s)
        try:
            await delete()
            return True
        except hikari.NotFoundError:
            return True
        except (hikari.HikariError, OSError, TimeoutError) as error:
            _log.warning("an answer with withdrawn words is not deleted yet: %s", type(error).__name__)
    return False


def _how(parts: Sequence[Part], limit: int) -> str:
    """Say why a file is compressed or in parts, and how to join them; empty for a plain file."""
    size = f"Discord takes files of at most {limit >> 20} MiB here"
    if len(parts) > 1:
        name = parts[0].name.removesuffix(".001")
        return f" {size}, so it is compressed and in {len(parts)} parts. Join them: `cat {name}.* > {name}`"
    return f" {size}, so it is compressed." if parts[0].name.endswith(".zip") else ""


def file_limit_bytes(bot: hikari.GatewayBot, guild_id: int) -> int:
    """The largest file that a server takes, or that this bot sends."""
    guild = bot.cache.get_guild(guild_id)
    tier = int(guild.premium_tier) if guild is not None else 0
    return min(MAX_FILE_BYTES, FILE_LIMITS.get(tier, FILE_LIMITS[0]))


async def _ask_to_delete(plugin: SttPlugin, ctx: lightbulb.Context, name: str) -> None:
    """Ask whether a transcript that may be deleted shall be; a press checks once more, and deletes."""
    asker = _asker(ctx)
    _, head = await _deletable(plugin, asker, name)

    async def delete(interaction: hikari.ComponentInteraction) -> Outcome:
        assert interaction.member is not None
        presser = Asker(asker.guild_id, int(interaction.channel_id), interaction.member)
        return Outcome(await _delete(plugin, presser, name))

    what = f"Transcript `{head.id}`, <t:{int(head.started_at)}:f>, is deleted for good, for everybody."
    await plugin.confirmations.ask(ctx, what, "Delete", delete)


async def _deletable(plugin: SttPlugin, asker: Asker, name: str) -> tuple[str, Head]:
    key, head = await _find(plugin, asker, name)
    if asker.member.id != head.started_by and not _manages(plugin.bot, asker, asker.member):
        raise ResourceError("Only whoever began it, and those who manage the server, can delete a transcript.")
    if plugin.keeps_on(key):
        raise ResourceError(f"Transcript `{head.id}` is still going on. Use `/transcribe stop` first.")
    return key, head


async def _delete(plugin: SttPlugin, asker: Asker, name: str) -> str:
    key, head = await _deletable(plugin, asker, name)
    with plugin.reading.deleting(key):
        lines, erased = await plugin.book.erase(key)
    what = counted(lines, "line is", "lines are")
    said = [f"Transcript `{head.id}` and its {what} deleted.{'' if erased.traceless else TRACES}"]
    said.append("Captions that were posted stay where they are, and so do files that members exported.")
    if erased.backups.deleted:
        said.append(f"Backups from before updates went with it: {', '.join(erased.backups.deleted)}.")
    if erased.backups.left:
        left = ", ".join(erased.backups.left)
        said.append(f"These backups from before updates could not be deleted; ask whoever runs this bot: {left}.")
    return "\n".join(said)[:2000]


def _length(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes else f"{round(seconds)} s"


def _title(bot: hikari.GatewayBot, head: Head) -> str:
    channel = bot.cache.get_guild_channel(head.voice_channel_id)
    name = channel.name if channel is not None and channel.name else "a channel"
    return f"{datetime.datetime.fromtimestamp(head.started_at, datetime.UTC):%Y-%m-%d %H:%M} UTC, {name}"
