"""The group's client against the simulator's delivery service, without sockets, and against nonsense."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.audio import SILENCE_FRAME, Timing
from roost_voice.protocol import dave
from roost_voice.protocol.dave import FAILURES_BEFORE_RECOVERY, DaveGroup, DaveState
from roost_voice.protocol.opcodes import Op
from roost_voice.sim.delivery import DeliveryService

pytestmark = pytest.mark.unit

CHANNEL = 77
OPUS = b"\x78" + bytes(range(60))


class World:
    """A delivery service and some of our clients, with messages delivered in order."""

    def __init__(self, **options: Any) -> None:
        self.service = DeliveryService(CHANNEL, **options)
        self.groups: dict[int, DaveGroup] = {}
        self.now = 1000.0
        self.damage: set[tuple[int, int]] = set()
        """(user, op) whose next message arrives with a bit flipped."""
        self.withhold: set[tuple[int, int]] = set()
        """(user, op) that gets lost."""
        self.sent: list[tuple[int, int]] = []
        self.told: list[tuple[int, int, str]] = []

    def join(self, user_id: int, **options: Any) -> DaveGroup:
        for other in self.groups.values():
            other.members.add(user_id)
        group = DaveGroup(
            user_id,
            CHANNEL,
            Timing(),
            on_change=lambda version, _epoch, state: self.told.append((user_id, version, state)),
            **options,
        )
        group.members |= set(self.groups)
        self.groups[user_id] = group
        group.describe(1)
        self.service.join(user_id)
        self.settle()
        return group

    def leave(self, user_id: int) -> None:
        del self.groups[user_id]
        for other in self.groups.values():
            other.members.discard(user_id)
        self.service.leave(user_id)
        self.settle()

    def settle(self) -> None:
        for _ in range(100):
            outbox, self.service.outbox = self.service.outbox, []
            for message in outbox:
                self._deliver(message.user_id, message.op, message.payload)
            moved = bool(outbox)
            for user_id, group in list(self.groups.items()):
                frames, group.out[:] = group.out[:], []
                for frame in frames:
                    moved = True
                    self._take(user_id, frame)
            if not moved:
                return
        raise AssertionError("the group never settles")

    def _deliver(self, user_id: int, op: int, payload: dict[str, Any] | bytes) -> None:
        group = self.groups.get(user_id)
        if group is None or (user_id, op) in self.withhold:
            return
        if isinstance(payload, bytes):
            if (user_id, op) in self.damage:
                self.damage.discard((user_id, op))
                payload = payload[:-1] + bytes([payload[-1] ^ 1])
            group.handle_binary(Op(op), payload, self.now)
        else:
            group.handle_text(Op(op), payload, self.now)

    def _take(self, user_id: int, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            self.sent.append((user_id, frame[0]))
            if frame[0] == Op.DAVE_KEY_PACKAGE:
                self.service.key_package(user_id, frame[1:])
            else:
                assert frame[0] == Op.DAVE_COMMIT_WELCOME
                self.service.commit(user_id, frame[1:], self.now)
            return
        message = json.loads(frame)
        self.sent.append((user_id, message["op"]))
        number = message["d"]["transition_id"]
        if message["op"] == Op.DAVE_TRANSITION_READY:
            self.service.transition_ready(user_id, number)
        else:
            assert message["op"] == Op.DAVE_INVALID_COMMIT_WELCOME
            self.service.invalid(user_id, number)

    def all_understand(self) -> bool:
        for speaker in self.groups:
            payload = self.groups[speaker].encrypt(OPUS)
            if payload is None:
                return False
            for listener, group in self.groups.items():
                if listener != speaker and group.decrypt(speaker, payload, self.now) != OPUS:
                    return False
        return True


def states(world: World, user_id: int) -> list[str]:
    return [state for user, _, state in world.told if user == user_id]


def test_alone_the_group_is_pending() -> None:
    world = World()
    one = world.join(1)
    assert one.state is DaveState.PENDING
    assert one.encrypt(OPUS) is None
    assert one.encrypt(SILENCE_FRAME) == SILENCE_FRAME
    assert one.decrypt(2, OPUS, world.now) == "dave_pending"
    assert one.decrypt(2, SILENCE_FRAME, world.now) == SILENCE_FRAME
    assert one.due is None


@pytest.mark.parametrize("zero", [True, False])
def test_members_come_and_go(zero: bool) -> None:
    world = World(first_transition_zero=zero)
    one, two = world.join(1), world.join(2)
    assert one.state is two.state is DaveState.ACTIVE
    assert world.all_understand()
    three = world.join(3)
    assert world.all_understand()
    assert one.epochs == 2
    assert three.epochs == 1
    world.leave(2)
    assert world.all_understand()
    assert one.epoch == three.epoch > 2
    assert (1, Op.DAVE_TRANSITION_READY) in world.sent
    assert one.violations == three.violations == {}


def test_the_last_one_starts_over() -> None:
    world = World()
    one = world.join(1)
    world.join(2)
    world.leave(2)
    assert one.state is DaveState.PENDING
    assert one.epoch == 0
    world.join(3)
    assert world.all_understand()


@pytest.mark.parametrize(("victim", "op"), [(1, Op.DAVE_ANNOUNCE_COMMIT), (2, Op.DAVE_ANNOUNCE_COMMIT)])
def test_a_damaged_commit_is_answered_with_op_31_once(victim: int, op: Op) -> None:
    world = World()
    world.join(1)
    world.join(2)
    world.damage.add((victim, op))
    world.join(3)
    assert world.sent.count((victim, Op.DAVE_INVALID_COMMIT_WELCOME)) == 1
    assert world.all_understand()
    assert "recovering" in states(world, victim)


def test_a_damaged_welcome_is_answered_with_op_31_once() -> None:
    world = World()
    world.join(1)
    world.join(2)
    world.damage.add((3, Op.DAVE_WELCOME))
    three = world.join(3)
    assert world.sent.count((3, Op.DAVE_INVALID_COMMIT_WELCOME)) == 1
    # The server still executes the transition of the welcome that we refused.
    assert three.violations == {"welcome": 1, "unknown_transition": 1}
    assert world.all_understand()


def test_the_fourth_recovery_within_a_minute_ends_the_link() -> None:
    group = DaveGroup(1, CHANNEL, Timing())
    group.describe(1)
    for number in range(3):
        group.handle_binary(Op.DAVE_WELCOME, b"\0\1nonsense", 10.0 + number)
        assert group.failure is None
    group.handle_binary(Op.DAVE_WELCOME, b"\0\1nonsense", 14.0)
    assert group.failure is not None
    assert group.failure_retryable
    later = DaveGroup(1, CHANNEL, Timing())
    later.describe(1)
    for number in range(20):
        later.handle_binary(Op.DAVE_WELCOME, b"\0\1nonsense", 10.0 + 21 * number)
    assert later.failure is None


def test_who_is_not_let_in_asks_again() -> None:
    world = World()
    world.join(1)
    world.withhold |= {(1, Op.DAVE_ANNOUNCE_COMMIT), (2, Op.DAVE_ANNOUNCE_COMMIT), (2, Op.DAVE_WELCOME)}
    two = world.join(2)
    assert two.state is DaveState.PENDING
    assert two.due == pytest.approx(world.now + 5.0)
    world.withhold.clear()
    world.now += 5.0
    two.handle_timer(world.now)
    world.settle()
    assert two.state is DaveState.ACTIVE
    assert world.all_understand()


def test_waiting_for_ever_never_ends_the_link() -> None:
    group = DaveGroup(1, CHANNEL, Timing())
    group.members.add(2)
    group.describe(1)
    now = 0.0
    for _ in range(100):
        group.check_wait(now)
        now += 1.0
        group.handle_timer(now)
    assert group.failure is None
    assert sum(isinstance(frame, str) for frame in group.out) <= 3 * (100 / 60 + 1)


def test_external_sender_while_active_changes_nothing() -> None:
    world = World()
    one = world.join(1)
    world.join(2)
    sender = one._external_sender
    assert sender is not None
    one.handle_binary(Op.DAVE_EXTERNAL_SENDER, sender, world.now)
    assert one.violations == {"external_sender": 1}
    assert one.out == []
    assert world.all_understand()


def test_a_commit_for_others_while_pending_is_left_alone() -> None:
    world = World()
    world.join(1)
    world.join(2)
    seen: list[bytes] = []
    deliver = world._deliver

    def spy(user_id: int, op: int, payload: dict[str, Any] | bytes) -> None:
        if op == Op.DAVE_ANNOUNCE_COMMIT and isinstance(payload, bytes):
            seen.append(payload)
        deliver(user_id, op, payload)

    world._deliver = spy  # type: ignore[method-assign]
    world.join(3)
    late = DaveGroup(9, CHANNEL, Timing())
    late.describe(1)
    sender = world.groups[1]._external_sender
    assert sender is not None
    late.handle_binary(Op.DAVE_EXTERNAL_SENDER, sender, world.now)
    late.out.clear()
    late.handle_binary(Op.DAVE_ANNOUNCE_COMMIT, seen[0], world.now)
    assert late.state is DaveState.PENDING
    assert late.violations == {"not_for_us": 1}
    assert late.out == []


def test_only_announced_users_are_added() -> None:
    world = World()
    one = world.join(1)
    assert one.members == set()
    stranger = DaveGroup(2, CHANNEL, Timing())
    stranger.describe(1)
    package = stranger.out[0]
    assert isinstance(package, bytes)
    world.service.join(2)
    world.service.key_package(2, package[1:])
    for message in world.service.outbox:
        if message.user_id == 1 and isinstance(message.payload, bytes):
            one.handle_binary(Op(message.op), message.payload, world.now)
    assert one.out == []
    assert one.violations == {"proposals": 1}


def test_an_older_own_commit_is_not_merged_as_the_newest() -> None:
    world = World()
    one = world.join(1)
    one._own_commits.extend([b"older", b"newer"])
    one.handle_binary(Op.DAVE_ANNOUNCE_COMMIT, b"\0\5older", world.now)
    assert one.state is DaveState.RECOVERING
    assert json.loads(one.out[0]) == {"op": 31, "d": {"transition_id": 5}}


def test_plaintext_is_dropped_but_silence_passes() -> None:
    world = World()
    one = world.join(1)
    world.join(2)
    assert one.decrypt(2, OPUS, world.now) == "plaintext"
    assert one.decrypt(2, OPUS + b"\xfa\xfa", world.now) in ("plaintext", "dave")
    assert one.decrypt(2, b"", world.now) == "plaintext"
    assert one.decrypt(2, SILENCE_FRAME, world.now) == SILENCE_FRAME
    assert one.decrypt(9, OPUS + b"\xfa\xfa", world.now) == "dave_no_key"
    assert one.passed_through == 1


def test_a_frame_decrypts_once() -> None:
    world = World()
    one, two = world.join(1), world.join(2)
    payload = two.encrypt(OPUS)
    assert payload is not None
    assert one.decrypt(2, payload, world.now) == OPUS
    assert one.decrypt(2, payload, world.now) == "dave"


def test_many_failures_of_one_speaker_are_recovered_once() -> None:
    world = World()
    one, two = world.join(1), world.join(2)
    garbage = (two.encrypt(OPUS) or b"")[:20] + bytes(40)
    for _ in range(FAILURES_BEFORE_RECOVERY - 1):
        one.decrypt(2, garbage, world.now)
    assert one.state is DaveState.ACTIVE
    one.decrypt(2, garbage, world.now)
    assert one.state is DaveState.RECOVERING
    world.settle()
    assert one.state is DaveState.ACTIVE
    for _ in range(200):
        one.decrypt(2, garbage, world.now)
    assert one.state is DaveState.ACTIVE
    assert world.sent.count((1, Op.DAVE_INVALID_COMMIT_WELCOME)) == 1
    assert world.all_understand()


def test_failures_that_are_not_in_a_row_change_nothing() -> None:
    world = World()
    one, two = world.join(1), world.join(2)
    for number in range(200):
        one.decrypt(2, b"garbage" * 5, world.now)
        if number % 30 == 0:
            payload = two.encrypt(OPUS)
            assert payload is not None
            assert one.decrypt(2, payload, world.now) == OPUS
    assert one.state is DaveState.ACTIVE


def test_unknown_transitions_are_ignored() -> None:
    world = World()
    one = world.join(1)
    world.join(2)
    for data in ({"transition_id": 5000}, {"transition_id": "x"}, {}, {"transition_id": -1}):
        one.handle_text(Op.DAVE_EXECUTE_TRANSITION, data, world.now)
    assert one.violations == {"unknown_transition": 4}
    assert world.all_understand()


def test_a_downgrade_is_refused() -> None:
    for op, data in (
        (Op.DAVE_PREPARE_TRANSITION, {"protocol_version": 0, "transition_id": 4}),
        (Op.DAVE_PREPARE_EPOCH, {"protocol_version": 0, "epoch": 1}),
    ):
        world = World()
        one = world.join(1)
        world.join(2)
        one.handle_text(op, data, world.now)
        assert one.failure is not None
        assert not one.failure_retryable
        assert "encrypted" in one.failure
        assert world.all_understand()
    group = DaveGroup(1, CHANNEL, Timing())
    group.describe(0)
    assert group.failure is not None


def test_a_downgrade_may_be_allowed_and_comes_back() -> None:
    world = World()
    one = world.join(1, allow_unencrypted=True)
    two = world.join(2, allow_unencrypted=True)
    world.service.downgrade(world.now)
    world.settle()
    assert one.version == two.version == 0
    assert one.encrypt(OPUS) == OPUS
    assert one.decrypt(2, OPUS, world.now) == OPUS
    assert one.state is DaveState.NONE
    world.service.upgrade()
    world.settle()
    assert one.state is two.state is DaveState.ACTIVE
    payload = one.encrypt(OPUS)
    assert payload != OPUS
    assert world.all_understand()


def test_a_version_we_lack_ends_the_link() -> None:
    group = DaveGroup(1, CHANNEL, Timing())
    group.describe(2)
    assert group.failure is not None
    assert "version 2" in group.failure


def test_pending_transitions_are_bounded() -> None:
    world = World()
    one = world.join(1)
    for number in range(1, 1000):
        one.handle_text(Op.DAVE_PREPARE_TRANSITION, {"protocol_version": 1, "transition_id": number}, world.now)
    assert len(one._transitions) <= 16


VALUES = st.none() | st.integers(-2, 70_000) | st.text(max_size=3) | st.booleans()


@settings(max_examples=120, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from([Op.DAVE_PREPARE_TRANSITION, Op.DAVE_EXECUTE_TRANSITION, Op.DAVE_PREPARE_EPOCH]),
                st.fixed_dictionaries(
                    {}, optional={"protocol_version": VALUES, "transition_id": VALUES, "epoch": VALUES}
                ),
            ),
            st.tuples(
                st.sampled_from([Op.DAVE_EXTERNAL_SENDER, Op.DAVE_PROPOSALS, Op.DAVE_ANNOUNCE_COMMIT, Op.DAVE_WELCOME]),
                st.binary(max_size=80),
            ),
        ),
        max_size=10,
    ),
    st.booleans(),
)
def test_no_message_raises(said: list[tuple[Op, Any]], described: bool) -> None:
    group = DaveGroup(1, CHANNEL, Timing())
    group.members.add(2)
    if described:
        group.describe(1)
    for number, (op, body) in enumerate(said):
        if isinstance(body, bytes):
            group.handle_binary(op, body, number)
        else:
            group.handle_text(op, body, number)
        group.decrypt(2, b"\x78anything", number)
        group.encrypt(b"\x78anything")
        group.handle_timer(number + 6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.integers(0, 255), st.sampled_from([Op.DAVE_ANNOUNCE_COMMIT, Op.DAVE_WELCOME]))
def test_a_damaged_real_message_never_raises(position: int, change: int, op: Op) -> None:
    world = World()
    world.join(1)
    deliver = world._deliver

    def damage(user_id: int, number: int, payload: dict[str, Any] | bytes) -> None:
        if number == op and isinstance(payload, bytes) and len(payload) > position:
            payload = payload[:position] + bytes([payload[position] ^ change]) + payload[position + 1 :]
            world._deliver = deliver  # type: ignore[method-assign]
        deliver(user_id, number, payload)

    world._deliver = damage  # type: ignore[method-assign]
    world.join(2)
    assert world.all_understand()


def churn(world: World, members: int, speaker: DaveGroup | None = None) -> list[int]:
    """So many members come and go, while somebody speaks or not.

    Returns:
        How many epochs the first client's group had gone through before each change with which it was entered anew.
    """
    first = world.groups[1]
    renewed = []
    for number in range(members):
        for change in (world.join, world.leave):
            payload = speaker.encrypt(OPUS) if speaker is not None else None
            if payload is not None:
                first.decrypt(2, payload, world.now)
            world.sent.clear()
            before = first._group_epochs
            change(100 + number)
            world.now += 30.0
            if (1, Op.DAVE_INVALID_COMMIT_WELCOME) in world.sent:
                renewed.append(before)
            assert first.failure is None
            assert first.state is DaveState.ACTIVE
    return renewed


def test_a_group_of_many_changes_is_entered_anew_while_nobody_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dave, "RENEW_AFTER", 10)
    world = World()
    world.join(1)
    world.join(2)
    renewed = churn(world, 20)
    assert len(renewed) >= 3
    assert {9, 10} >= set(renewed)
    assert world.all_understand()


def test_speech_puts_that_off_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dave, "RENEW_AFTER", 4)
    monkeypatch.setattr(dave, "RENEW_AT_LAST", 14)
    world = World()
    world.join(1)
    renewed = churn(world, 25, world.join(2))
    assert len(renewed) >= 2
    assert {13, 14} >= set(renewed)
    assert world.all_understand()


def test_entering_anew_for_that_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dave, "RENEW_AFTER", 3)
    world = World()
    group = world.join(1)
    world.join(2)
    for number in range(12):
        world.join(100 + number)
        world.leave(100 + number)  # all within a minute, in which three recoveries are the most
    assert group.failure is None
    assert world.all_understand()
