"""Input that no metric can use is refused, and the message says what is wrong with it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ganscale.evaluation.metrics.frechet import Moments, frechet_distance, moments
from ganscale.evaluation.metrics.inception import inception_score
from ganscale.evaluation.metrics.kernel import kernel_distance
from ganscale.evaluation.metrics.manifold import manifold_scores
from ganscale.evaluation.metrics.modes import gaussian_modes, mode_statistics, nearest_modes


def features(rows: int = 12, size: int = 3) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(rows))


def broken() -> Tensor:
    """Three numbers that are not finite, in two rows."""
    x = features()
    x[2, 0], x[2, 1], x[7, 2] = math.nan, math.inf, -math.inf
    return x


def kid(real: Tensor, fake: Tensor, subset_size: int = 4, subsets: int = 3) -> Any:
    return kernel_distance(real, fake, subsets=subsets, subset_size=subset_size, seed=0)


PAIRS: dict[str, Callable[[Tensor, Tensor], Any]] = {"kernel": kid, "manifold": manifold_scores}


@pytest.mark.parametrize("metric", list(PAIRS))
@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (features(), broken(), r"fake features has 3 numbers that are not finite, in 2 of 12 rows"),
        (broken(), features(), r"real features has 3 numbers that are not finite, in 2 of 12 rows"),
        (features(), features(0), r"fake features is empty: its shape is \[0, 3\]"),
        (features(12, 0), features(), r"real features is empty: its shape is \[12, 0\]"),
        (features(), features().flatten(), r"fake features must have the shape \[N, D\], not \[36\]"),
        (features(), features().long(), r"fake features must be floating-point numbers, not torch.int64"),
        (features(), features(12, 4), r"real features have 3 dimensions and fake features 4"),
        (features(3), features(), r"real features has 3 rows, but .* needs at least"),
        (features(), features(3), r"fake features has 3 rows, but .* needs at least"),
    ],
)
def test_unusable_pairs(metric: str, real: Tensor, fake: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PAIRS[metric](real, fake)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moments(broken()), "features has 3 numbers that are not finite, in 2 of 12 rows"),
        (lambda: moments(features(1)), "features has 1 rows, but a covariance needs at least 2"),
        (lambda: moments(features(0)), "features is empty"),
        (lambda: kid(features(), features(), subset_size=13), "12 rows, but a subset of 13 needs at least 13"),
        (lambda: kid(features(), features(), subsets=1), "must be at least 2, not 1 and 4"),
        (lambda: kid(features(), features(), subset_size=1), "must be at least 2, not 3 and 1"),
        (lambda: manifold_scores(features(), features(), precision_k=0), "k must be at least 1, not 0"),
        (lambda: manifold_scores(features(), features(), density_k=12), "a radius to neighbor 12 needs at least 13"),
        (lambda: inception_score(torch.full((9, 2), 0.5)), "9 rows, but a score of 10 splits needs at least 10"),
        (lambda: inception_score(torch.full((9, 2), 0.5), splits=0), "splits must be at least 1, not 0"),
        (lambda: inception_score(torch.full((20, 2), 0.6)), r"must add up to 1; they are off by up to 0.2 \(are they"),
        (lambda: inception_score(torch.tensor([[1.5, -0.5]]).repeat(20, 1)), "not be negative; the smallest is -0.5"),
        (lambda: inception_score(torch.full((20, 2), math.nan)), "40 numbers that are not finite, in 20 of 20 rows"),
        (lambda: mode_statistics(torch.tensor([0, 5]), 5), r"lie in \[-1, 5\), but they go from 0 to 5"),
        (lambda: mode_statistics(torch.tensor([-2, 1]), 5), r"lie in \[-1, 5\), but they go from -2 to 1"),
        (lambda: mode_statistics(torch.tensor([0.5]), 5), r"not torch.float32 \[1\]"),
        (lambda: mode_statistics(torch.zeros(2, 2).long(), 5), r"not torch.int64 \[2, 2\]"),
        (lambda: mode_statistics(torch.zeros(0).long(), 5), "labels are empty"),
        (lambda: mode_statistics(torch.tensor([-1]), 0), "num_modes must be at least 1, not 0"),
        (lambda: mode_statistics(torch.tensor([0]), 2, reference=torch.ones(3) / 3), r"shape \[2\], not \[3\]"),
        (lambda: mode_statistics(torch.tensor([0]), 2, reference=torch.ones(2)), "reference must add up to 1"),
        (lambda: gaussian_modes(features(5, 2), features(4, 2), 0.0), "sigma must be above 0 and finite, not 0.0"),
        (lambda: gaussian_modes(features(5, 2), features(4, 2), math.nan), "sigma must be above 0 and finite, not nan"),
        (lambda: gaussian_modes(features(5, 2), features(4, 3), 1.0), "points have 2 dimensions and centers 3"),
        (lambda: nearest_modes(broken(), features()), "points has 3 numbers that are not finite"),
        (lambda: nearest_modes(features(), features(0)), "centers is empty"),
    ],
)
def test_unusable_input(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (torch.zeros(3), torch.eye(2), r"shapes \[D\] and \[D, D\], not \[3\] and \[2, 2\]"),
        (torch.zeros(2, 2), torch.eye(2), r"not \[2, 2\] and \[2, 2\]"),
        (torch.zeros(3), torch.eye(3), "real features have 2 dimensions and fake features 3"),
        (torch.tensor([0, math.nan]), torch.eye(2), "fake mean has 1 numbers that are not finite, in 1 of 2 rows"),
        (torch.zeros(2), torch.eye(2) * math.inf, "fake covariance has"),
    ],
)
def test_unusable_moments(mean: Tensor, covariance: Tensor, message: str) -> None:
    good = Moments(5, torch.zeros(2).double(), torch.eye(2).double())
    with pytest.raises(ValueError, match=message):
        frechet_distance(good, Moments(5, mean, covariance))
