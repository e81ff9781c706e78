"""The simulated REST API: channels, their messages, and the answers to interactions."""

from __future__ import annotations

import time
from typing import Any

import hikari
from aiohttp import web

from roost.sim.answers import Problem, asking_bot, read_body
from roost.sim.gateway import Gateway
from roost.sim.messages import File, Interaction, Message
from roost.sim.state import SimState
from roost.sim.validate import message_fault
from roost.sim.world import TEXT, THREAD, THREADS, Channel, Guild

REPLY, DEFERRED_REPLY, DEFERRED_UPDATE, UPDATE, CHOICES, MODAL = 4, 5, 6, 7, 8, 9


class MessageRoutes:
    """The routes below ``/channels``, ``/interactions`` and ``/webhooks``."""

    def __init__(self, sim: SimState, gateway: Gateway) -> None:
        self._sim = sim
        self._gateway = gateway

    def add_to(self, router: web.UrlDispatcher, base: str) -> None:
        router.add_post(f"{base}/interactions/{{id}}/{{token}}/callback", self._callback)
        router.add_post(f"{base}/webhooks/{{app}}/{{token}}", self._followup)
        for method in ("GET", "PATCH", "DELETE"):
            router.add_route(method, f"{base}/webhooks/{{app}}/{{token}}/messages/{{message}}", self._reply_message)
            router.add_route(method, f"{base}/channels/{{channel}}/messages/{{message}}", self._message)
        router.add_post(f"{base}/channels/{{channel}}/messages", self._post)
        router.add_get(f"{base}/channels/{{channel}}/messages", self._history)
        reactions = f"{base}/channels/{{channel}}/messages/{{message}}/reactions/{{emoji}}/@me"
        router.add_put(reactions, self._react)
        router.add_delete(reactions, self._react)
        router.add_post(f"{base}/channels/{{channel}}/messages/{{message}}/threads", self._open_thread)
        router.add_post(f"{base}/channels/{{channel}}/typing", self._typing)
        router.add_get(f"{base}/channels/{{channel}}", self._channel)

    # Interactions

    def _interaction(self, request: web.Request, *, acknowledged: bool) -> Interaction:
        interaction = self._sim.book.interactions.get(request.match_info["token"])
        if acknowledged:
            if interaction is None or not interaction.acknowledged.is_set():
                raise Problem(404, 10015, "Unknown Webhook")
            return interaction
        if interaction is None or str(interaction.id) != request.match_info["id"]:
            raise Problem(404, 10062, "Unknown interaction")
        if interaction.acknowledged.is_set():
            raise Problem(400, 40060, "Interaction has already been acknowledged.")
        if time.monotonic() - interaction.created_at > self._sim.settings.interaction_limit_s:
            raise Problem(404, 10062, "Unknown interaction")
        return interaction

    async def _callback(self, request: web.Request) -> web.Response:
        body, files = await read_body(request)
        interaction = self._interaction(request, acknowledged=False)
        kind, data = int(body["type"]), body.get("data") or {}
        if kind in (REPLY, UPDATE):
            _check(data, files, empty_allowed=kind == UPDATE)
        message = self._acknowledge(interaction, kind, data, files)
        interaction.acknowledged.set()
        self._sim.log(
            "interaction_answer",
            interaction_id=str(interaction.id),
            type=kind,
            after_s=time.monotonic() - interaction.created_at,
        )
        if request.query.get("with_response", "").lower() not in ("1", "true"):
            return web.Response(status=204)
        answer: dict[str, Any] = {"interaction": {"id": str(interaction.id), "type": interaction.kind}}
        if message is not None:
            answer["interaction"] |= {
                "response_message_id": str(message.id),
                "response_message_loading": message.loading,
                "response_message_ephemeral": message.ephemeral,
            }
            answer["resource"] = {"type": kind, "message": message.discord()}
        return web.json_response(answer)

    def _acknowledge(
        self, interaction: Interaction, kind: int, data: dict[str, Any], files: list[File]
    ) -> Message | None:
        if kind in (REPLY, DEFERRED_REPLY):
            interaction.original = self._reply(interaction, data, files, loading=kind == DEFERRED_REPLY)
        elif kind == UPDATE and interaction.source is not None:
            interaction.original = interaction.source
            self._edit(interaction.source, data, files)
        elif kind == DEFERRED_UPDATE:
            interaction.original = interaction.source
        elif kind == CHOICES:
            interaction.choices = list(data.get("choices") or [])
        elif kind == MODAL:
            interaction.modal = data
        else:
            raise Problem(400, 50035, f"Invalid Form Body: type {kind} is not a valid choice here")
        if kind not in (DEFERRED_REPLY, DEFERRED_UPDATE):
            interaction.answered.set()
        return interaction.original

    def _reply(
        self, interaction: Interaction, data: dict[str, Any], files: list[File], *, loading: bool = False
    ) -> Message:
        message = self._sim.book.post(
            interaction.channel_id,
            interaction.guild_id,
            interaction.bot.user.payload(),
            data,
            application_id=interaction.bot.application_id,
            interaction_token=interaction.token,
            files=files,
            loading=loading,
        )
        if message.ephemeral:
            message.seen_by = interaction.member_id
        interaction.replies.append(message)
        self._tell("message", "MESSAGE_CREATE", message)
        return message

    async def _followup(self, request: web.Request) -> web.Response:
        interaction = self._interaction(request, acknowledged=True)
        body, files = await read_body(request)
        _check(body, files)
        original = interaction.original
        if original is not None and original.loading:
            # The first follow-up to a deferred reply fills it in, as Discord does.
            self._edit(original, body, files)
            message = original
        else:
            message = self._reply(interaction, body, files)
        interaction.answered.set()
        return web.json_response(message.discord())

    async def _reply_message(self, request: web.Request) -> web.Response:
        interaction = self._interaction(request, acknowledged=True)
        wanted = request.match_info["message"]
        if wanted == "@original":
            message = interaction.original
        else:
            known = [*interaction.replies, *([interaction.source] if interaction.source else [])]
            message = next((each for each in known if str(each.id) == wanted), None)
        if message is None or message.id not in self._sim.book.messages:
            raise Problem(404, 10008, "Unknown Message")
        if request.method == "DELETE":
            self._delete(message)
            interaction.replies = [each for each in interaction.replies if each is not message]
            if message is interaction.original:
                interaction.original = None
            if not message.loading:  # after a deferral that is taken back an answer can still come
                interaction.answered.set()
            return web.Response(status=204)
        if request.method == "PATCH":
            body, files = await read_body(request)
            _check(body, files, empty_allowed=True)
            self._edit(message, body, files)
            interaction.answered.set()
        return web.json_response(message.discord())

    # Channels and messages

    def _place(self, request: web.Request, *needed: hikari.Permissions) -> tuple[Guild, Channel]:
        """The channel of a request, if its bot may see it and has the permissions."""
        found = self._sim.world.channel(int(request.match_info["channel"]))
        if found is None:
            raise Problem(404, 10003, "Unknown Channel")
        guild, channel = found
        permissions = guild.permissions(asking_bot(self._sim.world, request).user.id, channel)
        if not permissions & int(hikari.Permissions.VIEW_CHANNEL):
            raise Problem(403, 50001, "Missing Access")
        for each in needed:
            if not permissions & int(each):
                raise Problem(403, 50013, "Missing Permissions")
        return guild, channel

    def _found(self, request: web.Request, channel: Channel) -> Message:
        message = self._sim.book.messages.get(int(request.match_info["message"]))
        if message is None or message.channel_id != channel.id or message.ephemeral:
            raise Problem(404, 10008, "Unknown Message")
        return message

    async def _post(self, request: web.Request) -> web.Response:
        guild, channel = self._place(request)
        in_thread = channel.type in THREADS
        self._place(
            request,
            hikari.Permissions.SEND_MESSAGES_IN_THREADS if in_thread else hikari.Permissions.SEND_MESSAGES,
        )
        body, files = await read_body(request)
        if files:
            self._place(request, hikari.Permissions.ATTACH_FILES)
        _check(body, files)
        author = asking_bot(self._sim.world, request).user.payload()
        known = self._sim.book.with_nonce(author["id"], body)
        if known is not None:
            return web.json_response(known.discord())
        reference = (body.get("message_reference") or {}).get("message_id")
        if reference is not None and int(reference) not in self._sim.book.messages:
            if body["message_reference"].get("fail_if_not_exists", True):
                raise Problem(400, 50035, "Invalid Form Body: message_reference is an unknown message")
            reference = None
        message = self._sim.book.post(
            channel.id,
            guild.id,
            author,
            body,
            files=files,
            reference=int(reference) if reference is not None else None,
        )
        self._tell("message", "MESSAGE_CREATE", message)
        return web.json_response(message.discord())

    def say(self, guild: Guild, channel: Channel, user_id: int, content: str) -> Message:
        """A member writes."""
        message = self._sim.book.post(
            channel.id, guild.id, guild.members[user_id].user.payload(), {"content": content}, seen_by=None
        )
        self._tell("message", "MESSAGE_CREATE", message)
        return message

    async def _history(self, request: web.Request) -> web.Response:
        _, channel = self._place(request, hikari.Permissions.READ_MESSAGE_HISTORY)
        query = request.query
        limit = min(max(int(query.get("limit", 50)), 1), 100)
        after, before = int(query.get("after", 0)), int(query.get("before", 1 << 63))
        rows = [each for each in self._sim.book.in_channel(channel.id) if after < each.id < before]
        rows = rows[:limit] if "after" in query else rows[-limit:]
        return web.json_response([message.discord() for message in reversed(rows)])

    async def _message(self, request: web.Request) -> web.Response:
        _, channel = self._place(request)
        message = self._found(request, channel)
        own = message.author["id"] == str(asking_bot(self._sim.world, request).user.id)
        if request.method == "DELETE":
            if not own:
                self._place(request, hikari.Permissions.MANAGE_MESSAGES)
            self._delete(message)
            return web.Response(status=204)
        if request.method == "PATCH":
            if not own:
                raise Problem(403, 50005, "Cannot edit a message authored by another user")
            body, files = await read_body(request)
            _check(body, files, empty_allowed=True)
            self._edit(message, body, files)
        return web.json_response(message.discord())

    async def _react(self, request: web.Request) -> web.Response:
        guild, channel = self._place(request, hikari.Permissions.READ_MESSAGE_HISTORY)
        message, bot = self._found(request, channel), asking_bot(self._sim.world, request)
        added = request.method == "PUT"
        if added:
            self._place(request, hikari.Permissions.ADD_REACTIONS)
        name, _, emoji_id = request.match_info["emoji"].partition(":")
        emoji = {"id": emoji_id or None, "name": name}
        self._sim.log("reaction", message_id=str(message.id), emoji=name, added=added)
        data = {
            "user_id": str(bot.user.id),
            "channel_id": str(channel.id),
            "message_id": str(message.id),
            "guild_id": str(guild.id),
            "emoji": emoji,
            "burst": False,
            "type": 0,
        }
        if added:
            data["member"] = guild.member_payload(bot.user.id)
        event = "MESSAGE_REACTION_ADD" if added else "MESSAGE_REACTION_REMOVE"
        self._gateway.dispatch(event, data, guild_id=guild.id)
        return web.Response(status=204)

    async def _typing(self, request: web.Request) -> web.Response:
        self._place(request, hikari.Permissions.SEND_MESSAGES)
        return web.Response(status=204)

    async def _open_thread(self, request: web.Request) -> web.Response:
        """A public thread under a message, with the message's id."""
        guild, channel = self._place(request, hikari.Permissions.CREATE_PUBLIC_THREADS)
        if channel.type != TEXT:
            raise Problem(400, 50024, "Cannot execute action on this channel type")
        message = self._found(request, channel)
        body, _ = await read_body(request)
        name = body.get("name")
        if not isinstance(name, str) or not 1 <= len(name) <= 100:
            raise Problem(400, 50035, "Invalid Form Body: name must be between 1 and 100 in length")
        if message.id in guild.threads:
            raise Problem(400, 160004, "A thread has already been created for this message")
        owner = asking_bot(self._sim.world, request).user.id
        thread = Channel(
            message.id,
            guild.id,
            name,
            THREAD,
            parent_id=channel.id,
            owner_id=owner,
            overwrites=channel.overwrites,
            role_overwrites=channel.role_overwrites,
        )
        guild.threads[thread.id] = thread
        self._sim.log("thread", channel_id=str(channel.id), thread_id=str(thread.id), name=name)
        self._gateway.dispatch("THREAD_CREATE", thread.payload() | {"newly_created": True}, guild_id=guild.id)
        return web.json_response(thread.payload(), status=201)

    async def _channel(self, request: web.Request) -> web.Response:
        _, channel = self._place(request)
        return web.json_response(channel.payload())

    # What everybody learns

    def _edit(self, message: Message, body: dict[str, Any], files: list[File]) -> None:
        self._sim.book.edit(message, body, files)
        self._tell("message_edit", "MESSAGE_UPDATE", message)

    def _delete(self, message: Message) -> None:
        self._sim.book.messages.pop(message.id, None)
        self._sim.log("message_delete", message_id=str(message.id), channel_id=str(message.channel_id))
        if not message.ephemeral:
            data = {
                "id": str(message.id),
                "channel_id": str(message.channel_id),
                "guild_id": str(message.guild_id),
            }
            self._gateway.dispatch("MESSAGE_DELETE", data, guild_id=message.guild_id)

    def _tell(self, kind: str, event: str, message: Message) -> None:
        self._sim.log(
            kind,
            message_id=str(message.id),
            channel_id=str(message.channel_id),
            author_id=message.author["id"],
            content=message.body.get("content"),
            ephemeral=message.ephemeral,
        )
        if not message.ephemeral:
            self._gateway.show_message(event, message)


def _check(body: dict[str, Any], files: list[File], *, empty_allowed: bool = False) -> None:
    fault = message_fault(body, files=len(files), empty_allowed=empty_allowed)
    if fault is not None:
        raise Problem(400, *fault)
