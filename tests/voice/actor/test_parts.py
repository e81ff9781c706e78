"""The small parts: journal, reaper, op 4 queue, settings, words."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from roost.audio import LinkEnd, Retry, Timing
from roost.instances import instances_dir
from roost_voice import moves
from roost_voice.actor import ActorCore
from roost_voice.commands import JOIN_WORDS, join_words, leave_words
from roost_voice.config import VoiceConfig
from roost_voice.journal import Claim, Journal, parse, read_dead, session_hash
from roost_voice.moves import Priority, SendOp4, State, Told, Wish
from roost_voice.op4 import Op4Queue
from roost_voice.reaper import Reaper, Verdict, judge
from roost_voice.sessions import JoinResult

pytestmark = pytest.mark.unit


# Journal -------------------------------------------------------------------------------------------------------------


def test_journal_holds_no_secret_and_goes_with_the_last_guild(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "me")
    journal.write(1, 2, None)
    journal.write(1, 2, "secret session")
    path = instances_dir(tmp_path) / "me.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "secret session" not in path.read_text()
    assert parse(path.read_bytes()) == {1: Claim(2, session_hash("secret session"))}
    journal.write(3, 4, None)
    journal.remove(1)
    assert path.exists()
    journal.remove(3)
    assert not path.exists()
    assert [entry.name for entry in instances_dir(tmp_path).iterdir()] == []


def test_a_full_disk_costs_nothing_that_was_noted(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "me")
    journal.write(1, 2, None)
    (instances_dir(tmp_path) / "me.json.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        journal.write(3, 4, None)
    with pytest.raises(OSError, match="No space left"):
        journal.check(3, 4)
    journal.check(1, 4)
    assert journal.claims == parse((instances_dir(tmp_path) / "me.json").read_bytes()) == {1: Claim(2, None)}


def test_a_check_notes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "me")
    journal.check(3, 4)
    assert journal.claims == {}
    assert list(instances_dir(tmp_path).iterdir()) == []


def test_journal_makes_no_data_folder_that_was_moved_away(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    journal = Journal(data, "me")
    journal.write(1, 2, None)
    data.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        journal.write(3, 4, None)
    assert not data.exists()


def test_every_other_journal_is_of_a_dead_process(tmp_path: Path) -> None:
    Journal(tmp_path, "me").write(5, 6, "c")
    Journal(tmp_path, "dead").write(3, 4, "b")
    assert list(read_dead(tmp_path, "me").values()) == [{3: Claim(4, session_hash("b"))}]


@given(st.binary(max_size=60))
def test_any_bytes_are_a_journal_or_none(raw: bytes) -> None:
    assert parse(raw) is None or isinstance(parse(raw), dict)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"guilds": 3}', '{"guilds": {"1": {}}}', "null"])
def test_torn_files_are_removed(tmp_path: Path, content: str) -> None:
    folder = instances_dir(tmp_path)
    folder.mkdir(parents=True)
    (folder / "dead.json").write_text(content)
    (folder / "other.json.new").write_text("half")
    assert read_dead(tmp_path, "me") == {}
    assert list(folder.iterdir()) == []


def test_old_files_are_removed(tmp_path: Path) -> None:
    Journal(tmp_path, "dead").write(1, 2, None)
    path = instances_dir(tmp_path) / "dead.json"
    os.utime(path, (0, time.time() - 4000))
    assert read_dead(tmp_path, "me") == {}
    assert not path.exists()


# Reaper --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "exclusive", "verdict"),
    [(False, True, Verdict.GHOST), (False, False, Verdict.UNKNOWN), (True, False, Verdict.GHOST)],
)
def test_whose_a_voice_state_is(named: bool, exclusive: bool, verdict: Verdict) -> None:
    assert judge(in_dead_journal=named, exclusive=exclusive) is verdict


def test_a_late_answer_is_ours_once(tmp_path: Path) -> None:
    """Where the token is shared, only the channel asked for counts, only while Discord may be late, and only once."""
    reaper = Reaper(tmp_path, "me", exclusive=False, late_answer_s=60.0)
    for channel_id, now, verdict in ((2, 59.0, Verdict.GHOST), (3, 59.0, Verdict.UNKNOWN), (2, 61.0, Verdict.UNKNOWN)):
        reaper.asked(1, 2, 0.0)
        assert reaper.judge(1, channel_id, "s", now) is verdict
        assert reaper.judge(1, channel_id, "s", now) is Verdict.UNKNOWN
    reaper.asked(1, 2, 0.0)
    reaper.answered(1)
    assert reaper.judge(1, 2, "s", 1.0) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("claimed", "verdict"), [("s", Verdict.GHOST), (None, Verdict.GHOST), ("another", Verdict.UNKNOWN)]
)
def test_a_journal_is_evidence_of_the_session_that_it_names(
    tmp_path: Path, claimed: str | None, verdict: Verdict
) -> None:
    Journal(tmp_path, "dead").write(1, 2, claimed)
    reaper = Reaper(tmp_path, "me", exclusive=False)
    reaper.start()
    assert reaper.judge(1, 2, "s", 0.0) is verdict


def test_a_dead_journal_goes_when_all_its_guilds_are_settled(tmp_path: Path) -> None:
    dead = Journal(tmp_path, "dead")
    dead.write(1, 2, None)
    dead.write(3, 4, None)
    reaper = Reaper(tmp_path, "me", exclusive=False)
    reaper.start()
    path = instances_dir(tmp_path) / "dead.json"
    reaper.settled(1)
    assert json.loads(path.read_text())
    reaper.settled(3)
    assert not path.exists()


# Op 4 ----------------------------------------------------------------------------------------------------------------


def order(ticket: int, priority: Priority, requester: int = 0) -> SendOp4:
    return SendOp4(ticket, None if priority is Priority.LEAVE else 5, priority, requester=requester)


def take_all(queue: Op4Queue, now: float) -> list[int]:
    """The guilds whose op 4 may go out now, in order."""
    return [entry.guild_id for entry in iter(lambda: queue.take(now), None)]


def test_urgent_first_one_a_second_per_guild() -> None:
    queue = Op4Queue(Timing())
    queue.put(1, order(1, Priority.REAP))
    queue.put(2, order(2, Priority.JOIN))
    queue.put(3, order(3, Priority.LEAVE))
    assert [entry.guild_id for entry in iter(lambda: queue.take(0.0), None)] == [3, 2, 1]
    queue.put(1, order(4, Priority.LEAVE))
    assert queue.take(0.5) is None
    assert queue.wake_at(0.5) == 1.0
    assert queue.take(1.0) is not None


def test_a_later_wish_takes_the_earlier_ones_place() -> None:
    queue = Op4Queue(Timing())
    queue.put(1, order(1, Priority.JOIN))
    queue.put(1, order(2, Priority.LEAVE))
    entry = queue.take(0.0)
    assert entry is not None
    assert entry.order.ticket == 2
    queue.put(1, order(3, Priority.JOIN))
    queue.put_back(entry)
    again = queue.take(5.0)
    assert again is not None
    assert again.order.ticket == 3
    assert queue.replaced == 1


@given(st.lists(st.tuples(st.floats(0, 0.8), st.integers(0, 30), st.sampled_from(list(Priority))), max_size=400))
def test_never_more_than_discord_allows(steps: list[tuple[float, int, Priority]]) -> None:
    timing = Timing()
    queue, now = Op4Queue(timing), 0.0
    sent: list[tuple[float, int]] = []
    for ticket, (wait_s, guild, priority) in enumerate(steps):
        now += wait_s
        queue.put(guild, order(ticket, priority))
        while (entry := queue.take(now)) is not None:
            sent.append((now, entry.guild_id))
    for at, guild in sent:
        assert sum(1 for t, g in sent if g == guild and at <= t < at + timing.op4_guild_s) == 1
        assert sum(1 for t, _ in sent if at <= t < at + timing.op4_window_s) <= timing.op4_per_window


def test_joins_of_many_members_leave_room_for_leaves() -> None:
    queue = Op4Queue(Timing())
    for guild in range(150):
        queue.put(guild, order(guild, Priority.JOIN))
    assert len(take_all(queue, 0.0)) == 85
    assert queue.wake_at(0.0) == 60.0
    for guild in range(200, 220):
        queue.put(guild, order(guild, Priority.LEAVE))
    assert take_all(queue, 0.0) == list(range(200, 215)), "a window holds 100"


def test_one_member_with_many_guilds_does_not_hold_up_others() -> None:
    queue = Op4Queue(Timing())
    for guild in range(60):
        queue.put(guild, order(guild, Priority.JOIN, requester=7))
    for guild in (100, 101):
        queue.put(guild, order(guild, Priority.JOIN, requester=8))
    assert take_all(queue, 0.0)[:4] == [0, 100, 1, 101], "in turn"
    assert len(queue) == 12, "half of the window at most for the joins of a member who asks a lot"
    queue.put(102, order(102, Priority.JOIN, requester=9))
    assert take_all(queue, 0.5) == [102]
    assert queue.wake_at(0.5) == 60.0
    assert len(take_all(queue, 60.0)) == 12


def test_leaves_of_one_member_keep_room_for_the_leave_of_another() -> None:
    queue = Op4Queue(Timing())
    for guild in range(120):
        queue.put(guild, order(guild, Priority.LEAVE, requester=7))
    assert len(take_all(queue, 0.0)) == 75
    queue.put(200, order(200, Priority.LEAVE, requester=8))
    queue.put(201, order(201, Priority.LEAVE))
    assert take_all(queue, 0.0) == [200, 201]


def test_at_a_stop_every_guild_leaves_in_its_own_share() -> None:
    queue, cores = Op4Queue(Timing()), {guild: ActorCore(guild, Timing()) for guild in range(50)}
    for guild, core in cores.items():
        for action in core.handle(moves.Want(1, Wish(5, 7)), 0.0):
            if isinstance(action, SendOp4):
                queue.put(guild, action)
    joined = take_all(queue, 0.0)
    assert len(joined) == 50, "all that one member may ask for in a window"
    for guild, core in cores.items():
        core.handle(moves.Op4Sent(1, 5), 1.0)
        for action in core.handle(moves.Stop("shutdown"), 2.0):
            if isinstance(action, SendOp4):
                queue.put(guild, action)
    assert sorted(take_all(queue, 2.0)) == joined


def test_no_more_ghosts_are_begun_than_can_be_ended() -> None:
    queue = Op4Queue(Timing())
    for guild in range(50):
        queue.put(guild, order(guild, Priority.REAP))
    begun = take_all(queue, 0.0)
    assert begun == list(range(25))
    assert queue.wake_at(0.0) == 60.0
    for now in (2.0, 4.0):
        for guild in begun:
            queue.put(guild, order(100 + guild, Priority.REAP))
        assert take_all(queue, now) == begun
    queue.put(98, order(998, Priority.JOIN))
    queue.put(99, order(999, Priority.LEAVE))
    assert take_all(queue, 5.0) == [99, 98]


def test_ghosts_that_go_at_once_make_room_for_the_next() -> None:
    queue, gone = Op4Queue(Timing()), 0
    for guild in range(50):
        queue.put(guild, order(guild, Priority.REAP))
    while (entry := queue.take(0.0)) is not None:
        queue.release(entry.guild_id)
        gone += 1
    assert gone == 50


# The breaker ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "most"),
    [
        pytest.param(1006, 5, id="the breaker alone"),
        pytest.param(4006, 4, id="three more in five minutes"),
        pytest.param(4011, 3, id="two more"),
        pytest.param(4001, 2, id="one more"),
        pytest.param(4099, 2, id="an unknown code: one more"),
    ],
)
def test_a_server_that_always_refuses_is_given_up(code: int, most: int) -> None:
    core, now, tries = ActorCore(1, Timing()), 0.0, 0
    todo: list[moves.Input] = [moves.Want(1, Wish(5, 6))]
    told: list[Told] = []
    while todo:
        for action in core.handle(todo.pop(0), now):
            match action:
                case SendOp4(channel_id=None):
                    todo += [moves.Op4Sent(action.ticket, None), moves.OwnNull("s")]
                case SendOp4():
                    todo += [
                        moves.Op4Sent(action.ticket, action.channel_id),
                        moves.OwnState(5, "s"),
                        moves.Server(f"t{now}", "a:1"),
                    ]
                case moves.OpenLink():
                    tries += 1
                    todo.append(moves.LinkGone(action.gen, LinkEnd(code, "no longer valid", Retry.REJOIN)))
                case moves.Tell():
                    told.append(action.told)
        now += 1.0
    assert tries == most
    assert core.state is State.FAILED
    assert told == [Told.FAILED]
    (refused,) = core.handle(moves.Want(2, Wish(5, 6)), now)
    assert isinstance(refused, moves.Tell)
    assert "try again in" in refused.reason
    assert core.deadline is not None
    core.handle(moves.Tick(), core.deadline)
    assert core.state is State.IDLE


# Settings and words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [{"ca_file": "/nowhere.pem"}, {"allowed_hosts": ["https://x"]}, {"timing_scale": 0}, {"drivr": "native"}],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        VoiceConfig.model_validate(wrong)


def test_every_outcome_has_words() -> None:
    for told in JOIN_WORDS:
        assert join_words(JoinResult(told, 5, "because."), 6).endswith(".")
    for told in Told:
        assert leave_words(JoinResult(told, 5, "because")).endswith(".")
