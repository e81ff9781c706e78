"""Which voice servers may be called."""

from __future__ import annotations

import fnmatch
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
    if match is None or int(match[2] or 443) > 0xFFFF:
        raise VoiceError("Discord named a voice server whose address cannot be read.")
    host = match[1].lower()
    if not any(fnmatch.fnmatchcase(host, pattern.lower()) for pattern in allowed_hosts):
        raise VoiceError(
            f"The voice server {host} is not among the allowed hosts; "
            "if it is yours, add it to the setting voice.allowed_hosts."
        )
    return f"{host}:{match[2] or 443}"
