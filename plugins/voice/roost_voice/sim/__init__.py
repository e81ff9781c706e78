"""The voice part of the simulated Discord: voice gateway, media relay, DAVE delivery service, speaking members.

It shares no encoder and no state machine with the product, so that neither can hide the other's mistakes.
"""

from __future__ import annotations

from typing import Any

from roost_voice.sim.part import SimulatedVoice
from roost_voice.sim.settings import VoiceSettings

__all__ = ["SimulatedVoice", "VoiceSettings", "create"]


def create(**settings: Any) -> SimulatedVoice:
    """The entry point of the group ``roost.sim``; keywords are the fields of `VoiceSettings`.

    Constructing starts nothing; see `SimulatedVoice.start`.
    """
    return SimulatedVoice(VoiceSettings(**settings))
