"""Consent and personal data, for members: the buttons of every notice and ``/privacy``."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import hikari
import lightbulb

from roost import confirming
from roost.audio import CallStatus, Unheard, Unshown
from roost.commands.personal_data import Outcome, PersonalData, as_file
from roost.confirming import Confirmations
from roost.consent import REFUSE_ID, USUAL, StoredConsent, Terms, agreed_terms
from roost.deferral import defer_during, defer_for, defer_if_late
from roost.errors import ResourceError, StoreCause, StoreError
from roost.i18n import Texts

_log = logging.getLogger("roost.consent")

TEXTS = Texts.beside(__file__)

AGREED = (
    "You agreed: Roost may hear and transcribe you in this server. Where a notice asks for more, you are asked "
    "again. Change your mind any time with `/privacy opt-out`."
)
REFUSED = "You are not heard, and nothing you say is transcribed. Change your mind any time with `/privacy opt-in`."
NOT_STORED = "That could not be stored, so nothing has changed: my database is busy. Try again in a moment."
NOT_STORABLE = (
    "That could not be stored, so nothing has changed: my database cannot be written, for example because its disk is "
    "full. Tell the owner of this bot, and try again later."
)
REFUSED_NOT_STORED = (
    "You are not heard from now on. But neither my database nor my disk could keep that yet. I go on trying; tell the "
    "owner of this bot, and use `/privacy opt-out` again if I was restarted meanwhile."
)
NOT_FORGOTTEN = (
    "Your agreements to be heard do not count any more, and I will delete them. But the rest could not be "
    "deleted: my database is busy or cannot be reached. Use `/privacy forget-me` again in a moment."
)
NOT_FORGETTABLE = (
    "Your agreements to be heard do not count any more, and I will delete them. But the rest could not be "
    "deleted: my database cannot be written, for example because its disk is full. Tell the owner of this bot, and use "
    "`/privacy forget-me` again later."
)
UNDECIDED_OPT_IN = (
    "You have not decided. This server hears only members who agree, so you are not heard. `/privacy opt-in` agrees."
)
UNDECIDED_NOTICE = (
    "You have not decided. This server hears everybody who does not opt out; `/privacy opt-out` does that."
)
HEARD = "You are heard in <#{channel}> now."
UNHEARD = "In <#{channel}> you are not heard now:"
NOBODY_HEARD = "Nobody is heard in <#{channel}> now: I am there, but nothing listens."
AGREED_UNHEARD = (
    "You agreed to be heard in this server, but that is not enough here. Change your mind any time with "
    "`/privacy opt-out`."
)
WHY_UNHEARD = {
    Unheard.REFUSED: "you do not want to be. `/privacy opt-in` agrees.",
    Unheard.UNDECIDED: "you have not agreed. Press **Agree** under the notice there, or use `/privacy opt-in`.",
    Unheard.FORBIDDEN: "{plugin} does not allow it. Ask those who manage this server about it.",
    Unheard.GUARD_FAILS: (
        "{plugin}, which decides about that, does not work. Tell the owner of this bot. Those who manage this server "
        "can do without it: `/plugins disable`."
    ),
    Unheard.GUARD_LOADS: "{plugin}, which decides about that, is being loaded. Look again in a moment.",
    Unheard.NOTICE_COMING: "the notice has to stand first, and is being posted. Look again in a moment.",
    Unheard.NOTICE_FAILS: (
        "Discord does not accept the notice that has to stand first. I keep trying. Those who manage this server "
        "should check that I have View Channel and Send Messages in <#{channel}>, and where the text goes."
    ),
    Unheard.ASKED_MORE: (
        "the notice there asks for more than you agreed to. Read it in the chat of <#{channel}>, and press **Agree** "
        "under it if you want to be heard."
    ),
    Unheard.UNSEEN: (
        "you cannot see every channel where the notice stands. Press **Agree** under it in the chat of <#{channel}>; "
        "if you cannot see that either, ask those who manage this server."
    ),
    Unheard.ONLOOKERS: (
        "members who cannot be in <#{channel}> can read along. Press **Agree** under the notice there if you want to "
        "be heard all the same."
    ),
    Unheard.UNTOLD: "you came after the notice. Another one is on its way, and you are heard once it stands.",
    Unheard.FORGOTTEN: (
        "you asked to be forgotten during this call. You are heard again when you press **Agree** under the notice "
        "there, or when another notice is posted while you are there. To stay unheard, press **Don't**, or use "
        "`/privacy opt-out`."
    ),
    Unheard.DEAF: "a moderator has deafened me, so I hear nobody. Undeafen me.",
}
"""What keeps a member from being heard, and what they can do."""
PLUGIN_SAYS = "It says: {reason}"
A_PLUGIN = "a plugin"
THE_PLUGIN = "the plugin `{plugin}`"
WHY_UNSHOWN = {
    Unshown.ONLOOKERS: (
        "Your captions are not shown for now, because somebody could read along who cannot be in <#{channel}>."
    ),
    Unshown.CUT_OFF: (
        "Your captions are not shown for now, because I cannot write where they belong. `/transcribe start` in another "
        "channel moves them."
    ),
    Unshown.MUTED: (
        "What you say becomes no text for now, because the program that turns speech into text crashed on your sound. "
        "I try again later."
    ),
    Unshown.FAILED: (
        "Nothing becomes text for now, because the program that turns speech into text does not work. "
        "`/transcribe start` tries again."
    ),
}
BOT_ITSELF = "the bot itself"
EXPORTED = "Everything that is held about you, as a file. It covers {reached}."
FORGET = (
    "Everything that is held about you is deleted for good, in every server: your decision whether you are heard, what "
    "you said in transcripts, and your settings."
)
DELETE = "Delete"
FORGOTTEN = "What was held about you is deleted. That covers {reached}."
SILENT_EXPORT = (
    "These plugins have no export of their own, so of them the file has only what they stored under your id: {plugins}."
)
ABSENT_EXPORT = "These plugins are not loaded, so of them the file has only what they stored under your id: {plugins}."
SILENT_DELETE = (
    "These plugins have no deletion of their own, so only what they stored under your id is deleted: {plugins}."
)
FAILED_DELETE = (
    "These plugins failed; what they stored under your id is deleted, and they are asked for the rest when they are "
    "next loaded: {plugins}."
)
ABSENT = (
    "These plugins are not loaded; what they stored under your id is deleted, and they are asked for the rest when "
    "they are loaded: {plugins}."
)
FAILED = (
    "These plugins failed, so of them the file has only what they stored under your id; ask whoever runs this bot for "
    "the rest: {plugins}."
)
KEPT = (
    "Your refusal stays in servers that hear everybody who does not refuse ({count}), because without it you would be "
    "heard there again."
)
BACKUPS = "Backups from before updates held data of that time, so they are deleted too: {names}."
BACKUPS_LEFT = "These backups from before updates could not be deleted; ask whoever runs this bot: {names}."
TRACES = "The last traces of it are still being removed from the files of my database."
STAYS = (
    "Out of my reach are what others copied or exported, captions that I no longer know to be yours (ask those who "
    "manage the server), and backups that whoever runs this bot made on their own."
)
UNSAID = "These plugins could not say what of you stays elsewhere, such as messages at Discord: {plugins}."
DENIALS = (
    "Rules that keep you from commands stay, because they are the servers': {count}. Those who manage a server can "
    "delete them with `/config access`."
)
LEFTOVERS = "This is still there: {what}. For ten minutes the button below deletes it."
DELETE_TOO = "Delete that too"
DELETING = "Being deleted: {what}. This message changes when that is done."
TOO_BIG = "What is held about you is too much for a file here; ask whoever runs this bot."

FILE_LIMIT_BYTES = 10_000_000
LEFTOVERS_S = 600.0
"""How long the deletion of what was left can be asked for."""
MOST_NAMED = 5
"""Of the backups in a reply."""


AskCall = Callable[[int, int], Awaitable[Sequence[CallStatus]]]
"""What plugins know of a member in a call; by (guild id, user id)."""


class ConsentButtons:
    """Answers presses of the notice's buttons."""

    def __init__(self, consent: StoredConsent, ask_call: AskCall) -> None:
        self._consent = consent
        self._ask_call = ask_call

    async def on_interaction(self, event: hikari.InteractionCreateEvent) -> None:
        interaction = event.interaction
        if not isinstance(interaction, hikari.ComponentInteraction) or interaction.guild_id is None:
            return
        terms = agreed_terms(interaction.custom_id)
        if terms is None and interaction.custom_id != REFUSE_ID:
            return
        # The decision counts from now on, whether or not Discord takes the answer.
        text, _ = await asyncio.gather(
            decide(self._consent, self._ask_call, interaction, terms),
            interaction.create_initial_response(
                hikari.ResponseType.DEFERRED_MESSAGE_CREATE,
                flags=hikari.MessageFlag.EPHEMERAL,
                mentions_everyone=False,
                user_mentions=False,
                role_mentions=False,
            ),
        )
        await interaction.edit_initial_response(text, mentions_everyone=False, user_mentions=False, role_mentions=False)


async def decide(
    consent: StoredConsent,
    ask_call: AskCall,
    interaction: hikari.ComponentInteraction | hikari.CommandInteraction,
    terms: Terms | None,
) -> str:
    """Record a decision; return the words that say what holds now, in the member's language.

    Args:
        terms: What the member agrees to; None: they refuse.
    """
    assert interaction.guild_id is not None
    guild_id, user_id = int(interaction.guild_id), int(interaction.user.id)
    try:
        if terms is not None:
            await consent.agree(guild_id, user_id, terms, press=interaction.id)
        else:
            await consent.opt_out(guild_id, user_id, press=interaction.id)
    except ResourceError as error:
        _log.error("guild %d: the decision of user %d is not stored: %s", guild_id, user_id, error)
        if terms is None:
            return TEXTS(interaction, "refused-not-stored", REFUSED_NOT_STORED)
        if isinstance(error, StoreError) and error.cause is StoreCause.BUSY:
            return TEXTS(interaction, "not-stored", NOT_STORED)
        return TEXTS(interaction, "not-storable", NOT_STORABLE)
    return _holding(consent, guild_id, user_id, interaction, await ask_call(guild_id, user_id))


def _holding(consent: StoredConsent, guild_id: int, user_id: int, reader: Any, call: Sequence[CallStatus]) -> str:
    """What holds for a member now, in the call that they are in too, in their language."""
    decision = consent.decision(guild_id, user_id)
    if decision is False:
        return TEXTS(reader, "refused", REFUSED)
    if decision is None and consent.mode(guild_id) == "opt-in":
        return TEXTS(reader, "undecided-opt-in", UNDECIDED_OPT_IN)
    lines = [TEXTS(reader, "agreed", AGREED) if decision else TEXTS(reader, "undecided-notice", UNDECIDED_NOTICE)]
    if (why := _why_unheard(call, reader)) is not None:
        if decision:
            lines = [TEXTS(reader, "agreed-unheard", AGREED_UNHEARD)]
        return "\n".join([*lines, why])
    if call and all(each.unheard is None for each in call):
        lines.append(TEXTS(reader, "heard", HEARD, channel=call[0].channel_id))
    elif call:
        lines.append(TEXTS(reader, "nobody-heard", NOBODY_HEARD, channel=call[0].channel_id))
    for each in call:
        if each.unshown is not None:
            key = f"unshown-{each.unshown.value}"
            lines.append(TEXTS(reader, key, WHY_UNSHOWN[each.unshown], channel=each.channel_id))
    return "\n".join(lines)


def _why_unheard(call: Sequence[CallStatus], reader: Any) -> str | None:
    """Why a member is not heard in the call that they are in, and what they can do; None: they are, or nobody is."""
    for each in call:
        found = each.unheard
        if found is None or found.why is Unheard.IDLE:
            continue
        plugin = TEXTS(reader, "a-plugin", A_PLUGIN)
        if found.plugin:
            plugin = TEXTS(reader, "the-plugin", THE_PLUGIN, plugin=found.plugin)
        key, channel = f"unheard-{found.why.value}", each.channel_id
        why = TEXTS(reader, key, WHY_UNHEARD[found.why], channel=channel, plugin=plugin)
        said = [TEXTS(reader, "plugin-says", PLUGIN_SAYS, reason=found.reason)] if found.reason else []
        return " ".join([TEXTS(reader, "unheard", UNHEARD, channel=channel), why, *said])
    return None


async def _decide_here(consent: StoredConsent, ask_call: AskCall, ctx: lightbulb.Context, terms: Terms | None) -> None:
    """Carry out ``opt-in`` or ``opt-out``: the decision counts from now on, whether or not Discord takes the answer."""
    text = await defer_during(ctx, decide(consent, ask_call, ctx.interaction, terms), ephemeral=True)
    await _reply(ctx, text)


def privacy_loader(
    consent: StoredConsent, data: PersonalData, confirmations: Confirmations, ask_call: AskCall
) -> lightbulb.Loader:
    """``/privacy status | opt-in | opt-out | my-data | forget-me``."""
    group = lightbulb.Group("privacy", "Who may hear you in this server")
    one_at_a_time = asyncio.Lock()
    """Of the exports, which can be large."""

    @group.register
    class Status(lightbulb.SlashCommand, name="status", description="Are you heard in this server?"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            assert ctx.guild_id is not None
            call = await defer_if_late(ctx, ask_call(ctx.guild_id, ctx.user.id), ephemeral=True)
            await _reply(ctx, _holding(consent, ctx.guild_id, ctx.user.id, ctx, call))

    @group.register
    class OptIn(lightbulb.SlashCommand, name="opt-in", description="Agree to be heard and transcribed"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _decide_here(consent, ask_call, ctx, USUAL)

    @group.register
    class OptOut(lightbulb.SlashCommand, name="opt-out", description="Stop being heard, at once"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _decide_here(consent, ask_call, ctx, None)

    @group.register
    class MyData(lightbulb.SlashCommand, name="my-data", description="Get everything that is held about you"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            async def export() -> tuple[Outcome, bytes]:
                async with one_at_a_time:
                    outcome = await data.export(int(ctx.user.id))
                    return outcome, await asyncio.to_thread(as_file, outcome, int(ctx.user.id))

            outcome, file = await defer_for(ctx, export)
            if len(file) > FILE_LIMIT_BYTES:
                await _reply(ctx, TEXTS(ctx, "too-big", TOO_BIG))
                return
            lines = [TEXTS(ctx, "exported", EXPORTED, reached=_reached(ctx, outcome))]
            if outcome.silent:
                lines.append(TEXTS(ctx, "silent-export", SILENT_EXPORT, plugins=", ".join(outcome.silent)))
            if outcome.absent:
                lines.append(TEXTS(ctx, "absent-export", ABSENT_EXPORT, plugins=", ".join(outcome.absent)))
            if outcome.failed:
                lines.append(TEXTS(ctx, "failed", FAILED, plugins=", ".join(outcome.failed)))
            whole = hikari.Bytes(file, "my-data.json", mimetype="application/json")
            await _reply(ctx, "\n".join(lines)[:2000], whole)

    @group.register
    class ForgetMe(lightbulb.SlashCommand, name="forget-me", description="Delete everything that is held about you"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            what, label = TEXTS(ctx, "forget", FORGET), TEXTS(ctx, "delete", DELETE)
            if kept := data.kept_refusals(int(ctx.user.id)):
                what = f"{what} {TEXTS(ctx, 'kept', KEPT, count=len(kept))}"
            await confirmations.ask(ctx, what, label, functools.partial(_forget, data, confirmations, ask_call))

    loader = lightbulb.Loader()
    loader.command(group)
    return loader


async def _forget(
    data: PersonalData, confirmations: Confirmations, ask_call: AskCall, interaction: hikari.ComponentInteraction
) -> confirming.Outcome:
    try:
        outcome = await data.forget(int(interaction.user.id))
    except StoreError as error:
        _log.error("the data of user %d is not deleted: %s", interaction.user.id, error)
        if error.cause is StoreCause.BUSY:
            lines = [TEXTS(interaction, "not-forgotten", NOT_FORGOTTEN)]
        else:
            lines = [TEXTS(interaction, "not-forgettable", NOT_FORGETTABLE)]
        if kept := data.kept_refusals(int(interaction.user.id)):
            lines.append(TEXTS(interaction, "kept", KEPT, count=len(kept)))
        return confirming.Outcome("\n".join(lines))
    lines = [TEXTS(interaction, "forgotten", FORGOTTEN, reached=_reached(interaction, outcome))]
    call = [] if interaction.guild_id is None else await ask_call(interaction.guild_id, interaction.user.id)
    if (why := _why_unheard(call, interaction)) is not None:
        lines.append(why)
    if outcome.kept_refusals:
        lines.append(TEXTS(interaction, "kept", KEPT, count=len(outcome.kept_refusals)))
    if outcome.silent:
        lines.append(TEXTS(interaction, "silent-delete", SILENT_DELETE, plugins=", ".join(outcome.silent)))
    if outcome.failed:
        lines.append(TEXTS(interaction, "failed-delete", FAILED_DELETE, plugins=", ".join(outcome.failed)))
    if outcome.unsaid:
        lines.append(TEXTS(interaction, "unsaid", UNSAID, plugins=", ".join(outcome.unsaid)))
    if outcome.absent:
        lines.append(TEXTS(interaction, "absent", ABSENT, plugins=", ".join(outcome.absent)))
    if outcome.backups.deleted:
        lines.append(TEXTS(interaction, "backups", BACKUPS, names=_some(outcome.backups.deleted)))
    if outcome.backups.left:
        lines.append(TEXTS(interaction, "backups-left", BACKUPS_LEFT, names=_some(outcome.backups.left)))
    if not outcome.traceless:
        lines.append(TEXTS(interaction, "traces", TRACES))
    if outcome.denials:
        lines.append(TEXTS(interaction, "denials", DENIALS, count=outcome.denials))
    lines.append(TEXTS(interaction, "stays", STAYS))
    if not outcome.leftovers:
        return confirming.Outcome("\n".join(lines))
    what = "; ".join(each.what for each in outcome.leftovers)
    lines.append(TEXTS(interaction, "leftovers", LEFTOVERS, what=what))

    async def delete_too(pressed: hikari.ComponentInteraction) -> confirming.Outcome:
        async def later() -> str:
            return "\n".join(await data.delete_leftovers(outcome.leftovers))

        return confirming.Outcome(TEXTS(pressed, "deleting", DELETING, what=what), later=later)

    label = TEXTS(interaction, "delete-too", DELETE_TOO)
    row = confirmations.row(int(interaction.user.id), (label, delete_too), expires_s=LEFTOVERS_S)
    return confirming.Outcome("\n".join(lines), [row])


def _reached(reader: Any, outcome: Outcome) -> str:
    """Who answered, in the reader's language."""
    _core, *plugins = outcome.reached
    return ", ".join([TEXTS(reader, "bot-itself", BOT_ITSELF), *plugins])


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" (+{more})" if more > 0 else "")


async def _reply(ctx: lightbulb.Context, text: str, *files: hikari.Bytes) -> None:
    """Answer so that only the member sees it and nobody is notified."""
    await ctx.respond(
        text,
        attachments=files,
        ephemeral=True,
        mentions_everyone=False,
        user_mentions=False,
        role_mentions=False,
    )
