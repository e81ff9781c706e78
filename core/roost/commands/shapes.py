"""What Discord refuses of a command. It takes all commands of a server in one request and refuses all for one."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

MOST = 100
"""Slash commands of one application in one server."""

_SLASH = 1
_SUBCOMMAND, _SUBGROUP = 1, 2
MOST_INSIDE = 25
_OPTIONS = _CHOICES = MOST_INSIDE


def fault(command: Mapping[str, Any]) -> str | None:
    """Why Discord would refuse a command; None when it would not.

    Args:
        command: As it is sent.
    """
    if int(command.get("type", _SLASH)) != _SLASH:
        name = str(command.get("name", ""))
        return None if 1 <= len(name) <= 32 else f"the command's name {name!r} is not 1 to 32 characters long"
    return _part(command, f"the command /{command.get('name')}")


def _part(part: Mapping[str, Any], what: str) -> str | None:
    name, description = str(part.get("name", "")), str(part.get("description", ""))
    if not 1 <= len(name) <= 32 or name != name.lower() or not all(map(_fits, name)):
        return f"the name of {what} is not 1 to 32 lower-case letters, digits, - or _"
    if not 1 <= len(description) <= 100:
        return f"the description of {what} is {len(description)} characters long, and must be 1 to 100"
    options = part.get("options") or ()
    if len(options) > _OPTIONS:
        return f"{what} has {len(options)} options, and may have {_OPTIONS}"
    if len({each["name"] for each in options}) < len(options):
        return f"{what} has two options of one name"
    optional = ""
    for option in options:
        nested = int(option.get("type", 0)) in (_SUBCOMMAND, _SUBGROUP)
        if (found := _part(option, f"{what} {'' if nested else 'option '}{option['name']}")) is not None:
            return found
        if nested:
            continue
        if len(option.get("choices") or ()) > _CHOICES:
            return f"the option {option['name']} of {what} has more than {_CHOICES} choices"
        if option.get("required") and optional:
            return f"the required option {option['name']} of {what} comes after {optional}, which is optional"
        optional = optional or ("" if option.get("required") else str(option["name"]))
    return None


def _fits(char: str) -> bool:
    return char.isalnum() or char in "-_'" or unicodedata.category(char).startswith("M")
