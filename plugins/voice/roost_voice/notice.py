"""The notice: told in the channel, with buttons, before anybody is heard."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import hikari
from hikari.impl import MessageActionRowBuilder

from roost.consent import AGREE_ID, REFUSE_ID

if TYPE_CHECKING:
    from roost.consent import Consent
    from roost_voice.session import PostNotice, Session

_log = logging.getLogger("roost.voice.notice")

POST_S = 10.0
"""How long Discord may take to accept the notice."""

OPT_IN = "I am listening in <#{channel}>. Nobody is heard before they press **Agree**; **Don't** keeps you unheard."
NOTICE = "I am listening in <#{channel}>. Press **Don't** if you do not want to be heard."


FAREWELL = "I am no longer in <#{channel}>: {reason}."


DEAFENED = (
    "A moderator has deafened me in <#{channel}>, so Discord sends me no voices and I hear nobody. "
    "Undeafen me and I go on."
)
HEARS_AGAIN = "I am no longer deafened in <#{channel}> and hear again."


async def say_why(rest: hikari.api.RESTClient, session: Session, reason: str) -> None:
    """Post one line on a session that ended without anybody's command; what Discord refuses is logged."""
    await _say(rest, session, FAREWELL.format(channel=session.channel_id, reason=reason.removesuffix(".")))


async def say_deafness(rest: hikari.api.RESTClient, session: Session) -> None:
    """Post one line on a bot that hears nothing by a moderator's will, or again; what Discord refuses is logged."""
    await _say(rest, session, (DEAFENED if session.deafened else HEARS_AGAIN).format(channel=session.channel_id))


async def _say(rest: hikari.api.RESTClient, session: Session, text: str) -> None:
    try:
        async with asyncio.timeout(POST_S):
            await rest.create_message(
                session.text_channel_id or session.channel_id,
                text,
                mentions_everyone=False,
                user_mentions=False,
                role_mentions=False,
            )
    except Exception as error:  # noqa: BLE001 - an answer of another shape raises anything
        _log.info("guild %d: nobody could be told in the channel (%s)", session.guild_id, type(error).__name__)


def notice_poster(rest: hikari.api.RESTClient, consent: Consent) -> PostNotice:
    """A function that posts the notice through `rest`."""

    async def post(session: Session) -> bool:
        row = MessageActionRowBuilder()
        row.add_interactive_button(hikari.ButtonStyle.SUCCESS, AGREE_ID, label="Agree")
        row.add_interactive_button(hikari.ButtonStyle.SECONDARY, REFUSE_ID, label="Don't")
        text = OPT_IN if consent.mode(session.guild_id) == "opt-in" else NOTICE
        try:
            async with asyncio.timeout(POST_S):
                await rest.create_message(
                    # A voice channel has a text chat of its own, for sessions that came from no text channel.
                    session.text_channel_id or session.channel_id,
                    text.format(channel=session.channel_id),
                    component=row,
                    mentions_everyone=False,
                    user_mentions=False,
                    role_mentions=False,
                )
        except (hikari.HikariError, TimeoutError) as error:
            _log.warning(
                "guild %d: Discord did not take the notice in channel %d (%s), so nobody is heard",
                session.guild_id,
                session.text_channel_id or session.channel_id,
                type(error).__name__,
            )
            return False
        return True

    return post
