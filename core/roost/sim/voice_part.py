"""The seam between the simulated Discord and its voice part, which the voice plugin ships."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from roost.sim.faults import Param


@dataclasses.dataclass(frozen=True, slots=True)
class Ticket:
    """What VOICE_SERVER_UPDATE hands out."""

    token: str
    endpoint: str
    """``host:port``."""


class SimHost(Protocol):
    """What the voice part may ask of the simulated Discord."""

    def log(self, kind: str, **fields: Any) -> None:
        """Append to the log that ``GET /log`` serves; the host adds the monotonic ``t``."""

    def voice_identified(self, guild_id: int, user_id: int, connection_id: int) -> None:
        """A voice websocket of this user has identified (or resumed)."""

    def voice_closed(self, guild_id: int, user_id: int, connection_id: int, code: int | None) -> None:
        """That websocket is closed."""

    def take_fault(self, name: str, guild_id: int | None) -> Mapping[str, Any] | None:
        """The parameters of an armed fault of this name, using up one of its times; None when there is none."""
        ...

    def is_bot(self, user_id: int) -> bool: ...

    def is_stage(self, channel_id: int) -> bool:
        """Whether the channel is a stage, whose calls are not end-to-end encrypted."""
        ...


class VoicePart(Protocol):
    """The voice gateway, UDP relay, DAVE delivery service and speaking members."""

    ca_file: Path

    async def start(self, host: SimHost) -> None: ...

    async def aclose(self) -> None: ...

    def allocate(self, guild_id: int, channel_id: int, user_id: int, session_id: str) -> Ticket:
        """A ticket for a join or move. Earlier tickets of this user in this guild become void (4006)."""
        ...

    def end(self, guild_id: int, user_id: int, code: int) -> None:
        """The user's voice state ended or moved: void their ticket and close their connection with `code`."""

    async def member_join(self, guild_id: int, channel_id: int, user_id: int, session_id: str) -> None:
        """A virtual member's client connects, through the same sockets as everybody's; returns when it is live."""

    async def member_leave(self, guild_id: int, user_id: int) -> None: ...

    async def speak(
        self, guild_id: int, user_id: int, *, wav: bytes | None, recording: str | None, params: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Send a recording in real time as Opus packets; gives ``started_at``, ``ended_at`` (monotonic), ``frames``."""
        ...

    def recordings(self) -> list[dict[str, Any]]:
        """The shipped recordings: name, text, speaker, seconds, source, license."""
        ...

    def state(self) -> dict[str, Any]:
        """``{"voice_sessions": [{guild_id, channel_id, user_id, connection_id, dave, ...}], "voice_ws", "udp"}``."""
        ...

    def faults(self) -> Mapping[str, str]:
        """The faults that can be armed here: name -> what it does."""
        ...

    def fault_params(self) -> Mapping[str, Mapping[str, Param]]:
        """The parameters of those that have some: fault -> name -> what it may be."""
        ...
