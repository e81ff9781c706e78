"""The notice: told in the channel, with buttons, before anybody is heard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import hikari
from hikari.impl import MessageActionRowBuilder

from roost.audio import NoticeFacts, Use
from roost.consent import REFUSE_ID, USUAL, agree_id
from roost.i18n import counted
from roost.rest_buckets import new_nonce

if TYPE_CHECKING:
    from roost.consent import Consent
    from roost_voice.session import PostNotice, Session

_log = logging.getLogger("roost.voice.notice")

POST_S = 10.0
"""How long Discord may take to accept the notice."""

OPT_IN = (
    "I am listening in <#{channel}>. Only members who agree are heard: press **Agree**, unless you agreed before. "
    "**Don't**, or `/privacy opt-out` at any time, keeps you unheard."
)
NOTICE = (
    "I am listening in <#{channel}>. Press **Don't**, or use `/privacy opt-out` at any time, if you do not want to be "
    "heard."
)
CAPTIONS = "What you say becomes captions in <#{text}>, where they stay until somebody deletes them."
IN_THREAD = "What you say becomes captions in a thread of <#{text}>, where they stay until somebody deletes them."
NO_CAPTIONS = "What you say becomes text, of which no captions are posted."
STORED = (
    "The text is stored until {days} after the end. Everybody who can read <#{text}> and may join <#{channel}> can "
    "read and export it, and so can everybody who manages the server."
)
ONLOOKERS = (
    "Members who may not join <#{channel}> can read the captions too, so you are heard only after you press **Agree** "
    "here."
)
NOT_STORED = "The text is not stored."
READ_BY = "The plugin {names} receives the text. The bot's operator can say what it does with it."
READ_BY_SEVERAL = "The plugins {names} receive the text. The bot's operator can say what they do with it."
STAYS = "Your voice stays on the bot's machine and is not stored."
STAYS_ELSE = "Apart from that, your voice stays on the bot's machine and is not stored."
"""Beside a plugin that receives it."""
LEAVES = "Your voice is sent to the service `{service}`, which turns it into text. I do not store it."
LEVELS = "For a test I measure how loud you are. Nothing is stored, and your voice stays on the bot's machine."
PLUGIN = "The plugin `{name}` receives your voice. The bot's operator can say what it does with it."
PLUGIN_STORES = "It stores what it makes of your voice for {days}."
PLUGIN_SENDS = "It sends your voice to the service `{service}`."
UNSEEN = "If you cannot see <#{text}>, you are heard only after you press **Agree** here."
EARLIER = "If you agreed before, but to less than this, press **Agree** again."


FAREWELL = "I am no longer in <#{channel}>: {reason}."


DEAFENED = (
    "A moderator has deafened me in <#{channel}>, so Discord sends me no voices and I hear nobody. "
    "Undeafen me and I go on."
)
NO_NOTICE = (
    "I hear nobody in <#{channel}>: Discord does not accept the notice that I have to post first. I keep trying. "
    "Please check that I have View Channel and Send Messages in {places}."
)
NO_GUARD = (
    "I do not hear everybody in <#{channel}>: the plugin `{plugin}`, which decides who is heard, does not work. "
    "Members who manage this server can see more with `/plugins why`, and do without it with `/plugins disable`."
)
HEARS_AGAIN = "I am no longer deafened in <#{channel}> and hear again."


async def say_why(rest: hikari.api.RESTClient, session: Session, reason: str) -> None:
    """Post one line on a session that ended without anybody's command; what Discord refuses is logged."""
    await _say(rest, session, FAREWELL.format(channel=session.channel_id, reason=reason.removesuffix(".")))


async def say_deafness(rest: hikari.api.RESTClient, session: Session) -> None:
    """Post one line on a bot that hears nothing by a moderator's will, or again; what Discord refuses is logged."""
    await _say(rest, session, (DEAFENED if session.deafened else HEARS_AGAIN).format(channel=session.channel_id))


async def say_no_notice(rest: hikari.api.RESTClient, session: Session) -> None:
    """Post one line on a notice that Discord does not accept, in the first channel where Discord accepts that."""
    named = " and ".join(f"<#{place}>" for place in session.places)
    text = NO_NOTICE.format(channel=session.channel_id, places=named)
    for place in dict.fromkeys((session.text_channel_id or session.channel_id, session.channel_id)):
        if await _post_line(rest, session, place, text):
            return


async def say_no_guard(rest: hikari.api.RESTClient, session: Session, plugin: str) -> None:
    """Post one line on a plugin that decides who is heard and does not work; what Discord refuses is logged."""
    await _say(rest, session, NO_GUARD.format(channel=session.channel_id, plugin=plugin))


async def _say(rest: hikari.api.RESTClient, session: Session, text: str) -> None:
    await _post_line(rest, session, session.text_channel_id or session.channel_id, text)


async def _post_line(rest: hikari.api.RESTClient, session: Session, channel_id: int, text: str) -> bool:
    """Post a line in a channel; whether Discord accepted it."""
    try:
        async with asyncio.timeout(POST_S):
            await rest.create_message(
                channel_id,
                text,
                nonce=new_nonce(),
                mentions_everyone=False,
                user_mentions=False,
                role_mentions=False,
            )
    except Exception as error:  # noqa: BLE001 - an answer of another shape raises anything
        _log.info("guild %d: nobody could be told in the channel (%s)", session.guild_id, type(error).__name__)
        return False
    return True


def notice_words(session: Session, *, opt_in: bool) -> str:
    """The text of a session's notice."""
    lines = [(OPT_IN if opt_in else NOTICE).format(channel=session.channel_id)]
    shared = any(each.use is Use.PLUGIN for each in session.facts)
    for facts in sorted(session.facts, key=lambda each: (each.use.value, each.plugin, each.channel_id)):
        lines += [f"- {line}" for line in _lines(facts, session.channel_id, shared=shared)]
    lines += [f"- {UNSEEN.format(text=place)}" for place in session.places if place != session.channel_id]
    if opt_in and not USUAL.covers(session.terms_for(sees_all=True)):
        lines.append(f"- {EARLIER}")
    return "\n".join(lines)


def _shown(facts: NoticeFacts) -> str:
    return (IN_THREAD if facts.in_thread else CAPTIONS).format(text=facts.channel_id)


def _lines(facts: NoticeFacts, channel_id: int, *, shared: bool) -> Iterator[str]:
    """What the notice tells of one consumer."""
    days = counted(facts.kept_days, "day")
    match facts.use:
        case Use.TEXT:
            yield _shown(facts) if facts.shown else NO_CAPTIONS
            if facts.onlookers:
                yield ONLOOKERS.format(channel=channel_id)
            if facts.kept_days:
                yield STORED.format(days=days, text=facts.channel_id, channel=channel_id)
            else:
                yield NOT_STORED
            if facts.text_plugins:
                words = READ_BY_SEVERAL if len(facts.text_plugins) > 1 else READ_BY
                yield words.format(names=", ".join(f"`{name}`" for name in facts.text_plugins))
            if facts.sends_to:
                yield LEAVES.format(service=facts.sends_to)
            else:
                yield STAYS_ELSE if shared else STAYS
        case Use.LEVELS:
            yield LEVELS
        case Use.PLUGIN:
            yield PLUGIN.format(name=facts.plugin)
            if facts.shown:
                yield _shown(facts)
            if facts.onlookers:
                yield ONLOOKERS.format(channel=channel_id)
            if facts.kept_days:
                yield PLUGIN_STORES.format(days=days)
            if facts.sends_to:
                yield PLUGIN_SENDS.format(service=facts.sends_to)


def notice_poster(rest: hikari.api.RESTClient, consent: Consent) -> PostNotice:
    """A function that posts the notice through `rest`."""

    async def post(session: Session, places: Sequence[int]) -> list[int]:
        row = MessageActionRowBuilder()
        row.add_interactive_button(hikari.ButtonStyle.SUCCESS, agree_id(session.terms), label="Agree")
        row.add_interactive_button(hikari.ButtonStyle.SECONDARY, REFUSE_ID, label="Don't")
        text = notice_words(session, opt_in=consent.mode(session.guild_id) == "opt-in")
        taken: list[int] = []
        for place in places:
            try:
                async with asyncio.timeout(POST_S):
                    await rest.create_message(
                        place,
                        text,
                        component=row,
                        nonce=new_nonce(),
                        mentions_everyone=False,
                        user_mentions=False,
                        role_mentions=False,
                    )
            except (hikari.HikariError, TimeoutError) as error:
                _log.warning(
                    "guild %d: Discord did not take the notice in channel %d (%s), so nobody is heard",
                    session.guild_id,
                    place,
                    type(error).__name__,
                )
                break
            taken.append(place)
        return taken

    return post
