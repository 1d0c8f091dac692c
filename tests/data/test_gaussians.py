"""The 2-D benchmarks: centers, spread, and addressing by position."""

import math

import pytest
import torch

from ganscale.config import DATASETS
from ganscale.config.table import resolve
from ganscale.data import PointSource
from ganscale.data.gaussians import grid, ring


def source(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> PointSource:
    centers, sigma = resolve(DATASETS[name].mixture)
    return PointSource(centers, sigma, seed=seed, device=torch.device("cpu"), dtype=dtype)


def test_ring_centers() -> None:
    centers = ring()
    torch.testing.assert_close(centers.norm(dim=1), torch.ones(8, dtype=torch.float64))
    half = math.sqrt(0.5)
    expected = [[1, 0], [half, half], [0, 1], [-half, half], [-1, 0], [-half, -half], [0, -1], [half, -half]]
    torch.testing.assert_close(centers, torch.tensor(expected, dtype=torch.float64))


def test_grid_centers() -> None:
    assert {tuple(row) for row in grid().tolist()} == {(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)}


@pytest.mark.parametrize(("name", "modes", "sigma"), [("ring", 8, 0.01), ("grid", 25, 0.05)])
def test_points_are_evenly_on_modes_with_the_right_spread(name: str, modes: int, sigma: float) -> None:
    points = source(name)
    assert points.num_classes == modes
    x, labels = points.read(0, 50_000)
    assert x.shape == (50_000, 2)
    counts = torch.bincount(labels, minlength=modes)
    chi_square = ((counts - 50_000 / modes).square() / (50_000 / modes)).sum().item()
    assert chi_square < modes - 1 + 4 * math.sqrt(2 * (modes - 1))
    noise = x - points.centers[labels]
    assert noise.mean(0).abs().max() < 4 * sigma / math.sqrt(50_000)
    torch.testing.assert_close(noise.T.cov() / sigma**2, torch.eye(2).double(), rtol=0.0, atol=0.03)
    assert noise.abs().max() < 6 * sigma
    for mode in range(modes):
        assert noise[labels == mode].std().item() == pytest.approx(sigma, rel=0.05), "noise depends on the mode"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["ring", "grid"])
def test_position_alone_decides(name: str, dtype: torch.dtype) -> None:
    whole, labels = source(name, dtype=dtype).read(0, 60)
    used = source(name, dtype=dtype)
    for start, stop in [(0, 1), (7, 20), (59, 60), (3, 50)]:
        x, modes = used.read(start, stop)
        assert x.dtype == dtype
        assert torch.equal(x, whole[start:stop])
        assert torch.equal(modes, labels[start:stop])
    assert not torch.equal(source(name, seed=1, dtype=dtype).read(0, 60)[0], whole)
    assert not torch.equal(used.read(60, 120)[0], whole)
