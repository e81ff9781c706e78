"""What Discord saw of the bot's voice, and how it is led astray."""

from __future__ import annotations

from typing import Any

from context import Rig

from roost.sim.world import VoiceState
from roost_voice.commands import join_words
from roost_voice.sessions import JoinResult


def arm(rig: Rig, name: str, times: int = 1, **params: Any) -> None:
    rig.sim.faults.arm(name, rig.guild_id, params, times)


def words(rig: Rig, result: JoinResult, asked: int = 0) -> str:
    """The reply to ``/voice join``."""
    return join_words(result, rig.channels[asked])


def seen(rig: Rig, kind: str) -> list[str | None]:
    """What Discord did with the bot's voice, as channels: `op4` or `vsu`."""
    own = [each for each in rig.sim.entries if each["kind"] == kind and each["user_id"] == str(rig.bot_id)]
    return [each["channel_id"] for each in own]


def voice_log(rig: Rig, event: str) -> list[dict[str, Any]]:
    """What the voice servers noted of the bot's connections."""
    return [each for each in rig.sim.entries if each.get("event") == event and each["user_id"] == str(rig.bot_id)]


def identified(rig: Rig) -> list[dict[str, Any]]:
    """The voice connections the bot has made."""
    return voice_log(rig, "identify")


def say_out(rig: Rig, session_id: str) -> None:
    """A voice state of the bot that says it is in no channel."""
    state = VoiceState(rig.guild_id, rig.channels[0], rig.bot_id, session_id)
    payload = state.payload(rig.guild.members[rig.bot_id], left=True)
    rig.sim.gateway.dispatch("VOICE_STATE_UPDATE", payload, guild_id=rig.guild_id)


def asked_rest(rig: Rig) -> int:
    """How often Discord was asked whether the bot is in voice."""
    return sum(
        each["kind"] == "rest" and each["method"] == "GET" and each["path"].endswith("/voice-states/@me")
        for each in rig.sim.entries
    )


def out_before_each_join(rig: Rig) -> bool:
    """Whether Discord held no session of the bot at the moment of each op 4 that joins after a leave."""
    live, left = 0, False
    for each in rig.sim.entries:
        if each["kind"] == "sessions":
            live = each["live"]
        elif each["kind"] == "op4":
            if each["channel_id"] is not None and left and live:
                return False
            left = each["channel_id"] is None
    return True
