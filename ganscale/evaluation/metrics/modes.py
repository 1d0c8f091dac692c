"""Which modes a generator has found, and how evenly (PacGAN, Lin et al. 2018, section 4)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ganscale.evaluation.metrics.checks import check_features, check_finite, check_probabilities

HIGH_QUALITY_SIGMAS = 3.0
"""A point is of high quality within so many standard deviations of a center; in 2-D 1 - exp(-4.5) = 98.89 % are."""

_CHUNK = 8192


@dataclass(frozen=True)
class ModeStatistics:
    """Statistics of a histogram of modes.

    Attributes:
        covered: number of modes with at least one sample.
        kl: reverse KL divergence, of the samples' histogram from the wanted one, in nats; infinite when no sample has a
            mode. A perfect generator does not reach 0, but about (num_modes - 1) / 2N.
    """

    covered: int
    kl: float


def mode_statistics(labels: Tensor, num_modes: int, *, reference: Tensor | None = None) -> ModeStatistics:
    """Covered modes and reverse KL (Lin et al. 2018, section 4) of the samples' modes.

    Args:
        labels: mode of each sample in [0, num_modes), or -1 for none, int64 `[N]`. The KL is of those with a mode.
        num_modes: how many there are.
        reference: the wanted distribution `[num_modes]`; uniform without. A sample where it is 0 makes the KL infinite.

    Raises:
        ValueError: no labels, wrong shape or type, labels out of range, or a reference that is no distribution.
    """
    if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be whole numbers of the shape [N], not {labels.dtype} {list(labels.shape)}")
    if len(labels) == 0:
        raise ValueError("labels are empty")
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or high >= num_modes:
        raise ValueError(f"labels must lie in [-1, {num_modes}), but they go from {low} to {high}")
    counts = torch.bincount(labels[labels >= 0].cpu(), minlength=num_modes)
    kl = _reverse_kl(counts[None].double(), _distribution("reference", num_modes, reference))
    return ModeStatistics(int(counts.count_nonzero()), float(kl))


def nearest_modes(points: Tensor, centers: Tensor) -> Tensor:
    """The nearest center of each point, near or not: int64 `[N]`.

    PacGAN's reverse KL is of these labels; its number of modes of those that `gaussian_modes` returns.

    Args:
        points: `[N, 2]`.
        centers: of the mixture's modes, `[M, 2]`.

    Raises:
        ValueError: empty, wrong shapes, or numbers that are not finite.
    """
    return _nearest(points, centers)[1]


def gaussian_modes(points: Tensor, centers: Tensor, sigma: float) -> tuple[Tensor, float]:
    """The mode of each point of a 2-D mixture, and the share of high quality (Lin et al. 2018, section 4.1).

    Args:
        points: `[N, 2]`.
        centers: of the mixture's modes, `[M, 2]`.
        sigma: standard deviation of each mode, above 0.

    Returns:
        Modes, int64 `[N]`: the nearest center where it is within 3 sigma (high quality), else -1; and the share of
        points of high quality, in [0, 1]: 0.9889 on average for a perfect generator.

    Raises:
        ValueError: empty, wrong shapes, numbers that are not finite, or a sigma that is not above 0.
    """
    if not 0.0 < sigma < math.inf:
        raise ValueError(f"sigma must be above 0 and finite, not {sigma}")
    distances, nearest = _nearest(points, centers)
    high_quality = distances <= HIGH_QUALITY_SIGMAS * sigma
    return torch.where(high_quality, nearest, -1), float(high_quality.double().mean())


def _nearest(points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest center and its index, `[N]` each; of equally near ones the first."""
    check_features("points", points)
    check_features("centers", centers)
    if points.shape[1] != centers.shape[1]:
        raise ValueError(f"points have {points.shape[1]} dimensions and centers {centers.shape[1]}")
    wide = centers.to(points.device, torch.float64)
    found = [torch.linalg.vector_norm(chunk.double()[:, None] - wide, dim=2).min(1) for chunk in points.split(_CHUNK)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def _distribution(name: str, num_modes: int, given: Tensor | None) -> Tensor:
    """A distribution over modes in float64 on the CPU, scaled to add up to 1; uniform when none is given."""
    if num_modes < 1:
        raise ValueError(f"num_modes must be at least 1, not {num_modes}")
    if given is None:
        return torch.full((num_modes,), 1.0 / num_modes, dtype=torch.float64)
    if given.shape != (num_modes,):
        raise ValueError(f"{name} must have the shape [{num_modes}], not {list(given.shape)}")
    check_finite(name, given)
    check_probabilities(name, given)
    wide = given.detach().cpu().double()
    return wide / wide.sum()


def _reverse_kl(counts: Tensor, reference: Tensor) -> Tensor:
    """KL(histogram || reference) of each row of counts `[S, M]`: `[S]`; infinite for a row of zeros."""
    totals = counts.sum(1)
    shares = counts / totals.clamp_min(1.0)[:, None]
    kl = torch.where(shares > 0, shares * (shares / reference).log(), 0.0).sum(1).clamp_min(0.0)
    return torch.where(totals > 0, kl, math.inf)
