"""What plugins keep, through the host: kept, migrated once, brought back when a reload fails, released on unload."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host_rig import Live, log_of, running, simulated, source

from roost.errors import PluginError
from roost.plugins import State

pytestmark = pytest.mark.sim

ONE = """
CTX = []
@hookimpl
async def on_load(ctx):
    CTX[:] = [ctx]
    await ctx.store.collection("notes").put("a", "first", guild_id=1)
    await ctx.settings.set(1, "colour", "red")
"""

TWO = """
@hookimpl
async def migrate_data(store, old, new):
    log.append((old, new))
    notes = store.collection("notes")
    for each in await notes.query():
        await notes.put(each.key, {"text": each.value})
    await store.settings.set(1, "color", await store.settings.get(1, "colour"))
    await store.settings.delete(1, "colour")
    FAIL
CTX = []
@hookimpl
async def on_load(ctx):
    CTX[:] = [ctx]
    log.append("open")
    OPEN
"""


def two(fail: str = "pass", open_: str = "pass", version: int = 2) -> str:
    body = TWO.replace("FAIL", fail).replace("OPEN", open_)
    return source("notes", body).replace('version="1"', f'version="2", data_version={version}')


@pytest.fixture(scope="session")
def card() -> Iterator[dict[str, Any]]:
    with simulated() as made:
        yield made


@pytest.fixture(autouse=True)
def modules_as_before() -> Iterator[None]:
    """Drop-in plugins and their logs are new in each test."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("roost_dropins", "roost_test_logs")):
            del sys.modules[name]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o700)
    path = folder / "notes.py"
    path.write_text(source("notes", ONE))
    path.chmod(0o600)
    return path


def sets(url: str | None) -> list[str]:
    return [] if url is None else [f"store.url={url}"]


async def kept(live: Live) -> tuple[Any, Any]:
    store = live.host.store.of_plugin("notes")
    return await store.collection("notes").get("a"), await store.settings.entries()


OLD = ("first", {(1, "colour"): "red"})
NEW = ({"text": "first"}, {(1, "color"): "red"})


async def test_a_new_version_migrates_once(
    tmp_path: Path, file: Path, card: dict[str, Any], url: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "roost")
    async with running(tmp_path, card, *sets(url)) as live:
        assert await kept(live) == OLD
    file.write_text(two())
    async with running(tmp_path, card, *sets(url)) as live:
        assert await kept(live) == NEW
        assert "data of version 1 is saved in" in caplog.text
        assert await live.host.unload("notes", "disable") == ["notes"]
        assert live.state("notes") is State.UNLOADED, live.host.records["notes"].detail
        await live.host.load("notes")
    async with running(tmp_path, card, *sets(url)) as live:
        assert live.state("notes") is State.LOADED
    assert log_of("notes") == [(1, 2), "open", "open", "open"]


async def test_a_migration_that_fails_leaves_the_data_and_the_plugin_off(
    tmp_path: Path, file: Path, card: dict[str, Any], url: str | None
) -> None:
    async with running(tmp_path, card, *sets(url)):
        pass
    file.write_text(two(fail="raise KeyError('x')"))
    async with running(tmp_path, card, *sets(url)) as live:
        record = live.host.records["notes"]
        assert record.state is State.FAILED
        assert "migrate_data from version 1 to 2 failed: KeyError at " in record.detail
        assert f"{file}:" in record.detail
        assert "the data is as it was, and a copy is in " in record.detail
        assert await kept(live) == OLD
        assert "open" not in log_of("notes")
        await live.answers()
        file.write_text(two())
        assert (await live.host.load("notes")).state is State.LOADED
        assert await kept(live) == NEW


async def test_a_reload_that_fails_brings_the_data_of_the_version_before_back(
    tmp_path: Path, file: Path, card: dict[str, Any], url: str | None
) -> None:
    async with running(tmp_path, card, *sets(url)) as live:
        for broken in (two(fail="raise ValueError"), two(open_="raise ValueError")):
            file.write_text(broken)
            with pytest.raises(PluginError, match="the version before was loaded again"):
                await live.host.reload("notes")
            assert live.state("notes") is State.LOADED
            assert await kept(live) == OLD
        file.write_text(two())
        await live.host.reload("notes")
        assert await kept(live) == NEW


async def test_a_reload_whose_backup_was_deleted_leaves_the_plugin_off_and_the_rest_at_work(
    tmp_path: Path, file: Path, card: dict[str, Any], url: str | None
) -> None:
    """As when a member has everything about them deleted while the new version opens."""
    async with running(tmp_path, card, *sets(url)) as live:
        file.write_text(two(open_="async with ctx.store.erasure.everywhere(): pass\n    raise ValueError"))
        with pytest.raises(PluginError):
            await live.host.reload("notes")
        record = live.host.records["notes"]
        assert record.state is State.FAILED
        assert "its data is of version 2 and this code knows version 1" in record.detail
        assert await kept(live) == NEW
        await live.answers()
        file.write_text(two())
        assert (await live.host.load("notes")).state is State.LOADED


async def test_older_code_does_not_touch_newer_data(
    tmp_path: Path, file: Path, card: dict[str, Any], url: str | None
) -> None:
    async with running(tmp_path, card, *sets(url)):
        pass
    file.write_text(two())
    async with running(tmp_path, card, *sets(url)):
        pass
    file.write_text(source("notes", ONE))
    async with running(tmp_path, card, *sets(url)) as live:
        assert live.state("notes") is State.FAILED
        assert "its data is of version 2 and this code knows version 1" in live.host.records["notes"].detail
        assert await kept(live) == NEW


BUSY = """
@hookimpl
async def on_load(ctx):
    things = ctx.store.collection("things")
    await asyncio.gather(*(things.put(f"k{n}", n) for n in range(12)), *(things.get("k1") for n in range(12)))
"""


async def test_connections_of_the_store_are_not_the_plugins(
    tmp_path: Path, file: Path, card: dict[str, Any], url: str | None
) -> None:
    file.write_text(source("notes", BUSY))
    elsewhere = sets(url) or [f"store.url=sqlite:///{tmp_path}/elsewhere.sqlite3"]
    async with running(tmp_path, card, *elsewhere) as live:
        for _ in range(3):
            await live.host.unload("notes", "disable")
            assert live.state("notes") is State.UNLOADED, live.host.records["notes"].detail
            await live.host.load("notes")


async def test_an_unloaded_plugin_has_no_store_any_more(tmp_path: Path, file: Path, card: dict[str, Any]) -> None:
    file.write_text(source("notes", ONE))
    async with running(tmp_path, card) as live:
        context = live.host.records["notes"].context
        assert context is not None
        await live.host.unload("notes", "disable")
        for use in (lambda: context.store, lambda: context.settings):
            with pytest.raises(Exception, match="ended when it was unloaded"):
                use()


async def test_a_database_that_goes_away_is_said_and_the_bot_stays(
    tmp_path: Path, file: Path, card: dict[str, Any], postgres: Any
) -> None:
    name = postgres.new_database()
    async with running(tmp_path, card, f"store.url={postgres.url(name)}") as live:
        postgres.run("dropdb", "-h", str(postgres.folder), "-U", "roost", "--force", name)
        answer = await live.slash("/plugins disable", plugin="notes")
        assert "the database failed" in answer
        assert live.host.enabled_in("notes", live.guilds[0])
        await live.answers()
