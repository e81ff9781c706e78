"""The bot's side of the speech worker: starts it, feeds it, watches it, replaces it, ends it.

The bot process never touches audio beyond moving Opus frames from the session to the worker's pipe. It keeps the
frames of speech that has not yet become text, so that a worker that dies costs time, not words.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from roost.audio import AudioFrame
from roost.errors import SpeechError
from roost.scopes import Kept, Scope
from roost.speech import Transcript
from roost_stt import child
from roost_stt.accounts import Accounts
from roost_stt.blackbox import BlackBox
from roost_stt.kept import Key
from roost_stt.ladder import CPU, Ladder
from roost_stt.partials import Partial
from roost_stt.protocol import ipc
from roost_stt.protocol.wishes import Wish, Wishes
from roost_stt.supervision import STEPS_DOWN, Cause, State, Trouble, WorkerSettings
from roost_stt.suspects import Party, Verdict

_log = logging.getLogger("roost.stt")

PIPE_LIMIT_BYTES = 4 * 1024
"""Of frames on top of what the system's pipe holds. What is above them is kept, where a withdrawal reaches it."""
REMOTE = "roost_stt.worker.engines.remote:create"
REMOTE_KEPT = ("ROOST_STT_API_KEY",)
"""What that engine alone gets of the bot's own environment."""
SEND_STEP = 25


MAX_NONSENSE = 100
"""Messages against the rules after which a worker is given up: what it says cannot be relied on."""


class _Died(Exception):
    """The worker's life is over; the text says how, `step` what the engine's ladder is asked for."""

    def __init__(self, how: str, step: str = "", cause: Cause = Cause.CRASHED) -> None:
        super().__init__(how)
        self.step = step
        self.cause = cause


@dataclasses.dataclass(frozen=True, slots=True)
class _Death:
    """How a process ended.

    Attributes:
        how: In words.
        cause: Who may have caused it.
        audio: Speaker and index of what its audio thread was at.
    """

    how: str
    cause: Cause = Cause.CRASHED
    audio: tuple[Key, int] | None = None


class SpeechWorker:
    """Supervises one worker process. Constructing it starts nothing.

    Args:
        settings: What to run.
        on_transcript: Called on the event loop with every final transcript, empty ones too; may not block or raise.
        on_trouble: Called with (what, guild id or None for all, detail); may not block or raise.
        on_partial: Called with what is certain of utterances that are not over; may not block or raise.
        on_muted: Called, once in a session, with guild and user (0: all of the guild) whose audio is not taken, because
            workers died of it; may not block or raise.
        owner_of: The owner of a server, or what stands for them where they are not known; may not block or raise.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        on_transcript: Callable[[Transcript], None],
        on_trouble: Callable[[Trouble, int | None, str], None],
        on_partial: Callable[[Partial], None] = lambda _partial: None,
        on_muted: Callable[[int, int], None] = lambda _guild_id, _user_id: None,
        *,
        owner_of: Callable[[int], int] = lambda guild_id: guild_id,
    ) -> None:
        self.settings = settings
        self._timing = settings.timing
        self._on_trouble = on_trouble
        self._accounts = Accounts(on_transcript, on_trouble, on_partial, on_muted, owner_of)
        self._state = State.STOPPED
        self._changed = asyncio.Condition()
        self._wanted = False
        self.ladder = Ladder(settings.spec, cpu_if_gpu_fails=settings.cpu_if_gpu_fails)
        self.last_pid: int | None = None
        """Of the worker that lives or lived last."""
        self._step = ""
        self._task: Kept | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._live = False
        self._failure = ""
        self._ready_info: Mapping[str, Any] = {}
        self._index = 0
        self._sent = 0
        """Index of the last frame this process was sent."""
        self._sent_ever = 0
        self._behind = asyncio.Event()
        """Set while kept frames wait because the pipe had no room."""
        self._wishes = Wishes()
        self._token = 0
        self._drains: dict[int, asyncio.Future[bool]] = {}
        self._was_ready = False
        self._answered_s = 0.0

    @property
    def state(self) -> State:
        return self._state

    @property
    def pid(self) -> int | None:
        """Of the living worker."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self, scope: Scope, timeout_s: float | None = None) -> None:
        """Have a worker running in a task owned by `scope`; returns when it is ready. Does nothing if it is.

        Raises:
            SpeechError: It could not be started in time; the reason is the worker's own where it gave one.
        """
        if self._task is None or self._task.done():
            self._wanted = True
            self._failure = ""
            self.ladder.reset()
            self._state = State.STARTING
            self._task = scope.keep(self._run, "speech-worker")
        longest_s = sum(self._timing.start_s(step) for step in self.ladder.steps) + 1
        try:
            async with asyncio.timeout(timeout_s or longest_s), self._changed:
                await self._changed.wait_for(lambda: self._state in (State.READY, State.FAILED, State.STOPPED))
        except TimeoutError:
            raise SpeechError(
                "Speech recognition did not start in time. Try again in a minute.", retryable=True
            ) from None
        if self._state is not State.READY:
            why = f"I cannot transcribe, because speech recognition did not start: {self._failure or 'it was stopped'}."
            raise SpeechError(f"{why} The owner of this bot can see more in its log.", retryable=True)

    def write(self, frame: AudioFrame) -> None:
        """Pass one frame on; never blocks.

        While the pipe is full or the worker is being replaced, what is kept is the queue: its bounds drop the oldest.
        """
        if self._state not in (State.READY, State.STARTING, State.WAITING):
            self._accounts.counters.frames_dropped += 1
            return
        now = time.monotonic()
        if self._accounts.refuses(frame.guild_id, frame.user_id, now):
            return
        if not 0 < len(frame.opus) <= ipc.MAX_OPUS_BYTES:
            self._accounts.counters.frames_dropped += 1
            return
        self._index += 1
        audio = ipc.Audio(
            self._index,
            frame.guild_id,
            frame.user_id,
            frame.rtp_timestamp,
            now,
            frame.lost_before,
            frame.opus,
        )
        self._accounts.keep(audio, self._sent)
        if self._live and not self._behind.is_set() and not self._send_audio(audio):
            self._behind.set()

    def wish(self, wish: Wish) -> None:
        """Say how a server or a person is to be understood: now, and by every later process."""
        self._wishes.put(wish)
        if self._process is not None:
            self._send(ipc.encode_json(ipc.Kind.WISH, wish.fields()))

    @property
    def runs_on(self) -> str:
        """Device and compute type, by the engine's own word; empty where it says nothing."""
        return str(self._ready_info.get("runs_on", ""))

    def is_muted(self, guild_id: int, user_id: int) -> bool:
        """Whether workers died of audio that may be this speaker's, so that theirs is not taken now."""
        return self._accounts.suspects.muted(guild_id, user_id, time.monotonic()) is not None

    @property
    def english_only(self) -> bool:
        """Whether the engine has said that it understands English alone."""
        return self._ready_info.get("multilingual") is False

    def purge(self, guild_id: int, user_id: int) -> None:
        """Forget what a speaker has said, here and in the worker; with user 0, what was said in the guild.

        No text of it comes out from this moment on.
        """
        token = self._next_token() if self._process is not None else None
        self._accounts.purge((guild_id, user_id), token, self._index)
        if token is not None:
            self._send(ipc.encode_json(ipc.Kind.PURGE, {"token": token, "guild": guild_id, "user": user_id}))

    async def purged(self, deadline: float) -> bool:
        """Wait until the worker has confirmed every purge, at most until `deadline` (event loop time)."""
        try:
            async with asyncio.timeout_at(deadline), self._changed:
                await self._changed.wait_for(lambda: not self._accounts.purging)
        except TimeoutError:
            return False
        return True

    async def drain(self, guild_id: int, deadline: float) -> bool:
        """End the open utterances of a guild and have everything said there transcribed.

        All transcripts have been handed to ``on_transcript`` when this returns True. Survives a crash of the worker.

        Args:
            guild_id: Which.
            deadline: Event loop time.
        """
        if self._task is None or self._task.done():
            return len(self._accounts.kept) == 0
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    async with self._changed:
                        await self._changed.wait_for(self._drainable)
                    if not self._live:
                        return False
                    token = self._next_token()
                    future = self._drains[token] = asyncio.get_running_loop().create_future()
                    self._send(ipc.encode_json(ipc.Kind.DRAIN, {"token": token, "guild": guild_id}))
                    try:
                        if await future:
                            return True
                    finally:
                        self._drains.pop(token, None)
        except TimeoutError:
            return False

    def _drainable(self) -> bool:
        """Whether an order to drain would arrive behind all that was said, or never."""
        return (self._live and not self._behind.is_set()) or self._state in (State.FAILED, State.STOPPED)

    def forget(self, guild_id: int) -> None:
        """Drop what was said in a guild whose session is over."""
        self.wish(Wish(guild_id))
        self._accounts.over(guild_id, time.monotonic())
        self.purge(guild_id, 0)

    async def close(self) -> None:
        """End the worker: pipe closed, then SIGKILL, then reaped. Idempotent, bounded, also when cancelled."""
        self._wanted = False
        self._live = False
        task = self._task
        if task is None:
            return
        try:
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()
            await asyncio.wait({task.task}, timeout=self._timing.exit_s)
            if not task.done():
                task.end()
                await asyncio.wait({task.task}, timeout=self._timing.reap_s)
        finally:
            if self._process is not None:
                child.kill(self._process)
            if task.done():
                self._task = None
            self._accounts.close()

    def stats(self) -> dict[str, Any]:
        """Counters since this object was made; the process's own figures are those of its last answer."""
        return {
            "state": self._state.value,
            "pid": self.pid,
            "alive": self.pid is not None,
            "ready": dict(self._ready_info),
            **self._accounts.stats(),
        }

    # ---- the life of the process

    async def _run(self) -> None:
        deaths: deque[tuple[float, frozenset[Party]]] = deque()
        """When, and whose speech may have caused it."""
        self._was_ready = False
        isolate = 0
        try:
            while self._wanted:
                await self._set_state(State.STARTING)
                death = await self._survived(after_crash=bool(deaths), isolate=isolate)
                if self._unwanted():
                    return
                now = asyncio.get_running_loop().time()
                while deaths and now - deaths[0][0] > self._timing.window_s:
                    deaths.popleft()
                if self.ladder.down(self._step, death.how):
                    # Nobody's words are to blame for a card without room, and the next worker is another one.
                    self._failure = ""
                    self._after_death(dataclasses.replace(death, how=self.ladder.why, cause=Cause.NOBODY))
                    self._on_trouble(STEPS_DOWN[self.ladder.asked], None, self.ladder.why)
                    continue
                verdict = self._after_death(death)
                isolate = verdict.isolate
                deaths.append((now, verdict.parties))
                spent = spent_of(parties for _, parties in deaths)
                if spent >= self._timing.crashes_per_window or self._failure:
                    self._failure = self._failure or death.how
                    self._accounts.give_up(self._failure)
                    await self._set_state(State.FAILED)
                    return
                self._on_trouble(Trouble.CRASHED, None, death.how)
                await self._set_state(State.WAITING)
                # One speaker or owner makes the others wait no longer with each death: `Suspects` bounds those.
                await asyncio.sleep(self._timing.backoff_s[min(spent, len(self._timing.backoff_s)) - 1])
        finally:
            if self._state is not State.FAILED:
                # What something else has cancelled is started again.
                goes_on = self._wanted and self._task is not None and not self._task.is_ending()
                self._state = State.WAITING if goes_on else State.STOPPED
            self._fail_drains()
            self._accounts.purging.clear()
            async with self._changed:
                self._changed.notify_all()

    async def _survived(self, *, after_crash: bool, isolate: int) -> _Death:
        """`_life`, whatever goes wrong in it: the supervision itself goes on."""
        try:
            return await self._life(after_crash=after_crash, isolate=isolate)
        except (OSError, MemoryError) as error:
            # Members read how it ended, so the paths that such an error may name are for the log alone.
            _log.warning(
                "the machine has no room for the speech worker (%s: %s); free disk space for temporary files, memory, "
                "processes or descriptors",
                type(error).__name__,
                error,
            )
            return _Death("the machine has no room for it", Cause.NOBODY)
        except Exception as error:  # noqa: BLE001  else there would be no captions any more, and nobody told
            _log.exception("the speech worker's supervision failed")
            return _Death(f"its supervision failed ({type(error).__name__})", Cause.NOBODY)

    def _unwanted(self) -> bool:
        return not self._wanted

    async def _life(self, *, after_crash: bool, isolate: int) -> _Death:
        """One process from start to end."""
        with contextlib.closing(BlackBox.create()) as box:
            how, cause = await self._supervise(box, after_crash=after_crash, isolate=isolate)
            return _Death(how, cause, box.read())

    async def _supervise(self, box: BlackBox, *, after_crash: bool, isolate: int) -> tuple[str, Cause]:
        settings, spec = self.settings, self.ladder.spec
        process = await child.spawn(
            settings.threads,
            kept=REMOTE_KEPT if spec.factory == REMOTE else (),
            more=settings.environment if spec.needs_gpu else {},
            box=box.fd,
        )
        self._process, self.last_pid, self._step = process, process.pid, ""
        if process.stdin is not None:
            process.stdin.transport.set_write_buffer_limits(high=PIPE_LIMIT_BYTES)
        self._sent = 0
        self._accounts.counters.starts += 1
        how, cause = "", Cause.CRASHED
        try:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(child.forward_log(process), name="stt-stderr")
                    self._send(
                        ipc.encode_json(ipc.Kind.HELLO, self._greeting(after_crash=after_crash, isolate=isolate))
                    )
                    ready = asyncio.Event()
                    group.create_task(self._read(process, ready), name="stt-read")
                    try:
                        async with asyncio.timeout(self._timing.start_s(spec)):
                            await ready.wait()
                    except TimeoutError:
                        step = CPU if spec.needs_gpu else ""
                        raise _Died("it was not ready in time", step, Cause.NOBODY) from None
                    for wish in self._wishes:
                        self._send(ipc.encode_json(ipc.Kind.WISH, wish.fields()))
                    await self._catch_up(process)
                    self._behind.clear()
                    self._live = True
                    group.create_task(self._feed(process), name="stt-feed")
                    await self._set_state(State.READY)
                    await self._watch()
            except* _Died as group_error:
                how = "; ".join(str(error) for error in group_error.exceptions)
                died = [error for error in group_error.exceptions if isinstance(error, _Died)]
                self._step = next((error.step for error in died if error.step), "")
                cause = next((error.cause for error in died if error.cause is not Cause.CRASHED), Cause.CRASHED)
        finally:
            self._live = False
            try:
                await child.end(process, self._timing.reap_s)
            finally:
                self._process = None
                self._accounts.process_over()
        returncode = process.returncode
        return f"{how} (status {returncode})" if returncode is not None else how, cause

    def _greeting(self, *, after_crash: bool, isolate: int) -> dict[str, Any]:
        spec = self.ladder.spec
        return {
            "factory": spec.factory,
            "config": dict(spec.config),
            "needs_gpu": spec.needs_gpu,
            "lease": self.settings.lease,
            "endpointing": dataclasses.asdict(self.settings.endpointing),
            "decoder_idle_s": self._timing.decoder_idle_s,
            "bot_silent_s": self._timing.bot_silent_s,
            # After a crash somebody waits. A card is tried first all the same: there may be no room on it.
            "warm_up": spec.needs_gpu or not after_crash,
            # After a crash one at a time, so that the next one can be put on the right utterance's account.
            "max_batch": 1 if after_crash else self.settings.max_batch,
            # The audio that may have been the cause comes first, with the engine at rest.
            "calm_after": isolate,
            # A draft may have been what it died of. Without drafts it is the utterance, and that is given up in time.
            "draft_rest_s": self._accounts.draft_rest_s(self._timing.window_s) if after_crash else 0.0,
        }

    async def _catch_up(self, process: asyncio.subprocess.Process) -> None:
        """Send what is kept and not yet sent, in the order of its arrival; returns with nothing left unsent."""
        assert process.stdin is not None
        while waiting := self._accounts.kept.after(self._sent):
            for first in range(0, len(waiting), SEND_STEP):
                try:
                    async with asyncio.timeout(self._timing.silent_s):
                        await process.stdin.drain()
                except ConnectionError:
                    raise _Died("it died while it was told what it had missed") from None
                except TimeoutError:
                    raise _Died("it stopped reading") from None
                for audio in waiting[first : first + SEND_STEP]:
                    # Consent may have been taken back meanwhile.
                    if self._accounts.kept.holds(audio) and not self._send_audio(audio, wait=True):
                        raise _Died("its pipe was closed")
            self._sent = max(self._sent, waiting[-1].index)

    async def _feed(self, process: asyncio.subprocess.Process) -> None:
        """Catch up whenever the pipe was full, for ever."""
        while True:
            await self._behind.wait()
            await self._catch_up(process)
            async with self._changed:
                self._behind.clear()
                self._changed.notify_all()

    async def _watch(self) -> None:
        """Ask for a sign of life, for ever."""
        loop = asyncio.get_running_loop()
        self._answered_s = loop.time()
        while True:
            self._send(ipc.encode_json(ipc.Kind.PING, {"token": self._next_token()}))
            await asyncio.sleep(self._timing.heartbeat_s)
            if loop.time() - self._answered_s > self._timing.silent_s:
                raise _Died("it stopped answering", cause=Cause.SILENT)

    async def _read(self, process: asyncio.subprocess.Process, ready: asyncio.Event) -> None:
        assert process.stdout is not None
        parser = ipc.FrameParser()
        nonsense = 0
        while True:
            data = await process.stdout.read(1 << 16)
            if not data:
                raise _Died("it died")
            for message in parser.feed(data):
                fields = message if isinstance(message, ipc.Violation) else ipc.decode_json(message.body)
                if isinstance(message, ipc.Violation) or isinstance(fields, ipc.Violation):
                    reason = fields.reason if isinstance(fields, ipc.Violation) else ""
                else:
                    reason = await self._taken(message.kind, fields, ready)
                if reason:
                    nonsense += 1
                    self._accounts.counters.nonsense += 1
                    _log.warning("a message of the speech worker was dropped: %s", reason)
                if nonsense > MAX_NONSENSE:
                    raise _Died(f"it sent {nonsense} messages that break the rules")

    async def _taken(self, kind: ipc.Kind, fields: dict[str, Any], ready: asyncio.Event) -> str:
        """Act on a message; returns what is wrong with it, or nothing.

        Raises:
            _Died: The process is at its end.
        """
        try:
            await self._take(kind, fields, ready)
        except _Died:
            raise
        except Exception as error:  # noqa: BLE001  one message, ours to survive
            _log.debug("%s", kind.name, exc_info=error)
            return f"{kind.name} {type(error).__name__}"
        return ""

    async def _take(self, kind: ipc.Kind, fields: dict[str, Any], ready: asyncio.Event) -> None:
        accounts = self._accounts
        if kind is ipc.Kind.TRANSCRIPT:
            accounts.transcript(fields)
        elif kind is ipc.Kind.PARTIAL:
            accounts.partial(fields)
        elif kind is ipc.Kind.STARTED:
            accounts.started(fields)
        elif kind is ipc.Kind.PONG:
            self._answered_s = asyncio.get_running_loop().time()
            accounts.facts(fields)
            accounts.needs(fields)
            if fields["busy_s"] > self._timing.busy_s:
                raise _Died("an inference hangs", cause=Cause.HUNG)
        elif kind is ipc.Kind.DRAINED:
            accounts.facts(fields)
            future = self._drains.get(fields["token"])
            if future is not None and not future.done():
                future.set_result(True)
        elif kind is ipc.Kind.PURGED:
            accounts.facts(fields)
            async with self._changed:
                accounts.purging.discard(fields["token"])
                self._changed.notify_all()
        elif kind is ipc.Kind.LOST:
            accounts.lost(fields)
        elif kind is ipc.Kind.READY:
            self._ready_info = fields
            self._was_ready = True
            ready.set()
        elif kind is ipc.Kind.FAILED:
            message = str(fields["message"])
            # Memory or a slot that was short may be there a moment later; a first start is told at once.
            if not (fields.get("retry") and self._was_ready):
                self._failure = message
            raise _Died(message, str(fields.get("step", "")), Cause.MEMORY)

    def _after_death(self, death: _Death) -> Verdict:
        _log.warning("the speech worker ended: %s", death.how)
        verdict = self._accounts.after_death(death.cause, death.audio, now=time.monotonic())
        self._fail_drains()
        return verdict

    def _fail_drains(self) -> None:
        for future in self._drains.values():
            if not future.done():
                future.set_result(False)

    def _next_token(self) -> int:
        self._token += 1
        return self._token

    def _send(self, data: bytes) -> bool:
        process = self._process
        if process is None or process.stdin is None or process.stdin.is_closing():
            return False
        process.stdin.write(data)
        return True

    def _send_audio(self, audio: ipc.Audio, *, wait: bool = False) -> bool:
        """Write a frame; False when the pipe is closed or, unless the caller waits for room itself, full."""
        process = self._process
        if process is None or process.stdin is None:
            return False
        if not wait and process.stdin.transport.get_write_buffer_size() > PIPE_LIMIT_BYTES:
            return False
        if not self._send(ipc.encode_audio(audio)):
            return False
        self._sent = audio.index
        if audio.index > self._sent_ever:
            self._sent_ever = audio.index
            self._accounts.counters.frames_sent += 1
        else:
            self._accounts.counters.frames_replayed += 1
        return True

    async def _set_state(self, state: State) -> None:
        async with self._changed:
            self._state = state
            self._changed.notify_all()


def spent_of(deaths: Iterable[frozenset[Party]]) -> int:
    """How much of the crash budget is used up: the speech in one owner's servers, or of one speaker, uses one of it.

    Args:
        deaths: Of each, whose speech may have caused it; none where nobody's did.
    """
    spent, blamed = 0, set[int]()
    for suspected in sorted(deaths, key=len):
        people = {person for party in suspected for person in party}
        if not people & blamed:
            spent += 1
        if len({owner_id for owner_id, _ in suspected}) == 1:
            blamed |= people
    return spent
