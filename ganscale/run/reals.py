"""Real images among which a table of samples looks for the nearest: read once, reduced, and bounded in number."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ganscale.data.source import Indexed
from ganscale.inference.neighbors import block_rows

SIDE = 64
"""Pixels a side of the images that are searched, at most."""
READ_BYTES = 2**31
"""Bytes of the images that are read, at one per value, at most: 682 of 1024² pixels, more than 10,000 of 256²."""
KEPT_BYTES = 2**28
"""Bytes of the reduced images, at most: 21,845 of 64² pixels; they stay in memory and are compared for each table."""


def most(shape: Sequence[int]) -> int:
    """How many images are searched, at most: the others wait in a collective while worker 0 does.

    Args:
        shape: of one, (channels, height, width).
    """
    channels, *sides = shape
    return max(1, min(READ_BYTES // prod(shape), KEPT_BYTES // (channels * prod(min(side, SIDE) for side in sides))))


def reduced(images: Tensor) -> Tensor:
    """Images of at most `SIDE` pixels a side, by the means of areas.

    Args:
        images: `[n, C, H, W]`.
    """
    sides = [min(side, SIDE) for side in images.shape[2:]]
    return images if sides == list(images.shape[2:]) else interpolate(images, sides, mode="area")


class ReducedImages(Indexed):
    """Images of a set, read once, with at most `SIDE` pixels a side and a byte per value.

    Args:
        source: the set.
        rows: of it, int64 `[M]`.

    Attributes:
        num_images: M.
    """

    def __init__(self, source: Indexed, rows: Tensor) -> None:
        self.num_images = len(rows)
        size = block_rows(source.gather(rows[:1])[0].numel())
        self._images = torch.cat([self._bytes(source.gather(block)[0]) for block in rows.split(size)])

    @staticmethod
    def _bytes(images: Tensor) -> Tensor:
        return ((reduced(images.float()) + 1.0) * 127.5).round().clamp(0.0, 255.0).to(torch.uint8).cpu()

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1], float32, and their numbers.

        Args:
            rows: of those that were read, int64 `[n]`.
        """
        return self._images[rows].float() / 127.5 - 1.0, rows
