"""Fréchet distance between Gaussians fitted to features (Heusel et al. 2017, Eq. 6; of Inception features the FID)."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ganscale.evaluation.metrics.checks import check_features, check_finite

_CHUNK = 4096


@dataclass(frozen=True)
class Moments:
    """First two moments of a set of features, on the CPU in float64.

    Attributes:
        count: number of samples N, at least 2.
        mean: `[D]`.
        covariance: with N - 1 in the denominator, `[D, D]`.
    """

    count: int
    mean: Tensor
    covariance: Tensor

    @cached_property
    def root(self) -> Tensor:
        """R `[D, rank]` with R R^T = C."""
        return _root(self.covariance)


def moments(features: Tensor) -> Moments:
    """Mean and unbiased covariance of features, summed in float64.

    The rows are read in chunks of fixed size, and the mean is subtracted before anything is squared.

    Args:
        features: `[N, D]` with N >= 2, of any floating-point type, on any device.

    Raises:
        ValueError: empty, not a matrix, fewer than 2 rows, or not finite.
    """
    check_features("features", features, at_least=2, reason="a covariance")
    count, size = features.shape
    total = torch.zeros(size, dtype=torch.float64, device=features.device)
    for chunk in features.split(_CHUNK):
        total += chunk.sum(0, dtype=torch.float64)
    mean = total / count
    scatter = torch.zeros(size, size, dtype=torch.float64, device=features.device)
    for chunk in features.split(_CHUNK):
        centered = chunk.to(torch.float64) - mean
        scatter.addmm_(centered.T, centered)
    return Moments(count, mean.cpu(), (scatter / (count - 1)).cpu())


def frechet_distance(real: Moments, fake: Moments) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau 1982, Eq. 4), at least 0, in squared units.

    tr (C1 C2)^(1/2) = tr (C1^(1/2) C2 C1^(1/2))^(1/2) is the sum of the singular values of C1^(1/2) C2^(1/2). In this
    form nothing is ever complex, and directions without variance (N <= D) do no harm.

    Args:
        real: moments of real features with D dimensions.
        fake: moments of the samples' features with D dimensions.

    Raises:
        ValueError: different numbers of dimensions, wrong shapes, or numbers that are not finite.
    """
    for name, side in (("real", real), ("fake", fake)):
        size = len(side.mean)
        if side.mean.dim() != 1 or side.covariance.shape != (size, size):
            shapes = f"{list(side.mean.shape)} and {list(side.covariance.shape)}"
            raise ValueError(f"{name} mean and covariance must have the shapes [D] and [D, D], not {shapes}")
        check_finite(f"{name} mean", side.mean)
        check_finite(f"{name} covariance", side.covariance)
    if len(real.mean) != len(fake.mean):
        raise ValueError(f"real features have {len(real.mean)} dimensions and fake features {len(fake.mean)}")
    distance = (real.mean.double() - fake.mean.double()).square().sum()
    overlap = torch.linalg.svdvals(real.root.T @ fake.root).sum()
    distance += real.covariance.double().trace() + fake.covariance.double().trace() - 2.0 * overlap
    return max(0.0, float(distance))


def _root(covariance: Tensor) -> Tensor:
    """R `[D, rank]` with R R^T = C. Eigenvalues that are only rounding errors, relative to the largest, count as 0.

    They must not stay: the square root would turn an error of 1e-16 into one of 1e-8 in each direction.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    threshold = values.abs().max() * len(values) * torch.finfo(torch.float64).eps
    real = values > threshold
    return vectors[:, real] * values[real].sqrt()
