"""What plugins count is shown while they are loaded, and only then."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from host_rig import running

from roost.errors import ConfigError, ResourceError
from roost.metrics import read_address

pytestmark = pytest.mark.sim
Drop = Callable[..., Path]

COUNTS = """
from prometheus_client import Counter
@hookimpl
async def on_load(ctx):
    Counter("roost_hens_eggs", "Eggs laid", registry=ctx.metrics).inc(3)
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def shown(port: int) -> str:
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        return await response.text()


async def test_counters_come_and_go_with_their_plugin(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("hens", COUNTS)
    port = free_port()
    async with running(tmp_path, card, f"metrics.listen=127.0.0.1:{port}") as live:
        assert "roost_hens_eggs_total 3.0\n" in await shown(port)
        await live.host.reload("hens")
        assert "roost_hens_eggs_total 3.0\n" in await shown(port)
        await live.host.unload("hens", "the test says so")
        assert "hens" not in await shown(port)
    with pytest.raises(aiohttp.ClientConnectionError):
        await shown(port)


async def test_an_address_that_is_taken_is_one_clear_line(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        taken = f"127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(ResourceError, match=rf"^metrics.listen: cannot listen on {taken}: .*in use"):
            async with running(tmp_path, card, f"metrics.listen={taken}"):
                pass


@pytest.mark.parametrize("wrong", ["9464", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000"])
async def test_what_is_no_address_says_what_one_looks_like(
    wrong: str, tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.listen"):
        async with running(tmp_path, card, f"metrics.listen={wrong}"):
            pass


def test_an_address_of_the_sixth_version_has_brackets() -> None:
    assert read_address("[::1]:9464") == ("::1", 9464)
