"""Owner and holder of a data folder: the bot that the data belongs to, and the process that uses it now.

The process holds ``holder.lock``. The kernel frees a ``flock`` with the process, however it ends, so a process that was
killed never blocks the next start, and one that is merely stopped still holds it. The file names its holder.
``bot.json`` names the bot; it is written once Discord has accepted the bot's token, so a folder of an older version is
adopted by the first bot that starts on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roost.errors import ConfigError, HeldError
from roost.file_errors import explain
from roost.instances import instances_dir, is_alive

_log = logging.getLogger("roost.start")

LOCK = "holder.lock"
OWNER = "bot.json"
LARGEST_FILE = 1 << 16
ANOTHER_FOLDER = "name another folder with --data-dir or ROOST_DATA_DIR"


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    """The process that uses a data folder or a database.

    Attributes:
        pid: Its id on its machine.
        host: Name of the machine.
        since_s: Its start, in seconds since 1970.
        bot_id: User id of its bot.
    """

    pid: int
    host: str
    since_s: float
    bot_id: int

    @classmethod
    def of_this_process(cls, bot_id: int) -> Holder:
        return cls(os.getpid(), platform.node() or "a machine without a name", time.time(), bot_id)

    def __str__(self) -> str:
        since = datetime.datetime.fromtimestamp(self.since_s, datetime.UTC)
        return f"process {self.pid} on {self.host} since {since:%Y-%m-%d %H:%M:%S} UTC"


@dataclasses.dataclass(frozen=True, slots=True)
class Owner:
    """The bot whose data a folder or a database holds.

    Attributes:
        bot_id: User id of the bot, which every token begins with.
        application_id: Of the bot's application.
        name: Of the bot when it last started.
    """

    bot_id: int
    application_id: int
    name: str


def refuse_another(owner: Owner | None, bot_id: int, what: str, remedy: str, *, key: str | None = None) -> None:
    """Refuse data of another bot.

    Raises:
        ConfigError: The data is not this bot's.
    """
    if owner is not None and owner.bot_id != bot_id:
        raise ConfigError(
            f"{what} belongs to the bot {owner.name} (application {owner.application_id}), and this token is of the "
            f"bot {bot_id}; {remedy}",
            key=key,
        )


def in_use(what: str, holder: Holder | None, bot_id: int, remedy: str) -> HeldError:
    """The error for data that another process uses.

    Args:
        bot_id: Of the bot that is refused. Two processes of one bot would end each other's calls wherever their data
            is, so other data is no remedy for them.
        remedy: For another bot.
    """
    who = str(holder) if holder is not None else "another process"
    stop = "stop that process" + (f", or {remedy}" if holder is not None and holder.bot_id != bot_id else "")
    return HeldError(f"{what} is in use by {who}; {stop}", retryable=True)


class LockFile:
    """A lock file that this process holds. Made by `hold_file`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def is_lost(self) -> bool:
        """Whether the file was removed or replaced, so that another process could hold the new one."""
        return not _is_same(self._path, self._descriptor)


@contextlib.contextmanager
def hold_file(path: Path, holder: Holder, what: str, remedy: str) -> Iterator[LockFile]:
    """Hold a lock file until the block ends.

    Args:
        path: Of the file; it stays when the block ends.
        holder: This process.
        what: What the file locks, for the error.
        remedy: For the error; follows "stop that process, or".

    Raises:
        HeldError: Another process holds it.
        ConfigError: The file cannot be written.
    """
    descriptor = -1
    try:
        while descriptor < 0:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_same(path, descriptor):  # removed after it was opened
                os.close(descriptor)
                descriptor = -1
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(dataclasses.asdict(holder)).encode(), 0)
    except BlockingIOError:
        found = _parse_holder(os.pread(descriptor, LARGEST_FILE, 0))
        os.close(descriptor)
        raise in_use(what, found, holder.bot_id, remedy) from None
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise cannot_use(path, error, what) from None
    try:
        yield LockFile(path, descriptor)
    finally:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)


class Folder:
    """A data folder that this process holds. Made by `hold_folder`."""

    def __init__(self, path: Path, lock: LockFile, bot_id: int) -> None:
        self.path = path
        self._lock = lock
        self._bot_id = bot_id

    def trouble(self) -> str:
        """How the folder was lost, as a sentence; empty while this process holds it."""
        if self._lock.is_lost():
            return f"{self.path / LOCK} was removed or replaced while the bot ran; leave the data folder alone"
        return ""

    def claim(self, owner: Owner) -> None:
        """Record the owner of the folder.

        Raises:
            ConfigError: The folder cannot be written, or is another bot's.
        """
        found = read_owner(self.path)
        refuse_another(found, self._bot_id, f"the data folder {self.path}", ANOTHER_FOLDER)
        if found == owner:
            return
        draft = self.path / f"{OWNER}.new"
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(dataclasses.asdict(owner), stream)
            draft.replace(self.path / OWNER)
        except OSError as error:
            raise cannot_use(draft, error, f"the data folder {self.path}") from None
        if found is None:
            _log.info("the data folder %s belongs to the application %d from now on", self.path, owner.application_id)


@contextlib.contextmanager
def hold_folder(path: Path, holder: Holder) -> Iterator[Folder]:
    """Hold a data folder until the block ends.

    Raises:
        ConfigError: The folder is another bot's, or cannot be used.
        HeldError: Another process holds it.
    """
    what = f"the data folder {path}"
    refuse_another(read_owner(path), holder.bot_id, what, ANOTHER_FOLDER)
    with hold_file(path / LOCK, holder, what, ANOTHER_FOLDER) as lock:
        if any(is_alive(path, each.stem) for each in instances_dir(path).glob("*.lock")):
            raise in_use(what, None, holder.bot_id, ANOTHER_FOLDER)  # of a version that held no folder
        yield Folder(path, lock, holder.bot_id)


def read_owner(folder: Path) -> Owner | None:
    """The bot whose data a folder holds; None for a new folder, or one of an older version.

    Raises:
        ConfigError: The owner file cannot be read.
    """
    file = folder / OWNER
    try:
        with file.open("rb") as stream:
            content: Any = json.loads(stream.read(LARGEST_FILE))
        return Owner(int(content["bot_id"]), int(content["application_id"]), str(content["name"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_use(file, error, f"the data folder {folder}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(
            f"{file} is damaged; remove it if the data in {folder} is of this bot, else {ANOTHER_FOLDER}"
        ) from None


def cannot_use(path: Path, error: OSError, what: str) -> ConfigError:
    """The error for a file that cannot be written or read."""
    return ConfigError(f"cannot use {what}: {path.name}: {explain(error, path)}, or {ANOTHER_FOLDER}")


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _parse_holder(raw: bytes) -> Holder | None:
    try:
        content: Any = json.loads(raw)
        return Holder(int(content["pid"]), str(content["host"]), float(content["since_s"]), int(content["bot_id"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
