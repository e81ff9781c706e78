"""Switching plugins on and off in one guild, and who may do that."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import aiohttp
import hikari
import pytest
from hikari.events.application_events import ApplicationCommandPermissionsUpdateEvent
from hikari.events.auto_mod_events import AutoModRuleCreateEvent
from hikari.events.stage_events import StageInstanceCreateEvent
from host_rig import Live, log_of, running

from roost.places import place_of_event
from roost.plugins import State
from roost.sim.client import ControlError

pytestmark = pytest.mark.sim
Drop = Callable[..., Path]

BUSY = """
CTX = []
@hookimpl
async def on_load(ctx):
    CTX.append(ctx)
    ctx.listen(hikari.InteractionCreateEvent, on_interaction)
@hookimpl
async def on_started(bot):
    for guild_id in bot.cache.get_guilds_view():
        if CTX[-1].enabled_in(guild_id): start(guild_id)
def start(guild_id): CTX[-1].task(asyncio.Event().wait(), f"of {guild_id}", guild_id=guild_id)
async def on_interaction(event): log.append(("event", int(event.interaction.guild_id)))
@hookimpl
async def guild_enabled(ctx, guild_id):
    log.append(("on", int(guild_id)))
    start(guild_id)
@hookimpl
async def guild_disabled(guild_id): log.append(("off", int(guild_id)))
@hookimpl
async def voice_join_check(request): log.append(("hook", request))
"""


def guild_tasks(name: str) -> list[int]:
    names = [task.get_name() for task in asyncio.all_tasks()]
    return sorted(int(each.rpartition(" ")[2]) for each in names if f"plugin:{name}/of " in each)


async def test_disabled_in_one_guild_nothing_reaches_it_there_and_the_other_is_as_before(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    drop("busy", BUSY, says="hi")
    async with running(tmp_path, card) as live:
        here, there = live.guilds
        assert guild_tasks("busy") == [here, there]
        since = await live.now()
        assert await live.slash("/plugins disable", plugin="busy") == "**busy** is now disabled here."
        puts = await live.puts(since)
        assert [guild for guild, _ in puts] == [here]
        assert "busy" not in puts[0][1]
        log = log_of("busy")
        assert log[-1] == ("off", here)
        assert guild_tasks("busy") == [there]
        log.clear()
        await live.host.dispatcher.call("voice_join_check", guild_id=here, request="a")
        await live.host.dispatcher.call("voice_join_check", guild_id=there, request="b")
        with pytest.raises(ControlError, match="no command /busy"):
            await live.slash("/busy")
        await live.answers()
        assert await live.slash("/busy", guild=1) == "hi"
        assert log == [("hook", "b"), ("event", there)]
        assert "switched it off" in await live.slash("/plugins why", plugin="busy")
        assert "**busy** 1: off" in await live.slash("/plugins list")
        assert "**busy** 1: on" in await live.slash("/plugins list", guild=1)
        assert "already disabled" in await live.slash("/plugins disable", plugin="busy")

    async with running(tmp_path, card) as live:
        assert "busy" not in await live.commands(0)
        assert "busy" in await live.commands(1)
        assert guild_tasks("busy") == [there]
        log_of("busy").clear()
        since = await live.now()
        assert await live.slash("/plugins enable", plugin="busy") == "**busy** is now enabled here."
        assert [guild for guild, _ in await live.puts(since)] == [here]
        assert log_of("busy")[0] == ("on", here)
        assert guild_tasks("busy") == [here, there]
        assert await live.slash("/busy") == "hi"


async def test_what_needs_a_disabled_plugin_is_off_too(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    note = """
    @hookimpl
    async def guild_disabled(guild_id): sys.modules["roost_test_logs"].order.append("-" + NAME)
    @hookimpl
    async def guild_enabled(guild_id): sys.modules["roost_test_logs"].order.append("+" + NAME)
    """
    drop("base", note.replace("NAME", "'base'"), says="base")
    drop("top", note.replace("NAME", "'top'"), requires=("base",), says="top")
    async with running(tmp_path, card) as live:
        order = log_of("order")
        order.clear()
        since = await live.now()
        assert "So is top, which needs it." in await live.slash("/plugins disable", plugin="base")
        assert order == ["-top", "-base"]
        assert len(await live.puts(since)) == 1
        assert not {"base", "top"} & set(await live.commands())
        assert "needs base, which is off here" in await live.slash("/plugins why", plugin="top")
        await live.slash("/plugins enable", plugin="base")
        assert order == ["-top", "-base", "+base", "+top"]
        assert {"base", "top"} <= set(await live.commands())


LAMPS = """
async def offers(ctx): await ctx.respond(["some"])

group = lightbulb.Group("bot", "of the owners")
lamps = group.subgroup("lamps", "lights")

@lamps.register
class Dim(lightbulb.SlashCommand, name="dim", description="dims"):
    plugin = lightbulb.string("plugin", "which", autocomplete=offers)
    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None: ...

@hookimpl
def register_loaders():
    loader = lightbulb.Loader()
    loader.command(group)
    return [loader]
"""


async def completions(live: Live, member: int, command: str) -> list[str]:
    """What is offered to a member who types ``som`` as the plugin."""
    found = await live.control.autocomplete(
        member_id=live.members[member],
        channel_id=live.texts[0],
        command=command,
        options={"plugin": "som"},
        focused="plugin",
    )
    return [str(each["value"]) for each in found]


async def test_nothing_is_offered_while_a_guard_of_commands_does_not_work(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    drop("lamps", LAMPS.replace('Group("bot"', 'Group("house"'))
    drop("gate", "@hookimpl\nasync def command_check(): ...\nraise ValueError('no')\n")
    async with running(tmp_path, card) as live:
        assert await completions(live, 1, "/house lamps dim") == []
        await live.slash("/plugins disable", plugin="gate")
        assert await completions(live, 1, "/house lamps dim") == ["some"]


MEMBERS_ONLY = """
@hookimpl
async def command_check(ctx):
    log.append((int(ctx.guild_id), int(ctx.channel_id), ctx.command_data.qualified_name))
    await ctx.defer(ephemeral=True)
    said = await ctx.respond("Let me see.")
    await ctx.edit_response(said, content="I see.")
    await ctx.delete_response(said)
    return Deny("Not for you.") if ctx.member.display_name == "Ben" and ctx.user.id == ctx.member.id else None
"""


async def test_nothing_is_offered_to_members_whom_a_plugin_refuses(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    drop("lamps", LAMPS.replace('Group("bot"', 'Group("house"'))
    drop("members", MEMBERS_ONLY)
    async with running(tmp_path, card) as live:
        ben = next(number for number, each in enumerate(card["guilds"][0]["members"]) if each["name"] == "Ben")
        assert await completions(live, ben, "/house lamps dim") == []
        assert await completions(live, 0, "/house lamps dim") == ["some"]
        assert log_of("members") == [(live.guilds[0], live.texts[0], "house lamps dim")] * 2
        assert live.host.last_failures.of("members", live.guilds[0]) is None


async def test_the_core_stays_and_strangers_are_told_so(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("some", says="hi")
    drop("lamps", LAMPS)
    async with running(tmp_path, card) as live:
        assert "The core cannot be switched off" in await live.slash("/plugins disable", plugin="core")
        assert "no plugin called nobody" in await live.slash("/plugins disable", plugin="nobody")
        assert "no plugin called nobody" in await live.slash("/plugins info", plugin="nobody")
        info = await live.slash("/plugins info", plugin="some")
        assert "Commands: /some" in info
        assert "plugin_meta, register_loaders" in info
        with pytest.raises(ControlError, match="may not use /plugins"):
            await live.slash("/plugins list", member=1)
        with pytest.raises(ControlError, match="may not use /bot"):
            await live.slash("/bot plugins check", member=1)
        await live.control.permissions(member_id=live.members[1], allow=("ADMINISTRATOR",))
        try:
            for command in ("load", "unload", "reload", "unquarantine"):
                answer = await live.slash(f"/bot plugins {command}", member=1, plugin="some")
                assert "Only the owners of this bot may do that" in answer
            assert "Only the owners" in await live.slash("/bot shutdown", member=1)
            # What they may not run tells them nothing while they type either: not the core's, not a plugin's in /bot.
            for command in ("/bot plugins unload", "/bot lamps dim"):
                assert await completions(live, 1, command) == []
                assert await completions(live, 0, command) == ["some"]
            assert await completions(live, 1, "/plugins info") == ["some"]
        finally:
            await live.control.permissions(member_id=live.members[1], deny=("ADMINISTRATOR",))
        assert await live.slash("/some") == "hi"


async def test_owners_shut_the_bot_down(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("some")
    async with running(tmp_path, card) as live:
        assert await live.slash("/bot shutdown") == "Going down."
        async with asyncio.timeout(5):
            while not live.app.stop_steps or live.app.stop_steps[-1] != "gateway.closed":
                await asyncio.sleep(0.01)
        assert live.app.stop_steps == ["some.unload", "gateway.closed"]


async def test_commands_that_an_earlier_run_left_behind_are_removed(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    application, token = card["bots"][0]["application_id"], card["bots"][0]["token"]
    old = [{"name": "old", "description": "left behind", "type": 1}]
    async with aiohttp.ClientSession(headers={"Authorization": f"Bot {token}"}) as http:
        for path in ("commands", f"guilds/{card['guilds'][1]['id']}/commands"):
            url = f"{card['rest_url']}/applications/{application}/{path}"
            async with http.put(url, json=old) as answer:
                assert answer.status == 200
    async with running(tmp_path, card) as live:
        commands = (await live.control.state())["commands"]
        assert commands.get("global", []) == []
        assert "old" not in commands[str(live.guilds[1])]
        assert {"plugins", "bot", "privacy"} <= set(commands[str(live.guilds[1])])


async def test_one_command_name_of_two_plugins_is_an_error_that_names_both(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    drop("aa", says="mine")
    text = drop("bb", says="mine too").read_text()
    drop("bb", code=text.replace("name='bb'", "name='aa'"))
    async with running(tmp_path, card) as live:
        assert live.host.records["bb"].detail == "plugin bb: its command /aa is already a command of aa"
        assert await live.slash("/aa") == "mine"
        assert "its command /aa is already a command of aa" in await live.slash("/plugins why", plugin="bb")


async def test_a_command_may_be_refused_by_a_plugin(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("says", says="hi")
    drop("denies", "@hookimpl\nasync def command_check(ctx): return Deny('Not on Sundays.')\n")
    async with running(tmp_path, card) as live:
        assert await live.slash("/says") == "Not on Sundays."
        await live.slash("/plugins disable", plugin="denies")
        assert await live.slash("/says") == "hi"
        assert await live.slash("/says", guild=1) == "Not on Sundays."


async def test_a_check_that_fails_refuses_until_somebody_takes_its_plugin_out_of_the_way(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    drop("says", says="hi")
    drop("asks", "@hookimpl\nasync def command_check(ctx): raise OSError('the list cannot be read')\n")
    async with running(tmp_path, card, "plugins.quarantine_failures=3") as live:
        assert await live.slash("/says") == "the plugin asks failed in its check"
        assert "asks" in await live.slash("/plugins list")
        await live.slash("/plugins disable", plugin="asks")
        assert await live.slash("/says") == "hi"
        assert await live.slash("/says", guild=1) == "the plugin asks failed in its check"
        assert await live.slash("/says", guild=1) == "the plugin asks failed in its check"
        assert await live.slash("/says", guild=1) == "the plugin asks failed in its check"
        # Paused in this server, it still decides: who cannot be asked has not said yes.
        assert "the plugin asks decides about this" in await live.slash("/says", guild=1)
        assert live.host.pauses.places_of("asks") == [live.guilds[1]]
        await live.slash("/plugins disable", plugin="asks", guild=1)
        assert await live.slash("/says", guild=1) == "hi"


def belonging(guild_id: int) -> dict[str, hikari.Event]:
    """Real events that name their guild in other places than ``guild_id``."""
    thing: Any = types.SimpleNamespace(guild_id=hikari.Snowflake(guild_id))
    shard: Any = None
    app: Any = None
    permissions: Any = thing
    begun = hikari.ScheduledEventCreateEvent(shard=shard, event=thing)
    return {
        "scheduled": begun,
        "stage": StageInstanceCreateEvent(shard=shard, stage_instance=thing),
        "rule": AutoModRuleCreateEvent(shard=shard, rule=thing),
        "permissions": ApplicationCommandPermissionsUpdateEvent(app=app, shard=shard, permissions=permissions),
        "entitlement": hikari.EntitlementCreateEvent(app=app, shard=shard, entitlement=thing),
        "raw": hikari.ShardPayloadEvent(app=app, shard=shard, name="X", payload={"guild_id": str(guild_id)}),
        "failed": hikari.ExceptionEvent(
            exception=RuntimeError(), failed_event=begun, failed_callback=cast("Any", belonging)
        ),
    }


@pytest.mark.parametrize("kind", sorted(belonging(1)))
def test_the_guild_of_an_event_is_found_wherever_it_stands(kind: str) -> None:
    assert place_of_event(belonging(5)[kind]) == 5


def test_an_event_of_no_guild_has_none() -> None:
    app: Any = None
    assert place_of_event(hikari.StartedEvent(app=app)) is None
    assert place_of_event(hikari.ShardPayloadEvent(app=app, shard=app, name="X", payload={})) is None


async def test_such_events_do_not_reach_a_plugin_where_it_is_off(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    drop(
        "planner",
        """
        async def heard(event): log.append(int(event.event.guild_id))
        @hookimpl
        def on_load(ctx): ctx.listen(hikari.ScheduledEventCreateEvent, heard)
        """,
    )
    async with running(tmp_path, card, "discord.intents=GUILDS,GUILD_VOICE_STATES,GUILD_SCHEDULED_EVENTS") as live:
        log = log_of("planner")
        log.clear()
        await live.slash("/plugins disable", plugin="planner")
        for guild_id in live.guilds:
            event = belonging(guild_id)["scheduled"]
            await live.host.bot.event_manager.dispatch(event, return_tasks=True)
        assert log == [live.guilds[1]]


IN_BOT = """
bot = lightbulb.Group("bot", "For owners")
inner = bot.subgroup(NAME, "Something of the whole bot")

@inner.register
class Show(lightbulb.SlashCommand, name="show", description="shows"):
    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        if NAME == "odd":
            raise ValueError("boom")
        await ctx.respond("shown to an owner")

@hookimpl
def register_loaders():
    loader = lightbulb.Loader()
    loader.command(bot)
    return [loader]
"""


async def test_a_plugin_adds_to_the_owners_command(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    """Its subgroup is there while it is loaded, refused to all but the owners, and its failures are its own."""
    drop("some", IN_BOT.replace("NAME", "'card'"))
    drop("odd", IN_BOT.replace("NAME", "'odd'"))
    drop("thief", IN_BOT.replace("NAME", "'plugins'"))
    async with running(tmp_path, card) as live:
        assert live.host.records["thief"].state is State.FAILED
        assert "/bot plugins is there already" in live.host.records["thief"].detail
        assert await live.slash("/bot card show") == "shown to an owner"
        await live.control.permissions(member_id=live.members[1], allow=("ADMINISTRATOR",))
        try:
            assert "Only the owners" in await live.slash("/bot card show", member=1)
        finally:
            await live.control.permissions(member_id=live.members[1], deny=("ADMINISTRATOR",))
        assert "Something went wrong" in await live.slash("/bot odd show")
        assert "some" in await live.slash("/bot plugins reload", plugin="some")
        assert await live.slash("/bot card show") == "shown to an owner"
        await live.slash("/bot plugins unload", plugin="some")
        with pytest.raises(ControlError, match="has no subcommand"):
            await live.slash("/bot card show")
        assert "is loaded" in await live.slash("/bot plugins load", plugin="some")
        assert await live.slash("/bot card show") == "shown to an owner"


async def test_only_subgroups_are_added_to_the_owners_command(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("some", IN_BOT.replace("inner.register", "bot.register").replace("NAME", "'card'"))
    drop("other", says="hi")
    async with running(tmp_path, card) as live:
        assert live.host.records["some"].state is State.FAILED
        assert "only subgroups can be added to /bot, and show is none" in live.host.records["some"].detail
        assert await live.slash("/other") == "hi"
