"""Interactions as Discord sends them: a typed command becomes a payload, with the checks of Discord's client."""

from __future__ import annotations

import dataclasses
from typing import Any

import hikari

from roost.sim.messages import Interaction, Message
from roost.sim.validate import SUBCOMMAND, SUBGROUP, walk
from roost.sim.world import Channel, Guild

Body = dict[str, Any]
INTEGER, BOOLEAN, USER, CHANNEL, ROLE, MENTIONABLE, NUMBER = 4, 5, 6, 7, 8, 9, 10
ACTION_ROW, TEXT_INPUT = 1, 4
LOCALE = "en-US"


class BadRequest(Exception):
    """The caller's mistake; its text is the answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Invocation:
    """What somebody typed.

    Attributes:
        line: Such as ``/voice join``.
        options: Name -> value.
        focused: The option being typed, for autocompletion.
    """

    line: str
    options: Body
    focused: str | None = None


def command_data(guild: Guild, channel: Channel, member_id: int, commands: list[Body], typed: Invocation) -> Body:
    """The ``data`` of a slash command or its autocompletion.

    Raises:
        BadRequest: There is no such command or option, or the member may not use it.
    """
    path = typed.line.lstrip("/").split()
    command = next((each for each in commands if path and each["name"] == path[0]), None)
    if command is None:
        known = ", ".join(f"/{each['name']}" for each in commands) or "none"
        raise BadRequest(f"there is no command /{' '.join(path)} in guild {guild.id}; there is: {known}")
    permissions = guild.permissions(member_id, channel)
    needed = int(command.get("default_member_permissions") or 0)
    if permissions & needed != needed or not permissions & int(hikari.Permissions.USE_APPLICATION_COMMANDS):
        raise BadRequest(f"member {member_id} may not use /{path[0]}")
    level: Body = command
    words = []
    for word in path[1:]:
        found = next((each for each in level.get("options") or [] if each["name"] == word), None)
        if found is None or found["type"] not in (SUBCOMMAND, SUBGROUP):
            raise BadRequest(f"/{path[0]} has no subcommand {word!r}; it has: {_subcommands(level)}")
        words.append((found["type"], word))
        level = found
    if any(each["type"] in (SUBCOMMAND, SUBGROUP) for each in level.get("options") or []):
        raise BadRequest(f"/{' '.join(path)} needs a subcommand: {_subcommands(level)}")
    resolved: Body = {}
    options = _options(guild, member_id, level, typed, resolved)
    for kind, word in reversed(words):
        options = [{"type": kind, "name": word, "options": options}]
    data: Body = {"id": command["id"], "name": command["name"], "type": 1, "options": options}
    if resolved:
        data["resolved"] = resolved
    if command.get("guild_id"):
        data["guild_id"] = command["guild_id"]
    return data


def _subcommands(level: Body) -> str:
    options = level.get("options") or []
    return ", ".join(each["name"] for each in options if each["type"] in (SUBCOMMAND, SUBGROUP)) or "none"


def _options(guild: Guild, member_id: int, level: Body, typed: Invocation, resolved: Body) -> list[Body]:
    declared = {each["name"]: each for each in level.get("options") or []}
    options = []
    for name, value in typed.options.items():
        if name not in declared:
            known = f"there is: {', '.join(declared)}" if declared else "the command has none"
            raise BadRequest(f"there is no option {name!r}; {known}")
        spec = declared[name]
        if name == typed.focused:  # What is being typed is text, whatever it shall become.
            options.append({"name": name, "type": spec["type"], "value": str(value), "focused": True})
            continue
        options.append({"name": name, "type": spec["type"], "value": _value(guild, member_id, spec, value, resolved)})
    if typed.focused is None:
        missing = [name for name, spec in declared.items() if spec.get("required") and name not in typed.options]
        if missing:
            raise BadRequest(f"the option {missing[0]!r} is required")
    elif typed.focused not in typed.options:
        raise BadRequest(f"the focused option {typed.focused!r} is not among the options")
    return options


def _value(guild: Guild, member_id: int, spec: Body, value: Any, resolved: Body) -> Any:
    kind = spec["type"]
    if kind == CHANNEL:
        return _channel(guild, member_id, spec, value, resolved)
    if kind in (USER, ROLE, MENTIONABLE):
        return _mention(guild, kind, value, resolved)
    if kind == BOOLEAN:
        if not isinstance(value, bool):
            raise BadRequest(f"{spec['name']} is true or false, not {value!r}")
        return value
    try:
        typed: Any = int(value) if kind == INTEGER else float(value) if kind == NUMBER else str(value)
    except (TypeError, ValueError):
        what = "a whole number" if kind == INTEGER else "a number"
        raise BadRequest(f"{spec['name']} is {what}, not {value!r}") from None
    choices = [each["value"] for each in spec.get("choices") or []]
    if choices and typed not in choices:
        raise BadRequest(f"{spec['name']} is one of {', '.join(map(str, choices))}, not {typed}")
    size = len(typed) if isinstance(typed, str) else typed
    low, high = (
        (spec.get("min_length"), spec.get("max_length"))
        if isinstance(typed, str)
        else (spec.get("min_value"), spec.get("max_value"))
    )
    if (low is not None and size < low) or (high is not None and size > high):
        raise BadRequest(f"{spec['name']} is from {low} to {high}, not {size}")
    return typed


def _channel(guild: Guild, member_id: int, spec: Body, value: Any, resolved: Body) -> str:
    """A channel or thread, told with what the member who chose it may do there."""
    channel = guild.channels.get(int(value)) or guild.threads.get(int(value))
    if channel is None:
        raise BadRequest(f"there is no channel {value} in guild {guild.id}")
    kinds = spec.get("channel_types") or []
    if kinds and channel.type not in kinds:
        raise BadRequest(f"channel {channel.name} is not of a type that {spec['name']} takes")
    shown = channel.payload() | {"permissions": str(guild.permissions(member_id, channel))}
    resolved.setdefault("channels", {})[str(value)] = shown
    return str(value)


def _mention(guild: Guild, kind: int, value: Any, resolved: Body) -> str:
    roles = {each["id"]: each for each in guild.rest_payload()["roles"]}
    member = guild.members.get(int(value)) if kind != ROLE else None
    if member is not None:
        shown = guild.member_payload(member.user.id) | {"permissions": str(guild.permissions(member.user.id))}
        resolved.setdefault("users", {})[str(value)] = member.user.payload()
        resolved.setdefault("members", {})[str(value)] = {key: each for key, each in shown.items() if key != "user"}
    elif kind != USER and str(value) in roles:
        resolved.setdefault("roles", {})[str(value)] = roles[str(value)]
    else:
        raise BadRequest(f"there is no {'role' if kind == ROLE else 'member'} {value} in guild {guild.id}")
    return str(value)


def component_data(message: Message, custom_id: Any, label: Any, values: Any) -> Body:
    """The ``data`` of a pressed button, or of a menu in which `values` were chosen; found by custom_id or label."""
    found = [each for each in walk(message.body.get("components") or []) if each.get("custom_id")]
    for component in found:
        if component["custom_id"] != custom_id if custom_id is not None else component.get("label") != label:
            continue
        if component.get("disabled"):
            raise BadRequest("that button is disabled")
        data: Body = {"custom_id": component["custom_id"], "component_type": component["type"], "id": component["id"]}
        if values is not None:
            data["values"] = [str(each) for each in values]
        return data
    known = ", ".join(str(each.get("label") or each["custom_id"]) for each in found) or "none"
    raise BadRequest(f"the message has no such button; it has: {known}")


def modal_data(custom_id: str, values: Body) -> Body:
    """The ``data`` of a modal sent off with these texts, one row for each."""
    rows = [
        {
            "type": ACTION_ROW,
            "id": 2 * n + 1,
            "components": [{"type": TEXT_INPUT, "id": 2 * n + 2, "custom_id": name, "value": str(value)}],
        }
        for n, (name, value) in enumerate(values.items())
    ]
    return {"custom_id": custom_id, "components": rows}


def payload(
    interaction: Interaction,
    guild: Guild,
    channel: Channel,
    data: Body,
    *,
    locale: str = LOCALE,
    guild_locale: str = LOCALE,
) -> Body:
    """INTERACTION_CREATE; with the locale of the user and that of the guild."""
    bot = interaction.bot
    permissions = guild.permissions(interaction.member_id, channel)
    whole: Body = {
        "id": str(interaction.id),
        "application_id": str(bot.application_id),
        "type": interaction.kind,
        "data": data,
        "guild_id": str(guild.id),
        "guild": {"id": str(guild.id), "locale": guild_locale, "features": []},
        "guild_locale": guild_locale,
        "locale": locale,
        "channel_id": str(channel.id),
        "channel": channel.payload() | {"permissions": str(permissions)},
        "member": guild.member_payload(interaction.member_id) | {"permissions": str(permissions)},
        "token": interaction.token,
        "version": 1,
        "app_permissions": str(guild.permissions(bot.user.id, channel)),
        "entitlements": [],
        "authorizing_integration_owners": {"0": str(guild.id)},
        "context": 0,
        "attachment_size_limit": 10_485_760,
    }
    if interaction.source is not None:
        whole["message"] = interaction.source.discord()
    return whole
