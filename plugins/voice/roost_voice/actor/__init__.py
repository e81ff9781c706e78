"""The decisions of one guild's voice actor. Pure: no I/O, no clock; `now` is a parameter, time is in seconds.

`ActorCore.handle` takes one input and gives the actions to carry out, in order. Commands set a wish; the core brings
Discord and the link in line with it. Everything that comes back late carries a number (generation of a link, ticket of
an op 4, number of a question), and a stale number is dropped.

What may follow what is the table `TRANSITIONS` in `roost_voice.actor.core`.
"""

from roost_voice.actor.core import TRANSITIONS, ActorCore

__all__ = ["TRANSITIONS", "ActorCore"]
