"""The order in which a finite set is shown: epoch after epoch, each a permutation by (seed, epoch)."""

import torch
from torch import Tensor

from ganscale.random import permutation


class Order:
    """Rows of a set of `size` at global positions of the run's endless stream.

    Args:
        seed: the run's seed.
        size: rows of the set.
        device: where the rows are needed.
    """

    def __init__(self, seed: int, size: int, device: torch.device | str = "cpu") -> None:
        self.size = size
        self._seed = seed
        self._device = device
        self._epochs: dict[int, Tensor] = {}

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows at positions `start` to `stop - 1`: int64 `[stop - start]`."""
        pieces = []
        while start < stop:
            epoch, offset = divmod(start, self.size)
            end = min(self.size, offset + stop - start)
            pieces.append(self._epoch(epoch)[offset:end])
            start += end - offset
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            kept = {e: order for e, order in self._epochs.items() if e == epoch - 1}
            order = permutation(self._seed, f"data/order/{epoch}", self.size)
            self._epochs = {**kept, epoch: order.to(self._device)}
        return self._epochs[epoch]
