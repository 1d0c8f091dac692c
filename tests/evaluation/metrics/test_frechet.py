"""The Fréchet distance against other programs, closed forms, and features that leave directions without variance."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import _compute_fid

from ganscale.evaluation.metrics.frechet import Moments, frechet_distance, moments


def draw(count: int, size: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Correlated features with a mean, spread over two orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, size, generator=generator, dtype=torch.float64) * torch.logspace(-1, 1, size).double()
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5
    return (x @ mixing + torch.randn(size, generator=generator, dtype=torch.float64)).to(dtype)


def distance(real: Tensor, fake: Tensor) -> float:
    return frechet_distance(moments(real), moments(fake))


def by_scipy(real: Tensor, fake: Tensor) -> float:
    x, y = real.double().numpy(), fake.double().numpy()
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.real(np.asarray(scipy.linalg.sqrtm(a @ b)))
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2.0 * root))


def by_torch_fidelity(real: Tensor, fake: Tensor) -> float:
    statistics = [fid_features_to_statistics(side.double()) for side in (real, fake)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def by_torchmetrics(real: Tensor, fake: Tensor) -> float:
    x, y = real.double(), fake.double()
    return float(_compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("other", [by_scipy, by_torch_fidelity, by_torchmetrics])
@pytest.mark.parametrize(("count", "size"), [(300, 2), (500, 24), (5000, 64)])
def test_other_programs_agree(other, count: int, size: int, dtype: torch.dtype) -> None:
    real, fake = draw(count, size, 1, dtype), draw(count + 7, size, 2, dtype)
    assert distance(real, fake) == pytest.approx(other(real, fake), rel=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("count", [2, 9, 4096, 9001])
def test_moments_are_numpys_also_far_from_zero(count: int, offset: float) -> None:
    x = (draw(count, 5, 3) + offset).float()
    found = moments(x)
    wide = x.double().numpy()
    assert found.count == count
    assert found.mean.dtype == found.covariance.dtype == torch.float64
    torch.testing.assert_close(found.mean, torch.from_numpy(wide.mean(0)), rtol=1e-13, atol=0.0)
    torch.testing.assert_close(found.covariance, torch.from_numpy(np.cov(wide, rowvar=False)), rtol=1e-9, atol=1e-9)


def test_gaussians_with_common_axes() -> None:
    """There the distance is that of the means plus that of the standard deviations along each axis."""
    size = 40
    axes = torch.linalg.qr(draw(size, size, 4)).Q
    spreads = torch.linspace(0.0, 3.0, size).double(), torch.linspace(2.0, 0.0, size).double()
    means = draw(2, size, 5)
    sides = [Moments(9, m, axes @ (s**2).diag() @ axes.T) for m, s in zip(means, spreads, strict=True)]
    expected = (means[0] - means[1]).square().sum() + (spreads[0] - spreads[1]).square().sum()
    assert frechet_distance(*sides) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("count", "others"), [(2, 3), (20, 20), (20, 400), (400, 20)])
def test_fewer_samples_than_dimensions(count: int, others: int) -> None:
    """tr (C1 C2)^(1/2) is the sum of the singular values of the centered samples' products: an N x M matrix."""
    x, y = draw(count, 150, 6), draw(others, 150, 7)
    a, b = ((side - side.mean(0)) / (len(side) - 1) ** 0.5 for side in (x, y))
    overlap = torch.linalg.svdvals(a @ b.T).sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2.0 * overlap
    assert distance(x, y) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("count", [5, 200])
def test_equal_sets_have_distance_zero(count: int) -> None:
    x = draw(count, 60, 8)
    scale = float(moments(x).covariance.trace())
    assert 0.0 <= distance(x, x.flip(0)) < 1e-10 * scale


def test_samples_that_are_all_the_same() -> None:
    one, other = torch.ones(10, 4), torch.full((10, 4), 3.0)
    assert distance(one, other) == 16.0
    assert distance(one, one) == 0.0
    x = draw(50, 4, 9)
    expected = (x.mean(0) - 1.0).square().sum() + x.T.cov().trace()
    assert distance(x, one) == distance(one, x) == pytest.approx(float(expected), rel=1e-12)


def test_it_is_symmetric_and_scales_with_the_square_of_the_unit() -> None:
    x, y = draw(100, 10, 10), draw(90, 10, 11)
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-12)
    assert distance(1000.0 * x, 1000.0 * y) == pytest.approx(1e6 * distance(x, y), rel=1e-12)
