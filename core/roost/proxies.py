"""HTTP proxies of the environment: ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``.

Requests to Discord and the main gateway go through the proxy. Voice connects directly: its sound is UDP, which no HTTP
proxy carries.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import urllib.parse
import urllib.request

from hikari.impl import ProxySettings

from roost.errors import ConfigError

DISCORD = "https://discord.com/api/v10"


@dataclasses.dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy that Discord is reached through.

    Attributes:
        settings: For hikari.
        place: Host and port, without credentials; empty when there is no proxy.
    """

    settings: ProxySettings
    place: str = ""


def find_proxy(rest_url: str | None) -> Proxy:
    """Look up the proxy for Discord in the environment.

    Args:
        rest_url: Base URL of the REST API; None is Discord's own.

    Raises:
        ConfigError: A variable names a proxy that cannot be used.
    """
    target = urllib.parse.urlsplit(rest_url or DISCORD)
    host = target.hostname or ""
    found = urllib.request.getproxies_environment()
    kind = target.scheme if target.scheme in found else "all"
    if kind not in found or _is_loopback(host) or urllib.request.proxy_bypass(host):
        return Proxy(ProxySettings())
    given = found[kind]
    variable = f"{kind.upper()}_PROXY"
    try:
        url = urllib.parse.urlsplit(given if "://" in given else f"http://{given}")
        port = url.port or (443 if url.scheme == "https" else 80)
    except ValueError:
        raise ConfigError(f"{variable} is no URL of a proxy; write http://HOST:PORT, or unset it") from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(
            f"{variable} names a proxy of the kind {url.scheme}; only HTTP proxies work: write http://HOST:PORT, "
            f"unset it, or add {host} to NO_PROXY"
        )
    address = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    credentials = f"{url.netloc.rpartition('@')[0]}@" if "@" in url.netloc else ""
    return Proxy(ProxySettings(url=f"{url.scheme}://{credentials}{address}:{port}"), f"{address}:{port}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
