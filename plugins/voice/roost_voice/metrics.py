"""What voice counts: sessions opened and closed, resumes, ghosts, orphans. Nothing in it names a person or a server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from roost_voice.actor.leaving import CHANNEL_GONE, KICKED, REMOVED
from roost_voice.actor.orphan import TAKEN

_CODE = re.compile(r"\((\d{4})\)")
_CAUSES = {
    KICKED: "disconnected",
    CHANNEL_GONE: "channel_deleted",
    REMOVED: "removed_from_server",
    TAKEN: "taken",
}


def cause_of(reason: str, *, asked: bool, stopping: bool) -> str:
    """Why a session ended, in a word: one of few, unlike the reason that people read.

    Args:
        reason: What people read.
        asked: Somebody asked for the end, or everybody had left.
        stopping: The bot or the plugin was on its way down.
    """
    if stopping:
        return "stopped"
    if asked:
        return "asked"
    if reason in _CAUSES:
        return _CAUSES[reason]
    code = _CODE.search(reason)
    return f"close_{code[1]}" if code else "failed"


class VoiceMetrics(Collector):
    """Registers itself.

    Args:
        registry: The plugin's.
        states: How many servers' voice is in which state, now.
        sessions: How many sessions are open, now.
    """

    def __init__(
        self, registry: CollectorRegistry, states: Callable[[], Mapping[str, int]], sessions: Callable[[], int]
    ) -> None:
        self._states = states
        self._sessions = sessions
        self.opened = Counter("roost_voice_sessions_opened", "Voice sessions opened", registry=registry)
        self.closed = Counter(
            "roost_voice_sessions_closed", "Voice sessions closed, by cause", ["cause"], registry=registry
        )
        self.resumes = Counter("roost_voice_resumes", "Voice connections resumed", registry=registry)
        self.reaped = Counter(
            "roost_voice_ghosts", "Ghosts that are gone, or given up on", ["outcome"], registry=registry
        )
        self.orphans = Counter(
            "roost_voice_orphans", "Leaves that Discord did not confirm in time, and ghosts", registry=registry
        )
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """For the registry: what is read, not counted."""
        yield GaugeMetricFamily("roost_voice_sessions", "Voice sessions open now", value=self._sessions())
        family = GaugeMetricFamily("roost_voice_servers", "Servers whose voice is not idle, by state", labels=["state"])
        for state, count in self._states().items():
            family.add_metric([state], count)
        yield family
