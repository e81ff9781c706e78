"""Foreign software of the same token takes the bot's place: it is left there (`voice.exclusive = false`)."""

from __future__ import annotations

import pytest

from roost.audio import LinkEnd, Retry, Timing
from roost_voice import moves
from roost_voice.actor import ActorCore
from roost_voice.actor.orphan import TAKEN
from roost_voice.moves import Presence, Stage, State, Wish

pytestmark = pytest.mark.unit

THEIRS = (moves.OwnState(11, "theirs"), moves.OwnState(12, "theirs"))


def answered(action: moves.Action) -> moves.Input | None:
    """What the actor hears once an action is carried out."""
    match action:
        case moves.SendOp4():
            return moves.Op4Sent(action.ticket, action.channel_id)
        case moves.CloseLink():
            return moves.LinkGone(action.gen, None)
        case moves.StartOpening():
            return moves.OpeningDone(action.serial)
        case moves.Drain():
            return moves.Drained(action.serial)
    return None


def play(core: ActorCore, *events: moves.Input, now: float = 0.0) -> list[moves.Action]:
    """Tell them in order, and do what the actor asks for: send op 4, close links, drain."""
    todo, done = list(events), list[moves.Action]()
    while todo:
        actions = core.handle(todo.pop(0), now)
        done += actions
        todo[:0] = [answer for each in actions if (answer := answered(each)) is not None]
    return done


def actor(*, exclusive: bool = False) -> ActorCore:
    return ActorCore(1, Timing(), exclusive=exclusive)


def in_voice(*, exclusive: bool = False) -> ActorCore:
    core = actor(exclusive=exclusive)
    play(core, moves.Want(1, Wish(11, 7)), moves.OwnState(11, "mine"), moves.Server("t", "s:443"), moves.LinkLive(1))
    assert (core.state, core.stage) == (State.LIVE, Stage.OPEN)
    return core


def leaves(actions: list[moves.Action]) -> list[moves.Action]:
    return [each for each in actions if isinstance(each, moves.SendOp4)]


@pytest.mark.parametrize("theirs", THEIRS)
@pytest.mark.parametrize("first", ["their state", "our close"])
def test_a_place_that_is_taken_is_given_up_without_a_leave(theirs: moves.OwnState, first: str) -> None:
    core = in_voice()
    closed = moves.LinkGone(1, LinkEnd(4014, "disconnected", Retry.AWAIT_SERVER))
    actions = play(core, *((theirs, closed) if first == "their state" else (closed, theirs)))
    assert moves.Closed(TAKEN) in actions
    assert moves.JournalRemove() in actions
    assert leaves(actions) == []
    assert core.state is State.IDLE


def test_a_link_that_ends_is_not_joined_anew_before_rest_has_said_whose_the_place_is() -> None:
    core = in_voice()
    actions = play(core, moves.LinkGone(1, LinkEnd(4006, "no longer valid", Retry.REJOIN)))
    (asked,) = [each for each in actions if isinstance(each, moves.AskRest)]
    actions += play(core, moves.RestAnswer(asked.ask, Presence.IN, 11, "theirs"))
    assert moves.Closed(TAKEN) in actions
    assert leaves(actions) == []


def test_alone_with_the_token_the_place_is_taken_back() -> None:
    core = in_voice(exclusive=True)
    play(core, THEIRS[1], moves.LinkGone(1, None))
    assert core.state is not State.IDLE


def test_a_place_taken_while_leaving() -> None:
    core = in_voice()
    (drain,) = core.handle(moves.Unwant(2, "asked"), 0.0)
    assert isinstance(drain, moves.Drain)
    actions = play(core, THEIRS[1], moves.Drained(drain.serial))
    assert leaves(actions) == []
    assert core.state is State.IDLE


def test_a_place_taken_while_the_gateway_session_was_lost() -> None:
    core = in_voice()
    actions = play(core, moves.GatewayDown(), moves.GatewayReady(), moves.GuildHere(12, "theirs"))
    assert moves.Closed(TAKEN) in actions
    assert leaves(actions) == []


def test_an_own_state_of_the_lost_gateway_session_is_no_strangers() -> None:
    core = in_voice()
    actions = play(core, moves.GatewayDown(), moves.GatewayReady(), moves.GuildHere(11, "mine"))
    assert [each.channel_id for each in leaves(actions)] == [11]  # type: ignore[attr-defined]
    actions = play(core, moves.OwnState(11, "mine too"), moves.Server("t", "s:443"), moves.LinkLive(core.gen + 1))
    assert moves.Closed(TAKEN) not in actions


def test_rest_shows_the_strangers_session() -> None:
    core = in_voice()
    asked = [each for each in play(core, moves.GuildHere(None, None)) if isinstance(each, moves.AskRest)]
    actions = play(core, moves.RestAnswer(asked[0].ask, Presence.IN, 12, "theirs"))
    assert moves.Closed(TAKEN) in actions
    assert leaves(actions) == []


def test_a_state_before_the_link_was_live_may_be_the_answer_to_the_join() -> None:
    """A moderator moved a ghost into the channel that was asked for."""
    core = actor()
    play(core, moves.Want(1, Wish(11, 7)), moves.OwnState(11, "a ghost's"), moves.OwnState(11, "mine"))
    assert core.wish is not None
