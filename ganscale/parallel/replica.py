"""This process among the data-parallel replicas of a run, and its rows of a global batch."""

from dataclasses import dataclass
from itertools import pairwise

import torch.distributed as dist


@dataclass(frozen=True)
class Replica:
    """This process among the data-parallel replicas: `rank` in [0, world_size)."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, which alone writes files and calls trackers."""
        return self.rank == 0

    @staticmethod
    def current() -> "Replica":
        """This process in torch.distributed's default group, or alone when there is none."""
        if dist.is_available() and dist.is_initialized():
            return Replica(dist.get_rank(), dist.get_world_size())
        return Replica()

    def rows(self, batch_size: int, accumulation: int = 1) -> list[tuple[int, int]]:
        """The rows of a global batch that this replica takes, one (start, stop) per micro-batch.

        The batch is first cut into micro-batches and each of these into one share per replica, so that the micro-batch
        as a whole holds the same rows at any world size. Shares differ by at most one row.

        Args:
            batch_size: rows of the global batch.
            accumulation: number of micro-batches.

        Raises:
            ValueError: a replica would have no row in some micro-batch.
        """
        shares = []
        for start, stop in _cut(0, batch_size, accumulation):
            share = _cut(start, stop, self.world_size)[self.rank]
            if share[0] == share[1]:
                raise ValueError(
                    f"a global batch of {batch_size} in {accumulation} micro-batches has no row for each of "
                    f"{self.world_size} replicas"
                )
            shares.append(share)
        return shares


def _cut(start: int, stop: int, parts: int) -> list[tuple[int, int]]:
    size = stop - start
    edges = [start + size * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))
