"""Memorization: distances and their rank statistic against scipy, copies and fresh examples through the evaluator."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu
from torch import Tensor, nn
from torch.testing import assert_close

from ganscale.config import ConfigError, load
from ganscale.data import ImageSource, mnist
from ganscale.data.images import normalize
from ganscale.data.source import Source
from ganscale.evaluation.evaluator import Evaluator
from ganscale.evaluation.metrics import memorization
from ganscale.evaluation.metrics.memorization import nearer_share, nearest_distances
from ganscale.evaluation.metrics.result import Score
from ganscale.parallel.replica import Replica

CPU = torch.device("cpu")


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorization, "_BLOCK", 7)


def drawn(count: int, seed: int, size: int = 5) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(3.0, 1.0, (count, size)).astype(np.float32))


@pytest.mark.usefixtures("_small_blocks")
def test_distances_are_those_of_scipy_and_copies_are_at_zero() -> None:
    training, examples = drawn(40, 0), torch.cat((drawn(20, 1), drawn(40, 0)[11:13]))
    found = nearest_distances(examples, training)
    assert_close(found, torch.from_numpy(cdist(examples, training).min(1)), rtol=1e-12, atol=1e-12)
    assert found[-2:].tolist() == [0.0, 0.0]


@pytest.mark.usefixtures("_small_blocks")
def test_an_example_of_the_training_set_may_leave_itself_out() -> None:
    training, own = drawn(15, 0), torch.tensor([14, 3, 7])
    expected = cdist(training, training)
    np.fill_diagonal(expected, np.inf)
    found = nearest_distances(training[own], training, own=own)
    assert_close(found, torch.from_numpy(expected.min(1)[own]), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("_small_blocks")
def test_replicas_share_the_training_set(monkeypatch: pytest.MonkeyPatch) -> None:
    training, examples = drawn(40, 0), drawn(20, 1)
    parts: list[Tensor] = []
    monkeypatch.setattr(memorization.dist, "all_reduce", lambda part, operation: parts.append(part))
    for rank in range(3):
        nearest_distances(examples, training, replica=Replica(rank, 3))
    assert torch.equal(torch.stack(parts).amin(0), nearest_distances(examples, training))
    assert not torch.equal(parts[0], parts[1])


def test_the_share_is_mann_and_whitneys_with_delongs_error() -> None:
    samples, held_out = (
        drawn(30, 0, 1).flatten().round(decimals=1),
        drawn(50, 1, 1).flatten().add(0.3).round(decimals=1),
    )
    value, error = nearer_share(samples, held_out)
    assert value == pytest.approx(mannwhitneyu(held_out, samples).statistic / (30 * 50), abs=1e-12)
    wins = np.array([[1.0 if s < h else 0.5 if s == h else 0.0 for h in held_out.tolist()] for s in samples.tolist()])
    distinct = len(set(held_out.tolist()))
    assert error == pytest.approx(np.sqrt(wins.mean(1).var(ddof=1) / 30 + wins.mean(0).var(ddof=1) / distinct))
    assert nearer_share(torch.zeros(9), torch.arange(1.0, 10.0)) == (1.0, 0.0)


def test_the_error_is_the_spread_over_draws() -> None:
    found = [nearer_share(drawn(80, 2 * n, 1).flatten(), drawn(60, 2 * n + 1, 1).flatten()) for n in range(200)]
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)
    assert values.mean() == pytest.approx(0.5, abs=4 * values.std() / 200**0.5)


class Shows(nn.Module):
    """Makes given images, one after the other."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.unused, self.images, self.at = nn.Parameter(torch.zeros(1)), images, 0

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        rows = torch.arange(self.at, self.at + len(z)) % len(self.images)
        self.at += len(z)
        return self.images[rows]


def judge(overrides: list[str], source: Source) -> Callable[[Tensor], Score]:
    config = load(overrides=["eval.metrics=memorization", *overrides])
    evaluator = Evaluator(config, source, device=CPU, replica=Replica())
    return lambda images: evaluator.evaluate(Shows(images), 0).scores["memorization"]


def digits(split: str, rows: slice) -> tuple[Tensor, Tensor]:
    images, labels = mnist.load_mnist(split)  # pyright: ignore[reportArgumentType]
    return images[rows], labels[rows]


@pytest.mark.parametrize("extractor", ["mnist", "pixels", "patches"])
def test_copies_of_digits_are_told_from_digits_that_were_never_trained_on(extractor: str) -> None:
    source = ImageSource(*digits("train", slice(3000)), 10, seed=0, device=CPU)
    score = judge(["eval.num_samples=500", f"eval.extractor={extractor}", "eval.seed=5"], source)
    training, held_out = (
        normalize(source.images[:1500], torch.float32),
        normalize(digits("train", slice(20_000, 20_500))[0], torch.float32),
    )
    noise = 0.02 * torch.randn(500, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    fresh, copies, near = score(held_out), score(training[::3]), score(training[1::3] + noise)
    half = score(torch.cat((training[2::6], held_out[:250])))
    assert fresh.error is not None
    assert abs(fresh.value - 0.5) < 4 * fresh.error < 0.1
    assert abs(fresh.floor - 0.5) < 8 * fresh.error
    assert copies.value > 0.99
    assert near.value > 0.95
    assert half.value == pytest.approx((copies.value + fresh.value) / 2, abs=0.05)
    assert half.error is not None
    assert half.value - half.floor > 4 * half.error


def scenes(count: int, seed: int) -> Tensor:
    """Colored rectangles as bytes, `[N, 3, 32, 32]`."""
    random = np.random.default_rng(seed)
    images = np.zeros((count, 3, 32, 32), np.uint8)
    for image in images:
        for _ in range(3):
            top, left, height, width = random.integers(0, 16, 4)
            image[:, top : top + height + 8, left : left + width + 8] = random.integers(0, 256, (3, 1, 1))
    return torch.from_numpy(images)


@pytest.mark.parametrize("mirror", [False, True])
def test_pictures_without_held_out_ones_are_compared_with_each_other(mirror: bool) -> None:
    pictures = scenes(400, 11)
    source = ImageSource(pictures, torch.zeros(400, dtype=torch.int64), 0, seed=0, device=CPU)
    overrides = ["data.name=folder", "data.path=x", "data.resolution=32", "eval.extractor=patches"]
    score = judge([*overrides, f"data.mirror={mirror}", "eval.num_samples=150"], source)
    fresh, copies = score(normalize(scenes(150, 12), torch.float32)), normalize(pictures, torch.float32)
    assert fresh.error is not None
    assert abs(fresh.value - 0.5) < 4 * fresh.error < 0.2
    assert abs(fresh.floor - 0.5) < 8 * fresh.error
    assert score(copies[::2]).value > 0.99, "copies of pictures that are not among twice as many as samples, too"
    assert (score(copies[::2].flip(3)).value > 0.99) == mirror


def test_points_have_no_training_set() -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides=["data.name=ring", "model.latent_dim=2", "eval.metrics=memorization"])
    assert caught.value.key == "eval.metrics"


def test_no_checkpoint_is_chosen_by_it() -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides=["eval.metrics=[frechet, memorization]", "checkpoint.best_metric=memorization"])
    assert (caught.value.key, caught.value.remedy) == ("checkpoint.best_metric", "use frechet")
