"""How much the examples of a batch differ, and how far two batches are apart, from sums that add up over replicas.

Examples are seen along a few random directions. The sums of their coordinates and of the squares give mean and variance
of the whole batch along each, wherever its rows lie, and mean pairwise distances follow: E|x - y|^2 = 2 tr Cov(x).
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ganscale.parallel.random import Stream

NUM_DIRECTIONS = 32
NUM_SUMS = 2 * NUM_DIRECTIONS + 2
LARGEST = 16
"""Pixels of height and width that an image is averaged down to before it is projected."""
EQUAL = 1e-6
"""Relative difference of two coordinates that equal examples may have by rounding."""


@torch.no_grad()
def spread_sums(x: Tensor) -> Tensor:
    """Sums over the rows of a batch: coordinates along each direction, their squares, copies of other rows, and 1.

    Args:
        x: images `[N, C, H, W]` or points `[N, D]`.

    Returns:
        `[NUM_SUMS]`, without waiting for the device.
    """
    if x.dim() == 4:
        x = adaptive_avg_pool2d(x.contiguous(), (min(LARGEST, x.shape[2]), min(LARGEST, x.shape[3])))
    flat = x.flatten(1)
    seen = flat @ _directions(flat.shape[1], flat.device, flat.dtype)
    first = seen[:, 0].sort().values
    copies = (first.diff() <= EQUAL * first.abs().amax()).sum().to(seen.dtype).view(1)
    return torch.cat((seen.sum(0), seen.square().sum(0), copies, seen.new_full((1,), float(seen.shape[0]))))


def diversity(sums: Sequence[float]) -> float:
    """Root mean square distance of two examples of a batch, per dimension, from its `spread_sums`.

    Args:
        sums: of the batch, `[NUM_SUMS]`.
    """
    inside = sum(_variances(sums))
    return math.sqrt(2.0 * inside) if math.isfinite(inside) else math.nan


def mean_gap(one: Sequence[float], other: Sequence[float]) -> float:
    """Root mean square distance of the means of two batches, per dimension, from their `spread_sums`.

    Args:
        one: sums of one batch, `[NUM_SUMS]`.
        other: sums of the other, `[NUM_SUMS]`.
    """
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(_means(one), _means(other), strict=True)))


def copies(sums: Sequence[float]) -> float:
    """Share of a batch's examples that equal another one on their worker, from its `spread_sums`; in [0, 1).

    Args:
        sums: of the batch, `[NUM_SUMS]`.
    """
    return sums[-2] / sums[-1]


def sliced_frechet(real: Sequence[float], fake: Sequence[float], *, chance: float = 1.5) -> float:
    """Frechet distance of Gaussians along each direction, summed, over the reals' variance; from `spread_sums`.

    0 where means and variances agree along all directions, 1 where all fakes are the reals' mean. What finite batches
    add is subtracted: on average a batch of n adds 1/n of its variance by its mean, and half of that by its deviations
    (if they are those of normal numbers).

    Args:
        real: sums of the reals, `[NUM_SUMS]`.
        fake: sums of the fakes, `[NUM_SUMS]`.
        chance: times 1/n that is subtracted; more for a distance that hardly any two batches of the same examples have.
    """
    variances = _variances(real), _variances(fake)
    means = sum((a - b) ** 2 for a, b in zip(_means(real), _means(fake), strict=True))
    deviations = sum((math.sqrt(a) - math.sqrt(b)) ** 2 for a, b in zip(*variances, strict=True))
    added = chance * (sum(variances[0]) / real[-1] + sum(variances[1]) / fake[-1])
    return max(means + deviations - added, 0.0) / max(sum(variances[0]), 1e-12)


def _means(sums: Sequence[float]) -> list[float]:
    return [total / sums[-1] for total in sums[:NUM_DIRECTIONS]]


def _variances(sums: Sequence[float]) -> list[float]:
    """Along each direction; NaN stays, as it is the first argument of max."""
    squares = sums[NUM_DIRECTIONS : 2 * NUM_DIRECTIONS]
    return [max(square / sums[-1] - mean**2, 0.0) for square, mean in zip(squares, _means(sums), strict=True)]


@lru_cache(maxsize=8)
def _directions(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Random directions `[size, NUM_DIRECTIONS]`, the same for every run; |x W|^2 is |x|^2 / size on average."""
    rows = Stream(0, "diversity").normal(0, NUM_DIRECTIONS, (size,), torch.float64)
    return (rows.T / math.sqrt(size * NUM_DIRECTIONS)).to(device=device, dtype=dtype).contiguous()
