"""Leaving before the end: a signal, a node that goes, or storage that fails; all replicas stop after one iteration.

Whoever is asked, the others learn of it in a small reduction every few seconds, not in every iteration.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist

from ganscale.parallel.collectives import Replica

EVERY = 2.0
"""Seconds between two reductions; a replica hears of a request after at most about twice that, or one iteration."""
MOST = 10_000
"""Iterations between two reductions, at most."""
GROWTH = 4.0
"""How much that number may grow at a time: the first iterations may be slow ones."""


class StopReason(IntEnum):
    """Why a run leaves; of several the largest counts."""

    NONE = 0
    RESIZE = 1
    """The group of workers is to be made anew, with another number of them."""
    DRAIN = 2
    """The node of a worker is about to go."""
    STOP = 3
    """The run was asked to leave, by SIGTERM."""
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
    """Whether the coming iteration is the last one of this life; to be called before each, by all replicas alike.

    Args:
        device: where the replicas' collectives work.
        ask: what is asked of this replica; called at each reduction, by all replicas equally often.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        device: torch.device,
        ask: Callable[[], StopReason] = lambda: StopReason.NONE,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.agreed = StopReason.NONE
        self._device, self._ask, self._clock = device, ask, clock
        self._own = StopReason.NONE
        self._world_size = Replica.current().world_size
        self._left, self._window, self._since = 1, 1, clock()

    def request(self, reason: StopReason) -> None:
        """Ask for it from within the run."""
        self._own = max(self._own, reason)

    def __call__(self) -> bool:
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
        """The gravest reason of all replicas, and the shortest of their windows."""
        if self._world_size == 1:
            return reason, window
        numbers = torch.tensor([reason, -window], dtype=torch.int64, device=self._device)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        gravest, shortest = numbers.tolist()
        return gravest, -shortest


class StopFile:
    """A file by which one process asks the workers of a run to leave, on storage that they share.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, reason: StopReason) -> None:
        """Ask."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(reason.name, encoding="utf-8")

    def read(self) -> StopReason:
        """What is asked for; nothing where there is no file, or none that can be read."""
        try:
            return StopReason[self.path.read_text(encoding="utf-8").strip()]
        except (OSError, KeyError, ValueError):
            return StopReason.NONE

    def clear(self) -> None:
        """Ask no more."""
        self.path.unlink(missing_ok=True)


@contextmanager
def on_sigterm(react: Callable[[], None]) -> Iterator[None]:
    """Call `react` at the first SIGTERM while the block runs; a second one ends the process as it always would.

    Elsewhere than in the main thread, which alone may handle signals, the block just runs.
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
    """What SIGTERM asks of a process that trains by itself."""

    def __init__(self) -> None:
        self._reason = StopReason.NONE

    def set(self) -> None:
        """SIGTERM came."""
        self._reason = StopReason.STOP

    def __call__(self) -> StopReason:
        return self._reason
