"""Failures that stay where they belong: rows 88 to 99, 163 and 166."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hikari
import lightbulb
import pytest
from bot_scene import scenes
from context import eventually, leave_ghost
from fault_report import Fault

from roost import CommandContext, Deny, Hooks, Meta, Plugin, hookimpl
from roost.audio import JoinRequest
from roost.context import PluginContext
from roost.hooks import SwitchCause
from roost.plugins import State
from roost.store import database
from roost.testing import RoostBot, running_bot

IMPATIENT = {"plugins.quarantine_retry_s": 2, "plugins.quarantine_window_s": 30}
MANY = 6
"""One more than `plugins.quarantine_failures`."""


@pytest.mark.e2e
@pytest.mark.fault(88)
async def test_members_who_ask_while_the_process_stands_still_cost_nobody_voice(fault: Fault, tmp_path: Path) -> None:
    async with scenes(tmp_path, "--members", "6") as scene, scene.bot(voice__alone_leave_s="1") as bot:
        assert "Joined" in await scene.join()
        members = [int(each["id"]) for each in scene.sim.card["guilds"][0]["members"]][-MANY:]
        os.kill(bot.pid, signal.SIGSTOP)
        try:
            asked = asyncio.gather(
                *(
                    scene.discord.slash(
                        member_id=each, channel_id=scene.text, command="/voice status", options={}, wait_s=5.0
                    )
                    for each in members
                )
            )
            await asyncio.sleep(4.0)
        finally:
            os.kill(bot.pid, signal.SIGCONT)
        with fault.clock(scaled=False):
            said = ""
            while not said:
                answer = await scene.discord.slash(
                    member_id=scene.ada, channel_id=scene.text, command="/voice status", options={}, wait_s=5.0
                )
                said = answer["replies"][-1]["content"] if answer["replies"] else ""
        assert ": live" in said
        unanswered = [each for each in await asked if each["timed_out"]]
        assert len(unanswered) >= MANY - 1
        late = [each for each in bot.events if "10062" in str(each["message"]) or "Unknown interaction" in str(each)]
        assert len(late) >= MANY - 1
        assert all(
            "voice: its command /voice status did not finish because Discord" in each["message"] for each in late
        )
        assert not [each for each in bot.events if "plugin voice failed" in str(each["message"])]
        assert not [each for each in bot.events if "too many failures" in str(each["message"])]
        # Its safeguards work on: nobody is left in the channel, so it leaves.
        await scene.discord.voice(member_id=scene.ada, channel_id=None)
        await scene.gone(5.0)
        await scene.discord.voice(member_id=scene.ada, channel_id=scene.voice[0])
        assert "Joined" in await scene.join()
        answer = await scene.discord.slash(
            member_id=scene.ada, channel_id=scene.text, command="/voice leave", options={}, wait_s=5.0
        )
        assert "Left" in answer["replies"][-1]["content"]


SLOW = """
import asyncio
from roost import Meta, hookimpl

@hookimpl
def plugin_meta(): return Meta("slow")

@hookimpl
async def command_check(ctx): await asyncio.sleep(1.0)
"""


@pytest.mark.e2e
@pytest.mark.fault(88)
async def test_hooks_that_are_at_work_when_the_process_stands_still_have_not_failed(
    fault: Fault, tmp_path: Path
) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o700)
    (folder / "slow.py").write_text(SLOW)
    (folder / "slow.py").chmod(0o600)
    async with scenes(tmp_path, "--members", "6") as scene, scene.bot("--plugins-dir", str(folder)) as bot:

        async def status(member: int) -> str:
            answer = await scene.discord.slash(
                member_id=member, channel_id=scene.text, command="/voice status", options={}, wait_s=8.0
            )
            return str(answer["replies"][-1]["content"]) if answer["replies"] else ""

        members = [int(each["id"]) for each in scene.sim.card["guilds"][0]["members"]][-MANY:]
        asked = asyncio.gather(*(status(each) for each in members))
        await asyncio.sleep(0.7)
        os.kill(bot.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(6.0)
        finally:
            os.kill(bot.pid, signal.SIGCONT)
        await asked
        with fault.clock(scaled=False):
            assert await status(scene.ada) == "I am in no voice channel."
        stalled = [each for each in bot.events if "the whole process stood still" in str(each["message"])]
        assert len(stalled) >= MANY - 1
        assert not [each for each in bot.events if "too many failures" in str(each["message"])]


def command(name: str, body: Callable[[CommandContext], Any], *hooks: Any) -> Plugin:
    """A plugin of one command."""
    plugin = Plugin(name)

    @plugin.command(name, "does it", hooks=list(hooks))
    async def invoke(ctx: CommandContext) -> None:
        await body(ctx)

    return plugin


async def says_hi(ctx: CommandContext) -> None:
    await ctx.respond("hi")


def is_untouched(bot: RoostBot, name: str) -> bool:
    host = bot.app.plugins
    return host.records[name].state is State.LOADED and not host.pauses.places_of(name)


@pytest.mark.sim
@pytest.mark.fault(89)
@pytest.mark.parametrize("status", [403, 404, 503])
async def test_what_discord_refuses_or_fails_at_is_no_failure_of_the_plugin(
    status: int, fault: Fault, tmp_path: Path
) -> None:
    async def writes(ctx: CommandContext) -> None:
        await ctx.defer(ephemeral=True)
        async with asyncio.timeout(0.5):  # hikari itself tries again for seconds
            await ctx.client.rest.create_message(ctx.channel_id, "hello")

    async with running_bot(command("writes", writes), data_dir=tmp_path) as bot:
        await bot.control.fault(
            "rest_error", method="POST", path_prefix=f"/channels/{bot.channel('general').id}", status=status, times=999
        )
        for _ in range(MANY):
            reply = await bot.slash("/writes")
            assert ("Discord refused" if status < 500 else "Discord does not answer") in reply.content
        with fault.clock(scaled=False):
            assert is_untouched(bot, "writes")


@pytest.mark.sim
@pytest.mark.fault(99)
@pytest.mark.parametrize("body", [[], {"id": 1}, "x", None], ids=str)
async def test_an_answer_of_another_shape_is_no_failure_of_the_plugin(
    body: Any, fault: Fault, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def writes(ctx: CommandContext) -> None:
        await ctx.defer(ephemeral=True)
        await ctx.client.rest.create_message(ctx.channel_id, "hello")

    async with running_bot(command("writes", writes), data_dir=tmp_path) as bot:
        await bot.control.fault(
            "rest_error",
            method="POST",
            path_prefix=f"/channels/{bot.channel('general').id}",
            status=200,
            body=body,
            times=999,
        )
        for _ in range(MANY):
            assert "Discord does not answer as it should" in (await bot.slash("/writes")).content
        with fault.clock(scaled=False):
            assert is_untouched(bot, "writes")
        # Nor is it one where the member's own answer meets it, which is then logged without a traceback.
        armed = await bot.control.fault("rest_error", path_prefix="/interactions", status=200, body=body, times=999)
        for _ in range(MANY):
            with pytest.raises(TimeoutError):
                await bot.slash("/writes", wait_s=0.2)
        await bot.control.disarm(armed)
        assert "Discord does not answer as it should" in (await bot.slash("/writes")).content
        assert is_untouched(bot, "writes")
        assert "exception occurred handling an event" not in caplog.text


@pytest.mark.sim
@pytest.mark.fault(99)
async def test_what_a_plugin_asks_wrongly_is_its_failure(fault: Fault, tmp_path: Path) -> None:
    async def writes(ctx: CommandContext) -> None:
        await ctx.client.rest.create_message(ctx.channel_id, component="no component")  # type: ignore[arg-type]

    async with running_bot(command("writes", writes), data_dir=tmp_path) as bot:
        with fault.clock(scaled=False):
            for _ in range(MANY):
                await bot.slash("/writes")
            assert not is_untouched(bot, "writes")


class Keeper(Hooks):
    """Stores something with every command."""

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("keeper")

    @hookimpl
    async def on_load(self, ctx: PluginContext) -> None:
        self.ctx = ctx

    @hookimpl
    def register_loaders(self) -> list[lightbulb.Loader]:
        async def keeps(ctx: CommandContext) -> None:
            await self.ctx.settings.set(
                None, "key", int(ctx.interaction.id)
            )  # SQLite does not write an unchanged value
            await ctx.respond("kept")

        return command("keep", keeps).register_loaders()


@pytest.mark.sim
@pytest.mark.fault(90)
async def test_a_locked_database_is_no_failure_of_the_plugin(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 100)
    async with running_bot(Keeper(), data_dir=tmp_path) as bot:
        assert (await bot.slash("/keep")).content == "kept"
        other = sqlite3.connect(tmp_path / database.FILE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            for _ in range(MANY):
                assert "My database is busy" in (await bot.slash("/keep")).content
                assert "plugin keeper: its command /keep did not finish because the database is busy" in caplog.text
                assert "failed in" not in caplog.text
        finally:
            other.close()
        with fault.clock(scaled=False):
            assert (await bot.slash("/keep")).content == "kept"
        assert is_untouched(bot, "keeper")


@pytest.mark.sim
@pytest.mark.fault(163)
async def test_members_read_that_the_disk_is_full_and_not_that_the_database_is_busy(
    fault: Fault, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with running_bot(Keeper(), data_dir=tmp_path) as bot:
        assert (await bot.slash("/keep")).content == "kept"
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            said = [(await bot.slash(command)).content for command in ("/keep", "/privacy opt-in")]
            said.append((await bot.press(await bot.slash("/privacy forget-me"), "Delete")).content)
            with fault.clock(scaled=False):
                refused = (await bot.slash("/privacy opt-out")).content  # in the file that never grows
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert all("my database cannot be written" in each.lower() for each in said), said
        assert not any("busy" in each for each in [*said, refused])
        assert "You are not heard, and nothing" in refused
        assert (await bot.slash("/keep")).content == "kept"
        assert is_untouched(bot, "keeper")


class OnSundays(Exception):
    """A plugin's own refusal."""


@lightbulb.hook(lightbulb.ExecutionSteps.CHECKS)
async def own_check(_pipeline: lightbulb.ExecutionPipeline, _ctx: lightbulb.Context) -> None:
    raise OnSundays


@lightbulb.hook(lightbulb.ExecutionSteps.CHECKS)
async def broken_check(_pipeline: lightbulb.ExecutionPipeline, _ctx: lightbulb.Context) -> None:
    raise KeyError("x")


@pytest.mark.sim
@pytest.mark.fault(91)
@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (lightbulb.prefab.fixed_window(30.0, 1, "user"), "Try again in 30 seconds."),
        (lightbulb.prefab.sliding_window(30.0, 1, "user"), "Try again in 30 seconds."),
        (lightbulb.prefab.owner_only, "Only the owners of this bot may use `/once`."),
        (
            lightbulb.prefab.has_permissions(hikari.Permissions.MANAGE_GUILD),
            "You need the permission Manage Guild to use `/once`.",
        ),
        (
            lightbulb.prefab.bot_has_permissions(hikari.Permissions.BAN_MEMBERS | hikari.Permissions.MANAGE_ROLES),
            "I need the permissions Ban Members, Manage Roles for `/once`.",
        ),
        (lightbulb.prefab.has_roles(77), "You need the role <@&77> to use `/once`."),
        (own_check, "A check of `/once` does not allow you to use it now."),
    ],
    ids=["fixed", "sliding", "owner", "permissions", "mine", "roles", "own"],
)
async def test_a_refusal_is_an_answer_however_often(hook: Any, said: str, fault: Fault, tmp_path: Path) -> None:
    async with running_bot(command("once", says_hi, hook), data_dir=tmp_path) as bot:
        replies = [(await bot.slash("/once")).content for _ in range(MANY)]
        with fault.clock(scaled=False):
            assert said.partition("30 sec")[0] in replies[-1]
            assert is_untouched(bot, "once")
            others = "hi" if "Try again" in said else replies[-1]
            assert (await bot.slash("/once", member="Ben")).content == others


@pytest.mark.sim
@pytest.mark.fault(91)
async def test_a_concurrency_limit_is_an_answer(fault: Fault, tmp_path: Path) -> None:
    go = asyncio.Event()

    async def waits(ctx: CommandContext) -> None:
        await go.wait()
        await ctx.respond("hi")

    plugin = command("once", waits, *lightbulb.prefab.max_concurrency(1, "global"))
    async with running_bot(plugin, data_dir=tmp_path) as bot:
        first = asyncio.ensure_future(bot.slash("/once"))
        try:
            await asyncio.sleep(0.3)
            with fault.clock(scaled=False):
                assert "already running as often as it may" in (await bot.slash("/once", member="Ben")).content
        finally:
            go.set()
        assert (await first).content == "hi"
        assert is_untouched(bot, "once")


@pytest.mark.sim
@pytest.mark.fault(91)
async def test_a_check_that_is_broken_is_a_failure(fault: Fault, tmp_path: Path) -> None:
    async with running_bot(command("once", says_hi, broken_check), data_dir=tmp_path) as bot:
        for _ in range(MANY - 1):
            assert "Something went wrong" in (await bot.slash("/once")).content
        with fault.clock(scaled=False):
            assert bot.app.plugins.pauses.places_of("once") == [bot.guild.id]


class Fragile(Hooks):
    """Raises for its first six commands, and tells what the host tells it."""

    def __init__(self) -> None:
        self.breaks = True
        self.told: list[tuple[str, int, SwitchCause]] = []

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("fragile", stop_commands=("halt",))

    @hookimpl
    def register_loaders(self) -> list[lightbulb.Loader]:
        plugin = Plugin("fragile")

        @plugin.command("try", "breaks")
        async def invoke(ctx: CommandContext) -> None:
            if self.breaks:
                raise KeyError(
                    "https://discord.com/api/webhooks/123/aW50ZXJhY3Rpb246MTIzNDU2Nzg5MDEyMzQ1Njc4OTA6c2VjcmV0"
                )
            await ctx.respond("hi")

        @plugin.command("halt", "ends")
        async def halt(ctx: CommandContext) -> None:
            await ctx.respond("halted")

        return plugin.register_loaders()

    @hookimpl
    async def guild_disabled(self, ctx: PluginContext, guild_id: int, cause: SwitchCause) -> None:
        self.told.append(("off", guild_id, cause))

    @hookimpl
    async def guild_enabled(self, ctx: PluginContext, guild_id: int, cause: SwitchCause) -> None:
        self.told.append(("on", guild_id, cause))


async def breaks(bot: RoostBot, guild: int | None = None) -> None:
    for _ in range(MANY - 1):
        assert "Something went wrong" in (await bot.slash("/try", guild=guild)).content


@pytest.mark.sim
@pytest.mark.fault(92)
async def test_a_plugin_is_paused_where_it_fails_and_called_again_after_a_while(fault: Fault, tmp_path: Path) -> None:
    fragile = Fragile()
    async with running_bot(fragile, data_dir=tmp_path, settings=IMPATIENT) as bot:
        here, elsewhere = bot.guilds()
        await breaks(bot)
        with fault.clock(scaled=False):
            reply = await bot.slash("/try")
            assert "is paused here" in reply.content
            assert (await bot.slash("/halt")).content == "halted"
            assert "Something went wrong" in (await bot.slash("/try", guild=elsewhere)).content
        await eventually(lambda: ("off", here, SwitchCause.FAILURES) in fragile.told)
        fragile.breaks = False
        await eventually(lambda: ("on", here, SwitchCause.FAILURES) in fragile.told, 10.0)
        assert (await bot.slash("/try")).content == "hi"
        # Half open: one failure is enough.
        fragile.breaks = True
        assert "Something went wrong" in (await bot.slash("/try")).content
        assert "is paused here" in (await bot.slash("/try")).content
        assert [each for each in fragile.told if each[1] == elsewhere] == []


@pytest.mark.sim
@pytest.mark.fault(93)
async def test_one_owner_of_many_servers_reaches_no_other_server(fault: Fault, tmp_path: Path) -> None:
    async with running_bot(Fragile(), data_dir=tmp_path, guilds=6, settings={"plugins.quarantine_owners": 2}) as bot:
        for guild in range(5):
            await breaks(bot, guild)
        with fault.clock(scaled=False):
            assert bot.app.plugins.records["fragile"].state is State.LOADED
            assert len(bot.app.plugins.pauses.places_of("fragile")) == 5
            assert "Something went wrong" in (await bot.slash("/try", guild=5)).content


@pytest.mark.sim
@pytest.mark.fault(93)
async def test_failures_in_servers_of_most_owners_stop_the_plugin_everywhere(fault: Fault, tmp_path: Path) -> None:
    fragile = Fragile()
    async with running_bot(fragile, data_dir=tmp_path, guilds=4, settings={"plugins.quarantine_owners": 2}) as bot:
        for member, guild_id in enumerate(bot.guilds()):
            guild = bot.guild_of(guild_id)
            guild.owner_id = sorted(guild.members)[member]
            bot.discord.gateway.dispatch("GUILD_UPDATE", guild.rest_payload(), guild_id=guild_id)

        def owners() -> set[int | None]:
            found = [bot.app.plugins.bot.cache.get_guild(each) for each in bot.guilds()]
            return {int(each.owner_id) if each else None for each in found}

        await eventually(lambda: len(owners()) == 4)
        for guild_id in bot.guilds():
            fragile.breaks = False
            assert (await bot.slash("/try", guild=guild_id)).content == "hi"
        fragile.breaks = True
        # Two of four owners are not most of them.
        await breaks(bot, 0)
        await breaks(bot, 1)
        assert bot.app.plugins.records["fragile"].state is State.LOADED
        with fault.clock(scaled=False):
            await breaks(bot, 2)
            assert bot.app.plugins.records["fragile"].state is State.QUARANTINED
        assert "quarantined" in (await bot.slash("/try", guild=3)).content


@pytest.mark.sim
@pytest.mark.fault(94)
async def test_details_of_a_failure_are_shown_to_owners_alone_and_hold_no_secret(fault: Fault, tmp_path: Path) -> None:
    async with running_bot(Fragile(), data_dir=tmp_path) as bot:
        await breaks(bot)
        await bot.control.permissions(member_id=bot.member("Ada"), allow=["MANAGE_GUILD"])
        with fault.clock(scaled=False):
            admins = (await bot.slash("/plugins why", plugin="fragile")).content
            owners = (await bot.slash("/plugins why", plugin="fragile", member="Mod")).content
        pause = bot.app.plugins.pauses.of("fragile", bot.guild.id)
        assert pause is not None
        assert "it ran into an error" in admins
        assert pause.failure.id in admins
        assert "KeyError" not in admins
        assert "KeyError" in owners
        assert "aW50ZXJhY3Rpb246" not in owners + pause.failure.detail


class Handler(Hooks):
    """Takes over every error that it is asked about."""

    def __init__(self, *errors_of: str) -> None:
        self.errors_of = errors_of
        self.contexts: list[Any] = []
        self.answer = True

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("handler", errors_of=self.errors_of)

    @hookimpl
    async def handle_error(
        self, error: BaseException, source: str, plugin: str, guild_id: int | None, ctx: lightbulb.Context | None
    ) -> bool | None:
        self.contexts.append((source, guild_id, ctx))
        if ctx is not None and self.answer:
            await ctx.respond("Sorry!")
        return self.answer


@pytest.mark.sim
@pytest.mark.fault(95)
async def test_an_error_that_a_plugin_has_dealt_with_is_neither_counted_nor_answered(
    fault: Fault, tmp_path: Path
) -> None:
    handler = Handler("fragile")
    async with running_bot(Fragile(), handler, data_dir=tmp_path) as bot:
        for _ in range(MANY):
            replies = await bot.replies("/try")
            assert [each.content for each in replies] == ["Sorry!"]
        with fault.clock(scaled=False):
            assert is_untouched(bot, "fragile")
        source, guild_id, ctx = handler.contexts[-1]
        assert (source, guild_id) == ("its command /try", bot.guild.id)
        assert ctx.user.id == bot.member("Ada")
        handler.answer = False
        await breaks(bot)
        await eventually(lambda: bot.app.plugins.pauses.places_of("fragile") == [bot.guild.id])
        await eventually(lambda: handler.contexts[-1] == ("quarantine", bot.guild.id, None))


class Careful(Fragile):
    """Deals with its own errors, or means to."""

    @hookimpl
    async def handle_error(self, plugin: str, ctx: lightbulb.Context | None) -> bool:
        assert plugin == "fragile"
        if ctx is not None:
            await ctx.respond("My mistake.")
        return True


@pytest.mark.sim
@pytest.mark.fault(95)
async def test_a_plugin_deals_with_its_own_errors_and_with_others_only_if_it_asks_for_them(
    fault: Fault, tmp_path: Path
) -> None:
    greedy, modest = Handler("*"), Handler()
    async with running_bot(Careful(), greedy, data_dir=tmp_path / "own first") as bot:
        with fault.clock(scaled=False):
            assert [each.content for each in await bot.replies("/try")] == ["My mistake."]
        assert greedy.contexts == []
    async with running_bot(Fragile(), modest, data_dir=tmp_path / "not asked") as bot:
        await breaks(bot)
        await eventually(lambda: bot.app.plugins.pauses.places_of("fragile") == [bot.guild.id])
        assert modest.contexts == []


@pytest.mark.sim
@pytest.mark.fault(166)
@pytest.mark.parametrize("before", ["nothing", "deferral", "own deferral", "own answer"])
async def test_a_member_whom_nobody_answered_is_answered_though_a_plugin_dealt_with_the_error(
    before: str, fault: Fault, tmp_path: Path
) -> None:
    async def fails(ctx: CommandContext) -> None:
        if before == "deferral":
            await ctx.defer(ephemeral=True)
        elif before == "own deferral":
            await ctx.interaction.create_initial_response(hikari.ResponseType.DEFERRED_MESSAGE_CREATE)
        elif before == "own answer":
            await ctx.interaction.create_initial_response(hikari.ResponseType.MESSAGE_CREATE, "Almost.")
        raise KeyError("x")

    class Silent(Hooks):
        @hookimpl
        def plugin_meta(self) -> Meta:
            return Meta("silent", errors_of=("fails",))

        @hookimpl
        async def handle_error(self) -> bool:
            return True

    async with running_bot(command("fails", fails), Silent(), data_dir=tmp_path) as bot:
        with fault.clock(scaled=False):
            replies = await bot.replies("/fails")
        said = "Almost." if before == "own answer" else "Something went wrong. The owner of this bot can see"
        assert [each.content[: len(said)] for each in replies] == [said]
        assert is_untouched(bot, "fails")


class Gate(Hooks):
    """Decides who may bring the bot into voice, and who is heard, and breaks at it."""

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("gate")

    @hookimpl
    async def voice_join_check(self, request: JoinRequest) -> Deny | None:
        raise KeyError("the list")


@pytest.mark.sim
@pytest.mark.fault(96)
async def test_a_guard_that_is_paused_refuses(fault: Fault, tmp_path: Path) -> None:
    async with running_bot(Gate(), data_dir=tmp_path, installed=["voice"]) as bot:
        await bot.join_voice()
        for _ in range(MANY - 1):
            assert "failed in its check" in (await bot.slash("/voice join")).content
        with fault.clock(scaled=False):
            reply = await bot.slash("/voice join")
        assert "the plugin gate decides about this" in reply.content
        await bot.slash("/plugins disable", plugin="gate", member="Mod")
        assert "Joined" in (await bot.slash("/voice join")).content


def in_voice(bot: RoostBot) -> bool:
    return bot.discord.world.bots[0].user.id in bot.guild.voice_states


async def fails_in(bot: RoostBot, name: str) -> None:
    """An input of this server makes a plugin fail once too often."""
    for _ in range(MANY - 1):
        bot.app.plugins.failed(name, "a test", KeyError("x"), bot.guild.id)


@pytest.mark.sim
@pytest.mark.fault(97)
async def test_voice_that_is_paused_leaves_in_order_and_says_so(fault: Fault, tmp_path: Path) -> None:
    async with running_bot(data_dir=tmp_path, installed=["voice"], settings=IMPATIENT) as bot:
        await bot.join_voice()
        assert "Joined" in (await bot.slash("/voice join")).content
        with fault.clock(scaled=False):
            await fails_in(bot, "voice")
            assert "is paused here" in (await bot.slash("/voice join")).content
            await eventually(lambda: not in_voice(bot))
        assert "in no voice channel" in (await bot.slash("/voice leave")).content
        await eventually(lambda: is_untouched(bot, "voice"), 10.0)
        assert any("voice failed too often in this server and is paused" in each for each in await bot.messages())
        assert "Joined" in (await bot.slash("/voice join")).content


@pytest.mark.sim
@pytest.mark.fault(97)
async def test_voice_that_is_quarantined_leaves_everywhere_and_goes_on_keeping_up(fault: Fault, tmp_path: Path) -> None:
    async with running_bot(data_dir=tmp_path, installed=["voice"], settings={"plugins.quarantine_failures": 1}) as bot:
        host = bot.app.plugins
        await bot.join_voice()
        assert "Joined" in (await bot.slash("/voice join")).content
        with fault.clock(scaled=False):
            host.failed("voice", "its task x", KeyError("x"))
            assert host.records["voice"].state is State.QUARANTINED
            await eventually(lambda: not in_voice(bot))
        assert "is quarantined" in (await bot.slash("/voice join")).content
        assert "in no voice channel" in (await bot.slash("/voice leave")).content
        await leave_ghost(bot.discord, bot.channel("perch").id)
        await eventually(lambda: not in_voice(bot), 10.0)
        await host.unquarantine("voice")
        assert "Joined" in (await bot.slash("/voice join")).content


@pytest.mark.sim
@pytest.mark.fault(97)
async def test_voice_that_is_switched_on_again_takes_up_what_discord_shows(fault: Fault, tmp_path: Path) -> None:
    async with running_bot(data_dir=tmp_path, installed=["voice"]) as bot:
        await bot.slash("/plugins disable", plugin="voice", member="Mod")
        await leave_ghost(bot.discord, bot.channel("perch").id)
        assert in_voice(bot)
        with fault.clock(scaled=False):
            await bot.slash("/plugins enable", plugin="voice", member="Mod")
            await eventually(lambda: not in_voice(bot), 10.0)


@pytest.mark.sim
@pytest.mark.fault(98)
@pytest.mark.parametrize("whole", [False, True], ids=["in the server", "in the whole bot"])
async def test_speech_to_text_that_is_stopped_ends_the_transcription_and_says_so(
    whole: bool, fault: Fault, tmp_path: Path
) -> None:
    settings = IMPATIENT | {"stt.engine": "scripted", "stt.script": ["words that stay"]}
    async with running_bot(data_dir=tmp_path, installed=["voice", "stt"], settings=settings) as bot:
        await bot.join_voice()
        assert "Joined" in (await bot.slash("/voice join")).content
        assert "Transcribing" in (await bot.slash("/transcribe start", wait_s=15.0)).content
        for _ in range(MANY - 1):
            bot.app.plugins.failed("stt", "its listener", KeyError("x"), None if whole else bot.guild.id)

        async def told() -> bool:
            return any("I failed too often in this server" in each for each in await bot.messages())

        with fault.clock(scaled=False):
            while not await told():
                await asyncio.sleep(0.02)
            while "Nothing is being transcribed here." not in (await bot.slash("/transcribe stop")).content:
                await asyncio.sleep(0.02)
        assert in_voice(bot)
        assert ": live" in (await bot.slash("/voice status")).content
        if whole:
            assert "is quarantined" in (await bot.slash("/transcribe start")).content
            await bot.app.plugins.unquarantine("stt")
        else:
            assert "is paused here" in (await bot.slash("/transcribe start")).content
            await eventually(lambda: is_untouched(bot, "stt"), 10.0)
        assert "Transcribing" in (await bot.slash("/transcribe start", wait_s=15.0)).content
