"""What can be chosen about the simulated voice servers."""

from __future__ import annotations

import dataclasses

from roost_voice.sim import rtp


@dataclasses.dataclass(frozen=True, slots=True)
class VoiceSettings:
    """Every choice, with what real Discord does as the default.

    Attributes:
        host: Address to listen on, TCP and UDP.
        endpoint_host: Name handed out in tickets; the certificate holds ``localhost`` and ``127.0.0.1``.
        port: TCP port of the voice gateway, 0 for any.
        heartbeat_interval_s: Told in hello.
        heartbeat_limit: A connection silent for this many intervals is closed with 4009.
        modes: Transport encryption offered, in this order.
        require_dave: Close clients without DAVE with 4017; else the channel falls back to version 0 while one is there.
        first_transition_zero: Whether a channel's first group is announced with transition id 0.
        transition_timeout_s: How long a transition waits for its members.
        resume_window_s: How long a session without its connection can be resumed.
        replay_messages: Messages kept for a resume.
        first_seq: Sequence number of a session's first message.
        extension_share: Share of relayed packets that carry an 8-byte RTP extension.
        padding_share: Share of relayed packets that carry RTP padding.
        report_packets: A sender gets an RTCP receiver report each so many packets; 0 for none.
        discovery_delay_s: How long an IP discovery request waits for its answer, rounded up to a tick; 0 for none.
        keepalive_echo: Whether UDP keepalives are echoed.
        seed: Of the random choices above.
        tick_s: How often deadlines and faults are looked at.
        dave_wait_s: How long a speaking member waits for its encryption.
        member_mode: Transport encryption that virtual members prefer.
    """

    host: str = "127.0.0.1"
    endpoint_host: str = "localhost"
    port: int = 0
    heartbeat_interval_s: float = 13.75
    heartbeat_limit: float = 3.0
    modes: tuple[str, ...] = rtp.MODES
    require_dave: bool = True
    first_transition_zero: bool = True
    transition_timeout_s: float = 2.0
    resume_window_s: float = 30.0
    replay_messages: int = 500
    first_seq: int = 0
    extension_share: float = 0.6
    padding_share: float = 0.1
    report_packets: int = 250
    discovery_delay_s: float = 0.0
    keepalive_echo: bool = True
    seed: int = 1
    tick_s: float = 0.05
    dave_wait_s: float = 5.0
    member_mode: str = rtp.AES256_GCM
