"""The delivery service against real MLS clients (davey), without sockets and with the order of delivery at random."""

from __future__ import annotations

import random
from typing import Any

import davey
import pytest

from roost_voice.sim import mls
from roost_voice.sim.delivery import DeliveryService

pytestmark = pytest.mark.unit

CHANNEL = 12_345
AUDIO = davey.MediaType.audio


class Client:
    """Does what the ops say."""

    def __init__(self, user_id: int) -> None:
        self.user_id = user_id
        self.session = davey.DaveSession(1, user_id, CHANNEL)
        self.inbox: list[tuple[int, Any]] = []
        self.outbox: list[tuple[int, Any]] = []
        self.executed: list[int] = []
        self.invalid = 0
        self.confused: list[str] = []

    def offer_key(self) -> None:
        self.outbox.append((26, self.session.get_serialized_key_package()))

    def start_over(self) -> None:
        self.session.reinit(1, self.user_id, CHANNEL)
        self.offer_key()

    def handle(self, op: int, payload: Any) -> None:
        if op == 25:
            self.session.set_external_sender(payload)
        elif op == 27:
            kind = davey.ProposalsOperationType.revoke if payload[0] else davey.ProposalsOperationType.append
            try:
                made = self.session.process_proposals(kind, payload[1:])
            except ValueError as error:  # still addressed to the group it has just given up
                self.confused.append(str(error))
                return
            if made is not None:
                self.outbox.append((28, made.commit + (made.welcome or b"")))
        elif op in (29, 30):
            number = int.from_bytes(payload[:2], "big")
            try:
                (self.session.process_commit if op == 29 else self.session.process_welcome)(payload[2:])
            except ValueError:
                self.invalid += 1
                self.outbox.append((31, number))
                self.start_over()
                return
            if number:
                self.outbox.append((23, number))
        elif op == 22:
            self.executed.append(payload["transition_id"])
        elif op == 24:
            self.start_over()


class World:
    """Clients and one service, with a queue each way for each client."""

    def __init__(self, seed: int = 0, **options: Any) -> None:
        self.dice = random.Random(seed)
        self.service = DeliveryService(CHANNEL, **options)
        self.clients: dict[int, Client] = {}
        self.now = 0.0
        self.damage = 0
        self.damaged = 0

    def join(self, user_id: int) -> Client:
        client = self.clients[user_id] = Client(user_id)
        self.service.join(user_id)
        client.offer_key()
        self.collect()
        return client

    def leave(self, user_id: int) -> None:
        del self.clients[user_id]
        self.service.leave(user_id)
        self.collect()

    def collect(self) -> None:
        for message in self.service.outbox:
            client = self.clients.get(message.user_id)
            payload = message.payload
            if client is None:
                continue
            if message.op in (29, 30) and self.damage and self.dice.random() < 0.3:
                assert isinstance(payload, bytes)
                self.damage -= 1
                self.damaged += 1
                payload = payload[:-1] + bytes([payload[-1] ^ 1])
            client.inbox.append((message.op, payload))
        self.service.outbox = []

    def step(self) -> bool:
        busy = [client for client in self.clients.values() if client.inbox or client.outbox]
        if not busy:
            return False
        client = self.dice.choice(busy)
        if client.inbox and (not client.outbox or self.dice.random() < 0.5):
            client.handle(*client.inbox.pop(0))
            return True
        op, payload = client.outbox.pop(0)
        if op == 26:
            self.service.key_package(client.user_id, payload)
        elif op == 28:
            self.service.commit(client.user_id, payload, self.now)
        elif op == 23:
            self.service.transition_ready(client.user_id, payload)
        else:
            self.service.invalid(client.user_id, payload)
        self.collect()
        return True

    def settle(self) -> None:
        for _ in range(20_000):
            if not self.step():
                return
        raise AssertionError("it never comes to rest")

    def check(self) -> None:
        """Everybody is in one group at one epoch and understands everybody."""
        clients = list(self.clients.values())
        assert sorted(self.service.group) == sorted(self.clients)
        assert all(client.session.ready and client.session.epoch == self.service.epoch for client in clients)
        assert len({client.session.voice_privacy_code for client in clients}) == 1
        for sender in clients:
            frame = sender.session.encrypt_opus(b"opus" * 10)
            for receiver in clients:
                if receiver is not sender:
                    assert receiver.session.decrypt(sender.user_id, AUDIO, frame) == b"opus" * 10


@pytest.mark.parametrize("first_zero", [True, False])
def test_two_then_three_then_two(first_zero: bool) -> None:
    world = World(first_transition_zero=first_zero)
    world.join(1)
    world.settle()
    assert world.service.epoch == 0
    world.join(2)
    world.settle()
    world.check()
    executed = [client.executed for client in world.clients.values()]
    assert executed == ([[], []] if first_zero else [[1], [1]])
    world.join(3)
    world.settle()
    world.check()
    before = world.clients[1].session.voice_privacy_code
    world.leave(2)
    world.settle()
    world.check()
    assert world.clients[1].session.voice_privacy_code != before
    assert world.clients[1].executed[-1] == world.clients[3].executed[-1]


def test_one_that_left_cannot_read_on() -> None:
    world = World()
    for user in (1, 2, 3):
        world.join(user)
    world.settle()
    gone = world.clients[3]
    world.leave(3)
    world.settle()
    frame = world.clients[1].session.encrypt_opus(b"secret" * 8)
    with pytest.raises(ValueError, match=r".*"):
        gone.session.decrypt(1, AUDIO, frame)


def test_the_last_member_starts_over() -> None:
    world = World()
    world.join(1)
    world.join(2)
    world.settle()
    world.leave(2)
    ops = [op for op, _ in world.clients[1].inbox]
    assert ops == [24, 21]
    assert world.clients[1].inbox[0][1] == {"protocol_version": 1, "epoch": 1}
    assert world.clients[1].inbox[1][1] == {"protocol_version": 1, "transition_id": 0}
    world.settle()
    assert (world.service.epoch, world.clients[1].session.ready) == (0, False)
    world.join(3)
    world.settle()
    world.check()


def test_invalid_commit_is_recovered_from() -> None:
    world = World(seed=4)
    for user in (1, 2, 3):
        world.join(user)
    world.settle()
    world.damage = 2
    world.join(4)
    world.settle()
    assert world.damaged == 2
    assert sum(client.invalid for client in world.clients.values()) >= 2
    world.check()


def test_a_new_key_package_replaces_the_member() -> None:
    world = World()
    for user in (1, 2, 3):
        world.join(user)
    world.settle()
    world.clients[2].start_over()
    world.settle()
    world.check()


def test_transition_times_out() -> None:
    world = World(transition_timeout_s=2.0)
    for user in (1, 2):
        world.join(user)
    world.settle()
    world.now = 100.0
    world.join(3)
    world.clients[1].outbox.append((23, 65_535))  # a number nobody gave out
    while any(op != 23 for client in world.clients.values() for op, _ in client.inbox + client.outbox):
        for client in world.clients.values():
            client.outbox = [(op, payload) for op, payload in client.outbox if op != 23]
        world.step()
    for client in world.clients.values():
        client.outbox.clear()
    world.service.tick(101.9)
    assert world.service.outbox == []
    world.service.tick(102.0)
    assert {(message.user_id, message.op) for message in world.service.outbox} == {(1, 22), (2, 22), (3, 22)}
    world.service.outbox.clear()
    world.service.tick(200.0)
    assert world.service.outbox == []


def test_downgrade_and_upgrade() -> None:
    world = World()
    for user in (1, 2):
        world.join(user)
    world.settle()
    world.service.downgrade(0.0)
    world.collect()
    assert [client.inbox.pop()[1] for client in world.clients.values()] == [
        {"protocol_version": 0, "transition_id": 1}
    ] * 2
    world.service.join(3)
    world.clients[3] = Client(3)
    assert world.service.outbox == []
    world.service.upgrade()
    world.collect()
    world.settle()
    world.check()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda commit: commit[:4] + mls.vector(b"\0" * 8) + commit[13:], "other group"),
        (lambda commit: commit[:13] + (9).to_bytes(8, "big") + commit[21:], "other epoch"),
        (lambda commit: commit[:22] + (5).to_bytes(4, "big") + commit[26:], "other leaf"),
    ],
)
def test_commits_that_break_a_rule_lose(change: Any, reason: str) -> None:
    world = World()
    world.join(1)
    world.join(2)
    for user in (1, 2):
        world.service.key_package(user, world.clients[user].outbox.pop()[1])
    world.collect()
    client = world.clients[1]
    while client.inbox:
        client.handle(*client.inbox.pop(0))
    _, commit = client.outbox.pop()
    assert not world.service.commit(1, change(commit), 0.0)
    assert world.service.rejected == {reason: 1}
    without_welcome = mls.split_commit(commit)[0].message
    assert not world.service.commit(1, without_welcome, 0.0)
    assert world.service.rejected["welcome does not match"] == 1
    assert world.service.commit(1, commit, 0.0)


def test_nonsense_raises_wire_errors_only() -> None:
    world = World()
    world.join(1)
    world.join(2)
    for user in (1, 2):
        world.service.key_package(user, world.clients[user].outbox.pop()[1])
    world.collect()
    client = world.clients[1]
    while client.inbox:
        client.handle(*client.inbox.pop(0))
    _, commit = client.outbox.pop()
    dice = random.Random(7)
    for _ in range(3000):
        place = dice.randrange(len(commit))
        damaged = commit[:place] + dice.randbytes(dice.randrange(1, 4)) + commit[place + dice.randrange(0, 4) :]
        try:
            mls.split_commit(damaged)
            mls.read_welcome(mls.split_commit(damaged)[1] or commit)
        except mls.WireError:
            pass
    with pytest.raises(mls.WireError):
        world.service.key_package(1, client.session.get_serialized_key_package()[:-1])
    with pytest.raises(mls.WireError, match="another user"):
        world.service.key_package(1, davey.DaveSession(1, 2, CHANNEL).get_serialized_key_package())


@pytest.mark.parametrize("damage", [0, 3])
@pytest.mark.parametrize("seed", range(6))
def test_churn(seed: int, damage: int) -> None:
    """Joins, leaves, rejoins and damaged messages at random; in the end everybody agrees."""
    world = World(seed)
    world.damage = damage
    newest = 100
    for _ in range(25):
        if len(world.clients) < 2 or (world.dice.random() < 0.6 and len(world.clients) < 8):
            absent = [user for user in range(101, newest + 1) if user not in world.clients]
            if absent and world.dice.random() < 0.3:
                world.join(world.dice.choice(absent))
            else:
                newest += 1
                world.join(newest)
        else:
            world.leave(world.dice.choice(list(world.clients)))
        for _ in range(world.dice.randrange(40)):
            world.step()
    while len(world.clients) < 2:
        newest += 1
        world.join(newest)
    world.settle()
    world.check()
    if not damage:
        assert [client.confused for client in world.clients.values() if client.confused or client.invalid] == []
