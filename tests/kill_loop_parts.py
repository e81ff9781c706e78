"""What the kill loop needs beside its rounds: figures, foreign software with the same token, an eye on journals."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import os
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hikari

IN_MODIFY, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x2, 0x80, 0x100, 0x200
MOMENTS = {"created": IN_CREATE, "written": IN_MODIFY, "replaced": IN_MOVED_TO, "removed": IN_DELETE}
"""Of a journal: its draft is there, and empty; has words; has become the journal; and the journal is gone."""
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Violation(Exception):
    """What did not hold; `story` is the round's."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.story: list[str] = []


@dataclasses.dataclass
class Figures:
    """What the rounds have shown."""

    rounds: int = 0
    starts: int = 0
    ghosts: int = 0
    drafts: int = 0
    worst_ghost_s: float = 0.0
    worst_children_s: float = 0.0
    activities: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, other: Figures) -> None:
        self.rounds += other.rounds
        self.starts += other.starts
        self.ghosts += other.ghosts
        self.drafts += other.drafts
        self.worst_ghost_s = max(self.worst_ghost_s, other.worst_ghost_s)
        self.worst_children_s = max(self.worst_children_s, other.worst_children_s)
        self.activities += other.activities

    def json(self) -> dict[str, Any]:
        return {
            "rounds": self.rounds,
            "starts": self.starts,
            "ghosts_left": self.ghosts,
            "torn_journals": self.drafts,
            "worst_ghost_s": round(self.worst_ghost_s, 3),
            "worst_children_s": round(self.worst_children_s, 3),
            "activities": dict(sorted(self.activities.items())),
        }


def session_of(state: dict[str, Any], user_id: str, guild_id: str) -> dict[str, Any]:
    """Where a bot is, by which voice connections, and how many of its sessions were ever opened and closed."""

    def own(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [each for each in entries if (each["user_id"], each["guild_id"]) == (user_id, guild_id)]

    return {
        "place": [each["channel_id"] for each in own(state["voice_states"])],
        "connections": [(each["connection_id"], each["ssrc"]) for each in own(state["voice_sessions"])],
        "ever": [(each["opened"], each["closed"]) for each in own(state["sessions"]["per_guild"])],
    }


@contextlib.asynccontextmanager
async def foreign_bot(card: dict[str, Any], guild_id: int, channel_id: int) -> AsyncIterator[None]:
    """Software that is not Roost, with the first bot's token, alive and in voice.

    It hears no command and keeps no journal. Its voice state has no voice connection, which is the state that looks
    most like a ghost.
    """
    token = card["bots"][0]["token"]
    bot = hikari.GatewayBot(
        token, rest_url=card["rest_url"], banner=None, logs=None, suppress_optimization_warning=True
    )
    entered = asyncio.Event()

    async def on_voice_state(event: hikari.VoiceStateUpdateEvent) -> None:
        me = bot.get_me()
        own = me is not None and event.state.user_id == me.id
        if own and (event.state.guild_id, event.state.channel_id) == (guild_id, channel_id):
            entered.set()

    bot.subscribe(hikari.VoiceStateUpdateEvent, on_voice_state)
    await bot.start(check_for_updates=False)
    try:
        await bot.shards[0].update_voice_state(guild_id, channel_id)
        await asyncio.wait_for(entered.wait(), 10)
        yield
    finally:
        await bot.close()


@contextlib.contextmanager
def watch(folder: Path, moment: str) -> Iterator[asyncio.Event]:
    """Set once the moment has come for a journal in the folder."""
    come, loop = asyncio.Event(), asyncio.get_running_loop()
    descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0 or _libc.inotify_add_watch(descriptor, os.fsencode(folder), MOMENTS[moment]) < 0:
        raise OSError(ctypes.get_errno(), "inotify")

    def look() -> None:
        raw = os.read(descriptor, 1 << 14)
        at = 0
        while at < len(raw):
            *_, length = _EVENT.unpack_from(raw, at)
            at += _EVENT.size
            name = raw[at : at + length].rstrip(b"\0").decode()
            at += length
            if ".json" in name:
                come.set()

    loop.add_reader(descriptor, look)
    try:
        yield come
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def progress(rounds: int) -> Iterator[None]:
    """Counts, for people who watch."""
    for count in range(1, rounds + 1):
        if sys.stderr.isatty():
            print(f"\r{count} of {rounds} rounds", end="" if count < rounds else "\n", file=sys.stderr, flush=True)
        yield
