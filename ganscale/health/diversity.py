"""How much the examples of a batch differ, from sums that add up over replicas.

Examples are seen along a few random directions. The sums of their coordinates and of the squares give the variance of
the whole batch, wherever its rows lie, and mean pairwise distances follow: E|x - y|^2 = 2 tr Cov(x).
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ganscale.parallel.random import Stream

NUM_DIRECTIONS = 32
NUM_SUMS = NUM_DIRECTIONS + 2
LARGEST = 16
"""Pixels of height and width that an image is averaged down to before it is projected."""


@torch.no_grad()
def spread_sums(x: Tensor) -> Tensor:
    """Sums over the rows of a batch: coordinates along each direction, their squares, and 1.

    Args:
        x: images `[N, C, H, W]` or points `[N, D]`.

    Returns:
        `[NUM_SUMS]`, without waiting for the device.
    """
    if x.dim() == 4:
        x = adaptive_avg_pool2d(x.contiguous(), (min(LARGEST, x.shape[2]), min(LARGEST, x.shape[3])))
    flat = x.flatten(1)
    seen = flat @ _directions(flat.shape[1], flat.device, flat.dtype)
    return torch.cat((seen.sum(0), seen.square().sum().view(1), seen.new_full((1,), float(seen.shape[0]))))


def diversity(sums: Sequence[float]) -> float:
    """Root mean square distance of two examples of a batch, per dimension, from its `spread_sums`.

    Args:
        sums: of the batch, `[NUM_SUMS]`.
    """
    *_, squares, rows = sums
    inside = squares / rows - sum(mean**2 for mean in _means(sums))
    return math.sqrt(max(0.0, 2.0 * inside)) if math.isfinite(inside) else math.nan


def mean_gap(one: Sequence[float], other: Sequence[float]) -> float:
    """Root mean square distance of the means of two batches, per dimension, from their `spread_sums`.

    Args:
        one: sums of one batch, `[NUM_SUMS]`.
        other: sums of the other, `[NUM_SUMS]`.
    """
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(_means(one), _means(other), strict=True)))


def _means(sums: Sequence[float]) -> list[float]:
    return [total / sums[-1] for total in sums[:NUM_DIRECTIONS]]


@lru_cache(maxsize=8)
def _directions(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Random directions `[size, NUM_DIRECTIONS]`, the same for every run; |x W|^2 is |x|^2 / size on average."""
    rows = Stream(0, "diversity").normal(0, NUM_DIRECTIONS, (size,), torch.float64)
    return (rows.T / math.sqrt(size * NUM_DIRECTIONS)).to(device=device, dtype=dtype).contiguous()
