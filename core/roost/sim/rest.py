"""The simulated REST API: what bots of any library ask for."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import hikari
from aiohttp import web

from roost.sim.messages import Interaction, Message
from roost.sim.ratelimit import Verdict, bucket_of
from roost.sim.world import Bot, Channel, Guild

if TYPE_CHECKING:
    from roost.sim.server import SimulatedDiscord

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
VERSIONS = "/api/v{version:\\d+}"
LOADING = 128


def problem(status: int, code: int, message: str) -> web.Response:
    return web.json_response({"message": message, "code": code}, status=status)


class RestApi:
    """The routes below ``/api/vN``."""

    def __init__(self, sim: SimulatedDiscord) -> None:
        self._sim = sim

    def add_to(self, router: web.UrlDispatcher) -> None:
        base = VERSIONS
        add = router.add_route
        add("GET", f"{base}/gateway", self._gateway)
        add("GET", f"{base}/gateway/bot", self._gateway_bot)
        add("GET", f"{base}/users/@me", self._me)
        add("GET", f"{base}/users/@me/guilds", self._my_guilds)
        add("GET", f"{base}/users/{{user}}", self._user)
        for path in ("/oauth2/applications/@me", "/applications/@me"):
            add("GET", base + path, self._application)
        for path in ("/applications/{app}/commands", "/applications/{app}/guilds/{guild}/commands"):
            add("GET", base + path, self._commands)
            add("PUT", base + path, self._set_commands)
            add("POST", base + path, self._add_command)
            add("DELETE", base + path + "/{command}", self._delete_command)
        add("POST", f"{base}/interactions/{{id}}/{{token}}/callback", self._callback)
        add("POST", f"{base}/webhooks/{{app}}/{{token}}", self._followup)
        add("*", f"{base}/webhooks/{{app}}/{{token}}/messages/{{message}}", self._reply_message)
        add("POST", f"{base}/channels/{{channel}}/messages", self._post)
        add("GET", f"{base}/channels/{{channel}}/messages", self._history)
        add("*", f"{base}/channels/{{channel}}/messages/{{message}}", self._message)
        add("POST", f"{base}/channels/{{channel}}/typing", self._typing)
        add("GET", f"{base}/channels/{{channel}}", self._channel)
        add("GET", f"{base}/guilds/{{guild}}", self._guild)
        add("GET", f"{base}/guilds/{{guild}}/channels", self._channels)
        add("GET", f"{base}/guilds/{{guild}}/roles", self._roles)
        add("GET", f"{base}/guilds/{{guild}}/members", self._members)
        add("GET", f"{base}/guilds/{{guild}}/members/{{user}}", self._member)
        add("PATCH", f"{base}/guilds/{{guild}}/members/{{user}}", self._edit_member)
        add("GET", f"{base}/guilds/{{guild}}/voice-states/{{user}}", self._voice_state)
        add("PATCH", f"{base}/guilds/{{guild}}/voice-states/@me", self._edit_voice_state)

    # Who asks, and how often

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Authorisation, rate limits, armed errors and the log, for every request of the API."""
        if not request.path.startswith("/api/"):
            return await handler(request)
        sim = self._sim
        path = "/" + request.path.split("/", 3)[-1]
        status = sim.faults.take_rest(request.method, path)
        if status is not None:
            return problem(status, 0, "armed fault")
        public = path == "/gateway" or path.startswith(("/interactions/", "/webhooks/"))
        header = request.headers.get("Authorization", "")
        bot = sim.world.bot_by_token(header.removeprefix("Bot "))
        if bot is None and not public:
            sim.log("rest", method=request.method, path=path, status=401)
            return problem(401, 0, "401: Unauthorized")
        request["bot"] = bot
        verdict = self._limit(request.method, path, bot)
        if not verdict.allowed:
            sim.log("rest", method=request.method, path=_without_tokens(path), status=429)
            return _too_many(verdict)
        try:
            response = await handler(request)
        except web.HTTPNotFound:
            response = problem(404, 0, "404: Not Found")
        except web.HTTPMethodNotAllowed:
            response = problem(405, 0, "405: Method Not Allowed")
        except (KeyError, ValueError, TypeError) as error:
            response = problem(400, 50035, f"Invalid Form Body: {error!r}")
        sim.log("rest", method=request.method, path=_without_tokens(path), status=response.status)
        if not path.startswith("/interactions/"):
            _add_headers(response, verdict)
        return response

    def _limit(self, method: str, path: str, bot: Bot | None) -> Verdict:
        now = time.monotonic()
        who = str(bot.user.id) if bot else "public"
        if bot is not None:
            overall = self._sim.limits.take_global(who, now)
            if not overall.allowed:
                return overall
        bucket, limit, window_s = bucket_of(method, path)
        return self._sim.limits.take(f"{who}:{bucket}", limit, window_s, now)

    # Applications and users

    async def _gateway(self, _request: web.Request) -> web.Response:
        return web.json_response({"url": self._sim.gateway_url})

    async def _gateway_bot(self, request: web.Request) -> web.Response:
        bot: Bot = request["bot"]
        settings = self._sim.settings
        return web.json_response(
            {
                "url": self._sim.gateway_url,
                "shards": settings.shards,
                "session_start_limit": {
                    "total": settings.identifies_per_day,
                    "remaining": bot.identifies_left,
                    "reset_after": 86_400_000,
                    "max_concurrency": max(settings.shards, 1),
                },
            }
        )

    async def _me(self, request: web.Request) -> web.Response:
        me = request["bot"].user.payload()
        return web.json_response(me | {"mfa_enabled": False, "locale": "en-US", "verified": True, "email": None})

    async def _my_guilds(self, _request: web.Request) -> web.Response:
        return web.json_response([guild.rest_payload() for guild in self._sim.world.guilds.values()])

    async def _user(self, request: web.Request) -> web.Response:
        wanted = int(request.match_info["user"])
        for guild in self._sim.world.guilds.values():
            if wanted in guild.members:
                return web.json_response(guild.members[wanted].user.payload())
        return problem(404, 10013, "Unknown User")

    async def _application(self, request: web.Request) -> web.Response:
        return web.json_response(request["bot"].application(self._sim.world.humans[0]))

    # Commands

    def _scope_of(self, request: web.Request) -> tuple[int, int | None]:
        guild = request.match_info.get("guild")
        return int(request.match_info["app"]), int(guild) if guild else None

    async def _commands(self, request: web.Request) -> web.Response:
        return web.json_response(self._sim.commands.get(self._scope_of(request), []))

    async def _set_commands(self, request: web.Request) -> web.Response:
        scope = self._scope_of(request)
        old = {(each["name"], each["type"]): each for each in self._sim.commands.get(scope, [])}
        stored = [self._stored(scope, body) for body in await request.json()]
        for command in stored:
            before = old.get((command["name"], command["type"]))
            if before is not None:
                command["id"] = before["id"]
        self._sim.commands[scope] = stored
        self._sim.log("commands_put", guild_id=scope[1] and str(scope[1]), names=[each["name"] for each in stored])
        return web.json_response(stored)

    async def _add_command(self, request: web.Request) -> web.Response:
        scope = self._scope_of(request)
        command = self._stored(scope, await request.json())
        kept = [each for each in self._sim.commands.get(scope, []) if each["name"] != command["name"]]
        self._sim.commands[scope] = [*kept, command]
        return web.json_response(command, status=201)

    async def _delete_command(self, request: web.Request) -> web.Response:
        scope = self._scope_of(request)
        wanted = request.match_info["command"]
        self._sim.commands[scope] = [each for each in self._sim.commands.get(scope, []) if each["id"] != wanted]
        return web.Response(status=204)

    def _stored(self, scope: tuple[int, int | None], body: dict[str, Any]) -> dict[str, Any]:
        application, guild = scope
        command: dict[str, Any] = {
            "id": str(self._sim.world.snowflake()),
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
        if command["default_member_permissions"] is not None:
            command["default_member_permissions"] = str(command["default_member_permissions"])
        if guild is not None:
            command["guild_id"] = str(guild)
        else:
            command.setdefault("integration_types", [0])
            command.setdefault("contexts", None)
        return command

    # Interactions

    async def _callback(self, request: web.Request) -> web.Response:
        interaction = self._sim.book.interactions.get(request.match_info["token"])
        if interaction is None:
            return problem(404, 10062, "Unknown interaction")
        if interaction.acknowledged.is_set():
            return problem(400, 40060, "Interaction has already been acknowledged.")
        body = await _body(request)
        message = self._acknowledge(interaction, int(body["type"]), body.get("data") or {})
        interaction.acknowledged.set()
        if request.query.get("with_response", "").lower() not in ("1", "true"):
            return web.Response(status=204)
        answer: dict[str, Any] = {"interaction": {"id": str(interaction.id), "type": interaction.kind}}
        if message is not None:
            answer["interaction"] |= {
                "response_message_id": str(message.id),
                "response_message_loading": interaction.deferred,
                "response_message_ephemeral": message.ephemeral,
            }
            answer["resource"] = {"type": int(body["type"]), "message": message.discord()}
        return web.json_response(answer)

    def _acknowledge(self, interaction: Interaction, kind: int, data: dict[str, Any]) -> Message | None:
        book = self._sim.book
        if kind in (4, 5):
            interaction.deferred = kind == 5
            message = self._reply(interaction, data)
            if kind == 4:
                interaction.answered.set()
            return message
        if kind == 7 and interaction.source is not None:
            book.edit(interaction.source, data)
            interaction.answered.set()
            return interaction.source
        if kind == 6:
            return interaction.source
        if kind == 8:
            interaction.choices = list(data.get("choices") or [])
        elif kind == 9:
            interaction.modal = data
        interaction.answered.set()
        return None

    def _reply(self, interaction: Interaction, data: dict[str, Any]) -> Message:
        message = self._sim.book.post(
            interaction.channel_id,
            interaction.guild_id,
            interaction.bot.user.payload(),
            data,
            application_id=interaction.bot.application_id,
            interaction_token=interaction.token,
        )
        interaction.replies.append(message)
        self._log_message("message", message)
        return message

    async def _followup(self, request: web.Request) -> web.Response:
        interaction = self._sim.book.interactions.get(request.match_info["token"])
        if interaction is None or not interaction.acknowledged.is_set():
            return problem(404, 10015, "Unknown Webhook")
        body = await _body(request)
        if interaction.deferred and len(interaction.replies) == 1:
            # The first follow-up to a deferred reply fills it in, as Discord does.
            interaction.deferred = False
            self._sim.book.edit(interaction.replies[0], body)
            message = interaction.replies[0]
        else:
            message = self._reply(interaction, body)
        interaction.answered.set()
        return web.json_response(message.discord())

    async def _reply_message(self, request: web.Request) -> web.Response:
        interaction = self._sim.book.interactions.get(request.match_info["token"])
        wanted = request.match_info["message"]
        replies = interaction.replies if interaction else []
        if wanted == "@original":
            message = replies[0] if replies else interaction.source if interaction else None
        else:
            message = next((each for each in replies if each.id == int(wanted)), None)
        if interaction is None or message is None:
            return problem(404, 10008, "Unknown Message")
        if request.method == "DELETE":
            self._sim.book.messages.pop(message.id, None)
            if message in replies:
                replies.remove(message)
            return web.Response(status=204)
        if request.method == "PATCH":
            self._sim.book.edit(message, await _body(request))
            interaction.deferred = False
            interaction.answered.set()
            self._log_message("message_edit", message)
        return web.json_response(message.discord())

    # Channels and messages

    def _place(self, request: web.Request) -> tuple[Guild, Channel] | None:
        return self._sim.world.channel(int(request.match_info["channel"]))

    def _refusal(self, request: web.Request, guild: Guild, channel: Channel, needed: hikari.Permissions) -> Any:
        permissions = guild.permissions(request["bot"].user.id, channel)
        if not permissions & int(hikari.Permissions.VIEW_CHANNEL):
            return problem(403, 50001, "Missing Access")
        if permissions & int(needed) != int(needed):
            return problem(403, 50013, "Missing Permissions")
        return None

    async def _post(self, request: web.Request) -> web.Response:
        place = self._place(request)
        if place is None:
            return problem(404, 10003, "Unknown Channel")
        refusal = self._refusal(request, *place, hikari.Permissions.SEND_MESSAGES)
        if refusal is not None:
            return refusal  # type: ignore[no-any-return]
        body = await _body(request)
        content = body.get("content") or ""
        if len(content) > 2000:
            return problem(400, 50035, "Invalid Form Body: content must be 2000 or fewer in length")
        if not (content or body.get("embeds") or body.get("components")):
            return problem(400, 50006, "Cannot send an empty message")
        guild, channel = place
        message = self._sim.book.post(channel.id, guild.id, request["bot"].user.payload(), body)
        self._log_message("message", message)
        data = message.discord() | {"guild_id": str(guild.id)}
        self._sim.gateway.dispatch("MESSAGE_CREATE", data, guild_id=guild.id)
        return web.json_response(message.discord())

    def _log_message(self, kind: str, message: Message) -> None:
        self._sim.log(
            kind, message_id=str(message.id), channel_id=str(message.channel_id), content=message.body.get("content")
        )

    async def _history(self, request: web.Request) -> web.Response:
        place = self._place(request)
        if place is None:
            return problem(404, 10003, "Unknown Channel")
        limit = min(int(request.query.get("limit", 50)), 100)
        newest_first = reversed(self._sim.book.in_channel(place[1].id)[-limit:])
        return web.json_response([message.discord() for message in newest_first])

    async def _message(self, request: web.Request) -> web.Response:
        message = self._sim.book.messages.get(int(request.match_info["message"]))
        place = self._place(request)
        if message is None or place is None or message.channel_id != place[1].id or message.ephemeral:
            return problem(404, 10008, "Unknown Message")
        if request.method == "GET":
            return web.json_response(message.discord())
        if request.method not in ("PATCH", "DELETE"):
            return problem(405, 0, "405: Method Not Allowed")
        if message.author["id"] != str(request["bot"].user.id):
            return problem(403, 50005, "Cannot edit a message authored by another user")
        if request.method == "DELETE":
            del self._sim.book.messages[message.id]
            self._log_message("message_delete", message)
            return web.Response(status=204)
        self._sim.book.edit(message, await _body(request))
        self._log_message("message_edit", message)
        return web.json_response(message.discord())

    async def _typing(self, _request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _channel(self, request: web.Request) -> web.Response:
        place = self._place(request)
        return web.json_response(place[1].payload()) if place else problem(404, 10003, "Unknown Channel")

    # Guilds

    def _guild_of(self, request: web.Request) -> Guild | None:
        guild = self._sim.world.guilds.get(int(request.match_info["guild"]))
        return guild if guild and request["bot"].user.id in guild.members else None

    async def _guild(self, request: web.Request) -> web.Response:
        guild = self._guild_of(request)
        return web.json_response(guild.rest_payload()) if guild else problem(404, 10004, "Unknown Guild")

    async def _channels(self, request: web.Request) -> web.Response:
        guild = self._guild_of(request)
        if guild is None:
            return problem(404, 10004, "Unknown Guild")
        return web.json_response([channel.payload() for channel in guild.channels.values()])

    async def _roles(self, request: web.Request) -> web.Response:
        guild = self._guild_of(request)
        return web.json_response(guild.rest_payload()["roles"]) if guild else problem(404, 10004, "Unknown Guild")

    async def _members(self, request: web.Request) -> web.Response:
        guild = self._guild_of(request)
        if guild is None:
            return problem(404, 10004, "Unknown Guild")
        return web.json_response([guild.member_payload(user_id) for user_id in guild.members])

    async def _member(self, request: web.Request) -> web.Response:
        guild = self._guild_of(request)
        user = _user_in(request)
        if guild is None or user not in guild.members:
            return problem(404, 10007, "Unknown Member")
        return web.json_response(guild.member_payload(user))

    async def _edit_member(self, request: web.Request) -> web.Response:
        """Only ``channel_id`` matters here: a move or a disconnect, with MOVE_MEMBERS."""
        guild = self._guild_of(request)
        user = _user_in(request)
        if guild is None or user not in guild.members:
            return problem(404, 10007, "Unknown Member")
        body = await request.json()
        if "channel_id" in body:
            mover = guild.permissions(request["bot"].user.id)
            if not mover & int(hikari.Permissions.MOVE_MEMBERS):
                return problem(403, 50013, "Missing Permissions")
            if user not in guild.voice_states:
                return problem(400, 40032, "Target user is not connected to voice.")
            if body["channel_id"] is None:
                self._sim.voice.remove(guild, user)
            else:
                self._sim.voice.move(guild, user, guild.channels[int(body["channel_id"])])
        return web.json_response(guild.member_payload(user))

    async def _voice_state(self, request: web.Request) -> web.Response:
        guild = self._guild_of(request)
        state = guild.voice_states.get(_user_in(request)) if guild else None
        if guild is None or state is None:
            return problem(404, 10065, "Unknown Voice State")
        return web.json_response(state.payload(guild.members[state.user_id]))

    async def _edit_voice_state(self, request: web.Request) -> web.Response:
        guild = self._guild_of(request)
        if guild is None or request["bot"].user.id not in guild.voice_states:
            return problem(404, 10065, "Unknown Voice State")
        return web.Response(status=204)


def _user_in(request: web.Request) -> int:
    user = request.match_info["user"]
    return int(request["bot"].user.id) if user == "@me" else int(user)


async def _body(request: web.Request) -> dict[str, Any]:
    """The JSON of a request, also when it comes as a form with files."""
    if request.content_type == "multipart/form-data":
        form = await request.post()
        payload = form.get("payload_json")
        return dict(json.loads(payload)) if isinstance(payload, str) else {}
    return dict(await request.json())


def _without_tokens(path: str) -> str:
    parts = path.split("/")
    return "/".join("<token>" if len(part) > 40 else part for part in parts)


def _add_headers(response: web.StreamResponse, verdict: Verdict) -> None:
    if response.prepared:
        return
    response.headers.update(
        {
            "X-RateLimit-Limit": str(verdict.limit),
            "X-RateLimit-Remaining": str(verdict.remaining),
            "X-RateLimit-Reset": f"{time.time() + verdict.reset_after_s:.3f}",
            "X-RateLimit-Reset-After": f"{verdict.reset_after_s:.3f}",
            "X-RateLimit-Bucket": verdict.bucket.replace(":", "-"),
        }
    )


def _too_many(verdict: Verdict) -> web.Response:
    body = {
        "message": "You are being rate limited.",
        "retry_after": round(verdict.reset_after_s, 3),
        "global": verdict.is_global,
        "code": 0,
    }
    response = web.json_response(body, status=429)
    _add_headers(response, verdict)
    response.headers["Retry-After"] = f"{verdict.reset_after_s:.3f}"
    response.headers["X-RateLimit-Scope"] = "global" if verdict.is_global else "user"
    if verdict.is_global:
        response.headers["X-RateLimit-Global"] = "true"
    return response
