"""A simulated Discord on loopback: REST, gateway, voice with end-to-end encryption, members who speak, faults.

For tests of any Discord client in any language (``roost sim``) and for the demo. It shares no encoder and no state
machine with the product.
"""

from roost.sim.client import ControlClient, ControlError
from roost.sim.process import SimProcess, spawn
from roost.sim.server import SimulatedDiscord, run
from roost.sim.world import SimSettings

__all__ = ["ControlClient", "ControlError", "SimProcess", "SimSettings", "SimulatedDiscord", "run", "spawn"]
