"""``/privacy my-data`` and ``/privacy forget-me``: everything that the core and every plugin hold about a person."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from roost.blocking import StalledError
from roost.commands.plain_json import LIMIT_S, plain
from roost.dispatch import raised_class, where
from roost.errors import PluginError
from roost.hooks import Leftover
from roost.i18n import counted
from roost.places import current
from roost.plugins.forgetting import DELETE, REASON
from roost.store import DeletedBackups
from roost.store.tables import PREFIX, table_name
from roost.strays import taming

if TYPE_CHECKING:
    from roost.commands.access import Access
    from roost.consent import StoredConsent
    from roost.plugins import PluginHost

_log = logging.getLogger("roost.privacy")

EXPORT = "user_data_export"
LEFTOVER = "user_data_leftover"
LEFTOVERS_LIMIT_S = 780.0
"""For all leftovers of one member together; less than `roost.confirming.LATER_S`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What an export or a deletion came to.

    Attributes:
        reached: Who answered, ``core`` first.
        silent: Plugins that do not implement the hook.
        failed: Plugins that implement it and failed.
        absent: Plugins that are not loaded: of a deletion, all, which are asked when they are loaded; of an export,
            those that stored something under the user's id.
        data: Of an export, by plugin: what it gave, or of the silent, failed and absent ones what they stored under
            the user's id.
        backups: Of a deletion, the backups of migrations that went with it.
        traceless: Of a deletion, nothing of it is in the database's files any more.
        leftovers: Of a deletion, what it left elsewhere, which can be deleted too.
        unsaid: Of a deletion, plugins that could not say what it left elsewhere.
        denials: Of a deletion, rules of servers that keep the user from commands; they stay.
        kept_refusals: Guilds in which a deletion left the refusal to be heard, because without it the user would be.
    """

    reached: tuple[str, ...]
    silent: tuple[str, ...]
    failed: tuple[str, ...]
    absent: tuple[str, ...] = ()
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    kept_refusals: tuple[int, ...] = ()
    backups: DeletedBackups = dataclasses.field(default_factory=DeletedBackups)
    traceless: bool = True
    leftovers: tuple[Leftover, ...] = ()
    unsaid: tuple[str, ...] = ()
    denials: int = 0


class PersonalData:
    """Asks the core's own stores and every loaded plugin, whatever guild it is switched off in.

    A deletion reaches those that are not loaded, too: see `roost.store.deletions`.
    """

    def __init__(self, host: PluginHost, consent: StoredConsent, access: Access) -> None:
        self._host = host
        self._consent = consent
        self._access = access

    async def export(self, user_id: int) -> Outcome:
        """Everything held about a user. Nothing of it is logged."""
        core: dict[str, Any] = {
            "consent": self._consent.decisions_of(user_id),
            "consent_terms": self._consent.terms_of(user_id),
        }
        if waiting := await self._host.store.deletions.waiting_of(user_id):
            names = self._names()
            core["deletions_waiting_for"] = sorted(names.get(holder, _name(holder)) for holder in waiting)
        if rules := self._access.about(user_id):
            core["command_rules"] = [
                {"guild_id": str(guild_id), "command": rule.path, "allowed": rule.allowed} for guild_id, rule in rules
            ]
        data: dict[str, Any] = {"core": core}
        reached: list[str] = ["core"]
        failed: list[str] = []
        implementers = self._implementers(EXPORT)
        for plugin in implementers:
            asked = await self._host.dispatcher.ask_plugin(plugin, EXPORT, user_id=user_id)
            worked = asked.worked
            try:
                written = await self._plain(plugin, asked.answer) if worked else None
            except Exception as error:  # noqa: BLE001 - what one plugin gives must not cost the member the rest
                worked = False
                self._host.failed(plugin, EXPORT, error, current.get())
            if not worked:
                failed.append(plugin)
                continue
            reached.append(plugin)
            if written:
                data[plugin] = written
        stored = await self._stored_without(reached, user_id)
        data.update(stored)
        absent = tuple(name for name in stored if name not in self._host.loaded)
        return Outcome(tuple(reached), self._silent(implementers), tuple(failed), absent, data)

    async def _stored_without(self, reached: Collection[str], user_id: int) -> dict[str, Any]:
        """What all plugins but these stored under a user's id, by plugin."""
        told = {table_name(name) for name in reached}
        deletions, names = self._host.store.deletions, self._names()
        found = await deletions.documents_of(user_id, await deletions.holders() - told)
        return {names.get(holder, _name(holder)): stored for holder, stored in found.items()}

    async def _plain(self, plugin: str, answer: Any) -> Any:
        guard = self._host.dispatcher.guard
        began = guard.moment()
        try:
            return await plain(answer)
        except TimeoutError:
            if guard.stood_still(began):
                raise StalledError from None
            raise PluginError(f"its export takes longer than {LIMIT_S:g} s to write", plugin=plugin) from None

    async def forget(self, user_id: int) -> Outcome:
        """Delete everything held about a user: first of all they are no longer heard.

        The request is on disk for every plugin there is before the first is asked, so whatever happens, and whoever
        is loaded meanwhile, none is left out.
        """
        # Who has decided nothing is heard in the mode `notice`, and is not from now on, whatever the store does.
        # Those who have just left the channel may still have words under way.
        cache, me = self._host.bot.cache, self._host.bot.get_me()
        speakers = (user_id,) if me is None else (user_id, int(me.id))
        for guild_id in list(cache.get_guilds_view()):
            if any(cache.get_voice_state(guild_id, each) is not None for each in speakers):
                self._consent.ask_again(int(guild_id), user_id)
        kept = await self._consent.forget(user_id)
        leftovers, unsaid = await self._leftovers(user_id)
        async with self._host.store.erasure.everywhere() as erased:
            outcome = await self._delete(user_id)
        return dataclasses.replace(
            outcome,
            kept_refusals=kept,
            backups=erased.backups,
            traceless=erased.traceless,
            leftovers=leftovers,
            unsaid=unsaid,
            denials=sum(not rule.allowed for _guild_id, rule in self._access.about(user_id)),
        )

    def kept_refusals(self, user_id: int) -> tuple[int, ...]:
        """Guilds in which a deletion leaves the user's refusal to be heard, because without it the user would be."""
        return self._consent.kept_refusals(user_id)

    async def _leftovers(self, user_id: int) -> tuple[tuple[Leftover, ...], tuple[str, ...]]:
        """What the deletion will leave, and plugins that failed to say it; asked before it, because only what is
        stored tells."""
        found: list[Leftover] = []
        failed: list[str] = []
        allowances = sum(rule.allowed for _guild_id, rule in self._access.about(user_id))
        if allowances:
            what = f"{counted(allowances, 'rule')} of servers, by which you may use commands"
            found.append(Leftover(what, self._drop_rules(user_id)))
        for plugin in self._implementers(LEFTOVER):
            asked = await self._host.dispatcher.ask_plugin(plugin, LEFTOVER, user_id=user_id)
            if not asked.worked:
                failed.append(plugin)
            elif asked.answer is not None:
                found.append(asked.answer)
        return tuple(found), tuple(failed)

    def _drop_rules(self, user_id: int) -> Callable[[], Awaitable[str]]:
        async def drop() -> str:
            # A rule that denies protects others: only those who manage the server may lift it.
            mine = [(guild_id, rule) for guild_id, rule in self._access.about(user_id) if rule.allowed]
            for guild_id, rule in mine:
                await self._access.remove(guild_id, rule)
            return f"{counted(len(mine), 'rule')} by which you could use commands: deleted."

        return drop

    async def delete_leftovers(self, leftovers: Sequence[Leftover]) -> list[str]:
        """Delete what a deletion left, within `LEFTOVERS_LIMIT_S`; what came of each, in words."""
        said: list[str] = []
        loop = asyncio.get_running_loop()
        until = loop.time() + LEFTOVERS_LIMIT_S
        for leftover in leftovers:
            late = f"Not deleted in time: {leftover.what}."
            if loop.time() >= until:
                said.append(late)
                continue
            timer = asyncio.timeout_at(until)
            try:
                async with timer:
                    with taming():
                        said.append(await leftover.delete())
            except Exception as error:  # noqa: BLE001 - what one plugin fails in must not keep the rest
                # Its text may hold what the member said.
                _log.error("what a deletion left was not deleted: %s (%s)", raised_class(error), where(error))
                wrong = f"Not deleted, because something went wrong: {leftover.what}."
                said.append(late if timer.expired() else wrong)
        return said

    async def _delete(self, user_id: int) -> Outcome:
        deletions = self._host.store.deletions
        names = self._names() | {holder: _name(holder) for holder in await deletions.holders() - set(self._names())}
        await deletions.ask(user_id, names)
        reached: list[str] = ["core"]
        failed: list[str] = []
        implementers = self._implementers(DELETE)
        silent = self._silent(implementers)
        for plugin in implementers:
            asked = await self._host.dispatcher.ask_plugin(plugin, DELETE, user_id=user_id, reason=REASON)
            (reached if asked.worked else failed).append(plugin)
            if asked.worked:
                await deletions.done(user_id, table_name(plugin))
        await deletions.documents(user_id, [holder for holder, name in names.items() if name not in reached])
        for plugin in silent:
            await deletions.done(user_id, table_name(plugin))
        absent = sorted(set(names.values()) - {*implementers, *silent})
        _log.info("a member's data was deleted by %s; %s to follow", ", ".join(reached), ", ".join(absent) or "none")
        return Outcome(tuple(reached), silent, tuple(failed), tuple(absent))

    def _names(self) -> dict[str, str]:
        """The table of every plugin that can be seen, loaded or not, and its name."""
        return {table_name(name): name for name in self._host.records}

    def _implementers(self, hook: str) -> tuple[str, ...]:
        """All that have the hook, quarantined ones too: they hold data all the same."""
        with_it = self._host.dispatcher.having(hook)
        return tuple(name for name in self._host.loaded if name in with_it)

    def _silent(self, implementers: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(self._host.loaded) - set(implementers)))


def _name(holder: str) -> str:
    """What to call a plugin of which only the table is left."""
    return holder.removeprefix(PREFIX)


def as_file(outcome: Outcome, user_id: int) -> bytes:
    """An export as the JSON file a member gets; what JSON does not know is written as text. Blocks."""
    whole = {
        "user_id": str(user_id),
        "data": outcome.data,
        "plugins_without_export": list(outcome.silent),
        "plugins_that_failed": list(outcome.failed),
        "plugins_not_loaded": list(outcome.absent),
    }
    # Half a pair of surrogates is no text in UTF-8, and must not cost the member the rest.
    return json.dumps(whole, indent=2, ensure_ascii=False, default=str).encode(errors="replace")
