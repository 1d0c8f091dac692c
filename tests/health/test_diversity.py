"""Diversity is that of all pairs, whoever holds the rows; gaps are those of the means."""

import math

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from ganscale.health.diversity import NUM_DIRECTIONS, NUM_SUMS, diversity, mean_gap, spread_sums


def points(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sums_of_shares_are_the_sums_of_the_batch() -> None:
    x = points(12, 7)
    parts = spread_sums(x[:5]) + spread_sums(x[5:])
    assert parts.shape == (NUM_SUMS,)
    assert parts[-1] == 12
    torch.testing.assert_close(parts, spread_sums(x))


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    """In as many dimensions as directions the projection is close to a rotation on average."""
    x = points(200, 2000)
    pairs = torch.cdist(x, x).square().mean() / 2000
    assert diversity(spread_sums(x).tolist()) == pytest.approx(math.sqrt(pairs), rel=0.05)
    assert diversity(spread_sums(3.0 * x + 1.0).tolist()) == pytest.approx(3 * math.sqrt(pairs), rel=0.05)


def test_equal_examples_have_none() -> None:
    assert diversity(spread_sums(points(1, 5).expand(9, 5)).tolist()) == pytest.approx(0.0, abs=1e-6)


def test_the_gap_is_the_distance_of_the_means() -> None:
    x = points(50, 2000)
    shift = 0.5 * points(1, 2000, seed=1)
    gap = mean_gap(spread_sums(x).tolist(), spread_sums(x + shift).tolist())
    assert gap == pytest.approx(math.sqrt(shift.square().mean()), rel=0.3), "one direction of 2000, seen along 32"
    assert mean_gap(spread_sums(x).tolist(), spread_sums(x).tolist()) == 0.0


def test_large_images_are_looked_at_from_afar() -> None:
    x = points(4, 3 * 48 * 48).view(4, 3, 48, 48)
    torch.testing.assert_close(spread_sums(x), spread_sums(adaptive_avg_pool2d(x, (16, 16))))
    small = x[..., :9, :9]
    torch.testing.assert_close(spread_sums(small), spread_sums(small.flatten(1)))


def test_what_is_not_finite_stays_so() -> None:
    x = points(4, 3)
    x[1] = math.nan
    assert math.isnan(diversity(spread_sums(x).tolist()))
    assert NUM_DIRECTIONS == NUM_SUMS - 2
