"""End-to-end encryption (DAVE): the client's side of group changes, and the key the media uses.

`davey` does the MLS; this module owns the order of things around it: which server message does what, what is answered,
when a broken group is given up, and what may pass unencrypted. It never raises on what the server sends.
"""

from __future__ import annotations

import enum
import json
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import davey

from roost.audio import SILENCE_FRAME, Timing

from .opcodes import Op

MAX_VERSION: int = davey.DAVE_PROTOCOL_VERSION
FAILURES_BEFORE_RECOVERY = 36
"""Frames of one speaker in a row that do not decrypt, after which our group is taken for broken."""
RECOVERIES_PER_WINDOW = 3
MAX_PENDING_TRANSITIONS = 16
MAX_OWN_COMMITS = 8
MAX_FAILING_USERS = 1024
RENEW_AFTER = 1024
"""Epochs of one group. davey keeps about 2.3 KB of each, 4.5 KiB for every member who comes and goes, until the group
is entered anew; that is done as soon as nobody speaks."""
RENEW_SPREAD = 97
QUIET_S = 1.0
"""Without a frame to decrypt: nobody speaks."""
RENEW_AT_LAST = 4096
"""Then somebody's speech is interrupted for it: a tenth of a second in the hours that so many changes take."""

_TRANSITION_ID = struct.Struct(">H")
_AUDIO = davey.MediaType.audio
T = TypeVar("T")


class DaveState(enum.Enum):
    """Where the end-to-end encryption of a link stands."""

    NONE = "none"
    """The call is not end-to-end encrypted, or the server has not said yet."""
    PENDING = "pending"
    """No group yet; normal while alone in the channel."""
    ACTIVE = "active"
    RECOVERING = "recovering"
    """Our group was broken; we asked to be added again."""


class DaveGroup:
    """One link's membership in the channel's MLS group.

    Output accumulates in `out`, to be taken by the owner: ``str`` are text frames, ``bytes`` binary ones. `failure` is
    set, once, when the link cannot go on.

    Args:
        user_id: Ours.
        channel_id: The voice channel, which is the MLS group id.
        timing: Uses `dave_recover_window_s` and `dave_recover_s`.
        allow_unencrypted: Accept version 0. Only stage channels still have a use for it.
        on_change: Called with (version, epoch, state) after every change.
    """

    def __init__(
        self,
        user_id: int,
        channel_id: int,
        timing: Timing,
        *,
        allow_unencrypted: bool = False,
        on_change: Callable[[int, int, str], None] = lambda *_: None,
    ) -> None:
        self._user_id = user_id
        self._channel_id = channel_id
        self._timing = timing
        self._allow_unencrypted = allow_unencrypted
        self._on_change = on_change
        self._session: davey.DaveSession | None = None
        self._group_version = 0
        self._ready = False
        self._external_sender: bytes | None = None
        self._transitions: dict[int, int] = {}
        self._last_transition = 0
        self._own_commits: deque[bytes] = deque(maxlen=MAX_OWN_COMMITS)
        self._recoveries: deque[float] = deque()
        self._recover_by: float | None = None
        self._recover_or_fail = False
        self._failing: dict[int, int] = {}
        self._unproven = False
        self._group_epochs = 0
        """Commits and welcomes processed since the group was entered anew."""
        self._heard_at = float("-inf")
        self._told: tuple[int, int, str] = (0, 0, DaveState.NONE.value)
        self.state = DaveState.NONE
        self.version = 0
        """Of the media; the group's own runs ahead of it during an upgrade."""
        self.members: set[int] = set()
        """Users in the call, the bot excluded; the only ones whose addition to the group we commit."""
        self.out: list[str | bytes] = []
        self.failure: str | None = None
        self.failure_retryable = False
        self.epochs = 0
        """Groups entered since the link opened: one for each commit or welcome processed."""
        self.decrypted = 0
        self.passed_through = 0
        self.failures = 0
        self.violations: dict[str, int] = {}

    @property
    def epoch(self) -> int:
        """Of the current group; 0 while there is none."""
        session = self._session
        return (session.epoch or 0) if session is not None and self._ready else 0

    @property
    def due(self) -> float | None:
        """When `handle_timer` should be called."""
        return self._recover_by

    # -- what the server says -------------------------------------------------------------------------------------

    def describe(self, version: int) -> None:
        """Take the protocol version of the session description (op 4)."""
        if self._refused(version):
            return
        self.version = self._group_version = version
        if version:
            self._new_group(DaveState.PENDING)
        else:
            self._ready = False
            self._set_state(DaveState.NONE)

    def handle_text(self, op: Op, data: dict[str, Any], now: float) -> None:
        """Take one of ops 21, 22 and 24."""
        if op is Op.DAVE_PREPARE_TRANSITION:
            self._prepare_transition(data)
        elif op is Op.DAVE_EXECUTE_TRANSITION:
            transition_id = _small_int(data.get("transition_id"))
            if transition_id is None or transition_id not in self._transitions:
                self._violation("unknown_transition")
            else:
                self._execute(transition_id)
        elif op is Op.DAVE_PREPARE_EPOCH:
            self._prepare_epoch(data)
        self.check_wait(now)

    def handle_binary(self, op: Op, body: bytes, now: float) -> None:
        """Take one of ops 25, 27, 29 and 30, without its opcode."""
        if op is Op.DAVE_EXTERNAL_SENDER:
            self._external_sender = body
            if self._session is not None:
                self._set_external_sender(self._session)
        elif op is Op.DAVE_PROPOSALS:
            self._proposals(body)
        elif op in (Op.DAVE_ANNOUNCE_COMMIT, Op.DAVE_WELCOME):
            self._commit_or_welcome(op, body, now)
        self.check_wait(now)

    def handle_timer(self, now: float) -> None:
        """Ask anew to be added when nobody did so in time: what asked for it may have been lost with a socket."""
        if self._recover_by is None or now < self._recover_by:
            return
        self._recover_by = None
        # Alone, there is nobody who could add us, and nothing to decrypt either.
        if self.members and self.state in (DaveState.PENDING, DaveState.RECOVERING):
            self.recover(now, or_fail=self._recover_or_fail)

    # -- media ----------------------------------------------------------------------------------------------------

    def encrypt(self, opus: bytes) -> bytes | None:
        """One Opus frame made ready to send, or None while it would reach nobody who may read it."""
        if opus == SILENCE_FRAME or not self.version:
            return opus
        session = self._session
        if session is None or not self._ready:
            return None
        return self._guard(lambda: session.encrypt_opus(opus))

    def decrypt(self, user_id: int, payload: bytes, now: float) -> bytes | str:
        """One received payload to an Opus frame, or the reason why it must be dropped.

        The exact silence frame always passes, as every client sends it in clear. Other plaintext passes only where
        the call is not encrypted, or where the session itself accepts it during a transition.
        """
        if payload == SILENCE_FRAME or not self.version:
            self.passed_through += 1
            return payload
        session = self._session
        if session is None or not self._ready:
            return "dave_pending"
        try:
            frame = session.decrypt(user_id, _AUDIO, payload)
        except ValueError as error:
            return self._decrypt_failed(user_id, str(error), now)
        except BaseException as error:
            if not _is_panic(error):
                raise
            return self._decrypt_failed(user_id, "panic", now)
        if frame == payload:
            self.passed_through += 1
        else:
            self.decrypted += 1
            self._heard_at = now
            self._unproven = False
            if self._failing:
                self._failing.pop(user_id, None)
        return frame

    # -- recovery -------------------------------------------------------------------------------------------------

    def recover(self, now: float, transition_id: int | None = None, *, or_fail: bool = True) -> None:
        """Declare our group broken: say so (op 31), forget it, and offer a new key package.

        Args:
            now: The clock, in seconds.
            transition_id: Of the commit or welcome that was bad; by default the last one executed.
            or_fail: The fourth time within `dave_recover_window_s`, give the link up; else do nothing then.
        """
        recoveries = self._recoveries
        while recoveries and now - recoveries[0] >= self._timing.dave_recover_window_s:
            recoveries.popleft()
        if len(recoveries) >= RECOVERIES_PER_WINDOW:
            if or_fail:
                self._fail("The end-to-end encryption could not be restored.", retryable=True)
            return
        recoveries.append(now)
        self._recover_or_fail = or_fail
        self._enter_anew(now, self._last_transition if transition_id is None else transition_id)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _enter_anew(self, now: float, transition_id: int) -> None:
        """Leave the group and ask to be added to it again: the one way that the protocol has."""
        self._send(Op.DAVE_INVALID_COMMIT_WELCOME, {"transition_id": transition_id})
        self._recover_by = now + self._timing.dave_recover_s
        self._unproven = True
        self._new_group(DaveState.RECOVERING)

    def _prepare_transition(self, data: dict[str, Any]) -> None:
        version = _small_int(data.get("protocol_version"))
        transition_id = _small_int(data.get("transition_id"))
        if version is None or transition_id is None:
            self._violation("transition")
            return
        if self._refused(version):
            return
        session = self._session
        if version == 0 and session is not None:
            self._guard(lambda: session.set_passthrough_mode(True, round(self._timing.dave_old_key_s) or 1))
        self._remember(transition_id, version)

    def _prepare_epoch(self, data: dict[str, Any]) -> None:
        version = _small_int(data.get("protocol_version"))
        epoch = data.get("epoch")
        if isinstance(epoch, str) and epoch.isdecimal() and len(epoch) < 20:
            epoch = int(epoch)
        if version is None or type(epoch) is not int:
            self._violation("epoch")
            return
        if self._refused(version) or version == 0:
            return
        if epoch == 1:
            self._group_version = version
            self._new_group(DaveState.PENDING)

    def _proposals(self, body: bytes) -> None:
        session = self._session
        if session is None or len(body) < 1 or body[0] > 1:
            self._violation("proposals")
            return
        kind = davey.ProposalsOperationType.revoke if body[0] else davey.ProposalsOperationType.append
        expected = [self._user_id, *self.members]
        result = self._guard(lambda: session.process_proposals(kind, body[1:], expected), "proposals")
        if result is None:
            return
        self._own_commits.append(result.commit)
        self.out.append(bytes([Op.DAVE_COMMIT_WELCOME]) + result.commit + (result.welcome or b""))

    def _commit_or_welcome(self, op: Op, body: bytes, now: float) -> None:
        session = self._session
        if session is None or len(body) < 3:
            self._violation("commit" if op is Op.DAVE_ANNOUNCE_COMMIT else "welcome")
            return
        (transition_id,) = _TRANSITION_ID.unpack_from(body)
        message = body[2:]
        if op is Op.DAVE_ANNOUNCE_COMMIT and message in list(self._own_commits)[:-1]:
            # davey would merge the newest of our own commits in place of this older one, and end with other keys.
            self._violation("older_own_commit")
            self.recover(now, transition_id)
            return
        try:
            if op is Op.DAVE_ANNOUNCE_COMMIT:
                session.process_commit(message)
            else:
                session.process_welcome(message)
        except ValueError as error:
            text = str(error)
            if "PendingGroup" in text or "AlreadyInGroup" in text:
                # Somebody else's commit while we wait for our welcome, or a welcome we no longer need.
                self._violation("not_for_us")
                return
            self._violation("commit" if op is Op.DAVE_ANNOUNCE_COMMIT else "welcome")
            self.recover(now, transition_id)
            return
        except BaseException as error:
            if not _is_panic(error):
                raise
            self._violation("panic")
            self.recover(now, transition_id)
            return
        self._own_commits.clear()
        self._recover_by = None
        self.epochs += 1
        self._group_epochs += 1
        self._ready = session.ready
        self._remember(transition_id, self._group_version)
        self._set_state(DaveState.ACTIVE if self._ready else DaveState.PENDING)
        self._renew_if_due(now)

    def _renew_if_due(self, now: float) -> None:
        """Enter the group anew when davey holds too much of its past, if possible while nobody speaks."""
        quiet = now - self._heard_at >= QUIET_S
        # Not in the same moment as another bot that entered with us.
        if self._group_epochs >= (RENEW_AFTER if quiet else RENEW_AT_LAST) + self._user_id % RENEW_SPREAD:
            self._enter_anew(now, self._last_transition)

    def _remember(self, transition_id: int, version: int) -> None:
        """Note a transition; id 0 happens at once, any other when the server has heard from everybody (op 22)."""
        self._transitions.pop(transition_id, None)
        while len(self._transitions) >= MAX_PENDING_TRANSITIONS:
            del self._transitions[next(iter(self._transitions))]
        self._transitions[transition_id] = version
        if transition_id == 0:
            self._execute(0)
        else:
            self._send(Op.DAVE_TRANSITION_READY, {"transition_id": transition_id})

    def _execute(self, transition_id: int) -> None:
        version = self._transitions.pop(transition_id)
        self._last_transition = transition_id
        if version == self.version:
            return
        self.version = version
        if version == 0:
            self._ready = False
            self._set_state(DaveState.NONE)
        elif self._session is not None:
            self._ready = self._session.ready
            self._set_state(DaveState.ACTIVE if self._ready else DaveState.PENDING)

    def _new_group(self, state: DaveState) -> None:
        self._ready = False
        self._group_epochs = 0
        self._failing.clear()
        self._own_commits.clear()
        if state is not DaveState.RECOVERING:
            self._recover_by = None
            self._recover_or_fail = False
        session = self._session
        if session is None:
            session = self._guard(lambda: davey.DaveSession(self._group_version, self._user_id, self._channel_id))
            if session is None:
                self._fail("The end-to-end encryption could not be set up.")
                return
            self._session = session
            if self._external_sender is not None:
                self._set_external_sender(session)
        else:
            self._guard(lambda: session.reinit(self._group_version, self._user_id, self._channel_id))
        package = self._guard(session.get_serialized_key_package)
        if package is None:
            self._fail("The end-to-end encryption could not be set up.")
            return
        self.out.append(bytes([Op.DAVE_KEY_PACKAGE]) + package)
        self._set_state(state)

    def _set_external_sender(self, session: davey.DaveSession) -> None:
        # Sent again after a resume, davey refuses it because it is in a group already: nothing to do then.
        sender = self._external_sender
        if sender is not None:
            self._guard(lambda: session.set_external_sender(sender), "external_sender")

    def _refused(self, version: int) -> bool:
        if version > MAX_VERSION:
            self._fail(f"Discord asks for version {version} of its end-to-end encryption, which this Roost lacks.")
            return True
        if version == 0 and not self._allow_unencrypted:
            self._fail("The call would no longer be end-to-end encrypted, so the bot left it.")
            return True
        return False

    def _decrypt_failed(self, user_id: int, text: str, now: float) -> str:
        self.failures += 1
        if user_id not in self._failing and len(self._failing) >= MAX_FAILING_USERS:
            self._failing.clear()
        count = self._failing[user_id] = self._failing.get(user_id, 0) + 1
        if count >= FAILURES_BEFORE_RECOVERY and not self._unproven:
            # Only once until something decrypts again: one garbled speaker may not make the bot start over for ever.
            self.recover(now, or_fail=False)
        if "Unencrypted" in text:
            return "plaintext"
        if "NoDecryptorForUser" in text:
            return "dave_no_key"
        return "dave"

    def check_wait(self, now: float) -> None:
        """Bound the wait for our group, if there is one to wait for; to be called after anything changed."""
        waits = self.members and self.state in (DaveState.PENDING, DaveState.RECOVERING) and self.failure is None
        if not waits:
            self._recover_by = None
        elif self._recover_by is None:
            self._recover_by = now + self._timing.dave_recover_s

    def _guard(self, call: Callable[[], T], violation: str | None = None) -> T | None:
        """Run one call into davey; its refusals become None and a counter."""
        try:
            return call()
        except (ValueError, OverflowError):
            self._violation(violation or "refused")
        except BaseException as error:
            if not _is_panic(error):
                raise
            self._violation("panic")
        return None

    def _send(self, op: Op, data: dict[str, Any]) -> None:
        self.out.append(json.dumps({"op": int(op), "d": data}))

    def _violation(self, name: str) -> None:
        self.violations[name] = self.violations.get(name, 0) + 1

    def _fail(self, reason: str, *, retryable: bool = False) -> None:
        if self.failure is None:
            self.failure = reason
            self.failure_retryable = retryable

    def _set_state(self, state: DaveState) -> None:
        self.state = state
        now = (self.version, self.epoch, state.value)
        if now != self._told:
            self._told = now
            self._on_change(*now)


def _small_int(value: object) -> int | None:
    """A u16 from JSON, or None."""
    return value if type(value) is int and 0 <= value <= 0xFFFF else None


def _is_panic(error: BaseException) -> bool:
    """Whether Rust code below davey panicked; its exception is no `Exception`, and has no importable class."""
    return type(error).__name__ == "PanicException"
