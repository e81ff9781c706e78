"""Whom Songbird trusts."""

from __future__ import annotations

import os
from pathlib import Path


def trust(ca_file: str | os.PathLike[str]) -> None:
    """Trust the certificate authorities in a PEM file, beside the public ones, for connections made from now on.

    For a server with a certificate of one's own. Songbird takes no setting for this: the name goes into SSL_CERT_FILE
    of this process, which other TLS libraries of the process read too; those then trust this file *instead* of the
    machine's. There is no way to switch the check off.

    Raises:
        FileNotFoundError, PermissionError: The file cannot be read.
        ValueError: It holds no certificate.
    """
    path = Path(ca_file).resolve()
    if "-----BEGIN CERTIFICATE-----" not in path.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(f"no certificate in {path}")
    os.environ["SSL_CERT_FILE"] = str(path)
