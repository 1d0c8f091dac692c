"""Kernel distance: unbiased squared MMD, polynomial kernel (Binkowski et al. 2018; of Inception features the KID)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ganscale.collectives import Replica, all_reduce_sum
from ganscale.metrics.checks import check_pair
from ganscale.random import permutation

_ALONE = Replica()


@dataclass(frozen=True)
class KernelDistance:
    """A kernel distance with its error bar.

    Attributes:
        value: an unbiased estimate of the squared MMD: 0 on average for equal distributions, so it may be negative.
        standard_error: of `value` as an estimate for the two distributions: it covers the samples' own randomness and
            the drawing of subsets. Too large rather than too small where the distributions are equal.
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
    found = torch.zeros(subsets, 3, dtype=torch.float64, device=real.device)
    for subset in range(replica.rank, subsets, replica.world_size):
        real_rows = permutation(seed, f"kernel_distance/real/{subset}", len(real))[:subset_size]
        fake_rows = permutation(seed, f"kernel_distance/fake/{subset}", len(fake))[:subset_size]
        x, y = real[real_rows.to(real.device)].double(), fake[fake_rows.to(fake.device)].double()
        real_witness, fake_witness = _witness(x, y)
        found[subset, 0] = real_witness.mean() + fake_witness.mean()
        found[subset, 1] = real_witness.var()
        found[subset, 2] = fake_witness.var()
    if replica.world_size > 1:
        found = all_reduce_sum(found)
    values, real_variance, fake_variance = found.unbind(1)
    sampling = 4.0 * (real_variance.mean() / len(real) + fake_variance.mean() / len(fake))
    error = (values.var() / subsets + sampling).sqrt()
    return KernelDistance(float(values.mean()), float(error))


def _witness(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """How much nearer each sample is to its own side than to the other: `[m]` for x and for y.

    Their means add up to the unbiased squared MMD (Gretton et al. 2012, Eq. 3). Twice a sample's value is its
    first-order share in that, so that 4 Var / N is the variance that N samples of its side bring (Hoeffding 1948).
    """
    size = len(x)
    within_x, within_y, across = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    x_own = (within_x.sum(1) - within_x.diagonal()) / (size - 1)
    y_own = (within_y.sum(1) - within_y.diagonal()) / (size - 1)
    return x_own - across.mean(1), y_own - across.mean(0)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T).div_(x.shape[1]).add_(1.0).pow_(3)
