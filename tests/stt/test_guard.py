"""Pauses, silence, the longest session, and who may read along."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import hikari
import pytest
from stt_house import ADA, BEN, GUILD, ME, TEXT, VOICE, House, houses
from stt_rig import packets_of

from roost.audio import SILENCE_FRAME, VoiceSession
from roost.errors import RoostError
from roost_stt.audience import is_wider
from roost_stt.guard import Finding, Look, duration

LOOK = Look(now=100.0, began_s=0.0, heard_s=50.0, silence_s=60.0, cap_s=1000.0, listening=True)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "finding", "wait_s"),
    [
        ({}, Finding.NOTHING, 10.0),
        ({"now": 110.0}, Finding.SILENT, None),
        ({"now": 110.0, "listening": False}, Finding.NOTHING, 60.0),
        ({"now": 110.0, "silence_s": 0.0}, Finding.NOTHING, 60.0),
        ({"now": 990.0, "heard_s": 985.0}, Finding.NOTHING, 10.0),
        ({"now": 1000.0}, Finding.TOO_LONG, None),
        ({"now": 1000.0, "listening": False}, Finding.TOO_LONG, None),
    ],
)
def test_when_there_is_something_to_do(change: dict[str, Any], finding: Finding, wait_s: float | None) -> None:
    look = dataclasses.replace(LOOK, **change)
    assert look.finding() is finding
    if wait_s is not None:
        assert look.wait_s() == wait_s


@pytest.mark.unit
def test_durations_in_words() -> None:
    assert [duration(s) for s in (60, 300, 3600, 5400, 28800)] == [
        "1 minute",
        "5 minutes",
        "1 hour",
        "1.5 hours",
        "8 hours",
    ]


# Who reads along ------------------------------------------------------------------------------------------------------

SEE = hikari.Permissions.VIEW_CHANNEL
STAFF, CARL = 50, 9


def overwrite(of: int, *, allow: bool, member: bool = False) -> hikari.PermissionOverwrite:
    kind = hikari.PermissionOverwriteType.MEMBER if member else hikari.PermissionOverwriteType.ROLE
    none = hikari.Permissions.NONE
    return hikari.PermissionOverwrite(
        id=hikari.Snowflake(of), type=kind, allow=SEE if allow else none, deny=none if allow else SEE
    )


def room(number: int, *overwrites: hikari.PermissionOverwrite) -> Any:
    return types.SimpleNamespace(id=number, permission_overwrites={each.id: each for each in overwrites})


def person(number: int, *roles: int, bot: bool = False) -> Any:
    return types.SimpleNamespace(id=number, role_ids=list(roles), is_bot=bot)


def server(count: int | None, *, staff_managed: bool = False) -> Any:
    roles = {
        GUILD: types.SimpleNamespace(permissions=SEE, bot_id=None, is_managed=False),
        STAFF: types.SimpleNamespace(permissions=SEE, bot_id=None, is_managed=staff_managed),
    }
    return types.SimpleNamespace(id=GUILD, owner_id=1000, member_count=count, get_roles=lambda: roles)


HIDDEN = overwrite(GUILD, allow=False)
FOR_STAFF = overwrite(STAFF, allow=True)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("voice", "text", "members", "count", "wider"),
    [
        pytest.param(room(VOICE), room(TEXT), [person(ADA)], 1, False, id="both for everybody"),
        pytest.param(room(VOICE, HIDDEN), room(VOICE, HIDDEN), [person(ADA)], None, False, id="its own chat"),
        pytest.param(room(VOICE, HIDDEN, FOR_STAFF), room(TEXT), [person(ADA)], 1, True, id="private into public"),
        pytest.param(
            room(VOICE, HIDDEN, FOR_STAFF), room(TEXT), [person(ADA, STAFF)], 1, False, id="all are of the staff"
        ),
        pytest.param(
            room(VOICE, HIDDEN, FOR_STAFF), room(TEXT), [person(ADA, STAFF)], 2, True, id="somebody is not known"
        ),
        pytest.param(
            room(VOICE, HIDDEN, FOR_STAFF),
            room(TEXT, HIDDEN, FOR_STAFF),
            [person(ADA, STAFF)],
            None,
            False,
            id="both for the staff",
        ),
        pytest.param(room(VOICE), room(TEXT, HIDDEN, FOR_STAFF), [person(ADA)], None, False, id="public into private"),
        pytest.param(
            room(VOICE, HIDDEN, FOR_STAFF),
            room(TEXT, HIDDEN, FOR_STAFF, overwrite(CARL, allow=True, member=True)),
            [person(ADA, STAFF)],
            None,
            True,
            id="a guest may read whom nobody knows",
        ),
        pytest.param(
            room(VOICE, HIDDEN, FOR_STAFF),
            room(TEXT, HIDDEN, FOR_STAFF, overwrite(CARL, allow=True, member=True)),
            [person(ADA, STAFF), person(CARL, bot=True)],
            2,
            False,
            id="bots do not count",
        ),
        pytest.param(
            room(VOICE, overwrite(STAFF, allow=False)), room(TEXT), [person(ADA)], None, True, id="a role is shut out"
        ),
    ],
)
def test_who_can_read_what_they_cannot_hear(
    voice: Any, text: Any, members: Any, count: int | None, wider: bool
) -> None:
    assert is_wider(server(count), members, voice, text) is wider


@pytest.mark.unit
def test_roles_of_integrations_stand_for_nobody() -> None:
    voice = room(VOICE, overwrite(STAFF, allow=False))
    assert not is_wider(server(None, staff_managed=True), [], voice, room(TEXT))


# In the plugin --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Any]]:
    async with houses() as build_house:
        yield build_house


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    return packets_of("lv_0880")


async def start(house: House, *, manages: bool = False) -> str:
    await house.open()
    return await house.plugin.start_transcribing(GUILD, ADA, TEXT, manages)


@pytest.mark.e2e
async def test_a_wider_audience_needs_somebody_who_manages_the_server(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"])
    house.voice_overwrites = {GUILD: HIDDEN, ME: overwrite(ME, allow=True, member=True)}
    with pytest.raises(RoostError, match="only those who manage the server"):
        await start(house)
    assert house.session.sinks == []
    assert house.workers() == []
    assert "Mind that <#30> can be read by people who cannot see <#20>" in await start(house, manages=True)
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    assert await house.plugin.start_transcribing(GUILD, ADA, VOICE, False) == "Transcribing <#20> into <#20>."


@pytest.mark.e2e
async def test_moving_to_where_fewer_can_see_ends_it(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["before"])
    assert await start(house) == "Transcribing <#20> into <#30>."
    house.session.say(packets[:60])
    house.voice_overwrites = {GUILD: HIDDEN}
    await house.plugin.voice_session_moved(cast(VoiceSession, house.session), 21, VOICE, True)
    assert house.session.sinks == []
    await house.until(lambda: house.plugin.describe(GUILD) == "Nothing is being transcribed here.")
    assert "people here who cannot see <#20>" in "\n".join(house.texts)
    assert "before" in "\n".join(house.texts)


@pytest.mark.e2e
async def test_a_pause_hears_nothing_and_finishes_what_was_said(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["{count}"])
    await start(house)
    house.session.say(packets[:60])
    ask = house.plugin.pause_transcribing
    assert "is paused." in await ask(GUILD, ADA, False, paused=True)
    assert house.session.sinks == []
    await house.until(lambda: house.texts == ["**Ada\\***: 1"])
    assert "paused already" in await ask(GUILD, ADA, False, paused=True)
    with pytest.raises(RoostError, match="/transcribe resume"):
        house.plugin.check(GUILD, ADA, False, stop=False)
    with pytest.raises(RoostError, match="Only people in"):
        await ask(GUILD, 99, False, paused=False)
    assert house.plugin.describe(GUILD).startswith("Paused")
    # A reload does not end the pause.
    await house.unload("reload")
    await house.load()
    await house.open()
    await house.until(lambda: house.plugin.describe(GUILD).startswith("Paused"))
    assert house.session.sinks == []
    assert "goes on" in await house.plugin.pause_transcribing(GUILD, BEN, False, paused=False)
    house.session.say(packets)
    await house.until(lambda: len(house.messages) == 2)
    assert "not paused" in await house.plugin.pause_transcribing(GUILD, BEN, False, paused=False)


@pytest.mark.e2e
async def test_silence_is_told_once_and_not_during_a_pause(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"], silence_minutes=0.5 / 60)
    await start(house)
    house.session.say([SILENCE_FRAME])
    await house.until(lambda: bool(house.messages))
    assert "I have heard nobody for" in house.texts[0]
    house.session.say(packets)
    await house.until(lambda: len(house.messages) == 2)
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    assert sum("heard nobody" in text for text in house.texts) == 1
    await start(house)
    await house.plugin.pause_transcribing(GUILD, ADA, False, paused=True)
    assert house.plugin._running[GUILD].heard_s > 0
    count = len(house.messages)
    with pytest.raises(TimeoutError):
        await house.until(lambda: len(house.messages) > count, 1.0)


@pytest.mark.e2e
async def test_the_longest_session_ends_with_its_reason(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["last words"], max_hours=1.0 / 3600)
    await start(house)
    house.session.say(packets[:60])
    await house.until(lambda: house.plugin.describe(GUILD) == "Nothing is being transcribed here.")
    told = "\n".join(house.texts)
    assert "Transcriptions last at most" in told
    assert "last words" in told
    assert house.session.sinks == []
    assert "Transcribing" in await start(house)
