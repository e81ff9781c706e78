"""What an operator reads when the database is not there or refuses."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from pathlib import Path

import pytest
from pg_server import Server

from roost.errors import ConfigError, ResourceError, RoostError, StoreCause, StoreError
from roost.holder import Holder
from roost.store import open_held_store, open_store
from roost.store.database import open_database

pytestmark = pytest.mark.unit


async def error_of(tmp_path: Path, url: str | None) -> RoostError:
    with pytest.raises(RoostError) as caught:
        async with open_held_store(tmp_path, Holder.of_this_process(7), url):
            raise AssertionError("it opened")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "roost.sqlite3").write_bytes(b"this is not a database, however long one looks at it" * 40)
    error = await error_of(tmp_path, None)
    assert isinstance(error, ConfigError)
    assert str(error) == (
        f"store.url: the database {tmp_path / 'roost.sqlite3'} is damaged (file is not a database); stop the bot and "
        "restore a backup, or move the file away to begin with an empty one"
    )


async def test_what_is_not_a_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o666)
    pipe.chmod(0o666)
    error = await error_of(tmp_path, f"sqlite:///{pipe}")
    assert str(error) == f"store.url: cannot open the database {pipe}: it is not a file; check the path"
    assert stat.S_IMODE(pipe.stat().st_mode) == 0o666
    assert list(tmp_path.iterdir()) == [pipe]


async def test_a_file_that_was_cut_or_overwritten_in_the_middle_is_named(tmp_path: Path) -> None:
    file = tmp_path / "roost.sqlite3"
    async with open_store(tmp_path) as store:
        for number in range(400):
            await store.set_setting("some", 1, f"key {number}", "words " * 50)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:8192] + b"\xff" * 8192 + whole[16384:]):
        file.write_bytes(content)
        error = await error_of(tmp_path, None)
        assert isinstance(error, ConfigError)
        assert f"the database {file} is damaged (" in str(error)


@pytest.mark.parametrize(
    ("how", "said"),
    [("replaced", "was replaced"), ("exchanged", "was replaced"), ("emptied", "was emptied"), ("removed", "vanished")],
)
async def test_a_database_that_is_taken_away_takes_nothing_more(how: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "roost.sqlite3"
    async with open_store(tmp_path) as store:
        await store.set_setting("some", 1, "key", "kept")
        content = file.read_bytes()
        if how == "emptied":
            os.truncate(file, 0)
        else:
            file.unlink()
        if how == "replaced":
            file.touch()
        if how == "exchanged":
            file.write_bytes(content)
        with pytest.raises(ResourceError, match=f"{file} {said} while the bot ran"):
            await store.set_setting("some", 1, "key", "lost")
        with pytest.raises(ResourceError, match="while the bot ran"):
            await store.get_setting("some", 1, "key")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "this is no database URL"),
        ("postgresql+asyncpg://me:hunter2@host:hunter2/x", "this is no database URL"),
        ("mysql://me:hunter2@host/x", "must be postgresql+asyncpg or sqlite+aiosqlite, not mysql"),
        ("postgresql+psycopg2://me:hunter2@host/x", "not postgresql+psycopg2"),
        ("sqlite+aiosqlite:////nowhere/at/all.sqlite3", "cannot open the database /nowhere/at/all.sqlite3: No such"),
    ],
)
async def test_a_wrong_url_says_what_a_right_one_is(tmp_path: Path, url: str, said: str) -> None:
    error = await error_of(tmp_path, url)
    assert isinstance(error, ConfigError)
    assert error.key == "store.url"
    assert said in str(error)


async def test_without_the_driver_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "asyncpg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    error = await error_of(tmp_path, "postgresql://me:hunter2@localhost/x")
    assert "asyncpg is not installed; run: pip install 'roost[postgres]'" in str(error)


async def test_nobody_listens_there(tmp_path: Path) -> None:
    pytest.importorskip("asyncpg")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        error = await error_of(tmp_path, f"postgresql://me:hunter2@127.0.0.1:{port}/x")
    assert isinstance(error, ResourceError)
    assert error.retryable
    assert f"the database at 127.0.0.1:{port} cannot be reached: Connection refused" in str(error)
    assert "store.url" in str(error)


async def test_no_server_behind_the_socket(tmp_path: Path) -> None:
    pytest.importorskip("asyncpg")
    error = await error_of(tmp_path, f"postgresql://me:hunter2@/x?host={tmp_path}")
    assert isinstance(error, ResourceError)
    assert f"{tmp_path}:5432 cannot be reached: No such file" in str(error)


async def test_a_wrong_password_is_not_repeated(tmp_path: Path, postgres: Server) -> None:
    postgres.new_database()
    postgres.run("psql", "-h", str(postgres.folder), "-U", "roost", "postgres", "-c",
                 "CREATE ROLE strict LOGIN PASSWORD 'right'")  # fmt: skip
    error = await error_of(tmp_path, postgres.url("postgres", "strict", "hunter2"))
    assert isinstance(error, ConfigError)
    assert "refuses the user strict: password authentication failed" in str(error)
    error = await error_of(tmp_path, postgres.url("postgres", "nobody-of-that-name", "hunter2"))
    assert "nobody-of-that-name" in str(error)
    error = await error_of(tmp_path, postgres.url("postgres", "strict", "right"))
    assert "may not make tables in postgres" in str(error)
    assert "GRANT CREATE" in str(error)


async def test_a_database_that_is_not_there(tmp_path: Path, postgres: Server) -> None:
    error = await error_of(tmp_path, postgres.url("nothing"))
    assert isinstance(error, ConfigError)
    assert "there is no database nothing" in str(error)
    assert "createdb nothing" in str(error)


async def test_short_names_of_the_databases_will_do(tmp_path: Path, postgres: Server) -> None:
    for url in (
        f"sqlite:///{tmp_path}/other.sqlite3",
        postgres.url(postgres.new_database()).replace("postgresql+asyncpg", "postgresql"),
    ):
        async with open_store(tmp_path, url) as store:
            await store.set_setting("some", 1, "k", 1)
    assert (tmp_path / "other.sqlite3").exists()
    assert not (tmp_path / "roost.sqlite3").exists()


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o700, 0o600), (0o2770, 0o660)])
async def test_the_file_keeps_its_groups_rights_only_in_a_folder_of_the_group(
    folder_mode: int, file_mode: int, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(folder_mode)
    file = folder / "roost.sqlite3"
    file.touch()
    file.chmod(0o664)
    async with open_store(folder):
        assert stat.S_IMODE(file.stat().st_mode) == file_mode


@pytest.mark.parametrize(
    ("rest", "remedy"),
    [
        ("@h:99999/x", "a port that is not from 1 to 65535"),
        ("@h", "names no database"),
        ("@h/", "names no database"),
        ("@h/x?channel_binding=require", "the option channel_binding, which is not known here; leave it out"),
        ("@h/x?sslmode=on", "the sslmode on; write one of disable, allow, prefer, require"),
    ],
)
async def test_a_url_that_asyncpg_cannot_take_is_refused(rest: str, remedy: str, tmp_path: Path) -> None:
    pytest.importorskip("asyncpg")
    error = await error_of(tmp_path, f"postgresql://roost:hunter2{rest}")
    assert isinstance(error, ConfigError)
    assert remedy in str(error)


async def test_the_sslmode_of_a_url_is_obeyed(tmp_path: Path) -> None:
    """Hosted databases hand out URLs with ``sslmode``, which is libpq's word."""
    pytest.importorskip("asyncpg")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        port = listener.getsockname()[1]

        def refuse() -> bytes:
            with listener.accept()[0] as connection:
                asked = connection.recv(8)
                connection.sendall(b"N")  # no TLS here
                return asked

        answer = asyncio.get_running_loop().run_in_executor(None, refuse)
        error = await error_of(tmp_path, f"postgresql://roost:hunter2@127.0.0.1:{port}/x?sslmode=require")
        assert await answer == b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
    assert "rejected SSL upgrade" in str(error)


async def test_a_table_that_another_session_locks_is_waited_for_as_long_as_in_sqlite(
    tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roost.store.database.BUSY_MS", 200)
    url = postgres.url(postgres.new_database())
    async with open_store(tmp_path, url) as store, open_database(tmp_path, url) as other, other.read() as connection:
        await connection.exec_driver_sql("LOCK TABLE roost_settings")
        with pytest.raises(StoreError, match="lock timeout") as caught:
            await store.set_setting("some", 1, "key", "value")
        assert caught.value.cause is StoreCause.BUSY
        await connection.exec_driver_sql("LOCK TABLE roost_owner")
        error = await error_of(tmp_path, url)
        assert "is busy: canceling statement due to lock timeout; end the session that locks" in str(error)
