"""A real PostgreSQL server for tests, on a socket in a temporary folder."""

from __future__ import annotations

import grp
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import Pool

START_S = 30
SKIPPED = "NO POSTGRESQL SERVER HERE (apt-get install postgresql): the store is tested on SQLite alone"
HOLDS_LOCK = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
"""Of the process that holds the database for a bot; for `Server.silent`."""
_numbers = itertools.count(1)


class Server:
    """A PostgreSQL server on a socket in a temporary folder, reachable by nobody else."""

    def __init__(self, binaries: Path, folder: Path, user: str | None) -> None:
        self.folder = folder
        self._binaries = binaries
        self._user = user

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs, as somebody it accepts: it refuses root."""
        command = [str(self._binaries / program), *arguments]
        if self._user is not None:
            command = [
                "setpriv",
                f"--reuid={self._user}",
                f"--regid={group_of(self._user)}",
                "--clear-groups",
                *command,
            ]
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=START_S,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"]},
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
        return done.stdout

    def url(self, database: str, user: str = "roost", password: str = "") -> str:
        secret = f":{password}" if password else ""
        return f"postgresql+asyncpg://{user}{secret}@/{database}?host={self.folder}"

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off -c max_connections=40"
        self.run(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-t", str(START_S), "-l", str(self.folder / "log"),
            "-o", options, "start",
        )  # fmt: skip

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", "immediate", "stop")

    def new_database(self) -> str:
        name = f"db{next(_numbers)}"
        self.run("createdb", "-h", str(self.folder), "-U", "roost", name)
        return name

    def sql(self, statement: str, database: str = "postgres") -> str:
        return self.run("psql", "-h", str(self.folder), "-U", "roost", "-At", database, "-c", statement).strip()

    def slow_commits(self, table: str, seconds: float, database: str) -> None:
        """From now on commits that change a table take so long, as on a slow disk; their rows are locked meanwhile."""
        self.sql(
            f"CREATE FUNCTION wait_{table}() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END $$;"
            f"CREATE CONSTRAINT TRIGGER wait AFTER INSERT OR UPDATE ON {table} DEFERRABLE INITIALLY DEFERRED"
            f" FOR EACH ROW EXECUTE FUNCTION wait_{table}()",
            database,
        )

    def commits(self, database: str) -> bool:
        """Whether a commit is under way."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'"
        return self.sql(f"{query} AND query LIKE 'COMMIT%'", database) != "0"

    @contextmanager
    def silent(self, database: str, where: str = "true") -> Iterator[None]:
        """The server's processes for the connections to a database stand still; new connections work."""
        query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        pids = [int(pid) for pid in self.sql(f"{query} AND {where}", database).split()]
        assert pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@contextmanager
def cut_connections() -> Iterator[Callable[[], None]]:
    """What breaks all connections that are made in this block, without a word to the server."""
    made: list[Any] = []

    def note(connection: Any, _record: object) -> None:
        made.append(connection.driver_connection)

    def cut() -> None:
        for each in made:
            each.terminate()

    sa.event.listen(Pool, "connect", note)
    try:
        yield cut
    finally:
        sa.event.remove(Pool, "connect", note)


@contextmanager
def servers() -> Iterator[Server]:
    """A server until the block ends; skips the test where there are no programs of PostgreSQL."""
    pytest.importorskip("asyncpg", reason="asyncpg is not installed: pip install 'roost[postgres]'")
    found = binaries()
    if found is None or (os.getuid() == 0 and shutil.which("setpriv") is None):
        pytest.skip(SKIPPED)
    # Not below tmp_path: its folders are closed to the user the server runs as, and too long for a socket's name.
    with tempfile.TemporaryDirectory(prefix="roost-pg-", dir="/tmp") as made:
        folder = Path(made)
        user = "nobody" if os.getuid() == 0 else None
        if user is not None:
            shutil.chown(folder, user, group_of(user))
        server = Server(found, folder, user)
        data = folder / "data"
        secret = folder / "password"
        secret.write_text("right")
        secret.chmod(0o644)
        server.run(
            "initdb", "-D", str(data), "-U", "roost", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8", "-A", "trust",
            f"--pwfile={secret}",
        )  # fmt: skip
        rules = data / "pg_hba.conf"
        rules.write_text("local all strict scram-sha-256\nlocal all all trust\n")
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _as(user: str) -> list[str]:
    return [f"--reuid={user}", f"--regid={group_of(user)}", "--clear-groups"]


def group_of(user: str) -> str:
    return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name


def binaries() -> Path | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    if found is not None:
        folders.insert(0, Path(found).resolve().parent)
    return next((each for each in folders if (each / "initdb").exists() and (each / "pg_ctl").exists()), None)
