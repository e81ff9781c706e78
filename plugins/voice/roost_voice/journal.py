"""What this process answers for in voice, kept where the next process finds it after a crash.

One file per process, ``<data_dir>/instances/<instance_id>.json``, mode 0600, replaced atomically. The data folder has
one living process (`roost.holder`), so every other journal in it is a dead process's. No secret is stored: session ids
as SHA-256.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

from roost.instances import instances_dir

_log = logging.getLogger("roost.voice.journal")

_ID = re.compile(r"[0-9]{1,20}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
OLD_S = 3600.0
"""A dead process's file older than this is removed unread: no ghost lives that long."""


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """One guild in a journal. The hash is None until Discord has told the session id."""

    channel_id: int
    session_sha256: str | None

    def covers(self, session_id: str) -> bool:
        """Whether a voice session may be the claimed one: it is, or Discord had not named the claimed one yet."""
        return self.session_sha256 is None or self.session_sha256 == session_hash(session_id)


def session_hash(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()


class Journal:
    """This process's file. Every change is on disk when the call returns, so that it survives a SIGKILL."""

    def __init__(self, data_dir: Path, instance_id: str) -> None:
        self._path = instances_dir(data_dir) / f"{instance_id}.json"
        self._instance_id = instance_id
        self._claims: dict[int, Claim] = {}

    @property
    def claims(self) -> dict[int, Claim]:
        return dict(self._claims)

    def write(self, guild_id: int, channel_id: int, session_id: str | None) -> None:
        """Note a guild.

        Raises:
            OSError: The disk refused; what was noted before still stands.
        """
        claim = Claim(channel_id, session_hash(session_id) if session_id else None)
        if self._claims.get(guild_id) != claim:
            self._save({**self._claims, guild_id: claim})

    def remove(self, guild_id: int) -> None:
        """Forget a guild; the file goes with the last one."""
        if guild_id in self._claims:
            self._save({guild: claim for guild, claim in self._claims.items() if guild != guild_id})

    def check(self, guild_id: int, channel_id: int) -> None:
        """Try whether a guild could be noted, and note nothing.

        Raises:
            OSError: The disk would refuse.
        """
        if guild_id not in self._claims:
            self._draft({**self._claims, guild_id: Claim(channel_id, "0" * 64)}).unlink()

    def _save(self, claims: dict[int, Claim]) -> None:
        if not claims:
            self._path.unlink(missing_ok=True)
        else:
            self._draft(claims).replace(self._path)
        self._claims = claims

    def _draft(self, claims: dict[int, Claim]) -> Path:
        # Not its parents: a data folder that was moved away must not be made anew, for then it cannot come back.
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        content = {
            "instance": self._instance_id,
            "guilds": {
                str(guild): {"channel": str(claim.channel_id), "session_sha256": claim.session_sha256}
                for guild, claim in claims.items()
            },
        }
        draft = self._path.with_suffix(".json.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
            file.write(json.dumps(content).encode())
        return draft


def parse(raw: bytes) -> dict[int, Claim] | None:
    """A journal's claims; None when the file is torn, foreign or nonsense."""
    try:
        content: Any = json.loads(raw)
        return {
            _id(guild): Claim(_id(entry["channel"]), _hash(entry["session_sha256"]))
            for guild, entry in content["guilds"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _id(text: object) -> int:
    """A Discord id as `Journal` writes it; a torn file that still is JSON must not send an op 4 anywhere else."""
    if not isinstance(text, str) or not _ID.fullmatch(text) or not 0 < int(text) < 1 << 64:
        raise ValueError("not an id")
    return int(text)


def _hash(text: object) -> str | None:
    if text is not None and not (isinstance(text, str) and _SHA256.fullmatch(text)):
        raise ValueError("not a hash")
    return text


def read_dead(data_dir: Path, instance_id: str) -> dict[Path, dict[int, Claim]]:
    """What dead processes answered for, by journal and guild. Torn and very old files are removed."""
    dead: dict[Path, dict[int, Claim]] = {}
    for path in sorted(instances_dir(data_dir).glob("*.json*")):
        if path.name.split(".", 1)[0] == instance_id:
            continue
        try:
            raw = path.read_bytes()
            age_s = time.time() - path.stat().st_mtime
        except OSError:
            continue
        claims = parse(raw) if path.suffix == ".json" else None
        if claims and age_s < OLD_S:
            dead[path] = claims
        else:
            path.unlink(missing_ok=True)
    return dead


def remove_lock_of(journal: Path) -> None:
    """Remove a dead process's journal and the lock file it left."""
    journal.unlink(missing_ok=True)
    journal.with_suffix(".lock").unlink(missing_ok=True)
