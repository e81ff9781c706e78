"""Asking NVML, NVIDIA's library, how a card is used. It may be absent, refuse, be too old, or not answer at all.

It is opened for each look and closed again, so the bot itself keeps nothing of the driver open. A driver that hangs
cannot be interrupted; so one thread of its own asks, at most one at a time, and nobody waits for it beyond a limit.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from roost.errors import ResourceError

LOOK_S = 10.0
"""A driver that nobody else uses sets the cards up first, which takes seconds where there are many."""
BUSY_S = 0.01
MAX_INDEX = 1024

_asking = threading.Lock()
"""Held by the thread that asks, until it has its answer."""
_asked_s = [0.0]
"""Since when (monotonic) it asks."""


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """A card at one moment.

    Attributes:
        uuid: As NVML names it.
        name: Of the model.
        total: Bytes of memory.
        used: Bytes in use, by whomever.
        processes: Process id to bytes, or None where the driver does not say. Ids are the host's, which in a container
            are not those of ``/proc``; some containers and old drivers show none.
    """

    uuid: str
    name: str
    total: int
    used: int
    processes: Mapping[int, int | None]


def look(gpu: str, limit_s: float = LOOK_S) -> Look:
    """Ask NVML; blocks for some milliseconds, or up to `limit_s`.

    Args:
        gpu: UUID, or its beginning, or index in the order of the PCI bus.
        limit_s: How long to wait for the driver.

    Raises:
        ResourceError: There is no driver, or no such card, or no answer; says which.
    """
    until_s = time.monotonic() + limit_s
    while (answer := _begin(gpu)) is None:
        _wait_no_longer(gpu, until_s)
        time.sleep(BUSY_S)
    try:
        return answer.result(max(0.0, until_s - time.monotonic()))
    except TimeoutError:
        raise _too_late(gpu) from None


async def look_soon(gpu: str, limit_s: float = LOOK_S) -> Look:
    """`look` for the event loop. Cancelled, it leaves nothing but a thread that ends with the driver's answer."""
    until_s = time.monotonic() + limit_s
    while (answer := _begin(gpu)) is None:
        _wait_no_longer(gpu, until_s)
        await asyncio.sleep(BUSY_S)
    try:
        async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
            return await asyncio.wrap_future(answer)
    except TimeoutError:
        raise _too_late(gpu) from None


def _begin(gpu: str) -> Future[Look] | None:
    """Have a thread ask; None when one asks already."""
    if not _asking.acquire(blocking=False):
        return None
    _asked_s[0] = time.monotonic()
    answer: Future[Look] = Future()
    answer.set_running_or_notify_cancel()

    def ask() -> None:
        try:
            seen = _ask(gpu)
        except Exception as error:  # noqa: BLE001  whoever waits for the answer gets it
            _asking.release()
            answer.set_exception(error)
        else:
            _asking.release()
            answer.set_result(seen)

    try:
        threading.Thread(target=ask, name="gpu-look", daemon=True).start()
    except RuntimeError as error:
        _asking.release()
        answer.set_exception(ResourceError(f"NVML cannot be asked: {error}"))
    return answer


def _wait_no_longer(gpu: str, until_s: float) -> None:
    """Raise when the limit is reached, or when the driver hangs for somebody else already."""
    now_s = time.monotonic()
    if now_s >= until_s or now_s - _asked_s[0] > LOOK_S:
        raise _too_late(gpu)


def _too_late(gpu: str) -> ResourceError:
    return ResourceError(f"NVML does not answer about GPU {gpu}", retryable=True)


def _ask(gpu: str) -> Look:
    try:
        import pynvml
    except ImportError:
        raise ResourceError("NVML cannot be asked: nvidia-ml-py is not installed (pip install 'roost[stt]')") from None
    try:
        pynvml.nvmlInit()
        try:
            return _look(pynvml, gpu)
        finally:
            _optional(pynvml, pynvml.nvmlShutdown)
    except (pynvml.NVMLError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        # The latter from a driver or a pynvml of another age, and from names that are no names of cards.
        raise ResourceError(f"NVML cannot say anything of GPU {gpu[:80]!s}: {error}") from None


def _look(nvml: Any, gpu: str) -> Look:
    handle = _handle(nvml, gpu)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Look(
        str(nvml.nvmlDeviceGetUUID(handle)),
        str(_optional(nvml, nvml.nvmlDeviceGetName, handle) or "GPU"),
        int(memory.total),
        int(memory.used),
        _processes(nvml, handle),
    )


def _handle(nvml: Any, gpu: str) -> Any:
    if gpu.isdecimal():
        # A greater one would be cut to 32 bits on its way, and might name a card.
        return nvml.nvmlDeviceGetHandleByIndex(min(int(gpu[-20:]) if len(gpu) <= 20 else MAX_INDEX, MAX_INDEX))
    try:
        return nvml.nvmlDeviceGetHandleByUUID(gpu)
    except (nvml.NVMLError_NotFound, nvml.NVMLError_InvalidArgument):
        # CUDA_VISIBLE_DEVICES may hold the beginning of a UUID, where that is enough to tell it from others.
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        meant = [each for each in handles if str(nvml.nvmlDeviceGetUUID(each)).startswith(gpu)]
        if not gpu.startswith("GPU-") or len(gpu) <= len("GPU-") or len(meant) != 1:
            raise
        return meant[0]


def _processes(nvml: Any, handle: Any) -> dict[int, int | None]:
    """Who computes on the card; empty where the driver does not say. A process may be there several times."""
    shown = _optional(nvml, getattr(nvml, "nvmlDeviceGetComputeRunningProcesses_v3", None), handle)
    if shown is None:
        shown = _optional(nvml, getattr(nvml, "nvmlDeviceGetComputeRunningProcesses_v2", None), handle)
    processes: dict[int, int | None] = {}
    for each in shown or ():
        pid, used = int(each.pid), each.usedGpuMemory
        processes[pid] = None if used is None else int(used) + (processes.get(pid) or 0)
    return processes


def _optional(nvml: Any, ask: Any, *args: Any) -> Any:
    """What NVML answers, or None where it does not: the rest is worth knowing without it."""
    if ask is None:
        return None
    try:
        return ask(*args)
    except nvml.NVMLError:
        return None
