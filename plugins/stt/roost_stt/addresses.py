"""The address of a transcription service: checked when the configuration is read, and again where it is used."""

from __future__ import annotations

import ipaddress
import urllib.parse

from roost.errors import SpeechError

KEY_VARIABLE = "ROOST_STT_API_KEY"
EXAMPLE = "http://127.0.0.1:8000/v1"


def service_url(url: str) -> urllib.parse.SplitResult:
    """The parts of an http or https URL.

    Raises:
        SpeechError: It is none, or holds a password; what it says does not repeat the URL.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError:
        raise SpeechError(f"stt.remote.url cannot be read; write it like {EXAMPLE}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or any(char.isspace() for char in url):
        raise SpeechError(f"stt.remote.url is no http or https address; write it like {EXAMPLE}")
    if parts.username or parts.password:
        raise SpeechError(f"stt.remote.url must hold no password; set {KEY_VARIABLE} instead")
    return parts


def outside_host(url: str) -> str:
    """The host of a service, or nothing for one on this machine.

    Raises:
        SpeechError: See `service_url`.
    """
    host = service_url(url).hostname or ""
    if host == "localhost":
        return ""
    try:
        return "" if ipaddress.ip_address(host).is_loopback else host
    except ValueError:
        return host
