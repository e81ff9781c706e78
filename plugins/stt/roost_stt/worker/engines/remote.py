"""A transcription service elsewhere that speaks the OpenAI API (``POST /audio/transcriptions``).

One request per utterance, several at a time. The API key comes from the environment or a file, goes into the
Authorization header and nowhere else: no message of this module contains it, and redirects are not followed.

When a speaker withdraws an utterance, its request is ended with a TCP reset, and it is neither sent nor tried again.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
import hashlib
import http.client
import io
import json
import logging
import math
import os
import random
import re
import socket
import ssl
import struct
import threading
import time
import urllib.parse
import uuid
import wave
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from roost.errors import SpeechError
from roost.speech import ENGINE_SAMPLE_RATE_HZ, EngineOptions, Transcript, Utterance, Withdrawal, Word
from roost_stt.addresses import KEY_VARIABLE, service_url

_log = logging.getLogger("roost.stt.remote")

PATH = "/audio/transcriptions"
FEWEST_BYTES = ENGINE_SAMPLE_RATE_HZ // 10 * 2
"""100 ms: services refuse less."""
MAX_ANSWER_BYTES = 1 << 20
BUDGET_S = 20.0
"""For one batch with all its retries; the supervisor takes a worker that is busy for 25 s to hang."""
DRAFT_BUDGET_S = 2.0
TRIES = 3
BACKOFF_S = 0.4
MAX_RETRY_AFTER_S = 120.0
"""A service that asks for a longer pause than this is asked again after this one."""
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_NAMES = {
    "arabic": "ar",
    "chinese": "zh",
    "czech": "cs",
    "danish": "da",
    "dutch": "nl",
    "english": "en",
    "finnish": "fi",
    "french": "fr",
    "german": "de",
    "greek": "el",
    "hebrew": "he",
    "hindi": "hi",
    "hungarian": "hu",
    "indonesian": "id",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "norwegian": "no",
    "polish": "pl",
    "portuguese": "pt",
    "romanian": "ro",
    "russian": "ru",
    "spanish": "es",
    "swedish": "sv",
    "thai": "th",
    "turkish": "tr",
    "ukrainian": "uk",
    "vietnamese": "vi",
}
"""``verbose_json`` names the language in English; the rest of the program uses codes."""


class _Refused(Exception):
    """The service answered with a status that is no success."""

    def __init__(self, status: int, detail: str, retry_after_s: float | None) -> None:
        super().__init__(f"status {status}{': ' if detail else ''}{detail}")
        self.status = status
        self.retry_after_s = retry_after_s


class _WithdrawnError(Exception):
    """The speaker has withdrawn the utterance."""


class _Wire:
    """The socket that one utterance is sent over. It is cut when the speaker withdraws the utterance."""

    def __init__(self, withdrawal: Withdrawal) -> None:
        self.withdrawal = withdrawal
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def check(self) -> None:
        """Raises _WithdrawnError."""
        if self.withdrawal.withdrawn:
            raise _WithdrawnError

    def use(self, sock: socket.socket) -> None:
        """Send over this one from now on.

        Raises:
            _WithdrawnError: Nothing may be sent any more.
        """
        with self._lock:
            self.check()
            self._socket = sock

    def leave(self) -> None:
        """The exchange is over; the socket may serve another utterance."""
        with self._lock:
            self._socket = None

    def cut(self) -> None:
        """Have the socket send nothing more, whatever its owner does; what the system still holds of it is dropped."""
        with self._lock:
            sock, self._socket = self._socket, None
            if sock is None:
                return
            # Of the class: `SSLSocket.shutdown` would have a write under way go on without encryption.
            with contextlib.suppress(OSError):
                socket.socket.setsockopt(sock, socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


_RESET = struct.pack("ii", 1, 0)
"""``SO_LINGER`` on, 0 s: closing resets the connection."""


class RemoteEngine:
    """Asks the service.

    Args:
        url: Of the API, such as ``http://127.0.0.1:8000/v1``.
        model: The service's name for it.
        timeout_s: For one request.
        key: The API key, or None.
        parallel: How many requests at once.
    """

    def __init__(self, url: str, model: str, timeout_s: float, key: str | None, parallel: int = 4) -> None:
        parts = service_url(url)
        self._host, self._port = str(parts.hostname), parts.port
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        path = parts.path.rstrip("/")
        self._path = (path if path.endswith(PATH) else path + PATH) + (f"?{parts.query}" if parts.query else "")
        self._where = f"{self._host}:{self._port}" if self._port else self._host
        self._model = model
        self._timeout_s = timeout_s
        self._key = key
        self._verbose = True
        self._closed = False
        self._pool = ThreadPoolExecutor(parallel, "remote")
        self._mine = threading.local()
        self._open: set[http.client.HTTPConnection] = set()
        self._done: dict[tuple[int, int, bytes], Transcript] = {}
        self._not_before_s = 0.0
        """Nothing is asked before this moment of the monotonic clock: the service wants a pause."""
        self._counts = {"decoded": 0, "requests": 0, "retries": 0, "errors": 0, "withdrawn": 0}
        self._lock = threading.Lock()

    def transcribe(self, batch: Sequence[Utterance], options: EngineOptions) -> list[Transcript]:
        """One request each. What succeeded in a batch that failed is not asked again when it comes back.

        Raises:
            SpeechError: One at least could not be had; says why in one line.
        """
        if self._closed:
            raise SpeechError("the engine is closed")
        deadline_s = time.monotonic() + (DRAFT_BUDGET_S if options.draft else BUDGET_S)
        futures = [self._pool.submit(self._unless_withdrawn, utterance, options, deadline_s) for utterance in batch]
        answers: list[Transcript] = []
        done: dict[tuple[int, int, bytes], Transcript] = {}
        failure: SpeechError | None = None
        for utterance, future in zip(batch, futures, strict=True):
            try:
                answers.append(future.result())
                if not utterance.withdrawal.withdrawn:
                    done[_same(utterance)] = answers[-1]
            except SpeechError as error:
                failure = error
        if failure is not None:
            self._done = done or self._done
            for utterance in batch:
                utterance.withdrawal.subscribe(functools.partial(self._forget, _same(utterance)))
            raise failure
        for utterance in batch:
            self._done.pop(_same(utterance), None)
        self._count("decoded", sum(not utterance.withdrawal.withdrawn for utterance in batch))
        return answers

    def close(self) -> None:
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            connection.close()

    def stats(self) -> dict[str, int]:
        return dict(self._counts)

    def _forget(self, same: tuple[int, int, bytes]) -> None:
        self._done.pop(same, None)

    def _unless_withdrawn(self, utterance: Utterance, options: EngineOptions, deadline_s: float) -> Transcript:
        """`_one`; nothing of an utterance that its speaker withdraws before it has become text."""
        wire = _Wire(utterance.withdrawal)
        forget = utterance.withdrawal.subscribe(wire.cut)
        try:
            return self._one(utterance, options, deadline_s, wire)
        except _WithdrawnError:
            self._count("withdrawn")
            return _transcript(utterance, "", None, 0.0, ())
        finally:
            forget()

    def _one(self, utterance: Utterance, options: EngineOptions, deadline_s: float, wire: _Wire) -> Transcript:
        known = self._done.get(_same(utterance))
        if known is not None:
            return _transcript(utterance, known.text, known.language, known.confidence, known.words)
        if len(utterance.pcm) % 2:
            raise SpeechError(f"{len(utterance.pcm)} bytes are no 16-bit samples")
        if len(utterance.pcm) < FEWEST_BYTES:
            return _transcript(utterance, "", None, 0.0, ())
        language = utterance.language
        if language is not None and not _LANGUAGE.fullmatch(language):
            language = None
        verbose = self._verbose
        while True:
            try:
                answer = self._ask(_form(self._model, utterance.pcm, language, verbose, options), deadline_s, wire)
                break
            except _Refused as refused:
                # A service need not know every language, nor every form of answer.
                if refused.status in (400, 422) and language is not None:
                    language = None
                elif refused.status in (400, 422) and verbose:
                    verbose = False
                else:
                    raise self._failed(self._explained(refused)) from None
        self._verbose = verbose
        return self._read(utterance, answer)

    def _ask(self, form: tuple[str, bytes], deadline_s: float, wire: _Wire) -> bytes:
        """Send one request, again where that can help.

        Raises:
            _WithdrawnError: Its speaker wants it to become no text.
            _Refused: It answered, and asking again does not help.
            SpeechError: It did not answer, or went on refusing.
        """
        for attempt in range(1, TRIES + 1):
            self._keep_the_pause(deadline_s, wire)
            wait_s = BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)  # noqa: S311  spreading, no secret
            try:
                return self._request(form, min(deadline_s, time.monotonic() + self._timeout_s), wire)
            except _Refused as refused:
                if refused.status not in _AGAIN:
                    raise
                what = self._explained(refused)
                if refused.retry_after_s is not None:
                    wait_s = max(wait_s, refused.retry_after_s)
                    self._pause(refused.retry_after_s)
            except TimeoutError:
                what = f"no answer within {self._timeout_s:g} s"
            except (OSError, http.client.HTTPException) as error:
                what = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
            wire.check()
            if attempt == TRIES or time.monotonic() + wait_s >= deadline_s:
                break
            self._count("retries")
            wire.withdrawal.wait(wait_s)
        raise self._failed(what, retryable=True)

    def _pause(self, seconds: float) -> None:
        """Ask nothing for so long, whatever it is about."""
        with self._lock:
            self._not_before_s = max(self._not_before_s, time.monotonic() + seconds)

    def _keep_the_pause(self, deadline_s: float, wire: _Wire) -> None:
        """Wait until the service may be asked.

        Raises:
            _WithdrawnError: It may not be asked any more.
            SpeechError: That is after the deadline.
        """
        wire.check()
        until_s = self._not_before_s
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            return
        if until_s >= deadline_s:
            raise self._failed(f"it asked for a pause, of which {left_s:.0f} s are left", retryable=True)
        wire.withdrawal.wait(left_s)
        wire.check()

    def _request(self, form: tuple[str, bytes], deadline_s: float, wire: _Wire) -> bytes:
        self._count("requests")
        connection: http.client.HTTPConnection | None = getattr(self._mine, "connection", None)
        if connection is not None:
            try:
                return self._exchange(connection, form, deadline_s, wire)
            except (ConnectionError, http.client.RemoteDisconnected, http.client.CannotSendRequest):
                wire.check()  # else it was closed while nobody needed it
        return self._exchange(self._connect(), form, deadline_s, wire)

    def _connect(self) -> http.client.HTTPConnection:
        made: http.client.HTTPConnection
        if self._tls is not None:
            made = http.client.HTTPSConnection(self._host, self._port, context=self._tls)
        else:
            made = http.client.HTTPConnection(self._host, self._port)
        with self._lock:
            if self._closed:
                raise SpeechError("the engine is closed")
            self._open.add(made)
        self._mine.connection = made
        return made

    def _exchange(
        self, connection: http.client.HTTPConnection, form: tuple[str, bytes], deadline_s: float, wire: _Wire
    ) -> bytes:
        kind, body = form
        headers = {"Content-Type": kind, "Accept": "application/json", "User-Agent": "roost"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        kept = False
        try:
            connection.timeout = _left(deadline_s)
            if connection.sock is None:
                connection.connect()
            connection.sock.settimeout(_left(deadline_s))
            wire.use(connection.sock)
            connection.request("POST", self._path, body, headers)
            response = connection.getresponse()
            data = bytearray()
            while True:
                if connection.sock is not None:
                    connection.sock.settimeout(_left(deadline_s))
                _left(deadline_s)
                part = response.read1(1 << 16)
                if not part:
                    break
                data += part
                if len(data) > MAX_ANSWER_BYTES:
                    raise self._failed(f"an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
            if response.length:
                raise http.client.IncompleteRead(b"")
            wire.check()
            kept = not response.will_close
            response.close()  # `read1` leaves an answer of known length open, and the connection busy with it
        finally:
            wire.leave()
            if not kept:
                connection.close()
                self._mine.connection = None
                with self._lock:
                    self._open.discard(connection)
        if 200 <= response.status < 300:
            return bytes(data)
        raise _Refused(response.status, self._said(bytes(data)), _seconds(response.getheader("Retry-After")))

    def _said(self, data: bytes) -> str:
        """What an error answer says, in one line."""
        try:
            fields = json.loads(data)
            error = fields.get("error", fields.get("detail", "")) if isinstance(fields, dict) else ""
            if isinstance(error, dict) and isinstance(error.get("error"), dict):
                error = error["error"]
            text = error.get("message", "") if isinstance(error, dict) else error
        except (ValueError, RecursionError):
            text = ""
        return self._clean(text) if isinstance(text, str) else ""

    def _explained(self, refused: _Refused) -> str:
        if refused.status in (401, 403):
            # What such an answer says may repeat the key.
            return f"it refuses the API key (status {refused.status}); set {KEY_VARIABLE} or stt.remote.api_key_file"
        if refused.status == 404:
            return f"{refused}; check stt.remote.url and stt.remote.model"
        return str(refused)

    def _read(self, utterance: Utterance, data: bytes) -> Transcript:
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError):
            raise self._failed("the answer is no JSON") from None
        text = fields.get("text") if isinstance(fields, dict) else None
        if not isinstance(text, str):
            raise self._failed("the answer has no text")
        language = fields.get("language")
        language = language.strip().lower() if isinstance(language, str) else None
        language = _NAMES.get(language or "", language)
        if language is None or not _LANGUAGE.fullmatch(language):
            language = utterance.language or None
        segments = fields.get("segments")
        words = fields.get("words")
        seconds = len(utterance.pcm) / (2 * ENGINE_SAMPLE_RATE_HZ)
        return _transcript(
            utterance,
            " ".join(text.split()),
            language,
            _confidence(segments if isinstance(segments, list) else []),
            _words(words if isinstance(words, list) else [], seconds),
        )

    def _failed(self, what: str, *, retryable: bool = False) -> SpeechError:
        self._count("errors")
        return SpeechError(f"the transcription service at {self._where}: {what}", retryable=retryable)

    def _clean(self, text: str) -> str:
        line = " ".join(text.split())[:300]
        return line.replace(self._key, "***") if self._key else line

    def _count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self._counts[what] += number


def _same(utterance: Utterance) -> tuple[int, int, bytes]:
    """What an utterance keeps when it comes back; its id is another then."""
    return utterance.guild_id, utterance.user_id, hashlib.blake2b(utterance.pcm, digest_size=16).digest()


def _left(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _seconds(header: str | None) -> float | None:
    """``Retry-After``, which is a number of seconds or a date, as seconds; at most `MAX_RETRY_AFTER_S`."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    if math.isnan(seconds):
        return None
    return min(MAX_RETRY_AFTER_S, max(0.0, seconds))


def _form(model: str, pcm: bytes, language: str | None, verbose: bool, options: EngineOptions) -> tuple[str, bytes]:
    """``multipart/form-data`` with the recording as a WAV file: (content type, body)."""
    fields = [("model", model), ("response_format", "verbose_json" if verbose else "json"), ("temperature", "0")]
    if language:
        fields.append(("language", language))
    hints = ", ".join(" ".join(hint.split()) for hint in options.hints if hint.strip())
    if hints:
        fields.append(("prompt", hints[:800]))
    if verbose and options.word_timestamps:
        fields += [("timestamp_granularities[]", "segment"), ("timestamp_granularities[]", "word")]
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(ENGINE_SAMPLE_RATE_HZ)
        out.writeframes(pcm)
    boundary = f"roost-{uuid.uuid4().hex}"
    body = bytearray()
    for name, value in fields:
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    body += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="speech.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    ).encode()
    body += file.getvalue() + f"\r\n--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", bytes(body)


def _number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _confidence(segments: Sequence[Any]) -> float:
    """Mean token probability; 0 when the service does not say."""
    total = weights = 0.0
    for segment in segments:
        if not isinstance(segment, dict):
            continue
        logprob, start, end = (_number(segment.get(key)) for key in ("avg_logprob", "start", "end"))
        if logprob is not None and start is not None and end is not None and end > start:
            total += logprob * (end - start)
            weights += end - start
    return math.exp(min(0.0, total / weights)) if weights else 0.0


def _words(entries: Sequence[Any], seconds: float) -> tuple[Word, ...]:
    """Those that can be true: in order and within the recording."""
    words: list[Word] = []
    last_s = 0.0
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("word"), str):
            continue
        start, end = _number(entry.get("start")), _number(entry.get("end"))
        if start is None or end is None or not last_s <= start <= end <= seconds + 1.0:
            continue
        words.append(Word(round(start, 3), round(end, 3), entry["word"].strip()))
        last_s = end
    return tuple(words)


def _transcript(
    utterance: Utterance, text: str, language: str | None, confidence: float, words: tuple[Word, ...]
) -> Transcript:
    return Transcript(
        utterance.id,
        utterance.guild_id,
        utterance.user_id,
        text,
        utterance.started_at,
        utterance.ended_at,
        language,
        confidence,
        words,
    )


def read_key(file: str | None) -> str | None:
    """The API key from the environment, else from a file; None without either.

    Raises:
        SpeechError: It cannot be read or sent; never says what it is.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key and file:
        try:
            key = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise SpeechError(f"the API key file {file} cannot be read: {why}") from None
        if not key:
            raise SpeechError(f"the API key file {file} is empty")
    if not all("!" <= character <= "~" for character in key):
        raise SpeechError("the API key has characters that no API key has, such as a space or a line end")
    return key or None


def create(config: Mapping[str, object]) -> RemoteEngine:
    """See `RemoteEngine`; `config` has url, model, timeout_s, api_key_file and parallel.

    Raises:
        SpeechError: It says which setting is wrong.
    """
    url = str(config.get("url") or "")
    if not url:
        raise SpeechError("stt.remote.url is not set; write it like http://127.0.0.1:8000/v1")
    file = config.get("api_key_file")
    key = read_key(str(file) if file else None)
    made = RemoteEngine(
        url,
        str(config.get("model") or "whisper-1"),
        float(str(config.get("timeout_s", 10.0))),
        key,
        int(str(config.get("parallel", 4))),
    )
    if key and urllib.parse.urlsplit(url).scheme == "http":
        _log.warning("the API key and what people say go to %s unencrypted", urllib.parse.urlsplit(url).hostname)
    return made
