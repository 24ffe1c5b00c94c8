"""Tells whether a server can be reached: one short attempt, before a library tries in vain for half a minute."""

from __future__ import annotations

import os
import socket
import threading
import urllib.parse
import urllib.request

PATIENCE_SECONDS = 3.0
"""Seconds that a server may take to answer; the look-up of a name often hangs for much longer without a limit."""

_HUB = "https://huggingface.co"
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def why_no_hub() -> str | None:
    """Return why the Hugging Face hub cannot be reached, as a short phrase, or None where it can be reached."""
    switched_off = [name for name in _OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if switched_off:
        return f"{switched_off[0]} is set"
    return why_unreachable(os.environ.get("HF_ENDPOINT", _HUB))


def why_unreachable(address: str, patience: float = PATIENCE_SECONDS) -> str | None:
    """Return why a server cannot be reached, or None where it can be reached.

    One connection is tried, to the proxy where the environment names one; nothing is sent.

    Args:
        address: Address of the server with its scheme, such as `https://huggingface.co`.
        patience: Seconds that looking up the name and connecting may take together; `PATIENCE_SECONDS` by default.

    Returns:
        A short phrase such as "Connection refused", or None.
    """
    wanted = urllib.parse.urlsplit(address)
    proxy = urllib.request.getproxies().get(wanted.scheme)
    if proxy and wanted.hostname and not urllib.request.proxy_bypass(wanted.hostname):
        wanted = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    host, port = wanted.hostname or "", wanted.port or (443 if wanted.scheme == "https" else 80)
    found: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), patience).close()
            found.append(None)
        except OSError as error:
            found.append(error.strerror or str(error) or type(error).__name__)

    attempt = threading.Thread(target=connect, daemon=True)  # a look-up of a name takes no time limit
    attempt.start()
    attempt.join(patience)
    return found[0] if found else f"{host} does not answer"
