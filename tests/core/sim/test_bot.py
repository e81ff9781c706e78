"""Unpatched hikari and lightbulb at the simulated Discord."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import hikari
import lightbulb
import pytest

from roost.sim import ControlError

pytestmark = pytest.mark.sim

INTENTS = hikari.Intents.GUILDS | hikari.Intents.GUILD_VOICE_STATES | hikari.Intents.GUILD_MESSAGES


class Say(lightbulb.SlashCommand, name="say", description="Says it again."):
    text = lightbulb.string("text", "What to say.")
    times = lightbulb.integer("times", "How often.", default=1, min_value=1, max_value=3)

    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        await ctx.respond(self.text * self.times)


class Slow(lightbulb.SlashCommand, name="slow", description="Thinks first."):
    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        await ctx.defer(ephemeral=True)
        await asyncio.sleep(0.1)
        await ctx.respond("thought")
        await ctx.respond("and more", ephemeral=True)


class Never(lightbulb.SlashCommand, name="never", description="Only thinks."):
    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        await ctx.defer()


class Silent(lightbulb.SlashCommand, name="silent", description="Says nothing."):
    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        return


class Edits(lightbulb.SlashCommand, name="edits", description="Changes its mind."):
    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        await ctx.edit_response(await ctx.respond("first"), "second")
        number = await ctx.respond("third")
        await ctx.delete_response(number)


class Kinds(lightbulb.SlashCommand, name="kinds", description="Takes everything."):
    who = lightbulb.user("who", "A member.")
    where = lightbulb.channel("where", "A channel.", channel_types=[hikari.ChannelType.GUILD_VOICE])
    role = lightbulb.role("role", "A role.")
    yes = lightbulb.boolean("yes", "Or no.")
    much = lightbulb.number("much", "How much.")

    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        assert isinstance(self.who, hikari.Member | hikari.InteractionMember)
        await ctx.respond(f"{self.who.display_name} {self.where.name} {self.role.name} {self.yes} {self.much}")


group = lightbulb.Group("deep", "Levels.")
inner = group.subgroup("inner", "Further levels.")


@group.register
class Upper(lightbulb.SlashCommand, name="upper", description="A subcommand."):
    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        await ctx.respond("upper")


@inner.register
class Lower(lightbulb.SlashCommand, name="lower", description="A subcommand of a group."):
    text = lightbulb.string("text", "Any.")

    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        await ctx.respond(f"lower {self.text}")


async def _complete(ctx: lightbulb.AutocompleteContext[str]) -> None:
    await ctx.respond([f"{ctx.focused.value}-{n}" for n in range(2)])


class Fruit(lightbulb.SlashCommand, name="fruit", description="Completes."):
    kind = lightbulb.string("kind", "Which.", autocomplete=_complete)

    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        await ctx.respond(self.kind)


class Admins(
    lightbulb.SlashCommand,
    name="admins",
    description="Not for all.",
    default_member_permissions=hikari.Permissions.MANAGE_GUILD,
):
    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        await ctx.respond("ok")


class Buttons(lightbulb.SlashCommand, name="buttons", description="Shows buttons."):
    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        row = hikari.impl.MessageActionRowBuilder()
        row.add_interactive_button(hikari.ButtonStyle.PRIMARY, "agree", label="Agree")
        row.add_interactive_button(hikari.ButtonStyle.DANGER, "no", label="No", is_disabled=True)
        row.add_interactive_button(hikari.ButtonStyle.SECONDARY, "later", label="Later")
        row.add_interactive_button(hikari.ButtonStyle.SECONDARY, "form", label="Form")
        menu = hikari.impl.MessageActionRowBuilder()
        menu.add_text_menu("menu").add_option("One", "1").add_option("Two", "2")
        await ctx.respond("choose", components=[row, menu], ephemeral=True)


COMMANDS = [Say, Slow, Never, Silent, Edits, Kinds, Fruit, Admins, Buttons]


async def on_component(event: hikari.ComponentInteractionCreateEvent) -> None:
    interaction = event.interaction
    update = hikari.ResponseType.MESSAGE_UPDATE
    if interaction.custom_id == "agree":
        await interaction.create_initial_response(update, f"agreed by {interaction.user.global_name}", components=[])
    elif interaction.custom_id == "later":
        await interaction.create_initial_response(hikari.ResponseType.DEFERRED_MESSAGE_UPDATE)
        await interaction.edit_initial_response("later it is")
    elif interaction.custom_id == "menu":
        create = hikari.ResponseType.MESSAGE_CREATE
        await interaction.create_initial_response(create, f"chose {', '.join(interaction.values)}")
    else:
        row = hikari.impl.ModalActionRowBuilder()
        row.add_text_input("name", "Your name")
        await interaction.create_modal_response("A form", "form", components=[row])


async def on_modal(event: hikari.ModalInteractionCreateEvent) -> None:
    value = next(iter(next(iter(event.interaction.components)))).value  # type: ignore[attr-defined]
    await event.interaction.create_initial_response(hikari.ResponseType.MESSAGE_CREATE, f"hello {value}")


@asynccontextmanager
async def running(bench: Any, token: str | None = None, *, commands: bool = False) -> AsyncIterator[hikari.GatewayBot]:
    bot = hikari.GatewayBot(
        token or bench.bot.token,
        rest_url=bench.sim.rest_url,
        intents=INTENTS,
        banner=None,
        logs=None,
        suppress_optimization_warning=True,
    )
    client = None
    if commands:
        client = lightbulb.client_from_app(bot, default_enabled_guilds=[bench.guild.id])
        for command in COMMANDS:
            client.register(command)
        client.register(group)
        bot.subscribe(hikari.StartedEvent, client.start)
        bot.subscribe(hikari.ComponentInteractionCreateEvent, on_component)
        bot.subscribe(hikari.ModalInteractionCreateEvent, on_modal)
    try:
        await bot.start(check_for_updates=False)
        if commands:
            await bench.until(lambda: bool(bench.sim.commands.get((bench.bot.application_id, bench.guild.id))))
        yield bot
    finally:
        if client is not None and bot.is_alive:
            await client.stop()
        if bot.is_alive:
            await bot.close()


@pytest.fixture
async def bot(bench: Any) -> AsyncIterator[hikari.GatewayBot]:
    async with running(bench, commands=True) as made:
        yield made


@pytest.fixture
async def plain(bench: Any) -> AsyncIterator[hikari.GatewayBot]:
    async with running(bench) as made:
        yield made


class Slash:
    """Ada types."""

    def __init__(self, bench: Any) -> None:
        self._bench = bench

    async def __call__(self, command: str, member: str = "ada", wait_s: float = 3.0, **options: Any) -> Any:
        member_id = getattr(self._bench, member)
        return await self._bench.control.slash(
            member_id=member_id, channel_id=self._bench.text, command=command, options=options, wait_s=wait_s
        )

    async def said(self, command: str, **options: Any) -> list[str]:
        answer = await self(command, **options)
        assert not answer["timed_out"]
        return [reply["content"] for reply in answer["replies"]]


@pytest.fixture
def slash(bench: Any, bot: hikari.GatewayBot) -> Slash:
    return Slash(bench)


async def test_a_refused_token_is_an_error(bench: Any) -> None:
    wrong = bench.bot.token[:-1] + "x"
    with pytest.raises(hikari.UnauthorizedError):
        async with running(bench, wrong):
            pass


async def test_the_bot_knows_its_guilds(bench: Any, plain: hikari.GatewayBot) -> None:
    me = plain.get_me()
    assert me is not None
    assert me.id == bench.bot_id
    assert {guild.name for guild in plain.cache.get_guilds_view().values()} == {"Roost Nest", "Nest 2"}
    assert len(plain.cache.get_guild_channels_view_for_guild(bench.guild.id)) == len(bench.guild.channels)
    member = await plain.rest.fetch_member(bench.guild.id, bench.ada)
    assert member.display_name == "Ada"
    assert (await plain.rest.fetch_my_user()).id == bench.bot_id
    assert (await plain.rest.fetch_application()).id == bench.bot.application_id
    assert len([each async for each in plain.rest.fetch_members(bench.guild.id)]) == len(bench.guild.members)


async def test_commands_are_synchronised(bench: Any, slash: Slash) -> None:
    names = {command._command_data.name for command in COMMANDS} | {"deep"}
    assert set((await bench.control.state())["commands"][str(bench.guild.id)]) == names


async def test_round_trips(slash: Slash) -> None:
    assert await slash.said("/say", text="ho", times=3) == ["hohoho"]
    assert await slash.said("say", text="ho") == ["ho"]
    assert await slash.said("/deep upper") == ["upper"]
    assert await slash.said("/deep inner lower", text="x") == ["lower x"]


async def test_the_client_checks_what_is_typed(bench: Any, slash: Slash) -> None:
    for command, options, says in (
        ("/say", {}, "'text' is required"),
        ("/say", {"text": "x", "times": 9}, "times is from 1 to 3"),
        ("/say", {"text": "x", "times": "many"}, "times is a whole number, not 'many'"),
        ("/say", {"txt": "x"}, "no option 'txt'"),
        ("/deep", {}, "needs a subcommand: inner, upper"),
        ("/deep outer", {}, "no subcommand 'outer'"),
        ("/admins", {}, "may not use /admins"),
    ):
        with pytest.raises(ControlError, match=says):
            await slash(command, **options)
    assert await slash.said("/admins", member="mod") == ["ok"]


async def test_options_of_every_kind(bench: Any, slash: Slash) -> None:
    options = {"who": bench.ben, "where": bench.voice[1], "role": bench.guild.id, "yes": True, "much": 1.5}
    assert await slash.said("/kinds", **options) == ["Ben loft @everyone True 1.5"]
    with pytest.raises(ControlError, match="not of a type"):
        await slash("/kinds", **(options | {"where": bench.text}))
    with pytest.raises(ControlError, match="there is no role 5"):
        await slash("/kinds", **(options | {"role": 5}))


async def test_deferred_replies_and_followups(bench: Any, slash: Slash) -> None:
    answer = await slash("/slow")
    assert [(each["content"], each["ephemeral"]) for each in answer["replies"]] == [
        ("thought", True),
        ("and more", True),
    ]
    assert not answer["timed_out"]
    assert await bench.control.messages(channel_id=bench.text) == []


async def test_what_is_never_answered_times_out(slash: Slash) -> None:
    for command in ("/never", "/silent"):
        answer = await slash(command, wait_s=0.3)
        assert answer == {"replies": [], "timed_out": True}


async def test_edited_and_deleted_replies(bench: Any, slash: Slash) -> None:
    await slash("/edits")
    await bench.until(lambda: bool(bench.logged("message_delete")))
    messages = await bench.control.messages(channel_id=bench.text)
    assert [(each["content"], each["edits"]) for each in messages] == [("second", 1)]


async def test_autocompletion(bench: Any, slash: Slash) -> None:
    choices = await bench.control.autocomplete(
        member_id=bench.ada, channel_id=bench.text, command="/fruit", options={"kind": "ap"}, focused="kind"
    )
    assert [choice["value"] for choice in choices] == ["ap-0", "ap-1"]


async def test_buttons_menus_and_forms(bench: Any, slash: Slash) -> None:
    message = (await slash("/buttons"))["replies"][0]
    press = {"member_id": bench.ada, "message_id": int(message["id"])}
    answer = await bench.control.press(**press, label="Later")
    assert [each["content"] for each in answer["replies"]] == ["later it is"]
    answer = await bench.control.press(**press, custom_id="menu", values=["2"])
    assert [each["content"] for each in answer["replies"]] == ["chose 2"]
    form = (await bench.control.press(**press, label="Form"))["modal"]
    assert (form["custom_id"], form["title"]) == ("form", "A form")
    answer = await bench.control.modal(
        member_id=bench.ada, channel_id=bench.text, custom_id="form", values={"name": "Ada"}
    )
    assert [each["content"] for each in answer["replies"]] == ["hello Ada"]
    for wrong, says in (
        (press | {"label": "No"}, "disabled"),
        (press | {"label": "Maybe"}, "no such button; it has: Agree, No, Later, Form, menu"),
        (press | {"label": "Agree", "member_id": bench.ben}, "ephemeral"),
    ):
        with pytest.raises(ControlError, match=says):
            await bench.control.press(**wrong)
    answer = await bench.control.press(**press, custom_id="agree")
    assert [each["content"] for each in answer["replies"]] == ["agreed by Ada"]
    with pytest.raises(ControlError, match="no such button"):
        await bench.control.press(**press, custom_id="agree")


async def test_too_late_an_answer_is_refused(open_bench: Any) -> None:
    bench = await open_bench(interaction_limit_s=0.1)
    refused: asyncio.Queue[hikari.NotFoundError] = asyncio.Queue()

    async def late(event: hikari.CommandInteractionCreateEvent) -> None:
        await asyncio.sleep(0.3)
        try:
            await event.interaction.create_initial_response(hikari.ResponseType.MESSAGE_CREATE, "late")
        except hikari.NotFoundError as error:
            refused.put_nowait(error)

    async with running(bench) as bot:
        bot.subscribe(hikari.CommandInteractionCreateEvent, late)
        builder = bot.rest.slash_command_builder("late", "Is late.")
        await bot.rest.set_application_commands(bench.bot.application_id, [builder], guild=bench.guild.id)
        answer = await Slash(bench)("/late", wait_s=0.5)
        assert answer["timed_out"]
        assert (await asyncio.wait_for(refused.get(), 3.0)).code == 10062


async def test_messages_with_files_and_replies(bench: Any, plain: hikari.GatewayBot) -> None:
    first = await plain.rest.create_message(bench.text, "one", attachment=hikari.Bytes(b"text", "t.txt"))
    assert first.attachments[0].filename == "t.txt"
    second = await plain.rest.create_message(bench.text, "two", reply=first)
    assert second.message_reference is not None
    assert second.message_reference.id == first.id
    await first.edit("uno")
    await first.add_reaction("👍")
    await second.delete()
    assert [each.content for each in await plain.rest.fetch_messages(bench.text)] == ["uno"]
    with pytest.raises(hikari.ForbiddenError):
        await plain.rest.create_dm_channel(bench.ada)


async def test_hikari_waits_for_its_rate_limit(bench: Any, plain: hikari.GatewayBot) -> None:
    started = asyncio.get_running_loop().time()
    for n in range(6):
        await plain.rest.create_message(bench.text, str(n))
    assert 3.0 < asyncio.get_running_loop().time() - started < 8.0
    assert len(bench.sim.book.in_channel(bench.text)) == 6


async def test_it_resumes_after_a_drop(bench: Any, plain: hikari.GatewayBot) -> None:
    resumed: asyncio.Queue[Any] = asyncio.Queue()
    states: asyncio.Queue[hikari.VoiceStateUpdateEvent] = asyncio.Queue()

    async def on_resumed(event: hikari.ShardResumedEvent) -> None:
        resumed.put_nowait(event)

    async def on_state(event: hikari.VoiceStateUpdateEvent) -> None:
        states.put_nowait(event)

    plain.subscribe(hikari.ShardResumedEvent, on_resumed)
    plain.subscribe(hikari.VoiceStateUpdateEvent, on_state)
    session = next(iter(bench.sim.gateway.sessions))
    await bench.control.gateway("abort")
    await bench.until(lambda: not bench.sim.gateway.connections)
    await bench.control.voice(member_id=bench.ada, channel_id=bench.voice[0])
    await asyncio.wait_for(resumed.get(), 8.0)
    assert list(bench.sim.gateway.sessions) == [session]
    assert (await asyncio.wait_for(states.get(), 3.0)).state.user_id == bench.ada


async def test_it_identifies_again_after_an_invalid_session(bench: Any, plain: hikari.GatewayBot) -> None:
    again: asyncio.Queue[hikari.ShardReadyEvent] = asyncio.Queue()

    async def on_ready(event: hikari.ShardReadyEvent) -> None:
        again.put_nowait(event)

    plain.subscribe(hikari.ShardReadyEvent, on_ready)
    session = next(iter(bench.sim.gateway.sessions))
    await bench.control.fault("invalid_session")
    assert (await asyncio.wait_for(again.get(), 8.0)).session_id != session
    assert session not in bench.sim.gateway.sessions


async def test_voice_signalling(bench: Any, plain: hikari.GatewayBot) -> None:
    events: asyncio.Queue[Any] = asyncio.Queue()

    async def note(event: hikari.VoiceEvent) -> None:
        events.put_nowait(event)

    plain.subscribe(hikari.VoiceStateUpdateEvent, note)
    plain.subscribe(hikari.VoiceServerUpdateEvent, note)

    async def two() -> tuple[Any, Any]:
        state, server = [await asyncio.wait_for(events.get(), 3.0) for _ in range(2)]
        return state.state, server

    await plain.update_voice_state(bench.guild.id, bench.voice[0])
    state, server = await two()
    assert (state.channel_id, state.user_id, server.raw_endpoint) == (bench.voice[0], bench.bot_id, "localhost:4443")
    await plain.update_voice_state(bench.guild.id, bench.voice[1])
    moved, again = await two()
    assert (moved.channel_id, moved.session_id) == (bench.voice[1], state.session_id)
    assert again.token != server.token
    assert (await plain.rest.fetch_my_voice_state(bench.guild.id)).channel_id == bench.voice[1]
    await plain.update_voice_state(bench.guild.id, None)
    assert (await asyncio.wait_for(events.get(), 3.0)).state.channel_id is None
    with pytest.raises(hikari.NotFoundError) as info:
        await plain.rest.fetch_my_voice_state(bench.guild.id)
    assert info.value.code == 10065


async def test_closing_it_ends_its_voice_state(bench: Any) -> None:
    async with running(bench) as bot:
        await bot.update_voice_state(bench.guild.id, bench.voice[0])
        await bench.until_in(bench.voice[0])
    await bench.until_in(None)
    assert not bench.sim.gateway.sessions


async def test_two_bots_at_once(bench: Any, plain: hikari.GatewayBot) -> None:
    async with running(bench, bench.sim.world.bots[1].token) as other:
        await asyncio.gather(
            plain.update_voice_state(bench.guild.id, bench.voice[0]),
            other.update_voice_state(bench.guild.id, bench.voice[0]),
        )
        await bench.until(lambda: len(bench.guild.voice_states) == 2)
    await bench.until(lambda: len(bench.guild.voice_states) == 1)
    assert bench.channel_of_bot() == bench.voice[0]
