"""Discord's copy of the commands of each server: changed where it differs, and nowhere else.

The store keeps what was sent last, by application and server, so that a start makes no request for servers in which
nothing changed. Commands that this bot did not register stay.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import hikari

from roost.errors import ResourceError

_log = logging.getLogger("roost.commands")


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """What Discord has of one server.

    Attributes:
        digest: Of the commands, empty while that is uncertain.
        ids: Of the commands that are this bot's.
        sent: Keys of commands whose ids are not known yet: they were on their way when this was kept.
    """

    digest: str = ""
    ids: frozenset[int] = frozenset()
    sent: frozenset[str] = frozenset()

    def owns(self, command: hikari.PartialCommand) -> bool:
        """Whether a command that Discord has is this bot's."""
        return int(command.id) in self.ids or _key(command) in self.sent


def _key(command: hikari.PartialCommand | hikari.api.CommandBuilder) -> str:
    """What a command is known by before Discord has given it an id."""
    return f"{int(command.type)}:{command.name}"


class Records(Protocol):
    """Keeps what Discord has, by application and server, over restarts."""

    async def command_records(self, application_id: int) -> dict[int, dict[str, Any]]: ...

    async def set_command_record(self, application_id: int, guild_id: int, record: Mapping[str, Any] | None) -> None:
        """None: no more."""


class DiscordCopy:
    """Puts the commands of servers, and knows which of them are this bot's.

    Args:
        records: Keep what Discord has; None keeps nothing.
        remove_foreign: Remove commands that this bot did not register.
    """

    def __init__(self, bot: hikari.GatewayBot, records: Records | None, *, remove_foreign: bool) -> None:
        self._bot = bot
        self._records = records
        self._remove_foreign = remove_foreign
        self._application: hikari.Application | None = None
        self._kept: dict[int, Kept] | None = None
        self._reported: dict[int | None, frozenset[str]] = {}
        self.puts = 0
        """Requests that changed a server's commands."""

    async def application(self) -> hikari.Application:
        """The bot's application, asked for once."""
        if self._application is None:
            self._application = await self._bot.rest.fetch_application()
        return self._application

    async def put(
        self, guild_id: int, builders: Sequence[hikari.api.CommandBuilder], *, core: int, mark: str, always: bool
    ) -> bool:
        """Make Discord's copy the same; return False if no request was needed.

        Args:
            core: How many of the first commands must be there even if Discord refuses another.
            mark: Changes when Discord may have forgotten the commands, such as when the bot was added anew.
            always: Put them even if they are what was put last.

        Raises:
            hikari.HikariError: Discord refused.
        """
        application = await self.application()
        kept = await self._known(application)
        before = kept.get(guild_id, Kept())
        digest = self._digest(builders, mark)
        if not always and before.digest == digest:
            return False
        # A process that is killed meanwhile must not take its own commands for foreign ones when it starts again.
        sent = before.sent | {_key(each) for each in builders}
        await self._keep(application, guild_id, Kept("", before.ids, sent))
        self.puts += 1
        foreign = [] if self._remove_foreign else await self._foreign(application, guild_id, builders, before)
        if foreign:
            ids = await self._put_beside(application, guild_id, builders, before)
        else:
            ids = await self._put_all(application, guild_id, builders, core)
        await self._keep(application, guild_id, Kept(digest, ids))
        return True

    def is_own(self, guild_id: int, command_id: int) -> bool:
        """Whether a command of a server is one that this bot put there."""
        return self._kept is not None and command_id in self._kept.get(guild_id, Kept()).ids

    async def forget(self, guild_id: int) -> None:
        """The bot left the server, and Discord forgot the commands."""
        self._reported.pop(guild_id, None)
        if self._kept is not None and guild_id in self._kept:
            await self._keep(await self.application(), guild_id, None)

    async def tidy_globals(self) -> None:
        """Every command of this bot belongs to a server: report global ones, or remove them where that is asked for.

        Raises:
            hikari.HikariError: Discord refused.
        """
        application = await self.application()
        found = await self._bot.rest.fetch_application_commands(application)
        if not self._remove_foreign:
            self._report(None, found)
            return
        for command in found:
            _log.info("removing the global command /%s, which this bot did not register", command.name)
            await self._bot.rest.delete_application_command(application, command)

    async def _put_all(
        self,
        application: hikari.Application,
        guild_id: int,
        builders: Sequence[hikari.api.CommandBuilder],
        core: int,
    ) -> frozenset[int]:
        try:
            done = await self._bot.rest.set_application_commands(application, builders, guild=guild_id)
        except hikari.BadRequestError:
            # It refuses all for one. The core's own, which came first, must stay: with them this can be mended.
            if core < len(builders):
                kept = await self._bot.rest.set_application_commands(application, builders[:core], guild=guild_id)
                await self._keep(application, guild_id, Kept("", frozenset(int(each.id) for each in kept)))
            raise
        return frozenset(int(each.id) for each in done)

    async def _put_beside(
        self,
        application: hikari.Application,
        guild_id: int,
        builders: Sequence[hikari.api.CommandBuilder],
        before: Kept,
    ) -> frozenset[int]:
        """One by one: putting all at once would remove the foreign ones."""
        ids = [int((await builder.create(self._bot.rest, application, guild=guild_id)).id) for builder in builders]
        present = await self._bot.rest.fetch_application_commands(application, guild_id)
        for command in present:
            if before.owns(command) and int(command.id) not in ids:
                await self._bot.rest.delete_application_command(application, command, guild_id)
        return frozenset(ids)

    async def _foreign(
        self,
        application: hikari.Application,
        guild_id: int,
        builders: Sequence[hikari.api.CommandBuilder],
        before: Kept,
    ) -> list[hikari.PartialCommand]:
        wanted = {_key(builder) for builder in builders}
        present = await self._bot.rest.fetch_application_commands(application, guild_id)
        found = [each for each in present if not before.owns(each) and _key(each) not in wanted]
        self._report(guild_id, found)
        return found

    def _report(self, guild_id: int | None, found: Sequence[hikari.PartialCommand]) -> None:
        names = frozenset(each.name for each in found)
        if names and names != self._reported.get(guild_id):
            _log.warning(
                "%s has commands that this bot did not register: %s. They stay; nobody here answers them. "
                "Set commands.remove_foreign to remove them",
                "the application" if guild_id is None else f"guild {guild_id}",
                ", ".join(f"/{name}" for name in sorted(names)),
                extra={"event": "foreign_commands", "guild": guild_id and str(guild_id), "names": sorted(names)},
            )
        if names:
            self._reported[guild_id] = names
        else:
            self._reported.pop(guild_id, None)

    def _digest(self, builders: Sequence[hikari.api.CommandBuilder], mark: str) -> str:
        bodies = sorted(
            json.dumps(builder.build(self._bot.entity_factory), sort_keys=True, default=str) for builder in builders
        )
        return hashlib.sha256("\n".join([mark, *bodies]).encode()).hexdigest()

    async def _known(self, application: hikari.Application) -> dict[int, Kept]:
        if self._kept is None:
            kept: dict[int, Kept] = {}
            if self._records is not None:
                for guild_id, record in (await self._records.command_records(int(application.id))).items():
                    kept[guild_id] = Kept(
                        str(record["digest"]),
                        frozenset(int(each) for each in record["ids"]),
                        frozenset(str(each) for each in record.get("sent", ())),
                    )
            self._kept = self._kept if self._kept is not None else kept
        return self._kept

    async def _keep(self, application: hikari.Application, guild_id: int, kept: Kept | None) -> None:
        known = await self._known(application)
        if kept is None:
            known.pop(guild_id, None)
        else:
            known[guild_id] = kept
        if self._records is None:
            return
        record = None if kept is None else {"digest": kept.digest, "ids": sorted(kept.ids), "sent": sorted(kept.sent)}
        try:
            await self._records.set_command_record(int(application.id), guild_id, record)
        except ResourceError as error:
            _log.error("what Discord was told of the commands of guild %d could not be kept: %s", guild_id, error)
