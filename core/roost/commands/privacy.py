"""Consent, for members: the buttons of every notice and ``/privacy``."""

from __future__ import annotations

import logging

import hikari
import lightbulb

from roost.consent import AGREE_ID, REFUSE_ID, StoredConsent

_log = logging.getLogger("roost.consent")

AGREED = (
    "You agreed: Roost may hear and transcribe you in this server. Change your mind any time with `/privacy opt-out`."
)
REFUSED = "You are not heard, and nothing you say is transcribed. Change your mind any time with `/privacy opt-in`."


class ConsentButtons:
    """Answers presses of the notice's buttons."""

    def __init__(self, consent: StoredConsent) -> None:
        self._consent = consent

    async def on_interaction(self, event: hikari.InteractionCreateEvent) -> None:
        interaction = event.interaction
        if not isinstance(interaction, hikari.ComponentInteraction) or interaction.guild_id is None:
            return
        if interaction.custom_id not in (AGREE_ID, REFUSE_ID):
            return
        agreed = interaction.custom_id == AGREE_ID
        text = await decide(self._consent, int(interaction.guild_id), int(interaction.user.id), agreed)
        await interaction.create_initial_response(
            hikari.ResponseType.MESSAGE_CREATE,
            text,
            flags=hikari.MessageFlag.EPHEMERAL,
            mentions_everyone=False,
            user_mentions=False,
            role_mentions=False,
        )


async def decide(consent: StoredConsent, guild_id: int, user_id: int, agreed: bool) -> str:
    """Record a decision and give the words that confirm it."""
    if agreed:
        await consent.agree(guild_id, user_id)
    else:
        await consent.opt_out(guild_id, user_id)
    return AGREED if agreed else REFUSED


def privacy_loader(consent: StoredConsent) -> lightbulb.Loader:
    """``/privacy status | opt-in | opt-out``."""
    group = lightbulb.Group("privacy", "Who may hear you in this server")

    @group.register
    class Status(lightbulb.SlashCommand, name="status", description="Are you heard in this server?"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            assert ctx.guild_id is not None
            decision = consent.decision(ctx.guild_id, ctx.user.id)
            if decision is None:
                mode = consent.mode(ctx.guild_id)
                text = (
                    "You have not decided. This server hears only members who agree, so you are not heard."
                    if mode == "opt-in"
                    else "You have not decided. This server hears everybody who does not opt out."
                )
            else:
                text = AGREED if decision else REFUSED
            await ctx.respond(text, ephemeral=True)

    @group.register
    class OptIn(lightbulb.SlashCommand, name="opt-in", description="Agree to be heard and transcribed"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            assert ctx.guild_id is not None
            await ctx.respond(await decide(consent, ctx.guild_id, ctx.user.id, True), ephemeral=True)

    @group.register
    class OptOut(lightbulb.SlashCommand, name="opt-out", description="Stop being heard, at once"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            assert ctx.guild_id is not None
            await ctx.respond(await decide(consent, ctx.guild_id, ctx.user.id, False), ephemeral=True)

    loader = lightbulb.Loader()
    loader.command(group)
    return loader
