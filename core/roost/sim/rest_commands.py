"""The simulated REST API: application commands, global and per guild."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from roost.sim.answers import Problem, asking_bot, invalid, read_body
from roost.sim.state import SimState
from roost.sim.validate import COMMANDS_LIMIT, command_fault, command_list_fault

Scope = tuple[int, int | None]
"""(application id, guild id or None for global)."""


class CommandRoutes:
    """The routes below ``/applications/{app}/commands`` and ``/applications/{app}/guilds/{guild}/commands``."""

    def __init__(self, sim: SimState) -> None:
        self._sim = sim

    def add_to(self, router: web.UrlDispatcher, base: str) -> None:
        for path in ("/applications/{app}/commands", "/applications/{app}/guilds/{guild}/commands"):
            router.add_get(base + path, self._list)
            router.add_put(base + path, self._put)
            router.add_post(base + path, self._add)
            router.add_get(base + path + "/{command}", self._one)
            router.add_patch(base + path + "/{command}", self._edit)
            router.add_delete(base + path + "/{command}", self._delete)

    def _scope(self, request: web.Request) -> Scope:
        application, guild = int(request.match_info["app"]), request.match_info.get("guild")
        bot = asking_bot(self._sim.world, request)
        if bot.application_id != application:
            raise Problem(403, 20012, "You are not authorized to perform this action on this application")
        if guild is None:
            return application, None
        found = self._sim.world.guilds.get(int(guild))
        if found is None or bot.user.id not in found.members:
            raise Problem(403, 50001, "Missing Access")
        return application, found.id

    def _find(self, scope: Scope, command_id: str) -> dict[str, Any]:
        for command in self._sim.commands.get(scope, []):
            if command["id"] == command_id:
                return command
        raise Problem(404, 10063, "Unknown application command")

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response(self._sim.commands.get(self._scope(request), []))

    async def _one(self, request: web.Request) -> web.Response:
        return web.json_response(self._find(self._scope(request), request.match_info["command"]))

    async def _put(self, request: web.Request) -> web.Response:
        scope = self._scope(request)
        bodies = await request.json()
        if not isinstance(bodies, list):
            raise invalid("a list was expected")
        fault = command_list_fault(bodies)
        if fault is not None:
            raise invalid(fault)
        old = {(each["name"], each["type"]): each["id"] for each in self._sim.commands.get(scope, [])}
        stored = [self._stored(scope, body, old) for body in bodies]
        self._sim.commands[scope] = stored
        self._log(scope, [each["name"] for each in stored])
        return web.json_response(stored)

    async def _add(self, request: web.Request) -> web.Response:
        scope = self._scope(request)
        body, _ = await read_body(request)
        fault = command_fault(body)
        if fault is not None:
            raise invalid(fault)
        before = self._sim.commands.get(scope, [])
        old = {(each["name"], each["type"]): each["id"] for each in before}
        command = self._stored(scope, body, old)
        kept = [each for each in before if each["id"] != command["id"]]
        if len(kept) >= COMMANDS_LIMIT:
            raise Problem(400, 30032, f"Maximum number of application commands reached ({COMMANDS_LIMIT}).")
        self._sim.commands[scope] = [*kept, command]
        self._log(scope, [each["name"] for each in self._sim.commands[scope]])
        return web.json_response(command, status=200 if len(kept) < len(before) else 201)

    async def _edit(self, request: web.Request) -> web.Response:
        scope = self._scope(request)
        command = self._find(scope, request.match_info["command"])
        body, _ = await read_body(request)
        fault = command_fault(command | body)
        if fault is not None:
            raise invalid(fault)
        command |= body | {"version": str(self._sim.world.snowflake())}
        return web.json_response(command)

    async def _delete(self, request: web.Request) -> web.Response:
        scope = self._scope(request)
        command = self._find(scope, request.match_info["command"])
        self._sim.commands[scope].remove(command)
        self._log(scope, [each["name"] for each in self._sim.commands[scope]])
        return web.Response(status=204)

    def _log(self, scope: Scope, names: list[str]) -> None:
        application, guild = scope
        self._sim.log("commands", application_id=str(application), guild_id=guild and str(guild), names=names)

    def _stored(self, scope: Scope, body: dict[str, Any], old: dict[tuple[str, int], str]) -> dict[str, Any]:
        application, guild = scope
        command: dict[str, Any] = {
            "application_id": str(application),
            "version": str(self._sim.world.snowflake()),
            "type": 1,
            "description": "",
            "default_member_permissions": None,
            "nsfw": False,
            "name_localizations": None,
            "description_localizations": None,
            "options": [],
        }
        command |= body
        command["id"] = old.get((command["name"], command["type"])) or str(self._sim.world.snowflake())
        if command["default_member_permissions"] is not None:
            command["default_member_permissions"] = str(command["default_member_permissions"])
        if guild is not None:
            command["guild_id"] = str(guild)
        else:
            command.setdefault("integration_types", [0])
            command.setdefault("contexts", None)
        return command
