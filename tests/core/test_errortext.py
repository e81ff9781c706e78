from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from roost.dispatch import log_failure, where
from roost.errortext import LIMIT_S, TEXT_CHARS, TRACE_CHARS, class_name, error_line, repr_of, text_of, trace_of
from roost.logs import set_up_logging
from roost.plugins.blame import Blame, blame
from roost.plugins.records import describe, failure_of
from roost.strays import StrayError, tamed

pytestmark = pytest.mark.unit


def loop_for_ever(_self: object) -> str:
    while True:
        pass


def raise_exit(_self: object) -> str:
    raise SystemExit(3)


BAD_TEXTS: dict[str, Callable[[Any], Any]] = {
    "raises": lambda self: 1 // 0,
    "exits": raise_exit,
    "number": lambda self: 5,
    "endless": loop_for_ever,
    "recursive": str,
    "megabyte": lambda self: "x" * 1_000_000,
    "lines": lambda self: "one\ntwo\u2028three",
}


def bad_error(how: str) -> Exception:
    kind = type(f"Bad{how.title()}", (Exception,), {"__str__": BAD_TEXTS[how], "__repr__": BAD_TEXTS[how]})
    made: Exception = kind("argument")
    return made


@pytest.mark.parametrize("how", BAD_TEXTS)
def test_bad_text_of_an_error_is_one_bounded_line(how: str) -> None:
    began = time.monotonic()
    lines = [
        error_line(bad_error(how)),
        text_of(bad_error(how)),
        repr_of(bad_error(how)),
        str(StrayError(bad_error(how))),
    ]
    lines += [error_line(Exception(bad_error(how))), error_line(KeyError(bad_error(how)))]
    assert all(len(line) <= TEXT_CHARS + 100 and "\n" not in line and "\u2028" not in line for line in lines)
    assert lines[0].startswith(f"Bad{how.title()}: ")
    assert time.monotonic() - began < len(lines) * (LIMIT_S + 0.5)


def test_slow_class_is_asked_once() -> None:
    error = bad_error("endless")
    text_of(error)
    began = time.monotonic()
    for _ in range(100):
        assert text_of(error) == "(its text takes too long to make)"
        assert class_name(error) in trace_of(error)
    assert time.monotonic() - began < LIMIT_S


def test_endless_text_leaves_no_running_thread() -> None:
    text_of(bad_error("endless"))
    deadline = time.monotonic() + 5
    while any(each.name == "roost error text" for each in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [each for each in threading.enumerate() if each.name == "roost error text"]


def test_ordinary_errors_say_what_they_always_did() -> None:
    assert error_line(ValueError("no")) == "ValueError: no"
    assert error_line(KeyError("k")) == "KeyError: 'k'"
    assert error_line(OSError(2, "No such file", "x")) == "FileNotFoundError: [Errno 2] No such file: 'x'"
    assert error_line(ValueError()) == "ValueError: "


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("how", [*BAD_TEXTS])
def test_traceback_in_the_log_is_bounded(how: str, style: str) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    set_up_logging("INFO", style, stream)
    try:
        try:
            try:
                raise bad_error(how)
            except Exception as error:
                raise RuntimeError("outer") from error
        except RuntimeError:
            logging.getLogger("roost.test").exception("it failed")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    written = stream.getvalue()
    assert "it failed" in written
    assert "test_errortext.py" in written
    assert len(written) < TRACE_CHARS * 2


def divide_by_zero(*_arguments: object) -> Any:
    return 1 // 0


def bad_attribute(base: type[BaseException], name: str, *arguments: Any) -> BaseException:
    bad = divide_by_zero if name == "__getattribute__" else property(divide_by_zero)
    error: BaseException = type("Bad", (base,), {name: bad})(*arguments)
    try:
        raise error
    except base as raised:
        return raised


@pytest.mark.parametrize(
    ("base", "name", "arguments"),
    [
        (Exception, "__getattribute__", ["x"]),
        (Exception, "__class__", ["x"]),
        (Exception, "__traceback__", ["x"]),
        (Exception, "__cause__", ["x"]),
        (TimeoutError, "__cause__", ["x"]),
        (SyntaxError, "filename", ["x"]),
        (ExceptionGroup, "exceptions", ["x", [KeyError("y")]]),
        (BaseException, "__class__", ["x"]),
        (ValueError, "unused", [10**5000]),
    ],
    ids=["any", "class", "traceback", "cause", "cause of time-out", "file name", "group", "no Exception", "number"],
)
def test_errors_with_bad_attributes_are_described_logged_and_blamed(
    base: type[BaseException], name: str, arguments: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "roost.hooks")
    error = tamed(bad_attribute(base, name, *arguments))
    assert describe(error)
    assert error_line(error)
    assert "Bad" in trace_of(error)
    assert failure_of("its hook", error).detail
    assert blame(error) is Blame.PLUGIN
    assert where(error).startswith(__file__)
    log_failure("bad", "its hook", error)
    assert any("plugin bad failed in its hook" in record.getMessage() for record in caplog.records)


def test_number_of_too_many_digits_has_a_note_in_place_of_its_text() -> None:
    assert text_of(10**5000) == "(its text cannot be made: ValueError)"
