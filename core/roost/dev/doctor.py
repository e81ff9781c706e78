"""``roost doctor``: what a bot needs, looked at one by one; each failure says how to mend it."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roost.errors import RoostError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from roost.config import Config
    from roost.errors import ConfigError

DISK_BYTES = 500_000_000
PRIVILEGED = {
    "GUILD_PRESENCES": (1 << 12) | (1 << 13),
    "GUILD_MEMBERS": (1 << 14) | (1 << 15),
    "MESSAGE_CONTENT": (1 << 18) | (1 << 19),
}
"""Privileged intents and the application flags that allow them (Discord: Application Flags)."""
DISCORD_LIMIT_S = 10.0
DATABASE_LIMIT_S = 15.0
WHISPER = "faster-whisper"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: Of the thing.
        ok: Whether it is fine. What nobody needs is fine too.
        detail: What was seen.
        fix: What to do about it; empty when it is fine.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""

    def line(self) -> str:
        head = f"{'ok  ' if self.ok else 'FAIL'} {self.name}: {self.detail}"
        return f"{head}\n     fix: {self.fix}" if self.fix else head

    def row(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def examine(load: Callable[[], tuple[Config, list[ConfigError]]], token_file: Path | None = None) -> list[Finding]:
    """Look at everything; never raises.

    Args:
        load: Reads the configuration, as `roost.config.examine` does.
        token_file: As ``roost run`` takes it.
    """
    try:
        config, errors = load()
    except RoostError as error:
        return [Finding("configuration", False, str(error), "correct it, and run roost doctor again")]
    from roost.dev.settings_page import unfit

    errors = [*errors, *(error for error in unfit(config) if error.key != "store.url")]
    findings = [Finding("configuration", False, str(error), "correct that setting") for error in errors]
    if not errors:
        findings = [Finding("configuration", True, str(config.source or "no file, all defaults"))]
    findings += _token(config, token_file)
    findings += _libraries(config)
    findings += _plugins(config)
    findings.append(_disk(config.data_dir))
    findings.append(asyncio.run(_database(config)))
    return findings


def _token(config: Config, token_file: Path | None) -> Iterator[Finding]:
    from roost.config import bot_id, read_token

    try:
        token = read_token(os.environ, token_file)
    except RoostError as error:
        yield Finding(
            "token", False, str(error), "take it from https://discord.com/developers/applications, your app, page Bot"
        )
        return
    yield Finding("token", True, "present and well-formed")
    yield from _owner(config.data_dir, bot_id(token))
    yield from asyncio.run(_discord(config, token))


def _owner(folder: Path, bot: int | None) -> Iterator[Finding]:
    """A data folder of another bot."""
    from roost.holder import ANOTHER_FOLDER, read_owner, refuse_another

    try:
        if bot is not None:
            refuse_another(read_owner(folder), bot, f"the data folder {folder}", "a bot has a folder of its own")
    except RoostError as error:
        yield Finding("data folder", False, str(error), ANOTHER_FOLDER)


async def _discord(config: Config, token: str) -> list[Finding]:
    """Ask Discord who the token belongs to and which intents the application may use."""
    import hikari

    from roost.preflight import start_error
    from roost.proxies import find_proxy

    proxy = find_proxy(config.core.discord.rest_url)
    rest = hikari.RESTApp(url=config.core.discord.rest_url, proxy_settings=proxy.settings, max_retries=0)
    await rest.start()
    try:
        async with asyncio.timeout(DISCORD_LIMIT_S), rest.acquire(token, hikari.TokenType.BOT) as client:
            me = await client.fetch_my_user()
            application = await client.fetch_application()
            guilds = len(await client.fetch_my_guilds())
    except hikari.UnauthorizedError:
        fix = "reset the token on your application's Bot page and set ROOST_TOKEN again"
        return [Finding("Discord", False, "Discord refuses the token", fix)]
    except Exception as error:  # noqa: BLE001 - whatever the library says is the finding
        fix = "check the network, a proxy or firewall, and https://discordstatus.com"
        return [Finding("Discord", False, str(start_error(error)), fix)]
    finally:
        await rest.close()
    found = [Finding("Discord", True, f"the token is {me.username}'s, in {guilds} servers")]
    if guilds == 0:
        url = f"https://discord.com/oauth2/authorize?client_id={application.id}&scope=bot+applications.commands"
        found[0] = Finding("Discord", False, f"the token is {me.username}'s, in no server", f"invite it: {url}")
    flags = int(application.flags)
    refused = [
        name
        for name in map(str.upper, config.core.discord.intents)
        if name in PRIVILEGED and not flags & PRIVILEGED[name]
    ]
    if refused:
        fix = "enable them on your application's Bot page, or take them out of discord.intents"
        found.append(Finding("intents", False, f"not allowed: {', '.join(refused)}", fix))
    else:
        found.append(Finding("intents", True, ", ".join(config.core.discord.intents)))
    return found


def _libraries(config: Config) -> Iterator[Finding]:
    denied = set(config.core.plugins.deny)
    allowed = config.core.plugins.allow
    voice = "voice" not in denied and (allowed is None or "voice" in allowed)
    stt = "stt" not in denied and (allowed is None or "stt" in allowed)
    if not voice:
        yield Finding("voice", True, "not wanted by the configuration")
    else:
        yield _present("DAVE", "davey", "davey", "voice")
        yield _present("transport encryption", "cryptography", "cryptography", "voice")
    if not stt:
        yield Finding("speech", True, "not wanted by the configuration")
        return
    yield _opus()
    yield from _speech(config)
    yield _gpu()


def _present(name: str, module: str, dist: str, extra: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(name, False, f"{dist} is not installed", f"run: pip install 'roost[{extra}]'")
    return Finding(name, True, f"{dist} {_version(dist)}")


def _version(dist: str) -> str:
    try:
        return importlib.metadata.version(dist)
    except Exception:  # noqa: BLE001 - damaged metadata; the package itself can be imported
        return "of an unknown version"


def _opus() -> Finding:
    try:
        import av

        av.Codec("libopus", "r")
    except ImportError:
        return Finding("opus", False, "PyAV is not installed", "run: pip install 'roost[stt]'")
    except Exception as error:  # noqa: BLE001 - whatever the library says is the finding
        return Finding("opus", False, f"PyAV has no libopus: {error}", "run: pip install --force-reinstall av")
    return Finding("opus", True, f"PyAV {av.__version__}")


def _speech(config: Config) -> Iterator[Finding]:
    """The engine and the model that the STT plugin would load, by its own words, without loading them."""
    from roost.plugins import inspect_plugins

    models: dict[str, type[BaseModel]] = {}
    row = next((row for row in inspect_plugins(config, validate=True, models=models) if row["name"] == "stt"), None)
    if row is None:
        yield Finding("speech engine", False, "the plugin stt is not installed", "run: pip install 'roost[stt]'")
        return
    if row["state"] == "failed":
        yield Finding("model", False, str(row["detail"]), _fix(row))
        return
    settings = config.plugin("stt", models["stt"]) if "stt" in models else None
    if getattr(settings, "engine", WHISPER) == WHISPER:
        yield _present("speech engine", "faster_whisper", "faster-whisper", "stt")
    if source := getattr(settings, "model_source", ""):
        yield Finding("model", True, source)


def _gpu() -> Finding:
    devices = sorted(each.name for each in Path("/dev").glob("nvidia[0-9]*"))
    if not devices:
        return Finding("GPU", True, "none; speech runs on the processor")
    try:
        import ctranslate2

        usable = int(ctranslate2.get_cuda_device_count())
    except Exception as error:  # noqa: BLE001 - whatever the library says is the finding
        return Finding("GPU", False, f"{', '.join(devices)} cannot be asked: {error}", "check the driver: nvidia-smi")
    if not usable:
        fix = 'install the CUDA libraries that ctranslate2 needs, or set stt.device = "cpu"'
        return Finding("GPU", False, f"{', '.join(devices)} cannot be used", fix)
    return Finding("GPU", True, f"{usable} usable")


def _plugins(config: Config) -> Iterator[Finding]:
    from roost.plugins import inspect_plugins

    try:
        rows = inspect_plugins(config, validate=True)
    except RoostError as error:
        yield Finding("plugins", False, str(error), "mend that; `roost plugins` lists what is found")
        return
    bad = [row for row in rows if row["state"] in ("failed", "unavailable", "incompatible")]
    for row in bad:
        for problem in row["problems"]:
            yield Finding(f"plugin {row['name']}", False, f"{row['state']}: {problem}", _fix(row))
    if not bad:
        yield Finding("plugins", True, ", ".join(str(row["name"]) for row in rows) or "none")


def _fix(row: dict[str, Any]) -> str:
    """What to do about a plugin that cannot be loaded."""
    if row.get("wrong_setting"):
        return "correct that setting"
    return str(row["detail"]) if row["state"] == "unavailable" else "mend the plugin, or deny it: plugins.deny"


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    probe = folder / ".doctor"
    try:
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        return Finding("disk", False, f"{folder} cannot be written: {error.strerror}", "name another by --data-dir")
    if free < DISK_BYTES:
        fix = f"free some space, or name another folder by --data-dir (this one is on {platform.node()})"
        return Finding("disk", False, f"{free // 1_000_000} MB free in {folder}", fix)
    return Finding("disk", True, f"{free // 1_000_000} MB free in {folder}")


async def _database(config: Config) -> Finding:
    from roost.store import look_at_store

    try:
        async with asyncio.timeout(DATABASE_LIMIT_S):
            return Finding("database", True, await look_at_store(config.data_dir, config.core.store.url))
    except TimeoutError:
        why = f"it did not answer within {DATABASE_LIMIT_S:g} s"
        return Finding("database", False, why, "check that its server runs and can be reached; see store.url")
    except RoostError as error:
        return Finding("database", False, str(error), "mend this one, or name another in store.url")
