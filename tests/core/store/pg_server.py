"""A real PostgreSQL server for tests, on a socket in a temporary folder."""

from __future__ import annotations

import grp
import itertools
import os
import pwd
import shutil
import subprocess
from pathlib import Path

START_S = 30
SKIPPED = "NO POSTGRESQL SERVER HERE (apt-get install postgresql): the store is tested on SQLite alone"
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

    def new_database(self) -> str:
        name = f"db{next(_numbers)}"
        self.run("createdb", "-h", str(self.folder), "-U", "roost", name)
        return name


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
