"""All-reduce over processes of one machine through shared memory, where gloo would use TCP.

A small all-reduce with gloo takes four thread switches on each side, and a thread that wakes up on a busy processor may
wait for the scheduler's next tick: milliseconds for a few bytes. Here each process writes its part into shared memory,
notifies the others over a socket, and adds all parts in the order of ranks, so that the sums are equal on all.

The sockets carry no data but order it: what is written before a message is sent is visible once it is received. A
process that dies closes its sockets, so no other waits for it; a message with another size reveals that the processes
reduce different tensors.
"""

import mmap
import os
import select
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SWITCH = "GANSCALE_SHARED_MEMORY"
"""Environment variable; `0` turns shared memory off."""
CHUNK = 1 << 19
"""Bytes per chunk: small enough for a processor's own cache."""
SPIN = 0.002
"""Seconds for which a waiting process yields but does not sleep: waking up is slow."""
_PLACE = Path("/dev/shm")
_MESSAGE = struct.Struct("<Q")

Exchange = Callable[[Any], list[Any]]
"""All-gathers an object: those of all processes, by rank."""


class SharedMemory:
    """The connection of the processes of one machine; made by `connect`.

    Args:
        rank: of this process.
        parts: the memory that each process writes, by rank, `2 * CHUNK` bytes each.
        peers: sockets to the other processes, by rank.
        timeout: seconds to wait for another process.
    """

    def __init__(
        self, rank: int, parts: Sequence[mmap.mmap], peers: dict[int, socket.socket], *, timeout: float
    ) -> None:
        self._rank, self._parts, self._peers, self._timeout = rank, parts, peers, timeout
        self._turn = 0
        self._views: dict[tuple[torch.dtype, int], list[Tensor]] = {}
        for peer in peers.values():
            peer.setblocking(False)

    def all_reduce(self, x: Tensor, *, divisor: int = 1) -> None:
        """Replace a contiguous CPU tensor by its sum over all processes; a collective call.

        Args:
            x: of any shape.
            divisor: by which each process divides its numbers first; floating point only.

        Raises:
            RuntimeError: a process died, is late, or reduces a tensor of another size.
        """
        flat = x.detach().view(-1)
        step = CHUNK // flat.element_size()
        for start in range(0, flat.numel(), step):
            self._reduce(flat[start : start + step], divisor)

    def _reduce(self, x: Tensor, divisor: int) -> None:
        """Reduce one chunk. The two halves of the memory alternate, so none is overwritten before all have read it."""
        parts = [view[: x.numel()] for view in self._halves(x.dtype)]
        if divisor == 1:
            parts[self._rank].copy_(x)
        else:
            torch.div(x, divisor, out=parts[self._rank])
        self._meet(x.numel() * x.element_size())
        torch.add(parts[0], parts[1], out=x)
        for part in parts[2:]:
            x += part

    def _halves(self, dtype: torch.dtype) -> list[Tensor]:
        """Each process's half of this turn."""
        self._turn = 1 - self._turn
        key = (dtype, self._turn)
        if key not in self._views:
            count = CHUNK // dtype.itemsize
            self._views[key] = [
                torch.frombuffer(part, dtype=dtype, count=count, offset=self._turn * CHUNK) for part in self._parts
            ]
        return self._views[key]

    def _meet(self, size: int) -> None:
        """Notify the others that this process has written `size` bytes, and wait for all of them."""
        message = _MESSAGE.pack(size)
        for rank, peer in self._peers.items():
            try:
                peer.send(message)
            except OSError as error:
                raise RuntimeError(f"worker {rank} died during an all-reduce: {error}") from None
        for rank, peer in self._peers.items():
            received = self._receive(rank, peer)
            if received != message:
                what = f"{_MESSAGE.unpack(received)[0]} bytes" if received else "nothing: it died"
                raise RuntimeError(f"worker {rank} reduces {what}, this one {size} bytes")

    def _receive(self, rank: int, peer: socket.socket) -> bytes:
        """The next message; empty if the process died."""
        started = time.monotonic()
        while True:
            try:
                return peer.recv(_MESSAGE.size)
            except BlockingIOError:
                waited = time.monotonic() - started
            except OSError:
                return b""
            if waited < SPIN:
                os.sched_yield()
            elif waited < self._timeout:
                _wait_for_message(peer, min(1.0, self._timeout))
            else:
                raise RuntimeError(f"worker {rank} did not join an all-reduce for {waited:.0f} s")

    def abort(self) -> None:
        """Let pending and later calls fail, here and on the other processes; any thread may call it."""
        for peer in self._peers.values():
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the sockets; the others see that this process has left."""
        for peer in self._peers.values():
            peer.close()


def _wait_for_message(peer: socket.socket, seconds: float) -> None:
    """Sleep until there is a message, or for some seconds; `select` would refuse a process with many open files."""
    waiting = select.poll()
    waiting.register(peer, select.POLLIN)
    waiting.poll(1000.0 * seconds)


def connect(rank: int, world_size: int, exchange: Exchange, *, timeout: float) -> SharedMemory | None:
    """Connect the processes if all of them run on one machine and may share memory; a collective call.

    Args:
        rank: of this process.
        world_size: number of processes.
        exchange: all-gathers an object.
        timeout: of an all-reduce, in seconds.

    Returns:
        The connection, on all processes or on none.
    """
    with ExitStack() as undo:
        own = _identity()
        place = ""
        if rank == 0 and own:
            with suppress(OSError):
                place = tempfile.mkdtemp(prefix="ganscale-", dir=_PLACE)
                undo.callback(shutil.rmtree, place, ignore_errors=True)
        places = exchange((own, place))
        folder = Path(places[0][1])
        if not _one_machine(places):
            return None
        try:
            listening = _offer(folder, rank, world_size)
        except OSError:
            listening = None
        if listening:
            undo.callback(listening.close)
        if not all(exchange(listening is not None)):
            return None
        assert listening is not None, "as on all"
        try:
            peers = _meet_all(folder, rank, world_size, listening)
            parts = [_open(folder / f"{other}") for other in range(world_size)]
        except (OSError, ValueError):
            peers, parts = {}, []
        if not all(exchange(bool(parts))):
            for peer in peers.values():
                peer.close()
            return None
        return SharedMemory(rank, parts, peers, timeout=timeout)


def _one_machine(places: Sequence[tuple[str, str]]) -> bool:
    """Whether all processes run on one machine, and the first has made a folder."""
    return bool(places[0][1]) and bool(places[0][0]) and len({own for own, _ in places}) == 1


def _identity() -> str:
    """Identity of this machine; empty where unknown or turned off.

    Containers and network namespaces of one computer count as machines, as in clusters that are simulated on one.
    """
    if os.environ.get(SWITCH) == "0":
        return ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.stat('/proc/self/ns/net').st_ino} {os.stat(_PLACE).st_ino} {os.getuid()}"
    return ""


def _offer(folder: Path, rank: int, world_size: int) -> socket.socket:
    """Make this process's memory, and a socket for the others to connect to."""
    with (folder / f"{rank}").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2 * CHUNK)  # a full /dev/shm fails here, not by a signal later
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(str(folder / f"{rank}.socket"))
    listening.listen(world_size)
    listening.settimeout(30.0)
    return listening


def _meet_all(folder: Path, rank: int, world_size: int, listening: socket.socket) -> dict[int, socket.socket]:
    """Connect to all lower ranks, and accept all higher ones."""
    peers: dict[int, socket.socket] = {}
    for other in range(rank):
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        peer.settimeout(30.0)
        peer.connect(str(folder / f"{other}.socket"))
        peer.send(_MESSAGE.pack(rank))
        peers[other] = peer
    for _ in range(rank + 1, world_size):
        peer, _ = listening.accept()
        peer.settimeout(30.0)
        (other,) = _MESSAGE.unpack(peer.recv(_MESSAGE.size))
        peers[other] = peer
    return peers


def _open(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 2 * CHUNK)
