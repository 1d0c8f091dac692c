"""Diversity is that of all pairs, whoever holds the rows; gaps are those of the means."""

import math

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from ganscale.health.diversity import NUM_SUMS, copies, diversity, mean_gap, sliced_frechet, spread_sums
from ganscale.health.signals import SIGNALS
from ganscale.training.statistics import BEYOND_CHANCE


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


def test_the_sliced_distance_is_that_of_the_gaussians_along_the_directions() -> None:
    """A shift and a scale of all coordinates alike are known in closed form; other examples of the same kind have 0."""
    x, other = points(4000, 50), points(4000, 50, seed=1)
    reals = spread_sums(x).tolist()
    assert sliced_frechet(reals, spread_sums(other).tolist()) == pytest.approx(0.0, abs=2e-3)
    assert sliced_frechet(reals, spread_sums(1.5 * x).tolist()) == pytest.approx(0.25, abs=2e-3)
    assert sliced_frechet(reals, spread_sums(other.mean(0).expand(9, 50)).tolist()) == pytest.approx(1.0, abs=2e-3)
    shift = mean_gap(reals, spread_sums(x + 1.0).tolist()) ** 2 / (diversity(reals) ** 2 / 2)
    assert sliced_frechet(reals, spread_sums(x + 1.0).tolist()) == pytest.approx(shift, rel=1e-2)


@pytest.mark.parametrize(("rows", "size"), [(4, 50), (8, 2), (64, 2)])
def test_small_batches_are_near_the_data_set_beyond_chance(rows: int, size: int) -> None:
    """Verdicts need three in a row; batches of another distribution are far."""
    reference = spread_sums(points(256, size)).tolist()

    def distance(x: torch.Tensor) -> float:
        return sliced_frechet(reference, spread_sums(x).tolist(), chance=BEYOND_CHANCE)

    near = [distance(points(rows, size, seed)) for seed in range(1, 201)]
    assert sum(value > SIGNALS["data"].floor for value in near) <= 10
    assert min(distance(4.0 + points(rows, size, seed)) for seed in range(1, 21)) > 1.0


def test_a_lost_dimension_is_seen_where_mean_and_diversity_stay() -> None:
    """Two opposite modes of a ring have its mean and its diversity, but no variance across."""
    angles = torch.arange(800, dtype=torch.float64) * math.pi / 4
    ring = torch.stack((angles.cos(), angles.sin()), 1)
    two = ring[torch.arange(800) % 8 % 4 == 0]
    sums = spread_sums(ring).tolist(), spread_sums(two).tolist()
    assert diversity(sums[0]) == pytest.approx(diversity(sums[1]), rel=0.3)
    assert mean_gap(*sums) == pytest.approx(0.0, abs=1e-9)
    assert sliced_frechet(*sums) == pytest.approx(0.2, abs=0.05), "2 - 4 sqrt(2) / pi on average over all directions"


def test_copies_are_counted_per_worker() -> None:
    x = points(9, 7)
    assert copies(spread_sums(x).tolist()) == 0.0
    twice = torch.cat((x, x[:3]))
    assert copies(spread_sums(twice).tolist()) == 3 / 12
    assert copies((spread_sums(twice) + spread_sums(twice)).tolist()) == 3 / 12
    assert copies(spread_sums(torch.zeros(4, 7)).tolist()) == 3 / 4


def test_large_images_are_looked_at_from_afar() -> None:
    x = points(4, 3 * 48 * 48).view(4, 3, 48, 48)
    torch.testing.assert_close(spread_sums(x), spread_sums(adaptive_avg_pool2d(x, (16, 16))))
    small = x[..., :9, :9]
    torch.testing.assert_close(spread_sums(small), spread_sums(small.flatten(1)))


def test_what_is_not_finite_stays_so() -> None:
    x = points(4, 3)
    x[1] = math.nan
    sums = spread_sums(x).tolist()
    assert math.isnan(diversity(sums))
    assert math.isnan(sliced_frechet(spread_sums(points(4, 3)).tolist(), sums))
