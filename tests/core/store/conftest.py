"""Every test of the store that takes `url` runs on SQLite and on a real PostgreSQL server, started here."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pg_server import SKIPPED, START_S, Server, binaries, group_of


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
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
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=40"
        server.run(
            "pg_ctl", "-D", str(data), "-w", "-t", str(START_S), "-l", str(folder / "log"), "-o", options, "start"
        )
        try:
            yield server
        finally:
            server.run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Of a fresh database; None is SQLite in the data folder."""
    if request.param == "sqlite":
        return None
    server: Server = request.getfixturevalue("postgres")
    return server.url(server.new_database())
