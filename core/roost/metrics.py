"""What a running bot counts, in the format Prometheus reads: one registry per plugin, gone with the plugin.

Served at ``http://<metrics.listen>/metrics`` when that is set. There are no names of members or servers in it, but
who can reach the address can read it, so it belongs on loopback or in a private network.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from roost.errors import ConfigError, ResourceError
from roost.errortext import error_line
from roost.strays import taming

_log = logging.getLogger("roost.metrics")

KEY = "metrics.listen"
CORE = "core"
"""Owner of the bot's own registry; no plugin has this name."""


class Metrics:
    """The registries of everything that counts.

    Args:
        guarded: Entered while code of plugins runs.
    """

    def __init__(self, guarded: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._guarded = guarded
        self._registries: dict[str, CollectorRegistry] = {}
        self._told: set[tuple[str, str]] = set()
        self._restarts = Counter(
            "roost_restarted_tasks",
            "Lasting tasks of plugins that failed or were cancelled, and were started again.",
            ["plugin", "task"],
            registry=self.open(CORE),
        )

    def open(self, owner: str) -> CollectorRegistry:
        """A new, empty registry in place of the owner's last one."""
        registry = self._registries[owner] = CollectorRegistry()
        return registry

    def close(self, owner: str, registry: CollectorRegistry) -> None:
        """Show it no longer, unless another has taken its place."""
        if self._registries.get(owner) is registry:
            del self._registries[owner]

    def restarted(self, plugin: str, task: str) -> None:
        """A lasting task of a plugin was started again."""
        self._restarts.labels(plugin, task).inc()

    def render(self) -> bytes:
        """Everything, by owner. What raises, and names that another owner has already, are left out and logged once."""
        shown: list[bytes] = []
        names: dict[str, str] = {}
        for owner, registry in sorted(self._registries.items(), key=lambda each: (each[0] != CORE, each[0])):
            try:
                with self._guarded(), taming():
                    taken = {family.name for family in registry.collect()}
                    text = generate_latest(registry)
            except Exception as error:  # noqa: BLE001 - a plugin's collector must not cost the others theirs
                self._left_out(owner, error_line(error))
                continue
            others = sorted(taken & names.keys())
            if others:
                self._left_out(owner, f"{others[0]} is a metric of {names[others[0]]}")
                continue
            names.update(dict.fromkeys(taken, owner))
            shown.append(text)
        return b"".join(shown)

    def _left_out(self, owner: str, why: str) -> None:
        if (owner, why) not in self._told:
            self._told.add((owner, why))
            _log.error("plugin %s: its metrics are left out: %s", owner, why, extra={"plugin": owner})


def read_address(listen: str) -> tuple[str, int]:
    """``host:port`` taken apart.

    Raises:
        ConfigError: It is not that.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 0xFFFF:
        raise ConfigError(f"{listen!r} is no address; write host:port, such as 127.0.0.1:9464", key=KEY)
    return host.strip("[]"), int(port)


@asynccontextmanager
async def serve_metrics(metrics: Metrics, listen: str | None) -> AsyncIterator[None]:
    """Answer ``GET /metrics`` while the block runs; without an address do nothing.

    Raises:
        ConfigError: The address cannot be read.
        ResourceError: It is taken, or not ours.
    """
    if not listen:
        yield
        return
    host, port = read_address(listen)

    async def show(_request: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/metrics", show)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ResourceError(f"{KEY}: cannot listen on {listen}: {error.strerror or error}") from None
        yield
    finally:
        await runner.cleanup()
