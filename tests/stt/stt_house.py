"""The host around the speech-to-text plugin: a real dispatcher, and a session that a test controls."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import hikari
from prometheus_client import CollectorRegistry
from stt_rig import worker_pids

from roost.audio import AudioFrame, FrameSink, NoticeFacts, VoiceSession
from roost.config import build
from roost.dispatch import Dispatcher
from roost.errors import ClosedError
from roost.hooks import Meta, hookimpl
from roost.scopes import Scope
from roost.speech import Transcript
from roost.store import Store, open_store
from roost_stt.config import SttConfig
from roost_stt.exports import StoredLine
from roost_stt.plugin import SttPlugin
from roost_stt.transcripts import TranscriptBook

GUILD, VOICE, TEXT, ADA, BEN, ME = 1, 20, 30, 7, 8, 9


PERMISSIONS = (
    hikari.Permissions.VIEW_CHANNEL
    | hikari.Permissions.SEND_MESSAGES
    | hikari.Permissions.READ_MESSAGE_HISTORY
    | hikari.Permissions.CONNECT
    | hikari.Permissions.CREATE_PUBLIC_THREADS
    | hikari.Permissions.SEND_MESSAGES_IN_THREADS
)
THREAD = 1000
"""Threads have this and the id of the message above them."""


class FakeSession:
    """What the voice plugin would hand out."""

    def __init__(self) -> None:
        self.id = "s1"
        self.guild_id = GUILD
        self.channel_id = VOICE
        self.members = frozenset({ADA, BEN})
        self.sinks: list[FrameSink] = []
        self.closed = False
        self.capture_state = "off"
        self.notice_works = True
        self.facts = NoticeFacts()

    async def capturing(self) -> bool:
        self.capture_state = "on" if self.notice_works else "failed"
        return self.notice_works

    def attach(self, sink: FrameSink, *, facts: NoticeFacts) -> Callable[[], None]:
        self.facts = facts
        if self.closed:
            raise ClosedError("closed")
        self.sinks.append(sink)
        return lambda: self.sinks.remove(sink)

    def say(self, packets: list[bytes], user: int = ADA, *, after: int = 0) -> None:
        """Speak; `after` is how many packets of the same speech came before."""
        for number, packet in enumerate(packets, after):
            for sink in self.sinks:
                sink.write(AudioFrame(GUILD, user, user, number * 960, packet))


class Guest:
    """Another plugin that looks at transcripts."""

    def __init__(self) -> None:
        self.ready: list[Transcript] = []

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("guest")

    @hookimpl
    async def transcript_process(self, session: VoiceSession, draft: Transcript) -> Transcript | None:
        import dataclasses

        if "secret" in draft.text:
            return dataclasses.replace(draft, text="")
        return dataclasses.replace(draft, text=draft.text.upper())

    @hookimpl
    async def transcript_ready(self, session: VoiceSession, transcript: Transcript) -> None:
        self.ready.append(transcript)


POOL = 15
"""Connections to the database at once, at most."""


class House:
    """The parts of the host that the plugin touches."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.messages: list[tuple[int, str, dict[str, Any]]] = []
        self.edits = 0
        self.threads: list[str] = []
        self.no_threads = False
        self.posted = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()
        self._store: Store | None = None
        self.dispatcher = Dispatcher(lambda: ["stt", "guest"], lambda plugin, guild: True)
        self.guest = Guest()
        self.config = build(SttConfig, {"engine": "scripted", **settings}, "stt")
        self.overwrites: dict[int, hikari.PermissionOverwrite] = {}
        self.voice_overwrites: dict[int, hikari.PermissionOverwrite] = {}
        role = types.SimpleNamespace(permissions=PERMISSIONS, bot_id=None, is_managed=False)
        self.listeners: list[tuple[type[hikari.Event], Callable[[Any], Awaitable[None]]]] = []
        self.gone: set[int] = set()
        """Channels that Discord has no more."""
        self.bot = types.SimpleNamespace(
            intents=hikari.Intents.GUILDS | hikari.Intents.GUILD_VOICE_STATES,
            get_me=lambda: types.SimpleNamespace(id=ME),
            shards={},
            rest=types.SimpleNamespace(
                create_message=self._create_message,
                edit_message=self._edit_message,
                delete_message=self._delete_message,
                create_message_thread=self._create_thread,
            ),
            cache=types.SimpleNamespace(
                get_member=lambda guild, user: self.member(user),
                get_guild=lambda guild: types.SimpleNamespace(
                    id=guild, owner_id=0, member_count=None, get_roles=lambda: {guild: role}
                ),
                get_members_view_for_guild=lambda guild: {},
                get_guild_channel=lambda channel: (
                    types.SimpleNamespace(
                        id=channel,
                        guild_id=GUILD,
                        name="perch" if channel == VOICE else "captions",
                        type=hikari.ChannelType.GUILD_VOICE if channel == VOICE else hikari.ChannelType.GUILD_TEXT,
                        permission_overwrites=self.voice_overwrites if channel == VOICE else self.overwrites,
                    )
                    if channel not in self.gone
                    else None
                ),
                get_thread=lambda channel: None,
                get_voice_state=lambda guild, user: None,
            ),
        )
        self.session = FakeSession()
        self.refused: set[int] = set()
        self.undecided: set[int] = set()
        self.consent_callbacks: list[Callable[[int, int], None]] = []

    def member(self, user: int) -> Any:
        return types.SimpleNamespace(
            id=user,
            guild_id=GUILD,
            role_ids=[],
            display_name={ADA: "Ada*", BEN: "Ben", ME: "Roost"}.get(user, f"U{user}"),
            communication_disabled_until=lambda: None,
        )

    @property
    def status(self) -> str:
        """What ``/transcribe status`` answers Ada."""
        return self.plugin.describe(GUILD, self.member(ADA))

    async def change_channel(self, channel: int) -> None:
        """Discord tells that a channel has changed."""
        event = hikari.GuildChannelUpdateEvent(
            shard=cast(Any, None),
            old_channel=None,
            channel=cast(Any, types.SimpleNamespace(id=hikari.Snowflake(channel), guild_id=hikari.Snowflake(GUILD))),
        )
        for kind, callback in self.listeners:
            if isinstance(event, kind):
                await callback(event)

    async def move(self, room: int, *, by_request: bool) -> None:
        """The session is in another room now."""
        old, self.session.channel_id = self.session.channel_id, room
        await self.plugin.voice_session_moved(cast(VoiceSession, self.session), old, room, by_request)

    def opt_out(self, user: int) -> None:
        self.refused.add(user)
        for callback in self.consent_callbacks:
            callback(GUILD, user)

    def forget_decision(self, user: int) -> None:
        """A member is forgotten, in a server where nobody has to agree."""
        self.undecided.add(user)
        for callback in self.consent_callbacks:
            callback(GUILD, user)

    def _decision(self, guild: int, user: int) -> bool | None:
        return None if user in self.undecided else user not in self.refused

    def _subscribe(self, callback: Callable[[int, int], None]) -> Callable[[], None]:
        self.consent_callbacks.append(callback)
        return lambda: self.consent_callbacks.remove(callback)

    async def _create_message(self, channel: int, text: str, **options: Any) -> Any:
        """Ids count from 1."""
        self.messages.append((channel, text, options))
        self.posted.set()
        return types.SimpleNamespace(id=len(self.messages))

    async def _edit_message(self, channel: int, message: int, text: str, **options: Any) -> None:
        assert options == {"mentions_everyone": False, "user_mentions": False, "role_mentions": False}
        self.messages[message - 1] = (channel, text, options)
        self.edits += 1
        self.posted.set()

    async def _delete_message(self, channel: int, message: int) -> None:
        self.messages[message - 1] = (channel, "", {})
        self.posted.set()

    async def _create_thread(self, channel: int, message: int, name: str, **options: Any) -> Any:
        if self.no_threads:
            raise hikari.ForbiddenError("https://discord.test", {}, b"", "Missing Permissions", 50013)
        self.threads.append(name)
        return types.SimpleNamespace(id=THREAD + message)

    async def load(self) -> SttPlugin:
        if self._store is None:
            self._store = await self._stack.enter_async_context(open_store(self.folder))
        kept = self._store.of_plugin("stt")
        self.plugin = SttPlugin()
        self.dispatcher.manager.register(self.plugin, "stt")
        self.scope = Scope("plugin:stt")
        self.ctx: Any = types.SimpleNamespace(
            name="stt",
            bot=self.bot,
            hooks=self.dispatcher,
            settings=kept.settings,
            store=kept,
            config=self.config,
            config_for=lambda guild: self.config,
            consent=types.SimpleNamespace(
                allows=lambda guild, user: user not in self.refused,
                decision=self._decision,
                subscribe=self._subscribe,
            ),
            on_unload=lambda callback: None,
            listen=lambda event, callback: self.listeners.append((event, callback)),
            scope=self.scope,
            task=lambda work, name, guild_id=None, always=False: self.scope.spawn(work, name),
            keep=self.scope.keep,
            metrics=CollectorRegistry(),
        )
        await self.plugin.on_load(self.ctx)
        return self.plugin

    async def fill_pool(self) -> None:
        """Have the database's pool open every connection that it keeps, so that none comes later."""
        assert self._store is not None
        await asyncio.gather(*(self._store.get_setting("stt", None, "none") for _ in range(POOL)))

    async def unload(self, reason: str = "shutdown") -> None:
        await self.plugin.on_unload(self.ctx, reason)
        assert await self.scope.aclose() == []
        self.dispatcher.manager.unregister(name="stt")

    async def aclose(self) -> None:
        await self._stack.aclose()

    @property
    def texts(self) -> list[str]:
        return [text for _, text, _ in self.messages]

    async def until(self, check: Callable[[], bool], timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not check():
                self.posted.clear()
                try:
                    async with asyncio.timeout(0.05):
                        await self.posted.wait()
                except TimeoutError:
                    continue

    async def open(self) -> None:
        await self.plugin.voice_session_opened(cast(VoiceSession, self.session))

    async def close(self, seconds: float = 2.0) -> None:
        session = cast(VoiceSession, self.session)
        await self.plugin.voice_session_closing(session, "leave", asyncio.get_running_loop().time() + seconds)
        self.session.closed = True
        await self.plugin.voice_session_closed(session, "leave", cast(Any, None))

    def workers(self) -> list[int]:
        return worker_pids()


async def lines_of(book: TranscriptBook, record: str) -> list[StoredLine]:
    """All lines of a transcript, by the time they began."""
    return [line async for page in book.pages(record) for line in page]


@contextlib.asynccontextmanager
async def houses() -> AsyncIterator[Callable[..., Awaitable[House]]]:
    """Build houses; afterwards their plugins are unloaded and no worker may be left."""
    built: list[House] = []

    async def build_house(**settings: Any) -> House:
        house = House(Path(folder), **settings)
        built.append(house)
        await house.load()
        return house

    with tempfile.TemporaryDirectory() as folder:
        yield build_house
        for house in built:
            if not house.scope.closed:
                await house.unload()
            await house.aclose()
        for house in built:
            assert house.workers() == []
            assert house.session.sinks == []
