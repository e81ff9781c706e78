"""Who is to blame for an error: the plugin, Discord, the machine or the store.

A member who asks too late, a missing permission, an outage of Discord and a locked database are no failures of the
plugin that was at work.
"""

from __future__ import annotations

import enum
import traceback
from collections.abc import Iterator
from pathlib import Path

import hikari

import roost.store
from roost.blocking import BlockedError, StalledError
from roost.dispatch import hung_trace
from roost.errors import StoreCause, StoreError
from roost.errortext import is_error, own
from roost.strays import StrayError
from roost.unreadable import is_unreadable_answer

DEPTH = 8
"""How many causes of causes are looked at."""

_HIKARI = str(Path(hikari.__file__).parent)
_STORE = str(Path(roost.store.__file__).parent)

_UNANSWERABLE = frozenset({10062, 40060})
"""Discord's codes for an interaction that is unknown (it was answered too late) or answered already."""
_MEMBERS_SIDE = frozenset({40032, 50083, 200000, 200001})
"""Codes of status 400 about the server's side: not in voice, archived thread, blocked by automatic moderation."""
_LIMITS = range(30000, 31000)
"""Codes of status 400: the server has as many of something as Discord allows."""

_WRONG_REQUESTS = frozenset({405, 409, 411, 413, 414, 415, 422})
"""Other statuses of the 4xx that say that the request itself was wrong; what is left comes from whatever is between."""


class Blame(enum.Enum):
    """Who is to blame for an error."""

    PLUGIN = "plugin"
    TOO_LATE = "too late"
    """The interaction has ended: nobody can be answered any more."""
    REFUSED = "refused"
    """Discord refused: a permission is missing, or what it is about is gone."""
    DISCORD = "discord"
    """Discord failed, limits the bot or cannot be reached."""
    MACHINE = "machine"
    """The whole process stood still."""
    STORE = "store"
    """The database is busy or cannot be reached."""
    STORE_UNUSABLE = "store unusable"
    """The database's disk is full or failing, or the bot may not write it."""


EXCUSES = {
    Blame.PLUGIN: "",
    Blame.TOO_LATE: "Discord takes no answer to the interaction any more",
    Blame.REFUSED: "Discord refused",
    Blame.DISCORD: "Discord failed or cannot be reached",
    Blame.MACHINE: "the whole process stood still",
    Blame.STORE: "the database is busy or cannot be reached",
    Blame.STORE_UNUSABLE: "the database cannot be written",
}
"""What the log says of an error that is not the plugin's failure."""


def blame(error: BaseException) -> Blame:
    """Who is to blame for an error that plugin code raised.

    An error that a plugin raised because of another one (``raise ... from``) is judged by that one too.
    """
    for each in _chain(error):
        if is_error(each, ExceptionGroup):
            verdicts = {blame(inner) for inner in own(each, "exceptions", BaseExceptionGroup)}
            return verdicts.pop() if len(verdicts) == 1 else Blame.PLUGIN
        try:
            found = _judge(each)
        except Exception:  # noqa: BLE001 - of an attribute that a plugin's class made anything of
            return Blame.PLUGIN
        if found is not Blame.PLUGIN:
            return found
    return Blame.PLUGIN


def _chain(error: BaseException) -> Iterator[BaseException]:
    each: BaseException | None = error
    for _ in range(DEPTH):
        if each is None:
            return
        yield each
        each = each.original if is_error(each, StrayError) else own(each, "__cause__")


def _judge(error: BaseException) -> Blame:
    if is_error(error, StalledError):
        return Blame.MACHINE
    if is_error(error, StoreError):
        return Blame.STORE if error.cause is StoreCause.BUSY else Blame.STORE_UNUSABLE
    if is_error(error, hikari.HTTPResponseError) and error.code in _UNANSWERABLE:
        return Blame.TOO_LATE
    if is_error(error, hikari.BadRequestError):
        return Blame.REFUSED if error.code in _MEMBERS_SIDE or error.code in _LIMITS else Blame.PLUGIN
    if is_error(error, hikari.UnauthorizedError, hikari.ForbiddenError, hikari.NotFoundError):
        return Blame.REFUSED
    if is_error(error, hikari.ClientHTTPResponseError) and error.status in _WRONG_REQUESTS:
        return Blame.PLUGIN
    if is_error(error, hikari.HTTPError, hikari.GatewayError):
        return Blame.DISCORD
    if is_error(error, TimeoutError) and not is_error(error, BlockedError):
        return _hung_in(error)
    return Blame.DISCORD if is_unreadable_answer(error) else Blame.PLUGIN


def _hung_in(error: TimeoutError) -> Blame:
    """A deadline that passed while Discord or the store was waited for is theirs."""
    for frame in reversed(traceback.extract_tb(hung_trace(error))):
        if frame.filename.startswith(_HIKARI):
            return Blame.DISCORD
        if frame.filename.startswith(_STORE):
            return Blame.STORE
    return Blame.PLUGIN
