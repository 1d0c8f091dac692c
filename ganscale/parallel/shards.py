"""Virtual replicas: the shards of a batch that one process computes, each by itself as a process of its own would.

Each shard has a thread, since all of them have to meet in the forward pass where a layer needs numbers of the whole
batch, and again in the backward pass. (On the CPU autograd runs a backward pass in the thread that asked for it.)
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import Tensor

from ganscale.parallel.collectives import acting_as
from ganscale.parallel.replica import Replica
from ganscale.parallel.tree import TreeExchange, TreeSum

T = TypeVar("T")


class ShardGroup:
    """This process's shards of `num_replicas`, and their sums over the shards of all processes, in a fixed order.

    Args:
        num_replicas: number of shards, at least as many as processes.
        replica: this process; it holds a contiguous run of shards.
        at_once: shards that compute at the same time, each on one CPU.

    Attributes:
        own: the shards of this process.
    """

    def __init__(self, num_replicas: int, replica: Replica, *, at_once: int = 1) -> None:
        self.num_replicas = num_replicas
        self.own = range(*replica.rows(num_replicas)[0])
        self._tree = TreeSum(num_replicas, self.own.start, self.own.stop)
        self._exchange = TreeExchange(num_replicas, replica)
        self._lock, self._permits = threading.Lock(), threading.Semaphore(at_once)
        self._barrier = threading.Barrier(len(self.own), self._act)
        self._pool = ThreadPoolExecutor(len(self.own), "shard") if len(self.own) > 1 else None
        self._finish: Callable[[list[Tensor]], object] = lambda sums: sums
        self._result: object = None

    def run(self, function: Callable[[int], T]) -> list[T]:
        """Call a function for each own shard, in threads that act as its replica; return its results in order.

        Args:
            function: takes the position of a shard in `own`. All must call the same collectives in the same order.

        Raises:
            BaseException: what a call raised; the others end at their next collective.
        """
        self._tree.nodes.clear()
        self._barrier.reset()
        if self._pool is None:
            return [self._call(function, 0)]
        futures = [self._pool.submit(self._call, function, position) for position in range(len(self.own))]
        wait(futures)
        errors = [error for error in (future.exception() for future in futures) if error]
        for error in errors:
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        return [future.result() for future in futures]

    def reduce(self, position: int, tensors: list[Tensor], finish: Callable[[list[Tensor]], T]) -> T:
        """Sum tensors over all shards; one thread then calls `finish`, all return its result.

        Args:
            position: of this thread's shard in `own`.
            tensors: of the same shapes on all shards; they are overwritten.
            finish: takes the sums.
        """
        with self._lock:
            self._tree.add((0, self.own[position]), tensors)
            self._finish = finish
        self._permits.release()
        try:
            self._barrier.wait()
        finally:
            self._permits.acquire()
        return self._result  # pyright: ignore[reportReturnType]

    def total(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Sum statistics over all shards of all processes, in float64, without gradient; outside of `run`.

        Args:
            values: one row for each own shard, `[len(own), ...]`.
        """
        rows = torch.cat([value.detach().to(torch.float64).view(len(self.own), -1) for value in values], dim=1)
        for shard, row in zip(self.own, rows.unbind(), strict=True):
            self._tree.add((0, shard), [row])
        (packed,) = self._exchange(self._tree.take())
        parts = packed.split([value[0].numel() for value in values])
        return [part.view(value.shape[1:]) for part, value in zip(parts, values, strict=True)]

    def _call(self, function: Callable[[int], T], position: int) -> T:
        with self._permits, acting_as(_Member(self, position)):
            try:
                return function(position)
            except BaseException:
                self._barrier.abort()
                raise

    def _act(self) -> None:
        """What the last thread does when all have come."""
        self._result = self._finish(self._exchange(self._tree.take()))


class _Member:
    """One shard as the collectives see it.

    Args:
        group: its group.
        position: in `group.own`.
    """

    def __init__(self, group: ShardGroup, position: int) -> None:
        self.num_replicas = group.num_replicas
        self._group, self._position = group, position

    def reduce_(self, x: Tensor) -> None:
        """Replace a contiguous tensor by its sum over all shards."""
        x.copy_(self._group.reduce(self._position, [x], lambda sums: sums[0].clone()))
