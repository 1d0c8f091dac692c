"""Mode statistics against hand counts, and their floors against exact sums and the published figures."""

import math

import pytest
import torch
from torch import Tensor

from ganscale.data import PointSource
from ganscale.data.gaussians import GRID, RING
from ganscale.evaluation.metrics import (
    expected_kl_floor,
    gaussian_modes,
    kl_of_perfect_generators,
    mode_statistics,
    nearest_modes,
)

MNIST_DIGITS = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
"""How often each digit is in the 60,000 training images."""


def exact_floor(probabilities: Tensor, num_samples: int, reference: Tensor) -> float:
    """Each mode's count is binomial: sum its probabilities times its share of the KL over all counts."""
    n = torch.arange(num_samples + 1, dtype=torch.float64)
    ways = math.lgamma(num_samples + 1) - torch.lgamma(n + 1) - torch.lgamma(num_samples - n + 1)
    total, share = 0.0, n / num_samples
    for p, q in zip(probabilities.tolist(), reference.tolist(), strict=True):
        chance = (ways + torch.xlogy(n, torch.tensor(p)) + (num_samples - n) * math.log1p(-p)).exp()
        total += float((chance * torch.xlogy(share, share / q)).sum())
    return total


def points(name: str, count: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    centers, sigma = {"ring": RING, "grid": GRID}[name]
    return PointSource(centers, sigma, seed=seed, device=torch.device("cpu"), dtype=dtype).read(0, count)[0]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_histogram_counted_by_hand(dtype: torch.dtype) -> None:
    found = mode_statistics(torch.tensor([2, 0, 2, -1, 2, -1], dtype=dtype), 4)
    assert found.covered == 2
    assert found.kl == pytest.approx(0.25 * math.log(0.25 * 4) + 0.75 * math.log(0.75 * 4), rel=1e-12)
    wanted = torch.tensor([0.25, 0.25, 0.4, 0.1])
    expected = 0.25 * math.log(1.0) + 0.75 * math.log(0.75 / 0.4)
    assert mode_statistics(torch.tensor([2, 0, 2, 2]), 4, reference=wanted).kl == pytest.approx(expected, rel=1e-6)


def test_the_ends_of_the_scale() -> None:
    assert mode_statistics(torch.arange(10).repeat(3), 10).kl == 0.0
    assert mode_statistics(torch.arange(10).repeat(3), 10).covered == 10
    one = mode_statistics(torch.full((50,), 7), 10)
    assert (one.covered, one.kl) == (1, pytest.approx(math.log(10), rel=1e-12))
    none = mode_statistics(torch.full((50,), -1), 10)
    assert (none.covered, none.kl) == (0, math.inf)
    impossible = mode_statistics(torch.tensor([0, 1]), 2, reference=torch.tensor([1.0, 0.0]))
    assert (impossible.covered, impossible.kl) == (2, math.inf)


def test_a_reference_is_scaled_to_add_up_to_one() -> None:
    """A sum that is off by rounding does not make a perfect histogram imperfect."""
    for third in (0.3332, 0.3334):
        found = mode_statistics(torch.arange(3), 3, reference=torch.full((3,), third))
        assert found.kl == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("num_modes", "num_samples"), [(8, 2500), (25, 2500), (40, 60), (1000, 26_000)])
def test_the_uniform_floor_is_the_exact_expectation(num_modes: int, num_samples: int) -> None:
    uniform = torch.full((num_modes,), 1.0 / num_modes, dtype=torch.float64)
    drawn = kl_of_perfect_generators(num_modes, num_samples)
    exact = exact_floor(uniform[:1], num_samples, uniform[:1]) * num_modes
    assert float(drawn.mean()) == pytest.approx(exact, abs=4 * float(drawn.std()) / len(drawn) ** 0.5)
    assert expected_kl_floor(num_modes, num_samples) == float(drawn.mean())


@pytest.mark.parametrize("towards_uniform", [True, False])
def test_the_floor_of_an_uneven_distribution_is_the_exact_expectation(towards_uniform: bool) -> None:
    uneven = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0], dtype=torch.float64)
    uniform = torch.full((5,), 0.2, dtype=torch.float64)
    reference = uniform if towards_uniform else uneven
    drawn = kl_of_perfect_generators(
        5, 200, probabilities=uneven, reference=None if towards_uniform else uneven, draws=500
    )
    exact = exact_floor(uneven[:4], 200, reference[:4])
    assert float(drawn.mean()) == pytest.approx(exact, abs=4 * float(drawn.std()) / 500**0.5)
    assert drawn.std() > 0


@pytest.mark.parametrize(("name", "floor"), [("ring", 0.0014), ("grid", 0.0048)])
def test_the_floors_of_the_mixtures(name: str, floor: float) -> None:
    assert expected_kl_floor(len({"ring": RING, "grid": GRID}[name].centers), 2500) == pytest.approx(floor, abs=0.0002)


def test_the_floors_of_stacked_mnist() -> None:
    digits = torch.tensor(MNIST_DIGITS, dtype=torch.float64) / sum(MNIST_DIGITS)
    triples = torch.einsum("i,j,k->ijk", digits, digits, digits).flatten()
    assert expected_kl_floor(1000, 26_000) == pytest.approx(0.0193, abs=0.0003)
    assert expected_kl_floor(1000, 26_000, probabilities=triples) == pytest.approx(0.0236, abs=0.0003)


def test_draws_depend_on_the_seed_alone() -> None:
    first = kl_of_perfect_generators(10, 100, seed=1, draws=8)
    assert torch.equal(first, kl_of_perfect_generators(10, 100, seed=1, draws=8))
    assert torch.equal(first[:3], kl_of_perfect_generators(10, 100, seed=1, draws=3))
    assert not torch.equal(first, kl_of_perfect_generators(10, 100, seed=2, draws=8))
    assert len(first.unique()) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["ring", "grid"])
def test_a_perfect_generator_has_the_high_quality_share_of_a_gaussian(name: str, dtype: torch.dtype) -> None:
    centers, sigma = {"ring": RING, "grid": GRID}[name]
    count, expected = 50_000, 1.0 - math.exp(-4.5)
    x = points(name, count, dtype)
    labels, share = gaussian_modes(x, centers, sigma)
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / count) ** 0.5)
    assert float((labels >= 0).double().mean()) == share
    truth = PointSource(centers, sigma, seed=0, device=torch.device("cpu"), dtype=dtype).read(0, count)[1]
    assert torch.equal(labels[labels >= 0], truth[labels >= 0])
    assert torch.equal(nearest_modes(x, centers), truth)
    assert mode_statistics(labels, len(centers)).covered == len(centers)


def test_a_mode_counts_within_three_sigma_of_the_nearest_center() -> None:
    centers = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    x = torch.tensor([[0.29, 0.0], [0.31, 0.0], [0.0, -0.29], [0.22, 0.22], [4.2, 0.1], [2.1, 0.0]])
    labels, share = gaussian_modes(x, centers, 0.1)
    assert labels.tolist() == [0, -1, 0, -1, 1, -1]
    assert share == 0.5
    assert nearest_modes(x, centers).tolist() == [0, 0, 0, 0, 1, 1]
    assert mode_statistics(labels, 2).covered == 2


def test_many_points_are_treated_like_few() -> None:
    centers, sigma = GRID
    x = points("grid", 20_000)
    whole = gaussian_modes(x, centers, sigma)[0]
    parts = torch.cat([gaussian_modes(part, centers, sigma)[0] for part in x.split(777)])
    assert torch.equal(whole, parts)
