"""What the host knows of one plugin, and the states a plugin can be in."""

from __future__ import annotations

import dataclasses
import enum
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

from roost.blocking import BlockedError
from roost.dispatch import LEFT_OUT, is_private, raised_class, where
from roost.errors import RoostError
from roost.errortext import class_name, is_error, text_of
from roost.frames import OverBudget
from roost.logs import redact
from roost.strays import CancelledItselfError, StrayError

if TYPE_CHECKING:
    from roost.hooks import Meta
    from roost.leaks import Holdings
    from roost.places import Place
    from roost.plugins.plugin_context import Context
    from roost.store import Backup

_log = logging.getLogger("roost.plugins")

MOST_FAILURES = 4096
"""Plugins and places whose last failure is remembered."""


class State(enum.Enum):
    """Where a plugin is in its life."""

    FOUND = "found"
    UNAVAILABLE = "unavailable"
    INCOMPATIBLE = "incompatible"
    DISABLED = "disabled"
    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    UNLOADING = "unloading"
    UNLOADED = "unloaded"
    LEAKED = "leaked"


RUNNING = frozenset({State.LOADED, State.QUARANTINED})
"""States in which a plugin is open."""

_ALARMING = frozenset({State.FAILED, State.LEAKED, State.QUARANTINED})


class FailureKind(enum.Enum):
    """What kind of failure it was, for those who may not see its details."""

    RAISED = "raised"
    TIMED_OUT = "timed out"
    BLOCKED = "blocked"
    """It kept the whole bot from everything else."""
    OVER_BUDGET = "over budget"
    """It took too long over each piece of sound."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """The failure that was one too many.

    Attributes:
        id: Also in the log, so that the owner finds it there.
        kind: See `FailureKind`.
        source: What failed, such as "its command /join".
        detail: What is known of it, without secrets; for the owners of the bot alone.
    """

    id: str
    kind: FailureKind
    source: str
    detail: str


def failure_of(source: str, error: Exception) -> Failure:
    """What there is to know about an error, under a new id."""
    private = is_private(source, error) and not is_error(error, TimeoutError)
    detail = f"{raised_class(error)} at {where(error)}, {LEFT_OUT}" if private else describe(error)
    return Failure(new_id(), kind_of(error), source, redact(detail))


def kind_of(error: Exception) -> FailureKind:
    """What kind of failure an error is."""
    if is_error(error, BlockedError):
        return FailureKind.BLOCKED
    if is_error(error, OverBudget):
        return FailureKind.OVER_BUDGET
    return FailureKind.TIMED_OUT if is_error(error, TimeoutError) else FailureKind.RAISED


@dataclasses.dataclass(frozen=True, slots=True)
class LastFailure:
    """The last failure of a plugin in a place, which may not have stopped it.

    Attributes:
        at: When, in seconds since the epoch.
        kind: See `FailureKind`.
        source: What failed: the name of a hook, or words such as "its command /join".
        place: Where; None for work for the whole bot.
    """

    at: float
    kind: FailureKind
    source: str
    place: Place | None


class LastFailures:
    """Remembers the last failure of each plugin in each place; the oldest of very many are forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, Place | None], LastFailure] = OrderedDict()

    def note(self, plugin: str, failure: LastFailure) -> None:
        key = plugin, failure.place
        self._known[key] = failure
        self._known.move_to_end(key)
        if len(self._known) > MOST_FAILURES:
            self._known.popitem(last=False)

    def of(self, plugin: str, place: Place) -> LastFailure | None:
        """The last one since the plugin was loaded, in a place or in work for the whole bot."""
        known = filter(None, (self._known.get((plugin, where)) for where in (place, None)))
        return max(known, key=lambda each: each.at, default=None)

    def forget(self, plugin: str) -> None:
        """The plugin was loaded anew."""
        for key in [key for key in self._known if key[0] == plugin]:
            del self._known[key]


def new_id() -> str:
    """A number for one failure, short enough to be read out."""
    return secrets.token_hex(4)


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where a plugin's code is and how to get it.

    Attributes:
        module: Import name of the plugin's own module.
        attribute: What in it is the plugin, by the entry point; None when the module says so itself (see
            `roost.plugins.importing`).
        file: Of a drop-in plugin; None for an entry point.
    """

    module: str
    attribute: str | None = None
    file: str | None = None

    @property
    def prefix(self) -> str:
        """The plugin's own top-level package: what is imported anew on reload and gone after an unload."""
        return self.module if self.file is not None else self.module.partition(".")[0]


@dataclasses.dataclass
class PluginRecord:
    """What the host knows of one plugin."""

    name: str
    source: str
    version: str
    origin: Origin
    state: State = State.FOUND
    detail: str = ""
    """Why it is in this state, when that needs saying."""
    meta: Meta | None = None
    factory: Callable[[], Any] | None = None
    """Makes an instance from the imported code."""
    instance: Any = None
    context: Context | None = None
    namesake: bool = False
    """Another plugin has the same name, so neither can be loaded."""
    doubles: tuple[Origin, ...] = ()
    """Where the others of the same name are."""
    windows: list[tuple[Holdings, Holdings]] = dataclasses.field(default_factory=list)
    """What the process held before and after this plugin's import and its load."""
    released: tuple[str, ...] = ()
    """What the last unload gave back."""
    backup: Backup | None = None
    """Of its data, when its last load migrated them."""
    ended_tasks: int = 0
    """Tasks that its quarantine ended."""
    failure: Failure | None = None
    """The last one that led to quarantine."""
    failure_id: str = ""
    """Of its state, when that is a failure: people who may not see the detail can name it to who may."""

    def set(self, state: State, detail: str = "", *, failure: Failure | None = None) -> None:
        """Change the state and log that, once."""
        self.state, self.detail, self.failure = state, redact(detail), failure
        self.failure_id = failure.id if failure is not None else new_id() if state in _ALARMING else ""
        level = logging.ERROR if state in _ALARMING else logging.INFO
        _log.log(
            level,
            "plugin %s: %s%s%s",
            self.name,
            state.value,
            f" ({self.detail})" if detail else "",
            f" (failure {self.failure_id})" if self.failure_id else "",
            extra={"plugin": self.name, "state": state.value, "failure": self.failure_id or None},
        )

    def turned_down(self, detail: str, version: str | None) -> None:
        """It was written for another hook interface, and is not imported."""
        self.meta, self.version = None, version or self.version
        self.set(State.INCOMPATIBLE, detail)

    def summary(self, hooks: tuple[str, ...] = ()) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.meta.version if self.meta else self.version,
            "source": self.source,
            "state": self.state.value,
            "detail": self.detail,
            "requires": list(self.meta.requires) if self.meta else [],
            "hooks": list(hooks),
        }


def describe(error: BaseException) -> str:
    """One line about an error; errors made for people speak for themselves."""
    if is_error(error, RoostError, pluggy.PluginValidationError):
        return text_of(error)
    if is_error(error, TimeoutError):
        return f"it took too long ({where(error)})"
    if is_error(error, CancelledItselfError):
        return f"{text_of(error)} ({where(error)})"
    raised = error.original if is_error(error, StrayError) else error
    return f"{class_name(raised)} at {where(error)}: {text_of(raised)}"
