"""Mode statistics against hand counts and the published figures."""

import math

import pytest
import torch
from torch import Tensor

from ganscale.data import PointSource
from ganscale.data.gaussians import GRID, RING
from ganscale.evaluation.metrics.modes import gaussian_modes, mode_statistics, nearest_modes


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
