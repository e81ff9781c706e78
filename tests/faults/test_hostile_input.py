"""Rows 87 and 341: packets and messages that are malformed in every way, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from context import Rig, SinkRecorder, eventually
from fault_report import TELLS, Fault
from voice_scene import encrypted

from roost_voice.moves import State, Told
from roost_voice.session import Session

pytestmark = [pytest.mark.sim, pytest.mark.fault(87)]


class Call:
    """The bot in a channel with somebody who speaks, and what it hears of them."""

    def __init__(self, rig: Rig, session: Session, sink: SinkRecorder) -> None:
        self.rig = rig
        self.session = session
        self.sink = sink

    async def strike(self, name: str, **params: Any) -> None:
        """Let the voice server send something, and wait until it is on its way."""
        self.rig.sim.faults.arm(name, self.rig.guild_id, params, 1)
        await eventually(lambda: not self.rig.sim.faults.armed())

    async def hears_more(self, more: int = 5) -> None:
        await self.sink.until(len(self.sink.frames) + more)

    @property
    def violations(self) -> dict[str, int]:
        return dict(self.session.stats().link.violations)

    @property
    def dropped(self) -> dict[str, int]:
        return dict(self.session.stats().link.dropped)

    def unharmed(self) -> None:
        """One session, one link, every packet accounted for."""
        link = self.session.stats().link
        assert self.rig.manager.state(self.rig.guild_id) is State.LIVE
        assert self.session.generation == 1
        assert encrypted(self.rig, self.session)
        assert link.packets_in == link.frames_out + sum(link.dropped.values())
        assert self.rig.most == 1


@pytest.fixture
async def call(rig: Rig) -> AsyncIterator[Call]:
    ada = rig.members[1]
    await rig.sim.voice.member(rig.guild, ada, rig.guild.channels[rig.channels[0]])
    await rig.ctx.consent.agree(rig.guild_id, ada)
    sink = rig.recorder.sink = SinkRecorder()
    result = await rig.join(0)
    assert result.told is Told.JOINED, result.reason
    session = result.session
    assert session is not None
    await eventually(lambda: session.capture_state == "on" and encrypted(rig, session))
    assert rig.sim.part is not None
    name = rig.sim.part.recordings()[0]["name"]
    talk = asyncio.create_task(rig.sim.part.speak(rig.guild_id, ada, wav=None, recording=name, params={"repeat": 20}))
    made = Call(rig, session, sink)
    try:
        await made.hears_more()
        yield made
    finally:
        talk.cancel()
        await asyncio.gather(talk, return_exceptions=True)


@pytest.mark.parametrize("seed", range(3))
async def test_malformed_packets(call: Call, fault: Fault, seed: int) -> None:
    with fault.clock(scaled=False):
        await call.strike("malformed_rtp", count=400, seed=seed)
        await eventually(lambda: sum(call.dropped.values()) > 200)
        await call.hears_more()
    # Every kind of damage under its own name.
    assert {"size", "not_rtp", "rtcp", "aead", "header", "padding", "empty"} <= set(call.dropped)
    call.unharmed()


@pytest.mark.parametrize("seed", range(3))
async def test_malformed_messages(call: Call, fault: Fault, seed: int) -> None:
    with fault.clock(scaled=False):
        await call.strike("malformed_messages", count=600, seed=seed)
        if TELLS:
            await eventually(lambda: sum(call.violations.values()) > 400)
        await call.hears_more()
    if TELLS:
        kinds = {"json", "json_depth", "shape", "frame_size", "binary_short", "binary_op", "unknown_op", "dave_text"}
        assert kinds <= set(call.violations)
        assert {"dave_proposals", "dave_commit", "dave_welcome", "dave_external_sender"} <= set(call.violations)
    assert call.session.stats().link.resumes == 0
    call.unharmed()


async def test_a_frame_that_is_no_utf8_costs_a_resume(call: Call, fault: Fault) -> None:
    with fault.clock(8.0):
        await call.strike("garbled_frame")
        await eventually(lambda: call.session.stats().link.resumes == 1)
        await call.hears_more()
    call.unharmed()


async def test_packets_from_elsewhere_are_not_even_seen(call: Call, fault: Fault) -> None:
    own = str(call.rig.bot_id)
    (address,) = {
        entry["address"] for entry in call.rig.sim.entries if entry.get("event") == "select" and entry["user_id"] == own
    }
    host, port = address.split(":")
    dice = random.Random(1)
    with fault.clock(scaled=False), contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as stranger:
        for size in range(0, 2000, 10):
            stranger.sendto(b"\x80\x78" + dice.randbytes(size), (host, int(port)))
        await call.hears_more(20)
    assert call.dropped == {}
    call.unharmed()


@pytest.mark.fault(341)
async def test_sound_that_a_member_has_not_encrypted_is_not_theirs(call: Call, fault: Fault) -> None:
    with fault.clock(scaled=False):
        await call.strike("forged_media", count=60)
        await eventually(lambda: sum(call.dropped.values()) >= 60)
        await call.hears_more()
    assert not [frame for frame in call.sink.frames if b"forged" in frame.opus]
    call.unharmed()


async def test_everything_at_once(call: Call, fault: Fault) -> None:
    waits: dict[str, Callable[[], bool]] = {
        "malformed_rtp": lambda: sum(call.dropped.values()) > 500,
        "malformed_messages": lambda: sum(call.violations.values()) > 500,
    }
    with fault.clock(scaled=False):
        for name in waits:
            call.rig.sim.faults.arm(name, call.rig.guild_id, {"count": 900, "seed": 7}, 1)
        for done in waits.values():
            await eventually(done)
        await call.hears_more()
    call.unharmed()
