"""The remote engine against a real service of somebody else's: faster-whisper-server with tiny.en."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_engines import WORDS, speech

from roost.testing.engine_conformance import CHECKS, Bench, check_name
from roost_stt.models import locate
from roost_stt.worker.engines import remote

pytestmark = [pytest.mark.unit, pytest.mark.long]

SERVER = "faster_whisper_server"
TARGET = Path(__file__).parents[2] / "build" / "faster-whisper-server"
PACKAGES = (
    "faster-whisper-server==0.0.3",
    "fastapi==0.115.12",
    "starlette==0.46.2",
    "uvicorn==0.34.2",
    "python-multipart==0.0.20",
)


def server_folder() -> Path | None:
    """Where the service lies: installed, or fetched once into a folder of its own; None without a package index."""
    if importlib.util.find_spec(SERVER) is not None:
        return TARGET
    if not (TARGET / SERVER).is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(TARGET), *PACKAGES]
        try:
            subprocess.run(command, check=True, timeout=60, capture_output=True)
        except (subprocess.SubprocessError, OSError):
            return None
    return TARGET


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real faster-whisper-server with tiny.en."""
    folder = server_folder()
    if folder is None:
        pytest.skip("faster-whisper-server==0.0.3 is not installed and cannot be fetched")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    model = {
        "name": "whisper-1",
        "path": locate("tiny.en"),
        "model_options": {"device": "cpu", "compute_type": "int8", "cpu_threads": 2},
        "transcribe_options": {"beam_size": 1},
    }
    config = tmp_path_factory.mktemp("service") / "config.yaml"
    config.write_text(json.dumps({"models": [model]}))  # JSON is YAML
    process = subprocess.Popen(
        [sys.executable, "-m", SERVER, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "2"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline_s = time.monotonic() + 30
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                assert process.poll() is None, "the service ended"
                assert time.monotonic() < deadline_s, "the service did not start"
                time.sleep(0.1)
            finally:
                connection.close()
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def bench(service: str) -> Iterator[Bench]:
    made = Bench(
        lambda: remote.create({"url": service, "timeout_s": 15}),
        speech(),
        WORDS,
        broken=lambda: remote.create({"url": "ftp://nowhere"}),
        largest_batch=2,
    )
    yield made
    made.close()


@pytest.mark.parametrize("check", CHECKS, ids=check_name)
def test_conformance_against_a_real_service(check: Callable[[Bench], None], bench: Bench) -> None:
    check(bench)
