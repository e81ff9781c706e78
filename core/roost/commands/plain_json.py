"""A plugin's answer as plain JSON data, bounded in time and size.

Writing an answer runs code of the plugin's classes, such as an endless ``items()``. It runs in a thread of its own: the
threads of the event loop are few, and the process waits for them when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import threading
from typing import Any

from roost.errortext import text_of
from roost.strays import tamed
from roost.threads import end_thread

LIMIT_S = 5.0
"""How long writing one answer may take."""
MOST_CHARS = 50_000_000
"""The most that one answer may be as JSON; a member gets far less as a file."""


async def plain(answer: Any, *, limit_s: float = LIMIT_S) -> Any:
    """Return an answer as JSON has it; what JSON does not know is written as text.

    Raises:
        TimeoutError: It took longer than `limit_s`.
        Exception: The answer cannot be written, is larger than `MOST_CHARS`, or the machine allows no thread.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    given_up = threading.Event()

    def finish(made: Any, error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(made)

    def work() -> None:
        made, error = None, None
        try:
            made = _written(answer, given_up)
        except BaseException as caught:  # noqa: BLE001 - handed to the waiting task
            error = tamed(caught)
        with contextlib.suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(finish, made, error)

    thread = threading.Thread(target=work, name="roost plain JSON", daemon=True)
    thread.start()
    try:
        async with asyncio.timeout(limit_s):
            return await asyncio.shield(done)
    finally:
        if not done.done():
            done.cancel()
            given_up.set()
            end_thread(thread)


def _written(answer: Any, given_up: threading.Event) -> Any:
    text = io.StringIO()
    for part in json.JSONEncoder(default=text_of).iterencode(answer):
        if text.tell() > MOST_CHARS:
            raise ValueError(f"it is larger than {MOST_CHARS} characters")
        if given_up.is_set():
            raise TimeoutError
        text.write(part)
    return json.loads(text.getvalue())
