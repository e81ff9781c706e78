"""``roost sim`` as a process of its own: it starts, says where it is, and never stays behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from roost.errors import ConfigError, ResourceError
from roost.sim import ControlClient, SimSettings, run, spawn

pytestmark = pytest.mark.e2e

DEADLINE_S = 20.0


async def start(*arguments: str, stdin: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "roost", "sim", *arguments),
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 22,
    )


async def card_of(process: asyncio.subprocess.Process) -> Any:
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        return json.loads(await process.stdout.readline())


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    async with asyncio.timeout(DEADLINE_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def taken_port() -> Any:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


async def test_spawned_it_serves_and_is_gone_at_the_end() -> None:
    async with spawn() as process:
        async with ControlClient(process.card["control_url"]) as control:
            assert await control.card() == process.card
            assert (await control.state())["connections"]["gateway"] == 0
        assert process.card["bots"][0]["token"] not in repr(process)
    assert not alive(process.pid)


async def test_it_is_gone_when_the_body_fails() -> None:
    pid = 0
    with pytest.raises(KeyError):
        async with spawn() as process:
            pid = process.pid
            raise KeyError
    assert pid
    assert not alive(pid)


async def test_what_it_says_is_in_the_error(taken_port: int) -> None:
    with pytest.raises(ResourceError, match=f"port {taken_port} cannot be used"):
        async with spawn(["--port", str(taken_port)]):
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_it_with_one_line_said(number: signal.Signals) -> None:
    process = await start()
    card = await card_of(process)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(card["rest_url"].split(":")[2].split("/")[0]))
    process.send_signal(number)
    assert await ended(process) == (0, "", "")
    writer.close()
    assert await reader.read() == b""


async def test_it_ends_with_its_parent() -> None:
    """The parent is killed, not asked."""
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'roost', 'sim', '--exit-with-parent'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        pid = int(await parent.stdout.readline())
    try:
        assert alive(pid)
        parent.kill()
        await parent.wait()
        async with asyncio.timeout(5.0):
            while alive(pid):
                await asyncio.sleep(0.02)
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


async def test_a_busy_port_is_one_clear_line(taken_port: int) -> None:
    code, out, err = await ended(await start("--port", str(taken_port)))
    assert code != 0
    assert out == ""
    assert err.count("\n") == 1
    assert f"port {taken_port} cannot be used (Address already in use); name a free one with --port" in err


@pytest.mark.parametrize("port", ["99999", "-5"])
async def test_no_port_number_is_one_clear_line(port: str) -> None:
    code, out, err = await ended(await start("--port", port))
    assert (code, out) == (2, "")
    assert err == f"roost: port {port} cannot be used (not a port number); name a free one with --port\n"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--guilds", "0", "guilds is from 1 to 10000, not 0"),
        ("--members", "-1", "members is from 0 to 10000, not -1"),
        ("--shards", "0", "shards is from 1 to 10000, not 0"),
        ("--max-concurrency", "0", "max_concurrency is 1 or more, not 0"),
    ],
)
async def test_a_number_out_of_range_is_one_clear_line(option: str, value: str, said: str) -> None:
    assert await ended(await start(option, value)) == (2, "", f"roost: {said}\n")


async def test_no_port_number() -> None:
    with pytest.raises(ConfigError, match="port 99999 cannot be used"):
        await run(99_999, SimSettings())


async def test_watching_a_parent_needs_a_pipe() -> None:
    code, _, err = await ended(await start("--exit-with-parent", stdin=asyncio.subprocess.DEVNULL))
    assert code != 0
    assert "--exit-with-parent needs standard input to be a pipe" in err
    assert "Traceback" not in err
