"""This process's network connections, also those that a library has made: whether the other side's machine is there.

A machine that is cut off or without power closes no connection. The kernel sends keepalive probes, which the other
side's kernel answers even where its process hangs, and keeps how long nothing has come (Linux).
"""

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SILENCE = 10.0
"""Seconds after which a machine that sends nothing, not even an answer to keepalive probes, is lost."""
_PROBE_EVERY = 2
"""Seconds between two keepalive probes of a connection over which nothing else goes."""
_ESTABLISHED = 1
"""State of a connection that neither side has closed."""
_TCP_INFO = struct.Struct("B51x2I")
"""Of Linux's `struct tcp_info`: the state, and the milliseconds since the last data and since the last answer."""


def connections() -> Iterator[tuple[int, socket.socket]]:
    """This process's TCP connections: the inode of each, and a duplicate of its socket that lasts until the next."""
    for opened, connection in _sockets():
        if not _listens(connection):
            yield opened, connection


def listening_ports() -> set[int]:
    """Ports on which this process accepts TCP connections."""
    return {connection.getsockname()[1] for _, connection in _sockets() if _listens(connection)}


def _sockets() -> Iterator[tuple[int, socket.socket]]:
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if not os.readlink(path).startswith("socket:"):
                continue
            descriptor = os.dup(int(path.name))
            facts = os.fstat(descriptor)
            if not stat.S_ISSOCK(facts.st_mode):  # another thread has closed the socket, and opened a file
                os.close(descriptor)
                continue
            with socket.socket(fileno=descriptor) as found:
                if found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM:
                    yield facts.st_ino, found


def _listens(connection: socket.socket) -> bool:
    return bool(connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def probe(connection: socket.socket) -> None:
    """Let the kernel probe whether the other side is there.

    Args:
        connection: connected.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_EVERY)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_EVERY)


def silence(connection: socket.socket) -> float | None:
    """Seconds since the other side's machine has sent anything; None if the connection is closed.

    Args:
        connection: probed.
    """
    with suppress(OSError):
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        state, data, answer = _TCP_INFO.unpack(info)
        return min(data, answer) / 1000.0 if state == _ESTABLISHED else None
    return None


def close_silent(port: int) -> None:
    """Close the connections to a port from whose machine nothing comes, so that what waits for an answer fails.

    Args:
        port: of the other side.
    """
    for _, connection in connections():
        with suppress(OSError):
            if connection.getpeername()[1] != port:
                continue
            if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) != _PROBE_EVERY:
                probe(connection)
            elif (silence(connection) or 0.0) > SILENCE:
                connection.shutdown(socket.SHUT_RDWR)
