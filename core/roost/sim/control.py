"""The control API: how tests, the demo and any other program play the members and arm the faults."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import hikari
from aiohttp import web

from roost.errors import BusyError, ResourceError, UsageError
from roost.sim.faults import UnknownFault
from roost.sim.messages import Interaction, Message
from roost.sim.world import VOICE, Bot, Channel, Guild, Member, User

if TYPE_CHECKING:
    from roost.sim.server import SimulatedDiscord

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Body = dict[str, Any]
PREFIX = "/control"
SUBCOMMAND, SUBGROUP, INTEGER, BOOLEAN, USER, CHANNEL, ROLE, MENTIONABLE, NUMBER = 1, 2, 4, 5, 6, 7, 8, 9, 10
SETTLE_S = 0.05


class BadRequest(Exception):
    """The caller's mistake; its text is the answer."""


class ControlApi:
    """The routes below ``/control``."""

    def __init__(self, sim: SimulatedDiscord) -> None:
        self._sim = sim

    def add_to(self, router: web.UrlDispatcher) -> None:
        posts: dict[str, Callable[[Body], Awaitable[Any]]] = {
            "slash": self._slash,
            "press": self._press,
            "modal": self._modal,
            "autocomplete": self._autocomplete,
            "voice": self._voice,
            "speak": self._speak,
            "member": self._member,
            "permissions": self._permissions,
            "kick": self._kick,
            "move": self._move,
            "server": self._server,
            "gateway": self._gateway,
            "fault": self._fault,
        }
        for name, handler in posts.items():
            router.add_post(f"{PREFIX}/{name}", _json_handler(handler))
        router.add_delete(f"{PREFIX}/fault/{{id}}", self._disarm)
        router.add_get(f"{PREFIX}/faults", self._faults)
        router.add_get(f"{PREFIX}/state", self._state)
        router.add_get(f"{PREFIX}/messages", self._messages)
        router.add_get(f"{PREFIX}/log", self._log)
        router.add_get(f"{PREFIX}/recordings", self._recordings)
        router.add_get(f"{PREFIX}/card", self._card)

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Mistakes of the caller become one clear line."""
        if not request.path.startswith(PREFIX + "/"):
            return await handler(request)
        try:
            return await handler(request)
        except (BadRequest, UnknownFault, UsageError) as error:
            status = 409 if isinstance(error, BusyError) else 400
            return web.json_response({"error": str(error)}, status=status)
        except ResourceError as error:
            return web.json_response({"error": str(error)}, status=503)
        except KeyError as error:
            return web.json_response({"error": f"{error.args[0]} is missing"}, status=400)
        except (ValueError, TypeError) as error:
            return web.json_response({"error": f"a value has the wrong form: {error}"}, status=400)
        except web.HTTPNotFound:
            return web.json_response({"error": f"there is no {request.method} {request.path}"}, status=404)
        except web.HTTPMethodNotAllowed:
            return web.json_response({"error": f"{request.path} does not take {request.method}"}, status=405)

    # Looking things up

    def _channel(self, body: Body, key: str = "channel_id") -> tuple[Guild, Channel]:
        found = self._sim.world.channel(int(body[key]))
        if found is None:
            raise BadRequest(f"there is no channel {body[key]}")
        return found

    def _guild(self, body: Body, user_id: int | None = None) -> Guild:
        if body.get("guild_id"):
            guild = self._sim.world.guilds.get(int(body["guild_id"]))
            if guild is None:
                raise BadRequest(f"there is no guild {body['guild_id']}")
            return guild
        guilds = list(self._sim.world.guilds.values())
        return next((each for each in guilds if user_id in each.voice_states), guilds[0])

    def _user(self, guild: Guild, body: Body, key: str = "member_id") -> int:
        user_id = int(body[key])
        if user_id not in guild.members:
            raise BadRequest(f"there is no member {user_id} in guild {guild.id}")
        return user_id

    def _bot(self, body: Body) -> Bot:
        number = int(body.get("bot", 0))
        if not 0 <= number < len(self._sim.world.bots):
            raise BadRequest(f"there is no bot {number}; there are {len(self._sim.world.bots)}")
        return self._sim.world.bots[number]

    # Interactions

    async def _slash(self, body: Body) -> Any:
        guild, channel = self._channel(body)
        member = self._user(guild, body)
        bot = self._bot(body)
        interaction, data = self._command(bot, guild, channel, member, body, kind=2)
        self._sim.log("slash", member_id=str(member), command=body["command"])
        return await self._interact(interaction, data, float(body.get("wait_s", 3.0)))

    async def _autocomplete(self, body: Body) -> Any:
        guild, channel = self._channel(body)
        member = self._user(guild, body)
        interaction, data = self._command(self._bot(body), guild, channel, member, body, kind=4)
        answer = await self._interact(interaction, data, float(body.get("wait_s", 3.0)))
        return {"choices": interaction.choices, "timed_out": answer["timed_out"]}

    async def _press(self, body: Body) -> Any:
        message = self._sim.book.messages.get(int(body["message_id"]))
        if message is None:
            raise BadRequest(f"there is no message {body['message_id']}")
        guild = self._sim.world.guilds[message.guild_id]
        member = self._user(guild, body)
        button = _button(message, body.get("custom_id"), body.get("label"))
        bot = self._bot_of(message)
        interaction = self._sim.book.interact(3, bot, guild.id, message.channel_id, member)
        interaction.source = message
        data = self._interaction(interaction, {"custom_id": button["custom_id"], "component_type": button["type"]})
        data["message"] = message.discord()
        self._sim.log("press", member_id=str(member), custom_id=button["custom_id"])
        return await self._interact(interaction, data, float(body.get("wait_s", 3.0)))

    async def _modal(self, body: Body) -> Any:
        guild, channel = self._channel(body)
        member = self._user(guild, body)
        interaction = self._sim.book.interact(5, self._bot(body), guild.id, channel.id, member)
        rows = [
            {"type": 1, "components": [{"type": 4, "custom_id": name, "value": value}]}
            for name, value in dict(body.get("values") or {}).items()
        ]
        data = self._interaction(interaction, {"custom_id": body["custom_id"], "components": rows})
        return await self._interact(interaction, data, float(body.get("wait_s", 3.0)))

    def _bot_of(self, message: Message) -> Bot:
        return next(bot for bot in self._sim.world.bots if str(bot.user.id) == message.author["id"])

    async def _interact(self, interaction: Interaction, data: Body, wait_s: float) -> Body:
        """Send an interaction and wait for its replies: the first response, and the text of a deferred one."""
        self._sim.gateway.dispatch("INTERACTION_CREATE", data, bot=interaction.bot)
        end = time.monotonic() + wait_s
        timed_out = False
        try:
            async with asyncio.timeout(wait_s):
                await interaction.answered.wait()
        except TimeoutError:
            timed_out = True
        # Further replies that were already on their way belong to the same answer.
        await asyncio.sleep(max(min(SETTLE_S, end - time.monotonic()), 0))
        replies = [each for each in interaction.replies if not (interaction.deferred and not each.body.get("content"))]
        if interaction.source is not None and interaction.source.edits and not replies:
            replies = [interaction.source]
        answer: Body = {"replies": [each.seen() for each in replies], "timed_out": timed_out}
        if interaction.modal is not None:
            answer["modal"] = interaction.modal
        return answer

    def _interaction(self, interaction: Interaction, data: Body) -> Body:
        guild = self._sim.world.guilds[interaction.guild_id]
        channel = guild.channels[interaction.channel_id]
        bot = interaction.bot
        permissions = guild.permissions(interaction.member_id, channel)
        return {
            "id": str(interaction.id),
            "application_id": str(bot.application_id),
            "type": interaction.kind,
            "data": data,
            "guild_id": str(guild.id),
            "guild": {"id": str(guild.id), "locale": "en-US", "features": []},
            "guild_locale": "en-US",
            "locale": "en-US",
            "channel_id": str(channel.id),
            "channel": channel.payload() | {"permissions": str(permissions)},
            "member": guild.member_payload(interaction.member_id) | {"permissions": str(permissions)},
            "token": interaction.token,
            "version": 1,
            "app_permissions": str(guild.permissions(bot.user.id, channel)),
            "entitlements": [],
            "authorizing_integration_owners": {"0": str(guild.id)},
            "context": 0,
            "attachment_size_limit": 10_485_760,
        }

    def _command(
        self, bot: Bot, guild: Guild, channel: Channel, member: int, body: Body, *, kind: int
    ) -> tuple[Interaction, Body]:
        path = str(body["command"]).lstrip("/").split()
        commands = [
            *self._sim.commands.get((bot.application_id, guild.id), []),
            *self._sim.commands.get((bot.application_id, None), []),
        ]
        command = next((each for each in commands if path and each["name"] == path[0]), None)
        if command is None:
            known = ", ".join(f"/{each['name']}" for each in commands) or "none"
            raise BadRequest(f"there is no command /{' '.join(path)} in guild {guild.id}; there is: {known}")
        needed = command.get("default_member_permissions")
        if needed and guild.permissions(member, channel) & int(needed) != int(needed):
            raise BadRequest(f"member {member} may not use /{path[0]}")
        level: Body = command
        kinds = []
        for word in path[1:]:
            found = next((each for each in level.get("options") or [] if each["name"] == word), None)
            if found is None or found["type"] not in (SUBCOMMAND, SUBGROUP):
                raise BadRequest(f"/{path[0]} has no subcommand {word!r}")
            kinds.append((found["type"], word))
            level = found
        resolved: Body = {}
        given = dict(body.get("options") or {})
        focused = body.get("focused")
        options = self._options(guild, level, given, resolved, str(focused) if focused else None)
        for type_, word in reversed(kinds):
            options = [{"type": type_, "name": word, "options": options}]
        data: Body = {"id": command["id"], "name": command["name"], "type": 1, "options": options}
        if resolved:
            data["resolved"] = resolved
        if command.get("guild_id"):
            data["guild_id"] = command["guild_id"]
        interaction = self._sim.book.interact(kind, bot, guild.id, channel.id, member)
        return interaction, self._interaction(interaction, data)

    def _options(self, guild: Guild, level: Body, given: Body, resolved: Body, focused: str | None) -> list[Body]:
        declared = {each["name"]: each for each in level.get("options") or []}
        options = []
        for name, value in given.items():
            if name not in declared:
                raise BadRequest(f"there is no option {name!r}; there is: {', '.join(declared) or 'none'}")
            kind = declared[name]["type"]
            option: Body = {"name": name, "type": kind, "value": self._value(guild, kind, value, resolved)}
            if name == focused:
                option["focused"] = True
            options.append(option)
        for name, spec in declared.items():
            if spec.get("required") and name not in given and focused is None:
                raise BadRequest(f"the option {name!r} is required")
        return options

    def _value(self, guild: Guild, kind: int, value: Any, resolved: Body) -> Any:
        if kind == CHANNEL:
            channel = guild.channels.get(int(value))
            if channel is None:
                raise BadRequest(f"there is no channel {value} in guild {guild.id}")
            shown = channel.payload() | {"permissions": str(int(hikari.Permissions.all_permissions()))}
            resolved.setdefault("channels", {})[str(value)] = shown
            return str(value)
        if kind in (USER, MENTIONABLE):
            member = guild.members.get(int(value))
            if member is None:
                raise BadRequest(f"there is no member {value} in guild {guild.id}")
            resolved.setdefault("users", {})[str(value)] = member.user.payload()
            shown = guild.member_payload(member.user.id) | {"permissions": str(guild.permissions(member.user.id))}
            resolved.setdefault("members", {})[str(value)] = {k: v for k, v in shown.items() if k != "user"}
            return str(value)
        if kind == INTEGER:
            return int(value)
        if kind == NUMBER:
            return float(value)
        if kind == BOOLEAN:
            return bool(value)
        return str(value)

    # Members and moderators

    async def _voice(self, body: Body) -> Any:
        wanted = body.get("channel_id")
        if wanted is None:
            guild = self._guild(body, int(body["member_id"]))
            await self._sim.voice.member(guild, self._user(guild, body), None)
            return {}
        guild, channel = self._voice_channel(body)
        user = self._user(guild, body)
        if self._sim.world.is_bot(user):
            raise BadRequest("bots join by their own gateway connection; /move moves one that is in voice")
        await self._sim.voice.member(guild, user, channel)
        return {}

    def _voice_channel(self, body: Body) -> tuple[Guild, Channel]:
        guild, channel = self._channel(body)
        if channel.type != VOICE:
            raise BadRequest(f"channel {channel.id} is not a voice channel")
        return guild, channel

    async def _speak(self, body: Body) -> Any:
        if self._sim.part is None:
            raise ResourceError("the simulator runs without its voice part; run: pip install 'roost[sim]'")
        guild = self._guild(body, int(body["member_id"]))
        user = self._user(guild, body)
        wav: bytes | None = None
        if body.get("wav") is not None:
            try:
                wav = base64.b64decode(body["wav"], validate=True)
            except (binascii.Error, TypeError):
                raise BadRequest("wav is not base64") from None
        recording = body.get("recording")
        params = dict(body.get("params") or {})
        return await self._sim.part.speak(guild.id, user, wav=wav, recording=recording, params=params)

    async def _member(self, body: Body) -> Any:
        """Add a member to a guild, or take one out with ``"remove": true``."""
        guild = self._guild(body)
        if body.get("remove"):
            user = self._user(guild, body)
            await self._sim.voice.member(guild, user, None)
            del guild.members[user]
            return {}
        user = int(body.get("member_id") or self._sim.world.snowflake())
        guild.members[user] = Member(User(user, str(body["name"]), bot=bool(body.get("bot"))))
        payload = guild.member_payload(user) | {"guild_id": str(guild.id)}
        self._sim.gateway.dispatch("GUILD_MEMBER_ADD", payload, guild_id=guild.id)
        return {"id": str(user), "name": str(body["name"])}

    async def _permissions(self, body: Body) -> Any:
        """``allow`` and ``deny`` are lists of permission names; with ``channel_id`` for one channel, else for all."""
        guild = self._channel(body)[0] if body.get("channel_id") else self._guild(body)
        user = self._user(guild, body)
        allow, deny = _bits(body.get("allow")), _bits(body.get("deny"))
        if body.get("channel_id"):
            channels = [self._channel(body)[1]]
        else:
            channels = list(guild.channels.values())
            member = guild.members[user]
            member.permissions |= allow
            for role in guild.rest_payload()["roles"]:
                if role["id"] == str(guild.role_of(user)):
                    data = {"guild_id": str(guild.id), "role": role}
                    self._sim.gateway.dispatch("GUILD_ROLE_UPDATE", data, guild_id=guild.id)
            update = guild.member_payload(user) | {"guild_id": str(guild.id)}
            self._sim.gateway.dispatch("GUILD_MEMBER_UPDATE", update, guild_id=guild.id)
        for channel in channels:
            old_allow, old_deny = channel.overwrites.get(user, (0, 0))
            channel.overwrites[user] = ((old_allow | allow) & ~deny, (old_deny | deny) & ~allow)
            self._sim.gateway.dispatch("CHANNEL_UPDATE", channel.payload(), guild_id=guild.id)
        return {}

    async def _kick(self, body: Body) -> Any:
        """Take somebody, also a bot, out of voice."""
        guild = self._guild(body, int(body["member_id"]))
        user = self._user(guild, body)
        if not self._sim.world.is_bot(user):
            await self._sim.voice.member(guild, user, None)
        elif not self._sim.voice.remove(guild, user):
            raise BadRequest(f"member {user} is not in voice")
        return {}

    async def _move(self, body: Body) -> Any:
        guild, channel = self._voice_channel(body)
        user = self._user(guild, body)
        if not self._sim.world.is_bot(user):
            await self._sim.voice.member(guild, user, channel)
        elif not self._sim.voice.move(guild, user, channel):
            raise BadRequest(f"member {user} is not in voice")
        return {}

    async def _server(self, body: Body) -> Any:
        """A new VOICE_SERVER_UPDATE for a bot in voice: a region change, or with ``"null": true`` a lost server."""
        guild = self._guild(body)
        bot = self._bot(body)
        if not self._sim.voice.new_server(guild, bot.user.id, null=bool(body.get("null"))):
            raise BadRequest("the bot is not in voice there")
        return {}

    async def _gateway(self, body: Body) -> Any:
        """``action``: drop (with ``code``), invalidate, or guild_delete (with ``guild_id`` and ``unavailable``)."""
        bot = self._bot(body)
        action = body["action"]
        if action == "drop":
            return {"closed": await self._sim.gateway.drop(bot, int(body.get("code", 4000)))}
        if action == "invalidate":
            return {"invalidated": self._sim.gateway.invalidate(bot)}
        if action == "guild_delete":
            guild = self._guild(body)
            self._sim.voice.remove(guild, bot.user.id) if not body.get("unavailable") else None
            data: Body = {"id": str(guild.id)}
            if body.get("unavailable"):
                data["unavailable"] = True
            self._sim.gateway.dispatch("GUILD_DELETE", data, guild_id=guild.id, bot=bot)
            return {}
        raise BadRequest(f"there is no action {action!r}; there is: drop, invalidate, guild_delete")

    # Faults and views

    async def _fault(self, body: Body) -> Any:
        guild = int(body["guild_id"]) if body.get("guild_id") else None
        times = int(body.get("times", 1))
        if times < 1:
            raise BadRequest("times must be 1 or more")
        fault = self._sim.faults.arm(str(body["name"]), guild, dict(body.get("params") or {}), times)
        self._sim.log("fault_armed", name=fault.name, fault_id=fault.id)
        return {"fault_id": fault.id}

    async def _disarm(self, request: web.Request) -> web.Response:
        if not self._sim.faults.disarm(int(request.match_info["id"])):
            return web.json_response({"error": "there is no such fault, or it is used up"}, status=404)
        return web.json_response({})

    async def _faults(self, _request: web.Request) -> web.Response:
        armed = [fault.payload() for fault in self._sim.faults.armed()]
        return web.json_response({"known": self._sim.faults.known, "armed": armed})

    async def _state(self, _request: web.Request) -> web.Response:
        return web.json_response(self._sim.state())

    async def _messages(self, request: web.Request) -> web.Response:
        _, channel = self._channel({"channel_id": request.query["channel_id"]})
        return web.json_response([message.seen() for message in self._sim.book.in_channel(channel.id)])

    async def _log(self, request: web.Request) -> web.Response:
        return web.json_response(self._sim.log_since(float(request.query.get("since", 0.0))))

    async def _recordings(self, _request: web.Request) -> web.Response:
        return web.json_response(self._sim.part.recordings() if self._sim.part else [])

    async def _card(self, _request: web.Request) -> web.Response:
        return web.json_response(self._sim.card())


def _json_handler(handler: Callable[[Body], Awaitable[Any]]) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        try:
            body = await request.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise BadRequest("the body is not JSON") from None
        if not isinstance(body, dict):
            raise BadRequest("the body must be a JSON object")
        return web.json_response(await handler(body))

    return handle


def _button(message: Message, custom_id: Any, label: Any) -> Body:
    """A button or menu of a message, by its custom_id or its label."""
    found: list[Body] = []
    queue = list(message.body.get("components") or [])
    while queue:
        component = queue.pop(0)
        queue += component.get("components") or []
        if component.get("accessory"):
            queue.append(component["accessory"])
        if component.get("custom_id"):
            found.append(component)
    for component in found:
        if (custom_id is not None and component["custom_id"] == custom_id) or (
            custom_id is None and component.get("label") == label
        ):
            if component.get("disabled"):
                raise BadRequest("that button is disabled")
            return component
    known = ", ".join(str(each.get("label") or each["custom_id"]) for each in found) or "none"
    raise BadRequest(f"the message has no such button; it has: {known}")


def _bits(names: Any) -> int:
    bits = hikari.Permissions.NONE
    for name in names or ():
        try:
            bits |= hikari.Permissions[str(name).upper()]
        except KeyError:
            raise BadRequest(f"there is no permission {name!r}") from None
    return int(bits)
