"""The remote engine against a service that answers whatever a test says."""

from __future__ import annotations

import dataclasses
import email.utils
import http.client
import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from stt_rig import Build, packets_of, scripted

from roost.errors import SpeechError
from roost.speech import EngineOptions, EngineSpec, SpeechEngine, Transcript, Utterance, Withdrawal
from roost_stt.config import SttConfig
from roost_stt.engine import REMOTE
from roost_stt.supervision import Trouble
from roost_stt.worker.engines import remote

pytestmark = pytest.mark.unit

SECRET = "sk-test-4711-secret"


@dataclasses.dataclass
class Answer:
    body: bytes = b'{"text": "hello"}'
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    hang_up: bool = False


class Service:
    """Answers with the next of a list, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [Answer()]
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((self.path, dict(self.headers), body))
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                time.sleep(answer.delay_s)
                self.close_connection = self.close_connection or answer.hang_up
                if answer.hang_up:
                    return
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                try:
                    self.wfile.write(answer.body)
                except OSError:
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                """Stay quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(remote, "BACKOFF_S", 0.01)
    made = Service()
    yield made
    made.close()


@pytest.fixture
def make(fake: Service) -> Iterator[Callable[..., SpeechEngine]]:
    engines: list[SpeechEngine] = []

    def build(**changes: Any) -> SpeechEngine:
        engines.append(remote.create({"url": fake.url, "timeout_s": 5, **changes}))
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


def ask(engine: SpeechEngine, count: int = 1, language: str | None = "en", **options: Any) -> list[Transcript]:
    batch = [Utterance(n, 1, n, bytes(32_000), 100.0 + n, 101.0 + n, language) for n in range(count)]
    return engine.transcribe(batch, EngineOptions(**options))


Make = Callable[..., SpeechEngine]


def test_what_is_asked(fake: Service, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(remote.KEY_VARIABLE, SECRET)
    assert ask(make(model="big"), hints=("Roost", "naïve"), word_timestamps=True)[0].text == "hello"
    path, headers, body = fake.requests[0]
    assert path == "/v1/audio/transcriptions"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    parts = dict(re.findall(rb'name="([^"]+)"\r\n\r\n(.*?)\r\n--', body))
    assert parts[b"model"] == b"big"
    assert parts[b"language"] == b"en"
    assert parts[b"prompt"] == "Roost, naïve".encode()
    assert parts[b"response_format"] == b"verbose_json"
    assert b'filename="speech.wav"' in body
    assert len(body[body.index(b"RIFF") :]) > 32_000


def test_what_is_answered(fake: Service, make: Make) -> None:
    answer = {
        "text": " Hello \n there ",
        "language": "german",
        "segments": [{"start": 0, "end": 1, "avg_logprob": -0.2}, {"start": "x"}, 3],
        "words": [
            {"word": " Hello", "start": 0, "end": 0.4},
            {"word": "there", "start": 0.2, "end": 0.3},
            {"word": "there", "start": 0.5, "end": 0.9},
            {"word": "far", "start": 50, "end": 60},
            {"word": 1},
            None,
        ],
    }
    fake.answers = [Answer(json.dumps(answer).encode())]
    got = ask(make())[0]
    assert (got.text, got.language) == ("Hello there", "de")
    assert got.confidence == pytest.approx(0.8187, abs=0.001)
    assert [word.text for word in got.words] == ["Hello", "there"]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_busy_services_are_asked_again(fake: Service, make: Make, status: int) -> None:
    fake.answers = [Answer(b"busy", status), Answer(hang_up=True), Answer()]
    assert ask(make())[0].text == "hello"


def test_retry_after_is_kept(fake: Service, make: Make) -> None:
    fake.answers = [Answer(b"", 429, (("Retry-After", "0.4"),)), Answer()]
    began_s = time.monotonic()
    assert ask(make())[0].text == "hello"
    assert time.monotonic() - began_s >= 0.4


def test_retry_after_may_be_a_date(fake: Service, make: Make) -> None:
    # Dates have whole seconds: this one is one to two seconds away.
    at = email.utils.formatdate(time.time() + 2.0, usegmt=True)
    fake.answers = [Answer(b"", 503, (("Retry-After", at),)), Answer()]
    began_s = time.monotonic()
    assert ask(make())[0].text == "hello"
    assert time.monotonic() - began_s >= 0.9


@pytest.mark.parametrize("value", ["Fri, 27 Nov 2099 12:00:00 GMT", "1e9", "inf"])
def test_a_pause_is_kept_by_all_requests_and_has_an_end(
    fake: Service, make: Make, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setattr(remote, "MAX_RETRY_AFTER_S", 0.5)
    monkeypatch.setattr(remote, "BUDGET_S", 0.2)
    fake.answers = [Answer(b"", 429, (("Retry-After", value),)), Answer()]
    engine = make()
    with pytest.raises(SpeechError, match="429"):
        ask(engine)
    with pytest.raises(SpeechError, match="asked for a pause"):
        ask(engine)
    assert len(fake.requests) == 1
    time.sleep(0.5)
    assert ask(engine)[0].text == "hello"


@pytest.mark.parametrize(
    "value", ["", "soon", "nan", "Fri, 99 Nov 2026 99:99:99 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "-5"]
)
def test_a_pause_that_makes_no_sense_is_none(fake: Service, make: Make, value: str) -> None:
    fake.answers = [Answer(b"", 429, (("Retry-After", value),)), Answer()]
    assert ask(make())[0].text == "hello"


def test_a_wait_beyond_the_budget_is_not_waited(fake: Service, make: Make) -> None:
    fake.answers = [Answer(b"", 429, (("Retry-After", "3600"),))]
    began_s = time.monotonic()
    with pytest.raises(SpeechError, match="status 429"):
        ask(make())
    assert time.monotonic() - began_s < 2


def test_only_the_failed_ones_are_asked_again(fake: Service, make: Make) -> None:
    """A batch with a failed member comes back, one by one: what was answered is not sent a second time."""
    engine = make(parallel=1)
    fake.answers = [Answer(), Answer(b"{}", 418), Answer()]
    with pytest.raises(SpeechError, match="status 418"):
        ask(engine, 3)
    fake.requests.clear()
    assert [each.text for each in ask(engine, 3)] == ["hello"] * 3
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no JSON"),
        (b"<html>", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no text"),
        (b"null", "no text"),
        (b'{"text": 3}', "no text"),
        (b'{"error": {"message": "?"}}', "no text"),
        (b'{"text": "' + b"x" * (2 << 20) + b'"}', "more than 1 MiB"),
    ],
)
def test_malformed_answers(fake: Service, make: Make, body: bytes, words: str) -> None:
    engine = make()
    fake.answers = [Answer(body), Answer()]
    with pytest.raises(SpeechError, match=words) as caught:
        ask(engine)
    assert "\n" not in str(caught.value)
    assert ask(engine)[0].text == "hello"


@pytest.mark.parametrize(
    "body", [b'{"text": "a", "segments": 3, "words": {"a": 1}}', b'{"text": "a", "language": ["x"], "segments": [NaN]}']
)
def test_odd_additions_do_no_harm(fake: Service, make: Make, body: bytes) -> None:
    fake.answers = [Answer(body)]
    assert ask(make())[0].text == "a"


def test_a_broken_off_answer_is_asked_again(fake: Service, make: Make) -> None:
    fake.answers = [Answer(b"abc", 200, (("Content-Length", "500"), ("Connection", "close"))), Answer()]
    assert ask(make(timeout_s=0.5))[0].text == "hello"


def test_a_slow_service_times_out(fake: Service, make: Make) -> None:
    fake.answers = [Answer(delay_s=1.0)]
    began_s = time.monotonic()
    with pytest.raises(SpeechError, match=r"no answer within 0\.2 s") as caught:
        ask(make(timeout_s=0.2))
    assert time.monotonic() - began_s < 2
    assert caught.value.retryable


def test_an_absent_service_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    engine = remote.create({"url": f"http://127.0.0.1:{port}/v1"})
    with pytest.raises(SpeechError, match=rf"service at 127\.0\.0\.1:{port}: Connection refused"):
        ask(engine)
    engine.close()


def test_what_a_service_does_not_know_is_left_out(fake: Service, make: Make) -> None:
    fake.answers = [Answer(b'{"error": {"message": "language?"}}', 400), Answer(b"{}", 422), Answer()]
    engine = make()
    assert ask(engine, language="fr")[0].text == "hello"
    assert b'name="language"' not in fake.requests[1][2]
    assert b"verbose_json" not in fake.requests[2][2]
    ask(engine)
    assert b"verbose_json" not in fake.requests[3][2]


def test_the_key_is_told_to_nobody(
    fake: Service, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(remote.KEY_VARIABLE, SECRET)
    echo = json.dumps({"error": {"message": f"Incorrect API key provided: {SECRET}"}}).encode()
    for status in (401, 403, 404, 418, 500):
        fake.answers = [Answer(echo, status)]
        with pytest.raises(SpeechError) as caught:
            ask(make())
        assert SECRET not in str(caught.value)
        assert str(status) in str(caught.value)
    engine = make()
    assert SECRET not in repr(engine) + json.dumps(engine.stats()) + caplog.text  # type: ignore[attr-defined]
    assert "unencrypted" in caplog.text


def test_a_redirect_is_not_followed(fake: Service, make: Make) -> None:
    fake.answers = [Answer(b"", 307, (("Location", f"{fake.url}/elsewhere"),))]
    with pytest.raises(SpeechError, match="status 307"):
        ask(make())
    assert len(fake.requests) == 1


def test_keys_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(remote.KEY_VARIABLE, raising=False)
    file = tmp_path / "key"
    file.write_text(f"{SECRET}\n")
    assert remote.read_key(str(file)) == SECRET
    assert remote.read_key(None) is None
    file.write_text(f"{SECRET}\r\nX-Other: 1")
    with pytest.raises(SpeechError) as caught:
        remote.read_key(str(file))
    assert SECRET not in str(caught.value)
    file.write_text(" \n")
    with pytest.raises(SpeechError, match="is empty"):
        remote.read_key(str(file))
    with pytest.raises(SpeechError, match="cannot be read: No such file"):
        remote.read_key(str(tmp_path / "none"))


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "file:///etc/passwd", "http://", "http://[::1", "http://u:p@host/v1", "http://h:x"]
)
def test_bad_addresses(url: str) -> None:
    with pytest.raises(SpeechError, match=r"stt\.remote\.url") as caught:
        remote.create({"url": url})
    assert ":p@" not in str(caught.value)


async def test_through_the_worker(fake: Service, rig: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key gets to the worker of this engine, an error in one line to the people, and the words arrive."""
    monkeypatch.setenv(remote.KEY_VARIABLE, SECRET)
    config = SttConfig.model_validate({"engine": "openai", "remote": {"url": fake.url}})
    made = await rig(EngineSpec(REMOTE, config.remote.model_dump(mode="json")))
    await made.say(packets_of("lv_0880"))
    assert await made.drain()
    assert made.text() == "hello"
    assert fake.requests[0][1]["Authorization"] == f"Bearer {SECRET}"
    fake.answers = [Answer(b"{}", 401)]
    await made.say(packets_of("lv_0880"), user=8)
    assert await made.drain()
    assert [(what, detail) for what, _, detail in made.troubles] == [
        (
            Trouble.LOST,
            f"the transcription service at {fake.url[7:-3]}: it refuses the API key (status 401); "
            "set ROOST_STT_API_KEY or stt.remote.api_key_file",
        )
    ]


def begin(engine: SpeechEngine, *pieces: Utterance) -> Future[list[Transcript]]:
    """Have the engine transcribe in a thread of its own."""
    done: Future[list[Transcript]] = Future()
    threading.Thread(
        target=lambda: done.set_result(engine.transcribe(pieces, EngineOptions())), name="asks", daemon=True
    ).start()
    return done


def speech(user_id: int, seconds: float = 1.0) -> Utterance:
    return Utterance(user_id, 1, user_id, bytes(round(32_000 * seconds)), 100.0, 101.0)


def until(check: Callable[[], bool], timeout_s: float = 5.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_withdrawn_utterance_is_not_waited_for_and_others_are_transcribed(fake: Service, make: Make) -> None:
    fake.answers = [Answer(delay_s=1.0)]
    mine, others = speech(1), speech(2)
    done = begin(make(timeout_s=10), mine, others)
    until(lambda: len(fake.requests) == 2)
    mine.withdrawal.withdraw()
    assert [each.text for each in done.result(5)] == ["", "hello"]
    assert len(fake.requests) == 2


@pytest.mark.parametrize("answer", [Answer(b"", 503), Answer(b"", 429, (("Retry-After", "30"),)), Answer(hang_up=True)])
def test_withdrawn_utterance_is_not_tried_again(
    fake: Service, make: Make, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setattr(remote, "BACKOFF_S", 5.0)
    monkeypatch.setattr(remote, "BUDGET_S", 60.0)
    fake.answers = [answer, Answer()]
    mine = speech(1)
    engine = make()
    done = begin(engine, mine)
    until(lambda: engine.stats()["retries"] == 1)  # type: ignore[attr-defined]
    mine.withdrawal.withdraw()
    assert [each.text for each in done.result(1)] == [""]
    assert len(fake.requests) == 1


def test_utterance_that_waits_for_its_turn_is_not_sent_once_withdrawn(fake: Service, make: Make) -> None:
    fake.answers = [Answer(delay_s=0.5)]
    first, mine = speech(1), speech(2)
    done = begin(make(parallel=1), first, mine)
    until(lambda: len(fake.requests) == 1)
    mine.withdrawal.withdraw()
    assert [each.text for each in done.result(5)] == ["hello", ""]
    assert len(fake.requests) == 1


def test_rest_of_a_withdrawn_utterance_does_not_leave_the_machine(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        mine = speech(1, 200.0)
        done = begin(make(url=f"http://127.0.0.1:{server.getsockname()[1]}/v1"), mine)
        accepted, _ = server.accept()
        with accepted:
            head = accepted.recv(1000)
            time.sleep(0.2)  # the system's buffers are full
            mine.withdrawal.withdraw()
            assert [each.text for each in done.result(1)] == [""]
            came = len(head)
            with pytest.raises(ConnectionResetError):
                while data := accepted.recv(1 << 16):
                    came += len(data)
    assert came < len(mine.pcm) // 2


def test_words_of_a_batch_that_failed_are_forgotten_once_withdrawn(fake: Service, make: Make) -> None:
    fake.answers = [Answer(b'{"text": "mine"}'), Answer(b"{}", 418), Answer(b'{"text": "new"}')]
    engine = make(parallel=1)
    mine, other = speech(1), speech(2)
    with pytest.raises(SpeechError, match="418"):
        engine.transcribe([mine, other], EngineOptions())
    mine.withdrawal.withdraw()
    assert engine.transcribe([dataclasses.replace(mine, withdrawal=Withdrawal())], EngineOptions())[0].text == "new"


async def test_no_other_engine_gets_the_key(rig: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(remote.KEY_VARIABLE, SECRET)
    made = await rig(scripted("x"))
    assert made.worker.pid is not None
    assert SECRET.encode() not in Path(f"/proc/{made.worker.pid}/environ").read_bytes()


def test_one_connection_serves_many_requests(fake: Service, make: Make) -> None:
    engine = make(parallel=1)
    for _ in range(5):
        ask(engine)
    assert engine.stats() == {"decoded": 5, "requests": 5, "retries": 0, "errors": 0, "withdrawn": 0}  # type: ignore[attr-defined]


def test_requests_of_a_batch_overlap(fake: Service, make: Make) -> None:
    fake.answers = [Answer(delay_s=0.3)]
    began_s = time.monotonic()
    assert [each.user_id for each in ask(make(), 4)] == [0, 1, 2, 3]
    assert time.monotonic() - began_s < 0.9
