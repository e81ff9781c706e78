"""Which voice servers may be called, and which addresses may get media."""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Sequence

from roost.errors import VoiceError

ALLOWED_HOSTS = ("*.discord.media",)
"""Where Discord's voice servers live."""

_ADDRESS = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)(?::([0-9]{1,5}))?")


def check_address(server_address: str, allowed_hosts: Sequence[str]) -> str:
    """A voice server's ``host:port``, if it may be called.

    Args:
        server_address: ``host`` or ``host:port``, as Discord sends it.
        allowed_hosts: Patterns (``*`` and ``?``) of host names.

    Raises:
        VoiceError: It is no address, or its host is not allowed.
    """
    match = _ADDRESS.fullmatch(server_address)
    if match is None or not 0 < int(match[2] or 443) <= 0xFFFF:
        raise VoiceError("Discord named a voice server whose address cannot be read.")
    host = match[1].lower()
    if not any(fnmatch.fnmatchcase(host, pattern.lower()) for pattern in allowed_hosts):
        raise VoiceError(
            f"The voice server {host} is not among the allowed hosts; "
            "if it is yours, add it to the setting voice.allowed_hosts."
        )
    return f"{host}:{match[2] or 443}"


LOCALHOST = "localhost"
_LOOPBACK = ("127.0.0.1", "::1")


def may_send_media(ip: str, allowed_hosts: Sequence[str]) -> bool:
    """Whether datagrams may go to the address that a voice server named.

    Args:
        ip: An IPv4 or IPv6 address.
        allowed_hosts: As for `check_address`. An address in it, letter for letter, may be one of the operator's own
            network; ``localhost`` stands for the two loopback addresses.

    Returns:
        True for public unicast addresses. Everything else would let a voice server aim the bot at machines that only
        the bot can reach: loopback, private and link-local networks, the metadata service of a cloud, multicast, and
        IPv6 addresses that carry an IPv4 one.
    """
    if ip in allowed_hosts or (ip in _LOOPBACK and LOCALHOST in allowed_hosts):
        return True
    address = ipaddress.ip_address(ip)
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return not (address.is_site_local or address.scope_id or address.sixtofour or address.teredo)
    return True
