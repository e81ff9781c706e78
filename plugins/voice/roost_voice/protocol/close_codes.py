"""What each way a voice connection can end means: one table, shared by the driver and the per-guild actor."""

from __future__ import annotations

import dataclasses
import enum

from roost.audio import LinkEnd, Retry


class CloseCode(enum.IntEnum):
    """Close codes of the voice gateway, and the WebSocket ones that matter to it."""

    NORMAL = 1000
    GOING_AWAY = 1001
    ABNORMAL = 1006
    UNKNOWN_OPCODE = 4001
    DECODE_FAILED = 4002
    NOT_AUTHENTICATED = 4003
    AUTHENTICATION_FAILED = 4004
    ALREADY_AUTHENTICATED = 4005
    SESSION_INVALID = 4006
    SESSION_TIMEOUT = 4009
    SERVER_NOT_FOUND = 4011
    UNKNOWN_PROTOCOL = 4012
    SERVER_LEFT = 4013
    DISCONNECTED = 4014
    SERVER_CRASHED = 4015
    UNKNOWN_ENCRYPTION_MODE = 4016
    DAVE_REQUIRED = 4017
    BAD_REQUEST = 4020
    RATE_LIMITED = 4021
    CALL_TERMINATED = 4022


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What to do about one close code.

    Attributes:
        resume: Try to resume the same session first, if it got far enough to have one.
        retry: What the owner of the link should do when there is nothing to resume.
        reason: One sentence for people.
        cooldown_s: Seconds to wait before any new try.
        tries: Fresh joins the owner may make for this code in a row before it gives up; None leaves it to the
            breaker alone.
        tries_window_s: Seconds after which the count of tries starts anew.
    """

    resume: bool
    retry: Retry
    reason: str
    cooldown_s: float = 0.0
    tries: int | None = None
    tries_window_s: float = 60.0

    def end(self, code: int | None) -> LinkEnd:
        """The end of a link that never became resumable."""
        return LinkEnd(code, self.reason, self.retry, self.cooldown_s)

    def end_after_resume(self, code: int | None) -> LinkEnd:
        """The end of a link whose resume met this code: what was worth a fresh join is now a failed resume."""
        retry = Retry.RESUME_FAILED if self.retry in (Retry.REJOIN, Retry.RESUME_FAILED) else self.retry
        return LinkEnd(code, self.reason, retry, self.cooldown_s)


def _resume(reason: str) -> Decision:
    return Decision(True, Retry.REJOIN, reason)


def _our_bug(reason: str) -> Decision:
    return Decision(False, Retry.REJOIN, reason, tries=1)


_POLICY: dict[int, Decision] = {
    # A close 1000 that we did not ask for is as abnormal as a lost connection.
    1000: _resume("Discord closed the voice connection without giving a cause."),
    1001: _resume("Discord's voice server is going away."),
    1006: _resume("The voice connection broke off."),
    4001: _our_bug("Discord's voice server did not know one of our messages (4001); this is a fault in Roost."),
    4002: _our_bug("Discord's voice server could not read one of our messages (4002); this is a fault in Roost."),
    4003: _our_bug("Discord's voice server got a message before our identification (4003); this is a fault in Roost."),
    4004: Decision(False, Retry.REJOIN, "Discord's voice server refused the token of this join (4004).", tries=1),
    4005: _our_bug("Discord's voice server says we identified twice (4005); this is a fault in Roost."),
    4006: Decision(False, Retry.REJOIN, "The voice session is no longer valid (4006).", tries=3, tries_window_s=300.0),
    4009: _resume("The voice session timed out (4009)."),
    4011: Decision(False, Retry.REJOIN, "Discord could not find the voice server (4011).", tries=2),
    4012: _our_bug("Discord's voice server did not know our protocol (4012); this is a fault in Roost."),
    4013: _resume("Discord's voice server left the call (4013)."),
    4014: Decision(False, Retry.AWAIT_SERVER, "The bot was moved or removed from the voice channel (4014)."),
    4015: _resume("Discord's voice server crashed (4015)."),
    4016: _our_bug("Discord's voice server did not know our encryption mode (4016); this is a fault in Roost."),
    4017: Decision(
        False, Retry.STOP, "Discord requires end-to-end encryption (DAVE) here and refused this connection (4017)."
    ),
    4020: _our_bug("Discord's voice server rejected a request of ours (4020); this is a fault in Roost."),
    4021: Decision(False, Retry.STOP, "Discord limits how often the bot may connect to voice (4021).", cooldown_s=60.0),
    4022: Decision(False, Retry.AWAIT_SERVER, "The call has ended, or the bot was removed from it (4022)."),
}

_LOST = _resume("The voice connection was lost.")


def policy(code: int | None) -> Decision:
    """What a close code means.

    Args:
        code: The code of the close frame, or None when the connection ended without one or its heartbeats stayed
            unanswered.
    """
    if code is None:
        return _LOST
    known = _POLICY.get(code)
    if known is not None:
        return known
    if code < 4000:
        return _resume(f"The voice connection broke off (WebSocket code {code}).")
    return Decision(False, Retry.REJOIN, f"Discord closed the voice connection with the unknown code {code}.", tries=1)
