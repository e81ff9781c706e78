"""What is typed at the prompt of ``roost run --offline``, as Discord's client would read it. Pure."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from typing import Any

from roost.errors import UsageError

BOOLEAN = 5
USER_OPTION, CHANNEL_OPTION, MENTIONABLE_OPTION = 6, 7, 9
_OPTION = re.compile(r"([-_\w]+):(.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Slash:
    """A slash command, such as ``/voice join channel:perch``.

    Attributes:
        command: Its path.
        options: By name, as typed; true and false are booleans where the command wants one.
        kinds: Discord's number for the type of each option that the command has.
    """

    command: str
    options: dict[str, Any]
    kinds: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Press:
    """A button of the last message that has any, by its label: ``!Agree``."""

    label: str


@dataclasses.dataclass(frozen=True, slots=True)
class Say:
    """Anything else is written into the channel."""

    text: str


def read_line(line: str, commands: Sequence[dict[str, Any]]) -> Slash | Press | Say | None:
    """What a line means; None for an empty one.

    Args:
        line: As typed.
        commands: What the guild has, for the types of options.

    Raises:
        UsageError: A quote is not closed, or a word is neither a subcommand nor an option.
    """
    line = line.strip()
    if not line:
        return None
    if line.startswith("!") and len(line) > 1:
        return Press(line[1:].strip())
    if not line.startswith("/"):
        return Say(line)
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{str(error).lower()}: close it, or put a \\ in front") from None
    path = [words[0]]
    options: dict[str, Any] = {}
    for word in words[1:]:
        match = _OPTION.fullmatch(word)
        if match is not None:
            options[match[1]] = match[2]
        elif options:
            raise UsageError(f"options are written name:value, with quotes around spaces; what is {word!r}?")
        else:
            path.append(word)
    declared = _declared(path, commands)
    for name, value in options.items():
        if declared.get(name) == BOOLEAN and value.lower() in ("true", "false", "yes", "no"):
            options[name] = value.lower() in ("true", "yes")
    return Slash(" ".join(path), options, declared)


def _declared(path: Sequence[str], commands: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Option name to type, of the command at a path."""
    level: dict[str, Any] = {"options": list(commands)}
    for word in path:
        level = next((each for each in level.get("options") or () if each["name"] == word.lstrip("/")), {})
    return {each["name"]: int(each["type"]) for each in level.get("options") or () if "type" in each}
