"""The simulated REST API: what bots of any library ask for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import hikari
from aiohttp import web

from roost.sim.answers import Problem, asking_bot, invalid, read_body
from roost.sim.ratelimit import Bucket, Verdict, bucket_of
from roost.sim.signalling import Signalling
from roost.sim.state import SimState
from roost.sim.world import SPOKEN, Bot, Guild

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
VERSIONS = "/api/v{version:\\d+}"
"""Start of every path of the API."""


class RestApi:
    """The routes below ``/applications/@me``, ``/gateway``, ``/guilds`` and ``/users``, and the guard of all routes."""

    def __init__(self, sim: SimState, voice: Signalling) -> None:
        self._sim = sim
        self._voice = voice

    def add_to(self, router: web.UrlDispatcher, base: str) -> None:
        add = router.add_route
        add("GET", f"{base}/gateway", self._gateway)
        add("GET", f"{base}/gateway/bot", self._gateway_bot)
        add("GET", f"{base}/users/@me", self._me)
        add("GET", f"{base}/users/@me/guilds", self._my_guilds)
        add("GET", f"{base}/users/{{user}}", self._user)
        for path in ("/oauth2/applications/@me", "/applications/@me"):
            add("GET", base + path, self._application)
        add("POST", f"{base}/users/@me/channels", self._direct)
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
        await asyncio.sleep(sim.faults.take_rest_delay(request.method, path))
        fault = sim.faults.take_rest(request.method, path)
        if fault is not None and not fault.get("taken"):
            status = int(fault.get("status", 500))
            sim.log("rest", method=request.method, path=_without_tokens(path), status=status)
            return _armed(fault, status)
        limited_s = sim.faults.take_limit(request.method, path, time.monotonic())
        if limited_s is not None:
            sim.log("rest", method=request.method, path=_without_tokens(path), status=429)
            return _too_many(Verdict(False, 1, 0, limited_s), bucket_of(request.method, path))
        public = path == "/gateway" or path.startswith(("/interactions/", "/webhooks/"))
        bot = sim.world.bot_by_authorization(request.headers.get("Authorization"))
        if bot is None and not public:
            sim.log("rest", method=request.method, path=_without_tokens(path), status=401)
            return Problem(401, 0, "401: Unauthorized").response()
        bucket = bucket_of(request.method, path)
        verdict = self._limit(bucket, bot)
        if not verdict.allowed:
            sim.log("rest", method=request.method, path=_without_tokens(path), status=429)
            return _too_many(verdict, bucket)
        try:
            response = await handler(request)
        except Problem as error:
            response = error.response()
        except web.HTTPNotFound:
            response = Problem(404, 0, "404: Not Found").response()
        except web.HTTPMethodNotAllowed:
            response = Problem(405, 0, "405: Method Not Allowed").response()
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            response = invalid(repr(error)).response()
        if fault is not None and response.status < HTTPStatus.BAD_REQUEST:
            response = _armed(fault, int(fault.get("status", 500)))
        sim.log("rest", method=request.method, path=_without_tokens(path), status=response.status)
        if not path.startswith("/interactions/"):
            _add_headers(response, verdict, bucket)
        return response

    def _limit(self, bucket: Bucket, bot: Bot | None) -> Verdict:
        now = time.monotonic()
        who = str(bot.user.id) if bot else "public"
        if bot is not None:
            overall = self._sim.limits.take_global(who, now)
            if not overall.allowed:
                return overall
        return self._sim.limits.take(f"{who}:{bucket.route}:{bucket.major}", bucket.limit, bucket.window_s, now)

    def _bot(self, request: web.Request) -> Bot:
        return asking_bot(self._sim.world, request)

    def _user_in(self, request: web.Request) -> int:
        user = request.match_info["user"]
        return self._bot(request).user.id if user == "@me" else int(user)

    # Applications and users

    async def _gateway(self, _request: web.Request) -> web.Response:
        return web.json_response({"url": self._sim.gateway_url})

    async def _gateway_bot(self, request: web.Request) -> web.Response:
        bot = self._bot(request)
        settings = self._sim.settings
        return web.json_response(
            {
                "url": self._sim.gateway_url,
                "shards": settings.shards,
                "session_start_limit": {
                    "total": settings.identifies_per_day,
                    "remaining": bot.identifies_left,
                    "reset_after": 86_400_000,
                    "max_concurrency": settings.max_concurrency or settings.shards,
                },
            }
        )

    async def _me(self, request: web.Request) -> web.Response:
        me = self._bot(request).user.payload()
        return web.json_response(me | {"mfa_enabled": False, "locale": "en-US", "verified": True, "email": None})

    async def _my_guilds(self, request: web.Request) -> web.Response:
        user = self._bot(request).user.id
        guilds = [guild for guild in self._sim.world.guilds.values() if user in guild.members]
        after, limit = int(request.query.get("after", 0)), int(request.query.get("limit", 200))
        return web.json_response(
            [
                {key: each[key] for key in ("id", "name", "icon", "features")}
                | {
                    "owner": guild.owner_id == user,
                    "permissions": str(guild.permissions(user)),
                    "approximate_member_count": len(guild.members),
                    "approximate_presence_count": len(guild.members),
                }
                for guild in guilds
                if guild.id > after
                for each in (guild.rest_payload(),)
            ][:limit]
        )

    async def _user(self, request: web.Request) -> web.Response:
        wanted = int(request.match_info["user"])
        for guild in self._sim.world.guilds.values():
            if wanted in guild.members:
                return web.json_response(guild.members[wanted].user.payload())
        raise Problem(404, 10013, "Unknown User")

    async def _application(self, request: web.Request) -> web.Response:
        return web.json_response(self._bot(request).application(self._sim.world.humans[0]))

    async def _direct(self, _request: web.Request) -> web.Response:
        raise Problem(403, 50007, "Cannot send messages to this user")

    # Guilds

    def _guild_of(self, request: web.Request) -> Guild:
        guild = self._sim.world.guilds.get(int(request.match_info["guild"]))
        if guild is None or self._bot(request).user.id not in guild.members:
            raise Problem(404, 10004, "Unknown Guild")
        return guild

    def _member_of(self, request: web.Request) -> tuple[Guild, int]:
        guild, user = self._guild_of(request), self._user_in(request)
        if user not in guild.members:
            raise Problem(404, 10007, "Unknown Member")
        return guild, user

    async def _guild(self, request: web.Request) -> web.Response:
        return web.json_response(self._guild_of(request).rest_payload())

    async def _channels(self, request: web.Request) -> web.Response:
        return web.json_response([channel.payload() for channel in self._guild_of(request).channels.values()])

    async def _roles(self, request: web.Request) -> web.Response:
        return web.json_response(self._guild_of(request).rest_payload()["roles"])

    async def _members(self, request: web.Request) -> web.Response:
        guild = self._guild_of(request)
        after, limit = int(request.query.get("after", 0)), int(request.query.get("limit", 1))
        users = sorted(user for user in guild.members if user > after)[: min(max(limit, 1), 1000)]
        return web.json_response([guild.member_payload(user) for user in users])

    async def _member(self, request: web.Request) -> web.Response:
        guild, user = self._member_of(request)
        return web.json_response(guild.member_payload(user))

    async def _edit_member(self, request: web.Request) -> web.Response:
        """Only ``channel_id`` matters here: a move or a disconnect, with MOVE_MEMBERS."""
        guild, user = self._member_of(request)
        body, _ = await read_body(request)
        if "channel_id" in body:
            await self._take_elsewhere(self._bot(request), guild, user, body["channel_id"])
        return web.json_response(guild.member_payload(user))

    async def _take_elsewhere(self, bot: Bot, guild: Guild, user: int, channel_id: str | None) -> None:
        if not guild.permissions(bot.user.id) & int(hikari.Permissions.MOVE_MEMBERS):
            raise Problem(403, 50013, "Missing Permissions")
        if user not in guild.voice_states:
            raise Problem(400, 40032, "Target user is not connected to voice.")
        channel = None if channel_id is None else guild.channels.get(int(channel_id))
        if channel_id is not None and (channel is None or channel.type not in SPOKEN):
            raise Problem(404, 10003, "Unknown Channel")
        if not self._sim.world.is_bot(user):
            await self._voice.member(guild, user, channel)
        elif channel is None:
            self._voice.remove(guild, user)
        else:
            self._voice.move(guild, user, channel)

    async def _voice_state(self, request: web.Request) -> web.Response:
        guild = self._guild_of(request)
        state = guild.voice_states.get(self._user_in(request))
        if state is None:
            raise Problem(404, 10065, "Unknown Voice State")
        return web.json_response(state.payload(guild.members[state.user_id]))

    async def _edit_voice_state(self, request: web.Request) -> web.Response:
        if self._bot(request).user.id not in self._guild_of(request).voice_states:
            raise Problem(404, 10065, "Unknown Voice State")
        return web.Response(status=204)


def _without_tokens(path: str) -> str:
    parts = path.split("/")
    return "/".join("<token>" if len(part) > 40 else part for part in parts)


def _add_headers(response: web.StreamResponse, verdict: Verdict, bucket: Bucket) -> None:
    if response.prepared:
        return
    response.headers.update(
        {
            "X-RateLimit-Limit": str(verdict.limit),
            "X-RateLimit-Remaining": str(verdict.remaining),
            "X-RateLimit-Reset": f"{time.time() + verdict.reset_after_s:.3f}",
            "X-RateLimit-Reset-After": f"{verdict.reset_after_s:.3f}",
            "X-RateLimit-Bucket": bucket.name,
        }
    )


def _armed(fault: Mapping[str, Any], status: int) -> web.Response:
    """What an armed ``rest_error`` answers."""
    if "body" in fault:
        return web.json_response(fault["body"], status=status)
    if status != 429:
        return Problem(status, 0, "armed fault").response()
    seconds = float(fault.get("retry_after_s", 1.0))
    body = {"message": "You are being rate limited.", "retry_after": seconds, "global": False, "code": 0}
    return web.json_response(body, status=429, headers={"Retry-After": f"{seconds:.3f}", "X-RateLimit-Scope": "user"})


def _too_many(verdict: Verdict, bucket: Bucket) -> web.Response:
    body = {
        "message": "You are being rate limited.",
        "retry_after": round(verdict.reset_after_s, 3),
        "global": verdict.is_global,
        "code": 0,
    }
    response = web.json_response(body, status=429)
    _add_headers(response, verdict, bucket)
    response.headers["Retry-After"] = f"{verdict.reset_after_s:.3f}"
    response.headers["X-RateLimit-Scope"] = "global" if verdict.is_global else "user"
    if verdict.is_global:
        response.headers["X-RateLimit-Global"] = "true"
    return response
