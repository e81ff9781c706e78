"""A server with channels, roles and permissions around one transcription; and a check of everybody who can read along.

Real are the plugin with its captions, its watch over the audience and its transcripts, the voice session, and hikari's
cache and events, fed with what Discord's gateway would send. Discord's REST side, the database and the speech worker
are small stand-ins that fail on request. Who may read is worked out by `reading_model` alone.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import json
import random
import re
import types
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, cast

import hikari
from hikari.impl import CacheImpl, EventFactoryImpl, EventManagerImpl
from prometheus_client import CollectorRegistry
from reading_model import PRIVATE_THREAD, PUBLIC_THREAD, Person, Picture, Place

from roost.audience import can_see, count_members
from roost.audio import AudioFrame, VoiceSession
from roost.config import build
from roost.consent import USUAL, Terms
from roost.dispatch import Dispatcher
from roost.errors import RoostError, StoreCause, StoreError
from roost.guild_entries import EntryFactory
from roost.scopes import Scope
from roost.sim.world import EVERYONE, Channel, Guild, Member, Role, User, VoiceState
from roost.speech import EngineSpec, Transcript
from roost.store import Document, Erased
from roost_stt import plugin as plugin_module
from roost_stt.config import SttConfig
from roost_stt.ladder import Ladder
from roost_stt.partials import Partial
from roost_stt.plugin import SttPlugin
from roost_stt.supervision import State
from roost_stt.transcript_commands import export_transcript, list_transcripts, show_transcript, suggest_transcripts
from roost_voice.moves import Wish
from roost_voice.session import Session

GUILD, ME, MOD = 1, 90, 2
PEOPLE = (11, 12, 13)
"""Members who talk, refuse, come and go. The `MOD` owns the server."""
ROOMS = (20, 21)
TEXTS = (30, 31)
PUBLIC, PRIVATE = 40, 41
"""Threads of the first text channel."""
PLACES = (*TEXTS, PUBLIC, PRIVATE, *ROOMS)
ROLES = (50, 51, 52)
BOTS_ROLE = 59
P = hikari.Permissions
BITS = tuple(int(each) for each in (P.NONE, P.VIEW_CHANNEL, P.CONNECT, P.VIEW_CHANNEL | P.CONNECT))
ROLE_BITS = (*BITS, int(P.READ_MESSAGE_HISTORY), int(P.MANAGE_GUILD), int(P.ADMINISTRATOR), int(P.MANAGE_THREADS))
OPEN = EVERYONE | int(P.VIEW_CHANNEL | P.CONNECT | P.READ_MESSAGE_HISTORY)
LATER = "9999-01-01T00:00:00+00:00"
TOKEN = re.compile(r"word\d+word")
INTENTS = hikari.Intents.GUILDS | hikari.Intents.GUILD_VOICE_STATES


class Breach(AssertionError):
    """Somebody could read, or could not read, against the model."""


class Inline(concurrent.futures.ThreadPoolExecutor):
    """Runs at once what others run in a thread: virtual time must not pass meanwhile."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        done = concurrent.futures.Future[Any]()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


@dataclasses.dataclass
class Said:
    """What somebody said.

    Attributes:
        channel: Where the notice said that it is shown.
        onlookers: The notice said that others may read along there.
        void: Its speaker has withdrawn it before it stood at Discord.
        unstored: The same, before it was stored.
        excused: The bot has ended, or has said that it cannot take it back.
    """

    user: int
    room: int
    channel: int
    onlookers: bool
    void: bool = False
    unstored: bool = False
    excused: bool = False


# The database --------------------------------------------------------------------------------------------------------


class Database:
    """What a plugin has stored, and how well the database is."""

    def __init__(self, dice: random.Random) -> None:
        self.documents: dict[tuple[str, str], Document] = {}
        self.settings: dict[tuple[int | None, str], str] = {}
        self.health = "well"
        self.freed = asyncio.Event()
        self.dice = dice

    def heal(self, health: str) -> None:
        self.health = health
        if health != "stuck":
            self.freed.set()
            self.freed = asyncio.Event()

    def holds(self, token: str) -> bool:
        return any(token in json.dumps(each.value) for each in self.documents.values())


class Door:
    """`roost.store.PluginStore` of one life of the plugin."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.alive = True
        self.settings = types.SimpleNamespace(get=self._get, set=self._set)
        self.erasure = types.SimpleNamespace(soon=self._erasing, everywhere=self._erasing)

    async def read(self) -> None:
        await self._ask()
        if self.database.health == "lost":
            raise StoreError("lost", cause=StoreCause.BUSY, retryable=True)

    async def write(self, change: Callable[[], Any]) -> Any:
        await self._ask()
        lost = self.database.health == "lost"
        made = None if lost and self.database.dice.random() < 0.5 else change()
        if lost:
            raise StoreError("lost", cause=StoreCause.BUSY, retryable=True)
        await asyncio.sleep(0)
        return made

    async def _ask(self) -> None:
        await asyncio.sleep(0)
        if self.alive and self.database.health == "stuck":
            await self.database.freed.wait()
        if self.database.health == "slow":
            await asyncio.sleep(0.5)
        if not self.alive or self.database.health == "busy":
            raise StoreError("busy", cause=StoreCause.BUSY, retryable=True)

    def collection(self, name: str) -> Documents:
        return Documents(self, name)

    async def forget_user(self, user_id: int) -> int:
        documents = self.database.documents

        def forget() -> int:
            gone = [key for key, each in documents.items() if each.user_id == user_id]
            for key in gone:
                del documents[key]
            return len(gone)

        return int(await self.write(forget))

    async def _get(self, guild_id: int | None, key: str, default: Any = None) -> Any:
        await self.read()
        found = self.database.settings.get((guild_id, key))
        return default if found is None else json.loads(found)

    async def _set(self, guild_id: int | None, key: str, value: Any) -> None:
        kept = json.dumps(value)
        await self.write(lambda: self.database.settings.__setitem__((guild_id, key), kept))

    @contextlib.asynccontextmanager
    async def _erasing(self) -> AsyncIterator[Erased]:
        yield Erased(traceless=True)


class Documents:
    """`roost.store.Collection`."""

    def __init__(self, door: Door, name: str) -> None:
        self._door = door
        self._name = name
        self._all = door.database.documents

    async def put(self, key: str, value: Any, *, guild_id: int | None = None, user_id: int | None = None) -> None:
        await self.put_many([(key, value, guild_id, user_id)])

    async def put_many(self, documents: Iterable[tuple[str, Any, int | None, int | None]]) -> None:
        made = {
            (self._name, key): Document(key, json.loads(json.dumps(value)), guild, user, 0.0)
            for key, value, guild, user in documents
        }
        await self._door.write(lambda: self._all.update(made))

    async def document(self, key: str) -> Document | None:
        await self._door.read()
        return self._all.get((self._name, key))

    async def delete(self, key: str) -> bool:
        return await self._door.write(lambda: self._all.pop((self._name, key), None)) is not None

    async def delete_where(self, *, prefix: str = "", changed_before: float | None = None) -> int:
        def delete() -> int:
            gone = [] if changed_before is not None else self._found(prefix=prefix)
            for each in gone:
                del self._all[self._name, each.key]
            return len(gone)

        return int(await self._door.write(delete))

    async def query(
        self,
        *,
        guild_id: int | None = None,
        user_id: int | None = None,
        prefix: str = "",
        after: str | None = None,
        newest_first: bool = False,
        limit: int = 100,
    ) -> list[Document]:
        await self._door.read()
        found = self._found(guild_id=guild_id, user_id=user_id, prefix=prefix)
        found.sort(key=lambda each: each.key, reverse=newest_first)
        if after is not None:
            found = [each for each in found if (each.key < after if newest_first else each.key > after)]
        return found[:limit]

    async def scan(
        self, *, guild_id: int | None = None, user_id: int | None = None, prefix: str = ""
    ) -> AsyncIterator[Document]:
        for each in await self.query(guild_id=guild_id, user_id=user_id, prefix=prefix, limit=1 << 30):
            yield each

    async def count(self, *, prefix: str = "") -> int:
        await self._door.read()
        return len(self._found(prefix=prefix))

    def _found(self, *, guild_id: int | None = None, user_id: int | None = None, prefix: str = "") -> list[Document]:
        return [
            each
            for (name, key), each in self._all.items()
            if name == self._name
            and key.startswith(prefix)
            and guild_id in (None, each.guild_id)
            and user_id in (None, each.user_id)
        ]


# The speech worker ---------------------------------------------------------------------------------------------------


class Worker:
    """`roost_stt.engine.SpeechWorker`: what is said becomes text when the world says so."""

    def __init__(self, world: World, take: Callable[[Transcript], None], partial: Callable[[Partial], None]) -> None:
        self._world = world
        self._take = take
        self._partial = partial
        self.ladder = Ladder(EngineSpec("none", {}))
        self.state = State.READY
        self.english_only = False
        self.open: dict[int, str] = {}
        """The token that each talker is saying."""
        self.works = True
        self._count = 0

    def write(self, frame: AudioFrame) -> None:
        if frame.user_id not in self.open:
            self.open[frame.user_id] = self._world.hears(frame.user_id)

    def begin(self, user_id: int) -> None:
        """Tell how an utterance begins."""
        if (token := self.open.get(user_id)) is not None:
            self._partial(Partial(GUILD, user_id, self._mark(token), token))

    def finish(self, user_id: int) -> None:
        if (token := self.open.pop(user_id, None)) is not None:
            at = 1000.0 + self._mark(token)
            self._take(Transcript(self._mark(token), GUILD, user_id, token, at, at + 0.5))

    def _mark(self, token: str) -> int:
        return int(token[4:-4])

    def purge(self, guild_id: int, user_id: int) -> None:
        for each in [user_id] if user_id else list(self.open):
            if (token := self.open.pop(each, None)) is not None:
                self._partial(Partial(GUILD, each, self._mark(token), ""))

    def forget(self, guild_id: int) -> None:
        self.open.clear()

    async def drain(self, guild_id: int, deadline: float) -> bool:
        if not self.works:
            await asyncio.sleep(max(0.0, deadline - asyncio.get_running_loop().time()))
            return not self.open
        await asyncio.sleep(0.2)
        for user_id in list(self.open):
            self.finish(user_id)
        return True

    def wish(self, wish: object) -> None: ...

    def stats(self) -> dict[str, Any]:
        decoded = {user: 50 for user in self._world.heard_of}
        figures = dict.fromkeys(("utterances", "utterances_lost", "crashes", "frames_sent", "frames_dropped"), 0)
        return {"decoded": decoded, "worker": {}, "alive": 1, **figures}


class Owner:
    """`roost_stt.worker_owner.WorkerOwner`."""

    card = None
    holds_card = False
    rests = False

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    @contextlib.asynccontextmanager
    async def wanted(self) -> AsyncIterator[None]:
        yield

    async def ready(self) -> Worker:
        await asyncio.sleep(0.01)
        return self.worker

    def arm_idle(self) -> None: ...

    async def close(self, *, stopping: bool) -> None: ...


# Consent -------------------------------------------------------------------------------------------------------------


class Decisions:
    """`roost.consent.Consent`; that decisions are kept is another world's concern."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self.said: dict[int, Terms | None] = {}
        """What each agreed to; None: they refused."""
        self._callbacks: list[Callable[[int, int], None]] = []

    def mode(self, guild_id: int) -> str:
        return self._mode

    def allows(self, guild_id: int, user_id: int) -> bool:
        decision = self.decision(guild_id, user_id)
        return self._mode == "notice" if decision is None else decision

    def decision(self, guild_id: int, user_id: int) -> bool | None:
        return self.said[user_id] is not None if user_id in self.said else None

    def agreed_to(self, guild_id: int, user_id: int) -> Terms | None:
        return self.said.get(user_id)

    def subscribe(self, callback: Callable[[int, int], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def changed(self, user_id: int) -> None:
        for callback in list(self._callbacks):
            callback(GUILD, user_id)

    def crash(self) -> None:
        self._callbacks.clear()


# Discord -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Message:
    channel: int
    text: str
    nonce: str = ""
    under_way: list[str] = dataclasses.field(default_factory=list)
    """Texts of edits that have not arrived."""


class Rest:
    """Requests of one life of the bot; each is checked at the moment at which it is made."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.alive = True

    async def create_message(self, channel: int, text: str, *, nonce: str, **_options: Any) -> Any:
        world = self._world
        self._lives()
        known = next((each for each in world.messages.values() if each.nonce == nonce), None)
        world.judge_post(channel, tokens(text) - tokens(known.text if known is not None else ""), text)

        def arrives() -> Any:
            for number, each in world.messages.items():
                if each.nonce == nonce:
                    return types.SimpleNamespace(id=number)
            if channel not in world.actual_places():
                raise gone()
            world.numbers += 1
            world.messages[world.numbers] = Message(channel, text, nonce)
            return types.SimpleNamespace(id=world.numbers)

        return await self._carried(arrives)

    async def edit_message(self, channel: int, message: int, text: str, **_options: Any) -> None:
        world = self._world
        self._lives()
        found = world.messages.get(message)
        seen = tokens(" ".join([found.text, *found.under_way])) if found is not None else set[str]()
        world.judge_post(channel, tokens(text) - seen, text)
        if found is not None:
            found.under_way.append(text)

        def arrives() -> None:
            if found is None or message not in world.messages or channel not in world.actual_places():
                raise gone()
            found.text = text

        try:
            await self._carried(arrives)
        finally:
            if found is not None:
                found.under_way.remove(text)

    async def delete_message(self, channel: int, message: int) -> None:
        self._lives()

        def arrives() -> None:
            if self._world.messages.pop(message, None) is None:
                raise gone()

        await self._carried(arrives)

    async def create_message_thread(self, channel: int, message: int, name: str, **_options: Any) -> Any:
        self._lives()

        def arrives() -> Any:
            if channel not in TEXTS or channel not in self._world.actual_places():
                raise gone()
            number = 1000 + message
            self._world.open_thread(number, channel, PUBLIC_THREAD)
            return types.SimpleNamespace(id=number)

        return await self._carried(arrives)

    def _lives(self) -> None:
        if not self.alive:
            raise OSError("the process has ended")

    async def _carried(self, arrives: Callable[[], Any]) -> Any:
        """Carry a request out, as well as the network does now."""
        world = self._world
        network = world.network
        await asyncio.sleep(0)
        if network == "forbids":
            raise hikari.ForbiddenError("https://discord.test", {}, b"", "Missing Permissions", 50013)
        if network == "slow":
            return await asyncio.shield(world.spawn(self._late(arrives)))
        if network == "lossy" and world.dice.random() < 0.5:
            raise OSError("it did not arrive")
        done = arrives()
        if network == "lossy":
            raise OSError("its answer did not arrive")
        if network == "late":
            await asyncio.sleep(3.0)
        await asyncio.sleep(0)
        return done

    async def _late(self, arrives: Callable[[], Any]) -> Any:
        await asyncio.sleep(3.0)
        return arrives()


def gone() -> hikari.NotFoundError:
    return hikari.NotFoundError("https://discord.test", {}, b"", "Unknown", 10003)


def tokens(text: str) -> set[str]:
    return set(TOKEN.findall(text))


class Asking:
    """One command of one member: the context, and a check of each answer when it is sent."""

    def __init__(self, world: World, user: int, within: int, member: hikari.InteractionMember) -> None:
        self._world = world
        self._user = user
        self._within = within
        self._asked = world.picture()
        self.guild_id = GUILD
        self.channel_id = within
        self.member = member
        self.user = types.SimpleNamespace(id=user)
        self.focused = types.SimpleNamespace(value="")
        self.interaction = types.SimpleNamespace(
            guild_id=GUILD,
            channel_id=within,
            member=member,
            edit_initial_response=self._edit,
            delete_initial_response=self._delete,
        )
        self.answer = ""
        self.deleted = False

    def checks(self, text: str) -> None:
        world = self._world
        for token in tokens(text):
            said = world.said[token]
            where = [(said.room, said.channel)]
            world.judge_answer(self._user, self._within, self._asked, where, f"{token} of {said.user}")
            if said.unstored:
                raise Breach(f"{token}, which {said.user} withdrew before it was stored, is shown")
        heads = [head for name, head in world.heads().items() if name in text]
        world.judge_answer(self._user, self._within, self._asked, heads, "a transcript is named")

    async def _edit(self, text: str, *, attachment: Any = None, **_options: Any) -> None:
        data = attachment.data.decode() if attachment is not None else ""
        self.checks(f"{text} {data}")
        await asyncio.sleep(0)
        if self._world.network == "slow":
            await asyncio.sleep(3.0)
        self.answer += f"{text} {data}"

    async def _delete(self) -> None:
        await asyncio.sleep(0)
        self.deleted = True

    async def respond(self, text: Any, *, attachment: Any = None, **_options: Any) -> int:
        """Of a command, or the titles and names of suggestions."""
        await self._edit(json.dumps(text) if isinstance(text, dict | list) else text, attachment=attachment)
        return 1

    async def delete_response(self, _number: int) -> None:
        self.deleted = True


# The world -----------------------------------------------------------------------------------------------------------


class World:
    """One server, one transcription after another, one bot process after another."""

    def __init__(self, mode: str, intent: bool, seed: int) -> None:
        self.dice = random.Random(seed)
        self.intent = intent
        self.consent = Decisions(mode)
        self.database = Database(self.dice)
        self.network = "well"
        self.notices = True
        self.messages: dict[int, Message] = {}
        self.numbers = 0
        self.said: dict[str, Said] = {}
        self.heard_of: set[int] = set()
        self.asked_for: set[tuple[int, int]] = set()
        """Rooms and places that somebody who manages the server asked for while others could read along."""
        self.config = {"mode": "messages", "partials": False, "where": "channel"}
        self.retention_days = 7
        self.owed: set[int] = set()
        """Who was forgotten while the database failed."""
        self.connected = True
        self.tasks: set[asyncio.Task[Any]] = set()
        self.failure: BaseException | None = None
        self.before: Picture | None = None
        """The server before a change that is arriving at the bot."""
        self.cached: set[int] = set()
        """Members whom the bot's cache has."""
        self.room = ROOMS[0]
        users = {user: User(user, f"Nam{user}", bot=user == ME) for user in (ME, MOD, *PEOPLE)}
        text = {each: Channel(each, GUILD, f"text {each}", 0) for each in TEXTS}
        voice = {each: Channel(each, GUILD, f"room {each}", 2) for each in ROOMS}
        self.guild = Guild(GUILD, "server", MOD, text | voice, {user: Member(each) for user, each in users.items()})
        self.guild.roles = {each: Role(each, f"role {each}") for each in (*ROLES, BOTS_ROLE)}
        self.guild.members[ME].roles = [BOTS_ROLE]
        self.guild.roles[BOTS_ROLE].permissions = int(P.ADMINISTRATOR)
        self.everyone = OPEN
        for number, kind in ((PUBLIC, PUBLIC_THREAD), (PRIVATE, PRIVATE_THREAD)):
            self._add_thread(number, TEXTS[0], kind)

    # ---- the bot

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(Inline(1))
        loop.set_exception_handler(self._fault)
        kept, plugin_module.WorkerOwner = plugin_module.WorkerOwner, self._owner  # type: ignore[assignment,misc]
        try:
            await self._start()
            yield self
        finally:
            self.network = "well"
            self.database.heal("well")
            await self._kill()
            plugin_module.WorkerOwner = kept  # type: ignore[misc]

    def _fault(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An error that nobody took: of hikari's handling of an event too."""
        self.failure = self.failure or context.get("exception") or Breach(str(context))

    def _owner(self, _ctx: Any, _config: Any, _in_use: Any, take: Any, _trouble: Any, **more: Any) -> Owner:
        self.worker = Worker(self, take, more["on_partial"])
        return Owner(self.worker)

    async def _start(self) -> None:
        """A process of the bot starts, connects and joins a room."""
        app: Any = types.SimpleNamespace()
        app.entity_factory = self.factory = EntryFactory(app)
        app.cache = cache = CacheImpl(app, hikari.impl.CacheSettings())
        intents = INTENTS | (hikari.Intents.GUILD_MEMBERS if self.intent else hikari.Intents.NONE)
        self.events = EventManagerImpl(
            self.factory, EventFactoryImpl(app), intents, auto_chunk_members=False, cache=cache
        )
        self.shard: Any = types.SimpleNamespace(id=0, get_user_id=lambda: hikari.Snowflake(ME))
        self.bot: Any = types.SimpleNamespace(
            intents=intents,
            cache=cache,
            get_me=lambda: types.SimpleNamespace(id=ME),
            shards={},
            subscribe=self.events.subscribe,
        )
        count_members(self.bot)
        self.dispatcher = Dispatcher(
            lambda: ["stt"],
            lambda _plugin, _guild: True,
            name_of=lambda _module: "stt",
            comes_along=lambda _plugin: True,
        )
        self.voice_scope = Scope("voice")
        self.generation = 0
        self.session = Session(
            GUILD,
            Wish(self.room, PEOPLE[0], TEXTS[0]),
            consent=cast(Any, self.consent),
            hooks=self.dispatcher,
            post_notice=self._notice,
            can_see=lambda channel, user: can_see(self.bot.cache, GUILD, channel, user),
            scope=self.voice_scope,
            now=0.0,
            state_of=lambda: "live",
            on_speaking=lambda _user, _on: None,
        )
        self.consent.subscribe(lambda _guild, user: self.session.consent_changed(user))
        self.connected = False
        await self.connect()
        self._link()
        await self._load()

    async def _load(self) -> None:
        self.plugin = SttPlugin()
        self.dispatcher.manager.register(self.plugin, "stt")
        self.scope, self.door, self.rest = Scope("stt"), Door(self.database), Rest(self)
        self.bot.rest = self.rest
        self.unsubscribe: list[Callable[[], None]] = []
        self.ctx: Any = types.SimpleNamespace(
            name="stt",
            bot=self.bot,
            hooks=self.dispatcher,
            settings=self.door.settings,
            store=self.door,
            config=self._config(),
            config_for=lambda _guild: self._config(),
            consent=self.consent,
            on_unload=self.unsubscribe.append,
            listen=self._listen,
            task=lambda work, name, guild_id=None, always=False: self.scope.spawn(work, name),
            keep=self.scope.keep,
            metrics=CollectorRegistry(),
        )
        await self.plugin.on_load(self.ctx)
        await self.plugin.voice_session_opened(cast(VoiceSession, self.session))
        await self.plugin.on_started(self.bot)

    def _listen(self, event: type[hikari.Event], callback: Callable[[Any], Any]) -> None:
        async def called(happened: Any) -> None:
            await callback(happened)

        self.events.subscribe(event, called)
        self.unsubscribe.append(lambda: self.events.unsubscribe(event, called))

    def _config(self) -> SttConfig:
        return build(SttConfig, {"captions": self.config, "retention_days": self.retention_days}, "stt")

    async def _notice(self, session: Session, places: Any) -> Any:
        await asyncio.sleep(0.05)
        there = self.actual_places()
        return [place for place in places if self.notices and place in there]

    def _link(self) -> None:
        self.generation += 1
        inside = [(user, user == ME) for user in self.guild.occupants(self.room) if user != ME]
        self.session.begin_link(self.generation, self.room, inside)
        self.session.link_live()

    async def _kill(self) -> None:
        """SIGKILL: nothing of it runs on, and what it has asked for may arrive."""
        self.door.alive = self.rest.alive = False
        self.database.heal("well")
        self.consent.crash()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.scope.aclose(1.0)
        await self.voice_scope.aclose(1.0)
        self._excuse()

    def _excuse(self) -> None:
        for each in self.said.values():
            each.excused |= each.void or each.unstored

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, hikari.HikariError | OSError | RoostError):
            self.failure = self.failure or error

    # ---- what Discord tells

    def picture(self) -> Picture:
        guild = self.guild
        base = {GUILD: self.everyone, **{number: role.permissions for number, role in guild.roles.items()}}
        people = {
            user: Person(
                frozenset(member.roles),
                member.user.bot,
                member.timed_out_until is not None,
                guild.voice_states[user].channel_id if user in guild.voice_states else 0,
            )
            for user, member in guild.members.items()
        }
        places = {
            number: Place(each.type, each.parent_id or 0, dict(each.role_overwrites), dict(each.overwrites))
            for number, each in (guild.channels | guild.threads).items()
        }
        return Picture(GUILD, guild.owner_id, base, frozenset({BOTS_ROLE}), people, places)

    def actual_places(self) -> set[int]:
        return {*self.guild.channels, *self.guild.threads}

    def _add_thread(self, number: int, parent: int, kind: int) -> None:
        self.guild.threads[number] = Channel(number, GUILD, f"thread {number}", kind, parent_id=parent, owner_id=MOD)

    def open_thread(self, number: int, parent: int, kind: int) -> None:
        self._add_thread(number, parent, kind)
        self._tell("THREAD_CREATE", self.guild.threads[number].payload() | {"newly_created": True})

    def _tell(self, name: str, payload: dict[str, Any]) -> None:
        """An event of the gateway arrives, if the connection is there."""
        if not self.connected:
            return
        if self.before is None:
            self.before = self.known
        self.known = self.picture()
        self.events.consume_raw_event(name, self.shard, payload)
        self.session.ask_again()

    async def arrived(self) -> None:
        """The bot has heard of what has changed."""
        for _ in range(3):
            await asyncio.sleep(0)
        self.before = None

    def _roles(self) -> list[dict[str, Any]]:
        shown = self.guild.rest_payload()["roles"]
        for role in shown:
            role["permissions"] = str(self.everyone) if role["id"] == str(GUILD) else role["permissions"]
            if role["id"] == str(BOTS_ROLE):
                role |= {"managed": True, "tags": {"bot_id": str(ME)}}
        return cast("list[dict[str, Any]]", shown)

    async def connect(self) -> None:
        """The gateway shows the whole server; with the intent, its members follow."""
        if self.connected:
            return
        self.connected = True
        whole = self.guild.gateway_payload(ME, all_members=False, voice=True) | {"roles": self._roles()}
        self.cached = {ME, *self.guild.voice_states}
        self.known = self.picture()
        self._tell("GUILD_CREATE", whole)
        if self.intent:
            self.spawn(self._chunk())

    async def _chunk(self) -> None:
        await asyncio.sleep(0.3)
        if self.connected:
            self.cached |= set(self.guild.members)
            members = [self.guild.member_payload(user) for user in self.guild.members]
            chunk = {"members": members, "chunk_index": 0, "chunk_count": 1, "not_found": [], "presences": []}
            self._tell("GUILD_MEMBERS_CHUNK", chunk | {"guild_id": str(GUILD), "nonce": "0"})

    async def disconnect(self) -> None:
        """What changes from now on the bot learns when it is connected again."""
        self.connected = False

    async def grant(self, role: int, bits: int) -> None:
        """A role has other permissions; 0: @everyone, which keeps what is not at stake here."""
        if role:
            self.guild.roles[role].permissions = bits
        else:
            self.everyone = OPEN & ~bits
        shown = next(each for each in self._roles() if each["id"] == str(role or GUILD))
        self._tell("GUILD_ROLE_UPDATE", {"guild_id": str(GUILD), "role": shown})

    async def wear(self, user: int, role: int, on: bool) -> None:
        if (member := self.guild.members.get(user)) is None or (role in member.roles) is on:
            return
        (member.roles.append if on else member.roles.remove)(role)
        self._tell_member("GUILD_MEMBER_UPDATE", user)

    async def time_out(self, user: int, on: bool) -> None:
        """Without the intent a bot cannot know of it."""
        if self.intent and (member := self.guild.members.get(user)) is not None:
            member.timed_out_until = LATER if on else None
            self._tell_member("GUILD_MEMBER_UPDATE", user)

    def _tell_member(self, name: str, user: int) -> None:
        if self.intent:
            self.cached |= {user} if self.connected else set()
            self._tell(name, self.guild.member_payload(user) | {"guild_id": str(GUILD)})

    async def overwrite(self, place: int, whose: int, allow: int, deny: int) -> None:
        """The overwrite of a role, of @everyone (0) or of a member in a channel."""
        if (channel := self.guild.channels.get(place)) is None:
            return
        named = channel.overwrites if whose in (MOD, ME, *PEOPLE) else channel.role_overwrites
        number = whose or GUILD
        named.pop(number, None)
        if allow or deny:
            named[number] = allow & ~deny, deny
        self._tell("CHANNEL_UPDATE", channel.payload())

    async def open_up(self) -> None:
        """Everybody may do everything again that ordinary members may."""
        for role in ROLES:
            if self.guild.roles[role].permissions:
                await self.grant(role, 0)
        await self.grant(0, 0)
        for channel in list(self.guild.channels.values()):
            channel.overwrites.clear()
            channel.role_overwrites.clear()
            self._tell("CHANNEL_UPDATE", channel.payload())
        for user in list(self.guild.members):
            await self.time_out(user, False)

    async def come(self, user: int) -> None:
        if user not in self.guild.members:
            self.guild.members[user] = Member(User(user, f"Nam{user}"))
            if self.intent:
                self.cached |= {user} if self.connected else set()
                self._tell("GUILD_MEMBER_ADD", self.guild.member_payload(user) | {"guild_id": str(GUILD)})

    async def leave(self, user: int) -> None:
        if user not in self.guild.members:
            return
        await self.enter(user, 0)
        gone_user = self.guild.members.pop(user).user
        if self.intent:
            self.cached -= {user} if self.connected else set()
            self._tell("GUILD_MEMBER_REMOVE", {"guild_id": str(GUILD), "user": gone_user.payload()})

    async def own(self, user: int) -> None:
        """The server has another owner."""
        if user in self.guild.members:
            self.guild.owner_id = user
            self._tell("GUILD_UPDATE", self.guild.rest_payload() | {"roles": self._roles()})

    async def enter(self, user: int, room: int) -> None:
        """A member goes into a room (1: the bot's), by themselves or moved by a moderator, or leaves voice (0)."""
        room = self.room if room == 1 else room
        member, states = self.guild.members.get(user), self.guild.voice_states
        if member is None or (room and room not in self.guild.channels) or (not room and user not in states):
            return
        left = states.pop(user, None)
        state = VoiceState(GUILD, room or (left.channel_id if left is not None else 0), user, f"s{user}")
        if room:
            states[user] = state
            self.cached |= {user} if self.connected else set()
        payload = state.payload(member, left=not room) | {"member": self.guild.member_payload(user)}
        self._tell("VOICE_STATE_UPDATE", payload)
        if room == self.room and user != ME:
            self.session.member_is(user, False)
        else:
            self.session.member_left(user)

    async def delete(self, place: int) -> None:
        """A channel or thread is deleted; never the room that the bot is in."""
        if place == self.room:
            return
        if (thread := self.guild.threads.pop(place, None)) is not None:
            self._tell("THREAD_DELETE", thread.payload())
        elif (channel := self.guild.channels.pop(place, None)) is not None:
            self.guild.threads = {n: each for n, each in self.guild.threads.items() if each.parent_id != place}
            for user in self.guild.occupants(place):
                del self.guild.voice_states[user]
            self._tell("CHANNEL_DELETE", channel.payload())
        self.session.channel_is_gone(place)
        self.session.ask_again()

    async def restore(self, place: int) -> None:
        """What was deleted is there again, as open as a new one is."""
        if place in self.actual_places():
            return
        if place in (PUBLIC, PRIVATE):
            if TEXTS[0] in self.guild.channels:
                self.open_thread(place, TEXTS[0], PUBLIC_THREAD if place == PUBLIC else PRIVATE_THREAD)
            return
        self.guild.channels[place] = Channel(place, GUILD, f"channel {place}", 2 if place in ROOMS else 0)
        self._tell("CHANNEL_CREATE", self.guild.channels[place].payload())

    # ---- what members do

    async def agree(self, user: int, usual: bool) -> None:
        self.consent.said[user] = USUAL if usual else self.session.terms
        self.consent.changed(user)

    async def refuse(self, user: int) -> None:
        self._withdrawn(user)
        self.consent.said[user] = None
        self.consent.changed(user)

    async def forget(self, user: int) -> None:
        """What ``/privacy forget-me`` does."""
        self._withdrawn(user)
        self.consent.said.pop(user, None)
        self.consent.changed(user)
        self.owed.add(user)
        self.spawn(self._forget(user))
        await asyncio.sleep(0)

    async def _forget(self, user: int) -> None:
        try:
            await self.plugin.user_data_delete(user, "asked")
        except RoostError:
            return
        self.owed.discard(user)

    def _withdrawn(self, user: int) -> None:
        """What the member said and what is under way may come out nowhere."""
        standing = [each.text for each in self.messages.values()]
        for token, said in self.said.items():
            if said.user == user:
                said.void |= not any(token in text and f"{token} …" not in text for text in standing)
                said.unstored |= not self.database.holds(token)

    async def say(self, user: int) -> None:
        frame = AudioFrame(GUILD, user, ssrc=user, rtp_timestamp=0, opus=b"\xfc\xff\xfe", lost_before=0)
        self.session.on_frame(frame)

    def hears(self, user: int) -> str:
        """The worker has got somebody's sound; the words that it is."""
        facts = next(each for each in self.session.facts if each.channel_id)
        state = self.guild.voice_states.get(user)
        if state is None or state.channel_id != self.room or user == ME:
            raise Breach(f"{user} is heard and is not there")
        if not self.consent.allows(GUILD, user):
            raise Breach(f"{user} is heard and has not agreed")
        if facts.onlookers and (self.room, facts.channel_id) not in self.asked_for:
            raise Breach(f"captions go to {facts.channel_id} whoever reads along, and nobody has asked for it")
        token = f"word{len(self.said)}word"
        self.said[token] = Said(user, self.room, facts.channel_id, facts.onlookers)
        self.heard_of.add(user)
        return token

    async def talk(self) -> None:
        """Everybody in the room says something, which becomes text."""
        await self.finish_words(0)
        for user in self.guild.occupants(self.room):
            await self.say(user)
        await self.finish_words(0)

    async def begin_words(self, user: int) -> None:
        self.worker.begin(user)

    async def finish_words(self, user: int) -> None:
        """What a member, or everybody (0), is saying becomes text."""
        for each in [user] if user else list(self.worker.open):
            self.worker.finish(each)

    async def start(self, user: int, place: int, manages: bool) -> None:
        """``/transcribe start`` in a channel; 0: of one who is in the room."""
        user = user or next(iter(self.guild.occupants(self.room)), MOD)
        if not self.connected:
            return
        if manages:
            self.asked_for.add((self.room, place))
        self.spawn(self._quietly(self.plugin.start_transcribing(GUILD, user, place, manages)))

    async def stop(self) -> None:
        self.spawn(self._quietly(self.plugin.stop_transcribing(GUILD, MOD, True)))

    async def pause(self, paused: bool) -> None:
        self.spawn(self._quietly(self.plugin.pause_transcribing(GUILD, MOD, True, paused=paused)))

    async def _quietly(self, work: Any) -> str:
        try:
            return str(await work)
        except RoostError as error:
            return str(error)

    async def move(self, by_request: bool) -> None:
        """The bot is in the other room now."""
        old = self.room
        new = next(each for each in ROOMS if each != old)
        if new not in self.guild.channels or not self.connected:
            return
        self.room = new
        for user in self.guild.occupants(old):
            if self.dice.random() < 0.7:
                await self.enter(user, new)
        self._link()
        await self.plugin.voice_session_moved(cast(VoiceSession, self.session), old, new, by_request)

    async def configure(self, mode: str, partials: bool, where: str, days: int) -> None:
        old = self._config()
        self.config, self.retention_days = {"mode": mode, "partials": partials, "where": where}, days
        await self.plugin.config_changed(self.ctx, GUILD, old, self._config())

    async def ask(self, what: str, user: int, within: int) -> None:
        """A member uses a command about transcripts, or asks for the status."""
        if self.connected and user in self.guild.members and within in self.actual_places():
            self.spawn(self._asked(what, user, within))

    async def _asked(self, what: str, user: int, within: int) -> Asking:
        asking = Asking(self, user, within, self._interaction_member(user, within))
        ctx: Any = asking
        heads = list(self.heads())
        name = self.dice.choice(heads) if heads else "abcdef"
        try:
            if what == "show":
                text = await show_transcript(self.plugin, ctx, name, 0)  # type: ignore[func-returns-value]
            elif what == "export":
                text = await export_transcript(self.plugin, ctx, name, "json")  # type: ignore[func-returns-value]
            elif what == "list":
                text = await list_transcripts(self.plugin, ctx)
            elif what == "suggest":
                text = await suggest_transcripts(self.plugin, ctx)  # type: ignore[func-returns-value]
            else:
                text = self.plugin.describe(GUILD, asking.member)
                if "Decoded" in text:
                    self.judge_presence(user, {self.session.channel_id}, "the status names talkers")
        except RoostError as error:
            text = str(error)
        if text is not None and what != "status" and "There is no transcript" not in text:
            await asking.respond(text)
        return asking

    def _interaction_member(self, user: int, within: int) -> hikari.InteractionMember:
        """As Discord sends it with a command: with the member's roles, and what they may do there."""
        picture = self.picture()
        place = picture.of_place(within)
        assert place is not None
        theirs = picture.of_member(user, place)
        payload = self.guild.member_payload(user) | {"permissions": str(theirs)}
        whole = {
            "id": "5",
            "application_id": "6",
            "type": 2,
            "guild_id": str(GUILD),
            "guild_locale": "en-US",
            "locale": "en-US",
            "channel_id": str(within),
            "channel": (self.guild.channels | self.guild.threads)[within].payload() | {"permissions": str(theirs)},
            "member": payload,
            "token": "t",
            "version": 1,
            "app_permissions": "0",
            "entitlements": [],
            "authorizing_integration_owners": {},
            "context": 0,
            "attachment_size_limit": 10_485_760,
            "data": {"id": "7", "name": "transcript", "type": 1},
        }
        made = self.factory.deserialize_interaction(whole)
        assert isinstance(made, hikari.CommandInteraction)
        assert made.member is not None
        return made.member

    # ---- trouble

    async def store(self, health: str) -> None:
        self.database.heal(health)

    async def connection(self, network: str) -> None:
        self.network = network

    async def posting(self, works: bool) -> None:
        self.notices = works

    async def draining(self, works: bool) -> None:
        self.worker.works = works

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def crash(self) -> None:
        await self._kill()
        await self._start()

    async def reload(self) -> None:
        """The plugin is loaded anew in mid-call."""
        self.database.heal("well")
        await self.plugin.on_unload(self.ctx, "reload")
        for each in self.unsubscribe:
            each()
        await self.scope.aclose(1.0)
        self.dispatcher.manager.unregister(name="stt")
        self.door.alive = self.rest.alive = False
        self._excuse()
        await self._load()

    # ---- what must hold

    def heads(self) -> dict[str, tuple[int, int]]:
        """Room and place of each stored transcript, by the name that people use."""
        return {
            each.value["id"]: (each.value["voice_channel_id"], each.value["text_channel_id"])
            for (collection, _), each in self.database.documents.items()
            if collection == "records"
        }

    def pictures(self) -> list[Picture]:
        return [self.known] if self.before is None else [self.before, self.known]

    def judge_post(self, place: int, shown: set[str], text: str) -> None:
        """Words go to a channel or thread now."""
        if "did not let me remove" in text:
            self._excuse()
        for token in shown:
            said = self.said[token]
            if said.void:
                raise self.noted(Breach(f"{token}, which {said.user} withdrew, is posted"))
            if not self.consent.allows(GUILD, said.user):
                raise self.noted(Breach(f"{token} is posted, and {said.user} does not agree"))
            accepted = said.onlookers and said.channel in (place, self._parent(place))
            if not accepted and self._is_wide(said.room, place):
                raise self.noted(Breach(f"{token}, said in {said.room}, is posted in {place} where others read along"))
        for room in re.findall(r"while transcribing <#(\d+)> for <@", text):
            if self._is_wide(int(room), place):
                raise self.noted(Breach(f"who had {room} transcribed is named in {place} where others read along"))

    def _is_wide(self, room: int, place: int) -> bool:
        """Whether others read along by all that the bot has been told; it knows threads that it has opened itself."""
        return all(
            each.is_wide(room, place if place in each.places else self._parent(place), self.cached)
            for each in self.pictures()
        )

    def _parent(self, place: int) -> int:
        thread = self.guild.threads.get(place)
        return thread.parent_id or 0 if thread is not None else 0

    def noted(self, breach: Breach) -> Breach:
        """The code under test may catch it, so the world keeps it."""
        self.failure = self.failure or breach
        return breach

    def judge_answer(self, user: int, within: int, asked: Picture, heads: Iterable[tuple[int, int]], what: str) -> None:
        """A member is shown something of these transcripts now."""
        pictures = [self._seen_by_bot(each, user, asked) for each in self.pictures()]
        # Where the channel is gone in which they asked, they may do what they could then.
        managed = not self.intent and within not in self.known.places and asked.manages(user, within)
        for room, place in heads:
            may_hear = room not in self.known.places or any(each.can_be_in(user, room) for each in pictures)
            if (managed and may_hear) or any(each.may_read(user, within, room, place) for each in pictures):
                continue
            raise self.noted(Breach(f"{user} in {within}: {what}, of {room} shown in {place}"))

    def judge_presence(self, user: int, rooms: Iterable[int], what: str) -> None:
        for room in rooms:
            if not any(each.can_be_in(user, room) for each in self.pictures()):
                raise self.noted(Breach(f"{user} cannot be in {room}: {what}"))

    def _seen_by_bot(self, now: Picture, user: int, asked: Picture) -> Picture:
        """A picture with the member as the bot can know them: as they were when they asked, if not by its events."""
        if self.intent and user in self.cached and user in now.people:
            return now
        place = now.people[user].place if user in now.people else 0
        return dataclasses.replace(
            now, people={**now.people, user: dataclasses.replace(asked.people[user], place=place)}
        )

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def rest_a_while(self) -> None:
        """Everything works again for a while: then what may be read is, and what was withdrawn is nowhere."""
        self.network, self.notices, self.worker.works = "well", True, True
        self.database.heal("well")
        await self.connect()
        self.session.link_live()
        await asyncio.sleep(700.0)
        for user in list(self.owed):
            await self._forget(user)
        self.check()
        for token, said in self.said.items():
            found = [number for number, each in self.messages.items() if token in each.text]
            if said.void and not said.excused and found:
                raise Breach(f"{token}, which {said.user} withdrew, still stands in {found}")
            if said.unstored and not said.excused and self.database.holds(token):
                raise Breach(f"{token}, which {said.user} withdrew, is still stored")
        await self._must_be_shown()

    async def _must_be_shown(self) -> None:
        """Words of who agrees are shown where nobody reads along, and are read by who may."""
        talkers = [user for user in self.guild.occupants(self.room) if self.session.wants(user)]
        if not talkers or self.config["where"] == "none":
            return
        count = len(self.said)
        user = talkers[0]
        self.worker.finish(user)
        await self.say(user)
        self.worker.finish(user)
        await asyncio.sleep(60.0)
        if len(self.said) == count:
            return
        token, said = list(self.said.items())[-1]
        place = said.channel
        picture = self.picture()
        wide = picture.is_wide(said.room, place, self.cached) if self.intent else picture.may_be_wide(said.room, place)
        stands = any(token in each.text for each in self.messages.values())
        if stands is not (said.onlookers or not wide) and place in self.actual_places():
            raise Breach(f"{token}, said in {said.room} for {place}: wide is {wide}, it stands there is {stands}")
        if not self.retention_days:
            return
        for reader in self.guild.members:
            within = place if place in self.actual_places() else self.room
            if reader != ME and picture.may_read(reader, within, said.room, said.channel):
                name = next(key for key, each in self.heads().items() if self.holds_line(key, token))
                asking: Any = Asking(self, reader, within, self._interaction_member(reader, within))
                refused = await self._quietly(show_transcript(self.plugin, asking, name, 0))
                if token not in asking.answer:
                    raise Breach(f"{reader} may read {token} of {said.room} in {place} and gets {refused!r}")

    def holds_line(self, name: str, token: str) -> bool:
        return any(
            f"-{name}/" in key and token in json.dumps(each.value)
            for (collection, key), each in self.database.documents.items()
            if collection == "lines"
        )


EVERYBODY = (MOD, *PEOPLE)
CHANGES = frozenset({"grant", "wear", "time_out", "overwrite", "open_up", "come", "own"})
"""Operations after which others may read along: half of the time, people talk right after them."""
OPERATIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "grant": {"role": (0, *ROLES), "bits": (0, *ROLE_BITS)},
    "wear": {"user": EVERYBODY, "role": ROLES, "on": (True, False)},
    "time_out": {"user": EVERYBODY, "on": (True, False, False)},
    "overwrite": {
        "place": (*TEXTS, *ROOMS),
        "whose": (0, *ROLES, *EVERYBODY),
        "allow": (0, 0, 0, *BITS),
        "deny": (0, 0, 0, *BITS),
    },
    "open_up": {},
    "come": {"user": PEOPLE},
    "leave": {"user": PEOPLE},
    "own": {"user": EVERYBODY},
    "enter": {"user": EVERYBODY, "room": (*ROOMS, 0, *(1,) * 8)},
    "delete": {"place": PLACES},
    "restore": {"place": PLACES},
    "disconnect": {},
    "connect": {},
    "agree": {"user": EVERYBODY, "usual": (True, False, False)},
    "refuse": {"user": EVERYBODY},
    "forget": {"user": EVERYBODY},
    "say": {"user": EVERYBODY},
    "talk": {},
    "begin_words": {"user": EVERYBODY},
    "finish_words": {"user": (0, 0, *EVERYBODY)},
    "start": {"user": (0, 0, 0, 0, *EVERYBODY), "place": PLACES, "manages": (True, False, False)},
    "stop": {},
    "pause": {"paused": (True, False, False, False)},
    "move": {"by_request": (True, True, False)},
    "configure": {
        "mode": ("messages", "edited"),
        "partials": (True, False),
        "where": ("channel", "channel", "thread", "none"),
        "days": (7, 7, 0, 30),
    },
    "ask": {"what": ("show", "export", "list", "suggest", "status"), "user": EVERYBODY, "within": PLACES},
    "store": {"health": ("well", "well", "slow", "slow", "busy", "lost", "stuck")},
    "connection": {"network": ("well", "well", "slow", "late", "lossy", "forbids")},
    "posting": {"works": (True, True, True, True, False)},
    "draining": {"works": (True, True, False)},
    "pass_time": {"seconds": (0.1, 0.6, 1.0, 3.0, 12.0, 40.0)},
    "crash": {},
    "reload": {},
    "rest_a_while": {},
}
WEIGHTS = {
    "talk": 24,
    "pass_time": 14,
    "start": 12,
    "ask": 12,
    "say": 8,
    "finish_words": 8,
    "enter": 8,
    "agree": 8,
    "overwrite": 8,
    "open_up": 4,
    "wear": 4,
    "grant": 4,
    "store": 4,
    "connection": 4,
    "connect": 4,
    "begin_words": 4,
    "restore": 6,
    "come": 3,
    "refuse": 3,
    "stop": 3,
    "leave": 1,
    "forget": 1,
    "delete": 1,
    "disconnect": 1,
    "own": 1,
    "crash": 1,
    "reload": 1,
    "posting": 1,
    "pause": 1,
    "configure": 1,
    "rest_a_while": 1,
}


async def step(world: World, name: str, choices: Mapping[str, Any]) -> None:
    """Have one thing happen, give the tasks some turns, and check."""
    await getattr(world, name)(**choices)
    await world.arrived()
    for _ in range(world.dice.randrange(6)):
        await asyncio.sleep(0)
    world.check()


async def settle_in(world: World) -> None:
    """Everybody is in the room and agrees, and captions go to the first channel."""
    for user in PEOPLE:
        await step(world, "enter", {"user": user, "room": ROOMS[0]})
        await step(world, "agree", {"user": user, "usual": True})
    await step(world, "start", {"user": PEOPLE[0], "place": TEXTS[0], "manages": False})
    await step(world, "pass_time", {"seconds": 1.0})


async def play(seed: int, steps: int) -> list[tuple[str, dict[str, Any]]]:
    """A run from chance; what happened. Run it in virtual time.

    Raises:
        Breach: With the trace in its notes.
    """
    dice = random.Random(seed)
    names = [name for name in OPERATIONS for _ in range(WEIGHTS.get(name, 2))]
    trace: list[tuple[str, dict[str, Any]]] = []
    mode, intent = dice.choice(("opt-in", "notice")), dice.random() < 0.6
    try:
        async with World(mode, intent, seed).running() as world:
            await settle_in(world)
            for _ in range(steps):
                name = "talk" if trace and trace[-1][0] in CHANGES and dice.random() < 0.5 else dice.choice(names)
                choices = {key: dice.choice(values) for key, values in OPERATIONS[name].items()}
                trace.append((name, choices))
                await step(world, name, choices)
            trace.append(("rest_a_while", {}))
            await step(world, "rest_a_while", {})
    except Exception as breach:
        breach.add_note(f"seed {seed}, mode {mode}, intent {intent}; the last of {len(trace)} steps:")
        for each in trace[-40:]:
            breach.add_note(f"  {each}")
        raise
    return trace
