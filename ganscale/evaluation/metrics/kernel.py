"""Kernel distance: unbiased squared MMD, polynomial kernel (Binkowski et al. 2018; of Inception features the KID)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ganscale.evaluation.metrics.checks import check_pair
from ganscale.parallel.collectives import Replica, all_reduce_sum
from ganscale.parallel.random import permutation

_ALONE = Replica()


@dataclass(frozen=True)
class KernelDistance:
    """A kernel distance with its error bar.

    Attributes:
        value: an unbiased estimate of the squared MMD: 0 on average for equal distributions, so it may be negative.
        standard_error: of `value` as an estimate for the two distributions. It covers the randomness of the samples as
            well as that of the subsets, which alone (the spread over subsets / sqrt(subsets)) is far too small.
    """

    value: float
    standard_error: float


def kernel_distance(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int, replica: Replica = _ALONE
) -> KernelDistance:
    """Mean over random subsets of the unbiased squared MMD, k(x, y) = (x.y / D + 1)^3 (Binkowski et al. 2018, Eq. 4).

    Subset s of each side is a function of (seed, s, number of samples), drawn without replacement. The subsets are
    shared out among the replicas, who all hold all features; the result is the same for any number of them.

    Args:
        real: features `[N, D]`, N >= subset_size.
        fake: features `[M, D]`, M >= subset_size.
        subsets: how many to average over, at least 2.
        subset_size: samples of each side in a subset, at least 2.
        seed: of the subsets.
        replica: this process among those that compute together.

    Raises:
        ValueError: too few samples, wrong shapes, or features that are not finite.
    """
    if subsets < 2 or subset_size < 2:
        raise ValueError(f"subsets and subset_size must be at least 2, not {subsets} and {subset_size}")
    check_pair(real, fake, at_least=subset_size, reason=f"a subset of {subset_size}")
    sides = ((real, "real"), (fake, "fake"))
    found = torch.zeros(subsets, 2, 3, dtype=torch.float64, device=real.device)
    for subset in range(replica.rank, subsets, replica.world_size):
        x, y = (_subset(side, subset_size, seed, f"kernel_distance/{name}/{subset}") for side, name in sides)
        within_x, within_y, across = _kernel(x, x), _kernel(y, y), _kernel(x, y)
        found[subset, 0] = _witness(within_x, across)
        found[subset, 1] = _witness(within_y, across.T)
    if replica.world_size > 1:
        found = all_reduce_sum(found)
    values = found[:, :, 0].sum(1)
    counts = torch.tensor([len(real), len(fake)], dtype=torch.float64, device=real.device)
    first, second = found[:, :, 1].mean(0).clamp_min(0.0), found[:, :, 2].mean(0)
    sampling = 4.0 * first / counts + 2.0 * second / counts.square()
    return KernelDistance(float(values.mean()), float((values.var() / subsets + sampling.sum()).sqrt()))


def _subset(features: Tensor, size: int, seed: int, stream: str) -> Tensor:
    rows = permutation(seed, stream, len(features))[:size]
    return features[rows.to(features.device)].double()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T).div_(x.shape[1]).add_(1.0).pow_(3)


def _witness(within: Tensor, across: Tensor) -> Tensor:
    """What one side brings to the unbiased squared MMD and to its variance: `[3]`.

    A sample's witness is how much nearer it is to the others of its own side than to the other side. The witnesses'
    means over the two sides add up to the squared MMD (Gretton et al. 2012, Eq. 3).

    Args:
        within: kernel between the side's samples, `[m, m]`.
        across: kernel between the side's samples and the other side's, `[m, m]`.

    Returns:
        The witnesses' mean; their variance, less the share of it that comes from each being a mean over m others; and
        that share times m. With N samples, 4 second / N + 2 third / N^2 is the side's part of the variance of the
        squared MMD (Hoeffding 1948, first and second order).
    """
    size = len(within)
    within = within.clone().fill_diagonal_(0.0)
    own, other = within.sum(1) / (size - 1), across.mean(1)
    own_spread = (within.square().sum(1) / (size - 1) - own.square()) / (size - 1)
    other_spread = (across.square().mean(1) - other.square()) / size
    witness, spread = own - other, (own_spread + other_spread).mean()
    return torch.stack((witness.mean(), witness.var() - spread, spread * size))
