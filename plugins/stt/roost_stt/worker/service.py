"""What the worker does once its process is set up: three threads, one job each.

The reader takes the pipe apart, the audio thread turns frames into utterances, the main thread runs the engine.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from roost.errors import SpeechError
from roost.errortext import class_name, error_line, text_of, trace_of
from roost_stt.blackbox import BlackBox
from roost_stt.ladder import CPU, SMALLER
from roost_stt.lease import CardTakenError
from roost_stt.protocol import ipc
from roost_stt.protocol.endpointing import Endpointing
from roost_stt.protocol.wishes import Wish, Wishes
from roost_stt.worker.pipes import Inbox, Outbox, read_forever
from roost_stt.worker.results import checked

if TYPE_CHECKING:
    from roost.speech import EngineOptions, SpeechEngine, Transcript
    from roost_stt.worker.backlog import Backlog, Batch
    from roost_stt.worker.drafts import Drafts
    from roost_stt.worker.speakers import Speakers
    from roost_stt.worker.utterances import Key, Spoken

_log = logging.getLogger("roost.stt.worker")

WITHDRAWN = "the speaker has withdrawn it"
FAILED_DRAFT_REST_S = 5.0
CALM_S = 3.0
"""How long the engine waits at most for the audio that the process before may have died of."""
FAILURES_TOLD_EVERY_S = 1.0
"""A speaker whose audio raises again and again is reported so often."""
FAILURES_LOGGED = 20
BOT_SILENT_S = 30.0
MAX_COUNTED = 4096
BUSY_REST = 1.0
"""Times what finals have taken: an engine that is busy with them leaves drafts alone."""
_NO_ROOM = ("out of memory", "bad_alloc", "alloc_failed", "compute type")
"""Of what CTranslate2 and CUDA say; the last when a card cannot compute with that type."""
_CARD = ("cuda", "cublas", "cudnn")


def serve(requests: int, replies: int, started_s: float, box: int | None = None) -> NoReturn:
    """Run the worker on two file descriptors until the requests end; `box` is that of the bot's `BlackBox`."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
    outbox, inbox = Outbox(replies), Inbox()
    hello, greeting = threading.Event(), dict[str, Any]()
    threading.Thread(target=read_forever, args=(requests, inbox, hello, greeting), name="reader", daemon=True).start()
    hello.wait()
    try:
        _Worker(greeting, inbox, outbox, started_s, BlackBox(box)).run()
    except Exception as error:  # noqa: BLE001  the bot must learn why; stderr has the details
        _log.error("the worker cannot go on\n%s", trace_of(error))
        retry = _needs_new_process(error) or bool(getattr(error, "retryable", False))
        known = isinstance(error, SpeechError)
        message = text_of(error) if known else error_line(error)
        outbox.send(ipc.Kind.FAILED, {"message": message, "retry": retry, "step": _step(error)})
    sys.stderr.flush()
    os._exit(3)


class _Worker:
    def __init__(
        self, greeting: Mapping[str, Any], inbox: Inbox, outbox: Outbox, started_s: float, box: BlackBox
    ) -> None:
        self._inbox = inbox
        self._wishes = Wishes()
        self._outbox = outbox
        self._max_batch = int(greeting.get("max_batch", 8))
        self._seen = 0
        self._failures = 0
        self._failed_s: dict[Key, float] = {}
        """When a speaker's failing audio was reported last."""
        self._calm_after = int(greeting.get("calm_after", 0))
        self._calm = threading.Event()
        """Set once the audio that the process before may have died of is behind us."""
        self._batch_began_s: float | None = None
        self._bot_silent_s = float(greeting.get("bot_silent_s", BOT_SILENT_S))
        lease = greeting.get("lease")
        if greeting.get("needs_gpu") and lease:
            from roost_stt.gpu import wait_for_room
            from roost_stt.lease import acquire

            gpu, wait_s = str(lease.get("gpu", "0")), float(lease.get("wait_s", 2.0))
            # Kept for the life of the process: the lock ends with it and with nothing else.
            self._lease = acquire(Path(lease["folder"]), gpu, int(lease.get("slots", 1)), wait_s)
            wait_for_room(gpu, int(lease.get("needed_bytes", 0)), wait_s)
        # Model libraries are imported only now: with a GPU, importing them may already take some of it.
        from roost_stt.worker.backlog import Backlog
        from roost_stt.worker.drafts import Drafts
        from roost_stt.worker.speakers import IDLE_DECODER_S, Speakers
        from roost_stt.worker.vad import SileroModel

        imported_s = time.perf_counter()
        self._engine: SpeechEngine = _factory(str(greeting["factory"]))(greeting.get("config", {}))
        warm_up: Callable[[], None] | None = getattr(self._engine, "warm_up", None)
        if warm_up is not None and greeting.get("warm_up", True):
            warm_up()
        self._backlog: Backlog = Backlog(self._lost, lambda token: outbox.send(ipc.Kind.DRAINED, self._facts(token)))
        self._backlog.rest_drafts(float(greeting.get("draft_rest_s", 0.0)))
        self._drafts: Drafts = Drafts(
            lambda guild_id: self._wishes.of_guild(guild_id).partials, self._backlog, self._tell_partial
        )
        self._speakers: Speakers = Speakers(
            SileroModel(),
            Endpointing(**greeting.get("endpointing", {})),
            self._backlog.put,
            idle_s=float(greeting.get("decoder_idle_s", IDLE_DECODER_S)),
            drafts=self._drafts,
            box=box,
            failed=self._audio_failed,
        )
        ready_s = time.perf_counter()
        outbox.send(
            ipc.Kind.READY,
            {
                "pid": os.getpid(),
                "multilingual": getattr(self._engine, "multilingual", None),
                "runs_on": getattr(self._engine, "runs_on", ""),
                "import_s": round(imported_s - started_s, 3),
                "load_s": round(ready_s - imported_s, 3),
                "ready_s": round(ready_s - started_s, 3),
            },
        )

    def run(self) -> None:
        threading.Thread(target=self._listen, name="audio", daemon=True).start()
        if self._calm_after:
            # Alone, so that another death can be put on the right account.
            self._calm.wait(CALM_S)
        while True:
            batch = self._backlog.take(self._max_batch)
            if batch.is_draft:
                self._draft(batch.items[0])
            else:
                began_s = time.monotonic()
                self._work(batch)
                self._backlog.rest_drafts(BUSY_REST * (time.monotonic() - began_s))
            self._backlog.done()

    def _work(self, batch: Batch) -> None:
        last: dict[Key, int] = {}
        for item in batch.items:
            key = (item.guild_id, item.user_id)
            last[key] = max(last.get(key, 0), item.segment.last_mark)
        self._outbox.send(ipc.Kind.STARTED, {"speakers": [[*key, mark] for key, mark in sorted(last.items())]})
        began_s = time.monotonic()
        answers = self._answers(batch.items)
        decode_s = time.monotonic() - began_s
        for item, answer in zip(batch.items, answers, strict=True):
            if item.withdrawal.withdrawn:
                continue
            if isinstance(answer, str):
                self._tell_lost(item, answer)
            else:
                self._outbox.send(ipc.Kind.TRANSCRIPT, _transcript_fields(item, answer, decode_s, len(batch.items)))

    def _draft(self, item: Spoken) -> None:
        """Show what two drafts agree on. Nothing is lost with one that fails: the utterance itself comes yet."""
        from roost.speech import EngineOptions

        # If the process dies of this, the utterance itself is tried all the same.
        speaker = [item.guild_id, item.user_id, item.segment.last_mark]
        self._outbox.send(ipc.Kind.STARTED, {"speakers": [speaker], "draft": True})
        began_s = time.monotonic()
        hints = self._wishes.of_guild(item.guild_id).hints
        (answer,) = self._transcribe([item], EngineOptions(hints=hints, draft=True))
        if isinstance(answer, str):
            if not item.withdrawal.withdrawn:
                self._backlog.rest_drafts(FAILED_DRAFT_REST_S)
            return
        self._drafts.heard(item, answer.text)
        # Half of the engine's time at most.
        self._backlog.rest_drafts(time.monotonic() - began_s)

    def _tell_partial(self, key: Key, mark: int, text: str) -> None:
        self._outbox.send(ipc.Kind.PARTIAL, {"guild": key[0], "user": key[1], "mark": mark, "text": text})

    def _answers(self, items: Sequence[Spoken]) -> Sequence[Transcript | str]:
        """`_transcribe`, with those together whose servers want the same."""
        from roost.speech import EngineOptions

        groups: dict[EngineOptions, list[int]] = {}
        for place, item in enumerate(items):
            wish = self._wishes.of_guild(item.guild_id)
            groups.setdefault(EngineOptions(wish.word_timestamps, wish.hints), []).append(place)
        answers: dict[int, Transcript | str] = {}
        for options, places in groups.items():
            answers |= zip(places, self._transcribe([items[place] for place in places], options), strict=True)
        return [answers[place] for place in range(len(items))]

    def _transcribe(self, items: Sequence[Spoken], options: EngineOptions) -> Sequence[Transcript | str]:
        """The transcript of each, or why there is none: one bad utterance costs no other its words.

        The engine is given no utterance that was withdrawn by then.

        Raises:
            Exception: Only a new process helps; see `_needs_new_process`.
        """
        wanted = [item for item in items if not item.withdrawal.withdrawn]
        answers = dict(zip(map(id, wanted), self._asked(wanted, options) if wanted else (), strict=True))
        return [answers.get(id(item), WITHDRAWN) for item in items]

    def _asked(self, items: Sequence[Spoken], options: EngineOptions) -> Sequence[Transcript | str]:
        self._batch_began_s = time.monotonic()
        try:
            transcripts = self._engine.transcribe([self._utterance(item) for item in items], options)
            if len(transcripts) != len(items):
                raise ValueError(f"{len(items)} utterances, {len(transcripts)} transcripts")
            return [checked(each, item.segment.duration_s) for each, item in zip(transcripts, items, strict=True)]
        except Exception as error:
            if _needs_new_process(error):
                raise
            foreseen = isinstance(error, SpeechError)
            if foreseen:
                _log.error("%s", text_of(error))
            else:
                _log.error("the engine failed: %s\n%s", class_name(error), trace_of(error))
            if len(items) > 1:
                return [self._transcribe([item], options)[0] for item in items]
            if foreseen:
                return [text_of(error)]
            return [f"the engine failed ({class_name(error)})"]
        finally:
            self._batch_began_s = None

    def _utterance(self, item: Spoken) -> Any:
        from roost.speech import Utterance

        wall_s = time.time() - time.monotonic()
        segment = item.segment
        return Utterance(
            segment.first_mark,
            item.guild_id,
            item.user_id,
            segment.pcm,
            round(segment.started_s + wall_s, 3),
            round(segment.ended_s + wall_s, 3),
            self._wishes.language_of(item.guild_id, item.user_id),
            item.withdrawal,
        )

    def _listen(self) -> None:
        """The audio thread."""
        heard_s = time.monotonic()
        try:
            while True:
                item = self._inbox.take(0.02 if self._speakers.any_active else 1.0)
                now = time.monotonic()
                if item is not None:
                    heard_s = now
                elif now - heard_s > self._bot_silent_s:
                    # It pings every second: it is frozen, and whatever we hold would be held for as long as it is.
                    _log.error("nothing came from the bot for %.0f s", now - heard_s)
                    sys.stderr.flush()
                    os._exit(6)
                self._speakers.free_idle(now)
                if item is None:
                    self._speakers.tick(now)
                elif isinstance(item, ipc.Audio):
                    self._seen = item.index
                    self._speakers.frame(item, now)
                    if item.index >= self._calm_after:
                        self._calm.set()
                else:
                    self._obey(*item)
        except BaseException:  # noqa: BLE001  a worker that hears nothing is worse than none
            _log.exception("the audio thread failed")
            sys.stderr.flush()
            os._exit(5)

    def _audio_failed(self, key: Key, index: int, error: Exception) -> None:
        """A speaker's audio raised. What is kept of it in the bot is given up, or it would come again."""
        self._failures += 1
        if self._failures <= FAILURES_LOGGED:
            _log.error("a speaker's audio failed: %s", type(error).__name__, exc_info=error)
        now = time.monotonic()
        if now - self._failed_s.get(key, -math.inf) < FAILURES_TOLD_EVERY_S:
            return
        if len(self._failed_s) >= MAX_COUNTED:
            self._failed_s.clear()
        self._failed_s[key] = now
        self._outbox.send(
            ipc.Kind.LOST,
            {"guild": key[0], "user": key[1], "reason": "its audio cannot be processed", "seconds": 0.0, "last": index},
        )

    def _obey(self, kind: ipc.Kind, fields: dict[str, Any]) -> None:
        try:
            self._carry_out(kind, fields)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._inbox.refuse(f"{kind.name}: {type(error).__name__}")

    def _carry_out(self, kind: ipc.Kind, fields: dict[str, Any]) -> None:
        if kind is ipc.Kind.PING:
            self._outbox.send(ipc.Kind.PONG, self._ack(fields.get("token", 0)))
        elif kind is ipc.Kind.WISH:
            self._wishes.put(Wish.of(fields))
        elif kind is ipc.Kind.PURGE:
            key = (fields["guild"], fields["user"])
            self._speakers.purge(*key)
            self._backlog.purge(key)
            self._outbox.send(ipc.Kind.PURGED, self._ack(fields["token"]))
        elif kind is ipc.Kind.DRAIN:
            self._speakers.drain(fields["guild"])
            self._backlog.drain(fields["guild"], fields["token"])

    def _ack(self, token: int) -> dict[str, Any]:
        """The token, facts, and which audio is still needed. Only the audio thread knows the last consistently."""
        needed = self._speakers.needed()
        for key, index in self._backlog.needed().items():
            needed[key] = min(index, needed.get(key, index))
        return {
            **self._facts(token),
            "needed": [[guild, user, index] for (guild, user), index in needed.items()],
            "seen": self._seen,
        }

    def _facts(self, token: int) -> dict[str, Any]:
        began_s = self._batch_began_s
        return {
            "token": token,
            "busy_s": round(time.monotonic() - began_s, 3) if began_s is not None else 0.0,
            "decoded": {str(user): frames for user, frames in self._speakers.decoded().items()},
            "stats": {
                **self._speakers.stats(),
                **self._backlog.stats(),
                "inbox_dropped": self._inbox.dropped,
                "refused": self._inbox.refused + self._failures,
                "engine": self._engine_stats(),
            },
        }

    def _engine_stats(self) -> dict[str, Any]:
        """What the engine says of itself; nothing when it fails at that or says what no message can hold."""
        ask: Callable[[], dict[str, Any]] | None = getattr(self._engine, "stats", None)
        if ask is None:
            return {}
        try:
            stats = dict(ask())
            json.dumps(stats)
        except Exception:  # noqa: BLE001  an engine that cannot count can still hear
            return {}
        return stats

    def _lost(self, item: Spoken) -> None:
        self._tell_lost(item, "too much speech is waiting")

    def _tell_lost(self, item: Spoken, reason: str) -> None:
        self._outbox.send(
            ipc.Kind.LOST,
            {
                "guild": item.guild_id,
                "user": item.user_id,
                "reason": reason,
                "seconds": round(item.segment.duration_s, 2),
                "last": item.segment.last_mark,
            },
        )


def _transcript_fields(item: Spoken, transcript: Transcript, decode_s: float, batch: int) -> dict[str, Any]:
    return {
        "id": item.segment.first_mark,
        "guild": item.guild_id,
        "user": item.user_id,
        "text": transcript.text,
        "started_at": transcript.started_at,
        "ended_at": transcript.ended_at,
        "language": transcript.language,
        "confidence": round(transcript.confidence, 4),
        "words": [[word.start_s, word.end_s, word.text] for word in transcript.words],
        "last": item.segment.last_mark,
        "cut": item.segment.cut.value,
        "seconds": round(item.segment.duration_s, 3),
        "decode_s": round(decode_s, 3),
        "batch": batch,
    }


def _needs_new_process(error: Exception) -> bool:
    """Whether the engine's memory is short or its GPU broken: this process would keep what it has and fail again."""
    if isinstance(error, MemoryError):
        return True
    text = text_of(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in (*_NO_ROOM, *_CARD))


def _step(error: Exception) -> str:
    """What the engine's ladder is asked for; see `roost_stt.ladder`."""
    text = text_of(error).lower()
    if isinstance(error, MemoryError) or any(word in text for word in _NO_ROOM):
        return SMALLER
    return CPU if isinstance(error, CardTakenError) or any(word in text for word in _CARD) else ""


def _factory(name: str) -> Callable[[Mapping[str, object]], SpeechEngine]:
    module, _, attribute = name.partition(":")
    made: Callable[[Mapping[str, object]], SpeechEngine] = getattr(importlib.import_module(module), attribute)
    return made
