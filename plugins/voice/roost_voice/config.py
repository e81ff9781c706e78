"""The settings of the voice plugin, table ``[voice]``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from roost.config import guild_setting
from roost.entrypoints import installed_points

NATIVE = "native"
DRIVERS = "roost.voice_drivers"
"""Entry-point group of further voice drivers."""


class VoiceConfig(BaseModel):
    """Checked when the plugin is loaded; a mistake names its key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    driver: str = Field(default="native", min_length=1, description="Name of the voice driver.")
    ca_file: Path | None = Field(default=None, description="PEM file of a private authority to trust for voice.")
    allowed_hosts: tuple[str, ...] = Field(
        default=("*.discord.media",),
        description="Host names, `*.` allowed in front, that voice may connect to. Media goes to public addresses "
        "and to those named here.",
    )
    exclusive: bool = Field(
        default=True,
        description="No foreign software uses the token: voice states that this process does not own are removed.",
    )
    timing_scale: float = Field(default=1.0, gt=0, le=10, description="Factor on every delay; for tests.")
    drain_s: float = Field(default=2.0, gt=0, le=30, description="Seconds the last words have before voice is left.")
    alone_leave_s: float = guild_setting(
        default=60.0, ge=0, le=86400, description="Seconds with no human in the channel before leaving; 0 = never."
    )
    idle_s: float = Field(default=60.0, gt=0, le=86400, description="Seconds without a session until `voice_idle`.")
    follow_moves: bool = guild_setting(
        default=True, description="Stay when a moderator moves the bot; otherwise leave."
    )

    joins_per_user: int = Field(
        default=10, ge=1, le=1000, description="Joins and moves one member may ask for in a minute, over all servers."
    )
    joins_per_guild: int = Field(
        default=20, ge=1, le=1000, description="Joins and moves the members of one server may ask for in a minute."
    )
    joins_per_shard: int = Field(
        default=50,
        ge=1,
        le=1000,
        description="Joins and moves in a minute that a shard takes; members who have made none yet may go on to 85. "
        "Discord takes about 100 voice requests a minute, and leaves need room.",
    )

    def unmet(self, offered_by: Callable[[str], Collection[str]]) -> Iterator[tuple[str, str]]:
        """See `roost.schema.unmet`."""
        installed = {NATIVE, *(each.name for each in installed_points(DRIVERS))}
        if self.driver not in installed and not offered_by("voice_driver"):
            yield "driver", f"there is no voice driver called {self.driver} (there is: {', '.join(sorted(installed))})"

    @field_validator("ca_file")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value.absolute() if value is not None else None  # a plugin may change the folder of the process

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not host or "/" in host or " " in host or host == "*":
                raise ValueError(f"{host!r} is not a host name")
        return value
