"""Text of foreign objects, mainly of exceptions that plugins raise: bounded in time and size, and never raising.

``str(error)`` runs the plugin's ``__str__``, which may raise, return something else, never return, or return a
megabyte. Every foreign error becomes text here. Code that is not the interpreter's own runs in a thread that nobody
waits for longer than `LIMIT_S`; a class whose text took too long once is not asked again.
"""

from __future__ import annotations

import threading
import traceback
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard, TypeVar

from roost.threads import end_thread

E = TypeVar("E", bound=BaseException)

LIMIT_S = 0.5
"""How long making one text may take."""
TEXT_CHARS = 1_000
REPR_CHARS = 200
NAME_CHARS = 80
TRACE_CHARS = 20_000
CHAIN = 50
"""The most errors of a chain or group that are looked at."""

_INERT_SLOTS = frozenset({BaseException.__str__, KeyError.__str__})
_INERT_TYPES = frozenset({str, int, float, bool, bytes, types.NoneType})
_OVERWRITTEN = ("__getattribute__", "__dict__", "__notes__", "__cause__", "__context__", "__traceback__", "args")
_slow: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes whose text took too long."""


def class_name(value: object) -> str:
    """Name of an object's class, whatever its metaclass does."""
    name: str = type.__dict__["__name__"].__get__(type(value))
    return _cut(name, NAME_CHARS)


def text_of(value: object, limit: int = TEXT_CHARS) -> str:
    """``str(value)`` on one line of at most `limit` characters; a note in its place if there is no such text."""
    return _cut(_one_line(_made(value, str, limit)), limit)


def repr_of(value: object, limit: int = REPR_CHARS) -> str:
    """``repr(value)`` on one line of at most `limit` characters; a note in its place if there is no such text."""
    return _cut(_one_line(_made(value, repr, limit)), limit)


def error_line(error: BaseException) -> str:
    """``Class: text`` of a foreign error, on one line."""
    return f"{class_name(error)}: {text_of(error)}"


def is_error(error: BaseException, *kinds: type[E]) -> TypeGuard[E]:
    """``isinstance`` for foreign errors: their own ``__class__`` is not asked."""
    return issubclass(type(error), kinds)


def own(error: BaseException, name: str, kind: type[BaseException] = BaseException) -> Any:
    """An attribute of an error as the interpreter keeps it, whatever the error's class overwrites.

    Args:
        error: The error.
        name: Name of the attribute, such as ``__cause__``.
        kind: The built-in class that defines the attribute.
    """
    return vars(kind)[name].__get__(error)


def trace_of(error: BaseException, trace: types.TracebackType | None = None) -> str:
    """The traceback of an error and of what caused it, as `traceback.format_exception` has it."""
    trace = trace if trace is not None else own(error, "__traceback__")

    def whole() -> str:
        try:
            return "".join(traceback.format_exception(type(error), error, trace))
        except Exception:  # noqa: BLE001 - of the error's own attributes; what is safe to read is written
            return outline()

    def outline() -> str:
        frames = "".join(traceback.format_tb(trace))
        return f"Traceback (most recent call last):\n{frames}{error_line(error)}"

    chain = list(_chain(error))
    if all(_is_inert(each) for each in chain):
        return _cut(whole(), TRACE_CHARS)
    if not any(type(each) in _slow for each in chain):
        made = _bounded(whole, TRACE_CHARS, [type(each) for each in chain if not _is_inert(each)])
        if made is not None:
            return _cut(made, TRACE_CHARS)
    return _cut(outline(), TRACE_CHARS)


def _made(value: object, function: Callable[[object], str], limit: int) -> str:
    kind = type(value)
    if kind in _INERT_TYPES or (function is str and issubclass(kind, BaseException) and _is_inert(value)):
        try:
            return function(value)
        except ValueError as error:  # a number of more digits than Python writes
            return f"(its text cannot be made: {class_name(error)})"
    if kind in _slow:
        return "(its text takes too long to make)"
    failed: list[str] = []

    def make() -> str:
        try:
            return function(value)
        except BaseException as error:  # noqa: BLE001 - its class is named in place of the text
            failed.append(class_name(error))
            return ""

    made = _bounded(make, limit, [kind])
    if made is None:
        return "(its text takes too long to make)"
    return f"(its text cannot be made: {failed[0]})" if failed else made


def _bounded(make: Callable[[], str], limit: int, blamed: list[type]) -> str | None:
    """Run foreign code in a thread; None if it took too long."""
    box: list[str] = []

    def work() -> None:
        # One character more than is wanted shows that there was more. A subclass of str may overwrite anything.
        box.append(str.__str__(make())[: limit + 1])

    thread = threading.Thread(target=work, name="roost error text", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads, or the interpreter ends
        return None
    thread.join(LIMIT_S)
    if box:
        return box[0]
    if thread.is_alive():
        _slow.update(blamed)
        end_thread(thread)
    return None


def _is_inert(error: Any) -> bool:
    """Whether making the text of an error runs the interpreter's own code alone."""
    classes = [vars(each) for each in type.__dict__["__mro__"].__get__(type(error))]
    slot = next((each["__str__"] for each in classes if "__str__" in each), None)
    if not isinstance(slot, types.WrapperDescriptorType) or slot not in _INERT_SLOTS:
        return False
    if any(name in each for each in classes[: classes.index(vars(BaseException))] for name in _OVERWRITTEN):
        return False
    args: tuple[object, ...] = own(error, "args")
    # The interpreter's suggestions for a missing name look into foreign objects.
    return not is_error(error, AttributeError, NameError) and all(type(each) in _INERT_TYPES for each in args)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, its causes and the errors of groups, each once."""
    waiting, seen = [error], set[int]()
    while waiting and len(seen) < CHAIN:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        causes = (own(each, "__cause__"), own(each, "__context__"))
        waiting += [other for other in causes if other is not None]
        if is_error(each, BaseExceptionGroup):
            waiting += own(each, "exceptions", BaseExceptionGroup)


def _one_line(text: str) -> str:
    return " ".join(text.split()) if any(char in text for char in "\r\n\t\v\f\x1c\x1d\x1e\x85\u2028\u2029") else text


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
