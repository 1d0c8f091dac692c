"""Iterations as transactions: what a run that outlives its workers keeps in memory (`cluster.recovery: live`).

A transaction is one or more iterations, the last one with all that follows from its tick. Before each, a replica copies
its state; when another replica is lost in the midst of it, the others return to that copy and do it again, which gives
the same numbers, as all randomness is a function of the seed and the image. The replicas begin a transaction only when
all have done the one before: their copies are at most one transaction apart, and the newest one counts.
"""

import copy
import io
import math
import time
from typing import Any

import torch
import torch.distributed as dist

from ganscale.parallel.collectives import num_replicas, sum_over_replicas
from ganscale.training.snapshot import HostSnapshot
from ganscale.training.state import TrainState
from ganscale.training.statistics import Window

COST = 0.01
"""Share of the time that copies may take; it decides how many iterations make a transaction."""
MOST_SECONDS = 1.0
"""Seconds that several iterations of a transaction may take together: a fault costs them, too."""


class Transactions:
    """Copies of a run's state between iterations, on one replica; they outlive process groups.

    Attributes:
        count: transactions that the copy has behind it; 0 as long as there is no copy.
        group: when the group was formed of which the copy is, by one clock; 0 as long as there is none.
    """

    def __init__(self) -> None:
        self.count = self.group = 0
        self._memory = HostSnapshot()
        self._saved: dict[str, Any] = {}
        self._is_new = False  # whether the state is that of the copy, from which a new group starts
        self._pace = Pace()

    @property
    def images(self) -> int:
        """Images that the copy has behind it."""
        return self._saved["state"]["images"] if self.count else 0

    @property
    def rollbacks(self) -> int:
        """Rollbacks that the copy has behind it."""
        return self._saved["state"]["rollbacks"] if self.count else 0

    def synchronize(self, source: int, group: int) -> None:
        """Give all replicas of a new group the copy of one of them; a collective call.

        Args:
            source: rank of the replica with the newest copy.
            group: when the group was formed.
        """
        self._pace = Pace()
        is_source = dist.get_rank() == source
        content = bytearray()
        if is_source and self.count:
            file = io.BytesIO()
            torch.save(self._saved | {"count": self.count}, file)
            content = bytearray(file.getbuffer())
        size = torch.tensor([len(content)])
        dist.broadcast(size, source)
        if not size.item():
            self.discard()  # what a replica has that was away
            self.group = group  # also of copies that are still to come
            return
        data = torch.frombuffer(content, dtype=torch.uint8) if is_source else torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(data, source)
        if not is_source:
            self._saved = torch.load(io.BytesIO(data.numpy().data), weights_only=True)
            self.count = self._saved.pop("count")
        self.group = group  # only now: without the data the copy is still that of an earlier one

    def discard(self) -> None:
        """Forget the copy; those to come are of the same group."""
        self._saved = {}
        self.count = 0

    def restore(self, state: TrainState) -> bool:
        """Load the copy, if there is one; return whether there is.

        Args:
            state: of newly built networks.
        """
        self._is_new = bool(self.count)
        if self.count:
            state.load_state_dict(copy.deepcopy(self._saved["state"]))  # optimizers keep the tensors that they load
        return bool(self.count)

    def resume(self, window: Window) -> None:
        """Let a window of statistics continue from the copy, if there is one.

        Args:
            window: of the row that comes next.
        """
        if self.count:
            window.load_sums(self._saved["window"], 1.0 / num_replicas())

    def begin(self, state: TrainState, window: Window) -> None:
        """Begin an iteration; where a transaction begins with it, copy the state, which is a collective call.

        Args:
            state: between two iterations.
            window: of the row that comes next.
        """
        if self._pace.begin(time.monotonic(), has_copy=self._is_new):
            self._pace.agree(*window.share(self._pace.measured()))  # all replicas have done the iterations before
            started = time.monotonic()
            self._saved = {"state": self._memory.take(state.state_dict()), "window": window.sums(num_replicas())}
            self.count += 1
            self._pace.copied(started)
        self._is_new = False

    def finish_tick(self) -> None:
        """Wait until all replicas, rank 0 with its files among them, have done what follows from a tick."""
        if num_replicas() > 1:
            sum_over_replicas([torch.zeros(())])
        self._pace.tick()


class Pace:
    """How many iterations make a transaction: the same number on all replicas, from what a copy and an iteration take.

    Attributes:
        every: iterations.
    """

    def __init__(self) -> None:
        self.every = 1
        self._left = 0
        self._began: float | None = None
        self._copies: tuple[float, float] = (0.0, 0.0)
        self._iterations: tuple[float, float] = (0.0, 0.0)

    def begin(self, now: float, *, has_copy: bool) -> bool:
        """Count an iteration; whether a transaction begins with it whose state is to be copied.

        Args:
            now: seconds by some clock.
            has_copy: whether one begins whose state is that of the last copy.
        """
        if self._began is not None:
            self._iterations = self._iterations[0] + now - self._began, self._iterations[1] + 1
        self._began = now
        copies = self._left <= 0 and not has_copy
        if has_copy or copies:
            self._left = self.every
        self._left -= 1
        return copies

    def copied(self, started: float) -> None:
        """Count a copy, which is not part of the iteration.

        Args:
            started: seconds by the same clock.
        """
        self._began = time.monotonic()
        self._copies = self._copies[0] + self._began - started, self._copies[1] + 1

    def tick(self) -> None:
        """End a transaction."""
        self._began, self._left = None, 0

    def measured(self) -> tuple[float, float, float, float]:
        """Seconds and number of this replica's copies, and of its iterations; recent ones count more."""
        return (*self._copies, *self._iterations)

    def agree(self, copying: float, copies: float, training: float, iterations: float) -> None:
        """Choose how many iterations a transaction has, from the one that begins now on.

        Args:
            copying: seconds of copies, over all replicas.
            copies: their number.
            training: seconds of iterations, over all replicas.
            iterations: their number.
        """
        if copies and training > 0.0:
            copy_, iteration = copying / copies, training / iterations
            self.every = max(1, min(math.ceil(copy_ / (COST * iteration)), int(MOST_SECONDS / iteration)))
            self._left = self.every - 1
        self._copies = self._copies[0] / 2.0, self._copies[1] / 2.0
        self._iterations = self._iterations[0] / 2.0, self._iterations[1] / 2.0
