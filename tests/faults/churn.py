"""``python churn.py MEMBERS EPOCHS``: what a client keeps of each member of its group who comes and goes.

EPOCHS is when it enters the group anew. Prints JSON. A process of its own, as its memory is measured.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path

from roost.audio import Timing
from roost_voice.protocol import dave
from roost_voice.protocol.dave import DaveGroup
from roost_voice.protocol.opcodes import Op
from roost_voice.sim.delivery import DeliveryService

CHANNEL, BOT = 77, 1
FIRST = 1000


class Call:
    """A delivery service and its clients, in one process, without sockets."""

    def __init__(self) -> None:
        self.service = DeliveryService(CHANNEL)
        self.clients: dict[int, DaveGroup] = {}
        self.now = 0.0

    def join(self, user_id: int) -> None:
        for other in self.clients.values():
            other.members.add(user_id)
        client = self.clients[user_id] = DaveGroup(user_id, CHANNEL, Timing())
        client.members |= set(self.clients) - {user_id}
        client.describe(1)
        self.service.join(user_id)
        self._settle()

    def leave(self, user_id: int) -> None:
        del self.clients[user_id]
        for other in self.clients.values():
            other.members.discard(user_id)
        self.service.leave(user_id)
        self._settle()
        self.now += 30.0

    def _settle(self) -> None:
        service, moved = self.service, True
        while moved:
            outbox, service.outbox = service.outbox, []
            service.trace.clear()
            moved = bool(outbox)
            for message in outbox:
                client = self.clients.get(message.user_id)
                if client is None:
                    continue
                if isinstance(message.payload, bytes):
                    client.handle_binary(Op(message.op), message.payload, self.now)
                else:
                    client.handle_text(Op(message.op), message.payload, self.now)
            for user_id, client in list(self.clients.items()):
                frames, client.out[:] = client.out[:], []
                moved = moved or bool(frames)
                for frame in frames:
                    self._take(user_id, frame)

    def _take(self, user_id: int, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            if frame[0] == Op.DAVE_KEY_PACKAGE:
                self.service.key_package(user_id, frame[1:])
            else:
                self.service.commit(user_id, frame[1:], self.now)
            return
        message = json.loads(frame)
        number = message["d"]["transition_id"]
        if message["op"] == Op.DAVE_TRANSITION_READY:
            self.service.transition_ready(user_id, number)
        else:
            self.service.invalid(user_id, number)


def resident_bytes() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main(members: int, epochs: int) -> None:
    dave.RENEW_AFTER = epochs
    call = Call()
    call.join(BOT)
    call.join(FIRST)
    before = 0
    for number in range(FIRST, FIRST + members):
        # The next one is there before the one before leaves: the bot is never alone, so the group never starts over.
        call.join(number + 1)
        call.leave(number)
        if number == FIRST + members // 3:
            before, measured_from = resident_bytes(), number
    grown = resident_bytes() - before
    bot = call.clients[BOT]
    print(json.dumps({"bytes_each": grown / (FIRST + members - measured_from), "failed": bot.failure}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
