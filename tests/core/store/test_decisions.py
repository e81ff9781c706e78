"""The order of decisions, under every order of presses, writes, failures and crashes."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from withdrawal_disk import LossyDisk, stopping_after

from roost.store.decisions import NO_GUILD, Decisions, FileBatch, FileResult, Key, Outcome, Record, Word, Write

pytestmark = pytest.mark.unit

ADA: Key = (1, 10)
KEYS: list[Key] = [ADA, (2, 10)]
FEW_SLOTS = 3
AGREED = ["", "more"]
"""The usual terms, and others."""


def stored(decisions: Decisions) -> dict[Key, Word]:
    """Carry out one transaction that succeeds."""
    batch = decisions.take_store_batch(100)
    decisions.store_done()
    return {write.key: write.word for write in batch}


def kept(decisions: Decisions, result: FileResult | None = None) -> FileBatch | None:
    """Carry out one batch of the file."""
    batch = decisions.take_file_batch()
    if batch is not None:
        decisions.file_done(result or FileResult())
    return batch


def test_refusal_counts_at_once_and_ends_an_agreement_that_is_under_way() -> None:
    decisions = Decisions({})
    agreed = decisions.agree(ADA)
    assert decisions.take_store_batch(9) == (Write(1, ADA, ""),)
    refused = decisions.refuse(ADA)
    assert decisions.held == {ADA: False}
    assert decisions.take_outcomes() == [(agreed, Outcome.SUPERSEDED)]
    decisions.store_done()  # of the agreement
    assert decisions.held == {ADA: False}
    batch = kept(decisions)
    assert batch is not None
    assert [(each.key, each.word) for each in batch.keep] == [(ADA, False)]
    assert decisions.take_outcomes() == [(refused, Outcome.KEPT)]
    assert stored(decisions) == {ADA: False}
    batch = kept(decisions)
    assert batch is not None
    assert list(batch.clear) == [ADA]
    assert decisions.unstored == 0
    assert stored(decisions) == {}


def test_agreement_counts_after_the_store_has_it_and_the_refusal_is_cleared() -> None:
    decisions = Decisions({}, [Record(5, ADA, False)])
    number = decisions.agree(ADA)
    assert number == 6
    assert stored(decisions) == {ADA: ""}
    assert decisions.held == {ADA: False}, "a start now would find the refusal"
    assert decisions.take_outcomes() == []
    assert kept(decisions) == FileBatch((), {ADA: 6}, unmark=False)
    assert decisions.held == {ADA: ""}
    assert decisions.take_outcomes() == [(number, Outcome.KEPT)]
    assert decisions.take_changed() == [ADA]
    assert stored(decisions) == {}


def test_agreement_that_fails_leaves_the_refusal_before_it() -> None:
    decisions = Decisions({ADA: ""})
    decisions.refuse(ADA)
    kept(decisions)
    agreed = decisions.agree(ADA)
    decisions.take_store_batch(9)
    decisions.take_outcomes()
    decisions.store_failed(perhaps_done=False)
    assert decisions.take_outcomes() == [(agreed, Outcome.FAILED)]
    assert decisions.held == {ADA: False}
    assert stored(decisions) == {ADA: False}


def test_agreement_to_more_that_perhaps_failed_leaves_the_one_before() -> None:
    decisions = Decisions({ADA: ""})
    more = decisions.agree(ADA, "more")
    assert decisions.wanted(ADA) == "more"
    decisions.take_store_batch(9)
    decisions.store_failed(perhaps_done=True)
    batch = kept(decisions)
    assert batch is not None
    assert [(each.key, each.word) for each in batch.keep] == [(ADA, None)], "a start now asks the member anew"
    assert decisions.take_outcomes() == [(more, Outcome.FAILED)]
    assert decisions.held == {ADA: ""}
    assert stored(decisions) == {ADA: ""}
    batch = kept(decisions)
    assert batch is not None
    assert ADA in batch.clear
    assert decisions.is_at_rest


@pytest.mark.parametrize("gave_up", [False, True])
def test_agreement_that_perhaps_failed_is_withdrawn_before_that_is_said(gave_up: bool) -> None:
    decisions = Decisions({})
    agreed = decisions.agree(ADA)
    assert agreed is not None
    decisions.take_store_batch(9)
    if gave_up:
        decisions.give_up(agreed)
    else:
        decisions.store_failed(perhaps_done=True)
    assert decisions.take_outcomes() == []
    batch = kept(decisions)
    assert batch is not None
    assert [(each.key, each.word) for each in batch.keep] == [(ADA, None)]
    assert decisions.take_outcomes() == [(agreed, Outcome.FAILED)]
    if gave_up:
        decisions.store_done()
    assert decisions.held == {}
    assert stored(decisions) == {ADA: None}


def test_earlier_press_that_arrives_late_does_not_count() -> None:
    decisions = Decisions({})
    assert decisions.refuse(ADA, 1000) is not None
    assert decisions.agree(ADA, pressed_ms=999) is None
    assert decisions.agree(ADA, pressed_ms=1000) is not None, "of one millisecond, the later one counts"
    assert decisions.refuse((1, 11), 5_000_000) is not None
    assert decisions.agree(ADA, pressed_ms=999) is not None, "Discord sends nothing so old"


def test_presses_that_come_together_share_a_transaction() -> None:
    decisions = Decisions({})
    for user in range(100):
        decisions.agree((1, user))
    assert len(stored(decisions)) == 100
    assert {outcome for _, outcome in decisions.take_outcomes()} == {Outcome.KEPT}


def test_refusal_after_an_agreement_does_not_rely_on_a_record_that_is_about_to_go() -> None:
    decisions = Decisions({}, [Record(1, ADA, False)])
    decisions.agree(ADA)
    stored(decisions)
    refused = decisions.refuse(ADA)
    assert (refused, Outcome.KEPT) not in decisions.take_outcomes()
    batch = kept(decisions)
    assert batch is not None
    assert batch.keep == (Record(3, ADA, False),)
    assert batch.clear[ADA] < 3
    assert decisions.take_outcomes() == [(refused, Outcome.KEPT)]


@pytest.mark.parametrize("cleared", [True, False])
def test_agreement_waits_for_the_record_that_the_file_writes_meanwhile(cleared: bool) -> None:
    decisions = Decisions({})
    decisions.refuse(ADA)
    decisions.take_file_batch()
    agreed = decisions.agree(ADA)
    stored(decisions)
    decisions.file_done(FileResult())
    assert decisions.held == {ADA: False}
    kept(decisions, FileResult(cleared=cleared))
    assert decisions.held == {ADA: "" if cleared else False}
    if not cleared:
        kept(decisions)
    assert decisions.take_outcomes()[-1] == (agreed, Outcome.KEPT if cleared else Outcome.FAILED)


def test_record_that_could_not_be_replaced_may_still_count() -> None:
    decisions = Decisions({}, [Record(1, ADA, None)])
    refused = decisions.refuse(ADA)
    kept(decisions, FileResult(kept=False, cleared=False))
    stored(decisions)
    assert decisions.take_outcomes() == [], "a start now would find that the member has decided nothing"
    kept(decisions)
    assert decisions.take_outcomes() == [(refused, Outcome.KEPT)]
    assert decisions.is_at_rest


def test_withdrawal_that_the_store_refuses_is_in_the_file_before_that_is_said() -> None:
    decisions = Decisions({ADA: ""})
    numbers, _ = decisions.forget(10, keep_refusals=False)
    decisions.take_store_batch(9)
    decisions.store_failed(perhaps_done=False)
    assert decisions.take_outcomes() == []
    assert not decisions.is_safe
    kept(decisions)
    assert decisions.is_safe
    assert dict(decisions.take_outcomes()) == dict.fromkeys(numbers.values(), Outcome.FAILED)
    assert numbers.keys() == {ADA, (NO_GUILD, 10)}


def test_forgetting_ends_an_agreement_and_writes_the_refusal_that_stays() -> None:
    decisions = Decisions({ADA: False})
    decisions.agree(ADA)
    decisions.take_store_batch(9)
    numbers, guilds = decisions.forget(10, keep_refusals=True)
    assert guilds == (1,)
    decisions.store_done()
    kept(decisions)
    assert (numbers[ADA], Outcome.KEPT) in decisions.take_outcomes()
    assert stored(decisions) == {ADA: False, (NO_GUILD, 10): None}


def test_forgetting_keeps_refusals_only_when_asked_to() -> None:
    for keep in (False, True):
        decisions = Decisions({ADA: False, (2, 10): "", (1, 11): ""})
        numbers, guilds = decisions.forget(10, keep_refusals=keep)
        assert guilds == ((1,) if keep else ())
        assert decisions.held == ({ADA: False, (1, 11): ""} if keep else {(1, 11): ""})
        kept(decisions)
        assert decisions.take_outcomes() == [], "it is over when the store has it"
        stored(decisions)
        assert dict(decisions.take_outcomes()) == dict.fromkeys(numbers.values(), Outcome.KEPT)


def test_refusals_beyond_the_slots_leave_a_mark_until_the_store_has_them() -> None:
    disk = LossyDisk(FEW_SLOTS)
    file = disk.opened()
    decisions = Decisions({})

    def write() -> None:
        while (batch := decisions.take_file_batch()) is not None:
            decisions.file_done(file.apply(batch))

    for user in range(FEW_SLOTS + 2):
        decisions.refuse((1, user))
    write()
    assert {outcome for _, outcome in decisions.take_outcomes()} == {Outcome.KEPT}
    assert disk.opened().marked
    assert len(disk.opened().records()) == FEW_SLOTS
    stored(decisions)
    write()
    assert not disk.opened().marked
    assert disk.opened().records() == []


class Machine(RuleBasedStateMachine):
    """Members press, the file and the store are slow and fail, and the process is killed.

    The model: what a start must find of each member. That is what they were last told is kept, or anything they pressed
    after it, but nothing that they were told has failed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.disk = LossyDisk(FEW_SLOTS)
        self.store: dict[Key, str | bool] = {}
        self.sure: dict[Key, tuple[int, Word]] = {}
        self.later: dict[Key, list[tuple[int, Word]]] = {}
        self.voidable: set[Key] = set()
        """Members with an agreement who agreed to something else: of those a start may know nothing."""
        self.start()

    def start(self) -> None:
        self.file = self.disk.opened()
        held = {key: word for key, word in self.store.items() if word is False or not self.file.marked}
        self.decisions = Decisions(held, self.file.records())
        self.file_batch: FileBatch | None = None
        self.store_batch: tuple[Write, ...] = ()
        self.file_fails = False
        self.pressed: dict[int, tuple[Key, Word]] = {}
        self.voided: set[int] = set()
        """Agreements that failed, of which the file must have a record before that is said."""
        self.last: dict[Key, Word] = dict(self.decisions.held)

    def told(self) -> None:
        for number, outcome in self.decisions.take_outcomes():
            key, word = self.pressed.pop(number)
            kept_all_the_same = outcome is Outcome.FAILED and word is None and not self.file_fails
            if (outcome is Outcome.KEPT or kept_all_the_same) and number > self.sure.get(key, (0, None))[0]:
                self.sure[key] = (number, word)
                self.later[key] = [each for each in self.later[key] if each[0] > number]
                if not any(isinstance(each[1], str) for each in self.later[key]):
                    self.voidable.discard(key)
            elif outcome is Outcome.FAILED and isinstance(word, str) and not self.file_fails:
                self.later[key] = [each for each in self.later[key] if each[0] != number]

    def press(self, key: Key, word: Word, number: int | None) -> None:
        assert number is not None
        self.last[key] = word
        if isinstance(word, str) and isinstance(self.sure.get(key, (0, None))[1], str):
            self.voidable.add(key)
        if number not in self.pressed:
            self.pressed[number] = (key, word)
            self.later.setdefault(key, []).append((number, word))

    @rule(key=st.sampled_from(KEYS), word=st.sampled_from(AGREED))
    def agree(self, key: Key, word: str) -> None:
        self.press(key, word, self.decisions.agree(key, word))
        self.told()

    @rule(key=st.sampled_from(KEYS))
    def refuse(self, key: Key) -> None:
        self.press(key, False, self.decisions.refuse(key))
        self.told()

    @rule(keep=st.booleans())
    def forget(self, keep: bool) -> None:
        before = dict(self.decisions.held)
        numbers, guilds = self.decisions.forget(ADA[1], keep_refusals=keep)
        for guild in guilds:
            assert before[guild, ADA[1]] is False
            self.last[guild, ADA[1]] = False
        for key, number in numbers.items():
            self.press(key, False if key[0] in guilds else None, number)
        self.told()

    @precondition(lambda self: self.file_batch is None)
    @rule()
    def file_begins(self) -> None:
        self.file_batch = self.decisions.take_file_batch()

    @precondition(lambda self: self.file_batch is not None)
    @rule(works=st.sampled_from([99, 99, 99, 0, 1, 2, 3]))
    def file_ends(self, works: int) -> None:
        assert self.file_batch is not None
        batch, self.file_batch = self.file_batch, None
        self.disk.before = stopping_after(works)
        result = self.file.apply(batch)
        self.disk.before = stopping_after(99)
        # A failed agreement of which neither disk takes a record may be found by the next start.
        self.file_fails = not result.kept
        self.decisions.file_done(result)
        self.told()
        self.file_fails = False

    @rule()
    def file_is_tried_again(self) -> None:
        self.decisions.try_file_again()

    @precondition(lambda self: not self.store_batch)
    @rule(limit=st.sampled_from([1, 100]))
    def store_begins(self, limit: int) -> None:
        self.store_batch = self.decisions.take_store_batch(limit)

    @precondition(lambda self: self.store_batch)
    @rule(committed=st.booleans(), said=st.booleans())
    def store_ends(self, committed: bool, said: bool) -> None:
        if committed:
            self.commit()
        batch, self.store_batch = self.store_batch, ()
        if committed and said:
            self.decisions.store_done()
        else:
            self.decisions.store_failed(perhaps_done=committed or not said)
        self.told()
        self.voided |= {write.number for write in batch if isinstance(write.word, str) and write.number in self.pressed}

    @precondition(lambda self: not self.store_batch)
    @rule()
    def store_works(self) -> None:
        self.store_begins(100)
        if self.store_batch:
            self.store_ends(committed=True, said=True)

    @precondition(lambda self: self.file_batch is None)
    @rule()
    def file_works(self) -> None:
        self.file_begins()
        if self.file_batch is not None:
            self.file_ends(works=99)

    def commit(self) -> None:
        for write in self.store_batch:
            if write.word is None:
                self.store.pop(write.key, None)
            else:
                self.store[write.key] = write.word

    @precondition(lambda self: self.pressed)
    @rule(data=st.data())
    def gives_up(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.pressed)))
        if number in self.voided:
            return
        self.decisions.give_up(number)
        if self.pressed[number][1] in AGREED:
            self.voided.add(number)
        else:
            del self.pressed[number]
        self.told()

    @rule(committed=st.booleans(), at=st.integers(0, 6), arrived=st.lists(st.integers(0, 64), min_size=6, max_size=6))
    def is_killed(self, committed: bool, at: int, arrived: list[int]) -> None:
        if committed:
            self.commit()
        if self.file_batch is not None:
            self.disk.before = stopping_after(at)
            self.file.apply(self.file_batch)
        self.disk = LossyDisk(FEW_SLOTS, self.disk.after_power_loss(lambda number: arrived[number % 6]))
        self.start()
        for key in KEYS:
            found = self.decisions.held.get(key)
            allowed = [self.sure.get(key, (0, None))[1], *(word for _, word in self.later.get(key, []))]
            if self.file.marked:
                assert found in (False, None)
            else:
                known = found in allowed or (found is None and key in self.voidable)
                assert known, f"{key}: {found}, not one of {allowed}"
            self.sure[key] = (0, found)
            self.later[key] = []
            self.voidable.discard(key)
        if self.file.marked:  # the operator deletes it, in a bot that has stopped
            self.disk = LossyDisk(FEW_SLOTS)
            self.store = {key: word for key, word in self.decisions.held.items() if word is not None}
            self.start()

    @invariant()
    def nobody_is_heard_whose_last_word_is_no(self) -> None:
        for key, word in self.last.items():
            if not isinstance(word, str):
                assert not isinstance(self.decisions.held.get(key), str)

    @rule()
    def all_works(self) -> None:
        """Without failures everything comes to rest, in the store alone."""
        if self.store_batch:
            self.store_ends(committed=True, said=True)
        if self.file_batch is not None:
            self.file_ends(works=99)
        self.decisions.try_file_again()
        for _ in range(10):
            self.file_works()
            self.store_works()
        assert self.store == self.decisions.held
        assert self.disk.opened().records() == []
        assert not self.disk.opened().marked
        assert not self.pressed
        assert self.decisions.is_at_rest


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, database=None, report_multiple_bugs=False
)
