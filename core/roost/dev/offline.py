"""``roost run --offline``: the real bot at a simulated Discord, and a prompt that plays a member."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from roost.dev.typed import CHANNEL_OPTION, MENTIONABLE_OPTION, USER_OPTION, Press, Say, Slash, read_line
from roost.dev.watch import watch
from roost.errors import RoostError, UsageError
from roost.scopes import Scope
from roost.testing.kit import Reply, RoostBot, running_bot

PROMPT = "> "
LINES_AHEAD = 100
MEMBER = "Ada"
CHANNEL = "general"

Show = Callable[[str], None]


def run_offline(
    plugins_dir: Path | None,
    *,
    installed: tuple[str, ...] = (),
    settings: Mapping[str, Any] | None = None,
    data_dir: Path | None = None,
    watched: bool = False,
) -> int:
    """Run until standard input ends or a signal comes; gives the exit status: 1 if a line could not be carried out.

    Args:
        plugins_dir: The drop-in folder; None for no drop-in plugins.
        installed: Installed plugins to load too.
        settings: Further ones, ``section.key`` to value.
        data_dir: None for a fresh one that is removed at the end.
        watched: Reload a plugin whose files change.

    Raises:
        RoostError: The bot could not start.
    """
    with contextlib.ExitStack() as stack:
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roost-offline-")))
        return asyncio.run(_session(plugins_dir, installed, settings or {}, folder, watched))


async def _session(
    plugins_dir: Path | None, installed: tuple[str, ...], settings: Mapping[str, Any], data_dir: Path, watched: bool
) -> int:
    async with running_bot(
        data_dir=data_dir, plugins_dir=plugins_dir, installed=installed, settings=settings, guilds=1
    ) as bot:
        terminal = sys.stdin.isatty()
        show: Show = _plain if not terminal else _rich()
        for row in bot.app.plugins.table():
            if row["state"] == "failed":
                show(f"plugin {row['name']} failed: {row['detail']}")
        known = ", ".join(sorted(f"/{each['name']}" for each in bot.commands())) or "none"
        if terminal:
            show(
                f"Simulated Discord: you are {MEMBER} in #{CHANNEL}. Commands: {known}\n"
                "Options are written name:value, a button is pressed with !Label, other text is written into the "
                "channel. Ctrl-D ends."
            )
        scope = Scope("offline")
        try:
            if watched and plugins_dir is not None:
                scope.spawn(watch(bot.app.plugins, plugins_dir, show), "watch")
            prompt = scope.spawn(_prompt(bot, show, terminal), "prompt", awaited=True)
            ended = scope.spawn(bot.app.stop_requested(), "stop")
            await asyncio.wait({prompt, ended}, return_when=asyncio.FIRST_COMPLETED)
            return prompt.result() if prompt.done() else 0
        finally:
            await scope.aclose()


async def _prompt(bot: RoostBot, show: Show, terminal: bool) -> int:
    """Carry out every line; gives 1 if one could not be."""
    status = 0
    pressable: Reply | None = None
    if terminal:
        print(PROMPT, end="", flush=True)
    async for line in _lines():
        try:
            replies = await _carry_out(bot, line, pressable)
        except (RoostError, TimeoutError) as error:
            show(f"roost: {error}")
            status, replies = 1, []
        for reply in replies:
            show(_shown(reply))
            pressable = reply if reply.buttons else pressable
        if terminal:
            print(PROMPT, end="", flush=True)
    return status


async def _carry_out(bot: RoostBot, line: str, pressable: Reply | None) -> list[Reply]:
    typed = read_line(line, bot.commands())
    match typed:
        case Slash():
            return await bot.replies(typed.command, member=MEMBER, channel=CHANNEL, options=_named(bot, typed))
        case Press(label):
            if pressable is None:
                raise UsageError("no reply so far has a button")
            return [await bot.press(pressable, label, member=MEMBER)]
        case Say(text):
            await bot.write(text, member=MEMBER, channel=CHANNEL)
    return []


def _named(bot: RoostBot, typed: Slash) -> dict[str, Any]:
    """Options as the client sends them: channels and people by id, ``#`` and ``@`` in front allowed."""

    def named(value: str, kind: int | None) -> str:
        if value.isdecimal():
            return value
        if kind == CHANNEL_OPTION:
            return str(bot.channel(value.removeprefix("#")).id)
        if kind == USER_OPTION or (kind == MENTIONABLE_OPTION and value.startswith("@")):
            return str(bot.member(value.removeprefix("@")))
        return value

    return {
        name: named(value, typed.kinds.get(name)) if isinstance(value, str) else value
        for name, value in typed.options.items()
    }


def _shown(reply: Reply) -> str:
    parts = [reply.content] if reply.content else []
    parts += [f"[{label}]" for label in reply.buttons]
    parts += [f"(file {file.name}, {len(file.content)} bytes)" for file in reply.files]
    text = " ".join(parts) or "(an embed)"
    return f"{text}  (only you see this)" if reply.ephemeral else text


def _plain(text: str) -> None:
    print(text, flush=True)


def _rich() -> Show:
    from rich.console import Console

    console = Console(highlight=False)
    return lambda text: console.print(text, markup=False, style="bold")


async def _lines() -> AsyncIterator[str]:
    """Lines of standard input, a terminal, a pipe or a file alike, read in a thread that nobody waits for."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | None] = asyncio.Queue(LINES_AHEAD)
    number = sys.stdin.fileno()

    def put(line: str | None) -> None:
        asyncio.run_coroutine_threadsafe(queue.put(line), loop).result()

    def read() -> None:
        # The descriptor itself: a thread inside sys.stdin's buffer would hold its lock when the interpreter ends.
        rest = b""
        with contextlib.suppress(RuntimeError, OSError, asyncio.CancelledError):
            while chunk := os.read(number, 4096):
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    put(line.decode(errors="replace"))
            if rest:
                put(rest.decode(errors="replace"))
        with contextlib.suppress(RuntimeError, asyncio.CancelledError):
            put(None)

    threading.Thread(target=read, name="offline stdin", daemon=True).start()
    while (line := await queue.get()) is not None:
        yield line
