"""Writes snapshots of the training state in a thread: one at a time, and of those that wait the newest."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, NamedTuple

from ganscale.storage.store import Place
from ganscale.training.snapshot import SNAPSHOTS, HostSnapshot


class Saved(NamedTuple):
    """A checkpoint that is stored.

    Attributes:
        path: its folder.
        is_best: whether it is the best so far.
        seconds: that writing it took.
    """

    path: Place
    is_best: bool
    seconds: float


@dataclass(frozen=True)
class Write:
    """A checkpoint that is being written, or waits for that.

    Attributes:
        images: of its state.
        snapshot: the memory that holds its state.
        kept: whether no later one may replace it.
        paused: seconds for which training paused to take the snapshot.
        future: gives the checkpoint, or raises.
    """

    images: int
    snapshot: HostSnapshot
    kept: bool
    paused: float
    future: Future[Saved]


class SnapshotWriter:
    """Two snapshots: one is being written, one may wait. All methods are for the training thread.

    Args:
        save: writes a state with its metrics; called in the thread.

    Attributes:
        skipped: number of snapshots that were replaced, or not taken.
    """

    def __init__(self, save: Callable[[dict[str, Any], Mapping[str, float]], Saved]) -> None:
        self._save = save
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._snapshots = [HostSnapshot() for _ in range(SNAPSHOTS)]
        self._writes: list[Write] = []
        self.skipped = 0

    @property
    def is_busy(self) -> bool:
        """Whether a snapshot is being written."""
        return bool(self._active())

    def submit(self, state: dict[str, Any], metrics: Mapping[str, float], *, keep: bool) -> bool:
        """Take a snapshot and have it written. It replaces one that waits, unless that one has to be kept.

        Where it cannot, `keep` says what follows: wait until one is written, or take none.

        Args:
            state: `TrainState.state_dict()`, which may change as soon as this returns.
            metrics: of the same tick.
            keep: whether no later one may replace it.

        Returns:
            Whether it was taken.
        """
        started = time.monotonic()
        while len(active := self._active()) == len(self._snapshots):
            waiting = active[-1]
            if not waiting.kept:
                if waiting.future.cancel():  # otherwise the thread has just begun with it, and the other one is done
                    self._writes.remove(waiting)
                    self.skipped += 1
            elif keep:
                wait([each.future for each in active], return_when=FIRST_COMPLETED)
            else:
                self.skipped += 1
                return False
        free = next(each for each in self._snapshots if all(each is not write.snapshot for write in active))
        began = time.monotonic()
        free.fit(state)
        fitted = time.monotonic()
        copied = free.take(state)
        paused = time.monotonic() - started - (fitted - began)
        future = self._pool.submit(self._save, copied, dict(metrics))
        self._writes.append(Write(state["images"], free, keep, paused, future))
        return True

    def finished(self) -> list[Write]:
        """The writes that have ended since the last call, oldest first."""
        done = [write for write in self._writes if write.future.done()]
        self._writes = [write for write in self._writes if write not in done]
        return done

    def wait(self) -> None:
        """Wait until everything is written."""
        wait([write.future for write in self._writes])

    def close(self) -> None:
        """Wait, and end the thread."""
        self._pool.shutdown()

    def _active(self) -> list[Write]:
        return [write for write in self._writes if not write.future.done()]
