"""A client of the control API, for tests and the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp

from roost.errors import ClosedError, ResourceError

Answer = dict[str, Any]
SPEAK_LIMIT_S = 600.0


class ControlError(ResourceError):
    """The simulator refused; the message is its one line."""


class ControlClient:
    """Use as an async context manager.

    Args:
        url: ``control_url`` of the simulator's card.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=SPEAK_LIMIT_S)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: str) -> Any:
        """Any call of the control API.

        Raises:
            ControlError: The simulator refused.
            ResourceError: It is gone.
            ClosedError: The client is not open.
        """
        if self._http is None:
            raise ClosedError("the control client is used outside its async with")
        try:
            async with self._http.request(method, f"{self._url}{path}", json=body, params=query) as response:
                answer = await response.json(content_type=None)
        except ValueError:
            raise ControlError(f"{path}: {response.status}, and no JSON; the simulator's own output says why") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ResourceError(f"the simulated Discord is gone: {error}") from error
        if response.status >= 400:
            raise ControlError(f"{path}: {answer.get('error', response.status)}")
        return answer

    async def slash(
        self,
        *,
        member_id: int,
        channel_id: int,
        command: str,
        options: Mapping[str, Any] | None = None,
        wait_s: float = 5.0,
        bot: int = 0,
    ) -> Answer:
        """Run a slash command and wait for its replies."""
        body = {
            "member_id": str(member_id),
            "channel_id": str(channel_id),
            "command": command,
            "options": dict(options or {}),
            "wait_s": wait_s,
            "bot": bot,
        }
        return dict(await self.call("POST", "/slash", body))

    async def press(
        self,
        *,
        member_id: int,
        message_id: int,
        custom_id: str | None = None,
        label: str | None = None,
        values: Sequence[str] | None = None,
        wait_s: float = 5.0,
    ) -> Answer:
        """Press a button, or choose `values` in a menu; it is named by its custom_id or its label."""
        body = {
            "member_id": str(member_id),
            "message_id": str(message_id),
            "custom_id": custom_id,
            "label": label,
            "values": None if values is None else list(values),
            "wait_s": wait_s,
        }
        return dict(await self.call("POST", "/press", body))

    async def modal(
        self,
        *,
        member_id: int,
        channel_id: int,
        custom_id: str,
        values: Mapping[str, str],
        wait_s: float = 5.0,
        bot: int = 0,
    ) -> Answer:
        """Send off the form that an answer showed under ``modal``; `values` by the custom_ids of its inputs."""
        body = {
            "member_id": str(member_id),
            "channel_id": str(channel_id),
            "custom_id": custom_id,
            "values": dict(values),
            "wait_s": wait_s,
            "bot": bot,
        }
        return dict(await self.call("POST", "/modal", body))

    async def autocomplete(
        self,
        *,
        member_id: int,
        channel_id: int,
        command: str,
        options: Mapping[str, Any],
        focused: str,
        wait_s: float = 5.0,
        bot: int = 0,
    ) -> list[Answer]:
        """The choices offered while the option `focused` is being typed."""
        body = {
            "member_id": str(member_id),
            "channel_id": str(channel_id),
            "command": command,
            "options": dict(options),
            "focused": focused,
            "wait_s": wait_s,
            "bot": bot,
        }
        return list((await self.call("POST", "/autocomplete", body))["choices"])

    async def voice(self, *, member_id: int, channel_id: int | None, guild_id: int | None = None) -> None:
        """Bring a virtual member into a voice channel, or out; returns when its client is live."""
        body = {
            "member_id": str(member_id),
            "channel_id": channel_id and str(channel_id),
            "guild_id": guild_id and str(guild_id),
        }
        await self.call("POST", "/voice", body)

    async def speak(
        self,
        *,
        member_id: int,
        recording: str | None = None,
        wav: str | None = None,
        guild_id: int | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Have a member say a shipped recording or a WAV file (base64), in real time."""
        body = {
            "member_id": str(member_id),
            "recording": recording,
            "wav": wav,
            "guild_id": guild_id and str(guild_id),
            "params": dict(params or {}),
        }
        return dict(await self.call("POST", "/speak", body))

    async def kick(self, *, member_id: int, guild_id: int | None = None) -> None:
        await self.call("POST", "/kick", {"member_id": str(member_id), "guild_id": guild_id and str(guild_id)})

    async def move(self, *, member_id: int, channel_id: int) -> None:
        await self.call("POST", "/move", {"member_id": str(member_id), "channel_id": str(channel_id)})

    async def permissions(
        self,
        *,
        member_id: int | None = None,
        role_id: int | None = None,
        guild_id: int | None = None,
        channel_id: int | None = None,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
    ) -> None:
        """Change what a member (or a bot) or a role may do, by names such as ``CONNECT``.

        In a channel, else in the guild. The role @everyone has the guild's id, and is changed in channels alone.
        """
        body = {
            "member_id": member_id and str(member_id),
            "role_id": role_id and str(role_id),
            "guild_id": guild_id and str(guild_id),
            "channel_id": channel_id and str(channel_id),
            "allow": list(allow),
            "deny": list(deny),
        }
        await self.call("POST", "/permissions", body)

    async def add_member(self, name: str, *, guild_id: int | None = None, bot: bool = False) -> int:
        """Somebody new in a guild; gives their id."""
        body = {"name": name, "guild_id": guild_id and str(guild_id), "bot": bot}
        return int((await self.call("POST", "/member", body))["id"])

    async def remove_member(self, member_id: int, *, guild_id: int | None = None) -> None:
        body = {"member_id": str(member_id), "guild_id": guild_id and str(guild_id), "remove": True}
        await self.call("POST", "/member", body)

    async def time_out(self, member_id: int, seconds: float, *, guild_id: int | None = None) -> None:
        """Give a member a timeout; 0 ends it."""
        body = {"member_id": str(member_id), "guild_id": guild_id and str(guild_id), "timeout_s": seconds}
        await self.call("POST", "/member", body)

    async def role(self, **fields: Any) -> Answer:
        """``name`` (``allow``, ``booster``) adds one; ``role_id`` with ``member_id`` (``remove``) or ``delete``."""
        return dict(await self.call("POST", "/role", fields))

    async def private_thread(self, name: str, *, channel_id: int) -> int:
        """A private thread that the bots are in; gives its id."""
        return int((await self.call("POST", "/thread", {"name": name, "channel_id": str(channel_id)}))["id"])

    async def say(self, content: str, *, member_id: int, channel_id: int) -> int:
        """A member writes a message; gives its id."""
        body = {"member_id": str(member_id), "channel_id": str(channel_id), "content": content}
        return int((await self.call("POST", "/message", body))["message_id"])

    async def channel(self, **fields: Any) -> Answer:
        """``name`` (``guild_id``, ``type``) adds one; ``channel_id`` with ``user_limit`` or ``delete`` changes one."""
        return dict(await self.call("POST", "/channel", fields))

    async def server(self, *, guild_id: int | None = None, bot: int = 0, null: bool = False) -> None:
        """Give a bot in voice another voice server, or with `null` none."""
        await self.call("POST", "/server", {"guild_id": guild_id and str(guild_id), "bot": bot, "null": null})

    async def gateway(self, action: str, **fields: Any) -> Answer:
        return dict(await self.call("POST", "/gateway", {"action": action, **fields}))

    async def fault(self, name: str, *, guild_id: int | None = None, times: int = 1, **params: Any) -> int:
        """Arm a fault; gives its id."""
        body = {"name": name, "guild_id": guild_id and str(guild_id), "params": params, "times": times}
        return int((await self.call("POST", "/fault", body))["fault_id"])

    async def disarm(self, fault_id: int) -> None:
        await self.call("DELETE", f"/fault/{fault_id}")

    async def faults(self) -> Answer:
        """``known`` (name -> what it does), ``handled_by`` and ``armed``."""
        return dict(await self.call("GET", "/faults"))

    async def card(self) -> Answer:
        """What ``roost sim`` printed at its start."""
        return dict(await self.call("GET", "/card"))

    async def state(self) -> Answer:
        return dict(await self.call("GET", "/state"))

    async def messages(self, *, channel_id: int) -> list[Answer]:
        return list(await self.call("GET", "/messages", channel_id=str(channel_id)))

    async def threads(self, *, channel_id: int) -> list[Answer]:
        """Those made under messages of a channel: id and name."""
        return list(await self.call("GET", "/threads", channel_id=str(channel_id)))

    async def log(self, since: float = 0.0) -> list[Answer]:
        return list((await self.call("GET", "/log", since=str(since)))["entries"])

    async def recordings(self) -> list[Answer]:
        return list(await self.call("GET", "/recordings"))
