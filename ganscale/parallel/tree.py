"""Sums over shards in one fixed order, whichever process holds which shards: up a binary tree.

Node (level, index) is the sum of the shards from `index << level` to `(index + 1) << level`, of those that there are.
A process that holds a contiguous run of shards has the sums of the largest nodes inside of it, at most 2 log2(shards);
the rest of the tree is added up where all of these come together.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ganscale.parallel.clock import COMMUNICATION
from ganscale.parallel.replica import Replica

Node = tuple[int, int]
SMALL = 1 << 12
"""Numbers up to which every process gets all partial sums at once, instead of a share of them to add up for all."""


def subtrees(size: int, start: int, stop: int) -> list[Node]:
    """The largest nodes that hold the shards `start` to `stop - 1`, from left to right.

    Args:
        size: number of all shards.
        start: first shard.
        stop: shard after the last.
    """
    nodes = []
    while start < stop:
        level = 0
        while level < _depth(size) and start % (2 << level) == 0 and min(start + (2 << level), size) <= stop:
            level += 1
        nodes.append((level, start >> level))
        start = min(start + (1 << level), size)
    return nodes


def _depth(size: int) -> int:
    return (size - 1).bit_length()


class TreeSum:
    """Adds tensors of a run of shards as soon as both halves of a node are there, in any order of arrival.

    Args:
        size: number of all shards.
        start: first shard of the run.
        stop: shard after the last; None for all.

    Attributes:
        nodes: sums that are still to be added, by node.
    """

    def __init__(self, size: int, start: int = 0, stop: int | None = None) -> None:
        self._size, self._start, self._stop = size, start, size if stop is None else stop
        self.nodes: dict[Node, list[Tensor]] = {}

    def add(self, node: Node, tensors: list[Tensor]) -> None:
        """Add the sums of a node; they may be overwritten.

        Args:
            node: of the run.
            tensors: of the same shapes for every node.
        """
        level, index = node
        while self._holds(level + 1, index // 2):
            sibling = (level, index ^ 1)
            if sibling in self.nodes:
                other = self.nodes.pop(sibling)
                left, right = (other, tensors) if index % 2 else (tensors, other)
                if left:
                    torch._foreach_add_(left, right)  # pyright: ignore[reportPrivateImportUsage]
                tensors = left
            elif sibling[1] << level < self._size:
                break  # it comes later
            level, index = level + 1, index // 2
        self.nodes[level, index] = tensors

    def take(self) -> list[list[Tensor]]:
        """The sums of `subtrees` of the run, from left to right, once all shards have come; empties the tree."""
        nodes = subtrees(self._size, self._start, self._stop)
        assert self.nodes.keys() == set(nodes), "every shard has come once"
        found = [self.nodes[node] for node in nodes]
        self.nodes.clear()
        return found

    def _holds(self, level: int, index: int) -> bool:
        first, last = index << level, min((index + 1) << level, self._size)
        return level <= _depth(self._size) and self._start <= first and last <= self._stop


class TreeExchange:
    """The rest of the sum, over processes: each has the sums of its run's `subtrees`.

    Each process adds up one share of the numbers for all, so that with one partial sum per process, as where the number
    of processes divides a power of two of shards, as many bytes are sent as by a ring all-reduce.

    Args:
        size: number of all shards.
        replica: this process.
    """

    def __init__(self, size: int, replica: Replica) -> None:
        self._size, self._rank, self._world_size = size, replica.rank, replica.world_size
        runs = (Replica(rank, replica.world_size).rows(size)[0] for rank in range(replica.world_size))
        self._nodes = [subtrees(size, *run) for run in runs]

    def __call__(self, partial_sums: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Sums over all shards; a collective call.

        Args:
            partial_sums: of this process's `subtrees`, from left to right: tensors of the same shapes and type.
        """
        like = partial_sums[0]
        if self._world_size == 1:
            return list(like)
        flat = torch.stack([torch.cat([each.reshape(-1) for each in tensors]) for tensors in partial_sums])
        with COMMUNICATION:
            total = self._gather(flat) if flat.shape[1] <= SMALL else self._share(flat)
        parts = total.split([each.numel() for each in like])
        return [part.view(each.shape) for part, each in zip(parts, like, strict=True)]

    def _gather(self, flat: Tensor) -> Tensor:
        """Every process adds up everything: `[nodes, size]` to `[size]`."""
        most = max(map(len, self._nodes))
        own = flat.new_zeros(most, flat.shape[1])
        own[: len(flat)] = flat
        found = [torch.empty_like(own) for _ in self._nodes]
        dist.all_gather(found, own)
        return self._add([rows[: len(nodes)] for rows, nodes in zip(found, self._nodes, strict=True)])

    def _share(self, flat: Tensor) -> Tensor:
        """Every process adds up an equal share of the numbers: `[nodes, size]` to `[size]`."""
        count, size = flat.shape
        share = -(-size // self._world_size)
        own = flat.new_zeros(count, share * self._world_size)
        own[:, :size] = flat
        sent = own.view(count, self._world_size, share).transpose(0, 1).contiguous().view(-1)
        sizes = [len(nodes) * share for nodes in self._nodes]
        received = flat.new_empty(sum(sizes))
        dist.all_to_all_single(received, sent, sizes, [count * share] * self._world_size)
        added = self._add([part.view(-1, share) for part in received.split(sizes)])
        whole = flat.new_empty(self._world_size, share)
        dist.all_gather(list(whole.unbind()), added)
        return whole.view(-1)[:size]

    def _add(self, found: Sequence[Tensor]) -> Tensor:
        """The root from the partial sums of all processes, `[nodes, size]` each."""
        tree = TreeSum(self._size)
        for nodes, rows in zip(self._nodes, found, strict=True):
            for node, row in zip(nodes, rows.unbind(), strict=True):
                tree.add(node, [row])
        return tree.take()[0][0]
