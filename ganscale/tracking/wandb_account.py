"""Whether there is a W&B server to report to, and a key for it."""

import netrc
import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

PATIENCE = 10.0
"""Seconds in which a server must show a sign of life."""


def base_url() -> str:
    """The server's address: `WANDB_BASE_URL`, or W&B's own."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def has_key() -> bool:
    """Whether an API key is set up, in the environment or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(base_url()).hostname or ""
    try:
        path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        entry = netrc.netrc(path).authenticators(host)
        return entry is not None and bool(entry[2])
    except (OSError, RuntimeError, ValueError, netrc.NetrcParseError):
        return False


def unreachable(patience: float = PATIENCE) -> str:
    """Why the server cannot be reached from here; empty when it answers, whatever it says.

    Args:
        patience: seconds that each step of the request may take.
    """
    try:
        urllib.request.urlopen(base_url(), timeout=patience).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return f"{base_url()}: {getattr(error, 'reason', None) or error}"
    return ""
