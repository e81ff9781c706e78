"""``/privacy my-data`` and ``/privacy forget-me``: everything that the core and every plugin hold about a person."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roost.consent import StoredConsent
    from roost.plugins import PluginHost

_log = logging.getLogger("roost.privacy")

EXPORT, DELETE = "user_data_export", "user_data_delete"


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What an export or a deletion came to.

    Attributes:
        reached: Who answered, ``core`` first.
        silent: Plugins that do not implement the hook.
        failed: Plugins that implement it and failed.
        data: Of an export, by plugin.
        kept_refusals: Guilds in which a deletion left the refusal to be heard, because without it the user would be.
    """

    reached: tuple[str, ...]
    silent: tuple[str, ...]
    failed: tuple[str, ...]
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    kept_refusals: tuple[int, ...] = ()


class PersonalData:
    """Asks the core's own stores and every loaded plugin, whatever guild it is switched off in."""

    def __init__(self, host: PluginHost, consent: StoredConsent) -> None:
        self._host = host
        self._consent = consent

    async def export(self, user_id: int) -> Outcome:
        """Everything held about a user. Nothing of it is logged."""
        data: dict[str, Any] = {"core": {"consent": self._consent.decisions_of(user_id)}}
        reached: list[str] = ["core"]
        failed: list[str] = []
        implementers = self._implementers(EXPORT)
        for plugin in implementers:
            worked, answer = await self._ask(plugin, EXPORT, user_id=user_id)
            try:
                plain = json.loads(json.dumps(answer, default=str)) if worked else None
            except Exception as error:  # noqa: BLE001 - what one plugin gives must not cost the member the rest
                worked = False
                self._host.failed(plugin, EXPORT, error)
            if not worked:
                failed.append(plugin)
                continue
            reached.append(plugin)
            if plain:
                data[plugin] = plain
        return Outcome(tuple(reached), self._silent(implementers), tuple(failed), data)

    async def forget(self, user_id: int) -> Outcome:
        """Delete everything held about a user: first of all they are no longer heard."""
        kept = await self._consent.forget(user_id)
        reached: list[str] = ["core"]
        failed: list[str] = []
        implementers = self._implementers(DELETE)
        for plugin in implementers:
            worked, _ = await self._ask(plugin, DELETE, user_id=user_id, reason="user request")
            (reached if worked else failed).append(plugin)
        _log.info("a member's data was deleted by %s", ", ".join(reached))
        return Outcome(tuple(reached), self._silent(implementers), tuple(failed), kept_refusals=kept)

    def _implementers(self, hook: str) -> tuple[str, ...]:
        """All that have the hook, quarantined ones too: they hold data all the same."""
        with_it = self._host.dispatcher.having(hook)
        return tuple(name for name in self._host.loaded if name in with_it)

    def _silent(self, implementers: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(self._host.loaded) - set(implementers)))

    async def _ask(self, plugin: str, hook: str, **arguments: Any) -> tuple[bool, Any]:
        dispatcher = self._host.dispatcher
        if not dispatcher.has(plugin, hook):
            return False, None  # It is quarantined, so it is not called; whoever asked is told.
        before = dispatcher.failures[plugin, hook]
        answer = await dispatcher.call_plugin(plugin, hook, **arguments)
        return dispatcher.failures[plugin, hook] == before, answer


def as_file(outcome: Outcome, user_id: int) -> bytes:
    """An export as the JSON file a member gets; what JSON does not know is written as text."""
    whole = {
        "user_id": str(user_id),
        "data": outcome.data,
        "plugins_without_export": list(outcome.silent),
        "plugins_that_failed": list(outcome.failed),
    }
    return json.dumps(whole, indent=2, ensure_ascii=False, default=str).encode()
