"""News that are older than what the actor has asked for since: it makes sure before it believes that it is out."""

from __future__ import annotations

from typing import TypeVar

import pytest

from roost.audio import Timing
from roost_voice import moves
from roost_voice.actor import ActorCore
from roost_voice.moves import Phase, Presence, Rung, State, Wish
from roost_voice.protocol.close_codes import policy

pytestmark = pytest.mark.unit

A = TypeVar("A")


def of(kind: type[A], actions: list[moves.Action]) -> list[A]:
    return [each for each in actions if isinstance(each, kind)]


def tell(core: ActorCore, *events: moves.Input, now: float = 0.0) -> list[moves.Action]:
    """Tell them in order; what goes out as op 4 is sent at once."""
    actions: list[moves.Action] = []
    for event in events:
        for action in core.handle(event, now):
            actions.append(action)
            if isinstance(action, moves.SendOp4):
                actions += core.handle(moves.Op4Sent(action.ticket, action.channel_id), now)
    return actions


def joining() -> ActorCore:
    """A join is sent, and nothing has come of it yet."""
    core = ActorCore(1, Timing())
    tell(core, moves.Want(1, Wish(11, 7)))
    assert core.state is State.SIGNALLING
    return core


def in_voice() -> ActorCore:
    core = joining()
    actions = tell(core, moves.OwnState(11, "mine"), moves.Server("token", "server:443"), moves.LinkLive(1))
    (opening,) = of(moves.StartOpening, actions)
    tell(core, moves.OpeningDone(opening.serial))
    assert core.at_rest is False
    return core


def test_a_null_of_an_older_stay_does_not_answer_a_leave_that_is_still_queued() -> None:
    core = joining()
    (leave,) = of(moves.SendOp4, core.handle(moves.Unwant(2, "asked"), 0.1))
    assert leave.channel_id is None
    assert core.handle(moves.OwnNull("of yesterday"), 0.2) == []
    assert core.state is State.LEAVING
    tell(core, moves.Op4Sent(leave.ticket, None), moves.OwnNull("mine"), now=0.3)
    assert core.state is State.IDLE


def test_a_kick_before_a_join_that_is_not_answered_yet_is_made_sure_of() -> None:
    """Moved by a wish, disconnected by a moderator: Discord may have taken them in either order."""
    core = in_voice()
    tell(core, moves.Want(2, Wish(12, 7)), now=1.0)
    actions = tell(core, moves.OwnState(11, "mine"), moves.OwnNull("mine"), moves.OwnState(12, "mine"), now=1.1)
    assert core.state is not State.IDLE
    actions = tell(core, moves.Unwant(3, "asked"), moves.LinkGone(1, None), now=1.2)
    for drain in of(moves.Drain, actions):
        actions += tell(core, moves.Drained(drain.serial), moves.LinkGone(1, None), now=1.3)
    assert [each.channel_id for each in of(moves.SendOp4, actions)] == [None]


def test_a_guild_without_us_that_is_older_than_our_join_does_not_confirm_a_leave() -> None:
    core = joining()
    core.handle(moves.Unwant(2, "asked"), 0.1)
    assert core.phase is Phase.NULL
    assert core.handle(moves.GuildHere(None, None), 0.2) == []
    assert core.phase is Phase.NULL


def test_after_a_new_gateway_session_a_guild_without_us_is_believed() -> None:
    core = joining()
    core.handle(moves.Unwant(2, "asked"), 0.1)
    tell(core, moves.GatewayReady(), moves.GuildHere(None, None), now=0.2)
    assert core.state is State.IDLE


def test_a_ghost_of_which_a_guild_tells_during_a_join_is_left_too() -> None:
    """The op 4 that would take its place never went out."""
    core = ActorCore(1, Timing())
    core.handle(moves.Want(1, Wish(11, 7)), 0.0)
    core.handle(moves.GuildHere(12, "of yesterday"), 0.1)
    (leave,) = of(moves.SendOp4, core.handle(moves.Unwant(2, "asked"), 0.2))
    assert leave.channel_id is None


def test_a_ghost_that_is_being_ended_stands_in_the_journal() -> None:
    core = ActorCore(1, Timing())
    actions = tell(core, moves.Reap(11, "of yesterday"))
    assert of(moves.JournalWrite, actions) == [moves.JournalWrite(11, "of yesterday")]
    assert of(moves.JournalRemove, tell(core, moves.OwnNull("of yesterday"), now=0.1))
    assert core.at_rest


def test_a_null_that_nobody_waits_for_does_not_end_an_orphan() -> None:
    core = ActorCore(1, Timing())
    core.handle(moves.Reap(11, "of yesterday"), 0.0)
    (ask,) = of(moves.AskRest, core.handle(moves.OwnNull("of the day before"), 0.1))
    assert core.rung is Rung.ASK
    core.handle(moves.RestAnswer(ask.ask, Presence.IN, 11), 0.2)
    assert core.state is State.ORPHAN


@pytest.mark.parametrize("first", ["the gateway", "the voice server"])
def test_forgotten_by_discord_and_then_told_why(first: str) -> None:
    core = in_voice()
    (ask,) = of(moves.AskRest, core.handle(moves.GuildHere(None, None), 1.0))
    assert tell(core, moves.RestAnswer(ask.ask, Presence.OUT), now=1.1)[0] == moves.Interrupted("Discord forgot me")
    if first == "the gateway":
        tell(core, moves.OwnNull("mine"), now=1.2)
        assert core.wish is None
    else:
        assert core.deadline is not None
        actions = core.handle(moves.Tick(), core.deadline)
        assert [each.channel_id for each in of(moves.SendOp4, actions)] == [11], "nothing said that it was a kick"


def disconnected() -> tuple[ActorCore, moves.AskRest]:
    """The voice server ended the call and no other came: REST is asked before anything is sent."""
    core = in_voice()
    end = policy(4022).end(4022)
    core.handle(moves.LinkGone(1, end), 1.0)
    assert core.state is State.AWAIT_SERVER
    assert core.deadline == 6.0
    actions = core.handle(moves.Tick(), 6.0)
    for drain in of(moves.Drain, actions):
        actions += core.handle(moves.Drained(drain.serial), 6.0)
    assert of(moves.SendOp4, actions) == []
    (ask,) = of(moves.AskRest, actions)
    return core, ask


def test_a_disconnect_that_rest_confirms_needs_no_leave() -> None:
    core, ask = disconnected()
    actions = core.handle(moves.RestAnswer(ask.ask, Presence.OUT), 6.1)
    assert of(moves.SendOp4, actions) == []
    assert len(of(moves.Closed, actions)) == 1
    assert core.state is State.IDLE


@pytest.mark.parametrize("answer", [Presence.IN, Presence.UNKNOWN, None])
def test_a_disconnect_that_rest_does_not_confirm_is_left(answer: Presence | None) -> None:
    core, ask = disconnected()
    assert core.deadline is not None
    if answer is None:
        actions = core.handle(moves.Tick(), core.deadline)
    else:
        actions = core.handle(moves.RestAnswer(ask.ask, answer, 11 if answer is Presence.IN else None), 6.1)
    (leave,) = of(moves.SendOp4, actions)
    assert leave.channel_id is None
    tell(core, moves.Op4Sent(leave.ticket, None), now=8.1)
    assert core.phase is Phase.ACK
    tell(core, moves.OwnNull("mine"), now=8.2)
    assert core.state is State.IDLE
