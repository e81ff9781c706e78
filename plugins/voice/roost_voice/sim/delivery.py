"""The DAVE delivery service of one voice channel: the voice gateway's role in MLS. Pure.

It holds who is in the group, hands out proposals, lets the first valid commit of an epoch win and walks everybody
through transitions. Calls append to `outbox`; the caller sends what is there, in order. Time is the caller's.

Before there is a group, each member holds a local group of its own at epoch 0 and gets Adds for all others; the
winner of the first commit becomes leaf 0. From then on only members with a leaf get proposals, and newcomers wait for
their Welcome. Sources: Discord's DAVE protocol text; the behaviour of davey 0.1.7 where a comment says so.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterable
from typing import Any

from roost_voice.sim import mls

OP_PREPARE_TRANSITION = 21
OP_EXECUTE_TRANSITION = 22
OP_PREPARE_EPOCH = 24
OP_EXTERNAL_SENDER = 25
OP_PROPOSALS = 27
OP_ANNOUNCE_COMMIT = 29
OP_WELCOME = 30

_APPEND, _REVOKE = b"\0", b"\1"


@dataclasses.dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to one member: a dict for a JSON op, bytes for the body of a binary one."""

    user_id: int
    op: int
    payload: dict[str, Any] | bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(slots=True)
class _Member:
    user_id: int
    key_package: mls.KeyPackage | None = None
    in_group: bool = False
    introduced: bool = False
    """Whether op 25 went out: davey refuses a second one while it is in a group."""
    live: dict[bytes, mls.Proposal] = dataclasses.field(default_factory=dict)
    """Proposals sent to this member and neither revoked nor committed."""


@dataclasses.dataclass(slots=True)
class _Transition:
    users: tuple[int, ...]
    waiting: set[int]
    deadline: float


class DeliveryService:
    """One channel's group.

    Args:
        channel_id: Also the MLS group id.
        transition_timeout_s: How long a transition waits for members that do not say they are ready.
        first_transition_zero: Whether the first group's announcement carries transition id 0, which is executed at
            once; what Discord does is not documented, so clients should work with both.
        version: 0 for a call that is not encrypted.
    """

    def __init__(
        self,
        channel_id: int,
        *,
        transition_timeout_s: float = 2.0,
        first_transition_zero: bool = True,
        version: int = 1,
    ) -> None:
        self.version = version
        self.epoch = 0
        """Of the established group; 0 while there is none."""
        self.outbox: list[Outgoing] = []
        self.trace: list[dict[str, Any]] = []
        """What happened, for the log; the caller empties it."""
        self.rejected: dict[str, int] = {}
        self.epochs = 0
        """Commits that won since the start."""
        self._group_id = struct.pack(">Q", channel_id)
        self._sender = mls.ExternalSender()
        self._timeout_s = transition_timeout_s
        self._first_zero = first_transition_zero
        self._members: dict[int, _Member] = {}
        self._leaves: list[int | None] = []
        self._transitions: dict[int, _Transition] = {}
        self._next_transition = 1

    # What the caller may ask

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(self._members)

    @property
    def group(self) -> tuple[int, ...]:
        """Users with a leaf, in leaf order."""
        return tuple(user for user in self._leaves if user is not None)

    def in_group(self, user_id: int) -> bool:
        member = self._members.get(user_id)
        return member is not None and member.in_group

    # Membership

    def join(self, user_id: int) -> None:
        """The user's media connection is described; their key package will follow."""
        member = self._members[user_id] = _Member(user_id)
        if not self.version:
            return
        self._introduce(member)
        if not self.epoch:
            known = [self._add(other) for other in self._members.values() if other is not member and other.key_package]
            self._change([member], known)

    def leave(self, user_id: int) -> None:
        member = self._members.pop(user_id, None)
        if member is None:
            return
        self._say_ready(user_id, list(self._transitions))
        if not self.version:
            return
        if member.in_group:
            self._remove_or_reset(user_id)
        elif member.key_package is not None:
            self._revoke_adds_of(user_id)

    def downgrade(self, now: float) -> None:
        """Go to version 0: a member cannot do DAVE (or a fault says so)."""
        if not self.version:
            return
        self.version = 0
        self._prepare(now)

    def upgrade(self) -> None:
        """Back to version 1: everybody builds a new group."""
        if self.version:
            return
        self.version = 1
        self._forget_group()
        for member in self._members.values():
            self._send(member.user_id, OP_PREPARE_EPOCH, {"protocol_version": 1, "epoch": 1})
            if not member.introduced:
                self._introduce(member)
        self.trace.append({"event": "upgrade"})

    def tick(self, now: float) -> None:
        """Execute the transitions whose time is up."""
        for number, transition in list(self._transitions.items()):
            if transition.deadline <= now:
                self._execute(number)

    # What clients send

    def transition_ready(self, user_id: int, transition_id: int) -> None:
        """Op 23."""
        self._say_ready(user_id, [transition_id])

    def key_package(self, user_id: int, body: bytes) -> None:
        """Op 26.

        Raises:
            mls.WireError: The key package is malformed, forged or somebody else's.
        """
        member = self._members[user_id]
        package = mls.read_key_package(body)
        if package.user_id != user_id:
            raise mls.WireError("the key package names another user")
        if not self.version:
            return
        if member.in_group:
            self._expel(member)
        if member.key_package is not None:
            self._revoke_adds_of(user_id)
        member.key_package = package
        self._change([other for other in self._committers() if other is not member], [self._add(member)])

    def commit(self, user_id: int, body: bytes, now: float) -> bool:
        """Op 28; False when the commit lost or breaks a rule, which is normal and counted in `rejected`.

        Raises:
            mls.WireError: The bytes are no commit and Welcome.
        """
        member = self._members[user_id]
        commit, tail = mls.split_commit(body)
        welcome = mls.read_welcome(tail) if tail else None
        reason = self._judge(member, commit, welcome)
        if reason:
            self.rejected[reason] = self.rejected.get(reason, 0) + 1
            return False
        proposals = [member.live[ref] for ref in commit.refs]
        first = not self.epoch
        if first:
            self._leaves = [user_id]
            member.in_group, member.key_package = True, None
        added = self._apply(proposals)
        self.epoch = commit.epoch + 1
        self.epochs += 1
        for other in self._members.values():
            other.live.clear()
        present = [user for user in self.group if user in self._members]
        number = 0 if first and self._first_zero else self._begin(present, now)
        prefix = struct.pack(">H", number)
        for user in present:
            package = added.get(user)
            if package is None:
                self._send(user, OP_ANNOUNCE_COMMIT, prefix + commit.message)
                continue
            newcomer = self._members[user]
            newcomer.in_group = True
            if newcomer.key_package is package:
                newcomer.key_package = None
            assert welcome is not None
            self._send(user, OP_WELCOME, prefix + welcome.for_package(package.ref))
        self.trace.append({"event": "epoch", "epoch": self.epoch, "users": list(self.group), "transition_id": number})
        self._catch_up()
        return True

    def invalid(self, user_id: int, transition_id: int) -> None:
        """Op 31: the member could not use what it was sent; it comes back with a new key package."""
        member = self._members[user_id]
        self.trace.append({"event": "invalid", "user_id": user_id, "transition_id": transition_id})
        self._say_ready(user_id, [transition_id])
        if member.in_group and self.version:
            self._expel(member)

    # Groups

    def _judge(self, member: _Member, commit: mls.Commit, welcome: mls.Welcome | None) -> str:
        if not self.version:
            return "downgraded"
        if commit.group_id != self._group_id:
            return "other group"
        if commit.epoch != self.epoch:
            return "other epoch"
        if self.epoch and not member.in_group:
            return "not in the group"
        if commit.sender_leaf != (self._leaves.index(member.user_id) if self.epoch else 0):
            return "other leaf"
        if commit.inline or not commit.refs:
            return "inline or empty"
        if len(set(commit.refs)) != len(commit.refs) or set(commit.refs) != set(member.live):
            return "not exactly the live proposals"
        if commit.identity is not None and int.from_bytes(commit.identity, "big") != member.user_id:
            return "other credential"
        packages = [member.live[ref].key_package for ref in commit.refs]
        wanted = {package.ref for package in packages if package is not None}
        offered = set(welcome.secrets) if welcome is not None else set()
        return "" if wanted == offered else "welcome does not match"

    def _apply(self, proposals: Iterable[mls.Proposal]) -> dict[int, mls.KeyPackage]:
        """Move the leaves as RFC 9420 section 12.3 does: removes, trim, then adds into the leftmost blank."""
        proposals = list(proposals)
        for proposal in proposals:
            if proposal.leaf is not None:
                self._leaves[proposal.leaf] = None
        while self._leaves and self._leaves[-1] is None:
            self._leaves.pop()
        added: dict[int, mls.KeyPackage] = {}
        for proposal in proposals:
            if proposal.key_package is None:
                continue
            if None in self._leaves:
                self._leaves[self._leaves.index(None)] = proposal.user_id
            else:
                self._leaves.append(proposal.user_id)
            added[proposal.user_id] = proposal.key_package
        return added

    def _catch_up(self) -> None:
        """Propose what changed while the winning commit was under way."""
        for user in self.group:
            if user not in self._members:
                self._remove_or_reset(user)
                if not self.epoch:
                    return
        for member in self._members.values():
            if not member.in_group and member.key_package is not None:
                self._change(self._committers(), [self._add(member)])

    def _forget_group(self) -> None:
        self.epoch, self._leaves = 0, []
        for member in self._members.values():
            member.key_package, member.in_group = None, False
            member.live.clear()

    def _reset(self) -> None:
        """Fewer than two members hold the group: everybody starts over, each alone."""
        self._forget_group()
        for user_id in self._members:
            self._send(user_id, OP_PREPARE_EPOCH, {"protocol_version": self.version, "epoch": 1})
            self._send(user_id, OP_PREPARE_TRANSITION, {"protocol_version": self.version, "transition_id": 0})
        if self._members:
            self.trace.append({"event": "reset", "users": list(self._members)})

    def _remove_or_reset(self, user_id: int) -> None:
        if sum(member.in_group for member in self._members.values()) <= 1:
            self._reset()
        else:
            self._propose_remove(user_id)

    def _expel(self, member: _Member) -> None:
        member.in_group, member.key_package = False, None
        member.live.clear()
        if any(other.in_group for other in self._members.values()):
            self._propose_remove(member.user_id)
        else:
            self._reset()

    def _propose_remove(self, user_id: int) -> None:
        leaf = self._leaves.index(user_id)
        self._change(self._committers(), [self._sender.remove(self._group_id, self.epoch, leaf, user_id)])

    def _revoke_adds_of(self, user_id: int) -> None:
        self._change(self._committers(), [], drop=lambda proposal: proposal.is_add and proposal.user_id == user_id)

    def _committers(self) -> list[_Member]:
        """Who may commit now: everybody before there is a group, then those in it."""
        return [member for member in self._members.values() if member.in_group or not self.epoch]

    def _add(self, member: _Member) -> mls.Proposal:
        assert member.key_package is not None
        return self._sender.add(self._group_id, self.epoch, member.key_package)

    def _sign_again(self, proposal: mls.Proposal) -> mls.Proposal:
        if proposal.key_package is not None:
            return self._sender.add(self._group_id, self.epoch, proposal.key_package)
        assert proposal.leaf is not None
        return self._sender.remove(self._group_id, self.epoch, proposal.leaf, proposal.user_id)

    def _change(
        self,
        members: Iterable[_Member],
        new: list[mls.Proposal],
        *,
        drop: Callable[[mls.Proposal], bool] = lambda _: False,
    ) -> None:
        """Tell `members` of new proposals and of those that `drop` picks.

        Two habits of davey 0.1.7 decide the shape. It attaches a Welcome only if the last op 27 held an Add, whatever
        the commit refers to. And told that a commit of its own won, it merges the newest it made, not that one. So a
        change that revokes, or that brings no Add while Adds are live, revokes everything and appends it all again
        freshly signed, once for the whole group: no commit still under way can match the new references.
        """
        resigned: dict[bytes, mls.Proposal] = {}
        for member in members:
            gone = [ref for ref, proposal in member.live.items() if drop(proposal)]
            kept = [proposal for proposal in member.live.values() if not drop(proposal)]
            if not gone and not new:
                continue
            append = list(new)
            adds_stay = any(proposal.is_add for proposal in kept)
            brings_add = any(proposal.is_add for proposal in new)
            if kept and (gone or (adds_stay and not brings_add)):
                gone = list(member.live)
                for proposal in kept:
                    if proposal.ref not in resigned:
                        resigned[proposal.ref] = self._sign_again(proposal)
                append = [resigned[proposal.ref] for proposal in kept] + append
            if gone:
                for ref in gone:
                    del member.live[ref]
                body = mls.vector(b"".join(mls.vector(ref) for ref in gone))
                self._send(member.user_id, OP_PROPOSALS, _REVOKE + body)
            if append:
                member.live.update((proposal.ref, proposal) for proposal in append)
                body = mls.vector(b"".join(proposal.message for proposal in append))
                self._send(member.user_id, OP_PROPOSALS, _APPEND + body)

    # Transitions

    def _prepare(self, now: float) -> None:
        number = self._begin(list(self._members), now)
        for user_id in self._members:
            self._send(user_id, OP_PREPARE_TRANSITION, {"protocol_version": self.version, "transition_id": number})
        self.trace.append({"event": "prepare", "version": self.version, "transition_id": number})

    def _begin(self, users: list[int], now: float) -> int:
        number, self._next_transition = self._next_transition, self._next_transition % 0xFFFF + 1
        self._transitions[number] = _Transition(tuple(users), set(users), now + self._timeout_s)
        return number

    def _say_ready(self, user_id: int, numbers: Iterable[int]) -> None:
        for number in numbers:
            transition = self._transitions.get(number)
            if transition is None:
                continue
            transition.waiting.discard(user_id)
            if not transition.waiting:
                self._execute(number)

    def _execute(self, number: int) -> None:
        transition = self._transitions.pop(number)
        for user_id in transition.users:
            if user_id in self._members:
                self._send(user_id, OP_EXECUTE_TRANSITION, {"transition_id": number})
        self.trace.append({"event": "execute", "transition_id": number})

    def _introduce(self, member: _Member) -> None:
        member.introduced = True
        self._send(member.user_id, OP_EXTERNAL_SENDER, self._sender.package())

    def _send(self, user_id: int, op: int, payload: dict[str, Any] | bytes) -> None:
        self.outbox.append(Outgoing(user_id, op, payload))
