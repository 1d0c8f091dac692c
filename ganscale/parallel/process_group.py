"""torch.distributed's default group over gloo, which a process can give up at any time and make again with others."""

import gc
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from types import TracebackType

import torch.distributed as dist

from ganscale.parallel.collectives import disconnect
from ganscale.parallel.connections import SILENCE, connections, listening_ports, probe, silence

WATCH_EVERY = 1.0
"""Seconds between two looks at a group's connections."""
FORMING = 30.0
"""Seconds within which all members of a new group must have connected."""
_logger = logging.getLogger(__name__)
_ended: list[object] = []


def release_ended() -> None:
    """Free the groups that have ended; to be called when nothing uses what was built with them.

    A group that outlives this has threads that may abort the interpreter's exit.
    The last reference must be one of Python's own: the destructor of DDP's reducer holds Python's global lock while it
    waits for gloo's threads, and these may wait for that lock to free the tensors of a call (torch 2.13).
    """
    gc.collect()
    _ended.clear()


def destroy() -> None:
    """End the default group; `release_ended` frees it."""
    _ended.append(dist.group.WORLD)
    dist.destroy_process_group()


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
        self._sockets: set[int] = set()

    def __enter__(self) -> "ProcessGroup":
        host, _, port = self._store.rpartition(":")
        forming = timedelta(seconds=FORMING)
        server = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            host, int(port), is_master=False, wait_for_workers=False, timeout=forming
        )
        before, listening = {inode for inode, _ in connections()}, listening_ports()
        store = dist.PrefixStore(self._name, server)  # pyright: ignore[reportPrivateImportUsage]
        c10d = dist.distributed_c10d
        c10d._world.group_count = 0  # a part of the group's name; those who failed to form one have counted further
        try:
            dist.init_process_group("gloo", store=store, rank=self._rank, world_size=self._world_size, timeout=forming)
            c10d._set_pg_timeout(self._timeout, dist.group.WORLD)
            self._sockets = self._found(listening_ports() - listening, store)
        except BaseException:
            self._sockets = {inode for inode, _ in connections()} - before
            self._end(failed=True)
            raise
        threading.Thread(target=self._watch, name="group", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end(failed=kind is not None)

    def _found(self, own: set[int], store: dist.Store) -> set[int]:  # pyright: ignore[reportPrivateImportUsage]
        """The inodes of gloo's connections, by the ports on which it listens; other threads open connections too."""
        store.set(f"ports/{self._rank}", " ".join(map(str, own)))
        texts = [store.get(f"ports/{rank}").decode() for rank in range(self._world_size) if rank != self._rank]
        others = {int(port) for text in texts for port in text.split()}
        found = set()
        for inode, connection in connections():
            with suppress(OSError):
                if connection.getsockname()[1] in own or connection.getpeername()[1] in others:
                    probe(connection)
                    found.add(inode)
        return found

    def _watch(self) -> None:
        """Find out when a member has given the group up, which closes connections to it, or is cut off."""
        since: float | None = None
        while not self._ended.wait(WATCH_EVERY):
            now = time.monotonic()
            if since is None:
                seen = [silence(connection) for connection in self._opened()]
                if any(seconds is not None and seconds > SILENCE for seconds in seen):
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
            destroy()

    def abort(self) -> None:
        """Let pending and later collective calls fail, here and on the other members; any thread may call it."""
        disconnect()
        for connection in self._opened():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _opened(self) -> Iterator[socket.socket]:
        """The connections to other members that this process has not closed."""
        return (connection for inode, connection in connections() if inode in self._sockets)
