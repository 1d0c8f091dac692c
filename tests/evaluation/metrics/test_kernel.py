"""The kernel distance against other programs and a closed form; its error bar against the spread over data sets."""

import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_kid import kernel_mmd, kid_features_to_metric
from torchmetrics.image.kid import poly_mmd

from ganscale.evaluation.metrics.kernel import KernelDistance, kernel_distance
from ganscale.parallel.collectives import Replica
from ganscale.parallel.random import permutation
from tests.fleet import Fleet


def draw(count: int, seed: int, size: int = 8, shift: float = 0.0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def by_torch_fidelity(x: Tensor, y: Tensor) -> float:
    return float(kernel_mmd(x.numpy(), y.numpy()))


def by_torchmetrics(x: Tensor, y: Tensor) -> float:
    return float(poly_mmd(x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("other", [by_torch_fidelity, by_torchmetrics])
def test_other_programs_agree_on_the_same_subsets(other, dtype: torch.dtype) -> None:
    real, fake = draw(90, 1).to(dtype), draw(70, 2, shift=0.5).to(dtype)
    found = kernel_distance(real, fake, subsets=6, subset_size=40, seed=5)
    values = []
    for subset in range(6):
        x = real[permutation(5, f"kernel_distance/real/{subset}", 90)[:40]]
        y = fake[permutation(5, f"kernel_distance/fake/{subset}", 70)[:40]]
        values.append(other(x.double(), y.double()))
    assert found.value == pytest.approx(sum(values) / 6, rel=1e-6)


def test_torch_fidelity_agrees_on_whole_sets() -> None:
    """There every subset is the whole set, whoever draws it."""
    real, fake = draw(60, 3), draw(60, 4, shift=0.3)
    other = kid_features_to_metric(real, fake, kid_subsets=2, kid_subset_size=60, verbose=False)
    found = kernel_distance(real, fake, subsets=2, subset_size=60, seed=0)
    assert found.value == pytest.approx(other["kernel_inception_distance_mean"], rel=1e-6)


def test_subsets_are_drawn_without_replacement_from_all_samples() -> None:
    """Among zeros k is 1, as between 0 and 1; only two ones have k = 8: 2 of 90 pairs where both are in the subset."""
    real, fake = torch.zeros(20, 1), torch.zeros(20, 1)
    fake[13] = 1.0
    assert kernel_distance(real, fake, subsets=200, subset_size=10, seed=0).value == pytest.approx(0.0, abs=1e-12)
    fake[14] = 1.0
    values = [kernel_distance(real, fake, subsets=400, subset_size=10, seed=seed).value for seed in range(5)]
    expected = (10 / 20) * (9 / 19) * 7.0 * 2 / 90
    assert sum(values) / 5 == pytest.approx(expected, rel=0.1)
    assert len(set(values)) > 1, "the seed does not matter"
    assert kernel_distance(real, fake, subsets=400, subset_size=10, seed=0).value == values[0]


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("count", "subsets", "subset_size"), [(100, 2, 100), (1000, 2, 20), (400, 8, 100)])
def test_value_and_error_bar_in_one_dimension(shift: float, count: int, subsets: int, subset_size: int) -> None:
    """(xy + 1)^3 has the squared MMD (m3 - m3')^2 + 3 (m2 - m2')^2 + 3 (m1 - m1')^2 of the raw moments m."""
    exact = (shift**3 + 3 * shift) ** 2 + 3 * shift**4 + 3 * shift**2
    found = []
    for i in range(200):
        real, fake = draw(count, 2 * i, 1), draw(count, 2 * i + 1, 1, shift)
        found.append(kernel_distance(real, fake, subsets=subsets, subset_size=subset_size, seed=i))
    values = torch.tensor([f.value for f in found], dtype=torch.float64)
    errors = torch.tensor([f.standard_error for f in found], dtype=torch.float64)
    assert abs(values.mean() - exact) < 4 * values.std() / 200**0.5, "biased"
    assert values.min() < exact < values.max()
    assert errors.min() > 0.0, "second-order terms are there where the first-order ones vanish"
    assert 0.75 < float(errors.square().mean().sqrt() / values.std()) < 1.33


def test_more_samples_make_the_error_bar_smaller_and_more_subsets_only_to_a_point() -> None:
    def error(count: int, subsets: int) -> float:
        sides = draw(count, 1), draw(count, 2, shift=0.5)
        return kernel_distance(*sides, subsets=subsets, subset_size=50, seed=0).standard_error

    assert error(4000, 50) < 0.6 * error(400, 50)
    assert error(200, 400) > 0.5 * error(200, 50)


def _distance(real: Tensor, fake: Tensor) -> KernelDistance:
    return kernel_distance(real, fake, subsets=7, subset_size=50, seed=3, replica=Replica.current())


@pytest.mark.multiprocess
@pytest.mark.parametrize("world_size", [3])
def test_replicas_agree_with_one(fleet: Fleet, world_size: int) -> None:
    real, fake = draw(120, 5).float(), draw(150, 6, shift=0.2).float()
    alone = kernel_distance(real, fake, subsets=7, subset_size=50, seed=3)
    for found in fleet.run(_distance, world_size, real, fake):
        assert found.value == pytest.approx(alone.value, rel=1e-9)
        assert found.standard_error == pytest.approx(alone.standard_error, rel=1e-9)
