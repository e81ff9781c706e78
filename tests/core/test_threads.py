"""Whose threads are used for what: a plugin that keeps its own busy holds up nobody else."""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
import time
import types
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from roost.mainloop import run_whole
from roost.threads import THREADS, end_threads

pytestmark = pytest.mark.unit

CODE = """
import asyncio, threading

def thread():
    return threading.current_thread().name

async def awaits():
    return await asyncio.to_thread(thread)

async def gathers():
    return (await asyncio.gather(asyncio.to_thread(thread)))[0]

async def asks_the_loop():
    return await asyncio.get_running_loop().run_in_executor(None, thread)
"""


def module(name: str) -> types.ModuleType:
    made = types.ModuleType(name)
    exec(CODE, made.__dict__)
    return made


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return run_whole(work(), lambda name: name if name in ("greedy", "other") else None)


@pytest.mark.parametrize("way", ["awaits", "gathers", "asks_the_loop"])
@pytest.mark.parametrize(("name", "pool"), [("greedy", "asyncio_greedy"), ("roost.store", "asyncio_of the bot")])
def test_each_has_threads_of_its_own(name: str, pool: str, way: str) -> None:
    assert run(getattr(module(name), way)).startswith(pool)


def test_a_library_called_by_a_plugin_uses_the_plugins_threads() -> None:
    greedy, library = module("greedy"), module("library")
    greedy.__dict__["called"] = library.awaits
    exec("async def calls(): return await called()", greedy.__dict__)
    assert run(greedy.calls).startswith("asyncio_greedy")
    assert run(library.gathers).startswith("asyncio_0")


def test_a_plugin_that_keeps_its_threads_busy_holds_up_no_name_nor_any_other_plugin() -> None:
    greedy, other = module("greedy"), module("other")
    free = threading.Event()
    greedy.__dict__["wait"] = functools.partial(free.wait, 30)
    exec("async def waits(): await asyncio.to_thread(lambda: wait())", greedy.__dict__)

    async def work() -> float:
        busy = [asyncio.ensure_future(greedy.waits()) for _ in range(3 * THREADS)]
        await asyncio.sleep(0)
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        await asyncio.gather(other.awaits(), loop.getaddrinfo("127.0.0.1", 1, type=socket.SOCK_STREAM))
        took_s = time.monotonic() - began
        free.set()
        await asyncio.gather(*busy)
        return took_s

    assert run(work) < 1


def test_the_default_threads_that_a_plugin_sets_are_its_own_alone() -> None:
    greedy, other = module("greedy"), module("other")
    ended = ThreadPoolExecutor(1)
    ended.shutdown()
    greedy.__dict__["ended"] = ended
    exec("async def sets(): asyncio.get_running_loop().set_default_executor(ended)", greedy.__dict__)

    async def work() -> str:
        await greedy.sets()
        with pytest.raises(RuntimeError):
            await greedy.awaits()
        await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 1)
        return str(await other.awaits())

    assert run(work).startswith("asyncio_other")


def test_the_threads_of_a_plugin_end_with_it_and_its_next_version_has_others() -> None:
    greedy = module("greedy")

    def threads() -> set[threading.Thread]:
        return {each for each in threading.enumerate() if each.name.startswith("asyncio_greedy")}

    async def work() -> str:
        await greedy.awaits()
        before = threads()
        assert before
        end_threads("greedy")
        for each in before:
            each.join(5)
        assert not threads()
        end_threads("other")
        return str(await greedy.awaits())

    assert run(work).startswith("asyncio_greedy")


class Stubborn(ThreadPoolExecutor):
    def shutdown(self, *_arguments: Any, **_options: Any) -> None:
        raise OSError


def test_threads_that_a_plugin_set_end_with_it_whatever_their_class_does() -> None:
    greedy = module("greedy")
    exec("import asyncio\ndef sets(pool): asyncio.get_running_loop().set_default_executor(pool)", greedy.__dict__)

    async def work() -> str:
        with pytest.raises(TypeError):
            greedy.sets(object())
        pool = Stubborn(1, "asyncio_stubborn")
        greedy.sets(pool)
        assert (await greedy.awaits()).startswith("asyncio_stubborn")
        end_threads("greedy")
        with pytest.raises(RuntimeError):
            pool.submit(int)
        greedy.sets(Stubborn(1))
        return str(await greedy.awaits())

    assert run(work).startswith("ThreadPoolExecutor")
