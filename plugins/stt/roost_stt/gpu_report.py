"""What is said of the card: ``/bot gpu status``, and the figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from roost.i18n import counted
from roost_stt.gpu import MIB, Card, Release
from roost_stt.ladder import named
from roost_stt.supervision import State
from roost_stt.worker_owner import WorkerOwner


def status(owner: WorkerOwner, in_use: int) -> str:
    """The card and the worker, for the owners of the bot; `card.seen` is what it speaks of.

    Args:
        owner: Of the worker.
        in_use: How many transcriptions run.
    """
    worker, card = owner.worker, owner.card
    if worker is None or worker.pid is None:
        kept = card is not None and card.last is not None and card.last.outcome == "kept"
        lines = ["No speech worker runs." if kept else "No speech worker runs, so nothing of a GPU is held."]
    elif worker.state is not State.READY:
        lines = [f"The speech worker (process {worker.pid}) is starting on {named(worker.ladder.spec)}."]
    else:
        where = worker.runs_on or ("a GPU" if worker.ladder.spec.needs_gpu else "the CPU")
        lines = [f"The speech worker (process {worker.pid}) runs on {where} for {counted(in_use, 'transcription')}."]
    if worker is not None and worker.pid is not None and worker.ladder.why:
        lines.append(f"Mind: {worker.ladder.why}.")
    if card is None:
        return "\n".join(lines)
    lines.append(_card(card, worker.pid if worker is not None else None))
    if card.last is not None:
        lines.append(f"Last release: {released(card.last)}")
    return "\n".join(lines)


def _card(card: Card, pid: int | None) -> str:
    seen = card.seen
    if seen is None:
        return f"GPU {card.gpu}: {card.blind}."
    ours = card.share(pid)
    share = f", {ours // MIB} MiB of that by the speech worker" if ours else ""
    return f"{seen.name} {seen.uuid}: {seen.used // MIB} of {seen.total // MIB} MiB in use{share}."


def released(release: Release) -> str:
    """What became of the card, in words."""
    if release.outcome == "unverified":
        return f"whether the card is free cannot be told: {release.detail}."
    figures = f"{release.after // MIB} MiB in use, {release.before // MIB} before the worker"
    if release.outcome == "kept":
        return f"**the card is not free** ({figures}): {release.detail}."
    more = f"; {release.detail}" if release.detail else ""
    return f"free after {release.took_s:.2f} s ({figures}{more})."


def ended(release: Release | None) -> str:
    """What is said to who had the worker ended."""
    if release is None:
        return "The speech worker has ended; it used no GPU."
    link = ". The card is" if release.ok else ", but"
    return f"The speech worker has ended{link} {released(release)}"


class GpuMetrics(Collector):
    """Reads; registers nothing itself.

    Args:
        owner: Of the worker.
    """

    def __init__(self, owner: WorkerOwner) -> None:
        self._owner = owner

    def collect(self) -> Iterator[Metric]:
        """For the registry: the last look, at most ten seconds old while the card is held."""
        card = self._owner.card
        held = GaugeMetricFamily("roost_gpu_held", "Whether a speech worker lives that may use a card")
        held.add_metric([], 1.0 if self._owner.holds_card else 0.0)
        yield held
        if card is None:
            return
        seen, worker = card.seen, self._owner.worker
        if seen is not None:
            ours = card.share(worker.pid if worker is not None else None)
            for name, help_text, value in (
                ("roost_gpu_memory_total_bytes", "Memory of the card", seen.total),
                ("roost_gpu_memory_used_bytes", "Memory in use, by whomever", seen.used),
                ("roost_gpu_worker_memory_bytes", "Of that by the speech worker, where the driver says", ours),
            ):
                family = GaugeMetricFamily(name, help_text, labels=["gpu"])
                family.add_metric([seen.uuid], value)
                yield family
        releases = CounterMetricFamily(
            "roost_gpu_releases", "Ends of speech workers, by what became of the card", labels=["outcome"]
        )
        for outcome, count in card.releases.items():
            releases.add_metric([outcome], count)
        yield releases
