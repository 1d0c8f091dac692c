"""Precision, recall, density and coverage against brute force, other programs, and expectations."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch_fidelity.metric_prc import prc_features_to_metric

from ganscale.evaluation.metrics import manifold
from ganscale.evaluation.metrics.manifold import ManifoldScores, manifold_scores
from ganscale.parallel.collectives import Replica
from tests.fleet import Fleet


def draw(count: int, size: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) + shift


def brute_force(real: Tensor, fake: Tensor, precision_k: int = 3, density_k: int = 5) -> ManifoldScores:
    """By the definitions, on all squared differences at once: exact where features are small whole numbers."""

    def squared(x: Tensor, y: Tensor) -> Tensor:
        return (x.double()[:, None] - y.double()).square().sum(2)

    def radius(x: Tensor, k: int) -> Tensor:
        others = squared(x, x).fill_diagonal_(float("inf"))
        return others.sort(1).values[:, k - 1]

    across = squared(real, fake)
    inside = across <= radius(real, density_k)[:, None]
    return ManifoldScores(
        precision=float((across <= radius(real, precision_k)[:, None]).any(0).double().mean()),
        recall=float((across <= radius(fake, precision_k)).any(1).double().mean()),
        density=int(inside.sum()) / (density_k * len(fake)),
        coverage=float(inside.any(1).double().mean()),
    )


def assert_same(found: ManifoldScores, expected: ManifoldScores) -> None:
    assert vars(found) == pytest.approx(vars(expected), rel=1e-12)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few samples make many blocks, the last ones smaller than k."""
    monkeypatch.setattr(manifold, "_BLOCK", 16)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("num_real", "num_fake"), [(90, 90), (97, 33), (6, 129), (64, 16)])
@pytest.mark.parametrize("size", [1, 2, 30])
def test_brute_force_agrees(num_real: int, num_fake: int, size: int) -> None:
    for seed in range(3):
        real, fake = draw(num_real, size, seed), draw(num_fake, size, seed + 10, shift=0.4)
        assert_same(manifold_scores(real, fake), brute_force(real, fake))
        assert_same(manifold_scores(real, fake, precision_k=4, density_k=1), brute_force(real, fake, 4, 1))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1.0, 1e9), (1 / 3, 0.0)])
def test_samples_on_the_surface_of_a_ball_are_inside(offset: float, scale: float) -> None:
    """Among small whole numbers most radii are met exactly by others; neither a factor nor an offset moves any out."""
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        real, fake = (torch.randint(0, 3, (70, 6), generator=generator).double() for _ in range(2))
        found = manifold_scores(real * scale + offset, fake * scale + offset)
        assert_same(found, brute_force(real, fake))


@pytest.mark.parametrize("count", [300, 1500])
def test_torch_fidelity_agrees(count: int) -> None:
    real, fake = draw(count, 16, 1), draw(count - 9, 16, 2, shift=0.2)
    other = prc_features_to_metric(fake.double(), real.double(), prc_neighborhood=3, verbose=False)
    found = manifold_scores(real, fake)
    assert (found.precision, found.recall) == pytest.approx((other["precision"], other["recall"]), rel=1e-6)


def test_each_pair_has_its_own_k() -> None:
    real, fake = draw(60, 5, 1), draw(50, 5, 2, shift=0.5)
    assert_same(manifold_scores(real, fake, precision_k=5, density_k=3), brute_force(real, fake, 5, 3))


def test_equal_distributions_score_as_theory_has_it() -> None:
    """E density = 1, and E coverage = 1 - (N-1)...(N-k) / (2N-1)...(2N-k) (Naeem et al. 2020, section 3.3)."""
    count, missed = 3000, 1.0
    for j in range(1, 6):
        missed *= (count - j) / (2 * count - j)
    found = [manifold_scores(draw(count, 6, 2 * i), draw(count, 6, 2 * i + 1)) for i in range(2)]
    assert sum(scores.density for scores in found) / 2 == pytest.approx(1.0, abs=0.03)
    assert sum(scores.coverage for scores in found) / 2 == pytest.approx(1.0 - missed, abs=0.01)


def test_copies_and_repetitions() -> None:
    """A copy of the real set scores 1, k + 1 samples in each ball; one repeated sample is precise and covers little."""
    real = draw(200, 40, 1)
    assert_same(manifold_scores(real, real.flip(0)), ManifoldScores(1.0, 1.0, 6 / 5, 1.0))
    repeated = manifold_scores(real, real[:1].expand(100, 40))
    assert repeated.precision == 1.0
    assert repeated.recall == 1 / 200
    assert repeated.coverage < 0.5
    far = manifold_scores(real, draw(100, 40, 2, shift=50.0))
    assert_same(far, ManifoldScores(0.0, 0.0, 0.0, 0.0))
    constant = manifold_scores(torch.ones(20, 3), torch.ones(10, 3))
    assert_same(constant, ManifoldScores(1.0, 1.0, 20 / 5, 1.0))


class _Largest(TorchDispatchMode):
    """Notes the most numbers that any tensor has."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.size = max(self.size, result.numel())
        return result


@pytest.mark.usefixtures("small_blocks")
def test_no_matrix_is_larger_than_a_block() -> None:
    with _Largest() as largest:
        manifold_scores(draw(300, 3, 1), draw(280, 3, 2))
    assert 16 * 16 <= largest.size <= 300 * 3


def _scores(real: Tensor, fake: Tensor) -> ManifoldScores:
    return manifold_scores(real, fake, replica=Replica.current())


def _scores_of_the_first_alone(real: Tensor, fake: Tensor) -> ManifoldScores | None:
    return manifold_scores(real, fake) if Replica.current().is_rank_zero else None


@pytest.mark.multiprocess
@pytest.mark.parametrize("world_size", [2, 4])
def test_replicas_agree_with_one_exactly(fleet: Fleet, world_size: int) -> None:
    """Three blocks of real and two of fake samples: uneven shares, and at four replicas an idle one."""
    real, fake = draw(2500, 24, 1), draw(1700, 24, 2, shift=0.1)
    alone = manifold_scores(real, fake)
    assert 0.0 < alone.precision < 1.0
    assert fleet.run(_scores, world_size, real, fake) == [alone] * world_size


@pytest.mark.multiprocess
def test_one_replica_may_compute_while_the_others_do_not(fleet: Fleet) -> None:
    real, fake = draw(50, 4, 1), draw(60, 4, 2)
    first, second = fleet.run(_scores_of_the_first_alone, 2, real, fake)
    assert first == manifold_scores(real, fake)
    assert second is None
