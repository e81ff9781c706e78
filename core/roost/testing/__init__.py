"""The test kit for plugin authors: a real bot at a simulated Discord, virtual time, a leak check.

As a pytest plugin (`roost.testing.pytest_plugin`) it gives the fixtures ``roost_bot`` and ``virtual_time``. Needs the
extra ``testing``. `roost.testing.driver_conformance` is what every voice driver passes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roost.testing.clock import VirtualLoop, VirtualTime
    from roost.testing.kit import File, Reply, RoostBot, running_bot
    from roost.testing.leftovers import LeakError, leak_check

__all__ = ["File", "LeakError", "Reply", "RoostBot", "VirtualLoop", "VirtualTime", "leak_check", "running_bot"]

_HOMES = {
    "File": "kit",
    "LeakError": "leftovers",
    "Reply": "kit",
    "RoostBot": "kit",
    "VirtualLoop": "clock",
    "VirtualTime": "clock",
    "leak_check": "leftovers",
    "running_bot": "kit",
}


def __getattr__(name: str) -> Any:
    """The simulator is imported by whoever runs a bot, not by whoever wants the conformance suite."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
