"""The control API: how tests, the demo and any other program play the members and arm the faults."""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime
import json
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NoReturn
from urllib.parse import urlsplit

import hikari
from aiohttp import web

from roost.errors import BusyError, ResourceError, UsageError
from roost.sim.faults import CORE_PARAMS, FaultRefused
from roost.sim.gateway import Gateway
from roost.sim.interactions import BadRequest, Invocation, command_data, component_data, modal_data, payload
from roost.sim.messages import Interaction
from roost.sim.rest_messages import MessageRoutes
from roost.sim.signalling import Signalling
from roost.sim.state import SimState
from roost.sim.world import PRIVATE_THREAD, SPOKEN, STAGE, TEXT, VOICE, Bot, Channel, Guild, Member, Role, User

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Body = dict[str, Any]
PREFIX = "/control"
SETTLE_S = 0.05
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
LONGEST_WAIT_S = 60.0
"""A caller that means to wait longer has mistaken the unit."""


class ControlApi:
    """The routes below ``/control``.

    Args:
        sim: The state that all parts share.
        gateway: Shows bots what changes, and loses connections on request.
        voice_states: Moves members and bots in voice.
        messages: Writes the messages of members.
        state: Returns what ``GET /control/state`` answers.
        card: Returns what ``GET /control/card`` answers.
    """

    def __init__(
        self,
        sim: SimState,
        gateway: Gateway,
        voice_states: Signalling,
        messages: MessageRoutes,
        *,
        state: Callable[[], Body],
        card: Callable[[], Body],
    ) -> None:
        self._sim = sim
        self._main_gateway = gateway
        self._voice_states = voice_states
        self._messages_of = messages
        self._read_state = state
        self._read_card = card

    def add_to(self, router: web.UrlDispatcher) -> None:
        posts: dict[str, Callable[[Body], Awaitable[Any]]] = {
            "slash": self._slash,
            "press": self._press,
            "modal": self._modal,
            "autocomplete": self._autocomplete,
            "voice": self._voice,
            "speak": self._speak,
            "member": self._member,
            "message": self._message,
            "channel": self._edit_channel,
            "permissions": self._permissions,
            "role": self._role,
            "thread": self._thread,
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
        router.add_get(f"{PREFIX}/threads", self._threads)
        router.add_get(f"{PREFIX}/log", self._log)
        router.add_get(f"{PREFIX}/recordings", self._recordings)
        router.add_get(f"{PREFIX}/card", self._card)

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Mistakes of the caller become one clear line."""
        if not request.path.startswith(PREFIX + "/"):
            return await handler(request)
        try:
            if refusal := _foreign(request):
                return web.json_response({"error": refusal[1]}, status=refusal[0])
            return await handler(request)
        except (BadRequest, FaultRefused, UsageError) as error:
            status = 409 if isinstance(error, BusyError) else 400
            return web.json_response({"error": str(error)}, status=status)
        except ResourceError as error:
            return web.json_response({"error": str(error)}, status=503)
        except KeyError as error:
            return web.json_response({"error": f"{error.args[0]} is missing"}, status=400)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
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
        guild, channel, member = self._visible(body)
        data = self._typed(guild, channel, member, body, None)
        interaction = self._sim.book.interact(2, self._bot(body), guild.id, channel.id, member)
        self._sim.log("slash", member_id=str(member), command=body["command"], interaction_id=str(interaction.id))
        return await self._interact(interaction, data, body)

    async def _autocomplete(self, body: Body) -> Any:
        guild, channel, member = self._visible(body)
        data = self._typed(guild, channel, member, body, str(body["focused"]))
        interaction = self._sim.book.interact(4, self._bot(body), guild.id, channel.id, member)
        answer = await self._interact(interaction, data, body)
        return {"choices": interaction.choices, "timed_out": answer["timed_out"]}

    async def _press(self, body: Body) -> Any:
        message = self._sim.book.messages.get(int(body["message_id"]))
        if message is None:
            raise BadRequest(f"there is no message {body['message_id']}")
        guild = self._sim.world.guilds[message.guild_id]
        member = self._user(guild, body)
        if message.seen_by not in (None, member):
            raise BadRequest(f"member {member} does not see that message: it is ephemeral")
        data = component_data(message, body.get("custom_id"), body.get("label"), body.get("values"))
        bot = next((each for each in self._sim.world.bots if str(each.user.id) == message.author["id"]), None)
        if bot is None:
            raise BadRequest("that message is not a bot's")
        interaction = self._sim.book.interact(3, bot, guild.id, message.channel_id, member)
        interaction.source = message
        self._sim.log("press", member_id=str(member), custom_id=data["custom_id"], interaction_id=str(interaction.id))
        return await self._interact(interaction, data, body)

    async def _modal(self, body: Body) -> Any:
        guild, channel, member = self._visible(body)
        data = modal_data(str(body["custom_id"]), dict(body.get("values") or {}))
        interaction = self._sim.book.interact(5, self._bot(body), guild.id, channel.id, member)
        return await self._interact(interaction, data, body)

    def _visible(self, body: Body) -> tuple[Guild, Channel, int]:
        guild, channel = self._channel(body)
        member = self._user(guild, body)
        if not guild.permissions(member, channel) & int(hikari.Permissions.VIEW_CHANNEL):
            raise BadRequest(f"member {member} does not see channel {channel.id}")
        return guild, channel, member

    def _typed(self, guild: Guild, channel: Channel, member: int, body: Body, focused: str | None) -> Body:
        application = self._bot(body).application_id
        commands = [
            *self._sim.commands.get((application, guild.id), ()),
            *self._sim.commands.get((application, None), ()),
        ]
        typed = Invocation(str(body["command"]), dict(body.get("options") or {}), focused)
        return command_data(guild, channel, member, commands, typed)

    async def _interact(self, interaction: Interaction, data: Body, body: Body) -> Body:
        """Send an interaction and wait for its replies: the first response, and the text of a deferred one."""
        wait_s, settle_s = float(body.get("wait_s", 3.0)), float(body.get("settle_s", SETTLE_S))
        guild = self._sim.world.guilds[interaction.guild_id]
        locales = {key: str(body[key]) for key in ("locale", "guild_locale") if body.get(key)}
        whole = payload(interaction, guild, self._channel({"channel_id": interaction.channel_id})[1], data, **locales)
        self._main_gateway.dispatch("INTERACTION_CREATE", whole, guild_id=guild.id, bot=interaction.bot)
        end = time.monotonic() + wait_s
        source_edits = interaction.source.edits if interaction.source is not None else 0
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await interaction.answered.wait()
        # Further replies that were already on their way belong to the same answer.
        await asyncio.sleep(max(min(settle_s, end - time.monotonic()), 0))
        source, original = interaction.source, interaction.original
        replies = [each for each in interaction.replies if not each.loading]
        if source is not None and source.edits > source_edits:
            replies.insert(0, source)
        waiting = original is not None and original.loading
        answer: Body = {
            "replies": [each.seen() for each in replies],
            "timed_out": waiting or not interaction.acknowledged.is_set(),
        }
        if interaction.modal is not None:
            answer["modal"] = interaction.modal
        return answer

    # Members and moderators

    async def _voice(self, body: Body) -> Any:
        if body["channel_id"] is None:
            guild = self._guild(body, int(body["member_id"]))
            await self._voice_states.member(guild, self._user(guild, body), None)
            return {}
        guild, channel = self._voice_channel(body)
        user = self._user(guild, body)
        if self._sim.world.is_bot(user):
            raise BadRequest("bots join by their own gateway connection; /move moves one that is in voice")
        if not self._voice_states.may_enter(guild, channel, user):
            raise BadRequest(f"member {user} may not enter channel {channel.name}, or it is full")
        await self._voice_states.member(guild, user, channel)
        return {}

    def _voice_channel(self, body: Body) -> tuple[Guild, Channel]:
        guild, channel = self._channel(body)
        if channel.type not in SPOKEN:
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
        """Add a member to a guild, take one out with ``"remove": true``, or give one a timeout of ``timeout_s``."""
        guild = self._guild(body)
        if "timeout_s" in body:
            user = self._user(guild, body)
            until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=float(body["timeout_s"]))
            guild.members[user].timed_out_until = until.isoformat() if body["timeout_s"] else None
            self._member_changed(guild, user)
            return {}
        if body.get("remove"):
            user = self._user(guild, body)
            if self._sim.world.is_bot(user):
                raise BadRequest("a bot is taken out with /gateway, action guild_delete")
            await self._voice_states.member(guild, user, None)
            gone = guild.members.pop(user)
            data = {"guild_id": str(guild.id), "user": gone.user.payload()}
            self._main_gateway.dispatch("GUILD_MEMBER_REMOVE", data, guild_id=guild.id)
            return {}
        user = int(body.get("member_id") or self._sim.world.snowflake())
        guild.members[user] = Member(User(user, str(body["name"]), bot=bool(body.get("bot"))))
        payload = guild.member_payload(user) | {"guild_id": str(guild.id)}
        self._main_gateway.dispatch("GUILD_MEMBER_ADD", payload, guild_id=guild.id)
        return {"id": str(user), "name": str(body["name"])}

    async def _permissions(self, body: Body) -> Any:
        """``allow`` and ``deny`` are lists of permission names; with ``channel_id`` for one channel, else for all.

        For a member, or with ``role_id`` for a role; @everyone's is the guild's id, in a channel alone.
        """
        guild = self._channel(body)[0] if body.get("channel_id") else self._guild(body)
        allow, deny = _bits(body, "allow"), _bits(body, "deny")
        if body.get("role_id"):
            self._change_of_role(guild, body, allow, deny)
            return {}
        user = self._user(guild, body)
        channels = [self._channel(body)[1]] if body.get("channel_id") else list(guild.channels.values())
        if not body.get("channel_id"):
            self._change_role(guild, user, allow, deny)
        for channel in channels:
            self._overwrite(channel, channel.overwrites, user, (allow, deny))
        return {}

    def _change_of_role(self, guild: Guild, body: Body, allow: int, deny: int) -> None:
        role_id = int(body["role_id"])
        if role_id not in guild.roles and not (role_id == guild.id and body.get("channel_id")):
            raise BadRequest(f"there is no role {role_id} in guild {guild.id}")
        if body.get("channel_id"):
            channel = self._channel(body)[1]
            self._overwrite(channel, channel.role_overwrites, role_id, (allow, deny))
            return
        role = guild.roles[role_id]
        role.permissions = (role.permissions | allow) & ~deny
        data = {"guild_id": str(guild.id), "role": role.payload()}
        self._main_gateway.dispatch("GUILD_ROLE_UPDATE", data, guild_id=guild.id)

    def _overwrite(self, channel: Channel, named: dict[int, tuple[int, int]], of: int, bits: tuple[int, int]) -> None:
        """Allow and deny some more in a channel, to a member or a role."""
        (old_allow, old_deny), (allow, deny) = named.get(of, (0, 0)), bits
        named[of] = ((old_allow | allow) & ~deny, (old_deny | deny) & ~allow)
        self._main_gateway.dispatch("CHANNEL_UPDATE", channel.payload(), guild_id=channel.guild_id)

    async def _role(self, body: Body) -> Any:
        """A new role (``guild_id``, ``name``, ``allow``, ``booster``), who wears one, or ``delete``."""
        guild = self._guild(body)
        if not body.get("role_id"):
            role = Role(self._sim.world.snowflake(), str(body["name"]), _bits(body, "allow"), bool(body.get("booster")))
            guild.roles[role.id] = role
            data = {"guild_id": str(guild.id), "role": role.payload()}
            self._main_gateway.dispatch("GUILD_ROLE_CREATE", data, guild_id=guild.id)
            return {"id": str(role.id)}
        role_id = int(body["role_id"])
        if role_id not in guild.roles:
            raise BadRequest(f"there is no role {role_id} in guild {guild.id}")
        if body.get("delete"):
            del guild.roles[role_id]
            for channel in guild.channels.values():
                channel.role_overwrites.pop(role_id, None)
            for member in guild.members.values():
                member.roles = [each for each in member.roles if each != role_id]
            data = {"guild_id": str(guild.id), "role_id": str(role_id)}
            self._main_gateway.dispatch("GUILD_ROLE_DELETE", data, guild_id=guild.id)
            return {}
        user = self._user(guild, body)
        worn = guild.members[user].roles
        if body.get("remove"):
            worn[:] = [each for each in worn if each != role_id]
        elif role_id not in worn:
            worn.append(role_id)
        self._member_changed(guild, user)
        return {}

    async def _thread(self, body: Body) -> Any:
        """A private thread of a text channel, which every bot in the guild is added to."""
        guild, channel = self._channel(body)
        if channel.type != TEXT:
            raise BadRequest(f"channel {channel.id} is not a text channel")
        thread = Channel(
            self._sim.world.snowflake(),
            guild.id,
            str(body["name"]),
            PRIVATE_THREAD,
            parent_id=channel.id,
            owner_id=guild.owner_id,
            overwrites=channel.overwrites,
            role_overwrites=channel.role_overwrites,
        )
        guild.threads[thread.id] = thread
        self._main_gateway.dispatch("THREAD_CREATE", thread.payload() | {"newly_created": True}, guild_id=guild.id)
        return {"id": str(thread.id)}

    def _change_role(self, guild: Guild, user: int, allow: int, deny: int) -> None:
        """A member's own permissions in the whole guild: those of a role of their own."""
        known = guild.role_of(user)
        member = guild.members[user]
        member.permissions = (member.permissions | allow) & ~deny
        for role in guild.rest_payload()["roles"]:
            if role["id"] == str(guild.role_of(user)):
                event = "GUILD_ROLE_CREATE" if known is None else "GUILD_ROLE_UPDATE"
                self._main_gateway.dispatch(event, {"guild_id": str(guild.id), "role": role}, guild_id=guild.id)
        self._member_changed(guild, user)

    def _member_changed(self, guild: Guild, user: int) -> None:
        update = guild.member_payload(user) | {"guild_id": str(guild.id)}
        for session in self._main_gateway.sessions.values():
            # Without the GUILD_MEMBERS intent a bot learns of changes to itself alone.
            if session.bot.user.id == user or session.has(int(hikari.Intents.GUILD_MEMBERS)):
                session.dispatch("GUILD_MEMBER_UPDATE", update)

    async def _message(self, body: Body) -> Any:
        """A member writes into a text channel."""
        guild, channel, member = self._visible(body)
        return {"message_id": str(self._messages_of.say(guild, channel, member, str(body["content"])).id)}

    async def _edit_channel(self, body: Body) -> Any:
        """A new channel (``guild_id``, ``name``, ``type``: voice, text or stage), or ``user_limit`` or ``delete``."""
        if body.get("channel_id"):
            guild, channel = self._channel(body)
            if body.get("delete"):
                await self._voice_states.drop_channel(guild, channel)
                return {}
            channel.user_limit = int(body.get("user_limit", channel.user_limit))
            self._main_gateway.dispatch("CHANNEL_UPDATE", channel.payload(), guild_id=guild.id)
            return {"id": str(channel.id)}
        guild = self._guild(body)
        kind = {"voice": VOICE, "text": TEXT, "stage": STAGE}.get(str(body.get("type", "voice")))
        if kind is None:
            raise BadRequest("type is voice, text or stage")
        channel = Channel(
            self._sim.world.snowflake(), guild.id, str(body["name"]), kind, int(body.get("user_limit", 0))
        )
        guild.channels[channel.id] = channel
        self._main_gateway.dispatch("CHANNEL_CREATE", channel.payload(), guild_id=guild.id)
        return {"id": str(channel.id)}

    async def _kick(self, body: Body) -> Any:
        """Take somebody, also a bot, out of voice."""
        guild = self._guild(body, int(body["member_id"]))
        user = self._user(guild, body)
        if user not in guild.voice_states:
            raise BadRequest(f"member {user} is not in voice")
        if self._sim.world.is_bot(user):
            self._voice_states.remove(guild, user)
        else:
            await self._voice_states.member(guild, user, None)
        return {}

    async def _move(self, body: Body) -> Any:
        guild, channel = self._voice_channel(body)
        user = self._user(guild, body)
        if not self._sim.world.is_bot(user):
            await self._voice_states.member(guild, user, channel)
        elif not self._voice_states.move(guild, user, channel):
            raise BadRequest(f"member {user} is not in voice")
        return {}

    async def _server(self, body: Body) -> Any:
        """A new VOICE_SERVER_UPDATE for a bot in voice: a region change, or with ``"null": true`` a lost server."""
        guild = self._guild(body)
        bot = self._bot(body)
        if not self._voice_states.new_server(guild, bot.user.id, null=bool(body.get("null"))):
            raise BadRequest("the bot is not in voice there")
        return {}

    async def _gateway(self, body: Body) -> Any:
        """What happens to a bot's gateway; ``action`` is one of:

        drop: every connection is closed, with ``code`` (4000); its sessions stay resumable.
        abort: every connection is reset, with no close frame.
        invalidate: op 9, not resumable.
        guild_delete: it is removed from ``guild_id``, or with ``unavailable`` the guild has an outage.
        guild_create: it is (back) in ``guild_id``.
        """
        bot, gateway = self._bot(body), self._main_gateway
        actions: dict[str, Callable[[], Any]] = {
            "abort": lambda: {"closed": gateway.abort(bot)},
            "invalidate": lambda: {"invalidated": gateway.invalidate(bot)},
            "guild_delete": lambda: self._leave_guild(bot, self._guild(body), bool(body.get("unavailable"))),
            "guild_create": lambda: self._enter_guild(bot, self._guild(body)),
        }
        action = str(body["action"])
        if action == "drop":
            CORE_PARAMS["gateway_drop"]["code"].check("code", code := body.get("code", 4000))
            return {"closed": await gateway.drop(bot, code)}
        if action not in actions:
            raise BadRequest(f"there is no action {action!r}; there is: drop, {', '.join(actions)}")
        return actions[action]()

    def _leave_guild(self, bot: Bot, guild: Guild, unavailable: bool) -> Body:
        data: Body = {"id": str(guild.id)}
        if unavailable:
            data["unavailable"] = True
        else:
            self._voice_states.remove(guild, bot.user.id, quiet=True)
        self._main_gateway.dispatch("GUILD_DELETE", data, guild_id=guild.id, bot=bot)
        if not unavailable:
            guild.members.pop(bot.user.id, None)
            self._sim.commands.pop((bot.application_id, guild.id), None)
        return {}

    def _enter_guild(self, bot: Bot, guild: Guild) -> Body:
        guild.members.setdefault(bot.user.id, Member(bot.user))
        for session in self._main_gateway.sessions.values():
            if session.bot is bot and session.wants("GUILD_CREATE", guild.id):
                self._main_gateway.show_guild(session, guild)
        return {}

    # Faults and views

    async def _fault(self, body: Body) -> Any:
        guild = int(body["guild_id"]) if body.get("guild_id") else None
        if guild is not None:
            self._guild(body)
        name, params, times = str(body["name"]), body.get("params") or {}, body.get("times", 1)
        if not isinstance(params, dict):
            raise BadRequest("params must be an object")
        self._sim.faults.check(name, params, times)
        fault = self._sim.faults.arm(name, guild, params, times)
        self._sim.log("fault_armed", name=fault.name, fault_id=fault.id, guild_id=guild and str(guild))
        self._main_gateway.strike()
        return {"fault_id": fault.id}

    async def _disarm(self, request: web.Request) -> web.Response:
        if not self._sim.faults.disarm(int(request.match_info["id"])):
            return web.json_response({"error": "there is no such fault, or it is used up"}, status=404)
        return web.json_response({})

    async def _faults(self, _request: web.Request) -> web.Response:
        armed = [fault.payload() for fault in self._sim.faults.armed()]
        known = self._sim.faults.known
        handled_by = {name: self._sim.faults.handled_by(name) for name in known}
        return web.json_response({"known": known, "handled_by": handled_by, "armed": armed})

    async def _state(self, _request: web.Request) -> web.Response:
        return web.json_response(self._read_state())

    async def _threads(self, request: web.Request) -> web.Response:
        guild, channel = self._channel({"channel_id": request.query["channel_id"]})
        found = [each for each in guild.threads.values() if each.parent_id == channel.id]
        return web.json_response([{"id": str(each.id), "name": each.name} for each in found])

    async def _messages(self, request: web.Request) -> web.Response:
        _, channel = self._channel({"channel_id": request.query["channel_id"]})
        return web.json_response([message.seen() for message in self._sim.book.in_channel(channel.id)])

    async def _log(self, request: web.Request) -> web.Response:
        return web.json_response(self._sim.log_since(float(request.query.get("since", 0.0))))

    async def _recordings(self, _request: web.Request) -> web.Response:
        return web.json_response(self._sim.part.recordings() if self._sim.part else [])

    async def _card(self, _request: web.Request) -> web.Response:
        return web.json_response(self._read_card())


def _json_handler(handler: Callable[[Body], Awaitable[Any]]) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        try:
            body = await request.json(loads=_loads)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            raise BadRequest("the body is not JSON") from None
        except LookupError:
            raise BadRequest(f"the charset {str(request.charset)[:80]} is not known") from None
        if not isinstance(body, dict):
            raise BadRequest("the body must be a JSON object")
        for key in ("wait_s", "settle_s"):
            if key in body and not 0 <= float(body[key]) <= LONGEST_WAIT_S:
                raise BadRequest(f"{key} is between 0 and {LONGEST_WAIT_S:g} seconds, not {body[key]}")
        return web.json_response(await handler(body))

    return handle


def _foreign(request: web.Request) -> tuple[int, str] | None:
    """Status and text for a request that a web page may have sent: by its own name for us, its origin or a form."""
    if urlsplit(f"//{request.host}").hostname not in LOOPBACK_NAMES:
        return 403, "the control API is for this machine: the Host header must be 127.0.0.1 or localhost"
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{request.host}":
        return 403, f"the control API takes no requests of the web page {origin[:80]}"
    if request.method == "POST" and request.content_type != "application/json":
        return 415, "the Content-Type must be application/json"
    return None


def _loads(text: str) -> Any:
    """JSON without what is no number; Python's own takes NaN, Infinity and 1e999."""
    return json.loads(text, parse_constant=_no_number, parse_float=_finite)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise BadRequest(f"{text} is not a number")


def _bits(body: Body, key: str) -> int:
    names = body.get(key) or []
    if not isinstance(names, list):
        raise BadRequest(f'{key} is a list of permission names, such as ["CONNECT"], not {names!r}')
    bits = hikari.Permissions.NONE
    for name in names:
        try:
            bits |= hikari.Permissions[str(name).upper()]
        except KeyError:
            raise BadRequest(f"there is no permission {name!r}") from None
    return int(bits)
