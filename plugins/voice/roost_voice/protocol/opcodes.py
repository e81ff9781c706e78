"""Opcodes and encryption modes of Discord's voice gateway, version 8."""

from __future__ import annotations

import enum

GATEWAY_VERSION = 8


class Op(enum.IntEnum):
    """Voice gateway opcodes. 25 to 30 are binary, all others JSON."""

    IDENTIFY = 0
    SELECT_PROTOCOL = 1
    READY = 2
    HEARTBEAT = 3
    SESSION_DESCRIPTION = 4
    SPEAKING = 5
    HEARTBEAT_ACK = 6
    RESUME = 7
    HELLO = 8
    RESUMED = 9
    CLIENTS_CONNECT = 11
    VIDEO = 12
    CLIENT_DISCONNECT = 13
    SESSION_UPDATE = 14
    MEDIA_SINK_WANTS = 15
    VOICE_BACKEND_VERSION = 16
    CLIENT_FLAGS = 18
    CLIENT_PLATFORM = 20
    DAVE_PREPARE_TRANSITION = 21
    DAVE_EXECUTE_TRANSITION = 22
    DAVE_TRANSITION_READY = 23
    DAVE_PREPARE_EPOCH = 24
    DAVE_EXTERNAL_SENDER = 25
    DAVE_KEY_PACKAGE = 26
    DAVE_PROPOSALS = 27
    DAVE_COMMIT_WELCOME = 28
    DAVE_ANNOUNCE_COMMIT = 29
    DAVE_WELCOME = 30
    DAVE_INVALID_COMMIT_WELCOME = 31


IGNORED_OPS = frozenset(
    {
        Op.SESSION_UPDATE,
        Op.MEDIA_SINK_WANTS,
        Op.VOICE_BACKEND_VERSION,
        Op.CLIENT_FLAGS,
        Op.CLIENT_PLATFORM,
    }
)
"""Server messages that say nothing to an audio client."""

DAVE_TEXT_OPS = frozenset({Op.DAVE_PREPARE_TRANSITION, Op.DAVE_EXECUTE_TRANSITION, Op.DAVE_PREPARE_EPOCH})
DAVE_BINARY_OPS = frozenset({Op.DAVE_EXTERNAL_SENDER, Op.DAVE_PROPOSALS, Op.DAVE_ANNOUNCE_COMMIT, Op.DAVE_WELCOME})

MODE_GCM = "aead_aes256_gcm_rtpsize"
"""Preferred when offered: its cipher runs on the CPU's own AES instructions."""
MODE_XCHACHA = "aead_xchacha20_poly1305_rtpsize"
"""Always offered."""
MODES = (MODE_GCM, MODE_XCHACHA)
