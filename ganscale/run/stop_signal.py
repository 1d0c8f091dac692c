"""Stopping before the end, by a signal, a draining node or failing storage: all replicas stop after one iteration.

A request may reach any replica; the others learn of it in a small all-reduce every few seconds.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ganscale.storage.store import Place

if TYPE_CHECKING:
    import torch

EVERY = 2.0
"""Seconds between two reductions; a request reaches all replicas after about twice that, or one iteration."""
MOST = 10_000
"""Iterations between two reductions, at most."""
GROWTH = 4.0
"""Factor by which that number may grow at a time: the first iterations may be slow."""


class StopReason(IntEnum):
    """Why a run stops before its end; of several the largest wins."""

    NONE = 0
    RESIZE = 1
    """The group of workers restarts with another number of them."""
    DRAIN = 2
    """The node of a worker is draining."""
    STOP = 3
    """SIGTERM."""
    STORAGE = 4
    """A checkpoint could not be saved, and `checkpoint.on_failure` is stop."""


def next_interval(iterations: int, seconds: float) -> int:
    """Iterations until the next reduction, from how long the last ones took.

    Args:
        iterations: since the last reduction, at least 1.
        seconds: that they took.
    """
    wanted = EVERY * iterations / max(seconds, 1e-9)
    return max(1, min(MOST, int(min(wanted, GROWTH * iterations))))


class StopSignal:
    """Whether the next iteration is this attempt's last; to be called before each, by all replicas alike.

    Args:
        device: on which the default group communicates.
        ask: whether this replica should stop; called at each reduction, by all replicas equally often.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        device: "torch.device",
        ask: Callable[[], StopReason] = lambda: StopReason.NONE,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from ganscale.parallel.replica import Replica

        self.agreed = StopReason.NONE
        self._device, self._ask, self._clock = device, ask, clock
        self._own = StopReason.NONE
        self._world_size, self._rank = Replica.current().world_size, Replica.current().rank
        self._left, self._window, self._since = 1, 1, clock()

    def request(self, reason: StopReason) -> None:
        """Request a stop from within the run.

        Args:
            reason: why.
        """
        self._own = max(self._own, reason)

    def __call__(self) -> bool:
        """Whether the replicas agreed to stop."""
        if self.agreed:
            return True
        self._left -= 1
        if self._left > 0:
            return False
        now = self._clock()
        window = next_interval(self._window, now - self._since)
        reason, self._window = self._reduced(max(self._own, self._ask()), window)
        self._left, self._since = self._window, now
        self.agreed = StopReason(reason)
        return bool(self.agreed)

    def _reduced(self, reason: int, window: int) -> tuple[int, int]:
        """The largest reason of all replicas, and the shortest of their windows."""
        largest, shortest = self._largest([reason, -window])
        return largest, -shortest

    def _largest(self, numbers: list[int]) -> list[int]:
        """The largest of all replicas for each of some numbers."""
        if self._world_size == 1:
            return numbers
        import torch
        import torch.distributed as dist

        from ganscale.parallel.clock import COMMUNICATION

        tensor = torch.tensor(numbers, dtype=torch.int64, device=self._device)
        with COMMUNICATION:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()


class RegroupError(Exception):
    """The group of workers ends before the next iteration, and another one continues (`cluster.recovery: live`).

    Args:
        leaves: whether this replica is not to be one of it.
    """

    def __init__(self, *, leaves: bool) -> None:
        super().__init__("this worker leaves" if leaves else "the workers change")
        self.leaves = leaves


class LiveStopSignal(StopSignal):
    """A `StopSignal` of a run that outlives its workers: STOP and STORAGE stop it, or DRAIN where too few would remain.

    RESIZE and DRAIN of some replicas let the others continue in another group.

    Args:
        device: as of `StopSignal`.
        ask: as of `StopSignal`.
        least: number of replicas that the run needs.
    """

    def __init__(
        self, device: "torch.device", ask: Callable[[], StopReason] = lambda: StopReason.NONE, *, least: int = 1
    ) -> None:
        super().__init__(device, ask)
        self._least = least

    def _reduced(self, reason: int, window: int) -> tuple[int, int]:
        largest, shortest = super()._reduced(reason, window)
        if largest == StopReason.DRAIN:
            ranks = range(self._world_size)
            own = [int(rank == self._rank and reason != StopReason.DRAIN) for rank in ranks]
            if sum(self._largest(own)) < self._least:
                largest = StopReason.STOP
        if StopReason.NONE < largest < StopReason.STOP:
            raise RegroupError(leaves=reason == StopReason.DRAIN)
        return largest, shortest


class StopFile:
    """A file by which another process requests the workers of a run to stop, on storage that they share.

    Args:
        path: of the file, or of the object in a bucket.

    Attributes:
        requested: the stop that this process has requested.
    """

    def __init__(self, path: Place) -> None:
        self.path = path
        self.requested = StopReason.NONE

    def write(self, reason: StopReason) -> None:
        """Request a stop; of several that this process requests the largest counts.

        Args:
            reason: why.
        """
        self.requested = max(self.requested, reason)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = StopReason.NONE
        while written != self.requested:  # another thread, or a signal, may have requested more meanwhile
            written = self.requested
            self.path.write_text(written.name, encoding="utf-8")

    def read(self) -> StopReason:
        """The requested reason; NONE without a readable file."""
        try:
            path = self.path if isinstance(self.path, Path) else self.path.quick
            return StopReason[path.read_text(encoding="utf-8").strip()]
        except (OSError, KeyError, ValueError):
            return StopReason.NONE

    def clear(self) -> None:
        """Withdraw the request."""
        self.requested = StopReason.NONE
        with suppress(OSError):  # a bucket that does not answer: a later attempt then stops at once
            self.path.unlink(missing_ok=True)


@contextmanager
def on_sigterm(react: Callable[[], None]) -> Iterator[None]:
    """Call `react` at the first SIGTERM while the block runs; a second one ends the process.

    Outside the main thread, which alone may handle signals, the block just runs.

    Args:
        react: called in the signal handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        react()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


class SigtermFlag:
    """Remembers that SIGTERM came; the `ask` of a process that trains by itself.

    Args:
        reason: what it means.
    """

    def __init__(self, reason: StopReason = StopReason.STOP) -> None:
        self._meaning, self._reason = reason, StopReason.NONE

    def set(self) -> None:
        """Remember it."""
        self._reason = self._meaning

    def __call__(self) -> StopReason:
        """The reason to stop, if any."""
        return self._reason
