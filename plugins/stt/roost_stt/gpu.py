"""What is known of the graphics card that the speech worker uses, and whether it is given back.

Two witnesses: NVML (the driver's own figures of memory and processes) and ``/proc``, which shows who has the card's
device file open.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from roost.errors import ConfigError, ResourceError
from roost_stt.nvml import LOOK_S, Look, look, look_soon

__all__ = [
    "Card",
    "Look",
    "Release",
    "chosen",
    "device_holders",
    "is_there",
    "library_folders",
    "look",
    "wait_for_room",
]

SLACK_BYTES = 32 << 20
"""The driver's own bookkeeping; the smallest CUDA context is ten times as much."""
NEIGHBOUR_BYTES = 128 << 20
"""What the driver may keep for another process beyond what it says that this uses."""
POLL_S = 0.025
MIB = 1 << 20
_KEY = "stt.lease.gpu"
_DEVICE = re.compile(r"/dev/(nvidia\d+|nvidia-uvm|dxg)$")


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


def visible(environ: Mapping[str, str] = os.environ) -> list[str] | None:
    """The cards that CUDA_VISIBLE_DEVICES leaves, as it names them; None when it is not set, which leaves all."""
    given = environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return None
    names = [each.strip() for each in given.split(",")]
    # CUDA sees those before the first that names no card.
    return list(itertools.takewhile(lambda name: re.fullmatch(r"[0-9]+|(GPU|MIG)-.+", name), names))


def is_there(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process could use a card: a driver's device file, and not all of them hidden from us."""
    return visible(environ) != [] and (Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists())


def chosen(gpu: str, environ: Mapping[str, str] = os.environ) -> str:
    """The card meant by ``stt.lease.gpu``: an index counts among those that CUDA_VISIBLE_DEVICES leaves.

    Raises:
        ConfigError: It leaves none, or fewer; who hides a card does not want it used.
    """
    left = visible(environ)
    if left is None or not gpu.isdecimal():
        return gpu
    if not left:
        raise ConfigError("CUDA_VISIBLE_DEVICES hides every card; unset it, or set stt.device = cpu", key=_KEY)
    if int(gpu) >= len(left):
        raise ConfigError(
            f"there is no card {gpu}: CUDA_VISIBLE_DEVICES leaves {len(left)}, which count from 0", key=_KEY
        )
    return left[int(gpu)]


def library_folders() -> list[Path]:
    """Where packages such as nvidia-cublas-cu12 put the libraries that CTranslate2 asks the loader for."""
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations if spec is not None else None
    return sorted(folder for root in roots or () for folder in Path(root).glob("*/lib") if folder.is_dir())


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
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            seen = look(gpu, left_s)
        except ResourceError:
            return
        if seen.total - seen.used >= needed or needed > seen.total:
            return
        time.sleep(POLL_S)


class Card:
    """The card of one bot's speech worker: as it was before the worker, as it is, and what became of it.

    Args:
        gpu: ``stt.lease.gpu``.
        holders: Looks at ``/proc``.

    Raises:
        ConfigError: CUDA_VISIBLE_DEVICES hides that card.
    """

    def __init__(
        self,
        gpu: str,
        *,
        holders: Callable[[], Mapping[int, str]] = device_holders,
    ) -> None:
        self.gpu = chosen(gpu)
        self._holders = holders
        self._before: Look | None = None
        self._held_before: frozenset[int] = frozenset()
        self._uuid = ""
        self._patience: asyncio.Timeout | None = None
        self._ended_s = 0.0
        self._blind_before = "the card could not be seen before the start"
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
        return self._uuid or self.gpu

    def environment(self) -> dict[str, str]:
        """What makes the worker see this card and no other, as its number 0, and NVIDIA's libraries."""
        folders = [os.environ.get("LD_LIBRARY_PATH", ""), *map(str, library_folders())]
        return {
            "CUDA_VISIBLE_DEVICES": self.key,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "LD_LIBRARY_PATH": os.pathsep.join(folder for folder in folders if folder),
        }

    async def sample(self, limit_s: float = LOOK_S) -> Look | None:
        """Look; None, and `blind`, when there was nothing to see within `limit_s`."""
        try:
            seen = await look_soon(self.gpu, limit_s)
        except ResourceError as error:
            self.seen, self.blind = None, str(error)
        else:
            self.seen, self.blind, self._uuid = seen, "", seen.uuid
        return self.seen

    async def before_start(self) -> None:
        """Take the baseline; call it before a worker is started and after the one before is gone."""
        self._before = None
        try:
            async with asyncio.timeout(LOOK_S) as self._patience:
                self._before = await self.sample()
        except TimeoutError:
            self.seen, self.blind = None, f"NVML does not answer about GPU {self.gpu}"
        finally:
            self._patience = None
        self._blind_before = self.blind or "NVML does not answer in time"
        self._held_before = frozenset(await asyncio.to_thread(self._holders))

    async def after_end(self, pid: int | None, limit_s: float) -> Release:
        """Look until the card is back at the baseline, at most for `limit_s`.

        Args:
            pid: Of the worker, which has been reaped.
            limit_s: Seconds.
        """
        loop = asyncio.get_running_loop()
        began_s = self._ended_s = loop.time()
        release = self._judge(None, pid, limit_s)
        shown: Look | None = None
        try:
            async with asyncio.timeout(limit_s) as self._patience:
                while True:
                    seen = await self.sample(limit_s)
                    # A driver that said something before may do so again in a moment; what it said last stands.
                    if seen is not None or shown is None:
                        release, shown = self._judge(seen, pid, loop.time() - began_s), seen
                    if release.ok or self._before is None:
                        break
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            release = dataclasses.replace(release, took_s=round(loop.time() - began_s, 3))
        finally:
            self._patience = None
        self.seen = shown
        if release.outcome == "kept":
            held = await asyncio.to_thread(self._holders)
            release = dataclasses.replace(release, detail=self._who(shown, held, release))
        self.last = release
        self.releases[release.outcome] += 1
        return release

    def share(self, pid: int | None) -> int:
        """Bytes that the worker uses, at the last look; 0 where the driver does not say."""
        if self.seen is None or pid is None or (self._before is not None and pid in self._before.processes):
            return 0  # in a container that number may be another process of the host
        return self.seen.processes.get(pid) or 0

    def hurry(self, limit_s: float) -> None:
        """Have a `before_start` or `after_end` that goes on come to an end within `limit_s`."""
        patience = self._patience
        if patience is not None and not patience.expired():
            until_s = asyncio.get_running_loop().time() + limit_s
            patience.reschedule(min(until_s, patience.when() or until_s))

    async def came_back(self, pid: int | None) -> bool:
        """Whether what was kept when the worker ended is free by now; then `last` says so."""
        seen = await self.sample()
        release = self._judge(seen, pid, asyncio.get_running_loop().time() - self._ended_s)
        if release.ok:
            self.last = release
        return release.ok

    def _judge(self, seen: Look | None, pid: int | None, took_s: float) -> Release:
        took_s = round(took_s, 3)
        if seen is None or self._before is None:
            return Release("unverified", took_s, detail=self.blind or self._blind_before)
        before, after = self._before.used, seen.used
        if any(_belongs(other, pid) for other in seen.processes.keys() - self._before.processes):
            return Release("kept", took_s, before, after)
        if after <= before + SLACK_BYTES:
            return Release("clean", took_s, before, after)
        grown = self._neighbours(seen, pid)
        if grown and self._explains(grown, after - before):
            return Release("shared", took_s, before, after, f"used by {_pids(grown)} now")
        return Release("kept", took_s, before, after)

    def _neighbours(self, seen: Look, pid: int | None) -> dict[int, int | None]:
        """Other processes that came, or use more than before, with how much more; None where that is not known."""
        before = self._before.processes if self._before is not None else {}
        grown: dict[int, int | None] = {}
        for other, used in seen.processes.items():
            had = before.get(other, 0)
            if other != pid and (other not in before or used is None or had is None or used > had):
                grown[other] = None if used is None or had is None else used - had
        return grown

    @staticmethod
    def _explains(grown: Mapping[int, int | None], more: int) -> bool:
        """Whether the card is fuller by what others took, and not by what was not given back."""
        known = [each for each in grown.values() if each is not None]
        return len(known) < len(grown) or more - sum(known) <= SLACK_BYTES + NEIGHBOUR_BYTES * len(known)

    def _who(self, seen: Look | None, held: Mapping[int, str], release: Release) -> str:
        found = {f"process {pid} ({held[pid]})" for pid in held.keys() - self._held_before}
        if seen is not None and self._before is not None:
            found |= {f"process {pid}" for pid in seen.processes.keys() - self._before.processes - held.keys()}
        more = (release.after - release.before) // MIB
        who = ", ".join(sorted(found)) or "no process that can be seen from here"
        return f"{more} MiB more are in use than before the speech worker, by {who}"


def _belongs(process: int, worker: int | None) -> bool:
    """Whether it is the worker, or one that it started: they are in its process group, which outlives it."""
    if process == worker:
        return True
    try:
        return os.getpgid(process) == worker
    except (ProcessLookupError, PermissionError):
        return False


def _pids(pids: Iterable[int]) -> str:
    return ", ".join(f"process {pid}" for pid in sorted(pids))
