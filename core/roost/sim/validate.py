"""What Discord refuses: commands and messages of a wrong shape. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Body = dict[str, Any]
COMMAND_NAME = re.compile(r"^[-_'\w]{1,32}$")
SUBCOMMAND, SUBGROUP = 1, 2
CONTENT_LIMIT = 2000
NONCE_LIMIT = 25
EMBEDS_LIMIT = 10
OPTIONS_LIMIT = CHOICES_LIMIT = 25
COMMANDS_LIMIT = 100
BUTTON, LINK_STYLE = 2, 5
COMPONENTS_V2 = 1 << 15


def command_fault(command: Body) -> str | None:
    """Why a slash command is refused (50035); None when it is fine."""
    if command.get("type", 1) != 1:
        return None
    return _named_fault(command, "command") or _options_fault(command)


def command_list_fault(commands: list[Body]) -> str | None:
    """The same for everything that is put at once."""
    if len(commands) > COMMANDS_LIMIT:
        return f"there may be {COMMANDS_LIMIT} commands, not {len(commands)}"
    for command in commands:
        fault = command_fault(command)
        if fault is not None:
            return fault
    names = [(each.get("type", 1), each["name"]) for each in commands]
    twice = next((name for kind, name in names if names.count((kind, name)) > 1), None)
    return f"application command names must be unique: {twice}" if twice else None


def _named_fault(part: Body, kind: str) -> str | None:
    name, description = part.get("name"), part.get("description")
    if not isinstance(name, str) or not COMMAND_NAME.match(name) or name != name.lower():
        return f"{kind} name {name!r} does not match {COMMAND_NAME.pattern} in lower case"
    if not isinstance(description, str) or not 1 <= len(description) <= 100:
        return f"the description of {kind} {name} must be between 1 and 100 in length"
    return None


def _options_fault(level: Body) -> str | None:
    options = level.get("options") or []
    if len(options) > OPTIONS_LIMIT:
        return f"{level['name']} may have {OPTIONS_LIMIT} options, not {len(options)}"
    optional_seen = False
    for option in options:
        fault = _named_fault(option, "option")
        if fault is not None:
            return fault
        if option.get("type") in (SUBCOMMAND, SUBGROUP):
            fault = _options_fault(option)
        elif option.get("required") and optional_seen:
            fault = f"the required option {option['name']} must come before the optional ones"
        elif len(option.get("choices") or []) > CHOICES_LIMIT:
            fault = f"{option['name']} may have {CHOICES_LIMIT} choices"
        optional_seen = optional_seen or not option.get("required")
        if fault is not None:
            return fault
    names = [option["name"] for option in options]
    return f"{level['name']} has an option twice" if len(set(names)) < len(names) else None


def message_fault(body: Body, *, files: int = 0, empty_allowed: bool = False) -> tuple[int, str] | None:
    """(code, message) when a message is refused; None when it is fine.

    Args:
        body: Its JSON.
        files: How many files come with it.
        empty_allowed: It is an edit or a deferred reply.
    """
    nonce = body.get("nonce")
    if nonce is not None and not (isinstance(nonce, int) or (isinstance(nonce, str) and len(nonce) <= NONCE_LIMIT)):
        return 50035, f"Invalid Form Body: nonce must be {NONCE_LIMIT} or fewer in length"
    content = body.get("content") or ""
    if len(content) > CONTENT_LIMIT:
        return 50035, f"Invalid Form Body: content must be {CONTENT_LIMIT} or fewer in length"
    if len(body.get("embeds") or []) > EMBEDS_LIMIT:
        return 50035, f"Invalid Form Body: embeds must be {EMBEDS_LIMIT} or fewer in length"
    fault = _components_fault(body)
    if fault is not None:
        return 50035, f"Invalid Form Body: {fault}"
    if not empty_allowed and not (content or body.get("embeds") or body.get("components") or files):
        return 50006, "Cannot send an empty message"
    return None


def _components_fault(body: Body) -> str | None:
    top = body.get("components") or []
    if not int(body.get("flags") or 0) & COMPONENTS_V2 and len(top) > 5:
        return "components must be 5 or fewer in length"
    ids: list[str] = []
    for component in walk(top):
        custom_id = component.get("custom_id")
        if custom_id is not None:
            if not 1 <= len(custom_id) <= 100:
                return "custom_id must be between 1 and 100 in length"
            ids.append(custom_id)
        elif component.get("type") == BUTTON and component.get("style") != LINK_STYLE:
            return "a button needs a custom_id"
        if len(component.get("label") or "") > 80:
            return "label must be 80 or fewer in length"
    return "component custom_id cannot be duplicated" if len(set(ids)) < len(ids) else None


def walk(components: list[Body]) -> Iterator[Body]:
    """Every component, outer ones first."""
    queue = list(components)
    while queue:
        component = queue.pop(0)
        yield component
        queue += component.get("components") or []
        for key in ("accessory", "component"):
            if component.get(key):
                queue.append(component[key])
