"""Which voice servers may be called, and where media may go."""

from __future__ import annotations

import pytest

from roost_voice.protocol.address import ALLOWED_HOSTS, may_send_media

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("ip", ["66.22.196.10", "162.159.128.233", "2606:4700::1"])
def test_public_addresses_may_get_media(ip: str) -> None:
    assert may_send_media(ip, ALLOWED_HOSTS)


@pytest.mark.parametrize(
    "ip",
    [
        "169.254.169.254",
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "198.18.0.1",
        "192.0.2.1",
        "224.0.0.251",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700::1%eth0",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "ff0e::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2001::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
    ],
)
def test_no_other_address_may(ip: str) -> None:
    assert not may_send_media(ip, ALLOWED_HOSTS)
    assert not may_send_media(ip, ("*.discord.media", "*.169.254", "1*", "f*", "::*"))


def test_an_operator_may_name_addresses_of_their_own() -> None:
    assert may_send_media("127.0.0.1", ("localhost",))
    assert may_send_media("::1", ("localhost",))
    assert not may_send_media("127.0.0.2", ("localhost",))
    assert may_send_media("10.0.0.7", ("voice.example.org", "10.0.0.7"))
    assert not may_send_media("10.0.0.8", ("voice.example.org", "10.0.0.7"))
