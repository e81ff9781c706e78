"""Targets of the end-to-end encryption, with an established group: messages, well-signed nonsense, frames.

The keys of a group are new in every run, so an input is a script: which of the group's own messages to take, and
what to change in it. The same input does the same thing to another group.
"""

from __future__ import annotations

import contextlib
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

from fuzz_packets import vectors
from fuzzing import Script, Target

from roost.audio import SILENCE_FRAME, Timing
from roost_voice.protocol.dave import MAX_OWN_COMMITS, MAX_PENDING_TRANSITIONS, DaveGroup, DaveState
from roost_voice.protocol.opcodes import Op
from roost_voice.sim import mls
from roost_voice.sim.delivery import DeliveryService

CHANNEL = 2200
OPUS = b"\x78" + bytes(range(60))
BINARY = (Op.DAVE_EXTERNAL_SENDER, Op.DAVE_PROPOSALS, Op.DAVE_ANNOUNCE_COMMIT, Op.DAVE_WELCOME)
TEXT = (Op.DAVE_PREPARE_TRANSITION, Op.DAVE_EXECUTE_TRANSITION, Op.DAVE_PREPARE_EPOCH)
JUNK = (None, True, -1, 0, 1, 2, 3, 7, 65_535, 65_536, 2**64, 1.5, "", "1", "0", "9" * 30, "٣", [], {})
REASONS = {"plaintext", "dave", "dave_no_key", "dave_pending"}
VIOLATIONS = {
    "unknown_transition", "transition", "epoch", "proposals", "commit", "welcome", "older_own_commit", "not_for_us",
    "panic", "external_sender", "refused",
}  # fmt: skip
GOLDEN = vectors("mls")
GOLDEN_USERS = {each["user_id"] for each in GOLDEN["key_packages"]}


class World:
    """A delivery service, our client (user 1) under test, and two more of its kind who behave."""

    def __init__(self) -> None:
        self.service = DeliveryService(CHANNEL)
        self.groups: dict[int, DaveGroup] = {}
        self.now = 1000.0
        self.seen: list[tuple[Op, bytes]] = []
        """Binary messages that were meant for user 1."""
        self.twist: tuple[Op, Script] | None = None
        """Change the next message of this op to user 1."""
        self.uses = 0
        for user in (1, 2, 3):
            self.join(user)
        assert self.one.state is DaveState.ACTIVE
        assert self.one.decrypt(2, self.said(2), self.now) == OPUS

    @property
    def one(self) -> DaveGroup:
        return self.groups[1]

    def whole(self) -> bool:
        one = self.one
        if set(self.groups) != {1, 2, 3} or one.members != {2, 3} or self.twist is not None:
            return False
        if one.failure is not None or one.state is not DaveState.ACTIVE or one.due is not None:
            return False
        return all(one.decrypt(user, self.said(user), self.now) == OPUS for user in (2, 3))

    def said(self, user: int) -> bytes:
        return self.groups[user].encrypt(OPUS) or b""

    def join(self, user: int) -> None:
        for other in self.groups.values():
            other.members.add(user)
        group = self.groups[user] = DaveGroup(user, CHANNEL, Timing())
        group.members |= set(self.groups) - {user}
        group.describe(1)
        self.service.join(user)
        self.settle()

    def leave(self, user: int) -> None:
        del self.groups[user]
        for other in self.groups.values():
            other.members.discard(user)
        self.service.leave(user)
        self.settle()

    def settle(self) -> None:
        """Deliver until nobody has anything to say; a client that never falls silent is a finding."""
        for _ in range(60):
            outbox, self.service.outbox = self.service.outbox, []
            for message in outbox:
                self._deliver(message.user_id, Op(message.op), message.payload)
            moved = bool(outbox)
            for user, group in list(self.groups.items()):
                frames, group.out[:] = group.out[:], []
                for frame in frames:
                    moved = True
                    self._take(user, frame)
            if not moved:
                return
        raise AssertionError("the group never settles")

    def _deliver(self, user: int, op: Op, payload: dict[str, Any] | bytes) -> None:
        group = self.groups.get(user)
        if group is None:
            return
        if isinstance(payload, dict):
            group.handle_text(op, payload, self.now)
            return
        if user == 1:
            self.seen = [*self.seen[-30:], (op, payload)]
            if self.twist is not None and self.twist[0] is op:
                payload, self.twist = twisted(self.twist[1], payload), None
        group.handle_binary(op, payload, self.now)

    def _take(self, user: int, frame: str | bytes) -> None:
        service = self.service
        try:
            if isinstance(frame, bytes):
                take = service.key_package if frame[0] == Op.DAVE_KEY_PACKAGE else None
                if take is not None:
                    take(user, frame[1:])
                else:
                    service.commit(user, frame[1:], self.now)
                return
            message = json.loads(frame)
            number = message["d"]["transition_id"]
            (service.transition_ready if message["op"] == Op.DAVE_TRANSITION_READY else service.invalid)(user, number)
        except mls.WireError:
            assert user == 1, "one who behaves is never refused"


_spare: list[World] = []
USES = 100


@contextlib.contextmanager
def established() -> Iterator[World]:
    """A world whose group stands: a new one, or the last one where the input before left it whole, which is faster."""
    world = _spare.pop() if _spare else World()
    yield world
    if world.uses < USES and world.whole():
        world.uses += 1
        world.one.violations.clear()
        _spare.append(world)


def twisted(script: Script, data: bytes) -> bytes:
    """A message with a few changes."""
    changed = bytearray(data)
    for _ in range(1 + script.number() % 4):
        at = script.number(2) % (len(changed) + 1)
        kind = script.number() % 6
        if kind <= 1 and at < len(changed):
            changed[at] ^= script.number() or 1
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + 1 + script.number() % 16]
        elif kind == 4:
            changed[at:at] = script.take(script.number() % 16)
        else:
            changed[at : at + 4] = script.pick((b"\xff" * 4, bytes(4), b"\x80\xff\xff\xff", b"\x40\x40", b"\xc0"))
    return bytes(changed)


def check(group: DaveGroup) -> None:
    """What holds whatever the server sent."""
    assert group.state in DaveState
    assert set(group.violations) <= VIOLATIONS
    assert len(group._transitions) <= MAX_PENDING_TRANSITIONS
    assert len(group._own_commits) <= MAX_OWN_COMMITS
    assert group.epoch >= 0
    assert group.version in (0, 1)
    assert group.version == 1 or group.failure is not None, "never without encryption"
    assert group.failure is None or group.failure
    assert group.due is None or group.due > 0
    answer = group.decrypt(2, OPUS, 1000.0)
    assert answer in REASONS, "plaintext never passes"
    assert group.decrypt(2, SILENCE_FRAME, 1000.0) == SILENCE_FRAME


def run_messages(data: bytes) -> None:
    """Damaged, foreign, repeated and reordered messages to a member of an established group."""
    script = Script(data)
    with established() as world:
        for _ in range(12):
            if not script:
                break
            # A join costs 50 ms of arithmetic, a refused message next to nothing: more of these.
            group, step = world.one, script.number() % 40
            step = step if step < 10 else step % 5
            recorded = [*world.seen, *GOLDEN_MESSAGES]
            if step == 0:
                group.handle_binary(script.pick(BINARY), script.take(script.number()), world.now)
            elif step == 1:
                op, body = script.pick(recorded)
                group.handle_binary(op, twisted(script, body), world.now)
            elif step == 2:
                _, body = script.pick(recorded)
                group.handle_binary(script.pick(BINARY), body, world.now)
            elif step == 3:
                op, body = script.pick(recorded)
                group.handle_binary(op, body, world.now)
            elif step == 4:
                fields = {name: script.pick(JUNK) for name in ("protocol_version", "transition_id", "epoch")}
                group.handle_text(script.pick(TEXT), fields, world.now)
            elif step <= 6:
                world.twist = (script.pick(BINARY[1:]), script)
                world.leave(4) if 4 in world.groups else world.join(4)
            elif step == 7:
                world.now += script.number() / 10
                group.handle_timer(world.now)
                world.service.tick(world.now)
            elif step == 8:
                group.recover(world.now)
            else:
                group.members ^= {script.number() % 6 + 2}
            world.settle()
            check(group)


def run_signed(data: bytes) -> None:
    """Proposals that the right sender signed, with nonsense in them."""
    script = Script(data)
    with established() as world:
        service, group = world.service, world.one
        group.members |= GOLDEN_USERS
        for _ in range(8):
            if not script:
                break
            package = bytes.fromhex(script.pick(GOLDEN["key_packages"])["key_package"])
            body = script.pick(
                (
                    struct.pack(">H", mls.PROPOSAL_ADD) + twisted(script, package),
                    struct.pack(">H", mls.PROPOSAL_ADD) + package,
                    struct.pack(">HI", mls.PROPOSAL_REMOVE, script.pick((0, 1, 2, 3, 2**31, 2**32 - 1))),
                    struct.pack(">H", script.number(2)) + script.take(script.number() % 64),
                )
            )
            epoch = script.pick((service.epoch, service.epoch, service.epoch, service.epoch + 1, 0, 2**64 - 1))
            group_id = script.pick((service._group_id,) * 4 + (b"", b"x" * 70, bytes(8)))
            message, ref = service._sender._sign(group_id, epoch, body)
            content = {
                0: b"\0" + mls.vector(message),
                1: b"\0" + mls.vector(message * 3),
                2: b"\1" + mls.vector(mls.vector(ref)),
                3: b"\1" + mls.vector(mls.vector(script.take(script.number() % 70))),
                4: b"\0" + mls.vector(twisted(script, message)),
                5: b"\0" + twisted(script, mls.vector(message)),
            }[script.number() % 6]
            group.handle_binary(Op.DAVE_PROPOSALS, content, world.now)
            group.out.clear()  # nobody waits for the commits of a server that lies
            check(group)
        group.members -= GOLDEN_USERS
        world.settle()
        check(group)


def run_frames(data: bytes) -> None:
    """Frames of a member of the group, damaged: each is the frame that was said, once, or a reason."""
    script = Script(data)
    with established() as world:
        # Speakers know the key of the moment: nothing here may make the group start over for ever.
        group = world.one
        for _ in range(60):
            if not script:
                break
            said = world.said(2 + script.number() % 2)
            step = script.number() % 6
            if step == 0:
                payload = said
            elif step == 1:
                payload = twisted(script, said)
            elif step == 2:
                payload = OPUS + script.take(script.number() % 20) + b"\xfa\xfa"
            elif step == 3:
                payload = script.take(script.number())
            elif step == 4:
                nonce = script.take(script.number() % 24)
                payload = said[: len(OPUS) + 8] + nonce + bytes([script.number()]) + b"\xfa\xfa"
            else:
                payload = said[:-3] + bytes([script.number()]) + b"\xfa\xfa"
            user = script.pick((2, 2, 2, 3, 3, 1, 9, 2**64 - 1))
            for again in (False, True):
                answer = group.decrypt(user, payload, world.now)
                if payload == SILENCE_FRAME:
                    assert answer == payload
                elif isinstance(answer, bytes):
                    assert answer == OPUS, "what was not said is not heard"
                    assert not again, "a frame passes once"
                    assert payload[-2:] == b"\xfa\xfa"
                else:
                    assert answer in REASONS
            world.settle()
            check(group)


GOLDEN_MESSAGES = [
    (Op.DAVE_EXTERNAL_SENDER, bytes.fromhex(GOLDEN["external_sender"]["package"])),
    *((Op.DAVE_PROPOSALS, b"\0" + mls.vector(bytes.fromhex(each["message"]))) for each in GOLDEN["add_proposals"]),
    (Op.DAVE_PROPOSALS, b"\0" + mls.vector(bytes.fromhex(GOLDEN["remove_proposal"]["message"]))),
]


def _script(most: int) -> Any:
    def make(dice: random.Random) -> bytes:
        return dice.randbytes(dice.randrange(1, most))

    return make


MESSAGE_SCRIPTS = [bytes(20), bytes([1, 3, 0, 0, 10, 0, 1]), bytes([5, 0]), bytes([6, 1, 9])]
TARGETS = (
    Target("dave_messages", MESSAGE_SCRIPTS, run_messages, _script(120)),
    Target("dave_signed", [bytes(20), bytes([0, 2, 0, 0, 0])], run_signed, _script(120)),
    Target("dave_frames", [bytes(20), bytes([0, 0, 0] * 20)], run_frames, _script(400)),
)
