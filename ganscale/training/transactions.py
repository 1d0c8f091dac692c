"""Iterations as transactions: what a run that outlives its workers keeps in memory (`cluster.recovery: live`).

A transaction is an iteration with all that follows from its tick. Before each, a replica copies its state; when another
replica is lost in the midst of it, the others return to that copy and do it again, which gives the same numbers, as all
randomness is a function of the seed and the image. The replicas begin a transaction only when all have done the one
before: their copies are at most one transaction apart, and the newest one counts.
"""

import copy
import io
from typing import Any

import torch
import torch.distributed as dist

from ganscale.parallel.collectives import num_replicas, sum_over_replicas
from ganscale.training.snapshot import HostSnapshot
from ganscale.training.state import TrainState
from ganscale.training.statistics import Statistics, Window


class Transactions:
    """Copies of a run's state before each iteration, on one replica; they outlive process groups.

    Attributes:
        count: transactions that the copy has behind it; 0 as long as there is no copy.
        group: when the group was formed of which the copy is, by one clock; 0 as long as there is none.
    """

    def __init__(self) -> None:
        self.count = self.group = 0
        self._memory = HostSnapshot()
        self._saved: dict[str, Any] = {}
        self._is_new = False  # whether the state is that of the copy, from which a new group starts

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
        """Copy the state: the iterations before are done on all replicas.

        Args:
            state: between two iterations.
            window: of the row that comes next; the same on all replicas (`share`).
        """
        if not self._is_new:
            self._saved = {"state": self._memory.take(state.state_dict()), "window": window.sums(num_replicas())}
            self.count += 1
        self._is_new = False

    def share(self, statistics: Statistics) -> Statistics:
        """Spread an iteration's losses and penalties evenly over the replicas, so that none is lost with one of them.

        Args:
            statistics: of the iteration, on this replica.
        """
        replicas = num_replicas()
        if replicas == 1:
            return statistics
        values = [statistics.loss_d, statistics.loss_g, *statistics.penalties.values()]
        loss_d, loss_g, *penalties = (total / replicas for total in sum_over_replicas(values))
        named = dict(zip(statistics.penalties, penalties, strict=True))
        return statistics._replace(loss_d=loss_d, loss_g=loss_g, penalties=named)

    def finish_tick(self) -> None:
        """Wait until all replicas, rank 0 with its files among them, have done what follows from a tick."""
        if num_replicas() > 1:
            sum_over_replicas([torch.zeros(())])
