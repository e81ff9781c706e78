"""Faults that can be armed, and the count of their uses. Pure."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any

from roost.sim.damage import FRAMES, HELLOS

LONGEST_DELAY_S = 600.0
MOST_TIMES = 1_000_000
MAX_DIGITS = 20


class FaultRefused(ValueError):
    """The fault cannot be armed as it was asked for."""


class UnknownFault(FaultRefused):
    """The name is not one of the known."""


@dataclasses.dataclass(frozen=True, slots=True)
class Param:
    """What a parameter of a fault may be; `object` is any JSON.

    Attributes:
        kind: Its type; a whole number will do for a `float`.
        least: Of a number.
        most: Of a number.
        null: Whether null is a value, too.
        digits: Whether a whole number may come as text, as ids do.
        choices: The only values, where there are few.
        texts: Whether a list holds texts alone.
    """

    kind: type
    least: float = -math.inf
    most: float = math.inf
    null: bool = False
    digits: bool = False
    choices: Collection[str] = ()
    texts: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raises FaultRefused."""
        if self.kind is object or (value is None and self.null):
            return
        if self.digits and isinstance(value, str) and value.isdecimal() and len(value) <= MAX_DIGITS:
            value = int(value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = number and math.isfinite(value) if self.kind is float else isinstance(value, self.kind)
        if not fits or (self.kind is int and not number):
            raise FaultRefused(f"{name} must be {_KINDS[self.kind]}, not {str(value)[:40]!r}")
        if self.choices and value not in self.choices:
            raise FaultRefused(f"{name} must be one of {', '.join(sorted(self.choices))}, not {str(value)[:40]!r}")
        if self.texts and not all(isinstance(each, str) for each in value):
            raise FaultRefused(f"{name} must be a list of texts")
        if number and not self.least <= value <= self.most:
            raise FaultRefused(f"{name} must be from {self.least:g} to {self.most:g}, not {value:g}")


_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
_BOT = Param(int, 0, 1)
_DELAY = Param(float, 0, LONGEST_DELAY_S)
_FIELDS = Param(list, texts=True)
_ROUTE = {"method": Param(str), "path_prefix": Param(str)}

CORE_PARAMS: dict[str, dict[str, Param]] = {
    "delay_op4": {"delay_s": _DELAY},
    "delay_op4_events": {"delay_s": _DELAY},
    "endpoint_null_first": {"delay_s": dataclasses.replace(_DELAY, null=True)},
    "other_endpoint": {"endpoint": Param(str)},
    "bad_entries": {"user_id": Param(int, 0, (1 << 64) - 1, digits=True)},
    "rest_error": {
        **_ROUTE,
        "status": Param(int, 200, 599),
        "retry_after_s": _DELAY,
        "body": Param(object),
        "taken": Param(bool),
    },
    "rest_limited": {**_ROUTE, "seconds": _DELAY},
    "rest_delay": {**_ROUTE, "delay_s": _DELAY},
    "late_members": {"size": Param(int, 1, 1000), "delay_s": _DELAY},
    "gateway_drop": {"code": Param(int, 1000, 4999), "bot": _BOT},
    "gateway_abort": {"bot": _BOT},
    "invalid_session": {"bot": _BOT},
    "mute_gateway": {"bot": _BOT},
    "gateway_frame": {"kind": Param(str, choices=FRAMES), "bot": _BOT},
    "damaged_hello": {"kind": Param(str, choices=HELLOS)},
    "damaged_ready": {"without": _FIELDS, "replaced": Param(dict)},
    "damaged_guild": {"without": _FIELDS, "replaced": Param(dict)},
}
"""The parameters of the core's faults; a fault that is not here has none."""

CORE_FAULTS: dict[str, str] = {
    "drop_op4": "op 4 is ignored",
    "delay_op4": "a join or move by op 4 is carried out late; params: delay_s",
    "delay_op4_events": "the events of an op 4 come late; params: delay_s",
    "withhold_vsu": "a join or move by op 4 brings no VOICE_STATE_UPDATE",
    "withhold_leave_vsu": "op 4 (null) ends the voice state, but no VOICE_STATE_UPDATE says so",
    "withhold_vsrvu": "op 4 brings no VOICE_SERVER_UPDATE",
    "endpoint_null_first": "the first VOICE_SERVER_UPDATE has no endpoint, another follows; params: delay_s (or null)",
    "other_endpoint": "a VOICE_SERVER_UPDATE names this voice server instead; params: endpoint",
    "anonymous_voice_state": "a VOICE_STATE_UPDATE of somebody else than a bot comes without its member",
    "bad_entries": "GUILD_CREATE holds an entry in each list that cannot be read, and the voice state of somebody who "
    "is no member; params: user_id",
    "stale_vsu_null_first": "a VOICE_STATE_UPDATE (null) of an older session comes before the true one",
    "swap_order": "VOICE_SERVER_UPDATE comes before VOICE_STATE_UPDATE",
    "rest_error": "a REST request fails; with taken what was asked for is done all the same; params: method, "
    "path_prefix, status (500), taken, retry_after_s (with 429), or body: JSON that is answered with the status "
    "instead of what was asked for",
    "rest_delay": "a REST request is answered late; params: method, path_prefix, delay_s (5)",
    "rest_limited": "REST requests of a path are answered 429 for so long, from the first on; "
    "params: method, path_prefix, seconds",
    "late_members": "op 8 is answered in small parts, each later than the one before; params: size (1), delay_s (1)",
    "deny_identify": "IDENTIFY is answered with op 9",
    "swallow_resume": "RESUME is answered with op 9",
    "gateway_drop": "the gateway connection is closed now, its session stays resumable; params: code (4000), bot (0)",
    "gateway_abort": "the gateway's TCP connection is reset now, with no close frame; params: bot (0)",
    "invalid_session": "op 9 (not resumable) ends the gateway session now; params: bot (0)",
    "refuse_gateway": "a new gateway connection is answered with HTTP 503",
    "mute_gateway": "op 1 is not acknowledged; params: bot (0)",
    "gateway_frame": "a damaged frame is sent now; params: kind (one of `roost.sim.damage.FRAMES`), bot (0)",
    "damaged_hello": "the first message of a connection is damaged; params: kind (one of `roost.sim.damage.HELLOS`)",
    "damaged_ready": "READY lacks or changes fields; params: without (names), replaced (name: value)",
    "damaged_guild": "GUILD_CREATE lacks or changes fields; params: without (names), replaced (name: value)",
    "withhold_ready": "IDENTIFY is not answered",
}
"""Names the core takes, with what they do. The voice part adds its own."""

GATEWAY_STRIKES = ("gateway_drop", "gateway_abort", "invalid_session", "gateway_frame")
"""Core faults that strike as soon as a connection they concern has identified or resumed: at once, if there is one."""


@dataclasses.dataclass
class ArmedFault:
    id: int
    name: str
    guild_id: int | None
    params: dict[str, Any]
    times: int
    """Uses left."""

    def payload(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"guild_id": self.guild_id and str(self.guild_id)}


class FaultTable:
    """The armed faults.

    Args:
        core: The core's names, with what they do.
        voice: The voice part's; it takes its own through its host.
        params: The parameters of both, by fault and name.
    """

    def __init__(
        self,
        core: Mapping[str, str],
        voice: Mapping[str, str] | None = None,
        params: Mapping[str, Mapping[str, Param]] | None = None,
    ) -> None:
        self._core = dict(core)
        self._params = dict(params or {})
        self._voice = dict(voice or {})
        self._armed: dict[int, ArmedFault] = {}
        self._ids = itertools.count(1)

    @property
    def known(self) -> dict[str, str]:
        """Every name that may be armed, with what it does."""
        return {**self._core, **self._voice}

    def handled_by(self, name: str) -> str:
        """``core`` or ``voice``."""
        return "voice" if name in self._voice else "core"

    def arm(self, name: str, guild_id: int | None, params: Mapping[str, Any], times: int) -> ArmedFault:
        """Raises UnknownFault, naming the known."""
        if name not in self.known:
            raise self._unknown(name)
        fault = ArmedFault(next(self._ids), name, guild_id, dict(params), times)
        self._armed[fault.id] = fault
        return fault

    def check(self, name: str, params: Mapping[str, Any], times: int) -> None:
        """Whether a fault that came from outside may be armed.

        Raises:
            FaultRefused: It is not known, or it does not take these parameters; says which it takes.
        """
        if name not in self.known:
            raise self._unknown(name)
        taken = self._params.get(name, {})
        for key, value in params.items():
            if key not in taken:
                takes = f"takes {', '.join(taken)}" if taken else "takes no parameters"
                raise FaultRefused(f"the fault {name} has no parameter {key!r}; it {takes}")
            taken[key].check(key, value)
        Param(int, 1, MOST_TIMES).check("times", times)

    def _unknown(self, name: str) -> UnknownFault:
        return UnknownFault(f"there is no fault {name!r}; there is: {', '.join(sorted(self.known))}")

    def disarm(self, fault_id: int) -> bool:
        return self._armed.pop(fault_id, None) is not None

    def armed(self) -> list[ArmedFault]:
        return list(self._armed.values())

    def take(self, name: str, guild_id: int | None = None) -> Mapping[str, Any] | None:
        """The parameters of an armed fault that concerns this guild, using up one of its times."""
        for fault in self._armed.values():
            if fault.name == name and fault.guild_id in (None, guild_id):
                return self._use(fault)
        return None

    def take_for_bot(self, name: str, bot: int) -> Mapping[str, Any] | None:
        """The same for a fault of the gateway, which concerns a bot (by its number, 0 if it names none)."""
        for fault in self._armed.values():
            if fault.name == name and fault.params.get("bot", 0) == bot:
                return self._use(fault)
        return None

    def take_rest(self, method: str, path: str) -> Mapping[str, Any] | None:
        """The parameters of the fault with which a REST request is to fail."""
        return self._take_rest("rest_error", method, path)

    def take_rest_delay(self, method: str, path: str) -> float:
        """How many seconds a REST request is to wait."""
        params = self._take_rest("rest_delay", method, path)
        return 0.0 if params is None else float(params.get("delay_s", 5.0))

    def _take_rest(self, name: str, method: str, path: str) -> Mapping[str, Any] | None:
        for fault in self._armed.values():
            wanted = fault.params
            matches = fault.name == name and wanted.get("method", method) == method
            if matches and path.startswith(str(wanted.get("path_prefix", ""))):
                return self._use(fault)
        return None

    def take_limit(self, method: str, path: str, now: float) -> float | None:
        """For how many more seconds a REST request is limited."""
        for fault in list(self._armed.values()):
            wanted = fault.params
            matches = fault.name == "rest_limited" and wanted.get("method", method) == method
            if matches and path.startswith(str(wanted.get("path_prefix", ""))):
                left_s = wanted.setdefault("until", now + float(wanted.get("seconds", 1.0))) - now
                if left_s > 0:
                    return float(left_s)
                self._use(fault)
        return None

    def _use(self, fault: ArmedFault) -> Mapping[str, Any]:
        fault.times -= 1
        if fault.times <= 0:
            self._armed.pop(fault.id, None)
        return fault.params
