"""Members, decisions, notices, guards, crashes and a failing store around a session; and a small model of who is heard.

The model knows nothing of the session's insides: it has only what members and the owner of a server could know.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from withdrawal_disk import LossyDisk

from roost import consent as consent_module
from roost.audio import AudioFrame, NoticeFacts, Use
from roost.consent import USUAL, StoredConsent, Terms
from roost.dispatch import Dispatcher
from roost.errors import ResourceError, StoreCause, StoreError
from roost.hooks import Deny, hookimpl
from roost.scopes import Scope
from roost.store.decisions import Decisions, Key, Stamp, Word
from roost.store.withdrawals import WithdrawalFile
from roost_voice import session as session_module
from roost_voice.moves import Wish
from roost_voice.session import Session

GUILD, ROOM, OTHER_ROOM, TEXT = 1, 2, 3, 5
PEOPLE = (11, 12, 13)
ROBOT = 19
SLOTS = 8
FACTS = (
    NoticeFacts(use=Use.TEXT, channel_id=TEXT, shown=True, kept_days=7),
    NoticeFacts(use=Use.TEXT, channel_id=TEXT, shown=True, kept_days=7, sends_to="speech.example"),
    NoticeFacts(use=Use.TEXT, channel_id=ROOM, shown=True, kept_days=0),
    NoticeFacts(plugin="recorder"),
    NoticeFacts(use=Use.TEXT, channel_id=TEXT, shown=True, kept_days=7, onlookers=True),
)


class Breach(AssertionError):
    """Somebody was heard, or not heard, against the model."""


class Health(enum.Enum):
    """What the store does with a transaction."""

    WELL = "well"
    BUSY = "busy"
    LOST = "lost"
    """It answers with an error, and may have written all the same."""
    STUCK = "stuck"
    """It does not answer."""


class Database:
    """What `StoredConsent` needs of the store."""

    def __init__(self, rows: Mapping[Key, str | bool], dice: random.Random) -> None:
        self.rows = dict(rows)
        self.health = Health.WELL
        self.freed = asyncio.Event()
        self._dice = dice

    async def set_consents(self, decisions: Mapping[Key, Word], stamp: Stamp | None) -> None:
        if self.health is Health.STUCK:
            await self.freed.wait()
        if self.health is Health.BUSY:
            raise StoreError("busy", cause=StoreCause.BUSY, retryable=True)
        lost = self.health is Health.LOST
        if not lost or self._dice.random() < 0.5:
            for key, word in decisions.items():
                if word is None:
                    self.rows.pop(key, None)
                else:
                    self.rows[key] = word
        if lost:
            raise StoreError("lost", cause=StoreCause.BUSY, retryable=True, perhaps_done=True)

    def heal(self, health: Health) -> None:
        self.health = health
        if health is not Health.STUCK:
            self.freed.set()
            self.freed = asyncio.Event()


class Say(enum.Enum):
    """What a member decided last."""

    NOTHING = "nothing"
    AGREE = "agree"
    REFUSE = "refuse"


@dataclasses.dataclass
class Person:
    """What can be known of a member.

    Attributes:
        word: What counts for sure; None: nobody can know, because the bot crashed before it answered.
        terms: What their agreement covers, each one that may count.
        pending: An agreement that was not answered.
        forgetting: A request to be forgotten, in the store or on its way there.
        told: Notices that stood when they were there, by number.
    """

    word: Say | None = Say.NOTHING
    terms: set[Terms] = dataclasses.field(default_factory=set)
    asking: Terms = USUAL
    """What they want to agree to."""
    last: Terms = USUAL
    """What they agreed to last."""
    pending: asyncio.Task[bool] | None = None
    refusing: asyncio.Task[bool] | None = None
    forgetting: asyncio.Task[bool] | None = None
    told: set[int] = dataclasses.field(default_factory=set)
    before: set[Terms] = dataclasses.field(default_factory=set)
    """What their agreement covered before they were forgotten; a crash may bring it back."""
    forgotten_at: int = 0
    """When they were forgotten last; notices that were begun before do not count for them."""
    left_at: int = 0
    """When they left last; notices that were on their way then were posted without them."""

    @property
    def tasks(self) -> tuple[asyncio.Task[bool] | None, ...]:
        return self.pending, self.refusing, self.forgetting


class Guard:
    """A plugin that forbids to hear some."""

    def __init__(self) -> None:
        self.forbids: set[int] = set()
        self.raises = False

    @hookimpl
    def voice_consent(self, user_id: int) -> Deny | None:
        if self.raises:
            raise RuntimeError("the guard fails")
        return Deny("no") if user_id in self.forbids else None


class Sink:
    """A consumer.

    Args:
        delivered: Members whose sound any consumer received since they were purged; kept up to date.
    """

    def __init__(self, delivered: set[int]) -> None:
        self.delivered = delivered
        self.frames = 0
        self.queued: set[int] = set()
        """Members with sound that has not become text."""
        self.purged: list[int] = []

    def write(self, frame: AudioFrame) -> None:
        self.frames += 1
        self.queued.add(frame.user_id)
        self.delivered.add(frame.user_id)

    def purge(self, user_id: int) -> None:
        self.purged.append(user_id)
        self.queued.discard(user_id)
        self.delivered.discard(user_id)


class World:
    """One bot process after another, on one disk and one database."""

    def __init__(self, mode: str, seed: int) -> None:
        self.mode = mode
        self.dice = random.Random(seed)
        self.steps = 0
        self.people = {each: Person() for each in PEOPLE}
        self.here: set[int] = set()
        self.blind: set[int] = set()
        """Who cannot see the text channel."""
        self.room = ROOM
        self.guard = Guard()
        self.database = Database({}, self.dice)
        self.image = b""
        self.posts = True
        self.may_post = asyncio.Event()
        self.may_post.set()
        self.notice = 0
        """Number of the last notice that stands; counts up."""
        self.stands_for: tuple[int, frozenset[NoticeFacts]] | None = None
        """Room and uses that the notice which stands tells of; None: there is none."""
        self.since: dict[NoticeFacts, int] = {}
        """When each use that goes on began."""
        self.moved_at = 0

    # ---- the bot

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        await self._start()
        try:
            yield self
        finally:
            self.may_post.set()
            self.database.heal(Health.WELL)
            await self._stop()

    async def _start(self) -> None:
        self.disk = LossyDisk(SLOTS, self.image)
        file: WithdrawalFile = self.disk.opened()
        decisions = Decisions({key: word for key, word in self.database.rows.items()}, file.records())
        store: Any = self.database
        self.consent = StoredConsent(store, self.mode, file, decisions)  # type: ignore[arg-type]
        self._stack = contextlib.AsyncExitStack()
        await self._stack.enter_async_context(self.consent.writing())
        self.scope = Scope("world")
        self.dispatcher = Dispatcher(
            lambda: ["guard"],
            lambda _plugin, _guild: True,
            name_of=lambda _module: "stt",
            comes_along=lambda _plugin: True,
        )
        self.dispatcher.manager.register(object(), "stt")
        self.dispatcher.manager.register(self.guard, "guard")
        self.session = Session(
            GUILD,
            Wish(self.room, PEOPLE[0], TEXT),
            consent=self.consent,
            hooks=self.dispatcher,
            post_notice=self._post,
            can_see=lambda channel, user: not (channel == TEXT and user in self.blind),
            scope=self.scope,
            now=0.0,
            state_of=lambda: "live",
            on_speaking=lambda _user, _on: None,
        )
        self.consent.subscribe(lambda _guild, user: self.session.consent_changed(user))
        self.generation = 1
        self.session.begin_link(1, self.room, [(each, False) for each in self.here])
        self.session.member_is(ROBOT, True)
        self.sinks: dict[NoticeFacts, tuple[Sink, Any]] = {}
        self.delivered: set[int] = set()
        """Members whose sound a sink received, one that has gone too, since they were purged."""

    async def _stop(self) -> None:
        await self.scope.aclose()
        await self._stack.aclose()
        tasks = [task for each in self.people.values() for task in each.tasks if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _post(self, session: Session, places: Sequence[int]) -> Sequence[int]:
        began, room, told = self.steps, session.channel_id, frozenset(self.sinks)
        here = set(self.here)
        await self.may_post.wait()
        if not self.posts:
            return ()
        self.notice += 1
        now = frozenset(self.sinks)
        of_now = began >= self.moved_at and room == self.room and now <= told
        if of_now and all(self.since[each] <= began for each in now):
            self.stands_for = (room, now)
        for each in here:
            if max(self.people[each].forgotten_at, self.people[each].left_at) <= began:
                self.people[each].told.add(self.notice)
        return places

    # ---- what happens

    async def agree(self, user: int, usual: bool) -> None:
        person = self.people[user]
        if person.pending is not None:
            return
        terms = USUAL if usual else self.session.terms
        person.asking = terms
        person.pending = asyncio.create_task(self._ask(partial(self.consent.agree, GUILD, user, terms)))
        person.pending.add_done_callback(lambda task: self._agreed(person, terms, task))

    def _agreed(self, person: Person, terms: Terms, task: asyncio.Task[bool]) -> None:
        if person.pending is not task:
            return
        person.pending = None
        if task.cancelled():
            return
        if not task.result():
            if person.word is Say.AGREE and terms != person.last:
                # The database may have the new terms, so the old agreement may have been ended to be sure.
                person.word = None
        else:
            if person.word in (Say.NOTHING, Say.REFUSE):
                person.terms = set()
            person.word = Say.AGREE
            person.terms.add(terms)
            person.last = terms

    async def refuse(self, user: int) -> None:
        person = self.people[user]
        person.pending = None
        person.word, person.terms = Say.REFUSE, set()
        person.refusing = asyncio.create_task(self._ask(partial(self.consent.opt_out, GUILD, user)))
        await asyncio.sleep(0)  # until it has arrived
        self._holds_nothing_of(user)

    async def forget(self, user: int) -> None:
        """What `roost.commands.personal_data` does for them."""
        person = self.people[user]
        person.before |= person.terms | {person.asking}
        unsure = person.word is None or person.pending is not None
        person.pending, person.terms = None, set()
        if self.mode == "opt-in":
            person.word = Say.NOTHING
        elif unsure:
            person.word = None
        elif person.word is not Say.REFUSE:
            person.word = Say.NOTHING
        told = set(person.told)
        person.told.clear()
        person.forgotten_at = self.steps
        self.consent.ask_again(GUILD, user)
        self._holds_nothing_of(user)
        person.forgetting = asyncio.create_task(self._ask(partial(self._forget, user, self.session)))
        # A request that failed, as they were told, has not taken back that they saw the notice.
        person.forgetting.add_done_callback(
            lambda task: None if task.cancelled() or task.result() else person.told.update(told)
        )
        await asyncio.sleep(0)  # until it has arrived
        self._holds_nothing_of(user)

    async def _forget(self, user: int, session: Session) -> None:
        await self.consent.forget(user)
        session.forget(user)

    def _holds_nothing_of(self, user: int) -> None:
        """What they said before is under way nowhere, unless they agreed and are being forgotten."""
        queued = any(user in sink.queued for sink, _ in self.sinks.values())
        if queued and self.consent.decision(GUILD, user) is not True:
            raise Breach(f"words of {user} are under way")

    async def _ask(self, decide: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        try:
            await decide()
        except ResourceError:
            return False
        return True

    async def arrive(self, user: int) -> None:
        self.here.add(user)
        self.session.member_is(user, False)

    async def go(self, user: int) -> None:
        self.here.discard(user)
        self.people[user].left_at = self.steps
        self.session.member_left(user)

    async def blinded(self, user: int, on: bool) -> None:
        (self.blind.add if on else self.blind.discard)(user)
        self.session.ask_again()

    async def listen(self, what: int) -> None:
        facts = FACTS[what]
        if facts in self.sinks:
            return
        sink = Sink(self.delivered)
        self.since[facts] = self.steps
        if self.stands_for is None or facts not in self.stands_for[1]:
            self.stands_for = None
            self._forget_notices()
        self.sinks[facts] = (sink, None)
        self.sinks[facts] = (sink, self.session.attach(sink, facts=facts))

    async def unlisten(self, what: int) -> None:
        if (found := self.sinks.pop(FACTS[what], None)) is None:
            return
        found[1]()
        if self.stands_for is not None:
            self.stands_for = (self.stands_for[0], self.stands_for[1] & frozenset(self.sinks)) if self.sinks else None
        if not self.sinks:
            self._forget_notices()

    async def move(self) -> None:
        self.room = OTHER_ROOM if self.room == ROOM else ROOM
        self.moved_at = self.steps
        self.stands_for = None
        self._forget_notices()
        self.generation += 1
        self.session.begin_link(self.generation, self.room, [(each, False) for each in self.here])
        self.session.link_live()

    def _forget_notices(self) -> None:
        for each in self.people.values():
            each.told.clear()

    async def posting(self, works: bool, at_once: bool) -> None:
        """Those that Discord has not answered are answered now; later ones wait, unless `at_once`."""
        self.posts = works
        self.may_post.set()
        if not at_once:
            self.may_post.clear()

    async def asked(self) -> None:
        self.session.link_live()

    async def store(self, health: str) -> None:
        self.database.heal(Health(health))

    async def guarded(self, user: int, on: bool) -> None:
        (self.guard.forbids.add if on else self.guard.forbids.discard)(user)
        before = [sink.purged.count(user) for sink, _ in self.sinks.values()]
        was_heard = user in self.delivered
        self.session.ask_again()
        after = [sink.purged.count(user) for sink, _ in self.sinks.values()]
        if on and user in self.here and any(user in sink.queued for sink, _ in self.sinks.values()):
            raise Breach(f"words of {user}, whom a plugin forbids to hear, are under way")
        if not was_heard and before != after:
            raise Breach(f"nothing of {user} was delivered, and the sinks were told to purge it")

    async def crash(self, power: bool) -> None:
        """SIGKILL, or the end of the machine: what was not synced may be lost, at any byte."""
        arrived = (lambda _number: self.dice.randrange(65)) if power else (lambda _number: 64)
        self.image = self.disk.after_power_loss(arrived)
        rows = dict(self.database.rows)
        for person in self.people.values():
            unsure = person.pending is not None
            if person.refusing is not None and not (person.refusing.done() and person.refusing.result()):
                unsure = True
            if person.forgetting is not None and not (person.forgetting.done() and person.forgetting.result()):
                unsure = True
                person.terms |= person.before
            if unsure:
                person.word = None
                person.terms |= {person.asking}
            for task in person.tasks:
                if task is not None:
                    task.cancel()
            person.pending = person.refusing = person.forgetting = None
        self.may_post.set()
        self.database.heal(Health.BUSY)
        await self._stop()
        self.database = Database(rows, self.dice)
        self.stands_for = None
        self.since.clear()
        self.sinks, self.delivered = {}, set()
        self._forget_notices()
        await self._start()

    # ---- what must hold

    def check(self) -> None:
        """Nobody is heard who must not be."""
        for user in (*PEOPLE, ROBOT):
            if self.hears(user) and (why := self._forbidden(user)):
                raise Breach(f"{user} is heard: {why}")

    def hears(self, user: int) -> bool:
        wanted = self.session.wants(user)
        before = sum(sink.frames for sink, _ in self.sinks.values())
        self.session.on_frame(AudioFrame(GUILD, user, ssrc=user, rtp_timestamp=0, opus=b"\xfc\xff\xfe", lost_before=0))
        heard = sum(sink.frames for sink, _ in self.sinks.values()) > before
        if heard != wanted:
            raise Breach(f"{user}: asked before decryption the answer was {wanted}, then {heard}")
        return heard

    def _forbidden(self, user: int) -> str:
        """Why a member must not be heard; empty where they may, or where nobody can know."""
        if user == ROBOT:
            return "a bot"
        person = self.people[user]
        if user not in self.here:
            return "not in the channel"
        if user in self.guard.forbids:
            return "a plugin forbids it"
        if self.stands_for is None or self.stands_for != (self.room, frozenset(self.sinks)):
            return f"no notice tells of it: {self.stands_for}"
        maybe = person.pending is not None or person.word is None
        if person.word is Say.REFUSE and not maybe:
            return "they refused"
        if self.mode == "opt-in" and person.word is Say.NOTHING and not maybe:
            return "they have not agreed"
        covered = maybe or any(self._covers(terms, user) for terms in person.terms)
        if self.mode == "notice" and not person.told and not covered:
            return "they were not shown the notice"
        if self.mode == "opt-in" and not covered:
            return "they agreed to less"
        if self.mode == "notice" and user in self.blind and self._text_unseen() and not covered:
            return "they cannot see where the text goes"
        if self._others_read() and not covered:
            return "they have not agreed that others read along"
        return ""

    def _covers(self, terms: Terms, user: int) -> bool:
        if self._named() and not terms.services:
            return False
        if any(each.kept_days > terms.kept_days for each in self.sinks):
            return False
        named = self._others_read() or (user in self.blind and self._text_unseen())
        return bool(terms.places) or not named

    def _named(self) -> bool:
        """Whether a service or a plugin gets the sound, which an agreement has to name."""
        return any(each.sends_to or each.use is Use.PLUGIN for each in self.sinks)

    def _others_read(self) -> bool:
        """Whether people who cannot be in the room read along, which an agreement has to name."""
        return any(each.onlookers for each in self.sinks)

    def _text_unseen(self) -> bool:
        return any(each.channel_id == TEXT for each in self.sinks)

    async def rest(self) -> None:
        """Everything works again for a while: then who agreed is heard, and each decision is kept."""
        self.posts = True
        self.may_post.set()
        self.database.heal(Health.WELL)
        async with asyncio.timeout(20):
            while self.consent.unstored or any(
                task is not None and not task.done() for each in self.people.values() for task in each.tasks
            ):
                await asyncio.sleep(0.001)
        self.session.link_live()
        await self.session.capturing()
        await asyncio.sleep(0.02)
        for user, person in self.people.items():
            held = self.database.rows.get((GUILD, user))
            if person.word is Say.REFUSE and held is not False:
                raise Breach(f"{user} refused, and the database has {held!r}")
            if person.word is Say.AGREE and not isinstance(held, str):
                raise Breach(f"{user} agreed, and the database has {held!r}")
            if person.word is Say.NOTHING and held is not None:
                raise Breach(f"{user} has decided nothing, and the database has {held!r}")
            heard = self.hears(user)
            if person.word is Say.AGREE and self.sinks and not self._forbidden(user) and user not in self.blind:
                by_name = self._named() or self._others_read()
                enough = person.last == self.session.terms if by_name else self._covers(person.last, user)
                if enough and not heard:
                    raise Breach(f"{user} agreed and is not heard")


OPERATIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "agree": {"user": PEOPLE, "usual": (True, False)},
    "refuse": {"user": PEOPLE},
    "forget": {"user": PEOPLE},
    "arrive": {"user": PEOPLE},
    "go": {"user": PEOPLE},
    "blinded": {"user": PEOPLE, "on": (True, False, False)},
    "listen": {"what": (0, 0, 1, 2, 3, 4)},
    "unlisten": {"what": (0, 1, 2, 3, 4)},
    "move": {},
    "posting": {"works": (True, True, False), "at_once": (True, True, False)},
    "asked": {},
    "store": {"health": ("well", "well", "busy", "lost", "stuck")},
    "guarded": {"user": PEOPLE, "on": (True, False, False)},
    "crash": {"power": (True, False)},
    "rest": {},
}
WEIGHTS = {
    "agree": 6,
    "refuse": 5,
    "forget": 4,
    "arrive": 6,
    "go": 3,
    "listen": 5,
    "posting": 4,
    "unlisten": 2,
    "move": 1,
    "store": 3,
    "crash": 1,
}


async def step(world: World, name: str, choices: Mapping[str, Any]) -> None:
    """Have one thing happen, give the tasks some turns, and check."""
    world.steps += 1
    await getattr(world, name)(**choices)
    world.check()
    for _ in range(world.dice.randrange(6)):
        await asyncio.sleep(0)
    world.check()


async def play(seed: int, steps: int) -> list[tuple[str, dict[str, Any]]]:
    """A run from chance; what happened.

    Raises:
        Breach: With the trace in its notes.
    """
    dice = random.Random(seed)
    names = [name for name in OPERATIONS for _ in range(WEIGHTS.get(name, 2))]
    trace: list[tuple[str, dict[str, Any]]] = []
    try:
        async with World(dice.choice(("opt-in", "notice")), seed).running() as world:
            for user in PEOPLE:
                await world.arrive(user)
            for _ in range(steps):
                name = dice.choice(names)
                choices = {key: dice.choice(values) for key, values in OPERATIONS[name].items()}
                trace.append((name, choices))
                await step(world, name, choices)
            trace.append(("rest", {}))
            await step(world, "rest", {})
    except (Breach, TimeoutError) as breach:
        breach.add_note(f"seed {seed}, mode {world.mode}; the last of {len(trace)} steps:")
        for each in trace[-40:]:
            breach.add_note(f"  {each}")
        raise
    return trace


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Short waits, so that many of them fit into a run."""
    before = [
        (consent_module, "STORED_S", 0.02),
        (consent_module, "VOIDED_S", 0.01),
        (consent_module, "FIRST_RETRY_S", 0.001),
        (consent_module, "LONGEST_RETRY_S", 0.01),
        (consent_module, "DRAINED_S", 0.0),
        (session_module, "LATE_NOTICE_S", 0.002),
    ]
    kept = [(module, name, getattr(module, name)) for module, name, _ in before]
    for module, name, value in before:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)
