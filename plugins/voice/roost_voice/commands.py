"""``/voice join | leave | status | test``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import hikari
import lightbulb

from roost.audience import as_known_now, can_be_in
from roost.audio import JoinRequest
from roost.deferral import answer_alone, defer_during
from roost.errors import BusyError, ClosedError
from roost.i18n import counted
from roost.permissions import effective_in
from roost.rest_buckets import NotSentError, sent_only_if
from roost_voice.hearing import without_dave
from roost_voice.moves import State, Told
from roost_voice.permissions import what_keeps_me_out, why_not_for
from roost_voice.session import CAPTURE_FAILED, Session
from roost_voice.sessions import JoinResult, SessionManager

NOT_HERE = "This works in a server only."
NOT_READY = "Voice is not running; try again in a moment."
NOT_YOURS = "I am in a voice channel that you cannot join, so I do not say more about it."
OVERTAKEN = "I did not join <#{asked}>: a later request won, and has ended meanwhile. Try again."

JOIN_WORDS = {
    Told.JOINED: "Joined <#{channel}>.",
    Told.ALREADY: "Already in <#{channel}>.",
    Told.MOVED: "Moved to <#{channel}>.",
    Told.SUPERSEDED: "Moved to <#{channel}>: {reason}.",
    Told.BUSY: (
        "Busy in <#{channel}>: other people are there. Ask who brought me, or someone who may move members, to move me."
    ),
    Told.REFUSED: "I did not join: {reason}.",
    Told.FAILED: "I could not join <#{asked}>: {reason}.",
}
LEAVE_WORDS = {
    Told.LEFT: "Left <#{channel}>.",
    Told.UNCONFIRMED: "Left <#{channel}>; Discord has not confirmed it yet, I keep trying.",
    Told.NOT_IN_VOICE: "I am in no voice channel.",
    Told.FAILED: "I could not leave: {reason}.",
}


def join_words(result: JoinResult, asked: int, user_id: int = 0) -> str:
    """The reply to ``/voice join``: of many who asked at once, one brought the bot, and the others hear where it is."""
    channel = result.channel_id or asked
    told = result.told
    if told is Told.JOINED and result.session is not None and user_id not in (0, result.session.started_by):
        told = Told.ALREADY
    return JOIN_WORDS[told].format(channel=channel, asked=asked, reason=result.reason.rstrip("."))


def leave_words(result: JoinResult, *, named: bool = True) -> str:
    """The reply to ``/voice leave``; it names the channel if the member could be there (`named`)."""
    words = LEAVE_WORDS.get(result.told, "I could not leave: {reason}.")
    if result.told in (Told.LEFT, Told.UNCONFIRMED) and not (named and result.channel_id):
        return "Left."
    return words.format(channel=result.channel_id, reason=result.reason.rstrip("."))


def in_their_room(bot: hikari.GatewayBot, member: hikari.Member, session: Session, words: str) -> str:
    """Words that name the room of a session, for a member who could be there; others are not told where it is."""
    return words if can_be_in(bot.cache, member, session.channel_id) else NOT_YOURS


def is_elsewhere(bot: hikari.GatewayBot, member: hikari.Member, result: JoinResult, asked: int) -> bool:
    """Whether a join came to its end with a channel that a member did not ask for, and could not be in."""
    return result.channel_id not in (0, asked) and not can_be_in(bot.cache, member, result.channel_id)


async def reply(ctx: lightbulb.Context, text: str, *, ephemeral: bool = False) -> None:
    """Answer without notifying anybody."""
    await ctx.respond(text, ephemeral=ephemeral, mentions_everyone=False, user_mentions=False, role_mentions=False)


def may_move_members(bot: hikari.GatewayBot, member: hikari.Member, channel_id: int) -> bool:
    channel = bot.cache.get_guild_channel(channel_id)
    guild = bot.cache.get_guild(member.guild_id)
    if channel is None or guild is None:
        return False
    return bool(effective_in(member, guild, channel) & hikari.Permissions.MOVE_MEMBERS)


def may_know_of(bot: hikari.GatewayBot, member: hikari.Member, channel_id: int) -> bool:
    """Whether a member may read who is heard in a voice channel: they could be there, or may move those who are."""
    member = as_known_now(bot, member)
    return can_be_in(bot.cache, member, channel_id) or may_move_members(bot, member, channel_id)


def voice_channel_of(bot: hikari.GatewayBot, guild_id: int, user_id: int) -> int | None:
    """The voice channel a member is in, by the cache."""
    state = bot.cache.get_voice_state(guild_id, user_id)
    return int(state.channel_id) if state is not None and state.channel_id is not None else None


def status_words(state: State, session: Session | None) -> str:
    """The reply to ``/voice status``."""
    if session is None:
        return "I am in no voice channel." if state is State.IDLE else f"I am in no voice channel ({state.value})."
    stats = session.stats()
    minutes, seconds = divmod(int(stats.duration_s), 60)
    link = stats.link
    dave = f"on (version {link.dave_version})" if link.dave_version else without_dave(link)
    heard = ", ".join(f"<@{user_id}>" for user_id in sorted(session.heard)) or "nobody"
    if session.deafened:
        heard = "nobody: a moderator has deafened me"
    if session.capture_state == CAPTURE_FAILED:
        heard = (
            "nobody: Discord did not take the notice; check that I have Send Messages in the voice channel's own chat, "
            "and where the text goes"
        )
    expected = link.packets_in + link.lost
    share = f" ({100 * link.lost / expected:.1f} %)" if expected else ""
    broke = f" The connection broke and was resumed {counted(link.resumes, 'time')}." if link.resumes else ""
    return (
        f"In <#{session.channel_id}> for {minutes} min {seconds} s: {session.state}.{broke}\n"
        f"End-to-end encryption: {dave}.\n"
        f"Packets: {link.packets_in} in, {link.lost} lost{share}.\n"
        f"Heard: {heard}."
    )


def voice_loader(bot: hikari.GatewayBot, manager: Callable[[], SessionManager | None]) -> lightbulb.Loader:
    """The commands. `manager` gives None while the plugin is not loaded."""
    group = lightbulb.Group("voice", "Bring me into a voice channel", contexts=[hikari.ApplicationContextType.GUILD])

    @group.register
    class Join(lightbulb.SlashCommand, name="join", description="Bring me into a voice channel"):
        channel = lightbulb.channel(
            "channel",
            "The voice channel; yours if you leave this out",
            channel_types=[hikari.ChannelType.GUILD_VOICE, hikari.ChannelType.GUILD_STAGE],
            default=None,
        )

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            sessions = manager()
            if ctx.guild_id is None or ctx.member is None:
                await reply(ctx, NOT_HERE, ephemeral=True)
                return
            if sessions is None:
                await reply(ctx, NOT_READY, ephemeral=True)
                return
            guild_id, user_id = int(ctx.guild_id), int(ctx.user.id)
            named = self.channel
            channel_id = int(named.id) if named is not None else voice_channel_of(bot, guild_id, user_id)
            if channel_id is None:
                await reply(ctx, "Join a voice channel first, or name one: `/voice join channel:`.", ephemeral=True)
                return
            current = sessions.session(guild_id)
            problem = why_not_for(bot, ctx.member, channel_id)
            if problem is None and (current is None or current.channel_id != channel_id):
                problem = what_keeps_me_out(bot, guild_id, channel_id)
            if problem is not None:
                await reply(ctx, problem, ephemeral=True)
                return
            mover = current is not None and may_move_members(bot, ctx.member, current.channel_id)
            request = JoinRequest(guild_id, channel_id, user_id, int(ctx.channel_id))
            # Looked at before the deferral, which decides whether everybody sees the answer.
            refused = sessions.join_limit(request, may_move_others=mover)
            if refused is not None:
                await reply(ctx, join_words(refused, channel_id), ephemeral=True)
                return
            await ctx.defer()
            result = await sessions.join(request, may_move_others=mover)
            words = join_words(result, channel_id, user_id)
            if is_elsewhere(bot, ctx.member, result, channel_id):
                is_over = result.told in (Told.REFUSED, Told.FAILED)
                await answer_alone(ctx, OVERTAKEN.format(asked=channel_id) if is_over else NOT_YOURS)
            elif result.told in (Told.REFUSED, Told.BUSY):
                await answer_alone(ctx, words)
            else:
                await reply(ctx, words)

    @group.register
    class Leave(lightbulb.SlashCommand, name="leave", description="Send me out of the voice channel"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            sessions = manager()
            if ctx.guild_id is None or ctx.member is None:
                await reply(ctx, NOT_HERE, ephemeral=True)
                return
            if sessions is None:
                await reply(ctx, NOT_READY, ephemeral=True)
                return
            guild_id, user_id = int(ctx.guild_id), int(ctx.user.id)
            session = sessions.session(guild_id)
            if session is not None and not (
                session.started_by == user_id
                or user_id in session.humans
                or not session.humans
                or may_move_members(bot, ctx.member, session.channel_id)
            ):
                words = (
                    f"People in <#{session.channel_id}> are using me. Join them, or ask someone who may move members."
                )
                await reply(ctx, in_their_room(bot, ctx.member, session, words), ephemeral=True)
                return
            if session is None and sessions.state(guild_id) is State.IDLE:
                await reply(ctx, LEAVE_WORDS[Told.NOT_IN_VOICE], ephemeral=True)
                return
            leave = sessions.leave(guild_id, "somebody sent me out with /voice leave", user_id=user_id)
            result = await defer_during(ctx, leave)
            named = can_be_in(bot.cache, ctx.member, result.channel_id)
            await reply(ctx, leave_words(result, named=named))

    @group.register
    class Status(lightbulb.SlashCommand, name="status", description="Where I am, since when, and whom I hear"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            sessions = manager()
            if ctx.guild_id is None or ctx.member is None:
                await reply(ctx, NOT_HERE, ephemeral=True)
                return
            if sessions is None:
                await reply(ctx, NOT_READY, ephemeral=True)
                return
            guild_id = int(ctx.guild_id)
            session = sessions.session(guild_id)
            if session is not None and not can_be_in(bot.cache, ctx.member, session.channel_id):
                await reply(ctx, NOT_YOURS, ephemeral=True)
                return
            await reply(ctx, status_words(sessions.state(guild_id), session), ephemeral=True)

    @group.register
    class Test(lightbulb.SlashCommand, name="test", description="Listen for a moment and tell how well I hear whom"):
        seconds = lightbulb.integer("seconds", "How long to listen", min_value=2, max_value=15, default=5)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            sessions = manager()
            if ctx.guild_id is None or ctx.member is None:
                await reply(ctx, NOT_HERE, ephemeral=True)
                return
            if sessions is None:
                await reply(ctx, NOT_READY, ephemeral=True)
                return
            guild_id, user_id = int(ctx.guild_id), int(ctx.user.id)
            session = sessions.session(guild_id)
            if session is None:
                await reply(ctx, "I am in no voice channel. Use `/voice join` first.", ephemeral=True)
                return
            if user_id not in session.humans and not may_move_members(bot, ctx.member, session.channel_id):
                words = f"Only people in <#{session.channel_id}> can have me listen there."
                await reply(ctx, in_their_room(bot, ctx.member, session, words), ephemeral=True)
                return
            await ctx.defer(ephemeral=True)
            try:
                hearing = await sessions.test(guild_id, float(self.seconds))
            except (BusyError, ClosedError) as error:
                await reply(ctx, str(error), ephemeral=True)
                return
            try:
                with sent_only_if(partial(may_know_of, bot, ctx.member, hearing.channel_id)):
                    await reply(ctx, hearing.words(user_id), ephemeral=True)
            except NotSentError:
                await reply(ctx, NOT_YOURS, ephemeral=True)

    loader = lightbulb.Loader()
    loader.command(group)
    return loader
