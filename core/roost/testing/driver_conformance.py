"""What every voice driver must do, as checks that run against a voice server.

A driver's tests make a `Bench` (the driver, a voice server, the delays) and run every function of `CHECKS` on it::

    @pytest.mark.parametrize("check", CHECKS, ids=check_name)
    async def test_conformance(check, bench):
        await check(bench)

A check raises `AssertionError` when the driver breaks the contract of `roost.audio`. A driver on top of another
library may not learn everything: what it cannot tell is named in ``untold``, and the checks then ask the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import logging
import math
import struct
import time
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from roost.audio import AudioFrame, Credentials, LinkClosed, LinkStats, Retry, Timing, VoiceDriver, VoiceLink
from roost.errors import VoiceError
from roost.sim.voice_part import VoicePart

GUILD, CHANNEL, BOT, ANN, BEN = 4100, 4200, 4900, 4001, 4002
DEADLINE_S = 5.0
_SESSION_ID = "conformance-session-id"


class ListeningVoice(VoicePart, Protocol):
    """A voice server whose virtual members can tell what they hear."""

    def listen(self, guild_id: int, user_id: int, listener: Callable[[int, bytes], None] | None) -> None:
        """Pass on (user id, Opus frame) of everything this member hears."""


DAVE, PACKETS, LEAVING = "dave", "packets", "leaving"
"""What a driver may be unable to tell: the state of the end-to-end encryption, packets that it drops or adds, and, to
the server, that it leaves: it breaks off instead, and the session ends with the bot's voice state."""

UNTOLD_S = 0.3
"""What the driver does with new keys follows the server's side of it by so much at most."""

DriverFactory = Callable[[Timing, Path, tuple[str, ...]], VoiceDriver]
"""(delays, authority of the server's certificate, allowed hosts) -> the driver under test."""


class RecordingEvents:
    """A `roost.audio.LinkEvents` that keeps everything and can wait for it."""

    def __init__(self) -> None:
        self.frames: list[AudioFrame] = []
        self.joined: list[int] = []
        self.left: list[int] = []
        self.spoke: list[tuple[int, bool]] = []
        self.encryption: list[tuple[int, int, str]] = []
        self.states: list[str] = []
        self._changed = asyncio.Event()

    def wants(self, user_id: int) -> bool:
        return True

    def frame(self, frame: AudioFrame) -> None:
        self.frames.append(frame)
        self._changed.set()

    def member_joined(self, user_id: int) -> None:
        self.joined.append(user_id)
        self._changed.set()

    def member_left(self, user_id: int) -> None:
        self.left.append(user_id)
        self._changed.set()

    def speaking(self, user_id: int, on: bool) -> None:
        self.spoke.append((user_id, on))
        self._changed.set()

    def dave(self, version: int, epoch: int, state: str) -> None:
        self.encryption.append((version, epoch, state))
        self._changed.set()

    def state(self, name: str) -> None:
        self.states.append(name)
        self._changed.set()

    @property
    def encrypted(self) -> bool:
        """Whether the end-to-end encryption stands."""
        return bool(self.encryption) and self.encryption[-1][2] == "active"

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition over these events holds."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"did not happen: {what} (states {self.states}, dave {self.encryption})") from None


class ConformanceHost:
    """The rest of the simulated Discord, as far as a voice server needs it."""

    def __init__(self) -> None:
        self._armed: dict[str, list[Mapping[str, Any]]] = {}
        self.open: dict[int, int] = {}
        self.most_sessions = 0
        self.stages: set[int] = set()
        """Channels whose calls are not end-to-end encrypted."""

    def arm(self, name: str, *, times: int = 1, **params: Any) -> None:
        """Let a fault of the voice server happen."""
        self._armed.setdefault(name, []).extend([params] * times)

    def armed(self, name: str) -> bool:
        """Whether a fault of this name has not happened yet."""
        return bool(self._armed.get(name))

    def disarm(self) -> None:
        """Forget the faults that have not happened."""
        self._armed.clear()

    def log(self, kind: str, **fields: Any) -> None:
        pass

    def voice_identified(self, guild_id: int, user_id: int, connection_id: int) -> None:
        if user_id == BOT:
            self.open[connection_id] = guild_id
            self.most_sessions = max(self.most_sessions, len(self.open))

    def voice_closed(self, guild_id: int, user_id: int, connection_id: int, code: int | None) -> None:
        self.open.pop(connection_id, None)

    def take_fault(self, name: str, guild_id: int | None) -> Mapping[str, Any] | None:
        armed = self._armed.get(name)
        return armed.pop(0) if armed and guild_id in (GUILD, None) else None

    def is_stage(self, channel_id: int) -> bool:
        return channel_id in self.stages

    def is_bot(self, user_id: int) -> bool:
        return user_id == BOT


class Bench:
    """One driver and one running voice server.

    Args:
        make_driver: Makes the driver under test.
        voice: A started voice server.
        host: The host it was started with.
        timing: The delays; scaled ones keep the checks short.
        untold: What the driver cannot tell.
    """

    def __init__(
        self,
        make_driver: DriverFactory,
        voice: ListeningVoice,
        host: ConformanceHost,
        timing: Timing,
        untold: Collection[str] = (),
    ) -> None:
        self.untold = frozenset(untold)
        self.voice = voice
        self.host = host
        self.timing = timing
        self.driver = make_driver(timing, voice.ca_file, ("localhost", "127.0.0.1"))

    def credentials(self) -> Credentials:
        """A fresh ticket for the bot; earlier ones are void."""
        ticket = self.voice.allocate(GUILD, CHANNEL, BOT, _SESSION_ID)
        return Credentials(GUILD, CHANNEL, BOT, _SESSION_ID, ticket.token, ticket.endpoint)

    @contextlib.asynccontextmanager
    async def link(self) -> AsyncIterator[tuple[VoiceLink, RecordingEvents]]:
        """A live link of the bot."""
        events = RecordingEvents()
        async with self.driver.open(self.credentials(), events) as link:
            yield link, events

    async def join(self, *users: int) -> None:
        for user in users:
            await self.voice.member_join(GUILD, CHANNEL, user, f"session-{user}")

    def hear(self, user: int) -> list[tuple[int, bytes]]:
        """A list that fills with what this member hears."""
        heard: list[tuple[int, bytes]] = []
        self.voice.listen(GUILD, user, lambda who, opus: heard.append((who, opus)))
        return heard

    async def speak(self, user: int, seconds: float = 0.2, **params: Any) -> dict[str, Any]:
        """Have a member speak, with the simulator's parameters for it."""
        return await self.voice.speak(GUILD, user, wav=tone(seconds), recording=None, params=params)

    def tells(self, what: str) -> bool:
        """Whether the driver can tell of it."""
        return what not in self.untold

    async def encrypted(self, events: RecordingEvents) -> None:
        """Wait until the bot's end-to-end encryption stands: by the driver's word, or else by the server's."""
        if self.tells(DAVE):
            await events.until(lambda: events.encrypted, "encryption")
        else:
            await self.settled(lambda: any(each["dave"]["in_group"] for each in self.sessions()), "the bot is a member")
            await asyncio.sleep(UNTOLD_S)

    def epochs(self, link: VoiceLink) -> int:
        """How often the keys have changed: by the driver's word, or else by the server's."""
        return link.stats().dave_epochs if self.tells(DAVE) else int(self.sessions()[0]["dave"]["epochs"])

    def sessions(self) -> list[dict[str, Any]]:
        """The bot's sessions as the server sees them, those that it could resume too."""
        sessions = self.voice.state()["voice_sessions"]
        return [session for session in sessions if int(session["user_id"]) == BOT]

    def gone(self) -> bool:
        """Whether the bot has left: it has said so, or where the driver cannot, it is no longer connected."""
        held = self.sessions() if self.tells(LEAVING) else [each for each in self.sessions() if each["connection_id"]]
        return not held

    async def settled(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition on anything holds."""
        give_up_at = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < give_up_at, f"did not happen: {what}"
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def open_bench(
    make_driver: DriverFactory,
    voice: ListeningVoice,
    timing: Timing | None = None,
    untold: Collection[str] = (),
) -> AsyncIterator[Bench]:
    """Start a voice server and end it again, with everything that runs on it."""
    host = ConformanceHost()
    await voice.start(host)
    try:
        yield Bench(make_driver, voice, host, timing or Timing().scaled(0.1), untold)
    finally:
        await voice.aclose()


def tone(seconds: float) -> bytes:
    """A WAV file of two beating sines at 48 kHz."""
    samples = [
        int(6000 * (math.sin(n * 0.05) + math.sin(n * 0.0521 + n * n * 1e-7))) for n in range(int(seconds * 48_000))
    ]
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(48_000)
        out.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return file.getvalue()


# -- the checks -------------------------------------------------------------------------------------------------------


async def opens_live_and_closes(bench: Bench) -> None:
    """A link is live when opened, and nothing of it is left when closed."""
    before = _Held()
    async with bench.link() as (link, events):
        assert "live" in events.states
        assert len(bench.sessions()) == 1
        assert link.stats().mode
        started_at = time.monotonic()
    assert time.monotonic() - started_at < bench.timing.close_local_s + 0.5
    await bench.settled(bench.gone, "the server sees the bot leave")
    await before.back(bench)


async def tells_members(bench: Bench) -> None:
    """Members present and later ones are told once each, the bot never."""
    await bench.join(ANN)
    async with bench.link() as (_, events):
        await events.until(lambda: events.joined == [ANN], "Ann is told")
        await bench.join(BEN)
        await events.until(lambda: events.joined == [ANN, BEN], "Ben is told")
        await bench.voice.member_leave(GUILD, ANN)
        await events.until(lambda: events.left == [ANN], "Ann's leaving is told")


async def receives_what_is_spoken(bench: Bench) -> None:
    """Frames of a speaker arrive end-to-end decrypted, whole, in order, under the right user."""
    await bench.join(ANN, BEN)
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        heard = bench.hear(BEN)
        await bench.speak(ANN)
        await events.until(lambda: len(events.frames) == len(heard) > 5, "as many frames as Ben")
        assert [frame.opus for frame in events.frames] == [opus for _, opus in heard]
        assert {(frame.guild_id, frame.user_id) for frame in events.frames} == {(GUILD, ANN)}
        assert all(frame.lost_before == 0 for frame in events.frames)
        steps = {
            (after.rtp_timestamp - frame.rtp_timestamp) % 2**32
            for frame, after in zip(events.frames, events.frames[1:], strict=False)
        }
        assert steps == {960}
        assert (ANN, True) in events.spoke
        stats = link.stats()
        if bench.tells(DAVE):
            assert stats.frames_decrypted > 5
            assert stats.dave_version == 1
        _assert_invariant(stats)


async def drops_what_is_no_opus(bench: Bench) -> None:
    """An empty packet, and any other that is not valid Opus, is dropped; what follows is heard."""
    await bench.join(ANN)
    bad = (b"", b"\x7b\x00" + bytes(9), b"\x7b\x07" + bytes(70), b"\x79" + bytes(7))
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        told = await bench.speak(ANN, 0.4, insert=[packet.hex() for packet in bad])
        good = told["frames"] - len(bad)
        await events.until(lambda: len(events.frames) >= good, "all that is Opus")
        assert all(frame.samples for frame in events.frames)
        if bench.tells(PACKETS):
            assert link.stats().dropped == {"opus": len(bad)}
        _assert_invariant(link.stats())


async def hears_packets_of_every_length(bench: Bench) -> None:
    """Packets of 2.5 to 120 ms are frames of their own length, and none of them is taken for lost."""
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        for packet_ms in (2.5, 40, 60, 120):
            events.frames.clear()
            told = await bench.speak(ANN, 0.5, packet_ms=packet_ms)
            await events.until(lambda told=told: len(events.frames) >= told["frames"] + 5, f"{packet_ms} ms")  # type: ignore[misc]
            speech = events.frames[: told["frames"]]
            assert {frame.samples for frame in speech} == {packet_ms * 48}
            assert {frame.lost_before for frame in speech} == {0}
        assert link.stats().lost == 0


async def follows_numbers_that_jump(bench: Bench) -> None:
    """A speaker whose packet numbers jump is heard after a few packets, and only those count as lost."""
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        lost = 0
        for by in (30_000, -1400, 1400, -50):
            bench.host.arm("renumber", by=by, user_id=ANN)
            await bench.settled(lambda: not bench.host.armed("renumber"), "numbers jump")
            heard = len(events.frames)
            told = await bench.speak(ANN, 0.4)
            await events.until(lambda told=told, heard=heard: len(events.frames) >= heard + told["frames"] + 2, f"{by}")  # type: ignore[misc]
            assert link.stats().lost - lost <= 3, by
            lost = link.stats().lost


async def hears_a_member_whose_other_client_leaves(bench: Bench) -> None:
    """A second client of a member comes and goes; what the first one sends is heard without a gap."""
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        talk = asyncio.ensure_future(bench.speak(ANN, 1.5))
        try:
            await events.until(lambda: len(events.frames) > 10, "frames")
            bench.host.arm("second_client", member=ANN)
            told = await talk
        finally:
            talk.cancel()
        await events.until(lambda: len(events.frames) >= told["frames"] + 5, "all frames")
        assert ANN not in events.left or not bench.tells(DAVE)
        assert link.stats().lost == 0


async def sends_media_to_public_addresses_only(bench: Bench) -> None:
    """A voice server that names an address of somebody's own network for media is refused."""
    for ip in ("169.254.169.254", "10.0.0.1", "127.0.0.2", "224.0.0.251"):
        bench.host.arm("odd_ready", times=5, ip=ip)
        error = await _refused(bench, bench.credentials())
        bench.host.disarm()
        assert isinstance(error, VoiceError), f"{ip}: opened all the same"
        assert not error.retryable
        await bench.settled(bench.gone, "the server sees the bot leave")


async def does_not_beat_as_fast_as_it_is_asked(bench: Bench) -> None:
    """A voice gateway that asks for a heartbeat every millisecond does not get a thousand a second."""
    bench.host.arm("odd_hello", interval=1)
    await bench.join(ANN)
    async with bench.link() as (_, events):
        await bench.encrypted(events)
        beats, began_s = bench.sessions()[0]["heartbeats"], time.monotonic()
        await bench.speak(ANN, 1.0)
        most = 2 + (time.monotonic() - began_s) / bench.timing.heartbeat_min_s
        assert bench.sessions()[0]["heartbeats"] - beats <= most
        await events.until(lambda: len(events.frames) > 5, "frames")


async def hears_two_at_once(bench: Bench) -> None:
    """Two who speak at once are kept apart."""
    await bench.join(ANN, BEN)
    async with bench.link() as (_, events):
        await bench.encrypted(events)
        await asyncio.gather(bench.speak(ANN), bench.speak(BEN))
        await events.until(lambda: {ANN, BEN} == {frame.user_id for frame in events.frames}, "both are heard")
        assert len({frame.ssrc for frame in events.frames}) == 2


async def is_heard(bench: Bench) -> None:
    """What the bot sends arrives at a member, encrypted, in order; the end is marked by silence."""
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        heard = bench.hear(ANN)
        frames = [b"\x78" + bytes([number]) * 30 for number in range(10)]
        for frame in frames:
            link.send_opus(frame)
        link.set_speaking(False)
        await bench.settled(lambda: len(heard) >= 15, "ten frames and five of silence")
        assert [opus for _, opus in heard[:10]] == frames
        assert {who for who, _ in heard} == {BOT}
        assert {opus for _, opus in heard[10:]} == {b"\xf8\xff\xfe"}
        assert link.stats().packets_sent == 15 or not bench.tells(PACKETS)


async def follows_key_changes(bench: Bench) -> None:
    """Speech is understood after a member joins and after one leaves."""
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        first = bench.epochs(link)
        await bench.join(BEN)
        await bench.settled(lambda: bench.epochs(link) > first, "a new epoch for Ben")
        await bench.encrypted(events)
        await bench.speak(BEN)
        await events.until(lambda: any(frame.user_id == BEN for frame in events.frames), "Ben is heard")
        second = bench.epochs(link)
        await bench.voice.member_leave(GUILD, BEN)
        await bench.settled(lambda: bench.epochs(link) > second, "a new epoch without Ben")
        await bench.encrypted(events)
        heard = len(events.frames)
        await bench.speak(ANN)
        await events.until(lambda: len(events.frames) > heard + 5, "Ann is heard")
        assert {frame.user_id for frame in events.frames[heard:]} == {ANN}


async def resumes(bench: Bench) -> None:
    """After 4015 the session goes on: no end, the same stream, frames as before."""
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        ssrc = bench.sessions()[0]["ssrc"]
        waiter = asyncio.ensure_future(link.wait_closed())
        try:
            events.states.clear()
            bench.host.arm("close", code=4015)
            await events.until(lambda: "live" in events.states, "live again")
            assert link.stats().resumes == 1
            assert [session["ssrc"] for session in bench.sessions()] == [ssrc]
            await bench.speak(ANN)
            await events.until(lambda: len(events.frames) > 5, "frames after the resume")
            assert not waiter.done()
            assert bench.host.most_sessions == 1
        finally:
            waiter.cancel()


async def survives_a_reset(bench: Bench) -> None:
    """A connection that breaks off without a word is resumed as well."""
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        events.states.clear()
        bench.host.arm("reset_tcp")
        await events.until(lambda: "live" in events.states, "live again")
        assert link.stats().resumes == 1


async def reports_a_failed_resume(bench: Bench) -> None:
    """A resume that is refused or unanswered ends the link with RESUME_FAILED, in time."""
    for fault in ("refuse_resume", "mute_resume"):
        async with bench.link() as (link, _):
            bench.host.arm(fault)
            bench.host.arm("close", code=4015)
            async with asyncio.timeout(bench.timing.resume_s + DEADLINE_S):
                end = await link.wait_closed()
            assert end.retry is Retry.RESUME_FAILED, (fault, end)
            assert end.reason


ENDINGS: dict[int, Retry] = {
    4001: Retry.REJOIN,
    4002: Retry.REJOIN,
    4003: Retry.REJOIN,
    4004: Retry.REJOIN,
    4005: Retry.REJOIN,
    4006: Retry.REJOIN,
    4011: Retry.REJOIN,
    4012: Retry.REJOIN,
    4014: Retry.AWAIT_SERVER,
    4016: Retry.REJOIN,
    4017: Retry.STOP,
    4020: Retry.REJOIN,
    4021: Retry.STOP,
    4022: Retry.AWAIT_SERVER,
}
"""What each close code means for a live link's owner; codes that are resumed have checks of their own."""


async def reports_endings(bench: Bench) -> None:
    """Every close code ends the link with the decision of the contract."""
    for code, retry in ENDINGS.items():
        async with bench.link() as (link, _):
            bench.voice.end(GUILD, BOT, code)
            async with asyncio.timeout(DEADLINE_S):
                end = await link.wait_closed()
        assert (end.code, end.retry) == (code, retry), end
        assert end.reason
        assert (end.cooldown_s > 0) == (code == 4021)


async def reports_an_unknown_ending(bench: Bench) -> None:
    """A close code that nobody knows is worth a new signalling, with or without a resume before it."""
    async with bench.link() as (link, _):
        bench.voice.end(GUILD, BOT, 4099)
        async with asyncio.timeout(DEADLINE_S):
            end = await link.wait_closed()
    assert end.retry in (Retry.REJOIN, Retry.RESUME_FAILED), end


async def fails_to_open_in_time(bench: Bench) -> None:
    """A handshake that stops anywhere raises `VoiceError` with the end, in time, and leaves nothing."""
    stops: list[tuple[str, dict[str, Any], Retry]] = [
        ("mute_hello", {}, Retry.REJOIN),
        ("mute_ready", {}, Retry.REJOIN),
        ("drop_discovery", {"n": 10_000}, Retry.REJOIN),
        ("mute_session_description", {}, Retry.REJOIN),
        ("no_common_mode", {}, Retry.STOP),
        ("bad_key_length", {}, Retry.STOP),
        ("refuse_identify", {"code": 4006}, Retry.REJOIN),
        ("refuse_identify", {"code": 4017}, Retry.STOP),
        ("refuse_identify", {"code": 4014}, Retry.AWAIT_SERVER),
    ]
    before = _Held()
    for fault, params, retry in stops:
        bench.host.arm(fault, times=5, **params)  # more than a driver tries
        error = await _refused(bench, bench.credentials())
        bench.host.disarm()
        assert isinstance(error, VoiceError), f"{fault}: opened all the same"
        cause = error.__cause__
        assert isinstance(cause, LinkClosed), (fault, error)
        assert cause.end.retry is retry, (fault, cause.end)
        assert error.retryable == (retry is not Retry.STOP)
        await bench.settled(bench.gone, f"{fault}: the server sees the bot leave")
    await before.back(bench)


async def survives_lost_and_forged_discovery(bench: Bench) -> None:
    """Discovery is asked again, and only the true answer is believed."""
    bench.host.arm("drop_discovery", n=2)
    bench.host.arm("forge_discovery")
    await bench.join(ANN)
    async with bench.link() as (_, events):
        await bench.encrypted(events)
        await bench.speak(ANN)
        await events.until(lambda: len(events.frames) > 5, "frames")


async def leaves_nothing_when_cancelled(bench: Bench) -> None:
    """Cancelled at any moment of opening, a link leaves no task, no socket, no session."""

    async def open_and_stay() -> None:
        async with bench.link():
            await asyncio.Event().wait()

    before = _Held()
    for steps in [*range(12), *range(12, 60, 6), *range(60, 200, 20)]:
        task = asyncio.ensure_future(open_and_stay())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=DEADLINE_S)
        assert done, f"after {steps} steps: the cancelled open did not end"
        assert task.cancelled(), f"after {steps} steps: {task!r}"
    await bench.settled(bench.gone, "the server sees the bot leave")
    await before.back(bench)


async def leaves_nothing_when_cancelled_in_a_state(bench: Bench) -> None:
    """Cancelled at the moment it enters a state, whichever, a link leaves nothing."""
    seen = RecordingEvents()
    async with bench.driver.open(bench.credentials(), seen):
        pass
    before = _Held()
    for name in dict.fromkeys(seen.states):
        events = RecordingEvents()

        async def open_and_stay(events: RecordingEvents = events) -> None:
            async with bench.driver.open(bench.credentials(), events):
                await asyncio.Event().wait()

        task = asyncio.ensure_future(open_and_stay())
        if name in ("ended", "live"):
            await events.until(lambda events=events: "live" in events.states, "live")  # type: ignore[misc]
        else:
            await events.until(lambda events=events, name=name: name in events.states, name)  # type: ignore[misc]
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=DEADLINE_S)
        assert done, f"in {name}: the cancelled open did not end"
        await bench.settled(bench.gone, f"in {name}: the server sees the bot leave")
    await before.back(bench)


async def closes_when_cancelled_again(bench: Bench) -> None:
    """A cancellation that comes while the link is being closed does not stop it from closing."""
    before = _Held()
    for steps in range(6):
        live = asyncio.Event()

        async def stay(live: asyncio.Event = live) -> None:
            async with bench.link():
                live.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(stay())
        await live.wait()
        task.cancel()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=DEADLINE_S)
        assert task.done()
    await bench.settled(bench.gone, "the server sees the bot leave")
    await before.back(bench)


async def takes_no_new_credentials_in_place(bench: Bench) -> None:
    """`update` is True for the same credentials; a new token or server is never put into an old session."""
    cred = bench.credentials()
    async with bench.driver.open(cred, RecordingEvents()) as link:
        assert await link.update(cred)
        assert not await link.update(bench.credentials())


async def hears_nobody_in_the_name_of_others(bench: Bench) -> None:
    """What a member has not encrypted end to end is not taken for theirs, and does not disturb what is."""
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        await bench.speak(ANN)
        await events.until(lambda: len(events.frames) > 5, "Ann is heard")
        bench.host.arm("forged_media", count=30)
        await bench.settled(lambda: sum(link.stats().dropped.values()) >= 30, "all are dropped")
        heard = len(events.frames)
        await bench.speak(ANN)
        await events.until(lambda: len(events.frames) > heard + 5, "Ann is heard again")
        assert not [frame for frame in events.frames if b"forged" in frame.opus]


async def keeps_count_of_damage(bench: Bench) -> None:
    """Loss and malformed datagrams raise nothing; every packet is a frame or counted under a reason."""
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        bench.host.arm("udp_loss", percent=25)
        bench.host.arm("malformed_rtp", count=80)
        await bench.speak(ANN, 0.6)
        if bench.tells(PACKETS):
            await bench.settled(lambda: sum(link.stats().dropped.values()) > 20, "drops are counted")
        await events.until(lambda: len(events.frames) > 5, "what came through is heard")
        _assert_invariant(link.stats())
        assert link.stats().frames_out == len(events.frames)


async def repairs_its_encryption(bench: Bench) -> None:
    """A damaged commit or welcome is answered with op 31, and the group is entered again."""
    await bench.join(ANN)
    bench.host.arm("flip_welcome")
    bench.host.arm("flip_commit")
    async with bench.link() as (link, events):
        if bench.tells(DAVE):
            await events.until(lambda: any(state == "recovering" for _, _, state in events.encryption), "recovery")
        await bench.encrypted(events)
        await bench.speak(ANN)
        await events.until(lambda: len(events.frames) > 5, "frames")
        assert not bench.tells(DAVE) or link.stats().frames_decrypted > 5


async def refuses_to_lose_encryption(bench: Bench) -> None:
    """A call that stops being end-to-end encrypted is left."""
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        bench.host.arm("downgrade_dave")
        async with asyncio.timeout(DEADLINE_S):
            end = await link.wait_closed()
        assert end.retry is Retry.STOP
        assert "encrypt" in end.reason


async def stays_in_a_stage_without_encryption(bench: Bench) -> None:
    """A call that never was encrypted is opened in a stage, and nowhere else."""
    bench.host.stages.add(CHANNEL)
    await bench.join(ANN)
    error = await _refused(bench, bench.credentials())
    assert error is not None
    assert not error.retryable
    events = RecordingEvents()
    stage = dataclasses.replace(bench.credentials(), stage=True)
    async with bench.driver.open(stage, events) as link:
        await bench.speak(ANN)
        await events.until(lambda: events.frames != [], "frames")
        assert link.stats().dave_version == 0
        _assert_invariant(link.stats())


async def calls_allowed_hosts_only(bench: Bench) -> None:
    """A server address outside the allowed hosts is refused before anything is sent to it."""
    cred = bench.credentials()
    for address in (
        "127.0.0.2:443",
        "example.org",
        "localhost.example.org:1",
        "localhost:99999",
        "localhost:0",
        "user@localhost",
        "",
    ):
        other = Credentials(GUILD, CHANNEL, BOT, cred.session_id, cred.token, address)
        assert isinstance(await _refused(bench, other), VoiceError), f"{address!r} was called"


async def keeps_secrets(bench: Bench) -> None:
    """Neither token nor session id shows in a log record, an error or a repr."""
    records: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage() + str(record.exc_info))

    root, keep = logging.getLogger("roost"), Keep()
    level = root.level
    root.addHandler(keep)
    root.setLevel(logging.DEBUG)
    cred = bench.credentials()
    try:
        async with bench.driver.open(cred, RecordingEvents()) as link:
            records.append(repr(link) + repr(cred) + repr(link.stats()))
            bench.voice.end(GUILD, BOT, 4006)
            records.append(repr(await link.wait_closed()))
        error = await _refused(bench, cred)
        assert isinstance(error, VoiceError), "a void ticket was accepted"
        records.append(f"{error!r} {error.__cause__!r}")
    finally:
        root.removeHandler(keep)
        root.setLevel(level)
    text = "\n".join(records)
    assert cred.token not in text
    assert cred.session_id not in text


Check = Callable[[Bench], Awaitable[None]]

CHECKS: tuple[Check, ...] = (
    opens_live_and_closes,
    tells_members,
    receives_what_is_spoken,
    drops_what_is_no_opus,
    hears_packets_of_every_length,
    follows_numbers_that_jump,
    hears_a_member_whose_other_client_leaves,
    sends_media_to_public_addresses_only,
    does_not_beat_as_fast_as_it_is_asked,
    hears_two_at_once,
    is_heard,
    follows_key_changes,
    resumes,
    survives_a_reset,
    reports_a_failed_resume,
    reports_endings,
    reports_an_unknown_ending,
    fails_to_open_in_time,
    survives_lost_and_forged_discovery,
    leaves_nothing_when_cancelled,
    leaves_nothing_when_cancelled_in_a_state,
    closes_when_cancelled_again,
    takes_no_new_credentials_in_place,
    hears_nobody_in_the_name_of_others,
    keeps_count_of_damage,
    repairs_its_encryption,
    refuses_to_lose_encryption,
    stays_in_a_stage_without_encryption,
    calls_allowed_hosts_only,
    keeps_secrets,
)


def check_name(check: Check) -> str:
    """For a test's id."""
    return str(getattr(check, "__name__", check))


# -- inside -----------------------------------------------------------------------------------------------------------


class _Held:
    """What the process holds now, to compare with later."""

    def __init__(self) -> None:
        self._tasks = asyncio.all_tasks()
        self._sockets = self._count_sockets()

    def _count_sockets(self) -> int:
        folder = Path("/proc/self/fd")
        if not folder.is_dir():
            return 0
        count = 0
        for entry in folder.iterdir():
            with contextlib.suppress(OSError):
                count += str(entry.readlink()).startswith("socket:")
        return count

    async def back(self, bench: Bench) -> None:
        """Wait until it is as before."""
        await bench.settled(lambda: not (asyncio.all_tasks() - self._tasks), f"tasks end: {asyncio.all_tasks()}")
        await bench.settled(lambda: self._count_sockets() <= self._sockets, "sockets are closed")


async def _refused(bench: Bench, cred: Credentials) -> VoiceError | None:
    """The error with which opening fails, or None when it does not."""
    try:
        async with (
            asyncio.timeout(bench.timing.connecting_s + DEADLINE_S),
            bench.driver.open(cred, RecordingEvents()),
        ):
            return None
    except VoiceError as error:
        return error


def _assert_invariant(stats: LinkStats) -> None:
    assert stats.packets_in == stats.frames_out + sum(stats.dropped.values()), stats
