"""Whether something listens where a Ray cluster should be: Ray itself would go on trying for a quarter of an hour."""

import socket
import time

from ganscale.config import ConfigError

PATIENCE = 10.0
"""Seconds that a cluster which is just starting gets."""

_REMEDY = (
    "start one with `ray start --head`, forget one that is gone with `ray stop`, "
    "or train on this machine alone with cluster.address=local"
)


def reach(address: str, *, patience: float = PATIENCE) -> None:
    """Return when something accepts connections at `address` (HOST:PORT).

    Raises:
        ConfigError: the address has another form, or nobody accepts within `patience` seconds.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ConfigError(
            "is not the address of a Ray cluster",
            key="cluster.address",
            value=address,
            remedy="write HOST:PORT as `ray start --head` shows it, auto or local",
        )
    until = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=patience).close()
            return
        except (OSError, UnicodeError) as error:  # UnicodeError: no host name at all
            if time.monotonic() + 1.0 > until:
                reason = getattr(error, "strerror", None) or error
                raise ConfigError(
                    f"no Ray cluster answers there ({reason})", key="cluster.address", value=address, remedy=_REMEDY
                ) from None
        time.sleep(1.0)
