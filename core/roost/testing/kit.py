"""A real bot at a simulated Discord, both in this process: what plugin tests and ``roost run --offline`` stand on."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import itertools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from roost.app import App
from roost.config import load
from roost.entrypoints import installed_points
from roost.errors import ConfigError, ResourceError, UsageError
from roost.plugins import GROUP
from roost.plugins.importing import DROP_INS, forget_modules
from roost.scopes import Scope
from roost.sim import ControlClient, SimSettings, SimulatedDiscord
from roost.sim.gateway import PRIVILEGED
from roost.sim.world import TEXT, VOICE, Channel, Guild

START_S = 30.0
STOP_S = 12.0

_given: dict[str, Any] = {}
"""Plugin objects handed to a bot, by the module name of the file that stands for each."""

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """A file that came with a reply."""

    name: str
    content: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """One reply to a command or a button.

    Attributes:
        id: Of the message.
        content: Its text.
        ephemeral: Only the member sees it.
        buttons: Labels of its buttons, in order.
        files: What came with it.
        raw: All that the simulator tells about it.
    """

    id: int
    content: str
    ephemeral: bool
    buttons: tuple[str, ...]
    files: tuple[File, ...]
    raw: Mapping[str, Any] = dataclasses.field(repr=False)


class RoostBot:
    """A running bot, and the hands and voices of the members around it. Made by `running_bot`.

    Members and channels are named by id or by name: the members are Mod (owner of the guild), Ada, Ben and Cleo, the
    text channels general and captions, the voice channels perch, loft, barn and attic.

    Attributes:
        app: The real app.
        discord: The simulated Discord.
        control: A client of its control API, for everything this class has no method for.
    """

    def __init__(self, app: App, discord: SimulatedDiscord, control: ControlClient) -> None:
        self.app = app
        self.discord = discord
        self.control = control

    @property
    def guild(self) -> Guild:
        """The first guild."""
        return next(iter(self.discord.world.guilds.values()))

    def guild_of(self, guild: int | None = None) -> Guild:
        """By its number, 0 for the first, or its id.

        Raises:
            UsageError: There is none.
        """
        guilds = list(self.discord.world.guilds.values())
        found = next((each for n, each in enumerate(guilds) if guild in (n, each.id)), None)
        if guild is None:
            return guilds[0]
        if found is None:
            raise UsageError(f"there is no guild {guild}; there are {len(guilds)}")
        return found

    def member(self, who: str | int, guild: int | None = None) -> int:
        """The id of a member.

        Raises:
            UsageError: There is nobody of that name.
        """
        members = self.guild_of(guild).members
        found = next((key for key, each in members.items() if who in (key, each.user.name)), None)
        if found is None:
            known = ", ".join(each.user.name for each in members.values() if not each.user.bot)
            raise UsageError(f"there is no member {who!r}; there is: {known}")
        return found

    def channel(self, which: str | int, guild: int | None = None) -> Channel:
        """A channel, or a thread.

        Raises:
            UsageError: There is none of that name.
        """
        channels = [*self.guild_of(guild).channels.values(), *self.guild_of(guild).threads.values()]
        found = next((each for each in channels if which in (each.id, each.name)), None)
        if found is None:
            known = ", ".join(each.name for each in channels)
            raise UsageError(f"there is no channel {which!r}; there is: {known}")
        return found

    async def replies(
        self,
        command: str,
        /,
        *,
        member: str | int = "Ada",
        channel: str | int = "general",
        guild: int | None = None,
        locale: str | None = None,
        guild_locale: str | None = None,
        wait_s: float = 5.0,
        options: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> list[Reply]:
        """Run a slash command, such as ``/hello`` or ``/voice join``, and give all replies to it.

        Args:
            command: With its subcommands.
            member: Who types it.
            channel: Where; a text channel.
            guild: Its number or id; None is the first.
            locale: The member's language, such as ``de``; by default American English.
            guild_locale: The guild's.
            wait_s: How long to wait for the first reply.
            options: Of the command, by name, whatever they are called: ``{"channel": ...}``, ``{"member": ...}``.
            named: Further options, where Python and the arguments above allow the name; ``_`` stands for ``-``.

        Raises:
            ControlError: There is no such command or option, or the member may not use it.
            TimeoutError: The bot did not answer.
        """
        body = {
            "member_id": str(self.member(member, guild)),
            "channel_id": str(self.channel(channel, guild).id),
            "command": command,
            "options": {**{name.replace("_", "-"): value for name, value in named.items()}, **(options or {})},
            "wait_s": wait_s,
            "locale": locale,
            "guild_locale": guild_locale,
        }
        return _replies(command, await self.control.call("POST", "/slash", body))

    async def slash(self, command: str, /, **arguments: Any) -> Reply:
        """Like `replies`, giving the first.

        Raises:
            ControlError: See `replies`.
            TimeoutError: The bot did not answer.
        """
        return (await self.replies(command, **arguments))[0]

    async def press(self, reply: Reply | int, label: str, *, member: str | int = "Ada", wait_s: float = 5.0) -> Reply:
        """Press a button of a message and give the answer.

        Raises:
            ControlError: There is no such button.
            TimeoutError: The bot did not answer.
        """
        message = reply.id if isinstance(reply, Reply) else reply
        answer = await self.control.press(member_id=self.member(member), message_id=message, label=label, wait_s=wait_s)
        return _replies(f"the button {label}", answer)[0]

    async def write(self, text: str, *, member: str | int = "Ada", channel: str | int = "general") -> int:
        """A member writes a message; gives its id."""
        return await self.control.say(text, member_id=self.member(member), channel_id=self.channel(channel).id)

    async def messages(self, channel: str | int = "general") -> list[str]:
        """What everybody sees in a text channel, oldest first."""
        found = await self.control.messages(channel_id=self.channel(channel).id)
        return [str(message["content"]) for message in found]

    async def join_voice(self, member: str | int = "Ada", channel: str | int | None = "perch") -> None:
        """Bring a member into a voice channel, or with None out; returns when their client is live."""
        place = None if channel is None else self.channel(channel).id
        await self.control.voice(member_id=self.member(member), channel_id=place)

    async def say(self, sound: str | Path | bytes, *, member: str | int = "Ada") -> Mapping[str, Any]:
        """A member who is in voice says something, in real time; returns when it was said.

        Args:
            sound: The name of a shipped recording (``recordings`` lists them), a WAV file, or its bytes.
            member: Who speaks.
        """
        who = self.member(member)
        if isinstance(sound, str):
            return await self.control.speak(member_id=who, recording=sound)
        data = sound if isinstance(sound, bytes) else await asyncio.to_thread(sound.read_bytes)
        return await self.control.speak(member_id=who, wav=base64.b64encode(data).decode())

    async def recordings(self) -> list[str]:
        """Names of the recordings that members can say."""
        return [str(each["name"]) for each in await self.control.recordings()]

    def commands(self, guild: int | None = None) -> list[dict[str, Any]]:
        """A guild's slash commands as Discord has them."""
        bot = self.discord.world.bots[0]
        return self.discord.commands.get((bot.application_id, self.guild_of(guild).id), [])

    def guilds(self) -> list[int]:
        return list(self.discord.world.guilds)

    def text_channels(self) -> list[str]:
        return [each.name for each in self.guild.of_type(TEXT)]

    def voice_channels(self) -> list[str]:
        return [each.name for each in self.guild.of_type(VOICE)]


def _replies(what: str, answer: Mapping[str, Any]) -> list[Reply]:
    if answer["timed_out"] or not answer["replies"]:
        raise TimeoutError(f"the bot did not answer {what}")
    return [reply_of(each) for each in answer["replies"]]


def reply_of(raw: Mapping[str, Any]) -> Reply:
    """A message of the control API as a reply."""
    files = tuple(File(each["name"], base64.b64decode(each["data"])) for each in raw.get("files") or ())
    buttons = tuple(
        str(part["label"])
        for row in raw.get("components") or ()
        for part in row.get("components") or (row,)
        if part.get("label")
    )
    return Reply(int(raw["id"]), str(raw["content"]), bool(raw["ephemeral"]), buttons, files, raw)


@asynccontextmanager
async def running_bot(
    *plugins: Path | str | object,
    data_dir: Path,
    plugins_dir: Path | None = None,
    installed: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    guilds: int = 2,
) -> AsyncIterator[RoostBot]:
    """Start a simulated Discord and a bot that is ready; at the end both are gone.

    Args:
        plugins: Files of drop-in plugins, all in one folder, or plugin objects and classes.
        data_dir: For the store; a fresh folder gives a fresh bot.
        plugins_dir: A whole drop-in folder instead of `plugins`.
        installed: Names of installed plugins to load too, such as ``voice``.
        settings: Further ones, ``section.key`` to value.
        guilds: How many guilds there are.

    Raises:
        ConfigError: A setting is wrong, or a required plugin failed.
        UsageError: The plugins cannot be loaded together.
        ResourceError: The bot did not become ready.
    """
    sets = {str(key): _as_text(value) for key, value in (settings or {}).items()}
    wanted = set(installed)
    known = {point.name for point in installed_points(GROUP)}
    if missing := wanted - known:
        raise UsageError(
            f"no plugin called {min(missing)} is installed; there is: {', '.join(sorted(known)) or 'none'}"
        )
    folder, names, stands_for = _drop_ins(plugins, plugins_dir, data_dir)
    if folder is not None:
        sets["plugins.dir"] = str(folder)
    if names is not None:
        sets["plugins.allow"] = ",".join([*names, *sorted(wanted)])
    else:
        sets["plugins.deny"] = ",".join(sorted(known - wanted))
    try:
        async with (
            SimulatedDiscord(SimSettings(guilds=guilds, intents_allowed=PRIVILEGED)) as discord,
            ControlClient(discord.control_url) as control,
        ):
            sets["discord.rest_url"] = discord.rest_url
            if "voice" in wanted:
                sets.setdefault("voice.ca_file", str(discord.card()["ca_file"]))
                sets.setdefault("voice.allowed_hosts", "localhost,127.0.0.1")
            config = load(environ={}, sets=[f"{key}={value}" for key, value in sets.items()], data_dir=data_dir)
            app = App(config, discord.world.bots[0].token)
            async with _run(app):
                yield RoostBot(app, discord, control)
    finally:
        for name in stands_for:
            _given.pop(name, None)
        # The next bot of this process may have other drop-in plugins of the same names.
        forget_modules(DROP_INS)


@asynccontextmanager
async def _run(app: App) -> AsyncIterator[None]:
    scope = Scope("offline bot")
    running = scope.spawn(app.run(), "run", awaited=True)
    ready = scope.spawn(app.ready.wait(), "ready")
    try:
        await asyncio.wait({running, ready}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        if not app.ready.is_set():
            raise ResourceError("the bot did not become ready")
        async with asyncio.timeout(START_S):
            await app.commands_in_place.wait()
        yield
    finally:
        if not running.done():
            app.request_stop("the test is over")
            await asyncio.wait({running}, timeout=STOP_S)
        elif not running.cancelled():
            running.exception()
        await scope.aclose()


def _drop_ins(
    plugins: Sequence[Path | str | object], plugins_dir: Path | None, data_dir: Path
) -> tuple[Path | None, list[str] | None, list[str]]:
    """The drop-in folder, the plugins wanted in it (None: all) and the stand-ins made for objects."""
    files = [Path(each).absolute() for each in plugins if isinstance(each, Path | str)]
    objects = [each for each in plugins if not isinstance(each, Path | str)]
    if plugins_dir is not None:
        if plugins:
            raise UsageError("give plugins or plugins_dir, not both")
        return plugins_dir.absolute(), None, []
    if not plugins:
        return None, [], []
    if files and (objects or len({file.parent for file in files}) > 1):
        raise UsageError("plugin files must lie in one folder, and cannot be mixed with plugin objects")
    if files:
        gone = next((file for file in files if not file.exists()), None)
        if gone is not None:
            raise UsageError(f"there is no plugin {gone}")
        return files[0].parent, [file.stem for file in files], []
    folder = data_dir / "given-plugins"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    names, stands_for = [], []
    for each in objects:
        instance = each() if isinstance(each, type) else each
        name = _name_of(instance)
        key = f"{name}-{next(_numbers)}"
        _given[key] = instance
        stands_for.append(key)
        names.append(name)
        file = folder / f"{name}.py"
        file.write_text(
            f"from roost.testing.kit import _given\n\n__roost_plugin__ = _given[{key!r}]\n", encoding="utf-8"
        )
        file.chmod(0o600)
    return folder, names, stands_for


def _name_of(instance: Any) -> str:
    try:
        return str(instance.plugin_meta().name)
    except AttributeError:
        raise UsageError(f"{instance!r} is not a plugin: it has no plugin_meta") from None


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Path):
        return str(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value)


__all__ = ["ConfigError", "File", "Reply", "RoostBot", "reply_of", "running_bot"]
