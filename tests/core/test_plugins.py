"""The plugin host over real installed distributions (made in a temporary folder) and a real, unstarted hikari bot."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import hikari
import lightbulb
import pytest

from roost.commands.registry import CommandRegistry
from roost.config import load
from roost.consent import open_consent
from roost.errors import ClosedError, ConfigError
from roost.plugins import PluginHost, State, inspect_plugins
from roost.plugins.host import MOST_OFFERS
from roost.store import open_store

pytestmark = pytest.mark.unit

TOKEN = "OTAwMDAwMDAwMDAwMDAwMDAx.AAAAAA.abcdefghijklmnopqrstuvwxyz0"
HEAD = """
import asyncio, hikari, lightbulb
from roost import Meta, hookimpl
from plugin_logs import logs
log = logs.setdefault({name!r}, [])
class P:
    @hookimpl
    def plugin_meta(self): return Meta(name={name!r}, version="1", requires={requires!r})
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Install a plugin: install(name, body of class P, requires=...)."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "plugin_logs.py").write_text("logs = {}\n")
    sys.path.insert(0, str(site))
    names: list[str] = []

    def make(name: str, body: str = "", *, requires: tuple[str, ...] = (), code: str | None = None) -> None:
        text = HEAD.format(name=name, requires=requires) + body
        (site / f"plug_{name}.py").write_text(text if code is None else code)
        info = site / f"dist_{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[roost.plugins]\n{name} = plug_{name}:P\n")
        names.append(name)

    yield make
    sys.path.remove(str(site))
    for name in [*(f"plug_{name}" for name in names), "plugin_logs"]:
        sys.modules.pop(name, None)


@asynccontextmanager
async def hosted(tmp_path: Path, *sets: str) -> AsyncIterator[tuple[PluginHost, CommandRegistry, list[str]]]:
    config = load(environ={}, sets=["plugins.deny=voice,stt", *sets], data_dir=tmp_path / "data")
    bot = hikari.GatewayBot(TOKEN, banner=None, logs=None, suppress_optimization_warning=True)
    steps: list[str] = []
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(config.data_dir))
        consent = await stack.enter_async_context(open_consent(store, "opt-in", config.data_dir))
        host = PluginHost(
            bot=bot,
            config=config,
            store=store,
            consent=consent,
            instance_id="test",
            mark_stop=lambda name, guild: steps.append(name),
        )
        registry = CommandRegistry(bot, lightbulb.client_from_app(bot, sync_commands=False), lambda owner, guild: True)
        yield host, registry, steps
        await host.unload_all("shutdown")


def module(name: str) -> list[str]:
    log: list[str] = sys.modules["plugin_logs"].logs[name]
    return log


LIFE = """
    @hookimpl
    async def on_load(self, ctx): log.append("load"); self.ctx = ctx
    @hookimpl
    async def on_unload(self, ctx, reason): log.append("unload " + reason)
"""


async def test_dependencies_load_first_and_unload_last(tmp_path: Path, install: Install) -> None:
    install("aa", LIFE, requires=("zz",))
    install("zz", LIFE)
    async with hosted(tmp_path) as (host, registry, steps):
        await host.load_all(registry)
        assert host.loaded == ("zz", "aa")
        await host.unload("zz", "disable")
        assert steps == ["aa.unload", "zz.unload"]
        assert module("aa") == module("zz") == ["load", "unload disable"]
        assert {host.records[name].state for name in ("aa", "zz")} == {State.UNLOADED}


async def test_errors_offered_at_once_are_bounded(tmp_path: Path, install: Install) -> None:
    install("taker", "    @hookimpl\n    async def handle_error(self, error): return True\n")
    async with hosted(tmp_path) as (host, registry, _):
        await host.load_all(registry)
        offered = [host.failed("taker", "its task", hikari.HTTPError("no"), 5) for _ in range(2 * MOST_OFFERS)]
        tasks = [task for task in offered if task is not None]
        assert len(tasks) == MOST_OFFERS
        assert await asyncio.gather(*tasks) == [True] * MOST_OFFERS
        again = host.failed("taker", "its task", hikari.HTTPError("no"), 5)
        assert again is not None
        assert await again


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = = 1\n", "plug_bad.py:1"),
        ("import nothing_of_that_name\n", "plug_bad.py:1"),
        ("raise SystemExit(3)\n", "plug_bad.py:1"),
        (
            HEAD.format(name="bad", requires=()) + "    @hookimpl\n    async def on_load(self, ctx):\n        1 / 0\n",
            "plug_bad.py:11",
        ),
        (HEAD.format(name="bad", requires=()) + "    @hookimpl\n    def on_laod(self): ...\n", "on_laod"),
        (HEAD.format(name="bad", requires=()) + "    @hookimpl\n    def on_load(self, context): ...\n", "context"),
        (HEAD.format(name="bad", requires=("missing",)), "needs the plugin missing"),
    ],
    ids=["syntax", "import", "exit", "raise", "misspelt", "signature", "dependency"],
)
async def test_a_broken_plugin_says_where_and_harms_nobody(
    tmp_path: Path, install: Install, code: str, said: str
) -> None:
    install("bad", code=code)
    install("good", LIFE)
    async with hosted(tmp_path) as (host, registry, _):
        await host.load_all(registry)
        assert host.loaded == ("good",)
        assert host.records["bad"].state is State.FAILED
        assert said in host.records["bad"].detail
        assert not host.dispatcher.manager.has_plugin("bad")


async def test_what_a_failing_load_had_opened_is_unwound(tmp_path: Path, install: Install) -> None:
    install(
        "half",
        """
    @hookimpl
    async def on_load(self, ctx):
        ctx.on_unload(lambda: log.append("first"))
        async def second(): log.append("second")
        ctx.on_unload(second)
        ctx.listen(hikari.GuildLeaveEvent, self.seen)
        ctx.task(asyncio.Event().wait(), "waits")
        raise RuntimeError("half way")
    async def seen(self, event): ...
""",
    )
    async with hosted(tmp_path) as (host, registry, _):
        before = len(host.bot.get_listeners(hikari.GuildLeaveEvent))
        await host.load_all(registry)
        assert module("half") == ["second", "first"]
        assert len(host.bot.get_listeners(hikari.GuildLeaveEvent)) == before
        assert not [task for task in asyncio.all_tasks() if "plugin:half" in task.get_name()]


async def test_circular_dependencies_fail_and_are_named(tmp_path: Path, install: Install) -> None:
    install("one", requires=("two",))
    install("two", requires=("one",))
    install("good", LIFE)
    async with hosted(tmp_path) as (host, registry, _):
        await host.load_all(registry)
        assert host.loaded == ("good",)
        assert "circular dependency" in host.records["one"].detail
        assert "one" in host.records["two"].detail


async def test_plugins_may_not_listen_for_stopping(tmp_path: Path, install: Install) -> None:
    install("own", "    @hookimpl\n    def on_load(self, ctx): ctx.listen(hikari.StoppingEvent, None)\n")
    async with hosted(tmp_path) as (host, registry, _):
        await host.load_all(registry)
        assert "implement the hook on_stopping" in host.records["own"].detail


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("loader.listener(hikari.GuildLeaveEvent)(on_event)", "use ctx.listen"),
        ("loader.task(lightbulb.uniformtrigger(seconds=60))(on_event)", "use ctx.task"),
    ],
)
async def test_a_loader_holds_commands_only(tmp_path: Path, install: Install, body: str, said: str) -> None:
    install(
        "loads",
        f"""
    @hookimpl
    def register_loaders(self):
        loader = lightbulb.Loader()
        async def on_event(event: hikari.Event) -> None: ...
        {body}
        return [loader]
""",
    )
    async with hosted(tmp_path) as (host, registry, _):
        await host.load_all(registry)
        assert said in host.records["loads"].detail


async def test_two_plugins_with_one_command_name_are_an_error_that_names_both(tmp_path: Path, install: Install) -> None:
    body = """
    @hookimpl
    def register_loaders(self):
        loader = lightbulb.Loader()
        class Ping(lightbulb.SlashCommand, name="ping", description="d"):
            @lightbulb.invoke
            async def invoke(self, ctx: lightbulb.Context) -> None: ...
        loader.command(Ping)
        return [loader]
"""
    install("first", body)
    install("second", body)
    async with hosted(tmp_path) as (host, registry, _):
        await host.load_all(registry)
        assert host.loaded == ("first",)
        assert host.records["second"].detail == "plugin second: its command /ping is already a command of first"
        assert registry.names("first") == ["ping"]


async def test_a_context_ends_with_its_plugin(tmp_path: Path, install: Install) -> None:
    install("keeps", LIFE)
    async with hosted(tmp_path) as (host, registry, _):
        await host.load_all(registry)
        kept = host.records["keeps"].context
        assert kept is not None
        await host.unload("keeps", "disable")
        with pytest.raises(ClosedError, match="keeps"):
            _ = kept.bot


async def test_a_hanging_unload_is_cut_off_and_shows_as_leaked(
    tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from roost.hooks import INFO

    monkeypatch.setitem(INFO, "on_unload", dataclasses.replace(INFO["on_unload"], deadline_s=0.05))
    install("hangs", "    @hookimpl\n    async def on_unload(self): await asyncio.Event().wait()\n")
    async with hosted(tmp_path) as (host, registry, _):
        await host.load_all(registry)
        await host.unload("hangs", "disable")
        assert host.records["hangs"].state is State.LEAKED
        assert host.loaded == ()


async def test_a_required_plugin_that_fails_refuses_the_start(tmp_path: Path, install: Install) -> None:
    install("must", "    @hookimpl\n    def on_load(self): raise RuntimeError('no')\n")
    async with hosted(tmp_path, "plugins.required=must") as (host, registry, _):
        with pytest.raises(ConfigError, match="no"):
            await host.load_all(registry)


async def test_a_table_of_nobody_is_an_error(tmp_path: Path, install: Install) -> None:
    install("known")
    async with hosted(tmp_path, "knwon.x=1") as (host, registry, _):
        with pytest.raises(ConfigError, match=r"knwon: there is no table or plugin of that name .*known"):
            await host.load_all(registry)


async def test_stop_gives_dependents_little_time_and_calls_them_first(tmp_path: Path, install: Install) -> None:
    install("base", "    @hookimpl\n    async def on_stopping(self): log.append('base')\n")
    install(
        "upper",
        "    @hookimpl\n    async def on_stopping(self): log.append('upper'); await asyncio.Event().wait()\n",
        requires=("base",),
    )
    async with hosted(tmp_path) as (host, registry, steps):
        await host.load_all(registry)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await host.stop(started, asyncio.Event())
        assert loop.time() - started < 1.5
        assert module("upper") == ["upper"]
        assert module("base") == ["base"]
        assert steps == ["upper.stopping", "base.stopping", "upper.unload", "base.unload"]


async def test_plugins_are_listed_without_being_opened(tmp_path: Path, install: Install) -> None:
    install("shown", LIFE)
    install("broken", code="import nothing_of_that_name\n")
    config = load(environ={}, sets=["plugins.deny=voice,stt"], data_dir=tmp_path / "data")
    rows = {row["name"]: row for row in inspect_plugins(config)}
    assert rows["shown"]["state"] == "found"
    assert rows["shown"]["hooks"] == ["on_load", "on_unload", "plugin_meta"]
    assert rows["broken"]["state"] == "failed"
    assert rows["voice"]["state"] == "disabled"
    assert "load" not in module("shown")
