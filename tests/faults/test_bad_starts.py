"""Starts that cannot work, or not yet: rows 154 to 160 and 173. One line with the true remedy, and a status."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import os
import resource
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from bot_scene import QUIET, scenes
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fault_report import Fault

from roost.demo.bot_process import run_bot
from roost.sim import spawn

pytestmark = pytest.mark.e2e

TOKEN = "OTAwMDAwMDAwMDAwMDAwMDAx.SimSim.simulated-roost-token-0000"
NOWHERE = "http://127.0.0.1:9/api/v10"
ENDS_S = 40.0
MIB = 1 << 20


async def start(
    *arguments: str,
    wait_s: float = 0,
    rest_url: str = NOWHERE,
    before: Callable[[], None] | None = None,
    prefix: tuple[str, ...] = (),
    **environ: str,
) -> tuple[int, str]:
    """Run a start to its end: its status and the one line for people."""
    words = ["--set", f"discord.rest_url={rest_url}", "--set", f"start.wait_s={wait_s}"]
    words += [word for key, value in QUIET.items() for word in ("--set", f"{key}={value}")]
    plain = {
        key: value for key, value in os.environ.items() if not key.startswith("ROOST_") and "proxy" not in key.lower()
    }
    process = await asyncio.create_subprocess_exec(
        *(*prefix, sys.executable, "-m", "roost", "run", *words, *arguments),
        env={**plain, "ROOST_TOKEN": TOKEN, **environ},
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        preexec_fn=before,
    )
    try:
        _, raw = await asyncio.wait_for(process.communicate(), ENDS_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = raw.decode()
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line.startswith("roost: ")]
    assert len(lines) == 1, text
    assert process.returncode is not None
    return process.returncode, lines[0]


# The data folder


@pytest.mark.fault(154)
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
@pytest.mark.parametrize("which", ["another user's", "closed to its own user"])
async def test_a_folder_without_the_right_to_write_says_whose_it_is(which: str, fault: Fault, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700 if which == "another user's" else 0o500)
    if which == "another user's":
        os.chown(data, 65534, -1)
    with fault.clock(scaled=False):
        status, line = await start(
            "--data-dir", str(data), prefix=("setpriv", "--bounding-set=-dac_override,-dac_read_search")
        )
    assert status == 2
    if which == "another user's":
        assert f"{data} belongs to nobody (mode 0700) and this is root; run: chown -R root {data}" in line
    else:
        assert f"{data} is closed to its own user root (mode 0500); run: chmod u+rwX {data}" in line


@pytest.mark.fault(154)
@pytest.mark.parametrize("kib", [0, 8, 24])
async def test_a_folder_without_room_says_so(kib: int, fault: Fault, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kib << 10, kib << 10))

    with fault.clock(scaled=False):
        status, line = await start("--data-dir", str(tmp_path / "data"), before=limit)
    assert status in (2, 3)
    assert "free some space" in line


@pytest.mark.fault(154)
@pytest.mark.parametrize("kind", ["read-only", "full"])
async def test_a_folder_on_a_disk_that_takes_nothing_says_so(kind: str, fault: Fault, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "ro" if kind == "read-only" else "size=32k"), fault.clock(scaled=False):
        status, line = await start("--data-dir", str(disk))
    assert status in (2, 3)
    assert ("Read-only file system" if kind == "read-only" else "free some space") in line
    assert str(disk) in line


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.fault(154)
@pytest.mark.parametrize(
    ("name", "what"),
    [
        (name, what)
        for name in ("holder.lock", "bot.json", "instances", "roost.sqlite3", "roost.sqlite3.lock")
        for what in ("a folder or file in its place", "a dangling link")
        # A dangling bot.json is written over, and nothing is lost.
        if (name, what) != ("bot.json", "a dangling link")
    ],
)
async def test_something_in_the_way_is_named(name: str, what: str, fault: Fault, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    if what == "a dangling link":
        (data / name).symlink_to("/nowhere/at/all")
    elif name == "instances":
        (data / name).touch()
    else:
        (data / name).mkdir()
    with fault.clock(scaled=False):
        status, line = await start("--data-dir", str(data))
    assert status == 2
    assert str(data) in line
    assert name in line


@pytest.mark.fault(154)
async def test_a_folder_of_the_group_works_when_asked_for(fault: Fault, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o2770)
    status, line = await start("--data-dir", str(data))
    assert (status, "store.group_writable" in line) == (2, True)
    async with scenes(tmp_path) as scene:
        with fault.clock(scaled=False):
            async with scene.bot(store__group_writable="true") as bot:
                bot.terminate()
                assert await bot.wait(10) == 0
    assert data.stat().st_mode & 0o7777 == 0o2770


# The database and the configuration


@pytest.mark.fault(155)
async def test_a_damaged_database_is_named(fault: Fault, tmp_path: Path) -> None:
    (tmp_path / "roost.sqlite3").write_bytes(os.urandom(8192))
    with fault.clock(scaled=False):
        status, line = await start("--data-dir", str(tmp_path))
    assert status == 2
    assert f"the database {tmp_path / 'roost.sqlite3'} is damaged" in line
    assert "restore a backup" in line


@pytest.mark.fault(156)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
async def test_a_configuration_with_a_byte_order_mark_is_named(encoding: str, fault: Fault, tmp_path: Path) -> None:
    file = tmp_path / "roost.toml"
    file.write_text('[log]\nlevel = "INFO"\n', encoding=encoding)
    with fault.clock(scaled=False):
        status, line = await start("--data-dir", str(tmp_path / "data"), "--config", str(file))
    assert status == 2
    assert f"{file} begins with a byte order mark" in line
    assert "save it as UTF-8 without BOM" in line


@pytest.mark.fault(156)
async def test_an_address_that_is_not_discord_is_named(fault: Fault, tmp_path: Path) -> None:
    status, line = await start("--data-dir", str(tmp_path / "data"), rest_url="discord.com")
    assert (status, "discord.rest_url: is no address of a REST API" in line) == (2, True)
    for answer in (
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        page(b"<html>"),
        page(b"{}", b"application/json"),
        page(b"null", b"application/json"),
        page(b"[1]", b"application/json"),
    ):
        async with server(answer) as port:
            with fault.clock(scaled=False):
                status, line = await start(
                    "--data-dir", str(tmp_path / "data"), wait_s=30, rest_url=f"http://127.0.0.1:{port}/api/v10"
                )
        assert status == 2
        assert "discord.rest_url: what answers there is not Discord" in line


@pytest.mark.fault(157)
async def test_an_answer_that_breaks_off_is_waited_for(fault: Fault, tmp_path: Path) -> None:
    broken = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
    async with server(broken) as port:
        with fault.clock(scaled=False):
            status, line = await start(
                "--data-dir", str(tmp_path / "data"), wait_s=2, rest_url=f"http://127.0.0.1:{port}/api/v10"
            )
    assert (status, line) == (3, "roost: Discord's answer broke off; check the network")


def page(body: bytes, kind: bytes = b"text/html") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(body), body)


@contextlib.asynccontextmanager
async def server(answer: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Something that answers every request alike."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    made = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with made:
        yield made.sockets[0].getsockname()[1]


# The network


@pytest.mark.fault(157)
async def test_without_network_the_start_waits_until_there_is_one(fault: Fault, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--data-dir", str(tmp_path), "--set", f"discord.rest_url=http://127.0.0.1:{port}/api/v10"]
    words += ["--set", "plugins.deny=stt,voice", "--set", "plugins.required=", "--set", "log.format=json"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
    async with run_bot(words, {**environ, "ROOST_TOKEN": TOKEN}) as bot:
        await bot.wait_for(lambda each: each.get("event") == "start_waits_for_discord", 20, "waiting")
        async with spawn(["--port", str(port)]):
            with fault.clock(scaled=False):
                await bot.ready(30)
            bot.terminate()
            assert await bot.wait(10) == 0


@pytest.mark.fault(157)
async def test_a_start_that_waits_ends_at_once_when_it_is_told_to(fault: Fault, tmp_path: Path) -> None:
    words = ["--data-dir", str(tmp_path), "--set", f"discord.rest_url={NOWHERE}", "--set", "log.format=json"]
    words += ["--set", "plugins.deny=stt,voice", "--set", "plugins.required="]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
    async with run_bot(words, {**environ, "ROOST_TOKEN": TOKEN}) as bot:
        await bot.wait_for(lambda each: each.get("event") == "start_waits_for_discord", 20, "waiting")
        with fault.clock(2, scaled=False):
            os.kill(bot.pid, signal.SIGTERM)
            assert await bot.wait(10) == 0


KEEPS = """
import asyncio
from roost import Hooks, Meta, hookimpl

class Keeps(Hooks):
    @hookimpl
    def plugin_meta(self):
        return Meta("keeps", data_version=VERSION)

    @hookimpl
    async def migrate_data(self, store, old, new):
        await store.collection("notes").put("key", new)
        print("slow", flush=True)
        await asyncio.sleep(30)

    @hookimpl
    async def on_load(self, ctx):
        await ctx.store.collection("notes").put("key", 1)
        if VERSION == 1:
            print("slow", flush=True)
            await asyncio.sleep(LOAD_S)
"""


@pytest.mark.fault(173)
@pytest.mark.parametrize("slow", ["on_load", "migrate_data"])
async def test_a_start_that_loads_plugins_ends_at_once_when_it_is_told_to(
    slow: str, fault: Fault, tmp_path: Path
) -> None:
    plugins, data = tmp_path / "plugins", tmp_path / "data"
    plugins.mkdir(mode=0o700)
    words = ["--data-dir", str(data), "--plugins-dir", str(plugins), "--set", f"discord.rest_url={NOWHERE}"]
    words += ["--set", "plugins.deny=stt,voice", "--set", "plugins.required=", "--set", "log.format=json"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
    versions = [(1, 25)] if slow == "on_load" else [(1, 0), (2, 0)]
    for version, load_s in versions:
        code = KEEPS.replace("VERSION", str(version)).replace("LOAD_S", str(load_s))
        (plugins / "keeps.py").write_text(code)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "roost", "run", *words),
            env={**environ, "ROOST_TOKEN": TOKEN},
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=DEVNULL,
        )
        assert process.stdout is not None
        try:
            assert await asyncio.wait_for(process.stdout.readline(), 20) == b"slow\n"
            with fault.clock(scaled=False):
                process.terminate()
                assert await asyncio.wait_for(process.wait(), 15) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    with contextlib.closing(sqlite3.connect(data / "roost.sqlite3")) as connection:
        assert connection.execute("SELECT value FROM plugin_keeps").fetchall() == [("1",)]


@pytest.mark.fault(173)
async def test_a_start_that_waits_for_the_database_ends_at_once_when_it_is_told_to(
    fault: Fault, tmp_path: Path
) -> None:
    pytest.importorskip("asyncpg")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        silent.settimeout(20)
        url = f"postgresql://roost@127.0.0.1:{silent.getsockname()[1]}/x"
        words = ["--data-dir", str(tmp_path), "--set", f"discord.rest_url={NOWHERE}", "--set", f"store.url={url}"]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
        async with run_bot(words, {**environ, "ROOST_TOKEN": TOKEN}) as bot:
            connection, _address = await asyncio.to_thread(silent.accept)
            with connection, fault.clock(scaled=False):
                bot.terminate()
                assert await bot.wait(15) == 0
        assert "Traceback" not in "\n".join(bot.tail)


@pytest.mark.fault(157)
async def test_a_start_that_waited_long_enough_says_what_is_wrong(fault: Fault, tmp_path: Path) -> None:
    began = time.monotonic()
    status, line = await start("--data-dir", str(tmp_path), wait_s=3)
    assert time.monotonic() - began >= 3
    fault.note(time.monotonic() - began, scaled=False)
    assert status == 3
    assert "Discord cannot be reached" in line
    assert "check the network" in line


@pytest.mark.fault(158)
@pytest.mark.parametrize("year", [1998, 2054], ids=["certificate of 1998", "certificate of 2054"])
async def test_a_clock_that_is_decades_off_is_named(year: int, fault: Fault, tmp_path: Path) -> None:
    """A clock that is 28 years off meets certificates that are over, or not yet valid, by as much."""
    tls, certificate = tls_of(year, tmp_path)
    async with server(page(b"{}"), tls) as port:
        with fault.clock(scaled=False):
            status, line = await start(
                "--data-dir", str(tmp_path / "data"), wait_s=30, rest_url=f"https://localhost:{port}/api/v10",
                SSL_CERT_FILE=str(certificate),
            )  # fmt: skip
    assert status == 3
    assert f"not valid at this machine's time, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}" in line
    assert "set the clock" in line


@pytest.mark.fault(158)
async def test_a_certificate_of_somebody_else_is_named(fault: Fault, tmp_path: Path) -> None:
    tls, _ = tls_of(datetime.datetime.now(datetime.UTC).year, tmp_path)
    async with server(page(b"{}"), tls) as port:
        with fault.clock(scaled=False):
            status, line = await start(
                "--data-dir", str(tmp_path / "data"), rest_url=f"https://localhost:{port}/api/v10"
            )
    assert status == 3
    assert "is not trusted" in line


def tls_of(year: int, folder: Path) -> tuple[ssl.SSLContext, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(year + 1, 1, 1, tzinfo=datetime.UTC))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, secret)
    return context, certificate


@pytest.mark.fault(159)
async def test_discord_is_reached_through_the_proxy_of_the_environment(fault: Fault, tmp_path: Path) -> None:
    """Only the proxy knows the name of Discord here. Voice goes on its own."""
    async with scenes(tmp_path) as scene, proxy() as (port, targets):
        discord = int(scene.sim.card["rest_url"].split(":")[2].split("/")[0])
        words = ["--data-dir", str(tmp_path / "data"), "--set", "log.format=json"]
        settings = {
            "discord.rest_url": f"http://discord.invalid:{discord}/api/v10",
            "voice.ca_file": scene.sim.card["ca_file"],
            "voice.allowed_hosts": "localhost,127.0.0.1",
            **QUIET,
        }
        words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
        environ |= {"ROOST_TOKEN": TOKEN, "HTTP_PROXY": f"http://user:secret@127.0.0.1:{port}"}
        with fault.clock(scaled=False):
            async with run_bot(words, environ) as bot:
                await bot.ready()
                assert "Joined" in await scene.join()
                assert targets == {f"discord.invalid:{discord}", f"127.0.0.1:{discord}"}
                bot.terminate()
                assert await bot.wait(10) == 0
        said = "\n".join(bot.tail)
        assert f"through the proxy 127.0.0.1:{port}; voice connects directly" in said
        assert "secret" not in said


@pytest.mark.fault(159)
async def test_a_proxy_that_cannot_be_used_is_refused(fault: Fault, tmp_path: Path) -> None:
    for value, wanted in (
        ("socks5://user:secret@127.0.0.1:1", "only HTTP proxies work"),
        ("http://x:y", "no URL of a proxy"),
    ):
        with fault.clock(scaled=False):
            status, line = await start(
                "--data-dir", str(tmp_path), rest_url="http://discord.invalid/api/v10", HTTP_PROXY=value
            )
        assert status == 2
        assert "HTTP_PROXY" in line
        assert wanted in line
        assert "secret" not in line


@contextlib.asynccontextmanager
async def proxy() -> AsyncIterator[tuple[int, set[str]]]:
    """An HTTP proxy to which every name is this machine, and the hosts it was asked for."""
    targets: set[str] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        assert b"Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=" in head
        method, url, rest = head.split(b" ", 2)
        host, _, path = url.partition(b"://")[2].partition(b"/")
        targets.add(host.decode())
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(host.rpartition(b":")[2]))
        far_writer.write(b" ".join([method, b"/" + path, rest]))
        await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))

    made = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield made.sockets[0].getsockname()[1], targets
    finally:
        made.close()


# The user


@pytest.mark.fault(160)
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
async def test_a_user_without_a_home_is_told_to_name_a_folder(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    caps = "+dac_override,+dac_read_search"
    prefix = ("setpriv", "--reuid=54321", "--clear-groups", f"--inh-caps={caps}", f"--ambient-caps={caps}")
    monkeypatch.chdir(tmp_path)
    with fault.clock(scaled=False):
        status, line = await start(prefix=prefix)
    assert status == 2
    assert "there is no home folder" in line
    assert "--data-dir" in line
    assert list(tmp_path.iterdir()) == []
