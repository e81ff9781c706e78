"""Are the tests worth anything? Mistakes built into a copy of Roost, the ways in which hikari's voice leaks among them.

``python tests/mutations.py`` changes a temporary copy of the source tree, one mutation at a time, runs the tests that
should notice soonest, and prints who did; those must pass in an unchanged copy. The exit status is 1 when a mutation
survives, 2 when one no longer applies or its test fails without it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VOICE = "plugins/voice/roost_voice/"
STT = "plugins/stt/roost_stt/"
PARTS = ("core", "plugins", "tests", "docs", "pyproject.toml", "README.md")
TIMEOUT_S = 240.0
"""Of one mutation's tests; they take a few seconds on a machine with nothing else to do."""
CONTROL_PART = 12
"""Tests that one run without a mutation takes."""

SOAK = "tests/voice/actor/test_actor_machine.py::test_a_short_soak"
CANCEL = "tests/faults/test_cancel.py::test_a_join_is_cancelled_at_any_await"
STALE = "tests/faults/test_joining.py::test_an_old_voice_state_says_that_the_bot_is_out"
SAME = "tests/faults/test_requests.py::test_many_joins_to_one_channel"


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One of the faults, as a change of text.

    Attributes:
        leak: Its name in the list of hikari's leaks.
        what: What the changed code does.
        old: Must occur exactly once in the file.
        tests: Where it should be noticed.
    """

    leak: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = (SOAK,)


MUTATIONS = [
    Mutation(
        "H1",
        "no leave after a join that was not answered",
        VOICE + "actor/linking.py",
        "        else:\n            self._leave(reason, now)\n\n    def _signalling_down",
        "        else:\n            self.maybe_in = False\n"
        "            self._leave(reason, now)\n\n    def _signalling_down",
    ),
    Mutation(
        "H2",
        "no leave when whoever waits is cancelled",
        VOICE + "guild.py",
        "        self._waiting.pop(ticket, None)\n        self._post(moves.Abandon(ticket))\n",
        "        pass\n",
        (CANCEL,),
    ),
    Mutation(
        "H2",
        "an answer that comes as its waiter is cancelled is nobody's",
        VOICE + "guild.py",
        "        self._waiting.pop(ticket, None)\n        self._post(moves.Abandon(ticket))\n",
        "        if self._waiting.pop(ticket, None) is not None:\n            self._post(moves.Abandon(ticket))\n",
        (CANCEL,),
    ),
    Mutation(
        "H3",
        "no leave when cancelled in the voice handshake",
        VOICE + "actor/core.py",
        "        else:\n            self._leave(CANCELLED, now)\n",
        "        else:\n            self.maybe_in = self.state is not State.CONNECTING\n"
        "            self._leave(CANCELLED, now)\n",
    ),
    Mutation(
        "H4",
        "a second join opens a link beside the first",
        VOICE + "actor/linking.py",
        "        self._set_state(State.CONNECTING)\n        if self.link is not None:\n",
        "        self._set_state(State.CONNECTING)\n        if False:\n",
    ),
    Mutation(
        "H4",
        "each of two joins at once has an actor of its own",
        VOICE + "sessions.py",
        "        actor = self._actors.get(guild_id)\n"
        "        if actor is None:\n            actor = self._actors[guild_id] = ",
        "        actor = None\n        if actor is None:\n            actor = self._actors[guild_id] = ",
        (SAME,),
    ),
    Mutation(
        "H5",
        "an assertion fails at a voice server without an address",
        VOICE + "actor/linking.py",
        "    def _signalling_server_null(self, event: ServerNull, now: float) -> None:\n",
        "    def _signalling_server_null(self, event: ServerNull, now: float) -> None:\n        assert not event\n",
    ),
    Mutation(
        "H5",
        "a voice server without an address ends the join without a leave",
        VOICE + "actor/linking.py",
        "    def _signalling_server_null(self, event: ServerNull, now: float) -> None:\n        self._server = None\n",
        "    def _signalling_server_null(self, event: ServerNull, now: float) -> None:\n        self._server = None\n"
        "        self.maybe_in = False\n        return self._leave(NO_ANSWER, now)\n",
    ),
    Mutation(
        "H6",
        "any null during a join is taken for a kick",
        VOICE + "actor/linking.py",
        "        elif self._seen_state and self._ours(event.session_id):\n",
        "        else:\n",
        (STALE,),
    ),
    Mutation(
        "H6",
        "any null while in voice is taken for a kick",
        VOICE + "actor/linking.py",
        "        if self.unacked_nulls:\n"
        "            self.unacked_nulls -= 1\n        elif self._ours(event.session_id):\n"
        "            self._kicked(now)\n\n    def _new_server",
        "        if self.unacked_nulls:\n            self.unacked_nulls -= 1\n        else:\n"
        "            self._kicked(now)\n\n    def _new_server",
        (STALE,),
    ),
    Mutation(
        "H6",
        "any null is taken for the acknowledgement of a leave",
        VOICE + "actor/leaving.py",
        "        elif event.session_id != self._session_id or self._joins_unseen:\n",
        "        elif False:\n",
        (
            "tests/voice/actor/test_doubts.py::test_a_null_of_an_older_stay_does_not_answer_a_leave_that_is_still_queued",
        ),
    ),
    Mutation(
        "H7",
        "the end of all returns with the end of one",
        VOICE + "sessions.py",
        "            await asyncio.wait(tasks, timeout=left_s)\n",
        "            await asyncio.wait(tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)\n",
        ("tests/faults/test_ends.py::test_one_end_goes_wrong",),
    ),
    Mutation(
        "H7",
        "a link whose end hangs is waited for without limit",
        VOICE + "actor/leaving.py",
        "            self.phase = Phase.CLOSE\n            self.deadline = now + self._timing.close_local_s\n",
        "            self.phase = Phase.CLOSE\n            self.deadline = None\n",
    ),
    Mutation(
        "H8",
        "a leave that was not confirmed is not tried again",
        VOICE + "actor/leaving.py",
        "        if self.stopping:\n            self._finish(now, confirmed=False)\n            return\n",
        "        if True:\n            self._finish(now, confirmed=False)\n            return\n",
    ),
    Mutation(
        "H8",
        "a leave that the gateway did not take is taken for done",
        VOICE + "actor/leaving.py",
        "        elif self.phase in (Phase.NULL, Phase.ACK):\n"
        "            self._drop_op4()\n            self._ask_in_leaving(now)\n",
        "        elif self.phase in (Phase.NULL, Phase.ACK):\n            self._drop_op4()\n"
        "            self._finish(now, confirmed=True)\n",
    ),
    Mutation(
        "fair",
        "a member with many guilds may fill the minute with joins",
        VOICE + "op4.py",
        "Room(light_below=5, light=85, heavy=50)",
        "Room(light_below=5, light=85, heavy=85)",
        ("tests/voice/actor/test_parts.py::test_one_member_with_many_guilds_does_not_hold_up_others",),
    ),
    Mutation(
        "fair",
        "within a class the longest waiting goes first, whoever asked",
        VOICE + "op4.py",
        "not begun, self._used[entry.requester], entry.number",
        "not begun, 0, entry.number",
        ("tests/voice/actor/test_parts.py::test_one_member_with_many_guilds_does_not_hold_up_others",),
    ),
    Mutation(
        "fair",
        "50 members who ask for one join are counted 50 times",
        VOICE + "guild.py",
        "        for event in reversed(self._mail):\n            if isinstance(event, moves.Want",
        "        for event in ():\n            if isinstance(event, moves.Want",
        ("tests/faults/test_fair_shares.py::test_fifty_joins_in_one_instant_count_as_one",),
    ),
    Mutation(
        "fair",
        "first replies to different interactions wait for each other",
        "core/roost/rest_buckets.py",
        "{routes.HASH_SEPARATOR}{route.major_param_hash}",
        "",
        ("tests/core/test_rest_buckets.py::test_first_requests_to_different_places_do_not_wait_for_each_other",),
    ),
    Mutation(
        "DATA",
        "two processes hold one data folder",
        "core/roost/holder.py",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        ("tests/core/store/test_holding.py::test_another_holder_is_refused_by_name_until_the_first_has_gone",),
    ),
    Mutation(
        "DATA",
        "what is written into a database that was replaced is called stored",
        "core/roost/store/database.py",
        "        if trouble := self.trouble():\n",
        '        if trouble := "":\n',
        ("tests/core/store/test_opening.py::test_a_database_that_is_taken_away_takes_nothing_more",),
    ),
    Mutation(
        "H8",
        "a disconnect that REST does not confirm is taken for done",
        VOICE + "actor/leaving.py",
        "        elif self._ask_first:\n            self._ask_first = False\n            self._leave_step(now)\n"
        "        else:\n            self.unacked_nulls = 0\n            self._leave_unconfirmed(now)\n\n"
        "    def _leaving_gone",
        "        elif self._ask_first:\n            self._finish(now, confirmed=True)\n"
        "        else:\n            self.unacked_nulls = 0\n            self._leave_unconfirmed(now)\n\n"
        "    def _leaving_gone",
        ("tests/voice/actor/test_doubts.py::test_a_disconnect_that_rest_does_not_confirm_is_left",),
    ),
    Mutation(
        "R92",
        "a failure in one server counts against the whole bot",
        "core/roost/plugins/host.py",
        "        verdict = self._breakers.add(record.name, place, time.monotonic(), at_once=at_once)\n",
        "        verdict = self._breakers.add(record.name, None, time.monotonic(), at_once=at_once)\n",
        ("tests/faults/test_blame.py::test_a_plugin_is_paused_where_it_fails_and_called_again_after_a_while",),
    ),
    Mutation(
        "R96",
        "a guard that is paused lets everybody through",
        "core/roost/dispatch.py",
        "        return [Deny(REASONS[why].format(plugin=name)) "
        "for name, why in self._unasked(hook, guild_id).items()]\n",
        "        return []\n",
        ("tests/faults/test_blame.py::test_a_guard_that_is_paused_refuses",),
    ),
    Mutation(
        "R225",
        "members whom a plugin that has just come refuses are heard until they speak anew",
        VOICE + "session.py",
        "        if self._asked_of != self._hooks.generation:\n",
        "        if False:\n",
        ("tests/voice/actor/test_session.py::test_guard_that_comes_in_mid_call_is_asked_before_the_next_frame",),
    ),
    Mutation(
        "R227",
        "members whom a plugin refuses are heard while it is loaded anew",
        "core/roost/plugins/host.py",
        "        self.guards.loading(record, also=new.instance)\n",
        "",
        ("tests/faults/test_guards.py::test_nobody_slips_through_while_a_guard_is_loaded_anew",),
    ),
    Mutation(
        "R228",
        "a plugin that decides and cannot be imported lets everybody through",
        "core/roost/plugins/guards.py",
        "        hooks = guarded_by(record.instance) if record.instance is not None else named_in(record)\n",
        "        hooks = frozenset()\n",
        ("tests/faults/test_guards.py::test_a_guard_that_does_not_load_refuses",),
    ),
    Mutation(
        "fair",
        "the oldest words give way, whichever server has the most",
        "plugins/stt/roost_stt/worker/backlog.py",
        "self._items.pop(self._gives_way())",
        "self._items.pop(0)",
        ("tests/stt/test_backlog.py::test_what_is_too_much_is_taken_from_the_server_with_the_most",),
    ),
    Mutation(
        "R110",
        "packets that are no Opus pass the receiver",
        VOICE + "protocol/receive.py",
        "        if not samples:\n",
        "        if False:\n",
        ("tests/voice/protocol/test_receive.py::test_what_is_no_opus_is_dropped_and_leaves_no_gap",),
    ),
    Mutation(
        "R112",
        "a stream that begins anew at a lower number is late until it has caught up",
        VOICE + "protocol/jitter.py",
        "        return self._late >= RESTART_AFTER\n",
        "        return False\n",
        ("tests/voice/protocol/test_receive.py::test_a_stream_numbered_anew_is_heard_after_two_packets",),
    ),
    Mutation(
        "R113",
        "a member's other client is forgotten with the one that leaves",
        VOICE + "protocol/receive.py",
        "            self._sources[ssrc].left_at = now\n",
        "            self._forget_source(ssrc)\n",
        ("tests/voice/protocol/test_receive.py::test_the_client_that_stays_is_heard_whole",),
    ),
    Mutation(
        "R114",
        "heartbeats are as frequent as the voice gateway asks",
        VOICE + "protocol/gateway.py",
        "min(max(interval, self._timing.heartbeat_min_s), self._timing.heartbeat_max_s)",
        "min(interval, self._timing.heartbeat_max_s)",
        ("tests/voice/protocol/test_gateway.py::test_heartbeats_are_neither_too_frequent_nor_too_rare",),
    ),
    Mutation(
        "R115",
        "media goes to any address that a voice server names",
        VOICE + "protocol/link.py",
        "        if not may_send_media(event.ip, self._allowed_hosts):\n",
        "        if False:\n",
        ("tests/voice/protocol/test_link.py::test_media_is_not_sent_to_addresses_that_are_not_public",),
    ),
    Mutation(
        "R116",
        "a bad entry costs a guild its commands",
        "core/roost/guild_entries.py",
        "    bot._entity_factory = EntryFactory(bot)\n",
        "    pass\n",
        ("tests/core/test_guild_entries.py::test_bad_entries_are_left_out_and_told_once",),
    ),
    Mutation(
        "R116",
        "somebody unknown is taken for a bot",
        VOICE + "sessions.py",
        "        return known is not None and known.is_bot\n",
        "        return known is None or known.is_bot\n",
        ("tests/faults/test_unknown_members.py::test_somebody_unknown_keeps_the_bot_in_the_channel",),
    ),
    Mutation(
        "R117",
        "a group of many changes is never entered anew",
        VOICE + "protocol/dave.py",
        "        self._renew_if_due(now)\n",
        "        pass\n",
        ("tests/voice/protocol/test_dave.py::test_a_group_of_many_changes_is_entered_anew_while_nobody_speaks",),
    ),
    Mutation(
        "M8",
        "the simulator's control API serves web pages that rebind their name",
        "core/roost/sim/control.py",
        "hostname not in LOOPBACK_NAMES:",
        "hostname is None:",
        ("tests/core/sim/test_control.py::test_what_a_web_page_can_send_is_refused",),
    ),
    Mutation(
        "M9",
        "the demo takes any reply for the expected one",
        "core/roost/demo/expected.py",
        "    return len(said) == 1 and re.fullmatch(wanted, said[0]) is not None",
        "    return len(said) == 1",
        ("tests/core/demo/test_expected.py::test_the_expected_reply_is_one_and_whole",),
    ),
    Mutation(
        "DATA",
        "a data folder that its group can write to is used unasked",
        "core/roost/config.py",
        "    if mode & stat.S_IWGRP and not group_writable:\n",
        "    if False:\n",
        ("tests/core/config/test_layers.py::test_the_mode_of_an_existing_data_folder_is_left_alone",),
    ),
    Mutation(
        "GATEWAY",
        "a message of the main gateway is not checked for its outline",
        "core/roost/gateway.py",
        "        _check(payload, first=not self.greeted)\n",
        "",
        ("tests/core/test_gateway.py::test_a_damaged_frame_costs_at_most_its_connection",),
    ),
    Mutation(
        "IDENTIFY",
        "sessions that Discord ends at once begin as fast as ever",
        "core/roost/identifies.py",
        "    return float(min(WINDOW_S * 2 ** (min(number, 16) - 1), LONGEST_PAUSE_S))",
        "    return WINDOW_S",
        ("tests/core/test_identifies.py::test_sessions_that_discord_ends_at_once_begin_ever_more_slowly",),
    ),
    Mutation(
        "STOP",
        "a stop that did not reach Discord counts as one that did",
        "core/roost/gateway.py",
        "        return self._session_id is not None and not self.said_goodbye",
        "        return False",
        ("tests/faults/test_gateway_frames.py::test_a_stop_that_does_not_reach_discord_says_so",),
    ),
    Mutation(
        "poison",
        "one audio message against the rules ends the speech worker",
        STT + "worker/pipes.py",
        "            inbox.refuse(audio.reason)\n",
        "            os._exit(4)\n",
        ("tests/faults/test_poison.py::test_messages_that_break_the_rules_are_dropped_and_counted",),
    ),
    Mutation(
        "poison",
        "an utterance is sent to every new worker that it kills",
        STT + "suspects.py",
        "            if tries[cause] > 1:\n                utterances[key] = last\n",
        "            if tries[cause] > 100:\n                utterances[key] = last\n",
        ("tests/stt/test_suspects.py::test_of_a_batch_only_the_utterance_that_kills_again_is_given_up",),
    ),
    Mutation(
        "poison",
        "one server's speech uses up the whole crash budget",
        STT + "engine.py",
        "        if not people & blamed:\n",
        "        if True:\n",
        ("tests/stt/test_suspects.py::test_one_owner_or_speaker_uses_up_one_of_the_crash_budget",),
    ),
    Mutation(
        "poison",
        "a caption that meets a rate limit is lost",
        STT + "captioner.py",
        "        if refusal not in WAITS:\n            self._drop_doubt()\n",
        "        if True:\n            self._drop_doubt()\n",
        ("tests/stt/test_captions_kept.py::test_what_is_not_taken_for_now_comes_later_together",),
    ),
    Mutation(
        "poison",
        "a member may ask for many exports at once",
        STT + "reading.py",
        "        if user_id in self._members:\n",
        "        if False:\n",
        ("tests/stt/test_reading.py::test_turns_are_bounded_by_member_server_and_bot",),
    ),
    Mutation(
        "M10",
        "a Deny without a reason is taken as it comes",
        "core/roost/hook_answers.py",
        "    if not fits(answer):\n",
        "    if False:\n",
        ("tests/faults/test_plugins_that_harm.py::test_check_that_answers_rubbish_refuses_and_is_named",),
    ),
    Mutation(
        "M11",
        "a plugin may take over the stop signals",
        "core/roost/signals.py",
        "    if not own or not _in_charge():\n",
        "    if True:\n",
        ("tests/faults/test_plugins_that_harm.py::test_plugin_that_takes_over_the_stop_signals_is_named",),
    ),
    Mutation(
        "M12",
        "an index of a plugin's table has the name of another plugin's table",
        "core/roost/store/tables.py",
        'return f"ix_{table}_{what}"',
        'return f"{table}_{what}"',
        ("tests/core/store/test_table_names.py::test_plugins_of_any_names_keep_their_own",),
    ),
    Mutation(
        "stops",
        "does not leave when Discord does not take the answer",
        "core/roost/deferral.py",
        "    deferred, done = await asyncio.gather(ctx.defer(ephemeral=ephemeral), work, return_exceptions=True)\n",
        "    deferred = await ctx.defer(ephemeral=ephemeral)\n    done = await work\n",
        ("tests/faults/test_unanswered_stops.py::test_leave_that_cannot_be_answered_is_carried_out",),
    ),
    Mutation(
        "blame",
        "blames the plugin for answers of Discord that cannot be read",
        "core/roost/plugins/blame.py",
        "    return Blame.DISCORD if is_unreadable_answer(error) else Blame.PLUGIN\n",
        "    return Blame.PLUGIN\n",
        ("tests/faults/test_blame.py::test_an_answer_of_another_shape_is_no_failure_of_the_plugin",),
    ),
    Mutation(
        "M61",
        "a child that could be started but not watched is forgotten",
        "core/roost/processes.py",
        "        if self._forked is None or self._forked.get_returncode() is not None:\n",
        "        if True:\n",
        ("tests/core/test_processes.py::test_a_process_that_cannot_be_watched_is_killed_and_reaped",),
    ),
    Mutation(
        "M62",
        "a stop ends with an error where the machine allows no further thread",
        "core/roost/backstop.py",
        "        except RuntimeError as error:\n",
        "        except ZeroDivisionError as error:\n",
        ("tests/core/test_backstop.py::test_without_a_thread_the_kernel_ends_the_process",),
    ),
    Mutation(
        "sync",
        "waits for limited guilds before the next sync",
        "core/roost/commands/registry.py",
        "            if not done:\n",
        "            if not done and not await asyncio.wait({task}):\n",
        ("tests/core/test_command_sync.py::test_guild_that_is_limited_does_not_hold_up_one_that_comes_later",),
    ),
    Mutation(
        "pauses",
        "resumes a plugin that has not stopped yet",
        "core/roost/plugins/pauses.py",
        "        await asyncio.wait({stop})\n        if self._open",
        "        if self._open",
        ("tests/core/test_pauses.py::test_pause_that_is_ended_while_the_plugin_stops_resumes_it_after_its_stop",),
    ),
    Mutation(
        "store",
        "makes the tables before it holds the database",
        "core/roost/store/__init__.py",
        "as database, hold_store(database, holder) as hold:\n        await _prepare(database)\n"
        "        store = Store(database)\n        async with removing(store.traces), aclosing(store.operations):\n",
        "as database:\n        await _prepare(database)\n"
        "        store = Store(database)\n"
        "        async with hold_store(database, holder) as hold, removing(store.traces):\n",
        ("tests/core/store/test_holding.py::test_a_process_that_is_refused_changes_no_table",),
    ),
    Mutation(
        "store",
        "takes a full disk for a busy database",
        "core/roost/store/database.py",
        "            return StoreError(words, cause=unusable, retryable=True)\n",
        "            return StoreError(words, retryable=True)\n",
        ("tests/core/store/test_causes.py::test_result_code_of_sqlite_is_a_cause",),
    ),
    Mutation(
        "commands",
        "leaves a member unanswered when a plugin has dealt with the error",
        "core/roost/commands/failures.py",
        " and await asyncio.shield(offered) and await is_answered(ctx):\n",
        " and await asyncio.shield(offered):\n",
        (
            "tests/faults/test_blame.py"
            "::test_a_member_whom_nobody_answered_is_answered_though_a_plugin_dealt_with_the_error",
        ),
    ),
    Mutation(
        "mainloop",
        "ends the bot when a plugin stops the event loop",
        "core/roost/mainloop.py",
        "                    if main.done() or stops.last is None:\n",
        "                    if True:\n",
        ("tests/faults/test_plugins_that_harm.py::test_plugin_that_ends_the_event_loop_does_not_end_the_bot",),
    ),
    Mutation(
        "voice",
        "takes every cancellation of a voice actor for its owner's",
        VOICE + "guild.py",
        "                    if self._host.ends_actors():\n",
        "                    if True:\n",
        ("tests/faults/test_plugins_that_harm.py::test_voice_is_left_when_a_plugin_cancels_its_tasks",),
    ),
    Mutation(
        "rest",
        "believes whatever an answer says of its limit",
        "core/roost/rest_buckets.py",
        "        if not math.isfinite(reset_after) or limit_header < 1 or remaining_header > limit_header:\n",
        "        if False:\n",
        ("tests/core/test_rest_buckets.py::test_requests_go_on_whatever_an_answer_says_of_its_limit",),
    ),
    Mutation(
        "consent",
        "lets a withdrawn utterance go on to the transcription service",
        STT + "worker/engines/remote.py",
        "        forget = utterance.withdrawal.subscribe(wire.cut)\n",
        "        wire = _Wire(Withdrawal())\n        forget = utterance.withdrawal.subscribe(wire.cut)\n",
        ("tests/stt/test_remote.py::test_rest_of_a_withdrawn_utterance_does_not_leave_the_machine",),
    ),
    Mutation(
        "consent",
        "shows a line that a plugin failed to check",
        STT + "transcription.py",
        "            if asked.called and not asked.worked:\n",
        "            if False:\n",
        ("tests/faults/test_withdrawn.py::test_line_that_its_plugin_did_not_see_through_is_dropped[raises]",),
    ),
    Mutation(
        "consent",
        "leaves an export with withdrawn words at Discord",
        STT + "transcript_commands.py",
        "        if not all([await _deleted(delete) for delete in deletes]):\n",
        "        if False:\n",
        ("tests/faults/test_withdrawn.py::test_answer_under_way_holds_no_withdrawn_words[second-part-withdrawn]",),
    ),
    Mutation(
        "R170",
        "a ghost stays where voice is switched off",
        "core/roost/plugins/host.py",
        "            return always\n",
        "            return False\n",
        ("tests/faults/test_kills.py::test_a_ghost_ends_where_voice_is_switched_off",),
    ),
    Mutation(
        "R171",
        "a dead journal is evidence against any session of its guild",
        "plugins/voice/roost_voice/journal.py",
        "return self.session_sha256 is None or self.session_sha256 == session_hash(session_id)",
        "return True",
        ("tests/voice/actor/test_parts.py::test_a_journal_is_evidence_of_the_session_that_it_names",),
    ),
    Mutation(
        "R172",
        "a database that is replaced on its server is not noticed",
        "core/roost/store/holding.py",
        "        if row is None or (row",
        "        if False and (row",
        ("tests/core/store/test_holding.py::test_a_database_that_is_taken_away_is_lost",),
    ),
    Mutation(
        "poison",
        "a transcription that is started again has the muted heard again",
        STT + "suspects.py",
        "                death.ends_s = min(death.ends_s, death.at_s + FORGIVEN_S)\n",
        "                death.ends_s = now\n",
        ("tests/stt/test_suspects.py::test_a_new_session_forgives_a_death_only_when_it_is_old",),
    ),
    Mutation(
        "poison",
        "one speaker in many servers uses up the whole crash budget",
        STT + "engine.py",
        "        people = {person for party in suspected for person in party}\n",
        "        people = {owner for owner, _ in suspected}\n",
        ("tests/stt/test_suspects.py::test_one_owner_or_speaker_uses_up_one_of_the_crash_budget",),
    ),
    Mutation(
        "R177",
        "a command ends because Discord took its first answer the first time",
        "core/roost/rest_buckets.py",
        "            if error.code != ALREADY_ANSWERED or not repeats:\n",
        "            if True:\n",
        ("tests/core/test_rest_buckets.py::test_only_an_answer_that_was_sent_twice_counts_as_given",),
    ),
    Mutation(
        "R177",
        "a command goes on that other software has answered",
        "core/roost/rest_buckets.py",
        "            if error.code != ALREADY_ANSWERED or not repeats:\n",
        "            if error.code != ALREADY_ANSWERED:\n",
        ("tests/core/test_rest_buckets.py::test_only_an_answer_that_was_sent_twice_counts_as_given",),
    ),
    Mutation(
        "voice",
        "decrypts what nobody may hear",
        VOICE + "protocol/receive.py",
        "        if not self._wants(user_id):\n",
        "        if False:\n",
        ("tests/voice/protocol/test_receive.py::test_what_nobody_may_hear_is_not_decrypted",),
    ),
    Mutation(
        "audience",
        "whoever can see a room counts as able to be in it",
        "core/roost/audience.py",
        "            for bit in (VIEW, CONNECT)\n            for clauses",
        "            for bit in (VIEW,)\n            for clauses",
        ("tests/core/test_audience.py::test_the_bound_is_what_trying_every_set_of_roles_finds",),
    ),
    Mutation(
        "audience",
        "captions go on while others can read along",
        STT + "captioner.py",
        "        if self.held:\n            doubtful = ",
        "        if False:\n            doubtful = ",
        ("tests/stt/test_guard.py::test_captions_pause_while_somebody_could_read_along",),
    ),
    Mutation(
        "audience",
        "the status names the talkers of a room to those outside",
        "plugins/voice/roost_voice/commands.py",
        "            if session is not None and not can_be_in(bot.cache, ctx.member, session.channel_id):\n",
        "            if False:\n",
        ("tests/faults/test_audience.py::test_somebody_outside_learns_nothing_of_the_room",),
    ),
    Mutation(
        "R178",
        "commands that Discord had no answer for are never sent again",
        "core/roost/commands/registry.py",
        "        self._ask_again(guild_id, always=always)\n",
        "",
        ("tests/faults/test_commands_at_discord.py::test_commands_that_discord_had_no_answer_for_are_sent_again",),
    ),
    Mutation(
        "deletion",
        "does not rebuild the file after a deletion",
        "core/roost/store/traces.py",
        "        if self._rebuilt < asked:\n            await self._rebuild()\n",
        "",
        ("tests/core/store/test_erasure.py::test_nothing_is_left_in_any_file_of_sqlite",),
    ),
    Mutation(
        "deletion",
        "leaves the deleted rows in the write-ahead log",
        "core/roost/store/traces.py",
        "        return await self._empty_log()\n",
        "        return True\n",
        ("tests/core/store/test_erasure.py::test_nothing_is_left_in_any_file_of_sqlite",),
    ),
    Mutation(
        "deletion",
        "forgets that traces are to be removed when the process ends",
        "core/roost/store/traces.py",
        "            await self._operations.run(self._want())\n            began = True\n",
        "            began = True\n",
        ("tests/core/store/test_erasure.py::test_what_a_killed_process_left_is_removed_after_the_next_start",),
    ),
    Mutation(
        "deletion",
        "takes anybody's press for a confirmation",
        "core/roost/confirming.py",
        "        elif button.user_id != int(interaction.user.id):\n",
        "        elif button.user_id == 0:\n",
        ("tests/core/test_confirming.py::test_another_member_cannot_press",),
    ),
    Mutation(
        "R179",
        "a caption is posted again whose confirmation was lost",
        STT + "boards.py",
        "            nonce=nonce or new_nonce(),\n",
        "",
        ("tests/faults/test_captions_kept.py::test_caption_whose_confirmation_is_lost_is_posted_once",),
    ),
    Mutation(
        "consent",
        "gives withdrawn words up after one edit that Discord did not take",
        STT + "captioner.py",
        "                self._hand_over(page, board)\n            else:\n",
        "                pass\n            else:\n",
        ("tests/stt/test_captions_kept.py::test_withdrawn_words_are_taken_back_although_the_next_edits_fail",),
    ),
    Mutation(
        "captions",
        "posts a caption whose answer was lost under a new nonce",
        STT + "captioner.py",
        "        doubt = self._doubt = doubt or _Doubt(new_nonce(), loop.time())\n",
        "        doubt = self._doubt = _Doubt(new_nonce(), loop.time())\n",
        ("tests/stt/test_captions_kept.py::test_caption_whose_answer_is_lost_appears_once",),
    ),
    Mutation(
        "NOTICE",
        "who comes after the notice is heard at once",
        VOICE + "session.py",
        "told = sees_all and user_id in self._shown and not",
        "told = sees_all and not",
        ("tests/voice/actor/test_session.py::test_only_who_was_there_when_the_notice_was_posted_is_heard",),
    ),
    Mutation(
        "NOTICE",
        "a notice lasts over the end of what it told of",
        VOICE + "session.py",
        "        self._facts_told &= facts\n",
        "        pass\n",
        ("tests/voice/actor/test_session.py::test_hook_frames_only_with_an_implementer",),
    ),
    Mutation(
        "NOTICE",
        "an agreement covers every service",
        "core/roost/consent.py",
        '            and needed.services in ("", self.services)\n',
        "",
        ("tests/core/store/test_consent.py::test_an_agreement_covers_what_is_no_wider",),
    ),
    Mutation(
        "NOTICE",
        "a longer time of keeping counts for what was said before it",
        STT + "transcripts.py",
        "        return days if head.kept_days is None else min(days, head.kept_days)",
        "        return days",
        ("tests/stt/test_transcripts.py::test_nothing_is_kept_longer_than_its_speakers_were_told",),
    ),
    Mutation(
        "R173",
        "a start is not given up while it loads plugins",
        "core/roost/app.py",
        '                    await self._unless_stopped(self._host.load_all(self._registry), "load the plugins")\n',
        "                    await self._host.load_all(self._registry)\n",
        ("tests/faults/test_bad_starts.py::test_a_start_that_loads_plugins_ends_at_once_when_it_is_told_to",),
    ),
    Mutation(
        "R174",
        "commands that were on their way at a kill are taken for foreign ones",
        "core/roost/commands/discord_copy.py",
        " or _key(command) in self.sent\n",
        "\n",
        ("tests/faults/test_commands_at_discord.py::test_commands_of_a_killed_bot_are_its_own_at_the_next_start",),
    ),
    Mutation(
        "R175",
        "members of one server have the other servers of its owner muted",
        STT + "suspects.py",
        "DEATHS_OF_OWNER = 24\n",
        "DEATHS_OF_OWNER = 12\n",
        (
            "tests/stt/test_suspects.py::test_one_server_is_muted_when_many_of_its_members_kill_and_no_other_of_its_owner",
        ),
    ),
    Mutation(
        "C1",
        "a refusal leaves an agreement that is under way",
        "core/roost/store/decisions.py",
        "        self._supersede(key)\n        return self._withdraw(key, False, _Kind.REFUSAL)\n",
        "        return self._withdraw(key, False, _Kind.REFUSAL)\n",
        ("tests/core/store/test_decisions.py::test_refusal_counts_at_once_and_ends_an_agreement_that_is_under_way",),
    ),
    Mutation(
        "C2",
        "a refusal is said to be kept before it is on disk",
        "core/roost/store/withdrawals.py",
        "            self._disk.sync()\n        self._doubtful -= written\n",
        "            pass\n        self._doubtful -= written\n",
        ("tests/core/store/test_withdrawals.py::test_machine_that_stops_at_any_byte_loses_nothing_that_was_kept",),
    ),
    Mutation(
        "audience",
        "who reads along is asked about the room that the bot is in now",
        STT + "plugin.py",
        "is_wider(self.bot, guild_id, transcription.room_id, transcription.shown_in),",
        "is_wider(self.bot, guild_id, session.channel_id, transcription.shown_in),",
        ("tests/stt/test_guard.py::test_words_held_back_stay_so_while_a_drag_ends_the_transcription",),
    ),
    Mutation(
        "audience",
        "words held back in one room wait for the next one",
        STT + "transcription.py",
        "        if not posted:\n            self.captioner.give_up()\n        return posted\n",
        "        return posted\n",
        ("tests/stt/test_guard.py::test_words_held_back_in_one_room_are_not_shown_after_a_move_to_another",),
    ),
    Mutation(
        "deletion",
        "deletes lines of a message where they were before it was rewritten",
        STT + "posted.py",
        "        known = self._pending.get(message) or self._speakers.get(message)\n",
        "        known = None\n",
        ("tests/stt/test_posted.py::test_a_message_rewritten_without_the_member_stays_as_it_is",),
    ),
    Mutation(
        "deletion",
        "deletes lines of a message that is not as it was noted",
        STT + "posted.py",
        "            if len(lines) != len(speakers):\n",
        "            if not lines:\n",
        ("tests/stt/test_posted.py::test_lines_that_are_not_as_they_were_noted_stay",),
    ),
    Mutation(
        "deletion",
        "writes again who began a transcription after they are forgotten",
        STT + "transcripts.py",
        "            keeper.forget(user_id)\n",
        "            pass\n",
        ("tests/stt/test_transcripts.py::test_who_began_a_transcription_is_not_written_after_they_are_forgotten",),
    ),
    Mutation(
        "deletion",
        "counts a deletion only after its wish is stored",
        "core/roost/store/traces.py",
        "            if self._asked != asked or self._under_way:\n",
        "            if self._asked != asked:\n",
        ("tests/core/store/test_erasure.py::test_the_wish_of_a_deletion_that_begins_outlives_the_end_of_another",),
    ),
    Mutation(
        "consent",
        "leaves words of forgotten members under way where nobody has to agree",
        VOICE + "session.py",
        "        if not self._ask_anew(user_id) and self._consent.decision(self.guild_id, user_id) is None:\n",
        "        if not self._ask_anew(user_id) and self.closed:\n",
        ("tests/voice/actor/test_session.py::test_a_forgotten_member_is_purged_although_nobody_has_to_agree",),
    ),
    Mutation(
        "consent",
        "has a notice on its way count for members who are forgotten meanwhile",
        VOICE + "session.py",
        "        for informed in (self._shown, self._here):\n",
        "        for informed in (self._shown,):\n",
        ("tests/voice/actor/test_session.py::test_a_notice_on_its_way_does_not_count_for_who_is_forgotten_meanwhile",),
    ),
    Mutation(
        "consent",
        "becomes text of forgotten members where nobody has to agree",
        STT + "plugin.py",
        "        if self._ctx is None or self._ctx.consent.decision(guild_id, user_id):\n",
        "        if self._ctx is None or self._ctx.consent.allows(guild_id, user_id):\n",
        ("tests/stt/test_plugin.py::test_who_is_forgotten_where_nobody_has_to_agree_is_dropped_from_every_stage",),
    ),
    Mutation(
        "consent",
        "takes an agreement to captions for one to any plugin",
        VOICE + "session.py",
        "        return frozenset((*(each.sends_to for each in facts), *plugins))\n",
        "        return frozenset(each.sends_to for each in facts)\n",
        ("tests/voice/actor/test_session.py::test_other_facts_are_told_and_wider_ones_asked_for",),
    ),
    Mutation(
        "captions",
        "a message on its way at a move is edited after it",
        STT + "captioner.py",
        "            self._leave_behind(checked, board)\n            return None\n",
        "            pass\n",
        ("tests/stt/test_captions_kept.py::test_message_on_its_way_at_a_move_is_not_edited_after_it",),
    ),
    Mutation(
        "NOTICE",
        "takes a notice for an agreement that others read along",
        VOICE + "session.py",
        " in self._shown and not self._has_onlookers\n",
        " in self._shown\n",
        ("tests/voice/actor/test_session.py::test_where_others_read_along_members_agree_to_that",),
    ),
    Mutation(
        "captions",
        "what waited is posted where its speaker cannot see it",
        STT + "captioner.py",
        "        lines = deque(line for line in self._lines if not line.user_id or sees(line.user_id))\n",
        "        lines = self._lines\n",
        ("tests/stt/test_captions_kept.py::test_words_do_not_move_to_where_their_speaker_cannot_see_them",),
    ),
    Mutation(
        "consent",
        "posts a notice for each member who was forgotten in the call",
        VOICE + "session.py",
        "            for user_id in self.humans - self._shown - self._forgotten\n",
        "            for user_id in self.humans - self._shown\n",
        ("tests/voice/actor/test_session.py::test_who_is_forgotten_needs_another_notice_or_agrees",),
    ),
    Mutation(
        "consent",
        "tells everybody what a plugin says of one member",
        VOICE + "hearing.py",
        '        said = f": {found.reason}" if found.reason and user_id == reader_id else ""\n',
        '        said = f": {found.reason}" if found.reason else ""\n',
        ("tests/voice/actor/test_hearing.py::test_what_a_plugin_says_of_a_member_is_read_by_them_alone",),
    ),
    Mutation(
        "consent",
        "asks a plugin anew for the reply, and forgets what it refused",
        VOICE + "session.py",
        "            found = self._refused_by(user_id)\n",
        "            found = self._refusal(user_id)\n",
        ("tests/voice/actor/test_session.py::test_why_somebody_is_not_heard_by_a_plugin",),
    ),
    Mutation(
        "consent",
        "takes a message for deleted whose last words go while it is edited",
        STT + "captioner.py",
        "            if not written and self._page is page:\n",
        "            if not page.text and self._page is page:\n",
        ("tests/stt/test_captions.py::test_a_page_is_deleted_when_its_last_words_are_withdrawn_during_an_edit",),
    ),
    Mutation(
        "NOTICE",
        "posts what was said before captions were switched on",
        STT + "transcription.py",
        "return self._told_facts is not None and self._told_facts.shown and self._shown()",
        "return self._shown()",
        ("tests/stt/test_caption_modes.py::test_what_was_said_while_no_captions_were_posted_is_not_posted_later",),
    ),
    Mutation(
        "captions",
        "a plugin gives a member's words to somebody else",
        STT + "transcription.py",
        "                if _whose(asked.answer) != _whose(draft):\n",
        "                if False:\n",
        ("tests/stt/test_transcripts.py::test_a_line_that_a_plugin_gives_to_somebody_else_is_dropped",),
    ),
    Mutation(
        "captions",
        "the words that a plugin removed are kept with their times",
        STT + "transcription.py",
        "    if after.text != before.text and after.words == before.words:\n",
        "    if False:\n",
        ("tests/stt/test_transcripts.py::test_the_times_of_words_are_kept_only_with_the_text_they_belong_to",),
    ),
    Mutation(
        "consent",
        "hears members while a plugin has yet to decide about the session",
        VOICE + "session.py",
        "        if self._asked:\n",
        "        if False:\n",
        ("tests/faults/test_guards.py::test_nobody_is_heard_until_a_plugin_has_decided_about_a_running_session",),
    ),
    Mutation(
        "E1",
        "a leave where foreign software took the bot's place",
        VOICE + "actor/core.py",
        "        return session_id not in self._own_session_ids\n",
        "        return False\n",
        ("tests/voice/actor/test_shared_token.py",),
    ),
    Mutation(
        "E2",
        "a join that takes the place of foreign software",
        VOICE + "sessions.py",
        "        return there and not self._holds(guild_id)\n",
        "        return False\n",
        ("tests/faults/test_joining.py::test_foreign_software_takes_the_place_and_keeps_it",),
    ),
    Mutation(
        "captions",
        "hears people though nobody will read it",
        STT + "plugin.py",
        "        if not checks.serves(new):\n",
        "        if False:\n",
        ("tests/faults/test_where_captions_go.py::test_nobody_is_heard_for_nothing",),
    ),
    Mutation(
        "captions",
        "posts captions for members where they may not write",
        STT + "commands.py",
        "    checks.asker_can_write(plugin.bot, ctx.member, channel_id, permissions, within=int(ctx.channel_id))\n",
        "",
        ("tests/faults/test_where_captions_go.py::test_the_bot_writes_nowhere_for_members_who_may_not",),
    ),
    Mutation(
        "E3",
        "one pool of threads for the bot and all plugins",
        "core/roost/threads.py",
        "        return self._run(executor or self._pool_for(sys._getframe(1), func), func, *args)\n",
        "        return self._run(executor, func, *args)\n",
        ("tests/core/test_threads.py",),
    ),
    Mutation(
        "E4",
        "a plugin that takes every connection of the database",
        "core/roost/store/__init__.py",
        "        turns = self._turns.setdefault(plugin, Turns(self._database, self.operations))\n",
        "        turns = self._database\n",
        ("tests/faults/test_fair_shares.py::test_decisions_do_not_wait_for_a_plugin_that_floods_the_database",),
    ),
    Mutation(
        "captions",
        "logs the words that a plugin's error holds",
        "core/roost/dispatch.py",
        "    return info is not None and info.private and not is_error(error, *OWN_ERRORS)\n",
        "    return False\n",
        ("tests/faults/test_withdrawn.py::test_errors_of_plugins_bring_no_words_into_the_log",),
    ),
    Mutation(
        "captions",
        "sends a transcript that is deleted meanwhile",
        STT + "reading.py",
        "        if key == self._key:\n",
        "        if False:\n",
        ("tests/stt/test_reading.py::test_a_transcript_that_is_deleted_is_read_no_further",),
    ),
    Mutation(
        "captions",
        "forgets which captions it offered to delete",
        STT + "plugin.py",
        "        self.posted.offered(user_id, found)\n",
        "",
        ("tests/stt/test_transcripts.py::test_captions_that_a_forgotten_member_left_are_offered_again",),
    ),
    Mutation(
        "captions",
        "captions go on until a look has found that others read along",
        STT + "audience_watch.py",
        '        """Hold captions back, and look again."""\n        self._captioner.hold()\n',
        '        """Hold captions back, and look again."""\n',
        ("tests/stt/test_who_reads.py::test_a_short_walk[20]",),
    ),
    Mutation(
        "captions",
        "a change of the voice room alone is taken for none of the readers",
        STT + "plugin.py",
        "int(event.channel_id) in (room_id, int(place.channel.id))",
        "int(event.channel_id) == int(place.channel.id)",
        ("tests/stt/test_who_reads.py::test_a_short_walk[20]",),
    ),
    Mutation(
        "captions",
        "who may read a transcript is asked before it is read, and not after",
        STT + "transcript_commands.py",
        "is_readable = partial(may_read, plugin.bot, asker, head)\n    if",
        "is_readable = lambda: True\n    if",
        ("tests/faults/test_readers_in_time.py::test_reader_who_loses_the_right_meanwhile_gets_nothing",),
    ),
    Mutation(
        "captions",
        "a page or a file that waits in hikari is sent whoever may read it then",
        STT + "transcript_commands.py",
        "        with sent_only_if(is_readable):\n",
        "        with contextlib.nullcontext():\n",
        ("tests/faults/test_readers_in_time.py::test_reader_who_loses_the_right_while_the_answer_waits_gets_nothing",),
    ),
    Mutation(
        "E5",
        "a store whose closing nothing bounds",
        "core/roost/app.py",
        "        self._backstop.start()\n",
        "",
        ("tests/faults/test_stops.py::test_a_database_that_hangs_does_not_keep_the_process",),
    ),
    Mutation(
        "captions",
        "keeps words longer than told after a change in a pause",
        STT + "transcription.py",
        "        return self._told_facts != facts or self.keeper.head.kept_days != facts.kept_days\n",
        "        return self._told_facts != facts\n",
        ("tests/faults/test_notice_stands.py::test_longer_keeping_taken_back_in_a_pause_does_not_count_later",),
    ),
    Mutation(
        "captions",
        "what waited is posted elsewhere in a pause, without a notice there",
        STT + "plugin.py",
        "            if not transcription.paused and await session.capturing():\n",
        "            if transcription.paused or await session.capturing():\n",
        ("tests/stt/test_guard.py::test_captions_that_wait_in_a_pause_go_elsewhere_after_it",),
    ),
    Mutation(
        "captions",
        "tells no later process of withdrawn words that are still at Discord",
        STT + "recalls.py",
        "            self._noted(page.message, cut)\n",
        "            pass\n",
        ("tests/stt/test_caption_walks.py",),
    ),
    Mutation(
        "captions",
        "takes the noted lines out of a message that has others by now",
        STT + "pages.py",
        "        if self.count and count == self.count:\n",
        "        if self.count:\n",
        ("tests/stt/test_posted.py",),
    ),
    Mutation(
        "captions",
        "keeps transcripts for ever while its plugin is quarantined",
        "core/roost/plugins/plugin_context.py",
        "        await self._scope.end(tasks - self._always)\n",
        "        await self._scope.end(tasks)\n",
        ("tests/faults/test_deleted.py::test_transcripts_expire_while_their_plugin_is_quarantined",),
    ),
    Mutation(
        "captions",
        "ends a transcript though a withdrawn line of it is stored",
        STT + "transcripts.py",
        "        await self._erase_withdrawn(record)\n        await self._change",
        "        await self._change",
        (
            "tests/stt/test_transcripts.py::"
            "test_withdrawn_line_that_the_store_keeps_is_deleted_at_the_next_start[withdrawn]",
        ),
    ),
    Mutation(
        "hooks",
        "a plugin's coroutine that outlives its cancellation is waited for",
        "core/roost/blocking.py",
        "        self._overdue = True\n        self._task.cancel()\n",
        "        self._timer = None\n",
        ("tests/core/test_dispatch.py::test_a_hook_cannot_undo_the_cancellation_of_its_caller",),
    ),
    Mutation(
        "consent",
        "a file of refusals that was cut short counts as whole",
        "core/roost/store/withdrawals.py",
        "    return (MARK + b",
        "    return (FREE + b",
        ("tests/core/store/test_withdrawals.py::test_part_of_a_file_keeps_its_records_and_is_marked",),
    ),
    Mutation(
        "answers",
        "answers of commands wait until failures are handled",
        "core/roost/dispatch.py",
        "if offered is not None and not INFO[hook].prompt:",
        "if offered is not None:",
        ("tests/faults/test_answers_in_time.py::test_commands_are_answered_while_all_hooks_hang",),
    ),
    Mutation(
        "consent",
        "agreements of an older database count",
        "core/roost/consent.py",
        "        elif seen.number < stamp.number:\n",
        "        elif seen.number < 0:\n",
        ("tests/core/store/test_older_database.py::test_folder_that_knows_one_database_does_not_trust_another",),
    ),
    Mutation(
        "consent",
        "the data folder forgets the refusals that a database has",
        "core/roost/consent.py",
        "                await self._remember(stamp)\n",
        "",
        ("tests/core/store/test_older_database.py::test_newer_database_that_is_put_back_is_still_good",),
    ),
    Mutation(
        "answers",
        "nobody reads that a deferred command takes long",
        "core/roost/deferral.py",
        "            await late()\n",
        "            pass\n",
        (
            "tests/faults/test_answers_in_time.py"
            "::test_members_read_that_a_database_which_does_not_answer_is_waited_for",
        ),
    ),
    Mutation(
        "r3",
        "a deletion overtakes a commit that was not answered",
        "core/roost/store/database.py",
        "                    self._doubtful.add(writer)\n",
        "                    pass\n",
        ("tests/core/store/test_lost_answers.py::test_row_whose_commit_was_not_answered_is_deleted",),
    ),
    Mutation(
        "r3",
        "a start overtakes the last commit of the process before",
        "core/roost/store/holding.py",
        "        if opening:\n            await self._database.settle(opening=True)\n",
        "",
        ("tests/core/store/test_lost_answers.py::test_next_process_waits_for_commits_of_the_one_before",),
    ),
    Mutation(
        "notice",
        "the notice of a measurement covers captions",
        VOICE + "session.py",
        "        if not _are_levels(facts) or asyncio.get_running_loop().time() > self._rests_until:\n",
        "        if asyncio.get_running_loop().time() > self._rests_until:\n",
        ("tests/voice/actor/test_session.py::test_measurements_in_a_row_share_a_notice",),
    ),
    Mutation(
        "hooks",
        "a hook that cancels the task it is called in ends that task",
        "core/roost/strays.py",
        "        call.refuse(_place_of(asks))\n        return True\n",
        "        return super().cancel(msg)\n",
        ("tests/core/test_strays.py",),
    ),
    Mutation(
        "hooks",
        "lasting work that a plugin cancels ends in silence",
        "core/roost/scopes.py",
        "        if self._over or not task.cancelled() or self._scope.is_ending(task):\n",
        "        if task.done():\n",
        ("tests/core/test_scopes.py",),
    ),
    Mutation(
        "r3",
        "a start whose reload would not go on is said to have failed",
        STT + "plugin.py",
        "        await self._note(session)\n        await self._notice_stands(session, channel_id)",
        "        await self._remember(session)\n        await self._notice_stands(session, channel_id)",
        ("tests/faults/test_lost_answers.py::test_replies_say_what_holds_while_the_database_takes_nothing",),
    ),
    Mutation(
        "hearing",
        "the speech worker allows an image of its memory",
        "plugins/stt/roost_stt/worker/__main__.py",
        "    leave_no_core()\n",
        "",
        ("tests/faults/test_speech_process.py::test_a_crash_leaves_no_image_of_the_memory",),
    ),
    Mutation(
        "hearing",
        "a plugin that is switched off keeps its sink",
        VOICE + "sessions.py",
        "                actor.session.detach_all_of(name)\n",
        "                pass\n",
        ("tests/faults/test_plugins_that_harm.py::test_a_plugin_hears_by_its_own_sink_only_while_it_is_on_and_told",),
    ),
    Mutation(
        "L6",
        "requests for members use up what voice needs",
        "core/roost/gateway.py",
        '        if data["op"] not in _UNPACED:',
        '        if data["op"] not in _UNPACED and data["op"] != _MEMBERS:',
        ("tests/faults/test_many_servers.py::test_requests_for_the_members_of_many_servers_leave_room_for_voice",),
    ),
    Mutation(
        "store",
        "a plugin that cancels all tasks cancels those who wait for the store",
        "core/roost/store/database.py",
        "        if task.cancelled():\n            raise StoreError(",
        "        if task.cancelled() and not task.done():\n            raise StoreError(",
        ("tests/core/store/test_operations.py::test_operation_that_something_else_cancels_fails_alone",),
    ),
    Mutation(
        "r3",
        "a hook that is left behind in the store has failed",
        "core/roost/blocking.py",
        "                    cancellation.raise_if_asked(trace)\n",
        "                    cancellation.raise_if_asked()\n",
        ("tests/core/test_blame.py",),
    ),
    Mutation(
        "r3",
        "a bot takes its own lost session for another process",
        "core/roost/store/holding.py",
        "            if not opening and found == self._holder:\n",
        "            if False:\n",
        ("tests/core/store/test_holding.py::test_lock_that_the_server_still_gives_to_a_lost_session_is_taken_anew",),
    ),
    Mutation(
        "L6",
        "an unload of voice forgets the leaves that were lost",
        VOICE + "plugin.py",
        "            left = [] if self._followed else await",
        "            left = [] if manager else await",
        ("tests/faults/test_endings.py::test_a_leave_that_is_lost_at_the_unload_is_sent_again",),
    ),
    Mutation(
        "hearing",
        "a caption is sent at its turn although it may not be shown any more",
        STT + "captioner.py",
        " or (self.held and people):\n",
        ":\n",
        ("tests/stt/test_captions_kept.py::test_words_are_not_sent_if_they_may_not_be_shown_when_their_turn_comes",),
    ),
    Mutation(
        "turn",
        "an edit that waited adds words of somebody who may not be shown any more",
        STT + "captioner.py",
        "wanted = self._at_its_turn(board, written) if page.unsure or page.partials else always\n",
        "wanted = always\n",
        ("tests/stt/test_captions_kept.py::test_words_are_not_sent_if_they_may_not_be_shown_when_their_turn_comes",),
    ),
    Mutation(
        "turn",
        "words that waited are posted where captions were before",
        STT + "captioner.py",
        "            is_here = board is self._board and self._ended == ended\n",
        "            is_here = True\n",
        ("tests/stt/test_captions_kept.py::test_words_are_not_sent_if_they_may_not_be_shown_when_their_turn_comes",),
    ),
    Mutation(
        "notice",
        "plugins get words that no notice said were for them",
        STT + "transcription.py",
        "self._hooks.implementers(hook, self.guild_id) if name in told]",
        "self._hooks.implementers(hook, self.guild_id)]",
        ("tests/stt/test_plugin.py::test_plugin_that_comes_in_mid_call_is_named_before_it_gets_words",),
    ),
    Mutation(
        "readers",
        "a reload takes over what was accepted for another channel",
        STT + "plugin.py",
        '"accepts_wide": running.accepts_wide,',
        '"accepts_wide": running.audience.accepted,',
        ("tests/stt/test_guard.py::test_reload_does_not_take_over_what_was_accepted_elsewhere",),
    ),
    Mutation(
        "r3",
        "writes to SQLite do not take turns",
        "core/roost/store/database.py",
        "        if not self.is_sqlite:\n            yield\n",
        "        if True:\n            yield\n",
        ("tests/core/store/test_turns.py::test_writes_to_sqlite_wait_for_one_of_a_plugin_at_most",),
    ),
    Mutation(
        "R345",
        "interrupts the bot's own code where a plugin has called it",
        "core/roost/blocking.py",
        "own_code = own_code or is_own(module)",
        "own_code = False",
        ("tests/core/test_blocking.py::test_plugin_that_calls_the_bot_is_interrupted_in_its_own_code",),
    ),
    Mutation(
        "R345",
        "interrupts code once that catches every interruption",
        "core/roost/blocking.py",
        "self._insists = self._raised",
        "self._insists = False",
        ("tests/core/test_blocking.py::test_plugin_that_catches_every_interruption_is_ended",),
    ),
    Mutation(
        "hearing",
        "a sink that a callback attaches is of nobody, and accepted",
        VOICE + "session.py",
        "        if not plugins:\n            raise UsageError(",
        "        if False:\n            raise UsageError(",
        ("tests/voice/actor/test_session.py::test_a_sink_of_nobody_that_is_known_is_refused",),
    ),
    Mutation(
        "hearing",
        "a plugin says of itself that it only measures",
        VOICE + "session.py",
        "dataclasses.replace(facts, use=Use.PLUGIN, plugin=each)",
        "dataclasses.replace(facts, plugin=each)",
        ("tests/voice/actor/test_session.py::test_a_sink_is_of_the_plugin_whose_code_it_is",),
    ),
]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the tests said of a mutation.

    Attributes:
        test: Who noticed, as pytest names it; empty when nobody did.
        seconds: How long that took.
        trouble: Why nothing can be said.
    """

    test: str
    seconds: float
    trouble: str = ""

    @property
    def by(self) -> str:
        return self.test.partition("[")[0].rpartition("/")[2]


def copy_tree(to: Path) -> None:
    """Copy the sources with the times of their files, so that their byte code is good there too."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, to / part)
        elif source.exists():
            shutil.copy2(source, to / part)


def run_tests(tree: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run tests of a copy, with the copy's sources.

    Raises:
        subprocess.TimeoutExpired: It hung.
    """
    paths = [tree / "core", *sorted((tree / "plugins").iterdir())]
    environ = {
        **{key: value for key, value in os.environ.items() if not key.startswith("ROOST_")},
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    # Hypothesis costs a second to import, and few tests use it: they do without its plugin.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:hypothesispytest",
        *tests,
    ]
    return subprocess.run(
        command, cwd=tree, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def judge(mutation: Mutation) -> Verdict:
    """Apply a mutation to a copy of its own and have it tested."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="roost-mutation-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        path = tree / mutation.file
        text = path.read_text(encoding="utf-8")
        found = text.count(mutation.old)
        if found != 1:
            return Verdict("", 0.0, f"no longer applies: its text occurs {found} times in {mutation.file}")
        path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
        try:
            done = run_tests(tree, mutation.tests)
        except subprocess.TimeoutExpired:
            return Verdict("", time.monotonic() - began, "the tests did not end")
        seconds = time.monotonic() - began
        if done.returncode == 0:
            return Verdict("", seconds)
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
        if done.returncode != 1 or not failed:
            return Verdict("", seconds, "the tests could not run:\n" + (done.stdout + done.stderr)[-2000:])
        return Verdict(failed[0], seconds)


def control(tests: tuple[str, ...]) -> str:
    """Tests must pass where nothing was changed, and run the copy's code; what is wrong, else nothing."""
    with tempfile.TemporaryDirectory(prefix="roost-mutation-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        (tree / "tests" / "test_where.py").write_text(
            "import pytest, roost, roost_voice.guild\n\n"
            "pytestmark = pytest.mark.unit\n\n\n"
            "def test_the_copy_is_tested():\n"
            f"    assert roost_voice.guild.__file__.startswith({str(tree)!r})\n"
            f"    assert roost.__file__.startswith({str(tree)!r})\n"
        )
        try:
            done = run_tests(tree, ("tests/test_where.py", *tests))
        except subprocess.TimeoutExpired:
            return f"these did not end in {TIMEOUT_S:.0f} s: {' '.join(tests)}"
        return "" if done.returncode == 0 else done.stdout[-3000:] + done.stderr[-1000:]


def controls(tests: list[str], pool: concurrent.futures.Executor) -> str:
    """What `control` says of tests. A bound of time that others at work have broken gets a second chance, alone."""
    parts = [tuple(tests[start : start + CONTROL_PART]) for start in range(0, len(tests), CONTROL_PART)]
    wrong = list(pool.map(control, parts))
    return "\n".join(filter(None, (control(part) for part, said in zip(parts, wrong, strict=True) if said)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=3, help="mutations tried at once; their tests mostly wait")
    options = parser.parse_args()
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        verdicts = list(pool.map(judge, MUTATIONS))
        wrong = controls(sorted({verdict.test for verdict in verdicts if verdict.test}), pool)
    for mutation, verdict in zip(MUTATIONS, verdicts, strict=True):
        outcome = verdict.by or ("TROUBLE" if verdict.trouble else "SURVIVED")
        print(f"{mutation.leak}  {mutation.what:<66} {verdict.seconds:5.1f} s  {outcome}")
        if verdict.trouble:
            print(f"    {verdict.trouble}")
    if wrong:
        print(f"the tests fail without any mutation too:\n{wrong}")
    caught = sum(bool(verdict.test) for verdict in verdicts)
    print(f"{caught} of {len(MUTATIONS)} caught in {time.monotonic() - began:.0f} s")
    if wrong or any(verdict.trouble for verdict in verdicts):
        return 2
    return 0 if caught == len(MUTATIONS) else 1


if __name__ == "__main__":
    sys.exit(main())
