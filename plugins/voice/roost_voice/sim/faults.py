"""The faults of the simulated voice servers: their names, and how armed ones are taken. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from roost.sim.faults import LONGEST_DELAY_S, Param
from roost.sim.voice_part import SimHost

AWAITED = {
    "mute_hello": "op 8 is not sent to a new connection",
    "odd_hello": "op 8 asks for another heartbeat; params: interval (1), in ms or anything else",
    "odd_ready": "op 2 names another address for media; params: ip (169.254.169.254), port (the true one)",
    "mute_ready": "op 2 is not sent after identify",
    "mute_session_description": "op 4 is not sent after select protocol",
    "refuse_identify": "identify is answered with a close; params: code (4006)",
    "wrong_heartbeat_nonce": "a heartbeat is acknowledged with another nonce",
    "drop_discovery": "IP discovery requests get no answer; params: n (3)",
    "forge_discovery": "damaged and foreign discovery replies come before the true one",
    "no_common_mode": "op 2 offers only encryption modes nobody knows",
    "bad_key_length": "op 4 carries a secret key of 31 bytes",
    "refuse_resume": "resume is answered with a close; params: code (4006)",
    "mute_resume": "resume is not answered",
    "flip_commit": "a bit of the next op 29 to a bot is wrong",
    "flip_welcome": "a bit of the next op 30 to a bot is wrong",
}
"""Faults that wait for the moment they concern. They never hit virtual members."""

ACTIVE = {
    "close": "the connection is closed now; params: code (4015), resumable, user_id",
    "blackhole_ws": "the websocket goes silent in both directions, TCP stays open; params: user_id",
    "reset_tcp": "the websocket's TCP connection is reset; params: user_id",
    "downgrade_dave": "op 21 takes the channel down to DAVE version 0",
    "udp_loss": "datagrams are lost in both directions; params: percent (10), seconds (0: for good), seed, user_id",
    "malformed_rtp": "damaged RTP, RTCP and random datagrams arrive; params: count (20), seed, user_id",
    "forged_media": "packets in the name of the others arrive that nobody has encrypted, or only for the transport; "
    "params: count (30), user_id",
    "malformed_messages": "JSON and binary messages that mean nothing arrive; params: count (20), seed, user_id",
    "garbled_frame": "a text frame that is no UTF-8 arrives, which ends the connection; params: user_id",
    "renumber": "the numbers of a member's packets jump, their clock goes on; params: by (-1400), user_id: who speaks",
    "second_client": "another client of a member comes, with a stream of its own, and leaves (ops 11, 12, 5, 13); "
    "params: member, ssrc (500000), user_id: who is told",
    "corrupt_media": "end-to-end frames arrive damaged, though well sealed; params: frames (36), user_id",
    "new_streams": "op 5 names streams of users nobody knows, each with a packet; params: count (100), first, user_id",
    "unknown_transition": "op 22 executes a transition nobody prepared; params: transition_id (54321), user_id",
    "late_dave": "messages of the encryption group come late; params: op (0: any), n (1), delay_ms (1000), user_id",
    "repeat_messages": "the last messages come again, newest first, numbered as before; params: count (5), user_id",
    "repeat_invalid_epoch": "op 24 asks for a new group though nothing changed; params: user_id",
}
"""Faults that strike as soon as a connection they concern is live: `user_id`'s, else the bots' of the guild."""


_CODE = Param(int, 1000, 4999)
_ID = Param(int, 0, (1 << 64) - 1, digits=True)
_COUNT = Param(int, 1, 10_000)
_SEED = Param(int, 0, (1 << 64) - 1)
_SSRC = Param(int, 0, (1 << 32) - 1)
_FIRST = Param(int, 0, (1 << 32) - 1 - 10_000)
PARAMS: dict[str, dict[str, Param]] = {
    "odd_hello": {"interval": Param(object)},
    "odd_ready": {"ip": Param(object), "port": Param(object)},
    "refuse_identify": {"code": _CODE},
    "refuse_resume": {"code": _CODE},
    "drop_discovery": {"n": _COUNT},
    "close": {"code": _CODE, "resumable": Param(bool), "user_id": _ID},
    "blackhole_ws": {"user_id": _ID},
    "reset_tcp": {"user_id": _ID},
    "udp_loss": {"percent": Param(float, 0, 100), "seconds": Param(float, 0, 86_400), "seed": _SEED, "user_id": _ID},
    "malformed_rtp": {"count": _COUNT, "seed": _SEED, "user_id": _ID},
    "forged_media": {"count": _COUNT, "user_id": _ID},
    "malformed_messages": {"count": _COUNT, "seed": _SEED, "user_id": _ID},
    "garbled_frame": {"user_id": _ID},
    "renumber": {"by": Param(int, -65_535, 65_535), "user_id": _ID},
    "second_client": {"member": _ID, "ssrc": _SSRC, "user_id": _ID},
    "corrupt_media": {"frames": _COUNT, "user_id": _ID},
    "new_streams": {"count": _COUNT, "first": _FIRST, "user_id": _ID},
    "unknown_transition": {"transition_id": Param(int, 0, 65_535), "user_id": _ID},
    "late_dave": {
        "op": Param(int, 0, 255),
        "n": _COUNT,
        "delay_ms": Param(int, 0, 1000 * LONGEST_DELAY_S),
        "user_id": _ID,
    },
    "repeat_messages": {"count": _COUNT, "user_id": _ID},
    "repeat_invalid_epoch": {"user_id": _ID},
}
"""The parameters of those that have some."""


@dataclasses.dataclass(frozen=True, slots=True)
class ActiveFault:
    """An armed fault of `ACTIVE`, taken from the host and waiting for its target."""

    name: str
    guild_id: int
    params: Mapping[str, Any]

    def integer(self, key: str, default: int) -> int:
        return integer(self.params, key, default)

    @property
    def user_id(self) -> int | None:
        return self.integer("user_id", 0) or None


def integer(params: Mapping[str, Any], key: str, default: int) -> int:
    """A whole number of a fault's parameters; what is no number counts as missing."""
    try:
        return int(params.get(key, default))
    except (TypeError, ValueError):
        return default


def descriptions() -> dict[str, str]:
    return {**AWAITED, **ACTIVE}


def take_active(host: SimHost, guilds: Iterable[int]) -> list[ActiveFault]:
    """Every armed fault of `ACTIVE` for these guilds, one of each name and guild a call."""
    taken = []
    for guild_id in guilds:
        for name in ACTIVE:
            params = host.take_fault(name, guild_id)
            if params is not None:
                taken.append(ActiveFault(name, guild_id, params))
    return taken
