"""``roost new-plugin``: a drop-in plugin that answers a command, and its test."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from roost.entrypoints import installed_points, name_of
from roost.errors import UsageError
from roost.plugins.discovery import GROUP, RESERVED

NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")

TAKEN = RESERVED | {"bot", "config", "plugins", "privacy"}
"""Names of the core and of its commands, which no plugin can have."""

PLUGIN = '''\
"""/{name} for Roost. Try it: roost run --offline"""

from roost import CommandContext, Plugin

__roost_plugin__ = plugin = Plugin("{name}", "Answers /{name}")


@plugin.command("{name}", "Say hello")
async def {name}(ctx: CommandContext) -> None:
    await ctx.respond(f"Hello, {{ctx.user.display_name}}!")
'''

TEST = '''\
"""Run with: pytest {folder}"""

from pathlib import Path

import pytest
from roost.testing import RoostBot

PLUGIN = Path(__file__).parent.parent / "{name}.py"


@pytest.mark.asyncio
@pytest.mark.roost(PLUGIN)
async def test_{name}_answers(roost_bot: RoostBot) -> None:
    reply = await roost_bot.slash("/{name}", member="Ada")
    assert reply.content == "Hello, Ada!"
'''


def new_plugin(name: str, folder: Path) -> tuple[Path, Path]:
    """Write a plugin and its test; nothing that exists is touched.

    Args:
        name: Of the plugin, its command and its file.
        folder: The drop-in folder; made if it is missing.

    Returns:
        The plugin's file and the test's.

    Raises:
        UsageError: The name does not fit, or a file is in the way or cannot be written.
    """
    if name in TAKEN:
        raise UsageError(f"{name!r} is a name of Roost's own (so are {', '.join(sorted(TAKEN))}); take another")
    if not NAME.fullmatch(name) or keyword.iskeyword(name) or name == "plugin":
        raise UsageError(
            f"{name!r} cannot be a plugin's name: take 1 to 32 lower-case letters, digits and _, a letter first, "
            "and no word of Python"
        )
    installed = next((point for point in installed_points(GROUP) if point.name == name), None)
    if installed is not None and installed.dist is not None:
        raise UsageError(
            f"{name} is a plugin of the installed package {name_of(installed.dist)}, and of two plugins of one name "
            "neither is loaded; take another name"
        )
    plugin, test = folder / f"{name}.py", folder / "tests" / f"test_{name}.py"
    for taken in (plugin, test, folder / name):
        if taken.exists():
            raise UsageError(
                f"{taken} exists already and was left alone; take another name, or another folder by --dir"
            )
    try:
        # Readable by all, writable by the owner alone, whatever the umask: what others write, the bot would run.
        for directory in (folder, test.parent):
            if not directory.exists():
                directory.mkdir(parents=True)
                directory.chmod(0o755)
        _write(plugin, PLUGIN.format(name=name))
        _write(test, TEST.format(name=name, folder=folder))
    except OSError as error:
        raise UsageError(f"cannot write {error.filename or folder}: {error.strerror}") from None
    return plugin, test


def _write(file: Path, text: str) -> None:
    with file.open("x", encoding="utf-8") as stream:
        stream.write(text)
    file.chmod(0o644)
