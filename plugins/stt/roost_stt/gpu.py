"""What is known of the graphics card that the speech worker uses, and whether it is given back.

Two witnesses: NVML (the driver's own figures of memory and processes) and ``/proc``, which shows who has the card's
device file open. NVML is opened for each look and closed again, so the bot itself keeps nothing of the driver open.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from roost.errors import ResourceError

SLACK_BYTES = 32 << 20
"""The driver's own bookkeeping; the smallest CUDA context is ten times as much."""
POLL_S = 0.025
MIB = 1 << 20
_DEVICE = re.compile(r"/dev/(nvidia\d+|nvidia-uvm|dxg)$")
_nvml = threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """A card at one moment.

    Attributes:
        uuid: As NVML names it.
        name: Of the model.
        total: Bytes of memory.
        used: Bytes in use, by whomever.
        processes: Process id to bytes, or None where the driver does not say. Ids are the host's, which in a container
            are not those of ``/proc``; some containers show none.
    """

    uuid: str
    name: str
    total: int
    used: int
    processes: Mapping[int, int | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Release:
    """What became of the card after the worker's end.

    Attributes:
        outcome: ``clean``: memory is back at the baseline. ``shared``: the worker is gone, but others came meanwhile,
            so the figure says nothing. ``kept``: neither. ``unverified``: NVML could not be asked.
        took_s: From the question to the answer.
        before: Bytes in use before the worker's start.
        after: Bytes in use at the end.
        detail: For people; names who holds memory where that is known.
    """

    outcome: str
    took_s: float
    before: int = 0
    after: int = 0
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome in ("clean", "shared")


def is_there(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process could use a card: a driver's device file, and none of them hidden from us."""
    hidden = environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles")
    return not hidden and (Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists())


def chosen(gpu: str, environ: Mapping[str, str] = os.environ) -> str:
    """The card meant by ``stt.lease.gpu``: an index counts among those that CUDA_VISIBLE_DEVICES leaves."""
    visible = [each.strip() for each in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    return visible[int(gpu)] if gpu.isdigit() and int(gpu) < len(visible) else gpu


def library_folders() -> list[Path]:
    """Where packages such as nvidia-cublas-cu12 put the libraries that CTranslate2 asks the loader for."""
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations if spec is not None else None
    return sorted(folder for root in roots or () for folder in Path(root).glob("*/lib") if folder.is_dir())


def look(gpu: str) -> Look:
    """Ask NVML; blocks for some milliseconds.

    Args:
        gpu: UUID, or index in the order of the PCI bus.

    Raises:
        ResourceError: There is no driver, or no such card; says which.
    """
    try:
        import pynvml
    except ImportError:
        raise ResourceError("NVML cannot be asked: nvidia-ml-py is not installed (pip install 'roost[stt]')") from None
    with _nvml:
        try:
            pynvml.nvmlInit()
            try:
                return _look(pynvml, gpu)
            finally:
                pynvml.nvmlShutdown()
        except pynvml.NVMLError as error:
            raise ResourceError(f"NVML cannot say anything of GPU {gpu}: {error}") from None


def _look(nvml: Any, gpu: str) -> Look:
    handle = nvml.nvmlDeviceGetHandleByIndex(int(gpu)) if gpu.isdigit() else nvml.nvmlDeviceGetHandleByUUID(gpu)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    processes = {int(each.pid): each.usedGpuMemory for each in nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)}
    return Look(
        str(nvml.nvmlDeviceGetUUID(handle)),
        str(nvml.nvmlDeviceGetName(handle)),
        int(memory.total),
        int(memory.used),
        processes,
    )


def device_holders(proc: Path = Path("/proc"), device: re.Pattern[str] = _DEVICE) -> dict[int, str]:
    """Processes that have a card's device file open, by pid, with their command; only those we may look into."""
    found: dict[int, str] = {}
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if any(device.search(str(link.readlink())) for link in (folder / "fd").iterdir()):
                found[int(folder.name)] = (folder / "comm").read_text().strip()
        except OSError:
            continue  # ended, or another user's
    return found


def wait_for_room(gpu: str, needed: int, timeout_s: float) -> None:
    """Give the last user of the card time to be gone: until `needed` bytes are free; blocks up to `timeout_s`.

    Returns in any case: whether there is room enough is found out by loading.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            seen = look(gpu)
        except ResourceError:
            return
        if seen.total - seen.used >= needed:
            return
        time.sleep(POLL_S)


class Card:
    """The card of one bot's speech worker: as it was before the worker, as it is, and what became of it.

    Args:
        gpu: ``stt.lease.gpu``.
        look_at: Asks NVML.
        holders: Looks at ``/proc``.
    """

    def __init__(
        self,
        gpu: str,
        *,
        look_at: Callable[[str], Look] = look,
        holders: Callable[[], Mapping[int, str]] = device_holders,
    ) -> None:
        self.gpu = chosen(gpu)
        self._look_at = look_at
        self._holders = holders
        self._before: Look | None = None
        self._held_before: frozenset[int] = frozenset()
        self.seen: Look | None = None
        """The last look."""
        self.blind = ""
        """Why the last look failed."""
        self.last: Release | None = None
        """Of the last worker that ended."""
        self.releases = dict.fromkeys(("clean", "shared", "kept", "unverified"), 0)

    @property
    def key(self) -> str:
        """What the lease is on: the UUID, so that all bots of the machine mean the same card."""
        return self.seen.uuid if self.seen is not None else self.gpu

    def environment(self) -> dict[str, str]:
        """What makes the worker see this card and no other, as its number 0, and NVIDIA's libraries."""
        folders = [os.environ.get("LD_LIBRARY_PATH", ""), *map(str, library_folders())]
        return {
            "CUDA_VISIBLE_DEVICES": self.key,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "LD_LIBRARY_PATH": os.pathsep.join(folder for folder in folders if folder),
        }

    async def sample(self) -> Look | None:
        """Look, in a thread."""
        try:
            self.seen, self.blind = await asyncio.to_thread(self._look_at, self.gpu), ""
        except ResourceError as error:
            self.seen, self.blind = None, str(error)
        return self.seen

    async def before_start(self) -> None:
        """Take the baseline; call it before a worker is started and after the one before is gone."""
        self._before = await self.sample()
        self._held_before = frozenset(await asyncio.to_thread(self._holders))

    async def after_end(self, pid: int | None, limit_s: float) -> Release:
        """Look until the card is back at the baseline, at most for `limit_s`.

        Args:
            pid: Of the worker, which has been reaped.
            limit_s: Seconds.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while True:
            seen = await self.sample()
            release = self._judge(seen, pid, loop.time() - began_s)
            if release.outcome != "kept" or loop.time() - began_s >= limit_s:
                break
            await asyncio.sleep(POLL_S)
        if release.outcome == "kept":
            held = await asyncio.to_thread(self._holders)
            release = dataclasses.replace(release, detail=self._who(seen, held, release))
        self.last = release
        self.releases[release.outcome] += 1
        return release

    def _judge(self, seen: Look | None, pid: int | None, took_s: float) -> Release:
        took_s = round(took_s, 3)
        if seen is None or self._before is None:
            return Release("unverified", took_s, detail=self.blind or "the card could not be seen before the start")
        before, after = self._before.used, seen.used
        if pid in seen.processes:
            return Release("kept", took_s, before, after)
        if after <= before + SLACK_BYTES:
            return Release("clean", took_s, before, after)
        strangers = seen.processes.keys() - self._before.processes.keys()
        if strangers:
            return Release("shared", took_s, before, after, f"used by {_pids(strangers)} now")
        return Release("kept", took_s, before, after)

    def _who(self, seen: Look | None, held: Mapping[int, str], release: Release) -> str:
        found = {f"process {pid} ({held[pid]})" for pid in held.keys() - self._held_before}
        if seen is not None and self._before is not None:
            found |= {f"process {pid}" for pid in seen.processes.keys() - self._before.processes - held.keys()}
        more = (release.after - release.before) // MIB
        who = ", ".join(sorted(found)) or "no process that can be seen from here"
        return f"{more} MiB more are in use than before the speech worker, by {who}"


def _pids(pids: Iterable[int]) -> str:
    return ", ".join(f"process {pid}" for pid in sorted(pids))
