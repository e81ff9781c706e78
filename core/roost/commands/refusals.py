"""What members read when a command was refused or failed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import hikari
from lightbulb import ExecutionSteps, prefab

from roost.commands.running import DeniedError
from roost.errortext import is_error
from roost.plugins.blame import Blame

if TYPE_CHECKING:
    import lightbulb

    from roost.plugins.pauses import Pause

WENT_WRONG = "Something went wrong. The owner of this bot can see what, in its log."
QUARANTINED = "The plugin {plugin} failed too often and is quarantined. Tell the owner of this bot (failure {id})."
PAUSED = (
    "The plugin {plugin} failed too often in this server, so it is paused here. I try again <t:{until}:R>. "
    "The owner of this bot can see what failed (failure {id})."
)
COOLDOWN = "`/{command}` was used too often. Try again in {wait}."
CONCURRENCY = "`/{command}` is already running as often as it may. Try again when that is done."
NOT_OWNER = "Only the owners of this bot may use `/{command}`."
MISSING = "You need {names} to use `/{command}`."
BOT_MISSING = "I need {names} for `/{command}`. Somebody who manages this server can give me that."
ROLES = "You need the role {roles} to use `/{command}`."
CHECK = "A check of `/{command}` does not allow you to use it now."
ANSWERS = {
    Blame.REFUSED: "Discord refused what `/{command}` tried: I lack a permission, or something no longer exists.",
    Blame.DISCORD: "Discord does not answer as it should at the moment. Try again in a moment.",
    Blame.STORE: "My database is busy or cannot be reached at the moment. Try again in a moment.",
    Blame.STORE_UNUSABLE: (
        "My database cannot be written, for example because its disk is full. "
        "Tell the owner of this bot, who can see why in its log."
    ),
}

_CHECKING = (ExecutionSteps.CHECKS, ExecutionSteps.COOLDOWNS, ExecutionSteps.MAX_CONCURRENCY)


def paused(pause: Pause) -> str:
    """Why a command of a paused plugin does not run."""
    return PAUSED.format(plugin=pause.plugin, until=math.ceil(pause.until), id=pause.failure.id)


def refusal(error: BaseException, command: str, *, checking: bool = False) -> str | None:
    """The words for a refusal of lightbulb's checks, cooldowns and limits; None for every other error.

    Args:
        error: What was raised.
        command: Path of the command.
        checking: It was raised by a hook of one of the steps that may refuse. Errors of a plugin's own classes, and
            those that lightbulb's guide raises to refuse, are refusals there.
    """
    if is_error(error, DeniedError):
        return str(error)
    if is_error(error, prefab.OnCooldown):
        return COOLDOWN.format(command=command, wait=_seconds(error.remaining))
    if is_error(error, prefab.MaxConcurrencyReached):
        return CONCURRENCY.format(command=command)
    if is_error(error, prefab.NotOwner):
        return NOT_OWNER.format(command=command)
    if is_error(error, prefab.MissingRequiredPermission):
        return MISSING.format(command=command, names=_permissions(error.missing))
    if is_error(error, prefab.BotMissingRequiredPermissions):
        return BOT_MISSING.format(command=command, names=_permissions(error.missing))
    if is_error(error, prefab.MissingRequiredRoles):
        roles = " or ".join(f"<@&{role_id}>" for role_id in error.role_ids)
        return ROLES.format(command=command, roles=roles)
    if checking and (type(error) in (RuntimeError, PermissionError) or _is_own(type(error))):
        return CHECK.format(command=command)
    return None


def is_checking(hook: lightbulb.ExecutionHook) -> bool:
    """Whether a hook belongs to a step that may refuse a command."""
    return hook.step in _CHECKING


def _is_own(kind: type[BaseException]) -> bool:
    """Whether a plugin made this class of errors, rather than Python, hikari or lightbulb."""
    return kind.__module__.partition(".")[0] not in ("builtins", "asyncio", "hikari", "lightbulb", "linkd", "roost")


def _seconds(remaining: float) -> str:
    seconds = max(1, math.ceil(remaining))
    return f"{seconds} second" + ("" if seconds == 1 else "s")


def _permissions(missing: hikari.Permissions) -> str:
    names = [(each.name or "").replace("_", " ").title() for each in missing.split()]
    return f"the permission {names[0]}" if len(names) == 1 else f"the permissions {', '.join(names)}"
