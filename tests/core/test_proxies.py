"""Which proxy of the environment counts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from roost.errors import ConfigError
from roost.proxies import find_proxy

pytestmark = pytest.mark.unit
URL = "https://discord.com/api/v10"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("environ", "url", "place"),
    [
        ({}, None, ""),
        ({"HTTPS_PROXY": "http://proxy.example:3128"}, None, "proxy.example:3128"),
        ({"https_proxy": "proxy.example:3128"}, URL, "proxy.example:3128"),
        ({"ALL_PROXY": "http://me:se%40cret@[::1]:3128"}, URL, "[::1]:3128"),
        ({"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "discord.com"}, None, ""),
        ({"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "*"}, None, ""),
        ({"HTTP_PROXY": "http://proxy.example:3128"}, URL, ""),
        ({"HTTP_PROXY": "http://proxy.example:3128"}, "http://127.0.0.1:8000/api/v10", ""),
        ({"HTTPS_PROXY": "https://proxy.example"}, None, "proxy.example:443"),
    ],
)
def test_the_proxy_for_discord(
    environ: dict[str, str], url: str | None, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    found = find_proxy(url)
    assert found.place == place
    assert (found.settings.url is None) == (place == "")
    assert "cret" not in found.place


@pytest.mark.parametrize("value", ["socks5://me:secret@proxy:1080", "http://", "http://proxy:many"])
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as caught:
        find_proxy(None)
    assert "secret" not in str(caught.value)


def test_a_proxy_that_is_not_there_is_named(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
        environ["HTTPS_PROXY"] = f"http://user:hidden-word@127.0.0.1:{port}"
        environ["ROOST_TOKEN"] = "OTAwMDAwMDAwMDAwMDAwMDAx.SimSim.simulated-roost-token-0000"
        settings = ["--set", "start.wait_s=0", "--set", "plugins.deny=voice,stt", "--data-dir", str(tmp_path / "data")]
        command = [sys.executable, "-m", "roost", "run", *settings]
        ran = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
        )
    assert ran.returncode == 3
    assert f"roost: the proxy 127.0.0.1:{port} cannot be reached (Connection refused); check HTTPS_PROXY" in ran.stderr
    assert "hidden-word" not in ran.stdout + ran.stderr
