"""The W&B server that runs log to: its address, whether there is a key for it, and whether it answers."""

import netrc
import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

CONNECT_TIMEOUT = 10.0
"""Seconds in which a server must answer."""


def base_url() -> str:
    """The server's address: `WANDB_BASE_URL`, or W&B's own."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def has_key() -> bool:
    """Whether an API key is set up, in the environment or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        entry = netrc.netrc(path).authenticators(urlparse(base_url()).hostname or "")
        return entry is not None and bool(entry[2])
    except (OSError, RuntimeError, ValueError, netrc.NetrcParseError):
        return False


def unreachable(timeout: float = CONNECT_TIMEOUT) -> str:
    """Return why the server cannot be reached from here; empty when it answers, with any status.

    Args:
        timeout: seconds that each step of the request may take.
    """
    try:
        urllib.request.urlopen(base_url(), timeout=timeout).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return f"{base_url()}: {getattr(error, 'reason', None) or error}"
    return ""
