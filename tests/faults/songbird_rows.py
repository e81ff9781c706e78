"""Where the Songbird driver, and not the actor, decides: fault tests that go another way with it, and why."""

from __future__ import annotations

from fnmatch import fnmatchcase

NO_VOICE = frozenset(
    f"test_{name}.py"
    for name in (
        "audience",
        "bad_starts",
        "blame",
        "captions_kept",
        "commands_at_discord",
        "deleted",
        "fair_shares",
        "guards",
        "large_transcripts",
        "last_word",
        "notice_refused",
        "notice_stands",
        "plugins_that_harm",
        "speech",
        "two_of_anything",
        "unknown_members",
        "withdrawn",
    )
)
"""Files whose tests make no use of the driver that was chosen: what they show does not depend on which one there is."""

DIFFERS: dict[str, tuple[str, ...]] = {
    "after a resume that failed Songbird identifies anew with the same credentials, instead of a fresh join": (
        "test_breaks.py::test_a_broken_connection_that_cannot_be_resumed[[]*",
        "test_breaks.py::test_a_resume_is_refused[[]*",
        "test_breaks.py::test_a_resume_is_not_answered",
        "test_breaks.py::test_a_resume_is_refused_for_good[[]*",
        "test_breaks.py::test_a_leave_while_it_resumes[[]refuse_resume]",
        "test_close_codes.py::test_a_resume_that_fails_leads_to_a_fresh_join[[]*",
    ),
    "Songbird resumes after any close code that it does not know": (
        "test_close_codes.py::test_a_code_that_is_worth_fresh_joins[[]4099-1]",
        "test_close_codes.py::test_a_code_that_is_worth_fresh_joins[[]4010-1]",
        "test_close_codes.py::test_the_cool_down_ends[[]4099-1]",
    ),
    "Songbird does not look at the answers to its heartbeats: a dead connection is found when the system gives it up": (
        "test_breaks.py::test_silence",
        "test_breaks.py::test_silence_that_cannot_be_resumed",
        "test_breaks.py::test_heartbeats_are_answered_with_a_wrong_number",
        "test_breaks.py::test_one_wrong_number_is_forgiven",
        "test_outage.py::test_the_network_is_down[[]60.0-silent-*",
    ),
    "version 4 of the voice gateway, which Songbird asks for, numbers no messages": (
        "test_breaks.py::test_numbers_wrap[[]*",
        "test_breaks.py::test_numbers_repeat[[]*",
    ),
    "Songbird asks for its own address once in a connection, and believes the first answer or fails": (
        "test_handshake.py::test_discovery_is_repeated[[]*",
        "test_handshake.py::test_forged_answers_to_discovery[[]*",
        "test_outage.py::test_joins_over_a_bad_network",
    ),
    "Songbird does not notice that it has become deaf": (
        "test_network.py::test_no_echo_comes_any_more",
        "test_network.py::test_nobody_is_heard_though_somebody_speaks[[]*",
    ),
    "Songbird reports a broken group as often as it sees one, and not at all for frames that it cannot decrypt": (
        "test_encryption.py::test_a_storm_of_damage_ends_in_the_breaker",
        "test_encryption.py::test_frames_that_cannot_be_decrypted_are_recovered_once[[]*",
    ),
    "Songbird stays in a call that stops being end-to-end encrypted": (
        "test_encryption.py::test_a_downgrade_ends_the_session",
        "test_encryption.py::test_a_call_that_is_moved_out_of_a_stage_must_be_encrypted[[]*",
    ),
    "a malformed packet ends Songbird's receiving half with a panic, after which the link is opened anew": (
        "test_hostile_input.py::test_malformed_packets[[]*",
        "test_hostile_input.py::test_everything_at_once",
    ),
    "Songbird sends heartbeats as often as it is asked to, without end or never": (
        "test_member_audio.py::test_a_heartbeat_every_millisecond_is_not_sent",
        "test_member_audio.py::test_a_heartbeat_that_makes_no_sense_ends_the_handshake[[]0]",
        "test_member_audio.py::test_a_heartbeat_that_makes_no_sense_ends_the_handshake[[]1000000000000.0]",
    ),
    "Songbird opens UDP to whatever address the voice server names": (
        "test_member_audio.py::test_media_goes_to_no_address_that_is_not_public[[]*",
    ),
    "Songbird keeps a decoder of 28 KB for every stream of the last minute, however many": (
        "test_speech_load.py::test_ten_thousand_streams_leave_nothing_in_the_bot",
    ),
}
"""Reason -> tests, as patterns of ``file::test[parameters]``. Each must go on failing, or be taken off this list."""


def differs(nodeid: str) -> str | None:
    """Why a test goes another way with Songbird, or None when it is to pass."""
    name = nodeid[nodeid.rindex("/", 0, nodeid.index("::")) + 1 :]
    for reason, patterns in DIFFERS.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return reason
    return None
