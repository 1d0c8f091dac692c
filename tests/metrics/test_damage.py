"""Known damage to synthetic features is ranked rightly by every metric that claims to see it."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ganscale.metrics import (
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold_scores,
    mode_statistics,
    moments,
    nearest_modes,
    precision_recall,
)

SIZE, MODES, COUNT = 16, 10, 800


def draw(count: int, seed: int) -> Tensor:
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed))


CENTRES = 6.0 * draw(MODES, 99)


def mixture(seed: int, *, modes: int = MODES, noise: float = 0.0) -> Tensor:
    """Samples of the first `modes` of ten distant clusters, with noise added."""
    labels = torch.randint(modes, (COUNT,), generator=torch.Generator().manual_seed(seed))
    return CENTRES[labels] + draw(COUNT, seed + 1000) + noise * draw(COUNT, seed + 2000)


REAL = mixture(1)


def kernel(fake: Tensor) -> float:
    return -kernel_distance(REAL, fake, subsets=5, subset_size=400, seed=0).value


def frechet(fake: Tensor) -> float:
    return -frechet_distance(moments(REAL), moments(fake))


def score(fake: Tensor) -> float:
    """With a classifier that is as sure as a sample is near to a centre."""
    return inception_score((-torch.cdist(fake, CENTRES)).softmax(1), splits=1).mean


def evenness(fake: Tensor) -> float:
    return -mode_statistics(nearest_modes(fake, CENTRES), MODES).kl


SEES_NOISE: dict[str, Callable[[Tensor], float]] = {
    "frechet": frechet,
    "kernel": kernel,
    "inception": score,
    "precision": lambda fake: precision_recall(REAL, fake)[0],
    "density": lambda fake: density_coverage(REAL, fake)[0],
}
SEES_DROPPED_MODES: dict[str, Callable[[Tensor], float]] = {
    "frechet": frechet,
    "kernel": kernel,
    "inception": score,
    "recall": lambda fake: precision_recall(REAL, fake)[1],
    "coverage": lambda fake: density_coverage(REAL, fake)[1],
    "evenness": evenness,
}


@pytest.mark.parametrize("metric", list(SEES_NOISE))
def test_more_noise_is_worse(metric: str) -> None:
    values = [SEES_NOISE[metric](mixture(2, noise=noise)) for noise in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert all(worse < better for better, worse in pairwise(values)), values


@pytest.mark.parametrize("metric", list(SEES_DROPPED_MODES))
def test_fewer_modes_are_worse(metric: str) -> None:
    values = [SEES_DROPPED_MODES[metric](mixture(2, modes=modes)) for modes in (10, 7, 4, 1)]
    assert all(worse < better for better, worse in pairwise(values)), values


def test_what_is_left_of_the_modes_is_no_less_precise() -> None:
    whole = manifold_scores(REAL, mixture(2))
    for modes in (7, 4, 1):
        rest = manifold_scores(REAL, mixture(2, modes=modes))
        assert rest.precision > whole.precision - 0.1
        assert rest.recall <= modes / MODES + 0.05
        assert rest.coverage <= modes / MODES + 0.05
    assert whole.coverage > 0.9
