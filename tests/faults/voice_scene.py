"""The bot in a voice channel, in company; and what the voice servers hold of it."""

from __future__ import annotations

import asyncio
from typing import Any

from context import Rig, SinkRecorder, eventually
from fault_report import TELLS

from roost_voice.moves import State
from roost_voice.session import Session


def own(rig: Rig, *events: str) -> list[dict[str, Any]]:
    """What the voice servers noted of the bot's connections, in order."""
    me = str(rig.bot_id)
    return [each for each in rig.sim.entries if each.get("event") in events and each.get("user_id") == me]


def order(rig: Rig) -> list[str]:
    """Begins and ends of the bot's voice connections."""
    return [each["event"] for each in own(rig, "identify", "resume", "close")]


def ends(rig: Rig) -> list[dict[str, Any]]:
    """How the bot's voice connections ended."""
    return own(rig, "close")


def connections(rig: Rig) -> int:
    """The bot's voice connections, at the voice servers."""
    assert rig.sim.part is not None
    state = rig.sim.part.state()
    return int(state["voice_ws"] - state["voice_ws_virtual"])


async def live_again(rig: Rig, generation: int) -> None:
    """Wait until the session is live in this generation or a later one."""

    def done() -> bool:
        session = rig.manager.session(rig.guild_id)
        live = rig.manager.state(rig.guild_id) is State.LIVE
        return live and session is not None and session.generation >= generation

    await eventually(done)


async def company(rig: Rig, channel: int, member: int = 0) -> SinkRecorder:
    """Have a member who agreed in a channel; gives what will be heard."""
    sink = rig.recorder.sink = rig.recorder.sink or SinkRecorder()
    await rig.ctx.consent.agree(rig.guild_id, rig.members[member])
    await rig.sim.voice.member(rig.guild, rig.members[member], rig.guild.channels[rig.channels[channel]])
    return sink


def encryption(rig: Rig) -> dict[str, Any]:
    """The bot's encryption, as the voice server sees it; empty while it has no session there."""
    assert rig.sim.part is not None
    sessions = rig.sim.part.state()["voice_sessions"]
    return next((each["dave"] for each in sessions if each["user_id"] == str(rig.bot_id)), {})


def encrypted(rig: Rig, session: Session) -> bool:
    """Whether the end-to-end encryption stands: by the driver's word, or else by the server's."""
    return session.dave_state == "active" if TELLS else bool(encryption(rig).get("in_group"))


def epochs(rig: Rig, session: Session) -> int:
    """How often the keys have changed, by the same word."""
    return session.stats().link.dave_epochs if TELLS else int(encryption(rig).get("epochs", 0))


async def hears(rig: Rig, sink: SinkRecorder, member: int = 0) -> None:
    """Have a member of the bot's channel speak, and wait until the bot hears it."""
    assert rig.sim.part is not None
    speaker = rig.members[member]
    before = len(sink.frames)
    name = rig.sim.part.recordings()[0]["name"]
    speaking = asyncio.create_task(rig.sim.part.speak(rig.guild_id, speaker, wav=None, recording=name, params={}))
    try:
        await eventually(lambda: len(sink.frames) > before + 5)
        assert {frame.user_id for frame in sink.frames[before:]} == {speaker}
    finally:
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)
