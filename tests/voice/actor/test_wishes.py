"""Several wishes at once: who hears what, and when."""

from __future__ import annotations

import pytest

from roost.audio import Timing
from roost_voice import moves
from roost_voice.actor import ActorCore
from roost_voice.moves import State, Told, Wish

pytestmark = pytest.mark.unit


def tells(actions: list[moves.Action]) -> list[tuple[int, Told, int, str]]:
    return [(each.ticket, each.told, each.channel_id, each.reason) for each in actions if isinstance(each, moves.Tell)]


def three_wishes() -> tuple[ActorCore, list[moves.Action]]:
    """Three joins for three channels, and a fourth for the last one's, before Discord has said anything."""
    core = ActorCore(1, Timing())
    actions = []
    for ticket, channel in enumerate((11, 12, 13, 13), 1):
        actions += core.handle(moves.Want(ticket, Wish(channel, 7)), 0.0)
    return core, actions


def test_the_superseded_hear_of_the_winner_when_it_is_live() -> None:
    core, actions = three_wishes()
    order = [each for each in actions if isinstance(each, moves.SendOp4)][-1]
    for event in (
        moves.Op4Sent(order.ticket, 13),
        moves.OwnState(13, "session"),
        moves.Server("token", "server:443"),
        moves.LinkLive(1),
    ):
        actions += core.handle(event, 0.1)
    assert tells(actions) == []
    opening = next(each.serial for each in actions if isinstance(each, moves.StartOpening))
    assert tells(core.handle(moves.OpeningDone(opening), 0.2)) == [
        (3, Told.JOINED, 13, ""),
        (4, Told.JOINED, 13, ""),
        (1, Told.SUPERSEDED, 13, "a later request won"),
        (2, Told.SUPERSEDED, 13, "a later request won"),
    ]


def test_the_superseded_hear_that_the_winner_failed() -> None:
    core, actions = three_wishes()
    assert tells(actions) == []
    told = tells(core.handle(moves.GuildGone(), 0.1))
    assert [(ticket, how, channel) for ticket, how, channel, _ in told] == [
        (ticket, Told.FAILED, 13) for ticket in (3, 4, 1, 2)
    ]
    assert "later request" not in told[0][3]
    assert told[2][3] == f"a later request, for <#13>, won, but failed: {told[0][3]}"


def test_a_wish_that_comes_back_is_a_winner() -> None:
    core, actions = three_wishes()
    actions += core.handle(moves.Want(5, Wish(11, 7)), 0.0)
    assert tells(actions) == []
    told = tells(core.handle(moves.Unwant(6, "asked"), 0.1) + core.handle(moves.GuildHere(None, None), 0.2))
    reasons = {ticket: reason for ticket, _, _, reason in told}
    assert reasons[1] == reasons[5] == "asked"
    assert reasons[3] == "a later request, for <#11>, won, but was ended: asked"


def test_an_abandoned_winner_leaves_nobody_waiting() -> None:
    core, actions = three_wishes()
    for ticket in (3, 4):
        actions += core.handle(moves.Abandon(ticket), 0.1)
    actions += core.handle(moves.GuildHere(None, None), 0.2)
    assert {ticket for ticket, how, _, _ in tells(actions) if how is Told.FAILED} == {1, 2}


def test_an_old_wishs_news_while_the_server_is_awaited() -> None:
    """Discord answers the first wish, without an endpoint yet, while the second wish's op 4 is still queued."""
    core = ActorCore(1, Timing())
    actions = core.handle(moves.Want(1, Wish(11, 7)), 0.0)
    order = next(each for each in actions if isinstance(each, moves.SendOp4))
    core.handle(moves.Op4Sent(order.ticket, 11), 0.0)
    actions = core.handle(moves.Want(2, Wish(12, 7)), 0.0)
    for event in (
        moves.ServerNull(),
        moves.OwnState(11, "session"),
        moves.Server("token 1", "server:443"),
        moves.Server("token 2", "server:443"),
        moves.OwnState(12, "session"),
    ):
        actions += core.handle(event, 0.1)
    actions += core.handle(moves.LinkGone(core.gen, None), 0.2)
    assert core.state is State.CONNECTING
    actions += core.handle(moves.LinkLive(core.gen), 0.3)
    opening = next(each.serial for each in actions if isinstance(each, moves.StartOpening))
    assert tells(core.handle(moves.OpeningDone(opening), 0.4)) == [
        (1, Told.SUPERSEDED, 12, "a moderator moved me"),
        (2, Told.JOINED, 12, ""),
    ]
