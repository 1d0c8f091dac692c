"""torch.distributed's default group over gloo, which a process can give up at any time and make again with others."""

import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType

import torch.distributed as dist

from ganscale.parallel.collectives import disconnect

ESTABLISHED = 1
"""State of a TCP connection (Linux)."""
WATCH_EVERY = 1.0
"""Seconds between two looks at a group's connections."""
FORMING = 30.0
"""Seconds within which all members of a new group must have connected."""
SILENCE = 10.0
"""Seconds after which a member's machine that sends nothing, not even an answer to keepalive probes, is lost."""
_PROBE_EVERY = 2
"""Seconds between two keepalive probes of a connection over which nothing else goes."""
_TCP_INFO = struct.Struct("B51x2I")
"""Of Linux's `struct tcp_info`: the state, and the milliseconds since the last data and since the last answer."""

_logger = logging.getLogger(__name__)


class ProcessGroup:
    """The default group while the block runs; it may be the next of several in a process.

    Gloo's own `abort` does nothing (torch 2.13), and its sockets stay open as long as anything refers to the group, a
    DDP module or the traceback of an error: so the sockets are shut down here, after which every collective call that
    waits for this process fails on all of them. A machine that is cut off closes no connection: a group with one is
    given up after `SILENCE`.

    Args:
        store: `HOST:PORT` of the TCPStore of a member.
        name: of this group; no other one has had it.
        rank: of this process.
        world_size: number of members.
        timeout: seconds after which a collective call fails.
        overdue: called in a thread if the block still runs so long after a member has given the group up.
    """

    def __init__(
        self,
        store: str,
        name: str,
        rank: int,
        world_size: int,
        *,
        timeout: float,
        overdue: Callable[[], None] = lambda: None,
    ) -> None:
        self._overdue, self._ended = overdue, threading.Event()
        self._store, self._name, self._timeout = store, name, timedelta(seconds=timeout)
        self._rank, self._world_size = rank, world_size
        self._sockets: set[str] = set()

    def __enter__(self) -> "ProcessGroup":
        host, _, port = self._store.rpartition(":")
        forming = timedelta(seconds=FORMING)
        server = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            host, int(port), is_master=False, wait_for_workers=False, timeout=forming
        )
        before = _connections().keys()
        store = dist.PrefixStore(self._name, server)  # pyright: ignore[reportPrivateImportUsage]
        c10d = dist.distributed_c10d
        c10d._world.group_count = 0  # a part of the group's name; those who failed to form one have counted further
        try:
            dist.init_process_group("gloo", store=store, rank=self._rank, world_size=self._world_size, timeout=forming)
            c10d._set_pg_timeout(self._timeout, dist.group.WORLD)
        except BaseException:
            self._sockets = _connections().keys() - before
            self._end(failed=True)
            raise
        self._sockets = _connections().keys() - before
        self._probe()
        threading.Thread(target=self._watch, name="group", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end(failed=kind is not None)

    def _probe(self) -> None:
        """Let the machines of all members answer every few seconds, also where a worker hangs."""
        for connection in self._opened():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_EVERY)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_EVERY)

    def _watch(self) -> None:
        """Find out when a member has given the group up, which closes connections to it, or is cut off."""
        since: float | None = None
        while not self._ended.wait(WATCH_EVERY):
            now = time.monotonic()
            if since is None:
                seen = [_seen(connection) for connection in self._opened()]
                if any(silence is not None and silence > SILENCE for silence in seen):
                    _logger.warning("nothing from another worker's machine for %.0f s", SILENCE)
                    self.abort()
                closed = len(seen) < len(self._sockets) or None in seen
                since = now if closed else None
            elif now - since > self._timeout.total_seconds():
                self._overdue()
                return

    def _end(self, *, failed: bool) -> None:
        self._ended.set()
        if failed:
            self.abort()
        disconnect()
        if dist.is_initialized():
            dist.destroy_process_group()

    def abort(self) -> None:
        """Let pending and later collective calls fail, here and on the other members; any thread may call it."""
        disconnect()
        for connection in self._opened():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _opened(self) -> Iterator[socket.socket]:
        """The connections to other members that this process has not closed."""
        for inode, descriptor in _connections().items():
            if inode in self._sockets:
                with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                    yield connection


def _seen(connection: socket.socket) -> float | None:
    """Seconds since the other side's machine has sent anything; None if the connection is closed."""
    with suppress(OSError):
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        state, data, answer = _TCP_INFO.unpack(info)
        return min(data, answer) / 1000.0 if state == ESTABLISHED else None
    return None


def _connections() -> dict[str, int]:
    """This process's connected network sockets: the inode and a file descriptor of each."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            inode = os.readlink(path)
            if not inode.startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(path.name))) as opened:
                listens = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if not listens and opened.family in (socket.AF_INET, socket.AF_INET6):
                    found[inode] = int(path.name)
    return found
